"""Pieces that several protocols are made of."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mhe.errors import LevelError
from mhe.parameters import Parameters
from mhe.ring.ring import Ring
from mhe.ring.sampling import Stream, gaussian, ternary
from mhe.session import Session

Residues = npt.NDArray[np.uint64]


def error(ring: Ring, stream: Stream) -> Residues:
    """A fresh narrow Gaussian polynomial in the evaluation domain: (limbs, ring_dim)."""
    return ring.ntt(ring.from_signed(gaussian(stream, ring.ring_dim)))


def ternary_polynomial(ring: Ring, stream: Stream) -> Residues:
    """A fresh uniform ternary polynomial in the evaluation domain: (limbs, ring_dim)."""
    return ring.ntt(ring.from_signed(ternary(stream, ring.ring_dim)))


def gadget(parameters: Parameters, digit: int, limbs: int) -> tuple[int, ...]:
    """g_d as one constant per row of the first `limbs` limbs of Q, then P: P modulo q_j on those of digit d, 0
    elsewhere.

    Hybrid key switching, Han and Ki, ePrint 2019/688, Section 3. There one key serves all levels: at a lower one,
    residues modulo the moduli that are gone take no part, nor do the digits that lie in them. So a key for that level
    is what is left, and satisfies the same equation modulo the smaller Q*P.
    """
    special = math.prod(parameters.special_moduli)
    own = parameters.digits_at(limbs)[digit]
    moduli = parameters.moduli[:limbs] + parameters.special_moduli
    return tuple(special % q if j in own else 0 for j, q in enumerate(moduli))


class KeyProtocol:
    """What the protocols of evaluation keys have in common: a key for operations at `limbs` limbs or fewer, all of them
    by default. Instances do not depend on the limbs: there is one key of a rotation in a session, whatever they are.
    """

    session: Session
    limbs: int | None

    def __post_init__(self) -> None:
        n_limbs = self.session.parameters.n_limbs
        if self.limbs is not None and not 1 <= self.limbs <= n_limbs:
            raise LevelError(f"an evaluation key for {self.limbs} limbs; need 1 to {n_limbs}: see the key plan")

    @property
    def _limbs(self) -> int:
        return self.limbs or self.session.parameters.n_limbs

    @property
    def _digits(self) -> int:
        return len(self.session.parameters.digits_at(self._limbs))

    @property
    def _ring(self) -> Ring:
        return self.session.key_ring(self._limbs)
