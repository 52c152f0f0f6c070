"""Influential features replaced: against loops, and where one feature alone is essential."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from typer.testing import CliRunner

import subspect
from planted import Array, Wide, labels_of, observed, pictures, planted
from subspect import Decomposition, Study, SubspectError, Supports, decompose, decompose_by_file
from subspect.asking.essentiality import KINDS, essentiality, without_each
from subspect.cli import app
from subspect.measuring.where import where


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    sets = {"train": pictures(0, 300), "test": pictures(1, 120)}
    return observed(tmp_path_factory.mktemp("essentiality") / "study", planted(4, 12)[0], **sets)


@pytest.fixture(scope="module")
def made(study: Study) -> Decomposition:
    return decompose(study, 3, method="contribution")


def stored(study: Study, name: str) -> tuple[Array, np.ndarray]:
    chunks = list(study.image_set(name).chunks())
    x = np.concatenate([chunk.features for chunk in chunks]).astype(np.float64)
    return x, np.concatenate([chunk.labels for chunk in chunks])


def accuracy(study: Study, x: Array, label: int) -> float:
    """The share of images that the dense head gives a class, one image at a time."""
    weight, bias = (tensor.double().numpy() for tensor in study.head())
    return float(np.mean([int(np.argmax(weight @ row + bias)) == label for row in x]))


def test_by_mean_and_zero_against_loops(study: Study, made: Decomposition) -> None:
    found = essentiality(study, made, repeats=3)
    (x, labels), means = stored(study, "test"), stored(study, "train")[0].mean(axis=0)
    assert found.note == "120 images of 'test'" and list(found.kinds) == list(KINDS)
    for label in range(4):
        own = x[labels == label]
        assert found.before[label] == accuracy(study, own, label)
        for kind, value in (("mean", means), ("zero", np.zeros(12))):
            for name, chosen in (("own", made.supports[label]), ("others", set(range(12)) - set(made.supports[label]))):
                changed = own.copy()
                for feature in chosen:
                    changed[:, feature] = value[feature]
                assert getattr(found.kinds[kind], name)[:, label].tolist() == [accuracy(study, changed, label)] * 3


def test_curves_against_loops(study: Study, made: Decomposition) -> None:
    found = essentiality(study, made, repeats=2)
    curves = found.curves
    assert curves.sizes.tolist() == [0, 1, 2, 3, 5, 8, 12]
    (x, labels), means = stored(study, "test"), stored(study, "train")[0].mean(axis=0)
    weight = study.head()[0].double().numpy()
    for label in range(4):
        own, support = x[labels == label], made.supports[label].tolist()
        worth = np.abs(weight[label] * (own.mean(axis=0) - means))
        order = support + sorted(set(range(12)) - set(support), key=lambda feature: -worth[feature])
        for place, size in enumerate(curves.sizes.tolist()):
            deleted, inserted = own.copy(), np.tile(means, (len(own), 1))
            deleted[:, order[:size]] = means[order[:size]]
            inserted[:, order[:size]] = own[:, order[:size]]
            assert curves.deletion[place, label] == accuracy(study, deleted, label)
            assert curves.insertion[place, label] == accuracy(study, inserted, label)
        shares = [size / 12 for size in curves.sizes.tolist()]
        steps = zip(shares, shares[1:], curves.deletion[:, label], curves.deletion[1:, label], strict=False)
        area = sum((end - start) * (first + last) / 2 for start, end, first, last in steps)
        assert curves.area("deletion")[label] == pytest.approx(area)
    assert np.array_equal(curves.deletion[0], curves.insertion[-1])
    assert curves.random_deletion.shape == (2, 7, 4)
    assert np.array_equal(curves.random_deletion[:, -1], curves.random_insertion[:, 0])
    told = found.to_json()["curves"]["insertion"]
    assert told["random_area"] == pytest.approx(curves.area("random_insertion").mean(axis=0).tolist())
    assert told["random_area_mean"][1] == pytest.approx(curves.area("random_insertion").mean())
    assert told["area"] == curves.area("insertion").tolist() and isinstance(found.plot(), Figure)


def test_random_orders_against_loops(study: Study, made: Decomposition) -> None:
    """Their mean is that of other random orders, taken one image at a time."""
    curves = essentiality(study, made, repeats=200).curves
    (x, labels), means = stored(study, "test"), stored(study, "train")[0].mean(axis=0)
    own, generator = x[labels == 1], np.random.default_rng(5)
    lines = []
    for _ in range(60):
        order, changed, line = generator.permutation(12), own.copy(), []
        for first, last in zip([0, *curves.sizes], curves.sizes, strict=False):
            changed[:, order[first:last]] = means[order[first:last]]
            line.append(accuracy(study, changed, 1))
        lines.append(line)
    error = np.std(lines, axis=0) / 60**0.5 * (1 + 60 / 200) ** 0.5
    found = curves.random_deletion[:, :, 1].mean(axis=0)
    assert np.all(np.abs(found - np.mean(lines, axis=0)) <= 3.5 * error + 1e-9)


def test_one_draw_has_no_interval(study: Study, made: Decomposition) -> None:
    found = essentiality(study, made, repeats=1)
    low, middle, high = found.to_json()["kinds"]["normal"]["gap"]
    assert low is None and high is None and middle == found.kinds["normal"].gap()[0]
    assert not any("(" in str(cell) for table in found.tables()[:2] for cell in table.columns[-1].cells)
    assert all(" to " in str(cell) for cell in essentiality(study, made, repeats=2).tables()[1].columns[-1].cells)


@pytest.fixture
def alone(tmp_path: Path) -> tuple[Study, Decomposition]:
    """A network in which one feature decides each class, named by a file, among many that do nothing."""
    weight = np.zeros((3, 20))
    weight[[0, 1, 2], [4, 9, 14]] = 1
    network = subspect.Network(Wide(weight))
    for seed, name in enumerate(("train", "test")):
        x = pictures(seed, 300)
        labelled = (x, labels_of(x, weight, wrong=0))
        study = subspect.observe(network, labelled, tmp_path / "study", name, show_progress=False)
    Supports([[4], [9], [14]], 20).write(tmp_path / "indices.json")
    return study, decompose_by_file(study, tmp_path / "indices.json")


def test_a_feature_that_alone_is_essential(alone: tuple[Study, Decomposition]) -> None:
    study, made = alone
    found = essentiality(study, made, repeats=10)
    assert np.all(found.before == 1)
    for kind in KINDS:
        one = found.kinds[kind]
        assert one.own.mean() < 0.75 and one.random.mean() > 0.9
        assert one.gap().min() > 0.1
    # With a class's own feature alone, the two others at their mean: as the largest of three it is mostly above that.
    assert found.kinds["mean"].others.mean() > 0.8
    assert np.all(found.curves.area("deletion") < found.curves.area("random_deletion").mean(axis=0))
    assert np.all(found.curves.area("insertion") > found.curves.area("random_insertion").mean(axis=0))


def test_noise_has_the_moments_that_it_should(alone: tuple[Study, Decomposition]) -> None:
    """One feature, replaced: the accuracy is the chance that noise exceeds the two others."""
    study, made = alone
    found = essentiality(study, made, repeats=100)
    (x, labels), train = stored(study, "test"), stored(study, "train")[0]
    generator = np.random.default_rng(1)
    for kind, mean, deviation in (("normal", 0.0, 1.0), ("matched", train[:, 4].mean(), train[:, 4].std())):
        rivals = x[labels == 0][:, [9, 14]].max(axis=1)
        noise = mean + deviation * generator.standard_normal((1000, len(rivals)))
        assert found.kinds[kind].own[:, 0].mean() == pytest.approx((noise > rivals).mean(), abs=0.01)


def test_what_each_feature_alone_is_worth(study: Study, made: Decomposition) -> None:
    lost, lost_by_few = without_each(study, made, where(study, made, "test"))
    (x, labels), means = stored(study, "test"), stored(study, "train")[0].mean(axis=0)
    weight, bias = made.matrix()
    for place, (label, feature) in enumerate(zip(made.supports.rows, made.supports.flat, strict=True)):
        own = x[labels == label]
        changed = own.copy()
        changed[:, feature] = means[feature]
        expected = accuracy(study, own, label) - accuracy(study, changed, label)
        assert lost[place] == pytest.approx(expected, abs=1e-12)
        right = [((one @ weight.T + bias).argmax(axis=1) == label).mean() for one in (own, changed)]
        assert lost_by_few[place] == pytest.approx(right[0] - right[1], abs=1e-12)


def test_a_seed_gives_the_same_whatever_the_shards(tmp_path: Path, study: Study, made: Decomposition) -> None:
    sets = {"train": pictures(0, 300), "test": pictures(1, 120)}
    network, other = subspect.Network(Wide(planted(4, 12)[0])), tmp_path / "other"
    for name, x in sets.items():
        images = (x, labels_of(x, planted(4, 12)[0]))
        again = subspect.observe(network, images, other, name, batch_size=7, show_progress=False)
    one, two = essentiality(study, made, repeats=2), essentiality(again, made, repeats=2)
    assert json.dumps(one.to_json()) == json.dumps(two.to_json())
    assert json.dumps(one.to_json()) != json.dumps(essentiality(study, made, repeats=2, seed=1).to_json())


def test_a_class_without_images(tmp_path: Path) -> None:
    weight = planted(3, 8)[0]
    network = subspect.Network(Wide(weight))
    x = pictures(0, 90)
    study = subspect.observe(network, (x, torch.arange(90) % 2), tmp_path / "study", "train", show_progress=False)
    made = decompose(study, 2, method="contribution")
    assert made.unseen == (2,)
    found = essentiality(study, made, repeats=1)
    assert np.isnan(found.before[2]) and found.to_json()["kinds"]["mean"]["own"][2] is None
    for lost in without_each(study, made, where(study, made, "train")):
        assert np.isnan(lost[made.supports.rows == 2]).all()
    assert "; 1 class of which there are none, here or in the choice, is left out" in str(found.tables()[0].caption)
    third = subspect.observe(network, (x[:9], torch.full((9,), 2)), study.path, "third", show_progress=False)
    with pytest.raises(SubspectError, match="there are no images of classes that have influential features"):
        essentiality(third, made, on="third")


def test_on_the_command_line(study: Study, made: Decomposition) -> None:
    line = f"essentiality {study.path} --decomposition {made.name} --repeats 2"
    result = CliRunner().invoke(app, shlex.split(f"{line} --json"), catch_exceptions=False)
    assert json.loads(result.stdout) == json.loads(json.dumps(essentiality(study, made, repeats=2).to_json()))
    shown = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False).stdout
    assert "matched" in shown and "class 3" in shown and "120 images of 'test'" in shown
    with pytest.raises(SubspectError, match="repeats must be 1 or more, got 0"):
        essentiality(study, made, repeats=0)
    assert CliRunner().invoke(app, shlex.split(f"{line} --on nowhere")).exit_code == 1
