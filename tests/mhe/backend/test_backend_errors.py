"""What all evaluators refuse, and with which error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mhe.errors import KeyMismatchError, LevelError, ParameterError
from tests.evaluators import Floats, World
from tests.mhe.backend.conftest import insecure_parameters

X: Floats = np.linspace(-1, 1, 512, dtype=np.float64)


def test_operands_of_different_limbs(world: World) -> None:
    a, b = world.encrypt(X, 4), world.encrypt(X, 3)
    backend = world.backend
    operations: list[Callable[[], object]] = [
        lambda: backend.add(a, b),
        lambda: backend.multiply(a, b),
        lambda: backend.add_plain(a, backend.encode(X, 3)),
        lambda: backend.multiply_plain(a, backend.encode(X, 2)),
    ]
    for operation in operations:
        with pytest.raises(LevelError, match="drop_limbs"):
            operation()
    pairs = [(a, backend.encode(X, 4)), (b, backend.encode(X, 3))]
    with pytest.raises(LevelError, match="4 and 3 limbs"):
        backend.multiply_accumulate_plain(pairs)
    with pytest.raises(LevelError, match="4 and 3 limbs"):
        backend.multiply_accumulate([(a, a), (b, b)])
    with pytest.raises(LevelError, match="drop_limbs"):
        backend.multiply_accumulate([(a, a), (a, b)])
    with pytest.raises(LevelError, match="4 and 3 limbs"):
        backend.rotate_and_sum({0: a, 1: b})


def test_sums_of_different_scales(world: World) -> None:
    p, backend = world.parameters, world.backend
    a = world.encrypt(X)
    off = p.scale * (1 + 2.0**-25)
    with pytest.raises(ParameterError, match="rescale one"):
        backend.add(a, world.encrypt(X, scale=off))
    with pytest.raises(ParameterError, match="rescale one"):
        backend.add_plain(a, backend.encode(X, 4, off))
    pairs = [(a, backend.encode(X, 4)), (a, backend.encode(X, 4, off))]
    with pytest.raises(ParameterError, match="rescale one"):
        backend.multiply_accumulate_plain(pairs)
    with pytest.raises(ParameterError, match="rescale one"):
        backend.multiply_accumulate([(a, a), (a, world.encrypt(X, scale=off))])
    with pytest.raises(ParameterError, match="rescale one"):
        backend.rotate_and_sum({1: a, 0: world.encrypt(X, scale=off)})
    near = p.scale * (1 + 2.0**-32)
    assert backend.add(a, world.encrypt(X, scale=near)).scale == a.scale


def test_a_product_that_does_not_fit(world: World) -> None:
    low = world.backend.drop_limbs(world.encrypt(X), 1)
    with pytest.raises(LevelError, match="rescale or refresh"):
        world.backend.multiply(low, low)
    with pytest.raises(LevelError, match="rescale or refresh"):
        world.backend.multiply_accumulate([(low, low)])
    product = world.backend.multiply_plain(world.encrypt(X), world.backend.encode(X, 4))
    with pytest.raises(LevelError, match="keep more limbs"):
        world.backend.drop_limbs(product, 1)


def test_rescaling_without_limbs_or_product(world: World) -> None:
    with pytest.raises(LevelError, match="refresh"):
        world.backend.rescale(world.backend.drop_limbs(world.encrypt(X), 1))
    with pytest.raises(ParameterError, match="only after a product"):
        world.backend.rescale(world.encrypt(X))


@pytest.mark.parametrize("limbs", [0, -1, 5])
def test_limbs_out_of_range(world: World, limbs: int) -> None:
    with pytest.raises(LevelError):
        world.backend.drop_limbs(world.encrypt(X), limbs)
    with pytest.raises(LevelError):
        world.backend.encode(X, limbs)


@pytest.mark.parametrize(
    "values", [np.zeros(3), np.zeros(1024), np.zeros((2, 2)), np.array([np.inf]), np.array([np.nan, 0.0]), np.zeros(0)]
)
def test_values_that_cannot_be_encoded(world: World, values: Floats) -> None:
    with pytest.raises(ParameterError):
        world.backend.encode(values, 2)


def test_values_and_scales_that_overflow(world: World) -> None:
    with pytest.raises(LevelError):
        world.backend.encode(np.array([2.0**20]), 1)
    with pytest.raises(LevelError):
        world.backend.encode(X, 1, 2.0**70)
    with pytest.raises(ParameterError):
        world.backend.encode(X, 1, -1.0)
    with pytest.raises(LevelError):
        world.encrypt(X, 1, 2.0**60)


def test_unplanned_rotations(world: World) -> None:
    a = world.encrypt(X)
    with pytest.raises(KeyMismatchError, match=r"rotation 2 \(or -510\)"):
        world.backend.rotate(a, 2)
    with pytest.raises(KeyMismatchError, match="key plan"):
        world.backend.rotate_hoisted(a, [1, 7])
    with pytest.raises(KeyMismatchError, match=r"rotation 7 \(or -505\)"):
        world.backend.rotate_and_sum({0: a, 1: a, 7: a})


def test_no_keys(keyless: World) -> None:
    a = keyless.encrypt(X)
    with pytest.raises(KeyMismatchError, match="relinearisation"):
        keyless.backend.multiply(a, a)
    with pytest.raises(KeyMismatchError):
        keyless.backend.rotate(a, 1)
    with pytest.raises(KeyMismatchError, match="no conjugation key"):
        keyless.backend.conjugate(a)
    with pytest.raises(KeyMismatchError, match="no conjugation key"):
        keyless.backend.parts(a)


def test_closing_forgets_the_keys(world: World) -> None:
    a = world.encrypt(X)
    world.backend.close()
    world.backend.close()
    with pytest.raises(KeyMismatchError):
        world.backend.multiply(a, a)
    with pytest.raises(KeyMismatchError):
        world.backend.rotate(a, 1)
    with pytest.raises(KeyMismatchError):
        world.backend.conjugate(a)


def test_a_ciphertext_under_another_key(world: World) -> None:
    a = world.encrypt(X)
    stranger = type(a)(a.handle, a.limbs, a.scale, a.period, "another")
    operations: list[Callable[[], object]] = [
        lambda: world.backend.export_ciphertext(stranger),
        lambda: world.backend.add(stranger, a),
        lambda: world.backend.rotate(stranger, 1),
        lambda: world.backend.conjugate(stranger),
        lambda: world.backend.times_i(stranger),
        lambda: world.backend.rotate_and_sum({0: a, 1: stranger}),
        lambda: world.backend.multiply_accumulate([(a, a), (a, stranger)]),
    ]
    for operation in operations:
        with pytest.raises(KeyMismatchError, match="another"):
            operation()
    external = world.backend.export_ciphertext(a)
    object.__setattr__(external, "key_id", "another")
    with pytest.raises(KeyMismatchError, match="another"):
        world.backend.import_ciphertext(external, 512)


def test_rereading_at_other_periods(world: World) -> None:
    a = world.encrypt(X)
    for period in (0, 24, 1024):
        with pytest.raises(ParameterError):
            world.backend.reread(a, period=period)
    for scale in (0.0, -1.0, float("inf")):
        with pytest.raises(ParameterError):
            world.backend.reread(a, scale=scale)


def test_empty_sums(world: World) -> None:
    with pytest.raises(ParameterError, match="no pairs"):
        world.backend.multiply_accumulate_plain([])
    with pytest.raises(ParameterError, match="no pairs"):
        world.backend.multiply_accumulate(iter([]))
    with pytest.raises(ParameterError, match="no parts"):
        world.backend.rotate_and_sum({})


def test_matrices_that_do_not_fit_their_vector(world: World) -> None:
    backend, a = world.backend, world.encrypt(X)
    plain, low = backend.encode(X, 4), backend.encode(X, 3)
    off = backend.encode(X, 4, world.parameters.scale * (1 + 2.0**-25))
    for matrix, vector in (([], [a]), ([[]], []), ([[plain]], [a, a]), ([[plain, plain], [plain]], [a, a])):
        with pytest.raises(ParameterError, match="at least one row"):
            backend.multiply_matrix_plain(matrix, vector)
    with pytest.raises(LevelError, match="drop_limbs"):
        backend.multiply_matrix_plain([[plain, plain], [plain, low]], [a, a])
    with pytest.raises(ParameterError, match="rescale one"):
        backend.multiply_matrix_plain([[plain, off]], [a, a])


def test_the_scale_tolerance_covers_the_chain() -> None:
    """The reason for SCALE_TOLERANCE: a rescaled product may be added to a fresh ciphertext at 50-bit scales."""
    p = insecure_parameters()
    assert all(abs(q / p.scale - 1) < 2.0**-30 for q in p.moduli[1:])
