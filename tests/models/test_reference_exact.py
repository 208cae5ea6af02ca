"""The exact reference stands where the gradient of the trained objective is zero, for every kind of model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from models.kinds import KINDS
from models.reference import fit_exact

Floats = npt.NDArray[np.float64]

ROWS, COLUMNS, CLASSES = 300, 4, 3


def table(kind: str, classes: int = CLASSES) -> tuple[Floats, Floats]:
    """Standardised features (rows, columns) and labels (rows,) as this kind takes them."""
    random = np.random.default_rng(1)
    features = random.normal(size=(ROWS, COLUMNS))
    u = features @ [1, -2, 0, 0.5] + 0.7
    if kind == "linear":
        return features, u + random.normal(size=ROWS)
    if kind == "poisson":
        return features, random.poisson(np.exp(0.4 * u)).astype(np.float64)
    if kind == "logistic":
        return features, (random.random(ROWS) < 1 / (1 + np.exp(-u))).astype(np.float64)
    outputs = features @ random.normal(size=(COLUMNS, classes)) + random.gumbel(size=(ROWS, classes))
    return features, outputs.argmax(axis=1).astype(np.float64)


def means(kind: str, scores: Floats) -> Floats:
    if kind == "linear":
        return scores
    if kind == "poisson":
        return np.exp(scores)
    if kind == "logistic":
        return np.asarray(1 / (1 + np.exp(-scores)))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("l2", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize(
    ("kind", "outputs"), [("linear", 1), ("poisson", 1), ("logistic", 1), ("softmax", CLASSES), ("softmax", 2)]
)
def test_gradient_of_the_objective_is_zero(kind: str, outputs: int, l2: float) -> None:
    features, labels = table(kind, outputs)
    scores = fit_exact(kind, features, labels, l2, ())  # type: ignore[arg-type]
    assert scores(features).shape == (ROWS, outputs)
    targets = labels[:, None] if outputs == 1 else np.eye(outputs)[labels.astype(int)]
    coef = scores(np.eye(COLUMNS)) - scores(np.zeros((1, COLUMNS)))
    residuals = means(kind, scores(features)) - targets
    # the mean loss, and a penalty that leaves the intercepts alone
    np.testing.assert_allclose(features.T @ residuals / ROWS + l2 * coef, 0, atol=1e-6)
    np.testing.assert_allclose(residuals.mean(axis=0), 0, atol=1e-6)


def test_separable_classes_end_all_the_same() -> None:
    features = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    labels = np.array([0.0, 0, 1, 1])
    scores = fit_exact("logistic", features, labels, 0.0, ())
    assert ((scores(features)[:, 0] > 0) == labels).all()


def test_a_perceptron_of_the_same_widths_learns_what_no_plane_parts() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 2))
    labels = (features[:, 0] * features[:, 1] > 0).astype(np.float64)
    scores, again = (fit_exact("mlp", features, labels, 1e-4, (16, 8)) for _ in range(2))
    assert scores(features).shape == (400, 2)
    np.testing.assert_array_equal(scores(features), again(features))
    plane = fit_exact("softmax", features, labels, 1e-4, ())
    right, flat = ((s(features).argmax(axis=1) == labels).mean() for s in (scores, plane))
    assert right > 0.9 > 0.7 > flat


def test_a_perceptron_of_numbers_fits_numbers() -> None:
    features, labels = table("linear")
    scores = fit_exact("mlp", features, labels, 1e-4, (16,), classes=False)(features)
    assert scores.shape == (ROWS, 1)
    assert np.square(scores[:, 0] - labels).mean() < 0.5 * labels.var()


def test_every_kind_has_a_reference() -> None:
    for kind in KINDS:
        features, labels = table(kind)
        assert np.isfinite(fit_exact(kind, features, labels, 0.01, (4,))(features)).all()
