"""Naming a network: ``python:package.module:callable`` or ``python:path/file.py:callable``, or a zoo's.

The code that the user names is run: the callable is called and returns the model, or ``(model, preprocessing)``, or
``(model, preprocessing, class names)``. It is called without arguments, or with those that the name gives, by keyword and
written out, as in ``python:models.py:resnet20(num_classes=10)``; what stands there is read, never evaluated.
The zoos are timm, torchvision and Hugging Face (``hf``).
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import logging
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from subspect.ground.engines import loaded
from subspect.ground.errors import SubspectError, near, shortened, some
from subspect.ground.files import is_file
from subspect.images.preprocessing import PreprocessingLike
from subspect.networks.network import Network
from subspect.networks.weights import load_weights
from subspect.networks.zoo import SCHEMES, Asked, Named, load_named, readings

log = logging.getLogger("subspect")


def load_network(
    spec: str,
    weights: str | Path | None = None,
    *,
    preprocessing: PreprocessingLike | None = None,
    class_names: Sequence[str] | None = None,
    head: str | None = None,
    ignore_extra: Sequence[str] = (),
) -> Network:
    """Build the network that a name stands for, and load its weights.

    Args:
        spec: ``python:package.module:callable`` or ``python:path/file.py:callable``, ``timm:NAME``, ``torchvision:NAME`` or
            ``hf:NAME`` (``hf:FOLDER``); after it may stand arguments by keyword, as in ``callable(num_classes=10)``; with
            ``pretrained=False`` a network of the last three is built untrained.
        weights: a safetensors file, or a checkpoint of ``torch.save`` with tensors and numbers alone; a network of timm,
            torchvision or Hugging Face is then built without its pretrained weights.
        preprocessing: instead of what the network declares.
        class_names: instead of what the network declares.
        head: the head's module name, where it can't be found by watching.
        ignore_extra: names of tensors among the weights, or of modules with all their tensors, that the network doesn't
            have and that are left out.

    Raises:
        SubspectError: no such module, file, callable or network, it failed or returned something else, its weights can't
            be had, or they don't fit.
        MissingExtra: timm, torchvision or transformers is not installed.

    Example:
        >>> network = subspect.load_network("python:model.py:make", "model.safetensors")
        >>> network.find_head(torch.rand(2, 3, 224, 224)).name
        'fc'
    """
    scheme, _, rest = spec.partition(":")
    if scheme in SCHEMES and rest:
        name, arguments = _apart(rest)
        made = load_named(scheme, Asked(spec, name, arguments, weights is None, preprocessing is not None))
    else:
        made = _from_code(spec)
    if weights is not None:
        load_weights(made.model, weights, ignore_extra)
    network = Network(
        made.model,
        preprocessing=preprocessing if preprocessing is not None else made.preprocessing,
        class_names=class_names if class_names is not None else made.class_names,
        head=head,
        name=spec,
    )
    network.weights_given = weights is not None or (scheme in SCHEMES and not made.untrained)
    if made.untrained:
        log.warning("%s is built untrained: its weights are random, and others each time that it is loaded", spec)
    return network


def _from_code(spec: str) -> Named:
    """Return the network that a name of the scheme ``python`` stands for.

    Raises:
        SubspectError: no such module, file or callable, it failed or returned something else; or the scheme is another.
    """
    scheme, _, rest = spec.partition(":")
    place, name, _ = _parts(rest) if scheme == "python" else ("", "", {})
    if not place or not name:
        raise SubspectError(
            f"cannot tell what network {shortened(spec)!r} is{_meant(spec)}; expected "
            "python:package.module:callable, python:path/file.py:callable, timm:NAME, torchvision:NAME, hf:NAME or hf:FOLDER"
        )
    made = called_by_name(spec)
    parts = made if isinstance(made, tuple) else (made,)
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], nn.Module):
        kinds = some(type(part).__name__ for part in parts)
        raise SubspectError(
            f"{spec} must return a torch.nn.Module, or (model, preprocessing), or (model, preprocessing, class names); it "
            f"returned {kinds}"
        )
    return Named(*parts)


def called_by_name(spec: str) -> Any:
    """Call what ``python:package.module:callable`` or ``python:path/file.py:callable`` stands for.

    Raises:
        SubspectError: no such module, file or callable, or it failed.
    """
    place, name, arguments = _parts(spec.partition(":")[2])
    if not place or not name:
        raise SubspectError(f"cannot tell what {shortened(spec)!r} is; expected python:path/file.py:callable")
    if place.endswith(".py") and not is_file(Path(place)):
        raise SubspectError(f"no such Python file: {place} (looked in {Path.cwd()})")
    with _beside(place):
        return _call(_module(place), name, arguments, spec)


def _meant(spec: str) -> str:
    """Say what a name without a scheme, or with a misspelt one, may stand for."""
    scheme, colon, rest = spec.partition(":")
    known = ["python", *SCHEMES]
    if scheme in known:
        return ""
    if colon and rest and (scheme.endswith(".py") or "." in scheme):
        return f" (did you mean {'python:' + spec!r}?)"
    if colon:
        return near(scheme, known)
    found = [repr(one) for one in readings(spec)]
    return f": it may be {some(found)}; name the one that is meant" if found else near(scheme, known)


def _apart(rest: str) -> tuple[str, Mapping[str, Any]]:
    """Part a name, which may be a folder's and hold brackets, from the arguments by keyword behind it.

    Raises:
        SubspectError: an argument that isn't written out.
    """
    for place in (index for index, letter in enumerate(rest) if letter == "("):
        call = _read("network" + rest[place:])
        if place and isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.keywords:
            return rest[:place], _arguments(call)
    return rest, {}


def _parts(rest: str) -> tuple[str, str, Mapping[str, Any]]:
    """Return the place of a callable, its name, and the arguments that it is called with.

    Raises:
        SubspectError: arguments that aren't given by keyword, or not written out.
    """
    for colon in (index for index, letter in enumerate(rest) if letter == ":"):  # an argument may hold some as well
        call = _read(rest[colon + 1 :])
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            return rest[:colon], call.func.id, _arguments(call)
    place, _, name = rest.rpartition(":")
    if "(" in name or ")" in name:
        raise SubspectError(f"cannot read the call {shortened(name)!r}; {_EXPECTED}")
    return place, name, {}


_EXPECTED = "expected a plain name with arguments by keyword, such as resnet20(num_classes=10, pretrained=False)"


def _read(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _arguments(call: ast.Call) -> dict[str, Any]:
    """Return the arguments of a call, read as they are written.

    Raises:
        SubspectError: one without a keyword, with one that stands twice, or that is no literal.
    """
    name = ast.unparse(call.func)
    if call.args or any(one.arg is None for one in call.keywords):
        odd = ast.unparse(call.args[0]) if call.args else "**"
        raise SubspectError(f"cannot call {name} with {shortened(odd)!r}; {_EXPECTED}")
    found: dict[str, Any] = {}
    for one in call.keywords:
        keyword = str(one.arg)
        if keyword in found:
            raise SubspectError(f"{name} is given {keyword!r} twice; give it once")
        try:
            found[keyword] = ast.literal_eval(one.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            raise SubspectError(
                f"{name}: {keyword} must be written out, as a number, a text in quotes, True, False, None, or a list, tuple "
                f"or dict of such; got {shortened(ast.unparse(one.value))}"
            ) from error
    return found


def _module(place: str) -> ModuleType:
    path = Path(place)
    try:
        if path.suffix != ".py":
            return importlib.import_module(place)
        found = importlib.util.spec_from_file_location(f"_subspect_{path.stem}", path)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module  # dataclasses look the file's names up there
        before = set(sys.modules)
        found.loader.exec_module(module)
        others = [sys.modules[name] for name in sorted(set(sys.modules) - before)]
        loaded.extend([module, *(one for one in others if _is_own(one))])
        return module
    except (Exception, SystemExit) as error:
        raise SubspectError(f"importing {place} failed: {type(error).__name__}: {error}") from error


def _is_own(module: ModuleType) -> bool:
    """Tell whether a module is a file of the user's, rather than of an installed package or of Python."""
    file = getattr(module, "__file__", None)
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return file is not None and not any(Path(file).is_relative_to(one) for one in installed if one)


@contextmanager
def _beside(place: str) -> Iterator[None]:
    """Find modules as ``python file.py`` does: first beside the file, or in the working folder."""
    path, before = Path(place), sys.path.copy()
    sys.path.insert(0, str(path.resolve().parent if path.suffix == ".py" else Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def _call(module: ModuleType, name: str, arguments: Mapping[str, Any], spec: str) -> Any:
    function = getattr(module, name, None)
    if not callable(function):
        known = {key: one for key, one in vars(module).items() if callable(one) and not key.startswith("_")}
        own = [key for key, one in known.items() if getattr(one, "__module__", None) == module.__name__]
        raise SubspectError(
            f"{spec}: no callable {name!r} there{near(name, [*known])}; it has: {some(own, 8) or 'none of its own'}"
        )
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no result of ours
            return function(**arguments)
    except (Exception, SystemExit) as error:
        called = shortened(", ".join(f"{key}={value!r}" for key, value in arguments.items()))
        raise SubspectError(f"{spec}: calling {name}({called}) failed: {type(error).__name__}: {error}") from error
