"""The yardstick of the transforms: the same algorithm on single 64-bit words.

Shoup's products with their exact quotient, which needs the upper half of a 64 x 64-bit product: vector units have no
such instruction, so that the compiler emits scalar code. This is how libraries without vector code do it.
"""

from __future__ import annotations

import numpy as np

from mhe.ring import ntt
from mhe.ring.modular import IN_ROW, OUT_ROW, VOID, WORD, Words, kernel, mul_wide, reduce_once, reduce_twice


def forward(row: Words, t: ntt.Tables) -> None:
    """Coefficients to values, in place: (N,), reduced in, reduced out; the same values as `mhe.ring.ntt.forward`."""
    scalar_forward_kernel(row, t.roots, t.root_ratios, t.modulus)


@kernel(VOID, OUT_ROW, IN_ROW, IN_ROW, WORD)
def scalar_forward_kernel(row: Words, roots: Words, root_ratios: Words, p: np.uint64) -> None:
    two = p + p
    blocks, half = 1, row.size >> 1
    while half > 0:
        for i in range(blocks):
            w, w_ratio = roots[blocks + i], root_ratios[blocks + i]
            left = row[2 * i * half : (2 * i + 1) * half]
            right = row[(2 * i + 1) * half : (2 * i + 2) * half]
            for j in range(half):
                x = reduce_once(left[j], two)
                y = right[j] * w - mul_wide(right[j], w_ratio)[0] * p
                left[j], right[j] = x + y, x + two - y
        blocks, half = blocks << 1, half >> 1
    for j in range(row.size):
        row[j] = reduce_twice(row[j], p)
