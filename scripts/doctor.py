"""`mhe doctor`: what a run needs of this machine, each thing tried rather than guessed, with the remedy if it fails."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import typer

from mhe.errors import ConfigError
from scripts.launch import find_launcher

WHEELS = {(3, 10): ("22.4", (2, 35)), (3, 12): ("24.4", (2, 38))}
"""By interpreter: how the version of its openfhe wheel ends, and the oldest glibc that this wheel runs on."""

ONLY_OPENFHE = 'only backend = "openfhe" needs it'

PROBE_SECONDS = 900
"""What takes longer hangs: compiling all kernels takes half a minute, on a machine whose host is busy some minutes."""


@dataclass(frozen=True)
class Check:
    """What was found; `remedy` is empty where all is well. A check that is not `needed` only advises."""

    name: str
    found: str
    remedy: str = ""
    needed: bool = True


def examine() -> bool:
    """Print every check as it is made; whether everything that is needed works."""
    works = True
    for check in _checks():
        word, colour = ("OK", typer.colors.GREEN) if not check.remedy else ("PROBLEM", typer.colors.RED)
        if check.remedy and not check.needed:
            word, colour = "advice", typer.colors.YELLOW
        typer.echo(f"{typer.style(f'{word:8}', fg=colour)}{check.name:13}{check.found}")
        if check.remedy:
            typer.echo(f"{'':8}{'':13}-> {check.remedy}")
            works = works and not check.needed
    return works


def _checks() -> Iterator[Check]:
    yield _interpreter()
    yield _wheel()
    yield _glibc()
    yield _import_openfhe()
    yield _mpiexec()
    yield _ranks()
    yield _cores()
    yield _threads()
    yield _numba()
    yield _kernels()
    yield _cache()
    yield _disk()


def _interpreter() -> Check:
    found = f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.machine()}"
    usable = sys.implementation.name == "cpython" and sys.version_info[:2] in WHEELS and sys.platform == "linux"
    usable = usable and platform.machine() == "x86_64"
    return Check("interpreter", found, "" if usable else "need CPython 3.10 or 3.12 on Linux x86_64: run 'make setup'")


def _wheel() -> Check:
    suffix, _ = WHEELS.get(sys.version_info[:2], ("", None))
    try:
        version = metadata.version("openfhe")
    except metadata.PackageNotFoundError:
        return Check("openfhe", "not installed", f"run 'make setup'; {ONLY_OPENFHE}", needed=False)
    fits = bool(suffix) and version.endswith(suffix)
    need = f"need the one that ends in {suffix}" if suffix else "there is none for this Python"
    return Check(
        "openfhe", f"wheel {version}", "" if fits else f"{need}: run 'make setup'; {ONLY_OPENFHE}", needed=False
    )


def _glibc() -> Check:
    name, version = platform.libc_ver()
    _, oldest = WHEELS.get(sys.version_info[:2], ("", (2, 35)))
    shown = f"{name or 'not glibc'} {version}".strip()
    fits = name == "glibc" and tuple(map(int, version.split(".")[:2])) >= oldest
    need = f"the openfhe wheel needs glibc >= {oldest[0]}.{oldest[1]}"
    remedy = f"{need}: take Python 3.10" if sys.version_info >= (3, 12) else f"{need}: take a newer system or container"
    return Check("C library", shown, "" if fits else f"{remedy}; {ONLY_OPENFHE}", needed=False)


def _import_openfhe() -> Check:
    # In another process: a wheel of the wrong ABI may end the process instead of raising.
    ended, said = _probe([sys.executable, "-c", "import openfhe; print(openfhe.get_native_int())"])
    if ended == 0:
        return Check("openfhe", f"can be imported, {said}-bit integers")
    remedy = f"run 'make setup', which takes an interpreter that fits; {ONLY_OPENFHE}"
    return Check("openfhe", f"cannot be imported: {said}", remedy, needed=False)


def _mpiexec() -> Check:
    try:
        launcher = find_launcher()
    except ConfigError as error:
        return Check("mpiexec", "missing", str(error))
    return Check("mpiexec", f"{launcher.path} ({launcher.version})")


def _ranks() -> Check:
    """Whether the mpiexec and the library that mpi4py loads belong together: if not, every rank is alone."""
    program = (
        "from mpi4py import MPI; world = MPI.COMM_WORLD; size = world.allreduce(1)\n"
        "if world.rank == 0: print(f'{size} ' + ' '.join(MPI.Get_library_version().split()[:3]))"
    )
    try:
        ended, said = _probe(find_launcher().command(2, ["-c", program]))
    except ConfigError:
        return Check("MPI", "not tried without mpiexec", "see mpiexec")
    if ended != 0:
        return Check("MPI", f"two ranks cannot start: {said}", "run 'make setup', or repair this machine's MPI")
    size, _, library = said.partition(" ")
    if size != "2":
        remedy = "mpiexec and mpi4py belong to different MPIs: keep one, or 'pip install mhe-learn[mpich]'"
        return Check("MPI", f"two ranks do not see each other ({library})", remedy)
    return Check("MPI", f"two ranks talk to each other, {library}")


def _cores() -> Check:
    return Check("cores", f"{len(os.sched_getaffinity(0))} usable; one party per core is fastest, more of them work")


def _threads() -> Check:
    value = os.environ.get("OMP_NUM_THREADS", "")
    alone = value == "1"
    remedy = "unset it, or set it to 1: ranks that share cores slow each other down by 5 to 10 times"
    return Check("threads", f"OMP_NUM_THREADS={value}, per party", "" if alone else remedy, needed=False)


def _numba() -> Check:
    program = "import numba; print(numba.__version__, numba.njit(lambda a: a + 1)(1))"
    ended, said = _probe([sys.executable, "-c", program])
    good = ended == 0 and said.endswith(" 2")
    return Check("numba", f"{said.removesuffix(' 2')} compiles" if good else said, "" if good else "run 'make setup'")


def _kernels() -> Check:
    """Compiles what is not in the cache yet: the first run after an installation is spared that."""
    start = time.perf_counter()
    ended, said = _probe([sys.executable, "-m", "scripts.warm"])
    if ended != 0:
        return Check("kernels", said, "run 'make setup'; if that does not help, this is a defect of the program")
    return Check("kernels", f"ring arithmetic is right, ready after {time.perf_counter() - start:.1f} s")


def _cache() -> Check:
    """Where numba keeps compiled kernels: beside the sources, else in the user's cache."""
    spec = util.find_spec("mhe")
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else Path()
    if "NUMBA_CACHE_DIR" in os.environ:
        folder = Path(os.environ["NUMBA_CACHE_DIR"])
    good = os.access(folder, os.W_OK)
    remedy = "" if good else "set NUMBA_CACHE_DIR to a directory that can be written, or every process compiles anew"
    return Check("kernel cache", f"{folder} can{'' if good else 'not'} be written", remedy, needed=False)


def _disk() -> Check:
    """Shared memory and temporary files of MPI."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(1 << 20))
    except OSError as error:
        return Check("disk", f"{tempfile.gettempdir()}: {error}", "free some space, or set TMPDIR to another directory")
    return Check("disk", f"{tempfile.gettempdir()} can be written")


def _probe(command: list[str]) -> tuple[int, str]:
    """Exit code of a command and its last line, from whichever of its outputs has one."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return 1, str(error)
    lines = [line.strip() for line in (done.stdout if done.returncode == 0 else done.stdout + done.stderr).splitlines()]
    return done.returncode, next((line for line in reversed(lines) if line), "")
