"""The sections of docs/benchmarks.md that compare: our choices one at a time, and peers on one task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import table

CHOICES = """
## What each choice gains

`mhe bench choices --json benchmarks/results/choices.json`: logistic regression, {parties} parties, {rows_per_party}
made-up rows of {features} correlated features each; every line changes one thing of the line before it, and has the
parameters of its own plan. Row packing is that of the papers: one row after another, inner sums by rotations. CPU
seconds are of one party, encoding and keys left out; the machine was shared, so wall time is in the record only. Time
to quality is until the AUC is within {auc_short:g} of scikit-learn's {best_auc:.4f}, the inverse of "newton" included:
the iterations of the clear twin times those seconds. Where an AUC under encryption is given, that training was run to
its end. One ciphertext here has {slots} slots: with up to that many rows at a party, the last two lines cost the same
and the others grow in proportion.

"""

PEERS = """
## Peers on the same task

`python -m benchmarks.peers`: Pima, {rows} rows of 8 features, {iterations} full-batch iterations of Nesterov's method
with the same polynomial and rates, but for scikit-learn, which goes to its optimum in a way of its own. All parties are
on this machine, one thread each, with no network between them. CPU seconds are of all parties together, medians of
iterations, without set-up, keys, or the first encryption of rows. During some of the runs the machine was shared, which
inflates CPU seconds somewhat. What an interactive protocol waits for its network is not in these figures: MPyC takes
about a dozen rounds for an iteration, `mhe` four passes of its tree. Among ten parties MPyC runs without its
pseudorandom shares, which need a key for every set of parties that may collude. OpenFHE and TenSEAL are
without bootstrapping here: the key's owner decrypts, steps, and encrypts again. Not run: CrypTen, MPyC stands for
secret sharing. Records: `benchmarks/results/peer-*.json`.

"""


def sections(results: Path) -> str:
    """What has been recorded, empty if nothing was."""
    text = ""
    if (results / "choices.json").exists():
        record = _read(results / "choices.json")
        slots = max(line["parameters"]["ring_dim"] // 2 for line in record["choices"])
        text += CHOICES.format(**record["task"], slots=f"{slots:,}") + choices_table(record["choices"])
        text += f"\n{record['note']}\n" if "note" in record else ""
    peers = [_read(path) for path in results.glob("peer-*.json")]
    if peers:
        text += PEERS.format(**peers[0]["task"]) + peers_table(peers)
    return text


def choices_table(lines: Sequence[dict[str, Any]]) -> str:
    """One Markdown table; `times` are over the line before."""
    columns = (
        "choice", "evaluator", "levels", "rows / ciphertext", "rotation keys", "CPU s / iteration", "times",
        "iterations", "CPU s to quality", "times", "AUC of the clear twin", "AUC under encryption",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for before, line in zip([None, *lines], lines, strict=False):
        iteration, quality = line["cpu_seconds_per_party_and_iteration"], line["cpu_seconds_to_auc"]
        gains = ["-", "-"]
        if before is not None:
            gains = [
                f"{before['cpu_seconds_per_party_and_iteration'] / iteration:.2f}",
                f"{before['cpu_seconds_to_auc'] / quality:.2f}",
            ]
        cells = (
            line["choice"],
            line["backend"],
            str(line["levels"]),
            str(line["rows_per_ciphertext"]),
            str(line["rotation_keys"]),
            f"{iteration:.2f}",
            gains[0],
            str(line["iterations_to_auc"]),
            f"{quality:.1f}",
            gains[1],
            f"{line['clear_twin_auc']:.4f}",
            "-" if line["auc"] is None else f"{line['auc']:.4f}",
        )
        rows.append(cells)
    return table(columns, rows)


def peers_table(records: Sequence[dict[str, Any]]) -> str:
    """One Markdown table, the cheapest iteration first."""
    columns = ("who", "CPU s / iteration", "accuracy", "weight error", "protects", "rows leave home")
    rows: list[tuple[str, ...]] = []
    for r in sorted(records, key=lambda r: float(r["cpu_seconds_per_iteration"])):
        error = r["max_weight_error"]
        cells = (
            r["peer"],
            _seconds(r["cpu_seconds_per_iteration"]),
            f"{100 * r['accuracy']:.2f} %",
            "-" if error is None else f"{error:.1e}",
            r["protects"],
            r["rows_leave"],
        )
        rows.append(cells)
    return table(columns, rows)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 1 else f"{seconds:.1f}"


def _read(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record
