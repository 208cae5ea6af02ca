"""What a querier and the parties send each other: its public key, its encrypted rows, their answers under its key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.ciphertext import RingCiphertext
from mhe.container import Container, ciphertext_arrays, read_ciphertexts, read_residues
from mhe.encryption import decrypt_slots, encrypt_slots
from mhe.errors import CodecError, DataError, KeyMismatchError
from mhe.keys import PublicKey, ReceiverSecret
from mhe.protocols.key_switch import receiver_key, receiver_public_part
from models.kept_model import KeptModel

Floats = npt.NDArray[np.float64]

LABEL_BYTES = 16


@dataclass(frozen=True, eq=False)
class ReceiverKey:
    """A querier's public key for one model."""

    label: bytes
    key: PublicKey
    model: str

    kind = "querier's public key"

    def to_bytes(self) -> bytes:
        header = {"model": self.model, "label": self.label.hex()}
        return Container(self.kind, header, {"p0": self.key.p0}).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, model: KeptModel, name: str) -> ReceiverKey:
        """Raises CodecError, or KeyMismatchError if it was made for another model."""
        container = _of_model(cls.kind, data, model, name)
        label = bytes.fromhex(_text(container.header, "label", 2 * LABEL_BYTES, name))
        parameters = model.prediction.parameters
        p0 = read_residues(container, "p0", parameters, name, (parameters.n_limbs,))
        return cls(label, receiver_public_part(model.session(), p0, label), model.identity)


@dataclass(frozen=True, eq=False)
class Query:
    """Encrypted rows in batches. rows: of each batch. ciphertexts: of all batches, one after another."""

    model: str
    rows: tuple[int, ...]
    ciphertexts: tuple[RingCiphertext, ...]

    kind = "query"

    @cached_property
    def identity(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()[:32]

    def to_bytes(self) -> bytes:
        header = {"model": self.model, "rows": list(self.rows)}
        return Container(self.kind, header, ciphertext_arrays(self.ciphertexts)).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, model: KeptModel, name: str) -> Query:
        """Raises CodecError, or KeyMismatchError if it was made for another model."""
        container, prediction = _of_model(cls.kind, data, model, name), model.prediction
        rows = _rows(container.header, prediction.rows, name)
        ciphertexts = read_ciphertexts(
            container, prediction.parameters, name,
            count=len(rows) * prediction.n_queries, limbs=prediction.query_limbs, scale=prediction.query_scale,
            key_id=model.public_key.key_id,
        )  # fmt: skip
        return cls(model.identity, rows, ciphertexts)


@dataclass(frozen=True, eq=False)
class Answer:
    """The answers to a query, under the key of the receiver with this label."""

    model: str
    label: bytes
    rows: tuple[int, ...]
    ciphertexts: tuple[RingCiphertext, ...]

    kind = "answer"

    def to_bytes(self) -> bytes:
        header = {"model": self.model, "label": self.label.hex(), "rows": list(self.rows)}
        return Container(self.kind, header, ciphertext_arrays(self.ciphertexts)).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, model: KeptModel, receiver: ReceiverKey, name: str) -> Answer:
        """Raises CodecError, or KeyMismatchError if it is of another model or for another receiver."""
        container, prediction = _of_model(cls.kind, data, model, name), model.prediction
        label = _text(container.header, "label", 2 * LABEL_BYTES, name)
        if label != receiver.label.hex():
            raise KeyMismatchError(
                f"{name}: is for the key {label[:8]}, this one is {receiver.label.hex()[:8]}; take the key that was "
                "given to the parties"
            )
        rows = _rows(container.header, prediction.rows, name)
        ciphertexts = read_ciphertexts(
            container, prediction.parameters, name,
            count=len(rows) * prediction.n_answers, limbs=prediction.answer_limbs, scale=prediction.answer_scale,
            key_id=receiver.key.key_id,
        )  # fmt: skip
        return cls(model.identity, receiver.label, rows, ciphertexts)


def make_receiver(model: KeptModel) -> tuple[ReceiverSecret, ReceiverKey]:
    """A fresh key pair for answers of this model."""
    secret, label = ReceiverSecret.generate(model.prediction.parameters.ring_dim), os.urandom(LABEL_BYTES)
    return secret, ReceiverKey(label, receiver_key(model.session(), secret, label), model.identity)


def make_query(model: KeptModel, rows: Floats) -> Query:
    """Standardised rows (n, features) under the parties' key. Raises DataError if there are none."""
    prediction = model.prediction
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != prediction.features:
        raise DataError(f"a query of shape {rows.shape}; need at least one row of {prediction.features} features")
    session, limbs, scale = model.session(), prediction.query_limbs, prediction.query_scale
    batches = [rows[start : start + prediction.rows] for start in range(0, len(rows), prediction.rows)]
    ciphertexts = [
        encrypt_slots(session, model.public_key, slots, limbs, scale)
        for batch in batches
        for slots in prediction.pack(batch)
    ]
    return Query(model.identity, tuple(map(len, batches)), tuple(ciphertexts))


def read_answer(model: KeptModel, secret: ReceiverSecret, receiver: ReceiverKey, answer: Answer) -> Floats:
    """What the model gives for the rows of the query, before the link: (n, outputs)."""
    prediction, session = model.prediction, model.session()
    slots = [decrypt_slots(session, secret, receiver.key, c, prediction.answer_period) for c in answer.ciphertexts]
    batches: Sequence[Sequence[Floats]] = _batches(slots, prediction.n_answers)
    return np.concatenate([prediction.unpack(batch, n) for batch, n in zip(batches, answer.rows, strict=True)])


def _batches(items: Sequence[Any], length: int) -> list[Sequence[Any]]:
    return [items[start : start + length] for start in range(0, len(items), length)]


def _of_model(kind: str, data: bytes, model: KeptModel, name: str) -> Container:
    container = Container.from_bytes(data, kind, name)
    made_for = _text(container.header, "model", len(model.identity), name)
    if made_for != model.identity:
        raise KeyMismatchError(f"{name}: is for the model {made_for[:8]}, this one is {model.identity[:8]}")
    return container


def _text(header: Mapping[str, Any], key: str, length: int, name: str) -> str:
    """A hexadecimal text of this length."""
    text = header.get(key)
    if not isinstance(text, str) or len(text) != length or set(text) - set("0123456789abcdef"):
        raise CodecError(f"{name}: its header has no valid {key!r}; make it anew")
    return text


def _rows(header: Mapping[str, Any], most: int, name: str) -> tuple[int, ...]:
    rows = header.get("rows")
    if not isinstance(rows, list) or not rows or not all(type(n) is int and 1 <= n <= most for n in rows):
        raise CodecError(f"{name}: its batches have {rows} rows; need 1 to {most} in each")
    return tuple(rows)
