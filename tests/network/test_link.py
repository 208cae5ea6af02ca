"""The link model against sums by hand, and its laws."""

from __future__ import annotations

import pytest

from mhe import codec
from mhe.collective import Transfer
from mhe.errors import ConfigError
from network.channel import WINDOW
from network.link import Link
from network.topology import Tree

LINK = Link(1e9, 0.02)
SMALL = Transfer("reduce", "sum", 1, 16)


@pytest.mark.parametrize("text", ["1gbps/20ms", "100mbps/0.5ms", "2.5gbps/0ms", "64kbps/300ms"])
def test_words_of_a_link_come_back(text):
    assert str(Link.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "rate", "latency"),
    [("100 Mbps / 0.5ms", 1e8, 5e-4), ("56kbps/1s", 5.6e4, 1.0), ("10gbps/30us", 1e10, 3e-5)],
)
def test_other_units_are_read(text, rate, latency):
    link = Link.parse(text)
    assert (link.rate, link.latency_seconds) == pytest.approx((rate, latency))


@pytest.mark.parametrize("text", ["", "1gbps", "20ms", "1gb/20ms", "-1gbps/20ms", "0gbps/1ms", "1gbps/20h"])
def test_other_words_are_refused(text):
    with pytest.raises(ConfigError, match="link"):
        Link.parse(text)


def test_one_small_message_over_one_edge_takes_its_delay_and_its_bits():
    n_bytes = codec.message_bytes("sum", 1, 16, 2)
    assert LINK.transfer_seconds(Tree(2), SMALL) == pytest.approx(0.02 + 8 * n_bytes / 1e9)


@pytest.mark.parametrize("kind", ["reduce", "broadcast"])
def test_a_small_message_pays_every_level_of_the_tree(kind):
    transfer = Transfer(kind, "sum", 1, 16)
    for n in (2, 7, 15, 160):
        assert LINK.transfer_seconds(Tree(n), transfer) == pytest.approx(0.02 * Tree(n).depth, rel=1e-2)


@pytest.mark.parametrize("kind", ["reduce", "broadcast"])
def test_a_long_message_pays_the_busiest_line_and_the_tree_only_once(kind):
    # so slow a line that neither delay nor window matters
    slow, transfer = Link(1e6, 1e-6), Transfer(kind, "sum", 400, 1 << 15)
    n_bytes = codec.message_bytes("sum", 400, 1 << 15, 15)
    assert slow.transfer_seconds(Tree(15), transfer) == pytest.approx(2 * slow.seconds(n_bytes), rel=0.02 * 3)
    assert slow.transfer_seconds(Tree(15, arity=14), transfer) == pytest.approx(14 * slow.seconds(n_bytes), rel=0.02)


@pytest.mark.parametrize("kind", ["gather", "scatter"])
def test_what_is_every_partys_own_all_passes_the_line_of_the_root(kind):
    slow, transfer = Link(1e6, 1e-6), Transfer(kind, "sum", 400, 1 << 15)
    one = slow.seconds(codec.message_bytes("sum", 400, 1 << 15, 15))
    for arity in (2, 14):
        assert slow.transfer_seconds(Tree(15, arity), transfer) == pytest.approx(14 * one, rel=0.02)


@pytest.mark.parametrize("kind", ["gather", "scatter"])
def test_a_distant_link_waits_for_answers_of_the_fullest_edge(kind):
    far, transfer = Link(1e12, 1.0), Transfer(kind, "sum", 400, 1 << 15)
    chunks = codec.chunk_count(400, 1 << 15)
    for arity, behind in ((2, 7), (14, 1)):
        expected = 2 * ((chunks + 1) * behind - 2) / WINDOW + Tree(15, arity).depth
        assert far.transfer_seconds(Tree(15, arity), transfer) == pytest.approx(expected, rel=0.01)


def test_nobody_waits_for_a_party_that_is_not_below_it():
    clocks = LINK.after(Tree(7), SMALL, [0, 0, 0, 0, 0, 0, 5.0])
    assert clocks[0] > 5 and clocks[2] > 5
    assert max(clocks[1], clocks[3], clocks[4], clocks[5]) < 0.1


def test_everybody_waits_for_the_root_of_a_broadcast():
    clocks = LINK.after(Tree(5), Transfer("broadcast", "sum", 1, 16), [3.0, 0, 0, 9.0, 0])
    assert clocks[0] == pytest.approx(3) and clocks[3] == pytest.approx(9)
    assert clocks[4] == pytest.approx(3.04, rel=1e-3)


def test_an_allgather_goes_up_and_down():
    assert max(LINK.after_allgather(Tree(15), 8, [0.0] * 15)) == pytest.approx(2 * 3 * 0.02, rel=1e-2)


def test_one_party_needs_no_link():
    for kind in ("reduce", "scatter"):
        assert LINK.transfer_seconds(Tree(1), Transfer(kind, "sum", 400, 1 << 15)) == 0
    assert LINK.after_allgather(Tree(1), 8, [1.0]) == [1.0]
