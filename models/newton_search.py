"""Choosing parameters for solver "newton"."""

from __future__ import annotations

from collections.abc import Callable

from mhe.errors import ParameterError
from mhe.parameters import Parameters
from models.chains import Demand, choose_chain
from models.newton_plan import (
    FixedHessianPlan,
    check_newton,
    newton_layout,
    newton_levels,
    newton_message_bits,
    newton_schedule,
)
from models.search import Choice, MakeModuli
from models.workload import Workload


def choose_newton_plan(workload: Workload, choice: Choice, make_moduli: MakeModuli, *, free: bool) -> FixedHessianPlan:
    """The plan in the smallest ring with a precise enough chain, of those the cheapest (`models.chains`).

    free: whether make_moduli takes any shape, and the evaluator rounds to nearest. Raises ParameterError for what the
    solver cannot do, a condition that is too large, or naming the binding constraint if nothing fits.
    """
    check_newton(workload)
    newton_schedule(workload)
    demand = Demand(newton_levels(workload), lambda scale_bits: newton_message_bits(workload, scale_bits))

    def in_ring(n_slots: int) -> Callable[[Parameters], FixedHessianPlan]:
        if newton_layout(workload).period > n_slots:
            raise ParameterError(f"two matrices of {workload.features} features do not fit {n_slots} slots")
        return lambda parameters: FixedHessianPlan(workload, parameters, free)

    return choose_chain(workload, choice, make_moduli, demand, in_ring, free=free)
