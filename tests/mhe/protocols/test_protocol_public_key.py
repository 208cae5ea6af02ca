"""The collective public key: its equation under the ideal secret, and commitments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mhe.encryption import encrypt
from mhe.errors import ShareError
from mhe.protocols.public_key import PublicKeyProtocol
from mhe.security import fresh_error_std, key_error_std, tail


def test_public_key_is_an_encryption_of_zero(world, assert_noise):
    key = world.round("public_key").finalize(world.total(world.shares("public_key")))
    ring = world.sessions[0].cipher_ring()
    error = ring.add(key.p0, ring.multiply(key.p1, world.joint_residues(ring)))
    bound = PublicKeyProtocol(world.sessions[0]).error_bound()
    assert_noise(ring.to_integers(ring.intt(error)), bound, key_error_std(world.n_parties))
    assert key.key_id == world.sessions[0].key_id
    assert str(key) == f"PublicKey(key={key.key_id}, limbs=5)"


def test_what_it_encrypts_opens_under_the_joint_secret(world, assert_noise):
    key = world.round("public_key").finalize(world.total(world.shares("public_key")))
    p = world.parameters
    for limbs in (1, 3, 5):
        ring = world.sessions[0].cipher_ring(limbs)
        message = np.random.default_rng(limbs).integers(-(2**40), 2**40, p.ring_dim)
        encrypted = encrypt(world.sessions[0], key, ring.ntt(ring.from_signed(message)), p.scale)
        std = fresh_error_std(p.ring_dim, p.n_parties)
        assert_noise(world.integers(encrypted) - message, tail(p.ring_dim) * std, std)


def test_every_party_gets_the_same_key(make_world):
    world = make_world(3)
    total = world.total(world.shares("public_key"))
    keys = [PublicKeyProtocol(s).finalize(total) for s in world.sessions]
    for key in keys[1:]:
        np.testing.assert_array_equal(key.p0, keys[0].p0)
        np.testing.assert_array_equal(key.p1, keys[0].p1)


def test_a_commitment_binds_to_every_bit_of_the_share_and_to_its_party(make_world):
    world = make_world(2)
    protocol = PublicKeyProtocol(world.sessions[0])
    share = world.shares("public_key")[0]
    commitment = protocol.commitment(share)
    protocol.check_commitment(share, commitment)
    assert len(commitment) == 32

    altered = share.rows.copy()
    altered[-1, -1] ^= np.uint64(1)
    copied = replace(share, contributors=frozenset({1}))
    for other in (replace(share, rows=altered), copied):
        with pytest.raises(ShareError, match="is not the one it committed to; that party must be excluded"):
            protocol.check_commitment(other, commitment)
    elsewhere = PublicKeyProtocol(replace(world.sessions[0], seed=bytes(32)))
    with pytest.raises(ShareError, match="is not the one it committed to"):
        elsewhere.check_commitment(share, commitment)
