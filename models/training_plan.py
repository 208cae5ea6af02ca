"""`TrainingPlan`: what the plans of all kinds of model have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass

from mhe.collective import Transfer
from mhe.keys import KeyPlan
from mhe.parameters import Parameters
from models.perceptron import Perceptron
from models.precision import ReleasePrecision
from models.prediction import TWO_BUDGETS, Prediction, flooded_std
from models.refresh_points import ALL_POINTS, RefreshPoints
from models.workload import Workload

REFRESH_PASSES = 3
"""Of `TrainingPlan.refresh_transfers`; those of the weights are the last ones of an iteration."""


@dataclass(frozen=True)
class PolynomialInputs:
    """Where the inputs of polynomials lie in one iteration, for `models.range_probe`.

    limbs, scale: of each of their ciphertexts, inputs read as they are. ciphertexts: how many all parties have
    together. period: slots of one. values: how many slots of all together hold an input; the others hold zero.
    transfers: of their refresh, which brings them to so many limbs, where the iteration has none of its own.
    """

    limbs: int
    scale: float
    ciphertexts: int
    period: int
    values: int
    transfers: tuple[Transfer, ...] = ()


@dataclass(frozen=True)
class TrainingPlan(ABC):
    """A workload on parameters; its kind says how the model lies in ciphertexts, and what follows from that."""

    workload: Workload
    parameters: Parameters

    @property
    @abstractmethod
    def centred(self) -> bool:
        """Whether the evaluator is the native one, whose key switch rounds to nearest."""

    @property
    @abstractmethod
    def key_plan(self) -> KeyPlan:
        """The keys of the circuit, each for the limbs at which it is used."""

    @property
    def held_keys(self) -> KeyPlan:
        """Those that are made: OpenFHE's evaluator takes none but whole ones."""
        return self.key_plan if self.centred else self.key_plan.whole(self.parameters.n_limbs)

    @property
    @abstractmethod
    def precision(self) -> ReleasePrecision:
        """Noise of the weights and of what is released."""

    @property
    def points(self) -> RefreshPoints:
        """Where an iteration refreshes, of what it can do without."""
        return ALL_POINTS

    @property
    @abstractmethod
    def n_ciphertexts(self) -> int:
        """Ciphertexts of the whole model."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """Rows of one block, which is what one pass takes."""

    @abstractmethod
    def blocks(self, party: int) -> int:
        """Blocks of one batch of this party."""

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Ciphertexts of the outputs for one block."""

    @property
    @abstractmethod
    def low_limbs(self) -> int:
        """Limbs at which weights are refreshed or released."""

    @property
    @abstractmethod
    def weight_scale(self) -> float: ...

    @property
    def kept_scale(self) -> float:
        """Scale of the weights of a model that stays encrypted."""
        return self.weight_scale

    @property
    @abstractmethod
    def weights_period(self) -> int: ...

    @property
    @abstractmethod
    def prediction(self) -> Prediction:
        """Answers to queries of a model that stays encrypted. Raises ParameterError if they do not fit the chain."""

    @property
    @abstractmethod
    def polynomial_inputs(self) -> PolynomialInputs: ...

    @property
    def network(self) -> Perceptron:
        return self.workload.model

    @property
    def total_rows(self) -> int:
        """Rows that the gradient of one step is a mean over: the n of the mean loss."""
        return self.workload.step_rows

    # work, traffic and memory

    def batches(self, party: int) -> int:
        """Different batches that this party cycles through."""
        return -(-self.workload.rows[party] // self.workload.batch_rows[party])

    def key_bytes(self, *, is_root: bool = True) -> int:
        """Evaluation keys held by the root, or by another party."""
        keys = Counter(self.held_keys.limbs(is_root=is_root))
        return sum(count * self.parameters.evaluation_key_bytes(limbs) for limbs, count in keys.items())

    def refresh_transfers(self, outputs: int, count: int = 1) -> tuple[Transfer, ...]:
        """Of `count` of the root's ciphertexts, with outputs of so many limbs together."""
        down = Transfer("broadcast", "refresh_output", outputs, self.parameters.ring_dim)
        return (*self.refresh_at_root_transfers(outputs, count), down)

    def refresh_at_root_transfers(self, outputs: int, count: int = 1) -> tuple[Transfer, ...]:
        """The same where only the root goes on with them."""
        inputs, n = self.low_limbs * count, self.parameters.ring_dim
        return (
            Transfer("broadcast", "refresh_input", inputs, n),
            Transfer("reduce", "refresh", inputs + outputs, n),
        )

    # release

    @property
    def prediction_blocks(self) -> int:
        """Blocks of test rows that every party has switched to its key, so that all do the same."""
        return max(1, -(-max(self.workload.test_rows) // self.rows))

    @property
    def releases(self) -> int:
        """How many ciphertexts are opened over the run: means, variances, range probes, weights or outputs, quality;
        and answers in the life of a model that stays encrypted.
        """
        w = self.workload
        outputs = w.n_parties * self.prediction_blocks * self.n_outputs
        opened = {"model": self.n_ciphertexts + 1, "predictions": 1 + outputs, "encrypted": w.answers, "nothing": 0}
        return max(1, (2 if w.standardises else 0) + w.probes + opened[w.release])

    @property
    def session_bits(self) -> int:
        """Statistical bits of the smudging of everything that is opened while the training's keys live."""
        return self.answer_bits if self.workload.release == "encrypted" else self.workload.release_bits

    @property
    def answer_bits(self) -> int:
        """Statistical bits of the smudging of answers, and of the weights that they come from."""
        return self.workload.release_bits + TWO_BUDGETS

    @property
    def kept_weight_std(self) -> float:
        """Error of a weight of a model that stays encrypted, the smudging of its flood included."""
        precision = self.precision
        flooded = flooded_std(
            self.parameters, precision.kept_noise_norm, self.answer_bits, self.n_ciphertexts, self.kept_scale,
            self.weights_period,
        )  # fmt: skip
        return math.hypot(precision.weight_noise_std, flooded)
