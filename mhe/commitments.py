"""What all parties contribute to and none determines: each commits to its part before any part is revealed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from mhe.collective import Collective
from mhe.errors import ShareError
from mhe.keys import PublicKey, SecretShare
from mhe.protocols.public_key import PublicKeyProtocol
from mhe.session import SEED_BYTES, Session
from mhe.share import Share, aggregate, check_reduced


def toss_seed(collective: Collective) -> bytes:
    """A common random seed that no party alone determines: everyone commits to a nonce, then reveals it.

    Raises ShareError if a revealed nonce is not the committed one.
    """
    nonce = os.urandom(SEED_BYTES)
    commitments = collective.allgather(_digest(nonce))
    nonces = collective.allgather(nonce)
    for rank, (commitment, revealed) in enumerate(zip(commitments, nonces, strict=True)):
        if _digest(revealed) != commitment:
            raise ShareError(f"party {rank} revealed another nonce than it committed to; exclude it and start anew")
    return _digest(b"".join(nonces))


def make_public_key(session: Session, secret: SecretShare, collective: Collective) -> PublicKey:
    """The collective public key: commit, reveal, check everybody's commitment, add up.

    Raises ShareError if a revealed share is malformed, or not the committed one.
    """
    protocol = PublicKeyProtocol(session)
    mine = protocol.share(secret)
    commitments = collective.allgather(protocol.commitment(mine))
    revealed = collective.allgather(mine.rows.tobytes())
    return collective.once("public_key", lambda: _added_up(protocol, mine, commitments, revealed))


def _added_up(
    protocol: PublicKeyProtocol, mine: Share, commitments: Sequence[bytes], revealed: Sequence[bytes]
) -> PublicKey:
    total: Share | None = None
    for rank, blob in enumerate(revealed):
        if len(blob) != mine.rows.nbytes:
            raise ShareError(f"party {rank} revealed {len(blob)} bytes of public key; need {mine.rows.nbytes}")
        rows = np.frombuffer(blob, dtype=np.uint64).reshape(mine.rows.shape)
        share = Share(protocol.name, protocol.instance, frozenset({rank}), mine.moduli, rows)
        check_reduced(share)
        protocol.check_commitment(share, commitments[rank])
        total = share if total is None else aggregate(total, share)
    if total is None:
        raise ShareError("no party revealed a public key share")
    return protocol.finalize(total)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=SEED_BYTES, person=b"mhe coin toss").digest()
