"""By which features, and with which weights, each method answers: from an image set's features to a head on few of them.

Every method is given what one pass over the features has gathered (`Seen`), and returns a `Result`. The paper's measures
(`subspect.choosing.influence`) need no more; pursuit goes over the features again: it chooses, re-learns, settles a number of
features where none is asked for, and looks how far its choice can be trusted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from subspect.choosing import influence
from subspect.choosing.boundary import Boundary, Choice
from subspect.choosing.halves import Drawn, halves
from subspect.choosing.of_all import OfAll
from subspect.choosing.pool import shared_pool
from subspect.choosing.promise import Counts, count
from subspect.choosing.pursuit import Indices
from subspect.choosing.refit import ROUNDS, reselect
from subspect.choosing.refit import refit as relearn
from subspect.choosing.seen import Seen
from subspect.choosing.settle import Search, helped, settle
from subspect.choosing.sizes import LADDER, Auto, Checked, Mean, allocate
from subspect.choosing.stability import Trust, trust
from subspect.choosing.ternary import TERNARY, readable
from subspect.ground.errors import SubspectError, some
from subspect.ground.progress import progress
from subspect.heads.history import CurvePoint, Settled
from subspect.heads.supports import Supports
from subspect.studies.rows import Block, Rows, printed, prints

_CURVE = 32  # features for each class at which the curve ends
_FEW_ROUNDS = 2  # of choosing anew, for each size that is tried
_HALF = 3  # steps of the progress bar that a choice on a half of the images takes
log = logging.getLogger("subspect")


@dataclass(frozen=True, eq=False)
class Result:
    """What a method has found, how the size was settled, how far the choice can be trusted, and cost against size."""

    choice: Choice
    auto: Settled | None = None
    trusted: Sequence[Trust] = ()
    curve: Sequence[CurvePoint] = ()


def choose(
    seen: Seen,
    sizes: Sequence[Checked],
    method: str,
    refit: bool,
    pool: int | None,
    *,
    stable: bool = False,
    ternary: bool = False,
    draws: int = 0,
    judge: bool = True,
    show_progress: bool = False,
) -> Iterator[Result]:
    """Choose by a method, a result for each size.

    Args:
        seen: what was gathered of the rows to choose on.
        sizes: that fit the head and the method.
        method: one of `subspect.choosing.options.METHODS`.
        refit: whether to re-learn weights and biases on the chosen features.
        pool: how many features there are for all classes together to choose from.
        stable: with pursuit, whether to favour features that are chosen again on other images.
        ternary: with pursuit and refit, whether weights are to be readable.
        draws: halves of the images on which pursuit repeats its choice.
        judge: whether to look, after the choice, how far it can be trusted, and what other sizes cost.
        show_progress: whether to draw a progress bar.
    """
    if method == "pursuit":
        pursue = partial(by_pursuit, seen, sizes, refit, pool, stable=stable, ternary=ternary)
        yield from pursue(draws=draws if judge else 0, judge=judge, show_progress=show_progress)
    else:
        yield from (keep(seen, influential(seen, method, size), refit) for size in sizes)


def influential(seen: Seen, method: str, size: Checked) -> Supports:
    """Choose by one of the paper's measures, "frequency" or "contribution"."""
    if method == "frequency":
        assert isinstance(size, int | float)
        if seen.whole is not None and size not in seen.top.sizes:
            log.warning(
                "how often features are among the largest %g was not counted of all images: frequency is that of the sample; "
                "counted were %s",
                size,
                some(seen.top.sizes, len(seen.top.sizes)),
            )
        return influence.frequency(seen.ranked(size), size)
    assert isinstance(size, int)
    return influence.contribution(seen.dense[0], seen.sums, size)


def keep(seen: Seen, supports: Supports, refit: bool) -> Result:
    """Keep the dense head's weights on some supports, or re-learn them from there."""
    weight = np.zeros_like(seen.dense[0])
    weight[supports.rows, supports.flat] = seen.dense[0][supports.rows, supports.flat]
    choice = Choice([supports[label] for label in range(len(supports))], (weight, seen.dense[1]))
    if refit:
        learned = relearn(seen.rows, seen.dense, choice.supports, choice.affine, seen.target, fixed=seen.unseen)
        choice = Choice(choice.supports, learned.affine, learned)
    return Result(choice)


