"""`Channel`: frames from one party to another, in order; and `Loopback`, all parties inside one process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition, Lock
from typing import Protocol

from mhe.codec import Frame
from mhe.errors import NetworkError
from network.host import Host, OwnProcess

WINDOW = 4
"""Frames under way from one party to another before `send` waits: bounds the memory of a fast sender."""

Tap = Callable[[int, int, bytes], None]
"""Called with (source, dest, frame) for every frame sent."""


class Channel(Protocol):
    """One party's connections to the others. Frames between two parties arrive in the order they were sent."""

    @property
    def rank(self) -> int:
        """This party's number, 0 .. n_parties-1."""

    @property
    def n_parties(self) -> int:
        """How many parties there are."""

    def send(self, dest: int, frame: Frame) -> None:
        """Hand over a frame, never to be written to again; waits while WINDOW earlier ones are not taken.

        Raises NetworkError if dest is no other party, or if a party is gone.
        """

    def recv(self, source: int) -> Frame:
        """The next frame of that party, not to be written to; waits for it. Raises NetworkError like send."""

    def flush(self) -> None:
        """Wait until everything sent needs no more help from this party to arrive."""


def check_peer(peer: int, rank: int, n_parties: int) -> None:
    """Raise NetworkError unless `peer` is another party."""
    if not 0 <= peer < n_parties or peer == rank:
        raise NetworkError(
            f"party {rank} cannot exchange messages with party {peer}; need another of 0..{n_parties - 1}"
        )


class Loopback:
    """Connects the parties of one process, each in a thread of its own.

    tap: sees every frame, one at a time, in the thread of its sender. host: lets others work while a party waits.
    """

    def __init__(self, n_parties: int, tap: Tap | None = None, host: Host | None = None) -> None:
        self.n_parties = n_parties
        self._tap = tap
        self._host = OwnProcess() if host is None else host
        self._lock = Lock()
        self._boxes: dict[tuple[int, int], _Mailbox] = {}
        self._finished: set[int] = set()
        self._failure: str | None = None

    def channel(self, rank: int) -> Channel:
        """The end of this party."""
        return _LoopbackChannel(self, rank)

    def fail(self, reason: str) -> None:
        """Make every send and recv, also those now waiting, raise NetworkError with this reason."""
        self._failure = reason
        self._wake()

    def finish(self, rank: int) -> None:
        """This party will send nothing more: whoever waits for it gets a NetworkError."""
        self._finished.add(rank)
        self._wake()

    def put(self, source: int, dest: int, frame: Frame) -> None:
        """Append a frame to the box from source to dest."""
        if self._tap is not None:
            with self._lock:
                self._tap(source, dest, frame.tobytes())
        box = self._box(source, dest)
        self._wait(box, lambda: len(box.frames) < WINDOW or dest in self._finished)
        with box.changed:
            self._check_alive(dest)
            box.frames.append(frame)
            box.changed.notify_all()

    def take(self, source: int, dest: int) -> Frame:
        """Remove the oldest frame from the box from source to dest."""
        box = self._box(source, dest)
        self._wait(box, lambda: bool(box.frames) or source in self._finished)
        with box.changed:
            if not box.frames:
                self._check_alive(source)
            frame = box.frames.popleft()
            box.changed.notify_all()
            return frame

    def _wait(self, box: _Mailbox, ready: Callable[[], bool]) -> None:
        """Until it is so, or a party failed. One party puts into a box and one takes: what is ready remains so."""

        def over() -> bool:
            return self._failure is not None or ready()

        with box.changed:
            if over():
                return
        # a turn is taken again after the box is released: whoever has one must be able to reach any box
        with self._host.aside(), box.changed:
            box.changed.wait_for(over)

    def _box(self, source: int, dest: int) -> _Mailbox:
        with self._lock:
            return self._boxes.setdefault((source, dest), _Mailbox())

    def _wake(self) -> None:
        with self._lock:
            boxes = list(self._boxes.values())
        for box in boxes:
            with box.changed:
                box.changed.notify_all()

    def _check_alive(self, peer: int) -> None:
        if self._failure:
            raise NetworkError(self._failure)
        if peer in self._finished:
            raise NetworkError(f"party {peer} has ended; every party must make the same collective calls")


@dataclass(frozen=True)
class _Mailbox:
    frames: deque[Frame] = field(default_factory=deque)
    changed: Condition = field(default_factory=Condition)


@dataclass(frozen=True)
class _LoopbackChannel:
    hub: Loopback
    rank: int

    @property
    def n_parties(self) -> int:
        return self.hub.n_parties

    def send(self, dest: int, frame: Frame) -> None:
        check_peer(dest, self.rank, self.n_parties)
        self.hub.put(self.rank, dest, frame)

    def recv(self, source: int) -> Frame:
        check_peer(source, self.rank, self.n_parties)
        return self.hub.take(source, self.rank)

    def flush(self) -> None:
        """Nothing to do: a frame in its box needs no more help."""
