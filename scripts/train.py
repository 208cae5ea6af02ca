"""One party's whole run: agree with the others, plan, make keys, train, release, measure, write the results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mhe.backend.native import NativeBackend
from mhe.clear_party import ClearParty
from mhe.encrypted_party import BackendFactory, EncryptedParty
from mhe.errors import ConfigError, MHEError, NetworkError
from mhe.party import Party
from models.data import Shard, check_summaries, code, load_shard, pooled, stack, summary
from models.kept_model import Task
from models.metrics import DEFAULT_BINS, Quality, quality, quality_from_counts, score_counts
from models.plan import CircuitPlan
from models.prediction import TWO_BUDGETS
from models.reference import LinearModel, fit_exact
from models.target import Target
from models.training import (
    Iteration,
    Standardisation,
    check_rows,
    pack_batches,
    release_model,
    release_predictions,
    standardisation,
    standardise,
    train,
)
from models.twin import train_twin
from network.collective import TreeCollective
from network.mpi import mpi_channel
from scripts.config import Config, check_same
from scripts.keep import Keeping, keep
from scripts.launch import check_output
from scripts.planning import describe, keeps_diagonals, make_plan
from scripts.progress import Reporter, make_console
from scripts.results import (
    Clear,
    Outcome,
    Usage,
    iteration_line,
    print_table,
    usage,
    write_model,
    write_predictions,
    write_result,
)

Floats = npt.NDArray[np.float64]
Result = TypeVar("Result")


def plan(config: Config, n_parties: int) -> None:
    """Print the plan of a run of this many parties; reads the tables that are here, generates no key."""
    source = config.source
    ranks = range(n_parties)
    shards = pooled(source, n_parties) if source.is_common else [load_shard(source, rank, n_parties) for rank in ranks]
    summaries = [summary(shard, source.target) for shard in shards]
    check_summaries(summaries, source.target)
    describe(make_plan(config, summaries), config, make_console(quiet=False))


def run(config: Config, out: Path, force: bool, keeping: Keeping | None = None) -> None:
    """Run the party that this MPI process is. keeping: for a model that stays encrypted."""
    with mpi_channel() as channel:
        _agree_on_settings(config, TreeCollective(channel))
        collective = TreeCollective(channel, arity=config.network.arity, root=config.network.root)
        run_party(config, collective, out, force, keeping)


def run_party(
    config: Config, collective: TreeCollective, out: Path, force: bool, keeping: Keeping | None = None
) -> Outcome:
    """One party's run over any collective; the root writes the files. Returns what the party learned.

    All parties have the same configuration.
    """
    console = make_console(quiet=not collective.is_root)
    together(collective, lambda: _check_keeping(config, collective, keeping))
    shard, target, summaries = _agree_on_data(config, collective, out, force)
    circuit = together(collective, lambda: make_plan(config, summaries))
    collective.bind(circuit.parameters.digest)
    describe(circuit, config, console)
    recorder = _Recorder(collective, Reporter(console, circuit.workload.iterations), circuit)

    start = time.perf_counter()
    with recorder.reporter.phase("keys and standardisation"):
        party = join(config, collective, circuit)
        standard = _standardise(config, party, shard, sum(circuit.workload.rows))
        rows = together(collective, lambda: _checked_rows(config, standard, shard))
        party.make_keys(circuit.key_plan)
        rank = collective.rank
        batches = pack_batches(circuit, rows, shard.labels, config.training.seed, rank, keeps_diagonals(circuit, rank))
    trained = time.perf_counter()
    with recorder.reporter.training():
        weights = train(party, circuit, batches, recorder.iteration)
    released = time.perf_counter()
    with recorder.reporter.phase("release"), collective.phase("release"):
        model, scores, found = _release(config, party, circuit, weights, standard, shard)
        if keeping is not None and isinstance(party, EncryptedParty):
            mean, scale = (tuple(map(float, column)) for column in (standard.mean, standard.scale))
            task = Task(config.model.kind, shard.columns, target.values, mean, scale)
            keep(collective, party, circuit, weights, task, keeping, out)
            if keeping.passphrase is None:
                console.print("[yellow]warning: the parties' shares are stored without a passphrase[/yellow]")
    done = time.perf_counter()
    party.close()

    seconds = {
        "setup": trained - start,
        "training": released - trained,
        "per_iteration": (released - trained) / circuit.workload.iterations,
        "release": done - released,
    }
    clear = _clear_models(config, collective, circuit, shard, target, console.print)
    usages = [
        Usage(**json.loads(blob))
        for blob in collective.allgather(json.dumps(usage(collective, recorder.whole_iteration())).encode())
    ]
    outcome = Outcome(config, circuit, summaries, seconds, usages, model, found, clear)
    if config.release.what == "predictions" and scores is not None:
        write_predictions(out, rank, scores)
    if collective.is_root:
        out.mkdir(parents=True, exist_ok=True)
        write_result(out, outcome)
        (out / "metrics.jsonl").write_text("".join(recorder.lines), encoding="utf-8")
        if model is not None:
            write_model(out, model, standard)
        print_table(console, outcome, out)
    return outcome


def join(config: Config, collective: TreeCollective, circuit: CircuitPlan) -> Party:
    """This party's end of the scheme, with a fresh secret share where there is something to keep secret."""
    workload = circuit.workload
    if config.crypto.backend == "clear":
        return ClearParty(
            collective, circuit.parameters, statistical_bits=workload.release_bits, releases=circuit.releases
        )
    bits = workload.release_bits + (TWO_BUDGETS if workload.release == "encrypted" else 0)
    return EncryptedParty(
        collective,
        circuit.parameters,
        evaluator(config.crypto.backend),
        statistical_bits=bits,
        releases=circuit.releases,
    )


