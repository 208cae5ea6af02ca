"""The closed forms of mhe/security.py against what the real samplers and the real ring code give.

Mean squares are compared, over enough trials that 8 standard errors of them are inside the tolerance. Where products
with a secret make coefficients depend on each other, N of them count as N/4: their spectrum is that of the product.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from mhe import security
from mhe.encryption import encrypt, rerandomise
from mhe.keys import EphemeralSecret, ReceiverSecret, SecretShare
from mhe.moduli import generate_moduli
from mhe.parameters import ERROR_STD, Parameters, Shape
from mhe.protocols.common import error, gadget
from mhe.protocols.key_switch import KeySwitchProtocol, receiver_key
from mhe.protocols.public_key import PublicKeyProtocol
from mhe.protocols.relin_key import RelinKeyProtocol
from mhe.ring.division import division
from mhe.ring.ring import ring
from mhe.ring.sampling import WideGaussian, secret_stream
from mhe.session import Session
from mhe.share import aggregate
from tests import oracle
from tests.insecure import insecure_test_parameters


def parameters_for(n_parties: int, ring_dim: int, digits: int = 2, n_limbs: int = 4) -> Parameters:
    """INSECURE: small rings, where the closed forms must hold as well."""
    return insecure_test_parameters(ring_dim, n_limbs, scale_bits=40, digits=digits, n_parties=n_parties)


class Group:
    """All parties with a fresh seed, fresh secrets and a public key."""

    def __init__(self, n_parties: int, ring_dim: int = 1 << 10, digits: int = 2) -> None:
        self.parameters = parameters_for(n_parties, ring_dim, digits)
        seed = os.urandom(32)
        self.sessions = [Session(self.parameters, rank, seed) for rank in range(n_parties)]
        self.secrets = [SecretShare.generate(ring_dim) for _ in range(n_parties)]
        self.joint = oracle.joint_of(self.secrets)
        protocols = [PublicKeyProtocol(s) for s in self.sessions]
        shares = [p.share(s) for p, s in zip(protocols, self.secrets, strict=True)]
        total = shares[0]
        for share in shares[1:]:
            total = aggregate(total, share)
        self.key = protocols[0].finalize(total)

    def encrypt_zero(self, limbs: int = 2):
        zero = np.zeros((limbs, self.parameters.ring_dim), dtype=np.uint64)
        return encrypt(self.sessions[0], self.key, zero, 2.0**40)

    def noise(self, ciphertext) -> np.ndarray:
        return np.array([float(v) for v in oracle.message_integers(ciphertext, self.parameters, self.joint)])


def assert_mean_square(samples, std: float, tolerance: float) -> None:
    ratio = float(np.mean(np.square(samples))) / std**2
    assert abs(ratio - 1) < tolerance, f"mean square is {ratio} times what the closed form says"


# tails


@pytest.mark.parametrize("n", [1, 2, 256, 1 << 14, 1 << 20])
def test_tail_covers_gaussians(n):
    assert n * 2 * stats.norm.sf(security.tail(n)) <= 2.0**-security.TAIL_BITS
    # no more than a bit of a standard deviation above what exactly normal values need
    assert n * 2 * stats.norm.sf(security.tail(n) - 0.5) >= 2.0**-security.TAIL_BITS


@pytest.mark.parametrize("n", [1, 2, 16, 256, 1 << 14])
def test_norm_bound_covers_gaussians(n):
    """||x||^2 / std^2 is a chi-square variable of n degrees."""
    bound = security.norm_bound(1.0, n)
    assert stats.chi2.logsf(bound**2, n) <= -security.TAIL_BITS * math.log(2) + 1e-9
    assert bound <= 1.2 * math.sqrt(stats.chi2.isf(2.0**-security.TAIL_BITS, n))


# distributions of secrets and keys


@pytest.mark.parametrize("n_parties", [1, 3, 10])
def test_secret_variance(n_parties):
    secrets = [
        oracle.joint_of([SecretShare.generate(1 << 12) for _ in range(n_parties)]).astype(float) for _ in range(8)
    ]
    assert_mean_square(secrets, math.sqrt(security.secret_variance(n_parties)), 0.07)


def test_narrow_error():
    base = ring(1 << 10, parameters_for(1, 1 << 10).moduli[:1])
    samples = [base.to_integers(base.intt(error(base, secret_stream()))) for _ in range(40)]
    assert_mean_square(np.array(samples, dtype=float), ERROR_STD, 0.06)


@pytest.mark.parametrize("n_parties", [1, 4])
def test_public_key_error(n_parties):
    samples = []
    for _ in range(16):
        group = Group(n_parties)
        base = group.sessions[0].cipher_ring()
        found = base.add(group.key.p0, base.multiply(group.key.p1, oracle.as_residues(group.joint, base)))
        samples.append([float(v) for v in base.to_integers(base.intt(found))])
    assert_mean_square(samples, security.key_error_std(n_parties), 0.1)


@pytest.mark.parametrize("n_parties", [1, 3])
def test_relinearisation_key_error(n_parties):
    samples = []
    for _ in range(16):
        group = Group(n_parties, ring_dim=1 << 8)
        protocols = [RelinKeyProtocol(s) for s in group.sessions]
        ephemerals = [EphemeralSecret.generate(1 << 8) for _ in protocols]
        everyone = list(zip(protocols, group.secrets, ephemerals, strict=True))
        first, *others = [p.share_first(s, u) for p, s, u in everyone]
        for share in others:
            first = aggregate(first, share)
        second, *others = [p.share_second(s, u, first) for p, s, u in everyone]
        for share in others:
            second = aggregate(second, share)
        key = protocols[0].finalize(first, second)
        base = group.sessions[0].key_ring()
        s = oracle.as_residues(group.joint, base)
        square = base.multiply(s, s)
        for digit in range(2):
            expected = base.multiply_constant(square, gadget(group.parameters, digit, group.parameters.n_limbs))
            rest = base.subtract(base.add(key.b[digit], base.multiply(key.a[digit], s)), expected)
            samples.append([float(v) for v in base.to_integers(base.intt(rest))])
    assert_mean_square(samples, security.relin_key_error_std(1 << 8, n_parties), 0.3)


# noise of ciphertexts


@pytest.mark.parametrize("n_parties", [1, 4])
def test_fresh_encryption(n_parties):
    samples = [g.noise(g.encrypt_zero()) for g in (Group(n_parties) for _ in range(16))]
    assert_mean_square(samples, security.fresh_error_std(1 << 10, n_parties), 0.2)


@pytest.mark.parametrize("n_parties", [1, 4])
def test_rounding(n_parties):
    """q round(x / q) - x is r0 + r1 s, uniform remainders, of which the closed form gives the part in q."""
    samples = []
    for number in range(16):
        group = Group(n_parties)
        low, full = (group.sessions[0].cipher_ring(limbs) for limbs in (2, 3))
        q = group.parameters.moduli[2]
        divide = division(full.ring_dim, low.moduli, (q,))
        s = oracle.as_residues(group.joint, low)
        x0, x1 = (oracle.uniform(full, np.random.default_rng((number, k))) for k in range(2))
        difference = [low.subtract(low.multiply_constant(divide(x), q), np.ascontiguousarray(x[:2])) for x in (x0, x1)]
        opened = low.to_integers(low.intt(low.add(difference[0], low.multiply(difference[1], s))))
        samples.append([v / q for v in opened])
    assert_mean_square(samples, security.rounding_std(1 << 10, n_parties), 0.2)


@pytest.mark.parametrize("limbs", [1, 3, 4])
@pytest.mark.parametrize("n_parties", [1, 4])
def test_rerandomisation(n_parties, limbs):
    """At full limbs a fresh encryption; below, only a rounding is left of it."""
    samples = []
    for _ in range(16):
        group = Group(n_parties)
        before = group.encrypt_zero(limbs)
        after = rerandomise(group.sessions[0], group.key, before)
        assert (after.limbs, after.scale, after.key_id) == (before.limbs, before.scale, before.key_id)
        samples.append(group.noise(after) - group.noise(before))
    assert_mean_square(samples, security.rerandomised_std(parameters_for(n_parties, 1 << 10), limbs), 0.2)


def test_switch_to_a_receiver():
    """The part that is not smudging: u*e_pk + e1*s_receiver."""
    samples = []
    for _ in range(16):
        group = Group(3)
        private = ReceiverSecret.generate(1 << 10)
        key = receiver_key(group.sessions[0], private, b"r")
        c1 = np.zeros((2, 1 << 10), dtype=np.uint64)
        shares = [
            KeySwitchProtocol(session, (c1,), (key,), 32.0).share(secret)
            for session, secret in zip(group.sessions, group.secrets, strict=True)
        ]
        total = aggregate(aggregate(shares[0], shares[1]), shares[2])
        base = group.sessions[0].cipher_ring(2)
        opened = base.add(total.rows[:2], base.multiply(total.rows[2:], private.residues(base)))
        samples.append([float(v) for v in base.to_integers(base.intt(opened))])
    expected = security.key_switch_to_receiver_std(1 << 10, 3, WideGaussian(32.0).std)
    assert_mean_square(samples, expected, 0.2)


# key switching


def switch_with_lifts(parameters: Parameters, x: np.ndarray, key, limbs: int):
    """Hybrid key switching of one polynomial, in integers: both lifts without correction, as evaluators do it.

    Returns (d0, d1) modulo the first `limbs` moduli: d0 + d1*new = x*old + what `key_switch_std` describes.
    """
    p, n = parameters, parameters.ring_dim
    low, whole = oracle.cipher_ring(p, limbs), ring(n, p.moduli[:limbs] + p.special_moduli)
    rows = [*range(limbs), *range(p.n_limbs, len(p.key_moduli))]
    sums = [np.zeros((len(rows), n), dtype=np.uint64) for _ in range(2)]
    coefficients = low.intt(x)

    def lifted(values: np.ndarray, moduli: tuple[int, ...]) -> np.ndarray:
        product = math.prod(moduli)
        total = np.zeros(n, dtype=object)
        for row, q in zip(values, moduli, strict=True):
            total += (row.astype(object) * pow(product // q, -1, q) % q) * (product // q)
        return total

    for digit, span in enumerate(p.digit_limbs):
        active = [i for i in span if i < limbs]
        if active:
            moduli = tuple(p.moduli[i] for i in active)
            spread = whole.ntt(whole.from_integers(lifted(coefficients[active], moduli).tolist()))
            for total, part in zip(sums, (key.b[digit], key.a[digit]), strict=True):
                whole.multiply_add(total, spread, np.ascontiguousarray(part[rows]))
    special, out = math.prod(p.special_moduli), []
    for total in sums:
        plain = whole.intt(total)
        remainder = low.from_integers(lifted(plain[limbs:], p.special_moduli).tolist())
        rest = low.subtract(np.ascontiguousarray(plain[:limbs]), remainder)
        out.append(low.ntt(low.multiply_constant(rest, pow(special, -1, low.modulus))))
    return out


@pytest.mark.parametrize(
    ("n_limbs", "digits", "special_bits", "limbs"),
    [(4, 4, 60, 4), (4, 2, 60, 4), (4, 2, 60, 3), (4, 1, 60, 4), (4, 4, 60, 1), (3, 3, 40, 3)],
)
def test_key_switch_is_no_noisier_than_its_closed_form(n_limbs, digits, special_bits, limbs):
    """Everything here comes from fixed seeds: one outcome for ever. The case of 40 special bits has a large key error.

    The mean of the roundings, which are not centred, makes single trials scatter by a factor of two.
    """
    n = 1 << 8
    p = parameters_for(1, n, digits, n_limbs)
    if special_bits != 60:
        spare = Parameters(
            n, p.moduli[1:], generate_moduli(Shape(n, special_bits + 1, 40, 1, 1))[0], 40, n_limbs - 1, 1, 2, 1.0,
            statistical_bits=1, insecure=True,
        )  # fmt: skip
        p, limbs = spare, spare.n_limbs
    low = oracle.cipher_ring(p, limbs)
    std = security.key_switch_std(p, limbs, security.key_error_std(1))
    squares, largest = [], 0.0
    for seed in range(24):
        secret, old = oracle.make_secret(n, seed), oracle.make_secret(n, seed + 1000)
        whole = oracle.key_ring(p)
        key = oracle.make_evaluation_key(
            p, oracle.as_residues(old, whole), oracle.as_residues(secret, whole), "k", seed=seed
        )
        x = oracle.uniform(low, np.random.default_rng((seed, 9)))
        d0, d1 = switch_with_lifts(p, x, key, limbs)
        expected = low.multiply(x, oracle.as_residues(old, low))
        rest = low.subtract(low.add(d0, low.multiply(d1, oracle.as_residues(secret, low))), expected)
        found = np.array([float(v) for v in low.to_integers(low.intt(rest))])
        squares.append(np.mean(found**2) / std**2)
        largest = max(largest, float(np.abs(found).max()))
    assert 0.6 < np.mean(squares) < 1.4
    assert max(squares) < 8
    assert largest < security.tail(n) * std


# bounds on norms


@pytest.mark.parametrize("n_parties", [1, 3])
def test_norm_bound_is_never_exceeded(n_parties):
    """By the noise of fresh and of rerandomised ciphertexts, whichever coefficients are opened."""
    n = 1 << 8
    group = Group(n_parties, ring_dim=n)
    fresh = security.fresh_error_std(n, n_parties)
    rounded = security.rerandomised_std(group.parameters, 2)
    zero = replace(group.encrypt_zero(2), c0=np.zeros((2, n), np.uint64), c1=np.zeros((2, n), np.uint64))
    for trial in range(150):
        if trial % 30 == 0:
            group = Group(n_parties, ring_dim=n)
        for std, noise in (
            (fresh, group.noise(group.encrypt_zero())),
            (rounded, group.noise(rerandomise(group.sessions[0], group.key, zero))),
        ):
            for count in (2, 16, n):
                ratio = np.linalg.norm(noise[:: n // count]) / security.norm_bound(std, count)
                assert ratio < 1
            assert ratio > 0.4, "a bound this wide says nothing"


def test_mean_of_the_division_by_p_stays_within_its_bound():
    """|| (k/2) (J + J s) || for the real sampler's secrets."""
    for n_parties in (1, 3):
        p = parameters_for(n_parties, 1 << 10)
        base = ring(1 << 10, p.moduli[:1])
        ones = np.ones(1 << 10, dtype=np.int64)
        bound = security.key_switch_bias_norm(p)
        ratios = []
        for _ in range(30):
            s = oracle.joint_of([SecretShare.generate(1 << 10) for _ in range(n_parties)])
            product = base.multiply(oracle.as_residues(ones, base), oracle.as_residues(s, base))
            j_s = np.array([float(v) for v in base.to_integers(base.intt(product))])
            ratios.append(np.linalg.norm(ones + j_s) * len(p.special_moduli) / 2 / bound)
        assert max(ratios) < 1
        assert np.mean(ratios) > 0.03


