"""What leads out of a folder: links and paths that strangers may have put there are followed only as far as the folder goes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from subspect.ground.errors import SubspectError, shortened


class Fence:
    """Tells what leads out of a folder; with ``outside``, nothing does."""

    def __init__(self, root: Path, outside: bool) -> None:
        self.root, self.outside = root, outside
        self.real = os.path.realpath(root)
        self._inner = self.real.rstrip(os.sep) + os.sep
        self._folders: dict[str, str] = {}  # as a CSV writes them → where they really lie

    def check(self, path: str, name: str) -> None:
        """Check a link.

        Raises:
            SubspectError: it leads outside.
        """
        if not self.outside and self.inside(real := os.path.realpath(path)) is None:
            self.refuse(name, real)

    def inside(self, real: str) -> str | None:
        """Return a real path relative to the root, or None where it lies outside."""
        if real == self.real:
            return ""
        return real.removeprefix(self._inner) if real.startswith(self._inner) else None

    def id(self, given: str, where: str) -> str:
        """Return the id of a path that a table gives: as written, or relative to the root if it was absolute or held ``..``.

        Args:
            given: the path, relative to the root or absolute.
            where: where it stands, such as "line 3", for the message.

        Raises:
            SubspectError: it leads outside.
        """
        if self.outside:
            return given
        folder, name = os.path.split(given)
        if name == "..":
            folder, name = given, ""
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(self.root / folder)
        place = Path(self._folders[folder], name)
        within, shown = self.inside(str(place)), f"{shortened(given)} in {where}"
        if within is None:
            self.refuse(shown, str(place))
        if _is_link(place):
            self.check(str(place), shown)
        return Path(within).as_posix() if Path(given).is_absolute() or ".." in given.split("/") else given

    def refuse(self, name: str, real: str) -> NoReturn:
        """Say what leads where."""
        raise SubspectError(
            f"{name} leads outside {self.root}: to {shortened(real)}; pass outside=True (--outside) if that is intended"
        )


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:  # a name that is too long, say
        return False
