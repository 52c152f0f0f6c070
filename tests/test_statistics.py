"""Statistics against slow, obvious re-implementations, and their merging against one pass."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from subspect import SubspectError
from subspect.statistics.largest import TopFeatures, TopImages, check_size, rank
from subspect.statistics.moments import ClassSums, Moments, WeightedMoments
from subspect.statistics.outcomes import Calibration, Confusion

Features = npt.NDArray[np.float32]
D, C = 7, 3

# few distinct values, so that ties, zeros and rows of zeros are common
values = st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.25, 0.5, 1.0, 3.0])
features = st.integers(0, 12).flatmap(lambda n: arrays(np.float32, (n, D), elements=values))
sizes = st.lists(st.one_of(st.integers(1, D), st.sampled_from([0.1, 0.3, 0.5, 0.9])), min_size=1, max_size=4)


def ranked(row: Features) -> list[int]:
    """Indices by |x|, the largest first, ties by the lower index."""
    return sorted(range(len(row)), key=lambda index: (-abs(float(row[index])), index))


def needed(row: Features, share: float) -> int:
    """The least number of features that hold a share of the mass."""
    total, held = sum(abs(float(x)) for x in row), 0.0
    if total == 0:
        return 0
    for count, index in enumerate(ranked(row), start=1):
        held += abs(float(row[index]))
        if held / total >= share:
            return count
    raise AssertionError("all features hold all of the mass")


def labels_of(rows: Features) -> npt.NDArray[np.int64]:
    return np.arange(len(rows)) * 2 % C


@given(features, st.integers(1, D))
def test_largest_is_a_sort_by_magnitude_then_index(x: Features, k: int) -> None:
    assert rank(np.abs(x), k)[0].tolist() == [ranked(row)[:k] for row in x]


def test_largest_on_wide_rows_with_ties() -> None:
    generator = np.random.default_rng(0)
    x = np.round(generator.standard_normal((50, 2048)) * 4).astype(np.float32)
    order = np.argsort(-np.abs(x), axis=1, kind="stable")
    for k in (1, 10, 2047, 2048):
        assert np.array_equal(rank(np.abs(x), k)[0], order[:, :k])


@given(features, sizes)
def test_top_features_count_as_the_obvious_way(x: Features, wanted: list[int | float]) -> None:
    labels = labels_of(x)
    top = TopFeatures(C, D, wanted)
    top.update(x, labels)
    for size in wanted:
        counts, used, mass = np.zeros((C, D)), np.zeros(C), np.zeros(C)
        for row, label in zip(x, labels, strict=True):
            k = needed(row, size) if isinstance(size, float) else size
            chosen = ranked(row)[:k]
            counts[label, chosen] += 1
            used[label] += k
            mass[label] += np.abs(row[chosen]).sum() / (np.abs(row).sum() or 1)
        seen = np.maximum(np.bincount(labels, minlength=C), 1)
        assert np.array_equal(top.counts(size), counts)
        assert np.allclose(top.used(size), used / seen)
        assert np.allclose(top.mass(size), mass / seen)
    assert top.images.tolist() == [int((labels == label).sum()) for label in range(C)]


@settings(deadline=None)
@given(features, sizes, st.randoms(use_true_random=False))
def test_merging_is_associative_and_order_free(x: Features, wanted: list[int | float], random: object) -> None:
    labels, ids = labels_of(x), [f"image {index}" for index in range(len(x))]
    cut = len(x) // 3

    def statistics() -> tuple[TopFeatures, ClassSums, TopImages]:
        return TopFeatures(C, D, wanted), ClassSums(C, D), TopImages(D, 2)

    parts = [statistics() for _ in range(3)]
    whole = statistics()
    for part, rows in zip(parts, (slice(0, cut), slice(cut, 2 * cut), slice(2 * cut, None)), strict=True):
        for statistic in part:
            statistic.update(x[rows], labels[rows], ids[rows])
    for statistic in whole:
        statistic.update(x, labels, ids)
    for index in range(3):
        a, b, c = (part[index] for part in parts)
        for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)):  # type: ignore[arg-type]
            assert_equal(whole[index], merged, wanted)


def assert_equal(one: object, other: object, wanted: list[int | float]) -> None:
    if isinstance(one, TopFeatures) and isinstance(other, TopFeatures):
        assert np.array_equal(one.images, other.images)
        for size in wanted:
            assert np.array_equal(one.counts(size), other.counts(size))
            assert np.allclose(one.mass(size), other.mass(size), rtol=1e-12)
            assert np.array_equal(one.used(size), other.used(size))
    elif isinstance(one, ClassSums) and isinstance(other, ClassSums):
        assert np.array_equal(one.images, other.images)
        assert np.allclose(one.sums, other.sums, rtol=1e-12)
    elif isinstance(one, TopImages) and isinstance(other, TopImages):
        assert np.array_equal(one.values, other.values)
        assert np.array_equal(one.ids, other.ids)
        assert np.array_equal(one.labels, other.labels)
    else:
        raise AssertionError("statistics of different kinds")


def test_chunk_size_is_free() -> None:
    x = np.random.default_rng(1).standard_normal((1000, D)).astype(np.float32)
    labels = labels_of(x)
    whole, pieces = TopFeatures(C, D, [2, 0.5]), TopFeatures(C, D, [2, 0.5])
    whole.update(x, labels)
    for start in range(0, 1000, 37):
        pieces.update(x[start : start + 37], labels[start : start + 37])
    assert_equal(whole, pieces, [2, 0.5])


def test_class_means() -> None:
    x = np.random.default_rng(2).standard_normal((60, D)).astype(np.float32)
    labels = np.arange(60) % 2  # class 2 has no images
    sums = ClassSums(C, D)
    sums.update(x, labels)
    assert np.allclose(sums.means()[:2], [x[labels == label].mean(axis=0) for label in (0, 1)], rtol=1e-6)
    assert not sums.means()[2].any()


@given(features, st.integers(1, 4))
def test_top_images_sort_by_value_then_id(x: Features, most: int) -> None:
    ids = [f"{(7 * index) % 11:02d}-{index}" for index in range(len(x))]
    top = TopImages(D, most)
    for start in range(0, len(x), 5):
        rows = slice(start, start + 5)
        top.update(x[rows], labels_of(x)[rows], ids[rows])
    for column in range(D):
        expected = sorted(zip(-x[:, column] + 0.0, ids, labels_of(x), strict=True))[:most]
        found = [id for id in top.ids[:, column] if id]
        assert found == [id for _, id, _ in expected]
        assert top.values[: len(expected), column].tolist() == [-value for value, _, _ in expected]
        assert top.labels[: len(expected), column].tolist() == [label for _, _, label in expected]


def test_counts_never_exceed_the_images() -> None:
    x = np.abs(np.random.default_rng(3).standard_normal((200, D))).astype(np.float32)
    top = TopFeatures(1, D, range(1, D + 1))
    top.update(x, np.zeros(200, np.int64))
    most = Counter(int(row.argmax()) for row in x).most_common(1)[0][1]
    assert top.counts(1).max() == most
    assert (top.counts(D) == 200).all()


@pytest.mark.parametrize("size", [0, -1, D + 1, 1.5, 0.0, 1.0, 5.0, True])
def test_a_size_that_makes_no_sense(size: float) -> None:
    with pytest.raises(SubspectError, match="must be a whole number from 1 to 7, the number of features"):
        check_size(size, D)


def test_other_sizes_do_not_merge() -> None:
    with pytest.raises(SubspectError, match=r"cannot merge statistics of 3 classes, 7 features and sizes \[2\]"):
        TopFeatures(C, D, [2]).merge(TopFeatures(C, D, [3]))


floats = st.floats(-100, 100, width=32)
wide = st.integers(0, 12).flatmap(lambda n: arrays(np.float32, (n, D), elements=floats))
CHOICES = np.array([[0, 2, 5], [6, 1, 3]])  # three features for each of two classes


def weighted(x: Features, place: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A weight and a pull for every image, of which a few are zero."""
    generator = np.random.default_rng([place, len(x)])
    return generator.integers(0, 4, len(x)) / 2, generator.standard_normal(len(x))


