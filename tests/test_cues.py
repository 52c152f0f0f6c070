"""What each class rests on: cues that are swapped, margins that are lost through features, and what is kept of it."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import t
from torch import Tensor, nn
from typer.testing import CliRunner

import subspect
from subspect import Cue, Cues, SubspectError
from subspect.cli import app
from subspect.studies.spread import spread
from subspect.swapping.built_in import CORNERS, CUES
from subspect.swapping.cue import swapped
from subspect.swapping.margins import margin, rivals, through
from subspect.swapping.naming import cues_named
from subspect.swapping.partners import paired, partners
from subspect.swapping.pixels import Enlarged, Tones
from subspect.swapping.stored import kept_cues
from world import build

Array = npt.NDArray[np.float64]
BY_NAME = {cue.name: cue for cue in CUES}
LIGHT = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


def some_images(n: int, side: int = 16, seed: int = 0, low: float = 0.3, high: float = 0.7) -> Tensor:
    """Smooth images in the middle of the range, so that nothing is cut off."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(n, 3, 4, 4, generator=generator)
    wide = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear")
    return low + (high - low) * (wide + 0.2 * torch.rand(n, 3, side, side, generator=generator)).clamp(0, 1)


def light(images: Tensor) -> Tensor:
    return (images * LIGHT).sum(dim=1)


# Margins --------------------------------------------------------------------------------------------------------------


def by_integrating(before: Array, after: Array, own: int, weight: Array, bias: Array, steps: int = 20_000) -> Array:
    """The integral of the margin's gradient along the line, by the midpoint rule."""
    total = np.zeros(len(before))
    for step in range(steps):
        x = after + (before - after) * (step + 0.5) / steps
        z = weight @ x + bias
        z[own] = -np.inf
        total += weight[own] - weight[z.argmax()]
    return total / steps * (before - after)


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 5))
def test_margins_lost_through_features_add_up(seed: int, n_classes: int, d: int) -> None:
    random = np.random.default_rng(seed)
    n = 7
    before, after = random.normal(size=(2, n, d))
    after[:, 0] = before[:, 0]  # it isn't moved
    weight, bias, own = (
        random.normal(size=(n_classes, d)),
        random.normal(size=n_classes),
        random.integers(n_classes, size=n),
    )
    parts = through(before, after, own, weight, bias)
    logits = [x @ weight.T + bias for x in (before, after)]
    np.testing.assert_allclose(parts.sum(axis=1), margin(logits[0], own) - margin(logits[1], own), atol=1e-9)
    assert not parts[:, 0].any()


def test_margins_lost_are_the_integral_of_the_gradient() -> None:
    random = np.random.default_rng(1)
    for _ in range(5):
        before, after = random.normal(size=(2, 4))
        weight, bias = random.normal(size=(5, 4)), random.normal(size=5)
        found = through(before[None], after[None], np.array([2]), weight, bias)[0]
        np.testing.assert_allclose(found, by_integrating(before, after, 2, weight, bias), atol=2e-3)


@given(st.integers(0, 10_000))
def test_rivals_share_the_way(seed: int) -> None:
    random = np.random.default_rng(seed)
    start, end = random.integers(-2, 3, size=(2, 9, 5)).astype(float)  # many ties
    own = random.integers(5, size=9)
    shares = rivals(start, end, own)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (shares >= 0).all() and not shares[np.arange(9), own].any()
    others = [np.delete(z, c).max() for z, c in zip(end, own, strict=True)]
    firsts = [np.delete(z, c).max() for z, c in zip(start, own, strict=True)]
    np.testing.assert_allclose((shares * (end - start)).sum(axis=1), np.subtract(others, firsts), atol=1e-12)


# Samples and partners -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 60), st.integers(0, 99))
def test_a_sample_is_spread_over_the_classes(labels: list[int], most: int, seed: int) -> None:
    given_labels = np.array(labels)
    drawn = spread(given_labels, most, seed)
    assert len(drawn) == min(most, len(labels)) and (np.diff(drawn) > 0).all()
    counts = np.bincount(given_labels[drawn], minlength=5)
    there = np.bincount(given_labels, minlength=5)
    assert all(counts[label] >= min(there[label], counts.max() - 1) for label in range(5))
    assert drawn.tolist() == spread(given_labels, most, seed).tolist()


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.integers(0, 99))
def test_partners_are_of_another_class(labels: list[int], seed: int) -> None:
    given_labels = np.array(labels)
    if len(set(labels)) == 1:
        with pytest.raises(
            SubspectError, match="an image of another class, and all .* are of one; give images of several"
        ):
            partners(given_labels, seed)
        return
    found = partners(given_labels, seed)
    assert (given_labels[found] != given_labels).all()
    if 2 * np.bincount(given_labels).max() <= len(labels):
        assert sorted(found.tolist()) == list(range(len(labels)))


