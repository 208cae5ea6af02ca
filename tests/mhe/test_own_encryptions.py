"""What a party encrypts of its own, and what a plan foresees of it and of mapped refreshes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mhe.backend.tracking import Size
from mhe.security import fresh_error_std, mapped_refresh_rounding_std, refresh_error_std, rerandomised_std, tail
from mhe.slot_map import RefreshOutput, SlotMap
from mhe.tracking_party import TrackingParty

RING_DIM, PERIOD, SCALE, LIMBS = 1 << 8, 8, 2.0**40, 3


def values_of(rank):
    return np.random.default_rng((7, rank)).uniform(-4, 4, PERIOD)


def check_sum_of_own_encryptions(run, n_parties):
    def program(party):
        own = party.encrypt_own(values_of(party.collective.rank), LIMBS, SCALE)
        assert (own.limbs, own.scale, own.period) == (LIMBS, SCALE, PERIOD)
        totals = party.sum([own])
        (fresh,) = party.refresh(totals, 1, SCALE, PERIOD)
        low = party.backend.drop_limbs(fresh, 2)
        smallest = 1.0
        found = party.decrypt(low if party.collective.is_root else None, 2, SCALE, PERIOD, smallest)
        return found, party.parameters

    expected = sum(values_of(rank) for rank in range(n_parties))
    for found, p in run(n_parties, program):
        fresh = math.hypot(fresh_error_std(RING_DIM, n_parties), rerandomised_std(p, LIMBS))
        # the smudging of noise 1 over 100 releases at 10 bits, and what the sum and the refresh add
        std = math.hypot(math.sqrt(n_parties) * fresh, refresh_error_std(n_parties), math.sqrt(n_parties * 1200) * 32)
        error = np.abs(found - expected).max() * SCALE
        assert 0 < error <= tail(PERIOD) * std * math.sqrt(PERIOD)


@pytest.mark.parametrize("n_parties", [1, 3])
def test_sum_of_own_encryptions(run_encrypted, n_parties):
    check_sum_of_own_encryptions(run_encrypted, n_parties)


@pytest.mark.parametrize("n_parties", [1, 3])
def test_simulated_sum_of_own_encryptions(run_clear, n_parties):
    check_sum_of_own_encryptions(run_clear, n_parties)


def test_own_encryptions_of_equal_values_differ(run_encrypted):
    def program(party):
        made = [party.backend.export_ciphertext(party.encrypt_own(values_of(0), LIMBS, SCALE)) for _ in range(2)]
        return [np.concatenate([c.c0, c.c1]) for c in made]

    ((first, second),) = run_encrypted(1, program)
    assert (first != second).mean() > 0.99


@pytest.mark.parametrize("n_parties", [1, 3])
def test_tracked_mapped_refreshes_are_as_noisy_as_simulated_ones(run_clear, n_parties):
    """The simulation draws what the plan only follows: root mean squares agree, and limbs and periods."""
    random = np.random.default_rng(3)
    period, scale = 64, 2.0**12
    maps = [
        SlotMap.matrix(random.normal(size=(period, period))),
        SlotMap.replication(period, 8),
        SlotMap.permutation(random.permutation(period)),
    ]
    outputs = [RefreshOutput(0), *(RefreshOutput(0, m) for m in maps)]

    def program(party):
        tracked = TrackingParty(party.parameters)
        low = tracked.backend.ciphertext(Size(1.0, 0.0), LIMBS, scale, period)
        foreseen = tracked.refresh([low], 1, scale, period, outputs)
        errors = [[] for _ in outputs]
        for _ in range(40):
            own = party.encrypt_own(np.zeros(period), LIMBS, scale)
            values = party.backend.export_ciphertext(own).values[0]
            made = party.refresh([own] if party.collective.is_root else None, 1, scale, period, outputs)
            for error, c, output in zip(errors, made, outputs, strict=True):
                mapped = values if output.slot_map is None else output.slot_map(values)
                error.append(party.backend.export_ciphertext(c).values[0] - mapped)
        return [
            (c.limbs, c.period, f.limbs, f.period, np.std(error), tracked.backend.size(f))
            for c, f, error in zip(made, foreseen, errors, strict=True)
        ], tracked

    made, tracked = run_clear(n_parties, program)[0]
    growths = [1.0, *(m.mean_growth for m in maps)]
    for (limbs, length, *planned, measured, size), growth in zip(made, growths, strict=True):
        assert planned == [limbs, length]
        assert size.value == pytest.approx(growth)
        # of the whole ring, where the simulation draws the rounding of a map on its period only
        rounding = mapped_refresh_rounding_std(n_parties) if limbs < tracked.parameters.n_limbs else 0.0
        whole = math.sqrt(RING_DIM / 2) * math.hypot(refresh_error_std(n_parties), rounding) / scale
        assert size.noise == pytest.approx(whole)
        assert 0.85 * whole < measured < 1.1 * whole
    assert tracked.counts["mask", LIMBS] == 1
