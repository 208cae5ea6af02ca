"""`Model`: what the training loop needs of a model on encrypted weights, and which model a plan is for.

Weights, gradients and everything else that there is one of for each ciphertext of the model are lists in one order. In
the clear, weights are one array (inputs + 1, outputs) for each layer, the last row the intercept or bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext
from mhe.party import Compute, Party
from models.local import LocalRegression
from models.local_plan import LocalPlan
from models.mlp import PerceptronModel
from models.mlp_plan import PerceptronPlan
from models.newton import FixedHessianRegression
from models.newton_plan import FixedHessianPlan
from models.plan import CircuitPlan
from models.regression import Regression

Floats = npt.NDArray[np.float64]
Plan = CircuitPlan | PerceptronPlan


class Model(Protocol):
    """Gradients and steps of one kind of model, for one plan."""

    @property
    def plan(self) -> Plan: ...

    def batches(
        self, features: Floats, targets: Floats, pieces: Sequence[npt.NDArray[np.int64]], *, keep: bool
    ) -> list[Any]:
        """The party's rows (n, features) and targets (n, outputs), cut in pieces and packed.

        keep: whether encoded rows are kept from one use to the next.
        """

    def start(self, party: Party) -> list[Ciphertext]:
        """The encrypted weights before the first iteration, at every party."""

    def look_ahead(
        self, backend: Backend, weights: Sequence[Ciphertext], previous: Sequence[Ciphertext]
    ) -> list[Ciphertext]:
        """v = (1 + beta) w - beta w_previous."""

    def gradients(
        self, party: Compute, ahead: Sequence[Ciphertext], batch: Any, pace: float = 1.0, *, first: bool = False
    ) -> list[Ciphertext]:
        """Of one party's batch, at v. pace: as for the step that they are for, at most 1. first: whether v is what
        `start` gave, which everybody knows.
        """

    def probed_gradients(
        self, party: Compute, ahead: Sequence[Ciphertext], batch: Any, pace: float = 1.0, *, first: bool = False
    ) -> tuple[list[Ciphertext], list[Ciphertext]]:
        """The same, and the inputs of polynomials at v, as plan.polynomial_inputs has them, or ready for the refresh
        that it asks for: read as parts of the interval, from -1 to 1 inside it, 0 where a slot holds none.
        """

    def prepare(self, party: Compute, batches: Sequence[Any]) -> list[Ciphertext]:
        """What the steps need beside gradients, made once from everybody's rows, at every party; mostly nothing."""

    def step(
        self,
        party: Compute,
        prepared: Sequence[Ciphertext],
        ahead: Sequence[Ciphertext],
        totals: Sequence[Ciphertext] | None,
        pace: float = 1.0,
    ) -> list[Ciphertext] | None:
        """New weights from the sums of all gradients, ready for `refresh` and `release`: at the root, None elsewhere.

        Every party calls it, for it may take the help of all. pace: the part of the learning rate that is taken.
        """

    def refresh(self, party: Compute, updated: Sequence[Ciphertext] | None) -> list[Ciphertext]:
        """The root's new weights at full limbs and plan.weight_scale, at every party."""

    def release(self, party: Party, weights: Sequence[Ciphertext] | None) -> list[Floats]:
        """The weights in the clear, opened to every party."""

    def keep(self, party: Compute, weights: Sequence[Ciphertext] | None) -> list[Ciphertext] | None:
        """The weights as plan.prediction takes them, at plan.low_limbs limbs: at the root, None elsewhere.

        Every party calls it, for it may take the help of all.
        """

    def predict(self, party: Party, weights: Sequence[Ciphertext] | None, features: Floats) -> Floats:
        """What the model gives for this party's rows (n, features), before the link, under its own key: (n, outputs).

        Nobody else learns it.
        """


def model_of(plan: Plan) -> Model:
    """The model of a plan."""
    if isinstance(plan, FixedHessianPlan):
        return FixedHessianRegression(plan)
    if isinstance(plan, LocalPlan):
        return LocalRegression(plan)
    return Regression(plan) if isinstance(plan, CircuitPlan) else PerceptronModel(plan)
