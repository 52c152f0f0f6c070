"""Re-learn the weights of a decomposed head on fixed supports, all classes together.

Minimised is the mean Kullback-Leibler divergence from the dense network's probabilities (or the mean cross-entropy to the
labels) over the stored images, which is convex in weights and biases. L-BFGS starts from the weights given and works in
coordinates in which each class's own curvature at the start is the unit matrix, so that no scale of features or logits
matters and few steps are needed. It has converged when no coordinate of the gradient exceeds a tolerance; of many images,
also when a step gains less than a thousandth of what other images would change: they leave the loss of p learned numbers
uncertain by about p / 2N nats (White 1982).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize

from subspect.choosing.boundary import Affine, Boundary, Choice, Refit
from subspect.choosing.layout import Layout
from subspect.choosing.options import Target
from subspect.choosing.pursuit import Array, Indices
from subspect.ground.errors import SubspectError
from subspect.studies.blocks import STATISTICS, Beside, Mapped, kept, total
from subspect.studies.rows import Block, bytes_of

log = logging.getLogger("subspect")

TOLERANCE = 1e-6  #: of the gradient; its square is about the divergence that is still to be gained, in nats
_RIDGE = 1e-6  # pull towards the start, in units of its curvature; keeps labels that can be separated from running off
ROUNDS = 5  #: of choosing features anew
_ROUGH = 1e-4  # tolerance between rounds
_STEPS = 500
_MANY = 200_000  # images
_GAIN = 1e-3  # of what other images would change, that a step of so many must gain


def refit(
    blocks: Iterable[Block],
    dense: Affine,
    supports: Sequence[Indices],
    start: Affine,
    target: Target = "dense",
    *,
    fixed: Iterable[int] = (),
    prior: float = 0,
    tolerance: float = TOLERANCE,
    memory: int | None = None,
) -> Refit:
    """Re-learn weights and biases on fixed supports.

    Args:
        blocks: features and labels; gone through once, or once a step where the supports' features exceed ``memory``.
        dense: weight (C, d) and bias (C,) of the dense head.
        supports: the features of each class.
        start: weight (C, d) and bias (C,) to begin with; what lies outside the supports is left out.
        target: what to come close to: the "dense" network's probabilities, or the "labels".
        fixed: classes that keep all of their row of ``start``, whatever their support.
        prior: as how many images more the start counts: a pull towards it, in units of its curvature.
        tolerance: the largest coordinate of the gradient at which to stop.
        memory: bytes that features may take, a fourth of what a command may unless given.

    Raises:
        SubspectError: no images.
    """
    problem = Problem(blocks, dense, supports, start, target, fixed, prior, memory)
    vector, loss, steps, converged = least(problem, len(problem.begin), problem.ridge, tolerance, problem.images)
    weight, bias = problem.head(problem.theta(vector))
    return Refit(weight, bias, loss, steps, converged)


def least(
    problem: Callable[[Array], tuple[float, Array]], size: int, ridge: float, tolerance: float, images: int
) -> tuple[Array, float, int, bool]:
    """Return where a loss and its ridge are least, from zero on; the loss alone, the steps, and whether it converged."""
    gain = _GAIN * size / (2 * images) if images >= _MANY else 0.0
    found = minimize(
        problem,
        np.zeros(size),
        jac=True,
        method="L-BFGS-B",
        options={"maxcor": 20, "ftol": gain, "gtol": tolerance, "maxiter": _STEPS, "maxfun": 2 * _STEPS},
    )
    slope = float(np.abs(found.jac).max(initial=0))
    if slope > tolerance and found.nit >= _STEPS:
        log.warning("refit: after %d steps the gradient is %.1e, not yet %.0e", found.nit, slope, tolerance)
    pull = ridge / 2 * float(found.x @ found.x)
    return found.x, float(found.fun) - pull, int(found.nit), slope <= tolerance or (gain > 0 and bool(found.success))


class Kind(NamedTuple):
    """A kind of weights.

    Attributes:
        learn: the weights of a choice, to a tolerance of the gradient.
        anew: chooses so many features (C,) for each class at the boundaries of a choice that was learned.
    """

    learn: Callable[[Boundary, Choice, float], Choice]
    anew: Callable[[Boundary, Choice, Indices], Choice]


def _learn(boundary: Boundary, choice: Choice, tolerance: float) -> Choice:
    learned = refit(
        boundary.blocks,
        boundary.dense,
        choice.supports,
        choice.affine,
        boundary.target,
        fixed=boundary.unseen,
        tolerance=tolerance,
        memory=boundary.memory,
    )
    return replace(choice, affine=learned.affine, refit=learned)


FREE = Kind(_learn, lambda boundary, choice, sizes: boundary.choose(sizes[None], choice.affine)[0])


def reselect(
    boundary: Boundary,
    choice: Choice,
    *,
    rounds: int = ROUNDS,
    advance: Callable[[int], object] = lambda _: None,
    last: bool = True,
    kind: Kind = FREE,
) -> Choice:
    """Refit, and choose the features anew near the refitted head's own boundaries, a few times; keep the best.

    Args:
        boundary: features, dense head and target.
        choice: the features to begin with; how many each class has stays.
        rounds: how often to choose anew; it ends before where a choice comes back.
        advance: called with 1 after each round.
        last: whether to refit the best to the end: without, its head is rough.
        kind: of weights.

    Returns:
        The choice whose refit has the least loss, less by how much its features are favoured, with the head of that refit.
    """
    sizes = np.array([len(support) for support in choice.supports])
    rough = boundary.on_few()
    tried = [kind.learn(rough, choice, _ROUGH)]
    seen, worth = {_key(choice)}, None
    for _ in range(rounds):
        choice = kind.anew(boundary, tried[-1], sizes)
        worth = choice.worth if worth is None else worth  # at one head, so that all are favoured alike
        if _key(choice) in seen:
            break
        seen.add(_key(choice))
        tried.append(kind.learn(rough, choice, _ROUGH))
        advance(1)
    losses = [one.refit.loss - boundary.favoured(one.supports, worth) for one in tried if one.refit]
    best = tried[int(np.argmin(losses))]
    return kind.learn(boundary, best, TOLERANCE) if last else best


def _key(choice: Choice) -> bytes:
    """Return what tells choices apart: the features, and with readable weights the signs."""
    signs = b"" if choice.scales is None else np.sign(choice.affine[0]).astype(np.int8).tobytes()
    return b"|".join([*(np.sort(support).tobytes() for support in choice.supports), signs])


class Problem:
    """The loss and its gradient as a function of one vector: weights and bias of every free class, whitened."""

    def __init__(
        self,
        blocks: Iterable[Block],
        dense: Affine,
        supports: Sequence[Indices],
        start: Affine,
        target: Target,
        fixed: Iterable[int],
        prior: float,
        memory: int | None,
    ) -> None:
        self.start, self.supports = start, supports
        self.layout = layout = Layout.of(supports, start, fixed)
        self.fixed, self.free, self.union, self.parts = layout.fixed, layout.free, layout.union, layout.parts
        self.places, self.entries = layout.places, layout.entries
        self.begin = np.concatenate(
            [np.empty(0), *(np.append(start[0][label, supports[label]], start[1][label]) for label in self.free)]
        )
        source = kept(blocks)
        rows = bytes_of(source) // (4 * start[0].shape[1])
        self.cut = Mapped(source, layout.cut, rows * layout.bytes_of_image, memory, STATISTICS)
        self.images, self.constant, self.wanted, curvatures = total(
            Beside(self.cut), layout.nothing, partial(layout.take, dense, target, self.begin)
        )
        if not self.images:
            raise SubspectError("refit: there are no images to learn from")
        self.constant /= self.images
        self.roots = [lower_root(curvature / self.images) for curvature in curvatures]
        self.ridge = _RIDGE + prior / self.images

    def __call__(self, vector: Array) -> tuple[float, Array]:
        """Return the loss and its gradient."""
        loss, gradient = self.at(self.theta(vector))
        white = np.empty_like(gradient)
        for root, part in zip(self.roots, self.parts, strict=True):
            white[part] = solve_triangular(root, gradient[part], lower=True)
        return loss + self.ridge / 2 * float(vector @ vector), white + self.ridge * vector

    def at(self, theta: Array) -> tuple[float, Array]:
        """Return the loss and its gradient in the weights and biases themselves: of each free class the support's, then b."""
        loss, gradient = total(self.cut, partial(_zero, len(theta)), partial(self.layout.normalise, theta))
        return (loss - float(theta @ self.wanted)) / self.images + self.constant, (gradient - self.wanted) / self.images

    def head(self, theta: Array) -> Affine:
        """Return weight (C, d) and bias (C,) of the numbers that `at` takes."""
        weight, bias = np.zeros_like(self.start[0]), self.start[1].copy()
        weight[self.fixed] = self.start[0][self.fixed]
        for label, part in zip(self.free, self.parts, strict=True):
            weight[label, self.supports[label]], bias[label] = theta[part][:-1], theta[part][-1]
        return weight, bias

    def theta(self, vector: Array) -> Array:
        """Return weights and biases at a point."""
        theta = self.begin.copy()
        for root, part in zip(self.roots, self.parts, strict=True):
            theta[part] += solve_triangular(root, vector[part], lower=True, trans="T")
        return theta


def _zero(size: int) -> tuple[float, Array]:
    return 0.0, np.zeros(size)


def lower_root(curvature: Array) -> Array:
    """Return the lower Cholesky factor, with a trace of ridge for features that depend on each other or never vary."""
    curvature = curvature + np.diag(1e-9 * curvature.diagonal() + 1e-9 * curvature.diagonal().max())
    return np.asarray(cholesky(curvature, lower=True))
