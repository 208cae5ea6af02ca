"""Where an iteration of a perceptron refreshes, and the levels at which all parts of it then stand.

A refresh of what every party has, as the inputs of functions and the errors are, costs every party a share for every
other one, and four passes over the tree; what goes without it is computed at more limbs. Which is cheaper hangs on the
number of parties, the link and the degrees of the functions: the search compares all of them (`models.mlp_search`).
POSEIDON places its collective bootstrappings by such a search, too (Sav et al., NDSS 2021, arXiv 2009.00349, Section
5.4). The inputs of the last function and the weights are refreshed in any case.

A level is a limb above those of a refresh: what stands at level k can be rescaled k times before it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from itertools import product

from models.perceptron import Perceptron


@dataclass(frozen=True)
class RefreshPoints:
    """What is refreshed: the inputs of the functions of hidden layers, the errors of hidden layers before they meet a
    slope, the sums of gradients before the root's step.
    """

    inputs: bool = True
    errors: bool = True
    gradients: bool = True

    @classmethod
    def named(cls, names: Collection[str]) -> RefreshPoints:
        """These, and no others."""
        return cls(**{each.name: each.name in names for each in fields(cls)})

    def of(self, network: Perceptron) -> RefreshPoints:
        """The same, where there are no hidden layers with nothing of theirs left out."""
        return self if network.hidden else replace(self, inputs=True, errors=True)

    def widths(self, network: Perceptron) -> tuple[int, ...]:
        """Of the layers of which every party's own ciphertexts are refreshed, in this order."""
        inputs, errors = (network.hidden if here else () for here in (self.inputs, self.errors))
        return (*inputs, network.outputs, *reversed(errors))

    def said(self, network: Perceptron) -> str:
        """In words, with what is always refreshed."""
        places = ["inputs of all functions" if self.inputs else "inputs of the last function"]
        places += ["errors"] if self.errors and network.hidden else []
        places += ["gradients"] if self.gradients else []
        return ", ".join([*places, "weights"])

    @property
    def names(self) -> list[str]:
        """The inverse of `named`."""
        return [each.name for each in fields(self) if getattr(self, each.name)]

    @property
    def left_out(self) -> str:
        """In words, what is not refreshed."""
        return ", ".join(each.name for each in fields(self) if each.name not in self.names) or "none"


ALL_POINTS = RefreshPoints()


def possible_points(network: Perceptron) -> list[RefreshPoints]:
    """All that differ for this network."""
    every = (RefreshPoints(*some).of(network) for some in product((True, False), repeat=3))
    return list(dict.fromkeys(every))


@dataclass(frozen=True)
class LevelSchedule:
    """Levels of what an iteration meets, by layer. inputs: z, as functions need them. activations: a, of hidden layers.
    errors: e. forward, backward: the operands of the products that give z, and the errors of the layer before.

    A gradient is the product of activations and errors at level 1.
    """

    network: Perceptron
    points: RefreshPoints

    @cached_property
    def errors(self) -> tuple[int, ...]:
        levels = [1]
        while len(levels) < self.network.n_layers:
            # a product, and a slope
            levels.append(1 if self.points.errors else levels[-1] + 2)
        return tuple(levels)

    @property
    def backward(self) -> tuple[int, ...]:
        """Of the first layer it is that of its gradient."""
        return self.errors

    @cached_property
    def _from_last(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(forward, inputs) of the last layer, then of those before it."""
        net, last = self.network, self.network.n_layers - 1
        forward, inputs = [1], [self.errors[last] + net.link.depth]
        for layer in range(last - 1, -1, -1):
            activation = forward[-1] + net.activation.depth
            slope = self.slopes(layer) + net.activation.derivative.depth
            inputs.append(max(activation, slope))
            forward.append(1 if self.points.inputs else inputs[-1] + 1)
        return tuple(forward), tuple(inputs)

    @cached_property
    def forward(self) -> tuple[int, ...]:
        return self._from_last[0][::-1]

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        return self._from_last[1][::-1]

    @property
    def activations(self) -> tuple[int, ...]:
        return self.forward[1:]

    def slopes(self, layer: int) -> int:
        """Of f'(z), and of the errors that it meets."""
        return self.errors[layer] + 1

    @cached_property
    def ahead(self) -> tuple[int, ...]:
        """Of the weights that are looked ahead to."""
        return tuple(map(max, self.forward, self.backward))

    @cached_property
    def needed(self) -> int:
        """Levels between two refreshes."""
        looked_ahead = max(self.ahead) + 1
        slopes = (self.slopes(layer) for layer in range(len(self.network.hidden)))
        return max(looked_ahead, *self.inputs, *slopes)


@lru_cache(maxsize=64)
def level_schedule(network: Perceptron, points: RefreshPoints) -> LevelSchedule:
    return LevelSchedule(network, points)
