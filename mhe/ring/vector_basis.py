"""Sums of a few small rows with constant weights, modulo many primes: the second half of `mhe.ring.basis.lift`.

For rows t_k < 2^PIECE_BITS and weights w_k < p, the sum S = sum_k t_k w_k is known modulo 2^64, and its quotient by p
approximately, in float64: q = rint(Q), Q = sum_k t_k fl(w_k / p). Then S - q p, computed modulo 2^64, is small.

How small: a term is below 2^47 and has two rounding errors, together below 2^-5; each of the n - 1 additions rounds a
number below n 2^47, with an error below n 2^-7 (n <= 8: the half of the last place). With n <= MAX_ROWS = 8 that is
8/32 + 7 * 8/128 < 0.69, with q's own rounding below 1.19: |S - q p| < 1.19 p, and S - q p + 4p is between 2p and 6p.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba.extending import intrinsic

from mhe.ring.modular import IN_ROW, IN_ROWS, OUT_ROWS, VOID, Words, array_of, kernel, types
from mhe.ring.vectors import LANES, FloatLanes, WordLanes, cgutils

PIECE_BITS = 47
MAX_ROWS = 8
UNROLLED = 4
COLUMNS = LANES * UNROLLED
"""The number of columns must be a multiple of it."""


def _emit(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
    values, out, weights, quotients, moduli = (
        context.make_array(kind)(context, b, x) for kind, x in zip(signature.args, arguments, strict=True)
    )
    n_rows, n_columns = cgutils.unpack_tuple(b, values.shape, 2)
    n_targets = cgutils.unpack_tuple(b, out.shape, 2)[0]
    index = n_rows.type
    zero = ir.Constant(index, 0)
    floats = FloatLanes(b, (ir.Constant(ir.DoubleType(), 0.0),) * 2)
    with cgutils.for_range_slice(b, zero, n_columns, ir.Constant(index, COLUMNS)) as (column, _):
        places = [b.add(column, ir.Constant(index, LANES * u)) for u in range(UNROLLED)]
        with cgutils.for_range(b, n_targets) as target:
            i = target.index
            sums = [cgutils.alloca_once(b, WordLanes.vector) for _ in places]
            approximations = [cgutils.alloca_once(b, FloatLanes.vector) for _ in places]
            for total, approximation in zip(sums, approximations, strict=True):
                b.store(floats.constant(0), total)
                b.store(floats.constant(0.0), approximation)
            with cgutils.for_range(b, n_rows) as row:
                at = [b.add(b.mul(i, n_rows), row.index)]
                weight = floats.spread(b.load(b.gep(weights.data, at)))
                quotient = floats.spread(b.load(b.gep(quotients.data, at)))
                for place, total, approximation in zip(places, sums, approximations, strict=True):
                    start = b.add(b.mul(row.index, n_columns), place)
                    value = floats.load(values.data, start, WordLanes.vector)
                    b.store(b.add(b.load(total), b.mul(value, weight)), total)
                    b.store(floats.multiply_add(floats.enter(value), quotient, b.load(approximation)), approximation)
            words = WordLanes(b, (b.load(b.gep(moduli.data, [i])), None))
            for place, total, approximation in zip(places, sums, approximations, strict=True):
                multiple = b.mul(floats.round_to_words(b.load(approximation)), words.p)
                rest = b.add(b.sub(b.load(total), multiple), words.four)
                words.store(out.data, b.add(b.mul(i, n_columns), place), words.leave(rest))
    return context.get_dummy_value()


@intrinsic
def _weighted_sums(typing_context, values, out, weights, quotients, moduli):  # type: ignore[no-untyped-def]
    return VOID(values, out, weights, quotients, moduli), _emit


@kernel(VOID, IN_ROWS, OUT_ROWS, IN_ROWS, array_of(types.float64, 2), IN_ROW)
def weighted_sums_kernel(
    values: Words, out: Words, weights: Words, quotients: npt.NDArray[np.float64], moduli: Words
) -> None:
    """out[i] = sum_k weights[i, k] * values[k] modulo moduli[i]; the sizes are those of the module's text."""
    _weighted_sums(values, out, weights, quotients, moduli)  # type: ignore[call-arg]
