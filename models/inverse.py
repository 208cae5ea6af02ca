"""The inverse of a positive definite matrix by products alone, when only bounds on its spectrum are public.

Newton-Schulz with scaled steps. From Y_0 = y_0 I and E_0 = I - M Y_0,

    Y_j+1 = c_j Y_j (I + E_j),    E_j+1 = I - M Y_j+1 = c_j E_j^2 - (c_j - 1) I.

With the spectrum of M in [bound / condition, bound], y_0 and c_j = 2 / (2 - r_j^2) keep that of E_j in [-r_j, r_j]:
r_j+1 = c_j - 1 is the smallest possible, E_j the Chebyshev polynomial of degree 2^j, and about
log2(sqrt(condition) log(2 / error) / 2) rounds do where unscaled steps take log2(condition log(1 / error)). Both
products of a round have one factor in common. What is made of a smaller eigenvalue is a smaller one than its inverse,
never a larger one, and at most `largest`.

Schulz, "Iterative Berechnung der reziproken Matrix", ZAMM 13 (1933); Pan and Schreiber, "An improved Newton iteration
for the generalized inverse of a matrix, with applications", SIAM J. Sci. Stat. Comput. 12 (1991), section 4 (scaling).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mhe.errors import ParameterError

Floats = npt.NDArray[np.float64]

MAX_CONDITION = 1e5
"""Linear maps in a refresh are exact to about 2^-43, an error that the rounds make `condition` times as large."""


@dataclass(frozen=True)
class InverseSchedule:
    """bound: on the spectrum. condition: bound over the smallest eigenvalue. error: of M Y - I, in its largest
    eigenvalue.
    """

    bound: float
    condition: float
    error: float

    def __post_init__(self) -> None:
        if not 1 < self.condition <= MAX_CONDITION:
            raise ParameterError(
                f"the condition is {self.condition:g}; need above 1 and at most {MAX_CONDITION:g}, beyond which the "
                "inverse is lost in rounding: use a larger l2, or leave out columns that others determine"
            )

    @property
    def start(self) -> float:
        """y_0."""
        return 2 / (self.bound * (1 + 1 / self.condition))

    @cached_property
    def factors(self) -> tuple[float, ...]:
        """c_j of every round."""
        factors, r = [], (self.condition - 1) / (self.condition + 1)
        while r > self.error:
            factors.append(2 / (2 - r**2))
            r = factors[-1] - 1
        return tuple(factors)

    @property
    def rounds(self) -> int:
        return len(self.factors)

    @property
    def largest(self) -> float:
        """Bound on the spectrum of every Y_j, for any spectrum of M in [0, bound]."""
        return self.start * math.prod(2 * c for c in self.factors)

    def __call__(self, matrix: Floats) -> Floats:
        """The same in the clear: symmetric (n, n) -> (n, n)."""
        eye = np.eye(len(matrix))
        y, e = self.start * eye, eye - self.start * matrix
        for c in self.factors:
            y, e = c * (y + y @ e), c * (e @ e) - (c - 1) * eye
        return np.asarray(y, dtype=np.float64)
