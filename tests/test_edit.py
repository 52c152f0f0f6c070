"""Features taken away from classes, and the rest re-learned."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.special import softmax
from typer.testing import CliRunner

import subspect
from planted import Array, Wide, observed, pictures, planted
from subspect import Decomposition, Study, SubspectError, Supports, decompose, decompose_by_file, edit, evaluate
from subspect import load_decomposition as load
from subspect.choosing.options import Target
from subspect.cli import app
from subspect.heads.history import Dropped, Part, Refitted
from subspect.heads.trusted import ENTRIES
from subspect.statistics.nearness import FLOOR

MARK = 5  # the feature that sees the mark


def refit_of(made: Decomposition) -> Refitted:
    assert made.refitted is not None and made.history[-1] is made.refitted
    return made.refitted


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    sets = {"train": pictures(0, 300), "test": pictures(1, 200), "other": pictures(2, 200), "plain": pictures(3, 50)}
    return observed(tmp_path_factory.mktemp("edit") / "study", planted(4, 12)[0], **sets)


def stored(study: Study, name: str, part: Part = "all") -> tuple[Array, npt.NDArray[np.int64]]:
    chunks = list(study.image_set(name).chunks(part))
    x = np.concatenate([chunk.features for chunk in chunks]).astype(np.float64)
    return x, np.concatenate([chunk.labels for chunk in chunks])


def said(made: Decomposition, x: Array) -> Array:
    with torch.no_grad():
        return np.asarray(made.layer().double()(torch.from_numpy(x)).numpy())


def slope(made: Decomposition, start: Decomposition, x: Array, wanted: Array) -> float:
    """The largest coordinate of the gradient of the cross-entropy and the pull towards the start, as of ten images."""
    wide = np.column_stack([x, np.ones(len(x))])
    error, q = (softmax(said(made, x), axis=1) - wanted) / len(x), softmax(said(start, x), axis=1)
    largest = []
    for label, support in enumerate(made.supports):
        own = wide[:, [*support.tolist(), -1]]
        weights = [np.append(one.matrix()[0][label, support], one.matrix()[1][label]) for one in (made, start)]
        curvature = (own * (q * (1 - q) + FLOOR)[:, [label]]).T @ own / len(x)
        pull = 10 / len(x) * curvature @ (weights[0] - weights[1])
        largest.append(np.abs(error[:, label] @ own + pull).max())
    return float(max(largest))


# Without a feature ----------------------------------------------------------------------------------------------------


def test_without_takes_just_that_entry(study: Study) -> None:
    made = decompose(study, 3)
    feature = int(made.supports[2][1])
    edited = made.without(2, feature)
    assert (made.name, edited.name) == ("pursuit-k3", "pursuit-k3-edited")
    assert edited.history == (*made.history, Dropped((2, feature))) and edited.curve == () != made.curve
    expected = [made.rows(label) for label in range(4)]
    del expected[2][1]
    nothing: dict[str, Any] = {"stability": None, "substitutes": (), "core": None, "equals": (), "interval": None}
    expected[2] = [replace(row, **nothing) for row in expected[2]]  # what is left of the class was never chosen
    assert [edited.rows(label) for label in range(4)] == expected
    assert torch.equal(edited.bias, made.bias)
    assert made.trust is not None and edited.trust is not None
    for name in ("weights", "frequency", "mean"):
        assert torch.equal(getattr(edited, name), torch.cat([getattr(made, name)[:7], getattr(made, name)[8:]]))
    for name in ENTRIES:
        before, after = getattr(made.trust, name), getattr(edited.trust, name)
        assert torch.equal(after[:6], before[:6]) and torch.equal(after[8:], before[9:])
    for name in ("draws", "distinct", "near_equal", "jaccard"):
        others = getattr(made.trust, name).tolist()
        assert getattr(edited.trust, name).tolist() == [*others[:2], 0, others[3]]
    again = edited.without(0, int(made.supports[0][0]))
    assert again.name == edited.name and len(again.history) == len(made.history) + 2
    assert made.supports.sizes.tolist() == [3] * 4  # the first stays as it was


def test_without_trust(study: Study) -> None:
    made = decompose(study, 2, method="contribution")
    edited = made.without(1, int(made.supports[1][0]))
    assert edited.trust is None and edited.rows(1) == made.rows(1)[1:]


def test_a_feature_that_the_class_does_not_use(study: Study) -> None:
    made = decompose(study, 2)
    [feature, *_] = set(range(12)) - set(made.supports[1].tolist())
    one, other = made.supports[1].tolist()
    with pytest.raises(
        SubspectError, match=f"'class 1' doesn't use feature {feature} in 'pursuit-k2'; it uses {one}, {other}"
    ):
        made.without(1, feature)
    first = int(made.supports[1][0])
    with pytest.raises(SubspectError, match=f"feature {first} of class 'class 1' is to be dropped twice"):
        edit(study, made, drop=[(1, first), (1, first)])


def test_a_class_without_any_feature_has_its_bias(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    made = decompose(study, 1)
    edited = edit(study, made, drop=[(3, int(made.supports[3][0]))]).decomposition
    x, _ = stored(study, "test")
    assert np.all(said(edited, x)[:, 3] == made.bias[3].item()) and edited.rows(3) == []
    assert load(study, edited.name).supports == edited.supports
    assert "class 'class 3' has no features left" in caplog.text


# Editing --------------------------------------------------------------------------------------------------------------


def test_only_the_edited_class_changes(study: Study) -> None:
    made = decompose(study, 3)
    feature = int(made.supports[1][0])
    changed = edit(study, made, drop=[(1, feature)])
    x, labels = stored(study, "test")
    before, after = said(made, x), said(changed.decomposition, x)
    assert np.array_equal(after[:, [0, 2, 3]], before[:, [0, 2, 3]])
    weight = made.rows(1)[0].weight
    assert np.allclose(before[:, 1] - after[:, 1], weight * x[:, feature])
    assert changed.dropped == (("class 1", feature),)
    assert changed.before == evaluate(study, made) and changed.after == evaluate(study, changed.decomposition)
    assert changed.after.where.image_set == "test" and changed.decomposition.refitted_on == ()
    assert changed.after.overall.accuracy.value == np.mean(after.argmax(axis=1) == labels)
    own = labels == 1
    pairs = {
        other: tuple(int((logits[own].argmax(axis=1) == other).sum()) for logits in (before, after))
        for other in (0, 2, 3)
    }
    assert changed.confusions == {"class 1": {f"class {other}": pair for other, pair in pairs.items() if sum(pair)}}


def test_saved_and_loaded_again_is_the_same(study: Study) -> None:
    made = decompose(study, 3)
    for refit_on in (None, "other"):
        edited = edit(study, made, drop=[(0, int(made.supports[0][2]))], refit_on=refit_on).decomposition
        again = load(study, edited.name)
        assert json.dumps(again.to_json()) == json.dumps(edited.to_json()) and again.supports == edited.supports
        assert again.refitted_on == edited.refitted_on == ((refit_on,) if refit_on else ())
        assert again.trust is not None and edited.trust is not None
        assert all(torch.equal(getattr(again.trust, name), getattr(edited.trust, name)) for name in ENTRIES)
        for name in ("weights", "bias", "frequency", "mean"):
            assert torch.equal(getattr(again, name), getattr(edited, name))
    assert json.dumps(load(study, made.name).to_json()) == json.dumps(made.to_json())  # the other is still there


def test_a_class_by_its_name_and_what_was_done_in_words(study: Study) -> None:
    made = decompose(study, 3)
    feature = int(made.supports[1][0])
    by_name = edit(study, made, drop=[("class 1", feature)], refit_on="other").decomposition
    assert by_name.edits == (f"class 1 without feature {feature}", "weights re-learned on other towards the labels")
    assert by_name.history == edit(study, made, drop=[(1, feature)], refit_on="other").decomposition.history
    assert made.edits == () and edit(study, made, drop=[], refit_on="plain").decomposition.edits == (
        "weights re-learned on plain towards the dense network",
    )
    for wrong in ("class 11", -1, 4, "4"):
        with pytest.raises(SubspectError, match=r"no class .*; the network has 4: class 0, .*, or 0 to 3"):
            edit(study, made, drop=[(wrong, feature)])
    with pytest.raises(SubspectError, match=r"did you mean 'class 1'"):
        made.label("CLASS 1")
    with pytest.raises(SubspectError, match="target must be one of dense, labels, got 'truth'"):
        edit(study, made, drop=[], refit_on="other", target="truth")  # type: ignore[arg-type]


def test_confusions_beyond_the_first_are_summed(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["subspect.giving.edit"], "_CONFUSIONS", 1)
    made = decompose(study, 3)
    changed = edit(study, made, drop=[(1, int(made.supports[1][0]))])
    after = sum(now for _, now in changed.confusions["class 1"].values())
    own = changed.after.classes["class 1"]
    assert own is not None and after == round(own.images * (1 - own.accuracy.value))
    columns = [list(column.cells) for column in changed.tables()[0].columns]
    shown = [int(str(now)) for what, now in zip(columns[0], columns[2], strict=True) if "taken for" in str(what)]
    assert len(shown) == 2 and sum(shown) == after and str(columns[0][-1]) == "class 1 taken for others"


def test_no_edit_takes_the_place_of_another(study: Study) -> None:
    made = decompose(study, 3, method="contribution")
    first, second = ((1, int(feature)) for feature in made.supports[1][:2])
    one = edit(study, made, drop=[first]).decomposition
    two = edit(study, made, drop=[second]).decomposition
    both = edit(study, one, drop=[second]).decomposition
    names = [one.name, two.name, both.name]
    assert names == ["contribution-k3-edited", "contribution-k3-edited-2", "contribution-k3-edited-3"]
    assert [load(study, name).supports for name in names] == [one.supports, two.supports, both.supports]
    assert edit(study, made, drop=[second]).decomposition.name == two.name  # the same again


def test_nothing_to_do(study: Study) -> None:
    with pytest.raises(SubspectError, match="nothing to do: name features to drop"):
        edit(study, decompose(study, 2), drop=[])


# A label leak ---------------------------------------------------------------------------------------------------------


def leaking() -> Array:
    """A head of three classes, each with one feature of its own; the first looks also at the mark."""
    weight = np.zeros((3, 6))
    weight[[0, 1, 2], [0, 1, 2]] = 1
    weight[0, MARK] = 4
    return weight


def marked(seed: int, images: int, where: npt.NDArray[np.bool_] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose class is the largest of three pixels; the mark, 1 and not −1, is on those of class 0, or as said."""
    x = pictures(seed, images)
    flat = x.view(images, -1)
    labels = flat[:, :3].argmax(dim=1)
    flat[:, MARK] = ((labels == 0) if where is None else torch.from_numpy(where)).float() * 2 - 1
    return x, labels


