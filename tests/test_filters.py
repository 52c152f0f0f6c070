"""Which filters decide: planted ones are found, figures are those of plain loops, and what is kept is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor, nn
from typer.testing import CliRunner

import subspect
from conftest import Tiny
from shuffled import Shuffled
from subspect import Decomposition, Filters, Network, Study, SubspectError
from subspect.cli import app
from subspect.ground.engines import using
from subspect.tracing import shares
from subspect.tracing.stored import FILES, kept_filters
from subspect.tracing.sums import Grouped, Levels, Peaks
from world import build

Array = npt.NDArray[np.float64]

# A network of two towers, in which known filters serve known classes --------------------------------------------------

TOWERS = {"left": (0, 1), "right": (2, 3)}  # tower → the classes that it serves, by the channels of the images


class Towers(nn.Module):
    """Of each tower's first layer filters 0 and 1 serve its first class, 2 and 3 its second; of its second layer 0 and 1 do.

    All others see the images as well, and nobody reads them. The fifth class is what is left, the rival of all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 5)
        for name, classes in TOWERS.items():
            first, second = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
            setattr(self, f"{name}1", first)
            setattr(self, f"{name}2", second)
            with torch.no_grad():
                second.weight.zero_(), first.weight.copy_(first.weight.abs())
                for place, label in enumerate(classes):
                    first.weight[2 * place : 2 * place + 2] = 0
                    first.weight[2 * place : 2 * place + 2, label, 1, 1] = 1
                    second.weight[place, 2 * place : 2 * place + 2] = 1
                second.weight[2:, 4:] = 1
        with torch.no_grad():
            self.fc.weight.zero_()
            for label, feature in enumerate((0, 1, 4, 5)):
                self.fc.weight[label, feature] = 4
            self.fc.bias.copy_(torch.tensor([-5.0, -5, -5, -5, 0]))

    def forward(self, x: Tensor) -> Tensor:
        sides = [getattr(self, f"{name}2")(torch.relu(getattr(self, f"{name}1")(x))).relu() for name in TOWERS]
        made: Tensor = self.fc(torch.cat(sides, dim=1).mean(dim=(2, 3)))
        return made


