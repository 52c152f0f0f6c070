"""Cost against the number of features, as SVG and in the terminal; stability, substitutes and promise in words."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

import subspect
from conftest import Tiny
from curves import BOTH, REFITTED, point
from subspect import Decomposition, Mean, Study, SubspectError, decompose, evaluate, write_report
from subspect.cli import app
from subspect.ground.drawing import COLOURS
from subspect.ground.seals import is_sealed
from subspect.heads.history import Promised, Settled
from subspect.heads.shown import curve_table, features
from subspect.heads.trusted import Trusted
from subspect.report.curve_file import write_curve
from subspect.report.figures import curve_figure
from subspect.report.terminal import summary

SVG = "{http://www.w3.org/2000/svg}"

Place = tuple[float, float]
fast = settings(deadline=None, derandomize=True, max_examples=20)


# The file -------------------------------------------------------------------------------------------------------------


def test_the_figure_is_written_with_its_colours(study: Study, tmp_path: Path) -> None:
    made = decompose(study, 2)
    for path in (tmp_path / "curve.svg", tmp_path / "new folder" / "CURVE.SVG"):
        write_curve(made, path)
        assert path.read_text(encoding="utf-8").startswith(curve_figure(made.curve, standalone=True)) and is_sealed(
            path
        )
    write_curve(made, str(tmp_path / "curve.svg"))  # in place of the earlier one
    (tmp_path / "mine.svg").write_text("<svg></svg>")
    with pytest.raises(SubspectError, match=r"mine\.svg is there already, and not as subspect wrote it"):
        write_curve(made, tmp_path / "mine.svg")
    result = CliRunner().invoke(app, ["show", str(study.path), "--figure", str(tmp_path / "mine.svg")])
    assert result.exit_code == 1 and (tmp_path / "mine.svg").read_text() == "<svg></svg>"


@pytest.mark.parametrize(("name", "start"), [("curve.png", b"\x89PNG"), ("new/CURVE.PDF", b"%PDF")])
def test_the_figure_in_other_formats(study: Study, tmp_path: Path, name: str, start: bytes) -> None:
    decompose(study, 2)
    for _ in range(2):  # the same file again takes its place
        result = CliRunner().invoke(app, ["show", str(study.path), "--figure", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert (tmp_path / name).read_bytes().startswith(start) and is_sealed(tmp_path / name)
    if name.endswith("png"):
        with Image.open(tmp_path / name) as picture:
            pixels = np.asarray(picture.convert("RGBA")).reshape(-1, 4)
        assert (pixels[0] == 255).all()  # on white paper, whatever the page
        for colour in ("blue", "orange", "dim"):
            assert (pixels == [*bytes.fromhex(COLOURS[colour][0][1:]), 255]).all(axis=1).any()


@pytest.mark.parametrize("name", ["curve.gif", "curve", "svg", "curve.svg.gz"])
def test_a_figure_of_no_format(study: Study, tmp_path: Path, name: str) -> None:
    with pytest.raises(
        SubspectError, match=rf"cannot draw into .*{name}: its suffix must be one of \.png, \.svg, \.pdf"
    ):
        write_curve(decompose(study, 2), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_decomposition_without_a_curve(study: Study, tmp_path: Path) -> None:
    nothing = replace(decompose(study, 2), curve=(point(0, 0.3, 0.3),))
    assert curve_figure(nothing.curve) == curve_figure([]) == ""
    with pytest.raises(
        SubspectError, match="'contribution-k2' has no curve of cost against k: method 'pursuit' makes one"
    ):
        write_curve(decompose(study, 2, method="contribution"), tmp_path / "curve.svg")
    assert not (tmp_path / "curve.svg").exists()


def test_a_curve_of_nothing_is_no_figure(study: Study, tmp_path: Path) -> None:
    made = replace(decompose(study, 2), curve=(point(0, 0.3, 0.3),))
    with pytest.raises(SubspectError, match="has no curve of cost against k"):
        write_curve(made, tmp_path / "curve.svg")


# The curve of a decomposition -----------------------------------------------------------------------------------------


def test_the_curve_is_what_evaluation_says_of_each_size(study: Study) -> None:
    made = decompose(study, 2)
    assert [(one.k, one.refit) for one in made.curve] == [(k, False) for k in range(1, 7)] + [(2, True)]
    for one in made.curve:
        if one.k == 6:
            assert one.fidelity == 1 and one.accuracy == one.dense_accuracy
            continue
        cost = evaluate(study, decompose(study, int(one.k), refit=one.refit)).overall
        assert one.images == cost.images == 45
        assert (one.fidelity, one.accuracy) == pytest.approx((cost.fidelity.value, cost.accuracy.value))
        assert one.dense_accuracy == pytest.approx(cost.dense_accuracy.value)


# The terminal ---------------------------------------------------------------------------------------------------------


def cells(table: Table) -> list[tuple[str, ...]]:
    return list(zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True))


def printed(table: Table) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(table)
    return " ".join(captured.get().split())


def test_the_curve_as_a_table(study: Study) -> None:
    table = curve_table(replace(decompose(study, 2), curve=tuple(BOTH)))
    assert cells(table) == [
        ("1", "█" * round(30 * 0.42), "42.00 %", "35.00 %", "as pursued"),
        ("2", "█" * round(30 * 0.61), "61.00 %", "55.00 %", "as pursued"),
        ("5", "█" * round(30 * 0.93), "93.00 %", "79.00 %", "re-learned"),
        ("8", "█" * round(30 * 0.9), "90.00 %", "78.00 %", "as pursued"),
    ]
    text = printed(table)
    assert "pursuit-k2: what few features cost" in text
    assert "1,234 images; dense accuracy 80.00 %" in text


def test_the_table_of_a_curve_of_one_kind(study: Study) -> None:
    made = decompose(study, 2)
    for refit in (True, False):
        table = curve_table(replace(made, curve=tuple(replace(one, refit=refit) for one in REFITTED)), width=10)
        assert [row[0] for row in cells(table)] == ["1", "2.5", "40"] and cells(table)[2][1] == "█" * 10
        assert {row[4] for row in cells(table)} == {"re-learned" if refit else "as pursued"}
    high = curve_table(replace(made, curve=(point(3, 0.95, 0.7), point(4, 1, 0.8))))
    assert [row[1] for row in cells(high)] == ["█" * round(30 * 0.95), "█" * 30]


def with_trust(made: Decomposition) -> Decomposition:
    """The same with two features a class, of which the first of class 0 has two substitutes."""
    entries = len(made.supports.flat)
    stability, recovered = torch.ones(entries), torch.zeros(entries, 3)
    substitutes = torch.full((entries, 3), -1)
    stability[0], stability[1] = 0.65, 0.05
    substitutes[0, :2], recovered[0, :2] = torch.tensor([41, 37]), torch.tensor([0.97, 0.614])
    equal, core = torch.zeros(entries, 3, dtype=torch.bool), torch.ones(entries, dtype=torch.bool)
    equal[0, 0], core[0] = True, False
    known = Trusted(
        stability,
        jaccard=torch.tensor([0.625, 1.0, 1.0]),
        draws=torch.tensor([20, 20, 0]),
        distinct=torch.tensor([7, 1, 0]),
        substitutes=substitutes,
        recovered=recovered,
        equal=equal,
        core=core,
        near_equal=torch.tensor([2, 1, 1]),
        tolerance=torch.full((3,), 0.00123),
    )
    return replace(made, trust=known)


def test_stability_and_substitutes_in_the_terminal(study: Study) -> None:
    made = with_trust(decompose(study, 2))
    assert made.trust is not None
    share = 100 * made.trust.stability[:4].mean().item()  # those of the third class weren't drawn
    stays = (
        f"stability: on halves of the images, {share:.0f} % of these features are chosen again, on average over 20; `"
    )
    assert stays in printed(made.tables()[0]) and stays in printed(summary(made, evaluate(study, made)))
    undrawn = replace(made, trust=replace(made.trust, draws=torch.zeros(3, dtype=torch.int64)))
    assert "stability" not in printed(undrawn.tables()[0])
    table = features(made, 0)
    first, second = made.rows(0)
    assert [str(column.header) for column in table.columns][-2:] == ["stability", "substitutes"]
    assert [row[-2:] for row in cells(table)] == [
        ("5 % (1–24)", ""),
        ("65 % (43–82)", "41 (97 %), 37 (61 %)"),
    ]
    assert [row[0] for row in cells(table)] == [str(second.feature), f"one of {first.feature}, 41"]  # the core first
    text = printed(table)
    assert (
        f"2 sets of 2 features were found that explain as much (to 0.0012 nats): all of them have {second.feature}; "
        "20 halves of the images gave 7 different sets; two halves share 62 % of the features, on average"
    ) in text
    assert "substitutes: features that could stand in" in text and "by chance" not in text
    table = features(made, 1)
    assert [row[-2:] for row in cells(table)] == [("100 % (84–100)", "")] * 2
    assert (
        "no other 2 features were found that explain as much (to 0.0012 nats); all 20 halves of the images gave one set"
        in printed(table)
    )
    assert "of the 2 that 90 % of the halves or more give, at most 0.8 are there by chance, on average" in printed(
        table
    )
    steady = replace(made, history=(replace(made.chosen, stable=True), *made.history[1:]))
    assert "by chance" not in printed(features(steady, 1))
    assert "ties are broken by the dense head's weights, alike on all halves" in printed(features(steady, 1))
    assert "stability: share" not in printed(features(made, 1, legend=False))
    assert "by chance" not in printed(features(made.without(1, made.rows(1)[0].feature), 1))
    table = features(made, 2)
    assert [str(column.header) for column in table.columns][-1] == "substitutes" and len(table.columns) == 6
    assert "substitutes: features that" in printed(table) and "stability" not in printed(table)
    assert made.class_json(2)["jaccard"] is None and made.class_json(0)["draws"] == 20
    none = features(replace(made, trust=replace(made.trust, core=torch.zeros(6, dtype=torch.bool))), 0)
    assert "no feature is in all of them" in printed(none)


def test_a_method_without_trust_has_no_such_columns(study: Study) -> None:
    table = features(decompose(study, 2, method="contribution"), 0)
    assert [str(column.header) for column in table.columns] == [
        "feature",
        "weight",
        "frequency",
        "mean",
        "contribution",
    ]
    assert table.caption is None


# The report -----------------------------------------------------------------------------------------------------------


def page(study: Study, made: Decomposition) -> str:
    return " ".join(
        write_report(study, made, fidelity=evaluate(study, made), show_images=False).read_text(encoding="utf-8").split()
    )


def test_the_report_shows_stability_and_substitutes(study: Study) -> None:
    made = with_trust(decompose(study, 2))
    text = page(study, made)
    rows = re.findall(
        r"<td>((?:\d+&nbsp;% <span class=\"dim\">\(\d+–\d+\)</span>)?)</td><td class=\"left\">(.*?)</td>", text
    )
    first = '41&nbsp;<span class="dim">97&nbsp;%</span>, 37&nbsp;<span class="dim">61&nbsp;%</span>'
    told = ['5&nbsp;% <span class="dim">(1–24)</span>', '65&nbsp;% <span class="dim">(43–82)</span>']
    whole = '100&nbsp;% <span class="dim">(84–100)</span>'
    assert rows == [(told[0], ""), (told[1], first), (whole, ""), (whole, ""), ("", ""), ("", "")]
    assert (
        text.count('<th scope="col">stability</th>') == 3
        and "<dt>substitutes</dt><dd>features that could stand in" in text
    )
    assert (
        text.count("20 halves of the images gave") == 2
        and text.count("ll 20 halves of the images gave one set") == 1
        and "two halves share 62 % of the features, on average." in text
    )
    assert text.count('<span class="dim"> or&nbsp;41</span>') == 1 and "2 sets of 2 features were found" in text
    assert text.count("the share that is in both (Jaccard index)") == 1


def test_the_report_shows_the_curve(study: Study) -> None:
    made = decompose(study, 2)
    text = page(study, made)
    assert " ".join(curve_figure(made.curve).split()) in text and "Cost against the number of features" in text
    assert "on 45 images that took no part in choosing the features." in text
    used = set(re.findall(r"var\(--(\w+)\)", curve_figure(made.curve)))
    assert used <= set(COLOURS)
    for name in used:
        assert list(dict.fromkeys(re.findall(rf"--{name}: (#[0-9a-f]{{3,6}});", text))) == list(COLOURS[name])


def test_the_report_of_another_method_has_neither(study: Study) -> None:
    text = page(study, decompose(study, 2, method="contribution")).partition('id="cost"')[
        2
    ]  # findings say what is missing
    assert text
    for word in ("Cost against", "tability", "ubstitutes", "Jaccard", "romise"):
        assert word not in text


def settled(made: Decomposition, **auto: object) -> Decomposition:
    about = {"tolerance": 0.04, "measure": "fidelity", "met": True, "promise": None, "no_promise": None, **auto}
    step = Settled(sized_on=("test", "all"), **about)  # type: ignore[arg-type]
    return replace(made, history=(replace(made.chosen, k="auto"), step, *made.history[1:]))


def test_the_report_states_the_promise(study: Study) -> None:
    made = decompose(study, 2)
    promise = Promised(text="at least 96.0 % agreement", set="<unseen>")
    text = page(study, settled(made, promise=promise, no_promise=None))
    assert (
        "Number of features: the fewest features for which a loss of at most 4 points of fidelity can be promised"
        in text
    )
    assert (
        "; promise: at least 96.0 % agreement, from images of &#39;&lt;unseen&gt;&#39;." in text
        and "<unseen>" not in text
    )
    text = page(study, settled(made, met=False, measure="accuracy", promise=None, no_promise="since it rained"))
    assert "there is no number of features that lose at most 4 points of accuracy on &#39;" in text
    assert "; promise: none, since it rained." in text
    assert "by pursuit, k = auto, on train" in text
    assert "promise" not in page(study, made)


def test_the_report_tells_a_mean_and_a_pool(study: Study) -> None:
    text = page(study, decompose(study, Mean(2.5), pool=4))
    assert "pursuit-mean2.5-pool4: by pursuit, 2.5 for each class on average, from a pool of 4, on train" in text
    text = page(study, decompose(study, 2))
    assert "pursuit-k2: by pursuit, k = 2, on train" in text and "from a pool" not in text


def test_a_class_without_images_has_no_overlap_to_tell(tiny: Tiny, tmp_path: Path) -> None:
    study = subspect.observe(subspect.Network(tiny), (torch.rand(60, 3, 8, 8), np.arange(60) % 2), tmp_path / "study")
    text = page(study, decompose(study, 2))
    assert text.count("4 halves of the images gave") == 2 and "it keeps all 6 of its dense weights" in text
    assert "features for each class that images were seen of; the other 1 keep all</div>" in text


def test_the_report_of_a_network_that_always_says_the_same(tmp_path: Path) -> None:
    model = Tiny()
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.zero_()
    network = subspect.Network(model, head="fc")
    study = subspect.observe(network, (torch.rand(40, 3, 8, 8), np.arange(40) % 3), tmp_path / "study")
    assert "features for each class" in page(study, decompose(study, 2))
