"""The record of a whole run: no message and no party's memory holds what it must not.

The real program (`scripts.train.run_party`) runs with three parties, each with a file of its own, in an INSECURE small
ring. Every frame on its way is recorded, and before its secret share is erased each party's memory is searched:
everything that can be reached from the party and from the local variables of its program. OpenFHE's own objects are
opaque, but they are made of what passed through the frames and through that memory; the native evaluator's are arrays,
and searched. Not on the simulation: it keeps nothing from anyone, and serves as the control.

The searches can fail: the same ones find a party's own secrets and rows in its own memory, planted secrets in frames
and memory, and everybody's rows in the frames of a run that was asked to audit itself in the clear.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, combinations, count, islice
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

import scripts.planning
import scripts.train
from mhe import codec
from mhe.ciphertext import RingCiphertext
from mhe.encrypted_party import EncryptedParty
from mhe.keys import EphemeralSecret, ReceiverSecret, SecretPolynomial, SecretShare
from mhe.parameters import Parameters
from mhe.protocols.relin_key import RelinKeyProtocol
from mhe.ring.galois import galois_element
from mhe.ring.ring import Ring, ring
from mhe.ring.sampling import uniform
from mhe.session import Session
from mhe.share import Share
from models.plan import CircuitPlan
from models.training import pack_batches
from network.channel import Loopback
from network.local import run_parties
from scripts.config import parse_config
from tests import oracle
from tests.attacks import recover_secret
from tests.insecure import finding, insecure_test_plan, workload
from tests.memory import WINDOW, Needle, contents, forms_of_integers, reachable, search

N_PARTIES, RING_DIM, N_ROWS, N_TEST = 3, 1 << 8, 40, 20
FEATURES = ("age", "pressure", "glucose")
Floats = npt.NDArray[np.float64]


# recording a run


@dataclass
class Memory:
    """What one party held just before it erased its share. holdings: raw bytes of all that could be reached."""

    session: Session | None
    parameters: Parameters
    plan: CircuitPlan
    shard: Any
    standard: Any
    holdings: list[bytes]


@dataclass
class Run:
    """frames: (source, dest, bytes) in the order sent. secrets: (rank, kind, coefficients) of all ever generated.

    computed: what each party put into its first sum of gradients at encrypted weights, as it was computed. guessed:
    what the root computed for itself from the public ciphertexts and the rows of party 1, as one who guesses them
    would.
    """

    frames: list[tuple[int, int, bytes]] = field(default_factory=list)
    secrets: list[tuple[int, type, oracle.Secret]] = field(default_factory=list)
    memories: dict[int, Memory] = field(default_factory=dict)
    computed: dict[int, RingCiphertext] = field(default_factory=dict)
    guessed: RingCiphertext | None = None
    outcomes: list[Any] = field(default_factory=list)

    @property
    def plan(self) -> CircuitPlan:
        return self.memories[0].plan

    @property
    def messages(self) -> list[bytes]:
        return [frame for _, _, frame in self.frames]

    def shares_of(self, rank: int) -> dict[type, list[oracle.Secret]]:
        out: dict[type, list[oracle.Secret]] = {}
        for owner, kind, coefficients in self.secrets:
            if owner == rank:
                out.setdefault(kind, []).append(coefficients)
        return out

    @cached_property
    def secret_needles(self) -> dict[int, list[Needle]]:
        """By owner."""
        return {
            rank: [
                needle
                for kind, found in self.shares_of(rank).items()
                for coefficients in found
                for needle in self.forms(f"{kind.__name__} of {rank}", coefficients)
            ]
            for rank in range(N_PARTIES)
        }

    @cached_property
    def sum_needles(self) -> list[Needle]:
        """Sums of two secret shares or more, whosever."""
        shares = [self.shares_of(rank)[SecretShare][0] for rank in range(N_PARTIES)]
        return [
            needle
            for size in range(2, N_PARTIES + 1)
            for ranks in combinations(range(N_PARTIES), size)
            for needle in self.forms(f"sum of {ranks}", oracle.joint([shares[rank] for rank in ranks]))
        ]

    def forms(self, what: str, coefficients: oracle.Secret) -> list[Needle]:
        """A secret, its negative, multiple by P and rotations: modulo every prime, in both domains."""
        p = self.plan.parameters
        base = ring(p.ring_dim, p.key_moduli)
        plain = base.from_signed(coefficients)
        evaluated = base.ntt(plain)
        residues = {
            "plain": plain,
            "negative": base.negate(plain),
            "evaluated": evaluated,
            "negative evaluated": base.negate(evaluated),
            "by P": base.multiply_constant(evaluated, math.prod(p.special_moduli))[: p.n_limbs],
        }
        for rotation in (*self.plan.key_plan.everywhere, *self.plan.key_plan.root_only):
            for direction in (rotation, -rotation):
                turned = base.automorphism(evaluated, galois_element(direction, p.ring_dim))
                residues[f"rotated by {direction}"] = turned
                residues[f"plain rotated by {direction}"] = base.intt(turned)
        return forms_of_integers(what, coefficients, residues) + forms_of_integers(what, -coefficients, {})

    def row_needles(self, rank: int) -> list[Needle]:
        """One party's cells, as they are and standardised, its labels, and its own sums over its rows."""
        memory = self.memories[rank]
        shard, what = memory.shard, f"rows of {rank}"
        standard = [memory.standard(shard.features), memory.standard(shard.test_features)]
        tables = [shard.features, shard.test_features, *standard]
        sums = [shard.features.sum(axis=0), np.square(shard.features - memory.standard.mean).sum(axis=0)]
        cells = np.concatenate([np.ravel(t) for t in (*tables, *sums)])
        needles = [Needle(f"{what}: {value!r}", np.float64(value).tobytes()) for value in cells]
        needles += [Needle(f"{what}: {value!r} as text", repr(float(value)).encode()) for value in cells]
        needles += [Needle(f"{what}: float32", row.astype(np.float32).tobytes()) for table in tables for row in table]
        return needles + self.label_needles(rank)

    def label_needles(self, rank: int) -> list[Needle]:
        shard = self.memories[rank].shard
        kinds = ("<f8", "<f4", "<i8", "<u8", "<i4", "<i1")
        text = str([float(y) for y in shard.labels]).encode()
        return [
            *(Needle(f"labels of {rank}", shard.labels.astype(kind).tobytes()) for kind in kinds),
            Needle(f"labels of {rank}", text.strip(b"[]")),
        ]


