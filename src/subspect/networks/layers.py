"""What single layers of a network say of an image: each channel, averaged over space.

A layer is named as PyTorch names modules; it is watched while the network runs, so that one pass serves any number of layers
and the features. A layer with output ``(n, channels, …)`` gives one number for each channel, the mean over all places; layers
that put channels last (linear layers and layer norms over tokens) likewise. A module that runs several times in one pass, such
as a ReLU that is used again, counts by its last run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from subspect.ground.errors import SubspectError, near, some

ALL = "all"
_FILTERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


def layer_names(model: nn.Module, wanted: Sequence[str], head: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the layers that are wanted: "all" stands for every convolution and linear layer but the head.

    Raises:
        SubspectError: there is no such layer; near matches are listed.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    names: list[str] = []
    for word in wanted:
        if word == ALL:
            names += [name for name, module in modules.items() if isinstance(module, _FILTERS) and name not in head]
        elif word in modules:
            names.append(word)
        else:
            close = near(word, list(modules)) or f"; it has: {some(modules)}"
            raise SubspectError(f"no layer {word!r} in {type(model).__name__}{close}")
    return tuple(dict.fromkeys(names))


@contextmanager
def watching(model: nn.Module, names: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
    """While the block runs, keep what each layer said last: name → (n, channels) float32.

    Raises:
        SubspectError: on a run, by a layer whose output is not ``(n, channels, …)``.
    """
    said: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            said[name] = _averaged(name, module, output)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield said
    finally:
        for handle in handles:
            handle.remove()


def _averaged(name: str, module: nn.Module, output: Any) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim < 2 or not output.is_floating_point():
        shape = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise SubspectError(
            f"layer {name!r} ({type(module).__name__}) returns {shape}, not (n, channels, …); name another one"
        )
    last = isinstance(module, _CHANNELS_LAST)
    places = tuple(range(1, output.ndim - 1)) if last else tuple(range(2, output.ndim))
    return output.float().mean(dim=places) if places else output.float()
