"""Random polynomials: streams of random words, and the distributions drawn from them.

A stream is consumed in order, so the same stream gives the same samples on every machine. Secrets come from
`secret_stream`, common public values from `public_stream`. None of the samplers runs in constant time.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from mhe.errors import ParameterError
from mhe.parameters import ERROR_STD
from mhe.ring import gaussian as tables
from mhe.ring.modular import (
    BLOCK,
    IN_ROW,
    OUT_ROW,
    SIGNED,
    WORD,
    Words,
    array_of,
    kernel,
    mul_lazy,
    reduce_twice,
    types,
    words,
)
from mhe.ring.residues import residues
from mhe.ring.ring import Ring

Integers = npt.NDArray[np.int64]
Data = bytes
"""`bytes`, by a name that Stream.bytes does not hide."""

SEED_BYTES = 32

ERROR_TAIL = 10.0
"""Where the narrow Gaussian is cut off, in standard deviations: a tail of 2^-75."""

_ZEROS = memoryview(bytes(1 << 17))
_STREAM_BYTES = ((1 << 32) - 2) * 16
"""What one key may encrypt in GCM: blocks of 16 bytes times the values of the block counter that are left to it."""

_TRITS = 5
"""A byte below 3^5 holds five ternary digits."""

IN_BYTES = array_of(types.uint8, 1)
OUT_INTEGERS = array_of(SIGNED, 1, readonly=False)


class Stream:
    """AES-256 keystream of a 32-byte key in counter mode, as bytes or as little-endian 64-bit words.

    The counter mode is the one inside GCM (NIST SP 800-38D, section 6.5), which libraries run on vectors, so that it is
    more than twice as fast as plain CTR or ChaCha20. Blocks do not repeat, as random ones might: b bytes are told from
    random ones with probability b^2 / 2^137 at most, 2^-97 for a MiB.

    Opaque: shows no key, and can be neither pickled nor copied. Raises ParameterError for more than its 64 GiB.
    """

    __slots__ = ("_cipher", "_left")

    def __init__(self, key: Data) -> None:
        if len(key) != SEED_BYTES:
            raise ParameterError(f"stream key has {len(key)} bytes; need {SEED_BYTES}")
        # Every key is used for one stream, so that the nonce may be zero.
        self._cipher = Cipher(algorithms.AES(key), modes.GCM(bytes(12))).encryptor()
        self._left = _STREAM_BYTES

    def bytes(self, n: int) -> Data:
        """The next n bytes."""
        return self._fill(n).tobytes()

    def words(self, n: int) -> Words:
        """The next 8n bytes as n words."""
        return self._fill(8 * n).view("<u8").astype(np.uint64, copy=False)

    def _fill(self, n: int) -> npt.NDArray[np.uint8]:
        if not 0 <= n <= self._left:
            raise ParameterError(f"{n} bytes asked of a stream; need 0 to {self._left}, all it has left")
        self._left -= n
        out = np.empty(n, dtype=np.uint8)
        view = out.data
        for start in range(0, n, len(_ZEROS)):
            piece = view[start : start + len(_ZEROS)]
            self._cipher.update_into(_ZEROS[: len(piece)], piece)
        return out

    def __repr__(self) -> str:
        return "Stream(<redacted>)"

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("a Stream can be neither pickled nor copied: its output must not appear twice")

    __reduce_ex__ = __reduce__ = __copy__ = __deepcopy__ = __getstate__ = _refuse


def secret_stream() -> Stream:
    """A stream under a fresh key from the operating system's generator."""
    return Stream(os.urandom(SEED_BYTES))


