"""The sections that compare: a row for each record, gains over the line before, nothing where nothing was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.comparisons import choices_table, peers_table, sections

LINE = {
    "choice": "row packing",
    "backend": "openfhe",
    "levels": 5,
    "rows_per_ciphertext": 256,
    "rotation_keys": 20,
    "parameters": {"ring_dim": 1 << 15},
    "cpu_seconds_per_party_and_iteration": 12.0,
    "iterations_to_auc": 10,
    "cpu_seconds_to_auc": 120.0,
    "clear_twin_auc": 0.86541,
    "auc": None,
}
FASTER = {
    **LINE,
    "choice": "newton",
    "cpu_seconds_per_party_and_iteration": 3.0,
    "cpu_seconds_to_auc": 20.0,
    "auc": 0.8671,
}
TASK = {
    "parties": 2,
    "rows_per_party": 4096,
    "features": 32,
    "correlation": 0.6,
    "best_auc": 0.8673,
    "auc_short": 0.002,
}


def peer(name: str, cpu: float, error: float | None) -> dict[str, Any]:
    return {
        "peer": name,
        "cpu_seconds_per_iteration": cpu,
        "seconds_per_iteration": 2 * cpu,
        "accuracy": 0.7792,
        "max_weight_error": error,
        "protects": "nothing",
        "rows_leave": "no",
        "task": {"rows": 614, "iterations": 10},
    }


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_gains_are_over_the_line_before() -> None:
    header, _, first, second = rows_of(choices_table([LINE, FASTER]))
    assert len(header) == len(first) == len(second)
    gains = [i for i, name in enumerate(header) if name == "times"]
    assert [first[i] for i in gains] == ["-", "-"]
    assert [second[i] for i in gains] == ["4.00", "6.00"]
    assert (first[-1], second[-1]) == ("-", "0.8671")


def test_peers_stand_by_the_cost_of_an_iteration() -> None:
    header, _, *rows = rows_of(peers_table([peer("slow", 3.14, 1e-9), peer("fast", 0.0004, None)]))
    assert [row[0] for row in rows] == ["fast", "slow"]
    error = header.index("weight error")
    assert [row[error] for row in rows] == ["-", "1.0e-09"]
    assert [row[1] for row in rows] == ["0.0004", "3.1"]


def test_sections_are_of_what_was_recorded(tmp_path: Path) -> None:
    assert sections(tmp_path) == ""
    (tmp_path / "peer-slow.json").write_text(json.dumps(peer("slow", 3.0, None)), encoding="utf-8")
    assert "614 rows of 8 features, 10 full-batch" in sections(tmp_path)
    record = {"task": TASK, "choices": [LINE, FASTER]}
    (tmp_path / "choices.json").write_text(json.dumps(record), encoding="utf-8")
    text = sections(tmp_path)
    assert text.index("What each choice gains") < text.index("Peers on the same task")
    assert "has 16,384 slots" in text
