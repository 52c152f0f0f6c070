"""The report: what was found, what it costs, and the images behind every feature, as pages that need nothing else.

With few classes it is one HTML file. With many, the first page is small, and a page for each class and each feature lies in
a folder beside it (see `subspect.ground.pages`), to be opened when wanted. Pages hold all that they show, ask nothing of any
network, and escape whatever comes from names and paths. Image paths in them are relative to the image set's folder.
"""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment

from subspect.asking.deciding import deciding
from subspect.asking.essentiality import without_each
from subspect.ground.addresses import look_again
from subspect.ground.errors import SubspectError
from subspect.ground.files import check_free, make_folder
from subspect.ground.locks import locked
from subspect.ground.pages import check_pages, remove_others, write_generation
from subspect.ground.progress import progress
from subspect.ground.seals import is_sealed, write_sealed
from subspect.ground.text import legible
from subspect.heads.cost import NetworkSize, head_costs, size_of
from subspect.heads.decomposition import Decomposition
from subspect.heads.head import MANY
from subspect.images.opening import ImageSource
from subspect.measuring.fidelity import Fidelity, evaluate
from subspect.networks.network import Network
from subspect.report.behind import behind_of
from subspect.report.faces import check_given, class_pages
from subspect.report.gallery import LEFT_OUT, gallery_of
from subspect.report.overview import overview_of
from subspect.report.rendering import environment, source
from subspect.report.resting import resting_of
from subspect.report.site import Site
from subspect.studies.decompositions import DecompositionLike, opened
from subspect.studies.same_network import head_of, real_images, same_network
from subspect.studies.study import Study, StudyLike

SINGLE = 60  #: classes that fit into a single file
_WHAT_IF = 1_000_000  # feature values that a page holds to answer what-if


def write_report(
    study: StudyLike,
    decomposition: DecompositionLike,
    *,
    fidelity: Fidelity | None = None,
    path: str | Path | None = None,
    show_images: bool = True,
    images: ImageSource | None = None,
    network: Network | None = None,
    show_progress: bool = True,
) -> Path:
    """Write the report of a decomposition.

    Args:
        study: where the features are stored.
        decomposition: of this study.
        fidelity: what it costs; measured unless given.
        path: the first page, a file that ends in .html; ``report.html`` in the study unless given. With more than 60
            classes, the other pages lie beside it in ``report-pages``. An earlier report there is replaced, nothing else.
        show_images: whether to show images, or texts and links; leave them out for private data.
        images: those that were observed, where they were in memory, or have been moved since (see `subspect.open_images`).
        network: the network that was observed, to show where in an image each feature is active.
        show_progress: whether to draw a progress bar.

    Returns:
        The path of the first page.

    Raises:
        SubspectError: decomposition or fidelity are of something else, the file cannot be written or would replace what is
            no report, ``images`` is no source of images, or ``network`` another one; or either was given and the study was
            made from features alone.

    Example:
        >>> subspect.write_report("study", "pursuit-k5", path="report.html", network=network, show_progress=False)
        PosixPath('report.html')
    """
    study, decomposition = opened(study, decomposition)
    check_given(study, decomposition, fidelity, network, images)
    if path is not None and not isinstance(path, str | os.PathLike):
        raise SubspectError(f"the report's path must be a file ending in .html, got {type(path).__name__}")
    path = study.path / "report.html" if path is None else Path(path)
    check_report(path, len(decomposition.class_names))
    fidelity = evaluate(study, decomposition) if fidelity is None else fidelity
    make_folder(path.parent)
    gallery = gallery_of(study, decomposition, network, images, show_progress) if show_images else LEFT_OUT
    templates = environment()
    lost = zip(*(one.tolist() for one in without_each(study, decomposition, fidelity.where)), strict=True)
    single, layer = len(decomposition.class_names) <= SINGLE, decomposition.layer()
    site = Site(
        study=study,
        decomposition=decomposition,
        fidelity=fidelity,
        gallery=gallery,
        overview=overview_of(study, decomposition, fidelity),
        resting=resting_of(study, decomposition, fidelity, show_images),
        deciding=deciding(study, decomposition, fidelity.where),
        classes=class_pages(decomposition, fidelity, list(lost)),
        features=_features(decomposition),
        running=head_costs(layer),
        kernels=(layer.kernel_for(1), layer.kernel_for(MANY)),
        whole=_whole(study, network, images) if network is not None else None,
        what_if=_what_if(study, decomposition, fidelity) if single else None,
        behind=behind_of(study, decomposition, network, images, show_images, show_progress),
        feature_names=study.feature_names,
        single=single,
        script=source("report.js"),
        index=_address(path.name),
    )
    first = templates.get_template("report.html")
    if single:
        write_sealed(path, first.render(site=site).encode())
        return path
    folder = _folder(path)
    with locked(folder, f"writing the report {path}"):
        look_again(path.parent)
        check_pages(folder)  # again: something may have appeared meanwhile
        kept = write_generation(folder, _pages(replace(site, inside=True), templates, show_progress))
        site = replace(site, folder=f"{_address(folder.name)}/{kept}")
        write_sealed(path, first.render(site=site).encode())
        remove_others(folder, kept)
    return path