def write_tables(folder: Path) -> None:
    """One file per party: columns of very different magnitudes, every cell another number."""
    random = np.random.default_rng(2024)
    for rank in range(N_PARTIES):
        for name, rows in (("", N_ROWS), ("_test", N_TEST)):
            x = random.normal((3.0, 120.0, 0.02), (1.0, 15.0, 0.004), (rows, 3))
            y = (random.uniform(size=rows) < 1 / (1 + np.exp(-6 * (x[:, 0] - 3)))).astype(int)
            y[:2] = 0, 1
            lines = [",".join((*FEATURES, "label"))]
            lines += [",".join((*map(repr, row), str(label))) for row, label in zip(x.tolist(), y, strict=True)]
            (folder / f"site{rank}{name}.csv").write_text("\n".join(lines), encoding="utf-8")


def insecure_plan(workload: Any, choice: Any, make_moduli: Any, *, free: bool) -> CircuitPlan:
    return insecure_test_plan(workload, ring_dim=RING_DIM, make_moduli=make_moduli)


def rank_here() -> int:
    return int(threading.current_thread().name.removeprefix("party-"))


def frames_up_to(name: str) -> Iterator[FrameType]:
    """The callers' frames of this thread, up to the function of this name."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        if frame.f_code.co_name == name:
            return
        frame = frame.f_back


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """`records(what, backend=...)`: one recorded run that releases `what`, kept for all tests of this file."""
    kept: dict[str, Run] = {}

    def once(what: str, *, backend: str, audit: bool | None = None) -> Run:
        name = f"{what}-{backend}-{audit}"
        if name not in kept:
            kept[name] = record_run(tmp_path_factory.mktemp(name), what, backend, audit)
        return kept[name]

    return once


@pytest.fixture
def record(records: Callable[..., Run], real_evaluator: str) -> Callable[[str], Run]:
    """`record(what)`: the run of each evaluator that encrypts."""
    return lambda what: records(what, backend=real_evaluator)


def record_run(folder: Path, what: str, backend: str, audit: bool | None) -> Run:
    write_tables(folder)
    run = Run()
    settings: dict[str, Any] = {
        "data": {"train": "site{party}.csv", "test": "site{party}_test.csv", "label": "label"},
        "training": {"iterations": 2, "learning_rate": 0.5, "momentum": 0.5},
        "crypto": {"backend": backend},
        "release": {"what": what, "statistical_bits": 30},
    }
    if audit is not None:
        settings["audit"] = {"clear_twin": audit}
    config = parse_config(settings, folder=folder)
    generate, join = SecretPolynomial.generate.__func__, scripts.train.join  # type: ignore[attr-defined]

    def generating(kind: type, ring_dim: int) -> SecretPolynomial:
        secret: SecretPolynomial = generate(kind, ring_dim)
        run.secrets.append((rank_here(), kind, oracle.coefficients_of(secret)))
        return secret

    def joining(config: Any, collective: Any, circuit: CircuitPlan) -> Any:
        party = join(config, collective, circuit)
        watch(run, party)
        return party

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SecretPolynomial, "generate", classmethod(generating))
        patch.setattr(scripts.train, "join", joining)
        patch.setattr(scripts.planning, "best_plans", finding(insecure_plan))
        run.outcomes = run_parties(
            N_PARTIES,
            lambda collective: scripts.train.run_party(config, collective, folder / "out", force=True),
            tap=lambda source, dest, frame: run.frames.append((source, dest, frame)),
        )
    return run


AT_ENCRYPTED_WEIGHTS = 2
"""The first gradients are those of weights that everybody knows: encrypted, and not computed on ciphertexts."""


def watch(run: Run, party: Any) -> None:
    """Look into the party when it sums gradients of encrypted weights for the first time, and just before it closes."""
    add, close, rank, sums = party.sum, party.close, rank_here(), count(1)

    def summing(ciphertexts: Any) -> Any:
        if next(sums) == AT_ENCRYPTED_WEIGHTS and isinstance(party, EncryptedParty):
            (gradient,) = ciphertexts
            run.computed[rank] = party.backend.export_ciphertext(gradient)
            if rank == 0:
                run.guessed = guess(party, sys._getframe(1).f_locals, run)
        return add(ciphertexts)

    def closing() -> None:
        callers = list(frames_up_to("run_party"))[1:]
        roots = [party, *callers]
        # The hub is the wire between all parties of this process: what is in it is among the frames.
        found = reachable(roots, stop=(Loopback, Run))
        local = callers[-1].f_locals
        session = party.session if isinstance(party, EncryptedParty) else None
        run.memories[rank] = Memory(
            session, party.parameters, local["circuit"], local["shard"], local["standard"], contents(found)
        )
        assert any(item is party for item in found)
        assert sum(isinstance(item, SecretShare) for item in found) == (1 if session else 0)
        assert not any(isinstance(item, (EphemeralSecret, ReceiverSecret)) for item in found)
        close()

    party.sum, party.close = summing, closing


def guess(party: EncryptedParty, training: Mapping[str, Any], run: Run) -> RingCiphertext:
    """What the root gets that takes the rows of party 1 for what they are, and computes with them as party 1 does."""
    model = training["model"]
    shard = next(f for f in frames_up_to("run_party") if f.f_code.co_name == "run_party").f_locals
    x, y = table_of(shard["config"], 1)
    batches = pack_batches(model, shard["standard"](x), y[:, None], 0, 1, False)
    (gradient,) = model.gradients(party, training["ahead"], batches[0])
    return party.backend.export_ciphertext(gradient)


def table_of(config: Any, rank: int) -> tuple[Floats, Floats]:
    rows = np.loadtxt(config.source.folder / f"site{rank}.csv", delimiter=",", skiprows=1)
    return rows[:, :-1], rows[:, -1]


RELEASES = ["model", "predictions"]


# the run was real


@pytest.mark.parametrize("what", RELEASES)
def test_the_recorded_run_trained_a_model(record, records, what):
    run, clear = record(what), records(what, backend="clear")
    for outcome, simulated in zip(run.outcomes, clear.outcomes, strict=True):
        assert outcome.figures["accuracy"] > 0.8
        assert abs(outcome.figures["accuracy"] - simulated.figures["accuracy"]) < 0.1
        if what == "model":
            np.testing.assert_allclose(outcome.weights[0], simulated.weights[0], atol=1e-3)
    kinds = [kind for _, kind, _ in run.secrets]
    assert kinds.count(SecretShare) == kinds.count(EphemeralSecret) == N_PARTIES
    assert kinds.count(ReceiverSecret) == (N_PARTIES if what == "predictions" else 0)
    assert {(source, dest) for source, dest, _ in run.frames} == {(0, 1), (1, 0), (0, 2), (2, 0)}


# secrets


@pytest.mark.parametrize("what", RELEASES)
def test_no_message_holds_a_secret_or_a_sum_of_secrets(record, what):
    run = record(what)
    needles = [needle for owner in run.secret_needles.values() for needle in owner]
    assert search(needles + run.sum_needles, run.messages) == set()


@pytest.mark.parametrize("what", RELEASES)
@pytest.mark.parametrize("rank", range(N_PARTIES))
def test_no_party_holds_anothers_secret_or_a_sum_of_secrets(record, what, rank):
    run = record(what)
    foreign = [needle for owner, needles in run.secret_needles.items() if owner != rank for needle in needles]
    assert search(foreign + run.sum_needles, run.memories[rank].holdings) == set()


@pytest.mark.parametrize("rank", range(N_PARTIES))
def test_the_search_finds_the_own_share_and_no_ephemeral_secret(record, rank):
    """Of its own secrets a party still has its share; those that have served are erased."""
    run = record("predictions")
    assert search(run.secret_needles[rank], run.memories[rank].holdings) == {f"SecretShare of {rank}"}


def test_planted_secrets_are_found(record):
    """In a message at an odd offset, and in memory behind objects, containers, views and closures; in every form."""
    run = record("model")
    coefficients = run.shares_of(1)[SecretShare][0]
    needles = run.forms("SecretShare of 1", coefficients)
    p = run.plan.parameters
    base = ring(p.ring_dim, p.key_moduli)
    evaluated, plain = base.ntt(base.from_signed(coefficients)), base.from_signed(coefficients)
    forms = [
        evaluated,
        evaluated[2, :WINDOW],
        plain[-1],
        base.negate(plain),
        coefficients,
        coefficients[:WINDOW],
        coefficients.astype(np.int8),
        coefficients.astype(np.float64),
    ]
    frame = max(run.messages, key=len)
    for form in forms:
        planted = frame[:1001] + form.tobytes() + frame[1001:]
        assert search(needles, [run.messages[0], planted]) == {"SecretShare of 1"}
    for form in (evaluated, coefficients):
        for hidden in hiding_places(form):
            found = search(needles, contents(reachable([SimpleNamespace(party=[hidden])])))
            assert found == {"SecretShare of 1"}, type(hidden)


def hiding_places(array: npt.NDArray[Any]) -> list[Any]:
    def enclosing() -> Any:
        return array

    def defaulting(held: Any = array) -> Any:
        return held

    def generating() -> Iterator[Any]:
        held = array
        yield
        yield held

    started = generating()
    next(started)
    return [
        SimpleNamespace(deep=[{"x": (array,)}]),
        np.array([None, array], dtype=object),
        memoryview(array.tobytes()),
        bytearray(array.tobytes()),
        array.ravel().tolist(),
        [array].append,
        enclosing,
        defaulting,
        started,
        np.concatenate([np.zeros_like(array.ravel()), array.ravel()])[:2],  # a view keeps all of its base
    ]


def test_a_planted_joint_secret_is_found(record):
    run = record("model")
    joint = oracle.joint([run.shares_of(rank)[SecretShare][0] for rank in range(N_PARTIES)])
    base = ring(run.plan.parameters.ring_dim, run.plan.parameters.moduli[:2])
    evaluated = base.ntt(base.from_signed(joint))
    assert search(run.sum_needles, [*run.memories[0].holdings, evaluated.tobytes()]) == {"sum of (0, 1, 2)"}


# rows


@pytest.mark.parametrize("what", RELEASES)
def test_no_message_holds_a_row_a_label_or_a_partys_own_sum(record, what):
    run = record(what)
    needles = [needle for rank in range(N_PARTIES) for needle in run.row_needles(rank)]
    assert search(needles, run.messages) == set()


@pytest.mark.parametrize("what", RELEASES)
@pytest.mark.parametrize("rank", range(N_PARTIES))
def test_no_party_holds_anothers_rows(record, what, rank):
    run = record(what)
    foreign = [needle for other in range(N_PARTIES) if other != rank for needle in run.row_needles(other)]
    assert search(foreign, run.memories[rank].holdings) == set()


@pytest.mark.parametrize("rank", range(N_PARTIES))
def test_the_search_finds_the_own_rows(record, rank):
    run = record("model")
    shard, standard = run.memories[rank].shard, run.memories[rank].standard
    found = search(run.row_needles(rank), run.memories[rank].holdings)
    cells = np.concatenate([shard.features.ravel(), shard.test_features.ravel(), standard(shard.features).ravel()])
    assert found >= {f"rows of {rank}: {value!r}" for value in cells}
    assert f"labels of {rank}" in found


def test_a_run_that_audits_itself_in_the_clear_is_caught(records):
    """[audit] clear_twin = true sends every row to the root, and the clear backend every party's sums."""
    run = records("model", backend="clear", audit=True)
    found = search([needle for rank in (1, 2) for needle in run.row_needles(rank)], run.messages)
    for rank in (1, 2):
        shard = run.memories[rank].shard
        assert found >= {f"rows of {rank}: {value!r} as text" for value in shard.features.ravel()}
        assert found >= {f"rows of {rank}: {value!r}" for value in shard.features.sum(axis=0)}
        assert f"labels of {rank}" in found


