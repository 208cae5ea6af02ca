"""`Share` and small control blobs to bytes and back: little-endian, versioned, checksummed, never pickle.

A share travels as one header frame followed by chunk frames of whole rows, so that a tree of parties can add
and forward the first rows while the last ones are still on their way:

    header  magic 4s | version u16 | kind u16 | frame length u32 | parameters digest 16s
            dtype u8 | name length u8 | instance length u8 | 0 u8 | parties u32 | rows u32 | columns u32
            instance 32s | protocol name | contributors, one bit per party | one modulus u64 per row (0: none)
            CRC-32 of all the above, u32
    chunk   CRC-32 u32 of what follows | chunk number u32 | rows, 8 bytes per entry

The length of every frame follows from (protocol, n_rows, n_columns, n_parties) alone: traffic can be predicted
exactly, and tells an observer nothing more. A checksum finds accidents, not attackers; an authenticated channel
is another layer.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import IntEnum
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.errors import CodecError, KeyMismatchError
from mhe.share import Rows, Share, check_reduced

Frame = npt.NDArray[np.uint8]
"""One message of a channel: a one-dimensional uint8 array."""

VERSION = 1
DIGEST_BYTES = 16
INSTANCE_BYTES = 32
"""Longest instance digest; shorter ones are padded, so that the length of a header does not depend on it."""

CHUNK_BYTES = 1 << 20
"""Rows are cut into chunks of at most this size (but of at least one row)."""

ENTRY_BYTES = 8

_MAGIC = b"MHE\xce"
_PREFIX = struct.Struct(f"<4sHHI{DIGEST_BYTES}s")
_SHARE = struct.Struct(f"<BBBxIII{INSTANCE_BYTES}s")
_BLOB_COUNT = struct.Struct("<I")
_BLOB = struct.Struct("<II")
_CHUNK = struct.Struct("<II")
_CHECKSUM = struct.Struct("<I")
_DTYPES: Mapping[int, np.dtype[Any]] = {1: np.dtype("<u8"), 2: np.dtype("<f8")}
_RESEND = "send it again; if it happens again, check the network and the memory"


class Kind(IntEnum):
    """What a sealed frame holds."""

    SHARE = 1
    BLOBS = 2


# Exact sizes


def header_bytes(protocol: str, n_rows: int, n_parties: int) -> int:
    """Bytes of the header frame of a share."""
    body = _SHARE.size + len(protocol.encode()) + _bitmap_bytes(n_parties) + ENTRY_BYTES * n_rows
    return _PREFIX.size + body + _CHECKSUM.size


def message_bytes(protocol: str, n_rows: int, n_columns: int, n_parties: int) -> int:
    """Bytes of a whole share message, header and all chunks: what one edge of the tree carries."""
    n_chunks = -(-n_rows // _chunk_height(n_columns))
    return header_bytes(protocol, n_rows, n_parties) + n_chunks * _CHUNK.size + ENTRY_BYTES * n_rows * n_columns


def blob_bytes(lengths: Sequence[int]) -> int:
    """Bytes of one message that carries blobs of these lengths."""
    return _PREFIX.size + _BLOB_COUNT.size + _BLOB.size * len(lengths) + sum(lengths) + _CHECKSUM.size


def chunks(n_rows: int, n_columns: int) -> list[slice]:
    """Which rows each chunk of an (n_rows, n_columns) share holds, in the order sent."""
    height = _chunk_height(n_columns)
    return [slice(i, min(i + height, n_rows)) for i in range(0, n_rows, height)]


def chunk_count(n_rows: int, n_columns: int) -> int:
    """How many `chunks` there are."""
    return -(-n_rows // _chunk_height(n_columns))


# Shares


def encode(share: Share, digest: bytes, n_parties: int) -> Iterator[Frame]:
    """The frames of a share: its header, then its chunks."""
    yield encode_header(share, digest, n_parties)
    for index, part in enumerate(chunks(*share.rows.shape)):
        yield encode_chunk(index, share.rows[part])


def decode(frames: Iterable[Frame], digest: bytes, n_parties: int) -> Share:
    """The share in these frames; takes no more of them than it needs.

    Raises CodecError (truncated, corrupted, other version or number of parties), KeyMismatchError (other
    parameters) or ShareError (residues not below their modulus).
    """
    source = iter(frames)
    head = decode_header(_next(source), digest, n_parties)
    rows: Rows = np.empty_like(head.rows, order="C", subok=False)
    for index, part in enumerate(chunks(*rows.shape)):
        rows[part] = decode_chunk(_next(source), index, head).rows
    return replace(head, rows=rows)


def to_bytes(share: Share, digest: bytes, n_parties: int) -> bytes:
    """The frames of a share in one string, for example to keep it in a file."""
    return b"".join(frame.tobytes() for frame in encode(share, digest, n_parties))


def from_bytes(data: bytes, digest: bytes, n_parties: int) -> Share:
    """Inverse of `to_bytes`; raises like `decode`."""
    frames = _split(data, digest, n_parties)
    share = decode(frames, digest, n_parties)
    if sum(1 for _ in frames):
        raise CodecError(f"message of {len(data)} bytes goes on after its last chunk; need one share and nothing else")
    return share


def encode_header(share: Share, digest: bytes, n_parties: int) -> Frame:
    """The header frame of a share. Raises CodecError if the share does not fit the format."""
    name = share.protocol.encode()
    code = next((code for code, dtype in _DTYPES.items() if dtype == share.rows.dtype), None)
    foreign = sorted(rank for rank in share.contributors if not 0 <= rank < n_parties)
    if code is None:
        raise CodecError(f"{share.protocol}: rows are {share.rows.dtype}; need uint64 or float64")
    if len(name) > 255 or len(share.instance) > INSTANCE_BYTES:
        raise CodecError(
            f"protocol name of {len(name)} and instance of {len(share.instance)} bytes; "
            f"need at most 255 and {INSTANCE_BYTES}: use a digest"
        )
    if foreign:
        raise CodecError(f"{share!r}: contributors {foreign} are foreign; need ranks below {n_parties}, the parties")
    n_rows, n_columns = share.rows.shape
    present = np.zeros(n_parties, dtype=np.uint8)
    present[list(share.contributors)] = 1
    moduli = np.array(share.moduli or [0] * n_rows, dtype="<u8")
    fixed = _SHARE.pack(code, len(name), len(share.instance), n_parties, n_rows, n_columns, share.instance)
    bitmap = np.packbits(present, bitorder="little").tobytes()
    return _seal(Kind.SHARE, digest, fixed + name + bitmap + moduli.tobytes())


def decode_header(frame: Frame, digest: bytes, n_parties: int) -> Share:
    """The share that a header frame announces; its rows are all zero and take no memory until the chunks arrive.

    Raises CodecError or KeyMismatchError.
    """
    body = _unseal(frame, Kind.SHARE, digest)
    if len(body) < _SHARE.size:
        raise CodecError(f"share header of {len(body)} bytes; need at least {_SHARE.size}: {_RESEND}")
    code, name_length, instance_length, parties, n_rows, n_columns, padded = _SHARE.unpack_from(body)
    if parties != n_parties:
        raise CodecError(f"message of a job of {parties} parties; this one has {n_parties}: start all with one config")
    ends = np.cumsum([_SHARE.size, name_length, _bitmap_bytes(parties), ENTRY_BYTES * n_rows]).tolist()
    if len(body) != ends[-1] or code not in _DTYPES or instance_length > INSTANCE_BYTES:
        raise CodecError(f"share header of {len(body)} bytes; its fields need {ends[-1]}, or are unknown: {_RESEND}")
    name, bitmap, moduli = (body[a:b] for a, b in pairwise(ends))
    present = np.flatnonzero(np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")).tolist()
    values = tuple(np.frombuffer(moduli, "<u8").tolist())
    if any(rank >= parties for rank in present) or (0 in values and any(values)):
        raise CodecError(f"share header names contributors {present} or moduli that cannot be: {_RESEND}")
    rows: Rows = np.broadcast_to(np.zeros((), _DTYPES[code]), (n_rows, n_columns))
    known = values if any(values) else ()
    return Share(_text(name), padded[:instance_length], frozenset(present), known, rows)


def encode_chunk(index: int, rows: Rows) -> Frame:
    """One chunk frame: a copy of these rows under a checksum."""
    frame = np.empty(_CHUNK.size + ENTRY_BYTES * rows.size, dtype=np.uint8)
    frame[_CHUNK.size :].view(rows.dtype.newbyteorder("<")).reshape(rows.shape)[...] = rows
    _CHUNK.pack_into(frame.data, 0, 0, index)
    _CHECKSUM.pack_into(frame.data, 0, zlib.crc32(frame.data[_CHECKSUM.size :]))
    return frame


def decode_chunk(frame: Frame, index: int, head: Share) -> Share:
    """The rows of chunk `index` of the share announced by `head`, as a share of just those rows.

    Its rows are a view of the frame. Raises CodecError, or ShareError if a residue is not below its modulus.
    """
    n_rows, n_columns = head.rows.shape
    height = _chunk_height(n_columns)
    part = slice(index * height, min((index + 1) * height, n_rows))
    shape = (part.stop - part.start, n_columns)
    needed = _CHUNK.size + ENTRY_BYTES * shape[0] * shape[1]
    if len(frame) != needed:
        raise CodecError(f"{head.protocol}: chunk {index} of {len(frame)} bytes; need {needed}: {_RESEND}")
    checksum, number = _CHUNK.unpack_from(frame.data)
    if zlib.crc32(frame.data[_CHECKSUM.size :]) != checksum:
        raise CodecError(f"{head.protocol}: chunk {index} does not match its checksum: {_RESEND}")
    if number != index:
        raise CodecError(f"{head.protocol}: got chunk {number}, need {index}; the parties are out of step")
    dtype: np.dtype[Any] = head.rows.dtype
    share = replace(head, moduli=head.moduli[part], rows=frame[_CHUNK.size :].view(dtype).reshape(shape))
    check_reduced(share)
    return share


# Blobs


def encode_blobs(blobs: Mapping[int, bytes], digest: bytes) -> Frame:
    """One frame with the small blobs of some parties, by rank."""
    lengths = b"".join(_BLOB.pack(rank, len(blob)) for rank, blob in blobs.items())
    return _seal(Kind.BLOBS, digest, _BLOB_COUNT.pack(len(blobs)) + lengths + b"".join(blobs.values()))


def decode_blobs(frame: Frame, digest: bytes) -> dict[int, bytes]:
    """Inverse of `encode_blobs`. Raises CodecError or KeyMismatchError."""
    body = _unseal(frame, Kind.BLOBS, digest)
    count = _BLOB_COUNT.unpack_from(body)[0] if len(body) >= _BLOB_COUNT.size else 0
    start = _BLOB_COUNT.size + _BLOB.size * count
    entries = list(_BLOB.iter_unpack(body[_BLOB_COUNT.size : start])) if len(body) >= start else []
    blobs = {}
    for rank, length in entries:
        blobs[rank] = body[start : start + length]
        start += length
    if start != len(body) or len(blobs) != count:
        raise CodecError(f"blob message of {len(body)} bytes; its {count} entries need {start}: {_RESEND}")
    return blobs


# Frames with a prefix and a checksum


def _seal(kind: Kind, digest: bytes, body: bytes) -> Frame:
    _check_digest(digest)
    length = _PREFIX.size + len(body) + _CHECKSUM.size
    data = _PREFIX.pack(_MAGIC, VERSION, kind, length, digest) + body
    return np.frombuffer(data + _CHECKSUM.pack(zlib.crc32(data)), dtype=np.uint8)


def _unseal(frame: Frame, kind: Kind, digest: bytes) -> bytes:
    _check_digest(digest)
    data = frame.tobytes()
    if len(data) < _PREFIX.size + _CHECKSUM.size:
        raise CodecError(f"message of {len(data)} bytes; need at least {_PREFIX.size + _CHECKSUM.size}: {_RESEND}")
    magic, version, got_kind, length, got_digest = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise CodecError(f"message begins with {magic.hex()}; need {_MAGIC.hex()}: the parties are out of step")
    if version != VERSION:
        raise CodecError(f"message of format version {version}; this party reads {VERSION}: install the same release")
    if length != len(data):
        raise CodecError(f"message of {len(data)} bytes; its header says {length}: {_RESEND}")
    if zlib.crc32(data[: -_CHECKSUM.size]) != _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0]:
        raise CodecError(f"message of {len(data)} bytes does not match its checksum: {_RESEND}")
    if got_digest != digest:
        raise KeyMismatchError(
            f"message under parameters {got_digest.hex()}; this party has {digest.hex()}: "
            "give every party the same parameters"
        )
    if got_kind != kind:
        raise CodecError(f"message of kind {got_kind}; need {kind} ({kind.name}): the parties are out of step")
    return data[_PREFIX.size : -_CHECKSUM.size]


def _check_digest(digest: bytes) -> None:
    if len(digest) != DIGEST_BYTES:
        raise CodecError(f"parameters digest of {len(digest)} bytes; need {DIGEST_BYTES}: use Parameters.digest")


def _split(data: bytes, digest: bytes, n_parties: int) -> Iterator[Frame]:
    """Cut a string into frames; what is left over at the end comes as one more."""
    length = _PREFIX.unpack_from(data)[3] if len(data) >= _PREFIX.size else len(data)
    frame = np.frombuffer(data[:length], dtype=np.uint8)
    yield frame
    n_rows, n_columns = decode_header(frame, digest, n_parties).rows.shape
    for part in chunks(n_rows, n_columns):
        start, length = length, length + _CHUNK.size + ENTRY_BYTES * n_columns * (part.stop - part.start)
        yield np.frombuffer(data[start:length], dtype=np.uint8)
    if data[length:]:
        yield np.frombuffer(data[length:], dtype=np.uint8)


def _next(frames: Iterator[Frame]) -> Frame:
    frame = next(frames, None)
    if frame is None:
        raise CodecError(f"message ends before its last chunk: {_RESEND}")
    return frame


def _chunk_height(n_columns: int) -> int:
    return max(1, CHUNK_BYTES // max(1, ENTRY_BYTES * n_columns))


def _bitmap_bytes(n_parties: int) -> int:
    return -(-n_parties // 8)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CodecError(f"protocol name {data!r} is not UTF-8: {_RESEND}") from error