# Cues -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cue", CUES, ids=lambda cue: cue.name)
@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 17, 11), (1, 8, 8), (3, 4, 5)])
def test_every_cue_keeps_shape_and_range(cue: Cue, shape: tuple[int, int, int]) -> None:
    if cue.colours and shape[0] != 3:
        return
    images, others = torch.rand(2, 5, *shape, generator=torch.Generator().manual_seed(3))
    kept = images.clone()
    made = swapped(cue, images, others, np.random.default_rng(0))
    assert made.shape == images.shape and made.min() >= 0 and made.max() <= 1
    assert torch.equal(images, kept) and not torch.allclose(made, images, atol=1e-3)
    again = swapped(cue, images, others, np.random.default_rng(0))
    assert torch.equal(made, again)


@pytest.mark.parametrize("cue", [cue for cue in CUES if cue.exchanged], ids=lambda cue: cue.name)
def test_swapped_with_itself_an_image_stays(cue: Cue) -> None:
    images = some_images(4)
    torch.testing.assert_close(cue.swap(images, images, np.random.default_rng(0)), images, atol=2e-4, rtol=0)


def swap(name: str, images: Tensor, others: Tensor) -> Tensor:
    return BY_NAME[name].swap(images, others, np.random.default_rng(0))


def test_where_things_stand() -> None:
    images, others = some_images(3, 20), some_images(3, 20, seed=1)
    ring = torch.ones(20, 20, dtype=torch.bool)
    ring[3:17, 3:17] = False  # 15 %
    border, centre = swap("border", images, others), swap("centre", images, others)
    assert torch.equal(border[..., ring], others[..., ring]) and torch.equal(border[..., ~ring], images[..., ~ring])
    assert torch.equal(centre[..., ring], images[..., ring]) and torch.equal(centre[..., ~ring], others[..., ~ring])
    patches = {
        "corner-top-left": (slice(5), slice(5)),
        "corner-top-right": (slice(5), slice(15, 20)),
        "corner-bottom-left": (slice(15, 20), slice(5)),
        "corner-bottom-right": (slice(15, 20), slice(15, 20)),
    }
    for name, (rows, columns) in patches.items():
        patch = torch.zeros(20, 20, dtype=torch.bool)
        patch[rows, columns] = True
        made = swap(name, images, others)
        assert torch.equal(made[..., patch], others[..., patch]) and torch.equal(made[..., ~patch], images[..., ~patch])


def test_tones() -> None:
    images, others = some_images(3), some_images(3, seed=1)
    lighter = swap("brightness", images, others)
    torch.testing.assert_close(light(lighter).mean(dim=(1, 2)), light(others).mean(dim=(1, 2)))
    torch.testing.assert_close(
        lighter - lighter.mean(dim=(2, 3), keepdim=True), images - images.mean(dim=(2, 3), keepdim=True)
    )
    stretched = swap("contrast", images, others)
    torch.testing.assert_close(light(stretched).std(dim=(1, 2)), light(others).std(dim=(1, 2)))
    torch.testing.assert_close(light(stretched).mean(dim=(1, 2)), light(images).mean(dim=(1, 2)))
    coloured = swap("colour", images, others)
    torch.testing.assert_close(light(coloured), light(images), atol=1e-4, rtol=0)
    flat = torch.full((1, 3, 8, 8), 0.4)
    torch.testing.assert_close(swap("contrast", flat, some_images(1, 8)), flat)  # nothing to stretch
    grey = swap("grey", images, others)
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 1], grey[:, 2])
    torch.testing.assert_close(light(grey), light(images))


def test_a_tint_is_a_shift() -> None:
    """A grey image takes the tint of another as it is, and loses it to a grey one."""
    grey = some_images(2).mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    tint = torch.tensor([1.0, 0.8, 0.6])[:, None, None]
    tinted = swap("colour", grey, some_images(2, seed=1).mean(dim=1, keepdim=True) * tint)
    ratio = tinted[:, 1] / tinted[:, 0]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.8), atol=0.02, rtol=0)
    plain = swap("colour", grey * tint, grey)
    torch.testing.assert_close(plain[:, 0], plain[:, 2], atol=0.02, rtol=0)


def test_patterns() -> None:
    images, others = some_images(3), some_images(3, seed=1)

    def frequencies(one: Tensor) -> npt.NDArray[np.complex128]:
        return np.fft.fft2(one.double().numpy())

    own, other = frequencies(images), frequencies(others)
    texture, layout, grain = (frequencies(swap(name, images, others)) for name in ("texture", "layout", "grain"))
    flat = np.zeros((16, 16), bool)
    flat[0, 0] = True
    np.testing.assert_allclose(np.abs(texture)[..., ~flat], np.abs(other)[..., ~flat], atol=1e-4)
    np.testing.assert_allclose(np.abs(layout)[..., ~flat], np.abs(own)[..., ~flat], atol=1e-4)
    for made in (texture, layout):
        np.testing.assert_allclose(made[..., 0, 0], own[..., 0, 0], atol=1e-4)
    inner = (slice(None), slice(None), slice(1, 6), slice(1, 6))
    np.testing.assert_allclose(texture[inner] / np.abs(texture[inner]), own[inner] / np.abs(own[inner]), atol=1e-3)
    at = np.abs(np.fft.fftfreq(16))
    fine = (at[:, None] >= 0.375) | (at >= 0.375)
    np.testing.assert_allclose(grain, np.where(fine, other, own), atol=1e-4)
    detail = swap("detail", images, others)
    torch.testing.assert_close(detail, by_blurring(images), atol=1e-5, rtol=0)


