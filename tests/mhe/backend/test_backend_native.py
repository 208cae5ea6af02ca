"""What only the native evaluator does: free primes, shared arrays, and the same results as OpenFHE on its primes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from mhe.backend.interface import RingBackend
from mhe.backend.native import NativeBackend
from mhe.backend.native.encoder import encode, unfold
from mhe.backend.openfhe import OpenFHEBackend
from mhe.backend.selftest import check_encoding, check_evaluator
from mhe.ciphertext import Ciphertext, RingCiphertext
from mhe.encoding import encode_coefficients
from mhe.errors import BackendError, KeyMismatchError, LevelError, ParameterError
from mhe.keys import EvaluationKey
from mhe.parameters import ERROR_STD, Parameters
from mhe.ring.galois import conjugation_element
from mhe.ring.primes import ntt_primes
from mhe.ring.ring import ring
from mhe.security import key_switch_std, rounding_std
from tests import oracle
from tests.evaluators import Floats
from tests.mhe.backend.conftest import insecure_parameters

P = insecure_parameters()
SECRET = oracle.make_secret(P.ring_dim)
X = np.random.default_rng(4).uniform(-1, 1, P.n_slots)
KEY = "native-test"


def insecure_native_parameters(
    ring_dim: int, first: int, scale: int, special: tuple[int, ...], n_limbs: int, digits: int
) -> Parameters:
    """INSECURE: primes of any size."""
    moduli = ntt_primes(first, ring_dim, 1)
    moduli += ntt_primes(scale, ring_dim, n_limbs - 1, avoid=moduli)
    chosen: tuple[int, ...] = ()
    for bits in special:
        chosen += ntt_primes(bits, ring_dim, 1, avoid=moduli + chosen)
    return Parameters(ring_dim, moduli, chosen, scale, digits, 1, n_limbs, 1, statistical_bits=10, insecure=True)


def with_keys(make: Callable[[Parameters, str], RingBackend]) -> RingBackend:
    backend = make(P, KEY)
    backend.load_relinearisation_key(oracle.make_relinearisation_key(P, SECRET, KEY))
    for rotation in (1, 5, -2):
        backend.load_rotation_key(rotation, oracle.make_rotation_key(P, SECRET, rotation, KEY, seed=rotation + 9))
    return backend


@pytest.mark.parametrize(
    ("ring_dim", "first", "scale", "special", "n_limbs", "digits"),
    [
        (64, 50, 40, (50, 50), 3, 2),
        (16, 50, 40, (50, 50), 3, 2),
        (32, 61, 55, (61, 61), 3, 3),
        (1 << 10, 45, 33, (50,), 4, 4),
        (1 << 11, 61, 50, (61, 61, 61), 6, 2),
        (1 << 9, 49, 35, (40, 40, 40), 4, 2),
        (1 << 9, 58, 48, (50, 61, 45), 5, 2),
        (1 << 9, 55, 45, (61, 61, 61, 61, 61, 61, 61), 8, 1),
        (1 << 12, 36, 33, (36,), 3, 3),
        (1 << 13, 45, 33, (49,), 4, 4),
    ],
)
def test_primes_of_any_size(
    ring_dim: int, first: int, scale: int, special: tuple[int, ...], n_limbs: int, digits: int
) -> None:
    backend = NativeBackend(insecure_native_parameters(ring_dim, first, scale, special, n_limbs, digits), KEY)
    check_encoding(backend, KEY, "mend it")
    check_evaluator(backend, KEY, "mend it")


def circuit(backend: RingBackend, a: Ciphertext, b: Ciphertext) -> dict[str, Ciphertext]:
    """Something of everything."""
    product = backend.rescale(backend.multiply(a, b))
    turned = backend.rotate_hoisted(product, [1, 5])
    weighted = backend.rescale(backend.multiply_plain(a, backend.encode(X, 4)))
    mixed = backend.multiply_accumulate_plain(
        [(turned[1], backend.encode(X[:64], 3)), (turned[5], backend.encode(X, 3)), (weighted, backend.encode(X, 3))]
    )
    total = backend.rotate(backend.drop_limbs(backend.rescale(mixed), 1), -2)
    summed = backend.rescale(backend.multiply_accumulate([(product, weighted), (turned[1], turned[5])]))
    summed = backend.rotate_and_sum({0: summed, 1: summed, -2: summed})
    return {"product": product, "turned": turned[5], "weighted": weighted, "total": total, "summed": summed}


def expected() -> dict[str, Floats]:
    y = X[::-1]
    product, weighted = X * y, X * X
    mixed = np.roll(product, -1) * np.tile(X[:64], P.n_slots // 64) + np.roll(product, -5) * X + weighted * X
    summed = product * weighted + np.roll(product, -1) * np.roll(product, -5)
    summed = summed + np.roll(summed, -1) + np.roll(summed, 2)
    turned, total = np.roll(product, -5), np.roll(mixed, 2)
    return {"product": product, "turned": turned, "weighted": weighted, "total": total, "summed": summed}


def test_a_circuit_crosses_between_native_and_openfhe() -> None:
    """Either evaluator goes on with what the other one has computed, and our own decryption is the judge."""
    native, theirs = with_keys(NativeBackend), with_keys(OpenFHEBackend)
    a, b = (oracle.encrypt(x, P, SECRET, KEY, seed=i) for i, x in enumerate((X, X[::-1].copy())))
    errors: dict[str, dict[str, float]] = {}
    for first, second in ((native, native), (theirs, theirs), (native, theirs), (theirs, native)):
        start = first.add(first.import_ciphertext(a, 512), first.import_ciphertext(a, 512))
        half = first.reread(start, scale=2 * start.scale)
        handed = second.import_ciphertext(first.export_ciphertext(half), 512)
        handed = second.reread(second.import_ciphertext(second.export_ciphertext(handed), 512), scale=handed.scale)
        at_scale = second.rescale(second.multiply_plain(handed, second.encode(np.ones(1), 4, P.moduli[3] / 2)))
        results = circuit(second, second.import_ciphertext(a, 512), second.import_ciphertext(b, 512))
        for name, clear in expected().items():
            back = first.import_ciphertext(second.export_ciphertext(results[name]), 512)
            got = oracle.decrypt(first.export_ciphertext(back), P, SECRET)
            errors.setdefault(name, {})[f"{type(first).__name__}-{type(second).__name__}"] = float(
                np.abs(got - clear).max()
            )
        got = oracle.decrypt(second.export_ciphertext(at_scale), P, SECRET)
        np.testing.assert_allclose(got, X, atol=1e-9)
    for name, found in errors.items():
        assert max(found.values()) < 1e-9, (name, found)
        ours, other = found["NativeBackend-NativeBackend"], found["OpenFHEBackend-OpenFHEBackend"]
        assert ours < 2 * other, f"{name}: more than one bit less precise"
    theirs.close()


def test_exact_operations_give_the_same_residues_as_openfhe() -> None:
    native, theirs = with_keys(NativeBackend), with_keys(OpenFHEBackend)
    a = oracle.encrypt(X, P, SECRET, KEY)
    zero = RingCiphertext(np.zeros_like(a.c0), np.zeros_like(a.c1), a.scale, KEY)
    got = {}
    for backend in (native, theirs):
        x = backend.import_ciphertext(a, 512)
        encoded = backend.add_plain(backend.import_ciphertext(zero, 512), backend.encode(np.ones(1), 4))
        got[backend] = [backend.add(x, x), encoded, backend.multiply_plain(x, backend.encode(np.ones(1), 4))]
    for ours, other in zip(got[native], got[theirs], strict=True):
        mine, yours = native.export_ciphertext(ours), theirs.export_ciphertext(other)
        np.testing.assert_array_equal(mine.c0, yours.c0)
        np.testing.assert_array_equal(mine.c1, yours.c1)
    theirs.close()


def _coefficient_rms(values: Floats, scale: float) -> float:
    return float(np.sqrt(np.mean((values * scale) ** 2) / P.n_slots))


def test_errors_are_within_the_closed_forms() -> None:
    backend = with_keys(NativeBackend)
    a = oracle.encrypt(X, P, SECRET, KEY)
    before = oracle.decrypt(a, P, SECRET)
    x = backend.import_ciphertext(a, 512)
    turned = oracle.decrypt(backend.export_ciphertext(backend.rotate(x, 5)), P, SECRET) - np.roll(before, -5)
    assert _coefficient_rms(turned, P.scale) < 1.2 * key_switch_std(P, 4, ERROR_STD)
    product = backend.multiply_plain(x, backend.encode(np.ones(1), 4))
    rescaled = backend.rescale(product)
    difference = oracle.decrypt(backend.export_ciphertext(rescaled), P, SECRET) - before
    assert _coefficient_rms(difference, rescaled.scale) < 1.2 * rounding_std(P.ring_dim, 1)


def test_a_sum_of_rotations_is_rounded_once() -> None:
    """Less than the error of the separate rotations, whose roundings by the division by P add up."""
    backend = with_keys(NativeBackend)
    rotations = (1, 5, -2)
    together, apart = [], []
    for seed in range(8):
        made = {r: oracle.encrypt(X, P, SECRET, KEY, seed=100 * seed + r + 9) for r in rotations}
        exact = sum(np.roll(oracle.decrypt(a, P, SECRET), -r) for r, a in made.items())
        parts = {r: backend.import_ciphertext(a, 512) for r, a in made.items()}
        first, second, third = (backend.rotate(part, r) for r, part in parts.items())
        for errors, total in (
            (together, backend.rotate_and_sum(parts)),
            (apart, backend.add(backend.add(first, second), third)),
        ):
            got = oracle.decrypt(backend.export_ciphertext(total), P, SECRET)
            errors.append(_coefficient_rms(got - exact, P.scale))
    once, thrice = np.sqrt(np.mean(np.square(together))), np.sqrt(np.mean(np.square(apart)))
    assert once < 1.1 * rounding_std(P.ring_dim, 1)
    assert thrice == pytest.approx(np.sqrt(3) * once, rel=0.1)
    assert once < key_switch_std(P, 4, ERROR_STD)


@pytest.mark.parametrize("period", [1, 2, 4, 8, 64, 128, 512])
@pytest.mark.parametrize("scale_bits", [10, 50, 61, 62.5, 90, 121, 140])
def test_the_encoder_is_that_of_the_ring(period: int, scale_bits: float) -> None:
    base, scale = ring(P.ring_dim, P.moduli), 2.0**scale_bits
    coefficients = encode_coefficients(X[:period], P.ring_dim, scale)
    expected_residues = base.ntt(base.from_integers([int(c) for c in coefficients]))
    half = encode(X[:period], base, scale)
    assert half.shape == (len(P.moduli), P.n_slots)
    np.testing.assert_array_equal(unfold(half), expected_residues)


# arrays are shared, and nobody can write to them


def test_nothing_is_copied_and_nothing_can_be_changed() -> None:
    backend = with_keys(NativeBackend)
    a = oracle.encrypt(X, P, SECRET, KEY)
    x = backend.import_ciphertext(a, 512)
    out = backend.export_ciphertext(x)
    assert np.shares_memory(out.c0, a.c0) and np.shares_memory(out.c1, a.c1)
    dropped = backend.export_ciphertext(backend.drop_limbs(x, 2))
    assert np.shares_memory(dropped.c1, a.c1)
    results = [x, backend.add(x, x), backend.multiply(x, x), backend.rotate(x, 1), backend.drop_limbs(x, 2)]
    for each in results:
        exported = backend.export_ciphertext(each)
        for part in (exported.c0, exported.c1):
            assert part.flags.c_contiguous
            with pytest.raises(ValueError, match="read-only"):
                part[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        backend.encode(X, 4).handle[0, 0] = 1


def test_what_cannot_be_imported() -> None:
    backend = NativeBackend(P, KEY)
    good = oracle.encrypt(X, P, SECRET, KEY)
    unreduced = good.c0.copy()
    unreduced[1, 3] = P.moduli[1]
    with pytest.raises(ParameterError, match="limb 1"):
        backend.import_ciphertext(RingCiphertext(unreduced, good.c1, good.scale, KEY), 512)
    short = good.c0[:, :512]
    with pytest.raises(ParameterError, match="ring dimension 512"):
        backend.import_ciphertext(RingCiphertext(short, short, good.scale, KEY), 512)
    wide = np.concatenate([good.c0, good.c1], axis=1)
    strided = RingCiphertext(wide[:, : P.ring_dim], wide[:, P.ring_dim :], good.scale, KEY)
    got = backend.export_ciphertext(backend.import_ciphertext(strided, 512))
    np.testing.assert_array_equal(got.c0, good.c0)
    np.testing.assert_array_equal(got.c1, good.c1)


def test_keys_that_do_not_fit() -> None:
    backend = NativeBackend(P, KEY)
    key = oracle.make_rotation_key(P, SECRET, 1, KEY)
    with pytest.raises(KeyMismatchError, match="stranger"):
        backend.load_rotation_key(1, oracle.make_rotation_key(P, SECRET, 1, "stranger"))
    with pytest.raises(ParameterError, match="shapes"):
        backend.load_relinearisation_key(EvaluationKey(key.b[:1], key.a[:1], KEY))
    unreduced = key.b.copy()
    unreduced[0, 0, 0] = 2**63
    with pytest.raises(ParameterError, match="not below its modulus"):
        backend.load_relinearisation_key(EvaluationKey(unreduced, key.a, KEY))
    with pytest.raises(ParameterError, match="empty"):
        NativeBackend(P, "")


def test_a_handle_of_another_backend_is_refused() -> None:
    backend = NativeBackend(P, KEY)
    a = backend.import_ciphertext(oracle.encrypt(X, P, SECRET, KEY), 512)
    for alien in (X, (a.handle[0], X), (a.handle[0][:2], a.handle[1][:2]), tuple(x.astype(np.int64) for x in a.handle)):
        with pytest.raises(BackendError, match="another backend"):
            backend.add(a, type(a)(alien, a.limbs, a.scale, a.period, a.key_id))
    with pytest.raises(BackendError, match="another backend"):
        backend.add_plain(a, type(backend.encode(X, 4))(X, 4, a.scale, 512))


def test_threads_share_an_evaluator() -> None:
    backend = with_keys(NativeBackend)
    a = backend.import_ciphertext(oracle.encrypt(X, P, SECRET, KEY), 512)
    results: dict[int, RingCiphertext] = {}

    def work(rank: int) -> None:
        for _ in range(5):
            results[rank] = backend.export_ciphertext(backend.rotate(backend.multiply(a, a), 5))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got in results.values():
        np.testing.assert_array_equal(got.c0, results[0].c0)
        np.testing.assert_array_equal(got.c1, results[0].c1)


def test_several_threads_give_the_same_bits() -> None:
    p = insecure_native_parameters(1 << 11, 60, 45, (60, 49), 5, 3)
    secret = oracle.make_secret(p.ring_dim)
    x = np.random.default_rng(1).uniform(-1, 1, p.n_slots)
    both = oracle.encrypt(x, p, secret, KEY), oracle.encrypt(x[::-1].copy(), p, secret, KEY, seed=1)
    relinearisation = oracle.make_relinearisation_key(p, secret, KEY)
    rotations = {step: oracle.make_rotation_key(p, secret, step, KEY, seed=step) for step in (1, 2, 7)}
    results: list[list[RingCiphertext]] = []
    for threads in (1, 2, 3):
        backend = NativeBackend(p, KEY, threads=threads)
        backend.load_relinearisation_key(relinearisation)
        for step, key in rotations.items():
            backend.load_rotation_key(step, key)
        a, b = (backend.import_ciphertext(each, p.n_slots) for each in both)
        turned = backend.rotate_hoisted(a, [1, 2, 7])
        matrix = [[backend.encode(x * (i + j), 5) for i in range(3)] for j in range(4)]
        found = [backend.multiply(a, b), backend.rescale(backend.multiply(a, b)), backend.rotate(a, 2)]
        found += [*turned.values(), *backend.multiply_matrix_plain(matrix, list(turned.values()))]
        backend.close()
        backend.close()
        found.append(backend.rescale(found[0]))
        results.append([backend.export_ciphertext(each) for each in found])
    np.testing.assert_allclose(oracle.decrypt(results[0][3], p, secret), np.roll(x, -1), atol=1e-6)
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            np.testing.assert_array_equal(one.c0, other.c0)
            np.testing.assert_array_equal(one.c1, other.c1)
    with pytest.raises(ParameterError, match="threads is 0"):
        NativeBackend(p, KEY, threads=0)


def restricted(key: EvaluationKey, limbs: int) -> EvaluationKey:
    """What a whole key has of the first limbs."""
    rows, digits = [*range(limbs), *range(P.n_limbs, len(P.key_moduli))], len(P.digits_at(limbs))
    return EvaluationKey(key.b[:digits, rows], key.a[:digits, rows], key.key_id)


@pytest.mark.parametrize("limbs", range(1, P.n_limbs + 1))
def test_a_key_for_fewer_limbs_is_what_a_whole_one_has_of_them(limbs: int) -> None:
    """The same bits up to so many limbs, and nothing beyond."""
    relinearisation = oracle.make_relinearisation_key(P, SECRET, KEY)
    rotation = oracle.make_rotation_key(P, SECRET, 5, KEY)
    conjugation = oracle.make_galois_key(P, SECRET, conjugation_element(P.ring_dim), KEY)
    whole, own = NativeBackend(P, KEY), NativeBackend(P, KEY)
    for backend, cut in ((whole, P.n_limbs), (own, limbs)):
        backend.load_relinearisation_key(restricted(relinearisation, cut))
        backend.load_rotation_key(5, restricted(rotation, cut))
        backend.load_conjugation_key(restricted(conjugation, cut))
    operations: list[Callable[[NativeBackend, Ciphertext], Ciphertext]] = [
        lambda backend, a: backend.multiply(a, a),
        lambda backend, a: backend.multiply_accumulate([(a, a), (a, a)]),
        lambda backend, a: backend.rotate(a, 5),
        lambda backend, a: backend.rotate_hoisted(a, [0, 5])[5],
        lambda backend, a: backend.rotate_and_sum({0: a, 5: a}),
        lambda backend, a: backend.conjugate(a),
    ]
    fresh = oracle.encrypt(X, P, SECRET, KEY)
    small = RingCiphertext(fresh.c0, fresh.c1, 2.0**10, KEY)
    for operation in operations:
        for n in range(1, P.n_limbs + 1):
            a, b = (x.drop_limbs(x.import_ciphertext(small, P.n_slots), n) for x in (whole, own))
            expected = whole.export_ciphertext(operation(whole, a))
            if n > limbs:
                with pytest.raises(LevelError, match=f"at {n} limbs; its key was made for {limbs} or fewer"):
                    operation(own, b)
                continue
            found = own.export_ciphertext(operation(own, b))
            np.testing.assert_array_equal(found.c0, expected.c0)
            np.testing.assert_array_equal(found.c1, expected.c1)
