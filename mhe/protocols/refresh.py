"""Collective refresh (bootstrapping): the same message back at the full modulus, in one round, for any number of
ciphertexts; or linear maps of it, for next to nothing.

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

**Linear maps.** With phi of `mhe.protocols.ring_map`, exactly linear on integer polynomials,

    h1_i = s_i a' + phi(M_i) + e_i,   c0' = phi(lift(c0 + sum h0_i)) - sum h1_i

make a ciphertext of phi(message): the masks cancel as before. What is lifted is the masked value itself, so the floor
is the same. phi(M_i) is seen under s_i a' + e_i only, which hides anything; several outputs of one mask have an a' and
an error each. Where phi has a division, all sides divide and round for themselves and Q is smaller by the divisor. phi
reads the coefficients that carry a vector of its period, and drops the noise in all others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mhe.ciphertext import RingCiphertext
from mhe.errors import LevelError, ParameterError
from mhe.keys import SecretShare
from mhe.protocols.common import Residues
from mhe.protocols.ring_map import RingMap, ring_map
from mhe.ring.basis import lift
from mhe.ring.ring import Ring, ring
from mhe.ring.sampling import Stream, gaussian, secret_stream, uniform, uniform_words
from mhe.security import refresh_error_std, tail
from mhe.session import Session
from mhe.share import Share, check_complete
from mhe.slot_map import RefreshOutput, plain_outputs


@dataclass(frozen=True)
class RefreshProtocol:
    """Refresh of a batch of ciphertexts, given by their c1 parts: each (refresh_limbs, ring_dim).

    outputs: what is made of them, in this order; by default each as it is. An output has n_limbs limbs, less its
    map's levels. The same at every party.

    Rows of a share: for every ciphertext h0 (refresh_limbs), then for every output h1 (its limbs).
    """

    session: Session
    c1s: tuple[Residues, ...]
    outputs: tuple[RefreshOutput, ...] = ()
    name = "refresh"

    def __post_init__(self) -> None:
        p = self.session.parameters
        for c1 in self.c1s:
            if len(c1) != p.refresh_limbs:
                raise LevelError(
                    f"a refresh takes ciphertexts of {p.refresh_limbs} limbs, got {len(c1)}; "
                    "drop limbs, or refresh before the last rescale"
                )
        if not self.outputs:
            object.__setattr__(self, "outputs", plain_outputs(len(self.c1s)))
        for output in self.outputs:
            if not 0 <= output.source < len(self.c1s):
                raise ParameterError(f"an output of input {output.source}; need one of {len(self.c1s)}, from 0")
            self._map(output)

    @cached_property
    def instance(self) -> bytes:
        """Covers the inputs, and which output is which map of which of them."""
        made = [b"%d " % o.source + (b"" if o.slot_map is None else o.slot_map.digest) for o in self.outputs]
        return self.session.instance(self.name, b"%d" % len(self.c1s), *self.c1s, *made)

    def limbs(self, index: int) -> int:
        """Of this output."""
        return self.session.parameters.n_limbs - self.outputs[index].levels

    def _ring(self, index: int) -> Ring:
        return self.session.cipher_ring(self.limbs(index))

    @cached_property
    def _low(self) -> Ring:
        return self.session.cipher_ring(self.session.parameters.refresh_limbs)

    def _map(self, output: RefreshOutput) -> RingMap | None:
        p = self.session.parameters
        return None if output.slot_map is None else ring_map(output.slot_map, p.ring_dim, p.moduli)

    # a party's part

    def share(self, secret: SecretShare) -> Share:
        """(sum of the limbs of all inputs and outputs, ring_dim)"""
        secret.serve_once(self.name, self.instance)
        noise, moduli = secret_stream(), self._row_moduli
        rows = np.empty((len(moduli), self.session.parameters.ring_dim), dtype=np.uint64)
        masks = [self._mask(noise) for _ in self.c1s]
        for i, (mask, c1) in enumerate(zip(masks, self.c1s, strict=True)):
            h0 = rows[self._h0(i)]
            h0[:] = mask[: len(c1)]
            self._add_product(h0, secret, c1)
        for i, output in enumerate(self.outputs):
            h1, error = rows[self._h1(i)], gaussian(noise, rows.shape[1])
            self._ring(i).add_small(self._mapped_mask(output, masks[output.source]), error, h1)
            self._add_product(h1, secret, self._common(i))
        return Share(self.name, self.instance, frozenset({self.session.rank}), moduli, rows)

    def _mask(self, noise: Stream) -> Residues:
        """Every coefficient a uniform integer in [-2^(mask_bits-1), 2^(mask_bits-1)), as residues modulo all of Q.

        In the coefficient domain.
        """
        p = self.session.parameters
        words = uniform_words(noise, p.mask_bits, p.ring_dim)
        return self.session.cipher_ring().from_words(words, offset=-(1 << (p.mask_bits - 1)))

    def _mapped_mask(self, output: RefreshOutput, mask: Residues) -> Residues:
        """phi(M_i), coefficient domain."""
        phi = self._map(output)
        return mask if phi is None else self._spread(phi, phi(mask[:, :: phi.stride]))

    def _spread(self, phi: RingMap, thin: Residues) -> Residues:
        """A polynomial in X^stride as one in X."""
        out = np.zeros((len(thin), self.session.parameters.ring_dim), dtype=np.uint64)
        out[:, :: phi.stride] = thin
        return out

    def _add_product(self, x: Residues, secret: SecretShare, c: Residues) -> None:
        """x + s c instead of x, which comes in the coefficient domain and leaves in the evaluation domain."""
        ring_ = self.session.cipher_ring(len(c))
        ring_.ntt_in_place(x)
        ring_.multiply_add(x, secret.residues(self.session.cipher_ring())[: len(c)], c)

    def _common(self, index: int) -> Residues:
        """a' of one output: kept, for it is needed for the share and again for the fresh ciphertext."""
        if index not in self._expanded:
            stream = self.session.common(self.name, self.instance.hex(), index)
            self._expanded[index] = uniform(stream, self._ring(index))
        return self._expanded[index]

    @cached_property
    def _expanded(self) -> dict[int, Residues]:
        return {}

    # where things stand in the rows of a share

    @property
    def _row_moduli(self) -> tuple[int, ...]:
        made = (q for i in range(len(self.outputs)) for q in self._ring(i).moduli)
        return (*self._low.moduli * len(self.c1s), *made)

    def _h0(self, index: int) -> slice:
        return slice(index * self._low.n_limbs, (index + 1) * self._low.n_limbs)

    def _h1(self, index: int) -> slice:
        start = len(self.c1s) * self._low.n_limbs + sum(self.limbs(i) for i in range(index))
        return slice(start, start + self.limbs(index))

    def _places(self, sources: Collection[int]) -> list[slice]:
        """The h0 of these inputs, then the h1 of all their outputs."""
        return [*map(self._h0, sources), *map(self._h1, self._outputs_of(sources))]

    def _outputs_of(self, sources: Collection[int]) -> list[int]:
        return [index for index, output in enumerate(self.outputs) if output.source in sources]

    # what is made of the total

    def part(self, total: Share, sources: Collection[int]) -> Share:
        """What of the total concerns these inputs, in rising order: all that their owner needs to finalize them.

        Raises ShareError unless every party contributed exactly once.
        """
        check_complete(total, self.name, self.instance, self.session.parameters.n_parties)
        rows: Residues = np.concatenate([total.rows[place] for place in self._places(sources)])
        return Share(self.name, self.part_instance(sources), total.contributors, self.part_moduli(sources), rows)

    def part_instance(self, sources: Collection[int]) -> bytes:
        """Names whose part of which run it is: nobody takes another's for its own. All of it is the total."""
        if len(sources) == len(self.c1s):
            return self.instance
        return self.session.instance(self.name, self.instance, *(b"%d" % source for source in sources))

    def part_moduli(self, sources: Collection[int]) -> tuple[int, ...]:
        """Those of its rows."""
        moduli = self._row_moduli
        return tuple(q for place in self._places(sources) for q in moduli[place])

    def finalize(self, part: Share, c0s: Mapping[int, Residues]) -> dict[int, Residues]:
        """The new c0 (its limbs, ring_dim) by output, of all outputs of those inputs whose old c0 are given, by index.

        part: of just these inputs; of all of them it is the total. Raises ShareError if it is another's or another
        run's, or unless every party contributed exactly once.
        """
        sources = sorted(c0s)
        check_complete(part, self.name, self.part_instance(sources), self.session.parameters.n_parties)
        indices = self._outputs_of(sources)
        heights = [self._low.n_limbs] * len(sources) + [self.limbs(index) for index in indices]
        blocks: list[Residues] = np.split(part.rows, np.cumsum(heights)[:-1])
        h0s, h1s = blocks[: len(sources)], blocks[len(sources) :]
        masked = {i: self._low.add(c0s[i], h0) for i, h0 in zip(sources, h0s, strict=True)}
        coefficients = {i: self._low.intt(x) for i, x in masked.items()}
        made = {}
        for index, h1 in zip(indices, h1s, strict=True):
            phi, source = self._map(self.outputs[index]), self.outputs[index].source
            if phi is None:
                value = self._lifted(masked[source], coefficients[source])
            else:
                value = self._mapped(phi, coefficients[source])
            made[index] = self._ring(index).subtract(value, h1)
        return made

    def _lifted(self, masked: Residues, coefficients: Residues) -> Residues:
        """The centred integers with these residues at the low modulus, at the full one; evaluation domain.

        Only the limbs that are new need transforms: the others are the same.
        """
        p = self.session.parameters
        if p.refresh_limbs == p.n_limbs:
            return masked
        new = ring(p.ring_dim, p.moduli[p.refresh_limbs :])
        lifted = lift(coefficients, self._low.moduli, new.moduli)
        new.ntt_in_place(lifted)
        return np.concatenate([masked, lifted])

    def _mapped(self, phi: RingMap, coefficients: Residues) -> Residues:
        """phi of the same; evaluation domain."""
        thin = np.ascontiguousarray(coefficients[:, :: phi.stride])
        spread = self._spread(phi, phi(lift(thin, self._low.moduli, self.session.parameters.moduli)))
        self.session.cipher_ring(len(spread)).ntt_in_place(spread)
        return spread

    def fresh(self, index: int, c0: Residues, scale: float) -> RingCiphertext:
        """The refreshed ciphertext of this output, c1 expanded from the common seed. scale: the input's."""
        return RingCiphertext(c0, self._common(index), scale, self.session.key_id)

    def error_bound(self, index: int = 0, message: float = 0.0) -> float:
        """Largest coefficient by which this output differs from phi of the input, but for probability 2^-40.

        message: bound on the input's slots times its scale, of which the encoding of phi loses a part. The noise of
        the input is mapped like its message: it grows by up to `SlotMap.growth`. A division rounds once for every
        party, and once at the end.
        """
        p = self.session.parameters
        phi = self._map(self.outputs[index])
        bound = tail(p.ring_dim * len(self.outputs)) * refresh_error_std(p.n_parties)
        if phi is None:
            return bound
        rounding = (p.n_parties + 1) / 2 if self.outputs[index].levels else 0.0
        return bound + rounding + phi.encoding_error() * message
