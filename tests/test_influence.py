"""The paper's measures against obvious re-implementations."""

from __future__ import annotations

import numpy as np
import pytest

from subspect.choosing.influence import contribution, frequency
from subspect.statistics.largest import TopFeatures
from subspect.statistics.moments import ClassSums

C, D, N = 4, 9, 300


@pytest.fixture
def seen() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((N, D)).astype(np.float32)
    labels = generator.integers(0, C - 1, N)  # the last class has no images
    return x, labels


@pytest.mark.parametrize("k", [1, 3, D])
def test_frequency_keeps_the_most_often_among_the_largest(seen: tuple[np.ndarray, np.ndarray], k: int) -> None:
    x, labels = seen
    top = TopFeatures(C, D, [k])
    top.update(x, labels)
    supports = frequency(top, k)
    for label in range(C - 1):
        counts = [0] * D
        for row in x[labels == label]:
            for index in sorted(range(D), key=lambda i, row=row: (-abs(row[i]), i))[:k]:  # type: ignore[misc]
                counts[index] += 1
        assert supports[label].tolist() == sorted(range(D), key=lambda i, counts=counts: (-counts[i], i))[:k]  # type: ignore[misc]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_fractional_frequency_keeps_the_mean_number_needed(seen: tuple[np.ndarray, np.ndarray], share: float) -> None:
    x, labels = seen
    top = TopFeatures(C, D, [share])
    top.update(x, labels)
    supports = frequency(top, share)
    for label in range(C - 1):
        counts, needed = np.zeros(D), []
        for row in np.abs(x[labels == label]).astype(np.float64):
            order = np.argsort(-row, kind="stable")
            n = int(np.argmax(np.cumsum(row[order]) >= share * row.sum())) + 1
            counts[order[:n]] += 1
            needed.append(n)
        n_class = int(np.floor(np.mean(needed) + 0.5))
        assert supports[label].tolist() == np.argsort(-counts, kind="stable")[:n_class].tolist()


def test_contribution_is_weight_times_class_mean(seen: tuple[np.ndarray, np.ndarray]) -> None:
    x, labels = seen
    weight = np.random.default_rng(1).standard_normal((C, D)).astype(np.float32)
    sums = ClassSums(C, D)
    sums.update(x, labels)
    supports = contribution(weight, sums, 3)
    for label in range(C - 1):
        scores = [weight[label, i] * x[labels == label][:, i].astype(np.float64).mean() for i in range(D)]
        assert supports[label].tolist() == sorted(range(D), key=lambda i, s=scores: (-s[i], i))[:3]  # type: ignore[misc]


def test_ties_go_to_the_lower_index() -> None:
    x = np.ones((4, D), np.float32)
    top, sums = TopFeatures(1, D, [3]), ClassSums(1, D)
    for statistic in (top, sums):
        statistic.update(x, np.zeros(4, np.int64))
    assert frequency(top, 3)[0].tolist() == [0, 1, 2]
    assert contribution(np.ones((1, D), np.float32), sums, 3)[0].tolist() == [0, 1, 2]


def test_a_class_without_images_keeps_its_row(seen: tuple[np.ndarray, np.ndarray]) -> None:
    x, labels = seen
    top, sums = TopFeatures(C, D, [2, 0.5]), ClassSums(C, D)
    top.update(x, labels)
    sums.update(x, labels)
    weight = np.ones((C, D), np.float32)
    for supports in (frequency(top, 2), frequency(top, 0.5), contribution(weight, sums, 2)):
        assert supports[C - 1].tolist() == list(range(D))


def test_planted_features_are_found() -> None:
    generator = np.random.default_rng(2)
    labels = np.repeat(np.arange(3), 50)
    x = generator.random((150, 12)).astype(np.float32)
    planted = {0: [1, 5], 1: [0, 7], 2: [5, 11]}
    for label, features in planted.items():
        x[np.ix_(labels == label, features)] += 2
    top, sums = TopFeatures(3, 12, [2]), ClassSums(3, 12)
    top.update(x, labels)
    sums.update(x, labels)
    for supports in (frequency(top, 2), contribution(np.ones((3, 12), np.float32), sums, 2)):
        assert {label: sorted(supports[label].tolist()) for label in planted} == planted


def test_a_class_of_images_without_activity_keeps_one_feature() -> None:
    top = TopFeatures(1, D, [0.5])
    top.update(np.zeros((4, D), np.float32), np.zeros(4, np.int64))
    assert top.used(0.5).tolist() == [0] and frequency(top, 0.5)[0].tolist() == [0]
