"""The rules that every evaluator keeps: which operands fit together, and the limbs, scale and period of a result.

All functions are pure. They raise LevelError (limbs), ParameterError (scales, periods, values) or KeyMismatchError.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import SCALE_TOLERANCE, Backend
from mhe.ciphertext import Ciphertext, Plaintext
from mhe.errors import KeyMismatchError, LevelError, ParameterError
from mhe.keys import EvaluationKey
from mhe.parameters import Parameters, log2_product


class _Keyed(Protocol):
    @property
    def key_id(self) -> str: ...


class Form(NamedTuple):
    """What is known of a ciphertext in the clear."""

    limbs: int
    scale: float
    period: int


def check_owner(key_id: str, operand: _Keyed) -> None:
    if operand.key_id != key_id:
        raise KeyMismatchError(f"ciphertext is under key {operand.key_id}, this evaluator computes under {key_id}")


def check_period(parameters: Parameters, period: int) -> None:
    if period < 1 or period & (period - 1) or period > parameters.n_slots:
        raise ParameterError(f"period is {period}; need a power of two from 1 to the {parameters.n_slots} slots")


def check_limbs(parameters: Parameters, limbs: int) -> None:
    if not 1 <= limbs <= parameters.n_limbs:
        raise LevelError(f"limbs is {limbs}; these parameters have 1 to {parameters.n_limbs}")


def check_fit(parameters: Parameters, limbs: int, scale: float) -> None:
    """A scale above half the modulus leaves no room for any message."""
    if not (math.isfinite(scale) and scale > 0):
        raise ParameterError(f"scale is {scale}; need a positive finite number")
    room = log2_product(parameters.moduli[:limbs])
    if math.log2(scale) > room - 1:
        raise LevelError(
            f"scale 2^{math.log2(scale):.1f} needs a modulus above 2^{math.log2(scale) + 1:.1f}; {limbs} limbs give "
            f"2^{room:.1f}: rescale or refresh before, or keep more limbs"
        )


def check_values(parameters: Parameters, values: npt.ArrayLike, limbs: int, scale: float) -> npt.NDArray[np.float64]:
    """The values to encode as a float64 vector (period,)."""
    vector = np.ascontiguousarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise ParameterError(f"values have shape {vector.shape}; need one dimension (period,)")
    check_period(parameters, len(vector))
    if not np.isfinite(vector).all():
        raise ParameterError("values are not all finite; clean the data before encoding it")
    check_limbs(parameters, limbs)
    check_fit(parameters, limbs, scale * max(1.0, float(np.abs(vector).max())))
    return vector


def _same_limbs(a: Ciphertext, b: Ciphertext | Plaintext) -> None:
    if a.limbs != b.limbs:
        low = min(a.limbs, b.limbs)
        raise LevelError(f"operands have {a.limbs} and {b.limbs} limbs; bring both to {low} with drop_limbs or encode")


def check_scales(a: float, b: float) -> None:
    if abs(a - b) > SCALE_TOLERANCE * max(a, b):
        raise ParameterError(
            f"scales 2^{math.log2(a):.9f} and 2^{math.log2(b):.9f} cannot be added; need a relative difference below "
            f"{SCALE_TOLERANCE:.1e}: rescale one, or encode the plaintext at the ciphertext's scale"
        )


def sum_form(a: Ciphertext, b: Ciphertext | Plaintext) -> Form:
    _same_limbs(a, b)
    check_scales(a.scale, b.scale)
    return Form(a.limbs, a.scale, max(a.period, b.period))


def product_form(parameters: Parameters, a: Ciphertext, b: Ciphertext | Plaintext) -> Form:
    _same_limbs(a, b)
    check_fit(parameters, a.limbs, a.scale * b.scale)
    return Form(a.limbs, a.scale * b.scale, max(a.period, b.period))


def accumulated_form(total: Form | None, term: Form) -> Form:
    """The form of a running sum after one more term."""
    if total is None:
        return term
    if total.limbs != term.limbs:
        raise LevelError(f"terms have {total.limbs} and {term.limbs} limbs; bring all operands to the same limbs")
    check_scales(total.scale, term.scale)
    return Form(total.limbs, total.scale, max(total.period, term.period))


def rotated_sum_form(parts: Iterable[Ciphertext]) -> Form:
    total: Form | None = None
    for part in parts:
        total = accumulated_form(total, Form(part.limbs, part.scale, part.period))
    if total is None:
        raise ParameterError("rotate_and_sum got no parts; need at least one")
    return total


def matrix_forms(
    parameters: Parameters, matrix: Sequence[Sequence[Plaintext]], vector: Sequence[Ciphertext]
) -> list[Form]:
    """The forms of the products of each row of a matrix with a vector."""
    check_matrix(matrix, vector)
    forms = []
    for row in matrix:
        form: Form | None = None
        for a, b in zip(vector, row, strict=True):
            form = accumulated_form(form, product_form(parameters, a, b))
        assert form is not None
        forms.append(form)
    return forms


def check_matrix(matrix: Sequence[Sequence[Plaintext]], vector: Sequence[Ciphertext]) -> None:
    lengths = sorted({len(row) for row in matrix})
    if lengths != [len(vector)] or not vector:
        raise ParameterError(
            f"a matrix of {len(matrix)} rows of lengths {lengths} and a vector of {len(vector)}; need at least one "
            "row, and rows as long as the vector, which is not empty"
        )


def rescaled_form(parameters: Parameters, a: Ciphertext) -> Form:
    if a.limbs < 2:
        raise LevelError("a rescale needs 2 limbs, got 1; refresh before the product")
    scale = a.scale / parameters.moduli[a.limbs - 1]
    if scale < 2:
        raise ParameterError(
            f"a rescale would leave scale 2^{math.log2(scale):.1f} of 2^{math.log2(a.scale):.1f}, and nothing of the "
            "message; rescale only after a product"
        )
    return Form(a.limbs - 1, scale, a.period)


def check_drop(parameters: Parameters, a: Ciphertext, limbs: int) -> None:
    if not 1 <= limbs <= a.limbs:
        raise LevelError(f"cannot go from {a.limbs} limbs to {limbs}; need 1 to {a.limbs}, or a refresh")
    check_fit(parameters, limbs, a.scale)


def reread_form(a: Ciphertext, scale: float | None, period: int | None) -> Form:
    new_period = a.period if period is None else period
    if new_period < 1 or a.period % new_period:
        raise ParameterError(f"slots of period {a.period} cannot be read with period {new_period}; need a divisor")
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise ParameterError(f"scale is {scale}; need a positive finite number")
    return Form(a.limbs, a.scale if scale is None else scale, new_period)


def rotation_step(parameters: Parameters, a: Ciphertext, rotation: int) -> int:
    """The rotation in 0 .. n_slots-1; 0 also when the slots repeat after it, so that no key is needed."""
    step = rotation % parameters.n_slots
    return 0 if step % a.period == 0 else step


def key_limbs(parameters: Parameters, key: EvaluationKey) -> int:
    """Up to how many limbs a key can be used."""
    return key.b.shape[1] - len(parameters.special_moduli)


def check_evaluation_key(parameters: Parameters, key_id: str, key: EvaluationKey) -> None:
    """A key for any number of limbs."""
    limbs = key_limbs(parameters, key) if key.b.ndim == 3 else 0
    shape = _key_shape(parameters, min(max(limbs, 1), parameters.n_limbs))
    if key.b.shape != shape or key.a.shape != shape:
        raise ParameterError(
            f"evaluation key has shapes {key.b.shape}, {key.a.shape}; these parameters need "
            f"{_key_shape(parameters, parameters.n_limbs)}, or as much less as a key for fewer limbs has"
        )
    if key.key_id != key_id:
        raise KeyMismatchError(f"evaluation key belongs to key {key.key_id}, this evaluator computes under {key_id}")


def check_whole_key(parameters: Parameters, key_id: str, key: EvaluationKey) -> None:
    """A key for all limbs."""
    check_evaluation_key(parameters, key_id, key)
    if key_limbs(parameters, key) < parameters.n_limbs:
        raise ParameterError(
            f"evaluation key is for {key_limbs(parameters, key)} limbs; this evaluator takes keys for all "
            f"{parameters.n_limbs} only: make it for as many as `key_limbs` says"
        )


def _key_shape(parameters: Parameters, limbs: int) -> tuple[int, int, int]:
    return len(parameters.digits_at(limbs)), limbs + len(parameters.special_moduli), parameters.ring_dim


def check_key_reaches(what: str, reach: int, limbs: int) -> None:
    """what: the operation. reach: up to how many limbs its key can be used."""
    if limbs > reach:
        raise LevelError(
            f"{what} at {limbs} limbs; its key was made for {reach} or fewer: drop limbs before, or ask for {limbs} in "
            "the key plan"
        )


def parts(backend: Backend, a: Ciphertext) -> tuple[Ciphertext, Ciphertext]:
    """Of the slots, with a conjugate: (a + conjugate(a)) / 2 and i (conjugate(a) - a) / 2."""
    conjugated = backend.conjugate(a)
    sums = backend.add(a, conjugated), backend.times_i(backend.add(conjugated, backend.times_i(a, 2)))
    real, imaginary = (backend.reread(x, scale=2 * x.scale) for x in sums)
    return real, imaginary


def missing_relinearisation() -> KeyMismatchError:
    return KeyMismatchError("no relinearisation key is loaded; make the keys before multiplying ciphertexts")


def missing_conjugation() -> KeyMismatchError:
    return KeyMismatchError("no conjugation key is loaded; ask for conjugation in the key plan")


def rotation_name(step: int, n_slots: int) -> str:
    """In both directions, since plans are written with either."""
    return f"rotation {step} (or {step - n_slots})"


def missing_rotation(step: int, n_slots: int, loaded: frozenset[int]) -> KeyMismatchError:
    return KeyMismatchError(
        f"no key for {rotation_name(step, n_slots)}; loaded are {sorted(loaded)}: add it to the key plan"
    )
