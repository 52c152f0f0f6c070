"""What each feature says for one class against another: the terms add up to the difference of the logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import subspect
from by_hand import logits_of
from subspect import Study, decompose
from subspect.heads.terms import terms


def test_terms_and_bias_add_up_for_every_pair(study: Study) -> None:
    x = np.concatenate([chunk.features for chunk in study.image_set("test").chunks()]).astype(np.float64)
    for method, k in (("contribution", 2), ("frequency", 0.7), ("pursuit", 3)):
        made = decompose(study, k, method=method)
        for features in x[::7]:
            logits = logits_of(made, features)
            for label in range(3):
                for other in range(3):
                    found, bias = terms(made, features, label, other)
                    said = [term.contribution for term in found]
                    room = 1e-6 * (np.abs(said).sum() + abs(bias))
                    assert sum(said) + bias == pytest.approx(logits[label] - logits[other], abs=room, rel=0)
                    assert [abs(one) for one in said] == sorted((abs(one) for one in said), reverse=True)


def test_features_of_one_class_and_of_both(study: Study) -> None:
    made = decompose(study, 4, method="contribution")
    x = np.linspace(-1, 1, 6)
    own = [{row.feature: row.weight for row in made.rows(label)} for label in range(3)]
    assert set(own[0]) & set(own[1]) and set(own[0]) ^ set(own[1])
    found, bias = terms(made, x, 0, 1)
    assert sorted(term.feature for term in found) == sorted(set(own[0]) | set(own[1]))
    assert bias == pytest.approx(float(made.bias[0] - made.bias[1]))
    for term in found:
        weights = own[0].get(term.feature, 0), own[1].get(term.feature, 0)
        assert term.weights == pytest.approx(weights) and term.value == x[term.feature]
        assert term.contribution == pytest.approx((weights[0] - weights[1]) * x[term.feature])


def test_the_difference_of_large_biases_loses_nothing(study: subspect.Study) -> None:
    made = replace(subspect.decompose(study, 2, show_progress=False), bias=torch.tensor([1e8, 1, 0]))
    found, bias = terms(made, np.ones(6), "a", "b")
    assert bias == 99_999_999 and terms(made, np.ones(6), 1, 0)[1] == -bias
    rows = {row.feature: row.weight for row in made.rows(0)}, {row.feature: row.weight for row in made.rows(1)}
    assert {term.feature for term in found} == {*rows[0], *rows[1]} and len(found) == len({*rows[0], *rows[1]})
    for term in found:
        assert term.weights == (rows[0].get(term.feature, 0), rows[1].get(term.feature, 0)) and term.value == 1
