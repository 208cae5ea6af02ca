"""A slot map as an exactly linear map on integer polynomials, hence on residues: needs neither key nor secret.

Vectors of period p lie in the polynomials of Y = X^(N/2p): a ring of dimension 2p of its own, whose slots they are.
There a factor sum_r d_r rot_r becomes

    x -> sum over r of encode(d_r) * sigma_r(x),

with sigma_r the automorphism that rotates by r and encode(d_r) an *integer* polynomial with slots close to Delta d_r.
Integers throughout, so that sums of masks are mapped to sums of mapped masks without any error. Delta is one of the
last moduli per factor; the product of these is divided off at the end, with a rounding. Factors that are integers need
no Delta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mhe.encoding import encode_coefficients
from mhe.errors import LevelError, ParameterError
from mhe.protocols.common import Residues
from mhe.ring.basis import lift
from mhe.ring.galois import galois_element
from mhe.ring.ntt import MIN_RING_DIM
from mhe.ring.ring import Ring, ring
from mhe.slot_map import Factor, SlotMap

_MAPS = 8
"""Maps kept: (diagonals, limbs, 2 period) words each, up to tens of megabytes."""

_EMBEDDING_ERROR = 8 * 2.0**-53
"""Times log2 of the dimension and the largest slot: of a coefficient, see mhe.encoding.embed."""


@lru_cache(maxsize=_MAPS)
def ring_map(slot_map: SlotMap, ring_dim: int, moduli: tuple[int, ...]) -> RingMap:
    """Raises ParameterError if the period does not fit the ring, LevelError if the map takes all limbs."""
    if 2 * slot_map.period > ring_dim:
        raise ParameterError(f"the map is on {slot_map.period} slots; need at most {ring_dim // 2}, those of the ring")
    if slot_map.levels >= len(moduli):
        raise LevelError(f"the map takes {slot_map.levels} limbs of {len(moduli)}; compose it of fewer factors")
    return RingMap(slot_map, ring_dim, moduli)


@dataclass(frozen=True, eq=False)
class _IntegerStep:
    """One factor of integers: the sum of c * sigma_t(x)."""

    elements: tuple[int, ...]
    integers: tuple[int, ...]

    def apply(self, ring_: Ring, x: Residues) -> Residues:
        total: Residues | None = None
        for t, c in zip(self.elements, self.integers, strict=True):
            term = x if t == 1 else ring_.automorphism(x, t)
            term = term if c == 1 else ring_.multiply_constant(term, c)
            total = term if total is None else ring_.add(total, term)
        assert total is not None
        return total


@dataclass(frozen=True, eq=False)
class _EncodedStep:
    """One other factor: the sum of encode(d) * sigma_t(x)."""

    elements: tuple[int, ...]
    encoded: tuple[Residues, ...]

    def apply(self, ring_: Ring, x: Residues) -> Residues:
        # one diagonal after another, each read from end to end: together they are larger than the caches
        total, turned = np.zeros_like(x), np.empty_like(x)
        for t, diagonal in zip(self.elements, self.encoded, strict=True):
            ring_.multiply_add(total, ring_.automorphism(x, t, turned), diagonal)
        return total


class RingMap:
    """The map on one ring; get it from `ring_map`. stride: a message has coefficients at multiples of it only."""

    def __init__(self, slot_map: SlotMap, ring_dim: int, moduli: tuple[int, ...]) -> None:
        self.slot_map = slot_map
        self.dim = max(2 * slot_map.period, MIN_RING_DIM)
        self.stride = ring_dim // self.dim
        self._ring = ring(self.dim, moduli)
        limbs = len(moduli) - slot_map.levels
        self._kept = self._ring.prefix(limbs)
        self._dropped = moduli[limbs:]
        deltas = list(self._dropped)
        self._steps = tuple(self._step(f, 0 if f.integers is not None else deltas.pop()) for f in slot_map.factors)

    @property
    def limbs(self) -> int:
        """Of the result."""
        return self._kept.n_limbs

    def _step(self, factor: Factor, delta: int) -> _IntegerStep | _EncodedStep:
        elements = tuple(galois_element(r, self.dim) for r in factor.rotations)
        if factor.integers is not None:
            return _IntegerStep(elements, factor.integers)
        encoded = (self._encode(np.resize(d, self.dim // 2), float(delta)) for d in factor.diagonals)
        return _EncodedStep(elements, tuple(encoded))

    def _encode(self, diagonal: npt.NDArray[np.float64], delta: float) -> Residues:
        coefficients = encode_coefficients(diagonal, self.dim, delta)
        if coefficients.dtype == np.int64:
            return self._ring.ntt(self._ring.from_signed(coefficients))  # type: ignore[arg-type]
        return self._ring.ntt(self._ring.from_integers([int(c) for c in coefficients]))

    def __call__(self, x: Residues) -> Residues:
        """Coefficients at multiples of the stride: (limbs, dim) -> (result's limbs, dim).

        The division rounds: of a sum of k inputs, the result is off the sum of the results by at most (k + 1)/2.
        """
        thin = np.ascontiguousarray(x)
        inner = self.dim // (2 * self.slot_map.period)
        if inner > 1:
            # the smallest ring is larger than the map's own
            thin = np.zeros_like(x)
            thin[:, ::inner] = x[:, ::inner]
        y = self._ring.ntt(thin)
        for step in self._steps:
            y = step.apply(self._ring, y)
        return self._divided(self._ring.intt(y))

    def _divided(self, x: Residues) -> Residues:
        """Divided by the dropped moduli and rounded, in the coefficient domain."""
        if not self._dropped:
            return x
        kept = self._kept
        remainder = lift(x[kept.n_limbs :], self._dropped, kept.moduli)
        inverses = tuple(pow(math.prod(self._dropped), -1, p) for p in kept.moduli)
        return kept.multiply_constant(kept.subtract(x[: kept.n_limbs], remainder), inverses)

    def encoding_error(self) -> float:
        """How far a slot of the result can be off, relative to the largest slot of the input.

        A coefficient of encode(d_r) is off by 1/2 for its rounding and by the float64 transform's error, a slot by at
        most the sum of those of all coefficients, and successive factors by the product.
        """
        deltas, exact, worst = list(self._dropped), 1.0, 1.0
        for factor in self.slot_map.factors:
            off = 0.0
            if factor.integers is None:
                transform = _EMBEDDING_ERROR * math.log2(self.dim) * float(np.abs(factor.diagonals).max())
                off = len(factor.rotations) * self.dim * (0.5 / deltas.pop() + transform)
            exact, worst = exact * factor.growth, worst * (factor.growth + off)
        return worst - exact
