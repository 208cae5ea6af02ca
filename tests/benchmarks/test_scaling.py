"""Points of the sweep are configurations that can be planned; what is recorded of them is on the page and in plots."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import scaling
from benchmarks.protocols import PARTIES, measure
from benchmarks.report import page
from benchmarks.scaling import Point, points, regression, toml
from benchmarks.scaling_report import (
    HEADLINE_COLUMNS,
    SERIES,
    headline_table,
    protocol_table,
    published_table,
    sections,
    series_table,
)
from models.data import check_summaries, load_shard, summary
from network.link import Link
from scripts.config import load_config, parse_config
from scripts.planning import make_plan

EVERY = points()


def record(series: str, x: int, seconds: float, **more: Any) -> dict[str, Any]:
    """As `benchmarks.cohosted` makes one."""
    spent = {
        "cpu_seconds": {"mean": seconds, "max": 2 * seconds, "root": seconds},
        "bytes_sent": {"mean": 3_000_000, "max": 4_000_000},
        "rounds": 12,
        "modelled_seconds": 5 * seconds,
    }
    result = {
        "parties": x, "rows_train": 960 * x, "features": 8, "auc": 0.8123, "exact": {"auc": 0.8124},
        "seconds": {"setup": 1.0, "training": 7 * seconds, "inverse": 1.0, "release": 0.5},
    }  # fmt: skip
    return {
        "series": series, "x": x, "link": "1gbps/20ms", "command": "mhe bench cohosted", "result": result,
        "stages": dict.fromkeys(("setup", "training", "release"), spent), "process": {"peak_rss_mib": 2048}, **more,
    }  # fmt: skip


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_every_series_varies_what_it_says_and_every_point_is_there_once() -> None:
    assert {point.series for point in EVERY} == SERIES.keys()
    assert len({(point.series, point.x) for point in EVERY}) == len(EVERY)
    assert {3, 48, 160} <= {point.parties for point in EVERY if point.series == "parties"}
    assert {8, 1024} <= {point.x for point in EVERY if point.series == "features"}


@pytest.mark.parametrize("point", EVERY, ids=lambda point: f"{point.series}-{point.x}")
def test_every_point_is_a_configuration(point: Point, tmp_path: Any) -> None:
    (tmp_path / "point.toml").write_text(toml(point.settings), encoding="utf-8")
    config = load_config(tmp_path / "point.toml")
    assert config.canonical == parse_config(point.settings).canonical
    assert point.threads == config.crypto.threads


@pytest.mark.parametrize("name", ["parties-160", "features-1024", "hidden-64"])
def test_the_largest_points_can_be_planned(name: str) -> None:
    point = next(point for point in EVERY if f"{point.series}-{point.x}" == name)
    config = parse_config(point.settings)
    own = [summary(load_shard(config.source, 0, point.parties), "binary")] * point.parties
    plan = make_plan(config, own, check_summaries(own, "binary").outputs)
    assert plan.workload.n_parties == point.parties


def test_points_of_a_sweep_are_kept_as_they_come(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    some = [Point("parties", n, n, regression(n, 64, 3)) for n in (2, 3)]
    monkeypatch.setattr(scaling, "points", lambda: some)
    monkeypatch.setattr(scaling, "run_point", lambda point, at_once: record(point.series, point.x, float(at_once)))
    target = tmp_path / "scaling.json"
    old = [record("rows", 5, 1.0), record("parties", 3, 9.0)]
    target.write_text(json.dumps({"points": old}), encoding="utf-8")
    scaling.run(["parties"], 2, target)
    found = json.loads(target.read_text(encoding="utf-8"))["points"]
    assert [(p["series"], p["x"]) for p in found] == [("rows", 5), ("parties", 2), ("parties", 3)]
    assert found[-1]["stages"]["setup"]["cpu_seconds"]["mean"] == 2.0
    assert found[-1]["environment"]["cores"] > 0


def test_protocols_of_two_parties() -> None:
    point = measure(min(PARTIES), 2, Link.parse("1gbps/20ms"))
    assert point["parties"] == 2
    for spent in point["protocols"].values():
        assert spent["cpu_seconds"]["max"] >= spent["cpu_seconds"]["mean"] > 0
        assert spent["rounds"] > 0
        assert spent["modelled_seconds"] > (spent["rounds"] - 1) * 0.02
    header, _, row = cells(protocol_table({"points": [point]}))
    assert len(row) == len(header)


def test_tables_say_what_was_recorded() -> None:
    some = [record("parties", 48, 2.0), record("parties", 3, 1.0)]
    header, _, first, second = cells(series_table("parties", some))
    assert [row[0] for row in (header, first, second)] == ["parties", "3", "48"]
    assert first[1:] == ["1.00", "1.00", "2.00", "8.00", "5.00", "5.00", "3.0", "12", "2048"]
    header, _, row = cells(headline_table([{**record("", 160, 1.0), "job": "million"}]))
    assert tuple(header) == HEADLINE_COLUMNS
    assert row[:8] == ["million", "160", "153,600", "8", "0.8123", "0.8124", "1.0", "8.0"]
    published = published_table([{**record("", 160, 1.0), "job": "million"}], some)
    assert "training 8 s, with set-up 9 s, 160 parties co-hosted" in published
    assert "CPU of a party 2.00 times, modelled wall time 2.00 times" in published
    assert "not recorded yet" in published


def test_nothing_is_said_where_nothing_is_recorded() -> None:
    assert sections([], None, None) == ""
    assert page()


def test_plots_of_every_series(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.plots import draw

    recorded = {"points": [record(series, x, float(x)) for series in SERIES for x in (3, 48)]}
    made = draw(recorded, None, tmp_path)
    assert [path.stem for path in made] == list(SERIES)
    (again,) = draw(
        {"points": [p for p in recorded["points"] if p["series"] == made[0].stem]}, None, tmp_path / "again"
    )
    assert again.read_bytes() == made[0].read_bytes()
    assert "modelled wall time" in made[0].read_text(encoding="utf-8")
