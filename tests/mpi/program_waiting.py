"""Rank 0 comes late by some seconds: what waiting cost the others, and how long quick answers take."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from network.collective import TreeCollective
from network.mpi import launched_under_mpi, mpi_channel

loaded_early = "mpi4py" in sys.modules
N_QUICK = 50

with mpi_channel() as channel:
    collective = TreeCollective(channel)
    collective.allgather(b"all here")
    busy, start = time.process_time(), time.perf_counter()
    if collective.rank == 0:
        time.sleep(float(sys.argv[2]))
    with collective.phase("late"):
        collective.allgather(b"at last")
    waited, busy = time.perf_counter() - start, time.process_time() - busy
    start = time.perf_counter()
    for _ in range(N_QUICK):
        collective.allgather(b"quick")
    report = {
        "waited_seconds": waited,
        "cpu_seconds": busy,
        "waiting_seconds": collective.metrics.snapshot()["late"]["waiting_seconds"],
        "quick_seconds": (time.perf_counter() - start) / N_QUICK,
        "launched_under_mpi": launched_under_mpi(),
        "loaded_early": loaded_early,
    }
    (Path(sys.argv[1]) / f"{collective.rank}.json").write_text(json.dumps(report))
