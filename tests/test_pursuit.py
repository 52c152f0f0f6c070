"""The path against brute force: every support, every exchange and every fit computed the slow way."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subspect.choosing.pursuit import Factor, Quadratic, pursue

Array = npt.NDArray[np.float64]
Weighed = tuple[Array, Array, Array]  # features (n, d), target (n,) and weight (n,) of the images
seeds = st.integers(0, 2**32 - 1)
fast = settings(deadline=None, derandomize=True, max_examples=40)


def entangled(generator: np.random.Generator, images: int, features: int, strength: float = 2.0) -> Array:
    """Centred features that share two strong factors, which lead a greedy choice astray."""
    shared = generator.standard_normal((images, 2)) @ generator.standard_normal((2, features))
    x = generator.standard_normal((images, features)) + strength * shared
    return np.asarray(x - x.mean(axis=0))


def planted(seed: int, features: int, k: int, noise: float = 0.1, images: int = 100) -> tuple[Array, Array, list[int]]:
    """Features, a target that k of them make up, and those k."""
    generator = np.random.default_rng(seed)
    x = entangled(generator, images, features)
    chosen = sorted(generator.choice(features, k, replace=False).tolist())
    weights = generator.choice([-1, 1], k) * generator.uniform(0.5, 2, k)
    y = x[:, chosen] @ weights + noise * generator.standard_normal(images)
    return x, np.asarray(y - y.mean()), chosen


def moments(x: Array, y: Array) -> tuple[Array, Array]:
    return x.T @ x / len(x), x.T @ y / len(x)


def explained(gram: Array, pull: Array, support: npt.ArrayLike) -> float:
    """g_S' G_SS⁻¹ g_S."""
    places = np.array(support, np.int64)
    return float(pull[places] @ np.linalg.solve(gram[np.ix_(places, places)], pull[places]))


def residual(x: Array, y: Array, support: list[int]) -> float:
    """The mean squared error of the best fit on a support."""
    fit = x[:, support] @ np.linalg.lstsq(x[:, support], y, rcond=None)[0]
    return float(((y - fit) ** 2).mean())


def assert_factor(factor: Factor) -> None:
    chosen, gram, moments = factor.chosen, factor.gram, factor.moments
    shares = np.linalg.solve(gram[np.ix_(chosen, chosen)], gram[chosen])
    said = gram[:, chosen] @ shares
    assert np.allclose(factor.rows.T @ factor.rows, said, atol=1e-9)
    assert np.allclose(np.tril(factor.rows[:, chosen], -1), 0, atol=1e-9)
    assert np.allclose(factor.left, (gram - said).diagonal(), atol=1e-9)
    assert np.allclose(factor.pull, moments - moments[chosen] @ shares, atol=1e-9)
    assert np.allclose(factor.target @ factor.rows, moments[chosen] @ shares, atol=1e-9)
    assert factor.target @ factor.target == pytest.approx(explained(gram, moments, chosen), abs=1e-9)


@fast
@given(seeds)
def test_without_swaps_the_path_is_forward_selection(seed: int) -> None:
    x, y, _ = planted(seed, features=9, k=4, noise=1)
    expected: list[int] = []
    for step in pursue(*moments(x, y), 7, swaps=False):
        outside = [index for index in range(9) if index not in expected]
        expected.append(min(outside, key=lambda index: residual(x, y, [*expected, index])))
        assert step.support.tolist() == expected
        assert step.explained == pytest.approx((y**2).mean() - residual(x, y, expected), rel=1e-9)
    assert len(expected) == 7


@fast
@given(seeds)
def test_no_exchange_of_one_feature_lowers_the_loss(seed: int) -> None:
    x, y, _ = planted(seed, features=10, k=5, noise=1)
    gram, pull = moments(x, y)
    path = pursue(gram, pull, 8)
    assert [len(step.support) for step in path] == list(range(1, 9))
    for step in path:
        support = step.support.tolist()
        assert len(set(support)) == len(support)
        assert step.explained == pytest.approx(explained(gram, pull, support), rel=1e-9)
        for place in range(len(support)):
            for outsider in set(range(10)) - set(support):
                exchanged = [*support[:place], outsider, *support[place + 1 :]]
                assert explained(gram, pull, exchanged) <= step.explained * (1 + 2e-9)


