"""Sums of many products in one pass over memory: each factor is read once, and reductions are postponed.

Rows are named by their addresses, so that the factors may lie anywhere: rows of ciphertexts, of plaintexts, of the
digits and the keys of a key switch. This is the one place that computes with addresses.

FloatLanes adds up reduced products, each below 0.63p, and reduces every four: below p + 4 * 0.63p < 8p throughout.
WordLanes splits factors at bit 30 and adds up their four partial products, without any reduction: with factors below
2^61 the upper ones are below 2^62, the sum of the two middle ones below 2^62 and the lower ones below 2^60, so that
four terms, and a residue carried along, fit 64 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba.extending import intrinsic

from mhe.ring.modular import IN_ROW, IN_ROWS, OUT_ROWS, VOID, WORD, Words, array_of, kernel, shoup, types, words
from mhe.ring.vectors import FLOAT_LIMIT, LANES, WORD_VECTOR, FloatLanes, WordLanes, cgutils

COLUMNS = LANES
"""The number of columns must be a multiple of it."""

BLOCK = 512
"""Columns of one term that are read before the next term's.

The sums of a block stay in the first cache. Many rows read side by side would evict each other from the caches: rows
of a power of two of bytes all start in the same few cache sets.
"""

FOLD = 4
"""So many products are added up between two reductions; a power of two."""

SPLIT = 30
"""Words are cut at this bit."""


class _FloatSum(FloatLanes):
    """A running sum of products in float64."""

    states = (FloatLanes.vector,)

    def __init__(self, builder: Any, p: Any, reciprocal: Any, folds: Any) -> None:
        super().__init__(builder, (builder.uitofp(p, reciprocal.type), reciprocal))

    def prepare(self, x: Any) -> Any:
        return self.enter(x)

    def start(self, residue: Any) -> tuple[Any, ...]:
        return (self.enter(residue),)

    def accumulate(self, state: tuple[Any, ...], x: Any, y: Any) -> tuple[Any, ...]:
        return (self.add(state[0], self.multiply(x, y)),)

    def fold(self, state: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.reduce(state[0]),)

    def finish(self, state: tuple[Any, ...]) -> Any:
        return self.leave(state[0])


class _WordSum(WordLanes):
    """Three running sums of partial products: upper, middle, lower. folds: (w, ratio) for w = 2^60, 2^30 and 1."""

    states = (WordLanes.vector,) * 3

    def __init__(self, builder: Any, p: Any, reciprocal: Any, folds: Any) -> None:
        super().__init__(builder, (p, reciprocal))
        self.folds = [self.spread(x) for x in folds]

    def prepare(self, x: Any) -> Any:
        b = self.builder
        # the second mask changes nothing, but says that 32 bits are enough, which makes for a cheaper product
        upper = b.and_(b.lshr(x, self.constant(SPLIT)), self.constant(0xFFFFFFFF))
        return upper, b.and_(x, self.constant((1 << SPLIT) - 1))

    def start(self, residue: Any) -> tuple[Any, ...]:
        return self.constant(0), self.constant(0), residue

    def accumulate(self, state: tuple[Any, ...], x: Any, y: Any) -> tuple[Any, ...]:
        b = self.builder
        (x1, x0), (y1, y0) = x, y
        upper, middle, lower = state
        middle = b.add(b.add(middle, b.mul(x1, y0)), b.mul(x0, y1))
        return b.add(upper, b.mul(x1, y1)), middle, b.add(lower, b.mul(x0, y0))

    def fold(self, state: tuple[Any, ...]) -> tuple[Any, ...]:
        total: Any = None
        for i, part in enumerate(state):
            term = self.multiply(part, self.folds[2 * i], self.folds[2 * i + 1])
            total = term if total is None else self.reduce_once(self.builder.add(total, term), self.four)
        for p in (self.two, self.p):
            total = self.reduce_once(total, p)
        return self.start(total)

    def finish(self, state: tuple[Any, ...]) -> Any:
        return self.fold(state)[2]


def _row(arithmetic: type[_FloatSum] | type[_WordSum], n_outputs: int) -> Any:
    """The loop over one row of all outputs: out[o, row] = keep * out[o, row] + sum over terms of factor * other_o."""

    def emit(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        row, p, reciprocal, keep = (arguments[i] for i in (1, 3, 4, 6))
        target, table, fold_table = (context.make_array(signature.args[i])(context, b, arguments[i]) for i in (0, 2, 5))
        n_rows, n_columns = cgutils.unpack_tuple(b, target.shape, 3)[1:]
        n_terms = cgutils.unpack_tuple(b, table.shape, 3)[1]

        def integer(value: int) -> Any:
            return ir.Constant(row.type, value)

        at_folds = b.mul(row, integer(6))
        fold_words = [b.load(b.gep(fold_table.data, [b.add(at_folds, integer(i))])) for i in range(6)]
        lanes = arithmetic(b, p, reciprocal, fold_words)
        mask = lanes.spread(keep)
        width = integer(1 + n_outputs)
        first = b.mul(b.mul(row, n_terms), width)
        rows = [b.mul(b.add(row, b.mul(integer(o), n_rows)), n_columns) for o in range(n_outputs)]
        sums = [_Sums(b, arithmetic) for _ in rows]
        pointer = ir.IntType(64).as_pointer()

        def vectors(start: Any) -> Any:
            """The columns of the block from `start` on, eight at a time."""
            stop = b.add(start, integer(BLOCK))
            stop = b.select(b.icmp_signed("<", stop, n_columns), stop, n_columns)
            return cgutils.for_range_slice(b, start, stop, integer(LANES))

        with cgutils.for_range_slice(b, integer(0), n_columns, integer(BLOCK)) as (block, _):
            with vectors(block) as (column, _):
                for start, total in zip(rows, sums, strict=True):
                    old = lanes.load(target.data, b.add(start, column), WORD_VECTOR)
                    total.put(b.sub(column, block), lanes.start(b.and_(old, mask)))
            with cgutils.for_range(b, n_terms) as loop:
                base = b.add(first, b.mul(loop.index, width))
                places = [b.load(b.gep(table.data, [b.add(base, integer(i))])) for i in range(1 + n_outputs)]
                common, *others = (b.inttoptr(place, pointer) for place in places)
                with vectors(block) as (column, _):
                    # the next block lies in other pages, where the machine does not look ahead by itself
                    for source in (common, *others):
                        lanes.prefetch(source, b.add(column, integer(BLOCK)))
                    factor, at = lanes.prepare(lanes.load(common, column, WORD_VECTOR)), b.sub(column, block)
                    for other, total in zip(others, sums, strict=True):
                        value = lanes.prepare(lanes.load(other, column, WORD_VECTOR))
                        total.put(at, lanes.accumulate(total.get(at), value, factor))
                full = b.icmp_unsigned("==", b.and_(loop.index, integer(FOLD - 1)), integer(FOLD - 1))
                with b.if_then(full, likely=False), vectors(block) as (column, _):
                    for total in sums:
                        total.put(b.sub(column, block), lanes.fold(total.get(b.sub(column, block))))
            with vectors(block) as (column, _):
                for start, total in zip(rows, sums, strict=True):
                    result = lanes.finish(total.get(b.sub(column, block)))
                    lanes.store(target.data, b.add(start, column), result)
        return context.get_dummy_value()

    @intrinsic
    def loop(typing_context, out, row, factors, p, reciprocal, folds, keep):  # type: ignore[no-untyped-def]
        return VOID(out, types.intp, factors, WORD, types.float64, folds, WORD), emit

    return loop


def _few(arithmetic: type[_FloatSum] | type[_WordSum], n_terms: int) -> Any:
    """As the loop of `_row` over two outputs, for at most FOLD terms, whose sums stay in registers: one pass."""

    def emit(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        row, p, reciprocal, keep = (arguments[i] for i in (1, 3, 4, 6))
        target, table, fold_table = (context.make_array(signature.args[i])(context, b, arguments[i]) for i in (0, 2, 5))
        n_rows, n_columns = cgutils.unpack_tuple(b, target.shape, 3)[1:]

        def integer(value: int) -> Any:
            return ir.Constant(row.type, value)

        def entries(array: Any, count: int) -> list[Any]:
            """Those of this row of a table."""
            first = b.mul(row, integer(count))
            return [b.load(b.gep(array.data, [b.add(first, integer(i))])) for i in range(count)]

        lanes = arithmetic(b, p, reciprocal, entries(fold_table, 6))
        pointer = ir.IntType(64).as_pointer()
        sources = [b.inttoptr(place, pointer) for place in entries(table, 3 * n_terms)]
        mask = lanes.spread(keep)
        starts = [b.mul(b.add(row, b.mul(integer(o), n_rows)), n_columns) for o in range(2)]
        with cgutils.for_range_slice(b, integer(0), n_columns, integer(LANES)) as (column, _):
            olds = [lanes.load(target.data, b.add(start, column), WORD_VECTOR) for start in starts]
            totals = [lanes.start(b.and_(old, mask)) for old in olds]
            for t in range(n_terms):
                some = sources[3 * t : 3 * t + 3]
                for source in some:
                    lanes.prefetch(source, b.add(column, integer(BLOCK)))
                factor, *others = (lanes.prepare(lanes.load(source, column, WORD_VECTOR)) for source in some)
                totals = [lanes.accumulate(s, other, factor) for s, other in zip(totals, others, strict=True)]
            for start, total in zip(starts, totals, strict=True):
                lanes.store(target.data, b.add(start, column), lanes.finish(total))
        return context.get_dummy_value()

    @intrinsic
    def loop(typing_context, out, row, factors, p, reciprocal, folds, keep):  # type: ignore[no-untyped-def]
        return VOID(out, types.intp, factors, WORD, types.float64, folds, WORD), emit

    return loop


class _Sums:
    """The running sums of a block of columns of one output, on the stack, while the loop over it is emitted."""

    def __init__(self, builder: Any, arithmetic: type[_FloatSum] | type[_WordSum]) -> None:
        self.builder = builder
        size = ir.Constant(ir.IntType(32), BLOCK // LANES)
        self.stacks = [cgutils.alloca_once(builder, kind, size) for kind in arithmetic.states]

    def _places(self, column: Any) -> list[Any]:
        index = [self.builder.udiv(column, ir.Constant(column.type, LANES))]
        return [self.builder.gep(stack, index) for stack in self.stacks]

    def put(self, column: Any, state: tuple[Any, ...]) -> None:
        for place, value in zip(self._places(column), state, strict=True):
            self.builder.store(value, place)

    def get(self, column: Any) -> tuple[Any, ...]:
        return tuple(self.builder.load(place) for place in self._places(column))


def _product(arithmetic: type[_FloatSum] | type[_WordSum]) -> Any:
    """The loop over one row of a single product, kept in registers: out[row] = keep * out[row] + x[row] * y[row]."""

    def emit(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        row, p, reciprocal, keep = (arguments[i] for i in (1, 4, 5, 7))
        out, x, y, table = (context.make_array(signature.args[i])(context, b, arguments[i]) for i in (0, 2, 3, 6))
        n_columns = cgutils.unpack_tuple(b, out.shape, 2)[1]
        at_folds = b.mul(row, ir.Constant(row.type, 6))
        folds = [b.load(b.gep(table.data, [b.add(at_folds, ir.Constant(row.type, i))])) for i in range(6)]
        lanes = arithmetic(b, p, reciprocal, folds)
        mask = lanes.spread(keep)
        first = b.mul(row, n_columns)
        with cgutils.for_range_slice(b, ir.Constant(row.type, 0), n_columns, ir.Constant(row.type, LANES)) as (j, _):
            at = b.add(first, j)
            old, *factors = (lanes.load(array.data, at, WORD_VECTOR) for array in (out, x, y))
            state = lanes.accumulate(lanes.start(b.and_(old, mask)), *(lanes.prepare(f) for f in factors))
            lanes.store(out.data, at, lanes.finish(state))
        return context.get_dummy_value()

    @intrinsic
    def loop(typing_context, out, row, x, y, p, reciprocal, folds, keep):  # type: ignore[no-untyped-def]
        return VOID(out, types.intp, x, y, WORD, types.float64, folds, WORD), emit

    return loop


_OUT_STACK = array_of(WORD, 3, readonly=False)
_IN_STACK = array_of(WORD, 3)
_ARGUMENTS = (_OUT_STACK, _IN_STACK, IN_ROW, array_of(types.float64, 1), IN_ROWS, WORD, WORD)
_float_one, _word_one = _row(_FloatSum, 1), _row(_WordSum, 1)
_float_two, _word_two = _row(_FloatSum, 2), _row(_WordSum, 2)
_float_two_terms, _word_two_terms = _few(_FloatSum, 2), _few(_WordSum, 2)
_float_three_terms, _word_three_terms = _few(_FloatSum, 3), _few(_WordSum, 3)
_float_product, _word_product = _product(_FloatSum), _product(_WordSum)


@kernel(VOID, *_ARGUMENTS)
def _one_kernel(
    out: Words, factors: Words, moduli: Words, reciprocals: Any, folds: Words, limit: np.uint64, keep: np.uint64
) -> None:
    for i in range(out.shape[1]):
        if moduli[i] < limit:
            _float_one(out, i, factors, moduli[i], reciprocals[i], folds, keep)
        else:
            _word_one(out, i, factors, moduli[i], reciprocals[i], folds, keep)


@kernel(VOID, *_ARGUMENTS)
def _two_kernel(
    out: Words, factors: Words, moduli: Words, reciprocals: Any, folds: Words, limit: np.uint64, keep: np.uint64
) -> None:
    n_terms = factors.shape[1]
    for i in range(out.shape[1]):
        p, reciprocal = moduli[i], reciprocals[i]
        if p < limit:
            if n_terms == 2:
                _float_two_terms(out, i, factors, p, reciprocal, folds, keep)
            elif n_terms == 3:
                _float_three_terms(out, i, factors, p, reciprocal, folds, keep)
            else:
                _float_two(out, i, factors, p, reciprocal, folds, keep)
        elif n_terms == 2:
            _word_two_terms(out, i, factors, p, reciprocal, folds, keep)
        elif n_terms == 3:
            _word_three_terms(out, i, factors, p, reciprocal, folds, keep)
        else:
            _word_two(out, i, factors, p, reciprocal, folds, keep)


@kernel(VOID, OUT_ROWS, IN_ROWS, IN_ROWS, IN_ROW, array_of(types.float64, 1), IN_ROWS, WORD, WORD)
def _product_kernel(
    out: Words, x: Words, y: Words, moduli: Words, reciprocals: Any, folds: Words, limit: np.uint64, keep: np.uint64
) -> None:
    for i in range(out.shape[0]):
        if moduli[i] < limit:
            _float_product(out, i, x, y, moduli[i], reciprocals[i], folds, keep)
        else:
            _word_product(out, i, x, y, moduli[i], reciprocals[i], folds, keep)


@dataclass(frozen=True, eq=False)
class Constants:
    """What the kernels need to know of the moduli, one row each."""

    moduli: Words
    reciprocals: npt.NDArray[np.float64]
    folds: Words  # (rows, 6): 2^60, 2^30 and 1 modulo p, each with its ratio for mul_lazy


@lru_cache(maxsize=256)
def constants(moduli: tuple[int, ...]) -> Constants:
    folds = [[x for w in (1 << 2 * SPLIT, 1 << SPLIT, 1) for x in (w % p, shoup(w % p, p))] for p in moduli]
    return Constants(words(moduli), np.array([1 / p for p in moduli]), np.array(folds, dtype=np.uint64))


def address(x: Words) -> int:
    """Where an array starts."""
    place: int = x.__array_interface__["data"][0]
    return place


def rows_from(starts: npt.ArrayLike, n_rows: int, n_columns: int) -> Words:
    """Addresses of the rows of C-contiguous matrices that start there: (n_rows, *starts.shape)."""
    first = np.asarray(starts, dtype=np.uint64)
    steps = np.arange(n_rows, dtype=np.uint64) * np.uint64(8 * n_columns)
    return steps.reshape(-1, *(1,) * first.ndim) + first


def sum_of_products(
    out: Words, factors: Words, moduli: tuple[int, ...], *, keep: bool = False, limit: np.uint64 = FLOAT_LIMIT
) -> None:
    """out[o, i] (+)= sum over t of factors[i, t, 0] * factors[i, t, 1 + o] modulo moduli[i], in place.

    out: (outputs, rows, columns), C-contiguous, one or two outputs, a multiple of COLUMNS columns.
    factors: (rows, terms, 1 + outputs), the addresses of rows of that many reduced residues, which the caller keeps
    alive and has checked. keep: add to what is in `out` already. limit: below it, moduli are computed with in float64;
    the result is the same bits.
    """
    c = constants(moduli)
    run = _one_kernel if len(out) == 1 else _two_kernel
    run(out, factors, c.moduli, c.reciprocals, c.folds, limit, np.uint64(2**64 - 1 if keep else 0))


def multiply(
    out: Words,
    x: Words,
    y: Words,
    moduli: tuple[int, ...],
    *,
    keep: bool = False,
    limit: np.uint64 = FLOAT_LIMIT,
) -> None:
    """out (+)= x*y, element by element: (rows, columns) each, C-contiguous and of one shape."""
    c = constants(moduli)
    _product_kernel(out, x, y, c.moduli, c.reciprocals, c.folds, limit, np.uint64(2**64 - 1 if keep else 0))
