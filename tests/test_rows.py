"""Blocks against the study's own chunks, and how often those are read."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import subspect
from conftest import Tiny, write_study
from subspect.choosing.halves import Drawn
from subspect.heads.history import Part
from subspect.studies.aside import Aside
from subspect.studies.blocks import Mapped
from subspect.studies.image_set import ImageSet
from subspect.studies.parts import in_part
from subspect.studies.rows import Block, Rows, held
from subspect.studies.shards import Chunk

PARTS: tuple[Part, ...] = ("all", "all but 20 %", "held out 20 %")
IMAGES, SHARD = 120, 16
ROW = 6 * 4  # bytes of an image's features


@pytest.fixture
def image_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """120 images with six features in eight shards."""
    monkeypatch.setattr("subspect.studies.shards._SHARD_IMAGES", SHARD)
    study = write_study(tmp_path)
    assert len(study.image_set("train")) == IMAGES and study.image_set("train").manifest.n_shards == 8
    return study.image_set("train")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards read, in order."""
    names: list[str] = []
    read = sys.modules["subspect.studies.image_set"].read_shard

    def noted(path: Path, *args: Any) -> tuple[Chunk, list[tuple[str, str]]]:
        names.append(path.name)
        found: tuple[Chunk, list[tuple[str, str]]] = read(path, *args)
        return found

    monkeypatch.setattr("subspect.studies.image_set.read_shard", noted)
    return names


def gone_through(rows: Rows) -> list[Block]:
    return list(iter(rows))


