"""Maps: found in all kinds of networks, and pooled to the features that a forward pass written by hand gives."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conftest import Tiny
from subspect import Network, SubspectError, read_maps

WIDTH = 5


class Pooled(nn.Module):
    """Two convolutions and a pooling; ReLU and pooling are modules or functions."""

    def __init__(self, pooling: str = "mean", functional: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, WIDTH, 3), nn.Conv2d(WIDTH, WIDTH, 3)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1) if pooling == "mean" else nn.AdaptiveMaxPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(WIDTH, 3)
        self.pooling, self.functional = pooling, functional

    def forward(self, x: Tensor) -> Tensor:
        if self.functional:
            maps = F.relu(self.second(F.relu(self.first(x))))
            pooled = maps.mean((2, 3)) if self.pooling == "mean" else F.adaptive_max_pool2d(maps, 1).flatten(1)
        else:
            pooled = self.pool(self.relu(self.second(self.relu(self.first(x))))).flatten(1)
        out: Tensor = self.fc(self.drop(pooled))
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


def made(model: nn.Module, size: int | tuple[int, int] = 9, images: int = 4) -> tuple[Network, Tensor]:
    """A network whose head is found, and images for it."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
        parameter.data = torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in)
    network = Network(model)
    sides = (size, size) if isinstance(size, int) else size
    pixels = torch.rand(images, 3, *sides, generator=generator)
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