# the smudging


@pytest.mark.parametrize("bits", [1, 30, 40, 128])
@pytest.mark.parametrize("releases", [1, 2, 17, 1000])
@pytest.mark.parametrize("norm", [1.0, 977.0, 2.0**60])
def test_smudging_hides_the_noise(bits, releases, norm):
    """Two Gaussians whose centres are `norm` apart diverge by norm^2 / (2 std^2) (Kullback-Leibler), per release."""
    std = security.smudging_std(norm, bits, releases)
    assert std == pytest.approx(math.sqrt(12 * releases) * 2 ** (bits / 2) * norm, rel=1e-12)
    assert releases * norm**2 / (2 * std**2) == pytest.approx(2.0**-bits / 24, rel=1e-9)
    if std >= 32:
        assert WideGaussian(std).std >= std


def test_smudging_never_trusts_a_noise_below_one():
    for norm in (0.0, -5.0, 0.3, 1.0):
        assert security.smudging_std(norm, 40, 2) == security.smudging_std(1.0, 40, 2)


# monotonicity: more of anything never means less noise, nor a smaller bound


@pytest.mark.parametrize(
    "form",
    [
        security.tail,
        security.secret_variance,
        security.key_error_std,
        security.refresh_error_std,
        lambda k: security.relin_key_error_std(256 * k, 2),
        lambda k: security.relin_key_error_std(256, k),
        lambda k: security.fresh_error_std(256 * k, 2),
        lambda k: security.fresh_error_std(256, k),
        lambda k: security.rounding_std(256 * k, 2),
        lambda k: security.rounding_std(256, k),
        lambda k: security.key_switch_to_receiver_std(256 * k, 2, 100.0),
        lambda k: security.key_switch_to_receiver_std(256, k, 100.0),
        lambda k: security.key_switch_to_receiver_std(256, 2, 100.0 * k),
        lambda k: security.norm_bound(3.0, k),
        lambda k: security.norm_bound(3.0 * k, 5),
        lambda k: security.smudging_std(10.0 * k, 40, 2),
        lambda k: security.smudging_std(10.0, 40 + k, 2),
        lambda k: security.smudging_std(10.0, 40, k),
        lambda k: security.key_switch_std(parameters_for(1, 256), 4, 3.0 * k),
        lambda k: security.key_switch_std(parameters_for(k, 256), 4, 3.0),
        lambda k: security.rerandomised_std(parameters_for(k, 256), 2),
        lambda k: security.key_switch_bias_norm(parameters_for(k, 256)),
    ],
)
def test_more_is_never_less(form):
    values = [form(k) for k in range(1, 9)]
    assert all(a < b for a, b in pairwise(values))


