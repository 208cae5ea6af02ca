"""One party's whole run: agree with the others, plan, make keys, train, release, measure, write the results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.markup import escape

from mhe.backend.native import NativeBackend
from mhe.ciphertext import Ciphertext
from mhe.clear_party import ClearParty
from mhe.encrypted_party import BackendFactory, EncryptedParty
from mhe.errors import ConfigError, RangeError
from mhe.party import Party
from models.data import Shard, check_summaries, code, load_shard, pooled, stack, summary
from models.kept_model import Task
from models.model import Model, Plan, model_of
from models.newton_plan import FixedHessianPlan
from models.perceptron import targets_of
from models.quality import Figures, contribution, exact_figures, figures
from models.range_probe import InputRange
from models.reference import fit_exact
from models.target import Target, has_classes
from models.training import (
    INVERSE,
    Iteration,
    pack_batches,
    prepare,
    train,
)
from models.twin import train_twin
from network.collective import TreeCollective
from network.mpi import mpi_channel
from scripts.agreement import (
    Scales,
    agree_on_data,
    agree_on_plan,
    agree_on_settings,
    checked_rows,
    scales_in_clear,
    standardise_columns,
    together,
)
from scripts.config import Config
from scripts.describe import describe
from scripts.keep import Keeping, keep
from scripts.launch import check_output
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
        agree_on_settings(config, TreeCollective(channel))
        collective = TreeCollective(channel, arity=config.network.first_arity, root=config.network.root)
        run_party(config, collective, out, force, keeping)


def run_party(
    config: Config, collective: TreeCollective, out: Path, force: bool, keeping: Keeping | None = None
) -> Outcome:
    """One party's run over any collective; the root writes the files. Returns what the party learned.

    All parties have the same configuration.
    """
    console = make_console(quiet=not collective.is_root)
    together(collective, lambda: _check_keeping(config, collective, keeping))
    together(collective, lambda: check_output(out, force) if collective.is_root else None)
    shard, target, summaries = agree_on_data(config, collective)
    forecast = agree_on_plan(config, collective, summaries, target.outputs)
    circuit = forecast.plan
    collective.bind(circuit.parameters.digest)
    if collective.is_root:
        describe(forecast, config, console)
    model = model_of(circuit)
    stops = config.audit.range_action == "stop"
    recorder = _Recorder(collective, Reporter(console, circuit.workload.iterations), stops)

    start = time.perf_counter()
    with recorder.reporter.phase("keys and standardisation"):
        party = join(config, collective, circuit)
        scales = standardise_columns(config, party, shard, sum(circuit.workload.rows))
        standard = scales.features
        rows = together(collective, lambda: checked_rows(config, standard, shard))
        party.make_keys(circuit.key_plan)
        rank = collective.rank
        targets = scales.target(targets_of(shard.labels, target.outputs))
        with collective.phase("packing"):
            keep_encoded = forecast.keeps_diagonals(rank, collective.host.parties)
            batches = pack_batches(model, rows, targets, config.training.seed, rank, keep_encoded)
    prepared = time.perf_counter()
    inverse = _prepared(party, model, batches, recorder.reporter)
    trained = time.perf_counter()
    with recorder.reporter.training():
        encrypted = train(party, model, batches, recorder.iteration, inverse, recorder.range)
    released = time.perf_counter()
    with recorder.reporter.phase("release"), collective.phase("release"):
        weights, scores, found = _release(party, model, target, encrypted, scales, shard)
        if keeping is not None and isinstance(party, EncryptedParty):
            mean, scale = (tuple(map(float, column)) for column in (standard.mean, standard.scale))
            label_mean, label_scale = (float(each.item()) for each in (scales.target.mean, scales.target.scale))
            task = Task(config.model.kind, shard.columns, target.values, mean, scale, label_mean, label_scale)
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
    outcome = Outcome(
        config, circuit, collective.tree, target, summaries, seconds, usages, weights, found, clear, recorder.ranges
    )
    if config.release.what == "predictions" and scores is not None:
        write_predictions(out, rank, target, scores)
    if collective.is_root:
        out.mkdir(parents=True, exist_ok=True)
        write_result(out, outcome)
        (out / "metrics.jsonl").write_text("".join(recorder.lines), encoding="utf-8")
        if weights is not None:
            write_model(out, weights, standard, scales.target if config.model.standardises_target else None)
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
    return EncryptedParty(
        collective,
        circuit.parameters,
        evaluator(config.crypto.backend, config.crypto.threads),
        statistical_bits=circuit.session_bits,
        releases=circuit.releases,
    )


def evaluator(backend: str, threads: int) -> BackendFactory:
    """What makes the evaluator of this name. OpenFHE is imported only where it is used."""
    if backend == "native":
        return partial(NativeBackend, threads=threads)
    from mhe.backend.openfhe import OpenFHEBackend

    return OpenFHEBackend


def _check_keeping(config: Config, collective: TreeCollective, keeping: Keeping | None) -> None:
    if (keeping is None) == (config.release.what == "encrypted"):
        raise ConfigError('a folder for the states is needed where [release] what = "encrypted", and only there')
    if keeping is not None:
        keeping.check_free(collective.rank)


def _check_range(found: InputRange, stops: bool) -> None:
    if found.outside and stops:
        raise RangeError(found.said)


@dataclass
class _Recorder:
    """Iterations as they happen: progress at the root, one line each for metrics.jsonl, traffic of a whole one.

    stops: whether the run ends when inputs may lie outside of the interval of the polynomial.
    """

    collective: TreeCollective
    reporter: Reporter
    stops: bool

    def __post_init__(self) -> None:
        self.lines: list[str] = []
        self.ranges: list[InputRange] = []
        self._snapshots: list[Mapping[str, float]] = [{"bytes_sent": 0, "bytes_received": 0, "rounds": 0}]
        self._cpu: list[float] = []

    def iteration(self, iteration: Iteration) -> None:
        snapshot = self.collective.metrics.snapshot()["iteration"]
        self.lines.append(iteration_line(iteration, self._snapshots[-1], snapshot))
        self._snapshots.append(snapshot)
        self._cpu.append(time.process_time())
        self.reporter.iteration(iteration.number, iteration.seconds)

    def range(self, found: InputRange) -> None:
        """What a probe told. Raises RangeError, once for all parties, if the run is to stop for it."""
        self.ranges.append(found)
        if found.outside and not self.stops:
            self.reporter.console.print(f"[yellow]warning: {escape(found.said)}[/yellow]")
        together(self.collective, partial(_check_range, found, self.stops))

    def whole_iteration(self) -> Mapping[str, float] | None:
        """Bytes and rounds of one iteration with its refresh, at this party; None if the only one had none.

        And CPU seconds, the median over all but the first one, which may be in the clear, and the last one, which has
        no refresh; of fewer than three there is none. The second one may encode rows, and loads compiled loops.
        """
        if len(self._snapshots) < 3:
            return None
        found = {name: self._snapshots[1][name] for name in ("bytes_sent", "bytes_received", "rounds")}
        if len(self._cpu) > 2:
            found["cpu_seconds"] = round(median(b - a for a, b in pairwise(self._cpu[:-1])), 4)
        return found


def _release(
    party: Party,
    model: Model,
    target: Target,
    encrypted: Sequence[Ciphertext] | None,
    scales: Scales,
    shard: Shard,
) -> tuple[list[Floats] | None, Floats | None, Figures | None]:
    """(the weights if they are released, this party's test outputs and the quality on all test rows if anything is)."""
    what = model.plan.workload.release
    if what in ("nothing", "encrypted"):
        return None, None, None
    weights, test = None, scales.features(shard.test_features)
    if what == "model":
        weights = model.release(party, encrypted)
        scores = model.plan.network.outputs_of(weights, test)
    else:
        scores = model.predict(party, encrypted, test)
    scores = scales.target.undone(scores)
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
    scales = scales_in_clear(config, whole)
    standard, undone = scales.features, scales.target.undone
    rows = [(standard(s.features), scales.target(targets_of(s.labels, target.outputs))) for s in shards]
    twin, widest = train_twin(circuit, rows, config.training.seed)
    model, kind = config.model, target.kind
    labels = scales.target(whole.labels)
    exact = fit_exact(model.kind, standard(whole.features), labels, model.l2, model.hidden, has_classes(kind))
    test, labels = standard(whole.test_features), whole.test_labels
    twin_figures = exact_figures(kind, undone(circuit.network.outputs_of(twin, test)), labels)
    return Clear(twin, twin_figures, exact_figures(kind, undone(exact(test)), labels), widest)


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
