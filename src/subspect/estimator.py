"""A classifier for scikit-learn in which each class reads few features: those that follow a dense linear head best.

What chooses is the code that `subspect.decompose` runs, on rows in memory instead of a study's; nothing is written.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.special import expit, softmax

from subspect.choosing.boundary import Affine
from subspect.choosing.decompose import check_choice
from subspect.choosing.methods import Result, choose
from subspect.choosing.options import HOLD_OUT, METHODS, TARGETS, Target
from subspect.choosing.promise import count
from subspect.choosing.pursuit import Array, Indices
from subspect.choosing.seen import Seen, gathered
from subspect.choosing.sizes import Auto, Budget, Checked
from subspect.ground.arrays import Features, Integers
from subspect.ground.errors import MissingExtra, SubspectError, some
from subspect.ground.text import counted
from subspect.measuring.heads_say import say
from subspect.studies.feature_files import head_of
from subspect.studies.given_head import linear_head
from subspect.studies.parts import split
from subspect.studies.rows import Block

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, clone
    from sklearn.exceptions import NotFittedError
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.extmath import safe_sparse_dot
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtra("scikit-learn", "sklearn", "SparseHeadClassifier") from error

_BLOCK = 1 << 26  # bytes of features handled at a time


class SparseHeadClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A linear classifier of which each class reads few features, chosen to follow a dense one.

    ::

        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        classifier = subspect.SparseHeadClassifier(8).fit(X[:1000], y[:1000])
        classifier.supports_, classifier.fidelity_, classifier.score(X[1000:], y[1000:])

    Args:
        n_features_per_class: how many features each class reads, all of them where the data has fewer; "auto", the fewest
            that keep ``tolerance``; "mean:5" or `subspect.Mean`, a mean number; `subspect.Auto`; with method "frequency" also
            a share of the mass between 0 and 1.
        head: the dense linear classifier that is followed. None for a ``LogisticRegression`` that is learned on the same rows;
            or another linear classifier of scikit-learn, which is learned, or taken as it is if it is fitted already (a grid
            search fits it again, unless it is wrapped in ``FrozenEstimator``); or ``(weight, bias)``, of shapes (C, d) and
            (C,), or (1, d) and (1,) for two classes, whose rows go with the sorted labels.
        tolerance: with "auto", the share of fidelity that may be lost.
        method: "pursuit", "contribution" or "frequency", as in `subspect.decompose`.
        target: what the scores are to come close to, those of the "dense" head or the "labels".
        refit: whether to re-learn weights and biases on the chosen features; with "pursuit" only, unless given.
        pool: with "pursuit", how many features there are for all classes together to choose from.
        stable: with "pursuit", whether to favour, of features that explain nearly as much, those that other rows give too.
        ternary: with "pursuit", whether weights are to be readable: −1, 0 or +1, times one scale for each class, over one for
            each feature. With two classes ``coef_`` is the difference of both.
        hold_out: with "auto", the share of each class's rows that is set apart to find the number of features on; 0 takes all
            rows for both. Otherwise features are chosen on all rows.
        random_state: draws the rows that are set apart.

    Attributes:
        classes_: (C,) the labels.
        coef_: (C, d) weights, zero but for each class's features; (1, d) with two classes, as in scikit-learn.
        intercept_: (C,) biases, or (1,).
        supports_: for each row of ``coef_`` the indices of its features, the most important first. With two classes they are
            those of both, which are the same where pursuit chooses a whole number.
        scales_: with ``ternary``, the scales of classes (C,) and of features (d,), 0 for those that no class reads: a weight is
            the one over the other, or less that; else None.
        dense_: the dense classifier.
        fidelity_: the share of rows on which it has the same prediction as the dense one: of the rows set apart where there are
            such, else of all rows of `fit`, which flatters.
        n_features_in_: d.
        feature_names_in_: (d,) the names of the columns of a data frame.
    """

    def __init__(
        self,
        n_features_per_class: Budget = 5,
        *,
        head: Any = None,
        tolerance: float = 0.05,
        method: str = METHODS[0],
        target: Target = TARGETS[0],
        refit: bool | None = None,
        pool: int | None = None,
        stable: bool = False,
        ternary: bool = False,
        hold_out: float = HOLD_OUT,
        random_state: Any = None,
    ) -> None:
        self.n_features_per_class = n_features_per_class
        self.head = head
        self.tolerance = tolerance
        self.method = method
        self.target = target
        self.refit = refit
        self.pool = pool
        self.stable = stable
        self.ternary = ternary
        self.hold_out = hold_out
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Learn the dense head, unless it is given, and choose each class's features.

        Args:
            X: (n, d) numbers: an array, a pandas or polars frame, or a sparse matrix, which is made dense, in float32.
            y: (n,) labels.

        Raises:
            SubspectError: an option that doesn't fit, or a head that isn't linear or doesn't fit the data.
            ValueError: data that scikit-learn refuses.
        """
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32])
        check_classification_targets(y)
        size = self._size(X.shape[1])
        set_apart = self._set_apart(y) if isinstance(size, Auto) else np.zeros(len(y), bool)
        self.dense_ = self._dense(X, y)
        if self.dense_ is not self.head and hasattr(self, "feature_names_in_"):
            self.dense_.feature_names_in_ = self.feature_names_in_
        head = head_of(self.dense_, "the head")
        dense = linear_head(head.weight, head.bias)
        _check_fits(dense, self.dense_.classes_, X, y)
        self.classes_ = self.dense_.classes_
        labels = np.searchsorted(self.classes_, y)
        with np.errstate(over="ignore"):  # of which the check speaks
            features = check_array(X, accept_sparse="csr", dtype=np.float32, input_name="X")
        rows = _blocks(features[~set_apart], labels[~set_apart], dense)
        checked = _blocks(features[set_apart], labels[set_apart], dense) if set_apart.any() else rows
        result = self._choose(rows, checked, dense, size)
        [counts] = count(checked, [result.choice.affine])
        self.fidelity_ = counts.agree / counts.images
        self.scales_ = result.choice.scales
        self.coef_, self.intercept_, self.supports_ = _as_scikit_learn(result.choice.affine, result.choice.supports)
        return self

    def decision_function(self, X: Any) -> Array:
        """Return the scores, ``X @ coef_.T + intercept_``: (n, C), or (n,) with two classes, above 0 for the second."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        scores: Array = safe_sparse_dot(X, self.coef_.T, dense_output=True) + self.intercept_
        return scores.ravel() if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return (n,) the label of the largest score."""
        scores = self.decision_function(X)
        predicted: npt.NDArray[Any] = self.classes_[
            scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)
        ]
        return predicted

    def predict_proba(self, X: Any) -> Array:
        """Return (n, C) the softmax of the scores; with two classes their sigmoid."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return np.column_stack([expit(-scores), expit(scores)])
        return np.asarray(softmax(scores, axis=1))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _size(self, n_features: int) -> Checked:
        """Return how many features to choose, checked against the data.

        Raises:
            SubspectError: it fits neither the data nor the method.
        """
        asked: Any = self.n_features_per_class
        if asked == "auto":
            asked = Auto(self.tolerance)
        if isinstance(asked, Auto) and asked.promise is not None:
            raise SubspectError(
                f"a promise needs an image set of a study; got promise {asked.promise!r}, and there is no study here: "
                "leave it out, or take subspect.from_features and subspect.decompose"
            )
        if isinstance(asked, np.integer):  # as in a grid made by NumPy
            asked = int(asked)
        if isinstance(asked, int) and not isinstance(asked, bool):
            asked = min(asked, n_features)
        [size] = check_choice(
            [asked],
            self.method,
            n_features,
            self.target,
            self.pool,
            self.stable,
            ternary=self.ternary,
            refit=self.refit,
        )
        return size

    def _set_apart(self, y: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Draw the rows (n,) to find the number of features on: the share of each class, in whole rows."""
        split(self.hold_out)  # refuses what is no share
        generator = check_random_state(self.random_state)
        drawn = np.zeros(len(y), bool)
        for label in np.unique(y):
            rows = generator.permutation(np.flatnonzero(y == label))
            drawn[rows[: round(self.hold_out * len(rows))]] = True
        return drawn

    def _dense(self, X: Any, y: npt.NDArray[Any]) -> Any:
        """Return the dense classifier, fitted."""
        if self.head is None:
            return LogisticRegression(max_iter=1000).fit(X, y)
        if isinstance(self.head, tuple | list):
            return _with_weights(self.head, np.unique(y))
        try:
            check_is_fitted(self.head)
        except (NotFittedError, TypeError):  # TypeError: it's no estimator, or a class
            if not hasattr(self.head, "fit") or isinstance(self.head, type):
                raise SubspectError(
                    "head must be None, a linear classifier of scikit-learn, or (weight, bias); got "
                    f"{type(self.head).__name__}"
                ) from None
            return clone(self.head).fit(X, y)
        return self.head

    def _choose(
        self, rows: list[Block], checked: list[Block], dense: tuple[Features, Features], size: Checked
    ) -> Result:
        """Choose features as `subspect.decompose` does."""
        weight, bias = (part.astype(np.float64) for part in dense)
        top, sums = gathered(rows, weight.shape, [size])
        check = "the rows of fit" if checked is rows else "the rows set apart"
        seen = Seen(
            "the rows of fit", "all", True, rows, (weight, bias), self.target, top, sums, (check, "all"), checked, True
        )
        refit = self.method == METHODS[0] if self.refit is None else self.refit
        [result] = choose(
            seen, [size], self.method, refit, self.pool, stable=self.stable, ternary=self.ternary, judge=False
        )
        return result


def _with_weights(head: Any, classes: npt.NDArray[Any]) -> Any:
    """Return a classifier of given weight and bias.

    Raises:
        SubspectError: they are none, or not for these classes.
    """
    if len(head) != 2:
        raise SubspectError(f"head must be (weight, bias), of shapes (C, d) and (C,); got {len(head)} things")
    weight, bias = linear_head(*head)
    if len(weight) != len(classes):
        raise SubspectError(
            f"the head has {counted(len(weight), 'row', 'rows')}, and y has {counted(len(classes), 'class', 'classes')}, "
            f"{some(classes.tolist())}: give one row for each, in their order, or a fitted classifier, whose classes_ "
            "say which rows are which"
        )
    classifier = LogisticRegression()
    classifier.classes_, classifier.n_features_in_ = classes, weight.shape[1]
    binary = len(classes) == 2
    classifier.coef_ = weight[1:] - weight[:1] if binary else weight
    classifier.intercept_ = bias[1:] - bias[:1] if binary else bias
    return classifier


def _check_fits(dense: tuple[Features, Features], classes: npt.NDArray[Any], X: Any, y: npt.NDArray[Any]) -> None:
    """Check that a head is of the data's features and classes.

    Raises:
        SubspectError: it isn't.
    """
    if dense[0].shape[1] != X.shape[1]:
        raise SubspectError(
            f"the head reads {counted(dense[0].shape[1], 'feature', 'features')}, and X has {X.shape[1]:,}: give the "
            "columns that it was fitted on"
        )
    unknown = sorted(set(np.unique(y).tolist()) - set(classes.tolist()))
    if unknown:
        raise SubspectError(
            f"y has labels that the head doesn't know: {some(map(repr, unknown))}; its classes are {some(classes.tolist())}"
        )


def _blocks(features: Any, labels: Integers, dense: tuple[Features, Features]) -> list[Block]:
    """Cut rows (n, d), dense or sparse, into blocks."""
    step = max(1, _BLOCK // (4 * features.shape[1]))
    blocks = []
    for first in range(0, len(labels), step):
        part = features[first : first + step]
        own = np.ascontiguousarray(part.toarray() if scipy.sparse.issparse(part) else part)
        blocks.append(Block(own, labels[first : first + step], say(own, *dense).argmax(axis=1)))
    return blocks


def _as_scikit_learn(affine: Affine, supports: list[Indices]) -> tuple[Array, Array, list[Indices]]:
    """Return coefficients, intercepts and supports, of two classes as one row."""
    weight, bias = affine
    if len(weight) > 2:
        return weight, bias, supports
    both = dict.fromkeys(feature for support in reversed(supports) for feature in support.tolist())
    return weight[1:] - weight[:1], bias[1:] - bias[:1], [np.array(list(both), np.int64)]
