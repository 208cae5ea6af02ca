"""Primes and roots of unity against definitions."""

import pytest

from mhe.errors import ParameterError
from mhe.ring.primes import is_prime, ntt_primes, smallest_root


def test_small_numbers() -> None:
    sieve = [n for n in range(5000) if n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))]
    assert [n for n in range(-3, 5000) if is_prime(n)] == sieve


@pytest.mark.parametrize(
    "n", [561, 41041, 825265, 3215031751, 3474749660383, 341550071728321, 3825123056546413051, (2**31 - 1) ** 2]
)
def test_pseudoprimes_are_composite(n: int) -> None:
    """Carmichael numbers and strong pseudoprimes to the first 4, 6, 7 and 9 prime bases."""
    assert not is_prime(n)


@pytest.mark.parametrize("p", [2**61 - 1, 2**64 - 59, 2**31 - 1, 18446744069414584321])
def test_large_primes(p: int) -> None:
    assert is_prime(p)


def test_primality_beyond_its_proof_is_refused() -> None:
    with pytest.raises(ParameterError):
        is_prime(2**64)


@pytest.mark.parametrize("bits", [20, 30, 45, 60, 61])
@pytest.mark.parametrize("ring_dim", [16, 4096])
def test_ntt_primes(bits: int, ring_dim: int) -> None:
    found = ntt_primes(bits, ring_dim, 6)
    assert len(set(found)) == 6
    assert all(is_prime(p) and p % (2 * ring_dim) == 1 and p.bit_length() <= 61 for p in found)
    if bits < 61:
        assert [p > 2**bits for p in found] == [False, True] * 3
    for side in (False, True):
        # None nearer to 2^bits than these was left out.
        chosen = [p for p in found if (p > 2**bits) == side]
        between = range(2**bits + 1, max(chosen, default=0), 2 * ring_dim) if side else ()
        assert all(n in found or not is_prime(n) for n in between)


def test_avoided_primes() -> None:
    first = ntt_primes(40, 1024, 4)
    second = ntt_primes(40, 1024, 4, avoid=first)
    assert not set(first) & set(second)
    assert ntt_primes(40, 1024, 8) == first + second
    assert ntt_primes(40, 1024, 0) == ()


@pytest.mark.parametrize(("bits", "ring_dim", "count"), [(14, 4096, 10), (62, 16, 1), (30, 1000, 1), (2, 16, 1)])
def test_impossible_primes(bits: int, ring_dim: int, count: int) -> None:
    with pytest.raises(ParameterError, match="need"):
        ntt_primes(bits, ring_dim, count)


@pytest.mark.parametrize("p", [17, 97, 193, 12289])
def test_smallest_root(p: int) -> None:
    order = 2
    while (p - 1) % order == 0:
        brute = next(r for r in range(1, p) if pow(r, order, p) == 1 and pow(r, order // 2, p) != 1)
        assert smallest_root(p, order) == brute
        order *= 2


@pytest.mark.parametrize("order", [0, 1, 3, 64])
def test_bad_order(order: int) -> None:
    with pytest.raises(ParameterError, match="power of two"):
        smallest_root(97, order)