def by_pursuit(
    seen: Seen,
    sizes: Sequence[Checked],
    refit: bool,
    pool: int | None,
    *,
    stable: bool,
    ternary: bool,
    draws: int,
    judge: bool,
    show_progress: bool,
) -> Iterator[Result]:
    """Choose by pursuit, a result for each size; statistics are taken once for all of them. See `choose`."""
    boundary = Boundary(seen.rows, *seen.dense, seen.target, stable=stable)
    start = _start(seen, boundary, sizes, refit=refit)
    if not boundary.margin:
        log.warning(
            "the two largest logits are equal for most %s: none is nearer to a boundary than another", seen.examples
        )
    total = sum(_steps(size) + _HALF * draws for size in sizes)
    with progress("pursuit", total, "steps", show=show_progress) as advance:
        how = partial(_learn, refit=refit, pool=pool, ternary=ternary)
        learn = partial(how, boundary, advance=advance)
        sought = all(isinstance(size, Auto) for size in sizes)  # which brings a curve of its own
        curved = not (pool or sought) and judge
        skip = _the_same(seen) if curved else None
        ladder, firsts = _ladder(start, seen.checked, skip, sizes) if curved else ([], {})
        for size in sizes:
            if isinstance(size, Auto):
                size = replace(size, most=min(size.most, pool or boundary.dense[0].shape[1]))
                result = _settle(seen, boundary, learn, size)
            else:
                counts = _counts(boundary, size, pool)
                choice = learn(counts, first=firsts.get(size) or _first(start, boundary, counts))
                [lost] = count(seen.checked, [choice.affine], skip) if ladder else [None]
                result = Result(choice, curve=[*ladder, _point(choice, boundary, lost)] if lost else [])
            choice = in_order(result.choice, boundary)
            running = boundary.within(_used(boundary, choice)) if pool else boundary
            again = []
            for half in halves(seen.rows, draws, boundary.moments.images):
                again.append(_again(seen, half, choice, size, how, pool, stable=stable))
                advance(_HALF)
            trusted = trust(running, choice.supports, choice.affine, again) if judge else ()
            yield replace(result, choice=choice, trusted=trusted)
            advance(1)


def _start(seen: Seen, boundary: Boundary, sizes: Sequence[Checked], *, refit: bool) -> Boundary:
    """Return what the first choice is made by: statistics of all images, where there are such and they serve, else itself."""
    if seen.whole is None:
        return boundary
    images, sample = f"{seen.whole.moments.images:,}", f"{boundary.moments.images:,}"
    if seen.target != "dense" or all(isinstance(size, Auto) for size in sizes):
        why = "target 'labels'" if seen.target != "dense" else "k = 'auto'"
        log.info("%s: features are chosen on the sample of %s of %s images alone", why, sample, images)
        return boundary
    log.info(
        "%s: by statistics of all %s images; %shalves: on the sample of %s",
        "first choice" if refit else "choice",
        images,
        "weights, choosing anew and " if refit else "",
        sample,
    )
    return OfAll(seen.whole, boundary.dense, stable=boundary.favour is not None)


def _first(start: Boundary, boundary: Boundary, counts: Indices) -> Choice | None:
    """Return a first choice that is made by other statistics than the boundary's own; else none."""
    return None if start is boundary else start.choose(counts[None])[0]


def _again(
    seen: Seen,
    half: Drawn,
    whole: Choice,
    size: Checked,
    how: Callable[..., Choice],
    pool: int | None,
    *,
    stable: bool,
) -> list[Indices | None]:
    """Repeat a choice on a half of the images; return each class's support, or None where it has no image there."""
    if len(half) < 2:
        return [None] * len(whole.supports)
    boundary = Boundary(half, *seen.dense, seen.target, stable=stable)
    learn = partial(how, boundary, advance=lambda _: None)
    if isinstance(size, Auto):  # as many features are handed out: how many keep a tolerance isn't sought anew
        total = sum(len(one) for label, one in enumerate(whole.supports) if label not in seen.unseen)
        counts = allocate(helped(boundary, size.most), total, 1, size.most)
        choice = learn(counts, rounds=_FEW_ROUNDS, last=False)
    else:
        choice = learn(_counts(boundary, size, pool), last=False)
    unseen = set(boundary.unseen)
    return [None if label in unseen else one for label, one in enumerate(choice.supports)]


