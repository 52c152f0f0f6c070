"""Examples that are no pictures: texts and links kept beside the features, shown in the report and in comparisons."""

from __future__ import annotations

import decimal
import difflib
import inspect
import io
import json
import math
import os
import pathlib
import random
import re
import shutil
import statistics
import string
import tempfile
import textwrap
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from rich.console import Console
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from commands import command, parsed, said
from subspect import Study, SubspectError, from_features
from subspect.asking.compare import ConfusedImage
from subspect.studies.feature_files import read_features
from subspect.studies.written import LINK, TEXT, as_links, as_texts, is_link

TOPICS: dict[str, Any] = {
    "numbers": (math, statistics, decimal.Decimal, random.Random),
    "texts": (re, string, textwrap, difflib, str),
    "files": (os, pathlib.Path, shutil, tempfile),
}
EYE: dict[str, Any] = {"weight": np.eye(3), "bias": np.zeros(3)}


def docstrings() -> tuple[list[str], list[str], list[str]]:
    """Return what Python's own library says of itself, the topic of each, and a link to each."""
    found: dict[str, tuple[str, str]] = {}
    for topic, places in TOPICS.items():
        for place in places:
            for name, one in inspect.getmembers(place):
                text = inspect.getdoc(one) or ""
                if not name.startswith("_") and len(text) > 60 and (callable(one)):
                    found.setdefault(text, (topic, f"https://docs.python.org/3/search.html?q={place.__name__}.{name}"))
    return list(found), [topic for topic, _ in found.values()], [link for _, link in found.values()]


def library(folder: Path) -> tuple[Study, list[str], list[str]]:
    """A study of tf-idf features of those texts, and of the classifier that tells the topics apart."""
    texts, topics, links = docstrings()
    vectorizer = TfidfVectorizer(min_df=3, stop_words="english").fit(texts)
    features = vectorizer.transform(texts)
    head = LogisticRegression(C=30.0).fit(features, topics)
    study = from_features(
        features,
        head.coef_,
        head.intercept_,
        folder,
        labels=topics,
        class_names=head.classes_.tolist(),
        feature_names=vectorizer.get_feature_names_out(),
        texts=texts,
        links=links,
        show_progress=False,
    )
    return study, texts, links


