"""How long a pass over the tree takes on a stated link."""

from __future__ import annotations

import pytest

from mhe.codec import CHUNK_BYTES, message_bytes
from mhe.collective import Transfer
from mhe.errors import ConfigError
from network.link import Link
from network.topology import Tree


@pytest.mark.parametrize(
    ("text", "rate", "latency"),
    [
        ("1gbps/20ms", 1e9, 0.02),
        ("100 Mbps / 0.5ms", 1e8, 5e-4),
        ("56kbps/1s", 5.6e4, 1.0),
        ("10gbps/30us", 1e10, 3e-5),
    ],
)
def test_a_link_is_read(text, rate, latency):
    assert Link.parse(text) == Link(pytest.approx(rate), pytest.approx(latency))


@pytest.mark.parametrize("text", ["", "1gbps", "1/20ms", "0gbps/1ms", "1gbps/20", "-1gbps/2ms", "fast/now"])
def test_what_is_no_link_is_refused(text):
    with pytest.raises(ConfigError, match=r"need RATE/LATENCY, for example 1gbps/20ms"):
        Link.parse(text)


def test_small_messages_take_a_latency_for_each_hop():
    tree, transfer = Tree(7), Transfer("reduce", "sum", 1, 16)
    assert Link(1e12, 0.02).seconds(tree, transfer) == pytest.approx(tree.depth * 0.02, rel=1e-3)
    assert Link(1e9, 0.02).seconds(Tree(1), transfer) == 0.0


def test_large_messages_are_carried_in_chunks_that_do_not_wait():
    """The root's link carries every child's message; a deeper tree adds one chunk, not one message."""
    transfer, link = Transfer("broadcast", "sum", 64, 1 << 15), Link(1e9, 0.0)
    size = message_bytes("sum", 64, 1 << 15, 3)
    assert link.seconds(Tree(3, 2), transfer) == pytest.approx(2 * 8 * size / 1e9)
    chain = link.seconds(Tree(3, 1), transfer)
    assert chain == pytest.approx(8 * (size + CHUNK_BYTES) / 1e9)
