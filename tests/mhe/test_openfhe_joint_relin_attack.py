"""Why no secret enters OpenFHE: its documented joint relinearisation key gives the joint secret away.

Run as a program, this file plays OpenFHE's two-party flow and writes what travels in the open, and the secrets to
compare with. The test starts it in a process of its own, since OpenFHE keeps keys for the whole process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mhe.backend.openfhe_layout import find_moduli, read_rows
from mhe.parameters import Parameters
from mhe.ring.ring import ring
from tests.attacks import recover_secret

RING_DIM, N_LIMBS, DIGITS, SCALE_BITS = 1 << 10, 3, 3, 40


def openfhe_flow(out: Path) -> None:
    """Key generation as in OpenFHE's threshold examples, by two parties."""
    import openfhe  # type: ignore[import-untyped]

    chosen = openfhe.CCParamsCKKSRNS()
    chosen.SetSecurityLevel(openfhe.SecurityLevel.HEStd_NotSet)
    chosen.SetSecretKeyDist(openfhe.SecretKeyDist.UNIFORM_TERNARY)
    chosen.SetScalingTechnique(openfhe.ScalingTechnique.FIXEDMANUAL)
    chosen.SetKeySwitchTechnique(openfhe.KeySwitchTechnique.HYBRID)
    chosen.SetRingDim(RING_DIM)
    chosen.SetFirstModSize(50)
    chosen.SetScalingModSize(SCALE_BITS)
    chosen.SetMultiplicativeDepth(N_LIMBS - 1)
    chosen.SetNumLargeDigits(DIGITS)
    context = openfhe.GenCryptoContext(chosen)
    feature = openfhe.PKESchemeFeature
    for each in (feature.PKE, feature.KEYSWITCH, feature.LEVELEDSHE, feature.ADVANCEDSHE, feature.MULTIPARTY):
        context.Enable(each)

    first = context.KeyGen()
    second = context.MultipartyKeyGen(first.publicKey)
    tag = second.publicKey.GetKeyTag()
    share_1 = context.KeySwitchGen(first.secretKey, first.secretKey)
    share_2 = context.MultiKeySwitchGen(second.secretKey, second.secretKey, share_1)
    round_1 = context.MultiAddEvalKeys(share_1, share_2, tag)
    share_1 = context.MultiMultEvalKey(first.secretKey, round_1, tag)
    share_2 = context.MultiMultEvalKey(second.secretKey, round_1, tag)
    finished = context.MultiAddEvalMultKeys(share_1, share_2, tag)

    def serialised(thing: Any) -> Any:
        return openfhe.Serialize(thing, openfhe.BINARY)

    moduli = find_moduli(serialised(round_1), RING_DIM)
    width = moduli.index(moduli[0], 1)
    shape = (2, DIGITS, width, RING_DIM)  # vectors A, B; digits; limbs of Q then P
    _, b = read_rows(serialised(round_1), RING_DIM, moduli).reshape(shape)
    a, _ = read_rows(serialised(finished), RING_DIM, moduli).reshape(shape)
    secrets = [
        read_rows(serialised(pair.secretKey), RING_DIM, find_moduli(serialised(pair.secretKey), RING_DIM))[:1]
        for pair in (first, second)
    ]
    np.savez(out, b=b, a=a, secrets=np.stack(secrets), moduli=np.array(moduli[:width], dtype=np.uint64))


def test_openfhes_joint_key_reveals_the_joint_secret(tmp_path: Path) -> None:
    out = tmp_path / "public.npz"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, str(Path(__file__).resolve()), str(out)]
    subprocess.run(command, check=True, timeout=120, env=environment)
    public = np.load(out)
    moduli = tuple(int(q) for q in public["moduli"])
    parameters = Parameters(
        ring_dim=RING_DIM,
        moduli=moduli[:N_LIMBS],
        special_moduli=moduli[N_LIMBS:],
        scale_bits=SCALE_BITS,
        digits=DIGITS,
        n_parties=2,
        refresh_limbs=N_LIMBS,
        message_bits=1,
        statistical_bits=20,
        insecure=True,
    )
    base = ring(RING_DIM, moduli[:1])
    joint = sum(np.array(base.to_integers(base.intt(s)), dtype=np.int64) for s in public["secrets"])

    got = recover_secret(public["b"], public["a"], parameters)

    assert np.abs(joint).max() == 2, "a sum of two ternary secrets"
    assert got.succeeded
    np.testing.assert_array_equal(got.candidate, joint)


def test_uniform_aggregates_reveal_nothing() -> None:
    """The statistic itself: on uniform residues the residual is 1 and the candidate is not small."""
    moduli = (1125899906826241, 1099511590913, 1099511592961)
    special = (1152921504606830593,)
    parameters = Parameters(RING_DIM, moduli, special, SCALE_BITS, DIGITS, 2, 3, 1, statistical_bits=20, insecure=True)
    random = np.random.default_rng(0)
    rows = [random.integers(0, q, (2, DIGITS, RING_DIM), dtype=np.uint64) for q in parameters.key_moduli]
    b, a = np.stack(rows, axis=2)

    got = recover_secret(b, a, parameters)

    assert not got.succeeded
    assert 0.9 < got.residual < 1.1
    assert np.abs(got.candidate).max() > 2**40


if __name__ == "__main__":
    openfhe_flow(Path(sys.argv[1]))
