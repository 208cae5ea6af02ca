"""`FixedHessianPlan`: what is known beforehand of a regression whose steps are multiplied by an encrypted inverse.

The Hessian of the mean loss is at most H = s X^T X / n + l2 I, s the largest slope of the link (Boehning and Lindsay,
"Monotonicity of quadratic-approximation algorithms", Ann. Inst. Statist. Math. 40 (1988): 1/4 for the sigmoid; the
polynomial in its place has a slope of its own, and 1 is exact for the identity), so that w + H^-1 (descent of the loss)
never overshoots. Standardised columns have mean 0, which leaves the intercept on its own, with s; and mean square 1 at
most, so that the trace s d + l2 bounds the spectrum. Nothing else about it is public but the condition that is assumed.

Matrices are at a scale of two moduli, and a product of them is rescaled twice: the error of each is amplified by the
condition on its way into the inverse, and what reaches the released weights must be hidden there. That asks more of the
refresh floor than the weights do (`newton_message_bits`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from mhe.collective import Transfer
from mhe.errors import ParameterError
from mhe.keys import KeyPlan
from models.inverse import InverseSchedule
from models.matrices import MAP_LEVELS, MatrixLayout, lower_matrix, skewed_form, spread_form, weights_form
from models.newton_precision import FixedHessianPrecision
from models.packing import power_of_two_at_least
from models.plan import CircuitPlan
from models.workload import Workload

MAX_FEATURES = 64
"""Two matrices of this side, doubled, fill the slots of a ring of 2^15."""

MATRIX_LEVELS = 2
"""Moduli that make up the scale of a matrix."""

EXACT_INVERSE = 1e-6
"""Error of the inverse that a linear regression, which takes one step, is solved with."""

STEP_INVERSE = 0.1
"""Error of the inverse where the Hessian is a bound only: far less than that bound is off."""

SPARE_BITS = 2
"""Of the message bits of a matrix: one for its sign, one for scales between one and two times the moduli."""


@dataclass(frozen=True)
class FixedHessianPlan(CircuitPlan):
    """A workload with a condition, on parameters. Gradients are those of rate 1, without momentum and L2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        p, w = self.parameters, self.workload
        check_newton(w)
        if p.depth < newton_levels(w):
            raise ParameterError(
                f'solver "newton" consumes {newton_levels(w)} levels between refreshes, the parameters have {p.depth}; '
                f"need {p.refresh_limbs + newton_levels(w)} limbs"
            )
        if self.matrices.period > p.n_slots:
            raise ParameterError(
                f"two matrices of {w.features} features take {self.matrices.period} slots, ring_dim {p.ring_dim} has "
                f"{p.n_slots}; use a larger ring_dim or fewer features"
            )
        needed = newton_message_bits(w, p.scale_bits)
        if needed > p.message_bits:
            raise ParameterError(
                f"the inverse needs {needed:.1f} bits above the scale, the parameters allow {p.message_bits:.1f}; "
                "lower condition or raise it in the parameters"
            )

    # the inverse

    @cached_property
    def matrices(self) -> MatrixLayout:
        return newton_layout(self.workload)

    @cached_property
    def schedule(self) -> InverseSchedule:
        return newton_schedule(self.workload)

    @property
    def curvature(self) -> float:
        """s, the largest slope of the link."""
        return self.workload.link.largest_slope

    @property
    def matrix_scale(self) -> float:
        """Scale of the inverse: a product with it is rescaled by as much."""
        low = self.parameters.refresh_limbs
        return float(math.prod(self.parameters.moduli[low : low + MATRIX_LEVELS]))

    @cached_property
    def matrix_scales(self) -> tuple[float, ...]:
        """Scale of the matrices before every round, and after the last: such that constants cost nothing.

        A round leaves scale^2 / matrix_scale, and reads it as factor times smaller. Backwards from matrix_scale, all of
        them lie between one and two times that.
        """
        scales = [self.matrix_scale]
        for factor in reversed(self.schedule.factors):
            scales.append(math.sqrt(self.matrix_scale * factor * scales[-1]))
        return tuple(reversed(scales))

    @property
    def blocks_of_step(self) -> int:
        """Shares into which a step leaves the weights, for the next refresh to add up."""
        return self.matrices.period // self.weights_period

    # limbs and keys

    @property
    def low_limbs(self) -> int:
        return self.parameters.refresh_limbs

    @property
    def work_limbs(self) -> int:
        """Limbs of the operands of products with matrices."""
        return self.low_limbs + MATRIX_LEVELS

    @property
    def key_plan(self) -> KeyPlan:
        """Those of a gradient, and at the root those of a product of matrices."""
        keys, low = super().key_plan, self.work_limbs
        everywhere, root_only = (
            [((step,), n) for step, n in some.items()] for some in (keys.everywhere, keys.root_only)
        )
        return KeyPlan.of(
            self.parameters.n_slots,
            everywhere,
            [*root_only, (self.matrices.rotations, low)],
            relinearisation=max(keys.relinearisation, low),
            # without an encrypted gradient nobody else multiplies
            products_at_root=keys.relinearisation == 0,
        )

    # traffic

    @property
    def preparation_transfers(self) -> tuple[Transfer, ...]:
        """What the inverse sends through the tree: the sum, a refresh for every round and one more."""
        ring_dim, full = self.parameters.ring_dim, self.parameters.n_limbs
        forms = full + sum(full - m.levels for m in (skewed_form(self.matrices), weights_form(self.matrices)))
        inverse = full - lower_matrix(self.matrices).levels
        return (
            Transfer("reduce", "sum", 2 * self.low_limbs, ring_dim),
            *(t for _ in self.schedule.factors for t in self.refresh_at_root_transfers(forms)),
            *self.refresh_transfers(inverse),
        )

    @property
    def iteration_transfers(self) -> tuple[Transfer, ...]:
        """The sum, the refresh of the gradient, and that of the weights."""
        p = self.parameters
        spread = p.n_limbs - spread_form(self.matrices, self.weights_period).levels
        return (
            Transfer("reduce", "sum", 2 * self.error_limbs, p.ring_dim),
            *self.refresh_at_root_transfers(spread),
            *self.refresh_transfers(p.n_limbs),
        )

    # release

    @cached_property
    def precision(self) -> FixedHessianPrecision:
        return FixedHessianPrecision(self)


