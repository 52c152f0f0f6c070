"""Whether the choice of features can be trusted, recomputed image by image; and what could stand in for what."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from conftest import cut
from subspect.choosing.boundary import _NEAR, FLOOR, SHARPNESS, Affine, Boundary
from subspect.choosing.options import TARGETS, Target
from subspect.choosing.pursuit import Quadratic
from subspect.choosing.stability import DRAWS, FOLDS, MOST, Trust, substitutes, trust
from subspect.studies.rows import Block

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]
seeds = st.integers(0, 2**32 - 1)
fast = settings(deadline=None, derandomize=True, max_examples=40)
few = settings(deadline=None, derandomize=True, max_examples=8)


def coarse(values: Array) -> Array:
    """Round to sixteenths, so that sums of products are exact in float32, in whatever order."""
    return np.round(values * 16) / 16


def make(seed: int, images: int = 90, features: int = 6, classes: int = 3) -> tuple[Features, Ints, Affine]:
    """Features that go along with each other, labels and a dense head."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((images, features)) @ generator.standard_normal((features, features))
    x = coarse(x / 2 + generator.uniform(-1, 1, features))
    head = coarse(generator.standard_normal((classes, features))), coarse(generator.standard_normal(classes))
    return x.astype(np.float32), np.arange(images) % classes, head


def some_head(seed: int, classes: int = 3, features: int = 6) -> Affine:
    generator = np.random.default_rng(seed)
    return coarse(generator.standard_normal((classes, features))), coarse(generator.standard_normal(classes))


class Passes:
    """Blocks that count how often they are gone through."""

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks, self.count = blocks, 0

    def __iter__(self) -> Iterator[Block]:
        self.count += 1
        return iter(self.blocks)


def fold_of(x: Features, folds: int) -> Ints:
    """The fold of every image, from the hash of its features."""
    prints = Block(x, np.zeros(len(x), np.int64), np.zeros(len(x), np.int64)).prints()
    return np.array([int(one) % folds for one in prints])


def plainly(
    x: Features, labels: Ints, dense: Affine, target: Target, head: Affine | None, times: Array
) -> tuple[Array, Array]:
    """The weight and the target of every image for every class, where an image near a boundary counts some times."""
    z = x.astype(np.float64) @ dense[0].T + dense[1]
    if head is None and target == "dense":
        margins = z - np.stack([np.delete(z, label, axis=1).max(axis=1) for label in range(z.shape[1])], axis=1)
        near = np.exp(-np.abs(margins) / (SHARPNESS * np.median(np.abs(margins).min(axis=1))))
        near[near < FLOOR] = 0
        everywhere = z - z.mean(axis=1, keepdims=True)
        pull = near * everywhere
    else:
        everywhere = z if head is None else x @ head[0].T + head[1]
        q = softmax(everywhere, axis=1)
        p = softmax(z, axis=1) if target == "dense" else np.eye(z.shape[1])[labels]
        close = (q * (1 - q) > _NEAR) | (np.abs(p - q) > _NEAR)
        near, pull = np.where(close, q * (1 - q), 0), np.where(close, q * (1 - q) * everywhere + p - q, 0)
    weights = FLOOR + times[:, None] * near
    return weights, (FLOOR * everywhere + times[:, None] * pull) / weights


def squares(label: int, x: Features, weights: Array, targets: Array) -> Quadratic:
    """The sum of weights and the weighted covariances and means of one class, on all features."""
    mean, target = np.average(x, axis=0, weights=weights), float(np.average(targets, weights=weights))
    centred = x - mean
    gram = np.einsum("i,ij,ik->jk", weights, centred, centred) / weights.sum()
    moments = np.einsum("i,ij,i->j", weights, centred, targets - target) / weights.sum()
    features = np.arange(x.shape[1])
    return Quadratic(label, features, float(weights.sum()), gram, moments, mean.astype(np.float64), target)


def assert_same(one: Quadratic, other: Quadratic, rtol: float = 1e-9) -> None:
    assert one.label == other.label and one.features.tolist() == other.features.tolist()
    for name in ("weight", "gram", "moments", "mean", "target"):
        assert np.allclose(getattr(one, name), getattr(other, name), rtol=rtol, atol=rtol), name


