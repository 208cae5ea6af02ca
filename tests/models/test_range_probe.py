"""Range probes: what they say of inputs in the clear, under encryption, and what of it is hidden."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhe.errors import ParameterError
from mhe.parameters import log2_product
from models.activations import approximate, exponential, identity, quadratic_softmax, square
from models.model import model_of
from models.perceptron import with_constant
from models.precision import MOST_TOLD
from models.range_probe import RangeProbe, range_probe
from models.training import RANGE, batch_indices, pack_batches, prepare, train
from models.twin import train_twin
from network.local import run_parties
from network.topology import Tree
from network.traffic import predict
from tests import oracle
from tests.evaluators import EVALUATORS, REAL, make_party, perceptron_plan_of, plan_of
from tests.insecure import (
    insecure_test_newton_plan,
    insecure_test_perceptron_plan,
    insecure_test_plan,
    sigmoid_polynomial,
    table,
    workload,
)

EXPONENTIAL = approximate(exponential, 4, (-2.0, 3.0), "least_squares")

CUBIC, SQUARE = sigmoid_polynomial(3, 6.0), square((-4.0, 4.0))


def tiled(hidden=(), activation=None, link=CUBIC, **changes):
    """Of 8 rows in a batch one party has fewer; tiles have 8 columns."""
    often = {"iterations": 2 if hidden else 4, "range_every": 2}
    settings = {"batch": 8, "momentum": 0.5, "learning_rate": 0.2, **often, **changes}
    return workload((16, 5), 7, hidden=hidden, activation=activation, link=link, **{"outputs": 3, **settings})


REGRESSIONS = {
    "two parties": workload((20, 15), 3, momentum=0.5, range_every=1),
    "every second": workload((20, 15, 1), 5, iterations=5, l2=0.1, range_every=2),
    "wide": workload((12, 9), 100, learning_rate=0.05, l2=0.1, range_every=3),
    "blocks": workload((1100, 600), 3, momentum=0.9, iterations=3, range_every=3),
    "batches": workload((50, 1, 30), 3, batch=16, momentum=0.5, iterations=4, range_every=2),
    "degree 7": workload((20, 15), 8, momentum=0.5, link=sigmoid_polynomial(7, 20.0), range_every=3),
    "interval of another middle": workload((30, 25), 3, link=EXPONENTIAL, learning_rate=0.2, range_every=1),
    "outside": workload((40, 30), 3, iterations=4, link=sigmoid_polynomial(3, 0.5), range_every=2),
}
TILED = {
    "softmax": tiled(learning_rate=1.0, range_every=1),
    "softmax of two tiles": tiled(outputs=10, learning_rate=1.0),
    "softmax of coupled classes": tiled(link=quadratic_softmax(3, (-4.0, 4.0)), coupled=True, learning_rate=1.0),
    "one hidden layer": tiled((9,), SQUARE, identity()),
    "two hidden layers, sigmoids": tiled((5, 3), CUBIC, CUBIC),
    "layers of another middle": tiled((5, 3), square((-3.0, 5.0)), sigmoid_polynomial(3, 6.0)),
    "softmax outside": tiled(link=sigmoid_polynomial(3, 0.2), learning_rate=1.0),
    "a layer outside": tiled((5, 3), square((-0.5, 0.5)), identity()),
}
CASES = {**REGRESSIONS, **TILED}


def plan_for(evaluator, name):
    task = CASES[name]
    return perceptron_plan_of(evaluator, task, width=8, ring_dim=1 << 9) if name in TILED else plan_of(evaluator, task)


def inputs_of(plan, shards, iteration, seed=0):
    """t of all rows of this iteration and of all layers, by the clear twin; the last one's as often as it is copied."""
    task, beta, net = plan.workload, plan.momentum, plan.network
    found = []
    for iterations in (iteration - 1, iteration - 2):
        shorter = replace(plan, workload=replace(task, iterations=max(iterations, 0), range_every=None))
        first = net.initial_weights(task.seed)
        found.append(train_twin(shorter, shards, seed)[0] if iterations > 0 else first)
    low, high = net.interval
    rows = []
    for rank, (x, _) in enumerate(shards):
        pieces = batch_indices(len(x), task.batch, seed, rank)
        rows.append(x[pieces[(iteration - 1) % len(pieces)]])
    a, inputs = np.concatenate(rows), []
    for layer, (w, previous, function) in enumerate(zip(*found, net.functions, strict=True)):
        z = with_constant(a) @ ((1 + beta) * w - beta * previous)
        copied = 0 < layer == net.n_layers - 1
        copies = plan.layout.width // min(plan.layout.width, 1 << (net.outputs - 1).bit_length()) if copied else 1
        inputs += [z.ravel()] * copies * (function.degree > 1)
        a = function(z)
    return (np.concatenate(inputs) - (low + high) / 2) / ((high - low) / 2)


