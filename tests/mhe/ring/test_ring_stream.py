"""Streams: the same everywhere for one seed and purpose, different for all others, and closed to onlookers."""

import copy
import hashlib
import itertools
import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from mhe.errors import ParameterError
from mhe.ring.sampling import Stream, public_stream, secret_stream

SEED = bytes(range(32))


def test_keystream_is_aes_256_in_counter_mode() -> None:
    """McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test case 14; then every block after it."""
    assert Stream(bytes(32)).bytes(16).hex() == "cea7403d4d606b6e074ec5d3baf39d18"
    counter = Cipher(algorithms.AES(SEED), modes.CTR((2).to_bytes(16, "big"))).encryptor()
    assert Stream(SEED).bytes(300_000) == counter.update(bytes(300_000))


def test_public_key_derivation_is_pinned() -> None:
    """Changing it would separate parties that run different versions."""
    encoded = b"s" + (1).to_bytes(8, "little") + b"a" + b"i" + (2).to_bytes(8, "little") + b"-7"
    key = hashlib.blake2b(encoded, digest_size=32, key=SEED, person=b"mhe.public").digest()
    assert public_stream(SEED, "a", -7).bytes(32) == Stream(key).bytes(32)


def test_position_depends_on_bytes_only() -> None:
    whole = public_stream(SEED).bytes(300_000)
    pieces = public_stream(SEED)
    sizes = (0, 1, 7, 15, 16, 17, 131_071, 131_073, 16)
    rest = len(whole) - sum(sizes)
    assert b"".join(pieces.bytes(n) for n in (*sizes, rest)) == whole
    assert public_stream(SEED).words(1000).tolist() == np.frombuffer(whole[:8000], dtype="<u8").tolist()


def test_words_are_ours_to_change() -> None:
    words = public_stream(SEED).words(4)
    words[:] = 0
    assert words.dtype == np.uint64 and words.flags.c_contiguous


def test_labels_are_separated() -> None:
    labels = [
        (), ("",), ("", ""), ("a",), ("b",), ("a", "b"), ("ab",), ("a", "b", ""), (1,), ("1",), (-1,), (11,), (1, 1),
        ("a", 1), (1, "a"), ("a1",), (10**40,), ("é",), ("ab", ""), ("a\x00b",),
    ]  # fmt: skip
    outputs = {public_stream(SEED, *names).bytes(32) for names in labels}
    outputs.add(public_stream(bytes(32)).bytes(32))
    assert len(outputs) == len(labels) + 1
    assert public_stream(SEED, "a", 1).bytes(32) == public_stream(SEED, "a", 1).bytes(32)


def test_secret_streams_differ() -> None:
    assert len({secret_stream().bytes(32) for _ in range(20)}) == 20


def test_neither_copied_nor_pickled() -> None:
    stream = public_stream(SEED)
    for attempt in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            attempt(stream)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            pickle.dumps(stream, protocol)


def test_shows_no_key() -> None:
    stream = Stream(SEED)
    assert repr(stream) == str(stream) == f"{stream}" == "Stream(<redacted>)"
    assert not hasattr(stream, "__dict__")
    assert SEED not in [getattr(stream, name) for name in Stream.__slots__]


def test_ends_before_the_block_counter_wraps() -> None:
    stream = public_stream(SEED)
    stream._left = 10
    stream.bytes(10)
    with pytest.raises(ParameterError, match="left"):
        stream.bytes(1)
    with pytest.raises(ParameterError):
        stream.words(-1)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_seed_length(seed: bytes) -> None:
    with pytest.raises(ParameterError, match="need 32"):
        public_stream(seed)
    with pytest.raises(ParameterError, match="need 32"):
        Stream(seed)


@pytest.mark.parametrize("label", [True, 1.0, b"a", None, ("a",)])
def test_label_types(label) -> None:
    with pytest.raises(ParameterError, match="label"):
        public_stream(SEED, label)


def test_streams_look_random() -> None:
    """Every bit position of the words is balanced, and streams of neighbouring labels are uncorrelated."""
    streams = [public_stream(SEED, "noise", i).words(1 << 14) for i in range(3)]
    for x in streams:
        bits = np.unpackbits(x.view(np.uint8)).reshape(-1, 64).mean(axis=0)
        assert np.abs(bits - 0.5).max() < 5.5 * 0.5 / 2**7
    for x, y in itertools.combinations(streams, 2):
        agreement = 1 - np.unpackbits((x ^ y).view(np.uint8)).mean()
        assert abs(agreement - 0.5) < 5 * 0.5 / 2**10
