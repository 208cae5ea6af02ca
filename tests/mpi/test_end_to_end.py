"""Whole runs of the command line with real processes: what they leave behind, and how they refuse and end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import scripts.planning
from mhe.errors import ConfigError, MHEError
from mhe.parameters import LOG_QP_CAPS
from models.data import code, load_shard, stack, summary
from models.kinds import KINDS as MODEL_KINDS
from models.metrics import quality, quality_from_counts, score_counts
from models.plan import CircuitPlan
from models.quality import NAMES
from models.reference import fit_exact
from models.target import Target
from models.training import Standardisation, standardisation
from models.twin import train_twin
from network.local import run_parties
from scripts.agreement import agree_on_settings
from scripts.config import load_config
from scripts.planning import make_plan
from scripts.train import run_party
from tests.insecure import choose_insecure_test_plan, finding
from tests.runs import surely

ROOT = Path(__file__).parents[2]
MHE = [sys.executable, "-m", "scripts.cli"]
LOGISTIC = "[model]\nl2 = 0.1\n[training]\niterations = 4\nmomentum = 0.5\nlearning_rate = 0.5\n"
CLEAR = '[crypto]\nbackend = "clear"\nring_dim = 32768\ndigits = 3\n'
"""The simulation, where the search has few chains to look at."""

INSECURE_TRAIN = Path(__file__).parent / "program_insecure_train.py"
SECONDS = 30
"""No refusal takes longer, however busy the machine is; measured: 2."""

SCHEMA = {
    "model": str,
    "parties": int,
    "rows_train": int,
    "rows_test": int,
    "features": int,
    "parameters": {
        "ring_dim": int,
        "log_qp": float,
        "scale_bits": int,
        "depth": int,
        "security_bits": int,
        "statistical_bits": int,
        "backend": str,
    },
    "iterations": int,
    "seconds": {"setup": float, "training": float, "per_iteration": float, "release": float},
    "per_party": list,
    "accuracy": float,
    "auc": float,
    "clear_twin": {"accuracy": float, "auc": float},
    "exact": {"accuracy": float, "auc": float},
    "max_weight_error": float,
}
PARTY = {"cpu_seconds": float, "bytes_sent": int, "bytes_received": int, "rounds": int, "peak_rss_mib": float}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    exit_code: int
    seconds: float
    output: str
    errors: str


@pytest.fixture(scope="module")
def mpiexec():
    found = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip("needs mpiexec; install the extra 'mpich'")
    return found


def start(command, **environment):
    """A command of this project, in a process group of its own."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(command, timeout_seconds=90.0, **environment):
    """Run a command to its end; a command that takes too long is ended, with all its processes, and fails the test."""
    began = time.monotonic()
    process = start(command, **environment)
    try:
        output, errors = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        for pid in [*descendants(process.pid), process.pid]:
            end(pid)
        output, errors = process.communicate()
        pytest.fail(f"{command} did not end in {timeout_seconds} s\n{output}\n{errors}")
    return Done(process.returncode, time.monotonic() - began, output, errors)


def descendants(pid):
    """The processes below this one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
    below = [child for child, parent in parents.items() if parent == pid]
    return below + [process for child in below for process in descendants(child)]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def end(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def run_threads(config_path, out, n_parties=2):
    """The program of the ranks, by parties in this process: the same messages, and the same files."""
    settings = load_config(config_path)
    run_parties(n_parties, lambda collective: run_party(settings, collective, out, force=False))


def write_table(path, rows, seed=0, columns=("a", "b", "c"), change=None):
    """A CSV file with a noisy linear relation; change(lines) edits its cells, header included."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, len(columns))) * (1, 30, 0.2)[: len(columns)] + 5
    labels = (x - 5) @ (1, -0.03, 2) + 0.5 * random.normal(size=rows) > 0
    cells = [[f"{cell:.4f}" for cell in row] for row in x]
    lines = [[*columns, "ill"], *([*row, str(int(label))] for row, label in zip(cells, labels, strict=True))]
    if change is not None:
        change(lines)
    path.write_text("".join(",".join(line) + "\n" for line in lines))


def write_config(folder, name="c.toml", train="x.csv", data="", rest=LOGISTIC + CLEAR):
    path = folder / name
    path.write_text(f'[data]\ntrain = "{train}"\nlabel = "ill"\n{data}\n{rest}')
    return path


