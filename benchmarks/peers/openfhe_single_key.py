"""OpenFHE, one key pair: its owner encrypts rows and labels, a server computes gradients on them.

The owner decrypts every gradient, steps, and encrypts the new weights: re-encryption in place of bootstrapping, which
asks for a ring of 2^16 or more and takes far longer. Rows lie column by column, so that the sum over the features ends
up in every slot without a mask; the intercept has a ciphertext of its own, which lets 8 features of up to 1,024 rows
fit the 8,192 slots of the smallest secure ring of this depth.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import openfhe as fhe  # type: ignore[import-untyped]

from benchmarks.peers.task import Floats, Task, descend

FEATURES, ROWS = 8, 1024
SLOTS = FEATURES * ROWS
DEPTH = 4
"""Forward 1, cubic 2, backward 1."""
SCALE_BITS, FIRST_BITS = 50, 60


def make_context() -> tuple[Any, Any]:
    """(context, key pair), 128-bit security."""
    parameters = fhe.CCParamsCKKSRNS()
    parameters.SetMultiplicativeDepth(DEPTH)
    parameters.SetScalingModSize(SCALE_BITS)
    parameters.SetFirstModSize(FIRST_BITS)
    parameters.SetBatchSize(SLOTS)
    parameters.SetSecurityLevel(fhe.SecurityLevel.HEStd_128_classic)
    context = fhe.GenCryptoContext(parameters)
    for feature in (fhe.PKESchemeFeature.PKE, fhe.PKESchemeFeature.KEYSWITCH, fhe.PKESchemeFeature.LEVELEDSHE):
        context.Enable(feature)
    keys = context.KeyGen()
    context.EvalMultKeyGen(keys.secretKey)
    context.EvalRotateKeyGen(keys.secretKey, [1 << k for k in range(SLOTS.bit_length() - 1)])
    return context, keys


def main(task_file: Path, out: Path) -> None:
    task = Task.load(task_file)
    n, d = task.x.shape
    if d != FEATURES or n > ROWS:
        raise SystemExit(f"rows of {d} features, {n} of them; this script packs {FEATURES} and up to {ROWS}")
    context, keys = make_context()

    def encrypt(values: Floats) -> Any:
        return context.Encrypt(keys.publicKey, context.MakeCKKSPackedPlaintext(values.tolist()))

    def total(ciphertext: Any, first: int, last: int) -> Any:
        """Sum of rotations by first, 2 first, ... below last."""
        step = first
        while step < last:
            ciphertext = context.EvalAdd(ciphertext, context.EvalRotate(ciphertext, step))
            step *= 2
        return ciphertext

    def opened(ciphertext: Any) -> Floats:
        plaintext = context.Decrypt(ciphertext, keys.secretKey)
        plaintext.SetLength(SLOTS)
        return np.array(plaintext.GetRealPackedValue())

    columns, labels, valid = np.zeros((FEATURES, ROWS)), np.zeros(ROWS), np.zeros(ROWS)
    columns[:, :n], labels[:n], valid[:n] = task.x.T, task.y, 1.0
    x, y = encrypt(columns.ravel()), encrypt(np.tile(labels, FEATURES))
    mask = context.MakeCKKSPackedPlaintext(np.tile(valid, FEATURES).tolist())
    c0, c1, c2, c3 = task.settings.link
    if abs(c2) > 1e-9:
        raise SystemExit(f"the link has a quadratic term {c2}; this script evaluates odd cubics about 1/2")

    def gradient(v: Floats) -> Floats:
        w, b = encrypt(np.repeat(v[:-1], ROWS)), encrypt(np.full(SLOTS, v[-1]))
        u = context.EvalAdd(total(context.EvalMult(x, w), ROWS, SLOTS), b)
        cube = context.EvalMult(context.EvalMult(u, c3), context.EvalSquare(u))
        logistic = context.EvalAdd(context.EvalAdd(cube, context.EvalMult(u, c1)), c0)
        error = context.EvalSub(logistic, y)
        slopes = opened(total(context.EvalMult(x, error), 1, ROWS))[::ROWS]
        return np.append(slopes, opened(total(context.EvalMult(error, mask), 1, ROWS))[0])

    descend(
        task,
        gradient,
        {
            "ring_dim": context.GetRingDimension(),
            "depth": DEPTH,
            "scale_bits": SCALE_BITS,
            "security_bits": 128,
            "refresh": "re-encryption by the key's owner",
        },
    ).save(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
