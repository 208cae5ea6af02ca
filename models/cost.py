"""What operations cost: the work in them, in closed form, and the seconds that a unit of it takes on a machine.

The work of an operation follows from hybrid key switching (`mhe.backend.native.key_switching`) and from the protocols
(`mhe.protocols.refresh`): transforms and products of single limbs, the latter bound by memory. Unit: one transform of a
limb below 2^49 in a ring of dimension 2^14. How many seconds a unit takes differs a little from operation to operation,
ring to ring and with the number of limbs: that is what is measured, once for each machine, and looked up here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from mhe.parameters import Parameters, Shape
from mhe.ring.vector_basis import MAX_ROWS, PIECE_BITS
from mhe.ring.vectors import FLOAT_MODULUS_BITS

FAST_BITS = FLOAT_MODULUS_BITS
"""Primes of so many bits or fewer are computed with in float64 (`mhe.ring.vectors`)."""

LONG_BITS = PIECE_BITS + 1
"""Primes from this size on are lifted in two pieces."""


def size_class(bits: int) -> int:
    """Primes of one class cost alike."""
    return (bits >= LONG_BITS) + (bits > FAST_BITS)


_TYPICAL_BITS = (LONG_BITS - 1, FAST_BITS, FAST_BITS + 1)
"""By `size_class`."""

TRANSFORM, WIDE_TRANSFORM = 1.0, 1.5
"""Work for a limb below 2^49, and for a wider one, whose arithmetic is in 64-bit words: of a transform. These and the
next ones are measured by `python -m benchmarks.limbs`."""

PRODUCT, WIDE_PRODUCT = 0.16, 0.19
"""The same: of a product that is added up."""

SUM, WIDE_SUM = 0.28, 0.6
"""The same: of a sum of products of any length, for its end, where it is reduced and written."""

LIFT_START, LIFT_SOURCE = 0.85, 0.4
"""Of a change of basis, and of each limb that goes into it, whatever comes out (`mhe.ring.basis.Lifting`)."""

LIFT, LIFT_PIECE, WIDE_LIFT_PIECE = 0.3, 0.045, 0.07
"""Of each limb that comes out, and for each piece of a source that goes into it (`mhe.ring.vector_basis`)."""

LONG_LIFT, LONG_LIFT_SOURCE = 0.4, 0.22
"""The same where there are more pieces than `mhe.ring.vector_basis` takes: for each source."""

SAMPLE = 1.5
"""Of a small random polynomial, whatever its limbs."""

DIVIDE = 0.45
"""Of one limb of the end of a division: difference, product, turn."""

PASS = 0.45
"""Of one limb of a sum of two, or of one that is checked, copied or turned."""

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

    @property
    def typical(self) -> Chain:
        """One with as much work: of the same size for all limbs of a class."""
        both = self.limb_bits, self.special_bits
        limbs, special = (tuple(_TYPICAL_BITS[size_class(bits)] for bits in some) for some in both)
        return Chain(self.ring_dim, limbs, special, self.digits)


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
        full = len(self.chain.limb_bits)
        if name in ("add", "add_plain", "times_i"):
            return 2 * n * self._pass
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
            return self._decompose(n) + self._inner(n) + (3 * n + 2 * self._n_special) * self._pass
        if name == "rotated_sum":
            return self._divide(n)
        if name == "rescale":
            return 2 * self._rescaled(n)
        if name in ("rerandomise", "own_encryption"):
            # an encryption at one limb more, where there is one: three small polynomials, each sampled and reduced, two
            # products, a message, and their division
            up = min(n + 1, full)
            small = 3 * (self._size * SAMPLE + self._transforms(up)) + 4 * up * self._pass
            divided = 2 * self._rescaled(up) if up > n else 0.0
            return small + self._products(up) + self._sums(up) + divided
        if name == "mask":
            return self._transforms(n) + self._products(n) / 2 + full * self._pass
        if name in ("fresh", "mapped_fresh"):
            return self._transforms(n) + self._products(n) / 2 + 2 * n * self._pass
        if name in ("lift", "mapped_lift"):
            # the floor takes about half of the limbs
            low = (full + 1) // 2
            return self._transforms(full) + self._lift(self.chain.limb_bits[:low], self.chain.limb_bits[low:])
        if name in ("send", "receive", "aggregate"):
            return n * self._pass
        if name in ("relin_key", "rotation_key"):
            return self._key(n, 4 if name == "relin_key" else 1)
        raise KeyError(name)

    def _key(self, limbs: int, rows: int) -> float:
        """A share of a key and its end: for each digit errors, products and common randomness, modulo Q*P."""
        one = self._transforms(limbs) + self._special_transforms + self._products(limbs) + self._special_products
        return rows * self._active_digits(limbs) * one

    def _decompose(self, limbs: int) -> float:
        """Back to coefficients, then every digit to all the limbs that are not its own: each limb is the own one of one
        digit, which pays for the way back.
        """
        bits, width = self.chain.limb_bits[:limbs], self._digit_width
        starts = range(0, limbs, width)
        lifts = sum(
            self._lift(bits[i : i + width], bits[:i] + bits[i + width :] + self.chain.special_bits) for i in starts
        )
        return lifts + len(starts) * (self._transforms(limbs) + self._special_transforms)

    def _inner(self, limbs: int) -> float:
        """Products with the key, and their sums."""
        products = self._products(limbs) + self._special_products
        return self._active_digits(limbs) * products + self._sums(limbs) + self._special_sums

    def _divide(self, limbs: int) -> float:
        """Both halves divided by P."""
        lifts = self._lift(self.chain.special_bits, self.chain.limb_bits[:limbs])
        return 2 * (self._special_transforms + self._transforms(limbs) + lifts + limbs * DIVIDE * self._size)

    def _rescaled(self, limbs: int) -> float:
        """One polynomial of so many limbs, divided by the last one's prime."""
        kept, last = self.chain.limb_bits[: limbs - 1], self.chain.limb_bits[limbs - 1 : limbs]
        return self._transforms(limbs) + self._lift(last, kept) + len(kept) * DIVIDE * self._size

    def _lift(self, source: tuple[int, ...], target: tuple[int, ...]) -> float:
        """A change of basis from primes of these sizes to others."""
        start = LIFT_START + len(source) * LIFT_SOURCE
        pieces = sum(1 + (bits >= LONG_BITS) for bits in source)
        if pieces + 1 > MAX_ROWS:
            return self._size * (start + len(target) * (LONG_LIFT + LONG_LIFT_SOURCE * len(source)))
        per_limb = (LIFT + LIFT_PIECE * pieces, LIFT + WIDE_LIFT_PIECE * pieces)
        return self._size * (start + self._sum(target, per_limb))

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

    def _sums(self, limbs: int) -> float:
        """The ends of sums of products, of both halves of a ciphertext."""
        return 2 * self._sum(self.chain.limb_bits[:limbs], self._end_of_sum)

    @cached_property
    def _special_sums(self) -> float:
        return 2 * self._sum(self.chain.special_bits, self._end_of_sum)

    @staticmethod
    def _sum(bits: tuple[int, ...], work: tuple[float, float]) -> float:
        wide = sum(b > FAST_BITS for b in bits)
        return (len(bits) - wide) * work[0] + wide * work[1]

    @cached_property
    def _transform(self) -> tuple[float, float]:
        """Of a limb below 2^49, of a wider one."""
        n = self.chain.ring_dim
        size = n * math.log2(n) / (_UNIT_DIM * math.log2(_UNIT_DIM))
        return size * TRANSFORM, size * WIDE_TRANSFORM

    @cached_property
    def _product(self) -> tuple[float, float]:
        return self._size * PRODUCT, self._size * WIDE_PRODUCT

    @cached_property
    def _end_of_sum(self) -> tuple[float, float]:
        return self._size * SUM, self._size * WIDE_SUM

    @property
    def _pass(self) -> float:
        return self._size * PASS

    @property
    def _size(self) -> float:
        return self.chain.ring_dim / _UNIT_DIM


