"""How noisy predictions are when they are delivered: all coefficients, for the largest rows, against their bound."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from mhe.backend.clear import ClearBackend
from models.activations import identity, square
from models.model import model_of
from models.perceptron import with_constant
from models.precision import ROW_NORM_LIMIT
from models.refresh_points import RefreshPoints
from models.twin import train_twin
from tests import oracle
from tests.complex_slots import complex_slots, noise_norm
from tests.evaluators import make_party, perceptron_plan_of, plan_of
from tests.insecure import clear_party, insecure_test_perceptron_plan, table, workload
from tests.runs import trained

N_PARTIES = 2
SETTINGS = {"release": "predictions", "test_rows": (4, 6), "momentum": 0.5}
HIDDEN = {"hidden": (5,), "activation": square((-8.0, 8.0)), "link": identity(), "learning_rate": 0.2}


def in_groups(plan):
    """With rows in several groups of several copies."""
    return replace(plan, packing=replace(plan.layout, n_diagonals=4, baby=2))


PLANS = {
    "few features": lambda: plan_of("native", workload((9, 7), 1, **SETTINGS), ring_dim=1 << 12, scale_bits=32),
    "many features": lambda: plan_of("native", workload((9, 7), 100, **SETTINGS), ring_dim=1 << 11, scale_bits=32),
    "many in groups": lambda: in_groups(PLANS["many features"]()),
    "softmax": lambda: perceptron_plan_of("native", workload((9, 7), 6, outputs=3, **SETTINGS), ring_dim=1 << 11),
    "perceptron": lambda: perceptron_plan_of(
        "native", workload((9, 7), 6, outputs=3, **SETTINGS, **HIDDEN), ring_dim=1 << 11
    ),
}


def largest_rows(n_rows, features, limit=ROW_NORM_LIMIT):
    """Of signs: as large as is allowed, the constant included."""
    signs = np.random.default_rng(n_rows).choice([-1.0, 1.0], size=(n_rows, features))
    return signs * np.sqrt((limit**2 * (features + 1) - 1) / features)


def delivered(plan, tests):
    """By party: what it gets before any smudging, the bound that hides it, its share; and the root's last weights."""
    shards = table(plan.workload)

    def after(party, rank, weights):
        found, deliver = [], party.deliver

        def listening(ciphertexts, bound):
            found.extend((party.backend.export_ciphertext(c), bound) for c in ciphertexts)
            return deliver(ciphertexts, bound)

        party.deliver = listening
        model = model_of(plan)
        model.predict(party, weights, tests[rank])
        kept = [party.backend.export_ciphertext(w) for w in model.keep(party, weights) or ()]
        return found, kept, oracle.coefficients_of(party._secret)

    outcomes = trained(plan, shards, partial(make_party, "native"), after)
    joint = oracle.joint([share for _, _, share in outcomes])
    return [found for found, _, _ in outcomes], outcomes[0][1], joint, train_twin(plan, shards, seed=0)[0]


@pytest.mark.parametrize("name", ["few features", "many features", "many in groups"])
def test_logits_of_the_largest_rows_stay_within_their_bound(name):
    """Both the noise of training and delivery together, and what is added after the weights alone.

    All coefficients count, so that what is delivered is nothing but logits.
    """
    plan = PLANS[name]()
    tests = [largest_rows(rows, plan.workload.features) for rows in plan.workload.test_rows]
    found, (weights,), joint, (twin,) = delivered(plan, tests)
    exact = complex_slots(weights, plan.parameters, joint, plan.weights_period)[: plan.workload.features + 1]
    for x, (got,) in zip(tests, found, strict=True):
        norms = []
        for w in (twin[:, 0], exact):
            outputs = with_constant(x) @ w
            logits = plan.layout.placed(outputs.real) + 1j * plan.layout.placed(outputs.imag)
            norms.append(noise_norm(got[0], plan.parameters, joint, logits))
        assert got[1] == plan.precision.logit_noise_norm
        assert norms[0] < plan.precision.logit_noise_norm < norms[0] * 2**16
        # a mask errs in proportion to the outputs, and these count as if weights were at message_bound
        slack = 2**12 if plan.layout.is_cyclic else 2**16
        assert norms[1] < plan.precision.logit_added_norm < norms[1] * slack


@pytest.mark.parametrize("name", ["softmax", "perceptron"])
def test_outputs_of_the_largest_rows_stay_within_their_bound(name):
    """Of hidden layers those whose activations stay within their interval."""
    plan = PLANS[name]()
    limit = 1.5 if plan.network.hidden else ROW_NORM_LIMIT
    tests = [largest_rows(rows, plan.workload.features, limit) for rows in plan.workload.test_rows]
    found, _, joint, twin = delivered(plan, tests)
    last = plan.network.n_layers - 1
    for x, tiles in zip(tests, found, strict=True):
        outputs = plan.tiles.with_copies(last, plan.network.outputs_of(twin, x))
        slots = plan.layout.pack(outputs, plan.network.form(last))
        for got, expected in zip(tiles, slots, strict=True):
            norm = noise_norm(got[0], plan.parameters, joint, expected)
            assert got[1] == plan.precision.logit_noise_norm
            assert norm < plan.precision.logit_noise_norm < norm * 2**14


@pytest.mark.parametrize("gradients", [True, False])
def test_columns_that_hold_no_output_are_delivered_empty(gradients, monkeypatch):
    """What a step leaves beside the weights is masked with them, and what the rounding of that mask lets through with
    the outputs: without noise, only the rounding of the second mask is left of it.
    """
    points = RefreshPoints(gradients=gradients)
    task = workload((16, 16), 60, outputs=3, batch=8, iterations=3, **SETTINGS)
    plan = insecure_test_perceptron_plan(task, width=8, ring_dim=1 << 9, points=points)
    monkeypatch.setattr(ClearBackend, "_noisy", lambda self, values, std: values)
    layout, columns = plan.layout, np.arange(plan.layout.stride)
    empty = np.resize((columns >= task.outputs) & (columns < layout.width), plan.parameters.n_slots)

    def after(party, rank, weights):
        found, deliver = [], party.deliver

        def listening(ciphertexts, bound):
            found.extend(np.resize(party.backend.export_ciphertext(c).values[0], empty.shape) for c in ciphertexts)
            return deliver(ciphertexts, bound)

        party.deliver = listening
        model_of(plan).predict(party, weights, np.random.default_rng(rank).normal(size=(4, 60)))
        beside = [
            np.abs(np.resize(party.backend.export_ciphertext(w).values[0], mask.shape)[mask == 0]).max()
            for w, mask in zip(weights or (), plan.valid, strict=bool(weights))
        ]
        return found, beside

    for found, beside in trained(plan, table(task), clear_party, after):
        assert all(each > 1e-3 for each in beside)
        for values in found:
            assert np.abs(values[~empty]).max() > 1e-3
            assert np.abs(values[empty]).max() < 2.0**-55
