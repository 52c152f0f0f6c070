"""Shards: what is written comes back, any damage is noticed, and what subspect would not write is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subspect import Study, SubspectError
from subspect.studies.shards import Chunk, Entry, Shape, _believed, read_shard, write_shard

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
    "label": (lambda c: {**c, "label": pa.array([0, 1, 3, 0], pa.int32())}, "a label is not a class from 0 to 2"),
    "prediction": (
        lambda c: {**c, "prediction": pa.array([0, -1, 2, 0], pa.int32())},
        "a prediction is not a class from 0 to 2",
    ),
    "nan": (
        lambda c: {**c, "features": pa.FixedSizeListArray.from_arrays(FLOATS, 2)},
        "features contains NaN, infinite",
    ),
    "null": (
        lambda c: {**c, "features": pa.FixedSizeListArray.from_arrays(pa.array([None] * 8, pa.float32()), 2)},
        "features contains NaN, infinite or missing values",
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
    with pytest.raises(SubspectError, match="there are labels where none are expected"):
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
        (b"ARROW1", b"ARROW2", "like an Arrow file"),
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
        with pytest.raises(SubspectError, match="its content is not what was written: its checksum differs"):
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


def test_a_damaged_shard(study: Study) -> None:
    shard = study.path / "sets/train/00000.arrow"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(SubspectError, match=r"00000.arrow is damaged .* delete it and run the same observe"):
        list(study.image_set("train").chunks())
    image_set = study.image_set("train")
    shard.unlink()
    with pytest.raises(SubspectError, match="cannot read shard .*00000.arrow: No such file"):
        list(image_set.chunks())
    with pytest.raises(SubspectError, match="image set 'train' in .* is unfinished: 0 of 1 shard; run the same"):
        study.image_set("train")
