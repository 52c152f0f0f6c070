"""Features as files of other tools: read back by each tool's own rules, and what is refused."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import subspect
from commands import parsed, said
from conftest import Tiny
from subspect import Network, Study, SubspectError, export_features, from_features


def lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return text[:-1].split("\n")


def vector(value: dict[str, Any]) -> Any:
    """As FiftyOne reads one: MongoDB's binary, zlib, .npy."""
    (binary,) = value.values()
    assert set(value) == {"$binary"} and binary["subType"] == "00"
    return np.load(io.BytesIO(zlib.decompress(base64.b64decode(binary["base64"]))), allow_pickle=False)


def test_tensorboard(study: Study, tmp_path: Path) -> None:
    """By the rules of its projector: floats between tabs; a header where there is more than one column."""
    made = study.export_features(tmp_path / "projector", format="tensorboard", on="test")
    assert {path.name for path in made.path.iterdir()} == set(made.files)
    config = (made.path / "projector_config.pbtxt").read_text()
    found = dict(re.findall(r'^  (\w+): "([^"]*)"$', config, re.M))
    assert found == {"tensor_name": "test", "tensor_path": "tensors.tsv", "metadata_path": "metadata.tsv"}
    assert config.startswith("embeddings {\n") and config.endswith("}\n")
    whole = study.image_set("test").whole()
    rows = [[float(one) for one in line.split("\t")] for line in lines(made.path / "tensors.tsv")]
    assert np.array_equal(np.array(rows, np.float32), whole.features)  # to the last bit
    header, *about = (line.split("\t") for line in lines(made.path / "metadata.tsv"))
    assert header == ["id", "label", "prediction"] and len(about) == len(rows) == 45 == made.examples
    names = study.identity.class_names
    assert about == [
        [id, names[label], names[prediction]]
        for id, label, prediction in zip(whole.ids, whole.labels.tolist(), whole.predictions.tolist(), strict=True)
    ]
    assert "tensorboard --logdir" in made._repr_html_() and made.to_frame()["bytes"].min() > 0
    assert made.to_json()["files"] == {path.name: path.stat().st_size for path in made.path.iterdir()}


