"""Networks of timm, torchvision and Hugging Face by name: random weights, local folders, nothing downloaded."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import subspect
from subspect import Network, Preprocessing, SubspectError, load_network
from subspect.ground import packages
from subspect.ground.errors import MissingExtra
from subspect.images.preprocessing import AnyPreprocessing, Transform
from subspect.images.processors import Processor
from subspect.networks.zoo import _timm_preprocessing, _torchvision_preprocessing

pytestmark = pytest.mark.usefixtures("zoos")
HALF: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def noise(width: int = 90, height: int = 70) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


class Harm:
    """What a pickle runs when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


# timm -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as timm saves one, of a small network for three classes."""
    import timm

    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "test_resnet",
        "num_classes": 3,
        "label_names": ["cat", "dog", "owl"],
        "pretrained_cfg": {**dict(model.pretrained_cfg), "num_classes": 3, "crop_mode": "border"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_timm_folder(timm_folder: Path) -> None:
    network = load_network(f"timm:local-dir:{timm_folder}")
    stored = load_file(timm_folder / "model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in network.model.state_dict().items())
    assert network.class_names == ("cat", "dog", "owl") and network.weights_given
    assert network.name == f"timm:local-dir:{timm_folder}"
    assert isinstance(network.preprocessing, Transform) and "crop_mode='border'" in str(network.preprocessing)
    assert network.find_head(torch.randn(2, 3, 160, 160)).name == "fc"


def test_timm_with_weights_of_a_file(timm_folder: Path) -> None:
    path = timm_folder / "model.safetensors"
    for spec in ("timm:test_resnet(num_classes=3)", f"timm:local-dir:{timm_folder}"):
        network = load_network(spec, path)
        stored = load_file(path)
        assert torch.equal(network.model.fc.weight, stored["fc.weight"])  # type: ignore[union-attr, arg-type]
    assert load_network("timm:test_resnet(num_classes=3)", path).class_names is None
    with pytest.raises(SubspectError, match="of another shape: fc.weight"):
        load_network("timm:test_resnet", path)
    with pytest.raises(
        SubspectError, match=r"for the network as it stands; .*--weights FILE.*, or add pretrained=False"
    ):
        load_network("timm:test_resnet(num_classes=3)")


@pytest.mark.parametrize(
    "spec",
    [
        "timm:test_resnet(num_classes=3, pretrained=False)",
        "torchvision:resnet18(weights=None, num_classes=3)",
        "torchvision:resnet18(num_classes=3, pretrained=False)",
    ],
)
def test_a_network_is_built_untrained(spec: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = load_network(spec)
    assert not network.weights_given and network.name == spec
    assert f"{spec} is built untrained: its weights are random, and others each time" in caplog.text
    caplog.clear()
    save_file(network.model.state_dict(), tmp_path / "w.safetensors")
    again = load_network(spec, tmp_path / "w.safetensors")
    assert again.weights_given and not caplog.text
    assert torch.equal(again.model.fc.weight, network.model.fc.weight)  # type: ignore[union-attr, arg-type]


def test_a_network_of_a_folder_is_built_untrained(hf_folder: Path) -> None:
    network = load_network(f"hf:{hf_folder}(pretrained=False)")
    assert not network.weights_given and network.class_names == load_network(f"hf:{hf_folder}").class_names


@pytest.mark.parametrize("said", ["pretrained=True", "weights='IMAGENET1K_V1'"])
def test_weights_are_no_argument(said: str) -> None:
    with pytest.raises(
        SubspectError, match=rf"got {said}; expected pretrained=False \(or weights=None\) for an untrained"
    ):
        load_network(f"torchvision:resnet18({said})")


def test_what_the_user_says_comes_first(timm_folder: Path) -> None:
    own = Preprocessing(resize=8, crop=8, **HALF)
    network = load_network(f"timm:local-dir:{timm_folder}", preprocessing=own, class_names=["a", "b", "c"], head="fc")
    assert network.preprocessing == own and network.class_names == ("a", "b", "c")
    assert network.find_head(torch.randn(2, 3, 160, 160)).name == "fc"


def test_timm_names_imagenet(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("test_resnet.r160_in1k")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    network = load_network("timm:test_resnet.r160_in1k", tmp_path / "w.safetensors")
    assert network.class_names is not None and len(network.class_names) == 1000
    assert network.class_names[0].startswith("tench")
    config = timm.data.resolve_model_data_config(model)
    assert network.preprocessing == Preprocessing(
        resize=int(160 / config["crop_pct"]),
        crop=160,
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
    )


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("resnet5", r"timm has no network 'resnet5' \(did you mean .*'resnet50'.*\) among its 1,\d+"),
        ("resnet50.a1_in1kk", r"no weights 'a1_in1kk' for resnet50 \(did you mean 'resnet50.a1_in1k'.*\); it has: "),
        ("timm/resnet50.a1_in1k", "by timm:hf-hub:timm/resnet50.a1_in1k, or a folder"),
        ("local-dir:nowhere", "no such folder: nowhere"),
        ("hf_hob:timm/x", "cannot be loaded: ValueError: Unknown model source"),
        ("resnet50d(num_classes=x)", "num_classes must be written out"),
        (
            "resnet50.a1_in1k",
            r"is not on this machine and cannot be fetched \(HF_HUB_OFFLINE is set\); .*--weights FILE",
        ),
        ("hf-hub:timm/resnet18.a1_in1k", r"cannot be fetched \(HF_HUB_OFFLINE is set\)"),
        ("tv_resnet50x", "no network 'tv_resnet50x'"),
    ],
)
def test_timm_has_no_such_thing(name: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(SubspectError, match=match):
        load_network(f"timm:{name}")


def test_a_folder_of_timm_runs_no_pickle(timm_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((timm_folder / "config.json").read_text())
    torch.save({"a": Harm(tmp_path / "harm")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SubspectError, match="cannot be loaded"):
        load_network(f"timm:local-dir:{tmp_path}")
    assert not (tmp_path / "harm").exists()


# torchvision ----------------------------------------------------------------------------------------------------------


def saved(name: str, folder: Path, **arguments: Any) -> Path:
    import torchvision

    path = folder / "weights.safetensors"
    save_file(torchvision.models.get_model(name, weights=None, **arguments).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "resize"),
    [("resnet18", 256), ("ResNet18_Weights.IMAGENET1K_V1", 256), ("ResNet50_Weights.IMAGENET1K_V2", 232)],
)
def test_torchvision_with_weights_of_a_file(name: str, resize: int, tmp_path: Path) -> None:
    path = saved("resnet50" if "50" in name else "resnet18", tmp_path)
    network = load_network(f"torchvision:{name}", path)
    assert torch.equal(network.model.fc.weight, load_file(path)["fc.weight"])  # type: ignore[union-attr, arg-type]
    assert network.class_names is not None and network.class_names[:2] == ("tench", "goldfish")
    assert network.preprocessing == Preprocessing(
        resize=resize, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )


def test_torchvision_for_other_classes(tmp_path: Path) -> None:
    path = saved("squeezenet1_1", tmp_path, num_classes=4)
    network = load_network("torchvision:squeezenet1_1(num_classes=4)", path)
    assert network.class_names is None and isinstance(network.preprocessing, Preprocessing)


def test_networks_that_scale_once_more_do_so_with_weights_of_a_file(tmp_path: Path) -> None:
    path = saved("googlenet", tmp_path, init_weights=False)
    assert load_network("torchvision:googlenet", path).model.transform_input


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("resnet500", r"no image classifier 'resnet500' \(did you mean .*'resnet50'"),
        ("fasterrcnn_resnet50_fpn", "no image classifier 'fasterrcnn_resnet50_fpn'"),
        ("ResNet50_Weight.IMAGENET1K_V2", r"no image classifier .*\(did you mean .*'ResNet50_Weights'"),
        ("ResNet50_Weights.IMAGENET1K_V3", r"has no 'IMAGENET1K_V3' \(did you mean 'IMAGENET1K_V[12]'"),
    ],
)
def test_torchvision_has_no_such_thing(name: str, match: str) -> None:
    with pytest.raises(SubspectError, match=match):
        load_network(f"torchvision:{name}")


def unreachable(*_: object, **__: object) -> None:
    raise OSError("no route")


def test_torchvision_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(
        SubspectError, match=r"not on this machine and cannot be fetched \(https://.*no route\); .*--weights"
    ):
        load_network("torchvision:resnet18")


def test_weights_that_torchvision_fetched_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    path = tmp_path / "checkpoints" / url.rpartition("/")[2]
    path.parent.mkdir()
    torch.save(torchvision.models.resnet18().state_dict(), path)
    network = load_network("torchvision:resnet18")
    assert torch.equal(network.model.fc.weight, torch.load(path)["fc.weight"])  # type: ignore[union-attr, arg-type]
    torch.save({"a": Harm(tmp_path / "harm")}, path)
    with pytest.raises(SubspectError, match="cannot be loaded"):
        load_network("torchvision:resnet18")
    assert not (tmp_path / "harm").exists()


# Hugging Face ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers saves one, of a small ResNet and its image processor."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    folder = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    names = dict(enumerate(("cat", "dog", "owl")))
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8],
        depths=[1, 1],
        id2label=names,
        label2id={one: key for key, one in names.items()},
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.9).save_pretrained(folder)
    return folder


