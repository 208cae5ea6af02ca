"""Solver "local": federated averaging in the clear <-> twin <-> simulated <-> encrypted, and its plan."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest

from mhe.errors import ParameterError
from mhe.moduli import generate_moduli
from models.activations import approximate, exponential, identity
from models.choice import Choice
from models.local_plan import LocalPlan
from models.local_search import choose_local_plans
from models.model import model_of
from models.perceptron import with_constant
from models.range_probe import range_probe
from models.training import batch_indices, pack_batches, train
from models.twin import train_twin
from network.local import run_parties
from network.topology import Tree
from network.traffic import predict
from tests.evaluators import EVALUATORS, make_party, plan_of
from tests.insecure import clear_party, insecure_test_plan, sigmoid_polynomial, table, workload
from tests.runs import largest_error, released, released_and_noisy, surely

EXPONENTIAL = approximate(exponential, 4, (-3.0, 3.0), "least_squares")

CASES = {
    "one step": workload((20, 15), 3, local_iterations=1),
    "two steps": workload((20, 15), 3, local_iterations=2, l2=0.1, iterations=4),
    "three steps": workload((20, 15, 9), 5, local_iterations=3, learning_rate=0.5),
    "one party": workload((20,), 3, local_iterations=2),
    "wide": workload((12, 9), 20, local_iterations=2, learning_rate=0.1, l2=0.1),
    "blocks": workload((1100, 600), 3, local_iterations=2),
    "batches": workload((50, 8, 30), 3, local_iterations=2, batch=16, iterations=5),
    "degree 7": workload((20, 15), 8, local_iterations=2, link=sigmoid_polynomial(7, 20.0)),
    "linear": workload((30, 25), 4, link=identity(), local_iterations=3, learning_rate=0.3, schedule="inverse",
                       schedule_decay=0.3, l2=0.2),
    "poisson": workload((40, 35), 4, link=EXPONENTIAL, local_iterations=2, learning_rate=0.1),
}  # fmt: skip


def federated_averaging(task, shards, seed=0):
    """Written down once more, for clarity only."""
    w = np.zeros((task.features + 1, 1))
    penalty = np.append(np.full(task.features, task.l2), 0.0)[:, None]
    pieces = [batch_indices(len(x), task.batch, seed, rank) for rank, (x, _) in enumerate(shards)]
    for t in range(task.iterations):
        rate = task.learning_rate / (1 + task.schedule_decay * t if task.schedule == "inverse" else 1)
        copies, rows = [], []
        for (x, y), piece in zip(shards, pieces, strict=True):
            own, part = w, piece[t % len(piece)]
            a = with_constant(x[part])
            for _ in range(task.local_iterations):
                own = own - rate * (a.T @ (task.link(a @ own) - y[part]) / len(part) + penalty * own)
            copies.append(own)
            rows.append(len(part))
        w = np.average(copies, axis=0, weights=rows)
    return w


@pytest.mark.parametrize("name", CASES)
def test_twin_is_federated_averaging_with_the_polynomial(name):
    task, shards = CASES[name], table(CASES[name])
    (twin,), widest = train_twin(insecure_test_plan(task), shards, 3)
    np.testing.assert_allclose(twin, federated_averaging(task, shards, 3), rtol=0, atol=1e-12)
    assert task.link.degree == 1 or 0 < widest < task.link.half_width


def test_one_step_of_everybody_is_gradient_descent():
    task = CASES["one step"]
    plain = workload((20, 15), 3)
    local, _ = train_twin(insecure_test_plan(task), table(task), 0)
    descent, _ = train_twin(insecure_test_plan(plain), table(plain), 0)
    assert largest_error(local, descent) < 1e-13
    more, _ = train_twin(insecure_test_plan(CASES["two steps"]), table(task), 0)
    assert largest_error(more, descent) > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_simulation_without_noise_is_the_twin(name):
    plan, shards = insecure_test_plan(CASES[name]), table(CASES[name])
    twin, _ = train_twin(plan, shards, 5)
    found = released(plan, shards, partial(clear_party, noise=False), seed=5)
    assert largest_error(found, twin) <= 1e-12


def run_of(evaluator, name):
    """(plan, weights, their coefficients before the release) of a case."""
    plan = plan_of(evaluator, CASES[name])
    return plan, *released_and_noisy(plan, table(CASES[name]), evaluator, seed=5)


first_run = cache(run_of)
"""Several tests look at it."""


ON_OPENFHE = ("one step", "three steps", "blocks", "degree 7", "linear")
"""All kinds of circuits; parties and batches of any number are shown on the others."""


@pytest.mark.parametrize(
    ("name", "evaluator"),
    [(name, each) for name in CASES for each in EVALUATORS if each != "openfhe" or name in ON_OPENFHE],
)
def test_weights_are_the_twins_within_the_planned_precision(name, evaluator):
    plan, weights, _ = first_run(evaluator, name)
    twin, _ = train_twin(plan, table(CASES[name]), 5)
    error, planned = largest_error(weights, twin), plan.precision.weight_error
    assert planned / 1e4 < error <= surely(planned, plan.layout.features)
    assert planned < np.abs(twin[0]).max() / 10


@pytest.mark.parametrize("name", ["one step", "three steps", "batches"])
def test_keys_levels_and_traffic_are_those_of_the_plan(name):
    plan, shards = plan_of("native", CASES[name]), table(CASES[name])
    steps, parties = CASES[name].local_iterations, plan.workload.n_parties
    assert isinstance(plan, LocalPlan)
    assert plan.workload.levels == 4 * steps == plan.parameters.n_limbs - plan.low_limbs
    assert not plan.key_plan.root_only
    assert set(plan.layout.fold_steps) <= set(plan.key_plan.everywhere)

    def program(collective):
        collective.bind(plan.parameters.digest)
        party, reports = make_party("native", collective, plan), []
        party.make_keys(plan.key_plan)
        model, sent = model_of(plan), []

        def report(iteration):
            reports.append(iteration.levels)
            sent.append(dict(collective.metrics.snapshot()["iteration"]))

        train(party, model, pack_batches(model, *shards[collective.rank], 0, collective.rank, True), report)
        party.close()
        assert set(reports) == {4 * steps}
        return {name: sent[1][name] - sent[0][name] for name in ("bytes_sent", "bytes_received", "rounds")}

    tree = Tree(parties, 2, 0)
    for rank, found in enumerate(run_parties(parties, program)):
        planned = predict(tree, rank, plan.iteration_transfers)
        assert found["rounds"] == planned.rounds
        assert found["bytes_sent"] == pytest.approx(planned.bytes_sent, rel=0.05)
        assert found["bytes_received"] == pytest.approx(planned.bytes_received, rel=0.05)


def test_ranges_are_probed_before_the_first_step():
    task = workload((20, 15), 3, local_iterations=2, range_every=1, link=sigmoid_polynomial(3, 0.3))
    plan, shards = plan_of("native", task), table(task)
    told, probe = [], range_probe(plan)

    def program(collective):
        party, model = make_party("native", collective, plan), model_of(plan)
        party.make_keys(plan.key_plan)
        batches = pack_batches(model, *shards[collective.rank], 0, collective.rank, True)
        train(party, model, batches, lambda _: None, (), told.append if collective.rank == 0 else lambda _: None)
        party.close()

    run_parties(2, program)
    whole = with_constant(np.concatenate([x for x, _ in shards]))
    for t, found in enumerate(told):
        before = workload((20, 15), 3, local_iterations=2, link=task.link, iterations=t)
        w = federated_averaging(before, shards)
        total = np.sum((whole @ w / 0.3) ** probe.power)
        assert abs((found.reach[1] / 0.3) ** probe.power - probe.error - total) <= 2 * probe.error + 1e-6 * total
    assert [found.outside for found in told] == [False, True, True]


def test_a_plan_at_128_bits():
    task = workload((614 // 4,) * 4, 8, local_iterations=2, iterations=5, release_bits=40)
    (plan,) = choose_local_plans(task, Choice(128, 128), generate_moduli, free=True)
    assert plan.parameters.security_bits == 128
    assert plan.parameters.depth == 8
    assert plan.precision.weight_error <= 1e-2
    with pytest.raises(ParameterError):
        choose_local_plans(
            workload((20, 15), 3, local_iterations=16), Choice(128, 128, ring_dim=1 << 13), generate_moduli, free=True
        )


@pytest.mark.parametrize("name", ["two steps", "blocks", "batches"])
def test_noise_that_the_smudging_hides_is_below_its_bound(name):
    """Two runs differ by noise only."""
    (plan, _, first), (_, _, second) = first_run("native", name), run_of("native", name)
    difference = np.linalg.norm(second - first) / np.sqrt(2)
    assert 0 < difference < plan.precision.weight_noise_norm