def evaluator(backend: str) -> BackendFactory:
    """What makes the evaluator of this name. OpenFHE is imported only where it is used."""
    if backend == "native":
        return NativeBackend
    from mhe.backend.openfhe import OpenFHEBackend

    return OpenFHEBackend


def together(collective: TreeCollective, work: Callable[[], Result]) -> Result:
    """Do something that may fail at some parties only. If it fails anywhere the root raises it, once for all.

    The others then wait for the root to end the job, so that its message is the one that is seen.
    """
    problem, result = b"", None
    try:
        result = work()
    except MHEError as error:
        problem = json.dumps([type(error).__name__, str(error)]).encode()
    problems = {rank: json.loads(blob) for rank, blob in enumerate(collective.allgather(problem)) if blob}
    if problems:
        if not collective.is_root:
            collective.allgather(b"")
            raise NetworkError("another party reported a problem")
        by_message: dict[tuple[str, str], list[int]] = {}
        for rank, (kind, message) in problems.items():
            by_message.setdefault((kind, message), []).append(rank)
        everyone = collective.n_parties
        said = [
            m if len(ranks) == everyone else f"party {', '.join(map(str, ranks))}: {m}"
            for (_, m), ranks in by_message.items()
        ]
        kinds = {kind.__name__: kind for kind in MHEError.__subclasses__()}
        raise kinds.get(next(iter(by_message))[0], MHEError)("\n".join(said))
    return result  # type: ignore[return-value]


def _check_keeping(config: Config, collective: TreeCollective, keeping: Keeping | None) -> None:
    if (keeping is None) == (config.release.what == "encrypted"):
        raise ConfigError('a folder for the states is needed where [release] what = "encrypted", and only there')
    if keeping is not None:
        keeping.check_free(collective.rank)


def _agree_on_settings(config: Config, collective: TreeCollective) -> None:
    """Over a tree that no setting shapes: with different ones, parties would wait for each other for ever."""
    canonicals = [blob.decode() for blob in collective.allgather(config.canonical.encode())]
    together(collective, lambda: check_same(canonicals))
    together(collective, lambda: config.check_parties(collective.n_parties))


def _agree_on_data(
    config: Config, collective: TreeCollective, out: Path, force: bool
) -> tuple[Shard, Target, list[dict[str, Any]]]:
    """Everything that can be wrong before a key is made, settled among all parties."""

    def load() -> Shard:
        if collective.is_root:
            check_output(out, force)
        return load_shard(config.source, collective.rank, collective.n_parties)

    shard = together(collective, load)
    kind = config.source.target
    summaries = [json.loads(blob) for blob in collective.allgather(json.dumps(summary(shard, kind)).encode())]
    target = together(collective, lambda: check_summaries(summaries, kind))
    return together(collective, lambda: code(shard, target)), target, summaries


def _standardise(config: Config, party: Party, shard: Shard, total_rows: int) -> Standardisation:
    if not config.data.standardize:
        return Standardisation(np.zeros(shard.n_features), np.ones(shard.n_features))
    with party.collective.phase("standardisation"):
        return standardise(party, shard.features, total_rows)