# Resampled images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refitted", [False, True])
@pytest.mark.parametrize("target", TARGETS)
@few
@given(seed=seeds, folds=st.integers(1, 7))
def test_images_near_the_boundary_count_as_often_as_their_fold_is_drawn(
    target: Target, refitted: bool, seed: int, folds: int
) -> None:
    x, labels, dense = make(seed)
    head = some_head(seed) if refitted else None
    times = np.random.default_rng(seed).integers(0, 4, (5, folds))
    times[0], times[1] = 1, 0
    boundary = Boundary(cut(x, labels, [20, 65]), *dense, target)
    resampled = boundary.each_resampled(lambda problems: problems, times, head)
    own = fold_of(x, folds)
    for row, drawn in enumerate(times):
        weights, targets = plainly(x, labels, dense, target, head, drawn[own].astype(np.float64))
        for label in range(3):
            assert_same(resampled[label][row], squares(label, x, weights[:, label], targets[:, label]))
    for once, sample in zip(boundary.each(lambda problem: problem, head), resampled, strict=True):
        assert_same(once, sample[0])


def test_folds_hold_every_image_once_and_are_told_by_its_features() -> None:
    x, labels, dense = make(0)
    order = np.random.default_rng(0).permutation(len(x))
    times = np.eye(4, dtype=np.int64)
    one = Boundary(cut(x, labels), *dense).each_resampled(lambda problems: problems, times)
    other = Boundary(cut(x[order], labels[order], [1, 50]), *dense).each_resampled(lambda problems: problems, times)
    whole = Boundary(cut(x, labels), *dense).each(lambda problem: problem)
    for mine, theirs, together in zip(one, other, whole, strict=True):
        for fold, again in zip(mine, theirs, strict=True):
            assert_same(fold, again)
        assert len({fold.weight for fold in mine}) == 4
        near = [fold.weight - len(x) * FLOOR for fold in mine]
        assert sum(near) == pytest.approx(together.weight - len(x) * FLOOR)


def test_little_memory_takes_more_passes_to_the_same_samples() -> None:
    x, labels, dense = make(1, classes=5)
    times = np.array([[1, 1, 1], [0, 2, 1]])
    expected = Boundary(cut(x, labels, [40]), *dense).each_resampled(lambda problems: problems, times)
    for memory, groups in ((0, 5), (8 * 6 * 6 * 4 * 2, 3), (8 * 6 * 6 * 4 * 5 - 1, 2), (8 * 6 * 6 * 4 * 5, 1)):
        blocks = Passes(cut(x, labels, [40]))
        boundary = Boundary(blocks, *dense, memory=memory)
        found = boundary.each_resampled(lambda problems: problems, times)
        assert blocks.count == 1 + groups
        for mine, theirs in zip(found, expected, strict=True):
            for one, other in zip(mine, theirs, strict=True):
                assert_same(one, other)


# Within a pool --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refitted", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_within_a_pool_only_its_features_are_in_the_running(target: Target, refitted: bool) -> None:
    x, labels, dense = make(2, features=9)
    head = some_head(2, features=9) if refitted else None
    boundary = Boundary(cut(x, labels), *dense, target, candidates=4)
    before = boundary.each(lambda problem: problem.features.tolist(), head)
    within = boundary.within(np.array([7, 2, 3, 8, 0]), whole=True)
    weights, targets = plainly(x, labels, dense, target, head, np.ones(len(x)))
    pool = [0, 2, 3, 7, 8]
    for problem in within.each(lambda problem: problem, head):
        assert problem.features.tolist() == pool
        whole = squares(problem.label, x, weights[:, problem.label], targets[:, problem.label])
        assert np.allclose(problem.gram, whole.gram[np.ix_(pool, pool)])
        assert np.allclose(problem.moments, whole.moments[pool], atol=1e-12)
        assert np.allclose(problem.mean, whole.mean[pool]) and problem.target == pytest.approx(whole.target)
    assert len(boundary.pool) == 9 and boundary.each(lambda problem: problem.features.tolist(), head) == before


