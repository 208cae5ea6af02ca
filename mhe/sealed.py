"""What of a secret ever touches a disk: a party's share with its ledger, and a receiver's private key.

A share is sealed under a key derived from a passphrase (scrypt, RFC 7914; ChaCha20-Poly1305, RFC 8439), or in the clear
where its party says so. Its file is written anew after every entry of its ledger, before what the entry is about can
leave: a party that is stopped at any moment and started again does not serve an instance of a protocol twice.

    folder/state    0600: magic 8s | version u8 | log2 of the cost of scrypt u8, 0: clear | salt 16s | nonce 12s | body
    folder/lock     held by the process that uses the share

The first 38 bytes are authenticated with the body. An older copy of the file passes for the file itself: whoever brings
back an older one resets the number of releases (no instance can be served twice even so, for every session of a kept
key has a fresh seed).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from mhe.container import PRIVATE_MODE, Container, read_bytes, write_bytes
from mhe.errors import CodecError, StateError
from mhe.keys import ReceiverSecret, SecretPolynomial, SecretShare
from mhe.ledger import ENTRY_BYTES, Ledger

STATE, LOCK = "state", "lock"
FOLDER_MODE = 0o700
PASSPHRASE_VARIABLE = "MHE_PASSPHRASE"
SCRYPT_LOG_COST = 17
"""128 MiB and a third of a second for each guess of a passphrase."""

_LARGEST_LOG_COST = 20
_SCRYPT_BLOCK, _SCRYPT_PARALLEL = 8, 1
_MAGIC, _VERSION = b"MHESTATE", 1
_HEAD = struct.Struct("<8sBB16s12s")
_KEY_BYTES = _CHECKSUM_BYTES = 32
_KIND, _RECEIVER_KIND = "party state", "private key"


@dataclass(frozen=True)
class ShareTerms:
    """What a kept share belongs to. model: names what may be computed on with it, and nothing else."""

    rank: int
    n_parties: int
    key_id: str
    model: str


def seal_share(folder: Path, secret: SecretShare, terms: ShareTerms, passphrase: str | None) -> None:
    """Write a share into a folder of its own, and keep it there up to date from now on.

    passphrase: None stores it in the clear. Raises StateError if there is a share already, or it cannot be written.
    """
    _make_folder(folder)
    if (folder / STATE).exists():
        raise StateError(f"{folder}: holds a party's state, which is not overwritten; name another folder")
    salt, lock = os.urandom(16), _lock(folder)
    key, log_cost = None, 0
    if passphrase is not None:
        key, log_cost = _derive(passphrase, salt, SCRYPT_LOG_COST), SCRYPT_LOG_COST
    keeper = _Keeper(folder, terms, key, salt, lock, log_cost)
    keeper.attach(secret)
    keeper.write()


def open_share(folder: Path, passphrase: str | None) -> tuple[SecretShare, ShareTerms]:
    """The share that `seal_share` wrote; from now on its ledger is kept there.

    Raises StateError if there is none, it is in use, readable by others or damaged, or the passphrase is wrong.
    """
    path = folder / STATE
    if not path.is_file():
        raise StateError(f"{path}: no such file; need the folder into which this party wrote its state when training")
    _check_private(path)
    lock = _lock(folder)
    try:
        secret, terms, keeper = _opened(folder, passphrase, lock)
    except BaseException:
        os.close(lock)
        raise
    keeper.attach(secret)
    return secret, terms


def _opened(folder: Path, passphrase: str | None, lock: int) -> tuple[SecretShare, ShareTerms, _Keeper]:
    path = folder / STATE
    try:
        data = read_bytes(path, _KIND)
    except CodecError as error:
        raise StateError(str(error)) from None
    if len(data) < _HEAD.size or data[: len(_MAGIC)] != _MAGIC:
        raise StateError(f"{path}: is no party's state, or damaged")
    _, version, log_cost, salt, nonce = _HEAD.unpack_from(data)
    if version != _VERSION or log_cost > _LARGEST_LOG_COST:
        raise StateError(f"{path}: has format version {version}; this release reads {_VERSION}, or the file is damaged")
    head, body = data[: _HEAD.size], data[_HEAD.size :]
    key = None
    if log_cost:
        if passphrase is None:
            raise StateError(f"{path}: is sealed; give its passphrase in {PASSPHRASE_VARIABLE}")
        key = _derive(passphrase, salt, log_cost)
        try:
            payload = ChaCha20Poly1305(key).decrypt(nonce, body, head)
        except InvalidTag:
            raise StateError(f"{path}: wrong passphrase, or the file was changed") from None
    else:
        payload, checksum = body[:-_CHECKSUM_BYTES], body[-_CHECKSUM_BYTES:]
        if hashlib.sha256(head + payload).digest() != checksum:
            raise StateError(f"{path}: was changed or is damaged")
    secret, terms = _unpack(payload, path)
    return secret, terms, _Keeper(folder, terms, key, salt, lock, log_cost)


class _Keeper:
    """Holds a folder and the key of its file, and writes a share into it."""

    __slots__ = ("_folder", "_key", "_lock", "_log_cost", "_salt", "_secret", "_terms")

    def __init__(
        self, folder: Path, terms: ShareTerms, key: bytes | None, salt: bytes, lock: int, log_cost: int
    ) -> None:
        self._folder, self._terms, self._key, self._salt = folder, terms, key, salt
        self._log_cost = log_cost
        self._secret: SecretShare | None = None
        self._lock: int | None = lock

    def __repr__(self) -> str:
        return "_Keeper(<redacted>)"

    def attach(self, secret: SecretShare) -> None:
        self._secret = secret
        secret.ledger.keep_with(self.write, self.release)

    def write(self) -> None:
        if self._secret is None or self._lock is None:
            raise StateError(f"{self._folder}: this state was given back already; open it again")
        nonce = os.urandom(12)
        head = _HEAD.pack(_MAGIC, _VERSION, self._log_cost, self._salt, nonce)
        payload = _pack(self._secret, self._terms)
        if self._key is None:
            body = payload + hashlib.sha256(head + payload).digest()
        else:
            body = ChaCha20Poly1305(self._key).encrypt(nonce, payload, head)
        try:
            write_bytes(self._folder / STATE, head + body, PRIVATE_MODE)
        except CodecError as error:
            raise StateError(str(error)) from None

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._lock = self._secret = self._key = None


def write_receiver(path: Path, secret: ReceiverSecret, label: bytes, model: str) -> None:
    """A receiver's private key, for its eyes only (mode 0600), with what names its public key. Raises StateError."""
    if path.exists():
        raise StateError(f"{path}: a private key is there already, which is not overwritten; name another folder")
    _make_folder(path.parent)
    header = {"label": label.hex(), "model": model}
    data = Container(_RECEIVER_KIND, header, {"secret": _coefficients(secret)}).to_bytes()
    try:
        write_bytes(path, data, PRIVATE_MODE)
    except CodecError as error:
        raise StateError(str(error)) from None


