"""Names of features: kept in the study, shown wherever a number is, taken where a feature is asked for; and every refusal."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from safetensors import safe_open
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

import subspect
from commands import command, parsed, said
from conftest import Tiny, reseal
from subspect import Decomposition, Network, Study, SubspectError, decompose, from_features, name_features
from subspect.heads import feature_names as called
from subspect.studies.feature_names import FILE

NAMES = {0: "whiskers", 1: "long <b>tail</b>", 2: "$x$ & more", 4: "2024"}


def cells(result: Any) -> str:
    """Return all that the tables of a result show."""
    page: str = result._tables_html()
    return page.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def show(path: Path, *options: str) -> str:
    return " ".join(command(" ".join(["show", str(path), *options])).stdout.split())


# The names ------------------------------------------------------------------------------------------------------------


def test_one_way_to_show_a_feature() -> None:
    assert called.shown(0, NAMES) == "0 · whiskers" and called.shown(3, NAMES) == "3"
    assert called.listed([3, 5], NAMES) == "3 5" and called.listed((5, 0), NAMES) == "5, 0 · whiskers"
    assert called.occurring([4, 0, 3, 0], NAMES) == {0: "whiskers", 4: "2024"}
    assert called.columns(3, NAMES) == {"feature": 3, "feature_name": None} and called.columns(3, {}) == {"feature": 3}
    assert called.names_in(["0", "b", "", "x\n", "4.5"]) == {1: "b", 4: "4.5"}


def test_a_number_is_an_index_and_all_else_a_name() -> None:
    for given, wanted in {"whiskers": 0, "3": 3, 5: 5, np.int64(2): 2}.items():
        assert called.feature_index(given, NAMES, 6) == wanted  # type: ignore[arg-type]
    for given, told in (
        ("wiskers", r"no feature 'wiskers' \(did you mean 'whiskers'\?\); .* 0 to 5; 4 have names"),
        ("6", "'6'"),
    ):
        with pytest.raises(SubspectError, match=told):
            called.feature_index(given, NAMES, 6)
    with pytest.raises(SubspectError, match=r"no feature '-1'; the features are 0 to 5$"):
        called.feature_index(-1, {}, 6)


def test_names_are_kept_and_taken_away(study: Study) -> None:
    assert dict(study.feature_names) == {} and not (study.path / FILE).exists()
    made = study.name_feature(3, "paw")
    assert made.names == {3: "paw"} and made.n_features == 6 and cells(made).count("paw") == 1
    assert subspect.open_study(study.path).feature_names == {3: "paw"}
    assert name_features(study.path, {0: "ear", 5: "eye"}).names == {0: "ear", 3: "paw", 5: "eye"}
    assert list(study.feature_names) == [0, 3, 5]  # in order, whatever was named last
    assert study.name_feature("paw", "claw").names[3] == "claw"
    assert study.name_feature("claw", None).names == {0: "ear", 5: "eye"}
    assert study.name_features(list("abcdef")).to_frame()["feature_name"].tolist() == list("abcdef")
    assert study.to_json()["feature_names"]["2"] == "c" and "6 of 6 features have one" in cells(study)
    assert study.verify(show_progress=False).sound and not study.verify(show_progress=False).notes


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({6: "x"}, "there is no feature 6; names are given to features from 0 to 5"),
        ({"a": "x"}, "no feature 'a'; the features are 0 to 5; 1 have names: paw"),
        ({3: "x", "paw": "y"}, "feature 3 · paw is named twice; give it one name"),
        ({-1: "x"}, "there is no feature -1"),
        ({0: ""}, r"feature 0 cannot be called '': a name must be text of 1 to 100 characters"),
        ({0: "x" * 101}, "a name must be text of 1 to 100"),
        ({0: " x"}, "without spaces at its ends"),
        ({0: "a\x1b[31m"}, "without control characters"),
        ({0: "a\u202eb"}, "without control characters"),
        ({0: 7}, "feature 0 cannot be called 7"),
        ({0: "ear", 4: "ear"}, "features 0 and 4 would both be called 'ear'; give each a name of its own"),
        ({0: "paw"}, "features 0 and 3 would both be called 'paw'"),
        (["a", "b"], "2 names for 6 features; give one for each"),
        ("abcdef", 'names of features must be {"37": "whiskers", …}'),
        (7, "names of features must be"),
    ],
)
def test_what_is_no_name_is_refused(names: Any, told: str, study: Study) -> None:
    study.name_feature(3, "paw")
    before = (study.path / FILE).read_bytes()
    with pytest.raises(SubspectError, match=re.escape(told) if told[0] != "r" else told):
        name_features(study, names)
    assert (study.path / FILE).read_bytes() == before


def test_a_file_of_names_is_believed_only_if_it_is_ours(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    path = study.path / FILE
    study.name_feature(3, "paw")
    whole = path.read_text()
    path.write_text(whole.replace("paw", "pew"))
    with pytest.raises(
        SubspectError, match=r"is damaged: .*; restore it from a backup, or delete it and name the feat"
    ):
        _ = study.feature_names
    assert [fault.path for fault in study.verify(show_progress=False).faults] == [FILE]
    with pytest.raises(SubspectError, match="is damaged"):  # nor written over
        study.name_feature(1, "ear")
    for change, told in (
        ({"weights": "0" * 64}, "belongs to another study: its weights differ"),
        ({"names": {"6": "x"}}, "there is no feature 6"),
        ({"names": {"03": "x"}}, "is not a file of names of subspect"),
        ({"more": 1}, "is not a file of names of subspect"),
    ):
        path.write_text(whole)
        reseal(path, **change)
        with pytest.raises(SubspectError, match=told):
            _ = study.feature_names
    path.unlink()
    path.symlink_to(study.path / "study.json")
    with pytest.raises(SubspectError, match="is a link"):
        _ = study.feature_names
    path.unlink()
    monkeypatch.setattr("subspect.studies.feature_names.JSON_BYTES", 1010)
    with pytest.raises(SubspectError, match=r"the names of 1 feature take 0 MiB, more than a study reads"):
        study.name_feature(1, "ear")


# Everywhere -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def named(study: Study) -> tuple[Study, Decomposition]:
    made = decompose(study, 3)
    study.name_features(NAMES)
    return study, made


def test_every_answer_shows_names_and_keeps_numbers(named: tuple[Study, Decomposition], tmp_path: Path) -> None:
    study, made = named
    again = subspect.compare(study, "pursuit-k3", first="a", second="b")
    explanation = made.explain(Network(Tiny(), class_names=("a", "b", "c")), tmp_path / "test/a/000.png")
    label, feature = next((label, one) for label in range(3) for one in made.supports[label].tolist() if one in NAMES)
    edited = made.edit([(label, NAMES[feature] if feature != 4 else 4)])
    results = [made, again, explanation, made.diff(edited.decomposition), edited]
    for one in results:
        assert re.search(r"\d · (whiskers|long <b>tail</b>|\$x\$ & more|2024)", cells(one)), one
    used = set(made.supports.flat.tolist())
    for one in (made, again, explanation):
        names = one.to_json()["feature_names"]
        assert names and set(names.items()) <= {(str(key), name) for key, name in NAMES.items()}
    assert {int(key) for key in made.to_json()["feature_names"]} >= used & set(NAMES)
    assert made.to_json()["classes"][label]["features"][0]["feature"] in range(6)
    assert edited.to_json()["feature_names"] == {str(feature): NAMES[feature]} and edited.dropped[0][1] == feature
    assert f"without feature {feature} · {NAMES[feature]}" in edited.decomposition.edits[0]
    assert [set(side) <= set(map(str, NAMES)) for side in results[3].to_json()["feature_names"]] == [True, True]
    frame = explanation.to_frame()
    assert frame["feature_name"].fillna("").tolist() == [NAMES.get(one, "") for one in frame["feature"]]
    assert made.to_frame()["feature_name"].notna().any() and again.to_frame()["feature_name"].notna().any()
    assert study.selectivity(k=2).to_json()["feature_names"] == {str(key): name for key, name in NAMES.items()}
    texts = [text.get_text() for axes in explanation.plot().axes for text in axes.get_yticklabels()]
    assert any("· whiskers" in text or r"\$x\$" in text or "2024" in text or "tail" in text for text in texts)


def test_a_renamed_feature_is_still_of_the_same_choice(named: tuple[Study, Decomposition]) -> None:
    """Names are the study's: a decomposition's file has none, and making it again replaces it."""
    study, made = named
    path = study.path / "decompositions/pursuit-k3.safetensors"
    before = path.read_bytes()
    edited = made.edit([(0, int(made.supports[0][0]))]).decomposition
    study.name_feature(0, "vibrissae")
    assert decompose(study, 3).name == "pursuit-k3" and path.read_bytes() == before
    assert made.edit([(0, int(made.supports[0][0]))]).decomposition.name == edited.name
    assert "vibrissae" in cells(made)


def test_names_go_along_in_files(named: tuple[Study, Decomposition], tmp_path: Path) -> None:
    _, made = named
    wanted = made.to_json()["feature_names"]
    made.export(tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        assert json.loads(file.metadata()["subspect"])["feature_names"] == wanted
    read = Decomposition.load(tmp_path / "net.safetensors")
    assert {str(key): name for key, name in read.feature_names.items()} == wanted and cells(read) == cells(
        made
    ).replace("pursuit-k3", "net")
    network = Network(Tiny(), class_names=("a", "b", "c"))
    assert made.export(tmp_path / "net.pt2", network=network).about["feature_names"] == wanted


def test_a_file_with_wrong_names_is_refused(named: tuple[Study, Decomposition], tmp_path: Path) -> None:
    _, made = named
    for names, told in (
        ({"9": "x"}, "there is no feature 9"),
        ({"x": "y"}, "feature_names"),
        ({"0": ""}, "cannot be called"),
    ):
        (tmp_path / "odd.safetensors").write_bytes(Decomposition.to_bytes(_with(made, {}), {}))
        _resealed(tmp_path / "odd.safetensors", names)
        with pytest.raises(SubspectError, match=rf"odd\.safetensors is not a decomposition of subspect: .*{told}"):
            Decomposition.load(tmp_path / "odd.safetensors")


def _with(made: Decomposition, names: dict[int, str]) -> Decomposition:
    from dataclasses import replace

    return replace(made, study=None, names_in_file=names)


def _resealed(path: Path, names: dict[str, str]) -> None:
    from subspect.ground.seals import read_tensors, tensor_bytes

    tensors, header = read_tensors(path, "a decomposition")
    path.write_bytes(tensor_bytes(tensors, {**header, "feature_names": names}))


def test_the_report_shows_names_as_text(named: tuple[Study, Decomposition], monkeypatch: pytest.MonkeyPatch) -> None:
    study, made = named
    page = made.report(show_images=False, show_progress=False).read_text()
    assert "<b>tail" not in page
    used = sorted(set(made.supports.flat.tolist()) & set(NAMES))
    assert used
    for one in used:
        name = f"{one} · {NAMES[one]}".replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert f'data-name="{name.lower()} ' in page and f">{name}</a>" in page and f"<summary>Feature {name} <" in page
    monkeypatch.setattr("subspect.report.SINGLE", 2)
    many = made.report(study.path.parent / "many.html", show_images=False, show_progress=False)
    [single] = many.parent.glob(f"many-pages/*/feature-{used[0]}.html")
    name = f"{used[0]} · {NAMES[used[0]]}".replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f"<h1>Feature {name}</h1>" in single.read_text() and f'<tr data-name="{name.lower()}">' in many.read_text()


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command(study: Study, tmp_path: Path) -> None:
    decompose(study, 3)
    path = study.path
    assert "0 of 6 features have a name" in command(f"name {path}").stdout
    assert parsed(f"name {path} 3 'long whiskers'")["feature_names"] == {"3": "long whiskers"}
    (tmp_path / "names.json").write_text(json.dumps({"3": None, "0": "ear", "5": "eye"}))
    assert parsed(f"name {path} --file {tmp_path / 'names.json'}")["feature_names"] == {"0": "ear", "5": "eye"}
    assert parsed(f"name {path} eye --remove") == {"study": str(path), "features": 6, "feature_names": {"0": "ear"}}
    (tmp_path / "names.json").write_text(json.dumps(["a", "b", "c", "d", "e", "f"]))
    command(f"name {path} --file {tmp_path / 'names.json'}")
    listed = command(f"name {path}").stdout
    assert all(re.search(rf"{number} │ {name}", listed) for number, name in enumerate("abcdef"))
    assert " · " in show(path, "--class", "a") and "6 of 6 features have one" in show(path)
    assert parsed(f"show {path} --class a")["feature_names"]
    assert parsed(f"decompose {path} -k 2")[0]["decomposition"]["feature_names"]
    assert " · " in command(f"decompose {path} -k 2").stdout


def test_drop_by_name(study: Study) -> None:
    made = decompose(study, 3)
    feature = int(made.supports[0][1])
    study.name_feature(feature, "the corner")
    assert parsed(f"edit {study.path} --drop 'a:the corner'")["dropped"] == [["a", feature]]
    assert (
        f"a without {feature} · the corner"
        in command(f"edit {study.path} --decomposition {made.name} --drop a:{feature}").stdout
    )
    assert "no feature 'the cornet' (did you mean 'the corner'?)" in said(f"edit {study.path} --drop 'a:the cornet'", 1)
    assert "--drop takes CLASS:FEATURE, each by name or index; got 'a'" in said(f"edit {study.path} --drop a", 1)
    other = next(one for one in range(6) if one not in made.supports[0])
    study.name_feature(other, "elsewhere")
    told = said(f"edit {study.path} --decomposition {made.name} --drop a:elsewhere", 1)
    assert f"doesn't use feature {other} · elsewhere in" in told and f"{feature} · the corner" in told
    with pytest.raises(SubspectError, match=rf"feature {feature} · the corner of class 'a' is to be dropped twice"):
        made.edit([("a", "the corner"), (0, feature)])


@pytest.mark.parametrize(
    "line", ["3", "3 x --remove", "--remove", "3 x --file names.json", "3 --remove --file names.json"]
)
def test_a_command_that_says_two_things_is_refused(line: str, study: Study) -> None:
    assert "name features by one of: FEATURE NAME; FEATURE --remove" in said(f"name {study.path} {line}", 1)


@pytest.mark.parametrize("text", [f'{{"{"9" * 5000}": "x"}}', '{"01": "x"}', '"x"', "7"])
def test_a_file_that_holds_no_names_is_refused(text: str, study: Study, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(text)
    assert 'names.json is no file of names: it must be {"37": "whiskers", …}' in said(
        f"name {study.path} --file {tmp_path / 'names.json'}", 1
    )
    assert "there is no feature" not in command(f"name {study.path}").stdout


def test_a_file_takes_features_by_their_names(study: Study, tmp_path: Path) -> None:
    study.name_features({0: "ear", 3: "paw"})
    (tmp_path / "names.json").write_text(json.dumps({"paw": "claw", "ear": None, "5": "eye"}))
    made = command(f"name {study.path} --file {tmp_path / 'names.json'}")
    assert study.feature_names == {3: "claw", 5: "eye"}
    assert "named: 3 · claw, 5 · eye; without a name now: 0 · ear" in made.stderr and not made.stdout
    (tmp_path / "names.json").write_text(json.dumps({"clew": "x"}))
    told = said(f"name {study.path} --file {tmp_path / 'names.json'}", 1)
    assert "no feature 'clew' (did you mean 'claw'?); the features are 0 to 5; 2 have names: claw, eye" in told


def test_a_bare_number_is_no_name(study: Study, tmp_path: Path) -> None:
    wanted = "feature 3 cannot be called '12': a bare number is taken as a feature's index; add a word to it"
    with pytest.raises(SubspectError, match=wanted):
        study.name_feature(3, "12")
    (tmp_path / "names.json").write_text(json.dumps({"3": "12"}))
    assert wanted in said(f"name {study.path} --file {tmp_path / 'names.json'}", 1)
    assert study.feature_names == {}


def test_naming_says_what_changed_alone(study: Study) -> None:
    study.name_features({0: "ear", 5: "eye"})
    made = command(f"name {study.path} 3 paw")
    assert made.stderr == "named: 3 · paw\n" and made.stdout == ""
    quiet = command(f"name {study.path} paw claw --quiet")
    assert quiet.stderr == quiet.stdout == "" and study.feature_names[3] == "claw"
    assert command(f"name {study.path} 3 claw").stderr == "the names are as they were\n"
    assert command(f"name {study.path} 3 --remove").stderr == "without a name now: 3 · claw\n"


# With features alone --------------------------------------------------------------------------------------------------


def words(folder: Path, **given: Any) -> tuple[Study, TfidfVectorizer, Any]:
    topics = {"cooking": "oven flour butter salt dough", "sailing": "boat wind harbour mast tide"}
    texts = [" ".join(np.random.default_rng(n).choice(own.split(), 4)) for n in range(12) for own in topics.values()]
    vectorizer = TfidfVectorizer().fit(texts)
    features, labels = vectorizer.transform(texts), ["cooking", "sailing"] * 12
    head = LogisticRegression(C=10.0).fit(features, labels)
    known = {"feature_names": vectorizer.get_feature_names_out(), "class_names": list(topics), "labels": labels}
    return from_features(features, head.coef_, head.intercept_, folder, **{**known, **given}), vectorizer, features


def test_features_come_with_names(tmp_path: Path) -> None:
    study, vectorizer, _ = words(tmp_path / "study")
    assert dict(enumerate(vectorizer.get_feature_names_out())) == study.feature_names
    before = (study.path / FILE).stat().st_mtime_ns
    words(tmp_path / "study")
    words(tmp_path / "study", feature_names=None)
    assert (study.path / FILE).stat().st_mtime_ns == before  # the same call does nothing
    made = study.decompose(k=3, show_progress=False)
    told = made.compare("cooking", "sailing")
    best = told.separators[0]
    assert best.separation > 0 and f"{best.feature} · {vectorizer.get_feature_names_out()[best.feature]}" in cells(told)


def test_a_name_that_a_feature_has_in_the_study_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study, vectorizer, _ = words(tmp_path / "study", feature_names={0: "b", 2: "c"})
    study.name_feature(0, "mine")
    with caplog.at_level("INFO", "subspect"):
        words(tmp_path / "study", name="again")
    assert study.feature_names[0] == "mine" and study.feature_names[1] == vectorizer.get_feature_names_out()[1]
    assert "2 of 10 features are called otherwise in the study" in caplog.text
    assert "feature 0 is 'mine' there, 'boat' here, feature 2 is 'c' there" in caplog.text


def test_columns_in_another_order_are_noticed(tmp_path: Path) -> None:
    study, vectorizer, _ = words(tmp_path / "study")
    moved = np.roll(vectorizer.get_feature_names_out(), 1)
    with pytest.raises(
        SubspectError,
        match=r"'wind' is feature 9 in the study .*, and 0 here: give the features in the order of the head's",
    ):
        words(tmp_path / "study", name="test", feature_names=moved)
    assert study.set_names == ["train"]
    with pytest.raises(SubspectError, match="features 0 and 1 would both be called 'x'"):
        words(tmp_path / "new", feature_names=["x", "x"] + [f"y{n}" for n in range(8)])
    assert not os.path.lexists(tmp_path / "new")


def test_a_tables_columns_are_names(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    table = pa.table({"age": x[:, 0], "1": x[:, 1], "two\nlines": x[:, 2], "id": [f"r{n}" for n in range(30)]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    np.savez(tmp_path / "head.npz", weight=np.eye(3), bias=np.zeros(3))
    made = parsed(f"features {tmp_path / 'x.parquet'} --head {tmp_path / 'head.npz'} -o {tmp_path / 'study'}")
    assert made["feature_names"] == {"0": "age"}
