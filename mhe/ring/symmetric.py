"""Transforms of polynomials that take the same value at x and at 1/x, at half the work.

Let n be a power of two from 8 to ring_dim/2, and c_k the coefficients at X^(k ring_dim/2n) for k < n; c_n = 0 and
c_(2n-k) = -c_k. The values of the subring of dimension 2n are symmetric: the one at place 2n-1-i belongs to the
exponent -(2 bitrev(i) + 1), so that the second half is the first one backwards. In the whole ring every value stands
ring_dim/2n times, since the exponents 2 bitrev(i) + 1 of that many neighbours are equal modulo 4n.

The first layer adds root * c_(n+j) = -root * c_(n-j) to c_j; what follows is a transform of dimension n with the
twiddles of the left half.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from mhe.ring import ntt, vector_ntt
from mhe.ring.modular import (
    IN_ROW,
    OUT_ROW,
    VOID,
    WORD,
    Words,
    array_of,
    kernel,
    mul_lazy,
    reduce_once,
    reduce_twice,
    types,
)
from mhe.ring.vectors import FLOAT_LIMIT, LANES, FloatLanes, cgutils

Floats = npt.NDArray[np.float64]

FLOAT_BITS = 53
"""Coefficients below 2^53 can be given as floats."""


def values(row: Words, ring_dim: int, p: int, out: Words) -> None:
    """row: (n,), the residues of c_k. The first half of the values of the subring into `out`, (n,)."""
    whole = ntt.tables(ring_dim, p)
    fold_kernel(row, whole.roots[1], whole.root_ratios[1], whole.modulus, out)
    ntt.forward(out, _left_tables(ring_dim, p, len(row)))


def takes_floats(p: int) -> bool:
    """Whether `values_of_floats` is for this modulus on this machine."""
    return p < int(FLOAT_LIMIT)


def values_of_floats(coefficients: Floats, ring_dim: int, p: int, out: Words) -> None:
    """coefficients: (n + 1,), the integers c_k themselves, below 2^53, with c_n = 0. As `values` for the rest."""
    root = int(ntt.tables(ring_dim, p).roots[1])
    fold_floats_kernel(coefficients, float(root - p if root > p // 2 else root), float(p), 1 / p, out)
    ntt.forward(out, _left_tables(ring_dim, p, len(out)))


@lru_cache(maxsize=1024)
def _left_tables(ring_dim: int, p: int, n: int) -> ntt.Tables:
    """Forward tables for the left half of a transform of dimension 2n: twiddle B + i of theirs is 2B + i of all."""
    whole = ntt.tables(ring_dim, p)
    index = np.arange(n)
    index[1:] += 1 << np.floor(np.log2(index[1:])).astype(np.int64)
    fast = None
    if whole.fast is not None and n >= vector_ntt.MIN_RING_DIM:
        roots, ratios, _, _, *modulus = whole.fast.forward
        chosen = [x[index] for x in (roots, ratios)]
        fast = replace(whole.fast, forward=(*chosen, *map(vector_ntt.leaf_twiddles, chosen), *modulus))
    return replace(whole, roots=whole.roots[index], root_ratios=whole.root_ratios[index], fast=fast)


@kernel(VOID, IN_ROW, WORD, WORD, WORD, OUT_ROW)
def fold_kernel(row: Words, root: np.uint64, root_ratio: np.uint64, p: np.uint64, out: Words) -> None:
    """out_j = row_j - root * row_(n-j), row_n = 0."""
    out[0] = row[0]
    four = p << np.uint64(2)
    for j in range(1, row.size):
        x = row[j] + four - mul_lazy(row[row.size - j], root, root_ratio, p)
        out[j] = reduce_twice(reduce_once(x, four), p)


def _emit(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
    row, out = (context.make_array(signature.args[i])(context, b, arguments[i]) for i in (0, 4))
    size = cgutils.unpack_tuple(b, out.shape, 1)[0]
    lanes = FloatLanes(b, arguments[2:4])
    root = lanes.spread(arguments[1])
    zero, step, last = (size.type(value) for value in (0, LANES, LANES - 1))
    with cgutils.for_range_slice(b, zero, size, step) as (j, _):
        there = lanes.reverse(lanes.load(row.data, b.sub(b.sub(size, j), last)))
        x = lanes.reduce(lanes.load(row.data, j))
        # |c_j| <= p/2 + 1 less a product of that with half of p
        lanes.store(out.data, j, lanes.leave(b.fsub(x, lanes.multiply(lanes.reduce(there), root))))
    return context.get_dummy_value()


@intrinsic
def _fold_floats(typing_context, row, root, p, reciprocal, out):  # type: ignore[no-untyped-def]
    return VOID(row, types.float64, types.float64, types.float64, out), _emit


@kernel(VOID, array_of(types.float64, 1), types.float64, types.float64, types.float64, OUT_ROW)
def fold_floats_kernel(row: Floats, root: float, p: float, reciprocal: float, out: Words) -> None:
    """out_j = row_j - root * row_(n-j) modulo p; row is one longer than out."""
    _fold_floats(row, root, p, reciprocal, out)  # type: ignore[call-arg]
