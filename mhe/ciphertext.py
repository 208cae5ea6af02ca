"""Ciphertexts and plaintexts: as evaluators hold them, and as arrays of ring elements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.errors import ParameterError

Residues = npt.NDArray[np.uint64]  # (limbs, ring_dim)


@dataclass(frozen=True, eq=False)
class RingCiphertext:
    """(c0, c1) with c0 + c1*s = scale * message + error, modulo the first `limbs` moduli of the chain.

    c0, c1: (limbs, ring_dim) uint64 residues, in the evaluation (NTT) domain.
    scale: the exact factor between slot values and the plaintext polynomial.
    key_id: the collective (or receiver's) key that it is under.
    """

    c0: Residues
    c1: Residues
    scale: float
    key_id: str

    def __post_init__(self) -> None:
        if self.c0.shape != self.c1.shape or self.c0.ndim != 2:
            raise ParameterError(f"c0 {self.c0.shape} and c1 {self.c1.shape}; need two equal (limbs, ring_dim) arrays")

    @property
    def limbs(self) -> int:
        return len(self.c0)

    def __repr__(self) -> str:
        return f"RingCiphertext(limbs={self.limbs}, scale=2^{math.log2(self.scale):.2f}, key={self.key_id})"


@dataclass(frozen=True, eq=False)
class Ciphertext:
    """A ciphertext in an evaluator's own form.

    handle: the evaluator's object; only the backend that made it may look inside.
    limbs: how many moduli of the chain are left; a rescale consumes one.
    period: its slots repeat with this period (n_slots when they do not repeat).
    """

    handle: Any
    limbs: int
    scale: float
    period: int
    key_id: str

    def __repr__(self) -> str:
        return (
            f"Ciphertext(limbs={self.limbs}, scale=2^{math.log2(self.scale):.2f}, period={self.period}, "
            f"key={self.key_id})"
        )


@dataclass(frozen=True, eq=False)
class Plaintext:
    """Encoded slot values in an evaluator's own form."""

    handle: Any
    limbs: int
    scale: float
    period: int

    def __repr__(self) -> str:
        return f"Plaintext(limbs={self.limbs}, scale=2^{math.log2(self.scale):.2f}, period={self.period})"
