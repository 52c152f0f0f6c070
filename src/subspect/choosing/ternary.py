"""Readable weights: −1, 0 or +1, so that a class's logit is a sum that a reader can do in the head.

``z_c = a_c · Σ_{f ∈ S_c} t_cf · x_f / s_f + b_c`` with signs ``t = ±1``: one scale s for each feature, shared by all classes
("how strongly is it on"), one scale ``a > 0`` and one bias for each class. All three are learned together towards the target
of the choice, as free weights are, by L-BFGS in log s, log a and b, whitened by the curvature at the start. Only ratios of a
and s count: the geometric mean of all a is 1.

Features and signs are chosen anew at that head's own curvature. With the scales of features held, the loss of a class is
least at ``a = g't / t'Gt`` (G and g of `subspect.choosing.pursuit`, each feature divided by its scale), where it is lower by
``(g't)² / t'Gt``: features are added, exchanged, or change their sign while that grows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.linalg import solve_triangular

from subspect.choosing.boundary import Boundary, Choice, Refit
from subspect.choosing.pursuit import Array, Indices, Quadratic
from subspect.choosing.refit import Kind, Problem, least, lower_root

_TIE = 1e-9  # gains closer than this, relatively, are equal: the lower feature wins
_RANK = 1e-9  # what is left of a variance, relatively, that is rounding
_GAUGE = 1e-3  # of the mean curvature, given to all directions, since that of all a and s together has none
_IDLE = 1e-2  # a feature that spreads less, by its scale, than this share of the median says nothing
_SCALES = 1e-15, 1e15  # within which scales stay, so that float32 holds their quotients
_FAR = 30  # a logarithm that changes more has left what the curvature at the start says; a step so far is taken back


def readable(boundary: Boundary, free: Choice) -> Choice:
    """Take the signs of free weights; a feature's scale is the geometric mean, over its classes, of what fits their weights."""
    seen = boundary.images > 0
    weight = np.where(seen[:, None], free.affine[0], 0)
    used = weight != 0
    logs = np.log(np.abs(weight), out=np.zeros_like(weight), where=used).sum(axis=0) / np.maximum(used.sum(axis=0), 1)
    scales = seen.astype(np.float64), np.where(used.any(axis=0), np.exp(-logs), 0)
    return _choice(boundary, np.sign(weight), scales, free.affine[1])


def learn(boundary: Boundary, choice: Choice, tolerance: float) -> Choice:
    """Learn all scales and biases; features and signs stay."""
    problem = Scales(boundary, choice)
    images = problem.inner.images
    vector, loss, steps, converged = least(problem, len(problem.begin), problem.ridge, tolerance, images)
    scales, bias = problem.scales(vector)
    learned = _choice(boundary, _signs(boundary, choice), scales, bias)
    return replace(learned, worth=choice.worth, refit=Refit(*learned.affine, loss, steps, converged))


