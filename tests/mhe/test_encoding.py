"""The canonical embedding against its definition, and against OpenFHE's own encoder and decoder."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhe.encoding import decode_coefficients, decode_subring, encode_coefficients
from mhe.errors import ParameterError

EPS = 2.0**-53
SCALE = 2.0**40


def slots_by_definition(coefficients: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
    """Evaluate at zeta^(5^j), one by one."""
    n = len(coefficients)
    exponents = np.array([pow(5, j, 2 * n) for j in range(n // 2)])
    powers: npt.NDArray[np.complex128] = np.exp(1j * np.pi / n * np.outer(exponents, np.arange(n)))
    return powers @ coefficients.astype(np.complex128)


@pytest.mark.parametrize("period", [1, 2, 8, 32])
def test_encoding_is_the_canonical_embedding(period: int) -> None:
    values = np.random.default_rng(period).uniform(-1, 1, period)
    coefficients = encode_coefficients(values, 64, SCALE)
    slots = slots_by_definition(coefficients.astype(np.float64)) / SCALE
    np.testing.assert_allclose(slots.real, np.tile(values, 32 // period), atol=period / SCALE)
    np.testing.assert_allclose(slots.imag, 0, atol=period / SCALE)


@given(
    log_period=st.integers(0, 8),
    extra=st.integers(0, 3),
    scale_bits=st.integers(20, 60),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_decoding_undoes_encoding(log_period: int, extra: int, scale_bits: int, seed: int) -> None:
    period, scale = 1 << log_period, 2.0**scale_bits
    ring_dim = 2 * period << extra
    values = np.random.default_rng(seed).normal(0, 10, period)
    coefficients = encode_coefficients(values, ring_dim, scale).astype(np.float64)
    bound = period / scale + 64 * np.log2(2 * ring_dim) * EPS * np.abs(values).max()
    assert np.count_nonzero(coefficients) <= 2 * period
    subring = coefficients[:: ring_dim // (2 * period)]
    assert np.abs(decode_subring(subring, period, scale) - values).max() <= bound
    repeated = np.tile(values, ring_dim // (2 * period))
    assert np.abs(decode_coefficients(coefficients, scale) - repeated).max() <= bound


def test_relative_accuracy_at_a_large_ring() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 1 << 14)
    coefficients = encode_coefficients(values, 1 << 15, 2.0**60).astype(np.float64)
    assert np.abs(decode_coefficients(coefficients, 2.0**60) - values).max() < 1e-13


def test_rounding_error_has_the_documented_width() -> None:
    period, scale = 1 << 10, 2.0**20
    values = np.random.default_rng(1).uniform(-1, 1, period)
    error = decode_coefficients(encode_coefficients(values, 2 * period, scale).astype(np.float64), scale) - values
    assert error.std() == pytest.approx(np.sqrt(period / 6) / scale, rel=0.1)


def test_decoding_a_subring_averages_the_repetitions() -> None:
    noise = np.random.default_rng(2).normal(0, 100, 64)
    full = decode_coefficients(noise, 1.0)
    for period in (1, 4, 16, 32):
        part = decode_subring(noise[:: 32 // period], period, 1.0)
        np.testing.assert_allclose(part, full.reshape(-1, period).mean(axis=0), atol=1e-10)
        np.testing.assert_allclose(part, decode_coefficients(noise, 1.0, period), atol=1e-10)


def test_large_scales_give_python_integers() -> None:
    values = np.array([1.0, -0.5, 0.25, 3.0])
    coefficients = encode_coefficients(values, 16, 2.0**100)
    assert coefficients.dtype == object
    assert all(isinstance(int(c), int) for c in coefficients)
    np.testing.assert_allclose(
        decode_coefficients(coefficients.astype(np.float64), 2.0**100), np.tile(values, 2), rtol=1e-14
    )


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros(64), np.zeros((2, 2)), np.array([np.nan, 1.0]), np.zeros(0)])
def test_bad_values_are_refused(values: npt.NDArray[np.float64]) -> None:
    with pytest.raises(ParameterError):
        encode_coefficients(values, 64, SCALE)


def test_bad_coefficients_are_refused() -> None:
    with pytest.raises(ParameterError):
        decode_subring(np.zeros(8), 8, SCALE)
    with pytest.raises(ParameterError):
        decode_subring(np.zeros(6), 3, SCALE)
    with pytest.raises(ParameterError):
        decode_coefficients(np.zeros(64), SCALE, period=64)
