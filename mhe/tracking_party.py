"""`TrackingParty`: one party of a run that is only planned; it follows sizes and noise, and talks to nobody."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mhe.backend.tracking import Size, TrackingBackend
from mhe.ciphertext import Ciphertext
from mhe.errors import LevelError
from mhe.parameters import Parameters
from mhe.security import mapped_refresh_rounding_std, refresh_error_std, rerandomised_std
from mhe.slot_map import RefreshOutput, check_periods, plain_outputs

Floats = npt.NDArray[np.float64]


@dataclass
class TrackingParty:
    """What a step needs of a `Party`, as the root sees it, or another party.

    largest: what is refreshed is taken to be no larger. centred: see `TrackingBackend`. is_root: at the others,
    sums are None, and what comes back from the root has no size. counts: this party's part in the protocols, by
    piece and limbs: "own_encryption" and "rerandomise" of a ciphertext, "mask" of an input of a refresh and "fresh"
    of an output, in shares, and "lift" of an output that this party finalizes ("mapped_fresh" and "mapped_lift" of
    a linear map). passes: all counts so far, of the evaluator too, at each pass over the tree, in their order.
    """

    parameters: Parameters
    largest: float = math.inf
    centred: bool = False
    is_root: bool = True
    backend: TrackingBackend = field(init=False)
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    passes: list[Counter[tuple[str, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.backend = TrackingBackend(self.parameters, centred=self.centred)

    def encrypted(self, value: float, noise: float, scale: float, period: int) -> Ciphertext:
        """A ciphertext of full limbs and this size."""
        return self.backend.ciphertext(Size(value, noise), self.parameters.n_limbs, scale, period)

    def encrypt_own(self, values: Floats, limbs: int, scale: float) -> Ciphertext:
        p = self.parameters
        self.counts["own_encryption", limbs] += 1
        error = self.backend.slot_noise(rerandomised_std(p, limbs), scale)
        size = Size(math.sqrt(float(np.square(values).mean())), error)
        return self.backend.ciphertext(size, limbs, scale, len(values))

    def sum(self, ciphertexts: Sequence[Ciphertext]) -> list[Ciphertext] | None:
        """Every party's are as large and as noisy as this one's."""
        n = self.parameters.n_parties
        out = []
        for c in map(self._rerandomised, ciphertexts):
            size = self.backend.size(c)
            total = replace(size.times(n**0.5), value=n * size.value)
            out.append(self.backend.ciphertext(total, c.limbs, c.scale, c.period))
        self._pass()
        return out if self.is_root else None

    def refresh(
        self,
        ciphertexts: Sequence[Ciphertext] | None,
        count: int,
        scale: float,
        period: int,
        outputs: Sequence[RefreshOutput] = (),
    ) -> list[Ciphertext]:
        made = self.refresh_at_root(ciphertexts, count, scale, period, outputs)
        self._pass()
        if made is not None:
            return made
        unknown = self.backend.ciphertext(Size(0.0, 0.0), self.parameters.refresh_limbs, scale, period)
        return self._refreshed([unknown] * count, tuple(outputs) or plain_outputs(count))

    def refresh_at_root(
        self,
        ciphertexts: Sequence[Ciphertext] | None,
        count: int,
        scale: float,
        period: int,
        outputs: Sequence[RefreshOutput] = (),
    ) -> list[Ciphertext] | None:
        made = tuple(outputs) or plain_outputs(count)
        self._pass()
        self._share(made, count, 1)
        self._pass()
        if not self.is_root or ciphertexts is None:
            return None
        self._finalize(made)
        return self._refreshed(ciphertexts, made)

    def refresh_own(self, ciphertexts: Sequence[Ciphertext], outputs: Sequence[RefreshOutput] = ()) -> list[Ciphertext]:
        made = tuple(outputs) or plain_outputs(len(ciphertexts))
        own = [self._rerandomised(c) for c in ciphertexts]
        self._pass(2)
        self._share(made, len(ciphertexts), self.parameters.n_parties)
        self._pass(2)
        self._finalize(made)
        return self._refreshed(own, made)

    def _pass(self, times: int = 1) -> None:
        self.passes += [Counter(self.backend.counts) + self.counts] * times

    def _share(self, outputs: Sequence[RefreshOutput], inputs: int, owners: int) -> None:
        """Every party's share has its part of all owners' ciphertexts."""
        self.counts["mask", self.parameters.refresh_limbs] += owners * inputs
        self._count("fresh", outputs, owners)

    def _finalize(self, outputs: Sequence[RefreshOutput]) -> None:
        """Each owner finalizes its own."""
        self._count("lift", outputs, 1)

    def _count(self, piece: str, outputs: Sequence[RefreshOutput], times: int) -> None:
        for output in outputs:
            name = piece if output.slot_map is None else f"mapped_{piece}"
            self.counts[name, self.parameters.n_limbs - output.levels] += times

    def _rerandomised(self, c: Ciphertext) -> Ciphertext:
        self.counts["rerandomise", c.limbs] += 1
        return self._noisier(c, rerandomised_std(self.parameters, c.limbs))

    def _refreshed(self, ciphertexts: Sequence[Ciphertext], outputs: Sequence[RefreshOutput]) -> list[Ciphertext]:
        for c in ciphertexts:
            if c.limbs != self.parameters.refresh_limbs:
                raise LevelError(f"a refresh takes ciphertexts of {self.parameters.refresh_limbs} limbs, got {c.limbs}")
        check_periods(outputs, [c.period for c in ciphertexts])
        return [self._mapped(ciphertexts[o.source], o) for o in outputs]

    def _mapped(self, c: Ciphertext, output: RefreshOutput) -> Ciphertext:
        """A map's diagonals act on slots that are taken for independent; a division rounds once more."""
        p = self.parameters
        std, size = refresh_error_std(p.n_parties), self.backend.size(c)
        if output.slot_map is not None:
            size = size.times(output.slot_map.mean_growth)
            std = math.hypot(std, (output.levels > 0) * mapped_refresh_rounding_std(p.n_parties))
        noisy = size.with_noise(self.backend.slot_noise(std, c.scale))
        bounded = replace(noisy, value=min(noisy.value, self.largest))
        return self.backend.ciphertext(bounded, p.n_limbs - output.levels, c.scale, output.period(c.period))

    def _noisier(self, c: Ciphertext, coefficient_std: float) -> Ciphertext:
        std = self.backend.slot_noise(coefficient_std, c.scale)
        return self.backend.ciphertext(self.backend.size(c).with_noise(std), c.limbs, c.scale, c.period)