def by_blurring(images: Tensor) -> Tensor:
    """A Gaussian of one pixel, mirrored at the edges, pixel by pixel."""
    side, made = images.shape[-1], torch.zeros_like(images)
    offsets = range(-3, 4)
    kernel = np.exp(-np.array([o**2 for o in offsets]) / 2)
    kernel /= kernel.sum()

    def place(at: int) -> int:
        return -at if at < 0 else 2 * (side - 1) - at if at >= side else at

    for y in range(side):
        for x in range(side):
            for dy, wy in zip(offsets, kernel, strict=True):
                for dx, wx in zip(offsets, kernel, strict=True):
                    made[..., y, x] += wy * wx * images[..., place(y + dy), place(x + dx)]
    return made


def test_arrangement() -> None:
    images, others = some_images(4, 18), some_images(4, 18, seed=1)
    tiles = swap("arrangement", images, others)
    for one, made in zip(images, tiles, strict=True):
        assert torch.equal(one[..., :16, :16].flatten().sort()[0], made[..., :16, :16].flatten().sort()[0])
        assert torch.equal(one[..., 16:, :], made[..., 16:, :]) and torch.equal(one[..., 16:], made[..., 16:])
    places = [(4 * y, 4 * x) for y in range(4) for x in range(4)]
    parts = {one[:, y : y + 4, x : x + 4].numpy().tobytes() for one in images for y, x in places}
    assert {made[:, :4, :4].numpy().tobytes() for made in tiles} < parts
    assert torch.equal(swap("mirror", swap("mirror", images, others), others), images)


def test_moving() -> None:
    """Seen on a ramp: by a fifth of the side, or larger and smaller about the middle."""
    side = 40
    ramp = torch.linspace(0, 1, side).expand(64, 1, side, side)
    moved = swap("place", ramp, ramp)
    shifts = {round(float(one[0, 20, 20] - ramp[0, 0, 20, 20]) * (side - 1)) for one in moved}
    assert shifts == {-8, 0, 8}
    zoomed = swap("scale", ramp, ramp)
    rise = float(ramp[0, 0, 20, 22] - ramp[0, 0, 20, 18])
    slopes = {round(float(one[0, 20, 22] - one[0, 20, 18]) / rise, 3) for one in zoomed}
    assert slopes == {0.667, 1.5}
    flat = torch.full((2, 1, 9, 9), 0.3)
    torch.testing.assert_close(swap("place", flat, flat), flat)
    torch.testing.assert_close(swap("scale", flat, flat), flat)


# A network whose cues are known ---------------------------------------------------------------------------------------

KNOWN = ("corner-top-left", "border", "centre", "colour", "brightness", "grain")


PLACES = ((slice(4), 0), (slice(17, 20), 8), (slice(8, 12), 8))  # of the corner, the edge and the middle


