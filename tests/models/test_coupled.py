"""Softmax with coupled classes: the expansion, its gradient, and twin <-> simulated <-> encrypted."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhe.errors import ParameterError
from models.activations import quadratic_softmax, softmax, square
from models.perceptron import Perceptron, with_constant
from models.twin import train_twin
from tests.evaluators import make_party, perceptron_plan_of
from tests.insecure import clear_party, insecure_test_perceptron_plan, table, workload
from tests.runs import largest_error, released, surely

SMALL = {"width": 8, "ring_dim": 1 << 9}


def coupled(classes, features=7, **changes):
    settings = {"batch": 8, "momentum": 0.5, "l2": 0.1, "learning_rate": 0.5, "iterations": 4, **changes}
    link = quadratic_softmax(classes, (-4.0, 4.0))
    return workload((16, 5, 12), features, outputs=classes, link=link, coupled=True, **settings)


CASES = {
    "two classes": coupled(2),
    "three classes": coupled(3),
    "as many as fit": coupled(4),
    # both copies of an error are used
    "two tiles of inputs": coupled(3, features=12),
    "three tiles of inputs": coupled(4, features=17, learning_rate=0.25),
    "no momentum": coupled(4, momentum=0.0, l2=0.0),
    "cosine": coupled(3, schedule="cosine"),
}


def projected(q):
    return q - q.mean(axis=1, keepdims=True)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**32), st.floats(1e-3, 0.3))
def test_it_is_softmax_to_second_order(classes, seed, size):
    u = projected(np.random.default_rng(seed).uniform(-size, size, (5, classes)))
    link = quadratic_softmax(classes, (-8.0, 8.0))
    found = projected(link(u)) + 1 / classes
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
    # Taylor: third derivatives of a softmax are below 1 in sum, arguments below size
    assert np.abs(found - softmax(u)).max() <= 2 * size**3
    without = 1 / classes + u / classes
    if size > 0.1 and classes > 2:
        assert np.abs(found - softmax(u)).mean() < np.abs(without - softmax(u)).mean()


def test_the_largest_error_is_said():
    link = quadratic_softmax(4, (-2.0, 2.0))
    u = np.linspace(-2, 2, 401)
    z = np.column_stack([u, *[-u / 3] * 3])
    errors = np.abs((projected(link(z)) + 1 / 4 - softmax(z))[:, 0])
    assert link.max_error == pytest.approx(errors.max(), rel=1e-3)


def test_gradient_against_central_differences():
    """Of the sum of u/C + u^2/2C + u^3/6C - y u over the classes, along weights whose classes add up to 0."""
    classes = 3
    net = Perceptron(4, (), classes, square((-1.0, 1.0)), quadratic_softmax(classes, (-4.0, 4.0)), True)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(6, 4)), np.eye(classes)[random.integers(0, classes, 6)]
    w = projected(random.normal(0, 0.5, (5, classes)))
    (gradient,), _ = net.gradient([w], x, y)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-12)

    def loss(changed):
        z = with_constant(x) @ changed
        return np.sum((z + z**2 / 2 + z**3 / 6) / classes - y * z)

    for _ in range(10):
        direction = projected(random.normal(size=w.shape))
        slope = (loss(w + 1e-5 * direction) - loss(w - 1e-5 * direction)) / 2e-5
        assert np.sum(gradient * direction) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_simulation_without_noise_is_the_twin(name):
    plan, shards = insecure_test_perceptron_plan(CASES[name], **SMALL), table(CASES[name])
    twin, widest = train_twin(plan, shards, 5)
    np.testing.assert_allclose(twin[0].sum(axis=1), 0, atol=1e-12)
    assert 0.1 < widest < 4
    found = released(plan, shards, partial(clear_party, noise=False), seed=5)
    assert largest_error(found, twin) <= 1e-12


@pytest.mark.parametrize("name", ["two classes", "as many as fit", "two tiles of inputs"])
def test_encrypted_training_is_the_twins(name, real_evaluator):
    plan, shards = perceptron_plan_of(real_evaluator, CASES[name], **SMALL), table(CASES[name])
    assert plan.levels == 3
    twin, _ = train_twin(plan, shards, 5)
    error = largest_error(released(plan, shards, partial(make_party, real_evaluator), seed=5), twin)
    assert 0 < error <= surely(plan.precision.weight_error, 8 * CASES[name].outputs)
    assert plan.precision.weight_error < 0.05


def test_coupled_outputs_lie_in_one_tile_without_hidden_layers():
    with pytest.raises(ParameterError, match="5 coupled outputs need a tile of 16 columns, without hidden layers"):
        insecure_test_perceptron_plan(coupled(5), **SMALL)
    with pytest.raises(ParameterError, match="3 coupled outputs need a tile of 8 columns, without hidden layers"):
        insecure_test_perceptron_plan(coupled(3, hidden=(4,), activation=square((-4.0, 4.0))), **SMALL)
