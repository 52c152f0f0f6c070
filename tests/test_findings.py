"""Findings: every check fires where something is planted, is silent where nothing is, and says what it lacks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_matrix
from torch import nn

import subspect
from commands import command, parsed, said
from conftest import PIXELS
from subspect import (
    Check,
    Checked,
    Cues,
    Decomposition,
    Finding,
    Skipped,
    Study,
    SubspectError,
    Supports,
    Swapped,
    Trusted,
)
from subspect.checking.check import CHECKS
from subspect.heads.history import Chosen
from subspect.studies.decompositions import made_by
from subspect.swapping.result import HEADS
from subspect.swapping.stored import keep
from world import ROOT, blocks

Array = npt.NDArray[np.float64]
C, D, N = 3, 6, 300
CODES = [one.code for one in CHECKS]
CORNERS = [f"corner-{vertical}-{side}" for vertical in ("top", "bottom") for side in ("left", "right")]


def rows(seed: int = 0, n: int = N) -> tuple[Array, npt.NDArray[np.int64]]:
    """Features of which each class has one that is its own; the head below is right on all."""
    generator, labels = np.random.default_rng(seed), np.arange(n) % C
    x = 0.2 * generator.standard_normal((n, D))
    x[np.arange(n), labels] += 3 + generator.random(n)
    return x, labels


def study_of(path: Path, labels: npt.NDArray[np.int64] | None = None, names: Sequence[str] = ("a", "b", "c")) -> Study:
    """A study whose set "test" has labels that may be wrong; "plain" has none."""
    head, options = (2 * np.eye(C, D), None, path), {"class_names": names, "show_progress": False}
    for name, seed in (("train", 0), ("test", 1), ("plain", 2)):
        x, own = rows(seed)
        given = None if name == "plain" else own if name == "train" or labels is None else labels
        study = subspect.from_features(x, *head, name, labels=given, **options)  # type: ignore[arg-type]
    return study


def made(
    study: Study,
    supports: Sequence[Sequence[int]] = ((0, 1, 3), (1, 2, 4), (2, 0, 5)),
    weights: Sequence[float] = (2, 1, 1) * C,
    means: Sequence[float] = (3, 2, 2) * C,
    **options: Any,
) -> Decomposition:
    """A decomposition with any features, weights and means."""
    flat, identity = torch.tensor(weights, dtype=torch.float32), study.identity
    k = options.pop("k", {"k": 3, "least": 1, "most": None})
    return Decomposition(
        name="made",
        supports=Supports(supports, D),
        weights=flat,
        bias=torch.zeros(C),
        frequency=torch.ones(len(flat)),
        mean=torch.tensor(means, dtype=torch.float32),
        class_names=identity.class_names,
        network=identity.network,
        fingerprint=identity.fingerprint,
        head_name=identity.head_name,
        unseen=(),
        history=(Chosen("pursuit", k, "train", "all"),),
        study=study,
        **options,
    )


def own_feature(study: Study, scale: float = 2) -> Decomposition:
    """A decomposition that says what the head says."""
    return made(study, ((0,), (1,), (2,)), [scale] * C, [3] * C)


def by_contribution(study: Study) -> Decomposition:
    """A decomposition that isn't pursuit's."""
    own = made(study)
    return replace(own, history=(replace(own.chosen, method="contribution"), *own.history[1:]))


def trust(stability: float = 1, recovered: float = 0, draws: int = 20) -> Trusted:
    """The same for all features, but for the second of the second class."""
    entries, share = torch.ones(3 * C), torch.zeros(3 * C, 2)
    entries[4], share[4, 0] = stability, recovered
    return Trusted(
        entries,
        jaccard=torch.ones(C),
        draws=torch.full((C,), draws),
        distinct=torch.ones(C, dtype=torch.int64),
        substitutes=torch.full((3 * C, 2), 3),
        recovered=share,
        equal=torch.zeros(3 * C, 2, dtype=torch.bool),
        core=torch.ones(3 * C, dtype=torch.bool),
        near_equal=torch.ones(C, dtype=torch.int64),
        tolerance=torch.ones(C),
    )


def swapped(
    name: str, loss: Sequence[float] = (0, 0, 0), pull: Sequence[float] = (0, 0, 0), half: float = 0.1, **options: Any
) -> Swapped:
    """What becomes of a study's images when a cue is swapped."""
    moved = np.asarray(options.get("moved", np.zeros(D)), np.float64)
    right = {head: np.full(C, 5) for head in HEADS}  # each its own memory, as the file wants
    parts = csr_matrix((C, D)), csr_matrix((C, D))
    each = np.array(loss, np.float64), np.full(C, half), np.array(pull, np.float64), np.full(C, half)
    return Swapped(name, f"the {name}", moved, np.full(D, 0.01), *each, *parts, right)