@lru_cache(maxsize=8192)
def work_on(chain: Chain) -> Work:
    """One for each chain, for it keeps what it has worked out."""
    return Work(chain)


@lru_cache(maxsize=8192)
def work_of(parameters: Parameters) -> Work:
    """On the chain of these parameters, or one that takes as much."""
    return work_on(Chain.of(parameters).typical)


Rates = Mapping[str, Mapping[int, Mapping[int, float]]]
"""Microseconds of a unit of work: by operation, ring dimension and limbs."""


@dataclass(frozen=True)
class UnitCosts:
    """Seconds of operations on one machine.

    rates: measured at a few rings and limbs each; between those limbs linearly, beyond them as at the nearest, and in a
    ring that was not measured as in the nearest one that was. source: where they are from, in words. base_bytes: of a
    process before it trains. crowded: wall seconds of a CPU second while all cores are busy.
    """

    rates: Rates
    source: str
    base_bytes: int
    crowded: float = 1.0

    def seconds(self, work: Work, name: str, limbs: int) -> float:
        return self._on(work)[name, limbs]

    def total(self, work: Work, counts: Mapping[tuple[str, int], int]) -> float:
        """Of all these operations."""
        seconds = self._on(work)
        return sum(n * seconds[operation] for operation, n in counts.items())

    @cached_property
    def _known(self) -> dict[int, _Seconds]:
        """By the identity of their work, which they keep: its chain takes longer to compare than to look up."""
        return {}

    def _on(self, work: Work) -> _Seconds:
        found = self._known.get(id(work))
        if found is None:
            found = self._known[id(work)] = _Seconds(self, work)
        return found

    def rate(self, name: str, ring_dim: int, limbs: int) -> float:
        """Microseconds of a unit of work."""
        rings = self.rates[ALIKE.get(name, name)]
        nearest = min(rings, key=lambda n: abs(math.log2(n / ring_dim)))
        points = sorted(rings[nearest].items())
        (low, first), (high, last) = points[0], points[-1]
        if low == high or limbs <= low:
            return first
        if limbs >= high:
            return last
        return first + (last - first) * (limbs - low) / (high - low)


