"""The collective switch to receivers' keys: each receiver, and nobody else, decrypts its own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mhe.encryption import decrypt
from mhe.errors import KeyMismatchError, ParameterError
from mhe.keys import ReceiverSecret
from mhe.protocols.key_switch import KeySwitchProtocol, receiver_key, receiver_public_part
from mhe.ring.sampling import WideGaussian
from mhe.security import key_error_std, key_switch_to_receiver_std, tail

SMUDGING = 2.0**25


def run(world, ciphertexts, keys, smudging=SMUDGING):
    c1s = tuple(c.c1 for c in ciphertexts)
    protocols = [KeySwitchProtocol(s, c1s, tuple(keys), smudging) for s in world.sessions]
    total = world.total([p.share(s) for p, s in zip(protocols, world.secrets, strict=True)])
    return protocols[0], protocols[0].finalize(total, dict(enumerate(ciphertexts)))


@pytest.mark.parametrize("limbs", [2, 5])
@pytest.mark.parametrize("smudging", [2.0**5, 2.0**40])
def test_each_receiver_decrypts_its_own(world, assert_noise, limbs, smudging):
    receivers = [world.receiver(label) for label in range(3)]
    of = [0, 1, 2, 0]  # the first one gets two
    before = [world.ciphertext(limbs=limbs) for _ in of]
    protocol, after = run(world, before, [receivers[r][1] for r in of], smudging)
    std = key_switch_to_receiver_std(world.parameters.ring_dim, world.n_parties, WideGaussian(smudging).std)
    errors = []
    for i, receiver in enumerate(of):
        secret, key = receivers[receiver]
        assert (after[i].limbs, after[i].scale, after[i].key_id) == (limbs, before[i].scale, key.key_id)
        opened = np.array(decrypt(world.sessions[0], secret, key, after[i]), dtype=object)
        errors += list(opened - world.integers(before[i]))
    assert_noise(errors, protocol.error_bound(), std)


def test_nobody_else_decrypts_it(make_world):
    world = make_world(2)
    (secret, key), (other, other_key) = world.receiver(0), world.receiver(1)
    before = world.ciphertext(limbs=2)
    _, after = run(world, [before, before], [key, other_key])
    message, modulus = world.integers(before), math.prod(world.parameters.moduli[:2])
    with pytest.raises(KeyMismatchError, match=f"ciphertext is under key {key.key_id}, the receiver holds"):
        decrypt(world.sessions[0], other, other_key, after[0])

    def error_of(opened):
        return float(np.sqrt(np.mean([(float(e) / modulus) ** 2 for e in np.array(opened, dtype=object) - message])))

    mislabelled = replace(after[0], key_id=other_key.key_id)
    assert error_of(decrypt(world.sessions[0], secret, key, after[0])) < 2.0**-50
    # uniform on (-1/2, 1/2), whoever else tries: another receiver, all parties together, and with the old c0
    assert 0.2 < error_of(decrypt(world.sessions[0], other, other_key, mislabelled)) < 0.4
    assert 0.2 < error_of(world.integers(after[0])) < 0.4
    assert 0.2 < error_of(decrypt(world.sessions[0], secret, key, replace(after[0], c0=before.c0))) < 0.4


def test_every_share_is_smudged(make_world):
    world = make_world(2)
    secret, key = world.receiver(0)
    c = world.ciphertext(limbs=2)
    ring = world.sessions[0].cipher_ring(2)
    for session, share_secret in zip(world.sessions, world.secrets, strict=True):
        rows = KeySwitchProtocol(session, (c.c1,), (key,), SMUDGING).share(share_secret).rows
        h0, h1 = rows[:2], rows[2:]
        # h0 + h1 s_receiver = s_i c1 + smudging + small
        opened = ring.add(h0, ring.multiply(h1, secret.residues(ring)))
        rest = ring.subtract(opened, ring.multiply(share_secret.residues(ring), c.c1))
        added = np.array([float(v) for v in ring.to_integers(ring.intt(rest))])
        assert 0.7 < np.sqrt(np.mean(added**2)) / SMUDGING < 1.3


def test_one_party_finalizes_the_ciphertexts_it_has(make_world):
    world = make_world(3)
    keys = [world.receiver(label)[1] for label in range(3)]
    before = [world.ciphertext(limbs=2) for _ in keys]
    protocols = [KeySwitchProtocol(s, tuple(c.c1 for c in before), tuple(keys), SMUDGING) for s in world.sessions]
    total = world.total([p.share(s) for p, s in zip(protocols, world.secrets, strict=True)])
    everything = protocols[0].finalize(total, dict(enumerate(before)))
    for i, c in enumerate(before):
        only = protocols[i].finalize(total, {i: c})
        assert list(only) == [i]
        np.testing.assert_array_equal(only[i].c0, everything[i].c0)
        np.testing.assert_array_equal(only[i].c1, everything[i].c1)


def test_receiver_key_and_its_public_part(make_world, assert_noise):
    world = make_world(1)
    session = world.sessions[0]
    secret = ReceiverSecret.generate(world.parameters.ring_dim)
    key = receiver_key(session, secret, b"\x07")
    ring = session.cipher_ring()
    error = ring.intt(ring.add(key.p0, ring.multiply(key.p1, secret.residues(ring))))
    assert_noise(ring.to_integers(error), tail(ring.ring_dim) * key_error_std(1), key_error_std(1))
    same = receiver_public_part(session, key.p0, b"\x07")
    assert (same.key_id, key.key_id) == ("receiver-07", "receiver-07")
    np.testing.assert_array_equal(same.p1, key.p1)
    assert receiver_public_part(session, key.p0, b"\x08").p1.tobytes() != key.p1.tobytes()


def test_a_batch_needs_a_key_for_each_and_equal_limbs(make_world):
    world = make_world(1)
    key = world.receiver(0)[1]
    two, three = world.ciphertext(limbs=2), world.ciphertext(limbs=3)
    for c1s, keys in (((two.c1,), (key, key)), ((two.c1, two.c1), (key,)), ((two.c1, three.c1), (key, key))):
        with pytest.raises(ParameterError, match=r"\d ciphertexts for \d receivers; need one key each"):
            KeySwitchProtocol(world.sessions[0], c1s, keys, SMUDGING)
