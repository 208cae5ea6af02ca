"""What a result was measured on: recorded beside every figure."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("openfhe", "numpy", "numba", "llvmlite", "mpi4py", "scikit-learn")


def environment() -> dict[str, Any]:
    """Machine, interpreter, packages, commit and time, as JSON."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "threads_per_rank": os.environ.get("OMP_NUM_THREADS"),
        "commit": _commit(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def cpu_model() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _commit() -> str:
    """The commit that is checked out, marked where the tree differs from it in more than records and the pages made of
    them; empty outside a checkout.
    """
    commit = _git("rev-parse", "--short", "HEAD")
    code = ("--", ":/", ":(top,exclude)benchmarks/results", ":(top,exclude)docs")
    return commit + "-dirty" if _git("status", "--porcelain", "--untracked-files=no", *code) else commit


def _git(*arguments: str) -> str:
    shown = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )  # fmt: skip
    return shown.stdout.strip()
