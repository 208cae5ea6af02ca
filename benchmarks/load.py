"""How busy a machine is with something else than what is measured."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Load:
    """CPU seconds spent until a moment, by everybody on this machine and by this process and its ended children."""

    wall: float
    everybody: float | None
    own: float

    @classmethod
    def now(cls) -> Load:
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return cls(time.monotonic(), _busy_seconds(), own)

    def others_since(self, start: Load) -> float | None:
        """The part of all cores' time that others took meanwhile, from 0 to 1; None where the system does not tell.

        The host of a virtual machine is one of them, as far as it says what it took.
        """
        if self.everybody is None or start.everybody is None:
            return None
        others = (self.everybody - start.everybody) - (self.own - start.own)
        return min(max(others / ((self.wall - start.wall) * (os.cpu_count() or 1)), 0.0), 1.0)


def part_of_others(record: Mapping[str, Any]) -> str:
    """What a record says of it, to be shown."""
    others = record.get("others")
    return "-" if others is None else f"{others:.0%}"


def _busy_seconds() -> float | None:
    if not STAT.exists():
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, STAT.read_text("ascii").split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
