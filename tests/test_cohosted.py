"""Parties of one process: each has its own secret, sends the same bytes, and is charged as if it were alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scripts.planning
from benchmarks.cohosted import lines, run_cohosted
from mhe.encrypted_party import EncryptedParty
from mhe.errors import ConfigError
from mhe.keys import SecretPolynomial
from models.choice import Choice
from network.channel import Loopback
from network.host import CoHost
from network.link import Link
from network.local import run_parties
from network.topology import Tree
from network.traffic import predict
from scripts.config import parse_config
from scripts.train import run_party
from tests import oracle
from tests.insecure import finding, insecure_test_plan
from tests.memory import reachable

N_PARTIES = 5
SETTINGS: dict[str, Any] = {
    "data": {"train": "synthetic:logistic?rows=400&features=3", "label": "y"},
    "training": {"iterations": 3, "learning_rate": 1.0},
    "release": {"statistical_bits": 30},
}
SAME = ("bytes_sent", "bytes_received", "messages", "rounds")


def insecure_plan(workload: Any, choice: Choice, make_moduli: Any, *, free: bool) -> Any:
    return insecure_test_plan(workload, ring_dim=1 << 9, scale_bits=50, make_moduli=make_moduli)


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(scripts.planning, "best_plans", finding(insecure_plan))
    return parse_config(SETTINGS)


@pytest.mark.parametrize("at_once", [1, 2])
def test_cohosted_parties_send_the_same_bytes_and_get_the_same_model(config, tmp_path, at_once):
    def program(collective):
        outcome = run_party(config, collective, tmp_path / "out", True)
        return collective.metrics.snapshot(), outcome

    apart, together = (run_parties(N_PARTIES, program, at_once=n) for n in (None, at_once))
    for (alone, outcome), (here, same) in zip(apart, together, strict=True):
        for phase in alone.keys() - {"outside"}:
            assert {name: alone[phase][name] for name in SAME} == {name: here[phase][name] for name in SAME}
        assert max(outcome.max_weight_error, same.max_weight_error) < 1e-2 if outcome.clear else same.clear is None
        np.testing.assert_array_equal(same.weights[0], together[0][1].weights[0])


@pytest.mark.parametrize(("objective", "arity"), [("time", 4), ("traffic", 1)])
def test_parties_agree_on_the_tree_that_suits_them(config, tmp_path, objective, arity):
    """And none sends a byte that the plan does not count on that tree."""
    network = {"arity": "auto", "root": 2, "link": "10gbps/1s"}
    found = parse_config({**SETTINGS, "network": network, "crypto": {"objective": objective}})

    def program(collective):
        outcome = run_party(found, collective, tmp_path / "out", True)
        return collective.tree, outcome

    for tree, outcome in run_parties(N_PARTIES, program, root=2, at_once=2):
        assert tree == outcome.tree == Tree(N_PARTIES, arity, 2)
        planned = [predict(tree, r, outcome.plan.iteration_transfers).bytes_sent for r in range(N_PARTIES)]
        assert [usage.iteration["bytes_sent"] for usage in outcome.usages] == planned


def test_no_party_reaches_the_secret_of_another(config, tmp_path, monkeypatch):
    parties: list[EncryptedParty] = []
    close = EncryptedParty.close

    def closing(party):
        parties.append(party)
        # nobody erases its share before all have been looked at
        party.collective.allgather(b"")
        if party.collective.is_root:
            look()
        party.collective.allgather(b"")
        close(party)

    def look():
        secrets = [party._secret for party in parties]
        assert len({oracle.coefficients_of(secret).tobytes() for secret in secrets}) == N_PARTIES
        for party in parties:
            found = reachable([party], stop=(Loopback,))
            assert [item for item in found if isinstance(item, SecretPolynomial)] == [party._secret]
            others = [secret._coefficients for secret in secrets if secret is not party._secret]
            arrays = [item for item in found if isinstance(item, np.ndarray)]
            assert not any(np.shares_memory(array, other) for array in arrays for other in others)
        keys = [party.backend._relinearisation for party in parties]
        assert all(np.shares_memory(key.b, keys[0].b) for key in keys)
        assert all(party.public_key is parties[0].public_key for party in parties)

    monkeypatch.setattr(EncryptedParty, "close", closing)
    run_parties(N_PARTIES, lambda c: run_party(config, c, tmp_path / "out", True), at_once=2)
    assert len(parties) == N_PARTIES


def test_record_of_a_run(config):
    record = run_cohosted(config, N_PARTIES, 2, Link.parse("1gbps/20ms"))
    assert record["hosting"] == {"parties": N_PARTIES, "processes": 1, "at_once": 2, "label": "co-hosted"}
    assert record["stages"].keys() == {"setup", "training", "release"}
    for spent in record["stages"].values():
        assert spent["cpu_seconds"]["max"] >= spent["cpu_seconds"]["mean"] > 0
        # every round crosses every level of the tree, but for what overlaps where a stage begins
        assert spent["modelled_seconds"] > 0.9 * spent["rounds"] * record["tree"]["depth"] * 0.02
        assert spent["bytes_sent"]["max"] >= spent["bytes_sent"]["mean"] > 0
    assert record["result"]["auc"] > 0.5
    assert "co-hosted" in lines(record)[0]


@pytest.mark.parametrize("crypto", [{"threads": 2}, {"backend": "clear"}])
def test_other_evaluators_and_threads_are_refused(crypto):
    with pytest.raises(ConfigError, match="one thread each"):
        run_cohosted(parse_config({**SETTINGS, "crypto": crypto}), 2, 1, Link.parse("1gbps/20ms"))


def test_public_work_is_done_once_and_charged_to_all():
    done = []

    def work():
        done.append(sum(i * i for i in range(300_000)))
        return done

    def program(collective):
        before = collective.host.cpu_seconds()
        found = collective.once("work", work)
        return found, collective.host.cpu_seconds() - before

    results = run_parties(4, program, at_once=2)
    assert len(done) == 1
    assert all(found is done for found, _ in results)
    spent = [seconds for _, seconds in results]
    assert max(spent) < 1.5 * min(spent) + 0.01
    assert min(spent) > 0


def test_what_all_have_taken_is_dropped():
    host = CoHost(2, 1)
    assert [host.once("a", lambda: 1), host.once("a", lambda: 2), host.once("a", lambda: 3)] == [1, 1, 3]


def test_a_failure_in_shared_work_ends_all():
    def program(collective):
        collective.once("work", lambda: 1 / 0)
        collective.allgather(b"")

    with pytest.raises(ZeroDivisionError):
        run_parties(3, program, at_once=1)
