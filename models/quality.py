"""How good a model is, by the kind of its labels: named figures, exact or from sums that every party adds to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.metrics import (
    DEFAULT_BINS,
    ClassQuality,
    CountQuality,
    Quality,
    RegressionQuality,
    class_counts,
    class_quality,
    class_quality_from_counts,
    count_quality,
    count_quality_from_sums,
    count_sums,
    quality,
    quality_from_counts,
    regression_quality,
    regression_quality_from_sums,
    regression_sums,
    score_counts,
)
from models.table import FloatArray
from models.target import TargetKind

Figures = Mapping[str, float | None]
"""By name; None where the rows cannot tell."""

NAMES: Mapping[TargetKind, tuple[str, ...]] = {
    "binary": ("accuracy", "auc"),
    "classes": ("accuracy",),
    "real": ("r2", "rmse"),
    "counts": ("deviance",),
}


def contribution(kind: TargetKind, scores: FloatArray, labels: FloatArray, most: int) -> FloatArray:
    """What one party adds to the sums: of scores (rows, outputs) before the link and labels (rows,); `most` numbers at
    most, beyond those of the confusion matrix.
    """
    if kind == "binary":
        return score_counts(scores[:, 0], labels, min(DEFAULT_BINS, most // 2)).astype(np.float64)
    if kind == "classes":
        return class_counts(scores, labels).astype(np.float64)
    return regression_sums(scores[:, 0], labels, 0.0) if kind == "real" else count_sums(scores[:, 0], labels)


def figures(kind: TargetKind, total: FloatArray) -> Figures:
    """From the sum of all parties' contributions."""
    if kind == "binary":
        return _figures(quality_from_counts(np.rint(total).astype(np.int64)))
    if kind == "classes":
        return _figures(class_quality_from_counts(np.rint(total).astype(np.int64)))
    return _figures(regression_quality_from_sums(total) if kind == "real" else count_quality_from_sums(total))


def exact_figures(kind: TargetKind, scores: FloatArray, labels: FloatArray) -> Figures:
    """Of scores (rows, outputs) before the link and labels (rows,)."""
    if kind == "classes":
        return _figures(class_quality(scores, labels))
    if kind == "binary":
        return _figures(quality(scores[:, 0], labels))
    return _figures((regression_quality if kind == "real" else count_quality)(scores[:, 0], labels))


def _figures(found: Quality | ClassQuality | RegressionQuality | CountQuality) -> Figures:
    if isinstance(found, Quality):
        return {"accuracy": found.accuracy, "auc": found.auc}
    if isinstance(found, ClassQuality):
        return {"accuracy": found.accuracy}
    return (
        {"r2": found.r2, "rmse": found.rmse} if isinstance(found, RegressionQuality) else {"deviance": found.deviance}
    )
