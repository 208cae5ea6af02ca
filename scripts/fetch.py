"""Downloading the public tables that are too large to ship, with their contents verified."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mhe.errors import DataError

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

TIMEOUT_SECONDS = 60.0
"""How long a mirror may stay silent."""


@dataclass(frozen=True)
class RemoteFile:
    """A gzip file of a mirror: its name, and size and SHA-256 of what it unpacks to (mirrors may pack differently)."""

    name: str
    n_bytes: int
    sha256: str


MNIST = (
    RemoteFile(
        "train-images-idx3-ubyte.gz", 47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    ),
    RemoteFile("train-labels-idx1-ubyte.gz", 60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    RemoteFile(
        "t10k-images-idx3-ubyte.gz", 7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
    ),
    RemoteFile("t10k-labels-idx1-ubyte.gz", 10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)


def fetch(files: Sequence[RemoteFile], mirrors: Sequence[str], folder: Path, say: Callable[[str], None]) -> None:
    """Put these files into `folder`, each from the first mirror (a URL that ends in "/") that has it as it must be.

    A file that is there and intact is kept; a broken one is replaced, and nothing unverified ever gets the final name.
    Raises DataError, with what each mirror answered, if a file cannot be had.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made a folder: {error}; name another one with --into") from None
    for file in files:
        path = folder / file.name
        if path.is_file() and _complaint(file, path.read_bytes()) is None:
            say(f"{path}: is there, and intact")
            continue
        say(f"{path}: from {_fetch_one(file, mirrors, path)}")


def _fetch_one(file: RemoteFile, mirrors: Sequence[str], path: Path) -> str:
    """The mirror that the file came from."""
    problems = []
    for mirror in mirrors:
        try:
            packed = _download(mirror + file.name, file.n_bytes)
        except (OSError, urllib.error.URLError) as error:
            problems.append(f"{mirror}: {error}")
            continue
        complaint = _complaint(file, packed)
        if complaint is not None:
            problems.append(f"{mirror}: {complaint}")
            continue
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_bytes(packed)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise DataError(f"{path}: cannot be written: {error}") from None
        return mirror
    raise DataError(f"{path}: no mirror has this file. " + "; ".join(problems))


def _download(url: str, unpacked_bytes: int) -> bytes:
    """At most what a gzip file of so many unpacked bytes can take, so that no answer fills the memory."""
    limit = unpacked_bytes + unpacked_bytes // 100 + 1024
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
        return bytes(answer.read(limit))


def _complaint(file: RemoteFile, packed: bytes) -> str | None:
    """What is wrong with this file; never unpacks more than it should hold."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        data = unpacker.decompress(packed, file.n_bytes + 1)
    except zlib.error as error:
        return f"is no gzip file ({error})"
    if len(data) != file.n_bytes or not unpacker.eof:
        return f"unpacks to {len(data)} bytes or more, or is cut off; need {file.n_bytes}"
    found = hashlib.sha256(data).hexdigest()
    return None if found == file.sha256 else f"has the SHA-256 {found}; need {file.sha256}"
