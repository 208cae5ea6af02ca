"""Files: a JSON header and named arrays in one string of bytes, versioned and checksummed, never pickle.

    magic 4s | version u16 | 0 u16 | header length u32 | header (JSON, UTF-8) | arrays, one after another | SHA-256

The header names the kind of file and, for each array, its name, type and shape; arrays are little-endian, in C order.
The checksum finds accidents, not attackers.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.ciphertext import RingCiphertext
from mhe.errors import CodecError, MHEError, ParameterError
from mhe.parameters import Parameters

VERSION = 1
PUBLIC_MODE = 0o644
PRIVATE_MODE = 0o600

_MAGIC = b"MHE\xcf"
_PREFIX = struct.Struct("<4sHHI")
_DTYPES: Mapping[str, np.dtype[Any]] = {
    "u8": np.dtype("<u8"),
    "f8": np.dtype("<f8"),
    "i1": np.dtype("i1"),
    "u1": np.dtype("u1"),
}
_CHECKSUM_BYTES = 32
_LARGEST_AXIS = 1 << 32

Array = npt.NDArray[Any]
Residues = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Container:
    """The content of a file. kind: what it is. header: JSON values. arrays: of the types u8, f8, i1, u1."""

    kind: str
    header: Mapping[str, Any]
    arrays: Mapping[str, Array]

    def to_bytes(self) -> bytes:
        listed, parts = [], []
        for name, array in self.arrays.items():
            code = next(code for code, dtype in _DTYPES.items() if dtype == array.dtype)
            listed.append([name, code, list(array.shape)])
            parts.append(np.ascontiguousarray(array).tobytes())
        text = json.dumps({"kind": self.kind, "header": dict(self.header), "arrays": listed}).encode()
        data = b"".join([_PREFIX.pack(_MAGIC, VERSION, 0, len(text)), text, *parts])
        return data + hashlib.sha256(data).digest()

    @classmethod
    def from_bytes(cls, data: bytes, kind: str, name: str) -> Container:
        """Inverse of `to_bytes`. name: of the file, for messages. Raises CodecError."""
        if len(data) < _PREFIX.size + _CHECKSUM_BYTES or data[: len(_MAGIC)] != _MAGIC:
            raise CodecError(f"{name}: is no file of this program; need one of kind {kind!r}")
        _, version, _, length = _PREFIX.unpack_from(data)
        if version != VERSION:
            raise CodecError(f"{name}: has format version {version}; this release reads {VERSION}: use that one's")
        body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if hashlib.sha256(body).digest() != checksum:
            raise CodecError(f"{name}: does not match its checksum, it is truncated or damaged; fetch it again")
        try:
            content = json.loads(body[_PREFIX.size : _PREFIX.size + length])
            found, header = content["kind"], content["header"]
            arrays, at = {}, _PREFIX.size + length
            for array_name, code, shape in content["arrays"]:
                dtype = _DTYPES[code]
                if not all(isinstance(n, int) and 0 <= n < _LARGEST_AXIS for n in shape):
                    raise ValueError(shape)
                size = int(np.prod(shape, dtype=object)) if shape else 1
                arrays[array_name] = np.frombuffer(body, dtype=dtype, count=size, offset=at).reshape(shape)
                at += size * dtype.itemsize
        except (ValueError, KeyError, TypeError) as error:
            raise CodecError(f"{name}: its header does not describe its content ({error}); make it anew") from None
        if found != kind:
            raise CodecError(f"{name}: is a file of kind {found!r}; need {kind!r}")
        if at != len(body):
            raise CodecError(f"{name}: has {len(body) - at} bytes more than its header says; make it anew")
        return cls(kind, header, arrays)


def read_bytes(path: Path, kind: str) -> bytes:
    """The bytes of a file. Raises CodecError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CodecError(f"{path}: no such file; need one of kind {kind!r}") from None
    except OSError as error:
        raise CodecError(f"{path}: cannot be read: {error}; need a file of kind {kind!r}") from None


def write_bytes(path: Path, data: bytes, mode: int = PUBLIC_MODE) -> None:
    """Write a file that, whatever happens on the way, is either whole or as it was before; on disk when this returns.

    Raises CodecError if it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise CodecError(f"{path}: cannot be written: {error}") from None


# what several kinds of files hold


def parameters_header(parameters: Parameters) -> dict[str, Any]:
    return asdict(parameters)


def read_parameters(header: Any, name: str, *, insecure: bool) -> Parameters:
    """Inverse of `parameters_header`. insecure: whether parameters that say they are insecure are taken.

    Raises CodecError.
    """
    try:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in header.items()
        }
        parameters = Parameters(**values)
    except (TypeError, AttributeError, MHEError) as error:
        raise CodecError(f"{name}: its parameters cannot be used: {error}") from None
    if parameters.insecure and not insecure:
        raise CodecError(f"{name}: its parameters are insecure, for tests only; make it with secure ones")
    return parameters


def ciphertext_arrays(ciphertexts: Sequence[RingCiphertext]) -> dict[str, Array]:
    """Ciphertexts of equal limbs as two arrays: (count, limbs, ring_dim) each."""
    return {"c0": np.stack([c.c0 for c in ciphertexts]), "c1": np.stack([c.c1 for c in ciphertexts])}


def read_ciphertexts(
    container: Container, parameters: Parameters, name: str, *, count: int, limbs: int, scale: float, key_id: str
) -> tuple[RingCiphertext, ...]:
    """Inverse of `ciphertext_arrays`. Raises CodecError unless there are so many, of so many limbs, all reduced."""
    c0, c1 = (read_residues(container, part, parameters, name, (count, limbs)) for part in ("c0", "c1"))
    return tuple(RingCiphertext(a, b, scale, key_id) for a, b in zip(c0, c1, strict=True))


def read_residues(
    container: Container, array: str, parameters: Parameters, name: str, shape: tuple[int, ...]
) -> Residues:
    """A copy of an array of residues, (*shape, ring_dim), the last of `shape` the limbs. Raises CodecError."""
    values = container.arrays.get(array)
    needed = (*shape, parameters.ring_dim)
    if values is None or values.shape != needed or values.dtype != np.uint64:
        got = "nothing" if values is None else f"{values.dtype} of shape {values.shape}"
        raise CodecError(
            f"{name}: holds {got} as {array}; need uint64 of shape {needed}: use files that belong together"
        )
    if not 1 <= shape[-1] <= parameters.n_limbs:
        raise ParameterError(f"{name}: {shape[-1]} limbs; these parameters have 1 to {parameters.n_limbs}")
    moduli = np.array(parameters.moduli[: shape[-1]], dtype=np.uint64)[:, None]
    if not (values < moduli).all():
        raise CodecError(f"{name}: holds a residue not below its modulus; it is damaged: make it anew")
    return np.array(values, dtype=np.uint64)
