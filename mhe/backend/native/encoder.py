"""Slot values to residues in the evaluation domain, through the smallest ring that holds them.

A vector of period p is a polynomial in X^(N/2p) (see mhe/encoding.py), and its slots are real, so that it takes the
same value at a root and at its inverse: of its N values only p differ. `mhe.ring.symmetric` computes those
by a transform of dimension p. The residues of a plaintext are kept as half of them: the other half is the same
backwards.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mhe.encoding import embed_half, encode_coefficients
from mhe.ring import ntt, symmetric
from mhe.ring.modular import Words
from mhe.ring.residues import Residues, residues
from mhe.ring.ring import Ring

Floats = npt.NDArray[np.float64]

_PART_BITS = 60
"""Coefficients from 2^62 on are cut into a lower part of so many bits and an upper one."""

_INT64_BITS = 62


def encode(values: Floats, ring: Ring, scale: float) -> Words:
    """The first half, (limbs, ring_dim/2), of the residues of the polynomial with slots scale * values, repeated with
    their period.

    The coefficients are those of `mhe.encoding.encode_coefficients`. values: (period,), checked by the caller.
    """
    period, n = len(values), ring.ring_dim
    half = max(period, ntt.MIN_RING_DIM)
    if half > n // 2:
        whole = ring.ntt(ring.from_integers([int(c) for c in encode_coefficients(values, n, scale)]))
        return np.ascontiguousarray(whole[:, : n // 2])
    coefficients = np.zeros(half + 1)
    np.rint(embed_half(values) * scale, out=coefficients[: half : half // period])
    largest = float(max(coefficients.max(), -coefficients.min()))
    short = largest < 2.0**symmetric.FLOAT_BITS
    out = np.empty((ring.n_limbs, half), dtype=np.uint64)
    in_words = [i for i, p in enumerate(ring.moduli) if not (short and symmetric.takes_floats(p))]
    if in_words:
        rows = _residues(coefficients[:half], largest, residues(tuple(ring.moduli[i] for i in in_words)))
        for i, row in zip(in_words, rows, strict=True):
            symmetric.values(row, n, ring.moduli[i], out[i])
    for i in sorted(set(range(ring.n_limbs)) - set(in_words)):
        symmetric.values_of_floats(coefficients, n, ring.moduli[i], out[i])
    return out if 2 * half == n else np.repeat(out, n // (2 * half), axis=1)


def unfold(half: Words) -> Words:
    """All residues (limbs, ring_dim) of a plaintext, from the first half of them."""
    return np.concatenate([half, half[:, ::-1]], axis=1)


def _residues(coefficients: Floats, largest: float, system: Residues) -> Words:
    """Residues of integers held in float64, of any size up to `largest`: (n,) -> (limbs, n)."""
    if largest < 2.0**_INT64_BITS:
        return system.from_signed(coefficients.astype(np.int64))
    if largest < 2.0 ** (_INT64_BITS + _PART_BITS):
        # Exact: a power of two moves the point only, and what is left below it has fewer bits than the whole had.
        upper = np.floor(coefficients * 2.0**-_PART_BITS)
        lower = coefficients - upper * 2.0**_PART_BITS
        high, low = (system.from_signed(part.astype(np.int64)) for part in (upper, lower))
        return system.add(system.multiply_constant(high, 1 << _PART_BITS), low)
    return system.from_integers([int(x) for x in coefficients])
