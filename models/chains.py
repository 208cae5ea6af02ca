"""Choosing a modulus chain where a plan is judged by itself: the smallest ring, in it the cheapest that is precise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol, TypeVar

from mhe.errors import ParameterError
from mhe.parameters import LOG_QP_CAPS, Parameters, Shape, check_cap, digit_ranges, refresh_floor_bits
from models.cost import FAST_BITS
from models.search import FIRST_BITS, LOGIT_ERROR, RING_DIMS, ROUNDING_BITS, TOLERATED, Choice, MakeModuli
from models.workload import Workload

SCALE_BITS = (60, 58, 56, 52, FAST_BITS, 45, 42, 39, 36)
"""Tried from the most precise down, of which OpenFHE takes 58; next to FAST_BITS or below, a limb costs less."""


class _Precise(Protocol):
    @property
    def released_error(self) -> float: ...


class _Planned(Protocol):
    @property
    def parameters(self) -> Parameters: ...

    @property
    def precision(self) -> _Precise: ...


P = TypeVar("P", bound=_Planned)


@dataclass(frozen=True)
class Demand:
    """What a computation asks of a chain: levels between refreshes, and bits of what is refreshed above a scale."""

    levels: int
    message_bits: Callable[[int], float]


def choose_chain(
    workload: Workload,
    choice: Choice,
    make_moduli: MakeModuli,
    demand: Demand,
    in_ring: Callable[[int], Callable[[Parameters], P]],
    *,
    free: bool,
) -> P:
    """The plan in the smallest ring with a precise enough chain, of those the cheapest.

    in_ring: for so many slots, what makes a plan of parameters; both raise ParameterError where there is none. free:
    whether make_moduli takes any shape; OpenFHE prescribes one first prime and special primes of 60 bits. Raises
    ParameterError naming the binding constraint if nothing fits.
    """
    rings = RING_DIMS if choice.ring_dim is None else (choice.ring_dim,)
    allowed = workload.precision
    if workload.release in ("predictions", "encrypted"):
        allowed = max(allowed, LOGIT_ERROR)
    best: P | None = None
    problem: ParameterError | None = None
    for ring_dim in rings:
        try:
            plan_of = in_ring(ring_dim // 2)
            shapes = sorted(_shapes(workload, choice, demand, ring_dim, free=free), key=_cost)
        except ParameterError as error:
            problem = error
            continue

        # a plan follows the noise of its own code, which takes time: of each shape there is one
        @cache
        def plan_on(shape: Shape, plan_of: Callable[[Parameters], P] = plan_of) -> P | None:
            """None where there are no primes for this shape or their sizes miss a bound by a hair."""
            try:
                return plan_of(_parameters(workload, choice, make_moduli, demand, shape))
            except ParameterError:
                return None

        # a chain of the same scale with more special primes or digits is as precise: the cheapest speaks for all
        for shape in {shape.scale_bits: shape for shape in reversed(shapes)}.values():
            plan = plan_on(shape)
            if plan is None:
                continue
            error_of = plan.precision.released_error
            if best is None or error_of < best.precision.released_error:
                best = plan
            if error_of <= allowed:
                every = (each for each in map(plan_on, shapes) if each is not None)
                return next((each for each in every if each.precision.released_error <= allowed), plan)
    if best is not None and best.precision.released_error <= TOLERATED * allowed:
        return best
    if best is None:
        raise problem or ParameterError("no primes are found for any shape that fits; leave [crypto] to the plan")
    raise ParameterError(
        f"what is released would be precise to {best.precision.released_error:.1g} at best (ring_dim "
        f"{best.parameters.ring_dim}, scale 2^{best.parameters.scale_bits}), {allowed:g} is asked for: the smudging of "
        f"{workload.release_bits} statistical bits is what costs precision. Lower [release] statistical_bits, allow a "
        "larger [release] precision, or train with fewer iterations or less momentum"
    )


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


def _cost(shape: Shape) -> float:
    """Work of a key switch: limbs that are transformed, wide ones counting more."""
    bits = (*shape.limb_bits, *shape.all_special_bits)
    limbs = sum(FIRST_BITS / FAST_BITS if b > FAST_BITS else 1.0 for b in bits)
    return (shape.digits + 2) * limbs
