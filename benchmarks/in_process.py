"""One whole training of all parties as threads of this process, timed iteration by iteration."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mhe.backend.native import NativeBackend
from mhe.encrypted_party import BackendFactory, EncryptedParty
from mhe.moduli import generate_moduli
from models.choice import MakeModuli
from models.model import Model, Plan
from models.training import Iteration, pack_batches, prepare, train
from network.collective import TreeCollective
from network.local import run_parties

Floats = npt.NDArray[np.float64]

TIMEOUT_SECONDS = 4 * 3600.0


@dataclass(frozen=True)
class Measured:
    """Of one party, CPU seconds being those of the process over the parties.

    prepare_cpu_seconds: of the inverse of solver "newton", else nothing. weights: released, (features + 1, outputs).
    """

    prepare_cpu_seconds: float
    cpu_seconds: tuple[float, ...]
    wall_seconds: tuple[float, ...]
    weights: Floats


def evaluator_of(name: str) -> tuple[BackendFactory, MakeModuli]:
    """What makes an evaluator of this name, and its primes."""
    if name == "native":
        return NativeBackend, generate_moduli
    from mhe.backend.openfhe import OpenFHEBackend
    from mhe.backend.openfhe import generate_moduli as prescribed

    return OpenFHEBackend, prescribed


def measure(
    plan: Plan, model_of: Callable[[Plan], Model], backend: str, shards: Sequence[tuple[Floats, Floats]]
) -> Measured:
    """Train on every party's standardised features (rows, columns) and targets (rows, outputs), and release."""
    make_backend, _ = evaluator_of(backend)
    workload = plan.workload

    def program(collective: TreeCollective) -> tuple[list[float], list[float], Floats]:
        collective.bind(plan.parameters.digest)
        party = EncryptedParty(
            collective,
            plan.parameters,
            make_backend,
            statistical_bits=workload.release_bits,
            releases=plan.releases,
        )
        model = model_of(plan)
        party.make_keys(plan.key_plan)
        batches = pack_batches(model, *shards[collective.rank], workload.seed, collective.rank, True)
        cpu, wall = [time.process_time()], list[float]()

        def report(iteration: Iteration) -> None:
            cpu.append(time.process_time())
            wall.append(iteration.seconds)

        prepared = prepare(party, model, batches)
        cpu.append(time.process_time())
        encrypted = train(party, model, batches, report, prepared)
        released = model.release(party, encrypted)[0]
        party.close()
        return cpu, wall, released

    # at the root; the others end an iteration at most a broadcast later
    cpu, wall, weights = run_parties(workload.n_parties, program, timeout_seconds=TIMEOUT_SECONDS)[0]
    preparing, *iterations = (float(after - before) / workload.n_parties for before, after in pairwise(cpu))
    return Measured(preparing, tuple(iterations), tuple(wall), weights)
