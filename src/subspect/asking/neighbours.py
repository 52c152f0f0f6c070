"""Images of a study that an image is near to, by the features that matter of it, and the image itself among them.

Two images are near where each feature says nearly the same of them: the distance is that of the terms, in logits. An image is
known again by its file's bytes; where these aren't known, by its path and its features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from subspect.asking.one_image import seen_by
from subspect.ground.errors import SubspectError, Unusable
from subspect.ground.files import read_bytes
from subspect.heads.decomposition import Decomposition
from subspect.heads.terms import Term
from subspect.images.decoding import digest
from subspect.images.preprocessing import AnyPreprocessing
from subspect.studies.reopen import Reopened
from subspect.studies.study import Study

NEAREST = 6  # images of the study that are shown beside an image
_ITSELF = 1e-4  # of the terms' norm: an image whose path ends alike and that is no farther away is the image itself
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Neighbour:
    """An image of the study that is near by the features that matter here.

    Attributes:
        id: of the image in its set.
        label: class name.
        prediction: class name, of the dense network.
        distance: root of the summed squared differences of contributions, in logits.
        picture: what the network sees of it; None where its file isn't there any more, or it was in memory.

    Example:
        >>> neighbours = decomposition.explain(network, "cat.jpg").neighbours
        >>> neighbours[0].distance <= neighbours[1].distance
        True
    """

    id: str
    label: str
    prediction: str
    distance: float
    picture: Image.Image | None = field(compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return all but the picture as JSON values."""
        return {key: value for key, value in vars(self).items() if key != "picture"}


def nearest(
    study: Study, decomposition: Decomposition, found: list[Term], name: str, preprocessing: AnyPreprocessing | None
) -> tuple[Neighbour, ...]:
    """Find the images whose terms are nearest, in one pass over the stored features."""
    columns = [term.feature for term in found]
    scale = np.array([term.weights[0] - term.weights[1] for term in found])
    here = np.array([term.contribution for term in found])
    names = decomposition.class_names
    best: list[tuple[float, str, int, int]] = []
    for chunk in study.image_set(decomposition.chosen_on[0]).chunks():
        distances = np.linalg.norm(chunk.features[:, columns] * scale - here, axis=1)
        for row in np.argsort(distances, kind="stable")[: NEAREST + 1].tolist():
            best.append((float(distances[row]), chunk.ids[row], int(chunk.labels[row]), int(chunk.predictions[row])))
        best = sorted(best)[: NEAREST + 1]
    image_set, close = study.image_set(decomposition.chosen_on[0]), _ITSELF * float(np.linalg.norm(here))
    own, near = _digest(name), Reopened(image_set, [one[1] for one in best])
    same = [one for one in best if own is not None and near.digest(one[1]) == own]
    itself = same or [one for one in best if name.endswith(one[1]) and one[0] <= close]
    others = [one for one in best if one not in itself][:NEAREST]

    def picture(id: str) -> Image.Image | None:
        try:
            given = near.given(id)
            return seen_by(preprocessing, given) if preprocessing and isinstance(given, Image.Image) else None
        except Unusable:
            return None

    return tuple(
        Neighbour(id, names[label], names[said], distance, picture(id)) for distance, id, label, said in others
    )


def label_of(study: Study, decomposition: Decomposition, name: str, features: Array) -> str | None:
    """Return the class name that the study gives an image; None where no labelled image set has it, or two labels are given.

    A file is known by its bytes. Where these aren't known, an image is the one of the same id, if its features are as well.
    """
    first = decomposition.chosen_on[0]
    own, close = _digest(name), _ITSELF * float(np.linalg.norm(features))
    place = f"/{Path(name).as_posix()}"
    for image_set in (study.image_set(one) for one in sorted(study.set_names, key=lambda one: one != first)):
        found: dict[str, int] = {}
        for chunk in image_set.chunks() if image_set.labelled else ():
            kept = chunk.digests or [None] * len(chunk.ids)
            for row in [row for row, one in enumerate(kept) if one is None or own is None or one == own]:
                id, known = chunk.ids[row], None not in (own, kept[row])
                alike = known or place.endswith(f"/{id}")
                if alike and (known or float(np.linalg.norm(chunk.features[row] - features)) <= close):
                    found[id] = int(chunk.labels[row])
        mine = {label for id, label in found.items() if name.endswith(id)} or set(found.values())
        if found:
            return decomposition.class_names[mine.pop()] if len(mine) == 1 else None
    return None


def _digest(name: str) -> bytes | None:
    """Return by what an image file is known; None for an image that is called so, but is none."""
    try:
        return digest(read_bytes(Path(name)))
    except SubspectError:
        return None
