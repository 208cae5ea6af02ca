"""Tiles: what is packed comes back, every product is one of matrices, and takes exactly the planned rotations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhe.backend.clear import ClearBackend, ClearCiphertext
from mhe.ciphertext import Ciphertext
from mhe.errors import ParameterError
from mhe.parameters import Parameters
from mhe.ring.primes import ntt_primes
from models.tiles import TileLayout, clear_backward, clear_forward, double, pack_clear, turn

Floats = npt.NDArray[np.float64]

LAYOUTS = [TileLayout(32, 4, 2), TileLayout(128, 4, 1), TileLayout(128, 8, 4), TileLayout(512, 8, 2)]
SCALE = 2.0**40


class Tiles:
    """A layout with an exact evaluator to try its products on, and matrices of several tiles."""

    def __init__(self, layout: TileLayout) -> None:
        n = 2 * layout.n_slots
        chain = ntt_primes(45, n, 4)
        parameters = Parameters(
            ring_dim=n, moduli=chain, special_moduli=ntt_primes(48, n, 1), scale_bits=40, digits=4, n_parties=1,
            refresh_limbs=3, message_bits=4, statistical_bits=30, insecure=True,
        )  # fmt: skip
        self.layout = layout
        self.backend = ClearBackend(parameters, "key", None, noise=False)
        rng = np.random.default_rng(layout.n_slots + layout.width)
        n_in, n_out = layout.width + 3, 2 * layout.width
        self.batch = rng.normal(size=(layout.rows, n_in))
        self.weights = rng.normal(size=(n_in, n_out))
        self.errors = rng.normal(size=(layout.rows, n_out))

    def encrypt(self, slots: Floats) -> Ciphertext:
        return self.backend.import_ciphertext(ClearCiphertext(slots[None], 4, SCALE, "key"), len(slots))

    def grid(self, slots: Sequence[Sequence[Floats]]) -> list[list[Ciphertext]]:
        return [[self.encrypt(tile) for tile in line] for line in slots]

    def double(self, tiles: Sequence[Ciphertext]) -> list[Ciphertext]:
        return [double(self.backend, self.layout, tile) for tile in tiles]

    def slots(self, ciphertext: Ciphertext) -> Floats:
        return np.resize(self.backend.export_ciphertext(ciphertext).values[0], self.layout.n_slots)

    def gradient(self, ciphertext: Ciphertext) -> Floats:
        """A tile of gradients with the rows that belong together added up; its second halves of rows are zero."""
        folded = self.slots(ciphertext).reshape(-1, self.layout.weights_period).sum(axis=0)
        assert not folded.reshape(-1, self.layout.stride)[:, self.layout.width :].any()
        return np.asarray(folded)


@pytest.fixture(params=LAYOUTS, ids=str)
def tiles(request: pytest.FixtureRequest) -> Tiles:
    return Tiles(request.param)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(LAYOUTS), st.integers(1, 20), st.integers(1, 20), st.sampled_from(["plain", "skewed"]))
def test_what_is_packed_comes_back(layout: TileLayout, n_in: int, n_out: int, form: str) -> None:
    rng = np.random.default_rng(n_in * 100 + n_out)
    batch = rng.normal(size=(layout.rows, n_out))
    np.testing.assert_array_equal(layout.unpack(layout.pack(batch, form), form, n_out), batch)
    bias = rng.normal(size=n_out)
    np.testing.assert_array_equal(layout.unpack_bias(layout.pack_bias(bias, form), n_out), bias)
    weights = rng.normal(size=(n_in, n_out))
    for kind in ("first", form):
        packed = layout.pack_weights(weights, kind)
        np.testing.assert_array_equal(layout.unpack_weights(packed, kind, weights.shape), weights)


def test_clear_rows_times_encrypted_weights(tiles: Tiles) -> None:
    weights = tiles.grid(tiles.layout.pack_weights(tiles.weights, "first"))
    rows = pack_clear(tiles.layout, tiles.batch, keep=True)
    products = [tiles.slots(z) for z in clear_forward(tiles.backend, rows, weights, SCALE)]
    for values in products:
        assert not values.reshape(-1, tiles.layout.stride)[:, tiles.layout.width :].any()
    found = tiles.layout.unpack(products, "plain", tiles.weights.shape[1])
    np.testing.assert_allclose(found, tiles.batch @ tiles.weights, atol=1e-12)


def test_transposed_clear_rows_times_encrypted_errors(tiles: Tiles) -> None:
    errors = [tiles.encrypt(tile) for tile in tiles.layout.pack(tiles.errors, "plain")]
    rows = pack_clear(tiles.layout, tiles.batch, keep=False)
    grid = [[tiles.gradient(t) for t in line] for line in clear_backward(tiles.backend, rows, errors, SCALE)]
    found = tiles.layout.unpack_weights(grid, "first", tiles.weights.shape)
    np.testing.assert_allclose(found, tiles.batch.T @ tiles.errors, atol=1e-12)


@pytest.mark.parametrize(("form", "other"), [("plain", "skewed"), ("skewed", "plain")])
def test_products_of_two_encrypted_matrices(tiles: Tiles, form: str, other: str) -> None:
    backend, layout = tiles.backend, tiles.layout
    a = [tiles.encrypt(t) for t in layout.pack(tiles.batch, form)]
    e = [tiles.encrypt(t) for t in layout.pack(tiles.errors, other)]
    half = [t for line in tiles.grid(layout.pack_weights(tiles.weights, form)) for t in line]
    doubled = tiles.double(half)
    n_in, n_out = len(a), len(e)
    skewed = form == "skewed"

    across = [[(i, i * n_out + j) for i in range(n_in)] for j in range(n_out)]
    steps = layout.product if skewed else layout.skewing_product
    forward = turn(backend, layout, tiles.double(a), half if skewed else doubled, across, steps)
    found = layout.unpack([tiles.slots(z) for z in forward], other, tiles.weights.shape[1])
    np.testing.assert_allclose(found, tiles.batch @ tiles.weights, atol=1e-12)

    down = [[(j, i * n_out + j) for j in range(n_out)] for i in range(n_in)]
    steps = layout.skewing_product if skewed else layout.product
    backward = turn(backend, layout, tiles.double(e), doubled if skewed else half, down, steps)
    found = layout.unpack([tiles.slots(z) for z in backward], form, tiles.weights.shape[0])
    np.testing.assert_allclose(found, tiles.errors @ tiles.weights.T, atol=1e-12)

    left, right = (a, e) if skewed else (e, a)
    pairs = [[(i, j) if skewed else (j, i)] for i in range(n_in) for j in range(n_out)]
    sums = [tiles.gradient(g) for g in turn(backend, layout, tiles.double(left), right, pairs, layout.gradient)]
    grid = [sums[i * n_out : (i + 1) * n_out] for i in range(n_in)]
    found = layout.unpack_weights(grid, form, tiles.weights.shape)
    np.testing.assert_allclose(found, tiles.batch.T @ tiles.errors, atol=1e-12)


def test_the_planned_rotations_are_those_used(tiles: Tiles) -> None:
    layout = tiles.layout
    test_clear_rows_times_encrypted_weights(tiles)
    test_transposed_clear_rows_times_encrypted_errors(tiles)
    for form, other in (("plain", "skewed"), ("skewed", "plain")):
        test_products_of_two_encrypted_matrices(tiles, form, other)
    planned = layout.first_rotations() | {-layout.width}
    for steps in (layout.product, layout.skewing_product, layout.gradient):
        planned |= layout.turn_rotations(*steps)
    assert tiles.backend.used_rotations == {step % layout.n_slots for step in planned} - {0}


@pytest.mark.parametrize("bad", [(32, 8, 2), (32, 4, 8), (32, 3, 1), (24, 2, 1)])
def test_tiles_that_do_not_fit_are_refused(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ParameterError):
        TileLayout(*bad)


def test_a_batch_of_too_many_rows_is_refused() -> None:
    layout = LAYOUTS[0]
    with pytest.raises(ParameterError, match="does not fit the 4 rows"):
        pack_clear(layout, np.zeros((5, 3)), keep=False)
