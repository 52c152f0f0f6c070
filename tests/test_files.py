"""Files that appear whole or not at all, fingerprints, and the sentences that errors are made of."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subspect.ground import files
from subspect.ground.errors import MissingExtra, SubspectError, Unusable, near, some
from subspect.ground.files import (
    atomic,
    check_free,
    explain,
    fingerprint,
    is_file,
    is_folder,
    make_folder,
    open_file,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    sweep,
)
from subspect.ground.locks import locked
from subspect.ground.text import to_json
from subspect.ground.unfinished import part_name

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcé犬", max_size=3), inner, max_size=3),
    max_leaves=8,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Writing --------------------------------------------------------------------------------------------------------------


def mine(path: Path) -> bool:
    return path.read_bytes().startswith(b"mine")


def test_atomic_writes_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    with atomic(path) as file:
        file.write(b"one")
        file.write(b"two")
        (part,) = names(path.parent)
        assert part.startswith(".subspect-") and part.endswith(".part")
    assert path.read_bytes() == b"onetwo"
    assert names(path.parent) == ["file.bin"]


def test_atomic_shows_the_old_file_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"mine, old")
    with atomic(path, mine) as file:
        file.write(b"new")
        assert path.read_bytes() == b"mine, old"
    assert path.read_bytes() == b"new"


def test_atomic_gives_a_file_the_mode_of_any_other(tmp_path: Path) -> None:
    with atomic(tmp_path / "ours") as file:
        file.write(b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), ValueError("no"), SubspectError("no")])
def test_atomic_leaves_the_old_file_after_an_error(tmp_path: Path, stop: BaseException) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"mine, old")
    with pytest.raises(type(stop)) as raised, atomic(path, mine) as file:
        file.write(b"half")
        raise stop
    assert raised.value is stop
    assert path.read_bytes() == b"mine, old"
    assert names(tmp_path) == ["file.bin"]


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"theirs")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, ours, message in (
        ("file", None, r"file exists; choose another name, or delete it"),
        (
            "file",
            mine,
            r"file is there already, and not as subspect wrote it .*: it stays as it is; choose another name",
        ),
        ("link", mine, r"link is there already, as a link; choose another name"),
        ("dangling", mine, r"dangling is there already, as a link"),
        ("folder", mine, r"folder is there already, as a folder"),
        ("pipe", mine, r"pipe is there already, as a named pipe"),
    ):
        with pytest.raises(SubspectError, match=message), atomic(tmp_path / name, ours):
            pytest.fail("the block must not run")
    assert (tmp_path / "file").read_bytes() == b"theirs" and not (tmp_path / "nowhere").exists()


def test_what_appears_while_a_file_is_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    with pytest.raises(SubspectError, match="file exists; choose another name"), atomic(path) as file:
        file.write(b"ours")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs" and names(tmp_path) == ["file"]
    path.unlink()
    monkeypatch.setattr(files, "check_free", lambda *_: None)  # it appears after the last look
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    with pytest.raises(SubspectError, match="file appeared while it was being written"), atomic(path) as file:
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs" and names(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
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
    for name, message in (("x" * 300, "File name too long"), ("a\0b", "null byte")):
        with pytest.raises(SubspectError, match=f"cannot write .*{message}"), atomic(tmp_path / name):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["file"]


def test_explain_without_a_number_repeats_the_error() -> None:
    assert explain(OSError("the tape broke"), Path("a")) == (
        "cannot write a: the tape broke; choose a folder that you may write to"
    )


def test_a_name_as_long_as_the_disk_allows_can_be_written(tmp_path: Path) -> None:
    with atomic(tmp_path / ("x" * 255)) as file:
        file.write(b"x")


def test_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "in"):
        with pytest.raises(SubspectError, match="is a file, not a folder; choose another place"):
            make_folder(path)
    with pytest.raises(SubspectError, match="cannot write .*null byte"):
        make_folder(tmp_path / "a\0")


# What killed writers leave --------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from subspect.ground.files import atomic
with atomic(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "file")], timeout=60)
    (left,) = names(tmp_path)
    assert (tmp_path / left).read_bytes() == b"half"
    with atomic(tmp_path / "other") as file:
        file.write(b"x")
    assert names(tmp_path) == ["other"]


def test_what_another_writer_still_writes_stays(tmp_path: Path) -> None:
    with atomic(tmp_path / "one") as one, atomic(tmp_path / "two") as two:
        sweep(tmp_path)
        assert len(names(tmp_path)) == 2
        one.write(b"1")
        two.write(b"2")
    assert [(tmp_path / name).read_bytes() for name in ("one", "two")] == [b"1", b"2"]


def test_names_like_ours_are_not_ours(tmp_path: Path) -> None:
    ours = part_name()
    digit = "0" if ours[12] != "0" else "1"
    decoys = [".report.html.123.part", ".movie.part", ".subspect-1.part", ours[:12] + digit + ours[13:], f"{ours}.part"]
    for name in decoys:
        (tmp_path / name).write_bytes(b"theirs")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"theirs")
    (tmp_path / part_name()).symlink_to(tmp_path / "elsewhere" / "file")
    (tmp_path / part_name()).mkdir()
    os.mkfifo(tmp_path / part_name())
    before = names(tmp_path)
    sweep(tmp_path)
    sweep(tmp_path / "nowhere")
    assert names(tmp_path) == before
    (tmp_path / ours).write_bytes(b"half")
    sweep(tmp_path)
    assert names(tmp_path) == before


# Locks ----------------------------------------------------------------------------------------------------------------


def test_a_lock_keeps_others_out_or_lets_them_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        locked(tmp_path / "new", "writing there"),
        pytest.raises(SubspectError, match="another process is writing there; wait for it, or choose another folder"),
        locked(tmp_path / "new", "writing there", wait=0),
    ):
        pytest.fail("the block must not run")
    holder = threading.Event()

    def hold() -> None:
        with locked(tmp_path, "writing there"):
            holder.set()
            time.sleep(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    holder.wait()
    with caplog.at_level("INFO", logger="subspect"), locked(tmp_path, "writing there", wait=30):
        thread.join()
    assert "waiting: another process is writing there" in caplog.text


def test_a_lock_is_no_way_into_other_files(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / ".lock").symlink_to(tmp_path / "theirs")
    refused = pytest.raises(SubspectError, match=r"\.lock is not a file of subspect's but a link; remove it")
    with refused, locked(tmp_path, "writing"):
        pytest.fail("the block must not run")
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    (tmp_path / "theirs").replace(tmp_path / ".lock")
    with locked(tmp_path, "writing"):
        pass
    assert (tmp_path / ".lock").read_bytes() == b"theirs"
    with pytest.raises(SubspectError, match="is a file, not a folder"), locked(tmp_path / ".lock", "writing"):
        pytest.fail("the block must not run")


# Reading --------------------------------------------------------------------------------------------------------------


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "pipe", "cannot read the map .*pipe: it is a named pipe, not a file"),
        (Path("/dev/zero"), "cannot read the map /dev/zero: it is a device, not a file"),
        (tmp_path, "cannot read the map .*: it is a folder, not a file"),
        (tmp_path / "missing", "cannot read the map .*missing: No such file or directory"),
        (tmp_path / ("x" * 300), "cannot read the map .*: File name too long"),
        (tmp_path / "a\0b", "cannot read the map .*: .*null byte"),
    ):
        with pytest.raises(SubspectError, match=message):
            open_file(path, "the map")
        assert not is_file(path) and is_folder(path) == (path == tmp_path)
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert read_bytes(tmp_path / name) == b"abc" and is_file(tmp_path / name)
    with pytest.raises(SubspectError, match="the map .*file has 3 bytes, more than the 2 that are read of such a file"):
        read_bytes(tmp_path / "file", "the map", limit=2)


def test_text_is_utf8(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("é", encoding="utf-8-sig")
    assert read_text(tmp_path / "a") == "é"
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(SubspectError, match="the names .*a is not text in UTF-8"):
        read_text(tmp_path / "a", "the names")


# JSON -----------------------------------------------------------------------------------------------------------------


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"cat": 3}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"cat": 3}


@given(value=JSON)
@settings(deadline=None, max_examples=40)
def test_json_is_read_as_the_standard_library_does(value: object) -> None:
    for ascii in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii).encode(), Path("a")) == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON: "),
        (b"{", "is not JSON: "),
        (b"\xff\xfe", "is not JSON: "),
        (b"{'a': 1}", "is not JSON: "),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" * 101 + b"]" * 101, "nested more than 100 deep"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "nested more than 100 deep"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice in one object"),
        (b"[NaN]", "NaN is no JSON value"),
        (b"[-Infinity]", "-Infinity is no JSON value"),
        (b"[1e999]", "the number 1e999 is out of range"),
        (b"1" * 5000, "is not JSON: "),
        (b'["\\ud800"]', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
    ],
)
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(SubspectError, match=rf"a\.json .*{message}"):
        read_json(tmp_path / "a.json")


def test_a_key_that_stands_twice_among_many_is_found_at_once() -> None:
    keys = ",".join(f'"{number}":0' for number in [*range(50_000), 49_999])
    start = time.perf_counter()
    with pytest.raises(SubspectError, match="the key '49999' stands twice in one object"):
        parse_json(f"{{{keys}}}".encode(), Path("a"))
    assert time.perf_counter() - start < 10


def test_json_that_is_read_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"a":' * 100 + b"1" + b"}" * 100)
    assert to_json(read_json(tmp_path / "a.json")).count("{") == 100


def test_json_may_hold_pairs_of_surrogates() -> None:
    assert parse_json(b'["\\ud83d\\ude00"]', Path("a")) == ["😀"]


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
    assert str(error) == (
        "a table needs the package 'pandas'; install it, in the clone of subspect, with: "
        "pip install -c constraints.txt '.[tables]'"
    )
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
    assert near("cat", []) == near("", ["a b"]) == ""
    assert near("tench", ["0000_n01440764_tench", "tenches at sea"]) == " (did you mean '0000_n01440764_tench'?)"
    assert near("Cat", ["my cat, tabby", "category of all"]) == " (did you mean 'my cat, tabby'?)"
    assert near("CIFAR", ["cifar"]) == " (did you mean 'cifar'?)" and near("a.b", ["x aXb"]) == ""


def test_a_refusal_clears_what_a_killed_writer_left(tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_text("whole")
    (tmp_path / part_name()).write_text("the same file under its first name")
    with pytest.raises(SubspectError, match="exists; choose another name"):
        check_free(tmp_path / "small.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
