"""One circuit of everything, and how precise an evaluator computes it: shared by the benchmark and the tests.

    p = rescale(w x),  m = rescale(p y),  r = m + rot(m, 1) + rot(m, 2) + rot(m, 3),  cubic sigmoid of r

`w` in the clear, `x` and `y` encrypted; four levels, a relinearised product, hoisted rotations, `models.activations`.
"""

from __future__ import annotations

from functools import lru_cache, reduce

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import Backend
from mhe.ciphertext import Ciphertext
from models.activations import Polynomial, approximate, evaluate, sigmoid

Floats = npt.NDArray[np.float64]

LEVELS = 4
ROTATIONS = (1, 2, 3)
INTERVAL = (-8.0, 8.0)


@lru_cache(maxsize=1)
def _cubic() -> Polynomial:
    return approximate(sigmoid, 3, INTERVAL, "least_squares")


def inputs(n_slots: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """(w, x, y), uniform in [-1, 1): (n_slots,) each."""
    w, x, y = np.random.default_rng(seed).uniform(-1, 1, (3, n_slots))
    return w, x, y


def circuit(backend: Backend, w: Floats, x: Ciphertext, y: Ciphertext) -> Ciphertext:
    """x, y: fresh, at the default scale; needs LEVELS limbs above the result's and the keys of ROTATIONS."""
    p = backend.rescale(backend.multiply_plain(x, backend.encode(w, x.limbs)))
    m = backend.rescale(backend.multiply(p, backend.drop_limbs(y, p.limbs)))
    turned = backend.rotate_hoisted(m, ROTATIONS)
    total = reduce(backend.add, turned.values(), m)
    return evaluate(backend, total, _cubic(), backend.parameters.scale)


def circuit_in_the_clear(w: Floats, x: Floats, y: Floats) -> Floats:
    """The same in float64: (n_slots,)."""
    m = w * x * y
    return _cubic()(m + np.sum([np.roll(m, -rotation) for rotation in ROTATIONS], axis=0))


def precision_bits(computed: Floats, exact: Floats) -> float:
    """-log2 of the root mean square error of a slot."""
    return float(-0.5 * np.log2(np.mean(np.square(computed - exact))))
