"""`CircuitPlan`: everything about a training run that can be known before a key is generated.

Levels, scales, rotations, transfers and memory follow in closed form from the workload and the parameters; keys are
generated for exactly this plan, and `mhe plan` prints it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mhe.collective import Transfer
from mhe.errors import ParameterError
from mhe.keys import KeyPlan, Use
from mhe.parameters import WORD_BYTES, log2_product
from models.packing import BlockLayout, choose_layout
from models.precision import Precision, largest_output
from models.prediction import ANSWER_GUARD
from models.training_plan import PolynomialInputs, TrainingPlan
from models.vector_prediction import VectorPrediction
from models.workload import Workload

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CircuitPlan(TrainingPlan):
    """One training run of a regression.

    centred: whether the evaluator's key switch rounds to nearest (the native one does); it adds less noise then.
    packing: of blocks of rows; None for the one that `block_layout` takes.

    The loop: look ahead, every party's gradient, sum up the tree, the root's step, refresh, broadcast.
    """

    centred: bool = False
    packing: BlockLayout | None = None
    n_ciphertexts = n_outputs = 1

    def __post_init__(self) -> None:
        p, w = self.parameters, self.workload
        if p.depth < w.levels:
            raise ParameterError(
                f"one iteration consumes {w.levels} levels (forward 1, link of degree {w.link.degree} "
                f"{w.link.depth}, backward 1), the parameters have {p.depth} above the refresh; need "
                f"{p.refresh_limbs + w.levels} limbs, or a lower degree"
            )
        if p.n_parties != w.n_parties:
            raise ParameterError(f"parameters for {p.n_parties} parties, rows of {w.n_parties}; need the same number")
        if w.message_bits > p.message_bits:
            raise ParameterError(
                f"weights need {w.message_bits:.1f} bits above the scale, the parameters allow {p.message_bits:.1f}; "
                "lower message_bound or raise it in the parameters"
            )

    @cached_property
    def layout(self) -> BlockLayout:
        return self.packing or block_layout(self.workload, self.parameters.n_slots)

    @cached_property
    def key_plan(self) -> KeyPlan:
        """Those of the gradients, of which the first is made in the clear, and of predictions."""
        w, layout, full = self.workload, self.layout, self.parameters.n_limbs
        forward, backward = layout.forward_steps, layout.backward_steps
        everywhere, root, products = list[Use](), list[Use](), [0]
        if w.iterations > 1:
            everywhere += [(forward, full), (backward, self.error_limbs)]
            root.append((layout.fold_steps, self.error_limbs))
            # the first power of X v
            products.append(full - 1 if w.link.degree > 1 else 0)
        if w.probes:
            everywhere.append((forward, full))
            products.append(self.polynomial_inputs.limbs)
        if w.release == "predictions":
            everywhere.append((forward, self.prediction_limbs + layout.output_levels))
        return KeyPlan.of(self.parameters.n_slots, everywhere, root, relinearisation=max(products))

    # limbs and scales

    @property
    def error_limbs(self) -> int:
        """Limbs of the errors p(X v) - y, and of the gradient before its rescale: in the last step of an iteration."""
        return self.parameters.n_limbs - self.workload.levels + 1

    @property
    def low_limbs(self) -> int:
        """Limbs of the weights after a step, where they are refreshed or released."""
        return self.error_limbs - 1

    @property
    def weights_period(self) -> int:
        return self.layout.features

    @property
    def rows(self) -> int:
        return self.layout.rows

    @property
    def error_scale(self) -> float:
        return self.parameters.scale

    @property
    def forward_scale(self) -> float:
        """Scale of X v: brings X v / half_width, whose powers the polynomial sums up, to the default scale.

        At a larger scale the powers' scales would grow as fast as (X v)^k, and leave that much less to their factors.
        """
        return self.parameters.scale / self.workload.link.half_width

    @property
    def data_scale(self) -> float:
        """Scale of the encoded diagonals, used forward and backward.

        Chosen so that X v comes out at `forward_scale` and learning_rate / n needs no multiplication.
        """
        w = self.workload
        forward, backward = self._forward_modulus, self._backward_modulus
        smaller = self.total_rows * w.momentum_factor * w.link.half_width
        return math.sqrt(forward * backward * w.learning_rate / smaller)

    @property
    def weight_scale(self) -> float:
        """Scale of the weights: of the gradient after its rescale, read as the step learning_rate / n * gradient."""
        return self.data_scale * self.error_scale * self.step_factor / self._backward_modulus

    @property
    def ahead_scale(self) -> float:
        """Scale of v = (1 + beta) w - beta w_previous."""
        return self.weight_scale * self.workload.momentum_factor

    @property
    def step_scale(self) -> float:
        """Scale of the step before its rescale."""
        return self.weight_scale * self._backward_modulus

    @property
    def step_factor(self) -> float:
        """n / learning_rate."""
        return self.total_rows / self.workload.learning_rate

    @property
    def _forward_modulus(self) -> int:
        return self.parameters.moduli[-1]

    @property
    def _backward_modulus(self) -> int:
        return self.parameters.moduli[self.error_limbs - 1]

    @property
    def momentum(self) -> float:
        """The momentum in use: the workload's, rounded to a multiple of 2^-MOMENTUM_BITS."""
        return round(self.workload.momentum * self.workload.momentum_factor) / self.workload.momentum_factor

    def decay(self, pace: float) -> Floats:
        """What a step at this pace keeps of each weight: (layout.features,).

        1 - pace * learning_rate * l2 of a feature's, all of the intercept, nothing of the padding, whose noise would
        add up.
        """
        factors = np.zeros(self.layout.features)
        factors[: self.workload.features] = self.workload.kept_at(pace)
        factors[self.workload.features] = 1.0
        return factors

    # work, traffic and memory

    @property
    def iteration_transfers(self) -> tuple[Transfer, ...]:
        """What one iteration sends through the tree: the sum, then the refresh."""
        p = self.parameters
        return (
            Transfer("reduce", "sum", 2 * self.error_limbs, p.ring_dim),
            *self.refresh_transfers(p.n_limbs),
        )

    def blocks(self, party: int) -> int:
        """Blocks of one batch of this party."""
        return -(-self.workload.batch_rows[party] // self.layout.rows)

    @property
    def polynomial_inputs(self) -> PolynomialInputs:
        """X v of every block, alone in its slots."""
        workload, blocks = self.workload, sum(self.blocks(party) for party in range(self.workload.n_parties))
        limbs = self.parameters.n_limbs - self.layout.output_levels
        return PolynomialInputs(limbs, self.forward_scale, blocks, self.layout.row_period, sum(workload.batch_rows))

    def encoded_bytes(self, party: int) -> int:
        """All encoded diagonals of this party, at the limbs of the forward and of the backward product.

        The native evaluator's, which keeps half of the residues of a plaintext.
        """
        p = self.parameters
        limbs = p.n_limbs + self.error_limbs
        per_block = self.layout.n_diagonals * limbs * p.ring_dim // 2 * WORD_BYTES
        return per_block * self.blocks(party) * self.batches(party)

    # release

    @cached_property
    def precision(self) -> Precision:
        """Noise of the weights and of what is released."""
        return Precision(self)

    @cached_property
    def prediction_limbs(self) -> int:
        """Limbs of the delivered logits: as few as hold them, for they are the traffic of the release."""
        largest = largest_output(self.workload.message_bound, self.workload.features)
        needed = math.log2(self.prediction_scale * largest) + 2
        moduli, levels = self.parameters.moduli, self.layout.output_levels
        most = len(moduli) - levels
        return next((k for k in range(1, most) if log2_product(moduli[:k]) > needed), most)

    @property
    def prediction_scale(self) -> float:
        """Scale of the delivered logits."""
        return self.parameters.scale * ANSWER_GUARD

    @property
    def prediction_data_scale(self) -> float:
        """Scale of the encoded test rows."""
        dropped = self.parameters.moduli[self.prediction_limbs + self.layout.output_levels - 1]
        return self.parameters.scale * dropped / self.weight_scale

    @cached_property
    def prediction(self) -> VectorPrediction:
        """Answers to queries of a model that stays encrypted. Raises ParameterError if they do not fit the chain."""
        w, std = self.workload, self.kept_weight_std
        return VectorPrediction(
            self.parameters, std, w.message_bound, self.answer_bits, self.releases, w.features, self.weight_scale
        )


def block_layout(workload: Workload, n_slots: int) -> BlockLayout:
    """How the rows of a regression lie in the slots. Raises ParameterError if a weight vector does not fit them."""
    return choose_layout(n_slots, max(workload.batch_rows), workload.features + 1)
