"""`LocalPlan`: what is known beforehand of a regression whose parties take several steps between two sums.

Nothing is refreshed between those steps, and nothing is sent: the chain holds the levels of all of them. That is the
trade of SPINDLE's cooperative gradient descent (Froelicher et al., "Scalable privacy-preserving distributed learning",
PoPETs 2021, arXiv 2005.09532, Section 5: local iterations, then a combination of all parties' weights): fewer rounds
over slow links for longer ciphertexts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from mhe.keys import KeyPlan
from mhe.parameters import WORD_BYTES
from models.plan import CircuitPlan
from models.precision import Precision, squared_gain


@dataclass(frozen=True)
class LocalPlan(CircuitPlan):
    """One training run of a regression by solver "local".

    The loop: every party's steps on its own copy of the weights, their mean up the tree, refresh, broadcast.
    """

    @property
    def steps(self) -> int:
        """Steps of a party between two sums."""
        return self.workload.local_steps

    @cached_property
    def key_plan(self) -> KeyPlan:
        """Every party folds its own gradients, of which the first step's have the most limbs."""
        layout, full, low = self.layout, self.limbs_before(0), self.errors_limbs(0)
        everywhere = [(layout.forward_steps, full), (layout.backward_steps, low), (layout.fold_steps, low)]
        products = full - 1 if self.workload.link.degree > 1 else 0
        return KeyPlan.of(self.parameters.n_slots, everywhere, relinearisation=products)

    def limbs_before(self, step: int) -> int:
        """Limbs of the weights before this step, from 0."""
        return self.parameters.n_limbs - step * self.workload.step_levels

    def errors_limbs(self, step: int) -> int:
        """Limbs of the errors in this step, and of its gradient before its rescale."""
        return self.limbs_before(step + 1) + 1

    def forward_data_scale(self, step: int) -> float:
        """Scale of the encoded rows in the forward product of this step: X w comes out at `forward_scale`."""
        return self.forward_scale * self.parameters.moduli[self.limbs_before(step) - 1] / self.weight_scale

    def backward_data_scale(self, step: int) -> float:
        """The same in the backward product: the step comes out at the scale of the weights, whatever the primes."""
        modulus = self.parameters.moduli[self.errors_limbs(step) - 1]
        return self.weight_scale * modulus / (self.error_scale * self.step_factor)

    def encoded_bytes(self, party: int) -> int:
        p = self.parameters
        limbs = sum(self.limbs_before(step) + self.errors_limbs(step) for step in range(self.steps))
        per_block = self.layout.n_diagonals * limbs * p.ring_dim * WORD_BYTES
        return per_block * self.blocks(party) * self.batches(party)

    @cached_property
    def precision(self) -> LocalPrecision:
        return LocalPrecision(self)


@dataclass(frozen=True)
class LocalPrecision(Precision):
    """Noise and precision of one plan. A party's step errs like one of all parties, at their smallest number of rows.

    Means of weights do not err more than the weights. But in the last step before a sum it is the gradients that are
    small, not their errors: all parties' add up. Of a party's own columns no more is assumed than of all parties', in
    which its rows are a part.
    """

    plan: LocalPlan

    def _gain(self, decay: float) -> float:
        return squared_gain(0.0, decay, self.plan.workload.iterations * self.plan.steps)

    def _switching(self, limbs: int) -> float:
        """The first steps are at more limbs than the last."""
        return super()._switching(self.plan.parameters.n_limbs)

    def _summed(self, std: float) -> float:
        return super()._summed(std) * math.sqrt(sum(self.plan.workload.batch_rows) / self.plan.total_rows)

    @property
    def _turned_std(self) -> float:
        """Every party folds for itself."""
        return super()._turned_std * math.sqrt(self.plan.workload.n_parties)
