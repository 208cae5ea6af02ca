"""Secret shares, public keys and evaluation keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from mhe.errors import ShareError
from mhe.ledger import Ledger
from mhe.ring.ring import Ring
from mhe.ring.sampling import secret_stream, ternary


class SecretPolynomial:
    """A uniform ternary polynomial that only its party may ever see.

    Opaque: its repr shows nothing, it can be neither pickled nor copied, and `erase` overwrites it.
    """

    __slots__ = ("_coefficients", "_erased", "_forms")

    def __init__(self, coefficients: npt.NDArray[np.int64]) -> None:
        self._coefficients = coefficients
        self._erased = False
        self._forms: dict[tuple[int, ...], npt.NDArray[np.uint64]] = {}

    @classmethod
    def generate(cls, ring_dim: int) -> Self:
        """A fresh one from the operating system's randomness."""
        return cls(ternary(secret_stream(), ring_dim))

    def residues(self, ring: Ring) -> npt.NDArray[np.uint64]:
        """The polynomial in the evaluation domain of `ring`: (limbs, ring_dim). Computed once per ring."""
        if self._erased:
            raise ShareError(f"this {type(self).__name__} was erased; start a new session")
        form = self._forms.get(ring.moduli)
        if form is None:
            form = self._forms[ring.moduli] = ring.ntt(ring.from_signed(self._coefficients))
        return form

    def erase(self) -> None:
        """Overwrite the polynomial. Best effort: Python may have made copies that it cannot reach."""
        self._erased = True
        self._coefficients[:] = 0
        for form in self._forms.values():
            form[:] = 0
        self._forms.clear()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<redacted>)"

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} can be neither pickled nor copied: it must not leave its party")

    __reduce_ex__ = __reduce__ = __copy__ = __deepcopy__ = __getstate__ = _refuse


class SecretShare(SecretPolynomial):
    """One party's additive share of the joint secret, with the ledger of what it was used for.

    Only protocol steps take it, and none takes two. Only `mhe.sealed` writes it to a file.
    """

    __slots__ = ("ledger",)

    def __init__(self, coefficients: npt.NDArray[np.int64], ledger: Ledger | None = None) -> None:
        super().__init__(coefficients)
        self.ledger = Ledger() if ledger is None else ledger

    def serve_once(self, protocol: str, instance: bytes) -> None:
        """Enter this protocol instance into the ledger; ShareError if it was served before."""
        self.ledger.serve_once(protocol, instance)

    def erase(self) -> None:
        super().erase()
        self.ledger.close()


class EphemeralSecret(SecretPolynomial):
    """The u_i of the relinearisation key protocol: made for its first round, gone after its second."""

    __slots__ = ()


