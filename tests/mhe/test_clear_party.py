"""`ClearParty` against `EncryptedParty`: one program, the same results up to noise, the same refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mhe.backend.clear import ClearBackend
from mhe.errors import KeyMismatchError, LevelError
from mhe.keys import KeyPlan
from mhe.security import refresh_error_std, rerandomised_norm, rerandomised_std, smudging_std, tail

RING_DIM, PERIOD, SCALE, NORM = 1 << 8, 8, 2.0**40, 300.0
PARTIES = [1, 2, 3, 5]


def values_of(rank, seed=0):
    return np.random.default_rng((seed, rank)).uniform(-4, 4, PERIOD)


@pytest.fixture
def program(make_ciphertext):
    """Every call of a `Party`, with what an outsider may know of the results."""

    def run(party):
        rank, root = party.collective.rank, party.collective.is_root
        out = {"encrypted_sum": party.encrypted_sum(np.array([1e12, -3.0, 1e-12]) * (rank + 1))}
        totals = party.sum([make_ciphertext(party, values_of(rank), 3)])
        assert (totals is None) == (not root)
        (fresh,) = party.refresh(totals, 1, SCALE, PERIOD)
        low = party.backend.drop_limbs(fresh, 2)
        out["decrypted"] = party.decrypt(low if root else None, 2, SCALE, PERIOD, NORM)
        own = party.refresh_own([make_ciphertext(party, values_of(rank, i), 3) for i in range(2)])
        out["delivered"] = np.stack(party.deliver([party.backend.drop_limbs(c, 2) for c in own], NORM))
        out["forms"] = [(c.limbs, c.scale, c.period) for c in (fresh, low, *own)]
        return out

    return run


@pytest.mark.parametrize("n_parties", PARTIES)
def test_same_results_up_to_noise(run_clear, run_encrypted, program, n_parties):
    clear, encrypted = run_clear(n_parties, program), run_encrypted(n_parties, program)
    expected = sum(values_of(rank) for rank in range(n_parties))
    p = run_clear(1, lambda party: party.parameters)[0]
    norm = NORM + rerandomised_norm(replace(p, n_parties=n_parties), 2)
    # what the smudging of all coefficients does to a slot, and a tenth of it for all other noise
    added = tail(PERIOD) * 1.1 * np.sqrt(n_parties * RING_DIM / 2) * smudging_std(norm, 10, 100) / SCALE
    for rank, (a, b) in enumerate(zip(clear, encrypted, strict=True)):
        assert a.keys() == b.keys()
        assert a["forms"] == b["forms"]
        np.testing.assert_allclose(a["encrypted_sum"], b["encrypted_sum"], rtol=1e-15, atol=1e-20)
        for out in (a, b):
            assert np.abs(out["decrypted"] - expected).max() < added
            assert out["delivered"].shape == (2, PERIOD)
            for i, slots in enumerate(out["delivered"]):
                assert np.abs(slots - values_of(rank, i)).max() < added
    for results in (clear, encrypted):
        for out in results:
            np.testing.assert_array_equal(out["decrypted"], results[0]["decrypted"])
            np.testing.assert_array_equal(out["encrypted_sum"], results[0]["encrypted_sum"])


def test_without_noise_results_are_exact(run_clear, program):
    for rank, out in enumerate(run_clear(3, program, noise=False)):
        np.testing.assert_allclose(out["decrypted"], sum(values_of(r) for r in range(3)), rtol=1e-15)
        np.testing.assert_array_equal(out["delivered"], [values_of(rank, i) for i in range(2)])


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize("period", [8, 128])
def test_simulated_noise_has_the_size_of_the_real_one(run_clear, run_encrypted, make_ciphertext, period):
    """What a release adds to a slot comes from the 2 period coefficients that carry the message, and from no others."""
    n, repeat = 3, 128 // period
    values = np.random.default_rng(period).uniform(-1, 1, period)

    def program(party):
        decrypted, delivered = [], []
        for _ in range(repeat):
            low = make_ciphertext(party, values, 3)
            decrypted.append(party.decrypt(low if party.collective.is_root else None, 3, SCALE, period, NORM) - values)
            delivered.append(party.deliver([low], NORM)[0] - values)
        return party.parameters, rms(decrypted), rms(delivered)

    p, *simulated = run_clear(n, program, releases=1000)[0]
    _, *real = run_encrypted(n, program, releases=1000)[0]
    added = rerandomised_norm(p, 3)
    for norm, a, b in zip((NORM, NORM + added), simulated, real, strict=True):
        std = smudging_std(norm, 10, 1000) * np.sqrt(n * period) / SCALE
        # 128 values of about as many independent ones: 8 standard errors are 0.5
        assert 0.5 < a / std < 1.6
        assert 0.5 < b / std < 1.6


def test_simulated_refresh_has_the_noise_of_all_coefficients(run_clear, make_ciphertext):
    def program(party):
        low = make_ciphertext(party, np.zeros(RING_DIM // 2), 3)
        (own,) = party.refresh_own([low])
        before, after = (party.backend.export_ciphertext(c).values for c in (low, own))
        return party.parameters, rms(after - before)

    p, found = run_clear(3, program)[0]
    std = np.hypot(refresh_error_std(3), rerandomised_std(p, 3)) * np.sqrt(RING_DIM / 2) / SCALE
    assert 0.5 < found / std < 1.6


@pytest.mark.parametrize("limbs", [2, 4, 5])
def test_refresh_of_other_limbs_is_refused(run_clear, make_ciphertext, limbs):
    """In the words of the encrypted party (tests/mhe/test_encrypted_party.py)."""

    def of_root(party):
        low = make_ciphertext(party, values_of(0), limbs)
        party.refresh([low] if party.collective.is_root else None, 1, SCALE, PERIOD)

    def own(party):
        party.refresh_own([make_ciphertext(party, values_of(0), limbs)])

    for program in (of_root, own):
        with pytest.raises(LevelError, match=rf"of 3 limbs.*, got {limbs}; drop limbs, or refresh"):
            run_clear(2, program)


def test_levels_that_are_not_there_cannot_be_made(run_clear, make_ciphertext):
    with pytest.raises(LevelError, match="cannot go from 2 limbs to 3; need 1 to 2, or a refresh"):
        run_clear(1, lambda party: party.backend.drop_limbs(make_ciphertext(party, values_of(0), 2), 3))

    def rescales(party):
        low = make_ciphertext(party, values_of(0), 1)
        party.backend.rescale(low)

    with pytest.raises(LevelError, match="a rescale needs 2 limbs, got 1; refresh before the product"):
        run_clear(1, rescales)


def test_a_message_that_wraps_around_is_refused(run_clear, make_ciphertext):
    """Where a real ciphertext would silently be wrong."""
    with pytest.raises(LevelError, match="needs a modulus above"):
        run_clear(1, lambda party: make_ciphertext(party, [2.0**25], 1))


def test_only_planned_rotations_are_there(run_clear, make_ciphertext):
    plan = KeyPlan(everywhere={1: 5}, root_only={2: 5})

    def program(party):
        assert isinstance(party.backend, ClearBackend)
        party.make_keys(plan)
        fresh = make_ciphertext(party, values_of(0))
        turned = party.backend.export_ciphertext(party.backend.rotate(fresh, 1)).values[0]
        try:
            party.backend.rotate(fresh, 2)
        except KeyMismatchError:
            return turned, False
        return turned, True

    results = run_clear(3, program, root=1)
    assert [has for _, has in results] == [False, True, False]
    for turned, _ in results:
        np.testing.assert_allclose(turned, np.roll(values_of(0), -1), atol=1e-6)


def test_products_need_the_relinearisation_key(run_clear, make_ciphertext):
    def program(party):
        fresh = make_ciphertext(party, values_of(0))
        with pytest.raises(KeyMismatchError, match="no relinearisation key is loaded"):
            party.backend.multiply(fresh, fresh)
        party.make_keys(KeyPlan({}, relinearisation=5))
        return party.backend.export_ciphertext(party.backend.rescale(party.backend.multiply(fresh, fresh))).values[0]

    for product in run_clear(2, program):
        np.testing.assert_allclose(product, values_of(0) ** 2, atol=1e-6)


@pytest.mark.parametrize("planned", [True, False])
def test_conjugation_is_there_if_it_was_planned(run_clear, make_ciphertext, planned):
    def program(party):
        party.make_keys(KeyPlan({}, conjugation=5 * planned))
        fresh = make_ciphertext(party, values_of(0))
        if not planned:
            with pytest.raises(KeyMismatchError, match="key plan"):
                party.backend.conjugate(fresh)
            return values_of(0)
        return party.backend.export_ciphertext(party.backend.conjugate(fresh)).values[0]

    for conjugated in run_clear(2, program):
        np.testing.assert_allclose(conjugated, values_of(0), atol=1e-6)


def test_simulation_is_reproducible(run_clear, program):
    a, b = (run_clear(2, program) for _ in range(2))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x["decrypted"], y["decrypted"])
        np.testing.assert_array_equal(x["delivered"], y["delivered"])


def test_close_forgets_the_keys(run_clear, make_ciphertext):
    def program(party):
        party.make_keys(KeyPlan({1: 5}, relinearisation=5))
        fresh = make_ciphertext(party, values_of(0))
        party.close()
        for call in (lambda: party.backend.rotate(fresh, 1), lambda: party.backend.multiply(fresh, fresh)):
            with pytest.raises(KeyMismatchError):
                call()

    run_clear(2, program)
