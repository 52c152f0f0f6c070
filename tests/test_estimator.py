"""The estimator for scikit-learn: its own checks, the choice that `decompose` makes, what is planted, frames, every refusal."""

from __future__ import annotations

import pickle
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import skops.io
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import estimator_checks_generator

import subspect
from subspect import MissingExtra, SparseHeadClassifier, SubspectError

PLANTED = {"a": [3, 11, 17], "b": [0, 5, 12], "c": [2, 9, 19]}
CHECKED = (
    SparseHeadClassifier(),
    SparseHeadClassifier("auto"),
    SparseHeadClassifier(1),
    SparseHeadClassifier(2, method="contribution", refit=True, head=LinearSVC()),
)


def planted(n: int = 400, classes: str = "abc") -> tuple[Any, Any]:
    """Return features (n, 20) and labels that three features of each class decide."""
    generator = np.random.default_rng(5)
    x = generator.normal(size=(n, 20))
    scores = np.column_stack([x[:, PLANTED[name]] @ [1.5, 1.0, -1.2] for name in classes])
    return x, np.array(list(classes))[(scores + 0.1 * generator.normal(size=scores.shape)).argmax(axis=1)]


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(estimator, check, id=f"{place}-{getattr(check, 'func', check).__name__}")
        for place, one in enumerate(CHECKED)
        for estimator, check in estimator_checks_generator(one)
        if getattr(check, "func", check).__name__ != "check_array_api_input"  # for estimators that take such arrays
    ],
)
def test_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("classes", ["abc", "ab"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "contribution"},
        {"method": "frequency"},
        {"target": "labels"},
        {"pool": 6},
        {"stable": True},
        {"ternary": True},
    ],
)
def test_the_same_choice_as_decompose(classes: str, options: dict[str, Any], tmp_path: Path) -> None:
    x, y = planted(200, classes)
    fitted = SparseHeadClassifier(3, **options).fit(x, y)
    dense = fitted.dense_
    study = subspect.from_features(
        x, dense.coef_, dense.intercept_, tmp_path / "study", labels=y, class_names=list(classes), show_progress=False
    )
    made = study.decompose(k=3, hold_out=0, show_progress=False, **options)
    weight, bias = made.matrix()
    assert (fitted.scales_ is None) == (made.ternary is None)
    if fitted.scales_ is not None and made.ternary is not None:
        assert np.allclose(fitted.scales_[0], made.ternary.class_scales, atol=1e-4)
        assert np.allclose(fitted.scales_[1], made.ternary.feature_scales, atol=1e-4)
    supports = [row.tolist() for row in made.supports]
    if len(classes) == 2:
        weight, bias, supports = weight[1:] - weight[:1], bias[1:] - bias[:1], [[*supports[1], *supports[0]]]
        supports = [list(dict.fromkeys(supports[0]))]
    assert [row.tolist() for row in fitted.supports_] == supports
    assert np.allclose(fitted.coef_, weight, atol=1e-5) and np.allclose(fitted.intercept_, bias, atol=1e-5)
    assert fitted.coef_.shape == dense.coef_.shape and fitted.intercept_.shape == dense.intercept_.shape
    for row, support in zip(fitted.coef_, fitted.supports_, strict=True):
        assert set(np.flatnonzero(row)) == set(support.tolist())


def test_auto_finds_the_size_on_rows_set_apart_as_decompose_does(tmp_path: Path) -> None:
    x, y = planted()
    fitted = SparseHeadClassifier("auto", tolerance=0.1, random_state=3).fit(x, y)
    drawn = np.zeros(len(y), bool)
    generator = np.random.RandomState(3)
    for name in "abc":
        rows = np.flatnonzero(y == name)
        drawn[generator.permutation(rows)[: round(0.2 * len(rows))]] = True
    dense = LogisticRegression(max_iter=1000).fit(x, y)
    for name, part in (("train", ~drawn), ("test", drawn)):
        study = subspect.from_features(
            x[part], dense.coef_, dense.intercept_, tmp_path / "study", name, labels=y[part], class_names=list("abc"),
            show_progress=False,
        )  # fmt: skip
    made = study.decompose(k=subspect.Auto(0.1), show_progress=False)
    assert [row.tolist() for row in fitted.supports_] == [row.tolist() for row in made.supports]
    assert fitted.fidelity_ == (fitted.predict(x[drawn]) == dense.predict(x[drawn])).mean() >= 0.9
    assert max(map(len, fitted.supports_)) < 20
    nothing_held = SparseHeadClassifier("auto", hold_out=0).fit(x, y)
    assert nothing_held.fidelity_ == (nothing_held.predict(x) == nothing_held.dense_.predict(x)).mean() >= 0.95


