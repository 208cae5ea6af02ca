"""How often one party makes each operation in an iteration: read off the very code, run on an evaluator of sizes.

Nothing of the rows matters but their number, so that they are stood in for by ones. What is counted is what
`mhe.backend.tracking` and `mhe.tracking_party` count; a test compares it with the calls of a real run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.backend import rules
from mhe.backend.tracking import Size, TrackingBackend
from mhe.ciphertext import Ciphertext, Plaintext
from mhe.tracking_party import TrackingParty
from models.clear_tiles import ClearTiles
from models.linalg import PackedBlock
from models.mlp import PerceptronModel
from models.mlp_plan import PerceptronPlan
from models.model import Model, Plan, model_of
from models.newton import GramBatch
from models.newton_plan import FixedHessianPlan
from models.range_probe import RangeProbe
from models.regression import Batch
from models.workload import Workload

Floats = npt.NDArray[np.float64]

Counts = Mapping[tuple[str, int], int]
"""How often each operation is made, by its name and limbs."""


Stages = tuple[Counts, ...]
"""The same, cut where something passes over the tree: before the first pass, between passes, and behind the last."""


def whole(stages: Stages) -> Counts:
    """All of them together."""
    return _sum(*((stage, 1) for stage in stages))


@dataclass(frozen=True)
class Operations:
    """Of one party. preparation: what is made once before the first iteration. opening: the first iteration of a run,
    of which the gradient may be made in the clear. first: an iteration that encodes its batch. later: one that finds it
    encoded.
    """

    preparation: Stages
    opening: Stages
    first: Stages
    later: Stages

    @property
    def opens_in_clear(self) -> bool:
        """Whether the first iteration leaves its batch to be encoded when it is used again."""
        return self.opening != self.first

    def moved(self, limbs: int) -> Operations:
        """The same on a chain whose refresh is at so many limbs more: every operation is as much higher."""
        return self.mapped(lambda name: tuple(_moved(stage, limbs) for stage in getattr(self, name)))

    @staticmethod
    def mapped(part: Callable[[str], Stages]) -> Operations:
        """Made part by part, each from its name."""
        return Operations(**{each.name: part(each.name) for each in fields(Operations)})


def operations(plan: Plan, rank: int, *, is_root: bool, keep: bool) -> Operations:
    """Of this party. keep: whether encoded rows are kept from one use to the next."""
    blocks = plan.blocks(rank)
    one = _run(plan, 1, is_root=is_root, keep=keep)
    if blocks == 1:
        return one
    # blocks are alike: what a second one adds, every other one adds
    two = _run(plan, 2, is_root=is_root, keep=keep)

    def of_all(name: str) -> Stages:
        pairs = zip(getattr(two, name), getattr(one, name), strict=True)
        return tuple(_sum((of_two, blocks - 1), (of_one, 2 - blocks)) for of_two, of_one in pairs)

    return Operations.mapped(of_all)


def probe_operations(plan: Plan, rank: int, probe: RangeProbe, *, keep: bool) -> Counts:
    """What a probe adds to this party's part in an iteration that finds its batch encoded, if those are kept. (In one
    that opens in the clear, it adds the products that the gradient has no need of.)
    """
    party, model = TrackingParty(plan.parameters), model_of(plan)
    batch = _batch(plan, plan.blocks(rank), keep)
    weights = [party.encrypted(1.0, 0.0, plan.weight_scale, plan.weights_period)] * plan.n_ciphertexts
    ahead = model.look_ahead(party.backend, weights, weights)
    model.gradients(party, ahead, batch)
    _taken(party)
    model.gradients(party, ahead, batch)
    without = whole(_taken(party))
    _, parts = model.probed_gradients(party, ahead, batch)
    party.sum([probe.power_sum(party, parts)])
    return _sum((whole(_taken(party)), 1), (without, -1))


SOME_PRECISION, SOME_BITS = 0.5, 40


class Counted:
    """The operations of the plans of one workload, those of each layout and its refresh points counted once.

    What is counted on one chain holds for every other one, with all limbs as much higher as its refresh is.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], dict[int, Operations]] = {}
        self._tasks: dict[Workload, Workload] = {}

    def of(self, plan: Plan, rank: int, *, is_root: bool, keep: bool) -> Operations:
        """As `operations`."""
        low, blocks = plan.parameters.refresh_limbs, plan.blocks(rank)
        task = self._tasks.get(plan.workload)
        if task is None:
            # how precise the release is has no part in an iteration
            task = replace(plan.workload, precision=SOME_PRECISION, release_bits=SOME_BITS)
            self._tasks[plan.workload] = task
        what = task, plan.layout, plan.points, plan.parameters.depth, blocks, is_root, keep
        known = self._known.setdefault(what, {})
        if not known:
            known[low] = operations(plan, rank, is_root=is_root, keep=keep)
        if low not in known:
            at, found = next(iter(known.items()))
            known[low] = found.moved(low - at)
        return known[low]


