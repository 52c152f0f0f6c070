"""What the report says of findings and of what the classes rest on: what the study keeps, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
from pathlib import Path

import numpy as np
import pytest

import subspect
from conftest import PIXELS, Tiny
from kept import keep_cues
from subspect import Decomposition, Network, Study, SubspectError
from subspect.report import write_report

LOST = {"corner-top-left": {0: 1.234, 1: -0.3}, "border": {0: 0.4, 2: 0.04}, "colour": {}}


@pytest.fixture
def made(study: Study) -> Decomposition:
    return subspect.decompose(study, 2)


def report(study: Study, made: Decomposition) -> str:
    """The page, its text as it is read."""
    return unescape(" ".join(write_report(study, made, show_images=False, show_progress=False).read_text().split()))


def part(page: str, start: str, end: str) -> str:
    return page.partition(f'id="{start}"')[2].partition(f'id="{end}"')[0]


def test_findings_come_first(study: Study, made: Decomposition) -> None:
    keep_cues(study, made, LOST)
    page = report(study, made)
    found = part(page, "findings", "shared")
    checked = made.findings()
    assert "C101" in checked.codes and found.count("<p><b>") == len(checked.found) <= 12
    for one in checked.found:
        text = re.sub(r"\w/\d+\.png", "an image", one.text)  # images aren't named where they aren't shown
        assert f"<b>{one.code}</b> {text}." in found and f"{one.how}.</p>" in found
        assert f"<p>Why it matters: {one.why}.</p>" in found
        assert one.do.replace(str(study.path), "STUDY") in found
    first = found.partition("</details>")[0]
    assert (
        'See <a href="#c0">a</a>.' in first and "subspect edit STUDY --decomposition pursuit-k2 --without-cue" in first
    )
    assert f"<summary>{len(checked.passed)} checks passed, {len(checked.skipped)} skipped</summary>" in found
    for code, scope in checked.passed.items():
        assert f"<li>{code} passed: {checked.titles[code]}{f' ({scope})' if scope else ''}</li>" in found
    assert f"D402 skipped: {checked.skipped['D402']}</li>" in found
    assert str(study.path) not in page and "was not measured" not in page
    shown = write_report(study, made, show_progress=False).read_text()
    assert "D403" in checked.codes and ".png" not in page and ".png (" in part(shown, "findings", "shared")


def test_what_the_classes_rest_on(study: Study, made: Decomposition) -> None:
    [row, *_] = made.rows(0)
    moved = {"corner-top-left": {row.feature: 0.62}, "border": {row.feature: 0.4}, "colour": {row.feature: 0.2}}
    lost = {
        "corner-top-left": {(0, row.feature): 0.25},
        "border": {(0, row.feature): 0.04},
        "mirror": {(0, row.feature): 0.9},
    }
    losing = LOST | {"mirror": {0: 0.2}}
    keep_cues(study, made, losing, moved, left_out={"grain": "it takes more pixels"}, through=lost)
    page = report(study, made)
    heat = part(page, "rests", "shared")
    rows = re.findall(r'<tr><th scope="row" class="left"><a href="#c(.)">(.)</a></th>(.*?)</tr>', heat)
    assert [one[:2] for one in rows] == [("0", "a"), ("2", "c"), ("1", "b")]
    assert rows[0][2] == '<td class="loss7">1.2</td><td class="loss2">0.4</td><td>0.0</td><td class="loss1">0.2</td>'
    assert rows[2][2] == '<td class="gain2">−0.3</td><td>0.0</td><td>0.0</td><td>0.0</td>'
    assert "<caption>Margin lost, in median margins; the class that loses most by any cue first</caption>" in heat
    assert 'class="sideways"' not in heat
    assert '<th scope="col" title="the border"><span>border</span></th>' in heat
    assert "The loss of a median margin, 2.5 logits, brings a typical image to the boundary." in heat
    assert "On 30 of 90 images of 'train'. grain is left out: it takes more pixels." in heat
    own = part(page, "c0", "c1")
    assert (
        "<p>It loses most by corner-top-left (1.23), border (0.40), in median margins. Of cues that take the thing "
        in own
    )
    assert "itself away: mirror 0.20.</p>" in own
    assert '<th scope="col" class="left">lost through it</th>' in own
    assert re.findall('<td class="left moved">(.*?)</td>', own) == ["corner-top-left 0.25", ""]
    assert "It loses next to nothing by any cue." in part(page, "c1", "c2")
    feature = page.partition(f'<details id="f{row.feature}"')[2].partition("</details>")[0]
    assert "<dt>moved by</dt><dd>corner-top-left 62 %, border 40 %, colour 20 %</dd>" in feature
    assert "<dt>moved by</dt><dd>cues whose swap changes the feature, as a share" in page


def test_without_cues_it_says_how_to_measure_them(study: Study, made: Decomposition) -> None:
    page = report(study, made)
    line = f"not measured: <code>subspect cues STUDY --decomposition {made.name} --network …</code>"
    assert page.count(line) == 1 and 'id="rests"' not in page and "#rests" not in page
    assert "lost through it" not in page and "moved by" not in page
    codes = "C101, C102, C103, C104, C105"
    assert (
        f"<li>{codes} skipped: needs cues: subspect cues STUDY --decomposition" in page and str(study.path) not in page
    )
    keep_cues(study, made, LOST)
    assert 'id="rests"' not in report(study, subspect.decompose(study, 1))  # of another head


def test_a_study_of_features_alone_is_not_asked_for_cues(tmp_path: Path) -> None:
    x, labels = np.random.default_rng(0).random((90, 4)), np.arange(90) % 3
    path = tmp_path / "features alone"
    study = subspect.from_features(x, np.eye(3, 4), None, path, labels=labels, show_progress=False)
    page = report(study, subspect.decompose(study, 2))
    assert "subspect cues" not in page and "made from features alone" in page
    assert re.search(r"subspect \w+ STUDY", page) and str(path) not in page


def test_pages_of_classes_and_features_say_it_too(
    study: Study, made: Decomposition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subspect.report.SINGLE", 2)
    [row, *_] = made.rows(0)
    keep_cues(study, made, LOST, {"border": {row.feature: 1.2}}, through={"border": {(0, row.feature): 0.4}})
    first = report(study, made)
    [pages] = [one for one in (study.path / "report-pages").iterdir() if one.is_dir()]
    assert f'See <a href="report-pages/{pages.name}/class-0.html">a</a>.' in first
    own = (pages / "class-0.html").read_text()
    assert "It loses most by corner-top-left (1.23)" in own and "border 0.40</td>" in own
    assert "<dt>moved by</dt><dd>border ≥ 100 %</dd>" in (pages / f"feature-{row.feature}.html").read_text()


def many(path: Path, n: int, names: Mapping[int, str]) -> tuple[Study, Decomposition]:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4 * n, 8, 8, 3), dtype=np.uint8), np.arange(4 * n) % n
    called = [names.get(label, f"class {label}") for label in range(n)]
    network = Network(Tiny(n), class_names=called, preprocessing=PIXELS)
    study = subspect.observe(network, images, path, show_progress=False)
    return study, subspect.decompose(study, 2, show_progress=False)


def test_of_many_only_the_worst_are_shown(tmp_path: Path) -> None:
    study, made = many(tmp_path / "study", 50, {3: "<b>same", 4: "<b>same"})
    keep_cues(study, made, {"corner-top-left": {label: 3 - label / 100 for label in range(50)}, "colour": {}})
    page = report(study, made)
    assert page.count("<b>C101</b>") == 12 and "38 more of C101: <code>subspect check STUDY --decomposition" in page
    heat = part(page, "rests", "shared")
    assert heat.count('<th scope="row"') == 40 and "any cue first; 40 of 50 classes</caption>" in heat
    raw = (study.path / "report.html").read_text()
    assert "<b>same" not in raw and "&lt;b&gt;same" in raw
    found = part(raw, "findings", "shared")
    assert '<a href="#c3">' in found and '<a href="#c4">' in found  # of one name, told apart


def test_cues_that_are_damaged_are_told(study: Study, made: Decomposition) -> None:
    keep_cues(study, made, LOST).write_bytes(b"")
    with pytest.raises(SubspectError, match="delete it, and measure again: subspect cues"):
        report(study, made)
