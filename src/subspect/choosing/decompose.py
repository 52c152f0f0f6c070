"""From a study to a decomposition: which features, by which method, how many, with which weights. It only conducts."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from subspect.choosing.halves import check_draws
from subspect.choosing.methods import Result, choose, keep
from subspect.choosing.options import DRAWS, HOLD_OUT, METHODS, TARGETS, Target
from subspect.choosing.seen import Seen, look
from subspect.choosing.sizes import Auto, Budget, Checked, Mean, check_budget
from subspect.choosing.stability import Trust
from subspect.ground.errors import SubspectError, near, some
from subspect.ground.files import check_writable, fingerprint
from subspect.ground.text import counted
from subspect.heads.decomposition import Decomposition
from subspect.heads.history import Chosen, Refitted, Step
from subspect.heads.names import check_name
from subspect.heads.supports import Supports
from subspect.heads.ternary import Ternary
from subspect.heads.trusted import Trusted
from subspect.studies.decompositions import keep_in
from subspect.studies.study import Study, StudyLike, open_study

log = logging.getLogger("subspect")
_EACH = 3  # images a class, below which a choice isn't repeated on halves of them unless asked for


def decompose(
    study: StudyLike,
    k: Budget = 5,
    *,
    method: str = METHODS[0],
    on: str | None = None,
    target: Target = TARGETS[0],
    refit: bool | None = None,
    pool: int | None = None,
    stable: bool = False,
    ternary: bool = False,
    draws: int | None = None,
    hold_out: float = HOLD_OUT,
    show_progress: bool = True,
) -> Decomposition:
    """Find the few features that decide every class, and keep only those.

    The decomposition is saved in the study, as ``METHOD-kK``.

    Args:
        study: with one or more image sets, or its folder.
        k: how many features for each class. With method "pursuit" also `subspect.Mean` ("mean:5"), a mean number,
            or `subspect.Auto` ("auto" for its defaults), the fewest that keep a tolerance; with "frequency" also a share of
            the mass between 0 and 1.
        method: "pursuit" (see `subspect.choosing.pursuit`), "contribution" or "frequency" (see `subspect.choosing.influence`).
        on: the image set to choose on, "train" or the first unless given.
        target: what the decomposed head is to come close to, the "dense" network or the "labels".
        refit: whether to re-learn weights and biases on the chosen features, and with "pursuit" to choose anew with
            those. Unless given, with "pursuit" only: "contribution" and "frequency" keep the dense head's weights.
        pool: with "pursuit", how many features there are for all classes together to choose from.
        stable: with "pursuit", whether to favour, of features that explain nearly as much, those that are chosen again on other
            images (see `subspect.choosing.boundary`).
        ternary: with "pursuit" and refit, whether weights are to be readable: −1, 0 or +1, times one scale for each class, over
            one for each feature (see `subspect.choosing.ternary`).
        draws: with "pursuit", on how many halves of the images the choice is repeated, to tell how far it can be trusted: an
            even number, or 0 to leave that out (see `subspect.choosing.stability`); unless given 20, and 0 where there are
            fewer than 3 images a class.
        hold_out: where the study has no other image set to measure the cost on, the share of the images that is held out for
            that, by a hash of the image id; 0 chooses on all, and figures on the same images flatter.
        show_progress: whether to draw a progress bar.

    Raises:
        SubspectError: k larger than d, an unknown method or target, no such image set, a share to hold out that is none, or
            images that tell nothing.

    Example:
        >>> decomposition = subspect.decompose("study", 5)
        >>> decomposition.name
        'pursuit-k5'
        >>> subspect.decompose("study", 5, method="frequency").name  # the paper's choice
        'frequency-k5'
    """
    [made] = decompose_each(
        study,
        [k],
        method=method,
        on=on,
        target=target,
        refit=refit,
        pool=pool,
        stable=stable,
        ternary=ternary,
        draws=draws,
        hold_out=hold_out,
        show_progress=show_progress,
    )
    return made


def decompose_each(
    study: StudyLike,
    ks: Sequence[Budget],
    *,
    method: str = METHODS[0],
    on: str | None = None,
    target: Target = TARGETS[0],
    refit: bool | None = None,
    pool: int | None = None,
    stable: bool = False,
    ternary: bool = False,
    draws: int | None = None,
    hold_out: float = HOLD_OUT,
    keep_files: bool = True,
    show_progress: bool = True,
) -> list[Decomposition]:
    """Do the same for several k; statistics are taken once for all of them. Without ``keep_files`` the study stays as it is.

    Example:
        >>> [made.name for made in subspect.decompose_each("study", [5, 10])]
        ['pursuit-k5', 'pursuit-k10']
    """
    study = open_study(study)
    sizes = check_choice(
        ks, method, study.identity.n_features, target, pool, stable, draws, ternary=ternary, refit=refit
    )
    if keep_files:
        check_writable(study.path)  # before the work, not after
    refit = method == "pursuit" if refit is None else refit
    suffix = (f"-pool{pool}" if pool else "") + ("-stable" if stable else "") + ("-ternary" if ternary else "")
    suffix += "" if target == TARGETS[0] or not (refit or method == METHODS[0]) else f"-{target}"
    suffix += "" if on is None or study.set_names[:1] in ([], [on]) else f"-on-{on}"
    suffix += "" if refit == (method == "pursuit") else "-refit" if refit else "-raw"
    seen = look(study, on, sizes, target, hold_out, again=refit or method == "pursuit")
    draws = (_draws(seen) if method == "pursuit" else 0) if draws is None else draws
    found = choose(
        seen, sizes, method, refit, pool, stable=stable, ternary=ternary, draws=draws, show_progress=show_progress
    )
    made = []
    for size, one in zip(sizes, found, strict=True):
        made.append(_assemble(study, seen, one, method, size, f"{method}-{_short(size)}{suffix}", pool, stable))
        if keep_files:
            made[-1] = keep_in(study, made[-1])
    return made


def _draws(seen: Seen) -> int:
    """Return on how many halves a choice is repeated unless given: none where a half would hold next to nothing of a class."""
    images, classes = int(seen.sums.images.sum()), int(np.count_nonzero(seen.sums.images))
    if images >= _EACH * classes:
        return DRAWS
    log.info(
        "%s of %s are too few for halves of them to tell how far the choice can be trusted; --draws %d draws them all the same",
        counted(images, "image", "images"),
        counted(classes, "class", "classes"),
        DRAWS,
    )
    return 0


def check_choice(
    ks: Sequence[Budget],
    method: str,
    n_features: int,
    target: str = TARGETS[0],
    pool: int | None = None,
    stable: bool = False,
    draws: int | None = None,
    *,
    ternary: bool = False,
    refit: bool | None = None,
) -> list[Checked]:
    """Check numbers of features and a method against each other and the network, before anything is computed.

    Raises:
        SubspectError: an unknown method or target, a k larger than d, a size that the method doesn't know, a wrong number of
            halves to draw, or readable weights that aren't learned.
    """
    check_draws(draws or 0)
    if method not in METHODS:
        raise SubspectError(f"method must be one of {', '.join(METHODS)}; got {method!r}{near(method, METHODS)}")
    if target not in TARGETS:
        raise SubspectError(f"target must be one of {', '.join(TARGETS)}; got {target!r}{near(target, TARGETS)}")
    sizes = [check_budget(k, n_features, pool, method) for k in ks]
    if method != "frequency" and any(isinstance(size, float) for size in sizes):
        raise SubspectError(f"a share of the mass goes with method 'frequency'; {method!r} takes a whole k, got {ks}")
    if ternary and (method != "pursuit" or refit is False):
        got = f"method {method!r}" if method != "pursuit" else "refit=False (--no-refit)"
        raise SubspectError(
            f"readable weights (ternary, --ternary) are chosen and learned by method 'pursuit' with refit; got {got}: leave "
            "one of the two out"
        )
    if method != "pursuit" and (pool or any(isinstance(size, Mean | Auto) for size in sizes)):
        what = "a pool" if pool else "a mean k" if any(isinstance(size, Mean) for size in sizes) else "k = 'auto'"
        raise SubspectError(f"{what} goes with method 'pursuit'; got {method!r}")
    if method != "pursuit" and draws:
        raise SubspectError(
            f"halves of the images on which the choice is repeated (--draws) go with method 'pursuit'; got {draws} and "
            f"{method!r}"
        )
    if method != "pursuit" and stable:
        raise SubspectError(f"a stable choice (--stable) goes with method 'pursuit'; got {method!r}")
    return sizes


def decompose_by_file(
    study: StudyLike,
    path: str | Path,
    *,
    on: str | None = None,
    name: str | None = None,
    target: Target = TARGETS[0],
    refit: bool = False,
    hold_out: float = HOLD_OUT,
) -> Decomposition:
    """Keep the features that an index file lists (class index → feature indices), with the dense head's weights or refitted.

    Frequency and mean of each feature are still measured on the image set ``on``.

    Raises:
        SubspectError: not an index file, or one for other classes or features; a name that is taken by a decomposition that
            came to be otherwise, or that is none.

    Example:
        >>> subspect.decompose_by_file("study", "indices.json", name="mine", refit=True).name
        'mine'
    """
    study = open_study(study)
    name = check_name(name or Path(path).stem + ("-refit" if refit else ""))
    supports = Supports.read(path, study.identity.n_classes, study.identity.n_features)
    check_writable(study.path)
    seen = look(study, on, [int(supports.sizes.max())], target, hold_out, again=refit)
    made = _assemble(study, seen, keep(seen, supports, refit), f"indices of {Path(path).name}", None, name)
    return keep_in(study, made)


def _short(size: Checked) -> str:
    return str(size) if isinstance(size, Mean | Auto) else f"k{size}"


def _assemble(
    study: Study,
    seen: Seen,
    result: Result,
    method: str,
    size: Checked | None,
    name: str,
    pool: int | None = None,
    stable: bool = False,
) -> Decomposition:
    choice, names = result.choice, study.identity.class_names
    supports = Supports(choice.supports, study.identity.n_features)
    rows, columns, (weight, bias) = supports.rows, supports.flat, choice.affine
    mean = max(1, round(float(np.delete(supports.sizes, seen.unseen).mean() if len(seen.unseen) < len(names) else 1)))
    rank = size if isinstance(size, int | float) else mean
    k = asdict(size) if isinstance(size, Mean) else "auto" if isinstance(size, Auto) else size
    listed = fingerprint(json.dumps([row.tolist() for row in supports])) if size is None else None  # from a file
    images = study.image_set(seen.image_set).manifest.fingerprint
    chosen = Chosen(
        method,
        k,
        seen.image_set,
        seen.part,
        seen.labelled,
        seen.target,
        pool,
        images,
        listed,
        stable,
        "ternary" if choice.scales else None,
    )
    history: list[Step] = [chosen, *([result.auto] if result.auto else [])]
    if learned := choice.refit:
        history.append(Refitted(seen.target, learned.loss, learned.steps, learned.converged))
    decomposition = Decomposition(
        name=name,
        supports=supports,
        weights=torch.from_numpy(weight[rows, columns].astype(np.float32)),
        bias=torch.from_numpy(bias.astype(np.float32)),
        frequency=torch.from_numpy(seen.frequency(rank)[rows, columns].astype(np.float32)),
        mean=torch.from_numpy(seen.sums.means()[rows, columns].astype(np.float32)),
        class_names=names,
        network=study.identity.network,
        fingerprint=study.identity.fingerprint,
        head_name=study.identity.head_name,
        unseen=tuple(seen.unseen),
        history=tuple(history),
        study=study,
        ternary=Ternary(*(torch.from_numpy(one.astype(np.float32)) for one in choice.scales))
        if choice.scales
        else None,
        trust=_stack(result.trusted),
        curve=tuple(result.curve),
    )
    _warn(decomposition, int(seen.sums.images.sum()))
    return decomposition


def _stack(trusted: Sequence[Trust]) -> Trusted | None:
    """Join what is known of every class to tensors that go with the entries of the supports."""
    if not trusted:
        return None
    return Trusted(
        stability=_joined(trusted, "stability", np.float32),
        jaccard=torch.tensor([one.jaccard for one in trusted], dtype=torch.float32),
        draws=torch.tensor([one.draws for one in trusted]),
        distinct=torch.tensor([one.distinct for one in trusted]),
        substitutes=_joined(trusted, "substitutes", np.int64),
        recovered=_joined(trusted, "recovered", np.float32),
        equal=_joined(trusted, "equal", bool),
        core=_joined(trusted, "core", bool),
        near_equal=torch.tensor([one.near_equal for one in trusted]),
        tolerance=torch.tensor([one.tolerance for one in trusted], dtype=torch.float32),
    )


def _joined(trusted: Sequence[Trust], name: str, kind: npt.DTypeLike) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([getattr(one, name) for one in trusted]).astype(kind))


def _warn(decomposition: Decomposition, images: int) -> None:
    names = decomposition.class_names
    if decomposition.unseen:
        unseen = [names[label] for label in decomposition.unseen]
        log.warning(
            "classes without %s keep their dense weights, %d in all: %s",
            decomposition.examples,
            len(unseen),
            some(unseen),
        )
    if isinstance(decomposition.k, int):
        short = [names[label] for label in np.flatnonzero(decomposition.supports.sizes < decomposition.k).tolist()]
        if short and decomposition.method == "pursuit":
            log.warning(
                "%d classes have fewer than %s features, since no other adds anything on these %d %s: %s",
                len(short),
                decomposition.k,
                images,
                decomposition.examples,
                some(short),
            )
