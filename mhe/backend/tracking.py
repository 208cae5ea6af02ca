"""An evaluator without values: it follows the size of values and of noise, and counts the operations of a computation.

A plan runs the very code that will be run under encryption on it, once, before any key exists, and reads off how noisy
the result will be, which rotations it takes, and how many operations of each kind at how many limbs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import numpy.typing as npt

from mhe.backend import rules
from mhe.ciphertext import Ciphertext, Plaintext
from mhe.errors import ParameterError
from mhe.keys import EvaluationKey
from mhe.parameters import Parameters
from mhe.security import key_error_std, key_switch_std, relin_key_error_std, rounding_std

KEY_ID = "tracked"


@dataclass(frozen=True)
class Size:
    """Root mean squares: of the slots, and of their errors; all taken for independent of each other.

    noise: errors that must be hidden, for they hang on secrets. rounding: those that come with the rounding of
    plaintexts, which is fixed by what is encoded. error: both.

    An average-case analysis, as in Costache, Curtis, Hales, Murphy, Ogilvie, Player, "On the precision loss in
    approximate homomorphic encryption", SAC 2023 (ePrint 2022/162): who hides noise by it needs a margin.
    """

    value: float
    noise: float
    rounding: float = 0.0

    @property
    def error(self) -> float:
        return math.hypot(self.noise, self.rounding)

    def __add__(self, other: Size) -> Size:
        return Size(
            math.hypot(self.value, other.value),
            math.hypot(self.noise, other.noise),
            math.hypot(self.rounding, other.rounding),
        )

    def __mul__(self, other: Size) -> Size:
        noise = math.hypot(self.value * other.noise, self.noise * other.value, self.noise * other.noise)
        rounding = math.hypot(self.value * other.rounding, self.rounding * other.value, self.rounding * other.rounding)
        mixed = math.hypot(self.noise * other.rounding, self.rounding * other.noise)
        return Size(self.value * other.value, noise, math.hypot(rounding, mixed))

    def times(self, factor: float) -> Size:
        return Size(self.value * factor, self.noise * factor, self.rounding * factor)

    def with_noise(self, std: float) -> Size:
        return Size(self.value, math.hypot(self.noise, std), self.rounding)


class TrackingBackend:
    """`Backend` of sizes. Slots are not told apart.

    centred: whether a key switch rounds to nearest (`mhe.security.key_switch_std`).
    counts: how often each operation was made, by its name and the limbs of its operands; rotations and terms of sums
    are counted one by one, and a "rotated_sum" for every sum in which something is rotated. rotations: those made, in
    1 .. n_slots-1.
    """

    def __init__(self, parameters: Parameters, *, centred: bool = False) -> None:
        self._parameters = parameters
        self._centred = centred
        self.counts: Counter[tuple[str, int]] = Counter()
        self.rotations: set[int] = set()

    @property
    def parameters(self) -> Parameters:
        return self._parameters

    def __repr__(self) -> str:
        return f"TrackingBackend(ring_dim={self._parameters.ring_dim}, operations={self.counts.total()})"

    def load_relinearisation_key(self, key: EvaluationKey) -> None:
        """Nothing to do: no key is needed."""

    def load_rotation_key(self, rotation: int, key: EvaluationKey) -> None:
        """Nothing to do: no key is needed."""

    def load_conjugation_key(self, key: EvaluationKey) -> None:
        """Nothing to do: no key is needed."""

    def ciphertext(self, size: Size, limbs: int, scale: float, period: int) -> Ciphertext:
        """A ciphertext of this size. Raises LevelError if the scale does not fit."""
        rules.check_period(self._parameters, period)
        rules.check_limbs(self._parameters, limbs)
        rules.check_fit(self._parameters, limbs, scale)
        return Ciphertext(size, limbs, scale, period, KEY_ID)

    def size(self, operand: Ciphertext | Plaintext) -> Size:
        """The size of an operand made by this evaluator."""
        handle: Size = operand.handle
        return handle

    def slot_noise(self, coefficient_std: float, scale: float) -> float:
        """Error of a slot, of coefficients with this error: a sum of ring_dim cosines of mean square 1/2."""
        return coefficient_std * math.sqrt(self._parameters.n_slots) / scale

    def _result(self, size: Size, form: rules.Form) -> Ciphertext:
        return Ciphertext(size, form.limbs, form.scale, form.period, KEY_ID)

    def _switched(self, size: Size, form: rules.Form, *, relinearisation: bool = False) -> Ciphertext:
        p = self._parameters
        error = relin_key_error_std(p.ring_dim, p.n_parties) if relinearisation else key_error_std(p.n_parties)
        std = self.slot_noise(key_switch_std(p, form.limbs, error, centred=self._centred), form.scale)
        return self._result(size.with_noise(std), form)

    def encode(self, values: npt.NDArray[np.float64], limbs: int, scale: float | None = None) -> Plaintext:
        scale = self._parameters.scale if scale is None else scale
        vector = rules.check_values(self._parameters, values, limbs, scale)
        self.counts["encode", limbs] += 1
        rounding = math.sqrt(len(vector) / 6)
        if len(vector) == 1:
            # a constant is one coefficient, often an integer
            rounding = abs(vector[0] * scale - round(vector[0] * scale))
        size = Size(math.sqrt(float(np.square(vector).mean())), 0.0, rounding / scale)
        return Plaintext(size, limbs, scale, len(vector))

    def add(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        self.counts["add", a.limbs] += 1
        return self._result(self.size(a) + self.size(b), rules.sum_form(a, b))

    def add_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext:
        self.counts["add_plain", a.limbs] += 1
        return self._result(self.size(a) + self.size(b), rules.sum_form(a, b))

    def multiply_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext:
        return self.multiply_accumulate_plain([(a, b)])

    def multiply_accumulate_plain(self, pairs: Iterable[tuple[Ciphertext, Plaintext]]) -> Ciphertext:
        return self._result(*self._sum_of_products("multiply_accumulate_plain", pairs))

    def multiply_matrix_plain(
        self, matrix: Sequence[Sequence[Plaintext]], vector: Sequence[Ciphertext]
    ) -> list[Ciphertext]:
        return [self.multiply_accumulate_plain(zip(vector, row, strict=True)) for row in matrix]

    def multiply(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        return self.multiply_accumulate([(a, b)])

    def multiply_accumulate(self, pairs: Iterable[tuple[Ciphertext, Ciphertext]]) -> Ciphertext:
        size, form = self._sum_of_products("multiply_accumulate", pairs)
        self.counts["relinearise", form.limbs] += 1
        return self._switched(size, form, relinearisation=True)

    def _sum_of_products(
        self, name: str, pairs: Iterable[tuple[Ciphertext, Ciphertext | Plaintext]]
    ) -> tuple[Size, rules.Form]:
        total, form = Size(0.0, 0.0), None
        for a, b in pairs:
            form = rules.accumulated_form(form, rules.product_form(self._parameters, a, b))
            self.counts[name, a.limbs] += 1
            total += self.size(a) * self.size(b)
        if form is None:
            raise ParameterError(f"{name} got no pairs; need at least one")
        return total, form

    def rescale(self, a: Ciphertext) -> Ciphertext:
        self.counts["rescale", a.limbs] += 1
        form = rules.rescaled_form(self._parameters, a)
        std = self.slot_noise(rounding_std(self._parameters.ring_dim, self._parameters.n_parties), form.scale)
        return self._result(self.size(a).with_noise(std), form)

    def drop_limbs(self, a: Ciphertext, limbs: int) -> Ciphertext:
        rules.check_drop(self._parameters, a, limbs)
        return self._result(self.size(a), rules.Form(limbs, a.scale, a.period))

    def reread(self, a: Ciphertext, *, scale: float | None = None, period: int | None = None) -> Ciphertext:
        form = rules.reread_form(a, scale, period)
        return self._result(self.size(a).times(a.scale / form.scale), form)

    def rotate(self, a: Ciphertext, rotation: int) -> Ciphertext:
        return self._rotated(a, rotation, "rotate")

    def rotate_hoisted(self, a: Ciphertext, rotations: Sequence[int]) -> Mapping[int, Ciphertext]:
        steps = {rotation: rules.rotation_step(self._parameters, a, rotation) for rotation in rotations}
        distinct = {step: self._rotated(a, step, "rotate_hoisted") for step in set(steps.values())}
        if distinct.keys() - {0}:
            self.counts["decompose", a.limbs] += 1
        return {rotation: distinct[step] for rotation, step in steps.items()}

    def rotate_and_sum(self, parts: Mapping[int, Ciphertext]) -> Ciphertext:
        form = rules.rotated_sum_form(parts.values())
        if any(rules.rotation_step(self._parameters, part, step) for step, part in parts.items()):
            self.counts["rotated_sum", form.limbs] += 1
        return reduce(self.add, (self._rotated(part, step, "rotate_and_sum") for step, part in parts.items()))

    def _rotated(self, a: Ciphertext, rotation: int, name: str) -> Ciphertext:
        step = rules.rotation_step(self._parameters, a, rotation)
        if step == 0:
            return a
        self.counts[name, a.limbs] += 1
        self.rotations.add(step)
        return self._switched(self.size(a), rules.Form(a.limbs, a.scale, a.period))

    def conjugate(self, a: Ciphertext) -> Ciphertext:
        self.counts["conjugate", a.limbs] += 1
        return self._switched(self.size(a), rules.Form(a.limbs, a.scale, a.period))

    def times_i(self, a: Ciphertext, power: int = 1) -> Ciphertext:
        self.counts["times_i", a.limbs] += 1
        return self._result(self.size(a), rules.Form(a.limbs, a.scale, a.period))

    def parts(self, a: Ciphertext) -> tuple[Ciphertext, Ciphertext]:
        """Real and imaginary parts are equally large; noise is that of a real part all the way."""
        size, form = self.size(self.conjugate(a)), rules.Form(a.limbs, 2 * a.scale, a.period)
        self.counts["add", a.limbs] += 2
        self.counts["times_i", a.limbs] += 2
        part = self._result(replace(size, value=size.value * math.sqrt(0.5)), form)
        return part, part

    def close(self) -> None:
        """Nothing to drop."""
