"""Matrices of symmetric rows times vectors of pairs: the products of encoded plaintexts with ciphertexts.

A real plaintext takes the same value at a root and at its inverse, so that the second half of its residues is the first
one backwards (`mhe.ring.symmetric`), and is neither stored nor read: a product costs half the memory
traffic. What a product of many rows has to read again and again are the ciphertexts, not the rows; so the columns are
taken in blocks that stay in the caches, of all ciphertexts at once, while the blocks of the rows stream past.

FloatLanes adds up eight products before it reduces, of factors below p < 2^b, b <= 49, in two sums: A starts from the
anchor 2^(2b+3) and remains below twice that, so that its last place is 2^k, k = 2b - 49. A' = fma(x, y, A) is rounded
to a multiple of 2^k, A - A' is exact (both are such multiples, at most 2^52 of them apart), and fma(x, y, A - A') is
what was rounded off, an integer of at most 2^(k-1) <= 2^48, exactly. Eight of them, a residue carried along and A
reduced (below 1.6p) stay below 2^53. That is four instructions for a product, and `FloatLanes.multiply` has seven.

WordLanes carries instead of reducing. With the parts T, U, M, L of weights 2^90, 2^60, 2^30 and 1, and factors below
2^61 in halves below 2^31 and 2^30, four products add less than 4 (2^31 - 1)^2 < 2^64 - 2^33 to U, 8 * 2^61 - 2^34 to M
and 2^62 to L. Carrying leaves U, M, L below 2^30 + 2^34, 2^30 + 2^33 and 2^30 at every step of it, hence none of them
overflows, and T grows by less than 2^35 in every four products: enough for 2^31 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba.extending import intrinsic

from mhe.ring import products
from mhe.ring.modular import IN_ROW, IN_ROWS, VOID, WORD, Words, array_of, kernel, shoup, types, words
from mhe.ring.parallel import Run, in_turn
from mhe.ring.vectors import ALIGNMENT, FLOAT_LIMIT, LANES, WORD_VECTOR, FloatLanes, WordLanes, cgutils

COLUMNS = 2 * LANES
"""The number of columns of a ciphertext must be a multiple of it."""

BLOCK = 128
"""Columns of a plaintext that are taken at a time."""

GROUP = 4
"""Terms that share one pass over the running sums."""

PARTS = 4
"""Columns of the ciphertexts that meet one column of a plaintext: c0 and c1, in both halves."""

STREAMED_ROWS = 4
"""Results of so many rows are stored past the caches."""

Pair = tuple[Words, Words]
"""c0 and c1 of a ciphertext."""

_WORD = ir.IntType(64)


class _FloatSum(FloatLanes):
    """Two running sums of products in float64: multiples of 2^k on top of the anchor, and what is below."""

    n_states, n_constants = 2, 1

    def __init__(self, builder: Any, p: Any, reciprocal: Any, constants: Any) -> None:
        super().__init__(builder, (builder.uitofp(p, reciprocal.type), reciprocal))
        self.anchor = self.spread(constants[0])

    def split(self, x: Any) -> Any:
        return x

    def start(self, residue: Any) -> list[Any]:
        return [self.anchor, self.reduce(self.enter(residue))]

    def accumulate(self, state: list[Any], x: Any, y: Any) -> list[Any]:
        upper, lower = state
        total = self.multiply_add(x, y, upper)
        return [total, self.add(lower, self.multiply_add(x, y, self.builder.fsub(upper, total)))]

    def fold(self, state: list[Any]) -> list[Any]:
        return [self.anchor, self.reduce(self._sum(state))]

    def _sum(self, state: list[Any]) -> Any:
        return self.add(self.reduce_wide(self.builder.fsub(state[0], self.anchor)), state[1])

    def finish(self, state: list[Any]) -> Any:
        return self.leave(self._sum(state))


class _WordSum(WordLanes):
    """Running sums of partial products, by weight: 1, 2^30, 2^60, 2^90. constants: these mod p, each with its ratio."""

    n_states, n_constants = 4, 8

    def __init__(self, builder: Any, p: Any, reciprocal: Any, constants: Any) -> None:
        super().__init__(builder, (p, reciprocal))
        self.weights = [self.spread(x) for x in constants]

    def split(self, x: Any) -> Any:
        b = self.builder
        # the second mask changes nothing, but says that 32 bits are enough, which makes for a cheaper product
        upper = b.and_(b.lshr(x, self.constant(products.SPLIT)), self.constant(0xFFFFFFFF))
        return upper, self._lower(x)

    def _lower(self, x: Any) -> Any:
        return self.builder.and_(x, self.constant((1 << products.SPLIT) - 1))

    def start(self, residue: Any) -> list[Any]:
        return [residue, *[self.constant(0)] * 3]

    def accumulate(self, state: list[Any], x: Any, y: Any) -> list[Any]:
        b = self.builder
        (x1, x0), (y1, y0) = self.split(x), y
        lower, middle, upper, top = state
        middle = b.add(b.add(middle, b.mul(x1, y0)), b.mul(x0, y1))
        return [b.add(lower, b.mul(x0, y0)), middle, b.add(upper, b.mul(x1, y1)), top]

    def fold(self, state: list[Any]) -> list[Any]:
        state = list(state)
        # from above to below, so that there is room for what arrives, and the uppermost twice for what arrived
        for i in (2, 1, 0, 2):
            state[i + 1] = self.builder.add(state[i + 1], self.builder.lshr(state[i], self.constant(products.SPLIT)))
            state[i] = self._lower(state[i])
        return state

    def finish(self, state: list[Any]) -> Any:
        total: Any = None
        for i, part in enumerate(state):
            term = self.multiply(part, self.weights[2 * i], self.weights[2 * i + 1])
            total = term if total is None else self.reduce_once(self.builder.add(total, term), self.four)
        for p in (self.two, self.p):
            total = self.reduce_once(total, p)
        return total


MOST_STATES = max(_FloatSum.n_states, _WordSum.n_states)
"""Running sums that either arithmetic has room for."""


class _Step:
    """What every step has at hand while it is emitted: the arithmetic of the limb, and a loop over a block.

    Which arithmetic follows from the type of the constants: float64 or words. Loops that had it in a closure would have
    another name in numba's cache in every process, and each would compile them anew.
    """

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.b, self.context, self.signature, self.arguments = builder, context, signature, arguments
        kind = _FloatSum if signature.args[2].dtype == types.float64 else _WordSum
        p, reciprocal, _ = arguments[:3]
        table = self.array(2)
        constants = [builder.load(builder.gep(table, [ir.Constant(_WORD, i)])) for i in range(kind.n_constants)]
        self.lanes: Any = kind(builder, p, reciprocal, constants)
        self.size = arguments[3]

    def array(self, i: int) -> Any:
        return self.context.make_array(self.signature.args[i])(self.context, self.b, self.arguments[i]).data

    def integer(self, value: int) -> Any:
        return ir.Constant(_WORD, value)

    def pointer(self, address: Any) -> Any:
        return self.b.inttoptr(address, _WORD.as_pointer())

    def vectors(self) -> Any:
        """The columns of the block, eight at a time."""
        return cgutils.for_range_slice(self.b, self.integer(0), self.size, self.integer(LANES))

    def mirrored(self, column: Any) -> Any:
        """Where the eight columns opposite to these start, counted from the first of the opposite block."""
        return self.b.sub(self.b.sub(self.size, column), self.integer(LANES))

    def states(self, part: int, column: Any) -> list[Any]:
        """Places of the running sums of a part of the ciphertexts, for eight columns."""
        n = self.lanes.n_states
        return [self.b.add(column, self.integer((part * n + i) * BLOCK)) for i in range(n)]


def _preparation(typing_context, p, reciprocal, constants, size, scratch, to, source, opposite):  # type: ignore[no-untyped-def]
    """A block of one polynomial into the scratch row at `to`, and the opposite block, backwards, into the one after."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        step = _Step(context, builder, signature, arguments)
        lanes, scratch = step.lanes, step.array(4)
        to, source, opposite = arguments[5:]
        with step.vectors() as (column, _):
            at = builder.add(to, column)
            ahead, behind = (step.integer(sign * BLOCK) for sign in (1, -1))
            lanes.prefetch(step.pointer(source), builder.add(column, ahead))
            lanes.prefetch(step.pointer(opposite), builder.add(step.mirrored(column), behind))
            here = lanes.load(step.pointer(source), column, WORD_VECTOR)
            there = lanes.reverse(lanes.load(step.pointer(opposite), step.mirrored(column), WORD_VECTOR))
            lanes.store(scratch, at, lanes.enter(here))
            lanes.store(scratch, builder.add(at, step.integer(BLOCK)), lanes.enter(there))
        return context.get_dummy_value()

    return VOID(WORD, types.float64, constants, types.intp, scratch, types.intp, WORD, WORD), emit


