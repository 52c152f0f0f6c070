"""From a study to a decomposition: which features, by which method, how many. It only conducts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from subspect.decomposition import Decomposition, decomposition_path
from subspect.errors import SubspectError, some
from subspect.influence import METHODS, contribution, frequency
from subspect.statistics import ClassSums, TopFeatures, check_size
from subspect.study import Part, Study, lock
from subspect.supports import Supports

log = logging.getLogger("subspect")


def decompose(study: Study, k: int | float = 5, method: str = METHODS[0], *, on: str | None = None) -> Decomposition:
    """Find the influential features of every class and keep only those, with the dense head's weights and biases.

    The decomposition is saved in the study, as ``METHOD-kK``.

    Args:
        study: with one or more image sets.
        k: how many features for each class; with method "frequency" also a share of the mass between 0 and 1.
        method: "contribution" or "frequency" (see `subspect.influence`).
        on: the image set to choose on, "train" or the first unless given. Where the study has no other, only 80 % of
            its images are used, by a hash of the id, and the rest is left for `subspect.evaluate`.

    Raises:
        SubspectError: k larger than d, an unknown method, or no such image set.
    """
    return decompose_each(study, [k], method, on=on)[0]


def decompose_each(
    study: Study, ks: Sequence[int | float], method: str = METHODS[0], *, on: str | None = None
) -> list[Decomposition]:
    """Do the same for several k in one pass over the features."""
    sizes = check_choice(ks, method, study.identity.n_features)
    seen = _look(study, on, sizes)
    made = []
    for size in sizes:
        if method == "frequency":
            supports = frequency(seen.top, size)
        else:
            supports = contribution(study.head()[0].numpy(), seen.sums, int(size))
        made.append(_assemble(study, seen, supports, method, size, size, f"{method}-k{size}"))
    return made


def check_choice(ks: Sequence[int | float], method: str, n_features: int) -> list[int | float]:
    """Check numbers of features and a method against each other and the network, before anything is computed.

    Raises:
        SubspectError: an unknown method, a k larger than d, or a share with a method that takes none.
    """
    if method not in METHODS:
        raise SubspectError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    sizes = [check_size(k, n_features) for k in ks]
    if method != "frequency" and not all(isinstance(size, int) for size in sizes):
        raise SubspectError(f"a share of the mass goes with method 'frequency'; {method!r} takes a whole k, got {ks}")
    return sizes


def decompose_by_file(
    study: Study, path: str | Path, *, on: str | None = None, name: str | None = None
) -> Decomposition:
    """Keep the features that an index file lists (class index → feature indices), with the dense head's weights.

    Frequency and mean of each feature are still measured on the image set ``on``.

    Raises:
        SubspectError: not an index file, or one for other classes or features.
    """
    supports = Supports.read(path, study.identity.n_classes, study.identity.n_features)
    size = int(supports.sizes.max())
    return _assemble(
        study, _look(study, on, [size]), supports, f"indices of {Path(path).name}", None, size, name or Path(path).stem
    )


@dataclass(frozen=True)
class _Seen:
    """What one pass over the features has gathered."""

    image_set: str
    part: Part
    top: TopFeatures
    sums: ClassSums


def _look(study: Study, on: str | None, sizes: Sequence[int | float]) -> _Seen:
    names = study.set_names
    if on is None and not names and not study.unfinished:
        raise SubspectError(f"the study {study.path} has no finished image set; observe one first")
    unfinished_train = "train" in study.unfinished and on is None
    image_set = study[on if on is not None else "train" if unfinished_train else names[0]]
    part: Part = "all" if len(names) > 1 else "80 %"
    shape = study.identity.n_classes, study.identity.n_features
    seen = _Seen(image_set.name, part, TopFeatures(*shape, sizes), ClassSums(*shape))
    for chunk in image_set.chunks(part):
        seen.top.update(chunk.features, chunk.labels)
        seen.sums.update(chunk.features, chunk.labels)
    return seen


def _assemble(
    study: Study, seen: _Seen, supports: Supports, method: str, k: int | float | None, size: int | float, name: str
) -> Decomposition:
    weight, bias = study.head()
    rows, columns = supports.rows, supports.flat
    frequency = seen.top.counts(size)[rows, columns] / np.maximum(seen.top.images, 1)[rows]
    labelled = study[seen.image_set].labelled
    choice = {"method": method, "k": k, "set": seen.image_set, "part": seen.part, "labelled": labelled}
    decomposition = Decomposition(
        name=name,
        supports=supports,
        weights=weight[torch.from_numpy(rows), torch.from_numpy(columns)],
        bias=bias,
        frequency=torch.from_numpy(frequency.astype(np.float32)),
        mean=torch.from_numpy(seen.sums.means()[rows, columns].astype(np.float32)),
        class_names=study.identity.class_names,
        network=study.identity.network,
        fingerprint=study.identity.weights,
        head=study.identity.head,
        unseen=tuple(np.flatnonzero(seen.top.images == 0).tolist()),
        history=(choice,),
    )
    if decomposition.unseen:
        unseen = [study.identity.class_names[label] for label in decomposition.unseen]
        log.warning("%d classes have no images and keep their dense row: %s", len(unseen), some(unseen))
    with lock(study.path):
        decomposition.save(decomposition_path(study, name))
    return decomposition
