"""From a study to a decomposition: which features, by which method, how many, with which weights. It only conducts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from subspect import influence
from subspect.boundary import TARGETS, Boundary, Choice, Head, Target
from subspect.budget import (
    LADDER,
    MOST,
    Auto,
    Checked,
    Counts,
    Found,
    Mean,
    Size,
    allocate,
    check_budget,
    count,
    helped,
    settle,
    shared_pool,
)
from subspect.decomposition import Decomposition, Trusted, decomposition_path
from subspect.errors import SubspectError, some
from subspect.progress import progress
from subspect.pursuit import Indices
from subspect.refit import ROUNDS, reselect
from subspect.refit import refit as relearn
from subspect.rows import Rows
from subspect.stability import Trust, trust
from subspect.statistics import ClassSums, TopFeatures
from subspect.study import Part, Study, lock
from subspect.supports import Supports

METHODS = ("pursuit", *influence.METHODS)  #: the first is the default
_FEW_ROUNDS = 2  # of choosing anew, for each size that is tried
log = logging.getLogger("subspect")


def decompose(
    study: Study,
    k: Size = 5,
    method: str = METHODS[0],
    *,
    on: str | None = None,
    target: Target = TARGETS[0],
    refit: bool | None = None,
    pool: int | None = None,
    show_progress: bool = True,
) -> Decomposition:
    """Find the few features that decide every class, and keep only those.

    The decomposition is saved in the study, as ``METHOD-kK``.

    Args:
        study: with one or more image sets.
        k: how many features for each class. With method "pursuit" also `subspect.Mean`, a mean number, or
            `subspect.Auto` ("auto" for its defaults), the fewest that keep a tolerance; with "frequency" also a share of
            the mass between 0 and 1.
        method: "pursuit" (see `subspect.pursuit`), "contribution" or "frequency" (see `subspect.influence`).
        on: the image set to choose on, "train" or the first unless given. Where the study has no other to measure the
            cost on, only 80 % of its images are used, by a hash of the id, and the rest is left for `subspect.evaluate`.
        target: what the decomposed head is to come close to, the "dense" network or the "labels".
        refit: whether to re-learn weights and biases on the chosen features, and with "pursuit" to choose anew with
            those. Unless given, with "pursuit" only: "contribution" and "frequency" keep the dense head's weights.
        pool: with "pursuit", how many features there are for all classes together to choose from.
        show_progress: whether to draw a progress bar.

    Raises:
        SubspectError: k larger than d, an unknown method or target, no such image set, or images that tell nothing.
    """
    return decompose_each(
        study, [k], method, on=on, target=target, refit=refit, pool=pool, show_progress=show_progress
    )[0]


def decompose_each(
    study: Study,
    ks: Sequence[Size],
    method: str = METHODS[0],
    *,
    on: str | None = None,
    target: Target = TARGETS[0],
    refit: bool | None = None,
    pool: int | None = None,
    show_progress: bool = True,
) -> list[Decomposition]:
    """Do the same for several k; statistics are taken once for all of them."""
    sizes = check_choice(ks, method, study.identity.n_features, target, pool)
    refit = method == "pursuit" if refit is None else refit
    suffix = (f"-pool{pool}" if pool else "") + ("" if target == TARGETS[0] else f"-{target}")
    suffix += "" if refit == (method == "pursuit") else "-refit" if refit else "-raw"
    seen = _look(study, on, sizes, target)
    found = (
        _by_pursuit(seen, sizes, refit, pool, show_progress)
        if method == "pursuit"
        else (_keep(seen, _influential(seen, method, size), refit) for size in sizes)
    )
    return [
        _assemble(study, seen, one, method, size, f"{method}-{_short(size)}{suffix}", pool)
        for size, one in zip(sizes, found, strict=True)
    ]


def check_choice(
    ks: Sequence[Size], method: str, n_features: int, target: str = TARGETS[0], pool: int | None = None
) -> list[Checked]:
    """Check numbers of features and a method against each other and the network, before anything is computed.

    Raises:
        SubspectError: an unknown method or target, a k larger than d, or a size that the method doesn't know.
    """
    if method not in METHODS:
        raise SubspectError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if target not in TARGETS:
        raise SubspectError(f"target must be one of {', '.join(TARGETS)}; got {target!r}")
    sizes = [check_budget(k, n_features, pool) for k in ks]
    if method != "frequency" and any(isinstance(size, float) for size in sizes):
        raise SubspectError(f"a share of the mass goes with method 'frequency'; {method!r} takes a whole k, got {ks}")
    if method != "pursuit" and (pool or any(isinstance(size, Mean | Auto) for size in sizes)):
        raise SubspectError(f"a pool, a mean k and k = 'auto' go with method 'pursuit'; got {method!r}")
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
    seen = _look(study, on, [int(supports.sizes.max())], target)
    name = name or Path(path).stem + ("-refit" if refit else "")
    return _assemble(study, seen, _keep(seen, supports, refit), f"indices of {Path(path).name}", None, name)


def _short(size: Checked) -> str:
    return str(size) if isinstance(size, Mean | Auto) else f"k{size}"


@dataclass(frozen=True)
class _Seen:
    """What one pass over the features has gathered.

    Attributes:
        check: the image set, and the part of it, on which a size is chosen and the cost is measured.
    """

    study: Study
    image_set: str
    part: Part
    labelled: bool
    rows: Rows
    dense: Head
    target: Target
    top: TopFeatures
    sums: ClassSums
    check: tuple[str, Part]

    @property
    def unseen(self) -> list[int]:
        """Classes without images."""
        return np.flatnonzero(self.sums.images == 0).tolist()

    def frequency(self, size: int | float) -> npt.NDArray[np.float64]:
        """Return (C, d): the share of a class's images that have each feature among their largest."""
        top = self.top
        if size not in top.sizes:
            top = TopFeatures(top.n_classes, top.n_features, [size])
            for block in self.rows:
                top.update(block.features, block.labels)
        return top.counts(size) / np.maximum(top.images, 1)[:, None]


