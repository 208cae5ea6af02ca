"""Both vector arithmetics against Python's integers: every size of modulus, values at the edges."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhe.errors import ParameterError
from mhe.ring import ntt, products, symmetric, vector_basis, vector_ntt
from mhe.ring.basis import lift
from mhe.ring.primes import is_prime, ntt_primes
from mhe.ring.vectors import FLOAT_MODULUS_BITS

Words = npt.NDArray[np.uint64]

N = 128
FLOATS, WORDS = np.uint64(1 << FLOAT_MODULUS_BITS), np.uint64(0)
SIZES = range(12, 62)


@lru_cache(maxsize=64)
def largest_prime(bits: int) -> int:
    """The largest prime of so many bits: the hardest for the bounds."""
    start = ((1 << bits) - 1) // (2 * N) * 2 * N + 1
    return next(p for p in range(start, 1, -2 * N) if p < 1 << bits and is_prime(p))


def residues(p: int) -> st.SearchStrategy[int]:
    """Any residue, and often one where something could go wrong: the ends, the middle, parts of powers of two."""
    edges = {0, 1, 2, p - 1, p - 2, p // 2, p // 2 + 1, (1 << 30) % p, ((1 << 30) - 1) % p, (1 << 49) % p, p // 3}
    return st.one_of(st.sampled_from(sorted(edges)), st.integers(0, p - 1))


def polynomials(data: st.DataObject, p: int, n: int = N) -> Callable[[], Words]:
    """Makes any number of polynomials of a few residues, in any order: a draw for each would take long."""
    few = np.array(data.draw(st.lists(residues(p), min_size=1, max_size=16)), dtype=np.uint64)
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    return lambda: few[random.integers(0, len(few), n)]


@settings(max_examples=150, deadline=None)
@given(bits=st.sampled_from(SIZES), log_n=st.integers(7, 13), data=st.data())
def test_transforms_are_those_of_the_plain_loops(bits: int, log_n: int, data: st.DataObject) -> None:
    n = 1 << log_n if bits >= 20 else N
    p = largest_prime(bits) if n == N else ntt_primes(bits, n, 1)[0]
    t, x = ntt.tables(n, p), polynomials(data, p, n)()
    expected = x.copy()
    ntt.forward_kernel(expected, t.roots, t.root_ratios, t.modulus)
    for floating in (False, True) if p < FLOATS else (False,):
        fast = ntt.fast_tables(n, p, floating=floating)
        got = x.copy()
        (vector_ntt.forward_float if floating else vector_ntt.forward_word)(got, *fast.forward)
        np.testing.assert_array_equal(got, expected)
        (vector_ntt.inverse_float if floating else vector_ntt.inverse_word)(got, *fast.inverse)
        np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize("log_n", range(7, 17))
@pytest.mark.parametrize("bits", [48, 49])
def test_the_longest_float_moduli_in_every_ring(log_n: int, bits: int) -> None:
    """All residues p-1, and all alternating: the sums in the transform grow as fast as they can."""
    n = 1 << log_n
    p = next(q for q in ntt_primes(bits, n, 8) if q < 1 << bits)
    fast, plain = ntt.fast_tables(n, p, floating=True), ntt.fast_tables(n, p, floating=False)
    for x in (np.full(n, p - 1), np.where(np.arange(n) % 2, p - 1, 0), np.where(np.arange(n) % 2, p // 2, p // 2 + 1)):
        got, expected = x.astype(np.uint64), x.astype(np.uint64)
        vector_ntt.forward_float(got, *fast.forward)
        vector_ntt.forward_word(expected, *plain.forward)
        np.testing.assert_array_equal(got, expected)
        got, expected = x.astype(np.uint64), x.astype(np.uint64)
        vector_ntt.inverse_float(got, *fast.inverse)
        vector_ntt.inverse_word(expected, *plain.inverse)
        np.testing.assert_array_equal(got, expected)


@settings(max_examples=40, deadline=None)
@given(bits=st.sampled_from(SIZES), terms=st.integers(1, 10), keep=st.booleans(), data=st.data())
def test_sums_of_products(bits: int, terms: int, keep: bool, data: st.DataObject) -> None:
    p = largest_prime(bits)
    some = polynomials(data, p)
    factors = [[some() for _ in range(3)] for _ in range(terms)]
    old = np.stack([some(), some()])
    addresses = products.rows_from([[products.address(x) for x in term] for term in factors], 1, N)
    for output in (0, 1):
        total = old[output].astype(object) * keep
        for common, *others in factors:
            total = total + common.astype(object) * others[output].astype(object)
        expected = (total % p).astype(np.uint64)
        for limit in (FLOATS, WORDS):
            both = old[:, None].copy()
            products.sum_of_products(both, addresses, (p,), keep=keep, limit=limit)
            np.testing.assert_array_equal(both[output, 0], expected)
            single = old[output : output + 1, None].copy()
            one = np.ascontiguousarray(addresses[:, :, [0, 1 + output]])
            products.sum_of_products(single, one, (p,), keep=keep, limit=limit)
            np.testing.assert_array_equal(single[0, 0], expected)


@settings(max_examples=100, deadline=None)
@given(bits=st.sampled_from(SIZES), keep=st.booleans(), data=st.data())
def test_single_products(bits: int, keep: bool, data: st.DataObject) -> None:
    p = largest_prime(bits)
    some = polynomials(data, p)
    x, y, old = some(), some(), some()
    expected = ((x.astype(object) * y.astype(object) + keep * old.astype(object)) % p).astype(np.uint64)
    for limit in (FLOATS, WORDS):
        got = old[None].copy()
        products.multiply(got, x[None], y[None], (p,), keep=keep, limit=limit)
        np.testing.assert_array_equal(got[0], expected)


@settings(max_examples=100, deadline=None)
@given(
    source=st.lists(st.sampled_from(range(20, 62)), min_size=1, max_size=6),
    target=st.lists(st.sampled_from(range(20, 62)), min_size=1, max_size=4),
    data=st.data(),
)
def test_lifts_of_many_columns(source: list[int], target: list[int], data: st.DataObject) -> None:
    """As `lift` of few columns, which takes another way, tested elsewhere."""
    moduli = tuple({largest_prime(b) for b in source})
    others = tuple({largest_prime(b) for b in target})
    q = int(np.prod([1, *moduli], dtype=object))
    near = st.integers(-q // 4 + 1, q // 4 - 1)
    few = data.draw(
        st.lists(st.one_of(near, st.sampled_from([0, 1, -1, q // 4 - 1, -q // 4 + 1])), min_size=1, max_size=6)
    )
    values = (few * vector_basis.COLUMNS)[: vector_basis.COLUMNS]
    x = np.array([[v % p for v in values] for p in moduli], dtype=np.uint64)
    expected = np.array([[v % p for v in values] for p in others], dtype=np.uint64)
    np.testing.assert_array_equal(lift(x, moduli, others), expected)
    np.testing.assert_array_equal(lift(x[:, :5], moduli, others), expected[:, :5])


@pytest.mark.parametrize("n", [8, 64, 128, 256, 512])
@pytest.mark.parametrize("bits", [33, 45, 49, 60])
def test_symmetric_polynomials_need_half_a_transform(n: int, bits: int) -> None:
    whole, p = 1024, ntt_primes(bits, 1024, 1)[0]
    row = np.random.default_rng(n).integers(0, p, n, dtype=np.uint64)
    full = np.zeros(2 * n, dtype=np.uint64)
    full[:n], full[n + 1 :] = row, (p - row[:0:-1]) % p
    spaced = np.zeros(whole, dtype=np.uint64)
    spaced[:: whole // (2 * n)] = full
    ntt.forward(spaced, ntt.tables(whole, p))
    values = np.empty_like(row)
    symmetric.values(row, whole, p, values)
    np.testing.assert_array_equal(np.repeat(np.concatenate([values, values[::-1]]), whole // (2 * n)), spaced)


@pytest.mark.parametrize(
    ("n", "bits"), [(8, 20), (64, 20), *((n, bits) for n in (8, 64, 512) for bits in (33, 45, 49))]
)
@pytest.mark.parametrize("size", [1, 40, 53])
def test_symmetric_polynomials_with_coefficients_in_floats(n: int, bits: int, size: int) -> None:
    p, system = largest_prime(bits) if bits < 33 else ntt_primes(bits, 1024, 1)[0], 1024 if bits >= 33 else N
    edges = np.array([0, 1, -1, 2**size - 1, 1 - 2**size, 2 ** (size - 1), p // 2, -(p // 2)])
    integers = np.random.default_rng(size).choice(edges[np.abs(edges) < 2**53], n)
    got, expected = np.empty(n, dtype=np.uint64), np.empty(n, dtype=np.uint64)
    symmetric.values((integers % p).astype(np.uint64), system, p, expected)
    symmetric.values_of_floats(np.append(integers, 0).astype(np.float64), system, p, got)
    np.testing.assert_array_equal(got, expected)


def test_a_transform_needs_a_ring_that_it_knows() -> None:
    with pytest.raises(ParameterError):
        ntt.check_ring_dim(100)
