"""scikit-learn in the clear, all rows in one place: LogisticRegression (lbfgs) to its optimum, with the exact sigmoid.

It has no solver with the task's steps; the time is that of a whole fit over its iterations.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from benchmarks.peers.task import Run, Task

FITS = 20
"""A fit takes milliseconds."""


def main(task_file: Path, out: Path) -> None:
    task = Task.load(task_file)
    seconds, cpu = [], []
    for _ in range(FITS):
        model = LogisticRegression(C=1 / (task.settings.l2 * len(task.y)))
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        model.fit(task.x, task.y)
        iterations = int(model.n_iter_[0])
        seconds.append((time.perf_counter() - wall_start) / iterations)
        cpu.append((time.process_time() - cpu_start) / iterations)
    weights = np.append(model.coef_[0], model.intercept_).tolist()
    Run(seconds, cpu, weights, {"solver": "lbfgs", "iterations_to_optimum": iterations}).save(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
