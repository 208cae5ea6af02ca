"""Exact change of the residue basis of small integers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.errors import ParameterError
from mhe.ring import modular, vector_basis, vectors
from mhe.ring.modular import (
    BLOCK,
    IN_ROW,
    IN_ROWS,
    OUT_ROWS,
    VOID,
    Words,
    array_of,
    kernel,
    mul_lazy,
    reduce_twice,
    types,
    words,
)

MAX_SOURCE_LIMBS = 64
"""So many source moduli the bound on the rounding error in `lift` is worked out for."""


@dataclass(frozen=True, eq=False)
class _Plan:
    """Constants of one change of basis from q_1 .. q_k (product Q) to p_1 .. p_m; ratios are those of mul_lazy."""

    source: Words
    inverses: Words  # (Q/q_i)^-1 mod q_i
    inverse_ratios: Words
    reciprocals: npt.NDArray[np.float64]  # 1/q_i
    target: Words
    factors: Words  # (m, k + 1): Q/q_i mod p_j, and -Q mod p_j in the last column
    factor_ratios: Words
    fast: _FastPlan | None


@dataclass(frozen=True, eq=False)
class _FastPlan:
    """The same for `vector_basis`, in its arguments' order; y_i is cut into a lower and an upper piece where long."""

    n_rows: int
    source: tuple[Any, ...]
    target: tuple[npt.NDArray[Any], ...]  # one row for each target modulus


@lru_cache(maxsize=256)
def _plan(source: tuple[int, ...], target: tuple[int, ...]) -> _Plan:
    for p in source + target:
        modular.check_modulus(p)
    if not 1 <= len(source) <= MAX_SOURCE_LIMBS or not target:
        raise ParameterError(
            f"{len(source)} source and {len(target)} target moduli; need 1 to {MAX_SOURCE_LIMBS}, and at least 1"
        )
    q = prod(source)
    try:
        inverses, inverse_ratios = modular.constants([[pow(q // p, -1, p)] for p in source], source)
    except ValueError as error:
        raise ParameterError(f"source moduli {source} have a common factor; need distinct primes") from error
    factors, factor_ratios = modular.constants([[*(q // p for p in source), -q]] * len(target), target)
    return _Plan(
        words(source),
        inverses.ravel(),
        inverse_ratios.ravel(),
        np.array([1.0 / p for p in source]),
        words(target),
        factors,
        factor_ratios,
        _fast_plan(source, target, vectors.FLOAT_LIMIT),
    )


def _fast_plan(source: tuple[int, ...], target: tuple[int, ...], limit: np.uint64) -> _FastPlan | None:
    """limit: below it, moduli are computed with in float64. None if there are too many rows."""
    q = prod(source)
    long = [p.bit_length() > vector_basis.PIECE_BITS for p in source]
    n_rows = len(source) + sum(long) + 1
    if n_rows > vector_basis.MAX_ROWS:
        return None
    inverses = [pow(q // p, -1, p) for p in source]
    in_floats = [p < int(limit) for p in source]
    factors = [
        np.array([w - p if w > p // 2 else w], dtype=np.float64).view(np.uint64)[0] if floating else np.uint64(w)
        for w, p, floating in zip(inverses, source, in_floats, strict=True)
    ]
    ratios = words(modular.shoup(w, p) for w, p in zip(inverses, source, strict=True))
    weights = [
        w for p, cut in zip(source, long, strict=True) for w in (q // p, (q // p) << vector_basis.PIECE)[: 1 + cut]
    ]
    return _FastPlan(
        n_rows,
        (
            words(source),
            np.array(factors),
            ratios,
            np.array([1.0 / p for p in source]),
            np.array(in_floats),
            np.array(long),
        ),
        vector_basis.weights_for((*weights, -q), target, limit),
    )


def lift(x: Words, source: tuple[int, ...], target: tuple[int, ...]) -> Words:
    """Residues modulo `target` of the centred integers with residues x modulo `source`.

    (len(source), n) -> (len(target), n), coefficient domain, any n. Exact for integers below Q/4 in absolute value,
    where Q is the product of `source` (up to 64 moduli). Halevi, Polyakov and Shoup, ePrint 2018/117, section 2.2.

    Why exact: with y_i = x_i (Q/q_i)^-1 mod q_i, the integer z satisfies sum_i y_i Q/q_i = z + vQ for an integer v, so
    sum_i y_i/q_i = v + z/Q is within 1/4 of v. In double precision each of the k <= 64 terms below 1 comes with three
    roundings, and k - 1 additions of numbers below k round k - 1 times more: an error below (3k + k^2) 2^-53 < 2^-40,
    with fused multiply-adds and terms in two pieces below twice that. The computed sum is within 1/4 + 2^-39 < 1/2 of
    v, and rounds to v.

    Raises ParameterError if x is not (len(source), n), or the moduli do not fit.
    """
    lifting = Lifting(x, tuple(source), tuple(target))
    out = np.empty((len(target), x.shape[1]), dtype=np.uint64)
    lifting.rows(slice(None), out)
    return out


class Lifting:
    """A `lift` of which the rows are made one by one, when they are needed: a row that is used at once is still in the
    cache. Raises as `lift`.
    """

    def __init__(self, x: Words, source: tuple[int, ...], target: tuple[int, ...]) -> None:
        self._plan = plan = _plan(source, target)
        x = modular.contiguous(x)
        if len(x) != len(source):
            raise ParameterError(f"{len(x)} rows of residues; need {len(source)}, one per source modulus")
        self._fast = plan.fast if x.shape[1] % vector_basis.COLUMNS == 0 else None
        if self._fast is not None:
            self._floats = np.empty((self._fast.n_rows, x.shape[1]))
            arguments: tuple[Any, ...] = (x, *self._fast.source, self._floats)
            vector_basis.terms_kernel(*arguments)
        else:
            self._words = np.empty((len(source) + 1, x.shape[1]), dtype=np.uint64)
            _terms_kernel(x, plan.source, plan.inverses, plan.inverse_ratios, plan.reciprocals, self._words)

    def rows(self, chosen: slice, out: Words) -> None:
        """The residues modulo these of the target moduli, into `out` (their number, n)."""
        if self._fast is not None:
            vector_basis.weighted_sums_kernel(self._floats, out, *(part[chosen] for part in self._fast.target))
            return
        plan = self._plan
        modular.combine_kernel(self._words, plan.factors[chosen], plan.factor_ratios[chosen], plan.target[chosen], out)


@kernel(VOID, IN_ROWS, IN_ROW, IN_ROW, IN_ROW, array_of(types.float64, 1), OUT_ROWS)
def _terms_kernel(
    x: Words,
    moduli: Words,
    factors: Words,
    factor_ratios: Words,
    reciprocals: npt.NDArray[np.float64],
    terms: Words,
) -> None:
    """terms = y_1 .. y_k, v."""
    total = np.empty(BLOCK, dtype=np.float64)
    for start in range(0, x.shape[1], BLOCK):
        size = min(BLOCK, x.shape[1] - start)
        total[:] = 0.5
        for i in range(x.shape[0]):
            p, w, w_ratio, reciprocal = moduli[i], factors[i], factor_ratios[i], reciprocals[i]
            residues, scaled = x[i, start : start + size], terms[i, start : start + size]
            for j in range(size):
                y = reduce_twice(mul_lazy(residues[j], w, w_ratio, p), p)
                scaled[j] = y
                total[j] += np.float64(y) * reciprocal
        for j in range(size):
            terms[x.shape[0], start + j] = np.uint64(total[j])
