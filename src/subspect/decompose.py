"""From a study to a decomposition: which features, by which method, how many, with which weights. It only conducts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from subspect import influence
from subspect.boundary import TARGETS, Boundary, Choice, Head, Target
from subspect.decomposition import Decomposition, decomposition_path
from subspect.errors import SubspectError, some
from subspect.progress import progress
from subspect.refit import ROUNDS, Refit, reselect
from subspect.refit import refit as relearn
from subspect.rows import Rows
from subspect.statistics import ClassSums, TopFeatures, check_size
from subspect.study import Part, Study, lock
from subspect.supports import Supports

METHODS = ("pursuit", *influence.METHODS)  #: the first is the default
log = logging.getLogger("subspect")


def decompose(
    study: Study,
    k: int | float = 5,
    method: str = METHODS[0],
    *,
    on: str | None = None,
    target: Target = TARGETS[0],
    refit: bool | None = None,
    show_progress: bool = True,
) -> Decomposition:
    """Find the few features that decide every class, and keep only those.

    The decomposition is saved in the study, as ``METHOD-kK``.

    Args:
        study: with one or more image sets.
        k: how many features for each class; with method "frequency" also a share of the mass between 0 and 1.
        method: "pursuit" (see `subspect.pursuit`), "contribution" or "frequency" (see `subspect.influence`).
        on: the image set to choose on, "train" or the first unless given. Where the study has no other, only 80 % of
            its images are used, by a hash of the id, and the rest is left for `subspect.evaluate`.
        target: what the decomposed head is to come close to, the "dense" network or the "labels".
        refit: whether to re-learn weights and biases on the chosen features, and with "pursuit" to choose anew with
            those. Unless given, with "pursuit" only: "contribution" and "frequency" keep the dense head's weights.
        show_progress: whether to draw a progress bar.

    Raises:
        SubspectError: k larger than d, an unknown method or target, no such image set, or images that tell nothing.
    """
    return decompose_each(study, [k], method, on=on, target=target, refit=refit, show_progress=show_progress)[0]


def decompose_each(
    study: Study,
    ks: Sequence[int | float],
    method: str = METHODS[0],
    *,
    on: str | None = None,
    target: Target = TARGETS[0],
    refit: bool | None = None,
    show_progress: bool = True,
) -> list[Decomposition]:
    """Do the same for several k; statistics are taken once for all of them."""
    sizes = check_choice(ks, method, study.identity.n_features, target)
    seen = _look(study, on, sizes, target)
    refit = method == "pursuit" if refit is None else refit
    found = (_by_pursuit if method == "pursuit" else _by_influence)(seen, sizes, method, refit, show_progress)
    name = f"{method}-k{{}}{'' if target == 'dense' else f'-{target}'}"
    name += "" if refit == (method == "pursuit") else "-refit" if refit else "-raw"
    return [
        _assemble(study, seen, choice, learned, (method, size), size, name.format(size))
        for size, (choice, learned) in zip(sizes, found, strict=True)
    ]


def check_choice(
    ks: Sequence[int | float], method: str, n_features: int, target: str = TARGETS[0]
) -> list[int | float]:
    """Check numbers of features and a method against each other and the network, before anything is computed.

    Raises:
        SubspectError: an unknown method or target, a k larger than d, or a share with a method that takes none.
    """
    if method not in METHODS:
        raise SubspectError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if target not in TARGETS:
        raise SubspectError(f"target must be one of {', '.join(TARGETS)}; got {target!r}")
    sizes = [check_size(k, n_features) for k in ks]
    if method != "frequency" and not all(isinstance(size, int) for size in sizes):
        raise SubspectError(f"a share of the mass goes with method 'frequency'; {method!r} takes a whole k, got {ks}")
    return sizes


def decompose_by_file(
    study: Study,
    path: str | Path,
    *,
    on: str | None = None,
    name: str | None = None,
    target: Target = TARGETS[0],
    refit: bool = False,
) -> Decomposition:
    """Keep the features that an index file lists (class index → feature indices), with the dense head's weights or refitted.

    Frequency and mean of each feature are still measured on the image set ``on``.

    Raises:
        SubspectError: not an index file, or one for other classes or features.
    """
    supports = Supports.read(path, study.identity.n_classes, study.identity.n_features)
    size = int(supports.sizes.max())
    seen = _look(study, on, [size], target)
    choice, learned = _keep(seen, supports, refit)
    name = name or Path(path).stem + ("-refit" if refit else "")
    return _assemble(study, seen, choice, learned, (f"indices of {Path(path).name}", None), size, name)


@dataclass(frozen=True)
class _Seen:
    """What one pass over the features has gathered."""

    image_set: str
    part: Part
    labelled: bool
    rows: Rows
    dense: Head
    target: Target
    top: TopFeatures
    sums: ClassSums

    @property
    def unseen(self) -> list[int]:
        """Classes without images."""
        return np.flatnonzero(self.top.images == 0).tolist()


def _look(study: Study, on: str | None, sizes: Sequence[int | float], target: Target) -> _Seen:
    names = study.set_names
    if on is None and not names and not study.unfinished:
        raise SubspectError(f"the study {study.path} has no finished image set; observe one first")
    unfinished_train = "train" in study.unfinished and on is None
    image_set = study[on if on is not None else "train" if unfinished_train else names[0]]
    if target == "labels" and not image_set.labelled:
        raise SubspectError(f"target 'labels' needs labels, and {image_set.name!r} has none; take target 'dense'")
    part: Part = "all" if len(names) > 1 else "80 %"
    shape = study.identity.n_classes, study.identity.n_features
    top, sums, rows = TopFeatures(*shape, sizes), ClassSums(*shape), Rows(image_set, part)
    for block in rows:
        top.update(block.features, block.labels)
        sums.update(block.features, block.labels)
    weight, bias = (tensor.double().numpy() for tensor in study.head())
    return _Seen(image_set.name, part, image_set.labelled, rows, (weight, bias), target, top, sums)


def _by_pursuit(
    seen: _Seen, sizes: Sequence[int | float], method: str, refit: bool, show_progress: bool
) -> Iterator[tuple[Choice, Refit | None]]:
    boundary = Boundary(seen.rows, *seen.dense, seen.target)
    _check_logits(boundary)
    n_classes = len(seen.dense[0])
    choices = boundary.choose(np.array([[int(size)] * n_classes for size in sizes]))
    for size, choice in zip(sizes, choices, strict=True):
        learned = None
        if refit:
            with progress(f"k = {size}", ROUNDS, "rounds", show=show_progress) as advance:
                choice, learned = reselect(boundary, choice, advance=advance)
        spread = np.abs(choice.head[0]) * boundary.moments.deviations()
        supports = [s[np.argsort(-row[s], kind="stable")] for s, row in zip(choice.supports, spread, strict=True)]
        yield Choice(supports, choice.head), learned


def _by_influence(
    seen: _Seen, sizes: Sequence[int | float], method: str, refit: bool, show_progress: bool
) -> Iterator[tuple[Choice, Refit | None]]:
    for size in sizes:
        if method == "frequency":
            supports = influence.frequency(seen.top, size)
        else:
            supports = influence.contribution(seen.dense[0], seen.sums, int(size))
        yield _keep(seen, supports, refit)


def _keep(seen: _Seen, supports: Supports, refit: bool) -> tuple[Choice, Refit | None]:
    """Keep the dense head's weights on some supports, or re-learn them from there."""
    weight = np.zeros_like(seen.dense[0])
    weight[supports.rows, supports.flat] = seen.dense[0][supports.rows, supports.flat]
    choice = Choice([supports[label] for label in range(len(supports))], (weight, seen.dense[1]))
    if not refit:
        return choice, None
    learned = relearn(seen.rows, seen.dense, choice.supports, choice.head, seen.target, fixed=seen.unseen)
    return Choice(choice.supports, learned.head), learned


