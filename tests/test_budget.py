"""How many features for each class, against exhaustive search; and what is promised, against exact probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations, product
from math import comb

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import beta, binom, binomtest, multinomial

from conftest import cut
from subspect import Auto, Mean, SubspectError
from subspect.choosing.boundary import _NEAR, Affine, Boundary, Choice
from subspect.choosing.pool import shared_pool
from subspect.choosing.promise import Counts, _chance, at_least, count, most_lost, promised
from subspect.choosing.pursuit import Quadratic
from subspect.choosing.settle import Rung, Search, _promise, helped, settle
from subspect.choosing.sizes import LADDER, MOST, Budget, Checked, Measure, allocate, check_budget
from subspect.heads.history import Promised
from subspect.statistics.nearness import FLOOR
from subspect.studies.rows import Block

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]
seeds = st.integers(0, 2**32 - 1)
fast = settings(deadline=None, derandomize=True, max_examples=60)
few = settings(deadline=None, derandomize=True, max_examples=15)


def coarse(values: Array) -> Array:
    """Round to sixteenths, so that sums of products are exact in float32, in whatever order."""
    return np.round(values * 16) / 16


def make(seed: int, images: int = 120, features: int = 8, classes: int = 3) -> tuple[Features, Ints, Affine]:
    generator = np.random.default_rng(seed)
    x = coarse(generator.standard_normal((images, features)) + generator.uniform(-1, 1, features))
    head = coarse(generator.standard_normal((classes, features))), coarse(generator.standard_normal(classes))
    return x.astype(np.float32), np.arange(images) % classes, head


# What may be asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "pool", "checked"),
    [
        (3, None, 3),
        (3, 3, 3),
        (0.5, None, 0.5),
        ("auto", None, Auto()),
        ("mean:2.5", None, Mean(2.5)),
        ("mean:3:2:5", None, Mean(3, 2, 5)),
        ("3", None, 3),
        (Auto(), None, Auto()),
        (Auto(0.2, "accuracy", "unseen", 4, 0.9), None, Auto(0.2, "accuracy", "unseen", 4, 0.9)),
        (Auto(most=4), 2, Auto(most=4)),
        (Auto(confidence=0.5), None, Auto(confidence=0.5)),
        (Mean(2.5), None, Mean(2.5)),
        (Mean(2, 2, 2), 2, Mean(2, 2, 2)),
        (Mean(6), None, Mean(6)),
        (Mean(1), 1, Mean(1)),
    ],
)
def test_sizes_that_fit(size: Budget, pool: int | None, checked: Checked) -> None:
    assert check_budget(size, 6, pool) == checked


def test_most_features_of_auto_unless_told() -> None:
    assert check_budget("auto", 2048) == Auto(0.05, "fidelity", None, MOST, 0.95)


@pytest.mark.parametrize(
    ("size", "pool", "message"),
    [
        (2, 0, "a pool must have from 1 to 6 features; got 0"),
        (2, 7, "a pool must have from 1 to 6 features; got 7"),
        (4, 3, "a class cannot have 4 features from a pool of 3"),
        (7, None, "k = 7 must be a whole number from 1 to 6, the number of features"),
        (Mean(7), None, "a mean of 7 features per class needs 1 ≤ least ≤ mean ≤ most ≤ 6; got least 1 and most 6"),
        (Mean(4), 3, "a mean of 4 features per class needs 1 ≤ least ≤ mean ≤ most ≤ 3; got least 1 and most 3"),
        (
            Mean(2.5, 3),
            None,
            "a mean of 2.5 features per class needs 1 ≤ least ≤ mean ≤ most ≤ 6; got least 3 and most 6",
        ),
        (Mean(3, 0), None, "got least 0 and most 6"),
        (Mean(3, 1, 2), None, "got least 1 and most 2"),
        (Mean(3, 1, 7), None, "got least 1 and most 7"),
        (Mean(3, 1, 5), 4, "1 ≤ least ≤ mean ≤ most ≤ 4; got least 1 and most 5"),
        (Mean(float("nan")), None, "a mean of nan features per class needs"),
        (Auto(0), None, "the tolerance is a share between 0 and 1, such as 0.01; got 0"),
        (Auto(1), None, "the tolerance is a share between 0 and 1, such as 0.01; got 1"),
        (Auto(-0.1), None, "got -0.1"),
        (Auto(float("nan")), None, "the tolerance is a share between 0 and 1, such as 0.01; got nan"),
        (Auto(measure="loss"), None, "the tolerance is of fidelity or accuracy; got 'loss'"),  # type: ignore[arg-type]
        (Auto(most=0), None, "most must be at least 1 and the confidence from 0.5 to below 1; got 0 and 0.95"),
        (Auto(confidence=1), None, "the confidence from 0.5 to below 1; got 64 and 1"),
        (Auto(confidence=0.4), None, "the confidence from 0.5 to below 1; got 64 and 0.4"),
    ],
)
def test_sizes_that_do_not_fit(size: Budget, pool: int | None, message: str) -> None:
    with pytest.raises(SubspectError) as caught:
        check_budget(size, 6, pool)
    assert message in str(caught.value)


@pytest.mark.parametrize("size", [0, 1.5, "five", "mean:5:1"])
@pytest.mark.parametrize(
    ("method", "besides"),
    [
        ("pursuit", ", 'auto' for the fewest that keep a tolerance, or 'mean:5' (Mean(5)) for a mean number"),
        ("contribution", ""),
        ("frequency", ", or a share of the mass between 0 and 1"),
    ],
)
def test_what_k_may_be_goes_by_the_method(size: Budget, method: str, besides: str) -> None:
    with pytest.raises(SubspectError) as caught:
        check_budget(size, 6, None, method)
    assert str(caught.value).endswith(f"must be a whole number from 1 to 6, the number of features{besides}")


def test_short_names_of_sizes() -> None:
    sizes = [Mean(5), Mean(2.5), Mean(4, 2, 6), Mean(4, 2), Mean(4, 1, 6), Auto(), Auto(0.01, "accuracy")]
    assert list(map(str, sizes)) == [
        "mean5",
        "mean2.5",
        "mean4-2-6",
        "mean4-2-all",
        "mean4-1-6",
        "auto0.05",
        "auto0.01-accuracy",
    ]


# How many features each class gets ------------------------------------------------------------------------------------


def some_paths(generator: np.random.Generator, concave: bool) -> list[Array]:
    """What one to four classes' paths of none to four features explain; quarters, so that sums are exact."""
    steps = [generator.integers(0, 20, generator.integers(0, 5)) / 4 for _ in range(generator.integers(1, 5))]
    return [np.cumsum(np.sort(step)[::-1] if concave else step) for step in steps]


