"""Whole trainings in this process, by parties of any kind, and how far from the clear twin they may end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.ciphertext import Ciphertext
from mhe.party import Party
from mhe.security import tail
from models.model import Plan, model_of
from models.precision import PREDICTED_QUANTILE
from models.training import pack_batches, train
from network.local import run_parties
from tests import oracle
from tests.evaluators import REAL, make_party

Floats = npt.NDArray[np.float64]
Shards = Sequence[tuple[Floats, Floats]]
Join = Callable[[Any, Plan], Any]
After = Callable[[Any, int, "list[Ciphertext] | None"], Any]


def trained(plan: Plan, shards: Shards, join: Join, after: After, seed: int = 0, **run: Any) -> list[Any]:
    """after(party, rank, encrypted weights) of every party join(collective, plan), once it has trained."""

    def program(collective: Any) -> Any:
        collective.bind(plan.parameters.digest)
        party, model = join(collective, plan), model_of(plan)
        party.make_keys(plan.key_plan)
        batches = pack_batches(model, *shards[collective.rank], seed, collective.rank, True)
        found = after(party, collective.rank, train(party, model, batches, lambda _: None))
        party.close()
        return found

    return run_parties(plan.workload.n_parties, program, **run)


def released(plan: Plan, shards: Shards, join: Join, **options: Any) -> list[Floats]:
    """The model that every party gets, (inputs + 1, outputs) by layer; they must agree."""

    def release(party: Party, _: int, weights: list[Ciphertext] | None) -> list[Floats]:
        return model_of(plan).release(party, weights)

    first, *others = trained(plan, shards, join, release, **options)
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)
    found: list[Floats] = first
    return found


def released_and_noisy(
    plan: Plan, shards: Shards, evaluator: str, seed: int = 0
) -> tuple[list[Floats], npt.NDArray[np.float64]]:
    """(the model that every party gets; coefficients of its first ciphertext before that, with all noise, empty of a
    simulation) of a training on this evaluator.
    """
    is_real = evaluator in REAL

    def after(party: Any, _: int, weights: list[Ciphertext] | None) -> tuple[list[Floats], Any, Any]:
        found = model_of(plan).release(party, weights)
        exported = party.backend.export_ciphertext(weights[0]) if is_real and weights is not None else None
        return found, exported, oracle.coefficients_of(party._secret) if is_real else None

    runs = trained(plan, shards, partial(make_party, evaluator), after, seed=seed)
    first = runs[0][0]
    for other, _, _ in runs:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)
    if not is_real:
        return first, np.empty(0)
    secret = oracle.joint([share for _, _, share in runs])
    coefficients = oracle.message_integers(runs[0][1], plan.parameters, secret)
    step = plan.parameters.ring_dim // plan.precision.released_coefficients
    return first, np.array([float(c) for c in coefficients[::step]])


def largest_error(found: Sequence[Floats], expected: Sequence[Floats]) -> float:
    """Of all weights of all layers."""
    return max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))


def surely(error: float, n: int) -> float:
    """A planned error of the largest of n normal values, at probability 2^-TAIL_BITS instead of PREDICTED_QUANTILE."""
    return float(error * tail(n) / np.sqrt(2 * np.log(2 * n / PREDICTED_QUANTILE)))
