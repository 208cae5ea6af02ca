"""What parties have in common with others of their process: by default there are none.

Parties of one process ("co-hosted", to simulate many on one machine) share what is public, and turns at the cores.
What all of them would compute of public material alike is computed once, and charged to each of them as if it had done
it: CPU seconds are those of parties apart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from mhe.codec import Frame

T = TypeVar("T")


class Host(Protocol):
    """What runs a party, as the party sees it."""

    @property
    def parties(self) -> int:
        """How many share the memory of its process."""

    def once(self, name: Hashable, work: Callable[[], T]) -> T:
        """What `work` gives, which is public and the same at every party; nobody may write to it.

        name: all parties of a run use the same names, each of them once.
        """

    def received(self, name: Hashable, frames: Iterator[Frame], decode: Callable[[Iterable[Frame]], T]) -> T:
        """What `decode` makes of the frames, which are the same at every party and all have to be taken; as `once`."""

    def cpu_seconds(self) -> float:
        """What this party, which calls it, has spent so far."""

    def aside(self) -> AbstractContextManager[None]:
        """Around waiting: others may work meanwhile."""


class OwnProcess:
    """The host of a party that has a process of its own."""

    parties = 1

    def once(self, name: Hashable, work: Callable[[], T]) -> T:
        return work()

    def received(self, name: Hashable, frames: Iterator[Frame], decode: Callable[[Iterable[Frame]], T]) -> T:
        return decode(frames)

    def cpu_seconds(self) -> float:
        return time.process_time()

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: bool = False
    value: Any = None
    seconds: float = 0.0
    taken: int = 0


class CoHost:
    """The host of n_parties parties, each a thread of this process that does all of its work itself.

    at_once: how many work at the same time, one for every core. More would take turns in the middle of their work, and
    need the memory of all.
    """

    def __init__(self, n_parties: int, at_once: int) -> None:
        self.parties = n_parties
        self._turns = threading.Semaphore(at_once)
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}
        self._charged = threading.local()

    def once(self, name: Hashable, work: Callable[[], T]) -> T:
        with self._lock:
            entry = self._entries.setdefault(name, _Entry())
        with entry.lock:
            if entry.done:
                self._charged.seconds = self._charges() + entry.seconds
            else:
                start = self.cpu_seconds()
                entry.value = work()
                entry.seconds, entry.done = self.cpu_seconds() - start, True
            entry.taken += 1
            value: T = entry.value
        if entry.taken == self.parties:
            with self._lock:
                del self._entries[name]
        return value

    def received(self, name: Hashable, frames: Iterator[Frame], decode: Callable[[Iterable[Frame]], T]) -> T:
        # whoever decodes must not wait for frames meanwhile, for the others wait for it
        taken = list(frames)
        return self.once(name, lambda: decode(taken))

    def cpu_seconds(self) -> float:
        return time.thread_time() + self._charges()

    def _charges(self) -> float:
        return getattr(self._charged, "seconds", 0.0)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around all that a party does."""
        with self._turns:
            yield

    @contextmanager
    def aside(self) -> Iterator[None]:
        self._turns.release()
        try:
            yield
        finally:
            self._turns.acquire()
