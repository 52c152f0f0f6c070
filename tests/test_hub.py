"""Data sets of Hugging Face, in memory, in a folder and by name from the cache; nothing here asks a network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

import subspect
from packed import dataset_of, features_equal, files_of, labels_of, stored, write_parquet
from subspect.ground.errors import MissingExtra, SubspectError, Unusable
from subspect.images.opening import open_images, reopened_images

datasets = pytest.importorskip("datasets")
MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


@pytest.fixture
def folder(make_folder: MakeFolder) -> Path:
    return make_folder()


@pytest.fixture
def saved(folder: Path, tmp_path: Path) -> Path:
    """A folder of two splits, as save_to_disk writes it."""
    whole = dataset_of(folder)
    datasets.DatasetDict(train=whole, test=whole.select(range(5))).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def cached(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a data set that is in the cache, as if it had been fetched."""
    write_parquet(tmp_path / "digits/train-00000-of-00001.parquet", folder)
    write_parquet(tmp_path / "digits/test-00000-of-00001.parquet", folder, 0, 6)
    datasets.load_dataset(str(tmp_path / "digits"), cache_dir=str(tmp_path / "cache"))
    (tmp_path / "cache/digits").rename(tmp_path / "cache/somebody___digits")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_CACHE_HOME", tmp_path / "cache")
    return "somebody/digits"


@pytest.mark.parametrize("workers", [0, 2])
def test_features_of_a_dataset_are_those_of_the_folder(folder: Path, saved: Path, tmp_path: Path, workers: int) -> None:
    expected = stored(folder, tmp_path / "a")
    assert features_equal(stored(dataset_of(folder), tmp_path / "b", workers=workers), expected)
    assert features_equal(stored(f"hfds:{saved}[train]", tmp_path / "c", workers=workers), expected)


def test_a_dataset_simply_works(folder: Path, tmp_path: Path) -> None:
    images = open_images(dataset_of(folder))
    assert (images.kind, images.labelled, images.classes, images.place) == ("Hugging Face", True, ("a", "b", "c"), None)
    assert labels_of(images) == [name for _, name, _ in files_of(folder)]
    assert images.given_with_digest("7")[1] == open_images(folder).read(7).digest
    with pytest.raises(Unusable, match="no image with id '24' among 24"):
        images.given("24")


def test_what_was_selected_and_shuffled_is_taken_as_it_is(folder: Path) -> None:
    picked = dataset_of(folder).shuffle(seed=1).select([3, 1, 20])
    images, files = open_images(picked), open_images(folder)
    rows = [row["label"] for row in picked.select_columns(["label"])]
    assert labels_of(images) == ["abc"[label] for label in rows]
    known = {files.read(index).digest: files.label(index) for index in range(24)}
    assert [known[images.read(index).digest] for index in range(3)] == labels_of(images)
    assert images.fingerprint(None) != open_images(dataset_of(folder)).fingerprint(None)


def test_a_loader_of_a_dataset(folder: Path) -> None:
    assert len(open_images(DataLoader(dataset_of(folder)))) == 24


