"""`RangeProbe`: how far the inputs of a polynomial reach, from one number that all parties' rows add up to.

A polynomial stands for another function on its interval only, and beyond it a training fails without a word. With t the
input as a part of the interval (|t| <= 1 inside it), S the sum of t^p over all rows of an iteration, p a power of two,

    (S / rows)^(1/p) <= largest |t| <= S^(1/p).

S is computed under encryption by squaring, summed up the tree, and released: the mean of a ciphertext's slots is its
constant coefficient, which is all that is opened. For p = 16 and a thousand rows the ends are a factor of 1.5 apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np

from mhe.ciphertext import Ciphertext
from mhe.errors import ParameterError
from mhe.parameters import log2_product
from mhe.party import Party
from mhe.security import rerandomised_norm, smudging_std
from models.plan import CircuitPlan
from models.precision import quantile
from models.regression import Regression
from models.training_plan import TrainingPlan

MOST_SQUARINGS = 4
"""Powers beyond the 16th bring the two ends hardly any closer, and more noise."""

SPARE_BITS = 2
"""For the sign, and for noise and smudging, which `_told` keeps below what is to be told."""

MOST_TOLD = 2.0
"""A probe that does not surely tell inputs this many times as large as the interval is refused: it protects nothing."""


@dataclass(frozen=True)
class InputRange:
    """What a probe has told. reach, interval: (lowest, highest) input of the polynomial; `reach` holds all of them.

    surely: the largest input is at least this far from the middle of the interval, in halves of its length. outside:
    whether inputs may lie outside.
    """

    iteration: int
    reach: tuple[float, float]
    interval: tuple[float, float]
    surely: float
    outside: bool

    @property
    def said(self) -> str:
        low, high = self.interval
        least = self.surely * (high - low) / 2
        return (
            f"in iteration {self.iteration} inputs of the polynomial may lie anywhere in [{self.reach[0]:.3g}, "
            f"{self.reach[1]:.3g}], the largest at least {least:.3g} from the middle of the interval [{low:g}, "
            f"{high:g}] in which it holds: widen [model] interval, or lower learning_rate or momentum"
        )


Prober = Callable[[Party, int, Sequence[Ciphertext], Any], InputRange]
"""From the iteration, the weights that it looks at and a party's batch to what all parties' inputs are; the same at
every party."""


@dataclass(frozen=True)
class RangeProbe:
    """The probe of one plan: how often it squares, and what its answer is worth.

    Raises ParameterError if the noise and the smudging drown what it is to tell.
    """

    plan: CircuitPlan

    def __post_init__(self) -> None:
        if self.told > MOST_TOLD:
            w = self.plan.workload
            raise ParameterError(
                f"a range probe would not tell inputs of twice the interval: {w.probes} probes of {self.slots} rows "
                f"need smudging of {self.plan.session_bits} statistical bits; lower [release] statistical_bits, probe "
                "less often (range_every), use smaller batches, or leave range_every away"
            )

    @property
    def limbs(self) -> int:
        """Limbs of what is summed and released."""
        return self.plan.parameters.n_limbs - 1 - self.squarings

    @property
    def power(self) -> int:
        """p"""
        return 1 << self.squarings

    @property
    def slots(self) -> int:
        """Slots that are added up, over all blocks of all parties."""
        return self.plan.layout.rows * sum(self.plan.blocks(party) for party in range(self.plan.workload.n_parties))

    @property
    def middle(self) -> float:
        low, high = self.plan.workload.link.interval
        return (low + high) / 2

    @property
    def radius(self) -> float:
        low, high = self.plan.workload.link.interval
        return (high - low) / 2

    def scale(self, squarings: int) -> float:
        """After so many squarings."""
        plan = self.plan
        scale = plan.forward_scale * self.radius
        for k in range(squarings):
            scale *= scale / plan.parameters.moduli[plan.parameters.n_limbs - 2 - k]
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
        return min(told, key=lambda chosen: chosen[1] * sum(self.plan.workload.batch_rows) ** (1 / (1 << chosen[0])))

    def _holds(self, squarings: int) -> bool:
        """Whether the limbs that are left hold S of inputs twice as large as what is to be told, and its smudging."""
        moduli = self.plan.parameters.moduli
        left = len(moduli) - 1 - squarings
        most = self.slots * (2 * MOST_TOLD) ** (1 << squarings) * self.scale(squarings)
        return left > 0 and log2_product(moduli[:left]) > math.log2(most) + SPARE_BITS

    def _told(self, squarings: int) -> float:
        """The smallest T with T^p >= 1 + twice the error of an S up to T^p; infinite beyond MOST_TOLD."""
        candidates = np.geomspace(1.0, MOST_TOLD, 101)
        told = (t for t in candidates if t ** (1 << squarings) >= 1 + 2 * self._error(squarings, float(t)))
        return float(next(told, math.inf))

    @property
    def noise_norm(self) -> float:
        """Bound on the noise of the released coefficient, at its scale, for S up to told^p."""
        return self._noise(self.squarings, self.told) / self.plan.layout.rows * self.scale(self.squarings)

    @property
    def error(self) -> float:
        """Largest error of S; exceeded with probability `models.precision.PREDICTED_QUANTILE` at most."""
        return self._error(self.squarings, self.told)

    def _error(self, squarings: int, told: float) -> float:
        plan, noise = self.plan, self._noise(squarings, told)
        norm = noise / plan.layout.rows * self.scale(squarings)
        width = smudging_std(norm, plan.session_bits, plan.releases) * math.sqrt(plan.workload.n_parties)
        return noise + quantile(1) * width / self.scale(squarings) * plan.layout.rows

    def _noise(self, squarings: int, told: float) -> float:
        """Bound on the noise of S as long as S <= told^p.

        With x_i = t^(2^i) and its errors r_i, of norm |r_i| over all slots, S errs by sum_i (p / 2^i) x_i^(p / 2^i - 1)
        r_i. The squares of the powers in front add up t^(2p - 2^(i+1)), no power of which is below p, so that S bounds
        them: their norm is at most told^(p - 2^i) (Cauchy). The last r_i has no power in front: all slots count alike.
        """
        power, root = 1 << squarings, math.sqrt(self.slots)
        plan, precision = self.plan, self.plan.precision
        total = power * told ** (power - 1) * root * precision.input_rms / self.radius
        for i in range(1, squarings):
            total += (power >> i) * told ** (power - (1 << i)) * root * precision.product_rms(self.scale(i))
        limbs, scale = plan.parameters.n_limbs - 1 - squarings, self.scale(squarings)
        sent = plan.workload.n_parties * rerandomised_norm(plan.parameters, limbs) / scale
        return total + self.slots * precision.product_rms(scale) + plan.layout.rows * sent

    def judge(self, iteration: int, mean: float) -> InputRange:
        """What the released mean of a block's slots says of the inputs in this iteration.

        Inputs so large that the limbs do not hold them leave a number as good as random, of either sign, far beyond 1.
        """
        plan, total = self.plan, abs(mean) * self.plan.layout.rows
        most = (total + self.error) ** (1 / self.power)
        rows = sum(plan.workload.batch_rows)
        least = max((total - self.error) / rows, 0.0) ** (1 / self.power)
        reach = (self.middle - most * self.radius, self.middle + most * self.radius)
        return InputRange(iteration, reach, plan.workload.link.interval, least, total > 1 + self.error)


def range_probe(plan: TrainingPlan) -> RangeProbe | None:
    """The probe that a plan asks for, if it does. Raises ParameterError where there is nothing to probe or to tell."""
    if plan.workload.range_every is None:
        return None
    if not isinstance(plan, CircuitPlan) or plan.workload.link.degree < 2:
        raise ParameterError(
            "range probes are of regressions with one output and a polynomial link, logistic or Poisson; got another "
            "model: leave range_every away"
        )
    return RangeProbe(plan)


def prober(model: object, plan: TrainingPlan) -> Prober | None:
    """What probes the inputs of this model in one iteration, if its plan asks for it."""
    probe = range_probe(plan)
    if probe is None or not isinstance(model, Regression):
        return None

    def run(party: Party, iteration: int, ahead: Sequence[Ciphertext], batch: Any) -> InputRange:
        backend, powers = party.backend, []
        for power in model.inputs(party, ahead, batch):
            for _ in range(probe.squarings):
                power = backend.rescale(backend.multiply(power, power))
            powers.append(power)
        own = reduce(backend.add, powers)
        totals = party.sum([own])
        total = None if totals is None else totals[0]
        return probe.judge(iteration, party.mean(total, probe.limbs, own.scale, probe.noise_norm))

    return run
