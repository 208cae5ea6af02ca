"""What operations cost: the work in them, in closed form, and the seconds that a unit of it takes on a machine.

The work of an operation follows from hybrid key switching (`mhe.backend.native.key_switching`) and from the protocols
(`mhe.protocols.refresh`): transforms and products of single limbs, the latter bound by memory. Unit: one transform of a
limb below 2^50 in a ring of dimension 2^14. How many seconds a unit takes differs a little from operation to operation,
ring to ring and with the number of limbs: that is what is measured, once for each machine, and looked up here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from mhe.parameters import Parameters, Shape

FAST_BITS = 48
"""Primes next to 2^48 stay below 2^49, and are computed with in float64 (`mhe.ring.vectors`)."""

TRANSFORM, WIDE_TRANSFORM = 1.0, 1.37
"""Work for a limb below 2^50, and for a wider one, whose arithmetic is in 64-bit words: of a transform. These and the
next two are measured by `python -m benchmarks.limbs`."""

PRODUCT, WIDE_PRODUCT = 0.26, 0.39
"""The same: of a product that is added up."""

LIFT = 0.37
"""Of one limb's part in one limb of a change of basis, whatever their sizes."""

PASS = 0.13
"""Of one limb that is read, and written: an addition, a check, a copy, a turn."""

_UNIT_DIM = 1 << 14


@dataclass(frozen=True)
class Chain:
    """Sizes of all limbs, and digits: what work depends on."""

    ring_dim: int
    limb_bits: tuple[int, ...]
    special_bits: tuple[int, ...]
    digits: int

    @classmethod
    def of_shape(cls, shape: Shape) -> Chain:
        return cls(shape.ring_dim, shape.limb_bits, shape.all_special_bits, shape.digits)

    @classmethod
    def of(cls, parameters: Parameters) -> Chain:
        limbs, special = (tuple(map(_bits, some)) for some in (parameters.moduli, parameters.special_moduli))
        return cls(parameters.ring_dim, limbs, special, parameters.digits)


def _bits(prime: int) -> int:
    return round(math.log2(prime))


