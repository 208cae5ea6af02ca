"""The evaluator of sizes: what it takes for exact is exact."""

from __future__ import annotations

import numpy as np
import pytest

from mhe.backend.tracking import TrackingBackend
from tests.insecure import insecure_test_parameters


@pytest.mark.parametrize(("value", "scale", "error"), [(1.0, 2.0**16, 0.0), (-3.0, 2.0, 0.0), (0.3, 1.0, 0.3)])
def test_a_constant_errs_by_its_own_rounding(value, scale, error):
    backend = TrackingBackend(insecure_test_parameters(64, 3))
    assert backend.size(backend.encode(np.array([value]), 3, scale)).noise == pytest.approx(error / scale)


def test_a_vector_errs_by_the_rounding_of_its_coefficients():
    backend = TrackingBackend(insecure_test_parameters(64, 3))
    assert backend.size(backend.encode(np.ones(8), 3, 2.0**20)).noise == pytest.approx((8 / 6) ** 0.5 / 2**20)
