"""What a decomposition may be called, and which class is meant by a name."""

from __future__ import annotations

from collections.abc import Sequence

from subspect.ground.errors import SubspectError, near, some
from subspect.ground.text import legible

_NAME_BYTES = 200  # of a decomposition's name, which is a file's


def check_name(name: str) -> str:
    """Check that a decomposition can be called so, since its name is that of a file; return it.

    Raises:
        SubspectError: it cannot.
    """
    odd = not name or name[0] in ".- " or any(one in '/\\:*?"<>|' for one in name) or not name.isprintable()
    if odd or legible(name) != name or len(name.encode(errors="replace")) > _NAME_BYTES:
        raise SubspectError(
            f"a decomposition cannot be called {legible(name[:100])!r}: its name must do for a file, printable, without / and "
            f"the like, of at most {_NAME_BYTES} bytes, and begins with a letter or a digit"
        )
    return name


def class_index(given: int | str, names: Sequence[str]) -> int:
    """Return the index of a class that was named by its name or index; a name goes first.

    Raises:
        SubspectError: there is no such class, or several have the name.
    """
    if isinstance(given, str) and given in names:
        if names.count(given) > 1:
            which = [index for index, name in enumerate(names) if name == given]
            raise SubspectError(f"{len(which)} classes are called {given!r}; name one by its index: {some(which)}")
        return names.index(given)
    whole = given.isdecimal() and len(given) < 10 if isinstance(given, str) else hasattr(given, "__index__")
    index = int(given) if whole else -1
    if not 0 <= index < len(names):
        raise SubspectError(
            f"no class {given!r}{near(str(given), names)}; the network has {len(names)}: {some(names)}, "
            f"or 0 to {len(names) - 1}"
        )
    return index
