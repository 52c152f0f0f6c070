"""A decomposed network as a Hugging Face folder: read back without subspect, its card, what is refused, and what is sent."""

from __future__ import annotations

import copy
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import subspect
from commands import command, parsed, said
from conftest import PIXELS, Tiny, write_images
from subspect import Decomposition, Network, Study, SubspectError, load_network
from subspect.giving.card import written
from subspect.giving.export import check_path
from subspect.ground.errors import MissingExtra
from subspect.ground.folders import whole_folder
from subspect.ground.text import legible

pytestmark = pytest.mark.usefixtures("zoos")
NAMES = ("cat", "dog", "owl")


def resnet(folder: Path, names: tuple[str, ...] | None = NAMES) -> Path:
    """Write a folder as transformers has them, of a small ResNet for three classes and its image processor."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    labels: dict[str, Any] = {"num_labels": 3}
    if names is not None:
        labels = {"id2label": dict(enumerate(names)), "label2id": {one: key for key, one in enumerate(names)}}
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 16], depths=[1, 1], **labels)
    ResNetForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.9).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Decomposition, Network]:
    folder = tmp_path_factory.mktemp("hub")
    network = load_network(f"hf:{resnet(folder / 'net')}")
    for seed, name in enumerate(("train", "test")):
        images = write_images(folder / name, classes=NAMES, each=15, seed=seed)
        study = subspect.observe(network, images, folder / "study", name, show_progress=False)
    study.name_features({n: f"f|{n} <b>" for n in range(16)})
    return study, study.decompose(k=3, show_progress=False), network


def test_a_folder_is_written_without_bars_where_only_warnings_are_wanted(
    made: tuple[Study, Decomposition, Network], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, decomposition, network = made
    logger, quiet = logging.getLogger("subspect"), logging.WARNING
    before = logger.level
    for level, drawn in ((quiet, False), (before, True)):
        try:
            logger.setLevel(level)
            decomposition.export(tmp_path / str(level), network=network, format="hf")
        finally:
            logger.setLevel(before)
        assert ("Loading weights" in capfd.readouterr().err) == drawn


def test_a_folder_that_transformers_reads(made: tuple[Study, Decomposition, Network], tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    study, decomposition, network = made
    done = decomposition.export(tmp_path / "small", network=network, format="hf")
    assert done.format == "hf" and done.pushed is None and done.times == {} and done.difference is not None
    assert done.decomposed.bytes == sum(path.stat().st_size for path in (tmp_path / "small").iterdir())
    shown = {path.name for path in (tmp_path / "small").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= shown
    read = AutoModelForImageClassification.from_pretrained(tmp_path / "small")
    assert read.config.id2label == dict(enumerate(NAMES))
    assert str(tmp_path.parent) not in (tmp_path / "small/config.json").read_text()
    weight, bias = decomposition.matrix()
    head = read.classifier[1]
    assert np.array_equal(head.weight.detach().numpy(), weight) and np.array_equal(head.bias.detach().numpy(), bias)
    assert (weight != 0).sum() == 9
    picture = Image.open(study.path.parent / "test/cat/000.png").convert("RGB")
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "small")(picture, return_tensors="pt")["pixel_values"]
    assert network.preprocessing is not None and torch.allclose(network.preprocessing(picture)[None], pixels)
    with torch.no_grad():
        wanted = decomposition.apply(network.model)(pixels).logits
        assert torch.allclose(read(pixels).logits, wanted, atol=1e-5)
    assert "not pushed" in done._repr_html_() and "read back by transformers" in done._repr_html_()
    again = load_network(f"hf:{tmp_path / 'small'}")  # and subspect reads it as any other
    assert again.class_names == NAMES and again.find_head(pixels.repeat(2, 1, 1, 1)).name == "classifier.1"
    assert not [path for path in tmp_path.iterdir() if path.name != "small"]


def test_the_card_says_what_decides_at_what_cost(made: tuple[Study, Decomposition, Network], tmp_path: Path) -> None:
    study, decomposition, network = made
    edited = decomposition.edit([("cat", int(decomposition.supports[0][0]))], refit_on="train").decomposition
    edited.export(tmp_path / "small", network=network, format="hf")
    card = (tmp_path / "small/README.md").read_text()
    front = card.split("---")[1]
    assert 'library_name: "transformers"' in front and 'pipeline_tag: "image-classification"' in front
    assert "base_model" not in front and str(study.path.parent) not in card  # a folder's place is nobody's business
    cost = edited.evaluate().overall
    assert f"| accuracy | {100 * cost.dense_accuracy.value:.2f} %" in card and "| fidelity |  |" in card
    assert f"{100 * cost.fidelity.value:.2f} %" in card and "45 images of 'test'" in card.replace("\\", "")
    for label, name in enumerate(NAMES):
        features = written(", ".join(f"{one} · f|{one} <b>" for one in edited.supports[label].tolist()))
        assert f"| {name} | {features} |" in card and "<b>" not in card
    assert "chosen by pursuit" in card and "re\\-learned on train" in card and "Edited:" in card
    assert 'AutoModelForImageClassification.from_pretrained("FOLDER")' in card


@pytest.mark.parametrize("text", ["a|b", "<script>", "[x](http://y)", "*_`#\\", "line\nbreak", "猫 кот", "\x1b[0m"])
def test_names_are_text_in_markdown(text: str) -> None:
    shown = written(text)
    assert "\n" not in shown and not re.search(r"(?<!\\)[|<>\[\]*_`#]", shown)
    assert re.sub(r"\\([^a-z0-9\s])", r"\1", shown) == legible(text)


def test_classes_without_names_get_those_of_the_study(tmp_path: Path) -> None:
    from transformers import AutoConfig

    network = load_network(f"hf:{resnet(tmp_path / 'net', None)}", class_names=("x", "y", "z"))
    images = write_images(tmp_path / "images", classes=("x", "y", "z"), each=8)
    study = subspect.observe(network, images, tmp_path / "study", show_progress=False)
    study.decompose(k=2, show_progress=False).export(tmp_path / "small", network=network, format="hf")
    assert AutoConfig.from_pretrained(tmp_path / "small").id2label == {0: "x", 1: "y", 2: "z"}
    assert cast(Any, network.model).config.id2label == {
        0: "LABEL_0",
        1: "LABEL_1",
        2: "LABEL_2",
    }  # the network given stays as it is


def test_a_sum_of_heads_and_no_processor(tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification, DeiTConfig, DeiTForImageClassificationWithTeacher

    torch.manual_seed(0)
    names = dict(enumerate("abc"))
    config = DeiTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        id2label=names,
        label2id={one: key for key, one in names.items()},
    )
    model = DeiTForImageClassificationWithTeacher(config).eval()
    with torch.no_grad():
        for one in model.parameters():  # else its two heads read the same
            one.add_(0.2 * torch.randn_like(one))
    network = Network(model, preprocessing=PIXELS)
    images = write_images(tmp_path / "images", each=12)
    study = subspect.observe(network, images, tmp_path / "study", show_progress=False)
    assert " | " in study.identity.head_name
    made = study.decompose(k=4, show_progress=False)
    done = made.export(tmp_path / "small", network=network, format="hf")
    assert done.difference is not None and done.difference < 1e-4
    assert "Images were prepared thus: " in (tmp_path / "small/README.md").read_text()
    read = AutoModelForImageClassification.from_pretrained(tmp_path / "small")
    weight, _ = made.matrix()
    layers = [read.cls_classifier, read.distillation_classifier]
    both = 0.5 * np.concatenate([layer.weight.detach().numpy() for layer in layers], axis=1)
    assert np.allclose(both, weight, atol=1e-6)


def test_what_cannot_be_written_leaves_nothing(
    made: tuple[Study, Decomposition, Network], study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, decomposition, network = made
    tiny = Network(Tiny(), class_names=("a", "b", "c"))
    with pytest.raises(
        SubspectError, match="holds a network of transformers, and this is Tiny; name the network as hf:"
    ):
        study.decompose(k=2, show_progress=False).export(tmp_path / "small", network=tiny, format="hf")
    (tmp_path / "there").mkdir()
    with pytest.raises(SubspectError, match="there is there already, as a folder; choose another name"):
        decomposition.export(tmp_path / "there", network=network, format="hf")
    with pytest.raises(SubspectError, match="'hf' takes the network itself"):
        decomposition.export(tmp_path / "small", format="hf")
    before = {path.name for path in tmp_path.iterdir()}

    from subspect.giving import hf_folder

    def broken(model: Any, _: tuple[str, ...]) -> None:
        with torch.no_grad():
            model.classifier[1].bias.add_(1)

    with monkeypatch.context() as patch:
        patch.setattr(hf_folder, "_name_classes", broken)
        with pytest.raises(
            SubspectError, match=r"differs from the decomposed network by 1\.00e\+00 in a logit when read"
        ):
            decomposition.export(tmp_path / "small", network=network, format="hf")
    with monkeypatch.context() as patch:
        patch.setattr(network.model.__class__, "save_pretrained", lambda self, folder: (folder / "config.json").touch())
        with pytest.raises(SubspectError, match="what was written cannot be read back, so nothing was kept"):
            decomposition.export(tmp_path / "small", network=network, format="hf")
    with monkeypatch.context() as patch:
        patch.setattr(network.model.__class__, "save_pretrained", lambda self, folder: 1 / 0)
        with pytest.raises(SubspectError, match="transformers cannot save this network: ZeroDivisionError"):
            decomposition.export(tmp_path / "small", network=network, format="hf")
    with monkeypatch.context() as patch:
        save = cast(Any, network.model.__class__).save_pretrained
        patch.setattr(network.model.__class__, "save_pretrained", lambda self, folder: save(_without(self), folder))
        with pytest.raises(SubspectError, match=r"lacks, or has besides, classifier\.1\.bias when read back"):
            decomposition.export(tmp_path / "small", network=network, format="hf")
    bare = _without(copy.deepcopy(network.model))
    with pytest.raises(SubspectError, match=r"the head 'classifier\.1' has no bias, so that a folder"):
        hf_folder._plain("classifier.1", decomposition.layer(), bare, bare)
    assert {path.name for path in tmp_path.iterdir()} == before


def _without(model: Any) -> Any:
    model.classifier[1].bias = None
    return model


def test_without_transformers(
    made: tuple[Study, Decomposition, Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, decomposition, network = made
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"writing a Hugging Face folder needs the package .*\.\[hf\]"):
        decomposition.export(tmp_path / "small", network=network, format="hf")


# The hub --------------------------------------------------------------------------------------------------------------


class Api:
    """The hub's client, which sends nothing and keeps what it was to send."""

    calls: list[tuple[str, dict[str, Any]]]
    fails: Exception | None

    def create_repo(self, repository: str, **options: Any) -> str:
        Api.calls.append(("create_repo", {"repo_id": repository, **options}))
        if Api.fails is not None:
            raise Api.fails
        return f"https://huggingface.co/{repository}"

    def upload_folder(self, **options: Any) -> None:
        Api.calls.append(("upload_folder", options))

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> type[Api]:
    import huggingface_hub

    Api.calls, Api.fails = [], None
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return Api


