"""Quality of predictions: exact from scores, and over all parties from sums that every party adds to.

The distributed version needs one vector of each party, and only the sum of these vectors:

    two classes   how many test rows of each class fall in which bin of the score. The accuracy read from the sum is
                  exact; the area under the ROC curve is off by less than `Quality.auc_resolution`, since only pairs of
                  rows within one bin are not told apart
    more classes  how many test rows of each class were called which: the confusion matrix
    numbers       rows, sum of squared errors, sum and sum of squares of what was to be predicted
    counts        rows, sum of deviances
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy  # type: ignore[import-untyped]

from models.table import FloatArray

IntArray = npt.NDArray[np.int64]

DEFAULT_BINS = 4096
"""Bins of the score; with two classes the counts fill the slots of one ciphertext of ring dimension 2^14."""

ROUNDING = 2.0**-40
"""Sums of squares that differ by less than this share are equal, as far as float64 sums of many rows can tell."""


@dataclass(frozen=True)
class Quality:
    """How good the scores of `rows` labelled rows are; None where the rows cannot tell.

    accuracy: share of the rows on the right side of score 0 (None without rows).
    auc: chance that a positive row scores above a negative one, ties counting half (None unless both classes occur).
    auc_resolution: bound on |auc - exact auc|.
    """

    rows: int
    accuracy: float | None
    auc: float | None
    auc_resolution: float = 0.0


def quality(scores: FloatArray, labels: FloatArray) -> Quality:
    """Exact quality of scores (rows,), in any increasing function of the logit that is 0 where it is; labels 0 or 1."""
    positive = labels == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    rows = n_positive + n_negative
    accuracy = float(np.mean((scores > 0) == positive)) if rows else None
    if not n_positive or not n_negative:
        return Quality(rows, accuracy, None)
    # The Mann-Whitney statistic: equal scores share the mean of their ranks.
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(size) - (size - 1) / 2
    wins = float(mean_rank[group][positive].sum()) - n_positive * (n_positive + 1) / 2
    return Quality(rows, accuracy, wins / (n_positive * n_negative))


def score_counts(scores: FloatArray, labels: FloatArray, n_bins: int = DEFAULT_BINS) -> IntArray:
    """One party's contribution: counts (2 * n_bins,), negative rows by bin of the score, then positive rows by bin.

    scores (rows,) are logits, labels (rows,) are 0 or 1. Contributions of all parties are added. No bin holds
    scores of both signs. The bins are even in sqrt|z| / (1 + sqrt|z|): finer than 2 % of the score from 0.01 to 100 at
    the default, and none is cut off, since how large logits get is known to nobody before the release.
    """
    if n_bins < 2 or n_bins % 2:
        raise ValueError(f"n_bins is {n_bins}; need an even number, so that a bin ends at score 0")
    half = n_bins // 2
    root = np.sqrt(np.abs(scores))
    distance = np.minimum((half * (root / (1 + root))).astype(np.int64), half - 1)
    bins = np.where(scores > 0, half + distance, half - 1 - distance)
    return np.bincount(bins + n_bins * (labels == 1), minlength=2 * n_bins).astype(np.int64)


def quality_from_counts(total: npt.ArrayLike) -> Quality:
    """Quality over the rows of all parties from the sum of their `score_counts` (2 * n_bins,), a list or an array."""
    negative, positive = np.asarray(total, dtype=np.int64).reshape(2, -1)
    half = len(negative) // 2
    n_negative, n_positive = int(negative.sum()), int(positive.sum())
    rows = n_negative + n_positive
    accuracy = float(negative[:half].sum() + positive[half:].sum()) / rows if rows else None
    if not n_positive or not n_negative:
        return Quality(rows, accuracy, None)
    below = np.cumsum(negative) - negative
    same_bin = float(positive @ negative)
    pairs = n_positive * n_negative
    return Quality(rows, accuracy, (float(positive @ below) + same_bin / 2) / pairs, same_bin / 2 / pairs)


# more than two classes


@dataclass(frozen=True)
class ClassQuality:
    """How often `rows` labelled rows were called by their class.

    accuracy: share of rows (None without rows). confusion: confusion[i][j] rows of class i were called class j.
    """

    rows: int
    accuracy: float | None
    confusion: tuple[tuple[int, ...], ...]


def class_quality(scores: FloatArray, labels: FloatArray) -> ClassQuality:
    """Exact quality of scores (rows, classes), of which the largest calls the class; labels 0.0, ..., classes - 1."""
    return class_quality_from_counts(class_counts(scores, labels))


def class_counts(scores: FloatArray, labels: FloatArray) -> IntArray:
    """One party's contribution: its confusion matrix, flattened (classes^2,); the first of equal scores wins."""
    n_classes = scores.shape[1]
    called = scores.argmax(axis=1)
    return np.bincount(labels.astype(np.int64) * n_classes + called, minlength=n_classes**2).astype(np.int64)


