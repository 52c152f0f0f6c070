"""Observing: what is stored, going on after a kill, and every refusal."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import subspect
from conftest import PIXELS, Tiny, reseal
from elsewhere import Slow, observing_slowly, wait_for
from subspect import Network, Study, SubspectError, observe
from subspect.ground.unfinished import part_name
from subspect.images.decoding import decode
from subspect.studies.pieces import observing

MakeFolder = Callable[..., Path]


def files(folder: Path) -> dict[str, bytes]:
    """All files of a study but its lock, by relative path."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_what_is_stored_is_what_the_network_does(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(each=7)
    study = observe(Network(tiny), folder, tmp_path / "study", batch_size=4)
    tiny.eval()
    (chunk,) = study.image_set("train").chunks()
    assert len(study.image_set("train")) == 21 and study.image_set("train").labelled
    for row, id in enumerate(chunk.ids):
        pixels = PIXELS(decode(folder / id))[None]
        with torch.no_grad():
            features = tiny.norm(tiny.conv(pixels)).tanh().mean((2, 3))
            logits = tiny(pixels)
        assert np.allclose(chunk.features[row], features[0], atol=1e-6)
        assert chunk.predictions[row] == logits.argmax()
        assert chunk.labels[row] == ["a", "b", "c"].index(id[0])
    weight, bias = study.head()
    assert torch.equal(weight, tiny.fc.weight) and torch.equal(bias, tiny.fc.bias)
    assert study.identity.class_names == ("a", "b", "c")