def probed(plan, shards, join):
    """What every party is told; they must agree."""
    model = model_of(plan)

    def program(collective):
        party, told = join(collective, plan), []
        party.make_keys(plan.key_plan)
        batches = pack_batches(model, *shards[collective.rank], 0, collective.rank, True)
        train(party, model, batches, lambda _: None, prepare(party, model, batches), told.append)
        party.close()
        return told

    first, *others = run_parties(plan.workload.n_parties, program)
    assert all(other == first for other in others)
    return first


@lru_cache
def run_of(evaluator, name):
    """(what is told, what is opened for it with the bound on its noise, the joint secret) of one encrypted training."""
    opened, secrets = [], []

    def join(collective, plan):
        party = make_party(evaluator, collective, plan)
        if evaluator == "clear":
            return party
        secrets.append(oracle.coefficients_of(party._secret))
        original = party.mean

        def mean(ciphertext, limbs, scale, noise_norm):
            if ciphertext is not None:
                opened.append((party.backend.export_ciphertext(ciphertext), noise_norm))
            return original(ciphertext, limbs, scale, noise_norm)

        party.mean = mean
        return party

    told = probed(plan_for(evaluator, name), table(CASES[name]), join)
    return told, opened, oracle.joint(secrets) if secrets else None


def sum_of(probe, found):
    """S, as it was released."""
    return ((found.reach[1] - probe.middle) / probe.radius) ** probe.power - probe.error


# of inputs far outside the bound says nothing (SECURITY.md)
BOUNDED = ["two parties", "blocks", "degree 7", "interval of another middle", *(t for t in TILED if "outside" not in t)]


ON_OPENFHE = (
    "degree 7",
    "interval of another middle",
    "softmax of two tiles",
    "softmax of coupled classes",
    "two hidden layers, sigmoids",
)
"""The deepest circuit of each kind; parties, batches and blocks of any number are shown on the others."""


@pytest.mark.parametrize(
    ("name", "evaluator"),
    [(name, each) for name in CASES for each in EVALUATORS if each != "openfhe" or name in ON_OPENFHE],
)
def test_probes_tell_the_inputs_of_the_twin(name, evaluator):
    task, shards, plan = CASES[name], table(CASES[name]), plan_for(evaluator, name)
    probe = range_probe(plan)
    told, _, _ = run_of(evaluator, name)
    every = task.range_every
    assert [found.iteration for found in told] == list(range(every, task.iterations + 1, every))
    outside = []
    for found in told:
        t = inputs_of(plan, shards, found.iteration)
        total = np.sum(t**probe.power)
        if found.reach is None:
            # more than the limbs have to hold
            assert total > 0.99 * probe.slots * (2 * MOST_TOLD) ** probe.power
        else:
            # an error is exceeded with probability 1e-3
            assert abs(sum_of(probe, found) - total) <= 2 * probe.error + 1e-6 * total
            assert found.reach[0] <= probe.middle - probe.radius * np.abs(t).max()
            assert found.reach[1] >= probe.middle + probe.radius * np.abs(t).max()
        assert found.surely <= np.abs(t).max()
        assert len(t) == probe.inputs.values
        assert found.interval == plan.network.interval
        assert not found.outside or total > 1
        outside.append(found.outside)
    assert any(outside) == ("outside" in name)
    assert any(found.reach is None for found in told) == (name == "softmax outside")


def test_newtons_steps_are_probed_too():
    task = workload((30, 25), 3, condition=100.0, iterations=2, range_every=1)
    plan, shards = insecure_test_newton_plan(task), table(task)
    probe = range_probe(plan)
    told = probed(plan, shards, partial(make_party, "native"))
    totals = [np.sum(inputs_of(plan, shards, found.iteration) ** probe.power) for found in told]
    assert totals[0] == 0 < totals[1]
    for found, total in zip(told, totals, strict=True):
        assert abs(sum_of(probe, found) - total) <= 2 * probe.error + 1e-6


@lru_cache
def probe_of_two(name):
    return RangeProbe(insecure_test_plan(replace(CASES[name], rows=(20, 15))))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=35, max_size=35),
    st.floats(-1, 1),
    st.sampled_from(["two parties", "interval of another middle"]),
)
def test_what_is_said_holds_for_any_inputs(values, noise, name):
    probe = probe_of_two(name)
    t = np.array(values)
    total = np.sum(t**probe.power)
    found = probe.judge(1, float(total + noise * probe.error) / probe.inputs.period)
    z = probe.middle + probe.radius * t
    assert found.reach[0] <= z.min() + 1e-9
    assert found.reach[1] >= z.max() - 1e-9
    assert found.surely <= np.abs(t).max() + 1e-9
    if np.abs(t).max() > probe.told:
        assert found.outside
    if total <= 1:
        assert not found.outside


