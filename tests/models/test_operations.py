"""What a plan counts is what a run does: every call on the native evaluator, and every key switch inside of it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mhe.backend.native.key_switching import KeySwitcher
from models.activations import identity, square
from models.model import model_of
from models.newton import GramBatch
from models.operations import Counted as Counting
from models.operations import operations, probe_operations, whole
from models.range_probe import RangeProbe
from models.refresh_points import RefreshPoints
from models.training import batch_indices
from models.training_plan import REFRESH_PASSES
from network.local import run_parties
from tests.counted import Counted
from tests.evaluators import make_party
from tests.insecure import (
    insecure_test_newton_plan,
    insecure_test_perceptron_plan,
    insecure_test_plan,
    sigmoid_polynomial,
    table,
    workload,
)

CLASSES = {"outputs": 3, "hidden": (8,), "activation": square((-4.0, 4.0)), "link": identity(), "batch": 8}
PLANS = {
    "logistic": insecure_test_plan(workload((20, 15), 3)),
    "momentum, degree 7, wide": insecure_test_plan(
        workload((60, 7), 40, link=sigmoid_polynomial(7), momentum=0.5, l2=0.1)
    ),
    "three blocks": insecure_test_plan(workload((1200, 3), 9)),
    "softmax": insecure_test_perceptron_plan(workload((20, 20), 5, outputs=4, batch=8, momentum=0.5), ring_dim=1 << 11),
    "perceptron": insecure_test_perceptron_plan(workload((20, 20), 9, **CLASSES), ring_dim=1 << 11),
    "perceptron, little refreshed": insecure_test_perceptron_plan(
        workload((20, 20), 9, **CLASSES), points=RefreshPoints(False, False, False), ring_dim=1 << 11
    ),
    "newton": insecure_test_newton_plan(workload((30, 30), 4, condition=20.0)),
}

PLAIN = {"logistic", "momentum, degree 7, wide", "three blocks", "perceptron, little refreshed"}


def joined(plan, shards, collective, keep=True):
    """A party whose calls are counted, its model, and its first batch."""
    party = make_party("native", collective, plan, wrap=Counted)
    party.make_keys(plan.key_plan)
    model, rank = model_of(plan), collective.rank
    features, targets = shards[rank]
    pieces = batch_indices(len(features), plan.workload.batch, 0, rank)[:1]
    (batch,) = model.batches(features, targets, pieces, keep=keep)
    return party, model, batch


def counted_run(plan, keep):
    """By rank: calls of the preparation, of a first and of a later iteration, and of the latter's before its sum."""
    shards = table(plan.workload)

    def program(collective):
        party, model, batch = joined(plan, shards, collective, keep)
        counts = party.backend.counts

        def taken():
            found = dict(+counts)
            counts.clear()
            return found

        weights = model.start(party)
        taken()
        prepared = model.prepare(party, [batch])
        found = [taken()]
        for _ in range(2):
            ahead = model.look_ahead(party.backend, weights, weights)
            totals = party.sum(model.gradients(party, ahead, batch))
            before = taken()
            model.refresh(party, model.step(party, prepared, ahead, totals))
            found.append(dict(Counter(before) + Counter(taken())))
        party.close()
        return [*found, before]

    return run_parties(plan.workload.n_parties, program)


PROTOCOLS = ("mask", "fresh", "lift", "mapped_fresh", "mapped_lift", "rerandomise", "own_encryption")


def evaluated(counts):
    return {key: n for key, n in counts.items() if key[0] not in PROTOCOLS}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("name", PLANS)
def test_operations_are_the_calls_of_a_native_run(name, keep):
    plan = PLANS[name]
    for rank, calls in enumerate(counted_run(plan, keep)):
        found = operations(plan, rank, is_root=rank == 0, keep=keep)
        # those that are not plain refresh the gradient before the root's step, which nobody else gets
        refreshes = REFRESH_PASSES if name in PLAIN else 2 * REFRESH_PASSES - 1
        parts = (found.preparation, found.first, found.later, found.later[: -refreshes - 1])
        assert [evaluated(whole(part)) for part in parts] == calls


@pytest.mark.parametrize("name", PLANS)
def test_operations_are_cut_where_something_passes(name):
    plan = PLANS[name]
    root, other = (operations(plan, 0, is_root=is_root, keep=True) for is_root in (True, False))
    for found in (root, other):
        for stages in (found.opening, found.first, found.later):
            assert len(stages) == len(plan.iteration_transfers) + 1
        assert len(found.preparation) == len(getattr(plan, "preparation_transfers", ())) + 1
        # weights are refreshed last: a share before the pass in the middle, and its end behind it
        *_, share, end, _ = ({key[0].removeprefix("mapped_") for key in stage} for stage in found.later)
        assert share == {"mask", "fresh"}
        assert end == ({"lift"} if found is root else set())
    # what the root does with the sum, the others wait for
    assert root.later[-REFRESH_PASSES - 1] and not other.later[-REFRESH_PASSES - 1]


