"""The transform against its definition, and products against schoolbook multiplication modulo X^N + 1."""

import numpy as np
import pytest

from mhe.errors import ParameterError
from mhe.ring.modular import Words
from mhe.ring.primes import ntt_primes, smallest_root
from mhe.ring.ring import Ring, ring
from mhe.ring.sampling import public_stream, uniform

SEED = bytes(range(32))
BITS = (20, 31, 45, 60, 61)


def bit_reversed(i: int, n: int) -> int:
    return int(format(i, f"0{n.bit_length() - 1}b")[::-1], 2)


def polynomials(r: Ring, label: str) -> list[Words]:
    """Random ones, and those that push the lazy reductions to their limits."""
    top = np.repeat(np.array(r.moduli, dtype=np.uint64)[:, None] - np.uint64(1), r.ring_dim, axis=1)
    alternating = top.copy()
    alternating[:, ::2] = 0
    single = np.zeros_like(top)
    single[:, -1] = top[:, -1]
    return [uniform(public_stream(SEED, label), r), top, alternating, single, np.zeros_like(top)]


def negacyclic(x: list[int], y: list[int], p: int) -> list[int]:
    """Product modulo X^N + 1 and p by Kronecker substitution: one product of two long integers."""
    n, width = len(x), (len(x) * p * p).bit_length() // 8 + 1
    packed = [int.from_bytes(b"".join(c.to_bytes(width, "little") for c in a), "little") for a in (x, y)]
    data = (packed[0] * packed[1]).to_bytes(2 * n * width, "little")
    full = [int.from_bytes(data[i * width : (i + 1) * width], "little") for i in range(2 * n)]
    return [(a - b) % p for a, b in zip(full[:n], full[n:], strict=True)]


@pytest.mark.parametrize("ring_dim", [8, 16, 32, 128])
@pytest.mark.parametrize("bits", BITS)
def test_values_in_bit_reversed_order(ring_dim: int, bits: int) -> None:
    r = ring(ring_dim, ntt_primes(bits, ring_dim, 2))
    for x in polynomials(r, "values"):
        values = r.ntt(x)
        for limb, p in enumerate(r.moduli):
            psi = smallest_root(p, 2 * ring_dim)
            coefficients = x[limb].tolist()
            for i in range(ring_dim):
                point = pow(psi, 2 * bit_reversed(i, ring_dim) + 1, p)
                value = 0
                for c in reversed(coefficients):
                    value = (value * point + c) % p
                assert int(values[limb, i]) == value


@pytest.mark.parametrize("ring_dim", [8, 64, 1024, 4096, 1 << 15])
@pytest.mark.parametrize("bits", BITS)
def test_round_trip(ring_dim: int, bits: int) -> None:
    r = ring(ring_dim, ntt_primes(bits, ring_dim, 2))
    for x in polynomials(r, "round trip"):
        before = x.copy()
        assert np.array_equal(r.intt(r.ntt(x)), x)
        assert np.array_equal(r.ntt(r.intt(x)), x)
        assert np.array_equal(x, before)


@pytest.mark.parametrize("ring_dim", [8, 32, 2048, 4096])
@pytest.mark.parametrize("bits", BITS)
def test_product_is_negacyclic(ring_dim: int, bits: int) -> None:
    r = ring(ring_dim, ntt_primes(bits, ring_dim, 1))
    x, top, alternating, single, _ = polynomials(r, "product")
    for a, b in ((x, alternating), (top, top), (x, single)):
        product = r.intt(r.multiply(r.ntt(a), r.ntt(b)))
        assert product[0].tolist() == negacyclic(a[0].tolist(), b[0].tolist(), r.moduli[0])


def test_smallest_modulus() -> None:
    r = ring(8, (17,))
    x, top, *_ = polynomials(r, "smallest")
    product = r.intt(r.multiply(r.ntt(x), r.ntt(top)))
    assert product[0].tolist() == negacyclic(x[0].tolist(), top[0].tolist(), 17)


@pytest.mark.parametrize("ring_dim", [0, 1, 4, 12, 100])
def test_bad_ring_dim(ring_dim: int) -> None:
    with pytest.raises(ParameterError):
        ring(ring_dim, (2**61 - 1,))
    with pytest.raises(ParameterError):
        Ring(ring_dim, (1201,))
