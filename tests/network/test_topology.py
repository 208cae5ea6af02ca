"""Every tree is one spanning tree of the depth its arity allows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhe.errors import ConfigError
from network.topology import Tree, sensible_arities


@st.composite
def trees(draw):
    n_parties = draw(st.integers(1, 40))
    return Tree(n_parties, draw(st.integers(1, 5)), draw(st.integers(0, n_parties - 1)))


@settings(max_examples=150, deadline=None)
@given(trees())
def test_children_and_parents_agree_and_span_all(tree):
    ranks = range(tree.n_parties)
    assert [rank for rank in ranks if tree.parent(rank) is None] == [tree.root]
    assert sorted([tree.root, *(child for rank in ranks for child in tree.children(rank))]) == list(ranks)
    for rank in ranks:
        assert len(tree.children(rank)) <= tree.arity
        assert all(tree.parent(child) == rank for child in tree.children(rank))
        below = [tree.subtree(child) for child in tree.children(rank)]
        assert tree.subtree(rank) == sum(below, (rank,))
    assert sorted(tree.subtree(tree.root)) == list(ranks)


@settings(max_examples=150, deadline=None)
@given(trees())
def test_depth_is_the_longest_way_up_and_as_small_as_possible(tree):
    def level(rank):
        parent = tree.parent(rank)
        return 0 if parent is None else 1 + level(parent)

    assert tree.depth == max(map(level, range(tree.n_parties)))
    one_level_lower_holds = sum(tree.arity**level for level in range(tree.depth))
    assert one_level_lower_holds < tree.n_parties


@pytest.mark.parametrize("arguments", [(0, 2, 0), (3, 0, 0), (3, 2, 3), (3, 2, -1)])
def test_impossible_tree_is_refused(arguments):
    with pytest.raises(ConfigError, match="need"):
        Tree(*arguments)


@pytest.mark.parametrize("rank", [-1, 3])
def test_party_outside_the_tree_is_refused(rank):
    for ask in (Tree(3).parent, Tree(3).children, Tree(3).subtree):
        with pytest.raises(ConfigError, match="not in a tree of 3"):
            ask(rank)


@pytest.mark.parametrize("n_parties", [1, 2, 3, 10, 160])
def test_every_depth_has_a_sensible_arity(n_parties):
    found = sensible_arities(n_parties)
    depths = {Tree(n_parties, arity).depth for arity in range(1, n_parties + 1)}
    assert {Tree(n_parties, arity).depth for arity in found} == depths
    assert found == tuple(sorted(set(found)))
    assert len(found) < 13
