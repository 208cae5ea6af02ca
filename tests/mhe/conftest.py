"""A ring backend that only carries ciphertexts, and parties that run on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from mhe.ciphertext import Ciphertext, Plaintext, RingCiphertext
from mhe.clear_party import ClearParty
from mhe.encoding import encode_coefficients
from mhe.encrypted_party import EncryptedParty
from mhe.keys import EvaluationKey
from mhe.parameters import Parameters
from mhe.ring.ring import Ring, ring
from network.local import run_parties
from tests.insecure import insecure_test_parameters


@dataclass
class PassThrough:
    """A `RingBackend` whose handles are the ring ciphertexts themselves. It knows sums, and remembers keys."""

    parameters: Parameters
    key_id: str
    relinearisation: EvaluationKey | None = None
    rotations: dict[int, EvaluationKey] = field(default_factory=dict)
    conjugation: EvaluationKey | None = None
    closed: bool = False

    def load_relinearisation_key(self, key: EvaluationKey) -> None:
        self.relinearisation = key

    def load_rotation_key(self, rotation: int, key: EvaluationKey) -> None:
        self.rotations[rotation] = key

    def load_conjugation_key(self, key: EvaluationKey) -> None:
        self.conjugation = key

    def import_ciphertext(self, ciphertext: RingCiphertext, period: int) -> Ciphertext:
        return Ciphertext(ciphertext, ciphertext.limbs, ciphertext.scale, period, ciphertext.key_id)

    def export_ciphertext(self, ciphertext: Ciphertext) -> RingCiphertext:
        found: RingCiphertext = ciphertext.handle
        return found

    def _ring(self, limbs: int) -> Ring:
        return ring(self.parameters.ring_dim, self.parameters.moduli[:limbs])

    def encode(self, values: Any, limbs: int, scale: float | None = None) -> Plaintext:
        scale = self.parameters.scale if scale is None else scale
        base = self._ring(limbs)
        coefficients = encode_coefficients(np.asarray(values), self.parameters.ring_dim, scale)
        return Plaintext(base.ntt(base.from_integers([int(c) for c in coefficients])), limbs, scale, len(values))

    def add_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext:
        c0 = self._ring(a.limbs).add(a.handle.c0, b.handle)
        return self.import_ciphertext(replace(a.handle, c0=c0), max(a.period, b.period))

    def drop_limbs(self, a: Ciphertext, limbs: int) -> Ciphertext:
        fewer = replace(a.handle, c0=a.handle.c0[:limbs].copy(), c1=a.handle.c1[:limbs].copy())
        return self.import_ciphertext(fewer, a.period)

    def close(self) -> None:
        self.closed = True


def parameters_for(n_parties: int, **changes: Any) -> Parameters:
    """INSECURE: a ring in which everything takes milliseconds."""
    settings: dict[str, Any] = {"refresh_limbs": 3, "message_bits": 4.0, "statistical_bits": 40, **changes}
    return insecure_test_parameters(1 << 8, 5, scale_bits=40, n_parties=n_parties, **settings)


@pytest.fixture
def run_encrypted() -> Callable[..., list[Any]]:
    """`run_encrypted(n, program)`: `program(party)` at every one of n `EncryptedParty`s over `PassThrough`."""

    def run(
        n_parties: int,
        program: Callable[[EncryptedParty], Any],
        *,
        wrap: Callable[[Any], Any] = lambda collective: collective,
        statistical_bits: int = 10,
        releases: int = 100,
        **options: Any,
    ) -> list[Any]:
        chosen = parameters_for(n_parties)

        def start(collective: Any) -> Any:
            collective.bind(chosen.digest)
            party = EncryptedParty(
                wrap(collective), chosen, PassThrough, statistical_bits=statistical_bits, releases=releases
            )
            return program(party)

        return run_parties(n_parties, start, **{"timeout_seconds": 60.0, **options})

    return run


@pytest.fixture
def run_clear() -> Callable[..., list[Any]]:
    """`run_clear(n, program)`: the same with `ClearParty`."""

    def run(
        n_parties: int,
        program: Callable[[ClearParty], Any],
        *,
        noise: bool = True,
        statistical_bits: int = 10,
        releases: int = 100,
        **options: Any,
    ) -> list[Any]:
        chosen = parameters_for(n_parties)

        def start(collective: Any) -> Any:
            collective.bind(chosen.digest)
            return program(
                ClearParty(collective, chosen, statistical_bits=statistical_bits, releases=releases, noise=noise)
            )

        return run_parties(n_parties, start, **{"timeout_seconds": 60.0, **options})

    return run


@pytest.fixture
def make_ciphertext() -> Callable[..., Ciphertext]:
    """`make_ciphertext(party, values, limbs)`: an encryption of these slots, the same at every party, at any party."""

    def make(party: Any, values: Any, limbs: int | None = None, scale: float | None = None) -> Ciphertext:
        values, backend = np.asarray(values, dtype=np.float64), party.backend
        limbs = party.parameters.n_limbs if limbs is None else limbs
        scale = party.parameters.scale if scale is None else scale
        zero = party.encrypt_zero(scale, len(values))
        return backend.add_plain(backend.drop_limbs(zero, limbs), backend.encode(values, limbs, scale))

    return make
