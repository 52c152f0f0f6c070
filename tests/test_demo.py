"""The demo: digits, trained, decomposed, reported."""

from __future__ import annotations

import builtins
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

import subspect
from subspect import MissingExtra, SubspectError
from subspect.demo import DIGITS, digits_family, network, run_demo, train_network, write_digits
from subspect.ground.seals import is_sealed
from subspect.resnet import ResNet


def test_the_demo(tmp_path: Path) -> None:
    made = run_demo(tmp_path / "demo", show_progress=False)
    cost = made.fidelity.overall
    assert cost.dense_accuracy.value >= 0.97 and made.fidelity.where.image_set == "test" and cost.images == 360
    assert 0.85 <= cost.accuracy.value <= cost.dense_accuracy.value
    assert made.decomposition.supports.sizes.tolist() == [5] * 10
    assert made.decomposition.class_names == DIGITS and all(name in made.report.read_text() for name in DIGITS)
    assert made.report.stat().st_size < 10e6
    weights = (tmp_path / "demo/weights.safetensors").read_bytes()
    assert is_sealed(tmp_path / "demo/weights.safetensors")
    again = run_demo(tmp_path / "demo", k=3, show_progress=False)  # nothing is trained or observed twice
    assert (tmp_path / "demo/weights.safetensors").read_bytes() == weights
    assert again.decomposition.supports.sizes.tolist() == [3] * 10
    small = made.decomposition.apply(
        subspect.load_network("python:subspect.demo:network", tmp_path / "demo/weights.safetensors").model
    )
    assert isinstance(small.get_submodule("linear"), subspect.DecomposedHead)


def test_what_classes_are_called_changes_nothing_that_is_learned(tmp_path: Path) -> None:
    write_digits(tmp_path / "train", tmp_path / "test")
    for label, name in enumerate(DIGITS):
        shutil.copytree(tmp_path / "test" / name, tmp_path / "numbers" / str(label))

    def numbered() -> ResNet:
        model = network()
        model.class_names = tuple("0123456789")
        return model

    one = train_network(tmp_path / "test", epochs=1, show_progress=False).state_dict()
    other = train_network(tmp_path / "numbers", build=numbered, epochs=1, show_progress=False).state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_trains_with_one_thread_whatever_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_digits(tmp_path / "train", tmp_path / "test")
    before, seen = torch.get_num_threads(), list[int]()

    def build() -> ResNet:
        seen.append(torch.get_num_threads())
        return network()

    torch.set_num_threads(2)
    try:
        train_network(tmp_path / "test", build=build, epochs=1, show_progress=False)
        assert seen == [1] and torch.get_num_threads() == 2
        monkeypatch.setattr("subspect.demo._are_trained", lambda _: True)
        monkeypatch.setattr("subspect.demo.load_network", lambda *_: seen.append(torch.get_num_threads()))
        monkeypatch.setattr("subspect.demo.run", lambda *_, **__: seen.append(torch.get_num_threads()))
        run_demo(tmp_path)
        assert seen == [1, 1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_digits_that_are_there_stay_and_other_files_are_refused(tmp_path: Path) -> None:
    write_digits(tmp_path / "train", tmp_path / "test")
    files = {path: (path.stat().st_ino, path.read_bytes()) for path in tmp_path.rglob("*.png")}
    assert len(files) == 1797
    write_digits(tmp_path / "train", tmp_path / "test")
    assert files == {path: (path.stat().st_ino, path.read_bytes()) for path in tmp_path.rglob("*.png")}
    one, other = sorted(files)[:2]
    one.write_bytes(b"mine")
    with pytest.raises(SubspectError, match=rf"{one.name} is there already, and not as subspect wrote it"):
        write_digits(tmp_path / "train", tmp_path / "test")
    one.unlink()
    one.symlink_to(other)
    with pytest.raises(SubspectError, match=rf"{one.name} is there already, as a link"):
        write_digits(tmp_path / "train", tmp_path / "test")
    assert one.is_symlink() and other.read_bytes() == files[other][1]


def test_weights_that_are_not_the_demos_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    monkeypatch.setattr("subspect.demo.train_network", lambda *_, **__: pytest.fail("it was trained"))
    for data in (b"mine", save({"linear.weight": torch.zeros(2)}), save({})):
        path.write_bytes(data)
        with pytest.raises(SubspectError, match=r"weights\.safetensors .*; delete it to train anew, or choose another"):
            run_demo(tmp_path, show_progress=False)
        assert path.read_bytes() == data and [one.name for one in tmp_path.iterdir()] == [path.name]
    family = tmp_path / "family"
    write_digits(family / "images" / "train", family / "images" / "test")
    (family / "ResNet-8-0.safetensors").mkdir()
    with pytest.raises(SubspectError, match=r"ResNet-8-0\.safetensors is there already, as a folder"):
        digits_family(family, [8], 1, show_progress=False)


def test_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingExtra, match=r"the demo needs the package 'scikit-learn'; .* -c constraints.txt '\.\[demo\]'"
    ):
        write_digits(tmp_path / "train", tmp_path / "test")
