"""What the classes rest on, cue by cue: the figures, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.text import Text
from scipy.sparse import csr_matrix

from subspect.ground.drawing import as_label, drawing, headed
from subspect.ground.errors import SubspectError, near, some
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import counted, legible
from subspect.heads.feature_names import Names, names_json, shown
from subspect.heads.names import class_index
from subspect.measuring.fidelity import unique, wilson

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
HEADS = ("dense", "decomposed")
_DRAWN = 40  # classes in a figure
_FEATURES = 16  # features in one
_LISTED = 8  # features in a table
_LITTLE = 0.005  # of a margin: not told
_TOLD = 0.05  # of a margin: less is next to nothing
_MOVED = 0.1  # share of a feature's variance from which on a cue is told


@dataclass(frozen=True, eq=False)
class Swapped:
    """What becomes of the images when one cue is swapped.

    Losses are in units of the median margin; intervals are at 95 %, over images. NaN where a class has no image, and for the
    half-width of an interval where it has one.

    Attributes:
        name: of the cue.
        what: what of an image it is, in words.
        moved: (d,) the share of each feature's variance that the swap explains (Jansen 1999): ``E (x − x′)² / (2 Var x)``.
        moved_half: (d,) half the width of its interval.
        loss: (C,) mean loss of the margin of each class's images.
        loss_half: (C,) half the width of its interval.
        pull: (C,) by how much more the margin of other classes' images moves towards a class when the cue comes from it than
            when it comes from a third class; NaN where the cue doesn't come from another image.
        pull_half: (C,) half the width of its interval.
        through: (C, d) sparse: how much of the loss goes through each feature.
        through_half: (C, d) half the width of its interval.
        right: "dense" and "decomposed" → (C,) images of each class that the head still gives it.

    Example:
        >>> border = decomposition.cues(network, cues=["border"], sample=20, show_progress=False).cues[0]
        >>> border.name, border.loss.shape
        ('border', (4,))
    """

    name: str
    what: str
    moved: Array
    moved_half: Array
    loss: Array
    loss_half: Array
    pull: Array
    pull_half: Array
    through: csr_matrix
    through_half: csr_matrix
    right: Mapping[str, Counts]

    @property
    def rests(self) -> Array:
        """(C,): how far a class rests on the cue: the smaller of what it loses and of what others gain by it."""
        return np.fmin(self.loss, self.pull)


@dataclass(frozen=True, eq=False)
class Cues(Result):
    """What the classes of a decomposition rest on.

    Attributes:
        decomposition: its name.
        class_names: of all classes.
        images: (C,) images of each class.
        margin: the median margin of the decomposed head on the images, in logits.
        right: "dense" and "decomposed" → (C,) images of each class that the head gives it, nothing swapped.
        cues: what becomes of the images with each cue swapped.
        left_out: name → why a cue wasn't measured.
        note: on which images this was measured.
        sample: fingerprint of the images and of how they were paired.
        made_by: fingerprint of the decomposed head.
        feature_names: of the features that have one.

    Example:
        >>> rests = decomposition.cues(network, cues=["border", "colour"], sample=20, show_progress=False)
        >>> rests.names
        ['border', 'colour']
    """

    decomposition: str
    class_names: tuple[str, ...]
    images: Counts
    margin: float
    right: Mapping[str, Counts]
    cues: tuple[Swapped, ...]
    left_out: Mapping[str, str]
    note: str
    sample: str
    made_by: str
    feature_names: Names = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of the cues that were measured."""
        return [one.name for one in self.cues]

    def __getitem__(self, name: str) -> Swapped:
        """Return what becomes of the images with a cue swapped.

        Raises:
            SubspectError: it wasn't measured.
        """
        found = next((one for one in self.cues if one.name == name), None)
        if found is None:
            why = f": {self.left_out[name]}" if name in self.left_out else near(name, self.names)
            raise SubspectError(
                f"the cue {name!r} was not measured{why}; these were: {some(self.names, len(self.cues))}"
            )
        return found

    def with_cue(self, made: Swapped) -> Cues:
        """Return the same with a cue more, or measured anew."""
        return replace(self, cues=(*(one for one in self.cues if one.name != made.name), made))

    def only(self, names: Sequence[str]) -> Cues:
        """Return the same with some of the cues, in this order."""
        return replace(self, cues=tuple(self[name] for name in names))

    @property
    def seen(self) -> list[int]:
        """The classes that have images."""
        return np.flatnonzero(self.images).tolist()

    @property
    def loss(self) -> Array:
        """(F, C): mean loss of the margin of each class's images, in median margins."""
        return np.stack([one.loss for one in self.cues])

    def recall(self, name: str | None = None, head: str = "decomposed") -> Array:
        """Return (C,): the share of each class's images that a head gives it, with a cue swapped or nothing."""
        right = self.right if name is None else self[name].right
        return np.where(self.images > 0, right[head] / np.maximum(self.images, 1), np.nan)

    def accuracy(self, name: str | None = None, head: str = "decomposed") -> float:
        """Return the share of all images that a head gives their class, with a cue swapped or nothing."""
        right = self.right if name is None else self[name].right
        return float(right[head].sum() / self.images.sum())

    def of_feature(self, feature: int) -> list[tuple[str, float]]:
        """Return the cues that explain a tenth or more of a feature's variance, those that explain most first.

        Cues that are taken away or scrambled take features out of their range, and are left out.
        """
        swaps = [one for one in self.cues if np.isfinite(one.pull).any()]
        pairs = [(one.name, float(one.moved[feature])) for one in swaps if one.moved[feature] >= _MOVED]
        return sorted(pairs, key=lambda pair: -pair[1])

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values; each estimate is followed by the ends of its interval."""
        return {
            "decomposition": self.decomposition,
            "note": self.note,
            "margin": self.margin,
            "left_out": dict(self.left_out),
            "before": {**self._accuracy_json(None), "classes": self._classes_json(None)},
            "cues": {one.name: self._cue_json(one) for one in self.cues},
            "feature_names": names_json(self.feature_names),
        }

    def _accuracy_json(self, name: str | None) -> dict[str, Any]:
        right, images = self.right if name is None else self[name].right, int(self.images.sum())
        return {f"accuracy_{head}": list(vars(wilson(int(right[head].sum()), images)).values()) for head in HEADS}

    def _classes_json(self, name: str | None) -> dict[str, dict[str, Any]]:
        right, called = self.right if name is None else self[name].right, unique(self.class_names)
        return {
            called[label]: {"images": int(self.images[label])}
            | {
                f"recall_{head}": list(vars(wilson(int(right[head][label]), int(self.images[label]))).values())
                for head in HEADS
            }
            for label in self.seen
        }

    def _cue_json(self, one: Swapped) -> dict[str, Any]:
        classes, called = self._classes_json(one.name), unique(self.class_names)
        for label in self.seen:
            row, half = one.through[label], one.through_half[label].toarray()[0]
            pairs = zip(row.indices.tolist(), row.data.tolist(), strict=True)
            features = {str(feature): _json(value, half[feature]) for feature, value in pairs}
            classes[called[label]] |= {
                "loss": _json(one.loss[label], one.loss_half[label]),
                "pull": _json(one.pull[label], one.pull_half[label]),
                "features": features,
            }
        moved = [_json(*pair) for pair in zip(one.moved.tolist(), one.moved_half.tolist(), strict=True)]
        return {"what": one.what, **self._accuracy_json(one.name), "classes": classes, "moved": moved}

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each cue and class with images."""
        return [
            {
                "cue": one.name,
                "class": self.class_names[label],
                "images": int(self.images[label]),
                "loss": float(one.loss[label]),
                "loss_low": float(one.loss[label] - one.loss_half[label]),
                "loss_high": float(one.loss[label] + one.loss_half[label]),
                "pull": float(one.pull[label]),
                "pull_low": float(one.pull[label] - one.pull_half[label]),
                "pull_high": float(one.pull[label] + one.pull_half[label]),
                **{f"recall_{head}": float(self.recall(None, head)[label]) for head in HEADS},
                **{f"recall_{head}_swapped": float(self.recall(one.name, head)[label]) for head in HEADS},
            }
            for one in self.cues
            for label in self.seen
        ]

    def tables(self) -> list[Table]:
        """Return a table for the terminal: a row for each cue, with the classes that lose most."""
        table = _table(
            f"{self.decomposition}: accuracy of both heads with a cue swapped, and margin lost", self._caption()
        )
        for column in ("dense", "decomposed", "lost"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("classes that lose most (recall)", overflow="fold")
        shares = [f"{100 * self.accuracy(None, head):.1f} %" for head in HEADS]
        table.add_row("nothing", *shares, "", "", end_section=True)
        for one in self.cues:
            shares = [f"{100 * self.accuracy(one.name, head):.1f} %" for head in HEADS]
            table.add_row(one.name, *shares, _number(np.nanmean(one.loss)), Text("\n".join(self._most(one))))
        return [table]

    def _most(self, one: Swapped, most: int = 3) -> list[str]:
        """Return a line for each of the classes that lose most by a cue, where it is more than next to nothing."""
        order = np.argsort(-np.nan_to_num(one.loss, nan=-np.inf), kind="stable")[:most].tolist()
        return [
            f"{legible(self.class_names[label])}: {_number(one.loss[label])} ({self._recalls(one, label)})"
            for label in order
            if one.loss[label] >= _TOLD
        ]

    def _recalls(self, one: Swapped, label: int) -> str:
        return f"{100 * self.recall()[label]:.0f}\u00a0→\u00a0{100 * self.recall(one.name)[label]:.0f}\u00a0%"

    def class_tables(self, label: int | str) -> list[Table]:
        """Return the table of one class, by name or index: a row for each cue, with the features its margin is lost through.

        Raises:
            SubspectError: there is no such class.
        """
        label = class_index(label, self.class_names)
        units = f"{self._units()}; given: how much nearer others come to the class by its cue"
        table = _table(f"{self.class_names[label]}: {counted(int(self.images[label]), 'image', 'images')}", units)
        for column in ("margin lost", "given", "recall"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("lost through features", overflow="fold")
        for one in self.cues:
            row = one.through[label].toarray()[0]
            most = np.argsort(-np.abs(row), kind="stable")[:_LISTED].tolist()
            said = [f"{shown(at, self.feature_names)} {_number(row[at])}" for at in most if abs(row[at]) >= _LITTLE]
            table.add_row(one.name, *self._estimates(one, label), self._recalls(one, label), ", ".join(said))
        return [table]

    def _estimates(self, one: Swapped, label: int) -> list[str]:
        pairs = (one.loss[label], one.loss_half[label]), (one.pull[label], one.pull_half[label])
        ends = ["" if np.isnan(half) else f" ± {half:.2f}" for _, half in pairs]
        return [
            "" if np.isnan(value) else f"{_number(value)}{end}" for (value, _), end in zip(pairs, ends, strict=True)
        ]

    def _units(self) -> str:
        return (
            "margin: the logit of an image's class less the strongest other, in units of the median margin of all images, "
            f"{self.margin:.3g} logits"
        )

    def _caption(self) -> str:
        left_out = "".join(f"; {name} is left out: {why}" for name, why in self.left_out.items())
        alone = [one.name for one in self.cues if np.isnan(one.pull).all()]
        swaps = ["with the cue of an image of another class"] if len(alone) < len(self.cues) else []
        swaps += [f"with {some(alone, len(alone))} taken away or scrambled"] if alone else []
        return f"{self.note}, {'; '.join(swaps)}. {self._units()}{left_out}"

    @drawing()
    def plot(self) -> Figure:
        """Draw by how much each class loses when each cue is swapped; at most 40 classes, those that lose most."""
        worst = np.nan_to_num(self.loss, nan=-np.inf).max(axis=0)
        rows = [label for label in np.argsort(-worst, kind="stable").tolist() if self.images[label]][:_DRAWN]
        rows = sorted(rows) if len(self.seen) <= _DRAWN else rows
        figure, axes = _heat(self.loss[:, rows].T, [self.class_names[one] for one in rows], self.names)
        axes.set_title("margin lost, in median margins", fontsize=9)
        more = f"; {len(rows)} of {len(self.seen)} classes" if len(rows) < len(self.seen) else ""
        headed(figure, f"{self.decomposition}, {self.note}{more}")
        return figure

    @drawing()
    def plot_class(self, label: int | str) -> Figure:
        """Draw through which features a class, by name or index, loses its margin; at most 16, those of most weight first.

        Raises:
            SubspectError: there is no such class.
        """
        label = class_index(label, self.class_names)
        parts = np.stack([one.through[label].toarray()[0] for one in self.cues])
        largest = np.abs(parts).max(axis=0)
        order = np.argsort(-largest, kind="stable")[:_FEATURES].tolist()
        order = [one for one in order if largest[one] >= _TOLD] or order[:1]
        names = [f"feature {shown(one, self.feature_names)}" for one in order]
        figure, axes = _heat(parts[:, order].T, names, self.names)
        axes.set_title(
            f"{as_label(self.class_names[label])}: margin lost through each feature, in median margins", fontsize=9
        )
        headed(figure, f"{self.decomposition}, {self.note}")
        return figure


def at_places(matrix: csr_matrix, rows: npt.NDArray[np.integer], columns: npt.NDArray[np.integer]) -> Array:
    """Return the entries of a sparse matrix at some places; SciPy returns something else where there are none."""
    return np.asarray(matrix[rows, columns], np.float64).reshape(-1) if len(rows) else np.empty(0)


def _table(title: str, caption: str) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("swapped", no_wrap=True)
    return table


def _number(value: float | np.floating[Any]) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _heat(values: Array, rows: Sequence[str], columns: Sequence[str]) -> tuple[Figure, Axes]:
    """Draw a matrix with its numbers: what is lost in orange, what is gained in purple."""
    from subspect.ground.canvas import Figure

    figure = Figure(figsize=(max(6.4, 2.4 + 0.46 * len(columns)), 1.9 + 0.24 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(values, cmap="PuOr_r", vmin=-1.5, vmax=1.5, aspect="auto")
    axes.set_xticks(
        range(len(columns)), [as_label(one, 24) for one in columns], rotation=45, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(range(len(rows)), [as_label(one, 24) for one in rows])
    axes.tick_params(labelsize=8)
    for row, column in zip(*np.nonzero(np.abs(np.nan_to_num(values)) >= _TOLD), strict=True):
        value = float(values[row, column])
        colour = "white" if abs(value) > 1.1 else "black"
        axes.text(column, row, f"{value:.1f}".replace("-", "−"), ha="center", va="center", fontsize=7, color=colour)
    axes.spines[:].set_visible(False)
    return figure, axes


def _json(value: float, half: float) -> list[float | None]:
    ends = (value, value - half, value + half)
    return [None if np.isnan(one) else float(one) for one in ends]
