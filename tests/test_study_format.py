"""docs/study-format.md against fresh studies, opened with json, safetensors, pyarrow, hashlib and xxhash alone."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash

import subspect
from conftest import Tiny, unsealed, write_images, write_study
from kept import keep_cues

PAGE = (Path(__file__).parents[1] / "docs/study-format.md").read_text(encoding="utf-8")
Row = dict[str, str]

KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "list": (list,),
    "object": (dict,),
}
TORCH = {
    "F32": "torch.float32",
    "F64": "torch.float64",
    "I64": "torch.int64",
    "BOOL": "torch.bool",
    "U8": "torch.uint8",
}


def tables(heading: str, first: str) -> list[list[Row]]:
    """Return the tables under a heading of the page whose first column has a name: a row each, column → text."""
    part = re.split(rf"^## {re.escape(heading)}$", PAGE, flags=re.MULTILINE)[1].split("\n## ")[0]
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", part, flags=re.MULTILINE):
        head, _, *rows = (
            [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in block.splitlines()
        )
        if head[0] == first:
            found.append([dict(zip(head, row, strict=True)) for row in rows])
    assert found, heading
    return found


def names(rows: list[Row]) -> dict[str, Row]:
    return {next(iter(row.values())).strip("`"): row for row in rows}


def optional(row: Row) -> bool:
    return row["what"].startswith("optional")


def check_fields(values: Mapping[str, Any], rows: list[Row]) -> None:
    """Check an object's fields, and their types, against a table, in both directions."""
    listed = names(rows)
    assert set(values) <= set(listed), set(values) - set(listed)
    for name, row in listed.items():
        if name not in values:
            assert optional(row), name
            continue
        kind, _, null = row["type"].partition(" or ")
        kinds = KINDS[kind] + ((type(None),) if null == "null" else ())
        assert isinstance(values[name], kinds) and (bool in kinds or not isinstance(values[name], bool)), name


