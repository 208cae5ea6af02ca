"""The modelled wall time: against sums by hand, and against parties behind emulated links."""

from __future__ import annotations

import time

import numpy as np
import pytest

from mhe.collective import Transfer
from mhe.errors import NetworkError
from mhe.share import Share
from network.emulator import EmulatedNetwork
from network.link import Link
from network.local import run_parties
from network.metrics import Pass
from network.modelled import modelled_seconds
from network.topology import Tree

LATE = 1.25
"""How much longer an emulated run may take: parties compute a little, and share the cores of a busy machine."""

EARLY = 0.95
"""The model takes all chunks for as long as the first."""

SLOWER = (1, 2, 4, 8, 16)
"""What a busy machine adds does not grow with the times of the links: by so much they are made slower in turn, until it
is little beside them.
"""

COLUMNS = 1 << 14


def test_work_adds_up_along_the_busiest_path():
    link, small = Link(1e9, 0.1), Transfer("reduce", "sum", 1, 16)
    tree = Tree(3)
    passes = [
        [Pass("work", small, 1.0, 1.5), Pass("rest", 8, 1.5, 1.5)],
        [Pass("work", small, 4.0, 4.0), Pass("rest", 8, 4.0, 4.0)],
        [Pass("work", small, 2.0, 2.0), Pass("rest", 8, 2.0, 2.0)],
    ]
    seconds = modelled_seconds(link, tree, passes)
    # party 1 works for 4 s, its message is 0.1 s under way, the root adds for 0.5 s
    assert seconds["work"] == pytest.approx(4.6, abs=1e-4)
    assert seconds["rest"] == pytest.approx(0.1, abs=1e-4)


def test_parties_that_ran_something_else_are_refused():
    with pytest.raises(NetworkError, match="differ"):
        modelled_seconds(Link(1e9, 0.1), Tree(2), [[Pass("a", 8, 0, 0)], [Pass("b", 8, 0, 0)]])
    with pytest.raises(NetworkError, match="1 parties"):
        modelled_seconds(Link(1e9, 0.1), Tree(2), [[Pass("a", 8, 0, 0)]])


CASES = {
    "delay": (Link(1e9, 0.15), 7, 2, 4),
    "rate": (Link(50e6, 0.001), 7, 2, 32),
    "rate of a star": (Link(100e6, 0.001), 5, 4, 32),
    "window": (Link(10e9, 0.1), 3, 1, 64),
}


def emulated(passed, link: Link, n_parties: int, arity: int, n_rows: int) -> tuple[float, float]:
    """Seconds that a pass up and one down the tree took, and that they take by the model."""

    def program(collective):
        share = Share("sum", b"", frozenset({collective.rank}), (), np.ones((n_rows, COLUMNS)))
        collective.allgather(b"")
        start = time.monotonic()
        with collective.phase("work"):
            passed(collective, share)
        collective.allgather(b"")
        return time.monotonic() - start, collective.passes[1:]

    found = run_parties(n_parties, program, arity=arity, hub=EmulatedNetwork(n_parties, link), recorded=True)
    # without what the threads compute: the parties of this process share its cores
    passes = [[Pass(p.phase, p.what, 0.0, 0.0) for p in own] for _, own in found]
    return found[0][0], sum(modelled_seconds(link, Tree(n_parties, arity), passes).values())


PASSES = {
    "one for all": (lambda collective, share: collective.broadcast(collective.reduce(share)), 1),
    "to each its own": (lambda collective, share: collective.scatter(collective.gather(share)), 4),
}
"""There and back, and how many times fewer rows a party has of what is its own."""


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("case", CASES)
def test_an_emulated_network_takes_as_long_as_the_model_says(case, kind):
    ratios, (passed, fewer), (link, *where, n_rows) = [], PASSES[kind], CASES[case]
    for slower in SLOWER:
        slow = Link(link.rate / slower, link.latency_seconds * slower)
        took, modelled = emulated(passed, slow, *where, n_rows // fewer)
        ratios.append(took / modelled)
        if ratios[-1] < LATE:
            break
    assert EARLY < min(ratios) < LATE, ratios
