"""Whole training runs of many parties in one process, "co-hosted": `mhe bench cohosted CONFIG --parties N`.

Every party is a thread with a secret, randomness, shares and rows of its own, and runs the program of `mhe train`: the
same protocols, the same bytes in the same codec over the same tree. What is public (the keys, what comes down the tree)
is held once, computed once, and charged to every party (`network.host`). Nothing protects one party of the process from
another, or its rows from whoever runs it: this is for measuring.

Wall time is that of all parties' work on this machine. What it would be on machines of their own is modelled from every
party's CPU seconds and a stated link (`network.modelled`).
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.environment import environment
from mhe.errors import ConfigError
from models.training import INVERSE
from network.collective import TreeCollective
from network.link import Link
from network.local import run_parties
from network.metrics import Pass
from network.modelled import modelled_seconds
from network.topology import Tree
from scripts.config import Config, load_config
from scripts.results import as_json
from scripts.train import run_party

LINK = "1gbps/20ms"
"""That of POSEIDON's evaluation (section VII-A)."""

LIMIT_SECONDS = 24 * 3600.0

STAGES: Mapping[str, tuple[str, ...]] = {
    "setup": ("public_key", "standardisation", "relin_key", "rotation_keys", "packing"),
    "training": (INVERSE, "iteration"),
    "release": ("release",),
}
"""What of a run is counted as what, by phase. What is outside of all is not the parties' work: planning, references."""


@dataclass(frozen=True)
class _Party:
    """What is left of a party: counters by phase, passes and their tree, and at the root the outcome as JSON."""

    phases: Mapping[str, Mapping[str, float]]
    passes: Sequence[Pass]
    tree: Tree
    result: dict[str, Any] | None


def run_cohosted(config: Config, n_parties: int, at_once: int, link: Link) -> dict[str, Any]:
    """The record of one run: environment, hosting, seconds, CPU seconds and traffic of a party, result.json.

    at_once: parties at work at the same time, one for every core. Raises ConfigError for a configuration that is not
    for parties in one process, and whatever the run raises.
    """
    _check(config)
    root = config.network.root
    with TemporaryDirectory() as folder:

        def program(collective: TreeCollective) -> _Party:
            outcome = run_party(config, collective, Path(folder), force=True)
            result = as_json(outcome) if collective.is_root else None
            return _Party(collective.metrics.snapshot(), collective.passes or (), collective.tree, result)

        before, start, cpu = environment(), time.perf_counter(), time.process_time()
        parties = run_parties(
            n_parties,
            program,
            arity=config.network.first_arity,
            root=root,
            timeout_seconds=LIMIT_SECONDS,
            at_once=at_once,
            recorded=True,
        )
        whole = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    return {
        "environment": before,
        "hosting": {"parties": n_parties, "processes": 1, "at_once": at_once, "label": "co-hosted"},
        "process": {
            **{name: round(value, 2) for name, value in whole.items()},
            "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        },
        **_figures(parties[root].tree, parties, link),
        "result": _without_phases(parties[root].result),
    }


def _check(config: Config) -> None:
    if config.crypto.threads != 1 or config.crypto.backend != "native":
        raise ConfigError(
            f'[crypto] backend = "{config.crypto.backend}", threads = {config.crypto.threads}; need "native", whose '
            "keys parties of one process can share, and one thread each"
        )


def _figures(tree: Tree, parties: Sequence[_Party], link: Link) -> dict[str, Any]:
    """Seconds and bytes by stage: of this machine, of a party, and modelled."""
    modelled = modelled_seconds(link, tree, [party.passes for party in parties])
    spent: dict[str, Any] = {}
    for stage, phases in STAGES.items():
        cpu = [_sum(party, phases, "cpu_seconds") for party in parties]
        sent = [_sum(party, phases, "bytes_sent") for party in parties]
        spent[stage] = {
            "cpu_seconds": {
                "mean": round(sum(cpu) / len(cpu), 3),
                "max": round(max(cpu), 3),
                "root": round(cpu[tree.root], 3),
            },
            "bytes_sent": {"mean": round(sum(sent) / len(sent)), "max": max(sent)},
            "rounds": _sum(parties[tree.root], phases, "rounds"),
            "modelled_seconds": round(sum(modelled.get(phase, 0.0) for phase in phases), 3),
        }
    return {"link": str(link), "tree": {"arity": tree.arity, "depth": tree.depth}, "stages": spent}


def _sum(party: _Party, phases: Sequence[str], counter: str) -> float:
    return sum(party.phases[phase][counter] for phase in phases if phase in party.phases)


def _without_phases(result: dict[str, Any] | None) -> dict[str, Any]:
    """Nobody reads 160 parties' counters of each phase."""
    kept = dict(result or {})
    kept.pop("per_party", None)
    return {**kept, "predicted": {"max_weight_error": kept["predicted"]["max_weight_error"]}}


def main(config_file: Path, n_parties: int, at_once: int, link: str, json_file: Path | None) -> None:
    """Run, print, and write the record."""
    record = run_cohosted(load_config(config_file), n_parties, at_once, Link.parse(link))
    shown = f" --link {link}" if link != LINK else ""
    record["command"] = (
        f"mhe bench cohosted {config_file.as_posix()} --parties {n_parties} --at-once {at_once}{shown} --json FILE"
    )
    for line in lines(record):
        print(line)
    if json_file is not None:
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def lines(record: Mapping[str, Any]) -> list[str]:
    """The record in words."""
    hosting, seconds = record["hosting"], record["result"]["seconds"]
    told = [
        f"{hosting['parties']} parties co-hosted in {hosting['processes']} process, {hosting['at_once']} at work at "
        f"once; peak {record['process']['peak_rss_mib']} MiB"
    ]
    walls = {
        "setup": seconds["setup"],
        "training": seconds["training"] + seconds.get(INVERSE, 0.0),
        "release": seconds["release"],
    }
    for stage, spent in record["stages"].items():
        told.append(
            f"{stage}: {walls[stage]:.1f} s here; CPU {spent['cpu_seconds']['mean']:.2f} s of a party "
            f"({spent['cpu_seconds']['max']:.2f} at most), {spent['bytes_sent']['mean'] / 1e6:.1f} MB sent, "
            f"{spent['rounds']:.0f} rounds; {spent['modelled_seconds']:.1f} s modelled on machines apart, "
            f"{record['link']}"
        )
    return told