@dataclass(frozen=True, eq=False)
class _Result:
    """What a method has found, how the size was settled, how far the choice can be trusted, and cost against size."""

    found: Found
    auto: Mapping[str, Any] | None = None
    trusted: Sequence[Trust] = ()
    curve: Sequence[Mapping[str, Any]] = ()


def _look(study: Study, on: str | None, sizes: Sequence[Checked], target: Target) -> _Seen:
    promised = {size.promise for size in sizes if isinstance(size, Auto) and size.promise}
    names = [name for name in study.set_names if name not in promised or name == on]
    if on is None and not names and not study.unfinished:
        raise SubspectError(f"the study {study.path} has no finished image set; observe one first")
    unfinished_train = "train" in study.unfinished and on is None
    image_set = study[on if on is not None else "train" if unfinished_train else names[0]]
    if target == "labels" and not image_set.labelled:
        raise SubspectError(f"target 'labels' needs labels, and {image_set.name!r} has none; take target 'dense'")
    others = [name for name in names if name != image_set.name]
    part: Part = "all" if others else "80 %"
    check: tuple[str, Part] = ("test" if "test" in others else others[0], "all") if others else (image_set.name, "20 %")
    shape = study.identity.n_classes, study.identity.n_features
    known = [size for size in sizes if isinstance(size, int | float)] or [1]
    top, sums, rows = TopFeatures(*shape, known), ClassSums(*shape), Rows(image_set, part)
    for block in rows:
        top.update(block.features, block.labels)
        sums.update(block.features, block.labels)
    weight, bias = (tensor.double().numpy() for tensor in study.head())
    return _Seen(study, image_set.name, part, image_set.labelled, rows, (weight, bias), target, top, sums, check)


def _influential(seen: _Seen, method: str, size: Checked) -> Supports:
    if method == "frequency":
        assert isinstance(size, int | float)
        return influence.frequency(seen.top, size)
    assert isinstance(size, int)
    return influence.contribution(seen.dense[0], seen.sums, size)


def _keep(seen: _Seen, supports: Supports, refit: bool) -> _Result:
    """Keep the dense head's weights on some supports, or re-learn them from there."""
    weight = np.zeros_like(seen.dense[0])
    weight[supports.rows, supports.flat] = seen.dense[0][supports.rows, supports.flat]
    choice = Choice([supports[label] for label in range(len(supports))], (weight, seen.dense[1]))
    if not refit:
        return _Result(Found(choice))
    learned = relearn(seen.rows, seen.dense, choice.supports, choice.head, seen.target, fixed=seen.unseen)
    return _Result(Found(choice, learned))


def _by_pursuit(
    seen: _Seen, sizes: Sequence[Checked], refit: bool, pool: int | None, show_progress: bool
) -> Iterator[_Result]:
    boundary = Boundary(seen.rows, *seen.dense, seen.target)
    if not boundary.margin:
        log.warning("the two largest logits are equal for most images: no image is nearer to a boundary than another")
    learn = partial(_learn, boundary, refit=refit, pool=pool, show_progress=show_progress)
    check = Rows(seen.study[seen.check[0]], seen.check[1])
    for size in sizes:
        if isinstance(size, Auto):
            result = _settle(seen, boundary, learn, size, check)
        else:
            found = learn(_counts(boundary, size))
            result = _Result(found, curve=_curve(boundary, check, found))
        found = _sorted(result.found, boundary)
        running = boundary.within(_used(boundary, found)) if pool else boundary
        yield replace(result, found=found, trusted=trust(running, found.choice.supports, found.head))


