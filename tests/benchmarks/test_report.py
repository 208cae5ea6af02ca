"""The generated page: what is recorded is in it, older records with fewer fields too, and other kinds of model."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from benchmarks.jobs import RESULTS
from benchmarks.report import COST_COLUMNS, iteration_table, page, primitives_table, runs_table


def recorded() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*-parties-*.json"))]


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_every_record_is_a_row_of_the_page() -> None:
    text = page()
    records = recorded()
    assert records
    for record in records:
        r = record["result"]
        row = f"| {record['job']} | {r['parameters']['backend']} | {r['parties']} | {record['arity']} | "
        assert text.count(row) == 1
    assert "## Single operations" in text
    assert "## A whole iteration" in text


def test_tables_have_a_cell_for_every_column() -> None:
    logistic = runs_table("logistic", [r for r in recorded() if r["result"]["model"] == "logistic"])
    single = primitives_table(json.loads((RESULTS / "primitives.json").read_text(encoding="utf-8")))
    whole = iteration_table(json.loads((RESULTS / "iteration.json").read_text(encoding="utf-8")))
    for text in (logistic, single, whole):
        header, _, *rows = rows_of(text)
        assert rows
        assert {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize(
    ("kind", "figures", "shown"),
    [
        ("linear", {"r2": 0.51234, "rmse": 2.5}, {"R2": "0.5123", "RMSE": "2.5000"}),
        ("poisson", {"deviance": 1.25}, {"deviance": "1.2500"}),
        ("softmax", {"accuracy": 0.875}, {"accuracy": "87.50 %"}),
        ("mlp", {"accuracy": None}, {"accuracy": "-"}),
    ],
)
def test_figures_are_those_of_the_kind(kind: Any, figures: dict[str, float | None], shown: dict[str, str]) -> None:
    record = deepcopy(recorded()[0])
    result = record["result"]
    for name in ("accuracy", "auc", "sigmoid"):
        result.pop(name, None)
    result.update(model=kind, clear_twin=None, exact=figures, max_weight_error=None, **figures)
    header, _, row = rows_of(runs_table(kind, [record]))
    cells = dict(zip(header, row, strict=True))
    assert {name: cells[name] for name in shown} == shown
    assert cells["clear twin"] == cells["weight error"] == "-"
    assert cells["exact"] == next(iter(shown.values()))
    assert set(COST_COLUMNS) < set(header)
