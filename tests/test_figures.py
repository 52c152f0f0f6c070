"""The figures: what is drawn where, in words, in the page's colours; the order of classes; maps laid over pictures."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image
from typer.testing import CliRunner

from curves import BOTH, REFITTED, point
from subspect import SubspectError, Supports
from subspect.cli import app
from subspect.ground.drawing import COLOURS, FORMATS, as_label, check_figure, picture_of, save_figure
from subspect.ground.pictures import data_uri, enlarged, fit, lay_over
from subspect.ground.text import legible
from subspect.heads.curve import draw_curve
from subspect.heads.history import CurvePoint
from subspect.report.figures import (
    _MARKS,
    _svg,
    calibration_figure,
    curve_figure,
    order_of,
    shared_figure,
    shared_in_words,
)
from subspect.statistics.outcomes import Calibration

fast = settings(deadline=None, derandomize=True, max_examples=20)
shares = st.floats(0, 1)


def axes_of(points: list[CurvePoint]) -> Axes:
    axes = Figure(figsize=(6, 3)).add_subplot()
    draw_curve(axes, sorted(points, key=lambda one: float(one.k)), _MARKS)
    return axes


def plotted(axes: Axes, label: str) -> list[tuple[float, float]]:
    [line] = [line for line in axes.lines if line.get_label() == label]
    return list(zip(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist(), strict=True))


def test_a_line_before_refit_and_dots_after() -> None:
    axes = axes_of(BOTH)
    for name in ("fidelity", "accuracy"):
        for refit in (False, True):
            expected = sorted((one.k, 100 * getattr(one, name)) for one in BOTH if one.refit == refit)
            assert np.allclose(plotted(axes, f"{name}, {refit}"), expected)
    assert axes.get_xlabel() == "features for each class (line: before refit, dots: after)"
    assert axes.get_ylabel() == "share, %"
    [line] = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert line.get_ydata() == pytest.approx([80, 80])


def test_one_kind_needs_no_words() -> None:
    axes = axes_of(REFITTED)
    assert axes.get_xlabel() == "features for each class"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "3", "5", "8", "12", "20", "32"]


@fast
@given(shares, shares, shares)
def test_labels_do_not_lie_on_each_other(fidelity: float, accuracy: float, dense: float) -> None:
    axes = axes_of([point(1, 0.5, 0.5, dense=dense), point(4, fidelity, accuracy, dense=dense)])
    low, high = axes.get_ylim()
    heights = sorted(float(text.xy[1]) for text in axes.texts if isinstance(text, Annotation))
    assert len(heights) == 3 and all(above - below > 0.06 * (high - low) for below, above in pairwise(heights))


def test_a_picture_of_its_own_carries_its_colours() -> None:
    for standalone in (False, True):
        svg = curve_figure(BOTH, standalone=standalone)
        ET.fromstring(svg)
        assert ("<style>:root" in svg) == standalone and "var(--blue)" in svg and "#0102" not in svg
        for words in ("fidelity", "accuracy", "dense accuracy, 80.0 %", "share, %"):
            assert words in svg
    assert curve_figure(BOTH) == curve_figure(list(reversed(BOTH)))
    assert curve_figure([]) == curve_figure([point(0, 0.3, 0.3)]) == ""
    ET.fromstring(curve_figure([point(3, 1, 1)]))


def contrast(colour: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(colour), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["ink", "dim", "blue", "orange"])
def test_words_can_be_read_on_both_papers(name: str) -> None:
    for colour, paper in zip(COLOURS[name], ("#ffffff", "#12171d"), strict=True):
        assert contrast(colour, paper) >= 4.5


def test_classes_that_share_features_stand_side_by_side() -> None:
    supports = Supports([[0, 1, 2], [7, 8, 9], [0, 1, 3], [7, 8, 4]], 10)
    used = np.zeros((4, 10), np.float32)
    for row, support in enumerate(supports):
        used[row, support] = 1
    order = order_of(used @ used.T).tolist()
    assert sorted(order) == [0, 1, 2, 3] and abs(order.index(0) - order.index(2)) == 1
    assert abs(order.index(1) - order.index(3)) == 1
    svg = shared_figure(supports, ["<cat>", "dog & co", "kitten", "wolf"])
    ET.fromstring(svg)
    assert "&lt;cat&gt;" in svg and "features that both classes use" in svg
    assert "kitten" not in shared_figure(supports, ["cat", "dog", "kitten", "wolf"], unseen=[2])


@pytest.mark.parametrize(
    ("features", "unseen", "words"),
    [
        ([[0, 1], [1, 2], [3]], [1], "No two classes share a feature."),
        ([[0, 1], [1, 0], [3]], [2], "The two classes share 2 of their features."),
        ([[0, 1], [1, 2], [3]], [0, 1], "There are no two classes with chosen features."),
        ([[0, 1], [1, 2], [3]], [], ""),
    ],
)
def test_a_sentence_in_place_of_a_matrix(features: list[list[int]], unseen: list[int], words: str) -> None:
    supports = Supports(features, 5)
    assert shared_in_words(supports, unseen) == words
    assert bool(shared_figure(supports, ["a", "b", "c"], unseen)) == (not words)


def test_many_classes_are_not_named() -> None:
    supports = Supports([[one % 7, one % 11 + 7] for one in range(45)], 20)
    svg = shared_figure(supports, [f"name{one}" for one in range(45)])
    assert "name3" not in svg and "classes, by similarity of their features" in svg


def test_calibration_is_drawn_for_both() -> None:
    dense, decomposed = Calibration(), Calibration()
    dense.update(np.array([0.95, 0.55]), np.array([True, False]))
    decomposed.update(np.array([0.95, 0.95]), np.array([True, False]))
    svg = calibration_figure(dense, decomposed)
    ET.fromstring(svg)
    assert "dense: error 30.0 points" in svg and "decomposed: error 45.0 points" in svg


def test_marks_of_calibration_grow_with_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[float]] = []
    scatter = Axes.scatter

    def seen(axes: Axes, x: Any, y: Any, s: Any, **options: Any) -> Any:
        drawn.append(list(np.atleast_1d(s)) if len(x) else [])
        return scatter(axes, x, y, s=s, **options)

    monkeypatch.setattr(Axes, "scatter", seen)
    one = Calibration()
    one.update(np.array([0.95] * 9 + [0.55]), np.array([True] * 10))
    ET.fromstring(calibration_figure(one, Calibration()))
    few, many = drawn[0]
    assert many - 4 == pytest.approx(9 * (few - 4)) and drawn[2] == []


def test_a_map_marks_where_it_is_largest() -> None:
    picture = Image.new("RGB", (32, 16), (0, 0, 40))
    marked = np.asarray(lay_over(picture, np.array([[-5.0, 0, 0, 0], [0, 0, 0, 2.0]])), float)
    assert marked[12:, 28:].mean() > 80 > 20 > marked[:6, :12].mean() and marked.shape == (16, 32, 3)
    assert np.array_equal(np.asarray(lay_over(picture, -np.ones((2, 2)))), np.asarray(picture))


def test_pictures_are_scaled_and_packed() -> None:
    assert fit(Image.new("RGB", (8, 4)), 64).size == (64, 32) and fit(Image.new("RGB", (10, 1000)), 64).size == (1, 64)
    assert enlarged(Image.new("RGB", (32, 16))).size == (160, 80) and enlarged(Image.new("RGB", (300, 16))).size == (
        300,
        16,
    )
    head, data = data_uri(Image.new("RGB", (20, 10), (200, 100, 0))).split(",")
    assert head == "data:image/webp;base64" and Image.open(io.BytesIO(base64.b64decode(data))).size == (20, 10)


def test_a_figure_is_written_in_the_format_of_its_suffix(tmp_path: Path) -> None:
    for name, first in (("a.png", b"\x89PNG"), ("deeper/b.SVG", b"<?xml"), ("c.pdf", b"%PDF")):
        save_figure(Figure(), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(first)
    with pytest.raises(
        SubspectError, match=r"cannot draw into .*d\.doc: its suffix must be one of \.png, \.svg, \.pdf"
    ):
        check_figure(tmp_path / "d.doc")
    with pytest.raises(SubspectError, match=r"is a file, not a folder"):
        check_figure(tmp_path / "a.png" / "e.png")
    check_figure(None)


def test_another_programs_figure_is_refused_before_the_work(tmp_path: Path) -> None:
    save_figure(Figure(), tmp_path / "ours.png")
    for name in ("mine.png", "mine.svg"):
        (tmp_path / name).write_bytes((tmp_path / "ours.png").read_bytes()[:-40])
        with pytest.raises(SubspectError, match=rf"{name} is there already, and not as subspect wrote it"):
            check_figure(tmp_path / name)
    check_figure(tmp_path / "ours.png")
    result = CliRunner().invoke(app, ["geometry", "nothing", "--figure", str(tmp_path / "mine.png")])
    assert result.exit_code == 1 and "not as subspect wrote it" in " ".join(result.stderr.split())


@pytest.mark.parametrize("suffix", FORMATS)
def test_figures_are_the_same_in_every_run(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = axes_of(BOTH).figure
    assert isinstance(figure, Figure)
    found = set()
    for second in (0, 10**9):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(second))  # what matplotlib takes for the time
        save_figure(figure, tmp_path / f"a{suffix}")
        found.add((tmp_path / f"a{suffix}").read_bytes())
    assert len(found) == 1


ODD = ("$0_to_$10", "a$b", r"\$x_^$", "$$", "\u202eb\x1b[31m\n", "\ud800", "_hidden", "")


def test_names_are_drawn_as_they_are() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.set_xticks(range(len(ODD)), [as_label(name) for name in ODD])
    with rc_context({"svg.fonttype": "none"}):
        texts = [one.text for one in ET.fromstring(picture_of(figure, "svg", 100)).iter() if one.tag.endswith("}text")]
    assert [legible(name) for name in ODD if name] == texts[: len(ODD) - 1]
    assert as_label("x" * 30) == "x" * 17 + "…" and as_label("$" * 18) == r"\$" * 18
    ET.fromstring(shared_figure(Supports([[0, 1]] * len(ODD), 4), ODD))
    for form in ("png", "pdf"):
        assert picture_of(figure, form, 50)


def test_a_title_is_text() -> None:
    assert "<title>a &lt;b&gt; &amp; \\x1b</title>" in _svg(Figure(), "a <b> & \x1b")


def test_a_matplotlibrc_starts_no_latex(tmp_path: Path) -> None:
    """One that lies in the working folder is read when matplotlib is imported."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsvg.image_inline: False\n")
    code = """
import sys, os, subprocess
from pathlib import Path
from typing import Any
from matplotlib import rcParams
from matplotlib.figure import Figure
from subspect import Supports
from subspect.ground.drawing import drawing, save_figure
from subspect.heads.curve import draw_curve
from subspect.report.figures import curve_figure, shared_figure
from curves import BOTH
os.chdir(sys.argv[1])
assert rcParams["text.usetex"]
subprocess.Popen = None
@drawing()
def plot():
    figure = Figure()
    figure.add_subplot().set_title("50 % of a_b")
    return figure
save_figure(plot(), Path("a.png"))
Path("curve.svg").write_text(curve_figure(BOTH))
Path("shared.svg").write_text(shared_figure(Supports([[0], [0], [1]], 3), ["a_b", "$c$", "d"]))
"""
    environment = {**os.environ, "MATPLOTLIBRC": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curve.svg").read_text() == curve_figure(BOTH)


def test_a_bad_figure_is_refused_before_the_work(tmp_path: Path) -> None:
    for command in ("depth --digits -o family", "geometry nothing", "essentiality nothing"):
        result = CliRunner().invoke(app, [*command.split(), "--figure", str(tmp_path / "d.doc")])
        assert result.exit_code == 1 and "cannot draw into" in result.stderr and not Path("family").exists()
