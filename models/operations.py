"""How often one party makes each operation in an iteration: read off the very code, run on an evaluator of sizes.

Nothing of the rows matters but their number, so that they are stood in for by ones. What is counted is what
`mhe.backend.tracking` and `mhe.tracking_party` count; a test compares it with the calls of a real run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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

Floats = npt.NDArray[np.float64]

Counts = Mapping[tuple[str, int], int]
"""How often each operation is made, by its name and limbs."""


@dataclass(frozen=True)
class Operations:
    """Of one party. preparation: what is made once before the first iteration. opening: the first iteration of a run,
    of which the gradient may be made in the clear. first: an iteration that encodes its batch. later: one that finds it
    encoded. alone: the part of any of them that the root makes while the others wait. refresh, refresh_alone: the parts
    of all and of `alone` that belong to the refresh of the weights, which a run's last iteration has not.
    """

    preparation: Counts
    opening: Counts
    first: Counts
    later: Counts
    alone: Counts
    refresh: Counts
    refresh_alone: Counts

    @property
    def opens_in_clear(self) -> bool:
        """Whether the first iteration leaves its batch to be encoded when it is used again."""
        return self.opening != self.first

    def moved(self, limbs: int) -> Operations:
        """The same on a chain whose refresh is at so many limbs more: every operation is as much higher."""
        return self.mapped(lambda name: _moved(getattr(self, name), limbs))

    @staticmethod
    def mapped(part: Callable[[str], Counts]) -> Operations:
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

    return Operations.mapped(lambda name: _sum((getattr(two, name), blocks - 1), (getattr(one, name), 2 - blocks)))


def probe_operations(plan: Plan, rank: int, probe: RangeProbe, *, keep: bool) -> Counts:
    """What a probe adds to this party's part in an iteration that finds its batch encoded, if those are kept."""
    party, model = TrackingParty(plan.parameters), model_of(plan)
    batch = _batch(plan, plan.blocks(rank), keep)
    weights = [party.encrypted(1.0, 0.0, plan.weight_scale, plan.weights_period)] * plan.n_ciphertexts
    ahead = model.look_ahead(party.backend, weights, weights)
    model.gradients(party, ahead, batch)
    _taken(party)
    model.gradients(party, ahead, batch)
    without = _taken(party)
    _, parts = model.probed_gradients(party, ahead, batch)
    party.sum([probe.power_sum(party, parts)])
    return _sum((_taken(party), 1), (without, -1))


SOME_PRECISION, SOME_BITS = 0.5, 40


class Counted:
    """The operations of the plans of one workload, each layout's counted once.

    What is counted on one chain holds for every other one, with all limbs as much higher as its refresh is.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[int, Operations]] = {}

    def of(self, plan: Plan, rank: int, *, is_root: bool, keep: bool) -> Operations:
        """As `operations`."""
        low, blocks = plan.parameters.refresh_limbs, plan.blocks(rank)
        # how precise the release is has no part in an iteration
        task = replace(plan.workload, precision=SOME_PRECISION, release_bits=SOME_BITS)
        key = (task, plan.layout, plan.parameters.depth, blocks, is_root, keep)
        if key not in self._known:
            self._known[key] = low, operations(plan, rank, is_root=is_root, keep=keep)
        at, found = self._known[key]
        return found.moved(low - at)


def _run(plan: Plan, blocks: int, *, is_root: bool, keep: bool) -> Operations:
    party = TrackingParty(plan.parameters, is_root=is_root)
    party.backend = _Counting(plan.parameters)
    model = model_of(plan)
    batch, untouched = (_batch(plan, blocks, keep) for _ in range(2))
    weights = [party.encrypted(1.0, 0.0, plan.weight_scale, plan.weights_period)] * plan.n_ciphertexts
    prepared = model.prepare(party, [batch])
    preparation = _taken(party)
    opening = _iteration(party, model, weights, prepared, untouched, opens=True)
    first = _iteration(party, model, weights, prepared, batch)
    later = _iteration(party, model, weights, prepared, batch)
    alone = _sum((later.step_alone, 1), (later.refresh_alone, 1))
    return Operations(preparation, opening.all, first.all, later.all, alone, later.refresh, later.refresh_alone)


class _Iteration(NamedTuple):
    """All operations of one, those of its refresh, and the parts of step and refresh that only the root has."""

    all: Counts
    refresh: Counts
    step_alone: Counts
    refresh_alone: Counts


def _iteration(
    party: TrackingParty,
    model: Model,
    weights: list[Ciphertext],
    prepared: list[Ciphertext],
    batch: Any,
    *,
    opens: bool = False,
) -> _Iteration:
    """As `models.training.train` makes it. opens: whether it is the first of a run."""
    ahead = model.look_ahead(party.backend, weights, weights)
    totals = party.sum(model.gradients(party, ahead, batch, first=opens))
    before = _taken(party)
    updated = model.step(party, prepared, ahead, totals)
    step = _taken(party)
    model.refresh(party, updated)
    refresh = _taken(party)
    step_alone = {key: n for key, n in step.items() if party.is_root and key[0] not in SHARED}
    refresh_alone = {key: n for key, n in refresh.items() if party.is_root and "lift" in key[0]}
    return _Iteration(_sum((before, 1), (step, 1), (refresh, 1)), refresh, step_alone, refresh_alone)


SHARED = ("mask", "fresh", "mapped_fresh", "rerandomise")
"""Pieces of protocols that all parties work on at the same time."""


def _taken(party: TrackingParty) -> Counts:
    """What was counted since the last time."""
    counts = Counter(party.backend.counts) + party.counts
    party.backend.counts.clear()
    party.counts.clear()
    return counts


def _batch(plan: Plan, blocks: int, keep: bool) -> Any:
    """A batch of ones, in so many blocks."""
    if isinstance(plan, PerceptronPlan):
        rows, net = max(plan.workload.batch_rows), plan.network
        batch = PerceptronModel(plan).batch(np.ones((rows, net.inputs)), np.ones((rows, net.outputs)), keep=keep)
        return replace(batch, rows=_TilesOfOnes(**vars(batch.rows)))
    layout = plan.layout
    diagonal, labels = np.ones(layout.period), np.ones(layout.rows)
    places = {(g, b): diagonal for g in layout.giant_steps for b in layout.baby_steps}
    packed = [PackedBlock(places, labels, layout.rows, keep) for _ in range(blocks)]
    at_zero = np.zeros(plan.workload.features + 1)
    if isinstance(plan, FixedHessianPlan):
        return GramBatch(packed, at_zero, np.eye(plan.workload.features))
    return Batch(packed, at_zero)


class _Counting(TrackingBackend):
    """Counts, and looks at nothing of what is encoded but its length."""

    def encode(self, values: Floats, limbs: int, scale: float | None = None) -> Plaintext:
        self.counts["encode", limbs] += 1
        return Plaintext(Size(1.0, 0.0), limbs, self.parameters.scale if scale is None else scale, len(values))


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