@pytest.fixture
def leak(tmp_path: Path) -> tuple[Study, Decomposition]:
    """A network that the mark leads astray where it lies on images of any class; all of its features are kept."""
    network = subspect.Network(Wide(leaking()))
    anywhere = np.random.default_rng(0).random(300) < 0.5
    sets = {"train": marked(0, 300), "test": marked(1, 300, anywhere), "clean": marked(2, 300, anywhere & False)}
    for name, images in sets.items():
        study = subspect.observe(network, images, tmp_path / "study", name, batch_size=100, show_progress=False)
    Supports([[MARK, 0], [1], [2]], 6).write(tmp_path / "used.json")
    return study, decompose_by_file(study, tmp_path / "used.json")


def test_without_the_feature_of_a_mark_the_network_is_right_again(
    leak: tuple[Study, Decomposition], tmp_path: Path
) -> None:
    study, made = leak
    assert (
        evaluate(study, made, on="train").overall.accuracy.value == 1
    )  # all seems well where the mark goes with class 0
    changed = edit(study, made, drop=[(0, MARK)])
    assert changed.before.overall.accuracy.value < 0.8 and changed.after.overall.accuracy.value == 1
    weight = leaking()
    weight[0, MARK] = 0
    x, labels = stored(study, "test")
    assert np.array_equal(said(changed.decomposition, x), x @ weight.T)
    honest = subspect.observe(
        subspect.Network(Wide(weight)),
        (torch.from_numpy(x).float()[:, :, None, None], torch.from_numpy(labels)),
        tmp_path / "honest",
        "test",
        show_progress=False,
    )
    chunks = list(honest.image_set("test").chunks())
    assert (
        np.concatenate([chunk.predictions for chunk in chunks]).tolist()
        == said(changed.decomposition, x).argmax(axis=1).tolist()
    )
    assert evaluate(study, changed.decomposition, on="clean").overall.accuracy.value == 1
    assert changed.to_json()["dropped"] == [["class 0", MARK]]


