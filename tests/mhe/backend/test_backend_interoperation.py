"""OpenFHE, with a key pair of its own, as the judge: it opens what we computed, and we open what it computed.

The product never shows OpenFHE a secret. Here OpenFHE makes one itself (see tests/openfhe_single_key.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mhe.backend.native import NativeBackend
from mhe.backend.openfhe import generate_moduli
from mhe.ciphertext import Ciphertext
from mhe.encoding import encode_coefficients
from mhe.encryption import encrypt
from mhe.parameters import Parameters
from mhe.ring.ring import ring
from mhe.session import SEED_BYTES, Session
from tests import oracle
from tests.evaluators import Floats, slot_bound
from tests.insecure import FIRST_BITS, insecure_test_parameters
from tests.openfhe_single_key import SingleKey

STEPS = (1, 5, -2)
ERRORS = 2
"""Every result is within `slot_bound` of so many; OpenFHE's decryption adds as much noise as it finds."""

PARAMETERS = {
    "two digits": {"ring_dim": 1 << 10, "n_limbs": 4, "scale_bits": 50, "digits": 2},
    "three digits": {"ring_dim": 1 << 11, "n_limbs": 6, "scale_bits": 45, "digits": 3},
    "a digit per limb": {"ring_dim": 1 << 9, "n_limbs": 4, "scale_bits": 40, "digits": 4},
}


@pytest.fixture(scope="module", params=PARAMETERS)
def theirs(request: pytest.FixtureRequest) -> Iterator[SingleKey]:
    """OpenFHE with its key pair."""
    parameters = insecure_test_parameters(**PARAMETERS[request.param], make_moduli=generate_moduli)
    made = SingleKey.generate(parameters, FIRST_BITS)
    yield made
    made.close()


def native_with_keys(theirs: SingleKey, whose: str) -> NativeBackend:
    """Under OpenFHE's key pair, with the evaluation keys that OpenFHE made, or with ours for the same secret."""
    p, key_id = theirs.parameters, theirs.key_id
    native = NativeBackend(p, key_id)
    if whose == "theirs":
        native.load_relinearisation_key(theirs.relinearisation_key())
        for step in STEPS:
            native.load_rotation_key(step, theirs.rotation_key(step))
    else:
        native.load_relinearisation_key(oracle.make_relinearisation_key(p, theirs.secret, key_id))
        for step in STEPS:
            native.load_rotation_key(step, oracle.make_rotation_key(p, theirs.secret, step, key_id, step % p.n_slots))
    return native


def values(p: Parameters) -> tuple[Floats, Floats, Floats]:
    x, y, w = np.random.default_rng(p.ring_dim).uniform(-1, 1, (3, p.n_slots))
    return x, y, w


def check(found: Floats, expected: Floats, p: Parameters, scale: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=slot_bound(p, ERRORS, scale))


def in_the_clear(x: Floats, y: Floats, w: Floats) -> dict[str, Floats]:
    product = x * y
    turned = np.roll(product, -1)
    total = turned * w + np.roll(product, -5) * y
    return {
        "fresh": x,
        "sum": x + y,
        "product": product,
        "turned": turned,
        "total": total,
        "turned total": np.roll(total, 2),
    }


def computed(native: NativeBackend, a: Ciphertext, b: Ciphertext, w: Floats) -> dict[str, Ciphertext]:
    """The same, encrypted: two levels."""
    product = native.rescale(native.multiply(a, b))
    turned = native.rotate_hoisted(product, [1, 5])
    low = native.drop_limbs(b, product.limbs)
    weighted = native.multiply_plain(turned[1], native.encode(w, product.limbs, low.scale))
    total = native.rescale(native.add(weighted, native.multiply(turned[5], low)))
    return {
        "fresh": a,
        "sum": native.add(a, b),
        "product": product,
        "turned": turned[1],
        "total": total,
        "turned total": native.rotate(total, -2),
    }


@pytest.mark.parametrize("keys", ["theirs", "ours"])
def test_openfhe_opens_what_native_encrypted_and_computed(theirs: SingleKey, keys: str) -> None:
    p = theirs.parameters
    native, session = native_with_keys(theirs, keys), Session(p, 0, bytes(SEED_BYTES))
    base = ring(p.ring_dim, p.moduli)

    def encrypted(slots: Floats) -> Ciphertext:
        """By the product's own encryption, under the public key that OpenFHE made."""
        message = base.ntt(base.from_integers([int(c) for c in encode_coefficients(slots, p.ring_dim, p.scale)]))
        return native.import_ciphertext(encrypt(session, theirs.public_key, message, p.scale), p.n_slots)

    x, y, w = values(p)
    results = computed(native, encrypted(x), encrypted(y), w)
    for name, expected in in_the_clear(x, y, w).items():
        arrays = native.export_ciphertext(results[name])
        check(theirs.decrypt(theirs.ciphertext(arrays), arrays.scale), expected, p, arrays.scale)
        check(oracle.decrypt(arrays, p, theirs.secret), expected, p, arrays.scale)


