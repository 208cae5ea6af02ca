"""Secret shares, public keys and evaluation keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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

    b, a: (digits, limbs of Q then P, ring_dim), evaluation domain. g_d is P on the limbs of digit d, 0 elsewhere.
    """

    b: npt.NDArray[np.uint64]
    a: npt.NDArray[np.uint64]
    key_id: str

    def __repr__(self) -> str:
        return f"EvaluationKey(key={self.key_id}, shape={self.b.shape})"


@dataclass(frozen=True)
class KeyPlan:
    """Exactly which keys a computation needs beside the relinearisation key: for rotations, in slots, and conjugation.

    everywhere: at every party. root_only: at the root alone, so that they need not be sent down the tree.
    conjugation: whether every party gets the conjugation key.
    """

    everywhere: tuple[int, ...]
    root_only: tuple[int, ...] = ()
    conjugation: bool = False

    @classmethod
    def of(
        cls, n_slots: int, everywhere: Iterable[int], root_only: Iterable[int] = (), *, conjugation: bool = False
    ) -> Self:
        """Of rotations by any steps, of which those that are equal modulo n_slots share a key and 0 needs none.

        A key is named by the shortest of its steps, and is the root's own only if no party else needs it.
        """
        shared, own = ({step % n_slots: step for step in _longest_first(steps)} for steps in (everywhere, root_only))
        return cls(
            tuple(sorted(step for key, step in shared.items() if key)),
            tuple(sorted(step for key, step in own.items() if key and key not in shared)),
            conjugation,
        )

    @property
    def galois_everywhere(self) -> int:
        """Keys of rotations and of the conjugation that every party gets."""
        return len(self.everywhere) + self.conjugation

    def count(self, *, is_root: bool) -> int:
        """All keys that a party holds, that of relinearisation among them."""
        return 1 + self.galois_everywhere + is_root * len(self.root_only)


def _longest_first(steps: Iterable[int]) -> list[int]:
    return sorted(steps, key=abs, reverse=True)