def _sorted(found: Found, boundary: Boundary) -> Found:
    """Put each class's features in the order of weight times standard deviation, the most important first."""
    spread = np.abs(found.head[0]) * boundary.moments.deviations()
    rows = [s[np.argsort(-row[s], kind="stable")] for s, row in zip(found.choice.supports, spread, strict=True)]
    return replace(found, choice=Choice(rows, found.choice.head))


def _counts(boundary: Boundary, size: int | float | Mean) -> Indices:
    """Return (C,) how many features each class gets."""
    n_classes = len(boundary.images)
    if not isinstance(size, Mean):
        return np.full(n_classes, int(size))
    explained = helped(boundary, size.most or MOST)
    return allocate(explained, round(size.k * (n_classes - len(boundary.unseen))), size.least, size.most)


def _learn(
    boundary: Boundary, counts: Indices, *, refit: bool, pool: int | None, show_progress: bool, rounds: int = ROUNDS
) -> Found:
    """Choose as many features as each class gets, and learn a head on them."""
    n_classes, n_features = boundary.dense[0].shape
    if pool is None and (counts >= n_features).all():
        return Found(Choice([np.arange(n_features)] * n_classes, boundary.dense))
    with progress(f"{counts.mean():.3g} features a class", rounds, "rounds", show=show_progress) as advance:
        [choice] = boundary.choose(counts[None])
        if pool:
            free, learned = reselect(boundary, choice, rounds=1)
            boundary = boundary.within(shared_pool(boundary, free.supports, learned.head, pool))
            [choice] = boundary.choose(counts[None], learned.head)
        return Found(*reselect(boundary, choice, rounds=rounds, advance=advance)) if refit else Found(choice)


def _settle(seen: _Seen, boundary: Boundary, learn: Callable[..., Found], wanted: Auto, check: Rows) -> _Result:
    """Find the fewest features that keep the tolerance, and say what is promised, or why nothing is."""
    if wanted.measure == "accuracy" and not seen.study[seen.check[0]].labelled:
        raise SubspectError(
            f"a tolerance of accuracy needs labels, and {seen.check[0]!r} has none; take measure 'fidelity'"
        )
    reason = _no_promise(seen, wanted)
    promise = None if reason else Rows(seen.study[str(wanted.promise)])
    skip = np.concatenate([block.prints() for rows in (seen.rows, check) for block in rows]) if promise else None
    settled = settle(boundary, partial(learn, rounds=_FEW_ROUNDS), wanted, check, promise, skip)
    chosen = settled.chosen
    mean, lost = f"{_mean(chosen.found, boundary):.3g}", 100 * chosen.counts.loss(wanted.measure)
    loss = f"{lost:.2f} points of {wanted.measure} on {chosen.counts.images:,} images of {seen.check[0]!r}"
    if settled.met:
        log.info("%s features a class lose %s", mean, loss)
    else:
        log.warning(
            "no number of features up to %d a class keeps the tolerance of %g; the best: %s a class lose %s",
            wanted.most,
            wanted.tolerance,
            mean,
            loss,
        )
    log.info("promise: %s", settled.promise or f"none, {reason}")
    auto = {
        "tolerance": wanted.tolerance,
        "measure": wanted.measure,
        "met": settled.met,
        "sized_on": seen.check,
        "promise": settled.promise and {**asdict(settled.promise), "set": wanted.promise, "text": str(settled.promise)},
        "no_promise": reason,
    }
    return _Result(chosen.found, auto, curve=[_point(rung.found, boundary, rung.counts) for rung in settled.rungs])


def _no_promise(seen: _Seen, wanted: Auto) -> str | None:
    """Return why nothing can be promised, or None."""
    if wanted.promise is None:
        return "since no images were named that neither the network nor the choice has seen"
    promised, chosen, check = (seen.study[name] for name in (wanted.promise, seen.image_set, seen.check[0]))
    if wanted.measure == "accuracy" and not promised.labelled:
        return f"since {wanted.promise!r} has no labels"
    if promised.name == "train":
        return "since a network loses less on the images that it was trained on, 'train', than on others"
    for other, what in ((chosen, "the features were chosen"), (check, "the number of features was chosen")):
        if promised.manifest.fingerprint == other.manifest.fingerprint:
            return f"since {what} on the images of {wanted.promise!r}"
    return None


