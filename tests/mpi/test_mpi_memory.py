"""Real processes: one secret share in each, and no fingerprint of one rank's secret or rows in another's memory."""

from __future__ import annotations

from itertools import permutations

import pytest


@pytest.mark.parametrize(("evaluator", "n_ranks"), [("native", 3), ("openfhe", 2)])
def test_no_process_holds_what_is_anothers(mpi_job, evaluator, n_ranks):
    """Not on the simulation: it has no secrets, and everybody's values are seen by all."""
    job = mpi_job(n_ranks, "program_memory.py", evaluator, timeout_seconds=120)
    assert job.exit_code == 0, job.errors
    assert sorted(job.reports) == list(range(n_ranks))
    for report in job.reports.values():
        assert report["secrets"] == {"SecretShare": 1, "EphemeralSecret": 0, "ReceiverSecret": 0}
        assert report["model"] == job.reports[0]["model"]
        # The control: what is a rank's own, the same search has found in its memory.
        assert report["arrays"] > 100
        assert report["coefficients"] in report["seen"]
        assert set(report["rows"]) <= set(report["seen"])
        assert len(set(report["forms"]) & set(report["seen"])) >= 6
    for owner, other in permutations(job.reports.values(), 2):
        assert not set(owner["forms"]) & set(other["seen"])
        assert not set(owner["rows"]) & set(other["seen"])
