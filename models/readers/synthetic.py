"""Tables made up row by row: any rows of a table of any length, without the others, alike for every party.

"synthetic:KIND?rows=1000000&features=32&correlation=0.6&seed=0". Features are standard normal, neighbouring ones with
the given correlation (an AR(1) process: features i and j have correlation^|i - j|). With z a fixed linear
combination of them, normal with mean 0 and variance 1:

    logistic   y = 1 with probability 1 / (1 + exp(-LOGIT_SPREAD z))
    counts     y is Poisson with mean exp(LOG_MEAN + LOG_SPREAD z)

Every cell is a function of (seed, kind, row, column): a counter, hashed as SplitMix64 does (Steele, Lea, Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014). Good enough to test with, and for nothing that is secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from mhe.errors import DataError
from models.table import FloatArray, RowNumbers, Table, check_label

SYNTHETIC = "synthetic:"
LABEL = "y"
KINDS = ("logistic", "counts")

LOGIT_SPREAD = 2.0
"""Hard enough that no model is right about all rows, and logits stay within [-10, 10]."""

LOG_MEAN, LOG_SPREAD = 1.0, 0.5
"""Counts around 3, almost all below 20."""

ROWS_AT_ONCE = 1 << 14
"""Limits the memory beside the table itself."""


@dataclass(frozen=True)
class SyntheticTable:
    """A table that exists only where it is taken."""

    kind: str
    n_rows: int
    n_features: int
    correlation: float
    seed: int

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"x{i}" for i in range(self.n_features))

    @property
    def labels(self) -> FloatArray | None:
        """Unknown until rows are taken, so that no party makes the rows of the others."""
        return None

    def __len__(self) -> int:
        return self.n_rows

    def take(self, rows: RowNumbers) -> Table:
        """The rows with these numbers, in this order."""
        features, labels = np.empty((len(rows), self.n_features)), np.empty(len(rows))
        for start in range(0, len(rows), ROWS_AT_ONCE):
            own = slice(start, start + ROWS_AT_ONCE)
            features[own], labels[own] = self._make(rows[own])
        return Table(features, labels, self.columns)

    def _make(self, rows: RowNumbers) -> tuple[FloatArray, FloatArray]:
        # Importing scipy.special and scipy.signal takes a second, which runs on other tables need not pay.
        from scipy.special import expit, ndtri  # type: ignore[import-untyped]

        uniform = _uniform(self._key, rows, self.n_features + 1)
        steps = ndtri(uniform[:, :-1])
        steps[:, 1:] *= np.sqrt(1 - self.correlation**2)
        features = _autoregressive(steps, self.correlation)
        # einsum adds up every row in the same order, whichever rows stand beside it
        z = np.einsum("rf,f->r", features, self._coefficients)
        chance = uniform[:, -1]
        if self.kind == "logistic":
            return features, (chance < expit(LOGIT_SPREAD * z)).astype(np.float64)
        return features, _poisson(chance, np.exp(LOG_MEAN + LOG_SPREAD * z))

    @property
    def _key(self) -> int:
        return int(np.random.SeedSequence([self.seed, KINDS.index(self.kind)]).generate_state(1, np.uint64)[0])

    @property
    def _coefficients(self) -> FloatArray:
        """Normal ones, over the standard deviation of their combination of the features."""
        b = np.random.default_rng([self.seed, self.n_features]).normal(size=self.n_features)
        # sum over i, j of b_i b_j correlation^|i - j|
        variance = 2 * b @ _autoregressive(b, self.correlation) - b @ b
        return np.asarray(b / np.sqrt(variance), dtype=np.float64)


def _autoregressive(steps: FloatArray, correlation: float) -> FloatArray:
    """x_j = steps_j + correlation x_(j-1), along the last axis."""
    from scipy.signal import lfilter  # type: ignore[import-untyped]

    return np.asarray(lfilter([1.0], [1.0, -correlation], steps), dtype=np.float64)


def read_synthetic(source: str, label: str) -> SyntheticTable:
    """The table of this name. Raises DataError if there is no such kind, or a setting is absent, unknown or bad."""
    check_label(source, LABEL, label)
    kind, _, query = source.removeprefix(SYNTHETIC).partition("?")
    if kind not in KINDS:
        raise DataError(f"there is no table {source!r}; have {', '.join(SYNTHETIC + known for known in KINDS)}")
    given = dict(parse_qsl(query, keep_blank_values=True))
    settings = {name: _setting(source, name, given.pop(name, None)) for name in _SETTINGS}
    if given:
        raise DataError(f"{source}: there is no setting {next(iter(given))!r}; have {', '.join(_SETTINGS)}")
    return SyntheticTable(kind, settings["rows"], settings["features"], settings["correlation"], settings["seed"])


_SETTINGS: dict[str, tuple[type, float, float, float | None]] = {
    "rows": (int, 1, 10**12, None),
    "features": (int, 1, 10**6, None),
    "correlation": (float, -0.999, 0.999, 0.0),
    "seed": (int, 0, 2**63 - 1, 0),
}
"""Type, smallest, largest and default value; None where there is no default."""


def _setting(source: str, name: str, text: str | None) -> Any:
    kind, low, high, default = _SETTINGS[name]
    if text is None:
        if default is None:
            raise DataError(f"{source}: {name} is missing; name it as in synthetic:logistic?rows=1000&features=8")
        return kind(default)
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        what = "a whole number" if kind is int else "a number"
        raise DataError(f"{source}: {name} is {text!r}; need {what} from {low:g} to {high:g}")
    return value


def _uniform(key: int, rows: RowNumbers, width: int) -> FloatArray:
    """Numbers (rows, width) between 0 and 1, both excluded: SplitMix64 from `key` at row * width + column."""
    steps = rows.astype(np.uint64)[:, None] * np.uint64(width) + np.arange(1, width + 1, dtype=np.uint64)
    z = np.uint64(key) + steps * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.asarray(((z >> np.uint64(11)) + 0.5) * 2.0**-53, dtype=np.float64)


def _poisson(chance: FloatArray, mean: FloatArray) -> FloatArray:
    """Counts by inversion: the smallest at which the distribution function reaches `chance`."""
    from scipy.special import pdtr, pdtrik

    counts = np.ceil(pdtrik(chance, mean))
    fewer = np.maximum(counts - 1, 0)
    return np.where(pdtr(fewer, mean) >= chance, fewer, counts)
