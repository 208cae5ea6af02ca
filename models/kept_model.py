"""model.mhe: a trained model that stays encrypted, with everything that parties and queriers must know to use it.

Public material only: parameters, the collective public key, the encrypted weights, and of the table the names of its
columns, its classes, means and standard deviations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.backend.rules import check_scales
from mhe.ciphertext import Ciphertext, RingCiphertext
from mhe.container import (
    Container,
    ciphertext_arrays,
    parameters_header,
    read_ciphertexts,
    read_parameters,
    read_residues,
)
from mhe.encrypted_party import EncryptedParty
from mhe.errors import CodecError, MHEError
from mhe.keys import PublicKey
from mhe.protocols.public_key import PublicKeyProtocol
from mhe.session import Session
from models.activations import Polynomial
from models.perceptron import Perceptron
from models.prediction import Prediction
from models.tile_prediction import TilePrediction
from models.tiles import TileLayout
from models.vector_prediction import VectorPrediction

Floats = npt.NDArray[np.float64]

KIND = "encrypted model"
OUTSIDER = -1
"""Rank of who is no party: it makes no shares."""


@dataclass(frozen=True)
class Task:
    """What the model was trained for. kind: as in models.kinds. columns: of a row, in order. classes: labels that its
    outputs stand for, sorted; empty for numbers and counts. mean, scale: rows are standardised to (x - mean) / scale.
    label_mean, label_scale: outputs are numbers (label - label_mean) / label_scale, where the label was standardised.
    """

    kind: str
    columns: tuple[str, ...]
    classes: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    label_mean: float = 0.0
    label_scale: float = 1.0

    def standardised(self, features: Floats) -> Floats:
        return np.asarray((features - np.array(self.mean)) / np.array(self.scale), dtype=np.float64)

    def numbers(self, outputs: Floats) -> Floats:
        """Outputs that are numbers, in the units of the label."""
        return np.asarray(outputs * self.label_scale + self.label_mean, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class KeptModel:
    """A model and its collective key. key_seed: common seed of the session in which both were made."""

    task: Task
    prediction: Prediction
    key_seed: bytes
    public_key: PublicKey
    weights: tuple[RingCiphertext, ...]

    @property
    def error(self) -> float:
        """The largest error of an answer, in the units of the label where outputs are numbers."""
        return self.prediction.error * self.task.label_scale

    def session(self, rank: int = OUTSIDER) -> Session:
        """The session in which the key was made, to expand what is common from its seed."""
        return Session(self.prediction.parameters, rank, self.key_seed)

    @cached_property
    def identity(self) -> str:
        """Names this model among all."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:32]

    def to_bytes(self) -> bytes:
        task, p = self.task, self.prediction.parameters
        header = {
            "task": {
                "kind": task.kind,
                "columns": list(task.columns),
                "classes": list(task.classes),
                "mean": list(task.mean),
                "scale": list(task.scale),
                "label_mean": task.label_mean,
                "label_scale": task.label_scale,
            },
            "parameters": parameters_header(p),
            "digest": p.digest.hex(),
            "key_seed": self.key_seed.hex(),
            "prediction": _described(self.prediction),
        }
        arrays = {"p0": self.public_key.p0, **ciphertext_arrays(self.weights)}
        return Container(KIND, header, arrays).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, name: str, *, insecure: bool = False) -> KeptModel:
        """Inverse of `to_bytes`. insecure: whether parameters that are for tests only are taken. Raises CodecError."""
        container = Container.from_bytes(data, KIND, name)
        try:
            header = container.header
            parameters = read_parameters(header["parameters"], name, insecure=insecure)
            if parameters.digest.hex() != header["digest"]:
                raise CodecError(f"{name}: its parameters do not match their digest; it is damaged: fetch it again")
            described = header["task"]
            classes, mean, scale = (tuple(map(float, described[key])) for key in ("classes", "mean", "scale"))
            task = Task(
                str(described["kind"]), tuple(map(str, described["columns"])), classes, mean, scale,
                float(described["label_mean"]), float(described["label_scale"]),
            )  # fmt: skip
            prediction = _prediction(header["prediction"], parameters)
            if not len(task.columns) == len(task.mean) == len(task.scale) == prediction.features:
                raise CodecError(f"{name}: names {len(task.columns)} columns for {prediction.features} features")
            session = Session(parameters, OUTSIDER, bytes.fromhex(header["key_seed"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CodecError(f"{name}: its header lacks or misspells {error}; make it anew") from None
        except CodecError:
            raise
        except MHEError as error:
            raise CodecError(f"{name}: describes a model that cannot be used: {error}") from None
        p0 = read_residues(container, "p0", parameters, name, (parameters.n_limbs,))
        weights = read_ciphertexts(
            container, parameters, name,
            count=prediction.n_weights, limbs=parameters.refresh_limbs, scale=prediction.weight_scale,
            key_id=session.key_id,
        )  # fmt: skip
        return cls(task, prediction, session.seed, PublicKeyProtocol(session).key(p0), weights)


def keep_model(
    party: EncryptedParty,
    weights: Sequence[Ciphertext] | None,
    prediction: Prediction,
    task: Task,
    noise_norm: float,
) -> KeptModel | None:
    """The root's weights, as trained, as a model that stays encrypted: at the root, None elsewhere.

    noise_norm: bound on the noise of the 2 * prediction.weights_period coefficients of each that carry weights.
    """
    limbs, period = prediction.parameters.refresh_limbs, prediction.weights_period
    flooded = party.flood(weights, prediction.n_weights, limbs, period, noise_norm)
    if flooded is None:
        return None
    for found in flooded:
        check_scales(found.scale, prediction.weight_scale)
    # what files do not say must be the same to the last bit everywhere
    kept = tuple(RingCiphertext(c.c0, c.c1, prediction.weight_scale, c.key_id) for c in flooded)
    return KeptModel(task, prediction, party.session.seed, party.public_key, kept)


def _described(prediction: Prediction) -> dict[str, Any]:
    packed: dict[str, Any]
    if isinstance(prediction, VectorPrediction):
        packed = {"packing": "vector", "features": prediction.features, "weight_scale": prediction.weight_scale}
    elif isinstance(prediction, TilePrediction):
        net, layout = prediction.network, prediction.layout
        packed = {
            "packing": "tiles",
            "widths": list(net.widths),
            "activation": _polynomial_header(net.activation),
            "link": _polynomial_header(net.link),
            "width": layout.width,
            "baby": layout.baby,
        }
    else:
        raise CodecError(f"a {type(prediction).__name__} cannot be kept")
    return {
        **packed,
        "weight_std": prediction.weight_std,
        "message_bound": prediction.message_bound,
        "release_bits": prediction.release_bits,
        "releases": prediction.releases,
    }


def _prediction(header: Mapping[str, Any], parameters: Any) -> Prediction:
    noise, largest = float(header["weight_std"]), float(header["message_bound"])
    common = (parameters, noise, largest, int(header["release_bits"]), int(header["releases"]))
    if header["packing"] == "vector":
        return VectorPrediction(*common, int(header["features"]), float(header["weight_scale"]))
    if header["packing"] != "tiles":
        raise ValueError(f"packing {header['packing']!r}")
    inputs, *hidden, outputs = map(int, header["widths"])
    network = Perceptron(inputs, tuple(hidden), outputs, _polynomial(header["activation"]), _polynomial(header["link"]))
    layout = TileLayout(parameters.n_slots, int(header["width"]), int(header["baby"]))
    return TilePrediction(*common, network, layout)


def _polynomial_header(polynomial: Polynomial) -> list[Any]:
    return [list(polynomial.coefficients), list(polynomial.interval), polynomial.max_error]


def _polynomial(header: Any) -> Polynomial:
    coefficients, (low, high), error = header
    return Polynomial(tuple(map(float, coefficients)), (float(low), float(high)), float(error))
