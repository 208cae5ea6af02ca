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


_NO_ROWS: Words = np.empty((0, 0), dtype=np.uint64)
_IN_ORDER: Index = np.empty(0, dtype=np.uint32)


@dataclass(frozen=True, eq=False)
class Division:
    """Division of (rows, ring_dim) residues modulo `kept` and `dropped` by the product of `dropped`, rounded."""

    kept: Ring
    dropped: Ring

    def __call__(
        self, x: Words, addend: Words = _NO_ROWS, index: Index = _IN_ORDER, run: Run[int] = in_turn
    ) -> Words:
        """(kept limbs, ring_dim), evaluation domain; the addend is added to the quotient.

        index: position i of the result is taken from position index[i], as `Ring.automorphism` does.
        """
        n_kept = self.kept.n_limbs
        kept, n = self.kept, self.kept.ring_dim
        lifting = Lifting(self.dropped.intt(x[n_kept:], run), self.dropped.moduli, kept.moduli)
        factors, ratios, words = _inverses(kept.moduli, self.dropped.modulus)
        out = np.empty((n_kept, n), dtype=np.uint64)

        def row(i: int) -> None:
            """One limb through all steps, while it is in the cache."""
            chosen, remainder = slice(i, i + 1), np.empty((1, n), dtype=np.uint64)
            lifting.rows(chosen, remainder)
            kept.ntt_row(i, remainder[0])
            added = addend[chosen] if len(addend) else addend
            divide_kernel(
                x[chosen], remainder, factors[chosen], ratios[chosen], words[chosen], added, index, out[chosen]
            )

        run(row, range(n_kept))
        return out


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


@dataclass(frozen=True, eq=False)
class KeySwitcher:
    """Key switching of one parameter set."""

    parameters: Parameters
    run: Run[Any] = in_turn
    """How independent limbs are gone through."""

    def decompose(self, c: Words) -> Digits:
        """c: (limbs, ring_dim), evaluation domain."""
        p, limbs = self.parameters, len(c)
        whole = ring(p.ring_dim, p.moduli[:limbs] + p.special_moduli)
        coefficients = ring(p.ring_dim, p.moduli[:limbs]).intt(c, self.run)
        active = [range(d.start, min(d.stop, limbs)) for d in p.digit_limbs if d.start < limbs]
        addresses = np.empty((whole.n_limbs, len(active)), dtype=np.uint64)
        own = products.rows_from(products.address(c), limbs, p.ring_dim)
        liftings, rows = [], [c]
        places: list[tuple[int, int, int]] = []
        for column, digit in enumerate(active):
            others = [i for i in range(whole.n_limbs) if i not in digit]
            source, target = whole.moduli[digit.start : digit.stop], tuple(whole.moduli[i] for i in others)
            liftings.append(Lifting(coefficients[digit.start : digit.stop], source, target))
            lifted = np.empty((len(others), p.ring_dim), dtype=np.uint64)
            addresses[digit.start : digit.stop, column] = own[digit.start : digit.stop]
            addresses[others, column] = products.rows_from(products.address(lifted), len(others), p.ring_dim)
            rows.append(lifted)
            places += [(column, row, i) for row, i in enumerate(others)]

        def lift_row(place: tuple[int, int, int]) -> None:
            """One limb of one digit through both steps, while it is in the cache."""
            column, row, i = place
            chosen = slice(row, row + 1)
            out = rows[1 + column][chosen]
            liftings[column].rows(chosen, out)
            whole.ntt_row(i, out[0])

        self.run(lift_row, places)
        return Digits(limbs, addresses, tuple(rows))

    def inner_product(self, digits: Digits, key: EvaluationKey) -> Words:
        """Sum over the digits of digit * (b_d, a_d): (2, limbs + special limbs, ring_dim) modulo Q*P."""
        p, limbs = self.parameters, digits.limbs
        n_digits = digits.addresses.shape[1]
        width = len(p.key_moduli)
        rows = np.r_[0:limbs, p.n_limbs : width]
        factors = np.empty((len(rows), n_digits, 3), dtype=np.uint64)
        factors[:, :, 0] = digits.addresses
        for place, part in ((1, key.b), (2, key.a)):
            table = products.rows_from(products.address(part), len(p.digit_limbs) * width, p.ring_dim)
            factors[:, :, place] = table.reshape(-1, width)[:n_digits, rows].T
        out = np.empty((2, len(rows), p.ring_dim), dtype=np.uint64)
        products.sum_of_products(out, factors, p.moduli[:limbs] + p.special_moduli)
        return out

    def divide(self, x: Words, addend: Words = _NO_ROWS, index: Index = _IN_ORDER) -> Words:
        """One polynomial modulo Q*P divided by P: (limbs + special limbs, ring_dim) -> (limbs, ring_dim)."""
        p = self.parameters
        limbs = len(x) - len(p.special_moduli)
        return division(p.ring_dim, p.moduli[:limbs], p.special_moduli)(x, addend, index, self.run)

    def switch(self, c: Words, key: EvaluationKey, c0: Words, c1: Words) -> tuple[Words, Words]:
        """(c0, c1) plus c under the new secret. c, c0, c1: (limbs, ring_dim)."""
        first, second = self.inner_product(self.decompose(c), key)
        return self.divide(first, c0), self.divide(second, c1)

    def rotate(self, digits: Digits, c0: Words, key: EvaluationKey, t: int) -> tuple[Words, Words]:
        """The ciphertext (c0, c) of the decomposed c, switched and turned by X -> X^t.

        The key is the one of mhe/ring/galois.py: it switches to sigma_u(s), u = t^-1, before the automorphism.
        """
        n = self.parameters.ring_dim
        index = automorphism_index(n, t)
        first, second = self.inner_product(digits, key)
        return self.divide(first, c0, index), self.divide(second, index=index)


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