class Known(nn.Module):
    """Features that read one thing each: a corner, the edge, the middle, redness, brightness, fine stripes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.preprocessing = {"resize": None, "crop": None, "mean": None, "std": None}
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(6) * 30)
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        grey = (x * LIGHT).sum(dim=1)
        halves = [
            grey[:, rows, first : first + 2].mean(dim=(1, 2)) - grey[:, rows, first + 2 : first + 4].mean(dim=(1, 2))
            for rows, first in PLACES
        ]
        red = ((x[:, 1] + 1 / 64).log() - (x[:, 0] + 1 / 64).log()).mean(dim=(1, 2))
        bright = grey.mean(dim=(1, 2)) - 0.42
        stripes = (grey * torch.where(torch.arange(20) % 2 == 0, 1.0, -1.0)).mean(dim=(1, 2)).abs()
        made: Tensor = self.fc(torch.stack([*halves, red, 1.5 * bright, 4 * stripes], dim=1).relu())
        return made


def known_images(each: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Grey noise, in each class with what its feature reads."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(6), each)
    images = np.repeat(random.integers(90, 111, size=(len(labels), 20, 20, 1)), 3, axis=3).astype(float)
    for label, (rows, first) in enumerate(PLACES):
        images[labels == label, rows, first : first + 4] += np.array([40, 40, -40, -40])[:, None]
    images[labels == 3] *= [0.85, 1.1, 0.85]
    images[labels == 4] += 60
    images[labels == 5] += np.where(np.arange(20) % 2 == 0, 20, -20)[:, None]
    return images.clip(0, 255).astype(np.uint8), labels


def network() -> subspect.Network:
    return subspect.Network(Known(), name="known", class_names=KNOWN)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> subspect.Study:
    folder = tmp_path_factory.mktemp("cues")
    made = subspect.observe(network(), known_images(20, 0), folder / "study", show_progress=False)
    subspect.decompose(made, 6, hold_out=0, show_progress=False)
    return made


def measured(study: subspect.Study, cues: Sequence[str | Cue] | None = None, **options: object) -> Cues:
    made = study[study.decomposition_names[-1]]
    given: dict[str, object] = {"images": known_images(20, 0), "show_progress": False, "replace": True, **options}
    return made.cues(network(), cues=cues, **given)


def test_each_feature_is_given_its_cue_and_no_other(study: subspect.Study) -> None:
    found = measured(study)
    assert found.names == [cue.name for cue in CUES] and not found.left_out
    for label, name in enumerate(KNOWN):
        own = found[name]
        assert own.loss[label] > 0.5 and own.pull[label] > 0.3, name
        moved = {cue: found[cue].moved[label] for cue in (*KNOWN, *(one.name for one in CORNERS))}
        del moved[name]
        if name == "corner-top-left":
            del moved["border"]  # half of the corner lies in it
        if name in ("colour", "brightness", "grain"):
            del moved["border"], moved["centre"]  # a mean over the image is read off both
        assert own.moved[label] > 0.5 and all(value < 0.12 for value in moved.values()), (name, moved)
        lost = own.through[label].toarray()[0]
        assert lost.argmax() == label and lost[label] > 0.6 * own.loss[label]
    assert found.accuracy() == found.accuracy(None, "dense") == 1


def test_what_is_lost_adds_up_and_is_what_both_heads_say(study: subspect.Study) -> None:
    found = measured(study)
    for one in found.cues:
        np.testing.assert_allclose(np.asarray(one.through.sum(axis=1)).ravel(), one.loss, atol=1e-9)
        for head in ("dense", "decomposed"):
            assert (one.right[head] <= found.images).all()
    assert found.images.tolist() == [20] * 6
    plain = found.recall()
    assert np.array_equal(plain, np.ones(6)) and (found.recall("centre")[2] < 0.5)


def test_estimates_are_those_of_plain_loops(study: subspect.Study) -> None:
    """The corner's figures again, image by image."""
    found, made = measured(study, sample=60, seed=4), study[study.decomposition_names[-1]]
    images, labels = known_images(20, 0)
    drawn = spread(labels, 60, 4)
    mine, others = labels[drawn], drawn[partners(labels[drawn], 4)]
    copies = images[drawn].copy()
    copies[:, :5, :5] = images[others][:, :5, :5]

    def features(given: npt.NDArray[np.uint8]) -> Array:
        kept: list[Tensor] = []
        model = Known()
        model.fc.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        with torch.no_grad():
            model(torch.from_numpy(given.transpose(0, 3, 1, 2)).float() / 255)
        return kept[0].double().numpy()

    weight, bias = (array.astype(float) for array in made.matrix())
    x, y = features(images[drawn]), features(copies)
    before, after = x @ weight.T + bias, y @ weight.T + bias
    largest = np.sort(before, axis=1)
    unit = float(np.median(largest[:, -1] - largest[:, -2]))
    assert found.margin == pytest.approx(unit, rel=1e-5)
    own = found["corner-top-left"]
    lost = (margin(before, mine) - margin(after, mine)) / unit
    for label in range(6):
        of_class = lost[mine == label]
        assert own.loss[label] == pytest.approx(of_class.mean(), abs=1e-5)
        spread_of = of_class.std(ddof=1) / np.sqrt(len(of_class))
        assert own.loss_half[label] == pytest.approx(t.ppf(0.975, len(of_class) - 1) * spread_of, abs=1e-5)
        nearer = ((after - before)[:, label] - (after - before)[np.arange(60), mine]) / unit
        theirs = labels[others] == label
        third = (mine != label) & ~theirs
        assert own.pull[label] == pytest.approx(nearer[theirs].mean() - nearer[third].mean(), abs=1e-5)
        assert own.right["decomposed"][label] == ((after.argmax(axis=1) == label) & (mine == label)).sum()
    everything = features(images)
    np.testing.assert_allclose(own.moved, ((x - y) ** 2).mean(axis=0) / 2 / everything.var(axis=0), atol=1e-5)


def test_same_for_any_batch_and_worker(study: subspect.Study) -> None:
    first = measured(study, ["corner", "place", "colour"])
    path = study.path / "cues" / f"{first.decomposition}.safetensors"
    path.unlink()
    again = measured(study, ["corner", "place", "colour"], batch_size=7)
    for one, other in zip(first.cues, again.cues, strict=True):
        np.testing.assert_allclose(one.loss, other.loss, atol=1e-6)
        np.testing.assert_allclose(one.moved, other.moved, atol=1e-6)


