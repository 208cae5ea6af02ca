"""All parties of one session without a network: `make_world`, and every protocol round as a `Round` over them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import numpy as np
import pytest

from mhe.ciphertext import Residues, RingCiphertext
from mhe.keys import EphemeralSecret, EvaluationKey, PublicKey, ReceiverSecret, SecretShare
from mhe.parameters import Parameters
from mhe.protocols.common import gadget
from mhe.protocols.decryption import DecryptionProtocol
from mhe.protocols.key_switch import KeySwitchProtocol, receiver_key
from mhe.protocols.public_key import PublicKeyProtocol
from mhe.protocols.refresh import RefreshProtocol
from mhe.protocols.relin_key import RelinKeyProtocol
from mhe.protocols.rotation_key import RotationKeyProtocol
from mhe.ring.galois import galois_element
from mhe.ring.ring import Ring
from mhe.session import SEED_BYTES, Session
from mhe.share import Share, aggregate
from tests import oracle
from tests.insecure import insecure_test_parameters

N_PARTIES = (1, 2, 3, 5)
ROUNDS = ("public_key", "relin_key_1", "relin_key_2", "rotation_key", "refresh", "decryption", "key_switch")
SMUDGING = 2.0**25


def parameters_for(n_parties: int, **changes: Any) -> Parameters:
    """INSECURE: a ring in which everything takes milliseconds."""
    settings: dict[str, Any] = {"refresh_limbs": 3, "message_bits": 4.0, "statistical_bits": 40, **changes}
    return insecure_test_parameters(1 << 8, 5, scale_bits=40, n_parties=n_parties, **settings)


@dataclass(frozen=True)
class Round:
    """One protocol round of a world. finalize: what a party makes of the total."""

    share: Callable[[int, SecretShare], Share]
    finalize: Callable[[Share], Any]


@dataclass(frozen=True)
class World:
    """Sessions and secrets of all parties, and what only an omniscient observer could compute from them."""

    parameters: Parameters
    seed: bytes = field(default_factory=lambda: os.urandom(SEED_BYTES))
    secrets: tuple[SecretShare, ...] = ()

    def __post_init__(self) -> None:
        made = tuple(SecretShare.generate(self.parameters.ring_dim) for _ in range(self.n_parties))
        object.__setattr__(self, "secrets", self.secrets or made)

    @property
    def n_parties(self) -> int:
        return self.parameters.n_parties

    @cached_property
    def sessions(self) -> tuple[Session, ...]:
        return tuple(Session(self.parameters, rank, self.seed) for rank in range(self.n_parties))

    @cached_property
    def joint(self) -> oracle.Secret:
        return oracle.joint_of(self.secrets)

    # running a protocol

    def shares(self, name: str) -> list[Share]:
        """Every party's share of a round."""
        step = self.round(name)
        return [step.share(rank, secret) for rank, secret in enumerate(self.secrets)]

    @staticmethod
    def total(shares: Sequence[Share]) -> Share:
        return reduce(aggregate, shares)

    def round(self, name: str, **given: Any) -> Round:
        """The round of this name; `given` are the arguments of its protocol beside the session."""
        if name == "public_key":
            return self._one_step([PublicKeyProtocol(s) for s in self.sessions])
        if name == "rotation_key":
            element = given.get("element", galois_element(given.get("rotation", 3), self.parameters.ring_dim))
            return self._one_step([RotationKeyProtocol(s, element) for s in self.sessions])
        if name == "refresh":
            return self._refresh(given.get("ciphertexts") or [self.ciphertext(limbs=3), self.ciphertext(limbs=3)])
        if name == "decryption":
            return self._decryption(given.get("ciphertext") or self.ciphertext(), given.get("count", 16))
        if name == "key_switch":
            return self._key_switch(given.get("ciphertexts") or [self.ciphertext(), self.ciphertext()])
        return self._relin_key(first=name == "relin_key_1")

    @staticmethod
    def _one_step(protocols: Sequence[Any]) -> Round:
        return Round(lambda rank, secret: protocols[rank].share(secret), protocols[0].finalize)

    def _relin_key(self, first: bool) -> Round:
        protocols = [RelinKeyProtocol(s) for s in self.sessions]
        ephemerals = [EphemeralSecret.generate(self.parameters.ring_dim) for _ in protocols]
        if first:
            return Round(
                lambda rank, secret: protocols[rank].share_first(secret, ephemerals[rank]),
                lambda total: protocols[0].share_second(self.secrets[0], ephemerals[0], total),
            )
        made = [p.share_first(s, u) for p, s, u in zip(protocols, self.secrets, ephemerals, strict=True)]
        opened = self.total(made)
        return Round(
            lambda rank, secret: protocols[rank].share_second(secret, ephemerals[rank], opened),
            lambda total: protocols[0].finalize(opened, total),
        )

    def _refresh(self, ciphertexts: Sequence[RingCiphertext]) -> Round:
        protocols = [RefreshProtocol(s, tuple(c.c1 for c in ciphertexts)) for s in self.sessions]

        def finalize(total: Share) -> list[RingCiphertext]:
            made = protocols[0].finalize(total, {i: c.c0 for i, c in enumerate(ciphertexts)})
            return [protocols[0].fresh(i, made[i], c.scale) for i, c in enumerate(ciphertexts)]

        return Round(lambda rank, secret: protocols[rank].share(secret), finalize)

    def _decryption(self, ciphertext: RingCiphertext, count: int) -> Round:
        protocols = [DecryptionProtocol(s, ciphertext.c1, count, SMUDGING) for s in self.sessions]
        return Round(
            lambda rank, secret: protocols[rank].share(secret),
            lambda total: protocols[0].integers(protocols[0].finalize(total, ciphertext.c0)),
        )

    def _key_switch(self, ciphertexts: Sequence[RingCiphertext]) -> Round:
        keys = tuple(self.receiver(i)[1] for i in range(len(ciphertexts)))
        protocols = [KeySwitchProtocol(s, tuple(c.c1 for c in ciphertexts), keys, SMUDGING) for s in self.sessions]
        return Round(
            lambda rank, secret: protocols[rank].share(secret),
            lambda total: protocols[0].finalize(total, dict(enumerate(ciphertexts))),
        )

    def receiver(self, label: int) -> tuple[ReceiverSecret, PublicKey]:
        secret = ReceiverSecret.generate(self.parameters.ring_dim)
        return secret, receiver_key(self.sessions[0], secret, bytes([label]))

    # what only the oracle knows

    def ciphertext(self, values: Any = None, limbs: int | None = None, seed: int | None = None) -> RingCiphertext:
        """An encryption under the joint secret of these slot values (random ones by default)."""
        p, source = self.parameters, np.random.default_rng(seed)
        values = source.uniform(-1, 1, p.n_slots) if values is None else values
        number = int(source.integers(1 << 30))
        return oracle.encrypt(values, p, self.joint, self.sessions[0].key_id, limbs=limbs, seed=number)

    def encrypt_integers(self, message: Sequence[int], limbs: int) -> RingCiphertext:
        """An encryption of exactly these coefficients, without any error, under the joint secret."""
        ring = self.sessions[0].cipher_ring(limbs)
        c1 = oracle.uniform(ring, np.random.default_rng())
        mask = ring.multiply(c1, oracle.as_residues(self.joint, ring))
        c0 = ring.subtract(ring.ntt(ring.from_integers(message)), mask)
        return RingCiphertext(c0, c1, self.parameters.scale, self.sessions[0].key_id)

    def integers(self, ciphertext: RingCiphertext) -> np.ndarray:
        """The coefficients of scale * message + noise, as Python integers."""
        return np.array(oracle.message_integers(ciphertext, self.parameters, self.joint), dtype=object)

    def key_errors(self, key: EvaluationKey, old: Residues, new: Residues) -> np.ndarray:
        """b_d + a_d*new - g_d*old for every digit: (digits * ring_dim,)."""
        limbs = key.b.shape[1] - len(self.parameters.special_moduli)
        ring, errors = self.sessions[0].key_ring(limbs), []
        for digit, (b, a) in enumerate(zip(key.b, key.a, strict=True)):
            rest = ring.subtract(
                ring.add(b, ring.multiply(a, new)), ring.multiply_constant(old, gadget(self.parameters, digit, limbs))
            )
            errors += ring.to_integers(ring.intt(rest))
        return np.array(errors, dtype=object)

    def joint_residues(self, ring: Ring) -> Residues:
        return oracle.as_residues(self.joint, ring)


@pytest.fixture
def make_world() -> Callable[..., World]:
    """`make_world(n_parties, **parameters)`."""

    def make(n_parties: int, **changes: Any) -> World:
        return World(parameters_for(n_parties, **changes))

    return make


@pytest.fixture(params=N_PARTIES, ids=lambda n: f"{n} parties")
def world(request: pytest.FixtureRequest) -> World:
    return World(parameters_for(request.param))


@pytest.fixture(params=ROUNDS)
def round_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def assert_noise() -> Callable[..., None]:
    """`assert_noise(errors, bound, std)`: within the bound, and not so small that bound or closed form say nothing.

    The root mean square of 256 values or more is within 40 and 180 per cent of its expectation, but for probability
    1e-12 also where the values are coefficients of a product with the secret.
    """

    def check(errors: Any, bound: float, std: float) -> None:
        found = np.array([float(e) for e in errors])
        rms = float(np.sqrt(np.mean(found**2)))
        assert np.abs(found).max() <= bound
        assert 0.4 * std <= rms <= 1.8 * std, f"rms {rms} where the closed form says {std}"
        assert bound <= 10 * std, "a bound this wide says nothing"

    return check
