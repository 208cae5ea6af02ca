"""The work of one iteration in closed form, so that parameters can be compared before any prime is chosen.

Operations are those of `models.logistic` on the layout; what one of them costs follows from hybrid key switching
(`mhe.backend.native.key_switching`): transforms and products of single limbs, the latter bound by memory. Unit: one
transform of a limb below 2^50 in a ring of dimension 2^14, about 70 microseconds. Measured by
`python -m benchmarks.limbs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from mhe.parameters import Shape
from models.packing import BlockLayout, choose_layout
from models.workload import Workload

FAST_BITS = 48
"""Primes next to 2^48 stay below 2^49, and are computed with in float64 (`mhe.ring.vectors`)."""

TRANSFORM, WIDE_TRANSFORM = 1.0, 1.37
"""Work for a limb below 2^50, and for a wider one, whose arithmetic is in 64-bit words: of a transform."""

PRODUCT, WIDE_PRODUCT = 0.26, 0.39
"""The same: of a product that is added up."""

LIFT = 0.37
"""Of one limb's part in one limb of a change of basis, whatever their sizes."""

_UNIT_DIM = 1 << 14


@dataclass(frozen=True)
class Cost:
    """Work of one iteration at the busiest party, which is the root. low_limbs: limbs of the refresh."""

    workload: Workload
    shape: Shape
    low_limbs: int

    @cached_property
    def iteration(self) -> float:
        layout, full = self._layout, self.shape.n_limbs
        errors, blocks = self.low_limbs + 1, self._blocks
        diagonals = blocks * layout.n_diagonals
        babies, giants = len(layout.baby_steps) - 1, len(layout.giant_steps) - 1
        forward = (
            self._decompose(full)
            + babies * self._switched(full)
            + diagonals * self._products(full)
            + blocks * (giants + len(layout.spread_steps)) * self._key_switch(full)
        )
        sigmoid = blocks * sum(self._key_switch(limbs) for limbs in range(errors + 1, full))
        backward = (
            blocks * (self._decompose(errors) + giants * self._switched(errors))
            + diagonals * self._products(errors)
            + (babies + len(layout.fold_steps)) * self._key_switch(errors)
        )
        refresh = 2 * self._transforms(self.low_limbs) + 3 * self._transforms(full)
        return forward + sigmoid + backward + refresh

    @cached_property
    def _layout(self) -> BlockLayout:
        return choose_layout(self.shape.ring_dim // 2, max(self.workload.batch_rows), self.workload.features + 1)

    @property
    def _blocks(self) -> int:
        return -(-max(self.workload.batch_rows) // self._layout.rows)

    def _key_switch(self, limbs: int) -> float:
        return self._decompose(limbs) + self._switched(limbs)

    def _decompose(self, limbs: int) -> float:
        """Back to coefficients, then every digit to all the limbs that are not its own: each limb is the own one of one
        digit, which pays for the way back.
        """
        width, special = self._digit_width, len(self.shape.all_special_bits)
        whole, rest = divmod(limbs, width)
        lifts = limbs * (limbs + special) - whole * width**2 - rest**2
        transforms = self._active_digits(limbs) * (self._transforms(limbs) + self._special_transforms)
        return transforms + lifts * self._lift_work

    def _switched(self, limbs: int) -> float:
        """Products with the key, and both halves divided by P."""
        inner = self._active_digits(limbs) * (self._products(limbs) + self._special_products)
        lifts = 2 * len(self.shape.all_special_bits) * limbs * self._lift_work
        return inner + 2 * (self._special_transforms + self._transforms(limbs)) + lifts + self._products(limbs)

    def _active_digits(self, limbs: int) -> int:
        return -(-limbs // self._digit_width)

    @cached_property
    def _digit_width(self) -> int:
        return -(-self.shape.n_limbs // self.shape.digits)

    def _transforms(self, limbs: int) -> float:
        return self._sum(limbs, self._transform_work)

    def _products(self, limbs: int) -> float:
        """A plaintext times both halves of a ciphertext."""
        return 2 * self._sum(limbs, self._product_work)

    @cached_property
    def _special_transforms(self) -> float:
        return sum(self._transform_work[bits > FAST_BITS] for bits in self.shape.all_special_bits)

    @cached_property
    def _special_products(self) -> float:
        return 2 * sum(self._product_work[bits > FAST_BITS] for bits in self.shape.all_special_bits)

    def _sum(self, limbs: int, work: tuple[float, float]) -> float:
        floor = min(limbs, self.shape.floor_limbs)
        return (
            floor * work[self.shape.first_bits > FAST_BITS] + (limbs - floor) * work[self.shape.scale_bits > FAST_BITS]
        )

    @cached_property
    def _transform_work(self) -> tuple[float, float]:
        """Of a limb below 2^50, of a wider one."""
        n = self.shape.ring_dim
        size = n * math.log2(n) / (_UNIT_DIM * math.log2(_UNIT_DIM))
        return size * TRANSFORM, size * WIDE_TRANSFORM

    @cached_property
    def _product_work(self) -> tuple[float, float]:
        size = self.shape.ring_dim / _UNIT_DIM
        return size * PRODUCT, size * WIDE_PRODUCT

    @cached_property
    def _lift_work(self) -> float:
        return self.shape.ring_dim / _UNIT_DIM * LIFT