# guesses


def shares_in(run: Run, source: int, dest: int) -> list[Share]:
    """All shares that one party sent to another, in order."""
    digest = run.plan.parameters.digest
    frames = iter([np.frombuffer(f, dtype=np.uint8) for s, d, f in run.frames if (s, d) == (source, dest)])
    out = []
    for frame in frames:
        prefix = frame.tobytes()[:8]
        if prefix[:4] == b"MHE\xce" and prefix[6:8] == bytes([codec.Kind.SHARE, 0]):
            out.append(codec.decode(chain([frame], frames), digest, N_PARTIES))
    return out


def uniformity(rows: npt.NDArray[np.uint64], moduli: Sequence[int]) -> float:
    """The probability that uniform residues are as uneven as these: Kolmogorov-Smirnov."""
    parts = rows.astype(float) / np.array(moduli, dtype=float)[:, None]
    return float(stats.kstest(parts.ravel(), "uniform").pvalue)


IMPOSSIBLE = 1e-12
"""Below this probability, uniform residues are not what was seen."""


def test_a_right_guess_of_anothers_rows_cannot_be_told_from_a_wrong_one(record):
    """A local gradient is a function of public ciphertexts and of the rows. Who sees it could compare guesses with it.

    The root's computation from the right guess equals bit for bit what party 1 computed. What party 1 sent differs
    from it by an encryption of zero, which nobody can open.
    """
    run = record("model")
    assert run.guessed is not None
    right = run.guessed
    np.testing.assert_array_equal(right.c0, run.computed[1].c0)
    np.testing.assert_array_equal(right.c1, run.computed[1].c1)

    sums = (share for share in shares_in(run, 1, 0) if share.protocol == "sum")
    sent = next(islice(sums, AT_ENCRYPTED_WEIGHTS - 1, None))
    base = ring(RING_DIM, run.plan.parameters.moduli[: right.limbs])
    wrong = run.computed[2]
    for guessed in (right, wrong):
        for part, rows in zip((guessed.c0, guessed.c1), np.split(np.asarray(sent.rows), 2), strict=True):
            difference = base.subtract(np.ascontiguousarray(rows), part)
            assert uniformity(difference, base.moduli) > IMPOSSIBLE
            assert uniformity(base.intt(difference), base.moduli) > IMPOSSIBLE
    # The control: an encryption of zero is what it is, to the one who holds all shares.
    joint = oracle.joint([run.shares_of(rank)[SecretShare][0] for rank in range(N_PARTIES)])
    c0, c1 = np.split(np.asarray(sent.rows), 2)
    rest = [base.subtract(np.ascontiguousarray(a), b) for a, b in ((c0, right.c0), (c1, right.c1))]
    opened = oracle.message_integers(RingCiphertext(rest[0], rest[1], 1.0, ""), run.plan.parameters, joint)
    assert max(abs(v) for v in opened) < 2**12
    assert uniformity(base.from_integers(opened), base.moduli) < IMPOSSIBLE


