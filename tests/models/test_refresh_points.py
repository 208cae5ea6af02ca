"""Wherever a perceptron refreshes, it computes the same; the search takes the places that cost least."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pytest

from mhe.errors import ParameterError
from mhe.moduli import generate_moduli
from mhe.parameters import log2_product
from mhe.ring.primes import ntt_primes
from models.activations import approximate, identity, sigmoid, square
from models.choice import Choice, pinned
from models.mlp import PerceptronModel
from models.mlp_plan import PerceptronPlan
from models.mlp_search import choose_perceptron_plans
from models.perceptron import Perceptron
from models.refresh_points import LevelSchedule, RefreshPoints, possible_points
from models.search import RootWork
from models.twin import train_twin
from network.local import run_parties
from tests import oracle
from tests.evaluators import make_party
from tests.insecure import clear_party, insecure_test_perceptron_plan, sigmoid_polynomial, table, workload
from tests.runs import largest_error, released, surely, trained

SQUARE, CUBIC = square((-4.0, 4.0)), approximate(sigmoid, 3, (-6.0, 6.0), "least_squares")
LINK = sigmoid_polynomial(3, 6.0)
SETTINGS = {"batch": 8, "momentum": 0.5, "l2": 0.1, "learning_rate": 0.2, "iterations": 3, "seed": 4, "outputs": 3}
CASES = {
    "softmax": workload((16, 5, 12), 7, **SETTINGS, link=LINK),
    "one hidden layer": workload((16, 5, 12), 7, **SETTINGS, hidden=(9,), activation=SQUARE, link=identity()),
    "sigmoids": workload((16, 5, 12), 7, **SETTINGS, hidden=(9,), activation=CUBIC, link=LINK),
    "two hidden layers": workload((16, 5, 12), 7, **SETTINGS, hidden=(9, 5), activation=SQUARE, link=identity()),
    "falling pace": workload(
        (16, 5, 12), 7, **SETTINGS, hidden=(5,), activation=SQUARE, link=LINK, schedule="inverse", schedule_decay=0.5
    ),
}
ALL = [(name, points) for name, task in CASES.items() for points in possible_points(task.model)]
SMALL = {"width": 8, "ring_dim": 1 << 9}


def plan_for(name, points):
    return insecure_test_perceptron_plan(CASES[name], points=points, **SMALL)


def weights_in(plan):
    return sum(rows * columns for rows, columns in plan.network.shapes)


@pytest.mark.parametrize(("name", "points"), ALL)
def test_the_model_is_the_twins(name, points):
    """Without noise to rounding, with noise to the planned precision."""
    plan, shards = plan_for(name, points), table(CASES[name])
    twin, _ = train_twin(plan, shards, seed=5)
    exact = released(plan, shards, partial(clear_party, noise=False), seed=5)
    assert largest_error(exact, twin) <= 1e-12
    error, planned = largest_error(released(plan, shards, clear_party, seed=5), twin), plan.precision.weight_error
    assert planned / 1000 < error <= surely(planned, weights_in(plan))


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("one hidden layer", RefreshPoints(inputs=False, errors=False, gradients=False)),
        ("sigmoids", RefreshPoints(inputs=False, errors=True, gradients=False)),
        ("two hidden layers", RefreshPoints(inputs=True, errors=False, gradients=True)),
        ("softmax", RefreshPoints(gradients=False)),
    ],
)
def test_the_encrypted_model_is_the_twins(name, points):
    plan, shards = plan_for(name, points), table(CASES[name])
    twin, _ = train_twin(plan, shards, seed=5)
    error = largest_error(released(plan, shards, partial(make_party, "native"), seed=5), twin)
    planned = plan.precision.weight_error
    assert planned / 1000 < error <= surely(planned, weights_in(plan))


def test_the_encrypted_model_is_the_twins_with_short_special_primes():
    """The noise of key switches is what is felt then."""
    plan = plan_for("one hidden layer", RefreshPoints(gradients=False))
    short, shards = with_special_margin(plan, -24), table(plan.workload)
    twin, _ = train_twin(short, shards, seed=5)
    error = largest_error(released(short, shards, partial(make_party, "native"), seed=5), twin)
    planned = short.precision.weight_error
    assert planned > 2 * plan.precision.weight_error
    assert planned / 1000 < error <= surely(planned, weights_in(short))


@pytest.mark.parametrize("gradients", [True, False])
def test_what_lies_beside_the_weights_is_not_opened(gradients):
    """A step leaves some there; what is released or kept has none."""
    plan = plan_for("two hidden layers", RefreshPoints(gradients=gradients))

    def after(party, rank, weights):
        alone = PerceptronModel(plan).keep(party, weights)
        if weights is None:
            return None
        opened = [[party.backend.export_ciphertext(w).values[0] for w in some] for some in (weights, alone)]
        assert [w.scale for w in alone] == pytest.approx([plan.kept_scale] * plan.n_ciphertexts)
        return [
            [np.resize(w, plan.weights_period)[mask == 0] for w, mask in zip(o, plan.valid, strict=True)]
            for o in opened
        ]

    shards = table(plan.workload)
    stepped, kept = trained(plan, shards, partial(clear_party, noise=False), after)[0]
    assert max(np.abs(w).max(initial=0) for w in stepped) > 1e-3
    assert max(np.abs(w).max(initial=0) for w in kept) < 1e-12


def opened(plan):
    """What the root opens, before any smudging, as coefficients, and the bound on its noise: tile by tile."""

    def after(party, rank, weights):
        found, decrypt = [], party.decrypt

        def listening(ciphertext, limbs, scale, period, bound):
            found.append((None if rank else party.backend.export_ciphertext(ciphertext), bound))
            return decrypt(ciphertext, limbs, scale, period, bound)

        party.decrypt = listening
        PerceptronModel(plan).release(party, weights)
        return found, oracle.coefficients_of(party._secret)

    outcomes = trained(plan, table(plan.workload), partial(make_party, "native"), after)
    joint, p = oracle.joint([share for _, share in outcomes]), plan.parameters
    tiles = [oracle.message_integers(tile, p, joint) for tile, _ in outcomes[0][0]]
    step = p.ring_dim // (2 * plan.weights_period)
    return [np.array(tile[::step], dtype=object) for tile in tiles], [bound for _, bound in outcomes[0][0]]


def with_special_margin(plan, bits):
    """With special primes together so many bits longer than the largest digit."""
    p = plan.parameters
    covered = max(log2_product(p.moduli[i] for i in digit) for digit in p.digit_limbs)
    number = len(p.special_moduli)
    special = ntt_primes(round((covered + bits) / number), p.ring_dim, number, avoid=p.moduli)
    assert log2_product(special) == pytest.approx(covered + bits, abs=number)
    return replace(plan, parameters=replace(p, special_moduli=special))


@pytest.mark.parametrize("margin", [-24, 8])
@pytest.mark.parametrize("gradients", [True, False])
def test_noise_that_the_smudging_hides_is_below_its_bound(gradients, margin):
    """Two runs differ by noise only; the bound allows for a margin of 8, and for the worst secret."""
    plan = with_special_margin(plan_for("sigmoids", RefreshPoints(gradients=gradients)), margin)
    (first, bounds), (second, _) = opened(plan), opened(plan)
    assert bounds == plan.precision.weight_noise_norms
    for a, b, bound in zip(first, second, bounds, strict=True):
        assert bound / 2**12 < np.linalg.norm((a - b).astype(float)) / np.sqrt(2) < bound


NETWORKS = {
    (): [((True, True, True), 3), ((True, True, False), 3)],
    (9,): [
        # a slope and the error that it meets; or a function, a product and a slope behind another
        ((True, True, True), 3),
        ((False, True, True), 5),
        ((True, False, True), 4),
        ((False, False, False), 5),
    ],
    (9, 5): [((True, True, True), 3), ((False, True, True), 8), ((True, False, True), 6), ((False, False, True), 10)],
}


@pytest.mark.parametrize("hidden", NETWORKS)
def test_levels_between_refreshes(hidden):
    """Of squares, and a link of degree 3, or of the identity behind hidden layers."""
    net = Perceptron(7, hidden, 3, SQUARE, identity() if hidden else LINK)
    for points, levels in NETWORKS[hidden]:
        assert LevelSchedule(net, RefreshPoints(*points)).needed == levels, points


def test_points_that_make_no_difference_are_not_told_apart():
    assert len(possible_points(CASES["softmax"].model)) == 2
    assert len(set(possible_points(CASES["one hidden layer"].model))) == 8


# the search

REAL = {"release_bits": 40, "message_bound": 32.0, "iterations": 20, "momentum": 0.5, "learning_rate": 0.1, "batch": 64}


def real(n_parties):
    return workload(
        (200,) * n_parties, 9, outputs=2, hidden=(16,), activation=SQUARE, link=identity(), release="nothing", **REAL
    )


SOME = Choice(ring_dim=1 << 15, scale_bits=45)
"""Searched in one ring and at one scale: other tests show the search of several."""


@lru_cache
def chosen(task, choice=SOME):
    """Several tests look at it."""
    return choose_perceptron_plans(task, choice, generate_moduli, free=True)[0]


def test_more_parties_refresh_less():
    """A refresh of what every party has costs everybody a share for every other one, a longer chain does not."""
    few, many = (chosen(real(n)).points for n in (2, 64))
    assert (few.inputs, few.errors) != (False, False) == (many.inputs, many.errors)


@pytest.mark.parametrize("n_parties", [2, 64])
def test_no_other_points_are_cheaper(n_parties, monkeypatch):
    task, judge = real(n_parties), RootWork()
    best, costs = judge(chosen(task)), {}
    for points in possible_points(task.model):
        monkeypatch.setattr("models.mlp_search.possible_points", lambda _, points=points: [points])
        costs[points] = judge(chosen.__wrapped__(task))
    assert min(costs.values()) == best < max(costs.values())


@pytest.mark.parametrize("n_parties", [2, 64])
def test_another_party_makes_the_same_plan(n_parties):
    plan = chosen(real(n_parties))
    same = chosen(real(n_parties), Choice(pinned=pinned(plan)))
    assert (same.parameters, same.layout, same.points) == (plan.parameters, plan.layout, plan.points)
    assert (same.weight_scale, same.ahead_scales) == (plan.weight_scale, plan.ahead_scales)


def test_weights_take_the_room_that_there_is():
    """Gradients that are not refreshed are as precise as the refresh of the weights has bits to spare, up to those that
    are refreshed.
    """
    task, points = CASES["one hidden layer"], RefreshPoints(gradients=False)
    full = insecure_test_perceptron_plan(task, points=points, **SMALL)
    assert full.gradient_scale == pytest.approx(replace(full, points=RefreshPoints()).gradient_scale)

    def with_room(bits):
        p = full.parameters
        return replace(full, parameters=replace(p, message_bits=p.message_bits + bits))

    assert with_room(2).gradient_scale == pytest.approx(full.gradient_scale)
    less, least = with_room(-2), with_room(-4)
    assert 16 * least.gradient_scale == pytest.approx(4 * less.gradient_scale) == pytest.approx(full.gradient_scale)
    assert least.precision.weight_error > less.precision.weight_error > full.precision.weight_error
    # no weight may reach half of what is refreshed at the most
    p = least.parameters
    assert task.message_bound * least.weight_scale * 2 == pytest.approx(p.scale * 2**p.message_bits)


def test_parameters_without_room_are_refused():
    plan = insecure_test_perceptron_plan(CASES["softmax"], **SMALL)
    low = replace(plan.parameters, message_bits=plan.parameters.message_bits - 1)
    with pytest.raises(ParameterError, match=r"what is refreshed needs .* bits above the scale, the parameters allow"):
        PerceptronPlan(plan.workload, low, plan.layout)


def test_refreshes_of_layers_are_those_that_are_planned():
    """Gathered ciphertexts of one iteration, by what is left out."""
    for inputs, errors, expected in ((True, True, 3), (False, True, 2), (True, False, 2), (False, False, 1)):
        plan = plan_for("sigmoids", RefreshPoints(inputs, errors, gradients=False))
        shards = table(plan.workload)

        def program(collective, plan=plan, shards=shards):
            party, model, seen = clear_party(collective, plan, noise=False), PerceptronModel(plan), []
            party.make_keys(plan.key_plan)
            refresh = party.refresh_own

            def counted(ciphertexts, *others):
                seen.append(len(ciphertexts))
                return refresh(ciphertexts, *others)

            party.refresh_own = counted
            (x, y), weights = shards[collective.rank], model.start(party)
            batch = model.batch(x[:8], y[:8], keep=False)
            model.gradients(party, model.look_ahead(party.backend, weights, weights), batch)
            return len(seen)

        assert run_parties(plan.workload.n_parties, program) == [expected] * plan.workload.n_parties
        gathered = [t for t in plan.iteration_transfers if t.kind == "gather"]
        assert len(gathered) == expected
