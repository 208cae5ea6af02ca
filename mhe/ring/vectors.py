"""Vectors of eight residues inside compiled loops, by two arithmetics that give the same bits.

The compiler vectorises a simple loop by itself, but neither keeps several layers of a transform in registers nor
accumulates products without a memory access each. So the inner steps of the hot kernels are emitted as LLVM vector
instructions, which LLVM maps to whatever the machine has (one 512-bit register, two of 256 or four of 128 bits).

`WordLanes` works on uint64 as `mhe.ring.modular` does, for every modulus up to 61 bits. `FloatLanes` works on float64
with fused multiply-add, for moduli below 2^49, in fewer and wider instructions. Residues are stored as uint64 by both.

**Why FloatLanes is exact.** Let p < 2^49 be odd, c = fl(1/p), and let y, w be integers with |y| < 8p < 2^52 and
|w| < p/2 (a centred constant). `multiply` computes, with M = 3 * 2^51,

    h = fl(y w),  l = fma(y, w, -h) = y w - h  exactly (the error of a product is a float, Dekker 1971),
    q = fma(h, c, M) - M,  r = fma(-q, p, h) + l.

As |h c| <= 2^51, M + h c is between 2^52 and 2^53, where the floats are the integers: q is h c rounded to nearest. Both
h and c have a relative error of at most e = 2^-53 < 1/16p, so h c is off y w / p by at most 2.01 e |y w / p| <=
1.01 e |y| < 0.07 |y| / p, and r = y w - q p in exact arithmetic satisfies |r| <= p (1/2 + 0.07 |y| / p) < 1.1 p. All
other roundings are exact: h is an integer (y w itself where that is below 2^53, a multiple of its last place u > 1
otherwise, with u <= 2 e |h| <= 2^48 as |h| <= 2^100), and |l| <= u/2. So h - q p is an integer with |h - q p| <=
|r| + |l| < 2^50 + 2^47, hence a float, which the second fma returns, and the sum with l is the integer r. Sums and
differences of integers below 2^53 are exact. For two residues 0 <= y, w < p the quotient is off by 2.01 e p < 0.13,
hence |r| < 0.63 p.

Bounds of a transform, in units of p (8 is the limit): a forward layer takes X to X + (1/2 + 0.07 X), so that nine
layers from 1/2 give 1.04, 1.61, 2.22, 2.88, 3.58, 4.33, 5.13, 5.99, 6.91, and from 1 they stay below 7.9. An inverse
layer doubles the sums and multiplies the differences: three layers from [0, 1), or from |X| <= 1/2, stay below 8.
`reduce` takes |x| < 2^53 to |x| <= p/2 + 1.

numba's cache does not notice a change of this file: clear the __pycache__ folders after one.

Sources: the product is Dekker's with a fused multiply-add, and the quotient by a floating-point reciprocal is that of
van der Hoeven, Lecerf and Quintin, "Modular SIMD arithmetic in Mathemagix", ACM TOMS 43 (2016), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import cgutils as untyped_cgutils

cgutils: Any = untyped_cgutils

LANES = 8
"""Residues in a vector: one register of AVX-512, two of AVX2."""

ALIGNMENT = 8 * LANES
"""Bytes of a vector."""

FLOAT_MODULUS_BITS = 49
"""Moduli of at most so many bits can be computed with in float64: the bounds above."""

HAS_FMA = bool(binding.get_host_cpu_features().get("fma", False))
"""Whether this machine multiplies and adds in one instruction; without, FloatLanes is exact too, but very slow."""

FLOAT_LIMIT = np.uint64(1 << FLOAT_MODULUS_BITS if HAS_FMA else 0)
"""Moduli below it are computed with in float64 on this machine."""

_WORD, _FLOAT = ir.IntType(64), ir.DoubleType()
_INDEX = ir.IntType(32)
WORD_VECTOR, FLOAT_VECTOR = ir.VectorType(_WORD, LANES), ir.VectorType(_FLOAT, LANES)

_EXPONENT = 0x4330000000000000
"""The bits of 2^52: an integer below 2^52 in the fraction of this float is that integer above 2^52."""


class Lanes:
    """Emits vector instructions; what all arithmetics have in common. Values are llvmlite's, hence untyped."""

    vector: Any

    def __init__(self, builder: Any, modulus: Any) -> None:
        self.builder = builder

    def load(self, pointer: Any, index: Any, vector: Any = None) -> Any:
        """Eight consecutive elements from `index` on, of any array of 64-bit elements."""
        return self.builder.load(self._address(pointer, index, vector or self.vector), align=8)

    def store(self, pointer: Any, index: Any, value: Any) -> None:
        self.builder.store(value, self._address(pointer, index, value.type), align=8)

    def stream(self, pointer: Any, index: Any, value: Any) -> None:
        """Store past the caches, which saves reading what is overwritten; the address is a multiple of ALIGNMENT."""
        b = self.builder
        stored = b.store(value, self._address(pointer, index, value.type), align=ALIGNMENT)
        stored.set_metadata("nontemporal", b.module.add_metadata([ir.Constant(_INDEX, 1)]))

    def _address(self, pointer: Any, index: Any, vector: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(pointer, [index]), vector.as_pointer())

    def spread(self, scalar: Any) -> Any:
        """One scalar in all lanes."""
        vector = ir.VectorType(scalar.type, LANES)
        nothing = ir.Constant(vector, ir.Undefined)
        single = self.builder.insert_element(nothing, scalar, ir.Constant(_INDEX, 0))
        return self.builder.shuffle_vector(single, nothing, ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES))

    def constant(self, value: int | float) -> Any:
        """A constant in all lanes, of the type that suits it."""
        return ir.Constant(FLOAT_VECTOR if isinstance(value, float) else WORD_VECTOR, [value] * LANES)

    def transpose(self, rows: Sequence[Any]) -> list[Any]:
        """Lane j of vector i becomes lane i of vector j: eight vectors."""
        v = list(rows)
        for width in (1, 2, 4):
            low = [i if i & width == 0 else LANES + i - width for i in range(LANES)]
            high = [i + width if i & width == 0 else LANES + i for i in range(LANES)]
            for i in range(LANES):
                if i & width == 0:
                    v[i], v[i + width] = self._shuffle(v[i], v[i + width], low), self._shuffle(v[i], v[i + width], high)
        return v

    def reverse(self, x: Any) -> Any:
        return self._shuffle(x, x, list(reversed(range(LANES))))

    def prefetch(self, pointer: Any, index: Any) -> None:
        """Ask for the cache line of an element that will be read soon."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _INDEX, _INDEX, _INDEX])
        ask = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        place = self.builder.bitcast(self.builder.gep(pointer, [index]), byte)
        # to read, to be kept in all caches, data
        self.builder.call(ask, [place, *(ir.Constant(_INDEX, x) for x in (0, 3, 1))])

    def _shuffle(self, x: Any, y: Any, lanes: list[int]) -> Any:
        return self.builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_INDEX, LANES), lanes))

    def _call(self, name: str, *values: Any) -> Any:
        vector = values[0].type
        suffix = "v8f64" if vector.element == _FLOAT else "v8i64"
        kind = ir.FunctionType(vector, [vector] * len(values))
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.{name}.{suffix}"), values
        )


class FloatLanes(Lanes):
    """float64 with fused multiply-add; see the module's text for the bounds. modulus: (p, 1/p) as float64 scalars."""

    vector = FLOAT_VECTOR

    def __init__(self, builder: Any, modulus: Any) -> None:
        super().__init__(builder, modulus)
        self.p, self.reciprocal = (self.spread(x) for x in modulus)

    def enter(self, words: Any) -> Any:
        """Words below 2^52 as floats."""
        b = self.builder
        shifted = b.bitcast(b.or_(words, self.constant(_EXPONENT)), FLOAT_VECTOR)
        return b.fsub(shifted, self.constant(2.0**52))

    def reduce(self, x: Any) -> Any:
        """|x| < 2^53 to the residue with |x| <= p/2 + 1."""
        return self._call("fma", self.builder.fneg(self._quotient(x)), self.p, x)

    def reduce_wide(self, x: Any) -> Any:
        """A float 0 <= x < 8p^2 to a residue with |x| < 1.6p: the quotient, below 2^52, is off by 2.01 e 8p < 1.01."""
        quotient = self._call("rint", self.builder.fmul(x, self.reciprocal))
        return self._call("fma", self.builder.fneg(quotient), self.p, x)

    def _quotient(self, x: Any) -> Any:
        """The integer nearest to x/p, for |x/p| <= 2^51: cheaper than an instruction that rounds."""
        shift = self.constant(3 * 2.0**51)
        return self.builder.fsub(self._call("fma", x, self.reciprocal, shift), shift)

    def leave(self, x: Any) -> Any:
        """|x| < 2^53 to the residue in [0, p), as words."""
        b = self.builder
        x = self.reduce(x)
        x = b.select(b.fcmp_ordered("<", x, self.constant(0.0)), b.fadd(x, self.p), x)
        return b.xor(b.bitcast(b.fadd(x, self.constant(2.0**52)), WORD_VECTOR), self.constant(_EXPONENT))

    def multiply_add(self, x: Any, y: Any, z: Any) -> Any:
        """x y + z, rounded once."""
        return self._call("fma", x, y, z)

    def round_to_words(self, x: Any) -> Any:
        """The integers nearest to 0 <= x < 2^51, as words."""
        b = self.builder
        rounded = b.fadd(self._call("rint", x), self.constant(2.0**52))
        return b.xor(b.bitcast(rounded, WORD_VECTOR), self.constant(_EXPONENT))

    def multiply(self, y: Any, w: Any, ratio: Any = None) -> Any:
        """y w modulo p, below p in absolute value for residues, within the bounds above otherwise."""
        b = self.builder
        high = b.fmul(y, w)
        low = self._call("fma", y, w, b.fneg(high))
        return b.fadd(self._call("fma", b.fneg(self._quotient(high)), self.p, high), low)

    def add(self, x: Any, y: Any) -> Any:
        return self.builder.fadd(x, y)

    def butterfly(self, x: Any, y: Any, w: Any, ratio: Any) -> tuple[Any, Any]:
        """(x + wy, x - wy)."""
        y = self.multiply(y, w)
        return self.builder.fadd(x, y), self.builder.fsub(x, y)

    def inverse_butterfly(self, x: Any, y: Any, w: Any, ratio: Any) -> tuple[Any, Any]:
        """(x + y, (x - y)w)."""
        return self.builder.fadd(x, y), self.multiply(self.builder.fsub(x, y), w)

    def last_butterfly(self, x: Any, y: Any, n: tuple[Any, Any], w: tuple[Any, Any]) -> tuple[Any, Any]:
        """((x + y)n, (x - y)w): the inverse layer that also divides by N."""
        return self.multiply(self.builder.fadd(x, y), *n), self.multiply(self.builder.fsub(x, y), *w)


