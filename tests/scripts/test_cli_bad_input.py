"""`mhe` refuses what cannot work in words, with exit code 2 and without a traceback, before any rank is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scripts import cli, launch

TABLE = "a,b,y\n" + "".join(f"{i},{i * i},{i % 2}\n" for i in range(20))
Run = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x.csv").write_text(TABLE)
    return tmp_path


@pytest.fixture
def refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `mhe train` and return what it says; it must refuse."""

    def never(*_: Any) -> int:
        raise AssertionError("ranks were started")

    monkeypatch.setattr(cli, "launch", never)

    def run(config: str, *options: str, parties: int = 2) -> str:
        (folder / "c.toml").write_text(config)
        arguments = ["train", str(folder / "c.toml"), "--parties", str(parties), "--out", str(folder / "out"), *options]
        result = CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        assert result.output.startswith("error: ")
        return result.output

    return run


def data(**keys: str) -> str:
    lines = [f'{key} = "{value}"' for key, value in ({"train": "x.csv", "label": "y"} | keys).items()]
    return "\n".join(["[data]", *lines, ""])


def test_missing_file(refused: Run, folder: Path) -> None:
    assert f"{folder / 'gone.csv'}: no such file" in refused(data(train="gone.csv"))


def test_missing_site(refused: Run, folder: Path) -> None:
    (folder / "site0.csv").write_text(TABLE)
    said = refused(data(train="site{party}.csv"))
    assert "site1.csv: no such file; parties are numbered from 0" in said


def test_sites_are_not_read_before_their_parties_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(cli, "launch", lambda *job: started.append(job) or 0)
    for rank in range(2):
        (folder / f"site{rank}.csv").write_text("this is no table")
    (folder / "c.toml").write_text(data(train="site{party}.csv"))
    arguments = ["train", str(folder / "c.toml"), "--parties", "2", "--out", str(folder / "out")]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    assert started == [(2, ["train", str(folder / "c.toml"), "--out", str(folder / "out")], None)]


def test_missing_label_column(refused: Run) -> None:
    assert "no label column 'ill'" in refused(data(label="ill"))


@pytest.mark.parametrize("cell", ["many", "nan", ""])
def test_cell_that_is_no_number(refused: Run, folder: Path, cell: str) -> None:
    (folder / "x.csv").write_text(TABLE + f"1,{cell},0\n")
    assert "x.csv, row 22, column 'b'" in refused(data())


def test_one_class(refused: Run, folder: Path) -> None:
    (folder / "x.csv").write_text(TABLE.replace(",1\n", ",0\n"))
    assert "1 distinct values; need exactly two" in refused(data())


def test_no_rows(refused: Run, folder: Path) -> None:
    (folder / "x.csv").write_text("a,b,y\n")
    assert "no rows" in refused(data())


def test_more_parties_than_rows(refused: Run) -> None:
    assert "16 training rows for 17 parties" in refused(data(), parties=17)


def test_root_that_is_no_party(refused: Run) -> None:
    assert "root = 2" in refused(data() + "[network]\nroot = 2\n")


def test_bad_configuration(refused: Run) -> None:
    assert "[training] iterations = 0: must be" in refused(data() + "[training]\niterations = 0\n")
    assert "not valid TOML" in refused("[data")


def test_missing_configuration() -> None:
    result = CliRunner().invoke(cli.app, ["train", "gone.toml", "--parties", "2", "--out", "out"])
    assert result.exit_code == 2
    assert "error: gone.toml: no such file" in result.output


def test_number_of_parties_must_be_known(folder: Path) -> None:
    (folder / "c.toml").write_text(data())
    result = CliRunner().invoke(cli.app, ["train", str(folder / "c.toml"), "--out", str(folder / "out")])
    assert result.exit_code == 2
    assert "--parties is missing" in result.output


def test_output_directory_with_something_in_it_is_kept(refused: Run, folder: Path) -> None:
    kept = folder / "out" / "result.json"
    kept.parent.mkdir()
    kept.write_text("precious")
    assert "is not empty" in refused(data())
    assert kept.read_text() == "precious"


def test_output_directory_that_is_a_file(refused: Run, folder: Path) -> None:
    (folder / "out").write_text("precious")
    assert "not a directory" in refused(data(), "--force")
    assert (folder / "out").read_text() == "precious"


def test_force_and_an_empty_directory_are_accepted(folder: Path) -> None:
    launch.check_output(folder, True)
    launch.check_output(folder / "new", False)
    (folder / "empty").mkdir()
    launch.check_output(folder / "empty", False)


def test_no_mpiexec(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.shutil, "which", lambda *_, **__: None)
    (folder / "c.toml").write_text(data())
    arguments = ["train", str(folder / "c.toml"), "--parties", "2", "--out", str(folder / "out")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert "mpiexec found neither" in result.output
    assert "pip install mhe-learn[mpich]" in result.output


def test_missing_hostfile(folder: Path) -> None:
    (folder / "c.toml").write_text(data())
    arguments = ["train", str(folder / "c.toml"), "--parties", "2", "--out", str(folder / "out"), "--hostfile", "gone"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert "--hostfile gone: no such file" in result.output


def test_defects_are_not_hidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "load_config", lambda _: 1 / 0)
    result = CliRunner().invoke(cli.app, ["plan", str(folder / "c.toml")])
    assert isinstance(result.exception, ZeroDivisionError)
