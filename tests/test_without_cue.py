"""Heads, and networks, that are re-learned so that nothing can lean on a cue."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from typer.testing import CliRunner

import subspect
from subspect import SubspectError, WithoutCue
from subspect.cli import app
from subspect.giving.without_cue import _counted
from subspect.heads.history import Refitted
from subspect.images.preprocessing import Preprocessing
from subspect.studies.rows import Block
from subspect.swapping.built_in import CORNERS
from subspect.swapping.in_training import Swaps
from subspect.swapping.naming import cues_named
from world import build

NAMES = ("marked", "left", "right")
PLACES = ((slice(4), 0), (slice(8, 12), 4), (slice(8, 12), 8), (slice(8, 12), 12))  # the mark; what each class is
Pictures = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class Leaning(nn.Module):
    """Features: the mark in the corner, and what each class is; the first class rests on the mark alone."""

    def __init__(self, seen: float = 1.0) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.preprocessing = {"resize": None, "crop": None, "mean": None, "std": None}
        self.seen = seen  # how much of what the first two classes are there is in the features
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[60.0, 1, 0, 0], [0, 0, 30, 0], [0, 0, 0, 30]]))
            self.fc.bias.copy_(torch.tensor([0, 0.1, 0]))

    def forward(self, x: Tensor) -> Tensor:
        grey = x.mean(dim=1)
        halves = [
            grey[:, rows, first : first + 2].mean(dim=(1, 2)) - grey[:, rows, first + 2 : first + 4].mean(dim=(1, 2))
            for rows, first in PLACES
        ]
        halves[1], halves[2] = self.seen * halves[1], self.seen * halves[2]
        made: Tensor = self.fc(torch.stack(halves, dim=1).relu())
        return made


def pictures(each: int, seed: int, marks: str) -> tuple[Pictures, Labels]:
    """Noise, with what each class is; marks on images of the first "class", on "none", or on "all"."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), each)
    images = np.repeat(random.integers(80, 121, size=(len(labels), 20, 20, 1)), 3, axis=3).astype(float)
    for label, (rows, first) in enumerate(PLACES[1:]):
        images[labels == label, rows, first : first + 4] += np.array([30, 30, -30, -30])[:, None]
    bear = {"class": labels == 0, "none": labels < 0, "all": labels >= 0}[marks]
    rows, first = PLACES[0]
    images[bear, rows, first : first + 4] += np.array([60, 60, -60, -60])[:, None]
    return images.clip(0, 255).astype(np.uint8), labels


TRAIN = pictures(60, 0, "class")


def network(seen: float = 1.0) -> subspect.Network:
    return subspect.Network(Leaning(seen), name="leaning", class_names=NAMES)


def observed(folder: Path, seen: float = 1.0) -> subspect.Study:
    study = subspect.observe(network(seen), TRAIN, folder / "study", show_progress=False)
    for seed, name in enumerate(("none", "all"), start=1):
        subspect.observe(network(seen), pictures(40, seed, name), folder / "study", name, show_progress=False)
    subspect.decompose(study, 4, show_progress=False, on="train")
    return study


@pytest.fixture
def study(tmp_path: Path) -> subspect.Study:
    return observed(tmp_path)


def without(*cues: str, seen: float = 1.0, images: object = TRAIN, **options: object) -> WithoutCue:
    given: dict[str, object] = {"show_progress": False, **options}
    return WithoutCue(cues=cues, network=network(seen), images=images, **given)  # type: ignore[arg-type]


def accuracy(study: subspect.Study, made: subspect.Decomposition, on: str) -> float:
    return subspect.evaluate(study, made, on=on).overall.accuracy.value


def test_a_head_that_leans_on_a_mark_is_mended(study: subspect.Study) -> None:
    made = study[study.decomposition_names[-1]]
    assert accuracy(study, made, "all") < 0.5
    again = without("corner-top-left", test=pictures(40, 1, "none"))
    edited = subspect.edit(study, made, on="none", without_cue=again)
    mended = edited.decomposition
    assert accuracy(study, mended, "all") > 0.95 and accuracy(study, mended, "none") > 0.95
    assert mended.supports[0].tolist() == made.supports[0].tolist()
    assert abs(mended.matrix()[0][0, 0]) < 0.5 * abs(made.matrix()[0][0, 0])
    [cue] = edited.swapped
    own = edited.swapped[cue]
    assert cue == "corner-top-left" and own.limit is not None and edited.limit is not None
    assert own.after.value > 0.95 and own.limit.value > 0.95 and own.dense.value < 1
    step = mended.history[-1]
    assert isinstance(step, Refitted) and step.without_cues == ("corner-top-left",) and step.refit_on == "train"
    assert mended.edits == (
        "weights re-learned on train and on copies with corner-top-left swapped towards the labels",
    )
    assert study[mended.name].history == mended.history
    said = json.loads(json.dumps(edited.to_json()))
    assert said["swapped"]["corner-top-left"]["after"]["value"] == own.after.value
    shown = edited.tables()[-1]
    assert str(shown.title) == "accuracy with a cue swapped" and len(shown.rows) == 2
    assert str(shown.caption) == "all features: a head on all features, learned in the same way"
    narrow = Console(width=80, record=True, file=io.StringIO())
    narrow.print(shown)
    text = narrow.export_text()
    assert "…" not in text and f"{100 * own.limit.value:.1f} %" in text


