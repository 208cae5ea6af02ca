"""`EncryptedParty`: a party with a real secret share, running every protocol with the others over a `Collective`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mhe.backend.interface import RingBackend
from mhe.ciphertext import Ciphertext, Residues, RingCiphertext
from mhe.collective import Collective
from mhe.commitments import make_public_key, toss_seed
from mhe.encoding import decode_subring
from mhe.encryption import decrypt, encrypt, encrypt_slots, rerandomise
from mhe.errors import KeyMismatchError, LevelError, ParameterError
from mhe.keys import EphemeralSecret, EvaluationKey, KeptKey, KeyPlan, PublicKey, ReceiverSecret, SecretShare
from mhe.messages import Messages, check_sent, places
from mhe.parameters import Parameters, log2_product
from mhe.protocols.decryption import DecryptionProtocol
from mhe.protocols.key_switch import KeySwitchProtocol, receiver_key, receiver_public_part
from mhe.protocols.refresh import RefreshProtocol
from mhe.protocols.relin_key import RelinKeyProtocol
from mhe.protocols.rotation_key import RotationKeyProtocol
from mhe.ring.galois import conjugation_element, galois_element
from mhe.ring.sampling import WideGaussian, secret_stream
from mhe.security import fresh_error_std, norm_bound, rerandomised_norm, secret_spread, smudging_std
from mhe.session import Session
from mhe.share import Share
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
        with collective.phase("public_key"):
            key_seed = None if kept is None else kept.seed
            self.session = Session(parameters, collective.rank, toss_seed(collective), key_seed)
            self._messages = Messages(collective, self.session)
            self.backend = make_backend(parameters, self.session.key_id)
            self._secret = SecretShare.generate(parameters.ring_dim) if kept is None else kept.secret
            self.public_key = (
                make_public_key(self.session, self._secret, collective) if kept is None else kept.public_key
            )
        if self.public_key.key_id != self.session.key_id:
            raise KeyMismatchError(
                f"public key {self.public_key.key_id} is not that of this session, {self.session.key_id}; take both "
                "from the same model"
            )

    def __repr__(self) -> str:
        return f"EncryptedParty(rank={self.collective.rank}, key={self.session.key_id})"

    # set-up of keys

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
        c0, c1 = np.split(self._messages.from_root("encrypt_zero", ring.moduli * 2, both), 2)
        return self.backend.import_ciphertext(RingCiphertext(c0, c1, scale, self.session.key_id), period)

    def encrypt_own(self, values: Floats, limbs: int, scale: float) -> Ciphertext:
        encrypted = encrypt_slots(self.session, self.public_key, values, limbs, scale)
        return self.backend.import_ciphertext(encrypted, len(values))

    def sum(self, ciphertexts: Sequence[Ciphertext]) -> list[Ciphertext] | None:
        totals = self._messages.added_up("sum", [self._rerandomised(c) for c in ciphertexts])
        if totals is None:
            return None
        return [self.backend.import_ciphertext(t, c.period) for t, c in zip(totals, ciphertexts, strict=True)]

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
        return self._imported(protocol, self._messages.send_down("refresh_output", made or (), limbs), scale, period)

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
        c1s = self._messages.send_down("refresh_input", [c.c1 for c in exported], [limbs] * count)
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
        c1s = self._messages.pool("refresh_own_input", [c.c1 for c in exported])
        everybody = [places(rank, len(ciphertexts)) for rank in range(self.parameters.n_parties)]
        pooled = tuple(RefreshOutput(theirs[o.source], o.slot_map) for theirs in everybody for o in outputs)
        protocol = RefreshProtocol(self.session, tuple(c1s), pooled)
        total = self.collective.reduce(protocol.share(self._secret))
        own, parts = everybody[self.collective.rank], None
        if total is not None:
            parts = [protocol.part(total, theirs) for theirs in everybody]
        part = self.collective.scatter(parts)
        check_sent(part, protocol.name, protocol.part_instance(own), protocol.part_moduli(own))
        c0s = protocol.finalize(part, {i: e.c0 for i, e in zip(own, exported, strict=True)})
        sources = [ciphertexts[o.source] for o in outputs]
        return [
            self.backend.import_ciphertext(protocol.fresh(i, c0s[i], c.scale), o.period(c.period))
            for i, c, o in zip(places(self.collective.rank, len(outputs)), sources, outputs, strict=True)
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
        totals = self._messages.added_up("encrypted_sum", [encrypted])
        noise = fresh_error_std(n, self.parameters.n_parties) * self.parameters.n_parties**0.5
        noise_norm = norm_bound(noise * secret_spread(count / n), count)
        total = None if totals is None else totals[0]
        coefficients, smudged = self._release(total, ring.n_limbs, count, noise_norm)
        # what cannot be told from 0 is 0: a constant column must not look like one of tiny variance
        told = [c if abs(c) > noise_norm + smudged else 0 for c in coefficients[: len(values)]]
        return np.array([c / (1 << fraction_bits) for c in told])

    def decrypt(
        self, ciphertext: Ciphertext | None, limbs: int, scale: float, period: int, noise_norm: float
    ) -> Floats:
        exported = None if ciphertext is None else self._exported(ciphertext, limbs)
        coefficients, _ = self._release(exported, limbs, 2 * period, noise_norm)
        return decode_subring(np.array([float(c) for c in coefficients]), period, scale)

    def mean(self, ciphertext: Ciphertext | None, limbs: int, scale: float, noise_norm: float) -> float:
        # real slots are the values at pairs of conjugate roots, and the powers of all roots cancel: what is left of
        # their mean is the constant coefficient
        exported = None if ciphertext is None else self._exported(ciphertext, limbs)
        (coefficient,), _ = self._release(exported, limbs, 1, noise_norm)
        return coefficient / scale

    def _release(
        self, ciphertext: RingCiphertext | None, limbs: int, count: int, noise_norm: float
    ) -> tuple[list[int], float]:
        """Decrypt `count` evenly spaced coefficients of the root's ciphertext, for everybody; and what that adds to
        each at most.
        """
        (c1,) = self._messages.send_down("decryption_input", [] if ciphertext is None else [ciphertext.c1], [limbs])
        protocol = DecryptionProtocol(self.session, c1, count, self._smudging(noise_norm, 1))
        total = self.collective.reduce(protocol.share(self._secret))
        answer = [] if total is None or ciphertext is None else [protocol.finalize(total, ciphertext.c0)]
        (opened,) = self._messages.send_down("decryption_output", answer, [limbs])
        return protocol.integers(opened), protocol.error_bound()

    def deliver(self, ciphertexts: Sequence[Ciphertext], noise_norm: float) -> list[Floats]:
        exported = [self._rerandomised(c) for c in ciphertexts]
        private = ReceiverSecret.generate(self.parameters.ring_dim)
        labels = [rank.to_bytes(4, "little") for rank in range(self.parameters.n_parties)]
        mine = receiver_key(self.session, private, labels[self.collective.rank])
        p0s = self._messages.pool("receiver_keys", [mine.p0])
        keys = [receiver_public_part(self.session, p0, label) for p0, label in zip(p0s, labels, strict=True)]
        c1s = self._messages.pool("key_switch_input", [c.c1 for c in exported])
        receivers = tuple(key for key in keys for _ in ciphertexts)
        added = rerandomised_norm(self.parameters, len(c1s[0]))
        protocol = KeySwitchProtocol(self.session, tuple(c1s), receivers, self._smudging(noise_norm + added, len(c1s)))
        total = self._everywhere(protocol.share(self._secret))
        own = places(self.collective.rank, len(ciphertexts))
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
        c1s = self._messages.send_down("switch_input", [c.c1 for c in exported], [limbs] * count)
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
        totals = self._messages.added_up("flood", mine)
        if totals is None or ciphertexts is None:
            return None
        exported = [self._exported(c, limbs) for c in ciphertexts]
        return [
            RingCiphertext(ring.add(c.c0, e.c0), ring.add(c.c1, e.c1), c.scale, c.key_id)
            for c, e in zip(exported, totals, strict=True)
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

    # what leaves the evaluator

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
