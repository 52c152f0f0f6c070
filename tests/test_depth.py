"""A family of networks against depth: formulas, planted trends, and two small families from end to end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor, nn
from typer.testing import CliRunner

import subspect
import subspect.demo as demo
from conftest import PIXELS, Tiny
from subspect import Network, SubspectError
from subspect.asking.depth import AGAINST, MEASURES, Depth, Member, Trend, depth, layers_of, needed_at, trend, trends_of
from subspect.cli import app
from subspect.images.opening import open_images
from subspect.studies.first_images import find_head

MakeFolder = Callable[..., Path]
fast = settings(deadline=None, derandomize=True, max_examples=20)


class Deep(nn.Module):
    """So many convolutions, then a head."""

    def __init__(self, layers: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            widths = [3, *[8] * layers]
            pairs = pairwise(widths)
            self.layers = nn.Sequential(*(nn.Conv2d(one, other, 3, padding=1) for one, other in pairs))
            self.fc = nn.Linear(8, 3)
        self.preprocessing = PIXELS

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.layers(x).relu().mean((2, 3)))
        return out


# Formulas -------------------------------------------------------------------------------------------------------------


def test_how_many_features_reach_a_fidelity() -> None:
    path = {0.0: 0.1, 1.0: 0.5, 2.0: 0.7, 4.0: 0.9, 8.0: 0.95}
    assert needed_at(path, 0.4) == 1 and needed_at(path, 0.5) == 1 and needed_at(path, 0.95) == pytest.approx(8)
    assert needed_at(path, 0.8) == pytest.approx(2 ** (1 + 0.5)) and np.isnan(needed_at(path, 0.96))
    assert needed_at(path, 0.925) == pytest.approx(4 * 2**0.5) and np.isnan(needed_at({}, 0.5))


@fast
@given(st.integers(0, 2**32 - 1))
def test_a_trend_against_plain_least_squares(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = np.repeat([8.0, 14, 20, 44], 3)
    y = x**0.7 * np.exp(generator.normal(0, 0.2, 12))
    found = trend(x, np.append(y[:-1], np.nan))
    kept = slice(0, 11)
    a = np.column_stack([np.ones(11), np.log(x[kept])])
    beta, residual, *_ = np.linalg.lstsq(a, np.log(y[kept]), rcond=None)
    error = np.sqrt(residual[0] / 9 * np.linalg.inv(a.T @ a)[1, 1])
    assert found.networks == 11 and found.exponent == pytest.approx(beta[1])
    assert (found.high - found.low) / 2 == pytest.approx(2.2621571628 * error)  # t, 9 degrees of freedom, 97.5 %
    assert found.rank == pytest.approx(spearmanr(x[kept], y[kept]).statistic)
    assert found.rank_low <= found.rank <= found.rank_high + 1e-9


def test_the_interval_of_ranks_against_redrawn_families() -> None:
    generator = np.random.default_rng(3)
    x = np.repeat([8.0, 14, 20, 44], 3)
    y = x**0.3 * np.exp(generator.normal(0, 0.3, 12))
    found = trend(x, y)
    rows = (generator.integers(0, 12, 12) for _ in range(1500))
    ranks = [spearmanr(x[kept], y[kept]).statistic for kept in rows]
    assert (found.rank_low, found.rank_high) == pytest.approx(np.percentile(ranks, [2.5, 97.5]), abs=0.06)


def test_trends_of_too_few() -> None:
    for x, y in (([8.0, 14.0], [1.0, 2.0]), ([8.0] * 5, [1.0, 2, 3, 4, 5]), ([8.0, 14, 20], [np.nan] * 3)):
        found = trend(np.array(x), np.array(y))
        assert np.isnan(found.exponent) and np.isnan(found.rank)
    assert np.isnan(trend(np.array([8.0, 14, 20]), np.ones(3)).rank)


def family(exponent: float, noise: float, seeds: int = 3) -> Depth:
    generator = np.random.default_rng(0)
    members = []
    for layers in (8, 14, 20, 26, 32, 44):
        for seed in range(seeds):
            value = 100 * layers**exponent * np.exp(generator.normal(0, noise))
            about = (layers, 1000 * layers**2, 1 - 1 / value)
            members.append(Member(f"{layers}-{seed}", *about, 64, dict.fromkeys(MEASURES, value), {}))
    return Depth(tuple(members), trends_of(members), 0.95, "")


@pytest.mark.parametrize(
    ("exponent", "noise", "verdict"),
    [
        (1.0, 0.05, "This family supports that the features a class needs are proportional to depth: exponent 0.9"),
        (0.0, 0.05, "This family contradicts that the features a class needs are proportional to depth: exponent"),
        (-0.5, 0.05, "This family contradicts"),
        (1.0, 3.0, "This family is too small to tell: exponent"),
    ],
)
def test_the_verdict_on_planted_families(exponent: float, noise: float, verdict: str) -> None:
    made = family(exponent, noise)
    assert made.verdict.startswith(verdict)
    assert isinstance(made.plot(), Figure) and made.to_json()["verdict"] == made.verdict
    by_depth, by_parameters, by_accuracy = (made.trends[name]["decision"] for name in AGAINST)
    assert by_parameters.exponent == pytest.approx(by_depth.exponent / 2)  # parameters grow as the square of depth
    assert by_accuracy.rank == pytest.approx(1) and by_parameters.rank == by_depth.rank


def test_the_verdict_where_one_feature_is_enough() -> None:
    made = family(1.0, 0.01)
    easy = [replace(one, values={**one.values, "needed": 1.0}) for one in made.members[:4]]
    said = replace(made, members=(*easy, *made.members[4:])).verdict
    assert said.startswith(
        "This family cannot tell at 95 % fidelity: 4 of 18 networks need a single feature for each class"
    )


def test_the_verdict_on_few_networks() -> None:
    made = family(1.0, 0.01)
    few = replace(made, members=made.members[:6])  # two depths
    assert few.verdict.startswith(
        "This family is too small to tell: 18 networks of 2 depths reach 95 % fidelity; a trend takes 4"
    )
    nan = float("nan")
    nothing = Trend(nan, nan, nan, nan, nan, nan, 2)
    assert "2 networks of 6 depths" in replace(made, trends={"depth": {"needed": nothing}}).verdict


# Families -------------------------------------------------------------------------------------------------------------


def test_depth_is_what_runs(make_folder: MakeFolder) -> None:
    images = open_images(make_folder("train", each=2))
    for model, expected in ((Deep(4), 5), (Tiny(), 2)):
        network = Network(model)
        find_head(network, images)
        assert layers_of(network, images) == expected
        assert not any(module._forward_hooks for module in model.modules())


def test_a_family_from_end_to_end(make_folder: MakeFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, test = make_folder("train", each=40), make_folder("test", each=20, seed=1)
    networks = {f"deep-{layers}-{seed}": Network(Deep(layers, seed)) for layers in (1, 2, 4) for seed in (0, 1)}
    made = depth(networks, train, tmp_path / "family", test=test, fidelity=0.8, show_progress=False)
    assert [one.depth for one in made.members] == [2, 2, 3, 3, 5, 5]
    assert all(set(trends) == set(MEASURES) for trends in made.trends.values()) and set(made.trends) == set(AGAINST)
    for one in made.members:
        study = subspect.Study.open(tmp_path / "family" / one.name)
        assert study.set_names == ["train", "test"] and one.features == 8
        curve = subspect.load_decomposition(study, "pursuit-k1-raw").curve
        assert one.fidelity == {point.k: point.fidelity for point in curve}
        if not np.isnan(one.values["needed"]):
            assert one.values["needed"] == needed_at(one.fidelity, 0.8) == 8 * one.values["share"]
            k = int(np.ceil(one.values["needed"]))
            found = subspect.geometry(study, subspect.load_decomposition(study, f"pursuit-k{k}-raw"), on="test")
            assert one.values["union"] == found.union and one.values["decomposed_rank"] == found.decomposed_rank
        else:
            assert np.isnan(one.values["union"]) and np.isnan(one.values["decomposed_rank"])
        found = subspect.geometry(study, on="test")
        assert one.values["decision"] == found.decision and one.values["two_nn"] == found.network.two_nn
        assert one.values["components_90"] == found.network.components[0.9]
        assert one.values["boundary_likelihood"] == pytest.approx(found.boundary.likelihood, nan_ok=True)
        chunk = next(iter(study.image_set("test").chunks()))
        assert one.accuracy == pytest.approx(np.mean(chunk.predictions == chunk.labels))
    again = depth(networks, train, tmp_path / "family", test=test, fidelity=0.8, show_progress=False)
    assert json.dumps(again.to_json()) == json.dumps(made.to_json())
    assert "the number of features needed is read from 60 images; take more to trust it" in caplog.text
    assert "80 % fidelity" in made.note and "60 images of 'test'" in made.note


def test_bad_input(make_folder: MakeFolder, tmp_path: Path) -> None:
    train = make_folder("train", each=10)
    with pytest.raises(SubspectError, match="a family needs two networks of different depth or more, got one"):
        depth({"one": Network(Deep(1))}, train, tmp_path / "family")
    with pytest.raises(SubspectError, match="the depth of 2 networks is 2; a family needs two depths or more"):
        depth({str(seed): Network(Deep(1, seed)) for seed in (0, 1)}, train, tmp_path / "same")
    assert not (tmp_path / "same" / "0").exists()  # before anything is observed
    subspect.observe(Network(Deep(1)), train, tmp_path / "same" / "0")
    with pytest.raises(SubspectError, match="0 is a study itself; choose another folder for those of the family"):
        depth({str(layers): Network(Deep(layers)) for layers in (1, 2)}, train, tmp_path / "same" / "0")
    with pytest.raises(SubspectError, match="fidelity must be between 0 and 1, got 95"):
        depth({str(layers): Network(Deep(layers)) for layers in (1, 2)}, train, tmp_path / "f", fidelity=95)


def test_the_digits_family_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "train_network", partial(demo.train_network, epochs=1))
    with pytest.raises(SubspectError, match="depth 9 is not 6n"):
        demo.digits_family(tmp_path, (9,), 1)
    first = demo.digits_family(tmp_path, (8,), 2, show_progress=False)
    assert list(first) == ["ResNet-8-0", "ResNet-8-1"]
    monkeypatch.setattr(demo, "train_network", None)
    second = demo.digits_family(tmp_path, (8,), 2, show_progress=False)
    assert [one.fingerprint() for one in first.values()] == [one.fingerprint() for one in second.values()]
    assert first["ResNet-8-0"].fingerprint() != first["ResNet-8-1"].fingerprint()


def test_on_the_command_line(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_folder("train", each=30)
    Path("nets.py").write_text(
        "import sys\nsys.path.insert(0, " + repr(str(Path(__file__).parent)) + ")\n"
        "from functools import partial\nfrom test_depth import Deep\n"
        "one, two, three, four = (partial(Deep, layers) for layers in (1, 2, 3, 4))\n"
    )

    def run(line: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else " ".join(result.stderr.split())

    names = " ".join(f"python:nets.py:{name}" for name in ("one", "two", "three"))
    line = f"depth {names} --train train -o family"
    value = json.loads(run(f"{line} --figure depth.png --json"))
    assert [one["name"] for one in value["members"]] == ["one", "two", "three"] and Path("depth.png").exists()
    assert "too small to tell" in value["verdict"] and "too small to tell" in " ".join(run(line).split())
    more = run(f"{line} python:nets.py:four")
    assert "against depth" in more and "against accuracy of the dense network" in more
    assert "name the images on which features are chosen" in run(f"depth {names} -o family", 1)
    assert "two networks are called 'one'" in run(f"depth {names} python:nets.py:one --train train -o family", 1)
    assert "--train goes with networks, not with --digits" in run("depth --digits --train train -o family", 1)
    assert "--digits trains a family of its own" in run("depth --digits python:nets.py:one -o family", 1)
    assert "a family needs two networks" in run("depth python:nets.py:one --train train -o family", 1)
