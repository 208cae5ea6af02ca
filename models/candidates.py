"""Every modulus chain that the caps on log2(QP) allow, but for those that another one beats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mhe.errors import ParameterError
from mhe.parameters import LOG_QP_CAPS, Shape, check_cap, digit_ranges, refresh_floor_bits
from models.choice import Choice
from models.cost import FAST_BITS, size_class
from models.workload import Workload

RING_DIMS = tuple(1 << k for k in range(12, 17))
FIRST_BITS = 60
PRESCRIBED_SCALE_BITS = 58
"""OpenFHE takes no larger scale."""

LEAST_SCALE_BITS = 30

SPECIAL_MARGINS = (-24, 8)
"""Least and largest difference in bits between an evaluator's free special primes and its largest digit.
Fewer bits than the digit do where a key switch is followed by a rescale, which takes the noise away."""

MARGIN_STEP = 8
"""Chains this close in margin count as equally precise at the same scale."""

SMALLEST_FREE_BITS = 24
"""Smaller primes are too few that the ring divides."""

CAP_MARGIN_BITS = 0.01
"""How far below the cap the nominal sizes stay, for primes are only next to them."""

ROUNDING_BITS = 0.5
"""What the floor may lose because primes are only next to their nominal sizes."""


@dataclass(frozen=True)
class Candidate:
    """A shape within the cap on log2(QP) for the iterations of a regression."""

    workload: Workload
    shape: Shape

    @property
    def refresh_limbs(self) -> int:
        """At which it refreshes."""
        return self.shape.n_limbs - self.workload.levels

    def is_no_better_than(self, other: Candidate) -> bool:
        """Whether it is no more precise. In one ring scale and margin decide, digits hardly."""
        mine, theirs = self.shape, other.shape
        same_ring = mine.ring_dim == theirs.ring_dim
        return same_ring and mine.scale_bits <= theirs.scale_bits and mine.special_margin <= theirs.special_margin


def candidates_for(workload: Workload, choice: Choice, *, free: bool) -> list[Candidate]:
    """Every chain within the caps. Raises ParameterError naming what is in the way if there is none."""
    rings = rings_of(choice)
    wide_enough = [n for n in rings if workload.features + 1 <= n // 2]
    if not wide_enough:
        raise ParameterError(
            f"{workload.features} features and an intercept do not fit the {max(rings) // 2} slots of ring_dim "
            f"{max(rings)}; use a larger ring_dim or fewer features"
        )
    if choice.limbs is not None and choice.limbs <= workload.levels:
        raise ParameterError(
            f"limbs = {choice.limbs} leaves no modulus for the refresh: one iteration takes {workload.levels} levels "
            f"(forward 1, link of degree {workload.link.degree} {workload.link.depth}, backward 1); need more "
            "limbs, or a lower degree"
        )
    candidates: list[Candidate] = []
    problem: ParameterError | None = None
    # from the largest ring down, so that the first problem met is that of the most capable one
    for ring_dim in sorted(wide_enough, reverse=True):
        try:
            shapes = shapes_for(workload, choice, ring_dim, workload.levels, lambda _: workload.message_bits, free=free)
        except ParameterError as error:
            problem = problem or error
            continue
        candidates += [Candidate(workload, shape) for shape in shapes]
    if not candidates and problem is not None:
        raise problem
    return candidates


def rings_of(choice: Choice) -> Sequence[int]:
    """The ring dimensions that are looked at."""
    wished = choice.ring_dim if choice.pinned is None else choice.pinned.shape.ring_dim
    return RING_DIMS if wished is None else (wished,)


def shapes_for(
    workload: Workload,
    choice: Choice,
    ring_dim: int,
    levels: int,
    message_bits: Callable[[int], float],
    *,
    free: bool,
    least_scale_bits: int = LEAST_SCALE_BITS,
) -> list[Shape]:
    """Every chain within the cap of so many levels above a refresh, but those that another one beats, which costs no
    more and is no less precise. message_bits: of what is refreshed above a scale, by scale_bits.

    free: the floor in as few limbs as hold it, a prime of the size of the scale for every level, special primes of any
    size; otherwise as OpenFHE prescribes. Raises ParameterError with what is in the way if there is none.

    A level of a scale beyond 49 bits has one wide prime, not two small ones: it costs less than two limbs
    (`models.cost`), and half the memory and traffic.
    """
    if choice.pinned is not None:
        check_cap(ring_dim, choice.pinned.shape.log_qp, choice.security_bits)
        return [choice.pinned.shape]
    found: dict[tuple[int, int], list[Shape]] = {}
    problem: ParameterError | None = None
    scales = range(FIRST_BITS if free else PRESCRIBED_SCALE_BITS, least_scale_bits - 1, -1)
    for scale_bits in scales if choice.scale_bits is None else (choice.scale_bits,):
        bits = message_bits(scale_bits)
        floor = refresh_floor_bits(choice.statistical_bits, scale_bits, bits, workload.n_parties) + ROUNDING_BITS
        try:
            for shape in _of_scale(choice, ring_dim, scale_bits, levels, floor, free=free):
                others = found.setdefault((shape.n_limbs, shape.digits), [])
                if not any(_beats(other, shape) for other in others):
                    others.append(shape)
        except ParameterError as error:
            problem = error  # the smaller the scale, the more fits
    if not found:
        raise problem or ParameterError("no scale is allowed; leave scale_bits to the plan")
    return [shape for shapes in found.values() for shape in shapes]


def _beats(shape: Shape, other: Shape) -> bool:
    """Whether a chain of no smaller scale, and as many limbs and digits, is no less precise and costs no more."""
    sizes = (shape.first_bits, shape.scale_bits, shape.special_bits)
    its_sizes = (other.first_bits, other.scale_bits, other.special_bits)
    return (
        margin_class(shape) >= margin_class(other)
        and len(shape.all_special_bits) <= len(other.all_special_bits)
        and all(size_class(a) <= size_class(b) for a, b in zip(sizes, its_sizes, strict=True))
    )


def margin_class(shape: Shape) -> int:
    """Shapes of one class are about as precise at the same scale; beyond the largest margin nothing is gained."""
    return min(shape.special_margin, SPECIAL_MARGINS[1]) // MARGIN_STEP


def _of_scale(
    choice: Choice, ring_dim: int, scale_bits: int, levels: int, floor: float, *, free: bool
) -> Iterator[Shape]:
    """All chains of this scale. Raises ParameterError if none fits."""
    found, problem = False, None
    for floor_limbs, first_bits in _floors(choice, scale_bits, levels, floor, free=free):
        limbs = floor_limbs + levels
        cuts = {len(digit_ranges(limbs, d)) for d in range(1, limbs + 1)}
        if choice.digits is not None and choice.digits not in cuts:
            problem = problem or ParameterError(
                f"{limbs} limbs cannot be cut into {choice.digits} digits of equal width; use another number"
            )
            continue
        for digits in sorted(cuts) if choice.digits is None else (choice.digits,):
            shape = Shape(ring_dim, first_bits, scale_bits, limbs, digits, floor_limbs if free else 1)
            try:
                for special in _with_specials(shape, choice.security_bits) if free else (shape,):
                    check_cap(ring_dim, special.log_qp, choice.security_bits)
                    found = True
                    yield special
            except ParameterError as error:
                problem = problem or error
    if not found and problem is not None:
        raise problem


def _with_specials(shape: Shape, security_bits: int) -> Iterator[Shape]:
    """With special primes below 2^49, and with fewer wide ones: for each number as many bits as the cap allows and the
    digits call for. Raises ParameterError if not even the fewest fit.
    """
    chain, digit = sum(shape.limb_bits), shape.largest_digit_bits
    least, most = (max(digit + margin, SMALLEST_FREE_BITS) for margin in SPECIAL_MARGINS)
    check_cap(shape.ring_dim, chain + least, security_bits)
    room = math.floor(LOG_QP_CAPS[security_bits][shape.ring_dim] - CAP_MARGIN_BITS - chain)
    for widest in (FAST_BITS, FIRST_BITS):
        for number in range(-(-least // widest), -(-most // widest) + 1):
            bits = min(widest, -(-most // number), room // number)
            if bits >= SMALLEST_FREE_BITS and number * bits >= least:
                yield replace(shape, special_bits=bits, special_limbs=number)


def _floors(choice: Choice, scale_bits: int, levels: int, floor: float, *, free: bool) -> list[tuple[int, int]]:
    """(limbs of the refresh, bits of each) that hold so many bits: few wide limbs, and a few more narrow ones. Where
    they are prescribed, the first is as wide, and the others are of the scale.
    """
    widest = choice.first_bits or FIRST_BITS
    needed = math.ceil(floor / widest) if free else 1 + max(0, math.ceil((floor - widest) / scale_bits))
    if choice.limbs is not None:
        limbs = choice.limbs - levels
        if limbs < needed:
            raise ParameterError(
                f"limbs = {choice.limbs} are too few: {levels} levels are consumed between refreshes, and one with "
                f"{choice.statistical_bits} statistical bits at scale 2^{scale_bits} needs {needed} limbs; need "
                f"{needed + levels}, a lower degree or fewer statistical_bits"
            )
        return [(limbs, choice.first_bits or _narrowest(floor, limbs) if free else widest)]
    if not free or choice.first_bits is not None:
        return [(needed, widest)]
    counts = {needed, math.ceil(floor / FAST_BITS)}
    return [(count, _narrowest(floor, count)) for count in sorted(counts)]


def _narrowest(floor: float, limbs: int) -> int:
    return max(math.ceil(floor / limbs), SMALLEST_FREE_BITS)
