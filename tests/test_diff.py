"""Two studies side by side, on the images that both have."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import subspect
from planted import Array, Wide, labels_of, observed, pictures, planted
from subspect import Arrays, Decomposition, Study, SubspectError, decompose, diff
from subspect.cli import app
from subspect.heads.history import Part

WEIGHT = planted(4, 12)[0]
TRAIN, TEST = pictures(0, 300), pictures(1, 200)
ORDER = np.random.default_rng(3).permutation(12)


class Named(Arrays):
    """Images in memory that have names."""

    def __init__(self, images: torch.Tensor, labels: npt.NDArray[np.int64], ids: Sequence[str]) -> None:
        super().__init__(images, labels)
        self.ids = ids

    def id(self, index: int) -> str:
        return self.ids[index]


class Permuted(Wide):
    """The same network with its features in another order."""

    def __init__(self) -> None:
        super().__init__(WEIGHT[:, ORDER])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(x.flatten(1)[:, torch.from_numpy(ORDER)])
        return out


def named(network: nn.Module, path: Path, rows: Sequence[int], prefix: str = "image") -> Study:
    """A study of some of the test images, named by where they lie among all, and of the images to choose on."""
    ran, labels = subspect.Network(network), labels_of(TEST, WEIGHT)
    subspect.observe(ran, (TRAIN, labels_of(TRAIN, WEIGHT)), path, "train", show_progress=False)
    images = Named(TEST[list(rows)], labels[list(rows)], [f"{prefix}-{row}" for row in rows])
    return subspect.observe(ran, images, path, "test", show_progress=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return named(Wide(WEIGHT), tmp_path_factory.mktemp("diff") / "study", range(200))


def stored(study: Study, made: Decomposition, part: Part = "all") -> tuple[Array, dict[str, tuple[int, int, int]]]:
    """Features; and id → label, what the dense network says, and what the decomposed one says."""
    chunks = list(study.image_set("test").chunks(part))
    x = np.concatenate([chunk.features for chunk in chunks])
    with torch.no_grad():
        said = made.layer()(torch.from_numpy(x)).argmax(dim=1).tolist()
    labels, dense = (
        [value for chunk in chunks for value in getattr(chunk, name)] for name in ("labels", "predictions")
    )
    ids = [id for chunk in chunks for id in chunk.ids]
    return x, dict(zip(ids, zip(labels, dense, said, strict=True), strict=True))


def test_a_study_and_itself(study: Study) -> None:
    made = decompose(study, 3)
    found = diff(study, made, other=made)
    assert (found.images, found.image_set, found.same) == (200, "test", 1)
    assert found.dense[0] == found.dense[1] and found.decomposed[0] == found.decomposed[1]
    assert found.decomposed[0] == subspect.evaluate(study, made).overall.accuracy.value
    assert found.dense[0] == subspect.evaluate(study, made).overall.dense_accuracy.value
    assert [one.name for one in found.classes] == list(made.class_names)
    for label, one in enumerate(found.classes):
        assert one.gained == one.lost == 0 and one.gained_ids == one.lost_ids == () and one.gone == one.new == ()
        assert [(pair.first, pair.second) for pair in one.kept] == [(f, f) for f in made.supports[label].tolist()]
        assert [pair.correlation for pair in one.kept] == pytest.approx([1] * 3)


def test_features_in_another_order_are_matched(study: Study, tmp_path: Path) -> None:
    other = named(Permuted(), tmp_path / "other", range(200))
    pair = decompose(study, 3), decompose(other, 3)
    found = diff(study, pair[0], other=pair[1])
    assert found.same == 1
    for label, one in enumerate(found.classes):
        assert {kept.first for kept in one.kept} == set(pair[0].supports[label].tolist())
        assert {kept.second for kept in one.kept} == set(pair[1].supports[label].tolist())
        assert all(ORDER[kept.second] == kept.first for kept in one.kept)
        assert [kept.correlation for kept in one.kept] == pytest.approx([1] * 3) and one.gone == one.new == ()


def test_features_that_come_and_go(study: Study) -> None:
    many = decompose(study, 3)
    dropped = int(many.supports[1][0])
    few = many.without(1, dropped)
    gone, new = diff(study, many, other=few), diff(study, few, other=many)
    assert [one.gone for one in gone.classes] == [(), (dropped,), (), ()] == [one.new for one in new.classes]
    assert not any(one.new for one in gone.classes) and not any(one.gone for one in new.classes)
    assert [one.gained for one in gone.classes] == [one.lost for one in new.classes]
    assert [one.lost_ids for one in gone.classes] == [one.gained_ids for one in new.classes]


@pytest.mark.parametrize("order", ["same", "shuffled", "some"])
def test_gained_and_lost_by_brute_force(study: Study, tmp_path: Path, order: str) -> None:
    rows = list(range(200)) if order == "same" else np.random.default_rng(0).permutation(200).tolist()
    rows = rows[:120] if order == "some" else rows
    noise = np.random.default_rng(1).standard_normal(WEIGHT.shape)
    other = named(Wide(WEIGHT + 0.8 * noise), tmp_path / "other", rows)
    pair = decompose(study, 2), decompose(other, 3)
    found = diff(study, pair[0], other=pair[1])
    (_, first), (x, second) = stored(study, pair[0]), stored(other, pair[1])
    common = [id for id in first if id in second]
    assert found.images == len(common) == len(rows)
    assert found.same == np.mean([first[id][2] == second[id][2] for id in common])
    for place, known in enumerate((first, second)):
        assert found.dense[place] == np.mean([known[id][1] == known[id][0] for id in common])
        assert found.decomposed[place] == np.mean([known[id][2] == known[id][0] for id in common])
    for label, one in enumerate(found.classes):
        own = [id for id in common if first[id][0] == label]
        right = [{id for id in own if known[id][2] == label} for known in (first, second)]
        gained, lost = ([id for id in own if id in right[at] - right[1 - at]] for at in (1, 0))
        assert (one.images, one.gained, one.lost) == (len(own), len(gained), len(lost))
        assert one.gained_ids == tuple(gained[:12]) and one.lost_ids == tuple(lost[:12])
        assert one.decomposed == pytest.approx(tuple(len(known) / len(own) for known in right))
        shared = set(pair[0].supports[label].tolist()) & set(pair[1].supports[label].tolist())
        assert {(kept.first, kept.second) for kept in one.kept} == {(feature, feature) for feature in shared}
        assert set(one.gone) == set(pair[0].supports[label].tolist()) - shared
        assert set(one.new) == set(pair[1].supports[label].tolist()) - shared
    assert any(one.gained for one in found.classes) and any(one.lost for one in found.classes)
    assert np.abs(np.asarray(np.corrcoef(x.T)) - np.eye(12)).max() < 0.5  # so that only equal features can be matched


def test_images_that_took_part_in_the_choice_are_left_out(tmp_path: Path) -> None:
    study = observed(tmp_path / "study", WEIGHT, train=TRAIN)
    made = decompose(study, 2)
    assert made.chosen_on == ("train", "all but 20 %")
    cost = subspect.evaluate(study, made).overall
    found = diff(study, made, other=made)
    assert (found.images, found.decomposed[0]) == (cost.images, cost.accuracy.value) and found.images < 100


def test_other_classes(study: Study, tmp_path: Path) -> None:
    three = observed(tmp_path / "three", WEIGHT[:3], train=TRAIN, test=TEST)
    pair = decompose(study, 2), decompose(three, 2)
    with pytest.raises(SubspectError, match="the two studies have other classes: 4 and 3, of another number"):
        diff(study, pair[0], other=pair[1])
    network = subspect.Network(Wide(WEIGHT), class_names=["class 0", "class 1", "cat", "class 3"])
    renamed = subspect.observe(network, (TRAIN, labels_of(TRAIN, WEIGHT)), tmp_path / "renamed", show_progress=False)
    with pytest.raises(SubspectError, match="other classes: 4 and 4, class 2 and cat; compare studies of the same"):
        diff(study, pair[0], other=decompose(renamed, 2))


def test_no_image_in_common(study: Study, tmp_path: Path) -> None:
    other = named(Wide(WEIGHT), tmp_path / "other", range(50), "picture")
    made = decompose(study, 2), decompose(other, 2)
    with pytest.raises(SubspectError, match=r"no id in common \(image-0, image-1.*; picture-0, picture-1"):
        diff(study, made[0], other=made[1])
    assert diff(study, made[0], other=made[1], on="train").images == 300  # whose ids are their positions
    alone = observed(tmp_path / "alone", WEIGHT, train=TRAIN)
    with pytest.raises(SubspectError, match="no image set 'test'"):
        diff(study, made[0], other=decompose(alone, 2))


def test_on_the_command_line(study: Study, tmp_path: Path) -> None:
    other = named(Permuted(), tmp_path / "other", range(200))
    pair = decompose(study, 2), decompose(other, 2)
    line = f"diff {study.path} {other.path} --decomposition pursuit-k2"
    result = CliRunner().invoke(app, shlex.split(f"{line} --json"), catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(json.dumps(diff(study, pair[0], other=pair[1]).to_json()))
    result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
    assert "200 images of 'test'; 200 that both have" in " ".join(result.stdout.split())
    assert CliRunner().invoke(app, shlex.split(f"{line} --on nobody")).exit_code == 1
