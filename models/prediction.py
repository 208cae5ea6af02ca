"""`Prediction`: what an encrypted model gives for encrypted rows, and how noisy the answers are.

A querier packs its rows and encrypts them under the parties' key; the parties compute on them, all together where a
refresh is due and else the root alone, for nothing depends on a party's own rows; and switch the answers to the
querier's key. Besides the values that it asked for, a querier gets zeros.

The noise of the training must not show in any answer. It is hidden once, when the training ends: every party adds a
smudging to the encrypted weights that nobody sees (`EncryptedParty.flood`). From then on what they hold, that smudging
included, counts as the message, and an answer needs a smudging for the little noise of its own session only. These are
two budgets, each of TWO_BUDGETS statistical bits more than what is asked for both together.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mhe.ciphertext import Ciphertext
from mhe.errors import ParameterError
from mhe.keys import KeyPlan
from mhe.parameters import Parameters, log2_product
from mhe.party import Compute
from mhe.security import (
    correlated_norm_bound,
    rerandomised_norm,
    rerandomised_std,
    secret_spread,
    smudging_std,
)

Floats = npt.NDArray[np.float64]

TWO_BUDGETS = 1

ANSWER_GUARD = 2.0**16
"""Answers, and logits of a regression, are at so many times the default scale: there are limbs to spare, and less noise
comes in on the way."""

MARGIN = 2.0
"""Tracked noise is taken for so many times as large: the square of one operand errs by twice its error, where tracking
takes its factors for independent and their errors for orthogonal."""


class Prediction(Protocol):
    """One kind of model on one packing. Weights and queries are lists of ciphertexts in one order."""

    @property
    def parameters(self) -> Parameters: ...

    @property
    def key_plan(self) -> KeyPlan: ...

    @property
    def release_bits(self) -> int:
        """Statistical bits of the smudging of answers, over so many ciphertexts in the life of the key: `releases`."""

    @property
    def releases(self) -> int: ...

    @property
    def features(self) -> int:
        """Columns of a row, without the constant."""

    @property
    def outputs(self) -> int: ...

    @property
    def rows(self) -> int:
        """Rows of one batch."""

    @property
    def n_weights(self) -> int:
        """Ciphertexts of the model, at parameters.refresh_limbs limbs."""

    @property
    def weight_scale(self) -> float: ...

    @property
    def weights_period(self) -> int: ...

    @property
    def n_queries(self) -> int:
        """Ciphertexts of one batch."""

    @property
    def query_limbs(self) -> int: ...

    @property
    def query_scale(self) -> float: ...

    @property
    def query_period(self) -> int: ...

    @property
    def n_answers(self) -> int:
        """Ciphertexts of the answers to one batch."""

    @property
    def answer_limbs(self) -> int: ...

    @property
    def answer_scale(self) -> float: ...

    @property
    def answer_period(self) -> int: ...

    @property
    def noise_norm(self) -> float:
        """Euclidean bound on the noise of all coefficients of an answer, of weights that were flooded."""

    @property
    def error(self) -> float:
        """The largest error of a batch of answers, smudging included; exceeded with small probability."""

    def pack(self, x: Floats) -> list[Floats]:
        """One batch (at most rows, features) of standardised rows as slots (query_period,) of each ciphertext."""

    def unpack(self, slots: Sequence[Floats], n_rows: int) -> Floats:
        """Answers (n_rows, outputs) from the slots (answer_period,) of each ciphertext."""

    def prepare(self, party: Compute, weights: Sequence[Ciphertext] | None) -> Any:
        """What a session needs of the root's weights: at the root, None elsewhere."""

    def answer(
        self, party: Compute, prepared: Any, query: Sequence[Ciphertext] | None, n_rows: int
    ) -> list[Ciphertext] | None:
        """What the model gives for one batch of n_rows rows, before the link: at the root, None elsewhere."""


@dataclass(frozen=True)
class PackedPrediction(ABC):
    """What a `Prediction` needs to know in either packing, and how the noise of its answers is hidden.

    weight_std: error of a weight, smudging included. message_bound: largest absolute weight assumed. release_bits,
    releases: statistical bits of the smudging of answers, over so many ciphertexts in the life of the key.
    """

    parameters: Parameters
    weight_std: float
    message_bound: float
    release_bits: int
    releases: int

    @property
    @abstractmethod
    def answer_scale(self) -> float: ...

    @property
    @abstractmethod
    def answer_period(self) -> int: ...

    @property
    @abstractmethod
    def _added_std(self) -> float:
        """Error of an answer to the largest rows, but for that of the weights: root mean square of slots."""

    @cached_property
    def noise_norm(self) -> float:
        return tracked_norm(self.parameters, self._added_std, self.answer_scale)

    @property
    def _smudged_std(self) -> float:
        """What the smudging adds to a slot of an answer."""
        width = smudging_std(self.noise_norm, self.release_bits, self.releases)
        return smudged_std(self.parameters, width, self.answer_scale, self.answer_period)


def query_noise(parameters: Parameters, limbs: int) -> float:
    """Standard deviation of the coefficients of an encrypted query: what is rounded, and the encryption's."""
    return math.hypot(rerandomised_std(parameters, limbs), math.sqrt(1 / 12))


def tracked_norm(parameters: Parameters, slot_std: float, scale: float) -> float:
    """Euclidean bound on the noise of all coefficients, of slots with errors of this root mean square (real parts).

    The norm of all coefficients is the root mean square of the slots, times sqrt 2 for their imaginary parts. Answers
    share the errors of the weights: any correlation is allowed for.
    """
    norm = math.sqrt(2) * slot_std * scale * secret_spread(2 / parameters.ring_dim)
    return MARGIN * correlated_norm_bound(norm)


def limbs_that_hold(parameters: Parameters, largest: float, most: int) -> int:
    """As few limbs as hold coefficients up to `largest`, of either sign. Raises ParameterError beyond `most`."""
    needed = math.log2(largest) + 2
    found = next((k for k in range(1, most + 1) if log2_product(parameters.moduli[:k]) > needed), None)
    if found is None:
        raise ParameterError(
            f"answers of {needed:.0f} bits do not fit the {most} limbs that are left for them; use fewer statistical "
            "bits in the release, fewer answers, or parameters with more limbs"
        )
    return found


def flooded_std(
    parameters: Parameters, noise_norm: float, release_bits: int, count: int, scale: float, period: int
) -> float:
    """What `EncryptedParty.flood` adds to a slot of `count` ciphertexts with noise of this norm."""
    added = parameters.n_parties * rerandomised_norm(parameters, parameters.refresh_limbs)
    return smudged_std(parameters, smudging_std(noise_norm + added, release_bits, count), scale, period)


def smudged_std(parameters: Parameters, width: float, scale: float, period: int) -> float:
    """What the smudging of all parties adds to a slot: it sums 2 * period coefficients times cosines."""
    return math.sqrt(parameters.n_parties * period) * width / scale
