"""Which evaluation keys a process holds for which key id: bookkeeping for libraries whose keys are process-wide."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from mhe.errors import KeyMismatchError

RELINEARISATION = 0
"""Stands for the relinearisation key where others are named by the exponent of their automorphism (odd)."""


class KeyStore:
    """Keys by key id: shared by all parties that this process plays, dropped with the last of them.

    drop: removes the automorphism keys of a key id from the library.
    """

    def __init__(self, lock: threading.RLock, drop: Callable[[str], None]) -> None:
        self._lock = lock
        self._drop = drop
        self._users: Counter[str] = Counter()
        self._digests: dict[str, bytes] = {}
        self._held: dict[str, dict[int, tuple[bytes, Any]]] = {}

    def acquire(self, key_id: str, digest: bytes) -> None:
        """One more user. KeyMismatchError if the key id is in use under parameters of another digest."""
        with self._lock:
            if self._digests.setdefault(key_id, digest) != digest:
                raise KeyMismatchError(
                    f"key id {key_id} is in use under other parameters in this process; close that backend first"
                )
            self._users[key_id] += 1

    def release(self, key_id: str) -> None:
        """One user less; the last one's keys are dropped."""
        with self._lock:
            self._users[key_id] -= 1
            if self._users[key_id] == 0:
                del self._users[key_id], self._digests[key_id]
                if any(element != RELINEARISATION for element in self._held.pop(key_id, {})):
                    self._drop(key_id)

    def load(self, key_id: str, element: int, fingerprint: bytes, insert: Callable[[], Any]) -> Any:
        """What `insert` returned for this key, calling it only if the key is not held yet.

        Raises KeyMismatchError if another key (by its fingerprint) is held under the same name.
        """
        with self._lock:
            held = self._held.setdefault(key_id, {})
            if element not in held:
                held[element] = (fingerprint, insert())
            known, handle = held[element]
            if known != fingerprint:
                raise KeyMismatchError(
                    f"this process holds another evaluation key of {key_id} for automorphism {element}; close the "
                    "backend that loaded it first"
                )
            return handle
