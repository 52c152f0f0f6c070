"""Seals: the checksum that every file of ours carries, by which damage is noticed, and ours is told from others' files.

A seal is the SHA-256 of all that a file says, written where its format has room for it:

- JSON: the field ``checksum``, over the other fields (keys sorted, no spaces).
- safetensors: the field ``checksum`` of the JSON object in the header's metadata, over its other fields and each tensor's
  name, type, shape and bytes.
- HTML, SVG: a comment at the end; PDF: likewise; PNG: a text chunk before the last. Over all bytes but itself.

A file whose seal is right is as subspect wrote it, to the last bit that matters.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from subspect.ground.errors import SubspectError
from subspect.ground.files import JSON_BYTES, atomic, fingerprint, parse_json, read_bytes, read_json

_MOST = 2**35  # bytes of a sealed file; the state of a training is four times as large as the network
_END = re.compile(rb"\n(?:<!-- |% )sealed by subspect, sha256:([0-9a-f]{64})(?: -->)?\n\Z")
_CHUNK = b"subspect\0sha256:"


# JSON -----------------------------------------------------------------------------------------------------------------


def write_json(path: Path, value: Mapping[str, Any], ours: Callable[[Path], bool] | None = None) -> None:
    """Write a JSON object with its seal, in place of one that ``ours`` knows; unless given, one that is sealed.

    Raises:
        SubspectError: it cannot be written, or another file is there.
    """
    sealed = {**value, "checksum": _json_checksum(value)}
    with atomic(path, ours or is_sealed) as file:
        file.write((json.dumps(sealed, indent=1, ensure_ascii=False) + "\n").encode())


def open_json(path: Path, value: Any) -> dict[str, Any]:
    """Return the fields of a JSON object that was read from a file, once its seal is found right.

    Raises:
        SubspectError: it isn't an object, or not as it was written.
    """
    if not isinstance(value, dict):
        raise SubspectError(f"{path} is not a manifest of subspect: it contains {type(value).__name__}, not an object")
    fields = {key: one for key, one in value.items() if key != "checksum"}
    if value.get("checksum") != _json_checksum(fields):
        raise SubspectError(f"{path} is damaged: {_changed('checksum' in value)}")
    return fields


def _json_checksum(value: Mapping[str, Any]) -> str:
    return f"sha256:{hashlib.sha256(_canonical(value).encode()).hexdigest()}"


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


# Tensors --------------------------------------------------------------------------------------------------------------


def tensor_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """Return a safetensors file of some tensors and a JSON header, sealed; the same bytes for the same content."""
    sealed = {**header, "checksum": _tensor_checksum(tensors, header)}
    return save_tensors(dict(tensors), {"subspect": json.dumps(sealed, ensure_ascii=False)})


def read_tensors(path: Path, what: str, *, sealed: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and the header of a safetensors file of ours.

    Args:
        path: the file.
        what: it is to be, for messages, such as "a decomposition".
        sealed: whether it must carry a seal; else only where its header says another version than 1, of before seals were
            kept. One that is there must be right.

    Returns:
        name → tensor, and the header; empty where there is none.

    Raises:
        SubspectError: it is missing, damaged, or something else.
    """
    data = read_bytes(path, limit=_MOST)
    try:
        tensors = load_tensors(data)
        size = int.from_bytes(data[:8], "little")
        if size > JSON_BYTES:
            raise ValueError(f"its header has {size:,} bytes, more than the {JSON_BYTES:,} that are read")
        about = (json.loads(data[8 : 8 + size]).get("__metadata__") or {}).get("subspect", "{}")
        header = parse_json(about.encode(), f"the header of {path}")
        fields = {key: one for key, one in header.items() if key != "checksum"}
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SubspectError(f"{path} is not {what} of subspect: {error}") from error
    has_seal = "checksum" in header
    if (sealed or has_seal or header.get("schema", 1) != 1) and header.get("checksum") != _tensor_checksum(
        tensors, fields
    ):
        raise SubspectError(f"{path} is not {what} as subspect wrote it: {_changed(has_seal)}")
    return tensors, fields


def _tensor_checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    parts: list[str | bytes | memoryview] = [_canonical(header)]
    for name, tensor in sorted(tensors.items()):
        data = tensor.detach().cpu().contiguous().reshape(-1)
        whole: memoryview | bytes = data.view(torch.uint8).numpy().data if data.numel() else b""
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), whole]
    return f"sha256:{fingerprint(*parts)}"


# Pages and pictures ---------------------------------------------------------------------------------------------------


def write_sealed(path: Path, data: bytes) -> None:
    """Write a page or a picture with its seal, in place of an earlier one of ours.

    Raises:
        SubspectError: it cannot be written, or another file is there.
    """
    with atomic(path, is_sealed) as file:
        file.write(_seal(data, path.suffix.lower()))


def _seal(data: bytes, suffix: str) -> bytes:
    digest = hashlib.sha256(data).hexdigest().encode()
    if suffix == ".png":
        end = len(data) - 12  # the last chunk, IEND, is empty: length, type, checksum
        return data[:end] + _png_chunk(digest) + data[end:]
    line = (
        b"\n%% sealed by subspect, sha256:%s\n" if suffix == ".pdf" else b"\n<!-- sealed by subspect, sha256:%s -->\n"
    )
    return data + line % digest


def _png_chunk(digest: bytes) -> bytes:
    body = b"tEXt" + _CHUNK + digest
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _is_sealed_picture(data: bytes) -> bool:
    if data.startswith(b"\x89PNG"):
        length = len(_png_chunk(b"0" * 64))
        bare = data[: -12 - length] + data[-12:]
        return _seal(bare, ".png") == data
    found = _END.search(data[-200:])
    return found is not None and hashlib.sha256(data[: -len(found[0])]).hexdigest().encode() == found[1]


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as manifests hold it.

    Raises:
        SubspectError: it cannot be read.
    """
    return f"sha256:{hashlib.sha256(read_bytes(path, limit=2**40)).hexdigest()}"


def is_sealed(path: Path) -> bool:
    """Tell whether a file is as subspect wrote it."""
    kinds: dict[str, Callable[[], object]] = {
        ".json": lambda: open_json(path, read_json(path)),
        ".safetensors": lambda: read_tensors(path, "a file"),
    }
    try:
        if path.suffix.lower() in kinds:
            kinds[path.suffix.lower()]()
            return True
        return _is_sealed_picture(read_bytes(path, limit=_MOST))
    except SubspectError:
        return False


def _changed(has_seal: bool) -> str:
    return "its content doesn't fit its checksum" if has_seal else "it carries no checksum"
