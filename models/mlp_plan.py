"""`PerceptronPlan`: everything about the training of a perceptron that can be known before a key is generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mhe.errors import ParameterError
from mhe.keys import KeyPlan
from mhe.parameters import Parameters
from models.model_tiles import PRODUCT_LEVELS, ModelTiles, Tile
from models.perceptron import Perceptron
from models.tiles import TileLayout

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PerceptronPlan:
    """One training run of a perceptron: what is trained, on which parameters, in which tiles.

    batch_rows: rows of every party in one iteration; the sum of gradients is divided by all of them.
    """

    network: Perceptron
    parameters: Parameters
    layout: TileLayout
    batch_rows: tuple[int, ...]
    iterations: int
    learning_rate: float
    momentum: float
    l2: float

    def __post_init__(self) -> None:
        p = self.parameters
        if p.depth < self.levels:
            raise ParameterError(
                f"a layer consumes {self.levels} levels (activation {self.levels - PRODUCT_LEVELS}, product and mask "
                f"{PRODUCT_LEVELS}), the parameters have {p.depth} above the refresh; need "
                f"{p.refresh_limbs + self.levels} limbs, or an activation of lower degree"
            )
        if max(self.batch_rows) > self.layout.rows:
            raise ParameterError(
                f"a batch of {max(self.batch_rows)} rows does not fit the {self.layout.rows} rows of a tile; use "
                "smaller batches, narrower tiles or a larger ring_dim"
            )
        if self.layout.n_slots != p.n_slots:
            raise ParameterError(f"tiles of {self.layout.n_slots} slots on parameters with {p.n_slots}; need the same")

    # limbs and scales

    @property
    def levels(self) -> int:
        """Levels between two refreshes."""
        net = self.network
        functions = [net.link, *([net.activation, net.activation.derivative] if net.hidden else [])]
        return PRODUCT_LEVELS + max(f.levels for f in functions)

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

    # training

    @property
    def step_size(self) -> float:
        """learning_rate / n: the factor of the summed gradients."""
        return self.learning_rate / sum(self.batch_rows)

    # tiles

    @cached_property
    def tiles(self) -> ModelTiles:
        return ModelTiles(self.network, self.layout)

    @property
    def n_tiles(self) -> int:
        """Ciphertexts of the whole model."""
        return self.tiles.count

    def layers(self, tiles: Sequence[Tile]) -> tuple[list[list[list[Tile]]], list[list[Tile]]]:
        """The tiles of the model, sorted: grids of weights and rows of biases (none in the first layer), by layer."""
        return self.tiles.layers(tiles)

    def pack(self, weights: Sequence[Floats]) -> list[Floats]:
        """Arrays (inputs + 1, outputs) by layer as half tiles of (layout.weights_period,) each."""
        return self.tiles.pack(weights)

    def unpack(self, tiles: Sequence[Floats]) -> list[Floats]:
        """The inverse of `pack`."""
        return self.tiles.unpack(tiles)

    @cached_property
    def valid(self) -> list[Floats]:
        """1 where a tile holds a weight, 0 at its padding."""
        return self.pack([np.ones(shape) for shape in self.network.shapes])

    @cached_property
    def decay(self) -> list[Floats]:
        """What a step keeps of each slot: 1 - learning_rate * l2 of a weight, all of a bias, nothing of the padding."""
        kept = [np.full(shape, 1 - self.learning_rate * self.l2) for shape in self.network.shapes]
        for w in kept:
            w[-1] = 1.0
        return self.pack(kept)

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
    def message_bits(self) -> float:
        """log2 of what the largest refreshed scale is above the default one: slopes are read at a larger one."""
        slope = self.network.activation.derivative
        if not self.network.hidden or slope.degree != 1:
            return 0.0
        return max(0.0, len(self.network.hidden) * math.log2(slope.half_width / slope.coefficients[1]))
