"""Attacks that must fail on this project's protocols, and must succeed where the project refuses to tread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mhe.parameters import Parameters
from mhe.ring.ring import ring

Residues = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Recovery:
    """What an attack got.

    candidate: (ring_dim,) centred coefficients modulo the first modulus: the joint secret if the attack works.
    residual: rms of b + A modulo the first special modulus, relative to that of uniform residues: about 1 when
    b + A hides the secret, about 2^-50 when it is g*s + small.
    """

    candidate: npt.NDArray[np.int64]
    residual: float

    @property
    def succeeded(self) -> bool:
        """Whether the residual could not come from uniform residues, whose rms is within a few per cent of 1."""
        return self.residual < 0.5


def recover_secret(b: Residues, a: Residues, parameters: Parameters) -> Recovery:
    """Look for the joint secret in b + A, for two public aggregates of a relinearisation key generation.

    b: the first round's aggregate (h0), meant to be -u*a + g*s + e for an ephemeral u. a: the finished key's second
    polynomial (h1), a*s + e'. Both (digits, limbs of Q then P, ring_dim), in the evaluation domain. With u = s the
    uniform parts cancel: b_d + A_d = g_d*s + e + e'. The gadget g_d vanishes modulo the special moduli, which shows
    the errors; subtracting them and dividing by P on a limb of digit d leaves s.
    """
    n, limb = parameters.ring_dim, parameters.digit_limbs[0][0]
    q, p = parameters.moduli[limb], parameters.special_moduli[0]
    first = b.shape[1] - len(parameters.special_moduli)

    def row(index: int, modulus: int) -> npt.NDArray[np.int64]:
        one = ring(n, (modulus,))
        total = one.intt(one.add(b[0, index : index + 1], a[0, index : index + 1]))
        return np.array(one.to_integers(total), dtype=np.int64)

    errors = row(first, p)
    residual = float(np.sqrt(np.mean(errors.astype(np.float64) ** 2))) / (p / 12**0.5)
    special = 1
    for modulus in parameters.special_moduli:
        special = special * modulus % q
    scaled = row(limb, q).astype(object) - errors.astype(object)
    candidate = scaled * pow(special, -1, q) % q
    centred = np.array([int(c) - q if 2 * int(c) > q else int(c) for c in candidate], dtype=np.int64)
    return Recovery(centred, residual)