def test_a_choice_within_a_pool() -> None:
    x, labels, dense = make(3, features=9)
    boundary = Boundary(cut(x, labels), *dense)
    pool = np.array([1, 4, 5, 8])
    weights, targets = plainly(x, labels, dense, "dense", None, np.ones(len(x)))
    [choice] = boundary.within(pool).choose(np.full((1, 3), 2))
    for label, support in enumerate(choice.supports):
        whole = squares(label, x, weights[:, label], targets[:, label])
        few = Quadratic(label, pool, whole.weight, whole.gram[np.ix_(pool, pool)], whole.moments[pool], whole.mean, 0)
        assert support.tolist() == few.path(2)[-1].support.tolist()
        assert np.flatnonzero(choice.affine[0][label]).tolist() == sorted(support)
    [more] = boundary.within(pool).choose(np.full((1, 3), 9))
    assert [sorted(support.tolist()) for support in more.supports] == [pool.tolist()] * 3


def test_of_two_pools_the_second_counts() -> None:
    x, labels, dense = make(4)
    once = Boundary(cut(x, labels), *dense).within(np.arange(4))
    twice = once.within(np.array([5, 0]))
    assert {tuple(problem) for problem in twice.each(lambda problem: problem.features.tolist())} == {(0, 5)}
    assert {tuple(problem) for problem in once.each(lambda problem: problem.features.tolist())} == {(0, 1, 2, 3)}


# Trust ----------------------------------------------------------------------------------------------------------------


def draws_of(seed: int, draws: int) -> Ints:
    return np.random.default_rng(seed).multinomial(FOLDS, [1 / FOLDS] * FOLDS, size=draws)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(3))
def test_stability_and_overlap_are_those_of_paths_on_redrawn_images(target: Target, seed: int) -> None:
    x, labels, dense = make(seed, images=150)
    head = some_head(seed)
    supports = [np.array([4, 1]), np.array([0, 2, 5]), np.array([3])]
    boundary = Boundary(cut(x, labels, [70]), *dense, target)
    found = trust(boundary, supports, head, draws=9, seed=seed)
    for one, problem in zip(found, boundary.each(lambda problem: problem, head), strict=True):
        names, shares = substitutes(problem, supports[problem.label])
        assert one.substitutes.tolist() == names.tolist() and np.allclose(one.recovered, shares)
    own = fold_of(x, FOLDS)
    again: list[list[set[int]]] = [[], [], []]
    for times in draws_of(seed, 9):
        weights, targets = plainly(x, labels, dense, target, head, times[own].astype(np.float64))
        for label, support in enumerate(supports):
            problem = squares(label, x, weights[:, label], targets[:, label])
            again[label].append(set(problem.path(len(support))[-1].support.tolist()))
    for one, support, drawn in zip(found, supports, again, strict=True):
        assert one.stability.tolist() == pytest.approx([np.mean([f in s for s in drawn]) for f in support.tolist()])
        overlaps = [len(a & b) / len(a | b) for a, b in combinations(drawn, 2)]
        assert one.jaccard == pytest.approx(np.mean(overlaps))
    stability = np.concatenate([one.stability for one in found])
    assert ((stability > 0) & (stability < 1)).any() and min(one.jaccard for one in found) < 1


def planted(noise: float | None = None) -> tuple[Features, Ints, Affine, list[list[int]]]:
    """Four classes with two strong features each of 12 independent ones; feature 12 is a noisy copy of feature 0."""
    generator = np.random.default_rng(5)
    x = generator.standard_normal((2000, 12))
    if noise is not None:
        x = np.column_stack([x, x[:, 0] + noise * generator.standard_normal(2000)])
    chosen = [[0, 1], [2, 3], [4, 5], [6, 7]]
    weight = 0.05 * generator.standard_normal((4, x.shape[1]))
    for label, own in enumerate(chosen):
        weight[label, own] = 2, -2
    weight[:, 12:] = 0
    x32 = x.astype(np.float32)
    return x32, np.asarray((x32 @ weight.T).argmax(axis=1)), (weight, np.zeros(4)), chosen


def trusted(x: Features, labels: Ints, dense: Affine, size: int, *, seed: int = 0) -> tuple[list[Ints], list[Trust]]:
    boundary = Boundary(cut(x, labels), *dense)
    [choice] = boundary.choose(np.full((1, len(dense[1])), size), dense)
    return choice.supports, trust(boundary, choice.supports, choice.affine, seed=seed)


