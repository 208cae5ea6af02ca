"""The collective refresh: exact but for the parties' narrow errors, up to the extremes of messages and masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mhe.errors import LevelError, ShareError
from mhe.parameters import Parameters, refresh_floor_bits
from mhe.protocols import refresh as module
from mhe.protocols.refresh import RefreshProtocol
from mhe.security import refresh_error_std


def run(world, ciphertexts):
    step = world.round("refresh", ciphertexts=ciphertexts)
    return step.finalize(world.total([step.share(rank, s) for rank, s in enumerate(world.secrets)]))


def errors(world, before, after):
    return [e for a, b in zip(before, after, strict=True) for e in world.integers(b) - world.integers(a)]


@pytest.mark.parametrize("batch", [1, 4])
def test_refresh_adds_one_narrow_error_per_party(world, assert_noise, batch):
    before = [world.ciphertext(limbs=3) for _ in range(batch)]
    after = run(world, before)
    bound = RefreshProtocol(world.sessions[0], tuple(c.c1 for c in before)).error_bound()
    assert_noise(errors(world, before, after), bound, refresh_error_std(world.n_parties))
    for a, b in zip(before, after, strict=True):
        assert (b.limbs, b.scale, b.key_id) == (5, a.scale, a.key_id)


def test_new_c1s_are_common_uniform_and_of_each_ciphertext_its_own(make_world):
    world = make_world(2)
    before = [world.ciphertext(limbs=3) for _ in range(3)]
    protocols = [RefreshProtocol(s, tuple(c.c1 for c in before)) for s in world.sessions]
    c0 = np.zeros((5, 256), dtype=np.uint64)
    c1s = [protocols[0].fresh(i, c0, 1.0).c1 for i in range(3)]
    for i, c1 in enumerate(c1s):
        np.testing.assert_array_equal(protocols[1].fresh(i, c0, 1.0).c1, c1)
    assert len({c1.tobytes() for c1 in c1s}) == 3
    other = RefreshProtocol(world.sessions[0], (before[0].c1,))
    assert other.fresh(0, c0, 1.0).c1.tobytes() != c1s[0].tobytes()


def test_each_owner_finalizes_its_own_ciphertexts_of_the_batch(make_world):
    """All owners' ciphertexts in one round: nobody needs to know the c0 of the others."""
    world = make_world(5)
    before = [world.ciphertext(limbs=3) for _ in range(10)]
    protocols = [RefreshProtocol(s, tuple(c.c1 for c in before)) for s in world.sessions]
    total = world.total([p.share(s) for p, s in zip(protocols, world.secrets, strict=True)])
    for rank, protocol in enumerate(protocols):
        mine = range(2 * rank, 2 * rank + 2)
        part = protocols[0].part(total, mine)
        assert part.rows.shape == (2 * (3 + 5), 256)
        c0s = protocol.finalize(part, {i: before[i].c0 for i in mine})
        assert list(c0s) == list(mine)
        for i in mine:
            found = errors(world, [before[i]], [protocol.fresh(i, c0s[i], before[i].scale)])
            assert np.abs(np.array(found)).max() <= protocol.error_bound()


def test_an_owner_takes_no_part_but_its_own(make_world):
    world = make_world(3)
    before = [world.ciphertext(limbs=3) for _ in range(3)]
    protocols = [RefreshProtocol(s, tuple(c.c1 for c in before)) for s in world.sessions]
    shares = [p.share(s) for p, s in zip(protocols, world.secrets, strict=True)]
    total, c0s = world.total(shares), {1: before[1].c0}
    mine = protocols[0].part(total, [1])
    for other in (protocols[0].part(total, [2]), protocols[0].part(total, [0, 1]), total):
        with pytest.raises(ShareError, match="need refresh instance"):
            protocols[1].finalize(other, c0s)
    with pytest.raises(ShareError, match=r"contributions of parties \[2\] are missing"):
        protocols[1].finalize(replace(mine, contributors=frozenset({0, 1})), c0s)
    assert (mine.instance, mine.moduli) == (protocols[1].part_instance([1]), protocols[1].part_moduli([1]))
    assert len({protocols[2].part_instance([i]) for i in range(3)} | {total.instance}) == 4
    with pytest.raises(ShareError, match=r"contributions of parties \[2\] are missing"):
        protocols[0].part(world.total(shares[:2]), [1])
    assert list(protocols[1].finalize(mine, c0s)) == [1]


# extremes

FLOORS = [(1, 3), (2, 3), (3, 3), (5, 3), (7, 3), (10, 3), (10, 2), (10, 1)]


def at_the_floor(make_world, n_parties, refresh_limbs):
    """The most statistical bits that this modulus allows."""
    low = 60 + 40 * (refresh_limbs - 1) - 1e-6
    bits = max(s for s in range(1, 200) if refresh_floor_bits(s, 40, 4.0, n_parties) <= low)
    return make_world(n_parties, refresh_limbs=refresh_limbs, statistical_bits=bits)


