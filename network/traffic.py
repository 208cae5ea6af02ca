"""Traffic foretold: what planned transfers make a party send and receive over a given tree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mhe.codec import message_bytes
from mhe.collective import Transfer
from network.topology import Tree


@dataclass(frozen=True)
class Traffic:
    """Bytes over all edges of one party, and passes over the tree."""

    bytes_sent: int
    bytes_received: int
    rounds: int


def predict(tree: Tree, rank: int, transfers: Iterable[Transfer]) -> Traffic:
    """What these transfers cost the party `rank`, exactly: a reduce goes to the parent, a broadcast to the children; of
    what is gathered or scattered, so many messages do as there are parties behind the edge.
    """
    is_root, members = tree.parent(rank) is None, len(tree.subtree(rank))
    one = (0 if is_root else 1, len(tree.children(rank)))
    each = (0 if is_root else members, members - 1)
    sent = received = rounds = 0
    for transfer in transfers:
        size = message_bytes(transfer.protocol, transfer.n_rows, transfer.n_columns, tree.n_parties)
        above, below = each if transfer.apart else one
        sent += size * (above if transfer.up else below)
        received += size * (below if transfer.up else above)
        rounds += 1
    return Traffic(sent, received, rounds)
