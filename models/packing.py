"""Shared-diagonal packing: one set of encoded diagonals serves the product with a clear matrix and with its transpose.

A party's rows X (up to R of them, d features) against an encrypted weight vector w, in S slots; R, d, S powers of two.
The d slots of a group hold d/K copies of K rows; copy c sees the features from c K on, in K diagonals:

    w has period d; row r of u = X w and of e is in slots (r // K) d + r mod K + c K, of a period P = R d / K
    diag_k[s] = X[(s // d) K + s mod K, (s + k) mod d]   0 <= k < K
    u = spread( sum_k diag_k * rot(w, k) )               spread: sum of the copies of a row, by rotations K, 2K, ... < d
    g = fold( sum_k rot(diag_k * e, -k) ) = X^T e        fold: sum of the groups, by rotations d, 2d, ... < P

With K = d there is one copy (tall blocks), with K = R one group (wide ones): then all of it is cyclic. Between them
spread gives x w in the first copies only, and sums over two groups' rows in the others. What is made of u is zero there
(`first_copies`: a factor that the coefficients of a polynomial take in), and rotations by -K, -2K, ... copy it into
them. The fewer diagonals, the fewer products and steps between them, and the more copies and groups to add up.

With k = g + b (giant step g, baby step b) and the pre-rotated diagonals p[g,b] = rot(diag_{g+b}, -g):

    sum_k diag_k * rot(w, k)  = sum_g rot( sum_b p[g,b] * rot(w, b), g )      baby rotations of w hoisted
    sum_k rot(diag_k * e, -k) = sum_b rot( sum_g p[g,b] * rot(e, -g), -b )    giant rotations of e hoisted

Steps are centred on 0, so that forward and backward need almost the same rotation keys. Halevi, Shoup (CRYPTO 2014) for
the diagonals, Juvekar et al. (GAZELLE, USENIX Security 2018, Section 4) for those of one group ("hybrid").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from mhe.errors import ParameterError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BlockLayout:
    """How a block of up to `rows` rows and `features` features lies in the slots.

    rows, features: powers of two, at most n_slots. n_diagonals: a power of two, at most the smaller of them, and so
    many that rows * features / n_diagonals fit the slots. baby: number of baby steps, a power of two that divides it.
    """

    n_slots: int
    rows: int
    features: int
    n_diagonals: int
    baby: int

    def __post_init__(self) -> None:
        for name, value in (("rows", self.rows), ("features", self.features)):
            if value < 1 or value & (value - 1) or value > self.n_slots:
                raise ParameterError(f"{name} per block is {value}; need a power of two up to {self.n_slots} slots")
        if self.n_diagonals not in self.possible_diagonals:
            raise ParameterError(
                f"a block of ({self.rows}, {self.features}) in {self.n_diagonals} diagonals; need one of "
                f"{', '.join(map(str, self.possible_diagonals))} for {self.n_slots} slots"
            )
        if self.baby < 1 or self.n_diagonals % self.baby:
            raise ParameterError(f"{self.baby} baby steps do not divide {self.n_diagonals} diagonals")

    @property
    def possible_diagonals(self) -> tuple[int, ...]:
        """Numbers of diagonals of blocks of these rows and features, from the fewest on."""
        return doublings(max(1, self.rows * self.features // self.n_slots), min(self.rows, self.features) + 1)

    @property
    def period(self) -> int:
        """Period of the encoded diagonals."""
        return self.rows * self.features // self.n_diagonals

    @property
    def row_period(self) -> int:
        """Period of what there is one of for each row."""
        return self.rows if self.is_cyclic else self.period

    @property
    def is_cyclic(self) -> bool:
        """Whether x w comes out in all copies of a row: there is one copy, or one group."""
        return self.n_diagonals in (self.rows, self.features)

    @property
    def output_levels(self) -> int:
        """That X w takes, and nothing beside it in any slot."""
        return 1 if self.is_cyclic else 2

    @property
    def copies(self) -> int:
        """Of a row, in a group."""
        return self.features // self.n_diagonals

    @cached_property
    def alternatives(self) -> tuple[BlockLayout, ...]:
        """Itself, and those with other numbers of diagonals and baby steps among which the best one is, whatever is to
        be small: the work (`_work` is right within a factor of CLOSE), or the memory, of which keys are the most.
        """
        every = [replace(self, n_diagonals=k, baby=b) for k in self.possible_diagonals for b in doublings(1, k + 1)]
        work = [_work(layout, 1) for layout in every]
        keys = [len(layout.rotations()) for layout in every]
        least, fewest = CLOSE * min(work), min(keys)
        wanted = [layout for layout, w, k in zip(every, work, keys, strict=True) if w <= least or k == fewest]
        return (self, *(layout for layout in wanted if layout != self))

    @cached_property
    def baby_steps(self) -> tuple[int, ...]:
        return tuple(range(-(self.baby // 2), self.baby - self.baby // 2))

    @cached_property
    def giant_steps(self) -> tuple[int, ...]:
        giants = self.n_diagonals // self.baby
        return tuple(self.baby * g for g in range(-(giants // 2), giants - giants // 2))

    @cached_property
    def spread_steps(self) -> tuple[int, ...]:
        """Rotations that add up the copies of a row, after the forward product."""
        return doublings(self.n_diagonals, self.features)

    @cached_property
    def copy_steps(self) -> tuple[int, ...]:
        """Rotations that fill all copies of a row from the first, before the backward product."""
        return () if self.is_cyclic else tuple(-step for step in self.spread_steps)

    @cached_property
    def fold_steps(self) -> tuple[int, ...]:
        """Rotations that add up the groups of the gradient, after the backward product."""
        return doublings(self.features, self.period)

    @property
    def forward_steps(self) -> tuple[int, ...]:
        """All rotations of the forward product, spread included."""
        return (*self.baby_steps, *self.giant_steps, *self.spread_steps)

    @property
    def backward_steps(self) -> tuple[int, ...]:
        """All rotations of the backward product, copies included."""
        return (*(-step for step in (*self.baby_steps, *self.giant_steps)), *self.copy_steps)

    def rotations(self) -> tuple[int, ...]:
        """Rotations that every party needs keys for: forward, spread, copies and backward."""
        # s and s - n_slots are one rotation, and one key
        distinct = {step % self.n_slots: step for step in sorted({*self.forward_steps, *self.backward_steps} - {0})}
        return tuple(sorted(distinct.values()))

    @cached_property
    def first_copies(self) -> Floats:
        """1 in the slots that x w comes out in, 0 elsewhere: (row_period,), or (1,) where it is in all of them."""
        if self.is_cyclic:
            return np.ones(1)
        return np.where(np.arange(self.period) % self.features < self.n_diagonals, 1.0, 0.0)

    def placed(self, values: Floats) -> Floats:
        """One value for each row, (at most rows,), where x w comes out: (row_period,), zero elsewhere."""
        padded = np.zeros(self.rows)
        padded[: len(values)] = values
        return padded if self.is_cyclic else padded[self._row_of_slot] * self.first_copies

    def taken(self, slots: Floats) -> Floats:
        """The values of the rows, (rows,), where `placed` puts them: from (row_period,)."""
        if self.is_cyclic:
            return slots
        return slots.reshape(-1, self.features)[:, : self.n_diagonals].ravel()

    @cached_property
    def _row_of_slot(self) -> npt.NDArray[np.intp]:
        slots = np.arange(self.period)
        return slots // self.features * self.n_diagonals + slots % self.n_diagonals

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
            row = self._row_of_slot[source % self.period]
            for baby in self.baby_steps:
                yield giant, baby, padded[row, (source + giant + baby) % self.features]


def doublings(start: int, stop: int) -> tuple[int, ...]:
    """start, 2 start, 4 start, ... below stop: the rotations of a rotate-and-add sum of stop/start terms."""
    steps = []
    while start < stop:
        steps.append(start)
        start *= 2
    return tuple(steps)


def power_of_two_at_least(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


@lru_cache(maxsize=64)
def choose_layout(n_slots: int, rows: int, features: int, *, cyclic: bool = False) -> BlockLayout:
    """The layout for parties of at most `rows` rows each (in as many blocks as it takes) and `features` features.

    cyclic: whether it is to be one that gives x w in all copies of a row. Numbers of diagonals and of baby steps
    minimise the work (`_work`). Raises ParameterError if a weight vector does not fit the slots.
    """
    d = power_of_two_at_least(features)
    if d > n_slots:
        raise ParameterError(f"{features} features do not fit {n_slots} slots; use a larger ring_dim or fewer features")
    r = min(power_of_two_at_least(rows), n_slots)
    blocks = -(-rows // r)
    most = BlockLayout(n_slots, r, d, min(r, d), 1)
    numbers = (k for k in most.possible_diagonals if not cyclic or k == most.n_diagonals)
    candidates = (replace(most, n_diagonals=k, baby=baby) for k in numbers for baby in doublings(1, k + 1))
    return min(candidates, key=lambda layout: _work(layout, blocks))


HOISTED, PRODUCT = 0.6, 0.03
"""Cost of a hoisted rotation, and of a product with a plaintext, over that of a rotation."""

CLOSE = 1.2
"""Packings whose work by these differs by less are told apart by what operations cost on the chain at hand."""


def _work(layout: BlockLayout, blocks: int) -> float:
    """Of an iteration in rotations at the limbs of the backward product; forward, at about twice the limbs, they cost
    twice as much.
    """
    baby, giants = layout.baby, layout.n_diagonals // layout.baby
    turns = 2 * len(layout.spread_steps) + len(layout.copy_steps) + (giants - 1) * (2 + HOISTED)
    products = 3 * PRODUCT * layout.n_diagonals
    return (baby - 1) * (2 * HOISTED + 1) + blocks * (turns + products) + len(layout.fold_steps)
