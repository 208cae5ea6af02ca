"""Parameters for perceptrons: what is chosen keeps every promise, and what stands in the way is named."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import pytest

from mhe.errors import ParameterError
from mhe.moduli import generate_moduli
from mhe.parameters import LOG_QP_CAPS, log2_product, refresh_floor_bits
from models.activations import approximate, identity, sigmoid, square
from models.choice import Choice, pinned
from models.cost import DEFAULT_UNITS
from models.least_operations import least_operations
from models.mlp_plan import PerceptronPlan, perceptron_levels, perceptron_message_bits
from models.mlp_search import choose_perceptron_plans, tile_layouts
from models.model_tiles import ModelTiles
from models.operations import operations, whole
from models.packing import doublings
from models.search import LOGIT_ERROR, TOLERATED, RootWork
from models.tiles import TileLayout
from network.link import Link
from network.topology import Tree
from scripts.goal import Goal
from tests.evaluators import moduli_of
from tests.insecure import insecure_test_perceptron_plan, sigmoid_polynomial, workload

SQUARE = square((-4.0, 4.0))
CUBIC = approximate(sigmoid, 3, (-6.0, 6.0), "least_squares")
REAL = {
    "release_bits": 40, "message_bound": 32.0, "iterations": 20, "momentum": 0.5, "learning_rate": 0.1, "batch": 64,
}  # fmt: skip
CLASSES = workload((200,) * 4, 20, outputs=3, hidden=(16,), activation=SQUARE, link=identity(), **REAL, precision=1e-2)
WORKLOADS = {
    "square": CLASSES,
    "softmax": replace(CLASSES, hidden=(), activation=None, link=sigmoid_polynomial(3), outputs=10),
    "sigmoids": replace(CLASSES, hidden=(16, 8), activation=CUBIC, link=sigmoid_polynomial(3)),
    "nothing": replace(CLASSES, release="nothing"),
    "predictions": replace(CLASSES, release="predictions", test_rows=(50,) * 4, release_bits=30),
    "encrypted": replace(CLASSES, release="encrypted", answers=20, release_bits=30),
    "one party": replace(CLASSES, rows=(300,), test_rows=(0,)),
}


def choose(task, choice=None, free=True, make_moduli=generate_moduli):
    return searched(task, choice or Choice(), free, make_moduli)


@lru_cache
def searched(task, choice, free, make_moduli):
    """Several tests look at it."""
    return choose_perceptron_plans(task, choice, make_moduli, free=free)[0]


SOME: dict[tuple[str, bool], Choice] = {
    ("predictions", True): Choice(ring_dim=1 << 15, digits=3),
    ("encrypted", True): Choice(ring_dim=1 << 14),
    ("one party", True): Choice(ring_dim=1 << 14),
    ("nothing", True): Choice(ring_dim=1 << 14),
    ("sigmoids", True): Choice(digits=3),
    ("square", False): Choice(digits=3),
}
"""What is looked at, where it is not all: that is shown on the others."""


@pytest.mark.parametrize(
    ("name", "free", "security_bits"),
    [
        *((name, True, 128) for name in WORKLOADS),
        ("sigmoids", True, 192),
        ("square", False, 128),
        ("softmax", False, 192),
    ],
)
def test_chosen_parameters_keep_every_promise(name, free, security_bits):
    task = WORKLOADS[name]
    plan = choose(task, replace(SOME.get((name, free), Choice()), security_bits=security_bits), free)
    p = plan.parameters
    assert not p.insecure
    assert (p.security_bits, p.statistical_bits, p.n_parties) == (security_bits, 128, task.n_parties)
    assert p.log_qp == log2_product(p.moduli + p.special_moduli) <= LOG_QP_CAPS[security_bits][p.ring_dim]
    # not a level more than a layer needs, and the refresh where its masks fit
    assert p.depth == plan.levels == perceptron_levels(task.model, plan.points)
    floor = refresh_floor_bits(128, p.scale_bits, perceptron_message_bits(task, plan.points), task.n_parties)
    assert floor <= log2_product(p.moduli[: p.refresh_limbs])
    assert log2_product(p.moduli[: p.refresh_limbs - 1]) < floor + 1
    assert plan.layout.rows >= max(task.batch_rows)
    allowed = max(task.precision, LOGIT_ERROR) if task.release in ("predictions", "encrypted") else task.precision
    assert 0 < plan.precision.released_error <= (1 if security_bits == 128 else TOLERATED) * allowed


def test_openfhe_primes_keep_the_same_promises():
    own = choose(CLASSES, Choice(scale_bits=58), free=False)
    # OpenFHE takes a minute to generate the primes of all chains, of which this one is chosen
    p = own.parameters
    chosen = Choice(ring_dim=p.ring_dim, scale_bits=58, digits=p.digits)
    plan = choose(CLASSES, chosen, free=False, make_moduli=moduli_of("openfhe"))
    assert plan.parameters.log_qp <= LOG_QP_CAPS[128][plan.parameters.ring_dim]
    assert plan.precision.weight_error == pytest.approx(own.precision.weight_error, rel=1e-2)


def test_no_smaller_ring_is_precise_enough():
    """The best of half the ring is within what is tolerated where nothing else is to be had, no more."""
    task = replace(CLASSES, precision=CLASSES.precision / 10)
    plan = choose(task, Choice(digits=8))
    smaller = choose(task, Choice(digits=8, ring_dim=plan.parameters.ring_dim // 2))
    assert plan.precision.released_error <= task.precision < smaller.precision.released_error


def test_a_wish_for_less_precision_is_cheaper():
    task = replace(CLASSES, release="nothing")
    fine, coarse = (choose(replace(task, precision=precision)) for precision in (1e-9, 1e-2))
    assert coarse.parameters.scale_bits < fine.parameters.scale_bits
    assert coarse.key_bytes() < fine.key_bytes()


@pytest.mark.parametrize("free", [True, False])
def test_explicit_values_are_taken(free):
    wished = Choice(ring_dim=65536, scale_bits=50, first_bits=55, digits=3, limbs=8)
    plan = choose(WORKLOADS["nothing"], wished, free)
    p, first = plan.parameters, 8 - plan.levels if free else 1
    assert (p.ring_dim, p.scale_bits, p.digits, p.n_limbs) == (65536, 50, 3, 8)
    assert [q.bit_length() - (q < 3 << q.bit_length() - 2) for q in p.moduli] == [55] * first + [50] * (8 - first)


@pytest.mark.parametrize(
    ("changes", "widths"),
    [
        ({}, (1, 2, 4, 8, 16, 32, 64)),
        ({"hidden": (16, 8)}, (1, 2, 4, 8, 16, 32, 64)),
        ({"hidden": ()}, (1, 2, 4, 8, 16, 32, 64)),
        ({"hidden": (), "coupled": True}, (8, 16, 32, 64)),
        ({"batch": 150}, (1, 2, 4, 8, 16)),
        ({"batch": None, "rows": (1500,)}, (1, 2)),
    ],
)
def test_tiles_of_every_width_that_holds_a_batch_are_looked_at(changes, widths):
    task = replace(CLASSES, **changes)
    layouts = tile_layouts(task, 8192)
    assert sorted({each.width for each in layouts}) == list(widths)
    assert min(each.rows for each in layouts) >= max(task.batch_rows)
    made = [steps_of(task, each) for each in layouts]
    assert len(set(made)) == len(made)
    assert {*made} == {
        steps_of(task, TileLayout(8192, width, baby)) for width in widths for baby in doublings(1, 2 * width)
    }


def steps_of(task, layout):
    """All that the number of baby steps makes a difference to in training."""
    tiles = ModelTiles(task.model, layout)
    return layout.width, *(layout.babies(tiles.turns(layer)) for layer in range(1, task.model.n_layers))


NETWORKS = {
    "no hidden layer": {"hidden": (), "outputs": 10},
    "one hidden layer": {},
    "two of different widths": {"hidden": (16, 5)},
    "many inputs": {"features": 100, "hidden": (9,)},
    "one output": {"hidden": (12, 4), "outputs": 1},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_cheapest_is_found_without_counting_all(name):
    """Every layout of the chosen chain costs at least what is chosen, and at least its own lower bound."""
    task = replace(WORKLOADS["nothing"], **NETWORKS[name])
    plan, judge = choose(task, Choice(ring_dim=1 << 14)), RootWork()
    cost = judge(plan)
    n_slots = plan.parameters.n_slots
    for layout in tile_layouts(task, n_slots):
        other = PerceptronPlan(task, plan.parameters, layout, centred=plan.centred)
        counted = whole(operations(other, 0, is_root=False, keep=True).later)
        for key, count in least_operations(other).items():
            assert count <= counted.get(key, 0), (layout, key)
        assert judge.least(other) <= judge(other)
        assert judge(other) >= cost


@pytest.mark.parametrize("link", [None, Link.parse("1gbps/20ms")])
def test_bounds_change_nothing_of_what_is_found(link):
    """Every bound is below the next one and the cost, and the search without any finds the same: within less memory,
    too.
    """
    task = WORKLOADS["nothing"]
    trees = tuple(Tree(task.n_parties, arity) for arity in (2, 3))
    goal = Goal("time", trees, DEFAULT_UNITS, link)
    fast = found_with_and_without_bounds(task, goal)
    least = replace(goal, objective="memory")(fast)
    small = found_with_and_without_bounds(task, replace(goal, memory_limit=int(least) - 1))
    assert goal(small) > goal(fast)
    for layout in tile_layouts(task, fast.parameters.n_slots):
        other = replace(fast, layout=layout)
        costs = [*(bound(other) for bound in goal.bounds), goal(other)]
        assert len(costs) == 3
        assert costs == sorted(costs)


def found_with_and_without_bounds(task, goal):
    choice = Choice(ring_dim=1 << 14, digits=3, judge=goal)
    choices = choice, replace(choice, bounds=goal.bounds)
    same, plan = (choose_perceptron_plans(task, each, generate_moduli, free=True)[0] for each in choices)
    assert same == plan
    return plan


@pytest.mark.parametrize("most", [2, 4])
def test_what_is_not_allowed_makes_nothing_else_slow(most):
    """Nor is it what comes closest where nothing is precise enough."""

    def only_narrow(cost):
        return lambda plan: cost(plan) if plan.layout.width <= most else math.inf

    task, work = WORKLOADS["nothing"], RootWork()
    wished = Choice(ring_dim=1 << 14, digits=3, judge=only_narrow(work), bounds=(only_narrow(work.least),))
    assert choose(task, wished).layout.width == most
    coarse = choose(replace(CLASSES, precision=CLASSES.precision / 5), replace(wished, digits=None))
    assert coarse.precision.released_error > coarse.workload.precision
    assert coarse.layout.width <= most


@pytest.mark.parametrize("slower", [1.0, 1.5, math.inf])
def test_what_is_slow_on_its_chain_is_found_where_it_is_the_best(slower, monkeypatch):
    """Whatever is put off as slow: by the bound, the best layout is rarely the one that costs least."""
    choice, task = Choice(ring_dim=32768, scale_bits=45), replace(WORKLOADS["nothing"], features=60)
    expected = choose(task, choice)
    monkeypatch.setattr("models.chains.SLOWER", slower)
    assert choose(task, choice) == expected


@pytest.mark.parametrize(("features", "outputs", "width"), [(60, 3, 8), (200, 20, 4), (20, 10, 16), (90, 30, 16)])
def test_no_other_split_of_the_steps_of_clear_rows_is_cheaper(features, outputs, width, monkeypatch):
    """`TileLayout.clear_baby` is a rule: against all numbers of baby steps."""
    task = workload((40, 40), features, outputs=outputs, batch=16, link=sigmoid_polynomial(3))
    plan = insecure_test_perceptron_plan(task, width=width)
    chosen, costs = RootWork()(plan), []
    for baby in doublings(1, 2 * width):
        monkeypatch.setattr(TileLayout, "clear_baby", lambda *_, baby=baby: baby)
        costs.append(RootWork()(plan))
    assert len(set(costs)) > 1
    assert chosen == min(costs)


@pytest.mark.parametrize(
    "wished",
    [
        {"first_bits": 41}, {"first_bits": 51}, {"scale_bits": 50}, {"scale_bits": 55}, {"digits": 7}, {"limbs": 8},
    ],
)  # fmt: skip
def test_no_wish_finds_what_is_cheaper(wished):
    """All sizes of limbs are looked at: few wide ones below the levels, too, and one wide special prime."""
    task, work = replace(CLASSES, rows=(100,) * 3, test_rows=(0,) * 3, features=8, outputs=2), RootWork()
    anything = choose(task, Choice(ring_dim=1 << 14))
    assert work(anything) <= work(choose(task, Choice(ring_dim=1 << 14, **wished)))


def test_what_one_party_found_another_one_makes_again():
    plan = choose(CLASSES)
    same = choose(CLASSES, Choice(pinned=pinned(plan)))
    assert (same.layout, same.parameters) == (plan.layout, plan.parameters)


@pytest.mark.parametrize(
    ("choice", "changes", "said"),
    [
        (Choice(ring_dim=4096), {}, r"log2\(QP\) is .* at ring_dim 4096; 128-bit security allows 106"),
        (Choice(ring_dim=8192, scale_bits=50), {}, "128-bit security allows 214 there: take ring_dim >= 32768"),
        (Choice(security_bits=192, ring_dim=16384), {}, "192-bit security allows"),
        (Choice(first_bits=20), {}, "no ring has enough primes .* leave .crypto. first_bits to the plan"),
        (
            Choice(ring_dim=1024),
            {"batch": None, "rows": (600,)},
            "a batch of 600 rows does not fit 256 rows of 2 slots",
        ),
        (Choice(limbs=5), {}, "limbs = 5 are too few: 3 levels are consumed between refreshes, and one with 128"),
        (Choice(), {"batch": None, "rows": (20000,) * 4}, "a batch of 20000 rows does not fit 16384 rows"),
        (Choice(ring_dim=65536), {"precision": 1e-9}, "weights would be released to .* at best .* 1e-09 is asked for"),
        (
            Choice(ring_dim=65536),
            {"release_bits": 90},
            "released to .*smudging of 90 statistical bits costs precision. Leave .crypto. ring_dim to the plan",
        ),
        (
            Choice(ring_dim=16384, digits=5),
            {"rows": (100,) * 3, "test_rows": (0,) * 3, "features": 8, "outputs": 2},
            "released to .* at best .* Leave .crypto. ring_dim, digits to the plan, lower .release. stat",
        ),
    ],
)
def test_the_binding_constraint_is_named(choice, changes, said):
    with pytest.raises(ParameterError, match=said) as caught:
        choose(replace(CLASSES, **changes), choice)
    assert len(str(caught.value).splitlines()) == 1
