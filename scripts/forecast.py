"""What a run will cost: seconds, bytes and memory of every party, foretold from its plan.

Time is the operations that the model's own code makes (`models.operations`), each with what it takes on the machine
(`models.cost`), and what the tree carries. Parties on one machine share its cores, on machines of their own they wait
for the stated link.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

from mhe.collective import Transfer
from mhe.parameters import WORD_BYTES
from models.cost import UnitCosts, Work, work_of
from models.model import Plan
from models.newton_plan import FixedHessianPlan
from models.operations import Counted, Counts, Operations, probe_operations
from models.plan import CircuitPlan
from models.range_probe import RangeProbe
from models.training_plan import REFRESH_PASSES
from network.link import Link
from network.mpi import sleep_seconds
from network.one_machine import Handling, Spent, shared_seconds, way_seconds
from network.topology import Tree
from network.traffic import predict

_Part = Literal["preparation", "opening", "first", "later"]
"""Of `Operations`."""

KEPT_DIAGONALS_BYTES = 1 << 30
"""Where memory has no limit, encoded diagonals are kept across iterations if they take no more than this per party."""

LOADED_BYTES = 110 << 20
"""Compiled loops, modules of a run that computing alone does not need, and the buffers of MPI."""

SCRATCH_POLYNOMIALS = 36
"""Polynomials modulo Q*P beside keys and ciphertexts: tables of the transforms, shares, their totals, and frames under
way."""

FRESH_KEYS = 1.5
"""So many times as long as at the calibration takes the making of a key: there it is made again and again in the same
memory, in a run every key takes memory that was never used before, and the first one the tables of more primes. Fitted
to runs, as what is said at `memory_bytes`."""


@lru_cache(maxsize=64)
def _places(tree: Tree) -> tuple[tuple[int, bool], ...]:
    """(children, whether there is a parent) of every party."""
    return tuple((len(tree.children(r)), tree.parent(r) is not None) for r in range(tree.n_parties))


@dataclass(frozen=True)
class Forecast:
    """Of one plan, over a tree. link: between machines of one party each; None: all parties on this machine.

    keep_within: bytes of memory within which a party keeps its rows encoded from one iteration to the next, which takes
    less time than to encode them anew; None: as long as they take no more than KEPT_DIAGONALS_BYTES.
    """

    plan: Plan
    tree: Tree
    units: UnitCosts
    link: Link | None = None
    cores: int = os.cpu_count() or 1
    counted: Counted = field(default_factory=Counted, repr=False)
    keep_within: int | None = None
    _known: dict[tuple[object, ...], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def over(self, tree: Tree) -> Forecast:
        """The same over another tree with the same root: what parties do by themselves is not worked out again."""
        other = replace(self, tree=tree)
        object.__setattr__(other, "_known", self._known)
        return other

    # one iteration

    def cpu_seconds(self, rank: int) -> float:
        """CPU time of this party in an iteration that finds its rows encoded."""
        return sum(self._staged(rank, "later")) + self._carried(rank, self.plan.iteration_transfers)

    @cached_property
    def iteration_seconds(self) -> float:
        """Wall time of an iteration that finds its rows encoded."""
        return self._in_stages(lambda rank: self._staged(rank, "later"), self.plan.iteration_transfers)

    def floor_seconds(self, everybody: Counts) -> float:
        """Wall time of what every party makes in any case."""
        return self._together([(self._computed(everybody), self.tree.n_parties)])

    @property
    def passing_seconds(self) -> float:
        """Wall time of the passes of an iteration, if nobody waits for another one."""
        return self._passing(self.plan.iteration_transfers)

    @cached_property
    def encoding_seconds(self) -> float:
        """What the first use of every batch takes beyond that, in all."""
        spent = []
        for rank, n in self._alike:
            encoded = sum(self._encodes(rank, number) for number in range(1, self._iterations_that_differ + 1))
            spent.append((encoded * (sum(self._staged(rank, "first")) - sum(self._staged(rank, "later"))), n))
        return self._together(spent)

    def cpu_seconds_of(self, rank: int, number: int) -> float:
        """CPU time of this party in the iteration of this number, from 1: the first may make its gradient in the clear,
        the last has no refresh.
        """
        return sum(self._stages_of(rank, number)) + self._carried(rank, self._transfers_of(number))

    def seconds_of(self, number: int) -> float:
        """Wall time of the iteration of this number, from 1."""
        return self._in_stages(lambda rank: self._stages_of(rank, number), self._transfers_of(number))

    def _stages_of(self, rank: int, number: int) -> Sequence[float]:
        """CPU time of this party in the iteration of this number, between its passes."""
        part: _Part = "opening" if number == 1 else "first" if self._encodes(rank, number) else "later"
        staged = self._staged(rank, part)
        return staged[:-REFRESH_PASSES] if number == self.plan.workload.iterations else staged

    def _encodes(self, rank: int, number: int) -> bool:
        """Whether the party encodes its batch in this iteration: the first time that it computes on it encrypted."""
        in_clear, batches = self._operations(rank).opens_in_clear, self.plan.batches(rank)
        return number > in_clear and number <= batches + in_clear

    def _transfers_of(self, number: int) -> tuple[Transfer, ...]:
        transfers = self.plan.iteration_transfers
        return transfers[:-REFRESH_PASSES] if number == self.plan.workload.iterations else transfers

    @cached_property
    def _iterations_that_differ(self) -> int:
        """So many at the start of the run, in which batches are still to be encoded."""
        most = 1 + max(self.plan.batches(rank) for rank, _ in self._alike)
        return min(most, self.plan.workload.iterations)

    # the whole run

    @cached_property
    def key_seconds(self) -> float:
        """Wall time of the evaluation keys: what a run's phases "relin_key" and "rotation_keys" take."""
        keys, n = self.plan.held_keys, self.tree.n_parties
        made = [{("rotation_key", limbs): 1} for limbs in (*keys.galois_everywhere, *keys.galois_root_only)]
        made += [{("relin_key", keys.relinearisation): 1}] if keys.relinearisation else []
        spent = [self._together([(FRESH_KEYS * self._computed(key), n)]) for key in made]
        return sum(spent) + self._passing(self.key_transfers, spent)

    @cached_property
    def preparation_seconds(self) -> float:
        """Wall time of the inverse of solver "newton"; nothing else is prepared."""
        if not isinstance(self.plan, FixedHessianPlan):
            return 0.0
        return self._in_stages(lambda rank: self._staged(rank, "preparation"), self.plan.preparation_transfers)

    @cached_property
    def probe_seconds(self) -> float:
        """Wall time of one range probe; nothing where there is none."""
        if self.plan.workload.range_every is None:
            return 0.0
        probe = RangeProbe(self.plan)
        spent = []
        for rank, n in self._alike:
            counts = probe_operations(self.plan, rank, probe, keep=self.keeps_diagonals(rank))
            spent.append((self._computed(counts), n))
        return self._together(spent) + self._passing(probe.transfers)

    @property
    def training_seconds(self) -> float:
        """Wall time of all iterations, each as it is (`cpu_seconds_of`), and of the range probes in them."""
        last, differ = self.plan.workload.iterations, self._iterations_that_differ
        apart = {*range(1, differ + 1), last}
        iterations = sum(map(self.seconds_of, apart)) + (last - len(apart)) * self.iteration_seconds
        return iterations + self.plan.workload.probes * self.probe_seconds

    # traffic

    def iteration_bytes(self, rank: int) -> int:
        """Sent by this party in one iteration."""
        return predict(self.tree, rank, self.plan.iteration_transfers).bytes_sent

    @property
    def most_iteration_bytes(self) -> int:
        """Of the party that sends most."""
        return _most_bytes(self.tree, self.plan.iteration_transfers)

    @cached_property
    def key_transfers(self) -> tuple[Transfer, ...]:
        """What the keys send through the tree."""
        p, keys = self.plan.parameters, self.plan.held_keys

        def everywhere(protocol: str, rows: int) -> tuple[Transfer, Transfer]:
            return Transfer("reduce", protocol, rows, p.ring_dim), Transfer("broadcast", protocol, rows, p.ring_dim)

        rows, relinearisation = p.key_rows(keys.relinearisation), list[Transfer]()
        if rows:
            last = everywhere("relin_key", rows)
            relinearisation = [*everywhere("relin_key", 2 * rows), *(last[:1] if keys.products_at_root else last)]
        return (
            *relinearisation,
            *(each for limbs in keys.galois_everywhere for each in everywhere("rotation_key", p.key_rows(limbs))),
            *(Transfer("reduce", "rotation_key", p.key_rows(limbs), p.ring_dim) for limbs in keys.galois_root_only),
        )

    # memory

    def memory_bytes(self, rank: int) -> int:
        """Peak of this party: the process, its keys, its rows, encoded and in the clear, and ciphertexts at work.

        Two parts are not derived but fitted to runs (`benchmarks.predictions`): LOADED_BYTES, SCRATCH_POLYNOMIALS.
        """
        return self._memory_bytes(rank, keep=self.keeps_diagonals(rank))

    @property
    def most_memory_bytes(self) -> int:
        """Of the party with the highest peak."""
        plan, root = self.plan, self.tree.root
        # parties with as much to do take as much
        alike = {(rank == root, plan.blocks(rank), plan.batches(rank)): rank for rank in range(self.tree.n_parties)}
        return max(map(self.memory_bytes, alike.values()))

    def keeps_diagonals(self, rank: int, sharing: int = 1) -> bool:
        """Whether this party keeps its rows encoded. sharing: parties of one process, where memory has no limit."""
        plan = self.plan
        if self.keep_within is None:
            return plan.encoded_bytes(rank) * sharing <= KEPT_DIAGONALS_BYTES
        key = ("keeps", plan.blocks(rank), plan.batches(rank), rank == self.tree.root)
        if key not in self._known:
            self._known[key] = self._memory_bytes(rank, keep=True) <= self.keep_within
        found: bool = self._known[key]
        return found

    def _memory_bytes(self, rank: int, *, keep: bool) -> int:
        plan = self.plan
        encoded = plan.encoded_bytes(rank)
        if not keep:
            # a perceptron's batch is encoded for one iteration
            encoded = 0 if isinstance(plan, CircuitPlan) else encoded // plan.batches(rank)
        process = self.units.base_bytes + LOADED_BYTES
        return process + self.key_bytes(rank) + encoded + self._clear_bytes(rank) + self._working_bytes

    def key_bytes(self, rank: int) -> int:
        """Evaluation keys: some only the root holds."""
        return self.plan.key_bytes(is_root=rank == self.tree.root)

    def _clear_bytes(self, rank: int) -> int:
        """Rows as float64: their diagonals, or themselves with targets and masks."""
        plan = self.plan
        if isinstance(plan, CircuitPlan):
            places = plan.layout.n_diagonals * plan.layout.period * plan.blocks(rank)
        else:
            places = plan.layout.rows * (plan.network.inputs + 1) + plan.layout.n_slots * (1 + plan.n_outputs)
        return places * WORD_BYTES * plan.batches(rank)

    @cached_property
    def _working_bytes(self) -> int:
        """Rotations of a vector and the sums that they go into, of one pass; and what is on its way."""
        p, plan = self.plan.parameters, self.plan
        if isinstance(plan, CircuitPlan):
            at_once = len(plan.layout.baby_steps) + len(plan.layout.giant_steps)
        else:
            at_once = plan.layout.baby + plan.layout.width // plan.layout.baby + plan.n_ciphertexts
        ciphertexts = (4 + at_once) * 2 * p.n_limbs
        return (ciphertexts + SCRATCH_POLYNOMIALS * len(p.key_moduli)) * p.ring_dim * WORD_BYTES

    # how it is put together

    @cached_property
    def _alike(self) -> list[tuple[int, int]]:
        """(a party, how many have as much to do as it has, itself included)"""
        first: dict[tuple[object, ...], int] = {}
        members: Counter[int] = Counter()
        for rank, (children, parent) in enumerate(_places(self.tree)):
            members[first.setdefault((*self._load(rank), children, parent), rank)] += 1
        return list(members.items())

    def _in_stages(self, staged: Callable[[int], Sequence[float]], transfers: Sequence[Transfer]) -> float:
        """Wall time. staged: CPU time of a party before each of these transfers, and behind the last."""
        parties = [(staged(rank), n) for rank, n in self._alike]
        stages = [self._together([(stages[i], n) for stages, n in parties]) for i in range(len(parties[0][0]))]
        return sum(stages) + self._passing(transfers, stages)

    def _together(self, spent: Spent) -> float:
        """Wall time of what all do at the same time."""
        if self.link is not None:
            return max(seconds for seconds, _ in spent)
        busy = sum(n for seconds, n in spent if seconds > 0)
        return shared_seconds(spent, self.cores) * (self.units.crowded if busy >= self.cores else 1.0)

    def _passing(self, transfers: Sequence[Transfer], stages: Sequence[float] = ()) -> float:
        """Wall time of these passes over the tree. stages: what those do before each of them who are waited for; the
        longer that takes, the later the others look again.
        """
        found = sum(map(self._pass_seconds, transfers))
        if self.link is not None:
            return found
        waited = [*stages, *[0.0] * len(transfers)][: len(transfers)]
        return found + self.tree.depth * sum(sleep_seconds(seconds) / 2 for seconds in waited)

    def _pass_seconds(self, transfer: Transfer) -> float:
        """Wall time of a pass from when all are ready, but for what they see late."""
        key = ("pass", self.tree, transfer)
        if key not in self._known:
            seconds = way_seconds(self.tree, transfer, self._handling(transfer))
            if self.link is not None:
                seconds += self.link.transfer_seconds(self.tree, transfer)
            else:
                everybody = sum(self._carried(rank, (transfer,)) * n for rank, n in self._alike)
                seconds = max(seconds, everybody / self.cores)
            self._known[key] = seconds
        found: float = self._known[key]
        return found

    def _handling(self, transfer: Transfer) -> Handling:
        rows, of_row = transfer.n_rows * transfer.n_columns / self.plan.parameters.ring_dim, self._row_handling
        return Handling(rows * of_row.send, rows * of_row.receive, rows * of_row.aggregate)

    @cached_property
    def _row_handling(self) -> Handling:
        """Of one limb."""
        return Handling(*(self.units.seconds(self._work, name, 1) for name in Handling._fields))

    def _load(self, rank: int) -> tuple[int, int, bool]:
        """(blocks of a batch, batches, whether they are kept encoded): what parties differ in, but for their place."""
        found: tuple[int, int, bool] | None = self._known.get(("load", rank))
        if found is None:
            plan = self.plan
            found = self._known["load", rank] = plan.blocks(rank), plan.batches(rank), self.keeps_diagonals(rank)
        return found

    def _staged(self, rank: int, part: _Part) -> tuple[float, ...]:
        """CPU time of this part of a party's `Operations`, between the passes."""
        key = (part, *self._load(rank), rank == self.tree.root)
        if key not in self._known:
            self._known[key] = tuple(map(self._computed, getattr(self._operations(rank), part)))
        staged: tuple[float, ...] = self._known[key]
        return staged

    def _computed(self, counts: Counts) -> float:
        return self.units.total(self._work, counts)

    def _carried(self, rank: int, transfers: Sequence[Transfer]) -> float:
        """CPU time of packing, checking and adding up what this party sends and receives."""
        children, parent = _places(self.tree)[rank]
        total = 0.0
        for transfer in transfers:
            send, receive, aggregate = self._handling(transfer)
            # a party that relays passes on what it got: only the root packs, or checks, what is every party's own
            relayed = self.tree.n_parties - 1 if transfer.apart else int(children > 0)
            if transfer.kind == "reduce":
                total += children * (receive + aggregate) + parent * send
            elif transfer.up:
                total += send if parent else relayed * receive
            else:
                total += receive if parent else relayed * send
        return total

    def _operations(self, rank: int) -> Operations:
        plan, root = self.plan, rank == self.tree.root
        return self.counted.of(plan, rank, is_root=root, keep=self.keeps_diagonals(rank))

    @cached_property
    def _work(self) -> Work:
        return work_of(self.plan.parameters)


@lru_cache(maxsize=4096)
def _most_bytes(tree: Tree, transfers: tuple[Transfer, ...]) -> int:
    """Of the party that sends most."""
    return max(predict(tree, rank, transfers).bytes_sent for rank in range(tree.n_parties))
