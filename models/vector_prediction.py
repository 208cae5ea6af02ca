"""Answers of a model that is one vector of weights: x w, for encrypted rows.

A query of R rows holds feature after feature, the constant last, slot j R + r what row r has of feature j; the weights
are brought to the same order once for each session. The product, and sums over the features by rotations by multiples
of R: x w of row s mod R in every slot s. Nothing else stands in an answer, and since it repeats after R slots only 2 R
of its coefficients count: few rows make it precise.

Weights w[s mod d] become w[s // R] (d features with padding, period d R) by their generalised diagonals,

    y[s] = sum over 0 <= k < d of mask_k[s] w[(s + k) mod d],  mask_k[s] = 1 where s + k = s // R modulo d,

in baby steps and giant steps (Halevi and Shoup, CRYPTO 2014). Before, a refresh takes from the weights the noise that
does not repeat with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.backend.tracking import Size, TrackingBackend
from mhe.ciphertext import Ciphertext
from mhe.errors import ParameterError
from mhe.keys import KeyPlan
from mhe.party import Compute
from mhe.slot_map import RefreshOutput, SlotMap
from mhe.tracking_party import TrackingParty
from models.linalg import rotate_and_add
from models.packing import doublings, power_of_two_at_least
from models.perceptron import with_constant
from models.precision import ROW_NORM_LIMIT, largest_output, quantile
from models.prediction import ANSWER_GUARD, PackedPrediction, limbs_that_hold, query_noise

Floats = npt.NDArray[np.float64]

MOST_ROWS = 256
"""Rows of a query: half of what is lost to the smudging by more is gained in answers."""

LEVELS = 2
"""Of the weights: their order, the product."""


@dataclass(frozen=True)
class VectorPrediction(PackedPrediction):
    """A `models.prediction.Prediction` of a model with one output."""

    features: int
    weight_scale: float
    outputs = n_weights = n_queries = n_answers = 1

    def __post_init__(self) -> None:
        n_slots = self.parameters.n_slots
        if self.period > n_slots:
            raise ParameterError(f"{self.features} features do not fit {n_slots} slots; use a larger ring_dim")

    @property
    def period(self) -> int:
        """d, of the weights as they were trained."""
        return power_of_two_at_least(self.features + 1)

    @property
    def weights_period(self) -> int:
        return self.period

    @property
    def rows(self) -> int:
        return min(MOST_ROWS, self.parameters.n_slots // self.period)

    @property
    def query_period(self) -> int:
        return self.period * self.rows

    @property
    def answer_period(self) -> int:
        return self.rows

    @property
    def _baby(self) -> int:
        return 1 << (self.period.bit_length() // 2)

    @property
    def _giants(self) -> range:
        return range(0, self.period, self._baby)

    @property
    def key_plan(self) -> KeyPlan:
        order = (*range(min(self._baby, self.period)), *self._giants), self.parameters.n_limbs
        sums = doublings(self.rows, self.query_period), self.answer_limbs
        return KeyPlan.of(
            self.parameters.n_slots,
            root_only=[order, sums],
            relinearisation=self.query_limbs,
            products_at_root=True,
        )

    # limbs and scales

    @cached_property
    def answer_limbs(self) -> int:
        p = self.parameters
        largest = largest_output(self.message_bound, self.features) * self.answer_scale
        return limbs_that_hold(p, largest, p.n_limbs - LEVELS)

    @property
    def query_limbs(self) -> int:
        """Below the weights in their order: the last moduli are as large as the scale, the first may be smaller."""
        return self.parameters.n_limbs - LEVELS + 1

    @property
    def answer_scale(self) -> float:
        return self.parameters.scale * ANSWER_GUARD

    @property
    def query_scale(self) -> float:
        """The product comes out at the scale of the answers."""
        return self.answer_scale * self.parameters.moduli[self.query_limbs - 1] / (self.weight_scale * ANSWER_GUARD)

    # packing

    def pack(self, x: Floats) -> list[Floats]:
        slots = np.zeros((self.period, self.rows))
        slots[: self.features + 1, : len(x)] = with_constant(x).T
        return [slots.ravel()]

    def unpack(self, slots: Sequence[Floats], n_rows: int) -> Floats:
        return slots[0][:n_rows, None]

    # computation

    def prepare(self, party: Compute, weights: Sequence[Ciphertext] | None) -> Ciphertext | None:
        fresh = self.raised(party, weights)
        return None if weights is None else self._ordered(party.backend, fresh)

    def raised(self, party: Compute, weights: Sequence[Ciphertext] | None) -> Ciphertext:
        """The weights at ANSWER_GUARD times their scale, without the noise that does not repeat with them: at every
        party.
        """
        outputs = [RefreshOutput(0, SlotMap.repeating(self.period, int(ANSWER_GUARD)))]
        (fresh,) = party.refresh(weights, 1, self.weight_scale, self.period, outputs)
        return party.backend.reread(fresh, scale=fresh.scale * ANSWER_GUARD)

    def _ordered(self, backend: Backend, weights: Ciphertext) -> Ciphertext:
        """In the order of a query."""
        scale = float(self.parameters.moduli[self.query_limbs])
        babies = range(min(self._baby, self.period))
        turned = backend.rotate_hoisted(weights, babies)
        s = np.arange(self.query_period)
        parts = {}
        for giant in self._giants:
            behind = s - giant
            diagonal = (behind // self.rows - behind) % self.period
            parts[giant] = backend.multiply_accumulate_plain(
                (turned[b], backend.encode((diagonal == giant + b).astype(np.float64), weights.limbs, scale))
                for b in babies
            )
        return backend.rescale(backend.rotate_and_sum(parts))

    def answer(
        self, party: Compute, prepared: Ciphertext | None, query: Sequence[Ciphertext] | None, n_rows: int
    ) -> list[Ciphertext] | None:
        return None if prepared is None or query is None else [self._product(party.backend, prepared, query[0])]

    def _product(self, backend: Backend, prepared: Ciphertext, query: Ciphertext) -> Ciphertext:
        product = backend.drop_limbs(backend.rescale(backend.multiply(query, prepared)), self.answer_limbs)
        return rotate_and_add(backend, product, doublings(self.rows, self.query_period), self.rows)

    # noise

    @cached_property
    def _added_std(self) -> float:
        p, party = self.parameters, TrackingParty(self.parameters, centred=True)
        backend = party.backend
        low = backend.ciphertext(Size(self.message_bound, 0.0), p.refresh_limbs, self.weight_scale, self.period)
        ordered = self._ordered(backend, self.raised(party, [low]))
        noise = backend.slot_noise(query_noise(p, self.query_limbs), self.query_scale)
        query = backend.ciphertext(Size(ROW_NORM_LIMIT, noise), self.query_limbs, self.query_scale, self.query_period)
        # each slot takes one of the diagonals
        return backend.size(self._product(backend, self._sized(backend, ordered), query)).error

    def _sized(self, backend: TrackingBackend, c: Ciphertext) -> Ciphertext:
        """With values of the largest weights."""
        return backend.ciphertext(Size(self.message_bound, backend.size(c).error), c.limbs, c.scale, c.period)

    @property
    def error(self) -> float:
        """Of rows of standard size; of larger ones, larger in proportion as far as the weights make it."""
        weights = math.sqrt(self.features + 1) * self.weight_std
        return math.hypot(weights, self._added_std, self._smudged_std) * quantile(self.rows)
