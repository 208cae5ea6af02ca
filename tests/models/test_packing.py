"""The shared-diagonal packing: layout invariants, and both products from the diagonals alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhe.errors import KeyMismatchError, ParameterError
from models.cost import DEFAULT_UNITS
from models.linalg import backward, forward, pack, rotate_and_add
from models.packing import BlockLayout, choose_layout, doublings, power_of_two_at_least
from network.topology import Tree
from scripts.goal import Goal
from tests.evaluators import World, parameters_of
from tests.insecure import clear_backend, clear_ciphertext, insecure_test_plan, workload

SHAPES = [(1, 2), (3, 2), (13, 5), (5, 40), (1, 64), (33, 33), (64, 17), (200, 9), (129, 64), (65, 2)]
"""(rows, features) against 64 slots: one row, copies in groups, wide, square, tall, several blocks, the last one nearly
empty.
"""


EXTREMES = ["fewest diagonals", "most diagonals"]


def extreme_layout(rows, features, extreme):
    layout = choose_layout(64, rows, features)
    diagonals = (min if extreme == EXTREMES[0] else max)(layout.possible_diagonals)
    return replace(layout, n_diagonals=diagonals, baby=1 << (diagonals.bit_length() // 2))


LAYOUTS = [
    (rows, features, extreme)
    for rows, features in SHAPES
    for extreme in EXTREMES
    if extreme == EXTREMES[0] or extreme_layout(rows, features, extreme) != extreme_layout(rows, features, EXTREMES[0])
]
"""Where there is a choice of diagonals, both."""


def numpy_forward(layout: BlockLayout, x, w):
    """X w from the diagonals, in S slots: u = spread( sum_g rot( sum_b p[g,b] * rot(w, b), g ) ), masked."""
    slots = np.tile(w, layout.n_slots // layout.features)
    total = np.zeros(layout.n_slots)
    for giant, baby, diagonal in layout.diagonals(x):
        product = np.tile(diagonal, layout.n_slots // layout.period) * np.roll(slots, -baby)
        total += np.roll(product, -giant)
    for step in layout.spread_steps:
        total = total + np.roll(total, -step)
    return total * np.resize(layout.first_copies, layout.n_slots)


def numpy_backward(layout: BlockLayout, x, e):
    """X^T e from the same diagonals: g = fold( sum_b rot( sum_g p[g,b] * rot(e, -g), -b ) ), e in all copies."""
    slots = np.tile(e, layout.n_slots // layout.row_period)
    for step in layout.copy_steps:
        slots = slots + np.roll(slots, -step)
    total = np.zeros(layout.n_slots)
    for giant, baby, diagonal in layout.diagonals(x):
        product = np.tile(diagonal, layout.n_slots // layout.period) * np.roll(slots, giant)
        total += np.roll(product, baby)
    for step in layout.fold_steps:
        total = total + np.roll(total, -step)
    return total


def check_products(layout: BlockLayout, rows: int, features: int, seed: int):
    random = np.random.default_rng(seed)
    x = random.normal(size=(min(rows, layout.rows), features))
    w, e = np.zeros(layout.features), np.zeros(layout.rows)
    w[:features], e[: len(x)] = random.normal(size=features), random.normal(size=len(x))
    u, g = np.zeros(layout.rows), np.zeros(layout.features)
    u[: len(x)], g[:features] = x @ w[:features], x.T @ e[: len(x)]
    tolerance = 1e-12 * max(rows, features)
    np.testing.assert_allclose(
        numpy_forward(layout, x, w), np.resize(layout.placed(u), layout.n_slots), rtol=0, atol=tolerance
    )
    np.testing.assert_allclose(
        numpy_backward(layout, x, layout.placed(e)),
        np.tile(g, layout.n_slots // layout.features),
        rtol=0,
        atol=tolerance,
    )


@st.composite
def layouts(draw):
    """(layout, rows, features) as `choose_layout` makes them, and with any other diagonals and baby steps."""
    n_slots = 1 << draw(st.integers(0, 6))
    rows, features = draw(st.integers(1, 3 * n_slots)), draw(st.integers(1, n_slots))
    layout = choose_layout(n_slots, rows, features, cyclic=draw(st.booleans()))
    if draw(st.booleans()):
        diagonals = draw(st.sampled_from(layout.possible_diagonals))
        baby = 1 << draw(st.integers(0, diagonals.bit_length() - 1))
        layout = replace(layout, n_diagonals=diagonals, baby=baby)
    return layout, rows, features


@settings(max_examples=150, deadline=None)
@given(layouts(), st.integers(0, 2**32))
def test_both_products_come_from_one_set_of_diagonals(case, seed):
    layout, rows, features = case
    check_products(layout, rows, features, seed)


@pytest.mark.parametrize(("rows", "features"), [(1024, 1024), (7, 1024), (2048, 1000), (1, 1024), (2048, 2)])
def test_products_of_up_to_1024_features(rows, features):
    check_products(choose_layout(2048, rows, features), rows, features, seed=1)


@settings(max_examples=200, deadline=None)
@given(layouts())
def test_layout_invariants(case):
    layout, rows, features = case
    for value in (layout.rows, layout.features, layout.baby, layout.n_diagonals, layout.period):
        assert value & (value - 1) == 0
        assert 1 <= value <= layout.n_slots
    assert layout.rows * layout.features == layout.n_diagonals * layout.period
    # nothing is wider or taller than it must be
    assert features <= layout.features < 2 * features
    assert layout.rows == min(power_of_two_at_least(rows), layout.n_slots)
    # every diagonal is one giant step plus one baby step, once
    sums = sorted(g + b for g in layout.giant_steps for b in layout.baby_steps)
    assert sorted(k % layout.n_diagonals for k in sums) == list(range(layout.n_diagonals))
    # spread and fold add up exactly the copies and the groups, and only where there are both are there other sums
    assert 2 ** len(layout.spread_steps) == layout.copies == layout.features // layout.n_diagonals
    assert 2 ** len(layout.fold_steps) == layout.rows // layout.n_diagonals
    assert layout.is_cyclic == (not (layout.spread_steps and layout.fold_steps))
    assert bool(layout.copy_steps) == (layout.first_copies.min() == 0) == (not layout.is_cyclic)


@settings(max_examples=100, deadline=None)
@given(layouts(), st.integers(0, 2**32))
def test_every_cell_lies_once_in_the_diagonals(case, seed):
    layout, rows, features = case
    x = np.random.default_rng(seed).normal(size=(min(rows, layout.rows), features))
    held = np.concatenate([diagonal for _, _, diagonal in layout.diagonals(x)])
    assert len(held) == layout.n_diagonals * layout.period
    assert sorted(held[held != 0]) == sorted(x[x != 0])


@pytest.mark.parametrize(("rows", "features", "extreme"), LAYOUTS)
def test_rotations_are_exactly_the_ones_that_are_used(rows, features, extreme):
    """Forward, spread and backward at every party, fold at the root: nothing is missing, nothing is superfluous."""
    backend = clear_backend(64, noise=False)
    layout = extreme_layout(rows, features, extreme)
    random = np.random.default_rng(rows)
    x, labels = random.normal(size=(rows, features)), random.normal(size=rows)
    blocks = pack(x, labels, layout, keep=False)
    assert len(blocks) == -(-rows // layout.rows)
    w = np.zeros(layout.features)
    w[:features] = random.normal(size=features)

    turned = backend.rotate_hoisted(clear_ciphertext(backend, w), layout.baby_steps)
    products = [forward(backend, block, turned, layout, backend.parameters.scale) for block in blocks]
    u = np.concatenate([layout.taken(backend.export_ciphertext(p).values[0]) for p in products])
    np.testing.assert_allclose(u[:rows], x @ w[:features], atol=1e-11)
    errors = [clear_ciphertext(backend, block.labels) for block in blocks]
    total = backward(backend, blocks, errors, layout, backend.parameters.scale)
    everywhere = {step % 64 for step in layout.rotations()}
    assert backend.used_rotations == everywhere

    folded = rotate_and_add(backend, total, layout.fold_steps, layout.features)
    g = backend.export_ciphertext(folded).values[0]
    np.testing.assert_allclose(g[:features], x.T @ labels, atol=1e-11)
    assert backend.used_rotations == everywhere | set(layout.fold_steps)


@pytest.mark.parametrize(("rows", "features", "extreme"), LAYOUTS)
def test_products_with_the_keys_of_the_layout(rows, features, extreme, evaluator):
    """Both products encrypted, with no other rotation keys. Every cell adds the errors of an operand."""
    layout = extreme_layout(rows, features, extreme)
    p = parameters_of(evaluator, 128, 4)
    world = World.of(evaluator, p, {*layout.rotations(), *layout.fold_steps})
    random = np.random.default_rng(rows)
    x, labels = random.uniform(-1, 1, size=(rows, features)), random.uniform(-1, 1, size=rows)
    blocks = pack(x, labels, layout, keep=False)
    w = np.zeros(layout.features)
    w[:features] = random.uniform(-1, 1, size=features)

    turned = world.backend.rotate_hoisted(world.encrypt(w), layout.baby_steps)
    products = [forward(world.backend, block, turned, layout, p.scale) for block in blocks]
    u = np.concatenate([layout.taken(world.decrypt(product)[: layout.row_period]) for product in products])
    np.testing.assert_allclose(u[:rows], x @ w[:features], rtol=0, atol=(features + 2) * world.bound(2))

    total = backward(world.backend, blocks, [world.encrypt(b.labels) for b in blocks], layout, p.scale)
    folded = world.backend.rescale(rotate_and_add(world.backend, total, layout.fold_steps, layout.features))
    g = world.decrypt(folded)[:features]
    np.testing.assert_allclose(g, x.T @ labels, rtol=0, atol=(rows + 2) * world.bound(2))
    world.backend.close()


@settings(max_examples=200, deadline=None)
@given(layouts())
def test_no_rotation_key_is_made_twice(case):
    """r and r - n_slots are one rotation: a second key for it would be refused by the evaluator."""
    layout, _, _ = case
    steps = [step % layout.n_slots for step in layout.rotations()]
    assert 0 not in steps
    assert len(steps) == len(set(steps))


def test_a_rotation_outside_of_the_layout_has_no_key():
    layout = choose_layout(64, 64, 8)
    backend = clear_backend(64, noise=False, rotations=frozenset(layout.rotations()))
    x = clear_ciphertext(backend, np.arange(64.0))
    for step in layout.rotations():
        backend.rotate(x, step)
    with pytest.raises(KeyMismatchError, match="no key for rotation"):
        backend.rotate(x, 33)


@pytest.mark.parametrize(("rows", "features"), [(4096, 8), (8192, 32), (100, 1024), (8192, 1024)])
def test_rotations_grow_with_the_square_root_of_the_diagonals(rows, features):
    layout = choose_layout(8192, rows, features)
    turns = len(layout.baby_steps) + len(layout.giant_steps)
    assert turns <= 3 * np.sqrt(layout.n_diagonals)
    assert len(layout.rotations()) <= 2 * turns + len(layout.spread_steps) + len(layout.copy_steps)


def test_doublings():
    assert doublings(4, 64) == (4, 8, 16, 32)
    assert doublings(8, 8) == doublings(8, 4) == ()


def test_labels_are_padded_with_zeros():
    layout = choose_layout(8, 20, 3)
    blocks = pack(np.ones((20, 3)), np.arange(1.0, 21), layout, keep=True)
    np.testing.assert_array_equal(np.concatenate([b.labels for b in blocks]), [*range(1, 21), 0, 0, 0, 0])


def test_encoded_diagonals_are_kept_only_where_asked():
    backend = clear_backend(64, noise=False)
    layout = choose_layout(64, 10, 3)
    for keep in (True, False):
        (block,) = pack(np.ones((10, 3)), np.ones(10), layout, keep=keep)
        first = block.plaintext(backend, layout.giant_steps[0], layout.baby_steps[0], 2, 2.0**40)
        again = block.plaintext(backend, layout.giant_steps[0], layout.baby_steps[0], 2, 2.0**40)
        assert (first is again) == keep
        assert len(block.encoded) == (1 if keep else 0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ParameterError, match="65 features do not fit 64 slots; use a larger ring_dim or fewer"):
        choose_layout(64, 10, 65)
    layout = choose_layout(64, 10, 5)
    for shape in ((17, 5), (10, 9)):
        with pytest.raises(ParameterError, match=r"does not fit the layout of \(16, 8\)"):
            list(layout.diagonals(np.zeros(shape)))
    for rows, features in ((3, 4), (4, 0), (128, 4)):
        with pytest.raises(ParameterError, match="need a power of two up to 64 slots"):
            BlockLayout(64, rows, features, 1, 1)
    for diagonals in (0, 1, 3, 8):
        with pytest.raises(ParameterError, match=rf"\(32, 4\) in {diagonals} diagonals; need one of 2, 4 for 64 slots"):
            BlockLayout(64, 32, 4, diagonals, 1)
    for baby in (0, 3, 8):
        with pytest.raises(ParameterError, match=f"{baby} baby steps do not divide 4 diagonals"):
            BlockLayout(64, 16, 4, 4, baby)


@pytest.mark.parametrize("objective", ["time", "memory", "traffic"])
@pytest.mark.parametrize("rows", [(20,), (700, 300, 300), (9000,) * 2])
@pytest.mark.parametrize("features", [3, 60, 250])
def test_no_packing_is_better_than_those_that_are_looked_at(objective, rows, features):
    plan = insecure_test_plan(workload(rows, features), ring_dim=1 << 11)
    goal = Goal(objective, (Tree(len(rows)),), DEFAULT_UNITS)
    every = [
        replace(plan.layout, n_diagonals=diagonals, baby=baby)
        for diagonals in plan.layout.possible_diagonals
        for baby in doublings(1, diagonals + 1)
    ]
    costs = {layout: goal(replace(plan, packing=layout)) for layout in every}
    assert min(costs[layout] for layout in plan.layout.alternatives) == min(costs.values())
    if objective == "time":
        assert costs[plan.layout] <= 1.1 * min(costs.values())


@pytest.mark.parametrize(("rows", "features"), [(16, 4), (20, 3), (10, 13), (5, 16)])
def test_the_packings_that_are_looked_at_do_not_depend_on_the_one_they_start_from(rows, features):
    fewest, most = (extreme_layout(rows, features, extreme) for extreme in EXTREMES)
    assert most.is_cyclic and not fewest.is_cyclic
    assert {*most.alternatives, fewest} == {*fewest.alternatives, most}
    assert not all(layout.is_cyclic for layout in most.alternatives)
