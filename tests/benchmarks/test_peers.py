"""Peers get the very task of `mhe train`, and their scripts compute its twin: those whose packages are at hand here."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.peers import __main__ as peers
from benchmarks.peers.task import Task
from models.data import check_summaries, code, pooled, summary
from models.twin import train_twin
from scripts.config import load_config
from scripts.planning import make_plan


@pytest.fixture(scope="module")
def config():
    return load_config(peers.CONFIG)


@pytest.fixture(scope="module")
def task(config):
    return peers.make_task(config)


def test_the_task_is_that_of_mhe_train(config, task):
    shards = pooled(config.source, 4)
    summaries = [summary(shard, config.source.target) for shard in shards]
    target = check_summaries(summaries, config.source.target)
    everything = np.concatenate([shard.features for shard in shards])
    mean, spread = everything.mean(axis=0), everything.std(axis=0)
    rows = [((s.features - mean) / spread, code(s, target).labels[:, None]) for s in shards]
    (weights,), _ = train_twin(make_plan(config, summaries, target.outputs), rows, 0)
    np.testing.assert_allclose(peers.twin_weights(task), weights[:, 0], rtol=0, atol=1e-12)


def test_a_task_survives_its_file(task, tmp_path):
    task.save(tmp_path / "task.npz")
    read = Task.load(tmp_path / "task.npz")
    assert read.settings == task.settings
    for name in ("x", "y", "test_x", "test_y"):
        np.testing.assert_array_equal(getattr(read, name), getattr(task, name))


def test_scikit_learn_is_near(task, tmp_path):
    run = peers.run_script(Path(sys.executable), peers.PEERS["scikit-learn"], task, tmp_path)
    assert abs(task.accuracy(np.array(run["weights"])) - task.accuracy(peers.twin_weights(task))) < 0.015
    assert all(0 < seconds < 1 for seconds in run["seconds"])


def test_openfhe_on_its_own_computes_the_twin(task, tmp_path):
    short = replace(task, settings=replace(task.settings, iterations=2))
    run = peers.run_script(Path(sys.executable), peers.PEERS["openfhe-single-key"], short, tmp_path)
    np.testing.assert_allclose(run["weights"], peers.twin_weights(short), rtol=0, atol=1e-6)
    assert run["settings"]["ring_dim"] == 1 << 14
    assert len(run["seconds"]) == len(run["cpu_seconds"]) == 2


def test_an_unknown_peer_is_named():
    import typer

    app = typer.Typer()
    app.command()(peers.main)
    result = CliRunner().invoke(app, ["nobody"])
    assert result.exit_code == 2
    assert "nobody" in result.output
