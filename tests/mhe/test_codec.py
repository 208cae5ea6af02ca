"""Codec: round trips, exact sizes, and the exact exception for every kind of damage."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhe import codec
from mhe.errors import CodecError, KeyMismatchError, MHEError, ShareError
from mhe.share import Share

DIGEST = bytes(range(16))
MODULI = ((1 << 60) - 93, (1 << 40) - 87, 97)


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """Two or three rows per chunk, so that small shares have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "CHUNK_BYTES", 64)
        yield


@st.composite
def shares(draw, n_parties):
    n_rows, n_columns = draw(st.integers(0, 7)), draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    moduli: tuple[int, ...] = ()
    if draw(st.booleans()):
        moduli = tuple(draw(st.sampled_from(MODULI)) for _ in range(n_rows))
        rows = np.array([rng.integers(0, q, n_columns) for q in moduli], dtype=np.uint64).reshape(n_rows, n_columns)
    else:
        rows = rng.normal(size=(n_rows, n_columns))
    return Share(
        draw(st.text("aZ \0\x7fé߿€\U0001f510\U0010ffff", max_size=20)),
        draw(st.binary(max_size=32)),
        frozenset(draw(st.sets(st.integers(0, n_parties - 1)))),
        moduli,
        rows,
    )


def example_share(contributors=(0, 2)):
    rows = np.arange(15, dtype=np.uint64).reshape(5, 3)
    return Share("refresh", b"run 17", frozenset(contributors), (97, 101, 97, 103, 107), rows)


def assert_same(a: Share, b: Share) -> None:
    assert (a.protocol, a.instance, a.contributors, a.moduli) == (b.protocol, b.instance, b.contributors, b.moduli)
    assert a.rows.dtype == b.rows.dtype
    np.testing.assert_array_equal(a.rows, b.rows)


@settings(max_examples=25, deadline=None)
@given(st.data(), st.integers(1, 40))
def test_share_survives_the_round_trip(data, n_parties):
    share = data.draw(shares(n_parties))
    text = codec.to_bytes(share, DIGEST, n_parties)
    assert_same(codec.from_bytes(text, DIGEST, n_parties), share)
    assert len(text) == codec.message_bytes(share.protocol, *share.rows.shape, n_parties)
    header = next(codec.encode(share, DIGEST, n_parties))
    assert len(header) == codec.header_bytes(share.protocol, len(share.rows), n_parties)


def test_thousands_of_contributors():
    share = example_share(range(0, 5000, 3))
    assert_same(codec.from_bytes(codec.to_bytes(share, DIGEST, 5000), DIGEST, 5000), share)


def test_rows_need_not_be_contiguous():
    share = example_share()
    strided = replace(share, rows=np.repeat(share.rows, 2, axis=1)[:, ::2])
    assert codec.to_bytes(strided, DIGEST, 3) == codec.to_bytes(share, DIGEST, 3)


def test_decoded_rows_are_fresh_and_writable():
    share = example_share()
    decoded = codec.decode(codec.encode(share, DIGEST, 3), DIGEST, 3)
    assert decoded.rows.flags.c_contiguous
    decoded.rows[...] = 1
    assert_same(share, example_share())


def test_decode_takes_no_frame_of_the_next_message():
    share = example_share()
    frames = iter([*codec.encode(share, DIGEST, 3)] * 2)
    assert_same(codec.decode(frames, DIGEST, 3), share)
    assert_same(codec.decode(frames, DIGEST, 3), share)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.integers(0, 5000), st.binary(max_size=40), max_size=12))
def test_blobs_survive_the_round_trip(blobs):
    frame = codec.encode_blobs(blobs, DIGEST)
    assert codec.decode_blobs(frame, DIGEST) == blobs
    assert len(frame) == codec.blob_bytes([len(blob) for blob in blobs.values()])


def test_truncated_or_prolonged_share_is_refused():
    text = codec.to_bytes(example_share(), DIGEST, 3)
    for length in range(len(text)):
        with pytest.raises(CodecError):
            codec.from_bytes(text[:length], DIGEST, 3)
    with pytest.raises(CodecError, match="goes on"):
        codec.from_bytes(text + b"\0", DIGEST, 3)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_flipped_byte_is_refused(mask):
    text = bytearray(codec.to_bytes(example_share(), DIGEST, 3))
    for position in range(len(text)):
        text[position] ^= mask
        with pytest.raises(CodecError):
            codec.from_bytes(bytes(text), DIGEST, 3)
        text[position] ^= mask


