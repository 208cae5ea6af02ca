"""How matrices cut into square tiles lie in slots, one tile in a ciphertext: what layers of a perceptron are made of.

A tile of width w (a power of two) lies in rows of 2w slots: row s, position x in slot 2ws + x. There are R = S/2w >= w
rows for S slots. A batch A has one row for each of its samples, weights W (w x w) repeat after w rows:

    plain    A[s, x]                          skewed   A[s, (s + x) mod w]
    weights from a plain batch to a skewed one:        W[x, (m + x) mod w]
    weights from a skewed batch to a plain one:        W[(m + x) mod w, x]
    weights for clear rows, to a plain batch:          W[m, x], and from position w on the next tile down, in its place

A tile is *half* if positions from w on are zero, *doubled* if position x holds what x mod w does: rotated by k < w
slots, the first w positions of a doubled tile are its columns turned by k. Products: `models.tile_products`,
`models.clear_tiles`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from mhe.errors import ParameterError
from models.packing import doublings, power_of_two_at_least

Floats = npt.NDArray[np.float64]
Form = Literal["plain", "skewed"]
WeightsForm = Literal["first", "plain", "skewed"]
"""How weights are stored: for clear rows, for a plain batch, for a skewed batch."""


@dataclass(frozen=True)
class TileLayout:
    """Tiles of `width` columns in n_slots slots; both powers of two, 2 width^2 <= n_slots. baby: divides width."""

    n_slots: int
    width: int
    baby: int

    def __post_init__(self) -> None:
        for name, value in (("width", self.width), ("baby", self.baby), ("n_slots", self.n_slots)):
            if value < 1 or value & (value - 1):
                raise ParameterError(f"{name} of a tile is {value}; need a power of two")
        if 2 * self.width**2 > self.n_slots or self.baby > self.width:
            raise ParameterError(
                f"tiles of {self.width} columns in {self.baby} baby steps do not fit {self.n_slots} slots; need "
                f"2 * width^2 <= slots and baby <= width: take a larger ring_dim, or narrower tiles"
            )

    @property
    def stride(self) -> int:
        """Slots of a row."""
        return 2 * self.width

    @property
    def n_diagonals(self) -> int:
        """Of a tile of clear rows."""
        return self.width

    @property
    def rows(self) -> int:
        """Samples of a batch."""
        return self.n_slots // self.stride

    @property
    def weights_period(self) -> int:
        return self.width * self.stride

    @property
    def mask(self) -> Floats:
        """1 at the first half of each row, 0 at the second: (stride,)."""
        return np.repeat([1.0, 0.0], self.width)

    def present(self, n_rows: int) -> Floats:
        """1 at the first half of the first n_rows rows, 0 elsewhere: (n_slots,)."""
        return np.where(np.arange(self.rows)[:, None] < n_rows, self.mask, 0.0).ravel()

    # steps

    def babies(self, turns: int) -> range:
        """Baby steps of a product of so many terms, a power of two up to width: at most half of them."""
        wanted = self.baby if turns == self.width else min(self.baby, 1 << (turns.bit_length() // 2))
        return range(min(wanted, max(1, turns // 2)))

    def clear_baby(self, n_tiles: int) -> int:
        """Baby steps of a product with so many tiles of clear rows: every tile makes them, giant steps are shared."""
        sizes = [1 << k for k in range(self.width.bit_length())]
        return min(sizes, key=lambda baby: n_tiles * (baby - 1) + self.width // baby)

    @cached_property
    def fold_steps(self) -> tuple[int, ...]:
        """Rotations that add up the rows of a gradient that belong to the same row of weights."""
        return doublings(self.weights_period, self.n_slots)

    @property
    def row_steps(self) -> tuple[int, ...]:
        """Rotations that add up all rows."""
        return doublings(self.stride, self.n_slots)

    @property
    def skewed_row_steps(self) -> tuple[int, ...]:
        """Rotations that add up w rows of a skewed, doubled tile."""
        return tuple(k * (1 - self.stride) for k in doublings(1, self.width))

    # values to slots and back

    def tiles(self, columns: int) -> int:
        """How many tiles so many columns take."""
        return -(-columns // self.width)

    def pack(self, matrix: Floats, form: Form) -> list[Floats]:
        """A batch (at most rows, columns) as half tiles of (n_slots,) each."""
        return [self._place(tile, self._columns(form, self.rows)) for tile in self.cut(matrix)]

    def unpack(self, slots: Sequence[Floats], form: Form, columns: int) -> Floats:
        """The batch (rows, columns) of half or doubled tiles."""
        index = self._columns(form, self.rows)
        tiles = []
        for values in slots:
            tile = np.empty((self.rows, self.width))
            np.put_along_axis(tile, index, values.reshape(self.rows, self.stride)[:, : self.width], axis=1)
            tiles.append(tile)
        return np.concatenate(tiles, axis=1)[:, :columns]

    def weights_grid(self, n_in: int, n_out: int, kind: WeightsForm) -> tuple[int, int]:
        """Tiles of weights (n_in, n_out), down and across: for clear rows, a pair counts for one."""
        down = self.tiles(n_in)
        return (-(-down // 2) if kind == "first" else down), self.tiles(n_out)

    def pack_weights(self, weights: Floats, kind: WeightsForm) -> list[list[Floats]]:
        """(inputs, outputs) as a grid [input tile][output tile] of tiles of (weights_period,) each."""
        row, column = self._weights_index(kind)
        n_in, n_out = self.weights_grid(weights.shape[0], weights.shape[1], kind)
        halves = 2 if kind == "first" else 1
        padded = np.zeros((n_in * halves * self.width, n_out * self.width))
        padded[: weights.shape[0], : weights.shape[1]] = weights
        grid = padded.reshape(n_in, halves, self.width, n_out, self.width)
        tiles = np.zeros((n_in, n_out, self.width, 2, self.width))
        for half in range(halves):
            tiles[:, :, :, half] = grid[:, half].transpose(0, 2, 1, 3)[:, :, row, column]
        return [[tile.ravel() for tile in line] for line in tiles]

    def unpack_weights(self, grid: Sequence[Sequence[Floats]], kind: WeightsForm, shape: tuple[int, int]) -> Floats:
        """(inputs, outputs) of such tiles; of others than those for clear rows, the first half is read."""
        row, column = self._weights_index(kind)
        halves = 2 if kind == "first" else 1
        weights = np.empty((len(grid), halves, self.width, len(grid[0]), self.width))
        for i, line in enumerate(grid):
            for j, values in enumerate(line):
                tile = values.reshape(-1, 2, self.width)[: self.width]
                for half in range(halves):
                    weights[i, half, row, j, column] = tile[:, half]
        return weights.reshape(len(grid) * halves * self.width, -1)[: shape[0], : shape[1]]

    def pack_bias(self, bias: Floats, form: Form) -> list[Floats]:
        """(columns,) as half tiles of (stride,) or, skewed, (weights_period,) each: the same in every row."""
        matrix = np.broadcast_to(bias, (self.rows, len(bias)))
        period = self.stride if form == "plain" else self.weights_period
        return [tile[:period] for tile in self.pack(np.asarray(matrix), form)]

    def unpack_bias(self, slots: Sequence[Floats], columns: int) -> Floats:
        """(columns,); row 0 is the same in both forms."""
        return np.concatenate([values[: self.width] for values in slots])[:columns]

    def repeated(self, matrix: Floats, period: int) -> Floats:
        """(..., columns) with zeros up to `period` columns, and these again and again: (..., width)."""
        padded = np.zeros((*matrix.shape[:-1], period))
        padded[..., : matrix.shape[-1]] = matrix
        return np.tile(padded, self.width // period)

    def cut(self, matrix: Floats) -> list[Floats]:
        """(at most rows, columns) as matrices (rows, width). ParameterError if there are more rows."""
        if matrix.shape[0] > self.rows:
            raise ParameterError(f"a batch of {matrix.shape[0]} rows does not fit the {self.rows} rows of a tile")
        n = self.tiles(matrix.shape[1])
        padded = np.zeros((self.rows, n * self.width))
        padded[: matrix.shape[0], : matrix.shape[1]] = matrix
        return [padded[:, t * self.width : (t + 1) * self.width] for t in range(n)]

    def _place(self, tile: Floats, index: npt.NDArray[np.intp]) -> Floats:
        slots = np.zeros((self.rows, self.stride))
        slots[:, : self.width] = np.take_along_axis(tile, index, axis=1)
        return slots.ravel()

    def _columns(self, form: Form, rows: int) -> npt.NDArray[np.intp]:
        """Which column stands at (row, position)."""
        s, x = np.ogrid[:rows, : self.width]
        columns: npt.NDArray[np.intp] = x + 0 * s if form == "plain" else (s + x) % self.width
        return columns

    def _weights_index(self, kind: WeightsForm) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Which row and column of the weights stand at (row m, position x)."""
        m, x = np.ogrid[: self.width, : self.width]
        turned = (m + x) % self.width
        straight = x + 0 * m
        if kind == "first":
            return m + 0 * x, straight
        return (straight, turned) if kind == "plain" else (turned, straight)


def coupled_width(outputs: int) -> int:
    """Columns of the tiles of so many coupled outputs, at least: see `coupling_steps`."""
    return 2 * power_of_two_at_least(outputs)


def coupling_steps(outputs: int) -> tuple[int, ...]:
    """Rotations by which a doubled tile of at least `coupled_width` columns becomes the sum over its outputs:
    x + rot(x, step) for each step in turn.

    They reach less than P = coupled_width / 2 columns ahead and P back: all outputs of a row from any of them, and
    nothing of the row's other copy, which is a width away.
    """
    span = power_of_two_at_least(outputs)
    return (*doublings(1, span), -span)
