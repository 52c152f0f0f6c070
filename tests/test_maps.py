"""Maps: found in all kinds of networks, and pooled to the features that a forward pass written by hand gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import Tiny
from subspect import Network, SubspectError, read_maps

WIDTH = 5


class Pooled(nn.Module):
    """Two convolutions and a pooling; ReLU and pooling are modules or functions."""

    def __init__(self, pooling: str = "mean", functional: bool = False, hidden: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, WIDTH, 3), nn.Conv2d(WIDTH, WIDTH, 3)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1) if pooling == "mean" else nn.AdaptiveMaxPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.hidden = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) if hidden else nn.Identity()
        self.fc = nn.Linear(WIDTH, 3)
        self.pooling, self.functional = pooling, functional

    def forward(self, x: Tensor) -> Tensor:
        if self.functional:
            maps = F.relu(self.second(F.relu(self.first(x))))
            pooled = maps.mean((2, 3)) if self.pooling == "mean" else F.adaptive_max_pool2d(maps, 1).flatten(1)
        else:
            pooled = self.pool(self.relu(self.second(self.relu(self.first(x))))).flatten(1)
        out: Tensor = self.fc(self.hidden(self.drop(pooled)))
        return out


class ChannelsLast(nn.Module):
    """The channels of its maps come last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix, self.fc = nn.Conv2d(3, WIDTH, 3), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(F.gelu(self.mix(self.conv(x).permute(0, 2, 3, 1))).mean((1, 2)))
        return out


class ConvHead(nn.Module):
    """A 1×1 convolution that gives class maps, pooled after it."""

    def __init__(self, n_classes: int = 3) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, WIDTH, 3), nn.Conv2d(WIDTH, n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(x).relu()).mean((2, 3))
        return out


class Tokens(nn.Module):
    """Patches as tokens, mixed by attention; the first token goes into the head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.start = nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.start.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], 1)
        out: Tensor = self.fc((tokens + self.layer(tokens, tokens, tokens)[0])[:, 0])
        return out


def made(model: nn.Module, size: int = 9, images: int = 4) -> tuple[Network, Tensor]:
    """A network whose head is found, and images for it."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
        parameter.data = torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in)
    network = Network(model)
    pixels = torch.rand(images, 3, size, size, generator=generator)
    network.find_head(pixels)
    return network, pixels


def found(network: Network, pixels: Tensor) -> Tensor:
    """The maps, which must be there."""
    maps = read_maps(network, pixels).maps
    assert maps is not None and not maps.requires_grad
    return maps


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_mean_and_max_pooling(pooling: str, functional: bool) -> None:
    model = Pooled(pooling, functional)
    network, pixels = made(model)
    read = read_maps(network, pixels)
    with torch.no_grad():
        expected = model.second(model.first(pixels).clamp_min(0)).clamp_min(0)
        features = expected.mean((2, 3)) if pooling == "mean" else expected.amax((2, 3))
        logits = features @ model.fc.weight.T + model.fc.bias
    assert read.maps is not None and read.maps.shape == (4, WIDTH, 5, 5)
    assert torch.allclose(read.maps, expected, atol=1e-6)
    assert torch.allclose(read.features, features, atol=1e-6) and torch.allclose(read.logits, logits, atol=1e-5)


def test_negative_features() -> None:
    model = Tiny()
    network, pixels = made(model)
    with torch.no_grad():
        model.eval()
        expected = model.norm(model.conv(pixels)).tanh()
    assert torch.allclose(found(network, pixels), expected, atol=1e-6)
    assert torch.allclose(expected.mean((2, 3)), read_maps(network, pixels).features, atol=1e-6)


@pytest.mark.parametrize("size", [9, WIDTH + 2])
def test_channels_last(size: int) -> None:
    """Also where the maps are as high and as wide as there are channels, so that their axes look alike."""
    model = ChannelsLast()
    network, pixels = made(model, size)
    with torch.no_grad():
        places = model.conv(pixels)
        mixed = torch.einsum("nchw,dc->ndhw", places, model.mix.weight) + model.mix.bias[:, None, None]
        expected = F.gelu(mixed)
    assert torch.allclose(found(network, pixels), expected, atol=1e-5)
    assert torch.allclose(expected.mean((2, 3)), read_maps(network, pixels).features, atol=1e-5)


@pytest.mark.parametrize("n_classes", [3, WIDTH])
def test_a_convolution_as_head_that_is_pooled_after(n_classes: int) -> None:
    """Also with as many classes as features, where the class maps look like features' maps."""
    model = ConvHead(n_classes)
    network, pixels = made(model)
    read = read_maps(network, pixels)
    with torch.no_grad():
        expected = model.conv(pixels).clamp_min(0)
    assert read.maps is not None and torch.allclose(read.maps, expected, atol=1e-6)
    assert torch.allclose(read.features, expected.mean((2, 3)), atol=1e-6)


def test_the_memory_format_makes_no_difference() -> None:
    network, pixels = made(Pooled())
    maps = found(network, pixels)
    network.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert torch.allclose(found(network, pixels.to(memory_format=torch.channels_last)), maps, atol=1e-6)


def test_one_image_and_half_precision() -> None:
    network, pixels = made(Pooled())
    maps = found(network, pixels)
    assert torch.allclose(found(network, pixels[:1]), maps[:1], atol=1e-6)
    network.model.to(torch.bfloat16)
    low = found(network, pixels)
    assert low.dtype == torch.float32 and torch.allclose(low, maps, atol=0.1)


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.Flatten(), nn.Linear(243, 8), nn.ReLU(), nn.Linear(8, 3)), Tokens()],
    ids=["fully connected", "tokens"],
)
def test_networks_without_maps(model: nn.Module) -> None:
    network, pixels = made(model)
    read = read_maps(network, pixels)
    features, logits = network.read(pixels)
    assert read.maps is None and torch.equal(read.features, features) and torch.equal(read.logits, logits)


def test_the_model_is_left_as_it_was() -> None:
    model = Pooled()
    network, pixels = made(model)
    model.train()
    model.first.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    found(network, pixels)
    with pytest.raises(RuntimeError):
        read_maps(network, pixels[:, :2])  # it fails on two channels
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.is_grad_enabled() and torch._C._len_torch_function_stack() == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_head_that_is_not_known_yet() -> None:
    with pytest.raises(SubspectError, match="the head is not known yet"):
        read_maps(Network(Pooled()), torch.rand(2, 3, 9, 9))
