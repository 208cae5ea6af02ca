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
from models.clear_tiles import clear_backward, clear_forward, forward_rotations, pack_clear
from models.tile_products import (
    add_halves,
    double,
    fold_steps,
    outer_product,
    outer_rotations,
    product,
    product_rotations,
    sample_rotations,
    samples_added,
    transposed_product,
    turned,
)
from models.tiles import Form, TileLayout

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

    def gradient(self, ciphertext: Ciphertext, form: Form, turns: int) -> Floats:
        """A tile of gradients with the rows that belong together added up: (weights_period,)."""
        return self.slots(samples_added(self.backend, self.layout, ciphertext, form, turns))[
            : self.layout.weights_period
        ]


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
    sums = clear_forward(tiles.backend, rows, weights, SCALE)
    products = [tiles.slots(add_halves(tiles.backend, tiles.layout, z)) for z in sums]
    found = tiles.layout.unpack(products, "plain", tiles.weights.shape[1])
    np.testing.assert_allclose(found, tiles.batch @ tiles.weights, atol=1e-12)


def test_transposed_clear_rows_times_encrypted_errors(tiles: Tiles) -> None:
    errors = tiles.double([tiles.encrypt(tile) for tile in tiles.layout.pack(tiles.errors, "plain")])
    rows = pack_clear(tiles.layout, tiles.batch, keep=False)
    sums = clear_backward(tiles.backend, rows, errors, SCALE)
    grid = [[tiles.gradient(t, "plain", tiles.layout.width) for t in line] for line in sums]
    found = tiles.layout.unpack_weights(grid, "first", tiles.weights.shape)
    np.testing.assert_allclose(found, tiles.batch.T @ tiles.errors, atol=1e-12)


def test_clear_rows_are_encoded_once_an_iteration(tiles: Tiles) -> None:
    weights = tiles.grid(tiles.layout.pack_weights(tiles.weights, "first"))
    for keep in (True, False):
        rows = pack_clear(tiles.layout, tiles.batch, keep=keep)
        opened = rows.opened()
        clear_forward(tiles.backend, opened, weights, SCALE)
        encoded = dict(opened.encoded)
        assert len(encoded) == rows.n_pairs * tiles.layout.width
        clear_backward(tiles.backend, opened, [tile for tile in weights[0]], SCALE)
        assert opened.encoded == encoded
        assert len(rows.encoded) == (len(encoded) if keep else 0)


def check_products(tiles: Tiles, form: Form, n_out: int, turns: int) -> None:
    """Forward, backward and gradient of a layer of n_out outputs, each in so many turns."""
    backend, layout = tiles.backend, tiles.layout
    other: Form = "plain" if form == "skewed" else "skewed"
    weights, errors = tiles.weights[:, :n_out], tiles.errors[:, :n_out]
    copied_weights, copied_errors = weights, errors
    if turns < layout.width:
        copied_weights, copied_errors = (layout.repeated(x, turns) for x in (weights, errors))
    a = [tiles.encrypt(t) for t in layout.pack(tiles.batch, form)]
    e = [tiles.encrypt(t) for t in layout.pack(copied_errors, other)]
    half = tiles.grid(layout.pack_weights(copied_weights, form))
    doubled = [tiles.double(line) for line in half]
    skewed = form == "skewed"

    turned_a = list(turned(backend, layout, tiles.double(a), form, turns))
    forward = product(backend, layout, turned_a, half if skewed and turns == layout.width else doubled, form, turns)
    outputs = [tiles.slots(z) for z in forward]
    found = layout.unpack(outputs, other, copied_weights.shape[1])
    np.testing.assert_allclose(found, tiles.batch @ copied_weights, atol=1e-12)

    turned_e = list(turned(backend, layout, tiles.double(e), other, turns))
    backward = transposed_product(backend, layout, turned_e, doubled if skewed else half, other, turns)
    found = layout.unpack([tiles.slots(z) for z in backward], form, tiles.weights.shape[0])
    np.testing.assert_allclose(found, errors @ weights.T, atol=1e-12)

    grid = outer_product(backend, layout, *((turned_a, e) if skewed else (turned_e, a)), turns)
    if not skewed:
        grid = [list(line) for line in zip(*grid, strict=True)]
    sums = [[tiles.gradient(t, other, turns) for t in line] for line in grid]
    found = layout.unpack_weights(sums, form, copied_weights.shape)
    np.testing.assert_allclose(found, tiles.batch.T @ copied_errors, atol=1e-12)


@pytest.mark.parametrize("form", ["plain", "skewed"])
def test_products_of_two_encrypted_matrices(tiles: Tiles, form: Form) -> None:
    check_products(tiles, form, tiles.weights.shape[1], tiles.layout.width)


@pytest.mark.parametrize("form", ["plain", "skewed"])
def test_fewer_turns_for_few_outputs(tiles: Tiles, form: Form) -> None:
    turns = tiles.layout.width // 2
    while turns:
        check_products(tiles, form, max(1, turns - 1), turns)
        turns //= 2


@pytest.mark.parametrize("fewer", [1, 2, 4])
def test_the_planned_rotations_are_those_used(tiles: Tiles, fewer: int) -> None:
    layout, n_in = tiles.layout, tiles.batch.shape[1]
    test_clear_rows_times_encrypted_weights(tiles)
    test_transposed_clear_rows_times_encrypted_errors(tiles)
    clear = forward_rotations(layout, -(-layout.tiles(n_in) // 2))
    planned = clear | {-step for step in clear} | {layout.width, -layout.width, *layout.fold_steps}
    turns = layout.width // fewer
    for form, other in (("plain", "skewed"), ("skewed", "plain")):
        check_products(tiles, form, min(turns, tiles.weights.shape[1]), turns)
        planned |= product_rotations(layout, form, turns) | outer_rotations(layout, turns)
        planned |= sample_rotations(layout, other, turns) | {*fold_steps(layout, turns)}
    assert tiles.backend.used_rotations == {step % layout.n_slots for step in planned} - {0}


@pytest.mark.parametrize("bad", [(32, 8, 2), (32, 4, 8), (32, 3, 1), (24, 2, 1)])
def test_tiles_that_do_not_fit_are_refused(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ParameterError):
        TileLayout(*bad)


def test_a_batch_of_too_many_rows_is_refused() -> None:
    layout = LAYOUTS[0]
    with pytest.raises(ParameterError, match="does not fit the 4 rows"):
        pack_clear(layout, np.zeros((5, 3)), keep=False)
