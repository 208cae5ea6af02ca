"""Products of encrypted matrices in tiles (`models.tiles`).

With turn(P, Q; a, b) = sum over 0 <= k < n of rot(P, ka) * rot(Q, kb), H a rotation by one row and n = w,

    A W = turn(A, K; 1, H)          for skewed A, K half: plain and half
    A W = turn(A, K; 1, 1 - H)      for plain A: skewed, but positions from w on hold anything and want a mask
    E W^T                           likewise with the two exchanged: from plain E to skewed by (1, 1 - H), and back
    A^T E = turn(P, Q; 1 - H, -H)   for the skewed one P and the plain one Q of A and E, Q half: half, as the weights;
                                    a row sums w samples, so that rows w apart are added up in the end

All operands called P are doubled. So plain and skewed alternate from layer to layer, weights are never transformed, and
a step back costs what a step forward does. With k = g + b (giant g, baby b) and common rotations drawn out,

    A W   = sum_g rot( sum_b rot(A, b + g c) * rot(K, b d), g d),   (c, d) = (1 - H, H) for skewed A, else (H, 1 - H)
    A^T E = sum_b rot( sum_g rot(P, b + g c) * rot(Q, -g H), -b H)

which takes one relinearisation for each rotation of a sum.

**Two terms in one.** Slots are complex, and half of the n terms do: with h = n/2, sums over k < h, that is g < h, and

    P' = P + i rot(P, h c),    Q' = Q - i rot(Q, -h H),

A W is the real part of the sum with P' in place of P, and its imaginary part turned by h d; A^T E is the real part of
the sum with P' and Q'. Turned once (`Turned`), the skewed one of A and E serves both products that it is in.

**Few outputs.** Weights whose columns repeat with a period n < w are those of a layer of n outputs, many times over,
and n terms are enough for any product with them: A W at position x is a sum over n of the inputs, and the others stand
at positions n, 2n, ... further, all to be added up; E W^T is complete; A^T E at x is a sum over n of the samples, and
the others stand n, 2n, ... rows further (skewed E), or so many rows back and positions further (plain E).

Jiang, Kim, Lauter, Song, "Secure outsourced matrix computation and application to neural networks", CCS 2018 (ePrint
2018/1041), section 3, with weights stored so that their permutations of operands fall away; Halevi and Shoup, CRYPTO
2014, for baby steps and giant steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext
from models.linalg import rotate_and_add
from models.packing import doublings
from models.tiles import Form, TileLayout

Floats = npt.NDArray[np.float64]

Turned = Sequence[Mapping[int, Ciphertext]]
"""rot(P, b + g c) of each tile for all baby steps b, and one giant step."""


def outer_rotations(layout: TileLayout, turns: int) -> set[int]:
    """Rotations of A^T E, for turned tiles, but those of `samples_added`."""
    steps = {*layout.babies(turns)} | {*_giants(layout, turns)} | {turns // 2}
    return {-step * layout.stride for step in steps}


def product_rotations(layout: TileLayout, form: Form, turns: int) -> set[int]:
    """Rotations of A W, for A of this form, but those that complete it (`fold_steps`)."""
    turn, step = _steps(layout, form)
    babies, giants = layout.babies(turns), (*_giants(layout, turns), turns // 2)
    return {*babies} | {g * s for g in giants for s in (turn, step)} | {b * step for b in babies}


def scale_growth(turns: int) -> int:
    """By how many times the scale of a product is larger than those of its factors together (`Backend.parts`)."""
    return 1 if turns == 1 else 2


def double(backend: Backend, layout: TileLayout, tile: Ciphertext) -> Ciphertext:
    """The doubled tile of a half one."""
    return backend.add(tile, backend.rotate(tile, -layout.width))


def turned(
    backend: Backend, layout: TileLayout, doubled: Sequence[Ciphertext], form: Form, turns: int
) -> Iterator[Turned]:
    """Doubled tiles of this form, turned for every product that they are in: for one giant step after the other."""
    step, _ = _steps(layout, form)
    babies, giants = layout.babies(turns), _giants(layout, turns)
    paired = [_paired(backend, tile, turns // 2 * step, 1) for tile in doubled]
    starts = [backend.rotate_hoisted(tile, [g * step for g in giants]) for tile in paired]
    for g in giants:
        yield [backend.rotate_hoisted(start[g * step], babies) for start in starts]


def product(
    backend: Backend,
    layout: TileLayout,
    batch: Iterable[Turned],
    weights: Sequence[Sequence[Ciphertext]],
    form: Form,
    turns: int,
) -> list[Ciphertext]:
    """A W, for turned tiles of A, which has this form, not rescaled: half tiles if A is skewed and no turn is saved.

    weights: grid [input tile][output tile], doubled if A is plain or if there are fewer turns than columns.
    """
    n_in, n_out = len(weights), len(weights[0])
    outputs = [[(i, i * n_out + j) for i in range(n_in)] for j in range(n_out)]
    sums = _product(backend, layout, batch, [t for line in weights for t in line], outputs, form, turns)
    return [rotate_and_add(backend, z, fold_steps(layout, turns), z.period) for z in sums]


def transposed_product(
    backend: Backend,
    layout: TileLayout,
    errors: Iterable[Turned],
    weights: Sequence[Sequence[Ciphertext]],
    form: Form,
    turns: int,
) -> list[Ciphertext]:
    """E W^T, for turned tiles of E, which has this form, not rescaled: half tiles if E is skewed.

    weights: doubled if E is plain.
    """
    n_in, n_out = len(weights), len(weights[0])
    outputs = [[(j, i * n_out + j) for j in range(n_out)] for i in range(n_in)]
    return _product(backend, layout, errors, [t for line in weights for t in line], outputs, form, turns)


def _product(
    backend: Backend,
    layout: TileLayout,
    left: Iterable[Turned],
    right: Sequence[Ciphertext],
    outputs: Sequence[Sequence[tuple[int, int]]],
    form: Form,
    turns: int,
) -> list[Ciphertext]:
    """For each output the sum of the products left[i] * right[j] over its pairs (i, j), at `scale_growth`."""
    _, step = _steps(layout, form)
    babies = layout.babies(turns)
    turned_right = [backend.rotate_hoisted(tile, [b * step for b in babies]) for tile in right]
    parts: list[dict[int, Ciphertext]] = [{} for _ in outputs]
    for g, turned_left in zip(_giants(layout, turns), left, strict=True):
        for part, pairs in zip(parts, outputs, strict=True):
            part[g * step] = backend.multiply_accumulate(
                (turned_left[i][b], turned_right[j][b * step]) for i, j in pairs for b in babies
            )
    sums = [backend.rotate_and_sum(part) for part in parts]
    if turns == 1:
        return sums
    halves = map(backend.parts, sums)
    return [backend.add(low, backend.rotate(high, turns // 2 * step)) for low, high in halves]


def outer_product(
    backend: Backend, layout: TileLayout, skewed: Sequence[Turned], plain: Sequence[Ciphertext], turns: int
) -> list[list[Ciphertext]]:
    """A^T E for the turned tiles of the skewed one of the two and half tiles of the plain one: grid [skewed][plain].

    Not rescaled, and sums of samples are still to be completed (`samples_added`).
    """
    giants, stride = _giants(layout, turns), layout.stride
    paired = [_paired(backend, tile, turns // 2 * -stride, -1) for tile in plain]
    turned_right = [backend.rotate_hoisted(tile, [-g * stride for g in giants]) for tile in paired]

    def entry(i: int, right: Mapping[int, Ciphertext]) -> Ciphertext:
        total = backend.rotate_and_sum(
            {
                -b * stride: backend.multiply_accumulate(
                    (left[i][b], right[-g * stride]) for g, left in zip(giants, skewed, strict=True)
                )
                for b in layout.babies(turns)
            }
        )
        return total if turns == 1 else backend.parts(total)[0]

    return [[entry(i, right) for right in turned_right] for i in range(len(skewed[0]))]


def samples_added(backend: Backend, layout: TileLayout, tile: Ciphertext, form: Form, turns: int) -> Ciphertext:
    """A tile of A^T E, for E of this form, with the sums over all samples; the second half of a row holds anything."""
    if turns < layout.width and form == "plain":
        doubled = double(backend, layout, tile)
        tile = rotate_and_add(backend, doubled, _diagonal_steps(layout, turns), doubled.period)
    return rotate_and_add(backend, tile, _row_steps(layout, form, turns), layout.weights_period)


def sample_rotations(layout: TileLayout, form: Form, turns: int) -> set[int]:
    """Rotations of `samples_added`."""
    diagonal = {-layout.width, *_diagonal_steps(layout, turns)} if turns < layout.width and form == "plain" else set()
    return diagonal | {*_row_steps(layout, form, turns)}


def fold_steps(layout: TileLayout, turns: int) -> tuple[int, ...]:
    """Rotations that complete A W."""
    return doublings(turns, layout.width)


def _giants(layout: TileLayout, turns: int) -> range:
    """Giant steps of the half of the terms that is computed with."""
    return range(0, max(1, turns // 2), len(layout.babies(turns)))


def _paired(backend: Backend, x: Ciphertext, step: int, power: int) -> Ciphertext:
    """x and i^power times the same turned by this step, which is 0 where nothing is to be paired."""
    return x if step == 0 else backend.add(x, backend.times_i(backend.rotate(x, step), power))


def _diagonal_steps(layout: TileLayout, turns: int) -> tuple[int, ...]:
    return tuple(step * (1 - layout.stride) for step in doublings(turns, layout.width))


def _row_steps(layout: TileLayout, form: Form, turns: int) -> tuple[int, ...]:
    rows = turns if form == "skewed" else layout.width
    return doublings(rows * layout.stride, layout.n_slots)


def _steps(layout: TileLayout, form: Form) -> tuple[int, int]:
    """c and d: by how much the giant steps turn a batch, and any steps the weights."""
    return (1 - layout.stride, layout.stride) if form == "skewed" else (layout.stride, 1 - layout.stride)


def add_bias(backend: Backend, z: Ciphertext, bias: Ciphertext, present: Floats, scale: float) -> Ciphertext:
    """z, a product not yet rescaled, plus the bias where there are samples, and 0 elsewhere: at this scale, two limbs
    lower.
    """
    z = backend.rescale(z)
    wide = scale * backend.parameters.moduli[z.limbs - 1]
    terms = [(x, backend.encode(present, z.limbs, wide / x.scale)) for x in (z, backend.drop_limbs(bias, z.limbs))]
    return backend.rescale(backend.multiply_accumulate_plain(terms))


def add_halves(backend: Backend, layout: TileLayout, z: Ciphertext) -> Ciphertext:
    """The sums of the two halves of the rows of z, in the first half; the second one holds anything."""
    return backend.add(z, backend.rotate(z, layout.width))
