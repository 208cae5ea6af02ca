"""`Precision`: the noise of a planned run in closed form, and what the smudging of the release leaves.

Standard deviations are of slot values unless they are said to be of coefficients. Noise that depends on the rows is
taken for a mean square of 1 in every feature, and for rows up to ROW_NORM_LIMIT; `models.training.check_rows` sees to
both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mhe.security import (
    key_error_std,
    key_switch_bias_norm,
    key_switch_std,
    norm_bound,
    refresh_error_std,
    rounding_std,
    smudging_std,
)

if TYPE_CHECKING:
    from models.plan import CircuitPlan

ROW_NORM_LIMIT = 8.0
"""Largest norm of a row, intercept included, over that of a row of standard deviations; larger ones are refused."""

PREDICTED_QUANTILE = 1e-3
"""The predicted largest weight error is exceeded with at most this probability."""


@dataclass(frozen=True)
class Precision:
    """Noise and precision of one plan."""

    plan: CircuitPlan

    @cached_property
    def weight_noise_std(self) -> float:
        """Error of a weight after the last iteration, before any smudging: root mean square over all weights.

        Noise of every iteration is independent, and a direction without curvature forgets it slowest. The zeros that
        the training starts from bring as much as one iteration.
        """
        plan, features = self.plan, self.plan.workload.features
        gains = features * self._gain(plan.workload.weight_decay) + self._gain(1.0)
        return self._injected_std * math.sqrt(1 + gains / (features + 1))

    def _gain(self, decay: float) -> float:
        """Sum of the squared responses of a weight at the end to a unit error in each iteration, without curvature.

        The recurrence of the training: w' = decay ((1 + beta) w - beta w_previous).
        """
        beta, total = self.plan.momentum, 0.0
        response, previous = 1.0, 0.0
        for _ in range(self.plan.workload.iterations):
            total += response**2
            response, previous = decay * ((1 + beta) * response - beta * previous), response
        return total

    @property
    def _injected_std(self) -> float:
        """Error that one iteration adds to a weight: of p(X v) - y, of the rotations, of rescale and refresh."""
        plan, n = self.plan, self._ring_dim
        folds = plan.layout.period / plan.layout.features
        turns = len(plan.layout.baby_steps) * plan.workload.n_parties + len(plan.layout.fold_steps)
        summed = math.hypot(self._error_std, self._encoding_std / 2) / math.sqrt(plan.total_rows)
        # the message lies in few coefficients: of noise at the weights' own scale only those count
        own = math.sqrt(self.released_coefficients) * math.hypot(self._rounding, self._refresh) / plan.weight_scale
        turned = math.sqrt(turns * folds * n) * self._switching(plan.error_limbs) / plan.step_scale
        return math.hypot(plan.workload.learning_rate * summed, turned, own)

    @property
    def _error_std(self) -> float:
        """Error of p(X v) - y in one slot, as rotated for the backward product."""
        plan, sigmoid = self.plan, self.plan.workload.sigmoid
        evaluated = math.hypot(sigmoid.rounding_gain * self._rounding, self._switching(plan.error_limbs))
        return math.hypot(
            sigmoid.largest_slope * self._forward_std, math.sqrt(self._ring_dim) * evaluated / plan.error_scale
        )

    @property
    def _forward_std(self) -> float:
        """Error of X v in one slot, for weights of unit size and the largest row that is allowed."""
        plan, n = self.plan, self._ring_dim
        turned = self._switching(plan.parameters.n_limbs) / plan.ahead_scale
        # both w and w_previous bring the noise of their last rescale and refresh
        looked_ahead = math.hypot(1 + plan.momentum, plan.momentum)
        products = math.hypot(turned, looked_ahead * math.hypot(self._refresh, self._rounding) / plan.weight_scale)
        giants = math.sqrt(len(plan.layout.giant_steps)) * turned / plan.data_scale
        noise = math.sqrt(n) * math.hypot(giants, self._rounding / plan.forward_scale)
        return math.hypot(self._row_norm * math.hypot(math.sqrt(n) * products, self._encoding_std), noise)

    @property
    def _row_norm(self) -> float:
        """Norm of the largest row that is allowed."""
        return ROW_NORM_LIMIT * math.sqrt(self.plan.workload.features + 1)

    @property
    def _encoding_std(self) -> float:
        """Error of an encoded cell of the table."""
        return math.sqrt(self.plan.layout.period / 6) / self.plan.data_scale

    @property
    def _ring_dim(self) -> int:
        return self.plan.parameters.ring_dim

    @property
    def _rounding(self) -> float:
        return rounding_std(self._ring_dim, self.plan.parameters.n_parties)

    @property
    def _refresh(self) -> float:
        return refresh_error_std(self.plan.parameters.n_parties)

    def _switching(self, limbs: int) -> float:
        return key_switch_std(self.plan.parameters, limbs, key_error_std(self.plan.parameters.n_parties))

    # the released weights

    @property
    def released_coefficients(self) -> int:
        """Coefficients that carry the weights."""
        return 2 * self.plan.layout.features

    @property
    def weight_noise_norm(self) -> float:
        """Euclidean bound on the noise of those coefficients, at the weights' scale."""
        std = self.weight_noise_std * self.plan.weight_scale / math.sqrt(self.released_coefficients)
        return norm_bound(std, self.released_coefficients)

    @property
    def release_std(self) -> float:
        """What the smudging of all parties adds to a released weight."""
        smudging = self._smudging(self.weight_noise_norm)
        return self._in_slot(smudging, self.released_coefficients) / self.plan.weight_scale

    @property
    def weight_error(self) -> float:
        """The largest error of all weights against the clear twin; exceeded with probability PREDICTED_QUANTILE."""
        released = self.release_std if self.plan.workload.release == "model" else 0.0
        return math.hypot(self.weight_noise_std, released) * _quantile(self.plan.layout.features)

    # the delivered predictions

    @property
    def logit_noise_std(self) -> float:
        """Error of the logit X w of the largest row that is allowed, before any smudging."""
        plan, n = self.plan, self._ring_dim
        switching = self._switching(plan.prediction_limbs + 1)
        turns = len(plan.layout.giant_steps) + len(plan.layout.spread_steps)
        turned = math.sqrt(n) * switching / (plan.weight_scale * plan.prediction_guard)
        encoding = math.sqrt(plan.layout.period / 6) / plan.prediction_data_scale
        dropped = plan.parameters.moduli[plan.prediction_limbs]
        own = math.hypot(math.sqrt(turns) * switching / dropped, self._rounding) / plan.prediction_scale
        per_weight = math.hypot(self.weight_noise_std, turned, encoding)
        return math.hypot(self._row_norm * per_weight, math.sqrt(n) * own)

    @property
    def logit_noise_norm(self) -> float:
        """Euclidean bound on the noise of all coefficients of delivered logits, at their scale.

        The biased part of every rotation of the weights is counted apart, for it gathers in few slots.
        """
        plan, n = self.plan, self._ring_dim
        spread = norm_bound(self.logit_noise_std * plan.prediction_scale / math.sqrt(n), n)
        return (
            spread + self._row_norm * key_switch_bias_norm(plan.parameters) * plan.parameters.scale / plan.weight_scale
        )

    @property
    def logit_error(self) -> float:
        """The largest error of a block of delivered logits; exceeded with probability PREDICTED_QUANTILE."""
        smudging = self._smudging(self.logit_noise_norm)
        delivered = self._in_slot(smudging, 2 * self.plan.layout.rows) / self.plan.prediction_scale
        return math.hypot(self.logit_noise_std, delivered) * _quantile(self.plan.layout.rows)

    @property
    def released_error(self) -> float:
        """The largest error of what is released: of a logit where predictions are, of a weight otherwise."""
        return self.logit_error if self.plan.workload.release == "predictions" else self.weight_error

    def _smudging(self, noise_norm: float) -> float:
        """Width of one party's smudging of coefficients."""
        return smudging_std(noise_norm, self.plan.workload.release_bits, self.plan.releases)

    def _in_slot(self, smudging: float, coefficients: int) -> float:
        """All parties' smudging of so many coefficients, in one slot: a cosine of mean square 1/2 for each."""
        return math.sqrt(self.plan.workload.n_parties * coefficients / 2) * smudging


def _quantile(n: int) -> float:
    """Standard deviations that the largest of n normal values exceeds with probability PREDICTED_QUANTILE at most."""
    return math.sqrt(2 * math.log(2 * n / PREDICTED_QUANTILE))
