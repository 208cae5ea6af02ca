"""`ModelTiles`: which tile holds what of the weights of a perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from models.perceptron import Perceptron
from models.tiles import TileLayout, WeightsForm

Floats = npt.NDArray[np.float64]
Tile = TypeVar("Tile")

PRODUCT_LEVELS = 2
"""Levels of a product, and of the mask that follows it where what it gives is opened."""


def answer_levels(network: Perceptron) -> int:
    """Levels between two refreshes of answers: weights change their form, a product, and back to the default scale; or
    an activation, a product and a mask.
    """
    return PRODUCT_LEVELS + (max(1, network.activation.levels) if network.hidden else 0)


@dataclass(frozen=True)
class ModelTiles:
    """The weights of a network in tiles of a layout; the bias is a row of the first layer's, and else apart."""

    network: Perceptron
    layout: TileLayout

    def weights_form(self, layer: int) -> WeightsForm:
        return "first" if layer == 0 else self.network.form(layer - 1)

    @cached_property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Tiles of the weights of each layer, (down, across); of the first one, pairs of tiles."""
        return tuple(
            self.layout.weights_grid(n_in - 1 if layer else n_in, n_out, self.weights_form(layer))
            for layer, (n_in, n_out) in enumerate(self.network.shapes)
        )

    def turns(self, layer: int) -> int:
        """Terms of the products of an inner layer: of the last one, if it is narrow, as many as it has outputs, or the
        next power of two; what it gives then repeats across a tile.
        """
        outputs, width = self.network.outputs, self.layout.width
        last = 0 < layer == self.network.n_layers - 1
        return min(width, 1 << (outputs - 1).bit_length()) if last else width

    def with_copies(self, layer: int, matrix: Floats) -> Floats:
        """Columns of what belongs to the outputs of a layer, repeated where `turns` are fewer than the tile is wide."""
        turns = self.turns(layer)
        return matrix if turns == self.layout.width else self.layout.repeated(matrix, turns)

    @cached_property
    def layer_of_tile(self) -> tuple[int, ...]:
        """Of every tile of the model."""
        sizes = (n_in * n_out + (n_out if layer else 0) for layer, (n_in, n_out) in enumerate(self.grids))
        return tuple(layer for layer, size in enumerate(sizes) for _ in range(size))

    @property
    def count(self) -> int:
        """Tiles of the whole model."""
        return len(self.layer_of_tile)

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
        for layer, each in enumerate(weights):
            w = self.with_copies(layer, each)
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
