"""A training whose model stays encrypted, by the real program in an INSECURE small ring, and answers of its states."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mhe.sealed
import scripts.planning
import scripts.predict
from mhe.container import read_bytes
from mhe.errors import ConfigError, DataError, MHEError, StateError
from mhe.protocols.decryption import DecryptionProtocol
from mhe.sealed import open_share
from models.choice import Choice
from models.kept_model import KIND, KeptModel, Task
from network.local import run_parties
from scripts.answers import answer_columns
from scripts.config import parse_config
from scripts.keep import Keeping
from scripts.own_rows import check_names, predict_party
from scripts.predict import Job, answer_party, keygen, open_answer, query
from scripts.train import run_party
from tests import oracle
from tests.insecure import finding, insecure_test_newton_plan, insecure_test_perceptron_plan, insecure_test_plan

N_PARTIES, PASSPHRASE = 3, "tests only"
SETTINGS: dict[str, Any] = {
    "data": {"train": "builtin:pima", "label": "diabetes"},
    "training": {"iterations": 3, "learning_rate": 1.0, "momentum": 0.5},
    "release": {"what": "encrypted", "statistical_bits": 30, "answers": 9},
}


@dataclass(frozen=True)
class Trained:
    folder: Path
    outcomes: list[Any]
    opened: list[int]

    @property
    def model(self):
        return scripts.predict.load_model(self.folder / "out" / "model.mhe")


def insecure_plan(workload: Any, choice: Choice, make_moduli: Any, *, free: bool) -> Any:
    return insecure_test_plan(workload, ring_dim=1 << 9, scale_bits=56, make_moduli=make_moduli)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    opened = []
    share = DecryptionProtocol.share

    def counting(protocol, secret):
        opened.append(protocol.count)
        return share(protocol, secret)

    def load(path):
        return KeptModel.from_bytes(read_bytes(path, KIND), str(path), insecure=True)

    config, keeping = parse_config(SETTINGS), Keeping(folder / "out", PASSPHRASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts.planning, "best_plans", finding(insecure_plan))
        patch.setattr(mhe.sealed, "SCRYPT_LOG_COST", 4)
        patch.setattr(DecryptionProtocol, "share", counting)
        patch.setattr(scripts.predict, "load_model", load)
        outcomes = run_parties(
            N_PARTIES, lambda collective: run_party(config, collective, folder / "out", False, keeping)
        )
        yield Trained(folder, outcomes, opened)


def test_nothing_is_opened_but_means_and_variances(trained):
    features = len(trained.model.task.columns)
    assert len(trained.opened) == 2 * N_PARTIES
    assert set(trained.opened) == {1 << (features - 1).bit_length()}
    for outcome in trained.outcomes:
        assert (outcome.weights, outcome.figures) == (None, None)
    names = {path.name for path in (trained.folder / "out").iterdir()}
    assert names == {"model.mhe", "result.json", "metrics.jsonl", *(f"party-{rank}" for rank in range(N_PARTIES))}


def test_the_kept_weights_are_the_twins_and_flooded(trained):
    """Their error is that of the smudging, not the smaller one of the training."""
    model, plan = trained.model, trained.outcomes[0].plan
    shares = [open_share(trained.folder / "out" / f"party-{rank}", PASSPHRASE)[0] for rank in range(N_PARTIES)]
    joint = oracle.joint_of(shares)
    for share in shares:
        share.erase()
    p, prediction = plan.parameters, model.prediction
    found = oracle.decrypt(model.weights[0], p, joint, prediction.period)
    twin = trained.outcomes[0].clear.twin
    errors = found[: prediction.features + 1] - twin[0][:, 0]
    assert np.abs(errors).max() < 6 * prediction.weight_std
    assert np.sqrt(np.square(errors).mean()) > 0.3 * prediction.weight_std > 3 * plan.precision.weight_noise_std


def test_answers_of_the_kept_states_are_the_twins(trained, tmp_path):
    model_path, key = trained.folder / "out" / "model.mhe", tmp_path / "key"
    model, twin = trained.model, trained.outcomes[0].clear.twin
    rows = np.array(model.task.mean) + np.random.default_rng(0).normal(size=(40, 8)) * np.array(model.task.scale)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(model.task.columns)
        writer.writerows(rows.tolist())
    job = Job(model_path, tmp_path / "query", key / "public.key", tmp_path / "answer")
    keygen(model_path, key)
    query(model_path, tmp_path / "rows.csv", job.query)
    keeping = Keeping(trained.folder / "out", PASSPHRASE)
    run_parties(N_PARTIES, lambda collective: answer_party(job, keeping, collective))
    open_answer(model_path, key, job.out, tmp_path / "answers.csv")
    found = np.genfromtxt(tmp_path / "answers.csv", delimiter=",", names=True)
    expected = trained.outcomes[0].plan.network.outputs_of(twin, model.task.standardised(rows))[:, 0]
    assert np.abs(found["logit"] - expected).max() < model.prediction.error < 0.2


def write_rows(path, model, rows):
    lines = [",".join(model.task.columns), *(",".join(map(repr, row)) for row in rows.tolist())]
    path.write_text("\n".join(lines) + "\n")


def test_parties_predict_rows_of_their_own(trained, tmp_path):
    """Two have some, one has none and gets no file."""
    model, keeping = trained.model, Keeping(trained.folder / "out", PASSPHRASE)
    plan, twin = trained.outcomes[0].plan, trained.outcomes[0].clear.twin
    rows = np.array(model.task.mean) + np.random.default_rng(1).normal(size=(5, 8)) * np.array(model.task.scale)
    owned = {0: rows[:2], 2: rows[2:]}
    for rank, mine in owned.items():
        write_rows(tmp_path / f"rows{rank}.csv", model, mine)
    job = trained.folder / "out" / "model.mhe", tmp_path / "rows{party}.csv", keeping, tmp_path / "answers{party}.csv"
    check_names(job[1], job[3])
    run_parties(N_PARTIES, lambda collective: predict_party(*job, collective))
    for rank, mine in owned.items():
        found = np.genfromtxt(tmp_path / f"answers{rank}.csv", delimiter=",", names=True)
        expected = plan.network.outputs_of(twin, model.task.standardised(mine))[:, 0]
        assert np.abs(found["logit"] - expected).max() < model.prediction.error
    assert not (tmp_path / "answers1.csv").exists()


def test_own_rows_that_cannot_be_are_refused_before_a_share_leaves(trained, tmp_path):
    model, keeping = trained.model, Keeping(trained.folder / "out", PASSPHRASE)
    path, out = trained.folder / "out" / "model.mhe", tmp_path / "answers{party}.csv"
    before = [(keeping.home(rank) / "state").read_bytes() for rank in range(N_PARTIES)]
    write_rows(tmp_path / "far1.csv", model, np.full((1, 8), 1e6))
    wrong = [
        (DataError, "party 0: .*no such file", tmp_path / "gone.csv"),
        (DataError, "no party has a row to predict", tmp_path / "gone{party}.csv"),
        (
            DataError,
            "party 1: own row 1 .* times as large as a row of standard deviations",
            tmp_path / "far{party}.csv",
        ),
    ]
    for kind, said, rows in wrong:
        with pytest.raises(kind, match=said):
            run_parties(N_PARTIES, lambda c, rows=rows: predict_party(path, rows, keeping, out, c))
    with pytest.raises(ConfigError, match=r"every party writes its own answers.* put \{party\} in it"):
        check_names(tmp_path / "far{party}.csv", tmp_path / "answers.csv")
    assert [(keeping.home(rank) / "state").read_bytes() for rank in range(N_PARTIES)] == before


OTHER_KINDS = {
    "linear": ("linear", "nesterov", insecure_test_plan, 1 << 10),
    "poisson": ("poisson", "gd", insecure_test_plan, 1 << 10),
    "newton": ("logistic", "newton", insecure_test_newton_plan, 1 << 10),
    "softmax": ("softmax", "nesterov", insecure_test_perceptron_plan, 1 << 11),
    "mlp": ("mlp", "nesterov", insecure_test_perceptron_plan, 1 << 11),
}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_models_of_other_kinds_answer_as_their_twins(name, tmp_path, monkeypatch):
    kind, solver, plan_of, ring_dim = OTHER_KINDS[name]

    def choosing(workload: Any, choice: Choice, make_moduli: Any, *, free: bool) -> Any:
        return plan_of(workload, ring_dim=ring_dim, scale_bits=56, make_moduli=make_moduli)

    def load(path):
        return KeptModel.from_bytes(read_bytes(path, KIND), str(path), insecure=True)

    monkeypatch.setattr(scripts.planning, "best_plans", finding(choosing))
    monkeypatch.setattr(scripts.predict, "load_model", load)
    training = {"iterations": 2, "solver": solver} | ({} if solver == "newton" else {"learning_rate": 0.2})
    kinds = {"kind": kind}
    if kind == "mlp":
        kinds, training = kinds | {"hidden": [6, 5]}, training | {"batch": 50}
    config, keeping = parse_config({**SETTINGS, "model": kinds, "training": training}), Keeping(tmp_path, None)
    outcomes = run_parties(N_PARTIES, lambda collective: run_party(config, collective, tmp_path, False, keeping))
    model = load(tmp_path / "model.mhe")
    rows = np.array(model.task.mean) + np.random.default_rng(0).normal(size=(40, 8)) * np.array(model.task.scale)
    write_rows(tmp_path / "rows.csv", model, rows)
    key = tmp_path / "key"
    job = Job(tmp_path / "model.mhe", tmp_path / "query", key / "public.key", tmp_path / "answer")
    keygen(job.model, key)
    query(job.model, tmp_path / "rows.csv", job.query)
    run_parties(N_PARTIES, lambda collective: answer_party(job, keeping, collective))
    open_answer(job.model, key, job.out, tmp_path / "answers.csv")
    table = np.genfromtxt(tmp_path / "answers.csv", delimiter=",", names=True, deletechars="")
    z = outcomes[0].plan.network.outputs_of(outcomes[0].clear.twin, model.task.standardised(rows))
    expected = {name: np.array(cells, dtype=float) for name, cells in answer_columns(model.task, z).items()}
    chosen = expected.pop("predicted", None)
    assert set(expected) <= set(table.dtype.names)
    for column, values in expected.items():
        # an error of an output is one of its logarithm where that is shown
        size = np.maximum(values, 1.0) if column == "rate" else 1.0
        assert np.abs((table[column] - values) / size).max() < model.prediction.error < 0.2
    if chosen is not None:
        margin = np.abs(z[:, 0] if z.shape[1] == 1 else z[:, 0] - z[:, 1]) > 2 * model.prediction.error
        assert margin.any()
        np.testing.assert_array_equal(table["predicted"][margin], chosen[margin])


def test_a_state_is_not_lost_to_another_training(trained):
    config, keeping = parse_config(SETTINGS), Keeping(trained.folder / "out", PASSPHRASE)
    with pytest.raises(StateError, match="holds the state of an earlier training"):
        run_parties(1, lambda collective: run_party(config, collective, trained.folder / "out", True, keeping))


def test_states_are_kept_only_where_the_model_is(tmp_path):
    released = parse_config({**SETTINGS, "release": {"what": "model"}})
    for config, keeping in ((parse_config(SETTINGS), None), (released, Keeping(tmp_path, None))):
        with pytest.raises(ConfigError, match="a folder for the states is needed where"):
            run_parties(1, lambda c, config=config, keeping=keeping: run_party(config, c, tmp_path, True, keeping))


def test_states_and_keys_of_two_models_are_not_mixed(trained, tmp_path):
    model = trained.model
    different = replace(model, task=replace(model.task, kind="linear"))
    (tmp_path / "model.mhe").write_bytes(different.to_bytes())
    (tmp_path / "rows.csv").write_text(",".join(model.task.columns) + "\n" + ",".join("1" * 8) + "\n")
    job = Job(tmp_path / "model.mhe", tmp_path / "query", tmp_path / "key" / "public.key", tmp_path / "answer")
    keygen(job.model, tmp_path / "key")
    with pytest.raises(MHEError):
        query(trained.folder / "out" / "gone", tmp_path / "rows.csv", job.query)
    query(job.model, tmp_path / "rows.csv", job.query)
    keeping = Keeping(trained.folder / "out", PASSPHRASE)
    with pytest.raises(StateError, match="is the state for the model"):
        run_parties(N_PARTIES, lambda collective: answer_party(job, keeping, collective))


def answers(kind, classes, z, *label):
    return answer_columns(Task(kind, (), classes, (), (), *label), np.array(z))


def test_what_the_outputs_of_each_kind_mean():
    logistic = answers("logistic", (2.0, 5.0), [[0.0], [3.0], [-3.0]])
    assert logistic["predicted"] == ["2", "5", "2"]
    assert [float(p) for p in logistic["probability"]] == pytest.approx([0.5, 0.952574, 0.0474259])
    assert answers("linear", (), [[1.5]]) == {"value": ["1.5"]}
    assert answers("mlp", (), [[1.5]], 20.0, 4.0) == {"value": ["26"]}
    assert answers("poisson", (), [[0.0]]) == {"rate": ["1"]}
    softmax = answers("softmax", (0.0, 1.0, 7.0), [[0.0, 0.0, np.log(2)]])
    assert softmax["predicted"] == ["7"]
    assert [float(softmax[f"probability_{c}"][0]) for c in (0, 1, 7)] == pytest.approx([0.25, 0.25, 0.5])
    assert answers("mlp", (0.0, 1.0), [[0.3, 0.2]]) == {"score_0": ["0.3"], "score_1": ["0.2"], "predicted": ["0"]}
