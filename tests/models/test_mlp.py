"""Perceptrons under encryption: what they compute is what the clear twin does, with the planned keys and traffic."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
from numpy.polynomial import polynomial

from mhe.errors import LevelError, ParameterError
from models.activations import approximate, identity, sigmoid, square
from models.mlp import PerceptronModel, outputs_of_rows
from models.mlp_plan import PerceptronPlan
from models.model import model_of
from models.perceptron import Perceptron, targets_of
from models.refresh_points import ALL_POINTS, RefreshPoints
from models.tiles import TileLayout
from models.training import pack_batches, train
from models.twin import train_twin
from network.local import run_parties
from network.topology import Tree
from network.traffic import predict
from tests.evaluators import make_party, perceptron_plan_of
from tests.insecure import clear_party, insecure_test_perceptron_plan, sigmoid_polynomial, table, workload
from tests.runs import largest_error, released, surely, trained

SQUARE = square((-4.0, 4.0))
CUBIC = approximate(sigmoid, 3, (-6.0, 6.0), "least_squares")
LINK = sigmoid_polynomial(3, 6.0)
SMALL = {"width": 8, "ring_dim": 1 << 9}
"""16 rows of tiles that 9 units do not fit: two tiles for most layers."""


def perceptron(hidden, activation=SQUARE, link=None, rows=(16, 5, 12), features=7, outputs=3, **changes):
    """Parties of 16, 5 and 12 rows: of 8 in a batch, some are short, and none fills the 16 rows of a tile."""
    settings = {"batch": 8, "momentum": 0.5, "l2": 0.1, "learning_rate": 0.2, "iterations": 3, "seed": 4, **changes}
    link = identity() if link is None else link
    return workload(rows, features, outputs=outputs, hidden=hidden, activation=activation, link=link, **settings)


CASES = {
    "no hidden layer": perceptron(()),
    "no hidden layer, sigmoid": perceptron((), link=LINK, learning_rate=1.0),
    "one hidden layer": perceptron((9,)),
    "one hidden layer, sigmoids": perceptron((9,), CUBIC, LINK),
    "one hidden layer, sigmoid link": perceptron((9,), SQUARE, LINK),
    "two hidden layers": perceptron((9, 5)),
    "two hidden layers, sigmoid": perceptron((9, 5), CUBIC),
    "two hidden layers, sigmoids": perceptron((9, 5), CUBIC, LINK),
    "three hidden layers": perceptron((9, 5, 6), learning_rate=0.05),
    "three hidden layers, sigmoids": perceptron((9, 5, 6), CUBIC, LINK),
    "full rows": perceptron((9, 5), rows=(16, 16), batch=None),
    "single rows": perceptron((5,), rows=(1, 1, 1), batch=None, iterations=2),
    "one party": perceptron((9,), rows=(13,), momentum=0.0, l2=0.0),
    "wide input and output": perceptron((5,), features=20, outputs=10),
    "one output": perceptron((5,), CUBIC, LINK, outputs=1),
    "momentum of many bits": perceptron((5,), momentum=0.9, iterations=4),
}
DEPTHS = [name for name in CASES if "hidden layer" in name and "sigmoid" not in name]


def without_noise(collective, plan):
    return clear_party(collective, plan, noise=False)


def plan_for(name):
    return insecure_test_perceptron_plan(CASES[name], **SMALL)


def weights_in(plan):
    return sum(rows * columns for rows, columns in plan.network.shapes)


# the network in the clear


@pytest.mark.parametrize("hidden", [(), (4,), (4, 3), (4, 3, 5)])
@pytest.mark.parametrize("link", [identity(), LINK])
@pytest.mark.parametrize("activation", [SQUARE, CUBIC])
def test_gradient_against_central_differences(hidden, link, activation):
    """Of the loss whose derivative in an output z is link(z) - y."""
    net = Perceptron(5, hidden, 2, activation, link)
    random = np.random.default_rng(len(hidden))
    weights = [random.normal(0, 0.5, shape) for shape in net.shapes]
    x, y = random.normal(size=(6, 5)), random.normal(size=(6, 2))
    integral = polynomial.polyint(link.coefficients) * link.half_width

    def loss(changed):
        z = net.outputs_of(changed, x)
        return np.sum(polynomial.polyval(z / link.half_width, integral) - y * z)

    gradients, widest = net.gradient(weights, x, y)
    assert [g.shape for g in gradients] == list(net.shapes)
    assert widest >= np.abs(net.outputs_of(weights, x)).max()
    step = 1e-5
    for layer, gradient in enumerate(gradients):
        for place in np.ndindex(gradient.shape):
            nudged = []
            for sign in (1, -1):
                moved = [w.copy() for w in weights]
                moved[layer][place] += sign * step
                nudged.append(loss(moved))
            assert (nudged[0] - nudged[1]) / (2 * step) == pytest.approx(gradient[place], rel=1e-6, abs=1e-7)


def test_first_weights_are_public_and_spread_by_the_widths():
    net = Perceptron(200, (300,), 10, SQUARE, identity())
    first, second = net.initial_weights(7), net.initial_weights(7)
    for a, b, c in zip(first, second, net.initial_weights(8), strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a[:-1] != c[:-1]).all()
        assert not a[-1].any()
        assert a[:-1].std() == pytest.approx(0.5 * np.sqrt(2 / sum(a[:-1].shape)), rel=0.1)
    # a convex problem starts from zero
    assert not np.any(Perceptron(4, (), 3, SQUARE, LINK).initial_weights(7)[0])


def test_targets_are_the_labels_or_one_of_each_class():
    labels = np.array([2.0, 0.0, 1.0])
    np.testing.assert_array_equal(targets_of(labels, 1), labels[:, None])
    np.testing.assert_array_equal(targets_of(labels, 3), [[0, 0, 1], [1, 0, 0], [0, 1, 0]])


# the simulation


@pytest.mark.parametrize("name", CASES)
def test_simulation_without_noise_is_the_twin(name):
    plan, shards = plan_for(name), table(CASES[name])
    twin, widest = train_twin(plan, shards, seed=5)
    found = released(plan, shards, without_noise, seed=5)
    assert [w.shape for w in found] == list(plan.network.shapes)
    assert largest_error(found, twin) <= 1e-12
    # the training went somewhere, and nothing that is refreshed is larger than the masks allow for
    assert largest_error(twin, plan.network.initial_weights(4)) > 1e-2
    assert widest < plan.workload.message_bound


@pytest.mark.parametrize("name", CASES)
def test_simulation_with_noise_is_the_twin_to_the_planned_precision(name):
    plan, shards = plan_for(name), table(CASES[name])
    twin, _ = train_twin(plan, shards, seed=5)
    error = largest_error(released(plan, shards, clear_party, seed=5), twin)
    planned = plan.precision.weight_error
    assert planned / 1000 < error <= surely(planned, weights_in(plan))
    # that is no empty promise: a hundredth of the weights at most
    assert planned < largest_error(twin, [np.zeros(w.shape) for w in twin]) / 100


@pytest.mark.parametrize("width", [2, 4, 8, 16])
def test_tiles_of_every_width_give_the_same_model(width):
    task = perceptron((9, 5))
    shards = table(task)
    plan = insecure_test_perceptron_plan(task, width=width)
    assert plan.layout.width == width
    assert largest_error(released(plan, shards, without_noise), train_twin(plan, shards, seed=0)[0]) <= 1e-12


@pytest.mark.parametrize("baby", [1, 2, 4, 8])
def test_baby_steps_change_nothing(baby):
    task = perceptron((9,))
    plan, shards = insecure_test_perceptron_plan(task, **SMALL), table(task)
    other = PerceptronPlan(task, plan.parameters, TileLayout(plan.layout.n_slots, plan.layout.width, baby))
    assert largest_error(released(other, shards, without_noise), train_twin(plan, shards, seed=0)[0]) <= 1e-12


@pytest.mark.parametrize("name", DEPTHS)
def test_the_planned_rotations_are_those_used(name):
    plan, shards = plan_for(name), table(CASES[name])
    keys, n = plan.key_plan, plan.parameters.n_slots
    everywhere, root_only = ({step % n for step in steps} for steps in (keys.everywhere, keys.root_only))
    assert len(everywhere) + len(root_only) == len(keys.everywhere) + len(keys.root_only) == len(everywhere | root_only)
    used = trained(plan, shards, clear_party, lambda party, *_: party.backend.used_rotations, root=1)
    for rank, rotations in enumerate(used):
        assert rotations == everywhere | (root_only if rank == 1 else set())


def test_the_root_alone_steps():
    """Every iteration ends at the limbs that the plan says; the last one is not refreshed."""
    plan, shards = plan_for("one hidden layer"), table(CASES["one hidden layer"])

    def after(party, rank, weights):
        assert (weights is None) == (rank != 0)
        return [(w.limbs, w.scale, w.period) for w in weights or ()]

    forms, *others = trained(plan, shards, without_noise, after)
    assert others == [[], []]
    assert len(forms) == plan.n_ciphertexts
    for limbs, scale, period in forms:
        assert (limbs, period) == (plan.low_limbs, plan.weights_period)
        assert scale == pytest.approx(plan.weight_scale, rel=1e-9)


# encrypted


@cache
def outcome(evaluator, name):
    """(largest error of the released weights, plan)."""
    task = CASES[name]
    plan, shards = perceptron_plan_of(evaluator, task, **SMALL), table(task)
    twin, _ = train_twin(plan, shards, seed=5)
    return largest_error(released(plan, shards, partial(make_party, evaluator), seed=5), twin), plan


@pytest.mark.parametrize("name", ["one party", "one hidden layer, sigmoids", "single rows", "one output"])
def test_encrypted_training_is_the_twin(name, real_evaluator):
    error, plan = outcome(real_evaluator, name)
    planned = plan.precision.weight_error
    assert planned / 1000 < error <= surely(planned, weights_in(plan))


def test_the_deepest_encrypted_training_is_the_twin():
    """Native alone: products of both forms, forward and back through four layers."""
    error, plan = outcome("native", "three hidden layers")
    assert error <= surely(plan.precision.weight_error, weights_in(plan))


@pytest.mark.parametrize(
    ("hidden", "outputs", "n_parties", "arity", "root"),
    [((), 3, 3, 2, 1), ((), 3, 4, 3, 0), ((5,), 1, 1, 2, 0), ((5,), 1, 4, 3, 0), ((9, 5), 2, 3, 2, 1)],
)
@pytest.mark.parametrize("points", [ALL_POINTS, RefreshPoints(False, True, False), RefreshPoints(True, False, True)])
def test_traffic_of_an_iteration_is_foretold_to_the_byte(hidden, outputs, n_parties, arity, root, points):
    """Not of the simulation, whose values travel as float64; of what leaves a party the evaluator decides nothing."""
    task = perceptron(hidden, rows=tuple(range(3, 3 + n_parties)), features=3, outputs=outputs, iterations=2)
    plan = insecure_test_perceptron_plan(task, points=points, width=4, ring_dim=1 << 7)
    shards = table(task)

    def program(collective):
        collective.bind(plan.parameters.digest)
        party, model = make_party("native", collective, plan), model_of(plan)
        party.make_keys(plan.key_plan)
        snapshots = []
        batches = pack_batches(model, *shards[collective.rank], 0, collective.rank, True)
        train(party, model, batches, lambda _: snapshots.append(collective.metrics.snapshot()["iteration"]))
        party.close()
        return snapshots

    tree = Tree(n_parties, arity, root)
    for rank, (first, both) in enumerate(run_parties(n_parties, program, arity=arity, root=root)):
        planned = predict(tree, rank, plan.iteration_transfers)
        assert first["bytes_sent"] == planned.bytes_sent
        assert first["bytes_received"] == planned.bytes_received
        assert first["rounds"] == planned.rounds
        # the last iteration has no refresh of the weights
        assert both["rounds"] < 2 * planned.rounds


# predictions


@pytest.mark.parametrize("hidden", [(), (5,), (9, 5)])
@pytest.mark.parametrize("evaluator", ["clear", "native"], indirect=True)
def test_each_party_gets_the_outputs_of_its_own_rows(evaluator, hidden):
    """Of more rows than one batch takes, of fewer, and of none."""
    test_rows = (20, 3, 0)
    task = perceptron(hidden, CUBIC, LINK, release="predictions", test_rows=test_rows, iterations=2)
    plan, shards = perceptron_plan_of(evaluator, task, **SMALL), table(task)
    random = np.random.default_rng(1)
    tests = [random.normal(size=(n, 7)) for n in test_rows]
    twin, _ = train_twin(plan, shards, seed=0)
    assert plan.prediction_blocks == 2

    def after(party, rank, weights):
        return model_of(plan).predict(party, weights, tests[rank])

    tolerance = surely(plan.precision.logit_error, plan.layout.rows)
    for x, outputs in zip(tests, trained(plan, shards, partial(make_party, evaluator), after), strict=True):
        assert outputs.shape == (len(x), 3)
        np.testing.assert_allclose(outputs, plan.network.outputs_of(twin, x), rtol=0, atol=tolerance)
    assert tolerance < 5e-2


def test_outputs_without_noise_are_the_networks():
    plan = plan_for("two hidden layers")
    x = np.random.default_rng(0).normal(size=(11, 7))

    def program(collective):
        party = without_noise(collective, plan)
        party.make_keys(plan.key_plan)
        tiles = outputs_of_rows(party, plan, PerceptronModel(plan).start(party), x)
        slots = [np.resize(party.backend.export_ciphertext(t).values[0], plan.layout.n_slots) for t in tiles]
        return plan.layout.unpack(slots, plan.network.form(2), 3)[: len(x)]

    expected = plan.network.outputs_of(plan.network.initial_weights(4), x)
    for found in run_parties(3, program):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# plans


@pytest.mark.parametrize("name", CASES)
def test_weights_are_packed_and_unpacked(name):
    plan = plan_for(name)
    random = np.random.default_rng(0)
    weights = [random.normal(size=shape) for shape in plan.network.shapes]
    tiles = plan.pack(weights)
    assert len(tiles) == plan.n_ciphertexts == len(plan.valid) == len(plan.decay(1.0))
    for a, b in zip(plan.unpack(tiles), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for tile, valid in zip(tiles, plan.valid, strict=True):
        assert not tile[valid == 0].any()
    grids, biases = plan.layers(tiles)
    assert [len(grid) for grid in grids] == [n for n, _ in plan.tiles.grids]
    assert biases[0] == []


def test_biases_do_not_decay():
    plan = plan_for("two hidden layers")
    for layer in plan.unpack(plan.decay(1.0)):
        np.testing.assert_allclose(layer[:-1], 1 - 0.2 * 0.1)
        np.testing.assert_array_equal(layer[-1], 1.0)


def test_too_few_levels_are_refused():
    with pytest.raises(ParameterError, match=r"an iteration consumes 4 levels .*have 3 above the refresh, need"):
        insecure_test_perceptron_plan(perceptron((9,), CUBIC, LINK), missing_limbs=1)


def test_batches_that_do_not_fit_are_refused():
    with pytest.raises(ParameterError, match="a batch of 17 rows does not fit the 16 rows of a tile"):
        insecure_test_perceptron_plan(perceptron((9,), rows=(17, 3), batch=None), **SMALL)


def test_tiles_of_another_ring_are_refused():
    plan = plan_for("one hidden layer")
    with pytest.raises(ParameterError, match="tiles of 512 slots on parameters with 256; need the same"):
        PerceptronPlan(plan.workload, plan.parameters, TileLayout(512, 8, 2))


def test_an_empty_layer_is_refused():
    with pytest.raises(ParameterError, match="at least one unit everywhere"):
        Perceptron(3, (4, 0), 2, SQUARE, LINK)


def test_weights_cannot_be_used_again_without_a_refresh():
    plan, shards = plan_for("one hidden layer"), table(CASES["one hidden layer"])
    model = PerceptronModel(plan)

    def after(party, rank, weights):
        if weights is None:
            return
        batch = pack_batches(model, *shards[rank], 0, rank, False)[0]
        with pytest.raises(LevelError):
            model.gradients(party, model.look_ahead(party.backend, weights, weights), batch)

    trained(plan, shards, without_noise, after)


@pytest.mark.parametrize(
    ("release", "standardises", "releases"),
    [("model", True, 2 + 6), ("model", False, 6), ("nothing", True, 2), ("predictions", True, 2 + 1 + 3 * 2)],
)
def test_releases_are_counted_before_they_happen(release, standardises, releases):
    """One for each tile of the model and the quality, or for each tile of outputs of every block and party."""
    task = perceptron((9,), release=release, standardises=standardises, test_rows=(20, 3, 0))
    plan = insecure_test_perceptron_plan(task, **SMALL)
    assert plan.n_ciphertexts == 2 + 2 + 1
    assert plan.releases == releases
