"""The readers of what a user or a stranger can hand to subspect, each as a function of bytes, for fuzzing.

A reader raises nothing, or an error of our own. What it reads it also uses, as commands do: a file that is believed and
then ends in a traceback is no better than one that isn't believed. Around each lies a small real study, made on the spot.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
import typer
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

import subspect
from _fuzz_inputs import Choices, altered, altered_tensors, odd
from subspect.checking.verify import verify
from subspect.choosing.sizes import Auto, check_budget
from subspect.cli.options import _preprocessing, entry_of, lines_of, size_of
from subspect.giving.edit import edit
from subspect.ground.errors import SubspectError, Unusable
from subspect.ground.files import parse_json
from subspect.ground.seals import file_checksum, is_sealed, tensor_bytes, write_json, write_sealed
from subspect.ground.tables import Table
from subspect.ground.text import legible, to_json
from subspect.heads.decomposition import Decomposition
from subspect.heads.feature_names import checked, feature_index
from subspect.heads.shown import curve_table, features
from subspect.heads.supports import Supports
from subspect.images.decoding import decode_with_digest
from subspect.images.labels import match_classes
from subspect.images.memory import Arrays
from subspect.images.opening import open_images
from subspect.images.preprocessing import Preprocessing, as_preprocessing, from_description
from subspect.measuring.fidelity import evaluate
from subspect.networks.weights import load_weights
from subspect.report.figures import curve_figure
from subspect.report.terminal import summary
from subspect.studies import shards
from subspect.studies.feature_names import FILE
from subspect.studies.manifests import Identity, SetManifest
from subspect.studies.name_features import as_mapping, read_names
from subspect.studies.name_features import kept_names as name_table
from subspect.studies.pieces import observing
from subspect.studies.shards import Chunk, Entry, read_shard
from subspect.studies.study import Study

NAMES = ("cat", "old dog", "a-c")
D, EACH, BATCH = 6, 8, 4  # features, images of a shard, images of a batch
PREPROCESSING: dict[str, Any] = {
    "resize": 8,
    "crop": 6,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bilinear",
}


@dataclass(frozen=True)
class Reader:
    """Something that reads.

    Attributes:
        read: takes bytes; returns where they are accepted.
        seeds: right inputs to begin with; of one that reads decisions, ``b""``.
        refusals: the errors that may come out.
        share: of the number of inputs that are asked for, where one takes long.
        claims: whether it may be refused memory: PyTorch reads old checkpoints by a call that asks for as much as the file
            says, and then uses only as much as there is.
    """

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...] = (b"",)
    refusals: tuple[type[Exception], ...] = (SubspectError,)
    share: float = 1.0
    claims: bool = False


def readers(folder: Path) -> dict[str, Reader]:
    """Return every reader by its name, with files in an empty folder to work in."""
    return {
        **_of_studies(folder),
        **_of_shards(folder),
        **_of_tensors(folder),
        **_of_lists(folder),
        **_of_options(folder),
        **_of_images(folder),
        **_of_packed(folder),
        **_of_weights(folder),
        **_of_text(folder),
    }


# A small study --------------------------------------------------------------------------------------------------------


def small_study(folder: Path) -> Study:
    """Make a study of random features with two image sets."""
    generator = np.random.default_rng(0)
    weight = torch.from_numpy(generator.standard_normal((len(NAMES), D)).astype(np.float32))
    identity = Identity("python:net:make", "0" * 64, "fc", len(NAMES), D, NAMES, PREPROCESSING)
    study = Study.create(folder, identity, weight, torch.zeros(len(NAMES)))
    for name, images in (("train", 40), ("test", 24)):
        manifest = SetManifest(
            network_fingerprint=identity.fingerprint,
            preprocessing=PREPROCESSING,
            kind="folder",
            root="/images",
            images=images,
            fingerprint=name * 8,
            labelled=True,
            matching="by name",
            batch_size=BATCH,
            shard_size=EACH,
            layers={"conv": 2},
        )
        with observing(study.path, name):
            image_set = study.begin(name, manifest)
            failed, last = (("lost.png", "no such file"),), images // EACH - 1
            for index in range(last + 1):
                rows = EACH - (index == last)
                image_set.write(index, _chunk(generator, weight, f"{name}/{index}", rows), failed[: index == last])
            image_set.save(replace(image_set.manifest, complete=True, rows=images - 1, failed=failed))
    return study


def _chunk(generator: np.random.Generator, weight: Tensor, prefix: str, rows: int) -> Chunk:
    x = generator.standard_normal((rows, D)).astype(np.float32)
    said = (x @ weight.numpy().T).argmax(1)
    layers = {"conv": generator.standard_normal((rows, 2)).astype(np.float32)}
    ids = [f"{prefix}{place}.png" for place in range(rows)]
    return Chunk(x, np.roll(said, 1), said, ids, layers, [bytes(range(16)), *[None] * (rows - 1)])


def _resealed(path: Path, fields: Any) -> None:
    """Write a manifest with a right seal, as a stranger can; without one where there is none to be had."""
    text = json.dumps(fields)
    path.unlink(missing_ok=True)
    try:
        write_json(path, {key: one for key, one in fields.items() if key != "checksum"}, lambda _: True)
    except (AttributeError, UnicodeEncodeError, RecursionError):
        path.write_text(text, encoding="ascii")


def _shown(*tables: Table | str) -> None:
    console = Console(file=io.StringIO(), width=100, emoji=False, markup=False, highlight=False)
    for one in tables:
        console.print(legible(one) if isinstance(one, str) else one)


def _read_through(study: Study) -> None:
    """Read of a study what most commands do."""
    to_json(study.to_json())
    for name in study.set_names:
        for chunk in study.image_set(name).chunks(layers=["conv"]):
            assert np.isfinite(chunk.features).all()
        study.image_set(name).whole("all but 20 %")
    study.head()
    str(from_description(study.identity.preprocessing))


def _of_studies(folder: Path) -> dict[str, Reader]:
    study = small_study(folder / "study")
    path, set_path = study.path / "study.json", study.path / "sets" / "train" / "set.json"
    right, right_set = path.read_bytes(), set_path.read_bytes()
    bare, bare_set = (json.dumps({**json.loads(one), "schema": 1}).encode() for one in (right, right_set))

    def study_json(data: bytes) -> None:
        set_path.write_bytes(right_set)
        path.write_bytes(data)
        _read_through(Study.open(study.path))

    def study_fields(data: bytes) -> None:
        choices = Choices(data)
        set_path.write_bytes(right_set)
        _resealed(path, altered(json.loads(choices.pick((right, bare))), choices))
        opened = Study.open(study.path)
        _shown(*opened.tables(), repr(opened))
        verify(study.path, show_progress=False)
        _read_through(opened)

    def set_json(data: bytes) -> None:
        path.write_bytes(right)
        set_path.write_bytes(data)
        _read_through(Study.open(study.path))

    def set_fields(data: bytes) -> None:
        choices = Choices(data)
        path.write_bytes(right)
        _resealed(set_path, altered(json.loads(choices.pick((right_set, bare_set))), choices))
        opened = Study.open(study.path)
        verify(study.path, show_progress=False)
        _shown(*opened.tables(), repr(opened))
        _read_through(opened)

    names_path = study.path / FILE
    study.name_features({1: "whiskers", 4: "paws"})
    right_names = names_path.read_bytes()

    def names_json(data: bytes) -> None:
        names_path.write_bytes(data)
        try:
            path.write_bytes(right)
            _shown(*name_table(Study.open(study.path)).tables())
        finally:
            names_path.write_bytes(right_names)

    def names_fields(data: bytes) -> None:
        _resealed(names_path, altered(json.loads(right_names), Choices(data)))
        names_json(names_path.read_bytes())

    return {
        "feature-names.json, bytes": Reader(names_json, (right_names,)),
        "feature-names.json, fields": Reader(names_fields, share=0.2),
        "study.json, bytes": Reader(study_json, (right, bare)),
        "study.json, fields": Reader(study_fields, share=0.2),
        "set.json, bytes": Reader(set_json, (right_set, bare_set)),
        "set.json, fields": Reader(set_fields, share=0.2),
    }


# Shards ---------------------------------------------------------------------------------------------------------------


def _of_shards(folder: Path) -> dict[str, Reader]:
    image_set = small_study(folder / "shards").image_set("train")
    right = (image_set.folder / "00000.arrow").read_bytes()
    path = folder / "one.arrow"

    def believed(data: bytes, entry: Entry | None) -> None:
        path.write_bytes(data)
        shards._believed.clear()  # files that follow each other at once can have one time stamp
        shards._is_shard(path)
        chunk, failed = read_shard(path, image_set.shape, entry, image_set.place(0), ["conv"])
        assert np.isfinite(chunk.features).all() and chunk.labels.max(initial=0) < len(NAMES)
        assert all(isinstance(id, str) for id in chunk.ids) and len(chunk.digests) in (0, len(chunk.ids))
        to_json(failed)

    def sealed(data: bytes) -> None:
        believed(data, Entry(EACH, shards._checksum(data)))

    def columns(data: bytes) -> None:
        choices = Choices(data)
        try:
            made = _shard(choices)
        except pa.ArrowException:  # nothing that Arrow could write
            return
        believed(made, Entry(choices.pick((EACH, 0, 1, 2 * EACH)), shards._checksum(made)))

    return {
        "shard, no checksum": Reader(lambda data: believed(data, None), (right,)),
        "shard, right checksum": Reader(sealed, (right,)),
        "shard, columns": Reader(columns),
    }


def _shard(choices: Choices) -> bytes:
    """Write an Arrow file that resembles a shard."""
    rows = choices.pick((EACH, 0, 1, 2 * EACH))
    floats = pa.array(np.arange(rows * D, dtype=np.float32))
    digests = pa.array([bytes(range(16))] * rows, pa.binary(16))
    columns: dict[str, Any] = {
        "id": pa.array([f"{place}.png" for place in range(rows)]),
        "label": pa.array([place % 3 for place in range(rows)], pa.int32()),
        "prediction": pa.array([place % 3 for place in range(rows)], pa.int32()),
        "digest": digests,
        "features": pa.FixedSizeListArray.from_arrays(floats, D),
        "layer:conv": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(rows * 2, np.float32)), 2),
    }
    for _ in range(choices.below(4)):
        name = choices.pick(list(columns) or ["id"])
        if choices.below(8) == 1:
            columns.pop(name, None)
        else:
            columns[choices.pick((name, name, name, "x"))] = _column(columns.get(name), rows, choices)
    about: Any = {"schema": 2, "failed": [["a.png", "why"]]}
    about = {"subspect": json.dumps(altered(about, choices, 2))} if choices.below(8) < 7 else {"x": choices.take(20)}
    names = list(columns)
    if names and choices.below(8) == 1:
        names.append(choices.pick(names))
    options = pa.ipc.IpcWriteOptions(compression=choices.pick((None, None, None, "lz4", "zstd")))
    values = [columns[name] for name in names]
    schema = pa.schema([pa.field(name, one.type) for name, one in zip(names, values, strict=True)], metadata=about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for _ in range(choices.pick((1, 1, 1, 0, 2))):
            writer.write_batch(pa.record_batch(values, schema=schema))
    data = bytearray(sink.getvalue())
    for _ in range(choices.pick((0, 0, 1, 3))):
        data[choices.below(2**24) % len(data)] = choices.below(256)
    return bytes(data)


def _column(given: Any, rows: int, choices: Choices) -> Any:
    """Return a column of another type, with nulls, with offsets that lead elsewhere, or other values."""
    kind = choices.below(9)
    numbers = pa.array([choices.below(256) - 100 for _ in range(rows)], pa.int32())
    nulls = pa.array([None if choices.below(2) else 1 for _ in range(rows)], pa.int32())
    if kind == 0:
        return numbers
    if kind == 1:
        return nulls.cast(choices.pick((pa.int32(), pa.float32(), pa.string(), pa.bool_(), pa.timestamp("ns"))))
    if kind == 2:
        return pa.array(
            ["\0é" * choices.below(4)] * rows, choices.pick((pa.string(), pa.large_string(), pa.string_view()))
        )
    if kind == 3:
        return numbers.dictionary_encode()
    if kind == 4:  # text whose offsets run backwards or out of it, or that isn't UTF-8
        offsets = np.array([choices.below(40) - choices.below(20) for _ in range(rows + 1)], np.int32)
        return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(b"\xff\xfe" + b"a" * 8))
    if kind == 5:
        width, real = choices.pick((D, 2, 0, 1)), choices.pick((pa.float32(), pa.float64(), pa.int32()))
        values = pa.array([choices.pick((0.0, 1.0, None, 3.0)) for _ in range(rows * width)], real)
        return pa.FixedSizeListArray.from_arrays(values, width) if width else pa.nulls(rows, pa.list_(real, 0))
    if kind == 6:
        value = choices.pick((np.nan, np.inf, 1e38, -0.0))
        return pa.FixedSizeListArray.from_arrays(pa.array(np.full(rows * D, value, np.float32)), D)
    if kind == 7 and given is not None and len(given):
        return pa.concat_arrays([given[1:], given[:1]])
    return pa.nulls(rows, given.type if given is not None and choices.below(2) else pa.null())


# Heads and decompositions ---------------------------------------------------------------------------------------------


def _saved(tensors: Mapping[str, Tensor], header: Any) -> bytes:
    """Return a file with a right seal; without one where there is none to be had."""
    plain = {name.encode(errors="replace").decode(): tensor.contiguous().clone() for name, tensor in tensors.items()}
    try:
        return tensor_bytes(plain, header)
    except (TypeError, UnicodeEncodeError, RecursionError, RuntimeError):
        from safetensors.torch import save

        return save(
            {name: one for name, one in plain.items() if not one.is_complex()}, {"subspect": json.dumps(header)}
        )


def _of_tensors(folder: Path) -> dict[str, Reader]:
    study = small_study(folder / "tensors")
    head_path, path = study.path / "head.safetensors", folder / "one.safetensors"
    right_head = head_path.read_bytes()
    weight, bias = study.head()
    made = _decompositions(study)
    stored = [_contents(one) for one in made]

    def head(data: bytes) -> None:
        head_path.write_bytes(data)
        weight, bias = Study(study.path, study.identity, file_checksum(head_path)).head()
        assert torch.isfinite(torch.addmm(bias, torch.ones(2, D), weight.T)).all()

    def head_tensors(data: bytes) -> None:
        choices = Choices(data)
        head(_saved(altered_tensors({"weight": weight, "bias": bias}, choices), altered({"head": "fc"}, choices)))

    def decomposition(data: bytes) -> None:
        head_path.write_bytes(right_head)
        path.write_bytes(data)
        _used(study, path, Choices(data[-4:]))

    def fields(data: bytes) -> None:
        choices = Choices(data)
        tensors, header = choices.pick(stored)
        decomposition(_saved(tensors, altered(header, choices)))

    def tensors(data: bytes) -> None:
        choices = Choices(data)
        tensors, header = choices.pick(stored)
        decomposition(_saved(altered_tensors(tensors, choices), altered(header, choices, 1)))

    seeds = tuple(one.read_bytes() for one in made)
    return {
        "head, bytes": Reader(head, (right_head,)),
        "head, tensors": Reader(head_tensors),
        "decomposition, bytes": Reader(decomposition, seeds),
        "decomposition, fields": Reader(fields, share=0.3),
        "decomposition, tensors": Reader(tensors, share=0.3),
    }


def _decompositions(study: Study) -> list[Path]:
    """Make decompositions whose histories hold every kind of step, and return their files."""
    sized = subspect.decompose(study, Auto(tolerance=0.1, promise="test"), show_progress=False)
    plain = subspect.decompose(study, 2, method="contribution", show_progress=False)
    label = next(label for label in range(len(NAMES)) if len(sized.supports[label]) > 1)
    edited = edit(study, sized, drop=[(NAMES[label], int(sized.supports[label][0]))], refit_on="train").decomposition
    return [study.path / "decompositions" / f"{one.name}.safetensors" for one in (sized, plain, edited)]


def _contents(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["subspect"])
    return load_file(path), {key: one for key, one in header.items() if key != "checksum"}


def _used(study: Study, path: Path, choices: Choices) -> None:
    """Read a decomposition and do with it what commands do; draw and print only sometimes, which takes long."""
    made = Decomposition.load(path)
    to_json(made.to_json())
    repr((made, made.settled, made.edits, made.mean_size, made.method, made.k, made.chosen_on, made.refitted_on))
    assert all(one < made.supports.n_features for label in range(len(made.supports)) for one in made.supports[label])
    made.layer()
    made.check(study)
    made.matrix()
    cost = evaluate(study, made)
    to_json(cost.to_json())
    if made.curve and not choices.below(8):
        _shown(curve_table(made))
        if not choices.below(8):
            curve_figure(made.curve, standalone=True)
    if not choices.below(4):
        _shown(summary(made, cost), *(features(made, label) for label in range(len(NAMES))))
    made.without(made.class_names[0], int(made.supports[made.label(made.class_names[0])][0]))


# Lists and tables -----------------------------------------------------------------------------------------------------


def _of_lists(folder: Path) -> dict[str, Reader]:
    path, csv = folder / "list.json", folder / "images.csv"
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    labelled = Arrays(np.zeros((3, 4, 4), np.uint8), [0, 1, 2])
    labelled.classes = NAMES
    table = {str(label): [label, 3] for label in range(len(NAMES))}
    named = {name: label for label, name in enumerate(NAMES)}

    def supports(data: bytes) -> None:
        path.write_bytes(data)
        assert len(Supports.read(path, len(NAMES), D)) == len(NAMES)

    def class_map(data: bytes) -> None:
        path.write_bytes(data)
        match = match_classes(labelled, len(NAMES), None, path)
        assert {match(name) for name in NAMES} <= set(range(len(NAMES)))
        to_json(match.names)

    def rows(data: bytes) -> None:
        csv.write_bytes(data)
        images = open_images(csv)
        match = match_classes(images, len(NAMES), NAMES)
        images.fingerprint(match)
        for index in range(min(2, len(images))):
            try:
                images.read(index)
                images.picture(images.id(index))
            except Unusable:
                continue

    def features_called(data: bytes) -> None:
        path.write_bytes(data)
        given = as_mapping(read_names(path), D)
        kept = checked({feature: name for feature, name in given.items() if name is not None}, D)
        to_json(list(kept.values()))

    called = {"1": "whiskers", "4": None}

    def names(data: bytes) -> None:
        path.write_bytes(data)
        to_json(match_classes(labelled, len(NAMES), lines_of(path)).names)

    def changed(read: Callable[[bytes], None], value: Any) -> Callable[[bytes], None]:
        return lambda data: read(json.dumps(altered(value, Choices(data))).encode())

    seeds = b"path,label\na.png,cat\nb/c.png,a-c\n", b'\xef\xbb\xbflabel,path\r\n1,"a.png"\r\n', b"path\n../x.png\n"
    return {
        "index file, bytes": Reader(supports, (json.dumps(table).encode(),)),
        "index file, fields": Reader(changed(supports, table)),
        "class map, bytes": Reader(class_map, (json.dumps(named).encode(),)),
        "class map, fields": Reader(changed(class_map, named)),
        "names of features, bytes": Reader(
            features_called, (json.dumps(called).encode(), b'["a", "b", "c", "d", "e", "f"]')
        ),
        "names of features, fields": Reader(changed(features_called, called)),
        "CSV": Reader(rows, seeds),
        "class names": Reader(names, ("\n".join(NAMES).encode(), "\ufeffé\r\nb\r\n\u2028c".encode())),
    }


# Options --------------------------------------------------------------------------------------------------------------


def _of_options(folder: Path) -> dict[str, Reader]:
    study = small_study(folder / "options")
    made = subspect.decompose(study, 2, method="contribution", show_progress=False)
    image = Image.new("RGB", (9, 12))

    def applied(preprocessing: object) -> None:
        if isinstance(preprocessing, Preprocessing):
            str(preprocessing), to_json(preprocessing.describe())
            try:
                assert torch.isfinite(preprocessing(image)).all()
            except Unusable:
                return

    def description(data: bytes) -> None:
        choices = Choices(data)
        value = odd(choices) if choices.below(8) == 1 else altered(PREPROCESSING, choices)
        value = parse_json(json.dumps(value).encode(), folder)
        read = choices.pick((as_preprocessing, from_description))
        applied(read(value) if read is as_preprocessing or isinstance(value, dict) else None)

    def k(data: bytes) -> None:
        str(check_budget(size_of(_argument(data), Auto()), D))

    def drop(data: bytes) -> None:
        label, feature = entry_of(_argument(data))
        made.without(label, feature_index(feature, {1: "whiskers"}, D))

    def pixels(data: bytes) -> None:
        texts = [one if one != "-" else None for one in _argument(data).split("|")]
        applied(_preprocessing(*([*texts, None, None, None, None, None][:5])))

    sizes = b"5", b"0.5", b"mean:5", b"mean:2.5:1:6", b"auto", b"1e3", b"-1"
    options = b"8|6|0.5,0.5,0.5|0.5,0.5,0.5|bilinear", b"none|none|0.5|0.5|-", b"8x9|6x6|0,0,0|1,1,1|bicubic"
    return {
        "preprocessing, fields": Reader(description),
        "--resize, --crop, --mean, --std": Reader(pixels, options),
        "-k": Reader(k, sizes, (SubspectError, typer.BadParameter)),
        "--drop": Reader(drop, (f"{NAMES[0]}:{made.supports[0][0]}".encode(), f"1:{made.supports[1][0]}".encode())),
    }


def _argument(data: bytes) -> str:
    """Return bytes as an argument of a command reaches Python."""
    return data.replace(b"\0", b"").decode("utf-8", "surrogateescape")


# Images ---------------------------------------------------------------------------------------------------------------


def _of_images(folder: Path) -> dict[str, Reader]:
    prepare = Preprocessing(resize=8, crop=(6, 7), mean=(0.5,) * 3, std=(0.5,) * 3)

    def image(data: bytes) -> None:
        path = folder / "image"
        path.write_bytes(data)
        picture, _ = decode_with_digest(path)
        assert picture.mode == "RGB" and picture.width * picture.height <= (Image.MAX_IMAGE_PIXELS or 0)
        assert torch.isfinite(prepare(picture)).all()

    found = {f"image, {kind}": Reader(image, _pictures(kind, modes), (Unusable,)) for kind, modes in _MODES.items()}
    return {
        **found,
        "image, PNG's chunks": Reader(lambda data: image(_checked(data)), found["image, PNG"].seeds, (Unusable,)),
    }


def _of_packed(folder: Path) -> dict[str, Reader]:
    """Return readers of what contains images: shards, tables and arrays."""
    picture, *_ = _pictures("PNG", ("RGB",))
    pixels, labels = np.zeros((3, 8, 8, 3), np.uint8), np.arange(3)
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, pixels)
    np.savez(npz, images=pixels, labels=labels)
    tensors = _saved({"images": torch.zeros(3, 3, 8, 8, dtype=torch.uint8), "labels": torch.from_numpy(labels)}, {})

    def opened(name: str) -> Callable[[bytes], None]:
        def read(data: bytes) -> None:
            path = folder / name
            path.write_bytes(data)
            images = open_images(f"wds:{path}" if ".tar" in name else path)
            images.fingerprint(match_classes(images, 3, NAMES) if images.classes is None else None)
            for index in range(min(len(images), 20)):
                with suppress(Unusable):
                    images.read(index)

        return read

    shards = [_tar(picture, layout) for layout in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)]
    return {
        "shard of images": Reader(opened("a.tar"), tuple(shards)),
        "shard of images, zipped": Reader(opened("a.tar.gz"), tuple(map(gzip.compress, shards))),
        "Parquet of images": Reader(opened("a.parquet"), (_table(picture),)),
        "arrays of images, .npy": Reader(opened("a.npy"), (npy.getvalue(),), claims=True),
        "arrays of images, .npz": Reader(opened("a.npz"), (npz.getvalue(),), share=0.5, claims=True),
        "arrays of images, .safetensors": Reader(opened("a.safetensors"), (tensors,)),
    }


def _tar(picture: bytes, layout: int) -> bytes:
    """Write two samples, one of which has a name that needs a header of its own where the layout knows such."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as archive:
        for name in ("0", "1" if layout == tarfile.USTAR_FORMAT else "d" * 110 + "/1"):
            for suffix, data in ((".png", picture), (".cls", b"1")):
                about = tarfile.TarInfo(name + suffix)
                about.size = len(data)
                archive.addfile(about, io.BytesIO(data))
    return buffer.getvalue()


