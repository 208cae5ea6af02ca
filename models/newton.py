"""Regression with a fixed Hessian on encrypted weights: w <- w + H^-1 (X^T (y - link(X w)) / n - l2 w).

H bounds the Hessian of the loss (`models.newton_plan`) and is the same in all iterations, so that a few of them do, and
one for a linear regression. Its inverse is computed once, under encryption, from the sum of every party's Gram matrix
(`models.inverse`); neither is ever opened.

The step is one product at the root: the gradient, refreshed, comes back with its number x in all of row x, and what the
rows of the product sum up to is again made by a refresh, on the way down. The weights before it are `step`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext
from mhe.party import Compute, Party
from mhe.slot_map import RefreshOutput, SlotMap
from models.linalg import rotate_and_add
from models.matrices import MatrixLayout, lower_matrix, multiply, skewed_form, spread_form, weights_form
from models.newton_plan import MATRIX_LEVELS, FixedHessianPlan
from models.regression import Batch, Regression

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GramBatch(Batch):
    """The same with X^T X (features, features) of the rows."""

    gram: Floats


@dataclass(frozen=True)
class FixedHessianRegression(Regression):
    """A generalised linear model with one output, by solver "newton"."""

    plan: FixedHessianPlan

    def batches(
        self, features: Floats, targets: Floats, pieces: Sequence[npt.NDArray[np.int64]], *, keep: bool
    ) -> list[Batch]:
        packed = super().batches(features, targets, pieces, keep=keep)
        return [
            GramBatch(batch.blocks, batch.at_zero, features[rows].T @ features[rows])
            for batch, rows in zip(packed, pieces, strict=True)
        ]

    def prepare(self, party: Compute, batches: Sequence[GramBatch]) -> list[Ciphertext]:
        """The inverse of H, intercept included, of period plan.matrices.period: number (m, x) in slot m of row x."""
        (batch,) = batches
        inverse = invert(party, self.plan, batch.gram)
        own = np.zeros((self.plan.matrices.stride, self.plan.matrices.stride))
        intercept = self.plan.workload.features
        own[intercept, intercept] = 1 / self.plan.curvature
        backend = party.backend
        return [backend.add_plain(inverse, backend.encode(own.ravel(), inverse.limbs, inverse.scale))]

    def step(
        self,
        party: Compute,
        prepared: Sequence[Ciphertext],
        ahead: Sequence[Ciphertext],
        totals: Sequence[Ciphertext] | None,
        pace: float = 1.0,
    ) -> list[Ciphertext] | None:
        """One share of w' in every block of plan.weights_period slots: `refresh` adds them up."""
        plan, backend, layout = self.plan, party.backend, self.plan.matrices
        descent = None if totals is None else [self._descent(backend, ahead[0], totals[0])]
        outputs = [RefreshOutput(0, spread_form(layout, plan.weights_period))]
        spread = party.refresh_at_root(descent, 1, plan.weight_scale, plan.weights_period, outputs)
        if spread is None:
            return None
        inverse, rows, w = (backend.drop_limbs(x, plan.work_limbs) for x in (prepared[0], spread[0], ahead[0]))
        product = backend.multiply(inverse, rows)
        share = np.array([1 / plan.blocks_of_step])
        kept = backend.multiply_plain(w, backend.encode(share, w.limbs, product.scale / w.scale))
        return [_rescaled(backend, backend.add(product, kept))]

    def _descent(self, backend: Backend, w: Ciphertext, total: Ciphertext) -> Ciphertext:
        """X^T (y - link(X w)) / n - l2 w"""
        plan = self.plan
        folded = rotate_and_add(backend, total, plan.layout.fold_steps, plan.layout.features)
        descent = backend.reread(folded, scale=folded.scale * plan.step_factor)
        if plan.workload.l2 > 0:
            pull = np.zeros(plan.weights_period)
            pull[: plan.workload.features] = -plan.workload.l2
            low = backend.drop_limbs(w, descent.limbs)
            penalty = backend.multiply_plain(low, backend.encode(pull, low.limbs, descent.scale / low.scale))
            descent = backend.add(descent, penalty)
        return backend.drop_limbs(backend.rescale(descent), plan.low_limbs)

    def refresh(self, party: Compute, updated: Sequence[Ciphertext] | None) -> list[Ciphertext]:
        plan, period = self.plan, self.plan.matrices.period
        outputs = [RefreshOutput(0, SlotMap.replication(period, plan.weights_period))]
        (fresh,) = party.refresh(updated, 1, plan.weight_scale, period, outputs)
        return [party.backend.reread(fresh, period=plan.weights_period)]

    def release(self, party: Party, weights: Sequence[Ciphertext] | None) -> list[Floats]:
        return super().release(party, self.keep(party, weights))

    def keep(self, party: Compute, weights: Sequence[Ciphertext] | None) -> list[Ciphertext] | None:
        """What the last step left in shares, added up."""
        (fresh,) = self.refresh(party, weights)
        return None if weights is None else [party.backend.drop_limbs(fresh, self.plan.low_limbs)]


