"""Parties on each evaluator, in a small ring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from mhe.backend.interface import RingBackend
from mhe.ciphertext import Ciphertext
from mhe.clear_party import ClearParty
from mhe.encrypted_party import EncryptedParty
from mhe.keys import EvaluationKey
from mhe.parameters import Parameters
from network.local import run_parties
from tests.evaluators import FACTORIES, parameters_of


class Recording:
    """An evaluator that remembers the keys it was given, and whether it was closed."""

    def __init__(self, backend: RingBackend) -> None:
        self._backend = backend
        self.relinearisation: EvaluationKey | None = None
        self.rotations: dict[int, EvaluationKey] = {}
        self.conjugation: EvaluationKey | None = None
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def load_relinearisation_key(self, key: EvaluationKey) -> None:
        self.relinearisation = key
        self._backend.load_relinearisation_key(key)

    def load_rotation_key(self, rotation: int, key: EvaluationKey) -> None:
        self.rotations[rotation] = key
        self._backend.load_rotation_key(rotation, key)

    def load_conjugation_key(self, key: EvaluationKey) -> None:
        self.conjugation = key
        self._backend.load_conjugation_key(key)

    def close(self) -> None:
        self.closed = True
        self._backend.close()


def parameters_for(evaluator: str, n_parties: int) -> Parameters:
    """INSECURE: a ring in which everything takes milliseconds."""
    settings: dict[str, Any] = {"refresh_limbs": 3, "message_bits": 4.0, "statistical_bits": 40}
    return parameters_of(evaluator, 1 << 8, 5, scale_bits=40, n_parties=n_parties, **settings)


Run = Callable[..., list[Any]]


@pytest.fixture
def run_encrypted(real_evaluator: str) -> Iterator[Run]:
    """`run_encrypted(n, program)`: `program(party)` at every one of n `EncryptedParty`s.

    Not on the simulation, which is `run_clear`: these tests are about shares, residues and who can read them.
    """
    with encrypted_parties(real_evaluator) as run:
        yield run


@pytest.fixture
def run_clear() -> Run:
    """`run_clear(n, program)`: the same with `ClearParty`."""
    return run_simulated


@pytest.fixture
def run_on_each(evaluator: str) -> Iterator[Run]:
    """`run_on_each(n, program)`: the one or the other, whatever the evaluator calls for."""
    if evaluator == "clear":
        yield run_simulated
        return
    with encrypted_parties(evaluator) as run:
        yield run


@contextmanager
def encrypted_parties(name: str) -> Iterator[Run]:
    made: list[Recording] = []

    def evaluator(parameters: Parameters, key_id: str) -> Any:
        made.append(Recording(FACTORIES[name](parameters, key_id)))
        return made[-1]

    def run(
        n_parties: int,
        program: Callable[[EncryptedParty], Any],
        *,
        wrap: Callable[[Any], Any] = lambda collective: collective,
        statistical_bits: int = 10,
        releases: int = 100,
        **options: Any,
    ) -> list[Any]:
        chosen = parameters_for(name, n_parties)

        def start(collective: Any) -> Any:
            collective.bind(chosen.digest)
            party = EncryptedParty(
                wrap(collective), chosen, evaluator, statistical_bits=statistical_bits, releases=releases
            )
            return program(party)

        return run_parties(n_parties, start, **{"timeout_seconds": 60.0, **options})

    try:
        yield run
    finally:
        for backend in made:
            backend.close()


def run_simulated(
    n_parties: int,
    program: Callable[[ClearParty], Any],
    *,
    noise: bool = True,
    statistical_bits: int = 10,
    releases: int = 100,
    **options: Any,
) -> list[Any]:
    chosen = parameters_for("clear", n_parties)

    def start(collective: Any) -> Any:
        collective.bind(chosen.digest)
        return program(
            ClearParty(collective, chosen, statistical_bits=statistical_bits, releases=releases, noise=noise)
        )

    return run_parties(n_parties, start, **{"timeout_seconds": 60.0, **options})


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
