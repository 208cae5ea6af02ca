"""Hybrid key switching on ring arrays: c*s' becomes (c0, c1) with c0 + c1*s = c*s' + error.

1. *Decompose*: the residues of c in each digit's limbs are lifted to all other limbs of Q and to P.
2. *Inner product*: digits times the key's (b_d, a_d), summed, modulo Q*P.
3. *Divide by P*: the residues modulo P are lifted to Q, subtracted, and what is left is divisible by P.

The first step does not depend on the key, so that several rotations of one ciphertext share it (hoisting: Halevi and
Shoup, CRYPTO 2018, section 5). The lifts are centred (Halevi, Polyakov and Shoup, ePrint 2018/117), so every digit is
below half its modulus and every division rounds to nearest: the noise is below `mhe.security.key_switch_std`.

Source: Han and Ki, "Better bootstrapping for approximate homomorphic encryption", CT-RSA 2020, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.keys import EvaluationKey
from mhe.parameters import Parameters
from mhe.ring import modular, products
from mhe.ring.basis import Lifting
from mhe.ring.modular import (
    IN_ROW,
    IN_ROWS,
    OUT_ROWS,
    VOID,
    Words,
    array_of,
    inlined,
    kernel,
    mul_lazy,
    reduce_once,
    reduce_twice,
    types,
)
from mhe.ring.parallel import Run, in_turn
from mhe.ring.ring import Ring, automorphism_index, ring

Index = npt.NDArray[np.uint32]
Pair = tuple[Words, Words]

_NO_ROWS: Words = np.empty((0, 0), dtype=np.uint64)
_IN_ORDER: Index = np.empty(0, dtype=np.uint32)


@dataclass(frozen=True, eq=False)
class Division:
    """Division of (rows, ring_dim) residues modulo `kept` and `dropped` by the product of `dropped`, rounded."""

    kept: Ring
    dropped: Ring

    def __call__(self, x: Words, run: Run[Any] = in_turn) -> Words:
        """(kept limbs, ring_dim), evaluation domain."""
        n_kept = self.kept.n_limbs
        lifting = self.remainder(x[n_kept:], run)
        out = np.empty((n_kept, self.kept.ring_dim), dtype=np.uint64)

        def piece(chosen: slice) -> None:
            self.limbs(chosen, x[chosen], lifting, out)

        run(piece, pieces(0, n_kept, run))
        return out

    def remainder(self, dropped: Words, run: Run[Any] = in_turn) -> Lifting:
        """The residues modulo `dropped`, ready to be lifted to the limbs that are kept."""
        return Lifting(self.dropped.intt(dropped, run), self.dropped.moduli, self.kept.moduli)

    def limbs(
        self,
        chosen: slice,
        x: Words,
        remainder: Lifting,
        out: Words,
        addend: Words = _NO_ROWS,
        index: Index = _IN_ORDER,
    ) -> None:
        """These limbs of the quotient: x, theirs alone, plus the addend (the same, or no rows), into out, of all limbs.

        index: position j of the result is taken from position index[j], as `Ring.automorphism` does.
        """
        lifted = np.empty_like(x)
        remainder.rows(chosen, lifted)
        for i, row in enumerate(lifted, chosen.start):
            self.kept.ntt_row(i, row)
        factors, ratios, words = (part[chosen] for part in _inverses(self.kept.moduli, self.dropped.modulus))
        divide_kernel(x, lifted, factors, ratios, words, addend, index, out[chosen])


LIMBS_AT_ONCE = 2
"""So many limbs go through all steps together: their rows fit the second cache, and what all limbs need is read half as
often."""


def pieces(start: int, stop: int, run: Run[Any]) -> list[slice]:
    """The limbs start .. stop in the portions in which they are gone through: single ones for several threads."""
    size = LIMBS_AT_ONCE if run is in_turn else 1
    return [slice(i, min(i + size, stop)) for i in range(start, stop, size)]


@lru_cache(maxsize=256)
def _inverses(moduli: tuple[int, ...], divisor: int) -> tuple[Words, Words, Words]:
    values, ratios = modular.constants([[pow(divisor, -1, p)] for p in moduli], moduli)
    return values.ravel(), ratios.ravel(), modular.words(moduli)


@lru_cache(maxsize=256)
def division(ring_dim: int, kept: tuple[int, ...], dropped: tuple[int, ...]) -> Division:
    return Division(ring(ring_dim, kept), ring(ring_dim, dropped))


@dataclass(frozen=True, eq=False)
class Digits:
    """A decomposed polynomial: the digits in the evaluation domain modulo Q*P.

    addresses: (limbs + special limbs, digits), where the rows of each digit lie. rows: what must stay alive for that.
    """

    limbs: int
    addresses: Words
    rows: tuple[Words, ...]


Make = Callable[[slice], None]
"""Makes what belongs to some moduli, given their places among the limbs and special limbs."""

Addend = Callable[[slice], Words]
"""Some limbs of what is added to a quotient: (their number, ring_dim), or no rows."""


@dataclass(frozen=True, eq=False)
class KeySwitcher:
    """Key switching of one parameter set.

    A limb goes through as many steps as possible while it is in the cache. run: how independent limbs are gone through.
    """

    parameters: Parameters
    run: Run[Any] = in_turn

    def decompose(self, c: Words) -> Digits:
        """c: (limbs, ring_dim), evaluation domain."""
        digits, make = self._digits(c)
        self.run(make, pieces(0, len(digits.addresses), self.run))
        return digits

    def _digits(self, c: Words, fill: Make = lambda _: None) -> tuple[Digits, Make]:
        """The digits, of which the rows are still to be made. fill: makes one limb of c first."""
        p, limbs = self.parameters, len(c)
        whole = ring(p.ring_dim, p.moduli[:limbs] + p.special_moduli)
        coefficients = np.empty_like(c)

        def to_coefficients(i: int) -> None:
            fill(slice(i, i + 1))
            coefficients[i] = c[i]
            whole.intt_row(i, coefficients[i])

        self.run(to_coefficients, range(limbs))
        active = [range(d.start, min(d.stop, limbs)) for d in p.digit_limbs if d.start < limbs]
        addresses = np.empty((whole.n_limbs, len(active)), dtype=np.uint64)
        own = products.rows_from(products.address(c), limbs, p.ring_dim)
        parts: list[tuple[Lifting, dict[int, int], Words]] = []
        for column, digit in enumerate(active):
            others = [i for i in range(whole.n_limbs) if i not in digit]
            source, target = whole.moduli[digit.start : digit.stop], tuple(whole.moduli[i] for i in others)
            lifting = Lifting(coefficients[digit.start : digit.stop], source, target)
            lifted = np.empty((len(others), p.ring_dim), dtype=np.uint64)
            addresses[digit.start : digit.stop, column] = own[digit.start : digit.stop]
            addresses[others, column] = products.rows_from(products.address(lifted), len(others), p.ring_dim)
            parts.append((lifting, {i: row for row, i in enumerate(others)}, lifted))

        def make(chosen: slice) -> None:
            for lifting, places, lifted in parts:
                found = {i: places[i] for i in range(chosen.start, chosen.stop) if i in places}
                if found:
                    rows = slice(min(found.values()), max(found.values()) + 1)
                    lifting.rows(rows, lifted[rows])
                for i, row in found.items():
                    whole.ntt_row(i, lifted[row])

        return Digits(limbs, addresses, (c, *(lifted for _, _, lifted in parts))), make

    def _factors(self, digits: Digits, key: EvaluationKey) -> Words:
        """Addresses of the rows of digits and key that are multiplied: (limbs + special limbs, digits, 3)."""
        p, n_digits = self.parameters, digits.addresses.shape[1]
        width = len(p.key_moduli)
        rows = np.r_[0 : digits.limbs, p.n_limbs : width]
        factors = np.empty((len(rows), n_digits, 3), dtype=np.uint64)
        factors[:, :, 0] = digits.addresses
        for place, part in ((1, key.b), (2, key.a)):
            table = products.rows_from(products.address(part), len(p.digit_limbs) * width, p.ring_dim)
            factors[:, :, place] = table.reshape(-1, width)[:n_digits, rows].T
        return factors

    def _apply(
        self, digits: Digits, make: Make | None, key: EvaluationKey, addends: Sequence[Addend], index: Index
    ) -> Pair:
        """The sum over the digits of digit * (b_d, a_d), divided by P, plus the addends.

        make: for digits of which the rows are still to be made.
        """
        p, limbs, n = self.parameters, digits.limbs, self.parameters.ring_dim
        moduli = p.moduli[:limbs] + p.special_moduli
        factors = self._factors(digits, key)

        def inner_product(chosen: slice) -> Words:
            """(2, limbs chosen, ring_dim)."""
            if make is not None:
                make(chosen)
            both = np.empty((2, chosen.stop - chosen.start, n), dtype=np.uint64)
            products.sum_of_products(both, factors[chosen], moduli[chosen])
            return both

        special = np.empty((2, len(p.special_moduli), n), dtype=np.uint64)

        def special_limbs(chosen: slice) -> None:
            special[:, chosen.start - limbs : chosen.stop - limbs] = inner_product(chosen)

        self.run(special_limbs, pieces(limbs, len(moduli), self.run))
        divide = division(n, p.moduli[:limbs], p.special_moduli)
        remainders = [divide.remainder(part, self.run) for part in special]
        out = np.empty((limbs, n), dtype=np.uint64), np.empty((limbs, n), dtype=np.uint64)

        def kept_limbs(chosen: slice) -> None:
            parts = zip(inner_product(chosen), remainders, out, addends, strict=True)
            for x, remainder, target, addend in parts:
                divide.limbs(chosen, x, remainder, target, addend(chosen), index)

        self.run(kept_limbs, pieces(0, limbs, self.run))
        return out

    def multiply(self, a: Pair, b: Pair, key: EvaluationKey) -> Pair:
        """The product of two ciphertexts, relinearised: its part with s^2 is switched, the others are added to that."""
        (a0, a1), (b0, b1) = a, b
        limbs, n = a0.shape
        moduli = self.parameters.moduli[:limbs]
        square = np.empty((limbs, n), dtype=np.uint64)

        def product(chosen: slice, out: Words, *pairs: Pair) -> Words:
            starts = [[products.address(x[chosen]), products.address(y[chosen])] for x, y in pairs]
            products.sum_of_products(out[None], products.rows_from(starts, len(out), n), moduli[chosen])
            return out

        def rows(chosen: slice) -> Words:
            return np.empty((chosen.stop - chosen.start, n), dtype=np.uint64)

        def fill(chosen: slice) -> None:
            product(chosen, square[chosen], (a1, b1))

        def first(chosen: slice) -> Words:
            return product(chosen, rows(chosen), (a0, b0))

        def second(chosen: slice) -> Words:
            return product(chosen, rows(chosen), (a0, b1), (a1, b0))

        return self._apply(*self._digits(square, fill), key, (first, second), _IN_ORDER)

    def rotate(self, c: Words | Digits, c0: Words, key: EvaluationKey, t: int) -> Pair:
        """The ciphertext (c0, c), with c as it is or decomposed already, switched and turned by X -> X^t.

        The key is the one of mhe/ring/galois.py: it switches to sigma_u(s), u = t^-1, before the automorphism.
        """
        digits, make = (c, None) if isinstance(c, Digits) else self._digits(c)
        index = automorphism_index(self.parameters.ring_dim, t)
        return self._apply(digits, make, key, (lambda chosen: c0[chosen], lambda _: _NO_ROWS), index)


@inlined
def _divide_row(
    x: Words, remainder: Words, w: np.uint64, ratio: np.uint64, p: np.uint64, addend: Words, out: Words
) -> None:
    four = p << np.uint64(2)
    if addend.size:
        for j in range(out.size):
            y = mul_lazy(x[j] + p - remainder[j], w, ratio, p) + addend[j]
            out[j] = reduce_twice(reduce_once(y, four), p)
    else:
        for j in range(out.size):
            out[j] = reduce_twice(mul_lazy(x[j] + p - remainder[j], w, ratio, p), p)


@kernel(VOID, IN_ROWS, IN_ROWS, IN_ROW, IN_ROW, IN_ROW, IN_ROWS, array_of(types.uint32, 1), OUT_ROWS)
def divide_kernel(
    x: Words, remainder: Words, factors: Words, ratios: Words, moduli: Words, addend: Words, index: Index, out: Words
) -> None:
    """out = (x - remainder) * factor + addend, of which entry j is taken from index[j]; either may be empty."""
    row = np.empty(index.size, dtype=np.uint64)
    nothing = row[:0]
    for i in range(out.shape[0]):
        added = addend[i] if addend.shape[0] else nothing
        if index.size:
            _divide_row(x[i], remainder[i], factors[i], ratios[i], moduli[i], added, row)
            for j in range(index.size):
                out[i, j] = row[index[j]]
        else:
            _divide_row(x[i], remainder[i], factors[i], ratios[i], moduli[i], added, out[i])