class ExtremeMasks:
    """Stands in for the uniform words of a mask: each party's are all at one end of the range, or at both in turn."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, stream, bits, n):
        words = np.zeros((-(-bits // 64), n), dtype=np.uint64)
        top = (1 << bits) - 1
        chosen = {"lowest": slice(0, 0), "highest": slice(None), "both": slice(None, None, 2)}[self.kind]
        for k in range(len(words)):
            words[k, chosen] = np.uint64((top >> (64 * k)) & (2**64 - 1))
        return words


@pytest.mark.parametrize("masks", ["lowest", "highest", "both", "random"])
@pytest.mark.parametrize(("n_parties", "refresh_limbs"), FLOORS)
def test_refresh_is_exact_at_the_extremes(make_world, monkeypatch, n_parties, refresh_limbs, masks):
    """Largest messages of both signs, all masks at one end of their range, as many statistical bits as there may be."""
    world = at_the_floor(make_world, n_parties, refresh_limbs)
    p = world.parameters
    if masks != "random":
        monkeypatch.setattr(module, "uniform_words", ExtremeMasks(masks))
    bound = 1 << (p.scale_bits + int(p.message_bits))
    message = np.random.default_rng(0).choice([-bound, bound, 0, 1, -1], p.ring_dim).tolist()
    before = [
        world.encrypt_integers(message, refresh_limbs),
        world.encrypt_integers([-bound] * p.ring_dim, refresh_limbs),
        world.encrypt_integers([bound] * p.ring_dim, refresh_limbs),
    ]
    after = run(world, before)
    allowed = RefreshProtocol(world.sessions[0], tuple(c.c1 for c in before)).error_bound()
    assert np.abs(np.array(errors(world, before, after))).max() <= allowed


def test_masks_of_more_bits_than_the_floor_allows_wrap_around(make_world, monkeypatch):
    """The test above can fail: two bits more than the floor has to spare, and the result is garbage."""
    world = at_the_floor(make_world, 10, 3)
    bits = world.parameters.mask_bits + 3
    monkeypatch.setattr(Parameters, "mask_bits", bits)
    monkeypatch.setattr(module, "uniform_words", ExtremeMasks("lowest"))
    before = [world.ciphertext(limbs=3)]
    assert np.abs(np.array(errors(world, before, run(world, before)))).max() > 2**40


def test_masks_fill_their_range_and_nothing_more(make_world):
    """Uniform on [-2^(bits-1), 2^(bits-1)): mean, variance and extremes of 20000 of them."""
    world = make_world(1)
    p = world.parameters
    protocol = RefreshProtocol(world.sessions[0], (world.ciphertext(limbs=3).c1,))
    ring = world.sessions[0].cipher_ring()
    values = [v for _ in range(80) for v in ring.to_integers(protocol._mask(module.secret_stream()))]
    half = 1 << (p.mask_bits - 1)
    assert min(values) >= -half
    assert max(values) < half
    unit = np.array([v / half for v in values])
    n = len(unit)
    # 7 standard errors: a probability of 1e-11 each.
    assert abs(unit.mean()) < 7 * (1 / 3 / n) ** 0.5
    assert abs((unit**2).mean() - 1 / 3) < 7 * (4 / 45 / n) ** 0.5
    assert unit.min() < -0.998
    assert unit.max() > 0.998


def test_what_the_root_sees_is_masked(make_world):
    """c0 + sum h0 is the message less all masks: as wide as the masks, whatever the message."""
    world = make_world(2)
    p = world.parameters
    low = world.sessions[0].cipher_ring(3)
    zero, large = (world.encrypt_integers([m] * p.ring_dim, 3) for m in (0, 1 << 44))
    for before in (zero, large):
        protocols = [RefreshProtocol(s, (before.c1,)) for s in world.sessions]
        total = world.total([protocol.share(s) for protocol, s in zip(protocols, world.secrets, strict=True)])
        opened = low.to_integers(low.intt(low.add(before.c0, total.rows[:3])))
        rms = np.sqrt(np.mean([(v / 2.0**p.mask_bits) ** 2 for v in opened]))
        assert 0.7 < rms / (2 / 12) ** 0.5 < 1.3


@pytest.mark.parametrize("limbs", [1, 2, 4, 5])
def test_wrong_limbs_are_refused(make_world, limbs):
    world = make_world(2)
    right, wrong = world.ciphertext(limbs=3), world.ciphertext(limbs=limbs)
    for c1s in ((wrong.c1,), (right.c1, wrong.c1)):
        with pytest.raises(LevelError, match=rf"a refresh takes ciphertexts of 3 limbs, got {limbs}; drop"):
            RefreshProtocol(world.sessions[0], c1s)