def _steps(size: Checked) -> int:
    """Estimate the steps until a size is done: a choice, the rounds after it, and the look at how far to trust it."""
    if isinstance(size, Auto):  # at most; a search that ends sooner skips the rest
        return (sum(k <= size.most for k in LADDER) + 4) * (1 + _FEW_ROUNDS) + 1
    return 1 + ROUNDS + 1


def in_order(choice: Choice, boundary: Boundary) -> Choice:
    """Put each class's features in the order of weight times standard deviation, the most important first."""
    spread = np.abs(choice.affine[0]) * boundary.moments.deviations()
    rows = [s[np.argsort(-row[s], kind="stable")] for s, row in zip(choice.supports, spread, strict=True)]
    return replace(choice, supports=rows)


def _counts(boundary: Boundary, size: int | float | Mean, pool: int | None) -> Indices:
    """Return (C,) how many features each class gets."""
    n_classes = len(boundary.images)
    if not isinstance(size, Mean):
        return np.full(n_classes, int(size))
    most = size.limit(pool or boundary.dense[0].shape[1])
    return allocate(helped(boundary, most), round(size.k * (n_classes - len(boundary.unseen))), size.least, most)


def _learn(
    boundary: Boundary,
    counts: Indices,
    *,
    refit: bool,
    pool: int | None,
    ternary: bool = False,
    advance: Callable[[int], object],
    rounds: int = ROUNDS,
    last: bool = True,
    first: Choice | None = None,
) -> Choice:
    """Choose as many features as each class gets, unless that choice is there already, and learn a head on them."""
    n_classes, n_features = boundary.dense[0].shape
    if pool is None and (counts >= n_features).all() and not ternary:
        return Choice([np.arange(n_features)] * n_classes, boundary.dense)
    choice = boundary.choose(counts[None])[0] if first is None else first
    if pool:
        free = reselect(boundary, choice, rounds=1)
        boundary = boundary.within(shared_pool(boundary, free.supports, free.affine, pool))
        [choice] = boundary.choose(counts[None], free.affine)
    advance(1)
    if not refit:
        return choice
    free = reselect(boundary, choice, rounds=rounds, advance=advance, last=last and not ternary)
    return reselect(boundary, readable(boundary, free), rounds=rounds, last=last, kind=TERNARY) if ternary else free


def _settle(seen: Seen, boundary: Boundary, learn: Callable[..., Choice], wanted: Auto) -> Result:
    """Find the fewest features that keep the tolerance, and say what is promised, or why nothing is."""
    if wanted.measure == "accuracy" and not seen.check_labelled:
        raise SubspectError(
            f"a tolerance of accuracy needs labels, and {seen.check[0]!r} has none; take measure 'fidelity'"
        )
    reason = _no_promise(seen, wanted)
    promise, skip = None, None
    if reason is None and seen.study is not None:
        promise = Rows(seen.study.image_set(str(wanted.promise)))
        skip = np.concatenate([printed(seen.rows), printed(seen.checked)])
        known = int(np.isin(printed(promise), skip).sum())
        if known == len(promise):
            reason, promise = f"since all {seen.examples} of {wanted.promise!r} took part in a choice", None
        elif known:
            log.warning(
                "%d of the %d %s of %r took part in a choice: nothing is promised from them",
                known,
                len(promise),
                seen.examples,
                wanted.promise,
            )
    if reason is not None:
        log.info("promise: none, %s", reason)
    settled = settle(boundary, partial(learn, rounds=_FEW_ROUNDS), wanted, seen.checked, promise, skip)
    _tell(seen, boundary, wanted, settled)
    chosen = settled.chosen
    auto = Settled(wanted.tolerance, wanted.measure, settled.met, seen.check, settled.promise, reason)
    return Result(chosen.choice, auto, curve=[_point(rung.choice, boundary, rung.counts) for rung in settled.rungs])


