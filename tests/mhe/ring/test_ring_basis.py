"""Change of basis: exact up to the very ends of the range it promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhe.errors import ParameterError
from mhe.ring.basis import MAX_SOURCE_LIMBS, lift
from mhe.ring.primes import ntt_primes
from mhe.ring.residues import residues

LONG = ntt_primes(61, 1024, 3) + ntt_primes(60, 1024, 4)
SHORT = ntt_primes(20, 1024, 3) + ntt_primes(45, 1024, 5)


def extremes(q: int) -> list[int]:
    """Around 0, where the fraction's sign changes, and the last ones below Q/4."""
    last = (q - 1) // 4
    ends = [last - k for k in range(3)] + [q // 8, q // 5, 3, 2, 1]
    return [*ends, 0, *(-v for v in ends)]


@pytest.mark.parametrize("source", [LONG[:1], LONG[:2], LONG, SHORT, SHORT[:1], LONG + SHORT])
@pytest.mark.parametrize("target", [SHORT, LONG, (LONG + SHORT)[::-1], SHORT[2:3]])
def test_extremes(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    a, b = residues(source), residues(target)
    values = extremes(a.modulus)
    x = a.from_integers(values)
    before = x.copy()
    assert np.array_equal(lift(x, source, target), b.from_integers(values))
    assert np.array_equal(x, before)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 7), st.lists(st.fractions(-0.2499, 0.2499), min_size=1, max_size=30))
def test_any_value(limbs: int, fractions: list[float]) -> None:
    a = residues(LONG[:limbs])
    values = [int(f * a.modulus) for f in fractions]
    assert np.array_equal(lift(a.from_integers(values), a.moduli, SHORT), residues(SHORT).from_integers(values))


def test_more_columns_than_a_block() -> None:
    a = residues(LONG)
    values = [(k * a.modulus // 6007 - a.modulus // 4) for k in range(1, 3001)]
    assert np.array_equal(lift(a.from_integers(values), LONG, SHORT), residues(SHORT).from_integers(values))


def test_longest_source() -> None:
    """The rounding error bound is worked out for 64 moduli."""
    source = ntt_primes(61, 64, MAX_SOURCE_LIMBS)
    a = residues(source)
    values = extremes(a.modulus)
    assert np.array_equal(lift(a.from_integers(values), source, SHORT), residues(SHORT).from_integers(values))
    with pytest.raises(ParameterError, match="65 source"):
        lift(np.zeros((65, 1), dtype=np.uint64), ntt_primes(61, 64, 65), SHORT)


def test_no_columns() -> None:
    assert lift(np.zeros((2, 0), dtype=np.uint64), LONG[:2], SHORT).shape == (len(SHORT), 0)


@pytest.mark.parametrize(
    ("source", "target"), [((), SHORT), (LONG[:2], ()), (LONG[:1] * 2, SHORT), (LONG[:2], (16,)), (LONG[:3], SHORT)]
)
def test_callers_mistakes(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError):
        lift(np.zeros((2, 4), dtype=np.uint64), source, target)
