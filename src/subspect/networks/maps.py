"""Where in an image a feature is active: the map that the network pools to that feature.

Most convolutional networks end with a global pooling: feature i is the mean, or the maximum, over all places of channel i
of a map A (d, height, width). That map is found, not guessed by name: while a batch runs, every function that PyTorch calls
is watched, and the last map with d channels whose pooled values are the features is it; so a ReLU called as a function is
seen as well as one that is a module. This is the map that class activation mapping weighs (Zhou et al. 2016), one feature at
a time. A token network, one of series or volumes, or one with layers between pooling and head, has none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

from subspect.images.inputs import Pixels
from subspect.networks.network import Network

_KEPT = 8  # maps of the right shape; the one that is pooled comes last or nearly so
_CLOSE = 1e-2  # of the largest feature: pooled maps and features differ by rounding only


class Read(NamedTuple):
    """What a network makes of a batch.

    Attributes:
        features: (n, d) float32.
        logits: (n, C) float32.
        maps: (n, d, height, width) float32, whose means or maxima over all places are the features; None where there are
            no such maps.
    """

    features: Tensor
    logits: Tensor
    maps: Tensor | None


def read_maps(network: Network, pixels: Pixels) -> Read:
    """Run a batch through the network once, and return features, logits and the maps that the features are pooled from.

    Args:
        network: its head is known.
        pixels: (n, …), as the network expects it.

    Raises:
        SubspectError: the head's own product is not the network's logits on this batch.
    """
    watch = _Watch(network.head.n_features)
    with watch:
        features, logits = network.read(pixels)
    for maps in reversed(watch.seen):
        if len(maps) == len(features) and any(_same(pooled, features) for pooled in _pooled(maps)):
            return Read(features, logits, maps.float())
    return Read(features, logits, None)


class _Watch(TorchFunctionMode):
    """Keeps the last maps with d channels that any function returns; as (n, d, height, width)."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.seen: deque[Tensor] = deque(maxlen=_KEPT)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.ndim == 4 and output.is_floating_point():
            if output.shape[1] == self.n_features and output.shape[2:].numel() > 1:
                self.seen.append(output)
            if output.shape[3] == self.n_features and output.shape[1:3].numel() > 1:
                self.seen.append(output.permute(0, 3, 1, 2))
        return output


def _pooled(maps: Tensor) -> tuple[Tensor, Tensor]:
    return maps.float().mean(dim=(2, 3)), maps.float().amax(dim=(2, 3))


def _same(pooled: Tensor, features: Tensor) -> bool:
    return bool((pooled - features).abs().max() <= _CLOSE * features.abs().max())
