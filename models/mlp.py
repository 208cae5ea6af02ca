"""A multilayer perceptron on encrypted weights: one party's gradients, and the root's step.

Every party runs its whole batch in SIMD through tiles (`models.tiles`): the first layer multiplies its clear rows, the
others encrypted activations. What a product gives is refreshed, all parties' ciphertexts in one round, so that no
modulus chain grows with the depth of the network: above the floor of the refresh there are the levels of one
activation, or of a slope and the errors that it meets, and of one product. Some of these refreshes can be left out for
a longer chain (`models.refresh_points`).

    z_1 = X W_1,  a_l = f(z_l),  z_l+1 = a_l W_l+1 + b_l+1                               forward
    e_L = y - link(z_L),  e_l = (e_l+1 W_l+1^T) * f'(z_l),  G_l+1 = a_l^T e_l+1          backward

Nearly all of the work are rotations and products, and these cost the less the fewer limbs they have. So they are the
last that happens before a refresh, at one limb above it, where there is one: what a product leaves in the free halves
of rows is refreshed with it, and is gone after the activation or the slope, whose constants carry a mask. In the same
way the root's step adds gradients to the weights with all that they leave beside them (padding): the constants by which
the next iteration looks ahead carry a mask, and what is released is masked before.

A bias is a tile of its own whose gradient is the sum of the rows of e; in the first layer it is the weight of a
constant column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext, Plaintext
from mhe.party import Compute, Party
from mhe.slot_map import RefreshOutput, SlotMap
from models.activations import EVERYWHERE, Polynomial, evaluate, identity, part_of_interval
from models.clear_tiles import ClearTiles, clear_backward, clear_forward, pack_clear
from models.linalg import rotate_and_add
from models.mlp_fold import folded
from models.mlp_plan import PerceptronPlan
from models.perceptron import with_constant
from models.regression import encrypted_zero
from models.tile_products import (
    Turned,
    add_halves,
    double,
    outer_product,
    product,
    transposed_product,
    turned,
)
from models.tiles import Form, coupling_steps

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Batch:
    """One party's rows and targets of one iteration: clear tiles of rows, packed tiles of targets (n_slots,).

    present: 1 at the first half of the rows that hold a sample, 0 elsewhere; of the others no error may come.
    """

    rows: ClearTiles
    targets: Sequence[Floats]
    present: Floats


@dataclass(frozen=True)
class PerceptronModel:
    """A `models.model.Model`: its ciphertexts are the tiles of `PerceptronPlan.pack`."""

    plan: PerceptronPlan

    def batches(
        self, features: Floats, targets: Floats, pieces: Sequence[npt.NDArray[np.int64]], *, keep: bool
    ) -> list[Batch]:
        return [self.batch(features[rows], targets[rows], keep=keep) for rows in pieces]

    def batch(self, x: Floats, y: Floats, *, keep: bool) -> Batch:
        """x: (at most layout.rows, inputs), y: (the same, outputs)."""
        net, layout = self.plan.network, self.plan.layout
        present = layout.present(len(x))
        if net.coupled:
            # what has no class must not count in their mean
            present = np.asarray(present * layout.pack(np.ones((layout.rows, net.outputs)), "plain")[0]).ravel()
        rows = pack_clear(layout, with_constant(x), keep=keep)
        targets = self.plan.tiles.with_copies(net.n_layers - 1, y)
        return Batch(rows, layout.pack(targets, net.form(net.n_layers - 1)), present)

    def start(self, party: Party) -> list[Ciphertext]:
        """The first weights are public: random by a public seed, or zero without hidden layers."""
        plan, backend = self.plan, party.backend
        zero = encrypted_zero(party, plan.weight_scale, plan.weights_period)
        first = plan.pack(plan.network.initial_weights(plan.workload.seed))
        return [backend.add_plain(zero, backend.encode(tile, zero.limbs, zero.scale)) for tile in first]

    def look_ahead(
        self, backend: Backend, weights: Sequence[Ciphertext], previous: Sequence[Ciphertext]
    ) -> list[Ciphertext]:
        """At plan.ahead_limbs and plan.ahead_scales, without what is beside the weights."""
        plan, beta = self.plan, self.plan.momentum
        factors: dict[tuple[float, int, bytes], list[Plaintext]] = {}
        ahead = []
        for both, limbs, scale, mask in zip(
            zip(weights, previous, strict=True), plan.ahead_limbs, plan.ahead_scales, plan.valid, strict=True
        ):
            alike, wide = (scale, limbs, mask.tobytes()), scale * plan.parameters.moduli[limbs] / plan.weight_scale
            if alike not in factors:
                factors[alike] = [backend.encode(c * mask, limbs + 1, wide) for c in (1 + beta, -beta) if c]
            terms = zip((backend.drop_limbs(w, limbs + 1) for w in both), factors[alike], strict=False)
            ahead.append(backend.rescale(backend.multiply_accumulate_plain(terms)))
        return ahead

    def gradients(
        self, party: Compute, ahead: Sequence[Ciphertext], batch: Batch, pace: float = 1.0, *, first: bool = False
    ) -> list[Ciphertext]:
        """pace times what makes the loss smaller, tile by tile as the weights, before fold and rescale: at
        plan.work_limbs limbs.
        """
        return _Pass(party, self.plan, ahead, batch, pace).gradients()

    def probed_gradients(
        self, party: Compute, ahead: Sequence[Ciphertext], batch: Batch, pace: float = 1.0, *, first: bool = False
    ) -> tuple[list[Ciphertext], list[Ciphertext]]:
        """The inputs are what functions of layers get anyway, masked."""
        probed = _Pass(party, self.plan, ahead, batch, pace, probed=True)
        return probed.gradients(), probed.inputs

    def prepare(self, party: Compute, batches: Sequence[Any]) -> list[Ciphertext]:
        return []

    def step(
        self,
        party: Compute,
        prepared: Sequence[Ciphertext],
        ahead: Sequence[Ciphertext],
        totals: Sequence[Ciphertext] | None,
        pace: float = 1.0,
    ) -> list[Ciphertext] | None:
        """w' = (1 - rate l2) v + rate/n sum of what `gradients` gives, for every tile; padding holds anything."""
        backend, plan, limbs = party.backend, self.plan, self.plan.work_limbs
        gradients = None if totals is None else folded(backend, plan, totals)
        if plan.points.gradients:
            gradients = self._refreshed(party, gradients)
        if gradients is None:
            return None
        out = []
        for v, g, decay in zip(ahead, gradients, plan.decay(pace), strict=True):
            low, step = backend.drop_limbs(v, limbs), backend.reread(g, scale=g.scale / plan.step_size)
            kept = backend.multiply_plain(low, backend.encode(decay, limbs, step.scale / low.scale))
            out.append(backend.rescale(backend.add(step, kept)))
        return out

    def _refreshed(self, party: Compute, gradients: Sequence[Ciphertext] | None) -> list[Ciphertext] | None:
        """The root's gradients, where step_size and a rescale again make them steps, now at plan.weight_scale."""
        backend, plan, limbs = party.backend, self.plan, self.plan.work_limbs
        low = None if gradients is None else [backend.rescale(g) for g in gradients]
        fresh = party.refresh_at_root(low, plan.n_ciphertexts, plan.gradient_scale, plan.weights_period)
        if fresh is None:
            return None
        factor = plan.weight_scale * plan.step_size * plan.parameters.moduli[limbs - 1] / plan.gradient_scale
        one = backend.encode(np.ones(1), limbs, factor)
        return [backend.multiply_plain(backend.drop_limbs(g, limbs), one) for g in fresh]

    def refresh(self, party: Compute, updated: Sequence[Ciphertext] | None) -> list[Ciphertext]:
        return party.refresh(updated, self.plan.n_ciphertexts, self.plan.weight_scale, self.plan.weights_period)

    def release(self, party: Party, weights: Sequence[Ciphertext] | None) -> list[Floats]:
        plan = self.plan
        alone = self._alone(party, weights, plan.weight_scale)
        tiles = [None] * plan.n_ciphertexts if alone is None else alone
        return plan.unpack(
            [
                party.decrypt(tile, plan.low_limbs, plan.weight_scale, plan.weights_period, noise)
                for tile, noise in zip(tiles, plan.precision.weight_noise_norms, strict=True)
            ]
        )

    def keep(self, party: Compute, weights: Sequence[Ciphertext] | None) -> list[Ciphertext] | None:
        return self._alone(party, weights, self.plan.kept_scale)

    def _alone(self, party: Compute, weights: Sequence[Ciphertext] | None, scale: float) -> list[Ciphertext] | None:
        """The weights and nothing beside them, at this scale: at the root, None elsewhere."""
        backend, plan = party.backend, self.plan
        fresh = party.refresh_at_root(weights, plan.n_ciphertexts, plan.weight_scale, plan.weights_period)
        if fresh is None:
            return None
        # masked twice: of what is beside the weights, the rounding of the first mask lets through some 2^-scale_bits
        for limbs, to in ((plan.work_limbs + 1, plan.weight_scale), (plan.work_limbs, scale)):
            wide = plan.parameters.moduli[limbs - 1] * to / plan.weight_scale
            fresh = [
                backend.rescale(backend.multiply_plain(backend.drop_limbs(w, limbs), backend.encode(mask, limbs, wide)))
                for w, mask in zip(fresh, plan.valid, strict=True)
            ]
        return fresh

    def predict(self, party: Party, weights: Sequence[Ciphertext] | None, features: Floats) -> Floats:
        plan, net, layout = self.plan, self.plan.network, self.plan.layout
        # rotations would let in the noise of all coefficients, of which only those that carry weights are kept
        kept = SlotMap.repeating(plan.weights_period)
        outputs = [RefreshOutput(tile, kept) for tile in range(plan.n_ciphertexts)]
        fresh = party.refresh(weights, plan.n_ciphertexts, plan.weight_scale, plan.weights_period, outputs)
        # as many blocks as the party with the most test rows: the spare ones are empty
        blocks = [features[k * layout.rows : (k + 1) * layout.rows] for k in range(plan.prediction_blocks)]
        found = []
        for x in blocks:
            z = party.deliver(outputs_of_rows(party, plan, fresh, x), plan.precision.logit_noise_norm)
            found.append(layout.unpack(z, net.form(net.n_layers - 1), net.outputs)[: len(x)])
        return np.concatenate(found)


