"""Files that appear whole or not at all, fingerprints, and the sentences that errors are made of."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subspect.errors import MissingExtra, SubspectError, Unusable, near, some
from subspect.files import PART, atomic, explain, fingerprint, read_json, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcé犬", max_size=3), inner, max_size=3),
    max_leaves=8,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Atomic files ---------------------------------------------------------------------------------------------------------


def test_atomic_writes_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    with atomic(path) as file:
        file.write(b"one")
        file.write(b"two")
    assert path.read_bytes() == b"onetwo"
    assert names(path.parent) == ["file.bin"]


def test_atomic_shows_the_old_file_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with atomic(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        beside = [name for name in names(tmp_path) if name != "file.bin"]
        assert len(beside) == 1
        assert beside[0].startswith(".file.bin.")  # hidden, so that no reader takes it for a file of its own
        assert beside[0].endswith(PART)
    assert path.read_bytes() == b"new"


def test_atomic_flushes_the_file_and_its_folder_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str | int] = []

    def fsync(handle: int) -> None:
        found = os.fstat(handle)
        synced.append("folder" if stat.S_ISDIR(found.st_mode) else found.st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic(tmp_path / "file.bin") as file:
        file.write(b"four")
    assert synced == ([4, "folder"] if os.name == "posix" else [4])


@pytest.mark.parametrize("stop", [ValueError("no"), KeyboardInterrupt(), SubspectError("no")])
def test_atomic_keeps_the_old_file_when_the_block_fails(tmp_path: Path, stop: BaseException) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(stop)) as raised, atomic(path) as file:
        file.write(b"half")
        raise stop
    assert raised.value is stop
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_atomic_says_that_the_disk_is_full(tmp_path: Path, number: int) -> None:
    path = tmp_path / "file.bin"
    full = pytest.raises(SubspectError, match=r"the disk is full: could not write .*file\.bin; free some space or")
    with full, atomic(path) as file:
        file.write(b"half")
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == []


def test_atomic_says_why_a_place_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a folder")
    inside = pytest.raises(
        SubspectError, match=r"cannot write .*inner: it, or what it lies in, is a file, not a folder; choose another"
    )
    with inside, atomic(tmp_path / "file" / "inner"):
        pytest.fail("the block must not run")
    (tmp_path / "folder").mkdir()
    instead = pytest.raises(SubspectError, match=r"cannot write .*folder: .+; choose a folder")
    with instead, atomic(tmp_path / "folder") as file:
        file.write(b"x")
    assert names(tmp_path) == ["file", "folder"]


def test_explain_without_a_number_repeats_the_error() -> None:
    assert explain(OSError("the tape broke"), Path("a")) == (
        "cannot write a: the tape broke; choose a folder that you may write to"
    )


# JSON -----------------------------------------------------------------------------------------------------------------


def test_json_is_indented_text_with_letters_as_they_are(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"犬": [1, 2]})
    assert (tmp_path / "a.json").read_bytes().decode() == '{\n "犬": [\n  1,\n  2\n ]\n}\n'


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"cat": 3}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"cat": 3}


@given(value=JSON)
@settings(deadline=None, max_examples=40)
def test_json_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match=r"cannot read .*missing\.json: No such file or directory"):
        read_json(tmp_path / "missing.json")
    for content in (b"", b"{", b"\xff\xfe", b"{'a': 1}"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(SubspectError, match=r"a\.json is not JSON: .+"):
            read_json(tmp_path / "a.json")


# Fingerprints ---------------------------------------------------------------------------------------------------------


def test_fingerprint_is_sha256_of_lengths_and_parts() -> None:
    written = b"\x02\0\0\0\0\0\0\0ab" + b"\x02\0\0\0\0\0\0\0\xc3\xa9" + b"\0\0\0\0\0\0\0\0"
    assert fingerprint("ab", "é", b"") == hashlib.sha256(written).hexdigest()
    assert fingerprint() == hashlib.sha256().hexdigest()


def test_fingerprint_takes_text_bytes_and_views_alike() -> None:
    assert fingerprint("abc") == fingerprint(b"abc") == fingerprint(memoryview(b"abc"))


@given(first=st.lists(st.binary(max_size=4), max_size=4), second=st.lists(st.binary(max_size=4), max_size=4))
@settings(deadline=None)
def test_fingerprints_are_equal_only_for_equal_parts(first: list[bytes], second: list[bytes]) -> None:
    assert (fingerprint(*first) == fingerprint(*second)) == (first == second)


# Errors ---------------------------------------------------------------------------------------------------------------


def test_missing_extra_names_the_package_and_how_to_install_it() -> None:
    error = MissingExtra("pandas", "tables", "a table")
    assert str(error) == "a table needs the package 'pandas'; install it with: pip install 'subspect[tables]'"
    assert isinstance(error, SubspectError)
    assert isinstance(error, ImportError)


def test_an_unusable_image_does_not_stop_a_run() -> None:
    assert not issubclass(Unusable, SubspectError)


@pytest.mark.parametrize(
    ("items", "most", "text"),
    [
        ([], 5, ""),
        (["a"], 5, "a"),
        ([1, 2, 3], 3, "1, 2, 3"),
        ([1, 2, 3, 4], 3, "1, 2, 3, … (1 more)"),
        (range(8), 5, "0, 1, 2, 3, 4, … (3 more)"),
    ],
)
def test_some(items: list[object], most: int, text: str) -> None:
    assert some(items, most) == text
    assert some(iter(items), most) == text


def test_some_lists_five_unless_told() -> None:
    assert some("abcdef") == "a, b, c, d, e, … (1 more)"


def test_near() -> None:
    assert near("trucl", ["truck", "ship"]) == " (did you mean 'truck'?)"
    assert near("cat", ["cats", "cart", "ship"]) == " (did you mean 'cats' or 'cart'?)"
    assert near("cat", ["cata", "catb", "catc", "catd"]).count("'cat") == 3
    assert near("cat", ["ship", "plane"]) == ""
    assert near("cat", []) == ""
