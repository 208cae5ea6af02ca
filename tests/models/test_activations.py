"""Polynomials in place of the sigmoid: each the best of its kind, and evaluated exactly at the lowest depth."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import chebyshev, legendre, polynomial

from mhe.errors import LevelError, ParameterError
from mhe.security import key_error_std, key_switch_std, rounding_std, tail
from models.activations import Polynomial, approximate, evaluate, sigmoid
from tests.evaluators import EVALUATORS, World, parameters_of
from tests.insecure import clear_backend, clear_ciphertext

INTERVALS = [(-8.0, 8.0), (-16.0, 16.0), (-20.0, 20.0), (-2.0, 2.0), (-3.0, 10.0), (-10.0, 1.0)]
DEGREES = range(1, 16)
GAUSS = legendre.leggauss(400)


@lru_cache(maxsize=256)
def approximated(degree, interval, method):
    return approximate(sigmoid, degree, interval, method)


def extrema(errors):
    """The largest error of every run of equal sign."""
    runs = np.split(errors, np.flatnonzero(np.diff(errors > 0)) + 1)
    return np.array([run[np.abs(run).argmax()] for run in runs])


def dense(interval, n=20_001):
    """Points of the interval, closer together towards its ends."""
    low, high = interval
    return (low + high) / 2 - (high - low) / 2 * np.cos(np.linspace(0, np.pi, n))


# approximation


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("degree", DEGREES)
def test_minimax_error_equioscillates(degree, interval):
    """No polynomial of the degree errs by less than degree + 2 alternating errors do (de la Vallée-Poussin)."""
    found = approximated(degree, interval, "minimax")
    u = dense(interval)
    peaks = np.abs(extrema(found(u) - sigmoid(u)))
    assert len(peaks) >= degree + 2
    bound = max(peaks[i : i + degree + 2].min() for i in range(len(peaks) - degree - 1))
    assert bound > 0.995 * found.max_error


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("degree", DEGREES)
def test_least_squares_satisfies_the_normal_equations(degree, interval):
    """The error is orthogonal to every polynomial of the degree, in an integration rule of its own."""
    found = approximated(degree, interval, "least_squares")
    nodes, weights = GAUSS
    low, high = interval
    u = (low + high) / 2 + (high - low) / 2 * nodes
    error = found(u) - sigmoid(u)
    np.testing.assert_allclose(chebyshev.chebvander(nodes, degree).T @ (weights * error), 0, atol=1e-10)


@pytest.mark.parametrize("method", ["least_squares", "minimax"])
@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("degree", [1, 3, 4, 7, 15])
def test_reported_error_is_the_largest_on_the_interval(degree, interval, method):
    found = approximated(degree, interval, method)
    u = np.random.default_rng(degree).uniform(*interval, 200_000)
    largest = np.abs(found(np.append(u, interval)) - sigmoid(np.append(u, interval))).max()
    assert largest == pytest.approx(found.max_error, rel=1e-4)


def test_each_method_is_better_in_its_own_norm():
    for interval in INTERVALS:
        for degree in (2, 3, 5, 7):
            squares, minimax = (approximated(degree, interval, m) for m in ("least_squares", "minimax"))
            assert minimax.max_error < squares.max_error
            nodes, weights = GAUSS
            u = (interval[0] + interval[1]) / 2 + (interval[1] - interval[0]) / 2 * nodes
            a, b = (weights @ (p(u) - sigmoid(u)) ** 2 for p in (squares, minimax))
            assert a < b


def test_known_coefficients():
    """Kim, Song, Kim, Lee, Cheon, BMC Medical Genomics 2018, Section 3.2: g3, g7 on [-8, 8]."""
    g3 = approximated(3, (-8.0, 8.0), "least_squares").coefficients
    np.testing.assert_allclose(g3, [0.5, 1.20096, 0, -0.81562], atol=1e-5)
    g7 = approximated(7, (-8.0, 8.0), "least_squares").coefficients
    np.testing.assert_allclose(g7, [0.5, 1.73496, 0, -4.19407, 0, 5.43402, 0, -2.50739], atol=4e-3)


@pytest.mark.parametrize("method", ["least_squares", "minimax"])
@pytest.mark.parametrize("degree", range(2, 32))
def test_an_odd_function_costs_no_even_terms(degree, method):
    found = approximated(degree, (-8.0, 8.0), method)
    assert found.degree == degree - (degree + 1) % 2
    assert all(c == 0 for c in found.coefficients[2::2])
    assert found.coefficients[0] == pytest.approx(0.5)


@pytest.mark.parametrize("method", ["least_squares", "minimax"])
def test_more_degrees_are_never_worse(method):
    for interval in INTERVALS:
        errors = [approximated(degree, interval, method).max_error for degree in (1, 3, 5, 7, 9, 11, 13, 15)]
        assert errors == sorted(errors, reverse=True)


def test_a_polynomial_approximates_itself():
    def cubic(u):
        return 1 - 2 * u + 0.5 * u**3

    for method in ("least_squares", "minimax"):
        found = approximate(cubic, 3, (-4, 2), method)
        np.testing.assert_allclose(found.coefficients, [1, -8, 0, 32], atol=1e-9)
        assert found.max_error < 1e-9


def test_sigmoid_neither_overflows_nor_loses_its_tails():
    u = np.array([-800.0, -30.0, 0.0, 30.0, 800.0])
    with np.errstate(all="raise"):
        np.testing.assert_allclose(sigmoid(u), [0, 1 / (1 + math.e**30), 0.5, 1 - 1 / (1 + math.e**30), 1], atol=1e-15)


@pytest.mark.parametrize(
    ("degree", "interval", "method", "said"),
    [
        (0, (-8, 8), "minimax", "polynomial degree is 0; need 1 to 31"),
        (32, (-8, 8), "minimax", "polynomial degree is 32; need 1 to 31"),
        (3, (8, -8), "minimax", r"interval \[8, -8\] is empty; need low < high"),
        (3, (1, 1), "minimax", "is empty"),
        (3, (-8, 8), "taylor", "method is 'taylor'; need 'least_squares' or 'minimax'"),
    ],
)
def test_impossible_approximations_are_refused(degree, interval, method, said):
    with pytest.raises(ParameterError, match=said):
        approximate(sigmoid, degree, interval, method)


# the polynomial itself


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=16), st.floats(0.5, 30), st.integers(0, 2**32))
def test_polynomial(coefficients, width, seed):
    p = Polynomial(tuple(coefficients), (-width, width / 2), 0.0)
    u = np.random.default_rng(seed).uniform(-width, width / 2, 50)
    expected = sum(c * (u / width) ** k for k, c in enumerate(coefficients))
    np.testing.assert_allclose(p(u), expected, atol=1e-12)
    np.testing.assert_array_equal(p.times(-1.0)(u), -p(u))
    assert p.depth == math.ceil(math.log2(p.degree + 1))
    grid = np.linspace(-width, width / 2, 20_001)
    steepest = np.abs(np.diff(p(grid)) / np.diff(grid)).max()
    assert p.largest_slope == pytest.approx(steepest, rel=0.02, abs=1e-9)


# evaluation


def random_polynomial(degree, seed=0, interval=(-5.0, 8.0)):
    coefficients = np.random.default_rng([degree, seed]).uniform(-1.5, 1.5, degree + 1)
    return Polynomial(tuple(map(float, coefficients)), interval, 0.0)


def polynomials():
    for degree in DEGREES:
        yield random_polynomial(degree)
        yield approximated(degree, (-8.0, 8.0), "least_squares")
        yield approximated(degree, (-3.0, 10.0), "minimax")
        # all but the highest power missing
        yield Polynomial((*[0.0] * degree, 1.0), (-8, 8), 0.0)


@pytest.mark.parametrize("spare", [0, 2])
def test_evaluation_is_exact_at_the_depth_of_the_degree(spare):
    for poly in polynomials():
        backend = clear_backend(64, n_limbs=poly.depth + 1 + spare, noise=False)
        u = np.random.default_rng(1).uniform(*poly.interval, 64)
        scale = 1.7 * 2.0**44
        found = evaluate(backend, clear_ciphertext(backend, u, scale=2.0**45 / poly.half_width), poly, scale)
        assert found.limbs == 1 + spare
        assert poly.depth == math.ceil(math.log2(poly.degree + 1))
        assert found.scale == pytest.approx(scale, rel=1e-12)
        rounding = 1e-13 * np.abs(poly.coefficients).sum()
        np.testing.assert_allclose(backend.export_ciphertext(found).values[0], poly(u), rtol=0, atol=rounding)


def test_a_mask_costs_no_level_and_leaves_nothing_elsewhere():
    for poly in polynomials():
        backend = clear_backend(64, n_limbs=poly.depth + 1, noise=False)
        mask = (np.arange(64) % 8 < 2).astype(float)
        # what stands in other slots may be out of the interval
        u = np.random.default_rng(1).uniform(*poly.interval, 64) * (3 - 2 * mask)
        encrypted = clear_ciphertext(backend, u, scale=2.0**45 / poly.half_width)
        found = evaluate(backend, encrypted, poly, 2.0**45, mask)
        assert found.limbs == 1
        rounding = 1e-13 * 3**poly.degree * np.abs(poly.coefficients).sum()
        slots = backend.export_ciphertext(found).values[0]
        np.testing.assert_allclose(slots, mask * poly(u), rtol=0, atol=rounding)
        assert not slots[mask == 0].any()


@pytest.fixture(scope="module", params=EVALUATORS)
def world(request):
    made = World.of(request.param, parameters_of(request.param, 1 << 10, 6))
    yield made
    made.backend.close()


@pytest.mark.parametrize("degree", DEGREES)
def test_evaluation_with_noise_stays_within_its_bound(degree, world):
    """Every product and rescale errs by at most e; the error of t^k is at most k e, and sums add theirs up.

    That holds with t = u / half_width at the default scale: otherwise the scales of its powers drift apart.
    """
    poly = random_polynomial(degree, seed=1)
    p = world.parameters
    u = np.random.default_rng(2).uniform(*poly.interval, 512)
    encrypted = world.encrypt(u, scale=p.scale / poly.half_width)
    error = np.abs(world.decrypt(evaluate(world.backend, encrypted, poly, p.scale)) - poly(u)).max()
    steps = math.hypot(rounding_std(p.ring_dim, 1), key_switch_std(p, p.n_limbs, key_error_std(1)))
    # 2 for the two error terms of a product, of which the larger has this deviation; one more for the last rescale
    gain = 1 + 2 * sum(k * abs(c) for k, c in enumerate(poly.coefficients))
    bound = gain * tail(512) * math.sqrt(p.n_slots) * steps / p.scale
    assert bound / 1000 < error < bound


def test_evaluation_reads_the_interval_from_the_scale():
    """u / half_width costs neither a level nor an operation: the same slots, another scale."""
    backend = clear_backend(64, n_limbs=4, noise=False)
    u = np.linspace(-20, 20, 64)
    poly = approximated(3, (-20.0, 20.0), "least_squares")
    found = evaluate(backend, clear_ciphertext(backend, u, scale=2.0**41), poly, 2.0**40)
    np.testing.assert_allclose(backend.export_ciphertext(found).values[0], poly(u), atol=1e-9)


@pytest.mark.parametrize("degree", [1, 3, 15])
def test_too_few_limbs_are_refused(degree):
    poly = random_polynomial(degree)
    backend = clear_backend(64, n_limbs=6, noise=False)
    u = clear_ciphertext(backend, np.zeros(64), limbs=poly.depth)
    with pytest.raises(LevelError):
        evaluate(backend, u, poly, 2.0**40)


def test_largest_slope_of_the_cubic_sigmoid():
    poly = approximated(3, (-8.0, 8.0), "least_squares")
    derivative = polynomial.polyder(poly.coefficients)
    assert poly.largest_slope == pytest.approx(abs(derivative.sum()) / 8)