def bent(path: Array) -> Array:
    """The least concave curve through or above a path, from every chord of it."""
    heights = [0.0, *path]
    return np.array(
        [
            max(
                heights[a] + (heights[b] - heights[a]) * (k - a) / (b - a)
                for a in range(k + 1)
                for b in range(k, len(heights))
                if b > a
            )
            for k in range(1, len(heights))
        ]
    )


def best_total(paths: list[Array], total: int, least: int, most: int | None) -> float:
    """The most that ``total`` features can explain, by trying everything."""
    ends = [min(len(path), most if most is not None else len(path)) for path in paths]
    choices = product(*(range(min(least, end), end + 1) for end in ends))
    return max(
        (explained(paths, sizes) for sizes in choices if sum(sizes) == min(total, sum(ends))), default=float("nan")
    )


def explained(paths: list[Array], sizes: Sequence[int]) -> float:
    return float(sum(path[size - 1] for path, size in zip(paths, sizes, strict=True) if size))


@fast
@given(seeds, st.integers(0, 18), st.integers(0, 3), st.none() | st.integers(3, 5))
def test_features_go_where_they_explain_most(seed: int, total: int, least: int, most: int | None) -> None:
    paths = some_paths(np.random.default_rng(seed), concave=True)
    total = max(total, sum(min(least, len(path)) for path in paths))
    sizes = allocate(paths, total, least, most)
    assert sizes.sum() == min(total, sum(len(path[:most]) for path in paths))
    for size, path in zip(sizes, paths, strict=True):
        assert min(least, len(path)) <= size <= len(path[:most])
    assert explained(paths, sizes.tolist()) == best_total(paths, total, least, most)


@fast
@given(seeds, st.integers(0, 18), st.none() | st.integers(1, 5))
def test_a_second_feature_that_helps_more_counts_with_the_first(seed: int, total: int, most: int | None) -> None:
    paths = some_paths(np.random.default_rng(seed), concave=False)
    curves = [bent(path[:most]) for path in paths]
    sizes = allocate(paths, total, 0, most)
    assert sizes.sum() == min(total, sum(map(len, curves)))
    assert explained(curves, sizes.tolist()) == pytest.approx(best_total(curves, total, 0, None), rel=1e-12)


def test_pairs_that_only_help_together() -> None:
    paths = [np.array([1.0, 9.0]), np.array([3.0, 4.0, 4.5]), np.array([2.0, 2.0])]
    assert allocate(paths, 3).tolist() == [1, 1, 1]
    assert allocate(paths, 4).tolist() == [2, 1, 1]
    assert allocate(paths, 3, 0).tolist() == [2, 1, 0]
    assert allocate(paths, 5, 0).tolist() == [2, 2, 1]
    assert allocate(paths, 2, 0, most=1).tolist() == [0, 1, 1]


def test_least_comes_before_what_helps() -> None:
    paths = [np.array([100.0, 200.0, 300.0]), np.array([1.0, 1.5]), np.array([0.5])]
    assert allocate(paths, 5, 2).tolist() == [2, 2, 1]
    assert allocate(paths, 6, 2).tolist() == [3, 2, 1]
    assert allocate(paths, 3, 0).tolist() == [3, 0, 0]
    assert allocate(paths, 4).tolist() == [2, 1, 1]


def test_of_equal_gains_the_lower_class_gets_the_feature() -> None:
    paths = [np.array([1.0, 2.0])] * 3
    assert allocate(paths, 4).tolist() == [2, 1, 1] and allocate(paths, 2, 0).tolist() == [2, 0, 0]


def test_paths_that_end_and_no_paths() -> None:
    nothing = np.empty(0)
    assert allocate([np.array([1.0]), nothing, np.array([5.0, 6.0])], 99).tolist() == [1, 0, 2]
    assert allocate([nothing, nothing], 3).tolist() == [0, 0] and allocate([], 3).tolist() == []


