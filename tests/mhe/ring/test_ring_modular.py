"""Element-wise arithmetic against Python integers, on the values where lazy reductions go wrong first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhe.errors import ParameterError
from mhe.ring.modular import add_rows, first_unreduced_row, words
from mhe.ring.primes import ntt_primes
from mhe.ring.residues import Residues, residues

PRIMES = tuple(p for bits in (20, 29, 31, 32, 33, 40, 45, 53, 59, 60, 61) for p in ntt_primes(bits, 1024, 2))
ODD = (5, 7, 9, 2**30 + 1, 2**32 + 1, 2**61 - 1, 2**60 + 1)
"""Extreme moduli: the shortest, the longest, just above powers of two; the arithmetic does not need primes."""


def edge_values(p: int) -> st.SearchStrategy[int]:
    edges = sorted({v % p for v in (0, 1, 2, p // 2, p // 2 + 1, p - 2, p - 1, 2**32 - 1, 2**32, 2**31, -(2**32))})
    return st.one_of(st.sampled_from(edges), st.integers(0, p - 1))


@st.composite
def operands(draw: st.DrawFn) -> tuple[int, list[int], list[int], list[int]]:
    p = draw(st.sampled_from(PRIMES + ODD))
    n = draw(st.integers(1, 12))
    column = st.lists(edge_values(p), min_size=n, max_size=n)
    return p, draw(column), draw(column), draw(column)


def row(values: list[int]) -> np.ndarray:
    return words(values).reshape(1, -1)


@settings(deadline=None, max_examples=120)
@given(operands(), st.integers(-(2**200), 2**200))
def test_arithmetic_agrees_with_integers(case: tuple[int, list[int], list[int], list[int]], constant: int) -> None:
    p, x, y, z = case
    system = residues((p,))
    pairs = list(zip(x, y, strict=True))
    assert system.add(row(x), row(y)).tolist() == [[(a + b) % p for a, b in pairs]]
    assert system.subtract(row(x), row(y)).tolist() == [[(a - b) % p for a, b in pairs]]
    assert system.multiply(row(x), row(y)).tolist() == [[a * b % p for a, b in pairs]]
    assert system.negate(row(x)).tolist() == [[-a % p for a in x]]
    assert system.multiply_constant(row(x), constant).tolist() == [[a * constant % p for a in x]]
    accumulator = row(z)
    assert system.multiply_add(accumulator, row(x), row(y)) is None
    assert accumulator.tolist() == [[(c + a * b) % p for (a, b), c in zip(pairs, z, strict=True)]]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_signed_integers(values: list[int]) -> None:
    values = [*values, -(2**63), 2**63 - 1, -1, 0, 1, PRIMES[-1], -PRIMES[-1]]
    system = residues(PRIMES + ODD[:2])
    expected = [[v % p for v in values] for p in system.moduli]
    assert system.from_signed(np.array(values, dtype=np.int64)).tolist() == expected


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 20), st.integers(-(2**700), 2**700), st.sampled_from([1, 32]), st.data())
def test_unsigned_words(n_words: int, offset: int, repeat: int, data: st.DataObject) -> None:
    """Any number of columns; a multiple of 32 takes another way where the integers are not too long."""
    edge = st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
    column = st.lists(st.one_of(edge, st.integers(0, 2**64 - 1)), min_size=n_words, max_size=n_words)
    columns = [*data.draw(st.lists(column, min_size=1, max_size=4)), [2**64 - 1] * n_words]
    values = [sum(w << (64 * k) for k, w in enumerate(c)) for c in columns]
    array = np.tile(np.array(columns, dtype=np.uint64).T, (1, repeat))
    for added in (0, offset):
        expected = [[(v + added) % p for v in values] * repeat for p in PRIMES]
        assert residues(PRIMES).from_words(array, added).tolist() == expected


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.booleans())
def test_words_with_few_bits_set(bits: int, negative: bool) -> None:
    """The largest integers of every length, less half their range: a refresh mask's."""
    offset = -(1 << (bits - 1)) if negative else 0
    values = [(1 << bits) - 1, 0, 1, 1 << (bits - 1)] * 8
    array = np.array([[v >> (64 * k) & (2**64 - 1) for v in values] for k in range(-(-bits // 64))], dtype=np.uint64)
    expected = [[(v + offset) % p for v in values] for p in PRIMES]
    assert residues(PRIMES).from_words(array, offset).tolist() == expected


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_adding_small_integers(data: st.DataObject) -> None:
    least = min(PRIMES)
    c = data.draw(st.lists(st.integers(1 - least, least - 1), min_size=1, max_size=20))
    c = [*c, 1 - least, least - 1, 0]
    for x in (0, 1, -1):
        got = residues(PRIMES).add_small(residues(PRIMES).from_integers([x] * len(c)), np.array(c, dtype=np.int64))
        assert got.tolist() == [[(x + v) % p for v in c] for p in PRIMES]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-(2**700), 2**700), max_size=5))
def test_integers_of_any_size(values: list[int]) -> None:
    assert residues(PRIMES).from_integers(values).tolist() == [[v % p for v in values] for p in PRIMES]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, len(PRIMES)), st.lists(st.fractions(-0.5, 0.5), max_size=5))
