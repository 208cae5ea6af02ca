"""Objects that OpenFHE serialised once, kept in golden/: what another release would have to read and write alike.

`python -m tests.mhe.backend.openfhe_golden` makes the file anew, for a new pinned release. Its key pair is public: it
was made for this file, in a toy ring, and has never encrypted anything else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mhe.backend.openfhe import PINNED_VERSION, generate_moduli
from mhe.parameters import Parameters, Shape
from tests.openfhe_single_key import SingleKey, serialised

SHAPE = Shape(ring_dim=16, first_bits=50, scale_bits=40, n_limbs=3, digits=2)
ROTATION = 3
SLOTS = np.array([0.5, -0.25, 0.125, 1.0, -1.0, 0.75, -0.625, 0.0])
FILE = Path(__file__).parent / "golden" / f"openfhe-{PINNED_VERSION}.npz"


def insecure_parameters(moduli: tuple[int, ...], special_moduli: tuple[int, ...]) -> Parameters:
    """INSECURE: the smallest ring that there is."""
    return Parameters(
        ring_dim=SHAPE.ring_dim,
        moduli=moduli,
        special_moduli=special_moduli,
        scale_bits=SHAPE.scale_bits,
        digits=SHAPE.digits,
        n_parties=1,
        refresh_limbs=SHAPE.n_limbs,
        message_bits=1,
        statistical_bits=1,
        insecure=True,
    )


def make() -> None:
    key = SingleKey.generate(insecure_parameters(*generate_moduli(SHAPE)), SHAPE.first_bits)
    key.make_evaluation_keys([ROTATION])
    fresh = key.encrypt(SLOTS)
    square = key.context.Rescale(key.context.EvalMult(fresh, fresh))
    objects = {
        "private_key": serialised(key.pair.secretKey),
        "public_key": serialised(key.pair.publicKey),
        "relinearisation_key": key.relinearisation_blob,
        "rotation_key": key.rotation_blob(ROTATION),
        "fresh": serialised(fresh),
        "square": serialised(square),
        "turned": serialised(key.context.EvalRotate(square, ROTATION)),
    }
    p = key.parameters
    arrays = {name: np.frombuffer(blob, dtype=np.uint8) for name, blob in objects.items()}
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        FILE,
        moduli=p.moduli,
        special_moduli=p.special_moduli,
        key_id=np.array(key.key_id),
        **arrays,  # type: ignore[arg-type]
    )


if __name__ == "__main__":
    make()
