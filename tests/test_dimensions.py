"""Dimensions of points: against plain formulas, and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from subspect.statistics.dimensions import (
    LEAST,
    components,
    effective_rank,
    likelihood,
    neighbours,
    participation,
    spread,
    two_nn,
    variances,
)

fast = settings(deadline=None, derandomize=True, max_examples=20)
seeds = st.integers(0, 2**32 - 1)


@fast
@given(seeds)
def test_variances_are_those_of_principal_components(seed: int) -> None:
    generator = np.random.default_rng(seed)
    for n, d in ((40, 6), (5, 9)):
        x = (generator.standard_normal((n, d)) * generator.uniform(0.1, 3, d) + 5).astype(np.float32)
        values, pca = variances(x), PCA().fit(x.astype(np.float64))
        size = min(n, d)
        assert values[:size] == pytest.approx(pca.explained_variance_, abs=1e-9)
        assert participation(values) == pytest.approx(sum(values) ** 2 / sum(value**2 for value in values))
        for share in (0.5, 0.9, 0.99):
            expected = next(k for k in range(1, size + 1) if pca.explained_variance_ratio_[:k].sum() >= share - 1e-12)
            assert components(values, share) == expected


def test_dimensions_that_are_known() -> None:
    even = np.zeros(10)
    even[:4] = 2.0
    assert participation(even) == 4 and components(even, 0.9) == 4 and components(even, 0.5) == 2
    assert effective_rank(np.eye(7)[:5]) == pytest.approx(5) and effective_rank(np.zeros((3, 3))) == 0
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))
    assert np.isnan(participation(np.zeros(3))) and np.isnan(components(np.zeros(3), 0.9))


@fast
@given(seeds)
def test_neighbours_and_intrinsic_dimensions_against_loops(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((60, 4)) + 1000  # far from the origin
    x[7] = x[3]  # twice the same
    distances = neighbours(x.astype(np.float64), 6)
    plain = np.sort(cdist(np.unique(x, axis=0), np.unique(x, axis=0)), axis=1)[:, 1:7]
    assert distances == pytest.approx(plain, rel=1e-9)
    ratios = sorted(row[1] / row[0] for row in plain)
    pairs = [(np.log(ratio), -np.log(1 - place / 59)) for place, ratio in enumerate(ratios[: int(0.9 * 59)], 1)]
    slope = sum(one * other for one, other in pairs) / sum(one * one for one, _ in pairs)
    assert two_nn(distances) == pytest.approx(slope)
    inverses = [np.mean([np.log(row[-1] / near) for near in row[:-1]]) for row in plain]
    assert likelihood(distances) == pytest.approx(1 / np.mean(inverses))


def test_points_that_are_too_few_or_all_the_same() -> None:
    generator = np.random.default_rng(0)
    for x in (np.ones((0, 3)), np.ones((1, 3)), np.ones((30, 3)), generator.standard_normal((5, 3))):
        one = spread(x.astype(np.float32), 100, generator)
        assert np.isnan(one.two_nn) and np.isnan(one.likelihood) and one.points == len(x)
    assert np.isnan(spread(np.ones((1, 3)), 100, generator).participation)


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
