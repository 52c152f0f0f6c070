"""Inputs for fuzzing: bytes mutated at random, and decisions read from bytes, by which documents and tensors are changed.

Whatever drives a reader, chance or coverage, hands it bytes. A reader of a file takes them as the file; one that is to get
past checksums and parsers reads decisions from them (`Choices`) and changes something that is right with these, so that the
same bytes always make the same input.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_WORDS = (*rb'NaN null 1e999 \ud800 " - .. :'.split(), b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"[" * 40, b'{"a":' * 500)
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 255, 2**31 - 1, 2**31, 2**53, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**30),
    *(0.5, -0.0, 1.0, 1e-320, 1e308, -1e308, 2.0**63, float("nan"), float("inf"), float("-inf")),
    *(
        "",
        "a",
        "0",
        "-1",
        "00",
        "train",
        "80 %",
        "pursuit",
        "auto",
        "labels",
        "../x",
        "/etc/passwd",
        "\x1b[31m",
        "\u202e",
    ),
    *("\0", "\ud800", "é" * 300, "9" * 5000, "[/INST]", "$0_to_$10", "\n\n", "ﬃ", "٣", "²", "x" * 20_000, "nan", "<b>"),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": [1]}}, [0, 0], [1e308, 1e308], ["a", "all"], [0] * 100),
)


class Choices:
    """Decisions read from bytes, in order; once they are used up, each decision is the first of its options."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, n: int) -> bytes:
        """Return the next n bytes, zeros where there are none."""
        taken = self._data[self._at : self._at + n]
        self._at += n
        return taken.ljust(n, b"\0")

    def below(self, n: int) -> int:
        """Return a number from 0 to n − 1."""
        return int.from_bytes(self.take(1 if n <= 256 else 4), "little") % n

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[self.below(len(options))]

    def text(self, most: int = 40) -> str:
        """Return text of any characters, halves of surrogate pairs among them."""
        top = self.pick((0x80, 0x300, 0x2100, 0x110000))
        return "".join(chr(self.below(top)) for _ in range(self.below(most)))


def mutated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Return bytes with a few random changes: bits, bytes, numbers, words, cuts, repeats, pieces of another input."""
    out = bytearray(data)
    for _ in range(1 + min(chance.getrandbits(4), chance.getrandbits(4))):
        _mutate(out, other, chance)
    return bytes(out)


def _mutate(out: bytearray, other: bytes, chance: random.Random) -> None:
    at = chance.randrange(len(out) + 1)
    end = min(len(out), at + 1 + chance.getrandbits(chance.randrange(1, 8)))
    kind = chance.randrange(9)
    if kind <= 1 and at < len(out):
        out[at] = out[at] ^ (1 << chance.randrange(8)) if kind else chance.getrandbits(8)
    elif kind == 2:
        width, order = chance.choice((1, 2, 4, 8)), chance.choice("<>")
        number = chance.choice(_NUMBERS) & (2 ** (8 * width) - 1)
        out[at : at + width] = struct.pack(order + {1: "B", 2: "H", 4: "I", 8: "Q"}[width], number)
    elif kind == 3:
        out[at:at] = chance.choice(_WORDS)
    elif kind == 4:
        del out[at:end]
    elif kind == 5:
        out[at:at] = out[at:end] * chance.randrange(1, 4)
    elif kind == 6:
        del out[at:]
    elif kind == 7 and other:
        start = chance.randrange(len(other))
        piece = other[start : start + 1 + chance.getrandbits(6)]
        out[at : at + chance.choice((0, len(piece)))] = piece
    else:
        out[at:at] = chance.randbytes(1 + chance.getrandbits(3))


# Documents ------------------------------------------------------------------------------------------------------------


def altered(value: Any, choices: Choices, most: int = 4) -> Any:
    """Return a JSON document with up to ``most`` places changed."""
    for _ in range(choices.below(most + 1)):
        value = _changed(value, choices)
    return value


def _changed(value: Any, choices: Choices) -> Any:
    """Change one place: another value, one more, one less; at any depth."""
    how = choices.below(8)
    if isinstance(value, Mapping) and value and how:
        key = choices.pick(list(value))
        if how == 1:
            return {one: value[one] for one in value if one != key}
        if how == 2:
            return {**value, odd_key(choices, key): value[key]}
        return {**value, key: _changed(value[key], choices)}
    if isinstance(value, list | tuple) and value and how:
        at = choices.below(len(value))
        if how == 1:
            return [*value[:at], *value[at + 1 :]]
        if how == 2:
            return [*value, value[at]]
        return [*value[:at], _changed(value[at], choices), *value[at + 1 :]]
    return odd(choices)


def odd_key(choices: Choices, like: str) -> str:
    """Return a key that resembles one, or none at all."""
    return choices.pick((like + " ", "0" + like, like.upper(), choices.text(8), "", "00", "-0", "9" * 400))


def odd(choices: Choices) -> Any:
    """Return a value that a field may not be ready for."""
    kind = choices.below(8)
    if kind == 0:
        return choices.text()
    if kind == 1:
        return struct.unpack("<d", choices.take(8))[0]
    if kind == 2:
        return int.from_bytes(choices.take(3), "little", signed=True)
    if kind == 3:
        value, key = choices.pick(_ODD), choices.pick((None, "a"))
        for _ in range(choices.pick((1, 2, 30, 90, 400))):
            value = [value] if key is None else {key: value}
        return value
    return choices.pick(_ODD)


# Tensors --------------------------------------------------------------------------------------------------------------

_TYPES = (
    *(torch.float32, torch.int64, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int8, torch.uint8),
    *(torch.bool, torch.complex64, torch.float8_e4m3fn),
)


def altered_tensors(tensors: Mapping[str, Tensor], choices: Choices) -> dict[str, Tensor]:
    """Return tensors of which up to four have another length, shape, type or value, are missing, or are there besides."""
    changed = dict(tensors)
    for _ in range(choices.below(5)):
        name = choices.pick(list(changed) or ["x"])
        how = choices.below(7)
        if how == 0:
            changed.pop(name, None)
        elif how == 1:
            changed[choices.pick((choices.text(8), "x", "bias2"))] = torch.zeros(choices.below(4))
        elif name in changed:
            changed[name] = _changed_tensor(changed[name], how, choices)
    return changed


def _changed_tensor(tensor: Tensor, how: int, choices: Choices) -> Tensor:
    flat = tensor.reshape(-1)
    if how == 2:
        return tensor.to(choices.pick(_TYPES))
    if how == 3:
        length = choices.below(2 * len(flat) + 2)
        return torch.cat([flat, flat, torch.zeros(2, dtype=flat.dtype)])[:length]
    if how == 4:
        return torch.zeros(choices.pick(((0,), (), (1, 0), (0, 2**40), (2, 2), (1, 1, 1, 1))), dtype=tensor.dtype)
    if how == 5:
        return tensor[..., None] if tensor.ndim and choices.below(2) else tensor.reshape(1, *tensor.shape)
    if not len(flat):
        return tensor
    value = choices.pick((float("nan"), float("inf"), -1.0, 1e38, 3e4, 2.0**62, -(2.0**62), 0.0, 0.5, 99.0))
    flat = flat.clone()
    whole = not (flat.is_floating_point() or flat.is_complex())
    limits = torch.iinfo(flat.dtype) if whole and flat.dtype != torch.bool else None
    if limits is not None:
        value = 7 if value != value else int(max(limits.min, min(limits.max, value)))
    flat[choices.below(len(flat))] = value
    return flat.reshape(tensor.shape)