def test_strong_features_are_chosen_again_and_nothing_stands_in_for_them() -> None:
    x, labels, dense, chosen = planted()
    supports, found = trusted(x, labels, dense, 2)
    assert [sorted(support.tolist()) for support in supports] == chosen
    for one in found:
        assert one.stability.tolist() == [1, 1] and one.jaccard == 1
        assert one.substitutes.tolist() == [[-1] * MOST] * 2 and not one.recovered.any()


def test_a_noisy_copy_stands_in_for_its_original() -> None:
    x, labels, dense, chosen = planted(noise=0.1)
    supports, found = trusted(x, labels, dense, 2)
    assert [sorted(support.tolist()) for support in supports] == chosen
    place = supports[0].tolist().index(0)
    assert found[0].substitutes[place].tolist() == [12, -1, -1]
    assert 0.95 < found[0].recovered[place][0] <= 1 and not found[0].recovered[place][1:].any()
    others = [
        row for label, one in enumerate(found) for f, row in enumerate(one.substitutes) if (label, f) != (0, place)
    ]
    assert len(others) == 7 and all(row.tolist() == [-1] * MOST for row in others)


def test_a_copy_that_is_too_noisy_does_not() -> None:
    x, labels, dense, _ = planted(noise=1.3)
    supports, found = trusted(x, labels, dense, 2)
    assert found[0].substitutes[supports[0].tolist().index(0)].tolist() == [-1] * MOST


def test_of_two_equals_either_is_chosen_now_and_then() -> None:
    x, labels, (weight, bias), _ = planted(noise=0.0)
    generator = np.random.default_rng(6)
    x[:, [0, 12]] += 0.5 * generator.standard_normal((2000, 2)).astype(np.float32)
    weight[0, [0, 12]] = 1
    supports, found = trusted(x, labels, (weight, bias), 2)
    place = [f in (0, 12) for f in supports[0].tolist()].index(True)
    stability = found[0].stability[place]
    assert 0 < stability < 1 and 1 / 3 < found[0].jaccard < 1
    assert found[0].substitutes[place][0] == {0: 12, 12: 0}[int(supports[0][place])]


def test_a_class_without_images_and_one_without_features_are_taken_as_they_are() -> None:
    x, _, dense = make(6, classes=4)
    supports = [np.array([1]), np.empty(0, np.int64), np.array([2, 0]), np.arange(6)]
    found = trust(Boundary(cut(x, np.arange(len(x)) % 3), *dense), supports, some_head(6, 4))
    for label in (1, 3):
        size = len(supports[label])
        assert found[label].stability.tolist() == [1] * size and found[label].jaccard == 1
        assert found[label].substitutes.tolist() == [[-1] * MOST] * size
        assert found[label].recovered.tolist() == [[0] * MOST] * size
        assert found[label].recovered.shape == found[label].substitutes.shape == (size, MOST)


def as_lists(found: list[Trust]) -> list[tuple[object, ...]]:
    return [(one.stability.tolist(), one.jaccard, one.substitutes.tolist(), one.recovered.tolist()) for one in found]


def test_the_same_seed_gives_the_same_and_another_one_others() -> None:
    x, labels, dense = make(7, images=60)
    head, supports = some_head(7), [np.array([4, 1]), np.array([0, 2]), np.array([3, 5])]
    found = [trust(Boundary(cut(x, labels), *dense), supports, head, seed=seed) for seed in (0, 0, 1)]
    unless_told = trust(Boundary(cut(x, labels), *dense), supports, head)
    assert as_lists(found[0]) == as_lists(found[1]) == as_lists(unless_told) != as_lists(found[2])
    assert {(DRAWS * share).round(9) % 1 for one in unless_told for share in one.stability} == {0}


def test_copies_of_a_feature_make_good_all_of_its_worth() -> None:
    x, labels, dense = make(8)
    x[:, 1:] = x[:, :1] * np.arange(2, 7, dtype=np.float32)
    for one in trust(Boundary(cut(x, labels), *dense), [np.array([0])] * 3, some_head(8)):
        assert one.stability.tolist() == [1] and one.jaccard == 1
        assert len(set(one.substitutes[0])) == MOST and set(one.substitutes[0]) < {1, 2, 3, 4, 5}
        assert one.recovered[0] == pytest.approx([1] * MOST)


