"""Statistics of all images and features of a sample: what is summed, what is chosen by it, kills, damage, what is said."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import subspect
from conftest import Tiny, reseal, write_images
from elsewhere import files, observing_slowly
from shuffled import Shuffled
from subspect import Network, Study, SubspectError, decompose, evaluate, observe
from subspect.choosing import influence
from subspect.choosing.boundary import Boundary
from subspect.choosing.of_all import OfAll, of_all
from subspect.cli import app
from subspect.ground.engines import using
from subspect.statistics.histograms import BINS, Histograms, edges_over
from subspect.statistics.nearness import FLOOR, SAMPLED, SHARPNESS, candidates
from subspect.studies.image_set import SUMMED
from subspect.studies.parts import hashed, in_part
from subspect.studies.rows import Rows, prints
from subspect.studies.summed import Sums, bytes_of_sums, read_sums
from subspect.studies.summing import summed_rows

MakeFolder = Callable[..., Path]
METHODS: tuple[dict[str, Any], ...] = (
    {"method": "contribution", "k": 3},
    {"method": "frequency", "k": 3},
    {"method": "frequency", "k": 0.5},
)


def network() -> Network:
    return Network(Tiny(width=12), name="Tiny")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Studies of the same images: features of all are kept, or statistics and a sample; each with a test set."""
    folder = tmp_path_factory.mktemp("statistics")
    for seed, (name, each) in enumerate((("train", 60), ("test", 20))):
        write_images(folder / name, each=each, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subspect.studies.shards._SHARD_IMAGES", 16)
        for study, how in (
            ("features", {}),
            ("all", {"keep": "statistics"}),
            ("some", {"keep": "statistics", "sample": 60}),
        ):
            for name in ("train", "test"):
                more: Any = how if name == "train" else {}
                observe(network(), folder / name, folder / study, name, batch_size=8, show_progress=False, **more)
    return folder


def opened(made: Path, name: str, tmp_path: Path) -> Study:
    """A copy of a study, whose images stay where they are."""
    return Study.open(shutil.copytree(made / name, tmp_path / name))


def sums_of(study: Study) -> Sums:
    return read_sums(study.image_set("train"))


# What is summed -------------------------------------------------------------------------------------------------------


def test_histograms_are_numpys() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(500, 4)).astype(np.float32)
    x[:, 3] = 2.5
    found = Histograms(edges_over(x))
    found.update(x[:200])
    other = Histograms(found.edges)
    other.update(x[200:])
    for feature, counts in enumerate(found.merge(other).counts):
        wanted, edges = np.histogram(x[:, feature].astype(np.float64), BINS)
        assert np.array_equal(counts, wanted) and np.allclose(edges, found.edges[feature])
    beyond = Histograms(found.edges)
    beyond.update(np.array([[-99, 99, 0, 0]], np.float32))
    assert beyond.counts[0, 0] == 1 and beyond.counts[1, -1] == 1  # the first and the last are open


def test_what_is_summed_is_of_all_images(made: Path) -> None:
    study, sums = Study.open(made / "features"), sums_of(Study.open(made / "some"))
    whole, (weight, bias) = study.image_set("train").whole(), (one.double().numpy() for one in study.head())
    x, logits = whole.features.astype(np.float64), whole.features @ weight.T + bias
    assert sums.moments.images == 180 and sums.done == Study.open(made / "some").manifest("train").n_shards
    assert np.allclose(sums.moments.products, x.T @ x) and np.allclose(sums.moments.sums, x.sum(axis=0))
    for label in range(3):
        assert np.allclose(sums.classes.means()[label], x[whole.labels == label].mean(axis=0))
        said = np.bincount(whole.predictions[whole.labels == label], minlength=3)
        assert np.array_equal(sums.confusion.counts[label], said)
    assert sums.calibration.images.sum() == 180 and sums.calibration.right.sum() == np.trace(sums.confusion.counts)
    for feature in range(12):
        best = sorted(range(180), key=lambda row: (-whole.features[row, feature], whole.ids[row]))[:8]
        assert sums.images.ids[:, feature].tolist() == [whole.ids[row] for row in best]
        assert np.array_equal(sums.histograms.counts[feature], np.histogram(x[:, feature], BINS)[0])
    digests = dict(zip(whole.ids, whole.digests, strict=True))
    assert sums.digests == {id: digests[id] for id in sums.images.ids.ravel().tolist()} and len(logits) == 180