@fast
@given(seeds)
def test_more_features_always_explain_more(seed: int) -> None:
    path = pursue(*moments(*planted(seed, features=12, k=5, noise=1)[:2]), 12)
    assert all(more.explained > fewer.explained for fewer, more in pairwise(path))


@fast
@given(seeds, st.integers(2, 3), st.sampled_from([0.0, 0.1, 0.3]))
def test_the_best_of_all_subsets_is_found_where_it_stands_out(seed: int, k: int, noise: float) -> None:
    x, y, chosen = planted(seed, features=8, k=k, noise=noise)
    gram, pull = moments(x, y)
    best = max(combinations(range(8), k), key=lambda support: explained(gram, pull, support))
    assert list(best) == chosen
    assert sorted(pursue(gram, pull, k)[-1].support) == chosen


def test_exchanges_find_what_forward_selection_misses() -> None:
    missed = 0
    for seed in range(50):
        x, y, chosen = planted(seed, features=8, k=3)
        missed += sorted(pursue(*moments(x, y), 3, swaps=False)[-1].support) != chosen
        assert sorted(pursue(*moments(x, y), 3)[-1].support) == chosen
    assert missed > 5


def test_a_feature_that_stands_for_two_makes_room_for_them() -> None:
    a, b, c = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 3)))[0].T
    x = np.stack([a + b + 0.5 * c, a, b], axis=1)
    gram, pull = x.T @ x, x.T @ (a + b)
    assert [step.support.tolist() for step in pursue(gram, pull, 2, swaps=False)] == [[0], [0, 1]]
    first, second = pursue(gram, pull, 2)
    assert first.support.tolist() == [0] and sorted(second.support) == [1, 2]
    assert (first.explained, second.explained) == pytest.approx((2**2 / 2.25, 2))


@fast
@given(seeds)
def test_a_sparse_target_is_recovered_exactly_and_then_the_path_ends(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((300, 60))
    x -= x.mean(axis=0)
    chosen = np.sort(generator.choice(60, 6, replace=False))
    weights = generator.choice([-1, 1], 6) * generator.uniform(0.5, 2, 6)
    gram, pull = moments(x, x[:, chosen] @ weights)
    path = pursue(gram, pull, 20)
    assert len(path) == 6 and sorted(path[-1].support) == chosen.tolist()
    problem = Quadratic(0, np.arange(60), 1.0, gram, pull, np.zeros(60), 0.0)
    assert np.allclose(problem.fit(chosen)[0], weights, rtol=1e-9)


@fast
@given(seeds)
def test_of_identical_features_the_lower_is_chosen_and_the_others_never(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y, _ = planted(seed, features=12, k=5, noise=1)
    twins = generator.permutation(12).reshape(4, 3)
    for twin in twins:
        x[:, twin] = x[:, twin[:1]]
    lowest = set(twins.min(axis=1).tolist())
    for swaps in (False, True):
        path = pursue(*moments(x, y), 12, swaps=swaps)
        assert len(path) == 4
        for step in path:
            assert set(step.support.tolist()) <= lowest


@fast
@given(seeds, st.booleans())
def test_a_dead_feature_is_never_chosen(seed: int, swaps: bool) -> None:
    x, y, _ = planted(seed, features=8, k=3, noise=1)
    x[:, [0, 5]] = 0
    path = pursue(*moments(x, y), 8, swaps=swaps)
    assert len(path) == 6
    assert all(not {0, 5} & set(step.support.tolist()) for step in path)


@pytest.mark.parametrize("swaps", [False, True])
def test_the_path_ends_at_the_rank(swaps: bool) -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((100, 4)) @ generator.standard_normal((4, 10))
    y = generator.standard_normal(100)
    path = pursue(*moments(x, y), 10, swaps=swaps)
    assert [len(step.support) for step in path] == [1, 2, 3, 4]
    assert path[-1].explained == pytest.approx((y**2).mean() - residual(x, y, list(range(10))))


@pytest.mark.parametrize(("own", "length"), [(1e-1, 2), (1e-4, 2), (1e-5, 1)])
def test_a_feature_counts_while_a_billionth_of_its_variance_is_its_own(own: float, length: int) -> None:
    a, b = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 2)))[0].T
    x = np.stack([a, a + own * b], axis=1)
    path = pursue(x.T @ x, x.T @ b, 2)
    assert len(path) == length
    assert path[-1].explained == pytest.approx(1 if length == 2 else own**2 / (1 + own**2))


