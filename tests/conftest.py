"""The evaluators that one suite runs on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before numpy and openfhe are imported: it leaves them one thread each, for the other cores have workers of their own.
import scripts  # noqa: F401
from tests.evaluators import EVALUATORS, REAL

# How long an example takes says nothing where other tests run beside it. The same examples in every run.
settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Jobs of many processes first: one that begins last would leave the other workers with nothing to do."""
    items.sort(key=lambda item: "mpi" not in item.path.parts)


@pytest.fixture(params=EVALUATORS)
def evaluator(request: pytest.FixtureRequest) -> str:
    """The name of each evaluator in turn."""
    name: str = request.param
    return name


@pytest.fixture(params=REAL)
def real_evaluator(request: pytest.FixtureRequest) -> str:
    """Those that encrypt. For tests of what only ciphertexts and secrets have: noise, residues, who can read what."""
    name: str = request.param
    return name


@pytest.fixture(autouse=True, scope="session")
def no_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What was measured on this machine decides nothing in a test."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder
