"""The report: one HTML file that shows what was found, what it costs, and the images behind every feature.

It holds all that it shows (pictures, style), asks nothing of the network, and escapes whatever comes from names and
paths. Image paths in it are relative to the image set's folder.
"""

from __future__ import annotations

import base64
import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image

from subspect.decomposition import Decomposition
from subspect.errors import SubspectError, Unusable, some
from subspect.fidelity import Fidelity, percent
from subspect.files import atomic
from subspect.images import Images, decode, open_images
from subspect.progress import progress
from subspect.report.curve import curve_svg
from subspect.statistics import TopImages
from subspect.study import Study

log = logging.getLogger("subspect")

_SHOWN = 6  # images for each feature
_SIDE = 64  # pixels of a thumbnail's side


@dataclass(frozen=True)
class Strip:
    """The images that activate one feature most, side by side in one picture.

    Attributes:
        data: the picture as a data URI.
        images: for each image its class, and a caption with class, path and the feature's value.
    """

    data: str
    images: tuple[tuple[str, str], ...]


def write_report(
    study: Study,
    decomposition: Decomposition,
    fidelity: Fidelity,
    path: str | Path | None = None,
    *,
    images: bool = True,
    source: object = None,
    show_progress: bool = True,
) -> Path:
    """Write the report of a decomposition as one self-contained HTML file.

    Args:
        study: where the features are stored.
        decomposition: of this study.
        fidelity: what it costs.
        path: the file; ``report.html`` in the study unless given.
        images: whether to show images; leave them out for private data.
        source: the images that were observed, where they were in memory, or have been moved since.
        show_progress: whether to draw a progress bar.

    Returns:
        The path written.

    Raises:
        SubspectError: the file cannot be written, or ``source`` is no source of images.
    """
    path = study.path / "report.html" if path is None else Path(path)
    strips: dict[int, Strip] = {}
    remark = "Images were left out."
    if images:
        strips, remark = _strips(study, decomposition, source, show_progress)
    environment = Environment(
        loader=PackageLoader("subspect.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda estimate: percent(estimate).replace(" %", "\u00a0%")
    environment.filters["share"] = lambda estimate: percent(estimate).partition(" (")[0].replace(" %", "\u00a0%")
    environment.filters["interval"] = lambda estimate: "(" + percent(estimate).partition(" (")[2]
    page = environment.get_template("report.html").render(
        study=study,
        sets=[study[name] for name in study.set_names],
        decomposition=decomposition,
        fidelity=fidelity,
        classes=[decomposition.rows(label) for label in range(len(decomposition.class_names))],
        strips=strips,
        remark=remark,
        curve=curve_svg(decomposition.curve) if decomposition.curve else "",
        side=_SIDE,
    )
    with atomic(path) as file:
        file.write(page.encode())
    return path


def _strips(study: Study, decomposition: Decomposition, source: object, show: bool) -> tuple[dict[int, Strip], str]:
    """Find the images that activate each feature most, in one pass over the stored features, and draw them."""
    name = decomposition.chosen_on[0]
    image_set = study[name]
    opened = open_images(source) if source is not None else None
    kept = [label for label in range(len(decomposition.class_names)) if label not in decomposition.unseen]
    wanted = np.unique(np.concatenate([decomposition.supports[label] for label in kept])) if kept else np.empty(0, int)
    if opened is None and image_set.manifest.root is None:
        return {}, (
            f"The images of {name!r} were in memory ({image_set.manifest.kind}), so there are none to show; from Python, "
            "pass them to write_report(source=…)."
        )
    top = TopImages(len(wanted), _SHOWN)
    for chunk in image_set.chunks():
        top.update(chunk.features[:, wanted], chunk.labels, chunk.ids)
    strips, missing = {}, set[str]()
    with progress("report", len(wanted), "features", show=show) as advance:
        for column, feature in enumerate(wanted.tolist()):
            strips[feature] = _strip(top, column, opened, image_set.manifest.root, decomposition.class_names, missing)
            advance(1)
    remark = f"For each feature, the images of {name!r} that activate it most, over all classes; under each its class."
    if not image_set.labelled:
        remark += " There are no labels: the class is the network's own prediction."
    if missing:
        place = image_set.manifest.root if opened is None else opened.root or "the images given"
        log.warning(
            "report: %d images could not be read again from %s: %s; if they were moved, say where they are: --images FOLDER",
            len(missing),
            place,
            some(sorted(missing), 3),
        )
        remark += f" {len(missing)} images could not be read again and are left grey: {some(sorted(missing), 3)}."
    return strips, remark


def _strip(
    top: TopImages, column: int, source: Images | None, root: str | None, names: tuple[str, ...], missing: set[str]
) -> Strip:
    shown = [row for row in range(len(top.values)) if top.labels[row, column] >= 0]
    canvas = Image.new("RGB", (_SIDE * max(len(shown), 1), _SIDE), (128, 128, 128))
    images = []
    for place, row in enumerate(shown):
        id, label = str(top.ids[row, column]), names[top.labels[row, column]]
        try:
            picture = source.picture(id) if source is not None else decode(Path(root or "") / id)
            canvas.paste(_thumbnail(picture), (place * _SIDE, 0))
        except (Unusable, SubspectError):
            missing.add(id)
        images.append((label, f"{label}, {id}: {top.values[row, column]:.3g}"))
    buffer = io.BytesIO()
    canvas.save(buffer, "WEBP", quality=70)
    data = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Strip(data, tuple(images))


def _thumbnail(picture: Image.Image) -> Image.Image:
    """Fit a picture into a square; small pictures are enlarged by whole pixels, so that they stay crisp."""
    scale = _SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    fitted = picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)
    square = Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128))
    square.paste(fitted, ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
    return square
