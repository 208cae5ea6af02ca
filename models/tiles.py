"""Products of matrices cut into square tiles, one tile in a ciphertext: what layers of a perceptron are made of.

A tile of width w (a power of two) lies in rows of 2w slots: row s, position x in slot 2ws + x. There are R = S/2w >= w
rows for S slots. A batch A has one row for each of its samples, weights W (w x w) repeat after w rows:

    plain    A[s, x]                          skewed   A[s, (s + x) mod w]
    weights from a plain batch to a skewed one:        W[x, (m + x) mod w]        (also weights of the first layer,
    weights from a skewed batch to a plain one:        W[(m + x) mod w, x]         plain: W[m, x])

A tile is *half* if positions from w on are zero, *doubled* if position x holds what x mod w does: rotated by k < w
slots, the first w positions of a doubled tile are its columns turned by k. Then with

    turn(P, Q; a, b) = sum over 0 <= k < w of rot(P, ka) * rot(Q, kb),   H = 2w a rotation by one row,

    A W = turn(A, K; 1, H)           for skewed A, K half: plain and half
    A W = turn(A, K; 1, 1 - H)       for plain A: skewed, but positions from w on hold anything and want a mask
    E W^T                            likewise with the two exchanged: from plain E to skewed by (1, 1 - H), and back
    A^T E = turn(P, Q; 1 - H, -H)    for the skewed one P and the plain one Q of A and E, Q half: half, as the weights;
                                     a row sums w samples, so that rows w apart are added up in the end

All operands called P are doubled. So plain and skewed alternate from layer to layer, weights are never transformed, and
a step back costs what a step forward does. With k = g + b (giant g, baby b) and common rotations drawn out,

    turn(P, Q; a, b) = sum_g rot( sum_b rot(rot(P, g (a - b)), b a) * rot(Q, b b), g b)

which takes one relinearisation for each g. Jiang, Kim, Lauter, Song, "Secure outsourced matrix computation and
application to neural networks", CCS 2018 (ePrint 2018/1041), section 3, with weights stored so that their permutations
of operands fall away; Halevi and Shoup, CRYPTO 2014, for baby steps and giant steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext, Plaintext
from mhe.errors import ParameterError
from models.linalg import encode_once
from models.packing import doublings

Floats = npt.NDArray[np.float64]
Form = Literal["plain", "skewed"]


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
    def rows(self) -> int:
        """Samples of a batch."""
        return self.n_slots // self.stride

    @property
    def weights_period(self) -> int:
        return self.width * self.stride

    @cached_property
    def giants(self) -> tuple[int, ...]:
        return tuple(range(0, self.width, self.baby))

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

    @property
    def mask(self) -> Floats:
        """1 at the first half of each row, 0 at the second: (stride,)."""
        return np.repeat([1.0, 0.0], self.width)

    def present(self, n_rows: int) -> Floats:
        """1 at the first half of the first n_rows rows, 0 elsewhere: (n_slots,)."""
        return np.where(np.arange(self.rows)[:, None] < n_rows, self.mask, 0.0).ravel()

    # values to slots and back

    def tiles(self, columns: int) -> int:
        """How many tiles so many columns take."""
        return -(-columns // self.width)

    def pack(self, matrix: Floats, form: Form) -> list[Floats]:
        """A batch (at most rows, columns) as half tiles of (n_slots,) each."""
        return [self._place(tile, self._columns(form, self.rows)) for tile in self._cut(matrix, self.rows)]

    def unpack(self, slots: Sequence[Floats], form: Form, columns: int) -> Floats:
        """The batch (rows, columns) of half or doubled tiles."""
        index = self._columns(form, self.rows)
        tiles = []
        for values in slots:
            tile = np.empty((self.rows, self.width))
            np.put_along_axis(tile, index, values.reshape(self.rows, self.stride)[:, : self.width], axis=1)
            tiles.append(tile)
        return np.concatenate(tiles, axis=1)[:, :columns]

    def pack_weights(self, weights: Floats, kind: WeightsForm) -> list[list[Floats]]:
        """(inputs, outputs) as a grid [input tile][output tile] of half tiles of (weights_period,) each."""
        row, column = self._weights_index(kind)
        n_in, n_out = self.tiles(weights.shape[0]), self.tiles(weights.shape[1])
        padded = np.zeros((n_in * self.width, n_out * self.width))
        padded[: weights.shape[0], : weights.shape[1]] = weights
        grid = padded.reshape(n_in, self.width, n_out, self.width)
        zeros = np.zeros((self.width, self.width))
        return [
            [np.concatenate([grid[i, :, j][row, column], zeros], axis=1).ravel() for j in range(n_out)]
            for i in range(n_in)
        ]

    def unpack_weights(self, grid: Sequence[Sequence[Floats]], kind: WeightsForm, shape: tuple[int, int]) -> Floats:
        """(inputs, outputs) of half or doubled tiles."""
        row, column = self._weights_index(kind)
        weights = np.empty((len(grid) * self.width, len(grid[0]) * self.width))
        for i, line in enumerate(grid):
            for j, values in enumerate(line):
                tile = weights[i * self.width : (i + 1) * self.width, j * self.width : (j + 1) * self.width]
                tile[row, column] = values.reshape(-1, self.stride)[: self.width, : self.width]
        return weights[: shape[0], : shape[1]]

    def pack_bias(self, bias: Floats, form: Form) -> list[Floats]:
        """(columns,) as half tiles of (stride,) or, skewed, (weights_period,) each: the same in every row."""
        matrix = np.broadcast_to(bias, (self.rows, len(bias)))
        period = self.stride if form == "plain" else self.weights_period
        return [tile[:period] for tile in self.pack(np.asarray(matrix), form)]

    def unpack_bias(self, slots: Sequence[Floats], columns: int) -> Floats:
        """(columns,); row 0 is the same in both forms."""
        return np.concatenate([values[: self.width] for values in slots])[:columns]

    def _cut(self, matrix: Floats, rows: int) -> list[Floats]:
        if matrix.shape[0] > rows:
            raise ParameterError(f"a batch of {matrix.shape[0]} rows does not fit the {rows} rows of a tile")
        n = self.tiles(matrix.shape[1])
        padded = np.zeros((rows, n * self.width))
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

    # rotations

    def turn_rotations(self, a: int, b: int) -> set[int]:
        """Rotations of `turn` for these two steps."""
        babies = {k * step for k in range(self.baby) for step in (a, b)}
        return babies | {g * step for g in self.giants for step in (a - b, b)}

    def first_rotations(self) -> set[int]:
        """Rotations of the products with clear rows, forward and backward."""
        forward = {k * self.stride for k in (*range(self.baby), *self.giants)}
        return forward | {-step for step in forward}

    @property
    def product(self) -> tuple[int, int]:
        """Steps of A W for skewed A, and of E W^T for skewed E."""
        return 1, self.stride

    @property
    def skewing_product(self) -> tuple[int, int]:
        """Steps of A W for plain A, and of E W^T for plain E."""
        return 1, 1 - self.stride

    @property
    def gradient(self) -> tuple[int, int]:
        """Steps of A^T E."""
        return 1 - self.stride, -self.stride


WeightsForm = Literal["first", "plain", "skewed"]
"""How weights are stored: for clear rows, for a plain batch, for a skewed batch."""


def double(backend: Backend, layout: TileLayout, tile: Ciphertext) -> Ciphertext:
    """The doubled tile of a half one."""
    return backend.add(tile, backend.rotate(tile, -layout.width))


def turn(
    backend: Backend,
    layout: TileLayout,
    left: Sequence[Ciphertext],
    right: Sequence[Ciphertext],
    outputs: Sequence[Sequence[tuple[int, int]]],
    steps: tuple[int, int],
) -> list[Ciphertext]:
    """For each output the sum of turn(left[i], right[j]) over its pairs (i, j), at the product's scale (not rescaled).

    left: doubled tiles. right: tiles, at the same limbs. Every output has at least one pair.
    """
    a, b = steps
    babies = range(layout.baby)
    turned_right = [backend.rotate_hoisted(tile, [k * b for k in babies]) for tile in right]
    giants = [backend.rotate_hoisted(tile, [g * (a - b) for g in layout.giants]) for tile in left]
    parts: list[dict[int, Ciphertext]] = [{} for _ in outputs]
    for g in layout.giants:
        turned_left = [backend.rotate_hoisted(giant[g * (a - b)], [k * a for k in babies]) for giant in giants]
        for part, pairs in zip(parts, outputs, strict=True):
            part[g * b] = backend.multiply_accumulate(
                (turned_left[i][k * a], turned_right[j][k * b]) for i, j in pairs for k in babies
            )
    return [backend.rotate_and_sum(part) for part in parts]


def product(
    backend: Backend,
    layout: TileLayout,
    doubled: Sequence[Ciphertext],
    weights: Sequence[Sequence[Ciphertext]],
    form: Form,
) -> list[Ciphertext]:
    """A W, for doubled tiles of A, which has this form, not rescaled: half tiles if A is skewed.

    weights: grid [input tile][output tile], doubled if A is plain.
    """
    n_in, n_out = len(weights), len(weights[0])
    outputs = [[(i, i * n_out + j) for i in range(n_in)] for j in range(n_out)]
    return turn(backend, layout, doubled, [t for line in weights for t in line], outputs, _steps(layout, form))


def transposed_product(
    backend: Backend,
    layout: TileLayout,
    doubled: Sequence[Ciphertext],
    weights: Sequence[Sequence[Ciphertext]],
    form: Form,
) -> list[Ciphertext]:
    """E W^T, as `product`: for doubled tiles of E, which has this form; weights doubled if E is plain."""
    n_in, n_out = len(weights), len(weights[0])
    outputs = [[(j, i * n_out + j) for j in range(n_out)] for i in range(n_in)]
    return turn(backend, layout, doubled, [t for line in weights for t in line], outputs, _steps(layout, form))


def _steps(layout: TileLayout, form: Form) -> tuple[int, int]:
    return layout.product if form == "skewed" else layout.skewing_product


def add_bias(backend: Backend, z: Ciphertext, bias: Ciphertext, present: Floats, scale: float) -> Ciphertext:
    """z, a product not yet rescaled, plus the bias where there are samples, and 0 elsewhere: at this scale, two limbs
    lower.
    """
    z = backend.rescale(z)
    wide = scale * backend.parameters.moduli[z.limbs - 1]
    terms = [(x, backend.encode(present, z.limbs, wide / x.scale)) for x in (z, backend.drop_limbs(bias, z.limbs))]
    return backend.rescale(backend.multiply_accumulate_plain(terms))


@dataclass(frozen=True, eq=False)
class ClearTiles:
    """A clear batch X, ready for products with encrypted weights and errors.

    diagonals[input tile][giant][baby]: (n_slots,) holds X[s - g, (s + b) mod w] at (s, x) for x < w, 0 elsewhere, of
    that tile's columns. They are encoded when they are used, and kept then if `keep`.
    """

    layout: TileLayout
    diagonals: Sequence[Mapping[int, Sequence[Floats]]]
    keep: bool
    encoded: dict[tuple[int, ...], Plaintext]

    @property
    def n_tiles(self) -> int:
        return len(self.diagonals)

    def plaintext(self, backend: Backend, tile: int, giant: int, baby: int, limbs: int, scale: float) -> Plaintext:
        values = self.diagonals[tile][giant][baby]
        return encode_once(backend, self.encoded, (tile, giant, baby), values, limbs, scale, keep=self.keep)


def pack_clear(layout: TileLayout, x: Floats, *, keep: bool) -> ClearTiles:
    """Rows (at most layout.rows, columns) as tiles of diagonals."""
    diagonals = []
    for tile in layout._cut(x, layout.rows):
        diagonals.append({g: [_diagonal(layout, tile, g, k) for k in range(layout.baby)] for g in layout.giants})
    return ClearTiles(layout, diagonals, keep, {})


def _diagonal(layout: TileLayout, tile: Floats, giant: int, baby: int) -> Floats:
    s = np.arange(layout.rows)
    values = tile[(s - giant) % layout.rows, (s + baby) % layout.width]
    return np.outer(values, layout.mask).ravel()


def clear_forward(
    backend: Backend, x: ClearTiles, weights: Sequence[Sequence[Ciphertext]], scale: float
) -> list[Ciphertext]:
    """X W: plain half tiles, at the product's scale (not rescaled). weights: grid [input tile][output tile]."""
    layout, stride = x.layout, x.layout.stride
    limbs = weights[0][0].limbs
    steps = [k * stride for k in range(layout.baby)]
    turned = [[backend.rotate_hoisted(tile, steps) for tile in line] for line in weights]
    parts: list[dict[int, Ciphertext]] = [{} for _ in weights[0]]
    for g in layout.giants:
        row = [x.plaintext(backend, i, g, k, limbs, scale) for i in range(x.n_tiles) for k in range(layout.baby)]
        for j, part in enumerate(parts):
            vector = [turned[i][j][step] for i in range(x.n_tiles) for step in steps]
            (part[g * stride],) = backend.multiply_matrix_plain([row], vector)
    return [backend.rotate_and_sum(part) for part in parts]


def clear_backward(
    backend: Backend, x: ClearTiles, errors: Sequence[Ciphertext], scale: float
) -> Iterator[list[Ciphertext]]:
    """X^T E, for each input tile one by one: half tiles [output tile] as weights, at the product's scale.

    A row sums `width` samples; rows `width` apart are to be added up (`TileLayout.fold_steps`).
    """
    layout, stride = x.layout, x.layout.stride
    limbs = errors[0].limbs
    steps = [-g * stride for g in layout.giants]
    turned = [backend.rotate_hoisted(e, steps) for e in errors]
    for i in range(x.n_tiles):
        matrix = [[x.plaintext(backend, i, g, k, limbs, scale) for g in layout.giants] for k in range(layout.baby)]
        found = []
        for rotations in turned:
            sums = backend.multiply_matrix_plain(matrix, [rotations[step] for step in steps])
            found.append(backend.rotate_and_sum({-k * stride: part for k, part in enumerate(sums)}))
        yield found
