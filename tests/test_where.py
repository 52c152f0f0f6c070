"""Which images a figure is measured on: those that took part in the choice are found by what they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import subspect
from conftest import Tiny
from subspect import Network, Study, SubspectError
from subspect.heads.history import Chosen, Settled, read_history
from subspect.measuring.heads_say import heads_say, say
from subspect.measuring.where import where


def pictures(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 3


@pytest.fixture
def train(tiny: Tiny, tmp_path: Path) -> Study:
    return subspect.observe(Network(tiny), pictures(90), tmp_path / "study", batch_size=16, show_progress=False)


def more(study: Study, tiny: Tiny, images: torch.Tensor, labels: torch.Tensor, name: str = "test") -> Study:
    return subspect.observe(Network(tiny), (images, labels), study.path, name, batch_size=16, show_progress=False)


def test_images_of_the_choice_are_left_out_of_another_set(train: Study, tiny: Tiny) -> None:
    old, fresh = pictures(90), pictures(60, seed=1)
    study = more(train, tiny, torch.cat([old[0][:30], fresh[0]]), torch.cat([old[1][:30], fresh[1]]))
    made = subspect.decompose(study, 2, show_progress=False)
    found = where(study, made)
    assert (found.image_set, found.part, found.images, found.left_out, found.held_out) == ("test", "all", 60, 30, True)
    assert (
        "60 images of 'test'; 30 more are left out, the same as ones that took part in choosing features or weights"
        in found.note
    )
    assert {point.images for point in made.curve} == {60}
    study = more(study, tiny, *fresh, name="fresh")
    alone, mixed = (subspect.evaluate(study, made, on=on) for on in ("fresh", "test"))
    assert mixed.overall == alone.overall and mixed.where.to_json()["left_out"] == 30
    assert subspect.compare(study, made, first=0, second=1, on="test").images == (20, 20)


def test_a_set_of_nothing_but_such_images_is_named(train: Study, tiny: Tiny) -> None:
    images, labels = pictures(90)
    study = more(train, tiny, images[:30], labels[:30])
    made = subspect.decompose(study, 2, show_progress=False)
    found = where(study, made)
    assert {point.images for point in made.curve} == {30}
    assert (found.images, found.left_out, found.held_out) == (30, 0, False)
    assert "these images took part in choosing features or weights, so the figures flatter" in found.note


def test_images_of_a_refit_are_left_out(train: Study, tiny: Tiny) -> None:
    fresh = pictures(60, seed=1)
    study = more(train, tiny, *fresh)
    study = more(study, tiny, fresh[0][:20], fresh[1][:20], name="refit")
    made = subspect.decompose(study, 2, show_progress=False)
    edited = subspect.edit(study, made, drop=(), refit_on="refit").decomposition
    found = where(study, edited)
    assert (found.image_set, found.images, found.left_out) == ("test", 40, 20)


def test_a_set_that_was_chosen_on_and_is_gone(study: Study) -> None:
    made = subspect.decompose(study, 2)
    shutil.rmtree(study.path / "sets/train")
    found = where(Study.open(study.path), made)
    assert (found.image_set, found.images, found.left_out, found.held_out) == ("test", 45, 0, True)
    assert subspect.evaluate(Study.open(study.path), made).overall.images == 45


def test_rows_of_zeros_tell_no_image_from_another(tmp_path: Path) -> None:
    head = torch.nn.Linear(4, 3)
    x = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    x[::5] = 0
    network = Network(torch.nn.Sequential(head))
    study = subspect.observe(network, (x[:30], torch.arange(30) % 3), tmp_path / "study", show_progress=False)
    study = subspect.observe(network, (x[30:], torch.arange(30) % 3), study.path, "test", show_progress=False)
    found = where(study, subspect.decompose(study, 2, show_progress=False))
    assert (found.images, found.left_out) == (30, 0)


def test_images_that_were_set_apart(train: Study) -> None:
    made = subspect.decompose(train, 2, show_progress=False)
    found = where(train, made)
    assert found.part == "held out 20 %" and found.held_out and not found.left_out
    apart = {id for chunk in train.image_set("train").chunks("held out 20 %") for id in chunk.ids}
    assert {id for chunk in found.chunks() for id in chunk.ids} == apart and len(apart) == found.images
    assert where(train, made, "train") == found


def test_what_both_heads_say(study: Study) -> None:
    made = subspect.decompose(study, 2)
    weight, bias = (tensor.double().numpy() for tensor in study.head())
    few, few_bias = np.zeros_like(weight), made.bias.double().numpy()
    for label in range(3):
        for row in made.rows(label):
            few[label, row.feature] = row.weight
    seen = 0
    for said in heads_say(study, made, where(study, made, "test")):
        x = said.chunk.features.astype(np.float64)
        np.testing.assert_allclose(said.dense, x @ weight.T + bias, atol=1e-5)
        np.testing.assert_allclose(said.decomposed, x @ few.T + few_bias, atol=1e-5)
        seen += len(x)
    assert seen == 45
    assert say(np.ones((1, 2), np.float32), np.eye(2, dtype=np.float32), np.zeros(2, np.float32)).dtype == np.float32


def test_an_empty_part_and_a_set_that_is_not_there(tiny: Tiny, tmp_path: Path) -> None:
    images, labels = pictures(1)
    study = subspect.observe(Network(tiny), (images, labels), tmp_path / "few", show_progress=False)
    made = subspect.decompose(study, 1, method="contribution")
    assert not sum(len(chunk.ids) for chunk in study.image_set("train").chunks("held out 20 %"))
    with pytest.raises(
        SubspectError, match="no images to evaluate on: there are none of 'train', the 20 % of it held out"
    ):
        where(study, made)
    with pytest.raises(SubspectError, match="no image set 'none'"):
        where(study, made, "none")


def test_how_much_is_held_out(train: Study, tmp_path: Path) -> None:
    few = subspect.decompose(train, 2, hold_out=0.05, show_progress=False)
    assert few.chosen_on == ("train", "all but 5 %")
    found = where(train, few)
    assert found.part == "held out 5 %" and found.held_out
    assert found.note == f"{found.images:,} images of 'train', the 5 % of it held out by a hash of the image's id"
    usual = where(train, subspect.decompose(train, 2, show_progress=False))
    small, large = ({id for chunk in one.chunks() for id in chunk.ids} for one in (found, usual))
    assert small < large  # the same hash: what is held out of less is held out of more


def test_nothing_is_held_out(train: Study) -> None:
    made = subspect.decompose(train, 2, hold_out=0, show_progress=False)
    assert made.chosen_on == ("train", "all") and made.curve[0].images == len(train.image_set("train"))
    found = where(train, made)
    assert (found.part, found.held_out, found.images) == ("all", False, len(train.image_set("train")))
    assert "these images took part in choosing features or weights, so the figures flatter" in found.note
    settled = subspect.decompose(train, subspect.Auto(0.5), hold_out=0, show_progress=False)
    assert settled.auto is not None and settled.auto.sized_on == ("train", "all") and where(train, settled).sized


def test_parts_of_files_of_before_are_read() -> None:
    chosen = {"method": "pursuit", "k": 2, "set": "train", "part": "80 %"}
    settled = {"tolerance": 0.1, "measure": "fidelity", "met": True, "sized_on": ["train", "20 %"]}
    rest = {"promise": None, "no_promise": "none"}
    first, second = read_history([chosen, {**settled, **rest}], Path("x"), 3)
    assert isinstance(first, Chosen) and first.part == "all but 20 %"
    assert isinstance(second, Settled) and second.sized_on == ("train", "held out 20 %")


def test_which_set_is_taken_unless_one_is_named(train: Study, tiny: Tiny) -> None:
    made = subspect.decompose(train, 2, show_progress=False)
    asked = [where(train, made).image_set]
    for seed, name in enumerate(("a-bare", "b", "c", "test"), 1):
        images, labels = pictures(30, seed)
        given = images if name == "a-bare" else (images, labels)
        study = subspect.observe(Network(tiny), given, train.path, name, batch_size=16, show_progress=False)
        asked.append(where(study, made).image_set)
    # the images held out; what has no labels, if there is nothing else; the first that has; "test" before all others
    assert asked == ["train", "a-bare", "b", "b", "test"]
    assert where(study, made, "c").image_set == "c"


def test_the_set_that_the_number_was_chosen_on_is_taken_last(train: Study, tiny: Tiny) -> None:
    study = more(train, tiny, *pictures(30, 1), name="test")
    made = subspect.decompose(study, subspect.Auto(0.5), show_progress=False)
    assert made.auto is not None and made.auto.sized_on == ("test", "all")
    found = where(study, made)
    assert (found.image_set, found.sized, found.held_out) == ("test", True, True)
    assert (
        found.note == "30 images of 'test'; the number of features was chosen on them, so the figures flatter a little"
    )
    assert found.to_json()["sized"] is True and found.to_json()["note"] == found.note
    study = more(study, tiny, *pictures(30, 2), name="valid")
    fresh = where(study, made)
    assert (fresh.image_set, fresh.sized, fresh.note) == ("valid", False, "30 images of 'valid'")
    assert where(study, made, "test").sized


def test_the_set_of_a_promise_is_one_that_the_number_was_chosen_on(train: Study, tiny: Tiny) -> None:
    study = more(train, tiny, *pictures(30, 1), name="test")
    study = more(study, tiny, *pictures(40, 2), name="unseen")
    made = subspect.decompose(study, subspect.Auto(0.9, promise="unseen"), show_progress=False)
    assert made.auto is not None and made.auto.promise is not None and made.auto.promise.set == "unseen"
    assert where(study, made).image_set == "test" and where(study, made).sized and where(study, made, "unseen").sized
    study = more(study, tiny, *pictures(30, 3), name="valid")
    assert where(study, made).image_set == "valid" and not where(study, made).sized


def test_what_else_is_said_of_the_images(tiny: Tiny, tmp_path: Path) -> None:
    images, labels = pictures(60)
    path = tmp_path / "study"
    subspect.observe(Network(tiny), (images, labels % 2), path, batch_size=16, show_progress=False)
    for seed, (name, given) in enumerate({"test": labels, "bare": None}.items(), 1):
        fresh = pictures(60, seed)[0]
        source = fresh if given is None else (fresh, given)
        study = subspect.observe(Network(tiny), source, path, name, batch_size=16, show_progress=False)
    made = subspect.decompose(study, 2, show_progress=False)
    assert made.unseen == (2,)
    found = where(study, made)
    assert found.unseen == 20 and found.labelled
    assert found.note == (
        "60 images of 'test'; 20 are of classes that had no image to choose features on and keep their dense row"
    )
    bare = where(study, made, "bare")
    assert not bare.labelled
    assert bare.note.endswith("; no labels: the dense network's own predictions stand in, so accuracy here is fidelity")
    assert set(found.to_json()) == {
        *("image_set", "part", "images", "held_out", "sized", "labelled", "unseen", "left_out", "note"),
        *("given", "lacking", "among", "among_classes"),
    }


def test_the_images_of_the_choice_are_all_taken_rows_of_zeros_or_not(tmp_path: Path) -> None:
    head = torch.nn.Linear(4, 3)
    x = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
    x[::5] = 0
    network, labels = Network(torch.nn.Sequential(head)), torch.arange(30) % 3
    study = subspect.observe(network, (x, labels), tmp_path / "study", show_progress=False)
    made = subspect.decompose(study, 2, hold_out=0, show_progress=False)
    found = where(study, made, "train")
    assert (found.images, found.left_out, found.held_out) == (30, 0, False)
    study = subspect.observe(network, (x, labels), study.path, "same", show_progress=False)
    found = where(study, made, "same")
    assert (found.images, found.left_out, found.held_out) == (30, 0, False)
    assert sum(len(chunk.ids) for chunk in found.chunks()) == 30


def test_images_of_the_choice_under_another_label(tiny: Tiny, tmp_path: Path) -> None:
    """They are left out, and don't count among those of classes without images; unless nothing else is there."""
    (images, labels), fresh, path = pictures(60), pictures(30, 1), tmp_path / "study"
    study = subspect.observe(Network(tiny), (images, labels % 2), path, batch_size=16, show_progress=False)
    twos = torch.full((60,), 2)
    study = more(study, tiny, torch.cat([images, fresh[0]]), torch.cat([twos, fresh[1]]))
    study = more(study, tiny, images[:20], twos[:20], name="nothing-else")
    made = subspect.decompose(study, 2, show_progress=False)
    found = where(study, made, "test")
    assert (found.images, found.left_out, found.unseen) == (30, 60, 10)
    found = where(study, made, "nothing-else")
    assert (found.images, found.left_out, found.unseen, found.held_out) == (20, 0, 20, False)


def test_all_images_of_a_refit_are_left_out_though_a_part_of_the_choices_was_set_apart(
    train: Study, tiny: Tiny
) -> None:
    made = subspect.decompose(train, 2, show_progress=False)
    assert made.chosen_on == ("train", "all but 20 %")
    fresh = pictures(90, 1)
    study = more(train, tiny, fresh[0][:50], fresh[1][:50], name="refit")
    edited = subspect.edit(study, made, drop=(), refit_on="refit").decomposition
    study = more(study, tiny, *fresh)
    found = where(study, edited)
    assert (found.image_set, found.images, found.left_out) == ("test", 40, 50)