@pytest.mark.parametrize("seed", range(3))
def test_what_features_help_is_half_of_the_curvatures_loss_they_explain(seed: int) -> None:
    x, _, dense = make(seed, classes=4)
    labels = np.arange(len(x)) % 3
    boundary = Boundary(cut(x, labels, [50]), *dense)
    found = helped(boundary, 3)
    supports = boundary.each(lambda problem: [step.support for step in problem.path(3)], dense)
    z = x.astype(np.float64) @ dense[0].T + dense[1]
    q = softmax(z, axis=1)
    weights = np.where(q * (1 - q) > _NEAR, q * (1 - q), 0) + FLOOR
    assert [len(path) for path in found] == [3, 3, 3, 0]
    for label in range(3):
        root = np.sqrt(weights[:, label])
        left = []
        for support in [np.empty(0, np.int64), *supports[label]]:
            design = np.column_stack([x[:, support], np.ones(len(x))]) * root[:, None]
            fitted = np.linalg.lstsq(design, z[:, label] * root, rcond=None)[0]
            left.append(((z[:, label] * root - design @ fitted) ** 2).sum())
        assert np.allclose(found[label], (left[0] - np.array(left[1:])) / 2)


# Bounds ---------------------------------------------------------------------------------------------------------------


@fast
@given(st.integers(1, 300), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_at_least_is_the_exact_one_sided_bound(n: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, n))
    exact = binomtest(successes, n, alternative="greater").proportion_ci(confidence, method="exact")
    assert at_least(successes, n, confidence) == pytest.approx(exact.low, abs=1e-12)


def test_at_least_at_both_ends() -> None:
    assert at_least(0, 10) == 0
    assert at_least(10, 10) == pytest.approx(0.05 ** (1 / 10))


@lru_cache
def bounds(n: int, confidence: float) -> tuple[Ints, Array]:
    """All outcomes (lost, won, neither) of n pairs, and the bound of each."""
    outcomes = np.array([(lost, won, n - lost - won) for lost in range(n + 1) for won in range(n + 1 - lost)])
    return outcomes, np.array([most_lost(lost, won, n, confidence) for lost, won, _ in outcomes.tolist()])


@pytest.mark.parametrize(("n", "confidence"), [(12, 0.95), (8, 0.8), (15, 0.95)])
def test_the_bound_on_a_difference_is_broken_no_more_often_than_it_says(n: int, confidence: float) -> None:
    outcomes, bound = bounds(n, confidence)
    ways = np.array([comb(n, lost) * comb(n - lost, won) for lost, won, _ in outcomes.tolist()], np.float64)
    shares = [(a / 40, b / 40) for a in range(41) for b in range(41 - a)]
    shares += [(float(d), 0.0) for d in np.unique(bound.round(4)) + 1e-4 if 0 < d < 1]
    broken = []
    for lost, won in shares:
        chances = ways * (np.array([lost, won, 1 - lost - won]).clip(0) ** outcomes).prod(axis=1)
        assert chances.sum() == pytest.approx(1)
        broken.append(float(chances[bound < lost - won - 1e-6].sum()))
    assert max(broken) <= 1 - confidence + 1e-6
    assert max(broken) > 0.9 * (1 - confidence)


@pytest.mark.parametrize(("lost", "n"), [(1, 2), (11, 12), (99, 100)])
def test_the_bound_where_all_but_one_are_lost(lost: int, n: int) -> None:
    assert most_lost(lost, 0, n) >= binomtest(lost, n, alternative="less").proportion_ci(0.95, "exact").high - 1e-6


@pytest.mark.parametrize(("lost", "n"), [(0, 10), (3, 10), (10, 10), (1, 100), (20, 1000), (90, 100), (400, 5000)])
def test_where_nothing_was_won_the_bound_is_no_less_than_that_of_one_share(lost: int, n: int) -> None:
    alone = binomtest(lost, n, alternative="less").proportion_ci(0.95, method="exact").high
    assert alone <= most_lost(lost, 0, n) <= alone + 0.5 * (alone - lost / n) + 0.3 / n**0.5


def test_the_bound_grows_with_what_is_lost_and_falls_with_what_is_won() -> None:
    outcomes, bound = bounds(12, 0.95)
    known = {(lost, won): value for (lost, won, _), value in zip(outcomes.tolist(), bound, strict=True)}
    for (lost, won), value in known.items():
        assert (lost - won) / 12 <= value <= 1
        assert value <= known.get((lost + 1, won), 1) + 2e-6
        assert value >= known.get((lost, won + 1), -1) - 2e-6
        assert value <= known.get((lost + 1, won - 1), 1) + 2e-6


def test_the_bound_at_its_ends() -> None:
    assert most_lost(10, 0, 10) == 1
    assert -(0.05 ** (1 / 10)) <= most_lost(0, 10, 10) < -0.3
    assert 1 - 0.05 ** (1 / 10) <= most_lost(0, 0, 10) < 0.5
    assert most_lost(0, 0, 100_000) < 1e-4
    assert most_lost(5, 5, 10) == most_lost(5, 5, 10, 0.95) < most_lost(5, 5, 10, 0.99)


