"""`Session`: what all parties of one run have in common, and the names of its protocol instances."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from mhe.ciphertext import Residues
from mhe.errors import ParameterError
from mhe.parameters import Parameters
from mhe.ring.ring import Ring, ring
from mhe.ring.sampling import Stream, public_stream

SEED_BYTES = 32


@dataclass(frozen=True)
class Session:
    """One party's view of the run: parameters, its rank and the common random seed.

    seed: 32 public bytes to which every party contributed; all common randomness is expanded from it and never sent.
    key_seed: that of the session in which the collective key was made, where it was an earlier one.
    """

    parameters: Parameters
    rank: int
    seed: bytes
    key_seed: bytes | None = None

    def __post_init__(self) -> None:
        for seed in (self.seed, self.seed if self.key_seed is None else self.key_seed):
            if len(seed) != SEED_BYTES:
                raise ParameterError(f"the common seed has {len(seed)} bytes; need {SEED_BYTES}")

    @property
    def key_id(self) -> str:
        """Names the collective key of this session."""
        seed = self.seed if self.key_seed is None else self.key_seed
        return hashlib.blake2b(seed, digest_size=8, person=b"mhe key id").hexdigest()

    def common(self, *labels: str | int) -> Stream:
        """The common random stream of these labels, the same at every party."""
        return public_stream(self.seed, *labels)

    def instance(self, protocol: str, *inputs: bytes | Residues) -> bytes:
        """32 bytes that name one run of a protocol: a digest of session, parameters, protocol and all its inputs.

        SHA-256, for the inputs are long: the one hash that processors have instructions for. Arrays are C-contiguous.
        """
        digest = hashlib.sha256(b"mhe instance")
        for part in (self.seed, self.parameters.digest, protocol.encode(), *inputs):
            view = memoryview(part)  # type: ignore[arg-type]  # before Python 3.12 no type says "buffer"
            digest.update(view.nbytes.to_bytes(8, "little"))
            digest.update(view)
        return digest.digest()

    def cipher_ring(self, limbs: int | None = None) -> Ring:
        """The ring modulo the first `limbs` moduli of the chain (all of them by default)."""
        p = self.parameters
        return ring(p.ring_dim, p.moduli[:limbs])

    def key_ring(self, limbs: int | None = None) -> Ring:
        """The ring modulo Q*P in which evaluation keys live, Q of the first `limbs` limbs (all by default)."""
        p = self.parameters
        return ring(p.ring_dim, p.moduli[:limbs] + p.special_moduli)
