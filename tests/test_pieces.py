"""Image sets that several processes fill, each a part: the same bytes, whoever is last, killed or twice at it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from conftest import Tiny
from elsewhere import Slow, files, observing_slowly, wait_for
from subspect import Network, Study, SubspectError, observe, verify
from subspect.cli import app
from subspect.ground.locks import locked
from subspect.studies.pieces import Piece, observing, piece_of

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.studies.shards._SHARD_IMAGES", 8)


@given(st.integers(1, 50), st.integers(0, 300))
def test_pieces_share_out_all_shards(of: int, count: int) -> None:
    runs = [Piece(number, of).shards(count) for number in range(1, of + 1)]
    assert [shard for run in runs for shard in run] == list(range(count))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


def test_parts_in_any_order_make_the_same_study(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder(each=11)
    (folder / "b" / "005.png").write_text("not an image")
    observe(Network(tiny), folder, tmp_path / "whole", batch_size=4, max_failed=0.1)
    for order in permutations((1, 2, 3)):
        study = tmp_path / f"parts-{order}"
        for number in order:
            assert not Study.open(study).set_names if (study / "study.json").exists() else True
            caplog.clear()
            with caplog.at_level(logging.INFO, logger="subspect"):
                observe(Network(tiny), folder, study, batch_size=4, max_failed=0.1, part=(number, 3))
        assert "accuracy of the network" in caplog.text and "1 of 33 images could not be used" in caplog.text
        assert files(study) == files(tmp_path / "whole")
        assert verify(study).notes == ()


def test_what_parts_say(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_folder(each=11)
    with caplog.at_level(logging.INFO, logger="subspect"):
        study = observe(Network(tiny), folder, tmp_path / "study", batch_size=4, part="2/3")
    assert "17 images left" not in caplog.text and "16 images left" in caplog.text
    assert (
        "part 2 of 3 of 'train' is stored; 3 of 5 shards are missing, which fall to other parts: the last of them"
        in caplog.text
    )
    assert study.set_names == [] and study.unfinished == ["train"]
    with caplog.at_level(logging.INFO, logger="subspect"):
        observe(Network(tiny), folder, tmp_path / "study", batch_size=4)  # without a part: what is missing
    assert "resuming: 2 of 5 shards are already stored" in caplog.text and study.set_names == ["train"]
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="subspect"):
        observe(Network(tiny), folder, tmp_path / "study", batch_size=4, part="3/3")
    assert "all 33 images of 'train' are already stored" in caplog.text


def test_more_parts_than_shards(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(each=4)
    for number in range(1, 6):
        study = observe(Network(tiny), folder, tmp_path / "study", batch_size=4, part=(number, 5))
    assert len(study.image_set("train")) == 12


def test_the_share_that_may_fail_is_of_the_whole_set(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(each=11)
    for name in ("a/000", "a/001", "c/009", "c/010"):
        (folder / f"{name}.png").write_text("not an image")
    observe(Network(tiny), folder, tmp_path / "study", batch_size=4, max_failed=0.1, part="1/2")
    with pytest.raises(SubspectError, match="4 of 33 images could not be used, more than the allowed share of 0.1"):
        observe(Network(tiny), folder, tmp_path / "study", batch_size=4, max_failed=0.1, part="2/2")
    assert Study.open(tmp_path / "study").set_names == []
    observe(Network(tiny), folder, tmp_path / "study", batch_size=4, max_failed=0.2)
    assert len(Study.open(tmp_path / "study").image_set("train")) == 29


@pytest.mark.parametrize("part", ["17/16", "0/4", "3", "3/", "a/b", "-1/4", "1/2/3", (3, 2), (True, 2), (1,), "1.5/2"])
def test_there_is_no_such_part(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, part: str) -> None:
    with pytest.raises(SubspectError, match=r"a part is one of so many, counted from 1, such as 3/16 .*; got "):
        observe(Network(tiny), make_folder(), tmp_path / "study", part=part)
    assert not (tmp_path / "study").exists()


def test_on_the_command_line(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text("from conftest import Tiny\n\n\ndef make():\n    return Tiny()\n")
    folder = make_folder(each=11)
    line = ["observe", "python:model.py:make", str(folder), "-o", "study", "--batch-size", "4", "--part"]
    for part in ("1/2", "2/2"):
        result = CliRunner().invoke(app, [*line, part])
        assert result.exit_code == 0, result.output
    assert len(Study.open("study").image_set("train")) == 33
    refused = CliRunner().invoke(app, [*line, "17/16"])
    assert refused.exit_code == 1 and "error: a part is one of so many" in refused.stderr


# At once --------------------------------------------------------------------------------------------------------------


def test_three_processes_at_once_one_of_them_killed(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder(each=20)
    observe(Network(Slow()), folder, tmp_path / "whole", batch_size=4)
    slow, *others = [observing_slowly(folder, tmp_path / "study", 0.1 * (n == 1), (n, 3)) for n in (1, 2, 3)]
    first = tmp_path / "study/sets/train/00000.arrow"
    wait_for(first)
    slow.send_signal(signal.SIGKILL)
    slow.communicate()
    said = [other.communicate()[1] for other in others]
    assert [other.returncode for other in others] == [0, 0], said
    assert Study.open(tmp_path / "study").unfinished == ["train"]
    written = first.stat().st_mtime_ns
    again = observing_slowly(folder, tmp_path / "study", part=(1, 3))
    said = [again.communicate()[1]]
    assert again.returncode == 0, said
    assert files(tmp_path / "study") == files(tmp_path / "whole") and first.stat().st_mtime_ns == written


def test_who_meets_whom(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.studies.pieces._WAIT", 0.1)
    folder, path = make_folder(each=11), tmp_path / "study"

    def fill(part: str | None = None, batch_size: int = 4) -> None:
        observe(Network(tiny), folder, path, batch_size=batch_size, part=part)

    fill("1/4")
    with observing(path, "train", Piece(2, 4)):
        fill("3/4")  # beside it
        with pytest.raises(
            SubspectError, match=r"another process is observing the image set 'train' of .*, part 2 of 4; wait"
        ):
            fill("2/4")
        with pytest.raises(
            SubspectError, match=r"other processes are observing the image set 'train' .*: part 2 of 4; wait for"
        ):
            fill()
    fill()
    assert len(Study.open(path).image_set("train")) == 33


def test_parts_of_different_batch_sizes(tiny: Tiny, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder, path = make_folder(each=11), tmp_path / "study"
    observe(Network(tiny), folder, path, batch_size=4, part="1/2")
    refused = pytest.raises(
        SubspectError, match="was begun with batch size 4, but 8 was given; continue with 4, or delete"
    )
    with refused:
        observe(Network(tiny), folder, path, batch_size=8, part="2/2")
    for shard in (path / "sets/train").glob("*.arrow"):
        shard.unlink()
    with locked(path / "sets/train", "", name=Piece(1, 2).lock), refused:  # nothing is stored, but somebody is at it
        observe(Network(tiny), folder, path, batch_size=8, part="2/2")
    study = observe(Network(tiny), folder, path, batch_size=8, part="2/2")
    assert study.manifest("train").batch_size == 8


def test_a_shard_of_another_cut_isn_t_taken(
    tiny: Tiny, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where machines that don't see each other's locks fill a set in different cuts."""
    folder, path = make_folder(each=11), tmp_path / "study"
    observe(Network(tiny), folder, path, batch_size=4, part="1/2")
    monkeypatch.setattr("subspect.studies.shards._SHARD_IMAGES", 4)
    observe(Network(tiny), folder, tmp_path / "other", batch_size=4, part="1/2")
    (tmp_path / "other/sets/train/00001.arrow").replace(path / "sets/train/00001.arrow")
    monkeypatch.setattr("subspect.studies.shards._SHARD_IMAGES", 8)
    with pytest.raises(
        SubspectError, match=r"00001.arrow holds 4 images of 8: it was made with another batch size; delete it"
    ):
        observe(Network(tiny), folder, path, batch_size=4)
    (path / "sets/train/00001.arrow").unlink()
    assert len(observe(Network(tiny), folder, path, batch_size=4).image_set("train")) == 33


def test_pieces_by_name() -> None:
    assert piece_of("3/16") == piece_of((3, 16)) == Piece(3, 16) and str(Piece(3, 16)) == "part 3 of 16"
    assert list(Piece().shards(3)) == [0, 1, 2]