@pytest.mark.parametrize("name", ["two parties", "interval of another middle"])
@given(st.floats(0.0, 1.0), st.booleans())
def test_how_far_inputs_reach_that_the_limbs_do_not_hold_is_not_said(name, part, negative):
    """What is released then is any number that the limbs hold."""
    probe = probe_of_two(name)
    bits, scale = log2_product(probe.plan.parameters.moduli[: probe.limbs]), probe.scale(probe.squarings)
    beyond = probe.slots * (2 * MOST_TOLD) ** probe.power / probe.inputs.period
    wrapped = beyond * (2.0 ** (bits - 1) / scale / beyond) ** part
    found = probe.judge(1, -wrapped if negative else wrapped)
    assert found.outside
    assert found.reach is None
    assert found.surely > 0.99 * 2 * MOST_TOLD
    assert "farther out than a probe can tell, the largest at least" in found.said
    inside = probe.judge(1, 0.99 * beyond)
    assert inside.reach is not None
    assert "may lie anywhere in [" in inside.said


@pytest.mark.parametrize(
    ("name", "evaluator"),
    [(name, each) for name in BOUNDED for each in REAL if each != "openfhe" or name in ON_OPENFHE],
)
def test_noise_of_what_is_opened_is_below_its_bound(name, evaluator):
    shards, plan = table(CASES[name]), plan_for(evaluator, name)
    probe = range_probe(plan)
    told, opened, secret = run_of(evaluator, name)
    assert len(opened) == len(told) > 0
    for found, (ciphertext, bound) in zip(told, opened, strict=True):
        coefficient = oracle.message_integers(ciphertext, plan.parameters, secret)[0]
        exact = np.sum(inputs_of(plan, shards, found.iteration) ** probe.power) / probe.inputs.period
        noise = abs(float(coefficient) - exact * ciphertext.scale)
        assert bound == probe.noise_norm
        assert noise < bound


def test_probes_count_among_the_releases():
    task = CASES["every second"]
    assert insecure_test_plan(task).releases == insecure_test_plan(replace(task, range_every=None)).releases + 2


def test_nothing_is_probed_without_being_asked_for():
    task = replace(CASES["two parties"], range_every=None)
    assert range_probe(insecure_test_plan(task)) is None
    assert probed(insecure_test_plan(task), table(task), partial(make_party, "clear")) == []


def test_a_probe_that_tells_nothing_is_refused():
    plan = insecure_test_plan(replace(CASES["two parties"], release_bits=128))
    with pytest.raises(ParameterError, match=r"would not tell inputs of twice the interval: 3 probes .* 128 stat"):
        range_probe(plan)


def test_without_a_polynomial_there_is_nothing_to_probe():
    with pytest.raises(ParameterError, match="leave range_every away"):
        range_probe(insecure_test_plan(workload(link=identity(), range_every=1)))
    with pytest.raises(ParameterError, match="this one has none: leave range_every away"):
        range_probe(perceptron_plan_of("native", tiled(link=identity()), width=8, ring_dim=1 << 9))


@pytest.mark.parametrize(
    ("hidden", "n_parties", "arity", "root"),
    [(None, 1, 2, 0), (None, 4, 3, 0), ((), 3, 2, 1), ((5,), 3, 2, 1)],
)
def test_traffic_of_a_probe_is_foretold_to_the_byte(hidden, n_parties, arity, root):
    task = workload(tuple(range(3, 3 + n_parties)), 3, iterations=2, range_every=2)
    if hidden is None:
        plan = insecure_test_plan(task, ring_dim=1 << 7)
    else:
        task = replace(task, outputs=2, hidden=hidden, activation=SQUARE)
        plan = insecure_test_perceptron_plan(task, width=4, ring_dim=1 << 7)
    model, shards = model_of(plan), table(task)

    def program(collective):
        collective.bind(plan.parameters.digest)
        party = make_party("native", collective, plan)
        party.make_keys(plan.key_plan)
        batches = pack_batches(model, *shards[collective.rank], 0, collective.rank, True)
        train(party, model, batches, lambda _: None)
        party.close()
        return collective.metrics.snapshot()[RANGE]

    for rank, found in enumerate(run_parties(n_parties, program, arity=arity, root=root)):
        planned = predict(Tree(n_parties, arity, root), rank, range_probe(plan).transfers)
        assert found["bytes_sent"] == planned.bytes_sent
        assert found["bytes_received"] == planned.bytes_received
        assert found["rounds"] == planned.rounds
