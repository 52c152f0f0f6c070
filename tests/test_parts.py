"""Parts of an image set: the split is the same in every order, and every image lies in just one part."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import subspect
from conftest import Tiny
from subspect import Network, Study, SubspectError
from subspect.heads.history import Chosen, read_history
from subspect.studies.parts import counterpart, hashed, in_part, in_words, split


@pytest.fixture
def train(tiny: Tiny, tmp_path: Path) -> Study:
    images = torch.rand(90, 3, 8, 8), torch.arange(90) % 3
    return subspect.observe(Network(tiny), images, tmp_path / "study", batch_size=16, show_progress=False)


def test_the_split_is_a_fifth_and_does_not_depend_on_order(study: Study) -> None:
    ids = [f"image {index}" for index in range(5000)]
    first, second = in_part(ids, "all but 20 %"), in_part(ids, "held out 20 %")
    assert np.array_equal(first, ~second) and in_part(ids, "all").all()
    assert abs(first.mean() - 0.8) < 0.02
    assert np.array_equal(in_part(ids[::-1], "all but 20 %"), first[::-1])
    parts = [chunk for part in ("all but 20 %", "held out 20 %") for chunk in study.image_set("train").chunks(part)]
    assert sorted(id for chunk in parts for id in chunk.ids) == sorted(
        id for chunk in study.image_set("train").chunks() for id in chunk.ids
    )


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan"), "half"])
def test_shares_that_cannot_be_held_out(train: Study, share: Any) -> None:
    with pytest.raises(
        SubspectError,
        match=r"hold_out \(--hold-out\) must be a share of at least 0 \(nothing held out\) and below 1; got",
    ):
        subspect.decompose(train, 2, hold_out=share)


IDS = [f"cat/{number:03d}.png" for number in range(40)]


def test_which_images_are_held_out_never_changes() -> None:
    assert hashed(["", "cat/000.png", "é"]).tolist() == [0.8931675160897388, 0.02716641753238785, 0.7933768955844694]
    assert hashed(["a"])[0] == int(blake2b(b"a", digest_size=8).hexdigest(), 16) / 2**64
    held_out = in_part(IDS, "held out 20 %")
    assert [id for id, held in zip(IDS, held_out, strict=True) if held] == ["cat/001.png", "cat/014.png", "cat/029.png"]
    assert in_part(IDS, "all but 20 %").tolist() == (~held_out).tolist()
    assert in_part(IDS, "all").all() and len(in_part([], "all")) == len(in_part([], "held out 20 %")) == 0


@given(st.floats(0, 1, exclude_min=True, exclude_max=True), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_what_is_held_out_of_less_is_held_out_of_more(one: float, other: float) -> None:
    few, many = (in_part(IDS, split(share)[1]) for share in sorted((one, other)))
    assert not (few & ~many).any()


@pytest.mark.parametrize(
    ("share", "percent"),
    [(0.2, "20"), (0.05, "5"), (0.125, "12.5"), (1 / 3, "33.33333333"), (0.1 + 0.2, "30"), (2.5e-9, "0.00000025")],
)
def test_parts_by_their_names(share: float, percent: str) -> None:
    chosen, rest = split(share)
    assert (chosen, rest) == (f"all but {percent} %", f"held out {percent} %")
    assert counterpart(chosen) == rest and counterpart("all") == "all"
    assert in_words(chosen) == f", all but the {percent} % of it held out by a hash of the image's id"
    assert in_words(rest) == f", the {percent} % of it held out by a hash of the image's id" and in_words("all") == ""
    many = [str(number) for number in range(20_000)]
    assert in_part(many, rest).mean() == pytest.approx(share, abs=0.01)


def test_nothing_held_out_is_all() -> None:
    assert split(0) == split(0.0) == ("all", "all")
    for share in (1, -0.1, float("nan")):
        with pytest.raises(SubspectError, match="must be a share of at least 0"):
            split(share)


@given(st.floats(0, 1, exclude_max=True))
def test_a_decomposition_that_names_a_part_is_read_again(share: float) -> None:
    for part in split(share):
        [chosen] = read_history([{"method": "pursuit", "k": 2, "set": "train", "part": part}], Path("x"), 3)
        assert isinstance(chosen, Chosen) and chosen.part == part
