"""Products of clear blocks with encrypted vectors, in the shared-diagonal packing of `models.packing`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext, Plaintext
from models.packing import BlockLayout

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PackedBlock:
    """One block of rows with its labels, as pre-rotated diagonals in the clear.

    diagonals[giant, baby]: (period,). labels: (row_period,), as the layout places them. n_rows: rows there are.
    `encoded` keeps the encoded diagonals across iterations where the plan found room for them; otherwise they are
    encoded at every use.
    """

    diagonals: Mapping[tuple[int, int], Floats]
    labels: Floats
    n_rows: int
    keep: bool
    encoded: dict[tuple[int, ...], Plaintext] = field(default_factory=dict, repr=False)

    def plaintext(self, backend: Backend, giant: int, baby: int, limbs: int, scale: float) -> Plaintext:
        place = giant, baby
        return encode_once(backend, self.encoded, place, lambda: self.diagonals[place], limbs, scale, keep=self.keep)


def encode_once(
    backend: Backend,
    encoded: dict[tuple[int, ...], Plaintext],
    place: tuple[int, ...],
    values: Callable[[], Floats],
    limbs: int,
    scale: float,
    *,
    keep: bool,
) -> Plaintext:
    """The values (period,) of this place, looked up among what was encoded before, and entered there if `keep`.
    They are made only to be encoded, for they take more memory than the rows.

    Everything that shares `encoded` is at one scale.
    """
    key = (*place, limbs)
    plaintext = encoded.get(key)
    if plaintext is None:
        plaintext = backend.encode(values(), limbs, scale)
        if keep:
            encoded[key] = plaintext
    return plaintext


def pack(x: Floats, labels: Floats, layout: BlockLayout, *, keep: bool) -> list[PackedBlock]:
    """Cut rows (n, features) and labels (n,) into blocks of layout.rows rows and form their diagonals."""
    blocks = []
    for start in range(0, len(x), layout.rows):
        rows, own = x[start : start + layout.rows], labels[start : start + layout.rows]
        diagonals = {(giant, baby): d for giant, baby, d in layout.diagonals(rows)}
        blocks.append(PackedBlock(diagonals, layout.placed(own), len(rows), keep))
    return blocks


def forward(
    backend: Backend, block: PackedBlock, turned: Mapping[int, Ciphertext], layout: BlockLayout, scale: float
) -> Ciphertext:
    """X w for one block, where the layout places rows: period layout.row_period, one limb fewer than w.

    turned: the baby rotations of w (period layout.features). scale: of the encoded diagonals. Unless the layout is
    cyclic, other slots hold sums over other rows' cells.
    """
    vector = [turned[baby] for baby in layout.baby_steps]
    limbs = vector[0].limbs

    def row(giant: int) -> Iterator[Plaintext]:
        return (block.plaintext(backend, giant, baby, limbs, scale) for baby in layout.baby_steps)

    inner = inner_products(backend, {giant: row(giant) for giant in layout.giant_steps}, vector, keep=block.keep)
    total = backend.rotate_and_sum(inner)
    return backend.rescale(rotate_and_add(backend, total, layout.spread_steps, layout.row_period))


def isolated(backend: Backend, u: Ciphertext, layout: BlockLayout) -> Ciphertext:
    """X w as `forward` gives it, with zeros in all slots that do not hold it: layout.output_levels levels in all."""
    if layout.is_cyclic:
        return u
    mask = backend.encode(layout.first_copies, u.limbs, float(backend.parameters.moduli[u.limbs - 1]))
    return backend.rescale(backend.multiply_plain(u, mask))


def backward(
    backend: Backend, blocks: Sequence[PackedBlock], errors: Sequence[Ciphertext], layout: BlockLayout, scale: float
) -> Ciphertext:
    """X^T e summed over the blocks, before fold and rescale: period layout.period, at the limbs of e.

    errors: e of every block, as the layout places rows: period layout.row_period, zero in other slots.
    """
    limbs = errors[0].limbs
    copied = [rotate_and_add(backend, e, layout.copy_steps, layout.row_period) for e in errors]
    turned = [backend.rotate_hoisted(e, [-giant for giant in layout.giant_steps]) for e in copied]
    vector = [rotations[-giant] for rotations in turned for giant in layout.giant_steps]

    def row(baby: int) -> Iterator[Plaintext]:
        steps = ((block, giant) for block in blocks for giant in layout.giant_steps)
        return (block.plaintext(backend, giant, baby, limbs, scale) for block, giant in steps)

    keep = all(block.keep for block in blocks)
    inner = inner_products(backend, {-baby: row(baby) for baby in layout.baby_steps}, vector, keep=keep)
    return backend.rotate_and_sum(inner)


def inner_products(
    backend: Backend, rows: Mapping[int, Iterator[Plaintext]], vector: Sequence[Ciphertext], *, keep: bool
) -> dict[int, Ciphertext]:
    """The products of all rows with the vector; row by row, with few plaintexts at a time, where none are kept."""
    if keep:
        sums = backend.multiply_matrix_plain([list(row) for row in rows.values()], vector)
    else:
        sums = [backend.multiply_accumulate_plain(zip(vector, row, strict=True)) for row in rows.values()]
    return dict(zip(rows, sums, strict=True))


def rotate_and_add(backend: Backend, x: Ciphertext, steps: Sequence[int], period: int) -> Ciphertext:
    """x + rot(x, step) for each step in turn; the result has this period."""
    for step in steps:
        x = backend.add(x, backend.rotate(x, step))
    return backend.reread(x, period=period)