@pytest.mark.parametrize("name", ["logistic", "three blocks", "softmax", "perceptron"])
def test_operations_of_a_probe_are_its_calls(name):
    plan = PLANS[name]
    probe, shards = RangeProbe(plan), table(plan.workload)

    def program(collective):
        party = make_party("native", collective, plan, wrap=Counted)
        party.make_keys(plan.key_plan)
        model, rank, counts = model_of(plan), collective.rank, party.backend.counts
        (batch,) = model.batches(*shards[rank], [np.arange(plan.workload.batch_rows[rank])], keep=True)
        weights = model.start(party)
        ahead = model.look_ahead(party.backend, weights, weights)
        taken = []
        for _ in range(2):
            counts.clear()
            model.gradients(party, ahead, batch)
            taken.append(dict(+counts))
        counts.clear()
        _, parts = model.probed_gradients(party, ahead, batch)
        probe.power_sum(party, parts)
        whole = Counter(counts)
        whole.subtract(taken[1])
        party.close()
        return {key: n for key, n in whole.items() if n}

    for rank, calls in enumerate(run_parties(plan.workload.n_parties, program)):
        found = probe_operations(plan, rank, probe, keep=True)
        assert evaluated(found) == calls
        assert not any(called.startswith("rotate") for called, _ in found), "inputs are made once"
        sent = Counter({probe.limbs: 1})
        if probe.inputs.transfers:
            sent[plan.low_limbs] += probe.inputs.ciphertexts // plan.workload.n_parties
        assert {limbs: n for (name, limbs), n in found.items() if name == "rerandomise"} == sent


@pytest.mark.parametrize("name", PLANS)
def test_the_first_iteration_is_counted_as_it_is(name):
    """Regressions make its gradient in the clear; its batch is encoded when it is used again."""
    plan = PLANS[name]
    shards = table(plan.workload)

    def program(collective):
        party, model, batch = joined(plan, shards, collective)
        weights = model.start(party)
        prepared = model.prepare(party, [batch])
        party.backend.counts.clear()
        ahead = model.look_ahead(party.backend, weights, weights)
        totals = party.sum(model.gradients(party, ahead, batch, first=True))
        model.refresh(party, model.step(party, prepared, ahead, totals))
        party.close()
        return dict(+party.backend.counts)

    for rank, calls in enumerate(run_parties(plan.workload.n_parties, program)):
        found = operations(plan, rank, is_root=rank == 0, keep=True)
        assert evaluated(whole(found.opening)) == calls
        in_clear = name != "softmax" and not name.startswith("perceptron")
        assert found.opens_in_clear == in_clear
        assert ("own_encryption", plan.error_limbs) in found.opening[0] if in_clear else found.opening == found.first


@pytest.mark.parametrize("name", ["logistic", "perceptron"])
def test_key_switches_inside_the_evaluator_are_those_counted(name, monkeypatch):
    """Decompositions and divisions by P of the native key switch itself, by limbs, over one iteration."""
    plan, seen = PLANS[name], []
    digits, divide = KeySwitcher._digits, KeySwitcher._divide
    counting = [False]

    def count(what, limbs):
        if counting[0]:
            seen.append((what, limbs))

    def counted_digits(self, c, *rest):
        count("decompose", len(c))
        return digits(self, c, *rest)

    def counted_divide(self, inner, limbs, *rest):
        count("divide", limbs)
        return divide(self, inner, limbs, *rest)

    monkeypatch.setattr(KeySwitcher, "_digits", counted_digits)
    monkeypatch.setattr(KeySwitcher, "_divide", counted_divide)
    ((features, targets),) = table(workload((20,), 9, outputs=plan.workload.outputs))
    alone = insecure_test_plan(workload((20,), 9))
    if name == "perceptron":
        alone = insecure_test_perceptron_plan(workload((20,), 9, **CLASSES), ring_dim=1 << 11)

    def program(collective):
        party = make_party("native", collective, alone)
        party.make_keys(alone.key_plan)
        model = model_of(alone)
        pieces = batch_indices(20, alone.workload.batch, 0, 0)[:1]
        (batch,) = model.batches(features, targets, pieces, keep=True)
        weights = model.start(party)
        counting[0] = True
        ahead = model.look_ahead(party.backend, weights, weights)
        totals = party.sum(model.gradients(party, ahead, batch))
        model.refresh(party, model.step(party, [], ahead, totals))
        counting[0] = False
        party.close()

    run_parties(1, program)
    counts = whole(operations(alone, 0, is_root=True, keep=True).first)
    expected = Counter()
    for (kind, limbs), n in counts.items():
        if kind in ("rotate", "relinearise", "conjugate", "decompose", "rotate_and_sum"):
            expected["decompose", limbs] += n
        if kind in ("rotate", "relinearise", "conjugate", "rotate_hoisted", "rotated_sum"):
            expected["divide", limbs] += n
    assert Counter(seen) == expected


def test_counts_move_with_the_refresh():
    """What is counted on one chain is what would be counted on a longer one, higher up."""
    task = workload((20, 15), 3, momentum=0.5)
    counting = Counting()
    for scale_bits in (45, 20, 58):
        plan = insecure_test_plan(task, scale_bits=scale_bits)
        moved = counting.of(plan, 0, is_root=True, keep=True)
        assert moved == operations(plan, 0, is_root=True, keep=True)
    assert len({insecure_test_plan(task, scale_bits=bits).parameters.refresh_limbs for bits in (20, 58)}) == 2


def test_the_stand_in_for_a_batch_is_one_block_for_each():
    plan = PLANS["three blocks"]
    assert [plan.blocks(rank) for rank in (0, 1)] == [3, 1]
    assert isinstance(
        model_of(PLANS["newton"]).batches(np.ones((4, 4)), np.ones((4, 1)), [np.arange(4)], keep=True)[0], GramBatch
    )
