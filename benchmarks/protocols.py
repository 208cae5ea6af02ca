"""`mhe bench protocols`: every protocol among 2 to 160 co-hosted parties, at the parameters that small tables get.

Recorded are a party's CPU seconds, bytes and rounds, and the wall time modelled for machines of their own.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cohosted import LIMIT_SECONDS, LINK
from benchmarks.environment import environment
from mhe.backend.native import NativeBackend
from mhe.encrypted_party import EncryptedParty
from mhe.errors import BackendError
from mhe.keys import KeyPlan
from mhe.moduli import generate_moduli
from mhe.parameters import Parameters, Shape
from mhe.security import rerandomised_norm
from network.collective import TreeCollective
from network.link import Link
from network.local import run_parties
from network.metrics import Pass
from network.modelled import modelled_seconds
from network.topology import Tree

PARTIES = (2, 4, 8, 16, 32, 64, 160)

SHAPE = Shape(1 << 15, 52, 58, 8, 3, floor_limbs=4, special_bits=58, special_limbs=3)
REFRESH_LIMBS, STATISTICAL_BITS, RELEASE_BITS = 4, 128, 30

MESSAGE_BITS = 9.0
"""Of the sum of 160 numbers below 1."""

VALUES = 16
"""Length of the vector that is summed, refreshed and decrypted."""

PHASES = ("public_key", "relin_key", "rotation_keys", "sum", "refresh", "decryption")
"""Of keys for rotations there is one."""


def parameters(n_parties: int) -> Parameters:
    return Parameters.of_shape(
        SHAPE,
        generate_moduli(SHAPE),
        n_parties=n_parties,
        refresh_limbs=REFRESH_LIMBS,
        message_bits=MESSAGE_BITS,
        statistical_bits=STATISTICAL_BITS,
    )


def program_of(chosen: Parameters) -> Callable[[TreeCollective], tuple[Mapping[str, Any], Sequence[Pass]]]:
    """One party's part: each protocol once. Raises BackendError if what is opened is not the sum."""
    noise = 2 * chosen.n_parties * rerandomised_norm(chosen, REFRESH_LIMBS)

    def program(collective: TreeCollective) -> tuple[Mapping[str, Any], Sequence[Pass]]:
        collective.bind(chosen.digest)
        party = EncryptedParty(collective, chosen, NativeBackend, statistical_bits=RELEASE_BITS, releases=1)
        party.make_keys(KeyPlan({1: chosen.n_limbs}, relinearisation=chosen.n_limbs))
        values = np.arange(float(VALUES)) / VALUES
        with collective.phase("sum"):
            total = party.sum([party.encrypt_own(values, REFRESH_LIMBS, chosen.scale)])
        with collective.phase("refresh"):
            (fresh,) = party.refresh(total, 1, chosen.scale, VALUES)
        low = party.backend.drop_limbs(fresh, REFRESH_LIMBS) if collective.is_root else None
        with collective.phase("decryption"):
            opened = party.decrypt(low, REFRESH_LIMBS, chosen.scale, VALUES, noise)
        party.close()
        if np.abs(opened - chosen.n_parties * values).max() > 1 / VALUES:
            raise BackendError(f"the parties opened {opened}; need {chosen.n_parties} times {values}")
        return collective.metrics.snapshot(), collective.passes or ()

    return program


def measure(n_parties: int, at_once: int, link: Link) -> dict[str, Any]:
    """By protocol: a party's CPU seconds, bytes sent, rounds, modelled seconds."""
    found = run_parties(
        n_parties,
        program_of(parameters(n_parties)),
        timeout_seconds=LIMIT_SECONDS,
        at_once=at_once,
        recorded=True,
    )
    modelled = modelled_seconds(link, Tree(n_parties), [passes for _, passes in found])
    protocols = {}
    for phase in PHASES:
        cpu, sent = ([party[phase][name] for party, _ in found] for name in ("cpu_seconds", "bytes_sent"))
        protocols[phase] = {
            "cpu_seconds": {"mean": sum(cpu) / n_parties, "max": max(cpu)},
            "bytes_sent": {"mean": sum(sent) / n_parties, "max": max(sent)},
            "rounds": found[0][0][phase]["rounds"],
            "modelled_seconds": modelled[phase],
        }
    return {
        "parties": n_parties,
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "protocols": protocols,
    }


def run(parties: Sequence[int], at_once: int, json_file: Path | None) -> dict[str, Any]:
    """Measure for all these numbers of parties in ascending order, so that the peak of the memory is each one's own."""
    document: dict[str, Any] = {
        "environment": environment(),
        "hosting": {"processes": 1, "at_once": at_once, "label": "co-hosted"},
        "link": LINK,
        "points": [],
    }
    # the first run compiles and fills tables
    measure(min(parties), at_once, Link.parse(LINK))
    for n_parties in sorted(parties):
        point = measure(n_parties, at_once, Link.parse(LINK))
        document["points"].append(point)
        told = (f"{name} {1e3 * p['cpu_seconds']['mean']:.0f} ms" for name, p in point["protocols"].items())
        print(f"{n_parties} parties, CPU of one: {', '.join(told)}", flush=True)
    if json_file is not None:
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return document
