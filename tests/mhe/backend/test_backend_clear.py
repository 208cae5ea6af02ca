"""What only the clear evaluator does: simulated errors of the right size, and a record of rotations."""

from __future__ import annotations

import numpy as np
import pytest

from mhe.backend.clear import ClearBackend, ClearCiphertext
from mhe.ciphertext import Ciphertext
from mhe.errors import KeyMismatchError, LevelError, ParameterError
from mhe.security import key_error_std, key_switch_std, rounding_std
from tests.evaluators import Floats, World
from tests.mhe.backend.conftest import KEY, ROTATIONS, insecure_parameters

X = np.random.default_rng(3).uniform(-1, 1, 512)


def load(backend: ClearBackend, values: Floats = X, limbs: int = 4) -> Ciphertext:
    external = ClearCiphertext(values[None], limbs, backend.parameters.scale, KEY)
    return backend.import_ciphertext(external, len(values))


def test_without_noise_it_is_numpy() -> None:
    backend = ClearBackend(insecure_parameters(), KEY, noise=False)
    a = load(backend)
    product = backend.rescale(backend.multiply(a, backend.rotate(a, 5)))
    total = backend.add_plain(product, backend.encode(X, 3, product.scale))
    np.testing.assert_array_equal(backend.export_ciphertext(total).values[0], X * np.roll(X, -5) + X)


def test_the_callers_array_is_neither_kept_nor_frozen() -> None:
    backend = ClearBackend(insecure_parameters(), KEY, noise=False)
    values = X.copy()
    a, b = load(backend, values), backend.encode(values, 4)
    values[:] = 0
    np.testing.assert_array_equal(backend.export_ciphertext(backend.add_plain(a, b)).values[0], 2 * X)


def test_the_same_seed_gives_the_same_errors() -> None:
    first, second, other = (ClearBackend(insecure_parameters(), KEY, seed=seed) for seed in (1, 1, 2))
    results = [b.export_ciphertext(b.rotate(load(b), 1)).values for b in (first, second, other)]
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()


def test_errors_have_the_width_of_the_closed_forms() -> None:
    p = insecure_parameters()
    backend = ClearBackend(p, KEY)
    slot = np.sqrt(p.n_slots)
    a = load(backend)

    rotated = backend.export_ciphertext(backend.rotate(a, 1)).values[0] - np.roll(X, -1)
    assert rotated.std() == pytest.approx(key_switch_std(p, 4, key_error_std(1)) * slot / p.scale, rel=0.15)

    product = backend.multiply_plain(a, backend.encode(np.ones(1), 4, p.scale))
    exact = backend.export_ciphertext(product).values[0]
    rescaled = backend.rescale(product)
    error = backend.export_ciphertext(rescaled).values[0] - exact
    assert error.std() == pytest.approx(rounding_std(p.ring_dim, 1) * slot / rescaled.scale, rel=0.15)

    encoded = backend.encode(X, 4).handle - X
    assert encoded.std() == pytest.approx(np.sqrt(512 / 6) / p.scale, rel=0.15)


def test_the_record_of_rotations() -> None:
    backend = ClearBackend(insecure_parameters(), KEY, frozenset({1, -1, 512}))
    a = load(backend)
    backend.rotate(a, 1)
    backend.rotate_hoisted(a, [0, 511])
    assert backend.loaded_rotations == {1, 511}
    assert backend.used_rotations == {1, 511}
    backend.load_rotation_key(4)
    backend.rotate(a, 4)
    assert backend.used_rotations == {1, 4, 511}
    with pytest.raises(KeyMismatchError):
        backend.rotate(a, 2)
    assert 2 not in backend.used_rotations


def test_all_rotations_are_allowed_while_planning() -> None:
    backend = ClearBackend(insecure_parameters(), KEY)
    a = load(backend, X[:16])
    for rotation in range(17):
        backend.rotate(a, rotation)
    assert backend.used_rotations == set(range(1, 16))


def test_slot_values_that_wrap_around() -> None:
    backend = ClearBackend(insecure_parameters(), KEY, noise=False)
    with pytest.raises(LevelError, match="wrap around"):
        load(backend, np.full(4, 2.0**10), limbs=1)


def test_a_ciphertext_of_more_rows_is_refused() -> None:
    with pytest.raises(ParameterError):
        ClearCiphertext(np.zeros((2, 4)), 1, 2.0**50, KEY)


def _rms_errors(world: World) -> dict[str, float]:
    """Root mean square error over the slots, in the coefficients' unit."""
    backend, p = world.backend, world.parameters
    a = world.encrypt(X)
    before = world.decrypt(a)
    product = backend.multiply_plain(a, backend.encode(np.ones(1), 4))
    rescaled = backend.rescale(product)
    errors = {
        "rescale": (world.decrypt(rescaled) - world.decrypt(product)) * rescaled.scale,
        "rotate": (world.decrypt(backend.rotate(a, ROTATIONS[0])) - np.roll(before, -ROTATIONS[0])) * p.scale,
    }
    return {name: float(np.sqrt(np.mean(e**2) / p.n_slots)) for name, e in errors.items()}


def test_rescaling_errors_are_those_of_the_closed_form(world: World) -> None:
    p = world.parameters
    assert _rms_errors(world)["rescale"] == pytest.approx(rounding_std(p.ring_dim, 1), rel=0.2)


@pytest.mark.parametrize("evaluator", ["native"], indirect=True)
def test_native_rotation_errors_stay_below_the_closed_form(world: World) -> None:
    """Its division by P rounds to nearest: what is left is a rounding and the key's error."""
    p = world.parameters
    assert (
        rounding_std(p.ring_dim, 1) / 1.3
        < _rms_errors(world)["rotate"]
        < key_switch_std(p, p.n_limbs, key_error_std(1))
    )


@pytest.mark.parametrize("evaluator", ["openfhe", "clear"], indirect=True)
def test_rotation_errors_are_those_of_a_division_that_rounds_down(world: World) -> None:
    """OpenFHE's division by P errs by a sum of k uniform terms on [0, 1), k special moduli: its mean is k/2, not 0."""
    p = world.parameters
    k = len(p.special_moduli)
    expected = rounding_std(p.ring_dim, 1) * np.sqrt(12 * (k / 12 + k**2 / 4))
    got = _rms_errors(world)["rotate"]
    assert expected / 3 < got < 3 * expected
