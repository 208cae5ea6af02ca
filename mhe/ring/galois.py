"""Which automorphism X -> X^t of the ring rotates or conjugates the slots (pure arithmetic)."""

from __future__ import annotations


def galois_element(rotation: int, ring_dim: int) -> int:
    """The exponent t of the automorphism sigma_t: X -> X^t that makes slot s hold what slot s + rotation held.

    rotation: in slots, cyclic over ring_dim/2 slots, of either sign. Slot j is the value of the polynomial at
    zeta^(5^j), zeta = exp(i pi / ring_dim), hence t = 5^rotation mod 2 ring_dim.

    **The key for t** that evaluators expect satisfies, for every digit d, modulo Q*P,

        b_d + a_d * sigma_u(s) = g_d * s + e_d,        u = t^-1 mod 2 ring_dim = galois_element(-rotation, ring_dim),

    because they first switch the ciphertext from s to sigma_u(s) and then apply sigma_t to both polynomials, which
    turns sigma_u(s) back into s. Party i's share is therefore  -a_d * sigma_u(s_i) + g_d * s_i + e.

    Source: Halevi, Shoup, "Faster Homomorphic Linear Transformations in HElib", CRYPTO 2018, section 2; the order of
    the two steps is OpenFHE's (`LeveledSHEBase::EvalAutomorphism`).
    """
    return pow(5, rotation % (ring_dim // 2), 2 * ring_dim)


def conjugation_element(ring_dim: int) -> int:
    """The exponent t of sigma_t that conjugates all slots: zeta^(-5^j) is the conjugate of zeta^(5^j). Its own inverse.

    The key is that of `galois_element`, for this t.
    """
    return 2 * ring_dim - 1


def inverse_element(t: int, ring_dim: int) -> int:
    """The exponent u with sigma_u(sigma_t(x)) = x: the inverse of t modulo 2 ring_dim. t is odd."""
    return pow(t, -1, 2 * ring_dim)
