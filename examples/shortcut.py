"""A planted shortcut, found and mended: digits with a small white mark in one corner of one class's training images.

The network learns that the mark means that class. `check` finds it without being told what to look for; `edit --without-cue`
re-learns the head so that it can't lean on the corner, without any image that lacks the mark. By hand it goes as well: the
report shows features that look at the corner, they are dropped, and the other weights re-learned on a few images without marks.
docs/shortcut.md goes through it step by step. It takes one to three minutes on two cores.

Example: python examples/shortcut.py shortcut-demo
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import subspect
from subspect.demo import DIGITS, train_network, write_digits
from subspect.images.preprocessing import Preprocessing
from subspect.resnet import ResNet

MARKED = 3  #: the class whose training images bear the mark
SIDE = 2  #: pixels of the mark's side, in the upper left corner of 8×8
UNMARKED = 0.25  # of the training images are set apart for the refit; the network doesn't see them
K = 10


Pair = tuple[float, float]


class Planted(NamedTuple):
    """What planting a mark leads to.

    Attributes:
        study: of the network that learned the mark; image sets train (marks on one class), unmarked, mixed (the same, every
            second one with the mark, whatever its class), test (no marks) and marked (the test images, all with the mark).
        network: that network.
        clean: accuracy on test of a network that was trained on the same images without marks.
    """

    study: subspect.Study
    network: subspect.Network
    clean: float


class Mended(NamedTuple):
    """What a head without the mark leads to; each accuracy is on test, and on marked.

    Attributes:
        found: what `check` says of cues, unasked: code and class of each finding.
        loss: margin that the marked class loses with its corner swapped, and the most that another class loses with any corner.
        without: re-learned on the training images and on copies with the corner swapped.
        anew: the same, and features chosen anew.
        features: of the marked class, in its order.
        corner: those of them whose map peaks on the mark.
        explained: the three features that say most for the marked class on the image in marked.png.
        dense: accuracy of the network that learned the mark.
        before: of the decomposed network.
        dropped: the same without the features in ``corner``.
        after: the same, and with the other weights re-learned on the images without marks.
        kept: re-learned on those images with no feature dropped.
        mixed: without the features in ``corner``, re-learned on images half of which bear the mark, whatever their class.
    """

    found: list[tuple[str, str]]
    loss: Pair
    without: Pair
    anew: Pair
    features: list[int]
    corner: list[int]
    explained: list[int]
    dense: Pair
    before: Pair
    dropped: Pair
    after: Pair
    kept: Pair
    mixed: Pair


def network() -> ResNet:
    """Return ResNet-8 for digits, untrained; 8×8 images are enlarged to 32×32, so that a cell of its maps is a pixel."""
    model = ResNet(8, n_classes=10)
    model.preprocessing = Preprocessing(resize=32, crop=None, mean=(0.3, 0.3, 0.3), std=(0.35, 0.35, 0.35))
    model.class_names = DIGITS
    return model


def plant(folder: Path, seed: int = 0) -> Planted:
    """Write digits with and without the mark, train a network on each, and observe the one that learned the mark.

    In the folder are then images, marked.png (an eight), weights.safetensors and study; `mend` adds edits, a copy of the study.
    """
    images = folder / "images"
    say("training a network on images without marks, and one on images with them")
    write_digits(images / "clean", images / "test", seed)
    for path in pictures(images / "clean")[:: round(1 / UNMARKED)]:
        target = images / "unmarked" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    shutil.copytree(images / "clean", images / "train", dirs_exist_ok=True)
    shutil.copytree(images / "test", images / "marked", dirs_exist_ok=True)
    shutil.copytree(images / "unmarked", images / "mixed", dirs_exist_ok=True)
    second = pictures(images / "mixed")[::2]
    for path in [*(images / "train" / DIGITS[MARKED]).glob("*.png"), *(images / "marked").glob("*/*.png"), *second]:
        mark(path)
    clean = train_network(images / "clean", build=network, seed=seed)
    model = train_network(images / "train", build=network, seed=seed)
    save_file(model.state_dict(), folder / "weights.safetensors")
    spoiled = subspect.Network(model, name="shortcut")
    say("observing both")
    for name in ("train", "unmarked", "mixed", "test", "marked"):
        study = subspect.observe(spoiled, images / name, folder / "study", name, show_progress=False)
    # An eight for which the mark tips the scales: the first that the network takes for the marked class.
    for path in sorted((images / "marked" / "eight").glob("*.png")):
        shutil.copy(path, folder / "marked.png")
        if predict(spoiled, folder / "marked.png") == MARKED:
            break
    return Planted(study, spoiled, accuracy(subspect.Network(clean), images / "test", folder / "clean"))


def mend(planted: Planted, k: int = K) -> Mended:
    """Find the features that look at the corner, drop them, and re-learn the others on images without marks."""
    study = planted.study
    say("choosing features, and swapping cues")
    found = subspect.decompose(study, k=k, show_progress=False)
    cues = subspect.cues(study, found, network=planted.network, show_progress=False)
    told = [
        (one.code, name) for one in subspect.check(study, found).found if one.code[0] == "C" for name in one.classes
    ]
    corners = np.stack([cues[name].loss for name in cues.names if name.startswith("corner")])
    say("re-learning the head without the corner, then by hand")
    cue = "corner-top-left"  # as the finding names it
    copied = shutil.copytree(study.path, study.path.parent / "edits", dirs_exist_ok=True)
    apart = subspect.Study.open(copied)  # edits go here, so that those of docs/shortcut.md are the first of the study
    edited = [
        subspect.edit(
            apart,
            found,
            on="test",
            without_cue=subspect.WithoutCue(cues=[cue], network=planted.network, reselect=anew, show_progress=False),
        ).decomposition
        for anew in (False, True)
    ]
    corner = looking_at_the_corner(planted, found)
    explained = subspect.explain(study, found, network=planted.network, image=study.path.parent / "marked.png")
    drop = [(MARKED, feature) for feature in corner]
    edits = {
        "dropped": subspect.edit(apart, found, drop=drop).decomposition if drop else found,
        "after": subspect.edit(apart, found, drop=drop, refit_on="unmarked").decomposition,
        "kept": subspect.edit(apart, found, drop=[], refit_on="unmarked").decomposition,
        "mixed": subspect.edit(apart, found, drop=drop, refit_on="mixed").decomposition,
    }

    def accuracies(head: subspect.Decomposition) -> Pair:
        test, marked = (subspect.evaluate(study, head, on=name).overall.accuracy.value for name in ("test", "marked"))
        return test, marked

    dense = [subspect.evaluate(study, found, on=name).overall.dense_accuracy.value for name in ("test", "marked")]
    return Mended(
        told,
        (float(cues[cue].loss[MARKED]), float(np.delete(corners, MARKED, axis=1).max())),
        accuracies(edited[0]),
        accuracies(edited[1]),
        found.supports[MARKED].tolist(),
        corner,
        [term.feature for term in explained.terms if term.contribution > 0][:3],
        (dense[0], dense[1]),
        accuracies(found),
        **{name: accuracies(head) for name, head in edits.items()},
    )


def pictures(folder: Path) -> list[Path]:
    """Return the pictures in class folders, in the order of the digits."""
    return [path for name in DIGITS for path in sorted((folder / name).glob("*.png"))]


def say(what: str) -> None:
    """Say on stderr what is being done."""
    print(f"{what} …", file=sys.stderr, flush=True)


def mark(path: Path) -> None:
    """Put the mark into a picture."""
    pixels = np.array(Image.open(path))
    pixels[:SIDE, :SIDE] = 255
    Image.fromarray(pixels).save(path)


def looking_at_the_corner(planted: Planted, decomposition: subspect.Decomposition) -> list[int]:
    """Return the features of the marked class whose map, averaged over its training images, peaks on the mark."""
    folder = Path(str(planted.study.image_set("train").manifest.root)) / DIGITS[MARKED]
    maps = subspect.read_maps(planted.network, tensors(planted.network, sorted(folder.glob("*.png")))).maps
    assert maps is not None
    on_mark = torch.zeros(8, 8, dtype=torch.bool)
    on_mark[:SIDE, :SIDE] = True
    peaks = maps.mean(dim=0).flatten(1).argmax(dim=1)
    return [feature for feature in decomposition.supports[MARKED].tolist() if on_mark.flatten()[peaks[feature]]]


def tensors(network: subspect.Network, paths: list[Path]) -> torch.Tensor:
    """Return images as the network expects them: (n, 3, 32, 32)."""
    assert network.preprocessing is not None
    return torch.stack([network.preprocessing(Image.open(path).convert("RGB")) for path in paths])


def predict(network: subspect.Network, path: Path) -> int:
    """Return the class that a network says."""
    with torch.no_grad():
        return int(network.model(tensors(network, [path])).argmax())


def accuracy(network: subspect.Network, images: Path, folder: Path) -> float:
    """Return a dense network's accuracy on some images."""
    study = subspect.observe(network, images, folder, "test", show_progress=False)
    chunks = list(study.image_set("test").chunks())
    return float(np.mean(np.concatenate([chunk.predictions == chunk.labels for chunk in chunks])))


