"""The evaluator that runs on OpenFHE. It holds public material only; the one file that imports openfhe.

OpenFHE's polynomials are opaque in Python, so ring elements cross the border in serialised form: a template object of
the right kind is serialised once and its residues are replaced (see openfhe_layout.py). The scale is tracked here and
not by OpenFHE: every handle is kept at noise scale degree 1, at which no operation of the FIXEDMANUAL mode adjusts
anything on its own. Rotation keys must satisfy the equation in mhe/ring/galois.py.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, reduce
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.backend import rules
from mhe.backend.keystore import RELINEARISATION, KeyStore
from mhe.backend.openfhe_layout import TEMPLATE_TAG, Template, cut, find_moduli, read_rows
from mhe.backend.selftest import check_encoding, check_evaluator
from mhe.ciphertext import Ciphertext, Plaintext, RingCiphertext
from mhe.encoding import encode_coefficients
from mhe.errors import BackendError, MHEError, ParameterError
from mhe.keys import EvaluationKey
from mhe.parameters import Parameters, Primes, Shape
from mhe.ring.galois import conjugation_element, galois_element
from mhe.ring.modular import first_unreduced_row
from mhe.ring.ring import ring

PINNED_VERSION = "1.6.1.0"
"""The release whose byte layout and behaviour this file knows; wheels append the Ubuntu release they are built on."""

TOY_SHAPE = Shape(ring_dim=64, first_bits=50, scale_bits=40, n_limbs=3, digits=2)
"""INSECURE: the ring of the start-up self-test of products and rotations."""

_lock = threading.RLock()
_engines: dict[Shape, _Engine] = {}
_tested: set[str] = set()


def _remedy() -> str:
    return f"install the pinned release with: pip install 'openfhe=={PINNED_VERSION}.*'"


try:
    import openfhe  # type: ignore[import-untyped]
except ImportError as cause:
    raise BackendError(
        f"openfhe cannot be imported on this interpreter ({cause}); its wheels fit one Python and system each "
        f"(*.22.4: CPython 3.10): {_remedy()}"
    ) from cause


@contextmanager
def _guard(what: str) -> Iterator[None]:
    """No C++ message reaches the user: it becomes the cause of a BackendError."""
    try:
        yield
    except (MHEError, MemoryError):
        raise
    except Exception as cause:
        raise BackendError(f"OpenFHE could not {what}; see the cause above, and {_remedy()}") from cause


def check_version() -> None:
    """Raise BackendError unless the installed openfhe is the pinned release."""
    try:
        found = version("openfhe")
    except PackageNotFoundError:
        found = "none"
    if not found.startswith(PINNED_VERSION + "."):
        raise BackendError(f"openfhe {found} is installed, this code knows {PINNED_VERSION}: {_remedy()}")


class _Engine:
    """One OpenFHE context, its primes, and the templates cut from objects of a throw-away key."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        n = shape.ring_dim
        with _guard(f"set up a context for {shape}"):
            # a context that arrives inside a serialised object is replaced by the one that exists already, so the
            # tables that OpenFHE would compute for it (80% of the time of an import) are never used
            openfhe.DisablePrecomputeCRTTablesAfterDeserializaton()
            self.context = context = _make_context(shape)
            throw_away = context.KeyGen()
            throw_away.secretKey.SetKeyTag(TEMPLATE_TAG)
            throw_away.publicKey.SetKeyTag(TEMPLATE_TAG)
            self._ciphertext = context.Encrypt(
                throw_away.publicKey, context.MakeCKKSPackedPlaintext(np.zeros(1), 1, 0, None, 1)
            )
            switch = context.KeySwitchGen(throw_away.secretKey, throw_away.secretKey)
            index = galois_element(1, n)
            rotation = context.EvalAutomorphismKeyGen(throw_away.secretKey, [index])
            del throw_away
            _drop_rotation_keys(TEMPLATE_TAG)
            key, key_map = (openfhe.Serialize(x, openfhe.BINARY) for x in (switch, rotation))
        rows = find_moduli(key, n)
        width = rows.index(rows[0], 1)
        self.moduli, self.special_moduli = rows[: shape.n_limbs], rows[shape.n_limbs : width]
        self.digits = len(rows) // (2 * width)
        self.relinearisation = cut(key, n, rows)
        self.rotation = cut(key_map, n, rows, index)
        self._by_limbs: dict[int, Template] = {}

    def ciphertext(self, limbs: int) -> Template:
        """The template of a ciphertext of noise scale degree 1 at `limbs` limbs."""
        with _lock:
            if limbs not in self._by_limbs:
                with _guard(f"make a ciphertext of {limbs} limbs"):
                    blob = openfhe.Serialize(self.context.Compress(self._ciphertext, limbs, 1), openfhe.BINARY)
                self._by_limbs[limbs] = cut(blob, self.shape.ring_dim, self.moduli[:limbs] * 2)
            return self._by_limbs[limbs]