def read_receiver(path: Path) -> tuple[ReceiverSecret, bytes, str]:
    """(private key, label, model) as `write_receiver` had them. Raises StateError or CodecError."""
    data = read_bytes(path, _RECEIVER_KIND)
    _check_private(path)
    container = Container.from_bytes(data, _RECEIVER_KIND, str(path))
    secret = ReceiverSecret(_ternary(container.arrays.get("secret"), path))
    return secret, bytes.fromhex(container.header["label"]), str(container.header["model"])


def _pack(secret: SecretShare, terms: ShareTerms) -> bytes:
    ledger = secret.ledger
    served = np.frombuffer(b"".join(sorted(ledger.served)), dtype=np.uint8).reshape(-1, ENTRY_BYTES)
    header = {"terms": asdict(terms), "released": ledger.released}
    return Container(_KIND, header, {"secret": _coefficients(secret), "served": served}).to_bytes()


def _unpack(payload: bytes, path: Path) -> tuple[SecretShare, ShareTerms]:
    try:
        container = Container.from_bytes(payload, _KIND, str(path))
        terms = ShareTerms(**container.header["terms"])
        released, served = int(container.header["released"]), container.arrays["served"]
    except (CodecError, KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path}: does not hold a party's state ({error})") from None
    ledger = Ledger((row.tobytes() for row in served), released)
    return SecretShare(_ternary(container.arrays.get("secret"), path), ledger), terms


def _coefficients(secret: SecretPolynomial) -> npt.NDArray[np.int8]:
    return secret._coefficients.astype(np.int8)


def _ternary(values: npt.NDArray[Any] | None, path: Path) -> npt.NDArray[np.int64]:
    if values is None or values.ndim != 1 or values.dtype != np.int8 or np.abs(values).max(initial=0) > 1:
        raise StateError(f"{path}: does not hold a ternary secret; it is damaged")
    return values.astype(np.int64)


def _derive(passphrase: str, salt: bytes, log_cost: int) -> bytes:
    kdf = Scrypt(salt=salt, length=_KEY_BYTES, n=1 << log_cost, r=_SCRYPT_BLOCK, p=_SCRYPT_PARALLEL)
    return kdf.derive(passphrase.encode())


def _make_folder(folder: Path) -> None:
    """A folder that only its owner may look into. Raises StateError."""
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        folder.chmod(FOLDER_MODE)
    except OSError as error:
        raise StateError(f"{folder}: cannot be made: {error}") from None


def _check_private(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & ~PRIVATE_MODE:
        raise StateError(f"{path}: has mode {mode:04o}, others may read it; make a new one, or chmod 600 if none did")


def _lock(folder: Path) -> int:
    """A lock on the folder, as an open file. Raises StateError if another process, or another party, has it."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StateError(f"{folder}: is in use by another process; a share serves one session at a time") from None
    return descriptor
