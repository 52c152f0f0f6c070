"""Channels that go together: what one layer writes, others read, and what is summed has the same channels on both sides.

A channel that goes leaves its mean behind, in the bias of the layers that read it, as if it were set to its mean (mean
replacement, Evci et al. 2018), but for the borders of maps that a layer pads with zeros.
torch-pruning follows the channels through the network and finds what is tied. A group can be narrowed if all that meets its
channels treats each by itself, or mixes all of them; one that is split, padded or normed over channels stays as it is. That is
checked by running (`can_be_cut`): what shuffles channels is no kind of layer that torch-pruning would know.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_CLOSE = 1e-4  # of the largest output


@dataclass(frozen=True)
class Group:
    """Channels that go together.

    Attributes:
        root: name of a layer that writes them.
        channels: how many there are.
        writers: names of the layers that make them; of a depthwise layer each channel goes on, and it isn't among these.
        passing: names of depthwise layers on their way.
        readers: names of the layers that read them.
    """

    root: str
    channels: int
    writers: tuple[str, ...]
    passing: tuple[str, ...]
    readers: tuple[str, ...]


class Tied:
    """The groups of a network as torch-pruning finds them, and how to narrow them; anew after each narrowing.

    Args:
        model: the network, on the CPU; narrowed in place.
        pixels: (1, …) an image.
        head: name of its head, whose classes stay.
    """

    def __init__(self, model: nn.Module, pixels: Tensor, head: str) -> None:
        import torch_pruning

        self.model = model
        with torch.enable_grad(), _asking(model):
            self._graph = torch_pruning.DependencyGraph().build_dependency(
                model, example_inputs=(pixels,), verbose=False
            )
        found = list(self._found(model.get_submodule(head)))
        self.groups = tuple(group for group, _ in found)
        self._prune = {group.root: prune for group, prune in found}

    def cut(self, root: str, channels: Sequence[int], means: dict[str, Tensor]) -> None:
        """Take channels of a group out, with all that is tied to them.

        Args:
            root: of the group.
            channels: of it.
            means: layer → (inputs,) mean of what it reads, of each that reads the group (`means_read`); of what goes it is
                taken out.
        """
        found = self._of(root, channels)
        for name, layer, gone in self._read(found):
            if name in means:
                means[name] = _leave(layer, gone, means[name])
        found.prune()

    def silence(self, root: str, channels: Sequence[int]) -> None:
        """Have no layer hear of channels of a group: what it weighs them with is 0."""
        for _, layer, gone in self._read(self._of(root, channels)):
            layer.weight.data[:, gone] = 0

    def _of(self, root: str, channels: Sequence[int]) -> Any:
        return self._graph.get_pruning_group(self.model.get_submodule(root), self._prune[root], idxs=sorted(channels))

    def _read(self, found: Any) -> Iterator[tuple[str, nn.Conv2d | nn.Linear, list[int]]]:
        """Return which layers read what of the channels that go: of each its name, itself, and which of its inputs."""
        names = {module: name for name, module in self.model.named_modules()}
        for item in found:
            layer = item.dep.target.module
            if _mixes(layer) and layer in names and not self._graph.is_out_channel_pruning_fn(item.dep.handler):
                yield names[layer], layer, list(item.idxs)

    def _found(self, head: nn.Module) -> Iterator[tuple[Group, Any]]:
        import torch_pruning

        kinds = torch_pruning.ops.OPTYPE
        layers = (kinds.CONV, kinds.DEPTHWISE_CONV, kinds.LINEAR)
        apart = (*layers, kinds.BN, kinds.PRELU, kinds.ELEMENTWISE, kinds.RESHAPE, kinds.CONCAT)
        names = {module: name for name, module in self.model.named_modules()}
        for group in self._graph.get_all_groups(ignored_layers=[head], root_module_types=[nn.Conv2d, nn.Linear]):
            members: dict[str, list[str]] = {"out": [], "through": [], "in": []}
            first, channels = group[0].dep, len(group[0].idxs)
            each = all(
                item.dep.target.type in apart and len(item.idxs) == channels and _alone(item.dep.target.module)
                for item in group
            )
            for item in group if each else ():
                target, kind = item.dep.target.module, item.dep.target.type
                if kind in layers:
                    out = self._graph.is_out_channel_pruning_fn(item.dep.handler)
                    if out and list(item.idxs) != list(range(channels)):
                        each = False  # of a layer some channels only
                    members["through" if kind == kinds.DEPTHWISE_CONV else "out" if out else "in"].append(names[target])
            writers, passing, readers = (tuple(dict.fromkeys(one)) for one in members.values())
            if each and writers and readers and names[first.target.module] in (*writers, *passing):
                yield Group(names[first.target.module], channels, writers, passing, readers), first.handler


def can_be_cut(model: nn.Module, pixels: Tensor, head: str) -> tuple[Group, ...]:
    """Return the groups of a network of which channels can be cut, as is found by running it.

    Without every second channel of a group the network must say what it says where these are not heard.

    Args:
        model: the network, on the CPU; it is left as it is.
        pixels: (n, …) a few images.
        head: name of its head.
    """
    found = tuple(group for group in Tied(model, pixels[:1], head).groups if group.channels > 1)
    if _as_silenced(model, pixels, head, found):
        return found
    return tuple(group for group in found if _as_silenced(model, pixels, head, [group]))


def _as_silenced(model: nn.Module, pixels: Tensor, head: str, groups: Sequence[Group]) -> bool:
    cut, silenced = copy.deepcopy(model), copy.deepcopy(model)
    ways = Tied(cut, pixels[:1], head), Tied(silenced, pixels[:1], head)
    for group in groups:
        ways[0].cut(group.root, range(0, group.channels, 2), {})
        ways[1].silence(group.root, range(0, group.channels, 2))
    tell_sizes(cut.modules())
    with torch.no_grad():
        wanted = silenced(pixels)
        try:
            said = cut(pixels)
        except RuntimeError:  # layers that no longer fit
            return False
    return bool((said - wanted).abs().max() <= _CLOSE * wanted.abs().max())


def means_read(model: nn.Module, pixels: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return layer → (inputs,) mean over images and places of what it reads, of all layers that mix their inputs.

    Args:
        model: the network.
        pixels: images, batch by batch.
    """
    sums, counts, handles = dict[str, Tensor](), dict[str, int](), []

    def add(name: str, read: Tensor, layer: nn.Module) -> None:
        inputs = 1 if isinstance(layer, nn.Conv2d) else read.ndim - 1
        own = read.double().movedim(inputs, 1).flatten(2).mean(2) if read.ndim > 2 else read.double()
        sums[name] = sums.get(name, torch.zeros(())) + own.sum(dim=0)
        counts[name] = counts.get(name, 0) + len(own)  # a layer may run more than once

    for name, module in model.named_modules():
        if _mixes(module):
            handles.append(module.register_forward_pre_hook(lambda layer, args, name=name: add(name, args[0], layer)))
    try:
        with torch.no_grad():
            for part in pixels:
                model(part)
    finally:
        for handle in handles:
            handle.remove()
    return {name: (total / counts[name]).float() for name, total in sums.items()}


