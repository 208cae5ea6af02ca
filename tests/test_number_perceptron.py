"""A perceptron for numbers in the real program, in an INSECURE small ring: standardised label, twin, units."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import scripts.planning
import scripts.predict
from mhe.container import read_bytes
from models.data import pooled, stack
from models.kept_model import KIND, KeptModel
from models.metrics import regression_quality
from network.local import run_parties
from scripts.agreement import scales_in_clear
from scripts.config import parse_config
from scripts.keep import Keeping
from scripts.own_rows import predict_party
from scripts.predict import Job, answer_party, keygen, open_answer, query
from scripts.train import run_party
from tests.insecure import finding, insecure_test_perceptron_plan
from tests.runs import largest_error, surely

SETTINGS: dict[str, Any] = {
    "data": {"train": "sklearn:diabetes", "label": "target"},
    "model": {"kind": "mlp", "task": "regression", "hidden": [5], "l2": 0.01},
    "training": {"iterations": 6, "learning_rate": 0.3, "batch": 16},
    "release": {"statistical_bits": 30, "precision": 0.02},
}


def run(tmp_path, monkeypatch, backend, keeping=None, **sections):
    def insecure_plan(workload, choice, make_moduli, *, free):
        return insecure_test_perceptron_plan(workload, scale_bits=58, ring_dim=1 << 10, make_moduli=make_moduli)

    monkeypatch.setattr(scripts.planning, "best_plans", finding(insecure_plan))
    config = parse_config({**SETTINGS, "crypto": {"backend": backend}, **sections})
    return config, run_parties(2, lambda collective: run_party(config, collective, tmp_path, True, keeping))


@pytest.mark.parametrize("backend", ["native", "clear"])
def test_a_number_is_learnt_as_by_the_twin(backend, tmp_path, monkeypatch):
    config, outcomes = run(tmp_path, monkeypatch, backend)
    first = outcomes[0]
    assert first.plan.network.widths == (10, 5, 1)
    assert first.plan.network.link.degree == 1
    planned = surely(first.plan.precision.weight_error, 61)
    assert 0 < largest_error(first.weights, first.clear.twin) <= planned < 0.1
    # in the units of the label: what the released model gives, standardised back
    whole = stack(pooled(config.source, 2))
    scales = scales_in_clear(config, whole)
    assert scales.target.mean[0] == pytest.approx(152, abs=5)
    model = np.load(tmp_path / "model.npz")
    np.testing.assert_allclose(model["label_mean"], scales.target.mean, rtol=1e-9)
    np.testing.assert_allclose(model["label_scale"], scales.target.scale, rtol=1e-9)
    x = (whole.test_features - model["mean"]) / model["scale"]
    z = x @ model["coef_0"].T + model["intercept_0"]
    out = (0.5 * z + 0.125 * z**2) @ model["coef_1"].T + model["intercept_1"]
    exact = regression_quality((out * model["label_scale"] + model["label_mean"])[:, 0], whole.test_labels)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["rmse"] == pytest.approx(exact.rmse, rel=1e-6)
    assert result["r2"] == pytest.approx(result["clear_twin"]["r2"], abs=0.02)
    assert result["r2"] > 0.3 and result["exact"]["r2"] > 0.3
    assert "label" not in str(outcomes[1].summaries)


def test_predictions_are_in_the_units_of_the_label(tmp_path, monkeypatch):
    config, outcomes = run(tmp_path, monkeypatch, "native", release={**SETTINGS["release"], "what": "predictions"})
    shards = pooled(config.source, 2)
    scales = scales_in_clear(config, stack(shards))
    net, twin = outcomes[0].plan.network, outcomes[0].clear.twin
    for rank, shard in enumerate(shards):
        rows = np.genfromtxt(tmp_path / f"predictions-{rank}.csv", delimiter=",", names=True)
        expected = scales.target.undone(net.outputs_of(twin, scales.features(shard.test_features)))[:, 0]
        tolerance = scales.target.scale[0] * surely(outcomes[0].plan.precision.logit_error, len(rows))
        np.testing.assert_allclose(rows["predicted"], expected, atol=tolerance)
        assert tolerance < expected.std()
    assert not (tmp_path / "model.npz").exists()


def write_rows(path, model, rows):
    lines = [",".join(model.task.columns), *(",".join(map(repr, row)) for row in rows.tolist())]
    path.write_text("\n".join(lines) + "\n")


def test_a_model_that_stays_encrypted_answers_in_the_units_of_the_label(tmp_path, monkeypatch, capsys):
    """A querier, and the parties on rows of their own."""

    def load(path):
        return KeptModel.from_bytes(read_bytes(path, KIND), str(path), insecure=True)

    monkeypatch.setattr(scripts.predict, "load_model", load)
    keeping, home = Keeping(tmp_path / "states", None), tmp_path / "out"
    release = {**SETTINGS["release"], "what": "encrypted", "answers": 9}
    config, outcomes = run(home, monkeypatch, "native", keeping, release=release)
    assert not (home / "model.npz").exists()
    assert all(outcome.weights is None for outcome in outcomes)
    model, whole = load(home / "model.mhe"), stack(pooled(config.source, 2))
    scales = scales_in_clear(config, whole)
    assert model.task.classes == ()
    assert (model.task.label_mean, model.task.label_scale) == pytest.approx(
        (scales.target.mean[0], scales.target.scale[0]), rel=1e-9
    )
    rows, twin = whole.test_features[:20], outcomes[0].clear.twin
    z = outcomes[0].plan.network.outputs_of(twin, scales.features(rows))
    expected = scales.target.undone(z)[:, 0]
    assert model.error == model.prediction.error * model.task.label_scale < expected.std() / 2

    key = tmp_path / "key"
    job = Job(home / "model.mhe", tmp_path / "query", key / "public.key", tmp_path / "answer")
    write_rows(tmp_path / "rows.csv", model, rows)
    keygen(job.model, key)
    query(job.model, tmp_path / "rows.csv", job.query)
    run_parties(2, lambda collective: answer_party(job, keeping, collective))
    open_answer(job.model, key, job.out, tmp_path / "answers.csv")
    assert f"precise to {model.error:.1g}" in " ".join(capsys.readouterr().out.split())
    found = np.genfromtxt(tmp_path / "answers.csv", delimiter=",", names=True)
    assert found.dtype.names == ("row", "value")
    assert 0 < np.abs(found["value"] - expected).max() < model.error

    for rank, mine in enumerate((rows[:3], rows[3:])):
        write_rows(tmp_path / f"rows{rank}.csv", model, mine)
    files = tmp_path / "rows{party}.csv", keeping, tmp_path / "answers{party}.csv"
    run_parties(2, lambda collective: predict_party(job.model, *files, collective))
    own = [np.genfromtxt(tmp_path / f"answers{k}.csv", delimiter=",", names=True)["value"] for k in range(2)]
    assert 0 < np.abs(np.concatenate(own) - expected).max() < model.error


def test_classes_are_left_as_they_are(tmp_path, monkeypatch):
    sections = {
        "data": {"train": "builtin:bcw", "label": "malignant"},
        "model": {"kind": "mlp", "hidden": [3]},
        "training": {"iterations": 2, "batch": 16},
    }
    run(tmp_path, monkeypatch, "clear", **sections)
    assert set(np.load(tmp_path / "model.npz").files) == {
        "mean", "scale", "coef_0", "intercept_0", "coef_1", "intercept_1"
    }  # fmt: skip
