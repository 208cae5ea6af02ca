"""What one party sent, received and waited for, by phase of the computation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from mhe.codec import Frame
from mhe.collective import Transfer
from network.channel import Channel

OUTSIDE = "outside"
"""The phase of whatever happens outside of every phase block."""


@dataclass
class Counters:
    """The totals of one phase at one party.

    messages: frames sent. rounds: passes over the tree (allgather 2, all others 1).
    waiting_seconds: the part of wall_seconds spent inside the channel. cpu_seconds: of this party.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    messages: int = 0
    rounds: int = 0
    wall_seconds: float = 0.0
    waiting_seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Pass:
    """One collective operation at one party: what passed (of an allgather, the bytes of the longest blob), and the CPU
    seconds that the party had spent before and after it.
    """

    phase: str
    what: Transfer | int
    before: float
    after: float


class Metrics:
    """Counters by phase of one party. Phases may nest; everything counts for the innermost one only."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, cpu: Callable[[], float] = time.process_time
    ) -> None:
        self._clock, self._cpu = clock, cpu
        self._phases: dict[str, Counters] = {OUTSIDE: Counters()}
        self._stack = [OUTSIDE]
        self._since = clock(), cpu()

    @property
    def current(self) -> Counters:
        """The counters of the innermost phase."""
        return self._phases[self.phase_name]

    @property
    def phase_name(self) -> str:
        """Of the innermost phase."""
        return self._stack[-1]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside the block under this name."""
        self._settle()
        self._phases.setdefault(name, Counters())
        self._stack.append(name)
        try:
            yield
        finally:
            self._settle()
            self._stack.pop()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside the block as waiting."""
        start = self._clock()
        try:
            yield
        finally:
            self.current.waiting_seconds += self._clock() - start

    def snapshot(self) -> dict[str, dict[str, float]]:
        """The fields of `Counters` by phase, up to now, as plain numbers."""
        self._settle()
        return {name: asdict(counters) for name, counters in self._phases.items()}

    def _settle(self) -> None:
        now = self._clock(), self._cpu()
        self.current.wall_seconds += now[0] - self._since[0]
        self.current.cpu_seconds += now[1] - self._since[1]
        self._since = now


class MeteredChannel:
    """A channel that counts what passes through another one."""

    def __init__(self, channel: Channel, metrics: Metrics) -> None:
        self._channel = channel
        self._metrics = metrics

    @property
    def rank(self) -> int:
        return self._channel.rank

    @property
    def n_parties(self) -> int:
        return self._channel.n_parties

    def send(self, dest: int, frame: Frame) -> None:
        with self._metrics.waiting():
            self._channel.send(dest, frame)
        self._metrics.current.messages += 1
        self._metrics.current.bytes_sent += len(frame)

    def recv(self, source: int) -> Frame:
        with self._metrics.waiting():
            frame = self._channel.recv(source)
        self._metrics.current.bytes_received += len(frame)
        return frame

    def flush(self) -> None:
        with self._metrics.waiting():
            self._channel.flush()
