"""Starting one process per party with mpiexec, and everything that can be refused before that."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mhe.errors import ConfigError
from models.data import check_files, check_summaries, code, pooled, summary
from scripts import THREADS
from scripts.config import Config

TERMINAL_VARIABLE = "MHE_TERMINAL"
"""Columns of the terminal that the launcher writes to, absent if it writes to none: ranks only see a pipe."""

GRACE_SECONDS = 5.0
"""How long mpiexec may take to end its ranks after a signal, before they are killed."""


@dataclass(frozen=True)
class Launcher:
    """An mpiexec. `version` is what it says of itself, in one line."""

    path: str
    version: str

    @property
    def is_open_mpi(self) -> bool:
        return any(name in self.version.lower() for name in ("open mpi", "open-mpi", "openrte", "prte"))

    def command(self, n_parties: int, program: Sequence[str], hostfile: Path | None = None) -> list[str]:
        """Runs `python program...` n_parties times."""
        options = ["-n", str(n_parties)]
        if self.is_open_mpi:
            # Open MPI refuses root and more ranks than cores, and takes no environment to other machines by itself.
            options += ["--oversubscribe"] + (["--allow-run-as-root"] if os.geteuid() == 0 else [])
            options += [word for name in THREADS for word in ("-x", name)]
        if hostfile is not None:
            options += ["--hostfile" if self.is_open_mpi else "-f", str(hostfile)]
        return [self.path, *options, sys.executable, *program]


def find_launcher() -> Launcher:
    """The mpiexec of this environment, else the one on PATH. Raises ConfigError if there is none that runs."""
    beside = Path(sys.executable).parent
    path = shutil.which("mpiexec", path=str(beside)) or shutil.which("mpiexec") or shutil.which("mpirun")
    remedy = f"run '{sys.executable} -m pip install mhe-learn[mpich]', or install an MPI of your system"
    if path is None:
        raise ConfigError(f"mpiexec found neither in {beside} nor on PATH: {remedy}")
    try:
        shown = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{path} does not run ({error}): {remedy}") from None
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines() if line.strip()]
    return Launcher(path, ", ".join(lines[:2]) or "unknown")


def check_output(out: Path, force: bool) -> None:
    """Raise ConfigError if `out` cannot become the output directory, or holds something and `force` is not given."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is not a directory: name another one")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise ConfigError(f"--out {out} is not empty and was left as it is: name another one, or give --force")


def check_ready(config: Config, n_parties: int, *, all_here: bool) -> None:
    """Refuse what would fail on the ranks anyway, before any is started.

    all_here: whether all parties run on this machine. Of files that belong to one party each, only their presence is
    looked at: no process reads the rows of two parties. Raises ConfigError and DataError.
    """
    config.check_parties(n_parties)
    source = config.source
    if source.is_common:
        shards = pooled(source, n_parties)
        target = check_summaries([summary(shard, source.target) for shard in shards], source.target)
        for shard in shards:
            code(shard, target)
    elif all_here:
        check_files(source, range(n_parties))


def launch(n_parties: int, arguments: Sequence[str], hostfile: Path | None = None) -> int:
    """Run `mhe arguments...` on n_parties ranks and return the exit code of the job (128 + signal if one ended it).

    The ranks get no standard input. SIGINT, SIGTERM and SIGHUP are passed on and end all ranks. Raises ConfigError if
    there is no mpiexec or no such hostfile.
    """
    if hostfile is not None and not hostfile.is_file():
        raise ConfigError(f"--hostfile {hostfile}: no such file")
    command = find_launcher().command(n_parties, ["-m", "scripts.cli", *arguments], hostfile)
    environment = dict(os.environ)
    environment.pop(TERMINAL_VARIABLE, None)
    if sys.stdout.isatty():
        environment[TERMINAL_VARIABLE] = str(shutil.get_terminal_size().columns)
    # A session of its own, so that Ctrl-C reaches the job once, through us, and the whole of it can be killed.
    job = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
    received: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        received.append(number)
        job.send_signal(number)

    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, forward) for number in handled]
    try:
        while True:
            try:
                status = job.wait(timeout=GRACE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if received:
                    os.killpg(job.pid, signal.SIGKILL)
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)
    if received:
        return 128 + received[0]
    return status if status >= 0 else 128 - status