def test_hugging_face_folder(hf_folder: Path) -> None:
    from transformers import AutoImageProcessor

    network = load_network(f"hf:{hf_folder}")
    stored = load_file(hf_folder / "model.safetensors")
    assert all(
        torch.equal(tensor, stored[name]) for name, tensor in network.model.state_dict().items() if name in stored
    )
    assert network.class_names == ("cat", "dog", "owl") and network.name == f"hf:{hf_folder}"
    assert isinstance(network.preprocessing, Transform)
    processor, image = AutoImageProcessor.from_pretrained(hf_folder), noise()
    pixels = network.preprocessing(image)
    assert torch.equal(pixels, processor(image, return_tensors="pt")["pixel_values"][0])
    assert '"crop_pct": 0.9' in str(network.preprocessing) and "ConvNextImageProcessor" in str(network.preprocessing)
    assert network.find_head(torch.stack([pixels, pixels.flip(-1)])).name == "classifier.1"


def test_an_image_processor_is_a_preprocessing(hf_folder: Path) -> None:
    from transformers import AutoImageProcessor, ViTImageProcessor

    model: nn.Module = load_network(f"hf:{hf_folder}").model
    processor = AutoImageProcessor.from_pretrained(hf_folder)
    network = Network(model, preprocessing=processor)
    again = Network(model, preprocessing=AutoImageProcessor.from_pretrained(hf_folder)).preprocessing
    other = Network(model, preprocessing=ViTImageProcessor(size={"height": 32, "width": 32})).preprocessing
    assert network.preprocessing is not None and again is not None and other is not None
    before = network.preprocessing.describe()
    assert network.preprocessing(noise()).shape == (3, 32, 32)
    assert network.preprocessing.describe() == before == again.describe() != other.describe()
    held = Processor(SimpleNamespace(image_processor=processor))
    assert repr(held) == str(network.preprocessing)