def test_kept_gone_on_with_and_read_again(study: subspect.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    made = study[study.decomposition_names[-1]]
    path = study.path / "cues" / f"{made.name}.safetensors"
    path.unlink(missing_ok=True)
    assert kept_cues(study, made) is None
    calls: list[str] = []
    plain = subspect.Cue.__subclasses__()
    for kind in plain:
        if kind.__module__.startswith("subspect."):
            swap_of = kind.swap

            def counted(self: Cue, *given: object, swap_of: object = swap_of) -> Tensor:
                calls.append(self.name)
                if self.name == "mirror" and len(calls) < 20:
                    raise KeyboardInterrupt
                return swap_of(self, *given)  # type: ignore[operator, no-any-return]

            monkeypatch.setattr(kind, "swap", counted)
    with pytest.raises(KeyboardInterrupt):
        measured(study, ["border", "mirror", "scale"])
    kept = kept_cues(study, made)
    assert kept is not None and kept.names == ["border"]
    calls.extend(["later"] * 20)
    whole = measured(study, ["border", "mirror", "scale"])
    assert "border" not in calls[20:] and whole.names == ["border", "mirror", "scale"]
    assert measured(study, ["scale", "border"]).names == ["scale", "border"]
    kept = kept_cues(study, made)
    assert kept is not None and kept.to_json() == whole.to_json()
    with pytest.raises(SubspectError, match="keeps cues of .* of another sample .*120 of 120 images") as refused:
        measured(study, ["mirror"], sample=30, replace=False)
    assert ": border, mirror, scale; to add to them give the same sample, image set and seed" in str(refused.value)
    assert kept_cues(study, made) is not None and "replace=True (--replace)" in str(refused.value)
    assert measured(study, ["mirror"], sample=30, seed=2).note.endswith("'train', seed 2")
    kept = kept_cues(study, made)
    assert kept is not None and kept.names == ["mirror"]  # of another sample nothing is mixed in
    edited = made.without(0, int(made.supports[0][0]))
    assert kept_cues(study, edited) is None


def test_shown(study: subspect.Study, tmp_path: Path) -> None:
    study.name_features({0: "corner", 3: "red"})
    try:
        found = measured(study)
        [table] = found.tables()
        rows = [tuple(map(str, row)) for row in zip(*(column.cells for column in table.columns), strict=True)]
        assert rows[0][:3] == ("nothing", "100.0 %", "100.0 %") and len(rows) == 1 + len(CUES)
        assert "120 of 120 images of 'train'" in str(table.caption)
        told = next(row[-1] for row in rows if row[0] == "colour")
        assert told.startswith(f"colour: {found['colour'].loss[3]:.2f} (100\u00a0→\u00a0")
        figures = re.findall(r": (\S+) \(", "\n".join(row[-1] for row in rows))
        assert len(figures) < 3 * len(CUES) and min(map(float, figures)) >= 0.05  # next to nothing is left out
        assert "with the cue of an image of another class; with grey, detail, " in str(table.caption)
        said_of = {one: str(measured(study, [one]).tables()[0].caption) for one in ("border", "mirror")}
        assert "scrambled" not in said_of["border"] and ", with mirror taken away or scrambled." in said_of["mirror"]
        [own] = found.class_tables(3)
        through_red = next(
            row for row in zip(*(column.cells for column in own.columns), strict=True) if str(row[0]) == "colour"
        )
        assert "red" in str(through_red[-1]) and "→" in str(through_red[3])
        frame = found.to_frame()
        assert len(frame) == 6 * len(CUES) and {"cue", "class", "loss", "pull", "recall_dense_swapped"} <= set(
            frame.columns
        )
        said = json.loads(json.dumps(found.to_json()))
        assert (
            said["cues"]["colour"]["classes"]["colour"]["loss"][1]
            < said["cues"]["colour"]["classes"]["colour"]["loss"][0]
        )
        assert said["cues"]["grey"]["classes"]["colour"]["pull"] == [None] * 3
        assert said["feature_names"] == {"0": "corner", "3": "red"}
        assert found.of_feature(3)[0][0] in ("colour", "grey")
        for draw in (found.plot, lambda: found.plot_class(3), lambda: found.plot_class("colour")):
            draw().savefig(tmp_path / "figure.png")
        assert found.only(["border"]).plot_class(3).get_figwidth() >= 6.4  # as wide as its title
        assert str(found.class_tables("colour")[0].title) == str(own.title)
        for asked in (6, "colur"):
            with pytest.raises(SubspectError, match=f"no class {asked!r}.*; the network has 6"):
                found.plot_class(asked)
    finally:
        study.name_features({0: None, 3: None})
    with pytest.raises(
        SubspectError, match=r"'bordr' was not measured \(did you mean 'border'\?\); these were: border, "
    ):
        found["bordr"]


# A cue of one's own ---------------------------------------------------------------------------------------------------


class Bottom(Cue):
    name, what = "bottom", "the lowest tenth"

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        tenth = images.shape[-2] // 10
        return torch.cat([images[..., :-tenth, :], others[..., -tenth:, :]], dim=-2)


def test_the_cue_in_the_docstring_is_one() -> None:
    text = inspect.getdoc(Cue)
    assert text is not None
    names: dict[str, Any] = {"subspect": subspect, "torch": torch}
    exec(textwrap.dedent(text.partition("::\n\n")[2].partition("\n\nAttributes:")[0]), names)
    images, others = some_images(2, 20), some_images(2, 20, seed=1)
    own, mine = (one.swap(images, others, np.random.default_rng(0)) for one in (names["Bottom"](), Bottom()))
    assert torch.equal(own, mine) and cues_named([names["Bottom"]()])


def test_a_cue_of_ones_own(study: subspect.Study) -> None:
    found = measured(study, ["border", Bottom()])
    assert found.names == ["border", "bottom"] and found["bottom"].what == "the lowest tenth"
    assert found["bottom"].loss[1] > 0.5 and found["bottom"].moved.argmax() == 1


class Wrong(Bottom):
    def __init__(self, made: object) -> None:
        self.made = made

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made if not callable(self.made) else self.made(images)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (ValueError("no"), r"cue 'bottom' failed on torch.float32 \(64, 3, 20, 20\): ValueError: no"),
        (3, r"cue 'bottom' must return images as it was given them, torch.float32 \(64, 3, 20, 20\); got int"),
        (
            lambda images: images[..., :5],
            r"must return images as it was given them, .*; got torch.float32 \(64, 3, 20, 5\)",
        ),
        (
            lambda images: images * float("nan"),
            "cue 'bottom' returned NaN or infinity; it must return numbers from 0 to 1",
        ),
    ],
)
def test_a_cue_that_fails(study: subspect.Study, made: object, message: str) -> None:
    with pytest.raises(SubspectError, match=message):
        measured(study, [Wrong(made)])


