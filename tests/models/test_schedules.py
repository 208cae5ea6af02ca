"""Learning-rate schedules: the rates, and that twin, simulation and encrypted training take them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.activations import identity, square
from models.precision import squared_gain
from models.schedules import pace
from models.training import batch_indices
from models.twin import train_twin
from tests.evaluators import make_party, perceptron_plan_of, plan_of
from tests.insecure import clear_party, insecure_test_perceptron_plan, insecure_test_plan, table, workload
from tests.runs import largest_error, released, surely

SCHEDULES = ("constant", "inverse", "exponential", "cosine")
FALLING = SCHEDULES[1:]

REGRESSION = workload((20, 15), 3, momentum=0.5, l2=0.3, batch=10, iterations=6, schedule_decay=0.4)
PERCEPTRON = workload(
    (16, 5), 7, outputs=3, hidden=(9,), activation=square((-4.0, 4.0)), link=identity(), batch=8, momentum=0.5, l2=0.3,
    learning_rate=0.2, iterations=4, seed=4, schedule_decay=0.4,
)  # fmt: skip


@given(st.sampled_from(SCHEDULES), st.floats(1e-3, 10), st.integers(1, 200))
def test_rates_start_whole_and_fall(schedule, decay, iterations):
    found = [pace(schedule, decay, t, iterations) for t in range(iterations)]
    assert found[0] == 1
    assert all(0 <= after <= before for before, after in pairwise(found))
    if schedule == "constant":
        assert set(found) == {1.0}


def test_rates_of_the_sources():
    assert [pace("inverse", 0.5, t, 4) for t in range(4)] == pytest.approx([1, 1 / 1.5, 1 / 2, 1 / 2.5])
    assert [pace("exponential", np.log(2), t, 4) for t in range(4)] == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8])
    assert [pace("cosine", 0.1, t, 4) for t in range(4)] == pytest.approx([1, 0.85355339, 0.5, 0.14644661])


@pytest.mark.parametrize("schedule", FALLING)
def test_twin_takes_the_rates(schedule):
    task = replace(REGRESSION, schedule=schedule)
    shards = table(task)
    w = previous = np.zeros((4, 1))
    pieces = [batch_indices(len(x), 10, 0, rank) for rank, (x, _) in enumerate(shards)]
    for t in range(6):
        rate = task.learning_rate * pace(schedule, 0.4, t, 6)
        v = 1.5 * w - 0.5 * previous
        rows = [(x[p[t % len(p)]], y[p[t % len(p)]]) for (x, y), p in zip(shards, pieces, strict=True)]
        x = np.concatenate([np.column_stack([x, np.ones(len(x))]) for x, _ in rows])
        y = np.concatenate([y for _, y in rows])
        penalty = 0.3 * v * np.array([[1], [1], [1], [0]])
        w, previous = v - rate * (x.T @ (task.link(x @ v) - y) / len(x) + penalty), w
    (twin,), _ = train_twin(insecure_test_plan(task), shards, 0)
    np.testing.assert_allclose(twin, w, rtol=0, atol=1e-13)
    (constant,), _ = train_twin(insecure_test_plan(REGRESSION), shards, 0)
    assert np.abs(twin - constant).max() > 1e-2


@pytest.mark.parametrize("schedule", FALLING)
def test_simulation_without_noise_is_the_twin(schedule):
    for task, small in ((REGRESSION, insecure_test_plan), (PERCEPTRON, insecure_test_perceptron_plan)):
        plan = small(replace(task, schedule=schedule))
        shards = table(task)
        twin, _ = train_twin(plan, shards, 0)
        found = released(plan, shards, partial(clear_party, noise=False))
        assert largest_error(found, twin) <= 1e-12


@pytest.mark.parametrize("schedule", FALLING)
def test_encrypted_regressions_are_the_twins(schedule, real_evaluator):
    plan = plan_of(real_evaluator, replace(REGRESSION, schedule=schedule))
    shards = table(REGRESSION)
    twin, _ = train_twin(plan, shards, 0)
    error = largest_error(released(plan, shards, partial(make_party, real_evaluator)), twin)
    planned = plan.precision.weight_error
    assert planned / 1000 < error <= surely(planned, plan.layout.features)


def test_encrypted_perceptrons_are_the_twins():
    plan = perceptron_plan_of("native", replace(PERCEPTRON, schedule="inverse"))
    shards = table(PERCEPTRON)
    twin, _ = train_twin(plan, shards, 0)
    error = largest_error(released(plan, shards, partial(make_party, "native")), twin)
    assert 0 < error <= surely(plan.precision.weight_error, 200)


@pytest.mark.parametrize("schedule", FALLING)
def test_noise_is_kept_as_long_as_by_the_slowest_step(schedule):
    """What shrinks weights shrinks their noise: less so at a slower pace."""
    task = replace(REGRESSION, schedule=schedule)
    assert task.weight_decay == 1 - 0.3 * task.pace(task.iterations) > REGRESSION.weight_decay
    response, previous, gains = 1.0, 0.0, []
    for injected in range(1, 7):
        response, previous = 1.0, 0.0
        for t in range(injected + 1, 7):
            kept = task.kept_at(task.pace(t))
            response, previous = kept * (1.5 * response - 0.5 * previous), response
        gains.append(response**2)
    assert sum(gains) <= squared_gain(0.5, task.weight_decay, 6)
