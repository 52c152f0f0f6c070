"""The methods: on which images they choose, in which order features come, and odd images and networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import subspect
from by_hand import refit_of, stored
from conftest import Tiny, reseal
from planted import observed, pictures, planted, promised, wide_study
from subspect import Auto, Study, SubspectError, decompose
from subspect.choosing.options import METHODS
from subspect.heads.shown import features


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return wide_study(tmp_path_factory.mktemp("wide") / "study")


def test_a_class_without_images(tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = subspect.observe(subspect.Network(tiny), (torch.rand(20, 3, 8, 8), np.arange(20) % 2), tmp_path / "study")
    for method in METHODS:
        made = decompose(study, 2, method=method)
        assert "classes without images keep their dense weights, 1 in all: class 2" in caplog.text
        assert made.unseen == (2,) and made.supports.sizes.tolist() == [2, 2, 6]
        assert torch.equal(made.layer().dense_weight()[2], tiny.fc.weight[2])
        assert made.rows(2)[0].frequency == 0
        shown = features(made, 2)
        assert "it keeps its dense row, all 6 features, of which 6 are shown" in str(shown.caption)
        assert [str(column.header) for column in shown.columns] == [
            "feature",
            "weight",
            "frequency",
            "mean",
            "contribution",
        ]
    subspect.observe(subspect.Network(tiny), (torch.rand(9, 3, 8, 8), np.arange(9) % 3), tmp_path / "study", "test")
    note = subspect.evaluate(study, decompose(study, 2)).note
    assert "3 are of classes that had no image to choose features on and keep their dense row" in note


def test_the_set_that_features_are_chosen_on(study: Study, tiny: Tiny, tmp_path: Path) -> None:
    assert decompose(study, 2).chosen_on == ("train", "all")
    assert decompose(study, 2, on="test").chosen_on == ("test", "all")
    alone = subspect.observe(subspect.Network(tiny), torch.rand(50, 3, 8, 8), tmp_path / "alone")
    assert decompose(alone, 2).chosen_on == ("train", "all but 20 %")


def test_an_unfinished_set_is_not_passed_over(study: Study) -> None:
    reseal(study.path / "sets/train/set.json", complete=False)
    assert study.unfinished == ["train"] and study.set_names == ["test"]
    with pytest.raises(SubspectError, match="image set 'train' in .* is unfinished"):
        decompose(study, 2)
    assert decompose(study, 2, on="test").chosen_on == ("test", "all but 20 %")


def test_a_study_without_a_finished_set(study: Study) -> None:
    for name in ("train", "test"):
        (study.path / "sets" / name / "set.json").unlink()
    with pytest.raises(SubspectError, match="has no finished image set; observe one first"):
        decompose(study, 2)


def test_the_most_important_feature_comes_first(study: Study) -> None:
    x, _ = stored(study)
    made = decompose(study, 3)
    for label in range(3):
        rows = made.rows(label)
        spread = [abs(row.weight) * x[:, row.feature].std() for row in rows]
        assert spread == sorted(spread, reverse=True)


def test_the_labels_as_target(study: Study, tiny: Tiny, tmp_path: Path) -> None:
    made = decompose(study, 2, target="labels")
    assert made.name == "pursuit-k2-labels" and refit_of(made).refit == "labels"
    x, labels = stored(study)
    for one, better in ((made, decompose(study, 2)), (decompose(study, 2), made)):
        with torch.no_grad():
            logits = one.layer()(torch.from_numpy(x))
        losses = {
            "labels": torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).item(),
            "dense": subspect.evaluate(study, one, on="train").overall.divergence.value,
        }
        target = str(one.chosen.target)
        assert losses[target] == pytest.approx(refit_of(one).loss, abs=1e-5), better.name
    unlabelled = subspect.observe(subspect.Network(tiny), torch.rand(50, 3, 8, 8), tmp_path / "alone")
    with pytest.raises(SubspectError, match="target 'labels' needs labels, and 'train' has none; take target 'dense'"):
        decompose(unlabelled, 2, target="labels")
    with pytest.raises(SubspectError, match="target must be one of dense, labels; got 'logits'"):
        decompose(study, 2, target="logits")  # type: ignore[arg-type]


def test_more_features_than_images_can_tell_apart(tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = subspect.observe(subspect.Network(tiny), (torch.rand(3, 3, 8, 8), np.arange(3)), tmp_path / "study")
    subspect.observe(subspect.Network(tiny), torch.rand(5, 3, 8, 8), tmp_path / "study", "test")
    made = decompose(study, 5)
    assert made.supports.sizes.max() == 2
    assert "3 classes have fewer than 5 features, since no other adds anything on these 3 images" in caplog.text


def test_one_image(tiny: Tiny, tmp_path: Path) -> None:
    study = subspect.observe(subspect.Network(tiny), torch.rand(1, 3, 8, 8), tmp_path / "study")
    subspect.observe(subspect.Network(tiny), torch.rand(5, 3, 8, 8), tmp_path / "study", "test")
    with pytest.raises(SubspectError, match="pursuit compares images, and there is 1; give more"):
        decompose(study, 2)


def test_constant_logits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Tiny()
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.zero_()
    network = subspect.Network(model, head="fc")
    study = subspect.observe(network, (torch.rand(30, 3, 8, 8), np.arange(30) % 3), tmp_path / "study")
    made = decompose(study, 2)
    assert made.supports.sizes.tolist() == [0, 0, 0]
    assert "the two largest logits are equal for most images: none is nearer to a boundary" in caplog.text
    assert "3 classes have fewer than 2 features" in caplog.text


def test_the_promises_images_are_kept_out_of_every_choice(tmp_path: Path) -> None:
    study = observed(tmp_path / "study", planted()[0], train=pictures(0, 400), another=pictures(1, 400))
    made = decompose(study, Auto(0.4, promise="another"))
    assert made.chosen_on == ("train", "all but 20 %") and made.auto is not None
    assert tuple(made.auto.sized_on) == ("train", "held out 20 %") and promised(made).images == 400
    made = decompose(study, Auto(0.4))
    assert made.chosen_on == ("train", "all") and made.auto is not None
    assert tuple(made.auto.sized_on) == ("another", "all")


def test_trust_is_of_pursuit_alone(wide: Study) -> None:
    made = decompose(wide, 3, method="contribution", refit=True)
    assert made.trust is None and made.curve == () and made.rows(0)[0].stability is None
    row = decompose(wide, 3).rows(0)[0]
    assert row.stability is not None and 0.9 < row.stability <= 1
