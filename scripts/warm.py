"""Run every loop of the ring once, so that its compiled form is in numba's cache, and check a product on the way."""

from __future__ import annotations

import numpy as np

from mhe.backend.native import NativeBackend
from mhe.backend.selftest import check_encoding, check_evaluator
from mhe.errors import BackendError
from mhe.parameters import Parameters
from mhe.ring.basis import lift
from mhe.ring.primes import ntt_primes
from mhe.ring.ring import ring
from mhe.ring.sampling import WideGaussian, gaussian, secret_stream, ternary, uniform

RING_DIM = 16
INSECURE_RING_DIM = 256
"""Of the toy key with which the evaluator is tried out."""


def warm() -> None:
    """Raises BackendError if the ring computes a wrong product."""
    moduli = ntt_primes(50, RING_DIM, 4)
    ring_q = ring(RING_DIM, moduli)
    stream = secret_stream()
    a, b = gaussian(stream, RING_DIM), ternary(stream, RING_DIM)
    a_values, b_values = (ring_q.ntt(ring_q.from_signed(values)) for values in (a, b))
    product = ring_q.multiply(a_values, b_values)
    # X^N = -1: the product's upper half comes back with the other sign.
    whole = np.convolve(a, b)
    expected = whole[:RING_DIM] - np.append(whole[RING_DIM:], 0)
    if not np.array_equal(ring_q.intt(product), ring_q.from_signed(expected)):
        raise BackendError("a product of two polynomials is wrong; delete the __pycache__ folders and try again")

    total = uniform(stream, ring_q)
    ring_q.multiply_add(total, a_values, b_values)
    total = ring_q.subtract(ring_q.add(total, product), ring_q.negate(product))
    total = ring_q.automorphism(ring_q.multiply_constant(total, 3), 5)
    lift(total[:2], moduli[:2], moduli)
    ring_q.from_integers([2**70] * RING_DIM)
    WideGaussian(2.0**90).sample(stream, moduli, RING_DIM)
    _evaluator()


def _evaluator() -> None:
    """The native evaluator's loops, in both arithmetics, against numpy."""
    first, others = ntt_primes(60, INSECURE_RING_DIM, 3), ntt_primes(45, INSECURE_RING_DIM, 2)
    parameters = Parameters(
        ring_dim=INSECURE_RING_DIM,
        moduli=first[:1] + others,
        special_moduli=first[1:],
        scale_bits=45,
        digits=2,
        n_parties=1,
        refresh_limbs=3,
        message_bits=1,
        statistical_bits=1,
        insecure=True,
    )
    backend = NativeBackend(parameters, "warm")
    remedy = "delete the __pycache__ folders and try again"
    check_encoding(backend, "warm", remedy)
    check_evaluator(backend, "warm", remedy)


if __name__ == "__main__":
    warm()
