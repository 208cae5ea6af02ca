"""Whole training runs, measured and recorded: `python -m benchmarks.jobs [--config FILE ...] [--parties N ...]`.

Each job is one `mhe train` with its own processes, as a user would start it. Its result.json is kept with the
environment under benchmarks/results; `python -m benchmarks.report` makes the tables of docs/benchmarks.md from there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.environment import environment
from benchmarks.load import Load

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]


def run_job(config: Path, parties: int, arity: int) -> dict[str, Any]:
    """The recorded result of one run: job, command line, environment, and result.json under "result". others: the part
    of the machine that was busy with something else (`benchmarks.load`).

    Raises CalledProcessError if the run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / config.name
        settings.write_text(_with_arity(config.read_text(encoding="utf-8"), arity), encoding="utf-8")
        out = Path(folder) / "out"
        command = ["train", str(settings), "--parties", str(parties), "--out", str(out)]
        start = Load.now()
        subprocess.run([sys.executable, "-m", "scripts.cli", *command], check=True, cwd=ROOT)
        others = Load.now().others_since(start)
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    for party in result["per_party"]:
        del party["phases"]
    return {
        "job": config.stem,
        "arity": arity,
        "command": f"mhe train configs/{config.name} --parties {parties} --out DIR   # [network] arity = {arity}",
        "others": others,
        "environment": environment(),
        "result": result,
    }


def _with_arity(text: str, arity: int) -> str:
    """The same configuration with another arity of the tree."""
    lines = [line for line in text.splitlines() if not line.startswith("arity")]
    if "[network]" not in lines:
        lines.append("[network]")
    lines.insert(lines.index("[network]") + 1, f"arity = {arity}")
    return "\n".join(lines) + "\n"


def main(
    config: Annotated[list[Path], typer.Option(help="Configuration; may be repeated.")],
    parties: Annotated[list[int], typer.Option(help="Number of parties; may be repeated.")],
    arity: Annotated[list[int], typer.Option(help="Children per party; may be repeated.")],
) -> None:
    """Run every combination and record each."""
    RESULTS.mkdir(exist_ok=True)
    for one in config:
        for n in parties:
            for k in _distinct_arities(arity, n):
                record = run_job(one, n, k)
                name = f"{one.stem}-{n}-parties-arity-{k}.json"
                (RESULTS / name).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _distinct_arities(arities: Sequence[int], n_parties: int) -> list[int]:
    """Arities that give different trees: with so few parties that all are children of the root, one is enough."""
    return list(dict.fromkeys(min(k, max(n_parties - 1, 1)) for k in arities)) if n_parties > 1 else [arities[0]]


if __name__ == "__main__":
    typer.run(main)