def check_newton(workload: Workload) -> None:
    """Raise ParameterError for what solver "newton" cannot do."""
    if workload.features > MAX_FEATURES:
        raise ParameterError(
            f'solver "newton" inverts matrices of at most {MAX_FEATURES} features, got {workload.features}; use fewer '
            'features, or solver = "nesterov"'
        )
    if not workload.standardises:
        raise ParameterError(
            'solver "newton" takes the mean square of a column for 1 and its mean for 0; got columns that are not '
            "standardised: set standardize = true"
        )
    if workload.batch is not None:
        raise ParameterError(
            f'solver "newton" takes all rows in every iteration, got batches of {workload.batch}; leave batch away'
        )


def newton_layout(workload: Workload) -> MatrixLayout:
    return MatrixLayout(max(2, power_of_two_at_least(workload.features)))


def newton_schedule(workload: Workload) -> InverseSchedule:
    """How the inverse is computed. Raises ParameterError for a condition that is too large."""
    bound = workload.link.largest_slope * workload.features + workload.l2
    condition = workload.condition or 0.0
    if workload.l2 > 0:
        # no eigenvalue is smaller than the ridge
        condition = min(condition, bound / workload.l2)
    return InverseSchedule(bound, condition, EXACT_INVERSE if workload.link.degree == 1 else STEP_INVERSE)


def newton_levels(workload: Workload) -> int:
    """Levels between two refreshes: of a gradient, or of the maps of a refresh and a product of matrices."""
    return max(workload.levels, MAP_LEVELS + MATRIX_LEVELS)


def newton_message_bits(workload: Workload, scale_bits: int) -> float:
    """log2 above the default scale of what is refreshed: weights, and a matrix, whose scale is twice as many bits."""
    largest = max(newton_schedule(workload).largest, 1.0)
    return max(workload.message_bits, scale_bits * (MATRIX_LEVELS - 1) + math.log2(largest) + SPARE_BITS)
