"""Collective relinearisation key in two rounds, with an ephemeral secret u_i per party.

Mouchet, Troncoso-Pastoriza, Bossuat, Hubaux, ePrint 2020/304, protocol RelinKeyGen. For every digit d, with a_d from
the common seed and fresh errors e:

    round 1    h0_i = -u_i a_d + g_d s_i + e      h1_i = s_i a_d + e'            sums h0, h1
    round 2    h2_i = s_i h0 + (u_i - s_i) h1 + e''                              sum  h2
    key        (b, a) = (h2, h1):  b + a s = g_d s^2 + (s e + u e' + e'')

The u_i are what keeps b + (public multiple of s) from being P s + small: a key whose two rounds share one public a
without them gives the joint secret to everyone who sees both sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mhe.keys import EphemeralSecret, EvaluationKey, SecretShare
from mhe.protocols.common import KeyProtocol, Residues, error, gadget
from mhe.ring.sampling import secret_stream, uniform
from mhe.security import relin_key_error_std, tail
from mhe.session import Session
from mhe.share import Share, check_complete


@dataclass(frozen=True)
class RelinKeyProtocol(KeyProtocol):
    """The generation of the relinearisation key. Rows of round 1: h0 of every digit, then h1 of every digit."""

    session: Session
    limbs: int | None = None
    name = "relin_key"

    @property
    def first_instance(self) -> bytes:
        return self.session.instance(self.name, b"round 1")

    @property
    def second_instance(self) -> bytes:
        return self.session.instance(self.name, b"round 2")

    def share_first(self, secret: SecretShare, ephemeral: EphemeralSecret) -> Share:
        """(h0_i, h1_i): (2 * digits * limbs of QP, ring_dim)."""
        secret.serve_once(self.name, self.first_instance)
        ring, noise = self._ring, secret_stream()
        s, u = secret.residues(ring), ephemeral.residues(ring)
        h0, h1 = [], []
        for digit in range(self._digits):
            a = uniform(self.session.common(self.name, digit), ring)
            encoded = ring.multiply_constant(s, gadget(self.session.parameters, digit, self._limbs))
            h0.append(ring.add(ring.subtract(encoded, ring.multiply(u, a)), error(ring, noise)))
            h1.append(ring.add(ring.multiply(s, a), error(ring, noise)))
        moduli = ring.moduli * (2 * self._digits)
        return Share(self.name, self.first_instance, self._me, moduli, np.concatenate(h0 + h1))

    def share_second(self, secret: SecretShare, ephemeral: EphemeralSecret, first: Share) -> Share:
        """h2_i: (digits * limbs of QP, ring_dim), from the complete total of the first round."""
        check_complete(first, self.name, self.first_instance, self.session.parameters.n_parties)
        secret.serve_once(self.name, self.second_instance)
        ring, noise = self._ring, secret_stream()
        s, u = secret.residues(ring), ephemeral.residues(ring)
        difference = ring.subtract(u, s)
        h0, h1 = self._split(first)
        h2 = []
        for digit in range(self._digits):
            rows = ring.add(ring.multiply(s, h0[digit]), error(ring, noise))
            ring.multiply_add(rows, difference, h1[digit])
            h2.append(rows)
        return Share(self.name, self.second_instance, self._me, ring.moduli * self._digits, np.concatenate(h2))

    def finalize(self, first: Share, second: Share) -> EvaluationKey:
        """The key, from the complete totals of both rounds. Raises ShareError if a contribution is missing."""
        p = self.session.parameters
        check_complete(first, self.name, self.first_instance, p.n_parties)
        check_complete(second, self.name, self.second_instance, p.n_parties)
        h2: Residues = second.rows.reshape(self._digits, -1, p.ring_dim)  # type: ignore[assignment]
        # a copy, for the key would hold h0 as well
        return EvaluationKey(h2, self._split(first)[1].copy(), self.session.key_id)

    def error_bound(self) -> float:
        """Largest coefficient of b + a s - g_d s^2, but for probability 2^-40."""
        p = self.session.parameters
        return tail(p.ring_dim * self._digits) * relin_key_error_std(p.ring_dim, p.n_parties)

    @property
    def _me(self) -> frozenset[int]:
        return frozenset({self.session.rank})

    def _split(self, first: Share) -> Residues:
        """(2, digits, limbs of QP, ring_dim)"""
        n = self.session.parameters.ring_dim
        return first.rows.reshape(2, self._digits, -1, n)  # type: ignore[return-value]
