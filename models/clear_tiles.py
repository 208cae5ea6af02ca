"""Products of clear rows X with encrypted weights and errors in tiles: the first layer of a perceptron.

Two tiles of X, side by side in the two halves of a row, meet two of the weights at once. With the diagonals
D_k[s, x] = X[s, (s + k) mod w], and H a rotation by one row,

    X W = sum over k of D_k * rot(W, k H)       the two halves are to be added: plain
    X^T E = sum over k of rot(D_k * E, -k H)    for doubled E: as the weights; a row sums w samples

in k = giant + baby, the giant step drawn out of the diagonals. Both directions take the same diagonals, encoded once if
both are at the same limbs.
Halevi and Shoup, CRYPTO 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext, Plaintext
from models.linalg import encode_once
from models.tiles import TileLayout

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClearTiles:
    """A clear batch X, ready for products with encrypted weights and errors.

    pairs: of tiles (rows, width) of its columns. They are encoded when they are first used.
    keep: whether what is encoded serves later iterations, too.
    """

    layout: TileLayout
    pairs: Sequence[tuple[Floats, Floats]]
    baby: int
    keep: bool
    encoded: dict[tuple[int, ...], Plaintext]

    @property
    def n_pairs(self) -> int:
        return len(self.pairs)

    @property
    def giants(self) -> range:
        return range(0, self.layout.width, self.baby)

    def opened(self) -> ClearTiles:
        """The batch for one iteration: what is encoded goes with it unless it is kept."""
        return self if self.keep else replace(self, encoded={})

    def plaintext(self, backend: Backend, pair: int, giant: int, baby: int, limbs: int, scale: float) -> Plaintext:
        place = pair, giant, baby
        return encode_once(backend, self.encoded, place, lambda: self._diagonal(*place), limbs, scale, keep=True)

    def _diagonal(self, pair: int, giant: int, baby: int) -> Floats:
        """(n_slots,) holds X[s - g, (s + b) mod w] at (s, x) for x < w, of the first tile's columns, and that of the
        second one's for the others.
        """
        s, layout = np.arange(self.layout.rows), self.layout
        place = (s - giant) % layout.rows, (s + baby) % layout.width
        return np.repeat(np.stack([tile[place] for tile in self.pairs[pair]], axis=1).ravel(), layout.width)


def forward_rotations(layout: TileLayout, n_pairs: int) -> set[int]:
    """Rotations of X W."""
    baby = layout.clear_baby(n_pairs)
    return {k * layout.stride for k in (*range(baby), *range(0, layout.width, baby))}


def pack_clear(layout: TileLayout, x: Floats, *, keep: bool, paired: bool = True) -> ClearTiles:
    """Rows (at most layout.rows, columns) as pairs of tiles; or each tile with an empty one, so that X W is half."""
    tiles = layout.cut(x)
    if not paired:
        tiles = [each for tile in tiles for each in (tile, np.zeros_like(tile))]
    if len(tiles) % 2:
        tiles.append(np.zeros_like(tiles[0]))
    pairs = list(zip(tiles[::2], tiles[1::2], strict=True))
    baby = layout.clear_baby(len(pairs))
    return ClearTiles(layout, pairs, baby, keep, {})


def clear_forward(
    backend: Backend, x: ClearTiles, weights: Sequence[Sequence[Ciphertext]], scale: float
) -> list[Ciphertext]:
    """X W, in tiles whose halves are to be added, at the product's scale (not rescaled).

    weights: grid [pair of input tiles][output tile].
    """
    stride = x.layout.stride
    limbs, steps = weights[0][0].limbs, [k * stride for k in range(x.baby)]
    turned = [[backend.rotate_hoisted(tile, steps) for tile in line] for line in weights]
    places = [(i, k) for i in range(x.n_pairs) for k in range(x.baby)]
    matrix = [[x.plaintext(backend, i, g, k, limbs, scale) for i, k in places] for g in x.giants]
    out = []
    for j in range(len(weights[0])):
        sums = backend.multiply_matrix_plain(matrix, [turned[i][j][k * stride] for i, k in places])
        out.append(backend.rotate_and_sum({g * stride: part for g, part in zip(x.giants, sums, strict=True)}))
    return out


def clear_backward(
    backend: Backend, x: ClearTiles, errors: Sequence[Ciphertext], scale: float
) -> list[list[Ciphertext]]:
    """X^T E: grid [pair of input tiles][output tile] as weights, at the product's scale (not rescaled).

    errors: doubled. A row sums `width` samples; rows `width` apart are to be added up (`TileLayout.fold_steps`).
    """
    stride = x.layout.stride
    limbs, steps = errors[0].limbs, [-g * stride for g in x.giants]
    places = [(i, k) for i in range(x.n_pairs) for k in range(x.baby)]
    matrix = [[x.plaintext(backend, i, g, k, limbs, scale) for g in x.giants] for i, k in places]
    columns = []
    for e in errors:
        turned = backend.rotate_hoisted(e, steps)
        sums = dict(zip(places, backend.multiply_matrix_plain(matrix, [turned[step] for step in steps]), strict=True))
        columns.append(
            [backend.rotate_and_sum({-k * stride: sums[i, k] for k in range(x.baby)}) for i in range(x.n_pairs)]
        )
    return [list(line) for line in zip(*columns, strict=True)]
