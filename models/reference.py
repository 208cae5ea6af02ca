"""The exact reference: scikit-learn's optimum of the very objective that is trained under encryption."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from models.table import FloatArray


@dataclass(frozen=True)
class LinearModel:
    """Weights over standardised features."""

    coef: FloatArray  # (features,)
    intercept: float

    def scores(self, features: FloatArray) -> FloatArray:
        """Logits (rows,) of standardised features (rows, features); a row is called positive where its logit is > 0."""
        scores: FloatArray = features @ self.coef + self.intercept
        return scores


def fit_exact(features: FloatArray, labels: FloatArray, l2: float) -> LinearModel:
    """The minimum of mean log-loss + l2 / 2 * |coef|^2, the intercept unpenalised, with the exact sigmoid.

    features (rows, columns) are the standardised rows of all parties, labels (rows,) are 0 or 1. With l2 = 0 and
    classes that a plane separates there is no minimum; the weights are then those where scikit-learn stops.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    # scikit-learn minimises C * sum of losses + |coef|^2 / 2.
    strength = 1 / (l2 * len(labels)) if l2 > 0 else np.inf
    solver = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-8, max_iter=200)
    with warnings.catch_warnings():
        # Said in the docstring instead: it only warns that separable classes have no minimum.
        warnings.simplefilter("ignore")
        solver.fit(features, labels)
    return LinearModel(coef=np.asarray(solver.coef_[0], dtype=np.float64), intercept=float(solver.intercept_[0]))