def test_nothing_is_sent_unless_it_is_asked_for(
    made: tuple[Study, Decomposition, Network], tmp_path: Path, api: type[Api]
) -> None:
    _, decomposition, network = made
    decomposition.export(tmp_path / "small", network=network, format="hf")
    assert not api.calls
    done = decomposition.export(tmp_path / "sent", network=network, format="hf", push_to="me/small")
    assert done.pushed == "https://huggingface.co/me/small" and "pushed to https://hugg" in done._repr_html_()
    (create, how), (upload, what) = api.calls
    assert (create, upload) == ("create_repo", "upload_folder") and what["folder_path"] == str(tmp_path / "sent")
    assert how == {"repo_id": "me/small", "repo_type": "model", "private": True, "exist_ok": False}
    assert what["repo_id"] == "me/small"


def test_a_push_that_fails_keeps_the_folder(
    made: tuple[Study, Decomposition, Network], tmp_path: Path, api: type[Api]
) -> None:
    _, decomposition, network = made
    api.fails = RuntimeError("409 you already created this repo\nmore")
    with pytest.raises(
        SubspectError, match=r"small is written, but could not be pushed to me/x: RuntimeError: 409 .*'hf upload'"
    ):
        decomposition.export(tmp_path / "small", network=network, format="hf", push_to="me/x")
    assert (tmp_path / "small/README.md").is_file() and len(api.calls) == 1


