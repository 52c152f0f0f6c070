"""Naming a network: ``python:package.module:callable`` or ``python:path/file.py:callable``.

The code that the user names is run: the callable is called without arguments and returns the model, or
``(model, preprocessing)``, or ``(model, preprocessing, class names)``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from subspect.ground.errors import SubspectError, near, some
from subspect.ground.files import is_file
from subspect.networks.network import Network
from subspect.networks.weights import load_weights


def load_network(
    spec: str,
    weights: str | Path | None = None,
    *,
    preprocessing: object = None,
    class_names: Sequence[str] | None = None,
    head: str | None = None,
) -> Network:
    """Build the network that a name stands for, and load its weights.

    Args:
        spec: ``python:package.module:callable`` or ``python:path/file.py:callable``.
        weights: a safetensors file, or a checkpoint of ``torch.save`` with tensors alone.
        preprocessing: instead of what the network declares.
        class_names: instead of what the network declares.
        head: the head's module name, where it can't be found by watching.

    Raises:
        SubspectError: no such module, file or callable, it failed or returned something else, or the weights don't fit.
    """
    scheme, _, rest = spec.partition(":")
    place, _, callable_name = rest.rpartition(":")
    if scheme != "python" or not place or not callable_name:
        raise SubspectError(
            f"cannot tell what network {spec!r} is; expected python:package.module:callable or "
            "python:path/file.py:callable"
        )
    if place.endswith(".py") and not is_file(Path(place)):
        raise SubspectError(f"no such Python file: {place} (looked in {Path.cwd()})")
    with _beside(place):
        made = _call(_module(place), callable_name, spec)
    parts = made if isinstance(made, tuple) else (made,)
    if not 1 <= len(parts) <= 3 or not isinstance(parts[0], nn.Module):
        kinds = some(type(part).__name__ for part in parts)
        raise SubspectError(
            f"{spec} must return a torch.nn.Module, or (model, preprocessing), or (model, preprocessing, class names); it "
            f"returned {kinds}"
        )
    model, own_preprocessing, own_names = (*parts, None, None)[:3]
    if weights is not None:
        load_weights(model, weights)
    return Network(
        model,
        preprocessing=preprocessing if preprocessing is not None else own_preprocessing,
        class_names=class_names if class_names is not None else own_names,
        head=head,
        name=spec,
    )


def _module(place: str) -> ModuleType:
    path = Path(place)
    try:
        if path.suffix != ".py":
            return importlib.import_module(place)
        found = importlib.util.spec_from_file_location(f"_subspect_{path.stem}", path)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module  # dataclasses look the file's names up there
        found.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:
        raise SubspectError(f"importing {place} failed: {type(error).__name__}: {error}") from error


@contextmanager
def _beside(place: str) -> Iterator[None]:
    """Find modules as ``python file.py`` does: first beside the file, or in the working folder."""
    path, before = Path(place), sys.path.copy()
    sys.path.insert(0, str(path.resolve().parent if path.suffix == ".py" else Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def _call(module: ModuleType, name: str, spec: str) -> Any:
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise SubspectError(
            f"{spec}: no callable {name!r} there{near(name, known)}; it has: {some(known, 8) or 'none'}"
        )
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no result of ours
            return function()
    except (Exception, SystemExit) as error:
        raise SubspectError(f"{spec}: calling {name}() failed: {type(error).__name__}: {error}") from error
