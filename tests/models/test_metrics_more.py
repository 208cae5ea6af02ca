"""Quality of more than two classes, of numbers and of counts: from sums over parties, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, mean_poisson_deviance, r2_score, root_mean_squared_error

from mhe.backend.native import NativeBackend
from mhe.encrypted_party import EncryptedParty
from models.metrics import (
    ClassQuality,
    CountQuality,
    RegressionQuality,
    class_counts,
    class_quality,
    class_quality_from_counts,
    count_quality,
    count_quality_from_sums,
    count_sums,
    regression_quality,
    regression_quality_from_sums,
    regression_sums,
)
from network.collective import TreeCollective
from network.local import run_parties
from tests.insecure import INSECURE_TEST_STATISTICAL_BITS, insecure_test_plan, workload

NOTHING = np.zeros(0)
seeds = st.integers(0, 2**32)


def parts(n_parties: int) -> list[slice]:
    return [slice(rank, None, n_parties) for rank in range(n_parties)]


@given(seeds, st.integers(1, 60), st.integers(2, 7), st.integers(1, 4))
def test_classes(seed: int, rows: int, n_classes: int, n_parties: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(-2, 3, size=(rows, n_classes)).astype(np.float64)
    labels = random.integers(n_classes, size=rows).astype(np.float64)
    total = sum(class_counts(scores[own], labels[own]) for own in parts(n_parties))
    got = class_quality_from_counts(total)
    assert got == class_quality(scores, labels)
    assert (got.rows, got.accuracy) == (rows, pytest.approx(accuracy_score(labels, scores.argmax(axis=1))))
    expected = confusion_matrix(labels, scores.argmax(axis=1), labels=range(n_classes))
    assert np.array_equal(got.confusion, expected)


@given(seeds, st.integers(3, 60), st.floats(-1e6, 1e6), st.integers(1, 4))
def test_numbers(seed: int, rows: int, offset: float, n_parties: int) -> None:
    random = np.random.default_rng(seed)
    labels = offset + random.normal(size=rows)
    predictions = labels + 0.5 * random.normal(size=rows)
    centre = offset + 1
    got = regression_quality_from_sums(
        sum(regression_sums(predictions[own], labels[own], centre) for own in parts(n_parties))
    )
    assert got.rows == rows
    assert got.rmse == pytest.approx(root_mean_squared_error(labels, predictions), rel=1e-8)
    assert got.r2 == pytest.approx(r2_score(labels, predictions), rel=1e-6, abs=1e-8)
    exact = regression_quality(predictions, labels)
    assert (exact.rmse, exact.r2) == (pytest.approx(got.rmse, rel=1e-8), pytest.approx(got.r2, rel=1e-6, abs=1e-8))


@given(seeds, st.integers(1, 60), st.integers(1, 4))
def test_counts(seed: int, rows: int, n_parties: int) -> None:
    random = np.random.default_rng(seed)
    log_means = random.normal(size=rows)
    labels = random.poisson(np.exp(log_means)).astype(np.float64)
    got = count_quality_from_sums(sum(count_sums(log_means[own], labels[own]) for own in parts(n_parties)))
    exact = count_quality(log_means, labels)
    assert got.rows == exact.rows == rows
    assert got.deviance == pytest.approx(exact.deviance, rel=1e-9)
    assert exact.deviance == pytest.approx(mean_poisson_deviance(labels, np.exp(log_means)), rel=1e-9)


def test_perfect_predictions() -> None:
    labels = np.array([1.0, 2, 5])
    assert regression_quality(labels, labels) == RegressionQuality(3, 0.0, 1.0)
    assert count_quality(np.log(labels), labels).deviance == pytest.approx(0, abs=1e-15)
    assert class_quality(np.eye(3), np.arange(3.0)).accuracy == 1


def test_labels_that_are_all_alike_have_no_variance_to_predict() -> None:
    labels = np.full(1000, 1e7 / 3)
    sums = regression_sums(labels + 1, labels, 0.0) + regression_sums(labels - 1, labels, 0.0)
    assert regression_quality_from_sums(sums).r2 is None
    assert regression_quality_from_sums(sums).rmse == pytest.approx(1)


def test_no_rows_are_no_obstacle() -> None:
    assert class_quality(np.zeros((0, 3)), NOTHING) == ClassQuality(0, None, ((0, 0, 0),) * 3)
    assert regression_quality(NOTHING, NOTHING) == RegressionQuality(0, None, None)
    assert count_quality(NOTHING, NOTHING) == CountQuality(0, None)


def test_sums_survive_the_encrypted_sum() -> None:
    """What the parties read off a sum of fixed-point numbers with the noise of its release is what the rows say."""
    random = np.random.default_rng(1)
    labels = 1e5 + 40 * random.normal(size=90)
    predictions = labels + random.normal(size=90)
    scores, classes = random.normal(size=(90, 4)), random.integers(4, size=90).astype(np.float64)
    log_means = random.normal(size=90)
    counts = random.poisson(np.exp(log_means)).astype(np.float64)
    plan = insecure_test_plan(workload((30, 30, 30), 3))

    def party(collective: TreeCollective) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        bits = INSECURE_TEST_STATISTICAL_BITS
        scheme = EncryptedParty(collective, plan.parameters, NativeBackend, statistical_bits=bits, releases=3)
        own = parts(3)[collective.rank]
        return (
            scheme.encrypted_sum(regression_sums(predictions[own], labels[own], 1e5)),
            scheme.encrypted_sum(class_counts(scores[own], classes[own]).astype(np.float64)),
            scheme.encrypted_sum(count_sums(log_means[own], counts[own])),
        )

    for numbers, confusion, deviances in run_parties(3, party):
        got, exact = regression_quality_from_sums(numbers), regression_quality(predictions, labels)
        assert (got.rmse, got.r2) == (pytest.approx(exact.rmse, rel=1e-6), pytest.approx(exact.r2, rel=1e-6))
        assert class_quality_from_counts(np.rint(confusion)) == class_quality(scores, classes)
        assert count_quality_from_sums(deviances).deviance == pytest.approx(
            count_quality(log_means, counts).deviance, rel=1e-6
        )
