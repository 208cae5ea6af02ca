"""Choosing a modulus chain where a plan is judged by following the noise of its own code, which takes time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import TypeVar

from mhe.errors import ParameterError
from mhe.parameters import LOG_QP_CAPS, Parameters, Shape, check_cap, digit_ranges, refresh_floor_bits
from models.candidates import FIRST_BITS, RING_DIMS, ROUNDING_BITS
from models.choice import Choice, Judge, MakeModuli, n_diagonals
from models.cost import FAST_BITS
from models.local_plan import LocalPlan
from models.mlp_plan import PerceptronPlan
from models.newton_plan import FixedHessianPlan
from models.search import NOT_ALLOWED, RootWork, asked_of, is_like, tolerated
from models.workload import Workload

SCALE_BITS = (60, 58, 56, 52, FAST_BITS, 45, 42, 39, 36)
"""Tried from the most precise down, of which OpenFHE takes 58; next to FAST_BITS or below, a limb costs less."""

SLOWER = 2.0
"""Layouts that take more than so many times as long as another one on the same chain are not looked at for the sake of
precision: another chain is a cheaper way to it."""

P = TypeVar("P", PerceptronPlan, FixedHessianPlan, LocalPlan)


_Bounded = tuple[float, int, P]
"""What a plan costs at least, its place among equally cheap ones, and the plan."""


@dataclass(frozen=True)
class Demand:
    """What a computation asks of a chain: levels between refreshes, and bits of what is refreshed above a scale."""

    levels: int
    message_bits: Callable[[int], float]


def choose_chains(
    workload: Workload,
    choice: Choice,
    make_moduli: MakeModuli,
    demand: Demand,
    in_ring: Callable[[int], Sequence[Callable[[Parameters], P]]],
    *,
    free: bool,
    count: int = 1,
) -> list[P]:
    """The cheapest plans that are precise enough, on up to `count` different chains, the best one first.

    in_ring: for so many slots, what makes plans of parameters, one for each layout; both raise ParameterError where
    there is none. free: whether make_moduli takes any shape; OpenFHE prescribes one first prime and special primes of
    60 bits.

    The search is complete over SCALE_BITS, rings, digits and layouts: costs are closed forms of what one run of the
    code counts for each ring and layout, so that all of them can be known before any noise is followed. Plans are
    looked at from the cheapest on, and the first that is precise enough is the best there is. A layout of tiles is
    counted only when its lower bound is what is cheapest (best first: no plan that is left can cost less). One that is
    slow on its chain, by its bound more than SLOWER times as much as the best there, is looked at only where it could
    cost less than what was found without: where nothing is precise enough, none of these is tried. Noise falls with
    the scale; the special primes always cover the digits, so that on these nothing depends. Hence a plan is passed
    over if one in its ring, of as many diagonals, with at least its scale was not precise enough; and the smallest
    scale that is comes from a bisection, which starts at the largest one. Raises ParameterError naming the binding
    constraint if nothing fits.
    """
    _, allowed = asked_of(workload)
    work = RootWork()
    judge, bound = (work, work.least) if choice.judge is None else (choice.judge, choice.bound or choice.judge)
    problem: ParameterError | None = None
    quick: list[_Bounded[P]] = []
    slow: list[_Bounded[P]] = []
    for ring_dim in _rings(choice):
        try:
            makers = in_ring(ring_dim // 2)
            shapes = list(_shapes(workload, choice, demand, ring_dim, free=free))
        except ParameterError as error:
            problem = error
            continue
        for shape in shapes:
            try:
                parameters = _parameters(workload, choice, make_moduli, demand, shape)
                made = [make(parameters) for make in makers]
            except ParameterError:
                continue  # no primes for this shape, or their sizes miss a bound by a hair
            bounded = [(bound(plan), -shape.scale_bits, plan) for plan in made if choice.allows(plan)]
            least = min((cost for cost, _, _ in bounded), default=math.inf)
            for each in bounded:
                (quick if each[0] <= SLOWER * least else slow).append(each)
    possible, quick = bool(quick), [each for each in quick if each[0] < math.inf]
    if possible and not quick:
        raise ParameterError(NOT_ALLOWED)
    found, missed = _precise_enough(quick, judge, allowed, count)
    if found:
        cost = judge(found[0])
        slow = [each for each in slow if each[0] < cost]
        return _precise_enough(quick + slow, judge, allowed, count)[0] if slow else found
    if not missed:
        raise problem or ParameterError("no primes are found for any shape that fits; leave [crypto] to the plan")
    return [tolerated(min(missed, key=lambda each: each[0])[1])]


def _precise_enough(
    plans: Sequence[_Bounded[P]], judge: Judge, allowed: float, count: int
) -> tuple[list[P], list[tuple[float, P]]]:
    """(the cheapest on up to `count` different chains, the error of those that were looked at and are not precise
    enough)
    """
    plans = sorted(plans, key=lambda each: each[:2])
    alike: dict[tuple[int, int], list[P]] = {}
    for _, _, plan in plans:
        alike.setdefault(_place(plan), []).append(plan)
    found: list[P] = []
    missed: list[tuple[float, P]] = []
    smallest: dict[tuple[int, int], float] = {}

    def is_too_noisy(plan: P) -> bool:
        return plan.parameters.scale_bits < smallest.get(_place(plan), 0)

    for plan in _in_order(plans, judge, is_too_noisy):
        p, place = plan.parameters, _place(plan)
        if place not in smallest:
            smallest[place] = _smallest_scale(alike[place], allowed, missed)
        if is_too_noisy(plan):
            continue
        if any(is_like(p, other.parameters) for other in found):
            continue
        error_of = plan.precision.released_error
        if error_of <= allowed:
            found.append(plan)
            if len(found) == count:
                break
        else:
            missed.append((error_of, plan))
    return found, missed


def _place(plan: P) -> tuple[int, int]:
    """What precision depends on beside the scale: the ring, and the packing."""
    return plan.parameters.ring_dim, n_diagonals(plan)


def _in_order(plans: Sequence[_Bounded[P]], judge: Judge, is_out: Callable[[P], bool]) -> Iterator[P]:
    """The cheapest first, of equally cheap ones that of the largest scale. plans: with what they cost at least. is_out:
    asked before a plan's cost is worked out, for whether it is passed over anyway.
    """
    heap = [(least, False, order, place) for place, (least, order, _) in enumerate(plans)]
    heapify(heap)
    while heap:
        _, is_known, order, place = heappop(heap)
        plan = plans[place][2]
        if is_known:
            yield plan
            continue
        cost = math.inf if is_out(plan) else judge(plan)
        if cost < math.inf:
            heappush(heap, (cost, True, order, place))


def _smallest_scale(plans: Sequence[P], allowed: float, missed: list[tuple[float, P]]) -> float:
    """The smallest scale_bits at which the cheapest of these plans is precise enough, infinite if there is none.

    missed: is told of those that were not.
    """
    by_scale = {p.parameters.scale_bits: p for p in reversed(plans)}
    scales = sorted(by_scale)

    def suffices(index: int) -> bool:
        plan = by_scale[scales[index]]
        error = plan.precision.released_error
        if error > allowed:
            missed.append((error, plan))
        return error <= allowed

    if not suffices(len(scales) - 1):
        return math.inf
    low, high = -1, len(scales) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return scales[high]


def _rings(choice: Choice) -> Sequence[int]:
    if choice.pinned is not None:
        return (choice.pinned.shape.ring_dim,)
    return RING_DIMS if choice.ring_dim is None else (choice.ring_dim,)


def _parameters(
    workload: Workload, choice: Choice, make_moduli: MakeModuli, demand: Demand, shape: Shape
) -> Parameters:
    return Parameters.of_shape(
        shape,
        make_moduli(shape),
        n_parties=workload.n_parties,
        refresh_limbs=shape.n_limbs - demand.levels,
        message_bits=demand.message_bits(shape.scale_bits),
        security_bits=choice.security_bits,
        statistical_bits=choice.statistical_bits,
    )


def _shapes(workload: Workload, choice: Choice, demand: Demand, ring_dim: int, *, free: bool) -> Iterator[Shape]:
    """Chains within the cap on log2(QP). Raises ParameterError if none fits."""
    if choice.pinned is not None:
        check_cap(ring_dim, choice.pinned.shape.log_qp, choice.security_bits)
        yield choice.pinned.shape
        return
    found, problem = False, None
    for scale_bits in SCALE_BITS if choice.scale_bits is None else (choice.scale_bits,):
        floor = ROUNDING_BITS + refresh_floor_bits(
            choice.statistical_bits, scale_bits, demand.message_bits(scale_bits), workload.n_parties
        )
        if free:
            needed = math.ceil(floor / (choice.first_bits or FAST_BITS))
        else:
            needed = 1 + max(0, math.ceil((floor - (choice.first_bits or FIRST_BITS)) / scale_bits))
        limbs = needed + demand.levels if choice.limbs is None else choice.limbs
        low_limbs = limbs - demand.levels
        if low_limbs < needed:
            problem = problem or ParameterError(
                f"limbs = {limbs} are too few: {demand.levels} levels are consumed between refreshes, and one with "
                f"{choice.statistical_bits} statistical bits at scale 2^{scale_bits} needs {needed} limbs; need "
                f"{needed + demand.levels}, an activation of lower degree or fewer statistical_bits"
            )
            continue
        first_bits = choice.first_bits or (math.ceil(floor / low_limbs) if free else FIRST_BITS)
        floor_limbs = low_limbs if free else 1
        for digits in sorted({len(digit_ranges(limbs, d)) for d in range(1, limbs + 1)}):
            if choice.digits not in (None, digits):
                continue
            shape = Shape(ring_dim, first_bits, scale_bits, limbs, digits, floor_limbs)
            if not free:
                try:
                    check_cap(ring_dim, shape.log_qp, choice.security_bits)
                    found = True
                    yield shape
                except ParameterError as error:
                    problem = problem or error
                continue
            number = math.ceil(shape.largest_digit_bits / FAST_BITS)
            room = math.floor(LOG_QP_CAPS[choice.security_bits].get(ring_dim, 0) - 1 - sum(shape.limb_bits))
            bits = min(FAST_BITS, room // number)
            whole = replace(shape, special_limbs=number, special_bits=max(bits, 1))
            try:
                if bits * number < shape.largest_digit_bits:
                    check_cap(ring_dim, sum(shape.limb_bits) + shape.largest_digit_bits, choice.security_bits)
                    continue
                check_cap(ring_dim, whole.log_qp, choice.security_bits)
            except ParameterError as error:
                problem = problem or error
                continue
            found = True
            yield whole
    if not found:
        raise problem or ParameterError(f"no modulus chain fits ring_dim {ring_dim}; use a larger one")
