"""`Collective`: what the cryptography needs from the other parties, and nothing about how it gets there.

A program is written once, from the view of one party, and every party runs it (single program, multiple
data). `network.collective.TreeCollective` carries it over a tree of processes; `network.local.run_parties`
runs all parties as threads of one process, for tests and simulations.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from mhe.share import Share

T = TypeVar("T")


@dataclass(frozen=True)
class Transfer:
    """One pass over the tree, as a plan foresees it: (n_rows, n_columns) residues, of all or of each party."""

    kind: Literal["reduce", "broadcast", "gather", "scatter"]
    protocol: str
    n_rows: int
    n_columns: int

    @property
    def up(self) -> bool:
        """Towards the root."""
        return self.kind in ("reduce", "gather")

    @property
    def apart(self) -> bool:
        """Whether an edge carries a share of every party behind it, and not one for all."""
        return self.kind in ("gather", "scatter")


class Collective(Protocol):
    """One party's end of the collective operations. Every party must make the same calls in the same order."""

    @property
    def rank(self) -> int:
        """This party's number, 0 .. n_parties-1."""

    @property
    def n_parties(self) -> int:
        """How many parties there are."""

    @property
    def is_root(self) -> bool:
        """Whether this party is the root of the tree."""

    def reduce(self, share: Share) -> Share | None:
        """Aggregate one share of every party up the tree: the total at the root, None elsewhere."""

    def broadcast(self, share: Share | None) -> Share:
        """Send the root's message down the tree; the others pass None. Everybody gets it."""

    def gather(self, share: Share) -> list[Share] | None:
        """One share of every party, all of one instance and shape: at the root, by rank; None elsewhere."""

    def scatter(self, shares: Sequence[Share] | None) -> Share:
        """Send each party its share of the root's, by rank and of one shape; the others pass None."""

    def allgather(self, blob: bytes) -> list[bytes]:
        """Every party's small blob, indexed by rank, at every party (one pass up, one pass down)."""

    def once(self, name: Hashable, work: Callable[[], T]) -> T:
        """What `work` makes of public material, alike at every party: parties that share a process may share it, and
        nobody may write to it.

        name: the same at every party, and used once.
        """

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Count bytes, messages, rounds and seconds inside the block under this name."""
