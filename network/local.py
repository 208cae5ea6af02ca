"""All parties as threads of one process, for tests, simulations and benchmarks: the same program, tree, wire format."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from threading import Lock, Thread
from typing import TypeVar

from mhe.errors import NetworkError
from network.channel import Loopback, Tap
from network.collective import TreeCollective
from network.host import CoHost

Result = TypeVar("Result")


def run_parties(
    n_parties: int,
    program: Callable[[TreeCollective], Result],
    *,
    arity: int = 2,
    root: int = 0,
    timeout_seconds: float = 120.0,
    tap: Tap | None = None,
    at_once: int | None = None,
    recorded: bool = False,
    hub: Loopback | None = None,
) -> list[Result]:
    """Run `program(collective)` once per party, all at once; the results by rank.

    tap: called with (source, dest, frame) for every frame sent, one call at a time.
    at_once: so many parties work at the same time, co-hosted (`network.host.CoHost`); without it, all, as if each had a
    process of its own.
    hub: what connects them, instead of a plain one.
    recorded: whether the parties keep a record of their passes over the tree (`TreeCollective.passes`).
    Raises the first exception of any party, with its rank in a note (`__notes__`); the other parties get a
    NetworkError at their next collective call. Raises NetworkError if a party is not done in time.
    """
    host = None if at_once is None else CoHost(n_parties, at_once)
    hub = Loopback(n_parties, tap, host) if hub is None else hub
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    lock = Lock()

    def party(rank: int) -> None:
        try:
            with nullcontext() if host is None else host.working():
                collective = TreeCollective(hub.channel(rank), arity=arity, root=root, host=host, recorded=recorded)
                results[rank] = program(collective)
            hub.finish(rank)
        except BaseException as error:
            with lock:
                errors.append(error)
                if len(errors) == 1:
                    error.__dict__.setdefault("__notes__", []).append(f"raised by party {rank}")
                    hub.fail(f"party {rank} failed: {type(error).__name__}: {error}")

    threads = [Thread(target=party, args=[rank], name=f"party-{rank}", daemon=True) for rank in range(n_parties)]
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
