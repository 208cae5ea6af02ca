"""Choosing parameters for solver "local"."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mhe.parameters import Parameters
from models.chains import Demand, choose_chains
from models.choice import Choice, MakeModuli
from models.local_plan import LocalPlan
from models.plan import block_layout
from models.workload import Workload


def choose_local_plans(
    workload: Workload, choice: Choice, make_moduli: MakeModuli, *, free: bool, count: int = 1
) -> list[LocalPlan]:
    """The cheapest plans on up to `count` different chains (`models.chains`).

    free: whether make_moduli takes any shape, and the evaluator rounds to nearest. Raises ParameterError naming the
    binding constraint if nothing fits.
    """
    demand = Demand(workload.levels, [lambda _: workload.message_bits])

    def in_ring(n_slots: int) -> list[Callable[[Parameters], LocalPlan]]:
        layouts = block_layout(workload, n_slots).alternatives
        return [partial(LocalPlan, workload, centred=free, packing=layout) for layout in layouts]

    return choose_chains(workload, choice, make_moduli, [(demand, in_ring)], free=free, count=count)