class Scales:
    """The loss and its gradient as a function of one vector: log 1/s of the features used, log a and b of the free classes."""

    def __init__(self, boundary: Boundary, choice: Choice) -> None:
        assert choice.scales is not None
        self.inner = inner = Problem(
            boundary.blocks,
            boundary.dense,
            choice.supports,
            choice.affine,
            boundary.target,
            boundary.unseen,
            0,
            boundary.memory,
        )
        self.ridge, self.before = inner.ridge, (*choice.scales, choice.affine[1])
        classes, features = choice.scales[0][inner.free], choice.scales[1][inner.union]
        self.begin = np.concatenate([-np.log(features), np.log(classes), choice.affine[1][inner.free]])
        self.cut = len(features), len(features) + len(classes)
        rows, columns = inner.entries  # of weights and biases; the last column is that of the biases
        self.entries, self.biases = np.flatnonzero(columns < len(features)), np.flatnonzero(columns == len(features))
        self.places, self.owners = columns[self.entries], len(features) + rows[self.entries]
        self.root = self._root()

    def __call__(self, vector: Array) -> tuple[float, Array]:
        """Return the loss and its gradient."""
        numbers = self._numbers(vector)
        theta = self.inner.begin.copy()
        moved = numbers - self.begin
        theta[self.entries] *= np.exp(np.clip(moved[self.places] + moved[self.owners], -_FAR, _FAR))
        theta[self.biases] = numbers[self.cut[1] :]
        loss, slopes = self.inner.at(theta)
        each = slopes[self.entries] * theta[self.entries]
        gradient = np.bincount(self.places, each, len(numbers)) + np.bincount(self.owners, each, len(numbers))
        gradient[self.cut[1] :] = slopes[self.biases]
        white = solve_triangular(self.root, gradient, lower=True)
        return loss + self.ridge / 2 * float(vector @ vector), white + self.ridge * vector

    def scales(self, vector: Array) -> tuple[tuple[Array, Array], Array]:
        """Return the scales of classes and features, and the biases, at a point."""
        numbers, (end, last) = self._numbers(vector), self.cut
        classes, features, bias = (one.copy() for one in self.before)
        gauge = numbers[end:last].mean() if last > end else 0.0
        classes[self.inner.free] = np.exp(numbers[end:last] - gauge)
        features[self.inner.union] = np.exp(-numbers[:end] - gauge)
        bias[self.inner.free] = numbers[last:]
        return (classes, features), bias

    def _numbers(self, vector: Array) -> Array:
        return np.asarray(self.begin + solve_triangular(self.root, vector, lower=True, trans="T"))

    def _root(self) -> Array:
        """Return the Cholesky factor of the curvature at the start, from that of each class in its weights and bias."""
        curvature = np.zeros((len(self.begin), len(self.begin)))
        for c, (root, part) in enumerate(zip(self.inner.roots, self.inner.parts, strict=True)):
            columns = np.append(self.inner.places[c][:-1], [self.cut[0] + c, self.cut[1] + c])
            by_weight = root.T[:, :-1] * self.inner.begin[part][:-1]
            slopes = np.column_stack([by_weight, by_weight.sum(axis=1), root.T[:, -1]])
            curvature[np.ix_(columns, columns)] += slopes.T @ slopes
        return lower_root(curvature + _GAUGE * curvature.diagonal().mean() * np.eye(len(curvature)))


def anew(boundary: Boundary, choice: Choice, sizes: Indices) -> Choice:
    """Choose at most so many features (C,) for each class, and their signs, at a head's own curvature.

    A feature that no class uses yet, or that its scale has put out of use, is tried at the scale at which its spread is that of
    the others.
    """
    assert choice.scales is not None
    spread, features, signs = boundary.moments.deviations(), choice.scales[1].copy(), _signs(boundary, choice)
    by_scale = np.divide(spread, features, out=np.zeros_like(spread), where=features > 0)
    typical = float(np.median(by_scale[by_scale > 0])) if by_scale.any() else 1.0
    features = np.where(by_scale > _IDLE * typical, features, np.where(spread > 0, spread / typical, 1))

    def work(problem: Quadratic) -> tuple[Array, float, float, float]:
        row, label, size = np.zeros(len(features)), problem.label, int(sizes[problem.label])
        if label in boundary.unseen:
            return row, 0.0, float(boundary.dense[1][label]), 0.0
        unit = 1 / features[problem.features]
        gram, moments = problem.gram * unit * unit[:, None], problem.moments * unit
        worth = 0.0 if problem.favour is None else problem.worth(size)
        bonus = None if problem.favour is None else problem.favour * worth / problem.weight
        starts = [np.zeros(len(unit)), signs[label, problem.features], *([pair(gram, moments)] if size > 1 else [])]
        found = max((climb(gram, moments, size, start, bonus) for start in starts), key=lambda one: one[1])[0]
        top = float(moments @ found)
        scale = top / float(found @ gram @ found) if top > 0 else 1.0
        row[problem.features] = found
        return row, scale, problem.target - scale * float((found * unit) @ problem.mean), worth

    rows, classes, bias, worth = (np.array(one) for one in zip(*boundary.each(work, choice.affine), strict=True))
    scales = classes, np.where((rows != 0).any(axis=0), features, 0)
    chosen = _choice(boundary, rows, scales, bias)
    return chosen if boundary.favour is None else replace(chosen, worth=worth / (2 * boundary.moments.images))


TERNARY = Kind(learn, anew)