def with_cues(
    study: Study, decomposition: Decomposition, *cues: Swapped, left_out: dict[str, str] | None = None
) -> None:
    """Keep cues in a study."""
    images, right = np.full(C, 10), {head: np.full(C, 10) for head in HEADS}
    about = decomposition.class_names, images, 2.0, right, cues, left_out or {}, "30 images", "sample"
    keep(study, Cues(decomposition.name, *about, made_by(decomposition)))


def state(checked: Checked, code: str) -> str:
    """Return what became of a check: "found" or "passed", or why it was skipped."""
    where = [name for name in ("passed", "skipped", "ignored") if code in getattr(checked, name)]
    where += ["found"] if code in checked.codes else []
    assert len(where) == 1
    return checked.skipped[code] if where == ["skipped"] else where[0]


def only(checked: Checked, code: str) -> Finding:
    [found] = [one for one in checked.found if one.code == code]
    assert found.title == checked.titles[code] and found.how and found.why and found.do
    return found


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return study_of(tmp_path / "study")


# cues

MARGIN = ((2.6, 0.1, 0.1), (2.3, 0, 0))


@pytest.mark.parametrize(
    ("code", "cue", "beside"),
    [
        ("C101", "corner-top-left", ()),
        ("C101", "border", ("centre",)),
        ("C102", "colour", ()),
        ("C103", "brightness", ()),
        ("C103", "contrast", ()),
        ("C104", "grain", ("layout",)),
        ("C104", "texture", ("layout",)),
    ],
)
def test_a_class_rests_on_a_cue(study: Study, code: str, cue: str, beside: Sequence[str]) -> None:
    own, others = made(study), [swapped(one) for one in beside]
    with_cues(study, own, swapped(cue, *MARGIN), *others)
    found = only(own.findings(), code)
    assert found.text == (
        f"a rests on the {cue}: with that of an image of another class it loses 2.6 of the median margin (2.5–2.7; the other "
        "classes 0.1) and 100 → 50 % of its images are still recognised; others that are given it move 2.3 median "
        "margins towards a"
    )
    assert found.classes == ("a",) and found.figures["cue"] == cue and found.figures["recall_swapped"] == 0.5
    assert f"subspect edit {study.path} --decomposition made --without-cue {cue} --network …" in found.do
    assert f"subspect explain {study.path} --decomposition made IMAGE --network …" in found.do
    for few in (((0.45, 0, 0), (2, 0, 0)), ((2.6, 0, 0), (0.05, 0, 0))):
        with_cues(study, own, swapped(cue, *few), *others)
        assert state(own.findings(), code) == "passed"
    with_cues(study, own, swapped(cue, *MARGIN, half=2.4), *others)
    assert state(own.findings(), code) == "passed"
    with_cues(study, own, swapped(cue, *MARGIN, half=np.nan), *others)
    assert "no class has the two examples that an interval takes (30 examples): subspect cues" in state(
        own.findings(), code
    )


@pytest.mark.parametrize("code", CODES[:5])
def test_without_cues(study: Study, code: str, tmp_path: Path) -> None:
    own = made(study)
    assert "made from features alone" in state(own.findings(), code)
    with_cues(study, own, swapped("scale"))
    needed = state(own.findings(), code)
    assert needed.startswith(f"needs cues: subspect cues {study.path} --decomposition made --cue ")
    with_cues(study, own, swapped("scale"), left_out={"colour": "it takes three channels"})
    if code == "C102":
        assert state(own.findings(), code) == "colour: it takes three channels"


