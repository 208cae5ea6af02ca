"""Learning-rate schedules: which part of the learning rate an iteration takes.

Robbins and Monro ("A stochastic approximation method", 1951) for rates that fall as 1/t; Loshchilov and Hutter ("SGDR:
stochastic gradient descent with warm restarts", ICLR 2017, equation 5) for cosine annealing, without a restart.
"""

from __future__ import annotations

import math

from models.kinds import Schedule


def pace(schedule: Schedule, decay: float, iteration: int, iterations: int) -> float:
    """In (0, 1], of iteration t = 0, 1, ... of so many: "constant" 1, "inverse" 1 / (1 + decay t), "exponential"
    exp(-decay t), "cosine" (1 + cos(pi t / iterations)) / 2.
    """
    if schedule == "inverse":
        return 1 / (1 + decay * iteration)
    if schedule == "exponential":
        return math.exp(-decay * iteration)
    return (1 + math.cos(math.pi * iteration / iterations)) / 2 if schedule == "cosine" else 1.0
