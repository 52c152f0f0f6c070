"""ResNet-50 (He et al. 2015, arXiv 1512.03385, table 1) for its cost alone: random weights, stride in the 3×3 convolution."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolution, and a shortcut."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels = 4 * width
        self.convs = nn.Sequential(
            *conv(channels_in, width, 1),
            nn.ReLU(),
            *conv(width, width, 3, stride),
            nn.ReLU(),
            *conv(width, channels, 1),
        )
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv(channels_in, channels, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels_in, h, w) → (n, 4 · width, h / stride, w / stride)."""
        return F.relu(self.convs(x) + self.shortcut(x))


def conv(channels_in: int, channels: int, size: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """Return a convolution and its batch norm."""
    return nn.Conv2d(channels_in, channels, size, stride, size // 2, bias=False), nn.BatchNorm2d(channels)


def resnet50(n_classes: int = 1000) -> nn.Sequential:
    """Return the network: (n, 3, 224, 224) → (n, n_classes)."""
    layers: list[nn.Module] = [*conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_classes))
