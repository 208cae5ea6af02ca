"""`Target`: what the label column means to a model, and what the parties must tell one another about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mhe.errors import DataError

Floats = npt.NDArray[np.float64]

TargetKind = Literal["binary", "classes", "real", "counts"]
"""Two classes; two or more classes; any finite numbers; whole numbers from 0 on."""

MAX_CLASSES = 64
"""Limits what a regression target taken for classes by mistake would give away, for distinct values are exchanged.

Also keeps the counts of a confusion matrix, 64^2, in one ciphertext of the smallest secure ring.
"""


@dataclass(frozen=True)
class Target:
    """What the labels of all parties are.

    values: for "binary" and "classes" the sorted distinct training labels over all parties, which `code` numbers from
    0 (the positive class of "binary" is the larger one); empty for "real" and "counts".
    """

    kind: TargetKind
    values: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        """Outputs of a model of it: one for each of the classes of "classes", one otherwise."""
        return len(self.values) if self.kind == "classes" else 1

    def code(self, labels: Floats, what: str) -> Floats:
        """Labels (rows,) as a model takes them: classes as 0.0, 1.0, ..., numbers and counts as they are.

        Raises DataError, calling the rows `what`, if a label is none of the classes.
        """
        if not has_classes(self.kind):
            return labels
        values = np.asarray(self.values)
        strange = labels[~np.isin(labels, values)]
        if len(strange):
            raise DataError(
                f"a {what} row has the label {strange[0]:g}; the {_number(len(values))} classes are {_listed(values)}"
            )
        return np.searchsorted(values, labels).astype(np.float64)


def has_classes(kind: TargetKind) -> bool:
    """Whether labels of this kind stand for classes, so that their distinct values are public."""
    return kind in ("binary", "classes")


def check_labels(kind: TargetKind, labels: Floats, where: str, *, complete: bool) -> None:
    """Raise DataError if finite labels (rows,) cannot be of this kind.

    where: file and column, for the message, which tells the number of the first bad row (from 1) but no label, since
    the other parties read it. complete: whether these are the labels of all parties, which must not be all alike.
    """
    n_values = len(np.unique(labels)) if has_classes(kind) else 0
    if kind == "binary" and (n_values > 2 or (complete and n_values < 2)):
        raise DataError(f"{where} has {n_values} distinct values; need exactly two")
    if kind in ("classes", "counts"):
        wrong = np.flatnonzero((labels != np.rint(labels)) | ((labels < 0) & (kind == "counts")))
        need = "whole numbers that name classes" if kind == "classes" else "counts: whole numbers from 0 on"
        if len(wrong):
            raise DataError(f"{where} has {len(wrong)} other values, first in row {wrong[0] + 1}; need {need}")
    if kind == "classes" and (n_values > MAX_CLASSES or (complete and n_values < 2)):
        raise DataError(f"{where} has {n_values} distinct values; need 2 to {MAX_CLASSES} classes")


def label_summary(kind: TargetKind, labels: Floats) -> dict[str, Any]:
    """What a party tells all others about its checked training labels: which classes it has, of numbers nothing."""
    return {"label_values": [float(value) for value in np.unique(labels)]} if has_classes(kind) else {}


def agree_on_target(kind: TargetKind, summaries: Sequence[Mapping[str, Any]]) -> Target:
    """The target from the `label_summary` of every party. Raises DataError for a wrong number of classes."""
    if not has_classes(kind):
        return Target(kind)
    values = sorted({value for own in summaries for value in own["label_values"]})
    most, need = (2, "exactly two") if kind == "binary" else (MAX_CLASSES, f"2 to {MAX_CLASSES}")
    if not 2 <= len(values) <= most:
        raise DataError(
            f"the labels of all parties have {len(values)} distinct values ({_listed(values)}); need {need}"
        )
    return Target(kind, tuple(values))


def _listed(values: Sequence[float] | Floats) -> str:
    shown = 10
    return ", ".join(f"{value:g}" for value in values[:shown]) + (", ..." if len(values) > shown else "")


def _number(n: int) -> str:
    return "two" if n == 2 else str(n)
