"""Collective refresh (bootstrapping): the same message back at the full modulus, in one round, for any number of
ciphertexts.

Mouchet, Troncoso-Pastoriza, Bossuat, Hubaux, ePrint 2020/304, protocol ColBootstrap, in its CKKS form. For each
ciphertext, with a' from the common seed and M_i uniform and mask_bits long:

    h0_i = s_i c1 + M_i           modulo the low modulus
    h1_i = s_i a' + M_i + e_i     modulo Q
    c0' = lift(c0 + sum h0_i) - sum h1_i,  c1' = a'

c0 + sum h0_i is the message plus all masks: the masks hide it, and the refresh floor keeps it from wrapping around, so
that lifting it to Q is exact.

h0_i has no error of its own, other than in the paper. To N-1 colluders, who know their own shares, h0_i is the message
with its noise plus M_i and nothing else; and h1_i looks uniform under a', which is used once. An error added to M_i
would change the distribution of h0_i by 2^(5 - mask_bits) per coefficient only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mhe.ciphertext import RingCiphertext
from mhe.errors import LevelError
from mhe.keys import SecretShare
from mhe.protocols.common import Residues
from mhe.ring.basis import lift
from mhe.ring.ring import ring
from mhe.ring.sampling import Stream, gaussian, secret_stream, uniform, uniform_words
from mhe.security import refresh_error_std, tail
from mhe.session import Session
from mhe.share import Share, check_complete


@dataclass(frozen=True)
class RefreshProtocol:
    """Refresh of a batch of ciphertexts, given by their c1 parts: each (refresh_limbs, ring_dim).

    Rows of a share: for every ciphertext h0 (refresh_limbs), then h1 (n_limbs).
    """

    session: Session
    c1s: tuple[Residues, ...]
    name = "refresh"

    def __post_init__(self) -> None:
        p = self.session.parameters
        for c1 in self.c1s:
            if len(c1) != p.refresh_limbs:
                raise LevelError(
                    f"a refresh takes ciphertexts of {p.refresh_limbs} limbs, got {len(c1)}; "
                    "drop limbs, or refresh before the last rescale"
                )

    @cached_property
    def instance(self) -> bytes:
        return self.session.instance(self.name, *self.c1s)

    def share(self, secret: SecretShare) -> Share:
        """(batch * (refresh_limbs + n_limbs), ring_dim)"""
        secret.serve_once(self.name, self.instance)
        p, noise = self.session.parameters, secret_stream()
        low = p.refresh_limbs
        rows = np.empty((len(self.c1s), low + p.n_limbs, p.ring_dim), dtype=np.uint64)
        for i, c1 in enumerate(self.c1s):
            mask = self._mask(noise)
            self._add_product(rows[i, :low], mask[:low], secret, c1)
            masked = self.session.cipher_ring().add_small(mask, gaussian(noise, p.ring_dim))
            self._add_product(rows[i, low:], masked, secret, self._common(i))
        everything = rows.reshape(-1, p.ring_dim)
        me = frozenset({self.session.rank})
        return Share(self.name, self.instance, me, self._row_moduli * len(self.c1s), everything)

    def _add_product(self, out: Residues, addend: Residues, secret: SecretShare, c: Residues) -> None:
        """out = addend + s c; the addend is in the coefficient domain, all else in the evaluation domain."""
        ring = self.session.cipher_ring(len(c))
        out[:] = addend
        ring.ntt_in_place(out)
        ring.multiply_add(out, secret.residues(self.session.cipher_ring())[: len(c)], c)

    def _mask(self, noise: Stream) -> Residues:
        """Every coefficient a uniform integer in [-2^(mask_bits-1), 2^(mask_bits-1)), as residues modulo all of Q.

        In the coefficient domain.
        """
        p = self.session.parameters
        return self.session.cipher_ring().from_words(
            uniform_words(noise, p.mask_bits, p.ring_dim), offset=-(1 << (p.mask_bits - 1))
        )

    def _common(self, index: int) -> Residues:
        """a' of one ciphertext: kept, for it is needed for the share and again for the fresh ciphertext."""
        if index not in self._expanded:
            stream = self.session.common(self.name, self.instance.hex(), index)
            self._expanded[index] = uniform(stream, self.session.cipher_ring())
        return self._expanded[index]

    @cached_property
    def _expanded(self) -> dict[int, Residues]:
        return {}

    @property
    def _row_moduli(self) -> tuple[int, ...]:
        p = self.session.parameters
        return p.moduli[: p.refresh_limbs] + p.moduli

    def finalize(self, total: Share, c0s: Mapping[int, Residues]) -> dict[int, Residues]:
        """The new c0 (n_limbs, ring_dim) of those ciphertexts of the batch whose old c0 are given, by index.

        Raises ShareError unless every party contributed exactly once.
        """
        p = self.session.parameters
        check_complete(total, self.name, self.instance, p.n_parties)
        rows: Residues = total.rows.reshape(len(self.c1s), -1, p.ring_dim)  # type: ignore[assignment]
        full, low = self.session.cipher_ring(), self.session.cipher_ring(p.refresh_limbs)
        return {
            index: full.subtract(self._lifted(low.add(c0, rows[index, : low.n_limbs])), rows[index, low.n_limbs :])
            for index, c0 in c0s.items()
        }

    def _lifted(self, masked: Residues) -> Residues:
        """The centred integers with these residues at the low modulus, at the full one; evaluation domain.

        Only the limbs that are new need transforms: the others are the same.
        """
        p = self.session.parameters
        low = self.session.cipher_ring(p.refresh_limbs)
        if p.refresh_limbs == p.n_limbs:
            return masked
        new = ring(p.ring_dim, p.moduli[p.refresh_limbs :])
        lifted = lift(low.intt(masked), low.moduli, new.moduli)
        new.ntt_in_place(lifted)
        return np.concatenate([masked, lifted])

    def fresh(self, index: int, c0: Residues, scale: float) -> RingCiphertext:
        """The refreshed ciphertext, c1 expanded from the common seed."""
        return RingCiphertext(c0, self._common(index), scale, self.session.key_id)

    def error_bound(self) -> float:
        """Largest coefficient by which the refreshed message differs, but for probability 2^-40."""
        p = self.session.parameters
        return tail(p.ring_dim * len(self.c1s)) * refresh_error_std(p.n_parties)
