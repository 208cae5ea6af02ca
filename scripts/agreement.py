"""What the parties settle among themselves before a training: settings, tables, columns; and one's problems for all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mhe.errors import MHEError, NetworkError
from mhe.parameters import Shape
from mhe.party import Party
from models.choice import Pinned, pinned
from models.data import Shard, check_summaries, code, load_shard, summary
from models.model import Plan
from models.refresh_points import RefreshPoints
from models.target import Target
from models.training import Standardisation, check_rows, standardisation, standardise
from network.collective import TreeCollective
from scripts.calibration import units
from scripts.config import Config, check_same
from scripts.forecast import Forecast
from scripts.planning import goal_of, make_plan

Floats = npt.NDArray[np.float64]
Result = TypeVar("Result")


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


def agree_on_settings(config: Config, collective: TreeCollective) -> None:
    """Over a tree that no setting shapes: with different ones, parties would wait for each other for ever."""
    canonicals = [blob.decode() for blob in collective.allgather(config.canonical.encode())]
    together(collective, lambda: check_same(canonicals))
    together(collective, lambda: config.check_parties(collective.n_parties))


def agree_on_data(config: Config, collective: TreeCollective) -> tuple[Shard, Target, list[dict[str, Any]]]:
    """This party's shard, the target, and all parties' summaries; everything that can be wrong with their tables before
    a key is made, settled among all of them.
    """
    shard = together(collective, lambda: load_shard(config.source, collective.rank, collective.n_parties))
    kind = config.source.target
    summaries = [json.loads(blob) for blob in collective.allgather(json.dumps(summary(shard, kind)).encode())]
    target = together(collective, lambda: check_summaries(summaries, kind))
    return together(collective, lambda: code(shard, target)), target, summaries


def agree_on_plan(
    config: Config, collective: TreeCollective, summaries: Sequence[Mapping[str, Any]], outputs: int
) -> Forecast:
    """The root searches, with what operations cost on its machine; the others make the plan of what it found, and
    check that it keeps every constraint. From then on all messages travel over the tree that was found with it.

    The forecast of that plan is by what operations cost on this party's machine.
    """
    goal = goal_of(config, collective.n_parties, units())

    def search() -> Forecast | None:
        return goal.forecast(make_plan(config, summaries, outputs, goal=goal)) if collective.is_root else None

    found = together(collective, search)
    blob = b"" if found is None else json.dumps([asdict(pinned(found.plan)), found.tree.arity]).encode()
    told, arity = json.loads(collective.allgather(blob)[collective.tree.root])
    same = Pinned(**{**told, "shape": Shape(**told["shape"]), "points": RefreshPoints(**told["points"])})

    def made() -> Plan:
        return make_plan(config, summaries, outputs, goal=goal, pinned=same) if found is None else found.plan

    plan = together(collective, lambda: collective.once("plan", made))
    collective.rearrange(arity)
    return found or goal.over(collective.tree).forecast(plan)


@dataclass(frozen=True)
class Scales:
    """How features (rows, columns) and targets (rows, outputs) are standardised."""

    features: Standardisation
    target: Standardisation


def standardise_columns(config: Config, party: Party, shard: Shard, total_rows: int) -> Scales:
    """Over all parties' rows, under encryption, the label with the features where the model asks for it; as they are if
    the configuration leaves them so.
    """
    n, labelled = shard.n_features, config.model.standardises_target
    if not config.data.standardize:
        return Scales(Standardisation.none(n), Standardisation.none(1))
    with party.collective.phase("standardisation"):
        columns = np.column_stack([shard.features, shard.labels]) if labelled else shard.features
        found = standardise(party, columns, total_rows)
    return Scales(found.part(slice(n)), found.part(slice(n, n + 1)) if labelled else Standardisation.none(1))


def scales_in_clear(config: Config, shard: Shard) -> Scales:
    """The same of rows in one place."""
    n = shard.n_features
    if not config.data.standardize:
        return Scales(Standardisation.none(n), Standardisation.none(1))
    features = standardisation(shard.features.mean(axis=0), shard.features.var(axis=0))
    if not config.model.standardises_target:
        return Scales(features, Standardisation.none(1))
    return Scales(features, standardisation(shard.labels.mean(keepdims=True), shard.labels.var(keepdims=True)))


def checked_rows(config: Config, standard: Standardisation, shard: Shard) -> Floats:
    """The standardised training rows; neither they nor the test rows are larger than the plan allows."""
    rows = standard(shard.features)
    allowed = config.data.mean_square
    check_rows(rows, "training", standardised=config.data.standardize, mean_square=allowed)
    check_rows(standard(shard.test_features), "test", standardised=True, mean_square=allowed)
    return rows
