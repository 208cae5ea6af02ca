"""OpenFHE on its own, with a key pair that it generated itself: an independent judge of our arithmetic.

TESTS ONLY. The product never shows a secret to OpenFHE (SECURITY.md); here OpenFHE makes one, so that its own
encryption, evaluation and decryption can be compared with ours, and `SingleKey.secret` reads it out of the serialised
private key. Nothing real is ever encrypted under it, and the rings are INSECURE.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import openfhe  # type: ignore[import-untyped]

import mhe.backend.openfhe as product
from mhe.backend.openfhe_layout import find_moduli, read_rows
from mhe.ciphertext import RingCiphertext
from mhe.keys import EvaluationKey, PublicKey
from mhe.parameters import Parameters, Shape
from mhe.ring.galois import galois_element
from mhe.ring.ring import ring
from tests import oracle

Floats = npt.NDArray[np.float64]


def serialised(thing: Any) -> bytes:
    blob: bytes = openfhe.Serialize(thing, openfhe.BINARY)
    return blob


def secret_in(private_key: bytes, parameters: Parameters) -> oracle.Secret:
    """The ternary coefficients (ring_dim,) in a serialised private key; its limbs must all say the same."""
    n = parameters.ring_dim
    moduli = find_moduli(private_key, n)
    base = ring(n, moduli)
    evaluated = read_rows(private_key, n, moduli)
    secret = np.array(base.to_integers(base.intt(evaluated)), dtype=np.int64)
    np.testing.assert_array_equal(oracle.as_residues(secret, base), evaluated)
    return secret


def public_key_in(blob: bytes, parameters: Parameters, key_id: str) -> PublicKey:
    """OpenFHE's pair (b, a) with b + a s = e is our (p0, p1)."""
    p0, p1 = read_rows(blob, parameters.ring_dim, parameters.moduli * 2).reshape(2, parameters.n_limbs, -1)
    return PublicKey(p0, p1, key_id)


def evaluation_key_in(blob: bytes, parameters: Parameters, key_id: str) -> EvaluationKey:
    """Vector A, then vector B; each digit by digit."""
    digits, width = len(parameters.digit_limbs), len(parameters.key_moduli)
    rows = read_rows(blob, parameters.ring_dim, parameters.key_moduli * (2 * digits))
    a, b = rows.reshape(2, digits, width, -1)
    return EvaluationKey(b, a, key_id)


def ciphertext_in(blob: bytes, parameters: Parameters, limbs: int, scale: float, key_id: str) -> RingCiphertext:
    c0, c1 = read_rows(blob, parameters.ring_dim, parameters.moduli[:limbs] * 2).reshape(2, limbs, -1)
    return RingCiphertext(c0, c1, scale, key_id)


def ciphertext_of(arrays: RingCiphertext, parameters: Parameters, engine: Any) -> Any:
    """OpenFHE's ciphertext of these residues, as the product makes it."""
    blob = engine.ciphertext(arrays.limbs).fill((arrays.c0, arrays.c1), arrays.key_id)
    ciphertext = openfhe.DeserializeCiphertextString(blob, openfhe.BINARY)
    ciphertext.SetScalingFactor(arrays.scale)
    ciphertext.SetNoiseScaleDeg(1)
    ciphertext.SetSlots(parameters.n_slots)
    return ciphertext


@dataclass(frozen=True, eq=False)
class SingleKey:
    """A key pair of OpenFHE's in the context of these parameters, and the way between its objects and our arrays."""

    parameters: Parameters
    shape: Shape
    pair: Any
    _rotations: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def generate(cls, parameters: Parameters, first_bits: int) -> SingleKey:
        p = parameters
        shape = Shape(p.ring_dim, first_bits, p.scale_bits, p.n_limbs, p.digits)
        assert product.generate_moduli(shape) == (p.moduli, p.special_moduli)
        return cls(p, shape, product._engine(shape).context.KeyGen())

    @property
    def engine(self) -> Any:
        return product._engine(self.shape)

    @property
    def context(self) -> Any:
        return self.engine.context

    @property
    def key_id(self) -> str:
        tag: str = self.pair.publicKey.GetKeyTag()
        return tag

    @cached_property
    def secret(self) -> oracle.Secret:
        return secret_in(serialised(self.pair.secretKey), self.parameters)

    @cached_property
    def public_key(self) -> PublicKey:
        return public_key_in(serialised(self.pair.publicKey), self.parameters, self.key_id)

    # evaluation keys, which OpenFHE keeps for the whole process

    @cached_property
    def relinearisation_blob(self) -> bytes:
        """Made on first use; OpenFHE has no call to drop it again, and finds it by a tag that nobody else has."""
        self.context.EvalMultKeyGen(self.pair.secretKey)
        (key,) = openfhe.CryptoContext.GetEvalMultKeyVector(self.key_id)
        return serialised(key)

    def rotation_blob(self, rotation: int) -> bytes:
        """A serialised key map. Made on first use (OpenFHE makes no second one), and held until `close`."""
        if rotation not in self._rotations:
            element = galois_element(rotation, self.parameters.ring_dim)
            self._rotations[rotation] = serialised(self.context.EvalAutomorphismKeyGen(self.pair.secretKey, [element]))
        return self._rotations[rotation]

    def make_evaluation_keys(self, rotations: Iterable[int]) -> None:
        """For OpenFHE's own products and these rotations."""
        assert self.relinearisation_blob
        for rotation in rotations:
            self.rotation_blob(rotation)

    def relinearisation_key(self) -> EvaluationKey:
        return evaluation_key_in(self.relinearisation_blob, self.parameters, self.key_id)

    def rotation_key(self, rotation: int) -> EvaluationKey:
        return evaluation_key_in(self.rotation_blob(rotation), self.parameters, self.key_id)

    def close(self) -> None:
        self._rotations.clear()
        product._drop_rotation_keys(self.key_id)

    # what OpenFHE does

    def encrypt(self, values: Floats, limbs: int | None = None) -> Any:
        limbs = self.parameters.n_limbs if limbs is None else limbs
        level = self.parameters.n_limbs - limbs
        plaintext = self.context.MakeCKKSPackedPlaintext(values, 1, level, None, len(values))
        return self.context.Encrypt(self.pair.publicKey, plaintext)

    def decrypt(self, ciphertext: Any, scale: float | None = None) -> Floats:
        """All slots (n_slots,). Under FIXEDMANUAL OpenFHE divides by 2^scale_bits, whatever the scale is.

        scale: the exact one, where it is known; OpenFHE itself takes the moduli for powers of two.
        """
        plaintext = self.context.Decrypt(ciphertext, self.pair.secretKey)
        plaintext.SetLength(self.parameters.n_slots)
        factor = 1.0 if scale is None else self.parameters.scale / scale
        return np.array(plaintext.GetRealPackedValue()) * factor

    # the border

    def arrays(self, ciphertext: Any, scale: float) -> RingCiphertext:
        limbs = self.parameters.n_limbs - ciphertext.GetLevel()
        return ciphertext_in(serialised(ciphertext), self.parameters, limbs, scale, self.key_id)

    def ciphertext(self, arrays: RingCiphertext) -> Any:
        return ciphertext_of(arrays, self.parameters, self.engine)
