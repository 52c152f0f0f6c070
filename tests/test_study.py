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
from subspect.ground.files import part_name
from subspect.heads.names import check_name
from subspect.studies.shards import Chunk, Entry, Shape, _believed, read_shard, write_shard
from subspect.studies.study import check_set_name

MakeFolder = Callable[..., Path]
SHAPE = Shape(2, 3, True, {"conv": 1})


def chunk(rows: int = 4, labelled: bool = True) -> Chunk:
    return Chunk(
        np.arange(2 * rows, dtype=np.float32).reshape(rows, 2),
        np.arange(rows) % 3 if labelled else np.full(rows, -1),
        np.arange(rows) % 3,
        [f"{row}.png" for row in range(rows)],
        {"conv": np.ones((rows, 1), np.float32)},
        [bytes([row]) * 16 for row in range(rows)],
    )


# Shards ---------------------------------------------------------------------------------------------------------------


def test_a_shard_comes_back_as_it_was(tmp_path: Path) -> None:
    entry = write_shard(tmp_path / "0", chunk(), [("x.png", "not an image")], 2, "train 0")
    read, failed = read_shard(tmp_path / "0", SHAPE, entry, "train 0", ["conv"])
    for name in ("features", "labels", "predictions"):
        assert np.array_equal(getattr(read, name), getattr(chunk(), name))
    assert read.ids == chunk().ids and read.digests == chunk().digests and failed == [("x.png", "not an image")]
    assert np.array_equal(read.layers["conv"], chunk().layers["conv"])
    assert write_shard(tmp_path / "0", chunk(), [("x.png", "not an image")], 2, "train 0") == entry


def test_the_checksum_is_xxh3_of_the_bytes(tmp_path: Path) -> None:
    import xxhash

    entry = write_shard(tmp_path / "0", chunk(), [], 2, "train 0")
    assert entry == Entry(4, f"xxh3:{xxhash.xxh3_128((tmp_path / '0').read_bytes()).hexdigest()}")


def arrow(
    path: Path, change: Callable[[dict[str, pa.Array]], dict[str, pa.Array]], about: str = '{"failed": []}'
) -> Path:
    """Write a shard by hand, without an entry, with some columns changed."""
    given = chunk()
    columns = {
        "id": pa.array(given.ids, pa.string()),
        "label": pa.array(given.labels, pa.int32()),
        "prediction": pa.array(given.predictions, pa.int32()),
        "features": pa.FixedSizeListArray.from_arrays(pa.array(given.features.reshape(-1)), 2),
        "layer:conv": pa.FixedSizeListArray.from_arrays(pa.array(given.layers["conv"].reshape(-1)), 1),
    }
    columns = change(columns)
    schema = pa.schema([(name, one.type) for name, one in columns.items()], metadata={"subspect": about})
    with pa.ipc.new_file(path, schema) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    return path


