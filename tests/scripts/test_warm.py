"""What set-up compiles is what later processes find."""

from __future__ import annotations

import subprocess
import sys

from scripts.warm import warm

COUNTING = """
from numba.core import event

with event.install_recorder("numba:compile") as compiled:
    from scripts.warm import warm
    warm()
print(sorted({str(record.data["dispatcher"]) for _, record in compiled.buffer}))
"""


def test_a_process_compiles_nothing_that_an_earlier_one_has_compiled() -> None:
    """Also no loop of which the cache's index holds something that differs between processes."""
    warm()
    found = subprocess.run([sys.executable, "-c", COUNTING], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
