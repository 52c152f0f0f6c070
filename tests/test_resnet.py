"""The small residual networks: sizes, shortcuts and names."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from subspect import Network, Preprocessing, SubspectError
from subspect.resnet import BasicBlock, ResNet, cifar10_resnet20, cifar10_resnet32, cifar10_resnet56


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def counted(depth: int, n_classes: int, widths: tuple[int, ...] = (16, 32, 64)) -> int:
    """Count the parameters by hand: weights of convolutions, two for each batch-normalised channel, and the head."""
    total, channels_in = 3 * widths[0] * 9 + 2 * widths[0], widths[0]
    for channels in widths:
        for _ in range((depth - 2) // 6):
            total += (channels_in + channels) * channels * 9 + 2 * 2 * channels
            channels_in = channels
    return total + (channels_in + 1) * n_classes


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameters_of_depth_20() -> None:
    assert parameters(ResNet(20)) == 269_722


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_parameters_as_the_paper_gives_them(depth: int, millions: float) -> None:
    assert round(parameters(ResNet(depth)) / 1e6, 2) == millions


@settings(deadline=None, max_examples=20)
@given(
    n=st.integers(1, 4),
    n_classes=st.integers(1, 12),
    widths=st.tuples(st.integers(1, 4), st.integers(4, 8), st.integers(8, 12)),
)
def test_depth_and_parameters(n: int, n_classes: int, widths: tuple[int, int, int]) -> None:
    model = ResNet(6 * n + 2, n_classes, widths)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == 6 * n + 2
    assert parameters(model) == counted(6 * n + 2, n_classes, widths)
    assert model.eval()(torch.randn(1, 3, 8, 8)).shape == (1, n_classes)


@pytest.mark.parametrize("depth", [-4, 0, 2, 7, 9, 18, 21, 51])
def test_bad_depth(depth: int) -> None:
    match = f"^depth {depth} is not 6n \\+ 2 with n ≥ 1; try 8, 14, 20, 26, 32, 44 or 56$"
    with pytest.raises(SubspectError, match=match):
        ResNet(depth)


def test_shapes_on_the_way() -> None:
    model = ResNet(14, 7).eval()
    shapes = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda _, args, out, name=name: shapes.update({name: tuple(out.shape)}))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert shapes == {
        "conv1": (2, 16, 32, 32),
        "bn1": (2, 16, 32, 32),
        "layer1": (2, 16, 32, 32),
        "layer2": (2, 32, 16, 16),
        "layer3": (2, 64, 8, 8),
        "linear": (2, 7),
    }


def option_a(x: Tensor, channels: int, stride: int) -> Tensor:
    """Every second pixel, and zero channels on both sides, pixel by pixel."""
    n, channels_in, height, width = x.shape
    before = (channels - channels_in) // 2
    out = torch.zeros(n, channels, -(-height // stride), -(-width // stride))
    for image in range(n):
        for channel in range(channels_in):
            for row in range(0, height, stride):
                for column in range(0, width, stride):
                    value = x[image, channel, row, column]
                    out[image, channel + before, row // stride, column // stride] = value
    return out


BLOCKS = [(4, 4, 1, 6), (4, 8, 2, 6), (4, 8, 2, 5), (2, 5, 2, 4), (3, 6, 1, 3)]


@pytest.mark.parametrize(("channels_in", "channels", "stride", "size"), BLOCKS)
def test_shortcut(channels_in: int, channels: int, stride: int, size: int) -> None:
    block = BasicBlock(channels_in, channels, stride).eval()
    nn.init.zeros_(block.conv2.weight)  # only the shortcut is left
    x = torch.randn(2, channels_in, size, size)
    assert torch.equal(block(x), option_a(x, channels, stride).clamp(min=0))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("channels_in", "channels", "stride", "size"), BLOCKS)
def test_block(channels_in: int, channels: int, stride: int, size: int, training: bool) -> None:
    def normed(y: Tensor) -> Tensor:
        if training:
            y = y - y.mean((0, 2, 3), keepdim=True)
        variance = y.square().mean((0, 2, 3), keepdim=True) if training else torch.ones(1)
        return y / (variance + 1e-5).sqrt()

    block = BasicBlock(channels_in, channels, stride).train(training)
    x = torch.randn(2, channels_in, size, size)
    y = normed(F.conv2d(x, block.conv1.weight, stride=stride, padding=1)).clamp(min=0)
    y = normed(F.conv2d(y, block.conv2.weight, padding=1))
    torch.testing.assert_close(block(x), (y + option_a(x, channels, stride)).clamp(min=0), rtol=1e-4, atol=1e-5)


def test_logits_are_of_the_mean_over_the_last_map() -> None:
    model = ResNet(8, 5).eval()
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        first = F.relu(model.bn1(model.conv1(x)))
        maps = model.layer3(model.layer2(model.layer1(first)))
        logits = model(x)
        for image in range(3):
            for label in range(5):
                products = maps[image].mean((1, 2)) * model.linear.weight[label]
                torch.testing.assert_close(logits[image, label], products.sum() + model.linear.bias[label])
    network = Network(model)
    assert network.find_head(x).name == "linear"
    torch.testing.assert_close(network.read(x)[0], maps.mean((2, 3)))
    assert network.head.n_features == 64


def test_modules_are_named_as_in_the_published_checkpoints() -> None:
    names = set(ResNet(14).state_dict())
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "linear.weight", "linear.bias", *(f"bn1.{part}" for part in norms)}
    for layer in (1, 2, 3):
        for block in (0, 1):
            place = f"layer{layer}.{block}"
            expected |= {f"{place}.conv1.weight", f"{place}.conv2.weight"}
            expected |= {f"{place}.bn{number}.{part}" for number in (1, 2) for part in norms}
    assert names == expected


@pytest.mark.parametrize(("make", "depth"), [(cifar10_resnet20, 20), (cifar10_resnet32, 32), (cifar10_resnet56, 56)])
def test_networks_for_cifar10(make: type[ResNet], depth: int) -> None:
    model = make()  # type: ignore[call-arg]
    assert parameters(model) == counted(depth, 10)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    network = Network(model)
    assert network.class_names == tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
    assert network.preprocessing == Preprocessing(
        resize=None, crop=None, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )


def test_other_networks_declare_nothing() -> None:
    cifar10_resnet20()
    assert ResNet(8).preprocessing is None
    assert ResNet(8).class_names is None


def test_same_seed_same_weights() -> None:
    def state() -> dict[str, Tensor]:
        torch.manual_seed(5)
        return ResNet(8).state_dict()

    first, second = state(), state()
    assert all(torch.equal(first[name], second[name]) for name in first)
