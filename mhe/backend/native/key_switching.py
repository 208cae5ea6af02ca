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
from typing import Any, NamedTuple

import numpy as np

from mhe.keys import EvaluationKey
from mhe.parameters import Parameters
from mhe.ring import modular, products
from mhe.ring.basis import Lifting
from mhe.ring.division import IN_ORDER, NO_ROWS, Index, division, pieces
from mhe.ring.modular import Words, words
from mhe.ring.parallel import Run, in_turn
from mhe.ring.ring import automorphism_index, ring

Pair = tuple[Words, Words]


class Term(NamedTuple):
    """A ciphertext (c0, c1), and the key and Galois element by which it is turned."""

    c0: Words
    c1: Words
    key: EvaluationKey
    t: int


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

Inner = Callable[[slice], Words]
"""Some limbs of two polynomials modulo Q*P: (2, their number, ring_dim)."""

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
        active = p.digits_at(limbs)
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
        """Addresses of the rows of digits and key that are multiplied: (limbs + special limbs, digits, 3).

        The key may be one for more limbs; its rows of those that are gone take no part.
        """
        p, n_digits = self.parameters, digits.addresses.shape[1]
        key_digits, width = key.b.shape[:2]
        rows = np.r_[0 : digits.limbs, width - len(p.special_moduli) : width]
        factors = np.empty((len(rows), n_digits, 3), dtype=np.uint64)
        factors[:, :, 0] = digits.addresses
        for place, part in ((1, key.b), (2, key.a)):
            table = products.rows_from(products.address(part), key_digits * width, p.ring_dim)
            factors[:, :, place] = table.reshape(-1, width)[:n_digits, rows].T
        return factors

    def _inner_product(self, digits: Digits, make: Make | None, key: EvaluationKey) -> Inner:
        """The sum over the digits of digit * (b_d, a_d), for the limbs that are asked for.

        make: for digits of which the rows are still to be made.
        """
        p, n = self.parameters, self.parameters.ring_dim
        moduli = p.moduli[: digits.limbs] + p.special_moduli
        factors = self._factors(digits, key)

        def inner(chosen: slice) -> Words:
            if make is not None:
                make(chosen)
            both = np.empty((2, chosen.stop - chosen.start, n), dtype=np.uint64)
            products.sum_of_products(both, factors[chosen], moduli[chosen])
            return both

        return inner

    def _divide(self, inner: Inner, limbs: int, addends: Sequence[Addend], index: Index) -> Pair:
        """Both polynomials divided by P, plus the addends."""
        p, n = self.parameters, self.parameters.ring_dim
        special = np.empty((2, len(p.special_moduli), n), dtype=np.uint64)

        def special_limbs(chosen: slice) -> None:
            special[:, chosen.start - limbs : chosen.stop - limbs] = inner(chosen)

        self.run(special_limbs, pieces(limbs, limbs + special.shape[1], self.run))
        divide = division(n, p.moduli[:limbs], p.special_moduli)
        remainders = [divide.remainder(part, self.run) for part in special]
        out = np.empty((limbs, n), dtype=np.uint64), np.empty((limbs, n), dtype=np.uint64)

        def kept_limbs(chosen: slice) -> None:
            parts = zip(inner(chosen), remainders, out, addends, strict=True)
            for x, remainder, target, addend in parts:
                divide.limbs(chosen, x, remainder, target, addend(chosen), index)

        self.run(kept_limbs, pieces(0, limbs, self.run))
        return out

    def switch(self, c: Words, key: EvaluationKey, c0: Words, c1: Words) -> Pair:
        """(c0, c1) plus c under the new secret. c, c0, c1: (limbs, ring_dim)."""
        digits, make = self._digits(c)
        inner = self._inner_product(digits, make, key)
        return self._divide(inner, len(c), (lambda chosen: c0[chosen], lambda chosen: c1[chosen]), IN_ORDER)

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

        inner = self._inner_product(*self._digits(square, fill), key)
        return self._divide(inner, limbs, (first, second), IN_ORDER)

    def rotate(self, c: Words | Digits, c0: Words, key: EvaluationKey, t: int) -> Pair:
        """The ciphertext (c0, c), with c as it is or decomposed already, switched and turned by X -> X^t.

        The key is the one of mhe/ring/galois.py: it switches to sigma_u(s), u = t^-1, before the automorphism.
        """
        digits, make = (c, None) if isinstance(c, Digits) else self._digits(c)
        index = automorphism_index(self.parameters.ring_dim, t)
        inner = self._inner_product(digits, make, key)
        return self._divide(inner, digits.limbs, (lambda chosen: c0[chosen], lambda _: NO_ROWS), index)

    def rotate_and_sum(self, terms: Sequence[Term]) -> Pair:
        """The sum of all terms (at least one), each switched and turned as by `rotate`.

        The products with the keys are turned and added up modulo Q*P, so that they are divided by P only once.
        Bossuat, Mouchet, Troncoso-Pastoriza and Hubaux, EUROCRYPT 2021 (ePrint 2020/1203), section 4.
        """
        if len(terms) == 1:
            c0, c1, key, t = terms[0]
            return self.rotate(c1, c0, key, t)
        p, limbs, n = self.parameters, len(terms[0].c0), self.parameters.ring_dim
        base = ring(n, p.moduli[:limbs])
        moduli = words(base.moduli + p.special_moduli)
        total = np.zeros((2, len(moduli), n), dtype=np.uint64)
        first = np.zeros((limbs, n), dtype=np.uint64)
        for c0, c1, key, t in terms:
            index = automorphism_index(n, t)
            inner = self._inner_product(*self._digits(c1), key)

            def turn(chosen: slice, inner: Inner = inner, index: Index = index) -> None:
                for acc, x in zip(total, inner(chosen), strict=True):
                    modular.permute_add_kernel(acc[chosen], x, index, moduli[chosen])

            self.run(turn, pieces(0, len(moduli), self.run))
            base.automorphism_add(first, c0, t)
        addends = (lambda chosen: first[chosen], lambda _: NO_ROWS)
        return self._divide(lambda chosen: total[:, chosen], limbs, addends, IN_ORDER)
