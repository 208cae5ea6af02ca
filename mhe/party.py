"""`Party`: one party's end of the collectively keyed scheme, as the models see it.

`EncryptedParty` runs the protocols of `mhe.protocols` between the parties; `ClearParty` simulates them. Every party
calls the same methods in the same order. What only the root holds is None at the others, and what everybody knows
from the plan (scale, period, limbs) is passed in, so that nothing but residues travels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext
from mhe.collective import Collective
from mhe.keys import KeyPlan
from mhe.parameters import Parameters
from mhe.slot_map import RefreshOutput

Floats = npt.NDArray[np.float64]


class Compute(Protocol):
    """What a step on ciphertexts needs: an evaluator, own encryptions, sums over the parties, and refreshes."""

    @property
    def backend(self) -> Backend: ...

    @property
    def parameters(self) -> Parameters: ...

    def encrypt_own(self, values: Floats, limbs: int, scale: float) -> Ciphertext:
        """This party's own vector (period,), for `sum`: under the collective key, so that no party can read it.

        Error of a slot: that of `mhe.encoding.encode_coefficients`, and of an encryption
        (`mhe.security.rerandomised_std`).
        """

    def sum(self, ciphertexts: Sequence[Ciphertext]) -> list[Ciphertext] | None:
        """Sums over the parties, one for each place in their equally long lists: at the root, None elsewhere.

        All ciphertexts have the same limbs.
        """

    def refresh(
        self,
        ciphertexts: Sequence[Ciphertext] | None,
        count: int,
        scale: float,
        period: int,
        outputs: Sequence[RefreshOutput] = (),
    ) -> list[Ciphertext]:
        """The root's `count` ciphertexts, back at full limbs, at every party.

        outputs: what is made of them, by default each as it is; a mapped one has its map's period, and its levels fewer
        limbs. The same at every party.
        """

    def refresh_at_root(
        self,
        ciphertexts: Sequence[Ciphertext] | None,
        count: int,
        scale: float,
        period: int,
        outputs: Sequence[RefreshOutput] = (),
    ) -> list[Ciphertext] | None:
        """As `refresh`, for what only the root goes on with: None elsewhere."""

    def refresh_own(self, ciphertexts: Sequence[Ciphertext], outputs: Sequence[RefreshOutput] = ()) -> list[Ciphertext]:
        """Every party's own ciphertexts, equally many each, back at full limbs: all owners in one round.

        outputs: as in `refresh`, of every owner's ciphertexts.
        """


class Party(Compute, Protocol):
    """What a model needs from the scheme and from the other parties."""

    @property
    def collective(self) -> Collective: ...

    def make_keys(self, plan: KeyPlan) -> None:
        """Generate the relinearisation key and exactly the planned other ones."""

    def encrypted_sum(self, values: Floats) -> Floats:
        """The sum over the parties of their vectors (n,), released to all; no party sees another's vector."""

    def encrypt_zero(self, scale: float, period: int) -> Ciphertext:
        """A fresh encryption of zeros, the same at every party."""

    def decrypt(
        self, ciphertext: Ciphertext | None, limbs: int, scale: float, period: int, noise_norm: float
    ) -> Floats:
        """Release the root's ciphertext to all: its slots (period,). noise_norm bounds the noise to be hidden."""

    def mean(self, ciphertext: Ciphertext | None, limbs: int, scale: float, noise_norm: float) -> float:
        """Release the mean of all slots of the root's ciphertext to all, and nothing else of it. noise_norm: bounds the
        noise of that one coefficient.
        """

    def deliver(self, ciphertexts: Sequence[Ciphertext], noise_norm: float) -> list[Floats]:
        """Every party's own ciphertexts, equally many each, switched to a key of its own: only it learns the slots."""

    def close(self) -> None:
        """Erase the secret share and drop all keys."""