def check_schema(result, schema):
    for key, kind in schema.items():
        if isinstance(kind, dict):
            check_schema(result[key], kind)
        else:
            assert isinstance(result[key], kind), key


@dataclass(frozen=True)
class Expected:
    """What a run must find, computed here in the clear: on standardised rows, of all parties."""

    plan: CircuitPlan
    twin: np.ndarray
    standard: Standardisation
    test: np.ndarray
    labels: np.ndarray
    exact: float | None

    @property
    def weight_error(self):
        return surely(self.plan.precision.weight_error, self.plan.layout.features)


def expected(config_path, n_parties):
    config = load_config(config_path)
    shards = [
        code(load_shard(config.source, rank, n_parties), Target("binary", (0.0, 1.0))) for rank in range(n_parties)
    ]
    plan = make_plan(config, [summary(shard, "binary") for shard in shards], outputs=1)
    rows = stack(shards)
    standard = standardisation(rows.features.mean(axis=0), rows.features.var(axis=0))
    pieces = [(standard(shard.features), shard.labels[:, None]) for shard in shards]
    (twin,), _ = train_twin(plan, pieces, config.training.seed)
    test = standard(rows.test_features)
    exact = fit_exact("logistic", standard(rows.features), rows.labels, config.model.l2, ())
    accuracy = quality(exact(test)[:, 0], rows.test_labels).accuracy
    return Expected(plan, twin[:, 0], standard, test, rows.test_labels, accuracy)


def check_run(out, config_path, n_parties, rows, *, secure=True):
    """result.json, model.npz and metrics.jsonl of a run that releases the model, against each other and the twin."""
    config = load_config(config_path)
    result = json.loads((out / "result.json").read_text())
    check_schema(result, SCHEMA)
    assert (result["model"], result["parties"], result["features"]) == ("logistic", n_parties, 3)
    assert (result["rows_train"], result["rows_test"]) == (round(0.8 * rows), round(0.2 * rows))
    assert result["iterations"] == config.training.iterations
    assert result["parameters"]["backend"] == config.crypto.backend
    if secure:
        assert result["parameters"]["log_qp"] <= LOG_QP_CAPS[128][result["parameters"]["ring_dim"]]
        assert (result["parameters"]["security_bits"], result["parameters"]["statistical_bits"]) == (128, 128)
    assert len(result["per_party"]) == n_parties
    for party in result["per_party"]:
        check_schema(party, PARTY)
        assert party["cpu_seconds"] > 0
        assert party["peak_rss_mib"] > 10
        assert (party["bytes_sent"] > 0) == (party["bytes_received"] > 0) == (n_parties > 1)
    sent, received = (sum(p[name] for p in result["per_party"]) for name in ("bytes_sent", "bytes_received"))
    assert sent == received

    found, model = expected(config_path, n_parties), np.load(out / "model.npz")
    shapes = {name: model[name].shape for name in model.files}
    assert shapes == {"coef": (1, 3), "intercept": (1,), "mean": (3,), "scale": (3,)}
    np.testing.assert_allclose(model["mean"], found.standard.mean, rtol=1e-9)
    np.testing.assert_allclose(model["scale"], found.standard.scale, rtol=1e-9)
    weights = np.append(model["coef"], model["intercept"])
    error = np.abs(weights - found.twin).max()
    assert error <= found.weight_error
    assert found.plan.precision.weight_error <= config.release.precision
    assert result["max_weight_error"] == pytest.approx(error, rel=1e-6)
    scores = found.test @ model["coef"][0] + model["intercept"]
    recomputed = quality_from_counts(score_counts(scores, found.labels))
    assert (result["accuracy"], result["auc"]) == (recomputed.accuracy, recomputed.auc)
    assert abs(result["accuracy"] - result["clear_twin"]["accuracy"]) <= 0.002
    assert result["exact"]["accuracy"] == found.exact

    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(1, config.training.iterations + 1))
    assert all(line["levels"] == 4 and line["seconds"] > 0 for line in lines)
    assert sorted(path.name for path in out.iterdir()) == ["metrics.jsonl", "model.npz", "result.json"]
    return result


# runs


