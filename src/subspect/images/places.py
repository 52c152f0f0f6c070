"""Several files by one name: a file, a folder of them, a pattern with ``*``, or a range ``{000..127}``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from math import prod
from pathlib import Path

from subspect.ground.errors import SubspectError, shortened, some
from subspect.ground.files import entries, is_file, is_folder, special
from subspect.images.fence import Fence

_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_MOST = 100_000  # files of a range


def below(place: str, suffixes: Sequence[str], outside: bool, what: str) -> tuple[Path, list[str]]:
    """Return the files that a name stands for: the folder that they lie in, and their paths relative to it, in order.

    Args:
        place: the name.
        suffixes: of the files that count, where a folder or a pattern is named.
        outside: whether links in a folder may lead out of it.
        what: what the files are to be, for messages.

    Raises:
        SubspectError: there are none, some of a range are missing, or a link leads outside.
    """
    if is_folder(Path(place)):
        return Path(place), _in_folder(Path(place), suffixes, outside, what)
    if is_file(Path(place)):
        return Path(place).parent, [Path(place).name]
    fixed = re.split(r"[*?\[{]", place, maxsplit=1)[0]
    folder = fixed[: fixed.rfind("/") + 1]
    root, rest = Path(folder or "."), place[len(folder) :]
    if _RANGE.search(place):
        found = _range(place, what)
    else:
        found = sorted(path for path in (root.glob(rest) if rest else ()) if is_file(path))
    if not found:
        raise SubspectError(
            f"no such {what}: {shortened(place)}{special(Path(place))} (looked in {Path.cwd()}); name files that are there"
        )
    fence, names = Fence(root, outside), [path.relative_to(root).as_posix() for path in found]
    for path, name in zip(found, names, strict=True):
        if path.is_symlink():
            fence.check(str(path), name)
    return root, names


def written_out(place: str) -> str:
    """Return a name of files as it is to be understood from any folder."""
    return str(Path(place).absolute())


def _in_folder(root: Path, suffixes: Sequence[str], outside: bool, what: str) -> list[str]:
    fence, found, todo = Fence(root, outside), list[str](), [""]
    while todo:
        prefix = todo.pop()
        for entry in entries(root / prefix):
            name = f"{prefix}{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                todo.append(f"{name}/")
            elif entry.name.lower().endswith(tuple(suffixes)) and is_file(Path(entry.path)):
                if entry.is_symlink():
                    fence.check(entry.path, name)
                found.append(name)
    if not found:
        raise SubspectError(f"no {what} in {root}; expected files named {', '.join('*' + one for one in suffixes)}")
    return sorted(found)


def _range(place: str, what: str) -> list[Path]:
    """Write out the ranges of a name; numbers are as wide as the first of them.

    Raises:
        SubspectError: a range is empty or too long, or files of it are missing.
    """
    parts = _RANGE.split(place)
    ends = [(first, int(first), int(last)) for first, last in zip(parts[1::3], parts[2::3], strict=True)]
    count = prod(max(last - first + 1, 0) for _, first, last in ends)
    if not 0 < count <= _MOST:
        raise SubspectError(
            f"{shortened(place)} stands for {count:,} files; expected a range of at most {_MOST:,}, the smaller number first, "
            "such as {000..127}"
        )
    numbers = [[str(one).zfill(len(text)) for one in range(first, last + 1)] for text, first, last in ends]
    paths = [
        Path("".join(part for pair in zip(parts[::3], (*chosen, ""), strict=True) for part in pair))
        for chosen in product(*numbers)
    ]
    missing = [path for path in paths if not is_file(path)]
    if missing:
        raise SubspectError(
            f"{len(missing):,} of the {len(paths):,} {what} of {shortened(place)} are missing: {some(missing, 3)}; fetch "
            "them, or name those that are there"
        )
    return paths
