"""Decompositions: the whole way from a study, applied to the network, saved and loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import subspect
from conftest import Tiny
from subspect import Decomposition, Study, SubspectError, decompose
from subspect.ground.seals import read_tensors, tensor_bytes
from subspect.heads.shown import features
from subspect.heads.supports import Supports
from subspect.heads.terms import terms
from subspect.studies.decompositions import load_decomposition
from subspect.studies.names import decomposition_path


def test_a_class_goes_by_name_or_index(study: Study) -> None:
    made = decompose(study, 2)
    asked: tuple[Callable[[Any], object], ...] = (
        made.rows,
        made.class_json,
        lambda one: features(made, one).title,
        lambda one: terms(made, np.ones(6), one, "a"),
    )
    two: Any = np.int64(2)
    for ask in asked:
        assert ask("c") == ask(2) == ask(two) == ask("2")
        odd: Any
        for odd in ("cc", 3, -1, "-1", 99, 1.0, None):
            with pytest.raises(SubspectError, match="no class .*; the network has 3: a, b, c, or 0 to 2"):
                ask(odd)


def test_with_all_features_nothing_changes(study: Study, tiny: Tiny) -> None:
    fidelity = subspect.evaluate(study, decompose(study, 6)).overall
    assert fidelity.fidelity.value == 1 and fidelity.divergence.value < 1e-12
    assert fidelity.accuracy == fidelity.dense_accuracy


def test_applied_to_the_network(study: Study, tiny: Tiny) -> None:
    decomposition = decompose(study, 2)
    before = copy.deepcopy(tiny.state_dict())
    small = decomposition.apply(tiny).eval()
    assert isinstance(tiny.fc, nn.Linear) and all(torch.equal(v, before[k]) for k, v in tiny.state_dict().items())
    x = torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        features = tiny.eval().norm(tiny.conv(x)).tanh().mean((2, 3))
        expected = torch.zeros(5, 3)
        for label in range(3):
            for row in decomposition.rows(label):
                expected[:, label] += row.weight * features[:, row.feature]
            expected[:, label] += decomposition.bias[label]
        assert torch.allclose(small(x), expected, atol=1e-6)


def test_another_network_is_refused(study: Study) -> None:
    with pytest.raises(SubspectError, match="this is a different network: the decomposition is of 'Tiny'"):
        decompose(study, 2).apply(Tiny(seed=1))


def test_save_and_load(study: Study, tmp_path: Path) -> None:
    one = decompose(study, 2)
    one.save(tmp_path / "one.safetensors")
    other = Decomposition.load(tmp_path / "one.safetensors")
    assert other.to_json() == {**one.to_json(), "name": "one"} and other.supports == one.supports
    for name in ("weights", "bias", "frequency", "mean"):
        assert torch.equal(getattr(other, name), getattr(one, name))
    assert (other.name, other.fingerprint, other.chosen_on, other.k, other.method) == (
        "one",
        one.fingerprint,
        ("train", "all"),
        2,
        "pursuit",
    )


def resealed(path: Path, tensors: dict[str, torch.Tensor], **changes: object) -> None:
    """Write a decomposition with some tensors and fields of the header changed, as a stranger would; None removes one."""
    given, header = read_tensors(path, "a decomposition")
    fields = {key: one for key, one in {**header, **changes}.items() if one is not None}
    merged = {name: one for name, one in {**given, **tensors}.items() if one is not None}
    path.write_bytes(tensor_bytes(merged, fields))


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "schema": ({}, {"schema": 7}, "schema version 7, this subspect reads 1 and 2"),
    "no history": ({}, {"history": []}, "its history is empty"),
    "history": ({}, {"history": [{}]}, "missing required field `method`"),
    "step": (
        {},
        {"history": [{"method": "x", "k": 1, "set": "train", "part": "half"}]},
        "Expected `str` matching regex",
    ),
    "dropped": (
        {},
        {"history": [{"method": "x", "k": 1, "set": "train", "part": "all"}, {"dropped": [9, 0]}]},
        "its history drops from a class there is not",
    ),
    "unseen": ({}, {"unseen": [99]}, r"its unseen classes 99 are not all among the 3"),
    "negative": ({}, {"unseen": [-1]}, "`int` >= 0"),
    "names": ({}, {"class_names": ["a", "b"]}, r"expected torch.int64 \(3,\)"),
    "no names": ({}, {"class_names": None}, "missing required field `class_names`"),
    "features": ({}, {"n_features": 1}, "feature indices"),
    "point": (
        {},
        {"curve": [{"k": 1, "refit": True, "images": 0, "fidelity": 1, "accuracy": 1, "dense_accuracy": 1}]},
        ">= 1",
    ),
    "floats": ({"indices": torch.zeros(6)}, {}, "indices is torch.float32"),
    "short": ({"weights": torch.zeros(5)}, {}, r"weights is torch.float32 \(5,\), expected torch.float32 \(6,\)"),
    "twice": ({"indices": torch.zeros(6, dtype=torch.int64)}, {}, "has a feature twice"),
    "offsets": ({"offsets": torch.tensor([0, 4, 2, 6])}, {}, "its offsets don't cut 6 features into 3 classes"),
    "nan": ({"bias": torch.full((3,), float("nan"))}, {}, "bias contains NaN or infinity"),
    "substitutes": ({"substitutes": torch.full((6, 3), 99)}, {}, "its substitutes are not all among the 6 features"),
    "half a trust": ({"jaccard": None}, {}, "expected stability, core"),
}


def test_a_flipped_bit_in_the_word_checksum_is_noticed(study: Study) -> None:
    subspect.decompose(study, 2)
    path = study.path / "decompositions/pursuit-k2.safetensors"
    data = path.read_bytes()
    assert data.count(b"checksum") == 1
    path.write_bytes(data.replace(b"checksum", b"checkSum"))
    with pytest.raises(SubspectError, match="carries no checksum"):
        subspect.load_decomposition(study)


def test_of_a_stability_that_was_of_one_step_nothing_is_read(study: Study) -> None:
    made = decompose(study, 2)
    path = decomposition_path(study.path, "pursuit-k2")
    assert made.trust is not None and subspect.load_decomposition(study).trust is not None
    before = dict.fromkeys(("draws", "distinct", "equal", "core", "near_equal", "tolerance"))
    resealed(path, before)  # type: ignore[arg-type]
    read = subspect.load_decomposition(study)
    assert read.trust is None and read.supports == made.supports and read.rows(0)[0].stability is None


def test_decompositions_that_do_not_fit(study: Study) -> None:
    decompose(study, 2)
    path = decomposition_path(study.path, "pursuit-k2")
    good = path.read_bytes()
    for what, (tensors, changes, message) in WRONG.items():
        if what == "substitutes":
            tensors = {"substitutes": torch.full_like(read_tensors(path, "it")[0]["substitutes"], 99)}
        resealed(path, tensors, **changes)
        with pytest.raises(
            SubspectError, match=f"pursuit-k2.safetensors is not a decomposition of subspect: .*{message}"
        ):
            load_decomposition(study)
        path.write_bytes(good)


def test_a_file_of_another_study_or_shape(study: Study) -> None:
    made = decompose(study, 2)
    wide = replace(made, supports=Supports([row.tolist() for row in made.supports], 7))
    wide.save(decomposition_path(study.path, "wide"))
    with pytest.raises(
        SubspectError, match="has 3 classes and 7 features, the study .* has 3 and 6; it is from another study"
    ):
        Decomposition.load(decomposition_path(study.path, "wide")).check(study)


def test_files_that_are_no_decomposition(tmp_path: Path) -> None:
    with pytest.raises(SubspectError, match="no decomposition at"):
        Decomposition.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(SubspectError, match=r"text\.safetensors is not a decomposition of subspect"):
        Decomposition.load(tmp_path / "text.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(SubspectError, match=r"other\.safetensors is not a decomposition of subspect"):
        Decomposition.load(tmp_path / "other.safetensors")
    (tmp_path / "newer.safetensors").write_bytes(tensor_bytes({"x": torch.zeros(1)}, {"schema": 99}))
    with pytest.raises(SubspectError, match="has schema version 99, this subspect reads 1"):
        Decomposition.load(tmp_path / "newer.safetensors")


def test_short_descriptions(study: Study) -> None:
    assert repr(decompose(study, 2)) == "Decomposition('pursuit-k2': 2 of 6 features for 3 classes)"
    assert repr(study).endswith("Tiny, image sets train, test)")
    assert repr(subspect.Network(Tiny())).startswith("Network('Tiny', preprocessing: no resize")
