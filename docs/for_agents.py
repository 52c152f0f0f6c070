"""Write SKILL.md and llms.txt, for coding agents, from the site's pages, the command line and the docstrings.

`python docs/for_agents.py` writes both; tests/test_site.py compares them with what is committed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from inspect import cleandoc
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import command_reference  # noqa: E402 # after its folder is known
import subspect  # noqa: E402

ABOUT = """---
name: subspect
description: Find which few features decide each class of a trained image classifier, measure what keeping only those costs,
  find shortcuts, explain images, edit the head and export a cheaper network. Use it when asked what a PyTorch, timm,
  torchvision or Hugging Face image classifier bases its decisions on, or to make its head sparse.
---
"""


def paths() -> dict[str, list[str]]:
    """Return the names of the pages under the captions of docs/index.md, in their order."""
    text = (HERE / "index.md").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for options, entries in re.findall(r"^:::\{toctree\}\n((?::.*\n)*)\n((?:.+\n)*):::$", text, re.M):
        caption = re.search(r":caption: (.*)", options)
        pages = found.setdefault(caption[1] if caption else "Start", [])
        for entry in entries.split("\n"):
            pattern = re.sub(r".*<(.*)>", r"\1", entry)
            pages += [one.relative_to(HERE).with_suffix("").as_posix() for one in sorted(HERE.glob(f"{pattern}.md"))]
    return found


def opening(page: str) -> tuple[str, str]:
    """Return the title of a page and its first sentence."""
    text = (HERE / f"{page}.md").read_text(encoding="utf-8")
    included = re.match(r":::\{include\} (\S+)", text)
    if included:
        text = (HERE / included[1]).read_text(encoding="utf-8")
    text = re.sub(r"\A---\n.*?^---\n+", "", text, flags=re.M | re.S)
    title, _, rest = text.partition("\n\n")
    paragraphs = (one for one in rest.split("\n\n") if re.match(r"(?!```)[\w*`\[\"(]", one))
    words = " ".join(next(paragraphs, "").split())
    sentence = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", re.split(r"(?<=[.?])[*]{0,2} (?=[A-Z`*])|:$", words)[0])
    return title.lstrip("# "), re.sub(r"[*]{1,2}", "", sentence)


def llms(address: Callable[[str], str] = "docs/{}.md".format) -> str:
    """Return llms.txt: what subspect is, and a line for each page.

    Args:
        address: where the page of a name is.
    """
    summary = (HERE / "index.md").read_text(encoding="utf-8").split("\n\n")[2]
    lines = ["# subspect", "", f"> {' '.join(re.sub(r'[*]{2}', '', summary).split())}", ""]
    for caption, pages in paths().items():
        lines += [f"## {caption}", ""]
        for page in pages:
            title, sentence = opening(page)
            lines.append(f"- [{title}]({address(page)}): {sentence}".removesuffix(": "))
        lines.append("")
    return "\n".join(lines)


def skill() -> str:
    """Return SKILL.md: the page for coding agents, and a line for each command and function."""
    page = (HERE / "agents.md").read_text(encoding="utf-8")
    _, _, body = page.partition("\n## ")
    body = re.sub(r"\]\((?!http)([^)]*)\)", r"](docs/\1)", f"## {body}")
    return "\n".join([ABOUT + "\n# subspect\n", body, *_commands(), *_functions()])


def _commands() -> Iterator[str]:
    yield "## Commands\n\n`subspect COMMAND --help` has all options of each, and an example.\n"
    for name, command in command_reference.commands().items():
        said, examples = command_reference.told(command)
        yield f"- `{name}`: {said.splitlines()[0]} `{examples[0]}`"
    yield ""


def _functions() -> Iterator[str]:
    yield "## Python\n\n`help(subspect.NAME)` has arguments and an example of each; so are the types of the answers.\n"
    for name in subspect.__all__:
        if name[0].islower():
            yield f"- `subspect.{name}`: {cleandoc(getattr(subspect, name).__doc__).splitlines()[0]}"
    yield ""


if __name__ == "__main__":
    for file, text in (("SKILL.md", skill()), ("llms.txt", llms())):
        (HERE.parent / file).write_text(text, encoding="utf-8")
