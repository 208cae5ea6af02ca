"""A refresh with a linear map: against the same map in the clear, on what the ideal secret opens before and after."""

from __future__ import annotations

import numpy as np
import pytest

from mhe.encoding import decode_subring, embed, encode_coefficients
from mhe.errors import LevelError, ParameterError
from mhe.protocols.refresh import RefreshProtocol
from mhe.protocols.ring_map import ring_map
from mhe.ring.ring import ring
from mhe.security import mapped_refresh_rounding_std, refresh_error_std
from mhe.slot_map import RefreshOutput, SlotMap
from tests.mhe.protocols.conftest import parameters_for

RANDOM = np.random.default_rng(0)
MAPS = {
    "rotation": SlotMap.rotation(64, 5),
    "rotation of all slots": SlotMap.rotation(128, 77),
    "permutation": SlotMap.permutation(RANDOM.permutation(16)),
    "permutation of all slots": SlotMap.permutation(RANDOM.permutation(128)),
    "replication": SlotMap.replication(64, 4),
    "replication of one slot": SlotMap.permutation([1, 1]),
    "transposition": SlotMap.transposition(8),
    "transposition in three stages": SlotMap.transposition(8, 3),
    "matrix": SlotMap.matrix(RANDOM.normal(size=(8, 8))),
    "large matrix": SlotMap.matrix(2.0**30 * RANDOM.normal(size=(4, 4))).then(SlotMap.matrix(np.eye(4) * 2.0**-30)),
    "integers": SlotMap.matrix(np.eye(8) * 3 - 2 * np.roll(np.eye(8), 3, axis=1)),
    "composition": SlotMap.rotation(8, 3)
    .then(SlotMap.matrix(RANDOM.normal(size=(8, 8))))
    .then(SlotMap.replication(8, 4))
    .then(SlotMap.permutation(RANDOM.permutation(8))),
    "single slot": SlotMap.matrix([[0.75]]),
}


def run(world, before, outputs):
    protocols = [RefreshProtocol(s, tuple(c.c1 for c in before), outputs) for s in world.sessions]
    total = world.total([p.share(s) for p, s in zip(protocols, world.secrets, strict=True)])
    c0s = protocols[0].finalize(total, {i: c.c0 for i, c in enumerate(before)})
    assert list(c0s) == list(range(len(outputs)))
    fresh = [protocols[0].fresh(i, c0s[i], before[o.source].scale) for i, o in enumerate(outputs)]
    return protocols[0], fresh


def encrypted(world, values):
    """Without any error, so that its slots are real: what is measured is the refresh alone."""
    p = world.parameters
    return world.encrypt_integers(encode_coefficients(values, p.ring_dim, p.scale).tolist(), 3)


