"""Every chain that the caps on log2(QP) allow for the iterations of a regression, one for each cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from mhe.errors import ParameterError
from mhe.parameters import LOG_QP_CAPS, Shape, check_cap, digit_ranges, refresh_floor_bits
from models.choice import Choice
from models.cost import FAST_BITS, size_class
from models.workload import Workload

RING_DIMS = tuple(1 << k for k in range(12, 17))
FIRST_BITS = 60
SCALE_BITS = range(60, 29, -1)
PRESCRIBED_SCALE_BITS = range(58, 29, -1)

SPECIAL_MARGINS = (-24, 8)
"""Least and largest difference in bits between an evaluator's free special primes and its largest digit.
Fewer bits than the digit do where a key switch is followed by a rescale, which takes the noise away."""

MARGIN_STEP = 8
"""Of shapes that cost the same and are this close in margin, only the one with the largest scale is looked at."""

SMALLEST_FREE_BITS = 24
"""Smaller primes are too few that the ring divides."""

CAP_MARGIN_BITS = 0.01
"""How far below the cap the nominal sizes stay, for primes are only next to them."""

ROUNDING_BITS = 0.5
"""What the floor may lose because primes are only next to their nominal sizes."""

DIGITS = range(1, 9)


@dataclass(frozen=True)
class Candidate:
    """A shape within the cap on log2(QP), and the limbs at which it refreshes."""

    workload: Workload
    shape: Shape
    refresh_limbs: int

    @cached_property
    def margin(self) -> int:
        """Bits by which the special primes exceed the largest digit."""
        return sum(self.shape.all_special_bits) - self.shape.largest_digit_bits

    def is_no_better_than(self, other: Candidate) -> bool:
        """Whether it is no more precise. In one ring scale and margin decide, digits hardly."""
        mine, theirs = self.shape, other.shape
        same_ring = mine.ring_dim == theirs.ring_dim
        return same_ring and mine.scale_bits <= theirs.scale_bits and self.margin <= other.margin


def candidates_for(workload: Workload, choice: Choice, *, free: bool) -> list[Candidate]:
    """Every chain within the caps. Raises ParameterError naming what is in the way if there is none."""
    if choice.pinned is not None:
        shape = choice.pinned.shape
        check_cap(shape.ring_dim, shape.log_qp, choice.security_bits)
        return [Candidate(workload, shape, shape.n_limbs - workload.levels)]
    rings = RING_DIMS if choice.ring_dim is None else (choice.ring_dim,)
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
            candidates += (_free if free else _prescribed)(workload, choice, ring_dim)
        except ParameterError as error:
            problem = problem or error
    if not candidates and problem is not None:
        raise problem
    return candidates


def _prescribed(workload: Workload, choice: Choice, ring_dim: int) -> list[Candidate]:
    """For each number of digits, the largest scale. Raises ParameterError if there is none."""
    candidates: list[Candidate] = []
    problem: ParameterError | None = None
    for digits in DIGITS if choice.digits is None else (choice.digits,):
        try:
            candidates.append(_largest_scale(workload, choice, ring_dim, digits))
        except ParameterError as error:
            problem = problem or error
    if not candidates and problem is not None:
        raise problem
    return candidates


def _free(workload: Workload, choice: Choice, ring_dim: int) -> list[Candidate]:
    """Chains of free sizes: the refresh floor in as few limbs as hold it, a prime of the size of the scale for every
    level, special primes of any size. Raises ParameterError with what is in the way if there is none.

    A level of a scale beyond 49 bits has one wide prime, not two small ones: it costs less than two limbs
    (`models.cost`), and half the memory and traffic.
    """
    largest: dict[tuple[object, ...], Candidate] = {}
    problem: ParameterError | None = None
    for scale_bits in SCALE_BITS if choice.scale_bits is None else (choice.scale_bits,):
        try:
            for candidate in _free_of_scale(workload, choice, ring_dim, scale_bits):
                shape = candidate.shape
                work = (
                    shape.n_limbs, shape.digits, shape.special_limbs,
                    *map(size_class, (shape.first_bits, scale_bits, shape.special_bits)),
                    candidate.margin // MARGIN_STEP,
                )  # fmt: skip
                largest.setdefault(work, candidate)
        except ParameterError as error:
            problem = error
    if not largest:
        raise problem or ParameterError("no scale is allowed; leave scale_bits to the plan")
    return list(largest.values())


def _free_of_scale(workload: Workload, choice: Choice, ring_dim: int, scale_bits: int) -> Iterator[Candidate]:
    """All chains of this scale. Raises ParameterError if none fits."""
    floor = refresh_floor_bits(choice.statistical_bits, scale_bits, workload.message_bits, workload.n_parties)
    found, problem = False, None
    for floor_limbs, first_bits in _floors(workload, choice, floor + ROUNDING_BITS):
        limbs = floor_limbs + workload.levels
        cuts = {len(digit_ranges(limbs, d)) for d in range(1, limbs + 1)}
        if choice.digits is not None and choice.digits not in cuts:
            problem = problem or ParameterError(
                f"{limbs} limbs cannot be cut into {choice.digits} digits of equal width; use another number"
            )
            continue
        for digits in sorted(cuts) if choice.digits is None else (choice.digits,):
            shape = Shape(ring_dim, first_bits, scale_bits, limbs, digits, floor_limbs)
            try:
                for special_limbs, special_bits in _specials(shape, choice.security_bits):
                    found = True
                    special = replace(shape, special_bits=special_bits, special_limbs=special_limbs)
                    yield Candidate(workload, special, floor_limbs)
            except ParameterError as error:
                problem = problem or error
    if not found and problem is not None:
        raise problem


def _specials(shape: Shape, security_bits: int) -> Iterator[tuple[int, int]]:
    """(number, bits) of special primes below 2^49, and of fewer wide ones: for each number as many bits as the cap
    allows and the digits call for. Raises ParameterError if not even the fewest fit.
    """
    chain, digit = sum(shape.limb_bits), shape.largest_digit_bits
    least, most = (max(digit + margin, SMALLEST_FREE_BITS) for margin in SPECIAL_MARGINS)
    check_cap(shape.ring_dim, chain + least, security_bits)
    room = math.floor(LOG_QP_CAPS[security_bits][shape.ring_dim] - CAP_MARGIN_BITS - chain)
    for widest in (FAST_BITS, FIRST_BITS):
        for number in range(-(-least // widest), -(-most // widest) + 1):
            bits = min(widest, -(-most // number), room // number)
            if bits >= SMALLEST_FREE_BITS and number * bits >= least:
                yield number, bits


def _floors(workload: Workload, choice: Choice, floor: float) -> list[tuple[int, int]]:
    """(limbs, bits of each) that hold so many bits: few wide limbs, and a few more narrow ones."""
    if choice.limbs is not None:
        limbs = choice.limbs - workload.levels
        bits = choice.first_bits or max(math.ceil(floor / limbs), SMALLEST_FREE_BITS)
        if limbs * bits < floor or bits > FIRST_BITS:
            needed = math.ceil(floor / (choice.first_bits or FIRST_BITS))
            raise _too_few_limbs(workload, choice, choice.limbs, needed)
        return [(limbs, bits)]
    if choice.first_bits is not None:
        return [(math.ceil(floor / choice.first_bits), choice.first_bits)]
    counts = {math.ceil(floor / widest) for widest in (FAST_BITS, FIRST_BITS)}
    return [(count, max(math.ceil(floor / count), SMALLEST_FREE_BITS)) for count in sorted(counts)]


def _too_few_limbs(workload: Workload, choice: Choice, limbs: int, needed: int) -> ParameterError:
    return ParameterError(
        f"limbs = {limbs} are too few: one iteration consumes {workload.levels} levels and a refresh with "
        f"{choice.statistical_bits} statistical bits needs {needed} limbs; need {needed + workload.levels}, a lower "
        "degree or fewer statistical_bits"
    )


def _largest_scale(workload: Workload, choice: Choice, ring_dim: int, digits: int) -> Candidate:
    """The largest scale that fits this ring and number of digits. Raises ParameterError with what is in the way."""
    first = choice.first_bits or FIRST_BITS
    problem: ParameterError | None = None
    for scale_bits in PRESCRIBED_SCALE_BITS if choice.scale_bits is None else (choice.scale_bits,):
        floor = refresh_floor_bits(choice.statistical_bits, scale_bits, workload.message_bits, workload.n_parties)
        needed = 1 + max(0, math.ceil((floor + 0.5 - first) / scale_bits))
        limbs = needed + workload.levels if choice.limbs is None else choice.limbs
        refresh_limbs = limbs - workload.levels
        shape = Shape(ring_dim, first, scale_bits, limbs, digits)
        try:
            if refresh_limbs < needed:
                raise _too_few_limbs(workload, choice, limbs, needed)
            if -(-limbs // -(-limbs // digits)) != digits:
                raise ParameterError(
                    f"{limbs} limbs cannot be cut into {digits} digits of equal width; use another number"
                )
            check_cap(ring_dim, shape.log_qp, choice.security_bits)
        except ParameterError as error:
            # a smaller scale eases the cap, a larger one asks for fewer limbs: the last or the first problem is the one
            problem = error if choice.limbs is None or problem is None else problem
            continue
        return Candidate(workload, shape, refresh_limbs)
    raise problem or ParameterError("no scale is allowed; leave scale_bits to the plan")
