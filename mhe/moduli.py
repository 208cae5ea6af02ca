"""Moduli of our own choosing for a `Shape`, where no library prescribes them."""

from __future__ import annotations

from functools import lru_cache

from mhe.parameters import Primes, Shape
from mhe.ring.primes import ntt_primes


@lru_cache(maxsize=16384)
def generate_moduli(shape: Shape) -> Primes:
    """(moduli, special moduli): primes next to the sizes that the shape asks for, the same for shapes that ask for the
    same sizes.

    Raises ParameterError if the ring has not enough primes of a size.
    """
    # where all limbs are alike, nothing tells which of them are the floor
    floor = shape.n_limbs if shape.first_bits == shape.scale_bits else min(shape.floor_limbs, shape.n_limbs)
    first = ntt_primes(shape.first_bits, shape.ring_dim, floor)
    moduli = first + ntt_primes(shape.scale_bits, shape.ring_dim, shape.n_limbs - floor, avoid=first)
    specials = shape.all_special_bits
    return moduli, ntt_primes(shape.special_bits, shape.ring_dim, len(specials), avoid=moduli)
