"""Answers of a kept model to rows that the parties use in the clear, in process: each gets its own, and nobody more."""

from __future__ import annotations

import numpy as np
import pytest

from mhe.errors import DataError, ParameterError
from mhe.protocols.key_switch import KeySwitchProtocol
from mhe.sealed import open_share
from mhe.security import rerandomised_norm, smudging_std
from models.answering import answer_own
from models.own_rows import own_rows
from models.vector_prediction import VectorPrediction
from network.channel import Loopback
from tests import oracle
from tests.complex_slots import complex_slots, noise_norm
from tests.kept import answering_party, example, kept_parameters, make_kept, tile_prediction, vector_prediction
from tests.memory import Needle, contents, forms_of_integers, reachable, search

PREDICTIONS = {
    "vector": vector_prediction,
    "softmax": tile_prediction,
    "one hidden layer": lambda p: tile_prediction(p, (4,)),
    "two hidden layers": lambda p: tile_prediction(p, (6, 4), 6),
}


def ask(model, folder, tables, **options):
    """What every party gets for its own table."""
    return answering_party(
        model, folder, lambda party: answer_own(party, model, tables[party.collective.rank]), **options
    )


def parts_of(x, *counts):
    """The first rows, cut into tables of so many each."""
    assert sum(counts) <= len(x)
    return np.split(x, np.cumsum(counts))[: len(counts)]


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("n_parties", [1, 3])
def test_every_party_gets_the_answers_to_its_own_rows(tmp_path, kind, n_parties):
    """Of more rows than a block has, of a few, and of none."""
    prediction = PREDICTIONS[kind](kept_parameters(n_parties))
    block = own_rows(prediction).rows
    slots, x, expected = example(prediction, block + 6)
    model = make_kept(prediction, slots, tmp_path)
    counts = (block + 3, 3, 0)[:n_parties]
    found = ask(model, tmp_path, parts_of(x, *counts), root=n_parties - 1)
    for mine, theirs in zip(found, parts_of(expected, *counts), strict=True):
        assert mine.shape == theirs.shape
        assert np.abs(mine - theirs).max(initial=0.0) < prediction.error < 0.05


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_noise_stays_below_its_bound(tmp_path, kind):
    """Of rows as large as a layer without interval allows: all coefficients, before any smudging."""
    # at larger scales float64 is less precise than the answers
    prediction = PREDICTIONS[kind](kept_parameters(2, scale_bits=40))
    own, inside = own_rows(prediction), isinstance(prediction, VectorPrediction) or not prediction.network.hidden
    slots, x, _ = example(prediction, own.rows)
    x *= 8 / np.abs(x).max() if inside else 1.0
    model = make_kept(prediction, slots, tmp_path, noise=False)

    def compute(party):
        delivered = []

        def listening(ciphertexts, bound):
            delivered.extend(party.backend.export_ciphertext(c) for c in ciphertexts)
            assert bound == own.noise_norm
            return [np.zeros(c.period) for c in ciphertexts]

        party.deliver = listening
        answer_own(party, model, x)
        return delivered, oracle.coefficients_of(party._secret)

    outcomes = answering_party(model, tmp_path, compute)
    p, joint = prediction.parameters, oracle.joint([share for _, share in outcomes])
    # of the weights as they are kept, which were rounded
    kept = [complex_slots(tile, p, joint, prediction.weights_period) for tile in model.weights]
    exact = exact_slots(prediction, [tile.real for tile in kept], x)
    if inside:
        parts = exact_slots(prediction, [tile.imag for tile in kept], x)
        exact = [real + 1j * imaginary for real, imaginary in zip(exact, parts, strict=True)]
    for delivered, _ in outcomes:
        worst = max(noise_norm(answer, p, joint, values) for answer, values in zip(delivered, exact, strict=True))
        assert own.noise_norm / 2**17 < worst < own.noise_norm