@pytest.mark.parametrize("plenty", [False, True])
def test_gram_matrices_are_those_of_a_slow_sum(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plenty: bool
) -> None:
    monkeypatch.setattr("subspect.statistics.nearness.PLENTY", 100 if plenty else 1000)
    study = observe(network(), made / "train", tmp_path / "study", keep="statistics", sample=50, show_progress=False)
    sums, whole = sums_of(study), Study.open(made / "features").image_set("train").whole()
    weight, bias = (one.double().numpy() for one in study.head())
    margin = np.median([np.diff(np.sort(row @ weight.T + bias)[-2:]) for row in whole.features.astype(np.float64)])
    assert sums.plan.margin == pytest.approx(margin)
    for label in range(3):
        gram, moments, total = np.zeros((12, 12)), np.zeros(12), 0.0
        for row, hashes in zip(whole.features, prints(whole.features), strict=True):
            z = row.astype(np.float64) @ weight.T + bias
            near = np.exp(-abs(z[label] - np.delete(z, label).max()) / (SHARPNESS * margin))
            near = 0 if near < FLOOR else near
            chance = (int(hashes) >> 11) / 2**53 + (5**0.5 - 1) / 2 * label
            if plenty:
                near = max(near, SAMPLED) if near > SAMPLED * (chance % 1) else 0
            gram += near * np.outer(row, row.astype(np.float64))
            moments, total = moments + near * row * (z[label] - z.mean()), total + near
        assert np.allclose(sums.near.products[label], gram) and sums.near.weight[label] == pytest.approx(total)
        assert np.allclose(sums.near.moments[label], moments)


def test_the_sample_is_drawn_by_ids_and_says_nothing_of_parts(made: Path) -> None:
    chunk = Study.open(made / "some").image_set("train").whole()
    every = Study.open(made / "features").image_set("train").whole()
    wanted = hashed(every.ids, b"sample") < 60 / 180
    assert chunk.ids == [id for id, own in zip(every.ids, wanted, strict=True) if own]
    assert np.array_equal(chunk.features, every.features[wanted]) and 40 < len(chunk.ids) < 80
    ids = [f"{number}.png" for number in range(20_000)]
    assert abs(in_part(ids, "held out 20 %")[hashed(ids, b"sample") < 0.1].mean() - 0.2) < 0.03


