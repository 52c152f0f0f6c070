"""docs/troubleshooting.md against the source: each message says what to do or has an entry, and no entry is stale."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import subspect
from conftest import Tiny
from messages import SRC, VARIES, Message, calls, messages, modules, tree, warnings
from messages import Scope as Scope
from subspect import SubspectError
from subspect.ground.errors import MissingExtra

PAGE = (Path(__file__).parents[1] / "docs/troubleshooting.md").read_text(encoding="utf-8")

#: What a user is asked to do.
VERBS = """
add allow ask call check choose close compare continue convert declare decompose delete describe divide download drop evaluate
export fetch fill fix fit free give have install join keep label leave load look make mark measure move name number observe
open pad pass pick prepare put raise read reinstall remove rename repeat replace rescale restore run save say see set start
store take train transpose turn try use wait wrap write
""".split()
#: A request: one of these verbs begins the message, or what follows a semicolon, a colon, what varies, or ", or"; before it may
#: stand when, or what for ("to check with real images, say where they are").
REQUEST = re.compile(
    rf"(?:^|[;:…] ?|, or )(?:(?:or|and|then|best|(?:to|for|if|with|in) [^;:,]+)[,:]? )*(?:{'|'.join(VERBS)})\b"
)
#: What was expected, beside what was given.
EXPECTED = re.compile(r"\b(?:expected|must)\b|[;,] got\b|\bgoe?s? with\b|\bneeds all of\b")
#: What there is to choose from.
CHOICES = re.compile(
    r"[;:] (?:it has|there are|these were|they are|it uses|the network has|the features are|the network's … features go"
    r"|formats are|candidates|names are given to"
    r"|its (?:linear layers|samples contain|splits are|columns are|arrays are|classes are))\b"
)
#: Messages of which neither is asked, and why.
PASSED_ON = {
    "…; …": "adds advice to an error that has its own entry",
    "image …: …": "says of which image another error is",
    "…": "another error, from a process that reads images",
    "…: …": "another error, from an actor",
    "… is no state of a training": "is caught beside, and told as one of a damaged file, with what to do",
}
#: Modules whose warnings all have an entry: those that fill a study and choose features, and what these call.
WARNERS = ("studies/", "choosing/", "images/labels", "images/columns", "networks/finding", "networks/naming")
#: Warnings of these that say all that there is to say.
SAID = {"… images are not as they were when they were observed, and have no thumbnail: …"}


def entries(level: str, *, under: str = "", but: str = "") -> list[str]:
    """Return the messages that the page has headings for: those of a level, of one part of the page or of all others."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    chosen = [
        text
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
        if (not under or name == under) and name not in but.split("|")
    ]
    return re.findall(rf"^{level} `+ ?(.+?) ?`+$", "\n".join(chosen), flags=re.MULTILINE)


ERRORS = entries("###", but="Warnings|What is no error")
WARNINGS = entries("####", under="Warnings")


def is_of(entry: str, message: Message) -> bool:
    """Tell whether an entry is a message's: all of it, or its beginning where the entry ends with an ellipsis."""
    begins = entry.removesuffix(VARIES)
    return message.text == entry or (entry.endswith(VARIES) and message.text.startswith(begins))


def says_what_to_do(text: str) -> bool:
    """Tell whether a message needs no entry: it asks for something, or says what was expected or what there is."""
    return any(pattern.search(text) for pattern in (REQUEST, EXPECTED, CHOICES))


def found_by(said: str) -> list[str]:
    """Find the entries of a message that was pasted, as a reader does who looks for the words that don't vary."""
    patterns = {entry: ".*".join(re.escape(part) for part in entry.split(VARIES)) for entry in ERRORS}
    return [entry for entry, pattern in patterns.items() if re.match(pattern, said)]


def test_all_errors_of_the_source_are_found() -> None:
    """As many calls as a search for the text finds, in each file."""
    for module in modules():
        path = SRC / Path(*module.split("."))
        text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
        written = len(re.findall(r"\bSubspectError\((?!Exception)", text))
        own = len(re.findall(r"class \w+\(SubspectError", text))
        assert len(list(calls(tree(module), Scope(module, None), ()))) == written + own, module
    assert len(messages()) > 500


