"""The transforms of `mhe.ring.ntt` on vectors of eight residues, several layers at a time, for N >= 128.

The same values in the same order, computed in other steps: each pass over memory does up to three layers in
registers, and the last (for the inverse: first) pass does six on blocks of 64 values, with a transposition of 8 x 8
between its halves. Half of the passes over memory of one layer at a time, and no short loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba.extending import intrinsic

from mhe.ring.modular import OUT_ROW, VOID, WORD, Words, array_of, kernel, types
from mhe.ring.vectors import LANES, WORD_VECTOR, FloatLanes, WordLanes, cgutils

Table = npt.NDArray[Any]
"""float64 for FloatLanes, uint64 for WordLanes."""

LEAF = LANES * LANES
"""Values that the last pass of the forward transform holds in registers."""

MIN_RING_DIM = 2 * LEAF

LEAF_TWIDDLES = 7 * LANES
"""Twiddles of the three layers within a vector: one vector for the first, two and four for the others."""


def leaf_twiddles(table: Table) -> Table:
    """The twiddles of the last three layers in the order of use, from those in the order of the transform: (N,)."""
    blocks = np.arange(len(table) // LEAF)[:, None, None]
    lanes = np.arange(LANES)[None, None]
    first = LANES * (len(table) // LEAF + blocks) + lanes
    orders = [(first << layer) + np.arange(1 << layer)[None, :, None] for layer in range(3)]
    return np.ascontiguousarray(table[np.concatenate(orders, axis=1)].ravel())


def _lanes(array: Any) -> type[FloatLanes] | type[WordLanes]:
    """The arithmetic that suits a table."""
    return FloatLanes if array.dtype == types.float64 else WordLanes


class _Block:
    """What every step has at hand while it is emitted: the arithmetic, the row and the twiddles."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        row, _, _, roots, ratios, _, *modulus = arguments
        kinds = signature.args
        self.builder = builder
        self.lanes = _lanes(kinds[3])(builder, modulus)
        self.row = context.make_array(kinds[0])(context, builder, row).data
        self.roots = context.make_array(kinds[3])(context, builder, roots).data
        self.ratios = context.make_array(kinds[4])(context, builder, ratios).data

    def index(self, base: Any, factor: int, offset: int) -> Any:
        b = self.builder
        return b.add(b.mul(base, ir.Constant(base.type, factor)), ir.Constant(base.type, offset))

    def spread_twiddles(self, k: Any, layers: int) -> list[tuple[Any, Any]]:
        """(twiddle, ratio) of layer l, block i at place 2^l - 1 + i: those at (k << l) + i of the tables."""
        found = []
        for layer in range(layers):
            for i in range(1 << layer):
                place = [self.index(k, 1 << layer, i)]
                pair = (self.builder.load(self.builder.gep(table, place)) for table in (self.roots, self.ratios))
                found.append(tuple(self.lanes.spread(x) for x in pair))
        return found

    def leaf_twiddles(self, start: Any) -> list[tuple[Any, Any]]:
        places = [self.index(start, 1, LANES * i) for i in range(7)]
        return [(self.lanes.load(self.roots, at), self.lanes.load(self.ratios, at)) for at in places]

    def places(self, start: Any, stride: Any, count: int) -> list[Any]:
        b = self.builder
        return [b.add(start, b.mul(stride, ir.Constant(stride.type, i))) for i in range(count)]


def _forward_layers(lanes: Any, v: list[Any], twiddles: list[tuple[Any, Any]]) -> None:
    half = len(v) >> 1
    layer = 1
    while half:
        for i in range(layer):
            for j in range(2 * i * half, (2 * i + 1) * half):
                v[j], v[j + half] = lanes.butterfly(v[j], v[j + half], *twiddles[layer - 1 + i])
        layer, half = layer << 1, half >> 1


