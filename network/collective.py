"""`TreeCollective`: the collective operations of `mhe.collective`, carried over a tree of channels."""

from __future__ import annotations

from contextlib import AbstractContextManager

from mhe.codec import DIGEST_BYTES
from mhe.share import Share
from network.channel import Channel
from network.metrics import MeteredChannel, Metrics
from network.reduce import tree_allgather, tree_broadcast, tree_reduce
from network.topology import Tree


class TreeCollective:
    """One party's end; implements `mhe.collective.Collective`.

    The first allgathers compare configurations, before there are any parameters: until `bind` every message
    carries a digest of zeros. All methods raise NetworkError, CodecError or KeyMismatchError if the parties are
    not in step, and ShareError if their shares do not belong together.
    """

    def __init__(self, channel: Channel, *, arity: int = 2, root: int = 0) -> None:
        self.tree = Tree(channel.n_parties, arity, root)
        self.metrics = Metrics()
        self._channel = MeteredChannel(channel, self.metrics)
        self._digest = bytes(DIGEST_BYTES)

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

    def reduce(self, share: Share) -> Share | None:
        self.metrics.current.rounds += 1
        return tree_reduce(self._channel, self.tree, self._digest, share)

    def broadcast(self, share: Share | None) -> Share:
        self.metrics.current.rounds += 1
        return tree_broadcast(self._channel, self.tree, self._digest, share)

    def allgather(self, blob: bytes) -> list[bytes]:
        self.metrics.current.rounds += 2
        return tree_allgather(self._channel, self.tree, self._digest, blob)

    def phase(self, name: str) -> AbstractContextManager[None]:
        return self.metrics.phase(name)
