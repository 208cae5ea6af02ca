"""`TrackingParty`: one party of a run that is only planned; it follows sizes and noise, and talks to nobody."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mhe.backend.tracking import Size, TrackingBackend
from mhe.ciphertext import Ciphertext
from mhe.errors import LevelError
from mhe.parameters import Parameters
from mhe.security import fresh_error_std, mapped_refresh_rounding_std, refresh_error_std, rerandomised_std
from mhe.slot_map import RefreshOutput, check_periods, plain_outputs

Floats = npt.NDArray[np.float64]


@dataclass
class TrackingParty:
    """What a step needs of a `Party`, as the root sees it.

    largest: what is refreshed is taken to be no larger. centred: as of `TrackingBackend`. counts: ciphertexts refreshed
    and summed, by protocol and limbs.
    """

    parameters: Parameters
    largest: float = math.inf
    centred: bool = False
    backend: TrackingBackend = field(init=False)
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.backend = TrackingBackend(self.parameters, centred=self.centred)

    def encrypted(self, value: float, noise: float, scale: float, period: int) -> Ciphertext:
        """A ciphertext of full limbs and this size."""
        return self.backend.ciphertext(Size(value, noise), self.parameters.n_limbs, scale, period)

    def encrypt_own(self, values: Floats, limbs: int, scale: float) -> Ciphertext:
        p = self.parameters
        error = self.backend.slot_noise(fresh_error_std(p.ring_dim, p.n_parties), scale)
        size = Size(math.sqrt(float(np.square(values).mean())), error)
        return self.backend.ciphertext(size, limbs, scale, len(values))

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
        self,
        ciphertexts: Sequence[Ciphertext] | None,
        count: int,
        scale: float,
        period: int,
        outputs: Sequence[RefreshOutput] = (),
    ) -> list[Ciphertext]:
        self.counts["refresh", self.parameters.refresh_limbs] += count
        return self._refreshed(list(ciphertexts or ()), outputs)

    def refresh_own(self, ciphertexts: Sequence[Ciphertext], outputs: Sequence[RefreshOutput] = ()) -> list[Ciphertext]:
        self.counts["refresh_own", self.parameters.refresh_limbs] += len(ciphertexts)
        return self._refreshed([self._rerandomised(c) for c in ciphertexts], outputs)

    def _rerandomised(self, c: Ciphertext) -> Ciphertext:
        return self._noisier(c, rerandomised_std(self.parameters, c.limbs))

    def _refreshed(self, ciphertexts: Sequence[Ciphertext], outputs: Sequence[RefreshOutput]) -> list[Ciphertext]:
        for c in ciphertexts:
            if c.limbs != self.parameters.refresh_limbs:
                raise LevelError(f"a refresh takes ciphertexts of {self.parameters.refresh_limbs} limbs, got {c.limbs}")
        outputs = tuple(outputs) or plain_outputs(len(ciphertexts))
        if ciphertexts:
            check_periods(outputs, [c.period for c in ciphertexts])
        return [self._mapped(ciphertexts[o.source], o) for o in outputs if ciphertexts]

    def _mapped(self, c: Ciphertext, output: RefreshOutput) -> Ciphertext:
        """A map's diagonals act on slots that are taken for independent; a division rounds once more."""
        p = self.parameters
        std, size = refresh_error_std(p.n_parties), self.backend.size(c)
        if output.slot_map is not None:
            size = size.times(output.slot_map.mean_growth)
            std = math.hypot(std, (output.levels > 0) * mapped_refresh_rounding_std(p.n_parties))
        noisy = size.with_noise(self.backend.slot_noise(std, c.scale))
        bounded = Size(min(noisy.value, self.largest), noisy.noise)
        return self.backend.ciphertext(bounded, p.n_limbs - output.levels, c.scale, output.period(c.period))

    def _noisier(self, c: Ciphertext, coefficient_std: float) -> Ciphertext:
        std = self.backend.slot_noise(coefficient_std, c.scale)
        return self.backend.ciphertext(self.backend.size(c).with_noise(std), c.limbs, c.scale, c.period)
