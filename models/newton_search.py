"""Choosing parameters for solver "newton"."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mhe.errors import ParameterError
from mhe.parameters import Parameters
from models.chains import Demand, choose_chains
from models.choice import Choice, MakeModuli
from models.newton_plan import (
    FixedHessianPlan,
    check_newton,
    newton_layout,
    newton_levels,
    newton_message_bits,
    newton_schedule,
)
from models.plan import block_layout
from models.workload import Workload


def choose_newton_plan(workload: Workload, choice: Choice, make_moduli: MakeModuli, *, free: bool) -> FixedHessianPlan:
    """The best plan: the first of `choose_newton_plans`."""
    return choose_newton_plans(workload, choice, make_moduli, free=free)[0]


def choose_newton_plans(
    workload: Workload, choice: Choice, make_moduli: MakeModuli, *, free: bool, count: int = 1
) -> list[FixedHessianPlan]:
    """The cheapest plans on up to `count` different chains (`models.chains`).

    free: whether make_moduli takes any shape, and the evaluator rounds to nearest. Raises ParameterError for what the
    solver cannot do, a condition that is too large, or naming the binding constraint if nothing fits.
    """
    check_newton(workload)
    newton_schedule(workload)
    demand = Demand(newton_levels(workload), [partial(newton_message_bits, workload)])

    def in_ring(n_slots: int) -> list[Callable[[Parameters], FixedHessianPlan]]:
        if newton_layout(workload).period > n_slots:
            raise ParameterError(f"two matrices of {workload.features} features do not fit {n_slots} slots")
        layouts = block_layout(workload, n_slots).alternatives
        return [partial(FixedHessianPlan, workload, centred=free, packing=layout) for layout in layouts]

    return choose_chains(workload, choice, make_moduli, [(demand, in_ring)], free=free, count=count)
