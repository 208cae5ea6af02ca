"""Answers of a model whose weights lie in tiles: a perceptron, or a model of several outputs, for encrypted rows.

All layers are products of two encrypted matrices (`models.tiles`). A query is a batch in skewed form, so that the first
layer gives what it gives in training, plain tiles, and the others find their weights as they are. The weights of the
first layer were stored for clear rows, W[m, x], and are brought to W[(m + x) mod w, x], once for each session:

    sum over k of mask_k * rot(W, k H),  mask_k = 1 at position k of each row, H a rotation by one row,

in baby steps and giant steps; the masks are the same in every row, so that they need not be turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.backend.tracking import Size
from mhe.ciphertext import Ciphertext
from mhe.errors import ParameterError
from mhe.keys import KeyPlan
from mhe.party import Compute
from mhe.slot_map import RefreshOutput, SlotMap
from mhe.tracking_party import TrackingParty
from models.activations import activate
from models.model_tiles import PRODUCT_LEVELS, ModelTiles, answer_levels
from models.perceptron import Perceptron, with_constant
from models.precision import ROW_NORM_LIMIT, largest_output, quantile
from models.prediction import ANSWER_GUARD, PackedPrediction, limbs_that_hold, query_noise
from models.tile_products import add_bias, double, product, product_rotations, scale_growth, turned
from models.tiles import TileLayout

Floats = npt.NDArray[np.float64]

ANSWER_SCALES = ANSWER_GUARD**2
"""Answers are at so many times the default scale: both operands of the last product are raised by ANSWER_GUARD."""

UNIT_NORM = 4.0
"""Largest norm of the weights of a unit that the noise analysis assumes; He's first ones have sqrt(2)."""

Grid = list[list[Ciphertext]]


@dataclass(frozen=True, eq=False)
class PreparedLayers:
    """The weights of every layer as its product takes them, and the biases of all but the first."""

    grids: Sequence[Grid]
    biases: Sequence[Sequence[Ciphertext]]


