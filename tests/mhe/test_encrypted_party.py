"""`EncryptedParty` as a whole, on each evaluator: every collective call between 1 to 5 parties."""

from __future__ import annotations

import threading
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import mhe.encrypted_party as module
from mhe import commitments
from mhe.encoding import decode_coefficients
from mhe.encrypted_party import EncryptedParty
from mhe.encryption import decrypt, decrypt_slots
from mhe.errors import KeyMismatchError, LevelError, ParameterError, ShareError
from mhe.keys import KeptKey, KeyPlan, ReceiverSecret, SecretShare
from mhe.parameters import log2_product
from mhe.protocols.key_switch import KeySwitchProtocol, receiver_key, receiver_public_part
from mhe.ring.galois import conjugation_element, galois_element, inverse_element
from mhe.ring.sampling import WideGaussian
from mhe.security import (
    fresh_error_std,
    norm_bound,
    refresh_error_std,
    relin_key_error_std,
    rerandomised_norm,
    rerandomised_std,
    secret_spread,
    smudging_std,
    tail,
)
from mhe.slot_map import RefreshOutput, SlotMap
from network.local import run_parties
from tests import oracle

RING_DIM, PERIOD, NORM = 1 << 8, 8, 300.0
PARTIES = [1, 2, 3, 5]
SCALE = 2.0**40


def values_of(rank, seed=0):
    return np.random.default_rng((seed, rank)).uniform(-4, 4, PERIOD)


def slot_error(std, n_coefficients=RING_DIM):
    """What coefficients of this standard deviation may do to a slot: a cosine of mean square 1/2 for each."""
    return tail(RING_DIM) * std * np.sqrt(n_coefficients / 2) / SCALE


def joint_of(parties):
    return oracle.joint_of([party._secret for party in parties])


def residues(party, ciphertext):
    return party.backend.export_ciphertext(ciphertext)


def assert_same(a, b):
    np.testing.assert_array_equal(a.c0, b.c0)
    np.testing.assert_array_equal(a.c1, b.c1)


def opened(party, ciphertext, joint):
    """What the omniscient observer reads in an evaluator's ciphertext."""
    return oracle.decrypt(residues(party, ciphertext), party.parameters, joint, ciphertext.period)


# keys


@pytest.mark.parametrize("n_parties", PARTIES)
def test_keys_are_those_of_the_plan_and_right(run_encrypted, n_parties):
    plan = KeyPlan(everywhere={1: 5, -2: 3}, root_only={4: 2}, relinearisation=4, conjugation=1)

    def program(party):
        party.make_keys(plan)
        return party

    parties = run_encrypted(n_parties, program, root=n_parties - 1)
    p, joint = parties[0].parameters, joint_of(parties)

    def error_of(key, limbs, old_of, new_of):
        base = parties[0].session.key_ring(limbs)
        s, digits = oracle.as_residues(joint, base), p.digits_at(limbs)
        old, new = old_of(base, s), new_of(base, s)
        assert key.b.shape == key.a.shape == (len(digits), limbs + len(p.special_moduli), RING_DIM)
        worst = 0
        for digit, own in enumerate(digits):
            special = int(np.prod([int(q) for q in p.special_moduli], dtype=object))
            expected = base.multiply_constant(old, tuple(special if i in own else 0 for i in range(base.n_limbs)))
            rest = base.subtract(base.add(key.b[digit], base.multiply(key.a[digit], new)), expected)
            worst = max(worst, *(abs(v) for v in base.to_integers(base.intt(rest))))
        return worst

    def itself(base, s):
        return s

    def turned(element):
        return lambda base, s: base.automorphism(s, inverse_element(element, RING_DIM))

    def square(base, s):
        return base.multiply(s, s)

    # OpenFHE's evaluator takes none but whole keys
    made = plan if parties[0].backend.key_limbs(1) == 1 else plan.whole(p.n_limbs)
    planned = {**made.everywhere, **made.root_only}
    for rank, party in enumerate(parties):
        backend = party.backend
        assert set(backend.rotations) == {1, -2} | ({4} if rank == n_parties - 1 else set())
        error = error_of(backend.relinearisation, made.relinearisation, square, itself)
        assert error <= tail(5 * RING_DIM) * relin_key_error_std(RING_DIM, n_parties)
        bound = tail(5 * RING_DIM) * 3.19 * n_parties**0.5
        for rotation, key in backend.rotations.items():
            assert error_of(key, planned[rotation], itself, turned(galois_element(rotation, RING_DIM))) <= bound
            assert key.key_id == party.session.key_id
        assert error_of(backend.conjugation, made.conjugation, itself, turned(conjugation_element(RING_DIM))) <= bound
        np.testing.assert_array_equal(party.public_key.p0, parties[0].public_key.p0)
        np.testing.assert_array_equal(party.public_key.p1, parties[0].public_key.p1)
        np.testing.assert_array_equal(backend.rotations[1].b, parties[0].backend.rotations[1].b)
        assert repr(party) == f"EncryptedParty(rank={rank}, key={parties[0].session.key_id})"