@pytest.mark.parametrize(
    ("lost", "won", "n"), [(3, 1, 12), (5, 2, 20), (20, 10, 1000), (50, 25, 5000), (250, 150, 5000), (60, 60, 2000)]
)
def test_the_bound_is_tighter_than_two_bounds_that_share_the_error(lost: int, won: int, n: int) -> None:
    bonferroni = beta.ppf(0.975, lost + 1, n - lost) - beta.ppf(0.025, won, n - won + 1)
    normal = (lost - won) / n + 1.645 * np.sqrt(lost + won - (lost - won) ** 2 / n) / n
    assert most_lost(lost, won, n) < bonferroni
    if n >= 1000:
        assert normal < most_lost(lost, won, n) < normal + 0.4 * (normal - (lost - won) / n)


@lru_cache
def outcomes_of(n: int) -> Ints:
    return np.array([(lost, won, n - lost - won) for lost in range(n + 1) for won in range(n + 1 - lost)])


def chance_plainly(difference: int, n: int, either: float, mean: float) -> float:
    """The probability that lost − won is no more than ``difference``, summed over all outcomes."""
    outcomes = outcomes_of(n)
    shares = np.array([(either + mean) / 2, (either - mean) / 2, 1 - either]).clip(0)
    inside = outcomes[outcomes[:, 0] - outcomes[:, 1] <= difference]
    return float(multinomial.pmf(inside, n, shares / shares.sum()).sum())


@fast
@given(st.integers(1, 15), st.floats(0, 1), st.floats(-1, 1), st.data())
def test_the_chance_of_a_difference_sums_the_trinomial_law(
    n: int, either: float, part: float, data: st.DataObject
) -> None:
    difference = data.draw(st.integers(-n, n))
    mean = either * part
    assert _chance(difference, n, either, mean) == pytest.approx(chance_plainly(difference, n, either, mean), abs=1e-9)


def test_the_chance_of_a_difference_of_many_pairs_leaves_out_next_to_nothing() -> None:
    for either, mean, difference in ((0.02, 0.005, 10), (0.3, 0.01, 60), (1e-4, 5e-5, 0), (1.0, 0.1, 450)):
        ms = np.arange(5001)
        share = (either + mean) / 2 / either
        below = [binom.cdf((m + difference) // 2, m, share) if m + difference >= 0 else 0.0 for m in ms]
        whole = float(binom.pmf(ms, 5000, either) @ below)
        assert _chance(difference, 5000, either, mean) == pytest.approx(whole, abs=1e-10)
        assert 0.01 < whole < 0.9999


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (2, 0), (3, 1), (1, 3), (4, 4), (8, 1), (0, 6), (6, 6)])
def test_the_bound_is_where_the_worst_chance_of_so_small_a_difference_is_the_error_rate(lost: int, won: int) -> None:
    n, spent = 12, 0.001
    interval = binomtest(lost + won, n).proportion_ci(1 - spent, method="exact")

    def worst(mean: float) -> float:
        sums = np.linspace(max(interval.low, abs(mean)), interval.high, 60)
        return max((chance_plainly(lost - won, n, s, mean) for s in sums if s >= abs(mean)), default=0.0)

    bound = most_lost(lost, won, n)
    assert worst(bound + 0.002) + spent <= 0.05 + 1e-4
    assert worst(bound - 0.002) + spent >= 0.05


# Counts ---------------------------------------------------------------------------------------------------------------


@few
@given(seeds, st.booleans())
def test_counts_are_those_of_a_plain_loop(seed: int, skipping: bool) -> None:
    generator = np.random.default_rng(seed)
    x, labels, dense = make(seed, images=60)
    x[30:40] = x[:10]
    heads = [dense, *(make(seed + more, images=1)[2] for more in (1, 2))]
    said = [(x.astype(np.float64) @ weight.T + bias).argmax(axis=1) for weight, bias in heads]
    noisy = np.where(generator.random(60) < 0.3, labels, said[0])
    pieces = zip(np.split(x, [7, 7, 40]), np.split(noisy, [7, 7, 40]), np.split(said[0], [7, 7, 40]), strict=True)
    blocks = [Block(*piece) for piece in pieces]
    skip = np.concatenate([Block(x[:20], labels[:20], labels[:20]).prints(), np.array([7], np.uint64)])
    left_out = {*range(20), *range(30, 40)} if skipping else set()
    for found, own in zip(count(blocks, heads, skip if skipping else None), said, strict=True):
        agree = right = lost = won = 0
        for image in sorted(set(range(60)) - left_out):
            agree += own[image] == said[0][image]
            right += own[image] == noisy[image]
            lost += said[0][image] == noisy[image] != own[image]
            won += own[image] == noisy[image] != said[0][image]
        assert found == (60 - len(left_out), agree, right, lost, won)


def test_counts_of_no_images_and_no_heads() -> None:
    x, labels, dense = make(0)
    assert count([], [dense, dense]) == [Counts(0, 0, 0, 0, 0)] * 2
    assert count(cut(x, labels), []) == []
    assert count(cut(x, labels), [dense], cut(x, labels)[0].prints()) == [Counts(0, 0, 0, 0, 0)]


def test_what_is_lost_and_its_bound() -> None:
    counts = Counts(images=200, agree=190, right=150, lost=8, won=3)
    assert counts.loss("fidelity") == 0.05 and counts.loss("accuracy") == 0.025
    most = binomtest(10, 200, alternative="less").proportion_ci(0.95, method="exact").high
    assert counts.bound("fidelity") == pytest.approx(most)
    assert counts.bound("accuracy") == most_lost(8, 3, 200) > 0.025
    assert counts.bound("fidelity", 0.99) > counts.bound("fidelity")
    assert counts.bound("accuracy", 0.99) == most_lost(8, 3, 200, 0.99)


