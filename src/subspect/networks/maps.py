"""Where in an image a feature is active: the map that the network pools to that feature.

Most networks end with a pooling: feature i is the mean, or the maximum, over all places of channel i of a map A (d, height,
width), or of a grid of tokens. That map is found, not guessed by name: while a batch runs, every function that PyTorch calls
is watched, and the last map with d channels whose pooled values are the features is it; so a ReLU called as a function is
seen as well as one that is a module. This is the map that class activation mapping weighs (Zhou et al. 2016), one feature at
a time. Where a norm stands between pooling and head, y = s·u + t for the pooled u of an image, each place is brought into the
features' scale by the same s and t, so that the mean over the places is still exactly the features. Networks whose features are
something else (a class token, a hidden layer after the pooling) have no such map, and `Read.reason` says why.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from subspect.networks.network import Network
from subspect.networks.summands import affine

_KEPT = 16  # of what has the right shape; what is pooled comes last or nearly so
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
    """

    features: Tensor
    logits: Tensor
    maps: Tensor | None
    reason: str = ""


def read_maps(network: Network, pixels: Tensor) -> Read:
    """Run a batch through the network once, and return features, logits and the maps that the features are pooled from.

    Args:
        network: its head is known.
        pixels: (n, …), as the network expects it.

    Raises:
        SubspectError: the head's own product is not the network's logits on this batch.
    """
    widths = [affine(network.model.get_submodule(group[0].name))[0].shape[1] for group in network.head.groups]
    watch = _Watch(len(pixels), frozenset(widths))
    with watch:
        features, logits = network.read(pixels)
    if pixels.ndim != 4:
        return Read(features, logits, None, f"inputs of shape {tuple(pixels.shape[1:])} are no pictures")
    found = []
    for part in features.split(widths, dim=1):
        maps = watch.pooled_to(part, tuple(pixels.shape[2:]))
        if maps is None or not _is_pooled(maps, part):
            return Read(features, logits, None, watch.why_not(part))
        found.append(maps)
    if len({maps.shape[2:] for maps in found}) > 1:
        return Read(features, logits, None, "the head reads maps of several sizes")
    return Read(features, logits, torch.cat(found, dim=1))


class _Norm(NamedTuple):
    """A norm of the pooled values: given u (n, d), it makes y (n, d) with the slope s (n, d) or (d,) at every place."""

    given: Tensor
    made: Tensor
    slope: Tensor


class _Watch(TorchFunctionMode):
    """Keeps the last maps, token sequences, vectors and norms of vectors that any function returns, of some widths."""

    def __init__(self, images: int, widths: frozenset[int]) -> None:
        super().__init__()
        self.images, self.widths = images, widths
        self.maps: deque[Tensor] = deque(maxlen=_KEPT)  # (n, d, height, width), and token sequences (n, L, d)
        self.norms: deque[_Norm] = deque(maxlen=_KEPT)
        self.vectors: deque[tuple[str, Tensor]] = deque(maxlen=_KEPT)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        slope = _SLOPES.get(func)
        given = _vector(args[0], self.images, self.widths) if slope and args else None
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1:
            made = _vector(output, self.images, self.widths)
            if made is not None:
                self.vectors.append((getattr(func, "__name__", "a function"), made))
                if slope is not None and given is not None:
                    self.norms.append(_Norm(given, made, slope(given, *args[1:], **(kwargs or {})).float()))
            elif len(output) == self.images:
                self.maps.extend(_as_maps(output, self.widths))
        return output

    def pooled_to(self, features: Tensor, size: tuple[int, ...], norms: int = _KEPT) -> Tensor | None:
        """Return the last maps (n, d, height, width) whose means or maxima are the features, past norms if need be."""
        for maps in reversed(self.maps):
            for grid in _grids(maps, features.shape[1], size):
                if _is_pooled(grid, features):
                    return grid.float()
        for place, norm in reversed(list(enumerate(self.norms))[:norms]):
            if _same(norm.made, features):
                maps = self.pooled_to(norm.given, size, place)
                if maps is not None:
                    made, slope, given = (one.expand_as(features)[..., None, None] for one in (norm.made, norm.slope, norm.given))
                    return made + slope * (maps - given)
        return None

    def why_not(self, features: Tensor) -> str:
        """Say what the features are, if they are no pooled map."""
        vectors = [features, *(norm.given for norm in self.norms if _same(norm.made, features))]
        for tokens in (one for one in self.maps if one.ndim == 3):
            for vector in (one for one in vectors if tokens.shape[2] == one.shape[1]):
                close = (tokens.float() - vector[:, None]).abs().amax((0, 2)) <= _CLOSE * vector.abs().max()
                if bool(close.any()):
                    number = f"number {int(close.nonzero()[0]) + 1} of {tokens.shape[1]}"
                    return f"the features are a single token ({number}), into which the network has mixed all places"
        last = next((name for name, vector in self.vectors if _same(vector, features)), None)
        return "the features are not the mean or the maximum over the places of a map" + (
            f": {last!r} makes them" if last else ""
        )