def test_every_run_has_another_seed_key_and_secret(run_encrypted):
    a, b = (run_encrypted(2, lambda party: party) for _ in range(2))
    assert a[0].session.seed == a[1].session.seed != b[0].session.seed
    assert a[0].session.key_id != b[0].session.key_id
    secrets = [oracle.coefficients_of(party._secret).tobytes() for party in a + b]
    assert len(set(secrets)) == 4


class Tampering:
    """One party's collective that changes what it hands to one of its allgathers."""

    def __init__(self, collective, culprit, number, change):
        self._collective, self._change = collective, change
        self._left = number if collective.rank == culprit else -1

    def __getattr__(self, name):
        return getattr(self._collective, name)

    def allgather(self, blob):
        self._left -= 1
        return self._collective.allgather(self._change(blob) if self._left == 0 else blob)


def flipped(blob):
    return bytes([blob[0] ^ 1]) + blob[1:]


COMMITMENTS, NONCES, KEY_COMMITMENTS, KEYS = 1, 2, 3, 4


@pytest.mark.parametrize("culprit", [0, 2])
@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (COMMITMENTS, flipped, "party {} revealed another nonce than it committed to; exclude it"),
        (NONCES, flipped, "party {} revealed another nonce than it committed to; exclude it"),
        (NONCES, lambda blob: b"", "party {} revealed another nonce than it committed to; exclude it"),
        (KEY_COMMITMENTS, flipped, r"public key share of party \[{}\] is not the one it committed to"),
        (KEYS, flipped, r"public key share of party \[{}\] is not the one it committed to"),
        (KEYS, lambda blob: blob[:-8], "party {} revealed 10232 bytes of public key; need 10240"),
        (KEYS, lambda blob: b"\xff" * len(blob), "public_key: row 0 holds a residue not below its modulus"),
    ],
)
def test_another_value_than_the_committed_one_is_detected(run_encrypted, culprit, number, change, message):
    with pytest.raises(ShareError, match=message.format(culprit)):
        run_encrypted(3, lambda party: party, wrap=lambda c: Tampering(c, culprit, number, change))


def test_the_coin_toss_depends_on_every_nonce(monkeypatch):
    nonces = {rank: bytes([rank]) * 32 for rank in range(3)}

    def toss(collective):
        return commitments.toss_seed(collective)

    monkeypatch.setattr(commitments.os, "urandom", lambda n: nonces[int(threading.current_thread().name[-1])][:n])
    first = run_parties(3, toss)
    assert len(set(first)) == 1
    assert len(first[0]) == 32
    for rank in range(3):
        saved, nonces[rank] = nonces[rank], b"?" * 32
        assert run_parties(3, toss)[0] != first[0]
        nonces[rank] = saved
    assert run_parties(3, toss) == first


# sums under encryption

MAGNITUDES = [1e-12, -1e-12, 3e-7, -1.0, 1.0, 123456.789, -1e9, 1e12, -1e12, 0.0, -0.0, 5e-324]


def fraction_bits(p):
    """Half the modulus is for what stands behind the point."""
    return int(log2_product(p.moduli)) // 2


def sum_error(party, n_values):
    """Smudging and fresh noise of every party, one truncation each, and what is taken for 0, in units of the result."""
    p, n = party.parameters, party.parameters.n_parties
    count = 1 << max(n_values - 1, 1).bit_length()
    fresh = fresh_error_std(p.ring_dim, n) * n**0.5
    norm = norm_bound(fresh * secret_spread(count / p.ring_dim), count)
    smudging = WideGaussian(smudging_std(norm, 10, 100)).std * n**0.5
    return 2 * (tail(count) * (smudging + fresh) + norm + n) / 2.0 ** fraction_bits(p)


@pytest.mark.parametrize("n_parties", PARTIES)
@pytest.mark.parametrize("n_values", [1, 2, 3, 12, 256])
def test_sum_of_extreme_magnitudes(run_encrypted, n_parties, n_values):
    vectors = [np.random.default_rng((rank, n_values)).permutation(np.resize(MAGNITUDES, 256))[:n_values]
               for rank in range(n_parties)]  # fmt: skip
    exact = [sum(Fraction(float(v[i])) for v in vectors) for i in range(n_values)]

    def program(party):
        return party.encrypted_sum(vectors[party.collective.rank]), sum_error(party, n_values)

    results = run_encrypted(n_parties, program)
    for got, allowed in results:
        assert got.shape == (n_values,)
        for value, expected in zip(got, exact, strict=True):
            assert abs(Fraction(float(value)) - expected) <= allowed + abs(expected) * 2.0**-52
        np.testing.assert_array_equal(got, results[0][0])
    assert results[0][1] < 1e-20


