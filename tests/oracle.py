"""The one place that forms a whole secret: an ordinary single-key CKKS on mhe/ring to compare everything with.

A joint secret of several parties is simply the sum of theirs (`joint`). Nothing here is constant-time or secure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mhe.ciphertext import Residues, RingCiphertext
from mhe.encoding import decode_coefficients, decode_subring, encode_coefficients
from mhe.keys import EvaluationKey, SecretPolynomial
from mhe.parameters import ERROR_STD, Parameters
from mhe.ring.galois import galois_element, inverse_element
from mhe.ring.ring import Ring, ring

Floats = npt.NDArray[np.float64]
Secret = npt.NDArray[np.int64]


def make_secret(ring_dim: int, seed: int = 0) -> Secret:
    """Uniform ternary coefficients (ring_dim,)."""
    return np.random.default_rng((seed, 1)).integers(-1, 2, ring_dim, dtype=np.int64)


def joint(shares: Sequence[Secret]) -> Secret:
    """The secret that additive shares make up."""
    total: Secret = np.sum(np.stack(shares), axis=0, dtype=np.int64)
    return total


def as_residues(coefficients: Secret, target: Ring) -> Residues:
    """Evaluation domain (limbs, ring_dim)."""
    return target.ntt(target.from_signed(np.asarray(coefficients, dtype=np.int64)))


def cipher_ring(parameters: Parameters, limbs: int | None = None) -> Ring:
    return ring(parameters.ring_dim, parameters.moduli[:limbs])


def key_ring(parameters: Parameters) -> Ring:
    return ring(parameters.ring_dim, parameters.key_moduli)


def uniform(target: Ring, random: np.random.Generator) -> Residues:
    return np.stack([random.integers(0, q, target.ring_dim, dtype=np.uint64) for q in target.moduli])


def gaussian(target: Ring, random: np.random.Generator) -> Residues:
    """A fresh narrow error in the evaluation domain."""
    return as_residues(np.rint(random.normal(0, ERROR_STD, target.ring_dim)).astype(np.int64), target)


def encrypt(
    values: Floats,
    parameters: Parameters,
    secret: Secret,
    key_id: str,
    *,
    limbs: int | None = None,
    scale: float | None = None,
    seed: int = 0,
) -> RingCiphertext:
    """A secret-key encryption of the slots values (period,), with a narrow Gaussian error."""
    random = np.random.default_rng((seed, 2))
    target = cipher_ring(parameters, limbs)
    scale = parameters.scale if scale is None else scale
    coefficients = encode_coefficients(values, parameters.ring_dim, scale)
    message = target.ntt(target.from_integers([int(c) for c in coefficients]))
    c1 = uniform(target, random)
    mask = target.multiply(c1, as_residues(secret, target))
    c0 = target.subtract(target.add(message, gaussian(target, random)), mask)
    return RingCiphertext(c0, c1, scale, key_id)


def message_integers(ciphertext: RingCiphertext, parameters: Parameters, secret: Secret) -> list[int]:
    """Centred coefficients of c0 + c1*s: scale * message + noise."""
    target = cipher_ring(parameters, ciphertext.limbs)
    message = target.add(ciphertext.c0, target.multiply(ciphertext.c1, as_residues(secret, target)))
    return target.to_integers(target.intt(message))


def decrypt(ciphertext: RingCiphertext, parameters: Parameters, secret: Secret, period: int | None = None) -> Floats:
    """All slots (n_slots,), or with a period the mean over the repetitions of each slot (period,)."""
    coefficients = np.array([float(c) for c in message_integers(ciphertext, parameters, secret)])
    if period is None:
        return decode_coefficients(coefficients, ciphertext.scale)
    return decode_subring(coefficients[:: parameters.ring_dim // (2 * period)], period, ciphertext.scale)


def make_evaluation_key(
    parameters: Parameters, old: Residues, new: Residues, key_id: str, seed: int = 0
) -> EvaluationKey:
    """b_d + a_d*new = g_d*old + e; old and new are secrets in the evaluation domain modulo Q*P."""
    random = np.random.default_rng((seed, 3))
    target = key_ring(parameters)
    special = 1
    for q in parameters.special_moduli:
        special *= q
    b, a = [], []
    for digit in parameters.digit_limbs:
        gadget = tuple(special if i in digit else 0 for i in range(target.n_limbs))
        a.append(uniform(target, random))
        message = target.add(target.multiply_constant(old, gadget), gaussian(target, random))
        b.append(target.subtract(message, target.multiply(a[-1], new)))
    return EvaluationKey(np.stack(b), np.stack(a), key_id)


def make_relinearisation_key(parameters: Parameters, secret: Secret, key_id: str, seed: int = 0) -> EvaluationKey:
    target = key_ring(parameters)
    s = as_residues(secret, target)
    return make_evaluation_key(parameters, target.multiply(s, s), s, key_id, seed)


def make_rotation_key(
    parameters: Parameters, secret: Secret, rotation: int, key_id: str, seed: int = 0
) -> EvaluationKey:
    return make_galois_key(parameters, secret, galois_element(rotation, parameters.ring_dim), key_id, seed)


def make_galois_key(parameters: Parameters, secret: Secret, t: int, key_id: str, seed: int = 0) -> EvaluationKey:
    """See `mhe.ring.galois.galois_element` for the equation."""
    target = key_ring(parameters)
    s = as_residues(secret, target)
    turned = target.automorphism(s, inverse_element(t, parameters.ring_dim))
    return make_evaluation_key(parameters, s, turned, key_id, seed)


def coefficients_of(secret: SecretPolynomial) -> Secret:
    """A copy of what a secret polynomial hides: (ring_dim,)."""
    return secret._coefficients.copy()


def joint_of(secrets: Sequence[SecretPolynomial]) -> Secret:
    """The joint secret of these shares."""
    return joint([coefficients_of(secret) for secret in secrets])