class _Seconds(dict[tuple[str, int], float]):
    """By operation and limbs, on one chain."""

    def __init__(self, units: UnitCosts, work: Work) -> None:
        super().__init__()
        self._units, self._work = units, work

    def __missing__(self, operation: tuple[str, int]) -> float:
        (name, limbs), work = operation, self._work
        found = work.of(name, limbs) * self._units.rate(name, work.chain.ring_dim, limbs) * 1e-6
        self[operation] = found
        return found


ALIKE = {"conjugate": "rotate", "own_encryption": "rerandomise", "add_plain": "add"}
"""Operations that are not measured, and what they cost as much as, by the unit of work."""

DEFAULT_RATES: Mapping[str, float] = {
    "encode": 140.0,
    "add": 115.0,
    "times_i": 250.0,
    "multiply_accumulate_plain": 135.0,
    "relinearise": 135.0,
    "multiply_accumulate": 145.0,
    "rotate": 120.0,
    "decompose": 125.0,
    "rotate_hoisted": 125.0,
    "rotate_and_sum": 115.0,
    "rotated_sum": 115.0,
    "rescale": 105.0,
    "rerandomise": 115.0,
    "mask": 210.0,
    "fresh": 210.0,
    "lift": 145.0,
    "mapped_fresh": 995.0,
    "mapped_lift": 740.0,
    "send": 300.0,
    "receive": 345.0,
    "aggregate": 65.0,
    "relin_key": 200.0,
    "rotation_key": 390.0,
}
"""Microseconds of a unit of work, as `benchmarks.units` measures it in rings of 2^14 and 2^15: on two cores of an Intel
Xeon (Sapphire Rapids) at 2 GHz, both busy, of a virtual machine on a host that others use as well."""

DEFAULT_BASE_BYTES = 146 << 20
"""A process with the modules that it computes with, before it does, and some to spare."""

DEFAULT_UNITS = UnitCosts(
    {name: {_UNIT_DIM: {1: rate}} for name, rate in DEFAULT_RATES.items()},
    "the default table; mhe plan --calibrate measures this machine",
    DEFAULT_BASE_BYTES,
)
"""Where nothing was measured: of the right order of magnitude anywhere, and of the right proportions."""
