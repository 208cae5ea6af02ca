"""The command `mhe`: plan, train, private prediction, fetch, bench, doctor."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from mhe.errors import ConfigError, MHEError
from models.readers.sources import MNIST_FOLDER, MNIST_VARIABLE
from network.link import Link
from network.mpi import MPIChannel, abort, launched_under_mpi
from scripts.config import Config, load_config
from scripts.launch import check_output, check_ready, launch

if TYPE_CHECKING:
    from scripts.keep import Keeping
    from scripts.predict import Job

USAGE_ERROR = 2
"""Exit code for what the caller can put right: a wrong option, configuration or table."""


class Objective(str, Enum):
    """What a plan makes small."""

    TIME = "time"
    TRAFFIC = "traffic"
    MEMORY = "memory"


class Commands(TyperGroup):
    """Says errors that a caller can act upon in their own words, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MHEError as error:
            if launched_under_mpi():
                # Ends the other ranks too, which would otherwise wait for this one.
                abort(f"error: {error}")
            typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
            raise typer.Exit(USAGE_ERROR) from None


app = typer.Typer(
    name="mhe",
    cls=Commands,
    help="Train one model on the rows of many parties, who see neither each other's rows nor the model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

bench = typer.Typer(help="Measure how fast things are here.", no_args_is_help=True)
app.add_typer(bench, name="bench")

fetch = typer.Typer(help="Download public tables that are too large to ship.", no_args_is_help=True)
app.add_typer(fetch, name="fetch")

Hostfile = Annotated[Path | None, typer.Option(help="Machines for the parties, handed to mpiexec.")]
NoPassphrase = Annotated[
    bool, typer.Option("--no-passphrase", help="The parties' shares are stored unprotected, but for the file's mode.")
]
ModelFile = Annotated[Path, typer.Option(help="model.mhe, of a training whose model stays encrypted.")]
KeyFolder = Annotated[Path, typer.Option(help="The querier's key pair, made by `mhe keygen`.")]
RowsFile = Annotated[Path, typer.Option(help="Rows to predict, CSV: the columns of the training, without the label.")]
StateFolder = Annotated[Path, typer.Option(help="Where the parties' states are: --state, or --out, of the training.")]
TableFile = Annotated[Path, typer.Option(help="Answers, as CSV.")]

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file; configs/pima.toml explains every key.")]


@app.command()
def plan(
    config: ConfigFile,
    parties: Annotated[int, typer.Option(min=1, help="Number of parties.")] = 4,
    link: Annotated[
        str | None,
        typer.Option(metavar="RATE/LATENCY", help="Each party on a machine, linked by 1gbps/20ms; else all here."),
    ] = None,
    objective: Annotated[
        Objective | None, typer.Option(help="What to make small, instead of [crypto] objective.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure first what operations cost here, half a minute; it is kept.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write plan, alternatives and costs to this file.")] = None,
) -> None:
    """Show parameters, precision, time, memory and traffic of a run, and what else it could be; generates no key."""
    settings = load_config(config)
    check_ready(settings, parties, all_here=True)
    connection = None if link is None else Link.parse(link)
    from scripts.explain import plan as show

    chosen = None if objective is None else objective.value
    show(settings, parties, link=connection, objective=chosen, measure=calibrate, json_file=json)


@app.command()
def interval(
    config: ConfigFile,
    parties: Annotated[int | None, typer.Option(min=1, help="Number of parties; under mpiexec it is known.")] = None,
    hostfile: Hostfile = None,
) -> None:
    """Propose [model] interval: each party simulates the training on its own rows, in the clear; counts of how far
    inputs reach are summed under encryption, and released.

    One process per party; started by itself or with mpiexec, as `mhe train`.
    """
    settings = load_config(config)
    from scripts.interval import check_kind, run

    check_kind(settings)
    if launched_under_mpi():
        _check_ranks(parties)
        run(settings)
        return
    if parties is None:
        raise ConfigError("--parties is missing: say how many parties there are, or start with mpiexec -n N")
    check_ready(settings, parties, all_here=hostfile is None)
    raise typer.Exit(launch(parties, ["interval", str(config)], hostfile))


@app.command()
def train(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="Directory for result.json, metrics.jsonl and model.npz.")],
    parties: Annotated[int | None, typer.Option(min=1, help="Number of parties; under mpiexec it is known.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an output directory that is not empty.")] = False,
    hostfile: Hostfile = None,
    state: Annotated[
        Path | None, typer.Option(help="Where each party keeps its share, if the model stays encrypted; --out else.")
    ] = None,
    no_passphrase: NoPassphrase = False,
) -> None:
    """Train under a collective key, one process per party.

    Starts mpiexec by itself; `mpiexec -n N mhe train CONFIG --out DIR` does the same.
    """
    settings = load_config(config)
    keeping = None
    if settings.release.what == "encrypted":
        keeping = _keeping(state or out, no_passphrase, new=True)
    if launched_under_mpi():
        _run_party(settings, out, parties, force, keeping)
        return
    if parties is None:
        raise ConfigError("--parties is missing: say how many parties there are, or start with mpiexec -n N")
    check_output(out, force)
    check_ready(settings, parties, all_here=hostfile is None)
    if keeping is not None:
        for rank in range(parties):
            keeping.check_free(rank)
    arguments = ["train", str(config), "--out", str(out), *(["--force"] if force else [])]
    arguments += [] if state is None else ["--state", str(state)]
    arguments += ["--no-passphrase"] if no_passphrase else []
    raise typer.Exit(launch(parties, arguments, hostfile))


