"""Starts programs of this folder under mpiexec. The pytest process itself never imports mpi4py."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Job:
    """What became of a job. reports: what each rank wrote as JSON, by rank."""

    exit_code: int
    seconds: float
    output: str
    errors: str
    reports: dict[int, Any]


@pytest.fixture
def mpi_job(tmp_path):
    """`mpi_job(n, "program_x.py", *arguments, timeout_seconds=60)`: run it in n processes and wait.

    The program gets a folder as its first argument, into which rank r writes r.json. A job that is not done in
    time is killed, and fails the test with what it had printed.
    """
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if mpiexec is None:
        pytest.skip("needs mpiexec; install the extra 'mpich'")

    def run(n_parties: int, program: str, *arguments: object, timeout_seconds: float = 60.0) -> Job:
        folder = tmp_path / f"job-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        command = [mpiexec, "-n", n_parties, sys.executable, HERE / program, folder, *arguments]
        python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        start = time.monotonic()
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            pytest.fail(f"{program} on {n_parties} ranks did not end in {timeout_seconds} s\n{output}\n{errors}")
        seconds = time.monotonic() - start
        reports = {int(path.stem): json.loads(path.read_text()) for path in folder.glob("*.json")}
        return Job(process.returncode, seconds, output, errors, reports)

    return run
