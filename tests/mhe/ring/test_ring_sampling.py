"""The samplers against the exact distributions.

Streams are fixed and public, so the statistical tests give one outcome for ever: a p-value of at least 10^-4, or
moments within 5 standard errors of theory.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from math import sqrt

import numpy as np
import pytest
from scipy import stats

from mhe.errors import ParameterError
from mhe.parameters import ERROR_STD
from mhe.ring import gaussian as tables
from mhe.ring.modular import words
from mhe.ring.primes import ntt_primes
from mhe.ring.residues import residues
from mhe.ring.ring import ring
from mhe.ring.sampling import (
    ERROR_TAIL,
    Stream,
    WideGaussian,
    gaussian,
    public_stream,
    secret_stream,
    ternary,
    uniform,
    uniform_words,
)

SEED = bytes(range(32))


class Script(Stream):
    """A stream that says what it is told."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.rest = list(numbers)

    def words(self, n: int) -> np.ndarray:
        out, self.rest = self.rest[:n], self.rest[n:]
        assert len(out) == n
        return words(out)

    def bytes(self, n: int) -> bytes:
        out, self.rest = self.rest[:n], self.rest[n:]
        assert len(out) == n
        return bytes(out)


def assert_fits(observed: np.ndarray, probabilities: np.ndarray) -> None:
    """Chi-square test of counts, with cells merged from the left until each expects 10 or more."""
    expected = probabilities / probabilities.sum() * observed.sum()
    cells: list[list[float]] = []
    for o, e in zip(observed, expected, strict=True):
        if cells and cells[-1][1] < 10:
            cells[-1][0] += o
            cells[-1][1] += e
        else:
            cells.append([o, e])
    if cells[-1][1] < 10:
        o, e = cells.pop()
        cells[-1][0] += o
        cells[-1][1] += e
    o, e = np.array(cells).T
    assert stats.chisquare(o, e).pvalue > 1e-4


def assert_uniform(values: np.ndarray, n_cells: int) -> None:
    assert_fits(np.bincount(values.astype(np.int64), minlength=n_cells), np.ones(n_cells))


def assert_moments(x: np.ndarray, std: float) -> None:
    """Mean, variance and fourth moment of a Gaussian, each within 5 standard errors."""
    x = x.astype(np.float64) / std
    n = len(x)
    assert abs(x.mean()) < 5 / sqrt(n)
    assert abs((x**2).mean() - 1) < 5 * sqrt(2 / n)
    assert abs((x**4).mean() - 3) < 5 * sqrt(96 / n)
    assert abs((x[:-1] * x[1:]).mean()) < 5 / sqrt(n)


def discrete_gaussian(std: float, bound: int) -> np.ndarray:
    x = np.arange(-bound, bound + 1, dtype=np.float64)
    return np.exp(-(x**2) / (2 * std**2))