def _accumulate(terms: int, *, fold: bool) -> Any:
    """sums += products of so many rows with the scratch rows from `first` on.

    places[k] and what follows are where the blocks of the rows start; those at `ahead` are needed next.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        step = _Step(context, builder, signature, arguments)
        lanes, sums, scratch, places = step.lanes, step.array(4), step.array(5), step.array(7)
        first, _, k, offset, ahead = arguments[6:]

        def rows(start: Any) -> list[Any]:
            found = [builder.load(builder.gep(places, [builder.add(start, step.integer(t))])) for t in range(terms)]
            return [step.pointer(builder.add(place, offset)) for place in found]

        sources, following = rows(k), rows(ahead)
        with step.vectors() as (column, _):
            for row in following:
                lanes.prefetch(row, column)
            factors = [lanes.split(lanes.enter(lanes.load(row, column, WORD_VECTOR))) for row in sources]
            for part in range(PARTS):
                at = step.states(part, column)
                state = [lanes.load(sums, place) for place in at]
                for t, factor in enumerate(factors):
                    where = builder.add(builder.add(first, step.integer((t * PARTS + part) * BLOCK)), column)
                    state = lanes.accumulate(state, lanes.load(scratch, where), factor)
                for place, x in zip(at, lanes.fold(state) if fold else state, strict=True):
                    lanes.store(sums, place, x)
        return context.get_dummy_value()

    @intrinsic
    def accumulate(  # type: ignore[no-untyped-def]
        typing_context, p, reciprocal, constants, size, sums, scratch, first, places, k, offset, ahead
    ):
        index = types.intp
        return VOID(WORD, types.float64, constants, index, sums, scratch, index, places, index, WORD, index), emit

    return accumulate


def _boundary(*, start: bool, read: bool = False, stream: bool = False) -> Any:
    """The running sums from 0 or from the block of the result, or the other way round, for one of c0 and c1."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        step = _Step(context, builder, signature, arguments)
        lanes, sums = step.lanes, step.array(4)
        here, there, part = arguments[5:]
        first = builder.mul(part, step.integer(lanes.n_states * BLOCK))
        with step.vectors() as (column, _):
            for half in range(2):
                block = step.pointer(there if half else here)
                where = step.mirrored(column) if half else column
                at = [builder.add(first, place) for place in step.states(half, column)]
                if start:
                    old = lanes.load(block, where, WORD_VECTOR) if read else lanes.constant(0)
                    for place, x in zip(at, lanes.start(lanes.reverse(old) if half else old), strict=True):
                        lanes.store(sums, place, x)
                else:
                    result = lanes.finish([lanes.load(sums, place) for place in at])
                    (lanes.stream if stream else lanes.store)(block, where, lanes.reverse(result) if half else result)
        return context.get_dummy_value()

    @intrinsic
    def boundary(typing_context, p, reciprocal, constants, size, sums, here, there, part):  # type: ignore[no-untyped-def]
        index = types.intp
        return VOID(WORD, types.float64, constants, index, sums, WORD, WORD, index), emit

    return boundary


