"""The papers' packing of a logistic regression, as a baseline on our own evaluators and protocols.

Rows lie one after another, each in d slots (d: the features and the intercept, padded to a power of two), S / d of them
in a ciphertext of S slots, against weights of period d: SPINDLE (Froelicher et al., PoPETs 2021, arXiv 2005.09532,
Section 5) and, with one row at a time, POSEIDON (Sav et al., NDSS 2021, arXiv 2009.00349, alternating packing).

    u = sum over the d slots of a row of x * w            log2(d) rotations; right in the row's first slot only
    e = y - sigmoid(u), masked to the first slots         one level
    e in all d slots of its row                           log2(d) rotations
    g = sum over all rows of x * e                        over blocks first, then log2(S / d) rotations by the root

The order is the cheapest one: the inner sum follows the rescale, the mask the polynomial, so that both sums run at as
few limbs as they can. Blocks are summed up before the root's rotations, as in our own packing.

BENCHMARKS ONLY. `models.precision` does not analyse this circuit: what a release smudges is the noise of another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mhe.ciphertext import Ciphertext
from mhe.errors import ParameterError
from mhe.keys import KeyPlan
from mhe.party import Compute
from models.activations import evaluate
from models.choice import Choice, MakeModuli
from models.linalg import PackedBlock, rotate_and_add
from models.packing import BlockLayout, doublings, power_of_two_at_least
from models.perceptron import with_constant
from models.plan import CircuitPlan
from models.regression import Batch, Regression
from models.search import choose_plan
from models.workload import Workload

Floats = npt.NDArray[np.float64]

PLACE = (0, 0)
"""Where the one plaintext of a block stands in its `PackedBlock`."""


@dataclass(frozen=True)
class RowPackedPlan(CircuitPlan):
    """A run in this packing: one level more than a `CircuitPlan`, for the mask."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parameters.depth <= self.workload.levels:
            raise ParameterError(
                f"packed by rows, one iteration consumes {self.workload.levels + 1} levels, the parameters have "
                f"{self.parameters.depth} above the refresh; choose them with `choose_row_packed_plan`"
            )

    @cached_property
    def layout(self) -> BlockLayout:
        """Of the weights, and of the root's fold."""
        slots, features = self.parameters.n_slots, power_of_two_at_least(self.workload.features + 1)
        return BlockLayout(slots, slots, features, features, 1)

    @property
    def rows(self) -> int:
        return self.parameters.n_slots // self.layout.features

    @property
    def inner_steps(self) -> tuple[int, ...]:
        """Rotations of the sum over the slots of a row; those that copy it into all of them are their inverses."""
        return doublings(1, self.layout.features)

    @property
    def key_plan(self) -> KeyPlan:
        full = self.parameters.n_limbs
        everywhere = (*self.inner_steps, *(-step for step in self.inner_steps))
        return KeyPlan.of(
            self.parameters.n_slots, [(everywhere, full)], [(self.layout.fold_steps, full)], relinearisation=full
        )

    @property
    def error_limbs(self) -> int:
        return super().error_limbs - 1

    def blocks(self, party: int) -> int:
        return -(-self.workload.batch_rows[party] // self.rows)


@dataclass(frozen=True)
class RowPackedRegression(Regression):
    """Gradients in this packing; everything else is as in `Regression`."""

    plan: RowPackedPlan

    def batches(
        self, features: Floats, targets: Floats, pieces: Sequence[npt.NDArray[np.int64]], *, keep: bool
    ) -> list[Batch]:
        x, y, link = with_constant(features), targets[:, 0], self.plan.workload.link
        errors = y - link(np.zeros_like(y))
        return [Batch(self._pack(x[rows], y[rows], keep), x[rows].T @ errors[rows]) for rows in pieces]

    def _pack(self, x: Floats, y: Floats, keep: bool) -> list[PackedBlock]:
        rows, width = self.plan.rows, self.plan.layout.features
        blocks = []
        for start in range(0, len(x), rows):
            own = slice(start, start + rows)
            packed, labels = np.zeros((2, rows, width))
            packed[: len(x[own]), : x.shape[1]] = x[own]
            labels[: len(y[own]), 0] = y[own]
            blocks.append(PackedBlock({PLACE: packed.ravel()}, labels.ravel(), len(x[own]), keep))
        return blocks

    def gradients(
        self, party: Compute, ahead: Sequence[Ciphertext], batch: Batch, pace: float = 1.0, *, first: bool = False
    ) -> list[Ciphertext]:
        backend, plan, (v,) = party.backend, self.plan, ahead
        slots, scale = plan.parameters.n_slots, plan.data_scale
        limbs = plan.error_limbs + 1
        head = np.zeros(plan.layout.features)
        head[0] = 1.0
        # at the scale of the limb that the rescale drops, so that errors keep theirs
        mask = backend.encode(head, limbs, float(plan.parameters.moduli[limbs - 1]))
        terms = []
        for block in batch.blocks:
            product = backend.rescale(backend.multiply_plain(v, block.plaintext(backend, *PLACE, v.limbs, scale)))
            u = rotate_and_add(backend, product, plan.inner_steps, slots)
            e = evaluate(backend, u, plan.workload.link.times(-pace), plan.error_scale)
            e = backend.add_plain(e, backend.encode(pace * block.labels, e.limbs, plan.error_scale))
            masked = backend.rescale(backend.multiply_plain(e, mask))
            copied = rotate_and_add(backend, masked, [-step for step in plan.inner_steps], slots)
            terms.append((copied, block.plaintext(backend, *PLACE, copied.limbs, scale)))
        return [backend.multiply_accumulate_plain(terms)]


def choose_row_packed_plan(workload: Workload, choice: Choice, make_moduli: MakeModuli, *, free: bool) -> RowPackedPlan:
    """With the parameters that the search finds for one level more: those of a link of twice the degree."""
    link = workload.link
    deeper = replace(link, coefficients=link.coefficients + (0.0,) * ((1 << link.depth) - link.degree))
    found = choose_plan(replace(workload, link=deeper), choice, make_moduli, free=free)
    return RowPackedPlan(workload, found.parameters, found.centred)
