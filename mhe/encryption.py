"""Encryption under a public key and decryption by a single private key, on ring arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mhe.ciphertext import Residues, RingCiphertext
from mhe.encoding import decode_coefficients, encode_coefficients
from mhe.errors import KeyMismatchError
from mhe.keys import PublicKey, ReceiverSecret
from mhe.protocols.common import error, ternary_polynomial
from mhe.ring.division import division
from mhe.ring.sampling import secret_stream
from mhe.session import Session


def encrypt(session: Session, key: PublicKey, message: Residues, scale: float) -> RingCiphertext:
    """(u p0 + e0 + message, u p1 + e1), u ternary. message: (limbs, ring_dim) in the evaluation domain.

    The noise has `mhe.security.fresh_error_std` as the standard deviation of its coefficients.
    """
    limbs = len(message)
    ring, noise = session.cipher_ring(limbs), secret_stream()
    u = ternary_polynomial(ring, noise)
    c0 = ring.add(message, error(ring, noise))
    ring.multiply_add(c0, u, key.p0[:limbs])
    c1 = error(ring, noise)
    ring.multiply_add(c1, u, key.p1[:limbs])
    return RingCiphertext(c0, c1, scale, key.key_id)


def rerandomise(session: Session, key: PublicKey, ciphertext: RingCiphertext) -> RingCiphertext:
    """The same message under fresh randomness: what it was computed from can no longer be tested.

    Evaluation is deterministic. A ciphertext that a party computed from public ones and from its own rows is therefore
    a function of these rows, with which anyone who sees it can compare a guess. Adding an encryption of zero makes it
    look uniform to everyone who does not hold the whole secret.

    That encryption is made at one limb more and divided by it, where there is one, so that only the rounding is left of
    its error: `mhe.security.rerandomised_std`.
    """
    limbs = ciphertext.limbs
    spare = limbs < session.parameters.n_limbs
    ring = session.cipher_ring(limbs)
    nothing = np.zeros((limbs + spare, ring.ring_dim), dtype=np.uint64)
    zero = encrypt(session, key, nothing, ciphertext.scale)
    z0, z1 = zero.c0, zero.c1
    if spare:
        divide = division(ring.ring_dim, ring.moduli, session.parameters.moduli[limbs : limbs + 1])
        z0, z1 = divide(z0), divide(z1)
    c0, c1 = ring.add(ciphertext.c0, z0), ring.add(ciphertext.c1, z1)
    return RingCiphertext(c0, c1, ciphertext.scale, ciphertext.key_id)


def decrypt(session: Session, secret: ReceiverSecret, key: PublicKey, ciphertext: RingCiphertext) -> list[int]:
    """The centred coefficients of scale * message + noise: ring_dim integers.

    Raises KeyMismatchError if the ciphertext is under another key.
    """
    if ciphertext.key_id != key.key_id:
        raise KeyMismatchError(f"ciphertext is under key {ciphertext.key_id}, the receiver holds {key.key_id}")
    ring = session.cipher_ring(ciphertext.limbs)
    message = ring.add(ciphertext.c0, ring.multiply(ciphertext.c1, secret.residues(ring)))
    return ring.to_integers(ring.intt(message))


def encrypt_slots(
    session: Session, key: PublicKey, values: npt.NDArray[np.float64], limbs: int, scale: float
) -> RingCiphertext:
    """Slot values (period,) under a public key, with the noise of `rerandomise`, not the larger one of `encrypt`."""
    ring = session.cipher_ring(limbs)
    coefficients = encode_coefficients(values, ring.ring_dim, scale)
    message = ring.ntt(ring.from_integers([int(c) for c in coefficients]))
    return rerandomise(session, key, RingCiphertext(message, np.zeros_like(message), scale, key.key_id))


def decrypt_slots(
    session: Session, secret: ReceiverSecret, key: PublicKey, ciphertext: RingCiphertext, period: int
) -> npt.NDArray[np.float64]:
    """Slots (period,) of a ciphertext that was switched to a receiver's key."""
    coefficients = decrypt(session, secret, key, ciphertext)
    return decode_coefficients(np.array([float(c) for c in coefficients]), ciphertext.scale, period)