def test_a_processor_that_gives_something_else() -> None:
    class Odd:
        model_input_names = ("input_features",)

        def __call__(self, image: Image.Image, return_tensors: str) -> dict[str, Any]:
            return {"input_features": torch.zeros(1, 2)}

        def to_json_string(self) -> str:
            return "{}"

    network = Network(nn.Linear(2, 2), preprocessing=Odd())  # type: ignore[arg-type]
    assert network.preprocessing is not None
    with pytest.raises(SubspectError, match="Odd must give pixel_values .* got input_features: wrap it"):
        network.preprocessing(noise())


def test_hugging_face_with_weights_of_a_file(hf_folder: Path, tmp_path: Path) -> None:
    state = {name: tensor + 1 for name, tensor in load_file(hf_folder / "model.safetensors").items()}
    save_file(state, tmp_path / "w.safetensors")
    network = load_network(f"hf:{hf_folder}", tmp_path / "w.safetensors")
    assert torch.equal(network.model.state_dict()["classifier.1.bias"], state["classifier.1.bias"])
    assert network.class_names == ("cat", "dog", "owl") and network.preprocessing is not None
    own = Preprocessing(resize=8, crop=8, **HALF)
    assert load_network(f"hf:{hf_folder}", preprocessing=own).preprocessing == own


