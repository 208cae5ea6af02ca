"""The evaluation keys of an iteration of a perceptron, by the levels at which they are used."""

from __future__ import annotations

from functools import lru_cache

from mhe.keys import KeyPlan, Use
from models.clear_tiles import forward_rotations
from models.model_tiles import ModelTiles
from models.perceptron import Perceptron
from models.refresh_points import LevelSchedule, RefreshPoints, level_schedule
from models.tile_products import fold_steps, outer_rotations, product_rotations, sample_rotations
from models.tiles import TileLayout, coupling_steps


@lru_cache(maxsize=4096)
def keys_by_level(net: Perceptron, layout: TileLayout, points: RefreshPoints, probed: int) -> KeyPlan:
    """A plan with levels (`models.refresh_points`) in the place of limbs. probed: the level at which inputs of
    functions are squared for a range probe, or 0.
    """
    tiles, levels = ModelTiles(net, layout), level_schedule(net, points)
    first = forward_rotations(layout, tiles.grids[0][0])
    # the halves of the first product are added up once it is rescaled, and the errors behind it doubled
    everywhere: list[Use] = [
        (first, levels.forward[0]),
        ({-step for step in first} | {-layout.width}, 1),
        ({layout.width}, levels.forward[0] - 1),
    ]
    root: list[Use] = [(layout.fold_steps, 1)]
    if net.coupled:
        everywhere.append((coupling_steps(net.outputs), 1))
    paired = []
    for layer in range(1, net.n_layers):
        form, before, turns = net.form(layer), net.form(layer - 1), tiles.turns(layer)
        forward, backward = levels.forward[layer], levels.backward[layer]
        everywhere += [
            ({-layout.width}, max(forward, backward)),
            (product_rotations(layout, before, turns) | {*fold_steps(layout, turns)}, forward),
            (product_rotations(layout, form, turns), backward),
            (outer_rotations(layout, turns), 1),
        ]
        root.append((sample_rotations(layout, form, turns), 1))
        root.append((layout.row_steps if form == "plain" else (-layout.width, *layout.skewed_row_steps), 1))
        paired += [max(forward, backward)] if turns > 1 else []
    return KeyPlan.of(
        layout.n_slots,
        everywhere,
        root,
        relinearisation=max(_products(net, levels), probed),
        conjugation=max(paired, default=0),
    )


def _products(net: Perceptron, levels: LevelSchedule) -> int:
    """Level of the largest product of two ciphertexts: of a function's first power, of slopes and errors, of tiles."""
    found, functions = [0], [(net.link, levels.errors[-1])]
    for layer, activations in enumerate(levels.activations):
        slopes = levels.slopes(layer)
        functions += [(net.activation, activations), (net.activation.derivative, slopes)]
        found += [slopes, activations, levels.backward[layer + 1]]
    return max(*found, *(level + function.depth for function, level in functions if function.degree > 1), 0)
