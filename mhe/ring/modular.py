"""Modular arithmetic on 64-bit words, for the loops that `kernel` compiles.

Every modulus is an odd number of 3 to 61 bits, so that eight times a residue still fits a word: that room is what
lets a loop postpone its reductions. Inside compiled code every operand must be a uint64, because the compiler turns
a mixture of int64 and uint64 into float64 without a word. None of this runs in constant time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba.extending import intrinsic

from mhe.errors import ParameterError

MAX_MODULUS_BITS = 61
"""Longest modulus: numbers below 8p fit a word."""

Words = npt.NDArray[np.uint64]
BLOCK = 512
"""Columns that a loop takes at a time when it goes over them more than once."""

F = TypeVar("F", bound=Callable[..., Any])

types: Any = numba.types
WORD = types.uint64
SIGNED = types.int64
VOID = types.void


def array_of(element: Any, ndim: int, *, readonly: bool = True) -> Any:
    """Compiled type of a C-contiguous array argument; a read-only one also accepts a writable array."""
    return types.Array(element, ndim, "C", readonly=readonly)


IN_ROWS = array_of(WORD, 2)
IN_ROW = array_of(WORD, 1)
OUT_ROWS = array_of(WORD, 2, readonly=False)
OUT_ROW = array_of(WORD, 1, readonly=False)


def inlined(function: F) -> F:
    """Compile a scalar helper into the loops that call it."""
    return cast(F, numba.njit(cache=True, nogil=True, forceinline=True)(function))


def kernel(result: Any, *arguments: Any) -> Callable[[F], F]:
    """Compile a loop over arrays on its first call, for exactly one signature, and keep it on disk.

    One signature per loop means one compilation, whoever calls it first and whether its arrays are writable or not.
    The cache notices a change of the file that holds the loop but not of the helpers inlined from this one.
    """

    def decorate(function: F) -> F:
        compiled: list[Callable[..., Any]] = []

        def call(*values: Any) -> Any:
            if not compiled:
                compiled.append(numba.njit(result(*arguments), cache=True, nogil=True)(function))
            return compiled[0](*values)

        return cast(F, call)

    return decorate


def _wide_product(typing_context: Any, x: Any, y: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), word)
        return context.make_tuple(builder, signature.return_type, (high, builder.trunc(product, word)))

    return types.UniTuple(WORD, 2)(WORD, WORD), generate


mul_wide = cast(Callable[[np.uint64, np.uint64], tuple[np.uint64, np.uint64]], intrinsic(_wide_product))
"""(high, low) words of the 128-bit product; only inside compiled code."""

_LOWER = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@inlined
def mul_high_short(x: np.uint64, y: np.uint64) -> np.uint64:
    """High word of x*y, or up to 2 less: its three larger partial products, each rounded down.

    The compiler makes vector instructions of this, but has only a scalar one for the exact high word: twice as fast.
    """
    x1, y1 = x >> _HALF, y >> _HALF
    return x1 * y1 + ((x1 * (y & _LOWER)) >> _HALF) + (((x & _LOWER) * y1) >> _HALF)


@inlined
def reduce_once(x: np.uint64, p: np.uint64) -> np.uint64:
    """x mod p for x < 2p: the subtraction wraps around to a huge word exactly when x < p."""
    return min(x, x - p)


@inlined
def reduce_twice(x: np.uint64, p: np.uint64) -> np.uint64:
    """x mod p for x < 4p."""
    return reduce_once(reduce_once(x, p + p), p)


@inlined
def mul_mod(x: np.uint64, y: np.uint64, p: np.uint64, ratio: np.uint64, shift: np.uint64) -> np.uint64:
    """x*y mod p for residues x, y and (ratio, shift) = barrett(p).

    Barrett, CRYPTO 1986. Let p have n bits and z = x*y < 2^2n. The quotient floor(z / 2^(n-2)) * ratio / 2^64 falls
    short of z/p by at most 2^(n-2)/p <= 1/2 for the bits of z cut off, 2^(n+2)/2^64 <= 1/2 for the fraction of ratio
    cut off, less than 1 for its own fraction, and 2 for mul_high_short: z - quotient*p < 4p.
    """
    high, low = mul_wide(x, y)
    top = (high << (np.uint64(64) - shift)) | (low >> shift)
    return reduce_twice(low - mul_high_short(top, ratio) * p, p)


@inlined
def mul_lazy(x: np.uint64, w: np.uint64, w_ratio: np.uint64, p: np.uint64) -> np.uint64:
    """x*w modulo p, below 4p, for any word x, a residue w and w_ratio = shoup(w, p) = floor(2^64 w / p).

    Shoup's multiplication by a constant (Harvey, "Faster arithmetic for number-theoretic transforms", 2014, section 2)
    gives a number below 2p; the short quotient adds at most 2p. With w = 1 this reduces a word.
    """
    return x * w - mul_high_short(x, w_ratio) * p


def barrett(p: int) -> tuple[int, int]:
    """(ratio, shift) for mul_mod: floor(2^(n+62) / p) < 2^64 and n - 2, where p has n bits."""
    n = p.bit_length()
    return (1 << (n + 62)) // p, n - 2


def shoup(w: int, p: int) -> int:
    """w_ratio for mul_lazy."""
    return (w << 64) // p


def check_modulus(p: int) -> None:
    """Raise ParameterError unless p is odd and of 3 to 61 bits."""
    if p < 0 or p % 2 == 0 or not 3 <= p.bit_length() <= MAX_MODULUS_BITS:
        raise ParameterError(f"modulus is {p}; need an odd number of 3 to {MAX_MODULUS_BITS} bits")


def words(values: Any) -> Words:
    """Python ints below 2^64 as a uint64 array."""
    return np.array(list(values), dtype=np.uint64)


def constants(values: Sequence[Sequence[int]], moduli: tuple[int, ...]) -> tuple[Words, Words]:
    """Row i of `values` modulo moduli[i], and the ratios for mul_lazy: (limbs, columns) each."""
    residues = [[v % p for v in row] for row, p in zip(values, moduli, strict=True)]
    ratios = [[shoup(w, p) for w in row] for row, p in zip(residues, moduli, strict=True)]
    return np.array(residues, dtype=np.uint64), np.array(ratios, dtype=np.uint64)


def contiguous(x: npt.NDArray[Any], name: str = "operand") -> Words:
    """x itself if compiled loops can read it, a copy if not; ParameterError unless it is a uint64 matrix."""
    if not isinstance(x, np.ndarray) or x.dtype != np.uint64 or x.ndim != 2:
        shape = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise ParameterError(f"{name} is {shape}; need a uint64 array (rows, columns)")
    return np.require(x, requirements=("C", "A"))


def _check_rows(x: Words, moduli: Words) -> Words:
    if moduli.ndim != 1 or moduli.dtype != np.uint64 or len(moduli) != len(x):
        raise ParameterError(f"{len(x)} rows, moduli {moduli.dtype} {moduli.shape}; need one uint64 modulus for each")
    return np.require(moduli, requirements=("C", "A"))


def add_rows(a: npt.NDArray[Any], b: npt.NDArray[Any], moduli: Words) -> Words:
    """a + b modulo one modulus per row: (rows, columns), any number of columns; inputs reduced and unchanged.

    Raises ParameterError if the shapes do not fit.
    """
    a, b = contiguous(a), contiguous(b)
    moduli = _check_rows(a, moduli)
    if a.shape != b.shape:
        raise ParameterError(f"operands of shapes {a.shape} and {b.shape}; need one shape")
    out = np.empty_like(a)
    add_kernel(a, b, moduli, out)
    return out


def first_unreduced_row(rows: npt.NDArray[Any], moduli: Words) -> int:
    """Index of the first row with a residue not below its modulus, or -1.

    Raises ParameterError if there is not one modulus per row.
    """
    rows = contiguous(rows)
    return int(unreduced_kernel(rows, _check_rows(rows, moduli)))


@kernel(VOID, IN_ROWS, IN_ROWS, IN_ROW, OUT_ROWS)
def add_kernel(a: Words, b: Words, moduli: Words, out: Words) -> None:
    for i in range(a.shape[0]):
        p = moduli[i]
        for j in range(a.shape[1]):
            out[i, j] = reduce_once(a[i, j] + b[i, j], p)


@kernel(VOID, IN_ROWS, array_of(SIGNED, 1), IN_ROW, OUT_ROWS)
def add_small_kernel(a: Words, values: npt.NDArray[np.int64], moduli: Words, out: Words) -> None:
    """out = a + values, which are below every modulus in absolute value."""
    for i in range(a.shape[0]):
        p = moduli[i]
        for j in range(a.shape[1]):
            # a negative sum is a huge word, to which adding p wraps around
            total = a[i, j] + np.uint64(values[j])
            out[i, j] = reduce_once(min(total, total + p), p)


@kernel(VOID, IN_ROWS, SIGNED, array_of(types.float64, 2, readonly=False))
def cut_kernel(values: Words, bits: int, pieces: npt.NDArray[np.float64]) -> None:
    """The integers sum_k values[k] * 2^(64k) cut into pieces of so many bits, more than half a word: 32 < bits < 53."""
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    for k in range(pieces.shape[0]):
        word, shift = (k * bits) // 64, np.uint64((k * bits) % 64)
        lower, out = values[word], pieces[k]
        if word + 1 < values.shape[0] and shift:
            upper, back = values[word + 1], np.uint64(64) - shift
            for j in range(out.size):
                out[j] = np.float64(np.int64(((lower[j] >> shift) | (upper[j] << back)) & mask))
        else:
            for j in range(out.size):
                out[j] = np.float64(np.int64((lower[j] >> shift) & mask))


@kernel(VOID, IN_ROWS, IN_ROWS, IN_ROW, OUT_ROWS)
def subtract_kernel(a: Words, b: Words, moduli: Words, out: Words) -> None:
    for i in range(a.shape[0]):
        p = moduli[i]
        for j in range(a.shape[1]):
            out[i, j] = reduce_once(a[i, j] + p - b[i, j], p)


@kernel(SIGNED, IN_ROWS, IN_ROW)
def unreduced_kernel(rows: Words, moduli: Words) -> int:
    for i in range(rows.shape[0]):
        largest = np.uint64(0)
        for j in range(rows.shape[1]):
            largest = max(largest, rows[i, j])
        if rows.shape[1] and largest >= moduli[i]:
            return i
    return -1


@kernel(VOID, IN_ROWS, IN_ROWS, IN_ROW, IN_ROW, IN_ROW, OUT_ROWS)
def multiply_kernel(a: Words, b: Words, moduli: Words, ratios: Words, shifts: Words, out: Words) -> None:
    for i in range(a.shape[0]):
        p, ratio, shift = moduli[i], ratios[i], shifts[i]
        for j in range(a.shape[1]):
            out[i, j] = mul_mod(a[i, j], b[i, j], p, ratio, shift)


@kernel(VOID, OUT_ROWS, IN_ROWS, IN_ROWS, IN_ROW, IN_ROW, IN_ROW)
def multiply_add_kernel(acc: Words, a: Words, b: Words, moduli: Words, ratios: Words, shifts: Words) -> None:
    for i in range(a.shape[0]):
        p, ratio, shift = moduli[i], ratios[i], shifts[i]
        for j in range(a.shape[1]):
            acc[i, j] = reduce_once(acc[i, j] + mul_mod(a[i, j], b[i, j], p, ratio, shift), p)


@kernel(VOID, IN_ROWS, IN_ROW, IN_ROW, IN_ROW, OUT_ROWS)
def scale_kernel(a: Words, factors: Words, factor_ratios: Words, moduli: Words, out: Words) -> None:
    for i in range(a.shape[0]):
        p, w, w_ratio = moduli[i], factors[i], factor_ratios[i]
        for j in range(a.shape[1]):
            out[i, j] = reduce_twice(mul_lazy(a[i, j], w, w_ratio, p), p)


@kernel(VOID, IN_ROWS, IN_ROWS, IN_ROWS, IN_ROW, OUT_ROWS)
def combine_kernel(values: Words, factors: Words, factor_ratios: Words, moduli: Words, out: Words) -> None:
    """out[i] = sum_k factors[i, k] * values[k] modulo moduli[i], for any words as values."""
    # Blocks of columns that stay in the first cache while all their terms are added up.
    for start in range(0, out.shape[1], BLOCK):
        stop = min(start + BLOCK, out.shape[1])
        for i in range(out.shape[0]):
            p = moduli[i]
            four = p << np.uint64(2)
            total = out[i, start:stop]
            total[:] = np.uint64(0)
            for k in range(values.shape[0]):
                w, w_ratio, row = factors[i, k], factor_ratios[i, k], values[k, start:stop]
                for j in range(total.size):
                    total[j] = reduce_once(total[j] + mul_lazy(row[j], w, w_ratio, p), four)
            for j in range(total.size):
                total[j] = reduce_twice(total[j], p)


@kernel(VOID, array_of(SIGNED, 1), IN_ROW, IN_ROW, IN_ROW, OUT_ROWS)
def reduce_signed_kernel(
    values: npt.NDArray[np.int64], moduli: Words, word_ratios: Words, sign_weights: Words, out: Words
) -> None:
    """Residues of int64 values; sign_weights are 2^63 modulo the moduli, by which the words below are too large."""
    sign = np.uint64(1) << np.uint64(63)
    for i in range(out.shape[0]):
        p, word_ratio, weight = moduli[i], word_ratios[i], sign_weights[i]
        for j in range(out.shape[1]):
            residue = reduce_twice(mul_lazy(np.uint64(values[j]) ^ sign, np.uint64(1), word_ratio, p), p)
            out[i, j] = reduce_once(residue + p - weight, p)


@kernel(VOID, IN_ROWS, array_of(types.uint32, 1), OUT_ROWS)
def permute_kernel(a: Words, index: npt.NDArray[np.uint32], out: Words) -> None:
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] = a[i, index[j]]


@kernel(VOID, OUT_ROWS, IN_ROWS, array_of(types.uint32, 1), IN_ROW)
def permute_add_kernel(acc: Words, a: Words, index: npt.NDArray[np.uint32], moduli: Words) -> None:
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            acc[i, j] = reduce_once(acc[i, j] + a[i, index[j]], moduli[i])