FLOATS = pa.array(np.full(8, np.nan, np.float32))
BAD = {
    "columns": (lambda c: {**c, "extra": c["label"]}, "its columns are not those of the set: extra"),
    "missing": (lambda c: {name: one for name, one in c.items() if name != "label"}, "not those of the set: label"),
    "type": (lambda c: {**c, "label": pa.array([0, 1, 2, 0], pa.int64())}, "not those of the set: label"),
    "width": (
        lambda c: {**c, "features": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(12, np.float32)), 3)},
        "features",
    ),
    "null label": (lambda c: {**c, "label": pa.array([0, None, 2, 0], pa.int32())}, "values are missing"),
    "null id": (lambda c: {**c, "id": pa.array(["a", None, "b", "c"])}, "values are missing"),
    "label": (lambda c: {**c, "label": pa.array([0, 1, 3, 0], pa.int32())}, "a label is no class from 0 to 2"),
    "prediction": (
        lambda c: {**c, "prediction": pa.array([0, -1, 2, 0], pa.int32())},
        "a prediction is no class from 0 to 2",
    ),
    "nan": (lambda c: {**c, "features": pa.FixedSizeListArray.from_arrays(FLOATS, 2)}, "features holds NaN, infinite"),
    "null": (
        lambda c: {**c, "features": pa.FixedSizeListArray.from_arrays(pa.array([None] * 8, pa.float32()), 2)},
        "features holds NaN, infinite or missing values",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_shard_that_is_not_what_the_manifest_promises(tmp_path: Path, what: str) -> None:
    change, message = BAD[what]
    path = arrow(tmp_path / "00000.arrow", change)
    with pytest.raises(
        SubspectError, match=f"00000.arrow is damaged .*{message}.*; delete it and run the same observe"
    ):
        read_shard(path, SHAPE, None, "train 0")


def test_other_shards(tmp_path: Path) -> None:
    path = arrow(tmp_path / "0", lambda columns: columns)
    assert len(read_shard(path, SHAPE, None, "train 0")[0].ids) == 4
    with pytest.raises(SubspectError, match="labels stand where there are none"):
        read_shard(path, Shape(2, 3, False, {"conv": 1}), None, "train 0")
    with pytest.raises(SubspectError, match="its bytes are not those that were written"):
        read_shard(path, SHAPE, Entry(4, "xxh3:00"), "train 0")
    entry = write_shard(tmp_path / "1", chunk(), [], 2, "train 0")
    with pytest.raises(SubspectError, match="it has 4 rows, the manifest says 3"):
        read_shard(tmp_path / "1", SHAPE, Entry(3, entry.checksum), "train 0")
    for about in ("{", "{}", "[]", '{"failed": [1]}', "[" * 100_000):
        with pytest.raises(SubspectError, match="is damaged"):
            read_shard(
                arrow(tmp_path / about[:3].replace("{", "x"), lambda columns: columns, about), SHAPE, None, "train 0"
            )
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(SubspectError, match="cannot be mapped"):
        read_shard(tmp_path / "empty", SHAPE, None, "train 0")


def test_shards_that_subspect_would_not_write(tmp_path: Path) -> None:
    """Arrow fills as much memory as a compressed batch says it has; and it takes bytes that are no text for a name."""
    path = arrow(tmp_path / "0", lambda columns: columns)
    with pa.ipc.open_file(path) as reader:
        schema, batch = reader.schema, reader.get_batch(0)
    for kind, batches, reason in (("zstd", 1, "it is compressed"), (None, 2, "and record batch and record batch, exp")):
        with pa.ipc.new_file(path, schema, options=pa.ipc.IpcWriteOptions(compression=kind)) as writer:
            for _ in range(batches):
                writer.write_batch(batch)
        with pytest.raises(SubspectError, match=f"0 is damaged .*{reason}"):
            read_shard(path, SHAPE, None, "train 0")
    arrow(path, lambda columns: columns)
    data = path.read_bytes()
    for old, new, reason in (
        (b"prediction", b"predicti\xff\xfe", "can't decode"),
        (b"ARROW1", b"ARROW2", "as an Arrow file"),
    ):
        path.write_bytes(data.replace(old, new))
        with pytest.raises(SubspectError, match=f"0 is damaged .*{reason}"):
            read_shard(path, SHAPE, None, "train 0")
    path.write_bytes(data[:9])
    with pytest.raises(SubspectError, match="0 is damaged"):
        read_shard(path, SHAPE, None, "train 0")


def test_a_shard_that_no_manifest_knows_yet_speaks_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "0"
    write_shard(path, chunk(), [("x.png", "not an image")], 2, "train 0")
    assert read_shard(path, SHAPE, None, "train 0")[0].ids == chunk().ids
    with pytest.raises(SubspectError, match="it belongs to another place or set"):
        read_shard(path, SHAPE, None, "train 1")
    good = path.read_bytes()
    for value in (chunk().features.tobytes(), b"1.png", bytes([3]) * 16, b"not an image"):
        place = good.index(value)
        path.write_bytes(good[:place] + bytes([value[0] ^ 4]) + good[place + 1 :])
        _believed.clear()  # files that follow each other at once can have one time stamp
        with pytest.raises(SubspectError, match="its content is not what was written: it doesn't fit its checksum"):
            read_shard(path, SHAPE, None, "train 0")


def test_large_finite_features_are_finite(tmp_path: Path) -> None:
    big = chunk()
    big.features[:] = 3e38
    entry = write_shard(tmp_path / "0", big, [], 2, "train 0")
    assert read_shard(tmp_path / "0", SHAPE, entry, "train 0")[0].features.max() == np.float32(3e38)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=200)
def test_any_flipped_bit_of_a_shard_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.arrow"
    path.unlink(missing_ok=True)
    entry = write_shard(path, chunk(), [], 2, "train 0")
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(SubspectError, match="its bytes are not those that were written"):
        read_shard(path, SHAPE, entry, "train 0")