def _leave(layer: nn.Module, gone: Sequence[int], means: Tensor) -> Tensor:
    """Add to a layer's bias what it reads on average of inputs that go; return the means of the others."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weight = layer.weight.data
    share = (weight.flatten(2).sum(2) if weight.ndim > 2 else weight)[:, gone] @ means[gone]
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros_like(share), requires_grad=False)
    layer.bias.data += share
    left = torch.ones(len(means), dtype=torch.bool)
    left[gone] = False
    return means[left]


def _mixes(module: nn.Module) -> bool:
    """Tell whether each output of a layer is made of all its inputs."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _alone(module: nn.Module) -> bool:
    """Tell whether a layer mixes all of its channels, or none."""
    return (
        not isinstance(module, nn.Conv2d)
        or module.groups == 1
        or module.in_channels == module.groups == module.out_channels
    )


@contextmanager
def _asking(model: nn.Module) -> Iterator[None]:
    """While the block runs, let every weight ask for a gradient: by that torch-pruning follows the channels."""
    before = {one: one.requires_grad for one in model.parameters()}
    for one in before:
        one.requires_grad_(True)
    try:
        yield
    finally:
        for one, asked in before.items():
            one.requires_grad_(asked)


def tell_sizes(modules: Iterable[nn.Module]) -> None:
    """Write the sizes of what was cut into it; torch-pruning counts a channel of several features several times."""
    for module in modules:
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1:
            module.out_channels, module.in_channels = module.weight.shape[:2]
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and module.running_mean is not None:
            module.num_features = len(module.running_mean)
