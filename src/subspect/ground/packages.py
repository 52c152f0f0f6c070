"""Packages that know networks and data sets by name: imported and asked when needed, their errors put in one sentence.

What they read is never unpickled into code, whatever the package asks PyTorch for. Where something can't be fetched that is
said at once: before a package asks Hugging Face, one short request shows whether there is a connection, since the packages
try again for half a minute.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from subspect.ground.errors import MissingExtra, SubspectError, shortened

_NOT_HERE = ("LocalEntryNotFoundError", "OfflineModeIsEnabled")  # errors of Hugging Face's packages
_PATIENCE = 5.0  #: seconds that the request before a download may take
_BARS = ("transformers.utils.logging", "datasets.utils")  # modules that switch progress bars on and off
_LATE = {"transformers": "PreTrainedModel"}  # what a package imports only when it is asked for
_PICKLES = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}


def package(name: str, extra: str, purpose: str) -> Any:
    """Import a package that an extra brings.

    Args:
        name: the package, which may import torchvision.
        extra: the extra of subspect that brings it.
        purpose: what needs it, for the message.

    Raises:
        MissingExtra: it is not installed, or a package that it needs.
        SubspectError: it can't be imported; the message says if it is torchvision, because it was built for another torch.
    """
    try:
        found = importlib.import_module(name)
        if name in _LATE:
            getattr(found, _LATE[name])
        return found
    except Exception as error:  # torchvision's own import ends in a RuntimeError where its operators aren't there
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            raise MissingExtra(error.name.partition(".")[0], extra, purpose) from error
        if name != "torchvision" and any("torchvision" in str(one) for one in _chain(error)):
            package("torchvision", extra, purpose)
        raise SubspectError(_unfit(name, error)) from error


@contextmanager
def reading(spec: str, *, hub: bool, instead: str, offline: bool = False) -> Iterator[None]:
    """Have a package read or fetch what a name stands for; an error of its own becomes one of ours.

    Args:
        spec: what the user named, for messages.
        hub: whether it may ask Hugging Face.
        instead: what the user can give where nothing can be fetched.
        offline: whether to keep it from asking, so that only what is on this machine is read.

    Raises:
        SubspectError: something can't be read, or is neither on this machine nor can be fetched.
    """
    with _hub(offline) if hub else _nothing() as reason, _no_pickles(), redirect_stdout(sys.stderr), quietly():
        try:
            yield
        except SubspectError:
            raise
        except Exception as error:
            if reason and _not_here(error):
                raise SubspectError(_cannot_fetch(spec, reason, instead)) from error
            raise SubspectError(f"{spec} cannot be loaded: {_said(error)}") from error


@contextmanager
def quietly() -> Iterator[None]:
    """Keep packages from drawing progress bars while the block runs, where only warnings are wanted (``--quiet``)."""
    quiet = logging.getLogger("subspect").level > logging.INFO
    names = [name for name in _BARS if quiet and name.partition(".")[0] in sys.modules]
    drawing = [one for one in map(importlib.import_module, names) if one.is_progress_bar_enabled()]
    for one in drawing:
        one.disable_progress_bar()
    try:
        yield
    finally:
        for one in drawing:
            one.enable_progress_bar()


def check_reachable(spec: str, url: str, instead: str) -> None:
    """Make sure that a file of weights which torch.hub would fetch is here, or that its server answers.

    Raises:
        SubspectError: it is not here, and the server can't be reached.
    """
    if (Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).is_file():
        return
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE).close()
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise SubspectError(_cannot_fetch(spec, f"{url}: {reason}", instead)) from error


@contextmanager
def _nothing() -> Iterator[str]:
    yield ""


@contextmanager
def _hub(offline: bool) -> Iterator[str]:
    """Ask Hugging Face for nothing while the block runs if it doesn't answer; say why it doesn't, or nothing."""
    client = importlib.import_module("huggingface_hub")
    reason = "this is read only from this machine" if offline else _silence(client)
    known = [client.constants, *([sys.modules["datasets.config"]] if "datasets.config" in sys.modules else [])]
    before = [one.HF_HUB_OFFLINE for one in known]
    for one in known:
        one.HF_HUB_OFFLINE = bool(reason)
    try:
        yield reason
    finally:
        for one, was in zip(known, before, strict=True):
            one.HF_HUB_OFFLINE = was


def _silence(client: Any) -> str:
    """Say why Hugging Face is not to be asked; nothing if it answers."""
    constants = client.constants
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        client.get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception as error:  # of the client that it uses, which differs between its versions
        return f"{constants.ENDPOINT} does not answer: {_said(error)}"
    return ""


@contextmanager
def _no_pickles() -> Iterator[None]:
    """Have every torch.load take tensors alone, also where a package asks for more, as torchvision does."""
    before = {name: os.environ.get(name) for name in _PICKLES}
    os.environ.update(_PICKLES)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _not_here(error: BaseException) -> bool:
    """Tell whether an error, or one that led to it, says that a file is not on this machine."""
    return any(
        type(met).__name__ in _NOT_HERE or re.search("connect to|Couldn't reach|is not cached", str(met))
        for met in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Return an error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _cannot_fetch(spec: str, reason: str, instead: str) -> str:
    return (
        f"{spec} is not on this machine and cannot be fetched ({reason}); run this once where there is a connection, or "
        f"{instead}"
    )


def _unfit(name: str, error: Exception) -> str:
    """Say that a package can't be imported, and for torchvision which versions don't go together."""
    if name != "torchvision":
        return f"the package {name} cannot be imported: {_said(error)}"
    own = metadata.version("torchvision")
    return (
        f"torchvision {own} does not fit torch {torch.__version__} ({_said(error)}); reinstall both from the same index: "
        "pip install --force-reinstall torch torchvision (with the same --index-url for both, if you use one)"
    )


def _said(error: Exception) -> str:
    """Return an error's kind and the first line of what it says."""
    return shortened(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", 300)
