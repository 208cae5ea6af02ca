"""Secret objects cannot leave by accident: not by pickle, copy, text, and not after they were erased."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
import traceback
from multiprocessing.reduction import ForkingPickler
from pprint import pformat

import numpy as np
import pytest

from mhe.errors import ShareError
from mhe.keys import EphemeralSecret, ReceiverSecret, SecretPolynomial, SecretShare
from mhe.moduli import generate_moduli
from mhe.parameters import Shape
from mhe.ring.ring import ring
from mhe.ring.sampling import Stream, public_stream, secret_stream

N = 64
MODULI, SPECIAL = generate_moduli(Shape(N, 50, 40, 3, 1))
POLYNOMIALS = [SecretShare, EphemeralSecret, ReceiverSecret]
PICKLE_PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def make(kind):
    """A secret that has been used, so that it holds cached forms too."""
    if kind is Stream:
        return secret_stream()
    secret = kind.generate(N)
    secret.residues(ring(N, MODULI))
    return secret


@dataclasses.dataclass
class Holder:
    """What an unsuspecting program may put a secret into."""

    secret: object


@pytest.fixture(params=[*POLYNOMIALS, Stream], ids=lambda kind: kind.__name__)
def secret(request):
    return make(request.param)


def test_refuses_pickle_and_copy(secret):
    for held in (secret, [secret], {"s": secret}, Holder(secret)):
        for protocol in PICKLE_PROTOCOLS:
            with pytest.raises(TypeError, match="can be neither pickled nor copied"):
                pickle.dumps(held, protocol)
        with pytest.raises(TypeError, match="can be neither pickled nor copied"):
            ForkingPickler.dumps(held)
        with pytest.raises(TypeError, match="can be neither pickled nor copied"):
            copy.deepcopy(held)
    with pytest.raises(TypeError, match="can be neither pickled nor copied"):
        copy.copy(secret)
    with pytest.raises(TypeError, match="can be neither pickled nor copied"):
        dataclasses.asdict(Holder(secret))
    for name in ("__reduce__", "__getstate__"):
        with pytest.raises(TypeError, match="can be neither pickled nor copied"):
            getattr(secret, name)()
    with pytest.raises(TypeError, match="can be neither pickled nor copied"):
        secret.__reduce_ex__(4)


def test_shows_nothing(secret, caplog):
    shown = f"{type(secret).__name__}(<redacted>)"
    caplog.set_level(logging.DEBUG)
    logging.getLogger("test").debug("%s %r", secret, secret)
    texts = [repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{secret!s}", pformat(secret)]
    assert set(texts) == {shown}
    assert caplog.messages == [f"{shown} {shown}"]
    assert repr([secret]) == f"[{shown}]"
    assert repr(Holder(secret)) == f"Holder(secret={shown})"
    with pytest.raises(TypeError, match="__dict__"):
        vars(secret)
    with pytest.raises(TypeError, match="not JSON serializable"):
        json.dumps(secret)
    with pytest.raises(TypeError):
        bytes(secret)
    with pytest.raises(TypeError):
        memoryview(secret)
    with pytest.raises(TypeError):
        iter(secret)
    with pytest.raises(AttributeError):
        secret.anything = 1


def test_traceback_with_locals_shows_nothing(secret):
    try:
        raise ValueError("trouble")
    except ValueError as error:
        captured = traceback.TracebackException.from_exception(error, capture_locals=True)
    text = "".join(captured.format())
    assert f"secret = {type(secret).__name__}(<redacted>)" in text
    assert "array(" not in text


def test_numpy_sees_an_opaque_object(secret):
    assert np.asarray(secret).dtype == object
    assert np.asarray(secret).shape == ()


@pytest.mark.parametrize("kind", POLYNOMIALS)
def test_secrets_are_compared_by_identity_only(kind):
    """Neither equality nor a hash may depend on what is inside."""
    coefficients = np.ones(N, dtype=np.int64)
    a, b = kind(coefficients), kind(coefficients.copy())
    assert a != b
    assert a == a
    assert len({a, b}) == 2


@pytest.mark.parametrize("kind", POLYNOMIALS)
def test_erase_overwrites_every_copy_the_object_has(kind):
    secret = kind.generate(N)
    coefficients = secret._coefficients
    forms = [secret.residues(ring(N, moduli)) for moduli in (MODULI, MODULI[:1], MODULI + SPECIAL)]
    assert np.any(coefficients)
    assert all(np.any(form) for form in forms)
    secret.erase()
    assert not np.any(coefficients)
    assert not any(np.any(form) for form in forms)
    with pytest.raises(ShareError, match="was erased"):
        secret.residues(ring(N, MODULI[:2]))
    secret.erase()


@pytest.mark.parametrize("kind", POLYNOMIALS)
def test_fresh_secrets_are_ternary_and_different(kind):
    made = [kind.generate(1 << 10)._coefficients for _ in range(3)]
    for coefficients in made:
        counts = [int((coefficients == value).sum()) for value in (-1, 0, 1)]
        assert sum(counts) == 1 << 10
        # 341 expected, standard deviation 15: 8 of them
        assert all(abs(count - 341) < 120 for count in counts)
    assert not np.array_equal(made[0], made[1])
    assert not np.array_equal(made[1], made[2])


def test_cached_forms_are_those_of_the_coefficients():
    secret = SecretShare.generate(N)
    for moduli in (MODULI, MODULI[:2]):
        base = ring(N, moduli)
        form = secret.residues(base)
        assert secret.residues(base) is form
        np.testing.assert_array_equal(base.intt(form), base.from_signed(secret._coefficients))


def test_kinds_of_secrets_are_no_shares_of_each_other():
    """What takes a share refuses, in the eyes of a type checker, a receiver's or an ephemeral secret."""
    assert issubclass(SecretShare, SecretPolynomial)
    assert not issubclass(EphemeralSecret, SecretShare)
    assert not issubclass(ReceiverSecret, SecretShare)
    assert not hasattr(ReceiverSecret, "serve_once")


def test_streams_never_repeat():
    a, b = secret_stream(), secret_stream()
    assert a.bytes(32) != b.bytes(32)
    assert a.bytes(32) != a.bytes(32)
    assert public_stream(bytes(32), "x").bytes(32) == public_stream(bytes(32), "x").bytes(32)
