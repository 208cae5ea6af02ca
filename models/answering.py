"""The parties' side of a private prediction: a session on a kept model, one or more queries, answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import RingBackend
from mhe.backend.rules import check_scales
from mhe.ciphertext import Ciphertext, RingCiphertext
from mhe.collective import Collective
from mhe.encrypted_party import BackendFactory, EncryptedParty
from mhe.errors import DataError, ParameterError
from mhe.keys import KeptKey, SecretShare
from models.exchange import Answer, Query, ReceiverKey
from models.kept_model import KeptModel
from models.own_rows import own_rows
from models.precision import ROW_NORM_LIMIT

Floats = npt.NDArray[np.float64]


def rejoin(
    collective: Collective, model: KeptModel, secret: SecretShare, make_backend: BackendFactory
) -> EncryptedParty:
    """This party's end of the model's key, in a session of its own."""
    prediction = model.prediction
    return EncryptedParty(
        collective,
        prediction.parameters,
        make_backend,
        statistical_bits=prediction.release_bits,
        releases=prediction.releases,
        kept=KeptKey(secret, model.public_key, model.key_seed),
    )


@dataclass(frozen=True, eq=False)
class Answering:
    """A party that answers queries. prepared: the root's weights, ready for products; None elsewhere."""

    party: EncryptedParty
    model: KeptModel
    prepared: Any

    @classmethod
    def start(cls, party: EncryptedParty, model: KeptModel) -> Answering:
        """Make the keys of this session, and the weights ready.

        The evaluation keys of the training are gone: those of another session are as good, need no place on a disk, and
        are made of fresh common randomness.
        """
        prediction = model.prediction
        with party.collective.phase("keys"):
            party.make_keys(prediction.key_plan)
        with party.collective.phase("prepare"):
            weights = _imported(party, model.weights, prediction.weights_period)
            return cls(party, model, prediction.prepare(party, weights))

    def answer(self, query: Query, receiver: ReceiverKey) -> Answer | None:
        """The answers to a query, under the receiver's key: at the root, None elsewhere.

        All parties have the same query and receiver. Raises ParameterError before any work if the owner of the model
        allows no more.
        """
        prediction, party = self.model.prediction, self.party
        count = len(query.rows) * prediction.n_answers
        if count > party.releases_left:
            raise ParameterError(
                f"the query takes {count} answers, the model's owner allows {party.releases_left} more: send fewer "
                "rows, or train a model for more answers"
            )
        answers: list[Ciphertext] = []
        with party.collective.phase("answer"):
            for batch, n_rows in enumerate(query.rows):
                part = query.ciphertexts[batch * prediction.n_queries : (batch + 1) * prediction.n_queries]
                rows = _imported(party, part, prediction.query_period)
                answers += prediction.answer(party, self.prepared, rows, n_rows) or []
            for found in answers:
                check_scales(found.scale, prediction.answer_scale)
            switched = party.switch(
                answers if party.collective.is_root else None,
                count,
                prediction.answer_limbs,
                [receiver.key] * count,
                prediction.noise_norm,
            )
        return None if switched is None else Answer(query.model, receiver.label, query.rows, tuple(switched))


def most_blocks(collective: Collective, model: KeptModel, n_rows: int) -> int:
    """Blocks of the party with the most rows of its own, this one having n_rows: all that the others learn of them."""
    blocks = -(-n_rows // own_rows(model.prediction).rows)
    with collective.phase("rows"):
        return max(int.from_bytes(b, "little") for b in collective.allgather(blocks.to_bytes(8, "little")))


def own_answers(model: KeptModel, blocks: int) -> int:
    """How many answers so many blocks of every party's rows take. Raises DataError if there are none."""
    if blocks == 0:
        raise DataError("no party has a row to predict; need one at least")
    return blocks * own_rows(model.prediction).n_answers * model.prediction.parameters.n_parties


def answer_own(party: EncryptedParty, model: KeptModel, x: Floats) -> Floats:
    """What the model gives for this party's own standardised rows (n, features), before the link: (n, outputs).

    All parties call it, each with the rows it has, if any, and each gets answers for those alone. Raises DataError if
    nobody has a row, and ParameterError if the owner of the model allows no more; both before any work.
    """
    prediction, own = model.prediction, own_rows(model.prediction)
    most = most_blocks(party.collective, model, len(x))
    count = own_answers(model, most)
    if count > party.releases_left:
        raise ParameterError(
            f"the rows take {count} answers, the model's owner allows {party.releases_left} more: take fewer rows, or "
            "train a model for more answers"
        )
    with party.collective.phase("keys"):
        party.make_keys(own.key_plan)
    with party.collective.phase("prepare"):
        prepared = own.prepare(party, _imported(party, model.weights, prediction.weights_period))
    with party.collective.phase("answer"):
        parts = [x[k * own.rows : (k + 1) * own.rows] for k in range(most)]
        answers = [found for part in parts for found in own.answer(party, prepared, part)]
        slots = party.deliver(answers, own.noise_norm)
    batches = (slots[k * own.n_answers : (k + 1) * own.n_answers] for k in range(most))
    return np.concatenate([own.unpack(batch, len(part)) for batch, part in zip(batches, parts, strict=True)])


def _imported(party: EncryptedParty, ciphertexts: Sequence[RingCiphertext], period: int) -> list[Ciphertext] | None:
    """Public ciphertexts as the root's evaluator holds them; None elsewhere."""
    if not party.collective.is_root:
        return None
    backend: RingBackend = party.backend
    return [backend.import_ciphertext(c, period) for c in ciphertexts]


def check_precise(model: KeptModel) -> None:
    """Raise ParameterError if the smudging of its answers leaves nothing of them."""
    prediction = model.prediction
    largest = ROW_NORM_LIMIT * prediction.features
    if not prediction.error < largest:
        raise ParameterError(
            f"answers would be precise to {prediction.error:.1g} only: allow fewer answers or lower [release] "
            "statistical_bits, and train anew"
        )