def check_report(path: Path, n_classes: int) -> None:
    """Refuse a place where a report would replace, or lie among, what isn't one, before the work.

    Raises:
        SubspectError: the name doesn't end in .html; or something else is there, or in the folder of the other pages.
    """
    if path.suffix != ".html":  # the same letters: the pages of x.htm and x.html would lie in one folder
        raise SubspectError(f"the report is HTML; name a file that ends in .html, not {path.name!r}")
    check_free(path, is_sealed)
    if n_classes > SINGLE:
        check_pages(_folder(path))


def _folder(path: Path) -> Path:
    return path.with_name(f"{path.stem}-pages")


def _address(name: str) -> str:
    """Return the name of a file as it stands in a link."""
    return quote(os.fsencode(name), safe="")


def _whole(study: Study, network: Network, images: ImageSource | None) -> NetworkSize | None:
    """Return the size of the whole network; None where there is no image to run it on."""
    try:
        same = same_network(study, network)
        pixels = real_images(study, same, 1, images)
        head = head_of(same, pixels)
    except SubspectError:  # the images have been moved, which the gallery says
        return None
    with same.running():
        return size_of(same.model, head, pixels)


def _pages(site: Site, templates: Environment, show: bool) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the page of each class and each feature."""
    class_page, feature_page = templates.get_template("class.html"), templates.get_template("feature.html")
    with progress("pages", len(site.classes) + len(site.features), "pages", show=show) as advance:
        for one in site.classes:
            yield f"class-{one.label}.html", class_page.render(site=site, one=one).encode()
            advance(1)
        for feature, uses in site.features.items():
            yield f"feature-{feature}.html", feature_page.render(site=site, feature=feature, uses=uses).encode()
            advance(1)


def _features(decomposition: Decomposition) -> dict[int, list[tuple[int, float]]]:
    """Return feature → the classes that use it, each with its weight; of classes without images nothing."""
    uses: dict[int, list[tuple[int, float]]] = {}
    for label in range(len(decomposition.class_names)):
        for row in decomposition.rows(label) if label not in decomposition.unseen else ():
            uses.setdefault(row.feature, []).append((label, row.weight))
    return dict(sorted(uses.items()))


def _what_if(study: Study, decomposition: Decomposition, fidelity: Fidelity) -> dict[str, Any] | None:
    """Return what a page needs to compute logits anew; None where that is too much.

    The pages choose among all classes, so there is nothing where the cost is that among a few.

    ``command`` and ``words`` (one for each class) are parts of a command to copy, quoted for a shell. A class whose name
    would act on the page goes by its index there.
    """
    columns, names = np.unique(decomposition.supports.flat), decomposition.class_names
    if fidelity.overall.images * len(columns) > _WHAT_IF or fidelity.where.among == "given":
        return None
    chunks = list(fidelity.where.chunks())
    features = np.concatenate([chunk.features[:, columns] for chunk in chunks])
    classes = [
        {
            "bias": float(decomposition.bias[label]),
            "weights": [[row.feature, row.weight] for row in decomposition.rows(label)],
        }
        for label in range(len(decomposition.class_names))
    ]
    return {
        "command": shlex.join(
            ["--decomposition", legible(decomposition.name), "--on", legible(fidelity.where.image_set)]
        ),
        "words": [shlex.quote(name if legible(name) == name else str(label)) for label, name in enumerate(names)],
        "columns": columns.tolist(),
        "features": base64.b64encode(np.ascontiguousarray(features.T, "<f4").tobytes()).decode(),
        "labels": np.concatenate([chunk.labels for chunk in chunks]).tolist(),
        "said": np.concatenate([chunk.predictions for chunk in chunks]).tolist(),
        "classes": classes,
    }
