"""The command reference, made from the command line itself: each command a section, with its options and examples.

A page that holds the line ``(all commands)`` gets them there when Sphinx reads it, so that nothing is kept twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from subspect.cli import app

WIDTH = 84  # letters of an example that fit into a line
PLACE = "(all commands)"
#: what stands for an option's value where it doesn't say so itself
KINDS = {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH"}


def commands() -> dict[str, Any]:
    """Return the commands by name, in the order of the help."""
    found: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return found


def panels() -> dict[str, list[str]]:
    """Return the names of the commands under the headings that they have in the help."""
    found: dict[str, list[str]] = {}
    for name, command in commands().items():
        found.setdefault(command.rich_help_panel, []).append(name)
    return found


def told(command: Any) -> tuple[str, list[str]]:
    """Return what a command's help says, and its examples, each a line of a shell."""
    text, _, lines = re.sub(r"[ \n]*\n[ ]*\n[ ]*", "\n\n", command.help).partition("Example")
    examples = re.sub(r"^s?: ", "", " ".join(lines.split()))
    paragraphs = [" ".join(one.split()) for one in text.split("\n\n")]
    return "\n\n".join(filter(None, paragraphs)), examples.split(" | ") if examples else []


def reference() -> str:
    """Return all commands as Markdown."""
    return "\n".join(
        line
        for panel, names in panels().items()
        for line in (f"## {panel}\n", *(text for name in names for text in section(name)))
    )


def section(name: str) -> Iterator[str]:
    """Go through the lines about one command."""
    command = commands()[name]
    text, examples = told(command)
    yield f"(command-{name})=\n### `subspect {name}`\n"
    yield f"{text}\n"
    yield "```sh"
    yield from map(_broken, examples)
    yield "```\n"
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    for one in arguments:
        yield f"`{one.metavar or one.name.upper()}`"
        yield f": {helped(one)}\n"
    for one in command.params:
        if one.param_type_name == "option":
            yield ", ".join(f"`{name}`" for name in named(one))
            yield f": {helped(one)}\n"


def _broken(example: str) -> str:
    """Break a long line of a shell before options."""
    lines = [""]
    for part in re.split(r" (?=--?[a-z])", example):
        if lines[-1] and len(lines[-1]) + len(part) > WIDTH:
            lines.append(f"    {part}")
        else:
            lines[-1] += f" {part}"
    return " \\\n".join(lines).strip()


def named(option: Any) -> list[str]:
    """Return the ways to write an option, the last with what it takes."""
    taken = "" if option.is_flag or option.count else f" {option.metavar or _kind(option)}"
    return [*option.opts[:-1], option.opts[-1] + taken, *option.secondary_opts]


def _kind(option: Any) -> str:
    """Return what stands for an option's value."""
    kind = option.type_descriptor.annotation
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return KINDS[next(iter(get_args(kind)), kind)]


def helped(one: Any) -> str:
    """Return an option's help, with its default where it has one that says something."""
    text = re.sub(r"(?<![\w`-])(--[a-z][\w-]+|-k)\b", r"`\1`", " ".join(one.help.split()))
    notes = ["repeatable"] if getattr(one, "multiple", False) and "repeatable" not in text else []
    if one.required and one.param_type_name == "option":
        notes.append("required")
    value = one.default
    if value not in (None, False, True, (), [], "") and not callable(value) and "default" not in text:
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(getattr(value, "value", value))
        notes.append(f"default: `{shown}`")
    return text + (f" *({'; '.join(notes)})*" if notes else "")


def _read(_app: Any, _page: str, source: list[str]) -> None:
    if PLACE in source[0]:
        source[0] = source[0].replace(PLACE, reference())


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
