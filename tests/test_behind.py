"""What the report says of filters: those that decide, with pictures, on the pages of classes and features."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import subspect
from conftest import PIXELS, Tiny
from subspect import Decomposition, Network, Study, SubspectError
from subspect.report import write_report
from subspect.report.behind import LAYERS, stages
from subspect.tracing.stored import FILES, kept_filters


class Stages(nn.Module):
    """Four sizes of maps, of two layers the first, and a hidden layer without any; a name that would act on a page."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.add_module("<b>d", nn.Conv2d(4, 5, 1))
            self.hidden, self.fc = nn.Linear(5, 6), nn.Linear(6, 3)
            with torch.no_grad():
                for one in self.parameters():
                    one.mul_(4)  # so that images differ
        self.preprocessing = PIXELS

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu()).relu()
        x = self.c(nn.functional.avg_pool2d(x, 2)).relu()
        x = getattr(self, "<b>d")(nn.functional.avg_pool2d(x, 2)).relu()
        made: Tensor = self.fc(self.hidden(x.mean(dim=(2, 3))).tanh())
        return made


@pytest.fixture
def made(study: Study) -> Decomposition:
    return study.decompose(2, show_progress=False)


def page(study: Study, made: Decomposition, network: Network | None = None, **options: object) -> str:
    given: dict[str, Any] = {"show_progress": False, "show_images": False, **options}
    return " ".join(write_report(study, made, network=network, **given).read_text().split())


def part(page: str, start: str, end: str) -> str:
    return page.partition(f'id="{start}"')[2].partition(f'id="{end}"')[0]


def test_filters_on_the_pages_of_classes_and_features(study: Study, made: Decomposition) -> None:
    assert "Filters that hold" not in page(study, made)
    found = made.filters(Network(Tiny()), ablate=0, repeats=0, show_progress=False)
    text = unescape(page(study, made))
    own = part(text, "c0", "c1")
    assert (
        "Filters that hold 50\u00a0% of what filters do to the class's margin, in 1 of 1 layers; +: for the class"
        in own
    )
    assert f'<p class="layer"><b>conv</b> <span class="dim">{len(found.of(0, "conv"))} of 6 filters</span></p>' in own
    said = re.findall(r"filter (\d): ([+−])(\d+)\u00a0%", own)
    wanted = [(one.channel, "−" if one.signed > 0 else "+", round(100 * one.share)) for one in found.of(0, "conv")]
    assert [(int(one), sign, int(share)) for one, sign, share in said] == wanted[:3]
    feature = found.of_class[0][0]
    body = text.partition(f'<details id="f{feature}"')[2].partition("</details>")[0]
    assert f"<dt>made by</dt><dd>conv: {feature}</dd>" in body
    assert "<dt>filter</dt><dd>a channel of a convolution, or a hidden unit" in text
    assert "<img" not in own and ".png" not in text


def test_pictures_of_what_activates_them_most(study: Study, made: Decomposition) -> None:
    network = Network(Tiny())
    found = made.filters(network, ablate=0, repeats=0, show_progress=False)
    plain = page(study, made, show_images=True)  # no network
    text = unescape(page(study, made, network, show_images=True))
    own = part(text, "c0", "c1").partition("Filters that hold")[2]
    assert "with the images of all classes that activate them most" in own
    assert "<img" not in part(plain, "c0", "c1").partition("Filters that hold")[2]
    layer, strips = found["conv"], own.split("<div><span")[1:]
    for one, strip in zip(found.of(0, "conv"), strips, strict=False):
        captions = re.findall(r'alt="([^"]+)"', strip)
        rows = zip(layer.images[:4, one.channel].tolist(), layer.peaks[:4, one.channel].tolist(), strict=True)
        assert captions == [
            f"{found.class_names[found.of_images[at]]}, {found.ids[at]}: {level:.3g}" for at, level in rows
        ]
        assert strip.count("data:image/webp") == 4


