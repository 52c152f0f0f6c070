"""Networks of every family of timm, torchvision and transformers, random weights: docs/architectures.md says what is found.

The table there is what `benchmarks/architectures.py` prints; each of its rows is found again here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from _architectures import TABLE, TRANSFORMERS, as_row, looked_at

_DOCS = (Path(__file__).parents[1] / "docs/architectures.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^[|] (timm|torchvision|transformers) [|] `(.+?)` [|].*$", re.MULTILINE)
_ROWS = {(found[1], found[2]): found[0] for found in _ROW.finditer(_DOCS)}
pytestmark = pytest.mark.usefixtures("zoos")


def test_the_table_has_every_family() -> None:
    import timm
    from timm.models import get_pretrained_cfg
    from torchvision import models

    assert TABLE in _DOCS
    listed = {(library, name.partition("(")[0]) for library, name in _ROWS}
    families = {
        module: [name for name in timm.list_models(module=module) if get_pretrained_cfg(name).num_classes]
        for module in timm.list_modules()
    }
    families = {module: names for module, names in families.items() if names}
    assert len(families) >= 60
    assert [module for module, names in families.items() if not any(("timm", name) in listed for name in names)] == []
    kinds = {models.get_model_builder(name).__module__ for name in models.list_models(module=models)}
    shown = {models.get_model_builder(name).__module__ for library, name in listed if library == "torchvision"}
    assert kinds == shown and len(kinds) == 17
    assert {name for library, name in listed if library == "transformers"} == set(TRANSFORMERS)


@pytest.mark.parametrize(("library", "name"), _ROWS, ids=[name for _, name in _ROWS])
def test_what_is_found(library: str, name: str) -> None:
    found = looked_at(library, name)
    assert found.result in ("found", "explained") and (found.maps or found.reason)
    assert as_row(library, found) == _ROWS[library, name]
