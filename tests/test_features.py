"""Studies from features alone: what is stored, what works on them, what says that there is no network, and every refusal."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from matplotlib.text import Text
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import nn

import subspect
from subspect import Network, Study, SubspectError, from_features
from subspect.ground.unfinished import part_name

TOPICS = {
    "cooking": "oven flour butter salt onion garlic recipe bake stir boil pepper dough pan sauce",
    "sailing": "boat wind sail harbour anchor tide mast rope crew deck storm wave keel helm",
    "music": "violin chord melody rhythm concert piano singer drum tune choir guitar note opera song",
}
COMMON = "the a of and with before after some every old new good small"


def texts(topics: tuple[str, ...], each: int, seed: int) -> tuple[list[str], list[str]]:
    """Return made-up texts and the topic of each."""
    generator = np.random.default_rng(seed)
    made = [
        " ".join(
            generator.permutation([*generator.choice(TOPICS[topic].split(), 6), *generator.choice(COMMON.split(), 4)])
        )
        for _ in range(each)
        for topic in topics
    ]
    return made, [topic for _ in range(each) for topic in topics]


def told(
    folder: Path, topics: tuple[str, ...] = tuple(TOPICS)
) -> tuple[Study, LogisticRegression, dict[str, tuple[Any, list[str]]]]:
    """Return a study of texts, the classifier whose head it is about, and the features and labels of its sets."""
    (train, labels), (test, others) = texts(topics, 14, 0), texts(topics, 9, 1)
    vectorizer = TfidfVectorizer().fit(train)
    given = {"train": (vectorizer.transform(train), labels), "test": (vectorizer.transform(test), others)}
    head = LogisticRegression(C=10.0).fit(*given["train"])
    for name, (features, topic) in given.items():
        names = head.classes_.tolist()
        study = from_features(
            features, head.coef_, head.intercept_, folder, name, labels=topic, class_names=names, show_progress=False
        )
    return study, head, given


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def numbers(n: int = 300, width: int = 12, classes: int = 4) -> tuple[Any, Any, Any, Any]:
    """Return features, weight, bias and the labels that the head gives them."""
    generator = np.random.default_rng(3)
    x, weight = generator.normal(size=(n, width)), generator.normal(size=(classes, width))
    features, *head = (part.astype(np.float32) for part in (x, weight, generator.normal(size=classes)))
    return features, *head, (features @ head[0].T + head[1]).argmax(1)


# What is stored, and what works on it ---------------------------------------------------------------------------------


def test_texts_by_their_words(tmp_path: Path) -> None:
    study, head, given = told(tmp_path / "study")
    for name, (features, labels) in given.items():
        (chunk,) = study.image_set(name).chunks()
        assert np.array_equal(chunk.features, features.toarray().astype(np.float32))
        assert [study.identity.class_names[label] for label in chunk.labels] == labels
        assert [study.identity.class_names[label] for label in chunk.predictions] == head.predict(features).tolist()
    weight, bias = study.head()
    assert np.array_equal(weight, head.coef_.astype(np.float32))
    assert np.array_equal(bias, head.intercept_.astype(np.float32))
    manifest = study.image_set("test").manifest
    assert (manifest.kind, manifest.root, manifest.matching) == ("features", None, "by name")

    decomposition = study.decompose(k=3, show_progress=False)
    assert decomposition.evaluate().overall.fidelity.value > 0.8
    decomposition.compare("cooking", "music")
    assert decomposition.essentiality().curves
    study.geometry()
    study.selectivity()
    assert decomposition.edit([(0, int(decomposition.supports[0][0]))], refit_on="train").after.overall.images == 27
    page = decomposition.report().read_text()
    assert "made from features alone" in page and "<img" not in page
    assert study.verify(show_progress=False).sound
    title = study.tables()[0]
    assert "none, features alone: features" in str(list(title.columns[1].cells))


def test_examples_are_not_called_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study, _, _ = told(tmp_path / "study")
    with caplog.at_level(logging.INFO, logger="subspect"):
        made = study.decompose(k="auto", show_progress=False)
        decomposition = study.decompose(k=3, show_progress=False)
    fidelity, pair = decomposition.evaluate(), decomposition.compare("cooking", "music")
    results = [study, made, decomposition, fidelity, pair, decomposition.essentiality(), study.geometry()]
    said = [caplog.text, made.settled or "", *(one._repr_html_() for one in [*results, study.selectivity()])]
    said += [text.get_text() for text in decomposition.plot().findobj(Text)]
    assert fidelity.note.startswith("27 examples of 'test'") and "since no examples were named" in caplog.text
    page = re.sub(r"<(script|style|svg)\b.*?</\1>", "", decomposition.report().read_text(), flags=re.DOTALL)
    assert "Network and examples" in page and "subspect export" not in page and "subspect specialise" not in page
    assert "the same top-1 class as the dense head" in page and "A head whose marks" in page
    for one in (*said, page):
        assert not re.findall(r".{0,40}\bimages?\b.{0,40}", re.sub("without images or texts|image sets", "", one))


def test_examples_that_are_held_out(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((120, 3))
    study = from_features(x, np.eye(3), None, tmp_path / "study", show_progress=False)
    held_out = study.decompose(k=2, show_progress=False).evaluate()
    assert held_out.note == (
        f"{held_out.overall.images} examples of 'train', the 20 % of it held out by a hash of the example's id; no labels: the "
        "dense head's own predictions stand in, so accuracy here is fidelity"
    )


def test_two_classes_by_one_row(tmp_path: Path) -> None:
    study, head, given = told(tmp_path / "study", ("cooking", "music"))
    assert head.coef_.shape[0] == 1
    features, _ = given["test"]
    (chunk,) = study.image_set("test").chunks()
    weight, bias = study.head()
    shares = (torch.from_numpy(chunk.features.copy()) @ weight.T + bias).softmax(1)
    assert np.allclose(shares, head.predict_proba(features), atol=1e-6)
    assert [study.identity.class_names[label] for label in chunk.predictions] == head.predict(features).tolist()
    assert torch.equal(weight[0], -weight[1]) and torch.equal(bias[0], -bias[1])
    assert study.decompose(k=3, show_progress=False).evaluate().overall.fidelity.value > 0.8


def test_diff_of_two_heads_on_the_same_rows(tmp_path: Path) -> None:
    x, weight, bias, labels = numbers()
    for name, shift in (("one", 0.0), ("two", 0.3)):
        study = from_features(x, weight + shift * np.eye(4, 12), bias, tmp_path / name, labels=labels)
        study.decompose(k=3, show_progress=False)
    first, second = (Study.open(tmp_path / name)["pursuit-k3"] for name in ("one", "two"))
    assert first.diff(second).to_json()


def test_the_same_as_observing_a_linear_network(tmp_path: Path) -> None:
    """Features, predictions, ids and shards, and so the decomposition, to the bit."""
    x, weight, bias, labels = numbers(2100)
    model = nn.Sequential()
    model.add_module("head", nn.Linear(12, 4))
    model.load_state_dict({"head.weight": torch.from_numpy(weight), "head.bias": torch.from_numpy(bias)})
    seen = subspect.observe(Network(model), (x, labels), tmp_path / "seen", show_progress=False)
    given = from_features(x, weight, bias, tmp_path / "given", labels=labels, show_progress=False)
    assert seen.identity.fingerprint == given.identity.fingerprint
    assert len(given.image_set("train").manifest.shards) == 3
    for one, other in zip(seen.image_set("train").chunks(), given.image_set("train").chunks(), strict=True):
        assert one.features.tobytes() == other.features.tobytes() and one.ids == other.ids
        assert np.array_equal(one.predictions, other.predictions) and np.array_equal(one.labels, other.labels)
    first, second = (study.decompose(k=3, show_progress=False) for study in (seen, given))
    for a, b in zip(first.matrix(), second.matrix(), strict=True):
        assert a.tobytes() == b.tobytes()
    assert first.evaluate().overall == second.evaluate().overall
    said = second.apply(model)(torch.from_numpy(x[:5]))
    assert torch.allclose(said, first.apply(model)(torch.from_numpy(x[:5])))


def kinds(x: Any) -> Iterator[Any]:
    yield x.tolist()
    yield np.asfortranarray(x.astype(np.float64))
    yield torch.from_numpy(x).requires_grad_()
    yield scipy.sparse.coo_array(x)
    yield pytest.importorskip("pandas").DataFrame(x)


def test_whatever_features_come_in(tmp_path: Path) -> None:
    x, weight, bias, labels = numbers(70)
    from_features(x, weight, bias, tmp_path / "study", labels=labels)
    for number, other in enumerate(kinds(x)):
        head = torch.from_numpy(weight), torch.from_numpy(bias).to(torch.float64)
        from_features(other, *head, tmp_path / f"{number}", labels=torch.from_numpy(labels)[:, None])
        assert files(tmp_path / f"{number}") == files(tmp_path / "study")


def test_counts_half_precision_and_no_bias(tmp_path: Path) -> None:
    counts = np.arange(24).reshape(8, 3) % 5
    for number, x in enumerate((counts, counts.astype(np.float16), torch.tensor(counts).bfloat16(), counts > 2)):
        study = from_features(x, np.eye(3), None, tmp_path / f"{number}")
        assert np.array_equal(study.image_set("train").whole().features, counts > 2 if number == 3 else counts)
        assert not study.image_set("train").labelled and not study.head()[1].any()


def test_ids_and_names_of_later_sets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x, weight, bias, labels = numbers(20)
    ids = [f"text {row}" for row in range(20)]
    from_features(x, weight, bias, tmp_path / "s", ids=ids, class_names=list("abcd"), labels=labels, network="tf-idf")
    study = from_features(x[:9], weight, bias, tmp_path / "s", "test", labels=["abcd"[label] for label in labels[:9]])
    assert study.image_set("train").whole().ids == ids and study.image_set("test").whole().ids[8] == "8"
    assert study.identity.class_names == tuple("abcd") and study.identity.network == "tf-idf"
    assert np.array_equal(study.image_set("test").whole().labels, labels[:9])
    with caplog.at_level(logging.INFO, logger="subspect"):
        from_features(x, weight, bias, tmp_path / "s", ids=ids, class_names=list("abcd"), labels=labels)
    assert "all 20 rows of 'train' are already stored" in caplog.text


def test_what_looks_wrong_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x, weight, bias, labels = numbers()
    from_features(x, weight, bias, tmp_path / "good", labels=labels)
    assert "near chance" not in caplog.text
    from_features(x, weight, bias, tmp_path / "none")
    assert "labels: none; the largest of the head's 4 outputs is taken" in caplog.text
    from_features(x, weight, bias, tmp_path / "bad", labels=(labels + 1) % 4)
    assert "accuracy near chance: 0 of 300 rows of 'train' are right, with 4 classes" in caplog.text


# Going on where it was stopped ----------------------------------------------------------------------------------------

SCRIPT = """
import importlib, sys, time
import subspect
from subspect.studies.image_set import ImageSet
sys.path.insert(0, {tests!r})
from test_features import numbers
importlib.import_module("subspect.studies.shards")._SHARD_IMAGES = 64
write = ImageSet.write
def slow(*arguments):
    time.sleep(0.3)
    write(*arguments)
