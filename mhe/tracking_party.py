"""`TrackingParty`: one party of a run that is only planned; it follows sizes and noise, and talks to nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mhe.backend.tracking import Size, TrackingBackend
from mhe.ciphertext import Ciphertext
from mhe.errors import LevelError
from mhe.parameters import Parameters
from mhe.security import refresh_error_std, rerandomised_std


@dataclass
class TrackingParty:
    """What a step needs of a `Party`, as the root sees it.

    counts: ciphertexts refreshed and summed, by protocol and limbs.
    """

    parameters: Parameters
    backend: TrackingBackend = field(init=False)
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.backend = TrackingBackend(self.parameters)

    def encrypted(self, value: float, noise: float, scale: float, period: int) -> Ciphertext:
        """A ciphertext of full limbs with these size."""
        return self.backend.ciphertext(Size(value, noise), self.parameters.n_limbs, scale, period)

    def sum(self, ciphertexts: Sequence[Ciphertext]) -> list[Ciphertext]:
        """Every party's are as large and as noisy as this one's."""
        n = self.parameters.n_parties
        out = []
        for c in map(self._rerandomised, ciphertexts):
            self.counts["sum", c.limbs] += 1
            size = self.backend.size(c)
            out.append(self.backend.ciphertext(Size(n * size.value, n**0.5 * size.noise), c.limbs, c.scale, c.period))
        return out

    def refresh(
        self, ciphertexts: Sequence[Ciphertext] | None, count: int, scale: float, period: int
    ) -> list[Ciphertext]:
        self.counts["refresh", self.parameters.refresh_limbs] += count
        return [self._refreshed(c) for c in ciphertexts or ()]

    def refresh_own(self, ciphertexts: Sequence[Ciphertext]) -> list[Ciphertext]:
        self.counts["refresh_own", self.parameters.refresh_limbs] += len(ciphertexts)
        return [self._refreshed(self._rerandomised(c)) for c in ciphertexts]

    def _rerandomised(self, c: Ciphertext) -> Ciphertext:
        return self._noisier(c, rerandomised_std(self.parameters, c.limbs))

    def _refreshed(self, c: Ciphertext) -> Ciphertext:
        if c.limbs != self.parameters.refresh_limbs:
            raise LevelError(f"a refresh takes ciphertexts of {self.parameters.refresh_limbs} limbs, got {c.limbs}")
        noisy = self.backend.size(self._noisier(c, refresh_error_std(self.parameters.n_parties)))
        return self.encrypted(noisy.value, noisy.noise, c.scale, c.period)

    def _noisier(self, c: Ciphertext, coefficient_std: float) -> Ciphertext:
        std = self.backend.slot_noise(coefficient_std, c.scale)
        return self.backend.ciphertext(self.backend.size(c).with_noise(std), c.limbs, c.scale, c.period)