@pytest.mark.parametrize(
    ("evaluator", "n_parties"),
    [("native", 1), ("native", 5), ("openfhe", 2)],
)
def test_parties_train_the_twins_model(evaluator, n_parties, tmp_path, mpiexec, monkeypatch):
    """In a small ring; two parties are below, three in test_mpi_memory.py. What crosses between processes does not hang
    on the evaluator: once with OpenFHE. Of five parties, not in the tree that would be taken unasked.
    """
    write_table(tmp_path / "x.csv", 60)
    rest = f'{LOGISTIC}[crypto]\nbackend = "{evaluator}"\n'
    rest += "[network]\narity = 3\nroot = 1\n" if n_parties == 5 else ""
    config, out = write_config(tmp_path, rest=rest), tmp_path / "out"
    monkeypatch.setattr(scripts.planning, "best_plans", finding(choose_insecure_test_plan))
    done = run([mpiexec, "-n", n_parties, sys.executable, INSECURE_TRAIN, config, out])
    assert done.exit_code == 0, done.errors
    assert "accuracy" in done.output
    result = check_run(out, config, n_parties, 60, secure=False)
    assert result["rows_train"] == 48


KINDS = {
    "linear": "",
    "poisson": "interval = [-3, 3]\n",
    "softmax": "",
    "mlp": "hidden = [5]\n",
}


def label_rows(kind):
    """Numbers, counts or one of three classes in place of yes and no."""

    def change(lines):
        random = np.random.default_rng(1)
        for line in lines[1:]:
            u = float(line[0]) - 5 - 0.03 * (float(line[1]) - 5)
            label = {"linear": u + random.normal(), "poisson": random.poisson(np.exp(0.3 * u))}
            line[3] = str(label.get(kind, int(np.digitize(u + 0.3 * random.normal(), [-0.7, 0.7]))))

    return change


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_train_the_twins_model(kind, tmp_path):
    """The simulation at real parameters, from the table to the files that it leaves behind."""
    write_table(tmp_path / "x.csv", 90, change=label_rows(kind))
    rest = f'[model]\nkind = "{kind}"\nl2 = 0.1\n{KINDS[kind]}[training]\niterations = 4\nlearning_rate = 0.2\n{CLEAR}'
    config, out = write_config(tmp_path, rest=rest), tmp_path / "out"
    run_threads(config, out)
    result = json.loads((out / "result.json").read_text())
    assert (result["model"], result["parties"], result["rows_train"] + result["rows_test"]) == (kind, 2, 90)
    assert 0 < result["max_weight_error"] <= surely(result["predicted"]["max_weight_error"], 100)
    names = NAMES[MODEL_KINDS[kind].target]
    assert result["clear_twin"].keys() == result["exact"].keys() == set(names)
    for name in names:
        assert result[name] == pytest.approx(result["clear_twin"][name], abs=0.06)
        assert np.isfinite(result["exact"][name])
    outputs = 1 if kind in ("linear", "poisson") else 3
    model = np.load(out / "model.npz")
    shapes = {name: model[name].shape for name in model.files if name not in ("mean", "scale")}
    if kind == "mlp":
        assert shapes == {"coef_0": (5, 3), "intercept_0": (5,), "coef_1": (3, 5), "intercept_1": (3,)}
    else:
        assert shapes == {"coef": (outputs, 3), "intercept": (outputs,)}
    assert (result["polynomials"]["interval"] is None) == (kind == "linear")


def test_secure_run_at_128_bits(tmp_path, mpiexec):
    """Real parameters, real cryptography, real processes, started by hand: as small as it gets."""
    write_table(tmp_path / "x.csv", 60)
    rest = LOGISTIC.replace("iterations = 4", "iterations = 2") + '[crypto]\nbackend = "native"\n'
    rest += "[release]\nstatistical_bits = 30\nprecision = 0.01\n"
    config, out = write_config(tmp_path, rest=rest), tmp_path / "out"
    done = run([mpiexec, "-n", 2, *MHE, "train", config, "--out", out], timeout_seconds=240)
    assert done.exit_code == 0, done.errors
    result = check_run(out, config, 2, 60)
    assert result["parameters"]["ring_dim"] >= 16384
    for party, planned in zip(result["per_party"], result["predicted"]["iteration"], strict=True):
        assert party["iteration"]["bytes_sent"] == pytest.approx(planned["bytes_sent"], rel=0.05)
        assert party["iteration"]["bytes_received"] == pytest.approx(planned["bytes_received"], rel=0.05)
        assert party["iteration"]["rounds"] == planned["rounds"]
    first = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert first["bytes_sent"] == result["per_party"][0]["iteration"]["bytes_sent"]


