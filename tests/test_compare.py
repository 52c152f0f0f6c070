"""Two classes side by side, against a plain re-implementation."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import subspect
from kept import keep_cues
from planted import Array, Wide, observed, pictures, planted
from subspect import Decomposition, Study, SubspectError, compare, decompose
from subspect.cli import app


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    weight = planted(6, 16)[0]
    weight[2] = weight[3]  # two classes that a decomposition with one feature each confuses
    weight[2, 0] += 1
    sets = {"train": pictures(0, 400), "test": pictures(1, 300)}
    return observed(tmp_path_factory.mktemp("compare") / "study", weight, **sets)


@pytest.fixture(scope="module")
def made(study: Study) -> Decomposition:
    return decompose(study, 2)


def stored(study: Study, name: str = "test") -> tuple[Array, np.ndarray, list[str]]:
    chunks = list(study.image_set(name).chunks())
    x = np.concatenate([chunk.features for chunk in chunks]).astype(np.float64)
    return x, np.concatenate([chunk.labels for chunk in chunks]), [id for chunk in chunks for id in chunk.ids]


def heads(study: Study, made: Decomposition) -> list[tuple[Array, Array]]:
    """The dense head, and the decomposed one entry by entry."""
    weight, bias = (tensor.double().numpy() for tensor in study.head())
    few = np.zeros_like(weight)
    for label in range(len(few)):
        for row in made.rows(label):
            few[label, row.feature] = row.weight
    return [(weight, bias), (few, made.bias.double().numpy())]


@pytest.mark.parametrize("pair", [(2, 3), (3, 2), (0, 5)])
def test_against_a_plain_reimplementation(study: Study, made: Decomposition, pair: tuple[int, int]) -> None:
    found = compare(study, made, first=pair[0], second=pair[1])
    a, b = pair
    x, labels, ids = stored(study)
    (dense, dense_bias), (few, bias) = heads(study, made)
    dense_logits, logits = x @ dense.T + dense_bias, x @ few.T + bias
    names = made.class_names
    assert found.names == (names[a], names[b]) and found.decomposition == made.name
    assert "300 images of 'test'" in found.note and found.bias == pytest.approx(bias[a] - bias[b])
    assert found.images == (int((labels == a).sum()), int((labels == b).sum()))

    expected = {}
    for feature in {row.feature for label in pair for row in made.rows(label)}:
        means = x[labels == a, feature].mean(), x[labels == b, feature].mean()
        expected[feature] = (few[a, feature] - few[b, feature]) * (means[0] - means[1])
    assert {one.feature: one.separation for one in found.separators} == pytest.approx(expected)
    separations = [one.separation for one in found.separators]
    assert separations == sorted(separations, reverse=True)
    for one in found.separators:
        assert one.weights == (few[a, one.feature], few[b, one.feature])
        assert one.means == pytest.approx([x[labels == label, one.feature].mean() for label in pair])
        assert one.shared == all(one.feature in made.supports[label] for label in pair)

    said = [logits.argmax(axis=1) for logits in (dense_logits, logits)]
    for count, (own, other) in zip(found.counts, (pair, pair[::-1]), strict=True):
        assert count == tuple(int(np.sum((labels == own) & (one == other))) for one in said)

    either = np.isin(labels, pair)
    sides = [(one[:, a] > one[:, b])[either] for one in (dense_logits, logits)]
    assert found.agreement == pytest.approx(np.mean(sides[0] == sides[1]))

    wrong = [row for row in np.flatnonzero(either) if said[1][row] == (b if labels[row] == a else a)]
    wrong.sort(key=lambda row: logits[row, labels[row]] - logits[row, said[1][row]])
    assert wrong and [shot.id for shot in found.confused] == [ids[row] for row in wrong[:12]]
    for shot, row in zip(found.confused, wrong, strict=False):
        right, taken = labels[row], said[1][row]
        assert (shot.label, shot.predicted, shot.dense) == (names[right], names[taken], names[said[0][row]])
        assert shot.difference == pytest.approx(logits[row, taken] - logits[row, right])
        spoken = (few[taken] - few[right]) * x[row]
        most = [feature for feature in np.argsort(-spoken)[:3] if spoken[feature] > 0]
        assert [term.feature for term in shot.terms] == most
        assert [term.contribution for term in shot.terms] == pytest.approx(spoken[most].tolist())


def test_a_planted_feature_separates_a_pair(tmp_path: Path) -> None:
    weight = planted(4, 12)[0]
    weight[1] = weight[0]
    weight[0, 7] += 2
    weight[1, 7] -= 2
    study = observed(tmp_path / "study", weight, train=pictures(0, 300), test=pictures(1, 200))
    found = compare(study, decompose(study, 12), first=0, second=1)
    assert found.needed == 1 and found.path[0] == ((7,), 1.0) and found.agreement == 1
    assert found.separators[0].feature == 7 and found.separators[0].shared
    assert found.to_json()["path"][0] == {"features": [7], "agreement": 1.0}
    caption = found.tables()[0].caption
    assert "1 feature is needed to come within a point" in str(caption)


def test_one_feature_more_at_each_step_and_the_fewest_are_told(study: Study, made: Decomposition) -> None:
    found = compare(study, made, first=0, second=1)
    assert [len(features) for features, _ in found.path] == list(range(1, 13))
    enough = [len(features) for features, share in found.path if share >= found.agreement - 0.01]
    assert found.needed == (enough[0] if enough else None)


def test_the_same_class_twice(study: Study, made: Decomposition) -> None:
    with pytest.raises(SubspectError, match="two classes are compared, and both are 'class 2'; name another one"):
        compare(study, made, first=2, second=2)


def test_a_class_without_images(tmp_path: Path) -> None:
    weight = planted(3, 8)[0]
    study = observed(tmp_path / "study", weight, train=pictures(0, 200))
    two = (pictures(1, 50), torch.arange(50) % 2)
    study = subspect.observe(subspect.Network(Wide(weight)), two, study.path, "two", show_progress=False)
    made = decompose(study, 2)
    assert compare(study, made, first=1, second=0, on="two").images == (25, 25)
    for pair in ((2, 0), (0, 2)):
        with pytest.raises(SubspectError, match="there is no image of 'class 2' in 'two' to compare; take another set"):
            compare(study, made, first=pair[0], second=pair[1], on="two")


def test_on_the_command_line(study: Study, made: Decomposition) -> None:
    line = f"compare {study.path} 2 'class 3' --decomposition {made.name}"
    result = CliRunner().invoke(app, shlex.split(f"{line} --json"), catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(json.dumps(compare(study, made, first=2, second=3).to_json()))
    result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
    assert "class 2 and class 3" in result.stdout and "confused images" in result.stdout
    assert CliRunner().invoke(app, ["compare", str(study.path), "2", "2"]).exit_code == 1


def test_the_figure_shows_each_separation(study: Study, made: Decomposition, tmp_path: Path) -> None:
    feature = int(made.supports[0][0])
    study.name_features({feature: "$whiskers$"})
    one = compare(study, made, first=0, second=1)
    (axes,) = one.plot().axes
    bars = [bar for bar in axes.patches if bar.get_width()]  # type: ignore[attr-defined]
    assert [bar.get_width() for bar in bars] == [each.separation for each in one.separators]  # type: ignore[attr-defined]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels[[each.feature for each in one.separators].index(feature)] == rf"feature {feature} · \$whiskers\$"
    line = ["compare", str(study.path), "0", "1", "--figure", str(tmp_path / "x.png")]
    assert CliRunner().invoke(app, line).exit_code == 0 and (tmp_path / "x.png").stat().st_size > 1000


def test_what_moves_each_feature(study: Study, made: Decomposition) -> None:
    first, *others = [one.feature for one in compare(study, made, first=0, second=1).separators]
    assert compare(study, made, first=0, second=1).to_json()["moved_by"] is None
    path = keep_cues(study, made, {"border": {}, "colour": {}}, {"border": {first: 0.2}, "colour": {first: 0.7}})
    found = compare(study, made, first=0, second=1)
    path.unlink()
    assert found.to_json()["moved_by"] == {
        str(first): {"colour": 0.7, "border": 0.2},
        **{str(each): {} for each in others},
    }
    assert found.to_frame()["moved_by"].tolist() == ["colour 70 %, border 20 %", *[""] * len(others)]
    last = found.tables()[1].columns[-1]
    assert str(last.header) == "moved by" and str(found.tables()[0].columns[-1].header) == "used by"
    assert [str(cell) for cell in last.cells] == ["colour 70 %, border 20 %", *[""] * len(others)]
