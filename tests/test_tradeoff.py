"""Accuracy against multiplications: each point is what decomposing, measuring and pruning say of its pool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

import subspect
from prunable import Branching, MakeFolder, Plain
from subspect import Network, SubspectError
from subspect.giving.tradeoff import Tradeoff, TradeoffPoint, tradeoff


@pytest.fixture
def images(make_folder: MakeFolder) -> Path:
    return make_folder("train", each=20)


def test_the_curve_of_accuracy_and_multiplications(images: Path, tmp_path: Path) -> None:
    network = Network(Plain().eval())
    study = subspect.observe(network, images, tmp_path / "study", "train", show_progress=False)
    before = sorted(path.name for path in (tmp_path / "study").rglob("*"))
    found = tradeoff(study, network=network, pools=[4, 8, 12], k=2, show_progress=False)
    assert sorted(path.name for path in (tmp_path / "study").rglob("*")) == before
    assert [one.pool for one in found.points] == [None, 12, 8, 4]
    sizes = [one.size.multiplications for one in found.points]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]
    for one in found.points[1:]:
        made = subspect.decompose(study, 2, pool=one.pool, show_progress=False)
        cost = subspect.evaluate(study, made).overall
        assert one.accuracy == cost.accuracy and one.fidelity == cost.fidelity
        assert one.size.features == len(set(made.supports.flat.tolist())) <= (one.pool or 0)
    dense = found.points[0]
    assert dense.accuracy == cost.dense_accuracy and dense.size.features == 12 and not found.why
    assert isinstance(found.plot(), Figure) and len(found.tables()[0].rows) == 4 and json.dumps(found.to_json())
    assert found.plot().axes[0].get_xlabel().startswith("multiplications of the whole network")
    flat = Tradeoff(
        tuple(TradeoffPoint(one.pool, dense.size, one.accuracy, one.fidelity) for one in found.points), 2, "", "x"
    )
    axes = flat.plot().axes[0]
    assert axes.get_xlabel().startswith("pool: features for all classes together")
    points = [(text.get_text(), text.xy[0]) for text in axes.texts]  # type: ignore[attr-defined]
    assert points == [("dense, 12", 12), ("8", 8), ("4", 4)]  # the largest pool is as accurate as the dense one
    assert max(sizes) < 1e5 and f"{sizes[0]:,} (1.000)" in str(next(iter(found.tables()[0].columns[4].cells)))
    assert "millions" not in found.plot().axes[0].get_xlabel()
    with pytest.raises(
        SubspectError, match="pools must be whole numbers from k = 2 to the layer's 12 features, got 1, 13"
    ):
        tradeoff(study, network=network, pools=[1, 4, 13], k=2)
    with pytest.raises(SubspectError, match="to the layer's 12 features, got none"):
        tradeoff(study, network=network, pools=[], k=2)
    with pytest.raises(SubspectError, match="to the layer's 12 features, got 4.5"):
        tradeoff(study, network=network, pools=[4.5], k=2)  # type: ignore[list-item]
    with pytest.raises(SubspectError, match="to the layer's 12 features, got 4"):
        tradeoff(study, network=network, pools=4, k=2)  # type: ignore[arg-type]


def test_the_curve_of_accuracy_and_time(images: Path, tmp_path: Path) -> None:
    network = Network(Plain().eval())
    study = subspect.observe(network, images, tmp_path / "study", "train", show_progress=False)
    options: dict[str, Any] = {"sample": 30, "rounds": 2, "show_progress": False}
    found = tradeoff(study, network=network, budgets=[0.8, 0.9], classes=["a", "c"], k=2, **options)
    assert [one.budget for one in found.points] == [None, 0.9, 0.8] and found.by_budget
    dense = found.points[0]
    made = subspect.decompose(study, 2, draws=0, show_progress=False)
    for one in found.points[1:]:
        small = subspect.specialise(
            study, made, network=network, classes=["a", "c"], budget=one.budget, onnx=False, **options
        )
        assert one.size == small.small and one.accuracy == small.among["small"] and one.fidelity is None
        assert one.size.multiplications <= (one.budget or 0) * dense.size.multiplications and set(one.times) == {1, 32}
        assert dense.accuracy == small.among["dense"] and dense.size == small.dense
    assert {ratio.value for ratio in dense.times.values()} == {1.0}
    assert json.dumps(found.to_json()) and len(found.tables()[0].rows) == 3 and found.to_frame().shape[0] == 3
    labels = [axes.get_xlabel() for axes in found.plot().axes]
    assert labels == [f"time for {images}, share of the dense network's" for images in ("1 image", "32 images")]
    assert [text.get_text() for text in found.plot().axes[0].texts] == ["dense", "0.9", "0.8"]


def test_what_curve_cannot_be_drawn(images: Path, tmp_path: Path) -> None:
    network = Network(Plain().eval())
    study = subspect.observe(network, images, tmp_path / "study", "train", show_progress=False)
    with pytest.raises(SubspectError, match="give either pools .* or budgets"):
        tradeoff(study, network=network)
    with pytest.raises(SubspectError, match="give either pools .* or budgets"):
        tradeoff(study, network=network, pools=[4], budgets=[0.5])
    with pytest.raises(SubspectError, match=r"budgets must be a list of shares .* got \[\]"):
        tradeoff(study, network=network, budgets=[])
    with pytest.raises(SubspectError, match="budgets must be a list of shares .* got 0.5"):
        tradeoff(study, network=network, budgets=0.5)  # type: ignore[arg-type]
    with pytest.raises(SubspectError, match="between 0 and 1; got 2"):
        tradeoff(study, network=network, budgets=[0.5, 2])
    with pytest.raises(SubspectError, match="classes go with budgets"):
        tradeoff(study, network=network, pools=[4], k=2, classes=["a"])
    other = Network(Branching().eval())
    no_graph = subspect.observe(other, images, tmp_path / "no-graph", "train", show_progress=False)
    with pytest.raises(
        SubspectError, match=r"can't be narrowed within a budget\. .*torch.fx cannot trace it.* give pools"
    ):
        tradeoff(no_graph, network=other, budgets=[0.5], k=2, show_progress=False)
    bare = subspect.observe(network, torch.rand(40, 3, 8, 8), tmp_path / "bare", "train", show_progress=False)
    with pytest.raises(SubspectError, match="accuracy against time takes images with labels"):
        tradeoff(bare, network=network, budgets=[0.5], k=2, show_progress=False)