def write_sites(folder, n_parties, rows=30, **bad):
    """One file each; site{r}={...} are options of write_table for party r, None leaves its file away."""
    for rank in range(n_parties):
        options = bad.get(f"site{rank}", {})
        if options is not None:
            write_table(folder / f"site{rank}.csv", **{"rows": rows, "seed": rank, **options})


def check_model_was_kept(printed, out):
    """The result of a run of two sites of 30 rows each that releases no model."""
    assert "AUDIT" not in printed
    assert not (out / "model.npz").exists()
    result = json.loads((out / "result.json").read_text())
    assert result["rows_train"] + result["rows_test"] == 60
    assert result["clear_twin"] is result["exact"] is result["max_weight_error"] is None
    assert result["polynomials"]["widest_input"] is None
    return result


def test_sites_may_release_nothing(tmp_path, capsys):
    write_sites(tmp_path, 2)
    rest = f'{LOGISTIC}{CLEAR}[release]\nwhat = "nothing"\n'
    out = tmp_path / "out"
    run_threads(write_config(tmp_path, train="site{party}.csv", rest=rest), out)
    result = check_model_was_kept(capsys.readouterr().out, out)
    assert result["accuracy"] is result["auc"] is None


def test_sites_keep_their_rows_and_the_model(tmp_path, mpiexec):
    """In a folder that others use too; the ranks are started by `mhe train --parties`."""
    write_sites(tmp_path, 2)
    rest = f'{LOGISTIC}{CLEAR}[release]\nwhat = "predictions"\n'
    config, out = write_config(tmp_path, train="site{party}.csv", rest=rest), tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text("outdated")
    (out / "notes.txt").write_text("mine")
    done = run([*MHE, "train", config, "--parties", 2, "--out", out, "--force"])
    assert done.exit_code == 0, done.errors
    assert (out / "notes.txt").read_text() == "mine"
    result = check_model_was_kept(done.output, out)
    # rows whose logits are as small as the planned error may fall on either side
    found = expected(config, 2)
    logits = found.test @ found.twin[:-1] + found.twin[-1]
    written = [np.genfromtxt(out / f"predictions-{rank}.csv", delimiter=",", names=True) for rank in range(2)]
    delivered = np.concatenate([np.atleast_1d(own["logit"]) for own in written])
    assert np.abs(delivered - logits).max() < surely(found.plan.precision.logit_error, found.plan.layout.rows)
    certain = np.abs(logits) > surely(found.plan.precision.logit_error, found.plan.layout.rows)
    right = (logits > 0) == (found.labels == 1)
    assert np.mean(right & certain) <= result["accuracy"] <= np.mean(right | ~certain)
    assert np.mean(certain) > 0.5
    assert 0.5 < result["auc"] <= 1


def test_audit_of_sites_says_what_it_gives_away(tmp_path, capsys):
    write_sites(tmp_path, 2, site1={"rows": 11})
    config = write_config(
        tmp_path, train="site{party}.csv", rest=LOGISTIC + CLEAR + "[audit]\nclear_twin = true\n", data="split_seed = 3"
    )
    run_threads(config, tmp_path / "out")
    said = capsys.readouterr().out
    assert "AUDIT" in said
    assert "IN THE CLEAR" in said
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert 0 <= result["max_weight_error"] <= surely(result["predicted"]["max_weight_error"], 4)
    assert result["clear_twin"]["accuracy"] == pytest.approx(result["accuracy"], abs=0.002)
    assert result["exact"]["accuracy"] is not None


# refusals


def check_refusal(done, said, out):
    """Within seconds, once and in words, and nothing is left behind."""
    assert done.exit_code != 0
    assert done.seconds < SECONDS
    assert "Traceback" not in done.errors + done.output
    assert done.errors.count("error: ") == 1, done.errors
    (line,) = [line for line in done.errors.splitlines() if "error: " in line]
    for part in said:
        assert part in line
    assert not out.exists()


def change_cell(row, column, value):
    def change(lines):
        lines[row - 1][column] = value

    return change


