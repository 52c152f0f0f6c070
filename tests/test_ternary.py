"""Readable weights: the choice against all there are, the gradient against differences, the scales wherever they are shown."""

from __future__ import annotations

import json
from itertools import combinations, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.optimize import check_grad
from scipy.special import log_softmax, softmax, xlogy

from commands import parsed, said
from conftest import cut
from planted import Wide, observed, pictures
from subspect import (
    Decomposition,
    Network,
    Study,
    SubspectError,
    decompose,
    decompose_each,
    edit,
    evaluate,
    explain,
    observe,
    write_report,
)
from subspect.choosing.boundary import Affine, Boundary, Choice
from subspect.choosing.options import TARGETS, Target
from subspect.choosing.refit import TOLERANCE, reselect
from subspect.choosing.ternary import TERNARY, Scales, anew, climb, learn, pair, readable
from subspect.giving.card import _classes, _history, written
from subspect.ground.seals import read_tensors, tensor_bytes
from subspect.heads.shown import class_table, features
from subspect.studies.decompositions import load_decomposition

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]
seeds = st.integers(0, 2**32 - 1)
fast = settings(deadline=None, derandomize=True, max_examples=60)

C, D = 4, 8


def coarse(values: Array) -> Array:
    """Round to sixteenths, so that sums are exact, in whatever order."""
    return np.asarray(np.round(values * 16) / 16)


def make(seed: int, images: int = 200) -> tuple[Features, Ints, Affine]:
    generator = np.random.default_rng(seed)
    x = np.abs(coarse(generator.standard_normal((images, D)) * generator.uniform(0.5, 2, D)))
    head = coarse(generator.standard_normal((C, D))), coarse(generator.standard_normal(C) / 4)
    labels = np.where(generator.random(images) < 0.7, (x @ head[0].T + head[1]).argmax(axis=1), np.arange(images) % C)
    return x.astype(np.float32), labels, head


def planted(seed: int, images: int = 3000, c: int = 10, d: int = 20) -> tuple[Features, Ints, Affine, Array]:
    """A dense head that is one of readable weights, with three features for each class; and its signs."""
    generator = np.random.default_rng(seed)
    signs = np.zeros((c, d))
    for row in signs:
        row[generator.permutation(d)[:3]] = generator.choice([-1, 1], 3)
    scale = generator.uniform(0.5, 2, c)[:, None] / generator.uniform(0.5, 2, d)
    x = generator.standard_normal((images, d)).astype(np.float32)
    return x, np.arange(images) % c, (scale * signs, generator.standard_normal(c) / 4), signs


def begun(boundary: Boundary, k: int) -> Choice:
    [choice] = boundary.choose(np.full((1, len(boundary.images)), k))
    return readable(boundary, choice)


def loss(x: Features, labels: Ints, dense: Affine, target: Target, head: Affine) -> float:
    z = x.astype(np.float64) @ dense[0].T + dense[1]
    p = np.eye(len(dense[1]))[labels] if target == "labels" else softmax(z, axis=1)
    q = log_softmax(x.astype(np.float64) @ head[0].T + head[1], axis=1)
    return float((xlogy(p, p) - p * q).sum(axis=1).mean())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("missing", [(), (1, 3)])
def test_loss_and_gradient_at_any_point(target: Target, missing: tuple[int, ...]) -> None:
    x, labels, dense = make(0)
    keep = ~np.isin(labels, missing)
    x, labels = x[keep], labels[keep]
    boundary = Boundary(cut(x, labels, [33]), *dense, target)
    choice = begun(boundary, 3)
    problem = Scales(boundary, choice)
    generator = np.random.default_rng(1)
    for size in (0.0, 0.05, 0.2):
        vector = size * generator.standard_normal(len(problem.begin))
        (classes, features), bias = problem.scales(vector)
        signs = np.sign(choice.affine[0])
        weight = classes[:, None] * signs / np.where(features > 0, features, 1)
        for label in missing:
            weight[label], bias[label] = dense[0][label], dense[1][label]
        ridge = problem.ridge / 2 * float(vector @ vector)
        assert problem(vector)[0] == pytest.approx(loss(x, labels, dense, target, (weight, bias)) + ridge, abs=1e-7)
        gradient = problem(vector)[1]
        assert check_grad(lambda v: problem(v)[0], lambda v: problem(v)[1], vector) < 1e-4 * (
            1 + np.abs(gradient).max()
        )