class File:
    """A safetensors file, taken apart by its own specification: eight bytes of length, a JSON header, tensors."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        self.about: dict[str, Any] = json.loads(header.pop("__metadata__")["subspect"])
        self.tensors = {name: (one["dtype"], tuple(one["shape"])) for name, one in header.items()}
        at = 8 + size
        self.bytes = {
            name: data[at + one["data_offsets"][0] : at + one["data_offsets"][1]] for name, one in header.items()
        }

    def read(self, name: str) -> np.ndarray[Any, Any]:
        kind, shape = self.tensors[name]
        return np.frombuffer(self.bytes[name], {"F32": "<f4", "F64": "<f8", "I64": "<i8", "BOOL": "?"}[kind]).reshape(
            shape
        )


def check_tensors(file: File, rows: list[Row], sizes: dict[str, int], number: int | None = None) -> None:
    """Check tensors against a table, in both directions; letters stand for one size throughout."""
    called = (
        names(rows)
        if number is None
        else {re.sub("^i\\.", f"{number}.", name): row for name, row in names(rows).items()}
    )
    assert set(file.tensors) <= set(called), set(file.tensors) - set(called)
    for name, row in called.items():
        if name not in file.tensors:
            assert optional(row), name
            continue
        kind, shape = file.tensors[name]
        letters = row["shape"].split(", ")
        assert kind == row["dtype"] and len(shape) == len(letters), name
        for letter, size in zip(letters, shape, strict=True):
            base, _, more = letter.partition("+")
            expected = int(base) if base.isdigit() else sizes.setdefault(base, size - int(more or 0)) + int(more or 0)
            assert size == expected, (name, letter)


def canonical(fields: Mapping[str, Any]) -> bytes:
    rest = {key: value for key, value in fields.items() if key != "checksum"}
    return json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def seal_of(file: File) -> str:
    """Return the seal of a safetensors file, as the page says that it is made."""
    parts = [canonical(file.about)]
    for name, (kind, shape) in sorted(file.tensors.items()):
        parts += [name.encode(), TORCH[kind].encode(), str(shape).encode(), file.bytes[name]]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return f"sha256:{digest.hexdigest()}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with everything in it: layers, statistics, names, cues, filters, readable weights, a report."""
    path = tmp_path_factory.mktemp("format")
    write_study(path)
    network, images = subspect.Network(Tiny()), write_images(path / "more", each=70, seed=5)
    (path / "more" / "a" / "broken.png").write_bytes(b"no image")
    at = path / "study"
    how: dict[str, Any] = {"batch_size": 16, "max_failed": 1, "show_progress": False}
    subspect.observe(network, images, at, "layers", layers=["conv"], **how)
    subspect.observe(network, images, at, "summed", keep="statistics", sample=60, **how)
    study = subspect.open_study(at)
    made = study.decompose(k=2, show_progress=False)
    study.decompose(k=2, ternary=True, show_progress=False)
    study.decompose(k=2, method="frequency", show_progress=False)
    study.name_features({feature: f"sky {feature + 1}." for feature in range(6)})
    study.decompose(k=3, show_progress=False)
    keep_cues(study, made, {"border": {0: 1.0}, "grey": {1: 0.5}}, through={"border": {(0, 1): 0.5}, "grey": {}})
    made.filters(network, on="train", images=path / "train", show_progress=False)
    made.report()
    made.save(path / "saved.safetensors")
    return at


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of features alone, with texts and links, and without labels."""
    generator, path = np.random.default_rng(0), tmp_path_factory.mktemp("texts") / "study"
    x = generator.normal(size=(40, 6))
    said: dict[str, Any] = {"texts": ["one"] * 40, "links": ["https://example.org/1"] * 40}
    subspect.from_features(x, generator.normal(size=(3, 6)), np.zeros(3), path, **said)
    return path


def json_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def shards(study: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(study.glob("sets/*/*.arrow")):
        yield path, json_of(path.parent / "set.json")


def test_the_files_are_those_of_the_table(folder: Path) -> None:
    [rows] = tables("Files", "file")
    patterns = [
        re.sub(
            r"GENERATION/…|NNNNN|NAME",
            lambda found: {"NNNNN": r"\d{5}"}.get(found[0], "[^/]+"),
            re.escape(name).replace("\\…", "…"),
        )
        for row in rows
        for name in re.findall(r"`([^`]+)`", row["file"])
        if name != "."
    ]
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    unknown = [name for name in found if not any(re.fullmatch(pattern, name) for pattern in patterns)]
    assert not unknown
    without = [pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in found)]
    assert all("report\\-pages" in pattern for pattern in without), without  # of more than 60 classes


def test_study_json(folder: Path, texts: Path) -> None:
    [rows] = tables("`study.json`", "field")
    for study in (folder, texts):
        values = json_of(study / "study.json")
        check_fields(values, rows)
        assert values["schema"] == 2 and len(values["class_names"]) == values["n_classes"]
        digest = hashlib.sha256((study / "head.safetensors").read_bytes()).hexdigest()
        assert values["head_checksum"] == f"sha256:{digest}"


def test_head(folder: Path) -> None:
    file, about = File(folder / "head.safetensors"), json_of(folder / "study.json")
    check_tensors(file, tables("`head.safetensors`", "tensor")[0], {"C": about["n_classes"], "d": about["n_features"]})
    check_fields(file.about, tables("`head.safetensors`", "field")[0])


def test_sets(folder: Path, texts: Path) -> None:
    whole, entry = tables("`set.json`", "field")
    kinds = set(re.findall(r"`([^`]+)`", names(whole)["kind"]["what"]))
    paths = [*folder.glob("sets/*/set.json"), *texts.glob("sets/*/set.json")]
    assert len(paths) == 5
    for path in paths:
        values = json_of(path)
        check_fields(values, whole)
        assert values["kind"] in kinds and values["complete"]
        for number, one in values["shards"].items():
            check_fields(one, entry)
            data = (path.parent / f"{int(number):05d}.arrow").read_bytes()
            assert one["checksum"] == f"xxh3:{xxhash.xxh3_128_hexdigest(data)}"
        summed = path.parent / "statistics.safetensors"
        assert summed.exists() == bool(values["sampled"])
        if summed.exists():
            assert values["statistics"] == f"sha256:{hashlib.sha256(summed.read_bytes()).hexdigest()}"


def test_shards(folder: Path, texts: Path) -> None:
    [rows], [fields] = tables("Shards", "column"), tables("Shards", "field")
    met = set()
    for path, about in [*shards(folder), *shards(texts)]:
        file = pa.ipc.open_file(path)
        assert file.num_record_batches == 1
        batch, d = file.get_batch(0), json_of(path.parents[2] / "study.json")["n_features"]
        check_fields(json.loads(file.schema.metadata[b"subspect"]), fields)
        assert batch.num_rows == about["shards"][str(int(path.stem))]["rows"]
        for column in file.schema:
            name = "layer:NAME" if column.name.startswith("layer:") else column.name
            row = names(rows)[name]
            width = d if name == "features" else about["layers"].get(column.name.removeprefix("layer:"))
            written = re.sub(r"<item: (\w+)>\[(\d+)\]", r"[\2] of \1", str(column.type))
            assert written == row["type"].replace("[d]", f"[{width}]").replace("[channels]", f"[{width}]"), name
            assert row["null"] != "no" or not batch.column(column.name).null_count, name
            met.add(name)
        assert (batch.column("label").null_count == 0) == about["labelled"]
    assert met == set(names(rows))


def test_rows_are_what_the_page_says(folder: Path) -> None:
    """The dense logits of the stored features give the stored predictions; digests are of the files; failures are listed."""
    file = File(folder / "head.safetensors")
    for path, about in shards(folder):
        batch = pa.ipc.open_file(path).get_batch(0)
        x = np.stack(batch.column("features").to_numpy(zero_copy_only=False))
        logits = x @ file.read("weight").T + file.read("bias")
        assert (logits.argmax(axis=1) == batch.column("prediction").to_numpy()).all()
        for id, digest in zip(batch.column("id").to_pylist(), batch.column("digest").to_pylist(), strict=True):
            assert digest == hashlib.sha256(Path(about["root"], id).read_bytes()).digest()[:16]
    failed = json_of(folder / "sets/layers/set.json")["failed"]
    assert [id for id, _ in failed] == ["a/broken.png"] and all(isinstance(reason, str) for _, reason in failed)


def test_decompositions(folder: Path) -> None:
    [rows], [fields] = tables("Decompositions", "tensor"), tables("Decompositions", "field")
    about, met = json_of(folder / "study.json"), set()
    for path in [*folder.glob("decompositions/*.safetensors"), folder.parent / "saved.safetensors"]:
        file = File(path)
        sizes = {"C": about["n_classes"], "d": about["n_features"]}
        check_tensors(file, rows, sizes)
        check_fields(file.about, fields)
        met |= set(file.tensors) | set(file.about)
        offsets, indices = file.read("offsets"), file.read("indices")
        assert offsets[0] == 0 and offsets[-1] == len(indices) and indices.max() < about["n_features"]
        dense = np.zeros((about["n_classes"], about["n_features"]), np.float32)
        for label, (start, end) in enumerate(pairwise(offsets)):
            dense[label, indices[start:end]] = file.read("weights")[start:end]
        made = subspect.Decomposition.load(path)
        assert np.array_equal(made.matrix()[0], dense)
        assert {"method"} <= set(file.about["history"][0])
    assert met == {*names(rows), *names(fields)}
    check_fields(json_of(folder / "decompositions/order.json"), tables("`order.json`", "field")[0])


def test_names_and_cues(folder: Path) -> None:
    check_fields(json_of(folder / "feature-names.json"), tables("`feature-names.json`", "field")[0])
    [path] = folder.glob("cues/*.safetensors")
    file, about = File(path), json_of(folder / "study.json")
    check_fields(file.about, tables("Cues", "field")[0])
    every = file.tensors
    for number in range(len(file.about["cues"])):
        own = {name: one for name, one in every.items() if not name[0].isdigit() or name.startswith(f"{number}.")}
        file.tensors = own
        check_tensors(file, tables("Cues", "tensor")[0], {"C": about["n_classes"], "d": about["n_features"]}, number)
    assert {name.split(".")[0] for name in every if name[0].isdigit()} == {"0", "1"}


def test_filters(folder: Path) -> None:
    [path] = folder.glob("filters/*.safetensors")
    file = File(path)
    check_fields(file.about, tables("Filters", "field")[0])
    sizes = {"c": len(file.about["labels"]), "f": len(file.about["features"]), "m": len(file.about["ids"])}
    [layer] = file.about["layers"]
    sizes |= {"n": layer["channels"], "p": layer["tried"], "r": layer["draws"]}
    check_tensors(file, tables("Filters", "tensor")[0], sizes, 0)


def test_seals_are_made_as_the_page_says(folder: Path) -> None:
    [rows] = tables("Files", "file")
    sealed = [path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")]
    assert len(sealed) > 12 and sum("seal" in row["carries"] for row in rows) == 10
    for path in sealed:
        if path.suffix == ".json":
            values = json_of(path)
            assert values["checksum"] == f"sha256:{hashlib.sha256(canonical(values)).hexdigest()}", path
        else:
            file = File(path)
            assert file.about["checksum"] == seal_of(file), path


def test_what_doesnt_fit_is_noticed(folder: Path) -> None:
    """The checks above are no formality: a field too many, another type, another shape fail."""
    [rows] = tables("`study.json`", "field")
    values = json_of(folder / "study.json")
    for wrong in (
        {**values, "more": 1},
        {**values, "n_classes": "3"},
        {k: v for k, v in values.items() if k != "head"},
    ):
        with pytest.raises(AssertionError):
            check_fields(wrong, rows)
    with pytest.raises(AssertionError):
        check_tensors(File(folder / "head.safetensors"), tables("`head.safetensors`", "tensor")[0], {"C": 4})


def test_a_reader_may_meet_other_files(folder: Path, tmp_path: Path) -> None:
    """Names that begin with a dot are nobody's matter, and an older schema is read."""
    shutil.copytree(folder, tmp_path / "study")
    (tmp_path / "study" / "sets" / ".DS_Store").write_text("")
    assert subspect.open_study(tmp_path / "study").set_names == ["train", "layers", "summed", "test"]
    shutil.rmtree(tmp_path / "study" / "sets" / "summed")
    unsealed(tmp_path / "study")
    assert subspect.open_study(tmp_path / "study").set_names == ["train", "layers", "test"]
