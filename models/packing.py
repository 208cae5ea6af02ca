"""Shared-diagonal packing: one set of encoded diagonals serves the product with a clear matrix and with its transpose.

A party's rows X (up to R of them, d features) against an encrypted weight vector w, in S slots; R, d, S powers of two.

    w has period d, u = X w and e have period R          (w[s] = w[s mod d], u[s] = u[s mod R])
    diag_k[s] = X[s mod R, (s + k) mod d]                 K = min(R, d) diagonals, of period max(R, d)
    u = spread( sum_k diag_k * rot(w, k) )                spread: sum of the d/R copies of a row, when d > R
    g = fold( sum_k rot(diag_k * e, -k) ) = X^T e         fold: sum of the R/d periods, when R > d

With k = g + b (giant step g, baby step b) and the pre-rotated diagonals p[g,b] = rot(diag_{g+b}, -g):

    u = sum_g rot( sum_b p[g,b] * rot(w, b), g )          baby rotations of w hoisted
    g = sum_b rot( sum_g p[g,b] * rot(e, -g), -b )        giant rotations of e hoisted

Tall and wide shards differ only in which of spread and fold has anything to do. Steps are centred on 0, so that
forward and backward need almost the same rotation keys. Halevi, Shoup (CRYPTO 2014) for the diagonals, Juvekar et al.
(GAZELLE, USENIX Security 2018) for the wide case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mhe.errors import ParameterError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BlockLayout:
    """How a block of up to `rows` rows and `features` features lies in the slots.

    rows, features: powers of two, at most n_slots. baby: number of baby steps, a power of two that divides n_diagonals.
    """

    n_slots: int
    rows: int
    features: int
    baby: int

    def __post_init__(self) -> None:
        for name, value in (("rows", self.rows), ("features", self.features)):
            if value < 1 or value & (value - 1) or value > self.n_slots:
                raise ParameterError(f"{name} per block is {value}; need a power of two up to {self.n_slots} slots")
        if self.baby < 1 or self.n_diagonals % self.baby:
            raise ParameterError(f"{self.baby} baby steps do not divide {self.n_diagonals} diagonals")

    @property
    def n_diagonals(self) -> int:
        return min(self.rows, self.features)

    @property
    def period(self) -> int:
        """Period of the encoded diagonals."""
        return max(self.rows, self.features)

    @property
    def alternatives(self) -> tuple[BlockLayout, ...]:
        """Itself, and those with other numbers of baby steps among which the best one is, whatever is to be small.

        Work falls and rises again with the number of baby steps, and is least at the square root of the diagonals times
        a ratio of costs; `choose_layout` assumes one that is right within a factor of 4. The memory of keys and
        rotations is least at the square root itself, within a factor of 2.
        """
        balanced = 1 << (self.n_diagonals.bit_length() - 1) // 2
        least, most = min(self.baby, balanced) // 2, min(2 * max(self.baby, balanced), self.n_diagonals)
        others = (b for b in doublings(max(least, 1), most + 1) if b != self.baby)
        return (self, *(replace(self, baby=b) for b in others))

    @cached_property
    def baby_steps(self) -> tuple[int, ...]:
        return tuple(range(-(self.baby // 2), self.baby - self.baby // 2))

    @cached_property
    def giant_steps(self) -> tuple[int, ...]:
        giants = self.n_diagonals // self.baby
        return tuple(self.baby * g for g in range(-(giants // 2), giants - giants // 2))

    @cached_property
    def spread_steps(self) -> tuple[int, ...]:
        """Rotations that add up the copies of a row, after the forward product of a wide block."""
        return doublings(self.rows, self.features)

    @cached_property
    def fold_steps(self) -> tuple[int, ...]:
        """Rotations that add up the periods of the gradient, after the backward product of a tall block."""
        return doublings(self.features, self.rows)

    def rotations(self) -> tuple[int, ...]:
        """Rotations that every party needs keys for: forward, spread and backward."""
        forward = {*self.baby_steps, *self.giant_steps, *self.spread_steps}
        backward = {-step for step in (*self.baby_steps, *self.giant_steps)}
        # s and s - n_slots are one rotation, and one key
        distinct = {step % self.n_slots: step for step in sorted((forward | backward) - {0})}
        return tuple(sorted(distinct.values()))

    def diagonals(self, x: Floats) -> Iterator[tuple[int, int, Floats]]:
        """(giant step, baby step, pre-rotated diagonal (period,)) for all of a block x: (at most rows, at most
        features).
        """
        if x.shape[0] > self.rows or x.shape[1] > self.features:
            raise ParameterError(f"a block of {x.shape} does not fit the layout of ({self.rows}, {self.features})")
        padded = np.zeros((self.rows, self.features))
        padded[: x.shape[0], : x.shape[1]] = x
        slots = np.arange(self.period)
        for giant in self.giant_steps:
            source = slots - giant
            for baby in self.baby_steps:
                yield giant, baby, padded[source % self.rows, (source + giant + baby) % self.features]


def doublings(start: int, stop: int) -> tuple[int, ...]:
    """start, 2 start, 4 start, ... below stop: the rotations of a rotate-and-add sum of stop/start terms."""
    steps = []
    while start < stop:
        steps.append(start)
        start *= 2
    return tuple(steps)


def power_of_two_at_least(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def choose_layout(n_slots: int, rows: int, features: int) -> BlockLayout:
    """The layout for parties of at most `rows` rows each (in as many blocks as it takes) and `features` features.

    The number of baby steps minimises the rotations, weighted by their cost: forward ones run at about twice the
    limbs of backward ones, and a hoisted rotation costs about 0.6 of a full one. Raises ParameterError if a weight
    vector does not fit the slots.
    """
    d = power_of_two_at_least(features)
    if d > n_slots:
        raise ParameterError(f"{features} features do not fit {n_slots} slots; use a larger ring_dim or fewer features")
    r = min(power_of_two_at_least(rows), n_slots)
    blocks = -(-rows // r)

    def cost(baby: int) -> float:
        giant = min(r, d) // baby
        return (baby - 1) * (2 * 0.6 + 1) + blocks * (giant - 1) * (2 + 0.6)

    candidates = doublings(1, 2 * min(r, d))
    return BlockLayout(n_slots, r, d, min(candidates, key=cost))
