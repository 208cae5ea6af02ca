"""`Parameters`: one validated, immutable choice of ring, modulus chain, scale and key-switching digits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from mhe.errors import ParameterError
from mhe.ring.primes import is_prime

LOG_QP_CAPS: Mapping[int, Mapping[int, int]] = {
    128: {1 << 10: 26, 1 << 11: 53, 1 << 12: 106, 1 << 13: 214, 1 << 14: 430, 1 << 15: 868, 1 << 16: 1747},
    192: {1 << 11: 36, 1 << 12: 73, 1 << 13: 147, 1 << 14: 297, 1 << 15: 597, 1 << 16: 1199},
    256: {1 << 11: 27, 1 << 12: 56, 1 << 13: 114, 1 << 14: 230, 1 << 15: 462, 1 << 16: 929},
}
"""Largest log2(QP) by security bits and ring dimension: classical attacks, uniform ternary secret, error width 3.19.

Source: Bossuat et al., "Security Guidelines for Implementing Homomorphic Encryption", ePrint 2024/463, Table 5.2.
"""

Primes = tuple[tuple[int, ...], tuple[int, ...]]
"""(moduli, special moduli)."""

ERROR_STD = 3.19
"""Standard deviation of the narrow error distribution of every key and fresh encryption."""


WORD_BYTES = 8
"""Of a residue in memory and in transit."""

PRESCRIBED_SPECIAL_BITS = 60
"""OpenFHE's special primes; a `Shape` that asks for nothing else has them too."""


@dataclass(frozen=True)
class Shape:
    """What a modulus chain should look like, before its primes are chosen.

    n_limbs moduli: the first `floor_limbs` of `first_bits` bits, the others of `scale_bits`; key switching in `digits`
    digits. special_limbs primes of special_bits bits; 0 means as many as it takes to cover the largest digit.
    OpenFHE has floor_limbs = 1, special_bits = 60, special_limbs = 0 only.
    """

    ring_dim: int
    first_bits: int
    scale_bits: int
    n_limbs: int
    digits: int
    floor_limbs: int = 1
    special_bits: int = PRESCRIBED_SPECIAL_BITS
    special_limbs: int = 0

    @cached_property
    def limb_bits(self) -> tuple[int, ...]:
        """Nominal size of every modulus of the chain."""
        floor = min(self.floor_limbs, self.n_limbs)
        return (self.first_bits,) * floor + (self.scale_bits,) * (self.n_limbs - floor)

    @cached_property
    def largest_digit_bits(self) -> int:
        bits = self.limb_bits
        return max(sum(bits[i] for i in digit) for digit in digit_ranges(self.n_limbs, self.digits))

    @cached_property
    def all_special_bits(self) -> tuple[int, ...]:
        """Nominal size of every special prime."""
        covering = math.ceil(self.largest_digit_bits / self.special_bits)
        return (self.special_bits,) * (self.special_limbs or covering)

    @cached_property
    def special_margin(self) -> int:
        """Bits by which the special primes exceed the largest digit."""
        return sum(self.all_special_bits) - self.largest_digit_bits

    @property
    def log_qp(self) -> int:
        """log2 of all moduli together, nominally."""
        return sum(self.limb_bits) + sum(self.all_special_bits)