def change_all(column, value):
    def change(lines):
        for line in lines[1:]:
            line[column] = value

    return change


def header_only(lines):
    del lines[1:]


def count_labels(lines):
    for number, line in enumerate(lines[1:]):
        line[3] = str(number)


SITES = {
    "file": ({"site1": None}, ["party 1: ", "site1.csv: no such file"]),
    "label": (
        {"site1": {"change": change_cell(1, 3, "sick")}},
        ["party 1: ", "site1.csv: has no label column 'ill'", "'sick'"],
    ),
    "text": (
        {"site0": {"change": change_cell(7, 1, "many")}},
        ["site0.csv, row 7, column 'b': holds 'many'; need a finite number"],
    ),
    "NaN": (
        {"site1": {"change": change_cell(3, 0, "nan")}},
        ["party 1: ", "site1.csv, row 3, column 'a': holds 'nan'"],
    ),
    "class": (
        {"site0": {"change": change_all(3, "1")}, "site1": {"change": change_all(3, "1")}},
        ["labels of all parties have 1 distinct values (1); need exactly two"],
    ),
    "columns": (
        {"site1": {"columns": ("a", "b", "d")}},
        ["party 1 has other columns than party 0: 1 missing ('c'), 1 more ('d')"],
    ),
    "rows": ({"site1": {"change": header_only}}, ["party 1: ", "site1.csv: has a header but no rows"]),
}


def check_refusal_by_threads(config, said, out, n_parties=2):
    """What ranks in this process say: the root once, for all."""
    with pytest.raises(MHEError) as caught:
        run_threads(config, out, n_parties)
    assert caught.value.__notes__ == ["raised by party 0"]
    (line,) = str(caught.value).splitlines()
    for part in said:
        assert part in line
    assert not out.exists()


@pytest.mark.parametrize("name", SITES)
def test_bad_rows_at_one_party_end_the_job(name, tmp_path):
    """Only the ranks can see it: no process reads the files of two parties."""
    bad, said = SITES[name]
    write_sites(tmp_path, 2, **bad)
    check_refusal_by_threads(write_config(tmp_path, train="site{party}.csv"), said, tmp_path / "out")


def test_bad_rows_end_real_processes(tmp_path, mpiexec):
    """Found by one party; a root that is none is found by all of them."""
    bad, said = SITES["label"]
    write_sites(tmp_path, 2, **bad)
    config, out = write_config(tmp_path, train="site{party}.csv"), tmp_path / "out"
    check_refusal(run([mpiexec, "-n", 2, *MHE, "train", config, "--out", out]), said, out)


COMMON = {
    "cap": ('[crypto]\nbackend = "clear"\nring_dim = 8192\n', ["log2(QP) is", "128-bit security allows 214"]),
    "levels": ('[crypto]\nbackend = "clear"\nlimbs = 5\n', ["limbs = 5 are too few", "4 levels are consumed"]),
    "precision": (CLEAR + "[release]\nprecision = 1e-9\n", ["weights would be released to", "1e-09 is asked for"]),
}


@pytest.mark.parametrize("name", COMMON)
def test_settings_that_cannot_be_are_refused_once(name, tmp_path):
    """All parties find out at the same time; one says so."""
    rest, said = COMMON[name]
    write_table(tmp_path / "x.csv", 60)
    check_refusal_by_threads(write_config(tmp_path, rest=LOGISTIC + rest), said, tmp_path / "out")


def test_a_root_that_is_no_party_ends_the_job_once(tmp_path, mpiexec):
    """It is noticed before there is a tree."""
    write_table(tmp_path / "x.csv", 60)
    config, out = write_config(tmp_path, rest=LOGISTIC + CLEAR + "[network]\nroot = 2\n"), tmp_path / "out"
    said = ["[network] root = 2", "less than the 2 parties"]
    check_refusal(run([mpiexec, "-n", 2, *MHE, "train", config, "--out", out]), said, out)


def test_more_parties_than_rows(tmp_path):
    write_table(tmp_path / "x.csv", 2, change=count_labels)
    config, out = write_config(tmp_path, data="test_fraction = 0.0"), tmp_path / "out"
    check_refusal_by_threads(config, ["x.csv: 2 training rows for 3 parties; need at least one"], out, n_parties=3)


