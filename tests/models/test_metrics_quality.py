"""Accuracy and AUC, exact and from sums, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, roc_auc_score

from models.metrics import Quality, quality, quality_from_counts, score_counts

# Few distinct values, so that ties are frequent.
tied = st.tuples(st.integers(-3, 3).map(float), st.integers(0, 1))
spread = st.tuples(st.floats(-100, 100), st.integers(0, 1))
samples = st.one_of(st.lists(tied, min_size=1, max_size=80), st.lists(spread, min_size=1, max_size=80))


def arrays(sample: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([s for s, _ in sample]), np.array([float(y) for _, y in sample])


@given(samples)
def test_exact_quality_is_scikit_learns(sample: list[tuple[float, int]]) -> None:
    scores, labels = arrays(sample)
    got = quality(scores, labels)
    assert got.rows == len(sample)
    assert got.accuracy == pytest.approx(accuracy_score(labels, scores > 0))
    if len(set(labels)) == 2:
        assert got.auc == pytest.approx(roc_auc_score(labels, scores))
    else:
        assert got.auc is None


@given(samples, st.integers(1, 5), st.sampled_from([2, 64, 4096]))
def test_quality_of_sums_over_parties(sample: list[tuple[float, int]], n_parties: int, n_bins: int) -> None:
    scores, labels = arrays(sample)
    parties = [slice(rank, None, n_parties) for rank in range(n_parties)]
    total = sum(score_counts(scores[rows], labels[rows], n_bins) for rows in parties)
    exact, got = quality(scores, labels), quality_from_counts(total)
    assert (got.rows, got.accuracy) == (exact.rows, exact.accuracy)
    assert (got.auc is None) == (exact.auc is None)
    if got.auc is not None and exact.auc is not None:
        assert abs(got.auc - exact.auc) <= got.auc_resolution + 1e-12


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 50.0])
def test_default_bins_give_the_area_within_a_thousandth(scale: float) -> None:
    rng = np.random.default_rng(0)
    scores = scale * (rng.normal(size=5000) + 0.5)
    labels = (rng.random(5000) < 1 / (1 + np.exp(-scores / scale))).astype(np.float64)
    got = quality_from_counts(score_counts(scores, labels))
    assert got.auc_resolution < 1.5e-3
    assert got.auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)


def test_no_rows_and_no_score_are_no_obstacle() -> None:
    nothing = np.zeros(0)
    assert quality(nothing, nothing) == Quality(0, None, None)
    assert quality_from_counts(score_counts(nothing, nothing)) == Quality(0, None, None)
    undecided = quality_from_counts(score_counts(np.zeros(4), np.array([0.0, 0, 0, 1])))
    assert (undecided.accuracy, undecided.auc) == (0.75, 0.5)


def test_sign_of_the_smallest_score_counts() -> None:
    smallest = np.nextafter(0, 1)
    assert quality_from_counts(score_counts(np.array([smallest, -smallest]), np.array([1.0, 0]))).accuracy == 1


def test_bins_must_part_at_zero() -> None:
    with pytest.raises(ValueError, match="even number"):
        score_counts(np.zeros(1), np.zeros(1), n_bins=5)
