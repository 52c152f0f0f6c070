"""The benchmarks' scripts: each explains itself, and rows are judged and written as they should be."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import subspect

FOLDER = Path(__file__).parent.parent / "benchmarks"


SCRIPTS = sorted(path.name for path in FOLDER.glob("[!_]*.py"))
HELP = """
import json, os, runpy, sys
import torch
said = {}
for path in sys.argv[1:]:
    read, write = os.pipe()
    if not (child := os.fork()):
        os.dup2(write, 1)
        sys.argv, sys.path[0] = [path, "--help"], os.path.dirname(path)
        runpy.run_path(path, run_name="__main__")
    os.close(write)
    with open(read) as file:
        said[os.path.basename(path)] = file.read(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def helped() -> dict[str, tuple[str, int]]:
    """What each script says of itself, and its exit code: as if run from the shell, but PyTorch is imported only once."""
    line = [sys.executable, "-c", HELP, *(str(FOLDER / script) for script in SCRIPTS)]
    said: dict[str, tuple[str, int]] = json.loads(
        subprocess.run(line, capture_output=True, text=True, check=True).stdout
    )
    return said


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(helped: dict[str, tuple[str, int]], script: str) -> None:
    text, code = helped[script]
    assert code == 0 and "--json" in text and "Example:" in text


def test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    from _rows import around, publish, row

    rows = [*row("accuracy", 86.45, "%", ">= 86.5"), *row("time", 1.1, "×", "<= 1.10"), *row("note", 3, "s")]
    for value, met in ((100 * (482 / 500), True), (96.39, False)):
        assert row("accuracy", value, "%", ">= 96.4")[0].met is met
    rows += row("figure", 79.7, "%", *around(79.67, 0.05))
    assert not publish("Title", rows, tmp_path / "rows.json")
    assert publish("Title", rows[1:], None)
    assert json.loads((tmp_path / "rows.json").read_text()) == [
        {"what": "accuracy", "value": 86.45, "unit": "%", "bar": ">= 86.5", "met": False},
        {"what": "time", "value": 1.1, "unit": "×", "bar": "<= 1.10", "met": True},
        {"what": "note", "value": 3, "unit": "s", "bar": None, "met": None},
        {"what": "figure", "value": 79.7, "unit": "%", "bar": ">= 79.62", "met": True},
        {"what": "figure", "value": 79.7, "unit": "%", "bar": "<= 79.72", "met": True},
    ]


def test_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pursuit finds planted supports, and a figure's mean over draws is held to its bar."""
    monkeypatch.syspath_prepend(FOLDER)
    import solvers

    monkeypatch.setattr(solvers, "SOLVERS", {})
    figures = solvers.planted(4000, 32, 6, 2, seed=0)
    assert figures["pursuit: recall"][0] == figures["pursuit: precision"][0] >= 95
    assert figures["dense, learned: fidelity"][0] == figures["planted head: recall"][0] == 100
    assert figures["largest |W|: accuracy"][0] <= figures["largest |W|, refit: accuracy"][0] + 1
    assert figures["pursuit: accuracy"][0] > figures["dense, learned: accuracy"][0] - 5
    low, high = ({"pursuit: recall": (value, "%")} for value in (94.0, 97.0))
    [row] = solvers.table("planted", [low, high])
    assert row.what == "planted pursuit: recall (94–97, 2 of 2 seeds)" and row.value == 95.5 and row.met


def test_solver_on_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A solver's path comes back in the features' own units, ends where classes have enough features, or at the cap."""
    monkeypatch.syspath_prepend(FOLDER)
    import _planted
    import solvers

    train = _planted.plant(500, 16, 3, 2, seed=0).train
    steps = solvers.solve("scikit-learn", solvers.scikit_learn, train, 2)
    assert solvers.mean_size(steps[-1].head) >= 2 > solvers.mean_size(steps[-2].head)
    assert solvers.until(steps, 2) == steps[-1].seconds and solvers.until(steps, 17) == solvers.CAP
    data = solvers.Data(train, train, steps[-1].head)
    assert data.figures("", steps[-1].head)[": accuracy"][0] > 50
    assert len(solvers.solve("scikit-learn", solvers.scikit_learn, train, 2, cap=0)) == 1
    assert solvers.sizes(4.7, 10).sum() == 47


def test_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paired difference counts images, and its interval only those on which the two heads differ."""
    monkeypatch.syspath_prepend(FOLDER)
    import solvers
    from _planted import Features

    x = np.eye(4, dtype=np.float32)[[0, 1, 2, 3] * 25]
    right = np.eye(4), np.zeros(4)
    data = solvers.Data(Features(x, np.arange(100) % 4), Features(x, np.arange(100) % 4), right)
    wrong = right[0][[0, 1, 3, 2]], right[1]
    figures = data.apart("one", right, wrong)
    assert figures["one: accuracy"] == figures["one: fidelity"] == (50.0, "± 9.85 points")  # 1.96 √(0.25 / 99)
    assert data.apart("one", right, right)["one: accuracy"] == (0.0, "± 0.00 points")


def test_share_as_the_authors_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: strictly before a share of 0.5 come 1, 2 and 2 features, 1 truncated; before 0.65 come 1, 3 and 3, so 2."""
    monkeypatch.syspath_prepend(FOLDER)
    import paper

    x = np.array([[0, 4, 3, 2, 1], [2, 2.1, 2.2, 1.9, 1.8], [2.1, 1.9, 2.2, 2, 1.8]], np.float32)
    one = np.zeros(3, np.int64)
    assert [row.tolist() for row in paper.by_script(x, one, 0.5)] == [[2]]  # counts 0 1 2 0 0: feature 1 holds a third
    assert [row.tolist() for row in paper.by_script(x, one, 0.65)] == [[2]]  # counts 1 2 3 0 0: 0 and 1 hold a half
    assert [row.tolist() for row in paper.by_script(x, one, 0.65, cut=False)] == [[2, 1]]


def test_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    import solvers

    figures = solvers.large(images=400, features=32, classes=4, k=3)
    assert len(figures) == 6 and all(value >= 0 for value, _ in figures.values())


def test_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape is timed against every other head, and held to its bars."""
    monkeypatch.syspath_prepend(FOLDER)
    import _resnet50
    import head

    one = head.measure(100, 4, 5, 1, "cpu", 0.002)
    assert (
        one.kernel == "embedding_bag" and one.decomposed_multiplications == 500 and one.dense_multiplications == 204_800
    )
    assert one.dense_bytes == 4 * (204_800 + 100) and one.decomposed_bytes == 4 * (500 + 500 + 101 + 100)
    assert min(one.linear, one.bfloat16, one.gather or 0, one.onnxruntime or 0, one.decomposed) > 0
    fast = replace(one, classes=1000, batch=32, linear=8.1, bfloat16=2.4, decomposed=1.0)
    first, second, slower = head.judged([fast], 1)
    assert first.bar == ">= 8.0" and first.met and second.bar == ">= 2.5" and not second.met and slower.met
    [*_, slower] = head.judged([replace(fast, linear=0.9)], 1)
    assert slower.value == 1 and not slower.met
    assert _resnet50.resnet50(7)(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The crop that the network was published with, and rows that name the classes a figure was taken among."""
    monkeypatch.syspath_prepend(FOLDER)
    import photographs
    import subspect

    pixels = np.random.default_rng(0).integers(0, 256, (256, 300, 3), np.uint8)
    cropped = photographs.OwnCrop()(Image.fromarray(pixels))  # 7/8 of 256 are 224: nothing is scaled
    np.testing.assert_array_equal(cropped.numpy(), (pixels[16:240, 38:262].transpose(2, 0, 1) - 127.0) / 128)
    x = np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32)
    head = np.random.default_rng(1).standard_normal((9, 6)), np.zeros(9)
    for name, rows in (("train", slice(0, 30)), ("test", slice(30, 60))):
        study = subspect.from_features(x[rows], *head, tmp_path / "study", name, labels=np.arange(30) % 3)
    made = photographs.decomposed(study, 2)
    assert photographs.decomposed(study, 2).name == made.name == "pursuit-k2" and len(study.decomposition_names) == 1
    found = subspect.evaluate(study, made, among_given=True)
    what = f"some, {found.where.among_in_words}, k = 2"
    low, high, accuracy, fidelity = photographs.costs(what, found, 50.0)
    assert low.what == "some, among the 3 classes given: dense accuracy" and (low.bar, high.bar) == (
        ">= 49.70",
        "<= 50.30",
    )
    assert accuracy.value == 100 * found.overall.accuracy.value and fidelity.what == f"{what}: fidelity"
    assert len(photographs.costs(what, found, None)) == 2


def test_many_classes(monkeypatch: pytest.MonkeyPatch, study: subspect.Study) -> None:
    """A report is made and measured; without a browser all but the search."""
    monkeypatch.syspath_prepend(FOLDER)
    import many_classes

    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("subspect.report.SINGLE", 2)
    found = {one.what: one for one in many_classes.measured(study)}
    first = found["first page"]
    assert first.value == (study.path / "report.html").stat().st_size and first.met
    chosen, both = found["features chosen"].value, found["features chosen, and the report made"].value
    assert 0 < chosen < both and len(found) == 4 and any(what.endswith(" other files") for what in found)
