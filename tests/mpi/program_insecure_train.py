"""Every rank: the run of `mhe train CONFIG --out OUT`, in an INSECURE small ring, so that many runs are quick.

Nothing but the choice of parameters is replaced.
"""

from __future__ import annotations

import sys
from pathlib import Path

import scripts.planning
from scripts.config import load_config
from scripts.train import run
from tests.insecure import choose_insecure_test_plan, finding

scripts.planning.best_plans = finding(choose_insecure_test_plan)
config = load_config(Path(sys.argv[1]))
run(config, Path(sys.argv[2]), force=False)
if ("openfhe" in sys.modules) != (config.crypto.backend == "openfhe"):
    raise SystemExit("openfhe is for those who asked for it")
