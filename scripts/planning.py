"""From a configuration and the parties' public row counts to a plan, or the best few."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.errors import ParameterError
from mhe.moduli import generate_moduli as generate_own_moduli
from models.activations import (
    Polynomial,
    approximate,
    exponential,
    identity,
    quadratic_softmax,
    sigmoid,
    softmax,
    softmax_of_one,
    softplus,
    square,
    tanh,
)
from models.choice import Choice, Judge, MakeModuli, Pinned
from models.cost import UnitCosts
from models.local_search import choose_local_plans
from models.mlp_search import choose_perceptron_plans
from models.model import Plan
from models.newton_search import choose_newton_plans
from models.range_probe import range_probe
from models.refresh_points import RefreshPoints
from models.search import choose_plans
from models.workload import Workload
from network.link import Link
from network.topology import Tree, sensible_arities
from scripts.config import Config
from scripts.goal import Goal
from scripts.sections import ModelConfig

Floats = npt.NDArray[np.float64]


def make_plan(
    config: Config,
    summaries: Sequence[Mapping[str, Any]],
    outputs: int,
    *,
    goal: Goal | None = None,
    pinned: Pinned | None = None,
) -> Plan:
    """The plan for parties with these summaries (models.data.summary) and a model of so many outputs.

    goal: what a plan costs, by default the root's operations. pinned: what another party found, to be made again here.
    Raises ParameterError if there is none.
    """
    choice = replace(choice_of(config), pinned=pinned)
    plan = best_plans(workload_of(config, summaries, outputs), choice, config, 1, goal)[0]
    range_probe(plan)  # which may not be possible
    return plan


def best_plans(
    workload: Workload, choice: Choice, config: Config, count: int, goal: Goal | None = None
) -> Sequence[Plan]:
    """The best plans, on up to `count` different chains. Raises ParameterError, naming what binds, if there is none.

    goal: what a plan costs and may take, in place of `choice.judge`.
    """
    if goal is None:
        return _chosen(workload, choice, config, count)
    judge: Judge = goal if choice.pinned is None else goal.allowance
    bounds = goal.bounds if choice.pinned is None else ()
    try:
        return _chosen(workload, replace(choice, judge=judge, bounds=bounds), config, count)
    except ParameterError:
        if goal.memory_limit is None:
            raise
    # raises what binds if it is not the memory
    smallest = replace(goal, objective="memory", memory_limit=None)
    plan = _chosen(workload, replace(choice, judge=smallest), config, 1)[0]
    # rounded up, so that what is said is enough
    least = math.ceil(smallest.forecast(plan).most_memory_bytes / 2**20)
    p, keys = plan.parameters, len(plan.held_keys.limbs(is_root=True))
    raise ParameterError(
        f"[crypto] memory_limit = {shown_bytes(goal.memory_limit)}: a party needs at least {least} MiB "
        f"(ring_dim {p.ring_dim}, scale 2^{p.scale_bits}, {keys} evaluation keys of together "
        f"{shown_bytes(plan.key_bytes())}); allow as much, or lower [crypto] statistical_bits, [release] "
        "statistical_bits or its precision, or train on smaller batches"
    )


def shown_bytes(n_bytes: float) -> str:
    """In MiB."""
    return f"{n_bytes / 2**20:.1f} MiB" if n_bytes < 100 << 20 else f"{n_bytes / 2**20:.0f} MiB"


def _chosen(workload: Workload, choice: Choice, config: Config, count: int) -> Sequence[Plan]:
    choose: Callable[..., Sequence[Plan]] = choose_plans
    if workload.outputs > 1 or workload.hidden:
        choose = choose_perceptron_plans
    if workload.condition is not None:
        choose = choose_newton_plans
    if workload.local_iterations is not None:
        choose = choose_local_plans
    return choose(workload, choice, moduli_maker(config.crypto.backend), free=_free(config), count=count)


def workload_of(config: Config, summaries: Sequence[Mapping[str, Any]], outputs: int) -> Workload:
    """What is to be trained, of parties with these summaries."""
    model, training, crypto = config.model, config.training, config.crypto
    return Workload(
        rows=tuple(s["rows"] for s in summaries),
        features=len(summaries[0]["columns"]),
        iterations=training.iterations,
        learning_rate=training.rate_used,
        momentum=training.momentum_used,
        l2=model.l2,
        batch=None if training.batch == "full" else training.batch,
        link=link_of(model, outputs),
        message_bound=crypto.message_bound,
        release_bits=config.release.statistical_bits,
        precision=config.release.precision,
        release=config.release.what,
        standardises=config.data.standardize,
        test_rows=tuple(s["test_rows"] for s in summaries),
        outputs=outputs,
        hidden=model.hidden,
        activation=activation_of(model) if model.hidden else None,
        seed=training.seed,
        condition=training.condition if training.solver == "newton" else None,
        answers=config.release.answers,
        mean_square=config.data.mean_square,
        range_every=config.audit.range_every,
        schedule=training.schedule,
        schedule_decay=training.decay,
        coupled=model.coupling == "quadratic",
        local_iterations=training.local_iterations if training.solver == "local" else None,
    )


def choice_of(config: Config) -> Choice:
    """The constraints and wishes of [crypto]."""
    crypto = config.crypto
    return Choice(
        crypto.security_bits,
        crypto.statistical_bits,
        crypto.ring_dim,
        crypto.first_bits,
        crypto.scale_bits,
        crypto.digits,
        crypto.limbs,
        None if crypto.refresh is None else RefreshPoints.named(crypto.refresh),
    )


def goal_of(config: Config, n_parties: int, units: UnitCosts, link: Link | None = None) -> Goal:
    """What [crypto] objective asks for within its memory_limit, over the tree of [network], or the trees that suit.

    link: in place of that of [network].
    """
    network, crypto = config.network, config.crypto
    arities = sensible_arities(n_parties) if network.arity == "auto" else (network.arity,)
    return Goal(
        crypto.objective,
        tuple(Tree(n_parties, arity, network.root) for arity in arities),
        units,
        link or (None if network.link is None else Link.parse(network.link)),
        memory_limit=crypto.memory_limit,
    )


def _free(config: Config) -> bool:
    """Whether the evaluator takes any primes."""
    return config.crypto.backend != "openfhe"


def link_of(model: ModelConfig, outputs: int) -> Polynomial:
    """The polynomial that makes means of outputs."""
    if model.coupling == "quadratic":
        return quadratic_softmax(outputs, model.interval)
    function = exact_link(model, outputs)
    return identity() if function is None else approximate(function, model.degree, model.interval, model.method)


def exact_link(model: ModelConfig, outputs: int) -> Callable[[Floats], Floats] | None:
    """What makes means of outputs; None where they are means."""
    if model.kind == "linear" or (model.kind == "mlp" and model.loss in ("auto", "squared")):
        return None
    if model.coupling == "quadratic":
        return softmax
    return {"logistic": sigmoid, "poisson": exponential}.get(model.kind, softmax_of_one(outputs))


def activation_of(model: ModelConfig) -> Polynomial:
    """The polynomial behind a hidden layer."""
    if model.activation == "square":
        return square(model.interval)
    function = {"sigmoid": sigmoid, "softplus": softplus, "tanh": tanh}[model.activation]
    return approximate(function, model.degree, model.interval, model.method)


def moduli_maker(backend: str) -> MakeModuli:
    """How this backend picks its primes. OpenFHE is imported only where it is used."""
    if backend != "openfhe":
        return generate_own_moduli
    from mhe.backend.openfhe import generate_moduli

    return generate_moduli