@pytest.mark.parametrize("what", RELEASES)
def test_no_ciphertext_leaves_as_it_was_computed(record, what):
    run = record(what)
    for rank, computed in run.computed.items():
        needles = [Needle("row", row[:4].tobytes()) for row in (*computed.c0, *computed.c1)]
        assert search(needles, [frame for source, _, frame in run.frames if source == rank]) == set()


# the relinearisation key


def relin_limbs(run: Run) -> int:
    """Of the relinearisation key: as planned, or all for OpenFHE's evaluator."""
    first = next(share for share in shares_in(run, 0, 1) if share.protocol == "relin_key")
    return first.moduli.index(run.plan.parameters.special_moduli[0])


def relin_aggregates(run: Run) -> dict[str, npt.NDArray[np.uint64]]:
    """h0, h1, h2 as the root broadcast them, and the common a: each (digits, limbs of Q then P, ring_dim)."""
    first, second = (share for share in shares_in(run, 0, 1) if share.protocol == "relin_key")
    p, session, limbs = run.plan.parameters, run.memories[1].session, relin_limbs(run)
    assert session is not None
    shape = (len(p.digits_at(limbs)), limbs + len(p.special_moduli), p.ring_dim)
    h0, h1 = np.asarray(first.rows).reshape(2, *shape)
    common = [uniform(session.common("relin_key", digit), session.key_ring(limbs)) for digit in range(shape[0])]
    return {"h0": h0, "h1": h1, "h2": np.asarray(second.rows).reshape(shape), "a": np.stack(common)}