@app.command()
def keygen(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Gets private.key, for nobody else, and public.key.")],
    model: ModelFile,
) -> None:
    """Querier: make a key pair for answers of an encrypted model."""
    from scripts.predict import keygen as make

    make(model, folder)


@app.command()
def query(
    model: ModelFile, rows: RowsFile, out: Annotated[Path, typer.Option(help="The encrypted rows, for the parties.")]
) -> None:
    """Querier: encrypt rows for the parties of an encrypted model."""
    from scripts.predict import query as encrypt

    encrypt(model, rows, out)


@app.command()
def answer(
    model: ModelFile,
    query: Annotated[Path, typer.Option(help="What `mhe query` made.")],
    receiver: Annotated[Path, typer.Option(help="The querier's public.key.")],
    state: StateFolder,
    out: Annotated[Path, typer.Option(help="The answers, for the querier alone to open.")],
    parties: Annotated[int | None, typer.Option(min=1, help="Number of parties; under mpiexec it is known.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite --out.")] = False,
    hostfile: Hostfile = None,
    no_passphrase: NoPassphrase = False,
) -> None:
    """Parties: answer a query, one process per party; started by itself or with mpiexec, as `mhe train`."""
    from scripts.predict import Job, check_job
    from scripts.predict import answer as run

    job, keeping = Job(model, query, receiver, out), _keeping(state, no_passphrase)
    if launched_under_mpi():
        _check_ranks(parties)
        run(job, keeping)
        return
    if parties is None:
        raise ConfigError("--parties is missing: say how many parties there are, or start with mpiexec -n N")
    check_job(job, force)
    raise typer.Exit(_answer(job, state, parties, hostfile, no_passphrase))


@app.command("open")
def open_answers(
    model: ModelFile,
    key: KeyFolder,
    answer: Annotated[Path, typer.Option(help="What `mhe answer` made.")],
    out: TableFile,
) -> None:
    """Querier: decrypt answers."""
    from scripts.predict import open_answer

    open_answer(model, key, answer, out)


@app.command()
def predict(
    model: ModelFile,
    rows: Annotated[
        Path, typer.Option(help='Rows to predict, CSV without the label; of each party in "{party}", without --key.')
    ],
    state: StateFolder,
    out: TableFile,
    key: Annotated[Path | None, typer.Option(help="A querier's key pair, for rows that are to be encrypted.")] = None,
    parties: Annotated[int | None, typer.Option(min=1, help="Number of parties; under mpiexec it is known.")] = None,
    hostfile: Hostfile = None,
    no_passphrase: NoPassphrase = False,
) -> None:
    """Parties: predict rows of their own, in the clear; with --key, all of query, answer and open on one machine.

    "{party}" in --rows and --out stands for a party's number; a party without a file has no rows. Without it the rows
    are those of party 0.
    """
    if key is None:
        _predict_own(model, rows, state, out, parties, hostfile, no_passphrase)
        return
    if parties is None:
        raise ConfigError("--parties is missing: say how many parties there are")
    from scripts import predict as private

    private.check_querier(model, key)
    _keeping(state, no_passphrase)
    with TemporaryDirectory() as folder:
        job = private.Job(model, Path(folder) / "query.mhe", key / private.PUBLIC_KEY, Path(folder) / "answer.mhe")
        private.query(model, rows, job.query)
        private.check_job(job, force=False)
        failed = _answer(job, state, parties, None, no_passphrase)
        if failed:
            raise typer.Exit(failed)
        private.open_answer(model, key, job.out, out)


def _predict_own(
    model: Path, rows: Path, state: Path, out: Path, parties: int | None, hostfile: Path | None, no_passphrase: bool
) -> None:
    """Start the parties, or be one of them."""
    from scripts.own_rows import check_names, run

    check_names(rows, out)
    keeping = _keeping(state, no_passphrase)
    if launched_under_mpi():
        _check_ranks(parties)
        run(model, rows, keeping, out)
        return
    if parties is None:
        raise ConfigError("--parties is missing: say how many parties there are, or start with mpiexec -n N")
    files = {"model": model, "rows": rows, "state": state, "out": out}
    arguments = ["predict", *(word for name, path in files.items() for word in (f"--{name}", str(path)))]
    raise typer.Exit(launch(parties, [*arguments, *(["--no-passphrase"] if no_passphrase else [])], hostfile))