def test_sums_may_come_near_the_limit_but_not_over_it(run_encrypted):
    """What is left of the modulus above the fraction, but for two bits, is for the sum of all."""
    p = run_encrypted(1, lambda party: party.parameters)[0]
    limit = 2.0 ** (log2_product(p.moduli) - fraction_bits(p) - 2)
    large = np.array([0.49 * limit, -0.49 * limit, 1.0])
    for got in run_encrypted(2, lambda party: party.encrypted_sum(large)):
        np.testing.assert_allclose(got, 2 * large, rtol=1e-15)
    with pytest.raises(ParameterError, match=r"cannot add up the value .* under encryption; need finite, below"):
        run_encrypted(2, lambda party: party.encrypted_sum(np.array([0.51 * limit])))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300, -1e300, 2.0**110])
@pytest.mark.parametrize("culprit", [0, 1])
def test_what_cannot_be_summed_is_refused_by_its_owner(run_encrypted, bad, culprit):
    def program(party):
        values = np.array([1.0, bad if party.collective.rank == culprit else 2.0])
        return party.encrypted_sum(values)

    with pytest.raises(ParameterError, match="cannot add up the value") as caught:
        run_encrypted(3, program)
    assert caught.value.__notes__ == [f"raised by party {culprit}"]


def test_too_many_values_are_refused(run_encrypted):
    with pytest.raises(ParameterError, match="cannot add up vectors of 257 numbers at ring_dim 256; send"):
        run_encrypted(2, lambda party: party.encrypted_sum(np.zeros(257)))


def test_vectors_of_different_lengths_are_noticed_before_anything_is_released(run_encrypted):
    def program(party):
        return party.encrypted_sum(np.full(2 + party.collective.rank, 0.5))

    with pytest.raises(ShareError, match="shares of different protocol instances"):
        run_encrypted(2, program)


# computation


