"""`python -m benchmarks.limbs`: what one limb costs, below 2^50 and above: the weights of `models.cost`.

Microseconds for one limb in a ring of dimension 2^15: a transform; sums of so many products, of which the difference is
what one costs, and the rest their end; the start of a lift from so many limbs, and a row that comes out of it; a
division, with its row of a lift and its transform; a sum of two. And a small polynomial, sampled. All cases in turn, so
that a busy machine disturbs them alike; only ratios mean something.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.measure import Case, measure
from mhe.ring import products
from mhe.ring.basis import Lifting
from mhe.ring.division import division
from mhe.ring.modular import Words
from mhe.ring.primes import ntt_primes
from mhe.ring.ring import ring
from mhe.ring.sampling import gaussian, secret_stream

RING_DIM = 1 << 15
SIZES = {"below 2^47": 45, "below 2^50": 49, "wide": 58}
SOURCES, TARGETS, PAIRS = 4, 8, (1, 3, 8)
RUNS = 31


def cases(bits: int, name: str) -> list[Case]:
    moduli = ntt_primes(bits, RING_DIM, SOURCES + TARGETS)
    target = ring(RING_DIM, moduli[SOURCES:])
    random = np.random.default_rng(0)

    def uniform(some: tuple[int, ...]) -> Words:
        return np.stack([random.integers(0, p, RING_DIM, dtype=np.uint64) for p in some])

    source, x = uniform(moduli[:SOURCES]), uniform(target.moduli)
    operands = [[uniform(target.moduli) for _ in range(3)] for _ in range(max(PAIRS))]
    starts = [[products.address(each) for each in term] for term in operands]
    factors = {n: products.rows_from(starts[:n], TARGETS, RING_DIM) for n in PAIRS}
    out = np.empty((2, TARGETS, RING_DIM), dtype=np.uint64)
    lifted, y = np.empty_like(x), uniform(target.moduli)
    divide = division(RING_DIM, target.moduli, moduli[:1])
    remainder = divide.remainder(source[:1])
    noise = secret_stream()

    def case(op: str, run: Callable[[Any], object], divisor: int) -> Case:
        return Case(op, name, RING_DIM, TARGETS, run, divisor=divisor)

    def start(n: int) -> Lifting:
        return Lifting(source[:n], moduli[:n], target.moduli)

    liftings = {n: start(n) for n in range(1, SOURCES + 1)}
    return [
        case("transform", lambda _: target.ntt_in_place(x), TARGETS),
        # `operands` is named so that the arrays behind the addresses stay alive
        *(
            case(f"sum of {n}", lambda _, f=factors[n], kept=operands: products.sum_of_products(out, f, target.moduli),  # type: ignore[misc]
                 2 * TARGETS)
            for n in PAIRS
        ),
        *(case(f"lift from {n}", lambda _, n=n: start(n), 1) for n in liftings),  # type: ignore[misc]
        *(
            case(f"row from {n}", lambda _, of=of: of.rows(slice(0, TARGETS), lifted), TARGETS)  # type: ignore[misc]
            for n, of in liftings.items()
        ),
        case("division", lambda _: divide.limbs(slice(0, TARGETS), x, remainder, lifted), TARGETS),
        case("sum of two", lambda _: target.add(x, y), TARGETS),
        case("sample", lambda _: gaussian(noise, RING_DIM), 1),
    ]  # fmt: skip


def main() -> None:
    """Measure and print."""
    timings = measure([case for name, bits in SIZES.items() for case in cases(bits, name)], RUNS)
    for t in timings:
        print(f"{t.op:10} {t.backend:11} {1e3 * t.median_ms:7.1f} us")


if __name__ == "__main__":
    main()
