"""What a unit of work of every operation takes on this machine: the table that `models.cost` looks up.

Every operation in a few rings, on a chain as plans choose it there, at all of its limbs and at half of them. As many
processes as there are cores measure at the same time (`benchmarks.together`), for parties share memory, caches and
cores as well; every run takes other ciphertexts and keys than the one before, of more memory than the nearer caches
hold. CPU seconds, so that waiting for a core does not count, by the median over all rounds and processes. Keys and
ciphertexts are random residues, which cost as much as real ones.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.together import Workers, serve
from mhe import codec
from mhe.backend.native import NativeBackend
from mhe.ciphertext import RingCiphertext
from mhe.encryption import rerandomise
from mhe.errors import BackendError
from mhe.keys import EphemeralSecret, EvaluationKey, PublicKey, SecretShare
from mhe.moduli import generate_moduli
from mhe.parameters import Parameters, Shape
from mhe.protocols.refresh import RefreshProtocol
from mhe.protocols.relin_key import RelinKeyProtocol
from mhe.protocols.rotation_key import RotationKeyProtocol
from mhe.ring.galois import galois_element
from mhe.ring.modular import Words
from mhe.session import Session
from mhe.share import Share, aggregate
from mhe.slot_map import RefreshOutput
from models.cost import Chain, UnitCosts, Work, work_on
from models.matrices import MatrixLayout, skewed_form

SHAPES = (
    Shape(1 << 13, 40, 40, 4, 4, 2, 48, 1),
    Shape(1 << 14, 48, 42, 6, 2, 2, 60, 2),
    Shape(1 << 14, 50, 56, 7, 7, 4, 60, 1),
    Shape(1 << 15, 51, 60, 8, 3, 4, 60, 3),
)
"""Chains of each ring, of the kinds that plans choose: all keep the cap of 128-bit security."""

STATISTICAL_BITS = 20
TERMS = 8
"""Of sums: as many as stay in the caches together, which is what the evaluator takes at a time."""

SIDE = 32
"""Of the matrices whose linear map is measured: as solver "newton" has them with 32 features."""

ROUNDS = 7

UNSTEADY = 1.5
"""So many times as long as the quickest round may the slowest take before the user is told."""

REFUSED = 3.0
"""The same, before nothing is believed."""

Counts = Sequence[tuple[str, int, int]]
"""(operation, limbs, how often): what one run makes."""


@dataclass(frozen=True)
class Counted:
    """What one run counts for: what is left of its time after `known` operations is that of the others."""

    counts: Counts
    known: Counts = ()


@dataclass(frozen=True)
class Measured(Counted):
    """One run of some operations."""

    run: Callable[[Any], object] = lambda _: None
    prepare: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Group:
    """What is measured on one chain: the CPU seconds of each of its cases in every run so far, and the wall seconds of
    each CPU second in every round.
    """

    chain: Chain
    cases: Sequence[Counted]
    seconds: Sequence[Sequence[float]]
    wall_per_cpu: Sequence[float]


class Pace(NamedTuple):
    """How many times as long as at the calibration operations take: CPU seconds, and wall seconds on busy cores."""

    cpu: float
    wall: float


def measure(say: Callable[[str], None], rounds: int = ROUNDS, processes: int | None = None) -> UnitCosts:
    """The units of this machine. say: is told how far it is. processes: by default one for each core.

    Raises BackendError if the rounds differ so much that they say nothing, or if a process ends.
    """
    with Workers("benchmarks.units", processes) as workers:
        say(f"operations in {len(SHAPES)} rings, in {workers.count} processes at once")
        found = [workers.round(range(len(SHAPES))) for _ in range(rounds)]
        groups, base = groups_of(found), max(workers.ready)
    steady = spread(groups, workers.count)
    if steady > REFUSED:
        raise BackendError(
            f"the slowest round of measurements took {steady:.1f} times as long as the quickest; need less than "
            f"{REFUSED:g}: calibrate again while the machine does nothing else"
        )
    if steady > UNSTEADY:
        say(f"the rounds differ by a factor of {steady:.1f}: calibrate again while the machine does nothing else")
    return UnitCosts(rates_of(groups), "measured on this machine", base, crowded(groups))


def crowded(groups: Sequence[Group]) -> float:
    """Wall seconds of a CPU second while all cores are busy: more than 1 where others take their part of them."""
    found: float = median(each for group in groups for each in group.wall_per_cpu)
    return max(found, 1.0)


def pace(workers: Workers, units: UnitCosts, rounds: int) -> Pace:
    """Of this moment against the calibration that `units` are from: medians over all that is measured."""
    groups = groups_of([workers.round(range(len(SHAPES))) for _ in range(rounds)])
    cpu: float = median(
        median(record) / (1e-6 * _foretold(units, work_on(group.chain), (*case.counts, *case.known)))
        for group in groups
        for case, record in zip(group.cases, group.seconds, strict=True)
    )
    return Pace(cpu, cpu * crowded(groups) / units.crowded)


def _foretold(units: UnitCosts, work: Work, counts: Counts) -> float:
    """Microseconds."""
    return 1e6 * sum(n * units.seconds(work, name, limbs) for name, limbs, n in counts)


def resident_bytes() -> int:
    """Memory of this process now; its peak where the system does not say."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def groups_of(rounds: Sequence[Sequence[Sequence[Mapping[str, Any]]]]) -> list[Group]:
    """What the processes said in every round of every chain, put together: rounds one after the other, in each of them
    the processes.
    """
    groups = []
    for of_chain in zip(*rounds, strict=True):
        said = [one for processes in of_chain for one in processes]
        first = said[0]
        ring_dim, limb_bits, special_bits, digits = first["chain"]
        chain = Chain(ring_dim, tuple(limb_bits), tuple(special_bits), digits)
        cases = [Counted(*(tuple(map(tuple, counts)) for counts in case)) for case in first["cases"]]
        seconds = list(zip(*(one["seconds"] for one in said), strict=True))
        groups.append(Group(chain, cases, seconds, [one["wall"] / sum(one["seconds"]) for one in said]))
    return groups


