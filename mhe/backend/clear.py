"""The evaluator without cryptography: slot values in float64, the same levels, scales, errors and (simulated) noise.

It lets a whole training run be planned and tested at numpy speed. Of the interface only `import_ciphertext` and
`export_ciphertext` differ: what travels between parties is a `ClearCiphertext`, since there are no residues.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.backend import rules
from mhe.ciphertext import Ciphertext, Plaintext
from mhe.encoding import decode_subring, embed
from mhe.errors import BackendError, LevelError, ParameterError
from mhe.keys import EvaluationKey
from mhe.parameters import Parameters, log2_product
from mhe.security import key_error_std, key_switch_std, relin_key_error_std, rounding_std

Floats = npt.NDArray[np.float64]
Slots = npt.NDArray[Any]
"""Real or complex values of slots."""

_POWERS_OF_I = (1, 1j, -1, -1j)


@dataclass(frozen=True, eq=False)
class ClearCiphertext:
    """The clear counterpart of RingCiphertext.

    values: (1, period), the slot values with the noise so far; one row, so that shares of several stack alike.
    """

    values: Floats
    limbs: int
    scale: float
    key_id: str

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) != 1:
            raise ParameterError(f"values have shape {self.values.shape}; need (1, period)")

    @property
    def period(self) -> int:
        return int(self.values.shape[1])

    def __repr__(self) -> str:
        return f"ClearCiphertext(limbs={self.limbs}, scale=2^{math.log2(self.scale):.2f}, key={self.key_id})"


@lru_cache(maxsize=256)
def _key_switch_std(parameters: Parameters, limbs: int, relinearisation: bool) -> float:
    n, parties = parameters.ring_dim, parameters.n_parties
    error = relin_key_error_std(n, parties) if relinearisation else key_error_std(parties)
    return key_switch_std(parameters, limbs, error)


def _repeated(values: Slots, period: int) -> Slots:
    return values if len(values) == period else np.tile(values, period // len(values))


class ClearBackend:
    """`Backend` without keys or secrecy.

    rotations: the planned ones, in slots of either sign; others, and conjugation, raise KeyMismatchError until a key is
    "loaded", and are held to the limbs that it is for. None allows all, to find out which a computation uses
    (`used_rotations`).
    noise: whether every operation adds the error that CKKS would. It is drawn independently for each slot of one
    period, normal, with the standard deviation of a single slot by the closed forms of mhe.security; real noise has no
    period, so that averages over the repetitions of a slot are better in reality.
    """

    def __init__(
        self,
        parameters: Parameters,
        key_id: str,
        rotations: frozenset[int] | None = None,
        *,
        relinearisation: bool = True,
        noise: bool = True,
        seed: int = 0,
    ) -> None:
        self._parameters = parameters
        self._key_id = key_id
        full = parameters.n_limbs
        self._allowed = None if rotations is None else {r % parameters.n_slots: full for r in rotations}
        # limbs of the keys, 0 for none
        self._relinearisation = full if relinearisation else 0
        self._conjugation = full if rotations is None else 0
        self._random = np.random.default_rng(seed) if noise else None
        self._used: set[int] = set()

    @property
    def parameters(self) -> Parameters:
        return self._parameters

    @property
    def key_id(self) -> str:
        return self._key_id

    @property
    def loaded_rotations(self) -> frozenset[int]:
        """The rotations that are allowed, in 1 .. n_slots-1; empty if all are."""
        return frozenset(self._allowed or ()) - {0}

    @property
    def used_rotations(self) -> frozenset[int]:
        """The rotations made so far that need a key, in 1 .. n_slots-1."""
        return frozenset(self._used)

    def __repr__(self) -> str:
        return f"ClearBackend(ring_dim={self._parameters.ring_dim}, key={self._key_id}, used={len(self._used)})"

    # keys

    def load_relinearisation_key(self, key: EvaluationKey | None = None, *, limbs: int | None = None) -> None:
        """Allow products of ciphertexts, at this many limbs at most: those of the key, if it is given, or all."""
        self._relinearisation = self._reach(key, limbs)

    def load_rotation_key(self, rotation: int, key: EvaluationKey | None = None, *, limbs: int | None = None) -> None:
        """Allow this rotation, as `load_relinearisation_key` allows products."""
        if self._allowed is not None:
            self._allowed[rotation % self._parameters.n_slots] = self._reach(key, limbs)

    def load_conjugation_key(self, key: EvaluationKey | None = None, *, limbs: int | None = None) -> None:
        """Allow conjugation, as `load_relinearisation_key` allows products."""
        self._conjugation = self._reach(key, limbs)

    def _reach(self, key: EvaluationKey | None, limbs: int | None) -> int:
        if key is not None:
            rules.check_evaluation_key(self._parameters, self._key_id, key)
            return rules.key_limbs(self._parameters, key)
        return limbs or self._parameters.n_limbs

    # conversion

    def encode(self, values: Floats, limbs: int, scale: float | None = None) -> Plaintext:
        """Rounded as in reality, unless noise is off: as `mhe.encoding.encode_coefficients`."""
        scale = self._parameters.scale if scale is None else scale
        vector = rules.check_values(self._parameters, values, limbs, scale)
        period = len(vector)
        rounded = (
            vector.copy() if self._random is None else decode_subring(np.rint(embed(vector) * scale), period, scale)
        )
        return Plaintext(rounded, limbs, scale, period)

    def import_ciphertext(self, ciphertext: ClearCiphertext, period: int) -> Ciphertext:
        rules.check_period(self._parameters, period)
        rules.check_limbs(self._parameters, ciphertext.limbs)
        rules.check_fit(self._parameters, ciphertext.limbs, ciphertext.scale)
        rules.check_owner(self._key_id, ciphertext)
        if period % ciphertext.period:
            raise ParameterError(f"{ciphertext.period} values do not repeat with period {period}; need a divisor of it")
        values = np.tile(ciphertext.values[0], period // ciphertext.period)
        return self._result(values, rules.Form(ciphertext.limbs, ciphertext.scale, period))

    def export_ciphertext(self, ciphertext: Ciphertext) -> ClearCiphertext:
        values = self._values(ciphertext)[None].real.copy()
        return ClearCiphertext(values, ciphertext.limbs, ciphertext.scale, self._key_id)

    def _values(self, operand: Ciphertext | Plaintext) -> Slots:
        if isinstance(operand, Ciphertext):
            rules.check_owner(self._key_id, operand)
        values: Slots = operand.handle
        if not isinstance(values, np.ndarray):
            raise BackendError(f"{operand!r} was made by another backend; import it first")
        return values

    def _pair(self, a: Ciphertext, b: Ciphertext | Plaintext) -> tuple[Slots, Slots]:
        """The values of both over the longer period."""
        x, y = self._values(a), self._values(b)
        period = max(len(x), len(y))
        return _repeated(x, period), _repeated(y, period)

    def _noisy(self, values: Slots, std: float) -> Slots:
        if self._random is None:
            return values
        noisy: Slots = values + self._random.normal(0.0, std, values.shape)
        return noisy + 1j * self._random.normal(0.0, std, values.shape) if np.iscomplexobj(values) else noisy

    def _with_error(self, values: Slots, form: rules.Form, coefficient_std: float) -> Ciphertext:
        """A slot's real part is a sum of ring_dim coefficients, each times a cosine of mean square 1/2."""
        std = coefficient_std * math.sqrt(self._parameters.n_slots) / form.scale
        return self._result(self._noisy(values, std), form)

    def _result(self, values: Slots, form: rules.Form) -> Ciphertext:
        largest = float(np.abs(values).max())
        room = log2_product(self._parameters.moduli[: form.limbs]) - 1
        if not largest * form.scale < 2.0**room:
            raise LevelError(
                f"slot values of up to {largest:.3g} at scale 2^{math.log2(form.scale):.1f} wrap around at "
                f"{form.limbs} limbs (2^{room:.1f}); keep more limbs or scale the values down"
            )
        values.flags.writeable = False
        return Ciphertext(values, form.limbs, form.scale, form.period, self._key_id)

    # operations

    def add(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        form = rules.sum_form(a, b)
        x, y = self._pair(a, b)
        return self._result(x + y, form)

    def add_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext:
        form = rules.sum_form(a, b)
        x, y = self._pair(a, b)
        return self._result(x + y, form)

    def multiply_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext:
        form = rules.product_form(self._parameters, a, b)
        x, y = self._pair(a, b)
        return self._result(x * y, form)

    def multiply_accumulate_plain(self, pairs: Iterable[tuple[Ciphertext, Plaintext]]) -> Ciphertext:
        total: Ciphertext | None = None
        for a, b in pairs:
            product = self.multiply_plain(a, b)
            form = None if total is None else rules.Form(total.limbs, total.scale, total.period)
            form = rules.accumulated_form(form, rules.Form(product.limbs, product.scale, product.period))
            if total is not None:
                x, y = self._pair(total, product)
                product = self._result(x + y, form)
            total = product
        if total is None:
            raise ParameterError("multiply_accumulate_plain got no pairs; need at least one")
        return total

    def multiply_matrix_plain(
        self, matrix: Sequence[Sequence[Plaintext]], vector: Sequence[Ciphertext]
    ) -> list[Ciphertext]:
        """Row by row."""
        rules.check_matrix(matrix, vector)
        return [self.multiply_accumulate_plain(zip(vector, row, strict=True)) for row in matrix]

    def multiply(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        return self.multiply_accumulate([(a, b)])

    def multiply_accumulate(self, pairs: Iterable[tuple[Ciphertext, Ciphertext]]) -> Ciphertext:
        if not self._relinearisation:
            raise rules.missing_relinearisation()
        total: Slots = np.zeros(1)
        form: rules.Form | None = None
        for a, b in pairs:
            form = rules.accumulated_form(form, rules.product_form(self._parameters, a, b))
            x, y = self._pair(a, b)
            total = _repeated(total, form.period) + _repeated(x * y, form.period)
        if form is None:
            raise ParameterError("multiply_accumulate got no pairs; need at least one")
        rules.check_key_reaches("product of ciphertexts", self._relinearisation, form.limbs)
        return self._with_error(total, form, _key_switch_std(self._parameters, form.limbs, True))

    def rescale(self, a: Ciphertext) -> Ciphertext:
        form = rules.rescaled_form(self._parameters, a)
        error = rounding_std(self._parameters.ring_dim, self._parameters.n_parties)
        return self._with_error(self._values(a), form, error)

    def drop_limbs(self, a: Ciphertext, limbs: int) -> Ciphertext:
        rules.check_drop(self._parameters, a, limbs)
        return self._result(self._values(a), rules.Form(limbs, a.scale, a.period))

    def reread(self, a: Ciphertext, *, scale: float | None = None, period: int | None = None) -> Ciphertext:
        form = rules.reread_form(a, scale, period)
        return self._result(self._values(a)[: form.period] * (a.scale / form.scale), form)

    def rotate(self, a: Ciphertext, rotation: int) -> Ciphertext:
        step = rules.rotation_step(self._parameters, a, rotation)
        if step == 0:
            return a
        if self._allowed is not None and step not in self._allowed:
            raise rules.missing_rotation(step, self._parameters.n_slots, self.loaded_rotations)
        if self._allowed is not None:
            rules.check_key_reaches(rules.rotation_name(step, self._parameters.n_slots), self._allowed[step], a.limbs)
        self._used.add(step)
        form = rules.Form(a.limbs, a.scale, a.period)
        error = _key_switch_std(self._parameters, a.limbs, False)
        return self._with_error(np.roll(self._values(a), -step), form, error)

    def rotate_hoisted(self, a: Ciphertext, rotations: Sequence[int]) -> Mapping[int, Ciphertext]:
        return {rotation: self.rotate(a, rotation) for rotation in rotations}

    def rotate_and_sum(self, parts: Mapping[int, Ciphertext]) -> Ciphertext:
        rules.rotated_sum_form(parts.values())
        return reduce(self.add, (self.rotate(part, rotation) for rotation, part in parts.items()))

    def conjugate(self, a: Ciphertext) -> Ciphertext:
        """Adds the error of a key switch."""
        if not self._conjugation:
            raise rules.missing_conjugation()
        rules.check_key_reaches("conjugation", self._conjugation, a.limbs)
        form = rules.Form(a.limbs, a.scale, a.period)
        return self._with_error(self._values(a).conj(), form, _key_switch_std(self._parameters, a.limbs, False))

    def times_i(self, a: Ciphertext, power: int = 1) -> Ciphertext:
        """Exact."""
        return self._result(self._values(a) * _POWERS_OF_I[power % 4], rules.Form(a.limbs, a.scale, a.period))

    def parts(self, a: Ciphertext) -> tuple[Ciphertext, Ciphertext]:
        """Adds half the error of a key switch. Raises as `conjugate`."""
        return rules.parts(self, a)

    def close(self) -> None:
        """Forget the loaded keys."""
        self._relinearisation = self._conjugation = 0
        if self._allowed is not None:
            self._allowed.clear()
