"""What a decomposition can be asked, as methods: each is the function of that name, of this decomposition and its study.

A decomposition that was made in a study, or loaded from one, knows it; one that was read from a file alone does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from markupsafe import escape

import subspect
from subspect.ground.errors import SubspectError
from subspect.ground.results import Result
from subspect.ground.showing import STYLE
from subspect.ground.tables import Table
from subspect.ground.text import legible
from subspect.heads.curve import curve_plot
from subspect.heads.feature_names import columns
from subspect.heads.shown import class_table, curve_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from subspect.asking.compare import Comparison
    from subspect.asking.diff import Difference
    from subspect.asking.essentiality import Essentiality
    from subspect.asking.explain import Explanation, ImageLike
    from subspect.asking.geometry import Geometry
    from subspect.checking.result import Checked
    from subspect.giving.edit import Edited
    from subspect.giving.export import Exported
    from subspect.giving.retrain import Retrained
    from subspect.giving.specialised import Specialised
    from subspect.heads.decomposition import Decomposition
    from subspect.images.opening import ImageSource
    from subspect.measuring.fidelity import Fidelity
    from subspect.networks.network import Network
    from subspect.report.cards import Cards
    from subspect.studies.study import Study, StudyLike
    from subspect.swapping.result import Cues
    from subspect.tracing.result import Filters


_AT_ONCE = 200_000_000  # numbers: features that are read to show a decomposition without being asked for more


class DecompositionQuestions(Result):
    """The methods of a decomposition; options are those of the function named.

    Each raises `SubspectError` where the decomposition doesn't know its study.
    """

    def evaluate(self, *, on: str | None = None, among_given: bool = False) -> Fidelity:
        """Measure what it costs: `subspect.evaluate`."""
        return subspect.evaluate(*self._asked, on=on, among_given=among_given)

    def compare(self, first: int | str, second: int | str, *, on: str | None = None) -> Comparison:
        """Set two classes side by side: `subspect.compare`."""
        return subspect.compare(*self._asked, first=first, second=second, on=on)

    def explain(self, network: Network, image: ImageLike, **options: Any) -> Explanation:
        """Say why one image is of this class and not of that: `subspect.explain`."""
        return subspect.explain(*self._asked, network=network, image=image, **options)

    def cues(self, network: Network, **options: Any) -> Cues:
        """Measure what the classes rest on: `subspect.cues`."""
        return subspect.cues(*self._asked, network=network, **options)

    def filters(self, network: Network, **options: Any) -> Filters:
        """Find out which filters of each layer decide the classes: `subspect.filters`."""
        return subspect.filters(*self._asked, network=network, **options)

    def findings(self, **options: Any) -> Checked:
        """List what somebody should look at: `subspect.check`."""
        return subspect.check(*self._asked, **options)

    def essentiality(self, **options: Any) -> Essentiality:
        """Measure what each class loses without its features: `subspect.essentiality`."""
        return subspect.essentiality(*self._asked, **options)

    def geometry(self, **options: Any) -> Geometry:
        """Measure in how many dimensions features and decision lie: `subspect.geometry`."""
        return subspect.geometry(*self._asked, **options)

    def diff(self, other: Decomposition | StudyLike, *, on: str | None = None) -> Difference:
        """Compare with a decomposition of another study, or its newest, on the same images: `subspect.diff`."""
        return subspect.diff(*self._asked, other=other, on=on)

    def edit(self, drop: Sequence[tuple[int | str, int | str]] = (), **options: Any) -> Edited:
        """Drop features from classes, and re-learn the rest if asked: `subspect.edit`."""
        return subspect.edit(*self._asked, drop=drop, **options)

    def export(self, path: str | Path, **options: Any) -> Exported:
        """Write the decomposed network to a file: `subspect.export`."""
        return subspect.export(*self._asked, path=path, **options)

    def specialise(self, network: Network, **options: Any) -> Specialised:
        """Make a smaller network for some classes: `subspect.specialise`."""
        return subspect.specialise(*self._asked, network=network, **options)

    def retrain(self, network: Network, images: ImageSource, folder: str | Path, **options: Any) -> Retrained:
        """Train the network under the decomposed head: `subspect.retrain`."""
        return subspect.retrain(*self._asked, network=network, images=images, folder=folder, **options)

    def report(self, path: str | Path | None = None, **options: Any) -> Path:
        """Write the report as HTML and return its path: `subspect.write_report`."""
        return subspect.write_report(*self._asked, path=path, **options)

    def cards(self, classes: Sequence[int | str] | None = None, **options: Any) -> Cards:
        """Show what decides a few classes, with pictures: `subspect.cards`."""
        return subspect.cards(*self._asked, classes, **options)

    def tables(self) -> list[Table]:
        """Return tables for the terminal: features of each class, and cost against their number where that is known."""
        own = self._decomposition
        return [class_table(own), *([curve_table(own)] if own.curve else [])]

    def plot(self) -> Figure:
        """Draw what few features cost, against their number.

        Raises:
            SubspectError: that isn't known, as the features weren't chosen by pursuit, or come from a pool.
        """
        return curve_plot(self._decomposition)

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each feature of each class."""
        own = self._decomposition
        names = own.feature_names
        return [
            {
                "class": name,
                **columns(row.feature, names),
                **asdict(row),
                "sign": row.sign,
                "contribution": row.contribution,
            }
            for label, name in enumerate(own.class_names)
            for row in own.rows(label)
        ]

    def _shown(self) -> tuple[str, str]:
        """Return the cards of a few classes, where they are made at once, and the tables, as HTML; and the CSS."""
        return self._cards_before(self._tables_html())

    def _cards_before(self, tables: str, fidelity: Fidelity | None = None) -> tuple[str, str]:
        """Return the same with other tables, of a cost that was measured."""
        own = self._decomposition
        if own.study is None:
            return tables, STYLE
        images, features = own.study.image_set(own.chosen_on[0]), own.study.identity.n_features
        if len(images) * features > _AT_ONCE:
            return tables, STYLE
        try:
            cards, style = self.cards(fidelity=fidelity)._shown()
        except SubspectError as error:  # a notebook shows a result in any case
            return f"<p>There are no cards to show: {escape(legible(str(error)))}</p>{tables}", STYLE
        return cards + tables, style

    @property
    def _asked(self) -> tuple[Study, Decomposition]:
        own = self._decomposition
        if own.study is None:
            raise SubspectError(
                f"decomposition {own.name!r} was read from a file and doesn't know its study; take it from there, "
                f"study[{own.name!r}], or call the function with the study: subspect.FUNCTION(study, decomposition, …)"
            )
        return own.study, own

    @property
    def _decomposition(self) -> Decomposition:
        return cast("Decomposition", self)
