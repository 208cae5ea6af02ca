"""`Link`: the connections between parties on machines of their own, and how long a pass over the tree takes on them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mhe.codec import CHUNK_BYTES, message_bytes
from mhe.collective import Transfer
from mhe.errors import ConfigError
from network.topology import Tree

_RATES = {"kbps": 1e3, "mbps": 1e6, "gbps": 1e9}
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_PATTERN = re.compile(r"\s*(\d+\.?\d*)\s*([kmg]bps)\s*/\s*(\d+\.?\d*)\s*(us|ms|s)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Link:
    """A party's connection, both ways at once: bits_per_second, and latency_seconds from one party to another."""

    bits_per_second: float
    latency_seconds: float

    @classmethod
    def parse(cls, text: str) -> Link:
        """From RATE/LATENCY, for example 1gbps/20ms. Raises ConfigError."""
        found = _PATTERN.fullmatch(text)
        if found is None or float(found[1]) == 0:
            raise ConfigError(f"a link of {text!r}; need RATE/LATENCY, for example 1gbps/20ms or 100mbps/0.5ms")
        return cls(float(found[1]) * _RATES[found[2].lower()], float(found[3]) * _TIMES[found[4].lower()])

    def seconds(self, tree: Tree, transfer: Transfer) -> float:
        """Of one pass over the tree.

        Chunks follow each other up or down without waiting for the whole message, so that hops add their latency and
        the time of one chunk only; a party with several children shares its connection among them.
        """
        if tree.depth == 0:
            return 0.0
        widest = len(tree.children(tree.root))
        size = message_bytes(transfer.protocol, transfer.n_rows, transfer.n_columns, tree.n_parties)
        chunk = min(size, CHUNK_BYTES)
        carried = 8 * widest / self.bits_per_second
        return tree.depth * (self.latency_seconds + chunk * carried) + (size - chunk) * carried
