"""Re-learn the weights of a decomposed head on fixed supports, all classes together.

Minimised is the mean Kullback-Leibler divergence from the dense network's probabilities (or the mean cross-entropy to the
labels) over the stored images, which is convex in weights and biases. L-BFGS starts from the weights given and works in
coordinates in which each class's own curvature at the start is the unit matrix, so that no scale of features or logits
matters and few steps are needed. It has converged when no coordinate of the gradient exceeds a tolerance.

With ``z = x W' + b``, the loss is ``mean(logsumexp(z) − p·z)`` and a constant: the wanted probabilities p enter by one sum,
taken once, and a step reads only the features of the supports.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import entr, softmax

from subspect.choosing.boundary import FLOOR, Affine, Boundary, Choice, Refit, logits
from subspect.choosing.options import Target
from subspect.choosing.pursuit import Array, Indices
from subspect.ground.errors import SubspectError
from subspect.ground.memory import budget
from subspect.studies.rows import STATISTICS, Block, bytes_of, workers

log = logging.getLogger("subspect")
T = TypeVar("T")

TOLERANCE = 1e-6  #: of the gradient; its square is about the divergence that is still to be gained, in nats
_RIDGE = 1e-6  # pull towards the start, in units of its curvature; keeps labels that can be separated from running off
ROUNDS = 5  #: of choosing features anew
_ROUGH = 1e-4  # tolerance between rounds
_STEPS = 500
_ROWS = 4096  # images handled at a time
_FILL = 32  # up to so many times the entries of the supports, a full matrix product is faster than one for each class


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
    vector, loss, steps, converged = least(problem, len(problem.begin), problem.ridge, tolerance)
    weight, bias = problem.head(problem.theta(vector))
    return Refit(weight, bias, loss, steps, converged)


def least(
    problem: Callable[[Array], tuple[float, Array]], size: int, ridge: float, tolerance: float
) -> tuple[Array, float, int, bool]:
    """Return where a loss and its ridge are least, from zero on; the loss alone, the steps, and whether it converged."""
    found = minimize(
        problem,
        np.zeros(size),
        jac=True,
        method="L-BFGS-B",
        options={"maxcor": 20, "ftol": 0, "gtol": tolerance, "maxiter": _STEPS, "maxfun": 2 * _STEPS},
    )
    slope = float(np.abs(found.jac).max(initial=0))
    if slope > tolerance and found.nit >= _STEPS:
        log.warning("refit: after %d steps the gradient is %.1e, not yet %.0e", found.nit, slope, tolerance)
    pull = ridge / 2 * float(found.x @ found.x)
    return found.x, float(found.fun) - pull, int(found.nit), slope <= tolerance


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
    if last and rough is not boundary:  # from the optimum of the sample few steps are left
        best = kind.learn(rough, best, TOLERANCE)
    return kind.learn(boundary, best, TOLERANCE) if last else best


def _key(choice: Choice) -> bytes:
    """Return what tells choices apart: the features, and with readable weights the signs."""
    signs = b"" if choice.scales is None else np.sign(choice.affine[0]).astype(np.int8).tobytes()
    return b"|".join([*(np.sort(support).tobytes() for support in choice.supports), signs])


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some images: the features (u + 1, r) of all supports together and a row of ones; the fixed classes' logits (f, r)."""

    features: Array
    fixed: Array


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
        self.start, self.supports, self.fixed = start, supports, sorted(set(fixed))
        self.free = [label for label in range(len(supports)) if label not in self.fixed]
        self.union = np.unique(np.concatenate([np.empty(0, np.int64), *(supports[label] for label in self.free)]))
        # A class's places in a piece's features; the last, beyond the union, is the row of ones that carries the bias.
        self.places = [np.append(np.searchsorted(self.union, supports[label]), len(self.union)) for label in self.free]
        sizes = [len(places) for places in self.places]
        self.parts = [slice(end - size, end) for end, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True)]
        self.entries = np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.empty(0, np.int64), *self.places])
        self.full = len(self.free) * (len(self.union) + 1) <= _FILL * sum(sizes)
        self.begin = np.concatenate(
            [np.empty(0), *(np.append(start[0][label, supports[label]], start[1][label]) for label in self.free)]
        )
        self.blocks = blocks
        memory = budget() // STATISTICS if memory is None else memory
        rows = bytes_of(blocks) // (4 * start[0].shape[1])
        self.keeps = (
            8 * rows * (len(self.union) + 1 + len(self.fixed)) <= memory
        )  # known at once: nothing is kept in vain
        self.kept: list[_Piece] | None = None
        self.images, self.constant, self.wanted = 0, 0.0, np.zeros(len(self.begin))
        self.roots = self._prepare(dense, target)
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
        loss, gradient = -float(theta @ self.wanted), -self.wanted
        for piece_loss, piece_gradient in self._map(lambda piece: self._normaliser(theta, piece)):
            loss += piece_loss
            gradient = gradient + piece_gradient
        return loss / self.images + self.constant, gradient / self.images

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

    def _prepare(self, dense: Affine, target: Target) -> list[Array]:
        """Sum what is wanted, and return the Cholesky factors of the classes' curvatures at the start."""
        curvatures = [np.zeros((len(places), len(places))) for places in self.places]
        kept = list[_Piece]()
        for block in self.blocks:
            said = logits(block, dense).astype(np.float64)
            wanted = np.eye(said.shape[1])[block.labels] if target == "labels" else softmax(said, axis=1)
            self.images += len(wanted)
            self.constant -= float(entr(wanted).sum())
            for start in range(0, len(block.labels), _ROWS):
                piece = self._piece(block, start)
                self._take(piece, wanted[start : start + _ROWS].T, curvatures)
                if self.keeps:
                    kept.append(piece)
        if not self.images:
            raise SubspectError("refit: there are no images to learn from")
        self.kept = kept if self.keeps else None
        self.constant /= self.images
        return [lower_root(curvature / self.images) for curvature in curvatures]

    def _take(self, piece: _Piece, wanted: Array, curvatures: list[Array]) -> None:
        self.constant -= float((wanted[self.fixed] * piece.fixed).sum())
        q = softmax(self._logits(self.begin, piece), axis=0)
        weights = q * (1 - q) + FLOOR

        def at(c: int) -> None:
            x, label = piece.features[self.places[c]], self.free[c]
            self.wanted[self.parts[c]] += x @ wanted[label]
            curvatures[c] += (x * weights[label]) @ x.T

        with workers() as pool:
            list(pool.map(at, range(len(self.free))))

    def _normaliser(self, theta: Array, piece: _Piece) -> tuple[float, Array]:
        """Return the sum over images of logsumexp(z), and its gradient."""
        z = self._logits(theta, piece)
        largest = z.max(axis=0)
        q = np.exp(z - largest)
        total = q.sum(axis=0)
        q /= total
        loss = float((largest + np.log(total)).sum())
        if self.full:
            return loss, (q[self.free] @ piece.features.T)[self.entries]
        return loss, np.concatenate(
            [piece.features[places] @ q[label] for places, label in zip(self.places, self.free, strict=True)]
        )

    def _logits(self, theta: Array, piece: _Piece) -> Array:
        z = np.empty((len(self.supports), piece.features.shape[1]))
        z[self.fixed] = piece.fixed
        if self.full:
            weight = np.zeros((len(self.free), len(piece.features)))
            weight[self.entries] = theta
            z[self.free] = weight @ piece.features
        else:
            for places, part, label in zip(self.places, self.parts, self.free, strict=True):
                z[label] = theta[part] @ piece.features[places]
        return z

    def _piece(self, block: Block, start: int) -> _Piece:
        """Cut a piece out of a block, from a row on."""
        x = block.features[start : start + _ROWS]
        fixed = self.start[0][self.fixed] @ x.T.astype(np.float64) + self.start[1][self.fixed, None]
        features = np.ones((len(self.union) + 1, len(x)))
        features[:-1] = x[:, self.union].T
        return _Piece(features, fixed)

    def _worked(self, work: Callable[[_Piece], T], block: Block, start: int) -> T:
        return work(self._piece(block, start))

    def _map(self, work: Callable[[_Piece], T]) -> Iterator[T]:
        """Do some work on every piece, in several threads; a block is read while the one before is worked on."""
        with workers() as pool:
            if self.kept is not None:
                yield from pool.map(work, self.kept)
                return
            before: list[Future[T]] = []
            for block in self.blocks:
                cuts = range(0, len(block.labels), _ROWS)
                now = [pool.submit(self._worked, work, block, start) for start in cuts]
                yield from (one.result() for one in before)
                before = now
            yield from (one.result() for one in before)


def lower_root(curvature: Array) -> Array:
    """Return the lower Cholesky factor, with a trace of ridge for features that depend on each other or never vary."""
    curvature = curvature + np.diag(1e-9 * curvature.diagonal() + 1e-9 * curvature.diagonal().max())
    return np.asarray(cholesky(curvature, lower=True))
