"""`PerceptronPlan`: everything about the training of a perceptron that can be known before a key is generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mhe.collective import Transfer
from mhe.errors import ParameterError
from mhe.keys import KeyPlan
from mhe.parameters import Parameters
from models.mlp_precision import PerceptronPrecision
from models.perceptron import Perceptron
from models.plan import LIMB_BYTES
from models.tiles import TileLayout, WeightsForm
from models.workload import Workload

Floats = npt.NDArray[np.float64]
Tile = TypeVar("Tile")

PRODUCT_LEVELS = 2
"""Levels of a product, and of the mask or the slope that follows it."""

LOOK_AHEAD_LEVELS = 1
"""Levels of v = (1 + beta) w - beta w_previous, before the products."""


@dataclass(frozen=True)
class PerceptronPlan:
    """One training run of a perceptron: a workload, on parameters, in tiles."""

    workload: Workload
    parameters: Parameters
    layout: TileLayout

    def __post_init__(self) -> None:
        p = self.parameters
        if p.depth < self.levels:
            raise ParameterError(
                f"a layer consumes {self.levels} levels (activation {self.levels - PRODUCT_LEVELS}, product and mask "
                f"{PRODUCT_LEVELS}), the parameters have {p.depth} above the refresh; need "
                f"{p.refresh_limbs + self.levels} limbs, or an activation of lower degree"
            )
        batch = max(self.workload.batch_rows)
        if batch > self.layout.rows:
            raise ParameterError(
                f"a batch of {batch} rows does not fit the {self.layout.rows} rows of a tile; use "
                "smaller batches, narrower tiles or a larger ring_dim"
            )
        if self.layout.n_slots != p.n_slots:
            raise ParameterError(f"tiles of {self.layout.n_slots} slots on parameters with {p.n_slots}; need the same")

    @property
    def network(self) -> Perceptron:
        return self.workload.model

    # limbs and scales

    @property
    def levels(self) -> int:
        """Levels between two refreshes."""
        return perceptron_levels(self.network)

    @property
    def low_limbs(self) -> int:
        """Where everything is refreshed or released."""
        return self.parameters.refresh_limbs

    @property
    def work_limbs(self) -> int:
        """Limbs of the operands of products."""
        return self.low_limbs + PRODUCT_LEVELS

    @property
    def weight_scale(self) -> float:
        return self.parameters.scale

    @property
    def rows_scale(self) -> float:
        """Scale of the encoded rows: z_1 comes out at the default scale."""
        return self.parameters.scale * self.parameters.moduli[self.low_limbs] / self.weight_scale

    @property
    def momentum(self) -> float:
        return self.workload.momentum

    @property
    def step_size(self) -> float:
        """learning_rate / n: the factor of the summed gradients."""
        return self.workload.learning_rate / sum(self.workload.batch_rows)

    # tiles

    def weights_form(self, layer: int) -> WeightsForm:
        return "first" if layer == 0 else self.network.form(layer - 1)

    @cached_property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Tiles of the weights of each layer, (down, across); the bias is a row of the first, and else apart."""
        tiles = self.layout.tiles
        return tuple(
            (tiles(n_in if layer == 0 else n_in - 1), tiles(n_out))
            for layer, (n_in, n_out) in enumerate(self.network.shapes)
        )

    @property
    def n_tiles(self) -> int:
        """Ciphertexts of the whole model."""
        return sum(n_in * n_out + (n_out if layer else 0) for layer, (n_in, n_out) in enumerate(self.grids))

    def layers(self, tiles: Sequence[Tile]) -> tuple[list[list[list[Tile]]], list[list[Tile]]]:
        """The tiles of the model, sorted: grids of weights and rows of biases (none in the first layer), by layer."""
        rest = iter(tiles)
        grids, biases = [], []
        for layer, (n_in, n_out) in enumerate(self.grids):
            grids.append([[next(rest) for _ in range(n_out)] for _ in range(n_in)])
            biases.append([next(rest) for _ in range(n_out if layer else 0)])
        return grids, biases

    def pack(self, weights: Sequence[Floats]) -> list[Floats]:
        """Arrays (inputs + 1, outputs) by layer as half tiles of (layout.weights_period,) each."""
        out: list[Floats] = []
        for layer, w in enumerate(weights):
            grid = self.layout.pack_weights(w[:-1] if layer else w, self.weights_form(layer))
            out += [tile for line in grid for tile in line]
            if layer:
                out += self.layout.pack_bias(w[-1], self.network.form(layer))
        return [np.resize(tile, self.layout.weights_period) for tile in out]

    def unpack(self, tiles: Sequence[Floats]) -> list[Floats]:
        """The inverse of `pack`."""
        weights = []
        for layer, (grid, bias) in enumerate(zip(*self.layers(tiles), strict=True)):
            n_in, n_out = self.network.shapes[layer]
            shape = (n_in - 1 if layer else n_in, n_out)
            w = self.layout.unpack_weights(grid, self.weights_form(layer), shape)
            weights.append(np.vstack([w, self.layout.unpack_bias(bias, n_out)]) if layer else w)
        return weights

    @cached_property
    def valid(self) -> list[Floats]:
        """1 where a tile holds a weight, 0 at its padding."""
        return self.pack([np.ones(shape) for shape in self.network.shapes])

    @cached_property
    def decay(self) -> list[Floats]:
        """What a step keeps of each slot: as `Workload.decay`, and nothing of the padding."""
        return self.pack(self.workload.decay)

    @property
    def key_plan(self) -> KeyPlan:
        layout, net = self.layout, self.network
        everywhere = layout.first_rotations()
        if net.hidden:
            everywhere |= {-layout.width}
            for steps in (layout.product, layout.skewing_product, layout.gradient):
                everywhere |= layout.turn_rotations(*steps)
        root = {*layout.fold_steps}
        if net.n_layers > 2:
            root |= {*layout.row_steps}
        if net.hidden:
            root |= {*layout.skewed_row_steps, -layout.width}
        n = layout.n_slots
        distinct = {step % n: step for step in sorted(everywhere, key=abs, reverse=True)}
        distinct.pop(0, None)
        rest = {step % n: step for step in sorted(root, key=abs, reverse=True)}
        return KeyPlan(
            tuple(sorted(distinct.values())), tuple(sorted(s for r, s in rest.items() if r and r not in distinct))
        )

    @property
    def weights_period(self) -> int:
        return self.layout.weights_period

    # work, traffic and memory

    @property
    def iteration_transfers(self) -> tuple[Transfer, ...]:
        """What one iteration sends through the tree: every layer's refreshes, then the sum and the weights'."""
        p, net, tiles = self.parameters, self.network, self.layout.tiles
        widths = [*net.hidden, net.outputs, *reversed(net.hidden)]
        own = [t for width in widths for t in self._own_refresh(p.n_parties * tiles(width))]
        n = self.n_tiles
        return (
            *own,
            Transfer("reduce", "sum", 2 * self.work_limbs * n, p.ring_dim),
            Transfer("broadcast", "refresh_input", self.low_limbs * n, p.ring_dim),
            Transfer("reduce", "refresh", (self.low_limbs + p.n_limbs) * n, p.ring_dim),
            Transfer("broadcast", "refresh_output", p.n_limbs * n, p.ring_dim),
        )

    def _own_refresh(self, count: int) -> tuple[Transfer, ...]:
        """All parties' ciphertexts, `count` together."""
        p = self.parameters
        low, both = self.low_limbs * count, (self.low_limbs + p.n_limbs) * count
        return (
            Transfer("reduce", "refresh_own_input", low, p.ring_dim),
            Transfer("broadcast", "refresh_own_input", low, p.ring_dim),
            Transfer("reduce", "refresh", both, p.ring_dim),
            Transfer("broadcast", "refresh", both, p.ring_dim),
        )

    @property
    def key_bytes(self) -> int:
        """Evaluation keys held by one party (the root holds a few more: counted)."""
        p, keys = self.parameters, self.key_plan
        one = 2 * len(p.digit_limbs) * len(p.key_moduli) * p.ring_dim * LIMB_BYTES
        return (1 + len(keys.everywhere) + len(keys.root_only)) * one

    def batches(self, party: int) -> int:
        """Different batches that this party cycles through."""
        return -(-self.workload.rows[party] // self.workload.batch_rows[party])

    def encoded_bytes(self, party: int) -> int:
        """All encoded diagonals of this party's rows."""
        p = self.parameters
        diagonals = self.layout.tiles(self.network.inputs + 1) * self.layout.width
        return diagonals * self.work_limbs * p.ring_dim // 2 * LIMB_BYTES * self.batches(party)

    # release

    @cached_property
    def precision(self) -> PerceptronPrecision:
        """Noise of the weights and of what is released."""
        return PerceptronPrecision(self)

    @property
    def prediction_scale(self) -> float:
        """Scale of the delivered outputs."""
        return self.parameters.scale

    @property
    def prediction_blocks(self) -> int:
        """Batches of test rows that every party has switched to its key, so that all do the same."""
        return max(1, -(-max(self.workload.test_rows) // self.layout.rows))

    @property
    def releases(self) -> int:
        """How many ciphertexts are opened over the run: means, variances, weights or outputs, quality."""
        w = self.workload
        outputs = w.n_parties * self.prediction_blocks * self.layout.tiles(self.network.outputs)
        opened = {"model": self.n_tiles + 1, "predictions": 1 + outputs, "nothing": 0}[w.release]
        return max(1, (2 if w.standardises else 0) + opened)


def perceptron_levels(net: Perceptron) -> int:
    """Levels between two refreshes: the deepest function, or the look ahead, a product, and the mask or slope."""
    functions = [net.link, *([net.activation, net.activation.derivative] if net.hidden else [])]
    return PRODUCT_LEVELS + max(LOOK_AHEAD_LEVELS, *(f.levels for f in functions))


def perceptron_message_bits(workload: Workload) -> float:
    """log2 of what is refreshed above the default scale: values up to message_bound, errors read at a larger scale."""
    slope = workload.model.activation.derivative if workload.hidden else None
    raised = 0.0
    if slope is not None and slope.degree == 1:
        raised = len(workload.hidden) * max(0.0, math.log2(slope.half_width / slope.coefficients[1]))
    return math.log2(workload.message_bound) + 1 + raised
