"""How busy the machine is with others."""

import os
import subprocess
import sys

import pytest

from benchmarks.load import STAT, Load

BUSY = "import time; start = time.process_time()\nwhile time.process_time() < start + 0.3: pass"

pytestmark = pytest.mark.skipif(not STAT.exists(), reason="the system does not tell")


def test_own_processes_are_not_others():
    start = Load(0.0, 10.0, 1.0)
    cores = os.cpu_count()
    assert Load(2.0, 10.0 + cores, 1.0 + cores / 2).others_since(start) == pytest.approx(0.25)
    # clocks of different steps must not make it negative
    assert Load(2.0, 10.0, 1.5).others_since(start) == 0.0
    assert Load(2.0, None, 1.5).others_since(start) is None


def test_children_count_as_own_once_they_have_ended():
    start = Load.now()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    end = Load.now()
    assert end.own - start.own >= 0.3
    assert end.everybody - start.everybody >= 0.25
