"""Choosing parameters: the cheapest that meet security, the refresh floor and the precision asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from mhe.errors import ParameterError
from mhe.moduli import generate_moduli
from mhe.parameters import (
    LOG_QP_CAPS,
    Parameters,
    Primes,
    Shape,
    check_cap,
    digit_ranges,
    refresh_floor_bits,
)
from models.cost import DEFAULT_UNITS, FAST_BITS, Chain, size_class, work_on
from models.least_operations import least_operations
from models.mlp_plan import PerceptronPlan
from models.model import Plan
from models.operations import Counted, Counts, whole
from models.plan import CircuitPlan
from models.workload import Workload

AnyPlan = TypeVar("AnyPlan", bound=Plan)
MakeModuli = Callable[[Shape], Primes]
Judge = Callable[[Plan], float]
"""What a plan costs: the search looks for the smallest. An infinite one is not to be taken at all."""

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

TOLERATED = 10
"""Where no parameters are as precise as asked for, the most precise ones do if they miss it by this factor at most."""

NOT_ALLOWED = "every chain that fits costs more than is allowed; allow more, or lower [crypto] statistical_bits"

LOGIT_ERROR = 0.05
"""What is asked of delivered logits where the precision asked of the weights is finer: a probability moves by at most
an eightieth."""


@dataclass(frozen=True)
class Pinned:
    """What a search found: a chain, and how the products on it are made: in diagonals, of which a tile has as many as
    columns, and baby steps.
    """

    shape: Shape
    n_diagonals: int
    baby: int


@dataclass(frozen=True)
class Choice:
    """Constraints and explicit wishes; None leaves a value to the search.

    judge: what a plan costs; by default the root's operations, by the default table of `models.cost`. bound: what a
    perceptron costs at least, by `judge`, and at once. pinned: the only chain that is looked at, for a party that is
    told what another one found; it must keep all constraints.
    """

    security_bits: int = 128
    statistical_bits: int = 128
    ring_dim: int | None = None
    first_bits: int | None = None
    scale_bits: int | None = None
    digits: int | None = None
    limbs: int | None = None
    judge: Judge | None = None
    bound: Judge | None = None
    pinned: Pinned | None = None

    def allows(self, plan: Plan) -> bool:
        """Whether it is in the packing that is looked at."""
        wished = self.pinned
        return wished is None or (n_diagonals(plan), plan.layout.baby) == (wished.n_diagonals, wished.baby)


@dataclass(frozen=True)
class _Candidate:
    """A shape within the cap on log2(QP), and the limbs at which it refreshes."""

    workload: Workload
    shape: Shape
    refresh_limbs: int

    @cached_property
    def margin(self) -> int:
        """Bits by which the special primes exceed the largest digit."""
        return sum(self.shape.all_special_bits) - self.shape.largest_digit_bits

    def is_no_better_than(self, other: _Candidate) -> bool:
        """Whether it is no more precise. In one ring scale and margin decide, digits hardly."""
        mine, theirs = self.shape, other.shape
        same_ring = mine.ring_dim == theirs.ring_dim
        return same_ring and mine.scale_bits <= theirs.scale_bits and self.margin <= other.margin


def choose_plan(workload: Workload, choice: Choice, make_moduli: MakeModuli, *, free: bool) -> CircuitPlan:
    """The best plan: the first of `choose_plans`."""
    return choose_plans(workload, choice, make_moduli, free=free)[0]


def choose_plans(
    workload: Workload, choice: Choice, make_moduli: MakeModuli, *, free: bool, count: int = 1
) -> list[CircuitPlan]:
    """The plans with the lowest cost that meet every constraint, on up to `count` different chains, the best one first.

    free: whether make_moduli takes any shape; OpenFHE prescribes one first prime and special primes of 60 bits.

    The search is complete. Every chain that the caps allow has its cost computed (`_free`, `_specials` say which ones
    are left out because another one costs as much and is more precise); then they are looked at from the cheapest on,
    and the first that is precise enough is the best there is. Of shapes that cost the same the one with the largest
    scale is taken. A chain is passed over without following its noise only if a chain of the same ring with a larger
    scale and larger special primes was not precise enough.

    Where none is precise enough, the most precise one within a factor TOLERATED; the plan says what it reaches.
    Raises ParameterError naming the binding constraint if nothing fits.
    """
    judge = choice.judge or RootWork()
    known = _candidates(workload, choice, free=free)
    _, allowed = asked_of(workload)
    # primes of our own are found at once, and are as large as those that a library takes long to prescribe
    estimates = [
        (estimate, candidate)
        for candidate in known
        for estimate in _plans(workload, choice, candidate, generate_moduli, centred=free)
    ]
    costs = {id(estimate): judge(estimate) for estimate, _ in estimates}
    estimates = [each for each in estimates if costs[id(each[0])] < math.inf]
    if not estimates:
        raise ParameterError(NOT_ALLOWED)
    estimates.sort(key=lambda each: (costs[id(each[0])], -each[1].shape.scale_bits, -each[1].margin))
    missed: list[tuple[float, tuple[CircuitPlan, _Candidate]]] = []
    found: list[CircuitPlan] = []
    for estimate, candidate in estimates:
        if any(_is_noisier(estimate, candidate, *other) for _, other in missed):
            continue
        if any(is_like(estimate.parameters, other.parameters) for other in found):
            continue
        if estimate.precision.released_error <= allowed:
            plan = _on_primes(estimate, choice, candidate, make_moduli)
            found += [] if plan is None else [plan]
            if len(found) == count:
                break
        else:
            missed.append((estimate.precision.released_error, (estimate, candidate)))
    if found:
        return found
    by_error = sorted(missed, key=lambda each: each[0])
    plans = (_on_primes(estimate, choice, candidate, make_moduli) for _, (estimate, candidate) in by_error)
    best = next((each for each in plans if each is not None), None)
    if best is None:
        raise ParameterError("no primes are found for any shape that fits; leave the [crypto] values to the plan")
    return [tolerated(best)]


def asked_of(workload: Workload) -> tuple[str, float]:
    """What is released in the end, and its largest error that is asked for."""
    if workload.release in ("predictions", "encrypted"):
        return {"predictions": "logits", "encrypted": "answers"}[workload.release], max(workload.precision, LOGIT_ERROR)
    return "weights", workload.precision


def tolerated(best: AnyPlan) -> AnyPlan:
    """The most precise plan there is, where that is within TOLERATED of what is asked for. Raises ParameterError."""
    (what, allowed), error, p = asked_of(best.workload), best.precision.released_error, best.parameters
    if error <= TOLERATED * allowed:
        return best
    raise ParameterError(
        f"the {what} would be released to {error:.1g} at best (ring_dim {p.ring_dim}, scale 2^{p.scale_bits}), "
        f"{allowed:g} is asked for: the smudging of {best.workload.release_bits} statistical bits is what costs "
        "precision. Lower [release] statistical_bits, allow a larger [release] precision, or train with fewer "
        "iterations, less momentum, more L2 or a smaller learning_rate"
    )


def _is_noisier(plan: CircuitPlan, candidate: _Candidate, other: CircuitPlan, its_candidate: _Candidate) -> bool:
    """Whether it is no more precise than this other one, for sure."""
    return plan.layout == other.layout and candidate.is_no_better_than(its_candidate)


class RootWork:
    """Seconds of CPU time of the root in an iteration, by the default table: the `Judge` where nothing was measured."""

    def __init__(self) -> None:
        self._counted = Counted()

    def __call__(self, plan: Plan) -> float:
        busiest = max(range(plan.workload.n_parties), key=lambda rank: plan.workload.batch_rows[rank])
        return self._seconds(plan, whole(self._counted.of(plan, busiest, is_root=True, keep=True).later))

    def least(self, plan: Plan) -> float:
        """No more than that, of a perceptron at once."""
        return self._seconds(plan, least_operations(plan)) if isinstance(plan, PerceptronPlan) else self(plan)

    @staticmethod
    def _seconds(plan: Plan, counts: Counts) -> float:
        return DEFAULT_UNITS.total(work_on(Chain.of(plan.parameters)), counts)


def is_like(a: Parameters, b: Parameters) -> bool:
    """Whether two chains differ in nothing but the sizes of their primes."""
    return (a.ring_dim, a.n_limbs, a.digits, len(a.special_moduli)) == (
        b.ring_dim, b.n_limbs, b.digits, len(b.special_moduli),
    )  # fmt: skip


def pinned(plan: Plan) -> Pinned:
    """What another party needs to make this plan itself."""
    return Pinned(shape_of(plan.parameters), n_diagonals(plan), plan.layout.baby)


def n_diagonals(plan: Plan) -> int:
    """Of its products with clear rows."""
    return plan.layout.width if isinstance(plan, PerceptronPlan) else plan.layout.n_diagonals


def shape_of(p: Parameters) -> Shape:
    """The shape of which these parameters are."""
    bits, special = ([round(math.log2(q)) for q in some] for some in (p.moduli, p.special_moduli))
    floor = next((i for i, b in enumerate(bits) if b == p.scale_bits), len(bits))
    return Shape(p.ring_dim, bits[0], p.scale_bits, p.n_limbs, p.digits, max(floor, 1), special[0], len(special))


def _candidates(workload: Workload, choice: Choice, *, free: bool) -> list[_Candidate]:
    """Every chain within the caps. Raises ParameterError naming what is in the way if there is none."""
    if choice.pinned is not None:
        shape = choice.pinned.shape
        check_cap(shape.ring_dim, shape.log_qp, choice.security_bits)
        return [_Candidate(workload, shape, shape.n_limbs - workload.levels)]
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
    candidates: list[_Candidate] = []
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


def _plans(
    workload: Workload, choice: Choice, candidate: _Candidate, make_moduli: MakeModuli, *, centred: bool
) -> list[CircuitPlan]:
    """The plans on real primes, one for each packing; none where a library finds no primes for this shape or their
    sizes miss a bound by a hair.
    """
    parameters = _parameters(workload, choice, candidate, make_moduli)
    if parameters is None:
        return []
    plan = CircuitPlan(workload, parameters, centred)
    layouts = plan.layout.alternatives
    plans = [plan if layout == plan.layout else replace(plan, packing=layout) for layout in layouts]
    return [each for each in plans if choice.allows(each)]


def _on_primes(
    estimate: CircuitPlan, choice: Choice, candidate: _Candidate, make_moduli: MakeModuli
) -> CircuitPlan | None:
    """The same plan on other primes."""
    parameters = _parameters(estimate.workload, choice, candidate, make_moduli)
    return None if parameters is None else replace(estimate, parameters=parameters)


def _parameters(
    workload: Workload, choice: Choice, candidate: _Candidate, make_moduli: MakeModuli
) -> Parameters | None:
    try:
        return Parameters.of_shape(
            candidate.shape,
            make_moduli(candidate.shape),
            n_parties=workload.n_parties,
            refresh_limbs=candidate.refresh_limbs,
            message_bits=workload.message_bits,
            security_bits=choice.security_bits,
            statistical_bits=choice.statistical_bits,
        )
    except ParameterError:
        return None


def _prescribed(workload: Workload, choice: Choice, ring_dim: int) -> list[_Candidate]:
    """For each number of digits, the largest scale. Raises ParameterError if there is none."""
    candidates: list[_Candidate] = []
    problem: ParameterError | None = None
    for digits in DIGITS if choice.digits is None else (choice.digits,):
        try:
            candidates.append(_largest_scale(workload, choice, ring_dim, digits))
        except ParameterError as error:
            problem = problem or error
    if not candidates and problem is not None:
        raise problem
    return candidates


def _free(workload: Workload, choice: Choice, ring_dim: int) -> list[_Candidate]:
    """Chains of free sizes: the refresh floor in as few limbs as hold it, a prime of the size of the scale for every
    level, special primes of any size. Raises ParameterError with what is in the way if there is none.

    A level of a scale beyond 49 bits has one wide prime, not two small ones: it costs less than two limbs
    (`models.cost`), and half the memory and traffic.
    """
    largest: dict[tuple[object, ...], _Candidate] = {}
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


def _free_of_scale(workload: Workload, choice: Choice, ring_dim: int, scale_bits: int) -> Iterator[_Candidate]:
    """All chains of this scale. Raises ParameterError if none fits."""
    floor = refresh_floor_bits(choice.statistical_bits, scale_bits, workload.message_bits, workload.n_parties)
    found, problem = False, None
    for floor_limbs, first_bits in _floors(workload, choice, floor + ROUNDING_BITS):
        limbs = floor_limbs + workload.levels
        cuts = {len(digit_ranges(limbs, d)) for d in range(1, limbs + 1)}
        if choice.digits is not None and choice.digits not in cuts:
            raise ParameterError(
                f"{limbs} limbs cannot be cut into {choice.digits} digits of equal width; use another number"
            )
        for digits in sorted(cuts) if choice.digits is None else (choice.digits,):
            shape = Shape(ring_dim, first_bits, scale_bits, limbs, digits, floor_limbs)
            try:
                for special_limbs, special_bits in _specials(shape, choice.security_bits):
                    found = True
                    special = replace(shape, special_bits=special_bits, special_limbs=special_limbs)
                    yield _Candidate(workload, special, floor_limbs)
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


def _largest_scale(workload: Workload, choice: Choice, ring_dim: int, digits: int) -> _Candidate:
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
        return _Candidate(workload, shape, refresh_limbs)
    raise problem or ParameterError("no scale is allowed; leave scale_bits to the plan")
