"""`Messages`: how ring elements travel between the parties of a session, outside the shares of the protocols."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mhe.ciphertext import Residues, RingCiphertext
from mhe.collective import Collective
from mhe.errors import ShareError
from mhe.session import Session
from mhe.share import Share, check_complete


class Messages:
    """One party's end. All parties send the same messages in the same order, and each is named by its place in it.

    A message with another name than the one that is due raises ShareError.
    """

    def __init__(self, collective: Collective, session: Session) -> None:
        self.collective = collective
        self.session = session
        self._sent = 0

    def added_up(self, name: str, ciphertexts: Sequence[RingCiphertext]) -> list[RingCiphertext] | None:
        """Sums over the parties of their equally long lists, of equal limbs and scales: at the root, None elsewhere."""
        moduli = self.session.parameters.moduli[: ciphertexts[0].limbs] * (2 * len(ciphertexts))
        mine = self._share(name, moduli, np.concatenate([part for c in ciphertexts for part in (c.c0, c.c1)]))
        total = self.collective.reduce(mine)
        if total is None:
            return None
        check_complete(total, name, total.instance, self.session.parameters.n_parties)
        parts = np.split(_residues(total), 2 * len(ciphertexts))
        triples = zip(parts[::2], parts[1::2], ciphertexts, strict=True)
        return [RingCiphertext(c0, c1, c.scale, self.session.key_id) for c0, c1, c in triples]

    def send_down(self, name: str, parts: Sequence[Residues], limbs: Sequence[int]) -> list[Residues]:
        """The root's polynomials, of so many limbs each, at every party."""
        moduli = tuple(q for n in limbs for q in self.session.parameters.moduli[:n])
        mine = np.concatenate(parts) if self.collective.is_root else None
        return np.split(self.from_root(name, moduli, mine), np.cumsum(limbs)[:-1])

    def from_root(self, name: str, moduli: tuple[int, ...], rows: Residues | None) -> Residues:
        """The root's rows, at every party. Raises ShareError if the root is at another step than this party."""
        instance, me = self._instance(name), frozenset({self.collective.rank})
        got = self.collective.broadcast(None if rows is None else Share(name, instance, me, moduli, rows))
        check_sent(got, name, instance, moduli)
        return _residues(got)

    def pool(self, name: str, parts: Sequence[Residues]) -> list[Residues]:
        """Every party's polynomials, equally many and of equal limbs at each, at every party, by rank."""
        limbs, n = parts[0].shape
        moduli = self.session.parameters.moduli[:limbs] * len(parts)
        shares = self.collective.gather(self._share(name, moduli, np.concatenate(parts)))
        rows = None if shares is None else np.concatenate([_residues(share) for share in shares])
        pooled = self.from_root(name, moduli * self.session.parameters.n_parties, rows)
        return list(pooled.reshape(-1, limbs, n))

    def _share(self, name: str, moduli: tuple[int, ...], rows: Residues) -> Share:
        return Share(name, self._instance(name), frozenset({self.collective.rank}), moduli, rows)

    def _instance(self, name: str) -> bytes:
        """Names the next message."""
        self._sent += 1
        return self.session.instance(name, self._sent.to_bytes(8, "little"))


def check_sent(got: Share, name: str, instance: bytes, moduli: tuple[int, ...]) -> None:
    """Raise ShareError unless this is what is due from the root."""
    if (got.protocol, got.instance, got.moduli) != (name, instance, moduli):
        raise ShareError(f"the root sent {got!r}; need {name} instance {instance.hex()[:8]}: parties are out of step")


def places(rank: int, count: int) -> range:
    """Where a party's `count` polynomials stand among the pooled ones of all."""
    return range(rank * count, (rank + 1) * count)


def _residues(share: Share) -> Residues:
    return share.rows  # type: ignore[return-value]
