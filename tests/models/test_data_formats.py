"""Files that are no CSV: IDX (and MNIST in it), .npz and .parquet, read exactly or refused with the place."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhe.errors import DataError
from models.data import DataSource, load_shard, pooled, stack
from models.readers.idx import TYPES, is_idx, read_idx
from models.readers.parquet import read_parquet
from models.readers.sources import read_table
from models.table import Table

PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 2, 3) * 10
DIGITS = np.array([7, 0, 7, 3], dtype=np.uint8)


def idx_bytes(array: npt.NDArray[np.generic]) -> bytes:
    """An array in its IDX form."""
    code = next(code for code, name in TYPES.items() if np.dtype(name) == array.dtype.newbyteorder(">"))
    shape = np.array(array.shape, dtype=">u4").tobytes()
    return bytes([0, 0, code, array.ndim]) + shape + array.astype(TYPES[code]).tobytes()


def write_idx(folder: Path, stem: str = "train", pixels: npt.NDArray[np.generic] = PIXELS, packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for what, array in ((f"{stem}-images-idx3-ubyte", pixels), (f"{stem}-labels-idx1-ubyte", DIGITS)):
        data = idx_bytes(array)
        (folder / f"{what}.gz").write_bytes(gzip.compress(data)) if packed else (folder / what).write_bytes(data)
    return folder / f"{stem}-images-idx3-ubyte{'.gz' if packed else ''}"


def whole(path: Path, label: str) -> Table:
    table = read_table(path.name, label, path.parent)
    return table.take(np.arange(len(table)))


# IDX


@given(st.sampled_from(sorted(TYPES)), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 99))
def test_idx_of_every_type_and_shape(
    tmp_path_factory: pytest.TempPathFactory, code: int, shape: list[int], seed: int
) -> None:
    array = (np.random.default_rng(seed).normal(size=shape) * 50 + 100).astype(TYPES[code])
    path = tmp_path_factory.mktemp("t") / "x-idx"
    path.write_bytes(idx_bytes(array))
    assert np.array_equal(read_idx(path), array)


@pytest.mark.parametrize("packed", [True, False])
def test_images_are_rows_scaled_to_one_with_labels_beside_them(tmp_path: Path, packed: bool) -> None:
    table = whole(write_idx(tmp_path, packed=packed), "label")
    assert table.columns == tuple(f"pixel{i}" for i in range(6))
    np.testing.assert_allclose(table.features, PIXELS.reshape(4, 6) / 255, rtol=1e-15)
    assert table.labels.tolist() == [7, 0, 7, 3]


@pytest.mark.parametrize(
    "name", ["train-images-idx3-ubyte.gz", "train-images.idx3-ubyte", "site0.images.idx", "a-idx2"]
)
def test_names_of_idx_files(name: str) -> None:
    assert is_idx(name)


@pytest.mark.parametrize("name", ["x.csv", "idx.csv", "train-images-idx3.csv", "images"])
def test_names_of_other_files(name: str) -> None:
    assert not is_idx(name)


def test_idx_that_is_broken(tmp_path: Path) -> None:
    path = write_idx(tmp_path, packed=False)
    data = path.read_bytes()
    for broken, words in (
        (data[:-1], "its header .* needs 40: is it cut off"),
        (b"", "no IDX file"),
        (b"\x00\x00\x07" + data[3:], "no IDX file: it starts with the bytes 00 00 07 03"),
        (idx_bytes(PIXELS[:3]), "3 rows of features and 4 labels"),
        (idx_bytes(DIGITS), r"features of shape \(4,\)"),
    ):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=words):
            whole(path, "label")
    path.write_bytes(data)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: no such file"):
        whole(path, "label")
    with pytest.raises(DataError, match="its label is 'label'; got 'digit'"):
        whole(path, "digit")


def test_packed_file_that_is_cut_off(tmp_path: Path) -> None:
    path = write_idx(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be read or unpacked"):
        whole(path, "label")


# MNIST


def test_mnist_lies_beside_the_configuration_or_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MHE_MNIST", raising=False)
    source = DataSource("builtin:mnist", "label", test="builtin:mnist-test", folder=tmp_path, target="classes")
    with pytest.raises(DataError, match=r"data/mnist/train-images-idx3-ubyte.gz: no such file: run 'mhe fetch mnist"):
        load_shard(source, 0, 2)
    write_idx(tmp_path / "data" / "mnist")
    write_idx(tmp_path / "data" / "mnist", "t10k", PIXELS[::-1], packed=False)
    shards = pooled(source, 2)
    assert [(shard.n_rows, len(shard.test_labels)) for shard in shards] == [(2, 2), (2, 2)]
    rows = stack(shards)
    assert sorted(rows.features[:, 0] * 255) == pytest.approx([0, 60, 120, 180])
    monkeypatch.setenv("MHE_MNIST", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=r"elsewhere/train-images-idx3-ubyte.gz: no such file"):
        load_shard(source, 0, 2)
    write_idx(tmp_path / "elsewhere")
    write_idx(tmp_path / "elsewhere", "t10k")
    assert load_shard(source, 0, 2).n_features == 6


def test_party_makes_only_its_own_rows_floating_point(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "mnist"
    write_idx(folder)
    table = read_table("builtin:mnist", "label", tmp_path)
    assert table.labels is not None
    taken = table.take(np.array([3, 1]))
    assert (taken.features.dtype, taken.features.shape) == (np.float64, (2, 6))
    assert taken.labels.tolist() == [3, 0]


# .npz


@pytest.mark.parametrize(("features", "labels"), [("x", "y"), ("features", "labels")])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.bool_])
def test_arrays_of_an_archive(tmp_path: Path, features: str, labels: str, dtype: type) -> None:
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    np.savez(tmp_path / "t.npz", **{features: values, labels: np.array([0.5, 2])})
    table = whole(tmp_path / "t.npz", labels)
    assert table.features.tolist() == values.astype(float).tolist()
    assert table.labels.tolist() == [0.5, 2]
    assert table.columns == ("x0", "x1", "x2")


def test_images_and_names_in_an_archive(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "t.npz", x=PIXELS, y=DIGITS)
    assert whole(tmp_path / "t.npz", "y").features.tolist() == PIXELS.reshape(4, 6).tolist()
    np.savez(tmp_path / "t.npz", x=np.eye(2), y=np.ones(2), columns=np.array(["age", "dose"]))
    assert whole(tmp_path / "t.npz", "y").columns == ("age", "dose")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.eye(2)}, "has the arrays 'x'; need 'x' and 'y', or 'features' and 'labels'"),
        ({"x": np.eye(2), "labels": np.ones(2)}, "need 'x' and 'y'"),
        ({"x": np.eye(2), "y": np.ones(3)}, "2 rows of features and 3 labels"),
        ({"x": np.eye(2), "y": np.eye(2)}, r"labels of shape \(2, 2\)"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "neither empty"),
        ({"x": np.array([[1.0], [np.nan]]), "y": np.ones(2)}, "row 2: holds a number in its features that is not"),
        ({"x": np.eye(2), "y": np.array([np.inf, 1])}, "row 1: holds a number in its labels"),
        ({"x": np.array([["a"], ["b"]]), "y": np.ones(2)}, "its features are of type <U1; need numbers"),
        ({"x": np.array([[None], [1]]), "y": np.ones(2)}, "cannot be read as arrays of numbers"),
        ({"x": np.eye(2), "y": np.ones(2), "columns": np.array(["a", "a"])}, "names 1 different columns of 2"),
    ],
)
def test_archive_that_is_no_table(tmp_path: Path, arrays: dict[str, npt.NDArray[np.generic]], words: str) -> None:
    np.savez(tmp_path / "t.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=words):
        whole(tmp_path / "t.npz", "y")


def test_file_that_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    with pytest.raises(DataError, match="no such file"):
        whole(path, "y")
    path.write_bytes(b"x,y\n1,2\n")
    with pytest.raises(DataError, match="cannot be read as arrays"):
        whole(path, "y")
    with path.open("wb") as file:
        np.save(file, np.eye(2))
    with pytest.raises(DataError, match="one array without a name"):
        whole(path, "y")
    np.savez(path, x=np.eye(2), y=np.ones(2))
    with pytest.raises(DataError, match="its label is 'y'; got 'ill'"):
        whole(path, "ill")


# .parquet


def write_parquet(path: Path, **columns: object) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    return path


def test_columns_of_a_parquet_file(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", age=[31, 54], ill=[False, True], dose=[0.5, 2.0])
    table = whole(path, "ill")
    assert table.columns == ("age", "dose")
    assert table.features.tolist() == [[31, 0.5], [54, 2]]
    assert table.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"dose": [1.0, None]}, "row 2, column 'dose': is empty"),
        ({"dose": [float("inf"), 1.0]}, "row 1, column 'dose': holds inf"),
        ({"dose": ["much", "little"]}, "column 'dose': is of type .*string; need numbers"),
        ({}, "no column but the label"),
    ],
)
def test_parquet_file_that_is_no_table(tmp_path: Path, columns: dict[str, object], words: str) -> None:
    path = write_parquet(tmp_path / "t.parquet", ill=[0, 1], **columns)
    with pytest.raises(DataError, match=words):
        whole(path, "ill")


def test_file_that_is_no_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="no such file"):
        whole(tmp_path / "t.parquet", "ill")
    (tmp_path / "t.parquet").write_text("a,ill\n1,2\n")
    with pytest.raises(DataError, match="cannot be read as a parquet file"):
        whole(tmp_path / "t.parquet", "ill")


def test_remedy_where_pyarrow_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow, which is not installed: run .* mhe-learn\[parquet\]"):
        read_parquet(tmp_path / "t.parquet", "ill")
