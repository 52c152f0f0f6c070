"""Supports hold what they were given, in order, and index files give them back."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subspect import SubspectError, Supports

D = 9

tables = st.lists(st.lists(st.integers(0, D - 1), unique=True, max_size=D), max_size=6)


@given(tables)
def test_supports_are_the_lists_they_were_given(table: list[list[int]]) -> None:
    supports = Supports(table, D)
    assert len(supports) == len(table)
    assert supports.n_features == D
    assert [row.tolist() for row in supports] == table
    assert [supports[label].tolist() for label in range(len(table))] == table
    assert supports.sizes.tolist() == [len(row) for row in table]
    assert list(zip(supports.rows.tolist(), supports.flat.tolist(), strict=True)) == [
        (label, index) for label, row in enumerate(table) for index in row
    ]
    assert supports.offsets.tolist() == [sum(len(row) for row in table[:label]) for label in range(len(table) + 1)]
    arrays = (supports.flat, supports.offsets, supports.rows, supports.sizes)
    assert [array.dtype for array in arrays] == [np.int64] * 4


@given(tables)
def test_written_and_read_are_the_same(table: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "supports.json"
        supports = Supports(table, D)
        supports.write(path)
        assert json.loads(path.read_text()) == {str(label): row for label, row in enumerate(table)}
        read = Supports.read(path, len(table), D)
        assert read == supports
        with pytest.raises(SubspectError, match=r"supports\.json exists; choose another name, or delete it"):
            read.write(str(path))  # it carries no seal: whose it is cannot be told
        read.write(str(path.with_name("again.json")))
        assert Supports.read(str(path.with_name("again.json")), len(table), D) == supports


def test_arrays_are_copied() -> None:
    row = np.array([2, 0])
    supports = Supports([row], 3)
    row[0] = 1
    assert supports[0].tolist() == [2, 0]


@given(tables, tables)
def test_equal_if_all_is_equal(first: list[list[int]], second: list[list[int]]) -> None:
    assert (Supports(first, D) == Supports(second, D)) == (first == second)
    assert Supports(first, D) != Supports(first, D + 1)
    assert Supports(first, D) != first


def test_order_and_place_of_the_boundary_matter() -> None:
    assert Supports([[1, 2]], D) != Supports([[2, 1]], D)
    assert Supports([[1], [2]], D) != Supports([[1, 2], []], D)


@pytest.mark.parametrize("label", [-1, 2, 3])
def test_class_that_is_not_there(label: int) -> None:
    with pytest.raises(IndexError, match=f"class {label} of 2"):
        Supports([[0], [1]], D)[label]


@pytest.mark.parametrize(("row", "lowest", "highest"), [([0, D], 0, D), ([-1, 3], -1, 3), ([-2, 99], -2, 99)])
def test_index_outside(row: list[int], lowest: int, highest: int) -> None:
    match = f"class 1 has feature indices from {lowest} to {highest}; the network's 9 features go from 0 to 8"
    with pytest.raises(SubspectError, match=match):
        Supports([[0], row], D)


def test_index_twice_in_a_class() -> None:
    with pytest.raises(SubspectError, match="class 1 has a feature twice: 3, 5, 3; name it once$"):
        Supports([[3, 5], [3, 5, 3]], D)
    assert Supports([[3], [3]], D).sizes.tolist() == [1, 1]  # twice, but in two classes


# Index files that cannot be read --------------------------------------------------------------------------------------


def read(tmp_path: Path, table: Any, n_classes: int = 2) -> Supports:
    path = tmp_path / "supports.json"
    path.write_text(json.dumps(table))
    return Supports.read(path, n_classes, D)


def test_classes_may_come_in_any_order(tmp_path: Path) -> None:
    assert read(tmp_path, {"1": [4, 2], "0": []}) == Supports([[], [4, 2]], D)


BAD: list[Any] = [
    [[0], [1]],
    {"0": [0], "one": [1]},
    {"0": [0], "1.0": [1]},
    {"0": [0], "1": 1},
    {"0": [0], "1": None},
    {"0": [0], "1": [1.0]},
    {"0": [0], "1": [True]},
    {"0": [0], "1": ["1"]},
    {"0": [0], "1": [[1]]},
    {"0": [0], "1": "12"},
    {"0": [0], "1": [10**30]},
    {"0": [0], "1": [-(2**63)]},
    3,
    "text",
    None,
]


@pytest.mark.parametrize("table", BAD, ids=json.dumps)
def test_no_index_file(tmp_path: Path, table: Any) -> None:
    match = r'supports.json is not an index file: expected {"0": \[3, 17, …\], "1": …}, class index → feature indices'
    with pytest.raises(SubspectError, match=match):
        read(tmp_path, table)


@pytest.mark.parametrize(
    ("table", "held"),
    [
        ({"0": [1]}, r"1 class \(0\)"),
        ({"0": [1], "1": [2], "2": [3]}, r"3 classes \(0, 1, 2\)"),
        ({"0": [1], "2": [2]}, r"2 classes \(0, 2\)"),
        ({"-1": [1], "0": [2]}, r"2 classes \(-1, 0\)"),
        ({str(label): [] for label in range(7)}, r"7 classes \(0, 1, 2, 3, 4, … \(2 more\)\)"),
    ],
)
def test_other_classes(tmp_path: Path, table: Any, held: str) -> None:
    with pytest.raises(SubspectError, match=rf"supports.json contains {held}; the network has 2: 0 to 1$"):
        read(tmp_path, table)


@pytest.mark.parametrize("key", ["00", "01", " 1", "1 ", "1_0", "+1", "-0", "٣", "1\n"])
def test_class_index_that_is_not_written_plainly(tmp_path: Path, key: str) -> None:
    expected = (
        rf"supports.json has class indices that are not written plainly: {re.escape(repr(key))}; write 0, 1, 2, …"
    )
    with pytest.raises(SubspectError, match=expected):
        read(tmp_path, {"0": [1], key: [2]})


def test_class_index_of_5000_digits(tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match=r"supports.json is not an index file: expected"):
        read(tmp_path, {"0": [1], "1" * 5000: [2]})


@pytest.mark.skipif(os.name != "posix", reason="named pipes and devices of POSIX")
def test_index_file_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in {tmp_path / "pipe": "a named pipe", Path("/dev/zero"): "a device", tmp_path: "a folder"}.items():
        with pytest.raises(SubspectError, match=rf"^cannot read {path}: it is {kind}, not a file$"):
            Supports.read(path, 2, D)


def test_index_file_of_too_many_bytes(tmp_path: Path) -> None:
    with (tmp_path / "supports.json").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(SubspectError, match=r"supports.json has 1,099,511,627,776 bytes, more than the "):
        Supports.read(tmp_path / "supports.json", 2, D)


def test_index_file_of_a_wider_network(tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match="class 1 has feature indices from 2 to 511; the network's 9 features"):
        read(tmp_path, {"0": [0], "1": [2, 511]})


def test_index_file_with_an_index_twice(tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match="class 0 has a feature twice: 4, 4"):
        read(tmp_path, {"0": [4, 4], "1": []})


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match=r"cannot read .*nothing.json: No such file"):
        Supports.read(tmp_path / "nothing.json", 2, D)


def test_no_json(tmp_path: Path) -> None:
    (tmp_path / "supports.json").write_text("0: [1, 2]")
    with pytest.raises(SubspectError, match="supports.json is not JSON"):
        Supports.read(tmp_path / "supports.json", 2, D)


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SubspectError, match=r"cannot write .*supports.json: .*is a file, not a folder; choose another"):
        Supports([[0]], D).write(tmp_path / "file" / "supports.json")