def coefficients(world, ciphertext, period):
    """Those that carry a vector of this period, and the others."""
    found = np.array([float(v) for v in world.integers(ciphertext)])
    carrying = np.arange(len(found)) % (len(found) // (2 * period)) == 0
    return found[carrying], found[~carrying]


def check(world, protocol, index, before, after):
    """Within the bound, everywhere; returns the errors where there is a message."""
    slot_map = protocol.outputs[index].slot_map
    slots = decode_subring(coefficients(world, before, slot_map.period)[0], slot_map.period, 1.0)
    got, rest = coefficients(world, after, slot_map.period)
    errors = got - embed(slot_map(slots))
    bound = protocol.error_bound(index, np.abs(slots).max())
    assert np.abs(errors).max() <= bound
    assert np.abs(rest).max(initial=0) <= protocol.error_bound(index)
    assert after.limbs == 5 - slot_map.levels
    assert (after.scale, after.key_id) == (before.scale, before.key_id)
    return errors


@pytest.mark.parametrize("name", MAPS)
def test_mapped_refresh(world, name):
    slot_map = MAPS[name]
    before = encrypted(world, RANDOM.uniform(-1, 1, slot_map.period))
    protocol, (after,) = run(world, [before], (RefreshOutput(0, slot_map),))
    check(world, protocol, 0, before, after)
    opened = decode_subring(coefficients(world, after, slot_map.period)[0], slot_map.period, after.scale)
    clear = decode_subring(coefficients(world, before, slot_map.period)[0], slot_map.period, before.scale)
    assert np.abs(opened - slot_map(clear)).max() < 1e-6 * max(1, slot_map.growth)


@pytest.mark.parametrize("name", ["rotation of all slots", "permutation of all slots"])
def test_noise_is_that_of_the_closed_form(world, assert_noise, name):
    before = encrypted(world, np.zeros(128))
    protocol, (after,) = run(world, [before], (RefreshOutput(0, MAPS[name]),))
    errors = check(world, protocol, 0, before, after)
    rounding = mapped_refresh_rounding_std(world.n_parties) * (protocol.outputs[0].levels > 0)
    assert_noise(errors, protocol.error_bound(0, 2.0**10), np.hypot(refresh_error_std(world.n_parties), rounding))


def test_noise_of_the_input_is_mapped_with_its_message(make_world):
    """Its slots are complex: none becomes larger than `growth` times the largest."""
    world, slot_map = make_world(2), MAPS["replication"]
    before = world.ciphertext(np.zeros(64), limbs=3)
    protocol, (after,) = run(world, [before], (RefreshOutput(0, slot_map),))

    def largest_slot(ciphertext):
        carried = coefficients(world, ciphertext, 64)[0]
        return np.abs(np.fft.fft(carried * np.exp(1j * np.pi * np.arange(128) / 128))).max()

    allowed = slot_map.growth * largest_slot(before) + 128 * protocol.error_bound()
    assert largest_slot(before) < largest_slot(after) <= allowed


@pytest.mark.parametrize("period", [1, 2, 8, 128])
def test_what_does_not_repeat_is_dropped(world, period):
    """Of noise in all coefficients those of the period are left, exactly as many times as large; in a ring of 256."""
    noise = np.random.default_rng(period).integers(-(1 << 20), 1 << 20, 256)
    before = world.encrypt_integers(noise.tolist(), 3)
    protocol, (after,) = run(world, [before], (RefreshOutput(0, SlotMap.repeating(period, 1 << 16)),))
    (carrying, rest), bound = coefficients(world, after, period), protocol.error_bound()
    np.testing.assert_allclose(carrying, noise[:: 128 // period] * 2.0**16, rtol=0, atol=bound)
    assert np.abs(rest).max(initial=0) <= bound < 1000


def test_several_outputs_of_several_inputs(world):
    before = [encrypted(world, RANDOM.uniform(-1, 1, 8)) for _ in range(2)]
    outputs = (
        RefreshOutput(1, MAPS["matrix"]),
        RefreshOutput(0),
        RefreshOutput(0, MAPS["integers"]),
        RefreshOutput(0, MAPS["composition"]),
        RefreshOutput(0, MAPS["integers"]),
    )
    protocol, after = run(world, before, outputs)
    for index, output in enumerate(outputs):
        if output.slot_map is not None:
            check(world, protocol, index, before[output.source], after[index])
    plain = np.array(world.integers(after[1]) - world.integers(before[0]), dtype=np.float64)
    assert np.abs(plain).max() <= protocol.error_bound(1)
    assert after[1].limbs == 5
    assert len({c.c1.tobytes() for c in after}) == 5, "every output has a uniform part of its own"


def test_the_owner_of_one_input_gets_its_outputs_only(make_world):
    world = make_world(2)
    before = [encrypted(world, RANDOM.uniform(-1, 1, 8)) for _ in range(2)]
    outputs = (RefreshOutput(1, MAPS["matrix"]), RefreshOutput(0), RefreshOutput(1))
    protocols = [RefreshProtocol(s, tuple(c.c1 for c in before), outputs) for s in world.sessions]
    total = world.total([p.share(s) for p, s in zip(protocols, world.secrets, strict=True)])
    made = protocols[1].finalize(protocols[0].part(total, [1]), {1: before[1].c0})
    assert list(made) == [0, 2]
    check(world, protocols[1], 0, before[1], protocols[1].fresh(0, made[0], before[1].scale))


def test_masks_cancel_exactly_where_nothing_is_rounded(make_world):
    """Without a message and without errors a map of integers gives zero: all of the masks' 2^90 are gone."""
    world = make_world(3)
    before = world.encrypt_integers([0] * 256, 3)
    protocol, (after,) = run(world, [before], (RefreshOutput(0, SlotMap.replication(128, 1)),))
    assert np.abs(np.array(world.integers(after), dtype=np.float64)).max() <= protocol.error_bound()


def test_the_mapped_masks_of_a_sum_are_the_sum_of_the_mapped_masks():
    """Up to the roundings that are announced: (k + 1)/2 for k inputs."""
    p = parameters_for(1)
    phi = ring_map(MAPS["composition"], p.ring_dim, p.moduli)
    small, kept = ring(phi.dim, p.moduli), ring(phi.dim, p.moduli[: phi.limbs])
    parts = [np.stack([RANDOM.integers(0, q, phi.dim, dtype=np.uint64) for q in p.moduli]) for _ in range(4)]
    total, mapped = parts[0], phi(parts[0])
    for part in parts[1:]:
        total, mapped = small.add(total, part), kept.add(mapped, phi(part))
    off = np.array(kept.to_integers(kept.subtract(phi(total), mapped)), dtype=np.float64)
    assert 0 < np.abs(off).max() <= 5 / 2


def test_instances_tell_maps_and_outputs_apart(make_world):
    world = make_world(1)
    c1 = world.ciphertext(limbs=3).c1
    a, b = MAPS["rotation"], MAPS["matrix"]
    choices = [
        (), (RefreshOutput(0, a),), (RefreshOutput(0, b),), (RefreshOutput(0, a), RefreshOutput(0, b)),
        (RefreshOutput(0, b), RefreshOutput(0, a)), (RefreshOutput(0), RefreshOutput(0)),
    ]  # fmt: skip
    instances = [RefreshProtocol(world.sessions[0], (c1,), chosen).instance for chosen in choices]
    instances.append(RefreshProtocol(world.sessions[0], (c1, c1), (RefreshOutput(0), RefreshOutput(1))).instance)
    instances.append(RefreshProtocol(world.sessions[0], (c1, c1), (RefreshOutput(1), RefreshOutput(0))).instance)
    assert len(set(instances)) == len(instances)
    assert RefreshProtocol(world.sessions[0], (c1,), (RefreshOutput(0),)).instance == instances[0]


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (RefreshOutput(1), ParameterError, "an output of input 1; need one of 1"),
        (RefreshOutput(-1), ParameterError, "an output of input -1; need one of 1"),
        (RefreshOutput(0, SlotMap.rotation(256, 1)), ParameterError, "on 256 slots; need at most 128"),
        (
            RefreshOutput(0, SlotMap.transposition(2).then(SlotMap.transposition(2, 1)).then(
                SlotMap.matrix(np.eye(4) / 3)).then(SlotMap.matrix(np.eye(4) / 3)).then(SlotMap.matrix(np.eye(4) / 3))),
            LevelError,
            "the map takes 5 limbs of 5; compose",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make_world, output, error, message):
    world = make_world(1)
    with pytest.raises(error, match=message):
        RefreshProtocol(world.sessions[0], (world.ciphertext(limbs=3).c1,), (output,))
