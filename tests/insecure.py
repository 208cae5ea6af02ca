"""INSECURE: small rings and low statistical bits, so that whole runs are fast enough for tests; never for real rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.backend.clear import ClearBackend, ClearCiphertext
from mhe.ciphertext import Ciphertext
from mhe.clear_party import ClearParty
from mhe.collective import Collective
from mhe.moduli import generate_moduli as generate_own_moduli
from mhe.parameters import Parameters, Shape, refresh_floor_bits
from models.activations import Polynomial, approximate, sigmoid
from models.choice import Choice
from models.local_plan import LocalPlan
from models.mlp_plan import PerceptronPlan, perceptron_levels, perceptron_message_bits
from models.model import Plan
from models.newton_plan import FixedHessianPlan, newton_levels, newton_message_bits
from models.packing import doublings, power_of_two_at_least
from models.plan import CircuitPlan
from models.refresh_points import ALL_POINTS, RefreshPoints
from models.tiles import TileLayout
from models.workload import Workload
from scripts.config import Config
from scripts.goal import Goal
from scripts.planning import moduli_maker

Floats = npt.NDArray[np.float64]
MakeModuli = Callable[[Shape], tuple[tuple[int, ...], tuple[int, ...]]]

INSECURE_TEST_RING_DIM = 1 << 10
INSECURE_TEST_STATISTICAL_BITS = 10
FIRST_BITS = 60
KEY_ID = "clear"


@lru_cache(maxsize=32)
def insecure_test_parameters(
    ring_dim: int,
    n_limbs: int,
    *,
    scale_bits: int = 45,
    digits: int = 2,
    n_parties: int = 1,
    refresh_limbs: int | None = None,
    message_bits: float = 1.0,
    statistical_bits: int = INSECURE_TEST_STATISTICAL_BITS,
    make_moduli: MakeModuli = generate_own_moduli,
) -> Parameters:
    """INSECURE: a chain of any length in a ring of any size."""
    shape = Shape(ring_dim, FIRST_BITS, scale_bits, n_limbs, digits)
    return Parameters.of_shape(
        shape,
        make_moduli(shape),
        n_parties=n_parties,
        refresh_limbs=n_limbs if refresh_limbs is None else refresh_limbs,
        message_bits=message_bits,
        statistical_bits=statistical_bits,
        insecure=True,
    )


def clear_backend(
    n_slots: int, *, n_limbs: int = 4, noise: bool, rotations: frozenset[int] | None = None, seed: int = 0
) -> ClearBackend:
    """An evaluator that computes in the clear, in a ring of this many slots."""
    parameters = insecure_test_parameters(2 * n_slots, n_limbs)
    return ClearBackend(parameters, KEY_ID, rotations, noise=noise, seed=seed)


def clear_ciphertext(
    backend: ClearBackend, values: Floats, limbs: int | None = None, scale: float | None = None
) -> Ciphertext:
    """Values (period,) as this evaluator's ciphertext."""
    p = backend.parameters
    made = ClearCiphertext(np.array(values)[None], limbs or p.n_limbs, scale or p.scale, backend.key_id)
    return backend.import_ciphertext(made, len(values))


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
        "link": sigmoid_polynomial(),
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
    scale_bits: int = 45,
    digits: int = 2,
    missing_limbs: int = 0,
    n_parties: int | None = None,
    message_bits: float | None = None,
    make_moduli: MakeModuli = generate_own_moduli,
) -> CircuitPlan:
    """INSECURE: the plan of this workload on the shortest chain that it needs, in a small ring."""
    parties = task.n_parties if n_parties is None else n_parties
    bits = task.message_bits if message_bits is None else message_bits
    floor = refresh_floor_bits(INSECURE_TEST_STATISTICAL_BITS, scale_bits, bits, parties)
    refresh_limbs = 1 + max(0, math.ceil((floor + 0.5 - FIRST_BITS) / scale_bits))
    parameters = insecure_test_parameters(
        ring_dim,
        refresh_limbs + task.levels - missing_limbs,
        scale_bits=scale_bits,
        digits=digits,
        n_parties=parties,
        refresh_limbs=refresh_limbs,
        message_bits=bits,
        make_moduli=make_moduli,
    )
    return CircuitPlan(task, parameters) if task.local_iterations is None else LocalPlan(task, parameters)


