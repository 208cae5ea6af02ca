"""All passes over the loopback: one sum in every tree, to each its own, exact traffic, exact exceptions."""

from __future__ import annotations

import functools
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhe import codec
from mhe.collective import Transfer
from mhe.errors import CodecError, KeyMismatchError, NetworkError, ShareError
from mhe.share import Share, aggregate, check_complete
from network.channel import Loopback
from network.local import run_parties
from network.topology import Tree
from network.traffic import predict

MODULI = ((1 << 60) - 93, (1 << 40) - 87, 97, 101, 103)
DIGEST = bytes(range(16))


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """Two rows per chunk, so that every message has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "CHUNK_BYTES", 64)
        yield


def share_of(rank, *, floats=False, seed=0):
    rng = np.random.default_rng([seed, rank])
    if floats:
        return Share("sum", b"run", frozenset({rank}), (), rng.normal(size=(5, 4)))
    rows = np.array([rng.integers(0, q, 4) for q in MODULI], dtype=np.uint64)
    rows.flags.writeable = False
    return Share("sum", b"run", frozenset({rank}), MODULI, rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.data(), st.randoms(use_true_random=False))
def test_every_tree_gives_the_sum_of_any_order(n_parties, arity, data, order: random.Random):
    root = data.draw(st.integers(0, n_parties - 1))
    inputs = [share_of(rank) for rank in range(n_parties)]
    before = [share.rows.copy() for share in inputs]
    totals = run_parties(n_parties, lambda c: c.reduce(inputs[c.rank]), arity=arity, root=root)
    expected = functools.reduce(aggregate, order.sample(inputs, n_parties))
    for rank, total in enumerate(totals):
        assert (total is None) == (rank != root)
    total = totals[root]
    assert total is not None
    check_complete(total, "sum", b"run", n_parties)
    assert total.moduli == MODULI
    np.testing.assert_array_equal(total.rows, expected.rows)
    for share, rows in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(share.rows, rows)


def test_float_rows_are_added_up():
    totals = run_parties(6, lambda c: c.reduce(share_of(c.rank, floats=True)), arity=3)
    expected = sum(share_of(rank, floats=True).rows for rank in range(6))
    np.testing.assert_allclose(totals[0].rows, expected, rtol=1e-12)


@pytest.mark.parametrize("n_parties", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("root", [0, -1])
def test_broadcast_gives_everybody_a_copy_of_their_own(n_parties, root):
    root %= n_parties

    def program(collective):
        got = collective.broadcast(share_of(7 % n_parties) if collective.is_root else None)
        if not collective.is_root:
            got.rows[...] = 0
        return replace(got, rows=got.rows.copy())

    results = run_parties(n_parties, program, arity=2, root=root)
    np.testing.assert_array_equal(results[root].rows, share_of(7 % n_parties).rows)
    assert {share.contributors for share in results} == {frozenset({7 % n_parties})}


TREES = [(n, arity, root % n) for n in (1, 2, 3, 5, 10) for arity in (1, 2, 3) for root in (0, 1, -1)]


@pytest.mark.parametrize(("n_parties", "arity", "root"), sorted(set(TREES)))
def test_everybodys_share_gets_to_the_root_and_its_own_back_to_everybody(n_parties, arity, root):
    def program(collective):
        gathered = collective.gather(share_of(collective.rank))
        assert (gathered is None) == (not collective.is_root)
        # what comes down names no party: who gets it must know it by its content
        down = None if gathered is None else [replace(s, contributors=frozenset({root})) for s in gathered]
        return gathered, collective.scatter(down)

    results = run_parties(n_parties, program, arity=arity, root=root)
    gathered = results[root][0]
    for rank, (share, (_, own)) in enumerate(zip(gathered, results, strict=True)):
        assert share.contributors == {rank}
        assert own.contributors == {root}
        assert own.moduli == MODULI
        np.testing.assert_array_equal(share.rows, share_of(rank).rows)
        np.testing.assert_array_equal(own.rows, share_of(rank).rows)


@pytest.mark.parametrize("n_parties", [1, 2, 6])
def test_parties_send_only_what_is_behind_their_edge(n_parties):
    """As foretold, for every party and each of the passes."""
    tree = Tree(n_parties, 2, n_parties // 2)

    def program(collective):
        collective.bind(DIGEST)
        with collective.phase("gather"):
            gathered = collective.gather(share_of(collective.rank))
        with collective.phase("scatter"):
            collective.scatter(gathered)
        return collective.metrics.snapshot(), [p.what for p in collective.passes]

    for rank, (snapshot, passes) in enumerate(run_parties(n_parties, program, root=tree.root, recorded=True)):
        assert passes == [Transfer(kind, "sum", 5, 4) for kind in ("gather", "scatter")]
        for transfer in passes:
            planned, counted = predict(tree, rank, [transfer]), snapshot[transfer.kind]
            assert counted["bytes_sent"] == planned.bytes_sent
            assert counted["bytes_received"] == planned.bytes_received
            assert counted["rounds"] == planned.rounds == 1
    one = codec.message_bytes("sum", 5, 4, n_parties)
    sent = [predict(tree, rank, passes[:1]).bytes_sent // one for rank in range(n_parties)]
    assert sent == [0 if rank == tree.root else len(tree.subtree(rank)) for rank in range(n_parties)]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"contributors": frozenset({3})}, NetworkError, r"party [14] sent a share of parties \[3\]; need .* party 4"),
        ({"contributors": frozenset({0, 4})}, NetworkError, r"sent a share of parties \[0, 4\]; need .* party 4"),
        ({"contributors": frozenset()}, NetworkError, r"sent a share of parties \[\]; need that of party 4"),
        ({"instance": b"another run"}, ShareError, "different protocol instances"),
        ({"moduli": MODULI[:3], "rows": np.zeros((3, 4), np.uint64)}, ShareError, "different shape, type or moduli"),
        ({"rows": np.full((5, 4), 97, np.uint64)}, ShareError, "residue not below its modulus"),
    ],
)
def test_a_share_of_another_is_not_gathered(change, error, message):
    def program(collective):
        share = share_of(collective.rank)
        return collective.gather(replace(share, **change) if collective.rank == 4 else share)

    with pytest.raises(error, match=message):
        run_parties(6, program, arity=2)


@pytest.mark.parametrize("number", [0, 2, 4])
def test_the_root_scatters_one_share_to_each(number):
    with pytest.raises(NetworkError, match=f"the root passed {number} shares .*need one for each of 3"):
        run_parties(3, lambda c: c.scatter([share_of(0)] * number if c.is_root else None))


def test_what_is_scattered_has_one_shape():
    short = replace(share_of(1), moduli=MODULI[:3], rows=np.zeros((3, 4), np.uint64))
    with pytest.raises(NetworkError, match="and one shape"):
        run_parties(2, lambda c: c.scatter([share_of(0), short] if c.is_root else None))


@pytest.mark.parametrize(("n_parties", "arity"), [(1, 1), (2, 1), (5, 2), (9, 4)])
def test_allgather_is_indexed_by_rank(n_parties, arity):
    everything = [bytes([rank]) * rank for rank in range(n_parties)]
    assert run_parties(n_parties, lambda c: c.allgather(bytes([c.rank]) * c.rank), arity=arity) == (
        [everything] * n_parties
    )


@pytest.mark.parametrize(("n_parties", "arity", "root"), [(1, 2, 0), (2, 1, 1), (5, 2, 3), (7, 3, 0)])
def test_traffic_is_exactly_what_was_predicted(n_parties, arity, root):
    seen = []

    def program(collective):
        collective.bind(DIGEST)
        with collective.phase("up"):
            total = collective.reduce(share_of(collective.rank))
        with collective.phase("down"):
            collective.broadcast(total)
        with collective.phase("gather"):
            collective.allgather(bytes(collective.rank))
        return collective.metrics.snapshot()

    snapshots = run_parties(n_parties, program, arity=arity, root=root, tap=lambda a, b, data: seen.append(len(data)))

    def total(phase, field):
        return sum(snapshot[phase][field] for snapshot in snapshots)

    tree = Tree(n_parties, arity, root)
    share_bytes = (n_parties - 1) * codec.message_bytes("sum", 5, 4, n_parties)
    up = sum(codec.blob_bytes(sorted(tree.subtree(rank))) for rank in range(n_parties) if rank != root)
    blob_bytes = up + (n_parties - 1) * codec.blob_bytes(range(n_parties))
    for phase, predicted, rounds in (("up", share_bytes, 1), ("down", share_bytes, 1), ("gather", blob_bytes, 2)):
        assert total(phase, "bytes_sent") == total(phase, "bytes_received") == predicted
        assert total(phase, "rounds") == rounds * n_parties
    assert total("up", "messages") == (n_parties - 1) * (1 + codec.chunk_count(5, 4))
    assert sum(seen) == 2 * share_bytes + blob_bytes
    assert total("outside", "bytes_sent") == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contributors": frozenset({1})}, r"parties \[1\] contributed twice"),
        ({"instance": b"another run"}, "different protocol instances"),
        ({"protocol": "product"}, "different protocol instances"),
        ({"moduli": (97,) * 5, "rows": np.zeros((5, 4), np.uint64)}, "different shape, type or moduli"),
        ({"moduli": MODULI[:3], "rows": np.zeros((3, 4), np.uint64)}, "different shape, type or moduli"),
        ({"moduli": (), "rows": np.zeros((5, 4))}, "different shape, type or moduli"),
        ({"rows": np.full((5, 4), 97, np.uint64)}, "residue not below its modulus"),
    ],
)
@pytest.mark.parametrize("culprit", [2, 4])
def test_share_that_does_not_belong_is_refused(change, message, culprit):
    def program(collective):
        share = share_of(collective.rank)
        return collective.reduce(replace(share, **change) if collective.rank == culprit else share)

    with pytest.raises(ShareError, match=message):
        run_parties(5, program, arity=2)


def test_missing_contribution_shows_in_the_total():
    def program(collective):
        share = share_of(collective.rank)
        return collective.reduce(replace(share, contributors=frozenset()) if collective.rank == 1 else share)

    with pytest.raises(ShareError, match=r"parties \[1\] are missing"):
        check_complete(run_parties(3, program)[0], "sum", b"run", 3)


def test_sum_of_different_types_is_refused_even_without_moduli():
    def program(collective):
        dtype = np.uint64 if collective.rank else np.float64
        return collective.reduce(Share("sum", b"run", frozenset({collective.rank}), (), np.zeros((5, 4), dtype)))

    with pytest.raises(ShareError, match="uint64"):
        run_parties(2, program)


def passed(collective, operation):
    """One pass of this kind."""
    share, all_of_root = share_of(collective.rank), [share_of(0)] * collective.n_parties
    if operation == "broadcast":
        return collective.broadcast(share if collective.is_root else None)
    if operation == "scatter":
        return collective.scatter(all_of_root if collective.is_root else None)
    return collective.allgather(b"blob") if operation == "allgather" else getattr(collective, operation)(share)


@pytest.mark.parametrize("operation", ["reduce", "broadcast", "gather", "scatter", "allgather"])
def test_other_parameters_are_refused(operation):
    def program(collective):
        collective.bind(DIGEST if collective.rank else bytes(16))
        return passed(collective, operation)

    with pytest.raises(KeyMismatchError, match="same parameters"):
        run_parties(3, program)


def test_parties_out_of_step_are_noticed():
    def program(collective):
        return collective.reduce(share_of(0)) if collective.rank == 0 else collective.allgather(b"blob")

    with pytest.raises(CodecError, match="out of step"):
        run_parties(2, program)


@pytest.mark.parametrize("passes", [(), (0, 1)])
def test_only_the_root_broadcasts(passes):
    with pytest.raises(NetworkError, match=r"broadcast: party . passed .*only it, must pass one"):
        run_parties(2, lambda c: c.broadcast(share_of(c.rank) if c.rank in passes else None))
    with pytest.raises(NetworkError, match=r"scatter: party . passed .*only it, must pass one"):
        run_parties(2, lambda c: c.scatter([share_of(0)] * 2 if c.rank in passes else None))


def test_parties_with_different_trees_are_noticed():
    def program(collective):
        collective.tree = Tree(3, 2 if collective.rank else 1)
        return collective.allgather(b"blob")

    with pytest.raises(NetworkError, match=r"party 1 answered for parties \[1\]; need \[1, 2\]: .*same tree"):
        run_parties(3, program)


@pytest.mark.parametrize("operation", ["reduce", "broadcast", "gather", "scatter"])
def test_damage_on_the_wire_is_noticed(monkeypatch, operation):
    put = Loopback.put

    def damaging(self, source, dest, frame):
        if {source, dest} == {2, 5} and self.counter == 2:
            frame = frame.copy()
            frame[-1] ^= 1
        self.counter += {source, dest} == {2, 5}
        put(self, source, dest, frame)

    monkeypatch.setattr(Loopback, "counter", 0, raising=False)
    monkeypatch.setattr(Loopback, "put", damaging)

    with pytest.raises(CodecError, match="checksum") as caught:
        run_parties(6, lambda collective: passed(collective, operation), arity=2)
    noticed_by = {"reduce": 2, "gather": 0, "broadcast": 5, "scatter": 5}[operation]
    assert caught.value.__notes__ == [f"raised by party {noticed_by}"]
