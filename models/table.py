"""Tables: rows under named columns, in memory as they were stored, as float64 only where they are taken."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mhe.errors import DataError

FloatArray = npt.NDArray[np.float64]
RowNumbers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Table:
    """Finite numbers under named columns; `labels` keeps the values of the source."""

    features: FloatArray  # (rows, columns)
    labels: FloatArray  # (rows,)
    columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: RowNumbers) -> Table:
        """The rows with these numbers, in this order."""
        return Table(self.features[rows], self.labels[rows], self.columns)


@dataclass(frozen=True)
class StoredTable:
    """Numbers in whatever type they were stored; a row is unit * values[row]."""

    values: npt.NDArray[Any]  # (rows, columns), of integers or finite floats
    labels: FloatArray  # (rows,)
    columns: tuple[str, ...]
    unit: float = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: RowNumbers) -> Table:
        """The rows with these numbers, in this order, as float64."""
        features = self.values[rows].astype(np.float64)
        features *= self.unit
        return Table(features, self.labels[rows], self.columns)


class Rows(Protocol):
    """What a source of rows can tell without making all of them float64."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> FloatArray | None:
        """The labels (rows,); None where rows and labels come into being only as they are taken."""

    def __len__(self) -> int: ...

    def take(self, rows: RowNumbers) -> Table:
        """The rows with these numbers, in this order."""


def label_position(name: str, header: Sequence[str], label: str) -> int:
    """Where the label stands in a header that can be trained on; raises DataError for any other header."""
    if not header:
        raise DataError(f"{name}: is empty; need a header line with the names of the columns")
    repeated = sorted({column for column in header if header.count(column) > 1})
    if label not in header:
        raise DataError(f"{name}: has no label column {label!r}; {_header_hint(header, label)}")
    if repeated:
        raise DataError(f"{name}: column {repeated[0]!r} occurs {header.count(repeated[0])} times; names must differ")
    if len(header) < 2:
        raise DataError(f"{name}: has no column but the label {label!r}; need at least one feature")
    return header.index(label)


def check_label(name: str, known: str, label: str) -> None:
    """Raise DataError unless the label asked for is the one of a source that has only this one."""
    if label != known:
        raise DataError(f"{name}: its label is {known!r}; got {label!r}")


def check_stored(name: str, features: npt.NDArray[Any], labels: npt.NDArray[Any]) -> FloatArray:
    """The labels of stored features (rows, columns) as float64.

    Raises DataError if there are no rows, no columns, not as many labels, or cells that are no finite numbers.
    """
    if features.ndim != 2 or labels.ndim != 1 or 0 in features.shape:
        shapes = f"features of shape {features.shape} and labels of shape {labels.shape}"
        raise DataError(f"{name}: has {shapes}; need (rows, columns) and (rows,), neither empty")
    if len(features) != len(labels):
        raise DataError(f"{name}: has {len(features)} rows of features and {len(labels)} labels; need one for each")
    for what, values in (("features", features), ("labels", labels)):
        if values.dtype.kind not in "biuf":
            raise DataError(f"{name}: its {what} are of type {values.dtype}; need numbers")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
            raise DataError(f"{name}, row {row + 1}: holds a number in its {what} that is not finite; need finite ones")
    return labels.astype(np.float64)


def is_finite(cell: str) -> bool:
    """Whether a cell of text is a finite number."""
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _header_hint(header: Sequence[str], label: str) -> str:
    """The likeliest reason why the label is not there."""
    if all(is_finite(cell) for cell in header):
        return "its first line holds numbers: the first line must name the columns"
    for mark, what in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and mark in header[0]:
            return f"its cells are parted by {what}: need commas"
    near = difflib.get_close_matches(label, header, n=1)
    shown = ", ".join(map(repr, header[:12])) + (", ..." if len(header) > 12 else "")
    return (f"did you mean {near[0]!r}? " if near else "") + f"its columns are {shown}"
