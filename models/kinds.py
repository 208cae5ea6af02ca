"""The kinds of model: what their labels are, which settings they read, and what of them is implemented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from models.target import TargetKind

KindName = Literal["linear", "poisson", "logistic", "softmax", "mlp"]
Solver = Literal["nesterov", "gd", "newton", "local"]
Loss = Literal["squared", "cross_entropy"]
Schedule = Literal["constant", "inverse", "exponential", "cosine"]
Task = Literal["classification", "regression"]
Coupling = Literal["none", "quadratic"]

POLYNOMIAL = frozenset({"degree", "interval", "method"})
"""Settings of the polynomial that takes the place of a nonlinear function."""


@dataclass(frozen=True)
class Kind:
    """One kind of model.

    target: what its labels are. reads: settings of [model] that it reads besides kind, loss and l2. losses: those that
    may be named instead of "auto", which is the first (a kind without any has a loss of its own). solvers: those that
    are implemented; without one the kind is not. places: whether it may be said what is refreshed.
    """

    target: TargetKind
    reads: frozenset[str]
    losses: tuple[Loss, ...]
    solvers: tuple[Solver, ...] = ()
    places: bool = False


KINDS: Mapping[KindName, Kind] = {
    "linear": Kind("real", frozenset(), ("squared",), solvers=("nesterov", "gd", "newton", "local")),
    "poisson": Kind("counts", POLYNOMIAL, (), solvers=("nesterov", "gd", "local")),
    "logistic": Kind("binary", POLYNOMIAL, ("cross_entropy",), solvers=("nesterov", "gd", "newton", "local")),
    "softmax": Kind("classes", POLYNOMIAL | {"coupling"}, ("cross_entropy",), ("nesterov", "gd"), places=True),
    "mlp": Kind(
        "classes", POLYNOMIAL | {"hidden", "activation", "task"}, ("squared", "cross_entropy"), ("nesterov", "gd"), True
    ),
}
"""Whoever implements a kind or a solver adds it here, and the configuration lets it through."""


def target_kind(kind: KindName, task: Task) -> TargetKind:
    """What the labels of this kind are; task: of "mlp" alone."""
    return "real" if kind == "mlp" and task == "regression" else KINDS[kind].target