class Nameless(Bottom):
    name = ""


class Taken(Bottom):
    name = "border"


def test_naming() -> None:
    assert cues_named(None) == CUES == cues_named(["all"]) and cues_named("corner") == CORNERS
    assert cues_named(["border", "border"]) == (BY_NAME["border"],)
    for given_cues, message in (
        (
            ["bordr"],
            r"no cue 'bordr' \(did you mean 'border'\?\); there are border, centre, .*; corner is all four of them",
        ),
        ([], "no cue was named; leave them out for all, or name some of border, centre"),
        ([Bottom], r"a cue is the name of one, or a subspect.Cue; got the class Bottom: give Bottom\(\)"),
        ([3], "a cue is the name of one, or a subspect.Cue; got int"),
        ([Bottom(), Bottom()], "two cues are called 'bottom'; give one of them another name"),
        ([Nameless()], "the cue Nameless must have a name, as text; got ''"),
        ([Taken()], "the name 'border' is taken by a built-in cue; give Taken another name"),
    ):
        with pytest.raises(SubspectError, match=message):
            cues_named(given_cues)  # type: ignore[arg-type]


def test_named_as_code(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import subspect\n\nclass Same(subspect.Cue):\n    name, what = 'same', 'nothing'\n"
        "    def swap(self, images, others, random):\n        return images\n\ndef none():\n    return 3\n"
    )
    [cue] = cues_named([f"python:{tmp_path}/mine.py:Same"])
    assert cue.name == "same"
    with pytest.raises(SubspectError, match=r"mine.py:none must return a subspect.Cue; it returned int"):
        cues_named([f"python:{tmp_path}/mine.py:none"])
    with pytest.raises(SubspectError, match=r"cannot tell what 'python:' is; expected python:path/file.py:callable"):
        cues_named(["python:"])


# What can't be measured -----------------------------------------------------------------------------------------------


def test_refused(study: subspect.Study, tmp_path: Path) -> None:
    made = study[study.decomposition_names[-1]]
    with pytest.raises(SubspectError, match="sample must be 2 images or more, got 1"):
        measured(study, sample=1)
    with pytest.raises(
        SubspectError,
        match=r"the images of 'train' were in memory \(arrays\), so they can't be opened again; give them",
    ):
        made.cues(network())
    with pytest.raises(SubspectError, match="no image set 'val'"):
        measured(study, on="val")
    other = Known()
    with torch.no_grad():
        other.fc.weight.add_(1)
    with pytest.raises(SubspectError, match="this is a different network"):
        made.cues(subspect.Network(other, class_names=KNOWN), images=known_images(20, 0))
    alone = subspect.from_features(np.eye(4, dtype=np.float32), np.eye(2, 4), np.zeros(2), tmp_path / "alone")
    with pytest.raises(SubspectError, match="was made from features alone"):
        subspect.cues(alone, subspect.decompose(alone, 1, hold_out=0), network=network())


