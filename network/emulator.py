"""`EmulatedNetwork`: parties of one process whose messages take the time of a `Link`, each from one party to one other.

Independent of what `network.link` adds up in closed form: every frame waits for its sender's line and its receiver's,
and the thread that takes it sleeps until it is there. For tests of that model on small cases.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from mhe.codec import Frame
from network.channel import WINDOW, Loopback
from network.link import Link


@dataclass
class _Line:
    """arrivals: of the frames under way. answers: when the sender hears that a frame was taken."""

    arrivals: deque[float] = field(default_factory=deque)
    answers: deque[float] = field(default_factory=deque)
    sent: int = 0


class EmulatedNetwork(Loopback):
    """A `Loopback` behind links: frames between two parties share the lines of both with all that they exchange."""

    def __init__(self, n_parties: int, link: Link) -> None:
        super().__init__(n_parties)
        self._link = link
        self._outgoing = [0.0] * n_parties
        self._incoming = [0.0] * n_parties
        self._lines: dict[tuple[int, int], _Line] = {}

    def put(self, source: int, dest: int, frame: Frame) -> None:
        line = self._line(source, dest)
        if line.sent >= WINDOW:
            self._wait(self._box(source, dest), lambda: bool(line.answers) or dest in self._finished)
            _sleep_until(line.answers.popleft() if line.answers else 0.0)
        line.sent += 1
        seconds = self._link.seconds(len(frame))
        with self._lock:
            start = max(time.monotonic(), self._outgoing[source])
            self._outgoing[source] = start + seconds
            # the first bit may have to wait for the receiver's line
            arrival = max(start + self._link.latency_seconds, self._incoming[dest]) + seconds
            self._incoming[dest] = arrival
            line.arrivals.append(arrival)
        super().put(source, dest, frame)

    def take(self, source: int, dest: int) -> Frame:
        frame, line = super().take(source, dest), self._line(source, dest)
        _sleep_until(line.arrivals.popleft())
        box = self._box(source, dest)
        with box.changed:
            line.answers.append(time.monotonic() + self._link.latency_seconds)
            box.changed.notify_all()
        return frame

    def _line(self, source: int, dest: int) -> _Line:
        with self._lock:
            return self._lines.setdefault((source, dest), _Line())


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
