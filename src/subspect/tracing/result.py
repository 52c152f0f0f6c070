"""Which filters of each layer decide a class: the figures, and how they are shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from subspect.ground.errors import SubspectError, near, some
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.heads.feature_names import Names, names_json
from subspect.heads.names import class_index
from subspect.tracing import shown
from subspect.tracing.shares import holding, overlap, rank_correlation, specific

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]
Small = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
MADE_BY = 8  #: filters of a layer that are named as what makes a feature, at most


@dataclass(frozen=True, eq=False)
class AblatedFilters:
    """What closing single filters changes, by running the network.

    Attributes:
        channels: (p, c) filters that were closed, those of the largest effect first, then some of the others.
        effect: (p, c) mean magnitude of what the margin of each class's images changes by; NaN for a class without images.

    Example:
        >>> one = decomposition.filters(network, sample=20, repeats=0, show_progress=False).layers[0].ablated
        >>> one.channels.shape
        (4, 4)
    """

    channels: Indices
    effect: Small


@dataclass(frozen=True, eq=False)
class EssentialFilters:
    """How many images the decomposed network is right on with filters at their mean.

    Attributes:
        own: (c,) images of each class, with its own filters of the layer closed.
        random: (r, c) with as many of the layer's filters, drawn at random.

    Example:
        >>> one = decomposition.filters(network, sample=20, ablate=0, show_progress=False).layers[0].essential
        >>> one.random.shape
        (2, 4)
    """

    own: Indices
    random: Indices


@dataclass(frozen=True, eq=False)
class LayerFilters:
    """The filters of one layer: its channels, or hidden units.

    Attributes:
        name: of the layer.
        places: of its map, for one image.
        activated: whether filters are taken after an activation function.
        effect: (c, channels) mean magnitude, over a class's images, of what its margin would change by, to first order, with
            the filter at its mean.
        signed: (c, channels) the mean of that change itself: negative where the filter speaks for the class.
        by_feature: (f, channels) the same as ``effect``, of features, over images of the classes that have them.
        mean: (channels,) of each filter, over images and places.
        peaks: (m, channels) the largest means over places, descending; −inf where there are fewer images.
        images: (m, channels) positions in the sample of these images; −1 where there are fewer.
        ablated: what closing single filters changes; None where that wasn't measured.
        essential: what closing each class's filters costs; None where that wasn't measured.

    Example:
        >>> layer = decomposition.filters(network, sample=20, ablate=0, repeats=0, show_progress=False).layers[0]
        >>> layer.name, layer.effect.shape
        ('conv', (4, 256))
    """

    name: str
    places: int
    activated: bool
    effect: Small
    signed: Small
    by_feature: Small
    mean: Small
    peaks: Small
    images: Indices
    ablated: AblatedFilters | None = None
    essential: EssentialFilters | None = None

    @property
    def channels(self) -> int:
        """Number of filters."""
        return int(self.effect.shape[1])

    @property
    def rank_correlation(self) -> float:
        """Spearman's ρ of first-order effects and those of closing, over classes and filters; NaN where that is unknown."""
        if self.ablated is None:
            return float("nan")
        closed = self.ablated.effect
        first = np.take_along_axis(self.effect, self.ablated.channels.T, axis=1).T
        known = ~np.isnan(closed)
        return rank_correlation(first[known].tolist(), closed[known].tolist())


@dataclass(frozen=True)
class ClassFilter:
    """A filter that takes part in deciding a class.

    Attributes:
        channel: of the layer.
        share: of the class's effect in the layer.
        effect: mean magnitude of what the class's margin would change by without it, in logits.
        signed: the mean of that change.
    """

    channel: int
    share: float
    effect: float
    signed: float


