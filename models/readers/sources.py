"""The tables that a configuration can name, each read by its reader."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mhe.errors import DataError
from models.readers.csv_file import read_csv
from models.readers.idx import is_idx, read_idx_table
from models.readers.npz import read_npz
from models.readers.parquet import read_parquet
from models.readers.synthetic import SYNTHETIC, read_synthetic
from models.table import Rows, StoredTable, Table, check_label, label_position

BUILTIN = "builtin:"
SKLEARN = "sklearn:"

MNIST_VARIABLE = "MHE_MNIST"
"""Names the folder of MNIST's four files; without it they are looked for in MNIST_FOLDER beside the configuration."""

MNIST_FOLDER = Path("data") / "mnist"
MNIST_IMAGES = {"mnist": "train-images-idx3-ubyte.gz", "mnist-test": "t10k-images-idx3-ubyte.gz"}

OWN_TEST: Mapping[str, str] = {BUILTIN + "mnist": BUILTIN + "mnist-test"}
"""Tables that come with test rows of their own."""


def is_file(source: str) -> bool:
    """Whether `source` names a file, and not a table that comes along or is made up."""
    return not source.startswith((BUILTIN, SKLEARN, SYNTHETIC))


def read_table(source: str, label: str, folder: Path = Path()) -> Rows:
    """The table named by `source`: "builtin:...", "sklearn:...", "synthetic:..." or a file (.npz, .parquet, IDX, CSV).

    A relative file name starts at `folder`. Raises DataError if there is no such table, if it has no column `label`, or
    if a cell is not a finite number (naming file, line and column).
    """
    if source.startswith(SKLEARN):
        return _scikit_learn(source, label)
    if source.startswith(BUILTIN):
        return _builtin(source, label, folder)
    if source.startswith(SYNTHETIC):
        return read_synthetic(source, label)
    path = folder / source
    read: Callable[[Path, str], Rows] = read_csv
    if path.suffix == ".npz":
        read = read_npz
    elif path.suffix in (".parquet", ".pq"):
        read = read_parquet
    elif is_idx(source):
        read = read_idx_table
    return read(path, label)


def _builtin(source: str, label: str, folder: Path) -> Rows:
    name = source.removeprefix(BUILTIN)
    if name in MNIST_IMAGES:
        return _mnist(name, label, Path(os.environ.get(MNIST_VARIABLE) or folder / MNIST_FOLDER))
    packaged = resources.files("models") / "datasets"
    names = sorted(entry.name.removesuffix(".csv") for entry in packaged.iterdir() if entry.name.endswith(".csv"))
    if name not in names:
        known = ", ".join(BUILTIN + known for known in (*names, *MNIST_IMAGES))
        raise DataError(f"there is no table {source!r}; have {known}")
    with resources.as_file(packaged / f"{name}.csv") as path:
        return read_csv(path, label)


def _mnist(name: str, label: str, folder: Path) -> StoredTable:
    """MNIST from its files as distributed, packed or unpacked."""
    packed = folder / MNIST_IMAGES[name]
    path = next((path for path in (packed, packed.with_suffix("")) if path.is_file()), None)
    if path is None:
        raise DataError(
            f"{packed}: no such file: run 'mhe fetch mnist --into {folder}', or let {MNIST_VARIABLE} name the folder "
            "that holds MNIST's four files"
        )
    return read_idx_table(path, label)


def _scikit_learn(source: str, label: str) -> Table:
    # Importing scikit-learn takes a second, which runs on other tables need not pay.
    from sklearn import datasets  # type: ignore[import-untyped]

    # The diabetes table as measured, not as scikit-learn standardised it.
    loaders: Mapping[str, Callable[[], Any]] = {
        "breast_cancer": datasets.load_breast_cancer,
        "diabetes": lambda: datasets.load_diabetes(scaled=False),
        "digits": datasets.load_digits,
    }
    name = source.removeprefix(SKLEARN)
    if name not in loaders:
        raise DataError(f"there is no table {source!r}; have {', '.join(SKLEARN + known for known in loaders)}")
    bunch = loaders[name]()
    columns = tuple(str(name) for name in bunch.feature_names)
    label_position(source, (*columns, "target"), label)
    check_label(source, "target", label)
    return Table(np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target, dtype=np.float64), columns)
