"""Threads as parties: results, failures that wake the others, back pressure, time limit."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from mhe.collective import Collective
from mhe.errors import LevelError, NetworkError
from mhe.share import Share
from network.channel import WINDOW, Loopback
from network.collective import TreeCollective
from network.local import run_parties

FRAME = np.arange(3, dtype=np.uint8)


def living_parties():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("party-")]


def test_results_are_ordered_by_rank():
    assert run_parties(7, lambda c: (c.rank, c.n_parties, c.is_root), root=2) == [(r, 7, r == 2) for r in range(7)]
    assert not living_parties()


def test_one_party_needs_nobody():
    def program(collective: Collective):
        share = Share("sum", b"", frozenset({0}), (), np.ones((2, 2)))
        return collective.broadcast(collective.reduce(share)).rows.sum(), collective.allgather(b"x")

    assert run_parties(1, program) == [(4.0, [b"x"])]


@pytest.mark.parametrize("culprit", range(4))
def test_first_failure_reaches_the_caller_and_ends_the_others(culprit):
    seen = {}

    def program(collective):
        try:
            collective.allgather(b"")
            if collective.rank == culprit:
                raise LevelError("refresh needs 3 levels left, got 1")
            collective.allgather(b"")
        except NetworkError as error:
            seen[collective.rank] = str(error)
            raise

    start = time.monotonic()
    with pytest.raises(LevelError, match="refresh needs 3 levels left, got 1") as caught:
        run_parties(4, program)
    assert time.monotonic() - start < 5
    assert caught.value.__notes__ == [f"raised by party {culprit}"]
    assert sorted(seen) == [rank for rank in range(4) if rank != culprit]
    assert all(f"party {culprit} failed: LevelError: refresh needs" in text for text in seen.values())
    assert not living_parties()


def test_party_that_leaves_early_is_missed():
    with pytest.raises(NetworkError, match="party 1 has ended; every party must make the same"):
        run_parties(2, lambda c: c.allgather(b"") if c.rank == 0 else None)


def test_time_limit():
    release = threading.Event()

    def program(collective):
        if collective.rank == 1:
            release.wait(10)
        collective.allgather(b"")

    with pytest.raises(NetworkError, match=r"parties \[0, 1, 2\] did not end within 0.2 s"):
        run_parties(3, program, timeout_seconds=0.2)
    release.set()
    deadline = time.monotonic() + 5
    while living_parties() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not living_parties()


def test_tap_sees_every_frame():
    seen = []
    run_parties(3, lambda c: c.allgather(b"secret"), tap=lambda *message: seen.append(message))
    assert sorted((source, dest) for source, dest, _ in seen) == [(0, 1), (0, 2), (1, 0), (2, 0)]
    assert all(b"secret" in data for _, _, data in seen)


def test_frames_arrive_in_order_and_a_fast_sender_waits():
    hub = Loopback(2)
    sender, receiver = hub.channel(0), hub.channel(1)
    n_sent = 0

    def send_many():
        nonlocal n_sent
        for value in range(3 * WINDOW):
            sender.send(1, np.full(1, value, np.uint8))
            n_sent += 1

    thread = threading.Thread(target=send_many, daemon=True)
    thread.start()
    thread.join(0.1)
    assert n_sent == WINDOW
    assert [int(receiver.recv(0)[0]) for _ in range(3 * WINDOW)] == list(range(3 * WINDOW))
    thread.join(5)
    assert n_sent == 3 * WINDOW


@pytest.mark.parametrize("peer", [-1, 0, 2])
def test_only_other_parties_can_be_addressed(peer):
    channel = Loopback(2).channel(0)
    with pytest.raises(NetworkError, match=f"party 0 cannot exchange messages with party {peer}"):
        channel.send(peer, FRAME)
    with pytest.raises(NetworkError, match="cannot exchange"):
        channel.recv(peer)


def test_many_parties_in_one_process():
    def program(collective: TreeCollective):
        share = Share("sum", b"", frozenset({collective.rank}), (97,), np.ones((1, 4), np.uint64))
        return int(collective.broadcast(collective.reduce(share)).rows[0, 0])

    assert run_parties(100, program, arity=4) == [100 % 97] * 100
