"""What a forecast says of time, traffic and memory, and how it is kept and found again."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from mhe.collective import Transfer
from mhe.errors import ParameterError
from models.activations import identity, square
from models.cost import DEFAULT_RATES, DEFAULT_UNITS, Chain, UnitCosts, Work
from models.operations import operations, whole
from models.search import TOLERATED
from network.link import Link
from network.topology import Tree, sensible_arities
from network.traffic import predict
from scripts import calibration, cli
from scripts.config import parse_config
from scripts.forecast import Forecast
from scripts.goal import Goal
from scripts.planning import best_plans, choice_of, goal_of, workload_of
from scripts.train import read_summaries
from tests.insecure import insecure_test_newton_plan, insecure_test_perceptron_plan, insecure_test_plan, workload

PLAN = insecure_test_plan(workload((200, 150, 100), 8, momentum=0.5))
TREE = Tree(3)


def forecast(**changes):
    return replace(Forecast(PLAN, TREE, DEFAULT_UNITS, cores=2), **changes)


def test_cpu_time_is_that_of_the_operations_and_of_what_is_carried():
    found = forecast()
    work = Work(Chain.of(PLAN.parameters))
    for rank in range(3):
        counts = whole(operations(PLAN, rank, is_root=rank == 0, keep=True).later)
        computed = DEFAULT_UNITS.total(work, counts)
        assert computed == pytest.approx(sum(n * DEFAULT_UNITS.seconds(work, *key) for key, n in counts.items()))
        rows = sum(t.n_rows for t in PLAN.iteration_transfers)
        carried = found.cpu_seconds(rank) - computed
        assert 0 < carried < 4 * rows * sum(DEFAULT_UNITS.seconds(work, n, 1) for n in ("send", "receive", "aggregate"))
    assert found.cpu_seconds(0) > found.cpu_seconds(1)


def test_of_what_is_each_partys_own_only_the_root_handles_all():
    """What others pass on they neither pack nor check."""
    found, tree = forecast(tree=Tree(5)), Tree(5)
    for kind, name in (("gather", "receive"), ("scatter", "send")):
        transfer = Transfer(kind, "refresh", 3, PLAN.parameters.ring_dim)
        handling = found._handling(transfer)
        other = {"receive": handling.send, "send": handling.receive}[name]
        carried = [found._carried(rank, [transfer]) for rank in range(tree.n_parties)]
        assert carried == pytest.approx([4 * getattr(handling, name), *[other] * 4])
    assert Forecast(PLAN, Tree(1), DEFAULT_UNITS)._carried(0, [transfer]) == 0


@pytest.mark.parametrize("iterations", [1, 2, 3, 9])
def test_training_is_all_its_iterations_each_as_it_is(iterations):
    plan = insecure_test_plan(workload((200, 150, 100), 60, momentum=0.5, batch=80, iterations=iterations))
    found = forecast(plan=plan)
    assert max(plan.batches(r) for r in range(3)) == 3
    every = [found.seconds_of(n) for n in range(1, iterations + 1)]
    assert found.training_seconds == pytest.approx(sum(every))
    # the gradient at weights of zero is made in the clear, and leaves its batch to be encoded
    assert every[0] < found.iteration_seconds / 2
    encoded = [n for n in range(1, iterations + 1) if found.cpu_seconds_of(0, n) > 1.001 * found.cpu_seconds(0)]
    assert encoded == [n for n in (2, 3, 4) if n <= iterations]
    # the last one has no refresh
    if iterations > 5:
        assert every[5] == pytest.approx(found.iteration_seconds)
        assert found.cpu_seconds_of(0, 9) < found.cpu_seconds_of(0, 8)


def test_the_first_iteration_of_a_perceptron_encodes_its_batch():
    task = workload((20, 20), 5, outputs=4, batch=8, momentum=0.5, iterations=5)
    found = forecast(plan=insecure_test_perceptron_plan(task, ring_dim=1 << 11), tree=Tree(2))
    assert [found.cpu_seconds_of(1, n) > 1.001 * found.cpu_seconds(1) for n in range(1, 6)] == [True] * 3 + [False] * 2
    assert found.training_seconds == pytest.approx(sum(found.seconds_of(n) for n in range(1, 6)))


def test_what_others_take_of_busy_cores_lengthens_what_is_done_together():
    crowded = forecast(units=replace(DEFAULT_UNITS, crowded=2.0)).iteration_seconds
    assert 1.3 * forecast().iteration_seconds < crowded < 2 * forecast().iteration_seconds


def test_parties_share_the_cores_of_one_machine():
    one, two, many = (forecast(cores=n).iteration_seconds for n in (1, 2, 64))
    assert one > two > many
    assert one >= sum(forecast().cpu_seconds(r) for r in range(3))
    assert many >= max(forecast().cpu_seconds(r) for r in range(3))


def test_parties_on_their_own_wait_for_the_link():
    slow, fast = (forecast(link=Link.parse(text)).iteration_seconds for text in ("10mbps/50ms", "10gbps/1us"))
    transfers = PLAN.iteration_transfers
    assert slow - fast == pytest.approx(sum(Link(1e7, 0.05).transfer_seconds(TREE, t) for t in transfers), rel=1e-2)
    assert fast < forecast(cores=1).iteration_seconds


def test_a_unit_cost_is_looked_up_between_what_was_measured():
    units = UnitCosts({**DEFAULT_UNITS.rates, "rotate": {1 << 13: {4: 100.0, 8: 200.0}, 1 << 15: {4: 10.0}}}, "", 0)
    work = {n: Work(replace(Chain.of(PLAN.parameters), ring_dim=n)) for n in (1 << 12, 1 << 13, 1 << 16)}

    def rate(n, limbs):
        return 1e6 * units.seconds(work[n], "rotate", limbs) / work[n].of("rotate", limbs)

    assert [rate(1 << 13, limbs) for limbs in (2, 4, 6, 8, 9)] == pytest.approx([100, 100, 150, 200, 200])
    assert rate(1 << 12, 6) == pytest.approx(150)
    assert rate(1 << 16, 6) == pytest.approx(10)


def test_every_operation_of_a_plan_has_a_default():
    plan = insecure_test_newton_plan(workload((30, 30), 4, condition=20.0))
    found = operations(plan, 0, is_root=True, keep=True)
    for counts in (found.preparation, found.first, found.later):
        assert DEFAULT_UNITS.total(Work(Chain.of(plan.parameters)), whole(counts)) > 0
    assert Forecast(plan, Tree(2), DEFAULT_UNITS).preparation_seconds > 0


@pytest.mark.parametrize("objective", ["time", "traffic", "memory"])
def test_a_goal_is_what_it_says(objective):
    found, goal = forecast(cores=Forecast(PLAN, TREE, DEFAULT_UNITS).cores), Goal(objective, (TREE,), DEFAULT_UNITS)
    expected = {
        "time": found.iteration_seconds,
        "traffic": max(predict(TREE, r, PLAN.iteration_transfers).bytes_sent for r in range(3)),
        "memory": max(forecast(keep_within=0).memory_bytes(r) for r in range(3)),
    }
    assert goal(PLAN) == pytest.approx(expected[objective])


def test_rows_stay_encoded_as_long_as_that_fits():
    free, tight = forecast(), forecast(keep_within=0)
    rank = 0
    kept, anew = free.memory_bytes(rank), tight.memory_bytes(rank)
    assert kept - anew == PLAN.encoded_bytes(rank) > 0
    assert free.keeps_diagonals(rank)
    assert not tight.keeps_diagonals(rank)
    assert forecast(keep_within=kept).memory_bytes(rank) == kept
    assert forecast(keep_within=kept - 1).memory_bytes(rank) == anew
    assert tight.cpu_seconds(rank) > free.cpu_seconds(rank)
    assert tight.iteration_seconds > free.iteration_seconds


def test_what_takes_more_memory_than_allowed_is_not_to_be_taken():
    least = forecast(keep_within=0).most_memory_bytes
    for limit, allowed in ((None, True), (least, True), (least - 1, False)):
        goal = Goal("time", (TREE,), DEFAULT_UNITS, memory_limit=limit)
        assert (goal.allowance(PLAN) == 0) == (goal(PLAN) < math.inf) == allowed
        assert goal.forecast(PLAN).most_memory_bytes <= (forecast().most_memory_bytes if limit is None else least)


PIMA = {"data": {"train": "builtin:pima", "label": "diabetes"}}


@pytest.fixture(scope="module")
def unlimited():
    return limited(None)


def limited(memory):
    # as precise as few of the chains are
    sections = {"crypto": {"ring_dim": 32768, "memory_limit": memory}, "release": {"precision": 3e-4}}
    config = parse_config({**PIMA, **sections})
    summaries, target = read_summaries(config, 3)
    goal = goal_of(config, 3, DEFAULT_UNITS)
    task = workload_of(config, summaries, target.outputs)
    return goal, best_plans(task, choice_of(config), config, 1, goal)[0]


def test_a_plan_keeps_the_memory_limit_or_says_what_is_needed(unlimited):
    goal, plan = unlimited
    most = goal.forecast(plan).most_memory_bytes
    with pytest.raises(ParameterError, match=r"memory_limit = 30.* MiB: a party needs at least (\d+) MiB") as refused:
        limited("30MiB")
    least = int(re.search(r"at least (\d+) MiB", str(refused.value))[1])
    assert least << 20 < most
    tight, other = limited(f"{least}MiB")
    found = tight.forecast(other)
    assert found.most_memory_bytes <= least << 20 < most
    assert tight(other) >= goal(plan)
    assert other.precision.released_error <= other.workload.precision
    # with less, nothing is as precise as asked for; what nearly is comes instead, and the plan says so
    _, coarse = limited(f"{least - 1}MiB")
    assert coarse.workload.precision < coarse.precision.released_error < TOLERATED * coarse.workload.precision


@pytest.mark.parametrize("link", [None, Link.parse("1gbps/20ms"), Link.parse("100mbps/1ms")])
@pytest.mark.parametrize("n_parties", [1, 2, 5, 12, 33])
def test_no_arity_is_better_than_the_sensible_ones(n_parties, link):
    plan = insecure_test_plan(workload((50,) * n_parties, 8))
    found = Goal("time", tuple(Tree(n_parties, a) for a in sensible_arities(n_parties)), DEFAULT_UNITS, link)
    every = Goal("time", tuple(Tree(n_parties, a) for a in range(1, n_parties + 1)), DEFAULT_UNITS, link)
    assert found(plan) == pytest.approx(every(plan), rel=1e-12)
    assert found.forecast(plan).iteration_seconds == pytest.approx(found(plan))


def test_the_link_decides_on_the_tree():
    plan = insecure_test_plan(workload((50,) * 12, 8))
    trees = tuple(Tree(12, a) for a in sensible_arities(12))
    slow, far = (Goal("time", trees, DEFAULT_UNITS, Link.parse(t)).forecast(plan) for t in ("1mbps/1us", "10gbps/1s"))
    assert slow.tree.arity < far.tree.arity == 11


def test_every_key_is_counted_alike():
    """The conjugation key of a perceptron, too: in memory, on its way, and in time."""
    task = workload((20, 20), 5, outputs=3, hidden=(8,), activation=square((-4.0, 4.0)), link=identity(), batch=8)
    plan = insecure_test_perceptron_plan(task, ring_dim=1 << 11)
    assert plan.key_plan.conjugation
    found, keys, p = forecast(plan=plan, tree=Tree(2)), plan.held_keys, plan.parameters
    everywhere, key = 1 + len(keys.everywhere), p.evaluation_key_bytes(p.n_limbs)
    # of an evaluator that takes none but whole keys
    assert found.key_bytes(1) == (1 + everywhere) * key
    assert found.key_bytes(0) == plan.key_bytes() == (1 + everywhere + len(keys.root_only)) * key
    passes = [t.kind for t in found.key_transfers if t.protocol == "rotation_key"]
    assert (passes.count("broadcast"), passes.count("reduce")) == (everywhere, everywhere + len(keys.root_only))
    without = replace(keys, conjugation=0)
    assert len(keys.galois_everywhere) == len(without.galois_everywhere) + 1 == everywhere
    assert len(keys.limbs(is_root=False)) == len(without.limbs(is_root=False)) + 1 == everywhere + 1


def test_a_key_is_as_large_and_as_slow_as_the_limbs_that_it_is_for():
    whole, own = (forecast(plan=replace(PLAN, centred=centred)) for centred in (False, True))
    p, keys = PLAN.parameters, PLAN.key_plan
    assert whole.plan.held_keys == keys.whole(p.n_limbs) != own.plan.held_keys == keys
    assert {p.n_limbs, PLAN.error_limbs} == {*keys.everywhere.values(), *keys.root_only.values()}
    for rank, is_root in ((0, True), (1, False)):
        limbs = keys.limbs(is_root=is_root)
        assert own.key_bytes(rank) == sum(map(p.evaluation_key_bytes, limbs)) < whole.key_bytes(rank)
        assert whole.key_bytes(rank) == len(limbs) * p.evaluation_key_bytes(p.n_limbs)
    assert own.key_seconds < whole.key_seconds
    sent = [sum(t.n_rows for t in each.key_transfers) for each in (own, whole)]
    assert sent[0] < sent[1]
    assert len(own.key_transfers) == len(whole.key_transfers)


def test_a_run_waits_at_every_pass_for_who_has_most_to_do():
    """Stage by stage: not for the one who has most to do in all."""
    found = forecast(link=Link.parse("10gbps/1us"))
    root, member = (found._staged(rank, "later") for rank in (0, 1))
    assert found.iteration_seconds > sum(map(max, zip(root, member, strict=True))) >= max(sum(root), sum(member))


def test_only_the_root_has_the_keys_of_the_root():
    found, p = forecast(), PLAN.parameters
    assert found.key_bytes(0) == PLAN.key_bytes()
    own = len(PLAN.key_plan.root_only) * p.evaluation_key_bytes(p.n_limbs)
    assert found.key_bytes(0) - found.key_bytes(1) == own > 0


def test_what_was_measured_is_found_again_with_the_same_versions_only(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibration.units() is DEFAULT_UNITS
    rates = {name: {1 << 14: {4: 2.5, 8: 3.5}} for name in DEFAULT_RATES}
    measured = UnitCosts(rates, "measured on this machine", 7, 1.25)
    monkeypatch.setattr("benchmarks.units.measure", lambda say: measured)
    said = []
    assert calibration.calibrate(said.append) == measured
    assert str(calibration.cache_file()) in said[0]
    assert calibration.units() == measured
    monkeypatch.setattr(calibration, "FORMAT", calibration.FORMAT + 1)
    assert calibration.units() is DEFAULT_UNITS
    calibration.cache_file().write_text("{")
    assert calibration.units() is DEFAULT_UNITS


def test_the_command_says_what_else_could_be(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = '[data]\ntrain = "builtin:pima"\nlabel = "diabetes"\n[crypto]\nring_dim = 32768\ndigits = 3\n'
    (tmp_path / "c.toml").write_text(text)
    arguments = ["plan", str(tmp_path / "c.toml"), "--parties", "3", "--link", "1gbps/20ms"]
    out = tmp_path / "plan.json"
    result = CliRunner().invoke(cli.app, [*arguments, "--objective", "memory", "--json", str(out)])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    for words in ("for the least memory", "What a constraint costs", "192-bit", "default table", "1gbps/20ms"):
        assert words in said
    found = json.loads(out.read_text())
    most = [max(plan["memory_bytes"]) for plan in (found["chosen"], *found["alternatives"])]
    assert len(most) == 4
    assert most == sorted(most)
    assert found["objective"] == "memory"
    assert found["link"] == "1gbps/20ms"
    by_name = {each["constraint"]: each["plan"] for each in found["constraints"]}
    # nothing takes half of the least memory
    assert by_name["memory without a limit"] is None
    assert "What is impossible" in said
    assert found["chosen"]["keeps_encoded_rows"] == [False] * 3
    fewer = by_name["128 statistical bits of refreshes"]
    assert fewer["iteration_seconds"] < found["chosen"]["iteration_seconds"]
    assert by_name["ring_dim = 32768"]["shape"]["ring_dim"] == 32768
    timed = CliRunner().invoke(cli.app, [*arguments, "--json", str(out)])
    assert timed.exit_code == 0
    fastest = json.loads(out.read_text())["chosen"]
    assert fastest["iteration_seconds"] <= found["chosen"]["iteration_seconds"]
    assert max(fastest["memory_bytes"]) >= most[0]


def test_a_link_that_is_none_is_refused(tmp_path):
    (tmp_path / "c.toml").write_text('[data]\ntrain = "builtin:pima"\nlabel = "diabetes"\n')
    result = CliRunner().invoke(cli.app, ["plan", str(tmp_path / "c.toml"), "--link", "fast"])
    assert result.exit_code == cli.USAGE_ERROR
    assert "need rate and delay" in result.output
