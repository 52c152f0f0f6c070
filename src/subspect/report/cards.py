"""Cards of a few classes by themselves, for a notebook or a page of one's own: what the report's first screen shows.

A card has the features that speak for the class, with the image of the class that has each most and what each adds to the
class's lead (see `subspect.asking.deciding`), and those that speak against it, with the classes that these belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from subspect.asking.deciding import Speaks, deciding
from subspect.ground.errors import SubspectError, some
from subspect.ground.results import Result
from subspect.ground.showing import STYLE
from subspect.ground.tables import Table
from subspect.heads.decomposition import Decomposition
from subspect.heads.feature_names import shown
from subspect.heads.names import class_index
from subspect.images.opening import ImageSource
from subspect.measuring.fidelity import Fidelity, evaluate
from subspect.networks.network import Network
from subspect.report.faces import ClassPage, Faces, check_given, class_pages
from subspect.report.gallery import LEFT_OUT, gallery_of
from subspect.report.rendering import environment, source
from subspect.report.resting import resting_of
from subspect.studies.decompositions import DecompositionLike, opened
from subspect.studies.study import StudyLike

_WORST, _BEST = 3, 3  # classes shown, those that lose most and least


@dataclass(frozen=True, eq=False)
class Cards(Result):
    """Cards of a few classes.

    Attributes:
        decomposition: its name.
        labels: the classes, in the order of their cards.
        picked: whether somebody chose these classes.

    Example:
        >>> cards = decomposition.cards(["cat", "dog"])
        >>> cards.to_frame()["class"].unique().tolist()
        ['cat', 'dog']
        >>> cards.to_html()[:15]  # a page by itself; to_html_snippet() stands within another
        '<!doctype html>'
    """

    decomposition: str
    labels: tuple[int, ...]
    picked: bool
    _faces: Faces

    def tables(self) -> list[Table]:
        """Return a row for each class: features that speak for it, each with what it adds, and against it."""
        title = f"{self.decomposition}: what decides {len(self.labels)} of {len(self._faces.names)} classes"
        table = Table(title=title, title_justify="left", caption=self._rest or None, caption_justify="left")
        table.add_column("class", overflow="fold")
        table.add_column("accuracy", justify="right")
        table.add_column("dense", justify="right")
        table.add_column("for it: what each adds to its lead, in logits", overflow="fold")
        table.add_column("against it", overflow="fold")
        for one in self._chosen:
            right = (one.cost.accuracy.value, one.cost.dense_accuracy.value) if one.cost else (None, None)
            table.add_row(
                one.name,
                *("" if value is None else f"{100 * value:.1f} %" for value in right),
                ", ".join(f"{self._called(says)} {says.added:+.1f}" for says in self._for(one)),
                ", ".join(self._called(says) + self._is_it(says, one) for says in self._against(one)),
            )
        return [table]

    def to_json(self) -> dict[str, Any]:
        """Return the classes with their features as JSON values."""
        return {"decomposition": self.decomposition, "classes": [self._json(one) for one in self._chosen]}

    def _json(self, one: ClassPage) -> dict[str, Any]:
        return {
            "class": one.name,
            "accuracy": one.cost.accuracy.value if one.cost else None,
            "dense_accuracy": one.cost.dense_accuracy.value if one.cost else None,
            "findings": [text for text, _ in self._faces.doubts(one.label)],
            "for": [{**vars(says), "looks_at": self._where(says, one)} for says in self._for(one)],
            "against": [{**vars(says), "belongs_to": self._others(says, one)} for says in self._against(one)],
        }

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each feature of each class, those that speak for it first."""
        return [
            {
                "class": one.name,
                "feature": says.feature,
                "feature_name": self._faces.feature_names.get(says.feature),
                "weight": says.weight,
                "added": says.added,
                "looks_at": self._where(says, one) or None,
            }
            for one in self._chosen
            for says in (*self._for(one), *self._against(one))
        ]

    def _shown(self) -> tuple[str, str]:
        """Return the cards as HTML, and the CSS."""
        body = environment().get_template("snippet.html").render(site=self._faces, chosen=self._chosen, rest=self._rest)
        return body, STYLE + source("faces.css")

    @property
    def _chosen(self) -> list[ClassPage]:
        return [self._faces.classes[label] for label in self.labels]

    @property
    def _rest(self) -> str:
        """Say which classes these are, where nobody chose them and there are others."""
        if self.picked or len(self.labels) == len(self._faces.names):
            return ""
        return (
            f"The {_WORST} classes that lose most (with findings first) and the {_BEST} that lose least, of "
            f"{len(self._faces.names):,}; others: cards(classes=[…]), all: report()."
        )

    def _for(self, one: ClassPage) -> tuple[Speaks, ...]:
        return self._faces.deciding.speaks_for.get(one.label, ())

    def _against(self, one: ClassPage) -> tuple[Speaks, ...]:
        return self._faces.deciding.against.get(one.label, ())

    def _called(self, says: Speaks) -> str:
        return shown(says.feature, self._faces.feature_names)

    def _where(self, says: Speaks, one: ClassPage) -> str:
        return self._faces.gallery.places.get((one.label, says.feature), "")

    def _others(self, says: Speaks, one: ClassPage) -> list[str]:
        return [self._faces.names[label] for label in self._faces.deciding.belongs_to(says.feature, one.label)]

    def _is_it(self, says: Speaks, one: ClassPage) -> str:
        others = self._others(says, one)
        return f" (is it {' or '.join(others)}?)" if others else ""