@pytest.mark.parametrize("size", [3, np.int64(3)])
def test_what_is_planted_is_found(size: Any) -> None:
    x, y = planted()
    fitted = SparseHeadClassifier(size).fit(x, y)
    assert {name: sorted(row.tolist()) for name, row in zip("abc", fitted.supports_, strict=True)} == PLANTED
    for size in (subspect.Mean(3), "mean:3"):
        assert sum(map(len, SparseHeadClassifier(size).fit(x, y).supports_)) == 9
    two = SparseHeadClassifier(6).fit(*planted(classes="ab"))
    assert sorted(two.supports_[0].tolist()) == sorted(PLANTED["a"] + PLANTED["b"])


@pytest.mark.parametrize("classes", ["abc", "ab"])
def test_scores_by_hand(classes: str) -> None:
    x, y = planted(150, classes)
    fitted = SparseHeadClassifier(2).fit(x, y)
    scores = x @ fitted.coef_.T + fitted.intercept_
    logits = scores if len(classes) > 2 else np.column_stack([np.zeros(len(x)), scores])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = np.array(list(classes))[logits.argmax(axis=1)]
    assert np.allclose(fitted.decision_function(x), scores.squeeze())
    assert np.allclose(fitted.predict_proba(x), shares)
    assert (fitted.predict(x) == predicted).all() and fitted.score(x, y) == (predicted == y).mean()
    assert fitted.fidelity_ == (predicted == fitted.dense_.predict(x)).mean()


def test_sparse_features_are_the_same() -> None:
    x, y = planted(120)
    x[np.abs(x) < 1] = 0
    dense, sparse = (SparseHeadClassifier(3).fit(one, y) for one in (x, scipy.sparse.csr_array(x)))
    assert [row.tolist() for row in dense.supports_] == [row.tolist() for row in sparse.supports_]
    assert np.allclose(dense.decision_function(x), sparse.decision_function(scipy.sparse.csr_array(x)), atol=1e-3)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_frames_give_names(frame: Any) -> None:
    x, y = planted(120)
    names = [f"column {place}" for place in range(20)]
    table = frame(dict(zip(names, x.T, strict=True)))
    fitted = SparseHeadClassifier(3).fit(table, (pd.Series if frame is pd.DataFrame else pl.Series)(y))
    assert fitted.feature_names_in_.tolist() == names
    assert fitted.feature_names_in_[fitted.supports_[0][0]] in {names[place] for place in PLANTED["a"]}
    assert (fitted.predict(table) == SparseHeadClassifier(3).fit(x, y).predict(x)).all()
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(frame(dict(zip(reversed(names), x.T, strict=True))))
    given = SparseHeadClassifier(3, head=(fitted.dense_.coef_, fitted.dense_.intercept_)).fit(table, y)
    assert (given.dense_.predict(table) == fitted.dense_.predict(table)).all()


