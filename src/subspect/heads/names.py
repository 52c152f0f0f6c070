"""What a decomposition may be called."""

from __future__ import annotations

from subspect.ground.errors import SubspectError
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
            f"a decomposition cannot be called {legible(name[:100])!r}: its name is a file's, printable, without / and the "
            f"like, of at most {_NAME_BYTES} bytes, and begins with a letter or a digit"
        )
    return name
