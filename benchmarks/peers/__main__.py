"""Peers on one task, on this machine: `python -m benchmarks.peers [NAME ...]`.

The task is that of configs/pima.toml: same rows, polynomial, steps and iterations. Every peer gets a virtual
environment of its own, with its packages from PyPI, which is thrown away afterwards; none is a dependency of ours. Each
party has one thread. One JSON for each under benchmarks/results; `python -m benchmarks.report` makes the table.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.environment import environment
from benchmarks.in_process import measure
from benchmarks.jobs import RESULTS, ROOT
from benchmarks.peers.task import Floats, Settings, Task, descend
from models.data import Shard, check_summaries, code, pooled, stack, summary
from models.model import model_of
from models.training import Standardisation, standardisation
from scripts.config import Config, load_config
from scripts.planning import link_of, make_plan

CONFIG = ROOT / "configs" / "pima.toml"
MPYC = ("mpyc==0.11", "gmpy2==2.2.1", "numpy<3")
OPENFHE = "openfhe==1.6.1.0.22.4" if sys.version_info < (3, 11) else "openfhe==1.6.1.0.24.4"


@dataclass(frozen=True)
class Peer:
    """A script of this folder, its packages, and what its users can rely on."""

    script: str
    requirements: tuple[str, ...]
    protects: str
    rows_leave: str
    """Whether rows leave their owners' machines, and as what."""
    arguments: tuple[str, ...] = ()
    same_steps: bool = True
    """Whether its weights are meant to be the clear twin's."""


@dataclass(frozen=True)
class Ours:
    """`mhe train` with so many parties."""

    parties: int
    protects: str = "rows and model from any N - 1 colluding parties, passive, no dealer"
    rows_leave: str = "no"


SINGLE_KEY = "rows and model from the server, not from the one holder of the key"
SHARES = "rows and model from up to {} colluding parties, passive"

PEERS: dict[str, Peer | Ours] = {
    "scikit-learn": Peer("scikit_learn", ("scikit-learn==1.7.2",), "nothing", "in the clear", same_steps=False),
    "openfhe-single-key": Peer("openfhe_single_key", (OPENFHE, "numpy<3"), SINGLE_KEY, "encrypted"),
    "tenseal-single-key": Peer("tenseal_single_key", ("tenseal==0.3.16", "numpy<3"), SINGLE_KEY, "encrypted"),
    "mpyc-3": Peer("mpyc_shares", MPYC, SHARES.format(1), "as shares", ("-M3",)),
    # shares from pseudorandom functions are for few parties: one key for every set of those that may collude
    "mpyc-10": Peer("mpyc_shares", MPYC, SHARES.format(4), "as shares", ("-M10", "--no-prss")),
    "mhe-4": Ours(4),
    "mhe-10": Ours(10),
}


def make_task(config: Config) -> Task:
    """All rows in one place, standardised, and the settings that `mhe train` would use."""
    source = config.source
    # rows set aside for the test are the same for any number of parties
    shard = stack(pooled(source, 1))
    shard = code(shard, check_summaries([summary(shard, source.target)], source.target))
    standard = _standard(shard)
    link, training = link_of(config.model, 1), config.training
    settings = Settings(
        iterations=training.iterations,
        learning_rate=training.rate_used,
        momentum=training.momentum_used,
        l2=config.model.l2,
        link=tuple(float(c / link.half_width**k) for k, c in enumerate(link.coefficients)),
    )
    return Task(settings, standard(shard.features), shard.labels, standard(shard.test_features), shard.test_labels)


def _standard(shard: Shard) -> Standardisation:
    mean = shard.features.mean(axis=0)
    return standardisation(mean, np.square(shard.features - mean).mean(axis=0))


def run_peer(peer: Peer, task: Task) -> dict[str, Any]:
    """The peer's own figures, its settings, and the packages of its environment.

    Raises CalledProcessError if its packages cannot be installed, or it fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *peer.requirements], check=True)
        run = run_script(python, peer, task, folder)
        frozen = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True)
    weights = np.array(run.pop("weights"))
    return {
        "seconds_per_iteration": median(run["seconds"]),
        "cpu_seconds_per_iteration": median(run["cpu_seconds"]),
        "accuracy": task.accuracy(weights),
        "max_weight_error": float(np.abs(weights - twin_weights(task)).max()) if peer.same_steps else None,
        "iterations": run,
        "packages": frozen.stdout.split(),
    }


def run_script(python: Path, peer: Peer, task: Task, folder: Path) -> dict[str, Any]:
    """What the peer's script says (`benchmarks.peers.task.Run`). Raises CalledProcessError if it fails."""
    rows, out = folder / "task.npz", folder / "out.json"
    task.save(rows)
    command: list[Path | str] = [python, Path(__file__).parent / f"{peer.script}.py", rows, out, *peer.arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=folder, env=variables)
    said: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return said


def twin_weights(task: Task) -> Floats:
    """The same steps in the clear: (features + 1,)."""
    return np.array(descend(task, task.clear_gradient, {}).weights)


def run_ours(ours: Ours, config: Config) -> dict[str, Any]:
    """The training of `mhe train`, but all parties as threads of this process, so that its CPU time is theirs."""
    source = config.source
    shards = pooled(source, ours.parties)
    summaries = [summary(shard, source.target) for shard in shards]
    target = check_summaries(summaries, source.target)
    plan = make_plan(config, summaries, target.outputs)
    task = make_task(config)
    standard = _standard(stack(shards))
    rows = [(standard(shard.features), code(shard, target).labels[:, None]) for shard in shards]
    measured = measure(plan, model_of, config.crypto.backend, rows)
    weights, p = measured.weights[:, 0], plan.parameters
    return {
        "seconds_per_iteration": median(measured.wall_seconds),
        "cpu_seconds_per_iteration": ours.parties * median(measured.cpu_seconds),
        "accuracy": task.accuracy(weights),
        "max_weight_error": float(np.abs(weights - twin_weights(task)).max()),
        "iterations": {
            "seconds": measured.wall_seconds,
            "cpu_seconds": [ours.parties * each for each in measured.cpu_seconds],
            "settings": {
                "backend": config.crypto.backend,
                "ring_dim": p.ring_dim,
                "limb_bits": [round(math.log2(q)) for q in p.moduli],
                "special_bits": [round(math.log2(q)) for q in p.special_moduli],
                "security_bits": config.crypto.security_bits,
            },
        },
    }


def run(names: Sequence[str], record: Callable[[str, dict[str, Any]], None]) -> None:
    """Each in turn, recorded as soon as it is done."""
    config = load_config(CONFIG)
    task = make_task(config)
    for name in names:
        peer = PEERS[name]
        before = {**environment(), "load_average": round(os.getloadavg()[0], 2), "nice": os.nice(0)}
        figures = run_ours(peer, config) if isinstance(peer, Ours) else run_peer(peer, task)
        task_in_words = {"config": f"configs/{CONFIG.name}", **asdict(task.settings), "rows": len(task.y)}
        record(
            name,
            {
                "peer": name,
                "protects": peer.protects,
                "rows_leave": peer.rows_leave,
                "task": task_in_words,
                "environment": before,
                **figures,
            },
        )


def _write(name: str, record: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"peer-{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"All, or some of {', '.join(PEERS)}.")] = None,
) -> None:
    """Install, run and record."""
    unknown = [name for name in names or () if name not in PEERS]
    if unknown:
        raise typer.BadParameter(f"no peer {unknown[0]!r}; have {', '.join(PEERS)}")
    run(names or list(PEERS), _write)


if __name__ == "__main__":
    typer.run(main)