def said(measure: Measure, loss: float, confidence: float, images: int, kept: bool, of: str | None = None) -> Promised:
    return promised(Auto(0.05, measure, of, confidence=confidence), loss, images, kept=kept)


def loss_of(made: Promised) -> float:
    assert made.loss is not None
    return made.loss


# The promise ----------------------------------------------------------------------------------------------------------


def rung(total: int = 0) -> Rung:
    head = np.array([[0.0], [1.0]]), np.zeros(2)
    return Rung(Choice([np.arange(total)], head), Counts(1, 1, 1, 0, 0))


def agreeing(*shares: float, n: int = 1000) -> list[Counts]:
    return [Counts(n, round(n * share), 0, 0, 0) for share in shares]


def test_all_sizes_keep_the_tolerance() -> None:
    rungs = [rung(), rung(), rung()]
    counts = agreeing(0.97, 0.99, 0.98)
    chosen, made = _promise(rungs, counts, Auto(0.05))
    assert chosen is rungs[2]
    assert made == said("fidelity", 1 - at_least(970, 1000), 0.95, 1000, True)


def test_testing_ends_at_the_first_size_that_fails() -> None:
    rungs = [rung() for _ in range(4)]
    chosen, made = _promise(rungs, agreeing(0.99, 0.98, 0.93, 0.99), Auto(0.05))
    assert chosen is rungs[1] and made == said("fidelity", 0.05, 0.95, 1000, True)
    chosen, made = _promise(rungs, agreeing(0.94, 0.99, 0.99, 0.99), Auto(0.05))
    assert chosen is rungs[0]
    assert made == said("fidelity", 1 - at_least(940, 1000), 0.95, 1000, False) and loss_of(made) > 0.05


def test_the_bound_counts_and_not_the_loss_itself() -> None:
    rungs = [rung(), rung()]
    assert _promise(rungs, agreeing(0.99, 0.955), Auto(0.05))[0] is rungs[0]
    assert _promise(rungs, agreeing(0.99, 0.955), Auto(0.05, confidence=0.5))[0] is rungs[1]
    assert _promise(rungs, agreeing(0.99, 0.955, n=100_000), Auto(0.05))[0] is rungs[1]
    counts = [Counts(1000, 0, 0, 10, 5), Counts(1000, 0, 0, 60, 20)]
    chosen, made = _promise(rungs, counts, Auto(0.02, "accuracy"))
    assert chosen is rungs[0] and made.measure == "accuracy" and made.loss == 0.02


def test_a_promise_in_words() -> None:
    assert said("fidelity", 0.0416, 0.95, 12_345, True).text == (
        "at least 95.8 % agreement with the dense network, 95 % confidence, n = 12,345"
    )
    assert said("accuracy", 0.0123, 0.999, 500, False).text == (
        "at most 1.3 points of accuracy lost, 99.9 % confidence, n = 500"
    )
    for loss, shown in (
        (0.0125, "98.7 %"),
        (0.0504, "94.9 %"),
        (0.0004, "99.9 %"),
        (0.05, "95.0 %"),
        (0.001, "99.9 %"),
    ):
        assert f"at least {shown} agreement" in said("fidelity", loss, 0.95, 500, True).text
    assert "at most 0.1 points" in said("accuracy", 0.0004, 0.95, 500, True).text


def nested(generator: np.random.Generator, shares: Sequence[float], n: int) -> list[int]:
    """How many of n images heads agree on, where the images of a worse head are among those of every better one."""
    order = np.argsort(shares)
    steps = np.diff([0, *np.sort(shares), 1])
    counts = np.empty(len(shares), np.int64)
    counts[order] = generator.multinomial(n, steps)[:-1].cumsum()
    return counts.tolist()


@pytest.mark.parametrize(
    "shares",
    [
        (0.985, 0.97, 0.96),
        (0.98, 0.958, 0.949),
        (0.949, 0.949, 0.949, 0.949, 0.949, 0.949),
        (0.96, 0.949, 0.97, 0.93),
        (0.94, 0.93, 0.9),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_promise_of_fidelity_is_kept(shares: tuple[float, ...], together: bool) -> None:
    generator = np.random.default_rng(0)
    rungs = [rung() for _ in shares]
    short = []
    for _ in range(200):
        agree = nested(generator, shares, 5000) if together else generator.binomial(5000, shares).tolist()
        chosen, made = _promise(rungs, [Counts(5000, one, 0, 0, 0) for one in agree], Auto(0.05))
        short.append(loss_of(made) - (1 - shares[rungs.index(chosen)]))
    assert np.mean(np.array(short) < 0) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)
    assert np.median(short) <= 0.01


def test_a_promise_of_accuracy_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.choosing.promise.most_lost", lru_cache(None)(most_lost))
    generator = np.random.default_rng(0)
    shares = [(0.002, 0.0005), (0.004, 0.0008), (0.0045, 0.0013)]  # lost and won: 0.15, 0.32 and 0.32 points
    rungs = [rung() for _ in shares]
    short = []
    for _ in range(100):
        drawn = [generator.multinomial(5000, [lost, won, 1 - lost - won]).tolist() for lost, won in shares]
        counts = [Counts(5000, 0, 0, lost, won) for lost, won, _ in drawn]
        chosen, made = _promise(rungs, counts, Auto(0.003, "accuracy"))
        lost, won = shares[rungs.index(chosen)]
        short.append(loss_of(made) - (lost - won))
    assert np.mean(np.array(short) < 0) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 100)
    assert np.median(short) <= 0.01


