"""Private prediction: the querier's key, query and answers, and the parties' side of answering."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mhe.backend.native import NativeBackend
from mhe.container import read_bytes, write_bytes
from mhe.errors import ConfigError, KeyMismatchError, MHEError, ParameterError, StateError
from mhe.keys import ReceiverSecret, SecretShare
from mhe.sealed import open_share, read_receiver, write_receiver
from models.answering import Answering, check_precise, rejoin
from models.exchange import Answer, Query, ReceiverKey, make_query, make_receiver, read_answer
from models.kept_model import KIND, KeptModel
from models.readers.csv_file import read_rows
from models.training import check_rows
from network.collective import TreeCollective
from network.mpi import mpi_channel
from scripts.agreement import together
from scripts.answers import write_answers
from scripts.keep import Keeping
from scripts.progress import make_console

PRIVATE_KEY, PUBLIC_KEY = "private.key", "public.key"


@dataclass(frozen=True)
class Job:
    """Files of one answer. All are public."""

    model: Path
    query: Path
    receiver: Path
    out: Path


def load_model(path: Path) -> KeptModel:
    """Raises CodecError."""
    return KeptModel.from_bytes(read_bytes(path, KIND), str(path))


def keygen(model_path: Path, folder: Path) -> None:
    """A fresh key pair for answers of this model. Raises StateError if there is one already."""
    model = load_model(model_path)
    secret, receiver = make_receiver(model)
    write_receiver(folder / PRIVATE_KEY, secret, receiver.label, model.identity)
    secret.erase()
    write_bytes(folder / PUBLIC_KEY, receiver.to_bytes())


def query(model_path: Path, rows: Path, out: Path) -> None:
    """Encrypt the rows of a table under the parties' key."""
    model = load_model(model_path)
    standardised = model.task.standardised(read_rows(rows, model.task.columns))
    check_rows(standardised, "query", standardised=True)
    write_bytes(out, make_query(model, standardised).to_bytes())


def open_answer(model_path: Path, folder: Path, answer: Path, out: Path) -> None:
    """Decrypt an answer into a table."""
    model = load_model(model_path)
    secret, receiver = _querier(model, folder)
    try:
        got = Answer.from_bytes(read_bytes(answer, Answer.kind), model, receiver, str(answer))
        write_answers(out, model.task, read_answer(model, secret, receiver, got))
    finally:
        secret.erase()


def check_querier(model_path: Path, folder: Path) -> None:
    """Raise MHEError unless this folder holds a key pair for this model."""
    secret, _ = _querier(load_model(model_path), folder)
    secret.erase()


def _querier(model: KeptModel, folder: Path) -> tuple[ReceiverSecret, ReceiverKey]:
    public = folder / PUBLIC_KEY
    receiver = ReceiverKey.from_bytes(read_bytes(public, ReceiverKey.kind), model, str(public))
    secret, label, made_for = read_receiver(folder / PRIVATE_KEY)
    if (label, made_for) != (receiver.label, model.identity):
        secret.erase()
        raise KeyMismatchError(f"{folder}: its private and its public key do not belong together; make a new pair")
    return secret, receiver


def check_job(job: Job, force: bool) -> None:
    """Refuse what would fail on the ranks anyway, before any is started. Raises MHEError."""
    if job.out.exists() and not force:
        raise ConfigError(f"--out {job.out} exists and was left as it is: name another file, or give --force")
    _load(job)


def load_precise(path: Path) -> KeptModel:
    """A model whose answers say something. Raises CodecError or ParameterError."""
    model = load_model(path)
    check_precise(model)
    return model


def _load(job: Job) -> tuple[KeptModel, Query, ReceiverKey]:
    model = load_precise(job.model)
    query = Query.from_bytes(read_bytes(job.query, Query.kind), model, str(job.query))
    receiver = ReceiverKey.from_bytes(read_bytes(job.receiver, ReceiverKey.kind), model, str(job.receiver))
    return model, query, receiver


def answer(job: Job, keeping: Keeping) -> None:
    """Run the party that this MPI process is."""
    with mpi_channel() as channel:
        answer_party(job, keeping, TreeCollective(channel))


def answer_party(job: Job, keeping: Keeping, collective: TreeCollective) -> None:
    """One party's part of an answer, over any collective; the root writes it.

    Everything that can be wrong is found before a share leaves any party.
    """
    console = make_console(quiet=not collective.is_root)
    model, query, receiver = together(collective, lambda: _load(job))
    named = hashlib.sha256(model.to_bytes() + query.to_bytes() + receiver.to_bytes()).digest()
    same = set(collective.allgather(named))
    together(collective, lambda: check_same_files(same, collective.n_parties, model))
    shares: list[SecretShare] = []
    try:
        needed = len(query.rows) * model.prediction.n_answers
        together(collective, lambda: shares.append(share_of(keeping, collective, model, needed)))
        collective.bind(model.prediction.parameters.digest)
        party = rejoin(collective, model, shares[0], NativeBackend)
        answering = Answering.start(party, model)
        console.print("keys and weights are ready")
        answer = answering.answer(query, receiver)
        left = party.releases_left
    finally:
        for share in shares:
            share.erase()
    if answer is not None:
        write_bytes(job.out, answer.to_bytes())
        console.print(f"answers to {sum(query.rows)} rows, precise to {model.error:.1g}, in {job.out}")
        console.print(f"the model's owner allows {left} more")


def check_same_files(named: set[bytes], n_parties: int, model: KeptModel) -> None:
    """named: digests of all parties' files. Raises ConfigError if they differ, or other parties trained the model."""
    if len(named) > 1:
        raise ConfigError("the parties have different models, queries or public keys; give all the same files")
    trained = model.prediction.parameters.n_parties
    if trained != n_parties:
        raise ConfigError(f"{n_parties} parties were started; the model belongs to {trained}: start these")


def share_of(keeping: Keeping, collective: TreeCollective, model: KeptModel, needed: int) -> SecretShare:
    """This party's share of the model's key, for so many answers. Raises StateError or ParameterError."""
    home = keeping.home(collective.rank)
    secret, terms = open_share(home, keeping.passphrase)
    try:
        if terms.model != model.identity or terms.key_id != model.public_key.key_id:
            raise StateError(
                f"{home}: is the state for the model {terms.model[:8]}, this one is {model.identity[:8]}; name the "
                "folder of this model's training"
            )
        if (terms.rank, terms.n_parties) != (collective.rank, collective.n_parties):
            raise StateError(f"{home}: is the state of party {terms.rank}, this is {collective.rank}; do not move it")
        left = model.prediction.releases - secret.ledger.released
        if needed > left:
            raise ParameterError(f"the rows take {needed} answers, the model's owner allows {left} more")
    except MHEError:
        secret.erase()
        raise
    return secret
