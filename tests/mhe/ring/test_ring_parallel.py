"""Pieces on several threads."""

from __future__ import annotations

import threading

import pytest

from mhe.errors import ParameterError
from mhe.ring.parallel import Threads, in_turn


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_piece_is_done_once(threads: int) -> None:
    run, done = Threads(threads), []
    run(done.append, range(100))
    run(done.append, [])
    assert sorted(done) == list(range(100))
    run.close()
    run.close()
    run(done.append, [100])
    assert done[-1] == 100


def test_pieces_are_shared_out() -> None:
    run, together = Threads(2), threading.Barrier(2, timeout=10)
    run(lambda _: together.wait() and None, range(2))
    run.close()


def test_an_error_in_a_piece_comes_back_when_all_have_ended() -> None:
    done = []

    def work(piece: int) -> None:
        if piece == 3:
            raise ValueError("piece 3")
        done.append(piece)

    run = Threads(3)
    with pytest.raises(ValueError, match="piece 3"):
        run(work, range(10))
    assert len(done) == len(set(done))
    run.close()
    with pytest.raises(ValueError, match="piece 3"):
        in_turn(work, range(10))


def test_there_is_no_run_on_no_thread() -> None:
    with pytest.raises(ParameterError, match="threads is 0"):
        Threads(0)