def exact_slots(prediction, slots, x):
    """What the slots of the answers to a whole block hold, computed in the clear; padding may hold anything."""
    whole = np.column_stack([x, np.ones(len(x))])
    if isinstance(prediction, VectorPrediction):
        return [whole @ slots[0][: x.shape[1] + 1]]
    net, layout = prediction.network, prediction.layout
    if not net.hidden:
        ((n_in, n_out),), w = prediction.tiles.grids, layout.width
        grid = [slots[i * n_out : (i + 1) * n_out] for i in range(n_in)]
        # a pair of tiles of inputs in each
        inputs = 2 * n_in * w
        weights = layout.unpack_weights(grid, "first", (inputs, n_out * w))
        return layout.pack(np.pad(whole, ((0, 0), (0, inputs - whole.shape[1]))) @ weights, "plain")
    return prediction.layout.pack(net.outputs_of(prediction.tiles.unpack(slots), x), net.form(net.n_layers - 1))


def test_answers_are_counted_and_smudged_for_the_life_of_the_model(tmp_path, monkeypatch):
    """Two parties and one block take two answers, of a party without rows as well; queries count with them."""
    prediction = vector_prediction(kept_parameters(2), releases=5)
    slots, x, _ = example(prediction, 4)
    model = make_kept(prediction, slots, tmp_path)
    widths, original = [], KeySwitchProtocol.share
    monkeypatch.setattr(
        KeySwitchProtocol, "share", lambda self, secret: (widths.append(self.smudging), original(self, secret))[1]
    )
    for _ in range(2):
        ask(model, tmp_path, parts_of(x, 0, 4))
    norm = own_rows(prediction).noise_norm + rerandomised_norm(prediction.parameters, prediction.answer_limbs)
    assert widths == [smudging_std(norm, 10, 5)] * 4
    before = [(tmp_path / f"party-{rank}" / "state").read_bytes() for rank in range(2)]
    with pytest.raises(ParameterError, match="the rows take 2 answers, the model's owner allows 1 more"):
        ask(model, tmp_path, parts_of(x, 0, 4))
    secret, _ = open_share(tmp_path / "party-1", None)
    assert secret.ledger.released == 4
    secret.erase()
    # nothing left the parties
    assert [(tmp_path / f"party-{rank}" / "state").read_bytes() for rank in range(2)] == before


def test_rows_of_nobody_are_refused(tmp_path):
    prediction = vector_prediction(kept_parameters(2))
    slots, x, _ = example(prediction, 1)
    model = make_kept(prediction, slots, tmp_path)
    with pytest.raises(DataError, match="no party has a row to predict"):
        ask(model, tmp_path, parts_of(x, 0, 0))


def needles_of(what, values):
    """Numbers of eight significant bytes."""
    return [Needle(f"{what} {v!r}", np.float64(v).tobytes()) for v in np.ravel(values) if abs(v) > 1e-6]


@pytest.mark.parametrize("kind", ["vector", "one hidden layer"])
def test_nobody_sees_the_rows_or_the_answers_of_another(tmp_path, kind):
    """All frames and states, and all that can be reached from any other party while it answers; nor any weight."""
    prediction = PREDICTIONS[kind](kept_parameters(3))
    slots, x, _ = example(prediction, 7)
    model = make_kept(prediction, slots, tmp_path)
    tables, frames = parts_of(x, 2, 5, 0), []

    def serve(party):
        answers = answer_own(party, model, tables[party.collective.rank])
        return answers, contents(reachable([party], stop=(Loopback,)))

    outcomes = answering_party(model, tmp_path, serve, tap=lambda source, dest, frame: frames.append(bytes(frame)))
    states = [path.read_bytes() for path in tmp_path.glob("party-*/*")]
    hidden = needles_of("weight", [w for tile in slots for w in np.unique(tile)])
    for rank, (answers, _) in enumerate(outcomes):
        own = needles_of("row", tables[rank]) + needles_of("answer", answers)
        others = [part for other, (_, memory) in enumerate(outcomes) if other != rank for part in memory]
        assert search(own + hidden, [*frames, *states, *others]) == set()
        assert search(own, contents(reachable([tables[rank], answers]))) == {needle.what for needle in own}
    shares = [open_share(tmp_path / f"party-{rank}", None)[0] for rank in range(3)]
    for share in shares:
        assert search(forms_of_integers("share", oracle.coefficients_of(share), {}), frames) == set()
        share.erase()
