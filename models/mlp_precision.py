"""`PerceptronPrecision`: the noise of a planned training of a perceptron, followed through the very code of one step.

Sizes are root mean squares (`mhe.backend.tracking`): of rows, a mean square of 1 in every feature; of weights, those of
the first ones. What the analysis takes for independent may not be, and sizes grow in training, so that released noise
is hidden as if it were MARGIN times as large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mhe.ciphertext import Ciphertext
from mhe.security import norm_bound, secret_spread
from mhe.tracking_party import TrackingParty
from models.precision import ROW_NORM_LIMIT, ReleasePrecision, quantile, squared_gain

if TYPE_CHECKING:
    from models.mlp_plan import PerceptronPlan

MARGIN = 8.0
"""By which noise may exceed its root mean square by the analysis, before the smudging hides less than it says."""

SMALLEST_WEIGHT = 0.1
"""Size of the weights of a model that starts from zero."""


@dataclass(frozen=True)
class PerceptronPrecision(ReleasePrecision):
    """Noise and precision of one plan; slot values unless they are said to be of coefficients."""

    plan: PerceptronPlan

    @cached_property
    def _injected_std(self) -> float:
        """Error that one iteration adds to a weight, from weights without any."""
        from models.mlp import PerceptronModel

        plan, party = self.plan, TrackingParty(self.plan.parameters)
        model = PerceptronModel(plan)
        weights = self._weights(party, 0.0)
        ahead = model.look_ahead(party.backend, weights, weights)
        rows, net = max(plan.workload.batch_rows), plan.network
        batch = model.batch(np.ones((rows, net.inputs)), np.ones((rows, net.outputs)), keep=False)
        totals = party.sum(model.gradients(party, ahead, batch))
        updated = model.refresh(party, model.step(party, model.prepare(party, [batch]), ahead, totals))
        return max(party.backend.size(w).noise for w in updated)

    def _weights(self, party: TrackingParty, noise: float) -> list[Ciphertext]:
        plan = self.plan
        tiles = plan.pack(plan.network.initial_weights(plan.workload.seed))
        sizes = [max(SMALLEST_WEIGHT, math.sqrt(float(np.square(tile).mean()))) for tile in tiles]
        return [party.encrypted(size, noise, plan.weight_scale, plan.weights_period) for size in sizes]

    @cached_property
    def weight_noise_std(self) -> float:
        """Error of a weight after the last iteration, before any smudging.

        Noise of every iteration is independent, and a direction without curvature forgets it slowest: the same
        recurrence as for a regression.
        """
        w = self.plan.workload
        return self._injected_std * math.sqrt(1 + squared_gain(self.plan.momentum, w.weight_decay, w.iterations))

    @cached_property
    def logit_noise_std(self) -> float:
        """Error of an output of the last layer, of weights as noisy as they are in the end."""
        return self._logit_noise(1.0)

    def _logit_noise(self, row_size: float) -> float:
        """The same of rows so many times as large as one of standard deviations, with activations in their interval."""
        from models.mlp import outputs_of_rows

        plan = self.plan
        party = TrackingParty(plan.parameters, plan.network.activation.half_width)
        rows = np.full((plan.layout.rows, plan.network.inputs), row_size)
        z = outputs_of_rows(party, plan, self._weights(party, self.weight_noise_std), rows)
        return max(party.backend.size(tile).noise for tile in z)

    # released weights

    @property
    def released_coefficients(self) -> int:
        """Coefficients of one tile of weights."""
        return 2 * self.plan.weights_period

    @cached_property
    def weight_noise_norm(self) -> float:
        """Euclidean bound on the noise of those coefficients, at the weights' scale."""
        return self._norm(self.weight_noise_std, self.plan.weight_scale, self.released_coefficients)

    @property
    def weight_error(self) -> float:
        """The largest error of all weights against the clear twin."""
        opened = 0.0
        if self.plan.workload.release == "model":
            opened = self._smudged(self.weight_smudging, self.plan.weight_scale, self.plan.weights_period)
        weights = sum(n_in * n_out for n_in, n_out in self.plan.network.shapes)
        return math.hypot(self.weight_noise_std, opened) * quantile(weights)

    # delivered outputs

    @cached_property
    def logit_noise_norm(self) -> float:
        """Euclidean bound on the noise of all coefficients of a delivered tile of the largest rows, at its scale."""
        largest = self._logit_noise(ROW_NORM_LIMIT)
        return self._norm(largest, self.plan.prediction_scale, self.plan.parameters.ring_dim)

    @property
    def logit_error(self) -> float:
        """The largest error of a batch of delivered outputs."""
        p = self.plan.parameters
        delivered = self._smudged(self.logit_smudging, self.plan.prediction_scale, p.n_slots)
        return math.hypot(self.logit_noise_std, delivered) * quantile(self.plan.layout.rows)

    def _norm(self, std: float, scale: float, coefficients: int) -> float:
        """Of noise with this size in slots: a slot sums coefficients times cosines of mean square 1/2."""
        coefficient_std = std * scale / math.sqrt(coefficients / 2)
        return MARGIN * norm_bound(coefficient_std * secret_spread(2 / coefficients), coefficients)
