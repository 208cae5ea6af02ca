"""Polynomials in place of activations: chosen in the clear, evaluated under encryption at the lowest depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Chebyshev, chebyshev, polynomial
from numpy.polynomial import Polynomial as Power

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext
from mhe.errors import ParameterError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Polynomial:
    """p(u) = sum_k coefficients[k] * t^k with t = u / half_width, meant for u in `interval`.

    half_width: the larger end of the interval, so that |t| <= 1. max_error: largest distance from the approximated
    function on the interval.
    """

    coefficients: tuple[float, ...]
    interval: tuple[float, float]
    max_error: float

    @property
    def half_width(self) -> float:
        return max(abs(end) for end in self.interval)

    @property
    def degree(self) -> int:
        return len(self.coefficients) - 1

    @property
    def depth(self) -> int:
        """Levels that its evaluation consumes: ceil(log2(degree + 1))."""
        return self.degree.bit_length()

    @property
    def is_square(self) -> bool:
        """Whether it is a positive multiple of a square, and a constant: one level instead of two."""
        return self.degree == 2 and self.coefficients[2] > 0

    @property
    def levels(self) -> int:
        """Levels that `activate` consumes."""
        return self.degree - 1 if self.degree < 2 or self.is_square else self.depth

    @property
    def rounding_gain(self) -> float:
        """Standard deviation of an evaluation in which every rescale errs by 1: the largest on the interval.

        Follows `evaluate`, term by term.
        """
        t: Floats = np.asarray(np.linspace(*self.interval, 401), dtype=np.float64) / self.half_width
        values, variances = [t], [np.zeros_like(t)]
        while len(values) < self.depth:
            variances.append((2 * values[-1]) ** 2 * variances[-1] + 1)
            values.append(values[-1] ** 2)

        def variance(coefficients: tuple[float, ...]) -> Floats:
            if len(coefficients) <= 2:
                return np.ones_like(t)
            k = (len(coefficients) - 1).bit_length() - 1
            low, high = coefficients[: 1 << k], coefficients[1 << k :]
            total = polynomial.polyval(t, high) ** 2 * variances[k] + 1
            if len(high) > 1:
                total += values[k] ** 2 * variance(high)
            return np.asarray(total + variance(low) if len(low) > 2 else total, dtype=np.float64)

        return float(np.sqrt(variance(self.coefficients).max()))

    def __call__(self, u: Floats) -> Floats:
        return np.asarray(polynomial.polyval(np.asarray(u) / self.half_width, self.coefficients), dtype=np.float64)

    def times(self, factor: float) -> Polynomial:
        return Polynomial(tuple(factor * c for c in self.coefficients), self.interval, abs(factor) * self.max_error)

    @property
    def derivative(self) -> Polynomial:
        """dp/du."""
        slopes = polynomial.polyder(self.coefficients) / self.half_width
        return Polynomial(tuple(float(c) for c in slopes), self.interval, self.max_error)

    @property
    def largest_slope(self) -> float:
        """Largest |dp/du| on the interval, on a fine grid."""
        t = np.linspace(*self.interval, 2001) / self.half_width
        return float(np.abs(polynomial.polyval(t, polynomial.polyder(self.coefficients))).max()) / self.half_width


def sigmoid(u: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(u / 2)), dtype=np.float64)


def softplus(u: Floats) -> Floats:
    return np.logaddexp(0.0, u)


def tanh(u: Floats) -> Floats:
    return np.asarray(np.tanh(u), dtype=np.float64)


def exponential(u: Floats) -> Floats:
    return np.asarray(np.exp(u), dtype=np.float64)


def softmax_of_one(classes: int) -> Callable[[Floats], Floats]:
    """What softmax gives a class with output u while all others are 0: the function of one variable nearest to it."""
    others = np.log(max(classes - 1, 1))
    return lambda u: sigmoid(u - others)


def softmax(u: Floats) -> Floats:
    """Of the last axis."""
    powers = np.exp(u - u.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float64)


def quadratic_softmax(classes: int, interval: tuple[float, float]) -> Polynomial:
    """q(u) = (1 + u + u^2 / 2) / classes: where the u of all classes add up to 0,

        softmax(u)_c = q(u_c) - mean over classes of q + 1 / classes + O(u^3),

    and q(u_c) - y_c without its mean over classes is the gradient of the cross-entropy, to the same order. That adds up
    to 0 itself, and so do the outputs that are trained by it. The expansion of softmax at 0 to second order (its first
    order is the bound of Boehning, "Multinomial logistic regression algorithm", Ann. Inst. Statist. Math. 44 (1992), at
    0). max_error: of a class with output u among others that are alike.
    """
    width = max(-interval[0], interval[1])
    coefficients = tuple(c / classes for c in (1.0, width, width**2 / 2))
    u: Floats = np.asarray(np.linspace(*interval, 2001), dtype=np.float64)
    others = -u / max(classes - 1, 1)
    alone, rest = (polynomial.polyval(z / width, coefficients) for z in (u, others))
    found = alone - (alone + (classes - 1) * rest) / classes + 1 / classes
    error = np.abs(found - sigmoid(u - others - np.log(max(classes - 1, 1)))).max()
    return Polynomial(coefficients, interval, float(error))


def identity() -> Polynomial:
    return Polynomial((0.0, 1.0), (-1.0, 1.0), 0.0)


def square(interval: tuple[float, float]) -> Polynomial:
    """0.5 u + 0.125 u^2, which is itself everywhere: one level, and the interval only says what is expected of u."""
    width = max(-interval[0], interval[1])
    return Polynomial((0.0, 0.5 * width, 0.125 * width**2), interval, 0.0)


@lru_cache(maxsize=8)
def _legendre_nodes(n: int) -> tuple[Floats, Floats]:
    """Nodes and weights of Gauss and Legendre's quadrature: eigenvalues of a matrix of this size."""
    x, weight = np.polynomial.legendre.leggauss(n)
    x.flags.writeable = weight.flags.writeable = False
    return x, weight


