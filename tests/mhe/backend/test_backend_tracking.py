"""The evaluator of sizes: its noise is that of the simulation and of ciphertexts, its counts those of the calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhe.backend.tracking import Size, TrackingBackend
from mhe.ciphertext import Ciphertext
from mhe.clear_party import ClearParty
from mhe.errors import LevelError, ParameterError
from mhe.parameters import ERROR_STD, Parameters
from mhe.slot_map import RefreshOutput, SlotMap
from mhe.tracking_party import TrackingParty
from network.local import run_parties
from tests.counted import Counted
from tests.evaluators import REAL, Floats, World, parameters_of
from tests.insecure import KEY_ID, insecure_test_parameters

ROTATIONS = (1, 3, 16, -1)
SAMPLES = 4
"""Ciphertexts of each measurement: 4 times 512 slots."""

ABOVE, BELOW = 8.0, 1.25
"""What is foretold may be so many times the root mean square that is seen, and so many times less.

Above: digits and P are taken for lifted without correction, as OpenFHE does, which the native evaluator is better than;
of OpenFHE's own rounding the mean gathers in few slots. Below: what 2048 samples scatter, and correlations.
"""

Program = Callable[[Any, Ciphertext, Ciphertext, Ciphertext, Any], Ciphertext]

OPERATIONS: dict[str, Program] = {
    "add": lambda b, x, y, z, p: b.add(x, y),
    "add_plain": lambda b, x, y, z, p: b.add_plain(x, p),
    "multiply_plain": lambda b, x, y, z, p: b.multiply_plain(x, p),
    "multiply_accumulate_plain": lambda b, x, y, z, p: b.multiply_accumulate_plain([(x, p), (y, p)]),
    "multiply_matrix_plain": lambda b, x, y, z, p: b.multiply_matrix_plain([[p, p], [p, p]], [x, y])[1],
    "multiply": lambda b, x, y, z, p: b.multiply(x, y),
    "square": lambda b, x, y, z, p: b.rescale(b.multiply(x, x)),
    "multiply_accumulate": lambda b, x, y, z, p: b.multiply_accumulate([(x, y), (y, z)]),
    "rescale": lambda b, x, y, z, p: b.rescale(b.multiply_plain(x, p)),
    "drop_limbs": lambda b, x, y, z, p: b.drop_limbs(x, 2),
    "reread": lambda b, x, y, z, p: b.reread(x, scale=x.scale * 4),
    "rotate": lambda b, x, y, z, p: b.rotate(x, 3),
    "rotate_hoisted": lambda b, x, y, z, p: b.rotate_hoisted(x, [1, 16])[16],
    "rotate_and_sum": lambda b, x, y, z, p: b.rotate_and_sum({0: x, 1: y, -1: z}),
    "conjugate": lambda b, x, y, z, p: b.conjugate(x),
    "times_i": lambda b, x, y, z, p: b.times_i(x, 2),
    "parts": lambda b, x, y, z, p: b.parts(_complex_product(b, x, y, z))[0],
    "imaginary part": lambda b, x, y, z, p: b.parts(_complex_product(b, x, y, z))[1],
    "circuit": lambda b, x, y, z, p: b.rescale(
        b.multiply_plain(b.rotate(b.rescale(b.multiply(x, y)), 3), b.encode(_w(), 3))
    ),
}


def _complex_product(b: Any, x: Ciphertext, y: Ciphertext, z: Ciphertext) -> Ciphertext:
    """(x + i y) (y - i z)"""
    return b.rescale(b.multiply(b.add(x, b.times_i(y)), b.add(y, b.times_i(z, -1))))


def _w() -> Floats:
    return np.random.default_rng(5).uniform(-1, 1, 512)


def exact(name: str, x: Floats, y: Floats, z: Floats, p: Floats) -> Floats:
    results: dict[str, Floats] = {
        "add": x + y,
        "add_plain": x + p,
        "multiply_plain": x * p,
        "multiply_accumulate_plain": x * p + y * p,
        "multiply_matrix_plain": x * p + y * p,
        "multiply": x * y,
        "square": x * x,
        "multiply_accumulate": x * y + y * z,
        "rescale": x * p,
        "drop_limbs": x,
        "reread": x / 4,
        "rotate": np.roll(x, -3),
        "rotate_hoisted": np.roll(x, -16),
        "rotate_and_sum": x + np.roll(y, -1) + np.roll(z, 1),
        "conjugate": x,
        "times_i": -x,
        "parts": x * y + y * z,
        "imaginary part": y * y - x * z,
        "circuit": np.roll(x * y, -3) * _w(),
    }
    return results[name]


@pytest.fixture(scope="module", params=["clear", *REAL])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World.of(request.param, parameters_of(request.param, 1 << 10, 4, scale_bits=40), ROTATIONS)
    yield made
    made.backend.close()


def fresh(world: World) -> tuple[TrackingBackend, list[Ciphertext]]:
    """Three ciphertexts as `World.encrypt` makes them of uniform values, in sizes."""
    backend = TrackingBackend(world.parameters)
    p = world.parameters
    noise = 0.0 if world.secret is None else backend.slot_noise(ERROR_STD, p.scale)
    return backend, [backend.ciphertext(Size(3**-0.5, noise), p.n_limbs, p.scale, p.n_slots) for _ in range(3)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_noise_is_neither_less_nor_much_more_than_what_is_seen(world: World, name: str) -> None:
    p, run = world.parameters, OPERATIONS[name]
    random = np.random.default_rng(3)
    errors, values, form = [], [], None
    for _ in range(SAMPLES):
        *messages, w = random.uniform(-1, 1, (4, p.n_slots))
        found = run(world.backend, *map(world.encrypt, messages), world.backend.encode(w, p.n_limbs))
        values.append(exact(name, *messages, w))
        errors.append(world.decrypt(found) - values[-1])
        form = (found.limbs, found.scale, found.period)
    backend, operands = fresh(world)
    tracked = run(backend, *operands, backend.encode(random.uniform(-1, 1, p.n_slots), p.n_limbs))
    assert (tracked.limbs, tracked.scale, tracked.period) == form
    size = backend.size(tracked)
    # the square of a value is taken for a product of independent ones
    magnitude = float(np.sqrt(np.mean(np.square(values))))
    assert magnitude / 1.5 < size.value < 1.5 * magnitude
    seen = float(np.sqrt(np.mean(np.square(errors))))
    # float64 rounds where there is no other noise
    assert seen / BELOW <= size.error + 1e-15
    assert size.error <= ABOVE * seen + 1e-15


def test_rounding_of_plaintexts_is_noise(world: World) -> None:
    backend = TrackingBackend(world.parameters)
    values, scale = np.random.default_rng(0).uniform(-1, 1, 64), 2.0**12
    plain = backend.encode(values, 2, scale)
    assert (plain.limbs, plain.scale, plain.period) == (2, scale, 64)
    shifted = world.backend.multiply_plain(world.encrypt(np.ones(64), 3), world.backend.encode(values, 3, scale))
    seen = np.sqrt(np.mean(np.square(world.decrypt(shifted)[:64] - values)))
    assert seen / 1.5 < backend.size(plain).error < 1.5 * seen
    assert backend.size(plain).value == pytest.approx(np.sqrt(np.mean(values**2)))


@pytest.mark.parametrize(("value", "scale", "error"), [(1.0, 2.0**16, 0.0), (-3.0, 2.0, 0.0), (0.3, 1.0, 0.3)])
def test_a_constant_errs_by_its_own_rounding(value: float, scale: float, error: float) -> None:
    backend = TrackingBackend(insecure_test_parameters(64, 3))
    assert backend.size(backend.encode(np.array([value]), 3, scale)).error == pytest.approx(error / scale)


def test_rounding_of_plaintexts_is_left_out_of_what_must_be_hidden() -> None:
    backend = TrackingBackend(insecure_test_parameters(64, 3))
    plain = backend.encode(np.random.default_rng(0).uniform(-1, 1, 32), 2, 2.0**12)
    assert backend.size(plain).noise == 0 < backend.size(plain).rounding


SIZES = st.builds(Size, *[st.floats(1e-9, 1e3)] * 3)


@given(SIZES, SIZES)
def test_rounding_changes_neither_noise_nor_the_error_of_both(a: Size, b: Size) -> None:
    """Followed apart, they are what each would be followed alone."""
    apart = (a * b + b).times(3.0).with_noise(2.0)
    hidden = (Size(a.value, a.noise) * Size(b.value, b.noise) + Size(b.value, b.noise)).times(3.0).with_noise(2.0)
    together = (Size(a.value, a.error) * Size(b.value, b.error) + Size(b.value, b.error)).times(3.0).with_noise(2.0)
    assert apart.noise == pytest.approx(hidden.noise, rel=1e-12)
    assert apart.error == pytest.approx(together.noise, rel=1e-12)
    assert apart.value == pytest.approx(hidden.value, rel=1e-12)


# counts


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("period", [8, 512])
def test_counts_and_rotations_are_those_of_the_calls(name: str, period: int) -> None:
    """The same program on the simulation, whose calls are counted, and on the evaluator of sizes."""
    parameters = insecure_test_parameters(1 << 10, 4)
    simulated = World.of("clear", parameters, ROTATIONS)
    counted, run = Counted(simulated.backend), OPERATIONS[name]
    x = np.linspace(-1, 1, period)
    run(counted, *[simulated.encrypt(x)] * 3, counted.encode(x, 4))
    tracking = TrackingBackend(parameters)
    a = tracking.ciphertext(Size(1.0, 0.0), 4, parameters.scale, period)
    run(tracking, a, a, a, tracking.encode(x, 4))
    assert +tracking.counts == +counted.counts
    assert tracking.rotations == simulated.backend.used_rotations


# what is refused


def test_the_rules_of_all_evaluators_hold(world: World) -> None:
    backend, (x, *_) = fresh(world)
    with pytest.raises(LevelError, match="drop_limbs"):
        backend.add(x, backend.drop_limbs(x, 2))
    with pytest.raises(ParameterError, match="rescale one"):
        backend.add(x, backend.reread(x, scale=2 * x.scale))
    with pytest.raises(ParameterError, match="only after a product"):
        backend.rescale(x)
    with pytest.raises(LevelError, match="rescale or refresh"):
        low = backend.drop_limbs(x, 1)
        backend.multiply(low, low)
    with pytest.raises(ParameterError, match="no pairs"):
        backend.multiply_accumulate([])
    with pytest.raises(ParameterError, match="no parts"):
        backend.rotate_and_sum({})
    with pytest.raises(LevelError):
        backend.ciphertext(Size(1.0, 0.0), 5, x.scale, 8)


# the party


def simulated_party_noise(parameters: Parameters) -> dict[str, float]:
    """Of what the simulated parties make of zeros without noise: standard deviation of a slot."""

    def program(collective: Any) -> dict[str, float]:
        party = ClearParty(collective, parameters, statistical_bits=10, releases=1)
        zero = World(party.backend, KEY_ID).encrypt(np.zeros(512), parameters.refresh_limbs)
        root = [zero] if collective.is_root else None
        (refreshed,), (own,) = party.refresh(root, 1, parameters.scale, 512), party.refresh_own([zero])
        totals = party.sum([zero]) or []
        found = dict(zip(("refresh", "refresh_own", "sum"), (refreshed, own, *totals), strict=False))
        return {name: float(np.std(party.backend.export_ciphertext(c).values)) for name, c in found.items()}

    return run_parties(parameters.n_parties, program)[0]


def test_a_party_of_sizes_is_as_noisy_as_the_simulated_one() -> None:
    parameters = insecure_test_parameters(1 << 10, 4, n_parties=3, refresh_limbs=2)
    party = TrackingParty(parameters)
    low = party.backend.drop_limbs(party.encrypted(0.0, 0.0, parameters.scale, 512), 2)
    (total,), (refreshed,) = party.sum([low]), party.refresh([low], 1, parameters.scale, 512)
    (own,) = party.refresh_own([low])
    assert (total.limbs, refreshed.limbs, own.limbs) == (2, 4, 4)
    seen = simulated_party_noise(parameters)
    for name, found in {"sum": total, "refresh": refreshed, "refresh_own": own}.items():
        assert seen[name] / BELOW < party.backend.size(found).noise < BELOW * seen[name]
    # a refresh of the root's ciphertext, and one of a ciphertext of each of three parties
    shares = {("mask", 2): 1 + 3, ("fresh", 4): 1 + 3, ("lift", 4): 1 + 1}
    assert party.counts == {("rerandomise", 2): 2, **shares}
    # the values of all parties may have one sign
    assert party.backend.size(party.sum([party.encrypted(2.0, 0.0, parameters.scale, 8)])[0]).value == 6.0


def test_what_a_party_of_sizes_does_not_follow_is_refused() -> None:
    party = TrackingParty(insecure_test_parameters(1 << 10, 4, refresh_limbs=2))
    zero = party.encrypted(0.0, 0.0, party.parameters.scale, 8)
    with pytest.raises(LevelError, match="of 2 limbs, got 4"):
        party.refresh([zero], 1, zero.scale, 8)
    with pytest.raises(LevelError, match="of 2 limbs, got 4"):
        party.refresh_own([zero])


def test_a_map_on_the_way_of_a_refresh_is_followed() -> None:
    party = TrackingParty(insecure_test_parameters(1 << 10, 4, refresh_limbs=2))
    low = party.backend.drop_limbs(party.encrypted(1.0, 1e-6, party.parameters.scale, 8), 2)
    turned, doubled = party.refresh_own(
        [low], [RefreshOutput(0, SlotMap.rotation(8, 1)), RefreshOutput(0, SlotMap.matrix(2.5 * np.eye(8)))]
    )
    assert (turned.limbs, doubled.limbs) == (4, 3)
    assert party.backend.size(turned).value == pytest.approx(1.0)
    assert party.backend.size(doubled).value == pytest.approx(2.5)
    assert party.backend.size(doubled).noise == pytest.approx(2.5 * party.backend.size(turned).noise, rel=0.5)
