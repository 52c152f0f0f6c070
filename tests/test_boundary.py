"""The least squares of every class against sums over all images, written plainly; and what is chosen with them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import rankdata

from conftest import cut
from passes import Passes
from subspect import SubspectError
from subspect.choosing.boundary import _FEWER, _NEAR, Affine, Boundary, Choice, logits
from subspect.choosing.options import TARGETS, Target
from subspect.choosing.pursuit import Quadratic
from subspect.statistics.nearness import FLOOR, SAMPLED, SHARPNESS

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]
seeds = st.integers(0, 2**32 - 1)
fast = settings(deadline=None, derandomize=True, max_examples=25)


def coarse(values: Array) -> Array:
    """Round to sixteenths, so that sums of products are exact in float32, in whatever order."""
    return np.round(values * 16) / 16


def make(seed: int, images: int = 90, features: int = 7, classes: int = 4) -> tuple[Features, Ints, Affine]:
    """Features that go along with each other, labels and a dense head."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((images, features)) @ generator.standard_normal((features, features))
    x = coarse(x / 2 + generator.uniform(-1, 1, features))
    head = coarse(generator.standard_normal((classes, features))), coarse(generator.standard_normal(classes))
    return x.astype(np.float32), np.arange(images) % classes, head


def plainly(x: Features, labels: Ints, dense: Affine, target: Target, head: Affine | None) -> tuple[Array, Array]:
    """The weight and the target of every image for every class, (n, C) each."""
    z = x.astype(np.float64) @ dense[0].T + dense[1]
    if head is None and target == "dense":
        others = [np.delete(z, label, axis=1).max(axis=1) for label in range(z.shape[1])]
        margins = z - np.stack(others, axis=1)
        beyond = np.exp(-np.abs(margins) / (SHARPNESS * np.median(np.abs(margins).min(axis=1))))
        return np.where(beyond < FLOOR, 0, beyond) + FLOOR, z - z.mean(axis=1, keepdims=True)
    said = z if head is None else x @ head[0].T + head[1]
    q = softmax(said, axis=1)
    p = softmax(z, axis=1) if target == "dense" else (labels[:, None] == np.arange(z.shape[1])).astype(float)
    near = (q * (1 - q) > _NEAR) | (np.abs(p - q) > _NEAR)
    weights = np.where(near, q * (1 - q), 0) + FLOOR
    return weights, said + np.where(near, p - q, 0) / weights


def squares(label: int, x: Features, weights: Array, targets: Array) -> Quadratic:
    """The sum of weights and the weighted covariances and means of one class, on all features."""
    mean, target = np.average(x, axis=0, weights=weights), float(np.average(targets, weights=weights))
    centred = x - mean
    gram = np.einsum("i,ij,ik->jk", weights, centred, centred) / weights.sum()
    moments = np.einsum("i,ij,i->j", weights, centred, targets - target) / weights.sum()
    features = np.arange(x.shape[1])
    return Quadratic(label, features, float(weights.sum()), gram, moments, mean.astype(np.float64), target)


def solved(x: Features, weights: Array, targets: Array, support: Ints) -> Array:
    """Weighted least squares on a support; the bias is the last."""
    root = np.sqrt(weights)
    design = np.column_stack([x[:, support], np.ones(len(x))])
    return np.asarray(np.linalg.lstsq(design * root[:, None], targets * root, rcond=None)[0])


def choose(boundary: Boundary, k: int, head: Affine | None = None) -> Choice:
    [choice] = boundary.choose(np.full((1, len(boundary.images)), k), head)
    return choice


def some_head(seed: int, classes: int, features: int) -> Affine:
    """A head that uses about half of the features."""
    generator = np.random.default_rng(seed)
    weight = coarse(generator.standard_normal((classes, features))) * (generator.random((classes, features)) < 0.5)
    return weight, coarse(generator.standard_normal(classes))


