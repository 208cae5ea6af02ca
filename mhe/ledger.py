"""`Ledger`: what a secret share was used for; what must not happen twice, or too often, is refused here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from mhe.errors import ParameterError, ShareError

ENTRY_BYTES = 32


class Ledger:
    """The protocol instances that one share has served, and how many ciphertexts it helped to release.

    Two different shares for one instance would reveal the secret (ePrint 2024/194, ePrint 2025/409); more releases than
    the smudging was sized for would let the noise through. Both are entered, and kept if there is a place to keep them,
    before the share that they are about can leave.

    served: entries of earlier sessions, ENTRY_BYTES each. released: ciphertexts released in them.
    """

    __slots__ = ("_done", "_keep", "released", "served")

    def __init__(self, served: Iterable[bytes] = (), released: int = 0) -> None:
        self.served = set(served)
        self.released = released
        self._keep: Callable[[], None] | None = None
        self._done: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"Ledger(served={len(self.served)}, released={self.released})"

    def keep_with(self, keep: Callable[[], None], done: Callable[[], None]) -> None:
        """Call `keep` after every entry, before anyone acts on it, and `done` when no more will come."""
        self._keep, self._done = keep, done

    def serve_once(self, protocol: str, instance: bytes) -> None:
        """Enter a protocol instance. Raises ShareError if it was served before."""
        entry = hashlib.blake2b(instance, digest_size=ENTRY_BYTES, key=protocol.encode(), person=b"mhe ledger").digest()
        if entry in self.served:
            raise ShareError(
                f"{protocol} instance {instance.hex()[:8]} was served before: a second share would leak the secret; "
                "start a new instance"
            )
        self.served.add(entry)
        self._kept()

    def release(self, count: int, allowed: int) -> None:
        """Enter the release of `count` more ciphertexts. Beyond `allowed` raises ParameterError, and enters nothing."""
        if self.released + count > allowed:
            raise ParameterError(
                f"release number {self.released + count} of a key planned for {allowed}: the smudging would no longer "
                "hide the noise; plan for more releases"
            )
        self.released += count
        self._kept()

    def close(self) -> None:
        """No more entries will come."""
        done, self._keep, self._done = self._done, None, None
        if done is not None:
            done()

    def _kept(self) -> None:
        if self._keep is not None:
            self._keep()
