"""The task that every peer gets: rows and settings in one file, and descent in the clear around a peer's gradient.

Imported in the peers' own environments: nothing but numpy here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """Nesterov's method on the mean logistic loss + l2 / 2 |w|^2, the intercept unpenalised, with a polynomial.

    link: coefficients of the powers of the logit, lowest first.
    """

    iterations: int
    learning_rate: float
    momentum: float
    l2: float
    link: tuple[float, ...]


@dataclass(frozen=True)
class Task:
    """x: standardised (rows, features); y: 0 or 1, (rows,). The same of test rows."""

    settings: Settings
    x: Floats
    y: Floats
    test_x: Floats
    test_y: Floats

    @classmethod
    def load(cls, path: Path) -> Task:
        with np.load(path) as arrays:
            settings = json.loads(str(arrays["settings"]))
            x, y, test_x, test_y = (arrays[name] for name in ("x", "y", "test_x", "test_y"))
        return cls(Settings(**{**settings, "link": tuple(settings["link"])}), x, y, test_x, test_y)

    def save(self, path: Path) -> None:
        np.savez(
            path, settings=json.dumps(asdict(self.settings)), x=self.x, y=self.y, test_x=self.test_x, test_y=self.test_y
        )

    def clear_gradient(self, v: Floats) -> Floats:
        """Of the sum of losses at v (features + 1,), the intercept last."""
        x = np.column_stack([self.x, np.ones(len(self.x))])
        return np.asarray(x.T @ (np.polynomial.polynomial.polyval(x @ v, self.settings.link) - self.y))

    def accuracy(self, weights: Floats) -> float:
        """On the test rows, of weights (features + 1,)."""
        return float(np.mean((self.test_x @ weights[:-1] + weights[-1] > 0) == (self.test_y > 0.5)))


@dataclass(frozen=True)
class Run:
    """What a peer reports: wall and CPU seconds of every iteration (CPU: of all its processes), and the weights."""

    seconds: list[float]
    cpu_seconds: list[float]
    weights: list[float]
    settings: dict[str, Any]
    """How the peer was set up: sizes, scales, thresholds."""

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def descend(task: Task, gradient: Callable[[Floats], Floats], settings: dict[str, Any]) -> Run:
    """Train with this gradient of the sum of losses, (features + 1,) -> (features + 1,), the steps in the clear."""
    s, n = task.settings, len(task.y)
    penalty = np.append(np.full(task.x.shape[1], s.l2), 0.0)
    w: Floats = np.zeros(task.x.shape[1] + 1)
    previous = w
    seconds, cpu = [], []
    for _ in range(s.iterations):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        v = w + s.momentum * (w - previous)
        w, previous = v - s.learning_rate * (gradient(v) / n + penalty * v), w
        seconds.append(time.perf_counter() - wall_start)
        cpu.append(time.process_time() - cpu_start)
    return Run(seconds, cpu, w.tolist(), settings)
