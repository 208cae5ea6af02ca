"""Time on one machine: against schedules and passes that are played step by step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mhe import codec
from mhe.collective import Transfer
from network import mpi
from network.one_machine import Handling, shared_seconds, way_seconds
from network.topology import Tree

HANDLING = Handling(3.0, 5.0, 2.0)


@pytest.mark.parametrize(
    ("parties", "cores", "seconds"),
    [(1, 2, 1.0), (2, 2, 1.0), (4, 2, 2.0), (3, 1, 3.0), (3, 2, 5 / 3), (5, 2, 2.6), (5, 64, 1.0)],
)
def test_equal_parties_share_cores(parties, cores, seconds):
    assert shared_seconds([(1.0, parties)], cores) == pytest.approx(seconds)


def played(unlucky, others, n_others, cores, step=1e-3):
    """One party always where one more is, the others alike: until all are done, in steps."""
    queue, clock, left = (n_others + 1) // cores, 0.0, others
    while left > 0:
        share = 1 / (queue + 1)
        left -= step * (cores - share) / n_others
        unlucky -= step * share
        clock += step
    return clock + max(unlucky, 0.0)


@given(st.floats(1.0, 3.0), st.sampled_from([(2, 2), (4, 2), (4, 3), (8, 2), (6, 4)]))
def test_who_is_always_where_there_is_one_more_is_done_last(longest, sizes):
    n_others, cores = sizes
    found = shared_seconds([(longest, 1), (1.0, n_others)], cores)
    assert found == pytest.approx(played(longest, 1.0, n_others, cores), abs=5e-3)
    even = (longest + n_others) / cores
    # no order in which cores never rest while there is work could take longer (Graham 1969)
    assert even <= found <= even + longest * (1 - 1 / cores)


def test_who_has_nothing_to_do_takes_no_core():
    assert shared_seconds([(1.0, 2), (0.0, 7)], 2) == 1.0


def played_pass(tree, up, n_chunks):
    """When the last chunk is where it has to be: every party handles chunks one after the other."""
    send, receive, aggregate = (each / n_chunks for each in HANDLING)
    order = [tree.root]
    for rank in order:
        order += tree.children(rank)
    # by rank: when each chunk has left it; when the party is free again
    left, free = {rank: [0.0] * n_chunks for rank in order}, dict.fromkeys(order, 0.0)
    for rank in reversed(order) if up else order:
        children, parent = tree.children(rank), tree.parent(rank)
        for chunk in range(n_chunks):
            now = free[rank]
            if up:
                for child in children:
                    now = max(now, left[child][chunk]) + receive + aggregate
                now += send * (parent is not None)
            else:
                now = now + send if parent is None else max(now, left[parent][chunk]) + receive
            free[rank] = left[rank][chunk] = now
    return free[tree.root] if up else max(free.values())


def played_apart(tree, up, n_chunks):
    """The same where the root has chunks of all others to handle, which are passed on as they are."""
    send, receive, _ = (each / n_chunks for each in HANDLING)
    root, done = 0.0, [0.0] * (tree.n_parties - 1)
    for chunk in range(n_chunks):
        for other, so_far in enumerate(done):
            if up:
                root = max(root, (chunk + 1) * send) + receive
            else:
                root += send
                done[other] = max(so_far, root) + receive
    return root if up else max(done)


@pytest.mark.parametrize("kind", ["reduce", "broadcast", "gather", "scatter"])
@pytest.mark.parametrize("n_chunks", [1, 2, 7])
@pytest.mark.parametrize(("parties", "arity"), [(2, 1), (4, 3), (5, 2), (7, 2), (12, 3), (6, 1)])
def test_a_pass_takes_its_longest_way(parties, arity, n_chunks, kind, monkeypatch):
    monkeypatch.setattr(codec, "CHUNK_BYTES", 8)
    tree, transfer = Tree(parties, arity), Transfer(kind, "sum", n_chunks, 1)
    assert codec.chunk_count(n_chunks, 1) == n_chunks
    played = played_apart if transfer.apart else played_pass
    expected = played(tree, transfer.up, n_chunks)
    assert way_seconds(tree, transfer, HANDLING) == pytest.approx(expected, rel=1e-9)


def test_one_party_passes_nothing():
    assert way_seconds(Tree(1), Transfer("reduce", "sum", 3, 4), HANDLING) == 0.0


def test_what_has_arrived_is_found_without_a_sleep(monkeypatch):
    """MPICH only takes it in when it is asked for the first time."""
    slept, answers = [], iter([None, "here"])
    monkeypatch.setattr(mpi.time, "sleep", slept.append)
    assert mpi._poll(lambda: next(answers)) == "here"
    assert slept == []


def test_a_party_sleeps_longer_the_longer_it_waits(monkeypatch):
    clock, slept, answers = [0.0], [], iter([None] * 200 + [True])
    monkeypatch.setattr(mpi.time, "monotonic", lambda: clock[0])

    def sleep(seconds):
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(mpi.time, "sleep", sleep)
    mpi._poll(lambda: next(answers))
    assert len(slept) == 100
    assert slept == sorted(slept)
    assert (slept[0], slept[-1]) == (mpi.SHORTEST_SLEEP_SECONDS, mpi.LONGEST_SLEEP_SECONDS)
    assert all(mpi.sleep_seconds(w) <= max(w / 8, slept[0]) for w in (0.0, 1e-3, 5e-3, 1.0))
