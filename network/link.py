"""`Link`: the time that passes over the tree take where parties are machines of their own, behind lines of known speed.

Every machine sends and receives at the full rate at once, and what it exchanges with several others shares that rate. A
message is on its way for `latency_seconds` (one way) beside the time that its bits take. Shares move in chunks
(`network.reduce`), so that a share crosses the tree in one crossing of its first chunk and the time that the others
take to follow. The arithmetic of the parties on the way is not in it: `clocks` say when each is ready.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from mhe import codec
from mhe.collective import Transfer
from mhe.errors import ConfigError
from network.channel import WINDOW
from network.topology import Tree

_UNITS = {"kbps": 1e3, "mbps": 1e6, "gbps": 1e9}
_DELAYS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_PATTERN = re.compile(r"(\d+\.?\d*)\s*([kmg]bps)\s*/\s*(\d+\.?\d*)\s*(us|ms|s)", re.IGNORECASE)
_MS = 1e-3
_BITS = 8


@dataclass(frozen=True)
class Link:
    """rate: bits per second of a machine's line, each way. latency_seconds: delay of a message from one to another."""

    rate: float
    latency_seconds: float

    def __post_init__(self) -> None:
        if not (self.rate > 0 and self.latency_seconds >= 0):
            raise ConfigError(
                f"a link of {self.rate:g} bit/s and {self.latency_seconds:g} s; need above 0, and 0 or more"
            )

    @classmethod
    def parse(cls, text: str) -> Link:
        """From words such as "1gbps/20ms": rate of a line, delay of a message (one way). Raises ConfigError."""
        found = _PATTERN.fullmatch(text.strip())
        if found is None:
            raise ConfigError(f'the link is {text!r}; need rate and delay, as in "1gbps/20ms" or "100mbps/5ms"')
        rate, unit, delay, of_delay = found.groups()
        return cls(float(rate) * _UNITS[unit.lower()], float(delay) * _DELAYS[of_delay.lower()])

    def __str__(self) -> str:
        unit = next((u for u in ("gbps", "mbps") if self.rate >= _UNITS[u]), "kbps")
        return f"{self.rate / _UNITS[unit]:g}{unit}/{self.latency_seconds / _MS:g}ms"

    def seconds(self, n_bytes: float) -> float:
        """How long so many bytes take to leave a machine."""
        return _BITS * n_bytes / self.rate

    def transfer_seconds(self, tree: Tree, transfer: Transfer) -> float:
        """From when all parties are ready until the last one that waits for it has it: the root, or everybody."""
        return _transfer_seconds(self, tree, transfer)

    def after(self, tree: Tree, transfer: Transfer, clocks: Sequence[float]) -> list[float]:
        """When each party is done with a transfer that it is ready for at clocks[rank] (seconds)."""
        head = codec.header_bytes(transfer.protocol, transfer.n_rows, tree.n_parties)
        total = codec.message_bytes(transfer.protocol, transfer.n_rows, transfer.n_columns, tree.n_parties)
        n_chunks = codec.chunk_count(transfer.n_rows, transfer.n_columns)
        first = head + (total - head) / n_chunks
        return self._passed(tree, transfer.up, clocks, first, n_chunks, apart=transfer.apart)

    def after_allgather(self, tree: Tree, n_bytes: int, clocks: Sequence[float]) -> list[float]:
        """The same of an allgather of blobs of n_bytes each: what a subtree has, up; what all have, down."""
        done = list(clocks)
        for rank in _outwards(tree)[::-1]:
            children = tree.children(rank)
            sizes = [codec.blob_bytes([n_bytes] * len(tree.subtree(child))) for child in children]
            arrived = [done[child] + self.latency_seconds + self.seconds(sum(sizes)) for child in children]
            done[rank] = max([done[rank], *arrived])
        whole = codec.blob_bytes([n_bytes] * tree.n_parties)
        return self._passed(tree, False, done, whole, 1)

    def _passed(
        self, tree: Tree, up: bool, clocks: Sequence[float], first: float, n_chunks: int, *, apart: bool = False
    ) -> list[float]:
        """first: bytes of a share's first chunk, with what goes before it."""
        done = list(clocks)
        for rank in _outwards(tree)[:: -1 if up else 1]:
            children = tree.children(rank)
            crossing = self.latency_seconds + (1 if apart else len(children)) * self.seconds(first)
            if up:
                done[rank] = max([done[rank], *(done[child] + crossing for child in children)])
            else:
                for child in children:
                    done[child] = max(done[child], done[rank] + crossing)
        if tree.n_parties == 1:
            return done
        if apart:
            following = self._following_apart(tree, up, first, n_chunks)
        else:
            widest = max(len(tree.children(rank)) for rank in range(tree.n_parties))
            following = (n_chunks - 1) * max(widest * self.seconds(first), self._answer(first))
        return [clock + following for clock in done]

    def _following_apart(self, tree: Tree, up: bool, n_bytes: float, n_chunks: int) -> float:
        """Seconds from the first to the last of n_chunks of so many bytes of every party, each with a header: at the
        root's line, which all of them pass, or at its fullest edge. On the way up those from below arrive while the
        root takes in those of parties above them.
        """
        ahead = tree.depth if up else 1
        longest = max(len(tree.subtree(child)) for child in tree.children(tree.root))
        on_line = ((tree.n_parties - 1) * n_chunks - ahead) * self.seconds(n_bytes)
        return max(on_line, (longest * (n_chunks + 1) - 2) * self._answer(n_bytes))

    def _answer(self, n_bytes: float) -> float:
        """Seconds between chunks of so many bytes where WINDOW of them wait for every answer."""
        return (2 * self.latency_seconds + self.seconds(n_bytes)) / WINDOW


@lru_cache(maxsize=1 << 14)
def _transfer_seconds(link: Link, tree: Tree, transfer: Transfer) -> float:
    """Kept, for plans that are compared have most of their transfers in common."""
    clocks = link.after(tree, transfer, [0.0] * tree.n_parties)
    return clocks[tree.root] if transfer.up else max(clocks)


def _outwards(tree: Tree) -> list[int]:
    """All ranks, every parent before its children."""
    order = [tree.root]
    for rank in order:
        order += tree.children(rank)
    return order
