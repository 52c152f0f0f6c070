"""Networks within a budget: what is taken out, what that is worth, and what is won back."""

from __future__ import annotations

import copy
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import entropy
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

import subspect
from conftest import PIXELS
from prunable import PIXELS_IN, Branching, Made, MakeFolder, Plain
from subspect import DecomposedHead, Network, SubspectError
from subspect.cli import app
from subspect.giving.budget import mark, shared_by
from subspect.giving.images_of_classes import ImagesOfClasses
from subspect.giving.specialise import specialise
from subspect.giving.timing import Ratio, Time
from subspect.networks.gates import Gates
from subspect.resnet import ResNet
from subspect.shrinking.cost import Multiplications, Spent, times_of_layers
from subspect.shrinking.folded import folded
from subspect.shrinking.recover import batch_norm_anew, calibrated, features_of, readjust, refit
from subspect.shrinking.shrink import Plan, Round, at_a_time, rounds_to, shrink
from subspect.shrinking.tied import Tied, means_read
from subspect.shrinking.traced import Untraceable, at_size, at_size_within, branches, size_in, traced, without_branches
from subspect.shrinking.worth import Images, Worth
from subspect.studies.same_network import same_network

SUPPORTS = [[1, 4, 20], [4, 7], [9, 1]]


class Net(ResNet):
    """Three blocks of two layers each, for pictures of 8×8, with averages of batch norm that aren't 0."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__(8, 3, (16, 32, 32))
            self(torch.randn(64, 3, 8, 8))
        self.preprocessing = PIXELS


class Chain(nn.Module):
    """Sums of sums: what one branch is added to is the sum of the one before."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 4, 3)
            self.one, self.two, self.three = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
            self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.norm(self.one(x))
        x += self.two(F.relu(x, inplace=False))
        x = torch.add(self.three(x), x)
        out: Tensor = self.fc(F.relu(x, inplace=True).mean((2, 3)))
        return out


@pytest.fixture(scope="module")
def images() -> Images:
    return Images(torch.randn(30, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 3)


def known(model: nn.Module, head: str, pixels: Tensor) -> Network:
    network = Network(model, head=head)
    network.find_head(pixels[:2])
    return network


def test_a_traced_network_says_the_same_and_works_not_in_place() -> None:
    model = Chain().eval()
    made = traced(model, PIXELS_IN)
    torch.testing.assert_close(made(PIXELS_IN), model(PIXELS_IN))
    assert not any(node.kwargs.get("inplace") for node in made.graph.nodes)
    assert "iadd" not in {getattr(node.target, "__name__", "") for node in made.graph.nodes}
    with pytest.raises(Untraceable, match=r"^torch.fx cannot trace it \("):
        traced(Branching(), PIXELS_IN)


def test_a_network_that_returns_several_things_is_not_traced() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(1)

    with pytest.raises(Untraceable, match="it returns tuple, not a tensor"):
        traced(Two(), PIXELS_IN)
    with pytest.raises(Untraceable, match="traced by torch.fx it says something else"):
        traced(Turned(), PIXELS_IN)


def test_branches_are_found_and_left_out() -> None:
    model = Chain().eval()
    made = traced(model, PIXELS_IN)
    found = branches(made)
    assert [one.layers for one in found] == [("one",), ("two",), ("three",)]
    without_branches(made, [(one.sum, one.other) for one in found[:2]])
    with torch.no_grad():
        x = model.first(PIXELS_IN)
        wanted = model.fc((model.three(x) + x).relu().mean((2, 3)))
    torch.testing.assert_close(made(PIXELS_IN), wanted)
    assert "one" not in dict(made.named_modules()) and "three" in dict(made.named_modules())
    assert [one.layers for one in branches(traced(Net(), PIXELS_IN))] == [
        (f"layer{number}.0.conv1", f"layer{number}.0.conv2") for number in (1, 2, 3)
    ]


def test_tied_channels_go_together(images: Images) -> None:
    made = traced(Net(), images.pixels[:2])
    found = {one.root: one for one in Tied(made, images.pixels[:1], "linear").groups}
    inner = found["layer2.0.conv1"]
    assert (inner.channels, inner.writers, inner.passing, inner.readers) == (
        *(32, ("layer2.0.conv1",), ()),
        ("layer2.0.conv2",),
    )
    before = {name: one.clone() for name, one in made.state_dict().items()}
    means = means_read(made, [images.pixels[:20], images.pixels[20:]])
    Tied(made, images.pixels[:1], "linear").cut("layer2.0.conv1", [0, 5], means)
    left = [channel for channel in range(32) if channel not in (0, 5)]
    after = made.state_dict()
    assert torch.equal(after["layer2.0.conv1.weight"], before["layer2.0.conv1.weight"][left])
    assert torch.equal(after["layer2.0.conv2.weight"], before["layer2.0.conv2.weight"][:, left])
    assert torch.equal(after["layer2.0.bn1.running_mean"], before["layer2.0.bn1.running_mean"][left])
    assert all(torch.equal(after[name], before[name]) for name in after if "layer2.0" not in name)
    assert means["layer2.0.conv2"].shape == (30,)


def test_what_goes_leaves_its_mean_behind(images: Images) -> None:
    first, second = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 6, 2)
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    plain = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *pool, nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    made = traced(plain, images.pixels[:2])
    tied = Tied(made, images.pixels[:1], "8")
    with torch.no_grad():
        maps = first(images.pixels).relu()
        maps[:, [2, 7]] = maps[:, [2, 7]].mean((0, 2, 3))[:, None, None]
        pooled = second(maps).relu().mean((2, 3))
    tied.cut("0", [2, 7], means_read(made, [images.pixels]))
    torch.testing.assert_close(made(images.pixels), plain[6:](pooled))
    means = means_read(made, torch.split(images.pixels, 7))  # of the network as it is now
    tied.cut("2", [1], means)
    with torch.no_grad():
        pooled[:, 1] = pooled[:, 1].mean()
        hidden = plain[7](plain[6](pooled))
    torch.testing.assert_close(made(images.pixels), plain[8](hidden))
    tied.cut("6", [4], means_read(made, [images.pixels]))
    hidden[:, 4] = hidden[:, 4].mean()
    torch.testing.assert_close(made(images.pixels), plain[8](hidden))
    assert means["6"].shape == (5,) and made.get_submodule("8").in_features == 4


