"""Asking for a decomposition: by number, method, target or file; its name; what does not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import subspect
from by_hand import refit_of, stored
from planted import wide_study
from subspect import Auto, Mean, Study, SubspectError, decompose, decompose_by_file, decompose_each


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return wide_study(tmp_path_factory.mktemp("wide") / "study")


def test_weights_bias_frequency_and_mean(study: Study) -> None:
    x, labels = stored(study)
    weight, bias = study.head()
    decomposition = decompose(study, 2, method="contribution")
    assert torch.equal(decomposition.bias, bias)
    for label in range(3):
        own = x[labels == label]
        scores = weight[label].numpy() * own.astype(np.float64).mean(axis=0)
        assert decomposition.supports[label].tolist() == np.argsort(-scores, kind="stable")[:2].tolist()
        for row in decomposition.rows(label):
            largest = np.argsort(-np.abs(own), axis=1, kind="stable")[:, :2]
            assert row.weight == weight[label, row.feature]
            assert row.frequency == pytest.approx((largest == row.feature).any(axis=1).mean())
            assert row.mean == pytest.approx(own[:, row.feature].mean(), rel=1e-5)


def test_several_k_in_one_pass(study: Study) -> None:
    made = decompose_each(study, [1, 3, 0.5], method="frequency")
    assert [one.name for one in made] == ["frequency-k1", "frequency-k3", "frequency-k0.5"]
    for one, k in zip(made, (1, 3, 0.5), strict=True):
        assert one.k == k and one.supports == decompose(study, k, method="frequency").supports


def test_indices_from_a_file(study: Study, tmp_path: Path) -> None:
    made = decompose(study, 2, method="contribution")
    made.supports.write(tmp_path / "mine.json")
    read = decompose_by_file(study, tmp_path / "mine.json")
    assert read.supports == made.supports and torch.equal(read.weights, made.weights)
    assert read.name == "mine" and read.method == "indices of mine.json" and read.k is None
    assert torch.equal(read.frequency, made.frequency)


@pytest.mark.parametrize("k", [0, 7, 1.5])
def test_a_k_that_makes_no_sense(study: Study, k: float) -> None:
    with pytest.raises(SubspectError, match="must be a whole number from 1 to 6, the number of features"):
        decompose(study, k)


def test_a_share_goes_with_frequency(study: Study) -> None:
    with pytest.raises(
        SubspectError, match="a share of the mass goes with method 'frequency'; 'pursuit' takes a whole k"
    ):
        decompose(study, 0.5)


def test_an_unknown_method(study: Study) -> None:
    with pytest.raises(SubspectError, match="method must be one of pursuit, contribution, frequency; got 'magic'"):
        decompose(study, 2, method="magic")


def test_pursuit_learns_weights_of_its_own(study: Study) -> None:
    made, raw = decompose(study, 2), decompose(study, 2, refit=False)
    assert (made.name, raw.name) == ("pursuit-k2", "pursuit-k2-raw")
    assert refit_of(made).refit == "dense" and refit_of(made).converged and len(raw.history) == 1
    assert made.supports.sizes.tolist() == raw.supports.sizes.tolist() == [2, 2, 2]
    divergences = [subspect.evaluate(study, one, on="train").overall.divergence.value for one in (made, raw)]
    assert divergences[0] == pytest.approx(refit_of(made).loss, abs=1e-5) and divergences[0] < divergences[1]


@pytest.mark.parametrize("method", ["contribution", "frequency"])
def test_any_support_can_be_refitted(study: Study, method: str, tmp_path: Path) -> None:
    kept, learned = decompose(study, 2, method=method), decompose(study, 2, method=method, refit=True)
    assert learned.name == f"{method}-k2-refit" and learned.supports == kept.supports
    costs = [subspect.evaluate(study, one, on="train").overall.divergence.value for one in (learned, kept)]
    assert costs[0] < costs[1]
    kept.supports.write(tmp_path / "mine.json")
    read = decompose_by_file(study, tmp_path / "mine.json", refit=True)
    assert read.name == "mine-refit" and torch.allclose(read.weights, learned.weights, atol=1e-5)


def test_what_was_asked_for_is_in_the_name() -> None:
    assert str(Auto(0.02, most=7, confidence=0.99, promise="unseen")) == "auto0.02-most7-sure0.99-unseen"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"k": Mean(3), "method": "contribution"},
            "a mean k goes with method 'pursuit'; got 'contr",
        ),
        ({"k": "auto", "method": "frequency"}, "k = 'auto' goes with method 'pursuit'; got 'freq"),
        ({"k": 3, "pool": 5, "method": "contribution"}, "a pool goes with method 'pursuit'"),
        ({"k": 3, "pool": 41}, "a pool must have from 1 to 40 features; got 41"),
        ({"k": 5, "pool": 4}, "a class cannot have 5 features from a pool of 4"),
        ({"k": Mean(5), "pool": 4}, "a mean of 5 features per class needs 1 ≤ least ≤ mean ≤ most ≤ 4"),
        ({"k": Auto(1.5)}, "the tolerance is a share between 0 and 1, such as 0.01; got 1.5"),
        ({"k": Auto(most=0)}, "most must be at least 1"),
        ({"k": 0.5}, "a share of the mass goes with method 'frequency'; 'pursuit' takes a whole k"),
        ({"k": "five"}, "k = 'five' must be a whole number from 1 to 40, the number of features"),
    ],
)
def test_what_does_not_go_together(wide: Study, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SubspectError) as caught:
        decompose(wide, **options)
    assert message in str(caught.value)


def test_several_ways_in_one_pass(wide: Study) -> None:
    made = decompose_each(wide, [2, Mean(2), Auto(0.3)])
    assert [one.name for one in made] == ["pursuit-k2", "pursuit-mean2", "pursuit-auto0.3"]
    assert made[0].to_json() == decompose(wide, 2).to_json()
    assert made[2].to_json() == decompose(wide, Auto(0.3)).to_json()


def test_with_few_images_a_class_no_halves_are_drawn_unless_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 3 images a class a half has something of most classes, of 2 it hasn't."""
    x = np.random.default_rng(0).random((12, 5)).astype(np.float32)
    for images, classes, trusted in ((12, 4, True), (8, 4, False)):
        caplog.clear()
        head = np.random.default_rng(1).normal(size=(classes, 5))
        path = tmp_path / str(images)
        labels = np.arange(images) % classes
        study = subspect.from_features(x[:images], head, None, path, labels=labels, show_progress=False)
        with caplog.at_level("INFO", logger="subspect"):
            made = subspect.decompose(study, 2, hold_out=0, show_progress=False)
        assert made.trust is not None and (int(made.trust.draws.max()) > 0) is trusted
        said = (
            "8 images of 4 classes are too few for halves of them to tell how far the choice can be trusted; --draws "
        )
        assert (said in caplog.text) is not trusted
        asked = subspect.decompose(study, 2, hold_out=0, draws=4, show_progress=False)
        assert asked.trust is not None and int(asked.trust.draws.max()) > 0
