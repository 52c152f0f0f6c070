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
from conftest import Tiny, reseal
from subspect import Decomposition, Study, SubspectError, decompose, decompose_by_file, decompose_each
from subspect.choosing.options import METHODS
from subspect.ground.seals import read_tensors, tensor_bytes
from subspect.heads.history import Refitted
from subspect.heads.shown import features
from subspect.heads.supports import Supports
from subspect.heads.terms import terms
from subspect.studies.decompositions import load_decomposition
from subspect.studies.names import decomposition_path


def refit_of(made: Decomposition) -> Refitted:
    assert made.refitted is not None and made.history[-1] is made.refitted
    return made.refitted


def stored(study: Study, name: str = "train") -> tuple[np.ndarray, np.ndarray]:
    chunks = list(study.image_set(name).chunks())
    return np.concatenate([c.features for c in chunks]), np.concatenate([c.labels for c in chunks])


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


def test_weights_bias_frequency_and_mean(study: Study) -> None:
    x, labels = stored(study)
    weight, bias = study.head()
    decomposition = decompose(study, 2, method="contribution")
    assert torch.equal(decomposition.bias, bias)
    for label in range(3):
        own = x[labels == label]
        scores = weight[label].numpy() * own.astype(np.float64).mean(axis=0)
        assert decomposition.supports[label].tolist() == np.argsort(-scores, kind="stable")[:2].tolist()
        for row in decomposition.rows(label):
            largest = np.argsort(-np.abs(own), axis=1, kind="stable")[:, :2]
            assert row.weight == weight[label, row.feature]
            assert row.frequency == pytest.approx((largest == row.feature).any(axis=1).mean())
            assert row.mean == pytest.approx(own[:, row.feature].mean(), rel=1e-5)


def test_several_k_in_one_pass(study: Study) -> None:
    made = decompose_each(study, [1, 3, 0.5], method="frequency")
    assert [one.name for one in made] == ["frequency-k1", "frequency-k3", "frequency-k0.5"]
    for one, k in zip(made, (1, 3, 0.5), strict=True):
        assert one.k == k and one.supports == decompose(study, k, method="frequency").supports


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
    with pytest.raises(SubspectError, match="this is another network: the decomposition is of 'Tiny'"):
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


def test_a_decomposition_under_another_ones_name(study: Study) -> None:
    decompose(study, 1), decompose(study, 2)
    one, two = (decomposition_path(study.path, f"pursuit-k{k}") for k in (1, 2))
    two.write_bytes(one.read_bytes())
    with pytest.raises(
        SubspectError, match=r"pursuit-k2.safetensors is not the decomposition .*: it is 'pursuit-k1'; give"
    ):
        load_decomposition(study, "pursuit-k2")
    assert Decomposition.load(two).name == "pursuit-k2"  # as a file of its own it may be called anything


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
    "nan": ({"bias": torch.full((3,), float("nan"))}, {}, "bias holds NaN or infinity"),
    "substitutes": ({"substitutes": torch.full((6, 3), 99)}, {}, "its substitutes are not all among the 6 features"),
    "half a trust": ({"jaccard": None}, {}, "expected stability, jaccard"),
}


def test_a_flipped_bit_in_the_word_checksum_is_noticed(study: Study) -> None:
    subspect.decompose(study, 2)
    path = study.path / "decompositions/pursuit-k2.safetensors"
    data = path.read_bytes()
    assert data.count(b"checksum") == 1
    path.write_bytes(data.replace(b"checksum", b"checkSum"))
    with pytest.raises(SubspectError, match="carries no checksum"):
        subspect.load_decomposition(study)


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