# The least squares ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refitted", [False, True])
@pytest.mark.parametrize("target", TARGETS)
@fast
@given(seed=seeds, scale=st.sampled_from([0.5, 1.0, 4.0]))
def test_every_class_is_weighed_as_the_formulas_say(target: Target, refitted: bool, seed: int, scale: float) -> None:
    x, labels, (weight, bias) = make(seed)
    dense = weight * scale, bias * scale
    head = some_head(seed, 4, 7) if refitted else None
    weights, targets = plainly(x, labels, dense, target, head)
    problems = Boundary(cut(x, labels, [20, 65]), *dense, target).each(lambda problem: problem, head)
    assert [problem.label for problem in problems] == [0, 1, 2, 3]
    for label, problem in enumerate(problems):
        expected = squares(label, x, weights[:, label], targets[:, label])
        assert problem.features.tolist() == list(range(7))
        assert (problem.weight, problem.target) == pytest.approx((expected.weight, expected.target), rel=1e-10)
        assert np.allclose(problem.gram, expected.gram, rtol=1e-10, atol=1e-10)
        assert np.allclose(problem.moments, expected.moments, rtol=1e-10, atol=1e-10)
        assert np.allclose(problem.mean, expected.mean, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("many", [0.9, 2, 40])  # times as many images as from which on no more are drawn
def test_of_plenty_images_those_far_from_a_boundary_are_sampled(monkeypatch: pytest.MonkeyPatch, many: float) -> None:
    x, labels, dense = make(3, images=6000)
    weights, targets = plainly(x, labels, dense, "dense", None)
    exact = Boundary(cut(x, labels), *dense).each(lambda problem: problem)
    for label, problem in enumerate(exact):
        assert problem.weight == pytest.approx(squares(label, x, weights[:, label], targets[:, label]).weight)
    monkeypatch.setattr("subspect.statistics.nearness.PLENTY", 6000)
    monkeypatch.setattr("subspect.statistics.nearness.MANY", 6000 / many)
    sampled = Boundary(cut(x, labels, [1000]), *dense).each(lambda problem: problem)
    prints, below = cut(x, labels)[0].prints(), SAMPLED * max(1, many)
    for label, (problem, other) in enumerate(zip(sampled, exact, strict=True)):
        drawn = np.full(len(x), FLOOR)
        for image, hashed in enumerate(prints.tolist()):
            beyond = weights[image, label] - FLOOR
            chance = ((hashed >> 11) / 2**53 + (5**0.5 - 1) / 2 * label) % 1
            if beyond > below * chance:
                drawn[image] += max(beyond, below)
        expected = squares(label, x, drawn, targets[:, label])
        assert (problem.weight, problem.target) == pytest.approx((expected.weight, expected.target), rel=1e-10)
        assert np.allclose(problem.gram, expected.gram, rtol=1e-10, atol=1e-10)
        assert np.allclose(problem.moments, expected.moments, rtol=1e-10, atol=1e-10)
        far = (weights[:, label] > FLOOR) & (weights[:, label] < below)
        assert np.count_nonzero((drawn > FLOOR) & far) < 0.6 * np.count_nonzero(far)
        near = 0.02 * below / SAMPLED
        assert problem.weight != other.weight and problem.weight == pytest.approx(other.weight, rel=near)
        assert np.allclose(problem.gram, other.gram, rtol=0.1, atol=1.5 * near * np.abs(other.gram).max())


def test_images_far_from_a_boundary_keep_the_smallest_weight() -> None:
    x = np.array([[0], [1], [50], [60], [-50]], np.float32)
    dense = np.array([[1.0], [-1.0]]), np.zeros(2)
    boundary = Boundary(cut(x, np.array([0, 0, 0, 0, 1])), *dense)
    assert boundary.margin == 100
    near = 1 + np.exp(-2 / (SHARPNESS * 100)) + 2 * np.exp(-100 / 40) + np.exp(-120 / 40)
    assert boundary.each(lambda problem: problem.weight) == pytest.approx([near + 5 * FLOOR] * 2)
    x[2:] *= 1000
    x[1] = 40_000
    far = Boundary(cut(x, np.array([0, 0, 0, 0, 1])), *dense)
    assert far.each(lambda problem: problem.weight)[0] == pytest.approx(
        1 + 5 * FLOOR + np.exp(-80 / 40) + 2 * np.exp(-100 / 40) + np.exp(-120 / 40)
    )
    sharp = Boundary(cut(np.array([[0], [1], [1], [50]], np.float32), np.array([0, 0, 0, 1])), *dense)
    assert sharp.each(lambda problem: problem.weight)[0] == pytest.approx(1 + 2 * np.exp(-2 / 0.8) + 4 * FLOOR)


def test_what_one_pass_gathers() -> None:
    x, _, dense = make(0, images=41, classes=5)
    labels = np.arange(41) % 4
    boundary = Boundary(cut(x, labels, [5, 6, 30]), *dense)
    z = np.sort(x @ dense[0].T + dense[1], axis=1)
    assert boundary.margin == np.median(z[:, -1] - z[:, -2])
    assert boundary.images.tolist() == [11, 10, 10, 10, 0] and boundary.unseen == [4]
    assert boundary.moments.images == 41 and np.allclose(boundary.moments.sums, x.sum(axis=0))
    assert np.allclose(boundary.moments.products, x.T @ x)


def test_logits_are_what_a_head_says() -> None:
    x, labels, dense = make(1)
    [block] = cut(x, labels)
    found = logits(block, dense)
    assert found.dtype == np.float32
    assert np.array_equal(found, [[float(row @ w) + b for w, b in zip(*dense, strict=True)] for row in x])


def test_ties_at_the_top_lie_on_the_boundary() -> None:
    x, labels, (weight, bias) = make(2)
    weight[1], bias[1] = weight[0], bias[0] = weight[0], bias[0] + 64  # always equal, always on top
    boundary = Boundary(cut(x, labels), weight, bias)
    assert boundary.margin == 0
    assert boundary.each(lambda problem: problem.weight) == pytest.approx([len(x) * (1 + FLOOR)] * 4)
    choice = choose(boundary, 3)
    z = x @ weight.T + bias
    for label in range(4):
        plain = solved(x, np.ones(len(x)), z[:, label] - z.mean(axis=1), choice.supports[label])
        assert np.allclose(choice.affine[0][label, choice.supports[label]], plain[:-1])
        assert choice.affine[1][label] == pytest.approx(plain[-1])


# The choice -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refitted", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_a_choice_is_the_path_of_every_class_and_its_least_squares(target: Target, refitted: bool) -> None:
    x, labels, dense = make(3, features=9)
    head = some_head(3, 4, 9) if refitted else None
    weights, targets = plainly(x, labels, dense, target, head)
    sizes = np.array([[1, 2, 3, 4], [5, 2, 1, 1], [9, 9, 9, 9]])
    choices = Boundary(cut(x, labels, [50]), *dense, target).choose(sizes, head)
    assert len(choices) == 3
    for row, choice in zip(sizes, choices, strict=True):
        supports, (weight, bias) = choice.supports, choice.affine
        for label, (size, support) in enumerate(zip(row, supports, strict=True)):
            w, t = weights[:, label], targets[:, label]
            assert support.tolist() == squares(label, x, w, t).path(9)[size - 1].support.tolist()
            plain = solved(x, w, t, support)
            assert np.allclose(weight[label, support], plain[:-1]) and bias[label] == pytest.approx(plain[-1])
            assert np.flatnonzero(weight[label]).tolist() == sorted(support)


def test_the_paths_are_those_of_the_classes_with_images() -> None:
    x, labels, dense = make(16)
    boundary = Boundary(cut(x, labels % 3), *dense)
    head = some_head(16, 4, 7)
    for own in (None, head):
        paths = boundary.paths(5, own)
        assert paths[3] == []
        for problem, path in zip(boundary.each(lambda problem: problem, own)[:3], paths, strict=False):
            assert [step.support.tolist() for step in path] == [step.support.tolist() for step in problem.path(5)]
            assert [step.explained for step in path] == [step.explained for step in problem.path(5)]
            assert len(path) == 5


def planted(images: int = 1000, features: int = 40) -> tuple[Features, Ints, Affine, list[list[int]]]:
    """Six classes with three features each, of 40 that are independent; the rest of the dense head is small."""
    generator = np.random.default_rng(4)
    x = coarse(generator.standard_normal((images, features))).astype(np.float32)
    chosen = np.sort(generator.permutation(features)[:18].reshape(6, 3), axis=1).tolist()
    weight = coarse(0.1 * generator.standard_normal((6, features)))
    for label, own in enumerate(chosen):
        weight[label, own] = 2
    dense = weight, np.zeros(6)
    return x, np.asarray((x @ weight.T).argmax(axis=1)), dense, chosen


@pytest.mark.parametrize("target", TARGETS)
def test_planted_features_are_found_with_and_without_screening(target: Target) -> None:
    x, labels, dense, chosen = planted()
    for candidates in (40, 15):
        choice = choose(Boundary(cut(x, labels), *dense, target, candidates=candidates), 3)
        assert [sorted(support) for support in choice.supports] == chosen


def test_candidates_are_those_that_rank_highest_in_spread_or_covariance() -> None:
    x, labels, dense = make(5, features=30)
    x[:, 11] = 5
    boundary = Boundary(cut(x, labels, [13]), *dense, candidates=8)
    weight = dense[0] - dense[0].mean(axis=0)
    spread = np.delete(x.std(axis=0), 11)
    for label, found in enumerate(boundary.each(lambda problem: problem.features)):
        with_logit = np.delete(np.cov(x.T, x @ weight[label])[-1, :-1], 11)
        alone = rankdata(-np.abs(np.delete(weight[label], 11)) * spread)
        along = rankdata(-np.abs(with_logit) / spread)
        best = np.argsort(np.minimum(alone, along), kind="stable")[:8]
        assert found.tolist() == sorted(np.delete(np.arange(30), 11)[best].tolist())


@pytest.mark.parametrize("target", TARGETS)
def test_screening_leaves_the_least_squares_of_the_candidates_as_they_are(target: Target) -> None:
    x, labels, dense = make(6, features=20)
    head = some_head(6, 4, 20)
    for own in (None, head):
        whole = Boundary(cut(x, labels, [13]), *dense, target).each(lambda problem: problem, own)
        few = Boundary(cut(x, labels, [13]), *dense, target, candidates=6).each(lambda problem: problem, own)
        for all_features, problem in zip(whole, few, strict=True):
            features = problem.features
            assert len(features) < 20
            assert problem.weight == all_features.weight and problem.target == pytest.approx(all_features.target)
            assert np.allclose(problem.gram, all_features.gram[np.ix_(features, features)], rtol=1e-10)
            assert np.allclose(problem.moments, all_features.moments[features], rtol=1e-10, atol=1e-12)
            assert np.allclose(problem.mean, all_features.mean[features], rtol=1e-10)


def test_the_features_of_a_head_stay_in_the_running() -> None:
    x, labels, dense, _ = planted()
    boundary = Boundary(cut(x, labels), *dense, candidates=20)
    ranked = boundary.each(lambda problem: problem.features)
    weight = np.zeros((6, 40))
    for label, features in enumerate(ranked):
        weight[label, np.setdiff1d(np.arange(40), features)[: min(label + 1, 5)]] = 1
    with_head = boundary.each(lambda problem: problem.features, (weight, np.zeros(6)))
    for own, found, before in zip(weight, with_head, ranked, strict=True):
        assert len(found) == 20 // _FEWER
        assert set(np.flatnonzero(own)) <= set(found) and set(found) <= set(np.flatnonzero(own)) | set(before)
    weight[2, 10:30] = 1
    many = boundary.each(lambda problem: problem.features, (weight, np.zeros(6)))
    assert {len(found) for found in many} == {int((weight[2] != 0).sum())}
    assert many[2].tolist() == np.flatnonzero(weight[2]).tolist()


def test_a_class_without_images_asks_for_no_more_candidates() -> None:
    x, labels, dense = make(18, features=20)
    boundary = Boundary(cut(x, labels % 3), *dense, candidates=8)
    head = choose(boundary, 2).affine
    assert (head[0] != 0).sum(axis=1).tolist() == [2, 2, 2, 20]
    assert boundary.each(lambda problem: len(problem.features), head)[:3] == [2, 2, 2]


def test_within_a_pool_only_its_features_are_in_the_running() -> None:
    x, labels, dense = make(17, features=20)
    blocks = Passes(cut(x, labels))
    boundary = Boundary(blocks, *dense, candidates=6)
    before = boundary.each(lambda problem: problem.features.tolist())
    blocks.read = 0
    within = boundary.within(np.array([17, 2, 9, 4]))
    assert blocks.passes == 0
    for head in (None, some_head(17, 4, 20)):
        assert within.each(lambda problem: problem.features.tolist(), head) == [[2, 4, 9, 17]] * 4
        assert all(set(support) <= {2, 4, 9, 17} for support in choose(within, 3, head).supports)
    assert boundary.each(lambda problem: problem.features.tolist()) == before


def test_a_large_pool_is_screened_as_all_features_are() -> None:
    x, labels, dense = make(17, features=20)
    boundary, pool = Boundary(cut(x, labels), *dense, candidates=6), np.arange(1, 20, 2)
    ranked = np.where(np.isin(np.arange(20), pool), boundary._ranks, 99)
    best = [sorted(pool[np.argsort(row[pool], kind="stable")[:6]].tolist()) for row in ranked]
    assert boundary.within(pool).each(lambda problem: problem.features.tolist()) == best
    head = some_head(17, 4, 20)
    head[0][:, 8:] = 0
    found = boundary.within(pool).each(lambda problem: problem.features.tolist(), head)
    for features, row in zip(found, head[0], strict=True):
        assert set(np.intersect1d(np.flatnonzero(row), pool)) <= set(features) <= set(pool)
    for one in (None, head):
        whole = boundary.within(pool, whole=True).each(lambda problem: problem.features.tolist(), one)
        assert whole == [pool.tolist()] * 4


@pytest.mark.parametrize("target", TARGETS)
def test_little_memory_takes_more_passes_to_the_same_answer(target: Target) -> None:
    x, labels, dense = make(7, classes=5)
    expected = choose(Boundary(cut(x, labels, [40]), *dense, target), 3)
    for memory, groups in ((0, 5), (2 * 8 * 7 * 7 * 2, 3), (2 * 8 * 7 * 7 * 5, 1)):
        blocks = Passes(cut(x, labels, [40]))
        boundary = Boundary(blocks, *dense, target, memory=memory)
        assert blocks.passes == 1
        found = choose(boundary, 3)
        assert blocks.passes == 1 + groups
        assert [s.tolist() for s in found.supports] == [s.tolist() for s in expected.supports]
        assert np.array_equal(found.affine[0], expected.affine[0]) and np.array_equal(
            found.affine[1], expected.affine[1]
        )


@pytest.mark.parametrize("plenty", [0, 91])
@pytest.mark.parametrize("target", TARGETS)
@fast
@given(seed=seeds, at=st.lists(st.integers(0, 90), max_size=6).map(sorted), curved=st.booleans())
def test_neither_the_order_of_images_nor_their_blocks_matter(
    target: Target, plenty: int, seed: int, at: list[int], curved: bool
) -> None:
    x, labels, dense = make(8)
    head = some_head(8, 4, 7) if curved else None
    order = np.random.default_rng(seed).permutation(90)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subspect.statistics.nearness.PLENTY", plenty)
        one = choose(Boundary(cut(x, labels), *dense, target), 3, head)
        other = choose(Boundary(cut(x[order], labels[order], at), *dense, target), 3, head)
    assert [s.tolist() for s in one.supports] == [s.tolist() for s in other.supports]
    assert np.allclose(one.affine[0], other.affine[0], atol=1e-9) and np.allclose(
        one.affine[1], other.affine[1], atol=1e-9
    )


@fast
@given(seeds, st.floats(0.01, 100))
def test_neither_the_scale_of_the_logits_nor_what_all_share_matter(seed: int, scale: float) -> None:
    x, labels, (weight, bias) = make(seed)
    shared = coarse(np.random.default_rng(seed).standard_normal(7))
    expected = choose(Boundary(cut(x, labels), weight, bias), 3)
    found = choose(Boundary(cut(x, labels), scale * (weight + shared), scale * (bias + 3)), 3)
    assert [s.tolist() for s in found.supports] == [s.tolist() for s in expected.supports]
    assert np.allclose(found.affine[0], scale * expected.affine[0], atol=1e-4 * scale)
    assert np.allclose(found.affine[1], scale * expected.affine[1], atol=1e-4 * scale)


@pytest.mark.parametrize("target", TARGETS)
@fast
@given(seed=seeds)
def test_moving_features_moves_only_the_bias(target: Target, seed: int) -> None:
    x, labels, (weight, bias) = make(seed)
    far = (x.max(axis=0) + 1).astype(np.float64)  # all features become negative
    expected = choose(Boundary(cut(x, labels), weight, bias, target), 3)
    found = choose(Boundary(cut(x - far.astype(np.float32), labels), weight, bias + weight @ far, target), 3)
    assert [s.tolist() for s in found.supports] == [s.tolist() for s in expected.supports]
    assert np.allclose(found.affine[0], expected.affine[0], atol=1e-8)
    assert np.allclose(found.affine[1], expected.affine[1] + expected.affine[0] @ far, atol=1e-8)


# What is odd ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_a_class_without_images_keeps_its_dense_row(target: Target) -> None:
    x, labels, dense = make(9)
    boundary = Boundary(cut(x, labels % 3), *dense, target)
    assert boundary.unseen == [3]
    for choice in boundary.choose(np.array([[1, 1, 1, 1], [2, 2, 2, 2]])):
        support, (weight, bias) = choice.supports, choice.affine
        assert support[3].tolist() == list(range(7))
        assert np.array_equal(weight[3], dense[0][3]) and bias[3] == dense[1][3]
        assert np.array_equal(weight[:3] != 0, [np.isin(np.arange(7), own) for own in support[:3]])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("value", [0.0, 5.0, 0.1, -1e4])
def test_a_constant_feature_is_never_chosen(target: Target, value: float) -> None:
    x, labels, dense = make(10, images=2000)
    x[:, [0, 4]] = value
    other = some_head(10, 4, 7)
    for weight, bias in (dense, other):
        bias -= value * weight[:, [0, 4]].sum(axis=1)
    boundary = Boundary(cut(x, labels, [999, 1000]), *dense, target)
    for head in (None, other):
        for problem in boundary.each(lambda found: found, head):
            assert not problem.gram[[0, 4]].any() and not problem.gram[:, [0, 4]].any()
            assert not problem.moments[[0, 4]].any()
        choice = choose(boundary, 7, head)
        assert [sorted(support) for support in choice.supports] == [[1, 2, 3, 5, 6]] * 4
        assert not choice.affine[0][:, [0, 4]].any() and np.isfinite(choice.affine[1]).all()


@pytest.mark.parametrize("target", TARGETS)
def test_of_identical_features_the_lowest_is_chosen(target: Target) -> None:
    x, labels, dense = make(11, features=8)
    x[:, [5, 7]], x[:, 6] = x[:, [2]], x[:, 1]
    choice = choose(Boundary(cut(x, labels, [30]), *dense, target), 8)
    assert [sorted(support) for support in choice.supports] == [[0, 1, 2, 3, 4]] * 4


@pytest.mark.parametrize("target", TARGETS)
def test_a_network_that_always_says_the_same(target: Target) -> None:
    x, labels, (weight, _) = make(12)
    boundary = Boundary(cut(x, labels), 0 * weight, np.full(4, 2.0), target)
    assert boundary.margin == 0
    choice = choose(boundary, 2)
    if target == "dense":
        assert [len(support) for support in choice.supports] == [0] * 4
        assert not choice.affine[0].any() and np.allclose(choice.affine[1], 0)
    else:
        weights, targets = plainly(x, labels, (0 * weight, np.full(4, 2.0)), target, None)
        for label, support in enumerate(choice.supports):
            plain = solved(x, weights[:, label], targets[:, label], support)
            assert len(support) == 2 and np.allclose(choice.affine[0][label, support], plain[:-1])


def test_no_features_wanted_leaves_the_bias() -> None:
    x, labels, dense = make(13)
    weights, targets = plainly(x, labels, dense, "dense", None)
    choice = choose(Boundary(cut(x, labels), *dense), 0)
    assert [len(support) for support in choice.supports] == [0] * 4 and not choice.affine[0].any()
    assert np.allclose(choice.affine[1], np.average(targets, axis=0, weights=weights))


def test_an_empty_block_says_nothing() -> None:
    x, labels, dense = make(14)
    one, other = choose(Boundary(cut(x, labels), *dense), 3), choose(Boundary(cut(x, labels, [0, 40, 40]), *dense), 3)
    assert [s.tolist() for s in one.supports] == [s.tolist() for s in other.supports]
    assert np.allclose(one.affine[0], other.affine[0])


@pytest.mark.parametrize("images", [0, 1])
def test_there_must_be_two_images(images: int) -> None:
    x, labels, dense = make(0, images=images)
    with pytest.raises(SubspectError, match=f"there is {images}; give more, or take method 'contribution'"):
        Boundary(cut(x, labels), *dense)
    assert Boundary(cut(*make(0, images=2)[:2]), *dense).moments.images == 2


def test_an_unknown_target() -> None:
    x, labels, dense = make(0)
    with pytest.raises(SubspectError, match="target must be one of dense, labels; got 'logits'"):
        Boundary(cut(x, labels), *dense, "logits")  # type: ignore[arg-type]
