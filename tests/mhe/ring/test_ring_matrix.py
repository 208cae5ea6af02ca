"""Matrices of symmetric rows against Python's integers: every size of modulus, values at the edges."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhe.ring.matrix import BLOCK, COLUMNS, GROUP, STREAMED_ROWS, aligned, matrix_product
from mhe.ring.vectors import ALIGNMENT, FLOAT_MODULUS_BITS
from tests.mhe.ring.test_ring_vectors import largest_prime, polynomials

Words = npt.NDArray[np.uint64]
FLOATS, WORDS = np.uint64(1 << FLOAT_MODULUS_BITS), np.uint64(0)


def expected_rows(
    matrix: list[list[Words]], vector: list[tuple[Words, Words]], old: list[tuple[Words, Words]], p: int
) -> list[tuple[Words, Words]]:
    out = []
    for row, before in zip(matrix, old, strict=True):
        sums = [x.astype(object) for x in before]
        for half, pair in zip(row, vector, strict=True):
            whole = np.concatenate([half, half[:, ::-1]], axis=1).astype(object)
            sums = [total + whole * part.astype(object) for total, part in zip(sums, pair, strict=True)]
        out.append(((sums[0] % p).astype(np.uint64), (sums[1] % p).astype(np.uint64)))
    return out


@settings(max_examples=25, deadline=None)
@given(
    bits=st.sampled_from([*range(12, 62, 7), 48, 49, 50, 60, 61]),
    rows=st.integers(1, STREAMED_ROWS + 1),
    terms=st.integers(1, 3 * GROUP + 1),
    columns=st.sampled_from([COLUMNS, 5 * COLUMNS, 2 * BLOCK, 2 * BLOCK + COLUMNS, 6 * BLOCK]),
    keep=st.booleans(),
    data=st.data(),
)
def test_products_with_a_vector(
    bits: int, rows: int, terms: int, columns: int, keep: bool, data: st.DataObject
) -> None:
    p = largest_prime(bits)

    some, half = polynomials(data, p, columns), polynomials(data, p, columns // 2)
    vector = [(some()[None], some()[None]) for _ in range(terms)]
    matrix = [[half()[None] for _ in range(terms)] for _ in range(rows)]
    old = [(some()[None], some()[None]) for _ in range(rows)]
    nothing = [(np.zeros_like(x), np.zeros_like(y)) for x, y in old]
    expected = expected_rows(matrix, vector, old if keep else nothing, p)
    for limit in (FLOATS, WORDS) if p < FLOATS else (WORDS,):
        out = [(x.copy(), y.copy()) for x, y in old]
        matrix_product(out, matrix, vector, (p,), keep=keep, limit=limit)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("bits", [45, 48, 49, 50, 60, 61])
@pytest.mark.parametrize("terms", [8, 9, 64, 101])
def test_the_largest_residues_in_long_sums(bits: int, terms: int) -> None:
    p, n = largest_prime(bits), 2 * BLOCK
    vector = [(np.full((1, n), p - 1, dtype=np.uint64), np.full((1, n), p // 2 + 1, dtype=np.uint64))] * terms
    matrix = [[np.full((1, n // 2), p - 1, dtype=np.uint64)] * terms] * STREAMED_ROWS
    out = [(aligned(1, n), aligned(1, n)) for _ in matrix]
    assert all(x.ctypes.data % ALIGNMENT == 0 for pair in out for x in pair)
    matrix_product(out, matrix, vector, (p,))
    for first, second in out:
        assert set(first.ravel()) == {terms % p}
        assert set(second.ravel()) == {(-terms * (p // 2 + 1)) % p}


def test_limbs_beyond_those_of_the_result_are_left_alone() -> None:
    moduli, n = (largest_prime(45), largest_prime(60)), 4 * COLUMNS
    rng = np.random.default_rng(0)
    x, y = (np.stack([rng.integers(0, p, size, dtype=np.uint64) for p in moduli]) for size in (n, n // 2))
    out = [(aligned(1, n), aligned(1, n))]
    matrix_product(out, [[y]], [(x, x)], moduli[:1])
    expected = expected_rows([[y[:1]]], [(x[:1], x[:1])], [(0 * x[:1], 0 * x[:1])], moduli[0])
    np.testing.assert_array_equal(out, expected)
