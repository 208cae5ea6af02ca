"""Collective decryption: d_i = s_i c1 + smudging_i, m = c0 + sum d_i, of only the coefficients that carry the message.

Mouchet, Troncoso-Pastoriza, Bossuat, Hubaux, ePrint 2020/304, protocol ColKeySwitch to the zero key. A CKKS
decryption shows the noise of its ciphertext, and with it the secret (Li, Micciancio, EUROCRYPT 2021, ePrint
2020/1533): every party adds a Gaussian wide enough to hide it.

A slot vector of period p occupies the 2p coefficients at multiples of N/(2p). Only these leave a party: less to
smudge, less to send, and 2p instead of N smudging terms in every slot of the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mhe.errors import ParameterError
from mhe.keys import SecretShare
from mhe.protocols.common import Residues
from mhe.ring.residues import residues
from mhe.ring.ring import Ring
from mhe.ring.sampling import WideGaussian, secret_stream
from mhe.security import tail
from mhe.session import Session
from mhe.share import Share, check_complete


@dataclass(frozen=True)
class DecryptionProtocol:
    """Decryption of `count` coefficients, evenly spaced from 0, of one ciphertext given by its c1: (limbs, ring_dim).

    smudging: standard deviation asked of each party's smudging (`mhe.security.smudging_std`).
    """

    session: Session
    c1: Residues
    count: int
    smudging: float
    name = "decryption"

    def __post_init__(self) -> None:
        n = self.session.parameters.ring_dim
        if self.count < 1 or n % self.count:
            raise ParameterError(
                f"cannot decrypt {self.count} evenly spaced coefficients of {n}; need a divisor of {n}"
            )

    @cached_property
    def instance(self) -> bytes:
        return self.session.instance(self.name, str((self.count, self.smudging)).encode(), self.c1.tobytes())

    @property
    def _ring(self) -> Ring:
        return self.session.cipher_ring(len(self.c1))

    def _thin(self, polynomial: Residues) -> Residues:
        """The released coefficients of a polynomial in the evaluation domain: (limbs, count)."""
        coefficients = self._ring.intt(polynomial)
        return np.ascontiguousarray(coefficients[:, :: self.session.parameters.ring_dim // self.count])

    def share(self, secret: SecretShare) -> Share:
        """(limbs, count)"""
        secret.serve_once(self.name, self.instance)
        whole = self._ring
        product = self._thin(whole.multiply(secret.residues(whole), self.c1))
        smudging = WideGaussian(self.smudging).sample(secret_stream(), whole.moduli, self.count)
        rows = residues(whole.moduli).add(product, smudging)
        return Share(self.name, self.instance, frozenset({self.session.rank}), whole.moduli, rows)

    def finalize(self, total: Share, c0: Residues) -> Residues:
        """The released coefficients as residues: (limbs, count). Raises ShareError unless every party contributed
        once.
        """
        check_complete(total, self.name, self.instance, self.session.parameters.n_parties)
        return residues(self._ring.moduli).add(self._thin(c0), np.asarray(total.rows, dtype=np.uint64))

    def integers(self, opened: Residues) -> list[int]:
        """The released coefficients, centred, from their residues."""
        return self._ring.to_integers(opened)

    def error_bound(self) -> float:
        """Largest coefficient by which the result differs from the ciphertext's message and noise, but for 2^-40."""
        return tail(self.count) * WideGaussian(self.smudging).std * math.sqrt(self.session.parameters.n_parties)
