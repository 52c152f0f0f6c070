"""Gates on the filters of a network: every channel of every layer can be moved towards its mean, image by image.

A layer's channel is taken where other layers read it: after the batch norm and the activation function, if these follow and
nothing else reads the layer; else at the layer's own output. There ``a`` becomes ``μ + g · (a − μ)``, with a gate g for each
image and channel and the channel's mean μ over images and places. A gate of 1 leaves the channel as it is, one of 0 takes it
away; and the derivative of anything by a gate, at 1, is ``Σ (a − μ) · ∂/∂a`` over all places: to first order, what taking the
channel away would change, with the opposite sign.

Layers are watched with hooks, functions by PyTorch's function mode, so that a ReLU called as a function is seen as well as one
that is a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from subspect.images.inputs import Pixels, called
from subspect.networks.calls import input_of
from subspect.networks.network import Network
from subspect.networks.summands import at_position, is_convolution

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = ("batch_norm",)  # each channel by itself, so that a gate before them is a gate behind
_SAME = ("dropout", "dropout_", "feature_dropout", "alpha_dropout", "contiguous")  # in evaluation mode
_ACTIVATIONS = (
    *("relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_min_"),
    *(
        "leaky_relu",
        "leaky_relu_",
        "elu",
        "elu_",
        "selu",
        "selu_",
        "celu",
        "celu_",
        "prelu",
        "softplus",
        "mish",
        "mish_",
    ),
    *("gelu", "silu", "silu_", "hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_", "sigmoid", "sigmoid_", "tanh"),
)


@dataclass(frozen=True)
class Layer:
    """A layer whose channels can be gated.

    Attributes:
        name: of the module.
        channels: that it has.
        activated: whether they are taken after an activation function.
        last: whether channels come last.
        depthwise: whether each channel is made of one channel of the layer before, and mixes none.
        places: of its map, for one image.
        runs: how often it runs for an image.
    """

    name: str
    channels: int
    activated: bool
    last: bool
    depthwise: bool
    places: int
    runs: int = 1


Means = Mapping[str, Tensor]  #: layer → (channels,)
Visit = Callable[
    [str, Tensor], Tensor
]  #: given a layer's name and its activations (n, …), what the network goes on with


class Gates:
    """The layers of a network that can be gated, in the order in which they run.

    Args:
        network: its head is known; its own layers have no gates.
        pixels: (n, …) images, which are run once to see what follows on what.
    """

    def __init__(self, network: Network, pixels: Pixels) -> None:
        self.network = network
        modules = {
            name: module
            for name, module in network.model.named_modules()
            if isinstance(module, _LAYERS) and name not in network.head.layers
        }
        seen = _Look(len(pixels))
        with network.running(), _tagged(modules, seen.found), seen:
            called(network.model, network._to_model(pixels))
        self.layers = tuple(
            Layer(
                name,
                shape[-1] if _last(modules[name]) else shape[1],
                name in seen.activated and seen.read[name] == seen.runs[name],
                _last(modules[name]),
                _depthwise(modules[name]),
                max(1, int(torch.Size(shape[1:]).numel() // (shape[-1] if _last(modules[name]) else shape[1]))),
                seen.runs[name],
            )
            for name, shape in seen.shapes.items()
        )
        self._modules = {layer.name: modules[layer.name] for layer in self.layers}

    @contextmanager
    def visiting(self, visit: Visit, names: Iterable[str] | None = None) -> Iterator[None]:
        """While the block runs, put what ``visit`` returns in the place of the activations of layers, all unless named."""
        wanted = {layer.name for layer in self.layers} if names is None else set(names)
        later = {layer.name for layer in self.layers if layer.activated and layer.name in wanted}

        def found(name: str, output: Tensor) -> Tensor:
            if name in later:
                output._subspect_layer = name  # type: ignore[attr-defined]
                return output
            return visit(name, output)

        with ExitStack() as stack:
            stack.enter_context(_tagged({name: self._modules[name] for name in wanted}, found))
            if later:
                stack.enter_context(_Follow(visit))
            yield

    def levels(self, pixels: Pixels) -> tuple[Tensor, dict[str, Tensor]]:
        """Run a batch without gates; return features (n, d), and how active each channel is: layer → (n, channels) float32.

        That is its mean over the places, and over the times that the layer runs.
        """
        found: dict[str, Tensor] = {}
        runs: dict[str, int] = {}
        layers = {layer.name: layer for layer in self.layers}

        def visit(name: str, activations: Tensor) -> Tensor:
            found[name] = found.get(name, 0) + per_channel(layers[name], activations.detach()).float().mean(dim=1)
            runs[name] = runs.get(name, 0) + 1
            return activations

        with self.network.running(), self.visiting(visit):
            features = self.features(pixels)
        return features, {name: found[name] / runs[name] for name in layers if name in found}

    def effects(
        self, pixels: Pixels, means: Means, asked: Callable[[Tensor], Sequence[Tensor]]
    ) -> list[dict[str, Tensor]]:
        """Return by how much numbers change, to first order, where a channel is taken away, for each image and channel.

        Args:
            pixels: (n, …) images.
            means: layer → (channels,) of each channel.
            asked: of features (n, d), the numbers that are asked of each image, (n,) each.

        Returns:
            For each of the numbers asked: layer → (n, channels) float32, on the network's device.
        """
        n, device = len(pixels), self.network.device
        gates = {layer.name: torch.ones(n, layer.channels, device=device, requires_grad=True) for layer in self.layers}
        with (
            self.network.running(),
            _no_gradients_of(self.network.model),
            torch.enable_grad(),
            self._moving(means, gates),
        ):
            numbers = asked(self.features(pixels))
            found = []
            for place, number in enumerate(numbers, start=1):
                slopes = torch.autograd.grad(
                    number.sum(), list(gates.values()), allow_unused=True, retain_graph=place < len(numbers)
                )
                pairs = zip(gates.items(), slopes, strict=True)
                found.append(
                    {name: -slope if slope is not None else torch.zeros_like(gate) for (name, gate), slope in pairs}
                )
        return [{name: one.detach() for name, one in each.items()} for each in found]

    def without(self, pixels: Pixels, means: Means, gates: Mapping[str, Tensor]) -> Tensor:
        """Return features (n, d) with some gates as given: layer → (n, channels) or (channels,); 1 is open, 0 is closed."""
        with self.network.running(), self._moving(means, gates):
            return self.features(pixels)

    @contextmanager
    def _moving(self, means: Means, gates: Mapping[str, Tensor]) -> Iterator[None]:
        layers = {layer.name: layer for layer in self.layers}

        def visit(name: str, activations: Tensor) -> Tensor:
            mean, gate = (
                along(layers[name], one, activations) for one in (means[name].to(activations.device), gates[name])
            )
            return mean + gate * (activations - mean)

        with self.visiting(visit, gates):
            yield

    def features(self, pixels: Pixels) -> Tensor:
        """Run a batch; return features (n, d) float32, with their graph where gradients are wanted."""
        head, kept = self.network.head, dict[str, Tensor]()
        model = self.network.model

        def keep(name: str, position: Any, first: bool) -> Any:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                kept[name] = at_position(input_of(args, kwargs), first, position).reshape(len(pixels), -1).float()

            return hook

        firsts = [(group[0], model.get_submodule(group[0].name)) for group in head.groups]
        handles = [
            one.register_forward_pre_hook(keep(part.name, part.position, is_convolution(one)), with_kwargs=True)
            for part, one in firsts
        ]
        try:
            called(model, self.network._to_model(pixels))
        finally:
            for handle in handles:
                handle.remove()
        return torch.cat([kept[part.name] for part, _ in firsts], dim=1)


def per_channel(layer: Layer, activations: Tensor) -> Tensor:
    """Return (n, places, channels) of activations, whichever way round they lie."""
    wide = activations if layer.last else activations.movedim(1, -1)
    return wide.reshape(len(activations), -1, layer.channels)


def along(layer: Layer, values: Tensor, activations: Tensor) -> Tensor:
    """Return values (n, channels), or (channels,), in a shape that goes with activations."""
    values = values.to(activations.dtype)
    if layer.last:
        return values if values.ndim == 1 else values.reshape(len(values), *[1] * (activations.ndim - 2), -1)
    return values.reshape(*(values.shape[:-1] or (1,)), layer.channels, *[1] * (activations.ndim - 2))


@contextmanager
def _no_gradients_of(model: nn.Module) -> Iterator[None]:
    """While the block runs, let no weight ask for a gradient, which would keep what only that needs."""
    asking = [one for one in model.parameters() if one.requires_grad]
    for one in asking:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in asking:
            one.requires_grad_(True)


@contextmanager
def _tagged(modules: Mapping[str, nn.Module], found: Visit) -> Iterator[None]:
    """While the block runs, hand the outputs of modules, by name, to a function, and go on with what it returns."""

    def hook(name: str) -> Any:
        return lambda _, __, output: found(name, output) if isinstance(output, Tensor) else None

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Look(TorchFunctionMode):
    """Sees which layers run with outputs (n, …), and which of them an activation function alone reads."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.runs: dict[str, int] = {}
        self.read: dict[str, int] = {}  # layer → how often a function other than a norm took what it says
        self.activated: set[str] = set()

    def found(self, name: str, output: Tensor) -> Tensor:
        if output.ndim > 1 and len(output) == self.images and output.is_floating_point():
            self.shapes[name] = tuple(output.shape)
            self.runs[name] = self.runs.get(name, 0) + 1
            output._subspect_layer = name  # type: ignore[attr-defined]
        return output

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if not isinstance(output, Tensor):
            return output
        name, word = _layer_of(args, kwargs), getattr(func, "__name__", "")
        for one in _tags((*args, *(kwargs or {}).values())):
            if one != name or word not in (*_NORMS, *_SAME):
                self.read[one] = self.read.get(one, 0) + 1
        if name is not None and word in (*_NORMS, *_SAME):
            output._subspect_layer = name  # type: ignore[attr-defined]
        elif name is not None and word in _ACTIVATIONS:
            self.activated.add(name)
            if output is args[0]:
                del output._subspect_layer
        return output


class _Follow(TorchFunctionMode):
    """Hands what an activation function makes of a tagged output to a visitor."""

    def __init__(self, visit: Visit) -> None:
        super().__init__()
        self.visit = visit

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = _layer_of(args, kwargs)
        if name is None or not isinstance(output, Tensor):
            return output
        word = getattr(func, "__name__", "")
        if word in (*_NORMS, *_SAME):
            output._subspect_layer = name  # type: ignore[attr-defined]
        elif word in _ACTIVATIONS:
            if output is args[0]:
                del output._subspect_layer
            return self.visit(name, output)
        return output


def _layer_of(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> str | None:
    first = args[0] if args else (kwargs or {}).get("input")
    name = getattr(first, "_subspect_layer", None) if isinstance(first, Tensor) else None
    return name if isinstance(name, str) else None


def _tags(values: Iterable[Any]) -> Iterator[str]:
    for one in values:
        if isinstance(one, Tensor) and isinstance(name := getattr(one, "_subspect_layer", None), str):
            yield name
        elif isinstance(one, list | tuple):
            yield from _tags(one)


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == module.in_channels > 1


def _last(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)
