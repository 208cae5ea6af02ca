"""Reduce, broadcast, gather and scatter over a tree of channels.

Shares move in chunks of rows: a party adds the first chunk of every child to its own and passes the sum on while
the last chunks are still below, so a share of any size crosses the tree in little more than the time of one edge,
and a party holds its own share plus a few chunks per child. What is gathered or scattered moves in the same chunks: the
first of every party on an edge, in the order of `Tree.subtree`, then the second of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np

from mhe import codec
from mhe.codec import Frame
from mhe.errors import NetworkError
from mhe.share import Share, aggregate, check_alike, check_mergeable
from network.channel import Channel
from network.topology import Tree

T = TypeVar("T")


class Receive(Protocol):
    """How frames that come down the tree, the same for all, are decoded: by every party for itself, or once."""

    def __call__(self, frames: Iterator[Frame], decode: Callable[[Iterable[Frame]], T]) -> T: ...


def at_each_party(frames: Iterator[Frame], decode: Callable[[Iterable[Frame]], T]) -> T:
    """As they arrive."""
    return decode(frames)


def tree_reduce(channel: Channel, tree: Tree, digest: bytes, share: Share) -> Share | None:
    """The sum of every party's share, at the root; None elsewhere. The input is unchanged.

    Raises ShareError (shares of different instances or shapes, one contributor twice, residues too large),
    CodecError, KeyMismatchError or NetworkError.
    """
    parent, children = tree.parent(channel.rank), tree.children(channel.rank)
    total = share
    heads = [codec.decode_header(channel.recv(child), digest, channel.n_parties) for child in children]
    for head in heads:
        check_mergeable(total, head)
        total = replace(total, contributors=total.contributors | head.contributors)
    if parent is None:
        rows = np.empty_like(share.rows, order="C")
    else:
        channel.send(parent, codec.encode_header(total, digest, channel.n_parties))
    for index, part in enumerate(codec.chunks(*share.rows.shape)):
        chunk = replace(share, moduli=share.moduli[part], rows=share.rows[part])
        for child, head in zip(children, heads, strict=True):
            chunk = aggregate(chunk, codec.decode_chunk(channel.recv(child), index, head))
        if parent is None:
            rows[part] = chunk.rows
        else:
            channel.send(parent, codec.encode_chunk(index, chunk.rows))
    channel.flush()
    return replace(total, rows=rows) if parent is None else None


def tree_broadcast(
    channel: Channel, tree: Tree, digest: bytes, share: Share | None, receive: Receive = at_each_party
) -> Share:
    """The root's share, at every party. Only the root passes one.

    Raises NetworkError if the root passes none or another party passes one, and CodecError, KeyMismatchError or
    ShareError on a message that is not a share under the same parameters.
    """
    _check_root("broadcast", channel.rank, tree, share)
    if share is not None:
        for frame in codec.encode(share, digest, channel.n_parties):
            _send_down(channel, tree, frame)
    else:
        frames = _of_share(_relay(channel, tree), digest, channel.n_parties)
        share = receive(frames, lambda each: codec.decode(each, digest, channel.n_parties))
    channel.flush()
    return share


def tree_gather(channel: Channel, tree: Tree, digest: bytes, share: Share) -> list[Share] | None:
    """Every party's share, by rank, at the root; None elsewhere.

    Raises ShareError (shares of different instances or shapes, residues too large), NetworkError if a child sends
    another party's share than is due, CodecError, KeyMismatchError.
    """
    parent, n_parties = tree.parent(channel.rank), channel.n_parties
    below = _below(tree, channel.rank)
    if parent is not None:
        channel.send(parent, codec.encode_header(share, digest, n_parties))
    gathered = {channel.rank: share}
    for child, member in below:
        frame = channel.recv(child)
        head = codec.decode_header(frame, digest, n_parties)
        if head.contributors != {member}:
            raise NetworkError(
                f"party {child} sent a share of parties {sorted(head.contributors)}; need that of party {member}: "
                "start every party with the same tree"
            )
        check_alike(share, head)
        if parent is None:
            head = replace(head, rows=np.empty_like(share.rows, order="C"))
        else:
            channel.send(parent, frame)
        gathered[member] = head
    for index, part in enumerate(codec.chunks(*share.rows.shape)):
        if parent is not None:
            channel.send(parent, codec.encode_chunk(index, share.rows[part]))
        for child, member in below:
            frame = channel.recv(child)
            if parent is None:
                gathered[member].rows[part] = codec.decode_chunk(frame, index, gathered[member]).rows
            else:
                channel.send(parent, frame)
    channel.flush()
    return [gathered[rank] for rank in range(n_parties)] if parent is None else None


def tree_scatter(channel: Channel, tree: Tree, digest: bytes, shares: Sequence[Share] | None) -> Share:
    """Each party's share of the root's, by rank. Only the root passes them, one for each, of one shape.

    What a share is for is not looked at: whoever gets one knows what it needs. Raises NetworkError and others as
    `tree_broadcast`, and if the root's shares are not as many as the parties, or not of one shape.
    """
    _check_root("scatter", channel.rank, tree, shares)
    if shares is None:
        frames = _of_share(_relay_apart(channel, tree), digest, channel.n_parties)
        share = codec.decode(frames, digest, channel.n_parties)
    else:
        shapes = {each.rows.shape for each in shares}
        if len(shares) != tree.n_parties or len(shapes) > 1:
            raise NetworkError(
                f"scatter: the root passed {len(shares)} shares of shapes {sorted(shapes)}; need one for each of "
                f"{tree.n_parties} parties, and one shape"
            )
        share = shares[channel.rank]
        # made as they leave: all of them at once would take as much memory again
        below = [(child, codec.encode(shares[m], digest, tree.n_parties)) for child, m in _below(tree, channel.rank)]
        for _ in range(1 + codec.chunk_count(*share.rows.shape)):
            for child, frames in below:
                channel.send(child, next(frames))
    channel.flush()
    return share


def _gather_blobs(channel: Channel, tree: Tree, digest: bytes, blob: bytes) -> dict[int, bytes]:
    """The small blobs of this party's whole subtree, by rank: at the root, everybody's.

    Raises NetworkError if a child answers for other parties than its own subtree, CodecError, KeyMismatchError.
    """
    blobs = {channel.rank: blob}
    for child in tree.children(channel.rank):
        below = codec.decode_blobs(channel.recv(child), digest)
        if below.keys() != set(tree.subtree(child)):
            raise NetworkError(
                f"party {child} answered for parties {sorted(below)}; need {sorted(tree.subtree(child))}: "
                "start every party with the same tree"
            )
        blobs |= below
    parent = tree.parent(channel.rank)
    if parent is not None:
        channel.send(parent, codec.encode_blobs(blobs, digest))
    channel.flush()
    return blobs


def tree_allgather(
    channel: Channel, tree: Tree, digest: bytes, blob: bytes, receive: Receive = at_each_party
) -> list[bytes]:
    """Every party's small blob, indexed by rank, at every party. Raises like `_gather_blobs`."""
    blobs = _gather_blobs(channel, tree, digest, blob)
    if channel.rank == tree.root:
        _send_down(channel, tree, codec.encode_blobs(blobs, digest))
    else:
        # public key shares of many parties are gigabytes: those of a subtree are not kept while all are on their way
        blobs.clear()
        frames = islice(_relay(channel, tree), 1)
        blobs = receive(frames, lambda each: codec.decode_blobs(next(iter(each)), digest))
    channel.flush()
    if blobs.keys() != set(range(tree.n_parties)):
        raise NetworkError(f"blobs of parties {sorted(blobs)} arrived; need one of each of {tree.n_parties}")
    return [blobs[rank] for rank in range(tree.n_parties)]


