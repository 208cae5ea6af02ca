"""What the search for parameters makes small, and within what memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from models.cost import UnitCosts
from models.least_operations import least_operations
from models.mlp_plan import PerceptronPlan
from models.model import Plan
from models.operations import Counted
from network.link import Link
from network.topology import Tree
from scripts.forecast import Forecast

Objective = Literal["time", "traffic", "memory"]


@dataclass(frozen=True)
class Goal:
    """What the search for parameters makes small: seconds of an iteration (and of the preparation, spread over all of
    them), the most bytes that a party sends in one, or the most memory of a party.

    trees: of which each plan takes the one that suits it best. memory_limit: bytes that no party may exceed.
    """

    objective: Objective
    trees: tuple[Tree, ...]
    units: UnitCosts
    link: Link | None = None
    counted: Counted = field(default_factory=Counted, repr=False)
    memory_limit: int | None = None

    def forecast(self, plan: Plan) -> Forecast:
        """Over the tree on which the plan does best; of equally good ones, the fastest."""
        found = self.forecasts(plan)
        return found[0] if len(found) == 1 else min(found, key=lambda f: (self.cost(f), f.iteration_seconds))

    def over(self, tree: Tree) -> Goal:
        """The same over this tree."""
        return replace(self, trees=(tree,))

    def forecasts(self, plan: Plan) -> list[Forecast]:
        """Over every tree."""
        within = 0 if self.objective == "memory" else self.memory_limit
        tree, *others = self.trees
        first = Forecast(plan, tree, self.units, self.link, counted=self.counted, keep_within=within)
        return [first, *map(first.over, others)]

    def allowance(self, plan: Plan) -> float:
        """0, or infinite where a party would take more than memory_limit: a `Judge` of whether a plan may be taken."""
        # what a party takes does not depend on where it is in the tree, but for the keys of the root
        taken = 0 if self.memory_limit is None else self.forecasts(plan)[0].most_memory_bytes
        return math.inf if self.memory_limit is not None and taken > self.memory_limit else 0.0

    def __call__(self, plan: Plan) -> float:
        return self.allowance(plan) or min(map(self.cost, self.forecasts(plan)))

    @property
    def bounds(self) -> Sequence[Callable[[PerceptronPlan], float]]:
        """As of a `Choice`: without counting what a perceptron takes. Traffic and memory are known at once."""
        return (self._least, self._least_with_passes) if self.objective == "time" else ()

    def _least(self, plan: PerceptronPlan) -> float:
        return self.allowance(plan) or self.forecasts(plan)[0].floor_seconds(least_operations(plan))

    def _least_with_passes(self, plan: PerceptronPlan) -> float:
        return self._least(plan) + min(forecast.passing_seconds for forecast in self.forecasts(plan))

    def cost(self, forecast: Forecast) -> float:
        """What is to be made small."""
        if self.objective == "traffic":
            return forecast.most_iteration_bytes
        if self.objective == "memory":
            return forecast.most_memory_bytes
        return forecast.iteration_seconds + forecast.preparation_seconds / forecast.plan.workload.iterations