class WordLanes(Lanes):
    """uint64 with Shoup's products; the bounds are those of `mhe.ring.modular`. modulus: (p, 1/p), of which p counts.

    Between layers, residues are below 8p in the forward and below 4p in the inverse transform.
    """

    vector = WORD_VECTOR

    def __init__(self, builder: Any, modulus: Any) -> None:
        super().__init__(builder, modulus)
        self.p = self.spread(modulus[0])
        self.two = builder.add(self.p, self.p)
        self.four = builder.add(self.two, self.two)

    def enter(self, words: Any) -> Any:
        return words

    def reduce(self, x: Any) -> Any:
        return x

    def reduce_once(self, x: Any, p: Any) -> Any:
        """x mod p for x < 2p."""
        return self._call("umin", x, self.builder.sub(x, p))

    def leave(self, x: Any) -> Any:
        """x < 8p to the residue in [0, p)."""
        for p in (self.four, self.two, self.p):
            x = self.reduce_once(x, p)
        return x

    def halves(self, x: Any) -> tuple[Any, Any]:
        """(upper, lower) 32 bits."""
        return self.builder.lshr(x, self.constant(32)), self.builder.and_(x, self.constant(0xFFFFFFFF))

    def multiply(self, y: Any, w: Any, ratio: Any) -> Any:
        """modular.mul_lazy: y w modulo p, below 4p, for any words y, a residue w and its Shoup ratio."""
        b = self.builder
        (y1, y0), (r1, r0) = self.halves(y), self.halves(ratio)
        upper, middle, lower = b.mul(y1, r1), b.mul(y1, r0), b.mul(y0, r1)
        quotient = b.add(b.add(upper, self.halves(middle)[0]), self.halves(lower)[0])
        return b.sub(b.mul(y, w), b.mul(quotient, self.p))

    def butterfly(self, x: Any, y: Any, w: Any, ratio: Any) -> tuple[Any, Any]:
        """(x + wy, x - wy)."""
        x, y = self.reduce_once(x, self.four), self.multiply(y, w, ratio)
        return self.builder.add(x, y), self._difference(x, y)

    def inverse_butterfly(self, x: Any, y: Any, w: Any, ratio: Any) -> tuple[Any, Any]:
        """(x + y, (x - y)w)."""
        total = self.reduce_once(self.builder.add(x, y), self.four)
        return total, self.multiply(self._difference(x, y), w, ratio)

    def last_butterfly(self, x: Any, y: Any, n: tuple[Any, Any], w: tuple[Any, Any]) -> tuple[Any, Any]:
        """((x + y)n, (x - y)w): the inverse layer that also divides by N."""
        return self.multiply(self.builder.add(x, y), *n), self.multiply(self._difference(x, y), *w)

    def _difference(self, x: Any, y: Any) -> Any:
        return self.builder.sub(self.builder.add(x, self.four), y)
