"""What a run leaves behind: result.json, metrics.jsonl, model.npz, and the table at the end."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from models.activations import sigmoid
from models.mlp_plan import PerceptronPlan
from models.model import Plan
from models.quality import NAMES, Figures
from models.range_probe import InputRange
from models.target import Target
from models.training import INVERSE, Iteration, Standardisation
from network.collective import TreeCollective
from network.topology import Tree
from network.traffic import predict
from scripts.config import Config

Floats = npt.NDArray[np.float64]

LABELS = {"auc": "AUC", "r2": "R2", "rmse": "RMSE"}
"""How a figure is called in the table, where not by its name."""


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
    """The clear twin's weights, its quality and that of scikit-learn; widest: largest input of a polynomial."""

    twin: Sequence[Floats]
    twin_figures: Figures
    exact_figures: Figures
    widest: float


@dataclass(frozen=True)
class Outcome:
    """Everything that a party knows at the end of a run."""

    config: Config
    plan: Plan
    tree: Tree
    target: Target
    summaries: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float]
    usages: Sequence[Usage]
    weights: Sequence[Floats] | None
    figures: Figures | None
    clear: Clear | None
    ranges: Sequence[InputRange]

    @property
    def max_weight_error(self) -> float | None:
        """Largest difference of a released weight, intercepts included, from the clear twin's."""
        if self.weights is None or self.clear is None:
            return None
        return max(float(np.abs(w - t).max()) for w, t in zip(self.weights, self.clear.twin, strict=True))


def usage(collective: TreeCollective, iteration: Mapping[str, float] | None) -> dict[str, Any]:
    """The fields of `Usage`: this process's spending so far."""
    phases = collective.metrics.snapshot()
    total = {name: sum(phase[name] for phase in phases.values()) for name in ("bytes_sent", "bytes_received", "rounds")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = collective.host.cpu_seconds()
    return {"cpu_seconds": cpu, **total, "peak_rss_mib": peak, "iteration": iteration, "phases": phases}


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
    clear, nothing = outcome.clear, dict.fromkeys(NAMES[outcome.target.kind])
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
            **({"refresh": plan.points.names} if isinstance(plan, PerceptronPlan) else {}),
        },
        "iterations": plan.workload.iterations,
        "seconds": {name: round(value, 3) for name, value in outcome.seconds.items()},
        "per_party": [asdict(u) for u in outcome.usages],
        **(nothing if outcome.figures is None else outcome.figures),
        "clear_twin": None if clear is None else clear.twin_figures,
        "exact": None if clear is None else clear.exact_figures,
        "max_weight_error": outcome.max_weight_error,
        "predicted": {
            "max_weight_error": plan.precision.weight_error,
            "iteration": [asdict(predict(outcome.tree, rank, plan.iteration_transfers)) for rank in range(p.n_parties)],
        },
        "polynomials": {
            "interval": _interval(plan),
            "widest_input": None if clear is None else clear.widest,
            "probes": [{"iteration": r.iteration, "reach": r.reach, "outside": r.outside} for r in outcome.ranges],
        },
    }


def _interval(plan: Plan) -> list[float] | None:
    """Where all polynomials hold; None where there is none but the identity."""
    low, high = plan.network.interval
    return [low, high] if math.isfinite(low) else None


def write_result(out: Path, outcome: Outcome) -> None:
    (out / "result.json").write_text(json.dumps(as_json(outcome), indent=2) + "\n", encoding="utf-8")


