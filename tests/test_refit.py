"""The re-learned head against scikit-learn and SciPy on dense matrices, and the features that it leads to."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, check_grad, minimize
from scipy.special import log_softmax, softmax, xlogy
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from conftest import cut
from passes import Passes
from subspect import SubspectError
from subspect.choosing.boundary import Affine, Boundary, Choice, Refit
from subspect.choosing.options import TARGETS, Target
from subspect.choosing.refit import _RIDGE, ROUNDS, TOLERANCE, Problem, refit, reselect
from subspect.statistics.nearness import FLOOR
from subspect.studies.rows import Block

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]
Supports = list[Ints]
seeds = st.integers(0, 2**32 - 1)
fast = settings(deadline=None, derandomize=True, max_examples=15)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep SciPy's L-BFGS, which steps through a few numbers, from waking all cores at every step."""
    with threadpool_limits(1):
        yield


def coarse(values: Array) -> Array:
    """Round to sixteenths, so that the dense logits are exact in float32, in whatever order they are summed."""
    return np.round(values * 16) / 16


def make(seed: int, images: int = 120, features: int = 8, classes: int = 4) -> tuple[Features, Ints, Affine]:
    """Features, a dense head, and labels that follow it now and then."""
    generator = np.random.default_rng(seed)
    x = coarse(generator.standard_normal((images, features)) + generator.uniform(-1, 1, features))
    head = coarse(generator.standard_normal((classes, features)) / 2), coarse(generator.standard_normal(classes))
    labels = np.where(
        generator.random(images) < 0.5,
        (x @ head[0].T + head[1]).argmax(axis=1),
        generator.integers(0, classes, images),
    )
    labels[:classes] = np.arange(classes)
    return x.astype(np.float32), labels, head


