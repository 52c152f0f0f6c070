"""The residual networks of He et al. 2015 (arXiv 1512.03385, section 4.2) for small images: ResNet-(6n+2).

A 3×3 convolution, then three layers of n basic blocks with 16, 32 and 64 channels, the first block of the second and
third halving the size; global average pooling; one linear layer. The shortcut where the shape changes has no weights:
every second pixel, and zero channels on both sides (their option A). Modules are named as in the widely used CIFAR
checkpoints, so that those load.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from subspect.ground.errors import SubspectError
from subspect.images.preprocessing import Preprocessing


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without weights."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.zeros = stride, channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels_in, h, w) → (n, channels, h / stride, w / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(shortcut, (0, 0, 0, 0, self.zeros // 2, self.zeros - self.zeros // 2)))


class ResNet(nn.Module):
    """ResNet-(6n+2) for small images.

    Args:
        depth: 8, 14, 20, 26, 32, …: 6n + 2 layers with weights.
        n_classes: number of classes.
        widths: channels of the three layers.

    Raises:
        SubspectError: a depth that isn't 6n + 2.
    """

    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None

    def __init__(self, depth: int, n_classes: int = 10, widths: tuple[int, int, int] = (16, 32, 64)) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise SubspectError(f"depth {depth} is not 6n + 2 with n ≥ 1; try 8, 14, 20, 26, 32, 44 or 56")
        blocks = (depth - 2) // 6
        first, second, third = widths
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _layer(first, first, blocks, stride=1)
        self.layer2 = _layer(first, second, blocks, stride=2)
        self.layer3 = _layer(second, third, blocks, stride=2)
        self.linear = nn.Linear(third, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) → logits (n, C)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _layer(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(channels, channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(channels_in, channels, stride), *rest)


def cifar10_resnet20() -> ResNet:
    """Return ResNet-20 for CIFAR-10, untrained, with the preprocessing and class names of the published checkpoints."""
    return _cifar10(20)


def cifar10_resnet32() -> ResNet:
    """Return ResNet-32 for CIFAR-10, likewise."""
    return _cifar10(32)


def cifar10_resnet56() -> ResNet:
    """Return ResNet-56 for CIFAR-10, likewise."""
    return _cifar10(56)


def _cifar10(depth: int) -> ResNet:
    network = ResNet(depth)
    network.preprocessing = Preprocessing(resize=None, crop=None, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    network.class_names = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
    return network
