"""Accuracy and area under the ROC curve: exact from scores, and over all parties from sums that every party adds to.

The distributed version needs one vector of counts of each party, and only their sum: how many of its test rows of each
class fall in which bin of the score. The accuracy read from the sum is exact; the area is off by less than
`Quality.auc_resolution`, since only pairs of rows within one bin are not told apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.table import FloatArray

IntArray = npt.NDArray[np.int64]

DEFAULT_BINS = 4096
"""Bins of the score; with two classes the counts fill the slots of one ciphertext of ring dimension 2^14."""


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