def openfhe_circuit(theirs: SingleKey, a: Any, b: Any, w: Floats) -> dict[str, tuple[Any, float]]:
    """The circuit by OpenFHE alone, with its own keys: (ciphertext, exact scale) of every result."""
    p, context = theirs.parameters, theirs.context
    theirs.make_evaluation_keys(STEPS)
    product = context.Rescale(context.EvalMult(a, b))
    scale = p.scale**2 / p.moduli[-1]
    turned = {step: context.EvalRotate(product, step) for step in (1, 5)}
    plaintext = context.MakeCKKSPackedPlaintext(w, 1, 1, None, p.n_slots)
    low = context.Compress(b, p.n_limbs - 1, 1)
    total = context.Rescale(context.EvalAdd(context.EvalMult(turned[1], plaintext), context.EvalMult(turned[5], low)))
    last = scale * p.scale / p.moduli[-2]
    return {
        "fresh": (a, p.scale),
        "sum": (context.EvalAdd(a, b), p.scale),
        "product": (product, scale),
        "turned": (turned[1], scale),
        "total": (total, last),
        "turned total": (context.EvalRotate(total, -2), last),
    }


def test_we_open_what_openfhe_encrypted_and_computed(theirs: SingleKey) -> None:
    p = theirs.parameters
    x, y, w = values(p)
    native = NativeBackend(p, theirs.key_id)
    results = openfhe_circuit(theirs, theirs.encrypt(x), theirs.encrypt(y), w)
    for name, expected in in_the_clear(x, y, w).items():
        ciphertext, scale = results[name]
        imported = native.import_ciphertext(theirs.arrays(ciphertext, scale), p.n_slots)
        opened = oracle.decrypt(native.export_ciphertext(imported), p, theirs.secret)
        check(opened, expected, p, scale)
        check(theirs.decrypt(ciphertext, scale), expected, p, scale)


@pytest.mark.parametrize("first", ["openfhe", "native"])
def test_each_goes_on_with_what_the_other_computed(theirs: SingleKey, first: str) -> None:
    """A product by one, another product and a rotation by the other, opened by both."""
    p = theirs.parameters
    x, y, w = values(p)
    native = native_with_keys(theirs, "theirs")
    context = theirs.context

    def by_openfhe(a: Any, b: Any) -> Any:
        return context.EvalRotate(context.Rescale(context.EvalMult(a, b)), 5)

    def by_native(a: Ciphertext, b: Ciphertext) -> Ciphertext:
        return native.rotate(native.rescale(native.multiply(a, b)), 5)

    def imported(ciphertext: Any, scale: float) -> Ciphertext:
        return native.import_ciphertext(theirs.arrays(ciphertext, scale), p.n_slots)

    def exported(ciphertext: Ciphertext) -> Any:
        return theirs.ciphertext(native.export_ciphertext(ciphertext))

    a, b, c = (theirs.encrypt(v) for v in (x, y, w))
    middle = p.scale**2 / p.moduli[-1]
    last = middle * p.scale / p.moduli[-2]
    if first == "openfhe":
        half = imported(by_openfhe(a, b), middle)
        result = exported(by_native(half, native.drop_limbs(imported(c, p.scale), half.limbs)))
    else:
        half = exported(by_native(imported(a, p.scale), imported(b, p.scale)))
        result = by_openfhe(half, context.Compress(c, p.n_limbs - 1, 1))
    expected = np.roll(np.roll(x * y, -5) * w, -5)
    check(theirs.decrypt(result, last), expected, p, last)
    check(oracle.decrypt(theirs.arrays(result, last), p, theirs.secret), expected, p, last)


@pytest.mark.parametrize("spoil", ["public key", "relinearisation", "rotation"])
def test_openfhe_does_not_open_what_another_key_made(theirs: SingleKey, spoil: str) -> None:
    """The judge can say no: a key for another secret gives nothing like the result."""
    p = theirs.parameters
    x, y, w = values(p)
    native, alien = native_with_keys(theirs, "ours"), oracle.make_secret(p.ring_dim, seed=7)
    spoilers: dict[str, Callable[[], None]] = {
        "relinearisation": lambda: native.load_relinearisation_key(
            oracle.make_relinearisation_key(p, alien, theirs.key_id)
        ),
        "rotation": lambda: native.load_rotation_key(-2, oracle.make_rotation_key(p, alien, -2, theirs.key_id)),
        "public key": lambda: None,
    }
    spoilers[spoil]()
    secret = alien if spoil == "public key" else theirs.secret
    a, b = (
        native.import_ciphertext(oracle.encrypt(v, p, secret, theirs.key_id, seed=i), p.n_slots)
        for i, v in enumerate((x, y))
    )
    arrays = native.export_ciphertext(computed(native, a, b, w)["turned total"])
    try:
        opened = theirs.decrypt(theirs.ciphertext(arrays), arrays.scale)
    except RuntimeError:
        return  # OpenFHE notices that the imaginary parts are not small
    assert np.abs(opened - in_the_clear(x, y, w)["turned total"]).max() > 1