def approximate(
    function: Callable[[Floats], Floats], degree: int, interval: tuple[float, float], method: str
) -> Polynomial:
    """The polynomial of this degree closest to `function` on the interval.

    method: "least_squares" (uniform weight; as in Kim et al., "Logistic regression model training based on the
    approximate homomorphic encryption", BMC Medical Genomics 2018) or "minimax" (smallest maximum error, Remez
    exchange). Raises ParameterError for an unknown method, a degree outside 1..31 or an empty interval.
    """
    low, high = interval
    if not 1 <= degree <= 31:
        raise ParameterError(f"polynomial degree is {degree}; need 1 to 31")
    if not low < high:
        raise ParameterError(f"the interval [{low}, {high}] is empty; need low < high")
    middle, radius = (low + high) / 2, (high - low) / 2

    def on_unit(x: Floats) -> Floats:
        return function(middle + radius * x)

    if method == "least_squares":
        x, weight = _legendre_nodes(max(200, 8 * degree))
        basis = chebyshev.chebvander(x, degree) * np.sqrt(weight)[:, None]
        series = np.linalg.lstsq(basis, on_unit(x) * np.sqrt(weight), rcond=None)[0]
    elif method == "minimax":
        series = _remez(on_unit, degree)
    else:
        raise ParameterError(f"approximation method is {method!r}; need 'least_squares' or 'minimax'")
    width = max(-low, high)
    ends: Floats = np.asarray(np.linspace(-1, 1, 201), dtype=np.float64)
    if np.ptp(on_unit(ends) + on_unit(-ends)) < 1e-12 * np.abs(on_unit(ends)).max():
        # a constant plus an odd function: what came out as its even part is rounding, and terms to evaluate
        series[2::2] = 0.0
    powers = Chebyshev(series, domain=[low, high]).convert(kind=Power, domain=[-width, width], window=[-1, 1]).coef
    kept = [float(c) for c in powers]
    while kept[-1] == 0.0 and len(kept) > 2:
        kept.pop()
    grid: Floats = np.asarray(np.linspace(low, high, 20001), dtype=np.float64)
    error = np.abs(polynomial.polyval(grid / width, kept) - function(grid)).max()
    return Polynomial(tuple(kept), (float(low), float(high)), float(error))


def _remez(function: Callable[[Floats], Floats], degree: int) -> Floats:
    """Chebyshev coefficients of the minimax polynomial on [-1, 1], by Remez exchange on a fine grid.

    Where the error of a reference has too few extrema to go on (an odd function on a symmetric one), the best
    polynomial so far is returned; the first reference is not symmetric, so that this does not happen at once.
    """
    grid = -np.cos(np.linspace(0, np.pi, 400 * (degree + 2) + 1))
    values = function(grid)
    basis = chebyshev.chebvander(grid, degree)
    reference = np.round(np.linspace(0, 1, degree + 2) ** 1.1 * (len(grid) - 1)).astype(int)
    signs = (-1.0) ** np.arange(degree + 2)
    best, smallest = np.zeros(degree + 1), np.inf
    for _ in range(50):
        system = np.column_stack([basis[reference], signs])
        solution = np.linalg.lstsq(system, values[reference], rcond=None)[0]
        error = values - basis @ solution[:-1]
        worst = int(np.abs(error).argmax())
        if abs(error[worst]) < smallest:
            best, smallest = solution[:-1], float(abs(error[worst]))
        if smallest <= abs(solution[-1]) * (1 + 1e-9):
            break
        # one extremum of each run of equal sign; of consecutive ones around the worst, those with the largest errors
        runs = np.split(np.arange(len(grid)), np.flatnonzero(np.diff(error > 0)) + 1)
        peaks = np.array([run[np.abs(error[run]).argmax()] for run in runs])
        starts = [i for i in range(len(peaks) - degree - 1) if peaks[i] <= worst <= peaks[i + degree + 1]]
        if not starts:
            break
        start = max(starts, key=lambda i: float(np.abs(error[peaks[i : i + degree + 2]]).min()))
        reference = peaks[start : start + degree + 2]
    return best


EVERYWHERE: Floats = np.ones(1)
"""The mask that leaves nothing out."""


