"""Generalised linear regression on encrypted weights: the gradient of one party, and the root's step.

The model's mean is link(x w), link a polynomial: of the sigmoid (logistic), the exponential (Poisson) or the identity
(linear). The gradient of each one's log-likelihood is X^T (y - link(X w)) (McCullagh and Nelder, "Generalized Linear
Models", 2nd edition, Section 2.5; the canonical links).

The table's rows are extended by a constant 1 for the intercept, which is the last weight. Scales do all the
arithmetic that constants would cost levels for: the factor learning_rate / n is only a different reading of the scale
of the gradient.

Nesterov: w' = v - rate * grad(v), v' = (1 + beta) w' - beta w. Only w is refreshed; v is an integer combination of two
fresh ciphertexts, made by every party for itself, at 2^MOMENTUM_BITS times the scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext
from mhe.party import Compute, Party
from mhe.slot_map import RefreshOutput, SlotMap
from models.activations import evaluate, part_of_interval
from models.linalg import PackedBlock, backward, forward, isolated, pack, rotate_and_add
from models.perceptron import with_constant
from models.plan import CircuitPlan
from models.prediction import ANSWER_GUARD

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Batch:
    """One party's packed rows, and their gradient X^T (y - link(0)) at weights of zero: (features + 1,)."""

    blocks: Sequence[PackedBlock]
    at_zero: Floats