def test_predictions_stand_in_for_labels(made: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted((made / "train").rglob("*.png")):
        shutil.copyfile(path, flat / f"{path.parent.name}{path.name}")
    sums = sums_of(observe(network(), flat, tmp_path / "study", keep="statistics", sample=60, show_progress=False))
    counts = sums.confusion.counts
    assert counts.sum() == 180 and np.array_equal(counts, np.diag(counts.diagonal()))


def test_shards_are_few_and_gram_matrices_of_plenty_of_images_take_half_a_gib() -> None:
    assert summed_rows(1_281_167, 2048, 64) == 20_032 and -(-1_281_167 // 20_032) == 64
    assert summed_rows(5000, 2048, 64) == 1024
    assert candidates(10**6, 10) == candidates(19_999, 1000) == 512
    assert 1000 * 8 * candidates(20_000, 1000) ** 2 <= 2**29 < 1000 * 8 * (candidates(20_000, 1000) + 1) ** 2
    assert candidates(10**7, 21_841) == 128


def test_the_disk_that_it_takes_is_foretold(made: Path, tmp_path: Path) -> None:
    size = (made / "some/sets/train" / SUMMED).stat().st_size
    thumbnails = sum(map(len, sums_of(Study.open(made / "some")).thumbnails.values()))
    assert abs(size - thumbnails - bytes_of_sums(3, 12, 180)) < 20_000


# What is chosen -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [*METHODS, {"k": 3}, {"k": 3, "refit": False}, {"k": "mean:2"}, {"k": "auto"}, {"k": 2, "pool": 4}]
)
def test_where_the_sample_is_all_images_the_answers_are_the_same(
    made: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    features, statistics = (opened(made, name, tmp_path) for name in ("features", "all"))
    one, other = (decompose(study, show_progress=False, **how) for study in (features, statistics))
    for label in range(3):
        assert sorted(one.supports[label].tolist()) == sorted(other.supports[label].tolist())
    assert np.allclose(one.matrix()[0], other.matrix()[0], atol=1e-5)
    a, b = evaluate(features, one).overall, evaluate(statistics, other).overall
    assert (a.accuracy, a.fidelity) == (b.accuracy, b.fidelity)
    assert np.allclose(one.frequency, other.frequency) and np.allclose(one.mean, other.mean)


@pytest.mark.parametrize("how", METHODS)
def test_counts_choose_among_all_images_whatever_the_sample(made: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    features, statistics = (opened(made, name, tmp_path) for name in ("features", "some"))
    one, other = (decompose(study, show_progress=False, **how) for study in (features, statistics))
    assert all(one.supports[label].tolist() == other.supports[label].tolist() for label in range(3))
    assert np.allclose(one.frequency, other.frequency) and np.allclose(one.mean, other.mean)


def test_the_first_choice_is_by_all_images(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features, statistics = (opened(made, name, tmp_path) for name in ("features", "some"))
    one = decompose(features, 3, refit=False, draws=0, show_progress=False)
    with caplog.at_level(logging.INFO, logger="subspect"):
        other = decompose(statistics, 3, refit=False, draws=0, show_progress=False)
        decompose(statistics, 3, draws=0, show_progress=False)
    assert "choice: by statistics of all 180 images; halves: on the sample of" in caplog.text
    assert (
        "first choice: by statistics of all 180 images; weights, choosing anew and halves: on the sample of"
        in caplog.text
    )
    assert np.allclose(one.matrix()[0], other.matrix()[0], atol=1e-5) and one.matrix()[0].any()


def test_problems_of_all_images_are_those_of_the_boundary(made: Path) -> None:
    study = Study.open(made / "features")
    weight, bias = (one.double().numpy() for one in study.head())
    boundary = Boundary(Rows(study.image_set("train")), weight, bias, stable=True)
    found = OfAll(sums_of(Study.open(made / "some")), (weight, bias), stable=True)
    for one, other in zip(boundary.each(lambda one: one), found.each(lambda one: one), strict=True):
        assert np.allclose(one.gram, other.gram) and np.allclose(one.moments, other.moments)
        assert one.weight == pytest.approx(other.weight) and one.target == pytest.approx(other.target)
        assert one.favour is not None and other.favour is not None and np.allclose(one.favour, other.favour)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {"k": 7, "method": "frequency"},
            "among the largest 7 was not counted of all images: frequency is that of the sample",
        ),
        ({"k": "auto"}, "k = 'auto': features are chosen on the sample of"),
        ({"k": 2, "target": "labels"}, "target 'labels': features are chosen on the sample of"),
    ],
)
def test_what_is_of_the_sample_is_said(
    made: Path, tmp_path: Path, how: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="subspect"):
        decompose(opened(made, "some", tmp_path), show_progress=False, draws=0 if "method" in how else 4, **how)
    assert said in caplog.text


def test_images_held_out_are_taken_out_of_the_statistics(made: Path, tmp_path: Path) -> None:
    features, statistics = (opened(made, name, tmp_path) for name in ("features", "some"))
    for study in (features, statistics):
        shutil.rmtree(study.path / "sets/test")
    sample, (weight, bias) = statistics.image_set("train"), (one.double().numpy() for one in statistics.head())
    held = sample.whole("held out 20 %").ids
    whole = of_all(sample, "all but 20 %", (weight, bias))
    every = features.image_set("train").whole()
    rest = every.at(~np.isin(every.ids, held))
    assert whole is not None and whole.moments.images == 180 - len(held) == whole.calibration.images.sum()
    assert np.allclose(whole.moments.products, rest.features.T.astype(np.float64) @ rest.features)
    wanted = Sums(whole.plan, whole.shape)
    wanted.update(rest, (weight, bias))
    assert np.allclose(whole.near.products, wanted.near.products)
    assert np.array_equal(whole.top.counts(3), wanted.top.counts(3))
    one = decompose(statistics, 3, method="contribution", show_progress=False)
    expected = influence.contribution(weight, wanted.classes, 3)
    assert all(np.array_equal(one.supports[label], expected[label]) for label in range(3))
    note = evaluate(statistics, one).note
    rows = len(sample)
    said = f"images of 'train' (a sample of {rows} of 180 images), the 20 % of it held out by a hash of the image's id"
    right = 100 * float((every.labels == every.predictions).mean())
    assert note == f"{len(held)} {said}; over all 180 images the dense network's accuracy is {right:.2f} %"
    note = evaluate(statistics, decompose(statistics, 3, hold_out=0, draws=0, show_progress=False)).note
    assert note.startswith(f"{rows} images of 'train' (a sample of {rows} of 180 images); these images took part")


def test_other_figures_say_that_they_are_of_a_sample(made: Path, tmp_path: Path) -> None:
    study = opened(made, "some", tmp_path)
    one, rows = decompose(study, 3, draws=0, show_progress=False), len(study.image_set("train"))
    of = f"images of 'train' (a sample of {rows} of 180 images)"
    assert subspect.geometry(study, one, on="train", points=50).note == f"{rows} {of}"
    assert subspect.selectivity(study, on="train").note.startswith(f"{rows} {of}")
    found = subspect.cues(study, one, network=network(), on="train", show_progress=False)
    assert f"{rows} of {rows} {of}" in found.note


def test_a_class_that_the_sample_lacks_keeps_its_row(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = tmp_path / "images"
    shutil.copytree(made / "train", images)
    ids = [f"c/{number:03d}.png" for number in range(60)]
    gone = [id for id, place in zip(ids, hashed(ids, b"sample"), strict=True) if place < 0.6]
    for id in gone:
        (images / id).unlink()
    study = observe(network(), images, tmp_path / "study", keep="statistics", sample=70, show_progress=False)
    assert 2 not in study.image_set("train").whole().labels
    one = decompose(study, 3, hold_out=0, show_progress=False)
    assert "classes of which the sample has no image keep their dense weights, 1 in all: c" in caplog.text
    assert one.unseen == (2,) and len(one.supports[2]) == 12
    assert decompose(study, 3, method="contribution", hold_out=0).unseen == ()


# Kills, engines, failures ---------------------------------------------------------------------------------------------


def test_killed_and_started_again_it_ends_with_the_same_bytes(made: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(made / "train", images)
    (images / "b" / "005.png").write_text("not an image")
    how: dict[str, Any] = {"keep": "statistics", "sample": 60, "max_failed": 0.1}
    observing_slowly(images, tmp_path / "whole", **how).communicate()
    seen: list[int] = []
    for _ in range(2):
        process = observing_slowly(images, tmp_path / "killed", pause=0.06, **how)
        before = seen[-1] if seen else -1
        while process.poll() is None and _done(tmp_path / "killed") <= before + 2:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        seen.append(_done(tmp_path / "killed"))
    assert 0 < seen[0] < seen[1] < 23
    (tmp_path / "killed/sets/train/00001.arrow").unlink()  # as after a damaged disk
    last = observing_slowly(images, tmp_path / "killed", **how)
    assert last.communicate() and last.returncode == 0
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    manifest = Study.open(tmp_path / "whole").manifest("train")
    assert manifest.failed[0][0] == "b/005.png" and manifest.seen == 179 and 40 < manifest.rows < 80


def _done(study: Path) -> int:
    """Return how many shards the statistics of an unfinished set sum, −1 before there are any."""
    try:
        opened = Study.open(study)
        return read_sums(opened.as_set("train", opened.manifest("train"))).done
    except SubspectError:
        return -1


def test_any_engine_sums_the_same(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.studies.shards._SHARD_IMAGES", 16)
    for name, seed in (("one", 0), ("two", 1)):
        with using(Shuffled(seed)):
            observe(
                network(),
                made / "train",
                tmp_path / name,
                batch_size=8,
                keep="statistics",
                sample=60,
                show_progress=False,
            )
        wanted = {path: data for path, data in files(made / "some").items() if path.startswith("sets/train")}
        assert {path: data for path, data in files(tmp_path / name).items() if path.startswith("sets/train")} == wanted


def test_layers_are_kept_of_the_sample(made: Path, tmp_path: Path) -> None:
    study = observe(
        network(), made / "train", tmp_path / "study", layers="all", keep="statistics", sample=60, show_progress=False
    )
    image_set = study.image_set("train")
    assert next(image_set.chunks(layers=["conv"])).layers["conv"].shape == (len(image_set), 12)


# Damage and refusals --------------------------------------------------------------------------------------------------


def test_damage_is_found_and_mended(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.studies.shards._SHARD_IMAGES", 16)
    study = opened(made, "some", tmp_path)
    path, whole = study.path / "sets/train" / SUMMED, files(study.path)
    assert subspect.verify(study).sound and not subspect.verify(study).notes
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(SubspectError, match="their checksum differs; delete it and run the same observe command again"):
        decompose(study, 3, method="contribution")
    assert [fault.path for fault in subspect.verify(study).faults] == [f"sets/train/{SUMMED}"]
    path.unlink()
    assert not subspect.verify(study).sound and study.unfinished == ["train"]
    missing = f"{SUMMED} is missing, for which all images are run again; run the same observe command again"
    assert missing in subspect.verify(study).faults[0].what
    with pytest.raises(SubspectError, match=f"image set 'train' in .* is unfinished: {missing}"):
        study.image_set("train")
    assert f"unfinished: {SUMMED} is missing" in str(study.tables()[0].columns[1]._cells)
    how: dict[str, Any] = {"batch_size": 8, "keep": "statistics", "sample": 60, "show_progress": False}
    observe(network(), made / "train", study.path, **how)
    assert files(study.path) == whole


def test_statistics_of_something_else_are_refused(made: Path, tmp_path: Path) -> None:
    study = opened(made, "some", tmp_path)
    path = study.path / "sets/train" / SUMMED
    shutil.copyfile(made / "all/sets/train" / SUMMED, path)
    reseal(study.path / "sets/train/set.json", statistics=subspect.ground.seals.file_checksum(path))
    with pytest.raises(SubspectError, match="is of another image set"):
        read_sums(study.image_set("train"))
    reseal(study.path / "sets/train/set.json", statistics=None)
    with pytest.raises(SubspectError, match="rows: .*, failed images: 0, of 180"):
        study.image_set("train")


@pytest.mark.parametrize("change", ["features", "shape", "missing", "hex", "ids"])
def test_files_that_hold_something_else_are_refused(made: Path, tmp_path: Path, change: str) -> None:
    from subspect.ground.seals import file_checksum, read_tensors, tensor_bytes

    study = opened(made, "some", tmp_path)
    path = study.path / "sets/train" / SUMMED
    tensors, header = read_tensors(path, "statistics")
    if change == "features":
        tensors["near.features"] = tensors["near.features"] + 99
    elif change == "shape":
        tensors["moments.products"] = tensors["moments.products"][1:]
    elif change == "missing":
        del tensors["top.images"]
    elif change == "hex":
        header["digests"][0] = "no hex"
    else:
        tensors["images.ids"] = tensors["images.ids"] + 999
    path.write_bytes(tensor_bytes(tensors, header))
    reseal(study.path / "sets/train/set.json", statistics=file_checksum(path))
    with pytest.raises(SubspectError, match="is not statistics of subspect"):
        read_sums(study.image_set("train"))


def test_what_cannot_be_asked_is_refused_by_name(made: Path, tmp_path: Path) -> None:
    study = opened(made, "some", tmp_path)
    with pytest.raises(
        SubspectError, match="leave --part out, and take --engine ray to have several processes at it; or keep features"
    ):
        observe(network(), made / "train", tmp_path / "new", keep="statistics", part="1/2")
    with pytest.raises(SubspectError, match=r"keep \(--keep\) must be one of features, statistics; got 'statistic'"):
        observe(network(), made / "train", tmp_path / "new", keep="statistic")  # type: ignore[arg-type]
    with pytest.raises(SubspectError, match="sample must be a whole number of at least 1, .*; got 0"):
        observe(network(), made / "train", tmp_path / "new", keep="statistics", sample=0)
    asked = (
        r"was begun to keep statistics \(--keep statistics\) and features of a sample of 60, but features \(--keep f"
    )
    with pytest.raises(SubspectError, match=asked):
        observe(network(), made / "train", study.path, batch_size=8)
    with pytest.raises(
        SubspectError, match=r"was begun to keep features \(--keep features\), but statistics \(--keep statist"
    ):
        observe(network(), made / "train", opened(made, "features", tmp_path).path, batch_size=8, keep="statistics")


def test_no_image_that_could_be_tried(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.studies.summing.spread", lambda source, most: [0])
    images = shutil.copytree(made / "train", tmp_path / "images")
    (images / "a/000.png").write_text("text")
    with pytest.raises(SubspectError, match="no image of the 1 tried could be used: a/000.png"):
        observe(network(), images, tmp_path / "study", keep="statistics", sample=9, max_failed=0.5, show_progress=False)


# What is shown --------------------------------------------------------------------------------------------------------


def test_show_and_export_say_what_is_kept(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = opened(made, "some", tmp_path)
    rows = len(study.image_set("train"))
    subspect.export_features(study, path=tmp_path / "out", format="tensorboard", show_progress=False)
    assert f"features of 'train' are kept of a sample of {rows} of 180 images: those alone are exported" in caplog.text
    shown = str(study.tables()[0].columns[1]._cells)
    assert (
        f"180 images (folder, {made / 'train'}), statistics of all and features of a sample of {rows}; labels" in shown
    )
    assert ", statistics of all and features of all; labels" in str(
        opened(made, "all", tmp_path).tables()[0].columns[1]._cells
    )


def test_that_thumbnails_are_kept_is_said(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="subspect"):
        study = observe(
            network(), made / "train", tmp_path / "study", keep="statistics", sample=60, show_progress=False
        )
    assert f"train: the study keeps thumbnails of {len(sums_of(study).thumbnails)} images" in caplog.text
    assert "180 images spread over the set run first: they show which statistics are worth summing" in caplog.text


def test_the_command_line(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.py").write_text("from conftest import Tiny\n\n\ndef make():\n    return Tiny(width=12)\n")
    monkeypatch.chdir(tmp_path)
    line = ["observe", "python:model.py:make", str(made / "train"), "-o", "study", "--keep", "statistics"]
    assert CliRunner().invoke(app, line).exit_code == 0
    assert Study.open(tmp_path / "study").manifest("train").sampled == 20_000


def test_the_report_shows_the_images_of_all(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = opened(made, "some", tmp_path)
    rows = len(study.image_set("train"))
    one = decompose(study, 3, draws=0, show_progress=False)
    page = subspect.write_report(study, one, show_progress=False).read_text()
    said = f"are of all that were observed, those in a class and outside it of a sample of {rows} of 180 images."
    assert said in page and "could not be read again" not in page
    assert f"180 images (folder), statistics of all and features of a sample of {rows}" in page
    for id in sums_of(study).images.ids[:6, int(one.supports[0][0])].tolist():
        assert f", {id}:" in page
    manifest = study.manifest("train")
    gone = replace(manifest, root=str(tmp_path / "gone"))
    reseal(study.path / "sets/train/set.json", root=gone.root)
    page = subspect.write_report(study, one, show_progress=False).read_text()
    assert "are shown by the thumbnails that the study keeps, since they could not be read again." in page
    assert page.count("data:image/jpeg;base64,") >= 6 * len(set(one.supports.flat.tolist()))


def test_images_in_memory_have_thumbnails_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    generator = np.random.default_rng(0)
    x, labels = generator.integers(0, 256, (90, 8, 8, 3)).astype(np.uint8), generator.integers(0, 3, 90)
    study = observe(network(), (x, labels), tmp_path / "study", keep="statistics", sample=40, show_progress=False)
    one = decompose(study, 2, hold_out=0, draws=0, show_progress=False)
    page = subspect.write_report(study, one, show_progress=False).read_text()
    assert "data:image/jpeg;base64," in page and "are shown by the thumbnails" in page
    assert "could not be read again from memory" in caplog.text and "give those that were observed" in caplog.text


def test_images_that_changed_meanwhile_have_no_thumbnail(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = shutil.copytree(made / "train", tmp_path / "images")
    import subspect.studies.summing as summing

    before = summing._thumbnails

    def change(digests: dict[str, bytes | None], *rest: Any) -> dict[str, bytes]:
        one, other = sorted(digests)[:2]
        Image.new("RGB", (8, 8)).save(images / one)
        (images / other).unlink()
        return before(digests, *rest)

    monkeypatch.setattr(summing, "_thumbnails", change)
    sums = sums_of(observe(network(), images, tmp_path / "study", keep="statistics", sample=60, show_progress=False))
    assert len(sums.digests) == len(sums.thumbnails) + 2
    assert "2 images are not as they were when they were observed, and have no thumbnail: a/" in caplog.text
