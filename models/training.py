"""The training loop, from the view of one party; every party runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mhe.ciphertext import Ciphertext
from mhe.errors import DataError
from mhe.party import Party
from models.linalg import PackedBlock, forward, pack
from models.logistic import gradient, look_ahead, step
from models.plan import CircuitPlan
from models.precision import ROW_NORM_LIMIT

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Iteration:
    """What one iteration took: seconds at this party, and the levels that it consumed."""

    number: int
    seconds: float
    levels: int


@dataclass(frozen=True)
class Standardisation:
    """Column means and standard deviations over all parties' rows; 1 where a column is constant."""

    mean: Floats
    scale: Floats

    def __call__(self, features: Floats) -> Floats:
        return np.asarray((features - self.mean) / self.scale, dtype=np.float64)


def standardise(party: Party, features: Floats, total_rows: int) -> Standardisation:
    """Means, then variances around them, summed under encryption; only these aggregates are released."""
    mean = party.encrypted_sum(features.sum(axis=0)) / total_rows
    return standardisation(mean, party.encrypted_sum(np.square(features - mean).sum(axis=0)) / total_rows)


def standardisation(mean: Floats, variance: Floats) -> Standardisation:
    """From the means and variances (columns,) of all rows."""
    # what remains of a constant column is the rounding of its mean
    negligible = (1e-12 * np.abs(mean)) ** 2
    return Standardisation(mean, np.where(variance > negligible, np.sqrt(np.maximum(variance, 0)), 1.0))


def check_rows(features: Floats, what: str, *, standardised: bool) -> None:
    """Refuse rows for which the noise of the plan, and with it the smudging of the release, would not hold.

    Raises DataError, naming the row (from 1) or the column, if a row is larger than ROW_NORM_LIMIT times one of
    standard deviations, or if a column of a table that is not standardised has a mean square above 1.
    """
    norms = np.linalg.norm(with_intercept(features), axis=1) / np.sqrt(features.shape[1] + 1)
    if len(norms) and norms.max() > ROW_NORM_LIMIT:
        raise DataError(
            f"{what} row {int(norms.argmax()) + 1} of this party is {norms.max():.1f} times as large as a row of "
            f"standard deviations; at most {ROW_NORM_LIMIT:g} is allowed: correct, clip or drop outliers"
        )
    squares = np.square(features).mean(axis=0) if len(features) else np.zeros(1)
    if not standardised and squares.max() > 1:
        raise DataError(
            f"column {int(squares.argmax()) + 1} has a mean square of {squares.max():.3g} at this party; without "
            "standardize = true at most 1 is allowed: scale the columns, or let the parties standardise them"
        )


def with_intercept(features: Floats) -> Floats:
    """The rows extended by a constant 1: (n, features + 1)."""
    return np.column_stack([features, np.ones(len(features))])


def batch_indices(rows: int, batch: int | None, seed: int, rank: int) -> list[npt.NDArray[np.int64]]:
    """The batches that a party cycles through: consecutive pieces of one shuffle of its rows.

    The last one is filled up from the start of the shuffle, so that all have the same size.
    """
    if batch is None or batch >= rows:
        return [np.arange(rows)]
    order = np.random.default_rng([seed, rank]).permutation(rows)
    return [order[np.arange(start, start + batch) % rows] for start in range(0, rows, batch)]


def pack_batches(
    plan: CircuitPlan, features: Floats, labels: Floats, seed: int, rank: int, keep: bool
) -> list[list[PackedBlock]]:
    """The party's standardised rows (n, features) as packed batches, in the order of their use."""
    x = with_intercept(features)
    batches = batch_indices(len(x), plan.workload.batch, seed, rank)
    return [pack(x[rows], labels[rows], plan.layout, keep=keep) for rows in batches]


def train(
    party: Party, plan: CircuitPlan, batches: Sequence[Sequence[PackedBlock]], report: Callable[[Iteration], None]
) -> Ciphertext | None:
    """The encrypted weights after the last iteration, at plan.low_limbs limbs: at the root, None elsewhere.

    Every iteration: look ahead, each party's gradient on its own rows, their sum up the tree, the root's step, one
    collective refresh on the way back down.
    """
    backend, scale, period = party.backend, plan.weight_scale, plan.layout.features
    weights = previous = _zero_weights(party, plan)
    for number in range(1, plan.workload.iterations + 1):
        start = time.perf_counter()
        with party.collective.phase("iteration"):
            ahead = look_ahead(backend, plan, weights, previous)
            local = gradient(backend, plan, ahead, batches[(number - 1) % len(batches)])
            total = party.sum([local])
            updated = None if total is None else step(backend, plan, ahead, total[0])
            if number < plan.workload.iterations:
                previous = weights
                (weights,) = party.refresh(None if updated is None else [updated], 1, scale, period)
        report(Iteration(number, time.perf_counter() - start, plan.parameters.n_limbs - plan.low_limbs))
    return updated


def _zero_weights(party: Party, plan: CircuitPlan) -> Ciphertext:
    """Encrypted zeros, with the noise of a rescale and a refresh: that of an encryption, far larger, would stay."""
    parameters, scale, period = plan.parameters, plan.weight_scale, plan.layout.features
    limbs = parameters.refresh_limbs
    wide = party.encrypt_zero(scale * parameters.moduli[limbs], period)
    low = party.backend.rescale(party.backend.drop_limbs(wide, limbs + 1))
    (weights,) = party.refresh([low] if party.collective.is_root else None, 1, scale, period)
    return weights


def release_model(party: Party, plan: CircuitPlan, weights: Ciphertext | None) -> Floats:
    """The weights (features + 1,), intercept last, opened to every party."""
    period = plan.layout.features
    slots = party.decrypt(weights, plan.low_limbs, plan.weight_scale, period, plan.precision.weight_noise_norm)
    return slots[: plan.workload.features + 1]


def release_predictions(party: Party, plan: CircuitPlan, weights: Ciphertext | None, features: Floats) -> Floats:
    """The logits (n,) of this party's standardised test rows, under its own key: nobody else learns them."""
    backend, layout = party.backend, plan.layout
    (fresh,) = party.refresh(None if weights is None else [weights], 1, plan.weight_scale, layout.features)
    low = backend.drop_limbs(fresh, plan.prediction_limbs + 1)
    raised = backend.multiply_plain(low, backend.encode(np.ones(1), low.limbs, plan.prediction_guard))
    turned = backend.rotate_hoisted(raised, layout.baby_steps)
    # as many blocks as the party with the most test rows: the spare ones are empty
    x = np.zeros((plan.prediction_blocks * layout.rows, plan.workload.features + 1))
    x[: len(features)] = with_intercept(features)
    packed = pack(x, np.zeros(len(x)), layout, keep=False)
    logits = [forward(backend, block, turned, layout, plan.prediction_data_scale) for block in packed]
    return np.concatenate(party.deliver(logits, plan.precision.logit_noise_norm))[: len(features)]
