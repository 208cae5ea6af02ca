"""Parquet files, through pyarrow, which is an optional dependency."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mhe.errors import DataError
from models.table import StoredTable, check_stored, label_position


def read_parquet(path: Path, label: str) -> StoredTable:
    """All columns of a .parquet file, of which `label` is the label; integers, floats and booleans.

    Raises DataError if pyarrow is not installed, the file cannot be read, or a cell is not a finite number.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path}: reading .parquet files needs pyarrow, which is not installed: run '{sys.executable} -m pip "
            "install mhe-learn[parquet]', or save the table as .npz or CSV"
        ) from None
    try:
        table = pyarrow.parquet.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; relative names start at the folder of the configuration") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as a parquet file: {error}") from None
    header = list(table.column_names)
    at = label_position(str(path), header, label)
    cells = []
    for name, column in zip(header, table.columns, strict=True):
        kind = column.type
        if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)):
            raise DataError(f"{path}, column {name!r}: is of type {kind}; need numbers")
        if column.null_count:
            row = column.is_null().to_numpy().argmax() + 1
            raise DataError(f"{path}, row {row}, column {name!r}: is empty; need a finite number")
        numbers = (column.cast(pyarrow.uint8()) if pyarrow.types.is_boolean(kind) else column).to_numpy()
        if not np.isfinite(numbers).all():
            row = (~np.isfinite(numbers)).argmax() + 1
            raise DataError(f"{path}, row {row}, column {name!r}: holds {numbers[row - 1]}; need a finite number")
        cells.append(numbers)
    labels = cells.pop(at)
    features = np.empty((table.num_rows, len(cells)), dtype=np.result_type(*cells))
    for i, numbers in enumerate(cells):
        features[:, i] = numbers
    columns = tuple(name for i, name in enumerate(header) if i != at)
    return StoredTable(features, check_stored(str(path), features, labels), columns)