def test_shards_are_plain_arrow(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    observe(Network(tiny), make_folder(), tmp_path / "study")
    table = pa.ipc.open_file(tmp_path / "study/sets/train/00000.arrow").read_all()
    assert table.column_names == ["id", "label", "prediction", "digest", "features"]
    frame = table.to_pandas()
    assert frame["features"].iloc[0].shape == (6,) and frame["id"].iloc[0] == "a/000.png"


def test_the_model_is_left_as_it_was(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    tiny.train()
    tiny.norm.eval()
    tiny.fc.weight.grad = torch.ones_like(tiny.fc.weight)
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    observe(Network(tiny), make_folder(), tmp_path / "study")
    assert tiny.training and not tiny.norm.training and tiny.fc.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.state_dict().items())
    assert tiny.fc.weight.grad is not None and tiny.fc.weight.requires_grad
    assert not tiny.fc._forward_pre_hooks


def test_workers_and_repeats_change_nothing(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder()
    observe(Network(tiny), folder, tmp_path / "one", batch_size=5)
    observe(Network(tiny), folder, tmp_path / "two", batch_size=5, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    before = files(tmp_path / "one")
    with caplog.at_level(logging.INFO, logger="subspect"):
        observe(Network(tiny), folder, tmp_path / "one", batch_size=5)
    assert "are already stored" in caplog.text and files(tmp_path / "one") == before


def small_shards(monkeypatch: pytest.MonkeyPatch, images: int = 8) -> None:
    monkeypatch.setattr(sys.modules["subspect.studies.shards"], "_SHARD_IMAGES", images)


def test_an_interrupted_run_goes_on_with_the_same_bytes(
    tiny: Tiny,
    make_folder: MakeFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    small_shards(monkeypatch)
    folder = make_folder(each=11)
    (folder / "b" / "005.png").write_text("not an image")
    observe(Network(tiny), folder, tmp_path / "whole", batch_size=4, max_failed=0.1)

    reads = 0
    original = Network.read

    def interrupted(self: Network, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal reads
        reads += 1
        if reads == 20:  # the images tried first, twice, cost 17 batches; this is within the second shard
            raise KeyboardInterrupt
        return original(self, pixels)

    monkeypatch.setattr(Network, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        observe(Network(tiny), folder, tmp_path / "broken", batch_size=4, max_failed=0.1)
    monkeypatch.setattr(Network, "read", original)
    shards = sorted(path.name for path in (tmp_path / "broken/sets/train").glob("*.arrow"))
    assert shards == ["00000.arrow"]
    with pytest.raises(SubspectError, match="image set 'train' in .* is unfinished: 1 of 5 shards; run the same"):
        Study.open(tmp_path / "broken").image_set("train")
    with caplog.at_level(logging.INFO, logger="subspect"):
        observe(Network(tiny), folder, tmp_path / "broken", batch_size=4, max_failed=0.1)
    assert "resuming: 1 of 5 shards are already stored" in caplog.text
    assert files(tmp_path / "broken") == files(tmp_path / "whole")


def test_killed_and_run_again(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(each=20)
    small_shards(monkeypatch)
    process = observing_slowly(folder, tmp_path / "killed", 0.15)
    observe(Network(Slow()), folder, tmp_path / "whole", batch_size=4)
    first = tmp_path / "killed/sets/train/00000.arrow"
    wait_for(first)
    time.sleep(0.2)  # into the next shard
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = sorted(path.name for path in first.parent.glob("*.arrow"))
    assert 0 < len(left) < 8
    (first.parent / part_name()).write_bytes(b"half a shard")  # what a kill within a write leaves
    observe(Network(Slow()), folder, tmp_path / "killed", batch_size=4)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_shard_that_was_deleted_is_made_again(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    observe(Network(tiny), folder, tmp_path / "study")
    before = files(tmp_path / "study")
    (tmp_path / "study/sets/train/00000.arrow").unlink()
    observe(Network(tiny), folder, tmp_path / "study")
    assert files(tmp_path / "study") == before


def test_a_dataset_that_is_used_again(tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = torch.utils.data.TensorDataset(torch.rand(4, 3, 8, 8))
    observe(Network(tiny), dataset, tmp_path / "study")
    assert "identified only by its length" not in caplog.text
    observe(Network(tiny), dataset, tmp_path / "study")
    assert "the Dataset 'train' is identified only by its length and its name; if its images" in caplog.text


def test_a_second_writer_is_kept_out(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subspect.studies.pieces._WAIT", 0.1)
    folder = make_folder()
    busy = pytest.raises(
        SubspectError, match="another process is observing the image set 'test' of the study .*; wait for it"
    )
    study = observe(Network(tiny), folder, tmp_path / "study")
    with observing(study.path, "test"), busy:
        observe(Network(tiny), folder, tmp_path / "study", "test")
    with observing(study.path, "test"):  # another set, or a decomposition, is none of its business
        observe(Network(tiny), folder, tmp_path / "study", "other")
        subspect.decompose(study, 2)
    observe(Network(tiny), folder, tmp_path / "study", "test")  # the lock is free again


# Labels ---------------------------------------------------------------------------------------------------------------


def test_without_labels_predictions_stand_in(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in make_folder(each=30).rglob("*.png"):
        shutil.copy(path, flat / f"{path.parent.name}{path.name}")
    with caplog.at_level("WARNING"):
        study = observe(Network(tiny), flat, tmp_path / "study")
    assert "labels: none; the largest of the network's 3 outputs is taken as each image's class" in caplog.text
    assert "for multi-label or regression outputs this, and every figure based on it, is meaningless" in caplog.text
    assert not study.image_set("train").labelled
    chunk = next(study.image_set("train").chunks())
    assert np.array_equal(chunk.labels, chunk.predictions)
    fidelity = subspect.evaluate(study, subspect.decompose(study, 2))
    assert "no labels: the dense network's own predictions stand in" in fidelity.note
    assert fidelity.overall.dense_accuracy.value == 1
    assert fidelity.overall.accuracy == fidelity.overall.fidelity


def test_later_sets_are_matched_by_the_first_ones_names(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    observe(Network(tiny), make_folder("train"), tmp_path / "study")
    some = make_folder("some", classes=("c", "a"))
    study = observe(Network(tiny), some, tmp_path / "study", "some")
    chunk = next(study.image_set("some").chunks())
    assert {id[0]: int(label) for id, label in zip(chunk.ids, chunk.labels, strict=True)} == {"a": 0, "c": 2}
    with pytest.raises(SubspectError, match="1 of 1 class folders or labels are not among the network's 3 class names"):
        observe(Network(tiny), make_folder("other", classes=("dog",)), tmp_path / "study", "other")


def test_a_run_begun_again_matches_labels_as_at_first(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, folder = subspect.Network(tiny), make_folder()
    whole = subspect.observe(network, folder, tmp_path / "whole").path / "sets/train/set.json"
    begun = subspect.observe(network, folder, tmp_path / "begun").path / "sets/train"
    for path in (begun / "set.json", begun / "00000.arrow"):  # killed before it came to them
        path.unlink()
    caplog.set_level("INFO")
    subspect.observe(network, folder, tmp_path / "begun")
    assert (begun / "set.json").read_bytes() == whole.read_bytes()
    subspect.observe(network, make_folder("test"), tmp_path / "begun", "test")
    (begun / "00000.arrow").unlink()
    caplog.clear()
    subspect.observe(network, folder, tmp_path / "begun")
    assert "labels: by sorted order" in caplog.text
    assert (begun / "set.json").read_bytes() == whole.read_bytes()


def test_folders_after_a_set_without_names(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    observe(Network(tiny), torch.rand(10, 3, 8, 8), tmp_path / "study", "unlabelled", batch_size=5)
    with pytest.raises(SubspectError, match="belongs to another preprocessing"):
        observe(Network(tiny), make_folder(), tmp_path / "study")
    flat = make_folder("flat") / "a"
    observe(Network(tiny), flat, tmp_path / "other", "flat")
    study = observe(Network(tiny), make_folder(), tmp_path / "other")
    assert study.identity.class_names == ("class 0", "class 1", "class 2")
    assert set(next(study.image_set("train").chunks()).labels) == {0, 1, 2}


def test_another_number_of_classes(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match=r"2 class folders or labels \(a, b\) for a network with 3 classes"):
        observe(Network(tiny), make_folder(classes=("a", "b")), tmp_path / "study")
    study = observe(Network(tiny), make_folder(), tmp_path / "study", class_map={"a": 2, "b": 0, "c": 1})
    assert study.identity.class_names == ("b", "c", "a")


class Pixel(nn.Module):
    """Classes are told apart by which channel is brightest: always right on the folders of the tests."""

    def __init__(self, order: tuple[int, int, int] = (0, 1, 2)) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3, bias=False)
        self.fc.weight.data = torch.eye(3)[list(order)] * 10
        self.preprocessing = PIXELS

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(x.mean((2, 3)))
        return out


def shifted() -> Pixel:
    return Pixel((1, 2, 0))


def test_accuracy_near_chance_is_pointed_out(
    make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder(each=30)
    observe(Network(Pixel()), folder, tmp_path / "right")
    assert "near chance" not in caplog.text
    observe(Network(shifted()), folder, tmp_path / "shifted")
    assert (
        "accuracy near chance: only 0 of 64 images tried first are classified correctly, with 3 classes" in caplog.text
    )
    assert caplog.text.count("near chance") == 1  # not again at the end
    assert (
        "Usual causes: the class folders are in a different order" in caplog.text and "are taken for" not in caplog.text
    )
    assert "isn't the one used in training; the weights are random, or of another training" in caplog.text


@pytest.mark.parametrize("given", [False, True])
def test_accuracy_near_chance_where_all_are_taken_for_one_class(
    given: bool, make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Pixel()
    torch.nn.init.zeros_(model.fc.weight)
    network = Network(model)
    network.weights_given = given
    observe(network, make_folder(each=30, classes=("a", "b", "c")), tmp_path / "study")
    assert (
        "of 64 images tried first are classified correctly, with 3 classes; 64 are taken for 'a'. Usual" in caplog.text
    )
    assert ("; the weights are random, or of another" in caplog.text) == given


@pytest.mark.parametrize("given", [False, True])
def test_accuracy_near_chance_of_weights_that_were_not_given(
    given: bool, make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file(shifted().state_dict(), weights)
    network = subspect.load_network(f"python:{__name__}:shifted", weights if given else None)
    observe(network, make_folder(each=30), tmp_path / "study")
    said = "Usual causes: no weights were given (--weights), so they may be random; the class folders are"
    assert "accuracy near chance" in caplog.text and (said in caplog.text) != given


def test_accuracy_near_chance_that_the_first_images_hide(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = np.zeros((3000, 2, 2, 3), np.uint8)
    images[..., 0] = 255
    labels = np.ones(3000, np.int64)
    labels[np.linspace(0, 2999, 64).round().astype(int)] = 0
    observe(Network(Pixel()), (images, labels), tmp_path / "study")
    assert (
        caplog.text.count("near chance") == 1
        and "Usual causes: the labels count the classes in a different order than the network does; the preprocessing (size"
        in caplog.text
        and "64 of 3,000 images of 'train' are classified correctly" in caplog.text
    )


# Refusals -------------------------------------------------------------------------------------------------------------


def test_another_network_is_refused(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    observe(Network(tiny), folder, tmp_path / "study")
    with pytest.raises(SubspectError, match="belongs to another network: it was made with 'Tiny'"):
        observe(Network(Tiny(seed=1)), folder, tmp_path / "study", "test")
    other = subspect.Preprocessing(resize=9, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(SubspectError, match="belongs to another preprocessing"):
        observe(Network(tiny, preprocessing=other), folder, tmp_path / "study", "test")
    with pytest.raises(SubspectError, match="belongs to other class names: class 0 is 'a' there, 'x' here"):
        observe(Network(tiny, class_names=["x", "b", "c"]), folder, tmp_path / "study", "test", class_map="sorted")


def test_another_head_is_refused(make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Two(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = self.conv(x).mean((2, 3))
            self.other(features)
            out: torch.Tensor = self.fc(features)
            return out

    model, folder = Two(), make_folder()
    observe(Network(model), folder, tmp_path / "study")
    with pytest.raises(SubspectError, match="belongs to another head: 'fc', but this is 'other'"):
        observe(Network(model, head="other"), folder, tmp_path / "study", "test")


def test_other_images_under_the_same_name(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe(Network(tiny), make_folder("one"), tmp_path / "study")
    with pytest.raises(
        SubspectError, match="image set 'train' in .* contains other images or labels: 24 .folder, .*but these are 27 "
    ):
        observe(Network(tiny), make_folder("two", each=9), tmp_path / "study")
    with pytest.raises(SubspectError, match="was begun with batch size 64, but 32 was given"):
        observe(Network(tiny), tmp_path / "one", tmp_path / "study", batch_size=32)
    moved = shutil.move(tmp_path / "one", tmp_path / "elsewhere")
    assert len(observe(Network(tiny), moved, tmp_path / "study").image_set("train")) == 24  # the same images, moved


def test_nan_features(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_shards(monkeypatch, 4)
    images = torch.rand(80, 3, 8, 8)
    first_tried = np.linspace(0, 79, 64).round()
    place = next(index for index in range(40, 80) if index not in first_tried)
    images[place, 0, 0, 0] = float("nan")
    message = f"1 of 80 images could not be used, more than the allowed share of 0.01: {place}: its features are NaN or"
    with pytest.raises(SubspectError, match=message):
        observe(Network(tiny), images, tmp_path / "study", batch_size=4)
    assert len(list((tmp_path / "study/sets/train").glob("*.arrow"))) == place // 4  # what was stored is kept
    study = observe(Network(tiny), images, tmp_path / "study", batch_size=4, max_failed=0.02)
    image_set = study.image_set("train")
    assert len(image_set) == 79 and image_set.manifest.failed == ((str(place), "its features are NaN or infinite"),)
    observe(Network(tiny), images[[one for one in range(80) if one != place]], tmp_path / "others", batch_size=4)
    assert np.allclose(image_set.whole().features, Study.open(tmp_path / "others").image_set("train").whole().features)


@pytest.mark.parametrize("bad", [1, 32])
def test_nan_features_among_the_images_tried_first(
    tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: int
) -> None:
    images = torch.rand(64, 3, 8, 8)
    images[2 : bad + 2, 0, 0, 0] = float("nan")
    told = f"features of {bad} of the 64 images tried first are NaN or infinite, first 2"
    if bad == 32:
        with pytest.raises(SubspectError, match=f"{told}, 3, 4, … .29 more.; check the network's weights"):
            observe(Network(tiny), images, tmp_path / "study", max_failed=1)
    else:
        assert len(observe(Network(tiny), images, tmp_path / "study", max_failed=0.1).image_set("train")) == 63
        assert f"{told}; such images are left out and listed, up to the share" in caplog.text


class Greedy(Tiny):
    """A network that runs out of memory above some number of images at once."""

    most = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(x)


def test_a_batch_that_memory_has_no_room_for_is_halved(
    make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, network = make_folder(each=11), Greedy()
    study = observe(Network(network), folder, tmp_path / "study", batch_size=8, layers="norm")
    assert "out of memory on 8 images at once: from now on the network gets 4; what is stored is cut" in caplog.text
    assert caplog.text.count("out of memory on 8 ") == 2 == caplog.text.count("out of memory on 4 ")  # tried, and run
    Greedy.most = 99
    try:
        whole = observe(Network(network), folder, tmp_path / "whole", batch_size=8, layers="norm")
    finally:
        Greedy.most = 3
    one, other = (each.image_set("train") for each in (study, whole))
    assert replace(one.manifest, shards={}) == replace(other.manifest, shards={})
    assert np.allclose(one.whole().features, other.whole().features, atol=1e-6)
    assert one.whole().ids == other.whole().ids


def test_memory_without_room_for_one_image(make_folder: MakeFolder, tmp_path: Path) -> None:
    class Full(Tiny):
        known = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.known:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
            self.known = True  # the head is found with two images
            return super().forward(x)

    network = Network(Full())
    message = r"out of memory on one image alone, \(1, 3, 8, 8\): take smaller images .*: \[enforce fail at"
    with pytest.raises(SubspectError, match=message):
        observe(network, make_folder(), tmp_path / "study", batch_size=8)


def test_other_errors_of_the_network_are_told(make_folder: MakeFolder, tmp_path: Path) -> None:
    class Broken(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 2:
                raise RuntimeError("something else")
            return super().forward(x)

    with pytest.raises(SubspectError, match="the network failed on a batch .* RuntimeError: something else"):
        observe(Network(Broken()), make_folder(), tmp_path / "study")


def test_a_network_without_a_linear_head(make_folder: MakeFolder, tmp_path: Path) -> None:
    class Headless(nn.Module):
        preprocessing = PIXELS

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    with pytest.raises(SubspectError, match=r"head not found: the logits \(2, 3\).*candidates: none with 3 outputs"):
        observe(Network(Headless()), make_folder(), tmp_path / "study")


def test_images_that_are_none(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder(each=20)
    (folder / "a" / "text.jpg").write_text("this is no picture")
    Image.new("RGB", (64, 64), "red").save(folder / "b" / "whole.jpg")
    (folder / "b" / "cut.jpg").write_bytes((folder / "b" / "whole.jpg").read_bytes()[:300])
    (folder / "b" / "whole.jpg").unlink()
    expected = (
        r"2 of 62 images could not be used, more than the allowed share of 0.01: "
        r".*a/text.jpg: not an image.*b/cut.jpg: .*; fix or remove them, or allow more with --max-failed; "
    )
    with pytest.raises(SubspectError, match=expected):  # of which nothing was stored
        observe(Network(tiny), folder, tmp_path / "study")
    study = observe(Network(tiny), folder, tmp_path / "study", max_failed=0.05)
    failed = dict(study.image_set("train").manifest.failed)
    assert set(failed) == {"a/text.jpg", "b/cut.jpg"} and "truncated" in failed["b/cut.jpg"].lower()
    assert len(study.image_set("train")) == 60 and "2 of 62 images could not be used" in caplog.text
    stays = "train stays, unfinished: once that is put right, the same command goes on from there"
    with pytest.raises(
        SubspectError, match=f"more than the allowed share of 0.01.*with --max-failed; .*{stays}$"
    ):  # again
        reseal(tmp_path / "study/sets/train/set.json", complete=False)
        observe(Network(tiny), folder, tmp_path / "study")


def test_no_image_can_be_used(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "1.png").write_text("text")
    with pytest.raises(SubspectError, match="no image of the 3 tried could be used: a/1.png: not an image"):
        observe(Network(tiny), tmp_path / "images", tmp_path / "study")


def test_sizes_that_differ(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    Image.new("RGB", (9, 9)).save(folder / "a" / "001.png")
    with pytest.raises(SubspectError, match="images of different sizes after preprocessing: .*give resize and crop"):
        observe(Network(tiny), folder, tmp_path / "study")


def test_a_single_image_is_enough(tiny: Tiny, tmp_path: Path) -> None:
    study = observe(Network(tiny), torch.rand(1, 3, 8, 8), tmp_path / "study")
    assert len(study.image_set("train")) == 1


def test_what_is_refused_leaves_no_folder(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match="2 class folders or labels"):
        observe(Network(tiny), make_folder(classes=("a", "b")), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_no_preprocessing(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    tiny.preprocessing = None  # type: ignore[assignment]
    with pytest.raises(
        SubspectError, match="does not declare its preprocessing and none was given: pass resize, crop, mean and std"
    ):
        observe(Network(tiny), make_folder(), tmp_path / "study")


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"workers": -1}, {"max_failed": 2}])
def test_numbers_out_of_range(tiny: Tiny, tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(SubspectError, match="expected batch_size ≥ 1, workers ≥ 0 and max_failed from 0 to 1"):
        observe(Network(tiny), torch.rand(2, 3, 8, 8), tmp_path, **wrong)  # type: ignore[arg-type]


def test_a_set_name_that_is_none(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match=r"image set name '\.\./x' must be letters, digits"):
        observe(Network(tiny), torch.rand(2, 3, 8, 8), tmp_path, "../x")


# Disks ----------------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000, 900, 100))
    with pytest.raises(SubspectError, match="not enough disk for the study .* needed, 0 MB free; free some space"):
        observe(Network(tiny), make_folder(), tmp_path / "study")


def test_a_disk_that_fills_up(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_shards(monkeypatch)
    original, calls = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 19:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SubspectError, match="the disk is full: could not write .*00.*arrow; free some space"):
        observe(Network(tiny), make_folder(each=20), tmp_path / "study", batch_size=8)
    monkeypatch.setattr(os, "fsync", original)
    stored = list((tmp_path / "study/sets/train").iterdir())
    assert len(stored) > 1 and not [path for path in stored if path.suffix == ".part"]
    assert len(observe(Network(tiny), tmp_path / "images", tmp_path / "study", batch_size=8).image_set("train")) == 60


def test_an_unwritable_study(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SubspectError, match="cannot write .*file.*is a file, not a folder; choose another place"):
        observe(Network(tiny), make_folder(), tmp_path / "file" / "study")


def test_a_read_only_disk(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(SubspectError, match="cannot write .*Read-only file system; choose a folder"):
        observe(Network(tiny), torch.rand(2, 3, 8, 8), tmp_path / "study")
