"""What features say for one class against another, in double precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

import subspect
from subspect.heads.terms import terms


def test_the_difference_of_large_biases_loses_nothing(study: subspect.Study) -> None:
    made = replace(subspect.decompose(study, 2, show_progress=False), bias=torch.tensor([1e8, 1, 0]))
    found, bias = terms(made, np.ones(6), "a", "b")
    assert bias == 99_999_999 and terms(made, np.ones(6), 1, 0)[1] == -bias
    rows = {row.feature: row.weight for row in made.rows(0)}, {row.feature: row.weight for row in made.rows(1)}
    assert {term.feature for term in found} == {*rows[0], *rows[1]} and len(found) == len({*rows[0], *rows[1]})
    for term in found:
        assert term.weights == (rows[0].get(term.feature, 0), rows[1].get(term.feature, 0)) and term.value == 1
