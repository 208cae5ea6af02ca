"""`RangeProbe`: how far the inputs of polynomials reach, from one number that all parties' rows add up to.

A polynomial stands for another function on its interval only, and beyond it a training fails without a word. With t an
input as a part of the interval (|t| <= 1 inside it), S the sum of t^p over all n inputs of an iteration, of all rows
and of all layers with a polynomial, p a power of two,

    (S / n)^(1/p) <= largest |t| <= S^(1/p).

S is computed under encryption by squaring what the iteration has anyway, summed up the tree, and released: the mean of
a ciphertext's slots is its constant coefficient, which is all that is opened. For p = 16 and a thousand inputs the ends
are a factor of 1.5 apart. The layer that reaches farthest makes nearly all of S: one number for each would say little
more, and have every one of them smudged for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mhe.ciphertext import Ciphertext
from mhe.collective import Transfer
from mhe.errors import ParameterError
from mhe.parameters import log2_product
from mhe.party import Compute, Party
from mhe.security import (
    correlated_norm_bound,
    key_switch_bias_norm,
    key_switch_std,
    relin_key_error_std,
    rerandomised_norm,
    rounding_std,
    secret_spread,
    smudging_std,
)
from models.model import Plan
from models.precision import MOST_TOLD, quantile
from models.training_plan import PolynomialInputs

MOST_SQUARINGS = 4
"""Powers beyond the 16th bring the two ends hardly any closer, and more noise."""

SPARE_BITS = 2
"""For the sign, and for noise and smudging, which `_told` keeps below what is to be told."""


@dataclass(frozen=True)
class InputRange:
    """What a probe has told. reach, interval: (lowest, highest) input of a polynomial; `reach` holds all of them, and
    is None where they lie too far outside to say how far.

    surely: the largest input is at least this far from the middle of the interval, in halves of its length. outside:
    whether inputs may lie outside.
    """

    iteration: int
    reach: tuple[float, float] | None
    interval: tuple[float, float]
    surely: float
    outside: bool

    @property
    def said(self) -> str:
        low, high = self.interval
        least = self.surely * (high - low) / 2
        where = "lie farther out than a probe can tell"
        if self.reach is not None:
            where = f"may lie anywhere in [{self.reach[0]:.3g}, {self.reach[1]:.3g}]"
        return (
            f"in iteration {self.iteration} inputs of the polynomial {where}, the largest at least {least:.3g} from "
            f"the middle of the interval [{low:g}, {high:g}] in which it holds: widen [model] interval, or lower "
            "learning_rate or momentum"
        )


Prober = Callable[[Party, int, Sequence[Ciphertext]], InputRange]
"""From the iteration and a party's inputs of polynomials (`models.model.Model.probed_gradients`) to what all parties'
are; the same at every party."""


@dataclass(frozen=True)
class RangeProbe:
    """The probe of one plan: how often it squares, and what its answer is worth."""

    plan: Plan

    @cached_property
    def inputs(self) -> PolynomialInputs:
        return self.plan.polynomial_inputs

    @property
    def limbs(self) -> int:
        """Limbs of what is summed and released."""
        return self.inputs.limbs - self.squarings

    @property
    def power(self) -> int:
        """p"""
        return 1 << self.squarings

    @property
    def slots(self) -> int:
        """Slots that are added up, of all ciphertexts of all parties."""
        return self.inputs.ciphertexts * self.inputs.period

    @property
    def middle(self) -> float:
        low, high = self.plan.network.interval
        return (low + high) / 2

    @property
    def radius(self) -> float:
        low, high = self.plan.network.interval
        return (high - low) / 2

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """What one probe sends through the tree: for its inputs, the sum, then the decryption of one coefficient."""
        n = self.plan.parameters.ring_dim
        return (
            *self.inputs.transfers,
            Transfer("reduce", "sum", 2 * self.limbs, n),
            Transfer("broadcast", "decryption_input", self.limbs, n),
            Transfer("reduce", "decryption", self.limbs, 1),
            Transfer("broadcast", "decryption_output", self.limbs, 1),
        )

    def power_sum(self, party: Compute, parts: Sequence[Ciphertext]) -> Ciphertext:
        """The sum of t^p over the ciphertexts of one party, at `limbs` limbs."""
        backend, powers = party.backend, party.refresh_own(parts) if self.inputs.transfers else list(parts)
        for _ in range(self.squarings - 1):
            powers = [backend.rescale(backend.multiply(t, t)) for t in powers]
        return backend.rescale(backend.multiply_accumulate((t, t) for t in powers))

    def scale(self, squarings: int) -> float:
        """After so many squarings."""
        scale = self.inputs.scale * self.radius
        for k in range(squarings):
            scale *= scale / self.plan.parameters.moduli[self.inputs.limbs - 1 - k]
        return scale

    @property
    def squarings(self) -> int:
        """The choice with the tightest bound: what is surely told, and how far the two ends are apart."""
        return self._chosen[0]

    @property
    def told(self) -> float:
        """Inputs this many times as large as the interval are surely told, and up to S = told^p the noise is hidden."""
        return self._chosen[1]

    @cached_property
    def _chosen(self) -> tuple[int, float]:
        possible = (k for k in range(1, MOST_SQUARINGS + 1) if self._holds(k))
        told = [(k, self._told(k)) for k in possible] or [(1, math.inf)]
        return min(told, key=lambda chosen: chosen[1] * self.inputs.values ** (1 / (1 << chosen[0])))

    def _holds(self, squarings: int) -> bool:
        """Whether the limbs that are left hold what they have to, and its smudging."""
        left, moduli = self.inputs.limbs - squarings, self.plan.parameters.moduli
        most = self._most(squarings) * self.scale(squarings)
        return left > 0 and log2_product(moduli[:left]) > math.log2(most) + SPARE_BITS

    def _most(self, squarings: int) -> float:
        """The largest S that the limbs have to hold: all inputs twice as large as what is to be told at most."""
        return self.slots * (2 * MOST_TOLD) ** (1 << squarings)

    def _told(self, squarings: int) -> float:
        """The smallest T with T^p >= 1 + twice the error of an S up to T^p; infinite beyond MOST_TOLD."""
        candidates = np.geomspace(1.0, MOST_TOLD, 101)
        told = (t for t in candidates if t ** (1 << squarings) >= 1 + 2 * self._error(squarings, float(t)))
        return float(next(told, math.inf))

    @property
    def noise_norm(self) -> float:
        """Bound on the noise of the released coefficient, at its scale, for S up to told^p."""
        return self._noise(self.squarings, self.told) / self.inputs.period * self.scale(self.squarings)

    @property
    def error(self) -> float:
        """Largest error of S; exceeded with probability `models.precision.PREDICTED_QUANTILE` at most."""
        return self._error(self.squarings, self.told)

    def _error(self, squarings: int, told: float) -> float:
        plan, noise = self.plan, self._noise(squarings, told)
        norm = noise / self.inputs.period * self.scale(squarings)
        width = smudging_std(norm, plan.session_bits, plan.releases) * math.sqrt(plan.workload.n_parties)
        return noise + quantile(1) * width / self.scale(squarings) * self.inputs.period

    def _noise(self, squarings: int, told: float) -> float:
        """Bound on the noise of S as long as S <= told^p.

        With x_i = t^(2^i) and its errors r_i, of norm |r_i| over inputs, S errs by sum_i (p / 2^i) x_i^(p / 2^i - 1)
        r_i. The squares of the powers in front add up t^(2p - 2^(i+1)), no power of which is below p, so that S bounds
        them: their norm is at most told^(p - 2^i) (Cauchy). The last r_i has no power in front: all slots count alike.
        """
        power, root = 1 << squarings, math.sqrt(self.slots)
        plan, scale = self.plan, self.scale(squarings)
        total = power * told ** (power - 1) * plan.precision.input_noise_norm / self.radius
        for i in range(1, squarings):
            total += (power >> i) * told ** (power - (1 << i)) * root * self._product_rms(self.scale(i))
        limbs = self.inputs.limbs - squarings
        sent = plan.workload.n_parties * rerandomised_norm(plan.parameters, limbs) / scale
        return total + self.slots * self._product_rms(scale) + self.inputs.period * sent

    def _product_rms(self, scale: float) -> float:
        """Bound on the root mean square over slots of what a product and its rescale add, at this scale after it."""
        p, n, centred = self.plan.parameters, self.plan.parameters.ring_dim, self.plan.centred
        added = key_switch_std(p, p.n_limbs, relin_key_error_std(n, p.n_parties), centred=centred)
        added = math.sqrt(n) * math.hypot(rounding_std(n, p.n_parties), added / min(p.moduli))
        bias = 0.0 if centred else key_switch_bias_norm(p) / min(p.moduli)
        return (correlated_norm_bound(added * secret_spread(2 / n)) + bias) / scale

    def judge(self, iteration: int, mean: float) -> InputRange:
        """What the released mean of all slots says of the inputs in this iteration.

        An S so large that the limbs do not hold it leaves a number as good as random, of either sign: nearly always one
        beyond all that they have to hold. Such a number only tells that S is larger than that.
        """
        held = self._most(self.squarings)
        total = min(abs(mean) * self.inputs.period, held)
        most = (total + self.error) ** (1 / self.power)
        least = max((total - self.error) / self.inputs.values, 0.0) ** (1 / self.power)
        reach = (self.middle - most * self.radius, self.middle + most * self.radius) if total < held else None
        return InputRange(iteration, reach, self.plan.network.interval, least, total > 1 + self.error)


def range_probe(plan: Plan) -> RangeProbe | None:
    """The probe that a plan asks for, if it does.

    Raises ParameterError where there is nothing to probe, or if the noise and the smudging drown what it is to tell.
    """
    if plan.workload.range_every is None:
        return None
    if all(function.degree < 2 for function in plan.network.functions):
        raise ParameterError(
            "range probes are of models with a polynomial of degree 2 or more, as the link or behind a hidden layer; "
            "this one has none: leave range_every away"
        )
    probe = RangeProbe(plan)
    if probe.told > MOST_TOLD:
        raise ParameterError(
            f"a range probe would not tell inputs of twice the interval: {plan.workload.probes} probes of "
            f"{probe.inputs.values} inputs need smudging of {plan.session_bits} statistical bits; lower [release] "
            "statistical_bits, probe less often (range_every), use smaller batches, or leave range_every away"
        )
    return probe


def prober(plan: Plan) -> Prober | None:
    """What probes the inputs of one iteration, if the plan asks for it. Raises ParameterError as `range_probe`."""
    probe = range_probe(plan)
    if probe is None:
        return None

    def run(party: Party, iteration: int, parts: Sequence[Ciphertext]) -> InputRange:
        own = probe.power_sum(party, parts)
        totals = party.sum([own])
        total = None if totals is None else totals[0]
        return probe.judge(iteration, party.mean(total, probe.limbs, own.scale, probe.noise_norm))

    return run
