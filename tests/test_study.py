"""A study on disk: damage is noticed, whatever it is; what others put there stays; what earlier versions wrote is read."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import subspect
from conftest import Tiny, reseal, unsealed
from subspect import Study, SubspectError, verify
from subspect.ground.unfinished import part_name
from subspect.heads.names import check_name
from subspect.studies.names import check_set_name

MakeFolder = Callable[..., Path]


# Manifests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_classes": 1, "class_names": ["a"]}, "`int` >= 2"),
        ({"n_classes": "3"}, "Expected `int`, got `str`"),
        ({"n_features": 0}, "`int` >= 1"),
        ({"n_features": 10**30}, "is not a manifest"),
        ({"n_features": 2**31}, "`int` <= 2147483647"),
        ({"class_names": ["a"]}, "1 class name for 3 classes"),
        ({"class_names": None}, "missing required field `class_names`"),
        ({"class_names": [1, 2, 3]}, "Expected `str`"),
        ({"preprocessing": []}, "Expected `object`"),
        ({"colour": "red"}, "unknown fields colour"),
        ({"head_checksum": None}, "it has no head_checksum"),
        ({"schema": True}, "has schema version True"),
        ({"schema": None}, "has schema version None"),
    ],
)
def test_a_study_whose_manifest_is_misshaped(study: Study, changes: dict[str, object], message: str) -> None:
    reseal(study.path / "study.json", **changes)
    with pytest.raises(SubspectError, match=message):
        Study.open(study.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard_size": 0}, "`int` >= 1"),
        ({"shard_size": 65}, "shard_size 65 is not a multiple of batch_size 16"),
        ({"images": 10**12}, "rows: 120, failed images: 0, of 1000000000000"),
        ({"rows": 119}, "rows: 119, failed images: 0, of 120"),
        ({"failed": [["a"]]}, "Expected `array` of length 2"),
        ({"shards": {"0": {"rows": 119, "checksum": "xxh3:0"}}}, "1 of 1 shards with 119 of 120 rows"),
        ({"shards": {"1": {"rows": 120, "checksum": "xxh3:0"}}}, "shards 1 of 1"),
        ({"shards": {"00": {"rows": 120, "checksum": "xxh3:0"}}}, "is not a manifest of subspect"),
        ({"shards": []}, "is not a manifest of subspect"),
        ({"shards": None}, "it has no checksums for its shards"),
        ({"weights": "0" * 64}, "belongs to another study"),
        ({"layers": {"conv": -1}}, "`int` >= 1"),
        ({"layers": {"conv": 2**31}}, "`int` <= 2147483647"),
    ],
)
def test_a_set_whose_manifest_is_misshaped(study: Study, changes: dict[str, object], message: str) -> None:
    reseal(study.path / "sets/train/set.json", **changes)
    with pytest.raises(SubspectError, match=message):
        study.image_set("train")
    with pytest.raises(SubspectError, match=message):
        subspect.decompose(study, 2)


def test_a_huge_unfinished_set_takes_no_time(study: Study) -> None:
    reseal(study.path / "sets/train/set.json", images=10**12, complete=False)
    assert study.unfinished == ["train"] and not study.unfinished.count("test")
    reseal(study.path / "sets/test/set.json", complete=False)
    with pytest.raises(SubspectError, match="no image set 'none' in .*; it has: none; unfinished: .*test"):
        study.image_set("none")


def test_a_set_of_another_name_that_is_unfinished_is_told(study: Study) -> None:
    shutil.rmtree(study.path / "sets/train")
    reseal(study.path / "sets/test/set.json", complete=False)
    again = Study.open(study.path)
    for on in (None, "test"):
        for method in ("pursuit", "frequency"):
            with pytest.raises(SubspectError, match="image set 'test' in .* is unfinished: .* again to resume"):
                subspect.decompose(again, 2, method=method, on=on)


def test_manifests_of_another_kind(study: Study) -> None:
    for content in ("[]", "1", "null", '"x"', "[" * 100_000):
        (study.path / "study.json").write_text(content)
        with pytest.raises(SubspectError):
            Study.open(study.path)


def test_a_set_that_cannot_be_read_is_not_passed_over(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "train":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SubspectError, match="cannot read .*train: Permission denied; make it readable"):
        subspect.decompose(study, 2)


# Heads ----------------------------------------------------------------------------------------------------------------


def test_heads_that_are_not_the_studys(study: Study, tmp_path: Path) -> None:
    path = study.path / "head.safetensors"
    other = subspect.observe(subspect.Network(Tiny(seed=3)), torch.rand(4, 3, 8, 8), tmp_path / "other")
    good = path.read_bytes()
    for data in ((other.path / "head.safetensors").read_bytes(), good[:-1], b"", good[:-40] + bytes(40)):
        path.write_bytes(data)
        with pytest.raises(SubspectError, match="head.safetensors is not (the|a) head"):
            study.head()
    path.unlink()
    with pytest.raises(SubspectError, match="cannot read .*head.safetensors: No such file"):
        study.head()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.ones(3, 6)}, "it contains weight, expected weight, bias"),
        (
            {"weight": torch.ones(3, 5), "bias": torch.ones(3)},
            r"weight is torch.float32 \(3, 5\), expected torch.float32 \(3, 6\)",
        ),
        ({"weight": torch.ones(3, 6), "bias": torch.ones(3).half()}, "bias is torch.float16"),
        ({"weight": torch.ones(3, 6), "bias": torch.full((3,), float("nan"))}, "bias contains NaN or infinity"),
    ],
)
def test_heads_of_an_older_study_that_are_misshaped(
    study: Study, tensors: dict[str, torch.Tensor], message: str
) -> None:
    unsealed(study.path)
    save_file(tensors, study.path / "head.safetensors")
    with pytest.raises(SubspectError, match=f"is not the head of this study: {message}"):
        Study.open(study.path).head()


# What others put there ------------------------------------------------------------------------------------------------


def test_a_folder_with_a_head_of_somebody_elses_is_no_place_for_a_study(tiny: Tiny, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1)}, tmp_path / "head.safetensors")
    before = (tmp_path / "head.safetensors").read_bytes()
    with pytest.raises(SubspectError, match="head.safetensors is there already, and not as subspect wrote it"):
        subspect.observe(subspect.Network(tiny), torch.rand(4, 3, 8, 8), tmp_path)
    assert (tmp_path / "head.safetensors").read_bytes() == before


def test_files_in_a_sets_folder_stay(tiny: Tiny, study: Study, tmp_path: Path) -> None:
    folder = study.path / "sets/mine"
    folder.mkdir()
    (folder / "00000.arrow").write_bytes(b"mine")
    with pytest.raises(
        SubspectError, match="contains 00000.arrow, which doesn't belong to an image set; choose another name"
    ):
        subspect.observe(subspect.Network(tiny), tmp_path / "train", study.path, "mine")
    assert (folder / "00000.arrow").read_bytes() == b"mine"


def test_a_kill_before_the_first_manifest_is_gone_on_from(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = tmp_path / "study/sets/train"
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / part_name()).write_bytes(b"half a manifest")
    study = subspect.observe(subspect.Network(tiny), make_folder(), tmp_path / "study")
    assert sorted(path.name for path in (study.path / "sets/train").iterdir()) == [".lock", "00000.arrow", "set.json"]


@pytest.mark.parametrize("place", ["sets", "sets/train", "decompositions"])
def test_links_in_a_study_are_not_followed(study: Study, tiny: Tiny, tmp_path: Path, place: str) -> None:
    subspect.decompose(study, 2)
    shutil.move(study.path / place, tmp_path / "moved")
    (study.path / place).symlink_to(tmp_path / "moved")
    with pytest.raises(SubspectError, match="is a link, and nothing outside a study is read or written through one"):
        subspect.load_decomposition(study) if place == "decompositions" else subspect.decompose(study, 2)
    (tmp_path / "link").symlink_to(study.path)
    (study.path / place).unlink()
    shutil.move(tmp_path / "moved", study.path / place)
    assert len(Study.open(tmp_path / "link").image_set("train")) == 120


def test_names(study: Study) -> None:
    for name in ("pursuit-k5", "frequency-k0.5", "mine (2)", "犬", "x" * 200):
        assert check_name(name) == name
    for name in ("", ".x", "../x", "a/b", "a\\b", "-rf", " x", "a\nb", "a\x1b", "a\u202eb", "\ud800", "x" * 201, "a:b"):
        with pytest.raises(SubspectError, match="a decomposition cannot be called"):
            check_name(name)
    for name in ("..", ".", "a/b", "", "x" * 101, "é", "a\n"):
        with pytest.raises(SubspectError, match="must be letters, digits"):
            check_set_name(name)
    (study.path / "decompositions").mkdir()
    (study.path / "decompositions" / "a\x1bb.safetensors").write_bytes(b"")
    with pytest.raises(SubspectError, match="a decomposition cannot be called"):
        subspect.load_decomposition(study)


# Of before checksums were kept ----------------------------------------------------------------------------------------


def figures(study: Study) -> list[object]:
    made = subspect.load_decomposition(study, "pursuit-k2")
    return [subspect.evaluate(study, made).to_json(), made.to_json()]


def test_older_studies_are_read_and_get_their_checksums(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    subspect.decompose(study, 2)
    before = figures(study)
    unsealed(study.path)
    old = Study.open(study.path)
    assert caplog.text.count("has no checksums yet") == 1 and figures(Study.open(study.path)) == before
    assert caplog.text.count("has no checksums yet") == 1  # said once
    made = verify(study.path)
    assert (
        made.sound
        and not made.checksums
        and "nothing is wrong as far as can be seen without checksums"
        in str(next(iter(made.tables()[0].columns[0].cells)))
    )
    made = verify(study.path, write=True)
    assert made.sound and made.checksums and made.images == 165
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        assert figures(Study.open(old.path)) == before and not caplog.text
    assert json.loads((study.path / "sets/train/set.json").read_text())["schema"] == 2
    assert verify(study.path).checksums
    shard = study.path / "sets/train/00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert not verify(study.path).sound


def test_older_sets_are_gone_on_with(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["subspect.studies.shards"], "_SHARD_IMAGES", 8)
    folder = make_folder()
    study = subspect.observe(subspect.Network(tiny), folder, tmp_path / "study", batch_size=8)
    whole = study.image_set("train").whole()
    unsealed(study.path)
    (study.path / "sets/train/00001.arrow").unlink()
    again = subspect.observe(subspect.Network(tiny), folder, tmp_path / "study", batch_size=8).image_set("train")
    assert np.array_equal(again.whole().features, whole.features) and sorted(again.manifest.shards) == [0, 1, 2]


def test_an_older_study_that_is_damaged_gets_no_checksums(study: Study) -> None:
    unsealed(study.path)
    path = study.path / "sets/train/00000.arrow"
    table = pa.ipc.open_file(path).read_all()
    column = table.schema.get_field_index("prediction")
    table = table.set_column(column, "prediction", pa.array(np.zeros(len(table)), pa.int32()))
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_batch(table.combine_chunks().to_batches()[0])
    made = verify(study.path, write=True)
    assert not made.sound and not made.checksums
    assert "the stored prediction is not what the head predicts from the stored features" in made.faults[0].what


# Flipped bits ---------------------------------------------------------------------------------------------------------


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), which=st.integers(0, 5))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_anywhere_is_noticed_or_without_effect(study: Study, place: float, bit: int, which: int) -> None:
    if not (study.path / "decompositions").exists():
        subspect.decompose(study, 2)
    before = figures(study)
    paths = sorted(path for path in study.path.rglob("*") if path.is_file() and path.stat().st_size)
    path = paths[which % len(paths)]
    good = path.read_bytes()
    data = bytearray(good)
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        after = figures(Study.open(study.path))
    except SubspectError:
        return
    finally:
        path.write_bytes(good)
    assert after == before


def test_a_folder_that_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match=r"no study in .*: it has no study.json; make one with: subspect observe"):
        Study.open(tmp_path)


def test_an_image_set_that_is_not_there(study: Study) -> None:
    with pytest.raises(
        SubspectError, match=r"no image set 'tset' in .* \(did you mean 'test'\?\); it has: train, test"
    ):
        study.image_set("tset")


def test_a_newer_schema(study: Study) -> None:
    reseal(study.path / "study.json", schema=3)
    with pytest.raises(
        SubspectError,
        match="has schema version 3, but this version of subspect reads 1 and 2; use the version of subspect that",
    ):
        Study.open(study.path)


def test_a_manifest_of_something_else(study: Study) -> None:
    (study.path / "study.json").write_text('{"schema": 1, "class_names": [], "colour": "red"}')
    with pytest.raises(SubspectError, match="is not a manifest of subspect"):
        Study.open(study.path)
    (study.path / "study.json").write_text("{")
    with pytest.raises(SubspectError, match="is not JSON"):
        Study.open(study.path)
