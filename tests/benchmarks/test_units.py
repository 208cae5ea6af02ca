"""What is made of measured seconds, and how processes that measure are kept in step."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import units
from benchmarks.together import Workers
from mhe.errors import BackendError
from models.cost import DEFAULT_UNITS, Chain, UnitCosts, work_on

CHAIN = Chain(1 << 13, (40, 40, 40), (48,), 3)
CASES = [((("rotate", 3, 1),), ()), ((("decompose", 3, 1), ("rotate_hoisted", 3, 2)), (("rotate", 3, 1),))]


def said(rotation, hoisted, wall=1.0):
    """As a process says it, read from JSON: lists all the way down."""
    chain = [CHAIN.ring_dim, list(CHAIN.limb_bits), list(CHAIN.special_bits), CHAIN.digits]
    cases = [[[list(c) for c in counts] for counts in case] for case in CASES]
    return {"chain": chain, "cases": cases, "seconds": [rotation, hoisted], "wall": wall}


class Recorded:
    """Processes that say what was written down."""

    count, ready = 2, (7, 9)

    def __init__(self, rounds):
        self._rounds = iter(rounds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def round(self, places):
        return next(self._rounds)


ROUNDS = [[[said(1.0, 5.0, 6.0), said(2.0, 6.0, 16.0)]], [[said(3.0, 7.0, 15.0), said(90.0, 8.0, 98.0)]]]
"""Two rounds of one chain in two processes, in one of which something came in between."""


def test_rates_are_medians_over_rounds_and_processes_less_what_is_known():
    (group,) = units.groups_of(ROUNDS)
    assert group.chain == CHAIN
    assert list(map(list, group.seconds)) == [[1, 2, 3, 90], [5, 6, 7, 8]]
    rates, work = units.rates_of([group]), work_on(CHAIN)
    found = UnitCosts(rates, "", 0)
    assert found.seconds(work, "rotate", 3) == pytest.approx(2.5)
    both = found.seconds(work, "decompose", 3) + 2 * found.seconds(work, "rotate_hoisted", 3)
    assert both == pytest.approx(6.5 - 2.5)
    assert units.crowded([group]) == pytest.approx(1.25)


def test_chains_of_one_ring_are_averaged():
    (group,) = units.groups_of(ROUNDS)
    twice = units.Group(CHAIN, group.cases, [[2 * s for s in record] for record in group.seconds], group.wall_per_cpu)
    one, both = (units.rates_of(groups)["rotate"][1 << 13][3] for groups in ([group], [group, twice]))
    assert both == pytest.approx(1.5 * one)


def test_rounds_that_differ_are_told_and_refused(monkeypatch):
    def measured(factor):
        rounds = [[[said(f, 5.0 * f), said(f, 5.0 * f)]] for f in (1.0, 1.0, factor)]
        monkeypatch.setattr(units, "Workers", lambda *_: Recorded(rounds))
        told = []
        return units.measure(told.append, rounds=3), told

    assert len(measured(1.2)[1]) == 1
    found, told = measured(2.0)
    assert "differ by a factor of 2.0" in told[-1]
    assert found.rates["rotate"][1 << 13][3] > 0
    assert found.base_bytes == 9
    with pytest.raises(BackendError, match=r"4\.0 times as long as the quickest; need less than 3"):
        measured(4.0)


def test_the_pace_is_that_of_the_moment_against_the_table():
    work = work_on(CHAIN)
    usual = said(
        DEFAULT_UNITS.seconds(work, "rotate", 3), units._foretold(DEFAULT_UNITS, work, sum(CASES[1], ())) / 1e6
    )
    slow = {**usual, "seconds": [2 * s for s in usual["seconds"]], "wall": 3 * sum(usual["seconds"])}
    assert units.pace(Recorded([[[slow, slow]]]), DEFAULT_UNITS, 1) == pytest.approx((2.0, 3.0))


def test_everything_that_a_plan_counts_is_measured():
    """Every operation that a plan may count has a rate, and none costs nothing."""
    bench = units.Bench(units.SHAPES[0])
    bench.round()
    found = units.rates_of(units.groups_of([[[bench.round()]] for _ in range(2)]))
    assert found.keys() == DEFAULT_UNITS.rates.keys()
    assert all(rate >= 0 for rings in found.values() for limbs in rings.values() for rate in limbs.values())
    assert found["rotate"][1 << 13][4] > 0
    assert units.resident_bytes() > 1 << 20


def test_a_process_that_ends_is_told():
    with pytest.raises(BackendError, match="a process that measures ended with code 0"), Workers("keyword", 1):
        raise AssertionError("it was taken for one that measures")


def test_processes_measure_in_step(tmp_path, monkeypatch):
    program = "if __name__ == '__main__':\n    serve('here', lambda place: 2 * place)\n"
    (tmp_path / "doubles.py").write_text(f"from benchmarks.together import serve\n{program}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with Workers("doubles", 2) as workers:
        assert workers.ready == ["here", "here"]
        assert workers.round([3, 5]) == [[6, 6], [10, 10]]
        assert workers.round([1]) == [[2, 2]]