def test_a_target_that_no_feature_moves_with_has_no_path() -> None:
    assert pursue(np.eye(5), np.zeros(5), 3) == []


@pytest.mark.parametrize("size", [0, 3])
def test_no_features_or_no_room_have_no_path(size: int) -> None:
    assert pursue(np.eye(3), np.ones(3), 0) == []
    assert pursue(np.empty((0, 0)), np.empty(0), size) == []


def test_more_features_than_there_are_cannot_be_had() -> None:
    assert [step.support.tolist() for step in pursue(np.diag([1.0, 3.0]), np.ones(2), 9)] == [[0], [0, 1]]


@fast
@given(seeds, st.floats(1e-6, 1e6))
def test_no_scale_matters(seed: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    x, y, _ = planted(seed, features=10, k=4, noise=1)
    expected = pursue(*moments(x, y), 10)
    for found, factor in (
        (pursue(*moments(x * 10 ** generator.uniform(-4, 4, 10), y), 10), 1.0),
        (pursue(*moments(x, y * scale), 10), scale),
    ):
        assert [step.support.tolist() for step in found] == [step.support.tolist() for step in expected]
        assert [step.explained / factor**2 for step in found] == pytest.approx([step.explained for step in expected])


@fast
@given(seeds, st.lists(st.tuples(st.booleans(), st.integers(0, 99)), min_size=1, max_size=12))
def test_adding_and_dropping_keep_the_factor_right(seed: int, moves: list[tuple[bool, int]]) -> None:
    factor = Factor(*moments(*planted(seed, features=7, k=3, noise=1)[:2]), 7)
    expected: list[int] = []
    for drop, number in moves:
        outside = [index for index in range(7) if index not in expected]
        if (drop and expected) or not outside:
            factor.drop(number % len(expected))
            del expected[number % len(expected)]
        else:
            expected.append(outside[number % len(outside)])
            factor.add(expected[-1])
        assert factor.chosen == expected
        assert_factor(factor)


@fast
@given(seeds, st.integers(1, 6))
def test_exchanges_are_what_solving_anew_gives(seed: int, k: int) -> None:
    factor = Factor(*moments(*planted(seed, features=7, k=3, noise=1)[:2]), 7)
    for feature in np.random.default_rng(seed).permutation(7)[:k].tolist():
        factor.add(feature)
    now = explained(factor.gram, factor.moments, factor.chosen)
    gains, costs = factor.exchanges()
    for place in range(k):
        others = factor.chosen[:place] + factor.chosen[place + 1 :]
        without = explained(factor.gram, factor.moments, others)
        assert costs[place] == pytest.approx(now - without, abs=1e-9)
        for feature in range(7):
            more = 0.0
            if feature not in factor.chosen:
                more = explained(factor.gram, factor.moments, [*others, feature]) - without
            assert gains[place, feature] == pytest.approx(more, abs=1e-9)


@fast
@given(seeds, st.integers(0, 6))
def test_gains_are_what_solving_anew_gives(seed: int, k: int) -> None:
    factor = Factor(*moments(*planted(seed, features=7, k=3, noise=1)[:2]), 7)
    for feature in np.random.default_rng(seed).permutation(7)[:k].tolist():
        factor.add(feature)
    now = explained(factor.gram, factor.moments, factor.chosen)
    for feature, gain in enumerate(factor.gains()):
        more = (
            0.0 if feature in factor.chosen else explained(factor.gram, factor.moments, [*factor.chosen, feature]) - now
        )
        assert gain == pytest.approx(more, abs=1e-9)


def test_an_exchange_for_what_the_others_already_say_gains_nothing() -> None:
    x, y, _ = planted(3, features=5, k=2)
    x[:, 4] = x[:, 0] - x[:, 1]
    factor = Factor(*moments(x, y), 5)
    for feature in (0, 1, 2):
        factor.add(feature)
    gains, _ = factor.exchanges()
    assert gains[2, 4] == 0 and gains[0, 4] > 0 and gains[1, 4] > 0


def weighted(seed: int) -> tuple[Quadratic, Weighed]:
    """The least squares of features 1, 3, 4, 6 and 8 of ten, with the rows that it is of."""
    generator = np.random.default_rng(seed)
    x, features = generator.standard_normal((80, 10)) + generator.uniform(-3, 3, 10), np.array([1, 3, 4, 6, 8])
    y = x @ generator.standard_normal(10) + generator.standard_normal(80) + 5
    weights = generator.uniform(0, 2, 80)
    inside = x[:, features]
    mean, target = weights @ inside / weights.sum(), float(weights @ y / weights.sum())
    gram = (inside - mean).T @ ((inside - mean) * weights[:, None]) / weights.sum()
    pull = (inside - mean).T @ ((y - target) * weights) / weights.sum()
    return Quadratic(7, features, float(weights.sum()), gram, pull, mean, target), (x, y, weights)


def on_rows(rows: Weighed, support: list[int]) -> tuple[Array, float]:
    """Weighted least squares with an intercept: the coefficients, the intercept last, and the loss."""
    x, y, weights = rows
    root = np.sqrt(weights)
    design = np.column_stack([x[:, support], np.ones(len(x))]) * root[:, None]
    coefficients = np.linalg.lstsq(design, y * root, rcond=None)[0]
    return coefficients, float(((design @ coefficients - y * root) ** 2).sum())


@fast
@given(seeds, st.permutations([1, 3, 4, 6, 8]), st.integers(1, 5))
def test_a_fit_is_weighted_least_squares_with_an_intercept(seed: int, order: list[int], k: int) -> None:
    problem, rows = weighted(seed)
    found, bias = problem.fit(np.array(order[:k]))
    assert np.allclose([*found, bias], on_rows(rows, order[:k])[0], rtol=1e-8)


def test_a_fit_on_no_feature_is_the_mean_of_the_target() -> None:
    problem, (_, y, weights) = weighted(0)
    found, bias = problem.fit(np.empty(0, np.int64))
    assert found.shape == (0,) and bias == pytest.approx(np.average(y, weights=weights))


@fast
@given(seeds)
def test_a_fit_does_not_mind_features_of_very_different_scales(seed: int) -> None:
    problem, rows = weighted(seed)
    scale = 10 ** np.random.default_rng(seed).uniform(-6, 6, 5)
    scaled = Quadratic(
        problem.label,
        problem.features,
        problem.weight,
        problem.gram * np.outer(scale, scale),
        problem.moments * scale,
        problem.mean * scale,
        problem.target,
    )
    weights, bias = scaled.fit(problem.features)
    assert np.allclose([*weights * scale, bias], on_rows(rows, problem.features.tolist())[0], rtol=1e-8)


@fast
@given(seeds)
def test_the_path_of_a_class_names_features_and_sums_the_loss_over_images(seed: int) -> None:
    problem, rows = weighted(seed)
    nothing = on_rows(rows, [])[1]
    path = problem.path(4)
    assert [len(step.support) for step in path] == [1, 2, 3, 4]
    for step in path:
        assert set(step.support.tolist()) <= {1, 3, 4, 6, 8}
        assert step.explained == pytest.approx(nothing - on_rows(rows, step.support.tolist())[1], rel=1e-8)
    assert path[0].support == min([1, 3, 4, 6, 8], key=lambda feature: on_rows(rows, [feature])[1])


def test_the_path_of_a_class_is_nested_only_without_swaps() -> None:
    a, b, c = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 3)))[0].T
    x = np.stack([a + b + 0.5 * c, a, b], axis=1)
    problem = Quadratic(0, np.array([2, 5, 9]), 1.0, x.T @ x, x.T @ (a + b), np.zeros(3), 0.0)
    assert [step.support.tolist() for step in problem.path(2, swaps=False)] == [[2], [2, 5]]
    assert sorted(problem.path(2)[1].support) == [5, 9]


@pytest.mark.parametrize(("own", "taken"), [(1e-4, [0, 1, 2]), (1e-5, [0, 2])])
def test_what_depends_on_those_taken_before_is_passed_over(own: float, taken: list[int]) -> None:
    a, b, c = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 3)))[0].T
    x = np.stack([a, a + own * b, c, np.zeros(60)], axis=1)  # a share of own² of the second's variance is its own
    factor = Factor(x.T @ x, x.T @ (a + b + c), 4)
    factor.take(np.array([0, 1, 3, 2, 0]))
    assert factor.chosen == taken
    for feature in (0, 2):
        assert factor.pull[feature] == pytest.approx(0, abs=1e-9)
