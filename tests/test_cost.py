"""What networks and heads cost to run: multiplications, parameters and bytes against counts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prunable import PIXELS_IN, Made, MakeFolder, Plain
from subspect import DecomposedHead, Supports
from subspect.giving.specialise import specialise
from subspect.heads.cost import head_costs, size_of


@pytest.fixture
def images(make_folder: MakeFolder) -> Path:
    return make_folder("train", each=20)


def test_sizes_are_counted(images: Path, tmp_path: Path) -> None:
    one = Made(Plain(), tmp_path, images)
    found = specialise(one.study, one.made, network=one.network, classes=["c", 0], rounds=0)
    first, places = 6 * 3 * 9 * 6 * 6, 4 * 4
    assert found.dense.multiplications == first + 12 * 6 * 9 * places + 12 * 3
    assert found.small.multiplications == first + 3 * 6 * 9 * places + 3 * 2  # few classes: the dense kernel
    assert found.small.parameters == (6 * 3 * 9 + 6) + (3 * 6 * 9 + 3) + 2 * 3 + 4 + 2
    assert found.dense.parameters == sum(parameter.numel() for parameter in one.model.parameters())
    assert found.rows.multiplications == first + 12 * 6 * 9 * places + 12 * 2
    assert found.rows.parameters == found.dense.parameters - 13 and "dense, these rows" in [
        str(column.header) for column in found.tables()[0].columns
    ]
    assert found.times == {} and found.small.features == 3
    alone = specialise(one.study, one.made, network=one.network, classes=np.array([1]), rounds=0)  # type: ignore[arg-type]
    assert alone.labels == (1,) and not alone.among and str(alone.tables()[0].title).startswith("1 class: ")
    large = DecomposedHead(Supports([[label % 400] for label in range(600)], 400), torch.ones(600), torch.zeros(600))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 400), large.requires_grad_(False)).eval()
    head = one.network.head
    assert size_of(network, type(head)(**{**vars(head), "name": "2"}), PIXELS_IN).multiplications == 192 * 400 + 600


def test_the_cost_of_a_head() -> None:
    layer = DecomposedHead(Supports([[0, 3], [3], []], 10), torch.ones(3), torch.zeros(3))
    dense, few = head_costs(layer)
    assert (dense.multiplications, dense.bytes, dense.features) == (30, 4 * 33, 10)
    assert (few.multiplications, few.features) == (3, 2) and few.bytes == 4 * (3 + 3 + 4 + 3)
