"""Private prediction by the command line, between real processes at real 128-bit parameters.

Only the refresh of the training has fewer statistical bits, for which half the ring is enough; test_end_to_end.py
trains with all of them.
"""

from __future__ import annotations

import csv
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mhe.errors import ConfigError, KeyMismatchError, MHEError, ParameterError, StateError
from mhe.sealed import PASSPHRASE_VARIABLE
from models.data import code, load_shard, stack, summary
from models.exchange import Query
from models.target import Target
from models.training import standardisation
from models.twin import train_twin
from network.local import run_parties
from scripts import cli
from scripts.config import load_config
from scripts.keep import Keeping
from scripts.planning import make_plan
from scripts.predict import Job, answer_party, check_job, check_querier, keygen, load_model, open_answer, query

ROOT = Path(__file__).parents[2]
MHE = [sys.executable, "-m", "scripts.cli"]
PASSPHRASE = "correct horse"
ANSWERS = 2
CONFIG = f"""
[data]
train = "builtin:pima"
label = "diabetes"
[training]
iterations = 2
learning_rate = 1.0
[crypto]
ring_dim = 16384
statistical_bits = 40
[release]
what = "encrypted"
statistical_bits = 30
answers = {ANSWERS}
"""


def run(*arguments, passphrase=PASSPHRASE):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop(PASSPHRASE_VARIABLE, None)
    if passphrase is not None:
        environment[PASSPHRASE_VARIABLE] = passphrase
    return subprocess.run(
        [*MHE, *map(str, arguments)],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def ran(*arguments, **options):
    done = run(*arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def ran_here(*arguments):
    """By a querier, who needs nobody: in this process."""
    done = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output


def in_threads(n_parties, arguments, hostfile):
    """`mhe answer` by parties in this process."""
    (command, *words), given = arguments, {}
    assert command == "answer"
    for name, value in zip(words[::2], words[1::2], strict=True):
        given[name.removeprefix("--")] = Path(value)
    keeping = Keeping(given.pop("state"), PASSPHRASE)
    run_parties(n_parties, lambda collective: answer_party(Job(**given), keeping, collective))
    return 0


@dataclass(frozen=True)
class Trained:
    """A folder with the model and the states of two parties, rows to predict and what the clear twin says of them."""

    folder: Path
    rows: Path
    logits: np.ndarray

    @property
    def model(self):
        return self.folder / "out" / "model.mhe"

    @property
    def state(self):
        return self.folder / "states"


@pytest.fixture(scope="module")
def mpiexec():
    found = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip("needs mpiexec; install the extra 'mpich'")
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory, mpiexec):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "c.toml").write_text(CONFIG)
    ran("train", folder / "c.toml", "--parties", 2, "--out", folder / "out", "--state", folder / "states")
    config = load_config(folder / "c.toml")
    loaded = [load_shard(config.source, rank, 2) for rank in range(2)]
    shards = [code(shard, Target("binary", (0.0, 1.0))) for shard in loaded]
    whole = stack(shards)
    standard = standardisation(whole.features.mean(axis=0), whole.features.var(axis=0))
    plan = make_plan(config, [summary(shard, "binary") for shard in loaded], 1)
    twin, _ = train_twin(plan, [(standard(s.features), s.labels[:, None]) for s in shards], config.training.seed)
    rows = shards[0].test_features[:5]
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        # another order than that of the training
        writer.writerow(reversed(shards[0].columns))
        writer.writerows(row[::-1] for row in rows.tolist())
    return Trained(folder, folder / "rows.csv", plan.network.outputs_of(twin, standard(rows))[:, 0])


@pytest.fixture
def key(trained, tmp_path):
    keygen(trained.model, tmp_path / "key")
    return tmp_path / "key"


def answers_in(path):
    return np.genfromtxt(path, delimiter=",", names=True)


def test_what_is_left_of_the_training(trained):
    assert {path.name for path in (trained.folder / "out").iterdir()} == {"model.mhe", "result.json", "metrics.jsonl"}
    for rank in range(2):
        home = trained.state / f"party-{rank}"
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()} == {0o600}


def test_the_three_steps_between_querier_and_parties(trained, tmp_path, monkeypatch):
    """And all of it by one command, whose parties are threads, up to the owner's limit, which others do not use."""
    key, states = tmp_path / "key", tmp_path / "states"
    shutil.copytree(trained.state, states)
    ran_here("keygen", key, "--model", trained.model)
    assert stat.S_IMODE((key / "private.key").stat().st_mode) == 0o600
    files = {"--model": trained.model, "--query": tmp_path / "q", "--receiver": key / "public.key"}
    ran_here("query", "--model", trained.model, "--rows", trained.rows, "--out", tmp_path / "q")
    given = [*(word for pair in files.items() for word in pair), "--state", states, "--out", tmp_path / "a"]
    done = ran("answer", *given, "--parties", 2)
    assert f"the model's owner allows {ANSWERS - 1} more" in done.stdout
    ran_here("open", "--model", trained.model, "--key", key, "--answer", tmp_path / "a", "--out", tmp_path / "x.csv")
    found = answers_in(tmp_path / "x.csv")
    assert np.abs(found["logit"] - trained.logits).max() < load_model(trained.model).prediction.error < 0.05
    np.testing.assert_allclose(found["probability"], 1 / (1 + np.exp(-found["logit"])), rtol=1e-4)
    np.testing.assert_array_equal(found["predicted"], found["logit"] > 0)
    # another querier cannot open them
    keygen(trained.model, tmp_path / "other")
    with pytest.raises(KeyMismatchError, match="is for the key"):
        open_answer(trained.model, tmp_path / "other", tmp_path / "a", tmp_path / "y.csv")
    assert not (tmp_path / "y.csv").exists()

    given = ["--model", trained.model, "--rows", trained.rows, "--key", key, "--state", states, "--parties", 2]
    monkeypatch.setattr(cli, "launch", in_threads)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    ran_here("predict", *given, "--out", tmp_path / "z.csv")
    assert np.abs(answers_in(tmp_path / "z.csv")["logit"] - trained.logits).max() < 0.05
    job, keeping = Job(trained.model, tmp_path / "q", key / "public.key", tmp_path / "b"), Keeping(states, PASSPHRASE)
    with pytest.raises(ParameterError, match="the rows take 1 answers, the model's owner allows 0 more"):
        run_parties(2, lambda collective: answer_party(job, keeping, collective))
    assert not job.out.exists()


