"""Parquet files: the features of a folder to the bit, columns found or named, and what can't be read refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from packed import features_equal, files_of, labels_of, stored, write_parquet
from subspect.ground.errors import SubspectError, Unusable
from subspect.images.opening import open_images

MakeFolder = Callable[..., Path]


@pytest.fixture
def folder(make_folder: MakeFolder) -> Path:
    return make_folder()


def write(path: Path, /, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("group", [1, 20, 1000])
def test_features_of_parquet_are_those_of_the_folder(folder: Path, tmp_path: Path, workers: int, group: int) -> None:
    write_parquet(tmp_path / "p/a/one.parquet", folder, 0, 19, row_group_size=group)
    write_parquet(tmp_path / "p/b.parquet", folder, 19, row_group_size=group)
    made = stored(f"parquet:{tmp_path}/p", tmp_path / "b", workers=workers)
    assert features_equal(made, stored(folder, tmp_path / "a"))


def test_ids_labels_and_what_is_recorded(folder: Path, tmp_path: Path) -> None:
    images = open_images(write_parquet(tmp_path / "p.parquet", folder))
    assert (images.kind, images.labelled, images.classes, images.root) == ("Parquet", True, ("a", "b", "c"), None)
    assert images.place == f"parquet:{tmp_path}/p.parquet"
    assert images.id(3) == "p.parquet/03" and images.position("p.parquet/23") == 23
    assert labels_of(images) == ["a"] * 8 + ["b"] * 8 + ["c"] * 8
    for id in ("p.parquet/3", "p.parquet/24", "q.parquet/03", "03", "p.parquet/-3"):
        with pytest.raises(Unusable, match="no image with id"):
            images.given(id)


def test_rows_are_read_in_any_order(folder: Path, tmp_path: Path) -> None:
    images, files = open_images(write_parquet(tmp_path / "p.parquet", folder, row_group_size=20)), open_images(folder)
    again = pickle.loads(pickle.dumps(images))
    for index in (0, 18, 3, 23, 22, 0):
        assert images.read(index).digest == again.read(index).digest == files.read(index).digest


def test_splits_are_told_by_the_names_of_files(folder: Path, tmp_path: Path) -> None:
    for name, (first, end) in {
        "train-00000-of-00002": (0, 9),
        "train-00001-of-00002": (9, 15),
        "test-00000-of-00001": (15, 24),
    }.items():
        write_parquet(tmp_path / f"data/{name}.parquet", folder, first, end)
    assert len(open_images(f"parquet:{tmp_path}[train]")) == 15
    images = open_images(f"parquet:{tmp_path}/data[test]")
    assert len(images) == 9 and images.place == f"parquet:{tmp_path}/data[test]"
    with pytest.raises(SubspectError, match=r"has several splits; its files, named .*, are of test, train; name one: "):
        open_images(f"parquet:{tmp_path}")
    with pytest.raises(SubspectError, match=r"has no split 'tst' \(did you mean 'test'\?\); its files"):
        open_images(f"parquet:{tmp_path}[tst]")
    with pytest.raises(SubspectError, match=r"has no split 'train'; its files, named .*, are of none"):
        open_images(f"parquet:{write(tmp_path / 'x/a.parquet', image=[b''])}[train]")


def test_columns_are_named_where_there_are_several(folder: Path, tmp_path: Path) -> None:
    count = range(24)
    path = write_parquet(tmp_path / "p.parquet", folder, fine_label=[index % 2 for index in count], img=[b"x"] * 24)
    with pytest.raises(
        SubspectError, match=r"p\.parquet has several columns of images: image \(struct<.*>\), img \(binary\)"
    ):
        open_images(path)
    images = open_images(path, image_column="image", label_column="fine_label")
    assert labels_of(images) == [index % 2 for index in count] and images.classes is None
    assert images.image_column == "image"
    assert not open_images(path, image_column="image", label_column="none").labelled
    for option, columns in (
        ({"image_column": "imge"}, "imge"),
        ({"image_column": "image", "label_column": "fine_labe"}, "fine_labe"),
    ):
        with pytest.raises(
            SubspectError,
            match=rf"p\.parquet has no column '{columns}' \(did you mean .*\); its columns are image.*; name one with --",
        ):
            open_images(path, **option)  # type: ignore[arg-type]
    with pytest.raises(
        SubspectError, match=r"the column 'label' of .* contains int64, not images; its columns are image"
    ):
        open_images(path, image_column="label")
    with pytest.raises(SubspectError, match=r"the column 'img' of .* contains binary, not labels; its columns are"):
        open_images(path, image_column="image", label_column="img")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"label": [1], "text": ["a"]},
            r"no images in .*p\.parquet: its columns are label \(int64\), text \(string\); ",
        ),
        ({"image": [1]}, r"no images in .*p\.parquet: its columns are image \(int64\)"),
        (
            {"image": [b""], "label": [1], "class": ["a"]},
            r"several columns of labels: label \(int64\), class \(string\)",
        ),
        (
            {"image": [b"", b""], "label": [1, None]},
            r"has no label for 1 of 2 images \(row 1\); label every image, or take no",
        ),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(SubspectError, match=message):
        open_images(write(tmp_path / "p.parquet", **columns))


@pytest.mark.parametrize(
    ("values", "labels", "classes"),
    [
        ([3, 0], [3, 0], None),
        (["3", "0"], [3, 0], None),
        (["b", "a"], ["b", "a"], ("a", "b")),
        ([True, False], [1, 0], None),
        ([None, None], [None, None], None),
        (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"], ("a", "b")),
    ],
)
def test_labels_of_columns(tmp_path: Path, values: Any, labels: list[Any], classes: tuple[str, ...] | None) -> None:
    values = pa.array(values, pa.int64()) if values == [None, None] else values
    images = open_images(write(tmp_path / "p.parquet", png=[b"", b""], target=values))
    assert (labels_of(images), images.classes, images.labelled) == (labels, classes, labels[0] is not None)


@pytest.mark.parametrize("unknown", [-1, 3])
def test_labels_outside_the_class_names(folder: Path, tmp_path: Path, unknown: int) -> None:
    path = write_parquet(tmp_path / "p.parquet", folder)
    table = pyarrow.parquet.read_table(path)
    labels = pa.array([unknown, *table["label"].to_pylist()[1:]])
    pyarrow.parquet.write_table(
        table.set_column(1, "label", labels).replace_schema_metadata(table.schema.metadata), path
    )
    message = (
        "no label for 1 of 24 images" if unknown < 0 else r"1 label in .* is outside its 3 class names: 3 of row 0; exp"
    )
    with pytest.raises(SubspectError, match=message):
        open_images(path)
    labels = pa.array([-1] * 24)
    pyarrow.parquet.write_table(
        table.set_column(1, "label", labels).replace_schema_metadata(table.schema.metadata), path
    )
    assert not open_images(path).labelled


def test_indices_outside_the_networks_classes_are_refused_before_anything_runs(folder: Path, tmp_path: Path) -> None:
    data = [data for _, _, data in files_of(folder)]
    path = write(tmp_path / "p.parquet", image=data, label=[index % 4 for index in range(24)])
    with pytest.raises(SubspectError, match=r"image p\.parquet/03: label 3 is not a class index of this network"):
        stored(path, tmp_path / "study")
    assert not (tmp_path / "study/sets/train/00000.arrow").exists()


def test_paths_in_a_column_are_relative_to_the_file(folder: Path, tmp_path: Path) -> None:
    files = files_of(folder)
    path = write(folder / "list.parquet", file_name=[one for one, _, _ in files], label=[name for _, name, _ in files])
    images = open_images(path)
    assert (images.kind, images.root, images.classes) == ("Parquet", folder, ("a", "b", "c"))
    assert features_equal(stored(path, tmp_path / "b"), stored(folder, tmp_path / "a"))
    write(folder / "list.parquet", path=["../secret.png"])
    with pytest.raises(SubspectError, match=r"\.\./secret\.png in row 0 of .* leads outside .*; pass outside=True"):
        open_images(path)
    for odd, message in ((None, "has no path"), ("", "has no path"), ("a\0b", "has a NUL character")):
        with pytest.raises(SubspectError, match=f"row 1 of .*list.parquet {message}"):
            open_images(write(path, path=["a/000.png", odd]))


def test_a_column_that_may_hold_labels_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = files_of(folder)
    path = write(folder / "list.parquet", file=[one for one, _, _ in files], cat=[name for _, name, _ in files])
    assert not open_images(path).labelled
    assert (
        "labels: no column of" in caplog.text
        and "name it by --label-column (label_column=): cat (string)" in caplog.text
    )


def test_paths_beside_bytes_lead_outside_only_if_asked(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    cells = [
        {"bytes": None, "path": "in.png"},
        {"bytes": None, "path": f"{folder}/a/000.png"},
        {"bytes": None, "path": None},
    ]
    path = write(
        tmp_path / "p/p.parquet", image=pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    )
    (tmp_path / "p/in.png").write_bytes((folder / "b/001.png").read_bytes())
    images = open_images(path)
    assert images.read(0).digest == open_images(folder).given_with_digest("b/001.png")[1]
    with pytest.raises(
        SubspectError, match=r"000\.png in row 1 of p\.parquet leads outside .*p: to .*; pass outside=True"
    ):
        images.read(1)
    assert open_images(path, outside=True).read(1).digest == open_images(folder).read(0).digest
    with pytest.raises(Unusable, match="the cell is empty"):
        images.read(2)


def test_files_of_other_columns_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    write_parquet(tmp_path / "p/a.parquet", folder)
    write(tmp_path / "p/b.parquet", image=[b""], label=["a"])
    with pytest.raises(
        SubspectError, match=r"b\.parquet has other columns of images or labels, or other class names, than"
    ):
        open_images(f"parquet:{tmp_path}/p")


def test_files_that_are_damaged(folder: Path, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "p.parquet", folder)
    data = path.read_bytes()
    for rest in (data[:-100], data[: len(data) // 2], b"no parquet at all"):
        path.write_bytes(rest)
        with pytest.raises(
            SubspectError, match=r"p\.parquet is not a Parquet file, ends half-way or is damaged \(.+\); fetch"
        ):
            open_images(path)
    path.write_bytes(data)
    images = open_images(path)
    path.write_bytes(b"\0" * 2000 + data[2000:])
    with pytest.raises(Unusable, match=r"p\.parquet cannot be read: "):
        images.read(0)


def test_a_file_that_has_changed_since_it_was_listed(folder: Path, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "p.parquet", folder, row_group_size=20)
    images = open_images(path)
    write_parquet(path, folder, 0, 4)
    with pytest.raises(Unusable, match=r"p\.parquet cannot be read: it has fewer rows than when it was listed"):
        images.read(19)
    assert images.read(3).digest == open_images(folder).read(3).digest
    for change in (lambda: write(path, other=[1]), path.unlink):
        change()
        with pytest.raises(Unusable, match=r"p\.parquet cannot be read: "):
            pickle.loads(pickle.dumps(images)).read(23)


def test_a_file_is_known_by_more_than_its_size(folder: Path, tmp_path: Path) -> None:
    first = open_images(write_parquet(tmp_path / "a/p.parquet", folder))
    same = open_images(write_parquet(tmp_path / "b/p.parquet", folder))
    assert first.fingerprint(None) == same.fingerprint(None)
    other = open_images(write_parquet(tmp_path / "c/p.parquet", folder, row_group_size=8))
    assert first.fingerprint(None) != other.fingerprint(None)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.parquet")
    with pytest.raises(SubspectError, match=r"no such Parquet files: .*p\.parquet \(a named pipe is there\)"):
        open_images(f"parquet:{tmp_path}/p.parquet")
    with pytest.raises(SubspectError, match=r"no Parquet files in "):
        open_images(f"parquet:{tmp_path}")
