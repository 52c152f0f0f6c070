"""Files of weights: safetensors, or a checkpoint read with ``weights_only=True``; never unpickled into code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from subspect.ground.errors import SubspectError, some
from subspect.ground.files import is_file

_NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
_DEPTH = 4  # of such mappings in one another
_PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file of weights into a model, all or nothing.

    The tensors may lie under ``state_dict`` and their names begin with ``module.``.

    Raises:
        SubspectError: the file can't be read without running code, or names or shapes differ, all of which are listed.
    """
    wanted = model.state_dict()
    state = _strip(_tensors(Path(path)), set(wanted))
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in wanted]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and isinstance(tensor, Tensor) and state[name].shape != tensor.shape
    ]
    if missing or unexpected or shapes:
        raise SubspectError(
            f"the weights {path} do not fit the network {type(model).__name__}"
            + "".join(
                f"; {what}: {some(names)}"
                for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
                if names
            )
        )
    model.load_state_dict(state, strict=False)  # strict but for num_batches_tracked, which old checkpoints lack


def _tensors(path: Path) -> Mapping[str, Tensor]:
    if not is_file(path):
        raise SubspectError(f"no such file of weights: {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SubspectError(
            f"{path} holds more than tensors, or is no checkpoint, and subspect does not run code from a file of weights; "
            f"save model.state_dict() alone, best as safetensors{_met(error)}"
        ) from error
    except Exception as error:  # a damaged file ends in almost any error of its reader
        reason = str(error).partition("\n")[0]
        raise SubspectError(f"cannot read the weights {path}: {type(error).__name__}: {reason}") from error
    for depth in range(_DEPTH + 1):
        if not isinstance(loaded, Mapping) or _is_state(loaded):
            break
        inner = next((loaded[key] for key in _NESTED if isinstance(loaded.get(key), Mapping)), None)
        if inner is None or depth == _DEPTH:  # it may hold itself
            names = [_shown(key) for key in loaded]
            raise SubspectError(
                f"{path} holds no tensors by name: expected a state_dict, or one under {', '.join(_NESTED)}; it has "
                f"{some(names) or 'nothing'}"
            )
        loaded = inner
    if not isinstance(loaded, Mapping):
        raise SubspectError(f"{path} holds a {type(loaded).__name__}; expected a state_dict, name → tensor")
    odd = [f"{name} ({kind})" for name, tensor in loaded.items() if (kind := _kind(tensor))]
    if odd:
        raise SubspectError(
            f"the weights {path} hold tensors that are not plain: {some(odd)}; save them as dense ones of numbers, such as "
            "by tensor.to_dense() or tensor.dequantize()"
        )
    return loaded


def _shown(key: object) -> str:
    return str(key) if isinstance(key, str | int) else f"a key of type {type(key).__name__}"


def _kind(tensor: Tensor) -> str:
    """Say in what way a tensor is not a plain one, or nothing."""
    kinds = {
        "nested": tensor.is_nested,
        "without data, on the meta device": tensor.is_meta,
        "quantized": tensor.is_quantized,
        "sparse": tensor.layout != torch.strided,
    }
    return next((kind for kind, holds in kinds.items() if holds), "")


def _is_state(loaded: Mapping[Any, Any]) -> bool:
    return bool(loaded) and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in loaded.items())


def _met(error: pickle.UnpicklingError) -> str:
    """Say what PyTorch met in a checkpoint, without its advice to load it all the same."""
    found = re.search(r"unsupported (global: )?\w+ [\w.]+", str(error), re.IGNORECASE)
    return f" ({found[0]})" if found else ""


def _strip(state: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Take off prefixes that wrappers put before every name, unless the model has them too."""
    stripped = dict(state)
    for prefix in _PREFIXES * 2:
        if not wanted & set(stripped) and all(name.startswith(prefix) for name in stripped):
            stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
    return stripped
