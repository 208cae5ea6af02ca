"""What a party keeps on disk: modes, passphrases, tampering, locks, and a ledger that outlives the process."""

from __future__ import annotations

import os
import stat
from dataclasses import replace

import numpy as np
import pytest

import mhe.sealed as module
from mhe.container import Container
from mhe.errors import CodecError, ParameterError, ShareError, StateError
from mhe.keys import ReceiverSecret, SecretShare
from mhe.protocols.rotation_key import RotationKeyProtocol
from mhe.sealed import LOCK, STATE, ShareTerms, open_share, read_receiver, seal_share, write_receiver
from mhe.session import Session
from tests import oracle
from tests.insecure import insecure_test_parameters

N = 64
TERMS = ShareTerms(1, 3, "key", "model")
PASSPHRASES = [None, "correct horse"]


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch):
    """What an attack costs is no matter of these tests."""
    monkeypatch.setattr(module, "SCRYPT_LOG_COST", 4)


@pytest.fixture(params=PASSPHRASES, ids=["clear", "sealed"])
def passphrase(request):
    return request.param


def sealed(folder, passphrase):
    """A share that was sealed and given back, and its coefficients."""
    secret = SecretShare.generate(N)
    coefficients = oracle.coefficients_of(secret)
    seal_share(folder, secret, TERMS, passphrase)
    secret.erase()
    return coefficients


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_share_comes_back(tmp_path, passphrase):
    folder = tmp_path / "party"
    coefficients = sealed(folder, passphrase)
    secret, terms = open_share(folder, passphrase)
    np.testing.assert_array_equal(oracle.coefficients_of(secret), coefficients)
    assert terms == TERMS
    assert (mode(folder), mode(folder / STATE), mode(folder / LOCK)) == (0o700, 0o600, 0o600)


def test_modes_do_not_depend_on_the_umask(tmp_path, passphrase):
    before = os.umask(0)
    try:
        sealed(tmp_path / "party", passphrase)
    finally:
        os.umask(before)
    assert mode(tmp_path / "party") == 0o700
    assert {mode(path) for path in (tmp_path / "party").iterdir()} == {0o600}


def test_a_sealed_file_shows_nothing_and_never_repeats(tmp_path):
    coefficients = sealed(tmp_path / "sealed", "correct horse")
    for kind in (np.int8, np.int64):
        assert coefficients.astype(kind).tobytes() not in (tmp_path / "sealed" / STATE).read_bytes()
    clear = sealed(tmp_path / "clear", None)
    assert clear.astype(np.int8).tobytes() in (tmp_path / "clear" / STATE).read_bytes()
    secret, _ = open_share(tmp_path / "sealed", "correct horse")
    written = [(tmp_path / "sealed" / STATE).read_bytes()]
    for number in range(3):
        secret.serve_once("refresh", bytes([number]) * 32)
        written.append((tmp_path / "sealed" / STATE).read_bytes())
    nonces = {data[module._HEAD.size - 12 : module._HEAD.size] for data in written}
    assert len(nonces) == len(written)


def test_the_wrong_passphrase_is_refused(tmp_path):
    sealed(tmp_path, "correct horse")
    with pytest.raises(StateError, match="wrong passphrase, or the file was changed"):
        open_share(tmp_path, "battery staple")
    with pytest.raises(StateError, match="is sealed; give its passphrase in MHE_PASSPHRASE"):
        open_share(tmp_path, None)
    open_share(tmp_path, "correct horse")


def test_every_changed_byte_is_noticed(tmp_path, passphrase):
    sealed(tmp_path, passphrase)
    path = tmp_path / STATE
    whole = path.read_bytes()
    changed = [bytes([*whole[:at], whole[at] ^ 1, *whole[at + 1 :]]) for at in range(0, len(whole), 7)]
    for data in (*changed, whole[:-1], whole[: module._HEAD.size], b"", whole + b"\0"):
        path.write_bytes(data)
        with pytest.raises(StateError):
            open_share(tmp_path, passphrase)
    path.write_bytes(whole)
    open_share(tmp_path, passphrase)


def test_what_others_may_read_is_refused(tmp_path, passphrase):
    sealed(tmp_path, passphrase)
    (tmp_path / STATE).chmod(0o640)
    with pytest.raises(StateError, match="has mode 0640, others may read it"):
        open_share(tmp_path, passphrase)


