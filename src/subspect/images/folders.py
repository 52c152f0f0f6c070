"""Images in files: a folder of class folders, a flat folder, or a CSV with the columns path and label.

What lies in a folder may come from strangers: no link is followed out of it, only regular files are opened, only formats
whose readers start no other program are decoded, and sizes are checked before memory is allocated.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from subspect.ground.errors import SubspectError, near, shortened, some
from subspect.ground.files import entries, fingerprint, is_file, is_folder, read_bytes
from subspect.ground.text import counted
from subspect.images.columns import IMAGE_NAMES, LABEL_NAMES, NO_COLUMN
from subspect.images.decoding import decode_with_digest
from subspect.images.fence import Fence
from subspect.images.sources import ClassMatch, Example, Images, NamedImages

SUFFIXES = frozenset(
    ".avif .bmp .gif .jp2 .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)  #: file names that count as images, in upper or lower case


class Files(NamedImages):
    """Image files below a root, listed once; ids are their paths relative to it, with ``/``."""

    def __init__(self, kind: str, root: Path, paths: Sequence[str], raw: Sequence[str] | Sequence[int] | None) -> None:
        odd = [path for path in paths if path != path.encode(errors="ignore").decode()]
        if odd:
            raise SubspectError(f"{len(odd)} file names in {root} are not UTF-8: {some(map(ascii, odd))}; rename them")
        self.kind, self.root, self.paths, self.raw = kind, root, paths, raw
        self.labelled = raw is not None
        self.classes = tuple(sorted({label for label in raw or () if isinstance(label, str)})) or None

    def __len__(self) -> int:
        return len(self.paths)

    def id(self, index: int) -> str:
        """Return the path relative to the root."""
        return self.paths[index]

    def read(self, index: int) -> Example:
        """Decode the file into RGB."""
        assert self.root is not None
        image, found = decode_with_digest(self.root / self.paths[index])
        return Example(image, self.label(index), found)

    def label(self, index: int) -> int | str | None:
        """Return the raw label of an image."""
        return self.raw[index] if self.raw is not None else None

    def fingerprint(self, match: ClassMatch | None) -> str:
        """Hash paths, file sizes and class indices; not the files' bytes, which would cost a second reading."""
        assert self.root is not None
        rows = []
        for index, path in enumerate(self.paths):
            label = match(self.raw[index]) if match is not None and self.raw is not None else None
            rows.append(f"{path}\0{_bytes(self.root / path)}\0{label}")
        return fingerprint("\n".join(rows))


def from_folder(root: Path, outside: bool) -> Images:
    """Return the images of a folder of class folders, or of a flat folder.

    Raises:
        SubspectError: there are no images, or images as well as folders of images, or something leads outside.
    """
    fence = Fence(root, outside)
    found = sorted(_shown(root), key=lambda entry: Path(entry.name))
    flat = [entry.name for entry in found if _is_image(entry, entry.name, fence)]
    folders = {entry.name: _below(entry, fence) for entry in found if _is_folder(entry)}
    filled = [name for name, paths in folders.items() if paths]
    if flat and filled:
        raise SubspectError(
            f"{root} holds both images ({some(flat, 2)}) and folders of images ({some(filled, 2)}): pass a folder of class "
            "folders, or a folder with only images"
        )
    if flat:
        return Files("flat folder", root, flat, None)
    if not filled:
        others = some([entry.name for entry in found], 3) or "nothing"
        raise SubspectError(
            f"no images in {root}: it contains {others}; expected class folders with images, or images "
            f"({' '.join(sorted(SUFFIXES))}); for shards give wds:FOLDER, for Parquet files parquet:FOLDER, for what "
            "save_to_disk wrote hfds:FOLDER"
        )
    pairs = [(path, name) for name, paths in folders.items() for path in paths]
    files = Files("folder", root, [path for path, _ in pairs], [name for _, name in pairs])
    files.classes = tuple(sorted(folders))  # a class folder without images still holds its place in the order
    return files


def _below(folder: os.DirEntry[str], fence: Fence) -> list[str]:
    """List the images below a class folder, relative to the root; links to folders further below are passed over."""
    if folder.is_symlink():
        fence.check(folder.path, folder.name)
    found: list[str] = []
    todo = [(folder.path, folder.name)]
    while todo:
        place, prefix = todo.pop()
        for entry in _shown(place):
            name = f"{prefix}/{entry.name}"
            if _is_image(entry, name, fence):
                found.append(name)
            elif entry.is_dir(follow_symlinks=False):
                todo.append((entry.path, name))
    return sorted(found, key=Path)


def _shown(folder: str | Path) -> list[os.DirEntry[str]]:
    """List a folder but for hidden names."""
    return [entry for entry in entries(Path(folder)) if not entry.name.startswith(".")]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return is_folder(Path(entry.path)) if entry.is_symlink() else entry.is_dir(follow_symlinks=False)


