"""The evaluator whose ciphertexts are arrays: nothing is converted on the way to the protocols and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from mhe.backend import rules
from mhe.backend.native import encoder
from mhe.backend.native.key_switching import KeySwitcher, Term
from mhe.ciphertext import Ciphertext, Plaintext, RingCiphertext
from mhe.errors import BackendError, ParameterError
from mhe.keys import EvaluationKey
from mhe.parameters import Parameters
from mhe.ring import products
from mhe.ring.division import division
from mhe.ring.galois import conjugation_element, galois_element
from mhe.ring.matrix import aligned, matrix_product
from mhe.ring.modular import Words, contiguous, first_unreduced_row, words
from mhe.ring.parallel import Run, Threads, in_turn
from mhe.ring.ring import Ring, ring

TERMS_AT_ONCE = 8
"""So many terms of a sum of products are taken at a time: a block of their ciphertexts stays in the first cache, and
what is encoded for one use is not kept any longer."""

Pair = tuple[Words, Words]


class NativeBackend:
    """`RingBackend` on mhe/ring, for one collective key.

    A ciphertext's handle is (c0, c1), (limbs, ring_dim) each, a plaintext's the first half of such an array, (limbs,
    ring_dim/2): the other half is the same backwards. All are C-contiguous, read-only, in the evaluation domain.
    Import and export hand over the same arrays; the importing side must not write to them any more.

    Any moduli that Parameters allow; those below 2^49 are faster (`mhe.ring.vectors`). Errors per slot, beyond those of
    the operands: below `rounding_std` for a rescale and `key_switch_std` for a product or a rotation (mhe.security).
    threads: how many work on one operation, where its pieces are large enough; the results are the same bits.
    Raises ParameterError if key_id is empty or threads below 1.
    """

    def __init__(self, parameters: Parameters, key_id: str, *, threads: int = 1) -> None:
        if not key_id:
            raise ParameterError("key_id is empty; need the name of the collective key")
        self._parameters = parameters
        self._key_id = key_id
        self._threads = Threads(threads)
        self._run: Run[Any] = self._threads if threads > 1 else in_turn
        self._switcher = KeySwitcher(parameters, self._run)
        self._moduli = words(parameters.moduli)
        self._relinearisation: EvaluationKey | None = None
        self._rotations: dict[int, EvaluationKey] = {}
        self._conjugation: EvaluationKey | None = None

    @property
    def parameters(self) -> Parameters:
        return self._parameters

    @property
    def key_id(self) -> str:
        return self._key_id

    def __repr__(self) -> str:
        n, keys = self._parameters.ring_dim, len(self._rotations)
        return f"NativeBackend(ring_dim={n}, key={self._key_id}, rotations={keys})"

    # keys

    def key_limbs(self, limbs: int) -> int:
        """As many."""
        return limbs

    def load_relinearisation_key(self, key: EvaluationKey) -> None:
        """Keeps the key's arrays. Raises ParameterError or KeyMismatchError if it does not fit."""
        self._relinearisation = self._checked(key)

    def load_rotation_key(self, rotation: int, key: EvaluationKey) -> None:
        """Keeps the key's arrays, which must satisfy the equation in `mhe.ring.galois.galois_element`.

        A rotation by 0 needs none. Raises ParameterError or KeyMismatchError if the key does not fit.
        """
        checked = self._checked(key)
        step = rotation % self._parameters.n_slots
        if step:
            self._rotations[step] = checked

    def load_conjugation_key(self, key: EvaluationKey) -> None:
        """Keeps the key's arrays. Raises as `load_rotation_key`."""
        self._conjugation = self._checked(key)

    def _checked(self, key: EvaluationKey) -> EvaluationKey:
        rules.check_evaluation_key(self._parameters, self._key_id, key)
        p = self._parameters
        moduli = words((p.moduli[: rules.key_limbs(p, key)] + p.special_moduli) * len(key.b))

        def checked(part: Words) -> Words:
            rows = contiguous(part.reshape(-1, p.ring_dim), "evaluation key")
            _check_reduced(rows, moduli, "evaluation key")
            return _frozen(rows.reshape(part.shape))

        return EvaluationKey(checked(key.b), checked(key.a), key.key_id)

    # conversion

    def encode(self, values: npt.NDArray[np.float64], limbs: int, scale: float | None = None) -> Plaintext:
        """Error per slot: as `mhe.encoding.encode_coefficients`. LevelError if values*scale overflow the modulus."""
        scale = self._parameters.scale if scale is None else scale
        vector = rules.check_values(self._parameters, values, limbs, scale)
        return Plaintext(_frozen(encoder.encode(vector, self._ring(limbs), scale)), limbs, scale, len(vector))

    def import_ciphertext(self, ciphertext: RingCiphertext, period: int) -> Ciphertext:
        rules.check_period(self._parameters, period)
        rules.check_limbs(self._parameters, ciphertext.limbs)
        rules.check_owner(self._key_id, ciphertext)
        n = self._parameters.ring_dim
        if ciphertext.c0.shape[1] != n:
            raise ParameterError(f"ciphertext has ring dimension {ciphertext.c0.shape[1]}; these parameters have {n}")
        rules.check_fit(self._parameters, ciphertext.limbs, ciphertext.scale)
        parts = [contiguous(part, "ciphertext") for part in (ciphertext.c0, ciphertext.c1)]
        for part in parts:
            _check_reduced(part, self._moduli[: ciphertext.limbs], "ciphertext")
        return self._result((parts[0], parts[1]), rules.Form(ciphertext.limbs, ciphertext.scale, period))

    def export_ciphertext(self, ciphertext: Ciphertext) -> RingCiphertext:
        return RingCiphertext(*self._pair(ciphertext), ciphertext.scale, self._key_id)

    def _pair(self, operand: Ciphertext) -> Pair:
        rules.check_owner(self._key_id, operand)
        handle = operand.handle
        if not (isinstance(handle, tuple) and len(handle) == 2 and all(self._fits(x, operand.limbs) for x in handle)):
            raise BackendError(f"{operand!r} was made by another backend; import it first")
        return handle

    def _plain(self, operand: Plaintext) -> Words:
        if not self._fits(operand.handle, operand.limbs, self._parameters.n_slots):
            raise BackendError(f"{operand!r} was made by another backend; encode the values here")
        values: Words = operand.handle
        return values

    def _fits(self, x: object, limbs: int, columns: int = 0) -> bool:
        """Whether compiled loops may read x as a polynomial (or as so many columns of one); they check nothing."""
        shape = (limbs, columns or self._parameters.ring_dim)
        return isinstance(x, np.ndarray) and x.dtype == np.uint64 and x.shape == shape and x.flags.c_contiguous

    def _ring(self, limbs: int) -> Ring:
        return ring(self._parameters.ring_dim, self._parameters.moduli[:limbs])

    def _result(self, pair: Pair, form: rules.Form) -> Ciphertext:
        handle = tuple(_frozen(part) for part in pair)
        return Ciphertext(handle, form.limbs, form.scale, form.period, self._key_id)

    # operations

    def add(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        """Exact."""
        form = rules.sum_form(a, b)
        (a0, a1), (b0, b1), base = self._pair(a), self._pair(b), self._ring(form.limbs)
        return self._result((base.add(a0, b0), base.add(a1, b1)), form)

    def add_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext:
        """Exact but for the encoding."""
        form = rules.sum_form(a, b)
        a0, a1 = self._pair(a)
        return self._result((self._ring(form.limbs).add(a0, encoder.unfold(self._plain(b))), a1), form)

    def multiply_plain(self, a: Ciphertext, b: Plaintext) -> Ciphertext:
        """Exact but for the encoding."""
        form = rules.product_form(self._parameters, a, b)
        return self._products([[self._plain(b)]], [self._pair(a)], [form])[0]

    def multiply_accumulate_plain(self, pairs: Iterable[tuple[Ciphertext, Plaintext]]) -> Ciphertext:
        """Exact but for the encodings; the pairs are consumed a few at a time. ParameterError if there is none."""
        source = iter(pairs)
        total: list[Pair] | None = None
        form: rules.Form | None = None
        while some := list(islice(source, TERMS_AT_ONCE)):
            for a, b in some:
                form = rules.accumulated_form(form, rules.product_form(self._parameters, a, b))
            assert form is not None
            rows, pairs_of = [[self._plain(b) for _, b in some]], [self._pair(a) for a, _ in some]
            total = self._accumulate(rows, pairs_of, form.limbs, total)
        if form is None or total is None:
            raise ParameterError("multiply_accumulate_plain got no pairs; need at least one")
        return self._result(total[0], form)

    def multiply_matrix_plain(
        self, matrix: Sequence[Sequence[Plaintext]], vector: Sequence[Ciphertext]
    ) -> list[Ciphertext]:
        """Exact but for the encodings. A product costs little more than reading its plaintext from memory."""
        forms = rules.matrix_forms(self._parameters, matrix, vector)
        return self._products([[self._plain(b) for b in row] for row in matrix], [self._pair(a) for a in vector], forms)

    def _products(
        self, matrix: Sequence[Sequence[Words]], vector: Sequence[Pair], forms: Sequence[rules.Form]
    ) -> list[Ciphertext]:
        total: list[Pair] = []
        for start in range(0, len(vector), TERMS_AT_ONCE):
            terms = slice(start, start + TERMS_AT_ONCE)
            total = self._accumulate([row[terms] for row in matrix], vector[terms], forms[0].limbs, total)
        return [self._result(pair, form) for pair, form in zip(total, forms, strict=True)]

    def _accumulate(
        self, matrix: Sequence[Sequence[Words]], vector: Sequence[Pair], limbs: int, total: Sequence[Pair] | None
    ) -> list[Pair]:
        """The products of the rows with the vector, added to `total` in place."""
        n = self._parameters.ring_dim
        out = list(total or [(aligned(limbs, n), aligned(limbs, n)) for _ in matrix])
        matrix_product(out, matrix, vector, self._parameters.moduli[:limbs], keep=bool(total), run=self._run)
        return out

    def multiply(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        """Adds a key switching error. KeyMismatchError if no relinearisation key was loaded, LevelError if it was made
        for fewer limbs.
        """
        form = rules.product_form(self._parameters, a, b)
        key = self._relinearisation_at(form.limbs)
        return self._result(self._switcher.multiply(self._pair(a), self._pair(b), key), form)

    def _relinearisation_at(self, limbs: int) -> EvaluationKey:
        if self._relinearisation is None:
            raise rules.missing_relinearisation()
        reach = rules.key_limbs(self._parameters, self._relinearisation)
        rules.check_key_reaches("product of ciphertexts", reach, limbs)
        return self._relinearisation

    def multiply_accumulate(self, pairs: Iterable[tuple[Ciphertext, Ciphertext]]) -> Ciphertext:
        """Adds one key switching error. KeyMismatchError and LevelError as `multiply`, ParameterError if there is no
        pair.

        The pairs are consumed a few at a time. Pairs of (a0, a1) and (b0, b1) add up to the ciphertext
        (a0 b0, a0 b1 + a1 b0, a1 b1) under (1, s, s^2).
        """
        source, n = iter(pairs), self._parameters.ring_dim
        form: rules.Form | None = None
        total: Words | None = None
        while some := list(islice(source, TERMS_AT_ONCE)):
            starts = np.empty((2, len(some), 3), dtype=np.uint64)
            for i, (a, b) in enumerate(some):
                form = rules.accumulated_form(form, rules.product_form(self._parameters, a, b))
                left, right = ([products.address(x) for x in self._pair(c)] for c in (a, b))
                starts[:, i, 0], starts[:, i, 1:] = left, right
            assert form is not None
            key = self._relinearisation_at(form.limbs)
            if total is None:
                total = np.zeros((3, form.limbs, n), dtype=np.uint64)
            # each part of a is read once, and goes to two neighbouring sums
            for first, each in enumerate(starts):
                factors = products.rows_from(each, form.limbs, n)
                moduli = self._parameters.moduli[: form.limbs]
                products.sum_of_products(total[first : first + 2], factors, moduli, keep=True)
            some.clear()  # before the next ones are made
        if form is None or total is None:
            raise ParameterError("multiply_accumulate got no pairs; need at least one")
        return self._result(self._switcher.switch(total[2], key, total[0], total[1]), form)

    def rescale(self, a: Ciphertext) -> Ciphertext:
        """Adds a rounding error."""
        form = rules.rescaled_form(self._parameters, a)
        moduli = self._parameters.moduli
        divide = division(self._parameters.ring_dim, moduli[: form.limbs], moduli[form.limbs : form.limbs + 1])
        c0, c1 = self._pair(a)
        return self._result((divide(c0, self._run), divide(c1, self._run)), form)

    def drop_limbs(self, a: Ciphertext, limbs: int) -> Ciphertext:
        """Exact and free: a view. LevelError if the scale does not fit into what is left."""
        rules.check_drop(self._parameters, a, limbs)
        c0, c1 = self._pair(a)
        return a if limbs == a.limbs else self._result((c0[:limbs], c1[:limbs]), rules.Form(limbs, a.scale, a.period))

    def reread(self, a: Ciphertext, *, scale: float | None = None, period: int | None = None) -> Ciphertext:
        """Exact: nothing but what is said about the ciphertext changes."""
        return Ciphertext(self._pair(a), *rules.reread_form(a, scale, period), a.key_id)

    def rotate(self, a: Ciphertext, rotation: int) -> Ciphertext:
        """Adds a key switching error. A rotation by a multiple of the period is `a` itself.

        KeyMismatchError if the key was not loaded, LevelError if it was made for fewer limbs.
        """
        return self.rotate_hoisted(a, [rotation])[rotation]

    def rotate_hoisted(self, a: Ciphertext, rotations: Sequence[int]) -> Mapping[int, Ciphertext]:
        """As `rotate` for each, with one decomposition for all."""
        c0, c1 = self._pair(a)
        steps = {rotation: self._step(a, rotation) for rotation in rotations}
        distinct = set(steps.values()) - {0}
        rotated = {0: a}
        if distinct:
            form, alone = rules.Form(a.limbs, a.scale, a.period), len(distinct) == 1
            # several rotations are pieces enough for the threads; a single one is divided by its limbs
            source = c1 if alone else self._switcher.decompose(c1)
            switcher = self._switcher if alone else replace(self._switcher, run=in_turn)

            def rotate(step: int) -> None:
                t = galois_element(step, self._parameters.ring_dim)
                rotated[step] = self._result(switcher.rotate(source, c0, self._rotations[step], t), form)

            (in_turn if alone else self._run)(rotate, distinct)
        return {rotation: rotated[step] for rotation, step in steps.items()}

    def rotate_and_sum(self, parts: Mapping[int, Ciphertext]) -> Ciphertext:
        """Adds less than a key switching error for each rotation, for only one division by P is made for all.

        ParameterError if there is no part.
        """
        form = rules.rotated_sum_form(parts.values())
        base, n = self._ring(form.limbs), self._parameters.ring_dim
        terms: list[Term] = []
        sums: list[Pair] = []
        for rotation, part in parts.items():
            step, (c0, c1) = self._step(part, rotation), self._pair(part)
            if step:
                terms.append(Term(c0, c1, self._rotations[step], galois_element(step, n)))
            else:
                sums.append((c0, c1))
        if terms:
            sums.append(self._switcher.rotate_and_sum(terms))
        return self._result(reduce(lambda x, y: (base.add(x[0], y[0]), base.add(x[1], y[1])), sums), form)

    def _step(self, a: Ciphertext, rotation: int) -> int:
        step = rules.rotation_step(self._parameters, a, rotation)
        if step and step not in self._rotations:
            raise rules.missing_rotation(step, self._parameters.n_slots, frozenset(self._rotations))
        if step:
            reach = rules.key_limbs(self._parameters, self._rotations[step])
            rules.check_key_reaches(rules.rotation_name(step, self._parameters.n_slots), reach, a.limbs)
        return step

    def conjugate(self, a: Ciphertext) -> Ciphertext:
        """Adds a key switching error. KeyMismatchError if no conjugation key was loaded, LevelError if it was made for
        fewer limbs.
        """
        if self._conjugation is None:
            raise rules.missing_conjugation()
        rules.check_key_reaches("conjugation", rules.key_limbs(self._parameters, self._conjugation), a.limbs)
        (c0, c1), t = self._pair(a), conjugation_element(self._parameters.ring_dim)
        turned = self._switcher.rotate(c1, c0, self._conjugation, t)
        return self._result(turned, rules.Form(a.limbs, a.scale, a.period))

    def times_i(self, a: Ciphertext, power: int = 1) -> Ciphertext:
        """Exact."""
        c0, c1 = self._pair(a)
        base = self._ring(a.limbs)
        form = rules.Form(a.limbs, a.scale, a.period)
        return self._result((base.times_i(c0, power), base.times_i(c1, power)), form)

    def parts(self, a: Ciphertext) -> tuple[Ciphertext, Ciphertext]:
        """Adds half a key switching error. Raises as `conjugate`."""
        return rules.parts(self, a)

    def close(self) -> None:
        """Drop the keys and end the threads. Idempotent."""
        self._threads.close()
        self._relinearisation = self._conjugation = None
        self._rotations.clear()


def _check_reduced(rows: Words, moduli: Words, what: str) -> None:
    row = first_unreduced_row(rows, moduli)
    if row >= 0:
        raise ParameterError(f"{what}: limb {row} holds residues not below its modulus; the sender must reduce them")


def _frozen(x: Words) -> Words:
    """A view of x that cannot be written to."""
    view = x.view()
    view.flags.writeable = False
    return view
