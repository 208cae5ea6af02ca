"""The exact reference stands where the gradient of the trained objective is zero."""

from __future__ import annotations

import numpy as np
import pytest

from models.reference import fit_exact


@pytest.mark.parametrize("l2", [0.0, 1e-3, 0.1])
def test_gradient_of_the_objective_is_zero(l2: float) -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(300, 4))
    labels = (rng.random(300) < 1 / (1 + np.exp(-(features @ [1, -2, 0, 0.5] + 0.7)))).astype(np.float64)
    model = fit_exact(features, labels, l2)
    residuals = 1 / (1 + np.exp(-model.scores(features))) - labels
    # The mean loss, and a penalty that leaves the intercept alone.
    assert features.T @ residuals / 300 + l2 * model.coef == pytest.approx(np.zeros(4), abs=1e-7)
    assert residuals.mean() == pytest.approx(0, abs=1e-7)


def test_separable_classes_end_all_the_same() -> None:
    features = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    labels = np.array([0.0, 0, 1, 1])
    model = fit_exact(features, labels, 0.0)
    assert ((model.scores(features) > 0) == labels).all()
