"""Gates: nothing changes while they are open; closed they set a channel to its mean; their slope is what a step changes."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from subspect import Network
from subspect.networks.gates import Gates, per_channel


class Mixed(nn.Module):
    """Convolutions with and without an activation, one called as a function and in place, one depthwise, a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(6, 6, 1)
        self.swish = nn.Conv2d(6, 4, 1)
        self.hidden = nn.Linear(10, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.norm(self.first(x)))
        x = x + self.last(self.relu(self.depth(x)))
        y = self.swish(x)
        y = y * torch.sigmoid(y)
        made: Tensor = self.head(nn.functional.gelu(self.hidden(torch.cat([x, y], dim=1).mean((2, 3)))))
        return made


@pytest.fixture
def gates() -> tuple[Gates, Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Mixed().eval()
    cast(Tensor, model.norm.running_mean).uniform_(-0.2, 0.2)
    pixels = torch.randn(5, 3, 7, 6)
    network = Network(model)
    network.find_head(pixels)
    gates = Gates(network, pixels)
    means = {name: level.mean(dim=0) for name, level in gates.levels(pixels)[1].items()}
    return gates, pixels, means


def test_layers_are_found_in_order_with_what_follows_them(gates: tuple[Gates, Tensor, dict[str, Tensor]]) -> None:
    found = {one.name: (one.channels, one.activated, one.depthwise, one.places) for one in gates[0].layers}
    assert found == {
        "first": (6, True, False, 42),
        "depth": (6, True, True, 42),
        "last": (6, False, False, 42),
        "swish": (4, False, False, 42),
        "hidden": (8, True, False, 1),
    }
    assert list(found) == ["first", "depth", "last", "swish", "hidden"]


def test_open_gates_change_nothing(gates: tuple[Gates, Tensor, dict[str, Tensor]]) -> None:
    found, pixels, means = gates
    features, _ = found.network.read(pixels)
    opened = found.without(pixels, means, {one.name: torch.ones(one.channels) for one in found.layers})
    torch.testing.assert_close(opened, features)


def test_a_closed_gate_is_the_channel_at_its_mean(gates: tuple[Gates, Tensor, dict[str, Tensor]]) -> None:
    found, pixels, means = gates
    model = cast(Mixed, found.network.model)
    with torch.no_grad():
        a = nn.functional.relu6(model.norm(model.first(pixels)))
        torch.testing.assert_close(means["first"], a.mean((0, 2, 3)))
        a[[1, 3], 2] = a[:, 2].mean()
        x = a + model.last(torch.relu(model.depth(a)))
        y = model.swish(x)
        x = torch.cat([x, y * torch.sigmoid(y)], dim=1).mean((2, 3))
        wanted = nn.functional.gelu(model.hidden(x))
    gate = torch.ones(5, 6)
    gate[[1, 3], 2] = 0
    torch.testing.assert_close(found.without(pixels, means, {"first": gate}), wanted)


def test_the_effect_is_the_slope_of_each_gate(gates: tuple[Gates, Tensor, dict[str, Tensor]]) -> None:
    found, pixels, means = gates
    wide = found.network.model.double()
    found.network.find_head(pixels.double())
    effects = found.effects(pixels.double(), means, lambda features: [features[:, 0], features.square().sum(1)])
    step = 1e-4
    for layer in found.layers:
        for channel in range(layer.channels):
            moved = []
            for sign in (-1, 1):
                gate = torch.ones(layer.channels, dtype=torch.float64)
                gate[channel] += sign * step
                moved.append(found.without(pixels.double(), means, {layer.name: gate}).double())
            slope = [(moved[0][:, 0] - moved[1][:, 0]) / (2 * step)]
            slope.append((moved[0].square().sum(1) - moved[1].square().sum(1)) / (2 * step))
            for each, wanted in zip(effects, slope, strict=True):
                torch.testing.assert_close(each[layer.name][:, channel].double(), wanted, rtol=0.02, atol=2e-3)
    assert wide.training is False


def test_weights_ask_for_gradients_afterwards_as_before(gates: tuple[Gates, Tensor, dict[str, Tensor]]) -> None:
    found, pixels, means = gates
    cast(Mixed, found.network.model).head.bias.requires_grad_(False)
    asking = [one.requires_grad for one in found.network.model.parameters()]
    found.effects(pixels, means, lambda features: [features.sum(1)])
    assert [one.requires_grad for one in found.network.model.parameters()] == asking
    assert not hasattr(pixels, "_subspect_layer")


def test_activations_of_any_form_are_laid_out_the_same(gates: tuple[Gates, Tensor, dict[str, Tensor]]) -> None:
    layers = {one.name: one for one in gates[0].layers}
    maps = torch.arange(2 * 6 * 4).reshape(2, 6, 2, 2)
    assert per_channel(layers["first"], maps).shape == (2, 4, 6)
    assert per_channel(layers["first"], maps)[1, :, 2].tolist() == maps[1, 2].flatten().tolist()
    assert per_channel(layers["hidden"], torch.zeros(2, 8)).shape == (2, 1, 8)
