"""Slot values to residues in the evaluation domain, through the smallest ring that holds them.

A vector of period p is a polynomial g(X^(N/2p)) (see mhe/encoding.py). At psi^e it takes the value of g at
(psi^(N/2p))^e, which depends on e modulo 4p only, and e = 2 bitrev(i) + 1 modulo 4p depends on the leading log2(2p)
bits of i. So the N values are those of a transform of dimension 2p, each repeated N/2p times; its twiddles are the
first 2p of the large transform's, since bitrev(k) = (N/2p) bitrev_2p(k) for k < 2p.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mhe.encoding import embed
from mhe.ring import ntt
from mhe.ring.modular import Words
from mhe.ring.residues import Residues, residues
from mhe.ring.ring import Ring

Floats = npt.NDArray[np.float64]

_PART_BITS = 60
"""Coefficients from 2^62 on are cut into a lower part of so many bits and an upper one."""

_INT64_BITS = 62


def encode(values: Floats, ring: Ring, scale: float) -> Words:
    """(limbs, ring_dim) residues of the polynomial with slots scale * values, repeated with their period.

    The coefficients are those of `mhe.encoding.encode_coefficients`. values: (period,), checked by the caller.
    """
    coefficients = np.rint(embed(values) * scale)
    dim = max(len(coefficients), ntt.MIN_RING_DIM)
    rows = _residues(coefficients, residues(ring.moduli))
    if dim > len(coefficients):
        spaced = np.zeros((ring.n_limbs, dim), dtype=np.uint64)
        spaced[:, :: dim // len(coefficients)] = rows
        rows = spaced
    for row, p in zip(rows, ring.moduli, strict=True):
        ntt.forward_subring(row, ring.ring_dim, p)
    if dim == ring.ring_dim:
        return rows
    out = np.empty((ring.n_limbs, dim, ring.ring_dim // dim), dtype=np.uint64)
    out[:] = rows[:, :, None]
    return out.reshape(ring.n_limbs, ring.ring_dim)


def _residues(coefficients: Floats, system: Residues) -> Words:
    """Residues of integers held in float64, of any size: (n,) -> (limbs, n)."""
    largest = float(np.abs(coefficients).max())
    if largest < 2.0**_INT64_BITS:
        return system.from_signed(coefficients.astype(np.int64))
    if largest < 2.0 ** (_INT64_BITS + _PART_BITS):
        # Exact: a power of two moves the point only, and what is left below it has fewer bits than the whole had.
        upper = np.floor(coefficients * 2.0**-_PART_BITS)
        lower = coefficients - upper * 2.0**_PART_BITS
        high, low = (system.from_signed(part.astype(np.int64)) for part in (upper, lower))
        return system.add(system.multiply_constant(high, 1 << _PART_BITS), low)
    return system.from_integers([int(x) for x in coefficients])
