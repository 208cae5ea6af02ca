"""`mhe bench primitives`: the native evaluator against OpenFHE, operation by operation, in one run.

Same ring, same primes, same keys, one thread, all cases in turn: only the ratios mean something on a shared machine.
A third column is the native evaluator with primes of its own choice, all below 2^49, where arithmetic is faster. With
three special primes of 48 bits (and a first one of 47), key switching in two digits stays within 128-bit security at
N = 2^14, log2(QP) = 416; P is so far above the digits that the rounding of the division by it is what adds noise.
The transform is compared with `benchmarks.scalar_ntt`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import scalar_ntt
from benchmarks.measure import Case, Timing, measure, single_thread_environment
from benchmarks.precision import Floats, circuit, circuit_in_the_clear, inputs, precision_bits
from mhe.backend.interface import RingBackend
from mhe.backend.native import NativeBackend
from mhe.ciphertext import Ciphertext
from mhe.encoding import decode_coefficients
from mhe.encrypted_party import BackendFactory
from mhe.encryption import encrypt
from mhe.keys import EphemeralSecret, PublicKey, SecretShare
from mhe.moduli import generate_moduli as generate_own_moduli
from mhe.parameters import ERROR_STD, Parameters, Primes, Shape
from mhe.protocols.decryption import DecryptionProtocol
from mhe.protocols.public_key import PublicKeyProtocol
from mhe.protocols.refresh import RefreshProtocol
from mhe.protocols.relin_key import RelinKeyProtocol
from mhe.protocols.rotation_key import RotationKeyProtocol
from mhe.ring import ntt
from mhe.ring.galois import galois_element
from mhe.ring.gaussian import MIN_STD
from mhe.security import norm_bound, smudging_std
from mhe.session import Session
from mhe.share import Share, aggregate

PARTIES = 4
RING_DIM, LIMBS = 1 << 14, 6
FIRST_BITS, SCALE_BITS, DIGITS = 60, 45, 3
OWN_FIRST_BITS, OWN_SPECIAL_BITS, OWN_SPECIAL, OWN_DIGITS = 47, 48, 3, 2
ROTATIONS = range(1, 9)
SIDE = 8
RELEASE_BITS = 40
GUARD = 2.0**30
"""A result is raised by this factor before it is opened, far above the smudging of the opening."""
SCALAR, NATIVE, OWN, OPENFHE = "scalar", "native", "native_own_primes", "openfhe"

BARS = {
    "rotate": 3.0,
    "multiply": 3.0,
    "multiply_accumulate_plain": 8.0,
    "encode": 4.0,
    "ntt": 2.5,
    "refresh": 2.0,
}
"""How many times faster than OpenFHE (the transform: than the scalar one) the native evaluator is meant to be."""


def parameters(shape: Shape, make_moduli: Callable[[Shape], Primes]) -> Parameters:
    """128-bit security at the default size; a refresh takes all but the last two limbs."""
    return Parameters.of_shape(
        shape,
        make_moduli(shape),
        n_parties=PARTIES,
        refresh_limbs=shape.n_limbs - 2,
        message_bits=1,
        statistical_bits=128 if shape.n_limbs >= LIMBS else 32,
        insecure=shape.ring_dim < RING_DIM,
    )


class Bench:
    """All parties in this process with their keys, one evaluator, and its cases."""

    def __init__(self, name: str, chosen: Parameters, make: BackendFactory) -> None:
        self.name, self.parameters = name, chosen
        self.sessions = [Session(chosen, rank, bytes(32)) for rank in range(PARTIES)]
        self.secrets = [SecretShare.generate(chosen.ring_dim) for _ in self.sessions]
        self.backend: RingBackend = make(chosen, self.sessions[0].key_id)
        self.public_key = self._make_keys()
        self.values = np.random.default_rng(0).uniform(-1, 1, chosen.n_slots)
        self.plain = self.backend.encode(self.values, chosen.n_limbs)
        self.message = self._message(self.values)
        self.a, self.b = self._encrypt(self.message), self._encrypt(self.message)
        self.product = self.backend.multiply_plain(self.a, self.plain)
        self.vector = [self.backend.add(self.a, self.b) for _ in range(SIDE)]
        self.matrix = [
            [self.backend.encode(self.values / (1 + i + j), chosen.n_limbs) for i in range(SIDE)] for j in range(SIDE)
        ]
        self.products = [(x, self.a) for x in self.vector]
        self.parts = {rotation: x for rotation, x in zip(ROTATIONS, self.vector, strict=True)}
        self._next = self.a

    def _sum(self, protocol_of: Callable[[Session], Any], step: str = "share", *given: Any) -> Share:
        shares = [
            getattr(protocol_of(session), step)(secret, *(g[session.rank] if isinstance(g, list) else g for g in given))
            for session, secret in zip(self.sessions, self.secrets, strict=True)
        ]
        total: Share = reduce(aggregate, shares)
        return total

    def _make_keys(self) -> PublicKey:
        root = self.sessions[0]
        ephemeral = [EphemeralSecret.generate(self.parameters.ring_dim) for _ in self.sessions]
        first = self._sum(RelinKeyProtocol, "share_first", ephemeral)
        second = self._sum(RelinKeyProtocol, "share_second", ephemeral, first)
        self.backend.load_relinearisation_key(RelinKeyProtocol(root).finalize(first, second))
        for rotation in ROTATIONS:
            t = galois_element(rotation, self.parameters.ring_dim)
            total = self._sum(lambda session, t=t: RotationKeyProtocol(session, t))  # type: ignore[misc]
            self.backend.load_rotation_key(rotation, RotationKeyProtocol(root, t).finalize(total))
        return PublicKeyProtocol(root).finalize(self._sum(PublicKeyProtocol))

    def _message(self, values: Floats) -> Any:
        from mhe.backend.native.encoder import encode, unfold

        return unfold(encode(values, self.sessions[0].cipher_ring(), self.parameters.scale))

    def _encrypt(self, message: Any) -> Ciphertext:
        fresh = encrypt(self.sessions[0], self.public_key, message, self.parameters.scale)
        return self.backend.import_ciphertext(fresh, self.parameters.n_slots)

    def precision_bits(self) -> float:
        """Of the circuit in `benchmarks.precision`, opened by all parties."""
        w, x, y = inputs(self.parameters.n_slots, seed=0)
        result = circuit(self.backend, w, *(self._encrypt(self._message(v)) for v in (x, y)))
        raised = self.backend.multiply_plain(result, self.backend.encode(np.ones(1), result.limbs, GUARD))
        arrays, n = self.backend.export_ciphertext(raised), self.parameters.ring_dim

        def protocol(session: Session) -> DecryptionProtocol:
            return DecryptionProtocol(session, arrays.c1, n, MIN_STD)

        root = protocol(self.sessions[0])
        opened = root.integers(root.finalize(self._sum(protocol), arrays.c0))
        slots = decode_coefficients(np.array([float(c) for c in opened]), arrays.scale)
        return precision_bits(slots, circuit_in_the_clear(w, x, y))

    def _other(self) -> Ciphertext:
        """A ciphertext that no protocol has served yet."""
        self._next = self.backend.add(self._next, self.b)
        return self.backend.drop_limbs(self._next, self.parameters.refresh_limbs)

    def cases(self) -> list[Case]:
        backend, p = self.backend, self.parameters

        def case(op: str, run: Callable[[Any], object], **more: Any) -> Case:
            return Case(op, self.name, p.ring_dim, p.n_limbs, run, **more)

        return [
            case("encode", lambda _: backend.encode(self.values, p.n_limbs)),
            case("encrypt", lambda _: self._encrypt(self.message)),
            case("add", lambda _: backend.add(self.a, self.b)),
            case("multiply_plain", lambda _: backend.multiply_plain(self.a, self.plain)),
            # as models.linalg does it: a matrix of encoded diagonals times the rotations of a vector
            case(
                "multiply_accumulate_plain",
                lambda _: backend.multiply_matrix_plain(self.matrix, self.vector),
                divisor=SIDE * SIDE,
            ),
            case("multiply", lambda _: backend.multiply(self.a, self.b)),
            case("multiply_accumulate", lambda _: backend.multiply_accumulate(self.products), divisor=SIDE),
            case("rotate", lambda _: backend.rotate(self.a, 1)),
            case("rotate_hoisted", lambda _: backend.rotate_hoisted(self.a, ROTATIONS), divisor=len(ROTATIONS)),
            case("rotate_and_sum", lambda _: backend.rotate_and_sum(self.parts), divisor=len(ROTATIONS)),
            case("rescale", lambda _: backend.rescale(self.product)),
            case("refresh_share", self._refresh_share, prepare=self._other),
            case("refresh_finalize", self._refresh_finalize, prepare=self._refresh_total),
            case("decrypt_share", self._decrypt_share, prepare=self._other),
            case("refresh", self._refresh, prepare=self._other),
        ]

    def _refresh_share(self, ciphertext: Ciphertext) -> Share:
        c1 = self.backend.export_ciphertext(ciphertext).c1
        return RefreshProtocol(self.sessions[0], (c1,)).share(self.secrets[0])

    def _refresh_total(self) -> tuple[Ciphertext, RefreshProtocol, Share]:
        ciphertext = self._other()
        c1 = self.backend.export_ciphertext(ciphertext).c1
        total = self._sum(lambda session: RefreshProtocol(session, (c1,)))
        return ciphertext, RefreshProtocol(self.sessions[0], (c1,)), total

    def _refresh_finalize(self, given: tuple[Ciphertext, RefreshProtocol, Share]) -> Ciphertext:
        ciphertext, protocol, total = given
        c0 = protocol.finalize(total, {0: self.backend.export_ciphertext(ciphertext).c0})[0]
        return self.backend.import_ciphertext(protocol.fresh(0, c0, ciphertext.scale), ciphertext.period)

    def _refresh(self, ciphertext: Ciphertext) -> list[Ciphertext]:
        """What all parties do together, one after the other: every one has the fresh ciphertext in its evaluator."""
        exported = self.backend.export_ciphertext(ciphertext)
        protocols = [RefreshProtocol(session, (exported.c1,)) for session in self.sessions]
        shares = [p.share(secret) for p, secret in zip(protocols, self.secrets, strict=True)]
        c0 = protocols[0].finalize(reduce(aggregate, shares), {0: exported.c0})[0]
        return [self.backend.import_ciphertext(p.fresh(0, c0, ciphertext.scale), ciphertext.period) for p in protocols]

    def _decrypt_share(self, ciphertext: Ciphertext) -> Share:
        c1 = self.backend.export_ciphertext(ciphertext).c1
        n = self.parameters.ring_dim
        smudging = smudging_std(norm_bound(ERROR_STD * n**0.5, n), RELEASE_BITS, 1)
        return DecryptionProtocol(self.sessions[0], c1, n, smudging).share(self.secrets[0])


def transform_cases(modulus: int, ring_dim: int, limbs: int) -> list[Case]:
    tables = ntt.tables(ring_dim, modulus)
    row = np.random.default_rng(0).integers(0, modulus, ring_dim, dtype=np.uint64)
    paths = {SCALAR: scalar_ntt.forward, NATIVE: ntt.forward}
    return [
        Case("ntt", name, ring_dim, limbs, lambda x, f=forward: f(x, tables), prepare=row.copy)  # type: ignore[misc]
        for name, forward in paths.items()
    ]


def run(runs: int, json_file: Path | None, ring_dim: int = RING_DIM, limbs: int = LIMBS) -> list[dict[str, Any]]:
    """Measure, print, and write {environment, results, ratios, precision}; the ratios."""
    from mhe.backend.openfhe import OpenFHEBackend, generate_moduli

    before = single_thread_environment()
    same = parameters(Shape(ring_dim, FIRST_BITS, SCALE_BITS, limbs, DIGITS), generate_moduli)
    free = Shape(ring_dim, OWN_FIRST_BITS, SCALE_BITS, limbs, OWN_DIGITS, 1, OWN_SPECIAL_BITS, OWN_SPECIAL)
    own = parameters(free, generate_own_moduli)
    benches = [Bench(OPENFHE, same, OpenFHEBackend), Bench(NATIVE, same, NativeBackend), Bench(OWN, own, NativeBackend)]
    by_op = zip(*(bench.cases() for bench in benches), strict=True)
    cases = [*transform_cases(same.moduli[1], ring_dim, limbs), *(case for group in by_op for case in group)]
    timings = measure(cases, runs)
    precision = {bench.name: round(bench.precision_bits(), 2) for bench in benches}
    for bench in benches:
        bench.backend.close()
    found = ratios(timings)
    _print(timings, found, precision)
    if json_file is not None:
        results = [asdict(t) for t in timings]
        document = {"environment": before, "results": results, "ratios": found, "precision": precision}
        json_file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return found


def ratios(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    """How many times faster than the yardstick each backend is, and the bar where there is one."""
    yardstick = {t.op: t.median_ms for t in timings if t.backend in (OPENFHE, SCALAR)}
    return [
        {"op": t.op, "backend": t.backend, "ratio": round(yardstick[t.op] / t.median_ms, 2), "bar": BARS.get(t.op)}
        for t in timings
        if t.backend not in (OPENFHE, SCALAR)
    ]


def _print(timings: Sequence[Timing], found: Sequence[dict[str, Any]], precision: Mapping[str, float]) -> None:
    table = Table("operation", "backend", "median ms", "IQR ms", "times faster", "bar", box=None, pad_edge=False)
    faster = {(r["op"], r["backend"]): r for r in found}
    for t in timings:
        ratio = faster.get((t.op, t.backend))
        shown = ("", "") if ratio is None else (f"{ratio['ratio']:.2f}", f"{ratio['bar'] or ''}")
        table.add_row(t.op, t.backend, f"{t.median_ms:.3f}", f"{t.iqr_ms:.3f}", *shown)
    console = Console()
    console.print(table)
    console.print("bits of precision after one circuit: " + ", ".join(f"{n} {b:.2f}" for n, b in precision.items()))