def test_the_border_and_the_texture_come_second_and_are_compared(study: Study) -> None:
    own = made(study)
    with_cues(study, own, swapped("border", *MARGIN), swapped("centre", (3, 0, 0)))
    assert state(own.findings(), "C101") == "passed"
    with_cues(study, own, swapped("border", *MARGIN), swapped("centre"), *(swapped(one, *MARGIN) for one in CORNERS))
    assert only(own.findings(), "C101").figures["cue"] == CORNERS[0]
    with_cues(study, own, swapped("texture", *MARGIN), swapped("layout", (2, 0, 0)))
    assert state(own.findings(), "C104") == "passed"
    with_cues(study, own, swapped("texture", *MARGIN))
    assert "needs cues: " in state(own.findings(), "C104") and state(own.findings(), "C104").count("--cue layout") == 1
    with_cues(study, own, swapped("colour"))
    assert own.findings().passed["C102"] == "3 of 3 classes could be judged, by colour"


def test_a_feature_that_looks_elsewhere(study: Study) -> None:
    own, centre = made(study), swapped("centre", moved=[0.6, 0.6, 0.6, 0.1, 0.6, 0.6])
    corner = swapped("corner-top-left", moved=[0.1, 0.1, 0.1, 0.5, 0.1, 0.1])
    with_cues(study, own, centre, corner)
    found = only(own.findings(), "C105")
    assert found.text == (
        "in a, feature 3 looks at the corner-top-left (50 % of its variance; the centre explains 10 %), while most of the "
        "class's other features look at the centre"
    )
    assert found.classes == ("a",) and "--drop a:3" in found.do and found.figures["features"] == [3]
    with_cues(study, own, centre, swapped("corner-top-left", moved=[0.1, 0.1, 0.1, 1.2, 0.1, 0.1]))
    assert "(≥ 100 % of its variance; the centre explains 10 %)" in only(own.findings(), "C105").text
    with_cues(study, own, centre, swapped("border", moved=[0.1] * D))
    assert state(own.findings(), "C105") == "passed"
    with_cues(study, own, centre)
    assert "--cue border --cue corner --cue centre" in state(own.findings(), "C105")


# features


def test_one_feature_alone(study: Study) -> None:
    assert state(made(study).findings(), "F201") == "passed"
    found = only(made(study, weights=(9, 1, -1, *(2, 1, 1) * 2)).findings(), "F201")
    assert found.text == "a is decided by feature 0 alone: of what its 3 features say for it, that makes 93 %"
    assert found.do == f"look at its features: subspect show {study.path} --decomposition made --class a"
    assert state(own_feature(study).findings(), "F201") == "every class has one feature, as was asked for"


def test_unstable_features(study: Study) -> None:
    found = only(made(study, trust=trust(stability=0.2)).findings(), "F202")
    assert found.text == (
        "1 of 9 features is chosen again on less than 50 % of the halves of the examples; the least stable is feature 2 of b: "
        "on 20 % of them"
    )
    assert "repeated on halves" in found.how and "nothing of other networks" in found.how and found.classes == ("b",)
    show = f"look at its features: subspect show {study.path} --decomposition made --class b"
    assert (
        found.do
        == f"choose again in the same way, with --stable: subspect decompose {study.path} -k mean:3 --stable; or {show}"
    )
    own = made(study, trust=trust(stability=0.2))
    stays = replace(own, history=(replace(own.chosen, stable=True), *own.history[1:]))
    assert only(stays.findings(), "F202").do == show
    assert state(made(study, trust=trust()).findings(), "F202") == "passed"
    assert state(made(study, trust=trust(stability=0.3)).findings(), "F202") == "passed"  # 6 of 20: 15 to 52 %
    assert only(made(study, trust=trust(stability=0.3, draws=100)).findings(), "F202").figures["features"] == 1
    alone = state(made(study, trust=trust(draws=0)).findings(), "F202")
    assert alone == f"the choice wasn't repeated: decompose again, without --draws 0: subspect decompose {study.path}"
    some, draws = trust(stability=0.2), torch.tensor([20, 0, 20])
    assert state(made(study, trust=replace(some, draws=draws)).findings(), "F202") == "passed"
    again = f"it was made before this was measured: decompose again: subspect decompose {study.path}"
    assert state(made(study).findings(), "F202") == again
    assert "stability is measured with pursuit alone: subspect decompose" in state(
        by_contribution(study).findings(), "F202"
    )


