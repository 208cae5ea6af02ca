"""Row-sharded tables: which rows are whose, and what the parties tell one another before they make any key.

There are two ways to say where the rows are. One table ("x.csv") is split by rows among the parties: a demonstration,
since every party could read all of it. One file per party ("site{party}.csv", numbered from 0) is the real thing: each
party reads only its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mhe.errors import DataError
from models.readers.sources import is_file, read_table
from models.table import FloatArray, RowNumbers, Rows
from models.target import Target, TargetKind, agree_on_target, check_labels, has_classes, label_summary

PARTY = "{party}"
"""Stands for the number of the party (0, 1, ...) in the name of a file."""


@dataclass(frozen=True)
class DataSource:
    """Where the rows are, and how they are divided.

    train, test: a table for all parties, or a file name with "{party}" for one table each; without `test`, the fraction
        `test_fraction` of the rows (of each class) is set aside from `train` (before a common table is divided).
    label: the column to learn.
    split_seed: decides which rows are test rows and which rows of a common table are whose.
    folder: where relative file names start.
    target: what the labels are.
    """

    train: str
    label: str
    test: str | None = None
    test_fraction: float = 0.2
    split_seed: int = 0
    folder: Path = Path()
    target: TargetKind = "binary"

    @property
    def is_common(self) -> bool:
        """Whether one table was divided for a demonstration, so that every party may know all its rows."""
        return PARTY not in self.train and (self.test is None or PARTY not in self.test)

    def name(self, pattern: str, rank: int) -> str:
        """The source that the party `rank` reads for this pattern."""
        return pattern.replace(PARTY, str(rank))


@dataclass(frozen=True)
class Shard:
    """One party's rows, in the clear; they never leave its process.

    The labels are those of the file until `code` numbers the classes from 0.
    """

    features: FloatArray  # (rows, columns)
    labels: FloatArray  # (rows,)
    columns: tuple[str, ...]
    test_features: FloatArray  # (test rows, columns)
    test_labels: FloatArray  # (test rows,)

    @property
    def n_rows(self) -> int:
        return len(self.labels)

    @property
    def n_features(self) -> int:
        return len(self.columns)


def load_shard(source: DataSource, rank: int, n_parties: int) -> Shard:
    """The rows of party `rank`: its own files, or its part of a common table (parts differ by at most one row).

    Deterministic in (source, rank, n_parties). Raises DataError if a table cannot be read, has labels that are not of
    the target's kind, or has fewer rows than there are parties.
    """
    return _shard(source, rank, n_parties, _read(source, rank, n_parties))


def pooled(source: DataSource, n_parties: int) -> tuple[Shard, ...]:
    """Every party's shard, just as `load_shard` gives them: what the clear twin and the exact reference train on.

    Raises DataError as `load_shard` does, and if the rows of `source` are not one common table.
    """
    if not source.is_common:
        raise DataError(f"{source.train}: each party's rows are its own; only a common table can be pooled")
    selected = _read(source, 0, n_parties)
    return tuple(_shard(source, rank, n_parties, selected) for rank in range(n_parties))


def stack(shards: Sequence[Shard]) -> Shard:
    """All rows of these shards as one, in the order of the shards."""
    return Shard(
        features=np.concatenate([shard.features for shard in shards]),
        labels=np.concatenate([shard.labels for shard in shards]),
        columns=shards[0].columns,
        test_features=np.concatenate([shard.test_features for shard in shards]),
        test_labels=np.concatenate([shard.test_labels for shard in shards]),
    )


def summary(shard: Shard, kind: TargetKind) -> dict[str, Any]:
    """What a party tells all others about its shard, as JSON: nothing but what the protocol cannot keep secret.

    The numbers of rows fix the packing and the factor of the mean gradient, so everybody must know them; the names of
    the columns show whether the tables fit together, and distinct labels what the classes are. No cell, count per
    class or mean of a column is in it, and of labels that are numbers nothing: their owner has checked them.
    """
    return {
        "columns": list(shard.columns),
        "rows": shard.n_rows,
        "test_rows": len(shard.test_labels),
        **label_summary(kind, shard.labels),
    }


def check_summaries(summaries: Sequence[Mapping[str, Any]], kind: TargetKind) -> Target:
    """The target, if the parties' shards (by rank) make one table that can be trained on.

    Raises DataError for an empty shard, columns that differ, and a wrong number of classes.
    """
    for rank, own in enumerate(summaries):
        if own["rows"] < 1:
            raise DataError(f"party {rank} has no rows to train on; need at least one at every party")
        if own["columns"] != summaries[0]["columns"]:
            raise DataError(f"party {rank} has other columns than party 0: {_difference(own, summaries[0])}")
    return agree_on_target(kind, summaries)


def code(shard: Shard, target: Target) -> Shard:
    """The shard with labels as a model takes them: classes as 0.0, 1.0, ..., numbers and counts as they are.

    Raises DataError if a label, also of a test row, is none of the classes.
    """
    return replace(
        shard,
        labels=target.code(shard.labels, "training"),
        test_labels=target.code(shard.test_labels, "test"),
    )


def check_files(source: DataSource, ranks: Sequence[int]) -> None:
    """Raise DataError if a file of one of these parties is absent; reads none of them."""
    for pattern in filter(None, (source.train, source.test)):
        for rank in ranks:
            path = source.folder / source.name(pattern, rank)
            if is_file(pattern) and not path.is_file():
                raise DataError(f"{path}: no such file{_numbering_hint(source, pattern, rank)}")


@dataclass(frozen=True)
class _Selection:
    """Some rows of a table, not yet taken."""

    table: Rows
    rows: RowNumbers
    name: str

    def part(self, rank: int, n_parties: int, seed: int) -> _Selection:
        """The rows of this party, of parts that differ by at most one row."""
        order = np.random.default_rng(seed).permutation(len(self.rows))
        return replace(self, rows=self.rows[np.array_split(order, n_parties)[rank]])


def _read(source: DataSource, rank: int, n_parties: int) -> tuple[_Selection, _Selection]:
    """The training and the test rows that this party reads, not yet divided."""
    check_files(source, [rank])
    table = _read_labelled(source, source.train, rank)
    name, everything = source.name(source.train, rank), np.arange(len(table))
    if source.test is not None:
        test = _read_labelled(source, source.test, rank)
        other = source.name(source.test, rank)
        if test.columns != table.columns:
            difference = _difference({"columns": list(test.columns)}, {"columns": list(table.columns)})
            raise DataError(f"{other} has other columns than {name}: {difference}")
        kept, set_aside = _Selection(table, everything, name), _Selection(test, np.arange(len(test)), other)
    else:
        by_class = table.labels if has_classes(source.target) else None
        strata = np.zeros(len(table)) if by_class is None else by_class
        numbers = _set_aside(strata, source.test_fraction, _generator(source, source.train, rank))
        kept, set_aside = (_Selection(table, rows, name) for rows in numbers)
    if PARTY not in source.train and len(kept.rows) < n_parties:
        n_rows = len(kept.rows)
        raise DataError(f"{source.train}: {n_rows} training rows for {n_parties} parties; need at least one each")
    return kept, set_aside


def _read_labelled(source: DataSource, pattern: str, rank: int) -> Rows:
    name = source.name(pattern, rank)
    table = read_table(name, source.label, source.folder)
    # A party's own file may well hold one class only; a table for all of them may not.
    complete = PARTY not in pattern and pattern == source.train
    if table.labels is not None:
        check_labels(source.target, table.labels, _label_column(source, name), complete=complete)
    return table


def _label_column(source: DataSource, name: str) -> str:
    return f"{name}: label column {source.label!r}"


def _shard(source: DataSource, rank: int, n_parties: int, selected: tuple[_Selection, _Selection]) -> Shard:
    """This party's part of what it has read; only now do rows become float64."""
    train, test = selected
    if PARTY not in source.train:
        train = train.part(rank, n_parties, source.split_seed)
    if PARTY not in (source.train if source.test is None else source.test):
        test = test.part(rank, n_parties, source.split_seed)
    own, other = (selection.table.take(selection.rows) for selection in (train, test))
    for name, taken, table in ((train.name, own, train.table), (test.name, other, test.table)):
        if table.labels is None:
            check_labels(source.target, taken.labels, _label_column(source, name), complete=False)
    return Shard(own.features, own.labels, own.columns, other.features, other.labels)


