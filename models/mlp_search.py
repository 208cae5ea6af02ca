"""Choosing parameters for a perceptron."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mhe.errors import ParameterError
from mhe.parameters import Parameters
from models.chains import Demand, choose_chains
from models.mlp_plan import PerceptronPlan, perceptron_levels, perceptron_message_bits
from models.search import Choice, MakeModuli
from models.tiles import TileLayout, coupled_width
from models.workload import Workload


def choose_perceptron_plans(
    workload: Workload, choice: Choice, make_moduli: MakeModuli, *, free: bool, count: int = 1
) -> list[PerceptronPlan]:
    """The cheapest plans on up to `count` different chains (`models.chains`).

    free: whether make_moduli takes any shape. Raises ParameterError naming the binding constraint if nothing fits.
    """
    demand = Demand(perceptron_levels(workload.model), lambda _: perceptron_message_bits(workload))

    def in_ring(n_slots: int) -> list[Callable[[Parameters], PerceptronPlan]]:
        layout = choose_tiles(workload, n_slots)
        near = (layout.baby, layout.baby // 2, 2 * layout.baby)
        layouts = [replace(layout, baby=baby) for baby in near if 1 <= baby <= layout.width]
        return [partial(PerceptronPlan, workload, layout=each, centred=free) for each in layouts]

    return choose_chains(workload, choice, make_moduli, demand, in_ring, free=free, count=count)


def choose_tiles(workload: Workload, n_slots: int) -> TileLayout:
    """Tiles as wide as the widest layer of outputs, or as the slots allow. ParameterError if a batch has more rows."""
    batch = max(workload.batch_rows)
    widest = max((*workload.hidden, coupled_width(workload.outputs) if workload.coupled else workload.outputs))
    most = math.isqrt(n_slots // 2)
    width = min(1 << max(widest - 1, 0).bit_length(), 1 << most.bit_length() - 1)
    if batch > n_slots // (2 * width):
        rows = n_slots // (2 * width)
        raise ParameterError(f"a batch of {batch} rows does not fit {rows} rows of {2 * width} slots; use smaller ones")
    baby = 1 << (width.bit_length() // 2)
    return TileLayout(n_slots, width, min(baby, width))
