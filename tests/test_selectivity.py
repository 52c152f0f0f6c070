"""Ψ, μ, mutual information and overlaps against slow re-implementations of the formulas."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine as cosine_distance
from scipy.spatial.distance import jaccard as jaccard_distance
from sklearn.metrics import mutual_info_score
from typer.testing import CliRunner

import subspect
from conftest import Tiny
from subspect import Network, Study, SubspectError, Supports
from subspect.asking.selectivity import class_selectivity, cosine, distinct, mutual_information, overlap, selectivity
from subspect.cli import app
from subspect.statistics.largest import Needed, TopFeatures, needed

Features = npt.NDArray[np.float32]
fast = settings(deadline=None, derandomize=True, max_examples=25)
seeds = st.integers(0, 2**32 - 1)
KINDS = ("random", "negative", "tied", "empty")


def features(kind: str, seed: int, images: int = 40, width: int = 9) -> Features:
    """Random, negative, tied or partly empty features, on a grid so that every sum is exact."""
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 256, (images, width)) / 16
    if kind == "negative":
        x -= 8
    if kind == "tied":
        x = generator.integers(0, 3, (images, width)).astype(float)
    if kind == "empty":
        x[generator.random(images) < 0.3] = 0
    return x.astype(np.float32)


def slow_needed(row: Features, share: float) -> tuple[int, int]:
    """The least number of units that hold the share, and the units strictly before it is reached."""
    values = sorted((abs(float(value)) for value in row), reverse=True)
    total = sum(values)
    if total == 0:
        return 0, -1
    held = 0.0
    for number, value in enumerate(values, start=1):
        held += value
        if held >= share * total:
            return number, number - 1
    raise AssertionError


@pytest.mark.parametrize("kind", KINDS)
@fast
@given(seed=seeds, share=st.sampled_from([0.25, 0.5, 0.75, 0.9, 0.99]))
def test_psi_of_each_image(kind: str, seed: int, share: float) -> None:
    x = features(kind, seed)
    assert needed(x, share).tolist() == [slow_needed(row, share)[0] for row in x]


@pytest.mark.parametrize("kind", KINDS)
@fast
@given(seed=seeds)
def test_needed_of_each_class_is_merged_in_any_order(kind: str, seed: int) -> None:
    x, labels = features(kind, seed), np.random.default_rng(seed).integers(0, 3, 40)
    whole = Needed(4, 9, 0.5)
    whole.update(x, labels)
    parts = []
    for rows in np.array_split(np.random.default_rng(seed).permutation(40), 3):
        part = Needed(4, 9, 0.5)
        part.update(x[rows], labels[rows])
        parts.append(part)
    one, two, three = parts
    for joined in (one.merge(two).merge(three), three.merge(one.merge(two))):
        assert np.array_equal(joined.counts, whole.counts)
    each = [slow_needed(row, 0.5)[0] for row in x]
    for label in range(3):
        own = [number for number, of in zip(each, labels, strict=True) if of == label]
        if own:
            assert whole.median()[label] == np.median(own) and whole.mean()[label] == pytest.approx(np.mean(own))
    assert np.isnan(whole.median()[3]) and np.isnan(whole.mean()[3])


def test_a_share_of_the_mass_is_counted_as_by_the_frequencies() -> None:
    x, labels = features("random", 0), np.zeros(40, np.int64)
    top, counted = TopFeatures(1, 9, [0.5]), Needed(1, 9, 0.5)
    top.update(x, labels)
    counted.update(x, labels)
    assert top.used(0.5)[0] == counted.mean()[0]


@fast
@given(seeds)
def test_class_selectivity(seed: int) -> None:
    means = np.random.default_rng(seed).integers(0, 4, (5, 7)) / 4
    for unit, mu in enumerate(class_selectivity(means)):
        column = means[:, unit].tolist()
        best = column.pop(int(np.argmax(column)))
        rest = sum(column) / len(column)
        assert mu == pytest.approx((best - rest) / (best + rest) if best + rest else 0)
    assert class_selectivity(means[:1]).tolist() == [0] * 7
    assert class_selectivity(np.eye(3)).tolist() == [1, 1, 1] and not class_selectivity(np.ones((3, 2))).any()


@fast
@given(seeds)
def test_pairs_of_classes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = [generator.permutation(8)[: generator.integers(0, 9)] for _ in range(4)]
    supports, counts = Supports(rows, 8), generator.integers(0, 3, (4, 8))
    used = np.array([np.isin(np.arange(8), row) for row in rows])
    information, shared, near = mutual_information(supports), overlap(supports), cosine(counts)
    for one in range(4):
        for other in range(4):
            assert information[one, other] == pytest.approx(mutual_info_score(used[one], used[other]), abs=1e-12)
            if used[one].any() or used[other].any():
                assert shared[one, other] == pytest.approx(1 - jaccard_distance(used[one], used[other]))
            else:
                assert shared[one, other] == 1
            if counts[one].any() and counts[other].any():
                assert near[one, other] == pytest.approx(1 - cosine_distance(counts[one], counts[other]))
            else:
                assert near[one, other] == 0
    apart = [information[one, other] for one in range(4) for other in range(4) if one != other]
    assert distinct(information) == pytest.approx(np.mean(apart)) and np.isnan(distinct(information[:1, :1]))


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("resnet20_cifar-10_indices.json", 0.03453775959861226),
        ("resnet20_cifar-10_10_10_indices.json", 0.05704998707530908),
        ("resnet20_cifar-10_20_20_indices.json", 0.07080315102266714),
    ],
)
def test_the_published_indices_have_the_published_information(data: Path, file: str, expected: float) -> None:
    supports = Supports.read(data / "paper" / file, 10, 64)
    assert mutual_information(supports).mean() == pytest.approx(expected, abs=1e-9)


# A study --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def watched(tiny: Tiny, make_folder: Callable[..., Path], tmp_path: Path) -> Study:
    return subspect.observe(Network(tiny), make_folder("train", each=20), tmp_path / "study", layers=["conv"])


def slow(x: Features, labels: npt.NDArray[np.int64], k: int, share: float) -> dict[str, Any]:
    """All of it by loops over images and classes."""
    classes = range(int(labels.max()) + 1)
    own = [[row for row, of in zip(x, labels, strict=True) if of == c] for c in classes]
    tops = [[sorted(range(6), key=lambda unit: (-abs(row[unit]), unit))[:k] for row in rows] for rows in own]
    counts = np.array([[sum(unit in top for top in of) for unit in range(6)] for of in tops])
    psi = [[1 - slow_needed(row, share)[0] / 6 for row in rows] for rows in own]
    script = [[1 - slow_needed(row, share)[1] / 6 for row in rows] for rows in own]
    mass = [np.mean([np.sort(np.abs(row))[::-1][:k].sum() / np.abs(row).sum() for row in rows]) for rows in own]
    means = np.array([np.maximum(x[labels == c], 0).mean(axis=0) for c in classes])
    return {"counts": counts, "psi": psi, "script": script, "mass": mass, "means": means}


def test_of_a_layer_and_of_the_features(watched: Study) -> None:
    made = selectivity(watched, k=2, share=0.8)
    assert [one.layer for one in made.layers] == ["conv", "features"] and made.note == "60 images of 'train'"
    [chunk] = watched.image_set("train").chunks(layers=["conv"])
    for one, x in zip(made.layers, (chunk.layers["conv"], chunk.features), strict=True):
        expected = slow(x, chunk.labels, 2, 0.8)
        assert np.array_equal(one.counts, expected["counts"]) and one.clipped
        assert one.psi_median == pytest.approx(np.median(expected["psi"], axis=1))
        assert one.psi_mean == pytest.approx(np.mean(expected["psi"], axis=1))
        value = one.to_json()
        assert value["psi"]["script_median"] == pytest.approx(np.median(expected["script"], axis=1))
        assert value["psi"]["script_mean"] == pytest.approx(np.mean(expected["script"], axis=1))
        assert one.mass[2] == pytest.approx(np.array(expected["mass"]), abs=1e-6)
        assert one.mu == pytest.approx(class_selectivity(expected["means"]), abs=1e-6)
        for support, row in zip(one.supports, expected["counts"], strict=True):
            assert set(support.tolist()) == set(sorted(range(6), key=lambda unit: (-row[unit], unit))[:2])


def test_classes_without_images_are_left_out(tiny: Tiny, make_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_folder("two", classes=("a", "b"), each=10)
    study = subspect.observe(Network(tiny), folder, tmp_path / "study", class_map={"a": 0, "b": 2})
    [one] = selectivity(study, k=2).layers
    assert one.seen.tolist() == [True, False, True] and one.information.shape == (2, 2)
    assert np.isnan(one.psi_median[1]) and one.to_json()["psi"]["median"][1] is None
    assert json.loads(json.dumps(selectivity(study).to_json()))["layers"][0]["layer"] == "features"


def test_bad_input(watched: Study) -> None:
    with pytest.raises(
        SubspectError, match=r"layer 'con' wasn't observed on 'train' \(did you mean 'conv'\?\); there are"
    ):
        selectivity(watched, layers=["con"])
    assert [one.layer for one in selectivity(watched, layers="conv").layers] == ["conv"]
    with pytest.raises(SubspectError, match="k must be 1 or more; got 0"):
        selectivity(watched, k=0)
    with pytest.raises(SubspectError, match="share must be between 0 and 1; got 1"):
        selectivity(watched, share=1)
    with pytest.raises(SubspectError, match="no image set 'test'"):
        selectivity(watched, on="test")


def test_on_the_command_line(watched: Study) -> None:
    line = f"selectivity {watched.path} -k 2 --share 0.8"
    result = CliRunner().invoke(app, shlex.split(f"{line} --json"), catch_exceptions=False)
    assert json.loads(result.stdout) == json.loads(json.dumps(selectivity(watched, k=2, share=0.8).to_json()))
    shown = CliRunner().invoke(app, shlex.split(f"{line} --layers conv")).stdout
    assert (
        "conv" in shown
        and "│ features" not in shown
        and "max(x, 0)" in shown
        and "│ 1 │" not in shown.replace("┃", "│")
    )
    each = CliRunner().invoke(app, shlex.split(f"{line} --layers conv --per-class")).stdout
    [one] = selectivity(watched, layers="conv", k=2, share=0.8).layers
    assert all(f"│ {100 * mass:.0f} │" in each for mass in one.mass[1]) and "by k" in each
    many = CliRunner().invoke(app, shlex.split(f"selectivity {watched.path} -k 50")).stdout
    assert "a layer of fewer than 50 units takes them all" in " ".join(many.split())
    assert CliRunner().invoke(app, shlex.split(f"{line} --layers nothing")).exit_code == 1


def test_the_figure_shows_median_and_middle(watched: Study, tmp_path: Path) -> None:
    one = selectivity(watched)
    psi, mu = one.plot().axes
    for axes, values in (
        (psi, [each.psi_median[each.seen] for each in one.layers]),
        (mu, [each.mu for each in one.layers]),
    ):
        lines = [np.asarray(line.get_xdata(), float).reshape(-1) for line in axes.get_lines()]
        assert np.allclose([line[0] for line in lines[1::2]], [np.median(each) for each in values])
        assert np.allclose(lines[0::2], [np.percentile(each, [2.5, 97.5]) for each in values])
    assert [text.get_text() for text in psi.get_yticklabels()][-1] == f"features, {one.layers[-1].channels}"
    line = ["selectivity", str(watched.path), "--figure", str(tmp_path / "x.svg")]
    assert CliRunner().invoke(app, line).exit_code == 0 and (tmp_path / "x.svg").is_file()