class ReceiverSecret(SecretPolynomial):
    """The private key of a receiver of a key switch: of its own, no share of anything."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class PublicKey:
    """(p0, p1) with p0 + p1*s = error, modulo Q; (limbs, ring_dim) each, evaluation domain.

    The collective key of all parties, or a receiver's own.
    """

    p0: npt.NDArray[np.uint64]
    p1: npt.NDArray[np.uint64]
    key_id: str

    def __repr__(self) -> str:
        return f"PublicKey(key={self.key_id}, limbs={len(self.p0)})"


@dataclass(frozen=True, eq=False)
class KeptKey:
    """What a party has of a collective key that was made in an earlier session, of this common seed."""

    secret: SecretShare
    public_key: PublicKey
    seed: bytes


@dataclass(frozen=True, eq=False)
class EvaluationKey:
    """A key-switching key from s' to s: b_d + a_d*s = g_d*s' + error for every digit d, modulo Q*P.

    b, a: (digits, limbs of Q then P, ring_dim), evaluation domain. g_d is P on the limbs of digit d, 0 elsewhere. Q is
    that of the first limbs, and the digits those in it, up to which the key is used.
    """

    b: npt.NDArray[np.uint64]
    a: npt.NDArray[np.uint64]
    key_id: str

    def __repr__(self) -> str:
        return f"EvaluationKey(key={self.key_id}, shape={self.b.shape})"


Use = tuple[Iterable[int], int]
"""Rotations, in slots, and the limbs at which they are made; there may be others of the same steps, at other limbs."""


@dataclass(frozen=True)
class KeyPlan:
    """Exactly which keys a computation needs, and up to how many limbs it uses each.

    everywhere: limbs by rotation, in slots, of the keys at every party. root_only: of those at the root alone, which
    need not be sent down the tree. relinearisation, conjugation: limbs of those keys; 0 for none. products_at_root:
    whether these two are at the root alone as well.
    """

    everywhere: Mapping[int, int]
    root_only: Mapping[int, int] = field(default_factory=dict)
    relinearisation: int = 0
    conjugation: int = 0
    products_at_root: bool = False

    def moved(self, limbs: int) -> KeyPlan:
        """The same keys, each for so many limbs more."""
        everywhere, root_only = (
            {step: used + limbs for step, used in some.items()} for some in (self.everywhere, self.root_only)
        )
        relinearisation, conjugation = (
            used + limbs if used else 0 for used in (self.relinearisation, self.conjugation)
        )
        return KeyPlan(everywhere, root_only, relinearisation, conjugation, self.products_at_root)

    @classmethod
    def of(
        cls,
        n_slots: int,
        everywhere: Iterable[Use] = (),
        root_only: Iterable[Use] = (),
        *,
        relinearisation: int = 0,
        conjugation: int = 0,
        products_at_root: bool = False,
    ) -> Self:
        """Of rotations by any steps, of which those that are equal modulo n_slots share a key and 0 needs none.

        A key is named by the shortest of its steps, made for the most limbs that it is used at, and is the root's own
        only if no party else needs it.
        """
        at_all, at_root = (
            [(step, limbs) for steps, limbs in uses for step in steps] for uses in (everywhere, root_only)
        )
        shared = {step % n_slots for step, _ in at_all}
        names = {step % n_slots: step for step, _ in sorted((*at_all, *at_root), key=lambda use: -abs(use[0]))}
        limbs = dict[int, int]()
        for step, used in (*at_all, *at_root):
            limbs[step % n_slots] = max(used, limbs.get(step % n_slots, 0))
        found = sorted((names[key], key) for key in limbs if key)
        return cls(
            {step: limbs[key] for step, key in found if key in shared},
            {step: limbs[key] for step, key in found if key not in shared},
            relinearisation,
            conjugation,
            products_at_root,
        )

    def whole(self, n_limbs: int) -> Self:
        """The same keys for all limbs, as an evaluator needs them that takes no others."""
        everywhere, root_only = (dict.fromkeys(steps, n_limbs) for steps in (self.everywhere, self.root_only))
        return replace(
            self,
            everywhere=everywhere,
            root_only=root_only,
            relinearisation=self.relinearisation and n_limbs,
            conjugation=self.conjugation and n_limbs,
        )

    @property
    def galois_everywhere(self) -> tuple[int, ...]:
        """Limbs of the keys of rotations, and of the conjugation, that every party gets."""
        return (*self.everywhere.values(), *(() if self.products_at_root else self._conjugations))

    @property
    def galois_root_only(self) -> tuple[int, ...]:
        """Of those that the root alone gets."""
        return (*self.root_only.values(), *(self._conjugations if self.products_at_root else ()))

    @property
    def _conjugations(self) -> tuple[int, ...]:
        return (self.conjugation,) if self.conjugation else ()

    def limbs(self, *, is_root: bool) -> tuple[int, ...]:
        """Of all keys that a party holds, that of relinearisation among them."""
        relinearises = self.relinearisation and (is_root or not self.products_at_root)
        relinearisation = (self.relinearisation,) if relinearises else ()
        return (*relinearisation, *self.galois_everywhere, *(self.galois_root_only if is_root else ()))