def moments_of(x: Features) -> Moments:
    moments = Moments(D)
    moments.update(x)
    return moments


def weighted_moments_of(x: Features, rows: slice = slice(None), at: tuple[int, ...] = ()) -> WeightedMoments:
    """The moments of some rows, in pieces."""
    moments = WeightedMoments(CHOICES)
    for place in range(len(CHOICES)):
        weights, pulls = weighted(x, place)
        pieces = (np.split(each[rows], at) for each in (np.arange(len(x)), weights, pulls))
        for piece in zip(*pieces, strict=True):
            moments.update(place, x, *piece)
    return moments


def assert_same_moments(one: Moments | WeightedMoments, other: Moments | WeightedMoments) -> None:
    assert vars(one).keys() == vars(other).keys()
    for name, value in vars(one).items():
        assert np.allclose(value, vars(other)[name], rtol=1e-9, atol=1e-6), name


@given(wide)
def test_moments_are_sums_of_products(x: Features) -> None:
    moments, exact = moments_of(x), x.astype(np.float64)
    assert moments.images == len(x)
    assert np.allclose(moments.sums, exact.sum(axis=0))
    assert np.allclose(moments.products, np.einsum("ij,ik->jk", exact, exact))
    assert moments.sums.dtype == moments.products.dtype == np.float64


