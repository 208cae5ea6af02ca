"""A lower bound on what a perceptron's step takes, in closed form: so that few layouts need to be counted.

Of the operations that `models.operations` counts, those that every party makes in every iteration of the refreshes, and
of the products of tiles (`models.clear_tiles`, `models.tile_products`): nearly all of the work. What is left out takes
time, too, so that a plan never costs less than what is bounded here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from models.mlp_plan import PerceptronPlan
from models.model_tiles import ModelTiles
from models.operations import Counts
from models.perceptron import Perceptron
from models.refresh_points import RefreshPoints, level_schedule
from models.tile_products import fold_steps
from models.tiles import TileLayout


def least_operations(plan: PerceptronPlan) -> Counts:
    """Of every party, in an iteration that finds its batch encoded."""
    low, full = plan.low_limbs, plan.parameters.n_limbs
    counted = _by_level(plan.network, plan.layout, plan.points, plan.workload.n_parties)
    return {(name, full if level is None else low + level): count for (name, level), count in counted.items()}


@lru_cache(maxsize=4096)
def _by_level(
    net: Perceptron, layout: TileLayout, points: RefreshPoints, n_parties: int
) -> Mapping[tuple[str, int | None], int]:
    """By level (`models.refresh_points`), None where it is the highest one."""
    counts: Counter[tuple[str, int | None]] = Counter()
    tiles, levels = ModelTiles(net, layout), level_schedule(net, points)
    own = sum(map(layout.tiles, points.widths(net)))
    once = tiles.count * (2 if points.gradients else 1)
    counts["rerandomise", 0] += own
    counts["mask", 0] += n_parties * own + once
    counts["fresh", None] += n_parties * own + once
    counts["lift", None] += own
    counts["rerandomise", 1] += tiles.count
    forward, backward = _clear(tiles)
    first = tiles.grids[0][1]
    pieces = [(levels.forward[0], forward), (levels.forward[0] - 1, Counter(rotate=first)), (1, backward)]
    for layer in range(1, net.n_layers):
        down, across = tiles.grids[layer]
        pieces.append((levels.ahead[layer], Counter(rotate=down * across)))
        inner = _inner(layout, down, across, tiles.turns(layer))
        pieces += zip((levels.forward[layer], levels.backward[layer], 1), inner, strict=True)
    for level, work in pieces:
        for name, count in work.items():
            counts[name, level] += count
    return counts


def _clear(tiles: ModelTiles) -> tuple[Counter[str], Counter[str]]:
    """Products of clear rows, forward and backward."""
    pairs, across = tiles.grids[0]
    width, baby = tiles.layout.width, tiles.layout.clear_baby(pairs)
    giants = width // baby
    babies_turned = {"rotations": pairs * across * (baby - 1), "sums": pairs * across * (baby > 1)}
    giants_turned = {"rotations": across * (giants - 1), "sums": across * (giants > 1)}

    def product(hoisted: dict[str, int], summed: dict[str, int]) -> Counter[str]:
        return Counter(
            multiply_accumulate_plain=pairs * across * width,
            rotate_hoisted=hoisted["rotations"], decompose=hoisted["sums"],
            rotate_and_sum=summed["rotations"], rotated_sum=summed["sums"],
        )  # fmt: skip

    forward, backward = product(babies_turned, giants_turned), product(giants_turned, babies_turned)
    return forward, backward + Counter(rotate=across)


def _inner(layout: TileLayout, down: int, across: int, turns: int) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Products of an inner layer of encrypted weights: forward, backward, and of the gradient."""
    babies = len(layout.babies(turns))
    giants, weights = max(1, turns // 2) // babies, down * across
    in_halves = turns > 1

    def product(taken: int, given: int) -> Counter[str]:
        return Counter(
            multiply_accumulate=weights * babies * giants,
            relinearise=given * giants,
            rotate_hoisted=taken * (giants - 1 + giants * (babies - 1)) + weights * (babies - 1),
            rotate_and_sum=given * (giants - 1),
            rotate=taken * (1 + in_halves) + given * in_halves,
            conjugate=given * in_halves,
        )

    gradient = Counter(
        multiply_accumulate=weights * babies * giants,
        relinearise=weights * babies,
        rotate_hoisted=min(down, across) * (giants - 1),
        rotate_and_sum=weights * (babies - 1),
        rotate=min(down, across) * in_halves,
        conjugate=weights * in_halves,
    )
    completed = Counter(rotate=across * len(fold_steps(layout, turns)))
    return product(down, across) + completed, product(across, down), gradient