def test_different_configurations(tmp_path):
    other = LOGISTIC.replace("0.5", "0.25", 1) + CLEAR
    configs = [load_config(write_config(tmp_path)), load_config(write_config(tmp_path, "other.toml", rest=other))]
    with pytest.raises(ConfigError, match=r"\[training\] momentum is 0.5 at party 0, 0.25 at party 1"):
        run_parties(2, lambda collective: agree_on_settings(configs[collective.rank], collective))


def test_different_trees(tmp_path, mpiexec):
    """With them the parties would wait for each other for ever."""
    write_table(tmp_path / "x.csv", 60)
    other = LOGISTIC + CLEAR + "[network]\nroot = 1\n"
    configs, out = [write_config(tmp_path), write_config(tmp_path, "other.toml", rest=other)], tmp_path / "out"
    one, two = ([*MHE, "train", config, "--out", out] for config in configs)
    done = run([mpiexec, "-n", 1, *one, ":", "-n", 1, *two])
    check_refusal(done, ["[network] root is 0 at party 0, 1 at party 1"], out)


def test_wrong_number_of_ranks(tmp_path, mpiexec):
    write_table(tmp_path / "x.csv", 60)
    config, out = write_config(tmp_path), tmp_path / "out"
    done = run([mpiexec, "-n", 1, *MHE, "train", config, "--parties", 2, "--out", out])
    check_refusal(done, ["--parties 2, but mpiexec started 1"], out)


def test_results_are_kept(tmp_path):
    write_table(tmp_path / "x.csv", 60)
    config, out = write_config(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text("precious")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and was left as it is: name another one, or give --force"):
        run_threads(config, out, n_parties=1)
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "result.json": "precious",
        "notes.txt": "mine",
    }


def test_without_mpiexec(tmp_path):
    """An interpreter with nothing beside it, and nothing on PATH."""
    write_table(tmp_path / "x.csv", 60)
    config, out = write_config(tmp_path), tmp_path / "out"
    empty = tmp_path / "bin"
    empty.mkdir()
    (empty / "python").symlink_to(sys.executable)
    packages = os.pathsep.join(
        [str(ROOT), *dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))]
    )
    command = [empty / "python", *MHE[1:], "train", config, "--parties", 2, "--out", out]
    done = run(command, PATH=str(empty), PYTHONPATH=packages)
    check_refusal(done, ["mpiexec found neither in", "nor on PATH", "pip install", "mpich"], out)


# ends


@pytest.fixture
def long_job(tmp_path, mpiexec):
    """(launcher, its ranks, output directory) of a job at the start of a training that outlasts the test."""
    write_table(tmp_path / "x.csv", 60)
    rest = LOGISTIC.replace("iterations = 4", "iterations = 3000") + CLEAR + "[release]\nprecision = 0.5\n"
    config, out = write_config(tmp_path, rest=rest), tmp_path / "out"
    launcher = start([*MHE, "train", config, "--parties", 2, "--out", out])
    assert any(line.startswith("keys and standardisation:") for line in launcher.stdout)
    below = descendants(launcher.pid)
    ranks = [pid for pid in below if b"mpiexec" not in (command := Path(f"/proc/{pid}/cmdline").read_bytes())
             and b"scripts.cli" in command]  # fmt: skip
    assert len(ranks) == 2
    yield launcher, ranks, out
    for pid in [*below, launcher.pid]:
        end(pid)
    launcher.communicate()


def wait_for_the_end(launcher, processes):
    """(exit code, stderr) of the launcher; all of these processes must be gone with it."""
    _, errors = launcher.communicate(timeout=SECONDS)
    deadline = time.monotonic() + 5
    while any(map(is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in processes if is_alive(pid)]
    return launcher.returncode, errors


def test_one_rank_that_dies_ends_the_job(long_job):
    launcher, ranks, out = long_job
    os.kill(ranks[1], signal.SIGKILL)
    exit_code, errors = wait_for_the_end(launcher, ranks)
    assert exit_code != 0
    assert "Traceback" not in errors
    assert not out.exists()


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_launcher_ends_every_process(number, exit_code, long_job):
    launcher, ranks, out = long_job
    processes = descendants(launcher.pid)
    assert set(ranks) < set(processes)
    launcher.send_signal(number)
    code, errors = wait_for_the_end(launcher, processes)
    assert code == exit_code
    assert "Traceback" not in errors
    assert not out.exists()