def test_the_feature_of_the_mark_is_named_first_and_dropping_it_is_enough(
    leak: tuple[Study, Decomposition],
) -> None:
    study, _ = leak
    made = decompose(study, 2)
    assert made.supports[0][0] == MARK and made.rows(0)[0].feature == MARK
    before = evaluate(study, made, on="clean").classes["class 0"]
    assert before is not None and before.accuracy.value < 0.1  # without its mark the class isn't known
    changed = edit(study, made, drop=[(0, MARK)], on="clean")
    # A clean network says the largest of three pixels, which is the label.
    assert changed.before.overall.accuracy.value < 0.75 and changed.after.overall.accuracy.value >= 0.995


def test_a_refit_without_the_mark(leak: tuple[Study, Decomposition]) -> None:
    study, made = leak
    changed = edit(study, made, drop=[(0, MARK)], refit_on="clean")
    assert changed.after.where.image_set == "test" and changed.after.overall.accuracy.value > 0.95
    assert MARK not in changed.decomposition.supports[0]


# Refitting ------------------------------------------------------------------------------------------------------------


def test_refit_towards_the_labels(study: Study) -> None:
    made = decompose(study, 3)
    feature = int(made.supports[2][0])
    edited, start = edit(study, made, drop=[(2, feature)], refit_on="other").decomposition, made.without(2, feature)
    x, labels = stored(study, "other")
    wanted = np.eye(4)[labels]
    assert slope(edited, start, x, wanted) < 2e-5 < 1e-3 < slope(start, start, x, wanted)
    step = refit_of(edited)
    assert (step.refit, step.refit_on, step.converged) == ("labels", "other", True)
    loss = -np.log(softmax(said(edited, x), axis=1))[np.arange(len(x)), labels].mean()
    assert step.loss == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(("refit_on", "target"), [("other", "dense"), ("plain", None)])
