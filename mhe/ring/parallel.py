"""Independent pieces of one operation, one after the other or on several threads.

The compiled loops release the interpreter's lock, so that threads pay where a piece takes longer than handing it over:
from about 20 microseconds on. Every piece writes to its own rows; the results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
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
    """A `Run` on so many threads, the caller's among them. Pieces must not use the same object for pieces of their own.

    Raises ParameterError unless threads >= 1; what a piece raises is raised once all have ended.
    """

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ParameterError(f"threads is {threads}; need at least 1")
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "mhe-ring") if threads > 1 else None

    def __call__(self, work: Callable[[T], None], pieces: Iterable[T]) -> None:
        pool = self._pool
        if pool is None:
            in_turn(work, pieces)
            return
        # one iterator for all: taking the next piece of a list is a single step of the interpreter
        shared = iter(list(pieces))
        helpers = [pool.submit(in_turn, work, shared) for _ in range(self.threads - 1)]
        try:
            in_turn(work, shared)
        finally:
            wait(helpers)
        for helper in helpers:
            helper.result()

    def close(self) -> None:
        """End the threads; what comes later is done by the caller alone. Idempotent."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
