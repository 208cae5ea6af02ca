"""`TreeCollective`: the collective operations of `mhe.collective`, carried over a tree of channels."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TypeVar

from mhe.codec import DIGEST_BYTES, Frame
from mhe.collective import Transfer
from mhe.share import Share
from network.channel import Channel
from network.host import Host, OwnProcess
from network.metrics import MeteredChannel, Metrics, Pass
from network.reduce import tree_allgather, tree_broadcast, tree_gather, tree_reduce, tree_scatter
from network.topology import Tree

T = TypeVar("T")


class TreeCollective:
    """One party's end; implements `mhe.collective.Collective`.

    The first allgathers compare configurations, before there are any parameters: until `bind` every message
    carries a digest of zeros. All methods raise NetworkError, CodecError or KeyMismatchError if the parties are
    not in step, and ShareError if their shares do not belong together.

    host: what this party has in common with others of its process. passes: if `recorded`, every pass so far.
    """

    def __init__(
        self, channel: Channel, *, arity: int = 2, root: int = 0, host: Host | None = None, recorded: bool = False
    ) -> None:
        self.tree = Tree(channel.n_parties, arity, root)
        self.host = OwnProcess() if host is None else host
        self.metrics = Metrics(cpu=self.host.cpu_seconds)
        self.passes: list[Pass] | None = [] if recorded else None
        self._channel = MeteredChannel(channel, self.metrics)
        self._digest = bytes(DIGEST_BYTES)
        self._passed = 0

    @property
    def rank(self) -> int:
        return self._channel.rank

    @property
    def n_parties(self) -> int:
        return self._channel.n_parties

    @property
    def is_root(self) -> bool:
        return self.rank == self.tree.root

    def bind(self, digest: bytes) -> None:
        """From now on, messages carry and need this parameters digest. Every party binds at the same point."""
        self._digest = digest

    def rearrange(self, arity: int) -> None:
        """From now on, messages travel over a tree of this arity with the same root. As `bind`."""
        self.tree = replace(self.tree, arity=arity)

    def reduce(self, share: Share) -> Share | None:
        start = self._start(1)
        total = tree_reduce(self._channel, self.tree, self._digest, share)
        self._record(Transfer("reduce", share.protocol, *share.rows.shape), start)
        return total

    def broadcast(self, share: Share | None) -> Share:
        start = self._start(1)
        got = tree_broadcast(self._channel, self.tree, self._digest, share, self._received)
        self._record(Transfer("broadcast", got.protocol, *got.rows.shape), start)
        return got

    def gather(self, share: Share) -> list[Share] | None:
        start = self._start(1)
        shares = tree_gather(self._channel, self.tree, self._digest, share)
        self._record(Transfer("gather", share.protocol, *share.rows.shape), start)
        return shares

    def scatter(self, shares: Sequence[Share] | None) -> Share:
        start = self._start(1)
        got = tree_scatter(self._channel, self.tree, self._digest, shares)
        self._record(Transfer("scatter", got.protocol, *got.rows.shape), start)
        return got

    def allgather(self, blob: bytes) -> list[bytes]:
        start = self._start(2)
        blobs = tree_allgather(self._channel, self.tree, self._digest, blob, self._received)
        self._record(max(map(len, blobs)), start)
        return blobs

    def once(self, name: Hashable, work: Callable[[], T]) -> T:
        return self.host.once(name, work)

    def phase(self, name: str) -> AbstractContextManager[None]:
        return self.metrics.phase(name)

    def _received(self, frames: Iterator[Frame], decode: Callable[[Iterable[Frame]], T]) -> T:
        return self.host.received(("received", self._passed), frames, decode)

    def _start(self, rounds: int) -> float:
        self.metrics.current.rounds += rounds
        self._passed += 1
        return self.host.cpu_seconds()

    def _record(self, what: Transfer | int, start: float) -> None:
        if self.passes is not None:
            self.passes.append(Pass(self.metrics.phase_name, what, start, self.host.cpu_seconds()))
