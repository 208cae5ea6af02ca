"""What a unit of work of every operation takes on this machine: the table that `models.cost` looks up.

Every operation in a few rings, on a chain as plans choose it there, at all of its limbs and at half of them: CPU
seconds of this process, so that waiting for a core does not count, by the median of a few runs taken in turn. Keys and
ciphertexts are random residues, which cost as much as real ones.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mhe import codec
from mhe.backend.native import NativeBackend
from mhe.ciphertext import RingCiphertext
from mhe.encryption import rerandomise
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
from models.cost import Chain, UnitCosts, Work
from models.matrices import MatrixLayout, skewed_form

SHAPES = (
    Shape(1 << 13, 40, 40, 4, 4, 2, 48, 1),
    Shape(1 << 14, 40, 40, 8, 4, 5, 48, 2),
    Shape(1 << 15, 51, 60, 8, 3, 4, 60, 3),
)
"""One chain for each ring, of the kind that plans choose: all keep the cap of 128-bit security."""

STATISTICAL_BITS = 20
TERMS = 8
"""Of sums: as many as stay in the caches together, which is what the evaluator takes at a time."""

SIDE = 32
"""Of the matrices whose linear map is measured: as solver "newton" has them with 32 features."""

RUNS = 3

Counts = tuple[tuple[str, int, int], ...]
"""(operation, limbs, how often): what one run makes."""


@dataclass(frozen=True)
class Measured:
    """One run, and what it counts for: what is left of its time after `known` operations is that of the others."""

    counts: Counts
    run: Callable[[Any], object]
    prepare: Callable[[], Any] = lambda: None
    known: Counts = ()


def measure(say: Callable[[str], None], runs: int = RUNS) -> UnitCosts:
    """The units of this machine. say: is told what is measured next."""
    rates: dict[str, dict[int, dict[int, float]]] = {}
    base = resident_bytes()
    for shape in SHAPES:
        say(f"operations in the ring of dimension {shape.ring_dim}")
        for (name, limbs), rate in _rates(shape, runs).items():
            rates.setdefault(name, {}).setdefault(shape.ring_dim, {})[limbs] = rate
    return UnitCosts(rates, "measured on this machine", base)


def resident_bytes() -> int:
    """Memory of this process now; its peak where the system does not say."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _rates(shape: Shape, runs: int) -> dict[tuple[str, int], float]:
    """Microseconds of a unit of work, by operation and limbs."""
    bench = _Bench(shape)
    cases = list(bench.cases())
    seconds: list[list[float]] = [[] for _ in cases]
    for number in range(-1, runs):
        for case, record in zip(cases, seconds, strict=True):
            given = case.prepare()
            start = time.process_time()
            case.run(given)
            if number >= 0:
                record.append(time.process_time() - start)
    bench.backend.close()
    work, found = Work(Chain.of(bench.parameters)), dict[tuple[str, int], float]()
    for case, record in zip(cases, seconds, strict=True):
        known = sum(n * found[name, limbs] * work.of(name, limbs) for name, limbs, n in case.known)
        units = sum(n * work.of(name, limbs) for name, limbs, n in case.counts)
        rate = max(1e6 * median(record) - known, 0.0) / units
        found.update({(name, limbs): rate for name, limbs, _ in case.counts})
    return found


class _Bench:
    """One party alone, with an evaluator full of random keys."""

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
        p0, p1 = (self._residues(p.key_moduli) for _ in range(2))
        self.public_key = PublicKey(p0[: p.n_limbs], p1[: p.n_limbs], self.session.key_id)
        self.values = self.random.uniform(-1, 1, p.n_slots)

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
        product = backend.multiply_plain(a, matrix[0][0])
        pairs, parts = [(x, a) for x in vector], dict(zip(rotations, vector, strict=True))
        own = self._ciphertext(n)
        yield Measured((("encode", n, 1),), lambda _: backend.encode(self.values, n))
        yield Measured((("add", n, 1),), lambda _: backend.add(a, vector[0]))
        yield Measured(
            (("multiply_accumulate_plain", n, TERMS**2),), lambda _: backend.multiply_matrix_plain(matrix, vector)
        )
        yield Measured((("relinearise", n, 1), ("multiply_accumulate", n, 1)), lambda _: backend.multiply(a, vector[0]))
        yield Measured(
            (("multiply_accumulate", n, TERMS),),
            lambda _: backend.multiply_accumulate(pairs),
            known=(("relinearise", n, 1),),
        )
        yield Measured((("rotate", n, 1),), lambda _: backend.rotate(a, 1))
        yield Measured(
            (("decompose", n, 1), ("rotate_hoisted", n, TERMS)), lambda _: backend.rotate_hoisted(a, rotations)
        )
        yield Measured((("rotate_and_sum", n, TERMS), ("rotated_sum", n, 1)), lambda _: backend.rotate_and_sum(parts))
        yield Measured((("rescale", n, 1),), lambda _: backend.rescale(product))
        yield Measured((("rerandomise", n, 1),), lambda _: rerandomise(self.session, self.public_key, own))

    def _carried(self, n: int) -> Iterator[Measured]:
        p = self.parameters
        share = self._share(n)
        frames = list(codec.encode(share, p.digest, 1))
        other = Share(share.protocol, share.instance, frozenset({1}), share.moduli, share.rows)
        yield Measured((("send", n, 1),), lambda _: list(codec.encode(share, p.digest, 1)))
        yield Measured((("receive", n, 1),), lambda _: codec.decode(frames, p.digest, 1))
        yield Measured((("aggregate", n, 1),), lambda _: aggregate(share, other))

    def _share(self, n: int) -> Share:
        moduli = self.parameters.moduli[:n]
        return Share("sum", bytes(32), frozenset({0}), moduli, self._residues(moduli))

    def _protocols(self) -> Iterator[Measured]:
        _p, full, low = self.parameters, self.parameters.n_limbs, self.parameters.refresh_limbs
        spread = RefreshOutput(0, skewed_form(MatrixLayout(SIDE)))
        lower = full - spread.levels
        plain = (("mask", low, 1), ("fresh", full, 1))
        yield Measured(plain, self._refresh, self._new)
        yield Measured((("lift", full, 1),), self._finalize, self._shared)
        mapped = (spread,)
        yield Measured(
            (("mapped_fresh", lower, 1),), self._refresh, lambda: self._new(mapped), known=(("mask", low, 1),)
        )
        yield Measured((("mapped_lift", lower, 1),), self._finalize, lambda: self._shared(mapped))
        yield Measured((("relin_key", full, 1),), self._relinearisation_key, self._fresh_session)
        yield Measured((("rotation_key", full, 1),), self._rotation_key, self._fresh_session)

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

    def _fresh_session(self) -> Session:
        return Session(self.parameters, 0, self.random.bytes(32))

    def _relinearisation_key(self, session: Session) -> None:
        protocol, ephemeral = RelinKeyProtocol(session), EphemeralSecret.generate(self.parameters.ring_dim)
        first = protocol.share_first(self.secret, ephemeral)
        protocol.finalize(first, protocol.share_second(self.secret, ephemeral, first))

    def _rotation_key(self, session: Session) -> None:
        protocol = RotationKeyProtocol(session, galois_element(1, self.parameters.ring_dim))
        key = protocol.finalize(protocol.share(self.secret))
        self.backend.load_rotation_key(1, EvaluationKey(key.b, key.a, self.session.key_id))