@dataclass(frozen=True)
class Work:
    """Units of work of every operation on one chain, by its name in `mhe.backend.tracking` or `mhe.tracking_party`."""

    chain: Chain
    _known: dict[tuple[str, int], float] = field(default_factory=dict, repr=False, compare=False)

    def of(self, name: str, limbs: int) -> float:
        """Of one operation at so many limbs."""
        found = self._known.get((name, limbs))
        if found is None:
            found = self._known[name, limbs] = self._of(name, limbs)
        return found

    def _of(self, name: str, n: int) -> float:
        both = 2 * n * self._pass
        full = len(self.chain.limb_bits)
        if name in ("add", "add_plain"):
            return both if name == "add" else both / 2
        if name == "encode":
            return self._transforms(1) + self._transforms(n)
        if name == "multiply_accumulate_plain":
            return self._products(n)
        if name == "multiply_accumulate":
            return 2 * self._products(n)
        if name in ("rotate", "relinearise", "conjugate"):
            return self._decompose(n) + self._inner(n) + self._divide(n)
        if name == "decompose":
            return self._decompose(n)
        if name == "rotate_hoisted":
            return self._inner(n) + self._divide(n)
        if name == "rotate_and_sum":
            return self._decompose(n) + self._inner(n) + 3 * (n + self._n_special) * self._pass
        if name == "rotated_sum":
            return self._divide(n)
        if name == "rescale":
            return 2 * (self._transforms(n) + n * self._lift)
        if name in ("rerandomise", "own_encryption"):
            # an encryption at one limb more: three small polynomials, two products, and their division
            up = min(n + 1, full)
            return 3 * self._transforms(up) + self._products(up) + 2 * (self._transforms(up) + n * self._lift)
        if name == "mask":
            return self._transforms(n) + self._products(n) / 2 + full * self._pass
        if name in ("fresh", "mapped_fresh"):
            return self._transforms(n) + self._products(n) / 2 + 4 * n * self._pass
        if name in ("lift", "mapped_lift"):
            return self._transforms(full) + max(full - n, 1) * n * self._lift
        if name in ("send", "receive", "aggregate"):
            return n * self._pass
        if name in ("relin_key", "rotation_key"):
            return self._key(4 if name == "relin_key" else 1)
        raise KeyError(name)

    def _key(self, rows: int) -> float:
        """A share of a key and its end: for each digit errors, products and common randomness, modulo Q*P."""
        limbs = len(self.chain.limb_bits)
        one = self._transforms(limbs) + self._special_transforms + self._products(limbs) + self._special_products
        return rows * self.chain.digits * one

    def _decompose(self, limbs: int) -> float:
        """Back to coefficients, then every digit to all the limbs that are not its own: each limb is the own one of one
        digit, which pays for the way back.
        """
        width = self._digit_width
        whole, rest = divmod(limbs, width)
        lifts = limbs * (limbs + self._n_special) - whole * width**2 - rest**2
        transforms = self._active_digits(limbs) * (self._transforms(limbs) + self._special_transforms)
        return transforms + lifts * self._lift

    def _inner(self, limbs: int) -> float:
        """Products with the key."""
        return self._active_digits(limbs) * (self._products(limbs) + self._special_products)

    def _divide(self, limbs: int) -> float:
        """Both halves divided by P."""
        lifts = 2 * self._n_special * limbs * self._lift
        return 2 * (self._special_transforms + self._transforms(limbs)) + lifts + self._products(limbs)

    def _active_digits(self, limbs: int) -> int:
        return -(-limbs // self._digit_width)

    @cached_property
    def _digit_width(self) -> int:
        return -(-len(self.chain.limb_bits) // self.chain.digits)

    @property
    def _n_special(self) -> int:
        return len(self.chain.special_bits)

    def _transforms(self, limbs: int) -> float:
        return self._sum(self.chain.limb_bits[:limbs], self._transform)

    def _products(self, limbs: int) -> float:
        """A plaintext times both halves of a ciphertext."""
        return 2 * self._sum(self.chain.limb_bits[:limbs], self._product)

    @cached_property
    def _special_transforms(self) -> float:
        return self._sum(self.chain.special_bits, self._transform)

    @cached_property
    def _special_products(self) -> float:
        return 2 * self._sum(self.chain.special_bits, self._product)

    @staticmethod
    def _sum(bits: tuple[int, ...], work: tuple[float, float]) -> float:
        wide = sum(b > FAST_BITS + 1 for b in bits)
        return (len(bits) - wide) * work[0] + wide * work[1]

    @cached_property
    def _transform(self) -> tuple[float, float]:
        """Of a limb below 2^50, of a wider one."""
        n = self.chain.ring_dim
        size = n * math.log2(n) / (_UNIT_DIM * math.log2(_UNIT_DIM))
        return size * TRANSFORM, size * WIDE_TRANSFORM

    @cached_property
    def _product(self) -> tuple[float, float]:
        return self._size * PRODUCT, self._size * WIDE_PRODUCT

    @property
    def _lift(self) -> float:
        return self._size * LIFT

    @property
    def _pass(self) -> float:
        return self._size * PASS

    @property
    def _size(self) -> float:
        return self.chain.ring_dim / _UNIT_DIM


@lru_cache(maxsize=1024)
def work_on(chain: Chain) -> Work:
    """One for each chain, for it keeps what it has worked out."""
    return Work(chain)


Rates = Mapping[str, Mapping[int, Mapping[int, float]]]
"""Microseconds of a unit of work: by operation, ring dimension and limbs."""


@dataclass(frozen=True)
class UnitCosts:
    """Seconds of operations on one machine.

    rates: measured at a few rings and limbs each; between those limbs linearly, beyond them as at the nearest, and in a
    ring that was not measured as in the nearest one that was. source: where they are from, in words. mapped: how much
    more a share and an end of a refresh cost for a linear map on the way. base_bytes: of a process before it trains.
    """

    rates: Rates
    source: str
    base_bytes: int

    def seconds(self, work: Work, name: str, limbs: int) -> float:
        return work.of(name, limbs) * self._rate(name, work.chain.ring_dim, limbs) * 1e-6

    def total(self, work: Work, counts: Mapping[tuple[str, int], int]) -> float:
        """Of all these operations."""
        return sum(n * self.seconds(work, name, limbs) for (name, limbs), n in counts.items())

    def _rate(self, name: str, ring_dim: int, limbs: int) -> float:
        rings = self.rates[ALIKE.get(name, name)]
        nearest = min(rings, key=lambda n: abs(math.log2(n / ring_dim)))
        points = sorted(rings[nearest].items())
        (low, first), (high, last) = points[0], points[-1]
        if low == high or limbs <= low:
            return first
        if limbs >= high:
            return last
        return first + (last - first) * (limbs - low) / (high - low)


ALIKE = {"conjugate": "rotate", "own_encryption": "rerandomise", "add_plain": "add"}
"""Operations that are not measured, and what they cost as much as, by the unit of work."""

DEFAULT_RATES: Mapping[str, float] = {
    "encode": 125.0,
    "add": 350.0,
    "multiply_accumulate_plain": 53.0,
    "relinearise": 110.0,
    "multiply_accumulate": 55.0,
    "rotate": 105.0,
    "decompose": 112.0,
    "rotate_hoisted": 112.0,
    "rotate_and_sum": 110.0,
    "rotated_sum": 110.0,
    "rescale": 125.0,
    "rerandomise": 115.0,
    "mask": 210.0,
    "fresh": 210.0,
    "lift": 185.0,
    "mapped_fresh": 600.0,
    "mapped_lift": 480.0,
    "send": 930.0,
    "receive": 1050.0,
    "aggregate": 260.0,
    "relin_key": 160.0,
    "rotation_key": 340.0,
}
"""Microseconds of a unit of work on one core of an Intel Xeon (Sapphire Rapids) at 2 GHz that others use as well."""

DEFAULT_BASE_BYTES = 166 << 20
"""A process with all modules of a run, before it computes."""

DEFAULT_UNITS = UnitCosts(
    {name: {_UNIT_DIM: {1: rate}} for name, rate in DEFAULT_RATES.items()},
    "the default table; mhe plan --calibrate measures this machine",
    DEFAULT_BASE_BYTES,
)
"""Where nothing was measured: of the right order of magnitude anywhere, and of the right proportions."""
