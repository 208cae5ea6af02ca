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
from models.clear_tiles import clear_rotations
from models.mlp_precision import PerceptronPrecision
from models.model_tiles import ModelTiles, Tile, answer_levels
from models.perceptron import Perceptron
from models.tile_prediction import TilePrediction
from models.tile_products import inner_rotations, sample_rotations, scale_growth
from models.tiles import TileLayout, coupled_width, coupling_steps
from models.training_plan import PolynomialInputs, TrainingPlan
from models.workload import Workload

Floats = npt.NDArray[np.float64]

LOOK_AHEAD_LEVELS = 1
"""Levels of v = (1 + beta) w - beta w_previous, before the products."""

GRADIENT_ROOM = 16.0
"""Means of gradients over all rows of a step are taken to be smaller than what else is refreshed, by this factor."""

PAIRED = 2.0
"""`scale_growth` of products of two encrypted tiles, wherever they have two terms or more."""


@dataclass(frozen=True)
class PerceptronPlan(TrainingPlan):
    """One training run of a perceptron: a workload, on parameters, in tiles. centred: as of a `CircuitPlan`."""

    layout: TileLayout
    centred: bool = False

    def __post_init__(self) -> None:
        p = self.parameters
        if p.depth < self.levels:
            raise ParameterError(
                f"a layer consumes {self.levels} levels (activation, or slope and errors, and product), the parameters "
                f"have {p.depth} above the refresh; need {p.refresh_limbs + self.levels} limbs, or an activation of "
                "lower degree"
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
        return perceptron_levels(self.network)

    @property
    def low_limbs(self) -> int:
        """Where everything is refreshed or released."""
        return self.parameters.refresh_limbs

    @property
    def work_limbs(self) -> int:
        """Limbs of the operands of products of tiles, which are nearly all of the work: as few as a product needs."""
        return self.low_limbs + 1

    @property
    def weight_scale(self) -> float:
        return self.parameters.scale

    @property
    def refresh_scale(self) -> float:
        """Scale at which z, and errors before they meet a slope, are refreshed, for which `perceptron_message_bits` has
        room.
        """
        return self.parameters.scale * math.sqrt(self.total_rows)

    @property
    def gradient_scale(self) -> float:
        """Scale at which sums of gradients over n rows are refreshed: n times as large as their mean."""
        return GRADIENT_ROOM * self.refresh_scale / self.total_rows

    @property
    def operand_scale(self) -> float:
        """Scale of activations and errors in products: those of the two come out at gradient_scale."""
        return math.sqrt(self.gradient_scale * self._product_modulus / PAIRED)

    @property
    def rows_scale(self) -> float:
        """Scale of the encoded rows: the gradient of the first layer comes out at gradient_scale."""
        errors = self.operand_scale * (self.network.outputs if self.network.coupled else 1)
        return self.gradient_scale * self._product_modulus / errors

    @property
    def ahead_scales(self) -> list[float]:
        """Scale of what is looked ahead to, by tile: z of every layer, and errors a layer back, come out at
        refresh_scale.
        """
        scales: list[float] = []
        wide = self.refresh_scale * self._product_modulus
        for layer, (n_in, n_out) in enumerate(self.tiles.grids):
            factor = scale_growth(self.tiles.turns(layer)) * self.operand_scale if layer else self.rows_scale
            scales += [wide / factor] * (n_in * n_out + (n_out if layer else 0))
        return scales

    @property
    def slope_scale(self) -> float:
        """Scale of slopes: times errors at the default scale, rescaled, they give errors at operand_scale."""
        return self.operand_scale * self.parameters.moduli[self.work_limbs] / self.parameters.scale

    @property
    def _product_modulus(self) -> int:
        """By which a product is rescaled."""
        return self.parameters.moduli[self.work_limbs - 1]

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
        """Rotations are those of products, but for one that adds up the halves of a product once it is rescaled."""
        layout, net, tiles, low = self.layout, self.network, self.tiles, self.work_limbs
        everywhere = clear_rotations(layout, tiles.grids[0][0]) | {-layout.width}
        if net.coupled:
            everywhere |= {*coupling_steps(net.outputs)}
        root = {*layout.fold_steps}
        for layer in range(1, net.n_layers):
            form = net.form(layer)
            everywhere |= inner_rotations(layout, tiles.turns(layer))
            root |= sample_rotations(layout, form, tiles.turns(layer))
            root |= {*layout.row_steps} if form == "plain" else {-layout.width, *layout.skewed_row_steps}
        paired = any(tiles.turns(layer) > 1 for layer in range(1, net.n_layers))
        return KeyPlan.of(
            layout.n_slots,
            [(everywhere, low), ((layout.width,), self.low_limbs)],
            [(root, low)],
            relinearisation=self._relinearisation_limbs,
            conjugation=low if paired else 0,
        )

    @property
    def _relinearisation_limbs(self) -> int:
        """Of the largest product of two ciphertexts: of a function's first power, or of slopes and errors."""
        net, low = self.network, self.work_limbs
        found = [0, self.parameters.n_limbs if self.workload.probes else 0]
        # slopes have a limb more than what products take, for they meet errors before
        functions = [(net.link, low), (net.activation, low), (net.activation.derivative, low + 1)]
        for function, limbs in functions if net.hidden else functions[:1]:
            found.append(limbs + function.depth if function.degree > 1 else 0)
        if net.hidden:
            found.append(low + 1)
        return max(found)

    @property
    def weights_period(self) -> int:
        return self.layout.weights_period

    # work, traffic and memory

    @property
    def iteration_transfers(self) -> tuple[Transfer, ...]:
        """What one iteration sends through the tree: every layer's refreshes, then the sum, its refresh and the
        weights'.
        """
        p, net, tiles = self.parameters, self.network, self.layout.tiles
        widths = [*net.hidden, net.outputs, *reversed(net.hidden)]
        own = [t for width in widths for t in self._own_refresh(tiles(width))]
        n = self.n_ciphertexts
        return (
            *own,
            Transfer("reduce", "sum", 2 * self.work_limbs * n, p.ring_dim),
            *self.refresh_at_root_transfers(p.n_limbs * n, n),
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
        diagonals = self.tiles.grids[0][0] * self.layout.width
        return diagonals * self.work_limbs * p.ring_dim // 2 * WORD_BYTES * self.batches(party)

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


def perceptron_levels(net: Perceptron) -> int:
    """Levels between two refreshes: the look ahead, the deepest function, or a slope and the errors that it meets; and
    a product. Where there are hidden layers, as many as answers take: their chain is the same.
    """
    before = max(LOOK_AHEAD_LEVELS, net.link.depth)
    if not net.hidden:
        return before + 1
    before = max(before, net.activation.depth, net.activation.derivative.depth + 1)
    return max(before + 1, answer_levels(net))


def perceptron_message_bits(workload: Workload) -> float:
    """log2 of what is refreshed above the default scale: values up to message_bound, and what products leave beside
    them, sums of as many terms, taken for as large again; at a scale that is larger by the square root of the rows of a
    step, so that sums over these find room, too (`PerceptronPlan.gradient_scale`).
    """
    return math.log2(workload.message_bound) + 2 + math.log2(workload.step_rows) / 2
