"""Files hold what was put into them, and whatever is not whole is refused in words."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mhe import container as module
from mhe.container import (
    Container,
    parameters_header,
    read_bytes,
    read_ciphertexts,
    read_parameters,
    read_residues,
    write_bytes,
)
from mhe.errors import CodecError
from mhe.moduli import generate_moduli
from mhe.parameters import Parameters, Shape
from tests.insecure import insecure_test_parameters

DTYPES = st.sampled_from([np.dtype(d) for d in ("<u8", "<f8", "i1", "u1")])
ARRAYS = DTYPES.flatmap(lambda d: arrays.arrays(d, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0)))


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=8), ARRAYS, max_size=4), st.dictionaries(st.text(), st.integers(), max_size=3))
def test_what_is_written_is_read(content, header):
    again = Container.from_bytes(Container("test", header, content).to_bytes(), "test", "file")
    assert again.header == header
    assert again.arrays.keys() == content.keys()
    for name, array in content.items():
        np.testing.assert_array_equal(again.arrays[name], array)
        assert again.arrays[name].dtype == array.dtype


def test_whatever_is_not_whole_is_refused():
    whole = Container("test", {"a": 1}, {"x": np.arange(5, dtype=np.uint64)}).to_bytes()
    for at in range(len(whole)):
        with pytest.raises(CodecError, match="file: "):
            Container.from_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :], "test", "file")
        with pytest.raises(CodecError, match="file: "):
            Container.from_bytes(whole[:at], "test", "file")
    with pytest.raises(CodecError, match="file: is a file of kind 'test'; need 'model'"):
        Container.from_bytes(whole, "model", "file")


@pytest.mark.parametrize(
    "listed",
    [[["x", "u8", [9]]], [["x", "u8", [-1]]], [["x", "O", [5]]], [["x", "u8", [1 << 40]]], 3, [["x", "u8", [4]]]],
)
def test_a_header_that_lies_is_refused(listed):
    """With a checksum that holds: from whoever can make one."""
    text = json.dumps({"kind": "test", "header": {}, "arrays": listed}).encode()
    data = module._PREFIX.pack(module._MAGIC, module.VERSION, 0, len(text)) + text + bytes(40)
    with pytest.raises(CodecError, match="file: "):
        Container.from_bytes(data + hashlib.sha256(data).digest(), "test", "file")


def test_files_are_whole_or_as_before(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_bytes(path, b"first")

    def broken(_):
        raise OSError("disk full")

    monkeypatch.setattr("mhe.container.os.fsync", broken)
    with pytest.raises(CodecError, match="x: cannot be written: disk full"):
        write_bytes(path, b"second")
    assert path.read_bytes() == b"first"
    with pytest.raises(CodecError, match="no such file; need one of kind 'model'"):
        read_bytes(tmp_path / "y", "model")


def test_parameters_come_back_and_insecure_ones_only_where_they_are_asked_for():
    insecure = insecure_test_parameters(64, 3)
    assert read_parameters(parameters_header(insecure), "file", insecure=True) == insecure
    with pytest.raises(CodecError, match="file: its parameters are insecure, for tests only"):
        read_parameters(parameters_header(insecure), "file", insecure=False)
    shape = Shape(1 << 13, 40, 20, 2, 1, special_bits=40)
    secure = Parameters.of_shape(
        shape, generate_moduli(shape), n_parties=1, refresh_limbs=2, message_bits=1, statistical_bits=30
    )
    header = json.loads(json.dumps(parameters_header(secure)))
    assert read_parameters(header, "file", insecure=False).digest == secure.digest
    for wrong in (
        {**header, "ring_dim": 1 << 10},
        {**header, "more": 1},
        {"ring_dim": 64},
        3,
        {**header, "moduli": "x"},
    ):
        with pytest.raises(CodecError, match="file: its parameters cannot be used"):
            read_parameters(wrong, "file", insecure=False)


def test_residues_of_another_shape_or_too_large_are_refused():
    p = insecure_test_parameters(64, 3)
    good = np.zeros((2, 3, 64), dtype=np.uint64)
    bad = good.copy()
    bad[1, 2, 5] = p.moduli[2]
    assert read_residues(Container("t", {}, {"x": good}), "x", p, "file", (2, 3)).shape == good.shape
    with pytest.raises(CodecError, match="a residue not below its modulus"):
        read_residues(Container("t", {}, {"x": bad}), "x", p, "file", (2, 3))
    for wrong in (good[:1], good.astype(np.float64), good[:, :, :32]):
        with pytest.raises(CodecError, match="need uint64 of shape"):
            read_residues(Container("t", {}, {"x": wrong}), "x", p, "file", (2, 3))
    with pytest.raises(CodecError, match="holds nothing as c1"):
        read_ciphertexts(Container("t", {}, {"c0": good}), p, "file", count=2, limbs=3, scale=1.0, key_id="k")
