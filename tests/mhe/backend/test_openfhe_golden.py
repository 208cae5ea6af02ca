"""The layout of the pinned OpenFHE, held by objects that it serialised once (see openfhe_golden.py)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import openfhe  # type: ignore[import-untyped]
import pytest

import mhe.backend.openfhe as product
from mhe.backend.native import NativeBackend
from mhe.ciphertext import RingCiphertext
from mhe.parameters import Parameters
from mhe.ring.galois import galois_element
from mhe.ring.ring import ring
from tests import oracle
from tests.evaluators import Floats, slot_bound
from tests.mhe.backend.openfhe_golden import FILE, ROTATION, SHAPE, SLOTS, insecure_parameters
from tests.openfhe_single_key import ciphertext_in, ciphertext_of, evaluation_key_in, public_key_in, secret_in

RESULTS = {"fresh": SLOTS, "square": SLOTS**2, "turned": np.roll(SLOTS**2, -ROTATION)}
ERRORS = 2


@lru_cache(maxsize=1)
def golden() -> dict[str, bytes]:
    with np.load(FILE) as kept:
        return {name: kept[name].tobytes() for name in kept.files if kept[name].dtype == np.uint8}


@lru_cache(maxsize=1)
def parameters() -> Parameters:
    with np.load(FILE) as kept:
        return insecure_parameters(*(tuple(map(int, kept[name])) for name in ("moduli", "special_moduli")))


@lru_cache(maxsize=1)
def key_id() -> str:
    with np.load(FILE) as kept:
        return str(kept["key_id"])


def secret() -> oracle.Secret:
    return secret_in(golden()["private_key"], parameters())


def arrays_of(name: str) -> RingCiphertext:
    p = parameters()
    limbs = p.n_limbs - (name != "fresh")
    scale = p.scale if name == "fresh" else p.scale**2 / p.moduli[-1]
    return ciphertext_in(golden()[name], p, limbs, scale, key_id())


def check(found: Floats, name: str) -> None:
    p = parameters()
    np.testing.assert_allclose(found, RESULTS[name], rtol=0, atol=slot_bound(p, ERRORS, arrays_of(name).scale))


# what was written once is read by our code alone


def test_the_golden_secret_is_ternary_and_fits_the_public_key() -> None:
    p = parameters()
    base = ring(p.ring_dim, p.moduli)
    assert set(secret()) == {-1, 0, 1}
    public = public_key_in(golden()["public_key"], p, key_id())
    rest = base.add(public.p0, base.multiply(public.p1, oracle.as_residues(secret(), base)))
    assert max(abs(e) for e in base.to_integers(base.intt(rest))) < 2**6


@pytest.mark.parametrize("name", RESULTS)
def test_golden_ciphertexts_are_read(name: str) -> None:
    check(oracle.decrypt(arrays_of(name), parameters(), secret()), name)


def test_golden_evaluation_keys_serve_the_native_evaluator() -> None:
    p = parameters()
    native = NativeBackend(p, key_id())
    native.load_relinearisation_key(evaluation_key_in(golden()["relinearisation_key"], p, key_id()))
    native.load_rotation_key(ROTATION, evaluation_key_in(golden()["rotation_key"], p, key_id()))
    fresh = native.import_ciphertext(arrays_of("fresh"), p.n_slots)
    square = native.rescale(native.multiply(fresh, fresh))
    for name, found in (("square", square), ("turned", native.rotate(square, ROTATION))):
        check(oracle.decrypt(native.export_ciphertext(found), p, secret()), name)


# the installed release reads it, and writes the same


def test_the_installed_release_takes_the_same_primes() -> None:
    assert product.generate_moduli(SHAPE) == (parameters().moduli, parameters().special_moduli)


@pytest.mark.parametrize("name", RESULTS)
def test_the_installed_release_opens_the_golden_ciphertexts(name: str) -> None:
    """As they were written, and as the product writes their residues."""
    p = parameters()
    engine = product._engine(SHAPE)
    private = openfhe.DeserializePrivateKeyString(golden()["private_key"], openfhe.BINARY)
    arrays = arrays_of(name)
    kept = openfhe.DeserializeCiphertextString(golden()[name], openfhe.BINARY)
    for ciphertext in (kept, ciphertext_of(arrays, p, engine)):
        plaintext = engine.context.Decrypt(ciphertext, private)
        plaintext.SetLength(p.n_slots)
        check(np.array(plaintext.GetRealPackedValue()) * p.scale / arrays.scale, name)


def test_our_templates_write_the_golden_keys_byte_for_byte() -> None:
    p, engine = parameters(), product._engine(SHAPE)
    relinearisation = evaluation_key_in(golden()["relinearisation_key"], p, key_id())
    rotation = evaluation_key_in(golden()["rotation_key"], p, key_id())
    written = engine.relinearisation.fill((relinearisation.a, relinearisation.b), key_id())
    assert written == golden()["relinearisation_key"]
    element = galois_element(ROTATION, p.ring_dim)
    assert engine.rotation.fill((rotation.a, rotation.b), key_id(), element) == golden()["rotation_key"]


@pytest.mark.parametrize("name", ["fresh", "square"])
def test_our_templates_write_the_golden_ciphertexts_but_for_the_number_of_slots(name: str) -> None:
    """The product tracks periods itself, and leaves the template's single slot."""
    arrays, kept = arrays_of(name), golden()[name]
    written = product._engine(SHAPE).ciphertext(arrays.limbs).fill((arrays.c0, arrays.c1), key_id())
    assert len(written) == len(kept)
    different = [(a, b) for a, b in zip(written, kept, strict=True) if a != b]
    assert different == [(1, len(SLOTS))]
