"""What a run leaves behind: result.json, metrics.jsonl, model.npz, and the table at the end."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from models.activations import sigmoid
from models.metrics import Quality
from models.plan import CircuitPlan
from models.reference import LinearModel
from models.training import Iteration, Standardisation
from network.collective import TreeCollective
from network.topology import Tree
from network.traffic import predict
from scripts.config import Config


@dataclass(frozen=True)
class Usage:
    """What one party spent over the whole run, by phase, and for one whole iteration with its refresh."""

    cpu_seconds: float
    bytes_sent: int
    bytes_received: int
    rounds: int
    peak_rss_mib: float
    iteration: Mapping[str, float] | None
    phases: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Clear:
    """The clear twin, its quality and that of scikit-learn's optimum; widest: largest |X v| that the polynomial saw."""

    twin: LinearModel
    twin_quality: Quality
    exact_quality: Quality
    widest: float


@dataclass(frozen=True)
class Outcome:
    """Everything that a party knows at the end of a run."""

    config: Config
    plan: CircuitPlan
    summaries: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float]
    usages: Sequence[Usage]
    model: LinearModel | None
    quality: Quality | None
    clear: Clear | None

    @property
    def max_weight_error(self) -> float | None:
        """Largest difference of a released weight, intercept included, from the clear twin's."""
        if self.model is None or self.clear is None:
            return None
        coefficients = np.abs(self.model.coef - self.clear.twin.coef).max()
        return float(max(coefficients, abs(self.model.intercept - self.clear.twin.intercept)))


