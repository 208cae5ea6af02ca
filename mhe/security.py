"""Closed forms for noise and for what hides it: every width and tolerance in this project comes from here.

Noise is described by the standard deviation of its polynomial coefficients. Sums of many independent terms are treated
as sub-Gaussian, so a bound is a standard deviation times `tail(n)`; it fails with probability below 2^-40. Rounding and
ternary terms are sub-Gaussian by Hoeffding; products with the secret are so conditionally on the secret.
"""

from __future__ import annotations

import math
from functools import lru_cache

from scipy.special import lambertw  # type: ignore[import-untyped]

from mhe.parameters import ERROR_STD, Parameters, log2_product

TAIL_BITS = 40

_LARGEST_SQUARE = -float(lambertw(-math.exp(-1 - 2 * TAIL_BITS * math.log(2)), -1).real)
"""The larger y with exp((1 - y + log y) / 2) = 2^-TAIL_BITS (`correlated_norm_bound`)."""


def tail(n: int) -> float:
    """How many standard deviations none of n sub-Gaussian values exceeds, but for probability 2^-TAIL_BITS.

    From P(|x| > t sigma) <= 2 exp(-t^2/2) and the union bound.
    """
    return math.sqrt(2 * math.log(2 * n * 2.0**TAIL_BITS))


def secret_variance(n_parties: int) -> float:
    """Variance of a coefficient of the joint secret: a sum of n uniform ternary ones, 2/3 each."""
    return 2 * n_parties / 3


def key_error_std(n_parties: int) -> float:
    """Coefficients of the error in a collective public or rotation key: one narrow Gaussian per party."""
    return ERROR_STD * math.sqrt(n_parties)


def relin_key_error_std(ring_dim: int, n_parties: int) -> float:
    """Coefficients of s*e0 + u*e1 + e2, the error of the two-round key (Mouchet et al., ePrint 2020/304, Section
    4.1).
    """
    product = 2 * ring_dim * secret_variance(n_parties) * key_error_std(n_parties) ** 2
    return math.sqrt(product + key_error_std(n_parties) ** 2)


def fresh_error_std(ring_dim: int, n_parties: int) -> float:
    """Coefficients of u*e_pk + e0 + e1*s: one encryption under the collective public key, u ternary."""
    return ERROR_STD * math.sqrt(1 + ring_dim * (2 / 3) * n_parties + ring_dim * secret_variance(n_parties))


def rounding_std(ring_dim: int, n_parties: int) -> float:
    """Coefficients of r0 + r1*s with r0, r1 uniform on [-1/2, 1/2]: a rescale, or the division by P of a key switch."""
    return math.sqrt((1 + ring_dim * secret_variance(n_parties)) / 12)


def rerandomised_std(parameters: Parameters, limbs: int) -> float:
    """Coefficients that `mhe.encryption.rerandomise` adds at `limbs` limbs: fresh, or divided if it can be."""
    fresh = fresh_error_std(parameters.ring_dim, parameters.n_parties)
    if limbs == parameters.n_limbs:
        return fresh
    return math.hypot(fresh / parameters.moduli[limbs], rounding_std(parameters.ring_dim, parameters.n_parties))


def rerandomised_norm(parameters: Parameters, limbs: int) -> float:
    """Euclidean bound on all coefficients that a rerandomisation adds, whatever the secret, but for 2^-TAIL_BITS."""
    return norm_bound(rerandomised_std(parameters, limbs) * secret_spread(1.0), parameters.ring_dim)


@lru_cache(maxsize=4096)
def key_switch_std(parameters: Parameters, limbs: int, key_error: float, *, centred: bool = False) -> float:
    """Coefficients added by one hybrid key switch at `limbs` limbs with a key of error `key_error`: root mean square.

    centred: whether digits and the division by P are rounded to nearest, as the native evaluator does; they are then
    uniform on an interval of length 1 around 0, in units of Q_d and of 1. Otherwise every digit d is lifted without
    correction (Halevi, Polyakov, Shoup, ePrint 2018/117), so that it is a sum of up to |d| terms uniform on [0, Q_d)
    each, and its product with the key error is divided by P. That division lifts from the k special moduli without
    correction too: it rounds by a sum of k terms uniform on [0, 1), of mean k/2, not 0.
    """
    special = log2_product(parameters.special_moduli)
    variance = 0.0
    for digit in parameters.digit_limbs:
        active = [i for i in digit if i < limbs]
        if active:
            relative = 2.0 ** (log2_product(tuple(parameters.moduli[i] for i in active)) - special)
            width = len(active)
            lifted = 1 / 12 if centred else _uniform_sum_square(width)
            variance += parameters.ring_dim * lifted * relative**2 * key_error**2
    divided = 1 + parameters.ring_dim * secret_variance(parameters.n_parties)
    rounded = 1 / 12 if centred else _uniform_sum_square(len(parameters.special_moduli))
    return math.sqrt(variance + divided * rounded)


