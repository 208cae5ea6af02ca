"""Choosing parameters for a perceptron."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from mhe.errors import ParameterError
from mhe.parameters import Parameters
from models.chains import Demand, Family, choose_chains
from models.choice import Choice, MakeModuli
from models.mlp_plan import PerceptronPlan, perceptron_levels, perceptron_message_bits
from models.model_tiles import ModelTiles
from models.packing import doublings
from models.refresh_points import RefreshPoints, possible_points
from models.search import RootWork
from models.tiles import TileLayout, coupled_width
from models.workload import Workload

GRADIENT_SCALES = (1 / 2, 1 / 32)
"""Scales of gradients that are not refreshed, over that of those that are: what is tried at least, for the more room
they ask for in the refresh of the weights, the longer its floor."""


def choose_perceptron_plans(
    workload: Workload, choice: Choice, make_moduli: MakeModuli, *, free: bool, count: int = 1
) -> list[PerceptronPlan]:
    """The cheapest plans up to `count` of different chains or refresh points (`models.chains`).

    free: whether make_moduli takes any shape. Raises ParameterError naming the binding constraint if nothing fits.
    """
    net = workload.model

    def family(points: RefreshPoints) -> Family[PerceptronPlan]:
        scales = (1.0,) if points.gradients else GRADIENT_SCALES
        bits = [perceptron_message_bits(workload, points, each) for each in scales]
        asked = [lambda _, of_any=each: of_any for each in bits]
        demand = Demand(perceptron_levels(net, points), asked, takes_more=not points.gradients)

        def in_ring(n_slots: int) -> list[Callable[[Parameters], PerceptronPlan]]:
            layouts = tile_layouts(workload, n_slots)
            return [partial(PerceptronPlan, workload, layout=each, centred=free, points=points) for each in layouts]

        return demand, in_ring

    wished = possible_points(net) if choice.points is None else [choice.points.of(net)]
    bounds = (RootWork.least,) if choice.judge is None else choice.bounds
    return choose_chains(workload, choice, make_moduli, [*map(family, wished)], free=free, bounds=bounds, count=count)


def tile_layouts(workload: Workload, n_slots: int) -> list[TileLayout]:
    """All widths of tiles that hold a batch, each with all numbers of baby steps that make a difference. Raises
    ParameterError if there is none.

    Baby steps are those of products with inner weights, at most half of the turns; without hidden layers only answers
    have any, and one number does. Coupled outputs are of one tile.
    """
    batch = max(workload.batch_rows)
    least = coupled_width(workload.outputs) if workload.coupled else 1
    widths = doublings(1, 1 + min(math.isqrt(n_slots // 2), n_slots // (2 * batch)))
    widths = tuple(width for width in widths if width >= least)
    if not widths:
        raise ParameterError(
            f"a batch of {batch} rows does not fit {n_slots // (2 * least)} rows of {2 * least} slots; use smaller ones"
        )
    if not workload.hidden:
        return [TileLayout(n_slots, width, min(1 << (width.bit_length() // 2), width)) for width in widths]
    found: dict[tuple[int, ...], TileLayout] = {}
    for layout in (TileLayout(n_slots, width, baby) for width in widths for baby in doublings(1, max(2, width))):
        tiles = ModelTiles(workload.model, layout)
        babies = (len(layout.babies(tiles.turns(layer))) for layer in range(1, workload.model.n_layers))
        found.setdefault((layout.width, *babies), layout)
    return list(found.values())