# -- uniform ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [20, 45, 60, 61])
def test_uniform(bits: int) -> None:
    r = ring(1 << 14, ntt_primes(bits, 1 << 14, 2))
    x = uniform(public_stream(SEED, "uniform", bits), r)
    assert x.shape == (2, 1 << 14) and x.dtype == np.uint64
    for row, p in zip(x, r.moduli, strict=True):
        assert row.max() < p
        assert_uniform(np.array([int(v) * 64 // p for v in row]), 64)
        assert_uniform(row % np.uint64(16), 16)
    joint = (x[0] > r.moduli[0] // 2) * 2 + (x[1] > r.moduli[1] // 2)
    assert_uniform(joint, 4)


def test_uniform_rejects_the_incomplete_last_multiple() -> None:
    p = ntt_primes(61, 8, 1)[0]
    limit = 2**64 // p * p
    first = [limit, 0, limit - 1, 2**64 - 1, p, p - 1, limit + 1, 5]
    stream = Script([*first, limit, 7, 2 * p + 9, 11])
    assert uniform(stream, ring(8, (p,))).tolist() == [[0, p - 1, 0, p - 1, 5, 7, 9, 11]]
    assert not stream.rest


def test_uniform_follows_its_description() -> None:
    """Another implementation of the published procedure gets the same residues."""
    r = ring(256, ntt_primes(61, 256, 2))
    stream, expected = public_stream(SEED, "description"), []
    for p in r.moduli:
        row: list[int] = []
        while len(row) < 256:
            row += [w % p for w in stream.words(256 - len(row)).tolist() if w < 2**64 // p * p]
        expected.append(row)
    assert uniform(public_stream(SEED, "description"), r).tolist() == expected


def test_uniform_limbs_do_not_depend_on_those_after_them() -> None:
    r = ring(64, ntt_primes(60, 64, 4))
    assert np.array_equal(uniform(public_stream(SEED), r)[:2], uniform(public_stream(SEED), r.prefix(2)))


@pytest.mark.parametrize("bits", [1, 5, 63, 64, 65, 128, 250])
def test_uniform_words(bits: int) -> None:
    x = uniform_words(public_stream(SEED, bits), bits, 5000)
    assert x.shape == (-(-bits // 64), 5000)
    values = [sum(int(w) << (64 * k) for k, w in enumerate(column)) for column in x.T]
    assert max(values) < 2**bits
    cells = min(bits, 5)
    assert_uniform(np.array([v >> (bits - cells) for v in values]), 1 << cells)
    assert_uniform(np.array([v % (1 << cells) for v in values]), 1 << cells)


def test_uniform_words_need_bits() -> None:
    with pytest.raises(ParameterError, match="bits"):
        uniform_words(public_stream(SEED), 0, 4)


# -- ternary ----------------------------------------------------------------------------------------------------------


def test_ternary() -> None:
    x = ternary(public_stream(SEED, "ternary"), 300_000)
    assert x.dtype == np.int64 and set(np.unique(x)) == {-1, 0, 1}
    assert_uniform(x + 1, 3)
    # Five come from one byte: all pairs within it, and with the next one.
    for lag in range(1, 7):
        assert_uniform((x[:-lag:5] + 1) * 3 + x[lag::5][: len(x[:-lag:5])] + 1, 9)


def test_ternary_digits_and_rejection() -> None:
    digits = [d // 3**k % 3 - 1 for d in range(243) for k in range(5)]
    out = ternary(Script([*range(256), *range(13)]), 5 * 256 - 1)
    assert out.tolist() == (digits + digits[: 5 * 13])[: 5 * 256 - 1]


@pytest.mark.parametrize("n", [0, 1, 4, 5, 6])
def test_ternary_lengths(n: int) -> None:
    assert ternary(public_stream(SEED), n).shape == (n,)


# -- narrow Gaussian --------------------------------------------------------------------------------------------------


def test_gaussian() -> None:
    x = gaussian(public_stream(SEED, "gaussian"), 1_000_000)
    assert x.dtype == np.int64
    assert_moments(x, ERROR_STD)
    assert np.abs(x).max() <= 32
    # The largest of a million samples is about 4.9 standard deviations out.
    assert np.abs(x).max() > 4 * ERROR_STD
    assert_fits(np.bincount(x + 32, minlength=65), discrete_gaussian(ERROR_STD, 32))


def test_gaussian_is_the_inverse_of_its_table() -> None:
    """On words beside and exactly at every threshold, where the second word decides, and with both signs."""
    t = tables.table(ERROR_STD, ERROR_TAIL)
    starts = sorted({v for h in t.high.tolist() for v in (h - 1, h, h + 1) if 0 <= v < 2**63} | {0, 2**63 - 1})
    seconds = (0, 2**64 - 1, *(v % 2**64 for v in t.thresholds), *((v - 1) % 2**64 for v in t.thresholds))
    for second in seconds:
        first = [start << 1 | sign for start in starts for sign in (0, 1)]
        undecided = [w >> 1 in t.high.tolist() for w in first]
        stream = Script(first + [second] * sum(undecided))
        sizes = [bisect_right(t.thresholds, (w >> 1) << 64 | second) for w in first]
        assert gaussian(stream, len(first)).tolist() == [-s if w & 1 else s for w, s in zip(first, sizes, strict=True)]
        assert not stream.rest


def test_gaussian_of_no_samples() -> None:
    assert gaussian(public_stream(SEED), 0).shape == (0,)


# -- wide Gaussian ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [32, 70, 100, 250, 1100])
def test_wide_gaussian_point_by_point(sigma: float) -> None:
    """Where a table of the exact distribution still fits: convolutions with factors 1, 2, 3, 7 and (1, 15)."""
    wide = WideGaussian(sigma)
    x = np.array(wide.integers(public_stream(SEED, "points", sigma), 400_000), dtype=np.int64)
    bound = int(8 * wide.std)
    assert np.abs(x).max() <= bound
    assert_fits(np.bincount(x + bound, minlength=2 * bound + 1), discrete_gaussian(wide.std, bound))


@pytest.mark.parametrize("bits", [20, 40, 70, 100])
def test_wide_gaussian(bits: int) -> None:
    wide = WideGaussian(2.0**bits)
    values = wide.integers(public_stream(SEED, "wide", bits), 100_000)
    assert 2.0**bits <= wide.std <= 1.01 * 2.0**bits
    assert max(map(abs, values)) <= wide.bound
    x = np.array(values, dtype=np.float64) / wide.std
    assert_moments(x, 1.0)
    assert stats.kstest(x, "norm").pvalue > 1e-4
    # As much support as the width says: no gaps, at the bottom or at the joints of the convolution.
    assert len(set(values)) > 0.9 * 100_000
    for divisor in (16, 15, 7, 15**2, 15 * 9):
        assert_uniform(np.array([v % divisor for v in values]), divisor)
    for shift in range(0, bits - 4, 5):
        assert_uniform(np.array([(v >> shift) % 16 for v in values]), 16)
    # The low digits say nothing about the high ones.
    assert_uniform(np.array([v % 15 + 15 * (v > 0) for v in values]), 30)


@pytest.mark.parametrize("bits", [6, 20, 40, 70, 100])
def test_wide_gaussian_is_one_integer_behind_every_limb(bits: int) -> None:
    moduli = ntt_primes(20, 1024, 3) + ntt_primes(61, 1024, 3)
    wide = WideGaussian(2.0**bits)
    assert 2 * wide.bound < residues(moduli).modulus
    x = wide.sample(public_stream(SEED, "limbs"), moduli, 3000)
    values = wide.integers(public_stream(SEED, "limbs"), 3000)
    assert x.shape == (6, 3000) and x.dtype == np.uint64
    assert residues(moduli).to_integers(x) == values
    # Which moduli there are changes nothing, nor does an integer that exceeds them.
    alone = wide.sample(public_stream(SEED, "limbs"), moduli[1:2], 3000)
    assert np.array_equal(alone[0], x[1])


def test_wide_gaussian_of_largest_width() -> None:
    wide = WideGaussian(2.0**400)
    values = wide.integers(public_stream(SEED, "largest"), 20_000)
    assert_moments(np.array([v / 2**400 for v in values]) / (wide.std / 2.0**400), 1.0)
    assert np.array_equal(
        wide.sample(public_stream(SEED, "largest"), (2**61 - 1,), 20_000)[0], words(v % (2**61 - 1) for v in values)
    )


def test_wide_gaussian_refusals() -> None:
    with pytest.raises(ParameterError, match="standard deviation"):
        WideGaussian(31)
    with pytest.raises(ParameterError):
        WideGaussian(64).sample(public_stream(SEED), (4,), 10)
    assert "15" in repr(WideGaussian(2.0**20))


# -- all of them ------------------------------------------------------------------------------------------------------


def test_samples_are_the_same_on_every_machine() -> None:
    """Parties expand common randomness each on its own machine: these values may never change."""
    r = ring(1024, (1152921504606830593, 1099511480321))
    samples = [
        uniform(public_stream(SEED, "a"), r),
        uniform_words(public_stream(SEED, "b"), 100, 1000),
        ternary(public_stream(SEED, "c"), 1000),
        gaussian(public_stream(SEED, "d"), 1000),
        WideGaussian(2.0**90).sample(public_stream(SEED, "e"), r.moduli, 1000),
    ]
    assert [hashlib.sha256(repr(s.tolist()).encode()).hexdigest()[:16] for s in samples] == PINNED


PINNED = ["e6a68b9ffbe7e79e", "9afb6fb4fc41280b", "d2bbe62fcd929615", "7e93185e68cb6e33", "0d20a960cace81b2"]


def test_secret_samples_differ() -> None:
    assert not np.array_equal(ternary(secret_stream(), 256), ternary(secret_stream(), 256))
    assert not np.array_equal(gaussian(secret_stream(), 256), gaussian(secret_stream(), 256))
