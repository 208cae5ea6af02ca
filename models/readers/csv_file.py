"""Comma separated files."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mhe.errors import DataError
from models.table import FloatArray, Table, is_finite, label_position


def read_csv(path: Path, label: str) -> Table:
    """A comma separated file: a header line, below it nothing but finite numbers.

    Raises DataError naming the file and, where there is one, the line (counted from 1), the column and the cell.
    """
    try:
        header = _header(path)
        at = label_position(str(path), header, label)
        values = _cells(path, header)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; relative names start at the folder of the configuration") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as comma separated UTF-8 text: {error}") from None
    columns = tuple(name for i, name in enumerate(header) if i != at)
    return Table(np.ascontiguousarray(np.delete(values, at, axis=1)), values[:, at].copy(), columns)


def read_rows(path: Path, columns: Sequence[str]) -> FloatArray:
    """The rows (n, columns) of a comma separated file whose header names just these columns, in any order.

    Raises DataError as `read_csv`, or naming the columns that are missing, strange or repeated.
    """
    try:
        header = _header(path)
        missing, strange = sorted(set(columns) - set(header)), sorted(set(header) - set(columns))
        if missing or strange or len(header) != len(columns):
            raise DataError(
                f"{path}: has {len(header)} columns, without {missing} and with {strange}; need just "
                f"{list(columns)}, each once"
            )
        values = _cells(path, header)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as comma separated UTF-8 text: {error}") from None
    return np.ascontiguousarray(values[:, [header.index(name) for name in columns]])


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return [name.strip() for name in next(csv.reader(file, strict=True), [])]


def _cells(path: Path, header: list[str]) -> FloatArray:
    plain = _plain_numbers(path, len(header))
    return _numbers(path, header) if plain is None else plain


def _plain_numbers(path: Path, width: int) -> FloatArray | None:
    """All cells, without an object for each as the csv module makes; None for a file that is less than perfect."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file, warnings.catch_warnings():
            # A file without rows is looked at again, and refused.
            warnings.simplefilter("ignore")
            next(csv.reader(file, strict=True))
            values = np.loadtxt(file, dtype=np.float64, delimiter=",", comments=None, ndmin=2)
    except ValueError:
        return None
    return values if values.shape[0] and values.shape[1] == width and np.isfinite(values).all() else None


def _numbers(path: Path, header: Sequence[str]) -> FloatArray:
    """All cells as numbers; looked at one by one only to name the first that is none."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        next(reader)
        rows = [(reader.line_num, cells) for cells in reader if cells]
    if not rows:
        raise DataError(f"{path}: has a header but no rows; need at least one")
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{path}, row {line}: has {len(cells)} cells where the header has {len(header)}")
    try:
        values = np.array([cells for _, cells in rows], dtype=np.float64)
    except ValueError:
        values = np.full((1, 1), np.nan)
    if np.isfinite(values).all():
        return values
    for line, cells in rows:
        for name, cell in zip(header, cells, strict=True):
            if not is_finite(cell):
                what = "is empty" if not cell.strip() else f"holds {cell!r}"
                raise DataError(f"{path}, row {line}, column {name!r}: {what}; need a finite number")
    raise DataError(f"{path}: cannot be read as numbers")