ImageSet.write = slow
x, weight, bias, labels = numbers()
subspect.from_features(x, weight, bias, {study!r}, labels=labels)
"""


def test_killed_and_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys.modules["subspect.studies.shards"], "_SHARD_IMAGES", 64)
    script = SCRIPT.format(tests=str(Path(__file__).parent), study=str(tmp_path / "killed"))
    process = subprocess.Popen([sys.executable, "-c", script])
    x, weight, bias, labels = numbers()
    from_features(x, weight, bias, tmp_path / "whole", labels=labels)
    first = tmp_path / "killed/sets/train/00000.arrow"
    deadline = time.monotonic() + 60
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = sorted(path.name for path in first.parent.glob("*.arrow"))
    assert 0 < len(left) < 5
    with pytest.raises(
        SubspectError,
        match=r"image set 'train' in .* is unfinished: . of 5 shards; run the same features command again",
    ):
        Study.open(tmp_path / "killed").image_set("train")
    (first.parent / part_name()).write_bytes(b"half a shard")  # what a kill within a write leaves
    with caplog.at_level(logging.INFO, logger="subspect"):
        from_features(x, weight, bias, tmp_path / "killed", labels=labels)
    assert f"resuming: {len(left)} of 5 shards are already stored" in caplog.text
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_other_features_or_another_head_are_refused(tmp_path: Path) -> None:
    x, weight, bias, labels = numbers(70)
    from_features(x, weight, bias, tmp_path / "study", labels=labels)
    before = files(tmp_path / "study")
    for changed, message in (
        ((x + 1, weight, bias), "image set 'train' in .* contains other images or labels: 70 \\(features"),
        ((x, weight + 1, bias), "belongs to another head: it was made with 'features'"),
    ):
        with pytest.raises(SubspectError, match=message):
            from_features(*changed, tmp_path / "study", labels=labels)
    model = nn.Sequential()
    model.add_module("head", nn.Linear(12, 4))
    model.load_state_dict({"head.weight": torch.from_numpy(weight), "head.bias": torch.from_numpy(bias)})
    with pytest.raises(SubspectError, match="another preprocessing: none: features"):
        subspect.observe(Network(model), (x, labels), tmp_path / "study", "test")
    assert files(tmp_path / "study") == before


# There is no network --------------------------------------------------------------------------------------------------


def test_what_needs_a_network_says_that_there_is_none(tmp_path: Path) -> None:
    x, weight, bias, labels = numbers()
    study = from_features(x, weight, bias, tmp_path / "study", labels=labels)
    decomposition, network = study.decompose(k=3, show_progress=False), Network(nn.Linear(12, 4))
    asked: dict[str, Callable[[], object]] = {
        "explain": lambda: decomposition.explain(network, x[0]),
        "export": lambda: decomposition.export(tmp_path / "small.onnx"),
        "report": lambda: decomposition.report(tmp_path / "report.html", network=network),
        "report of images": lambda: decomposition.report(tmp_path / "report.html", images=x),
        "specialise": lambda: decomposition.specialise(network, classes=[0, 1]),
        "tradeoff": lambda: study.tradeoff(network, [10]),
        "retrain": lambda: decomposition.retrain(network, (x, labels), folder=tmp_path / "retrained"),
    }
    for ask in asked.values():
        with pytest.raises(SubspectError, match="was made from features alone, without a network and without images"):
            ask()
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "small.onnx").exists()
    decomposition.export(tmp_path / "small.safetensors")  # the head by itself
    with pytest.raises(
        SubspectError, match=r"was made from features alone, so that there is no network .*; the decomposed "
    ):
        decomposition.apply(nn.Linear(12, 4))
    other = from_features(x, weight * 2, bias, tmp_path / "other", labels=labels)
    with pytest.raises(
        SubspectError, match=r"'pursuit-k3' is of another head \('features', weights .*…\) than the study"
    ):
        subspect.evaluate(other, decomposition)


# Refusals -------------------------------------------------------------------------------------------------------------

X, W, B, Y = numbers(30)
HOLED = X.copy()
HOLED[[4, 7, 9, 11], 2] = np.nan, np.inf, 1, np.nan
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "width": (
        {"features": X[:, :9]},
        "the features have 9 columns, and the head's weight (4, 12) takes 12: give the features",
    ),
    "width, transposed": (
        {"weight": W.T, "bias": None},
        "the features have 12 columns, and the head's weight (12, 4) takes 4: the weight seems to lie the other way, (d, C)",
    ),
    "width, transposed, with names": (
        {"weight": W.T, "bias": None, "class_names": list("abcd")},
        "(d, C): transpose it",
    ),
    "transposed": (
        {"weight": W.T},
        "one row per class, and a bias (C,); got weight (12, 4) and bias (4,); transpose the weight",
    ),
    "text labels without class names": (
        {"labels": [str(label) for label in Y]},
        "give the class names (class_names=, --class-names FILE), in the order of the rows of the head's weight",
    ),
    "a classifier": (
        {"weight": LogisticRegression().fit(X, Y), "bias": None},
        "must be numbers (C, d), and a LogisticRegression was given: give its coef_ and intercept_ as weight and bias",
    ),
    "a layer": (
        {"weight": nn.Linear(12, 4), "bias": None},
        "must be numbers (C, d), and a Linear was given: give its weight and bias as weight and bias",
    ),
    "NaN": (
        {"features": HOLED},
        "NaN, infinity, or a number too large for float32 is in 3 of 30 rows of features: row 4, row 7, row 11; fix",
    ),
    "NaN with ids": (
        {"features": HOLED, "ids": [f"doc {i}" for i in range(30)]},
        "row 4 (doc 4), row 7 (doc 7), row 11",
    ),
    "large": (
        {"features": X.astype(float) * 1e200},
        "NaN, infinity, or a number too large for float32 is in 30 of 30 rows of features",
    ),
    "logits": (
        {"features": X * 1e38, "weight": W * 1e3},
        "the head's logits on these features are too large for float32",
    ),
    "text": ({"features": X.astype(str)}, "features must be real numbers in the range of float32; got <U"),
    "objects": ({"features": X.astype(object)}, "features must be real numbers in the range of float32; got object"),
    "complex": (
        {"features": X.astype(complex)},
        "features must be real numbers in the range of float32; got complex128",
    ),
    "masked": ({"features": np.ma.masked_less(X, 0)}, "features contain masked values; fill them in"),
    "ragged": ({"features": [[1, 2], [3]]}, "features must be an array of numbers; got list"),
    "one row": ({"features": X[0]}, "features must be a table (n, d), one row per example and one column per"),
    "images": ({"features": X[:, None]}, "features must be a table (n, d)"),
    "none": (
        {"features": X[:0]},
        "features must be a table (n, d), one row per example and one column per feature; got",
    ),
    "bias": (
        {"bias": B[:3]},
        "the head must have a weight (C, d), one row per class, and a bias (C,); got weight (4, 12)",
    ),
    "head of NaN": ({"weight": W * np.nan}, "the head's weight or bias contains NaN, infinity, or a number too large"),
    "head of text": ({"weight": W.astype(str)}, "the head's weight must be real numbers"),
    "few labels": ({"labels": Y[:9]}, "there must be one label for each of the 30 rows of features; got shape (9,)"),
    "one-hot": (
        {"labels": np.eye(4)[Y]},
        "there must be one label for each of the 30 rows of features; got shape (30, 4)",
    ),
    "label range": ({"labels": Y + 3}, "labels are no class indices from 0 to 3: "),
    "negative": ({"labels": Y - 9}, "30 labels are no class indices from 0 to 3: -"),
    "float labels": (
        {"labels": Y.astype(float)},
        "labels must be class indices, or class names; got type float64; floating",
    ),
    "mixed labels": (
        {"labels": np.array([None] * 30)},
        "labels must be class indices, or class names; got None, among others",
    ),
    "label names": (
        {"labels": ["dgo"] * 30, "class_names": ["cat", "dog", "cow", "hen"]},
        "labels that are not class names: 'dgo' (did you mean 'dog'?); the 4 classes are cat, dog, cow, hen",
    ),
    "names twice": (
        {"labels": ["a"] * 30, "class_names": list("aacd")},
        "labels cannot be matched to duplicate class names: a; give class indices",
    ),
    "names": ({"class_names": list("abc")}, "class names: 3, for a head with 4 classes; give one per class"),
    "names as text": ({"class_names": "abcd"}, "class_names must be a list of strings"),
    "ids": ({"ids": list("abc")}, "there must be one id for each row of features; got 3 for 30 rows"),
    "ids twice": (
        {"ids": ["a", "a", *range(28)]},
        "ids must differ from row to row; 1 occur more than once: a; number them",
    ),
    "empty id": ({"ids": ["", *range(29)]}, "got id 0, which is empty or contains half of a surrogate pair"),
    "odd id": ({"ids": ["\ud800", *range(29)]}, "got id 0, which is empty or contains half of a surrogate pair"),
    "ids as text": ({"ids": "abc"}, "ids must be text or whole numbers, one for each row"),
    "floating ids": ({"ids": X[:, 0]}, "ids must be text or whole numbers, one for each row"),
    "set name": ({"name": "../x"}, "image set name '../x' must be letters"),
    "network": ({"network": 3}, "network must be text, a name for display; got 3"),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    whole: dict[str, Any] = {"features": X, "weight": W, "bias": B, "study": tmp_path / "study", "labels": Y, **given}
    with pytest.raises(SubspectError) as refused:
        from_features(**whole)
    assert message in str(refused.value)
    assert not (tmp_path / "study").exists()


def test_a_full_disk_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["subspect.studies.features"]
    monkeypatch.setattr(module, "shard_bytes", lambda width, rows: 2**60)
    with pytest.raises(SubspectError, match="not enough disk for the study"):
        from_features(X, W, B, tmp_path / "study")


def test_a_frames_columns_are_names_and_must_keep_their_order(tmp_path: Path) -> None:
    columns = [f"c{n}" for n in range(X.shape[1])]
    frames: list[Any] = [pd.DataFrame(X, columns=columns), pl.DataFrame(X, schema=columns)]
    for number, frame in enumerate(frames):
        study = from_features(frame, W, B, tmp_path / str(number), labels=Y, show_progress=False)
        assert dict(study.feature_names) == dict(enumerate(columns))
        with pytest.raises(
            SubspectError, match="'c11' is feature 11 in the study .*, and 0 here: give the features in the order"
        ):
            from_features(frame[columns[::-1]], W, B, tmp_path / str(number), name="test", show_progress=False)
    assert not from_features(pd.DataFrame(X), W, B, tmp_path / "numbers", show_progress=False).feature_names


def test_a_name_of_several_classes_is_refused(tmp_path: Path) -> None:
    names = ["a", "a", *(f"n{n}" for n in range(len(W) - 2))]
    made = from_features(X, W, B, tmp_path / "s", labels=Y, class_names=names, show_progress=False).decompose(k=2)
    with pytest.raises(SubspectError, match="2 classes are called 'a'; name one by its index: 0, 1"):
        made.label("a")
    assert made.label("1") == made.label(1) == 1
