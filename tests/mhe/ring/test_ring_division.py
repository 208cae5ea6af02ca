"""Division by some of the moduli: to the nearest integer, with an addend, in any order."""

import numpy as np
import pytest

from mhe.ring.division import division
from mhe.ring.primes import ntt_primes
from mhe.ring.ring import automorphism_index, ring

N = 64
KEPT = ntt_primes(61, N, 1) + ntt_primes(45, N, 2)
DROPPED = ntt_primes(60, N, 1) + ntt_primes(40, N, 2)


@pytest.mark.parametrize("dropped", [DROPPED[:1], DROPPED[1:2], DROPPED[:2], DROPPED])
@pytest.mark.parametrize("limbs", [1, 3])
def test_it_rounds_to_nearest(dropped: tuple[int, ...], limbs: int) -> None:
    kept = KEPT[:limbs]
    low, full = ring(N, kept), ring(N, kept + dropped)
    divisor = full.modulus // low.modulus
    random = np.random.default_rng(limbs)
    values = [int(f * low.modulus) * divisor // 3 for f in random.uniform(-1, 1, N)]
    values[:4] = [divisor // 3, -(divisor // 3), divisor - 1, 5 * divisor]
    nearest = [(2 * v + divisor) // (2 * divisor) for v in values]
    x = full.ntt(full.from_integers(values))
    divide = division(N, kept, dropped)
    assert low.to_integers(low.intt(divide(x))) == nearest
    addend = low.ntt(low.from_integers(list(range(N))))
    added, turned = np.empty_like(addend), np.empty_like(addend)
    for i in range(limbs):  # limb by limb, as a key switch does
        one = slice(i, i + 1)
        divide.limbs(one, x[one], divide.remainder(x[limbs:]), added, addend[one])
        divide.limbs(one, x[one], divide.remainder(x[limbs:]), turned, addend[one], automorphism_index(N, 5))
    assert low.to_integers(low.intt(added)) == [v + i for i, v in enumerate(nearest)]
    np.testing.assert_array_equal(turned, low.automorphism(added, 5))
