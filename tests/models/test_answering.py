"""Private prediction from end to end, in process: kept models, queries, answers, and who learns what."""

from __future__ import annotations

import numpy as np
import pytest

import mhe.sealed
from mhe.backend.native import NativeBackend
from mhe.container import Container
from mhe.encoding import embed
from mhe.encryption import decrypt, decrypt_slots
from mhe.errors import CodecError, DataError, KeyMismatchError, MHEError, ParameterError, ShareError
from mhe.protocols.key_switch import KeySwitchProtocol
from mhe.sealed import open_share
from mhe.security import smudging_std
from models.exchange import Answer, Query, ReceiverKey, make_query, make_receiver, read_answer
from models.kept_model import KeptModel
from models.prediction import smudged_std
from models.vector_prediction import VectorPrediction
from network.channel import Loopback
from tests import oracle
from tests.kept import (
    answering_session,
    example,
    kept_parameters,
    make_kept,
    tile_prediction,
    vector_prediction,
)
from tests.memory import Needle, contents, forms_of_integers, reachable, search

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


# noise


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_noise_stays_below_its_bound(tmp_path, kind):
    """Of rows as large as a layer without interval allows: all coefficients, before any smudging."""
    prediction = PREDICTIONS[kind](kept_parameters(2))
    slots, x, _ = example(prediction, prediction.rows)
    inside = isinstance(prediction, VectorPrediction) or not prediction.network.hidden
    x *= 8 / np.abs(x).max() if inside else 1.0
    model = make_kept(prediction, slots, tmp_path, noise=False)
    query = make_query(model, x)

    def compute(answering):
        party = answering.party
        rows = [party.backend.import_ciphertext(c, prediction.query_period) for c in query.ciphertexts]
        root = party.collective.is_root
        answers = prediction.answer(party, answering.prepared, rows if root else None, len(x)) or []
        return [party.backend.export_ciphertext(a) for a in answers], oracle.coefficients_of(party._secret)

    (answers, first), (_, second) = answering_session(model, tmp_path, compute)
    p, joint, worst = prediction.parameters, oracle.joint([first, second]), 0.0
    for answer, values in zip(answers, exact_slots(prediction, slots, x), strict=True):
        found = np.array(oracle.message_integers(answer, p, joint), dtype=object)
        exact = np.zeros(p.ring_dim)
        exact[:: p.n_slots // len(values)] = embed(values) * answer.scale
        worst = max(worst, float(np.linalg.norm((found - exact).astype(float))))
    assert prediction.noise_norm / 2**17 < worst < prediction.noise_norm


def exact_slots(prediction, slots, x):
    """What the slots of the answers hold, computed in the clear from the slots of the weights."""
    if isinstance(prediction, VectorPrediction):
        values = np.zeros(prediction.rows)
        values[: len(x)] = np.column_stack([x, np.ones(len(x))]) @ slots[0][: x.shape[1] + 1]
        return [values]
    net = prediction.network
    z = net.outputs_of(prediction.tiles.unpack(slots), x)
    return prediction.layout.pack(z, net.form(net.n_layers - 1))


def test_the_smudging_is_sized_for_all_answers_of_the_models_life(tmp_path, monkeypatch):
    prediction = vector_prediction(kept_parameters(2), releases=7)
    slots, x, _ = example(prediction, 3)
    model = make_kept(prediction, slots, tmp_path)
    widths = []
    original = KeySwitchProtocol.share
    monkeypatch.setattr(
        KeySwitchProtocol, "share", lambda self, secret: (widths.append(self.smudging), original(self, secret))[1]
    )
    ask(model, tmp_path, x)
    assert widths == [smudging_std(prediction.noise_norm, 10, 7)] * 2


# who learns what


@pytest.mark.parametrize("kind", ["vector", "softmax", "one hidden layer"])
def test_a_querier_gets_nothing_but_its_answers(tmp_path, kind):
    """All other slots of what it decrypts are zero, up to the smudging: no sums of parts of rows, no absent rows."""
    prediction = PREDICTIONS[kind](kept_parameters(2))
    slots, x, expected = example(prediction, 3)
    model = make_kept(prediction, slots, tmp_path)
    secret, receiver = make_receiver(model)
    query = make_query(model, x)
    answer = answering_session(model, tmp_path, lambda answering: answering.answer(query, receiver))[0]
    for ciphertext, exact in zip(answer.ciphertexts, exact_slots(prediction, slots, x), strict=True):
        found = decrypt_slots(model.session(), secret, receiver.key, ciphertext, prediction.parameters.n_slots)
        # all slots, not their means
        smudged = smudging_std(prediction.noise_norm, prediction.release_bits, prediction.releases)
        width = smudged_std(prediction.parameters, smudged, prediction.answer_scale, prediction.parameters.n_slots)
        assert np.abs(found - np.resize(exact, len(found))).max() < prediction.error + 6 * width
        assert 6 * width < 0.05
    assert np.abs(expected).max() > 0.5


def needles_of(what, values):
    """Numbers of at least eight significant bytes, as float64 and as text, each by itself."""
    values = np.ravel(values)
    values = values[np.abs(values) > 1e-6]
    return [Needle(f"{what} {v!r}", np.float64(v).tobytes()) for v in values] + [
        Needle(f"{what} {v!r} as text", repr(float(v)).encode()) for v in values
    ]


def test_an_intruder_sees_neither_query_nor_answer_nor_weights(tmp_path, monkeypatch):
    """All frames, all files, and all that can be reached from any party while it answers."""
    monkeypatch.setattr(mhe.sealed, "SCRYPT_LOG_COST", 4)
    prediction = tile_prediction(kept_parameters(3), (4,))
    slots, x, expected = example(prediction, 5)
    model = make_kept(prediction, slots, tmp_path, passphrase="tests only")
    secret, receiver = make_receiver(model)
    query, public = make_query(model, x).to_bytes(), receiver.to_bytes()
    frames, memories, public_model = [], [], model.to_bytes()

    def serve(answering):
        answer = answering.answer(
            Query.from_bytes(query, answering.model, "query"), ReceiverKey.from_bytes(public, answering.model, "key")
        )
        memories.append(contents(reachable([answering], stop=(Loopback,))))
        return answer

    tap = lambda source, dest, frame: frames.append(bytes(frame))  # noqa: E731
    answer = answering_session(model, tmp_path, serve, passphrase="tests only", tap=tap)[0]
    answers = read_answer(model, secret, receiver, answer)
    assert np.abs(answers - expected).max() < prediction.error
    weights = prediction.tiles.unpack(slots)
    raw = x * np.array(model.task.scale) + np.array(model.task.mean)
    rows = needles_of("row", x) + needles_of("raw row", raw) + needles_of("answer", answers)
    hidden = needles_of("weight", np.concatenate([w.ravel() for w in weights]))
    states = [path.read_bytes() for path in tmp_path.glob("party-*/*")]
    theirs = [*frames, *states, *(part for memory in memories for part in memory)]
    assert search(rows + hidden, [*theirs, query, public, public_model, answer.to_bytes()]) == set()
    key = oracle.coefficients_of(secret)
    base = model.session().cipher_ring()
    forms = forms_of_integers("private key", key, {"evaluated": base.ntt(base.from_signed(key))})
    assert search(forms, [*theirs, query, public, public_model, answer.to_bytes()]) == set()
    # the search finds what is there: the same things in the querier's own memory, the first share in its own party's
    assert search(rows, contents(reachable([x, raw, answers]))) == {n.what for n in rows if "text" not in n.what}
    share, _ = open_share(tmp_path / "party-0", "tests only")
    own = forms_of_integers("share", oracle.coefficients_of(share), {})
    assert search(own, contents(reachable([share]))) == {"share"}
    assert search(own, [*frames, *states]) == set()


@pytest.mark.parametrize("kind", ["vector", "one hidden layer"])
def test_all_but_one_share_open_nothing(tmp_path, kind):
    """N-1 parties together, with the query; and with the answer, without the querier's key."""
    prediction = PREDICTIONS[kind](kept_parameters(3))
    slots, x, _ = example(prediction, 5)
    model = make_kept(prediction, slots, tmp_path)
    secret, receiver = make_receiver(model)
    stranger, _ = make_receiver(model)
    query = make_query(model, x)
    answer = answering_session(model, tmp_path, lambda answering: answering.answer(query, receiver))[0]
    shares = [oracle.coefficients_of(open_share(tmp_path / f"party-{rank}", None)[0]) for rank in range(3)]
    p = prediction.parameters

    def uniform(integers, limbs):
        """Coefficients of a message are far below the modulus, those of what is hidden all over it."""
        return max(abs(v) for v in integers) > oracle.cipher_ring(p, limbs).modulus / 4

    for ciphertext, limbs in ((query.ciphertexts[0], prediction.query_limbs), (model.weights[0], p.refresh_limbs)):
        assert not uniform(oracle.message_integers(ciphertext, p, oracle.joint(shares)), limbs)
        for absent in range(3):
            colluders = [share for rank, share in enumerate(shares) if rank != absent]
            assert uniform(oracle.message_integers(ciphertext, p, oracle.joint(colluders)), limbs)
    (switched,) = answer.ciphertexts
    assert not uniform(decrypt(model.session(), secret, receiver.key, switched), switched.limbs)
    assert uniform(decrypt(model.session(), stranger, receiver.key, switched), switched.limbs)
    assert uniform(oracle.message_integers(switched, p, oracle.joint(shares)), switched.limbs)


# sessions


def test_sessions_have_nothing_in_common_but_the_key(tmp_path):
    prediction = vector_prediction(kept_parameters(2))
    slots, _, _ = example(prediction, 3)
    model = make_kept(prediction, slots, tmp_path)

    def look(answering):
        session = answering.party.session
        return session.seed, session.key_id, {s for s in answering.party._secret.ledger.served}

    first, again = (answering_session(model, tmp_path, look)[0] for _ in range(2))
    assert first[1] == again[1] == model.public_key.key_id
    assert len({first[0], again[0], model.key_seed}) == 3
    # the second session served as many instances as the first, and none of its
    trained = len(first[2]) - (len(again[2]) - len(first[2]))
    assert trained == 1  # the public key
    assert first[2] < again[2]


def twice(query, receiver):
    """What a session must not do."""

    def work(answering):
        answering.answer(query, receiver)
        return answering.answer(query, receiver)

    return work


def test_a_query_is_answered_once_in_a_session_and_as_often_as_the_owner_allows(tmp_path):
    prediction = vector_prediction(kept_parameters(2), releases=4)
    slots, x, expected = example(prediction, 3)
    model = make_kept(prediction, slots, tmp_path)
    _, receiver = make_receiver(model)
    query = make_query(model, x)

    with pytest.raises(ShareError, match=r"key_switch instance .* was served before"):
        answering_session(model, tmp_path, twice(query, receiver))
    # three are used up by two answers and the counting of the one that was refused
    for _ in range(2):
        assert np.abs(ask(model, tmp_path, x) - expected).max() < prediction.error
    served = len(open_ledger(tmp_path).served)
    with pytest.raises(ParameterError, match="takes 1 answers, the model's owner allows 0 more"):
        ask(model, tmp_path, x)
    assert open_ledger(tmp_path).released == 4
    assert len(open_ledger(tmp_path).served) > served


def test_a_perceptron_answers_a_query_once_in_a_session(tmp_path):
    """Its layers are refreshed, and no refresh is made twice; another session answers the same query."""
    prediction = PREDICTIONS["one hidden layer"](kept_parameters(2))
    slots, x, expected = example(prediction, 3)
    model = make_kept(prediction, slots, tmp_path)
    _, receiver = make_receiver(model)
    query = make_query(model, x)

    with pytest.raises(ShareError, match=r"refresh instance .* was served before"):
        answering_session(model, tmp_path, twice(query, receiver))
    assert open_ledger(tmp_path).released == 1
    assert np.abs(ask(model, tmp_path, x) - expected).max() < prediction.error
    assert open_ledger(tmp_path).released == 2


def open_ledger(folder):
    secret, _ = open_share(folder / "party-0", None)
    ledger = secret.ledger
    secret.erase()
    return ledger


def test_a_foreign_public_key_is_refused(tmp_path):
    prediction = vector_prediction(kept_parameters(1))
    slots, _, _ = example(prediction, 3)
    (tmp_path / "a").mkdir()
    model = make_kept(prediction, slots, tmp_path / "a")
    other = make_kept(prediction, slots, None)
    mixed = KeptModel(model.task, prediction, model.key_seed, other.public_key, model.weights)
    with pytest.raises(KeyMismatchError, match="is not that of this session"):
        answering_session(mixed, tmp_path / "a", lambda answering: None)


# files


@pytest.fixture(scope="module")
def models():
    prediction = vector_prediction(kept_parameters(1))
    slots, x, _ = example(prediction, 3)
    return [make_kept(prediction, slots, None) for _ in range(2)], x


def test_files_of_another_model_are_refused(models):
    (model, other), x = models
    _, receiver = make_receiver(other)
    answer = Answer(other.identity, receiver.label, (3,), make_query(other, x).ciphertexts)
    with pytest.raises(KeyMismatchError, match=r"query.mhe: is for the model"):
        Query.from_bytes(make_query(other, x).to_bytes(), model, "query.mhe")
    with pytest.raises(KeyMismatchError, match=r"public.key: is for the model"):
        ReceiverKey.from_bytes(receiver.to_bytes(), model, "public.key")
    with pytest.raises(KeyMismatchError, match=r"answer.mhe: is for the model"):
        Answer.from_bytes(answer.to_bytes(), model, make_receiver(model)[1], "answer.mhe")


def test_an_answer_for_another_key_is_refused(models):
    (model, _), x = models
    mine, theirs = (make_receiver(model)[1] for _ in range(2))
    answer = Answer(model.identity, theirs.label, (3,), make_query(model, x).ciphertexts)
    with pytest.raises(KeyMismatchError, match=r"answer.mhe: is for the key"):
        Answer.from_bytes(answer.to_bytes(), model, mine, "answer.mhe")


@pytest.mark.parametrize("rows", [[], [0], [17], "3", [True], [3, 3], None])
def test_a_query_whose_rows_cannot_be_is_refused(models, rows):
    (model, _), x = models
    query = make_query(model, x)
    container = Container.from_bytes(query.to_bytes(), "query", "query")
    wrong = Container("query", {**container.header, "rows": rows}, container.arrays)
    with pytest.raises(CodecError, match=r"query.mhe: "):
        Query.from_bytes(wrong.to_bytes(), model, "query.mhe")


def test_a_model_file_that_is_not_one_is_refused(models):
    (model, _), x = models
    with pytest.raises(CodecError, match="is a file of kind 'query'; need 'encrypted model'"):
        KeptModel.from_bytes(make_query(model, x).to_bytes(), "model.mhe")
    with pytest.raises(CodecError, match="insecure, for tests only"):
        KeptModel.from_bytes(model.to_bytes(), "model.mhe")
    container = Container.from_bytes(model.to_bytes(), "encrypted model", "model.mhe")
    for key in container.header:
        for value in (None, "x", 3, {}, []):
            wrong = Container(container.kind, {**container.header, key: value}, container.arrays)
            with pytest.raises(MHEError, match=r"model.mhe: "):
                KeptModel.from_bytes(wrong.to_bytes(), "model.mhe", insecure=True)


@pytest.mark.parametrize("shape", [(0, 5), (3, 4), (3, 6), (3,)])
def test_rows_that_are_none_of_the_model_are_refused(models, shape):
    (model, _), _ = models
    with pytest.raises(DataError, match="need at least one row of 5 features"):
        make_query(model, np.zeros(shape))