def test_pipeline_and_grid_search_on_digits() -> None:
    x, y = load_digits(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), SparseHeadClassifier())
    grid = {"sparseheadclassifier__n_features_per_class": [1, 8, subspect.Mean(8)]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(x[:600], y[:600])
    few, more, mean = search.cv_results_["mean_test_score"]
    assert few < more and few < mean and search.score(x[600:], y[600:]) > 0.8
    assert search.best_estimator_[-1].coef_.shape == (10, 64)


def test_heads_that_are_given() -> None:
    x, y = planted(150)
    dense = LinearSVC().fit(x, y)
    learned = SparseHeadClassifier(3, head=LinearSVC()).fit(x, y)
    taken = SparseHeadClassifier(3, head=dense).fit(x, y)
    by_weight = SparseHeadClassifier(3, head=(dense.coef_, dense.intercept_)).fit(x, y)
    assert taken.dense_ is dense and learned.dense_ is not learned.head
    assert (by_weight.dense_.predict(x) == dense.predict(x)).all()
    for one in (learned, taken, by_weight):
        assert np.allclose(one.coef_, learned.coef_, atol=1e-5)
    frozen = clone(SparseHeadClassifier(3, head=FrozenEstimator(dense))).fit(x[:50], y[:50])
    assert frozen.dense_.coef_ is dense.coef_
    lone = SparseHeadClassifier(3, head=FrozenEstimator(dense)).fit(x[y != "b"], y[y != "b"])
    assert lone.classes_.tolist() == ["a", "b", "c"] and np.allclose(lone.coef_[1], dense.coef_[1])
    two, y_two = planted(150, "ab")
    one_row = LogisticRegression().fit(two, y_two)
    for weight, bias in (
        (one_row.coef_, one_row.intercept_),
        (one_row.coef_[0], one_row.intercept_[0]),
        (np.vstack([-one_row.coef_, one_row.coef_]) / 2, np.append(-one_row.intercept_, one_row.intercept_) / 2),
    ):
        given = SparseHeadClassifier(3, head=(weight, bias)).fit(two, y_two)
        assert np.allclose(given.dense_.predict_proba(two), one_row.predict_proba(two), atol=1e-5)
        assert np.allclose(given.coef_, SparseHeadClassifier(3, head=one_row).fit(two, y_two).coef_, atol=1e-4)


def test_stored_and_read_again() -> None:
    x, y = planted(100)
    fitted = SparseHeadClassifier(3).fit(x, y)
    stored = skops.io.dumps(fitted)
    own = ["subspect.estimator.SparseHeadClassifier"]
    assert skops.io.get_untrusted_types(data=stored) == own
    for again in (pickle.loads(pickle.dumps(fitted)), skops.io.loads(stored, trusted=own)):
        assert np.array_equal(again.predict_proba(x), fitted.predict_proba(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": RandomForestClassifier(2)}, "the head is a RandomForestClassifier, which doesn't have a row of weights"),
        ({"head": "dense"}, "head must be None, a linear classifier of scikit-learn, or (weight, bias); got str"),
        ({"head": LogisticRegression}, "or (weight, bias); got type"),
        ({"head": (np.ones((3, 20)),)}, "head must be (weight, bias), of shapes (C, d) and (C,); got 1 things"),
        ({"head": (np.ones((4, 20)), np.ones(4))}, "the head has 4 rows, and y has 3 classes, a, b, c: give one row for"),
        ({"head": (np.ones((3, 7)), np.ones(3))}, "the head reads 7 features, and X has 20: give the columns that it"),
        ({"head": LogisticRegression().fit(*planted(99, "ab"))}, "y has labels that the head doesn't know: 'c'; its "),
        ({"n_features_per_class": 0}, "k = 0 must be a whole number from 1 to 20, the number of features"),
        ({"n_features_per_class": True}, "k = True must be a whole number"),
        ({"n_features_per_class": 0.5}, "a share of the mass goes with method 'frequency'; 'pursuit' takes a whole k"),
        ({"n_features_per_class": subspect.Auto(promise="unseen")}, "a promise needs an image set of a study; got "),
        ({"n_features_per_class": "auto", "hold_out": 1.5}, "hold_out (--hold-out) must be a share of at least 0"),
        ({"n_features_per_class": "auto", "tolerance": 0}, "the tolerance is a share between 0 and 1"),
        ({"n_features_per_class": "aut"}, "k = 'aut' (did you mean 'auto'?) must be a whole number from 1 to 20, the"),
        ({"n_features_per_class": "ten"}, "20, the number of features, 'auto' for the fewest that keep a tolerance, or"),
        ({"method": "persuit"}, "got 'persuit' (did you mean 'pursuit'?)"),
        ({"target": "dens"}, "got 'dens' (did you mean 'dense'?)"),
        ({"method": "guess"}, "method must be one of pursuit, contribution, frequency; got 'guess'"),
        ({"target": "both"}, "target must be one of dense, labels; got 'both'"),
    ],
)  # fmt: skip
def test_refused(options: dict[str, Any], message: str) -> None:
    x, y = planted(99)
    with pytest.raises(SubspectError) as caught:
        SparseHeadClassifier(**options).fit(x, y)
    assert message in str(caught.value)


def test_numbers_beyond_float32_are_refused() -> None:
    x, y = planted(60)
    dense = LogisticRegression().fit(x, y)
    x[3, 4] = 1e300
    with pytest.raises(ValueError, match="too large for dtype\\('float32'\\)"):
        SparseHeadClassifier(head=dense).fit(x, y)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "subspect.estimator")
    with pytest.raises(MissingExtra, match=r"SparseHeadClassifier needs the package 'scikit-learn'.*\[sklearn\]"):
        import_module("subspect.estimator")