def _generator(source: DataSource, pattern: str, rank: int) -> np.random.Generator:
    """All parties draw alike from a common table; each draws differently from its own."""
    return np.random.default_rng([source.split_seed, 1 + rank if PARTY in pattern else 0])


def _set_aside(strata: FloatArray, fraction: float, rng: np.random.Generator) -> tuple[RowNumbers, RowNumbers]:
    """Numbers of the rows kept and set aside: the fraction of each stratum, of which one row at least is kept."""
    chosen = np.zeros(len(strata), dtype=bool)
    for value in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == value))
        chosen[members[: min(round(fraction * len(members)), len(members) - 1)]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _difference(own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    mine, theirs = own["columns"], other["columns"]
    extra = [name for name in mine if name not in theirs]
    missing = [name for name in theirs if name not in mine]
    if not extra and not missing:
        return "the same names in another order"
    said = [f"{len(names)} {word} ({', '.join(map(repr, names[:4]))}{', ...' if len(names) > 4 else ''})"
            for names, word in ((missing, "missing"), (extra, "more")) if names]  # fmt: skip
    return ", ".join(said)


def _numbering_hint(source: DataSource, pattern: str, rank: int) -> str:
    if PARTY not in pattern:
        return "; relative names start at the folder of the configuration"
    first = "; parties are numbered from 0, so {party} is " + str(rank) + " for this one"
    following = source.folder / source.name(pattern, rank + 1)
    if rank == 0 and following.is_file():
        return f"{first} ({following.name} exists: does its numbering start at 1?)"
    return first
