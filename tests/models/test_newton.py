"""Solver "newton": exact inverse <-> scheduled <-> simulated <-> encrypted, and the regressions made of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from mhe.backend.native import NativeBackend
from mhe.clear_party import ClearParty
from mhe.encrypted_party import EncryptedParty
from mhe.errors import ParameterError
from mhe.moduli import generate_moduli
from mhe.parameters import refresh_floor_bits
from mhe.security import tail
from models.activations import identity
from models.choice import Choice
from models.inverse import MAX_CONDITION, InverseSchedule
from models.matrices import (
    MAP_LEVELS,
    MatrixLayout,
    lower_matrix,
    multiply,
    skewed_form,
    spread_form,
    weights_form,
)
from models.model import model_of
from models.newton import invert
from models.newton_plan import EXACT_INVERSE, FixedHessianPlan, newton_levels, newton_message_bits
from models.newton_search import choose_newton_plan
from models.precision import PREDICTED_QUANTILE
from models.training import pack_batches, prepare, train
from models.twin import train_twin
from network.local import run_parties
from network.topology import Tree
from network.traffic import predict
from tests.insecure import (
    FIRST_BITS,
    INSECURE_TEST_RING_DIM,
    INSECURE_TEST_STATISTICAL_BITS,
    clear_backend,
    clear_ciphertext,
    insecure_test_parameters,
    sigmoid_polynomial,
    table,
    workload,
)

CONDITION = 100.0


def task_of(rows, features, *, linear=False, **changes):
    settings = {"condition": CONDITION, "iterations": 1 if linear else 2}
    if linear:
        settings["link"] = identity()
    return workload(rows, features, **{**settings, **changes})


def plan_of(task, *, scale_bits=45, ring_dim=INSECURE_TEST_RING_DIM, missing_limbs=0):
    """INSECURE: on the shortest chain that the task needs, in a small ring."""
    bits, statistical = newton_message_bits(task, scale_bits), INSECURE_TEST_STATISTICAL_BITS
    floor = refresh_floor_bits(statistical, scale_bits, bits, task.n_parties)
    refresh_limbs = 1 + math.ceil((floor + 0.5 - FIRST_BITS) / scale_bits)
    parameters = insecure_test_parameters(
        ring_dim,
        refresh_limbs + newton_levels(task) - missing_limbs,
        scale_bits=scale_bits,
        n_parties=task.n_parties,
        refresh_limbs=refresh_limbs,
        message_bits=bits,
    )
    return FixedHessianPlan(task, parameters, centred=True)


def shards_of(task, seed=0):
    return table(task, seed)


def clear_party(collective, plan, *, noise):
    options = {"statistical_bits": plan.workload.release_bits, "releases": plan.releases}
    return ClearParty(collective, plan.parameters, **options, noise=noise)


def encrypted_party(collective, plan):
    options = {"statistical_bits": plan.workload.release_bits, "releases": plan.releases}
    return EncryptedParty(collective, plan.parameters, NativeBackend, **options)


def trained(plan, shards, make_party, after):
    """after(party, model, encrypted weights) of every party, once it has trained."""
    model = model_of(plan)

    def program(collective):
        party = make_party(collective, plan)
        party.make_keys(plan.key_plan)
        batches = pack_batches(model, *shards[collective.rank], 0, collective.rank, True)
        prepared = prepare(party, model, batches)
        found = after(party, model, train(party, model, batches, lambda _: None, prepared))
        party.close()
        return found

    return run_parties(plan.workload.n_parties, program)


def released(plan, shards, make_party):
    models = trained(plan, shards, make_party, lambda party, model, w: model.release(party, w)[0])
    for other in models[1:]:
        np.testing.assert_array_equal(other, models[0])
    return models[0]


def noiseless(collective, plan):
    return clear_party(collective, plan, noise=False)


def noisy(collective, plan):
    return clear_party(collective, plan, noise=True)


def with_spectrum(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues), len(eigenvalues))))
    return q * eigenvalues @ q.T


# the schedule


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.floats(1.01, 1e4), st.floats(0.01, 100), st.integers(0, 2**32))
def test_schedule_inverts_every_spectrum_within_the_condition(n, condition, bound, seed):
    schedule = InverseSchedule(bound, condition, 1e-6)
    inner = np.random.default_rng(seed).uniform(bound / condition, bound, n)
    matrix = with_spectrum(np.append(inner, [bound / condition, bound]), seed)
    error = np.linalg.eigvalsh(schedule(matrix) @ matrix - np.eye(n + 2))
    assert np.abs(error).max() <= 1.01e-6 + 1e-12 * condition
    # Chebyshev polynomials of the doubled degree every round, and a round less would not do
    left = [1 / math.cosh(2.0**k * math.acosh((condition + 1) / (condition - 1))) for k in range(schedule.rounds + 1)]
    assert left[-1] <= 1.000001e-6
    assert all(r > 0.999999e-6 for r in left[:-1])


@pytest.mark.parametrize("error", [1e-6, 0.1])
def test_schedule_is_shorter_than_newton_schulz_and_bounded_without_condition(error):
    schedule = InverseSchedule(4.0, 1000.0, error)
    unscaled = math.log2(1001 / 2 * math.log(1 / error))
    assert schedule.rounds <= unscaled - 4
    singular = np.linalg.eigvalsh(schedule(with_spectrum(np.array([0.0, 1e-9, 1e-4, 1.0, 4.0]))))
    assert singular.min() > 0
    assert 0.99 * schedule.largest < singular.max() <= schedule.largest * (1 + 1e-9)


@pytest.mark.parametrize("condition", [1.0, 2 * MAX_CONDITION])
def test_condition_out_of_range_is_refused(condition):
    with pytest.raises(ParameterError, match=rf"condition is {condition:g}; need above 1 and at most 100000"):
        InverseSchedule(1.0, condition, 0.1)


# products


@pytest.mark.parametrize("side", [2, 4, 8, 16, 32])
def test_product_of_symmetric_matrices_takes_exactly_its_rotations(side):
    layout, random = MatrixLayout(side), np.random.default_rng(side)
    backend = clear_backend(2 * layout.period, noise=False)
    e, y = random.normal(size=(2, side, side))
    e += e.T
    slots = layout.pack(e, y)
    left = clear_ciphertext(backend, skewed_form(layout)(slots))
    right = backend.reread(clear_ciphertext(backend, weights_form(layout)(slots)), period=layout.period // 2)
    found = backend.export_ciphertext(multiply(backend, layout, left, right)).values[0]
    for got, expected in zip(layout.unpack(found), (e @ e, y @ e), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-12 * side)
    np.testing.assert_array_equal(found.reshape(-1, layout.stride)[:, side:], 0)
    assert backend.used_rotations == {r % backend.parameters.n_slots for r in layout.rotations}
    assert len(layout.rotations) <= 4


@pytest.mark.parametrize("side", [2, 4, 16, 64])
def test_maps_of_matrices(side):
    layout, random = MatrixLayout(side), np.random.default_rng(side)
    e, y = random.normal(size=(2, side, side))
    upper, lower = layout.unpack(lower_matrix(layout)(layout.pack(e, y)))
    np.testing.assert_array_equal(upper, y)
    np.testing.assert_array_equal(lower, 0)
    for length in (side, 2 * side):
        vector = random.normal(size=length)
        rows = spread_form(layout, length)(np.resize(vector, layout.period)).reshape(-1, layout.stride)
        np.testing.assert_array_equal(rows, np.repeat(np.resize(vector, 2 * side)[:, None], layout.stride, axis=1))
        assert spread_form(layout, length).levels <= MAP_LEVELS
    assert max(m.levels for m in (skewed_form(layout), weights_form(layout), lower_matrix(layout))) <= MAP_LEVELS


def test_sides_that_are_no_powers_of_two_are_refused():
    with pytest.raises(ParameterError, match="side of a matrix is 6; need a power of two"):
        MatrixLayout(6)


# the inverse under encryption


def gram_parts(task, seed=0):
    """X^T X of every party such that X^T X / n has the smallest eigenvalue that the condition allows, and others."""
    d, n = task.features, sum(task.rows)
    random = np.random.default_rng(seed)
    eigenvalues = np.append(random.uniform(d / CONDITION, 1, d - 1), d / CONDITION)
    whole = n * with_spectrum(eigenvalues, seed)
    first = [whole * rows / n for rows in task.rows[:-1]]
    return [*first, whole - sum(first)], whole / n


def inverted(task, make_party, parts, plan):
    def program(collective):
        party = make_party(collective, plan)
        party.make_keys(plan.key_plan)
        both = invert(party, plan, parts[collective.rank])
        wide = party.backend.drop_limbs(both, plan.work_limbs)
        found = party.decrypt(
            wide if collective.is_root else None, wide.limbs, wide.scale, wide.period, plan.matrix_scale * 1e-15
        )
        party.close()
        return plan.matrices.unpack(found)[0][: task.features, : task.features]

    return run_parties(task.n_parties, program)[0]


@pytest.mark.parametrize(("rows", "features"), [((40,), 1), ((30, 20), 3), ((30, 20), 8), ((9, 30, 4), 7)])
@pytest.mark.parametrize("make_party", [noiseless, noisy])
def test_simulated_inverse_is_exact_up_to_the_condition(rows, features, make_party):
    task = task_of(rows, features, linear=True)
    plan = plan_of(task)
    parts, matrix = gram_parts(task)
    found = inverted(task, make_party, parts, plan)
    relative = found @ matrix - np.eye(features)
    assert np.abs(np.linalg.eigvals(relative)).max() <= 1.01 * EXACT_INVERSE
    np.testing.assert_allclose(found, plan.schedule(matrix), atol=1e-9 * plan.schedule.largest)


def test_encrypted_inverse_is_exact_up_to_the_condition():
    task = task_of((30, 20), 3, linear=True)
    parts, matrix = gram_parts(task)
    found = inverted(task, encrypted_party, parts, plan_of(task))
    assert np.abs(np.linalg.eigvals(found @ matrix - np.eye(3))).max() <= 1.1 * EXACT_INVERSE


# solver <-> twin

CASES = {
    "one party": task_of((40,), 3),
    "one feature": task_of((20, 15), 1),
    "power of two": task_of((30, 25), 4, l2=0.1),
    "three parties": task_of((60, 20, 30), 7, iterations=3),
    "blocks": task_of((1100, 600), 8),
    "linear": task_of((30, 25), 4, linear=True, l2=0.2),
    "linear, twice": task_of((50, 9), 8, linear=True, iterations=2),
    "degree 7": task_of((60, 70), 5, link=sigmoid_polynomial(7, 20.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_simulation_without_noise_is_the_twin(name):
    task = CASES[name]
    plan, shards = plan_of(task), shards_of(task)
    twin, _ = train_twin(plan, shards, seed=0)
    np.testing.assert_allclose(released(plan, shards, noiseless), twin[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_simulation_stays_within_the_planned_precision(name):
    task = CASES[name]
    plan, shards = plan_of(task), shards_of(task)
    twin, _ = train_twin(plan, shards, seed=0)
    n = plan.layout.features
    allowed = plan.precision.weight_error * tail(n) / math.sqrt(2 * math.log(2 * n / PREDICTED_QUANTILE))
    assert 0 < np.abs(released(plan, shards, noisy) - twin[0]).max() < allowed


@pytest.mark.parametrize("name", ["three parties", "linear"])
def test_encrypted_solver_is_the_twin(name):
    task = CASES[name]
    plan, shards = plan_of(task), shards_of(task)
    twin, _ = train_twin(plan, shards, seed=0)
    n = plan.layout.features
    allowed = plan.precision.weight_error * tail(n) / math.sqrt(2 * math.log(2 * n / PREDICTED_QUANTILE))
    assert 0 < np.abs(released(plan, shards, encrypted_party) - twin[0]).max() < allowed


def test_predictions_are_those_of_the_twin():
    task = replace(CASES["three parties"], release="predictions", test_rows=(5, 0, 9))
    plan, shards = plan_of(task), shards_of(task)
    twin, _ = train_twin(plan, shards, seed=0)
    tests = [np.random.default_rng(rank).normal(size=(rows, 7)) for rank, rows in enumerate(task.test_rows)]

    def after(party, model, weights):
        return model.predict(party, weights, tests[party.collective.rank])

    for found, x in zip(trained(plan, shards, noiseless, after), tests, strict=True):
        np.testing.assert_allclose(found, plan.network.outputs_of(twin, x), atol=1e-9)


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_linear_regression_in_one_iteration_is_the_closed_form(l2):
    task = task_of((40, 35), 6, linear=True, l2=l2)
    shards = shards_of(task)
    x, y = (np.concatenate([shard[i] for shard in shards]) for i in (0, 1))
    penalty = np.diag([l2] * 6 + [0.0])
    whole = np.column_stack([x, np.ones(len(x))])
    exact = np.linalg.solve(whole.T @ whole / len(x) + penalty, whole.T @ y / len(x))
    np.testing.assert_allclose(released(plan_of(task), shards, noiseless), exact, atol=1e-6)


def test_constant_and_repeated_columns_do_no_harm():
    """The Hessian is singular: what is not determined stays small, and predictions are those of the others."""
    task = task_of((60, 50), 4, linear=True)
    shards = [(np.column_stack([x[:, :2], x[:, 1], np.zeros(len(x))]), y) for x, y in shards_of(task)]
    x, y = (np.concatenate([shard[i] for shard in shards]) for i in (0, 1))
    whole = np.column_stack([x, np.ones(len(x))])
    exact, *_ = np.linalg.lstsq(whole, y, rcond=None)
    np.testing.assert_allclose(released(plan_of(task), shards, noiseless), exact, atol=1e-6)


# plans


@pytest.mark.parametrize("name", CASES)
def test_a_run_takes_exactly_the_planned_rotations(name):
    task = CASES[name]
    plan = plan_of(task)
    after = trained(plan, shards_of(task), noiseless, lambda party, model, w: (party.backend.used_rotations, w))
    n = plan.parameters.n_slots
    for rank, (used, _) in enumerate(after):
        assert used == {r % n for r in (*plan.key_plan.everywhere, *(plan.key_plan.root_only if rank == 0 else ()))}
    assert not {r % n for r in plan.key_plan.everywhere} & {r % n for r in plan.key_plan.root_only}


def test_traffic_is_as_planned():
    task = CASES["three parties"]
    plan, shards = plan_of(task), shards_of(task)
    sent = trained(plan, shards, encrypted_party, lambda party, model, w: party.collective.metrics.snapshot())
    for rank, phases in enumerate(sent):
        assert phases["inverse"]["bytes_sent"] == predict(Tree(3, 2, 0), rank, plan.preparation_transfers).bytes_sent
        assert phases["inverse"]["rounds"] == len(plan.preparation_transfers)


def test_scales_stay_between_one_and_two_times_the_matrix_scale():
    plan = plan_of(task_of((40, 30), 8, condition=1e4))
    assert len(plan.matrix_scales) == plan.schedule.rounds + 1
    assert plan.matrix_scales[-1] == plan.matrix_scale
    assert all(1 <= scale / plan.matrix_scale <= 2 for scale in plan.matrix_scales)


def test_noise_of_the_inverse_is_small_beside_that_of_gradients():
    precision = plan_of(CASES["blocks"]).precision
    assert 0 < precision._inverse_effect < 0.1 * precision.weight_noise_std


def test_a_ridge_shortens_the_schedule():
    without, with_ridge = (plan_of(task_of((40, 30), 8, l2=l2)).schedule for l2 in (0.0, 0.5))
    assert with_ridge.rounds < without.rounds
    assert with_ridge.condition == pytest.approx(with_ridge.bound / 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 65}, "matrices of at most 64 features, got 65; use fewer features, or solver"),
        ({"standardises": False}, "not standardised: set standardize = true"),
        ({"batch": 10}, "takes all rows in every iteration, got batches of 10"),
        ({"condition": 1e9}, r"condition is 1e\+09; need above 1 and at most 100000"),
    ],
)
def test_what_the_solver_cannot_do_is_refused(changes, message):
    task = replace(task_of((200, 100), 5), **changes)
    with pytest.raises(ParameterError, match=message):
        choose_newton_plan(task, Choice(), generate_moduli, free=True)


def test_plans_that_do_not_fit_are_refused():
    task = task_of((40, 30), 8)
    with pytest.raises(ParameterError, match='"newton" consumes 4 levels between refreshes, the parameters have 3'):
        plan_of(replace(task, link=sigmoid_polynomial(1)), missing_limbs=1)
    fitting = plan_of(task)
    with pytest.raises(ParameterError, match=r"the inverse needs .* bits above the scale"):
        FixedHessianPlan(replace(task, condition=5e4), fitting.parameters)
    with pytest.raises(ParameterError, match="two matrices of 12 features take 1024 slots, ring_dim 1024 has 512"):
        plan_of(task_of((40, 30), 12))


# the bar


def correlated(rows, features, correlation):
    """A made-up logistic table with an autoregressive row, standardised."""
    random = np.random.default_rng(7)
    x = random.normal(size=(rows, features))
    for j in range(1, features):
        x[:, j] = correlation * x[:, j - 1] + math.sqrt(1 - correlation**2) * x[:, j]
    logits = x @ random.normal(size=features)
    y = (logits + random.logistic(size=rows) > 0).astype(np.float64)
    return (x - x.mean(axis=0)) / x.std(axis=0), y


def test_auc_of_correlated_features_in_three_iterations_at_128_bits():
    x, y = correlated(10_000, 32, 0.6)
    parts = np.array_split(np.arange(8_000), 4)
    task = task_of(
        tuple(map(len, parts)), 32, iterations=3, condition=300.0, link=sigmoid_polynomial(3, 16.0), release_bits=40
    )
    plan = choose_newton_plan(replace(task, message_bound=32.0), Choice(), generate_moduli, free=True)
    assert plan.parameters.security_bits == 128
    assert not plan.parameters.insecure
    weights = released(plan, [(x[p], y[p, None]) for p in parts], noisy)
    exact = LogisticRegression(C=np.inf, max_iter=1000).fit(x[:8_000], y[:8_000])
    found, best = (roc_auc_score(y[8_000:], x[8_000:] @ w) for w in (weights[:-1, 0], exact.coef_[0]))
    assert best - found < 2e-3
    assert plan.matrices.side == 32
