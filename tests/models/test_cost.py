"""Closed forms of the work in operations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.cost import DEFAULT_RATES, Chain, Work

CHAIN = Chain(1 << 14, (48, 42, 42, 42, 42, 42), (60, 60), 2)


@pytest.mark.parametrize("name", sorted(DEFAULT_RATES))
def test_work_grows_with_the_ring_and_with_wide_primes(name):
    work, wide = Work(CHAIN), Work(replace(CHAIN, limb_bits=(60,) * 6))
    double = Work(replace(CHAIN, ring_dim=1 << 15))
    assert 2 * work.of(name, 3) <= double.of(name, 3) < 2.2 * work.of(name, 3)
    assert wide.of(name, 3) >= work.of(name, 3) > 0


@pytest.mark.parametrize("name", sorted(DEFAULT_RATES))
@pytest.mark.parametrize("sizes", [(41, 42, 30), (47, 48, 49), (49, 50, 60), (60, 36, 57)])
def test_work_hangs_on_classes_of_sizes_only(name, sizes):
    first, scale, special = sizes
    chain = Chain(1 << 14, (first, first, scale, scale, scale), (special, special), 2)
    assert Work(chain.typical).of(name, 4) == Work(chain).of(name, 4)


def test_a_lift_costs_little_more_for_more_sources_as_long_as_they_fit_the_vectors():
    """One row is written for each prime that comes out; with too many pieces there is another loop."""

    def lifts(bits, digits):
        chain = replace(CHAIN, limb_bits=(bits,) * 8, digits=digits)
        work = Work(chain)
        whole, transforms = work.of("decompose", 8), Work(replace(chain, special_bits=(60,))).of("decompose", 8)
        # what a second special prime adds to every digit: its transform, and a row of a lift
        return (whole - transforms) / digits

    two, four = lifts(42, 4), lifts(42, 2)
    assert two < four < 1.2 * two
    # primes of 48 bits and more go in as two pieces, of which eight are too many
    assert lifts(48, 2) > 1.5 * lifts(47, 2) / 1.2
    assert lifts(48, 4) < 1.2 * lifts(47, 4)


def test_an_encryption_at_full_limbs_has_no_limb_to_divide_by():
    work = Work(CHAIN)
    assert work.of("rerandomise", 6) < 1.1 * work.of("rerandomise", 5)
    assert work.of("rerandomise", 5) > 1.1 * work.of("rerandomise", 4)
