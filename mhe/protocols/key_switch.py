"""Collective switch to a receiver's public key (p0, p1): only the receiver can decrypt the result.

Mouchet, Troncoso-Pastoriza, Bossuat, Hubaux, ePrint 2020/304, protocol PubColKeySwitch. With u_i fresh ternary:

    h0_i = s_i c1 + u_i p0 + smudging_i      h1_i = u_i p1 + e_i
    c0' = c0 + sum h0_i,  c1' = sum h1_i

Batched: any number of ciphertexts, each to its own receiver, in one round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mhe.ciphertext import RingCiphertext
from mhe.errors import ParameterError
from mhe.keys import PublicKey, ReceiverSecret, SecretShare
from mhe.protocols.common import Residues, error, ternary_polynomial
from mhe.ring.ring import ring
from mhe.ring.sampling import WideGaussian, secret_stream, uniform
from mhe.security import key_switch_to_receiver_std, tail
from mhe.session import Session
from mhe.share import Share, check_complete


@dataclass(frozen=True)
class KeySwitchProtocol:
    """Switch of a batch of ciphertexts, given by their c1 parts (limbs, ring_dim), to one receiver's key each.

    smudging: standard deviation asked of each party's smudging (`mhe.security.smudging_std`).
    Rows of a share: for every ciphertext h0 (limbs), then h1 (limbs).
    """

    session: Session
    c1s: tuple[Residues, ...]
    receivers: tuple[PublicKey, ...]
    smudging: float
    name = "key_switch"

    def __post_init__(self) -> None:
        if len(self.c1s) != len(self.receivers) or len({c1.shape for c1 in self.c1s}) > 1:
            raise ParameterError(
                f"{len(self.c1s)} ciphertexts for {len(self.receivers)} receivers; need one key each, and equal limbs"
            )

    @cached_property
    def instance(self) -> bytes:
        keys = (part.tobytes() for key in self.receivers for part in (key.p0, key.p1))
        return self.session.instance(self.name, str(self.smudging).encode(), *(c.tobytes() for c in self.c1s), *keys)

    @property
    def _limbs(self) -> int:
        return len(self.c1s[0])

    def share(self, secret: SecretShare) -> Share:
        """(batch * 2 * limbs, ring_dim)"""
        secret.serve_once(self.name, self.instance)
        ring_, noise = self.session.cipher_ring(self._limbs), secret_stream()
        s, wide = secret.residues(ring_), WideGaussian(self.smudging)
        rows = []
        for c1, key in zip(self.c1s, self.receivers, strict=True):
            u = ternary_polynomial(ring_, noise)
            h0 = ring_.ntt(wide.sample(noise, ring_.moduli, ring_.ring_dim))
            ring_.multiply_add(h0, s, c1)
            ring_.multiply_add(h0, u, key.p0[: self._limbs])
            h1 = ring_.add(ring_.multiply(u, key.p1[: self._limbs]), error(ring_, noise))
            rows += [h0, h1]
        moduli = ring_.moduli * (2 * len(self.c1s))
        return Share(self.name, self.instance, frozenset({self.session.rank}), moduli, np.concatenate(rows))

    def finalize(self, total: Share, ciphertexts: Mapping[int, RingCiphertext]) -> dict[int, RingCiphertext]:
        """Those ciphertexts of the batch that are given, by index, under their receivers' keys.

        Raises ShareError unless every party contributed exactly once.
        """
        p = self.session.parameters
        check_complete(total, self.name, self.instance, p.n_parties)
        ring_ = self.session.cipher_ring(self._limbs)
        parts: Residues = total.rows.reshape(len(self.c1s), 2, self._limbs, p.ring_dim)  # type: ignore[assignment]
        return {
            i: RingCiphertext(ring_.add(c.c0, parts[i, 0]), parts[i, 1], c.scale, self.receivers[i].key_id)
            for i, c in ciphertexts.items()
        }

    def error_bound(self) -> float:
        """Largest coefficient by which a switched message differs, but for probability 2^-40."""
        p = self.session.parameters
        std = key_switch_to_receiver_std(p.ring_dim, p.n_parties, WideGaussian(self.smudging).std)
        return tail(p.ring_dim * len(self.c1s)) * std


def receiver_key(session: Session, secret: ReceiverSecret, label: bytes) -> PublicKey:
    """A receiver's public key, its p1 expanded from the common seed and the receiver's label."""
    ring_ = ring(session.parameters.ring_dim, session.parameters.moduli)
    p1 = uniform(session.common("receiver", label.hex()), ring_)
    p0 = ring_.subtract(error(ring_, secret_stream()), ring_.multiply(p1, secret.residues(ring_)))
    return PublicKey(p0, p1, f"receiver-{label.hex()}")


def receiver_public_part(session: Session, p0: Residues, label: bytes) -> PublicKey:
    """The public key of a receiver from the part that it sent."""
    ring_ = ring(session.parameters.ring_dim, session.parameters.moduli)
    return PublicKey(p0, uniform(session.common("receiver", label.hex()), ring_), f"receiver-{label.hex()}")
