"""Choosing parameters: the cheapest that meet security, the refresh floor and the precision asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mhe.errors import ParameterError
from mhe.moduli import SPECIAL_BITS
from mhe.parameters import Parameters, Shape, check_cap, refresh_floor_bits
from models.plan import CircuitPlan
from models.workload import Workload

MakeModuli = Callable[[Shape], tuple[tuple[int, ...], tuple[int, ...]]]

RING_DIMS = tuple(1 << k for k in range(12, 17))
FIRST_BITS = 60
SCALE_BITS = range(58, 29, -1)


DIGITS = range(1, 9)

TOLERATED = 10
"""Where no parameters are as precise as asked for, the most precise ones do if they miss it by this factor at most."""

LOGIT_ERROR = 0.05
"""What is asked of delivered logits where the precision asked of the weights is finer: a probability moves by at most
an eightieth."""


@dataclass(frozen=True)
class Choice:
    """Constraints and explicit wishes; None leaves a value to the search."""

    security_bits: int = 128
    statistical_bits: int = 128
    ring_dim: int | None = None
    first_bits: int | None = None
    scale_bits: int | None = None
    digits: int | None = None
    limbs: int | None = None


@dataclass(frozen=True)
class _Candidate:
    """A shape within the cap on log2(QP), and the limbs at which it refreshes."""

    shape: Shape
    refresh_limbs: int

    @property
    def cost(self) -> float:
        """Work of one key switch: the limbs that it transforms, times the work for one."""
        n = self.shape.ring_dim
        return self.shape.digits * (self.shape.n_limbs + _special_limbs(self.shape)) * n * math.log2(n)


def choose_plan(workload: Workload, choice: Choice, make_moduli: MakeModuli) -> CircuitPlan:
    """The parameters with the cheapest key switch that meet every constraint, as a plan.

    For each ring and number of digits the largest scale that fits is taken, for it is free and the most precise.
    Where none is precise enough, the most precise ones within a factor TOLERATED; the plan says what they reach.
    Raises ParameterError naming the binding constraint if nothing fits.
    """
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
            f"(forward 1, sigmoid of degree {workload.sigmoid.degree} {workload.sigmoid.depth}, backward 1); need more "
            "limbs, or a lower degree"
        )
    candidates: list[_Candidate] = []
    problem: ParameterError | None = None
    # from the largest ring down, so that the first problem met is that of the most capable one
    for ring_dim in sorted(wide_enough, reverse=True):
        for digits in DIGITS if choice.digits is None else (choice.digits,):
            try:
                candidates.append(_largest_scale(workload, choice, ring_dim, digits))
            except ParameterError as error:
                problem = problem or error
    if not candidates and problem is not None:
        raise problem
    best: CircuitPlan | None = None
    what, allowed = "weights", workload.precision
    if workload.release == "predictions":
        what, allowed = "logits", max(workload.precision, LOGIT_ERROR)
    for candidate in sorted(candidates, key=lambda c: (c.cost, -c.shape.scale_bits)):
        plan = _plan(workload, choice, candidate, make_moduli)
        if plan is None:
            continue
        if plan.precision.released_error <= allowed:
            return plan
        if best is None or plan.precision.released_error < best.precision.released_error:
            best = plan
    if best is not None and best.precision.released_error <= TOLERATED * allowed:
        return best
    if best is None:
        raise ParameterError("no primes are found for any shape that fits; leave the [crypto] values to the plan")
    raise ParameterError(
        f"the {what} would be released to {best.precision.released_error:.1g} at best (ring_dim "
        f"{best.parameters.ring_dim}, scale 2^{best.parameters.scale_bits}), {allowed:g} is asked for: the "
        f"smudging of {workload.release_bits} statistical bits is what costs precision. Lower [release] "
        "statistical_bits, allow a larger [release] precision, or train with fewer iterations, less momentum, more L2 "
        "or a smaller learning_rate"
    )


def _plan(workload: Workload, choice: Choice, candidate: _Candidate, make_moduli: MakeModuli) -> CircuitPlan | None:
    """The plan on real primes; None where a library finds none for this shape or its sizes miss a bound by a hair."""
    shape = candidate.shape
    try:
        moduli, special = make_moduli(shape)
        parameters = Parameters(
            ring_dim=shape.ring_dim,
            moduli=moduli,
            special_moduli=special,
            scale_bits=shape.scale_bits,
            digits=shape.digits,
            n_parties=workload.n_parties,
            refresh_limbs=candidate.refresh_limbs,
            message_bits=workload.message_bits,
            security_bits=choice.security_bits,
            statistical_bits=choice.statistical_bits,
        )
    except ParameterError:
        return None
    return CircuitPlan(workload, parameters)


def _largest_scale(workload: Workload, choice: Choice, ring_dim: int, digits: int) -> _Candidate:
    """The largest scale that fits this ring and number of digits. Raises ParameterError with what is in the way."""
    first = choice.first_bits or FIRST_BITS
    problem: ParameterError | None = None
    for scale_bits in SCALE_BITS if choice.scale_bits is None else (choice.scale_bits,):
        floor = refresh_floor_bits(choice.statistical_bits, scale_bits, workload.message_bits, workload.n_parties)
        needed = 1 + max(0, math.ceil((floor + 0.5 - first) / scale_bits))
        limbs = needed + workload.levels if choice.limbs is None else choice.limbs
        refresh_limbs = limbs - workload.levels
        shape = Shape(ring_dim, first, scale_bits, limbs, digits)
        try:
            if refresh_limbs < needed:
                raise ParameterError(
                    f"limbs = {limbs} are too few: one iteration consumes {workload.levels} levels and a refresh with "
                    f"{choice.statistical_bits} statistical bits needs {needed} limbs of {scale_bits} bits; need "
                    f"{needed + workload.levels}, a lower degree or fewer statistical_bits"
                )
            if -(-limbs // -(-limbs // digits)) != digits:
                raise ParameterError(
                    f"{limbs} limbs cannot be cut into {digits} digits of equal width; use another number"
                )
            log_qp = first + (limbs - 1) * scale_bits + SPECIAL_BITS * _special_limbs(shape)
            check_cap(ring_dim, log_qp, choice.security_bits)
        except ParameterError as error:
            # a smaller scale eases the cap, a larger one asks for fewer limbs: the last or the first problem is the one
            problem = error if choice.limbs is None or problem is None else problem
            continue
        return _Candidate(shape, refresh_limbs)
    raise problem or ParameterError("no scale is allowed; leave scale_bits to the plan")


def _special_limbs(shape: Shape) -> int:
    """How many special primes cover the largest digit."""
    width = -(-shape.n_limbs // shape.digits)
    return math.ceil((shape.first_bits + (width - 1) * shape.scale_bits) / SPECIAL_BITS)
