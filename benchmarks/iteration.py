"""`mhe bench iteration`: one encrypted iteration of logistic regression, native against OpenFHE, end to end.

PARTIES parties with ROWS synthetic rows of FEATURES features each, every party its own process under mpiexec, as
`mhe train` starts them. The backends take turns. Each has the parameters that its own plan chooses, at the same
security, statistical bits and precision; both sets are recorded.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.environment import environment

PARTIES, ROWS, FEATURES = 4, 8192, 64
BACKENDS = ("openfhe", "native")
GOAL = 4.0
"""How many times faster than OpenFHE an iteration of the native evaluator is meant to be."""

ROOT = Path(__file__).parents[1]

CONFIG = """[data]
train = "site{{party}}.csv"
label = "y"
test_fraction = 0.0
[training]
iterations = {iterations}
learning_rate = 1.0
[audit]
clear_twin = true
[crypto]
backend = "{backend}"
"""


def write_tables(folder: Path, rows: int) -> None:
    """site0.csv, site1.csv, ...: rows from one noisy linear model, the same at every call."""
    random = np.random.default_rng(0)
    weights = random.normal(size=FEATURES) / FEATURES**0.5
    header = ",".join([*(f"x{i}" for i in range(FEATURES)), "y"])
    for party in range(PARTIES):
        x = random.normal(size=(rows, FEATURES))
        y = x @ weights + random.logistic(size=rows) > 0
        np.savetxt(
            folder / f"site{party}.csv", np.column_stack([x, y]), fmt="%.6g", delimiter=",", header=header, comments=""
        )


def run_once(folder: Path, backend: str, iterations: int) -> dict[str, Any]:
    """One `mhe train`: seconds of each iteration, and what result.json says of it. CalledProcessError if it fails."""
    settings, out = folder / f"{backend}.toml", folder / f"out-{backend}"
    settings.write_text(CONFIG.format(backend=backend, iterations=iterations), encoding="utf-8")
    command = ["train", str(settings), "--parties", str(PARTIES), "--out", str(out), "--force"]
    subprocess.run([sys.executable, "-m", "scripts.cli", *command], check=True, cwd=ROOT)
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "backend": backend,
        "iterations": [json.loads(line)["seconds"] for line in lines],
        "seconds": result["seconds"],
        "cpu_seconds": [party["cpu_seconds"] for party in result["per_party"]],
        "parameters": result["parameters"],
        "max_weight_error": result["max_weight_error"],
        "planned_weight_error": result["predicted"]["max_weight_error"],
    }


def run(rounds: int, iterations: int, json_file: Path | None, rows: int = ROWS) -> dict[str, Any]:
    """Measure, print, and write {environment, job, runs, seconds_per_iteration, ratio}.

    Seconds of an iteration: the median over all runs' iterations but their first, which encodes the rows, and their
    last, which has no refresh.
    """
    before = environment()
    with tempfile.TemporaryDirectory() as name:
        write_tables(Path(name), rows)
        runs = [run_once(Path(name), backend, iterations) for _ in range(rounds) for backend in BACKENDS]
    seconds = {b: median(s for r in runs if r["backend"] == b for s in r["iterations"][1:-1]) for b in BACKENDS}
    whole = {b: median(r["seconds"]["per_iteration"] for r in runs if r["backend"] == b) for b in BACKENDS}
    document = {
        "environment": before,
        "job": {"parties": PARTIES, "rows_per_party": rows, "features": FEATURES, "iterations": iterations},
        "runs": runs,
        "seconds_per_iteration": seconds,
        "seconds_per_iteration_with_encoding": whole,
        "ratio": seconds["openfhe"] / seconds["native"],
        "ratio_with_encoding": whole["openfhe"] / whole["native"],
        "goal": GOAL,
    }
    _print(document)
    if json_file is not None:
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return document


def _print(document: dict[str, Any]) -> None:
    console = Console()
    table = Table("backend", "s / iteration", "with encoding", "weight error", "planned", box=None, pad_edge=False)
    last = {r["backend"]: r for r in document["runs"]}
    for backend, r in last.items():
        table.add_row(
            backend,
            f"{document['seconds_per_iteration'][backend]:.2f}",
            f"{document['seconds_per_iteration_with_encoding'][backend]:.2f}",
            f"{r['max_weight_error']:.1e}",
            f"{r['planned_weight_error']:.1e}",
        )
    console.print(table)
    for backend, r in last.items():
        console.print(f"{backend}: {json.dumps(r['parameters'])}")
    console.print(
        f"native is {document['ratio']:.2f} times faster, {document['ratio_with_encoding']:.2f} with the encoding of "
        f"the rows spread over all iterations (goal {GOAL:g})"
    )
