"""`Precision`: the noise of a planned run in closed form, and what the smudging of the release leaves.

Standard deviations are of slot values unless they are said to be of coefficients. Noise that depends on the rows is
taken for a mean square of 1 in every feature, and for rows up to ROW_NORM_LIMIT times the mean one;
`models.training.check_rows` sees to both. Rows of the table stay within the interval of the link, weights within
message_bound.

What the smudging must hide is bounded, not estimated: `weight_noise_norm` and `logit_noise_norm` hold but for a
probability of 2^-TAIL_BITS for each of a few terms, over rounding, errors of keys and the secret. The only idealisation
is the usual one, that what is rounded is uniform. Errors that are predicted, not hidden (`weight_error`), are those of
a typical run.

Noise is what hangs on secrets. What the encoding of rows and constants rounds is no part of it: it is fixed by what is
encoded, before any secret comes in, so that what is released is an exact function of the rounded inputs, and noise.
Errors are both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mhe.errors import ParameterError
from mhe.security import (
    correlated_norm_bound,
    key_error_std,
    key_switch_bias_norm,
    key_switch_std,
    refresh_error_std,
    relin_key_error_std,
    rounded_norm_bound,
    rounding_std,
    secret_spread,
    smudging_std,
)
from models.prediction import ANSWER_GUARD, smudged_std

if TYPE_CHECKING:
    from models.plan import CircuitPlan
    from models.training_plan import TrainingPlan

ROW_NORM_LIMIT = 8.0
"""Largest norm of a row, intercept included, over that of a row of standard deviations; larger ones are refused."""

PREDICTED_QUANTILE = 1e-3
"""The predicted largest weight error is exceeded with at most this probability."""


MOST_TOLD = 2.0
"""A range probe (`models.range_probe`) that does not surely tell inputs this many times as large as the interval is
refused: it protects nothing."""


class ReleasePrecision(ABC):
    """What the smudging of a release hides, and what it leaves: of slots, unless said to be of coefficients."""

    plan: TrainingPlan

    @property
    @abstractmethod
    def weight_noise_std(self) -> float:
        """Error of a weight after the last iteration, before any smudging."""

    @property
    @abstractmethod
    def weight_noise_norm(self) -> float:
        """Euclidean bound on the noise of the coefficients of one ciphertext of weights, at the weights' scale."""

    @property
    def kept_noise_norm(self) -> float:
        """The same of a model that stays encrypted, at the scale at which it is kept."""
        return self.weight_noise_norm

    @property
    @abstractmethod
    def weight_error(self) -> float:
        """The largest error of all weights against the clear twin."""

    @property
    @abstractmethod
    def logit_noise_norm(self) -> float:
        """Euclidean bound on the noise of all coefficients of a delivered ciphertext, at its scale."""

    @property
    @abstractmethod
    def logit_error(self) -> float:
        """The largest error of a block of delivered outputs."""

    @property
    @abstractmethod
    def input_noise_norm(self) -> float:
        """Bound on the Euclidean norm of the noise of all inputs of polynomials of an iteration, of all parties, as
        long as none is beyond MOST_TOLD times the interval.
        """

    @property
    def weight_smudging(self) -> float:
        """Width of one party's smudging of the coefficients of weights."""
        return self._smudging(self.weight_noise_norm)

    @property
    def logit_smudging(self) -> float:
        """Width of one party's smudging of the coefficients of delivered outputs."""
        return self._smudging(self.logit_noise_norm)

    @property
    def released_error(self) -> float:
        """The largest error of what is released: of a logit where predictions are, of an answer where the model stays
        encrypted (infinite where answers do not fit the chain), of a weight otherwise.
        """
        if self.plan.workload.release == "encrypted":
            try:
                return self.plan.prediction.error
            except ParameterError:
                return math.inf
        return self.logit_error if self.plan.workload.release == "predictions" else self.weight_error

    def _smudging(self, noise_norm: float) -> float:
        """Width of one party's smudging of coefficients."""
        return smudging_std(noise_norm, self.plan.workload.release_bits, self.plan.releases)

    def _smudged(self, width: float, scale: float, period: int) -> float:
        """What all parties' smudging adds to a slot."""
        return smudged_std(self.plan.parameters, width, scale, period)


