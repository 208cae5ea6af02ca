"""A lower bound on what a perceptron's step takes, in closed form: so that few layouts need to be counted.

Of the operations that `models.operations` counts, those that every party makes in every iteration of the refreshes, and
of the products of tiles (`models.clear_tiles`, `models.tile_products`): nearly all of the work. What is left out takes
time, too, so that a plan never costs less than what is bounded here.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from models.mlp_plan import PerceptronPlan
from models.operations import Counts, Operations


class LeastCounted:
    """Stands in for `models.operations.Counted`, for plans of perceptrons."""

    def of(self, plan: Any, rank: int, *, is_root: bool, keep: bool) -> Operations:
        """No more than what the code makes, all in one stage: there, none waits for another."""
        least = least_operations(plan)
        return Operations.mapped(lambda name: (least,) if name in ("first", "later") else ({},))


def least_operations(plan: PerceptronPlan) -> Counts:
    """Of every party, in an iteration that finds its batch encoded."""
    counts: Counter[tuple[str, int]] = Counter()
    net, layout, tiles = plan.network, plan.layout, plan.tiles
    low, full, parties = plan.low_limbs, plan.parameters.n_limbs, plan.workload.n_parties
    own = sum(map(layout.tiles, (*net.hidden, net.outputs, *net.hidden)))
    counts["rerandomise", low] += own
    counts["mask", low] += parties * own + plan.n_ciphertexts
    counts["fresh", full] += parties * own + plan.n_ciphertexts
    counts["lift", full] += own
    work: Counter[str] = Counter(rerandomise=plan.n_ciphertexts)
    work.update(_clear(plan))
    for layer in range(1, net.n_layers):
        work.update(_inner(*tiles.grids[layer], len(layout.babies(tiles.turns(layer))), tiles.turns(layer)))
    for name, count in work.items():
        counts[name, plan.work_limbs] += count
    return counts


def _clear(plan: PerceptronPlan) -> Counter[str]:
    """Products of clear rows, forward and backward."""
    pairs, across = plan.tiles.grids[0]
    width = plan.layout.width
    baby = plan.layout.clear_baby(pairs)
    giants = width // baby
    turns = pairs * across * (baby - 1) + across * (giants - 1)
    return Counter(
        multiply_accumulate_plain=2 * pairs * across * width, rotate_hoisted=turns, rotate_and_sum=turns,
        decompose=pairs * across * (baby > 1) + across * (giants > 1),
        rotated_sum=pairs * across * (baby > 1) + across * (giants > 1),
    )  # fmt: skip


def _inner(down: int, across: int, babies: int, turns: int) -> Counter[str]:
    """Products of an inner layer of encrypted weights: forward, backward, and of the gradient."""
    giants, weights, both = max(1, turns // 2) // babies, down * across, down + across
    hoisted = both * (giants - 1 + giants * (babies - 1)) + 2 * weights * (babies - 1)
    return Counter(
        multiply_accumulate=3 * weights * babies * giants,
        relinearise=both * giants + weights * babies,
        rotate_hoisted=hoisted + min(down, across) * (giants - 1),
        rotate_and_sum=both * (giants - 1) + weights * (babies - 1),
    )
