"""Negacyclic number-theoretic transform of one limb, with its tables.

The transform of a polynomial a of degree below N, modulo a prime p = 1 mod 2N, is the list of its values
a(psi^(2 bitrev(i) + 1)) for i = 0 .. N-1, where psi is the smallest primitive 2N-th root of unity modulo p and bitrev
reverses log2(N) bits. Products of polynomials modulo X^N + 1 become element-wise products.

Longa and Naehrig, "Speeding up the number theoretic transform for faster ideal lattice-based cryptography", CANS 2016,
algorithms 1 and 2, with the lazy butterflies of Harvey, "Faster arithmetic for number-theoretic transforms", 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mhe.errors import ParameterError
from mhe.ring import vector_ntt, vectors
from mhe.ring.modular import (
    IN_ROW,
    OUT_ROW,
    VOID,
    WORD,
    Words,
    inlined,
    kernel,
    mul_lazy,
    mul_wide,
    reduce_once,
    reduce_twice,
    shoup,
    words,
)
from mhe.ring.primes import smallest_root

MIN_RING_DIM = 8
"""Smallest N: the loops below treat the last two layers apart, and need at least one before them."""


@dataclass(frozen=True, eq=False)
class Tables:
    """psi^bitrev(i) and psi^-bitrev(i) for i = 0 .. N-1, (N,) each, and their ratios for mul_lazy.

    The inverse of N is folded into the last layer of the inverse transform: n_inverse for the sums, n_inverse_root
    for the differences.
    """

    modulus: np.uint64
    roots: Words
    root_ratios: Words
    inverse_roots: Words
    inverse_root_ratios: Words
    n_inverse: np.uint64
    n_inverse_ratio: np.uint64
    n_inverse_root: np.uint64
    n_inverse_root_ratio: np.uint64
    fast: FastTables | None


@dataclass(frozen=True, eq=False)
class FastTables:
    """The same for the kernels of `mhe.ring.vector_ntt`: their arguments after the row.

    In float64 where the modulus allows it and the machine multiplies and adds in one instruction, else in words.
    """

    floating: bool
    forward: tuple[Any, ...]
    inverse: tuple[Any, ...]


def bit_reversal(n: int) -> Words:
    """bitrev(i) for i = 0 .. n-1; n a power of two."""
    index: Words = np.zeros(1, dtype=np.uint64)
    while len(index) < n:
        index = np.concatenate([2 * index, 2 * index + 1])
    return index


def check_ring_dim(n: int) -> None:
    """Raise ParameterError unless n is a power of two of at least 8."""
    if n < MIN_RING_DIM or n & (n - 1):
        raise ParameterError(f"ring_dim is {n}; need a power of two of at least {MIN_RING_DIM}")


@lru_cache(maxsize=256)
def tables(ring_dim: int, p: int) -> Tables:
    """Tables for one limb, shared by every ring that has it; p a prime that is 1 modulo 2*ring_dim."""
    root = smallest_root(p, 2 * ring_dim)
    inverse = pow(root, -1, p)
    order = bit_reversal(ring_dim)
    roots, root_ratios = _powers(root, p, ring_dim, order)
    inverse_roots, inverse_root_ratios = _powers(inverse, p, ring_dim, order)
    n_inverse = pow(ring_dim, -1, p)
    n_inverse_root = n_inverse * int(inverse_roots[1]) % p
    return Tables(
        np.uint64(p),
        roots,
        root_ratios,
        inverse_roots,
        inverse_root_ratios,
        np.uint64(n_inverse),
        np.uint64(shoup(n_inverse, p)),
        np.uint64(n_inverse_root),
        np.uint64(shoup(n_inverse_root, p)),
        fast_tables(ring_dim, p, floating=p < vectors.FLOAT_LIMIT) if ring_dim >= vector_ntt.MIN_RING_DIM else None,
    )


@lru_cache(maxsize=256)
def fast_tables(ring_dim: int, p: int, *, floating: bool) -> FastTables:
    """Tables of either arithmetic; floating for p below 2^49 only (`mhe.ring.vectors`)."""
    root = smallest_root(p, 2 * ring_dim)
    order = bit_reversal(ring_dim)
    n_inverse = pow(ring_dim, -1, p)
    both = []
    for base, first in ((root, None), (pow(root, -1, p), n_inverse)):
        roots, ratios = _powers(base, p, ring_dim, order)
        if first is not None:
            last = n_inverse * int(roots[1]) % p
            roots[:2], ratios[:2] = (first, last), (shoup(first, p), shoup(last, p))
        if floating:
            centred = roots.astype(np.int64)
            roots = ratios = np.where(centred > p // 2, centred - p, centred).astype(np.float64)
        leaf = vector_ntt.leaf_twiddles(roots)
        leaf_ratios = leaf if floating else vector_ntt.leaf_twiddles(ratios)
        modulus = (float(p), 1 / p) if floating else (np.uint64(p), np.uint64(0))
        both.append((roots, ratios, leaf, leaf_ratios, *modulus))
    return FastTables(floating, both[0], both[1])


def _powers(root: int, p: int, n: int, order: Words) -> tuple[Words, Words]:
    powers = np.empty(n, dtype=np.uint64)
    ratios = np.empty(n, dtype=np.uint64)
    ratio = (1 << 128) // p
    w, w_ratio, modulus, high, low = words((root, shoup(root, p), p, ratio >> 64, ratio & (2**64 - 1)))
    powers_kernel(w, w_ratio, modulus, high, low, powers, ratios)
    return powers[order], ratios[order]


def forward(row: Words, t: Tables) -> None:
    """Coefficients to values, in place: (N,), reduced in, reduced out."""
    if t.fast is not None:
        (vector_ntt.forward_float if t.fast.floating else vector_ntt.forward_word)(row, *t.fast.forward)
        return
    forward_kernel(row, t.roots, t.root_ratios, t.modulus)


def inverse(row: Words, t: Tables) -> None:
    """Values to coefficients, in place: (N,), reduced in, reduced out."""
    if t.fast is not None:
        (vector_ntt.inverse_float if t.fast.floating else vector_ntt.inverse_word)(row, *t.fast.inverse)
        return
    inverse_kernel(
        row, t.inverse_roots, t.inverse_root_ratios, t.modulus,
        t.n_inverse, t.n_inverse_ratio, t.n_inverse_root, t.n_inverse_root_ratio,
    )  # fmt: skip


@kernel(VOID, WORD, WORD, WORD, WORD, WORD, OUT_ROW, OUT_ROW)
def powers_kernel(
    root: np.uint64, root_ratio: np.uint64, p: np.uint64, high: np.uint64, low: np.uint64, powers: Words, ratios: Words
) -> None:
    power = np.uint64(1)
    for i in range(powers.size):
        powers[i] = power
        # With (high, low) = floor(2^128 / p), this is floor(2^64 power / p) or one less, and the remainder tells which.
        ratio = power * high + mul_wide(power, low)[0]
        if np.uint64(0) - ratio * p >= p:
            ratio += np.uint64(1)
        ratios[i] = ratio
        power = reduce_twice(mul_lazy(power, root, root_ratio, p), p)


@inlined
def _butterfly(
    x: np.uint64, y: np.uint64, w: np.uint64, w_ratio: np.uint64, p: np.uint64, four: np.uint64
) -> tuple[np.uint64, np.uint64]:
    """(x + wy, x - wy) modulo p; x, y and both results below 8p. four = 4p."""
    x = reduce_once(x, four)
    y = mul_lazy(y, w, w_ratio, p)
    return x + y, x + four - y


@kernel(VOID, OUT_ROW, IN_ROW, IN_ROW, WORD)
def forward_kernel(row: Words, roots: Words, root_ratios: Words, p: np.uint64) -> None:
    four = p << np.uint64(2)
    blocks, half = 1, row.size >> 1
    while half > 2:
        for i in range(blocks):
            w, w_ratio = roots[blocks + i], root_ratios[blocks + i]
            left = row[2 * i * half : (2 * i + 1) * half]
            right = row[(2 * i + 1) * half : (2 * i + 2) * half]
            for j in range(half):
                left[j], right[j] = _butterfly(left[j], right[j], w, w_ratio, p, four)
        blocks, half = blocks << 1, half >> 1
    # The last two layers in one pass: their inner loops would be shorter than what it costs to start them.
    for i in range(blocks):
        w, w_ratio = roots[blocks + i], root_ratios[blocks + i]
        j, k = 2 * (blocks + i), 4 * i
        x0, x2 = _butterfly(row[k], row[k + 2], w, w_ratio, p, four)
        x1, x3 = _butterfly(row[k + 1], row[k + 3], w, w_ratio, p, four)
        x0, x1 = _butterfly(x0, x1, roots[j], root_ratios[j], p, four)
        x2, x3 = _butterfly(x2, x3, roots[j + 1], root_ratios[j + 1], p, four)
        row[k] = reduce_twice(reduce_once(x0, four), p)
        row[k + 1] = reduce_twice(reduce_once(x1, four), p)
        row[k + 2] = reduce_twice(reduce_once(x2, four), p)
        row[k + 3] = reduce_twice(reduce_once(x3, four), p)


@inlined
def _inverse_butterfly(
    x: np.uint64, y: np.uint64, w: np.uint64, w_ratio: np.uint64, p: np.uint64, four: np.uint64
) -> tuple[np.uint64, np.uint64]:
    """(x + y, (x - y)w) modulo p; x, y and both results below 4p = four."""
    return reduce_once(x + y, four), mul_lazy(x + four - y, w, w_ratio, p)


@kernel(VOID, OUT_ROW, IN_ROW, IN_ROW, WORD, WORD, WORD, WORD, WORD)
def inverse_kernel(
    row: Words,
    roots: Words,
    root_ratios: Words,
    p: np.uint64,
    n_inverse: np.uint64,
    n_inverse_ratio: np.uint64,
    n_inverse_root: np.uint64,
    n_inverse_root_ratio: np.uint64,
) -> None:
    four = p << np.uint64(2)
    blocks, half = row.size >> 2, 4
    for i in range(blocks):
        w, w_ratio = roots[blocks + i], root_ratios[blocks + i]
        j, k = 2 * (blocks + i), 4 * i
        x0, x1 = _inverse_butterfly(row[k], row[k + 1], roots[j], root_ratios[j], p, four)
        x2, x3 = _inverse_butterfly(row[k + 2], row[k + 3], roots[j + 1], root_ratios[j + 1], p, four)
        row[k], row[k + 2] = _inverse_butterfly(x0, x2, w, w_ratio, p, four)
        row[k + 1], row[k + 3] = _inverse_butterfly(x1, x3, w, w_ratio, p, four)
    blocks >>= 1
    while blocks > 1:
        for i in range(blocks):
            w, w_ratio = roots[blocks + i], root_ratios[blocks + i]
            left = row[2 * i * half : (2 * i + 1) * half]
            right = row[(2 * i + 1) * half : (2 * i + 2) * half]
            for j in range(half):
                left[j], right[j] = _inverse_butterfly(left[j], right[j], w, w_ratio, p, four)
        blocks, half = blocks >> 1, half << 1
    left, right = row[:half], row[half:]
    for j in range(half):
        x, y = left[j], right[j]
        left[j] = reduce_twice(mul_lazy(x + y, n_inverse, n_inverse_ratio, p), p)
        right[j] = reduce_twice(mul_lazy(x + four - y, n_inverse_root, n_inverse_root_ratio, p), p)
