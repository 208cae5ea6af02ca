"""The exact reference: scikit-learn's optimum of the very objective that is trained under encryption."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from models.kinds import KindName
from models.table import FloatArray

Scores = Callable[[FloatArray], FloatArray]
"""Outputs before the link, (rows, outputs), of standardised features (rows, features)."""


def fit_exact(
    kind: KindName,
    features: FloatArray,
    labels: FloatArray,
    l2: float,
    hidden: tuple[int, ...],
    classes: bool = True,
) -> Scores:
    """The minimum of the mean loss + l2 / 2 * |coef|^2, intercepts unpenalised, with the exact link.

    features (rows, columns) are the standardised rows of all parties, labels (rows,) as `models.target.Target.code`
    gives them. With l2 = 0 and classes that a plane separates there is no minimum; the weights are then those where
    scikit-learn stops. A perceptron has no optimum to speak of: scikit-learn's, with hidden layers of the same widths,
    is what a practitioner would get. classes: whether a perceptron's labels are classes, or numbers.
    """
    with warnings.catch_warnings():
        # Said in the docstring instead: it only warns that separable classes have no minimum.
        warnings.simplefilter("ignore")
        if kind == "mlp":
            return _perceptron(features, labels, l2, hidden) if classes else _regressor(features, labels, l2, hidden)
        if kind == "softmax" and len(np.unique(labels)) == 2:
            # two outputs of opposite sign, whose penalty is half of that of their difference
            coef, intercept = (part / 2 for part in _fit("logistic", features, labels, l2 / 2))
            coef, intercept = np.vstack([-coef, coef]), np.concatenate([-intercept, intercept])
        else:
            coef, intercept = _fit(kind, features, labels, l2)
    weights = np.vstack([np.atleast_2d(coef).T, np.atleast_1d(intercept)])
    return lambda x: np.asarray(x @ weights[:-1] + weights[-1], dtype=np.float64)


def _fit(kind: KindName, features: FloatArray, labels: FloatArray, l2: float) -> tuple[FloatArray, FloatArray]:
    from sklearn.linear_model import (  # type: ignore[import-untyped]
        LinearRegression,
        LogisticRegression,
        PoissonRegressor,
        Ridge,
    )

    n = len(labels)
    if kind == "linear":
        # scikit-learn minimises the sum of squares + alpha |coef|^2.
        solver = Ridge(alpha=l2 * n) if l2 > 0 else LinearRegression()
    elif kind == "poisson":
        solver = PoissonRegressor(alpha=l2, solver="newton-cholesky", tol=1e-10, max_iter=200)
    else:
        # scikit-learn minimises C * sum of losses + |coef|^2 / 2.
        strength = 1 / (l2 * n) if l2 > 0 else np.inf
        solver = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-8, max_iter=200)
    solver.fit(features, labels)
    return solver.coef_, solver.intercept_


def _perceptron(features: FloatArray, labels: FloatArray, l2: float, hidden: tuple[int, ...]) -> Scores:
    from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]

    model = MLPClassifier(hidden_layer_sizes=hidden, alpha=l2, max_iter=500, random_state=0)
    model.fit(features, labels)
    return lambda x: np.asarray(model.predict_proba(x), dtype=np.float64)


def _regressor(features: FloatArray, labels: FloatArray, l2: float, hidden: tuple[int, ...]) -> Scores:
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor(hidden_layer_sizes=hidden, alpha=l2, max_iter=2000, random_state=0)
    model.fit(features, labels)
    return lambda x: np.asarray(model.predict(x), dtype=np.float64)[:, None]
