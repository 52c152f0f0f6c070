"""What `subspect verify` says, on the terminal too; and what stays known of a study that was copied or damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import subspect
from conftest import Tiny, unsealed
from kept import keep_cues
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
    assert code == 0 and "165 images" in text and "all files are intact" in text
    assert "not written by subspect, and left alone: notes.txt, sets/train/00099.arrow" in text


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
        code == 0
        and "checksums were added; any damage that couldn't be detected without them is now accepted as correct" in text
    )
    assert "report.html was written before subspect kept checksums: move it away" in text
    assert "no checksums yet" not in caplog.text and verify(study.path).checksums


def test_damaged_manifests_and_heads_come_with_advice(study: Study) -> None:
    for name, advice in (
        ("sets/test/set.json", "or delete .*sets/test and observe it again"),
        ("head.safetensors", "restore it from a backup, or delete the study and observe again"),
        ("study.json", "restore it from a backup, or observe into another folder"),
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
    with pytest.raises(SubspectError, match="its image sets are there, so restore study.json from a backup"):
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
    with pytest.raises(SubspectError, match="does not declare its preprocessing and none was given"):
        subspect.observe(network, make_folder("more", seed=1), tmp_path / "another")


def test_verify_lists_all_that_is_wrong(study: Study) -> None:
    subspect.decompose(study, 2)
    subspect.decompose(study, 1)
    for name in ("sets/train/00000.arrow", "decompositions/pursuit-k1.safetensors", "head.safetensors"):
        data = bytearray((study.path / name).read_bytes())
        data[-20] ^= 4
        (study.path / name).write_bytes(data)
    (study.path / "sets/test/00000.arrow").unlink()
    (study.path / "holiday.jpg").write_bytes(b"")
    made = verify(study.path)
    assert {fault.path for fault in made.faults} == {
        "sets/train/00000.arrow",
        "decompositions/pursuit-k1.safetensors",
        "head.safetensors",
        "sets/test",
    }
    assert "not written by subspect, and left alone: holiday.jpg" in made.notes
    assert made.to_json()["sound"] is False and "4 are damaged, missing or not the study's own" in str(
        made.tables()[0].title
    )
    assert (study.path / "holiday.jpg").exists()


def test_verify_looks_at_the_report(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.report.SINGLE", 2)
    made = subspect.decompose(study, 2)
    report = subspect.write_report(study, made, fidelity=subspect.evaluate(study, made))
    assert verify(study.path).sound
    page = next((study.path / "report-pages").glob("*/class-0.html"))
    page.write_bytes(page.read_bytes() + b" ")
    [fault] = verify(study.path).faults
    assert fault.path == "report.html" and "its pages are missing or changed: " in fault.what
    report.write_bytes(report.read_bytes() + b" ")
    [fault] = verify(study.path).faults
    assert (
        "it is not the file that subspect wrote (it was changed, damaged, or written by another program)" in fault.what
    )


def test_verify_of_a_sound_study(study: Study) -> None:
    before = {path: path.read_bytes() for path in study.path.rglob("*") if path.is_file()}
    made = verify(study.path, write=True)
    assert made.sound and made.checksums and made.images == 165 and not made.notes
    assert {path: path.read_bytes() for path in study.path.rglob("*") if path.is_file()} == before


def test_verify_looks_at_cues(study: Study) -> None:
    path = keep_cues(study, subspect.decompose(study, 1), {"border": {0: 1.0}})
    made = verify(study.path)
    assert made.sound and not made.notes
    data = bytearray(path.read_bytes())
    data[-20] ^= 4
    path.write_bytes(data)
    (study.path / "cues/notes.txt").write_text("mine")
    made = verify(study.path)
    assert [fault.path for fault in made.faults] == ["cues/pursuit-k1.safetensors"]
    advice = f"delete it, and measure again: subspect cues {study.path} --decomposition pursuit-k1"
    assert made.faults[0].what.endswith(advice)
    assert list(made.notes) == ["not written by subspect, and left alone: cues/notes.txt"]


def test_verify_tells_of_cues_that_are_left_over(study: Study) -> None:
    files = [keep_cues(study, subspect.decompose(study, k), {"border": {0: 1.0}}) for k in (1, 2, 3)]
    (study.path / "decompositions" / files[0].name).unlink()
    shutil.copyfile(files[0], files[1])
    code, text = said("verify", str(study.path))
    left = "about a decomposition that is gone, damaged or another by now, so delete it"
    assert code == 0 and f"note: {left}: cues/pursuit-k1.safetensors, cues/pursuit-k2.safetensors" in text
    assert "pursuit-k3" not in text
