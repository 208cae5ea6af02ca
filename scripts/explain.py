"""`mhe plan`: the plan that a run would take, what others would cost, and what every constraint costs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mhe.errors import ConfigError, ParameterError
from models.choice import Choice, shape_of
from models.mlp_plan import PerceptronPlan
from models.model import Plan
from models.newton_plan import FixedHessianPlan
from models.refresh_points import ALL_POINTS
from models.search import is_missed
from models.workload import Workload
from network.link import Link
from network.topology import Tree, sensible_arities
from scripts.calibration import calibrate, fingerprint, units
from scripts.config import Config
from scripts.describe import describe, seconds
from scripts.forecast import Forecast
from scripts.goal import Goal
from scripts.planning import best_plans, choice_of, goal_of, shown_bytes, workload_of
from scripts.progress import make_console
from scripts.sections import LEAST_STATISTICAL_BITS
from scripts.train import read_summaries

ALTERNATIVES = 3

OTHER_SECURITY = {128: 192, 192: 128}
FEW_STATISTICAL_BITS, MANY_STATISTICAL_BITS = 40, 128
"""Of the masks of a refresh: what is compared with what is asked for."""

RELEASE_STEP_BITS = 10
PRECISION_STEP = 10.0


@dataclass(frozen=True)
class Variant:
    """The best plan if one constraint were another one; None, and the problem, if there is none. costs: how many times
    as much as the chosen plan it costs, of what the search makes small.
    """

    constraint: str
    instead: str
    forecast: Forecast | None
    costs: float = math.nan
    problem: str = ""


@dataclass(frozen=True)
class Explanation:
    """The plan that was chosen, others, and what constraints cost. arities: the chosen plan over other trees."""

    config: Config
    forecast: Forecast
    others: tuple[Forecast, ...]
    variants: tuple[Variant, ...]
    arities: Mapping[int, Forecast]
    goal: Goal


def plan(
    config: Config,
    n_parties: int,
    *,
    link: Link | None = None,
    objective: str | None = None,
    measure: bool = False,
    json_file: Path | None = None,
) -> None:
    """Print the plan of a run of this many parties; reads the tables that are here, generates no key."""
    console = make_console(quiet=False)
    if objective is not None:
        config = config.model_copy(update={"crypto": config.crypto.model_copy(update={"objective": objective})})
    if json_file is not None and not (folder := json_file.absolute().parent).is_dir():
        raise ConfigError(f"--json {json_file}: there is no folder {folder}; create it, or name another file")
    summaries, target = read_summaries(config, n_parties)
    costs = calibrate(console.print) if measure else units()
    goal = goal_of(config, n_parties, costs, link)
    found = explain(config, workload_of(config, summaries, target.outputs), goal)
    describe(found.forecast, config, console)
    _print(found, console)
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(found), indent=1) + "\n", encoding="utf-8")


def explain(config: Config, workload: Workload, goal: Goal) -> Explanation:
    """Raises ParameterError, naming the binding constraint, if nothing keeps them all."""
    choice = choice_of(config)
    chosen, *others = (goal.forecast(p) for p in best_plans(workload, choice, config, 1 + ALTERNATIVES, goal))
    variants = []
    for constraint, instead, task, other, aim in _constraints(workload, choice, goal, chosen):
        try:
            best = best_plans(task, other, config, 1, aim)[0]
            found = aim.forecast(best)
            variants.append(Variant(constraint, instead, found, aim.cost(found) / aim.cost(chosen)))
        except ParameterError as error:
            variants.append(Variant(constraint, instead, None, problem=str(error)))
    n, root = chosen.tree.n_parties, chosen.tree.root
    arities = {arity: chosen.over(Tree(n, arity, root)) for arity in sorted({*sensible_arities(n), chosen.tree.arity})}
    return Explanation(config, chosen, tuple(others), tuple(variants), arities, goal)


def _constraints(
    workload: Workload, choice: Choice, goal: Goal, chosen: Forecast
) -> Iterator[tuple[str, str, Workload, Choice, Goal]]:
    """(a constraint, what it is instead, the same with that) for everything that costs something."""
    for constraint, instead, task, other in _relaxed(workload, choice, chosen.plan):
        yield constraint, instead, task, other, goal
    limit, half = goal.memory_limit, chosen.most_memory_bytes // 2
    now = "memory without a limit" if limit is None else f"memory {shown_bytes(limit)}"
    if limit is not None:
        yield now, "without a limit", workload, choice, replace(goal, memory_limit=None)
    yield now, f"{shown_bytes(half)}, half of the chosen plan's", workload, choice, replace(goal, memory_limit=half)


def _relaxed(workload: Workload, choice: Choice, plan: Plan) -> Iterator[tuple[str, str, Workload, Choice]]:
    """(a constraint, what it is instead, the same with that) for all but memory."""
    bits = choice.statistical_bits
    other_bits = FEW_STATISTICAL_BITS if bits > FEW_STATISTICAL_BITS else MANY_STATISTICAL_BITS
    other_security = OTHER_SECURITY[choice.security_bits]
    yield (
        f"{choice.security_bits}-bit security", f"{other_security}-bit",
        workload, replace(choice, security_bits=other_security),
    )  # fmt: skip
    yield (
        f"{bits} statistical bits of refreshes", f"{other_bits}",
        workload, replace(choice, statistical_bits=other_bits),
    )  # fmt: skip
    fewer = workload.release_bits - RELEASE_STEP_BITS
    if workload.release != "nothing" and fewer >= LEAST_STATISTICAL_BITS:
        yield (
            f"{workload.release_bits} statistical bits of the release", f"{fewer}",
            replace(workload, release_bits=fewer), choice,
        )  # fmt: skip
    for factor in (PRECISION_STEP, 1 / PRECISION_STEP):
        wish = workload.precision * factor
        if wish < 1:
            yield f"precision {workload.precision:g}", f"{wish:g}", replace(workload, precision=wish), choice
    for name, left in (
        ("ring_dim", replace(choice, ring_dim=None)),
        ("first_bits", replace(choice, first_bits=None)),
        ("scale_bits", replace(choice, scale_bits=None)),
        ("digits", replace(choice, digits=None)),
        ("limbs", replace(choice, limbs=None)),
    ):
        if left != choice:
            yield f"{name} = {getattr(choice, name)}", "left to the plan", workload, left
    if choice.points is not None:
        yield f"{choice.points.left_out} not refreshed", "left to the plan", workload, replace(choice, points=None)
    elif plan.points != ALL_POINTS:
        some = plan.points.left_out
        yield f"{some} not refreshed", "all refreshed", workload, replace(choice, points=ALL_POINTS)
    if isinstance(plan, FixedHessianPlan) and workload.condition is not None:
        smaller = workload.condition / PRECISION_STEP
        yield f"condition {workload.condition:g}", f"{smaller:g}", replace(workload, condition=smaller), choice


def _print(found: Explanation, console: Console) -> None:
    chosen = found.forecast
    console.print()
    console.print(f"[bold]Chosen[/bold] for the least {found.goal.objective}, of all chains that fit:")
    table = Table(box=None, pad_edge=False)
    places = ("not refreshed",) if isinstance(chosen.plan, PerceptronPlan) else ()
    for name in ("", "ring", "limbs", "digits", "scale", "error", "iteration", "sent per party", "memory", *places):
        table.add_column(name, justify="left" if name in ("", *places) else "right", no_wrap=True)
    for name, forecast in (("chosen", chosen), *(("instead", each) for each in found.others)):
        table.add_row(name, *_row(forecast), *(forecast.plan.points.left_out for _ in places))
    console.print(table)
    console.print()
    console.print("[bold]What a constraint costs[/bold]")
    table = Table(box=None, pad_edge=False)
    figure = "sent per party" if found.goal.objective == "traffic" else "iteration"
    for name in ("constraint", "instead", "ring", figure, f"{found.goal.objective} differs", "error", "memory"):
        table.add_column(name, justify="left" if name in ("constraint", "instead") else "right")
    for variant in found.variants:
        if variant.forecast is None:
            table.add_row(variant.constraint, variant.instead, "", "impossible", "", "", "")
            continue
        new = variant.forecast
        change = variant.costs - 1
        memory = shown_bytes(new.most_memory_bytes)
        ring = f"2^{new.plan.parameters.ring_dim.bit_length() - 1}"
        difference = "none" if abs(change) < 5e-3 else f"{100 * change:+.0f} %"
        error = f"{new.plan.precision.released_error:.1g}" + (" (missed)" if is_missed(new.plan) else "")
        table.add_row(variant.constraint, variant.instead, ring, _figure(found.goal, new), difference, error, memory)
    console.print(table)
    problems = [(v.constraint, v.instead, v.problem) for v in found.variants if v.forecast is None]
    if problems:
        console.print()
        console.print("[bold]What is impossible[/bold]")
        for constraint, instead, problem in problems:
            console.print(f"{constraint}, {instead}: {problem}", markup=False)
    _print_arities(found, console)


def _print_arities(found: Explanation, console: Console) -> None:
    if len(found.arities) == 1:
        return
    goal, now = found.goal, found.forecast.tree.arity
    said = ", ".join(f"{arity}: {_figure(goal, each)}" for arity, each in found.arities.items())
    console.print()
    if found.config.network.arity == "auto":
        where = found.forecast.link or "parties that share the cores of one machine"
        console.print(f"[bold]Arity of the tree[/bold]: {now}, for the least {goal.objective} with {where}; {said}")
        return
    best = min(found.arities, key=lambda arity: goal.cost(found.arities[arity]))
    gain = goal.cost(found.arities[best]) < 0.99 * goal.cost(found.forecast)
    better = f'; \\[network] arity = "auto" takes the best, {best}' if gain else ""
    console.print(f"[bold]Iteration by arity of the tree[/bold] (now {now}): {said}{better}")


def _figure(goal: Goal, forecast: Forecast) -> str:
    """Of an iteration: bytes where the search makes those small, seconds otherwise."""
    if goal.objective == "traffic":
        return shown_bytes(forecast.most_iteration_bytes)
    return seconds(forecast.iteration_seconds)


def _row(forecast: Forecast) -> tuple[str, ...]:
    p = forecast.plan.parameters
    shape = shape_of(p)
    return (
        f"2^{p.ring_dim.bit_length() - 1}",
        f"{p.n_limbs} + {len(p.special_moduli)}",
        str(p.digits),
        f"2^{shape.scale_bits}",
        f"{forecast.plan.precision.released_error:.1g}",
        seconds(forecast.iteration_seconds),
        shown_bytes(forecast.most_iteration_bytes),
        shown_bytes(forecast.most_memory_bytes),
    )


def as_json(found: Explanation) -> dict[str, Any]:
    """Everything that is printed, as JSON."""
    return {
        "objective": found.goal.objective,
        "costs": found.forecast.units.source,
        "machine": dict(fingerprint()),
        "memory_limit": found.goal.memory_limit,
        "link": None if found.forecast.link is None else str(found.forecast.link),
        "chosen": forecast_as_json(found.forecast),
        "alternatives": [forecast_as_json(each) for each in found.others],
        "constraints": [
            {
                "constraint": v.constraint,
                "instead": v.instead,
                "plan": None if v.forecast is None else forecast_as_json(v.forecast),
                "problem": v.problem or None,
            }
            for v in found.variants
        ],
        "iteration_seconds_by_arity": {arity: each.iteration_seconds for arity, each in found.arities.items()},
    }


def forecast_as_json(forecast: Forecast) -> dict[str, Any]:
    """One plan and what it costs."""
    plan, p, ranks = forecast.plan, forecast.plan.parameters, range(forecast.tree.n_parties)
    return {
        "shape": asdict(shape_of(p)),
        "log_qp": round(p.log_qp, 2),
        "baby_steps": plan.layout.baby,
        "diagonals": plan.layout.n_diagonals,
        "refresh_points": asdict(plan.points),
        "security_bits": p.security_bits,
        "statistical_bits": p.statistical_bits,
        "release_bits": plan.workload.release_bits,
        "released_error": plan.precision.released_error,
        "arity": forecast.tree.arity,
        "iteration_seconds": forecast.iteration_seconds,
        "iteration_cpu_seconds": [forecast.cpu_seconds(r) for r in ranks],
        "encoding_seconds": forecast.encoding_seconds,
        "key_seconds": forecast.key_seconds,
        "preparation_seconds": forecast.preparation_seconds,
        "training_seconds": forecast.training_seconds,
        "iteration_bytes": [forecast.iteration_bytes(r) for r in ranks],
        "rounds": len(plan.iteration_transfers),
        "keeps_encoded_rows": [forecast.keeps_diagonals(r) for r in ranks],
        "memory_bytes": [forecast.memory_bytes(r) for r in ranks],
    }
