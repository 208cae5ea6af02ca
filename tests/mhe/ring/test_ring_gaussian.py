"""Tables and convolutions against an independent computation, to the last bit where that is possible."""

from decimal import Decimal, localcontext
from itertools import pairwise
from math import ceil, erfc, log, log2, pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhe.errors import ParameterError
from mhe.parameters import ERROR_STD
from mhe.ring.gaussian import (
    BASE_STD,
    GUIDE_SHIFT,
    MAX_FACTOR,
    TABLE_BITS,
    WIDE_TAIL,
    Convolution,
    convolution,
    table,
)
from mhe.ring.sampling import ERROR_TAIL

CASES = [(ERROR_STD, ERROR_TAIL), (34.0, WIDE_TAIL), (67.75, WIDE_TAIL)]


@pytest.mark.parametrize(("std", "tail"), CASES)
def test_thresholds(std: float, tail: float) -> None:
    """Summed from the tail inwards, with twice the digits."""
    t = table(std, tail)
    with localcontext() as context:
        context.prec = 120
        weights = [(-Decimal(m * m) / (2 * Decimal(std) ** 2)).exp() * (1 if m == 0 else 2) for m in range(t.bound + 1)]
        total, above = sum(reversed(weights)), Decimal(0)
        for m in range(t.bound - 1, -1, -1):
            above += weights[m + 1]
            exact = (1 - above / total) * 2**TABLE_BITS
            assert exact - 1 < t.thresholds[m] <= exact


@pytest.mark.parametrize(("std", "tail"), CASES)
def test_table_fits_its_index(std: float, tail: float) -> None:
    t = table(std, tail)
    assert t.bound == len(t.thresholds) == len(t.high) == ceil(std * tail)
    assert all(a <= b for a, b in pairwise(t.thresholds)) and t.thresholds[-1] < 2**TABLE_BITS
    assert t.high.tolist() == [v >> 64 for v in t.thresholds]
    assert t.guide.tolist() == [sum(v >> 64 < i << GUIDE_SHIFT for v in t.thresholds) for i in range(len(t.guide))]
    assert len(t.guide) << GUIDE_SHIFT == 1 << 63


def test_tails_are_as_small_as_promised() -> None:
    assert log2(erfc(ERROR_TAIL / sqrt(2))) < -75
    assert log2(erfc(WIDE_TAIL / sqrt(2))) < -134
    assert table(ERROR_STD, ERROR_TAIL).bound == 32


def test_largest_factor_meets_the_smoothing_condition() -> None:
    eta = sqrt(log(2 + 2.0**129) / 2) / pi  # in standard deviations, for eps = 2^-128
    for k in range(1, MAX_FACTOR + 1):
        assert 1 / sqrt(1 / BASE_STD**2 + 1 / (k * BASE_STD) ** 2) >= k * eta
    assert 1 / sqrt(1 / BASE_STD**2 + 1 / (16 * BASE_STD) ** 2) < 16 * eta


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.floats(32, 5000), st.floats(5, 400).map(lambda bits: 2.0**bits)))
def test_convolution_is_as_wide_as_asked(std: float) -> None:
    c = convolution(std)
    assert std <= c.std <= 1.01 * std
    assert c.base_std >= BASE_STD or (not c.factors and c.base_std >= std)
    assert c.base_std <= 2 * BASE_STD
    assert all(1 <= k <= MAX_FACTOR for k in c.factors)
    assert 13 * c.std < c.bound


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, MAX_FACTOR), max_size=60), st.floats(32, 68))
def test_chunks_make_up_the_convolution(factors: list[int], base_std: float) -> None:
    """Follow the weights of all z through the chunks: each must be what the definition says, and fit an int64."""
    c = Convolution(base_std, tuple(factors))
    base = ceil(WIDE_TAIL * base_std)
    weights, outer = [], 1
    for inner, last in c.chunks():
        weight, reach = 1, base
        weights.append(outer)
        for k in inner:
            weight *= k
            reach += weight * base
            weights.append(outer * weight)
        assert reach < 2**62
        outer *= last
    expected = np.cumprod([1, *factors], dtype=object).tolist()
    assert weights == expected
    assert c.bound == base * sum(expected)
    assert c.std == pytest.approx(base_std * sqrt(sum(w * w for w in expected)), rel=1e-12)


@pytest.mark.parametrize("std", [0.0, 31.9, -100.0, float("inf"), float("nan"), 2.0**401])
def test_width_out_of_range(std: float) -> None:
    with pytest.raises(ParameterError, match="standard deviation"):
        convolution(std)
