"""The native evaluator loses no precision against OpenFHE: one circuit, the same primes, ciphertexts and keys."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.precision import LEVELS, ROTATIONS, circuit, circuit_in_the_clear, inputs, precision_bits
from mhe.backend.openfhe import generate_moduli
from mhe.parameters import ERROR_STD
from tests.evaluators import REAL, World
from tests.insecure import insecure_test_parameters

SEEDS = range(3)
WORSE_BY = 1.0
"""The native evaluator may be so many bits less precise."""


@pytest.mark.parametrize(("scale_bits", "digits"), [(45, 3), (45, 2), (50, 1), (38, 6)])
def test_native_is_as_precise_as_openfhe(scale_bits: int, digits: int) -> None:
    """Digits from one for all limbs, with the widest P, to one for each."""
    p = insecure_test_parameters(1 << 11, LEVELS + 2, scale_bits=scale_bits, digits=digits, make_moduli=generate_moduli)
    # what a slot of a fresh encryption is precise to: no result is better, and a wrong one is nowhere near
    fresh = -np.log2(ERROR_STD * np.sqrt(p.n_slots) / p.scale)
    worlds = {name: World.of(name, p, ROTATIONS) for name in REAL}
    for seed in SEEDS:
        w, x, y = inputs(p.n_slots, seed)
        bits = {}
        for name, world in worlds.items():
            a, b = world.encrypt(x, seed=2 * seed), world.encrypt(y, seed=2 * seed + 1)
            result = circuit(world.backend, w, a, b)
            assert result.limbs == p.n_limbs - LEVELS
            bits[name] = precision_bits(world.decrypt(result), circuit_in_the_clear(w, x, y))
            assert fresh / 2 < bits[name] < fresh
        shown = ", ".join(f"{name} {b:.2f}" for name, b in bits.items())
        print(f"scale 2^{scale_bits}, {digits} digits, inputs {seed}: bits of precision: {shown}")
        assert bits["native"] >= bits["openfhe"] - WORSE_BY
    for world in worlds.values():
        world.backend.close()