def moved(model: nn.Module, other: nn.Module, images: Images) -> float:
    """Return how far own class against strongest other moves, by SciPy, at a temperature of 2, after calibration."""
    with torch.no_grad():
        before, after = (one(images.pixels).double() for one in (model, other))
    goal = before.softmax(dim=1).numpy()

    def apart(values: np.ndarray) -> float:
        z = torch.from_numpy(values[0] * after.numpy() + values[1:])
        return float(entropy(goal, z.softmax(dim=1).numpy(), axis=1).mean())

    fit = minimize(apart, [1, 0, 0, 0], method="BFGS", options={"gtol": 1e-7}).x
    said = []
    for z in (before, fit[0] * after + torch.from_numpy(fit[1:])):
        own = z[torch.arange(len(z)), images.own]
        z[torch.arange(len(z)), images.own] = -torch.inf
        said.append(torch.stack([own, z.amax(dim=1)], dim=1).div(2).softmax(dim=1).numpy())
    return float(entropy(*said, axis=1).mean())


def test_what_channels_and_branches_are_worth(images: Images) -> None:
    model = traced(Net(), images.pixels[:2])
    network = known(model, "linear", images.pixels)
    worth = Worth(model, "linear", images)
    group = next(one for one in Tied(model, images.pixels[:1], "linear").groups if one.root == "layer3.0.conv1")
    gates = Gates(network, images.pixels[:2])
    means = {name: level.mean(0) for name, level in gates.levels(images.pixels)[1].items()}

    def margins(closed: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            z = network.head.weight @ gates.without(images.pixels, means, closed).T + network.head.bias[:, None]
        own = z[images.own, torch.arange(30)]
        rival = torch.stack([z[[c for c in range(3) if c != o], i].max() for i, o in enumerate(images.own.tolist())])
        return own - rival

    step, start = 1e-3, margins({}).double() / 2
    gate = torch.ones(32)
    gate[3] -= step
    slope = (margins({"layer3.0.conv1": gate}).double() / 2 - start) / step
    sure = torch.sigmoid(start)
    np.testing.assert_allclose(worth.of(group)[3], float((sure * (1 - sure) / 2 * slope.square()).mean()), rtol=0.02)

    less, last = copy.deepcopy(model), branches(model)[1]
    without_branches(less, [(last.sum, last.other)])
    np.testing.assert_allclose(worth.of_branches([last]), [moved(model, less, images)], rtol=1e-3)


def test_what_layers_cost(images: Images) -> None:
    model = traced(Net(), images.pixels[:2])
    costs = Multiplications(model, "linear", images.pixels).by_layer(model)
    assert costs["conv1"].whole == 64 * 3 * 16 * 9 and costs["layer2.0.conv1"] == Spent(*[16 * 16 * 32 * 9] * 2)
    before = {name: one.shape for name, one in model.state_dict().items()}
    times = times_of_layers(model, "linear", images.pixels, runs=2)
    assert set(times) == {*costs, "linear"} and {name: one.shape for name, one in model.state_dict().items()} == before
    assert all(0 <= one.by_width <= one.whole and one.whole > 0 for one in times.values())
    assert sum(one.by_width for one in times.values()) > 0


@pytest.mark.parametrize(("share", "step", "least"), [(0.8, 8, 0.5), (0.4, 8, 0.5), (0.8, None, 0.9), (0.4, None, 0.9)])
def test_a_budget_is_kept_and_the_plan_makes_the_same_network_again(
    images: Images, share: float, step: int | None, least: float
) -> None:
    whole, small, again = (traced(Net(), images.pixels[:2]) for _ in range(3))
    cost = Multiplications(whole, "linear", images.pixels)
    plan = shrink(small, "linear", images, share, cost, step)
    assert least * share < cost(small) <= share
    plan.apply(again, "linear", images.pixels)
    weights = {  # the head is scaled and shifted round by round, and by that what goes leaves another mean behind
        name: one for name, one in small.named_parameters() if not re.search(r"^linear\.|conv\d\.bias$", name)
    }
    assert again.state_dict().keys() == small.state_dict().keys()
    assert all(torch.equal(one, again.get_parameter(name)) for name, one in weights.items())
    other = traced(Net(), images.pixels[:2])
    assert shrink(other, "linear", images, share, cost, step) == plan


def test_of_narrow_layers_fewer_channels_go_at_once() -> None:
    assert [at_a_time(channels) for channels in (4, 8, 16, 24, 32, 63, 64, 512)] == [4, 4, 4, 4, 4, 4, 8, 8]


def test_a_channel_that_nothing_uses_goes_first(images: Images) -> None:
    model = Plain()
    with torch.no_grad():
        model.fc.weight[:, [0, 2, 3, 5, 6, 8, 10, 11]] = 0
    made = traced(model, images.pixels[:2])
    plan = shrink(made, "fc", images, 0.6, Multiplications(made, "fc", images.pixels), step=4)
    left = list(range(12))
    for one in plan.rounds:
        left = [channel for place, channel in enumerate(left) if place not in one.channels.get("conv", ())]
    assert left == [1, 4, 7, 9]


def test_a_budget_that_cannot_be_reached_says_what_can(images: Images) -> None:
    whole, small = (traced(Net(), images.pixels[:2]) for _ in range(2))
    with pytest.raises(
        SubspectError, match=r"^0.01 of the multiplications can't be reached: .* ask for 0\.\d\d or more$"
    ):
        shrink(small, "linear", images, 0.01, Multiplications(whole, "linear", images.pixels), step=8)
    assert Plan().rounds == ()


@pytest.mark.parametrize(
    ("left", "said"), [(0.4, "ask for 2.5 times as fast or less"), (0.99, "no faster on this machine: give a share")]
)
def test_a_time_that_cannot_be_reached_says_what_can(
    images: Images, monkeypatch: pytest.MonkeyPatch, left: float, said: str
) -> None:
    small = traced(Net(), images.pixels[:2])
    cost = Multiplications(traced(Net(), images.pixels[:2]), "linear", images.pixels)
    monkeypatch.setattr(cost, "unit", "time")
    monkeypatch.setattr(Multiplications, "__call__", lambda *_: left)
    with pytest.raises(SubspectError, match=rf"^0\.01 of the time can't be reached: .*{re.escape(said)}"):
        shrink(small, "linear", images, 0.01, cost, step=32)


class Stuck(Multiplications):
    """A cost that hardly falls, as time where a machine is busy."""

    def __call__(self, model: nn.Module) -> float:
        return 0.9


def test_a_cost_that_does_not_fall_ends_it(images: Images, caplog: pytest.LogCaptureFixture) -> None:
    model = traced(Net(), images.pixels[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subspect.shrinking.shrink._MORE", -2)
        plan = shrink(model, "linear", images, 0.8, Stuck(model, "linear", images.pixels), step=8)
    assert len(plan.rounds) == 2 and "after 2 rounds 0.90 of the cost is left, not 0.80" in caplog.text


def test_a_round_takes_half_of_a_layer_at_most_and_a_small_budget_more_rounds(images: Images) -> None:
    assert [rounds_to(share) for share in (0.9, 0.5, 0.4, 0.25, 0.1)] == [4, 4, 5, 7, 11]
    model = traced(Net(), images.pixels[:2])
    before = {group.root: group.channels for group in Tied(model, images.pixels[:1], "linear").groups}
    for one in shrink(
        copy.deepcopy(model), "linear", images, 0.2, Multiplications(model, "linear", images.pixels), 8
    ).rounds:
        for root, channels in one.channels.items():
            assert len(channels) <= max(before[root] / 2 + 4, 8)  # a step of 8 may begin just below the half
            before[root] -= len(channels)


def test_batch_norm_learns_plain_averages(images: Images) -> None:
    model = Plain()
    batch_norm_anew(model, images.pixels)
    with torch.no_grad():
        before = model.conv(model.first(images.pixels).relu())
    halves = [before[:25], before[25:]]
    wanted = torch.stack([one.mean((0, 2, 3)) for one in halves]).mean(0)
    torch.testing.assert_close(model.norm.running_mean, wanted)
    assert model.norm.momentum == 0.1 and not model.norm.training


def test_batch_norm_goes_as_far_as_it_helps(images: Images) -> None:
    model, wanted = Net().eval(), Net().eval()
    with torch.no_grad():
        goal = wanted(images.pixels)
        before = {name: one.clone() for name, one in model.state_dict().items() if "num_batches" not in name}
        readjust(model, "linear", images.pixels, goal)
        assert all(torch.equal(model.state_dict()[name], one) for name, one in before.items())  # nothing to better
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.add_(3)
        readjust(model, "linear", images.pixels, goal)
        apart = (model(images.pixels) - goal).abs().max()
        batch_norm_anew(model, images.pixels)
        assert apart <= (model(images.pixels) - goal).abs().max() + 1e-5  # all the way
        wanted.linear.weight.mul_(0.2)
        wanted.linear.bias.add_(torch.tensor([1.0, -1.0, 0.5]))
        readjust(wanted, "linear", images.pixels, goal)  # a scale and a shift of the logits are won back
        torch.testing.assert_close(wanted(images.pixels).softmax(1), goal.softmax(1), rtol=0, atol=1e-3)
        plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
        readjust(plain, "1", images.pixels, goal)  # has none


@pytest.mark.parametrize("side", [28, 32])
def test_pictures_are_made_smaller_where_that_costs_little(side: int) -> None:
    coarse = torch.randn(20, 3, 7, 7, generator=torch.Generator().manual_seed(2))
    few = Images(F.interpolate(coarse, (side, side), mode="bicubic"), torch.arange(20) % 3)
    plain = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
    )
    small, whole = (traced(plain, few.pixels[:2]) for _ in range(2))

    cost = Multiplications(whole, "4", few.pixels)
    plan = shrink(small, "4", few, 0.5, cost, step=16)  # no channels, then, can go
    sizes = [one.size for one in plan.rounds if one.size is not None]
    assert sizes and sizes[-1] == size_in(small, few.pixels) < (side, side)
    assert all(2 * height >= side and height % 4 == 0 for height, _ in sizes)
    assert cost(small) <= 0.5  # and the next larger size would cost more
    with at_size_within(small, (sizes[-1][0] + 4, sizes[-1][1] + 4)):
        assert cost(small) > 0.5
    cost.smallest = side + 1
    with pytest.raises(
        SubspectError, match=r"0\.5 of the multiplications can't be reached: with all taken out that can be, 1 is left"
    ):
        shrink(traced(plain, few.pixels[:2]), "4", few, 0.5, cost, step=16)


def test_where_time_counts_small_pictures_stay_if_the_network_is_trained() -> None:
    pixels = torch.zeros(2, 3, 32, 32)
    whole = traced(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)), pixels)
    sizes = [Time(whole, "1", pixels, trained=trained).smallest for trained in (False, True)]
    assert sizes[0] == Multiplications(whole, "1", pixels).smallest <= 32 < sizes[1]