def joined(blocks: list[Block] | list[Chunk]) -> tuple[list[list[float]], list[int], list[int]]:
    return (
        [row for block in blocks for row in block.features.tolist()],
        [label for block in blocks for label in block.labels.tolist()],
        [label for block in blocks for label in block.predictions.tolist()],
    )


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("block", [1, 40 * ROW, 1 << 26])
def test_blocks_are_the_chunks_joined(
    image_set: ImageSet, part: Part, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subspect.studies.rows._BLOCK", block)
    rows = Rows(image_set, part)
    expected = joined(list(image_set.chunks(part)))
    for _ in range(2):
        blocks = gone_through(rows)
        assert joined(blocks) == expected
        assert {found.features.dtype for found in blocks} == {np.dtype(np.float32)}
        assert {found.labels.dtype for found in blocks} == {np.dtype(np.int64)}
    assert len(rows) == len(expected[0])
    if part == "all":
        sizes = {1: [SHARD] * 7 + [8], 40 * ROW: [3 * SHARD, 3 * SHARD, 24], 1 << 26: [IMAGES]}
        assert [len(found.labels) for found in blocks] == sizes[block]


def test_a_block_is_full_at_its_size(image_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    for more, size in ((0, 2 * SHARD), (1, 3 * SHARD)):
        monkeypatch.setattr("subspect.studies.rows._BLOCK", 2 * SHARD * ROW + more)
        assert len(next(iter(Rows(image_set))).labels) == size


def test_the_two_parts_hold_every_image_once(image_set: ImageSet) -> None:
    chunks = list(image_set.chunks())
    first = in_part([id for chunk in chunks for id in chunk.ids], "all but 20 %")
    features, labels, predictions = (np.array(values) for values in joined(chunks))
    for part, own in (("all but 20 %", first), ("held out 20 %", ~first)):
        found = joined(gone_through(Rows(image_set, part)))
        assert found == (features[own].tolist(), labels[own].tolist(), predictions[own].tolist())
    assert 0 < (~first).sum() < IMAGES / 2


def test_what_fits_the_memory_is_read_once(
    image_set: ImageSet, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subspect.studies.rows._BLOCK", 40 * ROW)
    shards = [f"{index:05d}.arrow" for index in range(8)]
    rows = Rows(image_set, memory=IMAGES * ROW)
    first, second = gone_through(rows), gone_through(rows)
    assert reads == shards
    assert all(one is other for one, other in zip(first, second, strict=True))
    assert len(rows) == IMAGES and reads == shards


def test_what_does_not_fit_is_read_anew(image_set: ImageSet, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.studies.rows._BLOCK", 40 * ROW)
    shards = [f"{index:05d}.arrow" for index in range(8)]
    expected = joined(gone_through(Rows(image_set)))
    for memory in (0, 50 * ROW, IMAGES * ROW - 1):
        rows = Rows(image_set, memory=memory)
        reads.clear()
        assert joined(gone_through(rows)) == expected and joined(gone_through(rows)) == expected
        assert reads == shards * 2


def test_only_features_of_the_part_count_as_memory(image_set: ImageSet, reads: list[str]) -> None:
    own = len(Rows(image_set, "held out 20 %"))
    reads.clear()
    for memory, passes in ((2 * own * ROW, 1), (own * ROW // 2, 2)):
        rows = Rows(image_set, "held out 20 %", memory)
        assert joined(gone_through(rows)) == joined(gone_through(rows))
        assert len(reads) == 8 * passes
        reads.clear()


def test_what_is_kept_needs_no_files(image_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.studies.rows._BLOCK", 1)
    rows = Rows(image_set)
    expected = joined(gone_through(rows))
    assert all(block.features.flags.owndata for block in rows)  # no memory map, which Linux keeps for deleted files
    shutil.rmtree(image_set.folder)
    assert joined(gone_through(rows)) == expected


def test_a_pass_that_stops_early_keeps_nothing(
    image_set: ImageSet, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subspect.studies.rows._BLOCK", 1)
    rows = Rows(image_set)
    for _ in zip(range(3), rows, strict=False):
        pass
    assert len(gone_through(rows)) == 8
    reads.clear()
    assert len(gone_through(rows)) == 8 and not reads


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_two_passes_may_run_side_by_side(image_set: ImageSet, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.studies.rows._BLOCK", 1)
    rows = Rows(image_set, memory=memory)
    expected = joined(gone_through(Rows(image_set)))
    one, other = zip(*zip(rows, rows, strict=True), strict=True)
    assert joined(list(one)) == joined(list(other)) == joined(gone_through(rows)) == expected


def test_a_part_may_be_empty(tiny: Tiny, tmp_path: Path) -> None:
    study = subspect.observe(subspect.Network(tiny), (np.zeros((1, 3, 8, 8), np.float32), [0]), tmp_path / "study")
    parts = [Rows(study.image_set("train"), part) for part in PARTS[1:]]
    empty, full = sorted(parts, key=len)
    assert (len(empty), len(full)) == (0, 1)
    assert [block.features.shape for block in empty] == [(0, 6)]


def test_the_print_of_an_image_is_its_features_alone() -> None:
    x = np.random.default_rng(0).standard_normal((1000, 6)).astype(np.float32)
    x[500] = x[3]
    order = np.random.default_rng(1).permutation(1000)

    def prints(features: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
        nothing = np.zeros(len(features), np.int64)
        return Block(features, nothing, nothing).prints()

    found = prints(x)
    assert len(np.unique(found)) == 999 and found[500] == found[3]
    assert np.array_equal(prints(x[order]), found[order])
    assert np.array_equal(prints(np.asfortranarray(x[:7])), found[:7])
    assert np.array_equal(prints(x[123:124]), found[123:124])
    for folds in (2, 3, 8):
        share = np.bincount((found % np.uint64(folds)).astype(np.int64), minlength=folds) / 1000
        assert np.allclose(share, 1 / folds, atol=4 * np.sqrt(1 / folds / 1000))


@pytest.mark.parametrize("room", ["memory", "disk", "neither"])
def test_what_is_made_of_rows_is_kept_in_memory_or_aside(
    image_set: ImageSet, reads: list[str], room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subspect.studies.rows._BLOCK", 40 * ROW)
    if room == "neither":
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    drawn = Drawn(Rows(image_set, memory=0), 1, 0, 0.5, None if room == "memory" else 0)
    first = joined(list(iter(drawn)))
    assert 40 < len(first[1]) < 80 and len(reads) == 8
    assert joined(list(iter(drawn))) == joined([drawn.block(index) for index in (0, 1, 2)]) == first
    assert len(reads) == 8 * (3 if room == "neither" else 1)
    whole = Mapped(Rows(image_set, memory=0), lambda block: block, IMAGES * ROW, 0)  # no less to read
    reads.clear()
    assert joined(list(whole)) == joined(list(whole)) and len(reads) == 16


def test_a_disk_that_fills_up_keeps_nothing_more_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    aside = Aside(1000)
    aside.put(3, [1, 2])
    assert aside.get(3) == [1, 2] and aside.get(4) is None and Aside(0).get(3) is None

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    aside.put(4, [3])
    assert aside.get(3) is None and aside.get(4) is None


def test_of_many_images_a_sample_is_held(image_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, said = held(image_set.chunks(), IMAGES)
    assert said == "" and whole.ids == image_set.whole().ids
    monkeypatch.setattr("subspect.studies.rows.HELD", 60)
    drawn, said = held(image_set.chunks(), IMAGES)
    assert 40 < len(drawn.ids) < 80 and said == f"; a sample of {len(drawn.ids)} of them"
    assert set(drawn.ids) < set(whole.ids)
    again = in_part(drawn.ids, "held out 20 %").mean()
    assert 0.05 < again < 0.4  # independent of what is held out
    study = subspect.Study.open(image_set.folder.parent.parent)
    decomposition = study.decompose(2, show_progress=False)
    assert "a sample of" in study.geometry(on="train", points=50).note
    assert "a sample of" in decomposition.essentiality(on="train", repeats=2).note