@dataclass(frozen=True)
class Regression:
    """A generalised linear model with one output: its weights are one ciphertext of period plan.layout.features."""

    plan: CircuitPlan

    def batches(
        self, features: Floats, targets: Floats, pieces: Sequence[npt.NDArray[np.int64]], *, keep: bool
    ) -> list[Batch]:
        x, y, link = with_constant(features), targets[:, 0], self.plan.workload.link
        errors = y - link(np.zeros_like(y))
        return [Batch(pack(x[rows], y[rows], self.plan.layout, keep=keep), x[rows].T @ errors[rows]) for rows in pieces]

    def start(self, party: Party) -> list[Ciphertext]:
        return [encrypted_zero(party, self.plan.weight_scale, self.plan.weights_period)]

    def look_ahead(
        self, backend: Backend, weights: Sequence[Ciphertext], previous: Sequence[Ciphertext]
    ) -> list[Ciphertext]:
        """At full limbs and 2^MOMENTUM_BITS times the scale. Without momentum, w itself."""
        beta, factor = self.plan.momentum, float(self.plan.workload.momentum_factor)
        if beta == 0.0:
            return list(weights)
        (w,), (p,) = weights, previous
        ahead = backend.encode(np.array([1 + beta]), w.limbs, factor)
        behind = backend.encode(np.array([-beta]), p.limbs, factor)
        return [backend.multiply_accumulate_plain([(w, ahead), (p, behind)])]

    def gradients(
        self, party: Compute, ahead: Sequence[Ciphertext], batch: Batch, pace: float = 1.0, *, first: bool = False
    ) -> list[Ciphertext]:
        inputs = self.inputs(party.backend, ahead[0], batch.blocks, self.plan.data_scale)
        return [self.gradient(party, ahead[0], inputs, batch, pace, first=first)]

    def probed_gradients(
        self, party: Compute, ahead: Sequence[Ciphertext], batch: Batch, pace: float = 1.0, *, first: bool = False
    ) -> tuple[list[Ciphertext], list[Ciphertext]]:
        """The inputs are what the gradient takes anyway, masked."""
        inputs = list(self.inputs(party.backend, ahead[0], batch.blocks, self.plan.data_scale))
        parts = [self._part(party.backend, *each) for each in zip(batch.blocks, inputs, strict=True)]
        return [self.gradient(party, ahead[0], inputs, batch, pace, first=first)], parts

    def gradient(
        self, party: Compute, v: Ciphertext, inputs: Iterable[Ciphertext], batch: Batch, pace: float, *, first: bool
    ) -> Ciphertext:
        """pace X^T (y - link(X v)), before fold and rescale; read at step_factor times its scale it is the step.

        inputs: X v of every block, as `inputs` makes them. The first gradient is computed in the clear, and takes none
        of them: nothing of it was encrypted.
        """
        plan, layout = self.plan, self.plan.layout
        if not first:
            return self.descent(party.backend, inputs, batch.blocks, pace, plan.data_scale)
        folded = np.zeros(layout.features)
        folded[: plan.workload.features + 1] = pace * batch.at_zero
        # the fold adds up this many periods
        periods = layout.period // layout.features
        return party.encrypt_own(folded / periods, plan.error_limbs, plan.error_scale * plan.data_scale)

    def inputs(
        self, backend: Backend, v: Ciphertext, blocks: Sequence[PackedBlock], scale: float
    ) -> Iterator[Ciphertext]:
        """X v of every block, each made when it is asked for, with rows encoded at this scale."""
        layout = self.plan.layout
        turned = backend.rotate_hoisted(v, layout.baby_steps)
        for block in blocks:
            yield forward(backend, block, turned, layout, scale)

    def descent(
        self, backend: Backend, inputs: Iterable[Ciphertext], blocks: Sequence[PackedBlock], factor: float, scale: float
    ) -> Ciphertext:
        """factor X^T (y - link(u)) of the blocks' inputs u, before fold and rescale, with rows encoded at this scale.

        The factor costs nothing: it is in the coefficients of the link, and in the labels.
        """
        plan, layout = self.plan, self.plan.layout
        errors = []
        for block, u in zip(blocks, inputs, strict=True):
            e = evaluate(backend, u, plan.workload.link.times(-factor), plan.error_scale, layout.first_copies)
            errors.append(backend.add_plain(e, backend.encode(factor * block.labels, e.limbs, plan.error_scale)))
        return backward(backend, blocks, errors, layout, scale)

    def _part(self, backend: Backend, block: PackedBlock, u: Ciphertext) -> Ciphertext:
        """Inputs u as parts of the link's interval: from -1 to 1 inside it, 0 where the block has no row."""
        plan, layout = self.plan, self.plan.layout
        present = layout.placed(np.ones(block.n_rows))
        return part_of_interval(backend, isolated(backend, u, layout), plan.network.interval, present)

    def prepare(self, party: Compute, batches: Sequence[Any]) -> list[Ciphertext]:
        return []

    def step(
        self,
        party: Compute,
        prepared: Sequence[Ciphertext],
        ahead: Sequence[Ciphertext],
        totals: Sequence[Ciphertext] | None,
        pace: float = 1.0,
    ) -> list[Ciphertext] | None:
        """w' = (1 - rate l2) v + rate/n X^T (y - link(X v))"""
        if totals is None:
            return None
        backend, plan, (v,), (total,) = party.backend, self.plan, ahead, totals
        folded = rotate_and_add(backend, total, plan.layout.fold_steps, plan.layout.features)
        uphill = backend.reread(folded, scale=folded.scale * plan.step_factor)
        low = backend.drop_limbs(v, folded.limbs)
        kept = backend.multiply_plain(low, backend.encode(plan.decay(pace), low.limbs, uphill.scale / low.scale))
        return [backend.rescale(backend.add(uphill, kept))]

    def refresh(self, party: Compute, updated: Sequence[Ciphertext] | None) -> list[Ciphertext]:
        return party.refresh(updated, 1, self.plan.weight_scale, self.plan.weights_period)

    def release(self, party: Party, weights: Sequence[Ciphertext] | None) -> list[Floats]:
        plan, period = self.plan, self.plan.weights_period
        opened = None if weights is None else weights[0]
        slots = party.decrypt(opened, plan.low_limbs, plan.weight_scale, period, plan.precision.weight_noise_norm)
        return [slots[: plan.workload.features + 1, None]]

    def keep(self, party: Compute, weights: Sequence[Ciphertext] | None) -> list[Ciphertext] | None:
        return None if weights is None else list(weights)

    def predict(self, party: Party, weights: Sequence[Ciphertext] | None, features: Floats) -> Floats:
        backend, plan, layout = party.backend, self.plan, self.plan.layout
        # rotations would let in the noise of all coefficients, of which only those that carry weights are kept
        raised = [RefreshOutput(0, SlotMap.repeating(plan.weights_period, int(ANSWER_GUARD)))]
        (fresh,) = party.refresh(self.keep(party, weights), 1, plan.weight_scale, plan.weights_period, raised)
        low = backend.drop_limbs(fresh, plan.prediction_limbs + layout.output_levels)
        turned = backend.rotate_hoisted(backend.reread(low, scale=low.scale * ANSWER_GUARD), layout.baby_steps)
        # as many blocks as the party with the most test rows: the spare ones are empty
        x = np.zeros((plan.prediction_blocks * layout.rows, plan.workload.features + 1))
        x[: len(features)] = with_constant(features)
        packed = pack(x, np.zeros(len(x)), layout, keep=False)
        products = (forward(backend, block, turned, layout, plan.prediction_data_scale) for block in packed)
        logits = [isolated(backend, product, layout) for product in products]
        delivered = party.deliver(logits, plan.precision.logit_noise_norm)
        return np.concatenate([layout.taken(slots) for slots in delivered])[: len(features), None]


def encrypted_zero(party: Party, scale: float, period: int) -> Ciphertext:
    """Encrypted zeros, with the noise of a rescale and a refresh: that of an encryption, far larger, would stay."""
    parameters = party.parameters
    limbs = parameters.refresh_limbs
    wide = party.encrypt_zero(scale * parameters.moduli[limbs], period)
    low = party.backend.rescale(party.backend.drop_limbs(wide, limbs + 1))
    (zero,) = party.refresh([low] if party.collective.is_root else None, 1, scale, period)
    return zero
