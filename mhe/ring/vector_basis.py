"""`mhe.ring.basis.lift` on vectors of eight: its terms in float64, then sums of them with constant weights.

The terms are the y_i of `lift`, cut at bit PIECE where they are longer than PIECE_BITS, and v at last: at most MAX_ROWS
rows of integers t_k < 2^47, all floats. What is wanted is S = sum_k t_k w_k modulo p, for weights w_k < p < 2^b.

In float64, for p < 2^49, as in `mhe.ring.matrix`: A starts from the anchor 2^(b+50) and stays below twice that (eight
products below 2^(b+47)), with a last place of 2^(b-2); what every product loses is an integer of at most 2^(b-3), all
of them together at most 2^b <= 2p. The quotient of A by p is below 2^51 and off by at most a relative 2^-53, a quarter,
so that A is reduced to below 0.75p, and the whole to below 2.75p.

In words, for any p: S is known modulo 2^64, and its quotient by p approximately, in float64: q = rint(Q), Q = sum_k
t_k fl(w_k / p). Then S - q p, computed modulo 2^64, is small: a term is below 2^47 and has two rounding errors,
together below 2^-5; each of the n - 1 additions rounds a number below n 2^47, with an error below n 2^-7 (n <= 8:
half of the last place). That is 8/32 + 7 * 8/128 < 0.69, with q's own rounding below 1.19: |S - q p| < 1.19 p, and S
- q p + 4p is between 2p and 6p.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba.extending import intrinsic

from mhe.ring.modular import BLOCK, IN_ROW, IN_ROWS, OUT_ROWS, VOID, WORD, Words, array_of, kernel, types
from mhe.ring.vectors import FLOAT_VECTOR, LANES, WORD_VECTOR, FloatLanes, WordLanes, cgutils

PIECE = 31
PIECE_BITS = 47
MAX_ROWS = 8
UNROLLED = 4
COLUMNS = LANES * UNROLLED
"""The number of columns must be a multiple of it."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def _lanes(kind: Any, b: Any, p: Any, reciprocal: Any) -> Any:
    return kind(b, (b.uitofp(p, reciprocal.type), reciprocal) if kind is FloatLanes else (p, reciprocal))


