"""MPyC: Shamir's secret sharing among m parties, of whom t = (m - 1) // 2 may collude, all on this machine.

Every party deals shares of its own rows to all others; weights stay shared until the end. Fixed-point numbers in secure
arrays. Started with -M m, which starts the other parties' processes. The cube is the only product of shares between the
two matrix products: with weights multiplied by the cube root of its coefficient beforehand, all else is linear.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from mpyc.runtime import mpc

from benchmarks.peers.task import Floats, Run, Task

BITS, FRACTION_BITS = 32, 16
"""As few as keep the accuracy: a truncation makes a random bit for every bit after the point."""


async def shared(values: Floats, number: Any) -> Any:
    """The rows of all parties, each part dealt by its owner: (rows, columns)."""
    parts = np.array_split(values, len(mpc.parties))
    return np.concatenate([mpc.input(number.array(part), senders=rank) for rank, part in enumerate(parts)])


async def train(task: Task) -> Run:
    s, number = task.settings, mpc.SecFxp(BITS, FRACTION_BITS)
    c0, c1, _, c3 = s.link
    stretch = abs(c3) ** (1 / 3)
    await mpc.start()
    x = await shared(np.column_stack([task.x, np.ones(len(task.x))]), number)
    y = await shared(task.y[:, None], number)
    rate = s.learning_rate / len(task.y)
    decay = np.full((x.shape[1], 1), 1 - s.learning_rate * s.l2)
    decay[-1] = 1.0
    w = previous = number.array(np.zeros((x.shape[1], 1)))
    await mpc.barrier()
    seconds, cpu = [], []
    for _ in range(s.iterations):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        v = w + (w - previous) * s.momentum
        t = x @ (v * stretch)
        error = t * (t * t * np.sign(c3) + c1 / stretch) + (c0 - y)
        # the rate is applied in two parts, for it is too small for the bits after the point
        w, previous = v * decay - (x.T @ (error * 2**-4)) * (rate * 2**4), w
        await mpc.gather(w)
        seconds.append(time.perf_counter() - wall_start)
        cpu.append(sum(await mpc.transfer(time.process_time() - cpu_start)))
    weights = [float(value) for value in (await mpc.output(w)).ravel()]
    await mpc.shutdown()
    settings = {
        "parties": len(mpc.parties),
        "threshold": mpc.threshold,
        "bits": BITS,
        "fraction_bits": FRACTION_BITS,
        "statistical_bits": mpc.options.sec_param,
    }
    return Run(seconds, cpu, weights, settings)


if __name__ == "__main__":
    found = mpc.run(train(Task.load(Path(sys.argv[1]))))
    if mpc.pid == 0:
        found.save(Path(sys.argv[2]))
