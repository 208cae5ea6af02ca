"""Slot maps in the clear: what every construction does, what it costs, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from mhe.errors import ParameterError
from mhe.slot_map import RefreshOutput, SlotMap, check_periods

X = np.random.default_rng(0).uniform(-1, 1, 64)


@pytest.mark.parametrize("by", [0, 1, 5, 63, -3])
def test_rotation(by):
    turned = SlotMap.rotation(64, by)
    np.testing.assert_array_equal(turned(X), np.roll(X, -by))
    assert (turned.n_diagonals, turned.levels, turned.growth) == (1, 0, 1.0)


@pytest.mark.parametrize("length", [1, 4, 32])
def test_replication(length):
    copied = SlotMap.replication(64, length)
    one = np.zeros(64)
    one[2 * length % 64 :][:length] = X[:length]
    np.testing.assert_array_equal(copied(one), np.tile(X[:length], 64 // length))
    np.testing.assert_allclose(copied(X), np.tile(X.reshape(-1, length).sum(axis=0), 64 // length), atol=1e-12)
    assert copied.levels == 0
    assert copied.n_diagonals == 2 * np.log2(64 // length)
    assert copied.growth == 64 // length


def test_repeating():
    """Slots say nothing of what is dropped: see test_protocol_refresh_map."""
    raised = SlotMap.repeating(64, 1 << 16)
    np.testing.assert_array_equal(raised(X), 65536 * X)
    assert (raised.n_diagonals, raised.levels, raised.growth) == (1, 0, 65536.0)
    assert SlotMap.repeating(64) == SlotMap.rotation(64, 0)


def test_permutation_and_selection():
    index = np.random.default_rng(1).permutation(64)
    np.testing.assert_array_equal(SlotMap.permutation(index)(X), X[index])
    np.testing.assert_array_equal(SlotMap.permutation([3] * 64)(X), np.full(64, X[3]))
    assert SlotMap.permutation(index).levels == 1
    assert SlotMap.permutation(np.roll(np.arange(64), -5)).levels == 0
    some = np.where(np.arange(64) % 3, index, -1)
    np.testing.assert_array_equal(SlotMap.permutation(some)(X), np.where(some < 0, 0.0, X[index]))


def test_sum_of_rotations():
    summed = SlotMap.sum_of_rotations(64, (0, -5, 66))
    np.testing.assert_allclose(summed(X), X + np.roll(X, 5) + np.roll(X, -2), atol=1e-15)
    assert (summed.n_diagonals, summed.levels, summed.growth) == (3, 0, 3.0)


def test_mean_growth_is_that_of_independent_slots():
    random = np.random.default_rng(2)
    noise = random.normal(size=(4000, 16))
    maps = [
        SlotMap.sum_of_rotations(16, (0, 3)),
        SlotMap.permutation([-1, 1] * 8),
        SlotMap.matrix(random.normal(size=(16, 16))),
    ]
    for slot_map in maps:
        measured = np.sqrt(np.square(slot_map(noise)).mean() / np.square(noise).mean())
        assert slot_map.mean_growth == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize(("stages", "diagonals"), [(1, 15), (2, 7 + 3), (3, 9)])
def test_transposition(stages, diagonals):
    turned = SlotMap.transposition(8, stages)
    np.testing.assert_array_equal(turned(X).reshape(8, 8), X.reshape(8, 8).T)
    assert (turned.n_diagonals, turned.levels, turned.growth) == (diagonals, stages, 1.0)


def test_transposition_of_64_by_64_costs_what_it_says():
    assert [SlotMap.transposition(64, k).n_diagonals for k in (1, 2)] == [127, 30]


def test_matrix_and_its_growth():
    m = np.random.default_rng(2).normal(size=(16, 16))
    mapped = SlotMap.matrix(m)
    np.testing.assert_allclose(mapped(X[:16]), m @ X[:16], atol=1e-12)
    rows = np.random.default_rng(3).choice([-1.0, 1.0], (100, 16))
    assert np.abs(mapped(rows)).max() <= mapped.growth == pytest.approx(np.abs(m).sum(axis=1).max())
    banded = SlotMap.matrix(np.eye(16) * 0.5 + np.roll(np.eye(16), 1, axis=1) * 2)
    assert (banded.factors[0].rotations, banded.levels) == ((0, 1), 1)
    assert SlotMap.matrix(np.eye(16) * 3 - np.roll(np.eye(16), 1, axis=1)).levels == 0


def test_composition_applies_the_first_one_first():
    m = np.random.default_rng(4).normal(size=(64, 64))
    both = SlotMap.rotation(64, 3).then(SlotMap.matrix(m)).then(SlotMap.replication(64, 32))
    np.testing.assert_allclose(both(X), np.tile((m @ np.roll(X, -3)).reshape(2, 32).sum(axis=0), 2), atol=1e-10)
    assert both.levels == 1
    assert both.growth == pytest.approx(2 * np.abs(m).sum(axis=1).max())


def test_maps_are_values():
    index = np.random.default_rng(5).permutation(16)
    same = SlotMap.permutation(index)
    assert same == SlotMap.permutation(index.tolist())
    assert hash(same) == hash(SlotMap.permutation(index))
    others = [SlotMap.rotation(16, 1), SlotMap.rotation(32, 1), SlotMap.rotation(16, 2), same, same.then(same)]
    assert len({m.digest for m in others}) == len(set(others)) == 5
    with pytest.raises(ValueError, match="read-only"):
        same.factors[0].diagonals[0, 0] = 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SlotMap.rotation(12, 1), "a map on 12 slots; need a power of two"),
        (lambda: SlotMap.replication(16, 16), "blocks of 16 slots in 16; need a smaller"),
        (lambda: SlotMap.replication(16, 3), "blocks of 3 slots in 16; need a smaller"),
        (lambda: SlotMap.permutation([0, 1, 2, 4]), "from 0 to 4; need 0 to 3"),
        (lambda: SlotMap.permutation([0.0, 1.0]), "float64 from 0.0 to 1.0; need 0 to 1"),
        (lambda: SlotMap.permutation([[0, 1]]), "a map on 0 slots"),
        (lambda: SlotMap.permutation([0, -2]), "from -2 to 0; need 0 to 1, or -1 for none"),
        (lambda: SlotMap.permutation([-1, -1]), "no index is kept"),
        (lambda: SlotMap.sum_of_rotations(8, (1, 9)), r"rotations by \[1, 9\] of 8 slots; need .* all different"),
        (lambda: SlotMap.sum_of_rotations(8, ()), "need at least one"),
        (lambda: SlotMap.transposition(6), "side is 6"),
        (lambda: SlotMap.transposition(8, 4), "stages is 4; need"),
        (lambda: SlotMap.matrix(np.ones((4, 8))), r"shape \(4, 8\); need a square"),
        (lambda: SlotMap.matrix(np.full((2, 2), np.nan)), "finite"),
        (lambda: SlotMap.matrix(np.zeros((2, 2))), "the matrix is zero"),
        (lambda: SlotMap.rotation(8, 1).then(SlotMap.rotation(16, 1)), "periods 8 and 16; need one"),
        (lambda: SlotMap.rotation(8, 1)(X), r"shape \(64,\); the map is on 8"),
        (lambda: check_periods([RefreshOutput(2)], [8, 8]), "an output of input 2; need one of 2"),
        (lambda: check_periods([RefreshOutput(0, SlotMap.rotation(8, 1))], [16]), "a map on 8 slots for .* period 16"),
    ],
)
def test_mistakes_are_refused(call, message):
    with pytest.raises(ParameterError, match=message):
        call()
