"""`EncryptedParty`: a party with a real secret share, running every protocol with the others over a `Collective`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import RingBackend
from mhe.ciphertext import Ciphertext, Residues, RingCiphertext
from mhe.collective import Collective
from mhe.encoding import decode_subring
from mhe.encryption import decrypt, encrypt, encrypt_slots, rerandomise
from mhe.errors import KeyMismatchError, LevelError, ParameterError, ShareError
from mhe.keys import EphemeralSecret, EvaluationKey, KeptKey, KeyPlan, PublicKey, ReceiverSecret, SecretShare
from mhe.parameters import Parameters, log2_product
from mhe.protocols.decryption import DecryptionProtocol
from mhe.protocols.key_switch import KeySwitchProtocol, receiver_key, receiver_public_part
from mhe.protocols.public_key import PublicKeyProtocol
from mhe.protocols.refresh import RefreshProtocol
from mhe.protocols.relin_key import RelinKeyProtocol
from mhe.protocols.rotation_key import RotationKeyProtocol
from mhe.ring.galois import conjugation_element, galois_element
from mhe.ring.sampling import WideGaussian, secret_stream
from mhe.security import fresh_error_std, norm_bound, rerandomised_norm, secret_spread, smudging_std
from mhe.session import SEED_BYTES, Session
from mhe.share import Share, aggregate, check_complete, check_reduced
from mhe.slot_map import RefreshOutput, checked_outputs

Floats = npt.NDArray[np.float64]
BackendFactory = Callable[[Parameters, str], RingBackend]


class EncryptedParty:
    """The real thing: one secret share, and protocols over a `Collective`.

    What a party computed from its own rows leaves it through `sum`, `refresh_own` and `deliver` only, which rerandomise
    it first. `refresh` and `decrypt` are for what was computed from such sums and public material.

    statistical_bits, releases: the smudging of every decryption and key switch hides the noise to statistical_bits over
    that many releases in the life of the key; one more than planned is refused.
    kept: the key of an earlier session. Everything else that is common to the parties is fresh, so that no instance of
    a protocol of that session can occur again.
    """

    def __init__(
        self,
        collective: Collective,
        parameters: Parameters,
        make_backend: BackendFactory,
        *,
        statistical_bits: int,
        releases: int,
        kept: KeptKey | None = None,
    ) -> None:
        self.collective = collective
        self.parameters = parameters
        self._statistical_bits = statistical_bits
        self._releases = releases
        self._steps = 0
        with collective.phase("public_key"):
            key_seed = None if kept is None else kept.seed
            self.session = Session(parameters, collective.rank, toss_seed(collective), key_seed)
            self.backend = make_backend(parameters, self.session.key_id)
            self._secret = SecretShare.generate(parameters.ring_dim) if kept is None else kept.secret
            self.public_key = self._make_public_key() if kept is None else kept.public_key
        if self.public_key.key_id != self.session.key_id:
            raise KeyMismatchError(
                f"public key {self.public_key.key_id} is not that of this session, {self.session.key_id}; take both "
                "from the same model"
            )

    def __repr__(self) -> str:
        return f"EncryptedParty(rank={self.collective.rank}, key={self.session.key_id})"

    # set-up of keys

    def _make_public_key(self) -> PublicKey:
        """Commit, reveal, check everybody's commitment, add up."""
        protocol = PublicKeyProtocol(self.session)
        mine = protocol.share(self._secret)
        commitments = self.collective.allgather(protocol.commitment(mine))
        revealed = self.collective.allgather(mine.rows.tobytes())
        return self.collective.once("public_key", lambda: self._added_up(protocol, mine, commitments, revealed))

    @staticmethod
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

    def make_keys(self, plan: KeyPlan) -> None:
        with self.collective.phase("relin_key"):
            if plan.relinearisation:
                self._make_relinearisation_key(plan.relinearisation, root_only=plan.products_at_root)
        with self.collective.phase("rotation_keys"):
            n = self.parameters.ring_dim
            for rotations, root_only in ((plan.everywhere, False), (plan.root_only, True)):
                for rotation, limbs in rotations.items():
                    key = self._galois_key(galois_element(rotation, n), limbs, root_only=root_only)
                    if key is not None:
                        self.backend.load_rotation_key(rotation, key)
            if plan.conjugation:
                key = self._galois_key(conjugation_element(n), plan.conjugation, root_only=plan.products_at_root)
                if key is not None:
                    self.backend.load_conjugation_key(key)

    def _make_relinearisation_key(self, limbs: int, *, root_only: bool) -> None:
        protocol = RelinKeyProtocol(self.session, self.backend.key_limbs(limbs))
        ephemeral = EphemeralSecret.generate(self.parameters.ring_dim)
        first = self._everywhere(protocol.share_first(self._secret, ephemeral))
        second = self._total(protocol.share_second(self._secret, ephemeral, first), root_only=root_only)
        ephemeral.erase()
        if second is not None:
            key = self.collective.once("relin_key", lambda: protocol.finalize(first, second))
            self.backend.load_relinearisation_key(key)

    def _galois_key(self, element: int, limbs: int, *, root_only: bool) -> EvaluationKey | None:
        """The key for X -> X^element, at every party or at the root, None where it is not."""
        protocol = RotationKeyProtocol(self.session, element, self.backend.key_limbs(limbs))
        total = self._total(protocol.share(self._secret), root_only=root_only)
        if total is None:
            return None
        return self.collective.once(("rotation_key", element), lambda: protocol.finalize(total))

    def _total(self, share: Share, *, root_only: bool) -> Share | None:
        return self.collective.reduce(share) if root_only else self._everywhere(share)

    # computation

    def encrypt_zero(self, scale: float, period: int) -> Ciphertext:
        ring = self.session.cipher_ring()
        both = None
        if self.collective.is_root:
            zero = np.zeros((ring.n_limbs, ring.ring_dim), dtype=np.uint64)
            encrypted = encrypt(self.session, self.public_key, zero, scale)
            both = np.concatenate([encrypted.c0, encrypted.c1])
        c0, c1 = np.split(self._from_root("encrypt_zero", ring.moduli * 2, both), 2)
        return self.backend.import_ciphertext(RingCiphertext(c0, c1, scale, self.session.key_id), period)

    def encrypt_own(self, values: Floats, limbs: int, scale: float) -> Ciphertext:
        encrypted = encrypt_slots(self.session, self.public_key, values, limbs, scale)
        return self.backend.import_ciphertext(encrypted, len(values))

    def sum(self, ciphertexts: Sequence[Ciphertext]) -> list[Ciphertext] | None:
        total = self.collective.reduce(self._as_share("sum", [self._rerandomised(c) for c in ciphertexts]))
        if total is None:
            return None
        check_complete(total, "sum", total.instance, self.parameters.n_parties)
        parts = self._as_ciphertexts(total, [c.scale for c in ciphertexts])
        return [self.backend.import_ciphertext(r, c.period) for r, c in zip(parts, ciphertexts, strict=True)]

    def refresh(
        self,
        ciphertexts: Sequence[Ciphertext] | None,
        count: int,
        scale: float,
        period: int,
        outputs: Sequence[RefreshOutput] = (),
    ) -> list[Ciphertext]:
        protocol, made = self._made_at_root(ciphertexts, count, period, outputs)
        limbs = [protocol.limbs(i) for i in range(len(protocol.outputs))]
        return self._imported(protocol, self._send_down("refresh_output", made or (), limbs), scale, period)

    def refresh_at_root(
        self,
        ciphertexts: Sequence[Ciphertext] | None,
        count: int,
        scale: float,
        period: int,
        outputs: Sequence[RefreshOutput] = (),
    ) -> list[Ciphertext] | None:
        protocol, made = self._made_at_root(ciphertexts, count, period, outputs)
        return None if made is None else self._imported(protocol, made, scale, period)

    def _made_at_root(
        self, ciphertexts: Sequence[Ciphertext] | None, count: int, period: int, outputs: Sequence[RefreshOutput]
    ) -> tuple[RefreshProtocol, list[Residues] | None]:
        """The refresh of the root's ciphertexts, and at the root the new c0 of every output."""
        limbs, outputs = self.parameters.refresh_limbs, checked_outputs(outputs, [period] * count)
        exported = [self._exported(c, limbs) for c in ciphertexts or ()]
        c1s = self._send_down("refresh_input", [c.c1 for c in exported], [limbs] * count)
        protocol = RefreshProtocol(self.session, tuple(c1s), outputs)
        total = self.collective.reduce(protocol.share(self._secret))
        if total is None:
            return protocol, None
        return protocol, list(protocol.finalize(total, {i: c.c0 for i, c in enumerate(exported)}).values())

    def _imported(
        self, protocol: RefreshProtocol, c0s: Sequence[Residues], scale: float, period: int
    ) -> list[Ciphertext]:
        return [
            self.backend.import_ciphertext(protocol.fresh(i, c0, scale), output.period(period))
            for i, (c0, output) in enumerate(zip(c0s, protocol.outputs, strict=True))
        ]

    def refresh_own(self, ciphertexts: Sequence[Ciphertext], outputs: Sequence[RefreshOutput] = ()) -> list[Ciphertext]:
        outputs = checked_outputs(outputs, [c.period for c in ciphertexts])
        exported = [self._rerandomised(c) for c in ciphertexts]
        c1s = self._pool("refresh_own_input", [c.c1 for c in exported])
        everybody = [self._of(rank, len(ciphertexts)) for rank in range(self.parameters.n_parties)]
        pooled = tuple(RefreshOutput(theirs[o.source], o.slot_map) for theirs in everybody for o in outputs)
        protocol = RefreshProtocol(self.session, tuple(c1s), pooled)
        total = self.collective.reduce(protocol.share(self._secret))
        own, parts = everybody[self.collective.rank], None
        if total is not None:
            parts = [protocol.part(total, theirs) for theirs in everybody]
        part = self.collective.scatter(parts)
        self._check_sent(part, protocol.name, protocol.part_instance(own), protocol.part_moduli(own))
        c0s = protocol.finalize(part, {i: e.c0 for i, e in zip(own, exported, strict=True)})
        sources = [ciphertexts[o.source] for o in outputs]
        return [
            self.backend.import_ciphertext(protocol.fresh(i, c0s[i], c.scale), o.period(c.period))
            for i, c, o in zip(self._of(self.collective.rank, len(outputs)), sources, outputs, strict=True)
        ]

    # release

    def encrypted_sum(self, values: Floats) -> Floats:
        ring, n = self.session.cipher_ring(), self.parameters.ring_dim
        count = 1 << max(len(values) - 1, 1).bit_length()
        if count > n:
            raise ParameterError(f"cannot add up vectors of {len(values)} numbers at ring_dim {n}; send them in parts")
        log_q = log2_product(self.parameters.moduli)
        fraction_bits = int(log_q) // 2
        limit = log_q - fraction_bits - 2
        integers = [0] * n
        for i, value in enumerate(values):
            if not np.isfinite(value) or np.log2(abs(value) + 1) + np.log2(self.parameters.n_parties) > limit:
                raise ParameterError(
                    f"cannot add up the value {value} under encryption; need finite, below 2^{limit:.0f}"
                )
            numerator, denominator = float(value).as_integer_ratio()
            integers[i * (n // count)] = (numerator << fraction_bits) // denominator
        message = ring.ntt(ring.from_integers(integers))
        encrypted = encrypt(self.session, self.public_key, message, 2.0**fraction_bits)
        total = self.collective.reduce(self._as_share("encrypted_sum", [encrypted]))
        noise = fresh_error_std(n, self.parameters.n_parties) * self.parameters.n_parties**0.5
        c0 = c1 = None
        if total is not None:
            check_complete(total, "encrypted_sum", total.instance, self.parameters.n_parties)
            (both,) = self._as_ciphertexts(total, [encrypted.scale])
            c0, c1 = both.c0, both.c1
        noise_norm = norm_bound(noise * secret_spread(count / n), count)
        coefficients, smudged = self._release(c0, c1, ring.n_limbs, count, noise_norm)
        # what cannot be told from 0 is 0: a constant column must not look like one of tiny variance
        told = [c if abs(c) > noise_norm + smudged else 0 for c in coefficients[: len(values)]]
        return np.array([c / (1 << fraction_bits) for c in told])

    def decrypt(
        self, ciphertext: Ciphertext | None, limbs: int, scale: float, period: int, noise_norm: float
    ) -> Floats:
        exported = None if ciphertext is None else self._exported(ciphertext, limbs)
        c0, c1 = (exported.c0, exported.c1) if exported is not None else (None, None)
        coefficients, _ = self._release(c0, c1, limbs, 2 * period, noise_norm)
        return decode_subring(np.array([float(c) for c in coefficients]), period, scale)

    def mean(self, ciphertext: Ciphertext | None, limbs: int, scale: float, noise_norm: float) -> float:
        # real slots are the values at pairs of conjugate roots, and the powers of all roots cancel: what is left of
        # their mean is the constant coefficient
        exported = None if ciphertext is None else self._exported(ciphertext, limbs)
        c0, c1 = (exported.c0, exported.c1) if exported is not None else (None, None)
        (coefficient,), _ = self._release(c0, c1, limbs, 1, noise_norm)
        return coefficient / scale

    def _release(
        self, c0: Residues | None, c1: Residues | None, limbs: int, count: int, noise_norm: float
    ) -> tuple[list[int], float]:
        """Decrypt `count` evenly spaced coefficients of the root's (c0, c1), for everybody; and what that adds to each
        at most.
        """
        (c1,) = self._send_down("decryption_input", [] if c1 is None else [c1], [limbs])
        protocol = DecryptionProtocol(self.session, c1, count, self._smudging(noise_norm, 1))
        total = self.collective.reduce(protocol.share(self._secret))
        answer = [] if total is None or c0 is None else [protocol.finalize(total, c0)]
        (opened,) = self._send_down("decryption_output", answer, [limbs])
        return protocol.integers(opened), protocol.error_bound()

    def deliver(self, ciphertexts: Sequence[Ciphertext], noise_norm: float) -> list[Floats]:
        exported = [self._rerandomised(c) for c in ciphertexts]
        private = ReceiverSecret.generate(self.parameters.ring_dim)
        labels = [rank.to_bytes(4, "little") for rank in range(self.parameters.n_parties)]
        mine = receiver_key(self.session, private, labels[self.collective.rank])
        p0s = self._pool("receiver_keys", [mine.p0])
        keys = [receiver_public_part(self.session, p0, label) for p0, label in zip(p0s, labels, strict=True)]
        c1s = self._pool("key_switch_input", [c.c1 for c in exported])
        receivers = tuple(key for key in keys for _ in ciphertexts)
        added = rerandomised_norm(self.parameters, len(c1s[0]))
        protocol = KeySwitchProtocol(self.session, tuple(c1s), receivers, self._smudging(noise_norm + added, len(c1s)))
        total = self._everywhere(protocol.share(self._secret))
        own = self._of(self.collective.rank, len(ciphertexts))
        switched = protocol.finalize(total, dict(zip(own, exported, strict=True)))
        out = []
        for c, theirs in zip(ciphertexts, switched.values(), strict=True):
            coefficients = decrypt(self.session, private, mine, theirs)
            step = self.parameters.ring_dim // (2 * c.period)
            out.append(decode_subring(np.array([float(x) for x in coefficients[::step]]), c.period, c.scale))
        private.erase()
        return out

    def switch(
        self,
        ciphertexts: Sequence[Ciphertext] | None,
        count: int,
        limbs: int,
        receivers: Sequence[PublicKey],
        noise_norm: float,
    ) -> list[RingCiphertext] | None:
        """The root's `count` ciphertexts, each under the key of its receiver, who is no party: at the root, None
        elsewhere.

        For what was computed from sums, public material and queries only: it is not rerandomised.
        """
        exported = [self._exported(c, limbs) for c in ciphertexts or ()]
        c1s = self._send_down("switch_input", [c.c1 for c in exported], [limbs] * count)
        protocol = KeySwitchProtocol(self.session, tuple(c1s), tuple(receivers), self._smudging(noise_norm, count))
        total = self.collective.reduce(protocol.share(self._secret))
        return None if total is None else list(protocol.finalize(total, dict(enumerate(exported))).values())

    def flood(
        self, ciphertexts: Sequence[Ciphertext] | None, count: int, limbs: int, period: int, noise_norm: float
    ) -> list[RingCiphertext] | None:
        """The root's `count` ciphertexts with a smudging of every party added, which nobody sees: at the root, None
        elsewhere.

        Whatever is computed of them later may be released as if they had no noise: what noise they have, of norm
        noise_norm in the 2 * period coefficients that carry them, is hidden once and for all.
        """
        ring, noise = self.session.cipher_ring(limbs), secret_stream()
        # the encryptions of all parties' smudging have noise of their own
        added = self.parameters.n_parties * rerandomised_norm(self.parameters, limbs)
        wide = WideGaussian(smudging_std(noise_norm + added, self._statistical_bits, count))
        mine = []
        for _ in range(count):
            smudging = np.zeros((limbs, ring.ring_dim), dtype=np.uint64)
            smudging[:, :: ring.ring_dim // (2 * period)] = wide.sample(noise, ring.moduli, 2 * period)
            message = ring.ntt(smudging)
            plain = RingCiphertext(message, np.zeros_like(message), 1.0, self.session.key_id)
            mine.append(rerandomise(self.session, self.public_key, plain))
        total = self.collective.reduce(self._as_share("flood", mine))
        if total is None or ciphertexts is None:
            return None
        check_complete(total, "flood", total.instance, self.parameters.n_parties)
        parts = self._as_ciphertexts(total, [1.0] * count)
        exported = [self._exported(c, limbs) for c in ciphertexts]
        return [
            RingCiphertext(ring.add(c.c0, e.c0), ring.add(c.c1, e.c1), c.scale, c.key_id)
            for c, e in zip(exported, parts, strict=True)
        ]

    @property
    def releases_left(self) -> int:
        """How many more ciphertexts may be decrypted or switched under this key."""
        return self._releases - self._secret.ledger.released

    def keep(self, write: Callable[[SecretShare], None]) -> None:
        """Have this party's share written, to take part in later sessions (`mhe.sealed.seal_share`)."""
        write(self._secret)

    def close(self) -> None:
        self._secret.erase()
        self.backend.close()

    def _smudging(self, noise_norm: float, releases: int) -> float:
        self._secret.ledger.release(releases, self._releases)
        return smudging_std(noise_norm, self._statistical_bits, self._releases)

    # how ring elements travel

    def _exported(self, ciphertext: Ciphertext, limbs: int) -> RingCiphertext:
        if ciphertext.limbs != limbs:
            raise LevelError(f"need a ciphertext of {limbs} limbs here, got {ciphertext.limbs}; drop limbs, or refresh")
        return self.backend.export_ciphertext(ciphertext)

    def _rerandomised(self, ciphertext: Ciphertext) -> RingCiphertext:
        """What may be seen by others of a ciphertext that this party computed from its own rows."""
        return rerandomise(self.session, self.public_key, self.backend.export_ciphertext(ciphertext))

    def _everywhere(self, share: Share) -> Share:
        """The total of a share of every party, at every party."""
        return self.collective.broadcast(self.collective.reduce(share))

    def _share(self, name: str, moduli: tuple[int, ...], rows: Residues) -> Share:
        me = frozenset({self.collective.rank})
        return Share(name, self._step_instance(name), me, moduli, rows)

    def _step_instance(self, name: str) -> bytes:
        """Names the next message outside the protocols: all parties send the same ones in the same order."""
        self._steps += 1
        return self.session.instance(name, self._steps.to_bytes(8, "little"))

    def _as_share(self, name: str, ciphertexts: Sequence[RingCiphertext]) -> Share:
        moduli = self.parameters.moduli[: ciphertexts[0].limbs] * (2 * len(ciphertexts))
        return self._share(name, moduli, np.concatenate([part for c in ciphertexts for part in (c.c0, c.c1)]))

    def _as_ciphertexts(self, share: Share, scales: Sequence[float]) -> list[RingCiphertext]:
        parts = np.split(self._residues(share), 2 * len(scales))
        pairs = zip(parts[::2], parts[1::2], scales, strict=True)
        return [RingCiphertext(c0, c1, scale, self.session.key_id) for c0, c1, scale in pairs]

    @staticmethod
    def _residues(share: Share) -> Residues:
        return share.rows  # type: ignore[return-value]

    def _send_down(self, name: str, parts: Sequence[Residues], limbs: Sequence[int]) -> list[Residues]:
        """The root's polynomials, of so many limbs each, at every party."""
        moduli = tuple(q for n in limbs for q in self.parameters.moduli[:n])
        mine = np.concatenate(parts) if self.collective.is_root else None
        return np.split(self._from_root(name, moduli, mine), np.cumsum(limbs)[:-1])

    def _from_root(self, name: str, moduli: tuple[int, ...], rows: Residues | None) -> Residues:
        """The root's rows, at every party. Raises ShareError if the root is at another step than this party."""
        instance, me = self._step_instance(name), frozenset({self.collective.rank})
        got = self.collective.broadcast(None if rows is None else Share(name, instance, me, moduli, rows))
        self._check_sent(got, name, instance, moduli)
        return self._residues(got)

    @staticmethod
    def _check_sent(got: Share, name: str, instance: bytes, moduli: tuple[int, ...]) -> None:
        if (got.protocol, got.instance, got.moduli) != (name, instance, moduli):
            raise ShareError(
                f"the root sent {got!r}; need {name} instance {instance.hex()[:8]}: parties are out of step"
            )

    @staticmethod
    def _of(rank: int, count: int) -> range:
        """Where a party's polynomials stand among the pooled ones of all."""
        return range(rank * count, (rank + 1) * count)

    def _pool(self, name: str, parts: Sequence[Residues]) -> list[Residues]:
        """Every party's polynomials, equally many and of equal limbs at each, at every party, by rank."""
        limbs, n = parts[0].shape
        moduli = self.parameters.moduli[:limbs] * len(parts)
        shares = self.collective.gather(self._share(name, moduli, np.concatenate(parts)))
        rows = None if shares is None else np.concatenate([self._residues(share) for share in shares])
        pooled = self._from_root(name, moduli * self.parameters.n_parties, rows)
        return list(pooled.reshape(-1, limbs, n))


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


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=SEED_BYTES, person=b"mhe coin toss").digest()