@fast
@given(seeds, st.integers(1, 5), st.integers(1, 2))
def test_the_best_signs_of_one_or_two_features_are_found(seed: int, m: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.standard_normal((9, m)) @ generator.standard_normal((m, m)), generator.standard_normal(9)
    gram, moments = x.T @ x, x.T @ y
    best = 0.0
    for size in range(1, min(k, m) + 1):
        for support in combinations(range(m), size):
            for turned in product((-1.0, 1.0), repeat=size):
                signs = np.zeros(m)
                signs[list(support)] = turned
                top = float(moments @ signs)
                best = max(best, top * top / float(signs @ gram @ signs) if top > 0 else 0.0)
    starts = [np.zeros(m), *([pair(gram, moments)] if min(k, m) > 1 else [])]
    found, lower = max((climb(gram, moments, k, start) for start in starts), key=lambda one: one[1])
    assert lower == pytest.approx(best, rel=1e-6)
    assert np.abs(found).sum() <= k and set(np.unique(found)) <= {-1.0, 0.0, 1.0}
    assert lower == pytest.approx(float(moments @ found) ** 2 / float(found @ gram @ found))


@fast
@given(seeds, st.integers(1, 6), st.integers(2, 9))
def test_no_exchange_and_no_turned_sign_is_better(seed: int, k: int, m: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.standard_normal((12, m)) @ generator.standard_normal((m, m)), generator.standard_normal(12)
    gram, moments, bonus = x.T @ x, x.T @ y, generator.uniform(0, 0.2, m) * (seed % 2)

    def value(signs: Array) -> float:
        top, bottom = float(moments @ signs), float(signs @ gram @ signs)
        return (top * top / bottom if top > 0 and bottom > 1e-6 else 0.0) + float(np.abs(signs) @ bonus)

    found, lower = climb(gram, moments, k, np.zeros(m), bonus)
    assert lower == pytest.approx(value(found))
    for out in np.flatnonzero(found):
        for new in np.flatnonzero((found == 0) | (np.arange(m) == out)):
            for turned in (-1.0, 1.0):
                other = found.copy()
                other[out] = 0
                other[new] = turned
                assert value(other) <= lower * (1 + 1e-6)


def test_features_that_cancel_and_those_without_variance_are_left_out() -> None:
    gram = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found, lower = climb(gram, np.array([1.0, 1.0 - 1e-12, 0.0]), 3, np.zeros(3))
    assert lower == pytest.approx(1) and found[2] == 0 and (found >= 0).all()
    assert not climb(gram, np.zeros(3), 2, np.zeros(3))[0].any()
    assert not climb(gram, np.ones(3), 0, np.zeros(3))[0].any()


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_head_is_found_again(seed: int) -> None:
    x, labels, dense, signs = planted(seed)
    boundary = Boundary(cut(x, labels), *dense)
    [free] = boundary.choose(np.full((1, len(signs)), 3))
    free = reselect(boundary, free)
    found = reselect(boundary, readable(boundary, free), kind=TERNARY)
    assert np.array_equal(np.sign(found.affine[0]), signs)
    assert found.refit is not None and found.refit.converged and found.refit.loss < 1e-6
    assert found.scales is not None
    classes, features = found.scales
    assert np.allclose(found.affine[0] * np.where(features > 0, features, 1) / classes[:, None], signs)
    assert np.log(classes).mean() == pytest.approx(0, abs=1e-6)


def test_a_turned_sign_and_a_wrong_feature_are_mended() -> None:
    x, labels, dense, signs = planted(0)
    boundary = Boundary(cut(x, labels), *dense)
    right = learn(boundary, readable(boundary, Choice([np.flatnonzero(row) for row in signs], dense)), TOLERANCE)
    assert right.scales is not None
    weight = right.affine[0].copy()
    one, other = np.flatnonzero(signs[0])[0], np.flatnonzero(signs[0] == 0)[0]
    weight[0, [one, other]] = weight[0, [other, one]]
    turned = np.flatnonzero(signs[1])[0]
    weight[1, turned] *= -1
    scales = right.scales[0], np.where((weight != 0).any(axis=0), np.where(right.scales[1] > 0, right.scales[1], 1), 0)
    broken = Choice([np.flatnonzero(row) for row in weight], (weight, right.affine[1]), scales=scales)
    mended = anew(boundary, learn(boundary, broken, 1e-4), np.full(len(signs), 3))
    assert np.array_equal(np.sign(mended.affine[0][:2]), signs[:2])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("stable", [False, True])
def test_the_order_of_images_and_the_cut_into_blocks_change_nothing(target: Target, stable: bool) -> None:
    x, labels, dense = make(3)
    order = np.random.default_rng(0).permutation(len(x))
    found = []
    for blocks, memory in (
        (cut(x, labels), 2**30),
        (cut(x[order], labels[order], [7, 90]), 2**30),
        (cut(x, labels, [50]), 0),
    ):
        boundary = Boundary(blocks, *dense, target, stable=stable, memory=max(memory, 1))
        found.append(reselect(boundary, begun(boundary, 3), kind=TERNARY))
    for other in found[1:]:
        assert np.array_equal(np.sign(found[0].affine[0]), np.sign(other.affine[0]))
        assert np.allclose(found[0].affine[0], other.affine[0], atol=1e-3)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    weight = planted(1, c=C, d=D)[2][0]
    return observed(tmp_path_factory.mktemp("ternary") / "study", weight, train=pictures(0, 400), test=pictures(1, 200))


def ternary(study: Study, k: int = 3, **more: int | bool) -> Decomposition:
    return decompose(study, k, ternary=True, show_progress=False, **{"draws": 4, **more})  # type: ignore[arg-type]


def test_weights_have_exactly_that_form_stored_and_loaded(study: Study) -> None:
    made = ternary(study)
    assert made.name == "pursuit-k3-ternary" and made.chosen.weights == "ternary" and made.trust is not None
    for one in (
        made,
        load_decomposition(study, made.name),
        Decomposition.load(study.path / f"decompositions/{made.name}.safetensors"),
    ):
        assert one.ternary is not None
        a, s = one.ternary.class_scales.double().numpy(), one.ternary.feature_scales.double().numpy()
        rows, columns, weights = one.supports.rows, one.supports.flat, one.weights.numpy()
        assert (a > 0).all() and (s[columns] > 0).all()
        assert np.array_equal(np.abs(weights), (a[rows] / s[columns]).astype(np.float32))
        assert np.allclose(np.abs(weights * s[columns] / a[rows]), 1)
    cost = evaluate(study, made).overall
    assert cost.fidelity.value > 0.97
    plain = decompose(study, 3, draws=0, show_progress=False)
    assert plain.ternary is None and plain.chosen.weights is None and "weights" not in plain.to_json()["history"][0]


def test_with_pool_auto_and_mean(study: Study) -> None:
    pooled, auto, mean = (
        decompose_each(study, [k], ternary=True, pool=pool, draws=0, keep_files=False, show_progress=False)[0]
        for k, pool in ((3, 5), ("auto", None), ("mean:2", None))
    )
    assert pooled.name == "pursuit-k3-pool5-ternary" and len(np.unique(pooled.supports.flat)) <= 5
    assert all(one.ternary is not None for one in (pooled, auto, mean))
    whole = ternary(study, D, draws=0)
    assert whole.ternary is not None  # and not the dense head


def test_signs_are_shown(study: Study, tmp_path: Path) -> None:
    made = ternary(study)
    assert made.ternary is not None
    rows = made.rows(0)
    signs = ["+" if row.weight > 0 else "−" for row in rows]
    written = ", ".join(f"{sign}{row.feature}" for sign, row in zip(signs, rows, strict=True))
    [one] = parsed(f"show {study.path} --class 0 --decomposition {made.name}")["classes"]
    assert [row["sign"] for row in one["features"]] == [1 if sign == "+" else -1 for sign in signs]
    assert [row["scale"] for row in one["features"]] == [
        made.ternary.feature_scales[row.feature].item() for row in rows
    ]
    assert one["scale"] == made.ternary.class_scales[0].item()
    formula = made.ternary.formula(0, rows, made.bias[0].item())
    assert one["formula"] == formula and made.ternary.formula(0, [], -2.5) == "logit = −2.5"
    assert [row.sign for row in rows] == [row["sign"] for row in one["features"]]
    assert formula.startswith("logit = ") and formula.count("/") == 3 and f"x{rows[0].feature} / " in formula
    assert list(made.to_frame()["sign"][:3]) == [1 if sign == "+" else -1 for sign in signs]
    page = write_report(study, made, fidelity=evaluate(study, made)).read_text()
    assert formula in page and ">sign</th>" in page and ">weight</th>" not in page
    console = Console(record=True, width=200)
    console.print(class_table(made), features(made, 0))
    text = console.export_text()
    assert written in text and formula in text and "scale" in text
    assert "these, and sets that explain as much, are of free weights" in " ".join(text.split())


def test_the_formula_is_the_logit(study: Study) -> None:
    made = ternary(study)
    assert made.ternary is not None
    x = torch.rand(D)
    for label in range(C):
        said = made.ternary.formula(label, made.rows(label), made.bias[label].item())
        values = {f"x{feature}": float(x[feature]) for feature in range(D)}
        counted = eval(said.removeprefix("logit = ").replace("·", "*").replace("−", "-"), {}, values)
        assert counted == pytest.approx(made.layer()(x[None])[0, label].item(), abs=0.05)


def test_an_explanation_shows_values_over_scales(study: Study) -> None:
    made = ternary(study)
    assert made.ternary is not None
    weight = planted(1, c=C, d=D)[2][0]
    one = explain(study, made, network=Network(Wide(weight)), image=pictures(1, 1)[0])
    for term in one.terms:
        scale = made.ternary.feature_scales[term.feature].item()
        assert one.scales[term.feature] == scale
        assert term.value / scale * scale * (term.weights[0] - term.weights[1]) == pytest.approx(term.contribution)
    assert [term["scale"] for term in one.to_json()["terms"]] == [one.scales[term.feature] for term in one.terms]
    assert "scales" not in one.to_json()
    console = Console(record=True, width=200)
    console.print(*one.tables())
    text = console.export_text()
    a = made.ternary.class_scales[made.label(one.predicted)].item()
    assert "value / scale" in text and (f"+{a:.3g}" in text or f"-{a:.3g}" in text)
    free = explain(study, decompose(study, 3, draws=0), network=Network(Wide(weight)), image=pictures(1, 1)[0])
    assert not free.scales and "scale" not in free.to_json()["terms"][0]


def test_the_model_card_says_it(study: Study) -> None:
    made = ternary(study)
    assert "Weights are −1, 0 or +1" in "\n".join(_history(made))
    assert "Weights are −1" not in "\n".join(_history(decompose(study, 3, draws=0)))
    assert made.ternary is not None
    formula = made.ternary.formula(0, made.rows(0), made.bias[0].item())
    assert f"| class 0 | {written(formula)} |" in "\n".join(_classes(made, evaluate(study, made)))


def test_edits(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    made = ternary(study)
    without = made.without(0, made.rows(0)[0].feature)
    assert without.ternary is made.ternary and Decomposition is type(without)
    free = edit(study, made, drop=[(0, made.rows(0)[0].feature)], refit_on="train").decomposition
    assert free.ternary is None
    assert f"the weights of {made.name!r} were readable (--ternary); those that are re-learned are free" in caplog.text
    caplog.clear()
    edit(study, made, drop=[(0, made.rows(0)[0].feature)])
    assert "readable" not in caplog.text


def test_damaged_scales_are_refused(study: Study, tmp_path: Path) -> None:
    made = ternary(study)
    path = study.path / f"decompositions/{made.name}.safetensors"
    tensors, header = read_tensors(path, "a decomposition", sealed=False)
    for change, message in (
        ({"class_scales": tensors["class_scales"] * 2}, "its weights are not those of its scales"),
        ({"feature_scales": -tensors["feature_scales"]}, "its scales are not all above 0"),
        ({"feature_scales": tensors["feature_scales"][:-1]}, "feature_scales is torch.float32 (7,)"),
    ):
        other = tmp_path / "other.safetensors"
        other.write_bytes(tensor_bytes({**tensors, **change}, header))
        with pytest.raises(SubspectError, match="not a decomposition of subspect") as caught:
            Decomposition.load(other)
        assert message in str(caught.value)
    del tensors["class_scales"]
    other.write_bytes(tensor_bytes(tensors, header))
    with pytest.raises(SubspectError, match="expected class_scales, feature_scales"):
        Decomposition.load(other)


@pytest.mark.parametrize(
    ("options", "got"),
    [({"method": "contribution"}, "method 'contribution'"), ({"refit": False}, r"refit=False \(--no-refit\)")],
)
def test_what_does_not_go_with_it_is_said(study: Study, options: dict[str, object], got: str) -> None:
    with pytest.raises(
        SubspectError, match=rf"^readable weights \(ternary, --ternary\) are chosen .*; got {got}: leave"
    ):
        decompose(study, 3, ternary=True, **options)  # type: ignore[arg-type]


def test_the_command_line(study: Study, tmp_path: Path) -> None:
    [made] = parsed(f"decompose {study.path} -k 2 --ternary --draws 0")
    assert made["decomposition"]["name"] == "pursuit-k2-ternary"
    assert made["decomposition"]["history"][0]["weights"] == "ternary"
    assert "readable weights" in said(f"decompose {study.path} --ternary --method frequency", 1)
    indices = tmp_path / "indices.json"
    indices.write_text(json.dumps({str(label): [0] for label in range(C)}))
    assert "--ternary goes with a method" in said(f"decompose {study.path} --ternary --supports {indices}", 1)


def test_a_class_without_images_keeps_its_dense_row(tmp_path: Path) -> None:
    weight = planted(2, c=C, d=D)[2][0]
    images = pictures(0, 400)
    away = images.flatten(1)[:, :D].numpy() @ weight.T
    images = images[torch.from_numpy(away.argmax(axis=1) != 2)]
    labels = (images.flatten(1)[:, :D].numpy() @ weight.T).argmax(axis=1)
    study = observe(Network(Wide(weight)), (images, labels), tmp_path / "s", "train", show_progress=False)
    made = ternary(study, draws=0)
    assert made.unseen == (2,) and made.ternary is not None and not made.ternary.class_scales[2]
    assert np.allclose(made.matrix()[0][2], weight[2].astype(np.float32))
    assert made.ternary.formula(2, made.rows(2), 0.0) == "" and made.class_json(2)["formula"] is None
    assert made.class_json(2)["features"][0]["scale"] is None
    assert made.class_json(2)["scale"] is None
    assert Decomposition.load(study.path / f"decompositions/{made.name}.safetensors").ternary is not None