def outputs_of_rows(party: Compute, plan: PerceptronPlan, weights: Sequence[Ciphertext], x: Floats) -> list[Ciphertext]:
    """z of the last layer for at most layout.rows clear rows: half tiles at plan.low_limbs limbs and default scale."""
    return _pass_of_rows(party, plan, weights, x).outputs()


def inputs_of_rows(party: Compute, plan: PerceptronPlan, weights: Sequence[Ciphertext], x: Floats) -> list[Ciphertext]:
    """The inputs of polynomials for at most layout.rows clear rows, as of `PerceptronModel.probed_gradients`."""
    probed = _pass_of_rows(party, plan, weights, x, probed=True)
    probed.input(plan.network.n_layers - 1, probed.outputs())
    return party.refresh_own(probed.inputs)


def _pass_of_rows(
    party: Compute, plan: PerceptronPlan, weights: Sequence[Ciphertext], x: Floats, *, probed: bool = False
) -> _Pass:
    model = PerceptronModel(plan)
    batch = model.batch(x, np.zeros((len(x), plan.network.outputs)), keep=False)
    return _Pass(party, plan, model.look_ahead(party.backend, weights, weights), batch, probed=probed)


@dataclass(frozen=True, eq=False)
class _Factor:
    """Tiles of a batch at one side of a layer, and the same turned (`models.tile_products`): all of them at hand, or
    made as they are asked for, once.
    """

    tiles: Sequence[Ciphertext]
    turned: Iterable[Turned]

    def all_turned(self, backend: Backend, limbs: int) -> list[Turned]:
        """All of them at so many limbs."""
        assert isinstance(self.turned, list)
        return [
            [{step: backend.drop_limbs(tile, limbs) for step, tile in each.items()} for each in batch]
            for batch in self.turned
        ]