def test_substitutes(study: Study) -> None:
    found = only(made(study, trust=trust(recovered=0.97)).findings(), "F203")
    assert (
        found.text == "of 9 features, 1 could be replaced by another; for b, feature 3 does 97 % of what feature 2 does"
    )
    assert found.figures["worst"] == {"class": "b", "feature": 2, "substitute": 3}
    assert state(made(study, trust=trust(recovered=0.9)).findings(), "F203") == "passed"
    assert "stability is measured with pursuit alone" in state(by_contribution(study).findings(), "F203")


def test_nothing_speaks_for_a_class(study: Study) -> None:
    found = only(made(study, weights=(-2, -1, -1, *(2, 1, 1) * 2)).findings(), "F204")
    text = "a is decided by its bias and by other classes: all 3 of its features speak against it; its bias is 0.00"
    assert found.text == text
    bare = made(study, ((), (1, 2), (2, 0)), (2, 1) * 2, (3, 2) * 2)
    assert "it has no feature;" in only(bare.findings(), "F204").text
    assert state(made(study).findings(), "F204") == "passed"
    dense = replace(made(study), unseen=(0, 1, 2))
    assert state(dense.findings(), "F204") == "no class had examples to choose features on: all keep their dense rows"


def test_many_features(study: Study) -> None:
    sizes = made(study, (range(6), (1,), (2,)), [2, *[1] * 7], [3] * 8)
    found = only(sizes.findings(), "F205")
    assert found.text == "a has 6 features; the median of all classes is 1" and found.classes == ("a",)
    assert state(made(study, ((0, 1), (1,), (2,)), [2] * 4, [3] * 4).findings(), "F205") == "passed"
    assert "the same number of features, as was asked for" in state(made(study).findings(), "F205")
    assert "the same number of features" in state(
        made(study, (range(6), (1,), (2,)), [2] * 8, [3] * 8, k=2).findings(), "F205"
    )


# classes and data


def test_two_classes_alike(tmp_path: Path, study: Study) -> None:
    labels = rows(1)[1]
    labels[:60:3] = 1  # 20 images of the first class are said to be of the second
    own = made(study_of(tmp_path / "mixed", labels), ((0, 1), (1, 0), (2, 5)), (2, 0.1) * C, (3, 1) * C)
    found = only(own.findings(), "K301")
    assert found.text == (
        "b and a share 2 of 2 features, and the dense head takes 17 % of the examples of b (20 of 120 in 'test') for a"
    )
    assert found.do.endswith("--decomposition made a b") and found.classes == ("b", "a")
    apart = made(study_of(tmp_path / "mixed", labels), ((0, 3), (1, 4), (2, 5)), (2, 0.1) * C, (3, 1) * C)
    assert state(apart.findings(), "K301") == "passed"
    assert apart.findings().passed["K301"] == "300 examples of 'test'"
    assert state(made(study).findings(), "K301") == "passed"  # alike, but not confused
    alone = study_of(tmp_path / "alone", np.zeros(N, np.int64))
    assert state(made(alone).findings(), "K301") == "needs examples of two classes: those of 'test' are of one"


