"""`Workload`: what is to be trained, by whom, and what is released, in public terms only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.activations import Polynomial
from models.kinds import Schedule
from models.perceptron import Perceptron
from models.schedules import pace

Floats = npt.NDArray[np.float64]

MOMENTUM_BITS = 10
"""Momentum is used in multiples of 2^-MOMENTUM_BITS at most, so that v = (1 + beta) w - beta w_previous costs no
level."""


@dataclass(frozen=True)
class Workload:
    """What is to be trained, in public terms only.

    rows: training rows of every party. features: columns, without the intercept. batch: rows per party and iteration,
    or None for all. message_bound: largest absolute weight assumed. release_bits: statistical bits of the smudging of
    released values. precision: largest weight error that is asked for. release: what is opened at the end.
    standardises: whether means and variances are computed under encryption first. test_rows: of every party. link,
    outputs, hidden, activation, seed: of the model (`models.perceptron`) and its first weights; a regression has no
    hidden layers. condition: of the Hessian that solver "newton" inverts, at most (`models.newton_plan`); None for
    other solvers. answers: ciphertexts of answers that a model that stays encrypted may give in its life. mean_square:
    of the cells of every party's rows, at most. range_every: iterations from one range probe to the next
    (`models.range_probe`); None for none. schedule, schedule_decay: of learning_rate (`models.schedules`).
    local_iterations: steps of a party between two sums, of solver "local" (`models.local_plan`); None for other
    solvers. coupled: of the outputs of the model.
    """

    rows: tuple[int, ...]
    features: int
    iterations: int
    learning_rate: float
    momentum: float
    l2: float
    batch: int | None
    link: Polynomial
    message_bound: float
    release_bits: int
    precision: float
    release: Literal["model", "predictions", "encrypted", "nothing"]
    standardises: bool
    test_rows: tuple[int, ...]
    outputs: int = 1
    hidden: tuple[int, ...] = ()
    activation: Polynomial | None = None
    seed: int = 0
    condition: float | None = None
    answers: int = 0
    mean_square: float = 1.0
    range_every: int | None = None
    schedule: Schedule = "constant"
    schedule_decay: float = 0.0
    local_iterations: int | None = None
    coupled: bool = False

    @property
    def probes(self) -> int:
        """How often the range of the inputs of the link is probed."""
        return 0 if self.range_every is None else self.iterations // self.range_every

    def is_probed(self, iteration: int) -> bool:
        """Whether the range is probed in this iteration, from 1."""
        return self.range_every is not None and iteration % self.range_every == 0

    @cached_property
    def model(self) -> Perceptron:
        activation = self.activation or self.link
        return Perceptron(self.features, self.hidden, self.outputs, activation, self.link, self.coupled)

    @property
    def n_parties(self) -> int:
        return len(self.rows)

    @cached_property
    def batch_rows(self) -> tuple[int, ...]:
        """Rows that every party brings to one iteration."""
        return tuple(rows if self.batch is None else min(rows, self.batch) for rows in self.rows)

    @cached_property
    def momentum_factor(self) -> int:
        """The smallest power of two of which the momentum is a multiple of the inverse, at most 2^MOMENTUM_BITS.

        Every bit of it costs half a bit of precision: the weights are at a scale that much smaller.
        """
        exact = (1 << k for k in range(MOMENTUM_BITS) if (self.momentum * (1 << k)).is_integer())
        return next(exact, 1 << MOMENTUM_BITS)

    def pace(self, iteration: int) -> float:
        """The part of learning_rate that this iteration takes, from 1: at most 1."""
        return pace(self.schedule, self.schedule_decay, iteration - 1, self.iterations)

    @property
    def weight_decay(self) -> float:
        """What a step keeps of a penalised weight, at most: 1 - learning_rate * l2 at the slowest pace."""
        return self.kept_at(min(self.pace(t) for t in (1, self.iterations)))

    def kept_at(self, pace: float) -> float:
        """What a step keeps of a penalised weight at this pace."""
        return 1 - pace * self.learning_rate * self.l2

    def decay(self, pace: float) -> list[Floats]:
        """What a step keeps of each weight, by layer: of an intercept or a bias all."""
        kept: list[Floats] = [np.full(shape, self.kept_at(pace)) for shape in self.model.shapes]
        for layer in kept:
            layer[-1] = 1.0
        return kept

    @property
    def local_steps(self) -> int:
        """Steps between two sums."""
        return self.local_iterations or 1

    @property
    def step_rows(self) -> int:
        """Rows that the gradient of one step is a mean over: all parties', or the fewest that a party has by itself."""
        return sum(self.batch_rows) if self.local_iterations is None else min(self.batch_rows)

    @property
    def step_levels(self) -> int:
        """Levels of one step of a regression: forward, link, backward."""
        return self.link.depth + 2

    @cached_property
    def levels(self) -> int:
        """Levels of one iteration of a regression."""
        return self.step_levels * self.local_steps

    @cached_property
    def message_bits(self) -> float:
        """log2 of the largest |weight| times the weights' scale, above the default scale (see
        CircuitPlan.weight_scale).
        """
        smaller = self.learning_rate * self.momentum_factor * self.link.half_width
        scale = math.sqrt(self.step_rows / smaller)
        return math.log2(self.message_bound * scale) + 1