class _Pass:
    """One party's way forward and back through the layers. probed: whether the inputs of polynomials that are met on
    the way are kept.
    """

    def __init__(
        self,
        party: Compute,
        plan: PerceptronPlan,
        ahead: Sequence[Ciphertext],
        batch: Batch,
        pace: float = 1.0,
        *,
        probed: bool = False,
    ) -> None:
        self.party, self.plan, self.backend, self.pace = party, plan, party.backend, pace
        self.net, self.layout, self.tiles = plan.network, plan.layout, plan.tiles
        self.levels = plan.schedule
        self.grids, self.biases = plan.layers(ahead)
        # every inner layer needs its weights doubled in one of its two directions
        self.doubled = [[self._double(line) for line in grid] if layer else [] for layer, grid in enumerate(self.grids)]
        self.batch, self.rows = batch, batch.rows.opened()
        self.probed, self.inputs = probed, list[Ciphertext]()

    def outputs(self) -> list[Ciphertext]:
        """z of the last layer: half tiles at plan.low_limbs limbs and default scale."""
        z = self.forward_first()
        for layer in range(1, self.net.n_layers):
            a = self._activations(layer - 1, self.input(layer - 1, z))
            z = self.forward(layer, self._turned(layer, a, self.net.form(layer - 1)))
        fresh, plan = self.party.refresh_own(z), self.plan
        # what lies beside them is for nobody's eyes
        return self._alone(self.net.n_layers - 1, fresh, plan.low_limbs, plan.parameters.scale)

    def gradients(self) -> list[Ciphertext]:
        z = self.forward_first()
        inputs: list[_Factor] = []
        slopes: list[list[Ciphertext]] = []
        for layer in range(1, self.net.n_layers):
            z = self.input(layer - 1, z)
            slopes.append(self._slopes(layer - 1, z))
            inputs.append(self._factor(layer, self._activations(layer - 1, z), self.net.form(layer - 1)))
            z = self.forward(layer, inputs[-1].turned)
        errors = self.output_errors(z)
        found: list[list[Ciphertext]] = []
        for layer in range(self.net.n_layers - 1, 0, -1):
            right = self._factor(layer, errors, self.net.form(layer))
            found.append([*self.inner_gradient(layer, inputs.pop(), right), *self._at(errors, 1)])
            errors = self.backward(layer, right.turned, slopes.pop())
        doubled = [self._without_mean(e) for e in errors] if self.net.coupled else self._double(errors)
        grid = clear_backward(self.backend, self.rows, doubled, self.plan.rows_scale)
        first = [tile for line in grid for tile in line]
        return [tile for tiles in (first, *reversed(found)) for tile in tiles]

    def input(self, layer: int, z: Sequence[Ciphertext]) -> list[Ciphertext]:
        """z of this layer, for the function behind it."""
        always = layer == self.net.n_layers - 1
        ready = self.party.refresh_own(z) if always or self.plan.points.inputs else list(z)
        if self.probed and self.net.functions[layer].degree > 1:
            self.inputs += self._parts_of_interval(layer, ready)
        return ready

    def _parts_of_interval(self, layer: int, z: Sequence[Ciphertext]) -> list[Ciphertext]:
        """z alone, ready for a refresh."""
        alone = self._alone(layer, z, self.plan.low_limbs, self.plan.polynomial_inputs.scale)
        used = zip(alone, self._used(layer), strict=True)
        return [part_of_interval(self.backend, tile, self.net.interval, mask) for tile, mask in used]

    def _alone(self, layer: int, z: Sequence[Ciphertext], limbs: int, scale: float) -> list[Ciphertext]:
        """z of this layer without what products leave beside it."""
        used = zip(z, self._used(layer), strict=True)
        return [each for tile, mask in used for each in self._evaluated(identity(), [tile], limbs, scale, mask)]

    def _used(self, layer: int) -> list[Floats]:
        """1 where a tile holds an output of this layer for a sample, 0 elsewhere."""
        ones = np.ones((self.layout.rows, self.net.widths[layer + 1]))
        tiles = self.layout.pack(self.tiles.with_copies(layer, ones), self.net.form(layer))
        return [self.batch.present * tile for tile in tiles]

    def forward_first(self) -> list[Ciphertext]:
        """X W: plain tiles at plan.input_scale, a level lower than the product; the second half holds anything."""
        grid = self._lowered(self.grids[0], self.levels.forward[0])
        sums = clear_forward(self.backend, self.rows, grid, self.plan.rows_scale)
        return [add_halves(self.backend, self.layout, self.backend.rescale(z)) for z in sums]

    def forward(self, layer: int, batch: Iterable[Turned]) -> list[Ciphertext]:
        """a W + b of an inner layer: as `forward_first`."""
        form, turns, backend = self.net.form(layer - 1), self.tiles.turns(layer), self.backend
        level, out = self.levels.forward[layer], []
        doubled = form == "plain" or turns < self.layout.width
        weights = self._lowered(self.doubled[layer] if doubled else self.grids[layer], level)
        biases = self._at(self.biases[layer], level)
        for z, b in zip(product(backend, self.layout, batch, weights, form, turns), biases, strict=True):
            one = backend.encode(np.ones(1), b.limbs, z.scale / b.scale)
            out.append(backend.rescale(backend.add(z, backend.multiply_plain(b, one))))
        return out

    def output_errors(self, z: Sequence[Ciphertext]) -> list[Ciphertext]:
        """pace (y - link(z)) where there are samples: half tiles at plan.operand_scale.

        The pace costs nothing: it is in the coefficients of the link, and in the targets.
        """
        plan, link, last = self.plan, self.net.link.times(-self.pace), self.net.n_layers - 1
        limbs, present = plan.at(self.levels.errors[last]), self.batch.present
        values = self._evaluated(link, self.input(last, z), limbs, plan.operand_scale, present)
        return [
            self.backend.add_plain(value, self.backend.encode(self.pace * y, value.limbs, value.scale))
            for value, y in zip(values, self.batch.targets, strict=True)
        ]

    def _without_mean(self, tile: Ciphertext) -> Ciphertext:
        """A plain half tile of zero padding, less the mean over its outputs: doubled, padding holds anything."""
        backend, layout, columns = self.backend, self.layout, self.net.outputs
        doubled = double(backend, layout, tile)
        total = rotate_and_add(backend, doubled, coupling_steps(columns), layout.n_slots)
        # integers cost no level: columns times the tile, less the sum
        whole, less = (backend.encode(np.array([n]), tile.limbs, 1.0) for n in (float(columns), -1.0))
        difference = backend.multiply_accumulate_plain([(doubled, whole), (total, less)])
        return backend.reread(difference, scale=difference.scale * columns)

    def backward(self, layer: int, errors: Iterable[Turned], slopes: Sequence[Ciphertext]) -> list[Ciphertext]:
        """(e W^T) * f'(z) of an inner layer: as `output_errors`."""
        form, backend, plan = self.net.form(layer), self.backend, self.plan
        weights = self.doubled[layer] if form == "plain" else self.grids[layer]
        weights = self._lowered(weights, self.levels.backward[layer])
        sums = transposed_product(backend, self.layout, errors, weights, form, self.tiles.turns(layer))
        found = [backend.rescale(e) for e in sums]
        if plan.points.errors:
            limbs = plan.at(self.levels.slopes(layer - 1))
            fresh = self.party.refresh_own(found)
            found = self._evaluated(identity(), fresh, limbs, plan.slope_error_scale(layer - 1), EVERYWHERE)
        return [backend.rescale(backend.multiply(e, slope)) for e, slope in zip(found, slopes, strict=True)]

    def inner_gradient(self, layer: int, activations: _Factor, errors: _Factor) -> list[Ciphertext]:
        """a^T e as a grid, row by row."""
        backend, layout, turns = self.backend, self.layout, self.tiles.turns(layer)
        skewed, plain = (errors, activations) if self.net.form(layer) == "skewed" else (activations, errors)
        turned_ones = skewed.all_turned(backend, self.plan.work_limbs)
        grid = outer_product(backend, layout, turned_ones, self._at(plain.tiles, 1), turns)
        return [tile for line in (grid if skewed is activations else zip(*grid, strict=True)) for tile in line]

    def _factor(self, layer: int, tiles: Sequence[Ciphertext], form: Form) -> _Factor:
        """Activations before a layer or errors behind it: the skewed ones are in two products."""
        each = self._turned(layer, tiles, form)
        return _Factor(tiles, list(each) if form == "skewed" else each)

    def _turned(self, layer: int, tiles: Sequence[Ciphertext], form: Form) -> Iterator[Turned]:
        return turned(self.backend, self.layout, self._double(tiles), form, self.tiles.turns(layer))

    def _activations(self, layer: int, z: Sequence[Ciphertext]) -> list[Ciphertext]:
        """Half tiles at plan.operand_scale."""
        plan, limbs = self.plan, self.plan.at(self.levels.activations[layer])
        return self._evaluated(self.net.activation, z, limbs, plan.operand_scale, self.layout.mask)

    def _slopes(self, layer: int, z: Sequence[Ciphertext]) -> list[Ciphertext]:
        """Half tiles, ready for the errors that they meet."""
        plan, limbs = self.plan, self.plan.at(self.levels.slopes(layer))
        return self._evaluated(self.net.activation.derivative, z, limbs, plan.slope_scale(layer), self.layout.mask)

    def _lowered(self, grid: Sequence[Sequence[Ciphertext]], level: int) -> list[list[Ciphertext]]:
        """At this level."""
        return [self._at(line, level) for line in grid]

    def _at(self, tiles: Sequence[Ciphertext], level: int) -> list[Ciphertext]:
        return [self.backend.drop_limbs(tile, self.plan.at(level)) for tile in tiles]

    def _evaluated(
        self, function: Polynomial, z: Sequence[Ciphertext], limbs: int, scale: float, mask: Floats
    ) -> list[Ciphertext]:
        """p(z) times the mask, at so many limbs and this scale."""
        low = (self.backend.drop_limbs(tile, limbs + function.depth) for tile in z)
        return [evaluate(self.backend, tile, function, scale, mask) for tile in low]

    def _double(self, tiles: Sequence[Ciphertext]) -> list[Ciphertext]:
        return [double(self.backend, self.layout, tile) for tile in tiles]
