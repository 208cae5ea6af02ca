"""`mhe plan` on each evaluator: real parameters, and no key."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mhe.keys import SecretPolynomial
from mhe.parameters import LOG_QP_CAPS
from scripts import cli


def test_a_plan_says_what_a_run_would_take(evaluator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{int(a > b)}" for a, b in random.normal(size=(60, 2))]
    (tmp_path / "x.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
    text = f'[data]\ntrain = "x.csv"\nlabel = "y"\n[crypto]\nbackend = "{evaluator}"\nring_dim = 32768\ndigits = 3\n'
    (tmp_path / "c.toml").write_text(text)
    monkeypatch.setattr(SecretPolynomial, "generate", classmethod(lambda *_: pytest.fail("a plan needs no secret")))
    result = CliRunner().invoke(cli.app, ["plan", str(tmp_path / "c.toml"), "--parties", "3"])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    found = re.search(r"dimension (\d+), log2\(QP\) ([\d.]+), 128-bit security", said)
    assert found is not None, said
    assert float(found[2]) <= LOG_QP_CAPS[128][int(found[1])]
    assert ("simulated, nothing is encrypted" in said) == (evaluator == "clear")
    assert "4 between refreshes, at" in said
    assert "128 statistical bits" in said


PIMA = '[data]\ntrain = "builtin:pima"\nlabel = "diabetes"\n[crypto]\nring_dim = 32768\ndigits = 3\nscale_bits = 56\n'


def planned(folder: Path, text: str, *options: str) -> tuple[int, str]:
    (folder / "c.toml").write_text(text)
    result = CliRunner().invoke(cli.app, ["plan", str(folder / "c.toml"), "--parties", "2", *options])
    return result.exit_code, " ".join(result.output.split())


def test_a_precision_that_is_missed_is_said(tmp_path: Path) -> None:
    code, said = planned(tmp_path, PIMA + "[release]\nprecision = 0.01\n")
    assert code == 0, said
    assert "NOT reached" not in said
    code, said = planned(tmp_path, PIMA + "[release]\nprecision = 0.0001\n")
    assert code == 0, said
    assert "0.0001 is asked for and NOT reached by any plan" in said


def test_constraints_are_compared_by_what_is_made_small(tmp_path: Path) -> None:
    code, said = planned(
        tmp_path, PIMA + "[release]\nprecision = 0.01\n", "--objective", "traffic", "--json", str(tmp_path / "p")
    )
    assert code == 0, said
    assert "Chosen for the least traffic" in said
    assert "traffic differs" in said
    found = json.loads((tmp_path / "p").read_text())
    most, few = (
        max(plan["iteration_bytes"])
        for plan in (found["chosen"], *(c["plan"] for c in found["constraints"] if c["instead"] == "40"))
    )
    assert few < most
    assert f"{100 * (few / most - 1):+.0f} %" in said


def test_one_party_sends_nothing(tmp_path: Path) -> None:
    code, said = planned(tmp_path, PIMA + "[release]\nprecision = 0.01\n", "--parties", "1")
    assert code == 0, said
    assert "1 party, " in said
    assert "traffic per iteration none, there is one party" in said
    assert "shared by all" not in said


def test_a_file_in_no_folder_is_refused_before_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.explain.best_plans", lambda *_: pytest.fail("searched"))
    code, said = planned(tmp_path, PIMA, "--json", str(tmp_path / "none" / "plan.json"))
    assert code != 0
    assert "there is no folder" in said