def _curve(boundary: Boundary, check: Rows, found: Found) -> list[dict[str, Any]]:
    """Return what some sizes cost before any refit, and what was found, on the images to measure on."""
    n_classes, n_features = boundary.dense[0].shape
    sizes = [k for k in LADDER if k <= min(n_features, MOST)]
    tried = [Found(choice) for choice in boundary.choose(np.array([[k] * n_classes for k in sizes]))] + [found]
    counts = count(check, [one.head for one in tried])
    return [_point(one, boundary, counted) for one, counted in zip(tried, counts, strict=True) if counted.images]


def _point(found: Found, boundary: Boundary, counts: Counts) -> dict[str, Any]:
    n = counts.images
    return {
        "k": _mean(found, boundary),
        "refit": found.learned is not None,
        "images": n,
        "fidelity": counts.agree / n,
        "accuracy": counts.right / n,
        "dense_accuracy": (counts.right + counts.lost - counts.won) / n,
    }


def _mean(found: Found, boundary: Boundary) -> float:
    unseen = set(boundary.unseen)
    return float(np.mean([len(s) for label, s in enumerate(found.choice.supports) if label not in unseen] or [0]))


def _used(boundary: Boundary, found: Found) -> Indices:
    unseen = set(boundary.unseen)
    return np.unique(np.concatenate([s for label, s in enumerate(found.choice.supports) if label not in unseen]))


def _assemble(
    study: Study, seen: _Seen, result: _Result, method: str, size: Checked | None, name: str, pool: int | None = None
) -> Decomposition:
    found, names = result.found, study.identity.class_names
    supports = Supports(found.choice.supports, study.identity.n_features)
    rows, columns, (weight, bias) = supports.rows, supports.flat, found.head
    mean = max(1, round(float(np.delete(supports.sizes, seen.unseen).mean() if len(seen.unseen) < len(names) else 1)))
    rank = size if isinstance(size, int | float) else mean
    k = asdict(size) if isinstance(size, Mean) else "auto" if isinstance(size, Auto) else size
    history: list[dict[str, Any]] = [
        {
            "method": method,
            "k": k,
            "set": seen.image_set,
            "part": seen.part,
            "labelled": seen.labelled,
            "target": seen.target,
            "pool": pool,
        }
    ]
    if result.auto:
        history.append(dict(result.auto))
    if learned := found.learned:
        step = {"refit": seen.target, "loss": learned.loss, "steps": learned.steps, "converged": learned.converged}
        history.append(step)
    decomposition = Decomposition(
        name=name,
        supports=supports,
        weights=torch.from_numpy(weight[rows, columns].astype(np.float32)),
        bias=torch.from_numpy(bias.astype(np.float32)),
        frequency=torch.from_numpy(seen.frequency(rank)[rows, columns].astype(np.float32)),
        mean=torch.from_numpy(seen.sums.means()[rows, columns].astype(np.float32)),
        class_names=names,
        network=study.identity.network,
        fingerprint=study.identity.weights,
        head=study.identity.head,
        unseen=tuple(seen.unseen),
        history=tuple(history),
        trust=_stack(result.trusted),
        curve=tuple(result.curve),
    )
    _warn(decomposition, int(seen.sums.images.sum()))
    with lock(study.path):
        decomposition.save(decomposition_path(study, name))
    return decomposition


def _stack(trusted: Sequence[Trust]) -> Trusted | None:
    """Join what is known of every class to tensors that go with the entries of the supports."""
    if not trusted:
        return None
    return Trusted(
        stability=torch.from_numpy(np.concatenate([one.stability for one in trusted]).astype(np.float32)),
        jaccard=torch.tensor([one.jaccard for one in trusted], dtype=torch.float32),
        substitutes=torch.from_numpy(np.concatenate([one.substitutes for one in trusted])),
        recovered=torch.from_numpy(np.concatenate([one.recovered for one in trusted]).astype(np.float32)),
    )


def _warn(decomposition: Decomposition, images: int) -> None:
    names = decomposition.class_names
    if decomposition.unseen:
        unseen = [names[label] for label in decomposition.unseen]
        log.warning("%d classes have no images and keep their dense row: %s", len(unseen), some(unseen))
    if isinstance(decomposition.k, int):
        short = [names[label] for label in np.flatnonzero(decomposition.supports.sizes < decomposition.k).tolist()]
        if short and decomposition.method == "pursuit":
            log.warning(
                "%d classes have fewer than %s features, since no other adds anything on these %d images: %s",
                len(short),
                decomposition.k,
                images,
                some(short),
            )