def test_each_message_says_what_to_do_or_has_an_entry() -> None:
    lacking = [
        f"{one.file}:{one.line}: {one.text}"
        for one in messages()
        if not says_what_to_do(one.text)
        and one.text not in PASSED_ON
        and not any(is_of(entry, one) for entry in ERRORS)
    ]
    assert not lacking, "\n".join(lacking)
    assert set(PASSED_ON) <= {one.text for one in messages()}


@pytest.mark.parametrize(
    "text",
    [
        "there are no images to learn from",
        "… is damaged: its content doesn't fit its checksum",
        "the network failed: …",
        "two features have names",
        "… was not measured, since images are few",
    ],
)
def test_what_says_only_what_is_wrong_doesnt_count(text: str) -> None:
    assert not says_what_to_do(text)


@pytest.mark.parametrize(
    "text",
    [
        "two classes are compared, and both are …; name another one",
        "no image set …; it has: …",
        "fidelity must be between 0 and 1, got …",
        "the observed images are gone; to check with real images, say where they are now: …",
        "name one class or more that the network is to keep",
    ],
)
def test_what_counts(text: str) -> None:
    assert says_what_to_do(text)


def test_no_entry_is_of_a_message_that_is_gone() -> None:
    assert [entry for entry in ERRORS if not any(is_of(entry, one) for one in messages())] == []
    assert [entry for entry in WARNINGS if not any(is_of(entry, one) for one in warnings())] == []


def test_entries_can_be_looked_for() -> None:
    """Each has words that don't vary, and stands there once."""
    assert len(ERRORS) > 60 and len({*ERRORS, *WARNINGS}) == len(ERRORS) + len(WARNINGS)
    for entry in (*ERRORS, *WARNINGS):
        assert len(re.findall(r"[a-zA-Z]", entry)) >= 9, entry


def test_each_entry_says_something() -> None:
    bodies = re.split(r"^#{2,4} .*$", PAGE, flags=re.MULTILINE)[1:]
    heads = re.findall(r"^(#{2,4}) (.*)$", PAGE, flags=re.MULTILINE)
    for (level, head), body in zip(heads, bodies, strict=True):
        if "`" in head and level != "##":
            assert len(body.split()) >= 3, head


def test_warnings_of_observing_and_choosing_have_entries() -> None:
    concerned = [one for one in warnings() if one.file.removeprefix("subspect/").startswith(WARNERS)]
    assert len(concerned) > 25
    assert [one.text for one in concerned if not any(is_of(entry, one) for entry in WARNINGS)] == []


def _fails_on_batches() -> object:
    pixels = np.zeros((4, 5, 8, 8), np.float32)
    return subspect.observe(subspect.Network(Tiny()), (pixels, [0, 1, 2, 0]), "study", show_progress=False)


MET: dict[str, tuple[Callable[[], object], str]] = {
    "no images": (
        lambda: subspect.observe(subspect.Network(Tiny()), "nowhere", "study"),
        "no such folder or file of images: …",
    ),
    "batch": (_fails_on_batches, "the network failed on a batch …"),
    "weights": (lambda: subspect.load_network("python:net.py:make", "none.pt"), "no such file of weights: …"),
    "code": (lambda: subspect.load_network("python:wrong.py:make"), "importing … failed: …"),
    "call": (lambda: subspect.load_network("python:net.py:fails"), "…: calling …(…) failed: …"),
    "decomposition": (lambda: subspect.Decomposition.load("none.safetensors"), "no decomposition at …"),
    "damage": (lambda: subspect.open_study("damaged"), "… is damaged: …"),
    "extra": (
        lambda: (_ for _ in ()).throw(MissingExtra("onnx", "export", "writing ONNX")),
        "… needs the package …; install it, in the clone of subspect, with: pip install -c constraints.txt '.[…]'",
    ),
}


@pytest.mark.parametrize("what", MET)
def test_a_pasted_error_finds_its_entry(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("from conftest import Tiny as make\n\ndef fails():\n    raise ValueError('no')\n")
    Path("wrong.py").write_text("import nothing_of_that_name\n")
    Path("damaged").mkdir()
    Path("damaged/study.json").write_text('{"schema": 2, "checksum": "sha256:0"}')
    meet, entry = MET[what]
    with pytest.raises(SubspectError) as error:
        meet()
    assert entry in found_by(str(error.value)), error.value