def test_accuracy_differs_between_parts(tmp_path: Path, study: Study) -> None:
    labels = rows(1)[1]
    labels[:150:3] = 1
    own = own_feature(study_of(tmp_path / "apart", labels))
    found = next(one for one in own.findings().found if one.code == "D401")
    assert found.text == (
        "the dense accuracy of b differs between 'train' and 'test': 100 % (96–100) on 'train', 67 % (59–74) on 'test'"
    )
    assert found.classes == ("b",) and found.figures["sets"] == ["train", "test"]
    labels[1:150:3] = 2
    both = own_feature(study_of(tmp_path / "both", labels))
    found = next(one for one in both.findings().found if one.code == "D401")
    assert found.text.startswith(
        "the dense accuracy of 2 of 3 classes differs between 'train' and 'test'; most for b: 100 %"
    )
    assert found.classes == ("b", "c")
    checked = own_feature(study).findings()
    assert state(checked, "D401") == "passed" and checked.passed["D401"] == "300 examples of 'test'"
    assert state(own_feature(study).findings(on="plain"), "D401") == "needs labels: the image set 'plain' has none"
    alone = own_feature(study).findings(on="train")
    assert alone.passed["D401"].startswith(
        "calibration alone, as there is no other image set with labels; 300 examples"
    )


def test_confidence_is_not_accuracy(study: Study, tmp_path: Path) -> None:
    found = only(own_feature(study, scale=0.1).findings(), "D401")
    assert re.match(
        r"the decomposed head's confidence is off by 5\d\.\d points on average \(by chance \d\.\d, the dense head's is "
        r"off by 0\.\d\): it says 4\d % and is right on 100 %",
        found.text,
    )
    assert "--refit" in found.do and found.figures["accuracy"] == 1
    wrong = own_feature(study_of(tmp_path / "wrong", (rows(1)[1] + (np.arange(N) % 5 == 0)) % C))
    assert [one.do for one in wrong.findings().found if one.code == "D401" and not one.classes] == [
        "don't read probabilities as such: the dense network's are no better, so train or calibrate that one first"
    ]


def test_labels_that_look_wrong(tmp_path: Path, study: Study) -> None:
    labels = rows(1)[1]
    labels[:120:3] = 2
    own = own_feature(study_of(tmp_path / "wrong", labels))
    found = only(own.findings(), "D403")
    number = found.figures["images"]
    assert 10 <= number <= 40 and len(found.figures["listed"]) == min(number, 20) and found.classes == ("c",)
    first = found.figures["listed"][0]
    assert first["label"] == "c" and first["said"] == "a" and int(first["id"]) % 3 == 0
    assert (
        found.do.startswith("look at them; their ids: subspect check ")
        and "made --on test --json; mend labels" in found.do
    )
    assert found.text.startswith(f"both heads are sure that {number} of 300 examples of 'test' (")
    assert "are of another class than their label: " in found.text
    assert f"{first['id']} (c, said to be a), " in found.text
    assert found.text.endswith(f", … ({number - 3} more)")
    assert state(own_feature(study).findings(), "D403") == "passed"
    assert state(own.findings(on="plain"), "D403") == "needs labels: the image set 'plain' has none"


class Light(nn.Module):
    """Tells images by the mean of each channel."""

    def __init__(self, weight: Any, bias: Sequence[float]) -> None:
        super().__init__()
        self.fc = nn.Linear(3, len(bias))
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor(weight))
            self.fc.bias.copy_(torch.tensor(bias))
        self.preprocessing = PIXELS

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(x.mean((2, 3)))
        return out


