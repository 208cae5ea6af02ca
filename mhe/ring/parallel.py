"""Independent pieces of one operation, one after the other or on several threads.

The compiled loops release the interpreter's lock, so that threads pay where a piece takes longer than handing it over:
from about 20 microseconds on. Every piece writes to its own rows; the results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mhe.errors import ParameterError

T = TypeVar("T")

Run = Callable[[Callable[[T], None], Iterable[T]], None]
"""Calls a function on each piece, and returns when all are done."""


def in_turn(work: Callable[[T], None], pieces: Iterable[T]) -> None:
    """One after the other."""
    for piece in pieces:
        work(piece)


class Threads:
    """A `Run` on so many threads, which start at the first use. Do not nest. ParameterError unless threads >= 1."""

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ParameterError(f"threads is {threads}; need at least 1")
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, "mhe-ring") if threads > 1 else None

    def __call__(self, work: Callable[[T], None], pieces: Iterable[T]) -> None:
        if self._pool is None:
            in_turn(work, pieces)
            return
        for done in [self._pool.submit(work, piece) for piece in pieces]:
            done.result()

    def close(self) -> None:
        """End the threads. Idempotent."""
        if self._pool is not None:
            self._pool.shutdown()