def test_fewer_limbs_never_mean_more_noise():
    p = parameters_for(2, 256, digits=2)
    values = [security.key_switch_std(p, limbs, 5.0) for limbs in range(1, 5)]
    assert values == sorted(values)
    # a division by a modulus beats the fresh error that is left where there is nothing to divide by
    assert security.rerandomised_std(p, 3) < security.rerandomised_std(p, 4) / 10


def test_norm_of_correlated_noise_is_bounded():
    """Rank one is the worst covariance, where the norm is one normal value: the bound is little more than needed."""
    bound = security.correlated_norm_bound(1.0)
    assert 2.0**-8 < math.erfc(bound / math.sqrt(2)) * 2.0**security.TAIL_BITS < 1
    assert math.exp((1 - bound**2 + math.log(bound**2)) / 2) == pytest.approx(2.0**-security.TAIL_BITS)
    random = np.random.default_rng(0)
    mixing = random.normal(size=(3, 40))
    draws = random.normal(size=(2000, 3)) @ mixing
    trace = float(np.square(mixing).sum())
    assert np.linalg.norm(draws, axis=1).max() < security.correlated_norm_bound(math.sqrt(trace))
    assert security.correlated_norm_bound(2.0) == pytest.approx(2 * bound)


@pytest.mark.parametrize("slots", [1, 8, 256])
def test_no_secret_makes_rounding_larger_than_the_spread_allows(slots):
    """|s|^2 over the mean, averaged over so many slots: for one slot it is exponentially distributed."""
    n, draws = 512, 2000
    random = np.random.default_rng(slots)
    secrets = random.integers(-1, 2, (draws, n))
    values = np.fft.fft(secrets * np.exp(1j * np.pi * np.arange(n) / n), axis=1)[:, :slots]
    mean = (np.abs(values) ** 2).mean(axis=1) / (n * security.secret_variance(1))
    assert np.sqrt(mean.max()) < security.secret_spread(1 / slots)
    # the bound is for 2^-40, the draws are 2^11: not far above what is seen
    assert security.secret_spread(1 / slots) < 3 * np.sqrt(mean.max())
    assert security.secret_spread(0.0) == 1.0


