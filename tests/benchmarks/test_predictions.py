"""Ratios of what was foretold and what was measured."""

from __future__ import annotations

from benchmarks.predictions import at_pace, ratios
from benchmarks.units import Pace


def test_a_ratio_is_that_of_the_party_farthest_off():
    predicted = {"iteration_cpu_seconds": [1.0, 3.0], "iteration_seconds": 2.0, "max_weight_error": 1e-3}
    measured = {"iteration_cpu_seconds": [1.1, 2.0], "iteration_seconds": 4.0, "max_weight_error": None}
    found = ratios(predicted, measured)
    assert found == {"iteration_cpu_seconds": 1.5, "iteration_seconds": 0.5, "max_weight_error": None}


def test_a_slow_machine_makes_times_longer_and_nothing_else():
    found = {"iteration_cpu_seconds": 0.5, "iteration_seconds": 0.4, "key_seconds": None, "memory_bytes": 0.9}
    kept = at_pace(found, Pace(cpu=2.0, wall=2.5))
    assert kept == {"iteration_cpu_seconds": 1.0, "iteration_seconds": 1.0, "key_seconds": None}
