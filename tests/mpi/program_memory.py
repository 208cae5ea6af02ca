"""Every rank: train on rows of its own, then fingerprint every array in its process, its secrets and its rows."""

from __future__ import annotations

import gc
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mhe.keys import EphemeralSecret, ReceiverSecret, SecretShare
from mhe.ring.ring import ring
from models.model import model_of
from models.training import pack_batches, standardise, train
from network.collective import TreeCollective
from network.mpi import mpi_channel
from tests import oracle
from tests.evaluators import make_party, plan_of
from tests.insecure import workload
from tests.memory import reachable

N_ROWS, N_FEATURES = 12, 3


def fingerprint(row: np.ndarray) -> str:
    return hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest()


def fingerprints(array: np.ndarray) -> Iterator[str]:
    """Of the whole and of every row."""
    yield fingerprint(array)
    if array.ndim > 1:
        yield from map(fingerprint, array.reshape(-1, array.shape[-1]))


def arrays_here() -> list[np.ndarray]:
    """Every array of whole numbers or floats in this process: whatever any object leads to."""
    gc.collect()
    found = reachable(gc.get_objects())
    return [item for item in found if type(item) is np.ndarray and item.dtype.kind in "iuf" and item.size]


def secrets_here() -> dict[str, int]:
    objects = gc.get_objects()
    kinds = (SecretShare, EphemeralSecret, ReceiverSecret)
    return {kind.__name__: sum(type(item) is kind for item in objects) for kind in kinds}


def forms(coefficients: np.ndarray, parameters: Any) -> Iterator[str]:
    base = ring(parameters.ring_dim, parameters.key_moduli)
    plain = base.from_signed(coefficients)
    yield fingerprint(coefficients)
    for rows in (plain, base.negate(plain), base.ntt(plain), base.ntt(base.negate(plain))):
        yield from map(fingerprint, rows)


with mpi_channel() as channel:
    collective = TreeCollective(channel)
    rank, n_parties = collective.rank, collective.n_parties
    task = workload((N_ROWS,) * n_parties, N_FEATURES, iterations=2)
    evaluator = sys.argv[2]
    plan = plan_of(evaluator, task, ring_dim=1 << 8)
    collective.bind(plan.parameters.digest)
    random = np.random.default_rng(rank)
    x, y = random.normal(5, 2, (N_ROWS, N_FEATURES)), random.integers(0, 2, N_ROWS).astype(float)

    party = make_party(evaluator, collective, plan)
    party.make_keys(plan.key_plan)
    standard = standardise(party, x, n_parties * N_ROWS)
    model = model_of(plan)
    batches = pack_batches(model, standard(x), y[:, None], 0, rank, True)
    weights = train(party, model, batches, lambda iteration: None)
    (released,) = model.release(party, weights)

    # The fingerprints of the secret are made after the search, which must find only what the party keeps.
    standardised = standard(x)
    kept, counted = arrays_here(), secrets_here()
    seen = sorted({found for array in kept for found in fingerprints(array)})
    report = {
        "secrets": counted,
        "arrays": len(kept),
        "seen": seen,
        "coefficients": fingerprint(oracle.coefficients_of(party._secret)),
        "forms": sorted(set(forms(oracle.coefficients_of(party._secret), plan.parameters))),
        "rows": sorted({*map(fingerprint, x), *map(fingerprint, standardised)}),
        "model": released.tolist(),
    }
    party.close()
    (Path(sys.argv[1]) / f"{rank}.json").write_text(json.dumps(report))