def public_stream(seed: bytes, *labels: str | int) -> Stream:
    """The stream that every party derives from a common 32-byte seed for the purpose named by `labels`.

    The key is keyed BLAKE2b of the labels, each with its type and its length, so no two lists of labels share one.
    Raises ParameterError for a seed of another length or a label that is neither str nor int.
    """
    if len(seed) != SEED_BYTES:
        raise ParameterError(f"seed has {len(seed)} bytes; need {SEED_BYTES}")
    encoded = bytearray()
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, (str, int)):
            raise ParameterError(f"label is a {type(label).__name__}; need str or int")
        text = str(label).encode()
        encoded += (b"s" if isinstance(label, str) else b"i") + len(text).to_bytes(8, "little") + text
    return Stream(hashlib.blake2b(encoded, digest_size=SEED_BYTES, key=seed, person=b"mhe.public").digest())


def uniform(stream: Stream, ring: Ring) -> Words:
    """Independent uniform residues: (limbs, N), the evaluation domain by convention.

    For one limb after another: draw one word for every residue still missing, keep the words below the largest
    multiple of p that is at most 2^64, reduce them, and repeat.
    """
    out = np.empty((ring.n_limbs, ring.ring_dim), dtype=np.uint64)
    for row, p in zip(out, ring.moduli, strict=True):
        modulus, largest, word_ratio = words((p, (1 << 64) // p * p - 1, (1 << 64) // p))
        done = 0
        while done < len(row):
            done = keep_uniform_kernel(stream.words(len(row) - done), row, done, modulus, largest, word_ratio)
    return out


def ternary(stream: Stream, n: int) -> Integers:
    """(n,) exactly uniform on -1, 0, 1: bytes below 3^5 = 243 give five digits each, others are rejected."""
    out = np.empty(n, dtype=np.int64)
    done = 0
    while done < n:
        missing = -(-(n - done) // _TRITS)
        done = keep_ternary_kernel(np.frombuffer(stream.bytes(missing), dtype=np.uint8), out, done)
    return out


def gaussian(stream: Stream, n: int) -> Integers:
    """(n,) of the discrete Gaussian of standard deviation ERROR_STD = 3.19, |x| <= ceil(10 * 3.19) = 32.

    Inversion of a 127-bit cumulative table: within 2^-74 of the untruncated distribution, in statistical distance.
    """
    out = np.zeros(n, dtype=np.int64)
    _add_from_table(stream, tables.table(ERROR_STD, ERROR_TAIL), 1, out)
    return out


class WideGaussian:
    """Discrete Gaussian on the integers of any standard deviation >= 32, as residues.

    Each sample is x = z_0 + k_1 (z_1 + k_2 (z_2 + ...)) with narrow z from a table and integer factors k, which is
    within 2^-110 of the discrete Gaussian of standard deviation `std` (Micciancio and Walter, CRYPTO 2017, section 4;
    the conditions are derived in mhe/ring/gaussian.py). `std` is at least the one asked for and at most 1 per cent
    above; |x| <= `bound`.

    Raises ParameterError if the standard deviation is below 32 or above 2^400.
    """

    def __init__(self, sigma: float) -> None:
        self._sum = tables.convolution(float(sigma))
        self._table = tables.table(self._sum.base_std, tables.WIDE_TAIL)

    @property
    def std(self) -> float:
        return self._sum.std

    @property
    def bound(self) -> int:
        return self._sum.bound

    def __repr__(self) -> str:
        return f"WideGaussian(std={self.std:.6g}, factors={self._sum.factors})"

    def sample(self, stream: Stream, moduli: tuple[int, ...], n: int) -> Words:
        """(len(moduli), n) residues of n samples, the same integers behind every limb."""
        system = residues(moduli)
        total: Words = np.zeros((len(moduli), n), dtype=np.uint64)
        for chunk, factor in reversed(self._chunks(stream, n)):
            total = system.add(system.from_signed(chunk), system.multiply_constant(total, factor))
        return total

    def integers(self, stream: Stream, n: int) -> list[int]:
        """The integers behind what `sample` would give for this stream."""
        total = np.zeros(n, dtype=object)
        for chunk, factor in reversed(self._chunks(stream, n)):
            total = chunk.astype(object) + factor * total
        return [int(x) for x in total]

    def _chunks(self, stream: Stream, n: int) -> list[tuple[Integers, int]]:
        """Pairs (c, K) with x = c_0 + K_0 (c_1 + K_1 (...)), drawn from the innermost-last level on."""
        chunks = []
        for factors, last in self._sum.chunks():
            chunk: Integers = np.zeros(n, dtype=np.int64)
            weight = 1
            _add_from_table(stream, self._table, weight, chunk)
            for k in factors:
                weight *= k
                _add_from_table(stream, self._table, weight, chunk)
            chunks.append((chunk, last))
        return chunks


def uniform_words(stream: Stream, bits: int, n: int) -> Words:
    """(ceil(bits/64), n): n uniform integers sum_k words[k] * 2^(64k) in [0, 2^bits)."""
    if bits < 1:
        raise ParameterError(f"bits is {bits}; need 1 or more")
    n_words = -(-bits // 64)
    out = stream.words(n_words * n).reshape(n_words, n)
    out[-1] >>= np.uint64(-bits % 64)
    return out


def _add_from_table(stream: Stream, table: tables.Table, weight: int, out: Integers) -> None:
    """out += weight * samples, one word each; a word that leaves its sample undecided is extended by another one."""
    source = stream.words(len(out))
    done = invert_kernel(source, table.high, table.guide, weight, out, 0)
    while done < len(out):
        word = int(source[done])
        extended = (word >> 1) << 64 | int(stream.words(1)[0])
        size = bisect_right(table.thresholds, extended)
        out[done] += weight * (-size if word & 1 else size)
        done = invert_kernel(source, table.high, table.guide, weight, out, done + 1)


@kernel(SIGNED, IN_ROW, IN_ROW, array_of(types.int32, 1), SIGNED, OUT_INTEGERS, SIGNED)
def invert_kernel(
    source: Words, high: Words, guide: npt.NDArray[np.int32], weight: int, out: Integers, start: int
) -> int:
    """Add to out[start:] up to the first word that does not decide its sample; the index of that one, or the end."""
    bound = high.size
    for j in range(start, source.size):
        upper = source[j] >> np.uint64(1)
        size = np.int64(guide[upper >> np.uint64(tables.GUIDE_SHIFT)])
        while size < bound and upper > high[size]:
            size += 1
        if size < bound and upper == high[size]:
            return j
        out[j] += weight * (-size if source[j] & np.uint64(1) else size)
    return source.size


@kernel(SIGNED, IN_ROW, OUT_ROW, SIGNED, WORD, WORD, WORD)
def keep_uniform_kernel(
    source: Words, out: Words, start: int, p: np.uint64, largest: np.uint64, word_ratio: np.uint64
) -> int:
    """Append to out[start:] the words up to `largest`, modulo p; the new end."""
    done = start
    for first in range(0, source.size, BLOCK):
        block = source[first : first + BLOCK]
        top = np.uint64(0)
        for j in range(block.size):
            top = max(top, block[j])
        fresh = out[done : done + block.size]
        if top > largest:
            kept = 0
            for j in range(block.size):
                fresh[kept] = block[j]
                kept += int(block[j] <= largest)
            block = fresh = fresh[:kept]
        for j in range(block.size):
            fresh[j] = reduce_twice(mul_lazy(block[j], np.uint64(1), word_ratio, p), p)
        done += block.size
    return done


@kernel(SIGNED, IN_BYTES, OUT_INTEGERS, SIGNED)
def keep_ternary_kernel(source: npt.NDArray[np.uint8], out: Integers, start: int) -> int:
    """Append to out[start:] the base-3 digits, less 1, of the bytes below 243, until it is full; the new end."""
    done = start
    for j in range(source.size):
        value = np.int64(source[j])
        if value < 3**_TRITS:
            for _ in range(_TRITS):
                if done < out.size:
                    out[done] = value % 3 - 1
                    value //= 3
                    done += 1
    return done