def test_what_is_shown_lies_where_the_filter_is_active(tmp_path: Path) -> None:
    """A filter that sees one corner is drawn there, and said to look there."""
    images = np.full((12, 8, 8, 3), 60, np.uint8)
    labels = np.arange(12) % 3
    images[labels == 0, :3, :3] = 250
    model = Tiny()
    with torch.no_grad():
        model.conv.weight[0] = 1
        model.fc.weight[0, 0] = 9
    network = Network(model)
    study = subspect.observe(network, (images, labels), tmp_path / "study", show_progress=False)
    made = subspect.decompose(study, 1, hold_out=0, show_progress=False)
    made.filters(network, images=(images, labels), ablate=0, repeats=0, show_progress=False)
    text = page(study, made, network, show_images=True, images=(images, labels))
    assert "filter 0: +100&nbsp;%; mostly the top left" in part(text, "c0", "c1")
    without = page(study, made, network, show_images=True)  # they were in memory
    assert "<img" not in part(without, "c0", "c1").partition("Filters that hold")[2]


def test_the_last_layer_of_each_size_is_shown(study: Study, tmp_path: Path) -> None:
    network = Network(Stages())
    root = study.image_set("train").manifest.root or ""
    other = subspect.observe(network, root, tmp_path / "stages", show_progress=False)
    made = subspect.decompose(other, 2, show_progress=False)
    found = made.filters(network, ablate=0, repeats=0, show_progress=False)
    assert found.names == ["a", "b", "c", "<b>d", "hidden"]
    assert stages(found) == ["hidden", "<b>d", "c"] and len(stages(found)) == LAYERS
    text = page(other, made, network, show_images=True)
    assert "<b>&lt;b&gt;d</b>" in text and "<b><b>" not in text
    assert "data:image" in part(text, "c0", "c1").partition("<b>hidden</b>")[2]  # without a place


def test_pages_of_many_classes_say_it_too(study: Study, made: Decomposition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.report.SINGLE", 2)
    found = made.filters(Network(Tiny()), classes=["a"], ablate=0, repeats=0, show_progress=False)
    path = write_report(study, made, show_images=False, show_progress=False)
    [folder] = [one for one in (study.path / "report-pages").iterdir() if one.is_dir()]
    assert "Filters that hold" in (folder / "class-0.html").read_text()
    assert "Filters that hold" not in (folder / "class-1.html").read_text()  # it wasn't looked at
    for feature in found.features:
        assert "<dt>made by</dt>" in (folder / f"feature-{feature}.html").read_text()
    assert "Filters that hold" not in path.read_text()


def test_images_that_are_gone_are_grey(study: Study, made: Decomposition) -> None:
    network = Network(Tiny())
    found = made.filters(network, ablate=0, repeats=0, show_progress=False)
    first = found.ids[int(found["conv"].images[0, found.of(0, "conv")[0].channel])]
    (Path(study.image_set("train").manifest.root or "") / first).unlink()
    own = part(page(study, made, network, show_images=True), "c0", "c1").partition("Filters that hold")[2]
    assert f"{first}: " in own and 'class="grey"' in own


def test_other_heads_and_damage(study: Study, made: Decomposition) -> None:
    made.filters(Network(Tiny()), ablate=0, repeats=0, show_progress=False)
    other = study.decompose(1, show_progress=False)
    assert kept_filters(study, other) is None and "Filters that hold" not in page(study, other)
    FILES.path(study, made.name).write_bytes(b"")
    with pytest.raises(SubspectError, match="delete it, and look again: subspect filters"):
        page(study, made)


def test_pictures_are_pictures(study: Study, made: Decomposition) -> None:
    """What is drawn can be opened, and is no larger than others."""
    import base64
    import io

    network = Network(Tiny())
    made.filters(network, ablate=0, repeats=0, show_progress=False)
    own = part(page(study, made, network, show_images=True), "c0", "c1").partition("Filters that hold")[2]
    for data in re.findall(r"data:image/webp;base64,([^\"]+)", own):
        assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 64