def _make_context(shape: Shape) -> Any:
    chosen = openfhe.CCParamsCKKSRNS()
    # our own Parameters enforce the security level, with the newer and stricter table
    chosen.SetSecurityLevel(openfhe.SecurityLevel.HEStd_NotSet)
    chosen.SetSecretKeyDist(openfhe.SecretKeyDist.UNIFORM_TERNARY)
    chosen.SetScalingTechnique(openfhe.ScalingTechnique.FIXEDMANUAL)
    chosen.SetKeySwitchTechnique(openfhe.KeySwitchTechnique.HYBRID)
    chosen.SetRingDim(shape.ring_dim)
    chosen.SetBatchSize(shape.ring_dim // 2)
    chosen.SetFirstModSize(shape.first_bits)
    chosen.SetScalingModSize(shape.scale_bits)
    chosen.SetMultiplicativeDepth(shape.n_limbs - 1)
    chosen.SetNumLargeDigits(shape.digits)
    try:
        context = openfhe.GenCryptoContext(chosen)
    except RuntimeError as cause:
        raise ParameterError(
            f"OpenFHE has no parameters for {shape}; first_bits and scale_bits must be at most 60, and digits must cut "
            "n_limbs so that no digit is empty: try other digits"
        ) from cause
    feature = openfhe.PKESchemeFeature
    for each in (feature.PKE, feature.KEYSWITCH, feature.LEVELEDSHE):
        context.Enable(each)
    return context


def _engine(shape: Shape) -> _Engine:
    check_version()
    if shape != Shape(shape.ring_dim, shape.first_bits, shape.scale_bits, shape.n_limbs, shape.digits):
        raise ParameterError(f"OpenFHE prescribes one first prime and special primes of 60 bits, got {shape}")
    width = -(-shape.n_limbs // shape.digits) if shape.digits > 0 else 0
    if shape.n_limbs < 2 or width == 0 or -(-shape.n_limbs // width) != shape.digits:
        raise ParameterError(
            f"{shape.n_limbs} limbs do not cut into {shape.digits} digits of {width}, the last one not empty; "
            "need at least 2 limbs and other digits"
        )
    with _lock:
        if shape not in _engines:
            engine = _Engine(shape)
            if engine.digits != shape.digits:
                raise ParameterError(f"OpenFHE cuts the limbs into {engine.digits} digits, not {shape.digits}")
            _engines[shape] = engine
        return _engines[shape]


def generate_moduli(shape: Shape) -> Primes:
    """(moduli, special_moduli) that OpenFHE picks for this shape; Parameters for this backend must use them.

    The first call for a shape takes about the time of three key generations (0.4 s at ring_dim 2^15).
    Raises ParameterError where OpenFHE finds none or cuts the digits otherwise than Parameters.digit_limbs, and
    BackendError if another openfhe than the pinned release is installed.
    """
    engine = _engine(shape)
    return engine.moduli, engine.special_moduli


def _fingerprint(key: EvaluationKey) -> bytes:
    """Tells two keys apart: residues of b, which hold fresh errors."""
    return blake2b(key.b[0, 0].tobytes(), digest_size=16).digest()


def _drop_rotation_keys(tag: str) -> None:
    """Remove the rotation keys of one tag. The library can only clear all: those of other tags are put back."""
    others = {k: keys for k, keys in openfhe.CryptoContext.GetAllEvalAutomorphismKeys().items() if k != tag}
    openfhe.CryptoContext.ClearEvalAutomorphismKeys()
    for other, keys in others.items():
        openfhe.CryptoContext.InsertEvalAutomorphismKey(keys, other)


_keys = KeyStore(_lock, _drop_rotation_keys)


class OpenFHEBackend:
    """`Backend` on OpenFHE, for one collective key.

    key_id is OpenFHE's key tag too. Several backends of one process may share a key id (threads that play several
    parties): its keys are held once, and dropped when the last of them closes. Close a key's last backend only while
    no thread rotates under another key, since the library's map of rotation keys is rebuilt then.

    Errors per slot, beyond those of the operands: see mhe.security (`rounding_std`, `key_switch_std`).
    Raises ParameterError unless `parameters` use the primes of `generate_moduli`, and BackendError if the installed
    openfhe is not the pinned release or fails the self-test (once per process and parameters, below a second).
    """

    def __init__(self, parameters: Parameters, key_id: str) -> None:
        if not key_id:
            raise ParameterError("key_id is empty; need the name of the collective key")
        shape = Shape(
            parameters.ring_dim,
            round(math.log2(parameters.moduli[0])),
            parameters.scale_bits,
            parameters.n_limbs,
            parameters.digits,
        )
        self._engine = _engine(shape)
        if (self._engine.moduli, self._engine.special_moduli) != (parameters.moduli, parameters.special_moduli):
            raise ParameterError("the moduli are not those of OpenFHE for this shape; take them from generate_moduli")
        self._parameters = parameters
        self._context = self._engine.context
        self._key_id = key_id
        self._relinearisation: Any = None
        self._conjugation: Any = None
        self._rotations: set[int] = set()
        _keys.acquire(key_id, parameters.digest)
        self._release = weakref.finalize(self, _keys.release, key_id)
        self._release.atexit = False  # at the end of the process the library may be gone before its keys
        try:
            self._self_test()
        except BaseException:
            self._release()
            raise

    @property
    def parameters(self) -> Parameters:
        return self._parameters

    @property
    def key_id(self) -> str:
        return self._key_id

    @cached_property
    def _moduli_words(self) -> npt.NDArray[np.uint64]:
        return np.array(self._parameters.moduli, dtype=np.uint64)

    def __repr__(self) -> str:
        n, keys = self._parameters.ring_dim, len(self._rotations)
        return f"OpenFHEBackend(ring_dim={n}, key={self._key_id}, rotations={keys})"

    def _self_test(self) -> None:
        with _lock:
            if "" not in _tested:
                _tested.add("")
                try:
                    _test_toy_ring()
                except BaseException:
                    _tested.discard("")
                    raise
            here = repr(self._engine.shape)
            if here not in _tested:
                check_encoding(self, self._key_id, _remedy())
                _tested.add(here)

    # keys

    def key_limbs(self, limbs: int) -> int:
        """OpenFHE reads whole keys only."""
        return self._parameters.n_limbs

    def load_relinearisation_key(self, key: EvaluationKey) -> None:
        """Copies the key. Raises ParameterError or KeyMismatchError if it does not fit."""
        rules.check_whole_key(self._parameters, self._key_id, key)

        def insert() -> Any:
            blob = self._engine.relinearisation.fill((key.a, key.b), self._key_id)
            return openfhe.DeserializeEvalKeyString(blob, openfhe.BINARY)

        with _guard("load a relinearisation key"):
            self._relinearisation = _keys.load(self._key_id, RELINEARISATION, _fingerprint(key), insert)

    def load_rotation_key(self, rotation: int, key: EvaluationKey) -> None:
        """Copies the key, which must satisfy the equation in `mhe.ring.galois.galois_element`.

        A rotation by 0 needs none. Raises ParameterError or KeyMismatchError if the key does not fit.
        """
        rules.check_whole_key(self._parameters, self._key_id, key)
        step = rotation % self._parameters.n_slots
        if step == 0:
            return
        element = galois_element(step, self._parameters.ring_dim)

        def insert() -> None:
            blob = self._engine.rotation.fill((key.a, key.b), self._key_id, element)
            key_map = openfhe.DeserializeEvalKeyMapString(blob, openfhe.BINARY)
            # into the process-wide map, the only place where hoisted rotations look for keys
            openfhe.CryptoContext.InsertEvalAutomorphismKey(key_map, self._key_id)

        with _guard("load a rotation key"):
            _keys.load(self._key_id, element, _fingerprint(key), insert)
        self._rotations.add(step)

    def load_conjugation_key(self, key: EvaluationKey) -> None:
        """Copies the key, which must satisfy the equation in `mhe.ring.galois.galois_element`.

        Raises ParameterError or KeyMismatchError if it does not fit.
        """
        rules.check_whole_key(self._parameters, self._key_id, key)
        element = conjugation_element(self._parameters.ring_dim)

        def insert() -> Any:
            blob = self._engine.rotation.fill((key.a, key.b), self._key_id, element)
            return openfhe.DeserializeEvalKeyMapString(blob, openfhe.BINARY)

        with _guard("load a conjugation key"):
            self._conjugation = _keys.load(self._key_id, element, _fingerprint(key), insert)

    # conversion

    def encode(self, values: npt.NDArray[np.float64], limbs: int, scale: float | None = None) -> Plaintext:
        """Error per slot: as `mhe.encoding.encode_coefficients`. LevelError if values*scale overflow the modulus."""
        scale = self._parameters.scale if scale is None else scale
        vector = rules.check_values(self._parameters, values, limbs, scale)
        period = len(vector)
        level = self._parameters.n_limbs - limbs
        # OpenFHE refuses what rounds to the zero polynomial; the largest coefficient is above rms/sqrt(2 period)
        if float(np.sqrt(np.mean(vector**2))) * scale < 2 * math.sqrt(2 * period) and not np.any(
            encode_coefficients(vector, 2 * period, scale)
        ):
            vector = np.zeros(period)
        with _guard("encode the values"):
            handle = self._context.MakeCKKSPackedPlaintext(
                vector * (scale / self._parameters.scale), 1, level, None, period
            )
            handle.SetFormat(openfhe.EVALUATION)
        return Plaintext(handle, limbs, scale, period)

    def import_ciphertext(self, ciphertext: RingCiphertext, period: int) -> Ciphertext:
        rules.check_period(self._parameters, period)
        rules.check_limbs(self._parameters, ciphertext.limbs)
        rules.check_owner(self._key_id, ciphertext)
        limbs, n = ciphertext.limbs, self._parameters.ring_dim
        if ciphertext.c0.shape[1] != n:
            raise ParameterError(f"ciphertext has ring dimension {ciphertext.c0.shape[1]}; these parameters have {n}")
        rules.check_fit(self._parameters, limbs, ciphertext.scale)
        for part in (ciphertext.c0, ciphertext.c1):
            row = first_unreduced_row(part, self._moduli_words[:limbs])
            if row >= 0:
                raise ParameterError(f"limb {row} holds residues not below its modulus; the sender must reduce them")
        with _guard("import a ciphertext"):
            blob = self._engine.ciphertext(limbs).fill((ciphertext.c0, ciphertext.c1), self._key_id)
            arrived = openfhe.DeserializeCiphertextString(blob, openfhe.BINARY)
            # objects made by the Python binding copy themselves 20 times more slowly than those made by the library:
            # its templates were compiled without optimisation; a copy made inside the library is cured of that
            handle = self._context.Compress(arrived, limbs, 1)
        return self._result(handle, rules.Form(limbs, ciphertext.scale, period))

    def export_ciphertext(self, ciphertext: Ciphertext) -> RingCiphertext:
        handle = self._handle(ciphertext)
        with _guard("export a ciphertext"):
            blob = openfhe.Serialize(handle, openfhe.BINARY)
        rows = read_rows(blob, self._parameters.ring_dim, self._parameters.moduli[: ciphertext.limbs] * 2)
        return RingCiphertext(rows[: ciphertext.limbs], rows[ciphertext.limbs :], ciphertext.scale, self._key_id)

    def _handle(self, operand: Ciphertext) -> Any:
        rules.check_owner(self._key_id, operand)
        if not isinstance(operand.handle, openfhe.Ciphertext):
            raise BackendError(f"{operand!r} was made by another backend; import it first")
        return operand.handle

    @staticmethod
    def _plain(operand: Plaintext) -> Any:
        if not isinstance(operand.handle, openfhe.Plaintext):
            raise BackendError(f"{operand!r} was made by another backend; encode the values here")
        return operand.handle

    def _result(self, handle: Any, form: rules.Form) -> Ciphertext:
        handle.SetNoiseScaleDeg(1)
        handle.SetScalingFactor(form.scale)
        return Ciphertext(handle, form.limbs, form.scale, form.period, self._key_id)

    # operations

    def add(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        """Exact."""
        form = rules.sum_form(a, b)
        x, y = self._handle(a), self._handle(b)
        with _guard("add"):
            return self._result(self._context.EvalAdd(x, y), form)

    def add_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext:
        """Exact but for the encoding."""
        form = rules.sum_form(a, b)
        x, y = self._handle(a), self._plain(b)
        with _guard("add a plaintext"):
            return self._result(self._context.EvalAdd(x, y), form)

    def multiply_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext:
        """Exact but for the encoding."""
        form = rules.product_form(self._parameters, a, b)
        x, y = self._handle(a), self._plain(b)
        with _guard("multiply by a plaintext"):
            return self._result(self._context.EvalMult(x, y), form)

    def multiply_accumulate_plain(self, pairs: Iterable[tuple[Ciphertext, Plaintext]]) -> Ciphertext:
        """Exact but for the encodings; the pairs are consumed one by one. ParameterError if there is none."""
        total: Any = None
        form: rules.Form | None = None
        for a, b in pairs:
            form = rules.accumulated_form(form, rules.product_form(self._parameters, a, b))
            x, y = self._handle(a), self._plain(b)
            with _guard("multiply and accumulate"):
                product = self._context.EvalMult(x, y)
                if total is None:
                    total = product
                else:
                    # all products are at the same limbs and degree; the checked variant copies its second operand
                    self._context.EvalAddInPlaceNoCheck(total, product)
        if form is None:
            raise ParameterError("multiply_accumulate_plain got no pairs; need at least one")
        return self._result(total, form)

    def multiply_matrix_plain(
        self, matrix: Sequence[Sequence[Plaintext]], vector: Sequence[Ciphertext]
    ) -> list[Ciphertext]:
        """Row by row."""
        rules.check_matrix(matrix, vector)
        return [self.multiply_accumulate_plain(zip(vector, row, strict=True)) for row in matrix]

    def multiply(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        """Adds a key switching error. KeyMismatchError if no relinearisation key was loaded."""
        return self.multiply_accumulate([(a, b)])

    def multiply_accumulate(self, pairs: Iterable[tuple[Ciphertext, Ciphertext]]) -> Ciphertext:
        """Adds one key switching error; the pairs are consumed one by one.

        KeyMismatchError as `multiply`, ParameterError if there is no pair.
        """
        if self._relinearisation is None:
            raise rules.missing_relinearisation()
        total: Any = None
        form: rules.Form | None = None
        for a, b in pairs:
            form = rules.accumulated_form(form, rules.product_form(self._parameters, a, b))
            x, y = self._handle(a), self._handle(b)
            with _guard("multiply"):
                product = self._context.EvalMultNoRelin(x, y)
                if total is None:
                    total = product
                else:
                    self._context.EvalAddInPlaceNoCheck(total, product)
        if form is None:
            raise ParameterError("multiply_accumulate got no pairs; need at least one")
        with _guard("relinearise"):
            self._context.KeySwitchInPlace(total, self._relinearisation)
        return self._result(total, form)

    def rescale(self, a: Ciphertext) -> Ciphertext:
        """Adds a rounding error."""
        form = rules.rescaled_form(self._parameters, a)
        x = self._handle(a)
        with _guard("rescale"):
            return self._result(self._context.Rescale(x), form)

    def drop_limbs(self, a: Ciphertext, limbs: int) -> Ciphertext:
        """Exact. LevelError if the scale does not fit into what is left."""
        rules.check_drop(self._parameters, a, limbs)
        x = self._handle(a)
        if limbs == a.limbs:
            return a
        with _guard("drop limbs"):
            return self._result(self._context.Compress(x, limbs, 1), rules.Form(limbs, a.scale, a.period))

    def reread(self, a: Ciphertext, *, scale: float | None = None, period: int | None = None) -> Ciphertext:
        """Exact: nothing but what is said about the ciphertext changes."""
        return Ciphertext(self._handle(a), *rules.reread_form(a, scale, period), a.key_id)

    def rotate(self, a: Ciphertext, rotation: int) -> Ciphertext:
        """Adds a key switching error. A rotation by a multiple of the period is `a` itself."""
        return self._rotate(a, self._step(a, rotation))

    def _step(self, a: Ciphertext, rotation: int) -> int:
        step = rules.rotation_step(self._parameters, a, rotation)
        if step and step not in self._rotations:
            raise rules.missing_rotation(step, self._parameters.n_slots, frozenset(self._rotations))
        return step

    def _rotate(self, a: Ciphertext, step: int) -> Ciphertext:
        x = self._handle(a)
        if step == 0:
            return a
        with _guard("rotate"):
            return self._result(self._context.EvalRotate(x, step), rules.Form(a.limbs, a.scale, a.period))

    def rotate_hoisted(self, a: Ciphertext, rotations: Sequence[int]) -> Mapping[int, Ciphertext]:
        """As `rotate` for each, with one decomposition for all: pays from two rotations on."""
        steps = {rotation: self._step(a, rotation) for rotation in rotations}
        distinct = set(steps.values()) - {0}
        if len(distinct) < 2:
            return {rotation: self._rotate(a, step) for rotation, step in steps.items()}
        x, form = self._handle(a), rules.Form(a.limbs, a.scale, a.period)
        rotated = {0: a}
        with _guard("rotate"):
            decomposed = self._context.EvalFastRotationPrecompute(x)
            for step in distinct:
                rotated[step] = self._result(self._context.EvalFastRotation(x, step, decomposed), form)
        return {rotation: rotated[step] for rotation, step in steps.items()}

    def rotate_and_sum(self, parts: Mapping[int, Ciphertext]) -> Ciphertext:
        """Adds a key switching error for each rotation. ParameterError if there is no part."""
        rules.rotated_sum_form(parts.values())
        return reduce(self.add, (self.rotate(part, rotation) for rotation, part in parts.items()))

    def conjugate(self, a: Ciphertext) -> Ciphertext:
        """Adds a key switching error. KeyMismatchError if no conjugation key was loaded."""
        x, element = self._handle(a), conjugation_element(self._parameters.ring_dim)
        if self._conjugation is None:
            raise rules.missing_conjugation()
        with _guard("conjugate"):
            turned = self._context.EvalAutomorphism(x, element, self._conjugation)
        return self._result(turned, rules.Form(a.limbs, a.scale, a.period))

    def times_i(self, a: Ciphertext, power: int = 1) -> Ciphertext:
        """Exact. By way of ring arrays: the library multiplies by no monomial."""
        external, base = self.export_ciphertext(a), ring(self._parameters.ring_dim, self._parameters.moduli[: a.limbs])
        c0, c1 = (base.times_i(np.ascontiguousarray(part), power) for part in (external.c0, external.c1))
        return self.import_ciphertext(RingCiphertext(c0, c1, a.scale, a.key_id), a.period)

    def parts(self, a: Ciphertext) -> tuple[Ciphertext, Ciphertext]:
        """Adds half a key switching error. Raises as `conjugate`."""
        return rules.parts(self, a)

    def close(self) -> None:
        """Drop this backend's keys; those of its key id when no other backend of the process uses it. Idempotent."""
        self._relinearisation = self._conjugation = None
        self._rotations.clear()
        self._release()


def _test_toy_ring() -> None:
    """Every operation that needs keys, once, in a ring too small to be slow or secure."""
    primes, limbs = generate_moduli(TOY_SHAPE), TOY_SHAPE.n_limbs
    parameters = Parameters.of_shape(
        TOY_SHAPE, primes, n_parties=1, refresh_limbs=limbs, message_bits=1, statistical_bits=1, insecure=True
    )
    backend = OpenFHEBackend(parameters, "mhe-self-test")
    try:
        check_evaluator(backend, "mhe-self-test", _remedy())
    finally:
        backend.close()