def key_ring(parameters: Parameters, key: npt.NDArray[np.uint64]) -> Ring:
    """The ring of a part of an evaluation key."""
    limbs = key.shape[1] - len(parameters.special_moduli)
    return ring(parameters.ring_dim, parameters.moduli[:limbs] + parameters.special_moduli)


def combined(
    parameters: Parameters, left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64], sign: int
) -> npt.NDArray[np.uint64]:
    base = key_ring(parameters, left)
    add = base.add if sign > 0 else base.subtract
    return np.stack([add(x, y) for x, y in zip(left, right, strict=True)])


def test_public_aggregates_of_the_relinearisation_key_are_noise(record):
    """Sums and differences of any two of them: uniform to a test, and no secret for the attack that breaks b + A."""
    run = record("model")
    p = run.plan.parameters
    parts = relin_aggregates(run)
    base = key_ring(p, parts["h0"])
    joint = oracle.joint([run.shares_of(rank)[SecretShare][0] for rank in range(N_PARTIES)])
    zero = np.zeros_like(parts["h0"])
    names = list(parts)
    pairs = [(parts[x], sign, parts[y]) for x, y in combinations(names, 2) for sign in (1, -1)]
    pairs += [(parts[x], 1, zero) for x in names]
    for left, sign, right in pairs:
        both = combined(p, left, right, sign)
        for digit in both:
            assert uniformity(digit, base.moduli) > IMPOSSIBLE
            assert uniformity(base.intt(digit), base.moduli) > IMPOSSIBLE
        negated = right if sign > 0 else np.stack([base.negate(y) for y in right])
        got = recover_secret(left, negated, p)
        assert not got.succeeded
        assert 0.7 < got.residual < 1.3
        assert np.abs(got.candidate).max() > 2**30
        assert (got.candidate == joint).mean() < 0.1