@dataclass(frozen=True)
class Parameters:
    """CKKS parameters shared by all parties.

    ring_dim: N, the degree of X^N + 1; a ciphertext has N/2 slots.
    moduli: q_0 .. q_L, the ciphertext modulus chain; a rescale drops the last one left.
    special_moduli: the moduli whose product P protects key switching; every evaluation key lives modulo Q*P.
    scale_bits: log2 of the default scale.
    digits: into how many digits hybrid key switching cuts Q.
    n_parties: how many parties share the secret.
    refresh_limbs: limbs at which a refresh takes its input.
    message_bits: the plan's bound on log2 |slot value| of what is refreshed, were it at the default scale.
    security_bits: 128, 192 or 256, enforced by the caps on log2(QP).
    statistical_bits: the refresh masks hide the message to statistical distance 2^-statistical_bits.
    insecure: set only by INSECURE_TEST parameters; skips the cap, never the consistency checks.

    Raises ParameterError on construction if anything does not fit or misses the security asked for.
    """

    ring_dim: int
    moduli: tuple[int, ...]
    special_moduli: tuple[int, ...]
    scale_bits: int
    digits: int
    n_parties: int
    refresh_limbs: int
    message_bits: float
    security_bits: int = 128
    statistical_bits: int = 128
    insecure: bool = False

    @classmethod
    def of_shape(
        cls,
        shape: Shape,
        primes: Primes,
        *,
        n_parties: int,
        refresh_limbs: int,
        message_bits: float,
        security_bits: int = 128,
        statistical_bits: int = 128,
        insecure: bool = False,
    ) -> Parameters:
        """Parameters on the (moduli, special moduli) that were generated for a shape."""
        moduli, special_moduli = primes
        return cls(
            ring_dim=shape.ring_dim,
            moduli=moduli,
            special_moduli=special_moduli,
            scale_bits=shape.scale_bits,
            digits=shape.digits,
            n_parties=n_parties,
            refresh_limbs=refresh_limbs,
            message_bits=message_bits,
            security_bits=security_bits,
            statistical_bits=statistical_bits,
            insecure=insecure,
        )

    def __post_init__(self) -> None:
        n = self.ring_dim
        if n < 16 or n & (n - 1):
            raise ParameterError(f"ring_dim is {n}; need a power of two of at least 16")
        both = self.moduli + self.special_moduli
        if not self.moduli or not self.special_moduli:
            raise ParameterError("need at least one modulus and one special modulus")
        if len(set(both)) != len(both):
            raise ParameterError("moduli repeat; every modulus of the chain must be another prime")
        for q in both:
            if q.bit_length() > 61 or q % (2 * n) != 1 or not is_prime(q):
                raise ParameterError(f"modulus {q} is not a prime of at most 61 bits that is 1 modulo {2 * n}")
        if not 1 <= self.digits <= len(self.moduli):
            raise ParameterError(f"digits is {self.digits}; need 1 to {len(self.moduli)}, the number of limbs")
        if self.n_parties < 1:
            raise ParameterError(f"n_parties is {self.n_parties}; need at least 1")
        if not 1 <= self.refresh_limbs <= len(self.moduli):
            raise ParameterError(f"refresh_limbs is {self.refresh_limbs}; need 1 to {len(self.moduli)}")
        if not self.insecure:
            check_cap(n, self.log_qp, self.security_bits)
        floor = refresh_floor_bits(self.statistical_bits, self.scale_bits, self.message_bits, self.n_parties)
        low = log2_product(self.moduli[: self.refresh_limbs])
        if low < floor:
            raise ParameterError(
                f"a refresh at {self.refresh_limbs} limbs has a modulus of {low:.1f} bits; masks with "
                f"{self.statistical_bits} statistical bits need {floor:.1f}: raise refresh_limbs, or lower the bits"
            )

    @property
    def n_slots(self) -> int:
        return self.ring_dim // 2

    @property
    def n_limbs(self) -> int:
        return len(self.moduli)

    @property
    def depth(self) -> int:
        """Levels that a computation may consume between two refreshes."""
        return self.n_limbs - self.refresh_limbs

    @cached_property
    def log_qp(self) -> float:
        return log2_product(self.moduli + self.special_moduli)

    @property
    def mask_bits(self) -> int:
        """Bits of one party's refresh mask: statistical_bits above the largest coefficient of the message."""
        return math.ceil(self.statistical_bits + self.scale_bits + self.message_bits) + 1

    @property
    def key_moduli(self) -> tuple[int, ...]:
        """Q then P: the order of the rows of every evaluation key."""
        return self.moduli + self.special_moduli

    @cached_property
    def digit_limbs(self) -> tuple[range, ...]:
        """Which limbs of Q each key-switching digit covers."""
        return digit_ranges(self.n_limbs, self.digits)

    def digits_at(self, limbs: int) -> tuple[range, ...]:
        """The same of the first `limbs` limbs: the last digit may lose some of its own, and others are not there."""
        return tuple(range(d.start, min(d.stop, limbs)) for d in self.digit_limbs if d.start < limbs)

    def key_rows(self, limbs: int) -> int:
        """Of one part of an evaluation key for so many limbs: those and all special ones, for each of their digits."""
        return len(self.digits_at(limbs)) * (limbs + len(self.special_moduli))

    def evaluation_key_bytes(self, limbs: int) -> int:
        """Of one evaluation key for so many limbs, both parts: a word for each residue."""
        return 2 * self.key_rows(limbs) * self.ring_dim * WORD_BYTES

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that name these parameters; every message between parties carries it."""
        text = repr(
            (
                self.ring_dim, self.moduli, self.special_moduli, self.scale_bits, self.digits, self.n_parties,
                self.refresh_limbs, float(self.message_bits), self.security_bits, self.statistical_bits, self.insecure,
            )
        )  # fmt: skip
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    @property
    def scale(self) -> float:
        return 2.0**self.scale_bits


def digit_ranges(n_limbs: int, digits: int) -> tuple[range, ...]:
    """n_limbs limbs cut into digits: ceil(n_limbs / digits) consecutive ones each, fewer in the last."""
    width = -(-n_limbs // digits)
    return tuple(range(i, min(i + width, n_limbs)) for i in range(0, n_limbs, width))


def check_cap(ring_dim: int, log_qp: float, security_bits: int) -> None:
    """Raise ParameterError unless a ring of this dimension gives `security_bits` at a modulus of log_qp bits."""
    caps = LOG_QP_CAPS.get(security_bits)
    if caps is None:
        raise ParameterError(f"security_bits is {security_bits}; need one of {sorted(LOG_QP_CAPS)}")
    cap = caps.get(ring_dim)
    if cap is None or log_qp > cap:
        fits = [n for n, c in caps.items() if c >= log_qp]
        remedy = f"take ring_dim >= {min(fits)}" if fits else "use fewer or smaller moduli"
        raise ParameterError(
            f"log2(QP) is {log_qp:.1f} at ring_dim {ring_dim}; {security_bits}-bit security allows "
            f"{cap if cap is not None else 'no modulus'} there: {remedy}"
        )


def refresh_floor_bits(statistical_bits: int, scale_bits: float, message_bits: float, n_parties: int) -> float:
    """log2 of the smallest modulus at which a masked refresh neither leaks nor wraps around.

    The masked value is the message minus n_parties masks, each of statistical_bits + 1 bits above the message and
    signed; it must stay below half the modulus with a factor 2 to spare for an exact lift to the full modulus.
    """
    mask_bits = math.ceil(statistical_bits + scale_bits + message_bits) + 1
    return mask_bits + math.log2(n_parties + 1) + 1


def refresh_room_bits(floor_bits: float, statistical_bits: int, scale_bits: float, n_parties: int) -> float:
    """The most message_bits for which `refresh_floor_bits` is not above this."""
    return math.floor(floor_bits - math.log2(n_parties + 1) - 2) - statistical_bits - scale_bits


@lru_cache(maxsize=4096)
def log2_product(moduli: tuple[int, ...]) -> float:
    return sum(math.log2(q) for q in moduli)