def evaluate(backend: Backend, u: Ciphertext, poly: Polynomial, scale: float, mask: Floats = EVERYWHERE) -> Ciphertext:
    """p(u) at exactly this scale and u.limbs - poly.depth limbs where mask (period,) is 1, and 0 where it is 0.

    The mask costs no level: every term has a constant that is encoded anyway. What u holds beside it may be anything
    that its scale has room for.

    Splits p = q t^(2^k) + r, recursively, with t = u / half_width for free (only the scale is read differently);
    constants are encoded at whatever scale makes the terms agree, so that none costs a level (Paterson-Stockmeyer at
    minimal depth; the scale management of Bossuat et al., EUROCRYPT 2021, ePrint 2020/1203, Section 3).
    """
    t = backend.reread(u, scale=u.scale * poly.half_width)
    return _Evaluation(backend, t, mask).of(poly.coefficients, u.limbs - poly.depth, scale)


def activate(backend: Backend, u: Ciphertext, poly: Polynomial, mask: Floats) -> Ciphertext:
    """p(u) where mask is 1, and p(u) - p(0) where it is 0, at u.limbs - poly.levels limbs.

    mask: (period,). The scale is the default one for higher degrees; lower ones take what costs no level: of a
    quadratic, c (u + h)^2 + k, the square is the only product.
    """
    t = backend.reread(u, scale=u.scale * poly.half_width)
    constant = poly.coefficients[0]
    if poly.degree == 1:
        slope = poly.coefficients[1]
        if slope < 0:
            raise ParameterError(f"the slope of a linear activation is {slope}; need a positive one")
        value = backend.reread(t, scale=t.scale / slope)
    elif poly.is_square:
        half = poly.coefficients[1] / (2 * poly.coefficients[2])
        shifted = backend.add_plain(t, backend.encode(half * mask, t.limbs, t.scale))
        square = backend.rescale(backend.multiply(shifted, shifted))
        value = backend.reread(square, scale=square.scale / poly.coefficients[2])
        constant -= poly.coefficients[2] * half**2
    else:
        rest = Polynomial((0.0, *poly.coefficients[1:]), poly.interval, poly.max_error)
        value = evaluate(backend, u, rest, backend.parameters.scale)
    return (
        value
        if constant == 0.0
        else backend.add_plain(value, backend.encode(constant * mask, value.limbs, value.scale))
    )


def part_of_interval(backend: Backend, u: Ciphertext, interval: tuple[float, float], present: Floats) -> Ciphertext:
    """u as a part of the interval: from -1 to 1 inside it; 0 where present, (period,), is 0, and u with it."""
    low, high = interval
    middle, radius = (low + high) / 2, (high - low) / 2
    if middle != 0.0:
        u = backend.add_plain(u, backend.encode(-middle * present, u.limbs, u.scale))
    return backend.reread(u, scale=u.scale * radius)


class _Evaluation:
    """The powers t^(2^k) of one ciphertext, made once, and polynomials in it, times a mask."""

    def __init__(self, backend: Backend, t: Ciphertext, mask: Floats) -> None:
        self.backend, self.mask = backend, mask
        self.moduli = backend.parameters.moduli
        self.powers = [t]

    def power(self, k: int) -> Ciphertext:
        """t^(2^k), at t.limbs - k limbs."""
        while len(self.powers) <= k:
            last = self.powers[-1]
            self.powers.append(self.backend.rescale(self.backend.multiply(last, last)))
        return self.powers[k]

    def of(self, coefficients: tuple[float, ...], limbs: int, scale: float) -> Ciphertext:
        """The polynomial of these coefficients, rescaled to `limbs` limbs and this scale."""
        wide = scale * self.moduli[limbs]
        if len(coefficients) <= 2:
            return self.backend.rescale(self._linear(coefficients, limbs + 1, wide))
        k = (len(coefficients) - 1).bit_length() - 1
        low, high = coefficients[: 1 << k], coefficients[1 << k :]
        power = self.backend.drop_limbs(self.power(k), limbs + 1)
        if len(high) == 1:
            product = self._times(power, high[0], wide)
        else:
            product = self.backend.multiply(self.of(high, limbs + 1, wide / power.scale), power)
        if len(low) <= 2:
            return self.backend.rescale(self.backend.add(product, self._linear(low, limbs + 1, wide)))
        return self.backend.add(self.backend.rescale(product), self.of(low, limbs, scale))

    def _linear(self, coefficients: tuple[float, ...], limbs: int, scale: float) -> Ciphertext:
        """c0 + c1 t, not rescaled: at `limbs` limbs and this scale."""
        constant, slope = (*coefficients, 0.0)[:2]
        product = self._times(self.backend.drop_limbs(self.powers[0], limbs), slope, scale)
        if constant == 0.0:
            return product
        return self.backend.add_plain(product, self.backend.encode(constant * self.mask, limbs, scale))

    def _times(self, x: Ciphertext, constant: float, scale: float) -> Ciphertext:
        encoded = self.backend.encode(constant * self.mask, x.limbs, scale / x.scale)
        return self.backend.multiply_plain(x, encoded)