def of_light(path: Path, model: nn.Module, tones: Sequence[tuple[int, int, int]], labelled: bool = True) -> Any:
    """A network, a decomposition of it, on images of a few tones, a class each."""
    generator, names = np.random.default_rng(0), [f"tone{label}" for label in range(len(tones))]
    for index in range(12 * len(tones)):
        label = index % len(tones)
        folder = path / "images" / names[label] if labelled else path / "images"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.array(tones[label]) + generator.integers(-9, 10, (8, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    network = subspect.Network(model, class_names=names)
    study = subspect.observe(network, path / "images", path / "study", show_progress=False)
    return network, study.decompose(2, show_progress=False)


COLOURS = (220, 30, 60), (30, 220, 60), (60, 30, 220)
GREYS = (50, 50, 50), (200, 200, 200)


@pytest.mark.parametrize(
    ("model", "tones", "way"),
    [
        (Light(((0, 0, 2), (0, 2, 0), (2, 0, 0)), (0, 0, 0)), COLOURS, "red and blue exchanged"),
        (Light(((-1, -1, -1), (1, 1, 1)), (384, -384)), GREYS, "pixels from 0 to 255"),
        (Light(((-1, -1, -1), (1, 1, 1)), (3, -3)), GREYS, "ImageNet's mean and std"),
    ],
)
def test_preprocessing_that_looks_wrong(model: nn.Module, tones: Any, way: str, tmp_path: Path) -> None:
    network, own = of_light(tmp_path, model, tones)
    found = only(own.findings(network=network), "D402")
    n = 12 * len(tones)
    before = 100 // len(tones)
    assert re.match(
        rf"with {way} the network is right on 100 % \([89]\d–100\) of {n} images of 'train', as they are prepared now on "
        rf"{before} %",
        found.text,
    )
    assert "runs the network on 64 images of each" in found.how and found.figures[way] == 1
    assert state(own.findings(), "D402").startswith("name the network: --network …")


def test_preprocessing_that_is_right(tmp_path: Path) -> None:
    network, own = of_light(tmp_path, Light(2 * np.eye(3), (0, 0, 0)), COLOURS)
    assert state(own.findings(network=network), "D402") == "passed"
    needed = state(own.findings(), "C101")
    assert needed == f"needs cues: subspect cues {tmp_path / 'study'} --decomposition pursuit-k2 --network …"
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    assert re.match(
        r"none of 36 images could be opened again \(.*\); say where they are: --images FOLDER",
        state(own.findings(network=network), "D402"),
    )
    assert state(own.findings(network=network, images=tmp_path / "elsewhere"), "D402") == "passed"
    other = subspect.Network(Light(np.eye(3), (0, 0, 0)))
    with pytest.raises(SubspectError, match="this is a different network"):
        own.findings(network=other)


def test_preprocessing_of_both_sets(tmp_path: Path) -> None:
    network, own = of_light(tmp_path, Light(2 * np.eye(3), (0, 0, 0)), COLOURS)
    for path in (tmp_path / "images").rglob("*.png"):  # the test set's are stored as BGR
        turned = tmp_path / "turned" / path.relative_to(tmp_path / "images")
        turned.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(Image.open(path))[..., ::-1]).save(turned)
    subspect.observe(network, tmp_path / "turned", tmp_path / "study", "test", show_progress=False)
    assert "of 36 images of 'test', as they are" in only(own.findings(network=network), "D402").text
    own = subspect.open_study(tmp_path / "study").decompose(2, on="test", show_progress=False)
    found = only(own.findings(network=network, on="train"), "D402")  # chosen on what is prepared wrongly
    assert found.text.startswith("with red and blue exchanged") and found.figures["set"] == "test"


def test_preprocessing_of_sets_that_are_right_or_gone(tmp_path: Path) -> None:
    network, own = of_light(tmp_path, Light(2 * np.eye(3), (0, 0, 0)), COLOURS)
    subspect.observe(network, tmp_path / "images", tmp_path / "study", "test", show_progress=False)
    checked = own.findings(network=network)
    assert checked.passed["D402"] == "36 images or more of 'test', and 36 images or more of 'train'"
    (tmp_path / "images").rename(tmp_path / "moved")
    checked = own.findings(network=network, images=tmp_path / "moved")
    assert checked.passed["D402"].startswith(
        "36 images or more of 'test' alone; 'train': none of 36 images could be opened again"
    )


def test_a_small_difference_is_looked_at_on_more_images(tmp_path: Path) -> None:
    pixels = np.zeros((600, 3, 4, 4), np.float32)
    labels = np.arange(600) % 2
    pixels[1::2, 1] = 1
    for place in range(300):  # of class 0: a half right either way, a fourth with red and blue exchanged
        pixels[2 * place, (0, 2) if place % 20 < 10 else (2,) if place % 20 < 15 else (1,)] = 1
    network = subspect.Network(Light(np.eye(3), (0, 0, 0)), class_names=("0", "1", "2"))
    for place, image in enumerate(pixels):
        file = tmp_path / f"images/{labels[place]}/{place:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * image).astype(np.uint8).transpose(1, 2, 0)).save(file)
    study = subspect.observe(network, tmp_path / "images", tmp_path / "study", show_progress=False)
    found = only(study.decompose(2, draws=0, show_progress=False).findings(network=network), "D402")
    assert found.figures["images"] == 256 and found.text.startswith("with red and blue exchanged")


def test_preprocessing_without_labels_or_colours(tmp_path: Path) -> None:
    network, own = of_light(tmp_path, Light(2 * np.eye(3), (0, 0, 0)), COLOURS, labelled=False)
    assert state(own.findings(network=network), "D402") == "needs labels: the image set 'train' has none"
    grey = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2))
    given = torch.rand(40, 1, 8, 8), torch.arange(40) % 2
    network = subspect.Network(grey)
    study = subspect.observe(network, given, tmp_path / "grey", show_progress=False)
    checked = study.decompose(2, show_progress=False).findings(network=network, images=given)
    assert state(checked, "D402") == "needs images of three channels; the network's have 1"


