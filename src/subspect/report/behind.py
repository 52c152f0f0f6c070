"""What the report says of filters: those that decide each class in a few layers, with images, and what makes each feature.

Which filters those are is what the study keeps (`subspect.tracing`). Shown are the layers where maps grow smaller, the last of
each size, for there a layer's filters have seen all that the stage makes of an image.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from subspect.ground.errors import NoPicture
from subspect.ground.pictures import data_uri, fit, lay_over
from subspect.ground.progress import progress
from subspect.heads.decomposition import Decomposition
from subspect.images.opening import ImageSource
from subspect.networks.gates import Gates, Layer
from subspect.networks.network import Network
from subspect.report.again import by_size, opened_again
from subspect.report.gallery import SIDE, Shot
from subspect.report.places import EVERYWHERE, in_words, ninths
from subspect.studies.reopen import Reopened, open_again
from subspect.studies.same_network import head_of, same_network
from subspect.studies.study import Study
from subspect.tracing.result import Filters
from subspect.tracing.shown import made_by
from subspect.tracing.stored import kept_filters

log = logging.getLogger("subspect")

LAYERS, _FILTERS, _IMAGES = 3, 3, 4  # shown of a class: layers, filters of each, and images of each of those
Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Strip:
    """A filter of a class, with the images that activate it most.

    Attributes:
        channel: of its layer.
        share: of the class's effect in the layer.
        speaks_for: whether the class's margin falls without it.
        shots: the images.
        place: where in them it is active, in words.
    """

    channel: int
    share: float
    speaks_for: bool
    shots: Sequence[Shot]
    place: str


@dataclass(frozen=True, eq=False)
class Behind:
    """The filters behind classes and features.

    Attributes:
        filters: that are kept of the decomposition.
        shown: the layers whose filters are shown, the last first.
        shots: layer and channel → the images that activate a filter most.
        places: layer and channel → where in them it is active, in words.
    """

    filters: Filters
    shown: Sequence[str]
    shots: Mapping[tuple[str, int], Sequence[Shot]] = field(default_factory=dict)
    places: Mapping[tuple[str, int], str] = field(default_factory=dict)

    def of_class(self, label: int) -> Iterator[tuple[str, str, list[Strip]]]:
        """Go through the layers shown: name, how many filters of how many, and the first of them."""
        if label not in self.filters.labels:
            return
        row = self.filters.row(label)
        for name in self.shown:
            place = self.filters.place(name)
            own = self.filters.of_row(row, place)
            strips = [
                Strip(
                    one.channel,
                    one.share,
                    one.signed <= 0,
                    self.shots.get((name, one.channel), ()),
                    self.places.get((name, one.channel), ""),
                )
                for one in own[:_FILTERS]
            ]
            if strips:
                yield name, f"{len(own)} of {self.filters.layers[place].channels:,}", strips

    def makes(self, feature: int) -> str:
        """Say which filters make a feature, in the last layers that do; nothing where they weren't looked for."""
        if feature not in self.filters.features:
            return ""
        return made_by({name: self.filters.makes(feature, name) for name in reversed(self.filters.names)})


def behind_of(
    study: Study,
    decomposition: Decomposition,
    network: Network | None,
    source: ImageSource | None,
    show_images: bool,
    show_progress: bool,
) -> Behind | None:
    """Read which filters decide, and draw images of those that are shown; None where the study keeps none of this head.

    Args:
        study: where they are kept.
        decomposition: whose classes they decide.
        network: that was observed; without it there are no pictures.
        source: the images, where they were in memory, or have been moved since.
        show_images: whether to draw any.
        show_progress: whether to draw a progress bar.

    Raises:
        SubspectError: the file of filters is damaged.
    """
    found = kept_filters(study, decomposition)
    if found is None:
        return None
    made = Behind(found, stages(found))
    if network is None or not show_images:
        return made
    wanted = _wanted(made)
    ids = sorted({id for rows in wanted.values() for id, _, _ in rows})
    image_set = study.image_set(found.image_set)
    opened = open_again(source, image_set)
    if opened is None and image_set.manifest.root is None:
        return made
    drawn = _Drawn(same_network(study, network), wanted)
    try:
        with progress("filters", len(ids), "images", show=show_progress) as advance:
            for shown, pixels in opened_again(
                Reopened(image_set, ids, opened), drawn.network.preprocessing, drawn.missing
            ):
                drawn.add(shown, pixels)
                advance(len(shown))
    except NoPicture:  # which the gallery says
        return made
    return Behind(found, made.shown, drawn.shots(decomposition.class_names), drawn.places())


