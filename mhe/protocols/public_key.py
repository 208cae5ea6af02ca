"""Collective public key: p = (sum of (-a s_i + e_i), a), with a from the common seed.

Mouchet, Troncoso-Pastoriza, Bossuat, Hubaux, "Multiparty Homomorphic Encryption from RLWE", ePrint 2020/304,
protocol EncKeyGen. Every party commits to its share before it sees any other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from mhe.errors import ShareError
from mhe.keys import PublicKey, SecretShare
from mhe.protocols.common import Residues, error
from mhe.ring.sampling import secret_stream, uniform
from mhe.security import key_error_std, tail
from mhe.session import Session
from mhe.share import Share, check_complete


@dataclass(frozen=True)
class PublicKeyProtocol:
    """One generation of the collective public key."""

    session: Session
    name = "public_key"

    @property
    def instance(self) -> bytes:
        return self.session.instance(self.name)

    def _common(self) -> Residues:
        return uniform(self.session.common(self.name), self.session.cipher_ring())

    def share(self, secret: SecretShare) -> Share:
        """-a s_i + e_i: (limbs, ring_dim)."""
        secret.serve_once(self.name, self.instance)
        ring = self.session.cipher_ring()
        rows = ring.subtract(error(ring, secret_stream()), ring.multiply(self._common(), secret.residues(ring)))
        return Share(self.name, self.instance, frozenset({self.session.rank}), ring.moduli, rows)

    def commitment(self, share: Share) -> bytes:
        """32 bytes that bind a party to its share; the share's own entropy hides it."""
        (rank,) = share.contributors
        digest = hashlib.blake2b(self.instance, digest_size=32, person=b"mhe commitment")
        digest.update(rank.to_bytes(8, "little"))
        digest.update(share.rows.tobytes())
        return digest.digest()

    def check_commitment(self, share: Share, commitment: bytes) -> None:
        """Raise ShareError unless this is the share that its party had committed to."""
        if self.commitment(share) != commitment:
            raise ShareError(
                f"public key share of party {sorted(share.contributors)} is not the one it committed to; "
                "that party must be excluded, and the session started anew"
            )

    def finalize(self, total: Share) -> PublicKey:
        """The public key. Raises ShareError unless every party contributed exactly once."""
        check_complete(total, self.name, self.instance, self.session.parameters.n_parties)
        return self.key(total.rows)  # type: ignore[arg-type]

    def key(self, p0: Residues) -> PublicKey:
        """The public key of this p0: (limbs, ring_dim)."""
        return PublicKey(p0, self._common(), self.session.key_id)

    def error_bound(self) -> float:
        """Largest coefficient of p0 + p1 s, but for probability 2^-40."""
        p = self.session.parameters
        return tail(p.ring_dim) * key_error_std(p.n_parties)
