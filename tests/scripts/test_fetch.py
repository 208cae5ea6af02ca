"""Downloads: verified by content, from the first mirror that has the file, never half a file under the final name."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mhe.errors import DataError
from models.readers.sources import MNIST_IMAGES
from scripts import cli
from scripts import fetch as fetching
from scripts.fetch import MNIST, RemoteFile, fetch

CONTENT = bytes(range(256)) * 40
FILE = RemoteFile("x-idx.gz", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def silent(_: str) -> None:
    pass


def mirror(folder: Path, data: bytes) -> str:
    folder.mkdir()
    (folder / FILE.name).write_bytes(data)
    return folder.as_uri() + "/"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """A mirror on this machine, that is asked over HTTP."""
    folder = tmp_path / "served"
    mirror(folder, gzip.compress(CONTENT))
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_file_comes_over_http(served: str, tmp_path: Path) -> None:
    fetch([FILE], [served], tmp_path / "new" / "folder", silent)
    assert gzip.decompress((tmp_path / "new" / "folder" / FILE.name).read_bytes()) == CONTENT


def test_second_mirror_where_the_first_fails(served: str, tmp_path: Path) -> None:
    said: list[str] = []
    fetch([FILE], [served + "gone/", (tmp_path / "gone").as_uri() + "/", served], tmp_path, said.append)
    assert said == [f"{tmp_path / FILE.name}: from {served}"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(CONTENT[:-1] + b"x"), "has the SHA-256"),
        (gzip.compress(CONTENT + b"x"), "need 10240"),
        (gzip.compress(CONTENT)[:-20], "cut off"),
        (b"<html>moved</html>", "no gzip file"),
        (gzip.compress(bytes(10**6)), "need 10240"),
    ],
)
def test_wrong_content_is_never_kept(tmp_path: Path, data: bytes, words: str) -> None:
    into = tmp_path / "into"
    with pytest.raises(DataError, match="no mirror has this file") as caught:
        fetch([FILE], [mirror(tmp_path / "mirror", data)], into, silent)
    assert words in str(caught.value)
    assert list(into.iterdir()) == []


def test_intact_file_is_kept_and_a_broken_one_replaced(tmp_path: Path) -> None:
    good = mirror(tmp_path / "mirror", gzip.compress(CONTENT))
    path = tmp_path / FILE.name
    path.write_bytes(gzip.compress(CONTENT, compresslevel=1))
    before = path.read_bytes()
    fetch([FILE], [], tmp_path, silent)
    assert path.read_bytes() == before
    path.write_bytes(before[:-30])
    fetch([FILE], [good], tmp_path, silent)
    assert gzip.decompress(path.read_bytes()) == CONTENT


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--into"):
        fetch([FILE], [], tmp_path / "file" / "folder", silent)


def test_command_fetches_the_files_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {file.name for file in MNIST} >= set(MNIST_IMAGES.values())
    assert {file.name.replace("labels-idx1", "images-idx3") for file in MNIST} == set(MNIST_IMAGES.values())
    monkeypatch.setattr(fetching, "MNIST", [FILE])
    monkeypatch.setattr(fetching, "MNIST_MIRRORS", [mirror(tmp_path / "mirror", gzip.compress(CONTENT))])
    result = CliRunner().invoke(cli.app, ["fetch", "mnist", "--into", str(tmp_path / "into")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "into" / FILE.name).is_file()
    monkeypatch.setattr(fetching, "MNIST_MIRRORS", [(tmp_path / "gone").as_uri() + "/"])
    result = CliRunner().invoke(cli.app, ["fetch", "mnist"], env={"MHE_MNIST": str(tmp_path / "other")})
    assert result.exit_code == 2
    assert "no mirror has this file" in result.output
