"""`PerceptronPrecision`: the noise of a planned training of a perceptron, followed through the very code of one step.

Sizes are root mean squares (`mhe.backend.tracking`): of rows, the mean square that the workload allows; of weights,
those of the first ones. What the analysis takes for independent may not be, single columns may be larger, and sizes
grow in training, so that the noise of gradients is hidden as if it were MARGIN times as large. What rescales and the
refresh of the weights add to these themselves is bounded as for a regression.

What the encoding of rows and constants rounds is no noise that must be hidden: it is fixed by what is encoded, before
any secret comes in, so that what is released is an exact function of the rounded inputs, and noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mhe.backend.tracking import Size
from mhe.ciphertext import Ciphertext
from mhe.security import norm_bound, refresh_error_std, rounded_norm_bound, rounding_std, secret_spread
from mhe.tracking_party import TrackingParty
from models.precision import MOST_TOLD, ROW_NORM_LIMIT, ReleasePrecision, quantile, squared_gain

if TYPE_CHECKING:
    from models.mlp_plan import PerceptronPlan

Floats = npt.NDArray[np.float64]

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
        own = self._slots_of(self._own_std)
        return math.hypot(own, max(size.error for size in self._gradient_sizes))

    @cached_property
    def _gradient_sizes(self) -> list[Size]:
        """The part of it that comes with the gradients, by tile: what a step of noiseless weights has beside its own
        rescale.
        """
        from models.mlp import PerceptronModel

        plan, party = self.plan, self._party()
        model, backend = PerceptronModel(plan), party.backend
        weights = self._weights(party, 0.0)
        ahead = model.look_ahead(backend, weights, weights)
        rows = self._rows(max(plan.workload.batch_rows))
        batch = model.batch(rows, np.ones((len(rows), plan.network.outputs)), keep=False)
        totals = party.sum(model.gradients(party, ahead, batch))
        noiseless = [backend.ciphertext(Size(backend.size(v).value, 0.0), v.limbs, v.scale, v.period) for v in ahead]
        updated = model.step(party, model.prepare(party, [batch]), noiseless, totals) or []
        rescale = self._slots_of(self._rescale_std)
        sizes = [backend.size(w) for w in updated]
        return [replace(size, noise=math.sqrt(max(size.noise**2 - rescale**2, 0.0))) for size in sizes]

    def _party(self, largest: float = math.inf) -> TrackingParty:
        return TrackingParty(self.plan.parameters, largest, centred=self.plan.centred)

    def _slots_of(self, coefficient_std: float) -> float:
        """Error of a weight by an error of all its ciphertext's coefficients."""
        return self._party().backend.slot_noise(coefficient_std, self.plan.weight_scale)

    def _rows(self, count: int) -> Floats:
        """Rows as large as the workload allows in the mean."""
        return np.full((count, self.plan.network.inputs), math.sqrt(self.plan.workload.mean_square))

    def _weights(self, party: TrackingParty, noise: float) -> list[Ciphertext]:
        plan = self.plan
        tiles = plan.pack(plan.network.initial_weights(plan.workload.seed))
        sizes = [max(SMALLEST_WEIGHT, math.sqrt(float(np.square(tile).mean()))) for tile in tiles]
        return [party.encrypted(size, noise, plan.weight_scale, plan.weights_period) for size in sizes]

    @property
    def _growth(self) -> float:
        """Of the noise of one iteration to that of all: it is independent, and a direction without curvature forgets it
        slowest: the same recurrence as for a regression.
        """
        w = self.plan.workload
        return math.sqrt(1 + squared_gain(self.plan.momentum, w.weight_decay, w.iterations))

    @cached_property
    def weight_noise_std(self) -> float:
        """Error of a weight after the last iteration, before any smudging."""
        return self._injected_std * self._growth

    @property
    def _own_std(self) -> float:
        """Coefficients that an iteration adds to weights by rescales (of the step, of what is looked ahead to) and by
        the refresh.
        """
        ahead = self._rescale_std * self.plan.weight_scale / min(self.plan.ahead_scales)
        return math.hypot(ahead, self._alone_std)

    @property
    def _alone_std(self) -> float:
        """Coefficients that a rescale and a refresh add to weights."""
        return math.hypot(self._rescale_std, refresh_error_std(self.plan.parameters.n_parties))

    @property
    def _rescale_std(self) -> float:
        p = self.plan.parameters
        return rounding_std(p.ring_dim, p.n_parties)

    @cached_property
    def logit_noise_std(self) -> float:
        """Error of an output of the last layer, of weights as noisy as they are in the end."""
        return self._logit_noise(1.0)

    def _logit_noise(self, row_size: float) -> float:
        """The same of rows so many times as large as the mean one, with inputs of activations in their interval."""
        from models.mlp import outputs_of_rows

        plan = self.plan
        party, rows = self._party(plan.network.activation.half_width), row_size * self._rows(plan.layout.rows)
        z = outputs_of_rows(party, plan, self._weights(party, self.weight_noise_std), rows)
        return max(party.backend.size(tile).error for tile in z)

    # what a range probe releases

    @cached_property
    def input_noise_norm(self) -> float:
        from models.mlp import inputs_of_rows

        plan, (low, high) = self.plan, self.plan.network.interval
        party, rows = self._party(MOST_TOLD * max(-low, high)), self._rows(plan.layout.rows)
        parts = inputs_of_rows(party, plan, self._weights(party, self.weight_noise_std), rows)
        noise = max(party.backend.size(t).error for t in parts) * (high - low) / 2
        return MARGIN * math.sqrt(plan.polynomial_inputs.values) * noise

    # released weights

    @property
    def released_coefficients(self) -> int:
        """Coefficients of one tile of weights."""
        return 2 * self.plan.weights_period

    @cached_property
    def weight_noise_norms(self) -> list[float]:
        """Euclidean bounds on the noise of those coefficients, tile by tile, at the weights' scale."""
        return self._noise_norms(self.plan.weight_scale)

    def _noise_norms(self, scale: float) -> list[float]:
        """At this scale. What takes off padding adds a refresh and two rescales, the last one at this scale."""
        plan, coefficients = self.plan, self.released_coefficients
        raised = max(1.0, scale / plan.weight_scale)
        own, alone = (
            rounded_norm_bound(std, coefficients, plan.parameters.ring_dim)
            for std in (self._own_std, math.hypot(self._rescale_std, raised * self._alone_std))
        )
        gradients = [self._norm(size.noise, plan.weight_scale, coefficients) for size in self._gradient_sizes]
        return [scale / plan.weight_scale * self._growth * (own + norm) + alone for norm in gradients]

    @property
    def weight_noise_norm(self) -> float:
        return max(self.weight_noise_norms)

    @cached_property
    def kept_noise_norm(self) -> float:
        return max(self._noise_norms(self.plan.kept_scale))

    @property
    def weight_error(self) -> float:
        """The largest error of all weights against the clear twin; most are in tiles of less smudging."""
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