def _checked_rows(config: Config, standard: Standardisation, shard: Shard) -> Floats:
    """The standardised training rows; neither they nor the test rows are larger than the plan allows."""
    rows = standard(shard.features)
    check_rows(rows, "training", standardised=config.data.standardize)
    check_rows(standard(shard.test_features), "test", standardised=True)
    return rows


@dataclass
class _Recorder:
    """Iterations as they happen: progress at the root, one line each for metrics.jsonl, traffic of a whole one."""

    collective: TreeCollective
    reporter: Reporter
    circuit: CircuitPlan

    def __post_init__(self) -> None:
        self.lines: list[str] = []
        self._snapshots: list[Mapping[str, float]] = [{"bytes_sent": 0, "bytes_received": 0, "rounds": 0}]

    def iteration(self, iteration: Iteration) -> None:
        snapshot = self.collective.metrics.snapshot()["iteration"]
        self.lines.append(iteration_line(iteration, self._snapshots[-1], snapshot))
        self._snapshots.append(snapshot)
        self.reporter.iteration(iteration.number, iteration.seconds)

    def whole_iteration(self) -> Mapping[str, float] | None:
        """Bytes and rounds of one iteration with its refresh, at this party; None if the only one had none."""
        if len(self._snapshots) < 3:
            return None
        return {name: self._snapshots[1][name] for name in ("bytes_sent", "bytes_received", "rounds")}


def _release(
    config: Config,
    party: Party,
    circuit: CircuitPlan,
    weights: Any,
    standard: Standardisation,
    shard: Shard,
) -> tuple[LinearModel | None, Floats | None, Quality | None]:
    """(the model if it is released, this party's test logits and the quality on all test rows if anything is)."""
    model: LinearModel | None = None
    if config.release.what in ("nothing", "encrypted"):
        return None, None, None
    test = standard(shard.test_features)
    if config.release.what == "model":
        slots = release_model(party, circuit, weights)
        model = LinearModel(slots[:-1], float(slots[-1]))
        scores = model.scores(test)
    else:
        scores = release_predictions(party, circuit, weights, test)
    n_bins = min(DEFAULT_BINS, circuit.parameters.ring_dim // 2)
    counts = score_counts(scores, shard.test_labels, n_bins).astype(np.float64)
    return model, scores, quality_from_counts(np.rint(party.encrypted_sum(counts)).astype(np.int64))


def _clear_models(
    config: Config,
    collective: TreeCollective,
    circuit: CircuitPlan,
    shard: Shard,
    target: Target,
    say: Callable[[str], None],
) -> Clear | None:
    """The clear twin and the exact reference at the root, where everybody's rows may come to one place."""
    if not config.clear_twin:
        return None
    if config.source.is_common:
        shards = [code(s, target) for s in pooled(config.source, collective.n_parties)] if collective.is_root else []
    else:
        say(
            "[bold red]AUDIT: clear_twin = true: every party now sends all its rows IN THE CLEAR to the others. "
            "Nothing about them is private any more.[/bold red]"
        )
        shards = [_from_json(blob) for blob in collective.allgather(_to_json(shard))]
    if not collective.is_root:
        return None
    whole = stack(shards)
    standard = Standardisation(np.zeros(whole.n_features), np.ones(whole.n_features))
    if config.data.standardize:
        standard = standardisation(whole.features.mean(axis=0), whole.features.var(axis=0))
    twin, widest = train_twin(circuit, [(standard(s.features), s.labels) for s in shards], config.training.seed)
    exact = fit_exact(standard(whole.features), whole.labels, config.model.l2)
    test = standard(whole.test_features)
    clear_twin = LinearModel(twin[:-1], float(twin[-1]))
    return Clear(
        clear_twin,
        quality(clear_twin.scores(test), whole.test_labels),
        quality(exact.scores(test), whole.test_labels),
        widest,
    )


def _to_json(shard: Shard) -> bytes:
    arrays = (shard.features, shard.labels, shard.test_features, shard.test_labels)
    return json.dumps([list(shard.columns), *(a.tolist() for a in arrays)]).encode()


def _from_json(blob: bytes) -> Shard:
    columns, features, labels, test_features, test_labels = json.loads(blob)
    width = len(columns)
    return Shard(
        np.array(features, dtype=np.float64).reshape(-1, width),
        np.array(labels, dtype=np.float64),
        tuple(columns),
        np.array(test_features, dtype=np.float64).reshape(-1, width),
        np.array(test_labels, dtype=np.float64),
    )