def climb(gram: Array, moments: Array, size: int, start: Array, bonus: Array | None = None) -> tuple[Array, float]:
    """Add features with either sign, exchange them and turn their signs, one at a time, while that lowers the loss.

    Args:
        gram: (m, m) G, of features divided by their scales.
        moments: (m,) g.
        size: features, at most.
        start: (m,) signs to begin with.
        bonus: (m,) what is added for each feature to that by which the loss is lower.

    Returns:
        Signs (m,), and by how much the loss is lower with them, bonuses added.
    """
    signs, extra = start.copy(), np.zeros(len(gram)) if bonus is None else bonus
    best = _lower(gram, moments, signs)
    while size:
        members, along = np.flatnonzero(signs), gram @ signs
        gone = np.zeros((len(members) + (len(members) < size), len(gram)))  # a row for each that may go; the last: none
        gone[np.arange(len(members)), members] = signs[members]
        free = (signs == 0) | (gone != 0)
        less, alongs = gone @ moments, along - gone @ gram
        bottoms = float(signs @ along) - 2 * gone @ along + (gone * gone) @ gram.diagonal()
        kept = float(np.abs(signs) @ extra) - np.abs(gone) @ extra
        values = np.stack(
            [
                _ratio(
                    (float(moments @ signs) - less)[:, None] + sign * moments,
                    bottoms[:, None] + 2 * sign * alongs + gram.diagonal(),
                    gram.diagonal(),
                )
                for sign in (1, -1)
            ]
        )
        values[:, len(members) :][values[:, len(members) :] <= best * (1 + _TIE)] = -np.inf  # none for its bonus alone
        values = np.where(free & (values > 0), values + kept[:, None] + extra, -np.inf)
        now = best + float(np.abs(signs) @ extra)
        if not values.max() > now * (1 + _TIE):
            break
        sign, row, feature = np.unravel_index(int(np.argmax(values >= values.max() * (1 - _TIE))), values.shape)
        moved = signs - gone[row]
        moved[feature] = 1 - 2 * int(sign)
        lower = _lower(gram, moments, moved)
        if not lower + float(np.abs(moved) @ extra) > now:  # where features nearly cancel, sums are inexact
            break
        signs, best = moved, lower
    return signs, best + float(np.abs(signs) @ extra)


def pair(gram: Array, moments: Array) -> Array:
    """Return the signs of the two features that together lower the loss most."""
    variance = gram.diagonal()
    both = [
        _ratio(np.abs(moments[:, None] + sign * moments), variance[:, None] + variance + 2 * sign * gram, variance)
        for sign in (1, -1)
    ]
    values = np.triu(both, 1)
    signs = np.zeros(len(gram))
    sign, one, other = np.unravel_index(int(np.argmax(values >= values.max() * (1 - _TIE))), values.shape)
    if values.max() > 0:
        signs[one], signs[other] = 1, 1 - 2 * int(sign)
    return signs if moments @ signs >= 0 else -signs


def _lower(gram: Array, moments: Array, signs: Array) -> float:
    """Return by how much the loss is lower with signs at their best scale, if that is above 0."""
    return float(_ratio(moments @ signs, signs @ gram @ signs, np.zeros(())))


def _ratio(top: Array, bottom: Array, variance: Array) -> Array:
    """Return top² / bottom; 0 where top isn't above 0, or features cancel to no more than rounding of a variance."""
    able = (top > 0) & (bottom > _RANK * variance)
    return np.where(able, top * top / np.maximum(bottom, 1e-300), 0)


def _signs(boundary: Boundary, choice: Choice) -> Array:
    """Return (C, d) the signs of the classes that have images."""
    return np.sign(np.where((boundary.images > 0)[:, None], choice.affine[0], 0))


def _choice(boundary: Boundary, signs: Array, scales: tuple[Array, Array], bias: Array) -> Choice:
    """Return the choice of some signs; scales are rounded to float32, as they are stored, classes without images stay dense."""
    classes, features = (
        np.where(one > 0, np.clip(one, *_SCALES), 0).astype(np.float32).astype(np.float64) for one in scales
    )
    weight = classes[:, None] * signs / np.where(features > 0, features, 1)
    bias = bias.copy()
    weight[boundary.unseen], bias[boundary.unseen] = (one[boundary.unseen] for one in boundary.dense)
    supports = [np.flatnonzero(row) for row in signs]
    for label in boundary.unseen:
        supports[label] = np.arange(signs.shape[1])
    return Choice(supports, (weight, bias), scales=(classes, features))
