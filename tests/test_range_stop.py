"""Range probes in the real program, in an INSECURE small ring: a run that leaves the interval says so, or ends."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import scripts.planning
from mhe.errors import RangeError
from models.choice import Choice
from network.local import run_parties
from scripts.config import parse_config
from scripts.train import run_party
from tests.insecure import finding, insecure_test_perceptron_plan, insecure_test_plan

SECTIONS: dict[str, dict[str, Any]] = {
    "logistic": {"data": {"train": "builtin:pima", "label": "diabetes"}},
    "softmax": {
        "data": {"train": "sklearn:digits", "label": "target"},
        "model": {"kind": "softmax"},
        "training": {"batch": 16, "learning_rate": 0.2},
    },
    "mlp": {
        "data": {"train": "builtin:bcw", "label": "malignant"},
        "model": {"kind": "mlp", "hidden": [5]},
        "training": {"batch": 16},
    },
}


def insecure_plan(workload: Any, choice: Choice, make_moduli: Any, *, free: bool) -> Any:
    if workload.outputs > 1 or workload.hidden:
        return insecure_test_perceptron_plan(workload, scale_bits=58, make_moduli=make_moduli)
    return insecure_test_plan(workload, scale_bits=58, make_moduli=make_moduli)


def run(tmp_path, monkeypatch, half_width, action, kind="logistic"):
    monkeypatch.setattr(scripts.planning, "best_plans", finding(insecure_plan))
    sections = SECTIONS[kind]
    config = parse_config(
        {
            "data": sections["data"],
            "model": {"interval": [-half_width, half_width], **sections.get("model", {})},
            "training": {"iterations": 4, "learning_rate": 1.0, **sections.get("training", {})},
            "audit": {"range_every": 2, "range_action": action},
            "release": {"statistical_bits": 30},
        }
    )
    return run_parties(2, lambda collective: run_party(config, collective, tmp_path, True))


@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_a_run_that_is_to_stop_stops_with_the_reason(kind, tmp_path, monkeypatch):
    with pytest.raises(RangeError, match=r"^in iteration 2 inputs of the polynomial .*\[-1, 1\] .* widen \[model\]"):
        run(tmp_path, monkeypatch, 1, "stop", kind)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_run_that_is_to_warn_warns_and_goes_on(kind, tmp_path, monkeypatch, capsys):
    outcomes = run(tmp_path, monkeypatch, 1, "warn", kind)
    said = " ".join(capsys.readouterr().out.split())
    assert "range probes 2, of the sum of powers of" in said
    # layers of tiles are refreshed once more, for what is left of their products beside the inputs must not count
    rounds = 4 if kind == "logistic" else 8
    assert re.search(rf"Each [\d.]+ m?s, (?:[\d.]+ MiB to )?[\d.]+ MiB sent per party, {rounds} rounds", said)
    assert "warning: in iteration 2 inputs of the polynomial may lie anywhere in [-" in said
    result = json.loads((tmp_path / "result.json").read_text())["polynomials"]
    assert [(p["iteration"], p["outside"]) for p in result["probes"]] == [(2, True), (4, True)]
    assert result["probes"][-1]["reach"][1] > result["widest_input"] > result["interval"][1]
    assert outcomes[0].ranges == outcomes[1].ranges


@pytest.mark.parametrize("kind", ["logistic", "softmax"])
def test_a_run_inside_its_interval_says_nothing(kind, tmp_path, monkeypatch, capsys):
    outcomes = run(tmp_path, monkeypatch, 16, "stop", kind)
    assert [found.outside for found in outcomes[0].ranges] == [False, False]
    assert "warning" not in capsys.readouterr().out
