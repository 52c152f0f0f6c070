"""WebDataset shards: the features of a folder to the bit, read by position, and every shard that can't be read refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from packed import Member, features_equal, labels_of, members_of, stored, write_tar
from subspect.ground.errors import SubspectError, Unusable
from subspect.images.opening import open_images

MakeFolder = Callable[..., Path]


@pytest.fixture
def folder(make_folder: MakeFolder) -> Path:
    return make_folder(each=4)


def png(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz")])
def test_features_of_shards_are_those_of_the_folder(
    folder: Path, tmp_path: Path, suffix: str, mode: str, workers: int
) -> None:
    for shard, (first, end) in enumerate([(0, 5), (5, 6), (6, None)]):
        write_tar(tmp_path / f"shards/a-{shard:03d}{suffix}", members_of(folder, first, end), mode)
    place = f"wds:{tmp_path}/shards/a-{{000..002}}{suffix}"
    assert features_equal(stored(place, tmp_path / "b", workers=workers), stored(folder, tmp_path / "a"))


def test_ids_labels_and_what_is_recorded(folder: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "one.tar", members_of(folder))
    images = open_images(f"wds:{tmp_path}/one.tar")
    assert (images.kind, images.labelled, images.classes, images.root) == ("WebDataset", True, ("a", "b", "c"), None)
    assert images.place == f"wds:{tmp_path}/one.tar"
    assert images.id(0) == "one.tar/000000" and images.position("one.tar/000011") == 11
    assert labels_of(images) == ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    with pytest.raises(Unusable, match=r"no image with id 'one\.tar/12' among 12"):
        images.given("one.tar/12")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_images_are_read_in_any_order(folder: Path, tmp_path: Path, suffix: str) -> None:
    write_tar(tmp_path / f"a{suffix}", members_of(folder), "w:gz" if suffix == ".tar.gz" else "w")
    images, files = open_images(f"wds:{tmp_path}/a{suffix}"), open_images(folder)
    again = pickle.loads(pickle.dumps(images))
    for index in (7, 2, 11, 0, 0, 5):
        assert images.read(index).digest == again.read(index).digest == files.read(index).digest


@pytest.mark.parametrize("place", ["wds:{}/s", "wds/{}/s", "wds:{}/s/*.tar", "wds:{}/s/a-{{0..1}}.tar"])
def test_places_of_shards(folder: Path, tmp_path: Path, place: str) -> None:
    write_tar(tmp_path / "s/a-0.tar", members_of(folder, 0, 5))
    write_tar(tmp_path / "s/a-1.tar", members_of(folder, 5))
    (tmp_path / "s/readme.txt").write_text("no shard")
    images = open_images(place.format(tmp_path))
    assert [images.id(index) for index in (0, 5, 11)] == ["a-0.tar/000000", "a-1.tar/000005", "a-1.tar/000011"]


def test_a_folder_called_wds_is_a_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "wds")
    assert open_images("wds/a").kind == "flat folder"


@pytest.mark.parametrize(
    ("members", "labels"),
    [
        ([("x.png", png()), ("x.cls", b"3\n"), ("y.png", png()), ("y.cls", b"0")], [3, 0]),
        ([("x.png", png()), ("x.cls", b"cat"), ("y.png", png()), ("y.cls", b"7")], ["cat", "7"]),
        ([("./d/x.PNG", png()), ("./d/._x.png", b""), ("d/y.png", png())], [None, None]),
    ],
)
def test_labels_of_samples(tmp_path: Path, members: list[Member], labels: list[int | str | None]) -> None:
    images = open_images(f"wds:{write_tar(tmp_path / 'a.tar', members)}")
    assert labels_of(images) == labels and images.labelled == (labels[0] is not None)


def test_labels_in_json_are_named(tmp_path: Path) -> None:
    members = [("x.json", json.dumps({"id": "q", "kind": 2}).encode()), ("x.jpg", png()), ("x.seg.png", png(9))]
    place = f"wds:{write_tar(tmp_path / 'a.tar', members)}"
    images = open_images(place, image_column="jpg", label_column="kind")
    assert labels_of(images) == [2] and images.image_column == "jpg"
    other = open_images(place, image_column="seg.png", label_column="none")
    assert labels_of(other) == [None] and other.read(0).digest != images.read(0).digest
    assert other.fingerprint(None) != images.fingerprint(None)
    with pytest.raises(
        SubspectError, match=r"no labels 'kinds' \(did you mean 'kind'\?\); its samples contain json, .* id, k"
    ):
        open_images(place, image_column="jpg", label_column="kinds")
    with pytest.raises(
        SubspectError, match=r"no images with the extension 'jpeg' \(did you mean 'jpg'\?\); its samples"
    ):
        open_images(place, image_column="jpeg")
    with pytest.raises(
        SubspectError, match=r"the sample 'x' in .*a\.tar contains several images, 'seg\.png' among them; name"
    ):
        open_images(place)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [("x.txt", b"a"), ("x.cls", b"1")],
            r"no images in wds:.*: its samples contain txt, cls; expected one of \.avif",
        ),
        ([], r"no images in wds:.*: its samples contain nothing"),
        (
            [("x.png", b""), ("x.cls", b"1"), ("y.png", b"")],
            r"no label for 1 of 2 images \(a\.tar/y\); label every image, or",
        ),
        ([("x.png", b""), ("x.cls", b"\xff")], r"x\.cls is not text in UTF-8"),
        ([("x.png", b""), ("x.cls", b"1" * 5000)], r"x\.cls has 5,000 bytes, and cannot be a label"),
        ([("x.png", b""), ("y.png", b""), ("x.cls", b"")], r"contains the sample 'x' twice; files of one sample"),
        ([("x\udcff.png", b"")], r"a name that is not UTF-8: 'x\\udcff\.png'; rename it"),
    ],
)
def test_shards_that_are_refused(tmp_path: Path, members: list[Member], message: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", errors="surrogateescape", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    with pytest.raises(SubspectError, match=message):
        open_images(f"wds:{tmp_path}/a.tar")


def test_whole_json_is_no_label(tmp_path: Path) -> None:
    members = [("x.jpg", png()), ("x.json", json.dumps({"id": 1, "kind": "cat"}).encode())]
    place = f"wds:{write_tar(tmp_path / 'a.tar', members)}"
    with pytest.raises(
        SubspectError, match=r"x\.json has fields, .*; name the field .* --label-column \(label_column=\): id, kind$"
    ):
        open_images(place, label_column="json")
    place = f"wds:{write_tar(tmp_path / 'b.tar', [('x.jpg', png()), ('x.json', json.dumps('cat').encode())])}"
    assert labels_of(open_images(place, label_column="json")) == ["cat"]


def test_labels_in_json_that_are_no_labels(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("x.png", png()), ("x.json", b'{"y": 0.5}')])
    place = f"wds:{tmp_path}/a.tar"
    with pytest.raises(SubspectError, match=r"label 0\.5 of a\.tar/x in wds:.* is not a label: .*regression target"):
        open_images(place, label_column="y")
    write_tar(tmp_path / "a.tar", [("x.png", png()), ("x.json", b"{")])
    with pytest.raises(SubspectError, match=r"a\.tar: x\.json is not JSON"):
        open_images(place, label_column="y")


def _places(path: Path) -> Iterator[int]:
    """Return where to cut a shard: within a header, a file, before and behind one, and within the zeros at the end."""
    with tarfile.open(path) as archive:
        for member in archive:
            yield member.offset + 100
            yield member.offset_data + member.size // 2
            yield member.offset
        yield archive.offset
        yield archive.offset + 300


@pytest.mark.parametrize("zipped", [False, True])
def test_a_shard_that_ends_half_way_is_refused_at_once(folder: Path, tmp_path: Path, zipped: bool) -> None:
    whole = write_tar(tmp_path / "whole.tar", members_of(folder, 0, 3))
    data, cuts = whole.read_bytes(), [place for place in _places(whole) if place]
    assert len(cuts) > 15
    path = tmp_path / ("a.tar.gz" if zipped else "a.tar")
    for place in cuts:
        path.write_bytes(gzip.compress(data[:place]) if zipped else data[:place])
        with pytest.raises(
            SubspectError, match=r"a\.tar(\.gz)? ends half-way, or is damaged, after [0-2] whole samples? \(.+\); f"
        ):
            open_images(f"wds:{path}")
    if zipped:
        path.write_bytes(gzip.compress(data)[:-700])
        with pytest.raises(SubspectError, match=r"a\.tar\.gz ends half-way, or is damaged, after \d whole sample"):
            open_images(f"wds:{path}")


def test_a_shard_that_is_no_tar(tmp_path: Path) -> None:
    for name in ("a.tar", "a.tar.gz"):
        (tmp_path / name).write_bytes(b"no tar " * 200)
        with pytest.raises(SubspectError, match=r"ends half-way, or is damaged, after 0 whole samples"):
            open_images(f"wds:{tmp_path}/{name}")


def test_a_shard_that_was_cut_after_it_was_listed_costs_its_images_only(folder: Path, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", members_of(folder))
    images = open_images(f"wds:{path}")
    os.truncate(path, 4000)
    images.read(0)
    with pytest.raises(Unusable, match=r"a\.tar ends before it: the shard was changed since it was listed"):
        images.read(11)


def test_a_shard_that_is_gone_after_it_was_listed(folder: Path, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", members_of(folder))
    images = open_images(f"wds:{path}")
    path.unlink()
    with pytest.raises(Unusable, match=r"a\.tar cannot be read: cannot read the shard .*No such file"):
        images.read(0)


def test_json_of_too_many_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"wds:{write_tar(tmp_path / 'a.tar', [('x.png', png()), ('x.json', b'{}')])}"
    monkeypatch.setattr("subspect.images.webdataset.JSON_BYTES", 1)
    with pytest.raises(SubspectError, match=r"x\.json has 2 bytes, more than the 1 that are read of JSON"):
        open_images(place, label_column="y")


def test_samples_without_an_image_and_links_are_never_followed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("x.png", png()), ("y.txt", b"no image")])
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("z.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    images = open_images(f"wds:{path}")
    assert len(images) == 2
    with pytest.raises(Unusable, match="the sample has no image"):
        images.read(1)


def test_an_image_of_too_many_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images(f"wds:{write_tar(tmp_path / 'a.tar', [('x.png', png())])}")
    monkeypatch.setattr("subspect.images.encoded.FILE_BYTES", 10)
    with pytest.raises(Unusable, match=r"\d\d bytes, more than the 10 that are read of an image"):
        images.read(0)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            "wds:{}/b-{{0..2}}.tar",
            r"3 of the 3 WebDataset shards of .* are missing: .*b-0\.tar, .*b-1\.tar, .*; fetch them",
        ),
        (
            "wds:{}/b-{{2..0}}.tar",
            r"stands for 0 files; expected a range of at most 100,000, the smaller number first, such as \{",
        ),
        ("wds:{}/{{0..99999999}}.tar", r"stands for 100,000,000 files"),
        ("wds:{}/b*.tar", r"no such WebDataset shards: .*b\*\.tar \(looked in "),
        ("wds:{}/b.tar", r"no such WebDataset shards: .*b\.tar"),
        ("wds:{}", r"no WebDataset shards in .*; expected files named \*\.tar, \*\.tar\.gz, \*\.tgz"),
        ("wds:https://x.org/a.tar", r"wds:https://x\.org/a\.tar is not on this machine; download the shards"),
        ("wds:pipe:cat a.tar", r"wds:pipe:cat a\.tar is not on this machine"),
        ("wds:{}[train]", r"shards have no splits; name those of one split, such as wds:train-\{000\.\.127\}\.tar"),
    ],
)
def test_places_without_shards(tmp_path: Path, place: str, message: str) -> None:
    with pytest.raises(SubspectError, match=message):
        open_images(place.format(tmp_path))


def test_links_to_shards_lead_outside_only_if_asked(folder: Path, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", members_of(folder))
    (tmp_path / "s").mkdir()
    (tmp_path / "s/a.tar").symlink_to(path)
    for place in (f"wds:{tmp_path}/s", f"wds:{tmp_path}/s/*.tar"):
        with pytest.raises(SubspectError, match=r"a\.tar leads outside .*s: to .*a\.tar; pass outside=True"):
            open_images(place)
        assert len(open_images(place, outside=True)) == 12
