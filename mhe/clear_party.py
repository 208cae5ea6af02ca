"""`ClearParty`: the same run without cryptography, at numpy speed: same calls, levels, rounds and simulated errors.

Everybody's values travel in the clear, as float64: for planning, tuning and tests, never for rows that must stay
private.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mhe.backend.clear import ClearBackend, ClearCiphertext
from mhe.ciphertext import Ciphertext
from mhe.collective import Collective
from mhe.errors import LevelError
from mhe.keys import KeyPlan
from mhe.parameters import Parameters
from mhe.security import (
    mapped_refresh_rounding_std,
    refresh_error_std,
    rerandomised_norm,
    rerandomised_std,
    smudging_std,
)
from mhe.share import Share
from mhe.slot_map import RefreshOutput, checked_outputs

Floats = npt.NDArray[np.float64]

KEY_ID = "clear"


class ClearParty:
    """A `Party` that simulates. noise: whether operations add the error that CKKS and the smudging would."""

    def __init__(
        self,
        collective: Collective,
        parameters: Parameters,
        *,
        statistical_bits: int,
        releases: int,
        noise: bool = True,
        seed: int = 0,
    ) -> None:
        self.collective = collective
        self.parameters = parameters
        self.backend = ClearBackend(
            parameters, KEY_ID, frozenset(), relinearisation=False, noise=noise, seed=seed + collective.rank
        )
        self._random = np.random.default_rng([seed, collective.rank]) if noise else None
        self._statistical_bits = statistical_bits
        self._releases = releases
        self._steps = 0

    def make_keys(self, plan: KeyPlan) -> None:
        products = self.collective.is_root or not plan.products_at_root
        if plan.relinearisation and products:
            self.backend.load_relinearisation_key(limbs=plan.relinearisation)
        for rotation, limbs in {**plan.everywhere, **(plan.root_only if self.collective.is_root else {})}.items():
            self.backend.load_rotation_key(rotation, limbs=limbs)
        if plan.conjugation and products:
            self.backend.load_conjugation_key(limbs=plan.conjugation)

    def encrypt_zero(self, scale: float, period: int) -> Ciphertext:
        return self._import(np.zeros(period), self.parameters.n_limbs, scale)

    def encrypt_own(self, values: Floats, limbs: int, scale: float) -> Ciphertext:
        p = self.parameters
        width = rerandomised_std(p, limbs) * math.sqrt(p.n_slots) / scale
        return self._import(self._noisy(values, width), limbs, scale)

    def sum(self, ciphertexts: Sequence[Ciphertext]) -> list[Ciphertext] | None:
        longest = max(c.period for c in ciphertexts)
        mine = [np.resize(self._rerandomised(c), (1, longest)) for c in ciphertexts]
        total = self.collective.reduce(self._share("sum", np.concatenate(mine)))
        if total is None:
            return None
        rows = np.asarray(total.rows, dtype=np.float64)
        return [self._import(row[: c.period], c.limbs, c.scale) for row, c in zip(rows, ciphertexts, strict=True)]

    def refresh(
        self,
        ciphertexts: Sequence[Ciphertext] | None,
        count: int,
        scale: float,
        period: int,
        outputs: Sequence[RefreshOutput] = (),
    ) -> list[Ciphertext]:
        outputs = self._checked_outputs(ciphertexts or (), [period] * count, outputs)
        values = [self.backend.export_ciphertext(c).values for c in ciphertexts or ()]
        rows = self._from_root("refresh", np.concatenate(values) if values else None)
        return [self._refreshed(rows[output.source], scale, output) for output in outputs]

    def refresh_at_root(
        self,
        ciphertexts: Sequence[Ciphertext] | None,
        count: int,
        scale: float,
        period: int,
        outputs: Sequence[RefreshOutput] = (),
    ) -> list[Ciphertext] | None:
        outputs = self._checked_outputs(ciphertexts or (), [period] * count, outputs)
        if ciphertexts is None:
            return None
        values = [self.backend.export_ciphertext(c).values[0] for c in ciphertexts]
        return [self._refreshed(values[output.source], scale, output) for output in outputs]

    def refresh_own(self, ciphertexts: Sequence[Ciphertext], outputs: Sequence[RefreshOutput] = ()) -> list[Ciphertext]:
        outputs = self._checked_outputs(ciphertexts, [c.period for c in ciphertexts], outputs)
        values = [self._rerandomised(c)[0] for c in ciphertexts]
        return [self._refreshed(values[o.source], ciphertexts[o.source].scale, o) for o in outputs]

    def encrypted_sum(self, values: Floats) -> Floats:
        total = self.collective.reduce(self._share("encrypted_sum", values[None]))
        rows = self._from_root("encrypted_sum", None if total is None else np.asarray(total.rows, dtype=np.float64))
        return rows.reshape(-1)

    def decrypt(
        self, ciphertext: Ciphertext | None, limbs: int, scale: float, period: int, noise_norm: float
    ) -> Floats:
        smudged = None
        if ciphertext is not None:
            width = self._smudging(noise_norm) * math.sqrt(self.parameters.n_parties * period) / scale
            smudged = self._noisy(self.backend.export_ciphertext(ciphertext).values, width)
        return self._from_root("decryption", smudged).reshape(-1)

    def mean(self, ciphertext: Ciphertext | None, limbs: int, scale: float, noise_norm: float) -> float:
        smudged = None
        if ciphertext is not None:
            width = self._smudging(noise_norm) * math.sqrt(self.parameters.n_parties) / scale
            smudged = self._noisy(self.backend.export_ciphertext(ciphertext).values.mean(keepdims=True), width)
        return float(self._from_root("decryption", smudged).item())

    def deliver(self, ciphertexts: Sequence[Ciphertext], noise_norm: float) -> list[Floats]:
        out = []
        for ciphertext in ciphertexts:
            values = self._rerandomised(ciphertext)[0]
            added = rerandomised_norm(self.parameters, ciphertext.limbs)
            width = self._smudging(noise_norm + added) * math.sqrt(self.parameters.n_parties * ciphertext.period)
            out.append(self._noisy(values, width / ciphertext.scale))
        return out

    def close(self) -> None:
        self.backend.close()

    def _smudging(self, noise_norm: float) -> float:
        return smudging_std(noise_norm, self._statistical_bits, self._releases)

    def _checked_outputs(
        self, ciphertexts: Sequence[Ciphertext], periods: Sequence[int], outputs: Sequence[RefreshOutput]
    ) -> tuple[RefreshOutput, ...]:
        outputs = checked_outputs(outputs, periods)
        for ciphertext in ciphertexts:
            self._check_refreshable(ciphertext)
        return outputs

    def _check_refreshable(self, ciphertext: Ciphertext) -> None:
        if ciphertext.limbs != self.parameters.refresh_limbs:
            raise LevelError(
                f"a refresh takes ciphertexts of {self.parameters.refresh_limbs} limbs, got {ciphertext.limbs}; "
                "drop limbs, or refresh before the last rescale"
            )

    def _rerandomised(self, ciphertext: Ciphertext) -> Floats:
        """Its values (1, period), with the error of an encryption of zero."""
        width = rerandomised_std(self.parameters, ciphertext.limbs) * math.sqrt(self.parameters.n_slots)
        return self._noisy(self.backend.export_ciphertext(ciphertext).values, width / ciphertext.scale)

    def _refreshed(self, values: Floats, scale: float, output: RefreshOutput) -> Ciphertext:
        p = self.parameters
        if output.levels >= p.n_limbs:
            raise LevelError(f"the map takes {output.levels} limbs of {p.n_limbs}; compose it of fewer factors")
        variance = refresh_error_std(p.n_parties) ** 2 * p.n_slots
        if output.slot_map is not None:
            values = output.slot_map(np.resize(values, output.slot_map.period))
            variance += (output.levels > 0) * mapped_refresh_rounding_std(p.n_parties) ** 2 * len(values)
        return self._import(self._noisy(values, math.sqrt(variance) / scale), p.n_limbs - output.levels, scale)

    def _noisy(self, values: Floats, std: float) -> Floats:
        return values if self._random is None else values + self._random.normal(0, std, values.shape)

    def _import(self, values: Floats, limbs: int, scale: float) -> Ciphertext:
        return self.backend.import_ciphertext(ClearCiphertext(values[None], limbs, scale, KEY_ID), len(values))

    def _instance(self) -> bytes:
        """Names the next message: all parties send the same ones in the same order."""
        self._steps += 1
        return self._steps.to_bytes(8, "little")

    def _share(self, name: str, rows: Floats) -> Share:
        return Share(name, self._instance(), frozenset({self.collective.rank}), (), np.ascontiguousarray(rows))

    def _from_root(self, name: str, rows: Floats | None) -> Floats:
        """The root's rows, at every party."""
        instance, me = self._instance(), frozenset({self.collective.rank})
        mine = None if rows is None else Share(name, instance, me, (), np.ascontiguousarray(rows))
        return np.asarray(self.collective.broadcast(mine).rows, dtype=np.float64)
