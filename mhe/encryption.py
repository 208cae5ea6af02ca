"""Encryption under a public key and decryption by a single private key, on ring arrays."""

from __future__ import annotations

from mhe.ciphertext import Residues, RingCiphertext
from mhe.errors import KeyMismatchError
from mhe.keys import PublicKey, ReceiverSecret
from mhe.protocols.common import error, ternary_polynomial
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


def decrypt(session: Session, secret: ReceiverSecret, key: PublicKey, ciphertext: RingCiphertext) -> list[int]:
    """The centred coefficients of scale * message + noise: ring_dim integers.

    Raises KeyMismatchError if the ciphertext is under another key.
    """
    if ciphertext.key_id != key.key_id:
        raise KeyMismatchError(f"ciphertext is under key {ciphertext.key_id}, the receiver holds {key.key_id}")
    ring = session.cipher_ring(ciphertext.limbs)
    message = ring.add(ciphertext.c0, ring.multiply(ciphertext.c1, secret.residues(ring)))
    return ring.to_integers(ring.intt(message))