class Grid(nn.Module):
    """Patches as tokens behind some that have no place, mixed by a layer; the mean or the maximum of the patches is read."""

    def __init__(self, prefix: int = 0, pooling: str = "mean", after: nn.Module | None = None) -> None:
        super().__init__()
        self.patches, self.mix = nn.Conv2d(3, WIDTH, 3, stride=3), nn.Linear(WIDTH, WIDTH)
        self.start = nn.Parameter(torch.zeros(1, prefix, WIDTH))
        self.after = after or nn.Identity()
        self.fc = nn.Linear(WIDTH, 3)
        self.prefix, self.pooling = prefix, pooling

    def tokens(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.start.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], 1)
        mixed: Tensor = self.mix(tokens + tokens.mean(1, keepdim=True))
        return tokens + mixed.tanh()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(x)[:, self.prefix :]
        pooled = tokens.mean(1) if self.pooling == "mean" else tokens.amax(1)
        out: Tensor = self.fc(self.after(pooled))
        return out


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("size", [(9, 9), (6, 15)])
def test_a_grid_of_tokens(size: tuple[int, int], prefix: int, pooling: str) -> None:
    model = Grid(prefix, pooling)
    network, pixels = made(model, size)
    with torch.no_grad():
        tokens = model.tokens(pixels)
    maps = found(network, pixels)
    assert maps.shape == (4, WIDTH, size[0] // 3, size[1] // 3)
    for row in range(maps.shape[2]):
        for column in range(maps.shape[3]):
            place = prefix + row * maps.shape[3] + column
            assert torch.allclose(maps[:, :, row, column], tokens[:, place], atol=1e-6)


def test_tokens_of_which_no_grid_is_the_mean() -> None:
    model = Grid(1)
    model.prefix = 0  # so that the token of no place counts as well
    network, pixels = made(model)
    read = read_maps(network, pixels)
    assert read.maps is None
    assert read.reason == "the features are what 'mean' makes, and not the mean or the maximum over the places of a map"


class Affine(nn.Module):
    """A scale and an offset for each channel, by plain arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.offset = nn.Parameter(torch.ones(1, WIDTH)), nn.Parameter(torch.ones(1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.offset


class PlainNorm(nn.RMSNorm):
    """An RMS norm in plain arithmetic, its weights reshaped."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6) * self.weight.reshape(1, -1)


class Unit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


def _slowly(after: nn.Module, pooled: Tensor, place: Tensor) -> Tensor:
    """What a module makes of one place (d,) of an image, as it made it of the pooled values (d,)."""
    if isinstance(after, nn.LayerNorm):
        centred = (place - pooled.mean()) / math.sqrt(pooled.var(correction=0) + after.eps)
        return centred * after.weight + after.bias
    if isinstance(after, nn.BatchNorm1d):
        assert after.running_mean is not None and after.running_var is not None
        return (place - after.running_mean) / (after.running_var + after.eps).sqrt() * after.weight + after.bias
    if isinstance(after, nn.RMSNorm):
        return place / math.sqrt(pooled.square().mean() + (after.eps or torch.finfo(torch.float32).eps)) * after.weight
    if isinstance(after, Unit):
        return place / pooled.square().sum().sqrt()
    if isinstance(after, nn.Linear):
        return torch.stack([(row * place).sum() for row in after.weight]) + after.bias
    if isinstance(after, Affine):  # of a product and a sum
        return place * after.scale[0] + after.offset[0]
    if isinstance(after, nn.Sequential):
        for layer in after:
            pooled, place = layer(pooled[None].clone())[0], _slowly(layer, pooled, place)
        return place
    made: Tensor = after(pooled.clone())  # an activation, with the image's own share
    return place * made / pooled


AFTER: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "RMS norm": lambda: nn.RMSNorm(WIDTH),
    "plain norm": lambda: PlainNorm(WIDTH, eps=1e-6),
    "length one": Unit,
    "affine": Affine,
    "ReLU": lambda: nn.ReLU(inplace=True),
    "hidden layer": lambda: nn.Sequential(
        nn.Linear(WIDTH, WIDTH + 2), nn.GELU(), nn.Linear(WIDTH + 2, WIDTH), nn.Hardswish()
    ),
    "norm and layer": lambda: nn.Sequential(
        nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.LayerNorm(WIDTH)
    ),
}


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("after", AFTER)
def test_what_stands_between_pooling_and_head_is_done_to_each_place(after: str, images: int) -> None:
    model = Grid(1, after=AFTER[after]())
    network, pixels = made(model.eval())
    read = read_maps(network, pixels[:images])
    assert read.maps is not None and not read.reason
    torch.testing.assert_close(read.maps.mean((2, 3)), read.features, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        tokens = model.tokens(pixels[:images])[:, 1:]
        for image in range(images):
            for place in range(9):
                wanted = _slowly(model.after, tokens[image].mean(0), tokens[image, place])
                torch.testing.assert_close(read.maps[image, :, place // 3, place % 3], wanted, rtol=1e-3, atol=1e-4)


def test_a_hidden_layer_as_a_convolution() -> None:
    """As MobileNetV3 has it: the pooled map of one place goes through a 1×1 convolution and an activation."""
    conv = nn.Conv2d(WIDTH, 8, 1)
    model = nn.Sequential(
        nn.Conv2d(3, WIDTH, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), conv, nn.Hardswish(), nn.Flatten(), nn.Linear(8, 3)
    )
    network, pixels = made(model)
    read = read_maps(network, pixels)
    with torch.no_grad():
        before = model[:2](pixels)
        given = conv(before.mean((2, 3), keepdim=True))
        wanted = conv(before) * F.hardswish(given) / given
    assert read.maps is not None
    torch.testing.assert_close(read.maps, wanted, rtol=1e-4, atol=1e-5)


class Gated(Pooled):
    """The pooled values times others of the image: neither is what the other goes through."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.second(self.first(x)).mean((2, 3))
        out: Tensor = self.fc(pooled * pooled.cumsum(1).sigmoid())
        return out


class SideBySide(Tokens):
    """A class token and the mean of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.layer(*[self.patches(x).flatten(2).mT] * 3)[0]
        out: Tensor = self.fc(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1))
        return out


WITHOUT: dict[str, tuple[nn.Module, str]] = {
    "fully connected": (
        nn.Sequential(nn.Flatten(), nn.Linear(243, 8), nn.ReLU(), nn.Linear(8, 3)),
        "what 'relu' makes",
    ),
    "class token": (
        Tokens(),
        r"come from a single token \(number 1 of 5\), into which the network has mixed all places$",
    ),
    "gated": (Gated(), "what 'mul' makes, and not the mean or the maximum over the places of a map$"),
    "side by side": (SideBySide(), "what 'cat' makes"),
}


@pytest.mark.parametrize("kind", WITHOUT)
def test_networks_without_maps_say_why(kind: str) -> None:
    model, reason = WITHOUT[kind]
    network, pixels = made(model)
    read = read_maps(network, pixels)
    features, logits = network.read(pixels)
    assert read.maps is None
    torch.testing.assert_close((read.features, read.logits), (features, logits))
    assert re.search(reason, read.reason)


def test_a_class_token_that_goes_through_a_norm() -> None:
    class Normed(Tokens):
        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patches(x).flatten(2).mT
            out: Tensor = self.fc(F.layer_norm((tokens + self.layer(tokens, tokens, tokens)[0])[:, 2], (8,)))
            return out

    network, pixels = made(Normed())
    assert "a single token (number 3 of 4)" in read_maps(network, pixels).reason


def test_heads_on_maps_of_several_sizes() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc, self.other = nn.Conv2d(3, WIDTH, 3), nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.conv(x)
            out: Tensor = self.fc(maps.mean((2, 3))) + self.other(F.max_pool2d(maps, 2).mean((2, 3)))
            return out

    network, pixels = made(Both())
    read = read_maps(network, pixels)
    assert read.maps is None and read.reason == "the head reads maps of several sizes"


def test_inputs_that_are_no_pictures() -> None:
    network = Network(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    network.find_head(torch.randn(4, 4))
    assert read_maps(network, torch.randn(4, 4)).reason == "inputs of shape (4,) are no pictures"


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
