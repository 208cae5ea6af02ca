"""Division by some of the moduli, rounded to nearest: a rescale, and the end of every key switch.

The residues modulo the dropped primes are lifted to the kept ones, centred (Halevi, Polyakov, Shoup, ePrint 2018/117),
and subtracted; what is left is divisible.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.ring import modular
from mhe.ring.basis import Lifting
from mhe.ring.modular import (
    IN_ROW,
    IN_ROWS,
    OUT_ROWS,
    VOID,
    Words,
    array_of,
    inlined,
    kernel,
    mul_lazy,
    reduce_once,
    reduce_twice,
    types,
)
from mhe.ring.parallel import Run, in_turn
from mhe.ring.ring import Ring, ring

Index = npt.NDArray[np.uint32]

NO_ROWS: Words = np.empty((0, 0), dtype=np.uint64)
"""Stands for no addend."""

IN_ORDER: Index = np.empty(0, dtype=np.uint32)
"""Stands for no permutation."""


@dataclass(frozen=True, eq=False)
class Division:
    """Division of (rows, ring_dim) residues modulo `kept` and `dropped` by the product of `dropped`, rounded."""

    kept: Ring
    dropped: Ring

    def __call__(self, x: Words, run: Run[Any] = in_turn) -> Words:
        """(kept limbs, ring_dim), evaluation domain."""
        n_kept = self.kept.n_limbs
        lifting = self.remainder(x[n_kept:], run)
        out = np.empty((n_kept, self.kept.ring_dim), dtype=np.uint64)

        def piece(chosen: slice) -> None:
            self.limbs(chosen, x[chosen], lifting, out)

        run(piece, pieces(0, n_kept, run))
        return out

    def remainder(self, dropped: Words, run: Run[Any] = in_turn) -> Lifting:
        """The residues modulo `dropped`, ready to be lifted to the limbs that are kept."""
        return Lifting(self.dropped.intt(dropped, run), self.dropped.moduli, self.kept.moduli)

    def limbs(
        self, chosen: slice, x: Words, remainder: Lifting, out: Words, addend: Words = NO_ROWS, index: Index = IN_ORDER
    ) -> None:
        """These limbs of the quotient: x, theirs alone, plus the addend (the same, or no rows), into out, of all limbs.

        index: position j of the result is taken from position index[j], as `Ring.automorphism` does.
        """
        lifted = np.empty_like(x)
        remainder.rows(chosen, lifted)
        for i, row in enumerate(lifted, chosen.start):
            self.kept.ntt_row(i, row)
        factors, ratios, words = (part[chosen] for part in _inverses(self.kept.moduli, self.dropped.modulus))
        divide_kernel(x, lifted, factors, ratios, words, addend, index, out[chosen])


LIMBS_AT_ONCE = 4
"""So many limbs go through all steps together: their rows fit the second cache, and what all limbs need is read half as
often."""


def pieces(start: int, stop: int, run: Run[Any]) -> list[slice]:
    """The limbs start .. stop in the portions in which they are gone through: single ones for several threads."""
    size = LIMBS_AT_ONCE if run is in_turn else 1
    return [slice(i, min(i + size, stop)) for i in range(start, stop, size)]


@lru_cache(maxsize=256)
def _inverses(moduli: tuple[int, ...], divisor: int) -> tuple[Words, Words, Words]:
    values, ratios = modular.constants([[pow(divisor, -1, p)] for p in moduli], moduli)
    return values.ravel(), ratios.ravel(), modular.words(moduli)


@lru_cache(maxsize=256)
def division(ring_dim: int, kept: tuple[int, ...], dropped: tuple[int, ...]) -> Division:
    return Division(ring(ring_dim, kept), ring(ring_dim, dropped))


@inlined
def _divide_row(
    x: Words, remainder: Words, w: np.uint64, ratio: np.uint64, p: np.uint64, addend: Words, out: Words
) -> None:
    four = p << np.uint64(2)
    if addend.size:
        for j in range(out.size):
            y = mul_lazy(x[j] + p - remainder[j], w, ratio, p) + addend[j]
            out[j] = reduce_twice(reduce_once(y, four), p)
    else:
        for j in range(out.size):
            out[j] = reduce_twice(mul_lazy(x[j] + p - remainder[j], w, ratio, p), p)


@kernel(VOID, IN_ROWS, IN_ROWS, IN_ROW, IN_ROW, IN_ROW, IN_ROWS, array_of(types.uint32, 1), OUT_ROWS)
def divide_kernel(
    x: Words, remainder: Words, factors: Words, ratios: Words, moduli: Words, addend: Words, index: Index, out: Words
) -> None:
    """out = (x - remainder) * factor + addend, of which entry j is taken from index[j]; either may be empty."""
    row = np.empty(index.size, dtype=np.uint64)
    nothing = row[:0]
    for i in range(out.shape[0]):
        added = addend[i] if addend.shape[0] else nothing
        if index.size:
            _divide_row(x[i], remainder[i], factors[i], ratios[i], moduli[i], added, row)
            for j in range(index.size):
                out[i, j] = row[index[j]]
        else:
            _divide_row(x[i], remainder[i], factors[i], ratios[i], moduli[i], added, out[i])