@pytest.mark.parametrize("n_parties", PARTIES)
def test_encrypt_zero_is_the_same_at_all(run_encrypted, n_parties):
    def program(party):
        return party, party.encrypt_zero(SCALE, PERIOD), party.encrypt_zero(SCALE, PERIOD)

    results = run_encrypted(n_parties, program, root=n_parties // 2)
    joint = joint_of([party for party, _, _ in results])
    for party, zero, _ in results:
        assert (zero.limbs, zero.scale, zero.period, zero.key_id) == (5, SCALE, PERIOD, party.session.key_id)
        assert_same(residues(party, zero), residues(party, results[0][1]))
        bound = slot_error(fresh_error_std(RING_DIM, n_parties), 2 * PERIOD)
        assert np.abs(opened(party, zero, joint)).max() <= bound
    first, second = (residues(party, zero) for zero in results[0][1:])
    assert first.c1.tobytes() != second.c1.tobytes()


@pytest.mark.parametrize("limbs", [2, 5])
@pytest.mark.parametrize("n_parties", PARTIES)
def test_sum_is_at_the_root_alone(run_encrypted, make_ciphertext, n_parties, limbs):
    def program(party):
        rank = party.collective.rank
        mine = [make_ciphertext(party, values_of(rank), limbs), make_ciphertext(party, values_of(rank, 1)[:2], limbs)]
        return party, party.sum(mine), mine

    results = run_encrypted(n_parties, program, root=n_parties - 1)
    parties = [party for party, _, _ in results]
    assert [totals is None for _, totals, _ in results] == [True] * (n_parties - 1) + [False]
    party, totals, mine = results[-1]
    own, added = fresh_error_std(RING_DIM, n_parties), rerandomised_std(party.parameters, limbs)
    # every party's ciphertext carries the noise of one common encryption of zero
    bound = slot_error(n_parties * own + n_parties**0.5 * added, 2 * PERIOD) + n_parties * PERIOD / SCALE
    for place, (total, period) in enumerate(zip(totals, (PERIOD, 2), strict=True)):
        assert (total.limbs, total.scale, total.period) == (limbs, SCALE, period)
        expected = sum(values_of(rank, place)[:period] for rank in range(n_parties))
        assert np.abs(opened(party, total, joint_of(parties)) - expected).max() <= bound
        assert residues(party, mine[place]).c0.shape == (limbs, RING_DIM)


@pytest.mark.parametrize("n_parties", PARTIES)
@pytest.mark.parametrize("count", [1, 3])
def test_refresh_of_the_roots_ciphertexts(run_encrypted, make_ciphertext, n_parties, count):
    def program(party):
        low = [make_ciphertext(party, values_of(i), 3) for i in range(count)]
        return party, party.refresh(low if party.collective.is_root else None, count, SCALE, PERIOD), low

    results = run_encrypted(n_parties, program)
    joint = joint_of([party for party, _, _ in results])
    for party, fresh, low in results:
        assert len(fresh) == count
        for i, (after, before) in enumerate(zip(fresh, low, strict=True)):
            assert (after.limbs, after.scale, after.period) == (5, SCALE, PERIOD)
            error = np.abs(opened(party, after, joint) - opened(party, before, joint)).max()
            assert error <= slot_error(refresh_error_std(n_parties), 2 * PERIOD)
            assert_same(residues(party, after), residues(party, results[0][1][i]))


@pytest.mark.parametrize("n_parties", [1, 3])
def test_a_refresh_at_the_root_stays_there(run_on_each, make_ciphertext, n_parties):
    """The same values as a refresh for all, and a pass down the tree less."""
    turned = SlotMap.rotation(PERIOD, 3)
    outputs = (RefreshOutput(1, turned), RefreshOutput(0))

    def program(party):
        collective, root = party.collective, party.collective.is_root
        for name, refresh in (("all", party.refresh), ("root", party.refresh_at_root)):
            low = [make_ciphertext(party, values_of(7, i), 3) for i in range(2)]
            with collective.phase(name):
                made = refresh(low if root else None, 2, SCALE, PERIOD, outputs)
        assert (made is None) == (not root)
        rounds = [collective.metrics.snapshot()[name]["rounds"] for name in ("all", "root")]
        opened = [party.decrypt(c, 5, SCALE, PERIOD, 1.0) for c in made or (None, None)]
        return rounds, opened, [(c.limbs, c.scale, c.period) for c in made or ()]

    for rank, (rounds, (a, b), forms) in enumerate(run_on_each(n_parties, program)):
        assert rounds in ([3, 2], [1, 0]), "of the protocol, of its simulation"
        assert forms == ([(5, SCALE, PERIOD)] * 2 if rank == 0 else [])
        assert np.abs(a - turned(values_of(7, 1))).max() < 1e-4
        assert np.abs(b - values_of(7, 0)).max() < 1e-4


@pytest.mark.parametrize("n_parties", PARTIES)
@pytest.mark.parametrize("count", [1, 2])
def test_refresh_of_everybodys_own(run_encrypted, make_ciphertext, n_parties, count):
    def program(party):
        rank = party.collective.rank
        mine = [make_ciphertext(party, values_of(rank, i), 3) for i in range(count)]
        return party, party.refresh_own(mine), mine

    results = run_encrypted(n_parties, program)
    joint = joint_of([party for party, _, _ in results])
    for rank, (party, fresh, mine) in enumerate(results):
        for i, (after, before) in enumerate(zip(fresh, mine, strict=True)):
            assert (after.limbs, after.scale, after.period) == (5, SCALE, PERIOD)
            std = np.hypot(refresh_error_std(n_parties), rerandomised_std(party.parameters, 3))
            error = np.abs(opened(party, after, joint) - opened(party, before, joint)).max()
            assert error <= slot_error(std, 2 * PERIOD)
            assert np.abs(opened(party, after, joint) - values_of(rank, i)).max() < 1e-6


class Mixing:
    """The root's collective that changes what it sends each party."""

    def __init__(self, collective, change):
        self._collective, self._change = collective, change

    def __getattr__(self, name):
        return getattr(self._collective, name)

    def scatter(self, shares):
        return self._collective.scatter(None if shares is None else self._change(shares))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts[::-1], r"the root sent Share\(refresh, .*; need refresh instance .*: parties are out"),
        (lambda parts: [parts[0], parts[0], parts[2]], r"the root sent Share\(refresh, .*; need refresh instance"),
        (lambda parts: [replace(p, moduli=p.moduli[::-1]) for p in parts], r"(the root sent|residue not below)"),
        (lambda parts: [replace(p, contributors=frozenset({0, 2})) for p in parts], r"parties \[1\] are missing"),
        (lambda p: [p[0], p[1], replace(p[2], rows=p[2].rows | np.uint64(1 << 63))], "residue not below its modulus"),
    ],
)
def test_what_is_not_this_partys_total_is_refused(run_encrypted, make_ciphertext, change, message):
    def program(party):
        party.refresh_own([make_ciphertext(party, values_of(party.collective.rank), 3)])

    with pytest.raises(ShareError, match=message):
        run_encrypted(3, program, wrap=lambda c: Mixing(c, change))


def test_a_leaf_gets_the_totals_of_its_own_ciphertexts_only(run_encrypted, make_ciphertext):
    """And sends its own c1, nothing in place of others'."""
    frames = []

    def program(party):
        low = make_ciphertext(party, values_of(party.collective.rank), 3)
        party.collective.allgather(b"here")
        start = len(frames)
        party.refresh_own([low])
        party.collective.allgather(b"here")
        return start

    def row_bytes(source, dest, start):
        """Without headers: what a leaf and the root exchange."""
        return [len(f) for s, d, f in frames[start:] if (s, d) == (source, dest) and f[:4] != b"MHE\xce"]

    results = run_encrypted(3, program, tap=lambda source, dest, frame: frames.append((source, dest, frame)))
    start, row = min(results), 8 * 256
    head = 8
    # its c1 of 3 limbs; then its share of the refresh of all
    assert row_bytes(2, 0, start) == [head + 3 * row, head + 3 * (3 + 5) * row]
    # the c1s of all; then the totals of its own
    assert row_bytes(0, 2, start) == [head + 9 * row, head + (3 + 5) * row]


