"""`mhe bench scaling`: how cost grows with parties, rows, features, hidden units, batch and threads; refresh points.

Every point is a training of its own process, by `mhe bench cohosted` (many parties in one process, which it says), but
for those of several threads, which are one party's `mhe train`. Rows are made up; what is trained is the same but for
what the series varies.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cohosted import LINK, STAGES
from benchmarks.environment import environment

ROOT = Path(__file__).parents[1]

ITERATIONS = 3
"""Of which the first has its gradient in the clear, and the last no refresh."""

PARTIES, ROWS, FEATURES = 4, 1024, 8
"""Where the series varies something else. Rows are those of one party."""

BATCH_ROWS = 128
"""Of one party where the batch varies: each batch is packed on its own."""

STRONG_ROWS = 48 * 1024
"""Of all parties together."""

Settings = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Point:
    """One training of `parties` parties; x is what its series varies."""

    series: str
    x: int
    parties: int
    settings: Settings

    @property
    def threads(self) -> int:
        threads: int = self.settings.get("crypto", {}).get("threads", 1)
        return threads


def regression(parties: int, rows: int, features: int, **crypto: Any) -> Settings:
    """Logistic regression of so many rows at each party, one in sixteen to test on."""
    return {
        "data": _table(parties, rows, features),
        "model": {"kind": "logistic"},
        "training": {"solver": "nesterov", "iterations": ITERATIONS, "learning_rate": 0.5, "momentum": 0.5},
        **_common(crypto),
    }


def perceptron(parties: int, rows: int, features: int, hidden: int, batch: int, **crypto: Any) -> Settings:
    """The same by a perceptron of one hidden layer."""
    return {
        "data": _table(parties, rows, features),
        "model": {"kind": "mlp", "hidden": [hidden]},
        "training": {
            "solver": "nesterov",
            "iterations": ITERATIONS,
            "learning_rate": 0.2,
            "momentum": 0.5,
            "batch": batch,
        },
        **_common(crypto),
    }


def _table(parties: int, rows: int, features: int) -> dict[str, Any]:
    train = f"synthetic:logistic?rows={parties * rows}&features={features}&correlation=0.3"
    return {"train": train, "label": "y", "test_fraction": 1 / 16}


def _common(crypto: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {
        "crypto": {"ring_dim": 1 << 15, "message_bound": 16, **crypto},
        "audit": {"clear_twin": False},
        "release": {"precision": 0.1},
    }


def points() -> list[Point]:
    """All of them."""
    weak = [Point("parties", n, n, regression(n, ROWS, FEATURES)) for n in (3, 6, 12, 24, 48, 160)]
    strong = [Point("strong", n, n, regression(n, STRONG_ROWS // n, FEATURES)) for n in (3, 6, 12, 24, 48)]
    rows = [Point("rows", n, PARTIES, regression(PARTIES, n, FEATURES)) for n in (1 << 10, 1 << 12, 1 << 14, 1 << 16)]
    features = [Point("features", d, PARTIES, regression(PARTIES, ROWS, d)) for d in (8, 32, 128, 512, 1024)]
    hidden = [Point("hidden", h, PARTIES, perceptron(PARTIES, ROWS, 32, h, 64)) for h in (8, 16, 32, 64)]
    batch = [Point("batch", b, PARTIES, perceptron(PARTIES, BATCH_ROWS, 32, 32, b)) for b in (1, 16, 64)]
    everywhere = {"refresh": ["errors", "gradients", "inputs"]}
    refreshed = [
        Point(series, n, n, perceptron(n, BATCH_ROWS, FEATURES, 64, 64, **crypto))
        for series, crypto in (("chosen", {}), ("everywhere", everywhere))
        for n in (3, 12, 36)
    ]
    threads = [Point("threads", k, 1, regression(1, 1 << 14, 64, threads=k)) for k in (1, 2)]
    return [*weak, *strong, *rows, *features, *hidden, *batch, *refreshed, *threads]


def run_point(point: Point, at_once: int) -> dict[str, Any]:
    """The record of one point: series, x, the configuration, and what `benchmarks.cohosted` records of a run.

    Raises CalledProcessError if the run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        config, target = Path(folder) / "point.toml", Path(folder) / "point.json"
        config.write_text(toml(point.settings), encoding="utf-8")
        if point.threads > 1:
            record = _apart(config, Path(folder) / "out", point.parties)
        else:
            counts = ["--parties", str(point.parties), "--at-once", str(at_once)]
            _run(["bench", "cohosted", str(config), *counts, "--link", LINK, "--json", str(target)])
            record = json.loads(target.read_text(encoding="utf-8"))
    record.pop("environment", None)
    record.pop("command", None)
    return {"series": point.series, "x": point.x, "settings": toml(point.settings), **record}


def _apart(config: Path, out: Path, parties: int) -> dict[str, Any]:
    """The same figures of an `mhe train`, every party in a process of its own."""
    _run(["train", str(config), "--parties", str(parties), "--out", str(out)])
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    usages = result.pop("per_party")
    stages = {}
    for stage, phases in STAGES.items():
        cpu = [sum(u["phases"][p]["cpu_seconds"] for p in phases if p in u["phases"]) for u in usages]
        wall = [sum(u["phases"][p]["wall_seconds"] for p in phases if p in u["phases"]) for u in usages]
        stages[stage] = {
            "cpu_seconds": {"mean": sum(cpu) / len(cpu), "max": max(cpu), "root": cpu[0]},
            "wall_seconds": max(wall),
        }
    return {
        "hosting": {"parties": parties, "processes": parties, "at_once": parties, "label": "one process each"},
        "process": {"peak_rss_mib": round(max(u["peak_rss_mib"] for u in usages))},
        "stages": stages,
        "result": result,
    }


def _run(arguments: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-m", "scripts.cli", *arguments], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def toml(settings: Settings) -> str:
    """Sections of strings, numbers and lists, which are written in TOML as in JSON."""
    return "".join(
        f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        for section, keys in settings.items()
    )


def run(chosen: Sequence[str], at_once: int, json_file: Path) -> None:
    """Measure the chosen series (all where none is named), and write each point to the file as soon as it is there.

    What the file holds of other series stays.
    """
    document: dict[str, Any] = {"points": []}
    if json_file.exists():
        document = json.loads(json_file.read_text(encoding="utf-8"))
    for point in points():
        if chosen and point.series not in chosen:
            continue
        print(f"{point.series} {point.x}: {point.parties} parties ...", flush=True)
        record = {**run_point(point, at_once), "environment": environment()}
        others = [p for p in document["points"] if (p["series"], p["x"]) != (point.series, point.x)]
        document["points"] = [*others, record]
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
