"""Complex slots: noise has imaginary parts where messages have none, and products carry them on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.ciphertext import RingCiphertext
from mhe.encoding import decode_subring, embed
from mhe.parameters import Parameters
from tests import oracle

Complex = npt.NDArray[np.complex128]
Floats = npt.NDArray[np.float64]


def complex_slots(ciphertext: RingCiphertext, parameters: Parameters, joint: oracle.Secret, period: int) -> Complex:
    """(period,), of the coefficients that repeat with it."""
    step = parameters.n_slots // period
    held = np.array([float(c) for c in oracle.message_integers(ciphertext, parameters, joint)[::step]])
    real, imaginary = (decode_subring(part, period, ciphertext.scale) for part in (held, -_times_i(held)))
    return np.asarray(real + 1j * imaginary)


def noise_norm(ciphertext: RingCiphertext, parameters: Parameters, joint: oracle.Secret, expected: Any) -> float:
    """Euclidean norm over all coefficients of what is off from slots (period,) as they should be, real or complex."""
    slots, exact = np.asarray(expected), np.zeros(parameters.ring_dim)
    coefficients = embed(np.ascontiguousarray(slots.real)) + _times_i(embed(np.ascontiguousarray(slots.imag)))
    exact[:: parameters.n_slots // len(slots)] = coefficients * ciphertext.scale
    found = np.array(oracle.message_integers(ciphertext, parameters, joint), dtype=object)
    return float(np.linalg.norm((found - exact).astype(float)))


def _times_i(coefficients: Floats) -> Floats:
    """Times X^(n/2), which is i in every slot."""
    turned = np.concatenate(np.split(coefficients, 2)[::-1])
    return np.asarray(turned * np.repeat([-1.0, 1.0], len(coefficients) // 2))
