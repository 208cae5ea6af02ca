"""Time where all parties are processes of one machine: of work on its cores, and of passes over the tree."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from mhe import codec
from mhe.collective import Transfer
from network.topology import Tree

Spent = Sequence[tuple[float, int]]
"""(CPU seconds of a party, how many parties spend as much)"""


class Handling(NamedTuple):
    """CPU seconds of one share on its way: packed by who sends it, checked by who gets it, added to another."""

    send: float
    receive: float
    aggregate: float


def shared_seconds(spent: Spent, cores: int) -> float:
    """Wall time until all parties are done that work on `cores` cores at the same time.

    Where n = q cores + r parties cannot be spread evenly, some cores have q + 1 of them in turn, the others q. The
    system moves parties from core to core, but not so that all get the same: this is the time of the one with most to
    do if it is always where there are q + 1, while the others take turns elsewhere. Once they are done it has a core of
    its own, and the other cores have nothing to do. For three equal parties on two cores: 5/3 of one's time, not 3/2.
    """
    longest, total = max(seconds for seconds, _ in spent), sum(seconds * n for seconds, n in spent)
    queue, more = divmod(sum(n for seconds, n in spent if seconds > 0), cores)
    even = max(longest, total / cores)
    if queue == 0 or more == 0:
        return even
    others = (total - longest) / (cores - 1 / (queue + 1))
    return max(even, longest + others * queue / (queue + 1))


def way_seconds(tree: Tree, transfer: Transfer, handling: Handling) -> float:
    """CPU seconds on the longest way of a pass: the first chunk takes all of it, those behind it what the slowest does.

    On the way up a party adds up what its children send, and passes on the sum; on the way down it passes on what it
    got, and checks it then. What is gathered or scattered is passed on as it is: the root has it all to check, or to
    pack.
    """
    n_chunks = codec.chunk_count(transfer.n_rows, transfer.n_columns)
    send, receive, aggregate = (each / n_chunks for each in handling)
    below = _children_on_the_way(tree)
    if not below:
        return 0.0
    if transfer.apart:
        others = tree.n_parties - 1
        first, rest = (send, others * receive) if transfer.up else (others * send, receive)
        return first + rest + (n_chunks - 1) * max(first, rest)
    if not transfer.up:
        return send + len(below) * receive + (n_chunks - 1) * max(send, receive)
    added = [children * (receive + aggregate) for children in below]
    slowest = max(send, added[0], *(each + send for each in added[1:]))
    return len(below) * send + sum(added) + (n_chunks - 1) * slowest


@lru_cache(maxsize=64)
def _children_on_the_way(tree: Tree) -> tuple[int, ...]:
    """Children of the root, of its first child, and so on: a tree fills up from there, so that no way is longer."""
    found, rank = list[int](), tree.root
    while children := tree.children(rank):
        found.append(len(children))
        rank = children[0]
    return tuple(found)
