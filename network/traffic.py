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
    """What these transfers cost the party `rank`, exactly: a reduce goes to the parent, a broadcast to the children."""
    above = 0 if tree.parent(rank) is None else 1
    below = len(tree.children(rank))
    sent = received = rounds = 0
    for transfer in transfers:
        size = message_bytes(transfer.protocol, transfer.n_rows, transfer.n_columns, tree.n_parties)
        up = transfer.kind == "reduce"
        sent += size * (above if up else below)
        received += size * (below if up else above)
        rounds += 1
    return Traffic(sent, received, rounds)