def test_what_a_size_is_worth() -> None:
    few = Images(torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(2)), torch.arange(9) % 3)
    model = traced(Net(), few.pixels[:2])
    worth = Worth(model, "linear", few)

    class Smaller(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = model(F.interpolate(x, (24, 24), mode="bilinear", align_corners=False))
            return made

    assert worth.of_size((24, 24)) == pytest.approx(moved(model, Smaller(), few), rel=1e-3)
    assert not hasattr(model, "subspect_resized") and size_in(model, few.pixels) == (32, 32)
    at_size(model, (28, 28))
    again = Worth(model, "linear", few)
    assert again.of_size((28, 28)) == pytest.approx(0, abs=1e-9) and size_in(model, few.pixels) == (28, 28)
    assert (again.of_size((24, 24)) or 0) > 1e-4
    flat = traced(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 900, 3)), few.pixels[:2])
    assert Worth(flat, "2", few).of_size((24, 24)) is None and not hasattr(flat, "subspect_resized")


def test_calibration_wins_back_a_scale_and_a_shift() -> None:
    wanted = 3 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        calibrated(wanted / 5 + torch.tensor([3.0, 0, -1, 2]), wanted).softmax(1),
        wanted.double().softmax(1),
        rtol=0,
        atol=1e-4,
    )
    alone = torch.randn(9, 1)
    assert torch.equal(calibrated(alone, alone + 1), alone.double())  # of a single class


