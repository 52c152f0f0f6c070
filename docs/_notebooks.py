"""Which tutorials are run where: each once, while the site is built or as a test.

All four would take minutes in a build. So `make docs` runs the light ones, whose last cell checks what the page says of its
results; the others are run by tests/test_tutorials.py, where their data is, and the site shows them without results. With
``SUBSPECT_NOTEBOOKS=all`` the build runs them as well. In conf.py::

    from _notebooks import not_run

    nb_execution_excludepatterns = not_run()
"""

from __future__ import annotations

import os

BUILT = ("features-alone", "shortcut")
#: they need the folder that SUBSPECT_DATA names
TESTED = ("own-network", "ten-classes")


def not_run() -> list[str]:
    """Return patterns of the pages that are shown without results, as myst-nb takes them."""
    return [] if os.environ.get("SUBSPECT_NOTEBOOKS") == "all" else [f"tutorials/{name}.md" for name in TESTED]