# The search for a size ------------------------------------------------------------------------------------------------

CLASSES, FEATURES = 3, 20


@lru_cache
def boundary() -> Boundary:
    x, labels, dense = make(18, features=FEATURES, classes=CLASSES)
    return Boundary(cut(x, labels), *dense)


class Fake:
    """Learns heads that lose a given share of evenly spread images, and keeps track of what was asked for.

    Images have one feature, from 0 to 1; the dense network says class 1 of all of them, a head only where it exceeds the
    loss of the head's size.
    """

    def __init__(self, loss: Callable[[int], float]) -> None:
        self.loss, self.asked = loss, list[Ints]()

    def __call__(self, sizes: Ints) -> Choice:
        self.asked.append(sizes)
        head = np.array([[0.0], [1.0]]), np.array([0.0, -self.loss(int(sizes.sum()))])
        return Choice([np.arange(size) for size in sizes.tolist()], head)


def even(images: int = 1000, reach: float = 1.0, labels: int = 1) -> list[Block]:
    """Images at even distances from 0 to ``reach``."""
    x = ((np.arange(images) + 0.5) / images * reach).astype(np.float32)[:, None]
    ones = np.ones(images, np.int64)
    return [Block(x[:400], ones[:400] * labels, ones[:400]), Block(x[400:], ones[400:] * labels, ones[400:])]


def total(found: Rung) -> int:
    return sum(len(support) for support in found.choice.supports)


def totals(found: Search) -> list[int]:
    return [total(one) for one in found.rungs]


@pytest.mark.parametrize("measure", ["fidelity", "accuracy"])
@few
@given(seed=seeds, tolerance=st.sampled_from([0.011, 0.05, 0.3]), most=st.sampled_from([1, 7, 20]))
def test_the_smallest_size_that_keeps_the_tolerance_is_found(
    measure: Measure, seed: int, tolerance: float, most: int
) -> None:
    losses = np.sort(np.random.default_rng(seed).uniform(0, 0.4, CLASSES * FEATURES + 1) ** 2)[::-1]
    learn = Fake(lambda size: float(losses[size]))
    found = settle(boundary(), learn, Auto(tolerance, measure, most=most), even())
    keeping = [size for size in range(CLASSES, CLASSES * most + 1) if (1000 * losses[size]).round() <= 1000 * tolerance]
    assert found.met == bool(keeping) and found.promise is None
    assert total(found.chosen) == (keeping[0] if keeping else CLASSES * most)
    assert found.chosen in found.rungs and totals(found) == sorted(set(totals(found)))
    assert sorted(size.sum() for size in learn.asked) == totals(found)
    for one in found.rungs:
        assert one.counts.loss(measure) == pytest.approx(losses[total(one)], abs=0.001)


def test_sizes_are_handed_out_where_they_help() -> None:
    learn = Fake(lambda size: 1 / size)
    settle(boundary(), learn, Auto(0.07, most=7), even())
    explained = helped(boundary(), 7)
    assert len(learn.asked) > 4
    for sizes in learn.asked:
        assert sizes.tolist() == allocate(explained, int(sizes.sum()), 1, 7).tolist()
        assert sizes.min() >= 1 and sizes.max() <= 7


def test_only_few_sizes_are_tried() -> None:
    learn = Fake(lambda size: 1 / size)
    found = settle(boundary(), learn, Auto(0.03, most=20), even(10_000))
    assert totals(found) == [3, 6, 9, 12, 15, 18, 24, 30, 33, 34, 36] and total(found.chosen) == 34


def test_where_no_size_keeps_the_tolerance_only_the_ladder_is_tried() -> None:
    found = settle(boundary(), Fake(lambda size: 0.5), Auto(0.05, most=20), even())
    assert totals(found) == [CLASSES * mean for mean in LADDER if mean <= 20]
    assert total(found.chosen) == 60 and not found.met


def test_images_that_flatter_lead_to_a_larger_size() -> None:
    wanted, learn = Auto(0.05, promise="unseen", most=20), Fake(lambda size: 0.5 / size)
    plain = settle(boundary(), Fake(learn.loss), wanted, even())
    found = settle(boundary(), learn, wanted, even(), even(50_000, 0.7))
    assert total(plain.chosen) == 10 and plain.met and plain.promise is None
    assert totals(found) == sorted({*totals(plain), 15, 18, 24, 30, 36, 60})
    sequence = [one for one in reversed(found.rungs) if total(one) >= 10]
    tested = count(even(50_000, 0.7), [one.choice.affine for one in sequence])
    passing = [one for one, counts in zip(sequence, tested, strict=True) if counts.bound("fidelity") <= 0.05]
    assert found.chosen is passing[-1] and total(found.chosen) == 15
    assert found.met and found.promise == said("fidelity", 0.05, 0.95, 50_000, True, "unseen")