def rates_of(groups: Sequence[Group]) -> dict[str, dict[int, dict[int, float]]]:
    """Microseconds of a unit of work, by operation, ring and limbs; the mean of the chains of a ring that have them."""
    found: dict[tuple[str, int, int], list[float]] = {}
    for group in groups:
        for (name, limbs), rate in _rates(group).items():
            found.setdefault((name, group.chain.ring_dim, limbs), []).append(rate)
    rates: dict[str, dict[int, dict[int, float]]] = {}
    for (name, ring_dim, limbs), each in found.items():
        rates.setdefault(name, {}).setdefault(ring_dim, {})[limbs] = sum(each) / len(each)
    return rates


def _rates(group: Group) -> dict[tuple[str, int], float]:
    work, found = Work(group.chain), dict[tuple[str, int], float]()
    for case, record in zip(group.cases, group.seconds, strict=True):
        known = sum(n * found[name, limbs] * work.of(name, limbs) for name, limbs, n in case.known)
        units = sum(n * work.of(name, limbs) for name, limbs, n in case.counts)
        rate = max(1e6 * median(record) - known, 0.0) / units
        found.update({(name, limbs): rate for name, limbs, _ in case.counts})
    return found


def spread(groups: Sequence[Group], processes: int) -> float:
    """How many times as long as the quickest round the slowest took, by the median over all that is measured."""
    relative: list[list[float]] = []
    for group in groups:
        for record in group.seconds:
            usual = median(record)
            relative.append(
                [median(record[start : start + processes]) / usual for start in range(0, len(record), processes)]
            )
    rounds: list[float] = [median(each) for each in zip(*relative, strict=True)]
    return max(rounds) / min(rounds)


