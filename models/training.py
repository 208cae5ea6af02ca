"""The training loop, from the view of one party; every party runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.ciphertext import Ciphertext
from mhe.errors import DataError
from mhe.party import Party
from models.model import Model
from models.perceptron import with_constant
from models.precision import ROW_NORM_LIMIT
from models.range_probe import InputRange, prober

Floats = npt.NDArray[np.float64]

INVERSE = "inverse"
"""The phase in which an inverse is computed."""

RANGE = "range"
"""The phase of range probes."""


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

    def undone(self, standardised: Floats) -> Floats:
        """What was standardised to these."""
        return np.asarray(standardised * self.scale + self.mean, dtype=np.float64)

    def part(self, columns: slice) -> Standardisation:
        """Of some of the columns."""
        return Standardisation(self.mean[columns], self.scale[columns])

    @classmethod
    def none(cls, columns: int) -> Standardisation:
        """Leaves so many columns as they are."""
        return cls(np.zeros(columns), np.ones(columns))


def standardise(party: Party, features: Floats, total_rows: int) -> Standardisation:
    """Means, then variances around them, summed under encryption; only these aggregates are released."""
    mean = party.encrypted_sum(features.sum(axis=0)) / total_rows
    return standardisation(mean, party.encrypted_sum(np.square(features - mean).sum(axis=0)) / total_rows)


def standardisation(mean: Floats, variance: Floats) -> Standardisation:
    """From the means and variances (columns,) of all rows."""
    # what remains of a constant column is the rounding of its mean
    negligible = (1e-12 * np.abs(mean)) ** 2
    return Standardisation(mean, np.where(variance > negligible, np.sqrt(np.maximum(variance, 0)), 1.0))


def check_rows(features: Floats, what: str, *, standardised: bool, mean_square: float = 1.0) -> None:
    """Refuse rows for which the noise of the plan, and with it the smudging of the release, would not hold.

    Raises DataError, naming the row (from 1) or the column, if a row is larger than ROW_NORM_LIMIT times one of
    standard deviations (of cells of this mean square), or if, in a table that is not standardised, the mean square of a
    column is above 1 or that of all cells above `mean_square`.
    """
    norms = np.linalg.norm(with_constant(features), axis=1) / np.sqrt(mean_square * features.shape[1] + 1)
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
    if not standardised and squares.mean() > mean_square:
        raise DataError(
            f"the {what} cells of this party have a mean square of {squares.mean():.3g}; [data] mean_square allows "
            f"{mean_square:g}: raise it, or scale the columns"
        )


def batch_indices(rows: int, batch: int | None, seed: int, rank: int) -> list[npt.NDArray[np.int64]]:
    """The batches that a party cycles through: consecutive pieces of one shuffle of its rows.

    The last one is filled up from the start of the shuffle, so that all have the same size.
    """
    if batch is None or batch >= rows:
        return [np.arange(rows)]
    order = np.random.default_rng([seed, rank]).permutation(rows)
    return [order[np.arange(start, start + batch) % rows] for start in range(0, rows, batch)]


def pack_batches(model: Model, features: Floats, targets: Floats, seed: int, rank: int, keep: bool) -> list[Any]:
    """The party's standardised rows (n, features) and targets (n, outputs) as packed batches, in the order of use."""
    pieces = batch_indices(len(features), model.plan.workload.batch, seed, rank)
    return model.batches(features, targets, pieces, keep=keep)


def prepare(party: Party, model: Model, batches: Sequence[Any]) -> list[Ciphertext]:
    """What `train` needs beside the batches, made once: the inverse Hessian of solver "newton", else nothing."""
    with party.collective.phase(INVERSE):
        return model.prepare(party, batches)


def train(
    party: Party,
    model: Model,
    batches: Sequence[Any],
    report: Callable[[Iteration], None],
    prepared: Sequence[Ciphertext] = (),
    watch: Callable[[InputRange], None] = lambda _: None,
) -> list[Ciphertext] | None:
    """The encrypted weights after the last iteration, as `Model.step` leaves them: at the root, None elsewhere.

    Every iteration: look ahead, each party's gradients on its own rows, their sum up the tree, the root's step, one
    collective refresh on the way back down. prepared: by `prepare`. watch: gets what every range probe tells, at every
    party.
    """
    plan, backend, probe = model.plan, party.backend, prober(model.plan)
    weights = previous = model.start(party)
    for number in range(1, plan.workload.iterations + 1):
        start = time.perf_counter()
        with party.collective.phase("iteration"):
            batch, pace = batches[(number - 1) % len(batches)], plan.workload.pace(number)
            ahead = model.look_ahead(backend, weights, previous)
            probed = probe is not None and plan.workload.is_probed(number)
            if probed:
                local, inputs = model.probed_gradients(party, ahead, batch, pace, first=number == 1)
            else:
                local, inputs = model.gradients(party, ahead, batch, pace, first=number == 1), []
            totals = party.sum(local)
            updated = model.step(party, prepared, ahead, totals, pace)
            if number < plan.workload.iterations:
                previous = weights
                weights = model.refresh(party, updated)
        report(Iteration(number, time.perf_counter() - start, plan.parameters.n_limbs - plan.low_limbs))
        if probe is not None and probed:
            with party.collective.phase(RANGE):
                found = probe(party, number, inputs)
            watch(found)
    return updated
