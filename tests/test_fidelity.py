"""Fidelity against an obvious re-implementation, SciPy's intervals, and which images are used."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.special import log_softmax
from scipy.stats import binomtest, norm
from typer.testing import CliRunner

import subspect
from conftest import Tiny
from subspect import Study, SubspectError, decompose, evaluate
from subspect.cli import app
from subspect.measuring.fidelity import Cost, Estimate, _Tally, nats, percent, wilson
from subspect.measuring.heads_say import Said
from subspect.studies.shards import Chunk


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts: tuple[int, int]) -> None:
    successes, n = counts
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    found = wilson(successes, n)
    assert found.value == successes / n
    assert found.low == pytest.approx(expected.low, abs=1e-12) and found.high == pytest.approx(expected.high, abs=1e-12)


@pytest.fixture
def wide(tmp_path: Path) -> tuple[Study, Tiny]:
    """Eight classes, so that there is a top 5; the last class has no images."""
    model = Tiny(n_classes=8, width=12)
    generator = np.random.default_rng(0)
    for name, n in (("train", 300), ("test", 200)):
        images = torch.from_numpy(generator.random((n, 3, 6, 6), dtype=np.float32))
        study = subspect.observe(
            subspect.Network(model), (images, generator.integers(0, 7, n)), tmp_path / "study", name
        )
    return study, model


def test_every_figure_the_obvious_way(wide: tuple[Study, Tiny]) -> None:
    study, _ = wide
    decomposition = decompose(study, 3, method="contribution")
    fidelity = evaluate(study, decomposition)
    weight, bias = (tensor.numpy().astype(np.float64) for tensor in study.head())
    sparse = np.zeros_like(weight)
    for label in range(8):
        sparse[label, decomposition.supports[label]] = weight[label, decomposition.supports[label]]
    chunk = next(study.image_set("test").chunks())
    x, labels = chunk.features.astype(np.float64), chunk.labels
    dense, small = x @ weight.T + bias, x @ sparse.T + bias
    p, q = log_softmax(dense, axis=1), log_softmax(small, axis=1)
    divergence = (np.exp(p) * (p - q)).sum(axis=1)
    costs: list[tuple[int | None, Cost | None]] = [(None, fidelity.overall)]
    costs += [(own, fidelity.classes[f"class {own}"]) for own in range(7)]
    for of, cost in costs:
        assert cost is not None
        rows = labels >= 0 if of is None else labels == of
        n = int(rows.sum())
        expected = {
            "dense_accuracy": dense.argmax(axis=1) == labels,
            "accuracy": small.argmax(axis=1) == labels,
            "dense_top5": [y in np.argsort(-row)[:5] for row, y in zip(dense, labels, strict=True)],
            "top5": [y in np.argsort(-row)[:5] for row, y in zip(small, labels, strict=True)],
            "fidelity": dense.argmax(axis=1) == small.argmax(axis=1),
        }
        assert cost.images == n
        for name, hits in expected.items():
            assert getattr(cost, name) == wilson(int(np.asarray(hits)[rows].sum()), n), name
        mean, spread = divergence[rows].mean(), norm.ppf(0.975) * divergence[rows].std() / np.sqrt(n)
        assert cost.divergence.value == pytest.approx(mean, rel=1e-4)
        assert cost.divergence.high == pytest.approx(mean + spread, rel=1e-4)
        assert cost.divergence.low == pytest.approx(max(mean - spread, 0), rel=1e-3, abs=1e-9)
    assert fidelity.classes["class 7"] is None
    assert fidelity.note == "200 images of 'test', among all 8 classes (images of 7)"


def test_among_the_classes_given_the_obvious_way(tmp_path: Path) -> None:
    generator, few = np.random.default_rng(1), np.array([0, 2, 3, 4, 5, 6])
    head = generator.standard_normal((8, 12)), generator.standard_normal(8)
    for name, own in (("train", np.arange(8)), ("few", few), ("three", few[:3])):
        x, labels = generator.standard_normal((90, 12)).astype(np.float32), own[np.arange(90) % len(own)]
        study = subspect.from_features(x, *head, tmp_path / "study", name, labels=labels)
    made = decompose(study, 3)
    weight, bias = (tensor.numpy().astype(np.float64) for tensor in study.head())
    small = [tensor.astype(np.float64) for tensor in made.matrix()]
    for name, own in (("few", few), ("three", few[:3])):
        found, every = (evaluate(study, made, on=name, among_given=among) for among in (True, False))
        chunk = next(study.image_set(name).chunks())
        x, places = chunk.features.astype(np.float64), np.searchsorted(own, chunk.labels)
        dense, decomposed = (x @ w[own].T + b[own] for w, b in ((weight, bias), small))
        p, q = log_softmax(dense, axis=1), log_softmax(decomposed, axis=1)
        cost = found.overall
        assert cost.divergence.value == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean(), rel=1e-4)
        assert cost.dense_accuracy == wilson(int((dense.argmax(axis=1) == places).sum()), 90)
        assert cost.accuracy == wilson(int((decomposed.argmax(axis=1) == places).sum()), 90)
        assert cost.fidelity == wilson(int((decomposed.argmax(axis=1) == dense.argmax(axis=1)).sum()), 90)
        if len(own) > 5:
            hits = [y in np.argsort(-row)[:5] for row, y in zip(decomposed, places, strict=True)]
            assert cost.top5 == wilson(sum(hits), 90)
        assert (cost.top5 is None) == (len(own) <= 5) and every.overall.top5 is not None
        assert every.overall.dense_accuracy == wilson(int((chunk.labels == chunk.predictions).sum()), 90)
        assert cost.dense_accuracy.value > every.overall.dense_accuracy.value > 0  # by chance alone
        assert 0.2 < cost.fidelity.value < 1 and cost.divergence.value > 0.01
        assert found.note == f"90 examples of '{name}', among the {len(own)} classes given"
        assert every.note.startswith(
            f"90 examples of '{name}', among all 8 classes (examples of {len(own)}); no examples of {8 - len(own)} of the 8 "
            "classes that 'train' has: class"
        )
        json = [(one["among"], one["among_classes"], one["given"]) for one in (found.to_json(), every.to_json())]
        assert json == [("given", len(own), len(own)), ("all", 8, len(own))]
        for one in (found, every):
            console = Console(width=100, record=True, file=io.StringIO())
            console.print(*one.tables())
            assert one.where.among_in_words in console.export_text().partition("dense")[0]
    same = made.evaluate(on="few", among_given=True).overall
    assert same == evaluate(study, made, on="few", among_given=True).overall


def test_among_all_where_every_class_has_images(study: Study) -> None:
    made = decompose(study, 2)
    every, given = (evaluate(study, made, among_given=among) for among in (False, True))
    assert every.overall == given.overall and "among" not in every.note
    assert given.note.endswith(", among the 3 classes given") and every.where.among_in_words == "among all 3 classes"


def test_classes_given_are_those_of_the_whole_set(tiny: Tiny, tmp_path: Path) -> None:
    """Not those alone of the part that is held out."""
    labels = np.arange(40) % 2
    labels[0] = 2
    study = subspect.observe(subspect.Network(tiny), (torch.rand(40, 3, 8, 8), labels), tmp_path / "study")
    found = evaluate(study, decompose(study, 2))
    assert found.where.given == 3 and found.classes["class 2"] is None


def test_without_labels_no_class_is_given(tiny: Tiny, tmp_path: Path) -> None:
    study = subspect.observe(subspect.Network(tiny), torch.rand(60, 3, 8, 8), tmp_path / "study")
    made = decompose(study, 2)
    assert evaluate(study, made).where.given == 3
    with pytest.raises(
        SubspectError,
        match=r"^'train' has no labels, so nothing tells which classes are given; leave out among_given \(--among-given\)$",
    ):
        evaluate(study, made, among_given=True)


def test_five_classes_or_fewer_have_no_top_5(study: Study) -> None:
    overall = evaluate(study, decompose(study, 2)).overall
    assert overall.top5 is None and overall.dense_top5 is None


def test_a_single_set_is_split(tiny: Tiny, tmp_path: Path) -> None:
    images = torch.rand(100, 3, 8, 8)
    study = subspect.observe(subspect.Network(tiny), (images, np.arange(100) % 3), tmp_path / "study")
    decomposition = decompose(study, 2)
    fidelity = evaluate(study, decomposition)
    ids = [id for chunk in study.image_set("train").chunks("held out 20 %") for id in chunk.ids]
    assert fidelity.overall.images == len(ids) and fidelity.where.held_out
    assert fidelity.note == f"{len(ids)} images of 'train', the 20 % of it held out by a hash of the image's id"
    subspect.observe(subspect.Network(tiny), torch.rand(30, 3, 8, 8), tmp_path / "study", "val")
    assert evaluate(study, decomposition).where.image_set == "val"
    assert evaluate(study, decomposition, on="train").where.part == "held out 20 %"


def test_images_that_took_part_are_said_to_flatter(study: Study) -> None:
    fidelity = evaluate(study, decompose(study, 2), on="train")
    assert (
        not fidelity.where.held_out
        and "took part in choosing features or weights, so the figures flatter" in fidelity.note
    )


def test_the_same_images_under_another_name_are_not_held_out(tiny: Tiny, tmp_path: Path) -> None:
    images = torch.rand(30, 3, 8, 8)
    for name in ("train", "test"):
        study = subspect.observe(subspect.Network(tiny), images, tmp_path / "study", name)
    assert not evaluate(study, decompose(study, 2, method="contribution")).where.held_out


def test_nothing_to_evaluate_on(tiny: Tiny, tmp_path: Path) -> None:
    study = subspect.observe(subspect.Network(tiny), torch.rand(1, 3, 8, 8), tmp_path / "study")
    with pytest.raises(
        SubspectError, match="no images to evaluate on: there are none of 'train', the 20 % of it held out"
    ):
        evaluate(study, decompose(study, 2, method="contribution"))


def test_another_networks_decomposition(study: Study) -> None:
    other = replace(decompose(study, 2), fingerprint="f" * 64)
    with pytest.raises(SubspectError, match="decomposition 'pursuit-k2' is of another network"):
        evaluate(study, other)


def test_frame_json_and_table(wide: tuple[Study, Tiny]) -> None:
    fidelity = evaluate(wide[0], decompose(wide[0], 3))
    frame = fidelity.to_frame()
    assert frame["class"].isna()[0] and list(frame["class"][1:]) == list(fidelity.classes)
    assert frame["accuracy"][0] == fidelity.overall.accuracy.value
    assert frame["fidelity_low"][0] == fidelity.overall.fidelity.low
    assert frame["images"][8] == 0 and frame["accuracy"].isna()[8]
    assert fidelity.to_json()["overall"]["fidelity"]["value"] == fidelity.overall.fidelity.value
    console = Console(width=100, record=True, file=io.StringIO())
    for table in (fidelity.tables()[0], fidelity.class_tables()[0]):
        console.print(table)
    text = console.export_text()
    assert (
        f"{100 * fidelity.overall.fidelity.value:.2f} %" in text
        and "1 without images" in text
        and "class 7" not in text
        and "200 images of 'test', among all 8 classes (images of 7)" in text
    )


def test_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    network = subspect.Network(Tiny(), class_names=["crane", "crane", "dog"])
    study = subspect.observe(network, (torch.rand(40, 3, 8, 8), np.arange(40) % 3), tmp_path / "study")
    assert list(evaluate(study, decompose(study, 2)).classes) == ["crane (0)", "crane (1)", "dog"]


def test_of_none_and_of_all_an_end_of_the_interval_is_exact() -> None:
    """Rounding would leave it a hair beside 0 or 1, or beyond."""
    assert all(wilson(0, n).low == 0 and wilson(n, n).high == 1 for n in range(1, 2000))
    assert all(0 < wilson(0, n).high < 1 and 0 < wilson(n, n).low < 1 for n in range(1, 2000))


def tallied(dense: npt.NDArray[np.float32], decomposed: npt.NDArray[np.float32]) -> Cost:
    """Return the cost on some images, all of class 0."""
    n = len(dense)
    labels = np.zeros(n, np.int64)
    chunk = Chunk(np.zeros((n, 2), np.float32), labels, dense.argmax(axis=1), [str(row) for row in range(n)])
    tally = _Tally(dense.shape[1], dense.shape[1])
    tally.update(Said(chunk, dense, decomposed))
    return tally.cost(slice(None))


def test_a_divergence_is_not_below_0() -> None:
    generator = np.random.default_rng(0)
    dense = generator.standard_normal((300, 3)).astype(np.float32)
    moved = dense + generator.integers(1, 9, (300, 1)).astype(np.float32)  # the same probabilities, but for rounding
    for row in range(300):
        one = tallied(dense[row : row + 1], moved[row : row + 1]).divergence
        assert 0 <= one.low <= one.value <= one.high < 1e-6


def test_the_interval_of_a_divergence_ends_at_0() -> None:
    dense = np.zeros((20, 3), np.float32)
    decomposed = dense.copy()
    decomposed[0, 0] = 9  # one image of twenty has all of the divergence
    found = tallied(dense, decomposed).divergence
    assert found.low == 0 < found.value < found.high and found.high - found.value > found.value


@pytest.mark.parametrize(("classes", "some"), [(5, False), (6, True)])
def test_a_top_5_from_six_classes_on(classes: int, some: bool) -> None:
    generator = np.random.default_rng(0)
    dense, decomposed = (generator.standard_normal((40, classes)).astype(np.float32) for _ in "ab")
    found = tallied(dense, decomposed)
    assert (found.top5 is not None, found.dense_top5 is not None) == (some, some)
    if found.top5 is not None:  # all but those whose class 0 comes last
        assert found.top5.value == (decomposed.argmin(axis=1) != 0).mean()


def test_shares_are_shown_in_percent_their_ends_with_a_digit_less() -> None:
    one = Estimate(0.87654, 0.8012, 0.90456)
    assert percent(one) == "87.65 % (80.1–90.5)"
    assert percent(one, 0) == "88 % (80–90)" and percent(one, 1) == "87.7 % (80–90)" and percent(None) == ""


def test_the_figure_shows_each_class_the_worst_first(study: Study, tmp_path: Path) -> None:
    made = decompose(study, 1, method="contribution")
    cost = evaluate(study, made)
    (axes,) = cost.plot().axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert sorted(names) == ["a", "b", "c"]
    *_, dense, few = (np.asarray(line.get_xdata(), float) for line in axes.get_lines())
    classes = {name: one for name, one in cost.classes.items() if one is not None}
    assert np.allclose(dense, [100 * classes[name].dense_accuracy.value for name in names])
    assert np.allclose(few, [100 * classes[name].accuracy.value for name in names])
    assert (np.diff(few - dense) >= 0).all()
    line = ["evaluate", str(study.path), "--figure", str(tmp_path / "x.png")]
    assert CliRunner().invoke(app, line).exit_code == 0 and (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (5e-5, "0.00005"),
        (5.678e-5, "0.000057"),
        (0.00999, "0.01"),
        (0.0046, "0.0046"),
        (0.0123, "0.012"),
        (1.2345, "1.234"),
        (3.21e-9, "3.2e-09"),
        (float("inf"), "inf"),
    ],
)
def test_a_small_divergence_has_two_digits(value: float, text: str) -> None:
    assert nats(value) == text
