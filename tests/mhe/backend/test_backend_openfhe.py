"""What only the OpenFHE evaluator does: primes, byte layout, process-wide keys, self-test, translated errors."""

from __future__ import annotations

import gc
import hashlib
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import openfhe  # type: ignore[import-untyped]
import pytest

import mhe.backend.openfhe as module
from mhe.backend import selftest
from mhe.backend.openfhe import PINNED_VERSION, OpenFHEBackend, generate_moduli
from mhe.backend.openfhe_layout import Template, cut, find_moduli, find_rows, read_rows
from mhe.ciphertext import RingCiphertext
from mhe.encoding import encode_coefficients
from mhe.errors import BackendError, KeyMismatchError, ParameterError
from mhe.keys import EvaluationKey
from mhe.parameters import Parameters, Shape
from mhe.ring.galois import galois_element, inverse_element
from mhe.ring.primes import ntt_primes
from mhe.ring.ring import ring
from tests import oracle
from tests.evaluators import Floats
from tests.mhe.backend.conftest import insecure_parameters

P = insecure_parameters()
SECRET = oracle.make_secret(P.ring_dim)
X = np.random.default_rng(4).uniform(-1, 1, P.n_slots)


# primes


@pytest.mark.parametrize(
    ("n_limbs", "digits", "scale_bits"), [(2, 1, 50), (4, 2, 50), (4, 4, 40), (5, 3, 45), (6, 2, 59), (8, 3, 55)]
)
def test_moduli_make_valid_parameters(n_limbs: int, digits: int, scale_bits: int) -> None:
    p = insecure_parameters(1 << 10, n_limbs, digits, scale_bits)
    assert len(p.moduli) == n_limbs
    assert len(p.digit_limbs) == digits
    assert all(abs(q / p.scale - 1) < 2.0**-20 for q in p.moduli[1:])
    OpenFHEBackend(p, "moduli").close()


def test_a_first_modulus_as_long_as_the_others() -> None:
    moduli, special = generate_moduli(Shape(1 << 10, 50, 50, 3, 3))
    p = Parameters(1 << 10, moduli, special, 50, 3, 1, 3, 1, statistical_bits=20, insecure=True)
    OpenFHEBackend(p, "moduli").close()


@pytest.mark.parametrize(("n_limbs", "digits"), [(4, 3), (3, 0), (3, 4), (9, 4), (1, 1)])
def test_digits_that_do_not_fit(n_limbs: int, digits: int) -> None:
    with pytest.raises(ParameterError, match="digits"):
        generate_moduli(Shape(1 << 10, 60, 50, n_limbs, digits))


def test_sizes_that_openfhe_refuses() -> None:
    with pytest.raises(ParameterError):
        generate_moduli(Shape(1 << 10, 60, 90, 3, 3))


def test_parameters_of_other_primes_are_refused() -> None:
    moduli = ntt_primes(50, 1 << 10, 4)
    special = ntt_primes(60, 1 << 10, 2)
    p = Parameters(1 << 10, moduli, special, 50, 2, 1, 4, 1, statistical_bits=20, insecure=True)
    with pytest.raises(ParameterError, match="generate_moduli"):
        OpenFHEBackend(p, "primes")


# byte layout


def test_rows_are_found_by_their_frame() -> None:
    n, moduli = 8, (97, 113)
    rows = np.arange(16, dtype=np.uint64).reshape(2, 8)
    head, gap, tail = b"\x08" + bytes(7), b"between", b"end"
    frame = np.uint64(n).tobytes()
    blob = head + b"".join(
        frame + row.tobytes() + np.uint64(q).tobytes() + piece
        for row, q, piece in zip(rows, moduli, (gap, tail), strict=True)
    )
    assert [q for _, q in find_rows(blob, n, frozenset(moduli))] == [97, 113]
    assert find_moduli(blob, n) == (97, 113)
    np.testing.assert_array_equal(read_rows(blob, n, moduli), rows)
    with pytest.raises(BackendError, match="pinned"):
        read_rows(blob, n, (113, 97))
    with pytest.raises(BackendError):
        read_rows(blob[:-20], n, moduli)
    with pytest.raises(BackendError, match="key tag"):
        cut(blob, n, moduli)


