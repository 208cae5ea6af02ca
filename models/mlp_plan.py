"""`PerceptronPlan`: everything about the training of a perceptron that can be known before a key is generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mhe.collective import Transfer
from mhe.errors import ParameterError
from mhe.keys import KeyPlan
from mhe.parameters import WORD_BYTES
from models.mlp_keys import keys_by_level
from models.mlp_precision import PerceptronPrecision
from models.model_tiles import ModelTiles, Tile, answer_levels
from models.perceptron import Perceptron
from models.refresh_points import ALL_POINTS, LevelSchedule, RefreshPoints, level_schedule
from models.tile_prediction import TilePrediction
from models.tile_products import scale_growth
from models.tiles import TileLayout, coupled_width
from models.training_plan import PolynomialInputs, TrainingPlan
from models.workload import Workload

Floats = npt.NDArray[np.float64]

INPUT_SCALES = 4.0
"""By how many times z is refreshed above the default scale: less, and the noise of the product that gives z is felt;
more, and that of the powers of z."""

GRADIENT_ROOM = 16.0
"""Means of gradients over all rows of a step are taken to be smaller than what else is refreshed, by this factor."""

PAIRED = 2.0
"""`scale_growth` of products of two encrypted tiles, wherever they have two terms or more."""


@dataclass(frozen=True)
class PerceptronPlan(TrainingPlan):
    """One training run of a perceptron: a workload, on parameters, in tiles. centred: as of a `CircuitPlan`. points:
    where it refreshes.
    """

    layout: TileLayout
    centred: bool = False
    points: RefreshPoints = ALL_POINTS

    def __post_init__(self) -> None:
        p = self.parameters
        if p.depth < self.levels:
            refreshed = self.points.said(self.network)
            raise ParameterError(
                f"an iteration consumes {self.levels} levels between refreshes of {refreshed}; the parameters have "
                f"{p.depth} above the refresh, need {p.refresh_limbs + self.levels} limbs, or an activation of lower "
                "degree"
            )
        needed = perceptron_message_bits(self.workload, self.points)
        if needed > p.message_bits:
            raise ParameterError(
                f"what is refreshed needs {needed:.1f} bits above the scale, the parameters allow "
                f"{p.message_bits:.1f}; lower message_bound or raise it in the parameters"
            )
        batch = max(self.workload.batch_rows)
        if batch > self.layout.rows:
            raise ParameterError(
                f"a batch of {batch} rows does not fit the {self.layout.rows} rows of a tile; use "
                "smaller batches, narrower tiles or a larger ring_dim"
            )
        if self.network.coupled and (self.network.hidden or coupled_width(self.network.outputs) > self.layout.width):
            raise ParameterError(
                f"{self.network.outputs} coupled outputs need a tile of {coupled_width(self.network.outputs)} columns, "
                f"without hidden layers; got tiles of {self.layout.width} columns and widths {self.network.widths}: "
                "use a larger ring_dim, or outputs that are not coupled"
            )
        if self.layout.n_slots != p.n_slots:
            raise ParameterError(f"tiles of {self.layout.n_slots} slots on parameters with {p.n_slots}; need the same")

    # limbs and scales

    @property
    def levels(self) -> int:
        """Levels between two refreshes."""
        return perceptron_levels(self.network, self.points)

    @property
    def schedule(self) -> LevelSchedule:
        return level_schedule(self.network, self.points)

    def at(self, level: int) -> int:
        """Limbs at this level."""
        return self.low_limbs + level

    @property
    def low_limbs(self) -> int:
        """Where everything is refreshed or released."""
        return self.parameters.refresh_limbs

    @property
    def work_limbs(self) -> int:
        """Limbs of gradients, and of all operands of products that are refreshed: as few as a product needs."""
        return self.at(1)

    @property
    def input_scale(self) -> float:
        """Scale of z."""
        return INPUT_SCALES * self.parameters.scale

    @property
    def weight_scale(self) -> float:
        """Where no gradients are refreshed, it is theirs, read as steps: as large as the refresh has room for, up to
        that of those that are.
        """
        p = self.parameters
        if self.points.gradients:
            return p.scale
        room = p.scale * 2 ** (p.message_bits - 1) / self.workload.message_bound
        return min(room, self._refreshed_gradient_scale / self.step_size)

    @property
    def kept_scale(self) -> float:
        return self.parameters.scale

    @property
    def gradient_scale(self) -> float:
        """Scale of sums of gradients over n rows, n times as large as their mean."""
        return self._refreshed_gradient_scale if self.points.gradients else self.weight_scale * self.step_size

    @property
    def _refreshed_gradient_scale(self) -> float:
        return GRADIENT_ROOM * self.parameters.scale / math.sqrt(self.total_rows)

    @property
    def operand_scale(self) -> float:
        """Scale of activations and errors in products: those of the two come out at gradient_scale."""
        return math.sqrt(self.gradient_scale * self._modulus_of(1) / PAIRED)

    @property
    def rows_scale(self) -> float:
        """Scale of the encoded rows: the gradient of the first layer comes out at gradient_scale."""
        errors = self.operand_scale * (self.network.outputs if self.network.coupled else 1)
        return self.gradient_scale * self._modulus_of(1) / errors

    @property
    def ahead_scales(self) -> list[float]:
        """Scale of what is looked ahead to, by tile: z of every layer comes out at input_scale."""
        return [self._ahead_scale(layer) for layer in self.tiles.layer_of_tile]

    @property
    def ahead_limbs(self) -> list[int]:
        """Limbs of what is looked ahead to, by tile."""
        return [self.at(self.schedule.ahead[layer]) for layer in self.tiles.layer_of_tile]

    def _ahead_scale(self, layer: int) -> float:
        factor = scale_growth(self.tiles.turns(layer)) * self.operand_scale if layer else self.rows_scale
        return self.input_scale * self._modulus_of(self.schedule.forward[layer]) / factor

    def slope_scale(self, layer: int) -> float:
        """Scale of the slopes of a hidden layer: times its errors, rescaled, they give errors at operand_scale."""
        return self.operand_scale * self._modulus_of(self.schedule.slopes(layer)) / self.slope_error_scale(layer)

    def slope_error_scale(self, layer: int) -> float:
        """Scale of the errors of a hidden layer before they meet a slope: the default one if they are refreshed."""
        if self.points.errors:
            return self.parameters.scale
        growth = scale_growth(self.tiles.turns(layer + 1))
        wide = growth * self.operand_scale * self._ahead_scale(layer + 1)
        return wide / self._modulus_of(self.schedule.backward[layer + 1])

    def _modulus_of(self, level: int) -> int:
        """By which a product at this level is rescaled."""
        return self.parameters.moduli[self.at(level) - 1]

    @property
    def momentum(self) -> float:
        return self.workload.momentum

    @property
    def step_size(self) -> float:
        """learning_rate / n: the factor of the summed gradients."""
        return self.workload.learning_rate / self.total_rows

    # tiles

    @cached_property
    def tiles(self) -> ModelTiles:
        return ModelTiles(self.network, self.layout)

    @property
    def n_ciphertexts(self) -> int:
        return self.tiles.count

    @property
    def n_outputs(self) -> int:
        return self.layout.tiles(self.network.outputs)

    @property
    def rows(self) -> int:
        return self.layout.rows

    def blocks(self, party: int) -> int:
        """A batch is one, filled up where the party has fewer rows."""
        return 1

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

    def decay(self, pace: float) -> list[Floats]:
        """What a step at this pace keeps of each slot: as `Workload.decay`, and nothing of the padding."""
        return self.pack(self.workload.decay(pace))

    @cached_property
    def key_plan(self) -> KeyPlan:
        probed = self.workload.probes > 0
        return keys_by_level(self.network, self.layout, self.points, self.levels if probed else 0).moved(self.low_limbs)

    @property
    def weights_period(self) -> int:
        return self.layout.weights_period

    # work, traffic and memory

    @property
    def iteration_transfers(self) -> tuple[Transfer, ...]:
        """What one iteration sends through the tree: refreshes of layers, the sum, its refresh, and the weights'."""
        p, n = self.parameters, self.n_ciphertexts
        widths = self.points.widths(self.network)
        own = [t for width in widths for t in self._own_refresh(self.layout.tiles(width))]
        gradients = self.refresh_at_root_transfers(p.n_limbs * n, n) if self.points.gradients else ()
        return (
            *own,
            Transfer("reduce", "sum", 2 * self.work_limbs * n, p.ring_dim),
            *gradients,
            *self.refresh_transfers(p.n_limbs * n, n),
        )

    def _own_refresh(self, count: int) -> tuple[Transfer, ...]:
        """All parties' ciphertexts, `count` of each."""
        p = self.parameters
        low, both = self.low_limbs * count, (self.low_limbs + p.n_limbs) * count
        return (
            Transfer("gather", "refresh_own_input", low, p.ring_dim),
            Transfer("broadcast", "refresh_own_input", low * p.n_parties, p.ring_dim),
            Transfer("reduce", "refresh", both * p.n_parties, p.ring_dim),
            Transfer("scatter", "refresh", both, p.ring_dim),
        )

    @property
    def polynomial_inputs(self) -> PolynomialInputs:
        """z of every layer with a polynomial behind it, masked and refreshed once more: copies are inputs like any
        other.
        """
        p, net, layout = self.parameters, self.network, self.layout
        layers = [layer for layer, function in enumerate(net.functions) if function.degree > 1]
        tiles = sum(layout.tiles(net.widths[layer + 1]) for layer in layers)
        columns = sum(np.count_nonzero(self.tiles.with_copies(n, np.ones((1, net.widths[n + 1])))) for n in layers)
        values = sum(self.workload.batch_rows) * columns
        pooled = p.n_parties * tiles
        return PolynomialInputs(p.n_limbs, p.scale, pooled, layout.n_slots, values, self._own_refresh(tiles))

    def encoded_bytes(self, party: int) -> int:
        """All encoded diagonals of this party's rows."""
        p = self.parameters
        diagonals, forward = self.tiles.grids[0][0] * self.layout.width, self.at(self.schedule.forward[0])
        # both products take the same ones if they are at the same limbs
        limbs = self.work_limbs + (forward if forward > self.work_limbs else 0)
        return diagonals * limbs * p.ring_dim // 2 * WORD_BYTES * self.batches(party)

    # release

    @cached_property
    def precision(self) -> PerceptronPrecision:
        """Noise of the weights and of what is released."""
        return PerceptronPrecision(self)

    @cached_property
    def prediction(self) -> TilePrediction:
        """Answers to queries of a model that stays encrypted. Raises ParameterError if they do not fit the chain."""
        w, std = self.workload, self.kept_weight_std
        return TilePrediction(
            self.parameters, std, w.message_bound, self.answer_bits, self.releases, self.network, self.layout
        )

    @property
    def prediction_scale(self) -> float:
        """Scale of the delivered outputs."""
        return self.parameters.scale


def perceptron_levels(net: Perceptron, points: RefreshPoints) -> int:
    """Levels between two refreshes. Where there are hidden layers, as many as answers take: their chain is the same."""
    needed = level_schedule(net, points).needed
    return max(needed, answer_levels(net)) if net.hidden else needed


def perceptron_message_bits(workload: Workload, points: RefreshPoints, gradient_scales: float = 0.0) -> float:
    """log2 of what is refreshed above the default scale, at least: values up to message_bound, and what products leave
    beside them, sums of as many terms, taken for as large again.

    gradient_scales: of gradients that are not refreshed, in scales of the means of those that are.
    """
    bound, rows = math.log2(workload.message_bound), math.log2(workload.step_rows) / 2
    inputs = bound + math.log2(INPUT_SCALES) + 2
    if points.gradients:
        return max(inputs, bound + rows + 2)
    # what a step leaves beside the weights lies in slots of its own, and is taken for no more than twice the bound
    largest = GRADIENT_ROOM * gradient_scales / workload.learning_rate
    return max(inputs, bound + rows + math.log2(largest) + 1) if largest else inputs
