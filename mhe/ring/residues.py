"""Integers as residues modulo several primes: one row per modulus, any number of columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.errors import ParameterError
from mhe.ring import modular, products, vector_basis, vectors
from mhe.ring.modular import Words, words


@lru_cache(maxsize=256)
def residues(moduli: tuple[int, ...]) -> Residues:
    """The residue system of these moduli. Raises ParameterError if one is not an odd number of 3 to 61 bits."""
    return Residues(moduli)


@lru_cache(maxsize=256)
def _radix(moduli: tuple[int, ...], n_words: int) -> tuple[Words, Words]:
    """2^(64k) modulo each modulus for k < n_words, with their Shoup ratios: (limbs, n_words) each."""
    return modular.constants([[(1 << (64 * k)) % p for k in range(n_words)] for p in moduli], moduli)


@lru_cache(maxsize=256)
def _piece_weights(
    moduli: tuple[int, ...], n_pieces: int, offset: int, limit: np.uint64
) -> tuple[npt.NDArray[Any], ...]:
    """Those of pieces of 47 bits each, and the offset."""
    values = [*(1 << (vector_basis.PIECE_BITS * k) for k in range(n_pieces)), offset]
    return vector_basis.weights_for(values, moduli, limit)


class Residues:
    """Arithmetic on uint64 arrays (limbs, columns): row i holds residues modulo moduli[i], always below it.

    Operations return new arrays. Raises, everywhere: ParameterError if an array does not have one row per modulus.
    """

    def __init__(self, moduli: tuple[int, ...]) -> None:
        if not moduli or len(set(moduli)) != len(moduli):
            raise ParameterError(f"moduli are {moduli}; need at least one, and no two alike")
        for p in moduli:
            modular.check_modulus(p)
        self.moduli = moduli
        self.modulus = prod(moduli)
        self._moduli = words(moduli)
        self._ratios = words(modular.barrett(p)[0] for p in moduli)
        self._shifts = words(modular.barrett(p)[1] for p in moduli)
        self._word_ratios = words((1 << 64) // p for p in moduli)
        self._sign_weights = words((1 << 63) % p for p in moduli)

    @property
    def n_limbs(self) -> int:
        return len(self.moduli)

    def add(self, x: Words, y: Words) -> Words:
        """x + y."""
        x, y = self._operands(x, y)
        out = np.empty_like(x)
        modular.add_kernel(x, y, self._moduli, out)
        return out

    def subtract(self, x: Words, y: Words) -> Words:
        """x - y."""
        x, y = self._operands(x, y)
        out = np.empty_like(x)
        modular.subtract_kernel(x, y, self._moduli, out)
        return out

    def negate(self, x: Words) -> Words:
        """-x."""
        return self.subtract(np.zeros_like(x), x)

    def multiply(self, x: Words, y: Words) -> Words:
        """x*y, element by element: the product of polynomials when both are in the evaluation domain."""
        x, y = self._operands(x, y)
        out = np.empty_like(x)
        if x.shape[1] % products.COLUMNS == 0:
            products.multiply(out, x, y, self.moduli)
            return out
        modular.multiply_kernel(x, y, self._moduli, self._ratios, self._shifts, out)
        return out

    def multiply_add(self, acc: Words, x: Words, y: Words) -> None:
        """acc += x*y, element by element and in place; acc must be C-contiguous and writable."""
        x, y = self._operands(x, y)
        self._check_accumulator(acc, x)
        if x.shape[1] % products.COLUMNS == 0:
            products.multiply(acc, x, y, self.moduli, keep=True)
            return
        modular.multiply_add_kernel(acc, x, y, self._moduli, self._ratios, self._shifts)

    def multiply_constant(self, x: Words, c: int | tuple[int, ...]) -> Words:
        """c*x, with c of any size and sign, or a tuple of one such integer per limb."""
        x = self._operand(x)
        constants = c if isinstance(c, tuple) else (c,) * self.n_limbs
        if len(constants) != self.n_limbs:
            raise ParameterError(f"{len(constants)} constants for {self.n_limbs} limbs; need one each, or a single one")
        factors, ratios = modular.constants([[int(k)] for k in constants], self.moduli)
        out = np.empty_like(x)
        modular.scale_kernel(x, factors.ravel(), ratios.ravel(), self._moduli, out)
        return out

    def from_signed(self, c: npt.NDArray[np.int64]) -> Words:
        """Residues of int64 integers: (n,) -> (limbs, n)."""
        if c.dtype != np.int64 or c.ndim != 1:
            raise ParameterError(f"integers are {c.dtype} of shape {c.shape}; need int64 (n,)")
        out = np.empty((self.n_limbs, len(c)), dtype=np.uint64)
        modular.reduce_signed_kernel(
            np.require(c, requirements=("C", "A")), self._moduli, self._word_ratios, self._sign_weights, out
        )
        return out

    def add_small(self, x: Words, c: npt.NDArray[np.int64], out: Words | None = None) -> Words:
        """x + c, for int64 integers (n,) that are below every modulus in absolute value.

        out: an array of the same shape to write to, that the caller has just made.
        """
        x, c = self._operand(x), np.require(c, requirements=("C", "A"))
        if c.dtype != np.int64 or c.shape != x.shape[1:]:
            raise ParameterError(f"integers are {c.dtype} of shape {c.shape}; need int64 {x.shape[1:]}")
        out = np.empty_like(x) if out is None else self._operand(out)
        modular.add_small_kernel(x, c, self._moduli, out)
        return out

    def from_words(self, values: Words, offset: int = 0) -> Words:
        """Residues of the integers offset + sum_k values[k] * 2^(64k): (n_words, n) -> (limbs, n)."""
        values = modular.contiguous(values, "words")
        n_words, n = values.shape
        out = np.empty((self.n_limbs, n), dtype=np.uint64)
        bits = 64 * (n_words - 1) + int(values[-1].max()).bit_length() if n_words and n else 0
        n_pieces = -(-bits // vector_basis.PIECE_BITS)
        if bits and n_pieces < vector_basis.MAX_ROWS and n % vector_basis.COLUMNS == 0:
            pieces = np.empty((n_pieces + 1, n))
            modular.cut_kernel(values, vector_basis.PIECE_BITS, pieces[:-1])
            pieces[-1] = 1.0
            weights = _piece_weights(self.moduli, n_pieces, offset, vectors.FLOAT_LIMIT)
            vector_basis.weighted_sums_kernel(pieces, out, *weights)
            return out
        modular.combine_kernel(values, *_radix(self.moduli, n_words), self._moduli, out)
        if offset:
            modular.add_kernel(out, np.repeat(self.from_integers([offset]), n, axis=1), self._moduli, out)
        return out

    def from_integers(self, values: Sequence[int]) -> Words:
        """Residues of integers of any size and sign: n of them -> (limbs, n)."""
        n_words = -(-self.modulus.bit_length() // 64)
        data = b"".join((int(v) % self.modulus).to_bytes(8 * n_words, "little") for v in values)
        by_value = np.frombuffer(data, dtype="<u8").astype(np.uint64, copy=False).reshape(len(values), n_words)
        return self.from_words(by_value.T)

    def to_integers(self, x: Words) -> list[int]:
        """The integers nearest to 0 with these residues, |v| < Q/2: (limbs, n) -> n of them."""
        x, q = self._any_columns(x), self.modulus
        total = np.zeros(x.shape[1], dtype=object)
        for row, p in zip(x, self.moduli, strict=True):
            total += row.astype(object) * (q // p * pow(q // p, -1, p))
        return [v - q if 2 * v > q else v for v in (int(t) % q for t in total)]

    def _check_accumulator(self, acc: Words, x: Words) -> None:
        if self._operands(acc, x)[0] is not acc or not acc.flags.writeable:
            raise ParameterError("the accumulator cannot be changed in place; need a C-contiguous, writable array")

    def _any_columns(self, x: Words) -> Words:
        x = modular.contiguous(x)
        if len(x) != self.n_limbs:
            raise ParameterError(f"{len(x)} rows of residues; need {self.n_limbs}, one per modulus")
        return x

    def _operand(self, x: Words) -> Words:
        return self._any_columns(x)

    def _operands(self, x: Words, y: Words) -> tuple[Words, Words]:
        x, y = self._operand(x), self._operand(y)
        if x.shape != y.shape:
            raise ParameterError(f"operands of shapes {x.shape} and {y.shape}; need one shape")
        return x, y
