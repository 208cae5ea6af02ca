"""`MPIChannel`: parties as MPI processes. The only file that imports mpi4py, and only once a job runs.

Importing `mpi4py.MPI` starts MPI for the whole process, so it happens inside the functions below, never on
import of this module.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np

from mhe.codec import Frame
from mhe.errors import MHEError
from network.channel import WINDOW, check_peer

if TYPE_CHECKING:
    from mpi4py import MPI

Found = TypeVar("Found")

SHORTEST_SLEEP_SECONDS = 100e-6
LONGEST_SLEEP_SECONDS = 2e-3
SLEEP_FRACTION = 1 / 8
"""A waiting party sleeps this part of the time it has waited so far before it looks again: quick answers are seen
quickly, long waits cost neither a core nor more than this part on top."""

FORWARDING_SECONDS = 0.25
"""What a launcher is given to pass on a last message: it drops what it has not read when the job is aborted."""

_RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def launched_under_mpi(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether an MPI launcher started this process, from environment variables only.

    SLURM_PROCID alone does not count: every batch script has it. Slurm's PMI plugins set PMI_RANK or PMIX_RANK.
    """
    return any(name in environment for name in _RANK_VARIABLES)


class MPIChannel:
    """This process's connections to the others of the job; implements `network.channel.Channel`.

    Waiting parties poll with short sleeps, because MPI's own blocking calls burn a whole core. To be used by one
    thread. Creating it is collective: every process of the job must do so at the same point.
    """

    def __init__(self, comm: MPI.Intracomm | None = None) -> None:
        """comm: the processes that take part, all of the job by default; messages never mix with others on it."""
        from mpi4py import MPI

        self._bytes = MPI.BYTE
        self._status = MPI.Status()
        self._comm = (MPI.COMM_WORLD if comm is None else comm).Dup()
        self.rank = self._comm.Get_rank()
        self.n_parties = self._comm.Get_size()
        self._under_way: dict[int, deque[tuple[MPI.Request, Frame]]] = {}

    def send(self, dest: int, frame: Frame) -> None:
        check_peer(dest, self.rank, self.n_parties)
        queue = self._under_way.setdefault(dest, deque())
        self._drain(queue, WINDOW - 1)
        # The frame is kept beside its request: MPI reads it until the request is done.
        queue.append((self._comm.Isend([frame, self._bytes], dest), frame))

    def recv(self, source: int) -> Frame:
        check_peer(source, self.rank, self.n_parties)
        message = _poll(lambda: self._comm.Improbe(source, status=self._status))
        frame = np.empty(self._status.Get_count(self._bytes), dtype=np.uint8)
        _poll(message.Irecv([frame, self._bytes]).Test)
        return frame

    def flush(self) -> None:
        for queue in self._under_way.values():
            self._drain(queue, 0)

    def close(self) -> None:
        """Wait for every party to get here, without burning a core as the end of MPI itself would."""
        self.flush()
        _poll(self._comm.Ibarrier().Test)
        self._comm.Free()

    @staticmethod
    def _drain(queue: deque[tuple[MPI.Request, Frame]], length: int) -> None:
        while len(queue) > length:
            _poll(queue[0][0].Test)
            queue.popleft()


@contextmanager
def mpi_channel() -> Iterator[MPIChannel]:
    """The channel of this process for the length of the block; `aborting` included."""
    with aborting():
        channel = MPIChannel()
        yield channel
        channel.close()


@contextmanager
def aborting() -> Iterator[None]:
    """End the whole job, with this party's message on stderr (a traceback where it is no MHEError), if an exception
    leaves the block.

    Without it the other processes would wait for this one for ever, even where it fails before MPI has started:
    a program reads its configuration inside this block.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            raise
        if isinstance(error, KeyboardInterrupt):
            abort("interrupted")
        abort(f"error: {error}" if isinstance(error, MHEError) else traceback.format_exc())


def abort(message: str) -> NoReturn:
    """Print this party's message to stderr and end all processes of the job with exit code 1."""
    from mpi4py import MPI

    sys.stdout.flush()
    print(f"party {MPI.COMM_WORLD.Get_rank()}: {message}", file=sys.stderr, flush=True)
    time.sleep(FORWARDING_SECONDS)
    MPI.COMM_WORLD.Abort(1)
    os._exit(1)  # Abort comes back where another process of the job was quicker


def sleep_seconds(waited: float) -> float:
    """How long a party sleeps that has waited so long: until it sees a message, half of that passes on average."""
    return min(max(waited * SLEEP_FRACTION, SHORTEST_SLEEP_SECONDS), LONGEST_SLEEP_SECONDS)


def _poll(look: Callable[[], Found | None]) -> Found:
    """The first answer of `look` that is true, asked for again and again.

    Twice each time: MPICH takes in what has arrived after it has looked, so that only the next look finds it.
    """
    start = time.monotonic()
    while not (found := look() or look()):
        time.sleep(sleep_seconds(time.monotonic() - start))
    return found