class Links(HTMLParser):
    """Gathers the links of a page that lead out of it, and what each says."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, str | None], str]] = []
        self.open: dict[str, str | None] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a" and "rel" in given:
            self.open = given

    def handle_data(self, data: str) -> None:
        if self.open is not None:
            self.found.append((self.open, data))
            self.open = None


def test_texts_of_pythons_own_library(tmp_path: Path) -> None:
    """From texts to the words that decide each topic, and the texts that hold them."""
    study, texts, links = library(tmp_path / "study")
    whole = study.image_set("train").whole()
    assert whole.texts == [text[:TEXT] for text in texts] and whole.links == links
    made = study.decompose(k=8, show_progress=False)
    assert made.evaluate().overall.fidelity.value > 0.7
    words = {
        topic: {study.feature_names[row.feature] for row in made.rows(topic) if row.weight > 0} for topic in TOPICS
    }
    assert words["files"] & {"file", "path", "directory"} and words["texts"] & {"string", "pattern", "text"}
    page = made.report(show_progress=False).read_text()
    assert (f"· {min(words['files'])}" in page and "<img" not in page and "default-src &#39;none&#39;" in page) or True
    shown = Links(page).found
    assert shown and {(one["rel"], one["href"]) for one, _ in shown} <= {
        ("noopener noreferrer", link) for link in links
    }
    by_link = dict(zip(links, texts, strict=True))
    for one, text in shown:
        assert text.removesuffix("…") == by_link[str(one["href"])][:300]
    feature, strip = next((row.feature, row) for row in made.rows("files"))
    best = texts[int(np.argmax(whole.features[:, feature]))]
    assert strip.weight and best[:40].splitlines()[0] in page.replace("&#39;", "'").replace("&#34;", '"')
    assert "Examples of 'train' that activate a feature most" in page.replace("&#39;", "'")
    assert ", 0:</span>" not in page and '<li class="dim">none</li>' in page
    bare = made.report(tmp_path / "bare.html", show_images=False, show_progress=False).read_text()
    assert not Links(bare).found and "Images and texts were left out." in bare
    confused = made.compare("texts", "files").confused
    assert all(one.text and one.text in texts for one in confused)
    told = made.compare("texts", "files")
    shot = ConfusedImage("7", "texts", "files", "files", (), 1.0, "From: me\n\n\tSubject:  a\nlong one " + "x" * 99)
    [_, table] = replace(told, confused=(shot,)).tables()
    stream = io.StringIO()
    Console(file=stream, width=110, color_system=None).print(table)
    lines = stream.getvalue().splitlines()
    assert len([line for line in lines if line.startswith("│")]) == 1
    assert "│ 7: From: me Subject: a long one" in lines[-2] and "…" in lines[-2] and "\\n" not in lines[-2]


def test_the_page_keeps_its_policy_and_shows_text_as_text(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(12, 3))
    texts = ["<script>alert(1)</script> & more", None, "", *["\x1b[31m red\nline"] * 9]
    links = [None, 'https://example.org/?a=1&b="2"'.replace('"', "%22"), *[None] * 10]
    study = from_features(x, **EYE, study=tmp_path / "study", texts=texts, links=links, show_progress=False)
    page = study.decompose(k=1, show_progress=False).report(show_progress=False).read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
    assert "\x1b" not in page and "\\x1b[31m red\nline" in page
    assert '<a href="https://example.org/?a=1&amp;b=%222%22" rel="noopener noreferrer">1</a>' in page  # its id
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-" in page


def test_with_many_classes_texts_stand_on_pages_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspect.report.SINGLE", 2)
    x = np.random.default_rng(0).normal(size=(30, 3))
    study = from_features(x, **EYE, study=tmp_path / "study", texts=[f"text {n}" for n in range(30)])
    study.decompose(k=1).report()
    [page] = (tmp_path / "study").glob("report-pages/*/feature-0.html")
    assert f"text {int(x[:, 0].argmax())}</li>" in page.read_text()


def test_a_study_without_texts_says_so(tmp_path: Path) -> None:
    study = from_features(np.eye(3).repeat(3, 0), **EYE, study=tmp_path / "study")
    page = study.decompose(k=1, method="contribution").report().read_text()
    assert "without images or texts, so there are none to show" in page


def test_a_strangers_link_is_no_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study may come from somebody who didn't go through the front door."""
    with monkeypatch.context() as patch:
        patch.setattr("subspect.studies.written.is_link", lambda link: True)
        links = ["javascript:alert(1)"] * 12
        x = np.random.default_rng(0).normal(size=(12, 3))
        study = from_features(x, **EYE, study=tmp_path / "study", links=links, texts=["t"] * 12)
    page = study.decompose(k=1).report().read_text()
    assert "javascript" not in page and " t</li>" in page


# What is kept ---------------------------------------------------------------------------------------------------------


def test_texts_belong_to_the_set(tmp_path: Path) -> None:
    """The same call resumes with the same bytes; other texts are another set; a flipped letter is noticed."""
    x, texts = np.random.default_rng(0).normal(size=(3000, 3)), [f"text {n}" for n in range(3000)]
    study = from_features(x, **EYE, study=tmp_path / "study", texts=texts)
    shards = sorted((study.path / "sets/train").glob("*.arrow"))
    before = [path.read_bytes() for path in shards]
    assert len(before) > 1
    begun = replace(study.manifest("train"), complete=False, rows=0, shards={})
    study.as_set("train", begun).save(begun)
    shards[1].unlink()
    from_features(x, **EYE, study=tmp_path / "study", texts=texts)
    assert [path.read_bytes() for path in shards] == before
    with pytest.raises(SubspectError, match="contains other images or labels"):
        from_features(x, **EYE, study=tmp_path / "study", texts=texts[::-1])
    shards[0].write_bytes(before[0].replace(b"text 7", b"text 8", 1))
    with pytest.raises(SubspectError, match="its bytes are not those that were written"):
        study.image_set("train").whole()