@pytest.fixture
def asked(trained, key, tmp_path):
    """A job that could be done, and a folder for what is wrong."""
    query(trained.model, trained.rows, tmp_path / "q")
    return Job(trained.model, tmp_path / "q", key / "public.key", tmp_path / "a")


def test_wrong_files_are_refused_before_a_party_starts(trained, key, asked, tmp_path):
    damaged, wide, short = (tmp_path / name for name in ("damaged", "wide.csv", "short.csv"))
    damaged.write_bytes(asked.query.read_bytes()[:-1000])
    rows = trained.rows.read_text().splitlines()
    wide.write_text("\n".join([rows[0] + ",diabetes", *(row + ",1" for row in rows[1:])]))
    short.write_text("\n".join(row.partition(",")[2] for row in rows))
    far = tmp_path / "far.csv"
    far.write_text("\n".join([rows[0], ",".join(["1e6"] * 8)]))
    wrong = [
        ("does not match its checksum", lambda: check_job(replace(asked, query=damaged), False)),
        ("is a file of kind 'query'; need", lambda: check_job(replace(asked, receiver=asked.query), False)),
        ("need 'query'", lambda: check_job(replace(asked, query=trained.model), False)),
        ("no such file", lambda: check_job(replace(asked, model=tmp_path / "gone"), False)),
        ("exists and was left as it is", lambda: check_job(replace(asked, out=asked.query), False)),
        (r"with \['diabetes'\]; need just", lambda: query(trained.model, wide, tmp_path / "x")),
        (r"without \['\w+'\] and with \[\]", lambda: query(trained.model, short, tmp_path / "x")),
        ("times as large as a row of standard deviations", lambda: query(trained.model, far, tmp_path / "x")),
        ("a private key is there already", lambda: keygen(trained.model, key)),
        ("no such file", lambda: check_querier(trained.model, tmp_path)),
    ]
    for said, work in wrong:
        with pytest.raises(MHEError, match=said):
            work()
    check_job(asked, False)
    assert not (tmp_path / "x").exists()
    again = ["train", str(trained.folder / "c.toml"), "--parties", "2", "--out", str(tmp_path / "o")]
    for passphrase, arguments, said in (
        (PASSPHRASE, [*again, "--state", str(trained.state)], "holds the state of an earlier training"),
        (None, again, "no passphrase for the parties' shares: set MHE"),
    ):
        done = CliRunner().invoke(cli.app, arguments, env={PASSPHRASE_VARIABLE: passphrase})
        assert (done.exit_code, said in done.output) == (2, True)


def test_wrong_states_are_refused_before_a_share_leaves(trained, asked, tmp_path):
    other, copied = tmp_path / "swapped", tmp_path / "copied"
    for rank in range(2):
        shutil.copytree(trained.state / f"party-{rank}", other / f"party-{1 - rank}")
    shutil.copytree(trained.state / "party-0", copied / "party-0")
    model = load_model(trained.model)
    part = Query.from_bytes(asked.query.read_bytes(), model, "q")
    many = replace(part, rows=part.rows * (ANSWERS + 1), ciphertexts=part.ciphertexts * (ANSWERS + 1))
    (tmp_path / "many").write_bytes(many.to_bytes())
    wrong = [
        (StateError, "wrong passphrase, or the file was changed", asked, Keeping(trained.state, "battery staple"), 2),
        (StateError, "is sealed; give its passphrase in MHE_PASSPHRASE", asked, Keeping(trained.state, None), 2),
        (StateError, "party 1: .*no such file; need the folder into which", asked, Keeping(copied, PASSPHRASE), 2),
        (StateError, "is the state of party 1, this is 0", asked, Keeping(other, PASSPHRASE), 2),
        (ConfigError, "1 parties were started; the model belongs to 2", asked, Keeping(trained.state, PASSPHRASE), 1),
        (
            ParameterError,
            f"the rows take {ANSWERS + 1} answers, the model's owner allows",
            replace(asked, query=tmp_path / "many"),
            Keeping(trained.state, PASSPHRASE),
            2,
        ),
    ]
    before = [(trained.state / f"party-{rank}" / "state").read_bytes() for rank in range(2)]
    for kind, said, job, keeping, parties in wrong:
        with pytest.raises(kind, match=said):
            run_parties(parties, lambda c, job=job, keeping=keeping: answer_party(job, keeping, c))
    assert not asked.out.exists()
    assert [(trained.state / f"party-{rank}" / "state").read_bytes() for rank in range(2)] == before
