"""Images in Parquet files: as bytes in a column, as Hugging Face writes them, or as paths relative to the file.

A group of rows is gone through in order, some rows at a time, so that memory doesn't grow with the group; an earlier row
begins the group again.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from subspect.ground.errors import SubspectError, Unusable, near, shortened, some
from subspect.ground.files import fingerprint, open_file
from subspect.images.cells import Chosen, choose, data_of
from subspect.images.columns import RawLabels
from subspect.images.encoded import Encoded, OpenFile
from subspect.images.fence import Fence
from subspect.images.folders import Files
from subspect.images.places import below, written_out
from subspect.images.sources import Images

SUFFIXES = (".parquet", ".pq")  #: file names that count as Parquet
_ROWS = 16  # that are unpacked at once
_SPLIT = re.compile(r"(?:.*/)?(.+)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.parquet")  # as Hugging Face names files


class ParquetImages(Encoded):
    """Images as bytes in a column of Parquet files; an id is ``FILE/ROW``.

    Args:
        place: the name of all.
        root: the folder that files are relative to.
        files: their paths relative to it.
        columns: the columns to read.
        labels: of all rows.
        outside: whether paths in the column of images may lead out of the folder.
        image_column: the column that the user named.
    """

    def __init__(
        self,
        place: str,
        root: Path,
        files: Sequence[str],
        columns: Chosen,
        labels: RawLabels,
        outside: bool,
        image_column: str | None,
    ) -> None:
        super().__init__("Parquet", labels, place, image_column)
        self._root, self._names, self._column, self._fence = root, tuple(files), columns.image, Fence(root, outside)
        groups, self._prints = list[list[int]](), list[str]()
        for name in files:
            with _opened(root / name) as file:
                about = file.metadata
                groups.append([about.row_group(one).num_rows for one in range(about.num_row_groups)])
            self._prints.append(f"{name}\0{_footer(root / name)}")
        self._groups = [[0, *accumulate(rows)] for rows in groups]  # the rows at which groups begin, and the end
        self._starts = [0, *accumulate(sum(rows) for rows in groups)]
        self._digits = len(str(max(sum(rows) for rows in groups)))
        self._rows = _Rows(self._open, columns.image)

    def __len__(self) -> int:
        return self._starts[-1]

    def id(self, index: int) -> str:
        """Return the file, and the number of the row in it."""
        file, row = self._place_of(index)
        return f"{self._names[file]}/{row:0{self._digits}d}"

    def position(self, id: str) -> int:
        """Return the position of a file and a row."""
        name, _, row = id.rpartition("/")
        if name in self._names and row.isascii() and row.isdecimal() and len(row) == self._digits:
            file = self._names.index(name)
            index = self._starts[file] + int(row)
            if index < self._starts[file + 1]:
                return index
        raise self._unknown(id)

    def data(self, index: int) -> bytes:
        """Read the image in a row."""
        file, row = self._place_of(index)
        group = bisect_right(self._groups[file], row) - 1
        try:
            cell = self._rows.cell(file, group, row - self._groups[file][group])
        except (pa.ArrowException, OSError, SubspectError) as error:
            raise Unusable(f"{self._names[file]} cannot be read: {_first_line(error)}") from error
        folder = self._names[file].rpartition("/")
        return data_of(cell, self._fence, folder[0] + folder[1], f"row {row} of {self._names[file]}")

    def listed(self) -> Iterable[str]:
        """Return the column, and name, size and description of each file."""
        return [self._column, *self._prints]

    def _place_of(self, index: int) -> tuple[int, int]:
        file = bisect_right(self._starts, index) - 1
        return file, index - self._starts[file]

    def _open(self, file: int) -> pyarrow.parquet.ParquetFile:
        return _opened(self._root / self._names[file])


class _Rows:
    """The cells of a column, read forwards."""

    def __init__(self, open: Any, column: str) -> None:
        self._file, self._column = OpenFile[Any](open), column
        self._forget()

    def _forget(self) -> None:
        self._at: tuple[int, int, int] | None = None
        self._start, self._batch = 0, list[Any]()
        self._left: Iterator[Any] = iter(())

    def cell(self, file: int, group: int, row: int) -> object:
        """Return the cell in a row of a group of a file."""
        try:
            if self._at != (os.getpid(), file, group) or row < self._start:
                self._left = self._file(file).iter_batches(batch_size=_ROWS, row_groups=[group], columns=[self._column])
                self._at, self._start, self._batch = (os.getpid(), file, group), 0, []
            while row >= self._start + len(self._batch):
                self._start += len(self._batch)
                self._batch = next(self._left).column(0)
            return self._batch[row - self._start].as_py()
        except StopIteration:
            self._forget()
            raise SubspectError("it has fewer rows than when it was listed") from None
        except BaseException:
            self._forget()
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {"_file": self._file, "_column": self._column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def from_parquet(
    place: str, split: str | None, outside: bool, image_column: str | None, label_column: str | None
) -> Images:
    """Open the Parquet files of a place: a file, a folder of them, a pattern (``*``), or a range (``{000..127}``).

    Raises:
        SubspectError: there are none, they belong to several splits and none is named, they are damaged or differ in their
            columns, or the columns of images and labels are not clear.
    """
    root, files = below(place, SUFFIXES, outside, "Parquet files")
    if split is not None or Path(place).is_dir():
        files = _of_split(place, files, split)
    whole = f"parquet:{written_out(place)}" + (f"[{split}]" if split is not None else "")
    columns = _same_columns(root, files, image_column, label_column)
    labels = columns.labels(_read(root, files, columns.label), whole) if columns.label is not None else RawLabels()
    if not columns.paths:
        return ParquetImages(whole, root, files, columns, labels, outside, image_column)
    found = Files("Parquet", root, _paths(root, files, columns.image, outside), labels.raw)
    found.classes, found.table = labels.classes, files[0] if len(files) == 1 else None
    return found


def _of_split(place: str, files: list[str], asked: str | None) -> list[str]:
    """Return the files of a split, by their names; all if they name none."""
    splits: dict[str, list[str]] = {}
    for name in files:
        found = _SPLIT.fullmatch(name)
        splits.setdefault(found[1] if found else "", []).append(name)
    known = sorted(name for name in splits if name)
    if asked is None and len(known) < 2:
        return files
    if asked not in splits or not asked:
        wrong = f"has no split {shortened(asked)!r}{near(asked, known)}" if asked is not None else "has several splits"
        raise SubspectError(
            f"parquet:{shortened(place)} {wrong}; its files, named SPLIT-00000-of-00001.parquet, are of "
            f"{some(known, 10) or 'none'}; name one: parquet:FOLDER[SPLIT]"
        )
    return splits[asked]


def _same_columns(root: Path, files: Sequence[str], image: str | None, label: str | None) -> Chosen:
    first: Chosen | None = None
    for name in files:
        with _opened(root / name) as file:
            found = choose(file.schema_arrow, image, label, str(root / name))
        if first is not None and found != first:
            raise SubspectError(
                f"{root / name} has other columns of images or labels, or other class names, than {files[0]}: "
                f"{found.image} and {found.label or 'no labels'}, not {first.image} and {first.label or 'no labels'}; open "
                "the files one by one"
            )
        first = found
    assert first is not None
    return first


def _read(root: Path, files: Sequence[str], column: str) -> list[Any]:
    values = list[Any]()
    for name in files:
        with _opened(root / name) as file:
            try:
                values += file.read(columns=[column]).column(0).to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise SubspectError(_damaged(root / name, error)) from error
    return values


def _paths(root: Path, files: Sequence[str], column: str, outside: bool) -> list[str]:
    """Return the paths in a column, each relative to its file's folder, as ids."""
    fence, found = Fence(root, outside), list[str]()
    for name in files:
        folder = name.rpartition("/")
        for row, given in enumerate(_read(root, [name], column)):
            where = f"row {row} of {root / name}"
            if not given:
                raise SubspectError(f"{where} has no path; give one in every row")
            if "\0" in given:
                raise SubspectError(f"{where} has a NUL character, which no path can contain; remove it")
            found.append(fence.id(given if Path(given).is_absolute() else f"{folder[0]}{folder[1]}{given}", where))
    return found


def _opened(path: Path) -> pyarrow.parquet.ParquetFile:
    open_file(path, "the Parquet file").close()  # which refuses what isn't a regular file
    try:
        return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except (pa.ArrowException, OSError) as error:
        raise SubspectError(_damaged(path, error)) from error


def _footer(path: Path) -> str:
    """Identify a file by its size and what its end says of its columns: sizes, places and extremes of their parts."""
    with open_file(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 8, 0))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(size - 8 - length, 0))
        return fingerprint(str(size), file.read(length))


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is not a Parquet file, ends half-way or is damaged ({_first_line(error)}); fetch or write it again"


def _first_line(error: Exception) -> str:
    return shortened(str(error).partition("\n")[0], 200)
