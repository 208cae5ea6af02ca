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


@dataclass(frozen=True)
class Choice:
    """Constraints and explicit wishes; None leaves a value to the search."""

    security_bits: int = 128
    statistical_bits: int = 128
    ring_dim: int | None = None
    first_bits: int | None = None
    scale_bits: int | None = None
    digits: int | None = None


def choose_plan(workload: Workload, choice: Choice, make_moduli: MakeModuli) -> CircuitPlan:
    """The cheapest parameters that meet every constraint, as a plan.

    Cost is the limbs that one key switch transforms: digits * (limbs + special limbs) * ring_dim. For each ring and
    number of digits the largest scale that fits is taken, for it is free and gives the most precision. Raises
    ParameterError naming the binding constraint if nothing fits.
    """
    reasons: list[str] = []
    candidates: list[tuple[float, Shape, int]] = []
    for ring_dim in RING_DIMS if choice.ring_dim is None else (choice.ring_dim,):
        if workload.features + 1 > ring_dim // 2:
            reasons.append(f"ring_dim {ring_dim}: {workload.features} features do not fit {ring_dim // 2} slots")
            continue
        for digits in range(1, 9) if choice.digits is None else (choice.digits,):
            found = _largest_scale(workload, choice, ring_dim, digits)
            if isinstance(found, str):
                reasons.append(f"ring_dim {ring_dim}, {digits} digits: {found}")
                continue
            shape, refresh_limbs = found
            cost = digits * (shape.n_limbs + _special_limbs(shape)) * ring_dim * math.log2(ring_dim)
            candidates.append((cost, shape, refresh_limbs))
    for _, shape, refresh_limbs in sorted(candidates, key=lambda c: (c[0], -c[1].scale_bits)):
        try:
            moduli, special = make_moduli(shape)
            parameters = Parameters(
                ring_dim=shape.ring_dim,
                moduli=moduli,
                special_moduli=special,
                scale_bits=shape.scale_bits,
                digits=shape.digits,
                n_parties=workload.n_parties,
                refresh_limbs=refresh_limbs,
                message_bits=workload.message_bits,
                security_bits=choice.security_bits,
                statistical_bits=choice.statistical_bits,
            )
            plan = CircuitPlan(workload, parameters)
        except ParameterError as error:
            reasons.append(f"ring_dim {shape.ring_dim}, {shape.digits} digits: {error}")
            continue
        if plan.precision.weight_error <= workload.precision:
            return plan
        reasons.append(
            f"ring_dim {shape.ring_dim}, scale 2^{shape.scale_bits}: weights would be precise to "
            f"{plan.precision.weight_error:.1g} with {workload.release_bits} statistical bits in the release"
        )
    raise ParameterError(
        f"no parameters give {choice.security_bits}-bit security, {choice.statistical_bits} statistical bits in "
        f"refreshes and a precision of {workload.precision:g}: relax one of them, or the depth. Tried:\n  "
        + "\n  ".join(reasons)
    )


def _largest_scale(workload: Workload, choice: Choice, ring_dim: int, digits: int) -> tuple[Shape, int] | str:
    """(shape, refresh limbs) with the largest scale that fits this ring and number of digits, or why there is none."""
    first = choice.first_bits or FIRST_BITS
    why = "no scale fits"
    for scale_bits in SCALE_BITS if choice.scale_bits is None else (choice.scale_bits,):
        floor = refresh_floor_bits(choice.statistical_bits, scale_bits, workload.message_bits, workload.n_parties)
        refresh_limbs = 1 + max(0, math.ceil((floor + 0.5 - first) / scale_bits))
        shape = Shape(ring_dim, first, scale_bits, refresh_limbs + workload.levels, digits)
        if digits > shape.n_limbs or -(-shape.n_limbs // -(-shape.n_limbs // digits)) != digits:
            why = f"{shape.n_limbs} limbs do not make {digits} digits"
            continue
        log_qp = first + (shape.n_limbs - 1) * scale_bits + SPECIAL_BITS * _special_limbs(shape)
        try:
            check_cap(ring_dim, log_qp, choice.security_bits)
        except ParameterError as error:
            why = str(error)
            continue
        return shape, refresh_limbs
    return why


def _special_limbs(shape: Shape) -> int:
    """How many special primes cover the largest digit."""
    width = -(-shape.n_limbs // shape.digits)
    return math.ceil((shape.first_bits + (width - 1) * shape.scale_bits) / SPECIAL_BITS)
