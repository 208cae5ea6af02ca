"""Choosing parameters for a perceptron: the smallest ring, and in it the cheapest chain that is precise enough."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from mhe.errors import ParameterError
from mhe.parameters import LOG_QP_CAPS, Parameters, Shape, check_cap, digit_ranges, refresh_floor_bits
from models.cost import FAST_BITS
from models.mlp_plan import PerceptronPlan, perceptron_levels, perceptron_message_bits
from models.search import FIRST_BITS, LOGIT_ERROR, RING_DIMS, ROUNDING_BITS, TOLERATED, Choice, MakeModuli
from models.tiles import TileLayout
from models.workload import Workload

SCALE_BITS = (60, 58, 56, 52, FAST_BITS, 45, 42, 39, 36)
"""Tried from the most precise down, of which OpenFHE takes 58; next to FAST_BITS or below, a limb costs less."""


def choose_perceptron_plan(
    workload: Workload, choice: Choice, make_moduli: MakeModuli, *, free: bool
) -> PerceptronPlan:
    """The plan in the smallest ring with a precise enough chain, of those the cheapest.

    free: whether make_moduli takes any shape; OpenFHE prescribes one first prime and special primes of 60 bits.
    Raises ParameterError naming the binding constraint if nothing fits.
    """
    rings = RING_DIMS if choice.ring_dim is None else (choice.ring_dim,)
    allowed = workload.precision
    if workload.release == "predictions":
        allowed = max(allowed, LOGIT_ERROR)
    best: PerceptronPlan | None = None
    problem: ParameterError | None = None
    for ring_dim in rings:
        try:
            layout = choose_tiles(workload, ring_dim // 2)
            shapes = sorted(_shapes(workload, choice, ring_dim, free=free), key=_cost)
        except ParameterError as error:
            problem = error
            continue
        # a chain of the same scale with more special primes or digits is as precise: the cheapest speaks for all
        for shape in {shape.scale_bits: shape for shape in reversed(shapes)}.values():
            plan = _plan(workload, choice, shape, layout, make_moduli)
            if plan is None:
                continue
            error_of = plan.precision.released_error
            if best is None or error_of < best.precision.released_error:
                best = plan
            if error_of <= allowed:
                return _cheapest(workload, choice, shapes, layout, make_moduli, allowed) or plan
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


def choose_tiles(workload: Workload, n_slots: int) -> TileLayout:
    """Tiles as wide as the widest layer of outputs, or as the slots allow. ParameterError if a batch has more rows."""
    batch = max(workload.batch_rows)
    widest = max((*workload.hidden, workload.outputs))
    most = math.isqrt(n_slots // 2)
    width = min(1 << max(widest - 1, 0).bit_length(), 1 << most.bit_length() - 1)
    if batch > n_slots // (2 * width):
        rows = n_slots // (2 * width)
        raise ParameterError(f"a batch of {batch} rows does not fit {rows} rows of {2 * width} slots; use smaller ones")
    baby = 1 << (width.bit_length() // 2)
    return TileLayout(n_slots, width, min(baby, width))


def _shapes(workload: Workload, choice: Choice, ring_dim: int, *, free: bool) -> Iterator[Shape]:
    """Chains within the cap on log2(QP). Raises ParameterError if none fits."""
    levels = perceptron_levels(workload.model)
    found, problem = False, None
    for scale_bits in SCALE_BITS if choice.scale_bits is None else (choice.scale_bits,):
        floor = ROUNDING_BITS + refresh_floor_bits(
            choice.statistical_bits, scale_bits, perceptron_message_bits(workload), workload.n_parties
        )
        if free:
            needed = math.ceil(floor / (choice.first_bits or FAST_BITS))
        else:
            needed = 1 + max(0, math.ceil((floor - (choice.first_bits or FIRST_BITS)) / scale_bits))
        limbs = needed + levels if choice.limbs is None else choice.limbs
        low_limbs = limbs - levels
        if low_limbs < needed:
            problem = problem or ParameterError(
                f"limbs = {limbs} are too few: a layer consumes {levels} levels and a refresh with "
                f"{choice.statistical_bits} statistical bits at scale 2^{scale_bits} needs {needed} limbs; need "
                f"{needed + levels}, an activation of lower degree or fewer statistical_bits"
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


def _cheapest(
    workload: Workload,
    choice: Choice,
    shapes: list[Shape],
    layout: TileLayout,
    make_moduli: MakeModuli,
    allowed: float,
) -> PerceptronPlan | None:
    for shape in shapes:
        plan = _plan(workload, choice, shape, layout, make_moduli)
        if plan is not None and plan.precision.released_error <= allowed:
            return plan
    return None


def _plan(
    workload: Workload, choice: Choice, shape: Shape, layout: TileLayout, make_moduli: MakeModuli
) -> PerceptronPlan | None:
    """The plan on real primes; None where there are none for this shape or their sizes miss a bound by a hair."""
    try:
        parameters = Parameters.of_shape(
            shape,
            make_moduli(shape),
            n_parties=workload.n_parties,
            refresh_limbs=shape.n_limbs - perceptron_levels(workload.model),
            message_bits=perceptron_message_bits(workload),
            security_bits=choice.security_bits,
            statistical_bits=choice.statistical_bits,
        )
        return PerceptronPlan(workload, parameters, layout)
    except ParameterError:
        return None
