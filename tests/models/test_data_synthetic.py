"""Tables made up row by row: alike whichever rows are made, and distributed as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, poisson
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from mhe.errors import DataError
from models.data import DataSource, check_files, load_shard, pooled, stack
from models.readers.sources import read_table
from models.readers.synthetic import LOG_MEAN, LOG_SPREAD, LOGIT_SPREAD, ROWS_AT_ONCE, SyntheticTable

LOGISTIC = "synthetic:logistic?rows=20000&features=6&correlation=0.6"
COUNTS = "synthetic:counts?rows=20000&features=6&seed=3"

FIRST_CELLS = [[-1.9903161555646283, -1.3969029743709658], [-1.8946559969924226, -1.622984497643754]]
FIRST_LABELS = [0.0, 0.0]
FIRST_COUNTS = [4.0, 1.0, 4.0, 3.0, 17.0, 4.0, 1.0, 1.0]


def made(source: str) -> SyntheticTable:
    table = read_table(source, "y")
    assert isinstance(table, SyntheticTable)
    return table


@given(
    st.sampled_from(["logistic", "counts"]),
    st.lists(st.integers(0, 10**12 - 1), min_size=1, max_size=20),
    st.integers(1, 5),
    st.integers(0, 2**63 - 1),
)
def test_row_is_the_same_in_any_company(kind: str, rows: list[int], features: int, seed: int) -> None:
    table = SyntheticTable(kind, 10**12, features, 0.5, seed)
    together = table.take(np.array(rows))
    for i, row in enumerate(rows):
        alone = table.take(np.array([row]))
        assert np.array_equal(alone.features[0], together.features[i])
        assert alone.labels[0] == together.labels[i]


def test_pieces_of_a_long_table_fit_together() -> None:
    table = SyntheticTable("logistic", 10**9, 2, 0.5, 0)
    rows = np.arange(2 * ROWS_AT_ONCE + 7)
    whole, end = table.take(rows), table.take(rows[-9:])
    assert np.array_equal(whole.features[-9:], end.features)
    assert np.array_equal(whole.labels[-9:], end.labels)


def test_every_machine_makes_the_same_table() -> None:
    """Frozen values: parties must agree on rows that none of them sends."""
    table = made(LOGISTIC).take(np.array([0, 19999]))
    np.testing.assert_allclose(table.features[:, :2], FIRST_CELLS, rtol=1e-12)
    assert table.labels.tolist() == FIRST_LABELS
    assert made(COUNTS).take(np.arange(8)).labels.tolist() == FIRST_COUNTS


def test_features_are_normal_and_neighbours_correlated() -> None:
    x = made(LOGISTIC).take(np.arange(20000)).features
    for column in x.T:
        assert kstest(column, "norm").pvalue > 1e-4
    lag = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    np.testing.assert_allclose(np.corrcoef(x.T), 0.6**lag, atol=5 / np.sqrt(20000))


def test_labels_follow_the_model() -> None:
    table = made(LOGISTIC).take(np.arange(20000))
    fitted = LogisticRegression(C=np.inf).fit(table.features, table.labels)
    np.testing.assert_allclose((table.features @ fitted.coef_[0]).std(), LOGIT_SPREAD, rtol=0.05)
    assert fitted.intercept_[0] == pytest.approx(0, abs=0.1)

    counts = made(COUNTS).take(np.arange(20000))
    fitted = PoissonRegressor(alpha=0).fit(counts.features, counts.labels)
    log_means = counts.features @ fitted.coef_
    assert (fitted.intercept_, log_means.std()) == (
        pytest.approx(LOG_MEAN, abs=0.05),
        pytest.approx(LOG_SPREAD, rel=0.05),
    )
    means = np.exp(fitted.intercept_ + log_means)
    zeros = poisson.pmf(0, means)
    assert abs(np.sum(counts.labels == 0) - zeros.sum()) < 5 * np.sqrt(np.sum(zeros * (1 - zeros)))


def test_another_seed_another_table() -> None:
    one, other = (made(f"{LOGISTIC}&seed={seed}").take(np.arange(50)) for seed in (0, 1))
    assert not np.isclose(one.features, other.features).any()
    assert made(f"{LOGISTIC}&seed=0") == made(LOGISTIC)


def test_parties_make_only_their_own_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    take = SyntheticTable.take

    def recording(self: SyntheticTable, rows: np.ndarray) -> object:
        taken.extend(int(row) for row in rows)
        return take(self, rows)

    monkeypatch.setattr(SyntheticTable, "take", recording)
    source = DataSource("synthetic:counts?rows=1000&features=3", "y", test_fraction=0.2, target="counts")
    check_files(source, range(4))
    shards = [load_shard(source, rank, 4) for rank in range(4)]
    assert sorted(taken) == list(range(1000))
    assert [(shard.n_rows, len(shard.test_labels)) for shard in shards] == [(200, 50)] * 4
    assert source.is_common
    assert np.array_equal(stack(pooled(source, 4)).features, stack(shards).features)


def test_labels_are_checked_when_they_are_made() -> None:
    with pytest.raises(DataError, match=r"'y' has .* distinct values; need exactly two"):
        load_shard(DataSource(COUNTS, "y"), 0, 2)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "synthetic:images?rows=3&features=2",
            "no table 'synthetic:images.*; have synthetic:logistic, synthetic:counts",
        ),
        ("synthetic:counts?rows=3", "features is missing"),
        ("synthetic:counts", "rows is missing"),
        ("synthetic:counts?rows=many&features=2", "rows is 'many'; need a whole number from 1"),
        ("synthetic:counts?rows=0&features=2", "rows is '0'; need a whole number from 1"),
        ("synthetic:counts?rows=3&features=2&correlation=1", "correlation is '1'; need a number from -0.999 to 0.999"),
        ("synthetic:counts?rows=3&features=2&correlation=nan", "correlation is 'nan'"),
        ("synthetic:counts?rows=3&features=2&spread=1", "there is no setting 'spread'; have rows, features"),
    ],
)
def test_name_that_says_no_table(source: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_table(source, "y")


def test_label_has_one_name() -> None:
    with pytest.raises(DataError, match="its label is 'y'; got 'x0'"):
        read_table(LOGISTIC, "x0")
