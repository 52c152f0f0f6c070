"""How many features, asked for in every way: a number, a mean, a tolerance, a pool; from Python and the command line."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import subspect
from commands import command, parsed, said
from planted import C, D, Wide, labels_of, observed, pictures, planted, promised, wide_study
from subspect import Auto, Decomposition, Mean, Study, SubspectError, decompose, decompose_each, evaluate
from subspect.choosing.boundary import Boundary
from subspect.choosing.promise import at_least, most_lost
from subspect.choosing.settle import helped
from subspect.choosing.sizes import Budget, allocate
from subspect.heads.trusted import ENTRIES
from subspect.studies.rows import Rows


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return wide_study(tmp_path_factory.mktemp("wide") / "study")


def agreeing(made: Decomposition, study: Study, on: str) -> int:
    """How many images of a set the decomposed head agrees on with the dense network."""
    cost = evaluate(study, made, on=on).overall
    return round(cost.fidelity.value * cost.images)


# The fewest features that keep a tolerance ----------------------------------------------------------------------------


def test_the_planted_features_are_what_a_tolerance_takes(wide: Study, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "subspect")
    made = decompose(wide, Auto(0.1))
    assert made.name == "pursuit-auto0.1" and made.k == "auto"
    assert [sorted(support.tolist()) for support in made.supports] == planted()[1] and made.mean_size == 3
    assert made.auto is not None and made.auto.met and tuple(made.auto.sized_on) == ("test", "all")
    assert (made.auto.tolerance, made.auto.measure, made.auto.promise) == (0.1, "fidelity", None)
    fidelity = agreeing(made, wide, "test") / 300
    assert fidelity >= 0.9
    assert (
        f"3 features a class lose {100 - 100 * fidelity:.2f} points of fidelity on 300 images of 'test'" in caplog.text
    )
    assert "promise: none, since no images were named that neither the network nor the choice has seen" in caplog.text
    small = [point for point in made.curve if point.k < 3]
    assert small and all(point.fidelity < 0.9 for point in small)
    assert {point.images for point in made.curve} == {300} and all(point.refit for point in made.curve)
    assert [point.fidelity for point in made.curve if point.k == 3] == [fidelity]


def test_a_smaller_tolerance_takes_more_features(wide: Study) -> None:
    many, few = decompose_each(wide, [Auto(0.05), Auto(0.4)])
    assert few.mean_size < 3 < many.mean_size < D
    for made, tolerance in ((many, 0.05), (few, 0.4)):
        assert agreeing(made, wide, "test") >= (1 - tolerance) * 300
        assert made.auto is not None and made.auto.met


def test_unless_told_five_percent_of_fidelity_may_be_lost(wide: Study) -> None:
    one, other = decompose(wide, "auto"), decompose(wide, Auto())
    assert one.name == "pursuit-auto0.05" and one.to_json() == other.to_json()


def test_a_tolerance_of_accuracy(wide: Study) -> None:
    made = decompose(wide, Auto(0.1, "accuracy", "unseen"))
    assert made.name == "pursuit-auto0.1-accuracy-unseen" and made.auto is not None and made.auto.met
    cost = evaluate(wide, made, on="test").overall
    assert cost.dense_accuracy.value - cost.accuracy.value <= 0.1
    promise = promised(made)
    assert promise.measure == "accuracy" and promise.loss <= 0.1
    assert promise.text.endswith("points of accuracy lost, 95 % confidence, n = 1,000")
    weight, bias = wide.head()
    lost = won = 0
    for chunk in wide.image_set("unseen").chunks():
        with torch.no_grad():
            said = made.layer()(torch.from_numpy(np.array(chunk.features))).argmax(dim=1).numpy()
        dense = (chunk.features @ weight.numpy().T + bias.numpy()).argmax(axis=1)
        lost += int(((dense == chunk.labels) & (said != chunk.labels)).sum())
        won += int(((dense != chunk.labels) & (said == chunk.labels)).sum())
    assert (lost - won) / 1000 < most_lost(lost, won, 1000) <= promise.loss + 1e-6


def test_labels_are_needed_for_a_tolerance_of_accuracy(tmp_path: Path) -> None:
    study = observed(tmp_path / "study", planted()[0], train=pictures(0, 200), plain=pictures(1, 50))
    message = "a tolerance of accuracy needs labels, and 'plain' has none; take measure 'fidelity'"
    with pytest.raises(SubspectError, match=message):
        decompose(study, Auto(0.1, "accuracy"))
    assert decompose(study, Auto(0.3)).auto is not None


def test_where_no_size_keeps_the_tolerance(wide: Study, caplog: pytest.LogCaptureFixture) -> None:
    made = decompose(wide, Auto(0.02, most=2))
    assert made.supports.sizes.tolist() == [2] * C and made.auto is not None and not made.auto.met
    lost = 100 - agreeing(made, wide, "test") / 3
    assert (
        f"no number of features up to 2 a class loses at most 2 points of fidelity; the best: 2 a class lose {lost:.2f} "
        "points of fidelity on 300 images of 'test'"
    ) in caplog.text


def test_where_nothing_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = observed(
        tmp_path / "study", planted()[0], train=pictures(0, 200), test=pictures(1, 50), unseen=pictures(2, 20)
    )
    made = decompose(study, Auto(0.01, promise="unseen"), refit=False)
    assert set(made.supports.sizes.tolist()) == {made.supports.n_features} and made.settled is not None
    assert "every class keeps all of its features" in caplog.text
    assert "a class a loss of at most 1 point of fidelity can be promised; of " in caplog.text
    assert made.settled.startswith("there is no number of features for which a loss of at most 1 point")


def test_no_class_gets_more_than_most(wide: Study) -> None:
    made = decompose(wide, Auto(0.05, most=7))
    assert made.supports.sizes.max() <= 7 and made.supports.sizes.min() >= 1


def test_without_refit_the_least_squares_weights_are_sized(wide: Study) -> None:
    made = decompose(wide, Auto(0.3), refit=False)
    assert made.name == "pursuit-auto0.3-raw" and len(made.history) == 2
    assert agreeing(made, wide, "test") >= 0.7 * 300
    assert not any(point.refit for point in made.curve)


# The promise ----------------------------------------------------------------------------------------------------------


def test_a_promise_on_images_that_nobody_has_seen(wide: Study) -> None:
    made = decompose(wide, Auto(0.25, promise="unseen"))
    assert made.auto is not None and made.auto.no_promise is None
    promise = promised(made)
    assert (promise.set, promise.images, promise.confidence, promise.kept) == ("unseen", 1000, 0.95, True)
    assert 1 - at_least(agreeing(made, wide, "unseen"), 1000) <= promise.loss <= 0.25
    share = 100 * (1 - promise.loss)
    assert promise.text == (f"at least {share:.1f} % agreement with the dense network, 95 % confidence, n = 1,000")


def test_a_promise_that_the_largest_size_breaks(wide: Study) -> None:
    made = decompose(wide, Auto(0.02, promise="unseen", most=2))
    assert made.auto is not None and not made.auto.met
    promise = promised(made)
    assert not promise.kept and promise.loss == pytest.approx(1 - at_least(agreeing(made, wide, "unseen"), 1000))


def test_a_higher_confidence_promises_less(wide: Study) -> None:
    made = decompose(wide, Auto(0.02, promise="unseen", most=2, confidence=0.999))
    assert made.auto is not None
    expected = 1 - at_least(agreeing(made, wide, "unseen"), 1000, 0.999)
    assert promised(made).loss == pytest.approx(expected)
    assert "99.9 % confidence" in promised(made).text


@pytest.mark.parametrize(
    ("auto", "on", "reason"),
    [
        (Auto(0.3), None, "since no images were named that neither the network nor the choice has seen"),
        (Auto(0.3, promise="again"), None, "since the features were chosen on the images of 'again'"),
        (Auto(0.3, promise="retest"), None, "since the number of features was chosen on the images of 'retest'"),
        (Auto(0.3, promise="unseen"), "unseen", "since the features were chosen on the images of 'unseen'"),
        (
            Auto(0.3, promise="train"),
            "test",
            "since a network loses less on the images that it was trained on, 'train', than on others",
        ),
        (Auto(0.3, "accuracy", "plain"), None, "since 'plain' has no labels"),
    ],
)
def test_why_nothing_is_promised(
    wide: Study, caplog: pytest.LogCaptureFixture, auto: Auto, on: str | None, reason: str
) -> None:
    caplog.set_level(logging.INFO, "subspect")
    made = decompose(wide, auto, on=on, refit=False)
    assert made.auto is not None and made.auto.promise is None and made.auto.no_promise == reason
    assert made.auto.met and f"promise: none, {reason}" in caplog.text


def test_images_without_labels_do_for_a_promise_of_fidelity(wide: Study) -> None:
    made = decompose(wide, Auto(0.3, promise="plain"), refit=False)
    assert made.auto is not None and promised(made).images == 400


def test_images_that_are_in_both_sets_are_left_out_of_the_promise(
    wide: Study, caplog: pytest.LogCaptureFixture
) -> None:
    made = decompose(wide, Auto(0.3, promise="mixed"), refit=False)
    assert made.auto is not None and promised(made).images == 300
    known = len(wide.image_set("mixed")) - 300
    assert f"{known} of the {known + 300} images of 'mixed' took part in a choice: nothing is promised" in caplog.text
    made = decompose(wide, Auto(0.3, promise="parts"), refit=False)
    assert made.auto is not None and made.auto.promise is None
    assert made.auto.no_promise == "since all images of 'parts' took part in a choice"


def test_an_image_set_to_promise_on_that_does_not_exist(wide: Study) -> None:
    with pytest.raises(SubspectError, match=r"no image set 'unsen' in .*did you mean 'unseen'.*it has: train, again, "):
        decompose(wide, Auto(0.3, promise="unsen"), refit=False)


def test_the_cost_is_measured_on_images_that_the_size_was_not_chosen_on(tmp_path: Path) -> None:
    sets = {"train": pictures(0, 300), "test": pictures(1, 200)}
    study = observed(tmp_path / "study", planted()[0], **sets)
    made = decompose(study, Auto(0.4), refit=False)
    flattering = "200 images of 'test'; the number of features was chosen on them, so the figures flatter a little"
    cost = evaluate(study, made)
    assert cost.where.sized and cost.where.held_out and cost.note == flattering and cost.to_json()["sized"]
    told = evaluate(study, decompose(study, 3))
    assert told.where.image_set == "test" and not told.where.sized and told.note == "200 images of 'test'"
    study = observed(tmp_path / "study", planted()[0], **sets, unseen=pictures(2, 100))
    fresh = evaluate(study, decompose(study, Auto(0.4, promise="unseen"), refit=False))
    assert (
        fresh.where.image_set == "test" and fresh.where.sized and fresh.note == flattering
    )  # 'unseen' had a say as well
    assert evaluate(study, subspect.load_decomposition(study), on="unseen").where.sized
    study = observed(tmp_path / "study", planted()[0], **sets, unseen=pictures(2, 100), copy=pictures(1, 200))
    assert evaluate(study, subspect.load_decomposition(study), on="copy").where.sized
    fresh = evaluate(study, decompose(study, Auto(0.4), refit=False))
    assert fresh.where.image_set == "unseen" and not fresh.where.sized and fresh.note == "100 images of 'unseen'"
    assert evaluate(study, decompose(study, 3)).where.image_set == "test"


def test_a_promise_on_train_does_not_move_the_choice(wide: Study) -> None:
    made = decompose(wide, Auto(0.3, promise="train"))
    assert made.auto is not None and "since a network loses less" in str(made.auto.no_promise)
    assert made.chosen_on[0] == "train"


def test_a_promise_on_the_only_image_set(tmp_path: Path) -> None:
    study = observed(tmp_path / "study", planted()[0], train=pictures(0, 400))
    made = decompose(study, Auto(0.4, promise="train"))
    assert made.auto is not None and made.auto.promise is None


# A mean number of features --------------------------------------------------------------------------------------------


def test_a_mean_number_of_features(wide: Study) -> None:
    made = decompose(wide, "mean:4:2:6")
    assert made.name == "pursuit-mean4-2-6" and made.k == {"k": 4, "least": 2, "most": 6}
    sizes = made.supports.sizes
    assert sizes.sum() == 4 * C and sizes.min() >= 2 and sizes.max() <= 6 and made.mean_size == 4
    weight, bias = (tensor.double().numpy() for tensor in wide.head())
    paths = helped(Boundary(Rows(wide.image_set("train")), weight, bias), 6)
    assert sizes.tolist() == allocate(paths, 4 * C, 2, 6).tolist()
    assert made.auto is None and made.curve[-1].k < D


def test_a_mean_need_not_be_whole(wide: Study) -> None:
    made = decompose(wide, Mean(2.5), refit=False)
    assert made.name == "pursuit-mean2.5-raw" and made.supports.sizes.sum() == 15 and made.mean_size == 2.5
    assert decompose(wide, Mean(3, 3, 3)).supports.sizes.tolist() == [3] * C


def test_a_mean_helps_more_than_the_same_number_for_all(tmp_path: Path) -> None:
    weight, strong = planted()
    for label, features in enumerate(strong):
        weight[label, features[1:]] = (0, 2, 0, 2, 2, 2)[label]
    study = observed(tmp_path / "study", weight, train=pictures(0, 800), test=pictures(1, 600))
    mean, same = decompose_each(study, [Mean(2), 2])
    assert mean.supports.sizes[[0, 2]].tolist() == [1, 1] and mean.supports.sizes[[1, 3, 4, 5]].max() == 3
    costs = [evaluate(study, one).overall.divergence.value for one in (mean, same)]
    assert costs[0] < costs[1]


def test_classes_without_images_have_no_part_in_the_mean(tmp_path: Path) -> None:
    weight, _ = planted()
    x = pictures(0, 500)
    labels = labels_of(x, weight) % 4
    network = subspect.Network(Wide(weight))
    subspect.observe(network, (x, labels), tmp_path / "study", "train", show_progress=False)
    study = subspect.observe(network, (x[:99] / 2, labels[:99]), tmp_path / "study", "test", show_progress=False)
    made = decompose(study, Mean(3))
    assert made.unseen == (4, 5) and made.supports.sizes[:4].sum() == 12 and made.mean_size == 3
    assert made.supports.sizes[4:].tolist() == [D, D]
    auto = decompose(study, Auto(0.6))
    assert auto.supports.sizes[4:].tolist() == [D, D] and auto.curve[0].k == 1


def test_a_mean_of_which_no_class_may_have_any(wide: Study) -> None:
    with pytest.raises(SubspectError, match="a mean of 3 features per class needs 1 ≤ least ≤ mean ≤ most"):
        decompose(wide, Mean(3, 1, 0))


def test_a_mean_beyond_the_usual_most(tmp_path: Path) -> None:
    study = observed(tmp_path / "study", planted(2, 70)[0], train=pictures(0, 300), test=pictures(1, 50))
    assert decompose(study, Mean(67), refit=False).mean_size == 67


# A pool ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, Mean(3, 1, 5), Auto(0.35)])
def test_all_classes_draw_from_one_pool(wide: Study, size: Budget) -> None:
    made, free = decompose(wide, size, pool=9), decompose(wide, size)
    assert made.name == f"{free.name}-pool9" and made.chosen.pool == 9
    used = set(made.supports.flat.tolist())
    assert len(used) <= 9 < len(set(free.supports.flat.tolist()))
    assert made.trust is not None and set(made.trust.substitutes.flatten().tolist()) <= used | {-1}
    if size == 3:
        assert made.supports.sizes.tolist() == [3] * C
        assert agreeing(made, wide, "test") < agreeing(free, wide, "test")


def test_a_mean_is_reached_within_a_pool(tmp_path: Path) -> None:
    weight = 0.02 * np.random.default_rng(0).standard_normal((4, 30))
    weight[0, :12] += 1
    weight[[1, 2, 3], [13, 14, 15]] += 2
    study = observed(tmp_path / "study", weight, train=pictures(0, 400), test=pictures(1, 50))
    assert decompose(study, Mean(3), refit=False).supports.sizes[0] > 4
    assert decompose(study, Mean(3), pool=4, refit=False).mean_size == 3


def test_a_pool_with_room_for_all_changes_nothing(wide: Study) -> None:
    made, free = decompose(wide, 3, pool=D), decompose(wide, 3)
    assert [sorted(one) for one in made.supports] == [sorted(one) for one in free.supports]
    assert torch.allclose(made.layer().dense_weight(), free.layer().dense_weight(), atol=1e-4)


def test_a_pool_where_classes_share_features(tmp_path: Path) -> None:
    weight = np.zeros((4, 12))
    for label in range(4):
        weight[label, [0, 1]] = [(2, 2), (2, -2), (-2, 2), (-2, -2)][label]
        weight[label, 4 + label] = 0.5
    study = observed(tmp_path / "study", weight, train=pictures(0, 500), test=pictures(1, 200))
    free, made = decompose(study, 2), decompose(study, 2, pool=2)
    assert set(free.supports.flat) == set(made.supports.flat) == {0, 1}


def test_a_pool_for_a_network_that_always_says_the_same(tmp_path: Path) -> None:
    model = Wide(np.zeros((3, 6)))
    images = pictures(0, 50), np.arange(50) % 3
    study = subspect.observe(subspect.Network(model), images, tmp_path / "study", show_progress=False)
    assert decompose(study, 2, pool=3).supports.sizes.tolist() == [0, 0, 0]


# Saved and loaded -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, Mean(2.5, 1, 4), Auto(0.25, promise="unseen")])
def test_what_was_settled_is_saved(wide: Study, size: Budget) -> None:
    made = decompose(wide, size, pool=12)
    loaded = subspect.load_decomposition(wide, made.name)
    assert loaded.curve == made.curve and loaded.k == made.k and loaded.supports == made.supports
    assert made.trust is not None and loaded.trust is not None
    for name, tensor in vars(made.trust).items():
        assert torch.equal(getattr(loaded.trust, name), tensor) and len(tensor) == (
            len(made.supports.flat) if name in ENTRIES else C
        )
    assert loaded.rows(2) == made.rows(2) and json.dumps(made.to_json()) == json.dumps(loaded.to_json())
    if isinstance(size, Auto):
        assert made.auto is not None and loaded.auto is not None and loaded.auto.promise == made.auto.promise
    else:
        assert loaded.auto is None


def test_how_a_size_was_settled_is_the_same_after_loading(wide: Study) -> None:
    made = decompose(wide, Auto(0.3))
    assert subspect.load_decomposition(wide, made.name).to_json() == made.to_json()


# The command line -----------------------------------------------------------------------------------------------------


def test_auto_on_the_command_line(wide: Study) -> None:
    [row] = parsed(f"decompose {wide.path} -k auto --tolerance 0.25 --promise-on unseen")
    made = decompose(wide, Auto(0.25, promise="unseen"))
    assert row["decomposition"] == json.loads(json.dumps(made.to_json()))
    assert row["decomposition"]["history"][1]["promise"]["images"] == 1000
    result = command(f"decompose {wide.path} -k auto -k 2 --tolerance 0.25 --promise-on unseen")
    assert "pursuit-auto0.25" in result.stdout and "pursuit-k2" in result.stdout
    assert made.auto is not None and f"promise: {promised(made).text}" in result.stderr
    assert "promise: at least" in " ".join(result.stdout.split())
    [row] = parsed(f"decompose {wide.path} -k auto --tolerance 0.02 --measure accuracy --most 2")
    assert row["decomposition"]["name"] == "pursuit-auto0.02-accuracy-most2"
    assert {len(one["features"]) for one in row["decomposition"]["classes"]} == {2}
    assert row["decomposition"]["history"][1]["no_promise"].startswith("since no images were named")
    [row] = parsed(f"decompose {wide.path} -k auto")
    assert row["decomposition"]["history"][1]["tolerance"] == 0.05


@pytest.mark.parametrize(
    ("options", "name", "history"),
    [
        ("-k mean:4:2:6", "pursuit-mean4-2-6", {"k": {"k": 4, "least": 2, "most": 6}}),
        ("-k mean:2.5", "pursuit-mean2.5", {"k": {"k": 2.5, "least": 1, "most": None}}),
        ("-k 3 --pool 9", "pursuit-k3-pool9", {"pool": 9}),
        ("-k 3 --target labels", "pursuit-k3-labels", {"target": "labels"}),
        ("-k 3 --no-refit", "pursuit-k3-raw", {"method": "pursuit"}),
        ("-k 3 --refit", "pursuit-k3", {"method": "pursuit"}),
        ("-k 3 --method contribution --refit", "contribution-k3-refit", {"method": "contribution"}),
        ("-k 3 --method contribution --no-refit", "contribution-k3", {"method": "contribution"}),
        ("-k mean:3 --pool 9 --target labels --no-refit", "pursuit-mean3-pool9-labels-raw", {"pool": 9}),
        ("-k 3 --on test", "pursuit-k3-on-test", {"set": "test"}),
    ],
)
def test_ways_to_choose_on_the_command_line(wide: Study, options: str, name: str, history: dict[str, Any]) -> None:
    [row] = parsed(f"decompose {wide.path} {options}")
    found = row["decomposition"]
    assert found["name"] == name and found["history"][0].items() >= history.items()
    refitted = any("refit" in step for step in found["history"])
    assert refitted == (name != "contribution-k3" and not name.endswith("-raw"))
    if "pool" in name:
        assert len({row["feature"] for one in found["classes"] for row in one["features"]}) <= 9


@pytest.mark.parametrize(
    "k", ["mean", "mean:", "mean:4:2", "mean:4:2:6:8", "mean:a", "mean:4:1.5:6", "auto:0.1", "five", "Auto", "5x", "''"]
)
def test_forms_of_k_that_cannot_be_read(wide: Study, k: str) -> None:
    assert "-k must be a whole number, auto, mean:5, mean:5:LEAST:MOST, or a share of the mass" in said(
        f"decompose {wide.path} -k {k}", 2
    )


def test_a_mistyped_word_for_k(wide: Study) -> None:
    assert "got 'aut' (did you mean 'auto'?)" in said(f"decompose {wide.path} -k aut", 2)


@pytest.mark.parametrize(
    "options", ["--measure loss", "--target logits", "--most 0", "--pool 0", "--tolerance much", "--refit maybe"]
)
def test_wrong_usage(wide: Study, options: str) -> None:
    command(f"decompose {wide.path} -k auto {options}", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("-k 5 --promise-on unseen", "error: --promise-on goes with -k auto"),
        ("-k 5 --most 9 --tolerance 0.1", "error: --tolerance, --most go with -k auto"),
        ("-k 5 --supports indices.json", "error: -k goes with a method, not with --supports"),
        ("-k auto --promise-on nobody", "error: no image set 'nobody' in"),
        ("-k auto --tolerance 1", "error: the tolerance is a share between 0 and 1, such as 0.01; got 1"),
        (
            "-k auto --method frequency",
            "error: k = 'auto' goes with method 'pursuit'; got 'frequency'",
        ),
        ("-k mean:4 --method contribution", "error: a mean k goes with method 'pursuit'"),
        (
            "--method contribution --stable",
            "error: a stable choice (--stable) goes with method 'pursuit'; got 'contribution'",
        ),
        (
            "-k 5 --draws 3",
            "error: draws are halves of the images, in pairs: an even number from 4 to 1,000, or 0 for none; got 3",
        ),
        (
            "--method frequency --draws 20",
            "error: halves of the images on which the choice is repeated (--draws) go with method 'pursuit'; got 20 and",
        ),
        ("--supports indices.json --stable", "error: --stable goes with a method, not with --supports"),
        ("-k 5 --pool 4", "error: a class cannot have 5 features from a pool of 4"),
        ("-k 5 --pool 41", "error: a pool must have from 1 to 40 features; got 41"),
        (
            "-k mean:4:5:6",
            "error: a mean of 4 features per class needs 1 ≤ least ≤ mean ≤ most ≤ 40; got least 5 and most 6",
        ),
        ("-k mean:inf", "error: a mean of inf features per class needs"),
        ("-k nan", "error: k = nan must be a whole number from 1 to 40, the number of features"),
        ("-k -3", "error: k = -3.0 must be a whole number"),
    ],
)
def test_sizes_that_cannot_be_had(wide: Study, options: str, message: str) -> None:
    assert message in said(f"decompose {wide.path} {options}", 1)


def test_the_figure_and_the_curve_are_shown(wide: Study, tmp_path: Path) -> None:
    made = decompose(wide, 3)
    line = f"show {wide.path} --decomposition {made.name}"
    result = command(f"{line} --figure {tmp_path / 'curve.svg'}")
    assert (tmp_path / "curve.svg").read_text(encoding="utf-8").startswith("<svg")
    assert "pursuit-k3: what few features cost" in result.stdout
    assert parsed(line)["curve"] == [asdict(point) for point in made.curve]
    shown = parsed(f"{line} --class 2 --figure {tmp_path / 'other.svg'}")
    assert (tmp_path / "other.svg").exists() and shown["classes"] == [json.loads(json.dumps(made.class_json(2)))]
    assert "stability" in command(f"{line} --class 2").stdout
    assert "its suffix must be one of .png, .svg, .pdf" in said(f"{line} --figure {tmp_path}/curve.jpg", 1)
    other = decompose(wide, 3, method="contribution")
    without = f"show {wide.path} --decomposition {other.name}"
    assert "'contribution-k3' has no curve of cost against k" in said(f"{without} --figure {tmp_path}/no.svg", 1)
    assert parsed(without)["curve"] == [] and "what few features cost" not in command(without).stdout


def test_a_study_without_decompositions(tmp_path: Path) -> None:
    study = observed(tmp_path / "study", planted(3, 6)[0], train=pictures(0, 30))
    assert "none yet" in command(f"show {study.path}").stdout
    shown = parsed(f"show {study.path}")
    assert shown["decompositions"] == shown["curve"] == []
    for option in (f"--figure {tmp_path}/curve.svg", "--class 0", "--decomposition pursuit-k2"):
        assert "has no decomposition; make one: subspect decompose" in said(f"show {study.path} {option}", 1)
    assert not (tmp_path / "curve.svg").exists()