def _is_image(entry: os.DirEntry[str], name: str, fence: Fence) -> bool:
    """Tell whether an entry is a file named like an image; only links are asked where they lead, which takes time."""
    if Path(entry.name).suffix.lower() not in SUFFIXES:
        return False
    if not entry.is_symlink():
        return entry.is_file(follow_symlinks=False)
    if not is_file(Path(entry.path)):
        return False
    fence.check(entry.path, name)
    return True


def from_csv(path: Path, outside: bool, image_column: str | None = None, label_column: str | None = None) -> Images:
    """Return the images whose paths are in a CSV file, with their labels if it has such a column.

    Args:
        path: the file.
        outside: whether the paths may lead out of its folder.
        image_column: the column of paths; unless given "path", or another usual name.
        label_column: the column of labels; unless given "label", or another usual name; "none" for no labels.

    Raises:
        SubspectError: not a CSV, a column is missing, a line lacks its path or label, or a path leads outside.
    """
    lines, paths, labels = _rows(path, image_column, label_column)
    blank = [line for line, given in zip(lines, paths, strict=True) if not given.strip()]
    if blank:
        raise SubspectError(f"{path} has no path in line {some(blank)}; give one on every line")
    if labels is not None and "" in labels:
        unlabelled = [line for line, label in zip(lines, labels, strict=True) if not label]
        raise SubspectError(
            f"{path} has no label in {len(unlabelled)} of {len(lines)} lines (line {some(unlabelled)}); label every image, "
            "or leave out the column"
        )
    fence = Fence(path.parent, outside)
    paths = [fence.id(given, f"line {line}") for given, line in zip(paths, lines, strict=True)]
    found = Files("CSV", path.parent, paths, labels)
    found.table = path.name
    return found


def _rows(
    path: Path, image_column: str | None, label_column: str | None
) -> tuple[list[int], list[str], list[str] | None]:
    """Read a CSV: the number of each line, its path with ``/``, and the labels, if there is such a column.

    Raises:
        SubspectError: not a CSV in UTF-8, no column "path", or a line with more fields than there are columns.
    """
    lines, paths, labels = list[int](), list[str](), list[str]()
    with io.TextIOWrapper(io.BytesIO(read_bytes(path)), encoding="utf-8-sig", newline="") as text:
        try:
            reader = csv.reader(text, skipinitialspace=True)
            columns = [name.strip().casefold() for name in next(reader, [])]
            at = _column(path, columns, image_column, "path", IMAGE_NAMES)
            label_at = _column(path, columns, label_column, "label", LABEL_NAMES)
            if at is None:
                raise SubspectError(
                    f"{path} has the columns {shortened(', '.join(columns)) or 'none'}; expected 'path' and "
                    "'label', or name them with --image-column and --label-column"
                )
            for row in reader:
                if not row:
                    continue
                if len(row) > len(columns):
                    raise SubspectError(
                        f"{path} has {len(row)} fields in line {reader.line_num} but "
                        f"{counted(len(columns), 'column', 'columns')}; put fields that "
                        "contain a comma in quotes"
                    )
                if "\0" in "".join(row):
                    raise SubspectError(
                        f"{path} has a NUL character in line {reader.line_num}, which no path can contain; remove it"
                    )
                row += [""] * (len(columns) - len(row))
                lines.append(reader.line_num)
                paths.append(row[at].replace("\\", "/"))
                labels += [] if label_at is None else [row[label_at].strip()]
        except (UnicodeDecodeError, csv.Error) as error:
            raise SubspectError(f"{path} is not a CSV file in UTF-8 ({error}); save it as one") from error
    return lines, paths, None if label_at is None else labels


def _column(path: Path, columns: list[str], asked: str | None, first: str, usual: frozenset[str]) -> int | None:
    """Return the place of the column that was asked for, or else of the one called ``first``, or of a usual name."""
    others = [name for name in dict.fromkeys(columns) if name in usual]
    if asked is None and first not in columns and len(others) > 1:
        raise SubspectError(
            f"{path} has several columns that could be {first!r}: {some(others)}; name one with --image-column or "
            "--label-column"
        )
    name = asked.strip().casefold() if asked is not None else first if first in columns else "".join(others)
    if columns.count(name) > 1:
        raise SubspectError(f"{path} has the column {name!r} {columns.count(name)} times; keep one of them")
    if asked is not None and name not in (*columns, NO_COLUMN):
        raise SubspectError(
            f"{path} has no column {shortened(asked)!r}{near(name, columns)}; its columns are {shortened(', '.join(columns))}"
        )
    return columns.index(name) if name in columns else None


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1  # missing: listed as undecodable when its turn comes
