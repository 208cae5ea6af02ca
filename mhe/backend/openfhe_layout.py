"""Where OpenFHE's binary serialisation keeps ring elements. Pure byte work: openfhe itself is not imported.

A row (the residues of one ring element modulo one prime) is serialised as

    ring_dim (uint64) | ring_dim residues (uint64, little-endian) | the modulus (uint64)

so rows are found by that frame and never by a fixed offset. Everything around the rows (parameters, key tag, scale
degree) is kept as it was in a template object of the same kind. Rows of a ciphertext: c0's limbs, then c1's. Rows of
an evaluation key: vector A, then vector B; each digit by digit, each digit's limbs Q then P.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mhe.errors import BackendError

TEMPLATE_TAG = "mhe-template-key-tag"
"""Key tag of template objects; `Template.fill` puts the real key's tag in its place."""

_WORD = struct.Struct("<Q")
_MAP_ENTRY = struct.Struct("<QI")  # an automorphism key map begins with its length and the first index
_MAP_PREFIX = 64  # the map's length stands within this many first bytes, before any name or parameter


def _tag_bytes(tag: str) -> bytes:
    encoded = tag.encode()
    return _WORD.pack(len(encoded)) + encoded


def find_rows(blob: bytes, ring_dim: int, moduli: frozenset[int]) -> list[tuple[int, int]]:
    """(offset of the first residue, modulus) of every row in `blob`, in order."""
    frame = _WORD.pack(ring_dim)
    length = 8 * ring_dim
    rows: list[tuple[int, int]] = []
    at = blob.find(frame)
    while at >= 0:
        end = at + 8 + length
        if end + 8 > len(blob):
            break
        (modulus,) = _WORD.unpack_from(blob, end)
        if modulus in moduli:
            rows.append((at + 8, modulus))
            at = blob.find(frame, end + 8)
        else:
            at = blob.find(frame, at + 1)
    return rows


def find_moduli(blob: bytes, ring_dim: int) -> tuple[int, ...]:
    """The moduli of all rows in `blob`, in order, when they are not known beforehand.

    A modulus is recognised as a number that is 1 modulo 2 ring_dim, of at most 61 bits, behind a row's frame.
    """
    frame = _WORD.pack(ring_dim)
    found: list[int] = []
    at = blob.find(frame)
    while at >= 0 and at + 16 + 8 * ring_dim <= len(blob):
        end = at + 8 + 8 * ring_dim
        (modulus,) = _WORD.unpack_from(blob, end)
        residues = np.frombuffer(blob, dtype="<u8", count=ring_dim, offset=at + 8)
        if modulus >> 61 == 0 and modulus % (2 * ring_dim) == 1 and int(residues.max()) < modulus:
            found.append(modulus)
            at = blob.find(frame, end + 8)
        else:
            at = blob.find(frame, at + 1)
    return tuple(found)


def read_rows(blob: bytes, ring_dim: int, moduli: Sequence[int]) -> npt.NDArray[np.uint64]:
    """The rows of `blob` as a fresh array (rows, ring_dim); BackendError unless their moduli are exactly `moduli`."""
    rows = find_rows(blob, ring_dim, frozenset(moduli))
    if [modulus for _, modulus in rows] != list(moduli):
        raise BackendError(
            f"OpenFHE serialised {len(rows)} rows where {len(moduli)} were expected, or modulo other primes; "
            "its layout differs from the pinned version's: install the pinned version"
        )
    out = np.empty((len(rows), ring_dim), dtype=np.uint64)
    for i, (offset, _) in enumerate(rows):
        out[i] = np.frombuffer(blob, dtype="<u8", count=ring_dim, offset=offset)
    return out


@dataclass(frozen=True, eq=False)
class Template:
    """A serialised object with its rows cut out.

    pieces: the bytes before, between and after the rows: one more than there are rows.
    moduli: the modulus of every row, in order.
    index: the automorphism index in the first piece, or None for an object that is no key map.
    """

    pieces: tuple[bytes, ...]
    moduli: tuple[int, ...]
    index: int | None = None

    def fill(self, parts: Iterable[npt.NDArray[np.uint64]], tag: str, index: int | None = None) -> bytes:
        """The serialised object with the rows of `parts` (each (..., ring_dim), in order) under key tag `tag`.

        One copy of the rows is made. Raises BackendError when their number is not the template's.
        """
        rows = [row for part in parts for row in part.reshape(-1, part.shape[-1])]
        if len(rows) != len(self.moduli):
            raise BackendError(f"{len(rows)} rows for a template of {len(self.moduli)}; the parameters differ")
        old, new = _tag_bytes(TEMPLATE_TAG), _tag_bytes(tag)
        pieces = [piece.replace(old, new) for piece in self.pieces]
        if self.index is not None and index is not None:
            pieces[0] = pieces[0].replace(_MAP_ENTRY.pack(1, self.index), _MAP_ENTRY.pack(1, index), 1)
        chunks: list[bytes | memoryview] = [pieces[0]]
        for row, piece in zip(rows, pieces[1:], strict=True):
            chunks += (np.ascontiguousarray(row, dtype="<u8").data, piece)
        return b"".join(chunks)


def cut(blob: bytes, ring_dim: int, moduli: Sequence[int], index: int | None = None) -> Template:
    """The template of a serialised object whose rows are modulo `moduli`, in that order.

    Raises BackendError when the rows, the one key tag or the one automorphism index are not found as expected.
    """
    rows = find_rows(blob, ring_dim, frozenset(moduli))
    if [modulus for _, modulus in rows] != list(moduli):
        raise BackendError(f"found {len(rows)} rows in an OpenFHE object that should have {len(moduli)}")
    edges = [0]
    for offset, _ in rows:
        edges += (offset, offset + 8 * ring_dim)
    edges.append(len(blob))
    pieces = tuple(blob[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True))
    if sum(piece.count(_tag_bytes(TEMPLATE_TAG)) for piece in pieces) != 1:
        raise BackendError("an OpenFHE object does not hold its key tag exactly once")
    if index is not None and pieces[0][:_MAP_PREFIX].count(_MAP_ENTRY.pack(1, index)) != 1:
        raise BackendError("an OpenFHE key map does not begin with its automorphism index")
    return Template(pieces, tuple(moduli), index)
