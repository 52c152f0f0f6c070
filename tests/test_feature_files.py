"""Files of features, heads and labels: every kind that is read, every one that is refused, and the command."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import scipy.sparse
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from commands import command, parsed, said
from subspect import MissingExtra, Study, SubspectError, from_features
from subspect.studies.feature_files import as_indices, read_features, read_head, read_labels

GENERATOR = np.random.default_rng(2)
X = GENERATOR.normal(size=(60, 5)).astype(np.float32)
W, B = GENERATOR.normal(size=(3, 5)).astype(np.float32), GENERATOR.normal(size=3).astype(np.float32)
Y = (X @ W.T + B).argmax(1)
IDS = [f"row {row}" for row in range(60)]


def table(**columns: Any) -> pa.Table:
    return pa.table(columns)


def lists(kind: pa.DataType) -> pa.Array:
    return pa.array(X.tolist(), kind)


def columns() -> dict[str, Any]:
    return {f"f{column}": X[:, column] for column in range(5)}


def write(folder: Path, kind: str) -> Path:
    """Write features in one of the kinds that are read; from .npz on with labels and ids."""
    path = folder / kind.replace(" ", "")
    both = {"label": Y, "id": IDS}
    if kind == "x.npy":
        np.save(path, X)
    elif kind == "x.npz":
        np.savez(path, features=X, labels=Y, ids=np.array(IDS))
    elif kind == "one.npz":
        np.savez(path, X)
    elif kind == "sparse.npz":
        scipy.sparse.save_npz(path, scipy.sparse.csr_matrix(X))
    elif kind == "x.safetensors":
        save_file({"features": torch.from_numpy(X), "labels": torch.from_numpy(Y)}, path)
    elif kind == "columns.parquet":
        pyarrow.parquet.write_table(table(**columns(), **both), path)
    elif kind == "frame.parquet":
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame({**columns(), **both}, index=IDS).to_parquet(path)  # the index becomes a column
    elif kind == "fixed.arrow":
        pyarrow.feather.write_feather(table(text=IDS, embedding=lists(pa.list_(pa.float32(), 5)), **both), path)
    elif kind == "lists.parquet":
        other = pa.array([[1]] * 60)
        pyarrow.parquet.write_table(table(features=lists(pa.list_(pa.float64())), tags=other, **both), path)
    elif kind == "stream.arrow":
        made = table(features=lists(pa.large_list(pa.float32())), **both)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
            writer.write_table(made, max_chunksize=7)
    return path


KINDS = ["x.npz", "x.safetensors", "columns.parquet", "frame.parquet", "fixed.arrow", "lists.parquet", "stream.arrow"]


@pytest.mark.parametrize("kind", ["x.npy", "one.npz", "sparse.npz", *KINDS])
def test_features_are_read(kind: str, tmp_path: Path) -> None:
    found = read_features(write(tmp_path, kind))
    values = found.features.toarray() if scipy.sparse.issparse(found.features) else found.features
    assert np.array_equal(np.asarray(values, np.float32), X)
    assert (found.labels is not None) == (kind in KINDS)
    if found.labels is not None:
        assert np.asarray(found.labels).tolist() == Y.tolist()
    assert (None if found.ids is None else list(found.ids)) == (
        IDS if kind in KINDS and kind != "x.safetensors" else None
    )
    study = from_features(found.features, W, B, tmp_path / "study", labels=found.labels, ids=found.ids)
    assert np.array_equal(study.image_set("train").whole().features, X)


def test_a_studys_own_shards_are_read(tmp_path: Path) -> None:
    from_features(X, W, B, tmp_path / "one", labels=Y, ids=IDS)
    found, head = read_features(tmp_path / "one/sets/train/00000.arrow"), read_head(tmp_path / "one/head.safetensors")
    from_features(found.features, head.weight, head.bias, tmp_path / "two", labels=found.labels, ids=found.ids)
    shards = [(tmp_path / name / "sets/train/00000.arrow").read_bytes() for name in ("one", "two")]
    assert shards[0] == shards[1]


def test_heads_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weight=W, bias=B)
    save_file({"fc.weight": torch.from_numpy(W), "fc.bias": torch.from_numpy(B)}, tmp_path / "b.safetensors")
    for name in ("a.npz", "b.safetensors"):
        head = read_head(tmp_path / name)
        assert np.array_equal(head.weight, W) and np.array_equal(head.bias, B) and head.classes is None


def test_classifiers_are_read(tmp_path: Path) -> None:
    io = pytest.importorskip("skops.io")
    names = np.array(["hen", "cat", "dog"])[Y]
    kinds: dict[str, tuple[Any, Any]] = {
        "plain": (LogisticRegression(), names),
        "two": (LogisticRegression(), names == "cat"),
        "no bias": (LinearSVC(fit_intercept=False), Y + 1),
        "pipeline": (make_pipeline(StandardScaler(), LogisticRegression()), names),
    }
    for kind, (classifier, labels) in kinds.items():
        classifier.fit(X, labels)
        io.dump(classifier, tmp_path / "head.skops")
        head = read_head(tmp_path / "head.skops")
        assert head.classes == tuple(str(one) for one in classifier.classes_)
        given = classifier[0].transform(X) if kind == "pipeline" else X
        study = from_features(
            given,
            head.weight,
            head.bias,
            tmp_path / kind,
            labels=as_indices(labels, head, None),
            class_names=head.classes,
        )
        chunk = study.image_set("train").whole()
        assert [study.identity.class_names[one] for one in chunk.predictions] == list(map(str, classifier.predict(X)))
        assert [study.identity.class_names[one] for one in chunk.labels] == list(map(str, labels))


def test_classifiers_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, path = pytest.importorskip("skops.io"), tmp_path / "head.skops"
    for other in (LinearRegression().fit(X, Y), SVC(kernel="linear").fit(X, Y), StandardScaler().fit(X)):
        io.dump(other, path)
        with pytest.raises(
            SubspectError, match=f"is a {type(other).__name__}, which doesn't have a row of weights for each class"
        ):
            read_head(path)
    io.dump(Foreign(), path)
    with pytest.raises(SubspectError, match=r"contains types that skops doesn't trust: .*Foreign; save its weight"):
        read_head(path)
    path.write_bytes(b"nothing")
    with pytest.raises(
        SubspectError, match=r"cannot read the head .* as .skops: BadZipFile: File is not a zip file; save"
    ):
        read_head(path)
    monkeypatch.setitem(sys.modules, "skops", None)
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(
        MissingExtra, match=r"needs the package 'skops'; install it, .* -c constraints.txt '.\[sklearn\]'"
    ):
        read_head(path)


class Foreign:
    """Not of scikit-learn."""


class Evil:
    """Says so if it is opened."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise AssertionError('a pickle was opened')",)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    evil = pickle.dumps(Evil())
    for name in ("x.pkl", "x.joblib", "x.npy", "x.npz", "x.skops", "x.pt", "x.arrow", "x.safetensors"):
        (tmp_path / name).write_bytes(evil)
        for read in (read_features, read_head):
            with pytest.raises(
                SubspectError, match=r"is a pickle \(as pickle, joblib and torch.save write it\), which runs"
            ):
                read(tmp_path / name)
    with pytest.raises(SubspectError, match="the labels .* is a pickle .* save them with numpy.save"):
        read_labels(tmp_path / "x.npy")
    np.save(tmp_path / "objects.npy", np.array([Evil()], object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", weight=np.array([Evil()], object), bias=B, allow_pickle=True)
    for read, name in ((read_features, "objects.npy"), (read_head, "objects.npz"), (read_labels, "objects.npy")):
        with pytest.raises(
            SubspectError,
            match="contains Python objects, stored as a pickle, which subspect doesn't open; turn them into an arr",
        ):
            read(tmp_path / name)


def test_files_that_are_none(tmp_path: Path) -> None:
    for suffix in ("npy", "npz", "safetensors", "parquet", "arrow"):
        path = tmp_path / f"x.{suffix}"
        for data in (
            b"",
            b"nothing of the kind",
            write(tmp_path, "x.npy").read_bytes()[:200],
            b"PK\x03\x04",
            b"ARROW1\0\0",
        ):
            path.write_bytes(data)
            with pytest.raises(
                SubspectError, match=rf"cannot read the features .*x.{suffix} as .{suffix}: .*; save them with"
            ):
                read_features(path)
    with pytest.raises(SubspectError, match=r"cannot read the features .*nowhere.npy: No such file"):
        read_features(tmp_path / "nowhere.npy")
    with pytest.raises(SubspectError, match=r"cannot read the head .*: it is a folder, not a file"):
        read_head(tmp_path)
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(
        SubspectError, match=r"cannot read features from .*x.csv: it must be one of .npy, .npz, .safetensors, "
    ):
        read_features(tmp_path / "x.csv")


def test_files_of_something_else(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=X, b=X, labels=Y)
    with pytest.raises(
        SubspectError, match=r"two.npz contains no array called 'features', but a, b; call the features"
    ):
        read_features(tmp_path / "two.npz")
    np.savez(tmp_path / "labels.npz", labels=Y)
    with pytest.raises(SubspectError, match="contains no array called 'features', but none besides labels and ids"):
        read_features(tmp_path / "labels.npz")
    np.savez(tmp_path / "head.npz", weight=W)
    with pytest.raises(
        SubspectError, match=r"must contain one weight \(C, d\) and its bias \(C,\), .*; it contains weight; save"
    ):
        read_head(tmp_path / "head.npz")
    save_file({f"{name}.weight": torch.tensor(W) for name in "ab"}, tmp_path / "two.safetensors")
    with pytest.raises(SubspectError, match=r"it contains a.weight, b.weight; save its weight"):
        read_head(tmp_path / "two.safetensors")
    ragged = {"features": pa.array([[1.0], [1.0, 2.0]])}
    for made, message in (
        (
            ragged,
            "must contain the same number of values in each row; it contains list<.*: double>, of the lengths 1, 2",
        ),
        ({"features": pa.array([[1.0], None])}, "of the lengths 1, None"),
        (
            {"features": pa.array([["a"]])},
            "must contain the same number of values in each row; it contains list<.*: string>",
        ),
        (
            {"a": [1.0], "topic": ["b"]},
            r"or one column of numbers per feature, .*; it has topic \(string\); leave out",
        ),
        ({"label": [1]}, "besides 'label' and 'id'; it has no other columns"),
    ):
        pyarrow.parquet.write_table(pa.table(made), tmp_path / "x.parquet")
        with pytest.raises(SubspectError, match=message):
            read_features(tmp_path / "x.parquet")
    twice = pa.Table.from_arrays([pa.array([1.0])] * 2, names=["a", "a"])
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, twice.schema) as writer:
        writer.write_table(twice)
    with pytest.raises(SubspectError, match="several columns of the same name: a; rename them"):
        read_features(tmp_path / "x.arrow")


@pytest.mark.parametrize("kind", ["x.npy", "x.npz", "sparse.npz", *KINDS[1:]])
def test_damaged_files_end_in_a_message(kind: str, tmp_path: Path) -> None:
    generator, data = np.random.default_rng(1), write(tmp_path, kind).read_bytes()
    path = tmp_path / f"damaged{Path(kind).suffix}"
    for number in range(60):
        damaged = bytearray(data)
        for place in generator.integers(len(data) if number % 2 else 400, size=1 + number % 3):
            damaged[place] = generator.integers(256)
        path.unlink(missing_ok=True)  # an array that was read from it may still be mapped
        path.write_bytes(damaged)
        try:
            found = read_features(path)
            from_features(found.features, W, B, tmp_path / f"{number}", labels=found.labels, ids=found.ids)
        except SubspectError:
            continue


def test_a_sparse_matrix_that_points_beyond_itself(tmp_path: Path) -> None:
    for kind in (scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.coo_matrix):
        matrix = kind(X)
        (matrix.col if kind is scipy.sparse.coo_matrix else matrix.indices)[3] = 10**6
        scipy.sparse.save_npz(tmp_path / "x.npz", matrix)
        with pytest.raises(SubspectError, match="cannot read the features .* as .npz: ValueError: "):
            read_features(tmp_path / "x.npz")


def test_missing_numbers_of_a_table_are_told(tmp_path: Path) -> None:
    for made in ({"a": [1, None, 3], "b": [1.0, 2.0, 3.0]}, {"features": [[1.0, 2.0], [1.0, None], [1.0, 1.0]]}):
        pyarrow.parquet.write_table(pa.table(made), tmp_path / "x.parquet")
        with pytest.raises(SubspectError, match="NaN, infinity, .* in 1 of 3 rows of features: row 1; fix"):
            from_features(read_features(tmp_path / "x.parquet").features, W[:, :2], B, tmp_path / "study")


def test_labels_by_what_they_are(tmp_path: Path) -> None:
    no_names: Any = SimpleNamespace(classes=None)
    (tmp_path / "x.txt").write_text("0\n2\n1\n\n")
    assert as_indices(read_labels(tmp_path / "x.txt"), no_names, None).tolist() == [0, 2, 1]
    assert as_indices(["7", "3"], no_names, ["3", "7"]) == ["7", "3"]  # names
    assert as_indices(["cat", "0"], no_names, None) == ["cat", "0"]
    assert as_indices([3, 1], SimpleNamespace(classes=("1", "3")), None).tolist() == [1, 0]  # type: ignore[arg-type]
    assert as_indices(None, no_names, None) is None
    np.save(tmp_path / "y.npy", Y)
    assert np.array_equal(read_labels(tmp_path / "y.npy"), Y)
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(SubspectError, match=r"labels .*x.txt is not text in UTF-8"):
        read_labels(tmp_path / "x.txt")


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.savez("head.npz", weight=W, bias=B)
    Path("labels.txt").write_text("".join(f"{('hen', 'cat', 'dog')[label]}\n" for label in Y))
    Path("names.txt").write_text("hen\ncat\ndog\n")
    return tmp_path


def test_the_command_and_what_follows(given: Path) -> None:
    line = "features x.npy --head head.npz -o study --labels labels.txt --class-names names.txt"
    shown = command(line)
    assert "none, features alone: features" in shown.stdout and "accuracy of the head 100.00 %" in shown.stderr
    assert parsed(line)["preprocessing"] == {"given": "features"}
    assert "are already stored" in command(line).stderr
    command("features x.npy --head head.npz -o study --labels labels.txt --name test")  # with the names of the study
    command("decompose study -k 2")
    for rest in (
        "evaluate study",
        "compare study cat dog",
        "essentiality study",
        "geometry study",
        "selectivity study",
    ):
        command(rest)
    command("show study --class cat")
    command("report study")
    command("edit study --drop cat:" + str(parsed("show study --class cat")["classes"][0]["features"][0]["feature"]))
    command("verify study")
    assert "60 rows of features; labels: by name" in " ".join(command("show study").stdout.split())
    for asked in ("explain study x.png", "export study -o x.onnx", "report study", "tradeoff study --pool 3"):
        line = f"{asked} --network python:nowhere.py:make"  # whose code isn't run
        assert "was made from features alone, without a network and without images: there is no" in said(line, 1)
    assert "made from features alone" in Path("study/report.html").read_text()
    assert Study.open("study").image_set("test").manifest.matching == "by name"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "features wide.npy --head head.npz -o s",
            "the features have 6 columns, and the head's weight (3, 5) takes 5: give",
        ),
        (
            "features nan.npy --head head.npz -o s",
            "NaN, infinity, or a number too large for float32 is in 1 of 60 rows of features",
        ),
        (
            "features x.npy --head head.npz -o s --labels far.npy",
            "60 labels are no class indices from 0 to 2: ",
        ),
        (
            "features x.npy --head head.npz -o s --labels few.npy",
            "there must be one label for each of the 60 rows of features; got",
        ),
        ("features x.npy --head head.npz -o s --labels labels.txt", "labels that are not class names: 'cat'"),
        (
            "features x.npz --head head.npz -o s --labels few.npy",
            "x.npz holds labels itself, and --labels gives others; give",
        ),
        (
            "features x.npy --head x.npy -o s",
            "cannot read head from x.npy: it must be one of .npz, .safetensors, .skops; save",
        ),
        ("features x.pkl --head head.npz -o s", "the features x.pkl is a pickle"),
        ("features x.npy --head nowhere.npz -o s", "cannot read the head nowhere.npz: No such file"),
    ],
)
def test_what_the_command_refuses(given: Path, line: str, message: str) -> None:
    holed = X.copy()
    holed[3, 1] = np.nan
    for name, values in {"wide": np.hstack([X, X[:, :1]]), "nan": holed, "far": Y + 5, "few": Y[:7]}.items():
        np.save(f"{name}.npy", values)
    np.savez("x.npz", features=X, labels=Y)
    Path("x.pkl").write_bytes(pickle.dumps(1))
    assert message in said(line, 1)
    assert not Path("s").exists()