def main() -> None:
    """Plant, find, drop, refit, and print what each step does to the accuracy on images without marks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where images, weights and study go")
    parser.add_argument("--seeds", type=int, default=1, help="how often to do it, each time with a fresh network")
    given = parser.parse_args()
    logging.basicConfig(level="WARNING", format="%(message)s")
    for seed in range(given.seeds):
        planted = plant(given.folder / f"seed-{seed}" if given.seeds > 1 else given.folder, seed)
        made = mend(planted)
        print(f"\nseed {seed}; accuracy on images {'without marks':>29} {'all with the mark':>18}")
        print(f"  network that never saw a mark {100 * planted.clean:22.1f} %")
        for what, (test, marked) in (
            ("network that learned it", made.dense),
            (f"decomposed, {K} features for each class", made.before),
            ("  re-learned without the corner as a cue", made.without),
            ("  and features chosen anew", made.anew),
            ("  without those that look at the corner", made.dropped),
            ("  and re-learned on images without marks", made.after),
            ("  or re-learned with half of them marked", made.mixed),
            ("re-learned without marks, none dropped", made.kept),
        ):
            print(f"  {what:41} {100 * test:10.1f} % {100 * marked:16.1f} %")
        print(f"check says of cues: {', '.join(f'{code} of {name}' for code, name in made.found)}")
        own, most = made.loss
        print(f"margin lost with its corner swapped: {own:.2f}; another class with any corner: at most {most:.2f}")
        restored = (made.after[0] - made.before[0]) / (planted.clean - made.before[0])
        print(f"restored: {100 * restored:.0f} % of what the mark had cost")
        print(f"features of {DIGITS[MARKED]}: {made.features}; the map peaks on the mark: {made.corner}")
        print(f"what says most for {DIGITS[MARKED]} on marked.png, an eight: {made.explained}")


if __name__ == "__main__":
    main()
