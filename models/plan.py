"""`CircuitPlan`: everything about a training run that can be known before a key is generated.

Levels, scales, rotations, messages, memory, noise and the precision of the release follow in closed form from the
workload and the parameters; keys are generated for exactly this plan, and `mhe plan` prints it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mhe.collective import Transfer
from mhe.errors import ParameterError
from mhe.keys import KeyPlan
from mhe.parameters import Parameters, Shape, check_cap, refresh_floor_bits
from mhe.security import (
    key_error_std,
    key_switch_std,
    norm_bound,
    refresh_error_std,
    rounding_std,
    smudging_std,
)
from models.activations import Polynomial
from models.packing import BlockLayout, choose_layout

Floats = npt.NDArray[np.float64]

MOMENTUM_BITS = 10
"""Momentum is used in multiples of 2^-MOMENTUM_BITS, so that v = (1 + beta) w - beta w_previous costs no level."""

LIMB_BYTES = 8

PREDICTED_QUANTILE = 1e-3
"""The predicted largest weight error is exceeded with at most this probability."""


@dataclass(frozen=True)
class Workload:
    """What is to be trained, in public terms only.

    rows: training rows of every party. features: columns, without the intercept. batch: rows per party and iteration,
    or None for all. message_bound: largest absolute weight assumed. release_bits: statistical bits of the smudging of
    released values. releases: how many ciphertexts are opened over the run. precision: largest weight error that is
    acceptable. opens_model: whether the weights are released.
    """

    rows: tuple[int, ...]
    features: int
    iterations: int
    learning_rate: float
    momentum: float
    l2: float
    batch: int | None
    sigmoid: Polynomial
    message_bound: float
    release_bits: int
    releases: int
    precision: float
    opens_model: bool

    @property
    def n_parties(self) -> int:
        return len(self.rows)

    @property
    def batch_rows(self) -> tuple[int, ...]:
        """Rows that every party brings to one iteration."""
        return tuple(rows if self.batch is None else min(rows, self.batch) for rows in self.rows)

    @property
    def momentum_factor(self) -> int:
        return 1 if self.momentum == 0 else 1 << MOMENTUM_BITS

    @property
    def levels(self) -> int:
        """Levels of one iteration: forward, sigmoid, backward."""
        return self.sigmoid.depth + 2

    @property
    def message_bits(self) -> float:
        """log2 of the largest |weight| times the weights' scale, above the default scale (see
        CircuitPlan.weight_scale).
        """
        scale = math.sqrt(sum(self.batch_rows) / (self.learning_rate * self.momentum_factor))
        return math.log2(self.message_bound * scale) + 1


@dataclass(frozen=True)
class CircuitPlan:
    """One training run: a workload on parameters.

    The loop: look ahead, every party's gradient, sum up the tree, the root's step, refresh, broadcast.
    """

    workload: Workload
    parameters: Parameters

    def __post_init__(self) -> None:
        p, w = self.parameters, self.workload
        if p.depth < w.levels:
            raise ParameterError(
                f"one iteration consumes {w.levels} levels (forward 1, sigmoid of degree {w.sigmoid.degree} "
                f"{w.sigmoid.depth}, backward 1), the parameters have {p.depth} above the refresh; need "
                f"{p.refresh_limbs + w.levels} limbs, or a lower sigmoid_degree"
            )
        if p.n_parties != w.n_parties:
            raise ParameterError(f"parameters for {p.n_parties} parties, rows of {w.n_parties}; need the same number")
        if w.message_bits > p.message_bits:
            raise ParameterError(
                f"weights need {w.message_bits:.1f} bits above the scale, the parameters allow {p.message_bits:.1f}; "
                "lower message_bound or raise it in the parameters"
            )

    @cached_property
    def layout(self) -> BlockLayout:
        return choose_layout(self.parameters.n_slots, max(self.workload.batch_rows), self.workload.features + 1)

    @property
    def key_plan(self) -> KeyPlan:
        everywhere = self.layout.rotations()
        return KeyPlan(everywhere, tuple(r for r in self.layout.fold_steps if r not in everywhere))

    # limbs and scales

    @property
    def error_limbs(self) -> int:
        """Limbs of the errors p(X v) - y, and of the gradient before its rescale."""
        return self.parameters.n_limbs - 1 - self.workload.sigmoid.depth

    @property
    def low_limbs(self) -> int:
        """Limbs of the weights after a step, where they are refreshed or released."""
        return self.error_limbs - 1

    @property
    def total_rows(self) -> int:
        """Rows of all parties in one iteration: the n of the mean loss."""
        return sum(self.workload.batch_rows)

    @property
    def error_scale(self) -> float:
        return self.parameters.scale

    @property
    def data_scale(self) -> float:
        """Scale of the encoded diagonals, used forward and backward.

        Chosen so that X v comes out at the default scale and learning_rate / n needs no multiplication.
        """
        w = self.workload
        forward, backward = self._forward_modulus, self._backward_modulus
        return math.sqrt(forward * backward * w.learning_rate / (self.total_rows * w.momentum_factor))

    @property
    def weight_scale(self) -> float:
        """Scale of the weights: of the gradient after its rescale, read as the step learning_rate / n * gradient."""
        return self.data_scale * self.error_scale * self.step_factor / self._backward_modulus

    @property
    def step_factor(self) -> float:
        """n / learning_rate."""
        return self.total_rows / self.workload.learning_rate

    @property
    def _forward_modulus(self) -> int:
        return self.parameters.moduli[-1]

    @property
    def _backward_modulus(self) -> int:
        return self.parameters.moduli[self.error_limbs - 1]

    @property
    def momentum(self) -> float:
        """The momentum in use: the workload's, rounded to a multiple of 2^-MOMENTUM_BITS."""
        return round(self.workload.momentum * self.workload.momentum_factor) / self.workload.momentum_factor

    @cached_property
    def decay(self) -> Floats:
        """1 - learning_rate * l2 for every weight but the intercept: (layout.features,)."""
        factors = np.ones(self.layout.features)
        factors[: self.workload.features] -= self.workload.learning_rate * self.workload.l2
        return factors

    # work, traffic and memory

    @property
    def iteration_transfers(self) -> tuple[Transfer, ...]:
        """What one iteration sends through the tree: the sum, then the refresh."""
        p = self.parameters
        return (
            Transfer("reduce", "sum", 2 * self.error_limbs, p.ring_dim),
            Transfer("broadcast", "refresh_input", self.low_limbs, p.ring_dim),
            Transfer("reduce", "refresh", self.low_limbs + p.n_limbs, p.ring_dim),
            Transfer("broadcast", "refresh_output", p.n_limbs, p.ring_dim),
        )

    def blocks(self, party: int) -> int:
        """Blocks of one batch of this party."""
        return -(-self.workload.batch_rows[party] // self.layout.rows)

    def batches(self, party: int) -> int:
        """Different batches that this party cycles through."""
        return -(-self.workload.rows[party] // self.workload.batch_rows[party])

    @property
    def key_bytes(self) -> int:
        """Evaluation keys held by one party (the root holds the fold keys as well: counted)."""
        p, keys = self.parameters, self.key_plan
        one = 2 * len(p.digit_limbs) * len(p.key_moduli) * p.ring_dim * LIMB_BYTES
        return (1 + len(keys.everywhere) + len(keys.root_only)) * one

    def encoded_bytes(self, party: int) -> int:
        """All encoded diagonals of this party, at the limbs of the forward and of the backward product."""
        p = self.parameters
        limbs = p.n_limbs + self.error_limbs
        per_block = self.layout.n_diagonals * limbs * p.ring_dim * LIMB_BYTES
        return per_block * self.blocks(party) * self.batches(party)

    # noise and precision

    @cached_property
    def weight_noise_std(self) -> float:
        """Standard deviation of the error of a weight after the last iteration, before any smudging.

        Noise of every iteration is independent; what iteration t injects reaches the end multiplied by at most
        h = (1 - beta^(T-t)) / (1 - beta), the response of a direction without curvature. Rows are taken to have unit
        variance in every feature (they are standardised).
        """
        p, w, layout = self.parameters, self.workload, self.layout
        n = p.ring_dim
        rounding = rounding_std(n, p.n_parties)
        key_error = key_error_std(p.n_parties)
        top, low = key_switch_std(p, p.n_limbs, key_error), key_switch_std(p, self.error_limbs, key_error)
        ahead_scale = self.weight_scale * w.momentum_factor
        forward = math.hypot(
            math.sqrt(layout.features * n) * math.hypot(top, refresh_error_std(p.n_parties)) / ahead_scale,
            math.sqrt(layout.features * n) * rounding / self.weight_scale,
            math.sqrt(len(layout.giant_steps) * n) * top / (ahead_scale * self.data_scale),
            math.sqrt(n) * rounding / self.error_scale,
        )
        amplified = 1 + sum(k * abs(c) for k, c in enumerate(w.sigmoid.coefficients))
        errors = math.hypot(
            w.sigmoid.largest_slope * forward,
            amplified * math.sqrt(n) * rounding / self.error_scale,
            math.sqrt(n) * low / self.error_scale,
        )
        folds = layout.period / layout.features
        turns = len(layout.baby_steps) * p.n_parties + len(layout.fold_steps)
        injected = math.hypot(
            errors / math.sqrt(self.total_rows) * w.learning_rate,
            math.sqrt(turns * folds * n) * low / (self.weight_scale * self._backward_modulus),
            math.sqrt(2 * layout.features) * math.hypot(rounding, refresh_error_std(p.n_parties)) / self.weight_scale,
        )
        beta = self.momentum
        responses = [(1 - beta ** (k + 1)) / (1 - beta) for k in range(w.iterations)]
        return injected * math.sqrt(sum(h * h for h in responses))

    # predictions: X w on test rows at few limbs, for the receivers' ciphertexts are the traffic

    prediction_limbs = 2
    """Limbs of the delivered logits."""

    @property
    def prediction_data_scale(self) -> float:
        """Scale of the encoded test rows: brings X w to the default scale."""
        return self.parameters.scale * self.parameters.moduli[self.prediction_limbs] / self.weight_scale

    @property
    def prediction_noise_norm(self) -> float:
        """Euclidean bound on the noise of the coefficients of delivered logits, for rows of unit variance."""
        p, layout = self.parameters, self.layout
        n = p.ring_dim
        switching = key_switch_std(p, self.prediction_limbs + 1, key_error_std(p.n_parties))
        turns = len(layout.giant_steps) + len(layout.spread_steps)
        std = math.hypot(
            math.sqrt(layout.features) * self.weight_noise_std * self.parameters.scale / math.sqrt(n),
            math.sqrt(layout.features) * switching * self.parameters.scale / self.weight_scale,
            math.sqrt(turns) * switching / p.moduli[self.prediction_limbs],
            rounding_std(n, p.n_parties),
        )
        return norm_bound(std, n)

    @property
    def released_coefficients(self) -> int:
        return 2 * self.layout.features

    @property
    def weight_noise_norm(self) -> float:
        """Euclidean bound on the noise of the coefficients that carry the weights, at their scale."""
        std = self.weight_noise_std * self.weight_scale / math.sqrt(self.released_coefficients)
        return norm_bound(std, self.released_coefficients)

    @property
    def smudging(self) -> float:
        """Width of one party's smudging of the released weights."""
        w = self.workload
        return smudging_std(self.weight_noise_norm, w.release_bits, w.releases)

    @property
    def release_std(self) -> float:
        """Standard deviation of a released weight: all parties' smudging, in one slot."""
        per_slot = math.sqrt(self.released_coefficients / 2) * self.smudging / self.weight_scale
        return math.sqrt(self.parameters.n_parties) * per_slot

    @property
    def predicted_weight_error(self) -> float:
        """The largest error of all weights against the clear twin; exceeded with probability PREDICTED_QUANTILE."""
        std = math.hypot(self.weight_noise_std, self.release_std if self.workload.opens_model else 0.0)
        return std * math.sqrt(2 * math.log(2 * self.layout.features / PREDICTED_QUANTILE))


# choosing the parameters

MakeModuli = Callable[[Shape], tuple[tuple[int, ...], tuple[int, ...]]]

RING_DIMS = tuple(1 << k for k in range(12, 17))
FIRST_BITS = 60
SCALE_BITS = range(58, 29, -1)
SPECIAL_BITS = 60
"""OpenFHE's special primes always have 60 bits."""


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
        if plan.predicted_weight_error <= workload.precision:
            return plan
        reasons.append(
            f"ring_dim {shape.ring_dim}, scale 2^{shape.scale_bits}: weights would be precise to "
            f"{plan.predicted_weight_error:.1g} with {workload.release_bits} statistical bits in the release"
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