def test_columns_that_are_no_features_are_named(given: Path) -> None:
    words = {**columns(), "label": Y, "text": IDS, "id": IDS, "link": np.zeros(60)}
    pyarrow.parquet.write_table(pa.table({**words, "label": Y}), "x.parquet")
    told = said("features x.parquet --head head.npz -o study", 1)
    for column, what in (("label", "labels"), ("text", "texts"), ("id", "ids")):
        assert f"x.parquet: the column '{column}' is taken as {what}; if it is a feature, rename it" in told
    assert "the features have 6 columns, and the head's weight (3, 5) takes 5" in told and "'link'" not in told


def test_columns_are_compared_with_those_of_the_classifier(given: Path) -> None:
    io, pandas = pytest.importorskip("skops.io"), pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["age", "price", "size", "rooms", "year"])
    io.dump(LogisticRegression().fit(frame, Y), "head.skops")
    frame.rename(columns={"price": "pric"}).to_parquet("x.parquet")
    line = "features x.parquet --head head.skops -o study"
    told = " ".join(command(line).stderr.split())
    assert (
        "1 of 5 features are called otherwise in the head head.skops: feature 1 is 'price' there, 'pric' here" in told
    )
    frame[["price", "age", "size", "rooms", "year"]].to_parquet("x.parquet")
    assert "'price' is feature 1 in the head head.skops, and 0 here: give the features in the order" in said(line, 1)
    command("features x.npy --head head.skops -o named")
    assert Study.open("named").feature_names[3] == "rooms"


def test_the_command_in_json(given: Path) -> None:
    shown = command("features x.npy --head head.npz -o study --json")
    assert json.loads(shown.stdout)["sets"]["train"]["kind"] == "features"