def test_tensorboard_of_texts_in_several_shards(tmp_path: Path) -> None:
    """Tabs and line breaks would shift columns and rows."""
    x = np.random.default_rng(0).normal(size=(2500, 3)).astype(np.float32)
    texts = ["a\tb\nc", *["x"] * 2498, None]
    study = from_features(x, np.eye(3), np.zeros(3), tmp_path / "study", texts=texts, class_names=["a\tb", "c", "d"])
    made = study.export_features(tmp_path / "out", format="tensorboard")
    with (made.path / "metadata.tsv").open(newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    assert header == ["id", "prediction", "text"]  # there are no labels
    assert len(rows) == 2500 and all(len(row) == 3 for row in rows)
    assert rows[0][2] == "a\\tb\\nc" and rows[-1][2] == "" and {row[1] for row in rows} == {"a\\tb", "c", "d"}
    assert len(lines(made.path / "tensors.tsv")) == 2500


def test_fiftyone(study: Study, tmp_path: Path) -> None:
    """By the rules of its importer: no version in metadata.json; a sample's fields under their names, with its path."""
    study.name_feature(3, "whiskers")
    made = export_features(study, path=tmp_path / "fiftyone", format="fiftyone", on="test")
    assert set(made.files) == {"metadata.json", "samples.json"}
    metadata = json.loads((made.path / "metadata.json").read_text())
    assert "version" not in metadata and metadata["media_type"] == "image"
    assert metadata["info"]["classes"] == ["a", "b", "c"] and metadata["info"]["feature_names"] == {"3": "whiskers"}
    samples = json.loads((made.path / "samples.json").read_text())["samples"]
    whole = study.image_set("test").whole()
    weight, bias = study.head()
    shares = (torch.from_numpy(whole.features.copy()) @ weight.T + bias).softmax(1).numpy()
    assert len(samples) == 45
    for row, sample in enumerate(samples):
        assert Path(sample["filepath"]).is_file() and sample["filepath"] == str(tmp_path / "test" / whole.ids[row])
        assert sample["tags"] == ["test"] and sample["example"] == whole.ids[row] and sample["metadata"] is None
        assert sample["ground_truth"] == {"_cls": "Classification", "label": "abc"[int(whole.labels[row])]}
        said = sample["predictions"]
        assert (said["_cls"], said["label"]) == ("Classification", "abc"[int(whole.predictions[row])])
        assert said["confidence"] == pytest.approx(shares[row].max(), abs=1e-6)
        assert np.array_equal(vector(sample["features"]), whole.features[row])
    assert "fiftyone.types.FiftyOneDataset" in made._repr_html_()


def test_images_that_were_moved(study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    with pytest.raises(
        SubspectError, match=r"no such folder of images: .*test; say where they are now \(images=, --images\)"
    ):
        study.export_features(tmp_path / "out", format="fiftyone", on="test")
    (tmp_path / "elsewhere/a/000.png").unlink()
    made = study.export_features(tmp_path / "out", format="fiftyone", on="test", images=tmp_path / "elsewhere")
    samples = json.loads((made.path / "samples.json").read_text())["samples"]
    assert samples[1]["filepath"] == str(tmp_path / "elsewhere" / samples[1]["example"])
    assert "1 of 45 images are not in" in caplog.text and "a/000.png; say where they are now: --images" in caplog.text


def test_a_set_without_labels_or_files(tmp_path: Path) -> None:
    network = Network(Tiny(), class_names=("a", "b", "c"))
    images = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    study = subspect.observe(network, images, tmp_path / "study", show_progress=False)
    with pytest.raises(
        SubspectError, match="those of 'train' were in memory; say in which folder they are under their ids"
    ):
        study.export_features(tmp_path / "out", format="fiftyone")
    (tmp_path / "images").mkdir()
    with pytest.raises(
        SubspectError, match=r"none of the 20 images of 'train' is in .*images \(looked for 0, 1, 2, .* under"
    ):
        study.export_features(tmp_path / "out", format="fiftyone", images=tmp_path / "images")
    assert not (tmp_path / "out").exists()
    (tmp_path / "images/3").write_bytes(b"")
    made = study.export_features(tmp_path / "out", format="fiftyone", images=tmp_path / "images")
    samples = json.loads((made.path / "samples.json").read_text())["samples"]
    assert len(samples) == 20 and not any("ground_truth" in sample for sample in samples)


def test_what_is_refused(study: Study, tmp_path: Path) -> None:
    alone = from_features(np.eye(3), np.eye(3), None, tmp_path / "alone")
    (tmp_path / "there").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    for given, options, told in (
        (alone, {"format": "fiftyone"}, "was made from features alone; export them to tensorboard"),
        (study, {"format": "csv"}, "features are exported to tensorboard or fiftyone; got 'csv'"),
        (study, {"format": "tensorboard", "images": "x"}, "images goes with FiftyOne"),
        (study, {"format": "tensorboard", "on": "valid"}, "no image set 'valid'"),
        (study, {"format": "tensorboard", "path": tmp_path / "there"}, "is there already, as a folder"),
    ):
        with pytest.raises(SubspectError, match=told):
            export_features(given, **{"path": tmp_path / "out", **options})  # type: ignore[arg-type]
    assert {path.name for path in tmp_path.iterdir()} == before


def test_the_command(study: Study, tmp_path: Path) -> None:
    made = parsed(f"export-features {study.path} -o {tmp_path / 'projector'} --on test")
    assert made["format"] == "tensorboard" and made["examples"] == 45 and made["features"] == 6
    line = f"export-features {study.path} -o {tmp_path / 'fiftyone'}"
    assert "--images goes with --format fiftyone" in said(f"{line} --images x", 1)
    assert parsed(f"{line} --format fiftyone --images {tmp_path / 'train'}")["files"]["samples.json"] > 1000
    assert "is there already, as a folder" in said(line, 1)
