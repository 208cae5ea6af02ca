"""Whole trainings in this process, by parties of any kind, and how far from the clear twin they may end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def largest_error(found: Sequence[Floats], expected: Sequence[Floats]) -> float:
    """Of all weights of all layers."""
    return max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))


def surely(error: float, n: int) -> float:
    """A planned error of the largest of n normal values, at probability 2^-TAIL_BITS instead of PREDICTED_QUANTILE."""
    return float(error * tail(n) / np.sqrt(2 * np.log(2 * n / PREDICTED_QUANTILE)))
