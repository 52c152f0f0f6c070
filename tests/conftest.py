"""Small networks and images that tests share; nothing here downloads anything."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

import subspect
import subspect.choosing.options
from _torchvision import importable
from skips import NO_DATA
from skips import pytest_make_collect_report as pytest_make_collect_report
from skips import pytest_runtest_makereport as pytest_runtest_makereport
from subspect.ground.memory import keep_freed
from subspect.ground.seals import write_json
from subspect.studies.rows import Block

subspect.choosing.options.DRAWS = (
    4  # a choice is repeated on few halves unless told, before anything takes it as a default
)
os.environ["HF_HUB_OFFLINE"] = "1"
keep_freed()
torch.set_num_threads(1)  # tests run in parallel, one process a core
hypothesis.settings.register_profile("untimed", deadline=None)  # no test is one of time
hypothesis.settings.load_profile("untimed")

#: files that take longest, which come first, so that no process is left alone with one of them at the end
FIRST = (
    "test_real_data.py",
    "test_real_imagenet.py",
    "test_architectures.py",
    "test_shortcut.py",
    "test_examples.py",
    "test_tutorials.py",
    "test_quiz.py",
    "test_fuzz.py",
    "test_sizes.py",
    "test_refit.py",
)


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # else pytest-xdist begins with the files of most tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


PIXELS = subspect.Preprocessing(resize=None, crop=None, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a network take as long as it has multiplications, in any runtime: no test is one of time."""
    from subspect.giving.timing import Ratio, Time
    from subspect.shrinking.folded import folded

    def timed(self: Time, model: fx.GraphModule, place: int, batches: Sequence[int]) -> dict[int, Ratio]:
        (whole, _), (_, make) = self._made[0], self._made[place]
        small = folded(model)
        assert len(make(small)(self._pixels[:2])) == 2
        share = multiplications(small, self._pixels) / multiplications(whole, self._pixels)
        return {batch: Ratio(1, share, share, share, share) for batch in batches}

    monkeypatch.setattr(Time, "_timed", timed)


def multiplications(run: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor) -> int:
    """Return those that PyTorch counts for one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(pixels[:1])
    return int(counter.get_total_flops()) // 2


def reseal(path: Path, **changes: object) -> None:
    """Change fields of a manifest as a stranger would who knows how seals are made; None removes a field."""
    fields = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    write_json(path, {key: one for key, one in fields.items() if key != "checksum" and one is not None})


def unsealed(study: Path) -> None:
    """Turn a study into one of before checksums were kept."""
    for path in (study / "study.json", *study.glob("sets/*/set.json")):
        fields = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: one for key, one in fields.items() if key not in ("checksum", "head_checksum", "shards")}
        path.write_text(json.dumps({**kept, "schema": 1}), encoding="utf-8")
    for path in study.glob("sets/*/*.arrow"):
        table = pa.ipc.open_file(path).read_all().drop_columns(["digest"])
        about = json.loads(table.schema.metadata[b"subspect"])
        table = table.replace_schema_metadata({"subspect": json.dumps({"schema": 1, "failed": about["failed"]})})
        path.unlink()
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_batch(table.combine_chunks().to_batches()[0])
    for path in (study / "head.safetensors", *study.glob("decompositions/*.safetensors")):
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["subspect"])
        header.pop("checksum")
        if "schema" in header:
            header |= {"schema": 1, "name": path.stem}
        save_file(load_file(path), path, {"subspect": json.dumps(header)} if "schema" in header else None)


def cut(x: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], at: Sequence[int] = ()) -> list[Block]:
    """Cut images into blocks, at some places."""
    pieces = zip(np.split(x, at), np.split(labels, at), strict=True)
    return [Block(features, own, np.zeros_like(own)) for features, own in pieces]


class Tiny(nn.Module):
    """A convolution, global average pooling and a linear head; features may be negative."""

    def __init__(self, n_classes: int = 3, width: int = 6, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, width, 3)
            self.norm = nn.BatchNorm2d(width)
            self.fc = nn.Linear(width, n_classes)
        self.preprocessing = PIXELS

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.norm(self.conv(x)).tanh().mean((2, 3)))
        return out


@pytest.fixture(scope="session", autouse=True)
def short_turns() -> Iterator[None]:
    """Have networks timed for a moment only: how long they take says nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subspect.giving.timing._TURN", 0.001)
        yield


@pytest.fixture
def tiny() -> Tiny:
    return Tiny()


def write_images(folder: Path, classes: Sequence[str] = ("a", "b", "c"), each: int = 8, seed: int = 0) -> Path:
    """Write class folders of 8×8 random PNG images; the same images for the same seed."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        for index in range(each):
            pixels = generator.integers(0, 256, (8, 8, 3))
            pixels[..., label % 3] = pixels[..., label % 3] // 2 + 128
            path = folder / name / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write class folders of images into the test's own folder."""

    def make(name: str = "images", classes: tuple[str, ...] = ("a", "b", "c"), each: int = 8, seed: int = 0) -> Path:
        return write_images(tmp_path / name, classes, each, seed)

    return make


def write_study(folder: Path) -> subspect.Study:
    """Write images into train and test, and a study of the tiny network on them beside those."""
    network = subspect.Network(Tiny())
    for seed, (name, each) in enumerate((("train", 40), ("test", 15))):
        images = write_images(folder / name, each=each, seed=seed)
        study = subspect.observe(network, images, folder / "study", name, batch_size=16, show_progress=False)
    return study


@pytest.fixture(scope="session")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study and its images, made once, to be copied."""
    return write_study(tmp_path_factory.mktemp("observed")).path.parent


@pytest.fixture
def study(observed: Path, tmp_path: Path) -> subspect.Study:
    """A study of the tiny network on a train and a test set, whose images lie beside it."""
    shutil.copytree(observed, tmp_path, dirs_exist_ok=True)
    for name in ("train", "test"):
        reseal(tmp_path / "study" / "sets" / name / "set.json", root=str(tmp_path / name))
    return subspect.Study.open(tmp_path / "study")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data, or a skip with its reason."""
    folder = os.environ.get("SUBSPECT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip(NO_DATA)
    return Path(folder)


@pytest.fixture(scope="session")
def unpack(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Unpack an archive of the real data into a temporary folder, once a session."""
    done: dict[str, Path] = {}

    def take(name: str) -> Path:
        if name not in done:
            folder = tmp_path_factory.mktemp("data")
            with tarfile.open(data / f"{name}.tar") as archive:
                archive.extractall(folder, filter="data")
            done[name] = folder / name
        return done[name]

    yield take


@pytest.fixture(scope="session")
def zoos() -> Iterator[None]:
    """Have timm, torchvision and transformers importable, whatever torch torchvision was built for."""
    if not all(importlib.util.find_spec(name) for name in ("timm", "torchvision", "transformers")):
        pytest.skip("needs timm, torchvision and transformers: pip install -c constraints.txt -e '.[dev]'")
    kept = importable()
    yield
    del kept  # the operators are gone with it
