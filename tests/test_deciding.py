"""What decides each class, and where features look: against slow, obvious re-implementations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspect import Study, decompose, evaluate
from subspect.asking.deciding import deciding
from subspect.heads.decomposition import Decomposition
from subspect.report.places import in_words, ninths
from subspect.report.shared import shared_map


@pytest.fixture
def made(study: Study) -> Decomposition:
    return decompose(study, 3, show_progress=False)


def test_what_each_feature_adds_to_the_margin(study: Study, made: Decomposition) -> None:
    where = evaluate(study, made).where
    found = deciding(study, made, where)
    weight, bias = (given.astype(float) for given in made.matrix())
    images = [
        (row.astype(float), int(label))
        for chunk in where.chunks()
        for row, label in zip(chunk.features, chunk.labels, strict=True)
    ]
    for label in range(len(made.class_names)):
        added, margins = dict.fromkeys((row.feature for row in made.rows(label)), 0.0), list[float]()
        for row, of in images:
            if of == label:
                logits = weight @ row + bias
                rival = max((other for other in range(len(logits)) if other != label), key=lambda other: logits[other])
                margins.append(logits[label] - logits[rival])
                for feature in added:
                    added[feature] += (weight[label, feature] - weight[rival, feature]) * row[feature]
        says = [*found.speaks_for[label], *found.against[label]]
        assert {one.feature: one.added for one in says} == pytest.approx(
            {feature: value / len(margins) for feature, value in added.items()}, abs=1e-4
        )
        assert found.margins[label] == pytest.approx(np.mean(margins), abs=1e-4)
        assert all(one.weight > 0 for one in found.speaks_for[label])
        assert all(one.weight <= 0 for one in found.against[label])
        assert [one.added for one in found.speaks_for[label]] == sorted(
            (one.added for one in found.speaks_for[label]), reverse=True
        )
    assert found.most == max(one.added for row in found.speaks_for.values() for one in row)
    for feature, classes in found.fires_on.items():
        means = {of: np.mean([row[feature] for row, label in images if label == of]) for of in {of for _, of in images}}
        assert list(classes) == sorted(means, key=lambda of: -means[of])[:3]
        assert classes[0] not in found.belongs_to(feature, classes[0])


@given(st.integers(3, 12), st.integers(3, 12), st.integers(0, 2**32 - 1))
def test_shares_of_ninths_are_areas(height: int, width: int, seed: int) -> None:
    map = np.random.default_rng(seed).standard_normal((height, width))
    fine = np.kron(np.maximum(map, 0), np.ones((3, 3)))  # each pixel as nine, so that thirds end between some
    expected = fine.reshape(3, height, 3, width).sum(axis=(1, 3))
    assert ninths(map) == pytest.approx(expected / expected.sum() if expected.sum() else expected, abs=1e-5)
    assert ninths(map).sum() == pytest.approx(1.0 if (map > 0).any() else 0.0)


def test_places_in_words() -> None:
    def at(*cells: tuple[int, int]) -> np.ndarray:
        map = np.zeros((9, 9))
        for row, column in cells:
            map[3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = 1
        return ninths(map)

    assert in_words([at((0, 0))]) == "mostly the top left"
    assert in_words([at((1, 1)), at((1, 1)), at((2, 2))]) == "mostly the centre"
    everywhere = [(row, column) for row in range(3) for column in range(3)]
    lower = [*everywhere, *[(2, column) for column in range(3)]]
    assert in_words([at(*everywhere)]) == "the whole picture"
    assert in_words([at((2, 0)), at((2, 1)), at((2, 2)), at(*lower), at(*lower)]) == "mostly the lower third"
    assert in_words([at((0, 1)), at((1, 1)), at((2, 1)), at(*everywhere), at(*everywhere)]) == "mostly down the middle"
    assert in_words([np.zeros((3, 3))]) == in_words([]) == ""


def test_the_map_of_features_holds_every_shared_weight(made: Decomposition) -> None:
    found = shared_map(made, 8)
    assert found is not None
    rows, columns = found
    weight = made.matrix()[0]
    assert sorted(columns) == np.flatnonzero((weight != 0).sum(axis=0) > 1).tolist()
    assert sorted(label for label, _ in rows) == list(range(len(made.class_names)))
    for label, cells in rows:
        for feature, (value, shade) in zip(columns, cells, strict=True):
            assert value == pytest.approx(float(weight[label, feature]))
            assert shade[:4] == ("gain" if value > 0 else "loss" if value < 0 else "")
