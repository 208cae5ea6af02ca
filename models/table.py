"""One table in memory, and reading it: a CSV file, a packaged table, or one that comes with scikit-learn."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.errors import DataError

FloatArray = npt.NDArray[np.float64]
RowNumbers = npt.NDArray[np.integer[Any]]

BUILTIN = "builtin:"
SKLEARN = "sklearn:"
SKLEARN_TABLES = ("breast_cancer",)


@dataclass(frozen=True)
class Table:
    """Finite numbers under named columns; `labels` keeps the values of the file."""

    features: FloatArray  # (rows, columns)
    labels: FloatArray  # (rows,)
    columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: RowNumbers) -> Table:
        """The rows with these numbers, in this order."""
        return Table(self.features[rows], self.labels[rows], self.columns)


def is_file(source: str) -> bool:
    """Whether `source` names a file, and not a table that comes with this package or with scikit-learn."""
    return not source.startswith((BUILTIN, SKLEARN))


def read_table(source: str, label: str, folder: Path = Path()) -> Table:
    """The table named by `source`: "builtin:pima", "builtin:bcw", "sklearn:breast_cancer", or a CSV file.

    A relative file name starts at `folder`. Raises DataError if there is no such table, if it has no column `label`, or
    if a cell is not a finite number (naming file, line and column).
    """
    if source.startswith(SKLEARN):
        return _scikit_learn(source, label)
    if source.startswith(BUILTIN):
        return _builtin(source, label)
    return read_csv(folder / source, label)


def read_csv(path: Path, label: str) -> Table:
    """A comma separated file: a header line, below it nothing but finite numbers.

    Raises DataError naming the file and, where there is one, the line (counted from 1), the column and the cell.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, cells) for cells in reader if cells]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; relative names start at the folder of the configuration") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as comma separated UTF-8 text: {error}") from None

    at = _label_position(str(path), header, label)
    if not rows:
        raise DataError(f"{path}: has a header but no rows; need at least one")
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{path}, row {line}: has {len(cells)} cells where the header has {len(header)}")
    values = _numbers(path, header, rows)
    columns = tuple(name for i, name in enumerate(header) if i != at)
    return Table(np.ascontiguousarray(np.delete(values, at, axis=1)), values[:, at].copy(), columns)


def _label_position(name: str, header: Sequence[str], label: str) -> int:
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


def _header_hint(header: Sequence[str], label: str) -> str:
    """The likeliest reason why the label is not there."""
    if all(_finite(cell) for cell in header):
        return "its first line holds numbers: the first line must name the columns"
    for mark, what in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and mark in header[0]:
            return f"its cells are parted by {what}: need commas"
    near = difflib.get_close_matches(label, header, n=1)
    shown = ", ".join(map(repr, header[:12])) + (", ..." if len(header) > 12 else "")
    return (f"did you mean {near[0]!r}? " if near else "") + f"its columns are {shown}"


def _numbers(path: Path, header: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]) -> FloatArray:
    """All cells as numbers; the cells are looked at one by one only to name the first that is none."""
    try:
        values = np.array([cells for _, cells in rows], dtype=np.float64)
    except ValueError:
        values = np.full((1, 1), np.nan)
    if np.isfinite(values).all():
        return values
    for line, cells in rows:
        for name, cell in zip(header, cells, strict=True):
            if not _finite(cell):
                what = "is empty" if not cell.strip() else f"holds {cell!r}"
                raise DataError(f"{path}, row {line}, column {name!r}: {what}; need a finite number")
    raise DataError(f"{path}: cannot be read as numbers")


def _finite(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _builtin(source: str, label: str) -> Table:
    folder = resources.files("models") / "datasets"
    names = sorted(entry.name.removesuffix(".csv") for entry in folder.iterdir() if entry.name.endswith(".csv"))
    name = source.removeprefix(BUILTIN)
    if name not in names:
        raise DataError(f"there is no table {source!r}; have {', '.join(BUILTIN + known for known in names)}")
    with resources.as_file(folder / f"{name}.csv") as path:
        return read_csv(path, label)


def _scikit_learn(source: str, label: str) -> Table:
    # Importing scikit-learn takes a second, which runs on other tables need not pay.
    from sklearn import datasets  # type: ignore[import-untyped]

    if source.removeprefix(SKLEARN) not in SKLEARN_TABLES:
        raise DataError(f"there is no table {source!r}; have {', '.join(SKLEARN + name for name in SKLEARN_TABLES)}")
    bunch = datasets.load_breast_cancer()
    columns = tuple(str(name) for name in bunch.feature_names)
    _label_position(source, (*columns, "target"), label)
    if label != "target":
        raise DataError(f"{source}: its label is 'target'; got {label!r}")
    return Table(np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target, dtype=np.float64), columns)
