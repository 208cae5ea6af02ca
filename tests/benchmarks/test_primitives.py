"""The benchmark's own behaviour, in a small ring; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks import scalar_ntt
from benchmarks.primitives import BARS, run
from mhe.ring import ntt
from mhe.ring.primes import ntt_primes

OPERATIONS = {
    "encode", "encrypt", "add", "multiply_plain", "multiply_accumulate_plain", "multiply", "multiply_accumulate",
    "rotate", "rotate_hoisted", "rotate_and_sum", "rescale", "ntt", "refresh_share", "refresh_finalize",
    "decrypt_share",
}  # fmt: skip


def test_the_scalar_yardstick_computes_the_same_transform() -> None:
    p = ntt_primes(60, 1 << 10, 1)[0]
    row = np.random.default_rng(0).integers(0, p, 1 << 10, dtype=np.uint64)
    expected = row.copy()
    ntt.forward(expected, ntt.tables(1 << 10, p))
    scalar_ntt.forward(row, ntt.tables(1 << 10, p))
    np.testing.assert_array_equal(row, expected)


def test_the_report_has_every_operation_of_every_backend(tmp_path: Path) -> None:
    target = tmp_path / "primitives.json"
    run(runs=3, json_file=target, ring_dim=1 << 10)
    document = json.loads(target.read_text())
    assert {"cpu", "cores", "packages", "date"} <= document["environment"].keys()
    # of 45 bits of scale, the circuit leaves what its noise allows
    assert document["precision"].keys() == {"openfhe", "native", "native_own_primes"}
    assert all(25 < bits < 45 for bits in document["precision"].values())
    found = {(r["op"], r["backend"]) for r in document["results"]}
    assert {op for op, _ in found} >= OPERATIONS
    for op in OPERATIONS - {"ntt"}:
        assert {(op, "openfhe"), (op, "native")} <= found
    for record in document["results"]:
        assert record.keys() == {"op", "backend", "ring_dim", "limbs", "median_ms", "iqr_ms", "runs"}
        assert (record["ring_dim"], record["limbs"], record["runs"]) == (1 << 10, 6, 3)
        assert record["median_ms"] > 0
    assert {r["op"] for r in document["ratios"] if r["bar"]} == set(BARS)