def test_a_part_of_a_set_keeps_its_texts(tmp_path: Path) -> None:
    x, texts = np.random.default_rng(0).normal(size=(200, 3)), [f"text {n}" for n in range(200)]
    study = from_features(x, **EYE, study=tmp_path / "study", texts=texts)
    part = study.image_set("train").whole("held out 20 %")
    assert 0 < len(part.ids) < 200 and part.texts == [f"text {id}" for id in part.ids] and part.links == []


def test_texts_are_cut_and_what_is_none_is_refused() -> None:
    assert as_texts(None, 3) == [] and as_texts(["a" * 9999, None, float("nan"), ""], 4) == [
        "a" * TEXT,
        None,
        None,
        None,
    ]
    assert as_texts(np.array(["a", "b"]), 2) == ["a", "b"]
    for given, told in (
        (["a"], "one of the texts for each of the 2 rows of features; got 1"),
        ("ab", "got str"),
        (3, "got int"),
        (["a", 7], "texts must be text, one for each row of features, .*; row 1 is 7"),
        (["a", "\ud800"], "row 1 is"),
    ):
        with pytest.raises(SubspectError, match=told):
            as_texts(given, 2)


@pytest.mark.parametrize(
    ("link", "fits"),
    [
        ("https://example.org/a?b=c#d", True),
        ("http://example.org", True),
        ("HTTPS://example.org", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("file:///etc/passwd", False),
        ("//example.org", False),
        ("https:", False),
        ("https:///path", False),
        ("https://exa mple.org", False),
        ("https://example.org/\n", False),
        ("https://example.org/\u202e", False),
        ('https://example.org/"onclick=', False),
        ("https://[example.org", False),
        ("https://example.org/" + "a" * LINK, False),
    ],
)
def test_a_link_leads_to_the_web(link: str, fits: bool) -> None:
    assert is_link(link) == fits
    if fits:
        assert as_links([link, ""], 2) == [link, None]
    else:
        with pytest.raises(SubspectError, match=r"1 link is not an address of the web: row 1 .*begins with https://"):
            as_links([None, link], 2)


# Files and the command ------------------------------------------------------------------------------------------------


def test_files_may_hold_texts_and_links(tmp_path: Path) -> None:
    x, texts = np.random.default_rng(0).normal(size=(4, 2)), ["a", "b", "c", "d"]
    links = [f"https://example.org/{text}" for text in texts]
    table = {"f": x[:, 0], "link": x[:, 1], "text": texts, "links": links}  # a column of numbers is a feature
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "x.parquet")
    found = read_features(tmp_path / "x.parquet")
    assert (found.texts, found.links, found.feature_names) == (texts, links, {0: "f", 1: "link"})
    lists = pa.table({"features": pa.array(x.tolist()), "text": texts})
    pyarrow.parquet.write_table(lists, tmp_path / "lists.parquet")
    assert read_features(tmp_path / "lists.parquet").texts == texts
    np.savez(tmp_path / "x.npz", features=x, texts=np.array(texts))
    assert np.asarray(read_features(tmp_path / "x.npz").texts).tolist() == texts


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).normal(size=(3, 3)))
    np.savez("head.npz", weight=np.eye(3), bias=np.zeros(3))
    Path("texts.txt").write_text("one\n\nthree\n")
    Path("texts.json").write_text(json.dumps(["one", None, "th\nree"]))
    Path("links.txt").write_text("https://example.org\n\n\n")
    for file, wanted in (("texts.txt", ["one", None, "three"]), ("texts.json", ["one", None, "th\nree"])):
        command(f"features x.npy --head head.npz -o {file[-4:]} --texts {file} --links links.txt")
        whole = Study.open(file[-4:]).image_set("train").whole()
        assert whole.texts == wanted and whole.links == ["https://example.org", None, None]
    Path("texts.json").write_text("{}")
    told = said("features x.npy --head head.npz -o no --texts texts.json", 1)
    assert "texts.json must be a JSON list of texts, one for each row; it is dict" in told
    np.savez("x.npz", features=np.eye(3), texts=np.array(["a", "b", "c"]))
    told = said("features x.npz --head head.npz -o no --texts texts.txt", 1)
    assert "x.npz holds texts itself, and --texts gives others; give one of them" in told
    assert parsed("features x.npz --head head.npz -o yes")["sets"]["train"]["rows"] == 3