def _inverse_layers(lanes: Any, v: list[Any], twiddles: list[tuple[Any, Any]], last: tuple[Any, Any] | None) -> None:
    """last: (1/N, its ratio) when the layer of one block is the last of all, which also divides by N."""
    layer, half = len(v) >> 1, 1
    while layer:
        for i in range(layer):
            for j in range(2 * i * half, (2 * i + 1) * half):
                twiddle = twiddles[layer - 1 + i]
                if layer == 1 and last is not None:
                    v[j], v[j + half] = lanes.last_butterfly(v[j], v[j + half], last, twiddle)
                else:
                    v[j], v[j + half] = lanes.inverse_butterfly(v[j], v[j + half], *twiddle)
        layer, half = layer >> 1, half << 1


def _step(layers: int, *, forward: bool, enter: bool = False, reduce: bool = False, last: bool = False) -> Any:
    """One block: 2^layers runs of `stride` values from `start` on, in place, with the twiddles from k on.

    enter, reduce: what happens to the values on arrival. last: divide by N and leave; roots[0] is 1/N then.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block = _Block(context, builder, signature, arguments)
        _, start, stride, _, _, k, *_ = arguments
        twiddles, lanes = block.spread_twiddles(k, layers), block.lanes
        n_inverse = block.spread_twiddles(ir.Constant(k.type, 0), 1)[0] if last else None
        step = ir.Constant(stride.type, LANES)
        with cgutils.for_range_slice(builder, start, builder.add(start, stride), step) as (j, _):
            places = block.places(j, stride, 1 << layers)
            v = [lanes.load(block.row, at, WORD_VECTOR if enter else None) for at in places]
            v = [lanes.enter(x) if enter else lanes.reduce(x) if reduce else x for x in v]
            if forward:
                _forward_layers(lanes, v, twiddles)
            else:
                _inverse_layers(lanes, v, twiddles, n_inverse)
            for at, x in zip(places, v, strict=True):
                lanes.store(block.row, at, lanes.leave(x) if last else x)
        return context.get_dummy_value()

    return _emitter(emit)


def _leaf(*, forward: bool) -> Any:
    """Six layers on the 64 values from `start` on; the twiddles of the inner three layers from `stride` on.

    Two sets of tables are needed, so the arguments are: row, start, start of the leaf's twiddles, roots, ratios, k.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        inner = _Block(context, builder, signature, (*arguments[:3], *arguments[6:8], *arguments[5:6], *arguments[8:]))
        outer = _Block(context, builder, signature, (*arguments[:6], *arguments[8:]))
        lanes = outer.lanes
        _, start, leaf, _, _, k, *_ = arguments
        places = [outer.index(start, 1, LANES * i) for i in range(LANES)]
        v = [lanes.load(outer.row, at, None if forward else WORD_VECTOR) for at in places]
        if forward:
            _forward_layers(lanes, v, outer.spread_twiddles(k, 3))
            v = lanes.transpose(v)
            _forward_layers(lanes, v, inner.leaf_twiddles(leaf))
            v = lanes.transpose([lanes.leave(x) for x in v])
        else:
            v = lanes.transpose([lanes.enter(x) for x in v])
            _inverse_layers(lanes, v, inner.leaf_twiddles(leaf), None)
            v = lanes.transpose([lanes.reduce(x) for x in v])
            _inverse_layers(lanes, v, outer.spread_twiddles(k, 3), None)
        for at, x in zip(places, v, strict=True):
            lanes.store(outer.row, at, x)
        return context.get_dummy_value()

    return _emitter(emit, leaf=True)


def _emitter(emit: Any, *, leaf: bool = False) -> Any:
    if leaf:

        @intrinsic
        def block(  # type: ignore[no-untyped-def]
            typing_context, row, start, stride, roots, ratios, k, leaf_roots, leaf_ratios, modulus, reciprocal
        ):
            index = types.intp
            return types.void(
                row, index, index, roots, ratios, index, leaf_roots, leaf_ratios, modulus, reciprocal
            ), emit
    else:

        @intrinsic
        def block(typing_context, row, start, stride, roots, ratios, k, modulus, reciprocal):  # type: ignore[no-untyped-def]
            index = types.intp
            return types.void(row, index, index, roots, ratios, index, modulus, reciprocal), emit

    return block