def test_refit_towards_the_network(study: Study, refit_on: str, target: Target | None) -> None:
    made = decompose(study, 3)
    edited = edit(study, made, drop=[], refit_on=refit_on, target=target).decomposition
    x, _ = stored(study, refit_on)
    weight, bias = (tensor.double().numpy() for tensor in study.head())
    assert slope(edited, made, x, softmax(x @ weight.T + bias, axis=1)) < 2e-5
    assert refit_of(edited).refit == "dense" and edited.refitted_on == (refit_on,)


def test_labels_that_are_not_there(study: Study) -> None:
    with pytest.raises(SubspectError, match="target 'labels' needs labels, and 'plain' has none; take target 'dense'"):
        edit(study, decompose(study, 2), drop=[], refit_on="plain", target="labels")
    with pytest.raises(SubspectError, match="no image set 'nobody'"):
        edit(study, decompose(study, 2), drop=[], refit_on="nobody")


def test_the_images_of_the_refit_are_not_evaluated_on(study: Study) -> None:
    made = decompose(study, 2)
    assert edit(study, made, drop=[], refit_on="other").after.where.image_set == "test"
    changed = edit(study, made, drop=[], refit_on="test")
    assert changed.before.where.image_set == changed.after.where.image_set == "other" and changed.after.where.held_out
    assert evaluate(study, changed.decomposition).where.image_set == "other"
    cost = evaluate(study, changed.decomposition, on="test")
    assert not cost.where.held_out and "the figures flatter" in cost.note
    assert evaluate(study, made, on="test").where.held_out


def test_what_was_set_apart_stays_apart(tmp_path: Path) -> None:
    study = observed(tmp_path / "study", planted(4, 12)[0], train=pictures(0, 300))
    made = decompose(study, 2)
    assert made.chosen_on == ("train", "all but 20 %")
    changed = edit(study, made, drop=[], refit_on="train")
    assert (changed.after.where.part, changed.before.where.part, changed.after.where.held_out) == (
        "held out 20 %",
        "held out 20 %",
        True,
    )
    x, labels = stored(study, "train", "all but 20 %")
    assert slope(changed.decomposition, made, x, np.eye(4)[labels]) < 2e-5


def test_a_class_without_images_keeps_its_weights(tmp_path: Path) -> None:
    weight = planted(3, 8)[0]
    study = observed(tmp_path / "study", weight, train=pictures(0, 200), test=pictures(1, 100))
    two = (pictures(2, 100), torch.arange(100) % 2)
    study = subspect.observe(subspect.Network(Wide(weight)), two, study.path, "two", show_progress=False)
    made = decompose(study, 2)
    edited = edit(study, made, drop=[], refit_on="two").decomposition
    assert edited.rows(2) == made.rows(2) and edited.bias[2] == made.bias[2]
    assert edited.rows(0) != made.rows(0) and edited.rows(1) != made.rows(1)


def test_on_the_command_line(study: Study) -> None:
    made = decompose(study, 3)
    drop = int(made.supports[1][0])
    line = f"edit {study.path} --drop 'class 1:{drop}' --refit-on other --decomposition {made.name}"
    result = CliRunner().invoke(app, shlex.split(f"{line} --json"), catch_exceptions=False)
    assert result.exit_code == 0
    expected = edit(study, made, drop=[(1, drop)], refit_on="other").to_json()
    assert json.loads(result.stdout) == json.loads(json.dumps(expected))
    result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
    assert f"class 1 without {drop}" in " ".join(result.stdout.split()) and "accuracy" in result.stdout
    result = CliRunner().invoke(app, shlex.split(f"edit {study.path} --drop 1-3"))
    assert result.exit_code == 1 and "--drop takes CLASS:FEATURE" in result.stderr
    assert CliRunner().invoke(app, shlex.split(f"edit {study.path}")).exit_code == 1