def test_integers_come_back_centred(limbs: int, fractions: list[float]) -> None:
    system = residues(PRIMES[:limbs])
    half = system.modulus // 2
    values = [max(-half, min(half, int(f * system.modulus))) for f in fractions] + [half, -half, 0, -1]
    assert system.to_integers(system.from_integers(values)) == values


def test_many_columns_and_rows() -> None:
    """More columns than a block, and not a multiple of it."""
    n = 1283
    values = [(-1) ** k * 3**k for k in range(n)]
    system = residues(PRIMES[::3])
    q = system.modulus
    centred = [v % q - q if 2 * (v % q) > q else v % q for v in values]
    assert system.to_integers(system.from_integers(values)) == centred
    x = system.from_integers(values)
    assert system.to_integers(system.multiply(x, x)) == system.to_integers(
        system.from_integers([v * v for v in values])
    )


def test_one_constant_per_limb() -> None:
    system = residues(PRIMES[:3])
    x = system.from_integers([5, -7])
    constants = (3, -(2**90), 0)
    expected = [[v * c % p for v in (5, -7)] for c, p in zip(constants, system.moduli, strict=True)]
    assert system.multiply_constant(x, constants).tolist() == expected


@pytest.mark.parametrize("columns", [0, 1, 3, 700])
def test_add_rows_any_number_of_columns(columns: int) -> None:
    moduli = words(PRIMES[:4])
    top = np.repeat(moduli[:, None] - np.uint64(1), columns, axis=1)
    before = top.copy()
    total = add_rows(top, top, moduli)
    assert total.shape == (4, columns)
    assert (total == moduli[:, None] - np.uint64(2)).all()
    assert (top == before).all()


def test_first_unreduced_row() -> None:
    moduli = words(PRIMES[:4])
    rows = np.repeat(moduli[:, None] - np.uint64(1), 5, axis=1)
    assert first_unreduced_row(rows, moduli) == -1
    assert first_unreduced_row(rows[:, :0], moduli) == -1
    rows[3, 4] = moduli[3]
    assert first_unreduced_row(rows, moduli) == 3
    rows[1, 0] = 2**64 - 1
    assert first_unreduced_row(rows, moduli) == 1


def test_memory_of_any_kind_is_read() -> None:
    """Messages arrive read-only and at odd addresses; views have strides."""
    moduli = words(PRIMES[:2])
    rows = np.arange(10, dtype=np.uint64).reshape(2, 5)
    expected = (2 * rows).tolist()
    unaligned = np.frombuffer(b"x" + rows.tobytes(), dtype=np.uint64, offset=1).reshape(2, 5)
    assert not unaligned.flags.aligned and not unaligned.flags.writeable
    assert add_rows(unaligned, rows, moduli).tolist() == expected
    assert first_unreduced_row(unaligned, moduli) == -1
    strided = np.asfortranarray(rows)
    assert add_rows(strided, rows, moduli).tolist() == expected
    rows.flags.writeable = False
    assert add_rows(rows, rows, moduli).tolist() == expected


def test_results_are_new_and_operands_unchanged() -> None:
    system = residues(PRIMES[:2])
    x, y = system.from_integers([1, 2, 3]), system.from_integers([4, 5, 6])
    kept_x, kept_y = x.copy(), y.copy()
    results = [
        system.add(x, y), system.subtract(x, y), system.multiply(x, y), system.negate(x), system.multiply_constant(x, 1)
    ]  # fmt: skip
    assert not any(np.shares_memory(r, x) or np.shares_memory(r, y) for r in results)
    assert (x == kept_x).all() and (y == kept_y).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda s, x: s.add(x, x[:, :1]),
        lambda s, x: s.add(x[:1], x[:1]),
        lambda s, x: s.add(x.astype(np.int64), x),
        lambda s, x: s.add(x.tolist(), x),
        lambda s, x: s.multiply(x[0], x[0]),
        lambda s, x: s.multiply_constant(x, (1, 2, 3)),
        lambda s, x: s.multiply_add(x[:, ::2], x[:, ::2], x[:, ::2]),
        lambda s, x: s.from_signed(x[0]),
        lambda s, x: s.from_words(x[0]),
        lambda s, x: s.add_small(x, x[0]),
        lambda s, x: s.add_small(x, np.zeros(3, dtype=np.int64)),
        lambda s, x: s.to_integers(x[:1]),
        lambda s, x: add_rows(x, x[:, :2], words(s.moduli)),
        lambda s, x: add_rows(x, x, words(s.moduli[:1])),
        lambda s, x: add_rows(x.astype(np.float64), x, words(s.moduli)),
        lambda s, x: first_unreduced_row(x, words(s.moduli[:1])),
    ],
)
def test_callers_mistakes(call) -> None:
    system = residues(PRIMES[:2])
    with pytest.raises(ParameterError, match="need"):
        call(system, system.from_integers([1, 2, 3, 4]))


def test_read_only_accumulator_is_refused() -> None:
    system = residues(PRIMES[:2])
    x = system.from_integers([1, 2])
    x.flags.writeable = False
    with pytest.raises(ParameterError, match="writable"):
        system.multiply_add(x, x, x)


@pytest.mark.parametrize("moduli", [(), (17, 17), (16,), (3,), (2**61 + 1,), (0,), (-17,)])
def test_bad_moduli(moduli: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError):
        Residues(moduli)
