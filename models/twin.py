"""The clear twin: the same polynomials, batches, order and momentum as under encryption, in float64 on everybody's
rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.model import Plan
from models.training import batch_indices

Floats = npt.NDArray[np.float64]


def train_twin(plan: Plan, shards: Sequence[tuple[Floats, Floats]], seed: int) -> tuple[list[Floats], float]:
    """Weights, (inputs + 1, outputs) for each layer, and the largest input of a polynomial on the way, from every
    party's (features (n, inputs), targets (n, outputs)).

    The second value tells whether a polynomial ever left its interval.
    """
    workload, beta, model = plan.workload, plan.momentum, plan.workload.model
    batches = [batch_indices(len(x), workload.batch, seed, rank) for rank, (x, _) in enumerate(shards)]
    weights = previous = model.initial_weights(workload.seed)
    step_size = workload.learning_rate / sum(workload.batch_rows)
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
        weights = [decay * v - step_size * g for decay, v, g in zip(workload.decay, ahead, totals, strict=True)]
    return weights, widest