def test_moments_are_summed_in_float64() -> None:
    x = np.full((3, D), 4097, np.float32)  # the square takes 25 bits, one more than float32 has
    assert (moments_of(x).products == 3 * 4097**2).all()
    moments = WeightedMoments(CHOICES[:1])
    moments.update(0, x, np.arange(3), np.ones(3), np.ones(3))
    assert (moments.products == 3 * 4097**2).all()


@given(wide.filter(len))
def test_deviations_are_numpys(x: Features) -> None:
    assert np.allclose(moments_of(x).deviations(), x.astype(np.float64).std(axis=0), rtol=1e-6, atol=1e-4)


def test_deviations_of_few_or_equal_images_are_zero() -> None:
    assert not Moments(D).deviations().any()
    assert not moments_of(np.full((1, D), 0.1, np.float32)).deviations().any()
    assert np.allclose(moments_of(np.full((1000, D), 0.1, np.float32)).deviations(), 0, atol=1e-8)


@given(wide)
def test_weighted_moments_are_sums_of_products(x: Features) -> None:
    moments = weighted_moments_of(x)
    for place, chosen in enumerate(CHOICES):
        weights, pulls = weighted(x, place)
        exact = x[:, chosen].astype(np.float64)
        assert moments.weight[place] == pytest.approx(weights.sum())
        assert moments.target[place] == pytest.approx(pulls.sum())
        assert np.allclose(moments.sums[place], np.einsum("i,ij->j", weights, exact))
        assert np.allclose(moments.moments[place], np.einsum("i,ij->j", pulls, exact))
        assert np.allclose(moments.products[place], np.einsum("i,ij,ik->jk", weights, exact, exact), atol=1e-6)


@given(wide, st.lists(st.integers(0, 12), max_size=4).map(sorted))
def test_updates_by_pieces_are_one_update(x: Features, at: list[int]) -> None:
    pieces = Moments(D)
    for piece in np.split(x, at):
        pieces.update(piece)
    assert_same_moments(pieces, moments_of(x))
    assert_same_moments(weighted_moments_of(x, at=tuple(at)), weighted_moments_of(x))


