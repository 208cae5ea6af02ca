"""Collective refresh (bootstrapping): the same message back at the full modulus, in one round, for any number of
ciphertexts.

Mouchet, Troncoso-Pastoriza, Bossuat, Hubaux, ePrint 2020/304, protocol ColBootstrap, in its CKKS form. For each
ciphertext, with a' from the common seed and M_i uniform and mask_bits long:

    h0_i = s_i c1 - M_i + e       modulo the low modulus
    h1_i = -s_i a' + M_i + e'     modulo Q
    c0' = lift(c0 + sum h0_i) + sum h1_i,  c1' = a'

c0 + sum h0_i is the message minus all masks: the masks hide it, and the refresh floor keeps it from wrapping
around, so that lifting it to Q is exact.
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
        return self.session.instance(self.name, *(c1.tobytes() for c1 in self.c1s))

    def share(self, secret: SecretShare) -> Share:
        """(batch * (refresh_limbs + n_limbs), ring_dim)"""
        secret.serve_once(self.name, self.instance)
        noise = secret_stream()
        rows = [part for i, c1 in enumerate(self.c1s) for part in self._one(i, c1, secret, noise)]
        return Share(
            self.name,
            self.instance,
            frozenset({self.session.rank}),
            self._row_moduli * len(self.c1s),
            np.concatenate(rows),
        )

    def _one(self, index: int, c1: Residues, secret: SecretShare, noise: Stream) -> tuple[Residues, Residues]:
        full, low = self.session.cipher_ring(), self.session.cipher_ring(self.session.parameters.refresh_limbs)
        s = secret.residues(full)
        mask, n = self._mask(noise), low.ring_dim
        # mask and error are added up before the transform, which is linear and takes most of the time
        h0 = low.ntt(low.subtract(low.from_signed(gaussian(noise, n)), mask[: low.n_limbs]))
        low.multiply_add(h0, s[: low.n_limbs], c1)
        h1 = full.ntt(full.add(mask, full.from_signed(gaussian(noise, n))))
        return h0, full.subtract(h1, full.multiply(s, self._common(index)))

    def _mask(self, noise: Stream) -> Residues:
        """Every coefficient a uniform integer in [-2^(mask_bits-1), 2^(mask_bits-1)), as residues modulo all of Q.

        In the coefficient domain.
        """
        p, full = self.session.parameters, self.session.cipher_ring()
        residues = full.from_words(uniform_words(noise, p.mask_bits, p.ring_dim))
        half = full.from_integers([1 << (p.mask_bits - 1)])
        return full.subtract(residues, np.ascontiguousarray(np.broadcast_to(half, residues.shape)))

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
        low, full = self.session.cipher_ring(p.refresh_limbs), self.session.cipher_ring()
        rows: Residues = total.rows.reshape(len(self.c1s), -1, p.ring_dim)  # type: ignore[assignment]
        out = {}
        for index, c0 in c0s.items():
            masked = low.intt(low.add(c0, rows[index, : low.n_limbs]))
            lifted = full.ntt(lift(masked, low.moduli, full.moduli))
            out[index] = full.add(lifted, rows[index, low.n_limbs :])
        return out

    def fresh(self, index: int, c0: Residues, scale: float) -> RingCiphertext:
        """The refreshed ciphertext, c1 expanded from the common seed."""
        return RingCiphertext(c0, self._common(index), scale, self.session.key_id)

    def error_bound(self) -> float:
        """Largest coefficient by which the refreshed message differs, but for probability 2^-40."""
        p = self.session.parameters
        return tail(p.ring_dim * len(self.c1s)) * refresh_error_std(p.n_parties)