def _run(plan: Plan, blocks: int, *, is_root: bool, keep: bool) -> Operations:
    party = TrackingParty(plan.parameters, is_root=is_root)
    party.backend = _Counting(plan.parameters)
    model = model_of(plan)
    batch, untouched = (_batch(plan, blocks, keep) for _ in range(2))
    weights = [party.encrypted(1.0, 0.0, plan.weight_scale, plan.weights_period)] * plan.n_ciphertexts
    prepared = model.prepare(party, [batch])
    preparation = _taken(party)
    first = _iteration(party, model, weights, prepared, batch)
    # a perceptron's first weights are random: nothing is opened in the clear
    is_alike = isinstance(plan, PerceptronPlan)
    opening = first if is_alike else _iteration(party, model, weights, prepared, untouched, opens=True)
    return Operations(preparation, opening, first, _iteration(party, model, weights, prepared, batch))


def _iteration(
    party: TrackingParty,
    model: Model,
    weights: list[Ciphertext],
    prepared: list[Ciphertext],
    batch: Any,
    *,
    opens: bool = False,
) -> Stages:
    """As `models.training.train` makes it. opens: whether it is the first of a run."""
    ahead = model.look_ahead(party.backend, weights, weights)
    totals = party.sum(model.gradients(party, ahead, batch, first=opens))
    model.refresh(party, model.step(party, prepared, ahead, totals))
    return _taken(party)


def _taken(party: TrackingParty) -> Stages:
    """What was counted since the last time."""
    counted: list[Counts] = [*party.passes, Counter(party.backend.counts) + party.counts]
    party.backend.counts.clear()
    party.counts.clear()
    party.passes.clear()
    return (counted[0], *(_sum((after, 1), (before, -1)) for before, after in pairwise(counted)))


def _batch(plan: Plan, blocks: int, keep: bool) -> Any:
    """A batch of ones, in so many blocks."""
    if isinstance(plan, PerceptronPlan):
        rows, net = max(plan.workload.batch_rows), plan.network
        batch = PerceptronModel(plan).batch(np.ones((rows, net.inputs)), np.ones((rows, net.outputs)), keep=keep)
        return replace(batch, rows=_TilesOfOnes(**vars(batch.rows)))
    layout = plan.layout
    diagonal, labels = np.ones(layout.period), np.ones(layout.row_period)
    places = {(g, b): diagonal for g in layout.giant_steps for b in layout.baby_steps}
    packed = [PackedBlock(places, labels, layout.rows, keep) for _ in range(blocks)]
    at_zero = np.zeros(plan.workload.features + 1)
    if isinstance(plan, FixedHessianPlan):
        return GramBatch(packed, at_zero, np.eye(plan.workload.features))
    return Batch(packed, at_zero)


class _NoSize(Size):
    """Of values and noise that nobody follows: on them no count depends."""

    def __add__(self, other: Size) -> Size:
        return self

    def __mul__(self, other: Size) -> Size:
        return self

    def times(self, factor: float) -> Size:
        return self

    def with_noise(self, std: float) -> Size:
        return self


_NO_SIZE = _NoSize(0.0, 0.0)


class _Counting(TrackingBackend):
    """Counts, and looks at nothing of what is encoded but its length."""

    def size(self, operand: Ciphertext | Plaintext) -> Size:
        return _NO_SIZE

    def encode(self, values: Floats, limbs: int, scale: float | None = None) -> Plaintext:
        self.counts["encode", limbs] += 1
        return Plaintext(_NO_SIZE, limbs, self.parameters.scale if scale is None else scale, len(values))

    def _switched(self, size: Size, form: rules.Form, *, relinearisation: bool = False) -> Ciphertext:
        return self._result(size, form)


class _TilesOfOnes(ClearTiles):
    """Tiles all of whose diagonals are the same."""

    def _diagonal(self, pair: int, giant: int, baby: int) -> Floats:
        return self._ones

    @cached_property
    def _ones(self) -> Floats:
        return np.ones(self.layout.n_slots)


def _moved(counts: Counts, limbs: int) -> Counts:
    return {(name, at + limbs): n for (name, at), n in counts.items()}


def _sum(*terms: tuple[Counts, int]) -> Counts:
    total: Counter[tuple[str, int]] = Counter()
    for counts, times in terms:
        for key, n in counts.items():
            total[key] += times * n
    return {key: n for key, n in total.items() if n}
