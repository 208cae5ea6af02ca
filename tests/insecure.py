"""INSECURE: small rings and low statistical bits, so that real cryptography is fast enough for tests."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from mhe.backend.openfhe import generate_moduli
from mhe.parameters import Parameters, Shape, refresh_floor_bits
from models.activations import Polynomial, approximate, sigmoid
from models.plan import CircuitPlan
from models.workload import Workload

INSECURE_TEST_RING_DIM = 1 << 10
INSECURE_TEST_SCALE_BITS = 45
INSECURE_TEST_STATISTICAL_BITS = 10
FIRST_BITS = 60


@lru_cache(maxsize=32)
def sigmoid_polynomial(degree: int = 3, half_width: float = 8.0, method: str = "least_squares") -> Polynomial:
    return approximate(sigmoid, degree, (-half_width, half_width), method)


def workload(rows: tuple[int, ...] = (20,), features: int = 3, **changes: Any) -> Workload:
    """A small logistic regression; `changes` replace single fields."""
    settings: dict[str, Any] = {
        "rows": rows,
        "features": features,
        "iterations": 3,
        "learning_rate": 1.0,
        "momentum": 0.0,
        "l2": 0.0,
        "batch": None,
        "sigmoid": sigmoid_polynomial(),
        "message_bound": 16.0,
        "release_bits": INSECURE_TEST_STATISTICAL_BITS,
        "precision": 1e-3,
        "release": "model",
        "standardises": True,
        "test_rows": tuple(0 for _ in rows),
    }
    return Workload(**{**settings, **changes})


def insecure_test_plan(
    task: Workload,
    *,
    ring_dim: int = INSECURE_TEST_RING_DIM,
    scale_bits: int = INSECURE_TEST_SCALE_BITS,
    digits: int = 2,
    spare_limbs: int = 0,
) -> CircuitPlan:
    """INSECURE: the plan of this workload on the shortest chain that it needs, in a small ring."""
    floor = refresh_floor_bits(INSECURE_TEST_STATISTICAL_BITS, scale_bits, task.message_bits, task.n_parties)
    refresh_limbs = 1 + max(0, math.ceil((floor + 0.5 - FIRST_BITS) / scale_bits))
    shape = Shape(ring_dim, FIRST_BITS, scale_bits, refresh_limbs + task.levels + spare_limbs, digits)
    moduli, special = generate_moduli(shape)
    parameters = Parameters(
        ring_dim=ring_dim,
        moduli=moduli,
        special_moduli=special,
        scale_bits=scale_bits,
        digits=digits,
        n_parties=task.n_parties,
        refresh_limbs=refresh_limbs,
        message_bits=task.message_bits,
        statistical_bits=INSECURE_TEST_STATISTICAL_BITS,
        insecure=True,
    )
    return CircuitPlan(task, parameters)
