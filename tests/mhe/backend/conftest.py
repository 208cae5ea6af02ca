"""All evaluators under one roof: `world` makes, opens and compares ciphertexts of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mhe.backend.clear import ClearBackend, ClearCiphertext
from mhe.backend.native import NativeBackend
from mhe.backend.openfhe import OpenFHEBackend, generate_moduli
from mhe.ciphertext import Ciphertext
from mhe.encrypted_party import BackendFactory
from mhe.parameters import ERROR_STD, Parameters, Shape
from mhe.ring.galois import conjugation_element
from mhe.security import tail
from tests import oracle

Floats = npt.NDArray[np.float64]

KEY = "test-key"
ROTATIONS = (1, 3, 16, -1)
REAL: dict[str, BackendFactory] = {"openfhe": OpenFHEBackend, "native": NativeBackend}


@lru_cache(maxsize=8)
def insecure_parameters(ring_dim: int = 1 << 10, n_limbs: int = 4, digits: int = 2, scale_bits: int = 50) -> Parameters:
    """INSECURE: small rings for tests."""
    moduli, special = generate_moduli(Shape(ring_dim, 60, scale_bits, n_limbs, digits))
    return Parameters(
        ring_dim=ring_dim,
        moduli=moduli,
        special_moduli=special,
        scale_bits=scale_bits,
        digits=digits,
        n_parties=1,
        refresh_limbs=n_limbs,
        message_bits=1,
        statistical_bits=20,
        insecure=True,
    )


@dataclass
class World:
    """An evaluator, and a way in and out of it. For clear values there is no secret."""

    backend: Any
    secret: Any = None
    _count: int = field(default=0)

    @property
    def parameters(self) -> Parameters:
        found: Parameters = self.backend.parameters
        return found

    def encrypt(self, values: Floats, limbs: int | None = None, scale: float | None = None) -> Ciphertext:
        p = self.parameters
        scale = p.scale if scale is None else scale
        if self.secret is None:
            external: Any = ClearCiphertext(np.array(values)[None], limbs or p.n_limbs, scale, KEY)
        else:
            self._count += 1
            external = oracle.encrypt(values, p, self.secret, KEY, limbs=limbs, scale=scale, seed=self._count)
        made: Ciphertext = self.backend.import_ciphertext(external, len(values))
        return made

    def decrypt(self, ciphertext: Ciphertext) -> Floats:
        """All slots (n_slots,)."""
        external = self.backend.export_ciphertext(ciphertext)
        if self.secret is None:
            return np.tile(external.values[0], self.parameters.n_slots // ciphertext.period)
        return oracle.decrypt(external, self.parameters, self.secret)

    def bound(self, errors: float = 1.0, scale: float | None = None) -> float:
        """Largest error of a slot after that many fresh errors, roundings or key switches at this scale.

        A division by P in OpenFHE rounds every coefficient down, by up to the number k of special moduli and k/2 in
        the mean: error (k/2)(J + J*s), J = sum of X^i, which gathers in the slots next to 1, where |J| = 2N/pi.
        """
        p = self.parameters
        n, k = p.ring_dim, len(p.special_moduli)
        spread = np.sqrt(n * (ERROR_STD**2 + (1 + n * 2 / 3) * k / 12))
        biased = (k / 2) * (2 * n / np.pi) * np.sqrt(1 + n * 2 / 3)
        return float(errors * tail(n) * (spread + biased) / (p.scale if scale is None else scale))

    def check(self, ciphertext: Ciphertext, expected: Floats, errors: float = 1.0) -> None:
        repeated = np.tile(expected, self.parameters.n_slots // len(expected))
        np.testing.assert_allclose(self.decrypt(ciphertext), repeated, rtol=0, atol=self.bound(errors))


@lru_cache(maxsize=1)
def _keys() -> tuple[Any, Any, dict[int, Any], Any]:
    p = insecure_parameters()
    secret = oracle.make_secret(p.ring_dim)
    rotations = {r: oracle.make_rotation_key(p, secret, r, KEY, seed=abs(r)) for r in ROTATIONS}
    conjugation = oracle.make_galois_key(p, secret, conjugation_element(p.ring_dim), KEY, seed=99)
    return secret, oracle.make_relinearisation_key(p, secret, KEY), rotations, conjugation


@pytest.fixture(params=["openfhe", "native", "clear"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    secret, relinearisation, rotations, conjugation = _keys()
    made: World
    if request.param != "clear":
        backend = REAL[request.param](insecure_parameters(), KEY)
        backend.load_relinearisation_key(relinearisation)
        for rotation, key in rotations.items():
            backend.load_rotation_key(rotation, key)
        backend.load_conjugation_key(conjugation)
        made = World(backend, secret)
    else:
        made = World(ClearBackend(insecure_parameters(), KEY, frozenset(ROTATIONS)))
        made.backend.load_conjugation_key(conjugation)
    yield made
    made.backend.close()


@pytest.fixture(params=["openfhe", "native", "clear"])
def keyless(request: pytest.FixtureRequest) -> Iterator[World]:
    """No evaluation keys at all."""
    p = insecure_parameters()
    if request.param != "clear":
        made = World(REAL[request.param](p, KEY), oracle.make_secret(p.ring_dim))
    else:
        made = World(ClearBackend(p, KEY, frozenset(), relinearisation=False))
    yield made
    made.backend.close()
