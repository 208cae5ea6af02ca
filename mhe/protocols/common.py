"""Pieces that several protocols are made of."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mhe.parameters import Parameters
from mhe.ring.ring import Ring
from mhe.ring.sampling import Stream, gaussian, ternary

Residues = npt.NDArray[np.uint64]


def error(ring: Ring, stream: Stream) -> Residues:
    """A fresh narrow Gaussian polynomial in the evaluation domain: (limbs, ring_dim)."""
    return ring.ntt(ring.from_signed(gaussian(stream, ring.ring_dim)))


def ternary_polynomial(ring: Ring, stream: Stream) -> Residues:
    """A fresh uniform ternary polynomial in the evaluation domain: (limbs, ring_dim)."""
    return ring.ntt(ring.from_signed(ternary(stream, ring.ring_dim)))


def gadget(parameters: Parameters, digit: int) -> tuple[int, ...]:
    """g_d as one constant per row of Q then P: P modulo q_j on the limbs of digit d, 0 elsewhere.

    Hybrid key switching, Han and Ki, ePrint 2019/688, Section 3.
    """
    special = math.prod(parameters.special_moduli)
    limbs = parameters.digit_limbs[digit]
    return tuple(special % q if j in limbs else 0 for j, q in enumerate(parameters.key_moduli))
