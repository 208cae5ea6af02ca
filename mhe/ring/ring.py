"""`Ring`: polynomials modulo X^N + 1 and a product of primes, as arrays of residues."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mhe.errors import ParameterError
from mhe.ring import modular, ntt
from mhe.ring.modular import Words
from mhe.ring.parallel import Run, in_turn
from mhe.ring.primes import is_prime
from mhe.ring.residues import Residues


@lru_cache(maxsize=256)
def ring(ring_dim: int, moduli: tuple[int, ...]) -> Ring:
    """The ring of dimension ring_dim (a power of two, at least 8) over distinct primes = 1 modulo 2*ring_dim.

    Raises ParameterError if a modulus is not such a prime of at most 61 bits.
    """
    return Ring(ring_dim, moduli)


@lru_cache(maxsize=256)
def automorphism_index(ring_dim: int, t: int) -> npt.NDArray[np.uint32]:
    """Where X -> X^t takes each value from: slot i holds a at psi^e, and a(X^t) at psi^e is a at psi^(et)."""
    order = ntt.bit_reversal(ring_dim)
    exponents = (2 * order + 1) * np.uint64(t) % np.uint64(2 * ring_dim)
    index: npt.NDArray[np.uint32] = order[exponents >> np.uint64(1)].astype(np.uint32)
    return index


class Ring(Residues):
    """Arithmetic of one ring; get it from `ring`, which keeps one object for each.

    A polynomial is a uint64 array (limbs, N), C-contiguous: row i holds residues modulo moduli[i], always below it.
    It is in the coefficient domain or in the evaluation domain (see mhe/ring/ntt.py for the order), and the caller
    knows which. `add`, `subtract`, `negate` and `multiply_constant` serve both, `multiply` and `multiply_add` are
    products of polynomials in the evaluation domain. The conversions from and to integers take any number of columns.

    Raises, everywhere: ParameterError if an array is not a uint64 array of the ring's shape.
    """

    def __init__(self, ring_dim: int, moduli: tuple[int, ...]) -> None:
        super().__init__(moduli)
        ntt.check_ring_dim(ring_dim)
        for p in moduli:
            if p % (2 * ring_dim) != 1 or not is_prime(p):
                raise ParameterError(f"modulus {p} is not a prime that is 1 modulo {2 * ring_dim}; use ntt_primes")
        self.ring_dim = ring_dim
        self._tables = tuple(ntt.tables(ring_dim, p) for p in moduli)

    def __repr__(self) -> str:
        return f"Ring(ring_dim={self.ring_dim}, limbs={self.n_limbs}, bits={self.modulus.bit_length()})"

    def prefix(self, limbs: int) -> Ring:
        """The ring of the first `limbs` moduli. Raises ParameterError if there are not that many, or limbs < 1."""
        if not 1 <= limbs <= self.n_limbs:
            raise ParameterError(f"limbs is {limbs}; need 1 to {self.n_limbs}")
        return ring(self.ring_dim, self.moduli[:limbs])

    def ntt(self, x: Words) -> Words:
        """Coefficient to evaluation domain."""
        out = self._operand(x).copy()
        self.ntt_in_place(out)
        return out

    def ntt_in_place(self, x: Words) -> None:
        """Coefficient to evaluation domain, for an array that the caller has just made and nobody else has seen."""
        for row, table in zip(self._operand(x), self._tables, strict=True):
            ntt.forward(row, table)

    def ntt_row(self, i: int, row: Words) -> None:
        """Coefficient to evaluation domain of limb i alone, in place: (N,), C-contiguous."""
        ntt.forward(row, self._tables[i])

    def intt_row(self, i: int, row: Words) -> None:
        """Evaluation to coefficient domain of limb i alone, in place: (N,), C-contiguous."""
        ntt.inverse(row, self._tables[i])

    def intt(self, x: Words, run: Run[int] = in_turn) -> Words:
        """Evaluation to coefficient domain."""
        out = self._operand(x).copy()
        run(lambda i: ntt.inverse(out[i], self._tables[i]), range(self.n_limbs))
        return out

    def automorphism(self, x: Words, t: int, out: Words | None = None) -> Words:
        """x(X^t) for odd t of any sign, in the EVALUATION domain, where it is a permutation of the values.

        out: an array of the same shape to write to, that the caller has just made.
        """
        x = self._operand(x)
        out = np.empty_like(x) if out is None else self._operand(out)
        modular.permute_kernel(x, self._index(t), out)
        return out

    def automorphism_add(self, acc: Words, x: Words, t: int) -> None:
        """acc += x(X^t), as `automorphism`, in place; acc must be C-contiguous and writable."""
        x = self._operand(x)
        self._check_accumulator(acc, x)
        modular.permute_add_kernel(acc, x, self._index(t), self._moduli)

    def times_i(self, x: Words, power: int) -> Words:
        """x * X^(N power / 2), in the evaluation domain: a root of -1 to this power at one half of the places, its
        inverse to this power at the other.
        """
        x = self._operand(x)
        roots = [int(table.roots[1]) for table in self._tables]
        factors = (
            tuple(pow(root, sign * power, p) for root, p in zip(roots, self.moduli, strict=True)) for sign in (1, -1)
        )
        halves = zip(np.split(x, 2, axis=1), factors, strict=True)
        # place i holds the value at psi^(2 bitrev(i) + 1), and bitrev(i) is odd from N/2 on
        return np.concatenate([self._scaled(np.ascontiguousarray(half), each) for half, each in halves], axis=1)

    def _scaled(self, x: Words, factors: tuple[int, ...]) -> Words:
        """Any number of columns, times one factor for each limb."""
        constants, ratios = modular.constants([[factor] for factor in factors], self.moduli)
        out = np.empty_like(x)
        modular.scale_kernel(x, constants.ravel(), ratios.ravel(), self._moduli, out)
        return out

    def _index(self, t: int) -> npt.NDArray[np.uint32]:
        if t % 2 == 0:
            raise ParameterError(f"t is {t}; X -> X^t is an automorphism for odd t only")
        return automorphism_index(self.ring_dim, t % (2 * self.ring_dim))

    def _operand(self, x: Words) -> Words:
        if isinstance(x, np.ndarray) and x.shape != (self.n_limbs, self.ring_dim):
            raise ParameterError(f"operand has shape {x.shape}; need {(self.n_limbs, self.ring_dim)}")
        return modular.contiguous(x)
