"""INSECURE: small encrypted models that are kept, and sessions of their parties, for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.backend.native import NativeBackend
from mhe.ciphertext import RingCiphertext
from mhe.encoding import encode_coefficients
from mhe.encrypted_party import BackendFactory, EncryptedParty
from mhe.encryption import encrypt_slots
from mhe.moduli import generate_moduli
from mhe.parameters import Parameters
from mhe.sealed import ShareTerms, open_share, seal_share
from models.activations import Polynomial
from models.answering import Answering, rejoin
from models.kept_model import KeptModel, Task
from models.perceptron import Perceptron
from models.prediction import Prediction
from models.tile_prediction import TilePrediction
from models.tiles import TileLayout
from models.vector_prediction import VectorPrediction
from network.collective import TreeCollective
from network.local import run_parties
from tests.insecure import MakeModuli, insecure_test_parameters

Floats = npt.NDArray[np.float64]

RING_DIM, FEATURES, RELEASES = 1 << 8, 5, 12
SQUARE = Polynomial((0.0, 4.0, 8.0), (-8.0, 8.0), 0.0)
IDENTITY = Polynomial((0.0, 8.0), (-8.0, 8.0), 0.0)
COLUMNS = tuple("abcde")


def kept_parameters(n_parties: int, *, make_moduli: MakeModuli = generate_moduli, **changes: Any) -> Parameters:
    settings: dict[str, Any] = {"scale_bits": 50, "refresh_limbs": 3, "message_bits": 6.0, **changes}
    return insecure_test_parameters(RING_DIM, 7, n_parties=n_parties, make_moduli=make_moduli, **settings)


def vector_prediction(parameters: Parameters, releases: int = RELEASES) -> VectorPrediction:
    return VectorPrediction(parameters, 2.0**-36, 8.0, 10, releases, FEATURES, parameters.scale * 3)


def tile_prediction(
    parameters: Parameters, hidden: tuple[int, ...] = (), outputs: int = 3, releases: int = RELEASES
) -> TilePrediction:
    network = Perceptron(FEATURES, hidden, outputs, SQUARE if hidden else IDENTITY, IDENTITY)
    return TilePrediction(parameters, 2.0**-36, 8.0, 10, releases, network, TileLayout(RING_DIM // 2, 4, 2))


def example(prediction: Prediction, n_rows: int) -> tuple[list[Floats], Floats, Floats]:
    """(slots of the weights, standardised rows, what the model gives for them in the clear)."""
    random = np.random.default_rng(n_rows)
    x = random.normal(size=(n_rows, FEATURES))
    if isinstance(prediction, TilePrediction):
        weights = [random.normal(size=shape) / 2 for shape in prediction.network.shapes]
        return prediction.tiles.pack(weights), x, prediction.network.outputs_of(weights, x)
    w = random.normal(size=FEATURES + 1)
    padded = np.zeros(prediction.weights_period)
    padded[: FEATURES + 1] = w
    return [padded], x, (x @ w[:-1] + w[-1])[:, None]


def task_of(prediction: Prediction) -> Task:
    classes = (0.0, 1.0) if prediction.outputs == 1 else tuple(float(k) for k in range(prediction.outputs))
    kind = "logistic" if prediction.outputs == 1 else "mlp"
    return Task(kind, COLUMNS, classes, tuple(range(FEATURES)), tuple(1.0 + k for k in range(FEATURES)))


def make_kept(
    prediction: Prediction,
    slots: Sequence[Floats],
    folder: Path | None,
    *,
    passphrase: str | None = None,
    noise: bool = True,
) -> KeptModel:
    """A model of these weights under a fresh key; the parties' states in folder/party-RANK, if there is a folder.

    noise: without it the weights are encrypted in form only, c1 = 0, and have no noise but their rounding.
    """

    def train(collective: TreeCollective) -> bytes:
        party = EncryptedParty(
            collective, prediction.parameters, NativeBackend,
            statistical_bits=prediction.release_bits, releases=prediction.releases,
        )  # fmt: skip
        data = b""
        if collective.is_root:
            weights = [_encrypted(party, values, prediction, noise) for values in slots]
            task = task_of(prediction)
            data = KeptModel(task, prediction, party.session.seed, party.public_key, tuple(weights)).to_bytes()
        data = next(filter(None, collective.allgather(data)))
        model = KeptModel.from_bytes(data, "model", insecure=True)
        terms = ShareTerms(collective.rank, collective.n_parties, model.public_key.key_id, model.identity)
        if folder is not None:
            home = folder / f"party-{collective.rank}"
            party.keep(lambda secret: seal_share(home, secret, terms, passphrase))
        party.close()
        return data

    data = run_parties(prediction.parameters.n_parties, _bound(prediction, train))[0]
    return KeptModel.from_bytes(data, "model", insecure=True)


def _encrypted(party: EncryptedParty, values: Floats, prediction: Prediction, noise: bool) -> RingCiphertext:
    limbs, scale = prediction.parameters.refresh_limbs, prediction.weight_scale
    if noise:
        return encrypt_slots(party.session, party.public_key, values, limbs, scale)
    ring = party.session.cipher_ring(limbs)
    coefficients = encode_coefficients(values, ring.ring_dim, scale)
    message = ring.ntt(ring.from_integers([int(c) for c in coefficients]))
    return RingCiphertext(message, np.zeros_like(message), scale, party.public_key.key_id)


def _bound(prediction: Prediction, program: Callable[[TreeCollective], Any]) -> Callable[[TreeCollective], Any]:
    def start(collective: TreeCollective) -> Any:
        collective.bind(prediction.parameters.digest)
        return program(collective)

    return start


def answering_session(model: KeptModel, folder: Path, program: Callable[[Answering], Any], **options: Any) -> list[Any]:
    """`program(answering)` at every party, each with the state in its own folder."""
    return answering_party(model, folder, lambda party: program(Answering.start(party, model)), **options)


def answering_party(
    model: KeptModel,
    folder: Path,
    program: Callable[[EncryptedParty], Any],
    *,
    make_backend: BackendFactory = NativeBackend,
    passphrase: str | None = None,
    **options: Any,
) -> list[Any]:
    """`program(party)` at every party, each with the state in its own folder."""

    def take_part(collective: TreeCollective) -> Any:
        secret, _ = open_share(folder / f"party-{collective.rank}", passphrase)
        party = rejoin(collective, model, secret, make_backend)
        try:
            return program(party)
        finally:
            party.close()

    prediction = model.prediction
    return run_parties(prediction.parameters.n_parties, _bound(prediction, take_part), **options)
