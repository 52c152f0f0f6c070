"""Parts of an image set: the split is the same in every order, and every image lies in just one part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import subspect
from conftest import Tiny
from subspect import Network, Study, SubspectError
from subspect.studies.parts import in_part


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
        SubspectError, match=r"hold_out \(--hold-out\) must be a share from 0, for none, to below 1; got"
    ):
        subspect.decompose(train, 2, hold_out=share)