_prepare: Any = intrinsic(_preparation)
_four, _four_folded = (_accumulate(GROUP, fold=fold) for fold in (False, True))
_one = _accumulate(1, fold=True)
_begin, _resume = (_boundary(start=True, read=read) for read in (False, True))
_end, _end_streaming = (_boundary(start=False, stream=stream) for stream in (False, True))


def _limb(
    out: Words, limb: int, n: int, rows: Words, vector: Words, p: np.uint64, reciprocal: Any, constants: Any,
    often: int, keep: bool, stream: bool,
) -> None:  # fmt: skip
    """The loops over one limb."""
    n_rows, n_terms, half = rows.shape[0], rows.shape[1], n >> 1
    scratch = np.empty(n_terms * PARTS * BLOCK, dtype=np.uint64)
    sums = np.empty(PARTS * MOST_STATES * BLOCK, dtype=np.uint64)
    places = rows.reshape(-1)
    for block in range(0, half, BLOCK):
        size = min(BLOCK, half - block)
        here, there = np.uint64(8 * (limb * n + block)), np.uint64(8 * (limb * n + n - block - size))
        offset = np.uint64(8 * (limb * half + block))
        for t in range(n_terms):
            for part in range(2):
                source, to = vector[t, part], (t * PARTS + 2 * part) * BLOCK
                _prepare(p, reciprocal, constants, size, scratch, to, source + here, source + there)
        for r in range(n_rows):
            for part in range(2):
                target = out[r, part]
                if keep:
                    _resume(p, reciprocal, constants, size, sums, target + here, target + there, 2 * part)
                else:
                    _begin(p, reciprocal, constants, size, sums, target + here, target + there, 2 * part)
            k, last = r * n_terms, (r + 1) * n_terms
            while last - k >= GROUP:
                done = k - r * n_terms
                first, ahead = done * PARTS * BLOCK, min(k + GROUP, places.size - GROUP)
                if (done + GROUP) % often == 0:
                    _four_folded(p, reciprocal, constants, size, sums, scratch, first, places, k, offset, ahead)
                else:
                    _four(p, reciprocal, constants, size, sums, scratch, first, places, k, offset, ahead)
                k += GROUP
            while k < last:
                first, ahead = (k - r * n_terms) * PARTS * BLOCK, min(k + 1, places.size - 1)
                _one(p, reciprocal, constants, size, sums, scratch, first, places, k, offset, ahead)
                k += 1
            for part in range(2):
                target = out[r, part]
                if stream:
                    _end_streaming(p, reciprocal, constants, size, sums, target + here, target + there, 2 * part)
                else:
                    _end(p, reciprocal, constants, size, sums, target + here, target + there, 2 * part)


