"""Files of weights: safetensors, or a checkpoint read with ``weights_only=True``; never unpickled into code.

Training scripts often keep an accuracy beside the tensors as a NumPy number. Such numbers are read too, by functions of our own
that make nothing but numbers and stand in for the two of NumPy's that a checkpoint names.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from subspect.ground.errors import SubspectError, some
from subspect.ground.files import is_file, special
from subspect.ground.text import counted

_NESTED = ("state_dict", "model_state_dict", "model", "net", "network")
_DEPTH = 4  # of such mappings in one another
_PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile
_NUMBERS = "?bBhHiIlLqQefdgFDG"  # NumPy's codes of bool, whole, floating and complex numbers
_SCALAR = ("numpy.core.multiarray", "numpy._core.multiarray")  # in NumPy 1 and 2


def load_weights(model: nn.Module, path: str | Path, ignore_extra: Sequence[str] = ()) -> None:
    """Load a file of weights into a model, all or nothing.

    The tensors may lie under ``state_dict`` and their names begin with ``module.``.

    Args:
        model: the network.
        path: a safetensors file, or a checkpoint of ``torch.save`` with tensors and numbers alone.
        ignore_extra: tensors that the network doesn't have and that are left out: their names, or those of modules, which
            stand for all tensors within, as "aux" does for "aux.weight".

    Raises:
        SubspectError: the file can't be read without running code, or names or shapes differ, all of which are listed.
    """
    if isinstance(ignore_extra, str):
        raise SubspectError(f"ignore_extra must be a list of names; got {ignore_extra!r}: write [{ignore_extra!r}]")
    wanted = model.state_dict()
    state = _strip(_tensors(Path(path)), set(wanted))
    state = {name: one for name, one in state.items() if name in wanted or not _among(name, ignore_extra)}
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
            + _EXTRA * bool(unexpected)
        )
    model.load_state_dict(state, strict=False)  # strict but for num_batches_tracked, which old checkpoints lack


_EXTRA = "; what the network doesn't need is left out by ignore_extra=['NAME'] (--ignore-extra NAME)"


def _among(name: str, modules: Sequence[str]) -> bool:
    """Tell whether a tensor goes by one of some names, or lies in a module that does."""
    return any(f"{name}.".startswith(f"{module.removesuffix('.')}.") for module in modules)


def _tensors(path: Path) -> Mapping[str, Tensor]:
    if not is_file(path):
        raise SubspectError(f"no such file of weights: {path}{special(path)}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with _numbers():
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


def _numbers() -> AbstractContextManager[object]:
    """Let checkpoints hold NumPy's numbers while the block runs; PyTorch can from 2.5 on."""
    allow = getattr(torch.serialization, "safe_globals", None)
    if allow is None:
        return nullcontext()
    kinds = {type(np.dtype(code)) for code in _NUMBERS}
    named = [_called(_number, module, "scalar") for module in _SCALAR]
    context: AbstractContextManager[object] = allow([*named, _called(_kind_of_number, "numpy", "dtype"), *kinds])
    return context


def _called(function: Callable[..., Any], module: str, name: str) -> Callable[..., Any]:
    """Return a function that a checkpoint finds under a name of NumPy's."""

    def stand_in(*given: Any) -> Any:
        return function(*given)

    stand_in.__module__, stand_in.__name__, stand_in.__qualname__ = module, name, name
    return stand_in


def _kind_of_number(code: object, *_: object) -> np.dtype[Any]:
    """Return a type of numbers by its code, such as "f8".

    Raises:
        pickle.UnpicklingError: it is another type.
    """
    if not isinstance(code, str) or re.fullmatch(r"[<>=|]?[?biufc][0-9]{0,2}", code) is None:
        raise pickle.UnpicklingError("Unsupported type numpy.dtype, of something other than numbers")
    return np.dtype(code)


def _number(kind: object, data: object) -> np.generic:
    """Return a NumPy number from its bytes.

    Raises:
        pickle.UnpicklingError: the type is not one of numbers, or these are not its bytes.
    """
    if not isinstance(kind, np.dtype) or kind.char not in _NUMBERS or not isinstance(data, bytes):
        raise pickle.UnpicklingError("Unsupported type numpy.scalar, of something other than numbers")
    if len(data) != kind.itemsize:
        raise pickle.UnpicklingError(f"a number of type {kind} has {counted(len(data), 'byte', 'bytes')}")
    found: np.generic = np.frombuffer(data, kind)[0]
    return found


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
