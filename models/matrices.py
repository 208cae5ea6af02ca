"""Products of encrypted symmetric matrices at one party, the root, which the others help by linear maps in refreshes.

Two (side, side) matrices, E above Y, are the rows of one half tile of `models.tiles`, plain: row s, position x in
slot 2 side s + x, zero at positions from `side` on. [E; Y] E is one product: turn(A, K; 1, H) with A the skewed,
doubled form of [E; Y] and K the weights form of E. E is symmetric, so K[m, x] = E[(m + x) mod side, x]: rows move,
columns do not.

Both forms are permutations of slots, which a refresh makes for no key (`mhe.slot_map`), in two steps each, by multiples
of a power of two and by the rest, for that takes few diagonals. Rotations are made one after another, so that four
keys do: by 1, by a row, and by the two giant steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext
from mhe.errors import ParameterError
from mhe.slot_map import SlotMap

Floats = npt.NDArray[np.float64]

MAP_LEVELS = 2
"""Limbs that any of the maps takes at most."""


@dataclass(frozen=True)
class MatrixLayout:
    """side: a power of two."""

    side: int

    def __post_init__(self) -> None:
        if self.side < 2 or self.side & (self.side - 1):
            raise ParameterError(f"the side of a matrix is {self.side}; need a power of two of at least 2")

    @property
    def stride(self) -> int:
        """Slots of a row."""
        return 2 * self.side

    @property
    def period(self) -> int:
        """Slots of two matrices."""
        return 2 * self.side * self.stride

    @property
    def baby(self) -> int:
        """Steps between two giant ones: about the square root."""
        return 1 << (self.side.bit_length() // 2)

    @property
    def rotations(self) -> tuple[int, ...]:
        """Exactly those of `multiply`."""
        h, b = self.stride, self.baby
        return (1, h) if b == self.side else (1, h, b * (1 - h), b * h)

    def pack(self, upper: Floats, lower: Floats) -> Floats:
        """Two matrices of at most (side, side) as slots (period,)."""
        slots = np.zeros((2 * self.side, self.stride))
        for start, matrix in ((0, upper), (self.side, lower)):
            rows, columns = matrix.shape
            slots[start : start + rows, :columns] = matrix
        return slots.ravel()

    def unpack(self, slots: Floats) -> tuple[Floats, Floats]:
        """The two matrices, (side, side) each."""
        rows = slots.reshape(2 * self.side, self.stride)[:, : self.side]
        return rows[: self.side], rows[self.side :]

    @cached_property
    def _grid(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Row and position of every slot."""
        return np.divmod(np.arange(self.period), self.stride)


@lru_cache(maxsize=4)
def skewed_form(layout: MatrixLayout) -> SlotMap:
    """From two plain matrices to the left operand of `multiply`."""
    row, x = layout._grid
    side = layout.side

    def turned(amount: npt.NDArray[np.intp]) -> SlotMap:
        column = x + amount
        column = np.where(column >= layout.stride, column - side, column)
        return SlotMap.permutation(row * layout.stride + column)

    rest = row % side % layout.baby
    doubled = SlotMap.sum_of_rotations(layout.period, (0, -side))
    return doubled.then(turned(row % side - rest)).then(turned(rest))


@lru_cache(maxsize=4)
def weights_form(layout: MatrixLayout) -> SlotMap:
    """From two plain matrices, of which the upper one is symmetric, to that one as right operand of `multiply`."""
    row, x = layout._grid
    rest = x % layout.side % layout.baby
    coarse = (row + x % layout.side - rest) % layout.side
    fine = (row + rest) % (2 * layout.side)
    return SlotMap.permutation(coarse * layout.stride + x).then(SlotMap.permutation(fine * layout.stride + x))


@lru_cache(maxsize=4)
def lower_matrix(layout: MatrixLayout) -> SlotMap:
    """The lower one of two plain matrices in place of the upper one, above zeros."""
    row, x = layout._grid
    return SlotMap.permutation(np.where(row < layout.side, (row + layout.side) * layout.stride + x, -1))


@lru_cache(maxsize=4)
def spread_form(layout: MatrixLayout, length: int) -> SlotMap:
    """Number k (modulo length) of a vector of period `length` in all of row k.

    length: a power of two that divides the stride.
    """
    row, x = layout._grid
    step = 1 << (length.bit_length() // 2)
    rest, far = (row - x) % step, (row - x) % length
    fine = row * layout.stride + x + np.where(x + rest >= layout.stride, rest - step, rest)
    coarse = row * layout.stride + (x + far - far % step) % layout.stride
    return SlotMap.permutation(coarse).then(SlotMap.permutation(fine))


def multiply(backend: Backend, layout: MatrixLayout, left: Ciphertext, right: Ciphertext) -> Ciphertext:
    """Both matrices of `left` (`skewed_form`) times that of `right` (`weights_form`): plain, not rescaled."""
    h, baby = layout.stride, layout.baby
    turned_right = _successive(backend, right, h, baby)
    giants = _successive(backend, left, baby * (1 - h), layout.side // baby)
    total: Ciphertext | None = None
    for giant in reversed(giants):
        part = backend.multiply_accumulate(zip(_successive(backend, giant, 1, baby), turned_right, strict=True))
        total = part if total is None else backend.add(part, backend.rotate(total, baby * h))
    assert total is not None
    return total


def _successive(backend: Backend, x: Ciphertext, step: int, count: int) -> list[Ciphertext]:
    """x rotated by 0, 1, ..., count - 1 steps, one after the other."""
    turned = [x]
    while len(turned) < count:
        turned.append(backend.rotate(turned[-1], step))
    return turned