@dataclass(frozen=True)
class Precision(ReleasePrecision):
    """Noise and precision of one plan."""

    plan: CircuitPlan

    @cached_property
    def weight_noise_std(self) -> float:
        """Error of a weight after the last iteration, before any smudging: root mean square over all weights.

        Noise of every iteration is independent, and a direction without curvature forgets it slowest. The zeros that
        the training starts from bring as much as one iteration.
        """
        injected = math.hypot(self._summed_std, self._summed_rounding, self._turned_std, self._own_std)
        return injected * math.sqrt(self._mean_gain)

    @cached_property
    def _mean_gain(self) -> float:
        """Sum of the squared responses to the errors of all iterations and of the start: mean over all weights."""
        features = self.plan.workload.features
        gains = features * self._gain(self.plan.workload.weight_decay) + self._gain(1.0)
        return 1 + gains / (features + 1)

    def _gain(self, decay: float) -> float:
        return squared_gain(self.plan.momentum, decay, self.plan.workload.iterations)

    @property
    def _summed_std(self) -> float:
        """Noise that one iteration adds to a weight by that of p(X v) - y, summed over all rows."""
        return self._summed(self._error_std)

    @property
    def _summed_rounding(self) -> float:
        """The same by the encoding of rows, in the forward and in the backward product."""
        inputs = self.plan.workload.link.largest_slope * self._encoded_inputs
        return self._summed(math.hypot(inputs, self._encoding_std / 2))

    def _summed(self, std: float) -> float:
        """What adds up in a weight of independent errors of all rows."""
        return self.plan.workload.learning_rate * std / math.sqrt(self.plan.total_rows)

    @property
    def _turned_std(self) -> float:
        """The same by the rotations of the gradient."""
        plan = self.plan
        folds = plan.layout.period / plan.layout.features
        turns = len(plan.layout.baby_steps) * plan.workload.n_parties + len(plan.layout.fold_steps)
        return math.sqrt(turns * folds * self._ring_dim) * self._switching(plan.error_limbs) / plan.step_scale

    @property
    def _own_std(self) -> float:
        """The same by rescale and refresh. The message lies in few coefficients, and only their noise counts."""
        coefficients = math.sqrt(self.released_coefficients)
        return coefficients * math.hypot(self._rounding, self._refresh) / self.plan.weight_scale

    @property
    def _error_std(self) -> float:
        """Noise of p(X v) - y in one slot, as rotated for the backward product."""
        plan, link = self.plan, self.plan.workload.link
        evaluated = math.hypot(
            link.rounding_gain * math.hypot(self._rounding, self._relinearised), self._switching(plan.error_limbs)
        )
        # a copy is the sum of what stands in the slots of all of them: no slot counts in two copies of one column
        summed = 1 if plan.layout.is_cyclic else plan.layout.copies
        return math.hypot(
            link.largest_slope * self._forward_std, math.sqrt(summed * self._ring_dim) * evaluated / plan.error_scale
        )

    @property
    def _forward_std(self) -> float:
        """Noise of X v in one slot, for the largest row that is allowed."""
        plan, n = self.plan, self._ring_dim
        turned = self._switching(plan.parameters.n_limbs) / plan.ahead_scale
        # both w and w_previous bring the noise of their last rescale and refresh
        looked_ahead = math.hypot(1 + plan.momentum, plan.momentum)
        products = math.hypot(turned, looked_ahead * math.hypot(self._refresh, self._rounding) / plan.weight_scale)
        giants = math.sqrt(self._forward_turns) * turned / plan.data_scale
        own = math.sqrt(n) * math.hypot(giants, self._rounding / plan.forward_scale)
        return math.hypot(self._row_norm * math.sqrt(n) * products, own)

    @property
    def _encoded_inputs(self) -> float:
        """Error of X v by the encoding of X, for the largest weights."""
        return self._largest_weights * self._encoding_std

    @property
    def _largest_weights(self) -> float:
        """Their norm."""
        return self.plan.workload.message_bound * math.sqrt(self.plan.workload.features + 1)

    @property
    def _forward_turns(self) -> int:
        """Errors of rotations in a slot of X v: of the giant steps in every copy, and of the sum over the copies."""
        layout = self.plan.layout
        return len(layout.giant_steps) * layout.copies + layout.copies - 1

    def _masking_std(self, limbs: int) -> float:
        """Error of a slot of X w by the encoding of the mask at so many limbs, for the largest row and weights."""
        plan = self.plan
        if plan.layout.is_cyclic:
            return 0.0
        rounded = math.sqrt(plan.layout.row_period / 6) / plan.parameters.moduli[limbs - 1]
        return self._row_norm * self._largest_weights * rounded

    @property
    def _row_norm(self) -> float:
        """Norm of the largest row that is allowed."""
        return ROW_NORM_LIMIT * math.sqrt(self.plan.workload.mean_square * self.plan.workload.features + 1)

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

    @property
    def _relinearised(self) -> float:
        """What a relinearisation adds to the product, after its rescale."""
        p = self.plan.parameters
        key_error = relin_key_error_std(p.ring_dim, p.n_parties)
        added = key_switch_std(p, p.n_limbs, key_error, centred=self.plan.centred)
        return added / min(p.moduli[self.plan.low_limbs :])

    def _switching(self, limbs: int) -> float:
        key_error = key_error_std(self.plan.parameters.n_parties)
        return key_switch_std(self.plan.parameters, limbs, key_error, centred=self.plan.centred)

    # what a range probe releases

    @cached_property
    def input_noise_norm(self) -> float:
        """However correlated the noise of X v is.

        Those of the weights count with the sum of all squares of X: columns have a mean square of 1 over all rows, but
        not in every batch.
        """
        plan, n = self.plan, self._ring_dim
        rows = self._row_norm if plan.workload.batch is not None else math.sqrt(plan.workload.features + 1)
        weights = math.sqrt(plan.layout.features) * self.weight_noise_norm / plan.weight_scale
        bias = 0.0 if plan.centred else self._row_norm * key_switch_bias_norm(plan.parameters) / plan.ahead_scale
        turned = correlated_norm_bound(self._forward_std * secret_spread(2 / n))
        inputs = plan.polynomial_inputs
        of_rows = math.sqrt(inputs.ciphertexts * plan.layout.rows) * (
            rows * (1 + 2 * plan.momentum) * weights + turned + bias
        )
        # the rescale behind the mask errs in all slots
        rescaled = 0.0 if plan.layout.is_cyclic else self._rounding * math.sqrt(n) / inputs.scale
        masked = correlated_norm_bound(rescaled * secret_spread(2 / n))
        return of_rows + math.sqrt(inputs.ciphertexts * inputs.period) * masked

    # the released weights

    @property
    def released_coefficients(self) -> int:
        """Coefficients that carry the weights."""
        return 2 * self.plan.layout.features

    @cached_property
    def weight_noise_norm(self) -> float:
        """Euclidean bound on the noise of those coefficients, at the weights' scale.

        The errors of rescales and refreshes are those of independent coefficients. Those of the rows reach the weights
        through X^T, and those of rotations through sums of rotations: any correlation is allowed for. Of a row's error
        the sum over all weights counts ||row||^2, of which one row has at most ROW_NORM_LIMIT^2 parts of n; an error
        that is copied counts in no more than two rows, and all of them in as many slots as there are copies.
        """
        plan, workload = self.plan, self.plan.workload
        coefficients, scale = self.released_coefficients, plan.weight_scale
        largest_gain = 1 + max(self._gain(1.0), self._gain(workload.weight_decay))
        own = self._own_std * math.sqrt(largest_gain / coefficients)
        summed = self._summed_std * secret_spread(ROW_NORM_LIMIT**2 / plan.total_rows)
        turned = self._turned_std * secret_spread(1.0)
        # ||c||^2 over the coefficients is the mean of the squares of all weights
        used = (workload.features + 1) / plan.layout.features
        spread = math.hypot(summed, turned) * math.sqrt(self._mean_gain * used)
        return scale * (rounded_norm_bound(own, coefficients, self._ring_dim) + correlated_norm_bound(spread))

    @property
    def release_std(self) -> float:
        """What the smudging of all parties adds to a released weight."""
        return self._smudged(self.weight_smudging, self.plan.weight_scale, self.plan.weights_period)

    @property
    def weight_error(self) -> float:
        """The largest error of all weights against the clear twin; exceeded with probability PREDICTED_QUANTILE."""
        released = self.release_std if self.plan.workload.release == "model" else 0.0
        return math.hypot(self.weight_noise_std, released) * quantile(self.plan.layout.features)

    # the delivered predictions

    @property
    def logit_noise_std(self) -> float:
        """Error of the logit X w of the largest row that is allowed, before any smudging."""
        plan = self.plan
        encoded = self._largest_weights * math.sqrt(plan.layout.period / 6) / plan.prediction_data_scale
        masked = self._masking_std(plan.prediction_limbs + 1)
        return math.hypot(self._row_norm * self.weight_noise_std, self._logit_added_std, encoded, masked)

    @property
    def _logit_added_std(self) -> float:
        """Noise that is added on the way from the coefficients that carry the weights."""
        plan, n = self.plan, self._ring_dim
        levels = plan.layout.output_levels
        switching = self._switching(plan.prediction_limbs + levels)
        turned = math.hypot(switching, self._refresh) / (plan.weight_scale * ANSWER_GUARD)
        dropped = plan.parameters.moduli[plan.prediction_limbs + levels - 1]
        turns = math.sqrt(self._forward_turns) * switching / dropped
        own = math.hypot(turns, math.sqrt(levels) * self._rounding) / plan.prediction_scale
        return math.sqrt(n) * math.hypot(self._row_norm * turned, own)

    @cached_property
    def logit_noise_norm(self) -> float:
        """Euclidean bound on the noise of all coefficients of delivered logits, at their scale.

        The noise of the weights counts with the norm of the largest row, in the slots of rows; it is that of the
        coefficients that carry them, for a refresh drops the others'.
        """
        plan, layout = self.plan, self.plan.layout
        largest = self._row_norm * math.sqrt(layout.rows / layout.row_period)
        weights = largest * math.sqrt(layout.features) * self.weight_noise_norm / plan.weight_scale
        return plan.prediction_scale * weights + self.logit_added_norm

    @property
    def logit_added_norm(self) -> float:
        """Of this noise, what is added on the way from the coefficients that carry the weights.

        Any correlation between slots is allowed for. The biased part of uncorrected lifts gathers in few slots and is
        counted apart.
        """
        plan = self.plan
        spread = correlated_norm_bound(self._logit_added_std * secret_spread(2 / self._ring_dim))
        bias = 0.0 if plan.centred else self._row_norm * key_switch_bias_norm(plan.parameters)
        return plan.prediction_scale * spread + bias * plan.parameters.scale / plan.weight_scale

    @property
    def logit_error(self) -> float:
        """The largest error of a block of delivered logits; exceeded with probability PREDICTED_QUANTILE."""
        delivered = self._smudged(self.logit_smudging, self.plan.prediction_scale, self.plan.layout.row_period)
        return math.hypot(self.logit_noise_std, delivered) * quantile(self.plan.layout.rows)


def largest_output(message_bound: float, features: int) -> float:
    """Of the largest row that is allowed, for weights up to message_bound."""
    return ROW_NORM_LIMIT * message_bound * (features + 1)


def quantile(n: int) -> float:
    """Standard deviations that the largest of n normal values exceeds with probability PREDICTED_QUANTILE at most."""
    return math.sqrt(2 * math.log(2 * n / PREDICTED_QUANTILE))


def squared_gain(momentum: float, decay: float, iterations: int) -> float:
    """Sum of the squared responses of a weight at the end to a unit error in each iteration, without curvature.

    The recurrence of the training: w' = decay ((1 + momentum) w - momentum w_previous).
    """
    total, response, previous = 0.0, 1.0, 0.0
    for _ in range(iterations):
        total += response**2
        response, previous = decay * ((1 + momentum) * response - momentum * previous), response
    return total
