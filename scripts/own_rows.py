"""Private prediction on rows that the parties have themselves: used in the clear, answered to their owner alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mhe.backend.native import NativeBackend
from mhe.errors import ConfigError
from mhe.keys import SecretShare
from models.answering import answer_own, most_blocks, own_answers, rejoin
from models.data import PARTY
from models.kept_model import KeptModel
from models.readers.csv_file import read_rows
from models.training import check_rows
from network.collective import TreeCollective
from network.mpi import mpi_channel
from scripts.agreement import together
from scripts.answers import write_answers
from scripts.keep import Keeping
from scripts.predict import check_same_files, load_precise, share_of
from scripts.progress import make_console

Floats = npt.NDArray[np.float64]

LONE_OWNER = 0
"""The party whose rows are meant by a file name without a place for a party's number."""


def check_names(rows: Path, out: Path) -> None:
    """Raise ConfigError if several parties would write one file."""
    if PARTY in str(rows) and PARTY not in str(out):
        raise ConfigError(
            f"--out {out}: every party writes its own answers, as it reads its own rows; put {PARTY} in it"
        )


def run(model: Path, rows: Path, keeping: Keeping, out: Path) -> None:
    """Run the party that this MPI process is."""
    with mpi_channel() as channel:
        predict_party(model, rows, keeping, out, TreeCollective(channel))


def predict_party(model_path: Path, rows: Path, keeping: Keeping, out: Path, collective: TreeCollective) -> None:
    """One party's part, over any collective; it writes the answers to its own rows, if it has any.

    rows, out: with PARTY in place of a party's number, one file for each party that has rows; else of LONE_OWNER.
    Everything that can be wrong is found before a share leaves any party.
    """
    console = make_console(quiet=not collective.is_root)
    model = together(collective, lambda: load_precise(model_path))
    same = set(collective.allgather(hashlib.sha256(model.to_bytes()).digest()))
    together(collective, lambda: check_same_files(same, collective.n_parties, model))
    x = together(collective, lambda: _own_rows(model, rows, collective.rank))
    most = most_blocks(collective, model, len(x))
    needed = together(collective, lambda: own_answers(model, most))
    shares: list[SecretShare] = []
    try:
        together(collective, lambda: shares.append(share_of(keeping, collective, model, needed)))
        collective.bind(model.prediction.parameters.digest)
        party = rejoin(collective, model, shares[0], NativeBackend)
        answers = answer_own(party, model, x)
        left = party.releases_left
    finally:
        for share in shares:
            share.erase()
    if len(x):
        write_answers(_of_party(out, collective.rank), model.task, answers)
    console.print(f"every party has the answers to its own rows, precise to {model.error:.1g}, in {out}")
    console.print(f"the model's owner allows {left} more")


def _own_rows(model: KeptModel, rows: Path, rank: int) -> Floats:
    """This party's standardised rows, of which there may be none."""
    path = _of_party(rows, rank)
    absent = not path.exists() if PARTY in str(rows) else rank != LONE_OWNER
    if absent:
        return np.zeros((0, model.prediction.features))
    standardised = model.task.standardised(read_rows(path, model.task.columns))
    check_rows(standardised, "own", standardised=True)
    return standardised


def _of_party(path: Path, rank: int) -> Path:
    return Path(str(path).replace(PARTY, str(rank)))
