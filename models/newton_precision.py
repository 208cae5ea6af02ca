"""`FixedHessianPrecision`: the noise of a planned run with an encrypted inverse, and what the smudging leaves of it.

Gradients have the noise of `models.precision`, which a step multiplies by the inverse: by `InverseSchedule.largest` at
most, whatever the data. The noise of the inverse itself is followed through the very code of its rounds
(`mhe.tracking_party`). What that takes for independent may not be, so that it counts as if it were MARGIN times as
large; as matrices have twice the bits of weights, it is small beside the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mhe.backend.tracking import Size
from mhe.security import correlated_norm_bound, rounded_norm_bound, secret_spread
from mhe.tracking_party import TrackingParty
from models.precision import ROW_NORM_LIMIT, Precision

if TYPE_CHECKING:
    from models.newton_plan import FixedHessianPlan

MARGIN = 64.0
"""By which the noise of the inverse may exceed its root mean square by the analysis."""


@dataclass(frozen=True)
class FixedHessianPrecision(Precision):
    """Noise and precision of one plan."""

    plan: FixedHessianPlan

    @cached_property
    def weight_noise_std(self) -> float:
        """Error of a weight after the last iteration, before any smudging.

        Noise of every iteration is independent but for that of the inverse, and an error that is there does not grow.
        """
        gradient = math.hypot(self._summed_std, self._summed_rounding, self._turned_std, self._spread_std)
        step = math.hypot(self.plan.schedule.largest * gradient, self._shared_std)
        iterations = self.plan.workload.iterations
        return math.sqrt(iterations + 1) * step + iterations * self._inverse_effect

    @property
    def _spread_std(self) -> float:
        """Error of a slot of the descent by its rescale and its refresh, whose map is on many blocks."""
        return math.sqrt(self.plan.blocks_of_step) * self._own_std

    @property
    def _shared_std(self) -> float:
        """Error of a weight by the rescale of its shares, which are added up."""
        return self.plan.blocks_of_step * self._own_std

    @property
    def _inverse_effect(self) -> float:
        """Euclidean bound on what the noise of the inverse adds in one iteration: no descent is longer than weights."""
        length = self.plan.workload.message_bound * math.sqrt(self.plan.weights_period)
        return MARGIN * self.inverse_noise_std * self.plan.weights_period * length

    @cached_property
    def inverse_noise_std(self) -> float:
        """Error of a slot of the inverse, by its rounds on E and on Y in turn, as large as their spectra can be."""
        from models.newton import forms, inverse_round

        plan, layout, schedule = self.plan, self.plan.matrices, self.plan.schedule
        party = TrackingParty(plan.parameters)
        scales, backend, outputs = plan.matrix_scales, party.backend, forms(layout)
        totals = party.sum([party.encrypt_own(np.zeros(layout.period), plan.low_limbs, scales[0])])
        assert totals is not None
        start = totals[0]
        noises, largest = [backend.size(start).error] * 2, [1.0, schedule.start]
        for factor, scale, after in zip(schedule.factors, scales, scales[1:], strict=False):
            made = []
            for eigenvalue, noise in zip(largest, noises, strict=True):
                # the sum of all squares is at most that of a multiple of the identity, in half of the slots of a matrix
                size = Size(eigenvalue / math.sqrt(2 * layout.side), noise)
                both = backend.ciphertext(size, plan.low_limbs, scale, layout.period)
                made.append(party.refresh([both], 1, scale, layout.period, outputs))
            right = made[0][-1]
            rounds = (inverse_round(backend, plan, [*own[:-1], right], factor, after) for own in made)
            noises = [backend.size(both).error for both in rounds]
            largest[1] *= 2 * factor
        return noises[1]

    @cached_property
    def weight_noise_norm(self) -> float:
        """Euclidean bound on the noise of the coefficients that carry the weights, at their scale.

        As for other solvers (`Precision.weight_noise_norm`), of every gradient times the largest inverse.
        """
        plan, coefficients = self.plan, self.released_coefficients

        def own(std: float) -> float:
            return rounded_norm_bound(std / math.sqrt(coefficients), coefficients, self._ring_dim)

        summed = self._summed_std * secret_spread(ROW_NORM_LIMIT**2 / plan.total_rows)
        used = (plan.workload.features + 1) / plan.layout.features
        spread = math.hypot(summed, self._turned_std * secret_spread(1.0)) * math.sqrt(used)
        gradient = own(self._spread_std) + correlated_norm_bound(spread)
        step = plan.schedule.largest * gradient + own(self._shared_std)
        iterations = plan.workload.iterations
        return plan.weight_scale * (math.sqrt(iterations + 1) * step + iterations * self._inverse_effect)
