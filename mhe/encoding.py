"""The canonical embedding: slot values to polynomial coefficients and back, in float64.

Slot j of a polynomial m in Z[X]/(X^N + 1) is m(zeta^(5^j)) / scale, zeta = exp(i pi / N). A vector of period p is a
polynomial in X^(N/2p): only the 2p coefficients at multiples of N/(2p) differ from zero, and they are the
coefficients of the same vector in the ring of dimension 2p.

Source: Cheon, Kim, Kim, Song, "Homomorphic Encryption for Arithmetic of Approximate Numbers", ASIACRYPT 2017, section
3.1; the slot order (powers of 5) is the one of Lattigo, HEAAN and OpenFHE.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.fft import dct  # type: ignore[import-untyped]

from mhe.errors import ParameterError

Floats = npt.NDArray[np.float64]

_INT64_BITS = 62
"""Coefficients up to 2^62 are returned as int64, larger ones as Python integers."""


@lru_cache(maxsize=32)
def _tables(period: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.complex128]]:
    """Where slot j stands among the values at odd powers of the root, and the twist by which those are an FFT."""
    length = 2 * period
    powers = np.empty(period, dtype=np.intp)
    power = 1
    for j in range(period):
        powers[j] = power >> 1
        power = power * 5 % (2 * length)
    twist = np.exp(1j * np.pi * np.arange(length) / length)
    powers.flags.writeable = twist.flags.writeable = False
    return powers, twist


@lru_cache(maxsize=32)
def _half_positions(period: int) -> npt.NDArray[np.intp]:
    """Where slot j stands among the values at the odd powers of the root in the upper half plane, by angle."""
    positions, _ = _tables(period)
    return np.minimum(positions, 2 * period - 1 - positions)


def _check_period(period: int, limit: int) -> None:
    if period < 1 or period & (period - 1) or period > limit:
        raise ParameterError(f"period is {period}; need a power of two from 1 to {limit}, the number of slots")


def embed(values: Floats) -> Floats:
    """The 2p real coefficients, not rounded, of the polynomial of dimension 2p with slots `values` (p,).

    Error: as `embed_half`.
    """
    period = len(values)
    coefficients = np.zeros(2 * period)
    coefficients[:period] = embed_half(values)
    np.negative(coefficients[period - 1 : 0 : -1], out=coefficients[period + 1 :])
    return coefficients


def embed_half(values: Floats) -> Floats:
    """The first p of the coefficients of `embed`; coefficient p is 0, and coefficient 2p - k that of k, negated.

    Real slots take the same value at a root and at its conjugate, which makes the transform a cosine transform
    (type II) of length p. Error: below 8 eps log2(2p) max|values|, eps = 2^-53 (the transform's).
    """
    period = len(values)
    half = np.empty(period)
    half[_half_positions(period)] = values
    coefficients: Floats = dct(half, type=2, overwrite_x=True)
    coefficients *= 1 / (2 * period)
    return coefficients


def encode_coefficients(values: Floats, ring_dim: int, scale: float) -> npt.NDArray[np.int64] | npt.NDArray[np.object_]:
    """Integer coefficients (ring_dim,) of the polynomial whose slots are scale * values, repeated with their period.

    values: (period,), period a power of two that divides ring_dim/2; real. Only multiples of ring_dim/(2 period) are
    non-zero. int64, or an object array of Python integers when a coefficient passes 2^62.
    Error per slot: at most period/scale (rounding each of 2 period coefficients by at most 1/2), standard deviation
    sqrt(period/6)/scale, plus `embed`'s float64 error.
    Raises ParameterError for a bad period or values that are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ParameterError(f"values have shape {values.shape}; need one dimension and finite numbers")
    _check_period(len(values), ring_dim // 2)
    rounded = np.rint(embed(values) * scale)
    if rounded.size and np.abs(rounded).max() >= 2.0**_INT64_BITS:
        wide = np.zeros(ring_dim, dtype=np.object_)
        wide[:: ring_dim // len(rounded)] = [int(x) for x in rounded]
        return wide
    narrow = np.zeros(ring_dim, dtype=np.int64)
    narrow[:: ring_dim // len(rounded)] = rounded.astype(np.int64)
    return narrow


def decode_subring(coefficients: Floats, period: int, scale: float) -> Floats:
    """Slots (period,) from the 2*period coefficients at multiples of ring_dim/(2 period).

    Of a polynomial that is not exactly periodic (because of noise) this gives, for each slot, the mean over its
    repetitions. Real parts only. Error: below 8 eps log2(2p) sqrt(2p) rms(coefficients)/scale, eps = 2^-53.
    Raises ParameterError for a bad period or number of coefficients.
    """
    coefficients = np.asarray(coefficients, dtype=np.float64)
    _check_period(period, 1 << 30)
    if coefficients.shape != (2 * period,):
        raise ParameterError(f"coefficients have shape {coefficients.shape}; need ({2 * period},) for period {period}")
    positions, twist = _tables(period)
    values = np.fft.ifft(coefficients * twist) * (2 * period)
    slots: Floats = values[positions].real / scale
    return slots


def decode_coefficients(coefficients: Floats, scale: float, period: int | None = None) -> Floats:
    """Slots of a polynomial with real coefficients (ring_dim,): all ring_dim/2, or the first `period` means.

    With a period, only the coefficients at multiples of ring_dim/(2 period) count (see `decode_subring`).
    """
    ring_dim = len(coefficients)
    period = ring_dim // 2 if period is None else period
    _check_period(period, ring_dim // 2)
    return decode_subring(np.asarray(coefficients, dtype=np.float64)[:: ring_dim // (2 * period)], period, scale)
