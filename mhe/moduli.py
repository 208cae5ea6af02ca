"""Moduli of our own choosing for a `Shape`, where no library prescribes them."""

from __future__ import annotations

import math

from mhe.parameters import Shape, log2_product
from mhe.ring.primes import ntt_primes

SPECIAL_BITS = 60


def generate_moduli(shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(moduli, special moduli): primes next to the asked sizes, the special ones covering the largest digit.

    Raises ParameterError if the ring has not enough primes of a size.
    """
    first = ntt_primes(shape.first_bits, shape.ring_dim, 1)
    others = ntt_primes(shape.scale_bits, shape.ring_dim, shape.n_limbs - 1, avoid=first)
    width = -(-shape.n_limbs // shape.digits)
    largest = log2_product((first + others)[:width])
    special = ntt_primes(SPECIAL_BITS, shape.ring_dim, math.ceil(largest / SPECIAL_BITS), avoid=first + others)
    return first + others, special
