"""Relinearisation and rotation keys: their equations under the ideal secret."""

from __future__ import annotations

import numpy as np
import pytest

from mhe.errors import ParameterError, ShareError
from mhe.keys import EphemeralSecret
from mhe.protocols.relin_key import RelinKeyProtocol
from mhe.protocols.rotation_key import RotationKeyProtocol
from mhe.ring.galois import conjugation_element, galois_element, inverse_element
from mhe.security import key_error_std, relin_key_error_std
from tests import oracle


@pytest.mark.parametrize("digits", [1, 2, 5])
@pytest.mark.parametrize("n_parties", [1, 2, 3, 5])
def test_relinearisation_key(make_world, assert_noise, n_parties, digits):
    world = make_world(n_parties, digits=digits)
    p = world.parameters
    protocols = [RelinKeyProtocol(s) for s in world.sessions]
    ephemerals = [EphemeralSecret.generate(p.ring_dim) for _ in protocols]
    everyone = list(zip(protocols, world.secrets, ephemerals, strict=True))
    first = world.total([protocol.share_first(s, u) for protocol, s, u in everyone])
    second = world.total([protocol.share_second(s, u, first) for protocol, s, u in everyone])
    key = protocols[0].finalize(first, second)

    ring = world.sessions[0].key_ring()
    s = world.joint_residues(ring)
    assert key.b.shape == key.a.shape == (digits, len(p.key_moduli), p.ring_dim)
    errors = world.key_errors(key, ring.multiply(s, s), s)
    assert_noise(errors, protocols[0].error_bound(), relin_key_error_std(p.ring_dim, n_parties))
    for protocol in protocols[1:]:
        np.testing.assert_array_equal(protocol.finalize(first, second).b, key.b)


@pytest.mark.parametrize("rotation", [1, -1, 5, 127, -64])
@pytest.mark.parametrize("n_parties", [1, 3])
def test_rotation_key_of_every_direction(make_world, assert_noise, n_parties, rotation):
    world = make_world(n_parties)
    check_galois_key(world, assert_noise, galois_element(rotation, world.parameters.ring_dim))


def test_rotation_key(world, assert_noise):
    check_galois_key(world, assert_noise, galois_element(3, world.parameters.ring_dim))


def test_conjugation_key(world, assert_noise):
    check_galois_key(world, assert_noise, conjugation_element(world.parameters.ring_dim))


def check_galois_key(world, assert_noise, element):
    step = world.round("rotation_key", element=element)
    key = step.finalize(world.total([step.share(rank, s) for rank, s in enumerate(world.secrets)]))
    ring = world.sessions[0].key_ring()
    s = world.joint_residues(ring)
    turned = ring.automorphism(s, inverse_element(element, world.parameters.ring_dim))
    bound = RotationKeyProtocol(world.sessions[0], element).error_bound()
    assert_noise(world.key_errors(key, s, turned), bound, key_error_std(world.n_parties))


@pytest.mark.parametrize("element", [0, 2, -1, 513])
def test_what_is_no_galois_element(make_world, element):
    with pytest.raises(ParameterError, match="need an odd number below 512"):
        make_world(1).round("rotation_key", element=element)


def test_keys_have_the_equations_of_a_single_party(make_world):
    """The oracle's own keys satisfy the same equations: collective and ordinary keys are interchangeable."""
    world = make_world(2)
    p, ring = world.parameters, world.sessions[0].key_ring()
    s = world.joint_residues(ring)
    turned = ring.automorphism(s, inverse_element(galois_element(3, p.ring_dim), p.ring_dim))
    rotation = oracle.make_rotation_key(p, world.joint, 3, "oracle")
    relinearisation = oracle.make_relinearisation_key(p, world.joint, "oracle")
    assert np.abs(world.key_errors(rotation, s, turned)).max() < 64
    assert np.abs(world.key_errors(relinearisation, ring.multiply(s, s), s)).max() < 64


def test_second_round_waits_for_the_whole_first(make_world):
    world = make_world(3)
    protocols = [RelinKeyProtocol(s) for s in world.sessions]
    ephemerals = [EphemeralSecret.generate(world.parameters.ring_dim) for _ in protocols]
    firsts = [p.share_first(s, u) for p, s, u in zip(protocols, world.secrets, ephemerals, strict=True)]
    for incomplete in (firsts[0], world.total(firsts[:2])):
        with pytest.raises(ShareError, match=r"relin_key: contributions of parties \[.*2\] are missing"):
            protocols[0].share_second(world.secrets[0], ephemerals[0], incomplete)
    # A refusal gives nothing away, so the instance is still open.
    total = world.total(firsts)
    seconds = [p.share_second(s, u, total) for p, s, u in zip(protocols, world.secrets, ephemerals, strict=True)]
    with pytest.raises(ShareError, match=r"contributions of parties \[1, 2\] are missing"):
        protocols[0].finalize(total, seconds[0])
    with pytest.raises(ShareError, match=r"contributions of parties \[2\] are missing"):
        protocols[0].finalize(world.total(firsts[:2]), world.total(seconds))
    with pytest.raises(ShareError, match="need relin_key instance"):
        protocols[0].finalize(world.total(seconds), total)
