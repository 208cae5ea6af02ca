"""The command line that mpiexec gets, by flavour, and what `mhe doctor` says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scripts import cli, doctor, launch
from scripts.launch import Launcher, find_launcher

MPICH = Launcher("/bin/mpiexec", "HYDRA build details:, Version: 4.2")
OPEN_MPI = Launcher("/bin/mpiexec", "mpiexec (Open MPI) 4.1.4, Report bugs to http://www.open-mpi.org/community/help/")


def test_mpich_needs_no_options(tmp_path: Path) -> None:
    assert MPICH.command(3, ["-m", "x"]) == ["/bin/mpiexec", "-n", "3", sys.executable, "-m", "x"]
    assert MPICH.command(3, ["-m", "x"], tmp_path)[3:5] == ["-f", str(tmp_path)]


@pytest.mark.parametrize("user", [0, 1000])
def test_open_mpi_as_root_on_few_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    command = OPEN_MPI.command(3, ["-m", "x"], tmp_path)
    assert ("--allow-run-as-root" in command) == (user == 0)
    assert "--oversubscribe" in command
    assert command[-5:] == ["--hostfile", str(tmp_path), sys.executable, "-m", "x"]


def test_launcher_beside_the_interpreter_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mpiexec"
    program.write_text("#!/bin/sh\necho 'HYDRA build details:'\necho '   Version:   9.9'\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_launcher() == Launcher(str(program), "HYDRA build details:, Version: 9.9")


def test_threads_are_pinned_by_importing_the_command_line() -> None:
    program = "import scripts.cli, os; print(os.environ['OMP_NUM_THREADS'], os.environ['NUMBA_NUM_THREADS'])"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    for given, expected in (({}, "1 1"), ({"OMP_NUM_THREADS": "2"}, "2 1")):
        shown = subprocess.run(
            [sys.executable, "-c", program], env=environment | given, capture_output=True, text=True, check=True
        )
        assert shown.stdout.strip() == expected


def test_doctor_finds_this_machine_well() -> None:
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 0, result.output
    for name in ("interpreter", "openfhe", "C library", "mpiexec", "MPI", "cores", "threads", "numba", "kernels"):
        assert any(line.startswith("OK") and name in line for line in result.output.splitlines()), name


def test_doctor_names_problem_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(doctor, "_kernels", lambda: doctor.Check("kernels", "not tried"))
    monkeypatch.setattr(doctor.metadata, "version", lambda _: "1.6.1.0.99.9")
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 1
    assert "advice  openfhe      wheel 1.6.1.0.99.9" in result.output
    assert "PROBLEM mpiexec" in result.output
    assert "-> mpiexec found neither" in result.output


def test_advice_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = doctor.Check("threads", "OMP_NUM_THREADS=8", "set it to 1", needed=False)
    monkeypatch.setattr(doctor, "_checks", lambda: iter([advice]))
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 0
    assert "advice  threads" in result.output