# the whole


class Silent(Check):
    code, title, how, why = "X001", "a title", "how it looks", "why it matters"

    def find(self, about: Any) -> list[Finding]:
        return [self.found("something <b>bold</b>", "do", ["a"], {"number": 1})]


class Failing(Silent):
    code = "X002"

    def find(self, about: Any) -> list[Finding]:
        raise ZeroDivisionError("by nothing")


class Odd(Silent):
    code = "X003"

    def find(self, about: Any) -> list[Any]:
        return ["text"]


class Lacking(Silent):
    code = "X004"

    def find(self, about: Any) -> list[Finding]:
        raise Skipped("needs more")


class Unscoped(Silent):
    code = "X005"

    def find(self, about: Any) -> list[Finding]:
        return []

    def scope(self, about: Any) -> str:
        raise SubspectError("in words")


def test_checks_of_ones_own(study: Study) -> None:
    own = own_feature(study)
    checked = subspect.check(study, own, checks=[Silent(), Failing(), Odd(), Lacking(), Unscoped()])
    assert only(checked, "X001").figures == {"number": 1}
    assert state(checked, "X002") == "it failed: ZeroDivisionError: by nothing"
    assert state(checked, "X003") == "it must return a list of subspect.Finding; there is str in it"
    assert state(checked, "X004") == "needs more" and state(checked, "X005") == "in words"
    assert "something &lt;b&gt;bold&lt;/b&gt;" in checked._repr_html_()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([Silent], "a check must be a subspect.Check, got the class Silent: give Silent()"),
        (Silent, "a check must be a subspect.Check, got the class Silent: give Silent()"),
        (5, "a check must be a subspect.Check, got int"),
        ([type("Bare", (Silent,), {"why": ""})()], "the check Bare must have a why, as text; got ''"),
        (
            [Silent(), Silent()],
            "the code 'X001' is taken: test_findings.Silent has it, and test_findings.Silent as well; give",
        ),
        (
            [type("Ours", (Silent,), {"code": "C101"})()],
            "the code 'C101' is taken: subspect.checking.on_cues.OnBorder has it",
        ),
    ],
)
def test_what_is_no_check(study: Study, given: Any, says: str) -> None:
    with pytest.raises(SubspectError) as error:
        subspect.check(study, own_feature(study), checks=given)
    assert says in str(error.value)


PACKAGE = """
import subspect

class Third(subspect.Check):
    code, title, how, why = "Y001", "of a package", "how", "why"

    def find(self, about):
        return [self.found("found by a package", "do")]

def broken():
    raise RuntimeError
"""