@dataclass(frozen=True, eq=False)
class Filters(Result):
    """Which filters of each layer decide the classes of a decomposition.

    Attributes:
        decomposition: its name.
        class_names: of all classes.
        labels: the c classes that were looked at.
        features: the f features whose filters were looked for: of each class those that contribute most.
        of_class: class → which of these it has, the largest contribution first.
        layers: in the order in which they run.
        share: of a class's effect in a layer, which its filters hold.
        images: (c,) images of each class.
        closed_on: (c,) images of each class on which filters were closed.
        right: (c,) of these, how many the decomposed network is right on.
        ids: the images of the sample.
        of_images: their classes.
        image_set: that the images are of.
        note: on which images this was measured.
        sample: fingerprint of the images.
        made_by: fingerprint of the decomposed head.
        settings: "ablate", "ablate_sample" and "repeats", as they were asked for.
        feature_names: of the features that have one.

    Example:
        >>> found = decomposition.filters(network, sample=20, show_progress=False)
        >>> [layer.name for layer in found.layers]
        ['conv']
    """

    decomposition: str
    class_names: tuple[str, ...]
    labels: tuple[int, ...]
    features: tuple[int, ...]
    of_class: Mapping[int, tuple[int, ...]]
    layers: tuple[LayerFilters, ...]
    share: float
    images: Indices
    closed_on: Indices
    right: Indices
    ids: tuple[str, ...]
    of_images: tuple[int, ...]
    image_set: str
    note: str
    sample: str
    made_by: str
    settings: Mapping[str, int]
    feature_names: Names = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of the layers."""
        return [layer.name for layer in self.layers]

    def __getitem__(self, name: str) -> LayerFilters:
        """Return a layer by its name.

        Raises:
            SubspectError: it wasn't looked at.
        """
        return self.layers[self.place(name)]

    def place(self, name: str) -> int:
        """Return the number of a layer, from 0.

        Raises:
            SubspectError: it wasn't looked at.
        """
        if name not in self.names:
            raise SubspectError(
                f"no layer {name!r} was looked at{near(name, self.names)}; these were: {some(self.names, 20)}"
            )
        return self.names.index(name)

    def only(self, labels: Sequence[int]) -> Filters:
        """Return the same of some classes."""
        rows = [self.labels.index(label) for label in labels]
        layers = tuple(_only(layer, rows) for layer in self.layers)
        images, closed_on, right = (one[rows] for one in (self.images, self.closed_on, self.right))
        return replace(self, labels=tuple(labels), layers=layers, images=images, closed_on=closed_on, right=right)

    @cached_property
    def chosen(self) -> list[npt.NDArray[np.bool_]]:
        """For each layer (c, channels): the fewest filters that hold the share of each class's effect."""
        return [holding(layer.effect, self.share) for layer in self.layers]

    def row(self, label: int | str) -> int:
        """Return the row of a class, by its name or index.

        Raises:
            SubspectError: there is no such class, or it wasn't looked at.
        """
        index = class_index(label, self.class_names)
        if index not in self.labels:
            raise SubspectError(
                f"the filters of {self.class_names[index]!r} were not looked at; ask about it as well (classes=, --class), "
                f"or about one of these: {some((self.class_names[one] for one in self.labels), 10)}"
            )
        return self.labels.index(index)

    def of(self, label: int | str, layer: str) -> list[ClassFilter]:
        """Return a class's filters of a layer, those of the largest effect first.

        Raises:
            SubspectError: there is no such class or layer, or it wasn't looked at.
        """
        return self.of_row(self.row(label), self.place(layer))

    def of_row(self, row: int, place: int) -> list[ClassFilter]:
        """Return the filters of a layer, by the numbers of class and layer, those of the largest effect first."""
        layer = self.layers[place]
        effect = layer.effect[row]
        total = float(effect.sum(dtype=np.float64)) or 1.0
        found = np.flatnonzero(self.chosen[place][row])
        found = found[np.argsort(-effect[found], kind="stable")]
        return [
            ClassFilter(one, float(effect[one]) / total, float(effect[one]), float(layer.signed[row, one]))
            for one in found.tolist()
        ]

    def makes(self, feature: int, layer: str) -> list[int]:
        """Return the filters of a layer that make a feature: that hold the share of the effect on it, at most 8.

        Raises:
            SubspectError: the feature or the layer wasn't looked at.
        """
        if feature not in self.features:
            raise SubspectError(
                f"the filters behind feature {feature} were not looked for; take one of these: {some(self.features, 20)}"
            )
        effect = self[layer].by_feature[self.features.index(feature)]
        found = np.flatnonzero(holding(effect[None], self.share)[0])
        found = found[np.argsort(-effect[found], kind="stable")][:MADE_BY]
        return [int(one) for one in found]

    def paths(self, label: int | str) -> Iterator[tuple[int, dict[str, list[int]]]]:
        """Go from a class through its features to the filters that make them: feature, and layer → filters, the last first.

        Raises:
            SubspectError: there is no such class, or it wasn't looked at.
        """
        own = self.labels[self.row(label)]
        for feature in self.of_class.get(own, ()):
            yield feature, {name: self.makes(feature, name) for name in reversed(self.names)}

    @cached_property
    def by_depth(self) -> list[dict[str, float]]:
        """For each layer: channels; needed, mean over classes, and share of the channels; overlap, and by_chance; specific;
        rank_correlation; before, own, random: class accuracy as it is, without own and without random filters; gap.
        """
        return [self._figures(place) for place in range(len(self.layers))]

    def _figures(self, place: int) -> dict[str, float]:
        layer, chosen = self.layers[place], self.chosen[place]
        needed, (shared, chance) = float(chosen.sum(axis=1).mean()), overlap(chosen)
        before, own, random = (float(_mean(one)) for one in self.accuracies(place))
        return {
            "channels": layer.channels,
            "needed": needed,
            "share": needed / layer.channels,
            "overlap": shared,
            "by_chance": chance,
            "specific": specific(layer.effect),
            "rank_correlation": layer.rank_correlation,
            "before": before,
            "own": own,
            "random": random,
            "gap": random - own,
        }

    def accuracies(self, place: int) -> tuple[Array, Array, Array]:
        """Return (c,) class accuracies: as it is, and without the class's own and without random filters of a layer.

        They are NaN for classes without images, or where that wasn't measured.
        """
        known, one = self.closed_on > 0, self.layers[place].essential
        images = np.where(known, np.maximum(self.closed_on, 1), np.nan)
        if one is None:
            nothing = np.full(len(self.labels), np.nan)
            return nothing, nothing, nothing
        return self.right / images, one.own / images, one.random.mean(axis=0) / images

    @property
    def rank_correlation(self) -> float:
        """Spearman's ρ of first-order effects and those of closing filters, mean over layers; NaN where that is unknown."""
        return float(_mean(np.array([one["rank_correlation"] for one in self.by_depth])))

    def to_json(self) -> dict[str, Any]:
        """Return all figures of layers, and of each class its filters, as JSON values; NaN as None."""
        return {
            "decomposition": self.decomposition,
            "share": self.share,
            "rank_correlation": _json(self.rank_correlation),
            "layers": {
                name: {key: _json(value) for key, value in figures.items()}
                for name, figures in zip(self.names, self.by_depth, strict=True)
            },
            "classes": {
                self.class_names[label]: {
                    "images": int(self.images[row]),
                    "filters": {name: _filters_json(self.of_row(row, at)) for at, name in enumerate(self.names)},
                    "features": {
                        str(feature): {name: made for name, made in layers.items() if made}
                        for feature, layers in self.paths(label)
                    },
                }
                for row, label in enumerate(self.labels)
            },
            "note": self.note,
            "feature_names": names_json(self.feature_names),
        }

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each filter of each class and layer."""
        return [
            {
                "class": self.class_names[label],
                "layer": name,
                "filter": one.channel,
                "share": one.share,
                "effect": one.effect,
                "signed": one.signed,
            }
            for row, label in enumerate(self.labels)
            for place, name in enumerate(self.names)
            for one in self.of_row(row, place)
        ]

    def tables(self) -> list[Table]:
        """Return a table for the terminal: a row for each layer."""
        return [shown.by_depth(self)]

    def class_tables(self, label: int | str) -> list[Table]:
        """Return tables of one class, by name or index: its filters in each layer, and the way through its features to them.

        Raises:
            SubspectError: there is no such class, or it wasn't looked at.
        """
        return shown.of_class(self, self.row(label))

    def plot(self) -> Figure:
        """Draw against depth: the share of filters that classes need, how much they share them, and how essential they are."""
        return shown.figure(self)


def _only(layer: LayerFilters, rows: list[int]) -> LayerFilters:
    ablated, essential = layer.ablated, layer.essential
    return replace(
        layer,
        effect=layer.effect[rows],
        signed=layer.signed[rows],
        ablated=ablated and AblatedFilters(ablated.channels[:, rows], ablated.effect[:, rows]),
        essential=essential and EssentialFilters(essential.own[rows], essential.random[:, rows]),
    )


def _filters_json(found: Sequence[ClassFilter]) -> list[dict[str, Any]]:
    return [{"filter": one.channel, "share": one.share, "effect": one.effect, "signed": one.signed} for one in found]


def _mean(values: npt.NDArray[np.floating]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _json(value: float) -> float | None:
    return None if np.isnan(value) else value
