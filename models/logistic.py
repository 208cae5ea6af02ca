"""Logistic regression on encrypted weights: the gradient of one party, and the root's step.

The table's rows are extended by a constant 1 for the intercept, which is the last weight. Scales do all the
arithmetic that constants would cost levels for: the factor learning_rate / n is only a different reading of the scale
of the gradient.

Nesterov: w' = v - rate * grad(v), v' = (1 + beta) w' - beta w. Only w is refreshed; v is an integer combination of two
fresh ciphertexts, made by every party for itself, at 2^MOMENTUM_BITS times the scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext
from models.activations import evaluate
from models.linalg import PackedBlock, backward, forward, rotate_and_add
from models.plan import CircuitPlan


def look_ahead(backend: Backend, plan: CircuitPlan, weights: Ciphertext, previous: Ciphertext) -> Ciphertext:
    """v = (1 + beta) w - beta w_previous, at full limbs and 2^MOMENTUM_BITS times the scale. Without momentum, w
    itself.
    """
    beta, factor = plan.momentum, float(plan.workload.momentum_factor)
    if beta == 0.0:
        return weights
    ahead = backend.encode(np.array([1 + beta]), weights.limbs, factor)
    behind = backend.encode(np.array([-beta]), previous.limbs, factor)
    return backend.multiply_accumulate_plain([(weights, ahead), (previous, behind)])


def gradient(backend: Backend, plan: CircuitPlan, ahead: Ciphertext, blocks: Sequence[PackedBlock]) -> Ciphertext:
    """X^T (y - p(X v)) of one party's rows, before fold and rescale; read at step_factor times its scale it is the
    step.
    """
    layout = plan.layout
    turned = backend.rotate_hoisted(ahead, layout.baby_steps)
    errors = []
    for block in blocks:
        u = forward(backend, block, turned, layout, plan.data_scale)
        e = evaluate(backend, u, plan.workload.sigmoid.negated, plan.error_scale)
        errors.append(backend.add_plain(e, backend.encode(block.labels, e.limbs, plan.error_scale)))
    return backward(backend, blocks, errors, layout, plan.data_scale)


def step(backend: Backend, plan: CircuitPlan, ahead: Ciphertext, total: Ciphertext) -> Ciphertext:
    """w' = (1 - rate l2) v + rate/n X^T (y - p(X v)) at the root, at plan.low_limbs limbs and plan.weight_scale."""
    folded = rotate_and_add(backend, total, plan.layout.fold_steps, plan.layout.features)
    uphill = backend.reread(folded, scale=folded.scale * plan.step_factor)
    low = backend.drop_limbs(ahead, folded.limbs)
    kept = backend.multiply_plain(low, backend.encode(plan.decay, low.limbs, uphill.scale / low.scale))
    return backend.rescale(backend.add(uphill, kept))