def test_a_hugging_face_folder_without_a_processor(
    hf_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((hf_folder / name).read_bytes())
    caplog.set_level(logging.INFO)
    assert load_network(f"hf:{tmp_path}").preprocessing is None
    assert "has no preprocessor_config.json, so it is not known how images are prepared: give --resize," in caplog.text


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_bars_are_drawn_unless_quiet(hf_folder: Path, capfd: pytest.CaptureFixture[str], quiet: bool) -> None:
    from transformers.utils import logging as bars

    logger = logging.getLogger("subspect")
    before = logger.level, bars.is_progress_bar_enabled()
    try:
        bars.enable_progress_bar()
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
        load_network(f"hf:{hf_folder}")
        assert ("Loading weights" in capfd.readouterr().err) != quiet and bars.is_progress_bar_enabled()
    finally:
        logger.setLevel(before[0])
        if not before[1]:
            bars.disable_progress_bar()


def test_a_folder_whose_name_is_misspelt(hf_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hf_resnet").mkdir()
    with pytest.raises(SubspectError, match=r"there is no folder hf_resne \(did you mean 'hf_resnet'\?\)$"):
        load_network("hf:hf_resne")
    with pytest.raises(
        SubspectError, match=r"no such folder: ./hf_resne \(looked in .*\) \(did you mean 'hf_resnet'\?\)$"
    ):
        load_network("hf:./hf_resne")


def test_a_hugging_face_folder_without_a_head(hf_folder: Path, tmp_path: Path) -> None:
    state = load_file(hf_folder / "model.safetensors")
    save_file(
        {name: one for name, one in state.items() if "classifier" not in name},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    (tmp_path / "config.json").write_bytes((hf_folder / "config.json").read_bytes())
    with pytest.raises(
        SubspectError, match=r"has no weights for classifier.1.bias, classifier.1.weight, which would be drawn"
    ):
        load_network(f"hf:{tmp_path}")


def test_a_hugging_face_folder_runs_no_pickle(hf_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((hf_folder / "config.json").read_bytes())
    torch.save({"a": Harm(tmp_path / "harm")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SubspectError, match="cannot be loaded"):
        load_network(f"hf:{tmp_path}")
    assert not (tmp_path / "harm").exists()


def test_a_hugging_face_folder_runs_no_code_of_its_own(hf_folder: Path, tmp_path: Path) -> None:
    config = json.loads((hf_folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForImageClassification": "net.Net", "AutoConfig": "net.Config"}
    config["model_type"] = "own"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "net.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')")
    with pytest.raises(SubspectError, match="cannot be loaded: ValueError"):
        load_network(f"hf:{tmp_path}")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("./nowhere", r"no such folder: ./nowhere \(looked in "),
        (
            "microsoft/resnet-50",
            r"cannot be fetched \(HF_HUB_OFFLINE is set\); .*name a folder that holds it, hf:FOLDER",
        ),
        ("two words", "cannot be loaded"),
    ],
)
def test_hugging_face_has_no_such_thing(name: str, match: str) -> None:
    with pytest.raises(SubspectError, match=match):
        load_network(f"hf:{name}")


# Packages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["timm:resnet18.a1_in1k", "timm:hf-hub:timm/resnet18.a1_in1k", "hf:microsoft/resnet-50"]
)
def test_nothing_is_tried_again_without_a_connection(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=unreachable))
    began = time.perf_counter()
    with pytest.raises(
        SubspectError, match=r"cannot be fetched \(https://huggingface.co does not answer: OSError: no route\)"
    ):
        load_network(spec)
    assert time.perf_counter() - began < 10
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(("scheme", "name"), [("timm", "timm"), ("torchvision", "torchvision"), ("hf", "transformers")])
def test_a_package_that_is_missing(scheme: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingExtra, match=rf"network {scheme}:x\(num_classes=3\) needs the package '{name}'; .*'.\[{scheme}\]'"
    ):
        load_network(f"{scheme}:x(num_classes=3)")


def test_a_torchvision_for_another_torch(monkeypatch: pytest.MonkeyPatch, hf_folder: Path) -> None:
    real = importlib.import_module

    def fails(name: str) -> Any:
        if name in ("torchvision", "timm"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name)

    monkeypatch.setattr("importlib.import_module", fails)
    for spec in ("torchvision:resnet18", "timm:resnet18", f"hf:{hf_folder}"):
        with pytest.raises(
            SubspectError, match=r"torchvision \S+ does not fit torch \S+ \(.*nms.*\); reinstall"
        ) as found:
            load_network(spec)
        assert str(found.value).endswith(
            "reinstall both from the same index: pip install --force-reinstall torch torchvision (with the same --index-url "
            "for both, if you use one)"
        )


def test_an_unknown_scheme_lists_those_there_are() -> None:
    with pytest.raises(
        SubspectError, match=r"'tim:x' is \(did you mean 'timm'\?\); expected .*timm:NAME, torchvision:NAME, hf:"
    ):
        load_network("tim:x")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("resnet50", r"it may be 'timm:resnet50', 'torchvision:resnet50'; name the one that is meant"),
        ("resnet50.a1_in1k", r"it may be 'timm:resnet50.a1_in1k'; name"),
        ("ResNet50_Weights.IMAGENET1K_V2", r"it may be 'torchvision:ResNet50_Weights.IMAGENET1K_V2'; name"),
        ("microsoft/resnet-50", r"it may be 'hf:microsoft/resnet-50'; name"),
        ("model.py:make", r"is \(did you mean 'python:model.py:make'\?\)"),
        ("pkg.module:make(a=1)", r"is \(did you mean 'python:pkg.module:make\(a=1\)'\?\)"),
        ("no such thing", r"'no such thing' is; expected"),
    ],
)
def test_a_name_without_a_scheme_is_told_its_readings(name: str, match: str) -> None:
    with pytest.raises(SubspectError, match=f"cannot tell what network .*{match}"):
        load_network(name)


