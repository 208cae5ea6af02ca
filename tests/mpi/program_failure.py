"""One rank fails while the others wait for it: "inside" the job, or "before" it has started MPI."""

from __future__ import annotations

import os
import sys

from mhe.errors import LevelError
from network.collective import TreeCollective
from network.mpi import aborting, mpi_channel

culprit, when = int(sys.argv[2]), sys.argv[3]

with aborting():
    if when == "before" and int(os.environ["PMI_RANK"]) == culprit:
        raise RuntimeError(f"rank {culprit} has trouble before it starts")
    with mpi_channel() as channel:
        collective = TreeCollective(channel)
        collective.allgather(b"all here")
        if collective.rank == culprit:
            raise LevelError(f"rank {culprit} needs 3 levels left, got 1")
        collective.allgather(b"never complete")
