"""What each feature says for one class against another.

The difference of two decomposed logits is a sum over few features: feature i says ``(W[a, i] − W[b, i]) · x[i]`` for class a
against class b, and the difference of the biases is a term of its own. Nothing is left over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from subspect.heads.decomposition import Decomposition


@dataclass(frozen=True)
class Term:
    """What one feature says for a class against another.

    Attributes:
        feature: its index.
        value: of the feature, in this image or on average.
        weights: in the logits of the two classes; 0 where a class doesn't use it.
        contribution: value times difference of the weights, in logits; positive speaks for the first class.

    Example:
        >>> term = decomposition.explain(network, "cat.jpg").terms[0]
        >>> abs(term.contribution - term.value * (term.weights[0] - term.weights[1])) < 1e-4
        True
    """

    feature: int
    value: float
    weights: tuple[float, float]
    contribution: float


def terms(
    decomposition: Decomposition, features: npt.NDArray[np.floating], label: int | str, other: int | str
) -> tuple[list[Term], float]:
    """Return what each feature says for a class against another, what says most first, and the difference of the biases.

    Args:
        decomposition: whose weights they are.
        features: (d,) of an image, or a mean over images.
        label: index or name of the class spoken for.
        other: index or name of the class spoken against.

    Returns:
        The terms, in logits, and the bias; together they are the difference of the two decomposed logits.

    Raises:
        SubspectError: there is no such class.
    """
    label, other = decomposition.label(label), decomposition.label(other)
    rows = [dict(zip(*row, strict=True)) for row in (_row(decomposition, label), _row(decomposition, other))]
    found = []
    for feature in dict.fromkeys([*rows[0], *rows[1]]):
        (one, two), value = (row.get(feature, 0.0) for row in rows), float(features[feature])
        found.append(Term(feature, value, (one, two), value * (one - two)))
    found.sort(key=lambda term: -abs(term.contribution))
    return found, float(decomposition.bias[label].double() - decomposition.bias[other].double())


def _row(decomposition: Decomposition, label: int) -> tuple[list[int], list[float]]:
    part = slice(*decomposition.supports.offsets[label : label + 2])
    return decomposition.supports[label].tolist(), decomposition.weights[part].double().tolist()
