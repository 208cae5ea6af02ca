"""All parties as threads of one process, for tests and simulations: the same program, tree and wire format."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock, Thread
from typing import TypeVar

from mhe.errors import NetworkError
from network.channel import Loopback, Tap
from network.collective import TreeCollective

Result = TypeVar("Result")


def run_parties(
    n_parties: int,
    program: Callable[[TreeCollective], Result],
    *,
    arity: int = 2,
    root: int = 0,
    timeout_seconds: float = 120.0,
    tap: Tap | None = None,
) -> list[Result]:
    """Run `program(collective)` once per party, all at once; the results by rank.

    tap: called with (source, dest, frame) for every frame sent, one call at a time.
    Raises the first exception of any party, with its rank in a note (`__notes__`); the other parties get a
    NetworkError at their next collective call. Raises NetworkError if a party is not done in time.
    """
    hub = Loopback(n_parties, tap)
    collectives = [TreeCollective(hub.channel(rank), arity=arity, root=root) for rank in range(n_parties)]
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    lock = Lock()

    def party(collective: TreeCollective) -> None:
        try:
            results[collective.rank] = program(collective)
            hub.finish(collective.rank)
        except BaseException as error:
            with lock:
                errors.append(error)
                if len(errors) == 1:
                    error.__dict__.setdefault("__notes__", []).append(f"raised by party {collective.rank}")
                    hub.fail(f"party {collective.rank} failed: {type(error).__name__}: {error}")

    threads = [Thread(target=party, args=[c], name=f"party-{c.rank}", daemon=True) for c in collectives]
    deadline = time.monotonic() + timeout_seconds
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    finally:
        late = [rank for rank, thread in enumerate(threads) if thread.is_alive()]
        if late:
            hub.fail(f"parties {late} were stopped")
    if errors:
        raise errors[0]
    if late:
        raise NetworkError(f"parties {late} did not end within {timeout_seconds} s; they may be out of step")
    return [results[rank] for rank in range(n_parties)]