def usage(collective: TreeCollective, iteration: Mapping[str, float] | None) -> dict[str, Any]:
    """The fields of `Usage`: this process's spending so far."""
    phases = collective.metrics.snapshot()
    total = {name: sum(phase[name] for phase in phases.values()) for name in ("bytes_sent", "bytes_received", "rounds")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu_seconds": time.process_time(), **total, "peak_rss_mib": peak, "iteration": iteration, "phases": phases}


def iteration_line(iteration: Iteration, before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """One line of metrics.jsonl: the root's view."""
    record = {
        "iteration": iteration.number,
        "seconds": round(iteration.seconds, 4),
        "bytes_sent": after["bytes_sent"] - before["bytes_sent"],
        "bytes_received": after["bytes_received"] - before["bytes_received"],
        "levels": iteration.levels,
    }
    return json.dumps(record) + "\n"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The content of result.json; the README documents it, and it is stable."""
    plan, config, p = outcome.plan, outcome.config, outcome.plan.parameters
    tree = Tree(p.n_parties, config.network.arity, config.network.root)
    found, clear = outcome.quality, outcome.clear
    return {
        "model": config.model.kind,
        "parties": p.n_parties,
        "rows_train": sum(plan.workload.rows),
        "rows_test": sum(s["test_rows"] for s in outcome.summaries),
        "features": plan.workload.features,
        "parameters": {
            "ring_dim": p.ring_dim,
            "log_qp": round(p.log_qp, 2),
            "scale_bits": p.scale_bits,
            "limb_bits": [round(math.log2(q)) for q in p.moduli],
            "special_bits": [round(math.log2(q)) for q in p.special_moduli],
            "digits": p.digits,
            "depth": p.depth,
            "security_bits": p.security_bits,
            "statistical_bits": p.statistical_bits,
            "backend": config.crypto.backend,
        },
        "iterations": plan.workload.iterations,
        "seconds": {name: round(value, 3) for name, value in outcome.seconds.items()},
        "per_party": [asdict(u) for u in outcome.usages],
        "accuracy": None if found is None else found.accuracy,
        "auc": None if found is None else found.auc,
        "clear_twin": None if clear is None else _scores(clear.twin_quality),
        "exact": None if clear is None else _scores(clear.exact_quality),
        "max_weight_error": outcome.max_weight_error,
        "predicted": {
            "max_weight_error": plan.precision.weight_error,
            "iteration": [asdict(predict(tree, rank, plan.iteration_transfers)) for rank in range(p.n_parties)],
        },
        "sigmoid": {
            "interval": list(plan.workload.link.interval),
            "max_error": plan.workload.link.max_error,
            "widest_input": None if clear is None else clear.widest,
        },
    }


def _scores(quality: Quality) -> dict[str, float | None]:
    return {"accuracy": quality.accuracy, "auc": quality.auc}


def write_result(out: Path, outcome: Outcome) -> None:
    (out / "result.json").write_text(json.dumps(as_json(outcome), indent=2) + "\n", encoding="utf-8")


def write_predictions(out: Path, rank: int, logits: npt.NDArray[np.float64]) -> None:
    """This party's own predictions, in the order of its test rows: row (from 1), logit, probability, class."""
    out.mkdir(parents=True, exist_ok=True)
    lines = ["row,logit,probability,predicted"]
    for row, (logit, probability) in enumerate(zip(logits, sigmoid(logits), strict=True), start=1):
        lines.append(f"{row},{logit:.6g},{probability:.6g},{int(logit > 0)}")
    (out / f"predictions-{rank}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_model(out: Path, model: LinearModel, standard: Standardisation) -> None:
    """coef (1, features) and intercept (1,) on standardised features, which are (x - mean) / scale."""
    np.savez(
        out / "model.npz",
        coef=model.coef[None],
        intercept=np.array([model.intercept]),
        mean=standard.mean,
        scale=standard.scale,
    )


def print_table(console: Console, outcome: Outcome, out: Path) -> None:
    """The run in one table: quality encrypted, in the clear and at the optimum; time; traffic, measured and
    predicted.
    """
    found, clear, plan = outcome.quality, outcome.clear, outcome.plan
    tree = Tree(plan.workload.n_parties, outcome.config.network.arity, outcome.config.network.root)
    table = Table(title="result", title_justify="left", box=None, pad_edge=False)
    for name in ("", "encrypted", "clear twin", "exact optimum"):
        table.add_column(name, justify="left" if not name else "right")
    columns = (found, *((None, None) if clear is None else (clear.twin_quality, clear.exact_quality)))
    table.add_row("accuracy", *(_percent(None if q is None else q.accuracy) for q in columns))
    table.add_row("AUC", *(_number(None if q is None else q.auc) for q in columns))
    console.print(table)
    if outcome.max_weight_error is not None:
        console.print(
            f"largest weight error against the twin: {outcome.max_weight_error:.1e} "
            f"(planned: {plan.precision.weight_error:.1e})"
        )
    largest = 0.0 if outcome.model is None else float(np.abs(outcome.model.coef).max())
    if largest > outcome.config.crypto.message_bound:
        console.print(
            f"[yellow]warning: a weight is {largest:.3g}, beyond message_bound: the training has diverged; lower "
            "learning_rate or momentum, or widen \\[model] interval[/yellow]"
        )
    if clear is not None:
        low, high = plan.workload.link.interval
        if clear.widest > max(-low, high):
            console.print(
                f"[yellow]warning: inputs of the sigmoid reached {clear.widest:.1f}, outside its interval "
                f"\\[{low:g}, {high:g}]: widen \\[model] interval, or lower learning_rate[/yellow]"
            )
    s = outcome.seconds
    console.print(
        f"set-up {s['setup']:.1f} s, training {s['training']:.1f} s ({s['per_iteration']:.2f} s per iteration), "
        f"release {s['release']:.1f} s"
    )
    parties = Table(box=None, pad_edge=False)
    for name in ("party", "CPU s", "sent MB", "received MB", "rounds", "peak MiB", "iteration sent MB", "planned MB"):
        parties.add_column(name, justify="right")
    for rank, u in enumerate(outcome.usages):
        planned = predict(tree, rank, plan.iteration_transfers).bytes_sent / 1e6
        real = u.iteration is not None and outcome.config.crypto.backend != "clear"
        one = f"{u.iteration['bytes_sent'] / 1e6:.3f}" if u.iteration is not None and real else "-"
        sent, received = f"{u.bytes_sent / 1e6:.1f}", f"{u.bytes_received / 1e6:.1f}"
        parties.add_row(
            str(rank),
            f"{u.cpu_seconds:.1f}",
            sent,
            received,
            str(u.rounds),
            f"{u.peak_rss_mib:.0f}",
            one,
            f"{planned:.3f}",
        )
    console.print(parties)
    console.print(f"written to {out}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