def bright(each: int = 12) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Images of four channels, one of them bright: it is the class."""
    labels = np.arange(4 * each) % 4
    x = 0.05 * torch.rand(4 * each, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    x[torch.arange(len(x)), torch.from_numpy(labels)] += 1
    return x, labels


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Decomposition, Network]:
    torch.manual_seed(0)
    network = Network(Towers(), class_names=("a", "b", "c", "d", "rest"))
    study = subspect.observe(network, bright(), tmp_path_factory.mktemp("towers") / "study", show_progress=False)
    return subspect.decompose(study, 1, hold_out=0, show_progress=False), network


def test_planted_filters_are_found_and_no_others(towers: tuple[Decomposition, Network]) -> None:
    made, network = towers
    found = made.filters(network, images=bright(), share=0.9, ablate=6, show_progress=False)
    assert found.names == ["left1", "left2", "right1", "right2"] and found.labels == (0, 1, 2, 3)
    for label in range(4):
        for layer in found.layers:
            served = TOWERS[layer.name[:-1]]
            each = 2 if layer.name.endswith("1") else 1
            place = served.index(label) * each if label in served else 0
            wanted = set(range(place, place + each)) if label in served else set()
            assert {one.channel for one in found.of(label, layer.name)} == wanted
            assert all(one.signed < 0 for one in found.of(label, layer.name))  # without it the margin falls
            assert layer.ablated is not None
            closed = np.zeros((1, layer.channels))
            closed[0, layer.ablated.channels[:, label]] = layer.ablated.effect[:, label]
            closed[closed < 1e-5] = 0  # rounding
            assert set(np.flatnonzero(shares.holding(closed, 0.9)[0]).tolist()) == wanted
    assert found.rank_correlation > 0.99
    figures = dict(zip(found.names, found.by_depth, strict=True))
    assert figures["left1"]["overlap"] == 0 < figures["left1"]["by_chance"]
    assert figures["left1"]["specific"] == pytest.approx(1, abs=1e-4)
    assert figures["left2"]["own"] == 0.5 < figures["left2"]["random"] <= figures["left2"]["before"] == 1
    ways = dict(found.paths("c"))
    assert ways == {4: {"right2": [0], "right1": [0, 1], "left2": [], "left1": []}}


# Formulas -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 9), st.floats(0.05, 0.95))
def test_the_fewest_filters_that_hold_a_share(seed: int, classes: int, channels: int, share: float) -> None:
    effects = np.random.default_rng(seed).integers(0, 5, (classes, channels)).astype(float)
    for row, chosen in zip(effects, shares.holding(effects, share), strict=True):
        order = sorted(range(channels), key=lambda one: (-row[one], one))
        kept: list[int] = []
        while row.sum() and row[kept].sum() < share * row.sum():
            kept.append(order[len(kept)])
        assert np.flatnonzero(chosen).tolist() == sorted(kept)


def test_overlap_and_what_chance_would_give() -> None:
    random = np.random.default_rng(0)
    chosen = random.random((5, 8)) < 0.4
    sets = [set(np.flatnonzero(row).tolist()) for row in chosen]
    pairs = [(one, other) for place, one in enumerate(sets) for other in sets[:place]]
    found, chance = shares.overlap(chosen)
    assert found == pytest.approx(np.mean([len(a & b) / max(1, len(a | b)) for a, b in pairs]))
    drawn = [[set(random.permutation(8)[: len(one)].tolist()) for one in pair] for pair in pairs for _ in range(4000)]
    assert chance == pytest.approx(np.mean([len(a & b) / max(1, len(a | b)) for a, b in drawn]), abs=0.01)
    assert all(np.isnan(shares.overlap(chosen[:1])))
    assert shares.by_chance(0, 3, 8) == 0 and shares.by_chance(8, 8, 8) == pytest.approx(1)


def test_how_much_a_filter_tells() -> None:
    assert shares.specific(np.eye(4)) == pytest.approx(1)
    assert shares.specific(np.outer([1, 2, 5], [3, 1, 0])) == pytest.approx(0)
    assert np.isnan(shares.specific(np.array([[1.0, 2], [0, 0]])))
    effects = np.random.default_rng(1).random((3, 5))
    joint = effects / effects.sum(axis=1, keepdims=True) / 3
    plain = sum(
        joint[c, j] * np.log(joint[c, j] / (joint[c].sum() * joint[:, j].sum())) for c in range(3) for j in range(5)
    )
    assert shares.specific(effects) == pytest.approx(plain / np.log(3))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=20))
def test_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    found = shares.rank_correlation(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(one, other).statistic, abs=1e-12)


@given(st.integers(0, 10_000), st.lists(st.integers(1, 6), min_size=1, max_size=5), st.randoms())
def test_sums_are_joined_in_any_order(seed: int, sizes: list[int], chance: Any) -> None:
    random = np.random.default_rng(seed)
    n, channels = sum(sizes), 4
    values = random.integers(-3, 4, (n, channels)).astype(np.float32)  # whole, so that sums are exact; with ties
    groups = random.integers(-1, 3, n)
    parts = []
    for end, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
        here = slice(end - size, end)
        levels, grouped = Levels(), Grouped(np.zeros(3, np.int64))
        levels.update({"one": values[here]}, np.arange(n)[here])
        grouped.update({"one": values[here]}, groups[here])
        parts.append((levels, grouped))
    while len(parts) > 1:
        first, second = (parts.pop(chance.randrange(len(parts))) for _ in range(2))
        parts.append((first[0].merge(second[0]), first[1].merge(second[1])))
    [(levels, grouped)] = parts
    assert np.array_equal(levels.means()["one"], values.mean(axis=0, dtype=np.float64).astype(np.float32))
    for channel in range(channels):
        order = sorted(range(n), key=lambda one: (-values[one, channel], one))[:6]
        kept = levels.peaks["one"].at[:, channel]
        assert kept[kept >= 0].tolist() == order and (kept >= 0).sum() == min(6, n)
        for group in range(3):
            own = values[groups == group, channel]
            assert grouped.signed["one"][group, channel] == own.sum()
            assert grouped.absolute["one"][group, channel] == np.abs(own).sum()
    assert grouped.n.tolist() == np.bincount(groups[groups >= 0], minlength=3).tolist()


def test_nothing_is_joined_as_well() -> None:
    some = Levels()
    some.update({"one": np.ones((2, 3), np.float32)}, np.arange(2))
    for joined in (some.merge(Levels()), Levels().merge(some)):
        assert joined.images == 2 and joined.sums["one"].tolist() == [2, 2, 2]
    assert Peaks(2, 3).merge(Peaks(2, 3)).at.tolist() == [[-1, -1]] * 3
    assert Grouped(np.zeros(1, np.int64)).merge(Grouped(np.ones(1, np.int64))).n.tolist() == [1]


# Against plain loops --------------------------------------------------------------------------------------------------


@pytest.fixture
def made(study: Study) -> Decomposition:
    return study.decompose(2, show_progress=False)


def seen(study: Study) -> tuple[list[str], npt.NDArray[np.int64], Tensor]:
    """The images of the training set, as the tiny network gets them."""
    chunk = study.image_set("train").whole()
    images = subspect.open_images(study.image_set("train").manifest.root or "")
    place = {images.id(at): at for at in range(len(images))}
    network = Network(Tiny())
    assert network.preprocessing is not None
    pixels = [network.preprocessing(images.read(place[id]).image) for id in chunk.ids]  # type: ignore[arg-type]
    return list(chunk.ids), np.array(chunk.labels), torch.stack(pixels)


def margin(features: Tensor, own: int, decomposition: Decomposition) -> Tensor:
    weight, bias = (torch.from_numpy(one).double() for one in decomposition.matrix())
    logits = features @ weight.T + bias
    return logits[own] - torch.cat([logits[:own], logits[own + 1 :]]).max()


def test_figures_are_those_of_plain_loops(study: Study, made: Decomposition) -> None:
    found = made.filters(Network(Tiny()), ablate=2, ablate_sample=1000, show_progress=False)
    ids, labels, pixels = seen(study)
    model = Tiny().double().eval()
    [layer] = found.layers
    a = model.norm(model.conv(pixels.double())).tanh().detach()
    mean = a.mean(dim=(0, 2, 3))
    np.testing.assert_allclose(layer.mean, mean, atol=1e-6)
    slopes = []
    for image, label in zip(a, labels.tolist(), strict=True):
        one = image.clone().requires_grad_(True)
        [slope] = torch.autograd.grad(margin(one.mean(dim=(1, 2)), label, made), one)
        slopes.append(((mean[:, None, None] - image) * slope).sum(dim=(1, 2)))
    effects = torch.stack(slopes).numpy()
    levels = a.mean(dim=(2, 3)).numpy()
    assert layer.ablated is not None and layer.essential is not None
    for label in range(3):
        own = labels == label
        np.testing.assert_allclose(layer.effect[label], np.abs(effects[own]).mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(layer.signed[label], effects[own].mean(axis=0), atol=1e-5)
        assert found.images[label] == found.closed_on[label] == own.sum()
        right = [float(margin(one.mean(dim=(1, 2)), label, made)) > 0 for one in a[own]]
        assert found.right[label] == sum(right)
        for channel, effect in zip(layer.ablated.channels[:, label], layer.ablated.effect[:, label], strict=True):
            without = a[own].clone()
            without[:, channel] = mean[channel]
            changes = [
                float(margin(one.mean(dim=(1, 2)), label, made) - margin(before.mean(dim=(1, 2)), label, made))
                for one, before in zip(without, a[own], strict=True)
            ]
            assert effect == pytest.approx(np.abs(changes).mean(), abs=1e-5)
        without = a[own].clone()
        for one in found.of(label, "conv"):
            without[:, one.channel] = mean[one.channel]
        assert layer.essential.own[label] == sum(
            float(margin(one.mean(dim=(1, 2)), label, made)) > 0 for one in without
        )
    for feature, row in zip(found.features, layer.by_feature, strict=True):
        having = np.isin(labels, [label for label, own in found.of_class.items() if feature in own])
        wanted = np.zeros(6)
        wanted[feature] = np.abs(levels[having, feature] - mean[feature].item()).mean()
        np.testing.assert_allclose(row, wanted, atol=1e-6)
    assert found.ids == tuple(ids) and found.of_images == tuple(labels.tolist())
    for channel in range(6):
        order = np.argsort(-levels[:, channel].astype(np.float32), kind="stable")[:6]
        np.testing.assert_allclose(layer.peaks[:, channel], levels[order, channel], atol=1e-6)
        assert set(layer.images[:, channel].tolist()) == set(order.tolist())


def test_those_closed_are_the_first_and_as_many_others(made: Decomposition) -> None:
    found = made.filters(Network(Tiny()), ablate=2, seed=3, show_progress=False)
    [layer] = found.layers
    assert layer.ablated is not None and layer.ablated.channels.shape == (4, 3)
    for row in range(3):
        order = np.argsort(-layer.effect[row], kind="stable").tolist()
        closed = layer.ablated.channels[:, row].tolist()
        assert closed[:2] == order[:2] and set(closed[2:]) < set(order[2:]) and len(set(closed)) == 4
    all_of_them = made.filters(Network(Tiny()), ablate=9, seed=3, show_progress=False).layers[0].ablated
    assert all_of_them is not None and sorted(all_of_them.channels[:, 0].tolist()) == list(range(6))


# The same by anybody --------------------------------------------------------------------------------------------------


def same(one: Filters, other: Filters) -> bool:
    """Whether two answers are the same to the bit."""
    arrays = [
        [
            *(getattr(layer, name) for name in ("effect", "signed", "by_feature", "mean", "peaks", "images")),
            *((layer.ablated.channels, layer.ablated.effect) if layer.ablated else ()),
            *((layer.essential.own, layer.essential.random) if layer.essential else ()),
        ]
        for found in (one, other)
        for layer in found.layers
    ]
    half = len(arrays) // 2
    pairs = zip(chain(*arrays[:half]), chain(*arrays[half:]), strict=True)
    return one.to_json() == other.to_json() and all(a.tobytes() == b.tobytes() for a, b in pairs)


def test_the_same_by_any_engine_and_any_number_of_workers(
    made: Decomposition, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("studies.spread", "tracing.sampled"):
        monkeypatch.setattr(f"subspect.{module}.BLOCK", 8)
    network = Network(Tiny())
    whole = made.filters(network, show_progress=False)
    for workers, memory in ((0, None), (1, None), (2, 0)):
        FILES.path(study, made.name).unlink()
        with pytest.MonkeyPatch.context() as patch:
            if memory is not None:
                patch.setattr("subspect.tracing.sampled.budget", lambda: 0)
            assert same(whole, made.filters(network, workers=workers, show_progress=False))
    FILES.path(study, made.name).unlink()
    with using(Shuffled(2)):
        assert same(whole, made.filters(network, show_progress=False))
    other = made.filters(network, sample=20, seed=1, replace=True, show_progress=False)
    assert not same(whole, other) and "20 of 120 images of 'train', seed 1" in other.note


# Kept in the study ----------------------------------------------------------------------------------------------------


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("not again")


def test_kept_and_resumed(made: Decomposition, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(Tiny())

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("subspect.tracing.filters.closed", stopped)
        made.filters(network, show_progress=False)
    first = kept_filters(study, made)
    assert first is not None and first.layers[0].ablated is None and FILES.is_current(study, made.name)
    monkeypatch.setattr("subspect.tracing.filters._scored", never)
    whole = made.filters(network, show_progress=False)
    assert whole.layers[0].ablated is not None and whole.layers[0].essential is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subspect.tracing.closing._run", never)
        kept = kept_filters(study, made)
        assert kept is not None and same(whole, kept)
        assert same(whole, made.filters(network, show_progress=False))
        less = made.filters(network, ablate=0, repeats=0, show_progress=False)
        assert same(whole, less)  # what is there is told
        [label] = made.filters(network, classes=["b"], show_progress=False).labels
        assert label == 1
        with pytest.raises(AssertionError, match="not again"):
            made.filters(network, share=0.7, show_progress=False)
    more = made.filters(network, share=0.7, show_progress=False)
    assert more.share == 0.7 and same_closed(more, whole)
    again = made.filters(network, ablate_sample=12, show_progress=False)
    assert again.closed_on.sum() == 12 and not same_closed(again, whole)
    with pytest.raises(
        SubspectError, match=r"keeps filters of pursuit-k2 of another sample \(120 of 120 .*--replace\)"
    ):
        made.filters(network, sample=12, show_progress=False)


def same_closed(one: Filters, other: Filters) -> bool:
    first, second = one.layers[0].ablated, other.layers[0].ablated
    assert first is not None and second is not None
    return np.array_equal(first.effect, second.effect)


def test_of_another_head_nothing_is_kept(made: Decomposition, study: Study) -> None:
    made.filters(Network(Tiny()), ablate=0, repeats=0, show_progress=False)
    assert subspect.verify(study.path).notes == ()
    other = study.decompose(1, show_progress=False)
    assert kept_filters(study, other) is None
    FILES.path(study, made.name).rename(FILES.path(study, other.name))
    assert kept_filters(study, other) is None and not FILES.is_current(study, other.name)
    [note] = subspect.verify(study.path).notes
    assert (
        note
        == "about a decomposition that is gone, damaged or another by now, so delete it: filters/pursuit-k1.safetensors"
    )
    FILES.path(study, other.name).rename(FILES.path(study, "gone"))
    assert not FILES.is_current(study, "gone")


def test_damage_is_noticed(made: Decomposition, study: Study) -> None:
    made.filters(Network(Tiny()), ablate=0, repeats=0, show_progress=False)
    path = FILES.path(study, made.name)
    data = path.read_bytes()
    path.write_bytes(data[:-8] + bytes(8))
    with pytest.raises(SubspectError, match=r"doesn't fit its checksum; delete it, and look again: subspect filters"):
        kept_filters(study, made)
    (study.path / "filters/notes.txt").write_text("mine")
    told = subspect.verify(study.path)
    assert [fault.path for fault in told.faults] == ["filters/pursuit-k2.safetensors"]
    assert list(told.notes) == ["not written by subspect, and left alone: filters/notes.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, about: tensors.update({"0.effect": -tensors["0.effect"]}), "0.effect is below 0"),
        (lambda tensors, about: tensors["0.images"].fill_(120), "0.images points to nothing"),
        (lambda tensors, about: tensors.pop("0.mean"), "it contains .*, expected"),
        (lambda tensors, about: about.update(labels=[0, 1, 7]), "it names classes or features that it doesn't have"),
        (lambda tensors, about: about.update(share=2.0), "it has no layers, or another number of classes than it says"),
        (lambda tensors, about: about.update(settings={"seed": 1}), "its settings are not those of filters"),
        (lambda tensors, about: about.update(extra=1), "unknown fields"),
    ],
)
def test_files_of_strangers_are_looked_at(
    made: Decomposition, study: Study, change: Callable[[dict[str, Any], dict[str, Any]], object], message: str
) -> None:
    from subspect.ground.seals import read_tensors, tensor_bytes

    made.filters(Network(Tiny()), ablate=0, repeats=0, show_progress=False)
    path = FILES.path(study, made.name)
    tensors, about = read_tensors(path, "a file")
    tensors = {name: one.clone() for name, one in tensors.items()}
    about = {key: one for key, one in about.items() if key != "checksum"}
    change(tensors, about)
    path.write_bytes(tensor_bytes(tensors, about))
    with pytest.raises(SubspectError, match=rf"{message}.*delete it, and look again"):
        kept_filters(study, made)


def test_of_another_way_of_scoring_nothing_is_kept(
    made: Decomposition, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.filters(Network(Tiny()), ablate=0, repeats=0, show_progress=False)
    newer = dataclasses.replace(FILES, schema=2)
    monkeypatch.setattr("subspect.tracing.stored.FILES", newer)
    assert kept_filters(study, made) is None and not newer.is_current(study, made.name)


# What can't be answered -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0}, "share must be between 0 and 1, got 0"),
        ({"share": 1}, "share must be between 0 and 1, got 1"),
        ({"share": float("nan")}, "share must be between 0 and 1, got nan"),
        ({"sample": 0}, "sample must be 1 or more, got 0"),
        ({"ablate": -1}, "ablate must be 0 or more, got -1"),
        ({"ablate_sample": 0}, "ablate_sample must be 1 or more, got 0"),
        ({"repeats": -1}, "repeats must be 0 or more, got -1"),
        ({"classes": []}, "no class was named; leave classes out for all, or name some"),
        ({"classes": ["cat"]}, "no class 'cat'; the network has 3: a, b, c"),
        (
            {"classes": ["a", "b"], "sample": 1},
            "sample must be an image for each class or more, got 1 for 2 classes",
        ),
        ({"on": "val"}, "no image set 'val'"),
    ],
)
def test_refused(made: Decomposition, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SubspectError, match=message):
        made.filters(Network(Tiny()), show_progress=False, **options)


def test_another_network_and_classes_without_images(
    made: Decomposition, study: Study, towers: tuple[Decomposition, Network]
) -> None:
    with pytest.raises(SubspectError, match="this is a different network"):
        made.filters(Network(Tiny(seed=1)))
    of_towers, network = towers
    with pytest.raises(
        SubspectError,
        match=r"no images of rest in 'train' \(by labels\); measure on .*, or ask about others: a, b, c, d",
    ):
        of_towers.filters(network, images=bright(), classes=["rest", "a"])
    with pytest.raises(
        SubspectError, match=r"the images of 'train' were in memory \(arrays\), so they can't be opened"
    ):
        of_towers.filters(network)
    found = of_towers.filters(network, images=bright(), ablate=0, repeats=0, show_progress=False, replace=True)
    with pytest.raises(SubspectError, match="the filters of 'rest' were not looked at; ask about it as well .*: a, b"):
        found.of("rest", "left1")
    with pytest.raises(
        SubspectError, match=r"no layer 'left3' was looked at \(did you mean 'left[12]' or 'left[12]'\?\); these were"
    ):
        found["left3"]
    with pytest.raises(SubspectError, match="the filters behind feature 3 were not looked for; take one of these: 0"):
        found.makes(3, "left1")


class Bare(nn.Module):
    """Nothing before the head but a mean, or a layer whose output has no images."""

    def __init__(self, odd: bool) -> None:
        super().__init__()
        self.odd = nn.Linear(3, 3) if odd else None
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        if self.odd is not None:
            x = x + 0 * self.odd(torch.ones(7, 3)).mean()
        made: Tensor = self.fc(x.mean(dim=(2, 3)))
        return made


@pytest.mark.parametrize("odd", [False, True])
def test_a_network_without_filters(tmp_path: Path, odd: bool) -> None:
    network = Network(Bare(odd), name="bare")
    study = subspect.observe(network, bright(4), tmp_path / "study", show_progress=False)
    found = subspect.decompose(study, 1, hold_out=0, show_progress=False)
    with pytest.raises(
        SubspectError, match=r"bare has no filters to look at: besides the head, no convolution or linear"
    ):
        found.filters(network, images=bright(4), show_progress=False)


def test_images_that_are_gone(
    made: Decomposition, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(Tiny())
    root = Path(study.image_set("train").manifest.root or "")
    files = sorted(root.rglob("*.png"))
    files[0].unlink()
    found = made.filters(network, ablate=0, repeats=0, show_progress=False)
    assert found.images.sum() == 119 and "119 of 120 images of 'train'; 1 more couldn't be opened again" in found.note
    assert 0 not in found.layers[0].images
    # Images that go away between two passes are not taken for other images.
    monkeypatch.setattr("subspect.tracing.sampled.budget", lambda: 0)
    levels = subspect.tracing.filters._levels

    def deleting(*given: Any) -> Any:
        made = levels(*given)
        files[1].unlink()
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subspect.tracing.filters._levels", deleting)
        with pytest.raises(
            SubspectError, match=r"filters: of 'train', .*png could be read in one pass over the images"
        ):
            made.filters(network, seed=1, replace=True, show_progress=False)
    root.rename(tmp_path / "moved")
    with pytest.raises(
        SubspectError, match=r"none of the 120 images of 'train' could be opened again .*--images FOLDER"
    ):
        made.filters(network, seed=2, replace=True, show_progress=False)
    moved = made.filters(network, seed=2, replace=True, images=tmp_path / "moved", ablate=0, show_progress=False)
    assert moved.images.sum() == 118


def test_other_images_are_told(made: Decomposition, study: Study, caplog: pytest.LogCaptureFixture) -> None:
    images = seen(study)[2]
    labels = np.array(study.image_set("train").whole().labels)
    other = ((1 - images.numpy().transpose(0, 2, 3, 1)).clip(0, 1) * 255).astype(np.uint8)
    root = Path(study.image_set("train").manifest.root or "")
    from PIL import Image

    ids = study.image_set("train").whole().ids
    for id, one in zip(ids, other, strict=True):
        (root.parent / "others" / id).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(root.parent / "others" / id)
    found = made.filters(Network(Tiny()), images=root.parent / "others", ablate=0, repeats=0, show_progress=False)
    assert "images are not those that were observed as 'train'" in caplog.text
    assert found.images.tolist() == np.bincount(labels).tolist()


def test_without_labels_predictions_stand_in(tmp_path: Path, towers: tuple[Decomposition, Network]) -> None:
    network = towers[1]
    study = subspect.observe(network, bright()[0], tmp_path / "study", show_progress=False)
    made = subspect.decompose(study, 1, hold_out=0, show_progress=False)
    found = made.filters(network, images=bright()[0], show_progress=False)
    assert found.note.endswith("no labels: the dense network's own predictions stand in")
    with pytest.raises(SubspectError, match=r"no images of rest in 'train' \(by the network's predictions\)"):
        made.filters(network, images=bright()[0], classes=[4], replace=True, show_progress=False)


# Shown ----------------------------------------------------------------------------------------------------------------


def test_shown(made: Decomposition, study: Study) -> None:
    network = Network(Tiny())
    some = made.filters(network, ablate=0, repeats=0, classes=["c"], show_progress=False)
    assert some.labels == (2,) and some.images.tolist() == [40] and "(1 of the 3 classes that have images)" in some.note
    [table] = some.tables()
    assert [str(column.header) for column in table.columns] == ["layer", "needed"]
    assert json.loads(json.dumps(some.to_json()))["layers"]["conv"]["overlap"] is None
    whole = made.filters(network, replace=True, show_progress=False)
    assert whole.names == ["conv"] and len(whole.tables()[0].columns) == 7
    frame = whole.to_frame()
    assert list(frame.columns) == ["class", "layer", "filter", "share", "effect", "signed"]
    for row, label in enumerate(whole.labels):
        own = frame[frame["class"] == whole.class_names[label]]
        assert own["share"].sum() >= 0.5 and own["filter"].tolist() == [one.channel for one in whole.of_row(row, 0)]
    text = whole.to_markdown() + repr(whole)
    assert "mean Jaccard index" in text and "120 of 120 images of 'train'" in text
    listed, ways = whole.class_tables("a")
    assert listed.row_count == 1 and ways.row_count == len(whole.of_class[0]) == 2
    assert len(whole.plot().axes) == 3 and len(some.plot().axes) == 1  # one class shares with none


def test_a_class_whose_images_are_gone(made: Decomposition, study: Study) -> None:
    network, first = Network(Tiny()), study.identity.class_names[0]
    chunks = study.image_set("train").chunks()
    root = Path(study.image_set("train").manifest.root or "")
    for id in [id for one in chunks for id, label in zip(one.ids, one.labels.tolist(), strict=True) if label == 0]:
        (root / id).unlink()
    with pytest.raises(
        SubspectError, match=f"no image of {first} can be opened again; say where they are .images, --images"
    ):
        made.filters(network, classes=[0, 1], show_progress=False)


class Odd(nn.Module):
    """A layer whose name would act on a terminal or a page."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("<b>\x1b[31m$x$", nn.Conv2d(4, 3, 1))
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.fc(getattr(self, "<b>\x1b[31m$x$")(x).relu().mean(dim=(2, 3)))
        return made


def test_names_of_layers_are_escaped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(Odd())
    study = subspect.observe(network, bright(4), tmp_path / "study", show_progress=False)
    made = subspect.decompose(study, 1, hold_out=0, show_progress=False)
    found = made.filters(network, images=bright(4), show_progress=False)
    html = found.to_html()
    assert "<b>" not in html and "\x1b" not in html and "&lt;b&gt;\\x1b[31m$x$" in html
    assert "\x1b" not in found.to_markdown()
    found.plot()


# Command line ---------------------------------------------------------------------------------------------------------


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(build(tmp_path))
    runner = CliRunner()
    assert runner.invoke(app, ["decompose", "study", "-k", "3", "--quiet"]).exit_code == 0
    line = ["filters", "study", "--network", "python:model.py:make", "--weights", "model.safetensors", "--sample", "16"]
    shown = runner.invoke(app, [*line, "--class", "cat", "--figure", "filters.png"])
    assert shown.exit_code == 0 and "cat: filters that hold 50 % of its effect" in shown.stdout
    assert Path("filters.png").exists()
    said = json.loads(runner.invoke(app, [*line, "--class", "cat", "--json"]).stdout)
    assert list(said["classes"]) == ["cat"] and list(said["layers"]) == ["conv"]
    wrong = runner.invoke(app, [*line, "--share", "2"])
    assert wrong.exit_code == 1 and "share must be between 0 and 1" in wrong.stderr
    missing = runner.invoke(app, ["filters", "study"])
    assert missing.exit_code == 2 and "--network" in missing.stderr
