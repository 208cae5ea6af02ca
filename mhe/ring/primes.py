"""Prime moduli with the roots of unity that the number-theoretic transform needs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import chain, islice, zip_longest

import numpy as np

from mhe.errors import ParameterError
from mhe.ring.modular import MAX_MODULUS_BITS, SIGNED, WORD, kernel, mul_lazy, reduce_twice, shoup, words

_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


@lru_cache(maxsize=1 << 14)
def is_prime(n: int) -> bool:
    """Whether n is prime; no error for any n below 2^64. Raises ParameterError from there on.

    Miller-Rabin to the first twelve prime bases, which no composite below 3.18e23 passes (Sorenson and Webster,
    "Strong pseudoprimes to twelve prime bases", Math. Comp. 86, 2017).
    """
    if n >= 1 << 64:
        raise ParameterError(f"primality of {n} asked for; need a number below 2^64")
    if n < 2:
        return False
    for w in _WITNESSES:
        if n % w == 0:
            return n == w
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    return all(_passes(n, w, odd, twos) for w in _WITNESSES)


def _passes(n: int, witness: int, odd: int, twos: int) -> bool:
    x = pow(witness, odd, n)
    if x in (1, n - 1):
        return True
    for _ in range(twos - 1):
        x = x * x % n
        if x == n - 1:
            return True
    return False


def ntt_primes(bits: int, ring_dim: int, count: int, avoid: Collection[int] = ()) -> tuple[int, ...]:
    """`count` primes = 1 modulo 2*ring_dim nearest to 2^bits: the next one below, the next one above, and so on.

    Alternating keeps the product of any run of them near 2^(bits * length), hence the scale near its nominal value.
    None is longer than 61 bits, so at bits = 61 all lie below; none is in `avoid`.

    Raises ParameterError if ring_dim is not a power of two or there are not that many.
    """
    if ring_dim < 1 or ring_dim & (ring_dim - 1):
        raise ParameterError(f"ring_dim is {ring_dim}; need a power of two")
    if not 3 <= bits <= MAX_MODULUS_BITS:
        raise ParameterError(f"bits is {bits}; need 3 to {MAX_MODULUS_BITS}")
    below = _primes_from((1 << bits) + 1 - 2 * ring_dim, -2 * ring_dim, bits, avoid)
    above = _primes_from((1 << bits) + 1, 2 * ring_dim, bits, avoid)
    alternating = (p for p in chain.from_iterable(zip_longest(below, above)) if p is not None)
    found = tuple(islice(alternating, count))
    if len(found) < count:
        raise ParameterError(
            f"found {len(found)} primes of about {bits} bits for ring_dim {ring_dim}; need {count}: take more bits"
        )
    return found


def _primes_from(start: int, step: int, bits: int, avoid: Collection[int]) -> Iterator[int]:
    """Primes from start on, no further from 2^bits than a factor 2, and of at most 61 bits."""
    last = min(1 << (bits + 1), 1 << MAX_MODULUS_BITS) if step > 0 else 1 << (bits - 1)
    for n in range(start, last, step):
        if n not in avoid and is_prime(n):
            yield n


@lru_cache(maxsize=256)
def smallest_root(p: int, order: int) -> int:
    """Smallest primitive `order`-th root of unity modulo the prime p; order a power of two that divides p - 1.

    Raises ParameterError if order is something else.
    """
    if order < 2 or order & (order - 1) or (p - 1) % order:
        raise ParameterError(f"order is {order} modulo {p}; need a power of two of at least 2 that divides {p - 1}")
    candidates = (pow(g, (p - 1) // order, p) for g in range(2, p))
    root = next(r for r in candidates if pow(r, order // 2, p) == p - 1)
    # Every primitive root is an odd power of any one of them.
    square = root * root % p
    first, factor, ratio, modulus = words((root, square, shoup(square, p), p))
    return int(_smallest_product(first, factor, ratio, modulus, order // 2))


@kernel(WORD, WORD, WORD, WORD, WORD, SIGNED)
def _smallest_product(first: np.uint64, factor: np.uint64, ratio: np.uint64, p: np.uint64, count: int) -> np.uint64:
    """The smallest of first * factor^k modulo p, 0 <= k < count. ratio: of the factor, by `shoup`."""
    smallest = product = first
    for _ in range(1, count):
        product = reduce_twice(mul_lazy(product, factor, ratio, p), p)
        smallest = min(smallest, product)
    return smallest
