"""The clear twin: the same polynomial, batches, order and momentum as under encryption, in float64 on everybody's
rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.plan import CircuitPlan
from models.training import batch_indices, with_intercept

Floats = npt.NDArray[np.float64]


def train_twin(plan: CircuitPlan, shards: Sequence[tuple[Floats, Floats]], seed: int) -> tuple[Floats, float]:
    """Weights (features + 1,), intercept last, and the largest |X v| on the way, from every party's (features, labels).

    The second value tells whether the polynomial ever left its interval.
    """
    workload, beta = plan.workload, plan.momentum
    rows = [(with_intercept(x), y) for x, y in shards]
    batches = [batch_indices(len(x), workload.batch, seed, rank) for rank, (x, _) in enumerate(rows)]
    decay = plan.decay[: workload.features + 1]
    weights: Floats = np.zeros(workload.features + 1)
    previous = weights
    widest = 0.0
    for t in range(workload.iterations):
        ahead = (1 + beta) * weights - beta * previous
        total = np.zeros_like(weights)
        for (x, y), pieces in zip(rows, batches, strict=True):
            own = pieces[t % len(pieces)]
            u = x[own] @ ahead
            widest = max(widest, float(np.abs(u).max()))
            total += x[own].T @ (y[own] - workload.sigmoid(u))
        previous, weights = weights, decay * ahead + total / plan.step_factor
    return weights, widest
