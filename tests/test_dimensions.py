"""Dimensions at their edges: shares that are met exactly, and the fewest points."""

from __future__ import annotations

import numpy as np
import pytest

from subspect.statistics.dimensions import LEAST, components, likelihood, neighbours, spread, two_nn, variances


@pytest.mark.parametrize("value", [0.1, 0.3, 1.0, 1e-3])
def test_a_share_that_is_met_exactly_is_met_whatever_rounding_does(value: float) -> None:
    for count in range(2, 60):
        for needed in range(1, count):
            assert components(np.full(count, value), needed / count) == needed


def test_intrinsic_dimensions_from_50_points_on() -> None:
    x = np.random.default_rng(0).standard_normal((LEAST, 3))
    generator = np.random.default_rng(0)
    few, enough = (spread(x[:count], 1000, generator) for count in (LEAST - 1, LEAST))
    assert LEAST == 50 and np.isnan(few.two_nn) and np.isnan(few.likelihood)
    apart = neighbours(x, 20)
    assert (enough.two_nn, enough.likelihood) == (two_nn(apart), likelihood(apart))
    assert few.participation > 1 and few.points == 49
    drawn = spread(x, LEAST - 1, generator)  # of those drawn there are too few, but the linear ones are of all
    assert np.isnan(drawn.two_nn) and drawn.participation == enough.participation


def test_no_variance_is_below_0() -> None:
    x = np.random.default_rng(0).standard_normal((60, 3))
    for points in (x[:, [0, 0, 1, 1, 2, 2, 2]], x[:5, [0, 0, 1, 1, 2, 2, 2]]):
        assert (variances(points) >= 0).all() and 1 < spread(points, 50, np.random.default_rng(0)).participation <= 3