def cards(
    study: StudyLike,
    decomposition: DecompositionLike,
    classes: Sequence[int | str] | None = None,
    *,
    fidelity: Fidelity | None = None,
    show_images: bool = True,
    images: ImageSource | None = None,
    network: Network | None = None,
    show_progress: bool = False,
) -> Cards:
    """Show what decides a few classes, as the report's first screen does.

    Args:
        study: where the features are stored.
        decomposition: of this study.
        classes: names or indices; unless given, the three that lose most accuracy (with findings first), and the three that
            lose least.
        fidelity: what it costs; measured unless given.
        show_images: whether to show images; leave them out for private data.
        images: those that were observed, where they were in memory, or have been moved since (see `subspect.open_images`).
        network: the network that was observed, to show where in an image each feature is active.
        show_progress: whether to draw a progress bar.

    Raises:
        SubspectError: no such class, or one without images when features were chosen; fidelity of something else; ``images``
            is no source of images, or ``network`` another one.

    Example:
        >>> subspect.cards("study", "pursuit-k5", ["cat"]).to_frame()["feature"].size
        5
    """
    study, decomposition = opened(study, decomposition)
    check_given(study, decomposition, fidelity, network, images)
    labels = None if classes is None else _labels(decomposition, classes)
    fidelity = evaluate(study, decomposition) if fidelity is None else fidelity
    faces = Faces(
        study=study,
        decomposition=decomposition,
        fidelity=fidelity,
        gallery=LEFT_OUT,
        resting=resting_of(study, decomposition, fidelity, show_images),
        deciding=deciding(study, decomposition, fidelity.where),
        classes=class_pages(decomposition, fidelity),
        feature_names=study.feature_names,
    )
    chosen = _few(faces) if labels is None else labels
    if show_images:
        gallery = gallery_of(study, decomposition, network, images, show_progress, chosen)
        faces = replace(faces, gallery=gallery)
    return Cards(decomposition.name, tuple(chosen), classes is not None, faces)


def _few(faces: Faces) -> list[int]:
    """Return the classes that lose most, and of the others those that lose least."""
    order = [one.label for one in faces.worst_first if not one.unseen]
    order.sort(key=lambda label: not faces.doubts(label))
    return order if len(order) <= _WORST + _BEST else [*order[:_WORST], *order[-_BEST:]]


def _labels(decomposition: Decomposition, classes: Sequence[int | str]) -> list[int]:
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise SubspectError(f"classes must be a list of names or indices, such as ['cat', 3]; got {classes!r}")
    labels = list(dict.fromkeys(class_index(one, decomposition.class_names) for one in classes))
    if none := [decomposition.class_names[label] for label in labels if label in decomposition.unseen]:
        raise SubspectError(
            f"no {decomposition.examples} of {some(none)} were seen when features were chosen, so that all of them decide it; "
            "leave it out of classes"
        )
    return labels
