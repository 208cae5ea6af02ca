"""The evaluator: what can be computed on ciphertexts with public material only.

Slots: a ciphertext carries ring_dim/2 real slots. A vector of period p (p divides the number of slots, both powers of
two) is repeated over all of them. `rotate(x, r)[s] = x[s + r]`, cyclically over the slots; r may be negative.

Scale is tracked exactly: a product's scale is the product of the scales, a rescale divides by the modulus
it drops. Adding operands whose scales differ by more than SCALE_TOLERANCE is an error, never a wrong result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mhe.ciphertext import Ciphertext, Plaintext, RingCiphertext
from mhe.keys import EvaluationKey
from mhe.parameters import Parameters

SCALE_TOLERANCE = 2.0**-30
"""Largest relative difference of two scales that are added: the relative error that it may cause in the sum."""


class Backend(Protocol):
    """The evaluation operations. Never sees a secret share."""

    @property
    def parameters(self) -> Parameters: ...

    def load_relinearisation_key(self, key: EvaluationKey) -> None:
        """Use this key for `multiply` and `square`."""

    def load_rotation_key(self, rotation: int, key: EvaluationKey) -> None:
        """Use this key for rotations by `rotation` slots."""

    def load_conjugation_key(self, key: EvaluationKey) -> None:
        """Use this key for `conjugate`."""

    def encode(self, values: npt.NDArray[np.float64], limbs: int, scale: float | None = None) -> Plaintext:
        """Encode values (period,), repeated over all slots, at `limbs` limbs; scale 2^scale_bits unless given."""

    def add(self, a: Ciphertext, b: Ciphertext) -> Ciphertext: ...

    def add_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext: ...

    def multiply_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext: ...

    def multiply_accumulate_plain(self, pairs: Iterable[tuple[Ciphertext, Plaintext]]) -> Ciphertext:
        """Sum of the products of all pairs, at the product's scale (not rescaled)."""

    def multiply_matrix_plain(
        self, matrix: Sequence[Sequence[Plaintext]], vector: Sequence[Ciphertext]
    ) -> list[Ciphertext]:
        """The sum of the products of each row of the matrix with the vector, at the product's scale (not rescaled).

        All products have the same limbs and scale. Raises ParameterError if the matrix or its rows are empty, or the
        rows are not as long as the vector.
        """

    def multiply(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        """Relinearised product, not rescaled."""

    def multiply_accumulate(self, pairs: Iterable[tuple[Ciphertext, Ciphertext]]) -> Ciphertext:
        """Sum of the products of all pairs, not rescaled, relinearised once at the end.

        The pairs are consumed a few at a time, so that memory does not grow with their number. Raises ParameterError
        if there is none.
        """

    def rescale(self, a: Ciphertext) -> Ciphertext:
        """Drop the last limb and divide the scale by it. Raises LevelError when no limb can be dropped."""

    def drop_limbs(self, a: Ciphertext, limbs: int) -> Ciphertext:
        """The same message and scale at fewer limbs."""

    def reread(self, a: Ciphertext, *, scale: float | None = None, period: int | None = None) -> Ciphertext:
        """The same ciphertext, read differently, at no cost: multiplying by a constant is reading at another scale.

        At `scale` the slot values are a.scale / scale times as large. `period` says that they repeat with it, which the
        caller knows (after adding up all rotations, for example); it divides a.period.
        """

    def rotate(self, a: Ciphertext, rotation: int) -> Ciphertext:
        """Raises KeyMismatchError if the key of that rotation was not loaded."""

    def rotate_hoisted(self, a: Ciphertext, rotations: Sequence[int]) -> Mapping[int, Ciphertext]:
        """Several rotations of one ciphertext, sharing the decomposition (hoisting); 0 gives `a` itself."""

    def rotate_and_sum(self, parts: Mapping[int, Ciphertext]) -> Ciphertext:
        """Sum of rotate(part, rotation) over all {rotation: part}; limbs and scales as for a sum.

        Its error is at most that of the separate rotations. Raises ParameterError if there is no part.
        """

    def conjugate(self, a: Ciphertext) -> Ciphertext:
        """The complex conjugates of the slots. Raises KeyMismatchError if no conjugation key was loaded.

        Encoded vectors are real: half of a + conjugate(a) is `a` without the imaginary part of its error.
        """

    def times_i(self, a: Ciphertext, power: int = 1) -> Ciphertext:
        """The slots times a power of the imaginary unit: a monomial, which is exact, and takes neither key nor level.

        So two real vectors lie in one ciphertext, x + iy, and x u + y v is the real part of (x + iy)(u - iv). What
        leaves the evaluator must be real again: only the real parts of slots are ever read.
        """

    def parts(self, a: Ciphertext) -> tuple[Ciphertext, Ciphertext]:
        """The real and the imaginary parts of the slots, both real and at twice the scale, by one `conjugate`."""

    def close(self) -> None:
        """Drop all keys, also those a library holds for the whole process."""


class RingBackend(Backend, Protocol):
    """An evaluator of real ciphertexts: those cross to and from ring arrays, on which the protocols work."""

    def key_limbs(self, limbs: int) -> int:
        """Of a key that is used at so many limbs at most: as many, or all where there are none but whole keys."""

    def import_ciphertext(self, ciphertext: RingCiphertext, period: int) -> Ciphertext: ...

    def export_ciphertext(self, ciphertext: Ciphertext) -> RingCiphertext: ...
