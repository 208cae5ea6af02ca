"""Collective rotation or conjugation key, one round: r_i,d = -sigma^-1(s_i) a_d + g_d s_i + e, for sigma: X -> X^t.

Mouchet, Troncoso-Pastoriza, Bossuat, Hubaux, ePrint 2020/304, protocol RotKeyGen. The evaluator switches c1 from s to
sigma^-1(s) first and applies sigma to the result afterwards, which brings it back under s; hence the inverse here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mhe.errors import ParameterError
from mhe.keys import EvaluationKey, SecretShare
from mhe.protocols.common import KeyProtocol, Residues, error, gadget
from mhe.ring.galois import inverse_element
from mhe.ring.sampling import secret_stream, uniform
from mhe.security import key_error_std, tail
from mhe.session import Session
from mhe.share import Share, check_complete


@dataclass(frozen=True)
class RotationKeyProtocol(KeyProtocol):
    """Generation of the key for X -> X^element: `galois_element` or `conjugation_element` of mhe/ring/galois.py."""

    session: Session
    element: int
    limbs: int | None = None
    name = "rotation_key"

    def __post_init__(self) -> None:
        super().__post_init__()
        order = 2 * self.session.parameters.ring_dim
        if self.element % 2 == 0 or not 0 < self.element < order:
            raise ParameterError(
                f"Galois element is {self.element}; need an odd number below {order}: see mhe.ring.galois"
            )

    @property
    def instance(self) -> bytes:
        return self.session.instance(self.name, str(self.element).encode())

    def _common(self, digit: int) -> Residues:
        return uniform(self.session.common(self.name, self.element, digit), self._ring)

    def share(self, secret: SecretShare) -> Share:
        """(digits * limbs of QP, ring_dim)"""
        secret.serve_once(self.name, self.instance)
        p, ring, noise = self.session.parameters, self._ring, secret_stream()
        s = secret.residues(ring)
        minus_turned = ring.negate(ring.automorphism(s, inverse_element(self.element, p.ring_dim)))
        rows = []
        for digit in range(self._digits):
            row = ring.add(ring.multiply_constant(s, gadget(p, digit, self._limbs)), error(ring, noise))
            ring.multiply_add(row, minus_turned, self._common(digit))
            rows.append(row)
        moduli = ring.moduli * self._digits
        return Share(self.name, self.instance, frozenset({self.session.rank}), moduli, np.concatenate(rows))

    def finalize(self, total: Share) -> EvaluationKey:
        """The key. Raises ShareError unless every party contributed exactly once."""
        p = self.session.parameters
        check_complete(total, self.name, self.instance, p.n_parties)
        b: Residues = total.rows.reshape(self._digits, -1, p.ring_dim)  # type: ignore[assignment]
        return EvaluationKey(b, np.stack([self._common(d) for d in range(self._digits)]), self.session.key_id)

    def error_bound(self) -> float:
        """Largest coefficient of b + a sigma^-1(s) - g_d s, but for probability 2^-40."""
        p = self.session.parameters
        return tail(p.ring_dim * self._digits) * key_error_std(p.n_parties)
