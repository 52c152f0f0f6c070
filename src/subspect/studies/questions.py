"""The methods of a study: each is the function of that name, with this study as its first argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.text import Text

import subspect
from subspect.ground.errors import some
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import counted, legible
from subspect.heads.feature_names import check_no_number, feature_index
from subspect.images.preprocessing import described
from subspect.studies.manifests import SetManifest

if TYPE_CHECKING:
    from subspect.asking.geometry import Geometry
    from subspect.asking.selectivity import Selectivity
    from subspect.checking.verify import Verified
    from subspect.choosing.sizes import Budget
    from subspect.giving.export_features import ExportedFeatures
    from subspect.giving.tradeoff import Tradeoff
    from subspect.heads.decomposition import Decomposition
    from subspect.networks.network import Network
    from subspect.studies.name_features import FeatureNames
    from subspect.studies.study import Study


class StudyQuestions(Result):
    """The methods of a study; the options are those of the function named."""

    def decompose(self, k: Budget = 5, **options: Any) -> Decomposition:
        """Find the few features that decide each class: `subspect.decompose`."""
        return subspect.decompose(self._study, k, **options)

    def selectivity(self, **options: Any) -> Selectivity:
        """Measure how class-specific features and layers are: `subspect.selectivity`."""
        return subspect.selectivity(self._study, **options)

    def geometry(self, **options: Any) -> Geometry:
        """Measure in how many dimensions features and decisions lie: `subspect.geometry`."""
        return subspect.geometry(self._study, **options)

    def tradeoff(self, network: Network, pools: Sequence[int] | None = None, **options: Any) -> Tradeoff:
        """Set accuracy against multiplications, or with ``budgets`` against time: `subspect.tradeoff`."""
        return subspect.tradeoff(self._study, network=network, pools=pools, **options)

    def name_feature(self, feature: int | str, name: str | None) -> FeatureNames:
        """Name one feature, given by its index or by the name that it has; None takes its name away."""
        index = feature_index(feature, self._study.feature_names, self._study.identity.n_features)
        check_no_number({index: name})
        return subspect.name_features(self._study, {index: name})

    def name_features(self, names: Mapping[int, str | None] | Mapping[str, str | None] | Sequence[str]) -> FeatureNames:
        """Give features names, which are shown wherever the features are: `subspect.name_features`."""
        return subspect.name_features(self._study, names)

    def export_features(self, path: str | Path, **options: Any) -> ExportedFeatures:
        """Write the features of an image set as files of another tool's: `subspect.export_features`."""
        return subspect.export_features(self._study, path=path, **options)

    def verify(self, **options: Any) -> Verified:
        """Check every file against its checksum: `subspect.verify`."""
        return subspect.verify(self._study, **options)

    def tables(self) -> list[Table]:
        """Return a table for the terminal: network, preprocessing, image sets, decompositions."""
        study = self._study
        identity = study.identity
        table = Table(title=study.address, show_header=False, title_justify="left")
        table.add_column(style="dim")
        table.add_column(overflow="fold")
        alone = "none, features alone: " if identity.features_alone else ""
        table.add_row("network", f"{alone}{identity.network} (weights {identity.fingerprint[:12]}…)")
        table.add_row("head", f"{identity.head_name}: {identity.n_classes} classes × {identity.n_features} features")
        table.add_row("preprocessing", described(identity.preprocessing))
        for name in study.set_names:
            table.add_row(f"{identity.examples} {name!r}", _about(study, name))
        for name in study.unfinished:
            left = study.as_set(name, study.manifest(name)).left
            whole = "" if identity.features_alone else " (without --part, for all of it)"
            told = f"unfinished: {left}; run the same {identity.filled_by} command again to resume{whole}"
            table.add_row(f"{identity.examples} {name!r}", told)
        table.add_row("decompositions", ", ".join(study.decomposition_names) or "none yet")
        if study.feature_names:
            have = "has" if len(study.feature_names) == 1 else "have"
            table.add_row("names", f"{len(study.feature_names):,} of {identity.n_features:,} features {have} one")
        return [table]

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each image set that is finished."""
        rows: list[Mapping[str, Any]] = []
        for name in self._study.set_names:
            manifest = asdict(self._study.image_set(name).manifest)
            about = {key: manifest[key] for key in ("rows", "kind", "root", "labelled", "matching", "fingerprint")}
            rows.append({"set": name, **about, "failed": len(manifest["failed"])})
        return rows

    @property
    def _study(self) -> Study:
        return cast("Study", self)


def _about(study: Study, name: str) -> Text:
    """Say of an image set what it holds, and what couldn't be used."""
    manifest = study.image_set(name).manifest
    what = "rows of features" if manifest.kind == "features" else study.identity.examples
    one = "row of features" if manifest.kind == "features" else what[:-1]
    where = manifest.root or "in memory"
    if manifest.root and manifest.table:
        where = str(Path(manifest.root) / manifest.table)
    sample = f"; a sample, {manifest.sample}" if manifest.sample else ""
    place = "" if manifest.kind == "features" else f" ({manifest.kind}, {where}{sample})"
    text = f"{counted(manifest.seen, one, what)}{place}{_kept(manifest)}; labels: {manifest.matching}"
    if manifest.layers:
        text += f"; {counted(len(manifest.layers), 'layer', 'layers')}: {some(manifest.layers, 4)}"
    if manifest.failed:
        text += f"; {len(manifest.failed)} could not be used:"
    failed = [legible(f"  {id}: {reason}") for id, reason in manifest.failed[:10]]
    return Text("\n".join([legible(text), *failed]))


def _kept(manifest: SetManifest) -> str:
    """Say what is kept of images, where that is not the features of all."""
    if not manifest.sampled:
        return ""
    return ", statistics of all and features of " + (
        f"a sample of {manifest.rows:,}" if manifest.rows < manifest.seen else "all"
    )
