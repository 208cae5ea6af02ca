"""Proposing the interval of the polynomials before any training under encryption.

Every party trains alone, in the clear, on its own rows and with the exact functions, and counts how far the inputs of
its rows reach on the way. Nothing of that leaves it but encrypted counts, of which the sum over all parties is opened.
A party's own model fits its few rows more closely than the joint one will, so that its inputs are rather larger; the
proposal adds MARGIN to what nearly all rows reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.perceptron import with_constant
from models.training import batch_indices
from models.workload import Workload

Floats = npt.NDArray[np.float64]
Function = Callable[[Floats], Floats]

MARGIN = 1.25
"""The proposed interval reaches this much further than the inputs in the simulations."""

BEYOND = 1e-3
"""The part of the rows that may reach further still on each side, as outliers do."""

STEPS_PER_DOUBLING = 8
SMALLEST, LARGEST = 0.25, 256.0
BINS = round(STEPS_PER_DOUBLING * math.log2(LARGEST / SMALLEST)) + 1
"""Of each side: up to SMALLEST, then in steps of 2^(1/8); what reaches beyond LARGEST counts as LARGEST."""

ROUNDING = 0.5
"""Proposed ends are multiples of it."""


@dataclass(frozen=True)
class ExactFunctions:
    """What the polynomials stand for. link: None where outputs are means themselves, and may be of any size. slope: the
    derivative of the activation. curvature: the largest slope of the link, for solver "newton".
    """

    link: Function | None
    activation: Function
    slope: Function
    curvature: float


@dataclass(frozen=True)
class Reach:
    """Lowest and highest input, and the interval that is proposed for them."""

    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        return -_rounded(-self.low), _rounded(self.high)


def simulate(workload: Workload, functions: ExactFunctions, x: Floats, y: Floats, rank: int) -> tuple[Floats, Floats]:
    """The lowest and the highest input of any function, (rows,) each, for each row of one party over all iterations.

    x: standardised rows (rows, features), y: targets (rows, outputs). The party trains alone, as the configuration has
    it; weights that grow beyond all bounds count as LARGEST.
    """
    pieces = batch_indices(len(x), workload.batch, workload.seed, rank)
    weights = previous = workload.model.initial_weights(workload.seed)
    lowest, highest = np.zeros(len(x)), np.zeros(len(x))
    direction = _newton(workload, functions, x) if workload.condition is not None else _downhill(workload)
    beta = workload.momentum
    for t in range(workload.iterations * workload.local_steps):
        iteration = t // workload.local_steps
        ahead = [(1 + beta) * w - beta * p for w, p in zip(weights, previous, strict=True)]
        own = pieces[iteration % len(pieces)]
        with np.errstate(over="ignore", invalid="ignore"):
            inputs = _inputs(functions, ahead, x)
            for z in inputs if functions.link is not None else inputs[:-1]:
                lowest = np.minimum(lowest, np.nan_to_num(z.min(axis=1), nan=-LARGEST))
                highest = np.maximum(highest, np.nan_to_num(z.max(axis=1), nan=LARGEST))
            gradients = _gradients(functions, ahead, x[own], y[own])
            previous = weights
            pace = workload.pace(iteration + 1)
            moved = zip(ahead, gradients, workload.decay(pace), strict=True)
            weights = [v - direction(pace * g / len(own), v, kept) for v, g, kept in moved]
    return lowest, highest


def histogram(lowest: Floats, highest: Floats) -> Floats:
    """How many rows reach how far down, then up: (2 * BINS,) counts."""
    counts = [np.bincount(_bin(side), minlength=BINS) for side in (-lowest, highest)]
    return np.concatenate(counts).astype(np.float64)


def reach_of(counts: Floats, *, symmetric: bool) -> Reach:
    """What all rows but BEYOND of them reach, from the summed `histogram` of all parties.

    symmetric: the same on both sides, as for functions that are odd but for a constant.
    """
    down, up = (_quantile(side) for side in np.split(counts, 2))
    return Reach(-max(down, up), max(down, up)) if symmetric else Reach(-down, up)


def _bin(distances: Floats) -> npt.NDArray[np.int64]:
    clipped = np.clip(distances, SMALLEST, LARGEST)
    return np.ceil(STEPS_PER_DOUBLING * np.log2(clipped / SMALLEST) - 1e-9).astype(np.int64)


def _quantile(counts: Floats) -> float:
    """The upper end of the first bin beyond which there are no more than BEYOND of all rows."""
    beyond = counts.sum() - np.cumsum(counts)
    first = int(np.flatnonzero(beyond <= BEYOND * counts.sum())[0])
    return float(SMALLEST * 2.0 ** (first / STEPS_PER_DOUBLING))


def _rounded(end: float) -> float:
    return math.ceil(MARGIN * end / ROUNDING) * ROUNDING


def _inputs(functions: ExactFunctions, weights: Sequence[Floats], x: Floats) -> list[Floats]:
    """z of every layer, (rows, units) each."""
    found = []
    for w in weights:
        found.append(with_constant(x) @ w)
        x = functions.activation(found[-1])
    return found


def _gradients(functions: ExactFunctions, weights: Sequence[Floats], x: Floats, y: Floats) -> list[Floats]:
    """Of the loss summed over the rows, by layer."""
    inputs = _inputs(functions, weights, x)
    before = [x, *(functions.activation(z) for z in inputs[:-1])]
    error = (inputs[-1] if functions.link is None else functions.link(inputs[-1])) - y
    found = []
    for layer in reversed(range(len(weights))):
        found.append(with_constant(before[layer]).T @ error)
        if layer:
            error = (error @ weights[layer][:-1].T) * functions.slope(inputs[layer - 1])
    return found[::-1]


def _downhill(workload: Workload) -> Callable[[Floats, Floats, Floats], Floats]:
    def direction(gradient: Floats, weights: Floats, kept: Floats) -> Floats:
        return workload.learning_rate * gradient + (1 - kept) * weights

    return direction


def _newton(workload: Workload, functions: ExactFunctions, x: Floats) -> Callable[[Floats, Floats, Floats], Floats]:
    """With the inverse of the party's own fixed Hessian, directions without enough rows left out."""
    rows = with_constant(x)
    penalty = np.append(np.full(workload.features, workload.l2), 0.0)
    hessian = functions.curvature * rows.T @ rows / len(x) + np.diag(penalty)
    inverse = np.linalg.pinv(hessian, rcond=1 / (workload.condition or 1.0), hermitian=True)

    def direction(gradient: Floats, weights: Floats, kept: Floats) -> Floats:
        return np.asarray(inverse @ (gradient + penalty[:, None] * weights), dtype=np.float64)

    return direction
