"""Proposed intervals: what the simulations meet, and what is made of their counts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scripts.planning
from mhe.errors import ConfigError
from mhe.protocols.decryption import DecryptionProtocol
from models.activations import identity, sigmoid, square
from models.data import pooled
from models.interval import BEYOND, BINS, LARGEST, SMALLEST, ExactFunctions, histogram, reach_of, simulate
from models.training import standardisation
from models.twin import train_twin
from network.local import run_parties
from scripts.config import parse_config
from scripts.interval import ACTIVATIONS, check_kind, propose
from tests.insecure import (
    finding,
    insecure_test_newton_plan,
    insecure_test_perceptron_plan,
    insecure_test_plan,
    table,
    workload,
)

SETTINGS = {
    "data": {"train": "builtin:pima", "label": "diabetes"},
    "training": {"iterations": 5, "learning_rate": 1.5},
    "release": {"what": "nothing", "statistical_bits": 30},
}


def functions_of(task):
    """The polynomials themselves, so that a simulation is the clear twin."""
    link = task.link if task.link.degree > 1 else None
    if task.activation is None:
        return ExactFunctions(link, lambda z: z, np.ones_like, task.link.largest_slope)
    return ExactFunctions(link, task.activation, task.activation.derivative, task.link.largest_slope)


TASKS = {
    "all rows": workload((40,), 4, iterations=6, momentum=0.5, l2=0.1),
    "newton": workload((40,), 4, iterations=3, condition=1e4),
    "perceptron": workload(
        (40,), 4, outputs=3, hidden=(5, 4), activation=square((-8, 8)), link=identity(), iterations=5, learning_rate=0.1
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_simulation_meets_what_the_twin_meets(name):
    task, shards = TASKS[name], table(TASKS[name])
    (shard,) = shards
    lowest, highest = simulate(task, functions_of(task), *shard, rank=0)
    assert lowest.shape == highest.shape == (40,)
    assert (lowest <= 0).all() and (highest >= 0).all()
    widest = max(-lowest.min(), highest.max())
    if name == "perceptron":
        # the twin looks at outputs too, which no polynomial takes here
        whole = replace(functions_of(task), link=lambda z: z)
        hidden, widest = widest, max(abs(side).max() for side in simulate(task, whole, *shard, rank=0))
        assert hidden <= widest
    plans = {
        "newton": insecure_test_newton_plan,
        "perceptron": partial(insecure_test_perceptron_plan, ring_dim=1 << 11),
    }
    plan = plans.get(name, insecure_test_plan)(task)
    # the twin of "newton" has an inverse that is good to a tenth
    tolerance = 0.1 if name == "newton" else 1e-12
    assert widest == pytest.approx(train_twin(plan, shards, task.seed)[1], rel=tolerance)


def test_divergence_is_as_far_as_it_goes():
    task = workload((40,), 4, iterations=60, link=identity(), learning_rate=1e3)
    exact = ExactFunctions(lambda z: z**3, lambda z: z, np.ones_like, 1.0)
    lowest, highest = simulate(task, exact, *table(task)[0], rank=0)
    counts = histogram(lowest, highest)
    assert counts.sum() == 80
    assert reach_of(counts, symmetric=True).high == LARGEST


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_derivatives(name):
    function, slope = ACTIVATIONS[name]
    z = np.linspace(-6, 6, 101)
    np.testing.assert_allclose((function(z + 1e-6) - function(z - 1e-6)) / 2e-6, slope(z), atol=1e-8)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 300), min_size=1, max_size=60), st.integers(1, 100), st.booleans())
def test_nearly_all_rows_stay_within_what_is_proposed(distances, copies, symmetric):
    highest = np.repeat(distances, copies)
    lowest = -highest / 2
    counts = histogram(lowest, highest)
    assert counts.shape == (2 * BINS,)
    assert counts.sum() == 2 * len(highest)
    reach = reach_of(counts, symmetric=symmetric)
    low, high = reach.interval
    beyond = max((highest > high).sum(), (lowest < low).sum())
    # beyond the last bin nothing is told apart
    assert beyond <= BEYOND * len(highest) or highest.max() > LARGEST
    assert high >= 1.25 * reach.high and low <= 1.25 * reach.low
    assert reach.high >= SMALLEST and (low == -high or not symmetric)
    # no further than to the next bin beyond the rows
    assert reach.high <= max(1.1 * highest.max(), SMALLEST)


@pytest.mark.parametrize("backend", ["native", "clear"])
def test_parties_learn_the_summed_counts_and_nothing_else(backend, monkeypatch):
    opened, share = [], DecryptionProtocol.share

    def recording(protocol, secret):
        opened.append(protocol.count)
        return share(protocol, secret)

    monkeypatch.setattr(DecryptionProtocol, "share", recording)
    monkeypatch.setattr(
        scripts.planning, "best_plans", finding(lambda w, *_, **__: insecure_test_plan(w, scale_bits=58))
    )
    config = parse_config({**SETTINGS, "crypto": {"backend": backend}})
    first, *others = run_parties(3, lambda collective: propose(config, collective))
    shards = pooled(config.source, 3)
    whole = np.concatenate([s.features for s in shards])
    standard = standardisation(whole.mean(axis=0), whole.var(axis=0))
    task = workload(
        tuple(s.n_rows for s in shards), 8, iterations=5, learning_rate=1.5, momentum=0.5, release_bits=30
    )  # fmt: skip
    exact = ExactFunctions(sigmoid, lambda z: z, np.ones_like, 0.25)
    values = sorted({*shards[0].labels})
    expected = np.zeros(2 * BINS)
    for rank, s in enumerate(shards):
        y = np.searchsorted(values, s.labels)[:, None].astype(float)
        expected += histogram(*simulate(task, exact, standard(s.features), y, rank))
    np.testing.assert_array_equal(first.counts, expected)
    assert first.reach.low == -first.reach.high
    low, high = first.reach.interval
    assert 1 < high < 16 and low == -high
    for other in others:
        np.testing.assert_array_equal(other.counts, first.counts)
    if backend == "native":
        assert sorted(opened) == [8] * 6 + [256] * 3


def test_models_without_a_polynomial_need_no_interval():
    with pytest.raises(ConfigError, match="has no polynomial and needs no interval"):
        check_kind(parse_config({**SETTINGS, "model": {"kind": "linear"}}))
    check_kind(parse_config({**SETTINGS, "model": {"kind": "poisson"}}))