_enter_one, _enter_two, _enter_three = (_step(layers, forward=True, enter=True) for layers in (1, 2, 3))
_three, _reduce_three = _step(3, forward=True), _step(3, forward=True, reduce=True)
_forward_leaf, _inverse_leaf = _leaf(forward=True), _leaf(forward=False)
_inverse_three = _step(3, forward=False, reduce=True)
_last_one, _last_two, _last_three = (_step(layers, forward=False, reduce=True, last=True) for layers in (1, 2, 3))


def forward_loop(
    row: Words, roots: Table, ratios: Table, leaf_roots: Table, leaf_ratios: Table, modulus: Any, reciprocal: Any
) -> None:
    """Coefficients to values, in place: (N,), reduced in, reduced out."""
    layers = 0
    while row.size >> layers > LEAF:
        layers += 1
    rest = (layers - 1) % 3 + 1
    stride = row.size >> rest
    if rest == 1:
        _enter_one(row, 0, stride, roots, ratios, 1, modulus, reciprocal)
    elif rest == 2:
        _enter_two(row, 0, stride, roots, ratios, 1, modulus, reciprocal)
    else:
        _enter_three(row, 0, stride, roots, ratios, 1, modulus, reciprocal)
    blocks, size, passes = 1 << rest, stride, 1
    while size > LEAF:
        for i in range(blocks):
            # The bounds of mhe.ring.vectors: six layers may come before a reduction, nine after one.
            if passes == 1 and size >> 3 > LEAF:
                _three(row, i * size, size >> 3, roots, ratios, blocks + i, modulus, reciprocal)
            else:
                _reduce_three(row, i * size, size >> 3, roots, ratios, blocks + i, modulus, reciprocal)
        blocks, size, passes = blocks << 3, size >> 3, passes + 1
    for i in range(blocks):
        at, leaf, k = i * LEAF, i * LEAF_TWIDDLES, blocks + i
        _forward_leaf(row, at, leaf, roots, ratios, k, leaf_roots, leaf_ratios, modulus, reciprocal)


def inverse_loop(
    row: Words, roots: Table, ratios: Table, leaf_roots: Table, leaf_ratios: Table, modulus: Any, reciprocal: Any
) -> None:
    """Values to coefficients, in place: (N,), reduced in, reduced out.

    roots[0] is 1/N, and roots[1] the last layer's twiddle times 1/N.
    """
    blocks, size = row.size // LEAF, LEAF
    for i in range(blocks):
        at, leaf, k = i * LEAF, i * LEAF_TWIDDLES, blocks + i
        _inverse_leaf(row, at, leaf, roots, ratios, k, leaf_roots, leaf_ratios, modulus, reciprocal)
    while blocks > 8:
        blocks >>= 3
        for i in range(blocks):
            _inverse_three(row, i * size * 8, size, roots, ratios, blocks + i, modulus, reciprocal)
        size <<= 3
    if blocks == 2:
        _last_one(row, 0, size, roots, ratios, 1, modulus, reciprocal)
    elif blocks == 4:
        _last_two(row, 0, size, roots, ratios, 1, modulus, reciprocal)
    else:
        _last_three(row, 0, size, roots, ratios, 1, modulus, reciprocal)


_FLOATS = array_of(types.float64, 1)
_WORDS = array_of(WORD, 1)
forward_float = kernel(VOID, OUT_ROW, _FLOATS, _FLOATS, _FLOATS, _FLOATS, types.float64, types.float64)(forward_loop)
forward_word = kernel(VOID, OUT_ROW, _WORDS, _WORDS, _WORDS, _WORDS, WORD, WORD)(forward_loop)
inverse_float = kernel(VOID, OUT_ROW, _FLOATS, _FLOATS, _FLOATS, _FLOATS, types.float64, types.float64)(inverse_loop)
inverse_word = kernel(VOID, OUT_ROW, _WORDS, _WORDS, _WORDS, _WORDS, WORD, WORD)(inverse_loop)
