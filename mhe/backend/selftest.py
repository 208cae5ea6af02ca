"""Does an evaluator agree with our ring arithmetic? Run at start-up, on a toy key that protects nothing.

Whatever the library changes (slot order, order of the residues, sign or direction conventions, layout of keys) shows
up here as a BackendError, and never as a wrong model.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import RingBackend
from mhe.ciphertext import Ciphertext, RingCiphertext
from mhe.encoding import decode_coefficients, encode_coefficients
from mhe.errors import BackendError
from mhe.keys import EvaluationKey
from mhe.parameters import ERROR_STD, log2_product
from mhe.ring.galois import conjugation_element, galois_element, inverse_element
from mhe.ring.ring import Ring, ring
from mhe.security import key_switch_std, rounding_std, tail

Floats = npt.NDArray[np.float64]
Residues = npt.NDArray[np.uint64]

_SEED = 20240917  # any: nothing here is secret
_ROTATIONS = (1, 5)


def _verify(what: str, got: Floats, expected: Floats, bound: float, remedy: str) -> None:
    error = float(np.abs(got - expected).max())
    if not error <= bound:
        raise BackendError(
            f"the evaluator failed its self-test: {what} is off by {error:.1e}, the bound is {bound:.1e}: {remedy}"
        )


def check_encoding(backend: RingBackend, key_id: str, remedy: str) -> None:
    """Plaintexts, import and export at the backend's own ring and lowest limb; needs no key.

    A trivial ciphertext (c1 = 0) of known slots plus an encoding of the same slots must give twice the slots, up to
    float64 and rounding errors. Raises BackendError otherwise.
    """
    p = backend.parameters
    limbs = next(k for k in range(1, p.n_limbs + 1) if log2_product(p.moduli[:k]) > p.scale_bits + 4)
    base = ring(p.ring_dim, p.moduli[:limbs])
    values = np.random.default_rng(_SEED).uniform(-1, 1, p.n_slots)
    message = base.ntt(base.from_integers([int(c) for c in encode_coefficients(values, p.ring_dim, p.scale)]))
    trivial = backend.import_ciphertext(RingCiphertext(message, np.zeros_like(message), p.scale, key_id), p.n_slots)
    total = backend.export_ciphertext(backend.add_plain(trivial, backend.encode(values, limbs)))
    coefficients = np.array([float(c) for c in base.to_integers(base.intt(total.c0))])
    # the same rounding of each coefficient twice, and the float64 errors of two encoders and a decoder
    bound = 2 * tail(p.n_slots) * np.sqrt(p.ring_dim / 12) / p.scale + 64 * np.log2(p.ring_dim) * 2.0**-53
    _verify("an encoding", decode_coefficients(coefficients, total.scale), 2 * values, float(bound), remedy)


class _Toy:
    """One ordinary, public secret and the few operations that the test needs of it."""

    def __init__(self, backend: RingBackend, key_id: str) -> None:
        self.backend, self.key_id = backend, key_id
        self.parameters = backend.parameters
        self.random = np.random.default_rng(_SEED)
        self.secret = self.random.integers(-1, 2, self.parameters.ring_dim)

    def _error(self, target: Ring) -> Residues:
        noise = np.rint(self.random.normal(0, ERROR_STD, self.parameters.ring_dim)).astype(np.int64)
        return target.ntt(target.from_signed(noise))

    def _uniform(self, target: Ring) -> Residues:
        rows = [self.random.integers(0, q, self.parameters.ring_dim, dtype=np.uint64) for q in target.moduli]
        return np.stack(rows)

    def _secret(self, target: Ring) -> Residues:
        return target.ntt(target.from_signed(self.secret))

    def encrypt(self, values: Floats) -> Ciphertext:
        p = self.parameters
        base = ring(p.ring_dim, p.moduli)
        c1 = self._uniform(base)
        c0 = base.ntt(base.from_integers([int(c) for c in encode_coefficients(values, p.ring_dim, p.scale)]))
        c0 = base.subtract(base.add(c0, self._error(base)), base.multiply(c1, self._secret(base)))
        return self.backend.import_ciphertext(RingCiphertext(c0, c1, p.scale, self.key_id), len(values))

    def decrypt(self, ciphertext: Ciphertext) -> Floats:
        got = self.backend.export_ciphertext(ciphertext)
        base = ring(self.parameters.ring_dim, self.parameters.moduli[: got.limbs])
        message = base.add(got.c0, base.multiply(got.c1, self._secret(base)))
        coefficients = np.array([float(c) for c in base.to_integers(base.intt(message))])
        return decode_coefficients(coefficients, got.scale)

    def key(self, old: Residues, new: Residues) -> EvaluationKey:
        """b + a*new = g*old + e for every digit."""
        p = self.parameters
        base = ring(p.ring_dim, p.key_moduli)
        special = int(np.prod([int(q) for q in p.special_moduli], dtype=object))
        b, a = [], []
        for digit in p.digit_limbs:
            gadget = tuple(special if i in digit else 0 for i in range(len(p.key_moduli)))
            uniform = self._uniform(base)
            message = base.add(base.multiply_constant(old, gadget), self._error(base))
            b.append(base.subtract(message, base.multiply(uniform, new)))
            a.append(uniform)
        return EvaluationKey(np.stack(b), np.stack(a), self.key_id)

    def load_keys(self) -> None:
        n = self.parameters.ring_dim
        base = ring(n, self.parameters.key_moduli)
        secret = self._secret(base)
        self.backend.load_relinearisation_key(self.key(base.multiply(secret, secret), secret))
        for rotation in _ROTATIONS:
            turned = base.automorphism(secret, inverse_element(galois_element(rotation, n), n))
            self.backend.load_rotation_key(rotation, self.key(secret, turned))
        conjugated = base.automorphism(secret, conjugation_element(n))
        self.backend.load_conjugation_key(self.key(secret, conjugated))


def check_evaluator(backend: RingBackend, key_id: str, remedy: str) -> None:
    """Products, sums, rescaling and rotations against numpy, under a toy key that is loaded for it.

    Raises BackendError if a result is farther off than the closed forms of mhe.security allow.
    """
    p, toy = backend.parameters, _Toy(backend, key_id)
    toy.load_keys()
    x, y, w = (toy.random.uniform(-1, 1, p.n_slots) for _ in range(3))
    a, b = toy.encrypt(x), toy.encrypt(y)
    n = p.ring_dim
    fresh, switched = ERROR_STD + 1, key_switch_std(p, p.n_limbs, ERROR_STD)
    # errors of the operands are multiplied by slots of at most 2 and summed, later errors are added
    deviation = 4 * fresh + 2 * switched + rounding_std(n, p.n_parties)
    bound = tail(p.n_slots) * float(np.sqrt(n)) * deviation / p.scale
    product = backend.rescale(backend.multiply(a, b))
    _verify("a product", toy.decrypt(product), x * y, bound, remedy)
    weighted = backend.rescale(backend.multiply_plain(backend.add(a, b), backend.encode(w, p.n_limbs)))
    _verify("a product with a plaintext", toy.decrypt(weighted), (x + y) * w, bound, remedy)
    turned = backend.rotate(backend.drop_limbs(a, p.n_limbs - 1), _ROTATIONS[0])
    _verify("a rotation", toy.decrypt(turned), np.roll(x, -_ROTATIONS[0]), bound, remedy)
    for rotation, each in backend.rotate_hoisted(a, _ROTATIONS).items():
        _verify("a hoisted rotation", toy.decrypt(each), np.roll(x, -rotation), bound, remedy)
    # real slots are their own conjugates; another automorphism, or another key, would leave nothing of them
    _verify("a conjugation", toy.decrypt(backend.conjugate(a)), x, bound, remedy)
