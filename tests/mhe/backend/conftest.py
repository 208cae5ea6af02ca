"""All evaluators on the same primes: `world` makes, opens and compares ciphertexts of each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pytest

from mhe.backend.clear import ClearBackend
from mhe.backend.openfhe import generate_moduli
from mhe.parameters import Parameters, Shape
from tests import oracle
from tests.evaluators import FACTORIES, World

KEY = "test-key"
ROTATIONS = (1, 3, 16, -1)


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


@pytest.fixture
def world(evaluator: str) -> Iterator[World]:
    made = World.of(evaluator, insecure_parameters(), ROTATIONS, KEY)
    yield made
    made.backend.close()


@pytest.fixture
def keyless(evaluator: str) -> Iterator[World]:
    """No evaluation keys at all."""
    p = insecure_parameters()
    if evaluator == "clear":
        made = World(ClearBackend(p, KEY, frozenset(), relinearisation=False), KEY)
    else:
        made = World(FACTORIES[evaluator](p, KEY), KEY, oracle.make_secret(p.ring_dim))
    yield made
    made.backend.close()
