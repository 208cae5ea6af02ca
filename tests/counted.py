"""An evaluator whose calls are counted, to hold against what a plan counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.backend import rules
from mhe.ciphertext import Ciphertext

Floats = npt.NDArray[np.float64]


class Counted:
    """An evaluator that counts calls as the tracking one is said to, by the calls themselves."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.counts: Counter[tuple[str, int]] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def _turned(self, name: str, parts: list[tuple[int, Ciphertext]]) -> int:
        turned = [a for rotation, a in parts if rotation % a.period]
        for a in turned:
            self.counts[name, a.limbs] += 1
        return len(turned)

    def encode(self, values: Floats, limbs: int, scale: float | None = None) -> Any:
        self.counts["encode", limbs] += 1
        return self._backend.encode(values, limbs, scale)

    def add(self, a: Ciphertext, b: Ciphertext) -> Any:
        self.counts["add", a.limbs] += 1
        return self._backend.add(a, b)

    def add_plain(self, a: Ciphertext, b: Any) -> Any:
        self.counts["add_plain", a.limbs] += 1
        return self._backend.add_plain(a, b)

    def multiply_plain(self, a: Ciphertext, b: Any) -> Any:
        self.counts["multiply_accumulate_plain", a.limbs] += 1
        return self._backend.multiply_plain(a, b)

    def multiply_accumulate_plain(self, pairs: Iterable[tuple[Ciphertext, Any]]) -> Any:
        pairs = list(pairs)
        self.counts["multiply_accumulate_plain", pairs[0][0].limbs] += len(pairs)
        return self._backend.multiply_accumulate_plain(pairs)

    def multiply_matrix_plain(self, matrix: Any, vector: Any) -> Any:
        self.counts["multiply_accumulate_plain", vector[0].limbs] += len(matrix) * len(vector)
        return self._backend.multiply_matrix_plain(matrix, vector)

    def multiply(self, a: Ciphertext, b: Ciphertext) -> Any:
        return self.multiply_accumulate([(a, b)])

    def multiply_accumulate(self, pairs: Iterable[tuple[Ciphertext, Ciphertext]]) -> Any:
        pairs = list(pairs)
        self.counts["multiply_accumulate", pairs[0][0].limbs] += len(pairs)
        self.counts["relinearise", pairs[0][0].limbs] += 1
        return self._backend.multiply_accumulate(pairs)

    def rescale(self, a: Ciphertext) -> Any:
        self.counts["rescale", a.limbs] += 1
        return self._backend.rescale(a)

    def rotate(self, a: Ciphertext, rotation: int) -> Any:
        self._turned("rotate", [(rotation, a)])
        return self._backend.rotate(a, rotation)

    def rotate_hoisted(self, a: Ciphertext, rotations: list[int]) -> Any:
        self.counts["decompose", a.limbs] += any(r % a.period for r in rotations)
        self._turned("rotate_hoisted", [(r, a) for r in {r % self.parameters.n_slots for r in rotations}])
        return self._backend.rotate_hoisted(a, rotations)

    def rotate_and_sum(self, parts: dict[int, Ciphertext]) -> Any:
        limbs = next(iter(parts.values())).limbs
        self.counts["rotated_sum", limbs] += self._turned("rotate_and_sum", list(parts.items())) > 0
        self.counts["add", limbs] += len(parts) - 1
        return self._backend.rotate_and_sum(parts)

    def conjugate(self, a: Ciphertext) -> Any:
        self.counts["conjugate", a.limbs] += 1
        return self._backend.conjugate(a)

    def times_i(self, a: Ciphertext, power: int = 1) -> Any:
        self.counts["times_i", a.limbs] += 1
        return self._backend.times_i(a, power)

    def parts(self, a: Ciphertext) -> Any:
        return rules.parts(self, a)
