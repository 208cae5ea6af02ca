"""Timing of alternatives that are run in turn, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.environment import environment
from mhe.ring.vectors import HAS_FMA


@dataclass(frozen=True)
class Case:
    """One operation of one backend. prepare: makes the input of the next run, which is not timed."""

    op: str
    backend: str
    ring_dim: int
    limbs: int
    run: Callable[[Any], object]
    prepare: Callable[[], Any] = lambda: None
    divisor: int = 1
    """How many operations one run makes: times are per operation."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds per operation: median and interquartile range over the runs."""

    op: str
    backend: str
    ring_dim: int
    limbs: int
    median_ms: float
    iqr_ms: float
    runs: int


def measure(cases: Sequence[Case], runs: int, warm_up: int = 2) -> list[Timing]:
    """Every case once in each round; `warm_up` rounds more, which compile and do not count."""
    seconds: list[list[float]] = [[] for _ in cases]
    for number in range(-warm_up, runs):
        for case, record in zip(cases, seconds, strict=True):
            given = case.prepare()
            start = time.perf_counter()
            case.run(given)
            if number >= 0:
                record.append((time.perf_counter() - start) * 1e3 / case.divisor)
    timings = []
    for case, record in zip(cases, seconds, strict=True):
        lower, median, upper = np.percentile(record, [25, 50, 75])
        timings.append(
            Timing(case.op, case.backend, case.ring_dim, case.limbs, float(median), float(upper - lower), runs)
        )
    return timings


def single_thread_environment() -> dict[str, Any]:
    """`benchmarks.environment`, and what times of single operations depend on besides."""
    return {
        **environment(),
        "fma": HAS_FMA,
        "load_average": round(os.getloadavg()[0], 2),
        "threads": 1,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
