"""Every rank: sum a 20 MB share up the tree, send the total down, gather a share of everybody's and scatter them, check
it all, report times, traffic and memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from mhe.share import Share, check_complete
from network.collective import TreeCollective
from network.mpi import mpi_channel

MODULUS = (1 << 60) - 93
SHAPE = (160, 1 << 14)  # 20 MB

# The first use compiles or loads kernels: not what is to be measured.
WARM_UP = Share("warm-up", b"", frozenset(), (MODULUS,), np.zeros((1, 4), np.uint64))


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


PATTERN = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint64).reshape(SHAPE) * np.uint64(0x9E3779B1)


def rows_of(rank: int) -> np.ndarray:
    """A different one per rank, which wraps around the modulus after the first entries."""
    return (PATTERN + np.uint64(MODULUS - 1000 + rank)) % np.uint64(MODULUS)


def rows_of_all(n_parties: int) -> np.ndarray:
    shift = sum(MODULUS - 1000 + rank for rank in range(n_parties)) % MODULUS
    return (PATTERN * np.uint64(n_parties) + np.uint64(shift)) % np.uint64(MODULUS)


with mpi_channel() as channel:
    collective = TreeCollective(channel, arity=2, root=channel.n_parties - 1)
    rank, n_parties = collective.rank, collective.n_parties
    collective.bind(bytes(range(16)))
    share = Share("sum", b"run", frozenset({rank}), (MODULUS,) * SHAPE[0], rows_of(rank))
    before_all = share.rows[:24].copy()
    expected = rows_of_all(n_parties)
    collective.broadcast(collective.reduce(WARM_UP))
    ranks = collective.allgather(bytes([rank]))

    before, start = peak_bytes(), time.perf_counter()
    with collective.phase("reduce"):
        total = collective.reduce(share)
    reduced, peak = time.perf_counter(), peak_bytes()
    with collective.phase("broadcast"):
        total = collective.broadcast(total)
    done = time.perf_counter()
    with collective.phase("gather"):
        gathered = collective.gather(Share("own", b"run", frozenset({rank}), (MODULUS,) * 24, share.rows[:24]))
    with collective.phase("scatter"):
        own = collective.scatter(gathered)

    check_complete(total, "sum", b"run", n_parties)
    report = {
        "correct": bool(np.array_equal(total.rows, expected)) and np.array_equal(share.rows[:24], before_all),
        "own": bool(np.array_equal(own.rows, before_all)) and own.contributors == {rank},
        "ranks": list(b"".join(ranks)),
        "is_root": collective.is_root,
        "reduce_seconds": reduced - start,
        "broadcast_seconds": done - reduced,
        "reduce_extra_bytes": peak - before,
        "metrics": collective.metrics.snapshot(),
    }
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(report, default=bool))
