"""Tables of discrete Gaussians on the integers, and how to build wide ones from narrow ones. No randomness here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache
from math import ceil, sqrt

import numpy as np
import numpy.typing as npt

from mhe.errors import ParameterError
from mhe.ring.modular import Words, words

TABLE_BITS = 127
"""Precision of a cumulative table: a word less its sign bit, and a second word that is rarely needed."""

_WORD_BITS = 63
_GUIDE_BITS = 12
GUIDE_SHIFT = _WORD_BITS - _GUIDE_BITS
"""The leading bits that select a bin of the guide are those above this one."""

BASE_STD = 34.0
"""Smallest standard deviation that wide Gaussians are built from; MAX_FACTOR depends on it."""

MAX_FACTOR = 15
"""Largest integer factor k of the convolution z + k*y.

z + k*y is within (1 + eps)/(1 - eps) of the discrete Gaussian of variance s_z^2 + k^2 s_y^2 if
1 / sqrt(1/s_z^2 + 1/(k s_y)^2) >= k * eta(eps), where eta is the smoothing parameter of the integers in units of
standard deviations (Micciancio and Peikert, "Hardness of SIS and LWE with small parameters", CRYPTO 2013, theorem 3.3;
Micciancio and Walter, "Gaussian sampling over the integers", CRYPTO 2017, section 4). With s_z, s_y >= BASE_STD it is
enough that sqrt(k^2 + 1) <= BASE_STD / eta, and eta(2^-128) <= sqrt(ln(2 + 2^129) / 2) / pi = 2.129 (Micciancio and
Regev, "Worst-case to average-case reductions based on Gaussian measures", 2007, lemma 3.3): k <= 15.
"""

WIDE_TAIL = 13.5
"""Where the narrow parts of a wide Gaussian are cut off, in standard deviations: a tail of 2^-135 in all."""

MIN_STD = 32.0
MAX_STD = 2.0**400
"""Range of wide Gaussians: twice as many bits of variance still fit a float."""

_STD_STEP = 0.25

_CHUNK_LIMIT = 1 << 62


@dataclass(frozen=True, eq=False)
class Table:
    """Cumulative distribution of |x| for a discrete Gaussian x, cut off at +-bound.

    thresholds: T_m = 2^127 * P(|x| <= m) for m = 0 .. bound-1: a uniform 127-bit number u gives |x| = #{m: u >= T_m}.
    high: (bound,), the upper 63 bits of the thresholds; enough unless the first word's 63 bits equal one of them.
    guide: for each value of the leading bits of u, how many thresholds are surely passed.
    """

    bound: int
    thresholds: tuple[int, ...]
    high: Words
    guide: npt.NDArray[np.int32]


@lru_cache(maxsize=64)
def table(std: float, tail: float) -> Table:
    """Table of the discrete Gaussian with P(x) ~ exp(-x^2 / (2 std^2)) for |x| <= ceil(tail * std)."""
    bound = ceil(tail * std)
    with localcontext() as context:
        context.prec = 60
        exponent = -1 / (2 * Decimal(std) ** 2)
        weights = [Decimal(1)] + [2 * (exponent * m * m).exp() for m in range(1, bound + 1)]
        total = sum(weights)
        thresholds, passed = [], Decimal(0)
        for weight in weights[:-1]:
            passed += weight
            thresholds.append(min(int(passed / total * 2**TABLE_BITS), 2**TABLE_BITS - 1))
    high = words(t >> 64 for t in thresholds)
    starts = words(i << (GUIDE_SHIFT) for i in range(1 << _GUIDE_BITS))
    # A threshold equal to a bin's first value must be looked at, for it may be undecided.
    guide = np.searchsorted(high, starts, side="left").astype(np.int32)
    return Table(bound, tuple(thresholds), high, guide)


@dataclass(frozen=True)
class Convolution:
    """x = z_0 + k_1 (z_1 + k_2 (z_2 + ...)), with every z a discrete Gaussian of standard deviation base_std."""

    base_std: float
    factors: tuple[int, ...]

    @property
    def std(self) -> float:
        return self.base_std * _spread(self.factors)

    @property
    def bound(self) -> int:
        """Largest |x| there is."""
        total = base = ceil(WIDE_TAIL * self.base_std)
        for k in reversed(self.factors):
            total = base + k * total
        return total

    def chunks(self) -> list[tuple[tuple[int, ...], int]]:
        """The sum cut into runs that fit an int64: x = c_0 + K_0 (c_1 + K_1 (...)).

        Each run is (factors, K): c = z + f_1 (z' + f_2 (z'' + ...)) with the run's factors; the last K is 1.
        """
        base = ceil(WIDE_TAIL * self.base_std)
        runs: list[tuple[tuple[int, ...], int]] = []
        inside: list[int] = []
        reach, weight = base, 1
        for k in self.factors:
            weight *= k
            if reach + weight * base >= _CHUNK_LIMIT:
                runs.append((tuple(inside), weight))
                inside, reach, weight = [], base, 1
            else:
                inside.append(k)
                reach += weight * base
        return [*runs, (tuple(inside), 1)]


def convolution(std: float) -> Convolution:
    """The shortest convolution with a standard deviation of at least `std`, and at most 1 per cent above it.

    Raises ParameterError if std is below 32 or above 2^400.
    """
    if not MIN_STD <= std <= MAX_STD:
        raise ParameterError(f"standard deviation is {std}; need {MIN_STD} to {MAX_STD:.3g}")
    factors: tuple[int, ...] = ()
    while std >= 2 * BASE_STD * _spread(factors):
        factors = (MAX_FACTOR, *factors)
    if factors:
        inner = factors[1:]
        factors = (max(k for k in range(1, MAX_FACTOR + 1) if std >= BASE_STD * _spread((k, *inner))), *inner)
    base = ceil(std / _spread(factors) / _STD_STEP) * _STD_STEP
    return Convolution(base, factors)


def _spread(factors: Sequence[int]) -> float:
    """Standard deviation of the convolution in units of that of its parts."""
    variance = 1.0
    for k in reversed(factors):
        variance = 1.0 + k * k * variance
    return sqrt(variance)
