"""Hybrid key switching on ring arrays: c*s' becomes (c0, c1) with c0 + c1*s = c*s' + error.

1. *Decompose*: the residues of c in each digit's limbs are lifted to all other limbs of Q and to P.
2. *Inner product*: digits times the key's (b_d, a_d), summed, modulo Q*P.
3. *Divide by P*, rounded to nearest: `mhe.ring.division`.

The first step does not depend on the key, so that several rotations of one ciphertext share it (hoisting: Halevi and
Shoup, CRYPTO 2018, section 5). The lifts are centred (Halevi, Polyakov and Shoup, ePrint 2018/117), so every digit is
below half its modulus and every division rounds to nearest: the noise is below `mhe.security.key_switch_std`.

Source: Han and Ki, "Better bootstrapping for approximate homomorphic encryption", CT-RSA 2020, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mhe.keys import EvaluationKey
from mhe.parameters import Parameters
from mhe.ring import products
from mhe.ring.basis import lift
from mhe.ring.division import IN_ORDER, NO_ROWS, Index, division
from mhe.ring.modular import Words
from mhe.ring.ring import automorphism_index, ring


@dataclass(frozen=True, eq=False)
class Digits:
    """A decomposed polynomial: the digits in the evaluation domain modulo Q*P.

    addresses: (limbs + special limbs, digits), where the rows of each digit lie. rows: what must stay alive for that.
    """

    limbs: int
    addresses: Words
    rows: tuple[Words, ...]


class Term(NamedTuple):
    """A ciphertext (c0, c1) to be turned by X -> X^t, and the key for it: see `KeySwitcher.rotate`."""

    c0: Words
    c1: Words
    key: EvaluationKey
    t: int


@dataclass(frozen=True, eq=False)
class KeySwitcher:
    """Key switching of one parameter set."""

    parameters: Parameters

    def decompose(self, c: Words) -> Digits:
        """c: (limbs, ring_dim), evaluation domain."""
        p, limbs = self.parameters, len(c)
        base = ring(p.ring_dim, p.moduli[:limbs])
        moduli = base.moduli + p.special_moduli
        coefficients = base.intt(c)
        active = [range(d.start, min(d.stop, limbs)) for d in p.digit_limbs if d.start < limbs]
        addresses = np.empty((len(moduli), len(active)), dtype=np.uint64)
        own = products.rows_from(products.address(c), limbs, p.ring_dim)
        rows = [c]
        for column, digit in enumerate(active):
            others = [i for i in range(len(moduli)) if i not in digit]
            target = tuple(moduli[i] for i in others)
            lifted = lift(coefficients[digit.start : digit.stop], moduli[digit.start : digit.stop], target)
            ring(p.ring_dim, target).ntt_in_place(lifted)
            addresses[digit.start : digit.stop, column] = own[digit.start : digit.stop]
            addresses[others, column] = products.rows_from(products.address(lifted), len(others), p.ring_dim)
            rows.append(lifted)
        return Digits(limbs, addresses, tuple(rows))

    def inner_product(self, digits: Digits, key: EvaluationKey, out: Words | None = None) -> Words:
        """Sum over the digits of digit * (b_d, a_d): (2, limbs + special limbs, ring_dim) modulo Q*P.

        out: where to put it, if not into a new array.
        """
        p, limbs = self.parameters, digits.limbs
        n_digits = digits.addresses.shape[1]
        width = len(p.key_moduli)
        rows = np.r_[0:limbs, p.n_limbs : width]
        factors = np.empty((len(rows), n_digits, 3), dtype=np.uint64)
        factors[:, :, 0] = digits.addresses
        for place, part in ((1, key.b), (2, key.a)):
            table = products.rows_from(products.address(part), len(p.digit_limbs) * width, p.ring_dim)
            factors[:, :, place] = table.reshape(-1, width)[:n_digits, rows].T
        out = np.empty((2, len(rows), p.ring_dim), dtype=np.uint64) if out is None else out
        products.sum_of_products(out, factors, p.moduli[:limbs] + p.special_moduli)
        return out

    def divide(self, x: Words, addend: Words = NO_ROWS, index: Index = IN_ORDER) -> Words:
        """One polynomial modulo Q*P divided by P: (limbs + special limbs, ring_dim) -> (limbs, ring_dim)."""
        p = self.parameters
        limbs = len(x) - len(p.special_moduli)
        return division(p.ring_dim, p.moduli[:limbs], p.special_moduli)(x, addend, index)

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

    def rotate_and_sum(self, terms: Sequence[Term]) -> tuple[Words, Words]:
        """The sum of all terms (at least one), each switched and turned as by `rotate`.

        The products with the keys are turned and added up modulo Q*P, so that they are divided by P only once.
        Bossuat, Mouchet, Troncoso-Pastoriza and Hubaux, EUROCRYPT 2021 (ePrint 2020/1203), section 4.
        """
        if len(terms) == 1:
            c0, c1, key, t = terms[0]
            return self.rotate(self.decompose(c1), c0, key, t)
        p = self.parameters
        base = ring(p.ring_dim, p.moduli[: len(terms[0].c0)])
        full = ring(p.ring_dim, base.moduli + p.special_moduli)
        # one buffer for all: fresh memory would cost as much as what is computed in it
        switched, turned = (np.zeros((2, full.n_limbs, p.ring_dim), dtype=np.uint64) for _ in range(2))
        sum0 = np.zeros((base.n_limbs, p.ring_dim), dtype=np.uint64)
        for c0, c1, key, t in terms:
            self.inner_product(self.decompose(c1), key, switched)
            for total, product in zip(turned, switched, strict=True):
                full.automorphism_add(total, product, t)
            base.automorphism_add(sum0, c0, t)
        return self.divide(turned[0], sum0), self.divide(turned[1])