def key_switch_bias_norm(parameters: Parameters) -> float:
    """Euclidean bound on what the means of uncorrected lifts add: (k/2) (J + J s), J the sum of all powers of X, by the
    division by P, and (|d|/2) (Q_d / P) J e_d by each digit d with key error e_d.

    It lies in few slots, so `norm_bound` does not hold for it. J takes values below 4N/(pi j) at the j-th root from 1,
    and a slot of s, a sum of N independent terms, stays below the tail of sub-Gaussian values.
    """
    spread = 1 + 2 * math.sqrt(2 * TAIL_BITS * math.log(2)) / math.pi
    secret = math.sqrt(secret_variance(parameters.n_parties))
    special = log2_product(parameters.special_moduli)
    bias = len(parameters.special_moduli) / 2 * secret
    for digit in parameters.digit_limbs:
        relative = 2.0 ** (log2_product(tuple(parameters.moduli[i] for i in digit)) - special)
        bias += len(digit) / 2 * relative * key_error_std(parameters.n_parties)
    return bias * parameters.ring_dim * spread


def _uniform_sum_square(n: int) -> float:
    """Second moment of a sum of n variables uniform on [0, 1)."""
    return n / 12 + n**2 / 4


def refresh_error_std(n_parties: int) -> float:
    """Coefficients that a refresh adds: one narrow Gaussian per party."""
    return ERROR_STD * math.sqrt(n_parties)


def mapped_refresh_rounding_std(n_parties: int) -> float:
    """Coefficients that a linear map with a division adds in a refresh: one rounding per party, and one of the sum."""
    return math.sqrt((n_parties + 1) / 12)


def key_switch_to_receiver_std(ring_dim: int, n_parties: int, smudging: float) -> float:
    """Coefficients that a switch to a receiver's key adds: the parties' smudging, u*e_pk, and e1*s_receiver."""
    small = ERROR_STD**2 * (ring_dim * secret_variance(n_parties) + n_parties * ring_dim * 2 / 3)
    return math.sqrt(n_parties * smudging**2 + small)


def norm_bound(std: float, n_coefficients: int) -> float:
    """Euclidean norm that n sub-Gaussian coefficients of this standard deviation do not exceed, but for 2^-TAIL_BITS.

    Gaussian concentration of a Lipschitz function: ||x|| <= std*(sqrt(n) + t) with probability 1 - exp(-t^2/2).
    """
    return std * (math.sqrt(n_coefficients) + math.sqrt(2 * TAIL_BITS * math.log(2)))


def correlated_norm_bound(norm_std: float) -> float:
    """Euclidean norm that a sub-Gaussian vector of ANY covariance does not exceed, but for probability 2^-TAIL_BITS.

    norm_std: root mean square of its norm, that is the square root of the trace of the covariance. With the trace 1,
    E exp(r ||x||^2) is at most the product of (1 - 2 r m)^(-1/2) over the eigenvalues m (Hsu, Kakade, Zhang, "A tail
    inequality for quadratic forms of subgaussian random vectors", 2012, proof of Theorem 1), whose logarithm is convex
    in them: largest for rank one. So P(||x||^2 > y) <= exp(-r y) (1 - 2 r)^(-1/2), the least of which is
    exp((1 - y + log y) / 2), at 2 r = 1 - 1/y.
    """
    return norm_std * math.sqrt(_LARGEST_SQUARE)


def rounded_norm_bound(std: float, n_coefficients: int, ring_dim: int) -> float:
    """Euclidean norm that the n coefficients of a sum of roundings r0 + r1*s in the subring of degree n do not exceed,
    whatever the secret, but for 2^-TAIL_BITS for each of three terms.

    std: of a coefficient, over rounding and secret. Given the secret, the covariance has trace n (1 + ||s||^2)/12, and
    its eigenvalues are means of |s|^2 over N/n slots. From ||x|| <= sqrt(tr C) + sqrt(2 ||C|| t), which follows from
    ||x||^2 <= tr + 2 sqrt(tr(C^2) t) + 2 ||C|| t (Theorem 1 of the source of `correlated_norm_bound`) by
    tr(C^2) <= ||C|| tr(C).
    """
    secret = norm_bound(1.0, ring_dim) / math.sqrt(ring_dim)
    largest = secret_spread(n_coefficients / ring_dim, n_coefficients)
    return std * (secret * math.sqrt(n_coefficients) + largest * math.sqrt(2 * TAIL_BITS * math.log(2)))


def secret_spread(largest_part: float, count: int = 1) -> float:
    """What a mean square of rounding errors, taken over slots, is larger by for an unlucky secret: a factor of standard
    deviations, exceeded with probability 2^-TAIL_BITS.

    r1*s errs in a slot in proportion to |s| there, which differs from slot to slot. largest_part: of the weights with
    which the slots enter the mean, which add up to 1, the largest. count: of means for which all of this holds. The
    weighted sum of |s|^2 is a quadratic form of the secret with eigenvalues of half the weights (twice each, times N):
    the same inequality as above.
    """
    t, part = TAIL_BITS * math.log(2) + math.log(count), min(largest_part, 1.0)
    return math.sqrt(1 + math.sqrt(2 * part * t) + part * t)


def smudging_std(noise_norm: float, statistical_bits: int, releases: int) -> float:
    """Width of the Gaussian that every party adds to a decryption or key-switch share.

    noise_norm: Euclidean bound on the noise of the released coefficients. The width sqrt(12 releases) 2^(s/2) norm
    gives s bits of statistical security over that many releases (Li, Micciancio, Schultz, Sorrell, CRYPTO 2022,
    ePrint 2022/816, Theorem 5 and Section 5; the same form as OpenFHE's noise flooding). One honest party's share
    suffices.
    """
    return math.sqrt(12 * releases) * math.pow(2.0, statistical_bits / 2) * max(noise_norm, 1.0)
