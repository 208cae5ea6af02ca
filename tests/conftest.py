"""The evaluators that one suite runs on."""

from __future__ import annotations

import pytest

from tests.evaluators import EVALUATORS, REAL


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
