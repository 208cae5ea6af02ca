"""Answers of a model that is one vector of weights: x w, for encrypted rows.

A query holds one row after another, each with its constant in `period` slots, as the weights have them. The product of
all slots, then sums of `period` slots to the right: x w in the first slot of each row. In the others there are sums of
parts of two rows, which are masked.

The weights come as a ciphertext whose noise does not repeat with their period. Adding up all rotations by the period
gives them n_slots / period times as large, and of the noise only what repeats (a trace); with the scale read as so many
times larger it is their mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.backend.tracking import Size
from mhe.ciphertext import Ciphertext
from mhe.errors import ParameterError
from mhe.keys import KeyPlan
from mhe.parameters import Parameters
from mhe.tracking_party import TrackingParty
from models.linalg import rotate_and_add
from models.packing import doublings, power_of_two_at_least
from models.perceptron import with_constant
from models.precision import ROW_NORM_LIMIT
from models.prediction import (
    Refreshing,
    limbs_that_hold,
    query_noise,
    smudged_error,
    smudging,
    tracked_norm,
)

Floats = npt.NDArray[np.float64]

GUARD = 2.0**16
"""Answers are at so many times the default scale: there are limbs to spare, and their noise is then the weights'."""

LEVELS = 2
"""Of an answer: product and mask."""


@dataclass(frozen=True)
class VectorPrediction:
    """A `models.prediction.Prediction` of a model with one output.

    weight_noise_norm: bound on the noise of the 2 * period coefficients that carry the weights, at weight_scale.
    message_bound: largest absolute weight assumed. release_bits, releases: statistical bits of the smudging, over so
    many ciphertexts in the life of the key.
    """

    parameters: Parameters
    features: int
    weight_scale: float
    weight_noise_norm: float
    message_bound: float
    release_bits: int
    releases: int
    outputs = n_weights = n_queries = n_answers = 1

    def __post_init__(self) -> None:
        if self.features + 1 > self.parameters.n_slots:
            raise ParameterError(
                f"{self.features} features do not fit {self.parameters.n_slots} slots; use a larger ring_dim"
            )
        if self.query_limbs > self.parameters.n_limbs:
            raise ParameterError(f"an answer takes {self.query_limbs} limbs, there are {self.parameters.n_limbs}")

    @property
    def period(self) -> int:
        return power_of_two_at_least(self.features + 1)

    @property
    def weights_period(self) -> int:
        return self.period

    @property
    def rows(self) -> int:
        return self.parameters.n_slots // self.period

    @property
    def key_plan(self) -> KeyPlan:
        return KeyPlan((), doublings(1, self.parameters.n_slots))

    # limbs and scales

    @cached_property
    def answer_limbs(self) -> int:
        p = self.parameters
        largest = ROW_NORM_LIMIT * self.message_bound * (self.features + 1) * self.answer_scale
        return limbs_that_hold(p, largest, p.n_limbs - LEVELS)

    @property
    def query_limbs(self) -> int:
        return self.answer_limbs + LEVELS

    @property
    def answer_scale(self) -> float:
        return self.parameters.scale * GUARD

    @property
    def _copies(self) -> int:
        return self.parameters.n_slots // self.period

    @property
    def query_scale(self) -> float:
        """The product comes out at the scale of the answers."""
        return self.answer_scale * self.parameters.moduli[self.query_limbs - 1] / (self.weight_scale * self._copies)

    # packing

    def pack(self, x: Floats) -> list[Floats]:
        slots = np.zeros((self.rows, self.period))
        slots[: len(x), : self.features + 1] = with_constant(x)
        return [slots.ravel()]

    def unpack(self, slots: Sequence[Floats], n_rows: int) -> Floats:
        return slots[0][:: self.period][:n_rows, None]

    # computation

    def prepare(self, party: Refreshing, weights: Sequence[Ciphertext] | None) -> Ciphertext | None:
        # read without a period, for only then do rotations by it rotate the noise
        fresh = party.refresh(weights, 1, self.weight_scale, self.parameters.n_slots)
        if weights is None:
            return None
        return party.backend.drop_limbs(self._mean(party.backend, fresh[0]), self.query_limbs)

    def _mean(self, backend: Backend, weights: Ciphertext) -> Ciphertext:
        """The weights without the noise that does not repeat with them."""
        n_slots = self.parameters.n_slots
        copies = rotate_and_add(backend, weights, doublings(self.period, n_slots), self.period)
        return backend.reread(copies, scale=copies.scale * self._copies)

    def answer(
        self, party: Refreshing, prepared: Ciphertext | None, query: Sequence[Ciphertext] | None, n_rows: int
    ) -> list[Ciphertext] | None:
        if prepared is None or query is None:
            return None
        return self._computed(party.backend, prepared, query[0], n_rows)

    def _computed(self, backend: Backend, prepared: Ciphertext, query: Ciphertext, n_rows: int) -> list[Ciphertext]:
        """Of the root alone."""
        product = backend.rescale(backend.multiply(query, prepared))
        summed = rotate_and_add(backend, product, doublings(1, self.period), self.parameters.n_slots)
        mask = np.zeros((self.rows, self.period))
        mask[:n_rows, 0] = 1.0
        kept = backend.encode(mask.ravel(), summed.limbs, float(self.parameters.moduli[self.answer_limbs]))
        return [backend.rescale(backend.multiply_plain(summed, kept))]

    # noise

    @cached_property
    def _added_std(self) -> float:
        """Error of an answer by the queries' noise and the computation: root mean square of slots."""
        p, party = self.parameters, TrackingParty(self.parameters)
        backend = party.backend
        low = backend.ciphertext(Size(self.message_bound, 0.0), p.refresh_limbs, self.weight_scale, p.n_slots)
        (fresh,) = party.refresh([low], 1, self.weight_scale, p.n_slots)
        mean = self._mean(backend, fresh)
        # the copies of a weight are equal, not independent
        whole = Size(self.message_bound, backend.size(mean).noise)
        weights = backend.ciphertext(whole, self.query_limbs, mean.scale, mean.period)
        noise = backend.slot_noise(query_noise(p, self.query_limbs), self.query_scale)
        query = backend.ciphertext(Size(ROW_NORM_LIMIT, noise), self.query_limbs, self.query_scale, p.n_slots)
        (answer,) = self._computed(backend, weights, query, self.rows)
        return backend.size(answer).noise

    @property
    def _inherited(self) -> float:
        """Bound on the error that the noise of the weights makes in an answer to the largest row."""
        row_norm = ROW_NORM_LIMIT * math.sqrt(self.features + 1)
        return row_norm * math.sqrt(self.period) * self.weight_noise_norm / self.weight_scale

    @cached_property
    def noise_norm(self) -> float:
        added = tracked_norm(self.parameters, self._added_std, self.answer_scale)
        return self._inherited * self.answer_scale + added

    @property
    def error(self) -> float:
        width = smudging(self.noise_norm, self.release_bits, self.releases)
        std = math.hypot(self._added_std, self._inherited)
        return smudged_error(self.parameters, std, width, self.answer_scale, self.rows)
