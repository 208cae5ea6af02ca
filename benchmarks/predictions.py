"""`python -m benchmarks.predictions`: what `mhe plan` foretells against what runs take, on small jobs of every kind.

Every job is one `mhe train` with its own processes, as a user would start it, foretold for this machine by the costs
that were measured on it (`mhe plan --calibrate`, made first where it was not). Compared are the medians of CPU seconds
and of wall time of an iteration, of all but the first and the last one, the bytes of one, the peak memory of every
party, and the largest weight error.

A machine that others use as well is not always equally fast. So some of the calibration is repeated before and after
every job, and its pace recorded beside the job: how many times as long as at the calibration the same operations take,
in CPU and in wall time. The ratios are given as they are, and as they would be had the machine kept its pace. What part
of it others took during the job is recorded, too (`benchmarks.load`): where that is more than a few percent, most wall
times say nothing but that of the fastest iteration, and the job is to be run again (--only).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.environment import environment
from benchmarks.load import Load, part_of_others
from benchmarks.scaling import Settings, toml
from benchmarks.together import Workers
from benchmarks.units import Pace, pace
from models.cost import DEFAULT_UNITS
from scripts.calibration import calibrate, units
from scripts.config import parse_config
from scripts.explain import forecast_as_json
from scripts.planning import goal_of, make_plan
from scripts.train import read_summaries

RESULT = Path(__file__).parent / "results" / "predictions.json"
ROOT = Path(__file__).parents[1]
ITERATIONS = 10
SHORT_ITERATIONS = 40
"""Where one takes a fraction of a second, so that what is measured lasts as long as elsewhere."""

PACE_ROUNDS = 2

KEY_PHASES = ("relin_key", "rotation_keys")
"""Of a run: in which evaluation keys are made."""


def _data(train: str, label: str) -> Mapping[str, Any]:
    return {"train": train, "label": label}


SHORT: Settings = {"training": {"iterations": SHORT_ITERATIONS, "learning_rate": 0.1}}
FEW_BITS: Settings = {"crypto": {"statistical_bits": 40}, "release": {"what": "nothing"}}

JOBS: Mapping[str, tuple[int, Settings]] = {
    "logistic": (4, {"data": _data("builtin:pima", "diabetes")}),
    "logistic, many rows": (2, {"data": _data("synthetic:logistic?rows=40000&features=16", "y")}),
    "logistic, 64 features": (
        5,
        {"data": _data("synthetic:logistic?rows=2000&features=64", "y"), "network": {"arity": 3}},
    ),
    "logistic, few bits": (3, {"data": _data("sklearn:breast_cancer", "target"), **SHORT, **FEW_BITS}),
    "linear": (
        3,
        {
            "data": _data("sklearn:diabetes", "target"),
            "model": {"kind": "linear"},
            "training": {"learning_rate": 0.1},
        },
    ),
    "linear, few bits": (
        2,
        {"data": _data("sklearn:diabetes", "target"), "model": {"kind": "linear"}, **SHORT, **FEW_BITS},
    ),
    "softmax": (
        2,
        {
            "data": _data("sklearn:digits", "target"),
            "model": {"kind": "softmax"},
            "training": {"batch": 64},
            "release": {"precision": 0.02},
        },
    ),
    "perceptron 9-64-2": (
        2,
        {
            "data": _data("builtin:bcw", "malignant"),
            "model": {"kind": "mlp", "hidden": [64]},
            "training": {"learning_rate": 0.1, "batch": 64},
            "release": {"statistical_bits": 30, "precision": 0.01},
        },
    ),
    "perceptron, little refreshed": (
        3,
        {
            "data": _data("builtin:pima", "diabetes"),
            "model": {"kind": "mlp", "hidden": [64]},
            "training": {"learning_rate": 0.1, "batch": 64},
            "crypto": {"refresh": []},
            "release": {"statistical_bits": 30, "precision": 0.01},
        },
    ),
    "newton": (
        3,
        {
            "data": _data("synthetic:logistic?rows=4000&features=16", "y"),
            "training": {"solver": "newton"},
            "release": {"precision": 0.01},
        },
    ),
}
"""Parties and configuration; each has ITERATIONS iterations, where it says nothing else."""


def run_job(parties: int, given: Settings, pace: Callable[[], Pace]) -> dict[str, Any]:
    """One run: what was foretold, what was measured, their ratios, and the part of the machine that others took.

    pace: of the machine at the moment. Raises CalledProcessError if it fails.
    """
    settings = {**given, "training": {"iterations": ITERATIONS, **given.get("training", {})}}
    config = parse_config(settings)
    summaries, target = read_summaries(config, parties)
    goal = goal_of(config, parties, units())
    plan = make_plan(config, summaries, target.outputs, goal=goal)
    forecast = goal.forecast(plan)
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "job.toml", Path(folder) / "out"
        path.write_text(toml(settings), encoding="utf-8")
        command = ["train", str(path), "--parties", str(parties), "--out", str(out)]
        before, start = pace(), Load.now()
        subprocess.run([sys.executable, "-m", "scripts.cli", *command], check=True, cwd=ROOT)
        others = Load.now().others_since(start)
        paces = {"before": before, "after": pace()}
        result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    # iterations differ, as long as there are batches to be encoded
    compared = range(2, plan.workload.iterations)
    ranks = range(parties)
    predicted = {
        **forecast_as_json(forecast),
        "iteration_seconds": median(map(forecast.seconds_of, compared)),
        "fastest_iteration_seconds": min(map(forecast.seconds_of, compared)),
        "iteration_cpu_seconds": [median(forecast.cpu_seconds_of(r, n) for n in compared) for r in ranks],
        "max_weight_error": plan.precision.weight_error,
    }
    usages, walls = result["per_party"], [json.loads(line)["seconds"] for line in lines[1:-1]]
    measured = {
        "iteration_seconds": median(walls),
        "fastest_iteration_seconds": min(walls),
        "iteration_cpu_seconds": [u["iteration"]["cpu_seconds"] for u in usages],
        "iteration_bytes": [u["iteration"]["bytes_sent"] for u in usages],
        "memory_bytes": [u["peak_rss_mib"] * 2**20 for u in usages],
        "key_seconds": max(sum(u["phases"][name]["wall_seconds"] for name in KEY_PHASES) for u in usages),
        "training_seconds": result["seconds"]["training"],
        "max_weight_error": result["max_weight_error"],
    }
    plain = ratios(predicted, measured)
    found = {
        "parties": parties,
        "config": settings,
        "predicted": predicted,
        "measured": measured,
        "others": others,
        "pace": {when: each._asdict() for when, each in paces.items()},
    }
    usual = Pace(*map(mean, zip(*paces.values(), strict=True)))
    return {**found, "ratios": plain, "ratios_at_pace": at_pace(plain, usual)}


def ratios(predicted: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, float | None]:
    """Predicted over measured: of lists, of the worst party, which is the one farthest from 1."""
    return {name: _ratio(predicted[name], value) for name, value in measured.items()}


def at_pace(found: Mapping[str, float | None], pace: Pace) -> dict[str, float | None]:
    """The ratios of times, had the machine been as fast during the job as when it was calibrated."""
    factors = {name: pace.cpu if "cpu" in name else pace.wall for name in found if name.endswith("seconds")}
    return {name: None if (r := found[name]) is None else round(r * factor, 4) for name, factor in factors.items()}


def _ratio(predicted: Any, measured: Any) -> float | None:
    if not isinstance(measured, list):
        predicted, measured = [predicted], [measured]
    found: list[float] = [float(p) / float(m) for p, m in zip(predicted, measured, strict=True) if m]
    if not found:
        return None
    worst: float = max(found, key=_distance)
    return round(worst, 4)


def _distance(ratio: float) -> float:
    return max(ratio, 1 / ratio)


COLUMNS = (
    "job", "parties", "ring", "CPU", "wall", "fastest", "training", "bytes", "memory", "weight error", "CPU at pace",
    "others",
)  # fmt: skip
RATIOS = (
    "iteration_cpu_seconds", "iteration_seconds", "fastest_iteration_seconds", "training_seconds", "iteration_bytes",
    "memory_bytes", "max_weight_error",
)  # fmt: skip


def rows_of(jobs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Predicted over measured, of every job, under COLUMNS."""
    rows = []
    for job in jobs:
        ring = f"2^{job['predicted']['shape']['ring_dim'].bit_length() - 1}"
        ratios = [*(job["ratios"].get(name) for name in RATIOS), job["ratios_at_pace"]["iteration_cpu_seconds"]]
        shown = ("-" if r is None else f"{r:.2f}" for r in ratios)
        rows.append((job["job"], str(job["parties"]), ring, *shown, part_of_others(job)))
    return rows


def print_table(jobs: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for row in rows_of(jobs):
        table.add_row(*row)
    console.print(table)


def main(
    into: Annotated[Path, typer.Option(help="File for the results.")] = RESULT,
    only: Annotated[list[str] | None, typer.Option(help="Jobs to run, all by default; may be repeated.")] = None,
) -> None:
    """Run the jobs, print all that the file holds, and write {jobs}; those in it that are not run stay."""
    before, console = environment(), Console()
    if units() is DEFAULT_UNITS:
        calibrate(console.print)
    jobs: dict[str, Mapping[str, Any]] = {}
    if only and into.exists():
        jobs = {job["job"]: job for job in json.loads(into.read_text(encoding="utf-8"))["jobs"]}
    costs = units()
    with Workers("benchmarks.units") as workers:
        for name in only or JOBS:
            console.print(f"[bold]{name}[/bold]")
            found = run_job(*JOBS[name], lambda: pace(workers, costs, PACE_ROUNDS))
            jobs[name] = {"job": name, "environment": before, "costs": costs.source, **found}
            document = {"jobs": list(jobs.values())}
            into.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print_table(list(jobs.values()), console)


if __name__ == "__main__":
    typer.run(main)