@given(wide)
def test_merging_moments_is_associative_and_order_free(x: Features) -> None:
    cut = len(x) // 3
    thirds = slice(0, cut), slice(cut, 2 * cut), slice(2 * cut, None)
    a, b, c = (moments_of(x[rows]) for rows in thirds)
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)):
        assert_same_moments(merged, moments_of(x))
    d, e, f = (weighted_moments_of(x, rows) for rows in thirds)
    for joined in (d.merge(e).merge(f), d.merge(e.merge(f)), f.merge(d).merge(e)):
        assert_same_moments(joined, weighted_moments_of(x))


def test_merging_leaves_what_was_merged_as_it_was() -> None:
    x = np.random.default_rng(4).standard_normal((20, D)).astype(np.float32)
    one, other = moments_of(x[:8]), moments_of(x[8:])
    one.merge(other).update(x)
    assert_same_moments(one, moments_of(x[:8]))
    assert_same_moments(other, moments_of(x[8:]))
    first, second = weighted_moments_of(x, slice(0, 8)), weighted_moments_of(x, slice(8, None))
    first.merge(second).update(0, x, np.arange(20), *weighted(x, 0))
    assert_same_moments(first, weighted_moments_of(x, slice(0, 8)))
    assert_same_moments(second, weighted_moments_of(x, slice(8, None)))


def test_confusion_and_calibration_count_plainly_and_merge() -> None:
    generator = np.random.default_rng(0)
    labels, said = generator.integers(0, 4, 200), generator.integers(0, 4, 200)
    confidence = generator.uniform(0.25, 1, 200)
    confidence[0] = 1
    whole, parts = Confusion(4), [Confusion(4), Confusion(4)]
    whole.update(labels, said)
    bins, halves = Calibration(), [Calibration(), Calibration()]
    bins.update(confidence, labels == said)
    for half, rows in enumerate((slice(0, 70), slice(70, 200))):
        parts[half].update(labels[rows], said[rows])
        halves[half].update(confidence[rows], (labels == said)[rows])
    expected = [[int(((labels == a) & (said == b)).sum()) for b in range(4)] for a in range(4)]
    assert whole.counts.tolist() == parts[1].merge(parts[0]).counts.tolist() == expected
    joined = halves[1].merge(halves[0])
    error = 0.0
    for low in range(15):
        own = (confidence >= low / 15) & ((confidence < (low + 1) / 15) | (low == 14))
        if own.any():
            error += own.sum() / 200 * abs(confidence[own].mean() - (labels == said)[own].mean())
    assert bins.error() == pytest.approx(error) and joined.error() == pytest.approx(error)
    assert np.allclose(bins.means()[0], joined.means()[0]) and Calibration().error() == 0


def test_certainty_falls_in_the_last_bin_of_a_calibration_and_its_absence_in_the_first() -> None:
    bins = Calibration(10)
    bins.update(
        np.array([1.0, 1.0, np.nextafter(1, 0), 0.9, 0.5, 0.0]), np.array([True, False, True, True, False, False])
    )
    assert bins.images.tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 4]
    assert bins.right.tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0, 3]
    assert bins.confidence.tolist() == pytest.approx([0, 0, 0, 0, 0, 0.5, 0, 0, 0, 3.9])
    assert bins.error() == pytest.approx((0.5 + 0.9) / 6)
    assert [len(one) for one in bins.means()] == [3, 3]


def test_an_image_needs_no_more_features_than_there_are() -> None:
    """Sums in another order differ in the last place, and a share may lie between the two."""
    share, d = float(np.nextafter(1, 0)), 200
    top = TopFeatures(300, d, [share])
    x = 10 ** np.random.default_rng(0).uniform(-12, 0, (300, d))
    top.update(x.astype(np.float32), np.arange(300))
    assert top.used(share).max() == d and (top.used(share) == top.counts(share).sum(axis=1)).all()
