"""Regression by local iterations: every party takes steps on its own encrypted copy of the weights, then all average.

    w_i <- (1 - rate l2) w_i + rate / n_i X_i^T (y_i - link(X_i w_i))      several times, at party i
    w <- sum_i (n_i / n) w_i                                              up the tree

The mean is weighted by rows (McMahan et al., "Communication-efficient learning of deep networks from decentralized
data", AISTATS 2017, Algorithm 1). No copy is ever opened, and none is seen by another party but encrypted and
rerandomised. Different numbers of rows cost nothing: as the pace, they are in the coefficients of the link.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext
from mhe.party import Compute
from models.linalg import PackedBlock, rotate_and_add
from models.local_plan import LocalPlan
from models.regression import Batch, Regression


@dataclass(frozen=True)
class LocalRegression(Regression):
    """A generalised linear model with one output, by solver "local"."""

    plan: LocalPlan

    def gradient(
        self, party: Compute, v: Ciphertext, inputs: Iterable[Ciphertext], batch: Batch, pace: float, *, first: bool
    ) -> Ciphertext:
        """The party's weights after its steps, from v, times its part of all rows, before the last rescale.

        inputs: those of the first step.
        """
        backend, plan, blocks, w = party.backend, self.plan, batch.blocks, v
        for step in range(1, plan.steps):
            w = backend.rescale(self._moved(backend, w, inputs, blocks, step - 1, pace, 1.0))
            inputs = self.inputs(backend, w, blocks, plan.forward_data_scale(step))
        part = sum(block.n_rows for block in blocks) / sum(plan.workload.batch_rows)
        return self._moved(backend, w, inputs, blocks, plan.steps - 1, pace, part)

    def _moved(
        self,
        backend: Backend,
        w: Ciphertext,
        inputs: Iterable[Ciphertext],
        blocks: Sequence[PackedBlock],
        step: int,
        pace: float,
        part: float,
    ) -> Ciphertext:
        """`part` of the weights after this step, not rescaled."""
        plan, layout = self.plan, self.plan.layout
        relative = plan.total_rows / sum(block.n_rows for block in blocks)
        total = self.descent(backend, inputs, blocks, pace * part * relative, plan.backward_data_scale(step))
        folded = rotate_and_add(backend, total, layout.fold_steps, layout.features)
        uphill = backend.reread(folded, scale=folded.scale * plan.step_factor)
        low = backend.drop_limbs(w, folded.limbs)
        kept = backend.encode(part * plan.decay(pace), low.limbs, uphill.scale / low.scale)
        return backend.add(uphill, backend.multiply_plain(low, kept))

    def step(
        self,
        party: Compute,
        prepared: Sequence[Ciphertext],
        ahead: Sequence[Ciphertext],
        totals: Sequence[Ciphertext] | None,
        pace: float = 1.0,
    ) -> list[Ciphertext] | None:
        """The sum is the mean of all weights."""
        return None if totals is None else [party.backend.rescale(total) for total in totals]
