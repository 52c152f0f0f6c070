"""Where in an image a feature is active: the map that the network pools to that feature.

Most networks end with a pooling: feature i is the mean, or the maximum, over all places of channel i of a map A (d, height,
width), or of a grid of tokens. That map is found, not guessed by name: while a batch runs, every function that PyTorch calls
is watched, and the last map with d channels whose pooled values are the features is it; so a ReLU called as a function is
seen as well as one that is a module. This is the map that class activation mapping weighs (Zhou et al. 2016), one feature at
a time. What stands between pooling and head is applied to each place as it was to the pooled values of the image: a linear
layer as it is, a norm with the image's own mean and deviation, an activation φ(z) with the image's own share φ(z) / z. So the
mean over the places is still exactly the features, and that is checked on each batch. Networks whose features are something
else, such as a class token, have no such map, and `Read.reason` says why (`subspect.networks.steps`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from subspect.images.inputs import Inputs, Pixels, shape_of
from subspect.networks.network import Network
from subspect.networks.steps import Step, step_of, vector_in
from subspect.networks.summands import affine

_LAST = 8  # maps of any kind; after the pooling there are seldom more
_KEPT = 16  # maps with as many channels as there are features
_VECTORS = 64  # which are small: squeeze and excitation make many
_PREFIX = 16  # tokens before the grid at most: a class token, registers
_CLOSE = 1e-2  # of the largest feature: pooled maps and features differ by rounding only


class Read(NamedTuple):
    """What a network makes of a batch.

    Attributes:
        features: (n, d) float32.
        logits: (n, C) float32.
        maps: (n, d, height, width) float32, whose means or maxima over all places are the features; None where there are
            no such maps.
        reason: why there are none, as the end of a sentence; empty where there are.

    Example:
        >>> head = network.find_head(torch.rand(2, 3, 224, 224))
        >>> read = subspect.read_maps(network, torch.rand(2, 3, 224, 224))
        >>> read.features.shape, read.maps.shape
        (torch.Size([2, 256]), torch.Size([2, 256, 7, 7]))
    """

    features: Tensor
    logits: Tensor
    maps: Tensor | None
    reason: str = ""


def read_maps(network: Network, pixels: Pixels) -> Read:
    """Run a batch through the network once, and return features, logits and the maps that the features are pooled from.

    Args:
        network: its head is known.
        pixels: (n, …), as the network expects it.

    Raises:
        SubspectError: the head's own product is not the network's logits on this batch.

    Example:
        >>> head = network.find_head(torch.rand(2, 3, 224, 224))
        >>> subspect.read_maps(network, torch.rand(2, 3, 224, 224)).logits.shape
        torch.Size([2, 4])
    """
    widths = [affine(network.model.get_submodule(group[0].name))[0].shape[1] for group in network.head.groups]
    watch = _Watch(len(pixels), frozenset(widths))
    with watch:
        features, logits = network.read(pixels)
    if isinstance(pixels, Inputs) or pixels.ndim != 4:
        return Read(features, logits, None, f"inputs of shape {shape_of(pixels[0])} are no pictures")
    found = []
    for part in torch.split(features, widths, dim=1):
        maps = watch.pooled_to(part, tuple(pixels.shape[2:]))
        if maps is None or not _is_pooled(maps, part):
            return Read(features, logits, None, watch.why_not(part))
        found.append(maps)
    if len({maps.shape[2:] for maps in found}) > 1:
        return Read(features, logits, None, "the head reads maps of several sizes")
    return Read(features, logits, torch.cat(found, dim=1))


class _Watch(TorchFunctionMode):
    """Keeps the last maps and token sequences that any function returns, and the vectors, one an image, with what made them."""

    def __init__(self, images: int, widths: frozenset[int]) -> None:
        super().__init__()
        self.images, self.widths = images, widths
        self.last: deque[Tensor] = deque(maxlen=_LAST)
        self.maps: deque[Tensor] = deque(maxlen=_KEPT)  # (n, d, height, width), and token sequences (n, L, d)
        self.steps: deque[Step] = deque(maxlen=_VECTORS)
        self.vectors: deque[tuple[str, Tensor]] = deque(maxlen=_VECTORS)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        begun = step_of(func, args, kwargs or {}, self.images)
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1 and len(output) == self.images:
            made = vector_in(output, self.images)
            if made is None and output.ndim in (3, 4):
                self.last.append(output)
                self.maps.extend([output] if self.widths & {output.shape[1], output.shape[-1]} else [])
            elif made is not None:
                self.steps.extend([begun.to(made)] if begun is not None else [])
                if made.shape[1] in self.widths:
                    self.vectors.append((getattr(func, "__name__", "a function"), made))
        return output

    def pooled_to(self, features: Tensor, size: tuple[int, ...], steps: int = _VECTORS) -> Tensor | None:
        """Return the last maps (n, d, height, width) whose means or maxima are the features, past some steps if need be."""
        for maps in (*reversed(self.maps), *reversed(self.last)):
            for grid in _grids(maps, features.shape[1], size):
                if _is_pooled(grid, features):
                    return grid.float()
        for place, step in reversed(list(enumerate(self.steps))[:steps]):
            if _same(step.made, features):
                before = self.pooled_to(step.given, size, place)
                if before is not None:
                    return step.along(before)
        return None

    def why_not(self, features: Tensor) -> str:
        """Say where the features come from, if that is no pooled map."""
        vectors = [features]
        for step in reversed(self.steps):
            if _same(step.made, vectors[-1]):
                vectors.append(step.given)
        for tokens in (one for one in (*self.maps, *self.last) if one.ndim == 3):
            for vector in (one for one in vectors if tokens.shape[2] == one.shape[1]):
                close = (tokens.float() - vector[:, None]).abs().amax((0, 2)) <= _CLOSE * vector.abs().max()
                if bool(close.any()):
                    number = f"number {int(close.nonzero()[0]) + 1} of {tokens.shape[1]}"
                    return (
                        f"the features come from a single token ({number}), into which the network has mixed all places"
                    )
        name = next((name for name, vector in self.vectors if _same(vector, features)), "")
        made = f"what {name!r} makes, and " if name else ""
        return f"the features are {made}not the mean or the maximum over the places of a map"


def _grids(maps: Tensor, width: int, size: tuple[int, ...]) -> Iterator[Tensor]:
    """List in which ways maps or tokens may be places of a picture of some size: tokens may begin with some of no place."""
    if maps.ndim == 4 and maps.shape[1] == width:
        yield maps
    if maps.ndim == 4 and maps.shape[3] == width:
        yield maps.permute(0, 3, 1, 2)
    if maps.ndim == 3 and maps.shape[2] == width:
        for prefix in range(min(_PREFIX + 1, maps.shape[1] - 1)):
            count = maps.shape[1] - prefix
            height = max(1, round((count * size[0] / size[1]) ** 0.5))
            if count % height == 0 and abs(count // height - height * size[1] / size[0]) < 1:
                yield maps[:, prefix:].mT.reshape(len(maps), width, height, count // height)


def _is_pooled(maps: Tensor, features: Tensor) -> bool:
    return _same(maps.float().mean(dim=(2, 3)), features) or _same(maps.float().amax(dim=(2, 3)), features)


def _same(pooled: Tensor, features: Tensor) -> bool:
    return pooled.shape == features.shape and bool((pooled - features).abs().max() <= _CLOSE * features.abs().max())
