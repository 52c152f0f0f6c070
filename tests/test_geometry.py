"""Dimensions of features and decision: against plain formulas, and where the answer is known."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn
from typer.testing import CliRunner

import subspect
from conftest import PIXELS
from planted import Wide, observed, pictures, planted
from subspect import Network, Study, SubspectError, decompose
from subspect.asking.geometry import boundary_points, geometry
from subspect.cli import app
from subspect.statistics.dimensions import (
    effective_rank,
)

Array = npt.NDArray[np.float64]
fast = settings(deadline=None, derandomize=True, max_examples=20)
seeds = st.integers(0, 2**32 - 1)


# Formulas -------------------------------------------------------------------------------------------------------------


@fast
@given(seeds)
def test_boundary_points_tie_and_no_third_class_is_larger(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, weight, bias = (
        generator.standard_normal((80, 5)),
        generator.standard_normal((4, 5)),
        generator.standard_normal(4),
    )
    points = boundary_points(x, weight, bias, 50, generator)
    if len(set((x @ weight.T + bias).argmax(axis=1))) > 1:
        logits = np.sort(points @ weight.T + bias, axis=1)
        assert len(points) and logits[:, -1] == pytest.approx(logits[:, -2], abs=1e-8)
    assert len(boundary_points(x[:1], weight, bias, 50, generator)) == 0


# A decision of known dimension ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [2, 5, 10])
def test_a_decision_of_known_dimension(r: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(r)
    basis = np.linalg.qr(generator.standard_normal((40, 40)))[0]
    inside, weight = basis[:, :r], generator.standard_normal((r + 4, r)) @ basis[:, :r].T
    latent = generator.uniform(-1, 1, (3000, r))
    aside = generator.standard_normal((3000, 40 - r)) * 3  # large, and nothing to do with the decision
    for name, nuisance in (("plain", 0.0), ("aside", 1.0)):
        x = (latent @ inside.T + nuisance * aside @ basis[:, r:].T).astype(np.float32)
        study = subspect.observe(
            Network(Wide(weight)),
            (torch.nn.functional.pad(torch.from_numpy(x), (0, 152)).view(3000, 3, 8, 8), np.arange(3000) % (r + 4)),
            tmp_path / name,
            "train",
            show_progress=False,
        )
        made = geometry(study)
        assert made.decision == r and made.ceiling == r + 3
        assert made.fidelity[r - 1] == 1 and made.fidelity[r - 2] < 0.99
        if not nuisance:
            assert made.network.two_nn == pytest.approx(r, rel=0.15)
            assert made.boundary.two_nn + 1 == pytest.approx(r, rel=0.15)
            assert made.network.participation == pytest.approx(r, rel=0.05)
            assert made.network.likelihood == pytest.approx(r, rel=0.25)


def test_fidelity_by_rank_is_that_of_projected_features(tmp_path: Path) -> None:
    """The same by the singular vectors of the class differences in the metric of the feature covariance, d × d."""
    weight = planted(4, 12)[0]
    study = observed(tmp_path / "study", weight, train=pictures(0, 300), test=pictures(1, 200))
    made = geometry(study)
    x = np.concatenate([chunk.features for chunk in study.image_set("train").chunks()]).astype(np.float64)
    test = np.concatenate([chunk.features for chunk in study.image_set("test").chunks()]).astype(np.float64)
    w, b = (tensor.double().numpy() for tensor in study.head())
    differences, mean = w - w.mean(axis=0), x.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    root, inverse = vectors * np.sqrt(values) @ vectors.T, vectors / np.sqrt(values) @ vectors.T
    right = np.linalg.svd(differences @ root)[2]
    for rank, fidelity in zip(made.ranks, made.fidelity, strict=True):
        project = root @ right[:rank].T @ right[:rank] @ inverse
        moved = (test - mean) @ project.T + mean
        same = (moved @ w.T + b).argmax(axis=1) == (test @ w.T + b).argmax(axis=1)
        assert fidelity == pytest.approx(same.mean(), abs=0.011)
    assert made.fidelity[-1] == 1 and made.ranks.tolist() == [1, 2, 3]


# A study --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    sets = {"train": pictures(0, 300), "test": pictures(1, 200)}
    return observed(tmp_path_factory.mktemp("geometry") / "study", planted(4, 12)[0], **sets)


def test_of_a_study(study: Study) -> None:
    made = decompose(study, 3)
    found = geometry(study, made)
    assert found.union == len(set(made.supports.flat.tolist())) and found.note == "200 images of 'test'"
    assert found.head_rank == pytest.approx(effective_rank(study.head()[0].numpy()))
    assert found.decomposed_rank == pytest.approx(effective_rank(made.matrix()[0]))
    assert sum(one.points for one in found.classes.values()) == found.network.points == 200
    assert found.coordinates == {point.k: point.fidelity for point in made.curve if not point.refit}
    assert isinstance(found.plot(), Figure) and len(found.plot().axes[0].lines) == 4
    assert found.compared_on == made.curve[0].images
    without = geometry(study, on="train")
    assert without.union is None and without.decomposed_rank is None and len(without.plot().axes[0].lines) == 3
    assert json.dumps(geometry(study, made).to_json()) == json.dumps(found.to_json())


def test_a_class_with_one_image_and_one_with_none(tmp_path: Path) -> None:
    labels = np.array([0] * 30 + [1] * 29 + [2])
    network = Network(Wide(planted(4, 8)[0]))
    study = subspect.observe(network, (pictures(0, 60), labels), tmp_path / "study", "train", show_progress=False)
    found = geometry(study)
    assert list(found.classes) == ["class 0", "class 1", "class 2"] and found.classes["class 2"].points == 1
    value = found.to_json()["classes"]["class 2"]
    assert value["participation"] is value["two_nn"] is value["components"]["0.9"] is None
    few = found.to_json()["classes"]["class 0"]  # 30 images: too few for an intrinsic dimension
    assert few["two_nn"] is few["likelihood"] is None and few["participation"] > 1
    assert "–" in str(list(found.tables()[1].columns[2].cells))


def test_classes_without_images_take_no_part(tmp_path: Path) -> None:
    """Their rows stay dense, which says nothing of the decomposition."""
    network = Network(Wide(planted(4, 12)[0]))
    x = pictures(0, 300)
    study = subspect.observe(network, (x, np.arange(300) % 3), tmp_path / "study", "train", show_progress=False)
    made = decompose(study, 2, method="contribution")
    found, kept = geometry(study, made), {feature for row in list(made.supports)[:3] for feature in row.tolist()}
    assert made.unseen == (3,) and found.union == len(kept) <= 6
    assert found.decomposed_rank == pytest.approx(effective_rank(made.matrix()[0][:3]))


def test_of_classes_that_tie_each_counts_as_said(tmp_path: Path) -> None:
    weight = planted(4, 12)[0]
    twice = np.concatenate([weight, weight])  # each class has a twin, whose logits are the same
    study = observed(tmp_path / "study", twice, train=pictures(0, 300), test=pictures(1, 200))
    found = geometry(study)
    plain = geometry(observed(tmp_path / "plain", weight, train=pictures(0, 300), test=pictures(1, 200)))
    assert found.fidelity[-1] == 1 and found.decision == plain.decision <= 3
    assert found.fidelity[:3] == pytest.approx(plain.fidelity)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_heads_of_few_classes_and_of_zeros(classes: int, scale: float, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    images = generator.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    network = Network(model, preprocessing=PIXELS, head="1")
    study = subspect.observe(network, (images, np.zeros(60, int)), tmp_path / "study", show_progress=False)
    found = geometry(study)
    assert found.ceiling == classes - 1 and (found.decision <= 1 if classes < 3 or not scale else found.decision <= 3)
    assert (found.fidelity >= 0).all() and (scale or (found.fidelity == 1).all())
    single = replace(found, ceiling=0, ranks=np.empty(0, np.int64), fidelity=np.empty(0))  # of one class
    assert single.decision == 0
    for one in (found, single):
        assert len(one.tables()) == 2 and json.dumps(one.to_json(), allow_nan=False)
        one.plot().savefig(tmp_path / "a.svg")


def test_bad_input(study: Study, tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match="an intrinsic dimension needs 50 points or more, got points=3"):
        geometry(study, points=3)
    with pytest.raises(SubspectError, match="no image set 'tset'"):
        geometry(study, on="tset")
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))
    one = subspect.observe(network, pictures(0, 1), tmp_path / "one", "train", show_progress=False)
    with pytest.raises(SubspectError, match="'train' has 1 image; its dimensions need 2 or more"):
        geometry(one)


def test_on_the_command_line(study: Study, tmp_path: Path) -> None:
    made = decompose(study, 3)
    line = f"geometry {study.path} --decomposition {made.name} --points 100"
    result = CliRunner().invoke(app, shlex.split(f"{line} --figure {tmp_path}/d.png --json"), catch_exceptions=False)
    assert json.loads(result.stdout) == json.loads(json.dumps(geometry(study, made, points=100).to_json()))
    assert (tmp_path / "d.png").read_bytes()[:4] == b"\x89PNG"
    shown = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False).stdout
    assert "decision dimension" in shown and "boundary" in shown and "200 images of 'test'" in shown
    result = CliRunner().invoke(app, shlex.split(f"{line} --figure {tmp_path}/d.txt"))
    assert result.exit_code == 1 and "its suffix must be one of .png, .svg, .pdf" in result.stderr
