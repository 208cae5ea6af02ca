"""Figures of every kind of label: from sums over the parties as from all rows at once."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, mean_poisson_deviance, r2_score, roc_auc_score, root_mean_squared_error

from models.kinds import KINDS
from models.metrics import quality_from_counts
from models.quality import NAMES, contribution, exact_figures, figures
from models.table import FloatArray
from models.target import TargetKind

TARGETS: tuple[TargetKind, ...] = get_args(TargetKind)
RING_DIM = 1 << 14


def sample(kind: TargetKind, rows: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Scores (rows, outputs) before the link, and labels (rows,) that they have something to do with."""
    random = np.random.default_rng([seed, rows])
    scores = random.normal(size=(rows, 4 if kind == "classes" else 1))
    if kind == "binary":
        return scores, (scores[:, 0] + random.logistic(size=rows) > 0).astype(np.float64)
    if kind == "classes":
        return scores, (scores + random.normal(size=scores.shape)).argmax(axis=1).astype(np.float64)
    if kind == "real":
        return scores, 3 + scores[:, 0] + random.normal(size=rows)
    return scores, random.poisson(np.exp(scores[:, 0])).astype(np.float64)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TARGETS), st.integers(1, 80), st.integers(1, 5), st.integers(0, 2**32))
def test_figures_from_sums_are_the_exact_ones(kind: TargetKind, rows: int, n_parties: int, seed: int) -> None:
    scores, labels = sample(kind, rows, seed)
    parts = [slice(rank, None, n_parties) for rank in range(n_parties)]
    total = np.sum([contribution(kind, scores[own], labels[own], RING_DIM) for own in parts], axis=0)
    got, exact = figures(kind, total), exact_figures(kind, scores, labels)
    assert tuple(got) == tuple(exact) == NAMES[kind]
    for name, value in exact.items():
        tolerance = 1e-9
        if name == "auc":
            tolerance += quality_from_counts(np.rint(total).astype(np.int64)).auc_resolution
        assert got[name] == (None if value is None else pytest.approx(value, rel=1e-9, abs=tolerance))


def test_exact_figures_are_scikit_learns() -> None:
    scores, labels = sample("binary", 200, 0)
    expected = {"accuracy": accuracy_score(labels, scores[:, 0] > 0), "auc": roc_auc_score(labels, scores[:, 0])}
    assert exact_figures("binary", scores, labels) == pytest.approx(expected)
    scores, labels = sample("classes", 200, 0)
    assert exact_figures("classes", scores, labels) == {"accuracy": accuracy_score(labels, scores.argmax(axis=1))}
    scores, labels = sample("real", 200, 0)
    z = scores[:, 0]
    expected = {"r2": r2_score(labels, z), "rmse": root_mean_squared_error(labels, z)}
    assert exact_figures("real", scores, labels) == pytest.approx(expected)
    scores, labels = sample("counts", 200, 0)
    expected = {"deviance": mean_poisson_deviance(labels, np.exp(scores[:, 0]))}
    assert exact_figures("counts", scores, labels) == pytest.approx(expected)


@pytest.mark.parametrize("kind", TARGETS)
def test_without_rows_there_are_no_figures(kind: TargetKind) -> None:
    scores, labels = sample(kind, 0, 0)
    assert exact_figures(kind, scores, labels) == dict.fromkeys(NAMES[kind])


@pytest.mark.parametrize("kind", TARGETS)
def test_contributions_fit_one_ciphertext_of_the_ring(kind: TargetKind) -> None:
    """All parties' are equally long, whatever their rows: none learns of another's."""
    for ring_dim in (1 << 10, RING_DIM):
        lengths = {len(contribution(kind, *sample(kind, rows, 1), ring_dim)) for rows in (0, 1, 50)}
        assert len(lengths) == 1
        assert max(lengths) <= ring_dim


def test_every_kind_of_model_has_figures() -> None:
    assert {kind.target for kind in KINDS.values()} == set(NAMES) == set(TARGETS)
