"""`Ring`: automorphisms, prefixes, domains and refusals."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mhe.errors import ParameterError
from mhe.ring.primes import ntt_primes
from mhe.ring.ring import ring
from mhe.ring.sampling import public_stream, uniform

N = 64
R = ring(N, ntt_primes(60, N, 2) + ntt_primes(30, N, 1))
X = uniform(public_stream(bytes(32), "ring"), R)


def substituted(coefficients: list[int], t: int, p: int) -> list[int]:
    """Coefficients of a(X^t) modulo X^N + 1."""
    n = len(coefficients)
    out = [0] * n
    for k, c in enumerate(coefficients):
        sign, position = divmod(k * t % (2 * n), n)
        out[position] = (out[position] + (-c if sign else c)) % p
    return out


@pytest.mark.parametrize("t", [1, 3, 5, 25, N + 1, 2 * N - 1, -1, -5, 5**20, 2 * N + 3])
def test_automorphism_substitutes_a_power(t: int) -> None:
    image = R.intt(R.automorphism(R.ntt(X), t))
    for row, x, p in zip(image, X, R.moduli, strict=True):
        assert row.tolist() == substituted(x.tolist(), t, p)


def test_automorphisms_compose() -> None:
    x = R.ntt(X)
    assert np.array_equal(R.automorphism(R.automorphism(x, 5), 7), R.automorphism(x, 35))
    assert np.array_equal(R.automorphism(R.automorphism(x, 5), pow(5, -1, 2 * N)), x)


@pytest.mark.parametrize("power", [-1, 0, 1, 2, 3, 5])
def test_powers_of_i_are_monomials(power: int) -> None:
    monomial = np.zeros((R.n_limbs, N), dtype=np.uint64)
    shift = N // 2 * (power % 4)
    monomial[:, shift % N] = 1
    expected = R.multiply(R.ntt(X), R.ntt(R.negate(monomial) if shift >= N else monomial))
    assert np.array_equal(R.times_i(R.ntt(X), power), expected)


def test_even_power_is_no_automorphism() -> None:
    with pytest.raises(ParameterError, match="odd"):
        R.automorphism(X, 4)


def test_same_ring_is_one_object_and_prefixes_share_tables() -> None:
    # not the one of this module, which may have been dropped from the cache since
    whole = ring(N, R.moduli)
    assert ring(N, R.moduli) is whole
    assert whole.prefix(2) is ring(N, R.moduli[:2])
    assert whole.prefix(3) is whole
    assert whole.prefix(2)._tables[1] is whole._tables[1]
    assert np.array_equal(whole.prefix(2).ntt(X[:2]), whole.ntt(X)[:2])


@pytest.mark.parametrize("limbs", [0, -1, 4])
def test_prefix_out_of_range(limbs: int) -> None:
    with pytest.raises(ParameterError, match="need 1 to 3"):
        R.prefix(limbs)


def test_linear_operations_commute_with_the_transform() -> None:
    y = R.intt(X)
    assert np.array_equal(R.ntt(R.add(X, y)), R.add(R.ntt(X), R.ntt(y)))
    assert np.array_equal(R.ntt(R.subtract(X, y)), R.subtract(R.ntt(X), R.ntt(y)))
    assert np.array_equal(R.ntt(R.multiply_constant(X, -12345)), R.multiply_constant(R.ntt(X), -12345))
    assert np.array_equal(R.negate(X), R.subtract(R.subtract(X, X), X))


def test_an_automorphism_is_added_in_place() -> None:
    acc = R.intt(X)
    before = acc.copy()
    R.automorphism_add(acc, X, 5)
    R.automorphism_add(acc, X, -1)
    assert np.array_equal(acc, R.add(R.add(before, R.automorphism(X, 5)), R.automorphism(X, -1)))
    acc.flags.writeable = False
    with pytest.raises(ParameterError, match="in place"):
        R.automorphism_add(acc, X, 5)
    with pytest.raises(ParameterError, match="odd t"):
        R.automorphism_add(before, X, 4)
    with pytest.raises(ParameterError, match="need"):
        R.automorphism_add(before[:2], X, 5)


def test_threads_do_not_disturb_each_other() -> None:
    """Compiled loops release the interpreter lock."""
    big = ring(1 << 12, ntt_primes(60, 1 << 12, 2))
    inputs = [uniform(public_stream(bytes(32), "threads", i), big) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda x: big.intt(big.multiply(big.ntt(x), big.ntt(x))), inputs))
    for x, result in zip(inputs, results, strict=True):
        assert np.array_equal(result, big.intt(big.multiply(big.ntt(x), big.ntt(x))))


def test_conversions_take_any_number_of_columns() -> None:
    values = [-3, 0, 2**100, -(2**100)]
    assert R.to_integers(R.from_integers(values)) == values
    assert R.to_integers(R.from_integers([])) == []
    assert R.from_signed(np.zeros(0, dtype=np.int64)).shape == (3, 0)
    assert R.from_words(np.zeros((2, 0), dtype=np.uint64)).shape == (3, 0)


@pytest.mark.parametrize(
    "x",
    [X[:2], X[:, :-1], X[0], X.astype(np.int64), X.astype(np.float64), X.tolist(), None],
    ids=["limbs", "columns", "axes", "int64", "float64", "list", "none"],
)
@pytest.mark.parametrize("name", ["ntt", "intt", "negate", "add", "multiply", "automorphism"])
def test_arrays_of_another_ring_are_refused(name: str, x: object) -> None:
    second = {"add": (X,), "multiply": (X,), "automorphism": (5,)}.get(name, ())
    with pytest.raises(ParameterError, match="need"):
        getattr(R, name)(x, *second)


@pytest.mark.parametrize(
    "moduli", [(), R.moduli[:1] * 2, (2**61 - 1,), (129 * 257,), (ntt_primes(20, 8, 1, avoid=ntt_primes(20, N, 9))[0],)]
)
def test_unsuitable_moduli(moduli: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError):
        ring(N, moduli)


def test_repr_is_short() -> None:
    assert repr(R) == f"Ring(ring_dim=64, limbs=3, bits={R.modulus.bit_length()})"