def stages(found: Filters) -> list[str]:
    """Return the last layer of each size of map, at most three, the last first."""
    places = [layer.places for layer in found.layers]
    last = [at for at, size in enumerate(places) if at + 1 == len(places) or places[at + 1] != size]
    return [found.names[at] for at in reversed(last)][:LAYERS]


_Rows = list[tuple[str, int, float]]  # id, class and how active the filter is


def _wanted(behind: Behind) -> dict[tuple[str, int], _Rows]:
    """Return layer and channel → the images that activate the filters that are shown most."""
    found, wanted = behind.filters, dict[tuple[str, int], _Rows]()
    for label in found.labels:
        for name, _, strips in behind.of_class(label):
            layer = found[name]
            for one in strips:
                rows = zip(layer.images[:_IMAGES, one.channel], layer.peaks[:_IMAGES, one.channel], strict=True)
                wanted[name, one.channel] = [
                    (found.ids[at], found.of_images[at], float(level)) for at, level in rows if at >= 0
                ]
    return wanted


class _Drawn:
    """What was drawn so far: (id, layer, channel) → picture, and in which ninths of it the filter is active."""

    def __init__(self, network: Network, wanted: Mapping[tuple[str, int], _Rows]) -> None:
        self.network, self.wanted = network, wanted
        self.missing: dict[str, str] = {}
        self.pictures: dict[tuple[str, str, int], str] = {}
        self.where: dict[tuple[str, str, int], npt.NDArray[np.float64]] = {}
        self.of: dict[str, list[tuple[str, int]]] = {}  # id → filters
        for key, rows in wanted.items():
            for id, _, _ in rows:
                self.of.setdefault(id, []).append(key)

    def add(self, shown: list[tuple[str, Image.Image]], pixels: list[torch.Tensor]) -> None:
        """Draw some images, each for the filters that it activates."""
        for places, batch in by_size(pixels) if len(pixels) == len(shown) else ():
            maps = self._maps(batch)
            for row, place in enumerate(places):
                id, picture = shown[place]
                small = fit(picture, SIDE)
                for name, channel in self.of[id]:
                    map = maps.get(name)
                    self._draw(id, name, channel, small, None if map is None else map[row, channel])

    def _draw(self, id: str, name: str, channel: int, small: Image.Image, map: Map | None) -> None:
        key = id, name, channel
        self.pictures[key] = data_uri(small if map is None else lay_over(small, map))
        if map is not None:
            self.where[key] = ninths(map)

    def _maps(self, batch: torch.Tensor) -> dict[str, Map]:
        """Return layer → (n, channels, height, width) of the layers that are shown and have such maps."""
        head_of(self.network, batch)
        gates, found = Gates(self.network, batch), dict[str, Map]()
        layers = {layer.name: layer for layer in gates.layers}

        def visit(name: str, activations: Tensor) -> Tensor:
            if activations.ndim == 4:
                found[name] = _upright(layers[name], activations).float().cpu().numpy()
            return activations

        names = {name for name, _ in self.wanted} & set(layers)
        with self.network.running(), gates.visiting(visit, names):
            gates.features(batch)
        return found

    def shots(self, names: Sequence[str]) -> dict[tuple[str, int], list[Shot]]:
        """Return layer and channel → the images, as strips have them."""
        return {
            key: [Shot(self.pictures.get((id, *key), ""), id, names[label], level) for id, label, level in rows]
            for key, rows in self.wanted.items()
        }

    def places(self) -> dict[tuple[str, int], str]:
        """Return layer and channel → where in the images the filter is active, in words, if that is not everywhere."""
        return {
            key: said
            for key, rows in self.wanted.items()
            if (said := in_words([self.where[id, *key] for id, _, _ in rows if (id, *key) in self.where])) != EVERYWHERE
        }


def _upright(layer: Layer, activations: Tensor) -> Tensor:
    return activations.movedim(-1, 1) if layer.last else activations