def test_other_images_are_told(study: subspect.Study, caplog: pytest.LogCaptureFixture) -> None:
    (study.path / "cues" / f"{study.decomposition_names[-1]}.safetensors").unlink(missing_ok=True)
    measured(study, ["border"], images=known_images(20, 1), sample=12)
    assert "images are not those that were observed as 'train'" in caplog.text
    caplog.clear()
    (study.path / "cues" / f"{study.decomposition_names[-1]}.safetensors").unlink(missing_ok=True)
    images, labels = known_images(20, 0)
    measured(study, ["border"], images=(255 - images, labels), sample=12)  # nearly all: it may be the network
    assert re.search(
        r"cues: 1[12] of 12 images have other features than when 'train' was observed: either these are other images, or the "
        r"network gives other features now: .*; give the images that were: --images FOLDER; else usual causes are another prec",
        caplog.text,
    )


def test_damage_is_noticed(study: subspect.Study) -> None:
    found = measured(study, ["border"])
    path = study.path / "cues" / f"{found.decomposition}.safetensors"
    data = path.read_bytes()
    try:
        path.write_bytes(data[:-8] + bytes(8))
        for asked in (kept_cues, subspect.check):
            with pytest.raises(
                SubspectError, match=r"doesn't fit its checksum; delete it, and measure again: subspect cues"
            ):
                asked(study, study[found.decomposition])
        for strict in ([], ["--strict"]):
            told = CliRunner().invoke(app, ["check", str(study.path), *strict])
            assert told.exit_code == 1 and "delete it, and measure again" in " ".join(told.stderr.split())
    finally:
        path.unlink()


class Vectors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.fc(x)
        return made


def test_what_is_no_picture(tmp_path: Path) -> None:
    x, labels = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)), np.arange(12) % 2
    network = subspect.Network(Vectors())
    made = subspect.observe(network, (x, labels), tmp_path / "study", show_progress=False)
    found = subspect.decompose(made, 2, hold_out=0, show_progress=False)
    with pytest.raises(
        SubspectError,
        match=r"swapped in pictures \(n, channels, height, width\) of 4×4 pixels or more, and the network gets \(12, 5\)",
    ):
        found.cues(network, images=(x, labels))