def _compiled(constants: Any) -> Any:
    """The loops over one limb, in the arithmetic that has constants of this type."""
    index, flag = types.intp, types.boolean
    return kernel(VOID, IN_ROWS, index, index, IN_ROWS, IN_ROWS, WORD, types.float64, constants, index, flag, flag)(
        _limb
    )


_float_limb, _word_limb = _compiled(array_of(types.float64, 1)), _compiled(IN_ROW)


def aligned(rows: int, columns: int) -> Words:
    """An array (rows, columns) to be written, which starts at a multiple of ALIGNMENT."""
    size, extra = rows * columns, ALIGNMENT // 8
    whole = np.empty(size + extra, dtype=np.uint64)
    start = -products.address(whole) % ALIGNMENT // 8
    return whole[start : start + size].reshape(rows, columns)


@lru_cache(maxsize=256)
def _arguments(p: int, *, floating: bool) -> tuple[np.uint64, float, npt.NDArray[Any], int]:
    """p, 1/p, the constants of the arithmetic, and how many terms it adds up before it folds."""
    if floating:
        return np.uint64(p), 1 / p, np.array([2.0 ** (2 * p.bit_length() + 3)]), 2 * GROUP
    weights = [(1 << products.SPLIT * i) % p for i in range(_WordSum.n_states)]
    return np.uint64(p), 1 / p, words(x for w in weights for x in (w, shoup(w, p))), GROUP


def matrix_product(
    out: Sequence[Pair],
    matrix: Sequence[Sequence[Words]],
    vector: Sequence[Pair],
    moduli: tuple[int, ...],
    *,
    keep: bool = False,
    limit: np.uint64 = FLOAT_LIMIT,
    run: Run[int] = in_turn,
) -> None:
    """out[r] (+)= sum over t of matrix[r][t] * vector[t], in place.

    out: pairs of (limbs, columns), vector: pairs of (at least limbs, columns), matrix: rows of (at least limbs,
    columns/2), the first halves of symmetric ones; a multiple of COLUMNS columns. All C-contiguous and checked by the
    caller, with reduced residues. keep: add to what is in `out` already. limit: below it, moduli are computed with in
    float64; the result is the same bits. run: how the limbs are gone through.
    """
    columns = out[0][0].shape[1]
    targets, rows, pairs = (
        np.array([[products.address(x) for x in row] for row in table], dtype=np.uint64)
        for table in (out, matrix, vector)
    )

    # what is much larger than the caches is not going to be found there anyway
    stream = len(out) >= STREAMED_ROWS and not np.any(targets % np.uint64(ALIGNMENT))

    def limb(i: int) -> None:
        floating = moduli[i] < int(limit)
        p, reciprocal, constants, often = _arguments(moduli[i], floating=floating)
        of_limb = _float_limb if floating else _word_limb
        of_limb(targets, i, columns, rows, pairs, p, reciprocal, constants, often, keep, stream)

    run(limb, range(len(moduli)))
