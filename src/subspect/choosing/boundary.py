"""From stored features to the least squares of every class, in which images near the class's decision boundary count most.

For class c the target is what its dense logit says beyond the mean logit, ``t = z_c − mean(z)``, and an image weighs
``exp(−|margin_c| / τ) + ε`` with ``margin_c = z_c − max of the other logits``; τ is a fixed share of the median margin of
the network's own predictions, so that nothing depends on the scale of the logits. Once there is a decomposed head, its own
curvature takes the place of margins: with its softmax q and the wanted probabilities p (of the dense network, or the
labels), the weight is ``q_c (1 − q_c) + ε`` and the target ``z_c + (p_c − q_c) / weight``, one step of iteratively
reweighted least squares (Green 1984).

Every image has the weight ε, which takes one Gram matrix for all classes; the rest is added for each class from the few
images near its boundary. From 20,000 images on, a class takes a sample of those farther away: an image of weight w with the
chance w / 0.1 and, if it is drawn, the weight 0.1, so that sums stay the same in expectation (Horvitz, Thompson 1952). From
50,000 images on, as much more as there are more stands for 0.1, so that of a million no more are drawn than of those. A
hash of the image's features draws, so that the order of images changes nothing.

A choice that is to *stay* when images are drawn anew favours, among features that explain nearly as much, those that the dense
head itself leans on: the share ``|w_cf − mean(w_f)| · σ_f`` of the largest of the class. That depends on images by the spread σ
alone, so that it breaks ties alike in every draw.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from subspect.choosing.halves import few
from subspect.choosing.options import TARGETS, Target
from subspect.choosing.pursuit import Array, Indices, Quadratic, Step
from subspect.ground.arrays import Features
from subspect.ground.errors import SubspectError
from subspect.ground.memory import budget
from subspect.measuring.heads_say import say
from subspect.statistics.moments import Moments, WeightedMoments
from subspect.statistics.nearness import FLOOR, Near, best, leaning, margins, ranks, sampled, weigh
from subspect.statistics.nearness import candidates as running
from subspect.studies.blocks import STATISTICS, kept, total
from subspect.studies.rows import Block, workers

Affine = tuple[Array, Array]  #: weight (C, d) and bias (C,)
Single = tuple[Features, Features]  #: the same in float32
T = TypeVar("T")

FAVOUR = 2.0  #: in a stable choice: of what a feature is worth, for the one that the dense head leans on most
_FEWER = 4  # a head's own curvature is near enough to its optimum to do with a fourth of the candidates
_NEAR = 1e-4  # an image whose probability of a class is closer than this to 0 or 1 is far from its boundary
_NONE = np.empty(0, np.int64)
_WEIGHED = 2**18  # logits weighed at a time, of 2 MB: that stays in a cache
_DEAD = 1e-12  # a feature whose variance is no more than this share of its mean square has none


@dataclass(frozen=True, eq=False)
class Refit:
    """A re-learned head.

    Attributes:
        weight: (C, d) float64, zero outside the supports.
        bias: (C,) float64.
        loss: the mean divergence from the dense network, or cross-entropy to the labels, over these images, in nats.
        steps: of the optimiser.
        converged: whether the gradient is within the tolerance.
    """

    weight: Array
    bias: Array
    loss: float
    steps: int
    converged: bool

    @property
    def affine(self) -> Affine:
        """Weight and bias."""
        return self.weight, self.bias


@dataclass(frozen=True, eq=False)
class Choice:
    """The features of every class, and a head that uses them alone.

    Attributes:
        supports: of each class.
        affine: weight (C, d) and bias (C,).
        refit: how that was re-learned, if it was.
        worth: (C,) what a feature of each class is worth, in nats; None where none is favoured.
        scales: of each class (C,) and of each feature (d,), where weights are readable (see `subspect.choosing.ternary`): a
            weight is the class's scale over the feature's, or less that; 0 for classes without images and unused features.
    """

    supports: list[Indices]
    affine: Affine
    refit: Refit | None = None
    worth: Array | None = None
    scales: tuple[Array, Array] | None = None


class Boundary:
    """What pursuit asks of the stored features: for every class, the least squares near its decision boundary.

    One pass over the features gathers their second moments and the median margin.

    Args:
        blocks: features and labels; gone through several times.
        weight: (C, d) of the dense head.
        bias: (C,) of the dense head.
        target: "dense", to repeat the dense network, or "labels".
        candidates: at most so many features stay in the running for a class: those whose contribution to the dense logit
            varies most, and those that go along with it most; unless given, see `subspect.statistics.nearness`.
        stable: whether, of features that explain nearly as much, those are favoured that the dense head leans on.
        memory: bytes that the statistics of a group of classes may take, a fourth of what a command may unless given; more
            groups take more passes.

    Attributes:
        moments: second moments of the features of all images.
        images: (C,) images of each class.
        margin: median over the images of the largest dense logit less the second.
        few: the blocks, or a sample of them where there are many images: for heads that need not be exact.

    Raises:
        SubspectError: an unknown target, or fewer than two images.
    """

    def __init__(
        self,
        blocks: Iterable[Block],
        weight: npt.NDArray[np.floating],
        bias: npt.NDArray[np.floating],
        target: Target = "dense",
        *,
        candidates: int | None = None,
        stable: bool = False,
        memory: int | None = None,
    ) -> None:
        if target not in TARGETS:
            raise SubspectError(f"target must be one of {', '.join(TARGETS)}; got {target!r}")
        self.blocks, self.target = kept(blocks), target
        self.memory = budget() // STATISTICS if memory is None else memory
        self.dense: Affine = weight.astype(np.float64), bias.astype(np.float64)
        self._said = single(self.dense)
        nothing = partial(_nothing, *weight.shape)
        self.moments, self.images, apart = total(self.blocks, nothing, partial(_look, self.dense))
        if self.moments.images < 2:
            raise SubspectError(
                f"pursuit compares images, and there is {self.moments.images}; give more, or take method 'contribution'"
            )
        self.few = few(self.blocks, self.moments.images)
        self.margin = float(np.median(np.concatenate([np.empty(0), *apart])))
        self._ranks = ranks(self.dense[0], self.moments)
        self.candidates = candidates or running(self.moments.images, len(weight))
        self.favour = favour(self.dense[0], self.moments) if stable else None
        self.pool: Indices = np.arange(weight.shape[1])

    @property
    def unseen(self) -> list[int]:
        """Classes without images, which keep their dense row."""
        return np.flatnonzero(self.images == 0).tolist()

    def each(self, work: Callable[[Quadratic], T], head: Affine | None = None) -> list[T]:
        """Do some work on every class's least squares.

        Args:
            work: what to do; runs in several threads.
            head: weigh images by this head's curvature, instead of by the dense margins. Its features stay in the running.
        """
        features = self._screen(head)
        if head is None and self.target == "labels":
            head = self.dense
        weight, bias = head or (self.dense[0] - self.dense[0].mean(axis=0), self.dense[1] - self.dense[1].mean())
        pulls = self.moments.products @ weight.T + np.outer(self.moments.sums, bias)  # (d, C), of all images alike
        pull = weight @ self.moments.sums + self.moments.images * bias
        group = max(1, self.memory // (2 * 8 * max(1, features.shape[1] ** 2)))  # the whole, and a part of it
        done: list[T] = []
        said = None if head is None else single(head)
        for start in range(0, len(weight), group):
            nothing = partial(WeightedMoments, features[start : start + group])
            near = total(self.blocks, nothing, partial(self._update, start, said))

            def at(place: int, start: int = start, near: WeightedMoments = near) -> T:
                label = start + place
                return work(self._quadratic(label, near, place, pulls[:, label], pull[label]))

            with workers() as pool:
                done += pool.map(at, range(len(near.features)))
            del near, at  # before the next group takes as much
        return done

    def paths(self, size: int, head: Affine | None = None) -> list[list[Step]]:
        """Return every class's path up to a size; nothing for a class without images."""
        unseen = set(self.unseen)
        return self.each(lambda problem: [] if problem.label in unseen else problem.path(size), head)

    def within(self, pool: Indices, *, whole: bool = False) -> Boundary:
        """Return the same, with only a pool of features in the running; the whole of it for every class, if so wanted."""
        other = copy.copy(self)
        other.pool = np.sort(pool)
        other.candidates = _FEWER * len(pool) if whole else self.candidates
        return other

    def on_few(self) -> Boundary:
        """Return the same with the sample alone as its blocks, for heads that need not be exact; itself, where all are few."""
        if self.few is self.blocks:
            return self
        other = copy.copy(self)
        other.blocks = self.few
        return other

    def choose(self, sizes: Indices, head: Affine | None = None) -> list[Choice]:
        """Choose features for every class, for one or more sets of sizes.

        Args:
            sizes: (s, C) the number of features for each class; fewer are chosen where no more can help.
            head: see `each`.

        Returns:
            A choice for each of the s sets. Classes without images keep their dense row.
        """

        def work(problem: Quadratic) -> list[tuple[Indices, Array, float, float]]:
            label = problem.label
            if label in self.unseen:
                row = self.dense[0][label], self.dense[1][label]
                return [(np.arange(len(row[0])), *row, 0.0)] * len(sizes)
            path = problem.path(int(sizes[:, label].max()))
            supports = [path[min(k, len(path)) - 1].support if path else _NONE for k in sizes[:, label]]
            worth = 0.0 if self.favour is None else problem.worth(int(sizes[:, label].max()))
            return [(support, *problem.fit(support), worth) for support in supports]

        found = self.each(work, head)
        choices = []
        for rows in zip(*found, strict=True):
            weight, bias = np.zeros_like(self.dense[0]), np.array([row[2] for row in rows])
            for label, (support, weights, *_) in enumerate(rows):
                weight[label, support] = weights
            worth = None if self.favour is None else np.array([row[3] for row in rows]) / (2 * self.moments.images)
            choices.append(Choice([row[0] for row in rows], (weight, bias), worth=worth))
        return choices

    def favoured(self, supports: Sequence[Indices], worth: Array | None) -> float:
        """Return by how much supports are favoured, in nats, where a feature of each class is worth so much."""
        if self.favour is None or worth is None:
            return 0.0
        rows = zip(worth.tolist(), self.favour, supports, strict=True)
        return float(sum(one * favour[support].sum() for one, favour, support in rows))

    def _update(self, start: int, head: Single | None, near: WeightedMoments, block: Block) -> WeightedMoments:
        """Add what the images of a block say of the classes whose boundary they are near."""
        with workers() as pool:
            weighed = Near.by_class(list(pool.map(partial(self._near, head, block), _pieces(block, len(self.images)))))
            seen = [place for place in range(len(near.features)) if self.images[start + place]]
            x = np.ascontiguousarray(block.features)
            list(pool.map(lambda place: near.update(place, x, *weighed.of(start + place)), seen))
        return near

    def _near(self, head: Single | None, block: Block, part: slice) -> Near:
        return Near.found(*self._weigh(head, block.at(part)), part.start)

    def _weigh(self, head: Single | None, block: Block) -> tuple[Array, Array]:
        """Return (m, C) what images weigh beyond ε, and (m, C) their pull: weight times target; both zero far away."""
        if head is None:
            return self._by_margin(block)
        dense = logits(block, self._said).astype(np.float64)
        said = logits(block, head).astype(np.float64)
        q = softmax(said, axis=1)
        wanted = np.eye(q.shape[1])[block.labels] if self.target == "labels" else softmax(dense, axis=1)
        weights, residual = q * (1 - q), wanted - q
        near = (weights > _NEAR) | (np.abs(residual) > _NEAR)
        return np.where(near, weights, 0), np.where(near, weights * said + residual, 0)

    def _by_margin(self, block: Block) -> tuple[Array, Array]:
        below = sampled(self.moments.images)
        return weigh(_exactly(block, self.dense), self.margin, below, block.prints() if below else None)

    def _quadratic(self, label: int, near: WeightedMoments, place: int, pulls: Array, pull: float) -> Quadratic:
        """Join what all images say, at the weight ε, and what those near the boundary add."""
        features, all_images = near.features[place], self.moments
        total = FLOOR * all_images.images + near.weight[place]
        mean = (FLOOR * all_images.sums[features] + near.sums[place]) / total
        gram = (FLOOR * all_images.products[np.ix_(features, features)] + near.products[place]) / total
        moments = (FLOOR * pulls[features] + near.moments[place]) / total
        target = float(FLOOR * pull + near.target[place]) / total
        dead = gram.diagonal() - mean**2 <= _DEAD * gram.diagonal()
        gram -= np.outer(mean, mean)
        gram[dead], gram[:, dead] = 0, 0
        favour = None if self.favour is None else self.favour[label, features]
        return Quadratic(label, features, total, gram, np.where(dead, 0, moments - mean * target), mean, target, favour)

    def _screen(self, head: Affine | None) -> Indices:
        """Return (C, m): for each class the features that stay in the running, ascending."""
        known, size = self._ranks[:, self.pool], self.candidates
        if head is not None:
            used = (head[0][:, self.pool] != 0) & (self.images > 0)[:, None]  # a class without images has all
            known, size = np.where(used, -1, known), max(size // _FEWER, int(used.sum(axis=1).max()))
        if size >= len(self.pool):
            return np.tile(self.pool, (len(known), 1))
        return self.pool[best(known, size)]


def favour(weight: Array, moments: Moments) -> Array:
    """Return (C, d): how much a stable choice favours each feature, in shares of what one is worth."""
    leans = leaning(weight, moments)
    largest = leans.max(axis=1, keepdims=True)
    return FAVOUR * leans / np.where(largest > 0, largest, 1)


def single(head: Affine | Single) -> Single:
    """Return a head in the precision in which it says something of images."""
    return head[0].astype(np.float32, copy=False), head[1].astype(np.float32, copy=False)


def logits(block: Block, head: Affine | Single) -> Features:
    """Return (m, C), what a head says of some images."""
    return say(block.features, *single(head))


def _pieces(block: Block, n_classes: int) -> list[slice]:
    rows = max(1, _WEIGHED // n_classes)
    return [slice(start, start + rows) for start in range(0, len(block), rows)]


def _exactly(block: Block, dense: Affine) -> Array:
    """Return (m, C) the dense logits; where they decide what is drawn, float32 would let the cut into blocks decide."""
    return block.features @ dense[0].T + dense[1]


_Looked = tuple[Moments, Indices, list[Array]]  # second moments, images of each class, margins


def _nothing(n_classes: int, n_features: int) -> _Looked:
    return Moments(n_features), np.zeros(n_classes, np.int64), []


def _look(dense: Affine, so_far: _Looked, block: Block) -> _Looked:
    moments, images, apart = so_far
    moments.update(block.features)
    apart += [margins(_exactly(block.at(part), dense)) for part in _pieces(block, len(images))]
    return moments, images + np.bincount(block.labels, minlength=len(images)), apart
