"""Which keys a plan asks for, and for how many limbs."""

from __future__ import annotations

import pytest

from mhe.errors import LevelError
from mhe.keys import KeyPlan
from mhe.protocols.relin_key import RelinKeyProtocol
from mhe.protocols.rotation_key import RotationKeyProtocol
from mhe.session import Session
from tests.insecure import insecure_test_parameters

P = insecure_test_parameters(1 << 6, 5, digits=2)


def test_equal_rotations_share_a_key_for_the_most_limbs():
    plan = KeyPlan.of(32, [((0, 1, -31, 4), 3), ((33, 8), 5)], [((1, 16), 4), ((4,), 2)], relinearisation=4)
    assert plan == KeyPlan({1: 5, 4: 3, 8: 5}, {16: 4}, relinearisation=4)
    # what the root needs more of, all have more of
    assert KeyPlan.of(32, [((2,), 3)], [((-30,), 5)]) == KeyPlan({2: 5})


def test_who_holds_what():
    plan = KeyPlan({1: 5, -2: 3}, {4: 2}, relinearisation=4, conjugation=1)
    assert (plan.limbs(is_root=True), plan.limbs(is_root=False)) == ((4, 5, 3, 1, 2), (4, 5, 3, 1))
    alone = KeyPlan({1: 5}, {4: 2}, relinearisation=4, conjugation=1, products_at_root=True)
    assert (alone.limbs(is_root=True), alone.limbs(is_root=False)) == ((4, 5, 2, 1), (5,))
    assert KeyPlan({}).limbs(is_root=True) == ()
    assert plan.whole(5) == KeyPlan({1: 5, -2: 5}, {4: 5}, relinearisation=5, conjugation=5)
    assert KeyPlan({}).whole(5) == KeyPlan({})


def test_digits_lie_within_the_limbs():
    assert [len(P.digits_at(limbs)) for limbs in range(1, 6)] == [1, 1, 1, 2, 2]
    assert P.digits_at(4) == (range(3), range(3, 4))
    assert P.digits_at(5) == P.digit_limbs
    special = len(P.special_moduli)
    assert [P.key_rows(limbs) for limbs in (0, 3, 4)] == [0, 3 + special, 2 * (4 + special)]
    assert P.evaluation_key_bytes(4) == 2 * P.key_rows(4) * 64 * 8


@pytest.mark.parametrize("limbs", [0, 6, -1])
def test_keys_of_limbs_that_there_are_not(limbs):
    session = Session(P, 0, bytes(32))
    for make in (lambda: RelinKeyProtocol(session, limbs), lambda: RotationKeyProtocol(session, 3, limbs)):
        with pytest.raises(LevelError, match=f"for {limbs} limbs; need 1 to 5"):
            make()


def test_there_is_one_key_of_an_element_whatever_its_limbs():
    session = Session(P, 0, bytes(32))
    assert RotationKeyProtocol(session, 3, 2).instance == RotationKeyProtocol(session, 3).instance
    assert RelinKeyProtocol(session, 2).first_instance == RelinKeyProtocol(session).first_instance