def test_the_promise_of_a_size_that_holds() -> None:
    learn = Fake(lambda size: 0.5 / size)
    found = settle(boundary(), learn, Auto(0.06, promise="unseen", most=20), even(), even(50_000))
    assert total(found.chosen) == 9 and found.met and found.promise is not None
    [counts] = count(even(50_000), [found.chosen.choice.affine])
    assert found.promise.loss == counts.bound("fidelity") < 0.06 and found.promise.images == 50_000


def test_where_even_the_largest_fails_on_the_promises_images() -> None:
    learn = Fake(lambda size: 0.5 / size)
    found = settle(boundary(), learn, Auto(0.05, promise="unseen", most=20), even(), even(5000, 0.1))
    assert total(found.chosen) == 60 and not found.met and found.promise is not None
    [counts] = count(even(5000, 0.1), [found.chosen.choice.affine])
    assert not found.promise.kept and found.promise.loss == counts.bound("fidelity") > 0.05


def test_a_promise_of_accuracy() -> None:
    learn = Fake(lambda size: 0.5 / size)
    wanted = Auto(0.06, "accuracy", "unseen", 20)
    found = settle(boundary(), learn, wanted, even(), even(5000))
    assert (
        found.met
        and found.promise is not None
        and found.promise.measure == "accuracy"
        and loss_of(found.promise) <= 0.06
    )
    winning = settle(boundary(), learn, wanted, even(labels=0), even(1000, labels=0))
    assert total(winning.chosen) == 3 and winning.met
    tested = count(even(1000, labels=0), [one.choice.affine for one in winning.rungs])
    assert winning.promise is not None
    assert winning.promise.loss == max(counts.bound("accuracy") for counts in tested) < 0.001
    assert winning.chosen.counts.won > winning.chosen.counts.lost == 0


def test_no_size_is_added_once_the_promises_images_are_looked_at() -> None:
    learn = Fake(lambda size: 0.5 / size)
    asked: list[int] = []

    class Watched:
        def __iter__(self) -> Iterator[Block]:
            asked.append(len(learn.asked))
            return iter(even(2000, 0.7))

    settle(boundary(), learn, Auto(0.05, promise="unseen", most=20), even(), Watched())
    assert asked == [len(learn.asked)]


def test_images_that_others_have_seen_are_left_out_of_the_promise() -> None:
    seen = even(1000, 0.0103)
    both = [*seen, *even(4000)]
    skip = np.concatenate([block.prints() for block in seen])
    wanted, learn = Auto(0.05, promise="unseen", most=20), Fake(lambda size: 0.5 / size)
    found = settle(boundary(), learn, wanted, even(), both, skip)
    expected = settle(boundary(), learn, wanted, even(), even(4000))
    assert found.promise == expected.promise and found.promise is not None and found.promise.images == 4000


def test_there_must_be_images_to_settle_on() -> None:
    learn, wanted = Fake(lambda size: 0.5 / size), Auto(0.05, promise="unseen", most=20)
    with pytest.raises(SubspectError, match="there are no images to choose the number of features on"):
        settle(boundary(), learn, wanted, [])
    for promise, skip in (([], None), (even(), np.concatenate([block.prints() for block in even()]))):
        with pytest.raises(SubspectError, match="there are no images to promise anything on that others haven't seen"):
            settle(boundary(), learn, wanted, even(), promise, skip)


def test_classes_without_images_count_for_nothing() -> None:
    x, _, dense = make(0, features=FEATURES, classes=4)
    three = Boundary(cut(x, np.arange(len(x)) % 3), *dense)
    learn = Fake(lambda size: 0.5 / size)
    found = settle(three, learn, Auto(0.05, most=20), even())
    assert total(found.chosen) == 10 and {sizes[3] for sizes in learn.asked} == {0}
    assert all(size % 3 == 0 for size in totals(found) if size not in (10, 11))


def test_the_ladder_grows() -> None:
    assert list(LADDER) == sorted(set(LADDER)) and LADDER[0] == 1 and LADDER[-1] == MOST


# A pool for all classes -----------------------------------------------------------------------------------------------


def each_problem(one: Boundary, head: Affine) -> list[Quadratic]:
    return one.each(lambda problem: problem, head)


def worth(problem: Quadratic, support: Sequence[int]) -> float:
    """What a support explains for a class."""
    moments = problem.moments[list(support)]
    return problem.weight * float(moments @ np.linalg.solve(problem.gram[np.ix_(support, support)], moments))


def best_within(problems: list[Quadratic], pool: Sequence[int], size: int) -> float:
    """What the best supports of a size within a pool explain for all classes together, by trying every one."""
    return sum(max(worth(problem, support) for support in combinations(pool, size)) for problem in problems)


def given_up(problems: list[Quadratic], supports: list[list[int]]) -> Iterator[list[int]]:
    """The pools that remain when the feature whose loss costs least is given up again and again, by trying all."""
    pool = sorted({feature for support in supports for feature in support})
    while pool:
        yield pool
        costs, stand_ins = {}, {}
        for gone in pool:
            costs[gone], stand_ins[gone] = 0.0, list(map(list, supports))
            for label, (problem, support) in enumerate(zip(problems, supports, strict=True)):
                if gone in support:
                    kept = [feature for feature in support if feature != gone]
                    others = [kept, *([*kept, other] for other in pool if other != gone and other not in kept)]
                    best = max(others, key=lambda own, problem=problem: worth(problem, own))  # type: ignore[misc]
                    costs[gone] += worth(problem, support) - worth(problem, best)
                    stand_ins[gone][label] = best
        gone = min(pool, key=lambda feature: costs[feature])
        pool, supports = [feature for feature in pool if feature != gone], stand_ins[gone]