def test_a_template_checks_the_number_of_rows() -> None:
    with pytest.raises(BackendError):
        Template((b"a", b"b"), (97,)).fill((np.zeros((2, 8), dtype=np.uint64),), "tag")


def _digest(template: Template) -> str:
    framed = b"".join(len(piece).to_bytes(4, "little") + piece for piece in template.pieces)
    return hashlib.blake2b(framed, digest_size=8).hexdigest()


def test_golden_layout_of_the_pinned_version() -> None:
    """Everything that OpenFHE writes around the residues, for one small ring. Changes with its version only."""
    shape = Shape(64, 50, 40, 3, 2)
    moduli, special = generate_moduli(shape)
    engine = module._engine(shape)
    assert moduli == (1125899906840833, 1099511623297, 1099511628161)
    assert special == (1152921504606844417, 1152921504606844289)
    assert engine.relinearisation.moduli == (moduli + special) * 2 * 2
    assert engine.rotation.moduli == (moduli + special) * 2 * 2
    assert engine.ciphertext(2).moduli == moduli[:2] * 2
    assert [len(piece) for piece in engine.ciphertext(2).pieces] == [714, 33, 173, 33, 200]
    assert {
        "relinearisation": _digest(engine.relinearisation),
        "rotation": _digest(engine.rotation),
        "ciphertext": _digest(engine.ciphertext(2)),
    } == {"relinearisation": "82de04f1cd20b56b", "rotation": "5e84a73c406798f2", "ciphertext": "2d28527f966ae4cf"}


# agreement with OpenFHE's own encoder and decoder


@pytest.fixture
def backend() -> OpenFHEBackend:
    return OpenFHEBackend(P, "openfhe-test")


def trivial(coefficients: npt.NDArray[Any], scale: float, limbs: int = 2) -> RingCiphertext:
    """c1 = 0: decrypts to these coefficients under every key."""
    base = ring(P.ring_dim, P.moduli[:limbs])
    c0 = base.ntt(base.from_integers([int(c) for c in coefficients]))
    return RingCiphertext(c0, np.zeros_like(c0), scale, "openfhe-test")


@pytest.mark.parametrize("period", [1, 2, 64, 512])
@pytest.mark.parametrize("scale_bits", [30, 50, 90])
def test_both_encoders_agree(backend: OpenFHEBackend, period: int, scale_bits: int) -> None:
    values, scale = X[:period], 2.0**scale_bits
    nothing = backend.import_ciphertext(trivial(np.zeros(P.ring_dim), scale), P.n_slots)
    got = backend.export_ciphertext(backend.add_plain(nothing, backend.encode(values, 2, scale)))
    base = ring(P.ring_dim, P.moduli[:2])
    theirs = np.array(base.to_integers(base.intt(got.c0)), dtype=object)
    ours = encode_coefficients(values, P.ring_dim, scale)
    # both round; above 2^53 both are limited by float64 as well
    assert np.abs(theirs - ours).max() <= 1 + 2.0 ** (scale_bits - 49)
    step = P.ring_dim // (2 * period)
    assert not np.delete(theirs.reshape(-1, step), 0, axis=1).any(), "a periodic vector lies in the subring"


