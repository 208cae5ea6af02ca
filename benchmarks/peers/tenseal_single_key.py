"""TenSEAL, one key pair: its owner encrypts rows and labels, a server computes gradients on them.

The owner decrypts every gradient, steps, and encrypts the new weights (there is no bootstrapping in TenSEAL). One
ciphertext for each column, all rows in its slots: an iteration is a few products of whole columns.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tenseal as ts

from benchmarks.peers.task import Floats, Task, descend

RING_DIM = 1 << 14
MODULUS_BITS = (60, 50, 50, 50, 50, 60)
"""320 bits in all, of the 438 that 128-bit security allows: forward 1 level, cubic 2, backward 1."""
SCALE_BITS = 50


def main(task_file: Path, out: Path) -> None:
    task = Task.load(task_file)
    context = ts.context(ts.SCHEME_TYPE.CKKS, RING_DIM, coeff_mod_bit_sizes=list(MODULUS_BITS))
    context.global_scale = 2.0**SCALE_BITS
    context.generate_galois_keys()

    def encrypt(values: Floats) -> Any:
        return ts.ckks_vector(context, values.tolist())

    n = len(task.y)
    x, y = [encrypt(column) for column in task.x.T], encrypt(task.y)
    link = list(task.settings.link)

    def gradient(v: Floats) -> Floats:
        u = encrypt(np.full(n, v[-1]))
        for column, weight in zip(x, v[:-1], strict=True):
            u = u + column * encrypt(np.full(n, weight))
        error = u.polyval(link) - y
        return np.array([*(column.dot(error).decrypt()[0] for column in x), error.sum().decrypt()[0]])

    settings = {
        "ring_dim": RING_DIM,
        "modulus_bits": MODULUS_BITS,
        "scale_bits": SCALE_BITS,
        "security_bits": 128,
        "refresh": "re-encryption by the key's owner",
    }
    descend(task, gradient, settings).save(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
