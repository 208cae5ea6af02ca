"""What holds for every protocol: sums in any order, inputs unchanged, and what is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import reduce
from itertools import permutations

import numpy as np
import pytest

from mhe import codec
from mhe.errors import ShareError
from mhe.keys import SecretShare
from mhe.session import Session
from mhe.share import aggregate, check_reduced
from tests import oracle


def rows_of(shares):
    return [share.rows.copy() for share in shares]


# aggregation


def test_every_order_gives_the_same_total(make_world, round_name):
    shares = make_world(3).shares(round_name)
    before = rows_of(shares)
    totals = [reduce(aggregate, order) for order in permutations(shares)]
    totals += [aggregate(shares[0], aggregate(shares[1], shares[2]))]
    for total in totals:
        np.testing.assert_array_equal(total.rows, totals[0].rows)
        assert total.contributors == {0, 1, 2}
        assert (total.instance, total.moduli) == (shares[0].instance, shares[0].moduli)
    for share, rows in zip(shares, before, strict=True):
        np.testing.assert_array_equal(share.rows, rows)


@pytest.mark.parametrize("n_parties", [1, 5])
def test_finalizing_changes_no_input_and_can_be_repeated(make_world, round_name, n_parties):
    world = make_world(n_parties)
    inputs = [world.ciphertext(limbs=3), world.ciphertext(limbs=3)]
    copies = [(c.c0.copy(), c.c1.copy()) for c in inputs]
    secrets = [oracle.coefficients_of(s) for s in world.secrets]
    step = world.round(round_name, ciphertexts=inputs, ciphertext=inputs[0])
    total = world.total([step.share(rank, s) for rank, s in enumerate(world.secrets)])
    rows = total.rows.copy()
    first = step.finalize(total)
    np.testing.assert_array_equal(total.rows, rows)
    for c, (c0, c1) in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(c.c0, c0)
        np.testing.assert_array_equal(c.c1, c1)
    for s, coefficients in zip(world.secrets, secrets, strict=True):
        np.testing.assert_array_equal(oracle.coefficients_of(s), coefficients)
        for moduli, form in s._forms.items():
            ring = step_ring(world, moduli)
            np.testing.assert_array_equal(form, oracle.as_residues(coefficients, ring))
    if round_name == "decryption":
        assert step.finalize(total) == first


def step_ring(world, moduli):
    session = world.sessions[0]
    return session.key_ring() if moduli == world.parameters.key_moduli else session.cipher_ring(len(moduli))


def test_share_has_as_many_rows_as_its_docstring_says(make_world, round_name):
    world = make_world(2)
    digits, key_limbs, limbs, low = 2, len(world.parameters.key_moduli), 5, 3
    n_rows, n_columns = {
        "public_key": (limbs, 256),
        "relin_key_1": (2 * digits * key_limbs, 256),
        "relin_key_2": (digits * key_limbs, 256),
        "rotation_key": (digits * key_limbs, 256),
        "refresh": (2 * (low + limbs), 256),
        "decryption": (limbs, 16),
        "key_switch": (2 * 2 * limbs, 256),
    }[round_name]
    for rank, share in enumerate(world.shares(round_name)):
        assert share.rows.shape == (n_rows, n_columns)
        assert share.contributors == {rank}
        check_reduced(share)
        assert str(share).startswith(f"Share({share.protocol}, instance=")


def test_two_shares_of_one_party_look_unrelated(make_world, round_name):
    """Fresh randomness every time: not even one instance with one secret gives a residue twice, but by chance."""
    world = make_world(1)
    again = replace(world, secrets=(SecretShare(oracle.coefficients_of(world.secrets[0])),))
    ciphertext = world.ciphertext(limbs=3)
    given = {"ciphertexts": [ciphertext], "ciphertext": ciphertext}
    a, b = (w.round(round_name, **given).share(0, w.secrets[0]).rows for w in (world, again))
    assert (a == b).mean() < 0.05


# what is refused


def test_a_missing_contribution_is_refused(make_world, round_name):
    world = make_world(3)
    step = world.round(round_name)
    shares = [step.share(rank, secret) for rank, secret in enumerate(world.secrets)]
    for left_out in range(3):
        total = world.total([share for rank, share in enumerate(shares) if rank != left_out])
        with pytest.raises(ShareError, match=rf"parties \[{left_out}\] are missing and \[\] are foreign"):
            step.finalize(total)


def test_a_duplicate_contribution_is_refused(make_world, round_name):
    world = make_world(3)
    shares = world.shares(round_name)
    with pytest.raises(ShareError, match=r"parties \[1\] contributed twice; a share may be added only once"):
        aggregate(shares[1], shares[1])
    with pytest.raises(ShareError, match=r"parties \[0\] contributed twice"):
        aggregate(world.total(shares), shares[0])


def test_a_foreign_contribution_is_refused(make_world, round_name):
    world = make_world(2)
    step = world.round(round_name)
    shares = [step.share(rank, secret) for rank, secret in enumerate(world.secrets)]
    foreign = replace(shares[1], contributors=frozenset({7}))
    with pytest.raises(ShareError, match=r"\[\] are missing and \[7\] are foreign; need exactly one from each of 2"):
        step.finalize(aggregate(world.total(shares), foreign))
    with pytest.raises(ShareError, match=r"parties \[1\] are missing and \[7\] are foreign"):
        step.finalize(aggregate(shares[0], foreign))


def test_shares_of_another_session_are_refused(make_world, round_name):
    """Same parameters, same secrets, another seed."""
    world = make_world(2)
    other = replace(world, seed=os.urandom(32), secrets=tuple(SecretShare.generate(256) for _ in range(2)))
    step, theirs = world.round(round_name), other.shares(round_name)
    mine = step.share(0, world.secrets[0])
    with pytest.raises(ShareError, match="shares of different protocol instances"):
        aggregate(mine, theirs[1])
    with pytest.raises(ShareError, match=r"got a total of .*; need"):
        step.finalize(world.total(theirs))


@pytest.mark.parametrize("name", ["refresh", "decryption", "key_switch", "rotation_key"])
def test_shares_of_another_instance_are_refused(make_world, name):
    world = make_world(2)
    if name == "rotation_key":
        a, b = (world.round(name, rotation=rotation) for rotation in (1, 2))
    else:
        inputs = world.ciphertext(limbs=3), world.ciphertext(limbs=3)
        a, b = (world.round(name, ciphertexts=[c], ciphertext=c) for c in inputs)
    mine, theirs = a.share(0, world.secrets[0]), b.share(1, world.secrets[1])
    with pytest.raises(ShareError, match="shares of different protocol instances"):
        aggregate(mine, theirs)
    with pytest.raises(ShareError, match=r"got a total of .*; need"):
        a.finalize(world.total([theirs, b.share(0, world.secrets[0])]))


def test_shares_of_another_protocol_are_refused(make_world):
    world = make_world(2)
    key, rotation = world.shares("public_key")[0], world.shares("rotation_key")[1]
    with pytest.raises(ShareError, match="shares of different protocol instances"):
        aggregate(key, rotation)
    with pytest.raises(ShareError, match="need public_key instance"):
        world.round("public_key").finalize(world.total(world.shares("relin_key_1")))


def test_shares_of_another_shape_or_chain_are_refused(make_world, round_name):
    shares = make_world(2).shares(round_name)
    shorter = replace(shares[1], rows=shares[1].rows[:-1], moduli=shares[1].moduli[:-1])
    turned = replace(shares[1], moduli=shares[1].moduli[::-1])
    for other in (shorter, turned):
        with pytest.raises(ShareError, match="shares of different shape, type or moduli"):
            aggregate(shares[0], other)


def test_corrupted_residues_are_refused_where_they_arrive(make_world, round_name):
    world = make_world(2)
    digest = world.parameters.digest
    share = world.shares(round_name)[1]
    for value in (share.moduli[-1], 2**64 - 1):
        rows = share.rows.copy()
        rows[-1, -1] = value
        corrupted = replace(share, rows=rows)
        with pytest.raises(ShareError, match=r"row \d+ holds a residue not below its modulus; the message"):
            codec.decode(codec.encode(corrupted, digest, 2), digest, 2)
        with pytest.raises(ShareError, match="holds a residue not below its modulus"):
            check_reduced(corrupted)
    arrived = codec.decode(codec.encode(share, digest, 2), digest, 2)
    np.testing.assert_array_equal(arrived.rows, share.rows)


def test_a_secret_serves_every_instance_once(make_world, round_name):
    world = make_world(2)
    ciphertext = world.ciphertext(limbs=3)
    given = {"ciphertexts": [ciphertext], "ciphertext": ciphertext}
    step = world.round(round_name, **given)
    share = step.share(0, world.secrets[0])
    with pytest.raises(ShareError, match=r"instance [0-9a-f]{8} was served before: a second share would leak"):
        step.share(0, world.secrets[0])
    if round_name not in ("relin_key_2", "key_switch"):
        # Another object of the same instance: the ledger is the secret's. (The receivers of a new switch are new.)
        with pytest.raises(ShareError, match=f"{share.protocol} instance {share.instance.hex()[:8]} was served"):
            world.round(round_name, **given).share(0, world.secrets[0])
    # The others' ledgers are their own.
    assert step.share(1, world.secrets[1]).instance == share.instance


def test_instances_are_distinct(make_world):
    """Every change of session, parameters or input names another instance."""
    world = make_world(2)
    c, d = world.ciphertext(limbs=3), world.ciphertext(limbs=3)
    instances = [world.shares(name)[0].instance for name in ("public_key", "relin_key_1", "rotation_key")]
    fresh = [world.secrets, *(tuple(SecretShare.generate(256) for _ in range(2)) for _ in range(7))]
    givens = [
        ("refresh", {"ciphertexts": [c]}),
        ("refresh", {"ciphertexts": [d]}),
        ("refresh", {"ciphertexts": [c, d]}),
        ("refresh", {"ciphertexts": [d, c]}),
        ("decryption", {"ciphertext": c, "count": 4}),
        ("decryption", {"ciphertext": c, "count": 8}),
        ("decryption", {"ciphertext": d, "count": 4}),
        ("key_switch", {"ciphertexts": [c]}),
    ]
    for secrets, (name, given) in zip(fresh, givens, strict=True):
        instances.append(replace(world, secrets=secrets).round(name, **given).share(0, secrets[0]).instance)
    session = world.sessions[0]
    instances += [session.instance("p", b"ab", b"c"), session.instance("p", b"a", b"bc"), session.instance("pa", b"bc")]
    instances += [replace(session, seed=bytes(32)).instance("p", b"ab", b"c")]
    assert len(set(instances)) == len(instances)
    assert all(len(instance) == 32 for instance in instances)
    assert session.instance("p", b"ab") == replace(session, rank=1).instance("p", b"ab")


def test_common_randomness_is_never_used_for_two_purposes(make_world, monkeypatch):
    """Two shares with one uniform part and one secret would differ by errors and by known multiples of the secret."""
    drawn = []
    common = Session.common

    def recording(session, *labels):
        drawn.append((labels, common(session, *labels).bytes(16)))
        return common(session, *labels)

    world = make_world(1)
    monkeypatch.setattr(Session, "common", recording)
    c, d = world.ciphertext(limbs=3), world.ciphertext(limbs=3)
    for name in ("public_key", "relin_key_1"):
        world.round(name).share(0, world.secrets[0])
    for rotation in (1, -1, 2, 11):
        world.round("rotation_key", rotation=rotation).share(0, world.secrets[0])
    for batch in ([c], [d], [c, d]):
        world.round("refresh", ciphertexts=batch).share(0, world.secrets[0])
    for label in range(3):
        world.receiver(label)
    assert len({labels for labels, _ in drawn}) == len(drawn) == 1 + 2 + 2 * 4 + 4 + 3
    assert len({first for _, first in drawn}) == len(drawn)