@pytest.mark.parametrize("seed", range(10))
def test_the_feature_that_costs_least_is_given_up_again_and_again(seed: int) -> None:
    x, labels, dense = make(seed, features=14, classes=5)
    one = Boundary(cut(x, labels), *dense)
    free = one.choose(np.array([[2, 3, 1, 3, 2]]))[0]
    problems = each_problem(one, free.affine)
    for pool in given_up(problems, [support.tolist() for support in free.supports]):
        assert shared_pool(one, free.supports, free.affine, len(pool)).tolist() == pool


def test_a_pool_is_nearly_as_good_as_the_best() -> None:
    shares = []
    for seed in range(12):
        x, labels, dense = make(seed, features=9, classes=4)
        one = Boundary(cut(x, labels), *dense)
        free = one.choose(np.full((1, 4), 2))[0]
        used = np.unique(np.concatenate(free.supports)).tolist()
        problems = each_problem(one, free.affine)
        for size in range(2, len(used)):
            pool = shared_pool(one, free.supports, free.affine, size).tolist()
            best = max(best_within(problems, other, 2) for other in combinations(used, size))
            shares.append(best_within(problems, pool, 2) / best)
    assert min(shares) > 0.85 and np.mean(shares) > 0.98


def twins(noise: float = 0.1) -> tuple[Features, Ints, Affine]:
    """Four classes, each with a feature of its own and one of two pairs of features that are nearly the same."""
    generator = np.random.default_rng(0)
    pairs = np.repeat(generator.standard_normal((1500, 2)), 2, axis=1) + noise * generator.standard_normal((1500, 4))
    x = np.column_stack([pairs, generator.standard_normal((1500, 6))]).astype(np.float32)
    weight = np.zeros((4, 10))
    for label, (feature, sign) in enumerate(((0, 3), (1, -3), (2, 3), (3, -3))):
        weight[label, feature], weight[label, 4 + label] = sign, 2
    return x, np.asarray((x @ weight.T).argmax(axis=1)), (weight, np.zeros(4))


def test_features_that_stand_in_for_one_another_share_a_place() -> None:
    x, labels, dense = twins()
    one = Boundary(cut(x, labels), *dense)
    free = one.choose(np.full((1, 4), 2))[0]
    assert [sorted(support.tolist()) for support in free.supports] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    pool = shared_pool(one, free.supports, free.affine, 6)
    assert len({0, 1} & set(pool)) == len({2, 3} & set(pool)) == 1 and {4, 5, 6, 7} <= set(pool)
    within = one.within(pool).choose(np.full((1, 4), 2), free.affine)[0]
    for label, support in enumerate(within.supports):
        assert sorted(support)[1] == 4 + label and min(support) // 2 == label // 2 and set(support) <= set(pool)


def test_a_pool_of_all_that_is_used_or_more() -> None:
    x, labels, dense = twins()
    one = Boundary(cut(x, labels), *dense)
    free = one.choose(np.full((1, 4), 2))[0]
    for size in (8, 9, 10):
        assert shared_pool(one, free.supports, free.affine, size).tolist() == list(range(8))
    assert len(shared_pool(one, free.supports, free.affine, 1)) == 1


def test_a_class_without_images_claims_no_place_in_the_pool() -> None:
    x, labels, (weight, bias) = twins()
    dense = np.vstack([weight, np.ones(10)]), np.append(bias, -99)
    one = Boundary(cut(x, labels), *dense)
    free = one.choose(np.full((1, 5), 2))[0]
    assert free.supports[4].tolist() == list(range(10))
    assert shared_pool(one, free.supports, free.affine, 10).tolist() == list(range(8))


def test_what_exceeds_the_memory_is_first_cut_to_what_moves_the_logits_most(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels, dense = twins()
    x[:, 5] /= 256
    dense[0][:, 5] *= 256
    one = Boundary(cut(x, labels), *dense)
    free = one.choose(np.full((1, 4), 2))[0]
    spread = np.abs(free.affine[0]).sum(axis=0) * x.std(axis=0)
    monkeypatch.setattr("subspect.choosing.pool._BYTES", 8 * 4 * 6**2)
    pool = shared_pool(one, free.supports, free.affine, 5)
    assert len(pool) == 5 and set(pool) < set(np.argsort(-spread)[:6])
    monkeypatch.setattr("subspect.choosing.pool._BYTES", 0)
    assert shared_pool(one, free.supports, free.affine, 4).tolist() == sorted(np.argsort(-spread)[:4])


@pytest.mark.parametrize(
    ("mean", "features", "limit"),
    [(1, 2048, 64), (32, 2048, 64), (32.5, 2048, 66), (33, 2048, 66), (40, 2048, 80), (40, 72, 72), (1, 6, 6)],
)
def test_twice_the_mean_is_the_limit_of_a_class_from_32_on(mean: float, features: int, limit: int) -> None:
    assert Mean(mean).limit(features) == limit
    assert Mean(mean, 1, 50).limit(features) == 50