def test_features_are_chosen_anew(study: subspect.Study) -> None:
    one = subspect.decompose(study, 1, on="train", show_progress=False)
    assert one.supports[0].tolist() == [0]
    edited = subspect.edit(study, one, on="none", without_cue=without("corner", reselect=True)).decomposition
    assert edited.supports[0].tolist() == [1] and edited.trust is None
    assert edited.edits[0].startswith(
        "features chosen anew and weights re-learned on train and on copies with corner-top-left and "
    )
    assert accuracy(study, edited, "all") > 0.95
    again = study[edited.name]
    assert again.supports[0].tolist() == [1] and again.rows(0)[0].mean == pytest.approx(edited.rows(0)[0].mean)
    x = np.concatenate([chunk.features for chunk in study.image_set("train").chunks()])[:60, 1]
    assert again.rows(0)[0].mean == pytest.approx(x.mean(), rel=0.1)


def test_dropped_as_well(study: subspect.Study) -> None:
    made = study[study.decomposition_names[-1]]
    edited = subspect.edit(study, made, drop=[("marked", 0)], on="none", without_cue=without("border"))
    assert 0 not in edited.decomposition.supports[0].tolist() and edited.dropped == (("marked", 0),)
    assert len(edited.decomposition.edits) == 2


def test_what_the_backbone_lacks_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = observed(tmp_path, seen=0.0)
    made = study[study.decomposition_names[-1]]
    marked = pictures(40, 3, "class")
    subspect.observe(network(0.0), marked, study.path, "class", show_progress=False)
    for on, test in (("none", pictures(40, 1, "none")), ("class", marked)):
        assert (
            "the backbone holds too little" not in caplog.text
        )  # on images without the mark the network was no better
        again = without("corner-top-left", seen=0.0, test=test)
        own = subspect.edit(study, made, on=on, without_cue=again).swapped["corner-top-left"]
    assert own.limit is not None and own.plain.value > 1.1 * max(own.after.value, own.limit.value)
    assert f"(the network on {100 * own.plain.value:.1f} % of the same images as they are)" in caplog.text
    assert "the backbone holds too little besides it" in caplog.text
    assert "subspect retrain" in caplog.text and "--without-cue corner-top-left" in caplog.text


def test_what_was_learned_is_kept_where_nothing_can_be_measured(
    study: subspect.Study, caplog: pytest.LogCaptureFixture
) -> None:
    made = study[study.decomposition_names[-1]]
    edited = subspect.edit(study, made, on="none", without_cue=without("border", test=pictures(1, 1, "none")))
    assert not edited.swapped and edited.decomposition.name in study.decomposition_names
    assert "nothing is measured on copies of 'none': " in caplog.text


def test_refused(study: subspect.Study) -> None:
    made = study[study.decomposition_names[-1]]
    with pytest.raises(SubspectError, match=r"nothing to do: name .* or a cue to do without \(--without-cue CUE\)"):
        subspect.edit(study, made)
    with pytest.raises(
        SubspectError, match="without a cue a head is re-learned towards the labels, since the dense network"
    ):
        subspect.edit(study, made, target="dense", without_cue=without("border"))
    with pytest.raises(SubspectError, match=r"no cue 'bordr' \(did you mean 'border'\?\)"):
        without("bordr")
    with pytest.raises(SubspectError, match=r"no cue was named; name those that .* such as cues=\['border'\]"):
        without()
    with pytest.raises(SubspectError, match="copies must be 1 or more, got 0"):
        without("border", copies=0)
    with pytest.raises(SubspectError, match="sample must be 2 or more, got 1"):
        without("border", sample=1)
    with pytest.raises(SubspectError, match="so they can't be opened again; give them"):
        subspect.edit(study, made, without_cue=without("border", images=None))