def _term(kind: type[FloatLanes] | type[WordLanes], *, long: bool) -> Any:
    """Columns start .. stop of y_i = x_i * factor into row `row` of the terms (and the next), y_i / p to the last."""

    def emit(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, terms = (context.make_array(signature.args[i])(context, b, arguments[i]) for i in (0, 1))
        i, row, start, stop, factor, ratio, p, reciprocal = arguments[2:]
        n_rows, n = cgutils.unpack_tuple(b, terms.shape, 2)
        lanes, floats = _lanes(kind, b, p, reciprocal), FloatLanes(b, (reciprocal, reciprocal))
        factor = lanes.spread(b.bitcast(factor, reciprocal.type) if kind is FloatLanes else factor)
        ratio = lanes.spread(ratio)
        upper = b.fmul(reciprocal, ir.Constant(reciprocal.type, 2.0**PIECE))
        weights = [lanes.spread(w) for w in ((reciprocal, upper) if long else (reciprocal,))]
        source, target = b.mul(i, n), b.mul(row, n)
        last = b.mul(b.sub(n_rows, n.type(1)), n)
        with cgutils.for_range_slice(b, start, stop, n.type(LANES)) as (column, _):
            residue = lanes.enter(lanes.load(x.data, b.add(source, column), WORD_VECTOR))
            y = lanes.leave(lanes.multiply(residue, factor, ratio))
            pieces = [y]
            if long:
                pieces = [b.and_(y, lanes.constant((1 << PIECE) - 1)), b.lshr(y, lanes.constant(PIECE))]
            total = floats.load(terms.data, b.add(last, column))
            for k, (piece, weight) in enumerate(zip(pieces, weights, strict=True)):
                value = floats.enter(piece)
                total = floats.multiply_add(value, weight, total)
                floats.store(terms.data, b.add(b.add(target, column), b.mul(n, n.type(k))), value)
            floats.store(terms.data, b.add(last, column), total)
        return context.get_dummy_value()

    @intrinsic
    def term(typing_context, x, terms, i, row, start, stop, factor, ratio, p, reciprocal):  # type: ignore[no-untyped-def]
        index = types.intp
        return VOID(x, terms, index, index, index, index, WORD, WORD, WORD, types.float64), emit

    return term


_float_short, _float_long = (_term(FloatLanes, long=long) for long in (False, True))
_word_short, _word_long = (_term(WordLanes, long=long) for long in (False, True))


def _sum(kind: type[FloatLanes] | type[WordLanes]) -> Any:
    """Columns start .. stop of row i of the sums.

    quotients: the weights as floats for FloatLanes, divided by p for WordLanes.
    """

    def emit(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        i, start, stop, p, reciprocal, anchor = arguments[4:]
        terms, out, weights, quotients = (
            context.make_array(signature.args[k])(context, b, arguments[k]) for k in range(4)
        )
        n_rows, n = cgutils.unpack_tuple(b, terms.shape, 2)
        lanes, floats = _lanes(kind, b, p, reciprocal), FloatLanes(b, (reciprocal, reciprocal))
        zeros = floats.constant(0.0)
        floating = kind is FloatLanes
        anchors = floats.spread(anchor)
        # A and what it loses, or the sum and its quotient
        begin = (anchors, zeros) if floating else (floats.constant(0), zeros)
        kinds = (FLOAT_VECTOR if floating else WORD_VECTOR, FLOAT_VECTOR)
        states = [tuple(cgutils.alloca_once(b, k) for k in kinds) for _ in range(UNROLLED)]
        with cgutils.for_range_slice(b, start, stop, n.type(COLUMNS)) as (column, _):
            places = [b.add(column, n.type(LANES * u)) for u in range(UNROLLED)]
            for state in states:
                for place, value in zip(state, begin, strict=True):
                    b.store(value, place)
            with cgutils.for_range(b, n_rows) as row:
                at = [b.add(b.mul(i, n_rows), row.index)]
                quotient = floats.spread(b.load(b.gep(quotients.data, at)))
                weight = floats.spread(b.load(b.gep(weights.data, at)))
                for place, state in zip(places, states, strict=True):
                    value = floats.load(terms.data, b.add(b.mul(row.index, n), place))
                    first, second = (b.load(x) for x in state)
                    if floating:
                        total = floats.multiply_add(value, quotient, first)
                        lost = floats.multiply_add(value, quotient, b.fsub(first, total))
                        b.store(total, state[0])
                        b.store(b.fadd(second, lost), state[1])
                    else:
                        b.store(b.add(first, b.mul(floats.round_to_words(value), weight)), state[0])
                        b.store(floats.multiply_add(value, quotient, second), state[1])
            for place, state in zip(places, states, strict=True):
                first, second = (b.load(x) for x in state)
                if floating:
                    result = b.fadd(lanes.reduce(b.fsub(first, anchors)), second)
                else:
                    result = b.add(b.sub(first, b.mul(floats.round_to_words(second), lanes.p)), lanes.four)
                lanes.store(out.data, b.add(b.mul(i, n), place), lanes.leave(result))
        return context.get_dummy_value()

    @intrinsic
    def weighted_sum(  # type: ignore[no-untyped-def]
        typing_context, terms, out, weights, quotients, i, start, stop, p, reciprocal, anchor
    ):
        index, real = types.intp, types.float64
        return VOID(terms, out, weights, quotients, index, index, index, WORD, real, real), emit

    return weighted_sum


_float_sum, _word_sum = _sum(FloatLanes), _sum(WordLanes)

_ROW, _ROWS, _FLAGS = array_of(types.float64, 1), array_of(types.float64, 2), array_of(types.boolean, 1)


@kernel(VOID, IN_ROWS, IN_ROW, IN_ROW, IN_ROW, _ROW, _FLAGS, _FLAGS, array_of(types.float64, 2, readonly=False))
def terms_kernel(
    x: Words, moduli: Words, factors: Words, ratios: Words, reciprocals: Floats, floating: Flags, long: Flags,
    terms: Floats,
) -> None:  # fmt: skip
    """terms = y_1 .. y_k, v; a long y_i as two rows. factors: (Q/q_i)^-1, as bits of centred floats where floating."""
    last = terms.shape[0] - 1
    for start in range(0, x.shape[1], BLOCK):
        stop = min(start + BLOCK, x.shape[1])
        terms[last, start:stop] = 0.0
        row = 0
        for i in range(x.shape[0]):
            w, ratio, p, reciprocal = factors[i], ratios[i], moduli[i], reciprocals[i]
            if floating[i] and long[i]:
                _float_long(x, terms, i, row, start, stop, w, ratio, p, reciprocal)
            elif floating[i]:
                _float_short(x, terms, i, row, start, stop, w, ratio, p, reciprocal)
            elif long[i]:
                _word_long(x, terms, i, row, start, stop, w, ratio, p, reciprocal)
            else:
                _word_short(x, terms, i, row, start, stop, w, ratio, p, reciprocal)
            row += 2 if long[i] else 1
        for j in range(start, stop):
            terms[last, j] = np.rint(terms[last, j])


@kernel(VOID, _ROWS, OUT_ROWS, IN_ROWS, _ROWS, IN_ROW, _ROW, _FLAGS, _ROW)
def weighted_sums_kernel(
    terms: Floats, out: Words, weights: Words, quotients: Floats, moduli: Words, reciprocals: Floats, floating: Flags,
    anchors: Floats,
) -> None:  # fmt: skip
    """out[i] = sum_k weights[i, k] * terms[k] modulo moduli[i]; the sizes are those of the module's text."""
    for start in range(0, out.shape[1], BLOCK):
        stop = min(start + BLOCK, out.shape[1])
        for i in range(out.shape[0]):
            p, reciprocal, anchor = moduli[i], reciprocals[i], anchors[i]
            if floating[i]:
                _float_sum(terms, out, weights, quotients, i, start, stop, p, reciprocal, anchor)
            else:
                _word_sum(terms, out, weights, quotients, i, start, stop, p, reciprocal, anchor)
