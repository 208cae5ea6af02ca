"""What operations cost on this machine: measured on request, kept in the user's cache, or else a default table."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.environment import cpu_model
from mhe.ring.vectors import HAS_FMA
from models.cost import DEFAULT_UNITS, UnitCosts

FORMAT = 2
"""Raised when operations, or the work in them, change their meaning."""

PACKAGES = ("numpy", "numba", "llvmlite")


def units() -> UnitCosts:
    """Those of this machine if they were measured, with these versions; the default table otherwise."""
    path = cache_file()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return DEFAULT_UNITS
    rates = {
        name: {int(n): {int(limbs): float(rate) for limbs, rate in rings.items()} for n, rings in by_ring.items()}
        for name, by_ring in stored["units"]["rates"].items()
    }
    kept = stored["units"]
    return UnitCosts(rates, kept["source"], kept["base_bytes"], kept["crowded"])


def calibrate(say: Callable[[str], None]) -> UnitCosts:
    """Measure, and keep what was found. Takes half a minute on a quiet machine.

    Raises as `benchmarks.units.measure`; nothing is kept then.
    """
    from benchmarks.units import measure

    found, path = measure(say), cache_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"fingerprint": fingerprint(), "units": asdict(found)}, indent=1)
    # another process may read it at any time: it sees all or nothing
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
    say(f"kept in {path}")
    return found


def fingerprint() -> Mapping[str, Any]:
    """What the cost of an operation depends on."""
    return {
        "format": FORMAT,
        "backend": "native",
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "fma": HAS_FMA,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def cache_file() -> Path:
    """By the fingerprint, in the user's cache folder."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.blake2b(json.dumps(fingerprint(), sort_keys=True).encode(), digest_size=8).hexdigest()
    return Path(folder) / "mhe" / f"costs-{digest}.json"