@pytest.mark.parametrize("name", ["small", "me/", "/x", "me/x/y", "../x", "me/x y", "https://huggingface.co/me/x"])
def test_what_is_no_repository_is_refused_before_the_work(
    name: str, made: tuple[Study, Decomposition, Network], tmp_path: Path, api: type[Api]
) -> None:
    _, decomposition, network = made
    with pytest.raises(SubspectError, match="a repository on the hub is called USER/NAME; got"):
        decomposition.export(tmp_path / "small", network=network, format="hf", push_to=name)
    assert not api.calls and not (tmp_path / "small").exists()


def test_only_a_folder_is_pushed(made: tuple[Study, Decomposition, Network], tmp_path: Path, api: type[Api]) -> None:
    with pytest.raises(
        SubspectError, match=r"only a folder of Hugging Face's is pushed to the hub: .* got 'safetensors'"
    ):
        made[1].export(tmp_path / "x.safetensors", push_to="me/x")
    assert not api.calls and not list(tmp_path.iterdir())


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command(made: tuple[Study, Decomposition, Network], tmp_path: Path, api: type[Api]) -> None:
    study = made[0]
    line = f"export {study.path} --network hf:{study.path.parent / 'net'} --decomposition pursuit-k3 --format hf"
    told = parsed(f"{line} -o {tmp_path / 'small'}")
    assert told["format"] == "hf" and told["pushed"] is None and not api.calls
    assert "is there already, as a folder" in said(f"{line} -o {tmp_path / 'small'}", 1)
    shown = command(f"{line} -o {tmp_path / 'sent'} --push-to me/small").stdout
    assert "pushed to https://huggingface.co/me/small" in " ".join(shown.split()).replace(".co /", ".co/")
    assert len(api.calls) == 2
    assert "is called USER/NAME" in said(f"{line} -o {tmp_path / 'no'} --push-to small", 1)
    assert "and hf, a folder of Hugging Face's" in said(f"export {study.path} -o {tmp_path / 'no'}", 1)


