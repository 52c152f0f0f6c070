"""The demo: digits, trained, decomposed, reported."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

import subspect
from subspect import MissingExtra
from subspect.demo import run_demo, write_digits


def test_the_demo(tmp_path: Path) -> None:
    made = run_demo(tmp_path / "demo", show_progress=False)
    cost = made.fidelity.overall
    assert cost.dense_accuracy.value >= 0.97 and made.fidelity.image_set == "test" and cost.images == 360
    assert 0.85 <= cost.accuracy.value <= cost.dense_accuracy.value
    assert made.decomposition.supports.sizes.tolist() == [5] * 10
    assert made.report.stat().st_size < 10e6
    weights = (tmp_path / "demo/weights.safetensors").read_bytes()
    again = run_demo(tmp_path / "demo", k=3, show_progress=False)  # nothing is trained or observed twice
    assert (tmp_path / "demo/weights.safetensors").read_bytes() == weights
    assert again.decomposition.supports.sizes.tolist() == [3] * 10
    small = made.decomposition.apply(
        subspect.load_network("python:subspect.demo:network", tmp_path / "demo/weights.safetensors").model
    )
    assert isinstance(small.get_submodule("linear"), subspect.DecomposedHead)


def test_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"the demo needs the package 'scikit-learn'; .* 'subspect\[demo\]'"):
        write_digits(tmp_path / "train", tmp_path / "test")
