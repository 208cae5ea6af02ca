"""`Choice`: what is asked of a search for parameters; `Pinned`: what another party needs to find the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mhe.parameters import Parameters, Primes, Shape
from models.mlp_plan import PerceptronPlan
from models.model import Plan
from models.refresh_points import ALL_POINTS, RefreshPoints

MakeModuli = Callable[[Shape], Primes]
Judge = Callable[[Plan], float]
"""What a plan costs: the search looks for the smallest. An infinite one is not to be taken at all."""


@dataclass(frozen=True)
class Pinned:
    """What a search found: a chain, how the products on it are made: in diagonals, of which a tile has as many as
    columns, and baby steps; and where a perceptron refreshes.
    """

    shape: Shape
    n_diagonals: int
    baby: int
    points: RefreshPoints = ALL_POINTS


@dataclass(frozen=True)
class Choice:
    """Constraints and explicit wishes; None leaves a value to the search.

    judge: what a plan costs; by default the root's operations, by the default table of `models.cost`. bounds: what a
    perceptron costs at least, by `judge`: first what is known at once, infinite where that is, then what is closer and
    takes longer. pinned: the only chain that is looked at, for a party that is told what another one found; it must
    keep all constraints.
    """

    security_bits: int = 128
    statistical_bits: int = 128
    ring_dim: int | None = None
    first_bits: int | None = None
    scale_bits: int | None = None
    digits: int | None = None
    limbs: int | None = None
    points: RefreshPoints | None = None
    judge: Judge | None = None
    bounds: Sequence[Callable[[PerceptronPlan], float]] = ()
    pinned: Pinned | None = None

    @property
    def wishes(self) -> list[str]:
        """The names of the values of [crypto] that are not left to the search."""
        named = ("ring_dim", "first_bits", "scale_bits", "digits", "limbs")
        found = [name for name in named if getattr(self, name) is not None]
        return found if self.points is None else [*found, "refresh"]

    def allows(self, plan: Plan) -> bool:
        """Whether it is in the packing that is looked at, and refreshes where that does."""
        wished, found = self.pinned, (plan.layout.n_diagonals, plan.layout.baby, plan.points)
        return wished is None or found == (wished.n_diagonals, wished.baby, wished.points)


def pinned(plan: Plan) -> Pinned:
    """What another party needs to make this plan itself."""
    shape = shape_of(plan.parameters)
    if not plan.centred:
        # OpenFHE's primes follow from the rest, and are not to be asked for
        shape = Shape(shape.ring_dim, shape.first_bits, shape.scale_bits, shape.n_limbs, shape.digits)
    return Pinned(shape, plan.layout.n_diagonals, plan.layout.baby, plan.points)


def shape_of(p: Parameters) -> Shape:
    """The shape of which these parameters are."""
    bits, special = ([round(math.log2(q)) for q in some] for some in (p.moduli, p.special_moduli))
    floor = next((i for i, b in enumerate(bits) if b == p.scale_bits), len(bits))
    return Shape(p.ring_dim, bits[0], p.scale_bits, p.n_limbs, p.digits, max(floor, 1), special[0], len(special))
