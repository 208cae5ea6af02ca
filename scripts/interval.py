"""`mhe interval`: where the polynomials should hold, from simulations of every party on its own rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mhe.errors import ConfigError
from models.activations import sigmoid, softplus, tanh
from models.interval import BEYOND, ExactFunctions, Reach, histogram, reach_of, simulate
from models.kinds import KINDS
from models.perceptron import targets_of
from network.collective import TreeCollective
from network.mpi import mpi_channel
from scripts.agreement import agree_on_data, agree_on_settings, checked_rows, standardise_columns, together
from scripts.config import Config
from scripts.planning import exact_link, make_plan
from scripts.progress import make_console
from scripts.train import join

Floats = npt.NDArray[np.float64]
Function = Callable[[Floats], Floats]

ACTIVATIONS: Mapping[str, tuple[Function, Function]] = {
    "square": (lambda z: 0.5 * z + 0.125 * z**2, lambda z: 0.5 + 0.25 * z),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * sigmoid(-z)),
    "softplus": (softplus, sigmoid),
    "tanh": (tanh, lambda z: 1 - tanh(z) ** 2),
}
"""The functions of hidden layers, with their derivatives."""

SIGMOID_CURVATURE = 0.25

WIDER_ON_ONE_SIDE = ("poisson",)
"""Kinds whose function grows on one side only; the polynomials of the others are cheaper on symmetric intervals."""


@dataclass(frozen=True)
class Proposal:
    """counts: the released sum of all parties' `models.interval.histogram`."""

    counts: Floats
    reach: Reach


def run(config: Config) -> None:
    """Propose, as the party that this MPI process is; the root prints."""
    with mpi_channel() as channel:
        agree_on_settings(config, TreeCollective(channel))
        collective = TreeCollective(channel, arity=config.network.first_arity, root=config.network.root)
        found = propose(config, collective)
        console = make_console(quiet=not collective.is_root)
        low, high = found.reach.interval
        console.print(
            f"inputs of all rows but {100 * BEYOND:g} % stay in [{found.reach.low:.3g}, {found.reach.high:.3g}] where "
            f"every party trains alone, in the clear\ninterval = [{low:g}, {high:g}]",
            markup=False,
        )
        now = config.model.interval
        if now[0] > found.reach.low or now[1] < found.reach.high:
            console.print(f"warning: the interval of the configuration is [{now[0]:g}, {now[1]:g}]", markup=False)


def propose(config: Config, collective: TreeCollective) -> Proposal:
    """The proposal, the same at every party; nothing but the summed counts, means and variances is opened."""
    shard, target, summaries = agree_on_data(config, collective)
    circuit = together(collective, lambda: make_plan(config, summaries, target.outputs))
    collective.bind(circuit.parameters.digest)
    # as many releases as a training of the model has: two for the columns, and one that is for the counts here
    released = replace(circuit.workload, release="model", range_every=None)
    party = join(config, collective, replace(circuit, workload=released))
    scales = standardise_columns(config, party, shard, sum(circuit.workload.rows))
    rows = together(collective, lambda: checked_rows(config, scales.features, shard))
    targets = scales.target(targets_of(shard.labels, target.outputs))
    functions = functions_of(config, target.outputs)
    lowest, highest = simulate(circuit.workload, functions, rows, targets, collective.rank)
    counts = np.rint(party.encrypted_sum(histogram(lowest, highest)))
    party.close()
    return Proposal(counts, reach_of(counts, symmetric=config.model.kind not in WIDER_ON_ONE_SIDE))


def check_kind(config: Config) -> None:
    """Raise ConfigError for models without a polynomial."""
    if "interval" not in KINDS[config.model.kind].reads:
        raise ConfigError(f'kind = "{config.model.kind}" has no polynomial and needs no interval; train it as it is')


def functions_of(config: Config, outputs: int) -> ExactFunctions:
    """What the polynomials of this configuration stand for."""
    activation, slope = ACTIVATIONS[config.model.activation]
    return ExactFunctions(exact_link(config.model, outputs), activation, slope, SIGMOID_CURVATURE)
