"""Every line of `mhe bench choices` trains the same model, and the record says what differs; no time is asserted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks import choices
from benchmarks.row_packing import RowPackedPlan
from models.newton_plan import FixedHessianPlan
from models.plan import CircuitPlan
from tests.insecure import insecure_test_newton_plan, insecure_test_parameters, insecure_test_plan
from tests.runs import surely

ROWS, FEATURES = 200, 6
SCALE_BITS, REFRESH_LIMBS = 55, 2
AUC_SHORT = 0.01
"""More than the benchmark's, so that few iterations do."""


def chosen(plan):
    """INSECURE: in place of the search of a variant."""
    return lambda task, choice, make_moduli, *, free: plan(task)


def row_packed(task):
    parameters = insecure_test_parameters(
        1 << 10,
        REFRESH_LIMBS + task.levels + 1,
        scale_bits=SCALE_BITS,
        n_parties=task.n_parties,
        refresh_limbs=REFRESH_LIMBS,
        message_bits=task.message_bits,
    )
    return RowPackedPlan(task, parameters)


def searched(choose):
    """INSECURE: with these parameters in place of those that its search finds."""

    def plan(task):
        with pytest.MonkeyPatch.context() as patch:
            found = insecure_test_plan(task, scale_bits=SCALE_BITS)
            patch.setattr(choices, "choose_plan", lambda *_, free: found)
            return choose(task, None, None, free=True)

    return plan


SMALL = {
    choices.choose_row_packed_plan: row_packed,
    choices.choose_short_block_plan: searched(choices.choose_short_block_plan),
    choices.choose_cyclic_plan: searched(choices.choose_cyclic_plan),
    choices.choose_plan: lambda task: insecure_test_plan(task, scale_bits=SCALE_BITS),
    choices.choose_newton_plan: lambda task: insecure_test_newton_plan(task, scale_bits=SCALE_BITS),
}


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    target = tmp_path_factory.mktemp("choices") / "choices.json"
    small = [replace(v, backend="native", choose=chosen(SMALL[v.choose])) for v in choices.VARIANTS[1:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices, "AUC_SHORT", AUC_SHORT)
        choices.run(target, variants=small, parties=2, rows=ROWS, features=FEATURES)
    return json.loads(target.read_text(encoding="utf-8"))


def test_every_line_computes_its_twin(document):
    for line in document["choices"]:
        planned = line["planned_weight_error"]
        assert (planned is None) == (line["choice"] == "native evaluator")
        bound = 1e-3 if planned is None else surely(planned, FEATURES + 1)
        assert line["weight_error"] < min(bound, 0.05), line["choice"]
        assert line["clear_twin_auc"] >= document["task"]["best_auc"] - AUC_SHORT


def test_lines_differ_in_what_they_say(document):
    rows, short, whole, copies, newton = document["choices"]
    assert rows["levels"] == short["levels"] + 1
    assert rows["rows_per_ciphertext"] == short["rows_per_ciphertext"] < whole["rows_per_ciphertext"]
    assert whole["rows_per_ciphertext"] == copies["rows_per_ciphertext"]
    assert whole["diagonals"] > copies["diagonals"]
    assert rows["iterations_to_auc"] == whole["iterations_to_auc"] > newton["iterations_to_auc"]
    assert [line["auc"] is not None for line in document["choices"]] == [False, False, True, True, True]
    assert newton["cpu_seconds_of_inverse"] > 0 == whole["cpu_seconds_of_inverse"]


def test_times_are_of_the_iterations_that_were_run(document):
    for line in document["choices"]:
        measured = line["measured"]
        assert len(measured["cpu_seconds"]) == len(measured["wall_seconds"]) == line["iterations_run"]
        assert min(measured["cpu_seconds"]) > 0
        expected = line["cpu_seconds_per_party_and_iteration"] * line["iterations_to_auc"]
        assert line["cpu_seconds_to_auc"] == pytest.approx(expected + line["cpu_seconds_of_inverse"])


def test_plans_are_of_their_kind():
    rows = choices.make_rows(2, ROWS, FEATURES)
    for variant in choices.VARIANTS:
        plan = SMALL[variant.choose](choices.workload_of(variant.solver, rows, 2))
        assert isinstance(plan, CircuitPlan)
        assert isinstance(plan, FixedHessianPlan) == (variant.solver == "newton")


def test_a_target_out_of_reach_is_an_error(monkeypatch):
    monkeypatch.setattr(choices, "MOST_ITERATIONS", 1)
    variant = replace(choices.VARIANTS[3], choose=chosen(SMALL[choices.choose_plan]))
    rows = choices.make_rows(2, ROWS, FEATURES)
    rows.__dict__["best_auc"] = 1.0
    with pytest.raises(ValueError, match=r"short of AUC 1\.0000 after 1 iterations"):
        choices.plan_of(variant, rows)