def test_the_attack_works_where_the_ephemeral_secret_is_the_secret():
    """The same protocol with u = s: what its two rounds are for. h0 + h1 = g s + small gives the joint secret."""
    parameters = insecure_test_plan(workload((20, 20)), ring_dim=RING_DIM).parameters
    sessions = [Session(parameters, rank, bytes(32)) for rank in range(2)]
    secrets = [SecretShare.generate(RING_DIM) for _ in sessions]
    shares = [
        RelinKeyProtocol(session).share_first(secret, EphemeralSecret(oracle.coefficients_of(secret)))
        for session, secret in zip(sessions, secrets, strict=True)
    ]
    base = ring(RING_DIM, parameters.key_moduli)
    shape = (2, len(parameters.digit_limbs), len(parameters.key_moduli), RING_DIM)
    first, second = (np.asarray(share.rows).reshape(shape) for share in shares)
    h0, h1 = (np.stack([base.add(x, y) for x, y in zip(first[k], second[k], strict=True)]) for k in range(2))
    got = recover_secret(h0, h1, parameters)
    assert got.succeeded
    np.testing.assert_array_equal(got.candidate, oracle.joint_of(secrets))
    special = combined(parameters, h0, h1, 1)[0][parameters.n_limbs :]
    opened = ring(RING_DIM, parameters.special_moduli).intt(np.ascontiguousarray(special))
    assert uniformity(opened, parameters.special_moduli) < IMPOSSIBLE