class Two(nn.Module):
    """Two channels, ready for the network."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(2))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.fc(x.mean(dim=(2, 3)))
        return made


def test_tensors_that_were_ready(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(40, 2, 8, 8, generator=generator), np.arange(40) % 2
    x[labels == 0, 0, :2, :2] += 9
    network = subspect.Network(Two())
    made = subspect.observe(network, (x, labels), tmp_path / "study", show_progress=False)
    found = subspect.decompose(made, 2, hold_out=0, show_progress=False).cues(network, images=(x, labels))
    assert set(found.left_out) == {"colour", "grey"}
    assert "it takes three channels, and the network's images have 2" in str(found.tables()[0].caption)
    assert found["corner-top-left"].loss[0] > 5 * abs(found["corner-top-right"].loss[0])
    with pytest.raises(SubspectError, match="the cue 'grey' was not measured: it takes three channels"):
        found["grey"]


def test_images_without_colour(tmp_path: Path) -> None:
    images, labels = known_images(4, 0)
    grey = np.repeat(images.mean(axis=3, keepdims=True), 3, axis=3).astype(np.uint8), labels
    made = subspect.observe(network(), grey, tmp_path / "study", show_progress=False)
    found = subspect.decompose(made, 6, hold_out=0, show_progress=False)
    cues = found.cues(network(), images=grey, cues=["colour", "grey", "brightness"])
    assert cues.names == ["brightness"] and cues.left_out == dict.fromkeys(
        ("colour", "grey"), "the images have no colour"
    )
    assert subspect.check(made, found).skipped["C102"] == "colour: the images have no colour"


def test_tones_of_unknown_preprocessing() -> None:
    pixels = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    tones = Tones.of(None, pixels)
    shown = tones.pictures(pixels)
    assert shown.amin() == 0 and shown.amax() == pytest.approx(1)
    torch.testing.assert_close(tones.pixels(shown), pixels)
    flat = Tones.of(None, torch.full((2, 1, 4, 4), 3.0))
    assert torch.equal(flat.pictures(torch.full((2, 1, 4, 4), 3.0)), torch.zeros(2, 1, 4, 4))


def test_one_class_only_and_few_images(tmp_path: Path) -> None:
    images, labels = known_images(2, 0)
    made = subspect.observe(network(), (images[:2], labels[:2]), tmp_path / "one", show_progress=False)
    found = subspect.decompose(made, 2, hold_out=0, show_progress=False)
    with pytest.raises(
        SubspectError, match="a cue is swapped with an image of another class, and all 2 images are of one"
    ):
        found.cues(network(), images=(images[:2], labels[:2]))
    skipped = subspect.check(made, found).skipped
    assert skipped["C101"] == "needs images of two classes: a cue is swapped with that of an image of another class"
    made = subspect.observe(network(), (images, labels), tmp_path / "few", show_progress=False)
    few = subspect.decompose(made, 6, hold_out=0, show_progress=False).cues(
        network(), images=(images, labels), sample=4
    )
    assert "4 of 12 images of 'train' (4 of the 6 classes that have images)" in few.note
    assert np.isnan(few.loss).sum() == 2 * len(CUES) and np.isnan(few.cues[0].loss_half).all()
    json.dumps(few.to_json())
    few.tables(), few.plot()


def test_without_labels_predictions_stand_in(tmp_path: Path) -> None:
    images, _ = known_images(6, 0)
    made = subspect.observe(network(), images, tmp_path / "study", show_progress=False)
    found = subspect.decompose(made, 6, hold_out=0, show_progress=False).cues(network(), images=images, cues=["border"])
    assert (
        found.note.endswith("no labels: the dense network's own predictions stand in")
        and found.accuracy(None, "dense") == 1
    )


def test_images_that_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = known_images(4, 0)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = tmp_path / "images" / KNOWN[label] / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    made = subspect.observe(network(), tmp_path / "images", tmp_path / "study", show_progress=False)
    found = subspect.decompose(made, 6, hold_out=0, show_progress=False)
    whole = found.cues(network(), cues=["border"])
    assert whole.images.tolist() == [4] * 6
    (tmp_path / "images" / KNOWN[0] / "0.png").unlink()
    (made.path / "cues" / f"{found.name}.safetensors").unlink()
    fewer = found.cues(network(), cues=["border"])
    assert fewer.images.sum() == 22 and "2 more couldn't be opened again, or their partners" in fewer.note
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(
        SubspectError,
        match=r"none of the 24 images of 'train' could be opened again .*; say where they are: images='FOLDER'",
    ):
        found.cues(network(), cues=["border"], seed=1, replace=True)
    assert found.cues(network(), cues=["border"], seed=1, replace=True, images=tmp_path / "moved").images.sum() == 22
    # Images that go away between two passes: what is done is kept, and the rest is not taken for other images.
    monkeypatch.setattr("subspect.swapping.partners.budget", lambda: 0)

    class Deleting(Bottom):
        name = "deleting"

        def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
            next((tmp_path / "moved" / KNOWN[1]).glob("*.png")).unlink()
            return images

    with pytest.raises(
        SubspectError, match=r"of 'train', .*png, .* could be read in one pass .*: cues that are done are kept"
    ):
        found.cues(network(), cues=[Deleting(), "border"], seed=2, replace=True, images=tmp_path / "moved")
    kept = kept_cues(made, found)
    assert kept is not None and kept.names == ["deleting"]


def test_enlarged_pictures_are_swapped_before(tmp_path: Path) -> None:
    """An edge that is enlarged bleeds over the patch; swapped before, the corner is its own."""

    class Larger(Known):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, :, ::2, ::2])

    given_images = known_images(6, 0)
    prepared = {"resize": 40, "crop": None, "mean": None, "std": None}
    wide = subspect.Network(Larger(), class_names=KNOWN, preprocessing=prepared)
    made = subspect.observe(wide, given_images, tmp_path / "study", show_progress=False)
    pairs = paired(made, "train", wide.preprocessing, 36, 0, given_images)
    [block] = list(pairs)
    assert isinstance(block.view, Enlarged) and block.images.shape[-1] == 20 and block.plain().shape[-1] == 40
    corner = block.swapped([BY_NAME["corner-top-left"]], 0)
    pictures = block.images.clone()
    pictures[..., :5, :5] = block.others[..., :5, :5]
    assert torch.equal(corner, block.view.pixels(pictures))


# Command line ---------------------------------------------------------------------------------------------------------


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(build(tmp_path))
    runner = CliRunner()
    given_network = ["--network", "python:model.py:make", "--weights", "model.safetensors"]
    made = runner.invoke(app, ["decompose", "study", "-k", "3", "--quiet"])
    assert made.exit_code == 0
    line = ["cues", "study", *given_network, "--sample", "16", "--cue", "corner", "--cue", "grey"]
    shown = runner.invoke(app, [*line, "--class", "cat", "--figure", "cues.png"])
    assert shown.exit_code == 0 and "corner-top-left" in shown.stdout and "cat: 4 images" in shown.stdout
    assert Path("cues.png").exists()
    said = runner.invoke(app, [*line, "--json"])
    assert list(json.loads(said.stdout)["cues"]) == [cue.name for cue in CORNERS] + ["grey"]
    wrong = runner.invoke(app, ["cues", "study", *given_network, "--cue", "texure"])
    assert wrong.exit_code == 1 and "no cue 'texure' (did you mean 'texture'?)" in wrong.stderr
    missing = runner.invoke(app, ["cues", "study"])
    assert missing.exit_code == 2 and "--network" in missing.stderr


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_fine_chance_follows_the_seed(seed: int) -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    for name in ("arrangement", "place", "scale"):
        first, second = (BY_NAME[name].swap(images, images, np.random.default_rng(seed)) for _ in range(2))
        assert torch.equal(first, second)
