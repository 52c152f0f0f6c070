"""Networks whose deciding features are known, for they were planted; studies of them, and what is asked of those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import subspect
from conftest import PIXELS
from subspect import Decomposition, Study

Array = npt.NDArray[np.float64]

C, D = 6, 40


class Wide(nn.Module):
    """A network whose features are the first pixels."""

    def __init__(self, weight: Array) -> None:
        super().__init__()
        self.fc = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            self.fc.weight.copy_(torch.from_numpy(weight))
            self.fc.bias.zero_()
        self.preprocessing = PIXELS

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(x.flatten(1)[:, : self.fc.in_features])
        return out


def planted(classes: int = C, features: int = D) -> tuple[Array, list[list[int]]]:
    """A head where three features of each class are strong and the others weak; and the strong ones."""
    generator = np.random.default_rng(0)
    weight = 0.05 * generator.standard_normal((classes, features))
    strong = [sorted(generator.permutation(features)[:3].tolist()) for _ in range(classes)]
    for label, own in enumerate(strong):
        weight[label, own] += 2
    return weight, strong


def pictures(seed: int, images: int) -> torch.Tensor:
    return torch.randn(images, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def labels_of(x: torch.Tensor, weight: Array, wrong: float = 0.2) -> npt.NDArray[np.int64]:
    """What the network says, but for a share of the images."""
    said = (x.flatten(1)[:, : weight.shape[1]].numpy() @ weight.T).argmax(axis=1)
    generator = np.random.default_rng(len(x))
    return np.where(generator.random(len(x)) < wrong, generator.integers(0, len(weight), len(x)), said)


def observed(path: Path, weight: Array, **sets: torch.Tensor) -> Study:
    """A study of image sets; those whose names begin with "plain" have no labels."""
    network = subspect.Network(Wide(weight))
    for name, x in sets.items():
        images = x if name.startswith("plain") else (x, labels_of(x, weight))
        study = subspect.observe(network, images, path, name, batch_size=100, show_progress=False)
    return study


def promised(made: Decomposition) -> Any:
    assert made.auto is not None and made.auto.promise is not None
    return made.auto.promise


def wide_study(path: Path) -> Study:
    """A study of the planted head: sets to choose on, to size on and to promise on, and some that overlap with them."""
    train, test, unseen = pictures(0, 600), pictures(1, 300), pictures(2, 1000)
    mixed = torch.cat([train[:200], unseen[:300], test[:100]])
    sets = {"train": train, "test": test, "unseen": unseen, "mixed": mixed, "again": train, "retest": test}
    return observed(path, planted()[0], **sets, parts=train[:500], plain=unseen[:400])
