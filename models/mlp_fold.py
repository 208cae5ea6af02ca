"""Sums of all parties' gradients on their way to the root's step: sums over samples are completed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext
from models.linalg import rotate_and_add
from models.mlp_plan import PAIRED, PerceptronPlan
from models.tile_products import double, samples_added, scale_growth


def folded(backend: Backend, plan: PerceptronPlan, totals: Sequence[Ciphertext]) -> list[Ciphertext]:
    """Gradients, tile by tile, which a rescale would bring to plan.gradient_scale; padding holds anything."""
    grids, biases = plan.layers(totals)
    out = []
    for layer, (grid, bias) in enumerate(zip(grids, biases, strict=True)):
        form, turns = plan.network.form(layer), plan.tiles.turns(layer)
        for tile in (tile for line in grid for tile in line):
            added = samples_added(backend, plan.layout, tile, form, turns)
            if layer and scale_growth(turns) < PAIRED:
                added = backend.multiply_plain(added, backend.encode(np.ones(1), added.limbs, PAIRED))
            out.append(added)
        out += [_bias_gradient(backend, plan, tile, layer) for tile in bias]
    return out


def _bias_gradient(backend: Backend, plan: PerceptronPlan, errors: Ciphertext, layer: int) -> Ciphertext:
    """The sum of the rows of e, in every row, in the form of e."""
    added = _rows_added(backend, plan, errors, layer)
    wide = plan.gradient_scale * plan.parameters.moduli[added.limbs - 1]
    ones = backend.encode(np.ones(plan.weights_period), added.limbs, wide / added.scale)
    return backend.multiply_plain(added, ones)


def _rows_added(backend: Backend, plan: PerceptronPlan, errors: Ciphertext, layer: int) -> Ciphertext:
    layout = plan.layout
    if plan.network.form(layer) == "plain":
        return rotate_and_add(backend, errors, layout.row_steps, layout.stride)
    diagonals = rotate_and_add(backend, double(backend, layout, errors), layout.skewed_row_steps, layout.n_slots)
    return rotate_and_add(backend, diagonals, layout.fold_steps, layout.weights_period)
