"""Metrics by phase, on a clock under control."""

from __future__ import annotations

import json

import numpy as np
import pytest

from network.channel import Loopback
from network.metrics import MeteredChannel, Metrics


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_time_counts_for_the_innermost_phase():
    clock, cpu = Clock(), Clock()
    metrics = Metrics(clock, cpu)
    clock.now += 1
    with metrics.phase("train"):
        clock.now += 2
        cpu.now += 1
        with metrics.phase("refresh"):
            clock.now += 4
            cpu.now += 3
            with metrics.waiting():
                clock.now += 8
        clock.now += 16
    with metrics.phase("refresh"):
        clock.now += 32
        running = metrics.snapshot()
    seconds = {name: (c["wall_seconds"], c["waiting_seconds"]) for name, c in running.items()}
    assert seconds == {"outside": (1, 0), "train": (18, 0), "refresh": (44, 8)}
    assert {name: c["cpu_seconds"] for name, c in running.items()} == {"outside": 0, "train": 1, "refresh": 3}
    assert metrics.snapshot() == running


def test_phase_ends_with_an_exception():
    metrics = Metrics()
    with pytest.raises(ValueError, match="inside"), metrics.phase("a"):
        raise ValueError("inside")
    metrics.current.rounds += 1
    assert metrics.snapshot()["outside"]["rounds"] == 1


def test_bytes_and_messages_by_phase():
    hub = Loopback(2)
    metrics = Metrics()
    channel = MeteredChannel(hub.channel(0), metrics)
    with metrics.phase("out"):
        channel.send(1, np.zeros(10, np.uint8))
        channel.send(1, np.zeros(5, np.uint8))
        channel.flush()
    hub.channel(1).send(0, np.zeros(7, np.uint8))
    with metrics.phase("in"):
        channel.recv(1)
    counts = metrics.snapshot()
    assert (counts["out"]["bytes_sent"], counts["out"]["messages"], counts["out"]["bytes_received"]) == (15, 2, 0)
    assert (counts["in"]["bytes_sent"], counts["in"]["messages"], counts["in"]["bytes_received"]) == (0, 0, 7)
    assert json.loads(json.dumps(counts)) == counts
    assert set(counts["in"]) == {
        "bytes_sent", "bytes_received", "messages", "rounds", "wall_seconds", "waiting_seconds", "cpu_seconds",
    }  # fmt: skip
