"""The end of a training whose model stays encrypted: model.mhe for all, and each party's state for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mhe.ciphertext import Ciphertext
from mhe.container import write_bytes
from mhe.encrypted_party import EncryptedParty
from mhe.errors import BackendError, StateError
from mhe.sealed import STATE, ShareTerms, seal_share
from models.kept_model import Task, keep_model
from models.model import Model

MODEL = "model.mhe"


@dataclass(frozen=True, repr=False)
class Keeping:
    """Where the parties' states go, and the passphrase that seals them (None: stored in the clear)."""

    folder: Path
    passphrase: str | None

    def home(self, rank: int) -> Path:
        """The folder of one party."""
        return self.folder / f"party-{rank}"

    def check_free(self, rank: int) -> None:
        """Raise StateError if this party has a state there already."""
        if (self.home(rank) / STATE).exists():
            raise StateError(
                f"{self.home(rank)}: holds the state of an earlier training, which is not overwritten; name another "
                "folder with --state, or delete it: its model is lost then"
            )


def keep(
    party: EncryptedParty,
    model: Model,
    weights: Sequence[Ciphertext] | None,
    task: Task,
    keeping: Keeping,
    out: Path,
) -> None:
    """Hide the noise of the weights, write the model at the root, and every party's own state.

    A state names its model: its share serves no other.
    """
    collective, circuit = party.collective, model.plan
    kept = keep_model(party, model.keep(party, weights), circuit.prediction, task, circuit.precision.kept_noise_norm)
    identity = b"" if kept is None else kept.identity.encode()
    named = next(filter(None, collective.allgather(identity)), b"").decode()
    if not named:
        raise BackendError("the root made no model; report this")
    terms = ShareTerms(collective.rank, collective.n_parties, party.session.key_id, named)
    party.keep(lambda secret: seal_share(keeping.home(collective.rank), secret, terms, keeping.passphrase))
    if kept is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_bytes(out / MODEL, kept.to_bytes())