@pytest.mark.parametrize("period", [8, 512])
def test_openfhe_decodes_what_we_encode(backend: OpenFHEBackend, period: int) -> None:
    imported = backend.import_ciphertext(trivial(encode_coefficients(X[:period], P.ring_dim, P.scale), P.scale), period)
    pair = backend._context.KeyGen()
    imported.handle.SetKeyTag(pair.secretKey.GetKeyTag())
    imported.handle.SetSlots(P.n_slots)
    decoded = np.array(backend._context.Decrypt(pair.secretKey, imported.handle).GetRealPackedValue())
    # OpenFHE adds an error of its own to what it decrypts
    np.testing.assert_allclose(decoded, np.tile(X[:period], P.n_slots // period), atol=1e-9)


# rotations


@pytest.mark.parametrize("rotation", [1, -1, 5, 100, -511, 512])
def test_galois_elements_are_openfhes(backend: OpenFHEBackend, rotation: int) -> None:
    t = galois_element(rotation, P.ring_dim)
    assert t == (backend._context.FindAutomorphismIndex(rotation) if rotation % P.n_slots else 1)
    assert inverse_element(t, P.ring_dim) == galois_element(-rotation, P.ring_dim)
    assert t * inverse_element(t, P.ring_dim) % (2 * P.ring_dim) == 1


def test_the_rotation_key_equation(backend: OpenFHEBackend) -> None:
    """A key for sigma_t(s) instead of its inverse, or from the other side, does not work."""
    base = oracle.key_ring(P)
    s = oracle.as_residues(SECRET, base)
    t = galois_element(7, P.ring_dim)
    turned, back = base.automorphism(s, t), base.automorphism(s, inverse_element(t, P.ring_dim))
    cipher = oracle.encrypt(X, P, SECRET, "openfhe-test")
    works = {}
    for name, old, new in (("documented", s, back), ("forward", s, turned), ("standard", turned, s)):
        other = OpenFHEBackend(P, f"openfhe-{name}")
        other.load_rotation_key(7, oracle.make_evaluation_key(P, old, new, f"openfhe-{name}"))
        a = other.import_ciphertext(RingCiphertext(cipher.c0, cipher.c1, cipher.scale, f"openfhe-{name}"), 512)
        got = oracle.decrypt(other.export_ciphertext(other.rotate(a, 7)), P, SECRET)
        works[name] = bool(np.abs(got - np.roll(X, -7)).max() < 1e-6)
        other.close()
    assert works == {"documented": True, "forward": False, "standard": False}


# import


def test_what_cannot_be_imported(backend: OpenFHEBackend) -> None:
    good = oracle.encrypt(X, P, SECRET, "openfhe-test")
    unreduced = good.c0.copy()
    unreduced[1, 3] = P.moduli[1]
    with pytest.raises(ParameterError, match="limb 1"):
        backend.import_ciphertext(RingCiphertext(unreduced, good.c1, good.scale, "openfhe-test"), 512)
    short = good.c0[:, :512]
    with pytest.raises(ParameterError, match="ring dimension 512"):
        backend.import_ciphertext(RingCiphertext(short, short, good.scale, "openfhe-test"), 512)
    with pytest.raises(ParameterError, match="period"):
        backend.import_ciphertext(good, 24)


def test_non_contiguous_rows_are_imported(backend: OpenFHEBackend) -> None:
    good = oracle.encrypt(X, P, SECRET, "openfhe-test")
    wide = np.concatenate([good.c0, good.c1], axis=1)
    strided = RingCiphertext(wide[:, : P.ring_dim], wide[:, P.ring_dim :], good.scale, "openfhe-test")
    got = backend.export_ciphertext(backend.import_ciphertext(strided, 512))
    np.testing.assert_array_equal(got.c0, good.c0)
    np.testing.assert_array_equal(got.c1, good.c1)


def test_import_and_export_are_exact_at_every_level(backend: OpenFHEBackend) -> None:
    for limbs in range(1, P.n_limbs + 1):
        sent = oracle.encrypt(X, P, SECRET, "openfhe-test", limbs=limbs)
        got = backend.export_ciphertext(backend.import_ciphertext(sent, 512))
        np.testing.assert_array_equal(got.c0, sent.c0)
        np.testing.assert_array_equal(got.c1, sent.c1)


def test_openfhe_never_adjusts_behind_our_back(backend: OpenFHEBackend) -> None:
    """Sums of results of different histories are exact: no hidden rescaling or scaling up."""
    a = backend.import_ciphertext(oracle.encrypt(X, P, SECRET, "openfhe-test", scale=2.0**40), 512)
    product = backend.multiply_plain(a, backend.encode(np.ones(1), 4, 2.0**10))
    plain = backend.encode(X, 4, 2.0**50)
    for total in (backend.add(product, product), backend.add_plain(product, plain)):
        assert (total.handle.GetNoiseScaleDeg(), total.handle.GetLevel()) == (1, 0)
        np.testing.assert_allclose(oracle.decrypt(backend.export_ciphertext(total), P, SECRET), 2 * X, atol=1e-6)


# process-wide keys


def rotation_key(rotation: int, key_id: str, seed: int = 0) -> EvaluationKey:
    return oracle.make_rotation_key(P, SECRET, rotation, key_id, seed)


def held() -> dict[str, int]:
    return {tag: 1 for tag in openfhe.CryptoContext.GetAllEvalAutomorphismKeys()}


def test_keys_are_shared_and_dropped_with_their_last_user() -> None:
    first, second, other = OpenFHEBackend(P, "shared"), OpenFHEBackend(P, "shared"), OpenFHEBackend(P, "other")
    for user in (first, second, first):
        user.load_rotation_key(1, rotation_key(1, "shared"))
    other.load_rotation_key(1, rotation_key(1, "other"))
    a = first.import_ciphertext(oracle.encrypt(X, P, SECRET, "shared"), 512)
    first.close()
    assert set(held()) >= {"shared", "other"}
    rotated = second.rotate(a, 1)
    second.close()
    assert "shared" not in held()
    b = other.import_ciphertext(oracle.encrypt(X, P, SECRET, "other"), 512)
    for each, user in ((rotated, second), (other.rotate(b, 1), other)):
        got = oracle.decrypt(user.export_ciphertext(each), P, SECRET)
        np.testing.assert_allclose(got, np.roll(X, -1), atol=1e-6)
    other.close()
    assert not held()


def test_only_loaded_rotations_work_though_others_are_in_the_process() -> None:
    first, second = OpenFHEBackend(P, "shared"), OpenFHEBackend(P, "shared")
    first.load_rotation_key(1, rotation_key(1, "shared"))
    a = second.import_ciphertext(oracle.encrypt(X, P, SECRET, "shared"), 512)
    with pytest.raises(KeyMismatchError):
        second.rotate(a, 1)
    first.close()
    second.close()


def test_another_key_under_the_same_name_is_refused() -> None:
    backend = OpenFHEBackend(P, "shared")
    backend.load_rotation_key(1, rotation_key(1, "shared"))
    with pytest.raises(KeyMismatchError, match="another evaluation key"):
        backend.load_rotation_key(1, rotation_key(1, "shared", seed=1))
    with pytest.raises(KeyMismatchError, match="other parameters"):
        OpenFHEBackend(insecure_parameters(1 << 10, 5), "shared")
    backend.close()
    again = OpenFHEBackend(P, "shared")
    again.load_rotation_key(1, rotation_key(1, "shared", seed=1))
    a = again.import_ciphertext(oracle.encrypt(X, P, SECRET, "shared"), 512)
    got = oracle.decrypt(again.export_ciphertext(again.rotate(a, 1)), P, SECRET)
    np.testing.assert_allclose(got, np.roll(X, -1), atol=1e-6)
    again.close()


def test_keys_that_do_not_fit(backend: OpenFHEBackend) -> None:
    key = rotation_key(1, "openfhe-test")
    with pytest.raises(KeyMismatchError, match="stranger"):
        backend.load_rotation_key(1, rotation_key(1, "stranger"))
    with pytest.raises(ParameterError, match="shapes"):
        backend.load_relinearisation_key(EvaluationKey(key.b[:1], key.a[:1], "openfhe-test"))
    with pytest.raises(ParameterError, match="empty"):
        OpenFHEBackend(P, "")


def test_an_abandoned_backend_leaves_no_keys() -> None:
    backend = OpenFHEBackend(P, "abandoned")
    backend.load_rotation_key(1, rotation_key(1, "abandoned"))
    assert "abandoned" in held()
    del backend
    gc.collect()
    assert "abandoned" not in held()


def test_threads_that_play_parties() -> None:
    keys = {r: rotation_key(r, "threads") for r in (1, 2, 4)}
    cipher = oracle.encrypt(X, P, SECRET, "threads")
    results: dict[int, Floats] = {}

    def party(rank: int) -> None:
        backend = OpenFHEBackend(P, "threads")
        for rotation, key in keys.items():
            backend.load_rotation_key(rotation, key)
        a = backend.import_ciphertext(cipher, 512)
        for each in backend.rotate_hoisted(a, [1, 2, 4]).values():
            a = backend.add(a, each)
        results[rank] = oracle.decrypt(backend.export_ciphertext(a), P, SECRET)
        backend.close()

    threads = [threading.Thread(target=party, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = X + np.roll(X, -1) + np.roll(X, -2) + np.roll(X, -4)
    assert set(results) == {0, 1, 2, 3}
    for got in results.values():
        np.testing.assert_allclose(got, expected, atol=1e-6)
    assert "threads" not in held()


# start-up


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "version", lambda _: "1.7.0.0.22.4")
    with pytest.raises(BackendError, match=rf"openfhe 1.7.0.0.22.4 .* {PINNED_VERSION}.*pip install"):
        OpenFHEBackend(P, "version")


def test_the_self_test_notices_other_conventions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each convention that could change in the library, changed on our side instead."""
    backend = OpenFHEBackend(P, "self-test")

    def fails(what: str, check: object) -> None:
        with pytest.raises(BackendError, match=f"{what} is off by .* do this"):
            check()  # type: ignore[operator]

    with monkeypatch.context() as patch:
        patch.setattr(selftest, "encode_coefficients", lambda v, n, s: encode_coefficients(v[::-1], n, s))
        fails("an encoding", lambda: selftest.check_encoding(backend, "self-test", "do this"))
    with monkeypatch.context() as patch:
        patch.setattr(selftest, "inverse_element", lambda t, n: t)
        fails("a rotation", lambda: selftest.check_evaluator(backend, "self-test", "do this"))
    backend.close()
    backend = OpenFHEBackend(P, "self-test")
    with monkeypatch.context() as patch:
        template = backend._engine.relinearisation
        swapped = SimpleNamespace(fill=lambda parts, tag: template.fill(tuple(parts)[::-1], tag))
        patch.setattr(backend._engine, "relinearisation", swapped)
        fails("a product", lambda: selftest.check_evaluator(backend, "self-test", "do this"))
    backend.close()


def test_no_message_of_the_library_reaches_the_user(backend: OpenFHEBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    a = backend.import_ciphertext(oracle.encrypt(X, P, SECRET, "openfhe-test"), 512)

    def broken(*_: object) -> None:
        raise RuntimeError("base-leveledshe.cpp:l.392 OPENFHE_THROW")

    monkeypatch.setattr(backend, "_context", SimpleNamespace(EvalAdd=broken, MakeCKKSPackedPlaintext=broken))
    for operation in (lambda: backend.add(a, a), lambda: backend.encode(X, 2)):
        with pytest.raises(BackendError, match="OpenFHE could not") as caught:
            operation()
        assert "cpp" not in str(caught.value)
        assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_handle_of_another_backend_is_refused(backend: OpenFHEBackend) -> None:
    a = backend.import_ciphertext(oracle.encrypt(X, P, SECRET, "openfhe-test"), 512)
    alien = type(a)(X, a.limbs, a.scale, a.period, a.key_id)
    with pytest.raises(BackendError, match="another backend"):
        backend.add(a, alien)
    with pytest.raises(BackendError, match="another backend"):
        backend.add_plain(a, type(backend.encode(X, 4))(X, 4, a.scale, 512))


def test_a_key_for_fewer_limbs_is_refused(backend: OpenFHEBackend) -> None:
    whole, limbs = rotation_key(1, backend.key_id), P.n_limbs - 1
    rows, digits = [*range(limbs), *range(P.n_limbs, len(P.key_moduli))], len(P.digits_at(limbs))
    own = EvaluationKey(whole.b[:digits, rows], whole.a[:digits, rows], whole.key_id)
    assert backend.key_limbs(limbs) == P.n_limbs
    for load in (backend.load_relinearisation_key, backend.load_conjugation_key, partial(backend.load_rotation_key, 1)):
        with pytest.raises(ParameterError, match=f"for {limbs} limbs; this evaluator takes keys for all {P.n_limbs}"):
            load(own)
