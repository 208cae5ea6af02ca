"""Choosing parameters: the cheapest that meet security, the refresh floor and the precision asked for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

from mhe.errors import ParameterError
from mhe.moduli import generate_moduli
from mhe.parameters import Parameters
from models.candidates import Candidate, candidates_for
from models.choice import Choice, MakeModuli
from models.cost import DEFAULT_UNITS, work_of
from models.least_operations import least_operations
from models.mlp_plan import PerceptronPlan
from models.model import Plan
from models.operations import Counted, Counts, whole
from models.plan import CircuitPlan
from models.workload import Workload

AnyPlan = TypeVar("AnyPlan", bound=Plan)

TOLERATED = 10
"""Where no parameters are as precise as asked for, the most precise ones do if they miss it by this factor at most."""

NOT_ALLOWED = "every chain that fits costs more than is allowed; allow more, or lower [crypto] statistical_bits"
LOGIT_ERROR = 0.05
"""What is asked of delivered logits where the precision asked of the weights is finer: a probability moves by at most
an eightieth."""


def choose_plan(workload: Workload, choice: Choice, make_moduli: MakeModuli, *, free: bool) -> CircuitPlan:
    """The best plan: the first of `choose_plans`."""
    return choose_plans(workload, choice, make_moduli, free=free)[0]


def choose_plans(
    workload: Workload, choice: Choice, make_moduli: MakeModuli, *, free: bool, count: int = 1
) -> list[CircuitPlan]:
    """The plans with the lowest cost that meet every constraint, on up to `count` different chains, the best one first.

    free: whether make_moduli takes any shape; OpenFHE prescribes one first prime and special primes of 60 bits.

    The search is complete. Every chain that the caps allow has its cost computed (`models.candidates` says which ones
    are left out because another one costs as much and is more precise); then they are looked at from the cheapest on,
    and the first that is precise enough is the best there is. Of shapes that cost the same the one with the largest
    scale is taken. A chain is passed over without following its noise only if a chain of the same ring with a larger
    scale and larger special primes was not precise enough.

    Where none is precise enough, the most precise one within a factor TOLERATED; the plan says what it reaches.
    Raises ParameterError naming the binding constraint if nothing fits.
    """
    judge = choice.judge or RootWork()
    known = candidates_for(workload, choice, free=free)
    _, allowed = asked_of(workload)
    # primes of our own are found at once, and are as large as those that a library takes long to prescribe
    estimates = [
        (estimate, candidate)
        for candidate in known
        for estimate in _plans(workload, choice, candidate, generate_moduli, centred=free)
    ]
    if not estimates:
        raise no_primes(choice)
    costs = {id(estimate): judge(estimate) for estimate, _ in estimates}
    estimates = [each for each in estimates if costs[id(each[0])] < math.inf]
    if not estimates:
        raise ParameterError(NOT_ALLOWED)
    estimates.sort(key=lambda each: (costs[id(each[0])], -each[1].shape.scale_bits, -each[1].shape.special_margin))
    missed: list[tuple[float, tuple[CircuitPlan, Candidate]]] = []
    found: list[CircuitPlan] = []
    for estimate, candidate in estimates:
        if any(_is_noisier(estimate, candidate, *other) for _, other in missed):
            continue
        if any(is_like(estimate.parameters, other.parameters) for other in found):
            continue
        if estimate.precision.released_error <= allowed:
            plan = _on_primes(estimate, choice, candidate, make_moduli)
            found += [] if plan is None else [plan]
            if len(found) == count:
                break
        else:
            missed.append((estimate.precision.released_error, (estimate, candidate)))
    if found:
        return found
    by_error = sorted(missed, key=lambda each: each[0])
    plans = (_on_primes(estimate, choice, candidate, make_moduli) for _, (estimate, candidate) in by_error)
    best = next((each for each in plans if each is not None), None)
    if best is None:
        raise no_primes(choice)
    return [tolerated(best, choice)]


def asked_of(workload: Workload) -> tuple[str, float]:
    """What is released in the end, and its largest error that is asked for."""
    if workload.release in ("predictions", "encrypted"):
        return {"predictions": "logits", "encrypted": "answers"}[workload.release], max(workload.precision, LOGIT_ERROR)
    return "weights", workload.precision


def no_primes(choice: Choice) -> ParameterError:
    """Where chains would fit, but rings have no primes of their sizes: the smaller they are, the fewer there are."""
    wishes = ", ".join(choice.wishes) or "values"
    return ParameterError(
        f"no ring has enough primes of the sizes of any chain that fits; leave [crypto] {wishes} to the plan"
    )


def is_missed(plan: Plan) -> bool:
    """Whether it is less precise than asked for: none is as precise then."""
    _, asked = asked_of(plan.workload)
    return plan.precision.released_error > asked


def tolerated(best: AnyPlan, choice: Choice) -> AnyPlan:
    """The most precise plan there is, where that is within TOLERATED of what is asked for. Raises ParameterError."""
    (what, allowed), error, p = asked_of(best.workload), best.precision.released_error, best.parameters
    if error <= TOLERATED * allowed:
        return best
    lower = f"Leave [crypto] {', '.join(choice.wishes)} to the plan, lower" if choice.wishes else "Lower"
    raise ParameterError(
        f"the {what} would be released to {error:.1g} at best (ring_dim {p.ring_dim}, scale 2^{p.scale_bits}), "
        f"{allowed:g} is asked for: the smudging of {best.workload.release_bits} statistical bits costs precision. "
        f"{lower} [release] statistical_bits, allow a larger [release] precision, or train with fewer iterations, less "
        "momentum, more L2 or a smaller learning_rate"
    )


def _is_noisier(plan: CircuitPlan, candidate: Candidate, other: CircuitPlan, its_candidate: Candidate) -> bool:
    """Whether it is no more precise than this other one, for sure."""
    return plan.layout == other.layout and candidate.is_no_better_than(its_candidate)


class RootWork:
    """Seconds of CPU time of the root in an iteration, by the default table: the `Judge` where nothing was measured."""

    def __init__(self) -> None:
        self._counted = Counted()

    def __call__(self, plan: Plan) -> float:
        busiest = max(range(plan.workload.n_parties), key=lambda rank: plan.workload.batch_rows[rank])
        return self._seconds(plan, whole(self._counted.of(plan, busiest, is_root=True, keep=True).later))

    @classmethod
    def least(cls, plan: PerceptronPlan) -> float:
        """No more than that."""
        return cls._seconds(plan, least_operations(plan))

    @staticmethod
    def _seconds(plan: Plan, counts: Counts) -> float:
        return DEFAULT_UNITS.total(work_of(plan.parameters), counts)


def is_like(a: Parameters, b: Parameters) -> bool:
    """Whether two chains differ in nothing but the sizes of their primes."""
    return (a.ring_dim, a.n_limbs, a.digits, len(a.special_moduli)) == (
        b.ring_dim, b.n_limbs, b.digits, len(b.special_moduli),
    )  # fmt: skip


def _plans(
    workload: Workload, choice: Choice, candidate: Candidate, make_moduli: MakeModuli, *, centred: bool
) -> list[CircuitPlan]:
    """The plans on real primes, one for each packing; none where a library finds no primes for this shape or their
    sizes miss a bound by a hair.
    """
    parameters = _parameters(workload, choice, candidate, make_moduli)
    if parameters is None:
        return []
    plan = CircuitPlan(workload, parameters, centred)
    layouts = plan.layout.alternatives
    plans = [plan if layout == plan.layout else replace(plan, packing=layout) for layout in layouts]
    return [each for each in plans if choice.allows(each)]


def _on_primes(
    estimate: CircuitPlan, choice: Choice, candidate: Candidate, make_moduli: MakeModuli
) -> CircuitPlan | None:
    """The same plan on other primes."""
    parameters = _parameters(estimate.workload, choice, candidate, make_moduli)
    return None if parameters is None else replace(estimate, parameters=parameters)


def _parameters(workload: Workload, choice: Choice, candidate: Candidate, make_moduli: MakeModuli) -> Parameters | None:
    try:
        return Parameters.of_shape(
            candidate.shape,
            make_moduli(candidate.shape),
            n_parties=workload.n_parties,
            refresh_limbs=candidate.refresh_limbs,
            message_bits=workload.message_bits,
            security_bits=choice.security_bits,
            statistical_bits=choice.statistical_bits,
        )
    except ParameterError:
        return None
