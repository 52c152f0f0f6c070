"""Ten lines from a network to answers, as a notebook has them, and all that they return."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import subspect
from conftest import PIXELS, Tiny

NAMES = ("<b>cat</b>", "dog & wolf", "猫 кот")


@contextmanager
def asked(folder: Path) -> Iterator[dict[str, Any]]:
    """What each of the ten lines returns."""
    generator = np.random.default_rng(0)
    for name, count in (("train", 90), ("test", 45)):
        for index in range(count):
            path = folder / name / str(index % 3) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        network = subspect.Network(Tiny(), class_names=NAMES, preprocessing=PIXELS)
        subspect.observe(network, "train", "study", class_map={"0": 0, "1": 1, "2": 2}, show_progress=False)
        subspect.observe(network, "test", "study", "test", class_map={"0": 0, "1": 1, "2": 2}, show_progress=False)

        study = subspect.open_study("study")
        decomposition = study.decompose(k=2, show_progress=False)
        same = study["pursuit-k2"]
        fidelity = decomposition.evaluate()
        explanation = decomposition.explain(network, "test/0/0.png")
        comparison = decomposition.compare("dog & wolf", 2)
        essentiality = decomposition.essentiality(repeats=2, show_progress=False)
        selectivity, geometry = study.selectivity(k=2), decomposition.geometry()
        edited = decomposition.edit([("dog & wolf", decomposition.rows("dog & wolf")[0].feature)])
        report = decomposition.report("report.html", network=network, show_progress=False)

        difference = decomposition.diff(edited.decomposition)
        exported = decomposition.export("small.safetensors")
        verified, checked = study.verify(show_progress=False), decomposition.findings(network=network)
        assert (folder / report).is_file() and same.study is study and same.to_json() == decomposition.to_json()
        shown = {
            "study": study,
            "decomposition": decomposition,
            "fidelity": fidelity,
            "explanation": explanation,
            "comparison": comparison,
            "essentiality": essentiality,
            "selectivity": selectivity,
            "geometry": geometry,
            "edited": edited,
            "difference": difference,
            "exported": exported,
            "verified": verified,
            "checked": checked,
        }
        yield shown  # the study is a path relative to the folder