@dataclass(frozen=True)
class TilePrediction(PackedPrediction):
    """A `models.prediction.Prediction` of a perceptron, with or without hidden layers."""

    network: Perceptron
    layout: TileLayout

    def __post_init__(self) -> None:
        p = self.parameters
        if p.depth < self.levels or self.layout.n_slots != p.n_slots:
            raise ParameterError(
                f"answers take {self.levels} levels above the refresh and tiles of {p.n_slots} slots; there are "
                f"{p.depth} levels and {self.layout.n_slots} slots: use the parameters and tiles of the training"
            )

    @property
    def levels(self) -> int:
        """Levels between two refreshes."""
        return answer_levels(self.network)

    @cached_property
    def tiles(self) -> ModelTiles:
        return ModelTiles(self.network, self.layout)

    @property
    def features(self) -> int:
        return self.network.inputs

    @property
    def outputs(self) -> int:
        return self.network.outputs

    @property
    def rows(self) -> int:
        return self.layout.rows

    @property
    def n_weights(self) -> int:
        return self.tiles.count

    @property
    def n_queries(self) -> int:
        return self.layout.tiles(self.features + 1)

    @property
    def n_answers(self) -> int:
        return self.layout.tiles(self.outputs)

    @property
    def weights_period(self) -> int:
        return self.layout.weights_period

    @property
    def key_plan(self) -> KeyPlan:
        layout, width = self.layout, self.layout.width
        order = {k * layout.stride for k in (*range(layout.baby), *range(0, width, layout.baby))}
        if self.n_queries > 1:
            order |= {width}
        outer, inner = {-width, *product_rotations(layout, "skewed", width)}, set[int]()
        if self.network.hidden:
            inner |= {-width, *product_rotations(layout, "plain", width)}
        if self.network.n_layers > 2:
            inner |= product_rotations(layout, "skewed", width)
        products = max(self.query_limbs, self.work_limbs if self.network.hidden else 0)
        return KeyPlan.of(
            layout.n_slots,
            root_only=[(order, self.query_limbs + 1), (outer, self.query_limbs), (inner, self.work_limbs)],
            relinearisation=max(products, self.inner_limbs),
            conjugation=products if width > 1 else 0,
            products_at_root=True,
        )

    @property
    def inner_limbs(self) -> int:
        """Limbs of the largest product of ciphertexts behind the first layer: of activations, where they have any."""
        if not self.network.hidden:
            return 0
        return self.parameters.n_limbs if self.network.activation.degree > 1 else self.work_limbs

    # limbs and scales

    @property
    def low_limbs(self) -> int:
        return self.parameters.refresh_limbs

    @property
    def work_limbs(self) -> int:
        return self.low_limbs + PRODUCT_LEVELS

    @property
    def weight_scale(self) -> float:
        return self.parameters.scale

    @property
    def query_limbs(self) -> int:
        """Before hidden layers there is a rescale more, from the scale of the first product to the default one."""
        return self.low_limbs + (2 if self.network.hidden else 1)

    @property
    def _lowering(self) -> float:
        """Whole factor that takes the scale of the first product down to the default one, with a rescale."""
        return float(round(self.parameters.moduli[self.low_limbs] / ANSWER_SCALES))

    @property
    def query_scale(self) -> float:
        """As `rows_scale`, for a product of encrypted rows."""
        return self.rows_scale / scale_growth(self.layout.width)

    @property
    def rows_scale(self) -> float:
        """The first product, of clear rows, comes out at the scale of the answers, or so near it that it can be lowered
        exactly.
        """
        out, p = self.answer_scale, self.parameters
        if self.network.hidden:
            out = p.scale * p.moduli[self.low_limbs] / self._lowering
        return out * p.moduli[self.query_limbs - 1] / (self.weight_scale * ANSWER_GUARD)

    @property
    def query_period(self) -> int:
        return self.layout.n_slots

    @property
    def answer_scale(self) -> float:
        return self.parameters.scale * ANSWER_SCALES

    @property
    def answer_period(self) -> int:
        return self.layout.n_slots

    @cached_property
    def answer_limbs(self) -> int:
        largest = largest_output(self.message_bound, self.features) * self.answer_scale
        return limbs_that_hold(self.parameters, largest, self.low_limbs)

    # packing

    def pack(self, x: Floats) -> list[Floats]:
        return self.layout.pack(with_constant(x), "skewed")

    def unpack(self, slots: Sequence[Floats], n_rows: int) -> Floats:
        return self.layout.unpack(slots, self.network.form(self.network.n_layers - 1), self.outputs)[:n_rows]

    # computation

    def prepare(self, party: Compute, weights: Sequence[Ciphertext] | None) -> PreparedLayers | None:
        fresh = self.raised(party, weights)
        return None if weights is None else self._prepared(party.backend, fresh)

    @cached_property
    def _guards(self) -> list[float]:
        """By how much the scale of each tile of weights is raised: those of the first layer and of the last."""
        out = []
        for layer, (n_in, n_out) in enumerate(self.tiles.grids):
            outer = layer in (0, self.network.n_layers - 1)
            out += [ANSWER_GUARD if outer else 1.0] * (n_in * n_out) + [1.0] * (n_out if layer else 0)
        return out

    def raised(self, party: Compute, weights: Sequence[Ciphertext] | None) -> list[Ciphertext]:
        """The weights raised by `_guards`, without the noise that does not repeat with them: at every party."""
        maps = {guard: SlotMap.repeating(self.weights_period, int(guard)) for guard in set(self._guards)}
        outputs = [RefreshOutput(tile, maps[guard]) for tile, guard in enumerate(self._guards)]
        fresh = party.refresh(weights, self.n_weights, self.weight_scale, self.weights_period, outputs)
        return [party.backend.reread(w, scale=w.scale * g) for w, g in zip(fresh, self._guards, strict=True)]

    def _prepared(self, backend: Backend, weights: Sequence[Ciphertext]) -> PreparedLayers:
        layers = self.straight(backend, weights, self.query_limbs + 1)
        first = [[self._turned(backend, tile) for tile in line] for line in layers.grids[0]]
        return PreparedLayers([first, *layers.grids[1:]], layers.biases)

    def _tile(self, backend: Backend, pair: Ciphertext, index: int) -> Ciphertext:
        """The tile of this index in the first half of the rows; the second half holds anything."""
        return backend.rotate(pair, self.layout.width) if index % 2 else pair

    def straight(self, backend: Backend, weights: Sequence[Ciphertext], limbs: int) -> PreparedLayers:
        """The weights as products take them, those of the first layer tile by tile at so many limbs."""
        grids, biases = self.tiles.layers(weights)
        pairs = [[backend.drop_limbs(tile, limbs) for tile in line] for line in grids[0]]
        prepared = [[[self._tile(backend, t, i) for t in pairs[i // 2]] for i in range(self.n_queries)]]
        for layer, grid in enumerate(grids[1:], start=1):
            low = [[backend.drop_limbs(tile, self.work_limbs) for tile in line] for line in grid]
            doubled = self.network.form(layer - 1) == "plain"
            prepared.append([[double(backend, self.layout, t) for t in line] for line in low] if doubled else low)
        return PreparedLayers(prepared, biases)

    def _turned(self, backend: Backend, tile: Ciphertext) -> Ciphertext:
        """A tile of the first layer for a skewed batch, one limb lower."""
        layout, scale = self.layout, float(self.parameters.moduli[tile.limbs - 1])
        turned = backend.rotate_hoisted(tile, [k * layout.stride for k in range(layout.baby)])
        parts = {}
        for giant in range(0, layout.width, layout.baby):
            masks = np.eye(layout.width, layout.stride)[giant : giant + layout.baby]
            parts[giant * layout.stride] = backend.multiply_accumulate_plain(
                (turned[k * layout.stride], backend.encode(mask, tile.limbs, scale)) for k, mask in enumerate(masks)
            )
        return backend.rescale(backend.rotate_and_sum(parts))

    def answer(
        self, party: Compute, prepared: PreparedLayers | None, query: Sequence[Ciphertext] | None, n_rows: int
    ) -> list[Ciphertext] | None:
        z: list[Ciphertext] | None = None
        if prepared is not None and query is not None:
            z = self._product(party.backend, prepared, 0, query)

        def refresh(some: list[Ciphertext] | None, count: int) -> list[Ciphertext]:
            return party.refresh(some, count, self.parameters.scale, self.layout.n_slots)

        return self.outputs_from(party.backend, prepared, z, n_rows, refresh)

    def outputs_from(
        self,
        backend: Backend,
        prepared: PreparedLayers | None,
        sums: Sequence[Ciphertext] | None,
        n_rows: int,
        refresh: Callable[[list[Ciphertext] | None, int], list[Ciphertext]],
    ) -> list[Ciphertext] | None:
        """The outputs, from the sums of the first layer as its product leaves them; None where these are.

        refresh: of so many ciphertexts, or of None.
        """
        net, present = self.network, self.layout.present(n_rows)
        z = None if sums is None else [self._first(backend, tile) for tile in sums]
        for layer, width in enumerate(net.hidden, start=1):
            z = refresh(z, self.layout.tiles(width))
            if prepared is None:
                z = None
                continue
            a = [activate(backend, tile, net.activation, self.layout.mask) for tile in z]
            batch, scale = [backend.drop_limbs(tile, self.work_limbs) for tile in a], self.parameters.scale
            if layer == len(net.hidden):
                batch, scale = [self._raised(backend, tile, ANSWER_GUARD) for tile in batch], self.answer_scale
            products = zip(self._product(backend, prepared, layer, batch), prepared.biases[layer], strict=True)
            z = [add_bias(backend, tile, bias, present, scale) for tile, bias in products]
        return None if z is None else [backend.drop_limbs(tile, self.answer_limbs) for tile in z]

    def _raised(self, backend: Backend, tile: Ciphertext, factor: float) -> Ciphertext:
        """At so many times its scale, a whole number: a product with 1, which is exact."""
        return backend.multiply_plain(tile, backend.encode(np.ones(1), tile.limbs, factor))

    def _first(self, backend: Backend, z: Ciphertext) -> Ciphertext:
        """What the first layer gives, rescaled to low_limbs limbs: before an activation at the default scale."""
        z = backend.rescale(z)
        return backend.rescale(self._raised(backend, z, self._lowering)) if self.network.hidden else z

    def _product(
        self, backend: Backend, prepared: PreparedLayers, layer: int, batch: Sequence[Ciphertext]
    ) -> list[Ciphertext]:
        """A W for half tiles of A: not rescaled. The first layer takes a skewed batch, and so do the others in turn."""
        doubled = [double(backend, self.layout, tile) for tile in batch]
        form = self.network.form(layer - 1) if layer else "skewed"
        turns = self.layout.width
        batches = turned(backend, self.layout, doubled, form, turns)
        return product(backend, self.layout, batches, prepared.grids[layer], form, turns)

    # noise

    @cached_property
    def _added_std(self) -> float:
        return self._tracked(0.0, ROW_NORM_LIMIT)

    def _tracked(self, weight_std: float, row_size: float) -> float:
        """Error of an answer to rows so many times as large as one of standard deviations: root mean square of slots.

        The weights of a unit have the norm UNIT_NORM, and inputs of activations stay within their interval.
        """
        p, party = self.parameters, self.tracking_party
        backend, prepared = party.backend, self._prepared(party.backend, self.tracked_weights(party, weight_std))
        rows = row_size * math.sqrt((self.features + 1) / (self.layout.width * self.n_queries))
        noise = backend.slot_noise(query_noise(p, self.query_limbs), self.query_scale)
        query = backend.ciphertext(Size(rows, noise), self.query_limbs, self.query_scale, p.n_slots)
        answers = self.answer(party, prepared, [query] * self.n_queries, self.rows) or []
        return max(backend.size(answer).error for answer in answers)

    @property
    def tracking_party(self) -> TrackingParty:
        """One that follows noise, with inputs of activations within their interval."""
        return TrackingParty(self.parameters, self.network.activation.half_width, centred=True)

    def tracked_weights(self, party: TrackingParty, weight_std: float) -> list[Ciphertext]:
        """As `raised` gives them: as large as the analysis allows for, with this error."""
        backend, w, values = party.backend, self.layout.width, []
        for layer, (n_in, n_out) in enumerate(self.tiles.grids):
            inputs = w * (n_in if layer else self.n_queries)
            values += [UNIT_NORM / math.sqrt(inputs)] * (n_in * n_out) + [UNIT_NORM] * (n_out if layer else 0)
        low = [backend.ciphertext(Size(0.0, 0.0), self.low_limbs, self.weight_scale, self.weights_period)] * len(values)
        weights = []
        for value, tile in zip(values, self.raised(party, low), strict=True):
            noise = math.hypot(backend.size(tile).error, weight_std)
            weights.append(backend.ciphertext(Size(value, noise), tile.limbs, tile.scale, tile.period))
        return weights

    @property
    def error(self) -> float:
        """Of rows of standard size, and the largest weights and inputs of activations that the analysis allows for."""
        return math.hypot(self._tracked(self.weight_std, 1.0), self._smudged_std) * quantile(self.rows * self.outputs)
