"""The clear twin: the same polynomials, batches, order and momentum as under encryption, in float64 on everybody's
rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from models.model import Plan
from models.newton_plan import FixedHessianPlan
from models.training import batch_indices

Floats = npt.NDArray[np.float64]
Step = Callable[[list[Floats], list[Floats], float], list[Floats]]
"""From the weights that were looked at, the summed gradients and the pace to the next weights."""


def train_twin(plan: Plan, shards: Sequence[tuple[Floats, Floats]], seed: int) -> tuple[list[Floats], float]:
    """Weights, (inputs + 1, outputs) for each layer, and the largest input of a polynomial on the way, from every
    party's (features (n, inputs), targets (n, outputs)).

    The second value tells whether a polynomial ever left its interval.
    """
    workload, beta, model = plan.workload, plan.momentum, plan.workload.model
    batches = [batch_indices(len(x), workload.batch, seed, rank) for rank, (x, _) in enumerate(shards)]
    weights = previous = model.initial_weights(workload.seed)
    if workload.local_iterations is not None:
        return _averaged(plan, shards, batches, weights)
    step = _newton(plan, shards) if isinstance(plan, FixedHessianPlan) else _descent(plan)
    widest = 0.0
    for t in range(workload.iterations):
        ahead = [(1 + beta) * w - beta * p for w, p in zip(weights, previous, strict=True)]
        totals = [np.zeros_like(w) for w in weights]
        for (x, y), pieces in zip(shards, batches, strict=True):
            own = pieces[t % len(pieces)]
            found, largest = model.gradient(ahead, x[own], y[own])
            widest = max(widest, largest)
            totals = [total + g for total, g in zip(totals, found, strict=True)]
        previous = weights
        weights = step(ahead, totals, workload.pace(t + 1))
    return weights, widest


def _averaged(
    plan: Plan,
    shards: Sequence[tuple[Floats, Floats]],
    batches: Sequence[Sequence[npt.NDArray[np.int64]]],
    weights: list[Floats],
) -> tuple[list[Floats], float]:
    """Every party's own steps, then the mean of their weights, by rows."""
    workload, widest = plan.workload, 0.0
    for t in range(workload.iterations):
        pace, mean = workload.pace(t + 1), [np.zeros_like(w) for w in weights]
        for (x, y), pieces in zip(shards, batches, strict=True):
            own, rows = weights, pieces[t % len(pieces)]
            rate = pace * workload.learning_rate / len(rows)
            for _ in range(workload.local_steps):
                found, largest = workload.model.gradient(own, x[rows], y[rows])
                widest = max(widest, largest)
                moved = zip(workload.decay(pace), own, found, strict=True)
                own = [decay * w - rate * g for decay, w, g in moved]
            part = len(rows) / sum(workload.batch_rows)
            mean = [total + part * w for total, w in zip(mean, own, strict=True)]
        weights = mean
    return weights, widest


def _descent(plan: Plan) -> Step:
    workload = plan.workload
    step_size = workload.learning_rate / sum(workload.batch_rows)

    def step(ahead: list[Floats], totals: list[Floats], pace: float) -> list[Floats]:
        moved = zip(workload.decay(pace), ahead, totals, strict=True)
        return [decay * v - pace * step_size * g for decay, v, g in moved]

    return step


def _newton(plan: FixedHessianPlan, shards: Sequence[tuple[Floats, Floats]]) -> Step:
    """With the inverse by as many rounds as under encryption."""
    workload = plan.workload
    d, rows = workload.features, sum(workload.rows)
    gram = np.sum([x.T @ x for x, _ in shards], axis=0)
    inverse = np.zeros((d + 1, d + 1))
    inverse[:d, :d] = plan.schedule(plan.curvature / rows * gram + workload.l2 * np.eye(d))
    inverse[d, d] = 1 / plan.curvature
    penalty = np.vstack([np.full((d, 1), workload.l2), np.zeros((1, 1))])

    def step(ahead: list[Floats], totals: list[Floats], _: float) -> list[Floats]:
        (w,), (g,) = ahead, totals
        return [w - inverse @ (g / rows + penalty * w)]

    return step