def test_the_refitted_head_is_the_best_on_its_places() -> None:
    random = np.random.default_rng(0)
    x, wanted = random.normal(size=(80, 5)), 2 * random.normal(size=(80, 3))
    weight = np.array([[1, 0, 0, 2, 0], [0, 1, 0, 0, 0.5], [0.1, 0, 1, 0, 0]])
    places, bias = weight != 0, np.zeros(3)
    goal = np.exp(wanted) / np.exp(wanted).sum(1, keepdims=True)
    spread = np.broadcast_to(x.std(0), weight.shape)[places]

    def loss(values: np.ndarray) -> float:
        rows = np.zeros_like(weight)
        rows[places] = values[:-3]
        z = x @ rows.T + values[-3:]
        logs = z - np.log(np.exp(z).sum(1, keepdims=True))
        moved = np.concatenate([(values[:-3] - weight[places]) * spread, values[-3:]])
        return float((goal * (np.log(goal) - logs)).sum(1).mean() + 1e-4 * np.square(moved).mean())

    best = minimize(loss, np.concatenate([weight[places], bias]), method="BFGS", options={"gtol": 1e-7})
    start = torch.from_numpy(weight), torch.from_numpy(bias)
    rows, shift = refit(*start, torch.from_numpy(x), torch.from_numpy(wanted), pull=1e-4)
    np.testing.assert_allclose(rows.numpy()[places], best.x[:-3], atol=1e-4)
    np.testing.assert_allclose(shift.numpy(), best.x[-3:], atol=1e-4)
    assert not rows.numpy()[~places].any()