def class_quality_from_counts(total: npt.ArrayLike) -> ClassQuality:
    """Quality over the rows of all parties, exact, from the sum of their `class_counts` (classes^2,)."""
    counts = np.asarray(total, dtype=np.int64)
    confusion = counts.reshape(math.isqrt(counts.size), -1)
    rows = int(counts.sum())
    accuracy = float(confusion.trace()) / rows if rows else None
    return ClassQuality(rows, accuracy, tuple(tuple(int(n) for n in called) for called in confusion))


# numbers


@dataclass(frozen=True)
class RegressionQuality:
    """How far predictions of `rows` numbers are off; None where the rows cannot tell.

    rmse: root of the mean squared error (None without rows). r2: share of the variance that is predicted, 1 - squared
    errors / squares around the mean (None where all numbers are alike).
    """

    rows: int
    rmse: float | None
    r2: float | None


def regression_quality(predictions: FloatArray, labels: FloatArray) -> RegressionQuality:
    """Exact quality of predictions (rows,) of labels (rows,)."""
    centre = float(labels.mean()) if len(labels) else 0.0
    return regression_quality_from_sums(regression_sums(predictions, labels, centre))


def regression_sums(predictions: FloatArray, labels: FloatArray, centre: float) -> FloatArray:
    """One party's contribution (4,): rows, squared errors, and labels and their squares counted from `centre`.

    centre: any number, the same at all parties; near the mean of the labels no precision is lost where the mean is
    large beside the spread.
    """
    error, offset = predictions - labels, labels - centre
    return np.array([len(labels), error @ error, offset.sum(), offset @ offset], dtype=np.float64)


def regression_quality_from_sums(total: npt.ArrayLike) -> RegressionQuality:
    """Quality over the rows of all parties from the sum of their `regression_sums` (4,)."""
    count, errors, offsets, squares = np.asarray(total, dtype=np.float64)
    rows = round(float(count))
    if not rows:
        return RegressionQuality(0, None, None)
    spread = squares - offsets**2 / rows
    # what is left of equal labels is rounding
    told = spread > ROUNDING * squares
    return RegressionQuality(rows, math.sqrt(max(errors, 0.0) / rows), float(1 - errors / spread) if told else None)


# counts


@dataclass(frozen=True)
class CountQuality:
    """How well means were predicted for `rows` counts.

    deviance: mean Poisson deviance, 2 (y log(y / m) - y + m) for a count y and a mean m, 0 for a perfect prediction
    (None without rows).
    """

    rows: int
    deviance: float | None


def count_quality(log_means: FloatArray, labels: FloatArray) -> CountQuality:
    """Exact quality of the logarithms (rows,) of predicted means, for counts (rows,)."""
    return count_quality_from_sums(count_sums(log_means, labels))


def count_sums(log_means: FloatArray, labels: FloatArray) -> FloatArray:
    """One party's contribution (2,): rows, and the sum of their deviances (McCullagh, Nelder, "Generalized Linear
    Models", 2nd edition, Section 2.3).
    """
    deviances = 2 * (xlogy(labels, labels) - labels * log_means - labels + np.exp(log_means))
    return np.array([len(labels), deviances.sum()], dtype=np.float64)


def count_quality_from_sums(total: npt.ArrayLike) -> CountQuality:
    """Quality over the rows of all parties from the sum of their `count_sums` (2,)."""
    count, deviances = np.asarray(total, dtype=np.float64)
    rows = round(float(count))
    return CountQuality(rows, float(deviances) / rows if rows else None)