def test_a_missing_state_is_named(tmp_path):
    with pytest.raises(StateError, match="state: no such file"):
        open_share(tmp_path, None)


def test_a_state_is_not_overwritten(tmp_path, passphrase):
    coefficients = sealed(tmp_path, passphrase)
    with pytest.raises(StateError, match="which is not overwritten"):
        seal_share(tmp_path, SecretShare.generate(N), TERMS, passphrase)
    np.testing.assert_array_equal(oracle.coefficients_of(open_share(tmp_path, passphrase)[0]), coefficients)


def test_one_process_at_a_time(tmp_path, passphrase):
    sealed(tmp_path, passphrase)
    secret, _ = open_share(tmp_path, passphrase)
    with pytest.raises(StateError, match="is in use by another process"):
        open_share(tmp_path, passphrase)
    secret.erase()
    open_share(tmp_path, passphrase)


# the ledger


def test_a_restarted_party_makes_no_second_share(tmp_path, passphrase):
    """Real shares: the party stops right after its first one has left, and is started again."""
    parameters = insecure_test_parameters(N, 3)
    session = Session(parameters, 0, bytes(32))
    secret = SecretShare.generate(N)
    seal_share(tmp_path, secret, TERMS, passphrase)
    RotationKeyProtocol(session, 5).share(secret)
    secret.ledger.close()  # the process is gone; nothing is written any more
    again, _ = open_share(tmp_path, passphrase)
    with pytest.raises(ShareError, match="a second share would leak the secret"):
        RotationKeyProtocol(session, 5).share(again)
    fresh = replace(session, seed=bytes([1]) * 32, key_seed=session.seed)
    assert fresh.key_id == session.key_id
    RotationKeyProtocol(fresh, 5).share(again)


def test_what_was_served_before_the_state_was_written_is_kept_too(tmp_path, passphrase):
    secret = SecretShare.generate(N)
    secret.serve_once("refresh", bytes(32))
    seal_share(tmp_path, secret, TERMS, passphrase)
    secret.erase()
    again, _ = open_share(tmp_path, passphrase)
    with pytest.raises(ShareError, match="was served before"):
        again.serve_once("refresh", bytes(32))


def test_an_entry_that_cannot_be_written_stops_the_share(tmp_path, monkeypatch):
    """Nothing leaves that is not on disk."""
    secret = SecretShare.generate(N)
    seal_share(tmp_path, secret, TERMS, None)

    def full(*_):
        raise CodecError("no space left")

    monkeypatch.setattr(module, "write_bytes", full)
    session = Session(insecure_test_parameters(N, 3), 0, bytes(32))
    with pytest.raises(StateError, match="no space left"):
        RotationKeyProtocol(session, 5).share(secret)
    with pytest.raises(StateError, match="no space left"):
        secret.ledger.release(1, 10)


def test_releases_are_counted_over_the_life_of_a_key(tmp_path, passphrase):
    secret = SecretShare.generate(N)
    seal_share(tmp_path, secret, TERMS, passphrase)
    secret.ledger.release(3, 5)
    secret.erase()
    again, _ = open_share(tmp_path, passphrase)
    with pytest.raises(ParameterError, match="release number 6 of a key planned for 5"):
        again.ledger.release(3, 5)
    again.ledger.release(2, 5)
    again.erase()
    assert open_share(tmp_path, passphrase)[0].ledger.released == 5


# a receiver's key


def test_a_receivers_key_comes_back(tmp_path):
    secret, path = ReceiverSecret.generate(N), tmp_path / "key" / "private"
    write_receiver(path, secret, b"label", "model")
    again, label, model = read_receiver(path)
    np.testing.assert_array_equal(oracle.coefficients_of(again), oracle.coefficients_of(secret))
    assert (label, model) == (b"label", "model")
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    with pytest.raises(StateError, match="which is not overwritten"):
        write_receiver(path, secret, b"label", "model")
    path.chmod(0o644)
    with pytest.raises(StateError, match="others may read it"):
        read_receiver(path)


def test_a_key_that_is_none_is_refused(tmp_path):
    path = tmp_path / "private"
    with pytest.raises(CodecError, match="no such file"):
        read_receiver(path)
    wrong = np.full(N, 2, dtype=np.int8)
    path.write_bytes(Container("private key", {"label": "00", "model": "m"}, {"secret": wrong}).to_bytes())
    path.chmod(0o600)
    with pytest.raises(StateError, match="does not hold a ternary secret"):
        read_receiver(path)
