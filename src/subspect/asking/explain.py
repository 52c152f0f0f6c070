"""One image: why this class and not that one.

A decomposed logit is a sum over few features, so the difference of two of them is one as well: feature i says
``(W[a, i] − W[b, i]) · x[i]`` for class a against class b, and the difference of the biases is a term of its own. The terms
add up to the difference of the logits, nothing is left over.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from markupsafe import Markup
from PIL import Image

from subspect.asking.neighbours import NEAREST, Neighbour, label_of, nearest
from subspect.asking.one_image import one_image, read_one
from subspect.ground.drawing import COLOURS, as_label, drawing, escaped, picture_of
from subspect.ground.errors import SubspectError
from subspect.ground.files import atomic, make_folder
from subspect.ground.pictures import enlarged, lay_over
from subspect.ground.results import Result
from subspect.ground.showing import STYLE, table_html
from subspect.ground.tables import Table
from subspect.ground.text import legible
from subspect.heads.decomposition import Decomposition
from subspect.heads.feature_names import Names, columns, names_json, occurring, shown
from subspect.heads.terms import Term, terms
from subspect.networks.network import Network
from subspect.studies.decompositions import DecompositionLike, opened
from subspect.studies.same_network import same_network
from subspect.studies.study import StudyLike
from subspect.swapping.moved import Losses, Moves, kept_losses, kept_moves, losses, moved_column, moves_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STEM = 240  # bytes, of the 255 that a file's name may have
_ROWS = 20  # features in the table, where a class has all of them
_BARS = 12  # features that are drawn as bars
_TITLE = 160  # letters of a figure's title
_WIDE = 60  # letters of the picture's title, from which on they are smaller
_NAMED = 30  # letters of a feature's name in a figure
_DRAWN = 5  # features whose map is drawn
Array = npt.NDArray[np.float64]
ImageLike = str | Path | Image.Image | npt.NDArray[Any] | torch.Tensor | Mapping[str, Any]
#: a file, a Pillow image, a uint8 array (height, width, 3), or what the network takes where images were given ready


@dataclass(frozen=True, eq=False)
class Explanation(Result):
    """Why the decomposed network says one class of an image and not another.

    Attributes:
        name: of the image.
        picture: what the network sees of it; the picture given where a transform makes none of it; None where the network
            was given something else than a picture.
        decomposition: name of the decomposition.
        predicted: class name of the largest decomposed logit.
        against: class name of the runner-up, or of the class asked about.
        label: class name that a labelled image set of the study gives the image; None where the study doesn't have it.
        logits: the two decomposed logits.
        probabilities: of the two classes, by the decomposed network.
        terms: features of either class, what says most first.
        bias: difference of the two biases, in logits.
        dense: class name → probability by the dense network, its two likeliest classes and the two above.
        dense_difference: of the dense logits of the two classes.
        image_set: where the neighbours come from.
        neighbours: images that are near by these features, the nearest first.
        maps: feature → (height, width) where in the image it is active; None where there are none.
        no_maps: why there are none, as the end of a sentence; empty where there are.
        feature_names: feature index → name, of those of these features that have one.
        dense_rows: those of the two classes that keep their dense row, since no image of theirs was seen.
        moved_by: feature → the cues that explain a tenth or more of its variance, and how much of it; None where the study
            keeps no cues of the decomposition.
        lost_through: feature → cues by which its class (the predicted one, if that uses it) loses margin through it, in median
            margins, but for those that take the thing itself away; None likewise.
        scales: feature → its scale, where weights are readable: a weight times that is the scale of the class, with a sign.

    Example:
        >>> explanation = decomposition.explain(network, "cat.jpg")
        >>> explanation.predicted, explanation.against  # doctest: +SKIP
        >>> explanation.plot().savefig("why.png")
    """

    name: str
    picture: Image.Image | None
    decomposition: str
    predicted: str
    against: str
    label: str | None
    logits: tuple[float, float]
    probabilities: tuple[float, float]
    terms: tuple[Term, ...]
    bias: float
    dense: Mapping[str, float]
    dense_difference: float
    image_set: str
    neighbours: tuple[Neighbour, ...]
    maps: Mapping[int, npt.NDArray[np.float32]] | None
    no_maps: str
    feature_names: Names = field(default_factory=dict)
    dense_rows: tuple[str, ...] = ()
    moved_by: Moves | None = None
    lost_through: Losses | None = None
    scales: Mapping[int, float] = field(default_factory=dict)

    @property
    def difference(self) -> float:
        """Difference of the decomposed logits: the sum of all terms and the bias."""
        return self.logits[0] - self.logits[1]

    @property
    def agrees(self) -> bool:
        """Whether the dense network says the same class."""
        return max(self.dense, key=lambda name: self.dense[name]) == self.predicted

    def to_json(self) -> dict[str, Any]:
        """Return all but pictures and maps as JSON values."""
        terms = [{**vars(term), "weights": list(term.weights), **self._scale(term)} for term in self.terms]
        left_out = ("picture", "maps", "terms", "neighbours", "feature_names", "moved_by", "lost_through", "scales")
        value = {key: one for key, one in vars(self).items() if key not in left_out}
        neighbours = [one.to_json() for one in self.neighbours]
        names = names_json(self.feature_names)
        said = {"difference": self.difference, "terms": terms, "neighbours": neighbours, "feature_names": names}
        return {**value, **said, "moved_by": moves_json(self.moved_by), "lost_through": moves_json(self.lost_through)}

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each feature of either class, what says most first."""
        return [
            {
                **columns(term.feature, self.feature_names),
                "value": term.value,
                f"weight {self.predicted}": term.weights[0],
                f"weight {self.against}": term.weights[1],
                "contribution": term.contribution,
                **moved_column(term.feature, self.moved_by),
            }
            for term in self.terms
        ]

    def tables(self) -> list[Table]:
        """Return a table for the terminal: a row for each term, then their sum; of a class's dense row the first 20."""
        return [self._table(_ROWS if self.dense_rows else len(self.terms))]

    def _shown(self) -> tuple[str, str]:
        """Return the figure and the table as HTML, and the CSS."""
        source = base64.b64encode(picture_of(self.plot(), "png", 100)).decode()
        alt = f"why {self.name} is {self.predicted} and not {self.against}"
        shown = Markup('<img src="data:image/png;base64,{}" alt="{}">').format(source, legible(alt))
        return str(shown) + self._tables_html(), STYLE

    def _tables_html(self) -> str:
        """Return the table with a row for each term as HTML."""
        return table_html(self._table(len(self.terms)))

    def _table(self, most: int) -> Table:
        label = f" (label: {self.label})" if self.label is not None else ""
        label += "" if self.agrees else f"; the dense network says {next(iter(self.dense))}"
        title = f"{self.name}: {self.predicted} and not {self.against}{label}"
        says = ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.dense.items())
        near = "; ".join(f"{one.label} ({one.id})" for one in self.neighbours)
        caption = f"the dense network: {says}\nnearest images of {self.image_set!r} by these features: {near}"
        caption += "".join(
            f"\nno images of {name} were seen when features were chosen: it keeps its dense row"
            for name in self.dense_rows
        )
        caption += "\n" + self._no_maps() if self._no_maps() else ""
        if self.lost_through is not None:
            caption += (
                f"\nlost through it: median margins that {self.predicted} (where that has no weight, {self.against}) loses "
                "through the feature when a cue is that of another class's image; of the cues that it rests on most"
            )
        table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
        value = "value / scale" if self.scales else "value"
        for column in ("feature", value, f"weight in {self.predicted}", f"in {self.against}", "contribution"):
            table.add_column(column, justify="right")
        if self.lost_through is not None:
            table.add_column("lost through it", overflow="fold")
        for term in self.terms[:most]:
            scale = self.scales.get(term.feature, 1.0)
            weights = (f"{scale * weight:{'+' if self.scales else ''}.3g}" if weight else "" for weight in term.weights)
            lost = [losses(self.lost_through[term.feature])] if self.lost_through is not None else []
            said = f"{term.contribution:+.3f}"
            table.add_row(shown(term.feature, self.feature_names), f"{term.value / scale:.3g}", *weights, said, *lost)
        rest = self.terms[most:]
        if rest:
            table.add_row(f"… and {len(rest):,} more", "", "", "", f"{sum(term.contribution for term in rest):+.3f}")
        table.add_row("bias", "", "", "", f"{self.bias:+.3f}", end_section=True)
        table.add_row("sum", "", "", "", f"{self.difference:+.3f}")
        return table

    def _scale(self, term: Term) -> dict[str, float]:
        return {"scale": self.scales[term.feature]} if term.feature in self.scales else {}

    def save(self, folder: str | Path) -> Path:
        """Write the figure as PNG into a folder, under the image's name, with a number if that is taken; return its path.

        Raises:
            SubspectError: the folder cannot be written to.
        """
        folder = Path(folder)
        make_folder(folder)
        data, stem = picture_of(self.plot(), "png", 120), _stem(self.name)
        for number in count(1):
            path = folder / f"{stem}{'' if number == 1 else f'-{number}'}.png"
            if not os.path.lexists(path):
                try:
                    with atomic(path) as file:
                        file.write(data)
                    return path
                except SubspectError:
                    if not os.path.lexists(path):  # else something took the name meanwhile
                        raise
        raise AssertionError("numbers have no end")

    @drawing()
    def plot(self) -> Figure:
        """Draw the image, what each feature says, where it looks, and the nearest images."""
        from subspect.ground.canvas import Figure

        looked = self.terms[:_DRAWN] if self.maps is not None and self.picture is not None else ()
        near = [one for one in self.neighbours if one.picture is not None]
        heights = [4.2] + [1.9] * (bool(looked) + bool(near))
        figure = Figure(figsize=(10, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).ravel().tolist()  # own columns
        picture, bars = parts[0].subplots(1, 2, width_ratios=[1, 2.2])
        said, against = as_label(self.predicted), as_label(self.against)
        likely = sorted(self.dense.items(), key=lambda pair: -pair[1])[:2]
        dense = ", ".join(f"{as_label(name)} {100 * share:.0f} %" for name, share in likely)
        label = f"label: {as_label(self.label)}" if self.label is not None else ""
        title = "\n".join(filter(None, [f"predicted: {said}; against: {against}", label, f"dense: {dense}"]))
        _show(picture, self.picture, "")
        picture.set_title(
            title, fontsize=10 if len(title) < _WIDE else 8, loc="left"
        )  # there is room to its right only
        told = filter(None, [f"{Path(self.name).name}, {self.decomposition}", self._no_maps()])
        figure.suptitle("\n".join(as_label(line, _TITLE) for line in told), fontsize=8, x=0.01, ha="left")
        self._draw_bars(bars)
        if looked and self.maps is not None and self.picture is not None:
            for place, term in enumerate(looked):
                laid = lay_over(enlarged(self.picture), self.maps[term.feature])
                said = f"{term.contribution:+.2f}".replace("-", "−")
                name = f"{as_label(f'feature {shown(term.feature, self.feature_names)}', _NAMED)}: {said}"
                _show(parts[1].add_subplot(1, _DRAWN, place + 1), laid, name)
        if near:
            parts[-1].suptitle(escaped(f"nearest images of {self.image_set!r} by these features"), fontsize=9)
            for place, neighbour in enumerate(near):
                assert neighbour.picture is not None
                wrong = neighbour.prediction != neighbour.label
                title = as_label(neighbour.label) + (f"\npredicted: {as_label(neighbour.prediction)}" if wrong else "")
                _show(parts[-1].add_subplot(1, NEAREST, place + 1), neighbour.picture, title)
        return figure

    def _no_maps(self) -> str:
        """Say why nothing shows where features look; nothing where something does, or there is nothing to look at."""
        return f"where features look is not shown: {self.no_maps}" if self.no_maps and self.picture is not None else ""

    def _draw_bars(self, bars: Axes) -> None:
        """Draw what each feature says, the rest of them together, the biases, and the sum."""
        rest = sum(term.contribution for term in self.terms[_BARS:])
        called = [as_label(f"feature {shown(term.feature, self.feature_names)}", _NAMED) for term in self.terms]
        rows = [(name, term.contribution) for name, term in zip(called[:_BARS], self.terms, strict=False)]
        rows += [(f"{len(self.terms) - _BARS} more", rest)] if len(self.terms) > _BARS else []
        rows += [("difference of the biases", self.bias), ("sum", self.difference)]
        colours = [COLOURS["blue" if value >= 0 else "orange"][0] for _, value in rows]
        colours[-1] = COLOURS["ink"][0]
        bars.barh(range(len(rows)), [value for _, value in rows], color=colours)
        bars.set_yticks(range(len(rows)), [name for name, _ in rows])
        bars.invert_yaxis()
        bars.axvline(0, color=COLOURS["ink"][0], linewidth=0.8)
        said, against = as_label(self.predicted), as_label(self.against)
        bars.set_xlabel(f"logits: for {said} (right), for {against} (left)")
        bars.spines[["top", "right"]].set_visible(False)


def _show(axes: Axes, picture: Image.Image | None, title: str, size: int = 9) -> None:
    if picture is not None:
        axes.imshow(enlarged(picture))
    axes.set_title(title, fontsize=size)
    axes.set_axis_off()


def _stem(name: str) -> str:
    """Return what a figure of an image is called, short enough for a file with a number and a suffix."""
    stem = re.sub(r'[\\/:*?"<>|]', "_", legible(Path(name).stem)).lstrip(".")
    while len(stem.encode()) > _STEM:
        stem = stem[:-1]
    return stem or "image"


def explain(
    study: StudyLike,
    decomposition: DecompositionLike,
    *,
    network: Network,
    image: ImageLike,
    against: int | str | None = None,
    name: str | None = None,
) -> Explanation:
    """Explain what the decomposed network says of one image.

    Args:
        study: where the features of other images are stored.
        decomposition: of this study.
        network: the network that was observed; its preprocessing is the study's, unless it brings the same.
        image: a file, a Pillow image or a uint8 array (height, width, 3); where the study's images were given ready for the
            network, a floating array or tensor of the shape of one of them.
        against: index or name of the class to explain against; the runner-up unless given.
        name: what the image is called; its path unless given.

    Raises:
        SubspectError: not an image, another network, or the class explained against is the predicted one or not there.

    Example:
        >>> explanation = subspect.explain("study", "pursuit-k5", network=network, image="cat.jpg", against="bird")
        >>> explanation.against
        'bird'
    """
    study, decomposition = opened(study, decomposition)
    rival = None if against is None else decomposition.label(against)
    network = same_network(study, network)
    given = one_image(network.preprocessing, image, name)
    name, read = given.name, read_one(network, given)
    x = read.features[0].double().cpu().numpy()
    dense = read.logits[0].double().cpu()
    logits = decomposition.layer().double()(torch.from_numpy(x))[None].detach()[0]
    order = logits.argsort(descending=True, stable=True).tolist()
    label, other = order[0], order[1] if rival is None else rival
    if other == label:
        raise SubspectError(
            f"{name}: {decomposition.class_names[label]!r} is the predicted class itself; name another class to explain against"
        )
    found, bias = terms(decomposition, x, label, other)
    shares, said = logits.softmax(0), dense.softmax(0)
    likely = dict.fromkeys([*dense.argsort(descending=True, stable=True)[:2].tolist(), label, other])
    names = decomposition.class_names
    used = [term.feature for term in found]
    no_maps = read.reason or ("" if given.in_place else "what the network sees of the image is no picture")
    return Explanation(
        name=name,
        picture=given.picture,
        decomposition=decomposition.name,
        predicted=names[label],
        against=names[other],
        label=label_of(study, decomposition, name, x),
        logits=(float(logits[label]), float(logits[other])),
        probabilities=(float(shares[label]), float(shares[other])),
        terms=tuple(found),
        bias=bias,
        dense={names[one]: float(said[one]) for one in likely},
        dense_difference=float(dense[label] - dense[other]),
        image_set=decomposition.chosen_on[0],
        neighbours=nearest(study, decomposition, found, name, network.preprocessing),
        maps=None if read.maps is None or no_maps else {one: read.maps[0, one].cpu().numpy() for one in used},
        no_maps=no_maps,
        feature_names=occurring(used, study.feature_names),
        dense_rows=tuple(names[one] for one in (label, other) if one in decomposition.unseen),
        moved_by=kept_moves(study, decomposition, used),
        lost_through=kept_losses(
            study, decomposition, {term.feature: label if term.weights[0] else other for term in found}
        ),
        scales=_scales(decomposition, used, label, other),
    )


def _scales(decomposition: Decomposition, features: list[int], *labels: int) -> dict[int, float]:
    """Return the scales of features; nothing where weights are free, as those of a dense row are."""
    ternary = decomposition.ternary
    if ternary is None or set(labels) & set(decomposition.unseen):
        return {}
    return {feature: float(ternary.feature_scales[feature]) for feature in features}
