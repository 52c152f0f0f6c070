"""The decompositions that a study keeps: which is loaded, and that none takes the place of another choice."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import subspect
from conftest import Tiny
from subspect import Decomposition, Study, SubspectError, decompose, decompose_by_file, verify
from subspect.studies.decompositions import load_decomposition
from subspect.studies.names import decomposition_path


def test_a_decomposition_under_another_ones_name(study: Study) -> None:
    decompose(study, 1), decompose(study, 2)
    one, two = (decomposition_path(study.path, f"pursuit-k{k}") for k in (1, 2))
    two.write_bytes(one.read_bytes())
    with pytest.raises(
        SubspectError, match=r"pursuit-k2.safetensors is not the decomposition .*: it is 'pursuit-k1'; give"
    ):
        load_decomposition(study, "pursuit-k2")
    assert Decomposition.load(two).name == "pursuit-k2"  # as a file of its own it may be called anything


def test_another_part_of_the_images_is_another_choice(
    tiny: Tiny, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    network, path = subspect.Network(tiny), tmp_path / "grown"
    study = subspect.observe(network, make_folder("train", each=20), path, "train", batch_size=16)
    assert decompose(study, 2).chosen.part == "all but 20 %"
    study = subspect.observe(network, make_folder("test", each=10, seed=1), path, "test", batch_size=16)
    again = decompose(study, 2)
    assert (again.name, again.chosen.part) == ("pursuit-k2-2", "all")
    assert load_decomposition(study, "pursuit-k2").chosen.part == "all but 20 %"


def test_a_decomposition_never_takes_the_place_of_another_choice(
    study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = decompose(study, 2)
    path = decomposition_path(study.path, "pursuit-k2")
    before = path.read_bytes()
    made.supports.write(tmp_path / "pursuit-k2.json")
    assert decompose_by_file(study, tmp_path / "pursuit-k2.json").name == "pursuit-k2-2"
    assert (
        "already has a different decomposition called pursuit-k2, which is kept; this one is called pursuit-k2-2"
        in caplog.text
    )
    assert path.read_bytes() == before
    assert decompose_by_file(study, tmp_path / "pursuit-k2.json", name="mine").name == "mine"
    assert decompose_by_file(study, tmp_path / "pursuit-k2.json", name="mine").name == "mine"  # the same again
    (tmp_path / "other").mkdir()
    decompose(study, 1).supports.write(tmp_path / "other" / "pursuit-k2.json")
    assert decompose_by_file(study, tmp_path / "other" / "pursuit-k2.json", name="mine").name == "mine-2"
    assert load_decomposition(study, "mine-2").chosen != load_decomposition(study, "mine").chosen
    assert decompose(study, 2).name == "pursuit-k2" and path.read_bytes() == before  # the same choice, the same bytes
    path.write_bytes(b"theirs")
    with pytest.raises(SubspectError, match="is there already, and not as subspect wrote it"):
        decompose(study, 2)
    assert path.read_bytes() == b"theirs"


def test_the_newest_is_loaded_unless_named(study: Study) -> None:
    with pytest.raises(SubspectError, match="has no decomposition; make one: subspect decompose"):
        subspect.load_decomposition(study)
    decompose(study, 2)
    decompose(study, 3, method="frequency")
    assert subspect.load_decomposition(study).name == "frequency-k3"
    assert subspect.load_decomposition(study, "pursuit-k2").name == "pursuit-k2"
    with pytest.raises(SubspectError, match=r"no decomposition 'pursuit-k' .*did you mean 'pursuit-k2'"):
        subspect.load_decomposition(study, "pursuit-k")


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
    with pytest.raises(SubspectError, match=r"order.json is damaged: .*; delete it, and name the decomposition"):
        subspect.load_decomposition(copied)
    assert "decompositions/order.json" in {fault.path for fault in verify(copied.path).faults}
    order.unlink()
    assert set(copied.decomposition_names) == {"mine", "pursuit-k1", "pursuit-k2", "pursuit-k3"}  # by their time


def test_what_more_halves_said_is_kept(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    def draws(count: int) -> int:
        made = decompose(study, 2, show_progress=False, draws=count)
        assert made.trust is not None and load_decomposition(study, "pursuit-k2").trust is not None
        return int(made.trust.draws.max())

    assert [draws(8), draws(12)] == [8, 12]
    with caplog.at_level(logging.INFO, logger="subspect"):
        assert [draws(4), draws(0)] == [12, 12]
    assert "pursuit-k2 was chosen before, and repeated on 12 halves: what that says is kept" in caplog.text
