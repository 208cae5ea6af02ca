"""NumPy archives of arrays."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from mhe.errors import DataError
from models.table import StoredTable, check_label, check_stored

NAMES = (("x", "y"), ("features", "labels"))
"""The array of features and the array of labels."""

COLUMNS = "columns"
"""An optional array of the names of the columns."""


def read_npz(path: Path, label: str) -> StoredTable:
    """The arrays x and y, or features and labels, of a .npz file: (rows, ...) and (rows,).

    Further dimensions of the features are flattened. The label is called as its array; the columns are called as the
    array `columns` says, x0, x1, ... without one. Raises DataError for anything else; nothing is ever unpickled.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: holds one array without a name; save it with numpy.savez(file, x=..., y=...)")
        with loaded as archive:
            found = next((names for names in NAMES if set(names) <= set(archive.files)), None)
            if found is None:
                need = ", or ".join(f"{x!r} and {y!r}" for x, y in NAMES)
                raise DataError(f"{path}: has the arrays {', '.join(map(repr, archive.files))}; need {need}")
            check_label(str(path), found[1], label)
            features, labels = archive[found[0]], archive[found[1]]
            names = archive[COLUMNS] if COLUMNS in archive.files else None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; relative names start at the folder of the configuration") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as arrays of numbers of numpy.savez: {error}") from None
    values = features.reshape(len(features), -1) if features.ndim > 1 and features.size else features
    numbers = check_stored(str(path), values, labels)
    columns = tuple(f"x{i}" for i in range(values.shape[1])) if names is None else tuple(map(str, names.ravel()))
    if len(set(columns)) != values.shape[1]:
        raise DataError(f"{path}: names {len(set(columns))} different columns of {values.shape[1]}; need one name each")
    return StoredTable(values, numbers, columns)