def some(seed: int, classes: int = 4, features: int = 8) -> Supports:
    """Supports of one to all features."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, features + 1, classes)
    return [generator.permutation(features)[:size] for size in sizes]


def whole(classes: int = 4, features: int = 8) -> Supports:
    return [np.arange(features)] * classes


def nothing(classes: int = 4, features: int = 8) -> Affine:
    return np.zeros((classes, features)), np.zeros(classes)


def noise(seed: int, classes: int = 4, features: int = 8) -> Affine:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((classes, features)), generator.standard_normal(classes)


def wanted(x: Features, labels: Ints, dense: Affine, target: Target) -> Array:
    if target == "labels":
        return np.asarray((labels[:, None] == np.arange(len(dense[1]))).astype(np.float64))
    return np.asarray(softmax(x.astype(np.float64) @ dense[0].T + dense[1], axis=1))


def said(x: Features, head: Affine) -> Array:
    return np.asarray(log_softmax(x.astype(np.float64) @ head[0].T + head[1], axis=1))


def loss(x: Features, labels: Ints, dense: Affine, target: Target, head: Affine) -> float:
    """The mean divergence from the dense network, or the mean cross-entropy to the labels."""
    p = wanted(x, labels, dense, target)
    return float((xlogy(p, p) - p * said(x, head)).sum(axis=1).mean())


def minimised(
    x: Features,
    labels: Ints,
    dense: Affine,
    target: Target,
    supports: Supports,
    start: Affine,
    fixed: Sequence[int] = (),
) -> Affine:
    """The same with all weights in one dense matrix, a mask, and SciPy's BFGS."""
    wide, p = np.column_stack([x, np.ones(len(x))]), wanted(x, labels, dense, target)
    free = np.zeros((len(supports), wide.shape[1]), bool)
    for label, support in enumerate(supports):
        free[label, [*support, -1]] = label not in fixed
    both = np.column_stack([np.where(free[:, :-1], start[0], 0), start[1]])
    both[list(fixed)] = np.column_stack(start)[list(fixed)]

    def value(theta: Array) -> tuple[float, Array]:
        both[free] = theta
        log_q = log_softmax(wide @ both.T, axis=1)
        slope = (np.exp(log_q) - p).T @ wide / len(x)
        return float((xlogy(p, p) - p * log_q).sum(axis=1).mean()), slope[free]

    both[free] = minimize(value, np.zeros(free.sum()), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    return both[:, :-1], both[:, -1]


def assert_support(found: Refit, supports: Supports) -> None:
    for row, support in zip(found.weight, supports, strict=True):
        assert not np.delete(row, support).any()


# The optimum ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@fast
@given(seed=seeds)
def test_the_optimum_is_what_scipy_finds_on_dense_matrices(target: Target, seed: int) -> None:
    x, labels, dense = make(seed)
    supports, start = some(seed), noise(seed)
    found = refit(cut(x, labels, [50]), dense, supports, start, target)
    plain = minimised(x, labels, dense, target, supports, start)
    assert_support(found, supports)
    assert found.converged and found.steps > 0
    now, best = (loss(x, labels, dense, target, head) for head in (found.affine, plain))
    assert now == pytest.approx(best, abs=1e-8) and found.loss == pytest.approx(best, abs=1e-5)
    assert np.allclose(np.exp(said(x, found.affine)), np.exp(said(x, plain)), atol=1e-4)


def test_on_labels_and_all_features_it_is_multinomial_logistic_regression() -> None:
    x, labels, dense = make(0, images=400)
    found = refit(cut(x, labels), dense, whole(), nothing(), "labels")
    model = LogisticRegression(C=1e9, tol=1e-9, max_iter=10_000).fit(x.astype(np.float64), labels)
    assert found.loss == pytest.approx(-model.predict_log_proba(x)[np.arange(400), labels].mean(), abs=1e-6)
    assert np.array_equal(said(x, found.affine).argmax(axis=1), model.predict(x))
    assert np.allclose(np.exp(said(x, found.affine)), model.predict_proba(x), atol=1e-4)
    assert np.allclose(found.weight - found.weight.mean(axis=0), model.coef_ - model.coef_.mean(axis=0), atol=1e-3)
    assert np.allclose(found.bias - found.bias.mean(), model.intercept_ - model.intercept_.mean(), atol=1e-3)


@fast
@given(seeds)
def test_on_all_features_the_dense_head_comes_back(seed: int) -> None:
    x, labels, dense = make(seed)
    found = refit(cut(x, labels), dense, whole(), nothing())
    assert 0 <= found.loss < 1e-5 and found.converged
    assert np.allclose(found.weight - found.weight.mean(axis=0), dense[0] - dense[0].mean(axis=0), atol=0.01)
    assert np.allclose(found.bias - found.bias.mean(), dense[1] - dense[1].mean(), atol=0.01)
    again = refit(cut(x, labels), dense, whole(), dense)
    assert again.loss < 1e-12 and again.steps <= 1
    assert np.allclose(again.weight, dense[0], atol=1e-5) and np.allclose(again.bias, dense[1], atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_where_to_start_hardly_matters(target: Target) -> None:
    x, labels, dense = make(1)
    supports = some(1)
    one, *others = [refit(cut(x, labels), dense, supports, start, target) for start in (nothing(), noise(1), dense)]
    for other in others:
        assert other.loss == pytest.approx(one.loss, abs=2e-5)
        assert np.allclose(np.exp(said(x, other.affine)), np.exp(said(x, one.affine)), atol=1e-3)


@pytest.mark.parametrize("target", TARGETS)
@fast
@given(seed=seeds)
def test_no_scale_of_a_feature_matters(target: Target, seed: int) -> None:
    x, labels, (weight, bias) = make(seed)
    supports, start = some(seed), noise(seed)
    found = refit(cut(x, labels), (weight, bias), supports, start, target)
    for most, tolerance in ((3, 1e-9), (8, 1e-5)):
        scale = 2.0 ** np.random.default_rng(seed).integers(-most, most + 1, 8)
        blocks = cut((x * scale).astype(np.float32), labels)
        scaled = refit(blocks, (weight / scale, bias), supports, (start[0] / scale, start[1]), target)
        assert scaled.loss == pytest.approx(found.loss, abs=tolerance)
        assert np.allclose(
            np.exp(said(x, (scaled.weight * scale, scaled.bias))), np.exp(said(x, found.affine)), atol=1e-4
        )


@pytest.mark.parametrize("target", TARGETS)
def test_a_prior_pulls_towards_the_start_as_so_many_images(target: Target) -> None:
    x, labels, dense = make(1)
    supports, start, prior = some(1), noise(1), 30
    found = refit(cut(x, labels, [50]), dense, supports, start, target, prior=prior)
    assert found.converged and found.loss == pytest.approx(loss(x, labels, dense, target, found.affine), abs=1e-9)
    wide = np.column_stack([x.astype(np.float64), np.ones(len(x))])
    error = np.exp(said(x, found.affine)) - wanted(x, labels, dense, target)
    masked = np.zeros_like(start[0])
    for label, support in enumerate(supports):
        masked[label, support] = start[0][label, support]
    q = np.exp(said(x, (masked, start[1])))
    for label, support in enumerate(supports):
        entries = [*support, -1]
        own = wide[:, entries]
        curvature = (own * (q * (1 - q) + FLOOR)[:, [label]]).T @ own / len(x)
        moved = np.append(found.weight[label] - masked[label], found.bias[label] - start[1][label])[entries]
        pull = (prior / len(x) + _RIDGE) * curvature @ moved
        assert np.allclose(error[:, label] @ own / len(x), -pull, atol=1e-5) and np.abs(pull).max() > 1e-3
    free = refit(cut(x, labels), dense, supports, start, target)
    held = refit(cut(x, labels), dense, supports, start, target, prior=1e6)
    assert free.loss < found.loss < held.loss and np.allclose(held.weight, masked, atol=1e-2)


# How it gets there ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [0, 32])
@pytest.mark.parametrize("fixed", [(), (1, 3)])
@pytest.mark.parametrize("target", TARGETS)
def test_loss_and_gradient_at_any_point(
    target: Target, fixed: tuple[int, ...], fill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subspect.choosing.layout._FILL", fill)
    x, labels, dense = make(2)
    supports = some(2)
    problem = Problem(cut(x, labels, [33]), dense, supports, noise(2), target, fixed, 0, 1 << 30)
    generator = np.random.default_rng(2)
    free = [label for label in range(4) if label not in fixed]
    for size in (0.0, 0.1, 1.0):
        vector = size * generator.standard_normal(sum(len(supports[label]) + 1 for label in free))
        value, gradient = problem(vector)
        ridge = _RIDGE / 2 * float(vector @ vector)
        assert value == pytest.approx(
            loss(x, labels, dense, target, problem.head(problem.theta(vector))) + ridge, abs=1e-9
        )
        assert gradient.shape == vector.shape
        assert check_grad(lambda v: problem(v)[0], lambda v: problem(v)[1], vector) < 1e-6


def test_the_start_is_where_it_begins_and_there_each_class_has_unit_curvature() -> None:
    x, labels, dense = make(3)
    supports, start = some(3), noise(3)
    problem = Problem(cut(x, labels), dense, supports, start, "dense", (), 0, 1 << 30)
    zero = np.zeros(len(problem.begin))
    weight, bias = problem.head(problem.theta(zero))
    assert np.array_equal(bias, start[1])
    for label, support in enumerate(supports):
        assert np.array_equal(weight[label, support], start[0][label, support])
    masked = np.zeros((4, 8))
    for label, support in enumerate(supports):
        masked[label, support] = start[0][label, support]
    assert np.array_equal(weight, masked)
    hessian = approx_fprime(zero, lambda vector: problem(vector)[1], 1e-5)
    for part in problem.parts:
        assert np.allclose(hessian[part, part], np.eye(part.stop - part.start), atol=0.02)


@pytest.mark.parametrize("target", TARGETS)
def test_little_memory_reads_the_features_at_every_step_to_the_same_answer(target: Target) -> None:
    x, labels, dense = make(4)
    supports = [np.array([5, 1]), np.array([1]), np.array([3, 5]), np.arange(8)]
    row = 120 * 8  # kept are the three features of the free classes, ones for the biases and the logits of the fixed
    found, passes = [], []
    for memory in (1 << 30, 5 * row, 5 * row - 1, 0):
        blocks = Passes(cut(x, labels, [20, 90]))
        found.append(refit(blocks, dense, supports, dense, target, fixed=[3], memory=memory))
        passes.append(blocks.passes)
    assert passes[0] == passes[1] < 5 and found[0].steps > 5
    assert passes[2] == passes[3] > found[0].steps
    for other in found[1:]:
        assert np.array_equal(other.weight, found[0].weight) and np.array_equal(other.bias, found[0].bias)
        assert other.loss == found[0].loss and other.steps == found[0].steps


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("memory", [1 << 30, 0])
@pytest.mark.parametrize("fill", [0, 32])
def test_neither_the_order_of_images_nor_their_blocks_matter(
    target: Target, memory: int, fill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, labels, dense = make(5)
    monkeypatch.setattr("subspect.choosing.layout._FILL", fill)
    order = np.random.default_rng(5).permutation(120)
    one = refit(cut(x, labels), dense, some(5), dense, target, tolerance=1e-9)
    for rows in ("_FULL", "_FEW"):
        monkeypatch.setattr(f"subspect.choosing.layout.{rows}", 17)
    blocks = cut(x[order], labels[order], [0, 20, 34, 100, 120])
    other = refit(blocks, dense, some(5), dense, target, memory=memory, tolerance=1e-9)
    assert other.loss == pytest.approx(one.loss, abs=1e-12)
    assert np.allclose(other.weight, one.weight, atol=1e-6) and np.allclose(other.bias, one.bias, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("gathered", [1, 800, 2**17])  # classes together: one, two, all
def test_one_matrix_product_for_all_features_or_those_of_each_class_is_the_same(
    target: Target, gathered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, labels, dense = make(18)
    supports = [np.array([6, 2]), np.empty(0, np.int64), np.array([1, 7, 5]), np.array([2])]
    one = refit(cut(x, labels), dense, supports, noise(18), target, fixed=[3], tolerance=1e-8)
    monkeypatch.setattr("subspect.choosing.layout._FILL", 0)
    monkeypatch.setattr("subspect.choosing.layout._GATHERED", gathered)
    monkeypatch.setattr("subspect.choosing.layout._FEW", 120)
    other = refit(cut(x, labels), dense, supports, noise(18), target, fixed=[3], tolerance=1e-8)
    assert one.loss == pytest.approx(other.loss, abs=1e-12)
    assert np.allclose(one.weight, other.weight, atol=1e-6) and np.allclose(one.bias, other.bias, atol=1e-6)


def test_a_looser_tolerance_takes_fewer_steps() -> None:
    x, labels, dense = make(6)
    rough, fine = (refit(cut(x, labels), dense, some(6), nothing(), tolerance=t) for t in (1e-2, TOLERANCE))
    assert rough.steps < fine.steps and rough.converged and fine.converged
    assert rough.loss > fine.loss


def test_it_says_so_when_the_steps_run_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    x, labels, dense = make(7)
    with caplog.at_level(logging.WARNING, "subspect"):
        assert refit(cut(x, labels), dense, some(7), nothing()).converged
        assert not caplog.records
        monkeypatch.setattr("subspect.choosing.refit._STEPS", 2)
        found = refit(cut(x, labels), dense, some(7), nothing())
    assert not found.converged and found.steps == 2
    assert "refit: after 2 steps the gradient is " in caplog.text and ", not yet 1e-06" in caplog.text


def test_of_many_images_it_ends_when_a_step_gains_less_than_other_images_would_change(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x, labels, dense = make(7)
    exact = refit(cut(x, labels), dense, some(7), nothing())
    monkeypatch.setattr("subspect.choosing.refit._MANY", len(x))
    monkeypatch.setattr("subspect.choosing.refit._GAIN", 1e-2)
    found = refit(cut(x, labels), dense, some(7), nothing())
    numbers = sum(len(support) + 1 for support in some(7))
    assert found.steps < exact.steps and found.converged
    assert 0 < found.loss - exact.loss < 0.1 * numbers / (2 * len(x))
    monkeypatch.setattr("subspect.choosing.refit._STEPS", 2)
    with caplog.at_level(logging.WARNING, "subspect"):
        assert not refit(cut(x, labels), dense, some(7), nothing()).converged
    assert "after 2 steps" in caplog.text


# What is odd ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_fixed_classes_keep_all_of_their_row(target: Target) -> None:
    x, labels, dense = make(8)
    supports, start = some(8), noise(8)
    supports[2] = np.array([4])
    found = refit(cut(x, labels, [70]), dense, supports, start, target, fixed=iter([2, 0, 2]))
    for label in (0, 2):
        assert np.array_equal(found.weight[label], start[0][label]) and found.bias[label] == start[1][label]
    plain = minimised(x, labels, dense, target, supports, start, [0, 2])
    assert found.loss == pytest.approx(loss(x, labels, dense, target, plain), abs=1e-4)
    assert np.allclose(np.exp(said(x, found.affine)), np.exp(said(x, plain)), atol=1e-3)
    assert np.allclose(found.weight, plain[0], atol=0.01) and np.allclose(found.bias, plain[1], atol=0.01)


@pytest.mark.parametrize("target", TARGETS)
def test_logits_of_thousands_do_not_overflow(target: Target) -> None:
    x, labels, (weight, bias) = make(19)
    dense = 1000 * weight, 1000 * bias
    found = refit(cut(x, labels), dense, some(19), dense, target)
    assert found.loss == pytest.approx(loss(x, labels, dense, target, found.affine), abs=0.01)
    first = loss(x, labels, dense, target, (np.zeros_like(weight), bias * 0))
    assert 0 <= found.loss < first


def test_what_lies_outside_the_supports_is_left_out_of_the_start() -> None:
    x, labels, dense = make(9)
    supports, start = some(9), noise(9)
    inside = np.zeros((4, 8))
    for label, support in enumerate(supports):
        inside[label, support] = start[0][label, support]
    one, other = (refit(cut(x, labels), dense, supports, (weight, start[1])) for weight in (start[0], inside))
    assert np.array_equal(one.weight, other.weight) and one.loss == other.loss


@pytest.mark.parametrize("target", TARGETS)
def test_without_features_the_biases_say_how_often_a_class_is_wanted(target: Target) -> None:
    x, labels, dense = make(10)
    found = refit(cut(x, labels), dense, [np.empty(0, np.int64)] * 4, noise(10), target)
    p = wanted(x, labels, dense, target).mean(axis=0)
    assert not found.weight.any()
    assert softmax(found.bias) == pytest.approx(p, abs=1e-4)
    assert found.loss == pytest.approx(loss(x, labels, dense, target, (0 * dense[0], np.log(p))), abs=1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_feature_that_never_varies_does_no_harm(target: Target, value: float) -> None:
    x, labels, dense = make(11)
    x[:, 3] = value
    with_dead = [np.array([1, 3, 5]), np.array([3]), np.array([0, 2]), np.array([7, 6, 3])]
    without = [np.array([1, 5]), np.empty(0, np.int64), np.array([0, 2]), np.array([7, 6])]
    found = refit(cut(x, labels), dense, with_dead, dense, target)
    other = refit(cut(x, labels), dense, without, dense, target)
    assert found.converged and np.isfinite(found.weight).all() and np.isfinite(found.bias).all()
    assert found.loss == pytest.approx(other.loss, abs=1e-5)
    assert np.allclose(np.exp(said(x, found.affine)), np.exp(said(x, other.affine)), atol=1e-3)
    if not value:
        assert np.array_equal(found.weight[:, 3], [dense[0][0, 3], dense[0][1, 3], 0, dense[0][3, 3]])


@pytest.mark.parametrize("target", TARGETS)
def test_identical_features_do_no_harm(target: Target) -> None:
    x, labels, dense = make(12)
    x[:, 4] = x[:, 1]
    found = refit(cut(x, labels), dense, [np.array([1, 4, 2])] * 4, dense, target)
    other = refit(cut(x, labels), dense, [np.array([1, 2])] * 4, dense, target)
    assert found.converged and np.isfinite(found.weight).all()
    assert found.loss == pytest.approx(other.loss, abs=1e-5)
    assert np.allclose(np.exp(said(x, found.affine)), np.exp(said(x, other.affine)), atol=1e-3)


def test_labels_that_can_be_separated_give_finite_weights() -> None:
    x, _, dense = make(13)
    labels = said(x, dense).argmax(axis=1)
    found, further = (refit(cut(x, labels), dense, whole(), nothing(), "labels", tolerance=t) for t in (1e-6, 1e-8))
    assert found.converged and found.loss < 1e-3
    assert np.array_equal(said(x, found.affine).argmax(axis=1), labels)
    assert np.allclose(further.weight, found.weight, atol=0.02 * np.abs(found.weight).max())


@pytest.mark.parametrize("blocks", [[], cut(*make(0, images=4)[:2], [0])[:1]])
def test_there_must_be_images(blocks: list[Block]) -> None:
    with pytest.raises(SubspectError, match="refit: there are no images to learn from"):
        refit(blocks, make(0)[2], whole(), nothing())


# Choosing anew --------------------------------------------------------------------------------------------------------


def planted(seed: int, images: int = 600, features: int = 20) -> tuple[Features, Ints, Affine, list[list[int]]]:
    """Five classes with three features each, some shared; the rest of the dense head is small."""
    generator = np.random.default_rng(seed)
    x = coarse(generator.standard_normal((images, features)))
    chosen = [sorted(generator.choice(features, 3, replace=False).tolist()) for _ in range(5)]
    weight = coarse(0.05 * generator.standard_normal((5, features)))
    for label, own in enumerate(chosen):
        weight[label, own] = generator.choice([-1, 1], 3)
    labels = np.array([generator.choice(5, p=p) for p in softmax(3 * x @ weight.T, axis=1)])
    return x.astype(np.float32), labels, (weight, np.zeros(5)), chosen


def plain_refit(boundary: Boundary, choice: Choice) -> Refit:
    return refit(
        boundary.blocks, boundary.dense, choice.supports, choice.affine, boundary.target, fixed=boundary.unseen
    )


def chosen_anew(boundary: Boundary, choice: Choice, **options: Any) -> tuple[Choice, Refit]:
    found = reselect(boundary, choice, **options)
    assert found.refit is not None and found.affine[0] is found.refit.weight and found.affine[1] is found.refit.bias
    return found, found.refit


def assert_same(one: Supports, other: Supports) -> None:
    assert [sorted(support) for support in one] == [sorted(support) for support in other]


class Cycle(Boundary):
    """A boundary that chooses what it is told to, in turn, and notes what it was asked."""

    def tell(self, *choices: Choice) -> Cycle:
        self.choices, self.asked = list(choices), list[tuple[list[list[int]], Affine | None]]()
        return self

    def choose(self, sizes: Ints, head: Affine | None = None) -> list[Choice]:
        self.asked.append((sizes.tolist(), head))
        return [self.choices[(len(self.asked) - 1) % len(self.choices)]]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(4))
def test_planted_features_are_found_from_any_start(target: Target, seed: int) -> None:
    x, labels, dense, chosen = planted(seed)
    boundary = Boundary(cut(x, labels, [250]), *dense, target)
    wrong = [np.random.default_rng(seed).permutation(20)[:3] for _ in range(5)]
    found, learned = chosen_anew(boundary, Choice(wrong, (np.zeros((5, 20)), np.zeros(5))))
    assert [sorted(support) for support in found.supports] == chosen
    assert_support(learned, found.supports)
    assert learned.converged


@pytest.mark.parametrize("target", TARGETS)
@fast
@given(seed=seeds)
def test_choosing_anew_is_never_worse_and_keeps_the_sizes(target: Target, seed: int) -> None:
    x, labels, dense = make(seed)
    boundary = Boundary(cut(x, labels), *dense, target)
    sizes = np.random.default_rng(seed).integers(0, 4, (1, 4))
    [choice] = boundary.choose(sizes)
    found, learned = chosen_anew(boundary, choice, rounds=2)
    assert learned.loss <= plain_refit(boundary, choice).loss + 1e-8
    assert [len(support) for support in found.supports] == sizes[0].tolist()
    assert learned.loss == pytest.approx(loss(x, labels, dense, target, learned.affine), abs=1e-4)
    assert_support(learned, found.supports)


def test_the_head_returned_is_refitted_to_the_tolerance() -> None:
    x, labels, dense, _ = planted(0)
    boundary = Boundary(cut(x, labels), *dense)
    [choice] = boundary.choose(np.full((1, 5), 2))
    found, learned = chosen_anew(boundary, choice)
    again = refit(boundary.blocks, dense, found.supports, learned.affine)
    assert learned.converged and again.steps <= 1 and again.loss == pytest.approx(learned.loss, abs=1e-8)


def one_feature(*features: int) -> Choice:
    return Choice([np.array([feature]) for feature in features], nothing())


def test_it_ends_when_a_choice_comes_back() -> None:
    x, labels, dense = make(14)
    a, b, c = one_feature(0, 1, 2, 3), one_feature(1, 2, 3, 4), one_feature(2, 3, 4, 5)
    for told, asked in (([a], 1), ([b, a], 2), ([b, c, b], 3), ([b, b], 2)):
        boundary = Cycle(cut(x, labels), *dense).tell(*told)
        steps: list[int] = []
        reselect(boundary, a, rounds=9, advance=steps.append)
        assert len(boundary.asked) == asked and steps == [1] * (asked - 1)
    swapped = Choice([np.array([5, 2])] * 4, nothing()), Choice([np.array([2, 5])] * 4, nothing())
    boundary = Cycle(cut(x, labels), *dense).tell(swapped[1])
    reselect(boundary, swapped[0])
    assert len(boundary.asked) == 1


def test_features_that_change_hands_are_another_choice() -> None:
    x, labels, dense = make(14)
    boundary = Cycle(cut(x, labels), *dense).tell(one_feature(1, 0, 2, 3), one_feature(0, 1, 3, 2))
    reselect(boundary, one_feature(0, 1, 2, 3), rounds=2)
    assert len(boundary.asked) == 2


def test_the_rounds_are_no_more_than_asked_for() -> None:
    x, labels, dense = make(14)
    choices = [one_feature(*np.roll(np.arange(8), shift)[:4].tolist()) for shift in range(8)]
    for rounds in (0, 1, 3):
        boundary = Cycle(cut(x, labels), *dense).tell(*choices[1:])
        reselect(boundary, choices[0], rounds=rounds)
        assert len(boundary.asked) == rounds
    boundary = Cycle(cut(x, labels), *dense).tell(*choices[1:])
    reselect(boundary, choices[0])
    assert len(boundary.asked) == ROUNDS


@pytest.mark.parametrize("target", TARGETS)
def test_the_best_of_the_choices_is_kept(target: Target) -> None:
    x, labels, dense = make(15)
    choices = [one_feature(*np.roll(np.arange(8), shift)[:4].tolist()) for shift in range(4)]
    boundary = Cycle(cut(x, labels), *dense, target)
    losses = [plain_refit(boundary, choice).loss for choice in choices]
    for first in range(4):
        order = [*choices[first:], *choices[:first]]
        found, learned = chosen_anew(boundary.tell(*order[1:]), order[0], rounds=3)
        assert_same(found.supports, choices[int(np.argmin(losses))].supports)
        assert learned.loss == pytest.approx(min(losses), abs=1e-6)


def test_each_round_looks_at_the_head_refitted_last() -> None:
    x, labels, dense = make(14)
    choices = [one_feature(*np.roll(np.arange(8), shift)[:4].tolist()) for shift in range(4)]
    boundary = Cycle(cut(x, labels), *dense)
    best, second, *_, worst = sorted(choices, key=lambda choice: plain_refit(boundary, choice).loss)
    boundary.tell(worst, second)
    reselect(boundary, best, rounds=2)
    for (sizes, head), choice in zip(boundary.asked, (best, worst), strict=True):
        assert sizes == [[1, 1, 1, 1]] and head is not None
        rough = refit(boundary.blocks, dense, choice.supports, choice.affine, tolerance=1e-4)
        assert np.allclose(head[0], rough.weight, atol=1e-3) and np.allclose(head[1], rough.bias, atol=1e-3)


@pytest.mark.parametrize("target", TARGETS)
def test_a_class_without_images_stays_dense(target: Target) -> None:
    x, labels, dense = make(16)
    boundary = Boundary(cut(x, labels % 3), *dense, target)
    [choice] = boundary.choose(np.full((1, 4), 2))
    found, learned = chosen_anew(boundary, choice)
    assert found.supports[3].tolist() == list(range(8))
    assert np.array_equal(learned.weight[3], dense[0][3]) and learned.bias[3] == dense[1][3]
    assert [len(support) for support in found.supports] == [2, 2, 2, 8]
    assert learned.loss <= plain_refit(boundary, choice).loss + 1e-8


@pytest.mark.parametrize("target", TARGETS)
def test_neither_blocks_nor_memory_change_what_is_chosen_anew(target: Target) -> None:
    x, labels, dense, _ = planted(1)
    order = np.random.default_rng(1).permutation(600)
    one, *others = [
        chosen_anew(boundary, boundary.choose(np.full((1, 5), 2))[0])
        for boundary in (
            Boundary(cut(x, labels), *dense, target),
            Boundary(cut(x, labels, [1, 44, 300]), *dense, target, memory=0),
            Boundary(cut(x[order], labels[order], [200, 500]), *dense, target),
        )
    ]
    for supports, learned in [(choice.supports, learned) for choice, learned in others]:
        assert_same(supports, one[0].supports)
        assert np.allclose(learned.weight, one[1].weight, atol=1e-6)
        assert np.allclose(learned.bias, one[1].bias, atol=1e-6)


def test_where_rounding_ends_it_before_the_steps_do_no_warning_is_given(caplog: pytest.LogCaptureFixture) -> None:
    x, labels, dense = make(7)
    with caplog.at_level(logging.WARNING, "subspect"):
        found = refit(cut(x, labels), dense, some(7), nothing(), tolerance=0)
    assert not found.converged and found.steps < 500 and not caplog.records