@pytest.mark.parametrize(("images", "noise"), [(16, 3.0), (300, 0.0)])
def test_the_refit_goes_no_further_than_halves_of_the_images_bear_out(images: int, noise: float) -> None:
    random = torch.Generator().manual_seed(3)
    x, start, other = (torch.randn(*size, generator=random).double() for size in ((images, 12), (3, 12), (3, 12)))
    bias = torch.zeros(3).double()
    wanted = x @ (start if noise else other).T + noise * torch.randn(images, 3, generator=random).double()

    def missed(pull: float) -> float:
        halves = slice(0, None, 2), slice(1, None, 2)
        heads = [refit(start, bias, x[half], wanted[half], pull=pull) for half in halves]
        said = [x[half] @ rows.T + shift for half, (rows, shift) in zip(halves[::-1], heads, strict=True)]
        return float(
            sum(
                entropy(wanted[half].softmax(1), one.softmax(1), axis=1).mean()
                for half, one in zip(halves[::-1], said, strict=True)
            )
        )

    best = min((100.0, 10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4), key=missed)
    assert (best >= 1) == (noise > 0)
    torch.testing.assert_close(refit(start, bias, x, wanted), refit(start, bias, x, wanted, pull=best))


def test_batch_norm_is_folded_where_it_alone_reads_a_convolution() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = (nn.Conv2d(3, 3, 1, bias=False) for _ in range(3))
            self.norm, self.shared, self.alone = (nn.BatchNorm2d(3) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            first, second, third = self.one(x), self.two(x), self.three(x)
            kept: Tensor = self.norm(first) + self.shared(second) + self.shared(third) + third + self.alone(x)
            return kept

    plain = Twice()
    for norm in (plain.norm, plain.shared, plain.alone):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.running_mean, norm.running_var = torch.randn(3), torch.rand(3) + 0.5
    for model, left in ((traced(Net(), PIXELS_IN[:2]), 0), (traced(plain.eval(), PIXELS_IN[:2]), 2)):
        before = copy.deepcopy(model)
        made = folded(model)
        assert sum(isinstance(one, nn.BatchNorm2d) for one in made.modules()) == left
        with torch.no_grad():
            torch.testing.assert_close(made(PIXELS_IN), before(PIXELS_IN), rtol=1e-4, atol=1e-5)
        assert all(torch.equal(one, model.state_dict()[name]) for name, one in before.state_dict().items())
        assert all(one.is_contiguous(memory_format=torch.channels_last) for one in made.parameters() if one.ndim == 4)


class Idle(nn.Module):
    """Steps that change nothing, and some that look like them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()
        self.off, self.same = nn.Dropout(0.5), nn.Identity()

    def forward(self, relu: Tensor) -> Tensor:
        x = relu.relu()  # of an input that is only called so
        x = self.off(self.same(F.pad(self.conv(x), (0, 0, 0, 0))))
        x = F.relu(torch.relu(self.relu(F.pad(x, pad=(0, 0, 0, 0))[:, :, ::1, 0:])).relu())
        return F.pad(x[:, :, ::2, :3] + x[:, :, 1::2, :3], (0, 1)).relu()


def test_steps_that_change_nothing_are_taken_out() -> None:
    before = traced(Idle().eval(), PIXELS_IN)
    made = folded(before)
    with torch.no_grad():
        assert torch.equal(made(PIXELS_IN), before(PIXELS_IN))
    left = [node.name for node in made.graph.nodes if node.op.startswith("call")]
    assert left == ["relu_1", "conv", "off", "relu_2", "getitem_1", "getitem_2", "add", "pad_2", "relu_6"]
    assert [name for name, _ in made.named_children()] == ["conv", "off", "relu"] and hasattr(before, "same")


def test_time_is_that_of_the_slowest_runtime(
    images: Images, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, took, asked = traced(Net(), images.pixels[:2]), dict[str, dict[int, float]](), set[tuple[int, ...]]()

    def ratios(dense: Any, small: Any, pixels: Tensor, rounds: int, batches: Any) -> dict[int, Ratio]:
        asked.add((*batches, rounds))
        taken = took[getattr(small, "name", "PyTorch")]
        return {batch: Ratio(1, 1, taken[batch], 0, 1) for batch in batches}

    def other(_: nn.Module) -> Any:
        def run(x: Tensor) -> Tensor:
            return x

        run.name = "other"  # type: ignore[attr-defined]
        return run

    def none(_: nn.Module) -> Any:
        raise SubspectError("it can't be exported")

    monkeypatch.setattr("subspect.giving.timing.ratios", ratios)
    cost = Time(model, "linear", images.pixels, [other, none])
    assert "timed in PyTorch alone: it can't be exported" in caplog.text
    for one, two, most in (({1: 0.5, 32: 0.4}, {1: 0.6, 32: 0.3}, 0.6), ({1: 0.5, 32: 0.7}, {1: 0.6, 32: 0.3}, 0.7)):
        took.update(PyTorch=one, other=two)
        assert cost(model) == most == cost.roughly(model)
    assert asked == {(1, 20), (32, 5)}  # one image takes less, and varies more
    assert set(cost.by_layer(model)) == set(Multiplications(model, "linear", images.pixels).by_layer(model)) | {
        "linear"
    }


def test_what_is_left_tells_which_features_it_shares() -> None:
    model = traced(Plain(), PIXELS_IN[:2])
    marked = copy.deepcopy(model)
    mark(marked, "fc")
    Plan((Round((), {"conv": (0, 3)}),)).apply(marked, "fc", PIXELS_IN[:2])
    Plan((Round((), {"conv": (1,)}),)).apply(marked, "fc", PIXELS_IN[:2])
    found = shared_by(marked, model, "fc", PIXELS_IN)
    assert found.places.tolist() == [1, *range(4, 12)]
    spread = features_of(model, "fc", [PIXELS_IN]).numpy().std(0)[found.places]
    np.testing.assert_allclose(found.spread, np.maximum(spread, spread.mean() / 10), rtol=1e-5)


def test_features_of_a_network_are_what_its_head_reads() -> None:
    model = Plain().eval()
    with torch.no_grad():
        torch.testing.assert_close(features_of(model, "fc", [PIXELS_IN[:2], PIXELS_IN[2:]]), model.pooled(PIXELS_IN))


class OfNet(Made):
    def __init__(self, folder: Path, images: Path, model: nn.Module | None = None) -> None:
        self.model = model or Net()
        self.network, self.images = Network(self.model), images
        self.study = subspect.observe(self.network, images, folder / "study", "train", show_progress=False)
        subspect.Supports(SUPPORTS, 32).write(folder / "indices.json")
        self.made = subspect.decompose_by_file(self.study, folder / "indices.json")


@pytest.fixture
def one(make_folder: MakeFolder, tmp_path: Path) -> OfNet:
    return OfNet(tmp_path, make_folder("train", each=20))


def test_a_network_within_a_budget(one: OfNet) -> None:
    def made(**options: Any) -> subspect.Specialised:
        return specialise(
            one.study, one.made, network=one.network, budget=0.6, sample=30, show_progress=False, **options
        )

    found = made(classes=["a", "c"], rounds=2)
    assert found.small.multiplications <= 0.6 * found.dense.multiplications and found.classes == ("a", "c")
    assert isinstance(found.model.linear, DecomposedHead) and found.model(PIXELS_IN).shape == (5, 2)
    assert set(found.among) == {"dense", "decomposed", "small, before recovery", "small"}
    assert set(found.times) == set(found.onnx) == {1, 32} and found.difference is None and found.trained is None
    assert found.onnx_bytes is not None and 0 < found.onnx_bytes[1] < found.onnx_bytes[0]
    rows = [str(cell) for cell in found.tables()[0].columns[0]._cells]
    assert rows[3:] == ["bytes, as ONNX", "1 image", "32 images", "1 image, ONNX Runtime", "32 images, ONNX Runtime"]
    assert found.branches + len(found.widths) > 0 and "0.6 of the multiplications" in found.tables()[0].caption  # type: ignore[operator]
    assert json.dumps(found.to_json()) and one.network.fingerprint() == one.study.identity.fingerprint
    again = made(classes=["a", "c"], rounds=0, workers=2)
    assert not again.times and not again.onnx and again.onnx_bytes is None
    assert all(
        torch.equal(left, right)
        for left, right in zip(*(x.model.state_dict().values() for x in (found, again)), strict=True)
    )


def test_without_onnx_runtime_its_times_are_left_out(
    one: OfNet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = specialise(one.study, one.made, network=one.network, budget=0.6, rounds=1, sample=30, show_progress=False)
    assert found.times and not found.onnx and found.onnx_bytes is None
    assert "not timed by ONNX Runtime: " in caplog.text and ".[export]" in caplog.text


def test_images_are_spread_over_the_classes_and_mixed(one: OfNet) -> None:
    network = same_network(one.study, one.network)

    def drawn(seed: int, workers: int = 0) -> Images:
        chunks = one.study.image_set("train").chunks()
        return ImagesOfClasses(one.study, network, [0, 2], "train", chunks, workers=workers).drawn(20, seed)

    found, again, other = drawn(0), drawn(0, workers=1), drawn(1)
    assert found.own.bincount().tolist() == [10, 10] and len(found.pixels) == 20
    assert 0 < int(found.own[:10].sum()) < 10  # of both in each half
    assert torch.equal(found.pixels, again.pixels) and torch.equal(found.own, again.own)
    assert not torch.equal(found.pixels, other.pixels)


def test_a_small_network_learns_from_the_decomposed_one_and_goes_on(
    one: OfNet, tmp_path: Path, make_folder: MakeFolder
) -> None:
    def made(**changed: Any) -> subspect.Specialised:
        options: dict[str, Any] = {
            "classes": ["a", "b"],
            "budget": 0.6,
            "train": one.images,
            "folder": tmp_path / "small",
            "settings": {"epochs": 2, "batch_size": 8, "rate": 0.001, "held_out": 0.2},
            "rounds": 0,
            "sample": 30,
            "show_progress": False,
        }
        return specialise(one.study, one.made, network=one.network, **(options | changed))

    found = made()
    assert found.trained is not None and len(found.trained.epochs) == 2 and 0 < found.trained.images < 40
    assert (tmp_path / "small" / "plan.json").exists() and found.trained.path.exists()
    assert isinstance(found.model.linear, DecomposedHead)
    again = made()
    assert again.trained is not None and again.trained.epochs == found.trained.epochs
    assert torch.equal(again.model(PIXELS_IN), found.model(PIXELS_IN))
    with pytest.raises(
        SubspectError, match="holds the training of another small network, with other budget; choose another folder"
    ):
        made(budget=0.7)
    with pytest.raises(SubspectError, match="lies in a study; choose another folder"):
        made(folder=one.study.path / "small")
    nothing = make_folder("others", classes=["c"], each=9)
    with pytest.raises(SubspectError, match="none of the 9 images to train on is of the classes that are wanted"):
        made(train=nothing, folder=tmp_path / "other", class_map={"c": 2})


def test_batch_norm_follows_a_short_training(one: OfNet, tmp_path: Path) -> None:
    for module in one.network.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.001
    found = specialise(
        *(one.study, one.made),
        network=one.network,
        budget=0.6,
        train=one.images,
        folder=tmp_path / "small",
        settings={"epochs": 1, "batch_size": 8, "rate": 1e-9, "held_out": 0.2},
        rounds=0,
        sample=30,
        show_progress=False,
    )
    assert found.trained is not None and not any(isinstance(one, nn.BatchNorm2d) for one in found.model.modules())
    norms = [module for module in found.trained.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(norm.momentum == 0.1 for norm in norms)


def test_a_network_that_is_no_graph_is_narrowed_in_its_last_layer(
    tmp_path: Path, make_folder: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    one = Made(Branching(), tmp_path, make_folder("train", each=20))
    found = specialise(one.study, one.made, network=one.network, budget=0.5, rounds=0, show_progress=False)
    assert found.removed == 8 and found.difference is not None and not found.asked
    assert "; only channels that nothing uses are taken out" in caplog.text
    assert "It isn't narrowed to 0.5 of the multiplications, since torch.fx cannot trace it" in found.reason
    assert found.reason in caplog.text and found.reason in str(found.tables()[0].caption)


def test_what_cannot_be_asked_for(one: OfNet, tmp_path: Path) -> None:
    def refuses(text: str, **options: Any) -> None:
        with pytest.raises(SubspectError, match=text):
            specialise(one.study, one.made, network=one.network, rounds=0, show_progress=False, **options)

    refuses("not both", budget=0.5, times_as_fast=2)
    refuses("budget is a share of the multiplications, between 0 and 1; got 1.5", budget=1.5)
    refuses("times_as_fast is larger than 1, such as 2 for half the time; got 0.5", times_as_fast=0.5)
    refuses("training goes with a budget", train=one.images, folder=tmp_path / "x")
    refuses("give both train and folder", budget=0.5, train=one.images)
    refuses("a budget takes two classes or more", budget=0.5, classes=["a"])
    refuses("sample must be 2 images or more, got 1", budget=0.5, sample=1)


def test_classes_without_images_cannot_be_weighed(tmp_path: Path, make_folder: MakeFolder) -> None:
    folder = make_folder("train", each=20)
    one = OfNet(tmp_path, folder)
    x = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    study = subspect.observe(one.network, (x, torch.arange(20) % 2), tmp_path / "two", "train", show_progress=False)
    made = subspect.decompose_by_file(study, tmp_path / "indices.json")
    with pytest.raises(SubspectError, match=r"there are no images of .* in 'train', by which channels are weighed"):
        specialise(study, made, network=one.network, budget=0.5, rounds=0, images=x)
    found = specialise(study, made, network=one.network, budget=0.7, rounds=0, classes=[0, 1], images=x, sample=20)
    assert found.asked and found.labels == (0, 1)


def test_an_image_set_in_memory_is_not_measured_on(one: OfNet, caplog: pytest.LogCaptureFixture) -> None:
    x = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    arrays = ((255 * x.permute(0, 2, 3, 1)).byte().numpy(), np.arange(20) % 3)
    subspect.observe(one.network, arrays, one.study.path, "test", show_progress=False)
    study = subspect.open_study(one.study.path)
    found = specialise(study, one.made.name, network=one.network, budget=0.7, rounds=0, sample=20, show_progress=False)
    assert set(found.among) == {"dense", "decomposed"} and "the images of 'test' can't be opened again" in caplog.text


def test_images_that_are_gone(one: OfNet) -> None:
    there = one.images
    there.rename(there.with_name("elsewhere"))
    with pytest.raises(SubspectError, match="no longer"):
        specialise(one.study, one.made, network=one.network, budget=0.5, rounds=0)
    found = specialise(
        one.study, one.made, network=one.network, budget=0.7, rounds=0, sample=20, images=there.with_name("elsewhere")
    )
    assert found.asked


@pytest.mark.usefixtures("counted")
def test_on_the_command_line(one: OfNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(
        "import sys\nsys.path.insert(0, " + repr(str(Path(__file__).parent)) + ")\nfrom test_shrinking import Net\n"
    )

    def run(line: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else " ".join(result.stderr.split())

    line = "specialise study --network python:nets.py:Net --class a --class b"
    training = "--train train --folder small --epochs 1 --batch-size 8 --rate 0.001 --sample 30"
    value = json.loads(run(f"{line} --times-as-fast 1.5 {training} -o small.onnx --json"))
    assert value["asked"] == "1 / 1.5 of the time" and len(value["trained"]["epochs"]) == 1
    assert set(value["file"]["times"]) == {"1", "32"} and Path("small.onnx").exists()
    assert "--train" in run(f"{line} --budget 0.5 --epochs 2", 1)
    assert "--budget or --times-as-fast" in run(f"{line} --sample 20", 1)
