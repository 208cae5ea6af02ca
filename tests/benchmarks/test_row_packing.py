"""The papers' packing computes the same model as ours: against the clear twin, on every evaluator."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.row_packing import RowPackedPlan, RowPackedRegression, choose_row_packed_plan
from mhe.errors import ParameterError
from mhe.moduli import generate_moduli
from models.choice import Choice
from models.training import pack_batches, train
from models.twin import train_twin
from network.local import run_parties
from tests.evaluators import make_party, parameters_of
from tests.insecure import INSECURE_TEST_RING_DIM, insecure_test_plan, table, workload

REFRESH_LIMBS = 2
TOLERANCE = 2e-5

CASES = {
    "one block": workload((20, 15), 3, momentum=0.5),
    "several blocks": workload((150, 130), 6, momentum=0.5, l2=0.1),
    "one iteration": workload((200,), 5, iterations=1),
    "wide": workload((12, 9), 100, learning_rate=0.05, iterations=2),
}


def plan_of(task, evaluator, missing_limbs=0):
    parameters = parameters_of(
        evaluator,
        INSECURE_TEST_RING_DIM,
        REFRESH_LIMBS + task.levels + 1 - missing_limbs,
        n_parties=task.n_parties,
        refresh_limbs=REFRESH_LIMBS,
        message_bits=task.message_bits,
    )
    return RowPackedPlan(task, parameters)


def weights_of(plan, shards, evaluator):
    """Every party's released weights (features + 1,)."""

    def program(collective):
        collective.bind(plan.parameters.digest)
        party, model = make_party(evaluator, collective, plan), RowPackedRegression(plan)
        party.make_keys(plan.key_plan)
        batches = pack_batches(model, *shards[collective.rank], 0, collective.rank, True)
        (weights,) = model.release(party, train(party, model, batches, lambda _: None))
        party.close()
        return weights[:, 0]

    return run_parties(plan.workload.n_parties, program)


@pytest.mark.parametrize("name", CASES)
def test_weights_are_those_of_the_clear_twin(name, evaluator):
    plan, shards = plan_of(CASES[name], evaluator), table(CASES[name])
    (twin,), _ = train_twin(plan, shards, 0)
    assert np.abs(twin).max() > 1000 * TOLERANCE
    for weights in weights_of(plan, shards, evaluator):
        np.testing.assert_allclose(weights, twin[:, 0], rtol=0, atol=TOLERANCE)


def test_blocks_hold_the_rows_that_fit():
    plan = plan_of(CASES["several blocks"], "clear")
    assert plan.rows * plan.layout.features == plan.parameters.n_slots
    assert [plan.blocks(party) for party in range(2)] == [3, 3]


def test_parameters_of_our_own_packing_lack_a_level():
    with pytest.raises(ParameterError, match="one iteration consumes 5 levels"):
        plan_of(CASES["one block"], "clear", missing_limbs=1)


def test_the_plan_has_one_level_more_and_is_secure():
    task = workload((300, 300), 8, release_bits=40)
    plan = choose_row_packed_plan(task, Choice(), generate_moduli, free=True)
    ours = insecure_test_plan(task)
    assert plan.parameters.depth == ours.parameters.depth + 1 == task.levels + 1
    assert not plan.parameters.insecure
    assert plan.low_limbs == plan.parameters.refresh_limbs