def _table(picture: bytes) -> bytes:
    """Write three images as Hugging Face does, in two groups of rows."""
    features = {"label": {"names": list(NAMES), "_type": "ClassLabel"}}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata=about)
    rows = {"image": [{"bytes": picture, "path": None}, {"bytes": None, "path": "image"}, None], "label": [0, 1, 2]}
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(rows, schema), buffer, row_group_size=2)
    return buffer.getvalue()


_MODES = {
    "PNG": ("RGB", "RGBA", "P", "I;16", "1", "LA"),
    "JPEG": ("RGB", "L", "CMYK"),
    "GIF": ("P", "L"),
    "BMP": ("RGB", "P", "1"),
    "TIFF": ("RGB", "I;16", "1", "CMYK", "F"),
    "WEBP": ("RGB", "RGBA"),
    "PPM": ("RGB", "L", "1"),
    "JPEG2000": ("RGB", "L"),
    "AVIF": ("RGB",),
}


def _pictures(kind: str, modes: tuple[str, ...]) -> tuple[bytes, ...]:
    """Write a small picture in each mode, and one that has an EXIF orientation; none where Pillow lacks the format."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    made = []
    for mode in modes:
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels)
        picture = picture if mode == "I;16" else picture.convert(mode)
        exif = Image.Exif()
        exif[0x0112] = 6
        options: dict[str, Any] = {} if kind in ("GIF", "BMP", "PPM", "JPEG2000") else {"exif": exif}
        buffer = io.BytesIO()
        try:
            picture.save(buffer, kind, **options)
        except (KeyError, OSError):
            continue
        made.append(buffer.getvalue())
    return tuple(made)


def _checked(data: bytes) -> bytes:
    """Return a PNG whose chunks have right checksums, so that what they hold is believed."""
    out, at = [data[:8]], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + length]
        out += [data[at : at + 4], body, zlib.crc32(body).to_bytes(4, "big")]
        at += 12 + length
    return b"".join(out)


# Weights --------------------------------------------------------------------------------------------------------------


def _of_weights(folder: Path) -> dict[str, Reader]:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = model.state_dict()

    def weights(suffix: str) -> Callable[[bytes], None]:
        path = folder / f"weights{suffix}"

        def read(data: bytes) -> None:
            path.write_bytes(data)
            load_weights(model, path)

        return read

    def objects(data: bytes) -> None:
        weights(".pt")(_torch_bytes(_holding(state, Choices(data))))

    def pickled(data: bytes) -> None:
        weights(".pt")(_zipped(whole, data))

    whole, legacy = _torch_bytes({"state_dict": state}), _torch_bytes(state, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        inner = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    return {
        "weights, safetensors": Reader(weights(".safetensors"), (_saved(state, {}),)),
        "weights, .pt": Reader(weights(".pt"), (whole, legacy, _torch_bytes(state)), share=0.5, claims=True),
        "weights, pickle in .pt": Reader(pickled, (inner,), share=0.5, claims=True),
        "weights, objects in .pt": Reader(objects, share=0.5),
    }


def _torch_bytes(value: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def _zipped(whole: bytes, inner: bytes) -> bytes:
    """Return a checkpoint with another pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive, zipfile.ZipFile(buffer, "w") as out:
        for name in archive.namelist():
            out.writestr(name, inner if name.endswith("data.pkl") else archive.read(name))
    return buffer.getvalue()


