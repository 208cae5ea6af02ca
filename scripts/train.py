"""One party's whole run: agree with the others, plan, make keys, train, release, measure, write the results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mhe.backend.native import NativeBackend
from mhe.ciphertext import Ciphertext
from mhe.clear_party import ClearParty
from mhe.encrypted_party import BackendFactory, EncryptedParty
from mhe.errors import ConfigError, MHEError, NetworkError
from mhe.parameters import Shape
from mhe.party import Party
from models.data import Shard, check_summaries, code, load_shard, pooled, stack, summary
from models.kept_model import Task
from models.model import Model, Plan, model_of
from models.newton_plan import FixedHessianPlan
from models.perceptron import targets_of
from models.prediction import TWO_BUDGETS
from models.quality import Figures, contribution, exact_figures, figures
from models.reference import fit_exact
from models.search import Pinned, pinned
from models.target import Target
from models.training import (
    INVERSE,
    Iteration,
    Standardisation,
    check_rows,
    pack_batches,
    prepare,
    standardisation,
    standardise,
    train,
)
from models.twin import train_twin
from network.collective import TreeCollective
from network.mpi import mpi_channel
from scripts.calibration import units
from scripts.config import Config, check_same
from scripts.describe import describe
from scripts.forecast import Forecast, keeps_diagonals
from scripts.keep import Keeping, keep
from scripts.launch import check_output
from scripts.planning import goal_of, make_plan
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


def read_summaries(config: Config, n_parties: int) -> tuple[list[dict[str, Any]], Target]:
    """What is public of the tables that are here, and what their labels are."""
    source = config.source
    ranks = range(n_parties)
    shards = pooled(source, n_parties) if source.is_common else [load_shard(source, rank, n_parties) for rank in ranks]
    summaries = [summary(shard, source.target) for shard in shards]
    return summaries, check_summaries(summaries, source.target)


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
    circuit = agree_on_plan(config, collective, summaries, target.outputs)
    collective.bind(circuit.parameters.digest)
    if collective.is_root:
        describe(Forecast(circuit, collective.tree, units()), config, console)
    model = model_of(circuit)
    recorder = _Recorder(collective, Reporter(console, circuit.workload.iterations))

    start = time.perf_counter()
    with recorder.reporter.phase("keys and standardisation"):
        party = join(config, collective, circuit)
        standard = _standardise(config, party, shard, sum(circuit.workload.rows))
        rows = together(collective, lambda: _checked_rows(config, standard, shard))
        party.make_keys(circuit.key_plan)
        rank = collective.rank
        targets = targets_of(shard.labels, target.outputs)
        batches = pack_batches(model, rows, targets, config.training.seed, rank, keeps_diagonals(circuit, rank))
    prepared = time.perf_counter()
    inverse = _prepared(party, model, batches, recorder.reporter)
    trained = time.perf_counter()
    with recorder.reporter.training():
        encrypted = train(party, model, batches, recorder.iteration, inverse)
    released = time.perf_counter()
    with recorder.reporter.phase("release"), collective.phase("release"):
        weights, scores, found = _release(party, model, target, encrypted, standard, shard)
        if keeping is not None and isinstance(party, EncryptedParty):
            mean, scale = (tuple(map(float, column)) for column in (standard.mean, standard.scale))
            task = Task(config.model.kind, shard.columns, target.values, mean, scale)
            keep(party, model, encrypted, task, keeping, out)
            if keeping.passphrase is None:
                console.print("[yellow]warning: the parties' shares are stored without a passphrase[/yellow]")
    done = time.perf_counter()
    party.close()

    seconds = {
        "setup": prepared - start,
        **({INVERSE: trained - prepared} if isinstance(circuit, FixedHessianPlan) else {}),
        "training": released - trained,
        "per_iteration": (released - trained) / circuit.workload.iterations,
        "release": done - released,
    }
    clear = _clear_models(config, collective, circuit, shard, target, console.print)
    usages = [
        Usage(**json.loads(blob))
        for blob in collective.allgather(json.dumps(usage(collective, recorder.whole_iteration())).encode())
    ]
    outcome = Outcome(config, circuit, target, summaries, seconds, usages, weights, found, clear)
    if config.release.what == "predictions" and scores is not None:
        write_predictions(out, rank, target, scores)
    if collective.is_root:
        out.mkdir(parents=True, exist_ok=True)
        write_result(out, outcome)
        (out / "metrics.jsonl").write_text("".join(recorder.lines), encoding="utf-8")
        if weights is not None:
            write_model(out, weights, standard)
        print_table(console, outcome, out)
    return outcome


def _prepared(party: Party, model: Model, batches: Sequence[Any], reporter: Reporter) -> list[Ciphertext]:
    """What the training needs before its first iteration, announced where it takes time."""
    with reporter.phase(INVERSE) if isinstance(model.plan, FixedHessianPlan) else nullcontext():
        return prepare(party, model, batches)


def join(config: Config, collective: TreeCollective, circuit: Plan) -> Party:
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
        evaluator(config.crypto.backend, config.crypto.threads),
        statistical_bits=bits,
        releases=circuit.releases,
    )


def evaluator(backend: str, threads: int) -> BackendFactory:
    """What makes the evaluator of this name. OpenFHE is imported only where it is used."""
    if backend == "native":
        return partial(NativeBackend, threads=threads)
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


def agree_on_plan(
    config: Config, collective: TreeCollective, summaries: Sequence[Mapping[str, Any]], outputs: int
) -> Plan:
    """The root searches, with what operations cost on its machine; the others make the plan of what it found, and
    check that it keeps every constraint.
    """

    def search() -> Plan | None:
        goal = goal_of(config, collective.n_parties, units())
        return make_plan(config, summaries, outputs, judge=goal) if collective.is_root else None

    found = together(collective, search)
    blob = b"" if found is None else json.dumps(asdict(pinned(found))).encode()
    told = json.loads(collective.allgather(blob)[collective.tree.root])
    same = Pinned(Shape(**told["shape"]), told["baby"])
    return together(collective, lambda: found or make_plan(config, summaries, outputs, pinned=same))


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

    def __post_init__(self) -> None:
        self.lines: list[str] = []
        self._snapshots: list[Mapping[str, float]] = [{"bytes_sent": 0, "bytes_received": 0, "rounds": 0}]
        self._cpu: list[float] = []

    def iteration(self, iteration: Iteration) -> None:
        snapshot = self.collective.metrics.snapshot()["iteration"]
        self.lines.append(iteration_line(iteration, self._snapshots[-1], snapshot))
        self._snapshots.append(snapshot)
        self._cpu.append(time.process_time())
        self.reporter.iteration(iteration.number, iteration.seconds)

    def whole_iteration(self) -> Mapping[str, float] | None:
        """Bytes and rounds of one iteration with its refresh, at this party; None if the only one had none.

        And CPU seconds, the mean over all but the first one, which encodes rows, and the last one, which has no
        refresh; of fewer than three there is none.
        """
        if len(self._snapshots) < 3:
            return None
        found = {name: self._snapshots[1][name] for name in ("bytes_sent", "bytes_received", "rounds")}
        if len(self._cpu) > 2:
            found["cpu_seconds"] = round((self._cpu[-2] - self._cpu[0]) / (len(self._cpu) - 2), 4)
        return found


def _release(
    party: Party,
    model: Model,
    target: Target,
    encrypted: Sequence[Ciphertext] | None,
    standard: Standardisation,
    shard: Shard,
) -> tuple[list[Floats] | None, Floats | None, Figures | None]:
    """(the weights if they are released, this party's test outputs and the quality on all test rows if anything is)."""
    what = model.plan.workload.release
    if what in ("nothing", "encrypted"):
        return None, None, None
    weights, test = None, standard(shard.test_features)
    if what == "model":
        weights = model.release(party, encrypted)
        scores = model.plan.network.outputs_of(weights, test)
    else:
        scores = model.predict(party, encrypted, test)
    own = contribution(target.kind, scores, shard.test_labels, model.plan.parameters.ring_dim)
    return weights, scores, figures(target.kind, party.encrypted_sum(own))


def _clear_models(
    config: Config,
    collective: TreeCollective,
    circuit: Plan,
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
    rows = [(standard(s.features), targets_of(s.labels, target.outputs)) for s in shards]
    twin, widest = train_twin(circuit, rows, config.training.seed)
    model = config.model
    exact = fit_exact(model.kind, standard(whole.features), whole.labels, model.l2, model.hidden)
    test, labels = standard(whole.test_features), whole.test_labels
    twin_figures = exact_figures(target.kind, circuit.network.outputs_of(twin, test), labels)
    return Clear(twin, twin_figures, exact_figures(target.kind, exact(test), labels), widest)


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