def test_datasets_of_several_kinds(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = dataset_of(folder)
    twice = whole.add_column("coarse_label", whole["label"], feature=whole.features["label"])
    twice = twice.rename_column("label", "fine_label")
    with pytest.raises(
        SubspectError, match=r"a DatasetDict has several splits: train; pass one of them, as in datasets\["
    ):
        open_images(datasets.DatasetDict(train=whole))
    with pytest.raises(SubspectError, match=r"an IterableDataset can only be iterated; .*without streaming=True"):
        open_images(whole.to_iterable_dataset())
    with pytest.raises(SubspectError, match=r"no images in the data set: its columns are label \(int64\); expected"):
        open_images(whole.select_columns(["label"]))
    with pytest.raises(
        SubspectError, match=r"the data set has no column 'imag' \(did you mean 'image'\?\); its columns are"
    ):
        open_images(whole, image_column="imag")
    with pytest.raises(
        SubspectError, match=r"several columns of labels: fine_label \(3 classes\), coarse_label \(3 cl"
    ):
        open_images(twice)
    with caplog.at_level(logging.WARNING, "subspect"):
        assert len(open_images(whole.with_transform(lambda rows: rows))) == 24
    assert "the transform of the data set is left out" in caplog.text


def test_a_label_of_minus_one_is_none(folder: Path) -> None:
    whole = dataset_of(folder)
    blind = whole.remove_columns("label").add_column("label", [-1] * 24, feature=whole.features["label"])
    assert not open_images(blind).labelled


def test_splits(saved: Path) -> None:
    assert len(open_images(f"hfds:{saved}[test]")) == len(open_images(f"hfds/{saved}[test]")) == 5
    assert open_images(f"hfds:{saved}[test]").place == f"hfds:{saved}[test]"
    with pytest.raises(
        SubspectError, match=r"saved has several splits; its splits are train, test: give hfds:.*\[train\], s"
    ):
        open_images(f"hfds:{saved}")
    with pytest.raises(
        SubspectError, match=r"saved has no split 'tset' \(did you mean 'test'\?\); its splits are train, test"
    ):
        open_images(f"hfds:{saved}[tset]")
    assert len(open_images(f"hfds:{saved}/test")) == 5
    with pytest.raises(SubspectError, match=r"has no splits, so that there is no 'val'; give hfds:"):
        open_images(f"hfds:{saved}/test[val]")


def test_folders_that_hold_no_data_set(folder: Path, saved: Path) -> None:
    with pytest.raises(
        SubspectError, match=r"is not a data set that save_to_disk wrote .* for Parquet files give parquet:"
    ):
        open_images(f"hfds:{folder}")
    next((saved / "train").glob("*.arrow")).write_bytes(b"damaged")
    with pytest.raises(SubspectError, match=r"hfds:.*saved cannot be loaded: \w+: "):
        open_images(f"hfds:{saved}[train]")


def test_a_name_in_the_cache_is_read_without_a_network(cached: str, folder: Path, tmp_path: Path) -> None:
    made = stored(f"hfds:{cached}[train]", tmp_path / "b")
    assert features_equal(made, stored(folder, tmp_path / "a"))
    assert len(open_images(f"hfds:{cached}:default[test]")) == 6
    with pytest.raises(SubspectError, match=r"hfds:somebody/digits has no split 'val'; its splits are"):
        open_images(f"hfds:{cached}[val]")


@pytest.mark.parametrize("set", [True, False])
def test_a_name_that_is_not_in_the_cache_is_said_at_once(monkeypatch: pytest.MonkeyPatch, set: bool) -> None:
    asked: list[str] = []

    class Silent:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", set)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", set)
    monkeypatch.setattr("huggingface_hub.get_session", Silent)
    reason = "HF_HUB_OFFLINE is set" if set else r".* does not answer: OSError: no route"
    with pytest.raises(
        SubspectError,
        match=rf"^hfds:somebody/none is not on this machine and cannot be fetched \({reason}\); run this once where .*hfds:",
    ):
        open_images("hfds:somebody/none")
    assert len(asked) == (not set)
    assert datasets.config.HF_HUB_OFFLINE is set


@pytest.mark.parametrize("name", ["a b", "a/b/c", "a:b:c", "x[train[:10]]"])
def test_names_that_no_data_set_can_have(name: str) -> None:
    with pytest.raises(
        SubspectError, match=r"is neither a folder nor the name of a data set: expected hfds:NAME, hfds:OWNER"
    ):
        open_images(f"hfds:{name}")


def test_paths_lead_outside_only_if_asked(folder: Path, tmp_path: Path) -> None:
    whole = datasets.Dataset.from_dict(
        {"image": [f"{folder}/a/000.png"]}, features=datasets.Features(image=datasets.Value("string"))
    )
    whole.save_to_disk(tmp_path / "saved")
    digest = open_images(folder).read(0).digest
    assert open_images(whole).read(0).digest == digest
    images = open_images(f"hfds:{tmp_path}/saved")
    with pytest.raises(SubspectError, match=r"000\.png in row 0 leads outside .*saved: to "):
        images.read(0)
    assert open_images(f"hfds:{tmp_path}/saved", outside=True).read(0).digest == digest


def test_a_study_asks_no_network_to_show_its_images(cached: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)

    def asked(*_: Any) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr("huggingface_hub.get_session", asked)
    again = reopened_images(f"hfds:{cached}[test]", None)
    assert again is not None and len(again) == 6
    with pytest.raises(SubspectError, match="cannot be fetched .this is read only from this machine."):
        reopened_images("hfds:somebody/none[test]", None)


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(
        MissingExtra, match=r"the data set hfds:x needs the package 'datasets'; install it.*\[datasets\]"
    ):
        open_images("hfds:x")


def test_a_dataset_goes_the_whole_way(folder: Path, tmp_path: Path, tiny: Any) -> None:
    job = subspect.run(subspect.Network(tiny), dataset_of(folder), tmp_path / "study", k=2, show_progress=False)
    assert job.report.read_text(encoding="utf-8").count("data:image/webp") > 6  # given again by run itself