def _holding(state: Mapping[str, Tensor], choices: Choices) -> object:
    """Return something that ``torch.save`` takes, more or less a state dict."""
    odd_tensors: tuple[Callable[[], object], ...] = (
        lambda: torch.eye(2, 3).to_sparse(),
        lambda: torch.eye(2, 3).to_sparse_csr(),
        lambda: torch.empty(2, 3, device="meta"),
        lambda: torch.quantize_per_tensor(torch.zeros(2, 3), 0.1, 0, torch.qint8),
        lambda: nn.Parameter(torch.full((2, 3), float("nan"))),
        lambda: torch.zeros(1).expand(2, 3),
        lambda: torch.zeros(2, 3, dtype=choices.pick((torch.complex64, torch.float64, torch.bool, torch.float8_e5m2))),
        lambda: [1, 2],
        lambda: None,
        lambda: odd(choices),
        lambda: torch.Size([1]),
    )
    value: Any = altered_tensors(state, choices)
    for _ in range(choices.below(3)):
        name: Any = choices.pick((*value, "x", 1, None, ("a",), 0.5, b"x"))
        value[name] = choices.pick(odd_tensors)()
    if choices.below(4) == 1:
        value = {f"{choices.pick(('module.', '_orig_mod.'))}{name}": one for name, one in value.items()}
    for _ in range(choices.below(4)):
        value = {choices.pick(("state_dict", "model", "net", "x", 3)): value}
    if choices.below(8) == 1:
        value["model"] = value
    if choices.below(8) == 1:
        value = choices.pick((list(value), tuple(value), set(), 3, "x", torch.zeros(2), None))
    return value


