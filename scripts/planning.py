"""From a configuration and the parties' public row counts to a plan, and the plan in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from mhe.moduli import generate_moduli as generate_own_moduli
from models.activations import approximate, sigmoid
from models.plan import CircuitPlan
from models.search import Choice, MakeModuli, choose_plan
from models.workload import Workload
from network.topology import Tree
from network.traffic import predict
from scripts.config import Config

KEPT_DIAGONALS_BYTES = 1 << 30
"""Encoded diagonals are kept across iterations as long as they take no more than this per party."""


def make_plan(config: Config, summaries: Sequence[Mapping[str, Any]]) -> CircuitPlan:
    """The plan for parties with these summaries (models.data.summary). Raises ParameterError if there is none."""
    model, training, crypto = config.model, config.training, config.crypto
    columns = len(summaries[0]["columns"])
    workload = Workload(
        rows=tuple(s["rows"] for s in summaries),
        features=columns,
        iterations=training.iterations,
        learning_rate=training.learning_rate,
        momentum=training.momentum_used,
        l2=model.l2,
        batch=None if training.batch == "full" else training.batch,
        sigmoid=approximate(sigmoid, model.degree, model.interval, model.method),
        message_bound=crypto.message_bound,
        release_bits=config.release.statistical_bits,
        precision=config.release.precision,
        release=config.release.what,
        standardises=config.data.standardize,
        test_rows=tuple(s["test_rows"] for s in summaries),
    )
    choice = Choice(
        crypto.security_bits,
        crypto.statistical_bits,
        crypto.ring_dim,
        crypto.first_bits,
        crypto.scale_bits,
        crypto.digits,
        crypto.limbs,
    )
    return choose_plan(workload, choice, moduli_maker(crypto.backend), free=crypto.backend != "openfhe")


def moduli_maker(backend: str) -> MakeModuli:
    """How this backend picks its primes. OpenFHE is imported only where it is used."""
    if backend != "openfhe":
        return generate_own_moduli
    from mhe.backend.openfhe import generate_moduli

    return generate_moduli


def keeps_diagonals(plan: CircuitPlan, rank: int) -> bool:
    return plan.encoded_bytes(rank) <= KEPT_DIAGONALS_BYTES


def describe(plan: CircuitPlan, config: Config, console: Console) -> None:
    """Print everything that is known about the run before it starts."""
    w, p, layout = plan.workload, plan.parameters, plan.layout
    tree = Tree(w.n_parties, config.network.arity, config.network.root)
    sent = [predict(tree, rank, plan.iteration_transfers).bytes_sent for rank in range(w.n_parties)]
    keys = plan.key_plan
    batch = "all rows" if w.batch is None else f"{w.batch} rows per party"
    low, high = w.sigmoid.interval
    first, last = p.moduli[0].bit_length(), plan.low_limbs
    lines = {
        "task": f"logistic regression, {w.n_parties} parties, {sum(w.rows)} rows, {w.features} features",
        "training": f"{w.iterations} iterations of {batch}, "
        f"rate {w.learning_rate:g}, momentum {plan.momentum:.6g}, L2 {w.l2:g}",
        "sigmoid": f"degree {w.sigmoid.degree} on [{low:g}, {high:g}], largest error {w.sigmoid.max_error:.3f}",
        "ring": f"dimension {p.ring_dim}, log2(QP) {p.log_qp:.1f}, {p.security_bits}-bit security"
        + (" (simulated, nothing is encrypted)" if config.crypto.backend == "clear" else ""),
        "modulus chain": f"{p.n_limbs} limbs ({first} + {p.n_limbs - 1} x {p.scale_bits} bits), "
        f"{p.digits} digits, {len(p.special_moduli)} special primes",
        "levels": f"{w.levels} per iteration, refresh at {last} limbs with {p.statistical_bits} statistical bits",
        "packing": f"{layout.n_diagonals} diagonals ({len(layout.baby_steps)} baby x {len(layout.giant_steps)} giant "
        f"steps), blocks of {layout.rows} rows",
        "keys": f"1 relinearisation, {len(keys.everywhere)} rotation, {len(keys.root_only)} rotation at the root only",
        "memory per party": f"keys {_mib(plan.key_bytes)}, encoded rows "
        + " / ".join(
            sorted(
                {_mib(plan.encoded_bytes(r)) if keeps_diagonals(plan, r) else "at each use" for r in range(w.n_parties)}
            )
        ),
        "traffic per iteration": f"{_mib(min(sent))} to {_mib(max(sent))} sent per party, "
        f"{len(plan.iteration_transfers)} rounds over a tree of depth {tree.depth}",
        "release": _release(plan, config),
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in lines.items():
        table.add_row(name, text)
    console.print(table)


def _release(plan: CircuitPlan, config: Config) -> str:
    what, error, bits = config.release.what, plan.precision.weight_error, plan.workload.release_bits
    if what == "nothing":
        return f"nothing; weights are computed to {error:.1g}"
    if what == "predictions":
        logit_error = plan.precision.logit_error
        return f"each party's own predictions, {bits} statistical bits; logits are precise to {logit_error:.1g}"
    return f"the model, {bits} statistical bits; weights are precise to {error:.1g}"


def _mib(n_bytes: float) -> str:
    return f"{n_bytes / 2**20:.1f} MiB"
