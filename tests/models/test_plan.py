"""Plans: what they promise holds, what cannot be is refused by name, and what they foretell is what happens."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from mhe.clear_party import ClearParty
from mhe.errors import ParameterError
from mhe.moduli import generate_moduli
from mhe.parameters import LOG_QP_CAPS, Shape, log2_product, refresh_floor_bits
from mhe.ring.vectors import FLOAT_MODULUS_BITS
from models.candidates import SPECIAL_MARGINS
from models.choice import Choice, pinned, shape_of
from models.cost import FAST_BITS, Chain, Work
from models.model import model_of
from models.search import LOGIT_ERROR, TOLERATED, RootWork, choose_plan, choose_plans
from models.training import pack_batches, train
from network.local import run_parties
from network.topology import Tree
from network.traffic import predict
from tests.evaluators import make_party, moduli_of, plan_of
from tests.insecure import clear_party, insecure_test_plan, sigmoid_polynomial, table, workload

REAL = {"release_bits": 40, "message_bound": 32.0, "iterations": 20, "momentum": 0.5, "learning_rate": 0.5}
WORKLOADS = {
    "four parties": workload((154,) * 4, 8, **REAL),
    "one party": workload((768,), 8, **REAL),
    "ten parties": workload((61,) * 10, 8, **REAL),
    "no momentum": workload((154,) * 4, 8, **{**REAL, "momentum": 0.0}),
    "degree 7": workload((142,) * 4, 30, link=sigmoid_polynomial(7, 20.0), l2=0.2, **REAL),
    "degree 15": workload((142,) * 4, 30, link=sigmoid_polynomial(15), l2=0.2, **{**REAL, "release_bits": 30}),
    "1024 features": workload((300, 20), 1024, **{**REAL, "iterations": 5}),
    "many rows": workload((10**6, 1, 10**5), 20, **REAL),
    "batches": workload((1000, 50), 20, batch=64, **REAL),
    "predictions": workload((154,) * 4, 8, release="predictions", test_rows=(38,) * 4, **REAL),
    "nothing": workload((154,) * 4, 8, release="nothing", **REAL),
}


# choosing


def choose(task, choice=None, free=True):
    return searched(task, choice or Choice(), free)


@lru_cache
def searched(task, choice, free):
    """Several tests look at it."""
    return choose_plan(task, choice, generate_moduli, free=free)


IN_ONE_RING = ("one party", "ten parties", "no momentum", "degree 15", "batches")
"""Searched in one ring only: the search of several rings is shown on the others."""


@pytest.mark.parametrize(
    ("name", "security_bits"),
    [*((name, 128) for name in WORKLOADS), *((name, 192) for name in ("four parties", "1024 features", "predictions"))],
)
def test_chosen_parameters_keep_every_promise(name, security_bits):
    task = WORKLOADS[name]
    plan = choose(task, Choice(security_bits=security_bits, ring_dim=1 << 15 if name in IN_ONE_RING else None))
    p = plan.parameters
    assert not p.insecure
    assert (p.security_bits, p.statistical_bits, p.n_parties) == (security_bits, 128, task.n_parties)
    assert p.log_qp == log2_product(p.moduli + p.special_moduli) <= LOG_QP_CAPS[security_bits][p.ring_dim]
    floor = refresh_floor_bits(128, p.scale_bits, task.message_bits, task.n_parties)
    assert log2_product(p.moduli[: p.refresh_limbs]) >= floor
    # not a level more than the iteration needs, and the refresh as low as its masks allow
    assert p.depth == task.levels
    assert log2_product(p.moduli[: p.refresh_limbs - 1]) < floor + 1
    assert plan.low_limbs == p.refresh_limbs
    allowed = LOGIT_ERROR if task.release == "predictions" else task.precision
    # only a thousand features miss what is asked for: their rows may be large, and the plan says so
    assert 0 < plan.precision.released_error <= (TOLERATED if task.features == 1024 else 1) * allowed
    # the special primes hardly fall short of the largest digit, so that key switching adds little noise
    largest = max(log2_product(p.moduli[d.start : d.stop]) for d in p.digit_limbs)
    assert log2_product(p.special_moduli) > largest + SPECIAL_MARGINS[0] - 1
    assert len(p.digit_limbs) == p.digits


@pytest.mark.parametrize("statistical_bits", [30, 80, 128, 256])
def test_statistical_bits_of_the_refresh_are_kept(statistical_bits):
    plan = choose(WORKLOADS["four parties"], Choice(statistical_bits=statistical_bits, ring_dim=1 << 16))
    p = plan.parameters
    assert p.statistical_bits == statistical_bits
    assert p.mask_bits >= statistical_bits + p.scale_bits + plan.workload.message_bits
    room = log2_product(p.moduli[: p.refresh_limbs]) - math.log2(p.n_parties + 1) - 1
    assert p.mask_bits <= room


def test_nothing_cheaper_would_do():
    """The search tries rings from small to large: half the ring misses the cap or the precision."""
    plan = choose(WORKLOADS["four parties"])
    with pytest.raises(ParameterError):
        choose(plan.workload, Choice(ring_dim=plan.parameters.ring_dim // 2))


def test_explicit_values_are_taken():
    wished = Choice(ring_dim=65536, scale_bits=50, first_bits=55, digits=3, limbs=9)
    p = choose(WORKLOADS["nothing"], wished).parameters
    assert (p.ring_dim, p.scale_bits, p.digits, p.n_limbs) == (65536, 50, 3, 9)
    # the refresh floor has limbs of first_bits, every level one of scale_bits
    assert [round(math.log2(q)) for q in p.moduli] == [55] * 5 + [50] * 4


def test_openfhe_primes_keep_the_same_promises():
    plan = choose_plan(WORKLOADS["four parties"], Choice(), moduli_of("openfhe"), free=False)
    own = choose(WORKLOADS["four parties"], free=False)
    assert plan.parameters.log_qp <= LOG_QP_CAPS[128][plan.parameters.ring_dim]
    # a search by cost may take other special primes for primes that are a little larger
    assert plan.precision.weight_error == pytest.approx(own.precision.weight_error, rel=0.3)


# free primes


@pytest.mark.parametrize("name", ["four parties", "degree 7", "predictions", "nothing"])
def test_free_primes_cost_no_more_than_prescribed_ones(name):
    """At the same security and within the same precision."""
    task = WORKLOADS[name]
    free = choose(task)
    prescribed = choose(task, free=False)

    assert RootWork()(free) <= RootWork()(prescribed)


def test_where_nothing_is_released_levels_are_small():
    """No smudging asks for a large scale: the primes of the levels stay below 2^50."""
    p = choose(WORKLOADS["nothing"]).parameters
    assert max(p.moduli[p.refresh_limbs :]) < 1 << FLOAT_MODULUS_BITS
    prescribed = choose(WORKLOADS["nothing"], free=False).parameters
    assert p.ring_dim <= prescribed.ring_dim


def test_small_rings_are_taken_where_the_statistical_bits_allow_it():
    """A linear activation, few bits: three levels and a floor of two small limbs fit 214 bits."""
    task = workload((60, 60), 4, link=sigmoid_polynomial(1), iterations=5, message_bound=8.0, release="nothing")
    p = choose(task, Choice(statistical_bits=40)).parameters
    assert (p.ring_dim, p.n_limbs, len(p.special_moduli)) == (1 << 13, 5, 1)
    assert p.log_qp <= LOG_QP_CAPS[128][1 << 13]


def test_work_grows_with_everything_that_is_more_work():
    shape = Shape(1 << 14, 40, 40, 8, 2, 4, 40, 4)
    dearer = (
        replace(shape, ring_dim=1 << 15),
        replace(shape, special_limbs=5),
        replace(shape, scale_bits=FAST_BITS + 2),
        replace(shape, first_bits=FAST_BITS + 2),
        replace(shape, special_bits=FAST_BITS + 2),
    )
    for name in ("rotate", "relinearise", "rotate_hoisted", "rotate_and_sum"):
        least = Work(Chain.of_shape(shape)).of(name, 8)
        assert least > Work(Chain.of_shape(shape)).of(name, 7) > 0
        assert all(Work(Chain.of_shape(each)).of(name, 8) > least for each in dearer)


def test_a_hoisted_rotation_and_its_decomposition_are_a_rotation():
    work = Work(Chain.of_shape(Shape(1 << 14, 40, 40, 8, 2, 4, 40, 4)))
    assert work.of("decompose", 6) + work.of("rotate_hoisted", 6) == pytest.approx(work.of("rotate", 6))


@pytest.mark.parametrize("name", ["four parties", "predictions"])
def test_nothing_cheaper_is_precise_enough(name):
    """Every chain that differs a little from what was chosen, and is cheaper, misses the precision or the cap."""
    task, judge = WORKLOADS[name], RootWork()
    plan = choose(task)
    allowed = max(task.precision, LOGIT_ERROR) if task.release == "predictions" else task.precision
    assert plan.precision.released_error <= allowed
    for scale_bits in range(plan.parameters.scale_bits - 6, 61):
        for digits in range(1, 6):
            choice = Choice(judge=judge, scale_bits=scale_bits, digits=digits)
            try:
                other = choose(task, choice)
            except ParameterError:
                continue
            assert other.precision.released_error > allowed or judge(other) >= judge(plan)


def test_the_best_few_are_in_order_and_on_different_chains():
    judge = RootWork()
    plans = choose_plans(WORKLOADS["four parties"], Choice(judge=judge), generate_moduli, free=True, count=4)
    costs = [judge(plan) for plan in plans]
    assert costs == sorted(costs)
    chains = {(p.ring_dim, p.n_limbs, p.digits, len(p.special_moduli)) for p in (plan.parameters for plan in plans)}
    assert len(chains) == len(plans) == 4


# the last one has limbs of one size alone, which do not show how many of them are the floor
@pytest.mark.parametrize(
    ("free", "wished"), [(True, None), (False, None), (True, Choice(first_bits=57, scale_bits=57))]
)
def test_what_one_party_found_another_one_makes_again(free, wished):
    task = WORKLOADS["four parties"]
    plan = choose(task, wished, free=free)
    assert choose(task, Choice(pinned=pinned(plan)), free=free) == plan
    larger = replace(pinned(plan), shape=replace(shape_of(plan.parameters), ring_dim=plan.parameters.ring_dim // 2))
    with pytest.raises(ParameterError, match="128-bit security allows"):
        choose(task, Choice(pinned=larger), free=free)


def test_another_party_asks_openfhe_for_the_same_primes():
    """It takes no shape that spells out what it prescribes."""
    task, prescribed = WORKLOADS["four parties"], moduli_of("openfhe")
    plan = choose_plan(task, Choice(), prescribed, free=False)
    assert choose_plan(task, Choice(pinned=pinned(plan)), prescribed, free=False) == plan


@pytest.mark.parametrize(
    ("task", "choice", "said"),
    [
        ("four parties", Choice(ring_dim=4096), r"log2\(QP\) is .* at ring_dim 4096; 128-bit security allows 106"),
        (
            "four parties",
            Choice(ring_dim=8192, scale_bits=50),
            "128-bit security allows 214 there: take ring_dim >= 32768",
        ),
        ("degree 7", Choice(ring_dim=32768, security_bits=192, scale_bits=58, digits=1), "192-bit security allows 597"),
        ("four parties", Choice(limbs=4), "one iteration takes 4 levels .* need more limbs, or a lower degree"),
        ("four parties", Choice(limbs=5), "limbs = 5 are too few: 4 levels are consumed between refreshes"),
        ("four parties", Choice(first_bits=20), "no ring has enough primes .* leave .crypto. first_bits to the plan"),
        ("four parties", Choice(digits=7, limbs=9), "9 limbs cannot be cut into 7 digits"),
        (
            "1024 features",
            Choice(ring_dim=2048),
            "1024 features and an intercept do not fit the 1024 slots of ring_dim",
        ),
    ],
)
def test_the_binding_constraint_is_named(task, choice, said):
    with pytest.raises(ParameterError, match=said) as caught:
        choose(WORKLOADS[task], choice)
    assert len(str(caught.value).splitlines()) == 1


def test_digits_that_one_floor_cannot_be_cut_into_fit_another():
    """Few wide limbs below the levels come first; what they cannot do, more narrow ones may."""
    found = choose(WORKLOADS["four parties"], Choice(ring_dim=32768, digits=5))
    assert found.parameters.digits == 5


@pytest.mark.parametrize(("ring_dim", "changes", "said"), [
    (65536, {"precision": 1e-9}, "weights would be released to .* at best .* 1e-09 is asked for"),
    (None, {"precision": 1e-3, "release_bits": 80}, "weights would be released to .*smudging of 80 statistical bits"),
    (65536, {"release": "predictions", "release_bits": 80, "test_rows": (9,) * 4}, "logits would be .* 0.05 is asked"),
])  # fmt: skip
def test_precision_that_cannot_be_had_is_named(ring_dim, changes, said):
    with pytest.raises(ParameterError, match=said):
        choose(workload((154,) * 4, 8, **{**REAL, **changes}), Choice(ring_dim=ring_dim))


def test_delivered_logits_are_worth_having():
    """Precision of the weights says nothing of logits: all their slots are smudged, at few limbs."""
    cheap = choose(WORKLOADS["nothing"])
    assert cheap.precision.logit_error > 10 * LOGIT_ERROR
    chosen = choose(WORKLOADS["predictions"])
    assert chosen.precision.logit_error <= LOGIT_ERROR
    assert chosen.precision.released_error == chosen.precision.logit_error


# consistency


def test_too_few_levels_are_refused():
    with pytest.raises(
        ParameterError, match=r"consumes 4 levels .*degree 3 2, backward 1.*have 3 above the refresh; need 6 limbs"
    ):
        insecure_test_plan(workload(), missing_limbs=1)


def test_parameters_for_other_parties_are_refused():
    with pytest.raises(ParameterError, match="parameters for 3 parties, rows of 2; need the same number"):
        insecure_test_plan(workload((5, 5)), n_parties=3)


def test_parameters_for_smaller_weights_are_refused():
    with pytest.raises(ParameterError, match=r"weights need .* bits above the scale, the parameters allow 3\.0; lower"):
        insecure_test_plan(workload(), message_bits=3.0)


PLANS = [
    workload((20, 15), 3),
    workload((20, 15, 1), 30, momentum=0.9, learning_rate=0.1),
    workload((2000,), 5, momentum=0.5, batch=64, l2=0.1, link=sigmoid_polynomial(7, 20.0)),
]


@pytest.mark.parametrize("task", PLANS)
def test_scales_fit_together(task):
    """No multiplication of its own brings learning_rate / n, momentum or the width of the interval in."""
    plan = insecure_test_plan(task)
    p = plan.parameters
    forward = plan.ahead_scale * plan.data_scale / p.moduli[-1]
    assert forward == pytest.approx(plan.forward_scale, rel=1e-12)
    assert forward * task.link.half_width == pytest.approx(p.scale, rel=1e-12)
    gradient = plan.error_scale * plan.data_scale / p.moduli[plan.error_limbs - 1]
    assert plan.weight_scale == pytest.approx(gradient * plan.total_rows / task.learning_rate, rel=1e-12)
    # the largest weight fits the bits that the refresh masks
    assert math.log2(task.message_bound * plan.weight_scale / p.scale) <= task.message_bits


def test_momentum_is_a_multiple_of_a_power_of_two():
    assert insecure_test_plan(workload(momentum=0.9)).momentum == 922 / 1024
    assert insecure_test_plan(workload(momentum=0.0)).momentum == 0.0
    # no more bits than it has: each costs half a bit of the weights' scale
    factors = [workload(momentum=m).momentum_factor for m in (0.0, 0.5, 0.75, 0.9, 0.9999)]
    assert factors == [1, 2, 4, 1024, 1024]
    assert insecure_test_plan(workload(momentum=0.75)).momentum == 0.75
    assert insecure_test_plan(workload(momentum=0.9999)).momentum <= 1


def test_the_intercept_does_not_decay():
    decay = insecure_test_plan(workload(features=3, l2=0.25, learning_rate=0.5)).decay(1.0)
    np.testing.assert_allclose(decay, [0.875, 0.875, 0.875, 1.0])


@pytest.mark.parametrize(
    ("rows", "batch", "blocks", "batches"),
    [((20, 15), None, (1, 1), (1, 1)), ((1200, 3), None, (3, 1), (1, 1)), ((50, 1, 16), 16, (1, 1, 1), (4, 1, 1))],
)
def test_blocks_and_batches_are_those_that_are_packed(rows, batch, blocks, batches):
    plan = insecure_test_plan(workload(rows, batch=batch))
    assert tuple(plan.blocks(rank) for rank in range(len(rows))) == blocks
    assert tuple(plan.batches(rank) for rank in range(len(rows))) == batches
    for rank, (x, y) in enumerate(table(plan.workload)):
        packed = pack_batches(model_of(plan), x, y, 0, rank, False)
        assert (len(packed), {len(batch.blocks) for batch in packed}) == (batches[rank], {blocks[rank]})


# what is foretold


@pytest.mark.parametrize(
    ("n_parties", "arity", "root"), [(1, 2, 0), (2, 2, 0), (3, 2, 1), (3, 1, 0), (5, 2, 0), (5, 3, 4)]
)
def test_traffic_of_an_iteration_is_foretold_to_the_byte(n_parties, arity, root, real_evaluator):
    """Not of the simulation, whose values travel as float64."""
    task = workload(tuple(range(5, 5 + n_parties)), 3, iterations=2)
    plan = plan_of(real_evaluator, task)
    shards = table(task)

    def program(collective):
        collective.bind(plan.parameters.digest)
        party = make_party(real_evaluator, collective, plan)
        party.make_keys(plan.key_plan)
        snapshots = []
        model = model_of(plan)
        batches = pack_batches(model, *shards[collective.rank], 0, collective.rank, True)
        train(party, model, batches, lambda _: snapshots.append(collective.metrics.snapshot()["iteration"]))
        party.close()
        return snapshots

    tree = Tree(n_parties, arity, root)
    for rank, (first, both) in enumerate(run_parties(n_parties, program, arity=arity, root=root)):
        planned = predict(tree, rank, plan.iteration_transfers)
        assert first["bytes_sent"] == planned.bytes_sent
        assert first["bytes_received"] == planned.bytes_received
        assert first["rounds"] == planned.rounds
        # the last iteration has no refresh
        assert both["rounds"] == planned.rounds + 1


class Counting:
    """A backend that counts its operations."""

    def __init__(self, backend):
        self._backend = backend
        self.count = Counter()
        self.used_rotations = set()

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def _use(self, a, rotations):
        self.used_rotations |= {r % self.parameters.n_slots for r in rotations if r % a.period}

    def rotate(self, a, rotation):
        self.count["rotate"] += 1
        self._use(a, [rotation])
        return self._backend.rotate(a, rotation)

    def rotate_hoisted(self, a, rotations):
        self._use(a, rotations)
        self.count["hoisted"] += len([r for r in rotations if r % self.parameters.n_slots])
        return self._backend.rotate_hoisted(a, rotations)

    def rotate_and_sum(self, parts):
        self.count["rotate"] += len([r for r in parts if r % self.parameters.n_slots])
        for rotation, part in parts.items():
            self._use(part, [rotation])
        return self._backend.rotate_and_sum(parts)

    def multiply_accumulate_plain(self, pairs):
        pairs = list(pairs)
        self.count["products"] += len(pairs)
        return self._backend.multiply_accumulate_plain(pairs)

    def multiply_matrix_plain(self, matrix, vector):
        self.count["products"] += len(matrix) * len(vector)
        return self._backend.multiply_matrix_plain(matrix, vector)

    def multiply(self, a, b):
        self.count["multiply"] += 1
        return self._backend.multiply(a, b)


@pytest.mark.parametrize("task", [
    workload((20, 15), 3, iterations=2),
    workload((60, 7), 40, iterations=2, link=sigmoid_polynomial(7)),
    workload((1200,), 9, iterations=2),
    workload((3, 3, 3), 100, iterations=2),
])  # fmt: skip
def test_operations_follow_from_the_layout(task, evaluator):
    """Per block: every diagonal once forward and once backward, about 2 sqrt(d) rotations each way, sums of copies.

    Of two iterations the first takes none of this: its gradient is made in the clear, and its folds turn by periods.
    """
    plan = plan_of(evaluator, task)
    layout, shards = plan.layout, table(task)

    def program(collective):
        party = make_party(evaluator, collective, plan, wrap=Counting)
        party.make_keys(plan.key_plan)
        model = model_of(plan)
        train(party, model, pack_batches(model, *shards[collective.rank], 0, collective.rank, True), lambda _: None)
        party.close()
        return party.backend

    baby, giant = len(layout.baby_steps), len(layout.giant_steps)
    for rank, backend in enumerate(run_parties(task.n_parties, program)):
        blocks, is_root = plan.blocks(rank), rank == 0
        assert backend.count["products"] == 2 * blocks * layout.n_diagonals
        assert backend.count["hoisted"] == (baby - 1) + blocks * (giant - 1)
        turned = blocks * (giant - 1 + len(layout.spread_steps) + len(layout.copy_steps)) + (baby - 1)
        assert backend.count["rotate"] == turned + (2 * len(layout.fold_steps) if is_root else 0)
        assert backend.count["multiply"] == blocks * {3: 2, 7: 5}[task.link.degree]
        keys = {*plan.key_plan.everywhere, *(plan.key_plan.root_only if is_root else ())}
        assert backend.used_rotations == {key % plan.parameters.n_slots for key in keys}


@pytest.mark.parametrize(
    "task", [workload((20, 15)), workload((1200, 3), 5), workload((50, 9), batch=16, momentum=0.5)]
)
def test_kept_diagonals_are_those_that_the_plan_counts(task):
    plan = insecure_test_plan(task)
    shards = table(task)

    def program(collective):
        party = clear_party(collective, plan, noise=False)
        party.make_keys(plan.key_plan)
        model = model_of(plan)
        batches = pack_batches(model, *shards[collective.rank], 0, collective.rank, True)
        train(party, model, batches * plan.batches(collective.rank), lambda _: None)
        # the first gradient takes no encoded rows
        used = {number % len(batches) for number in range(1, task.iterations)}
        blocks = [block for number in used for block in batches[number].blocks]
        return sum(p.limbs for block in blocks for p in block.encoded.values()), len(used)

    for rank, (limbs, used) in enumerate(run_parties(task.n_parties, program)):
        counted = plan.encoded_bytes(rank) * used // plan.batches(rank)
        assert limbs * plan.parameters.ring_dim // 2 * 8 == counted


def test_bytes_of_the_keys_are_those_of_the_key_switching_arrays(real_evaluator):
    """Not of the simulation, which has no keys."""
    plan = plan_of(real_evaluator, workload((300,), 3))
    held = []

    class Weighing:
        def __init__(self, backend):
            self._backend = backend

        def __getattr__(self, name):
            return getattr(self._backend, name)

        def load_relinearisation_key(self, key):
            held.append(key.a.nbytes + key.b.nbytes)
            self._backend.load_relinearisation_key(key)

        def load_rotation_key(self, rotation, key):
            held.append(key.a.nbytes + key.b.nbytes)
            self._backend.load_rotation_key(rotation, key)

    def program(collective):
        party = make_party(real_evaluator, collective, plan, wrap=Weighing)
        party.make_keys(plan.key_plan)
        party.close()

    run_parties(1, program)
    keys = plan.key_plan
    assert (*keys.everywhere, *keys.root_only) == (*plan.layout.rotations(), *plan.layout.fold_steps)
    assert len(held) == 1 + len(keys.everywhere) + len(keys.root_only)
    planned = replace(plan, centred=real_evaluator == "native")
    assert planned.held_keys == (keys if planned.centred else keys.whole(plan.parameters.n_limbs))
    assert sum(held) == planned.key_bytes() == planned.key_bytes(is_root=True) > planned.key_bytes(is_root=False)


@pytest.mark.parametrize(
    ("release", "standardises", "test_rows", "releases"),
    [
        ("model", True, (5, 5), 4),
        ("model", False, (5, 5), 2),
        ("nothing", True, (5, 5), 2),
        ("nothing", False, (5, 5), 1),
        ("predictions", True, (5, 5), 2 + 1 + 2),
        ("predictions", False, (0, 0), 1 + 2),
        ("predictions", False, (33, 5), 1 + 2 * 3),
    ],
)
def test_releases_are_counted_before_they_happen(release, standardises, test_rows, releases):
    """The smudging hides the noise over exactly so many openings; blocks of test rows are one each, at every party."""
    task = workload((16, 9), release=release, standardises=standardises, test_rows=test_rows)
    assert insecure_test_plan(task).releases == releases


def test_predictions_of_more_rows_than_were_trained_on_stay_within_the_planned_releases(real_evaluator):
    """Not of the simulation, which releases nothing that is to be hidden, and counts no releases."""
    task = workload((4, 3), iterations=1, release="predictions", standardises=False, test_rows=(11, 2))
    plan = plan_of(real_evaluator, task)
    assert plan.prediction_blocks == 3
    shards = table(task)

    def program(collective):
        party = make_party(real_evaluator, collective, plan)
        party.make_keys(plan.key_plan)
        rank, model = collective.rank, model_of(plan)
        weights = train(party, model, pack_batches(model, *shards[rank], 0, rank, True), lambda _: None)
        logits = model.predict(party, weights, np.ones((task.test_rows[rank], 3)))
        counts = party.encrypted_sum(np.ones(4))
        with pytest.raises(ParameterError, match=f"of a key planned for {plan.releases}"):
            party.encrypted_sum(np.ones(4))
        party.close()
        return len(logits), np.rint(counts).tolist()

    assert run_parties(2, program) == [(11, [2.0] * 4), (2, [2.0] * 4)]


def test_the_clear_party_takes_the_same_plan():
    plan = insecure_test_plan(workload())

    def program(collective):
        party = ClearParty(collective, plan.parameters, statistical_bits=10, releases=1)
        party.make_keys(plan.key_plan)
        return party.backend.loaded_rotations

    (loaded,) = run_parties(1, program)
    keys = plan.key_plan
    assert loaded == {step % plan.parameters.n_slots for step in (*keys.everywhere, *keys.root_only)}
