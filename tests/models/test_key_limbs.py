"""Every evaluation key is made for the most limbs at which a run uses it: no fewer, and no more.

What is used is read off the native key switch itself, through which every operation with a key goes.
"""

from __future__ import annotations

from collections import Counter

import pytest

from mhe.backend import rules
from mhe.backend.native import NativeBackend
from mhe.backend.native.key_switching import KeySwitcher
from models.activations import identity, quadratic_softmax, square
from models.answering import answer_own
from models.exchange import Query, ReceiverKey, make_query, make_receiver
from models.model import model_of
from models.own_rows import own_rows
from models.refresh_points import RefreshPoints
from models.training import pack_batches, prepare, train
from network.local import run_parties
from tests.evaluators import make_party
from tests.insecure import (
    insecure_test_newton_plan,
    insecure_test_perceptron_plan,
    insecure_test_plan,
    sigmoid_polynomial,
    table,
    workload,
)
from tests.kept import (
    answering_party,
    answering_session,
    example,
    kept_parameters,
    make_kept,
    tile_prediction,
    vector_prediction,
)

CUBIC, SQUARE, LINEAR = sigmoid_polynomial(3, 6.0), square((-4.0, 4.0)), identity()


def tiled(hidden=(), activation=None, link=LINEAR, **changes):
    settings = {"batch": 8, "learning_rate": 0.1, "iterations": 2, "outputs": 3, **changes}
    return workload((16, 5), 7, hidden=hidden, activation=activation, link=link, **settings)


REGRESSIONS = {
    "descent": workload((20, 15), 3),
    "nesterov, degree 7, wide": workload((60, 7), 40, link=sigmoid_polynomial(7), momentum=0.5, l2=0.1),
    "copies": workload((12, 9), 100, learning_rate=0.05),
    "blocks": workload((1100, 60), 3, iterations=2),
    "linear": workload((30, 25), 4, link=identity(), learning_rate=0.3),
    "one iteration": workload((20, 15), 3, iterations=1),
    "predictions": workload((20, 15), 3, release="predictions", test_rows=(3, 2)),
    "predictions, one iteration": workload((20, 15), 3, iterations=1, release="predictions", test_rows=(3, 2)),
    "predictions, linear": workload(
        (30, 25), 4, link=identity(), iterations=1, release="predictions", test_rows=(1, 1)
    ),
    "range probes": workload((20, 15), 3, range_every=2),
    "range probe, one iteration": workload((20, 15), 3, iterations=1, range_every=1),
    "local, one step": workload((20, 15), 3, local_iterations=1),
    "local": workload((20, 15, 9), 5, local_iterations=3, learning_rate=0.5),
    "local, linear": workload((30, 25), 4, link=identity(), local_iterations=2, learning_rate=0.3),
    "local, wide": workload((12, 9), 20, local_iterations=2, learning_rate=0.1),
}
NEWTON = {
    "newton": workload((30, 30), 4, condition=20.0, iterations=2),
    "newton, one iteration": workload((30, 30), 4, condition=20.0, iterations=1, link=identity()),
    "newton, probed": workload((40, 30), 4, condition=20.0, iterations=2, range_every=2),
}
LEFT_OUT = {
    "softmax, gradients left out": (tiled(link=CUBIC), RefreshPoints(gradients=False)),
    "errors left out": (tiled((9,), CUBIC, CUBIC), RefreshPoints(errors=False)),
    "inputs left out": (tiled((9,), CUBIC, CUBIC), RefreshPoints(inputs=False)),
    "two hidden layers, all left out": (tiled((9, 5), SQUARE), RefreshPoints(False, False, False)),
    "probed, all left out": (tiled((9,), SQUARE, range_every=2), RefreshPoints(False, False, False)),
}
TILED = {
    "softmax": tiled(),
    "softmax, sigmoids": tiled(link=CUBIC, momentum=0.5),
    "softmax, coupled": tiled(link=quadratic_softmax(3, (-4.0, 4.0)), coupled=True),
    "softmax, probed": tiled(link=CUBIC, range_every=2),
    "one hidden layer": tiled((9,), SQUARE),
    "one hidden layer, probed": tiled((9,), SQUARE, range_every=2),
    "one output": tiled((5,), CUBIC, CUBIC, outputs=1),
    "two hidden layers": tiled((9, 5), SQUARE),
    "two hidden layers, sigmoids": tiled((9, 5), CUBIC, CUBIC),
    "predictions of a perceptron": tiled((5,), SQUARE, release="predictions", test_rows=(3, 2)),
}
PLANS = {
    **{name: insecure_test_plan(task) for name, task in REGRESSIONS.items()},
    **{name: insecure_test_newton_plan(task) for name, task in NEWTON.items()},
    **{name: insecure_test_perceptron_plan(task, width=8, ring_dim=1 << 9) for name, task in TILED.items()},
    **{
        name: insecure_test_perceptron_plan(task, points=points, width=8, ring_dim=1 << 9)
        for name, (task, points) in LEFT_OUT.items()
    },
}


