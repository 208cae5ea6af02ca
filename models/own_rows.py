"""`OwnRows`: answers of an encrypted model to rows that a party has itself, and uses in the clear.

Cheaper than a query: rows are neither encrypted nor multiplied as ciphertexts. All parties take part with equally many
blocks of rows, for refreshes between layers are made for all owners at once; whoever has fewer fills up with none. The
answers of each are rerandomised, and switched to a key of its own (`mhe.party.Party.deliver`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mhe.backend.tracking import Size
from mhe.ciphertext import Ciphertext
from mhe.keys import KeyPlan
from mhe.party import Compute
from mhe.tracking_party import TrackingParty
from models.clear_tiles import clear_forward, forward_rotations, pack_clear
from models.linalg import forward, pack
from models.packing import BlockLayout, choose_layout
from models.perceptron import with_constant
from models.precision import ROW_NORM_LIMIT
from models.prediction import ANSWER_GUARD, Prediction, tracked_norm
from models.tile_prediction import PreparedLayers, TilePrediction
from models.tile_products import product_rotations
from models.vector_prediction import MOST_ROWS, VectorPrediction

Floats = npt.NDArray[np.float64]


class OwnRows(Protocol):
    """What `models.answering.answer_own` needs of one kind of model on one packing."""

    @property
    def key_plan(self) -> KeyPlan: ...

    @property
    def rows(self) -> int:
        """Rows of one block."""

    @property
    def n_answers(self) -> int:
        """Ciphertexts of the answers to one block."""

    @property
    def noise_norm(self) -> float:
        """Euclidean bound on the noise of all coefficients of an answer, of weights that were flooded."""

    def prepare(self, party: Compute, weights: Sequence[Ciphertext] | None) -> Any:
        """What a session needs of the root's weights, at every party."""

    def answer(self, party: Compute, prepared: Any, x: Floats) -> list[Ciphertext]:
        """What the model gives for a block of standardised rows (at most rows, features), before the link."""

    def unpack(self, slots: Sequence[Floats], n_rows: int) -> Floats:
        """Answers (n_rows, outputs) from the slots of each ciphertext."""


@dataclass(frozen=True)
class VectorRows:
    """`OwnRows` of a model with one output, in the packing of its training."""

    prediction: VectorPrediction
    n_answers = 1

    @cached_property
    def layout(self) -> BlockLayout:
        n_slots = self.prediction.parameters.n_slots
        return choose_layout(n_slots, MOST_ROWS, self.prediction.features + 1, cyclic=True)

    @property
    def rows(self) -> int:
        return self.layout.rows

    @property
    def key_plan(self) -> KeyPlan:
        return KeyPlan.of(self.layout.n_slots, [(self.layout.forward_steps, self._limbs)])

    @property
    def _limbs(self) -> int:
        return self.prediction.answer_limbs + 1

    @property
    def _rows_scale(self) -> float:
        """The product comes out at the scale of the answers."""
        p = self.prediction
        return p.answer_scale * p.parameters.moduli[self._limbs - 1] / (p.weight_scale * ANSWER_GUARD)

    def prepare(self, party: Compute, weights: Sequence[Ciphertext] | None) -> Mapping[int, Ciphertext]:
        low = party.backend.drop_limbs(self.prediction.raised(party, weights), self._limbs)
        return party.backend.rotate_hoisted(low, self.layout.baby_steps)

    def answer(self, party: Compute, prepared: Mapping[int, Ciphertext], x: Floats) -> list[Ciphertext]:
        rows = np.zeros((self.rows, self.prediction.features + 1))
        rows[: len(x)] = with_constant(x)
        (block,) = pack(rows, np.zeros(self.rows), self.layout, keep=False)
        return [forward(party.backend, block, prepared, self.layout, self._rows_scale)]

    def unpack(self, slots: Sequence[Floats], n_rows: int) -> Floats:
        return slots[0][:n_rows, None]

    @cached_property
    def noise_norm(self) -> float:
        p, party = self.prediction, TrackingParty(self.prediction.parameters, centred=True)
        size = Size(p.message_bound, 0.0)
        low = party.backend.ciphertext(size, p.parameters.refresh_limbs, p.weight_scale, p.period)
        (answer,) = self.answer(party, self.prepare(party, [low]), _largest(self.rows, p.features))
        return tracked_norm(p.parameters, party.backend.size(answer).error, p.answer_scale)


@dataclass(frozen=True)
class TileRows:
    """`OwnRows` of a perceptron, with or without hidden layers: the first layer as in training, on clear rows."""

    prediction: TilePrediction

    @property
    def rows(self) -> int:
        return self.prediction.rows

    @property
    def n_answers(self) -> int:
        return self.prediction.n_answers

    @property
    def key_plan(self) -> KeyPlan:
        p, layout, net = self.prediction, self.prediction.layout, self.prediction.network
        first, inner = forward_rotations(layout, p.n_queries), set[int]()
        if p.n_queries > 1:
            first |= {layout.width}
        if net.hidden:
            inner |= {-layout.width, *product_rotations(layout, "plain", layout.width)}
        if net.n_layers > 2:
            inner |= product_rotations(layout, "skewed", layout.width)
        return KeyPlan.of(
            layout.n_slots,
            [(first, p.query_limbs), (inner, p.work_limbs)],
            relinearisation=p.inner_limbs,
            conjugation=p.work_limbs if net.hidden and layout.width > 1 else 0,
        )

    def prepare(self, party: Compute, weights: Sequence[Ciphertext] | None) -> PreparedLayers:
        p = self.prediction
        return p.straight(party.backend, p.raised(party, weights), p.query_limbs)

    def answer(self, party: Compute, prepared: PreparedLayers, x: Floats) -> list[Ciphertext]:
        p, backend = self.prediction, party.backend
        clear = pack_clear(p.layout, with_constant(x), keep=False, paired=False)
        sums = clear_forward(backend, clear, prepared.grids[0], p.rows_scale)

        def refresh(some: list[Ciphertext] | None, count: int) -> list[Ciphertext]:
            return party.refresh_own(some or ())

        return p.outputs_from(backend, prepared, sums, len(x), refresh) or []

    def unpack(self, slots: Sequence[Floats], n_rows: int) -> Floats:
        n_slots = self.prediction.layout.n_slots
        return self.prediction.unpack([np.resize(values, n_slots) for values in slots], n_rows)

    @cached_property
    def noise_norm(self) -> float:
        p, party = self.prediction, self.prediction.tracking_party
        prepared = p.straight(party.backend, p.tracked_weights(party, 0.0), p.query_limbs)
        answers = self.answer(party, prepared, _largest(self.rows, p.features))
        return tracked_norm(p.parameters, max(party.backend.size(a).error for a in answers), p.answer_scale)


def own_rows(prediction: Prediction) -> OwnRows:
    """Of the same model."""
    if isinstance(prediction, TilePrediction):
        return TileRows(prediction)
    assert isinstance(prediction, VectorPrediction)
    return VectorRows(prediction)


def _largest(rows: int, features: int) -> Floats:
    """A block of rows as large as is allowed, the constant included."""
    return np.full((rows, features), np.sqrt((ROW_NORM_LIMIT**2 * (features + 1) - 1) / features))