def test_export_of_other_things_has_no_folder() -> None:
    with pytest.raises(SubspectError, match=r"formats are onnx \(\.onnx\), torch \(\.pt2\)$"):
        check_path(Path("x"), "hf", {"onnx": ".onnx", "torch": ".pt2"})


# A folder, whole ------------------------------------------------------------------------------------------------------


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a/b") as part:
        (part / "x").write_text("x")
        assert part.parent == tmp_path / "a" and not (tmp_path / "a/b").exists()
    assert (tmp_path / "a/b/x").read_text() == "x" and [one.name for one in (tmp_path / "a").iterdir()] == ["b"]
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "c") as part:
        (part / "x").write_text("x")
        _ = 1 / 0
    with pytest.raises(SubspectError, match="is there already, as a folder"), whole_folder(tmp_path / "c") as part:
        (tmp_path / "c").mkdir()
    assert not list((tmp_path / "c").iterdir())
    with pytest.raises(SubspectError, match="is a file, not a folder"), whole_folder(tmp_path / "a/b/x/y"):
        pass
    with pytest.raises(SubspectError, match="the disk is full"), whole_folder(tmp_path / "d"):
        raise OSError(28, "No space left on device")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "c"]
    if os.geteuid():
        (tmp_path / "c").chmod(0o500)
        with pytest.raises(SubspectError, match="cannot write to"), whole_folder(tmp_path / "c/d"):
            pass


def test_the_folder_needs_no_subspect(made: tuple[Study, Decomposition, Network], tmp_path: Path) -> None:
    """A process that cannot import subspect reads it."""
    made[1].export(tmp_path / "small", network=made[2], format="hf")
    shutil.copytree(tmp_path / "small", tmp_path / "elsewhere")
    code = (
        "import sys; sys.modules['subspect'] = None\n"
        "import safetensors.torch, json\n"
        "print(sorted(safetensors.torch.load_file('model.safetensors'))[0])\n"
        "print(json.load(open('config.json'))['architectures'])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=True
    )
    assert told.stdout.splitlines() == ["classifier.1.bias", "['ResNetForImageClassification']"]