class Uses:
    """Of every party that has closed its evaluator: limbs of each key, and the most at which it was used, by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._used: Counter[int] = Counter()
        self.found: list[dict[str | int, tuple[int, int]]] = []
        close, factors = NativeBackend.close, KeySwitcher._factors

        def closed(backend):
            keys = {"relinearisation": backend._relinearisation, "conjugation": backend._conjugation}
            named = {name: key for name, key in {**keys, **backend._rotations}.items() if key is not None}
            limbs = {name: rules.key_limbs(backend.parameters, key) for name, key in named.items()}
            self.found.append({name: (limbs[name], self._used[id(key)]) for name, key in named.items()})
            close(backend)

        def counted(switcher, digits, key):
            self._used[id(key)] = max(self._used[id(key)], digits.limbs)
            return factors(switcher, digits, key)

        monkeypatch.setattr(NativeBackend, "close", closed)
        monkeypatch.setattr(KeySwitcher, "_factors", counted)

    def check(self, keys, n_slots, n_parties):
        """Parties have the planned keys, and use them all; who uses one at most limbs uses all of it."""
        rotations = (
            {step % n_slots: limbs for step, limbs in some.items()} for some in (keys.everywhere, keys.root_only)
        )
        everywhere, root_only = rotations
        switches = {"relinearisation": keys.relinearisation, "conjugation": keys.conjugation}
        (root_only if keys.products_at_root else everywhere).update({k: n for k, n in switches.items() if n})
        assert len(self.found) == n_parties
        held = [{name: limbs for name, (limbs, _) in found.items()} for found in self.found]
        assert sorted(held, key=len) == [everywhere] * (n_parties - 1) + [{**everywhere, **root_only}]
        used = [(name, most) for found in self.found for name, (_, most) in found.items()]
        assert all(most for _, most in used)
        largest = {name: max(most for other, most in used if other == name) for name, _ in used}
        assert largest == {**everywhere, **root_only}


@pytest.fixture
def uses(monkeypatch):
    return Uses(monkeypatch)


@pytest.mark.parametrize("name", PLANS)
def test_training(name, uses):
    plan = PLANS[name]
    shards, model = table(plan.workload), model_of(plan)

    def program(collective):
        rank, party = collective.rank, make_party("native", collective, plan)
        party.make_keys(plan.key_plan)
        batches = pack_batches(model, *shards[rank], 0, rank, True)
        weights = train(party, model, batches, lambda _: None, prepare(party, model, batches))
        if plan.workload.release == "predictions":
            model.predict(party, weights, shards[rank][0][: plan.workload.test_rows[rank]])
        else:
            model.release(party, weights)
        party.close()

    run_parties(plan.workload.n_parties, program)
    uses.check(plan.key_plan, plan.parameters.n_slots, plan.workload.n_parties)


PREDICTIONS = {
    "vector": vector_prediction,
    "softmax": tile_prediction,
    "one hidden layer": lambda p: tile_prediction(p, (4,)),
    "two hidden layers": lambda p: tile_prediction(p, (6, 4), 6),
}


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_answers_to_queries(kind, uses, tmp_path):
    prediction = PREDICTIONS[kind](kept_parameters(2))
    slots, x, _ = example(prediction, prediction.rows + 3)
    model = make_kept(prediction, slots, tmp_path)
    uses.found.clear()
    query, public = make_query(model, x).to_bytes(), make_receiver(model)[1].to_bytes()

    def serve(answering):
        given = Query.from_bytes(query, answering.model, "query")
        answering.answer(given, ReceiverKey.from_bytes(public, answering.model, "public key"))

    answering_session(model, tmp_path, serve)
    uses.check(prediction.key_plan, prediction.parameters.n_slots, 2)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_answers_to_own_rows(kind, uses, tmp_path):
    prediction = PREDICTIONS[kind](kept_parameters(2))
    slots, x, _ = example(prediction, own_rows(prediction).rows + 3)
    model = make_kept(prediction, slots, tmp_path)
    uses.found.clear()
    answering_party(model, tmp_path, lambda party: answer_own(party, model, x))
    uses.check(own_rows(prediction).key_plan, prediction.parameters.n_slots, 2)


def test_keys_take_less_than_whole_ones():
    """Of a whole key, what a regression's backward half or a perceptron's products take."""
    for name in ("descent", "one hidden layer, probed", "newton"):
        plan = PLANS[name]
        p, keys = plan.parameters, plan.key_plan
        own, whole = (sum(map(p.evaluation_key_bytes, k.limbs(is_root=True))) for k in (keys, keys.whole(p.n_limbs)))
        assert own < 0.8 * whole
        assert max(keys.limbs(is_root=True)) <= p.n_limbs
