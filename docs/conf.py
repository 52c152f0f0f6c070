"""How Sphinx builds the site: `make docs`, without any network, warnings as errors."""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "_ext")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from docutils import nodes  # noqa: E402

import for_agents  # noqa: E402 # after these can be found
import subspect  # noqa: E402
from _notebooks import not_run  # noqa: E402

project = "subspect"
author = copyright = "The subspect developers"
version = release = subspect.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "command_reference", "dead_links"]
exclude_patterns = ["_ext", "_build"]
nitpicky = True
smartquotes = False  # they make dashes of options
suppress_warnings = ["toc.empty_glob"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_excludepatterns = not_run()
nb_execution_timeout = 600
nb_merge_streams = True
nb_output_stderr = "warn"  # and so the build fails

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
#: names for types that are shown as they are, and those of them that the reference explains
ALIASES = ("Budget", "ImageLike", "ImageSource", "PreprocessingLike", "StudyLike")
autodoc_type_aliases = {
    **{name: f"subspect.{name}" for name in ALIASES},
    "npt.ArrayLike": "numpy.typing.ArrayLike",
    **{name: name for name in ("Array", "DecompositionLike", "Features", "Integers", "Pixels", "Rows")},
}
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"subspect {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "friendly", "github-dark"


def _kernels_by_themselves(app: Any) -> None:
    """Give kernels of notebooks settings of their own: nobody's startup files, and no word on how they are spoken to."""
    profile = Path(app.doctreedir) / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 'ERROR'\n", encoding="utf-8")
    os.environ["IPYTHONDIR"] = str(profile.parent)


def _qualified(name: str) -> str:
    """Return the public name of a class or function that goes by its module's name, or by its own alone."""
    last = name.rsplit(".", 1)
    if last[-1] in subspect.__all__:
        return f"subspect.{last[-1]}"
    return name


def _resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Find what a type in a signature stands for: ours by their public names; of others there are no pages here."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    public = _qualified(target)
    if public in env.domains["py"].objects and public != target:
        node["reftarget"] = public
        return env.domains["py"].resolve_xref(
            env, node["refdoc"], app.builder, node.get("reftype", "obj"), public, node, content
        )
    return content


def _backticks(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Show single backticks in docstrings as links to what is public, and as code where they name nothing public."""

    def shown(found: re.Match[str]) -> str:
        name = found[1]
        if name.startswith("subspect.") and name.split(".")[1] in subspect.__all__:
            return f":py:obj:`{name}`"
        return f":py:obj:`~subspect.{name}`" if name in subspect.__all__ else f"``{name}``"

    lines[:] = [re.sub(r"(?<![`:\w])`([^`]+)`(?!`|_)", shown, line) for line in lines]


def _signature(_app: Any, _what: str, _name: str, found: Any, _options: Any, given: str, back: str) -> Any:
    """Leave out how a result is made, which users don't; show names of types within others as they are."""
    if inspect.isclass(found) and issubclass(found, subspect.Result) and found is not subspect.Result:
        return "", None
    plain = (text and re.sub(r"TypeAliasForwardRef\('([^']+)'\)", r"\1", text) for text in (given, back))
    return tuple(plain)


def _skipped(_app: Any, _what: str, _name: str, found: Any, skip: bool, _options: Any) -> bool | None:
    """Leave out what other packages add to our classes, as scikit-learn does."""
    return True if (getattr(found, "__module__", None) or "subspect").partition(".")[0] == "sklearn" else skip or None


def _in_plain_words(_app: Any, tree: Any) -> None:
    """Say "Attributes" of what Sphinx calls variables, and put a colon between a name and what it is."""
    for text in list(tree.findall(lambda node: isinstance(node, nodes.Text))):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(": "))
        elif text == "Variables" and isinstance(text.parent, nodes.field_name):
            text.parent.replace(text, nodes.Text("Attributes"))


def _only_what_is_there(_app: Any, page: str, source: list[str]) -> None:
    """Leave patterns out of the table of contents that no page fits, such as those of notebooks left out of a copy."""
    if page == "index":
        lines = source[0].splitlines()
        source[0] = "\n".join(one for one in lines if "*" not in one or " " in one or any(HERE.glob(f"{one}.md")))


def _for_agents(app: Any, failed: Exception | None) -> None:
    """Put llms.txt beside the pages, with links to them."""
    if failed is None and app.builder.name == "html":
        (Path(app.outdir) / "llms.txt").write_text(for_agents.llms("{}.html".format), encoding="utf-8")


def setup(app: Any) -> None:
    """Register with Sphinx."""
    app.connect("builder-inited", _kernels_by_themselves)
    app.connect("source-read", _only_what_is_there)
    app.connect("doctree-read", _in_plain_words)
    app.connect("build-finished", _for_agents)
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-process-docstring", _backticks)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skipped)
