"""Linear maps on slots, by their generalised diagonals: what a collective refresh can apply on its way, for no key.

A matrix m on vectors of period p is y = sum over r of d_r * rot_r(x), with rot_r(x)[s] = x[s + r] and the diagonal
d_r[s] = m[s, s + r] (indices modulo p). A map is a product of such factors, the first one applied first.

Source: Halevi and Shoup, "Algorithms in HElib", CRYPTO 2014, section 4.3 (diagonals); Mouchet, Troncoso-Pastoriza,
Bossuat, Hubaux, ePrint 2020/304 (a linear map inside the collective bootstrapping).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mhe.errors import ParameterError

Floats = npt.NDArray[np.float64]

_EXACT = 2.0**53
"""Integers below it are floats."""


@dataclass(frozen=True, eq=False)
class Factor:
    """y = sum over r of diagonals[r] * rot_(rotations[r])(x). diagonals: (rotations, period), read-only."""

    rotations: tuple[int, ...]
    diagonals: Floats

    @cached_property
    def integers(self) -> tuple[int, ...] | None:
        """One integer per rotation if every diagonal is a constant integer: then the map is exact and takes no limb."""
        constants = self.diagonals[:, 0]
        exact = (self.diagonals == constants[:, None]).all() and (constants == np.rint(constants)).all()
        return tuple(int(c) for c in constants) if exact and np.abs(constants).max() < _EXACT else None

    @cached_property
    def growth(self) -> float:
        """Largest sum of absolute values in a row: how much larger than the largest slot of x one of y can be."""
        return float(np.abs(self.diagonals).sum(axis=0).max())

    def __call__(self, x: Floats) -> Floats:
        turned = np.stack([np.roll(x, -r, axis=-1) for r in self.rotations], axis=-2)
        y: Floats = (turned * self.diagonals).sum(axis=-2)
        return y


@dataclass(frozen=True, eq=False)
class SlotMap:
    """A linear map on vectors of period `period` (a power of two). Equal if built of equal factors.

    Make one by `rotation`, `sum_of_rotations`, `replication`, `permutation`, `transposition`, `matrix`, and `then`.
    """

    period: int
    factors: tuple[Factor, ...]

    @classmethod
    def rotation(cls, period: int, by: int) -> SlotMap:
        """y[s] = x[s + by]. Takes no limb."""
        _check_period(period)
        return cls(period, (_factor({by % period: np.ones(period)}),))

    @classmethod
    def repeating(cls, period: int, factor: int = 1) -> SlotMap:
        """factor times what repeats after `period` slots: of the noise the rest goes, with no rotation. Takes no limb.

        Read at `factor` times the scale, it is the same message, to which later operations add that much less noise.
        """
        _check_period(period)
        return cls(period, (_factor({0: np.full(period, float(factor))}),))

    @classmethod
    def replication(cls, period: int, length: int) -> SlotMap:
        """The sum of all blocks of `length` slots, in every block: copies of the one that is not zero. Takes no limb.

        log2(period / length) factors 1 + rot of two diagonals each.
        """
        _check_period(period)
        if length < 1 or period % length or length == period:
            raise ParameterError(f"blocks of {length} slots in {period}; need a smaller power of two")
        steps = [length << k for k in range((period // length).bit_length() - 1)]
        return cls(period, tuple(_factor({0: np.ones(period), step: np.ones(period)}) for step in steps))

    @classmethod
    def sum_of_rotations(cls, period: int, by: Sequence[int]) -> SlotMap:
        """y[s] = the sum over r in `by` (which differ modulo the period) of x[s + r]. Takes no limb."""
        _check_period(period)
        steps = [r % period for r in by]
        if len(set(steps)) != len(steps) or not steps:
            raise ParameterError(f"rotations by {list(by)} of {period} slots; need at least one, all different")
        return cls(period, (_factor({step: np.ones(period) for step in steps}),))

    @classmethod
    def permutation(cls, index: Sequence[int] | npt.NDArray[np.integer]) -> SlotMap:
        """y[s] = x[index[s]], or 0 for an index of -1; one may occur several times or not at all (replication,
        selection).
        """
        taken = np.asarray(index)
        period = len(taken) if taken.ndim == 1 else 0
        _check_period(period)
        if taken.dtype.kind not in "iu" or taken.min() < -1 or taken.max() >= period:
            raise ParameterError(
                f"index is {taken.dtype} from {taken.min()} to {taken.max()}; need 0 to {period - 1}, or -1 for none"
            )
        kept = taken >= 0
        if not kept.any():
            raise ParameterError("no index is kept; need a map that keeps something")
        rotations = (taken - np.arange(period)) % period
        diagonals = {int(r): ((rotations == r) & kept).astype(np.float64) for r in np.unique(rotations[kept])}
        return cls(period, (_factor(diagonals),))

    @classmethod
    def transposition(cls, side: int, stages: int = 1) -> SlotMap:
        """Transposition of a (side, side) matrix held row by row; side a power of two.

        stages: how many factors; each swaps some of the bits of the row's number with those of the column's, with
        2^(bits + 1) - 1 diagonals, and takes one limb. 64 x 64: 127 diagonals in one stage, 30 in two.
        """
        bits = side.bit_length() - 1
        if side < 2 or side != 1 << bits or not 1 <= stages <= bits:
            raise ParameterError(f"side is {side}, stages is {stages}; need a power of two, and 1 to log2(side) stages")
        row, column = np.divmod(np.arange(side * side), side)
        total: SlotMap | None = None
        for group in np.array_split(np.arange(bits), stages):
            swapped = int(np.sum(1 << group))
            i = (row & ~swapped) | (column & swapped)
            j = (column & ~swapped) | (row & swapped)
            one = cls.permutation(i * side + j)
            total = one if total is None else total.then(one)
        assert total is not None
        return total

    @classmethod
    def matrix(cls, m: npt.ArrayLike) -> SlotMap:
        """y = m x, m: (period, period). Takes a limb, unless m is a sum of integer multiples of rotations."""
        values = np.asarray(m, dtype=np.float64)
        if values.ndim != 2 or values.shape[0] != values.shape[1] or not np.isfinite(values).all():
            raise ParameterError(f"matrix has shape {values.shape}; need a square one of finite numbers")
        period = len(values)
        _check_period(period)
        slots = np.arange(period)
        diagonals = {r: values[slots, (slots + r) % period] for r in range(period)}
        kept = {r: d for r, d in diagonals.items() if d.any()}
        if not kept:
            raise ParameterError("the matrix is zero; need one that keeps something")
        return cls(period, (_factor(kept),))

    def then(self, other: SlotMap) -> SlotMap:
        """This map first, `other` after it, as successive factors."""
        if other.period != self.period:
            raise ParameterError(f"maps on periods {self.period} and {other.period}; need one period")
        return SlotMap(self.period, self.factors + other.factors)

    def __call__(self, values: Floats) -> Floats:
        """The same in the clear: (..., period) -> (..., period)."""
        if values.shape[-1] != self.period:
            raise ParameterError(f"values have shape {values.shape}; the map is on {self.period} slots")
        for factor in self.factors:
            values = factor(values)
        return values

    @property
    def n_diagonals(self) -> int:
        """Products of a polynomial with a diagonal, or sums: what the map costs."""
        return sum(len(factor.rotations) for factor in self.factors)

    @property
    def levels(self) -> int:
        """Limbs that it takes: one for each factor that is not of integers."""
        return sum(factor.integers is None for factor in self.factors)

    @property
    def mean_growth(self) -> float:
        """How much larger independent slots become, in the root mean square."""
        return math.prod(math.sqrt(float(np.square(f.diagonals).sum(axis=0).mean())) for f in self.factors)

    @property
    def growth(self) -> float:
        """Bound on the largest slot of the result, and of the input's noise in it, relative to the largest before."""
        return math.prod(factor.growth for factor in self.factors)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that name the map."""
        digest = hashlib.sha256(b"mhe slot map" + self.period.to_bytes(8, "little"))
        for factor in self.factors:
            digest.update(np.array([len(factor.rotations), *factor.rotations], dtype="<i8").tobytes())
            digest.update(factor.diagonals.astype("<f8").tobytes())
        return digest.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlotMap) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"SlotMap(period={self.period}, diagonals={self.n_diagonals}, levels={self.levels})"


@dataclass(frozen=True)
class RefreshOutput:
    """One output of a refresh: the input of that number in the batch, mapped (as it is by default)."""

    source: int
    slot_map: SlotMap | None = None

    @property
    def levels(self) -> int:
        """Limbs that it has fewer than a fresh ciphertext."""
        return 0 if self.slot_map is None else self.slot_map.levels

    def period(self, of_input: int) -> int:
        """With which its slots repeat."""
        return of_input if self.slot_map is None else self.slot_map.period


def check_periods(outputs: Sequence[RefreshOutput], periods: Sequence[int]) -> None:
    """Raise ParameterError unless every output is of an input there is, whose period divides that of the map."""
    for output in outputs:
        if not 0 <= output.source < len(periods):
            raise ParameterError(f"an output of input {output.source}; need one of {len(periods)}, from 0")
        period = periods[output.source]
        if output.slot_map is not None and output.slot_map.period % period:
            raise ParameterError(
                f"a map on {output.slot_map.period} slots for a ciphertext of period {period}; need a multiple of it"
            )


def checked_outputs(outputs: Sequence[RefreshOutput], periods: Sequence[int]) -> tuple[RefreshOutput, ...]:
    """These outputs of inputs of these periods; every input as it is where none is given. Raises as `check_periods`."""
    chosen = tuple(outputs) or plain_outputs(len(periods))
    check_periods(chosen, periods)
    return chosen


def plain_outputs(count: int) -> tuple[RefreshOutput, ...]:
    """Every input as it is."""
    return tuple(RefreshOutput(i) for i in range(count))


def _factor(diagonals: dict[int, Floats]) -> Factor:
    values = np.stack(list(diagonals.values()))
    values.flags.writeable = False
    return Factor(tuple(diagonals), values)


def _check_period(period: int) -> None:
    if period < 1 or period & (period - 1):
        raise ParameterError(f"a map on {period} slots; need a power of two")
