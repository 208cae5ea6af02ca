"""`python -m benchmarks.limbs`: what one limb costs, below 2^50 and above: the weights of `models.cost`.

Microseconds for one limb in a ring of dimension 2^15: a transform; a product that is added up; a residue's part in a
lift from four limbs to eight. All cases in turn, so that a busy machine disturbs
them alike; only ratios mean something.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.measure import Case, measure
from mhe.ring import products
from mhe.ring.basis import lift
from mhe.ring.modular import Words
from mhe.ring.primes import ntt_primes
from mhe.ring.ring import ring

RING_DIM = 1 << 15
SIZES = {"below 2^50": 49, "wide": 58}
SOURCES, TARGETS, PAIRS = 4, 8, 8
RUNS = 31


def cases(bits: int, name: str) -> list[Case]:
    moduli = ntt_primes(bits, RING_DIM, SOURCES + TARGETS)
    target = ring(RING_DIM, moduli[SOURCES:])
    random = np.random.default_rng(0)

    def uniform(some: tuple[int, ...]) -> Words:
        return np.stack([random.integers(0, p, RING_DIM, dtype=np.uint64) for p in some])

    source, x = uniform(moduli[:SOURCES]), uniform(target.moduli)
    operands = [[uniform(target.moduli) for _ in range(3)] for _ in range(PAIRS)]
    factors = products.rows_from([[products.address(each) for each in term] for term in operands], TARGETS, RING_DIM)
    out = np.empty((2, TARGETS, RING_DIM), dtype=np.uint64)

    def case(op: str, run: Callable[[Any], object], divisor: int) -> Case:
        return Case(op, name, RING_DIM, TARGETS, run, divisor=divisor)

    return [
        case("transform", lambda _: target.ntt_in_place(x), TARGETS),
        # `operands` is named so that the arrays behind the addresses stay alive
        case(
            "product", lambda _, kept=operands: products.sum_of_products(out, factors, target.moduli),  # type: ignore[misc]
            2 * TARGETS * PAIRS,
        ),
        case("lift", lambda _: lift(source, moduli[:SOURCES], target.moduli), SOURCES * TARGETS),
    ]  # fmt: skip


def main() -> None:
    """Measure and print."""
    timings = measure([case for name, bits in SIZES.items() for case in cases(bits, name)], RUNS)
    for t in timings:
        print(f"{t.op:10} {t.backend:11} {1e3 * t.median_ms:7.1f} us")


if __name__ == "__main__":
    main()
