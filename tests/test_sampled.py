"""Random samples: of the size asked for, whatever the order, told in the log, known by the study; and names of images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils.data import Dataset, TensorDataset

import subspect
from commands import MODEL, command
from conftest import PIXELS, Tiny
from packed import dataset_of, labels_of, members_of, pixels_of, stored, write_parquet, write_tar
from subspect.ground.errors import SubspectError, Unusable
from subspect.images.folders import Files
from subspect.images.inputs import Inputs
from subspect.images.opening import open_images
from subspect.images.sampled import Sampled
from subspect.images.sources import Images

MakeFolder = Callable[..., Path]


def ids(images: Images) -> list[str]:
    return [images.id(index) for index in range(len(images))]


def test_a_sample_is_of_the_size_asked_for_and_in_order(make_folder: MakeFolder) -> None:
    folder = make_folder(each=20)
    whole, some = open_images(folder), open_images(folder, limit=30)
    assert len(some) == 30 and sorted(ids(some)) == ids(some) and set(ids(some)) < set(ids(whole))
    assert min(Counter(labels_of(some)).values()) >= 5  # over the whole set, not its first images
    assert set(ids(open_images(folder, limit=10))) < set(ids(some))
    assert ids(open_images(folder, limit=30)) == ids(some) != ids(open_images(folder, limit=30, limit_seed=1))
    assert ids(open_images(folder, limit=60)) == ids(open_images(folder, limit=600)) == ids(whole)


def test_a_sample_of_each_class(make_folder: MakeFolder) -> None:
    folder = make_folder(each=20)
    some = open_images(folder, limit_per_class=4)
    assert Counter(labels_of(some)) == {"a": 4, "b": 4, "c": 4}
    assert len(open_images(folder, limit_per_class=4, limit=5)) == 5
    assert set(ids(open_images(folder, limit_per_class=4, limit=5))) < set(ids(some))


def test_a_sample_does_not_depend_on_the_order(tmp_path: Path) -> None:
    names = [f"{name}/{index}.png" for name in "ab" for index in range(30)]
    one, two = (
        Sampled(Files("CSV", tmp_path, order, [name[0] for name in order]), 20, 15, 0) for order in (names, names[::-1])
    )
    assert ids(one) == ids(two)[::-1] and len(one) == 20


def test_a_sample_is_read_as_its_source(make_folder: MakeFolder) -> None:
    folder = make_folder()
    whole, some = open_images(folder), open_images(folder, limit=5)
    assert (some.kind, some.root, some.place, some.classes) == (whole.kind, whole.root, whole.place, whole.classes)
    for index in range(5):
        assert (
            some.read(index).digest
            == whole.given_with_digest(some.id(index))[1]
            == some.given_with_digest(some.id(index))[1]
        )
    [other] = {*ids(whole)} - {*ids(open_images(folder, limit=23))}
    with pytest.raises(Unusable, match="no image with id .* among 23"):
        open_images(folder, limit=23).given(other)


def test_a_sample_is_another_list_and_is_told(make_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_folder()
    with caplog.at_level(logging.INFO, "subspect"):
        some = open_images(folder, limit=5)
    assert "5 of 24 images are taken, drawn with seed 0" in caplog.text
    prints = [one.fingerprint(None) for one in (open_images(folder), some, open_images(folder, limit=5, limit_seed=1))]
    assert len(set(prints)) == 3 and open_images(folder, limit=5).fingerprint(None) == prints[1]


@pytest.mark.parametrize("name", ["limit", "limit_per_class"])
def test_limits_below_one(make_folder: MakeFolder, name: str) -> None:
    with pytest.raises(SubspectError, match=f"{name} must be at least 1; got 0"):
        open_images(make_folder(), **{name: 0})  # type: ignore[arg-type]


def test_images_per_class_need_labels_that_are_known() -> None:
    pixels = torch.zeros(4, 3, 8, 8)
    with pytest.raises(SubspectError, match="limit_per_class needs labels, and these images have none; give limit"):
        open_images(pixels, limit_per_class=1)
    dataset = TensorDataset(pixels, torch.tensor([0, 0, 1, 1]))
    assert len(open_images(dataset, limit=2)) == 2
    with pytest.raises(
        SubspectError, match=r"the labels of a dataset are known only once its images are read; pick the"
    ):
        open_images(dataset, limit_per_class=1)
    arrays = pixels, torch.tensor([0, 0, 1, 1])
    assert labels_of(open_images(arrays, limit_per_class=1)) == [0, 1]


@pytest.mark.parametrize("source", ["folder", np.zeros((2, 8, 8, 3), np.uint8)])
def test_sources_without_columns(make_folder: MakeFolder, source: Any) -> None:
    given = make_folder() if isinstance(source, str) else source
    with pytest.raises(
        SubspectError, match=r"(ndarray|a folder of images) has no columns; leave out image_column and label_c"
    ):
        open_images(given, label_column="label")


def test_columns_of_a_csv_are_named(make_folder: MakeFolder) -> None:
    path = make_folder() / "list.csv"
    path.write_text("File,kind\na/000.png,cat\n")
    images = open_images(path, image_column="file", label_column="kind")
    assert (ids(images), labels_of(images)) == (["a/000.png"], ["cat"])
    found = open_images(path, label_column="none")
    assert (ids(found), found.labelled) == (["a/000.png"], False)
    path.write_text("path,File,Target\na/000.png,x,cat\n")
    assert (ids(open_images(path)), labels_of(open_images(path))) == (["a/000.png"], ["cat"])
    path.write_text("img,File,kind\na/000.png,x,cat\n")
    with pytest.raises(
        SubspectError, match=r"list\.csv has several columns that could be 'path': img, file; name one with"
    ):
        open_images(path)
    path.write_text("File,kind\na/000.png,cat\n")
    with pytest.raises(
        SubspectError, match=r"list\.csv has no column 'flie' \(did you mean 'file'\?\); its columns are fi"
    ):
        open_images(path, image_column="flie")


class Dicts(Dataset[Any]):
    def __init__(self, **values: Any) -> None:
        self.values = values

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: one[index] for name, one in self.values.items()}


def test_items_of_a_dataset_may_be_dicts() -> None:
    pixels, labels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8), torch.tensor([2, 0, 1])
    images = open_images(Dicts(img=pixels, label=labels, note=["a", "b", "c"]))
    assert images.labelled and [images.read(index).label for index in range(3)] == [2, 0, 1]
    assert np.array_equal(pixels_of(images), pixels)
    assert not open_images(Dicts(pixel_values=torch.zeros(3, 3, 8, 8), label=labels), label_column="none").labelled
    two = Dicts(left=pixels, right=pixels, label=labels)
    assert open_images(two, image_column="right").read(0).label == 2
    with pytest.raises(
        SubspectError, match=r"an item of the Dataset has several columns of images: left \(ndarray\), "
    ):
        open_images(two)
    with pytest.raises(SubspectError, match="an example given by name is empty; give what the network takes, such as"):
        open_images(Dicts(label=labels))
    tokens = open_images(Dicts(input_ids=torch.arange(6).reshape(3, 2), label=labels)).read(1)
    assert isinstance(tokens.image, Inputs) and list(tokens.image.tensors) == ["input_ids"] and tokens.label == 0
    with pytest.raises(SubspectError, match=r"an item of the Dataset has no column 'lable' \(did you mean 'label'\?\)"):
        open_images(two, image_column="left", label_column="lable")
    with pytest.raises(
        SubspectError, match=r"the Dataset's items are tuple, not dicts, so that they have no columns; leave"
    ):
        open_images(TensorDataset(torch.zeros(3, 3, 8, 8)), label_column="label")


def packed(kind: str, folder: Path, tmp_path: Path) -> str:
    """Write the images of a folder as another kind of source, and return its name."""
    if kind == "wds":
        return f"wds:{write_tar(tmp_path / 'w/a.tar', members_of(folder))}"
    if kind == "wds, zipped":
        return f"wds:{write_tar(tmp_path / 'w/a.tar.gz', members_of(folder), 'w:gz')}"
    if kind == "parquet":
        return str(write_parquet(tmp_path / "p/a.parquet", folder))
    if kind == "hfds":
        dataset_of(folder).save_to_disk(tmp_path / "saved")
        return f"hfds:{tmp_path}/saved"
    images = open_images(folder)
    pixels = np.stack([np.asarray(images.read(index).image) for index in range(len(images))])
    np.savez(tmp_path / "a.npz", images=pixels, labels=[index // 8 for index in range(len(images))])
    return str(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", ["wds", "parquet", "hfds", "npz"])
def test_a_study_shows_its_images_again(
    make_folder: MakeFolder, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = packed(kind, make_folder(), tmp_path)
    network = subspect.Network(Tiny())
    study = subspect.observe(network, name, tmp_path / "study", show_progress=False)
    decomposition = study.decompose(k=2)
    report = decomposition.report(tmp_path / "report.html", network=network)
    shown = report.read_text(encoding="utf-8")
    assert shown.count("data:image/webp") > 6 and "could not be read again" not in shown
    image = next((tmp_path / "images").rglob("*.png"))
    assert any(near.picture is not None for near in decomposition.explain(network, image).neighbours)
    for path in tmp_path.glob("*"):
        if path.name in ("w", "p", "saved", "a.npz"):
            path.rename(tmp_path / f"moved-{path.name}")
    caplog.clear()
    decomposition.report(tmp_path / "second.html", network=network)
    assert "could not be read again from " in caplog.text
    moved = name.replace(f"{tmp_path}/", f"{tmp_path}/moved-")
    assert decomposition.report(tmp_path / "third.html", network=network, images=moved).read_text() == shown


def test_other_images_in_the_same_place_are_not_shown(make_folder: MakeFolder, tmp_path: Path) -> None:
    place = f"wds:{write_tar(tmp_path / 'a.tar', members_of(make_folder()))}"
    study = subspect.observe(subspect.Network(Tiny()), place, tmp_path / "study", show_progress=False)
    write_tar(tmp_path / "a.tar", members_of(make_folder("others", seed=5)))
    shown = study.decompose(k=2).report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "could not be read again" in shown and "data:image/webp" not in shown


@pytest.mark.parametrize("kind", ["wds", "wds, zipped", "parquet", "hfds"])
def test_what_was_stopped_goes_on_with_the_same_bytes(
    make_folder: MakeFolder, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subspect.studies.shards._SHARD_IMAGES", 8)
    name = packed(kind, make_folder(), tmp_path)
    expected = stored(name, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    stored(name, stopped)
    (stopped / "sets/train/00001.arrow").unlink()  # as if it had been killed before
    again = stored(name, stopped)
    assert again == expected
    for path in (tmp_path / "whole").rglob("*.arrow"):
        assert path.read_bytes() == (stopped / path.relative_to(tmp_path / "whole")).read_bytes()


def test_the_options_of_the_command_line(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(MODEL)
    folder = make_folder(each=20)
    name, extra = packed("wds", folder, tmp_path), write_parquet(tmp_path / "p.parquet", folder, other=[b""] * 60)
    command(
        f"run python:model.py:declared {name} --test {extra} -o study -k 2 --limit-per-class 9 --image-column png", 1
    )
    options = "--image-column image --label-column none --limit 7 --limit-seed 3"
    command(f"observe python:model.py:declared {extra} -o study --name test {options}")
    command(f"run python:model.py:declared {name} -o study -k 2 --limit-per-class 9")
    study = subspect.open_study(tmp_path / "study")
    train, test = (study.image_set(name).manifest for name in ("train", "test"))
    assert (train.images, train.kind, train.root, train.image_column) == (27, "WebDataset", name, None)
    assert (test.images, test.labelled, test.image_column) == (7, False, "image")
    assert [*next(study.image_set("test").chunks()).ids] == ids(
        open_images(extra, image_column="image", limit=7, limit_seed=3)
    )
    again = command(f"observe python:model.py:declared {name} -o study --limit-per-class 8", 1)
    assert "contains other images or labels: 27 (WebDataset," in " ".join(again.output.replace("│", " ").split())


def test_a_study_shows_which_table_and_which_sample_it_is_of(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path
) -> None:
    folder = make_folder("train", each=9)
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("*.png"))]
    (folder / "list.csv").write_text("\n".join(["path,label", *rows]))
    network = subspect.Network(tiny, preprocessing=PIXELS)
    images = open_images(folder / "list.csv", limit=12, limit_seed=3)
    study = subspect.observe(network, images, tmp_path / "study", show_progress=False)
    manifest = study.image_set("train").manifest
    assert (manifest.root, manifest.table, manifest.sample) == (str(folder), "list.csv", "12 of 27, drawn with seed 3")
    assert open_images(folder, limit=27).sample == ""
    Console(file=(text := StringIO()), width=300).print(*study.tables())
    assert f"12 images (CSV, {folder}/list.csv; a sample, 12 of 27, drawn with seed 3); labels: by " in text.getvalue()
    write_parquet(tmp_path / "p.parquet", folder)
    assert subspect.open_images(tmp_path / "p.parquet").table is None


def test_another_sample_of_the_same_folder_is_told(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder, network = make_folder("train", each=9), subspect.Network(tiny, preprocessing=PIXELS)
    subspect.observe(network, open_images(folder, limit=12), tmp_path / "study", show_progress=False)
    with pytest.raises(SubspectError, match="as many of the same place: another sample by --limit, other columns"):
        subspect.observe(network, open_images(folder, limit=12, limit_seed=1), tmp_path / "study", show_progress=False)
