"""Choosing a modulus chain where a plan is judged by following the noise of its own code, which takes time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from itertools import product
from typing import Generic, TypeVar

from mhe.errors import ParameterError
from mhe.parameters import Parameters, Shape, refresh_room_bits
from models.candidates import ROUNDING_BITS, margin_class, rings_of, shapes_for
from models.choice import Choice, MakeModuli
from models.cost import size_class
from models.local_plan import LocalPlan
from models.mlp_plan import PerceptronPlan
from models.newton_plan import FixedHessianPlan
from models.search import NOT_ALLOWED, RootWork, asked_of, is_like, no_primes, tolerated
from models.workload import Workload

LEAST_SCALE_BITS = 36
"""With less, nothing is left of products of encrypted values."""

SLOWER = 2.0
"""Layouts that take more than so many times as long as another one on the same chain are not looked at for the sake of
precision: another chain is a cheaper way to it."""

P = TypeVar("P", PerceptronPlan, FixedHessianPlan, LocalPlan)


@dataclass(frozen=True)
class Demand:
    """What a computation asks of a chain: levels between refreshes, and bits of what is refreshed above a scale.

    message_bits: by scale_bits; where there are several, the first ones make it more precise, and others are taken for
    shorter chains. takes_more: whether it makes use of what room the limbs of the refresh have beyond that.
    """

    levels: int
    message_bits: Sequence[Callable[[int], float]]
    takes_more: bool = False

    def room(self, shape: Shape, statistical_bits: int, n_parties: int) -> float:
        """The bits above the scale that are refreshed on this chain."""
        if not self.takes_more:
            return self.message_bits[0](shape.scale_bits)
        floor = sum(shape.limb_bits[: shape.n_limbs - self.levels]) - ROUNDING_BITS
        return refresh_room_bits(floor, statistical_bits, shape.scale_bits, n_parties)


Family = tuple[Demand, Callable[[int], Sequence[Callable[[Parameters], P]]]]
"""What one way to compute asks of a chain; and for so many slots, what makes plans of parameters, one for each layout:
both raise ParameterError where there is none. The first one is what refusals are about."""


@dataclass
class _Bounded(Generic[P]):
    """A plan, what it costs at least, and its place among equally cheap ones. kind, quality: of plans of one kind, one
    is no more precise than another one that it does not exceed in any part of the quality, the last of which is the
    scale. stage: how many of the bounds behind the first one are worked out; behind the last one is the cost itself.
    """

    cost: float
    order: int
    plan: P
    kind: tuple[int, ...]
    quality: tuple[int, ...]
    stage: int = 0

    @property
    def group(self) -> tuple[int, ...]:
        """Of all plans that differ from it in nothing that precision hangs on but the scale."""
        return *self.kind, *self.quality[:-1]

    def is_no_better_than(self, other: _Bounded[P]) -> bool:
        """Whether it is no more precise, of two of one kind."""
        return all(mine <= its for mine, its in zip(self.quality, other.quality, strict=True))


@dataclass
class _Precision(Generic[P]):
    """Which plans are precise enough, by following the noise of as few as can be. missed: those that were not, with
    their errors.
    """

    allowed: float
    missed: list[tuple[float, _Bounded[P]]] = field(default_factory=list)
    _noisy: dict[tuple[int, ...], list[_Bounded[P]]] = field(default_factory=dict)

    def is_known_to_miss(self, each: _Bounded[P]) -> bool:
        return any(map(each.is_no_better_than, self._noisy.get(each.kind, ())))

    def suffices(self, each: _Bounded[P]) -> bool:
        if self.is_known_to_miss(each):
            return False
        error = each.plan.precision.released_error
        if error > self.allowed:
            self.missed.append((error, each))
            self._noisy.setdefault(each.kind, []).append(each)
        return error <= self.allowed

    def bisect(self, plans: Sequence[_Bounded[P]]) -> None:
        """Find the smallest scale that is precise enough, of plans that differ in nothing else."""
        by_scale = {each.quality[-1]: each for each in reversed(plans)}  # the cheapest one of each
        scales = sorted(by_scale)
        low, high = -1, len(scales)
        while high - low > 1:
            # from the largest one on, for often none is enough
            middle = high - 1 if high == len(scales) else (low + high) // 2
            if self.suffices(by_scale[scales[middle]]):
                high = middle
            else:
                low = middle


def choose_chains(
    workload: Workload,
    choice: Choice,
    make_moduli: MakeModuli,
    families: Sequence[Family[P]],
    *,
    free: bool,
    bounds: Sequence[Callable[[P], float]] = (),
    count: int = 1,
) -> list[P]:
    """The cheapest plans that are precise enough, up to `count` of different chains or families, the best one first.

    free: whether make_moduli takes any shape; OpenFHE prescribes one first prime and special primes of 60 bits.
    bounds: as of a `Choice`, for plans of this kind.

    The search is complete over rings, families, layouts and the chains of `models.candidates`: costs are closed forms
    of what one run of the code counts for each ring and layout, so that all of them can be known before any noise is
    followed. Plans are looked at from the cheapest on, and the first that is precise enough is the best there is. The
    next bound of a plan, and in the end its cost, is worked out only when the one before it is what is cheapest (best
    first: no plan that is left can cost less), and noise is followed only where a cost is. A plan that is slow on its
    chain, by its first bound more than SLOWER times as much as the best there, is looked at only where it could cost
    less than what was found without: where nothing is precise enough, none of these is tried.

    Noise falls with the scale and with the margin of the special primes; what a family takes of the room of a refresh
    grows with the floor, as the scale does. Hence a plan is passed over if one in its ring and family, of as many
    diagonals, with no less room, margin or scale was not precise enough. The most precise one of a family, ring and
    number of diagonals is looked at first, and then the smallest scale that is precise enough comes from a bisection.
    Raises ParameterError naming the binding constraint if nothing fits.
    """
    _, allowed = asked_of(workload)
    judge = choice.judge or RootWork()
    stages: list[Callable[[P], float]] = list(bounds)
    stages.append(judge)
    problem: ParameterError | None = None
    fits = False
    quick: list[_Bounded[P]] = []
    slow: list[_Bounded[P]] = []
    for ring_dim, (family, (demand, in_ring)) in product(rings_of(choice), enumerate(families)):
        try:
            makers = in_ring(ring_dim // 2)
            shapes = list(_shapes(workload, choice, demand, ring_dim, free=free))
        except ParameterError as error:
            problem = error if family == 0 else problem
            continue
        for asked, shape in shapes:
            fits = True
            try:
                parameters = _parameters(workload, choice, make_moduli, demand, shape)
                made = [make(parameters) for make in makers]
            except ParameterError:
                continue  # no primes for this shape, or their sizes miss a bound by a hair
            costs = [(stages[0](plan), plan) for plan in made if choice.allows(plan)]
            least = min((cost for cost, _ in costs), default=math.inf)
            quality = -asked, margin_class(shape), shape.scale_bits
            for cost, plan in costs:
                kind = family, ring_dim, plan.layout.n_diagonals
                each = _Bounded(cost, -shape.scale_bits, plan, kind, quality)
                (quick if cost <= SLOWER * least else slow).append(each)
    possible, quick = bool(quick), [each for each in quick if each.cost < math.inf]
    if possible and not quick:
        raise ParameterError(NOT_ALLOWED)
    found, missed = _precise_enough(quick, stages[1:], allowed, count)
    if found:
        most = found[-1].cost if len(found) == count else math.inf
        slow = [each for each in slow if each.cost < most]
        best = _precise_enough(quick + slow, stages[1:], allowed, count)[0] if slow else found
        return [each.plan for each in best]
    if not missed:
        raise problem if problem and not fits else no_primes(choice)
    return [tolerated(min(missed, key=lambda each: each[0])[1].plan, choice)]


def _precise_enough(
    plans: Sequence[_Bounded[P]], stages: Sequence[Callable[[P], float]], allowed: float, count: int
) -> tuple[list[_Bounded[P]], list[tuple[float, _Bounded[P]]]]:
    """(the cheapest on up to `count` different chains, with what they cost; the error of those that were looked at and
    are not precise enough)
    """
    plans = sorted(plans, key=lambda each: (each.cost, each.order))
    most_precise: dict[tuple[int, ...], _Bounded[P]] = {}
    alike: dict[tuple[int, ...], list[_Bounded[P]]] = {}
    for plan in plans:
        most_precise[plan.kind] = max(most_precise.get(plan.kind, plan), plan, key=lambda one: one.quality)
        alike.setdefault(plan.group, []).append(plan)
    precision = _Precision[P](allowed)
    tried, bisected = set[tuple[int, ...]](), set[tuple[int, ...]]()

    def is_out(each: _Bounded[P]) -> bool:
        # to count operations takes as long as to follow the noise of what is most precise of a kind
        if each.stage >= len(stages) - 1 and each.kind not in tried:
            tried.add(each.kind)
            precision.suffices(most_precise[each.kind])
        return precision.is_known_to_miss(each)

    found: list[_Bounded[P]] = []
    for each in _in_order(plans, stages, is_out):
        if each.group not in bisected:
            bisected.add(each.group)
            precision.bisect(alike[each.group])
        if any(_is_alike(each.plan, other.plan) for other in found):
            continue
        if precision.suffices(each):
            found.append(each)
            if len(found) == count:
                break
    return found, precision.missed


def _is_alike(plan: P, other: P) -> bool:
    return is_like(plan.parameters, other.parameters) and plan.points == other.points


def _in_order(
    plans: Sequence[_Bounded[P]], stages: Sequence[Callable[[P], float]], is_out: Callable[[_Bounded[P]], bool]
) -> Iterator[_Bounded[P]]:
    """The cheapest first, of equally cheap ones that of the largest scale, with what they cost: by the last of these
    stages, for which those before it are bounds. is_out: asked before a stage, for whether a plan is passed over.
    """
    heap = [(each.cost, each.stage, each.order, place) for place, each in enumerate(plans)]
    heapify(heap)
    while heap:
        *_, place = heappop(heap)
        each = plans[place]
        if is_out(each):
            continue
        if each.stage == len(stages):
            yield each
            continue
        each.cost = max(each.cost, stages[each.stage](each.plan))
        each.stage += 1
        heappush(heap, (each.cost, each.stage, each.order, place))


def _parameters(
    workload: Workload, choice: Choice, make_moduli: MakeModuli, demand: Demand, shape: Shape
) -> Parameters:
    return Parameters.of_shape(
        shape,
        make_moduli(shape),
        n_parties=workload.n_parties,
        refresh_limbs=shape.n_limbs - demand.levels,
        message_bits=demand.room(shape, choice.statistical_bits, workload.n_parties),
        security_bits=choice.security_bits,
        statistical_bits=choice.statistical_bits,
    )


def _shapes(
    workload: Workload, choice: Choice, demand: Demand, ring_dim: int, *, free: bool
) -> Iterator[tuple[int, Shape]]:
    """(which of its message_bits, chain) for all chains within the cap on log2(QP), but for those that cost as much as
    one with more room at the same scale. Raises ParameterError if none fits.
    """
    known = set[Shape]()
    problem: ParameterError | None = None
    least = LEAST_SCALE_BITS
    for place, bits in enumerate(demand.message_bits):
        try:
            shapes = shapes_for(workload, choice, ring_dim, demand.levels, bits, free=free, least_scale_bits=least)
        except ParameterError as error:
            problem = problem or error
            continue
        for shape in shapes:
            if (alike := replace(shape, first_bits=size_class(shape.first_bits))) not in known:
                known.add(alike)
                yield place, shape
    if not known and problem is not None:
        raise problem
