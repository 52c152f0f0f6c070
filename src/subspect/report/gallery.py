"""The images behind the features: those that activate each most, with the place where it is active laid over.

Which images those are is found in one pass over the stored features; only they are opened again, once each, and, where the
network is at hand, run through it for their maps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from math import isclose

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from subspect.ground.errors import NoPicture, shortened, some
from subspect.ground.pictures import data_uri, fit, jpeg_uri, lay_over
from subspect.ground.progress import progress
from subspect.ground.text import counted
from subspect.heads.decomposition import Decomposition
from subspect.images.opening import ImageSource
from subspect.images.preprocessing import GIVEN_AS_TENSORS
from subspect.images.sources import Images
from subspect.networks.maps import Read, read_maps
from subspect.networks.network import Network
from subspect.report.again import by_size, opened_again
from subspect.report.places import in_words, ninths
from subspect.statistics.largest import TopImages
from subspect.studies.image_set import ImageSet
from subspect.studies.reopen import Reopened, open_again
from subspect.studies.same_network import head_of, not_as_observed, same_network
from subspect.studies.study import Study
from subspect.studies.summed import Sums, summed
from subspect.studies.written import is_link

log = logging.getLogger("subspect")

SHOWN = 6  #: images in a strip
SIDE = 64  #: pixels of a picture's long side
_SAME = {"rel_tol": 0.01, "abs_tol": 0.01}  # of a feature: on another device it differs by rounding
_BELOW, _BEGUN = 30, 10  # letters of a class below a picture, and how many of them from its beginning
_LETTERS = 300  # of a text that is shown
_Rows = list[tuple[str, int, float]]  # id, class and value


@dataclass(frozen=True)
class Shot:
    """One image in the strip of a feature.

    Attributes:
        data: the picture as a data URI; empty where it couldn't be read again.
        id: of the image.
        label: its class name.
        value: of the feature.
        text: what the example says, where that is kept instead of a picture.
        link: where it is, likewise.
    """

    data: str
    id: str
    label: str
    value: float
    text: str = ""
    link: str = ""

    @property
    def caption(self) -> str:
        """Class, id and value."""
        return f"{self.label}, {self.id}: {self.value:.3g}"

    @property
    def short(self) -> str:
        """The class, of a long name its beginning and its end: what is below the picture."""
        return self.label if len(self.label) <= _BELOW else f"{self.label[:_BEGUN]}…{self.label[_BEGUN + 1 - _BELOW :]}"


@dataclass(frozen=True)
class Gallery:
    """The strips of images, and a sentence that says what they are.

    Attributes:
        features: feature → the images that activate it most, over all classes.
        inside: (class, feature) → the same among the images of the class.
        outside: (class, feature) → the same among all others.
        remark: which images these are, and what is missing.
        written: whether they are texts and links, not pictures.
        places: (class, feature) → where in the images of the class the feature is active, in words; class −1 for all images.
    """

    features: Mapping[int, Sequence[Shot]]
    inside: Mapping[tuple[int, int], Sequence[Shot]]
    outside: Mapping[tuple[int, int], Sequence[Shot]]
    remark: str
    written: bool = False
    places: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.features)


LEFT_OUT = Gallery({}, {}, {}, "Images and texts were left out.")  #: by whoever asked for it


def gallery_of(
    study: Study,
    decomposition: Decomposition,
    network: Network | None,
    source: ImageSource | None,
    show_progress: bool,
    labels: Sequence[int] | None = None,
) -> Gallery:
    """Find the images behind every feature, and draw them.

    Args:
        study: where the features are stored.
        decomposition: whose features are shown.
        network: that was observed; without it there are no maps.
        source: the images, where they were in memory, or have been moved since.
        show_progress: whether to draw a progress bar.
        labels: the classes whose images are wanted, and nothing over all classes; all, and that, unless given.
    """
    image_set = study.image_set(decomposition.chosen_on[0])
    opened = open_again(source, image_set)
    if study.identity.features_alone:
        return _written(image_set, decomposition, labels)
    whole = summed(image_set)
    kept = {} if whole is None else {id: jpeg_uri(data) for id, data in whole.thumbnails.items()}
    if opened is None and image_set.manifest.root is None and not kept:
        if_any = " if they are pictures" if dict(study.identity.preprocessing) == GIVEN_AS_TENSORS else ""
        remark = (
            f"The images of {image_set.name!r} were in memory ({image_set.manifest.kind}), so there are none to show; from "
            f"Python, pass them to write_report(images=…){if_any}."
        )
        return Gallery({}, {}, {}, remark)
    strips = _strips(image_set, decomposition, labels, whole)
    drawn = _Drawn("the report was made without the network" if network is None else "")
    wanted: dict[str, dict[int, float]] = {}
    for (_, feature, _), rows in strips.items():
        for id, _, value in rows:
            wanted.setdefault(id, {})[feature] = value
    again = Reopened(image_set, sorted(wanted), opened, None if whole is None else whole.digests)
    try:
        with progress("report", len(wanted), "images", show=show_progress) as advance:
            for id, picture, read in _pictures(again, study, network, drawn.missing):
                drawn.add(id, wanted[id], picture, read)
                advance(1)
    except NoPicture as error:  # a network's inputs are all of one shape
        return Gallery({}, {}, {}, f"There are no pictures of {image_set.name!r} to show: {error}.")
    names = decomposition.class_names

    def shot(feature: int, id: str, label: int, value: float) -> Shot:
        return Shot(drawn.pictures.get((id, feature)) or kept.get(id, ""), id, names[label], value)

    grey = {id: why for id, why in drawn.missing.items() if id not in kept}
    remark = _remark(image_set, drawn.no_maps, grey, opened, whole is not None, len(drawn.missing) - len(grey))
    for text, do in not_as_observed(again, image_set.name, drawn.others, drawn.read):
        log.warning("report: %s; %s", text, do)
        remark += f" {text[0].upper()}{text[1:]}."
    places = {
        (label, feature): said
        for (label, feature, kind), rows in strips.items()
        if kind != "outside"
        and (said := in_words([drawn.where[id, feature] for id, _, _ in rows if (id, feature) in drawn.where]))
    }
    return Gallery(*_arranged(strips, shot), remark, places=places)


def _written(image_set: ImageSet, decomposition: Decomposition, labels: Sequence[int] | None) -> Gallery:
    """Return the texts and links of examples that there are no pictures of; of those that have the feature at all."""
    strips = {key: [row for row in rows if row[2]] for key, rows in _strips(image_set, decomposition, labels).items()}
    wanted, found = {id for rows in strips.values() for id, _, _ in rows}, dict[str, tuple[str, str]]()
    for chunk in image_set.chunks():
        for id, text, link in zip_longest(chunk.ids, chunk.texts, chunk.links):
            if id in wanted and (text or link):
                found[id] = (
                    shortened(text or "", _LETTERS),
                    link if link and is_link(link) else "",
                )  # not another's script
    if not found:
        remark = "The study was made from features alone, without images or texts, so there are none to show."
        return Gallery({}, {}, {}, remark)
    names = decomposition.class_names

    def shot(feature: int, id: str, label: int, value: float) -> Shot:
        return Shot("", id, names[label], value, *found.get(id, ()))

    remark = (
        f"Examples of {image_set.name!r} that activate a feature most, each with its class and the feature's value."
    )
    if not image_set.labelled:
        remark += " There are no labels: the class is the head's own prediction."
    return Gallery(*_arranged(strips, shot), remark, written=True)


def _arranged(
    strips: Mapping[tuple[int, int, str], _Rows], shot: Callable[[int, str, int, float], Shot]
) -> tuple[dict[int, list[Shot]], dict[tuple[int, int], list[Shot]], dict[tuple[int, int], list[Shot]]]:
    """Return the strips over all classes, in the class and outside it, as a gallery has them."""
    shots = {key: [shot(key[1], *row) for row in rows] for key, rows in strips.items()}
    of: dict[str, dict[tuple[int, int], list[Shot]]] = {"all": {}, "inside": {}, "outside": {}}
    for (label, feature, kind), strip in shots.items():
        of[kind][label, feature] = strip
    return {feature: strip for (_, feature), strip in of["all"].items()}, of["inside"], of["outside"]


@dataclass
class _Drawn:
    """What was drawn so far: why there are no maps; (id, feature) → picture, and in which ninths of it the feature is active;
    reasons by id of what couldn't be read; ids of images with other features, of how many that the network read.
    """

    no_maps: str
    pictures: dict[tuple[str, int], str] = field(default_factory=dict)
    where: dict[tuple[str, int], npt.NDArray[np.float64]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    read: int = 0

    def add(self, id: str, values: Mapping[int, float], picture: Image.Image, read: Read | None) -> None:
        """Draw an image for each of its features, whose stored values tell whether it is the image that was observed."""
        self.read += read is not None
        if read is not None and not all(
            isclose(float(read.features[one]), value, **_SAME) for one, value in values.items()
        ):
            self.others.append(id)
        small = fit(picture, SIDE)
        maps = None if read is None or read.maps is None else read.maps.cpu().numpy()
        if read is not None and maps is None:
            self.no_maps = read.reason
        plain = data_uri(small) if maps is None else ""
        for feature in values:
            self.pictures[id, feature] = plain if maps is None else data_uri(lay_over(small, maps[feature]))
            if maps is not None:
                self.where[id, feature] = ninths(maps[feature])


_Shown = tuple[str, Image.Image, Read | None]


def _strips(
    image_set: ImageSet, decomposition: Decomposition, labels: Sequence[int] | None, whole: Sums | None = None
) -> dict[tuple[int, int, str], _Rows]:
    """Return (class, feature, kind) → id, class and value of each image, by one pass; kind "all" has class −1.

    Those of kind "all" are of all images, where there are statistics of these.
    """
    supports, unseen = decomposition.supports, set(decomposition.unseen)
    wanted = range(len(supports)) if labels is None else labels
    kept = [label for label in wanted if label not in unseen and len(supports[label])]
    every = kept if labels is None else []
    used = np.unique(np.concatenate([supports[label] for label in every])) if every else np.empty(0, np.int64)
    everywhere = TopImages(len(used), SHOWN)
    near = {(label, kind): TopImages(len(supports[label]), SHOWN) for label in kept for kind in ("inside", "outside")}
    for chunk in image_set.chunks():
        features, ids = np.asarray(chunk.features), np.array(chunk.ids, object)
        if len(used):
            everywhere.update(features[:, used], chunk.labels, chunk.ids)
        for label in kept:
            own = chunk.labels == label
            mine = features[:, supports[label]]
            for kind, rows in (("inside", own), ("outside", ~own)):
                top = near[label, kind]
                rows = np.flatnonzero(rows & (mine > top.values[-1]).any(axis=1))  # the others change nothing
                if len(rows):
                    top.update(mine[rows], chunk.labels[rows], ids[rows].tolist())
    strips = {
        (-1, feature, "all"): _rows(everywhere, column) if whole is None else _rows(whole.images, feature)[:SHOWN]
        for column, feature in enumerate(used.tolist())
    }
    for (label, kind), top in near.items():
        for column, feature in enumerate(supports[label].tolist()):
            strips[label, feature, kind] = _rows(top, column)
    return strips


def _rows(top: TopImages, column: int) -> _Rows:
    columns = top.ids[:, column].tolist(), top.labels[:, column].tolist(), top.values[:, column].tolist()
    return [row for row in zip(*columns, strict=True) if row[1] >= 0]


def _pictures(again: Reopened, study: Study, network: Network | None, missing: dict[str, str]) -> Iterator[_Shown]:
    """Open images; with a network also return what it sees of each and what it makes of it, without the axis of the batch.

    Raises:
        NoPicture: the images are such that there is nothing to look at.
    """
    network = same_network(study, network) if network is not None else None
    for shown, pixels in opened_again(again, network.preprocessing if network is not None else None, missing):
        if network is None or len(pixels) < len(shown):
            yield from ((id, picture, None) for id, picture in shown)
        else:
            yield from _with_maps(network, shown, pixels)


def _with_maps(network: Network, shown: list[tuple[str, Image.Image]], pixels: list[torch.Tensor]) -> Iterator[_Shown]:
    """Run images through the network, those of one size together."""
    for places, batch in by_size(pixels):
        head_of(network, batch)
        read = read_maps(network, batch)
        for row, place in enumerate(places):
            maps = None if read.maps is None else read.maps[row]
            yield *shown[place], Read(read.features[row].cpu(), read.logits[row], maps, read.reason)


def _remark(
    image_set: ImageSet, no_maps: str, missing: dict[str, str], opened: Images | None, whole: bool, kept: int
) -> str:
    remark = f"Images of {image_set.name!r} that activate a feature most."
    if whole and (sample := image_set.manifest.of_all()):
        remark += f" Those over all classes are of all that were observed, those in a class and outside it of {sample}."
    if kept:
        remark += f" {kept:,} are shown by the thumbnails that the study keeps, since they could not be read again."
    if no_maps:
        remark += f" Where in the image a feature is active is not shown: {no_maps}."
    else:
        remark += " Amber: where in the image the feature is active."
    if not image_set.labelled:
        remark += " There are no labels: the class is the network's own prediction."
    if missing:
        place = image_set.manifest.root if opened is None else opened.place
        log.warning(
            "report: %s could not be read again from %s: %s; %s",
            counted(len(missing), "image", "images"),
            place or ("memory" if opened is None else "the images given"),
            some((f"{id} ({why})" for id, why in sorted(missing.items())), 3),
            "if they were moved, say where they are: --images FOLDER"
            if place is not None
            else "give those that were observed",
        )
        are = counted(len(missing), "image could not be read again and is", "images could not be read again and are")
        remark += f" {are} left grey: {some(sorted(missing), 3)}."
    return remark
