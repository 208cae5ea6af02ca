"""Every operation of all evaluators against numpy."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mhe.ciphertext import Ciphertext
from mhe.encoding import decode_coefficients
from tests import oracle
from tests.evaluators import REAL, Floats, World
from tests.mhe.backend.conftest import ROTATIONS

RANDOM = np.random.default_rng(7)


def vector(period: int) -> Floats:
    return RANDOM.uniform(-1, 1, period)


@pytest.mark.parametrize("period", [1, 8, 512])
def test_import_and_export_are_inverse(world: World, period: int) -> None:
    x = vector(period)
    for limbs in range(2, world.parameters.n_limbs + 1):
        a = world.encrypt(x, limbs)
        assert (a.limbs, a.scale, a.period) == (limbs, world.parameters.scale, period)
        world.check(a, x)


@pytest.mark.parametrize(("p", "q"), [(512, 512), (16, 16), (8, 64), (512, 1)])
def test_add(world: World, p: int, q: int) -> None:
    x, y = vector(p), vector(q)
    total = world.backend.add(world.encrypt(x), world.encrypt(y))
    assert total.period == max(p, q)
    world.check(total, np.resize(x, max(p, q)) + np.resize(y, max(p, q)), 2)


@pytest.mark.parametrize(("p", "q"), [(512, 512), (16, 16), (8, 64), (512, 1), (1, 512)])
@pytest.mark.parametrize("limbs", [2, 4])
def test_plaintext_operations(world: World, p: int, q: int, limbs: int) -> None:
    x, y = vector(p), vector(q)
    full = max(p, q)
    a, b = world.encrypt(x, limbs), world.backend.encode(y, limbs)
    assert (b.limbs, b.period, b.scale) == (limbs, q, world.parameters.scale)
    total = world.backend.add_plain(a, b)
    assert total.period == full
    world.check(total, np.resize(x, full) + np.resize(y, full), 2)
    product = world.backend.multiply_plain(a, b)
    assert product.scale == a.scale * b.scale
    assert product.limbs == limbs
    rescaled = world.backend.rescale(product)
    assert rescaled.limbs == limbs - 1
    assert rescaled.scale == product.scale / world.parameters.moduli[limbs - 1]
    world.check(rescaled, np.resize(x, full) * np.resize(y, full), 3)


def test_a_plaintext_is_encoded_at_any_scale(world: World) -> None:
    x, y = vector(64), vector(64)
    a = world.encrypt(x)
    for scale in (2.0**30, 2.0**37.5, 2.0**60):
        product = world.backend.multiply_plain(a, world.backend.encode(y, 4, scale))
        assert product.scale == a.scale * scale
        error = np.abs(world.decrypt(product) - np.tile(x * y, 8)).max()
        assert error < world.bound(1) + world.bound(1, scale)
    squared = world.backend.multiply_plain(a, world.backend.encode(y, 4))
    shifted = world.backend.add_plain(squared, world.backend.encode(x, 4, squared.scale))
    world.check(shifted, x * y + x, 2)


@pytest.mark.parametrize("magnitude", [0.0, 2.0**-60, 2.0**-50, 2.0**-49, 2.0**-30, 100.0])
def test_tiny_and_large_plaintexts(world: World, magnitude: float) -> None:
    x = vector(512)
    values = magnitude * vector(512)
    world.check(world.backend.add_plain(world.encrypt(x), world.backend.encode(values, 4)), x + values, 2)


def test_multiply_accumulate(world: World) -> None:
    xs, ys = [vector(512) for _ in range(5)], [vector(32) for _ in range(5)]
    pairs = ((world.encrypt(x), world.backend.encode(y, 4)) for x, y in zip(xs, ys, strict=True))
    total = world.backend.multiply_accumulate_plain(pairs)
    expected = np.sum([x * np.tile(y, 16) for x, y in zip(xs, ys, strict=True)], axis=0)
    assert (total.limbs, total.scale, total.period) == (4, world.parameters.scale**2, 512)
    world.check(world.backend.rescale(total), expected, 12)


@pytest.mark.parametrize(("rows", "terms"), [(1, 1), (3, 2), (2, 4), (2, 7), (1, 21)])
@pytest.mark.parametrize("limbs", [2, 4])
def test_multiply_a_matrix_by_a_vector(world: World, rows: int, terms: int, limbs: int) -> None:
    x, y = RANDOM.uniform(-1, 1, (terms, 512)), RANDOM.uniform(-1, 1, (rows, terms, 32))
    periods = [(8, 32, 512)[t % 3] for t in range(terms)]
    ciphertexts = [world.encrypt(x[t, :period], limbs) for t, period in enumerate(periods)]
    matrix = [[world.backend.encode(y[r, t], limbs) for t in range(terms)] for r in range(rows)]
    products = world.backend.multiply_matrix_plain(matrix, ciphertexts)
    assert len(products) == rows
    for r, product in enumerate(products):
        expected = sum(np.resize(x[t, :period], 512) * np.tile(y[r, t], 16) for t, period in enumerate(periods))
        assert (product.limbs, product.scale) == (limbs, world.parameters.scale**2)
        assert product.period == max(32, *periods)
        world.check(world.backend.rescale(product), np.asarray(expected)[: product.period], 2 + 2 * terms)
        pairs = zip(ciphertexts, matrix[r], strict=True)
        alone = world.backend.multiply_accumulate_plain(pairs)
        np.testing.assert_array_equal(world.decrypt(product), world.decrypt(alone))


def test_operands_are_not_changed(world: World) -> None:
    x, y = vector(512), vector(512)
    a, b, c = world.encrypt(x), world.encrypt(y), world.backend.encode(y, 4)
    before = [world.decrypt(z) for z in (a, b)]
    world.backend.add(a, b)
    world.backend.multiply(a, b)
    world.backend.multiply_accumulate([(a, b), (b, b)])
    world.backend.rescale(world.backend.multiply_accumulate_plain([(a, c), (b, c)]))
    world.backend.rotate_hoisted(a, [1, 3])
    world.backend.rotate_and_sum({0: a, 1: b, 512: b})
    world.backend.rotate_and_sum({0: a})
    world.backend.conjugate(a)
    world.backend.drop_limbs(a, 1)
    for then, z in zip(before, (a, b), strict=True):
        np.testing.assert_array_equal(world.decrypt(z), then)


@pytest.mark.parametrize("limbs", [2, 3, 4])
def test_multiply(world: World, limbs: int) -> None:
    x, y = vector(512), vector(512)
    product = world.backend.multiply(world.encrypt(x, limbs), world.encrypt(y, limbs))
    assert product.scale == world.parameters.scale**2
    world.check(world.backend.rescale(product), x * y, 4)


@pytest.mark.parametrize("count", [1, 2, 8, 9, 20])
@pytest.mark.parametrize("limbs", [2, 4])
def test_multiply_accumulate_of_ciphertexts(world: World, count: int, limbs: int) -> None:
    xs, ys = [vector(64) for _ in range(count)], [vector(512) for _ in range(count)]
    pairs = ((world.encrypt(x, limbs), world.encrypt(y, limbs)) for x, y in zip(xs, ys, strict=True))
    total = world.backend.multiply_accumulate(pairs)
    assert (total.limbs, total.scale, total.period) == (limbs, world.parameters.scale**2, 512)
    expected = np.sum([np.tile(x, 8) * y for x, y in zip(xs, ys, strict=True)], axis=0)
    world.check(world.backend.rescale(total), expected, 2 + 2 * count)


def test_a_later_pair_may_have_the_longer_period(world: World) -> None:
    x, y, z = vector(16), vector(512), vector(8)
    a, b, c = (world.encrypt(v) for v in (x, y, z))
    total = world.backend.multiply_accumulate([(c, a), (a, b), (c, c)])
    assert total.period == 512
    world.check(world.backend.rescale(total), np.tile(x * np.tile(z, 2) + np.tile(z**2, 2), 32) + np.tile(x, 32) * y, 8)


def test_pairs_of_ciphertexts_are_not_hoarded(world: World) -> None:
    """They are made on the fly: of many only a few may be alive at any time."""
    alive: weakref.WeakSet[Ciphertext] = weakref.WeakSet()
    most, a = 0, world.encrypt(vector(8))

    def pairs() -> Iterator[tuple[Ciphertext, Ciphertext]]:
        nonlocal most
        for _ in range(40):
            made = world.backend.reread(a, scale=a.scale)
            alive.add(made)
            most = max(most, len(alive))
            yield made, a

    world.backend.multiply_accumulate(pairs())
    assert most <= 12


def test_square_and_depth(world: World) -> None:
    x = vector(512)
    a = world.encrypt(x)
    expected, scale = x, a.scale
    for limbs in (3, 2):
        a = world.backend.rescale(world.backend.multiply(a, a))
        expected, scale = expected**2, scale**2 / world.parameters.moduli[limbs]
        assert (a.limbs, a.scale) == (limbs, scale)
        world.check(a, expected, 8)


@pytest.mark.parametrize("limbs", [1, 2, 3, 4])
def test_drop_limbs(world: World, limbs: int) -> None:
    x = vector(16)
    a = world.encrypt(x)
    dropped = world.backend.drop_limbs(a, limbs)
    assert (dropped.limbs, dropped.scale, dropped.period) == (limbs, a.scale, 16)
    world.check(dropped, x)


@pytest.mark.parametrize("rotation", [*ROTATIONS, 513, -511, 0, 512])
@pytest.mark.parametrize("period", [512, 64])
def test_rotate(world: World, rotation: int, period: int) -> None:
    x = vector(period)
    rotated = world.backend.rotate(world.encrypt(x), rotation)
    world.check(rotated, np.roll(x, -rotation), 2)


@pytest.mark.parametrize("limbs", [1, 4])
def test_hoisted_rotations(world: World, limbs: int) -> None:
    x = vector(512)
    a = world.encrypt(x, limbs)
    rotated = world.backend.rotate_hoisted(a, [0, 3, -1, 511, 16])
    assert set(rotated) == {0, 3, -1, 511, 16}
    assert rotated[0] is a
    for rotation, each in rotated.items():
        world.check(each, np.roll(x, -rotation), 2)
    assert set(world.backend.rotate_hoisted(a, [3])) == {3}
    assert world.backend.rotate_hoisted(a, []) == {}


@pytest.mark.parametrize("limbs", [1, 4])
@pytest.mark.parametrize("rotations", [(3,), (0,), (512,), (1, 16), (0, 1, 3, -1), (-1, 511, 0, 512, 16)])
def test_rotate_and_sum(world: World, rotations: tuple[int, ...], limbs: int) -> None:
    xs = {rotation: vector(512) for rotation in rotations}
    parts = {rotation: world.encrypt(x, limbs) for rotation, x in xs.items()}
    total = world.backend.rotate_and_sum(parts)
    assert (total.limbs, total.scale, total.period) == (limbs, world.parameters.scale, 512)
    world.check(total, np.sum([np.roll(x, -r) for r, x in xs.items()], axis=0), 2 * len(rotations))


def test_rotated_parts_of_different_periods(world: World) -> None:
    """A part whose period divides its rotation needs no key."""
    x, y, z = vector(8), vector(512), vector(64)
    total = world.backend.rotate_and_sum({24: world.encrypt(x), 3: world.encrypt(y), 16: world.encrypt(z)})
    assert total.period == 512
    world.check(total, np.tile(x, 64) + np.roll(y, -3) + np.tile(np.roll(z, -16), 8), 6)


def test_a_rotation_by_the_period_needs_no_key(world: World) -> None:
    a = world.encrypt(vector(8))
    assert world.backend.rotate(a, 24) is a


@pytest.mark.parametrize("limbs", [1, 4])
@pytest.mark.parametrize("period", [512, 16])
def test_real_slots_are_their_own_conjugates(world: World, period: int, limbs: int) -> None:
    x = vector(period)
    conjugated = world.backend.conjugate(world.encrypt(x, limbs))
    assert (conjugated.limbs, conjugated.scale, conjugated.period) == (limbs, world.parameters.scale, period)
    world.check(conjugated, x, 2)


@pytest.mark.parametrize("evaluator", REAL, indirect=True)
def test_complex_slots_are_conjugated(world: World) -> None:
    """The simulation has real slots only."""
    p, backend = world.parameters, world.backend
    base = oracle.cipher_ring(p)
    # any coefficients will do: the slots of a polynomial are complex, unless it is symmetric under X -> 1/X
    coefficients = RANDOM.integers(-(1 << 46), 1 << 46, p.ring_dim)
    z = complex_slots(coefficients, p.scale)
    assert np.abs(z.imag).max() > 0.5
    zero = oracle.encrypt(np.zeros(1), p, world.secret, world.key_id)
    a = backend.import_ciphertext(replace(zero, c0=base.add(zero.c0, oracle.as_residues(coefficients, base))), 512)

    def opened(ciphertext: Ciphertext) -> npt.NDArray[np.complex128]:
        external = backend.export_ciphertext(ciphertext)
        return complex_slots(np.array(oracle.message_integers(external, p, world.secret), dtype=float), external.scale)

    np.testing.assert_allclose(opened(backend.conjugate(a)), z.conj(), rtol=0, atol=world.bound(3))
    twice = backend.add(a, backend.conjugate(a))
    np.testing.assert_allclose(opened(twice), 2 * z.real, rtol=0, atol=world.bound(4))


@pytest.mark.parametrize("period", [512, 16])
def test_two_vectors_lie_in_one_ciphertext(world: World, period: int) -> None:
    """The real part of (x + iy)(u - iv) is x u + y v, and the imaginary part y u - x v."""
    backend = world.backend
    x, y, u, v = (vector(period) for _ in range(4))
    left, right = (
        backend.add(world.encrypt(a), backend.times_i(world.encrypt(b), power))
        for a, b, power in ((x, y, 1), (u, v, -1))
    )
    assert (left.limbs, left.scale, left.period) == (4, world.parameters.scale, period)
    for part, expected in zip(backend.parts(left), (x, y), strict=True):
        world.check(part, expected, 3)
    turned = backend.rotate(left, 1)
    for part, expected in zip(backend.parts(turned), (np.roll(x, -1), np.roll(y, -1)), strict=True):
        world.check(part, expected, 4)
    product = backend.multiply(left, right)
    for part, expected in zip(backend.parts(product), (x * u + y * v, y * u - x * v), strict=True):
        world.check(backend.rescale(part), expected, 8)


@pytest.mark.parametrize("power", [-1, 0, 1, 2, 3, 4])
def test_powers_of_the_imaginary_unit(world: World, power: int) -> None:
    x = vector(64)
    turned = world.backend.times_i(world.encrypt(x), power)
    real, imaginary = world.backend.parts(turned)
    world.check(real, (1, 0, -1, 0)[power % 4] * x, 2)
    world.check(imaginary, (0, 1, 0, -1)[power % 4] * x, 2)


def complex_slots(coefficients: npt.NDArray[Any], scale: float) -> npt.NDArray[np.complex128]:
    """X^(N/2) is i in every slot, so that the imaginary parts of a are the real parts of -X^(N/2) a."""
    low, high = np.split(coefficients, 2)
    turned = np.concatenate([high, -low])
    return decode_coefficients(coefficients, scale) + 1j * decode_coefficients(turned, scale)


def test_rereading(world: World) -> None:
    x = vector(8)
    a = world.encrypt(np.tile(x, 64))
    again = world.backend.reread(a, scale=a.scale * 4, period=8)
    assert (again.limbs, again.scale, again.period) == (4, a.scale * 4, 8)
    world.check(again, x / 4)
    world.check(world.backend.reread(a, scale=a.scale / 2), np.tile(2 * x, 64), 2)
    world.check(a, np.tile(x, 64))


def test_a_small_circuit(world: World) -> None:
    """A polynomial of a rotated sum, at mixed levels: 0.5 + 0.25 u - 0.1 u^2 with u = x + rotate(x, 3)."""
    x = vector(512)
    backend = world.backend
    a = world.encrypt(x)
    u = backend.add(a, backend.rotate(a, 3))
    square = backend.rescale(backend.multiply(u, u))
    quadratic = backend.rescale(backend.multiply_plain(square, backend.encode(np.array([-0.1]), 3)))
    # the linear term's factor is encoded so that both terms arrive at one scale
    low = backend.drop_limbs(u, 3)
    factor = backend.encode(np.array([0.25]), 3, quadratic.scale * world.parameters.moduli[2] / low.scale)
    total = backend.add(backend.rescale(backend.multiply_plain(low, factor)), quadratic)
    total = backend.add_plain(total, backend.encode(np.array([0.5]), total.limbs, total.scale))
    clear = x + np.roll(x, -3)
    world.check(total, 0.5 + 0.25 * clear - 0.1 * clear**2, 10)
