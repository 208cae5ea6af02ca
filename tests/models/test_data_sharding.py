"""Who gets which rows, and what the parties say to one another about them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mhe.errors import DataError
from models.data import (
    DataSource,
    Shard,
    check_files,
    check_summaries,
    code,
    load_shard,
    pooled,
    stack,
    summary,
)
from models.target import MAX_CLASSES, Target


def write_table(path: Path, rows: int, *, first: int = 0, header: str = "a,b,y", one_class: bool = False) -> None:
    lines = [f"{i},{i * i},{1 if one_class else i % 2}" for i in range(first, first + rows)]
    path.write_text("\n".join([header, *lines]) + "\n")


def own_summary(**changes: Any) -> dict[str, Any]:
    return {"columns": ["a", "b"], "rows": 3, "test_rows": 1, "label_values": [0.0, 1.0]} | changes


@given(
    rows=st.integers(6, 60),
    n_parties=st.integers(1, 6),
    seed=st.integers(0, 2**32),
    fraction=st.floats(0, 0.9),
)
def test_shards_of_a_common_table_are_a_partition(
    tmp_path_factory: pytest.TempPathFactory, rows: int, n_parties: int, seed: int, fraction: float
) -> None:
    folder = tmp_path_factory.mktemp("t")
    write_table(folder / "x.csv", rows)
    source = DataSource("x.csv", "y", test_fraction=fraction, split_seed=seed, folder=folder)
    assume(rows - 2 * round(fraction * rows / 2) >= n_parties + 2)
    shards = pooled(source, n_parties)
    assert max(s.n_rows for s in shards) - min(s.n_rows for s in shards) <= 1
    whole = stack(shards)
    identities = np.concatenate([whole.features[:, 0], whole.test_features[:, 0]])
    assert sorted(identities) == list(range(rows))
    for shard in shards:
        assert np.array_equal(shard.labels, shard.features[:, 0] % 2)
        assert np.array_equal(shard.test_labels, shard.test_features[:, 0] % 2)
    # The test rows have the classes of the table, to the row.
    for value in (0, 1):
        expected = round(fraction * np.sum(np.arange(rows) % 2 == value))
        assert np.sum(whole.test_labels == value) == expected


def test_every_party_sees_the_split_that_the_twin_sees() -> None:
    source = DataSource("builtin:pima", "diabetes", split_seed=7)
    for rank, shard in enumerate(pooled(source, 3)):
        own = load_shard(source, rank, 3)
        for one, other in (
            (own.features, shard.features),
            (own.labels, shard.labels),
            (own.test_features, shard.test_features),
            (own.test_labels, shard.test_labels),
        ):
            assert np.array_equal(one, other)


def test_number_of_parties_does_not_change_the_test_rows() -> None:
    source = DataSource("builtin:bcw", "malignant")
    rows = [Counter(map(tuple, stack(pooled(source, n)).test_features)) for n in (1, 2, 5)]
    assert rows[0] == rows[1] == rows[2]


def test_other_seed_other_split() -> None:
    source = DataSource("builtin:bcw", "malignant")
    one, other = (load_shard(replace(source, split_seed=seed), 0, 2).features for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_test_table_of_its_own(tmp_path: Path) -> None:
    write_table(tmp_path / "x.csv", 10)
    write_table(tmp_path / "y.csv", 5, first=100)
    shards = pooled(DataSource("x.csv", "y", test="y.csv", folder=tmp_path), 3)
    whole = stack(shards)
    assert sorted(whole.features[:, 0]) == list(range(10))
    assert sorted(whole.test_features[:, 0]) == list(range(100, 105))
    assert [len(s.test_labels) for s in shards] == [2, 2, 1]


def test_each_site_reads_only_its_own_files(tmp_path: Path) -> None:
    source = DataSource("site{party}.csv", "y", test="test{party}.csv", folder=tmp_path)
    for rank in range(2):
        write_table(tmp_path / f"site{rank}.csv", 4 + rank, first=10 * rank)
        write_table(tmp_path / f"test{rank}.csv", 2, first=100 * rank)
        # The other party's files are not there yet, or already gone.
        shard = load_shard(source, rank, 2)
        assert shard.features[:, 0].tolist() == list(range(10 * rank, 10 * rank + 4 + rank))
        assert shard.test_features[:, 0].tolist() == [100 * rank, 100 * rank + 1]
        (tmp_path / f"site{rank}.csv").unlink()
        (tmp_path / f"test{rank}.csv").unlink()
    assert not source.is_common
    with pytest.raises(DataError, match="only a common table"):
        pooled(source, 2)


def test_site_sets_its_own_test_rows_aside(tmp_path: Path) -> None:
    write_table(tmp_path / "site0.csv", 20)
    shard = load_shard(DataSource("site{party}.csv", "y", test_fraction=0.3, folder=tmp_path), 0, 4)
    assert (shard.n_rows, len(shard.test_labels)) == (14, 6)
    assert sorted([*shard.features[:, 0], *shard.test_features[:, 0]]) == list(range(20))


def test_site_with_one_class_is_fine_as_long_as_another_has_the_other(tmp_path: Path) -> None:
    write_table(tmp_path / "site0.csv", 4, one_class=True)
    write_table(tmp_path / "site1.csv", 4)
    source = DataSource("site{party}.csv", "y", folder=tmp_path)
    shards = [load_shard(source, rank, 2) for rank in range(2)]
    classes = check_summaries([summary(shard, "binary") for shard in shards], "binary")
    assert classes == Target("binary", (0, 1))
    assert code(shards[0], classes).labels.tolist() == [1, 1, 1]


def test_summary_tells_nothing_but_shapes_names_and_classes(tmp_path: Path) -> None:
    write_table(tmp_path / "x.csv", 10)
    told = summary(load_shard(DataSource("x.csv", "y", folder=tmp_path), 0, 1), "binary")
    assert told == {"columns": ["a", "b"], "rows": 8, "test_rows": 2, "label_values": [0.0, 1.0]}
    assert json.loads(json.dumps(told)) == told


def test_larger_label_is_the_positive_class() -> None:
    labels = np.array([2.0, 4.0, 4.0])
    shard = Shard(np.zeros((3, 1)), labels, ("a",), np.zeros((1, 1)), labels[:1])
    coded = code(shard, check_summaries([summary(shard, "binary")], "binary"))
    assert coded.labels.tolist() == [0, 1, 1]
    assert coded.test_labels.tolist() == [0]
    with pytest.raises(DataError, match="test row has the label 3; the two classes are 2, 4"):
        code(replace(shard, test_labels=np.array([3.0])), Target("binary", (2, 4)))


@pytest.mark.parametrize(
    ("summaries", "words"),
    [
        ([own_summary(), own_summary(rows=0, label_values=[])], "party 1 has no rows"),
        ([own_summary(), own_summary(columns=["a", "c"])], "party 1 has other columns.*1 missing .'b'.*1 more .'c'"),
        ([own_summary(), own_summary(columns=["b", "a"])], "another order"),
        ([own_summary(label_values=[1.0])] * 2, r"1 distinct values \(1\)"),
        ([own_summary(), own_summary(label_values=[0.0, 2.0])], r"3 distinct values \(0, 1, 2\)"),
    ],
)
def test_shards_that_do_not_fit_together(summaries: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_summaries(summaries, "binary")


def test_more_parties_than_rows(tmp_path: Path) -> None:
    write_table(tmp_path / "x.csv", 6)
    with pytest.raises(DataError, match="4 training rows for 5 parties"):
        load_shard(DataSource("x.csv", "y", test_fraction=0.3, folder=tmp_path), 0, 5)


@pytest.mark.parametrize(("label", "count"), [("b", 10), ("c", 1)])
def test_label_without_two_classes(tmp_path: Path, label: str, count: int) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b,c\n" + "".join(f"{i},{i * i},1\n" for i in range(10)))
    with pytest.raises(DataError, match=f"'{label}' has {count} distinct values"):
        load_shard(DataSource("x.csv", label, folder=tmp_path), 0, 2)


def test_test_table_with_other_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "x.csv", 10)
    write_table(tmp_path / "y.csv", 10, header="a,z,y")
    with pytest.raises(DataError, match=r"y\.csv has other columns than x\.csv"):
        load_shard(DataSource("x.csv", "y", test="y.csv", folder=tmp_path), 0, 1)


def test_missing_site_says_how_parties_are_numbered(tmp_path: Path) -> None:
    write_table(tmp_path / "site1.csv", 4)
    source = DataSource("site{party}.csv", "y", folder=tmp_path)
    with pytest.raises(DataError, match=r"site0.csv: no such file; parties are numbered from 0.*start at 1"):
        check_files(source, range(2))
    check_files(source, [1])


def test_missing_table_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x.csv: no such file; relative names start at the folder"):
        load_shard(DataSource("x.csv", "y", folder=tmp_path), 0, 1)


def write_labels(path: Path, labels: list[float]) -> None:
    path.write_text("a,y\n" + "".join(f"{i},{label!r}\n" for i, label in enumerate(labels)))


def test_classes_are_numbered_over_all_parties(tmp_path: Path) -> None:
    write_labels(tmp_path / "site0.csv", [7, 7, 3])
    write_labels(tmp_path / "site1.csv", [-1, 3])
    source = DataSource("site{party}.csv", "y", test_fraction=0, folder=tmp_path, target="classes")
    shards = [load_shard(source, rank, 2) for rank in range(2)]
    summaries = [json.loads(json.dumps(summary(shard, "classes"))) for shard in shards]
    assert [told["label_values"] for told in summaries] == [[3, 7], [-1, 3]]
    target = check_summaries(summaries, "classes")
    assert target == Target("classes", (-1, 3, 7))
    assert [code(shard, target).labels.tolist() for shard in shards] == [[2, 2, 1], [0, 1]]
    with pytest.raises(DataError, match="training row has the label 7; the 3 classes are -1, 3, 5"):
        code(shards[0], Target("classes", (-1, 3, 5)))


@pytest.mark.parametrize(("kind", "labels"), [("real", [0.5, -2.0, 1e9]), ("counts", [0.0, 12.0, 3.0])])
def test_nothing_is_told_about_labels_that_are_numbers(tmp_path: Path, kind: Any, labels: list[float]) -> None:
    write_labels(tmp_path / "x.csv", labels)
    shard = load_shard(DataSource("x.csv", "y", test_fraction=0, folder=tmp_path, target=kind), 0, 1)
    told = summary(shard, kind)
    assert told == {"columns": ["a"], "rows": 3, "test_rows": 0}
    target = check_summaries([told], kind)
    assert target == Target(kind)
    assert np.array_equal(code(shard, target).labels, shard.labels)


@pytest.mark.parametrize(
    ("kind", "labels", "words"),
    [
        ("counts", [1, 2, -3, 0.5], "'y' has 2 other values, first in row 3; need counts: whole numbers from 0 on"),
        ("classes", [1, 2.5, 3], "'y' has 1 other values, first in row 2; need whole numbers that name classes"),
        ("classes", list(range(MAX_CLASSES + 1)), f"has {MAX_CLASSES + 1} distinct values; need 2 to {MAX_CLASSES}"),
        ("classes", [1, 1, 1], "has 1 distinct values; need 2 to"),
    ],
)
def test_labels_that_are_not_of_the_kind(tmp_path: Path, kind: Any, labels: list[float], words: str) -> None:
    write_labels(tmp_path / "x.csv", labels)
    with pytest.raises(DataError, match=words):
        load_shard(DataSource("x.csv", "y", test_fraction=0, folder=tmp_path, target=kind), 0, 1)


def test_more_classes_over_all_parties_than_there_may_be() -> None:
    halves = (range(MAX_CLASSES), range(1, MAX_CLASSES + 1))
    summaries = [own_summary(label_values=[float(value) for value in half]) for half in halves]
    with pytest.raises(DataError, match=f"{MAX_CLASSES + 1} distinct values .*; need 2 to {MAX_CLASSES}"):
        check_summaries(summaries, "classes")


def test_test_rows_of_numbers_are_drawn_from_all(tmp_path: Path) -> None:
    write_labels(tmp_path / "x.csv", [i / 7 for i in range(50)])
    shard = load_shard(DataSource("x.csv", "y", test_fraction=0.2, folder=tmp_path, target="real"), 0, 1)
    assert (shard.n_rows, len(shard.test_labels)) == (40, 10)
    assert sorted([*shard.features[:, 0], *shard.test_features[:, 0]]) == list(range(50))