def _keeping(state: Path, no_passphrase: bool, new: bool = False) -> Keeping:
    """Where the states are, with the passphrase; ConfigError if none is to be had. new: states are yet to be made."""
    from scripts.keep import Keeping
    from scripts.passphrase import passphrase

    return Keeping(state, passphrase(none=no_passphrase, new=new))


def _answer(job: Job, state: Path, parties: int, hostfile: Path | None, no_passphrase: bool) -> int:
    """Start the parties; the exit code of the job."""
    files = {"model": job.model, "query": job.query, "receiver": job.receiver, "state": state, "out": job.out}
    arguments = ["answer", *(word for name, path in files.items() for word in (f"--{name}", str(path)))]
    return launch(parties, [*arguments, *(["--no-passphrase"] if no_passphrase else [])], hostfile)


@app.command()
def doctor() -> None:
    """Check what this machine has and lacks for a run, and say the remedy for what it lacks."""
    from scripts.doctor import examine

    raise typer.Exit(0 if examine() else 1)


@fetch.command()
def mnist(
    into: Annotated[
        Path, typer.Option(envvar=MNIST_VARIABLE, help="Folder for the files, data/mnist beside the configuration.")
    ] = Path("configs") / MNIST_FOLDER,
) -> None:
    """MNIST's four files (11 MB), verified, for "builtin:mnist"; files that are there and intact are kept."""
    from scripts.fetch import MNIST, MNIST_MIRRORS
    from scripts.fetch import fetch as fetch_files

    fetch_files(MNIST, MNIST_MIRRORS, into, typer.echo)


@bench.command()
def primitives(
    json: Annotated[Path | None, typer.Option(help="Write environment, times and ratios to this file.")] = None,
    runs: Annotated[int, typer.Option(min=3, help="Runs of every operation.")] = 21,
) -> None:
    """Every operation of the native evaluator against OpenFHE's: same ring, same primes, one thread, in turn."""
    from benchmarks.primitives import run

    run(runs, json)


@bench.command()
def iteration(
    json: Annotated[Path | None, typer.Option(help="Write environment, times and parameters to this file.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each backend, in turn.")] = 2,
    iterations: Annotated[int, typer.Option(min=3, help="Iterations of each run.")] = 5,
) -> None:
    """A whole encrypted iteration of 4 parties, 8,192 rows of 64 features each: native against OpenFHE, by mpiexec."""
    from benchmarks.iteration import run

    run(rounds, iterations, json)


@bench.command()
def cohosted(
    config: ConfigFile,
    parties: Annotated[int, typer.Option(min=1, help="Number of parties, all in this process.")],
    at_once: Annotated[int | None, typer.Option(min=1, help="Parties at work at once; as many as cores.")] = None,
    link: Annotated[str, typer.Option(help="Rate and delay of the modelled machines' lines.")] = "1gbps/20ms",
    json: Annotated[Path | None, typer.Option(help="Write environment and figures to this file.")] = None,
) -> None:
    """A training of many parties in one process, each with its own secret and rows: for measuring, protects nobody."""
    from benchmarks.cohosted import main as run

    run(config, parties, at_once or _cores(), link, json)


@bench.command()
def protocols(
    parties: Annotated[list[int] | None, typer.Option(min=2, help="Numbers of parties; 2 to 160 if none.")] = None,
    at_once: Annotated[int | None, typer.Option(min=1, help="Parties at work at once; as many as cores.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write environment and figures to this file.")] = None,
) -> None:
    """Every protocol among many parties, all in this process."""
    from benchmarks.protocols import PARTIES, run

    run(parties or PARTIES, at_once or _cores(), json)


@bench.command()
def scaling(
    json: Annotated[Path, typer.Option(help="File of all points; those of other series in it are kept.")],
    series: Annotated[list[str] | None, typer.Option(help="Which series; all if none.")] = None,
    at_once: Annotated[int | None, typer.Option(min=1, help="Parties at work at once; as many as cores.")] = None,
) -> None:
    """Cost against parties, rows, features, hidden units, batch and threads: a training for each point."""
    from benchmarks.scaling import run

    run(series or (), at_once or _cores(), json)


@bench.command()
def choices(
    json: Annotated[Path | None, typer.Option(help="Write environment, times and parameters to this file.")] = None,
) -> None:
    """What each choice gains, one at a time: packing, evaluator, solver; from the papers' packing on OpenFHE on."""
    from benchmarks.choices import run

    run(json)


def _cores() -> int:
    return os.cpu_count() or 1


def _run_party(config: Config, out: Path, parties: int | None, force: bool, keeping: Keeping | None) -> None:
    """This process is one of the ranks."""
    _check_ranks(parties)
    from scripts.train import run

    run(config, out, force, keeping)


def _check_ranks(parties: int | None) -> None:
    """Raise ConfigError if mpiexec started another number of ranks."""
    if parties is not None:
        channel = MPIChannel()
        n_ranks = channel.n_parties
        channel.close()
        if n_ranks != parties:
            raise ConfigError(f"--parties {parties}, but mpiexec started {n_ranks}: leave --parties away, or agree")


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="mhe")


if __name__ == "__main__":
    main()