def _vector(tensor: object, images: int, widths: frozenset[int]) -> Tensor | None:
    """Return a copy (n, d) of what holds one vector for each image, such as (n, d, 1, 1); None of anything else."""
    if not isinstance(tensor, Tensor) or tensor.ndim < 2 or len(tensor) != images:
        return None
    if tensor[0].numel() not in widths or tensor[0].numel() not in tensor.shape[1:]:
        return None
    return tensor.detach().float().reshape(images, -1).clone()  # else what is done in place would be seen in it


def _as_maps(output: Tensor, widths: frozenset[int]) -> Iterator[Tensor]:
    """List in which ways an output may be maps (n, d, height, width), or tokens (n, L, d)."""
    if output.ndim == 3 and output.shape[2] in widths:
        yield output
    if output.ndim == 4 and output.shape[1] in widths:
        yield output
    if output.ndim == 4 and output.shape[3] in widths:
        yield output.permute(0, 3, 1, 2)


def _grids(maps: Tensor, width: int, size: tuple[int, ...]) -> Iterator[Tensor]:
    """List in which ways maps or tokens may be places of a picture of some size: tokens may begin with some of no place."""
    if maps.ndim == 4 and maps.shape[1] == width:
        yield maps
    if maps.ndim == 3 and maps.shape[2] == width:
        for prefix in range(min(_PREFIX + 1, maps.shape[1] - 1)):
            count = maps.shape[1] - prefix
            height = max(1, round((count * size[0] / size[1]) ** 0.5))
            if count % height == 0 and abs(count // height - height * size[1] / size[0]) < 1:
                yield maps[:, prefix:].mT.unflatten(2, (height, count // height))


def _is_pooled(maps: Tensor, features: Tensor) -> bool:
    return _same(maps.float().mean(dim=(2, 3)), features) or _same(maps.float().amax(dim=(2, 3)), features)


def _same(pooled: Tensor, features: Tensor) -> bool:
    return pooled.shape == features.shape and bool((pooled - features).abs().max() <= _CLOSE * features.abs().max())


def _layer_norm(
    given: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    return (given.var(1, keepdim=True, correction=0) + eps).rsqrt() * (1 if weight is None else weight)


def _rms_norm(given: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    least = torch.finfo(given.dtype).eps if eps is None else eps
    return (given.square().mean(1, keepdim=True) + least).rsqrt() * (1 if weight is None else weight)


def _batch_norm(
    given: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if variance is None or training:  # else the images of a batch would change each other
        return torch.full_like(given, torch.nan)
    return (variance + eps).rsqrt() * (1 if weight is None else weight)


def _normalize(given: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    return given.norm(p, 1, keepdim=True).clamp_min(eps).reciprocal()


#: by which each of the pooled values is multiplied, given them and what else a norm was given
_SLOPES: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.batch_norm: _batch_norm,
    F.normalize: _normalize,
}