def test_centred_lifts_add_less():
    shape = Shape(1 << 10, 40, 40, 6, 2, 3, 40, 3)
    p = Parameters.of_shape(
        shape, generate_moduli(shape), n_parties=2, refresh_limbs=3, message_bits=1, statistical_bits=10, insecure=True
    )
    centred, lifted = (security.key_switch_std(p, 6, security.key_error_std(2), centred=c) for c in (True, False))
    # three special primes: a mean square of 3/12 + 9/4 against 1/12
    assert lifted == pytest.approx(centred * math.sqrt(30), rel=1e-2)


@pytest.mark.parametrize("count", [2, 16, 256, 512])
def test_norm_of_roundings_is_bounded_for_any_secret(count):
    """r0 + r1*s at the coefficients of a subring, whose noise lies in directions where s is large."""
    n, draws = 512, 100
    random = np.random.default_rng(count)
    norms = []
    for _ in range(5):
        secret = np.fft.fft(random.integers(-1, 2, (1, n)), 2 * n, axis=1)
        r0, r1 = random.uniform(-0.5, 0.5, (2, draws, n))
        product = np.fft.ifft(np.fft.fft(r1, 2 * n, axis=1) * secret, axis=1).real
        norms.append(np.linalg.norm((r0 + product[:, :n] - product[:, n:])[:, :: n // count], axis=1))
    bound = security.rounded_norm_bound(security.rounding_std(n, 1), count, n)
    assert np.max(norms) < bound
    assert bound < 8 * np.max(norms)
    mean = security.rounding_std(n, 1) * math.sqrt(count)
    assert security.rounded_norm_bound(security.rounding_std(n, 1), count, n) > 1.05 * mean