class Bench:
    """One party alone, with an evaluator full of random keys, on one chain."""

    def __init__(self, shape: Shape) -> None:
        self.parameters = p = Parameters.of_shape(
            shape,
            generate_moduli(shape),
            n_parties=1,
            refresh_limbs=shape.floor_limbs,
            message_bits=1,
            statistical_bits=STATISTICAL_BITS,
        )
        self.random = np.random.default_rng(0)
        self.session = Session(p, 0, bytes(32))
        self.secret = SecretShare.generate(p.ring_dim)
        self.backend = NativeBackend(p, self.session.key_id)
        self.backend.load_relinearisation_key(self._key())
        for rotation in range(1, TERMS + 1):
            self.backend.load_rotation_key(rotation, self._key())
        # one that only takes keys, for those may be for fewer limbs than operations are measured at
        self.keyed = NativeBackend(p, self.session.key_id)
        p0, p1 = (self._residues(p.key_moduli) for _ in range(2))
        self.public_key = PublicKey(p0[: p.n_limbs], p1[: p.n_limbs], self.session.key_id)
        self.values = self.random.uniform(-1, 1, p.n_slots)
        self._cases = list(self.cases())
        self._runs = 0

    def round(self) -> dict[str, Any]:
        """All cases once, as JSON: the chain, what each counts for, its CPU seconds, and the wall seconds of all."""
        seconds, wall = [], 0.0
        for case in self._cases:
            given = case.prepare()
            started, start = time.perf_counter(), time.process_time()
            case.run(given)
            seconds.append(time.process_time() - start)
            wall += time.perf_counter() - started
        self._runs += 1
        chain = Chain.of(self.parameters)
        return {
            "chain": [chain.ring_dim, chain.limb_bits, chain.special_bits, chain.digits],
            "cases": [(case.counts, case.known) for case in self._cases],
            "seconds": seconds,
            "wall": wall,
        }

    def _one(self, some: Sequence[Any]) -> Any:
        """Another one in every round."""
        return some[self._runs % len(some)]

    def _residues(self, moduli: tuple[int, ...]) -> Words:
        return np.stack([self.random.integers(0, q, self.parameters.ring_dim, dtype=np.uint64) for q in moduli])

    def _key(self) -> EvaluationKey:
        p = self.parameters
        b, a = (np.stack([self._residues(p.key_moduli) for _ in p.digit_limbs]) for _ in range(2))
        return EvaluationKey(b, a, self.session.key_id)

    def _ciphertext(self, limbs: int) -> RingCiphertext:
        moduli = self.parameters.moduli[:limbs]
        return RingCiphertext(
            self._residues(moduli), self._residues(moduli), self.parameters.scale, self.session.key_id
        )

    def cases(self) -> Iterator[Measured]:
        p = self.parameters
        for limbs in (p.refresh_limbs + 1, p.n_limbs):
            yield from self._operations(limbs)
            yield from self._carried(limbs)
        yield from self._protocols()

    def _operations(self, n: int) -> Iterator[Measured]:
        backend, p, rotations = self.backend, self.parameters, range(1, TERMS + 1)
        a, *vector = (backend.import_ciphertext(self._ciphertext(n), p.n_slots) for _ in range(TERMS + 1))
        matrix = [[backend.encode(self.values / (1 + i), n) for i in range(TERMS)] for _ in range(TERMS)]
        products = [backend.multiply_plain(x, matrix[0][0]) for x in vector]
        pairs, parts = [(x, a) for x in vector], dict(zip(rotations, vector, strict=True))
        own = [self._ciphertext(n) for _ in range(TERMS)]
        yield Measured((("encode", n, 1),), run=lambda _: backend.encode(self.values, n))
        yield Measured((("add", n, 1),), run=lambda _: backend.add(a, self._one(vector)))
        yield Measured((("times_i", n, 1),), run=lambda _: backend.times_i(self._one(vector)))
        yield Measured(
            (("multiply_accumulate_plain", n, TERMS**2),), run=lambda _: backend.multiply_matrix_plain(matrix, vector)
        )
        yield Measured(
            (("relinearise", n, 1), ("multiply_accumulate", n, 1)),
            run=lambda _: backend.multiply(a, self._one(vector)),
        )
        yield Measured(
            (("multiply_accumulate", n, TERMS),),
            run=lambda _: backend.multiply_accumulate(pairs),
            known=(("relinearise", n, 1),),
        )
        yield Measured((("rotate", n, 1),), run=lambda _: backend.rotate(self._one(vector), self._one(rotations)))
        yield Measured(
            (("decompose", n, 1), ("rotate_hoisted", n, TERMS)),
            run=lambda _: backend.rotate_hoisted(self._one(vector), rotations),
        )
        yield Measured(
            (("rotate_and_sum", n, TERMS), ("rotated_sum", n, 1)), run=lambda _: backend.rotate_and_sum(parts)
        )
        yield Measured((("rescale", n, 1),), run=lambda _: backend.rescale(self._one(products)))
        yield Measured(
            (("rerandomise", n, 1),), run=lambda _: rerandomise(self.session, self.public_key, self._one(own))
        )

    def _carried(self, n: int) -> Iterator[Measured]:
        p = self.parameters
        share = self._share(n)
        frames = list(codec.encode(share, p.digest, 1))
        other = Share(share.protocol, share.instance, frozenset({1}), share.moduli, share.rows)
        yield Measured((("send", n, 1),), run=lambda _: list(codec.encode(share, p.digest, 1)))
        yield Measured((("receive", n, 1),), run=lambda _: codec.decode(frames, p.digest, 1))
        yield Measured((("aggregate", n, 1),), run=lambda _: aggregate(share, other))

    def _share(self, n: int) -> Share:
        moduli = self.parameters.moduli[:n]
        return Share("sum", bytes(32), frozenset({0}), moduli, self._residues(moduli))

    def _protocols(self) -> Iterator[Measured]:
        full, low = self.parameters.n_limbs, self.parameters.refresh_limbs
        spread = RefreshOutput(0, skewed_form(MatrixLayout(SIDE)))
        lower = full - spread.levels
        plain = (("mask", low, 1), ("fresh", full, 1))
        yield Measured(plain, run=self._refresh, prepare=self._new)
        yield Measured((("lift", full, 1),), run=self._finalize, prepare=self._shared)
        mapped = (spread,)
        yield Measured(
            (("mapped_fresh", lower, 1),),
            run=self._refresh,
            prepare=lambda: self._new(mapped),
            known=(("mask", low, 1),),
        )
        yield Measured((("mapped_lift", lower, 1),), run=self._finalize, prepare=lambda: self._shared(mapped))
        for limbs in (low + 1, full):
            new = partial(self._fresh_session, limbs)
            yield Measured((("relin_key", limbs, 1),), run=self._relinearisation_key, prepare=new)
            yield Measured((("rotation_key", limbs, 1),), run=self._rotation_key, prepare=new)

    def _new(self, outputs: tuple[RefreshOutput, ...] = ()) -> RefreshProtocol:
        """A refresh that was never shared before: of its maps' diagonals only the first run knows nothing."""
        return RefreshProtocol(self.session, (self._ciphertext(self.parameters.refresh_limbs).c1,), outputs)

    def _refresh(self, protocol: RefreshProtocol) -> None:
        """A share, and what every party makes of the end."""
        share = protocol.share(self.secret)
        c0: Words = share.rows[-protocol.limbs(0) :]  # type: ignore[assignment]
        self.backend.import_ciphertext(protocol.fresh(0, c0, self.parameters.scale), self.parameters.n_slots)

    def _shared(self, outputs: tuple[RefreshOutput, ...] = ()) -> tuple[RefreshProtocol, Share, Words]:
        protocol = self._new(outputs)
        return protocol, protocol.share(self.secret), self._ciphertext(self.parameters.refresh_limbs).c0

    def _finalize(self, given: tuple[RefreshProtocol, Share, Words]) -> None:
        protocol, share, c0 = given
        protocol.finalize(share, {0: c0})

    def _fresh_session(self, limbs: int) -> tuple[Session, int]:
        return Session(self.parameters, 0, self.random.bytes(32)), limbs

    def _relinearisation_key(self, given: tuple[Session, int]) -> None:
        protocol, ephemeral = RelinKeyProtocol(*given), EphemeralSecret.generate(self.parameters.ring_dim)
        first = protocol.share_first(self.secret, ephemeral)
        key = protocol.finalize(first, protocol.share_second(self.secret, ephemeral, first))
        self.keyed.load_relinearisation_key(EvaluationKey(key.b, key.a, self.session.key_id))

    def _rotation_key(self, given: tuple[Session, int]) -> None:
        session, limbs = given
        protocol = RotationKeyProtocol(session, galois_element(1, self.parameters.ring_dim), limbs)
        key = protocol.finalize(protocol.share(self.secret))
        self.keyed.load_rotation_key(1, EvaluationKey(key.b, key.a, self.session.key_id))


def _worker() -> None:
    """A process of `measure`: makes what it needs, runs all of it once to compile it, says what memory it had before,
    then makes rounds as it is told.
    """
    base = resident_bytes()
    benches = [Bench(shape) for shape in SHAPES]
    for bench in benches:
        bench.round()
    serve(base, lambda place: benches[place].round())


if __name__ == "__main__":
    _worker()