def test_damaged_blobs_are_refused():
    text = codec.encode_blobs({0: b"left", 7: b"right"}, DIGEST).tobytes()
    damaged = [text[:length] for length in range(len(text))] + [text + b"\0"]
    for position in range(len(text)):
        damaged.append(text[:position] + bytes([text[position] ^ 0x10]) + text[position + 1 :])
    for bad in damaged:
        with pytest.raises(CodecError):
            codec.decode_blobs(np.frombuffer(bad, np.uint8), DIGEST)


def patched(frame, position, layout, value):
    """The frame with one field changed and the checksum at its end right again."""
    text = bytearray(frame.tobytes())
    struct.pack_into(layout, text, position, value)
    struct.pack_into("<I", text, len(text) - 4, zlib.crc32(text[:-4]))
    return np.frombuffer(bytes(text), np.uint8)


@pytest.mark.parametrize(
    ("position", "layout", "value", "error", "message"),
    [
        (0, "<I", 0, CodecError, "begins with 00000000"),
        (4, "<H", codec.VERSION + 1, CodecError, f"version {codec.VERSION + 1}; this party reads {codec.VERSION}"),
        (6, "<H", 2, CodecError, r"kind 2; need 1 \(SHARE\)"),
        (8, "<I", 12, CodecError, "its header says 12"),
        (12, "<B", 0xEE, KeyMismatchError, "parameters ee0102.*this party has 000102.*same parameters"),
        (28, "<B", 9, CodecError, "unknown"),
        (29, "<B", 9, CodecError, "fields need"),
        (30, "<B", 33, CodecError, "unknown"),
        (32, "<I", 4, CodecError, "job of 4 parties; this one has 3"),
        (36, "<I", 6, CodecError, "fields need"),
        (36, "<I", 2**32 - 1, CodecError, "fields need"),
        (76, "<B", 0xFF, CodecError, "UTF-8"),
        (83, "<B", 0xFF, CodecError, "contributors"),
        (84, "<Q", 0, CodecError, "moduli"),
    ],
)
def test_every_field_of_the_header_is_checked(position, layout, value, error, message):
    header = codec.encode_header(example_share(), DIGEST, 3)
    with pytest.raises(error, match=message):
        codec.decode_header(patched(header, position, layout, value), DIGEST, 3)


def test_chunks_of_another_shape_or_place_are_refused():
    share = example_share()
    header, first, second, *_ = codec.encode(share, DIGEST, 3)
    with pytest.raises(CodecError, match="got chunk 1, need 0; the parties are out of step"):
        codec.decode([header, second, first], DIGEST, 3)
    wider = codec.encode_header(replace(share, rows=np.zeros((5, 4), np.uint64)), DIGEST, 3)
    with pytest.raises(CodecError, match="chunk 0 of 56 bytes; need 72"):
        codec.decode([wider, first, second], DIGEST, 3)
    with pytest.raises(CodecError, match="ends before its last chunk"):
        codec.decode([header, first], DIGEST, 3)


def test_residue_not_below_its_modulus_is_refused():
    rows = np.full((5, 3), 97, dtype=np.uint64)
    with pytest.raises(ShareError, match="residue not below its modulus"):
        codec.from_bytes(codec.to_bytes(replace(example_share(), rows=rows), DIGEST, 3), DIGEST, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": np.zeros((5, 3), np.float32), "moduli": ()}, "rows are float32; need uint64 or float64"),
        ({"instance": bytes(33)}, "instance of 33 bytes"),
        ({"protocol": "x" * 256}, "name of 256"),
        ({"contributors": frozenset({0, 3})}, r"contributors \[3\] are foreign"),
    ],
)
def test_share_that_does_not_fit_the_format_is_refused(change, message):
    with pytest.raises(CodecError, match=message):
        codec.to_bytes(replace(example_share(), **change), DIGEST, 3)


def test_digest_of_wrong_length_is_refused():
    with pytest.raises(CodecError, match="digest of 3 bytes; need 16"):
        codec.encode_blobs({}, b"abc")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused_in_an_orderly_way(noise):
    with pytest.raises(MHEError):
        codec.from_bytes(noise, DIGEST, 3)
    with pytest.raises(MHEError):
        codec.decode_blobs(np.frombuffer(noise, np.uint8), DIGEST)
