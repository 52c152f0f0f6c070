"""What `subspect verify` says, on the terminal too; and what stays known of a study that was copied or damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import subspect
from conftest import Tiny, unsealed
from subspect import Network, Study, SubspectError, verify
from subspect.cli import app

MakeFolder = Callable[..., Path]


def said(*line: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(line), env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.stdout.replace("│", " ").split())


def test_a_sound_study_is_said_to_be_sound(study: Study) -> None:
    (study.path / "notes.txt").write_text("mine")
    shutil.copyfile(study.path / "sets/train/00000.arrow", study.path / "sets/train/00099.arrow")
    code, text = said("verify", str(study.path))
    assert code == 0 and "165 images" in text and "all files are as subspect wrote them" in text
    assert "not subspect's, and left alone: notes.txt, sets/train/00099.arrow" in text


def test_an_unfinished_set_is_named(study: Study) -> None:
    manifest = study.path / "sets/test/set.json"
    begun = replace(study.manifest("test"), complete=False, rows=0, shards={})
    study.as_set("test", begun).save(begun)
    assert manifest.is_file() and study.unfinished == ["test"]
    code, text = said("verify", str(study.path))
    assert code == 0 and "the image set 'test' is unfinished: run the same observe command again to resume" in text


def test_checksums_are_added_beside_an_old_report(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    unsealed(study.path)
    (study.path / "report.html").write_text("of before checksums were kept")
    code, text = said("verify", str(study.path), "--write")
    assert (
        code == 0 and "checksums were added; damage that couldn't be seen without them is now taken for sound" in text
    )
    assert "report.html is of before checksums were kept: move it away" in text
    assert "no checksums yet" not in caplog.text and verify(study.path).checksums


def test_a_copy_knows_which_decomposition_is_the_newest(study: Study, tmp_path: Path) -> None:
    for k in (3, 1, 2):
        subspect.decompose(study, k)
    shutil.copytree(study.path, tmp_path / "copy")
    for place, path in enumerate(sorted((tmp_path / "copy/decompositions").glob("*.safetensors"), reverse=True)):
        os.utime(path, (place, place))  # a copy in another order
    copied = Study.open(tmp_path / "copy")
    assert copied.decomposition_names == ["pursuit-k3", "pursuit-k1", "pursuit-k2"] == study.decomposition_names
    subspect.decompose(copied, 3)
    assert subspect.load_decomposition(copied).name == "pursuit-k3"
    shutil.copyfile(
        copied.path / "decompositions/pursuit-k1.safetensors", copied.path / "decompositions/mine.safetensors"
    )
    assert subspect.load_decomposition(copied).name == "pursuit-k3"  # what was copied in is no news
    order = copied.path / "decompositions/order.json"
    order.write_text(order.read_text().replace("pursuit-k1", "pursuit-k9"))
    with pytest.raises(SubspectError, match=r"order.json is damaged: .*; delete it, and name decompositions"):
        subspect.load_decomposition(copied)
    assert "decompositions/order.json" in {fault.path for fault in verify(copied.path).faults}
    order.unlink()
    assert set(copied.decomposition_names) == {"mine", "pursuit-k1", "pursuit-k2", "pursuit-k3"}  # by their time


def test_damaged_manifests_and_heads_come_with_advice(study: Study) -> None:
    for name, advice in (
        ("sets/test/set.json", "or delete .*sets/test and observe it again"),
        ("head.safetensors", "restore it from a copy, or delete the study and observe again"),
        ("study.json", "restore it from a copy, or observe into another folder"),
    ):
        path = study.path / name
        whole = path.read_bytes()
        path.write_bytes(b"{")
        with pytest.raises(SubspectError, match=advice):
            opened = Study.open(study.path)
            opened.manifest("test")
            opened.head()
        path.write_bytes(whole)
    (study.path / "study.json").unlink()
    with pytest.raises(SubspectError, match="its image sets are there, so restore study.json from a copy"):
        Study.open(study.path)


def test_images_that_could_not_be_used_have_a_line_each(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder("some", each=20)
    for name in ("x.jpg", "y.jpg"):
        (folder / "a" / name).write_text("text")
    subspect.observe(Network(tiny), folder, tmp_path / "some-study", max_failed=0.5)
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "some-study")], env={"COLUMNS": "200"}).stdout
    assert "\\n" not in shown and any(line.strip(" │").startswith("a/y.jpg: ") for line in shown.splitlines())


def test_a_later_set_takes_the_preprocessing_of_the_study(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    subspect.observe(Network(tiny), make_folder("train"), tmp_path / "study")
    tiny.preprocessing = None  # type: ignore[assignment]
    network = Network(tiny)
    study = subspect.observe(network, make_folder("more", seed=1), tmp_path / "study", "more")
    assert study.set_names == ["train", "more"] and network.preprocessing is None
    with pytest.raises(SubspectError, match="declares no preprocessing and none was given"):
        subspect.observe(network, make_folder("more", seed=1), tmp_path / "another")