def invert(party: Compute, plan: FixedHessianPlan, gram: Floats) -> Ciphertext:
    """The inverse of H from every party's X^T X (features, features), above zeros in plan.matrices, at every party."""
    layout, backend, scales, start = plan.matrices, party.backend, plan.matrix_scales, plan.schedule.start
    part = np.eye(plan.workload.features) / plan.workload.n_parties
    hessian = plan.workload.l2 * part + plan.curvature / plan.total_rows * gram
    slots = layout.pack(part - start * hessian, start * part)
    own = party.encrypt_own(slots, plan.low_limbs, scales[0])
    totals = party.sum([own])
    both = None if totals is None else totals[0]
    for factor, scale, after in zip(plan.schedule.factors, scales, scales[1:], strict=False):
        fresh = party.refresh_at_root(None if both is None else [both], 1, scale, layout.period, forms(layout))
        if fresh is not None:
            both = inverse_round(backend, plan, fresh, factor, after)
    outputs = [RefreshOutput(0, lower_matrix(layout))]
    return party.refresh(None if both is None else [both], 1, plan.matrix_scale, layout.period, outputs)[0]


def forms(layout: MatrixLayout) -> list[RefreshOutput]:
    """What a round takes of two matrices: as they are, and as the two operands of their product."""
    return [RefreshOutput(0), RefreshOutput(0, skewed_form(layout)), RefreshOutput(0, weights_form(layout))]


def inverse_round(
    backend: Backend, plan: FixedHessianPlan, fresh: Sequence[Ciphertext], factor: float, scale: float
) -> Ciphertext:
    """[E; Y] to [c E^2 - (c - 1) I; c (Y + Y E)], from its three `forms`, at this scale."""
    layout, (plain, skewed, weights) = plan.matrices, (backend.drop_limbs(x, plan.work_limbs) for x in fresh)
    right = backend.reread(weights, period=layout.period // 2)
    product = multiply(backend, layout, skewed, right)
    lower = layout.pack(np.zeros((layout.side, layout.side)), np.ones((layout.side, layout.side)))
    kept = backend.multiply_plain(plain, backend.encode(lower, plain.limbs, product.scale / plain.scale))
    both = _rescaled(backend, backend.add(product, kept))
    both = backend.reread(both, scale=both.scale / factor)
    eye = np.eye(plan.workload.features)
    both = backend.add_plain(both, backend.encode(layout.pack((1 - factor) * eye, 0.0 * eye), both.limbs, both.scale))
    # the scales that are planned and computed differ by the last bits of float64
    return backend.reread(both, scale=scale)


def _rescaled(backend: Backend, product: Ciphertext) -> Ciphertext:
    for _ in range(MATRIX_LEVELS):
        product = backend.rescale(product)
    return product