@pytest.mark.parametrize("n_parties", [1, 3])
def test_mapped_refresh_of_the_root_and_of_everybody(run_on_each, make_ciphertext, n_parties):
    """Two maps of one ciphertext and another one as it is; the simulation has the same limbs, periods and values."""
    matrix = SlotMap.matrix(np.random.default_rng(3).normal(size=(2 * PERIOD, 2 * PERIOD)))
    turned = SlotMap.rotation(PERIOD, 3)
    outputs = (RefreshOutput(1, matrix), RefreshOutput(0), RefreshOutput(1, turned))

    def program(party):
        rank, root = party.collective.rank, party.collective.is_root
        low = [make_ciphertext(party, values_of(7, i), 3) for i in range(2)]
        mine = [make_ciphertext(party, values_of(rank, i), 3) for i in range(2)]
        made = [*party.refresh(low if root else None, 2, SCALE, PERIOD, outputs), *party.refresh_own(mine, outputs)]
        return [
            (c.limbs, c.scale, c.period, party.decrypt(c if root else None, c.limbs, SCALE, c.period, 1.0))
            for c in made
        ]

    results = run_on_each(n_parties, program)
    # what is decrypted is always the root's
    values = [[values_of(seed, i) for i in range(2)] for seed in (7, 0)]
    expected = [v for a, b in values for v in (matrix(np.tile(b, 2)), a, turned(b))]
    for made in results:
        for (limbs, scale, period, got), wanted, levels in zip(made, expected, [1, 0, 0] * 2, strict=True):
            assert (limbs, scale, period) == (5 - levels, SCALE, len(wanted))
            assert np.abs(got - wanted).max() < 1e-4


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((RefreshOutput(1),), "an output of input 1; need one of 1"),
        ((RefreshOutput(0, SlotMap.rotation(PERIOD // 2, 1)),), "need a multiple of it"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(run_on_each, make_ciphertext, outputs, message):
    def of_root(party):
        low = make_ciphertext(party, values_of(0), 3)
        party.refresh([low] if party.collective.is_root else None, 1, SCALE, PERIOD, outputs)

    def own(party):
        party.refresh_own([make_ciphertext(party, values_of(0), 3)], outputs)

    for program in (of_root, own):
        with pytest.raises(ParameterError, match=message):
            run_on_each(2, program)


# release


@pytest.mark.parametrize("n_parties", PARTIES)
@pytest.mark.parametrize("period", [1, 8, 128])
def test_decrypt_releases_the_roots_slots_to_all(run_encrypted, make_ciphertext, n_parties, period):
    values = np.random.default_rng(period).uniform(-4, 4, period)

    def program(party):
        low = make_ciphertext(party, values, 3)
        return party.decrypt(low if party.collective.is_root else None, 3, SCALE, period, NORM)

    results = run_encrypted(n_parties, program)
    smudging = WideGaussian(smudging_std(NORM, 10, 100)).std * n_parties**0.5
    for got in results:
        assert got.shape == (period,)
        bound = slot_error(smudging + fresh_error_std(RING_DIM, n_parties), 2 * period) + period / SCALE
        assert np.abs(got - values).max() <= bound
        np.testing.assert_array_equal(got, results[0])


@pytest.mark.parametrize("n_parties", PARTIES)
def test_mean_opens_one_coefficient_and_gives_the_mean_of_all_slots(run_on_each, make_ciphertext, n_parties):
    values = np.random.default_rng(n_parties).uniform(-4, 4, 64)

    def program(party):
        low = make_ciphertext(party, values, 3)
        return party.mean(low if party.collective.is_root else None, 3, SCALE, NORM)

    first, *others = run_on_each(n_parties, program)
    assert others == [first] * (n_parties - 1)
    smudging = WideGaussian(smudging_std(NORM, 10, 100)).std * n_parties**0.5
    error = abs(first - values.mean()) * SCALE
    assert 0 < error <= tail(1) * np.hypot(smudging, fresh_error_std(RING_DIM, n_parties)) + 1


def test_a_mean_shows_a_share_of_one_coefficient(run_encrypted, make_ciphertext, monkeypatch):
    sent, original = [], module.DecryptionProtocol.share

    def share(self, secret):
        sent.append(original(self, secret))
        return sent[-1]

    monkeypatch.setattr(module.DecryptionProtocol, "share", share)
    run_encrypted(2, lambda party: party.mean(make_ciphertext(party, values_of(0), 2), 2, SCALE, NORM))
    assert [each.rows.shape for each in sent] == [(2, 1)] * 2


@pytest.mark.parametrize("n_parties", PARTIES)
@pytest.mark.parametrize("count", [1, 2])
def test_deliver_gives_every_party_its_own(run_encrypted, make_ciphertext, n_parties, count):
    def program(party):
        mine = [make_ciphertext(party, values_of(party.collective.rank, i), 2) for i in range(count)]
        return party.deliver(mine, NORM)

    added = rerandomised_norm(run_encrypted(1, lambda p: p.parameters)[0], 2)
    for rank, got in enumerate(run_encrypted(n_parties, program)):
        assert len(got) == count
        for i, slots in enumerate(got):
            smudging = WideGaussian(smudging_std(NORM + 5 * added, 10, 100)).std * n_parties**0.5
            assert np.abs(slots - values_of(rank, i)).max() <= slot_error(2 * smudging, 2 * PERIOD)


def test_only_the_receiver_decrypts_what_is_delivered(run_encrypted, make_ciphertext, monkeypatch):
    """Everything that a curious party could put together: all broadcast totals, its own keys, the owner's c0 even."""
    privates, switched = {}, {}
    generate, finalize = ReceiverSecret.generate.__func__, KeySwitchProtocol.finalize

    def rank():
        return int(threading.current_thread().name.removeprefix("party-"))

    def generating(kind, ring_dim):
        made = generate(kind, ring_dim)
        privates[rank()] = ReceiverSecret(oracle.coefficients_of(made))
        return made

    def finalizing(protocol, total, ciphertexts):
        out = finalize(protocol, total, ciphertexts)
        switched[rank()] = (protocol, *out.values())
        return out

    monkeypatch.setattr(ReceiverSecret, "generate", classmethod(generating))
    monkeypatch.setattr(KeySwitchProtocol, "finalize", finalizing)

    def program(party):
        return party, party.deliver([make_ciphertext(party, values_of(party.collective.rank), 2)], NORM)

    results = run_encrypted(3, program)
    parties = [party for party, _ in results]
    p, joint = parties[0].parameters, joint_of(parties)
    for owner in range(3):
        protocol, theirs = switched[owner]
        key = protocol.receivers[owner]
        assert theirs.key_id == key.key_id == f"receiver-0{owner}000000"

        def slots(coefficients, scale=theirs.scale):
            return decode_coefficients(np.array([float(c) for c in coefficients]), scale, PERIOD)

        for reader in range(3):
            error = np.abs(
                slots(decrypt(parties[reader].session, privates[reader], key, theirs)) - values_of(owner)
            ).max()
            assert (error < 1e-3) == (reader == owner), "a wrong key gives slots of about 2^60"
            if reader != owner:
                with pytest.raises(KeyMismatchError, match="ciphertext is under key"):
                    decrypt(parties[reader].session, privates[reader], protocol.receivers[reader], theirs)
        assert np.abs(slots(oracle.message_integers(theirs, p, joint)) - values_of(owner)).max() > 1e3
    assert len({theirs.c1.tobytes() for _, theirs in switched.values()}) == 3


def test_receivers_secret_is_erased_when_it_has_served(run_encrypted, make_ciphertext, monkeypatch):
    made = []
    generate = ReceiverSecret.generate.__func__
    monkeypatch.setattr(
        ReceiverSecret, "generate", classmethod(lambda kind, n: made.append(generate(kind, n)) or made[-1])
    )
    run_encrypted(2, lambda party: party.deliver([make_ciphertext(party, values_of(0), 2)], NORM))
    assert len(made) == 2
    assert not any(np.any(oracle.coefficients_of(secret)) for secret in made)


# the budget of releases


@pytest.mark.parametrize("name", ["encrypted_sum", "decrypt", "mean", "deliver", "deliver two"])
def test_one_release_more_than_planned_is_refused(run_encrypted, make_ciphertext, name):
    used = {"encrypted_sum": 1, "decrypt": 1, "mean": 1, "deliver": 2, "deliver two": 4}[name]

    def program(party):
        for _ in range(2):
            low = make_ciphertext(party, values_of(0), 2)
            if name == "encrypted_sum":
                party.encrypted_sum(np.ones(3))
            elif name == "decrypt":
                party.decrypt(low if party.collective.is_root else None, 2, SCALE, PERIOD, NORM)
            elif name == "mean":
                party.mean(low if party.collective.is_root else None, 2, SCALE, NORM)
            else:
                party.deliver([low] * (used // 2), NORM)
        return party._secret.ledger.released

    assert run_encrypted(2, program, releases=2 * used) == [2 * used] * 2
    with pytest.raises(ParameterError, match=rf"release number {2 * used} of a key planned for {2 * used - 1}: "):
        run_encrypted(2, program, releases=2 * used - 1)


def test_every_release_is_smudged_for_the_whole_budget(run_encrypted, make_ciphertext, monkeypatch):
    widths = []
    for name in ("DecryptionProtocol", "KeySwitchProtocol"):
        original = getattr(module, name)

        def recording(session, inputs, target, smudging, original=original):
            widths.append(smudging)
            return original(session, inputs, target, smudging)

        monkeypatch.setattr(module, name, recording)

    def program(party):
        party.encrypted_sum(np.ones(5))
        party.decrypt(make_ciphertext(party, values_of(0), 2), 2, SCALE, PERIOD, NORM)
        party.deliver([make_ciphertext(party, values_of(0), 2)], NORM)
        return party.parameters

    (p,) = run_encrypted(1, program, releases=7, statistical_bits=20)
    expected = [
        smudging_std(norm_bound(fresh_error_std(RING_DIM, 1) * secret_spread(8 / RING_DIM), 8), 20, 7),
        smudging_std(NORM, 20, 7),
        smudging_std(NORM + rerandomised_norm(p, 2), 20, 7),
    ]
    assert widths == pytest.approx(expected, rel=1e-12)


# what is refused


def test_keys_cannot_be_made_twice(run_encrypted):
    def program(party):
        party.make_keys(KeyPlan({}, relinearisation=5))
        assert party.backend.conjugation is None
        # not for other limbs either
        party.make_keys(KeyPlan({}, relinearisation=2))

    with pytest.raises(ShareError, match=r"relin_key instance .* was served before: a second share would"):
        run_encrypted(2, program)


def test_no_ciphertext_is_served_twice(run_encrypted, make_ciphertext):
    """The same c1 in the same call: its second share could be subtracted from the first."""

    def refresh(party):
        low = make_ciphertext(party, values_of(0), 3)
        for _ in range(2):
            party.refresh([low] if party.collective.is_root else None, 1, SCALE, PERIOD)

    def decryption(party):
        low = make_ciphertext(party, values_of(0), 2)
        for _ in range(2):
            party.decrypt(low if party.collective.is_root else None, 2, SCALE, PERIOD, NORM)

    def key(party):
        commitments.make_public_key(party.session, party._secret, party.collective)

    for name, program in {"refresh": refresh, "decryption": decryption, "public_key": key}.items():
        with pytest.raises(ShareError, match=f"{name} instance .* was served before: a second share would leak"):
            run_encrypted(2, program)


def test_own_ciphertexts_are_never_the_same_twice(run_encrypted, make_ciphertext):
    """They are rerandomised on their way out, so that the ledger sees other inputs each time."""

    def program(party):
        low = make_ciphertext(party, values_of(0), 3)
        party.deliver([low], NORM)
        party.deliver([low], NORM)
        return [residues(party, *party.refresh_own([low])) for _ in range(2)]

    for first, second in run_encrypted(2, program):
        assert first.c1.tobytes() != second.c1.tobytes()


@pytest.mark.parametrize("limbs", [1, 2, 4, 5])
def test_refresh_of_other_limbs_is_refused(run_encrypted, make_ciphertext, limbs):
    def root(party):
        low = make_ciphertext(party, values_of(0), limbs)
        party.refresh([low] if party.collective.is_root else None, 1, SCALE, PERIOD)

    def own(party):
        party.refresh_own([make_ciphertext(party, values_of(0), limbs)])

    for program in (root, own):
        with pytest.raises(LevelError, match=rf"of 3 limbs.*, got {limbs}; drop limbs, or refresh"):
            run_encrypted(2, program)


@pytest.mark.parametrize("call", ["refresh_own", "deliver"])
def test_ciphertexts_of_unequal_number_are_noticed(run_encrypted, make_ciphertext, call):
    def program(party):
        mine = [make_ciphertext(party, values_of(i), 3) for i in range(2)]
        some = mine[: 1 + party.collective.rank]
        return party.refresh_own(some) if call == "refresh_own" else party.deliver(some, NORM)

    with pytest.raises(ShareError, match="shares of different shape, type or moduli"):
        run_encrypted(2, program)


def test_deliveries_of_unequal_limbs_are_noticed(run_encrypted, make_ciphertext):
    def program(party):
        return party.deliver([make_ciphertext(party, values_of(0), 2 + party.collective.rank)], NORM)

    with pytest.raises(ShareError, match="shares of different shape, type or moduli"):
        run_encrypted(2, program)


def test_decryption_of_other_limbs_than_announced_is_refused(run_encrypted, make_ciphertext):
    def program(party):
        low = make_ciphertext(party, values_of(0), 3)
        party.decrypt(low if party.collective.is_root else None, 2, SCALE, PERIOD, NORM)

    with pytest.raises(LevelError, match="need a ciphertext of 2 limbs here, got 3"):
        run_encrypted(2, program)


def test_a_party_at_another_step_is_noticed(run_encrypted):
    def broadcast(party):
        party._messages._sent += party.collective.rank
        party.encrypt_zero(SCALE, PERIOD)

    def reduce(party):
        party._messages._sent += party.collective.rank
        party.encrypted_sum(np.ones(2))

    with pytest.raises(ShareError, match=r"the root sent Share\(encrypt_zero.*need encrypt_zero instance"):
        run_encrypted(2, broadcast)
    with pytest.raises(ShareError, match="shares of different protocol instances"):
        run_encrypted(2, reduce)


# what others see of a party's own ciphertexts


@pytest.mark.parametrize("call", ["sum", "refresh_own", "deliver"])
def test_own_ciphertexts_are_rerandomised_before_anyone_sees_them(run_encrypted, make_ciphertext, monkeypatch, call):
    """Evaluation is deterministic: what leaves as it was computed lets anyone test guesses about the rows behind it."""

    def rows_seen():
        """How many rows of party 1's own ciphertext are in the frames that it sends."""
        frames, own = [], []

        def program(party):
            low = make_ciphertext(party, values_of(party.collective.rank), 3)
            if party.collective.rank == 1:
                own.append(residues(party, low))
            if call == "sum":
                party.sum([low])
            elif call == "refresh_own":
                party.refresh_own([low])
            else:
                party.deliver([low], NORM)

        run_encrypted(2, program, tap=lambda source, dest, frame: frames.append((source, frame)))
        (mine,), sent = own, [frame for source, frame in frames if source == 1]
        return sum(any(row[:4].tobytes() in frame for frame in sent) for row in (*mine.c0, *mine.c1))

    assert rows_seen() == 0
    monkeypatch.setattr(module, "rerandomise", lambda session, key, ciphertext: ciphertext)
    assert rows_seen() == (6 if call == "sum" else 3), "the search finds what is there"


# the end


def test_close_erases_the_secret_and_closes_the_backend(run_encrypted, make_ciphertext):
    def program(party):
        make_ciphertext(party, values_of(0), 3)
        secret = party._secret
        form = secret.residues(party.session.cipher_ring())
        assert np.any(oracle.coefficients_of(secret))
        assert np.any(form)
        party.close()
        return not np.any(oracle.coefficients_of(secret)) and not np.any(form) and party.backend.closed

    assert run_encrypted(2, program) == [True, True]


# models that stay encrypted


@pytest.mark.parametrize("n_parties", [1, 3])
def test_a_flood_hides_noise_in_the_coefficients_that_count(run_encrypted, make_ciphertext, n_parties):
    """Of every party, at the root: as wide as a release of all ciphertexts would be smudged, and nowhere else."""
    limbs, bits = 2, 20

    def program(party):
        mine = [make_ciphertext(party, values_of(0, seed), limbs) for seed in range(2)]
        flooded = party.flood(mine if party.collective.is_root else None, 2, limbs, PERIOD, NORM)
        return party, [party.backend.export_ciphertext(c) for c in mine], flooded

    results = run_encrypted(n_parties, program, statistical_bits=bits)
    assert [flooded is None for _, _, flooded in results] == [rank != 0 for rank in range(n_parties)]
    _, before, after = results[0]
    p = results[0][0].parameters
    joint = joint_of([party for party, _, _ in results])
    added = np.array([
        np.array(oracle.message_integers(new, p, joint)) - np.array(oracle.message_integers(old, p, joint))
        for new, old in zip(after, before, strict=True)
    ], dtype=float)  # fmt: skip
    step = RING_DIM // (2 * PERIOD)
    carrying = added[:, ::step].copy()
    added[:, ::step] = 0
    noise = rerandomised_std(p, limbs) * n_parties**0.5
    assert np.abs(added).max() < tail(RING_DIM) * noise
    rerandomised = n_parties * norm_bound(rerandomised_std(p, limbs) * secret_spread(1.0), RING_DIM)
    width = smudging_std(NORM + rerandomised, bits, 2) * n_parties**0.5
    # 32 samples: six standard deviations of their spread
    assert 0.25 * width < carrying.std() < 1.75 * width
    assert all(np.abs(a.c1.astype(float) - b.c1.astype(float)).min() > 0 for a, b in zip(after, before, strict=True))


def test_a_switch_goes_to_its_receiver_alone(run_encrypted, make_ciphertext):
    def program(party):
        private = ReceiverSecret.generate(RING_DIM)
        own = receiver_key(party.session, private, b"outsider")
        blobs = party.collective.allgather(own.p0.tobytes())
        p0 = np.frombuffer(blobs[0], dtype=np.uint64).reshape(own.p0.shape)
        receiver = receiver_public_part(party.session, p0, b"outsider")
        mine = [make_ciphertext(party, values_of(0, seed), 2) for seed in range(2)]
        left = party.releases_left
        switched = party.switch(mine if party.collective.is_root else None, 2, 2, [receiver] * 2, NORM)
        return party, private, receiver, switched, left - party.releases_left

    results = run_encrypted(3, program)
    party, private, receiver, switched, _ = results[0]
    assert [(s is None, n) for *_, s, n in results] == [(False, 2), (True, 2), (True, 2)]
    smudged = smudging_std(NORM, 10, 100) * 3**0.5
    for seed, ciphertext in enumerate(switched):
        found = decrypt_slots(party.session, private, receiver, ciphertext, PERIOD)
        assert np.abs(found - values_of(0, seed)).max() < slot_error(smudged, 2 * PERIOD)
        # neither the joint secret nor another receiver's opens it
        for secret in (joint_of([p for p, *_ in results]), oracle.coefficients_of(results[1][1])):
            opened_by = oracle.message_integers(ciphertext, party.parameters, secret)
            assert max(map(abs, opened_by)) > oracle.cipher_ring(party.parameters, 2).modulus / 4


def test_a_public_key_of_another_session_is_refused(run_encrypted):
    def program(party):
        kept = KeptKey(SecretShare.generate(RING_DIM), party.public_key, bytes(32))
        return EncryptedParty(
            party.collective, party.parameters, lambda *_: party.backend, statistical_bits=10, releases=1, kept=kept
        )

    with pytest.raises(KeyMismatchError, match="is not that of this session"):
        run_encrypted(1, program)
