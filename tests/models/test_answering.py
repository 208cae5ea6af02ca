"""Private prediction from end to end, in process: kept models, queries, answers, and who learns what."""

from __future__ import annotations

import numpy as np
import pytest

from mhe.backend.native import NativeBackend
from models.exchange import Answer, Query, ReceiverKey, make_query, make_receiver, read_answer
from models.kept_model import KeptModel
from tests.kept import answering_session, example, kept_parameters, make_kept, tile_prediction, vector_prediction

PREDICTIONS = {
    "vector": vector_prediction,
    "softmax": tile_prediction,
    "one hidden layer": lambda p: tile_prediction(p, (4,)),
    "two hidden layers": lambda p: tile_prediction(p, (6, 4), 6),
}


def openfhe(n_parties):
    from mhe.backend.openfhe import OpenFHEBackend, generate_moduli

    return kept_parameters(n_parties, make_moduli=generate_moduli), OpenFHEBackend


def ask(model, folder, x, make_backend=NativeBackend, **options):
    """All that passes between a querier and the parties, as bytes, and the answers that it reads."""
    secret, receiver = make_receiver(model)
    query, public = make_query(model, x).to_bytes(), receiver.to_bytes()

    def serve(answering):
        model = answering.model
        key = ReceiverKey.from_bytes(public, model, "public key")
        answer = answering.answer(Query.from_bytes(query, model, "query"), key)
        return None if answer is None else answer.to_bytes()

    root = options.get("root", 0)
    answers = answering_session(model, folder, serve, make_backend=make_backend, **options)
    assert [a is None for a in answers] == [rank != root for rank in range(len(answers))]
    answer = Answer.from_bytes(answers[root], model, receiver, "answer")
    return read_answer(model, secret, receiver, answer)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("n_parties", [1, 2, 3])
def test_answers_are_those_of_the_model(tmp_path, kind, n_parties):
    prediction = PREDICTIONS[kind](kept_parameters(n_parties))
    # more rows than one batch has
    slots, x, expected = example(prediction, prediction.rows + 3)
    model = make_kept(prediction, slots, tmp_path)
    found = ask(model, tmp_path, x, root=n_parties - 1)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < prediction.error < 0.05


@pytest.mark.parametrize("kind", ["vector", "one hidden layer"])
def test_openfhe_answers_alike(tmp_path, kind):
    parameters, backend = openfhe(2)
    prediction = PREDICTIONS[kind](parameters)
    slots, x, expected = example(prediction, 4)
    model = make_kept(prediction, slots, tmp_path)
    assert np.abs(ask(model, tmp_path, x, backend) - expected).max() < prediction.error


def test_a_kept_model_is_the_same_after_a_trip_through_a_file():
    for make in PREDICTIONS.values():
        prediction = make(kept_parameters(2))
        model = make_kept(prediction, example(prediction, 2)[0], None)
        again = KeptModel.from_bytes(model.to_bytes(), "model", insecure=True)
        assert again.prediction == prediction
        assert (again.task, again.identity, again.key_seed) == (model.task, model.identity, model.key_seed)
        np.testing.assert_array_equal(again.public_key.p1, model.public_key.p1)
