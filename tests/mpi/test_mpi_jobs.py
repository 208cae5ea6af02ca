"""The tree over real MPI processes."""

from __future__ import annotations

import sys

import pytest

from mhe import codec
from mhe.collective import Transfer
from network.mpi import launched_under_mpi
from network.topology import Tree
from network.traffic import predict

SHARE_BYTES = 20 << 20


# of four one is neither root nor leaf
@pytest.mark.parametrize("n_parties", [1, 4])
def test_large_shares_up_and_down_the_tree(mpi_job, n_parties):
    job = mpi_job(n_parties, "program_reduce.py")
    assert job.exit_code == 0, job.errors
    assert sorted(job.reports) == list(range(n_parties))
    edge_bytes = codec.message_bytes("sum", 160, 1 << 14, n_parties)
    for phase in ("reduce", "broadcast"):
        for field in ("bytes_sent", "bytes_received"):
            assert sum(r["metrics"][phase][field] for r in job.reports.values()) == (n_parties - 1) * edge_bytes
    tree = Tree(n_parties, 2, n_parties - 1)
    for rank, report in job.reports.items():
        for kind in ("gather", "scatter"):
            planned, counted = predict(tree, rank, [Transfer(kind, "own", 24, 1 << 14)]), report["metrics"][kind]
            assert (counted["bytes_sent"], counted["bytes_received"]) == (planned.bytes_sent, planned.bytes_received)
        assert report["own"]
        assert report["correct"]
        assert report["ranks"] == list(range(n_parties))
        assert report["is_root"] == (rank == n_parties - 1)
        # Generous, because the machine may be busy; measured: 0.1 s.
        assert report["reduce_seconds"] < 5
        # The root makes the total; the others need a few chunks only, and MPI buffers for them.
        assert report["reduce_extra_bytes"] < (2 * SHARE_BYTES if report["is_root"] else SHARE_BYTES)


@pytest.mark.parametrize(("n_parties", "culprit", "when"), [(2, 0, "inside"), (5, 4, "inside"), (3, 1, "before")])
def test_one_failure_ends_the_job_with_its_own_message(mpi_job, n_parties, culprit, when):
    job = mpi_job(n_parties, "program_failure.py", culprit, when)
    assert job.exit_code != 0
    assert job.seconds < 15
    if when == "inside":
        # what a user can act upon is said without a traceback
        assert f"party {culprit}: error: rank {culprit} needs 3 levels left, got 1" in job.errors
        assert "Traceback" not in job.errors
    else:
        assert f"party {culprit}: Traceback" in job.errors
        assert f"RuntimeError: rank {culprit} has trouble before it starts" in job.errors
        assert job.errors.count("Traceback") == 1


def test_waiting_leaves_the_processor_alone(mpi_job):
    job = mpi_job(3, "program_waiting.py", 3.0)
    assert job.exit_code == 0, job.errors
    for rank, report in job.reports.items():
        assert report["waited_seconds"] > 2.9
        assert report["cpu_seconds"] < 0.3
        assert (report["waiting_seconds"] > 2.9) == (rank != 0)
        assert report["quick_seconds"] < 0.1
        assert report["launched_under_mpi"]
        assert not report["loaded_early"]


def test_launcher_is_recognised_without_mpi4py():
    assert not launched_under_mpi({})
    assert not launched_under_mpi({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"})
    for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"):
        assert launched_under_mpi({name: "0"})
    assert "mpi4py" not in sys.modules
