"""The three evaluators by name, and what a test needs to run on each of them: primes, parties, and `World`.

The native one takes primes of our own choosing, OpenFHE its own, wherever a test leaves the choice open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.backend.clear import ClearBackend, ClearCiphertext
from mhe.backend.native import NativeBackend
from mhe.backend.openfhe import OpenFHEBackend
from mhe.backend.openfhe import generate_moduli as generate_openfhe_moduli
from mhe.ciphertext import Ciphertext
from mhe.collective import Collective
from mhe.encrypted_party import BackendFactory, EncryptedParty
from mhe.moduli import generate_moduli as generate_own_moduli
from mhe.parameters import ERROR_STD, Parameters
from mhe.party import Party
from mhe.ring.galois import conjugation_element
from mhe.security import tail
from models.mlp_plan import PerceptronPlan
from models.model import Plan
from models.plan import CircuitPlan
from models.workload import Workload
from tests import oracle
from tests.insecure import (
    MakeModuli,
    clear_party,
    insecure_test_parameters,
    insecure_test_perceptron_plan,
    insecure_test_plan,
)

Floats = npt.NDArray[np.float64]

REAL = ("openfhe", "native")
EVALUATORS = (*REAL, "clear")
FACTORIES: dict[str, BackendFactory] = {"openfhe": OpenFHEBackend, "native": NativeBackend}


def moduli_of(evaluator: str) -> MakeModuli:
    return generate_openfhe_moduli if evaluator == "openfhe" else generate_own_moduli


def parameters_of(evaluator: str, ring_dim: int, n_limbs: int, **changes: Any) -> Parameters:
    """INSECURE."""
    return insecure_test_parameters(ring_dim, n_limbs, make_moduli=moduli_of(evaluator), **changes)


def plan_of(evaluator: str, task: Workload, **changes: Any) -> CircuitPlan:
    """INSECURE."""
    return insecure_test_plan(task, make_moduli=moduli_of(evaluator), **changes)


def perceptron_plan_of(evaluator: str, task: Workload, **changes: Any) -> PerceptronPlan:
    """INSECURE."""
    return insecure_test_perceptron_plan(task, make_moduli=moduli_of(evaluator), **changes)


def make_party(evaluator: str, collective: Collective, plan: Plan, wrap: Any = lambda made: made) -> Party:
    """A party of this plan. wrap: what to put around the evaluator before the party uses it."""
    if evaluator == "clear":
        simulated = clear_party(collective, plan)
        simulated.backend = wrap(simulated.backend)
        return simulated
    return EncryptedParty(
        collective,
        plan.parameters,
        lambda parameters, key_id: wrap(FACTORIES[evaluator](parameters, key_id)),
        statistical_bits=plan.workload.release_bits,
        releases=plan.releases,
    )


@dataclass
class World:
    """An evaluator with keys, and a way in and out of it. For clear values there is no secret."""

    backend: Any
    key_id: str
    secret: oracle.Secret | None = None
    _count: int = field(default=0)

    @classmethod
    def of(cls, evaluator: str, parameters: Parameters, rotations: Iterable[int] = (), key_id: str = "") -> World:
        """With the keys for products, conjugation and these rotations, under a secret that the parameters determine."""
        key_id = key_id or f"world-{parameters.digest.hex()}"
        if evaluator == "clear":
            simulated = cls(ClearBackend(parameters, key_id, frozenset(rotations)), key_id)
            simulated.backend.load_conjugation_key()
            return simulated
        made = cls(FACTORIES[evaluator](parameters, key_id), key_id, oracle.make_secret(parameters.ring_dim))
        made.backend.load_relinearisation_key(oracle.make_relinearisation_key(parameters, made.secret, key_id))
        for rotation in rotations:
            key = oracle.make_rotation_key(
                parameters, made.secret, rotation, key_id, seed=rotation % parameters.n_slots
            )
            made.backend.load_rotation_key(rotation, key)
        element = conjugation_element(parameters.ring_dim)
        key = oracle.make_galois_key(parameters, made.secret, element, key_id, seed=parameters.n_slots)
        made.backend.load_conjugation_key(key)
        return made

    @property
    def parameters(self) -> Parameters:
        found: Parameters = self.backend.parameters
        return found

    def encrypt(
        self, values: Floats, limbs: int | None = None, scale: float | None = None, seed: int | None = None
    ) -> Ciphertext:
        """seed: of the randomness of the encryption; another one for each by default."""
        p = self.parameters
        scale = p.scale if scale is None else scale
        if self.secret is None:
            external: Any = ClearCiphertext(np.array(values)[None], limbs or p.n_limbs, scale, self.key_id)
        else:
            self._count += 1
            number = self._count if seed is None else seed
            external = oracle.encrypt(values, p, self.secret, self.key_id, limbs=limbs, scale=scale, seed=number)
        made: Ciphertext = self.backend.import_ciphertext(external, len(values))
        return made

    def decrypt(self, ciphertext: Ciphertext) -> Floats:
        """All slots (n_slots,)."""
        external = self.backend.export_ciphertext(ciphertext)
        if self.secret is None:
            return np.tile(external.values[0], self.parameters.n_slots // ciphertext.period)
        return oracle.decrypt(external, self.parameters, self.secret)

    def bound(self, errors: float = 1.0, scale: float | None = None) -> float:
        """Largest error of a slot after that many fresh errors, roundings or key switches at this scale."""
        return slot_bound(self.parameters, errors, scale)

    def check(self, ciphertext: Ciphertext, expected: Floats, errors: float = 1.0) -> None:
        repeated = np.tile(expected, self.parameters.n_slots // len(expected))
        np.testing.assert_allclose(self.decrypt(ciphertext), repeated, rtol=0, atol=self.bound(errors))


def slot_bound(parameters: Parameters, errors: float = 1.0, scale: float | None = None) -> float:
    """Largest error of a slot after that many fresh errors, roundings or key switches at this scale.

    A division by P in OpenFHE rounds every coefficient down, by up to the number k of special moduli and k/2 in
    the mean: error (k/2)(J + J*s), J = sum of X^i, which gathers in the slots next to 1, where |J| = 2N/pi.
    """
    n, k = parameters.ring_dim, len(parameters.special_moduli)
    spread = np.sqrt(n * (ERROR_STD**2 + (1 + n * 2 / 3) * k / 12))
    biased = (k / 2) * (2 * n / np.pi) * np.sqrt(1 + n * 2 / 3)
    return float(errors * tail(n) * (spread + biased) / (parameters.scale if scale is None else scale))
