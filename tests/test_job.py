"""The main job from end to end: what it makes, what it promises, and what it refuses before anything is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import subspect
from commands import MODEL, command, parsed, said
from conftest import PIXELS, Tiny
from planted import promised
from subspect import Auto, SubspectError


def test_the_main_job_promises(tiny: Tiny, make_folder: Callable[..., Path], tmp_path: Path) -> None:
    folders = [make_folder(name, each=30 + seed, seed=seed) for seed, name in enumerate(("train", "test", "promise"))]
    network = subspect.Network(tiny)
    made = subspect.run(
        network,
        folders[0],
        tmp_path / "study",
        test=folders[1],
        promise=folders[2],
        k=Auto(0.3),
        refit=False,
        show_progress=False,
    )
    assert made.study.set_names == ["train", "promise", "test"] and made.fidelity.where.image_set == "test"
    assert made.decomposition.auto is not None
    promise = promised(made.decomposition)
    assert promise.set == "promise" and promise.images == 96
    page = made.report.read_text(encoding="utf-8")
    assert f"promise: {promise.text}, from images of &#39;promise&#39;." in page
    with pytest.raises(SubspectError, match="two of the image sets given are the same; to choose features on"):
        subspect.run(network, folders[0], tmp_path / "other", promise=folders[0], k=Auto())
    with pytest.raises(SubspectError, match="images to promise something on go with k = 'auto'"):
        subspect.run(network, folders[0], tmp_path / "other", promise=folders[2], k=5)
    with pytest.raises(SubspectError, match="a pool must have from 1 to 6 features; got 7"):
        subspect.run(network, folders[0], tmp_path / "other", k=5, pool=7)
    assert not (tmp_path / "other").exists()


def test_the_main_job_on_images_of_a_few_classes(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    network = subspect.Network(Tiny(n_classes=8), class_names=[*"abcdefgh"])
    folders = [make_folder(name, ("b", "e"), 20 + seed, seed) for seed, name in enumerate(("train", "test"))]
    made = subspect.run(
        network, folders[0], tmp_path / "study", test=folders[1], k=2, among_given=True, show_progress=False
    )
    assert made.fidelity.note == "42 images of 'test', among the 2 classes given"
    assert made.fidelity.overall == made.decomposition.evaluate(among_given=True).overall
    [table] = made.tables()
    assert [str(cell) for cell in table.columns[0].cells] == ["b", "e", "…", "among the 2 classes given"]
    assert str([*table.columns[1].cells][2]) == "(6 classes more)"
    page = made.report.read_text(encoding="utf-8")
    assert "42 images of &#39;test&#39;, among the 2 classes given" in page and '"columns"' not in page
    every = subspect.write_report(made.study, made.decomposition, path=tmp_path / "every.html")
    assert "among all 8 classes (images of 2)" in every.read_text() and '"columns"' in every.read_text()
    flat = tmp_path / "train" / "b"
    with pytest.raises(
        SubspectError, match=r"^among_given \(--among-given\) needs images with labels, which tell the cl"
    ):
        subspect.run(network, folders[0], tmp_path / "other", test=flat, among_given=True, show_progress=False)
    assert not (tmp_path / "other").exists()


def test_the_main_job_promises_with_auto_as_a_word(
    tiny: Tiny, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [make_folder(name, each=20 + seed, seed=seed) for seed, name in enumerate(("train", "promise"))]
    made = subspect.run(
        subspect.Network(tiny), folders[0], tmp_path / "study", promise=folders[1], k="auto", show_progress=False
    )
    assert made.decomposition.k == "auto"


def test_the_main_job_on_the_command_line(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(MODEL)
    for seed, name in enumerate(("train", "test", "unseen")):
        make_folder(name, each=20 + seed, seed=seed)
    line = "run python:model.py:declared train -o study --test test --no-images"
    assert "--promise goes with -k auto" in said(f"{line} --promise unseen -k 3", 1)
    assert not Path("study").exists()
    value = parsed(f"{line} --promise unseen -k auto --tolerance 0.4 --most 4 --no-refit")
    auto = value["decomposition"]["history"][1]
    assert auto["promise"]["images"] == 66 and auto["promise"]["set"] == "promise" and auto["tolerance"] == 0.4
    assert max(len(one["features"]) for one in value["decomposition"]["classes"]) <= 4
    value = parsed(f"{line} -k mean:2:1:3 --pool 4 --target labels")
    assert value["decomposition"]["name"] == "pursuit-mean2-1-3-pool4-labels"
    value = parsed(f"{line} -k auto --tolerance 0.3 --measure accuracy")
    assert value["decomposition"]["history"][1]["measure"] == "accuracy"
    assert "-k must be a whole number" in " ".join(command(f"{line} -k mean:x", 2).stderr.replace("│", " ").split())


class TwoOutputs(Tiny):
    """Returns what a second head says as well."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        features = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.fc(features), self.aux(features)


def test_the_head_is_looked_for_once_and_again_where_its_weights_have_changed(
    make_folder: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, folders = TwoOutputs().eval(), [make_folder(name, each=len(name)) for name in ("training", "test")]
    network = subspect.Network(model, preprocessing=PIXELS)
    subspect.run(network, folders[0], tmp_path / "study", test=folders[1], k=2, show_progress=False)
    assert caplog.text.count("outputs of several linear layers; 'fc' is taken for the head") == 1
    with torch.no_grad():
        model.fc.weight.mul_(2)
    study = subspect.observe(network, folders[0], tmp_path / "later", show_progress=False)
    assert torch.equal(study.head()[0], model.fc.weight) and caplog.text.count("several linear layers") == 2
