"""Seals: what is written carries one, and any change shows."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from subspect.ground.errors import SubspectError
from subspect.ground.files import read_json
from subspect.ground.seals import is_sealed, open_json, read_tensors, tensor_bytes, write_json, write_sealed

TENSORS = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor([1, -2])}


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (1, 2, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def written(folder: Path, name: str) -> Path:
    path = folder / name
    if path.suffix == ".json":
        write_json(path, {"schema": 1, "b": [1.5, None], "a": "é"})
    elif path.suffix == ".safetensors":
        path.write_bytes(tensor_bytes(TENSORS, {"name": "x"}))
    else:
        write_sealed(path, picture() if path.suffix == ".png" else b"<svg></svg>")
    return path


NAMES = ["a.json", "a.safetensors", "a.png", "a.svg", "a.html", "a.pdf"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_sealed_and_replaced_only_then(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    assert is_sealed(path)
    if path.suffix != ".safetensors":
        written(tmp_path, name)
        before = path.read_bytes()
        path.write_bytes(before.replace(b"1.5", b"2.5") if path.suffix == ".json" else before + b" ")
        changed = path.read_bytes()
        with pytest.raises(SubspectError, match="is there already, and not as subspect wrote it"):
            written(tmp_path, name)
        assert path.read_bytes() == changed
    path.write_bytes(b"")
    assert not is_sealed(path) and not is_sealed(tmp_path / "missing.png") and not is_sealed(tmp_path)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), name=st.sampled_from(NAMES))
@settings(deadline=None, max_examples=300)
def test_a_flipped_bit_shows_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int, name: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "flip"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.unlink(missing_ok=True)
    data = bytearray(written(folder, name).read_bytes())
    said = content(path)
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    assert not is_sealed(path) or content(path) == said


def content(path: Path) -> object:
    if path.suffix == ".json":
        return open_json(path, read_json(path))
    if path.suffix == ".safetensors":
        tensors, header = read_tensors(path, "a file")
        return {name: tensor.tolist() for name, tensor in tensors.items()}, header
    return path.read_bytes()


def test_a_sealed_json_is_plain_json(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json")
    value = json.loads(path.read_text(encoding="utf-8"))
    body = '{"a":"é","b":[1.5,null],"schema":1}'
    assert value.pop("checksum") == "sha256:" + hashlib.sha256(body.encode()).hexdigest()
    assert list(value) == ["schema", "b", "a"] and path.read_text(encoding="utf-8").startswith('{\n "schema": 1,\n')
    assert open_json(path, read_json(path)) == value


def test_a_sealed_picture_is_a_plain_one(tmp_path: Path) -> None:
    with Image.open(written(tmp_path, "a.png")) as image:
        assert image.getpixel((0, 0)) == (1, 2, 3)
        assert image.info["subspect"].startswith("sha256:")
    assert written(tmp_path, "a.svg").read_bytes().startswith(b"<svg></svg>\n<!-- sealed by subspect, sha256:")
    assert b"\n% sealed by subspect, sha256:" in written(tmp_path, "a.pdf").read_bytes()


def test_sealed_tensors_are_plain_safetensors(tmp_path: Path) -> None:
    path = written(tmp_path, "a.safetensors")
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in load_file(path).items())
    tensors, header = read_tensors(path, "a file")
    assert header == {"name": "x"} and tensors.keys() == TENSORS.keys()


def test_files_without_a_seal_or_a_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_file(TENSORS, path)
    assert read_tensors(path, "a file", sealed=False)[1] == {}
    with pytest.raises(SubspectError, match="is not a head as subspect wrote it: it carries no checksum"):
        read_tensors(path, "a head")
    save_file(TENSORS, path, {"subspect": '{"checksum": "sha256:00"}'})
    with pytest.raises(SubspectError, match="as subspect wrote it: its content doesn't fit its checksum"):
        read_tensors(path, "a head", sealed=False)
    save_file(TENSORS, path, {"subspect": "[]"})
    with pytest.raises(SubspectError, match="is not a head of subspect"):
        read_tensors(path, "a head", sealed=False)
    for text, reason in (("[" * 200 + "]" * 200, "nested more than 100 deep"), ('{"a": NaN}', "NaN is no JSON value")):
        save_file(TENSORS, path, {"subspect": text})
        with pytest.raises(SubspectError, match=f"the header of .*a.safetensors is not JSON.*{reason}"):
            read_tensors(path, "a head")
    monkeypatch.setattr("subspect.ground.seals.JSON_BYTES", 100)
    with pytest.raises(SubspectError, match="its header has .* bytes, more than the 100 that are read"):
        read_tensors(path, "a head")
    for data in (b"", b"12345678", b"\xff" * 20, (2**40).to_bytes(8, "little") + b"{}"):
        path.write_bytes(data)
        with pytest.raises(SubspectError, match="is not a head of subspect"):
            read_tensors(path, "a head")
    with pytest.raises(SubspectError, match="cannot read .*missing"):
        read_tensors(tmp_path / "missing", "a head")


def test_a_manifest_is_an_object_with_a_seal() -> None:
    with pytest.raises(SubspectError, match="it contains list, not an object"):
        open_json(Path("a.json"), [])
    with pytest.raises(SubspectError, match="a.json is damaged: it carries no checksum"):
        open_json(Path("a.json"), {"a": 1})
    with pytest.raises(SubspectError, match="a.json is damaged: its content doesn't fit its checksum"):
        open_json(Path("a.json"), {"a": 1, "checksum": "sha256:00"})