def _check_logits(boundary: Boundary) -> None:
    """Say what is unusual about the images or the head, before features are chosen on them."""
    if not boundary.margin:
        log.warning("the two largest logits are equal for most images: no image is nearer to a boundary than another")


def _assemble(
    study: Study,
    seen: _Seen,
    choice: Choice,
    learned: Refit | None,
    method: tuple[str, int | float | None],
    size: int | float,
    name: str,
) -> Decomposition:
    supports = Supports(choice.supports, study.identity.n_features)
    rows, columns = supports.rows, supports.flat
    (weight, bias), names = learned.head if learned else choice.head, study.identity.class_names
    frequency = seen.top.counts(size)[rows, columns] / np.maximum(seen.top.images, 1)[rows]
    history: list[dict[str, Any]] = [
        {
            "method": method[0],
            "k": method[1],
            "set": seen.image_set,
            "part": seen.part,
            "labelled": seen.labelled,
            "target": seen.target,
        }
    ]
    if learned:
        history.append(
            {"refit": seen.target, "loss": learned.loss, "steps": learned.steps, "converged": learned.converged}
        )
    decomposition = Decomposition(
        name=name,
        supports=supports,
        weights=torch.from_numpy(weight[rows, columns].astype(np.float32)),
        bias=torch.from_numpy(bias.astype(np.float32)),
        frequency=torch.from_numpy(frequency.astype(np.float32)),
        mean=torch.from_numpy(seen.sums.means()[rows, columns].astype(np.float32)),
        class_names=names,
        network=study.identity.network,
        fingerprint=study.identity.weights,
        head=study.identity.head,
        unseen=tuple(seen.unseen),
        history=tuple(history),
    )
    if decomposition.unseen:
        unseen = [names[label] for label in decomposition.unseen]
        log.warning("%d classes have no images and keep their dense row: %s", len(unseen), some(unseen))
    short = [names[label] for label in np.flatnonzero(supports.sizes < size).tolist() if isinstance(method[1], int)]
    if short and method[0] == "pursuit":
        log.warning(
            "%d classes have fewer than %s features, since no other adds anything on these %d images: %s",
            len(short),
            size,
            int(seen.top.images.sum()),
            some(short),
        )
    with lock(study.path):
        decomposition.save(decomposition_path(study, name))
    return decomposition