# Manifests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_classes": 1, "class_names": ["a"]}, "`int` >= 2"),
        ({"n_classes": "3"}, "Expected `int`, got `str`"),
        ({"n_features": 0}, "`int` >= 1"),
        ({"n_features": 10**30}, "is not a manifest"),
        ({"n_features": 2**31}, "`int` <= 2147483647"),
        ({"class_names": ["a"]}, "1 class names for 3 classes"),
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
        ({"shard_size": 65}, "shard_size 65 is no multiple of batch_size 16"),
        ({"images": 10**12}, "120 rows and 0 failed images of 1000000000000"),
        ({"rows": 119}, "119 rows and 0 failed images of 120"),
        ({"failed": [["a"]]}, "Expected `array` of length 2"),
        ({"shards": {"0": {"rows": 119, "checksum": "xxh3:0"}}}, "1 of 1 shards with 119 of 120 rows"),
        ({"shards": {"1": {"rows": 120, "checksum": "xxh3:0"}}}, "shards 1 of 1"),
        ({"shards": {"00": {"rows": 120, "checksum": "xxh3:0"}}}, "is not a manifest of subspect"),
        ({"shards": []}, "is not a manifest of subspect"),
        ({"shards": None}, "it has no checksums of its shards"),
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
        ({"weight": torch.ones(3, 6)}, "it holds weight, expected weight, bias"),
        (
            {"weight": torch.ones(3, 5), "bias": torch.ones(3)},
            r"weight is torch.float32 \(3, 5\), expected torch.float32 \(3, 6\)",
        ),
        ({"weight": torch.ones(3, 6), "bias": torch.ones(3).half()}, "bias is torch.float16"),
        ({"weight": torch.ones(3, 6), "bias": torch.full((3,), float("nan"))}, "bias holds NaN or infinity"),
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
    with pytest.raises(SubspectError, match="holds 00000.arrow, which belongs to no image set; choose another name"):
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
        and "nothing is wrong that can be seen without checksums" in str(next(iter(made.tables()[0].columns[0].cells)))
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
    monkeypatch.setattr(sys.modules["subspect.studies.observe"], "_SHARD_IMAGES", 8)
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
    assert "the stored prediction is not what the head says of the stored features" in made.faults[0].what


# Verify ---------------------------------------------------------------------------------------------------------------


def test_verify_lists_all_that_is_wrong(study: Study) -> None:
    subspect.decompose(study, 2)
    subspect.decompose(study, 1)
    for name in ("sets/train/00000.arrow", "decompositions/pursuit-k1.safetensors", "head.safetensors"):
        data = bytearray((study.path / name).read_bytes())
        data[-20] ^= 4
        (study.path / name).write_bytes(data)
    (study.path / "sets/test/00000.arrow").unlink()
    (study.path / "holiday.jpg").write_bytes(b"")
    made = verify(study.path)
    assert {fault.path for fault in made.faults} == {
        "sets/train/00000.arrow",
        "decompositions/pursuit-k1.safetensors",
        "head.safetensors",
        "sets/test",
    }
    assert "not subspect's, and left alone: holiday.jpg" in made.notes
    assert made.to_json()["sound"] is False and "4 are not as they should be" in str(made.tables()[0].title)
    assert (study.path / "holiday.jpg").exists()


def test_verify_looks_at_the_report(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.report.SINGLE", 2)
    made = subspect.decompose(study, 2)
    report = subspect.write_report(study, made, fidelity=subspect.evaluate(study, made))
    assert verify(study.path).sound
    page = next((study.path / "report-pages").glob("*/class-0.html"))
    page.write_bytes(page.read_bytes() + b" ")
    [fault] = verify(study.path).faults
    assert fault.path == "report.html" and "its pages are missing or not as subspect wrote them: " in fault.what
    report.write_bytes(report.read_bytes() + b" ")
    [fault] = verify(study.path).faults
    assert "it is not as subspect wrote it (changed, damaged, or another program's)" in fault.what


def test_verify_of_a_sound_study(study: Study) -> None:
    before = {path: path.read_bytes() for path in study.path.rglob("*") if path.is_file()}
    made = verify(study.path, write=True)
    assert made.sound and made.checksums and made.images == 165 and not made.notes
    assert {path: path.read_bytes() for path in study.path.rglob("*") if path.is_file()} == before


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