def test_checks_of_installed_packages(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "third-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: third\nVersion: 1.0\n")
    (tmp_path / "third_of_findings.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)

    def entries(*lines: str) -> None:
        (about / "entry_points.txt").write_text("\n".join(("[subspect.checks]", *lines)))

    entries("third = third_of_findings:Third", "gone = no_such_module:Check", "odd = third_of_findings:broken")
    checked = own_feature(study).findings(ignore=["odd"])
    assert only(checked, "Y001").text == "found by a package"
    assert state(checked, "gone") == (
        "loading no_such_module:Check: it failed: ModuleNotFoundError: No module named 'no_such_module'"
    )
    assert checked.ignored == ("odd",) and "odd" not in checked.skipped
    wrong = state(own_feature(study).findings(), "odd")
    assert wrong == "loading third_of_findings:broken: a check must be a subspect.Check, got function"
    entries("third = third_of_findings:Third", "again = third_of_findings:Third")
    with pytest.raises(
        SubspectError, match="the code 'Y001' is taken: third_of_findings.Third has it, and third_of_findings"
    ):
        own_feature(study).findings()


def test_codes_to_ignore(study: Study) -> None:
    own = made(study, weights=(-2, -1, -1, *(2, 1, 1) * 2))
    assert state(own.findings(), "F204") == "found"
    assert (
        state(own.findings(ignore=["F204", "D402"]), "F204") == "ignored" == state(own.findings(ignore="F204"), "F204")
    )
    with pytest.raises(
        SubspectError, match=r"no check has the code 'F2O4' \(did you mean 'F204'.*\?\); there are C101, C102"
    ):
        own.findings(ignore=["F2O4"])
    with pytest.raises(SubspectError, match="no image set 'tset' in"):
        own.findings(on="tset")


def test_nothing_is_kept_quiet(study: Study) -> None:
    own = made(study, weights=(-2, -1, -1, *(2, 1, 1) * 2), trust=trust())
    checked = own.findings(ignore=["D403"])
    assert {*checked.codes, *checked.passed, *checked.skipped, *checked.ignored} == set(CODES) == set(checked.titles)
    first, rest = checked.tables()
    assert [str(cell) for cell in first.columns[0].cells] == [one.code for one in checked.found]
    told = dict(zip(*[[str(cell) for cell in rest.columns[place].cells] for place in (0, 2)], strict=True))
    assert (
        told["D403"] == "ignored" and told["D402"].startswith("skipped: name the network") and told["F202"] == "passed"
    )
    assert set(told) | set(checked.codes) == set(CODES)
    frame = checked.to_frame()
    assert set(frame["state"]) == {"found", "passed", "skipped", "ignored"} and set(frame["code"]) == set(CODES)
    [table] = own_feature(study).findings().tables()
    assert re.search(r"made in .*: nothing found, \d+ passed, \d+ skipped, 0 ignored", str(table.title))
    assert repr(checked).startswith("Checked(made in ")


def test_on_the_command_line(study: Study) -> None:
    subspect.decompose(study, 2, show_progress=False)
    line = f"check {study.path}"
    values = parsed(line)
    codes = [one["code"] for one in values["found"]]
    assert codes and set(values["titles"]) == set(CODES)
    assert values["skipped"]["D402"].startswith("name the network")
    shown = command(f"{line} --strict", code=1).stdout
    assert codes[0] in shown and "skipped: " in shown
    everything = " ".join(f"--ignore {code}" for code in dict.fromkeys(codes))
    assert "nothing found" in command(f"{line} --strict {everything}").stdout.replace("\n", " ")
    assert "no check has the code 'Z1'" in said(f"{line} --ignore Z1", 1)
    assert "made from features alone" in said(f"{line} --network python:nothing.py:make", 1)


def test_the_page(study: Study) -> None:
    """Each code stands in the table, and the check of one's own runs."""
    page = ROOT / "docs" / "findings.md"
    assert re.findall(r"^\| ([A-Z]\d{3}) \|", page.read_text(encoding="utf-8"), re.M) == CODES
    [code] = blocks(page, "python")
    names: dict[str, Any] = {"study": study, "decomposition": made(study, means=(0, 2, 2) * C)}
    exec(compile(code, "findings.md", "exec"), names)
    assert next(one.text for one in names["found"] if one.code == "X001") == "a has a silent feature"


def test_json_is_json(study: Study) -> None:
    own = made(study, trust=trust(stability=0.1, recovered=1), weights=(-2, -1, -1, *(2, 1, 1) * 2))
    with_cues(
        study, own, *(swapped(one, *MARGIN) for one in ("border", "centre", *CORNERS, "colour", "grain", "contrast"))
    )
    checked = own.findings()
    assert json.loads(json.dumps(checked.to_json(), allow_nan=False))["found"][0]["code"] == "C101"
    assert SimpleNamespace(**checked.to_json()).decomposition == "made"
