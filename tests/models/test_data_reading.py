"""Reading tables: the packaged ones are whole, and every complaint about a file names what is wrong where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhe.errors import DataError
from models.readers.csv_file import read_csv
from models.readers.sources import read_table
from models.table import Table

GOOD = "age,dose,ill\n31,0.5,0\n54,2,1\n"


def whole(source: str, label: str) -> Table:
    table = read_table(source, label)
    return table.take(np.arange(len(table)))


def write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("source", "label", "shape", "positives"),
    [
        ("builtin:pima", "diabetes", (768, 8), 268),
        ("builtin:bcw", "malignant", (683, 9), 239),
        ("sklearn:breast_cancer", "target", (569, 30), 357),
    ],
)
def test_tables_that_come_along(source: str, label: str, shape: tuple[int, int], positives: int) -> None:
    table = whole(source, label)
    assert table.features.shape == shape
    assert len(table.columns) == shape[1]
    assert np.isfinite(table.features).all()
    assert set(np.unique(table.labels)) == {0.0, 1.0}
    assert table.labels.sum() == positives


def test_numbers_to_predict() -> None:
    table = whole("sklearn:diabetes", "target")
    assert table.features.shape == (442, 10)
    assert (table.labels.min(), table.labels.max()) == (25, 346)
    assert table.features[:, table.columns.index("age")].max() == 79


def test_counts_that_come_along() -> None:
    table = whole("builtin:randhie", "mdvis")
    assert table.features.shape == (20190, 9)
    assert (table.labels.min(), table.labels.max(), table.labels.sum()) == (0, 77, 57752)
    assert np.array_equal(table.labels, np.rint(table.labels))


def test_ten_classes() -> None:
    table = whole("sklearn:digits", "target")
    assert table.features.shape == (1797, 64)
    assert set(table.labels) == set(range(10))


def test_label_may_stand_anywhere(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path, "age, ill ,dose\r\n31,0,0.5\r\n\r\n54,1,2e0\r\n"), "ill")
    assert table.columns == ("age", "dose")
    assert table.features.tolist() == [[31, 0.5], [54, 2]]
    assert table.labels.tolist() == [0, 1]


def test_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert read_csv(write(tmp_path, "\ufeff" + GOOD), "ill").columns == ("age", "dose")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=20))
def test_numbers_are_read_exactly(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    text = "x,y\n" + "".join(f"{value!r},1\n" for value in values)
    assert read_csv(write(tmp_path_factory.mktemp("t"), text), "y").features[:, 0].tolist() == values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "many,1,1\n", ["row 4", "'age'", "'many'", "finite number"]),
        (GOOD + "\n7,,1\n", ["row 5", "'dose'", "is empty"]),
        (GOOD + "7,nan,1\n", ["row 4", "'dose'", "'nan'"]),
        (GOOD + "7,1,-inf\n", ["row 4", "'ill'", "'-inf'"]),
        (GOOD + "7,1\n", ["row 4", "2 cells", "3"]),
        ("age,dose,ill\n", ["no rows"]),
        ("", ["empty", "header"]),
        ("ill\n1\n", ["no column but the label"]),
        ("age,age,ill\n1,2,0\n", ["'age'", "2 times"]),
        ("age,dose,Ill\n1,2,0\n", ["'ill'", "did you mean 'Ill'"]),
        ("31,0.5,0\n54,2,1\n", ["first line holds numbers"]),
        ("age;dose;ill\n1;2;0\n", ["semicolons"]),
    ],
)
def test_bad_file_is_named_with_the_place(tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_csv(path, "ill")
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="UTF-8"):
        read_csv(path, "ill")


def test_directory_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_csv(tmp_path, "ill")


def test_file_that_the_fast_parser_does_not_take_is_read_all_the_same(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path, 'age,"dose\nin mg",ill\n"31", 0.5,0\n 54,1_000,1\n'), "ill")
    assert table.columns == ("age", "dose\nin mg")
    assert table.features.tolist() == [[31, 0.5], [54, 1000]]


@pytest.mark.parametrize("source", ["builtin:iris", "sklearn:iris"])
def test_unknown_table(source: str) -> None:
    with pytest.raises(DataError, match=rf"no table '{source}'; have"):
        read_table(source, "ill")


def test_features_cannot_be_the_label_of_scikit_learns_table() -> None:
    with pytest.raises(DataError, match="its label is 'target'"):
        read_table("sklearn:breast_cancer", "mean radius")
