"""Small networks for taking channels away from: which may go is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import subspect
from conftest import PIXELS
from subspect import Network, Supports, decompose_by_file

MakeFolder = Callable[..., Path]

SUPPORTS = [[1, 4], [4, 7], [9, 1]]  # of 12 features; 2, 3, 5, 6, 8, 10, 11 and 0 are unused


class Plain(nn.Module):
    """Convolution, batch norm, pooling, head: a channel is a feature."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 12, 3), nn.BatchNorm2d(12)
            self.fc = nn.Linear(12, 3)
            nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
        self.preprocessing = PIXELS

    def pooled(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.norm(self.conv(self.first(x).relu())).relu().mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.pooled(x))
        return out


class Residual(Plain):
    """The channels are a sum that another block reads, but for those that come beside it, which only the head reads."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.conv, self.block, self.side = nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3)

    def pooled(self, x: Tensor) -> Tensor:
        first = self.first(x).relu()
        stream = self.conv(first)
        stream = stream + self.block(stream)
        return cast(Tensor, self.norm(torch.cat([stream, self.side(first)], dim=1)).relu().mean((2, 3)))


class Mixed(Plain):
    """Layer norm before the head: each feature depends on all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.mix(self.pooled(x)))
        return out


class Scaled(Plain):
    """The features are divided by their length, which no tracing sees as more than an elementwise function."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.normalize(self.pooled(x)))
        return out


class Flat(Plain):
    """Features are places of channels: a channel goes only with all its places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 3, 3), nn.BatchNorm2d(3)

    def pooled(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.norm(self.conv(self.first(x).relu())).relu(), 2).flatten(1)


class Convolution(Plain):
    """The head is a 1×1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(12, 3, 1)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.pooled(x)[:, :, None, None])[:, :, 0, 0]
        return out


class Branching(Plain):
    """What it does depends on what it sees, so that it is no fixed graph."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.sum()) < 1e9 else x


class Made:
    def __init__(self, model: nn.Module, folder: Path, images: Path, supports: list[list[int]] = SUPPORTS) -> None:
        self.model = model  # in training mode, and it stays so
        self.network, self.images = Network(model), images
        self.study = subspect.observe(self.network, images, folder / "study", "train", show_progress=False)
        Supports(supports, 12).write(folder / "indices.json")
        self.made = decompose_by_file(self.study, folder / "indices.json")

    def wanted(self, pixels: Tensor, labels: list[int]) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.made.apply(self.model).eval()(pixels)[:, labels]
        return logits


PIXELS_IN = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))