def write_predictions(out: Path, rank: int, target: Target, scores: Floats) -> None:
    """This party's own predictions, in the order of its test rows: row (from 1), then what the label's kind calls for.

    binary: logit, probability, predicted (0 or 1). classes: a score of each, predicted. real: predicted. counts:
    predicted mean.
    """
    out.mkdir(parents=True, exist_ok=True)
    names, columns = _predictions(target, scores)
    lines = [",".join(("row", *names))]
    lines += [",".join((str(row), *(f"{x:.6g}" for x in cells))) for row, cells in enumerate(columns, start=1)]
    (out / f"predictions-{rank}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _predictions(target: Target, scores: Floats) -> tuple[tuple[str, ...], Floats]:
    first = scores[:, 0]
    if target.kind == "binary":
        return ("logit", "probability", "predicted"), np.column_stack([first, sigmoid(first), first > 0])
    if target.kind == "classes":
        called = np.asarray(target.values)[scores.argmax(axis=1)]
        return (*(f"score_{v:g}" for v in target.values), "predicted"), np.column_stack([scores, called])
    return ("predicted",), np.column_stack([first if target.kind == "real" else np.exp(first)])


def write_model(
    out: Path, weights: Sequence[Floats], standard: Standardisation, target: Standardisation | None
) -> None:
    """coef (outputs, features) and intercept (outputs,) on standardised features, which are (x - mean) / scale.

    With hidden layers one of each a layer: coef_0, intercept_0, coef_1, ... target: of a standardised label, which is
    then what the model gives times label_scale, plus label_mean.
    """
    arrays: dict[str, Any] = {} if target is None else {"label_mean": target.mean, "label_scale": target.scale}
    for layer, w in enumerate(weights):
        suffix = f"_{layer}" if len(weights) > 1 else ""
        arrays["coef" + suffix], arrays["intercept" + suffix] = w[:-1].T, w[-1]
    np.savez(out / "model.npz", mean=standard.mean, scale=standard.scale, **arrays)


def print_table(console: Console, outcome: Outcome, out: Path) -> None:
    """The run in one table: quality encrypted, in the clear and at the optimum; time; traffic, measured and
    predicted.
    """
    clear, plan = outcome.clear, outcome.plan
    table = Table(title="result", title_justify="left", box=None, pad_edge=False)
    reference = "scikit-learn" if plan.network.hidden else "exact optimum"
    for name in ("", "encrypted", "clear twin", reference):
        table.add_column(name, justify="left" if not name else "right")
    columns = (outcome.figures, *((None, None) if clear is None else (clear.twin_figures, clear.exact_figures)))
    for name in NAMES[outcome.target.kind]:
        shown = _percent if name == "accuracy" else _number
        table.add_row(LABELS.get(name, name), *(shown(None if f is None else f[name]) for f in columns))
    console.print(table)
    if outcome.max_weight_error is not None:
        console.print(
            f"largest weight error against the twin: {outcome.max_weight_error:.1e} "
            f"(planned: {plan.precision.weight_error:.1e})"
        )
    largest = max((float(np.abs(w).max()) for w in outcome.weights or ()), default=0.0)
    if largest > outcome.config.crypto.message_bound:
        console.print(
            f"[yellow]warning: a weight is {largest:.3g}, beyond message_bound: the training has diverged, or needs a "
            "larger one; lower learning_rate or momentum, widen \\[model] interval, or raise it[/yellow]"
        )
    if clear is not None:
        low, high = plan.network.interval
        if clear.widest > max(-low, high):
            console.print(
                f"[yellow]warning: inputs of a polynomial reached {clear.widest:.1f}, outside its interval "
                f"\\[{low:g}, {high:g}]: widen \\[model] interval, or lower learning_rate[/yellow]"
            )
    s = outcome.seconds
    inverse = f"inverse {s[INVERSE]:.1f} s, " if INVERSE in s else ""
    console.print(
        f"set-up {s['setup']:.1f} s, {inverse}training {s['training']:.1f} s "
        f"({s['per_iteration']:.2f} s per iteration), release {s['release']:.1f} s"
    )
    parties = Table(box=None, pad_edge=False)
    for name in ("party", "CPU s", "sent MB", "received MB", "rounds", "peak MiB", "iteration sent MB", "planned MB"):
        parties.add_column(name, justify="right")
    for rank, u in enumerate(outcome.usages):
        planned = predict(outcome.tree, rank, plan.iteration_transfers).bytes_sent / 1e6
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