def test_another_part_of_the_images_is_another_choice(
    tiny: Tiny, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    network, path = subspect.Network(tiny), tmp_path / "grown"
    study = subspect.observe(network, make_folder("train", each=20), path, "train", batch_size=16)
    assert decompose(study, 2).chosen.part == "all but 20 %"
    study = subspect.observe(network, make_folder("test", each=10, seed=1), path, "test", batch_size=16)
    again = decompose(study, 2)
    assert (again.name, again.chosen.part) == ("pursuit-k2-2", "all")
    assert load_decomposition(study, "pursuit-k2").chosen.part == "all but 20 %"


def test_a_file_of_another_study_or_shape(study: Study) -> None:
    made = decompose(study, 2)
    wide = replace(made, supports=Supports([row.tolist() for row in made.supports], 7))
    wide.save(decomposition_path(study.path, "wide"))
    with pytest.raises(
        SubspectError, match="has 3 classes and 7 features, the study .* has 3 and 6; it is another study's"
    ):
        Decomposition.load(decomposition_path(study.path, "wide")).check(study)


def test_a_decomposition_never_takes_the_place_of_another_choice(
    study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = decompose(study, 2)
    path = decomposition_path(study.path, "pursuit-k2")
    before = path.read_bytes()
    made.supports.write(tmp_path / "pursuit-k2.json")
    assert decompose_by_file(study, tmp_path / "pursuit-k2.json").name == "pursuit-k2-2"
    assert (
        "has another decomposition called pursuit-k2, which stays as it is; this one is called pursuit-k2-2"
        in caplog.text
    )
    assert path.read_bytes() == before
    assert decompose_by_file(study, tmp_path / "pursuit-k2.json", name="mine").name == "mine"
    assert decompose_by_file(study, tmp_path / "pursuit-k2.json", name="mine").name == "mine"  # the same again
    (tmp_path / "other").mkdir()
    decompose(study, 1).supports.write(tmp_path / "other" / "pursuit-k2.json")
    assert decompose_by_file(study, tmp_path / "other" / "pursuit-k2.json", name="mine").name == "mine-2"
    assert load_decomposition(study, "mine-2").chosen != load_decomposition(study, "mine").chosen
    assert decompose(study, 2).name == "pursuit-k2" and path.read_bytes() == before  # the same choice, the same bytes
    path.write_bytes(b"theirs")
    with pytest.raises(SubspectError, match="is there already, and not as subspect wrote it"):
        decompose(study, 2)
    assert path.read_bytes() == b"theirs"


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


def test_the_newest_is_loaded_unless_named(study: Study) -> None:
    with pytest.raises(SubspectError, match="has no decomposition; make one: subspect decompose"):
        subspect.load_decomposition(study)
    decompose(study, 2)
    decompose(study, 3, method="frequency")
    assert subspect.load_decomposition(study).name == "frequency-k3"
    assert subspect.load_decomposition(study, "pursuit-k2").name == "pursuit-k2"
    with pytest.raises(SubspectError, match=r"no decomposition 'pursuit-k' .*did you mean 'pursuit-k2'"):
        subspect.load_decomposition(study, "pursuit-k")


def test_indices_from_a_file(study: Study, tmp_path: Path) -> None:
    made = decompose(study, 2, method="contribution")
    made.supports.write(tmp_path / "mine.json")
    read = decompose_by_file(study, tmp_path / "mine.json")
    assert read.supports == made.supports and torch.equal(read.weights, made.weights)
    assert read.name == "mine" and read.method == "indices of mine.json" and read.k is None
    assert torch.equal(read.frequency, made.frequency)


def test_a_class_without_images(tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = subspect.observe(subspect.Network(tiny), (torch.rand(20, 3, 8, 8), np.arange(20) % 2), tmp_path / "study")
    for method in METHODS:
        made = decompose(study, 2, method=method)
        assert "1 classes have no images and keep their dense row: class 2" in caplog.text
        assert made.unseen == (2,) and made.supports.sizes.tolist() == [2, 2, 6]
        assert torch.equal(made.layer().dense_weight()[2], tiny.fc.weight[2])
        assert made.rows(2)[0].frequency == 0
    subspect.observe(subspect.Network(tiny), (torch.rand(9, 3, 8, 8), np.arange(9) % 3), tmp_path / "study", "test")
    note = subspect.evaluate(study, decompose(study, 2)).note
    assert "3 are of classes that had no image to choose features on and keep their dense row" in note


def test_the_set_that_features_are_chosen_on(study: Study, tiny: Tiny, tmp_path: Path) -> None:
    assert decompose(study, 2).chosen_on == ("train", "all")
    assert decompose(study, 2, on="test").chosen_on == ("test", "all")
    alone = subspect.observe(subspect.Network(tiny), torch.rand(50, 3, 8, 8), tmp_path / "alone")
    assert decompose(alone, 2).chosen_on == ("train", "all but 20 %")


@pytest.mark.parametrize("k", [0, 7, 1.5])
def test_a_k_that_makes_no_sense(study: Study, k: float) -> None:
    with pytest.raises(SubspectError, match="must be a whole number from 1 to the 6 features of the network"):
        decompose(study, k)


def test_a_share_goes_with_frequency(study: Study) -> None:
    with pytest.raises(
        SubspectError, match="a share of the mass goes with method 'frequency'; 'pursuit' takes a whole k"
    ):
        decompose(study, 0.5)


def test_an_unknown_method(study: Study) -> None:
    with pytest.raises(SubspectError, match="method must be one of pursuit, contribution, frequency; got 'magic'"):
        decompose(study, 2, method="magic")


def test_an_unfinished_set_is_not_passed_over(study: Study) -> None:
    reseal(study.path / "sets/train/set.json", complete=False)
    assert study.unfinished == ["train"] and study.set_names == ["test"]
    with pytest.raises(SubspectError, match="image set 'train' in .* is unfinished"):
        decompose(study, 2)
    assert decompose(study, 2, on="test").chosen_on == ("test", "all but 20 %")


def test_short_descriptions(study: Study) -> None:
    assert repr(decompose(study, 2)) == "Decomposition('pursuit-k2': 2 of 6 features for 3 classes)"
    assert repr(study).endswith("Tiny, image sets train, test)")
    assert repr(subspect.Network(Tiny())).startswith("Network('Tiny', preprocessing: resize no")


def test_a_study_without_a_finished_set(study: Study) -> None:
    for name in ("train", "test"):
        (study.path / "sets" / name / "set.json").unlink()
    with pytest.raises(SubspectError, match="has no finished image set; observe one first"):
        decompose(study, 2)


def test_pursuit_learns_weights_of_its_own(study: Study) -> None:
    made, raw = decompose(study, 2), decompose(study, 2, refit=False)
    assert (made.name, raw.name) == ("pursuit-k2", "pursuit-k2-raw")
    assert refit_of(made).refit == "dense" and refit_of(made).converged and len(raw.history) == 1
    assert made.supports.sizes.tolist() == raw.supports.sizes.tolist() == [2, 2, 2]
    divergences = [subspect.evaluate(study, one, on="train").overall.divergence.value for one in (made, raw)]
    assert divergences[0] == pytest.approx(refit_of(made).loss, abs=1e-5) and divergences[0] < divergences[1]


def test_the_most_important_feature_comes_first(study: Study) -> None:
    x, _ = stored(study)
    made = decompose(study, 3)
    for label in range(3):
        rows = made.rows(label)
        spread = [abs(row.weight) * x[:, row.feature].std() for row in rows]
        assert spread == sorted(spread, reverse=True)


@pytest.mark.parametrize("method", ["contribution", "frequency"])
def test_any_support_can_be_refitted(study: Study, method: str, tmp_path: Path) -> None:
    kept, learned = decompose(study, 2, method=method), decompose(study, 2, method=method, refit=True)
    assert learned.name == f"{method}-k2-refit" and learned.supports == kept.supports
    costs = [subspect.evaluate(study, one, on="train").overall.divergence.value for one in (learned, kept)]
    assert costs[0] < costs[1]
    kept.supports.write(tmp_path / "mine.json")
    read = decompose_by_file(study, tmp_path / "mine.json", refit=True)
    assert read.name == "mine-refit" and torch.allclose(read.weights, learned.weights, atol=1e-5)


def test_the_labels_as_target(study: Study, tiny: Tiny, tmp_path: Path) -> None:
    made = decompose(study, 2, target="labels")
    assert made.name == "pursuit-k2-labels" and refit_of(made).refit == "labels"
    x, labels = stored(study)
    for one, better in ((made, decompose(study, 2)), (decompose(study, 2), made)):
        with torch.no_grad():
            logits = one.layer()(torch.from_numpy(x))
        losses = {
            "labels": torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).item(),
            "dense": subspect.evaluate(study, one, on="train").overall.divergence.value,
        }
        target = str(one.chosen.target)
        assert losses[target] == pytest.approx(refit_of(one).loss, abs=1e-5), better.name
    unlabelled = subspect.observe(subspect.Network(tiny), torch.rand(50, 3, 8, 8), tmp_path / "alone")
    with pytest.raises(SubspectError, match="target 'labels' needs labels, and 'train' has none; take target 'dense'"):
        decompose(unlabelled, 2, target="labels")
    with pytest.raises(SubspectError, match="target must be one of dense, labels; got 'logits'"):
        decompose(study, 2, target="logits")  # type: ignore[arg-type]


def test_more_features_than_images_can_tell_apart(tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = subspect.observe(subspect.Network(tiny), (torch.rand(3, 3, 8, 8), np.arange(3)), tmp_path / "study")
    subspect.observe(subspect.Network(tiny), torch.rand(5, 3, 8, 8), tmp_path / "study", "test")
    made = decompose(study, 5)
    assert made.supports.sizes.max() == 2
    assert "3 classes have fewer than 5 features, since no other adds anything on these 3 images" in caplog.text


def test_one_image(tiny: Tiny, tmp_path: Path) -> None:
    study = subspect.observe(subspect.Network(tiny), torch.rand(1, 3, 8, 8), tmp_path / "study")
    subspect.observe(subspect.Network(tiny), torch.rand(5, 3, 8, 8), tmp_path / "study", "test")
    with pytest.raises(SubspectError, match="pursuit compares images, and there is 1; give more"):
        decompose(study, 2)


def test_constant_logits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Tiny()
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.zero_()
    network = subspect.Network(model, head="fc")
    study = subspect.observe(network, (torch.rand(30, 3, 8, 8), np.arange(30) % 3), tmp_path / "study")
    made = decompose(study, 2)
    assert made.supports.sizes.tolist() == [0, 0, 0]
    assert "the two largest logits are equal for most images: no image is nearer to a boundary" in caplog.text
    assert "3 classes have fewer than 2 features" in caplog.text
