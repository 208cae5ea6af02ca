"""Collective decryption: of chosen coefficients only, and smudged by every party."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mhe.encoding import decode_subring
from mhe.errors import ParameterError
from mhe.protocols.decryption import DecryptionProtocol
from mhe.ring.sampling import WideGaussian


def run(world, ciphertext, count, smudging):
    protocols = [DecryptionProtocol(s, ciphertext.c1, count, smudging) for s in world.sessions]
    total = world.total([p.share(s) for p, s in zip(protocols, world.secrets, strict=True)])
    opened = [p.integers(p.finalize(total, ciphertext.c0)) for p in protocols]
    assert all(each == opened[0] for each in opened)
    return protocols[0], opened[0]


@pytest.mark.parametrize("limbs", [1, 3, 5])
def test_error_is_the_smudging_of_all_parties(world, assert_noise, limbs):
    smudging = 2.0**20 if limbs == 1 else 2.0**45
    ciphertext = world.ciphertext(np.zeros(1), limbs=limbs)
    protocol, opened = run(world, ciphertext, world.parameters.ring_dim, smudging)
    std = WideGaussian(smudging).std * math.sqrt(world.n_parties)
    assert_noise(np.array(opened, dtype=object) - world.integers(ciphertext), protocol.error_bound(), std)


@pytest.mark.parametrize("count", [1, 2, 8, 64, 256])
def test_only_the_asked_coefficients_are_opened(make_world, count):
    """A slot vector of period p lies in 2p coefficients; the others of the polynomial leave no party."""
    world = make_world(3)
    ciphertext = world.ciphertext(limbs=3)
    protocol, opened = run(world, ciphertext, count, 2.0**20)
    expected = world.integers(ciphertext)[:: 256 // count]
    assert len(opened) == count
    assert np.abs(np.array(opened, dtype=object) - expected).max() <= protocol.error_bound()
    share = DecryptionProtocol(world.sessions[0], ciphertext.c1, count, 2.0**21).share(world.secrets[0])
    assert share.rows.shape == (3, count)


@pytest.mark.parametrize("period", [1, 4, 128])
def test_slots_of_a_period(make_world, period):
    world = make_world(2)
    values = np.random.default_rng(period).uniform(-8, 8, period)
    ciphertext = world.ciphertext(values, limbs=3)
    protocol, opened = run(world, ciphertext, 2 * period, 2.0**15)
    slots = decode_subring(np.array([float(c) for c in opened]), period, ciphertext.scale)
    # every slot is a sum of 2p coefficients times cosines
    assert np.abs(slots - values).max() <= 2 * period * (protocol.error_bound() + 64) / ciphertext.scale


def test_every_share_is_smudged(make_world):
    """One honest party's share hides the noise: none may rely on the others'."""
    world = make_world(3)
    ciphertext = world.ciphertext(limbs=3)
    ring, smudging = world.sessions[0].cipher_ring(3), 2.0**30
    for session, secret in zip(world.sessions, world.secrets, strict=True):
        share = DecryptionProtocol(session, ciphertext.c1, 256, smudging).share(secret)
        product = ring.intt(ring.multiply(secret.residues(ring), ciphertext.c1))
        added = np.array([float(v) for v in ring.to_integers(ring.subtract(share.rows, product))])
        assert 0.7 < np.sqrt(np.mean(added**2)) / smudging < 1.3


@pytest.mark.parametrize("count", [0, -1, 3, 512, 257])
def test_a_count_that_is_no_divisor_is_refused(make_world, count):
    world = make_world(1)
    with pytest.raises(ParameterError, match=rf"cannot decrypt {count} evenly spaced coefficients of 256; need"):
        DecryptionProtocol(world.sessions[0], world.ciphertext().c1, count, 2.0**20)


@pytest.mark.parametrize("smudging", [0.0, 31.0, math.inf, math.nan])
def test_smudging_that_hides_nothing_or_cannot_be_sampled_is_refused(make_world, smudging):
    world = make_world(1)
    protocol = DecryptionProtocol(world.sessions[0], world.ciphertext().c1, 2, smudging)
    with pytest.raises(ParameterError, match="standard deviation is"):
        protocol.share(world.secrets[0])
