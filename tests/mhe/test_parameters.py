"""`Parameters`: what is refused, with which words, and what the digest tells apart."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import lru_cache

import pytest

from mhe.errors import ParameterError
from mhe.moduli import generate_moduli
from mhe.parameters import LOG_QP_CAPS, Parameters, Shape, check_cap, log2_product, refresh_floor_bits
from mhe.ring.primes import is_prime, ntt_primes
from mhe.session import Session

CAPS = [(bits, n, cap) for bits, caps in LOG_QP_CAPS.items() for n, cap in caps.items()]
NO_CHAIN = {(128, 1 << 10), (256, 1 << 11)}
"""So small are these caps that no two primes with the roots of unity of that ring fit."""

SMALL = Shape(ring_dim=1 << 8, first_bits=60, scale_bits=40, n_limbs=5, digits=2)


def insecure_parameters(**changes) -> Parameters:
    moduli, special = generate_moduli(SMALL)
    settings = {
        "ring_dim": SMALL.ring_dim,
        "moduli": moduli,
        "special_moduli": special,
        "scale_bits": SMALL.scale_bits,
        "digits": SMALL.digits,
        "n_parties": 3,
        "refresh_limbs": 3,
        "message_bits": 4.0,
        "statistical_bits": 40,
        "insecure": True,
    }
    return Parameters(**{**settings, **changes})


def next_prime(start: int, ring_dim: int, step: int) -> int:
    """The first prime = 1 modulo 2 ring_dim from start on, upwards or downwards."""
    q = start - (start - 1) % (2 * ring_dim) + (2 * ring_dim if step > 0 else 0)
    while not is_prime(q):
        q += step * 2 * ring_dim
        if q < 2:
            raise ValueError(f"no prime below {start}")
    return q


@lru_cache(maxsize=64)
def primes_to_reach(cap: int, ring_dim: int, above: bool) -> tuple[int, ...]:
    """Distinct primes whose product is as close to 2^cap as the last of them can bring it."""
    count = max(0, -(-(cap - 58) // 28))
    # Where one prime is not enough and two are, the smallest there is leaves the most room for the other.
    chosen = ntt_primes(28, ring_dim, count) if count else (next_prime(2, ring_dim, 1),)
    rest = 2**cap // math.prod(chosen)
    return (*chosen, next_prime(rest, ring_dim, 1 if above else -1))


def secure_parameters(ring_dim: int, primes: tuple[int, ...], security_bits: int) -> Parameters:
    """Parameters at these primes whose refresh floor is no obstacle."""
    return Parameters(
        ring_dim=ring_dim,
        moduli=primes[:-1],
        special_moduli=primes[-1:],
        scale_bits=1,
        digits=1,
        n_parties=1,
        refresh_limbs=len(primes) - 1,
        message_bits=0,
        security_bits=security_bits,
        statistical_bits=1,
    )


# the caps on log2(QP)


def test_caps_are_those_of_the_guidelines():
    """ePrint 2024/463, table 5.2: uniform ternary secret, classical. Older tables are laxer."""
    assert [LOG_QP_CAPS[128][1 << k] for k in range(12, 17)] == [106, 214, 430, 868, 1747]
    assert all(LOG_QP_CAPS[128][n] < old for n, old in {4096: 109, 8192: 218, 16384: 438, 32768: 881}.items())
    for n in LOG_QP_CAPS[192]:
        assert LOG_QP_CAPS[128][n] > LOG_QP_CAPS[192][n] > LOG_QP_CAPS[256][n]
    for caps in LOG_QP_CAPS.values():
        assert list(caps) == sorted(caps)
        assert all(2 * small <= large for small, large in zip(caps.values(), list(caps.values())[1:], strict=False))


@pytest.mark.parametrize(("bits", "n", "cap"), CAPS)
def test_cap_is_exact(bits, n, cap):
    check_cap(n, cap, bits)
    with pytest.raises(ParameterError, match=rf"at ring_dim {n}; {bits}-bit security allows {cap} there"):
        check_cap(n, math.nextafter(cap, math.inf), bits)


@pytest.mark.parametrize(("bits", "n", "cap"), [c for c in CAPS if c[:2] not in NO_CHAIN])
def test_a_chain_just_below_the_cap_is_accepted_and_one_just_above_is_not(bits, n, cap):
    below, above = (primes_to_reach(cap, n, beyond) for beyond in (False, True))
    parameters = secure_parameters(n, below, bits)
    # Within the distance of two primes, where a ring has few of that size.
    assert cap - 0.05 < parameters.log_qp <= cap < log2_product(above) < cap + 0.05
    with pytest.raises(ParameterError, match=rf"log2\(QP\) is {log2_product(above):.1f} at ring_dim {n}; {bits}-bit"):
        secure_parameters(n, above, bits)
    assert replace(parameters, moduli=above[:-1], special_moduli=above[-1:], insecure=True).log_qp > cap


@pytest.mark.parametrize(("bits", "n"), sorted(NO_CHAIN))
def test_smallest_caps_admit_no_chain_at_all(bits, n):
    first = next_prime(2, n, 1)
    assert log2_product((first, next_prime(first + 1, n, 1))) > LOG_QP_CAPS[bits][n]


def test_special_moduli_count_too():
    """Evaluation keys live modulo Q*P: a chain that fits without P may be too long with it."""
    n = 1 << 12
    inside = primes_to_reach(106, n, False)
    extra = ntt_primes(40, n, 1)[0]
    secure_parameters(n, inside, 128)
    with pytest.raises(ParameterError, match="log2"):
        replace(secure_parameters(n, inside, 128), special_moduli=(inside[-1], extra))


def test_cap_message_names_a_ring_that_fits():
    with pytest.raises(ParameterError, match=r"allows 106 there: take ring_dim >= 16384"):
        check_cap(1 << 12, 300.0, 128)
    with pytest.raises(ParameterError, match=r"allows 1747 there: use fewer or smaller moduli"):
        check_cap(1 << 16, 1748.0, 128)
    with pytest.raises(ParameterError, match=r"128-bit security allows no modulus there: take ring_dim >= 1024"):
        check_cap(1 << 9, 20.0, 128)
    with pytest.raises(ParameterError, match=r"security_bits is 100; need one of \[128, 192, 256\]"):
        check_cap(1 << 12, 20.0, 100)


def test_small_rings_are_refused_unless_said_to_be_insecure():
    with pytest.raises(ParameterError, match="128-bit security allows no modulus there"):
        insecure_parameters(insecure=False)
    assert insecure_parameters().insecure
    # The word lifts the cap and nothing else.
    with pytest.raises(ParameterError, match="refresh"):
        insecure_parameters(statistical_bits=300)


# the refresh floor


@pytest.mark.parametrize("n_parties", [1, 2, 3, 5, 7, 10, 100])
@pytest.mark.parametrize("refresh_limbs", [1, 2, 3])
def test_floor_is_exact(n_parties, refresh_limbs):
    shape = {"n_parties": n_parties, "refresh_limbs": refresh_limbs, "message_bits": 0.0}
    low = log2_product(insecure_parameters(statistical_bits=1, message_bits=0.0).moduli[:refresh_limbs])
    most = max(s for s in range(1, 200) if refresh_floor_bits(s, SMALL.scale_bits, 0.0, n_parties) <= low)
    assert insecure_parameters(statistical_bits=most, **shape).statistical_bits == most
    with pytest.raises(ParameterError) as caught:
        insecure_parameters(statistical_bits=most + 1, **shape)
    need = refresh_floor_bits(most + 1, SMALL.scale_bits, 0.0, n_parties)
    assert f"a refresh at {refresh_limbs} limbs has a modulus of {low:.1f} bits" in str(caught.value)
    assert f"masks with {most + 1} statistical bits need {need:.1f}" in str(caught.value)
    assert "raise refresh_limbs" in str(caught.value)


@pytest.mark.parametrize("statistical_bits", [1, 40, 128])
@pytest.mark.parametrize("message_bits", [-3.0, 0.0, 0.3, 7.99])
@pytest.mark.parametrize("n_parties", [1, 2, 10, 1000])
def test_floor_leaves_room_for_an_exact_lift(statistical_bits, message_bits, n_parties):
    """All masks at their extreme and the largest message stay within a quarter of the modulus: the lift is exact."""
    scale_bits = 40
    floor = refresh_floor_bits(statistical_bits, scale_bits, message_bits, n_parties)
    mask = 2.0 ** (math.ceil(statistical_bits + scale_bits + message_bits) + 1 - 1)
    assert n_parties * mask + 2.0 ** (scale_bits + message_bits) <= 2.0**floor / 4 * (1 + 1e-9)


@pytest.mark.parametrize("message_bits", [0.0, 0.5, 4.0])
def test_masks_hide_the_largest_coefficient(message_bits):
    """Shifting a uniform mask of 2^mask_bits values by m moves a part m / 2^mask_bits of it out of the range."""
    p = insecure_parameters(message_bits=message_bits)
    distance = 2.0 ** (p.scale_bits + p.message_bits) / 2.0**p.mask_bits
    assert distance <= 2.0 ** -(p.statistical_bits + 1)


# everything else that has to fit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ring_dim": 8}, "ring_dim is 8; need a power of two of at least 16"),
        ({"ring_dim": 300}, "ring_dim is 300; need a power of two"),
        ({"moduli": ()}, "need at least one modulus and one special modulus"),
        ({"special_moduli": ()}, "need at least one modulus and one special modulus"),
        ({"digits": 0}, "digits is 0; need 1 to 5, the number of limbs"),
        ({"digits": 6}, "digits is 6; need 1 to 5"),
        ({"n_parties": 0}, "n_parties is 0; need at least 1"),
        ({"refresh_limbs": 0}, "refresh_limbs is 0; need 1 to 5"),
        ({"refresh_limbs": 6}, "refresh_limbs is 6; need 1 to 5"),
        ({"insecure": False, "security_bits": 129}, "security_bits is 129; need one of"),
    ],
)
def test_what_does_not_fit_is_said_clearly(changes, message):
    with pytest.raises(ParameterError) as caught:
        insecure_parameters(**changes)
    assert message in str(caught.value)


def test_moduli_are_distinct_primes_with_the_right_roots():
    p = insecure_parameters()
    composite = next(q for q in range(2**50 + 1, 2**51, 2 * p.ring_dim) if not is_prime(q))
    no_root = next(q for q in range(2**50 + 1, 2**51, 2) if is_prime(q) and q % (2 * p.ring_dim) != 1)
    too_long = next_prime(2**61, p.ring_dim, 1)
    for bad in (composite, no_root, too_long, 1, 1 - 2 * p.ring_dim):
        for where in ({"moduli": (*p.moduli[:4], bad)}, {"special_moduli": (bad,)}):
            with pytest.raises(ParameterError, match=f"modulus {bad} is not a prime of at most 61 bits that is 1"):
                insecure_parameters(**where)
    with pytest.raises(ParameterError, match="moduli repeat"):
        insecure_parameters(special_moduli=p.moduli[:1])


@pytest.mark.parametrize("n_limbs", range(1, 12))
def test_digits_cut_the_limbs_into_runs(n_limbs):
    moduli, special = generate_moduli(replace(SMALL, n_limbs=n_limbs, digits=1))
    for digits in range(1, n_limbs + 1):
        p = insecure_parameters(
            moduli=moduli, special_moduli=special, digits=digits, refresh_limbs=n_limbs, statistical_bits=1, n_parties=1
        )
        widths = [len(digit) for digit in p.digit_limbs]
        assert [limb for digit in p.digit_limbs for limb in digit] == list(range(n_limbs))
        assert len(widths) <= digits
        assert set(widths[:-1]) <= {-(-n_limbs // digits)}
        assert 1 <= widths[-1] <= -(-n_limbs // digits)


def test_derived_quantities():
    p = insecure_parameters()
    assert (p.n_slots, p.n_limbs, p.depth, p.scale) == (128, 5, 2, 2.0**40)
    assert p.key_moduli == p.moduli + p.special_moduli
    assert p.log_qp == pytest.approx(math.log2(math.prod(p.key_moduli)), rel=1e-12)
    assert p.mask_bits == 40 + 40 + 4 + 1


# the digest


def test_every_field_changes_the_digest():
    p = insecure_parameters()
    other, more_special = generate_moduli(replace(SMALL, n_limbs=6))
    changes = {
        "ring_dim": 1 << 7,
        "moduli": other[:4] + other[5:],
        "special_moduli": (*more_special, *ntt_primes(59, SMALL.ring_dim, 1)),
        "scale_bits": 41,
        "digits": 3,
        "n_parties": 2,
        "refresh_limbs": 4,
        "message_bits": 4.5,
        "security_bits": 192,
        "statistical_bits": 41,
    }
    assert changes.keys() | {"insecure"} == {field.name for field in fields(Parameters)}
    digests = [p.digest] + [insecure_parameters(**{name: value}).digest for name, value in changes.items()]
    assert len(set(digests)) == len(digests)
    assert {len(digest) for digest in digests} == {16}
    secure = secure_parameters(1 << 12, primes_to_reach(106, 1 << 12, False), 128)
    assert secure.digest != replace(secure, insecure=True).digest


def test_equal_parameters_have_equal_digests():
    p, again = insecure_parameters(), insecure_parameters()
    assert p == again
    assert p.digest == again.digest
    assert p == insecure_parameters(message_bits=4)
    assert p.digest == insecure_parameters(message_bits=4).digest


def test_order_of_the_moduli_matters():
    p = insecure_parameters()
    assert replace(p, moduli=p.moduli[:1] + p.moduli[:0:-1]).digest != p.digest


def test_session_refuses_a_short_seed():
    with pytest.raises(ParameterError, match="the common seed has 31 bytes; need 32"):
        Session(insecure_parameters(), 0, bytes(31))
