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
from mhe.parameters import Parameters
from models.mlp_precision import PerceptronPrecision
from models.model_tiles import PRODUCT_LEVELS, ModelTiles, Tile
from models.perceptron import Perceptron
from models.plan import LIMB_BYTES
from models.prediction import TWO_BUDGETS, flooded_std
from models.tile_prediction import TilePrediction
from models.tiles import TileLayout
from models.workload import Workload

Floats = npt.NDArray[np.float64]

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

    @cached_property
    def prediction(self) -> TilePrediction:
        """Answers to queries of a model that stays encrypted. Raises ParameterError if they do not fit the chain."""
        w, p, precision = self.workload, self.parameters, self.precision
        bits = w.release_bits + TWO_BUDGETS
        flooded = flooded_std(
            p, precision.weight_noise_norm, bits, self.n_tiles, self.weight_scale, self.weights_period
        )
        std = math.hypot(precision.weight_noise_std, flooded)
        return TilePrediction(p, self.network, self.layout, std, w.message_bound, bits, self.releases)

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
        """How many ciphertexts are opened over the run: means, variances, weights or outputs, quality; and answers in
        the life of a model that stays encrypted.
        """
        w = self.workload
        outputs = w.n_parties * self.prediction_blocks * self.layout.tiles(self.network.outputs)
        opened = {"model": self.n_tiles + 1, "predictions": 1 + outputs, "encrypted": w.answers, "nothing": 0}
        return max(1, (2 if w.standardises else 0) + opened[w.release])


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
