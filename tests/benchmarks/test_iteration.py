"""The job of `mhe bench iteration` is one that `mhe train` takes, the same for both backends but for the backend."""

from __future__ import annotations

import pytest

from benchmarks.iteration import BACKENDS, CONFIG, FEATURES, PARTIES, write_tables
from models.data import check_summaries, load_shard, summary
from scripts.config import load_config
from scripts.planning import make_plan

ROWS = 128


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("iteration")
    write_tables(folder, ROWS)
    for backend in BACKENDS:
        (folder / f"{backend}.toml").write_text(CONFIG.format(backend=backend, iterations=3), encoding="utf-8")
    return {backend: load_config(folder / f"{backend}.toml") for backend in BACKENDS}


def test_backends_have_the_same_job(configs):
    first, second = (config.model_dump(exclude={"crypto": {"backend"}}) for config in configs.values())
    assert first == second
    assert [config.crypto.backend for config in configs.values()] == list(BACKENDS)


def test_tables_are_whole_and_every_row_is_trained_on(configs):
    shards = [load_shard(configs["native"].source, rank, PARTIES) for rank in range(PARTIES)]
    summaries = [summary(shard, "binary") for shard in shards]
    target = check_summaries(summaries, "binary")
    assert [shard.features.shape for shard in shards] == [(ROWS, FEATURES)] * PARTIES
    plan = make_plan(configs["native"], summaries, target.outputs)
    assert plan.precision.released_error <= configs["native"].release.precision
