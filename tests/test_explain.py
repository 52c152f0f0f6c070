"""Explaining one image: the terms add up, and everything shown beside them is what it says it is."""

from __future__ import annotations

import copy
import json
import logging
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

import subspect
from by_hand import logits_of
from conftest import PIXELS, Tiny
from kept import keep_cues
from subspect import Decomposition, Network, Preprocessing, Study, SubspectError, decompose, explain
from subspect.ground.drawing import picture_of
from subspect.ground.files import atomic

CLASSES = ("a", "b", "c")


class Flat(nn.Module):
    """No convolution, so no maps."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.fc = nn.Linear(192, 20), nn.Linear(20, 3)
        self.preprocessing = PIXELS

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.hidden(x.flatten(1)).relu())
        return out


@pytest.fixture
def made(study: Study) -> Decomposition:
    return decompose(study, 2, method="contribution")


@pytest.fixture
def network(tiny: Tiny) -> Network:
    return Network(tiny)


@pytest.fixture
def path(study: Study, tmp_path: Path) -> Path:
    """An image of the set that the features were chosen on."""
    return tmp_path / "train/b/005.png"


def pixels_of(path: Path) -> Tensor:
    """The network's input, by hand."""
    return (torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def maps_of(tiny: Tiny, path: Path) -> Tensor:
    """The (d, height, width) maps, by hand."""
    with torch.no_grad():
        maps: Tensor = tiny.eval().norm(tiny.conv(pixels_of(path)[None])).tanh()[0]
    return maps


def test_what_it_says_of_an_image(
    study: Study, made: Decomposition, network: Network, tiny: Tiny, tmp_path: Path
) -> None:
    image = tmp_path / "test/c/002.png"
    one = explain(study, made, network=network, image=image)
    maps = maps_of(tiny, image)
    x = maps.mean((1, 2)).double().numpy()
    logits = logits_of(made, x)
    order = np.argsort(-logits)
    shares = np.exp(logits) / np.exp(logits).sum()
    assert (one.name, one.decomposition, one.image_set) == (str(image), made.name, "train")
    assert (one.predicted, one.against) == (CLASSES[order[0]], CLASSES[order[1]])
    assert one.logits == pytest.approx(logits[order[:2]].tolist(), abs=1e-5)
    assert one.probabilities == pytest.approx(shares[order[:2]].tolist(), abs=1e-5)
    total = sum(term.contribution for term in one.terms) + one.bias
    size = sum(abs(term.contribution) for term in one.terms) + abs(one.bias)
    assert one.difference == pytest.approx(total, abs=1e-6 * size, rel=0)
    dense = tiny.fc.weight.detach().double().numpy() @ x + tiny.fc.bias.detach().double().numpy()
    assert one.dense_difference == pytest.approx(dense[order[0]] - dense[order[1]], abs=1e-5)
    said = np.exp(dense) / np.exp(dense).sum()
    assert set(one.dense) == {CLASSES[label] for label in {*np.argsort(-dense)[:2], *order[:2]}}
    for name, share in one.dense.items():
        assert share == pytest.approx(said[CLASSES.index(name)], abs=1e-5)
    assert one.agrees == (dense.argmax() == order[0])
    told = str(one.tables()[0].title)
    assert (f"; the dense network says {CLASSES[dense.argmax()]}" in told) != one.agrees
    assert one.maps is not None and set(one.maps) == {term.feature for term in one.terms}
    for term in one.terms:
        assert term.value == pytest.approx(x[term.feature], abs=1e-5)
        assert np.allclose(one.maps[term.feature], maps[term.feature], atol=1e-5)
    assert one.picture is not None and one.picture.tobytes() == Image.open(image).tobytes()


def test_against_a_class_that_is_named(study: Study, made: Decomposition, network: Network, path: Path) -> None:
    usual = explain(study, made, network=network, image=path)
    third = next(name for name in CLASSES if name not in (usual.predicted, usual.against))
    named = explain(study, made, network=network, image=path, against=CLASSES.index(third))
    again = explain(study, made, network=network, image=path, against=CLASSES.index(usual.against))
    assert (named.predicted, named.against) == (usual.predicted, third) and named.difference >= usual.difference
    assert named.logits[0] == usual.logits[0] and again.to_json() == usual.to_json() and third in named.dense


def nearest(study: Study, made: Decomposition, x: np.ndarray, label: int, other: int) -> list[tuple[float, str]]:
    """All images of the train set with their distances, the nearest first; one by one."""
    own = [{row.feature: row.weight for row in made.rows(one)} for one in (label, other)]
    distances = []
    for chunk in study.image_set("train").chunks():
        for row, id in enumerate(chunk.ids):
            squares = 0.0
            for feature in set(own[0]) | set(own[1]):
                weight = own[0].get(feature, 0) - own[1].get(feature, 0)
                squares += (weight * (float(chunk.features[row, feature]) - x[feature])) ** 2
            distances.append((squares**0.5, id))
    return sorted(distances)


@pytest.mark.parametrize("image", ["train/b/005.png", "test/b/005.png"])
def test_neighbours_are_the_nearest_of_all(
    study: Study, made: Decomposition, network: Network, tiny: Tiny, tmp_path: Path, image: str
) -> None:
    """The image itself is left out; one of another set that has the same path within it is another image."""
    one = explain(study, made, network=network, image=tmp_path / image)
    x = maps_of(tiny, tmp_path / image).mean((1, 2)).numpy()
    expected = nearest(study, made, x, CLASSES.index(one.predicted), CLASSES.index(one.against))
    if image.startswith("train"):
        assert expected[0][1] == "b/005.png" and expected[0][0] < 1e-5
        expected = expected[1:]
    assert [near.id for near in one.neighbours] == [id for _, id in expected[:6]]
    assert [near.distance for near in one.neighbours] == pytest.approx([far for far, _ in expected[:6]], abs=1e-5)
    chunks = list(study.image_set("train").chunks())
    said = {id: int(c) for chunk in chunks for id, c in zip(chunk.ids, chunk.predictions, strict=True)}
    for near in one.neighbours:
        assert near.label == near.id[0] and near.prediction == CLASSES[said[near.id]]
        with Image.open(tmp_path / "train" / near.id) as picture:
            assert near.picture is not None and near.picture.tobytes() == picture.tobytes()


def test_neighbours_whose_files_are_gone(
    study: Study, made: Decomposition, network: Network, path: Path, tmp_path: Path
) -> None:
    image = path.rename(tmp_path / "kept.png")
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    one = explain(study, made, network=network, image=image)
    assert len(one.neighbours) == 6 and all(near.picture is None for near in one.neighbours)
    assert len(one.plot().axes) == 2 + len(one.terms)


def test_an_image_of_another_set_is_no_neighbour_of_itself_only_by_name(
    study: Study, made: Decomposition, network: Network, tmp_path: Path
) -> None:
    """The nearest image counts, even if the image that is explained happens to have the same path in its own set."""
    image = tmp_path / "test/a/000.png"
    nearby = explain(study, made, network=network, image=image).neighbours
    same = tmp_path / "elsewhere" / nearby[0].id
    same.parent.mkdir(parents=True)
    same.write_bytes(image.read_bytes())
    assert explain(study, made, network=network, image=same).neighbours == nearby


def test_the_image_itself_is_told_by_its_path_too(
    study: Study, made: Decomposition, network: Network, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Observed on another device, its features differ by rounding."""
    wanted = explain(study, made, network=network, image=path).neighbours
    monkeypatch.setattr(sys.modules["subspect.asking.neighbours"], "_ITSELF", -1)
    monkeypatch.chdir(path.parent)
    for name in (path, "005.png", "../b/005.png"):
        assert explain(study, made, network=network, image=name).neighbours == wanted


def test_path_picture_and_array_say_the_same(study: Study, made: Decomposition, network: Network, path: Path) -> None:
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    wanted = explain(study, made, network=network, image=path)
    for image in (str(path), picture, picture.convert("RGBA"), np.array(picture)):
        one = explain(study, made, network=network, image=image, name=str(path))
        assert one.picture is not None and one.picture.tobytes() == picture.tobytes()
        assert one.to_json() == wanted.to_json()
    assert explain(study, made, network=network, image=picture).name == "image"
    grey = explain(study, made, network=network, image=np.array(picture.convert("L")), name="grey")
    assert grey.picture is not None and grey.picture.tobytes() == picture.convert("L").convert("RGB").tobytes()
    assert grey.name == "grey"


def test_the_network_need_not_bring_its_preprocessing(
    study: Study, made: Decomposition, network: Network, path: Path
) -> None:
    bare = Tiny()
    del bare.preprocessing
    one = explain(study, made, network=Network(bare), image=path)
    assert one.to_json() == explain(study, made, network=network, image=path).to_json()


def test_the_network_is_left_as_it_was(study: Study, made: Decomposition, tiny: Tiny, path: Path) -> None:
    tiny.train()
    before = copy.deepcopy(tiny.state_dict())
    explain(study, made, network=Network(tiny), image=path)
    assert tiny.training and all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.modules())


def test_to_json(study: Study, made: Decomposition, network: Network, path: Path) -> None:
    one = explain(study, made, network=network, image=path)
    value = json.loads(json.dumps(one.to_json()))
    assert set(value) == {
        *(
            "name",
            "decomposition",
            "predicted",
            "against",
            "label",
            "logits",
            "probabilities",
            "terms",
            "bias",
            "difference",
        ),
        *("dense", "dense_difference", "image_set", "neighbours", "no_maps"),
        *("feature_names", "dense_rows", "moved_by", "lost_through"),
    }
    assert value["difference"] == one.difference == value["logits"][0] - value["logits"][1]
    assert value["dense"] == one.dense and value["predicted"] == one.predicted
    assert [term["feature"] for term in value["terms"]] == [term.feature for term in one.terms]
    assert value["terms"][0]["weights"] == list(one.terms[0].weights)
    nearest = one.neighbours[0]
    expected = {
        "id": nearest.id,
        "label": nearest.label,
        "prediction": nearest.prediction,
        "distance": nearest.distance,
    }
    assert value["neighbours"][0] == expected and len(value["neighbours"]) == 6


def test_the_table(study: Study, made: Decomposition, network: Network, path: Path) -> None:
    one = explain(study, made, network=network, image=path, name="one")
    console = Console(width=120, record=True, quiet=False, file=(path.parent / "out.txt").open("w"))
    with console.file:
        console.print(one.tables()[0])
    text = console.export_text()
    assert one.label is None  # by this name it is no image of the study
    assert (
        f"one: {one.predicted} and not {one.against}" in text and "label:" not in text and "the dense network: " in text
    )
    rows = [re.split(r"[│┃\s]+", line.strip("│ ")) for line in text.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == [*(str(term.feature) for term in one.terms), "bias", "sum"]
    says = [float(row[-1]) for row in rows]
    expected = [*(term.contribution for term in one.terms), one.bias, one.difference]
    assert says == pytest.approx(expected, abs=6e-4) and sum(says[:-1]) == pytest.approx(says[-1], abs=1e-2)


def test_a_class_that_keeps_its_dense_row(tiny: Tiny, make_folder: Callable[..., Path], tmp_path: Path) -> None:
    network, images = Network(tiny, class_names=["a", "b", "c"]), make_folder("train", classes=("a", "b"))
    study = subspect.observe(network, images, tmp_path / "study", show_progress=False)
    one = explain(study, decompose(study, 2), network=network, image=images / "a/000.png", against="c")
    assert one.dense_rows == ("c",) and list(one.to_json()["dense_rows"]) == ["c"]
    many = replace(one, terms=tuple(replace(one.terms[0], feature=place) for place in range(1280)))
    table = many.tables()[0]
    assert "no images of c were seen when features were chosen: it keeps its dense row" in str(table.caption)
    features, *_, says = ([str(cell) for cell in column.cells] for column in table.columns)
    assert features[18:] == ["18", "19", "… and 1,260 more", "bias", "sum"]
    assert says[20] == f"{1260 * one.terms[0].contribution:+.3f}"
    assert many._repr_html_().count("<tr>") > 1280 and len(many.to_json()["terms"]) == 1280
    assert "dense row" not in str(replace(many, dense_rows=()).tables()[0].caption)


def test_the_true_label_where_the_study_knows_it(
    study: Study, made: Decomposition, network: Network, path: Path, tmp_path: Path
) -> None:
    one = explain(study, made, network=network, image=path)
    assert one.label == one.to_json()["label"] == path.parent.name == "b"
    assert str(one.tables()[0].title) == f"{path}: {one.predicted} and not {one.against} (label: b)"
    label, dense = one.plot().axes[0].get_title(loc="left").splitlines()[1:]
    assert label == "label: b" and dense.startswith("dense: ")
    elsewhere = tmp_path / "a" / "other.png"  # by its bytes, whatever its folder says
    elsewhere.parent.mkdir(exist_ok=True)
    elsewhere.write_bytes(path.read_bytes())
    assert explain(study, made, network=network, image=elsewhere).label == "b"
    assert explain(study, made, network=network, image=tmp_path / "test/c/003.png").label == "c"  # of another image set
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    assert (
        explain(study, made, network=network, image=picture, name="b/005.png").label == "b"
    )  # by its id and its features
    assert (
        explain(study, made, network=network, image=picture, name="b/004.png").label is None
    )  # an id of other features
    picture.rotate(90).save(elsewhere)
    assert explain(study, made, network=network, image=elsewhere).label is None


def test_the_label_of_an_image_in_memory(tiny: Tiny, tmp_path: Path) -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8), np.arange(30) % 3
    network = Network(tiny)
    study = subspect.observe(network, (images, labels), tmp_path / "study")
    made = decompose(study, 2, method="contribution")
    assert explain(study, made, network=network, image=images[13], name="13").label == "class 1"
    assert explain(study, made, network=network, image=images[13], name="3").label is None
    unlabelled = subspect.observe(network, images, tmp_path / "unlabelled")
    made = decompose(unlabelled, 2, method="contribution")
    assert explain(unlabelled, made, network=network, image=images[13], name="13").label is None


def test_plot_and_save(study: Study, made: Decomposition, network: Network, path: Path, tmp_path: Path) -> None:
    one = explain(study, made, network=network, image=path)
    figure = one.plot()
    assert isinstance(figure, Figure) and len(figure.axes) == 2 + len(one.terms) + 6
    bars = figure.axes[1]
    names = [label.get_text() for label in bars.get_yticklabels()]
    assert names == [*(f"feature {term.feature}" for term in one.terms), "difference of the biases", "sum"]
    assert bars.get_xlabel() == f"logits: for {one.predicted} (right), for {one.against} (left)"
    saved = one.save(tmp_path / "new/folder")
    assert saved == tmp_path / "new/folder/005.png" and list(saved.parent.iterdir()) == [saved]
    with Image.open(saved) as picture:
        assert picture.format == "PNG" and picture.width > 1000


def test_saving_never_replaces_a_file(
    study: Study, made: Decomposition, network: Network, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, out = explain(study, made, network=network, image=path), tmp_path / "out"
    out.mkdir()
    (out / "005.png").symlink_to(tmp_path / "nowhere")
    (out / "005-2.png").mkdir()
    assert one.save(out) == out / "005-3.png" and not (tmp_path / "nowhere").exists()
    others = iter((b"mine", b"mine"))

    def beside(path: Path) -> AbstractContextManager[BinaryIO]:  # two others take the next names meanwhile
        for data in others:
            path.write_bytes(data)
            break
        return atomic(path)

    monkeypatch.setattr(sys.modules["subspect.asking.explain"], "atomic", beside)
    assert one.save(out) == out / "005-6.png"
    assert (out / "005-4.png").read_bytes() == (out / "005-5.png").read_bytes() == b"mine"
    assert len(list(out.iterdir())) == 6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("folder/.hidden.png", "hidden"),
        ("..", "image"),
        ("", "image"),
        ("a\x1b[31m\u202eb\n.jpg", "a_x1b[31m_u202eb_n"),
        ("\udcff.png", "_udcff"),
        ("é" * 200 + ".png", "é" * 120),
        ('a:b*"c".png', "a_b__c_"),
    ],
)
def test_names_of_images_that_are_no_names_of_files(
    name: str, expected: str, study: Study, made: Decomposition, network: Network, path: Path, tmp_path: Path
) -> None:
    one = replace(explain(study, made, network=network, image=path), name=name)
    assert [one.save(tmp_path / "out").name for _ in range(2)] == [f"{expected}.png", f"{expected}-2.png"]


def test_names_are_drawn_and_not_parsed(study: Study, made: Decomposition, network: Network, path: Path) -> None:
    odd = "$0_to_$10\x1b\ud800"
    one = explain(study, made, network=network, image=path)
    near = tuple(replace(other, label=odd, prediction=odd[::-1]) for other in one.neighbours)
    one = replace(one, name=f"{odd}.png", predicted=odd, against="$$", dense={odd: 0.5}, neighbours=near, image_set=odd)
    assert one.plot().axes[1].get_xlabel() == r"logits: for \$0_to_\$10\x1b\ud8… (right), for \$\$ (left)"
    picture_of(one.plot(), "svg", 50)


def test_without_maps_and_with_many_features(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(Flat())
    images = make_folder("train", each=10)
    study = subspect.observe(network, images, tmp_path / "study", "train", batch_size=16)
    subspect.observe(network, make_folder("test", each=5, seed=1), tmp_path / "study", "test", batch_size=16)
    one = explain(study, decompose(study, 15, method="contribution"), network=network, image=images / "a/000.png")
    assert one.maps is None and len(one.terms) > 12
    said = "the features are what 'relu' makes, and not the mean or the maximum over the places of a map"
    assert one.no_maps == one.to_json()["no_maps"] == said
    assert f"where features look is not shown: {one.no_maps}" in str(one.tables()[0].caption)
    figure = one.plot()
    assert figure.get_suptitle().endswith(f"\nwhere features look is not shown: {one.no_maps}")
    names = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert len(figure.axes) == 2 + 6 and names[12] == f"{len(one.terms) - 12} more" and len(names) == 15
    assert one.save(tmp_path / "out").is_file()


def test_what_is_no_image(study: Study, made: Decomposition, network: Network, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(SubspectError, match=r"cannot use .*text\.png: not an image \(4 bytes\)"):
        explain(study, made, network=network, image=tmp_path / "text.png")
    with pytest.raises(SubspectError, match=r"cannot use .*none\.png: no such file"):
        explain(study, made, network=network, image=str(tmp_path / "none.png"))
    with pytest.raises(SubspectError, match="cannot use the image: floating-point pixels"):
        explain(study, made, network=network, image=Image.new("F", (8, 8)))


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (torch.rand(3, 8, 8), r"Tensor of torch\.float32 \(3, 8, 8\)"),
        (np.zeros((8, 8, 3)), r"ndarray of float64 \(8, 8, 3\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), "ndarray"),
        (np.zeros((3, 8, 8), np.uint8), "ndarray"),
        (7, "int"),
    ],
    ids=["tensor", "floats", "batch", "channels first", "number"],
)
def test_what_an_image_can_not_be(
    study: Study, made: Decomposition, network: Network, image: object, kind: str
) -> None:
    message = r"is a file, a Pillow image or a uint8 array \(height, width, 3\); got " + kind
    with pytest.raises(SubspectError, match=message):
        explain(study, made, network=network, image=image)  # type: ignore[arg-type]


def test_another_network_and_other_preprocessing(
    study: Study, made: Decomposition, path: Path, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    other = Network(Tiny(seed=1))
    message = f"this is a different network: .* is of 'Tiny' with weights .* has {other.fingerprint()[:12]}…; pass the"
    with pytest.raises(SubspectError, match=message):
        explain(study, made, network=other, image=path)
    changed = Preprocessing(resize=None, crop=None, mean=(0.4, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    with caplog.at_level(logging.INFO, logger="subspect"):
        found = explain(study, made, network=Network(tiny, preprocessing=changed), image=path)
    assert (
        "mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5), as in the study; the network declares another: no resize, "
        in caplog.text
    )
    assert found.to_json() == explain(study, made, network=Network(tiny), image=path).to_json()


def test_against_the_class_that_is_predicted_or_none_at_all(
    study: Study, made: Decomposition, network: Network, path: Path
) -> None:
    predicted = explain(study, made, network=network, image=path).predicted
    message = f"'{predicted}' is the predicted class itself; name another class to explain against"
    with pytest.raises(SubspectError, match=message):
        explain(study, made, network=network, image=path, against=CLASSES.index(predicted))
    for against in (3, -1):
        with pytest.raises(SubspectError, match=f"no class {against}; the network has 3: a, b, c, or 0 to 2"):
            explain(study, made, network=network, image=path, against=against)
    other = next(name for name in CLASSES if name != predicted)
    assert explain(study, made, network=network, image=path, against=other).against == other


def test_what_does_not_belong_together(
    study: Study, made: Decomposition, network: Network, tiny: Tiny, path: Path, tmp_path: Path
) -> None:
    with pytest.raises(SubspectError, match="decomposition 'contribution-k2' is of another network"):
        explain(study, replace(made, fingerprint="0" * 64), network=network, image=path)
    with pytest.raises(
        SubspectError, match=r"a network must be a subspect.Network, got Tiny; subspect.Network\(model\)"
    ):
        explain(study, made, network=tiny, image=path)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(SubspectError, match="cannot write .*file: it, or what it lies in, is a file, not a folder"):
        explain(study, made, network=network, image=path).save(tmp_path / "file")


def test_an_image_smaller_than_the_crop(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    cropped = Preprocessing(resize=None, crop=6, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    network = Network(Tiny(), preprocessing=cropped)
    images = make_folder("train", each=5)
    study = subspect.observe(network, images, tmp_path / "study", "train", batch_size=16)
    made = decompose(study, 2, method="contribution", on="train")
    picture = explain(study, made, network=network, image=images / "a/000.png").picture
    assert picture is not None and picture.size == (6, 6)
    Image.new("RGB", (5, 7)).save(tmp_path / "small.png")
    with pytest.raises(SubspectError, match=r"cannot use .*small\.png: 5×7 pixels is smaller than the crop of 6×6"):
        explain(study, made, network=network, image=tmp_path / "small.png")


class _Halves:
    """A transform whose result is no picture: two channels, of one half of the image."""

    def __repr__(self) -> str:
        return "halves"

    def __call__(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image)[:, :4, :2].astype(np.float32) / 255).permute(2, 0, 1)


def test_a_transform_that_makes_no_picture(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    model = Tiny()
    model.conv = nn.Conv2d(2, 6, 3)
    network, images = Network(model, preprocessing=_Halves()), make_folder("train", each=5)
    job = subspect.run(network, images, tmp_path / "study", k=2, show_progress=False)
    one = explain(job.study, job.decomposition, network=network, image=images / "a/000.png")
    with Image.open(images / "a/000.png") as given:
        assert one.picture == given and one.maps is None  # whose places would be of another picture
    assert one.no_maps == "what the network sees of the image is no picture"
    assert sum(term.contribution for term in one.terms) + one.bias == pytest.approx(one.difference, abs=1e-5)
    assert one.neighbours and all(near.picture is None for near in one.neighbours)
    assert one.save(tmp_path / "figures").exists()
    assert "a tensor of shape (2, 8, 4) is not a picture" in job.report.read_text(encoding="utf-8")


def test_an_image_that_the_network_cannot_take(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    network, images = Network(Flat()), make_folder("train", each=5)
    study = subspect.observe(network, images, tmp_path / "study")
    with pytest.raises(
        SubspectError, match=r"cannot use image: the network failed on \(1, 3, 9, 8\): .*; give an image of"
    ):
        explain(study, decompose(study, 2), network=network, image=np.zeros((9, 8, 3), np.uint8))


def test_an_image_of_one_colour(study: Study, made: Decomposition, network: Network) -> None:
    """Mirrored it is the same, so that the head is looked for with two equal images."""
    one = explain(study, made, network=network, image=np.full((8, 8, 3), 90, np.uint8))
    assert one.maps is not None and isinstance(one.plot(), Figure)


def test_what_moves_each_feature(study: Study, made: Decomposition, network: Network, path: Path) -> None:
    before = explain(study, made, network=network, image=path)
    assert before.moved_by is None and before.to_json()["moved_by"] is None
    assert before.lost_through is None and before.to_json()["lost_through"] is None
    assert "lost through it" not in [str(column.header) for column in before.tables()[0].columns]
    assert "moved_by" not in before.to_frame()
    first, *others = [term.feature for term in before.terms]
    moved = {"a": {first: 0.2}, "b": {first: 0.7}, "c": {first: 0.1}}
    place = made.class_names.index(before.predicted if before.terms[0].weights[0] else before.against), first
    through = {"a": {place: 0.25}, "b": {place: 0.5}, "layout": {place: 3.0}}
    keep_cues(study, made, {"a": {}, "b": {}, "c": {}, "layout": {}}, moved, through=through)
    one = explain(study, made, network=network, image=path)
    assert one.to_json()["lost_through"] == {str(first): {"b": 0.5, "a": 0.25}, **{str(each): {} for each in others}}
    assert one.to_json()["moved_by"] == {
        str(first): {"b": 0.7, "a": 0.2, "c": 0.1},
        **{str(each): {} for each in others},
    }
    assert one.to_frame()["moved_by"].tolist() == ["b 70 %, a 20 %", *[""] * len(others)]
    last = one.tables()[0].columns[-1]
    assert str(last.header) == "lost through it"
    assert [str(cell) for cell in last.cells] == ["b 0.50, a 0.25", *[""] * (len(others) + 2)]
    assert "\nlost through it: median margins that " in str(one.tables()[0].caption)
    assert explain(study, replace(made, bias=made.bias + 1), network=network, image=path).moved_by is None