def _tell(seen: Seen, boundary: Boundary, wanted: Auto, settled: Search) -> None:
    """Say where the search for a size has ended."""
    chosen = settled.chosen
    mean, lost = f"{_mean(chosen.choice, boundary):.3g}", 100 * chosen.counts.loss(wanted.measure)
    loss = f"{lost:.2f} points of {wanted.measure} on {chosen.counts.images:,} {seen.examples} of {seen.check[0]!r}"
    share = f"{100 * wanted.tolerance:g}"
    limit = f"{share} point{'s' * (share != '1')} of {wanted.measure}"
    if settled.met:
        log.info("%s features a class lose %s", mean, loss)
    elif settled.promise is not None:
        log.warning(
            "for no number of features up to %d a class a loss of at most %s can be promised; of %s features: %s. More %s "
            "to promise on, or a larger tolerance, would help",
            wanted.most,
            limit,
            mean,
            settled.promise.text,
            seen.examples,
        )
    else:
        log.warning(
            "no number of features up to %d a class loses at most %s; the best: %s a class lose %s",
            wanted.most,
            limit,
            mean,
            loss,
        )
    if settled.promise is not None:
        log.info("promise: %s", settled.promise.text)
    if all(len(support) == boundary.dense[0].shape[1] for support in chosen.choice.supports):
        log.warning(
            "every class keeps all of its features: with this tolerance and these %s nothing can be left out",
            seen.examples,
        )


def _no_promise(seen: Seen, wanted: Auto) -> str | None:
    """Return why nothing can be promised, or None."""
    if wanted.promise is None or seen.study is None:
        return f"since no {seen.examples} were named that neither the network nor the choice has seen"
    promised, chosen, check = (seen.study.image_set(name) for name in (wanted.promise, seen.image_set, seen.check[0]))
    if wanted.measure == "accuracy" and not promised.labelled:
        return f"since {wanted.promise!r} has no labels"
    if promised.name == "train":
        return f"since a network loses less on the {seen.examples} that it was trained on, 'train', than on others"
    for other, what in ((chosen, "the features were chosen"), (check, "the number of features was chosen")):
        if promised.manifest.fingerprint == other.manifest.fingerprint:
            return f"since {what} on the {seen.examples} of {wanted.promise!r}"
    return None


def _the_same(seen: Seen) -> npt.NDArray[np.uint64] | None:
    """Return the prints of rows chosen on, to leave the same ones out of those measured on, as `measuring.where` does.

    None where that would leave none. Rows of zeros tell no image from another, and stay.
    """
    nothing = prints(np.zeros((1, seen.dense[0].shape[1]), np.float32))
    skip = np.setdiff1d(printed(seen.rows), nothing)
    return None if np.isin(printed(seen.checked), skip).all() else skip


def _ladder(
    boundary: Boundary, check: Iterable[Block], skip: npt.NDArray[np.uint64] | None, asked: Sequence[Checked]
) -> tuple[list[CurvePoint], dict[Checked, Choice]]:
    """Return what sizes from 1 up cost before any refit, on the images to measure on; nothing where there are none.

    And the choices of those sizes that are asked for; where features are favoured they depend on the largest, and don't count.
    """
    n_classes, n_features = boundary.dense[0].shape
    sizes = [k for k in LADDER if k <= min(n_features, _CURVE)]
    tried = boundary.choose(np.array([[k] * n_classes for k in sizes]))
    counts = count(check, [one.affine for one in tried], skip)
    points = [_point(one, boundary, counted) for one, counted in zip(tried, counts, strict=True) if counted.images]
    known = zip(sizes, tried, strict=True) if boundary.favour is None else ()
    return points, {size: choice for size, choice in known if size in asked}


def _point(choice: Choice, boundary: Boundary, counts: Counts) -> CurvePoint:
    n = counts.images
    return CurvePoint(
        k=_mean(choice, boundary),
        refit=choice.refit is not None,
        images=n,
        fidelity=counts.agree / n,
        accuracy=counts.right / n,
        dense_accuracy=(counts.right + counts.lost - counts.won) / n,
    )


def _mean(choice: Choice, boundary: Boundary) -> float:
    unseen = set(boundary.unseen)
    return float(np.mean([len(s) for label, s in enumerate(choice.supports) if label not in unseen] or [0]))


def _used(boundary: Boundary, choice: Choice) -> Indices:
    unseen = set(boundary.unseen)
    rows = [s for label, s in enumerate(choice.supports) if label not in unseen]
    return np.unique(np.concatenate(rows or [np.empty(0, np.int64)]))
