"""A plan in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from mhe.collective import Transfer
from mhe.security import smudging_std
from models.activations import Polynomial
from models.mlp_plan import PerceptronPlan
from models.model import Plan
from models.newton_plan import FixedHessianPlan
from models.plan import CircuitPlan
from models.range_probe import range_probe
from models.search import asked_of, is_missed
from network.topology import Tree
from network.traffic import predict
from scripts.config import Config
from scripts.forecast import Forecast
from scripts.planning import shown_bytes


def describe(forecast: Forecast, config: Config, console: Console) -> None:
    """Print everything that is known about the run before it starts."""
    plan, tree = forecast.plan, forecast.tree
    w, p = plan.workload, plan.parameters
    batch = "all rows" if w.batch is None else f"{w.batch} rows per party"
    last = plan.low_limbs
    parties = _number(w.n_parties, "party", "parties")
    lines = {
        "task": f"{_task(config, plan)}, {parties}, {sum(w.rows)} rows, {w.features} features",
        "training": f"{w.iterations} iterations of {batch}, " + _steps(plan),
        **_inverse(plan, tree),
        **_functions(config, plan),
        "ring": f"dimension {p.ring_dim}, log2(QP) {p.log_qp:.1f}, {p.security_bits}-bit security"
        + (" (simulated, nothing is encrypted)" if config.crypto.backend == "clear" else ""),
        "modulus chain": f"{p.n_limbs} limbs ({_sizes(p.moduli)} bits), {p.digits} digits, "
        f"{_number(len(p.special_moduli), 'special prime')} ({_sizes(p.special_moduli)} bits)",
        "levels": f"{p.depth} between refreshes, at {last} limbs with {p.statistical_bits} statistical bits",
        **({"refreshed": plan.points.said(plan.network)} if isinstance(plan, PerceptronPlan) else {}),
        "packing": _packing(plan),
        "keys": _keys(plan),
        "memory per party": _memory(forecast),
        "traffic per iteration": _traffic(tree, plan.iteration_transfers),
        "release": _release(plan),
        **_probe(forecast, config.audit.range_action),
    }
    if w.release != "nothing":
        lines["smudging"] = _smudging(plan)
    lines["time"] = _time(forecast)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in lines.items():
        table.add_row(name, text)
    console.print(table)


def _keys(plan: Plan) -> str:
    """How many of each kind, and for how many limbs."""
    keys = plan.held_keys
    kinds = {
        "relinearisation": [keys.relinearisation] if keys.relinearisation else [],
        "conjugation": [keys.conjugation] if keys.conjugation else [],
        "rotation": [*keys.everywhere.values()],
        "rotation at the root only": [*keys.root_only.values()],
    }
    limbs = Counter(each for some in kinds.values() for each in some)
    spread = " + ".join(f"{count} x {each}" for each, count in sorted(limbs.items(), reverse=True))
    return ", ".join(f"{len(some)} {kind}" for kind, some in kinds.items() if some) + f"; for {spread} limbs"


def _memory(forecast: Forecast) -> str:
    plan, ranks = forecast.plan, range(forecast.tree.n_parties)
    rows = {shown_bytes(plan.encoded_bytes(r)) if forecast.keeps_diagonals(r) else "at each use" for r in ranks}
    most, keys = shown_bytes(forecast.most_memory_bytes), shown_bytes(plan.key_bytes())
    return f"about {most}, of which keys {keys}, encoded rows " + " / ".join(sorted(rows))


def _time(forecast: Forecast) -> str:
    """Of one iteration and of the run, and by what it is foretold."""
    ranks = range(forecast.tree.n_parties)
    where = f"{forecast.cores} cores" + (" shared by all parties" if len(ranks) > 1 else "")
    if forecast.link is not None:
        where = f"a machine for each party, {forecast.link}"
    busiest = max(forecast.cpu_seconds(r) for r in ranks)
    prepared = forecast.preparation_seconds
    inverse = f", inverse {seconds(prepared)}" if prepared else ""
    return (
        f"{seconds(forecast.iteration_seconds)} per iteration (at most {seconds(busiest)} of CPU per party), "
        f"evaluation keys {seconds(forecast.key_seconds)}{inverse}, training {seconds(forecast.training_seconds)}; "
        f"{where}; costs: {forecast.units.source}"
    )


def seconds(value: float) -> str:
    """In the unit that suits it."""
    if value < 1:
        return f"{1e3 * value:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min"


def _task(config: Config, plan: Plan) -> str:
    net = plan.network
    if net.hidden:
        return f"perceptron {'-'.join(map(str, net.widths))}"
    return f"{config.model.kind} regression" + (f" of {net.outputs} classes" if net.outputs > 1 else "")


def _steps(plan: Plan) -> str:
    w = plan.workload
    if isinstance(plan, FixedHessianPlan):
        return f"times the inverse of a fixed Hessian, L2 {w.l2:g}"
    last = w.learning_rate * w.pace(w.iterations)
    falling = "" if w.schedule == "constant" else f" ({w.schedule}, down to {last:.2g})"
    if w.local_iterations is not None:
        return f"{w.local_steps} steps of every party in each, rate {w.learning_rate:g}{falling}, L2 {w.l2:g}"
    return f"rate {w.learning_rate:g}{falling}, momentum {plan.momentum:.6g}, L2 {w.l2:g}"


def _inverse(plan: Plan, tree: Tree) -> dict[str, str]:
    """How the inverse is made, where there is one."""
    if not isinstance(plan, FixedHessianPlan):
        return {}
    schedule, side = plan.schedule, plan.matrices.side
    return {
        "inverse": f"{schedule.rounds} rounds of products of {side} x {side} matrices at the root, exact to "
        f"{schedule.error:g} for eigenvalues down to 1/{schedule.condition:.4g} of their bound {schedule.bound:.4g}",
        "traffic of the inverse": _traffic(tree, plan.preparation_transfers),
    }


def _functions(config: Config, plan: Plan) -> dict[str, str]:
    """The polynomials that stand for other functions."""
    net, names = plan.network, dict[str, Polynomial]()
    if net.hidden:
        names[config.model.activation] = net.activation
    if net.link.degree > 1:
        names["link"] = net.link
    return {
        name: f"degree {p.degree} on [{p.interval[0]:g}, {p.interval[1]:g}], largest error {p.max_error:.3f}"
        for name, p in names.items()
    }


def _packing(plan: Plan) -> str:
    if isinstance(plan, CircuitPlan):
        blocks = plan.layout
        return (
            f"{blocks.n_diagonals} diagonals ({len(blocks.baby_steps)} baby x {len(blocks.giant_steps)} giant steps), "
            f"blocks of {blocks.rows} rows, {blocks.copies} copies of each"
        )
    layout = plan.layout
    giants = layout.width // layout.baby
    return (
        f"{plan.n_ciphertexts} tiles of {layout.width} columns ({layout.baby} baby x {giants} giant steps), "
        f"batches of up to {layout.rows} rows"
    )


def _probe(forecast: Forecast, action: str) -> dict[str, str]:
    """What range probes tell and cost, where there is anything to tell."""
    plan = forecast.plan
    probe = range_probe(plan)
    if probe is None:
        if not any(function.degree > 1 for function in plan.network.functions):
            return {}
        return {
            "range probes": "none: nobody sees inputs outside the interval; far off, masks hide nothing (SECURITY.md)"
        }
    return {
        "range probes": f"{plan.workload.probes}, of the sum of powers of {probe.power} of {probe.inputs.values} inputs"
        f" of polynomials; those beyond {probe.told:.2f} times the interval are surely told, then {action}. Each "
        f"{seconds(forecast.probe_seconds)}, {_traffic(forecast.tree, probe.transfers)}"
    }


def _sizes(moduli: Sequence[int]) -> str:
    """Bits of each, runs of one size taken together: 4 x 49 + 4 x 58."""
    runs = [(bits, len(list(run))) for bits, run in groupby(round(math.log2(q)) for q in moduli)]
    return " + ".join(f"{count} x {bits}" if count > 1 else str(bits) for bits, count in runs)


def _release(plan: Plan) -> str:
    precision = plan.precision
    if plan.workload.release == "nothing":
        return f"nothing; weights are computed to {precision.weight_error:.1g}"
    if plan.workload.release == "encrypted":
        rows, answers = plan.prediction.rows, plan.workload.answers
        error = precision.released_error
        told = f"nothing, the model stays encrypted; {answers} answers to up to {rows} rows, precise to {error:.1g}"
        return told + _missed(plan)
    what = "the model" if plan.workload.release == "model" else "each party's own predictions"
    values = "weights" if plan.workload.release == "model" else "logits"
    bits = -math.log2(precision.released_error)
    told = f"{what}; {values} are precise to {precision.released_error:.1g} ({bits:.1f} bits after the point)"
    return told + _missed(plan)


def _missed(plan: Plan) -> str:
    """What is said where no plan is as precise as asked for."""
    return f"; {asked_of(plan.workload)[1]:g} is asked for and NOT reached by any plan" if is_missed(plan) else ""


def _smudging(plan: Plan) -> str:
    """What hides the noise of the release, in coefficients at the scale of what is released."""
    w, precision = plan.workload, plan.precision
    noise, width, scale = precision.weight_noise_norm, precision.weight_smudging, plan.weight_scale
    if w.release == "predictions":
        noise, width, scale = precision.logit_noise_norm, precision.logit_smudging, plan.prediction_scale
    if w.release == "encrypted":
        noise, scale = plan.prediction.noise_norm, plan.prediction.answer_scale
        width = smudging_std(noise, plan.prediction.release_bits, plan.releases)
    noise_bits, width_bits, scale_bits = (math.log2(x) for x in (noise, width, scale))
    return (
        f"{w.release_bits} statistical bits over {plan.releases} releases: noise below 2^{noise_bits:.1f}, each "
        f"party's smudging 2^{width_bits:.1f} wide, scale 2^{scale_bits:.1f}"
    )


def _traffic(tree: Tree, transfers: Sequence[Transfer]) -> str:
    """Of the party that sends least to the one that sends most, and rounds."""
    if tree.n_parties == 1:
        return "none, there is one party"
    sent = [predict(tree, rank, transfers).bytes_sent for rank in range(tree.n_parties)]
    span = " to ".join(dict.fromkeys((shown_bytes(min(sent)), shown_bytes(max(sent)))))
    return f"{span} sent per party, {len(transfers)} rounds over a tree of depth {tree.depth}"


def _number(count: int, of_one: str, of_many: str = "") -> str:
    return f"{count} {of_one if count == 1 else of_many or of_one + 's'}"