def widest_tiles(task: Workload, n_slots: int) -> TileLayout:
    """As wide as the widest layer of outputs, or as the slots allow; a search would compare all widths."""
    most = doublings(1, 1 + math.isqrt(n_slots // 2))[-1]
    width = min(power_of_two_at_least(max((*task.hidden, task.outputs))), most)
    return TileLayout(n_slots, width, min(1 << (width.bit_length() // 2), width))


def insecure_test_perceptron_plan(
    task: Workload,
    *,
    ring_dim: int = INSECURE_TEST_RING_DIM,
    width: int | None = None,
    scale_bits: int = 45,
    digits: int = 2,
    missing_limbs: int = 0,
    make_moduli: MakeModuli = generate_own_moduli,
    points: RefreshPoints = ALL_POINTS,
) -> PerceptronPlan:
    """INSECURE: the plan of a perceptron on the shortest chain that it needs, in a small ring."""
    n_slots, bits = ring_dim // 2, perceptron_message_bits(task, points, 1.0)
    levels = perceptron_levels(task.model, points)
    layout = widest_tiles(task, n_slots) if width is None else TileLayout(n_slots, width, max(1, width // 4))
    floor = refresh_floor_bits(INSECURE_TEST_STATISTICAL_BITS, scale_bits, bits, task.n_parties)
    refresh_limbs = 1 + max(0, math.ceil((floor + 0.5 - FIRST_BITS) / scale_bits))
    parameters = insecure_test_parameters(
        ring_dim,
        refresh_limbs + levels - missing_limbs,
        scale_bits=scale_bits,
        digits=digits,
        n_parties=task.n_parties,
        refresh_limbs=refresh_limbs,
        message_bits=bits,
        make_moduli=make_moduli,
    )
    return PerceptronPlan(task, parameters, layout, points=points)


def insecure_test_newton_plan(
    task: Workload,
    *,
    ring_dim: int = INSECURE_TEST_RING_DIM,
    scale_bits: int = 45,
    make_moduli: MakeModuli = generate_own_moduli,
) -> FixedHessianPlan:
    """INSECURE: the plan of solver "newton" on the shortest chain that it needs, in a small ring."""
    bits, levels = newton_message_bits(task, scale_bits), newton_levels(task)
    floor = refresh_floor_bits(INSECURE_TEST_STATISTICAL_BITS, scale_bits, bits, task.n_parties)
    refresh_limbs = 1 + max(0, math.ceil((floor + 0.5 - FIRST_BITS) / scale_bits))
    parameters = insecure_test_parameters(
        ring_dim,
        refresh_limbs + levels,
        scale_bits=scale_bits,
        n_parties=task.n_parties,
        refresh_limbs=refresh_limbs,
        message_bits=bits,
        make_moduli=make_moduli,
    )
    return FixedHessianPlan(task, parameters)


def choose_insecure_test_plan(task: Workload, choice: Choice, make_moduli: MakeModuli, *, free: bool) -> CircuitPlan:
    """INSECURE: in place of `models.search.choose_plan`, whatever the choice is; precise enough for real smudging."""
    return insecure_test_plan(task, scale_bits=58, make_moduli=make_moduli)


def finding(plan_of: Callable[..., Plan]) -> Callable[..., list[Plan]]:
    """In place of `scripts.planning.best_plans`, for runs in an INSECURE small ring: plan_of as `choose_plan`."""

    def best_plans(workload: Workload, choice: Choice, config: Config, count: int, goal: Goal | None) -> list[Plan]:
        backend = config.crypto.backend
        return [plan_of(workload, choice, moduli_maker(backend), free=backend != "openfhe")]

    return best_plans


def table(task: Workload, seed: int = 0, noise: float = 3.0) -> list[tuple[Floats, Floats]]:
    """Standardised rows (rows, features) and targets (rows, outputs) of every party, from a noisy linear model: yes or
    no of one output, one of the classes of several.
    """
    random = np.random.default_rng([seed, task.features, *task.rows])
    x = random.normal(size=(sum(task.rows), task.features)) @ np.diag(random.uniform(0.5, 2, task.features))
    logits = x @ random.normal(size=(task.features, task.outputs)) / math.sqrt(task.features)
    logits += noise * random.logistic(size=logits.shape)
    y = (logits > 0).astype(np.float64) if task.outputs == 1 else np.eye(task.outputs)[logits.argmax(axis=1)]
    spread = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1)
    cuts = np.cumsum(task.rows)[:-1]
    return list(zip(np.split(x, cuts), np.split(y, cuts), strict=True))


def clear_party(collective: Collective, plan: Plan, *, noise: bool = True, seed: int = 0) -> ClearParty:
    """A party of this plan that simulates."""
    return ClearParty(
        collective,
        plan.parameters,
        statistical_bits=plan.workload.release_bits,
        releases=plan.releases,
        noise=noise,
        seed=seed,
    )