def test_where_no_feature_helps_none_is_chosen_again() -> None:
    x, labels, _ = make(8)
    nothing = np.zeros((3, 6)), np.zeros(3)
    for one in trust(Boundary(cut(x, labels), *nothing), [np.array([0, 1])] * 3, nothing):
        assert one.stability.tolist() == [0, 0] and one.jaccard == 1
        assert one.substitutes.tolist() == [[-1] * MOST] * 2


def test_all_features_leave_none_to_stand_in() -> None:
    x, labels, dense = make(9, features=4)
    for one in trust(Boundary(cut(x, labels), *dense), [np.array([3, 1, 0, 2])] * 3, dense):
        assert one.stability.tolist() == [1] * 4 and one.jaccard == 1
        assert one.substitutes.tolist() == [[-1] * MOST] * 4


@pytest.mark.parametrize("kind", ["dead", "twice"])
def test_a_support_with_a_feature_that_says_nothing_of_its_own(kind: str) -> None:
    x, labels, dense = make(10)
    x[:, 2] = 0 if kind == "dead" else x[:, 1]
    for one in trust(Boundary(cut(x, labels), *dense), [np.arange(6)] * 3, dense):
        assert np.isfinite(one.stability).all() and np.isfinite(one.recovered).all()
        assert one.substitutes.shape == (6, MOST)


# Substitutes ----------------------------------------------------------------------------------------------------------


def explained(problem: Quadratic, places: list[int]) -> float:
    if not places:
        return 0.0
    moments = problem.moments[places]
    return float(moments @ np.linalg.solve(problem.gram[np.ix_(places, places)], moments))


def stand_ins(problem: Quadratic, places: list[int]) -> list[list[tuple[int, float]]]:
    """For each of a support, what makes good at least half of its worth, the best three first, by refits."""
    rows = []
    for member in places:
        kept = [place for place in places if place != member]
        cost = explained(problem, places) - explained(problem, kept)
        shares = {
            int(problem.features[other]): min((explained(problem, [*kept, other]) - explained(problem, kept)) / cost, 1)
            for other in range(len(problem.features))
            if other not in places
        }
        good = [(feature, share) for feature, share in shares.items() if share >= 0.5]
        rows.append(sorted(good, key=lambda pair: -pair[1])[:3])
    return rows


@fast
@given(seeds, st.integers(3, 9), st.data())
def test_substitutes_are_those_that_refits_find(seed: int, features: int, data: st.DataObject) -> None:
    generator = np.random.default_rng(seed)
    size = data.draw(st.integers(1, features))
    hidden = generator.standard_normal((80, 3))
    x = hidden @ generator.standard_normal((3, features)) + 0.4 * generator.standard_normal((80, features))
    x -= x.mean(axis=0)
    target = hidden @ generator.standard_normal(3) + 0.1 * generator.standard_normal(80)
    names = np.sort(generator.permutation(40)[:features])
    problem = Quadratic(0, names, 1.0, x.T @ x, x.T @ target, np.zeros(features), 0.0)
    places = generator.permutation(features)[:size].tolist()
    found, recovered = substitutes(problem, names[places])
    assert found.shape == recovered.shape == (size, MOST)
    for expected, names_found, shares in zip(stand_ins(problem, places), found, recovered, strict=True):
        assert names_found.tolist() == [feature for feature, _ in expected] + [-1] * (MOST - len(expected))
        assert shares.tolist() == pytest.approx([share for _, share in expected] + [0.0] * (MOST - len(expected)))


def test_a_feature_without_worth_has_no_substitute() -> None:
    problem = Quadratic(0, np.arange(4), 1.0, np.eye(4), np.array([1.0, 0.0, 2.0, 3.0]), np.zeros(4), 0.0)
    found, recovered = substitutes(problem, np.array([1, 0]))
    assert found[0].tolist() == [-1] * MOST and recovered[0].tolist() == [0] * MOST
    assert found[1].tolist() == [2, 3, -1] and recovered[1].tolist() == [1, 1, 0]