def _check_root(name: str, rank: int, tree: Tree, passed: object) -> None:
    """Raise NetworkError unless the root, and only it, passed something."""
    if (passed is not None) != (rank == tree.root):
        raise NetworkError(
            f"{name}: party {rank} passed {'none' if passed is None else 'a share'}; "
            f"the root, party {tree.root}, and only it, must pass one"
        )


def _below(tree: Tree, rank: int) -> list[tuple[int, int]]:
    """(a child, a party of its subtree), of all below this party."""
    return [(child, member) for child in tree.children(rank) for member in tree.subtree(child)]


def _of_share(frames: Iterator[Frame], digest: bytes, n_parties: int) -> Iterator[Frame]:
    """So many of them as make one share."""
    header = next(frames)
    yield header
    shape = codec.decode_header(header, digest, n_parties).rows.shape
    yield from islice(frames, codec.chunk_count(*shape))


def _relay(channel: Channel, tree: Tree) -> Iterator[Frame]:
    """What comes down from the parent, passed on to the children as it is."""
    parent = tree.parent(channel.rank)
    while parent is not None:
        frame = channel.recv(parent)
        _send_down(channel, tree, frame)
        yield frame


def _relay_apart(channel: Channel, tree: Tree) -> Iterator[Frame]:
    """What comes down from the parent for this party, once what came for those below it is passed on."""
    parent, below = tree.parent(channel.rank), _below(tree, channel.rank)
    while parent is not None:
        frame = channel.recv(parent)
        for child, _ in below:
            channel.send(child, channel.recv(parent))
        yield frame


def _send_down(channel: Channel, tree: Tree, frame: Frame) -> None:
    for child in tree.children(channel.rank):
        channel.send(child, frame)
