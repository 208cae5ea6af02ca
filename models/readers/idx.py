"""IDX files, the format of MNIST: an array of one type, big-endian, behind its shape.

Format: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", section "The IDX file format".
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.errors import DataError
from models.table import StoredTable, check_label, check_stored

LABEL = "label"
"""What the column of labels is called."""

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Type codes: the third byte of a file."""

BYTE_UNIT = 1 / 255
"""Unsigned bytes are brightnesses: scaled to [0, 1]."""


def is_idx(name: str) -> bool:
    """Whether a file name is one of IDX files as they are distributed: train-images-idx3-ubyte.gz, x.images.idx."""
    return re.search(r"[-.]idx\d?(-[a-z]+)?(\.gz)?$", Path(name).name) is not None


def read_idx_table(images: Path, label: str) -> StoredTable:
    """The file of images, with its labels from the file beside it: "images" is "labels" in its name, "idx3" "idx1".

    Every image is a row of columns pixel0, pixel1, ...; unsigned bytes are scaled to [0, 1]. The label column is
    called "label". Raises DataError if one of the files cannot be read or they do not fit together.
    """
    check_label(str(images), LABEL, label)
    if "images" not in images.name:
        raise DataError(f"{images}: need a name with 'images' in it, beside which a file with 'labels' lies")
    head, _, tail = images.name.rpartition("images")
    beside = images.with_name(head + "labels" + re.sub(r"idx\d", "idx1", tail))
    stored, labels = read_idx(images), read_idx(beside)
    values = stored.reshape(len(stored), -1) if stored.ndim > 1 and stored.size else stored
    numbers = check_stored(str(images), values, labels)
    columns = tuple(f"pixel{i}" for i in range(values.shape[1]))
    return StoredTable(values, numbers, columns, BYTE_UNIT if values.dtype == np.uint8 else 1.0)


def read_idx(path: Path) -> npt.NDArray[Any]:
    """The array of an IDX file, unpacked where the name ends in .gz. Raises DataError if it is none."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read{' or unpacked' if path.suffix == '.gz' else ''}: {error}") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in TYPES or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path}: is no IDX file: it starts with the bytes {data[:4].hex(' ') or '(none)'}")
    start, dtype = 4 + 4 * data[3], np.dtype(TYPES[data[2]])
    shape = tuple(int(n) for n in np.frombuffer(data, dtype=">u4", count=data[3], offset=4))
    needed = start + dtype.itemsize * math.prod(shape)
    if len(data) != needed:
        raise DataError(f"{path}: has {len(data)} bytes; its header {shape} needs {needed}: is it cut off?")
    return np.frombuffer(data, dtype=dtype, offset=start).reshape(shape)