def test_a_folder_without_a_scheme(hf_folder: Path) -> None:
    with pytest.raises(SubspectError, match=f"it may be 'hf:{hf_folder}', 'timm:local-dir:{hf_folder}'; name the one"):
        load_network(str(hf_folder))


def test_readings_where_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SubspectError, match="it may be 'torchvision:resnet50'; name the one that is meant"):
        load_network("resnet50")


def test_a_folder_that_is_named_as_a_repository(
    hf_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(hf_folder, tmp_path / "org" / "net")
    monkeypatch.chdir(tmp_path)
    assert load_network("hf:org/net").class_names == ("cat", "dog", "owl")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: f"cache/{name}/{file}")
    with pytest.raises(
        SubspectError, match=r"hf:org/net is a folder here and a repository .*; name the folder as hf:./org"
    ):
        load_network("hf:org/net")
    assert load_network("hf:./org/net").class_names == ("cat", "dog", "owl")


def test_what_pytorch_may_unpickle_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with packages.reading("x", hub=False, instead=""):
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1" and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


# Real photographs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(unpack: Callable[[str], Path]) -> list[Image.Image]:
    """Some that are square, and some of many shapes."""
    images = []
    for name in ("imagenette", "imagenet-one-per-class"):
        paths = [path for path in sorted(unpack(name).rglob("*.*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
        images += [Image.open(path).convert("RGB") for path in paths[:: len(paths) // 6]]
    assert len({image.size for image in images}) > 4
    return images


def furthest(
    preprocessing: AnyPreprocessing | None, own: Callable[[Image.Image], Any], images: list[Image.Image]
) -> float:
    """Return the largest difference of two tensors, in pixels' values from 0 to 255, whatever the normalisation."""
    assert preprocessing is not None and len(images) >= 5
    return max(float((preprocessing(image) - own(image)).abs().max()) for image in images)


@pytest.mark.parametrize(
    ("name", "expressed"),
    [
        ("resnet50.a1_in1k", True),
        ("resnet18.tv_in1k", True),
        ("vit_base_patch16_224.augreg_in21k_ft_in1k", True),
        ("convnext_tiny.fb_in22k_ft_in1k_384", True),
        ("eva02_tiny_patch14_336.mim_in22k_ft_in1k", True),
        ("beit_base_patch16_384.in22k_ft_in22k_in1k", True),
        ("mobilenetv3_large_100.ra_in1k", True),
    ],
)
def test_timm_prepares_photographs_as_timm_does(name: str, expressed: bool, photographs: list[Image.Image]) -> None:
    import timm

    config = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    ours = Network(nn.Linear(1, 2), preprocessing=_timm_preprocessing(timm, config)).preprocessing
    assert isinstance(ours, Preprocessing) == expressed
    assert furthest(ours, timm.data.create_transform(**config), photographs) <= 1 / 255


@pytest.mark.parametrize(
    ("changes", "expressed"),
    [
        ({"crop_mode": "squash"}, True),
        ({"crop_mode": "squash", "input_size": (3, 128, 192)}, True),
        ({"crop_mode": "border"}, False),
        ({"input_size": (3, 128, 192)}, False),
        ({"crop_pct": 1.2}, False),
        ({"interpolation": "hamming"}, False),
        ({"interpolation": "lanczos", "crop_pct": 1.0}, True),
        ({"input_size": (3, 97, 97), "crop_pct": 0.9}, True),
    ],
)
def test_timm_prepares_otherwise(changes: dict[str, Any], expressed: bool, photographs: list[Image.Image]) -> None:
    import timm

    config = {**timm.data.resolve_data_config({}, pretrained_cfg={"crop_pct": 0.95}), **changes}
    ours = Network(nn.Linear(1, 2), preprocessing=_timm_preprocessing(timm, config)).preprocessing
    assert isinstance(ours, Preprocessing) == expressed
    assert furthest(ours, timm.data.create_transform(**config), photographs) <= 1 / 255


def test_torchvision_prepares_photographs_as_torchvision_does(photographs: list[Image.Image]) -> None:
    import torchvision

    models = torchvision.models
    enums = [models.get_model_weights(name) for name in models.list_models(module=models)]
    found = {str(one.transforms()): one.transforms() for enum in enums for one in enum}
    for own in found.values():
        ours = Network(nn.Linear(1, 2), preprocessing=_torchvision_preprocessing(own)).preprocessing
        assert isinstance(ours, Preprocessing)
        assert furthest(ours, own, photographs[:5]) <= 1 / 255
    assert len(found) > 10


def test_a_study_of_a_named_network(hf_folder: Path, photographs: list[Image.Image], tmp_path: Path) -> None:
    for index, image in enumerate(photographs[:6]):
        path = tmp_path / "images" / ("cat", "dog", "owl")[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    study = subspect.observe(
        load_network(f"hf:{hf_folder}"), tmp_path / "images", tmp_path / "study", show_progress=False
    )
    assert f"hf:{hf_folder}" in (study.path / "study.json").read_text()