# Text that is shown, and what was sealed ------------------------------------------------------------------------------


def _of_text(folder: Path) -> dict[str, Reader]:
    def text(data: bytes) -> None:
        choices = Choices(data)
        shown = choices.text(200)
        assert not any(ord(one) < 32 or one in "\u202e\x1b\x7f" for one in legible(shown))
        legible(shown, lines=True).encode()
        table = Table(title=shown, caption=shown)
        table.add_column(shown)
        table.add_row(shown)
        _shown(table, shown)

    def value(data: bytes) -> None:
        said = parse_json(json.dumps(odd(Choices(data))).encode(), folder)
        text = to_json(said)
        text.encode()
        assert json.loads(text) == said

    def sealed(data: bytes) -> None:
        for path in paths:
            path.write_bytes(data)
            is_sealed(path)

    paths = [folder / f"sealed{suffix}" for suffix in (".html", ".svg", ".pdf", ".png", ".json", ".safetensors")]
    right = []
    for path in paths[:4]:
        write_sealed(path, _pictures("PNG", ("L",))[0] if path.suffix == ".png" else b"<p>text</p>")
        right.append(path.read_bytes())
    return {
        "text in tables": Reader(text, share=0.3),
        "text in JSON": Reader(value),
        "sealed pages and pictures": Reader(sealed, tuple(right)),
    }