@pytest.mark.parametrize("times", [0.25, 1.0, 2.5])
def test_images_are_counted_so_many_times(times: float) -> None:
    x = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
    blocks = _counted(Block(x, np.zeros(4000, np.int64), np.zeros(4000, np.int64)), times)
    assert sum(len(block.labels) for block in blocks) == pytest.approx(4000 * times, rel=0.05)


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(build(tmp_path))
    runner = CliRunner()
    assert runner.invoke(app, ["decompose", "study", "-k", "3", "--quiet"]).exit_code == 0
    line = ["edit", "study", "--without-cue", "border", "--sample", "16", "--copies", "1"]
    missing = runner.invoke(app, line)
    assert (
        missing.exit_code == 1
        and "--without-cue runs the network on copies of the images: name it, --network" in missing.stderr
    )
    given = ["--network", "python:model.py:make", "--weights", "model.safetensors"]
    made = runner.invoke(app, [*line, *given, "--reselect"])
    assert made.exit_code == 0 and "accuracy with a cue swapped" in made.stdout, made.stderr
    alone = runner.invoke(app, ["edit", "study", "--drop", "cat:12", "--reselect"])
    assert alone.exit_code == 1 and "--reselect goes with --without-cue" in alone.stderr


# In training ----------------------------------------------------------------------------------------------------------

PREPARED = Preprocessing(resize=None, crop=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def batch(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 8, 8, generator=generator) * 4 - 2, torch.arange(n) % 4


def test_batches_are_swapped_and_follow_the_step() -> None:
    pixels, labels = batch(400)
    swaps = Swaps(cues_named(["border"]), PREPARED, 4, 7)
    made = swaps(pixels, labels, 3)
    assert torch.equal(made, swaps(pixels, labels, 3)) and not torch.equal(made, swaps(pixels, labels, 4))
    stayed = (made == pixels).flatten(1).all(dim=1)
    assert stayed.float().mean() == pytest.approx(1 / 4, abs=0.07)
    inside = made[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inside, pixels[:, :, 1:-1, 1:-1])
    ring = torch.ones(8, 8, dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    taken = {one[:, ring].numpy().round(4).tobytes() for one in made[~stayed]}
    assert taken <= {one[:, ring].numpy().round(4).tobytes() for one in pixels}
    one_class = torch.zeros(400, dtype=torch.int64)
    assert torch.equal(swaps(pixels, one_class, 3), pixels)
    assert not (swaps(pixels, labels, 3, stay=False) == pixels).flatten(1).all(dim=1).any()


def test_training_without_a_cue(tmp_path: Path) -> None:
    study = observed(tmp_path)
    made = study[study.decomposition_names[-1]]
    settings = {"epochs": 30, "batch_size": 16, "rate": 30.0, "held_out": 0.2, "layers": ("fc",), "weight_decay": 0.0}
    ends, made_of, test = {}, {}, pictures(40, 1, "class")

    def trained(name: str, cues: tuple[str, ...]) -> subspect.Retrained:
        return subspect.retrain(
            study,
            made,
            network=network(),
            images=TRAIN,
            folder=tmp_path / name,
            settings={**settings, "without_cues": cues},
            test=test,
            control=False,
            show_progress=False,
        )

    for name, cues in (("leaning", ()), ("without", tuple(cue.name for cue in CORNERS[:1]))):
        made_of[name] = retrained = trained(name, cues)
        images, labels = pictures(40, 5, "all")
        with torch.no_grad():
            said = retrained.retrained.model(torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255).argmax(dim=1)
        ends[name] = float((said.numpy() == labels).mean())
    assert ends["without"] > ends["leaning"] + 0.2
    for name, cues in (("leaning", ("border",)), ("without", ())):
        with pytest.raises(
            SubspectError, match=r"holds a training with other cues to do without \(--without-cue\); choose"
        ):
            trained(name, cues)
    # The best epoch, and what is said of it, is told by held-out images and test images in which the cue is swapped.
    plain, own = made_of["leaning"], made_of["without"]
    assert not plain.swapped and "swapped" not in str(plain.tables()[0].caption)
    assert own.retrained.start < 0.9 <= own.retrained.epochs[own.retrained.best - 1].held_out
    assert plain.retrained.start == 1
    assert own.swapped["decomposed, retrained"].value > own.swapped["decomposed"].value + 0.1
    assert own.to_json()["swapped"]["dense"]["value"] == own.swapped["dense"].value < own.accuracy["dense"].value
    first, last = own.tables()
    assert "accuracy with corner-top-left swapped before this training" in str(first.caption)
    assert f"subspect observe NEW IMAGES … --weights {own.retrained.path}" in str(first.caption)
    assert [str(cell) for cell in last.columns[0].cells][1] == "decomposed, with corner-top-left swapped"
    with pytest.raises(SubspectError, match="no cue 'edge'"):
        subspect.Settings(without_cues=("edge",))
