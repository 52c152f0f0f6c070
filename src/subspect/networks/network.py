"""A trained classifier seen as backbone and head: ``logits = features @ W.T + b``.

It is run where it lies, in evaluation mode without gradients, and left as it was.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from subspect.ground.errors import SubspectError
from subspect.ground.files import fingerprint
from subspect.ground.text import is_text
from subspect.images.inputs import Pixels, called, moved
from subspect.images.preprocessing import AnyPreprocessing, PreprocessingLike, as_preprocessing
from subspect.networks.calls import input_of
from subspect.networks.finding import Head, check_head, find_head_of, logits_of
from subspect.networks.summands import Summand, at_position, is_convolution, joined


class Network:
    """A trained image classifier, its preprocessing and its class names.

    Args:
        model: any ``nn.Module`` that returns class logits: a tensor, or an output object, tuple or dict that holds them.
            It is run where it lies, in evaluation mode without gradients, and left as it was.
        preprocessing: a `Preprocessing`, a dict with its fields, a callable from a Pillow image to a tensor, or an image
            processor of Hugging Face; taken from ``model.preprocessing`` where the model declares it.
        class_names: a name for each class; taken from ``model.class_names`` or a Hugging Face ``config.id2label`` where
            the model has them.
        head: the head's module name, where it can't be found by watching.
        name: what the network is called in studies and reports.

    Example:
        >>> preprocessing = dict(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> network = subspect.Network(model, preprocessing=preprocessing, class_names=["bird", "cat", "dog", "horse"])
        >>> network.head_known
        False
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        preprocessing: PreprocessingLike | None = None,
        class_names: Sequence[str] | None = None,
        head: str | None = None,
        name: str | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise SubspectError(f"a network must be a torch.nn.Module, got {type(model).__name__}")
        if _one_graph(model):
            raise SubspectError(
                f"the network is scripted, traced or exported ({type(model).__name__}): its layers run within one graph, so "
                "that none can be watched; pass the original torch.nn.Module, with these weights"
            )
        declared = preprocessing if preprocessing is not None else getattr(model, "preprocessing", None)
        self.model = model
        self.preprocessing: AnyPreprocessing | None = as_preprocessing(declared)
        self.class_names = checked_names(class_names if class_names is not None else _declared_names(model))
        self.name = name or type(model).__name__
        self.weights_given = True  #: not where it was named without them, so that they may be random (`load_network`)
        self._head_name = head
        self._head: Head | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return it for another process, with the model where every machine can take it."""
        model = self.model if self.device.type == "cpu" else copy.deepcopy(self.model).cpu()
        return {**vars(self), "model": model}

    def __repr__(self) -> str:
        return f"Network({self.name!r}, preprocessing: {self.preprocessing or 'not known'})"

    @property
    def head(self) -> Head:
        """The head; known once `find_head` has seen a batch."""
        if self._head is None:
            raise SubspectError("the head is not known yet: call network.find_head(batch) with two or more images")
        return self._head

    @property
    def device(self) -> torch.device:
        """Where the network's parameters lie."""
        tensor = next(self.model.parameters(), next(self.model.buffers(), None))
        return tensor.device if tensor is not None else torch.device("cpu")

    @property
    def head_known(self) -> bool:
        """Whether the head was found, and its layers still have the weights that they had then."""
        if self._head is None:
            return False
        weight, bias = joined(self.model, self._head.groups)
        return torch.equal(weight, self._head.weight) and torch.equal(bias, self._head.bias)

    def find_head(self, pixels: Pixels, name: str | None = None) -> Head:
        """Find the head with a small batch, and check that it gives the network's own logits.

        Args:
            pixels: (n, …) with n ≥ 2, as the network expects it; of pictures (n, channels, height, width); by name if the
                network takes several tensors by keyword.
            name: the head's module name, where it is known and the user gave none.

        A head that the user named is taken even where the network does something after it (a softmax, an average of
        two heads): the layer's own output then stands for the logits, with a warning.

        Raises:
            SubspectError: no linear layer gives the logits, or the one named has another number of outputs, and the
                candidates are listed; the network has one class; or the head contains NaN or infinity.
        """
        if len(pixels) < 2:
            raise SubspectError(f"finding the head needs a batch of at least 2 images, got {len(pixels)}")
        with self.running():
            self._head = find_head_of(
                self.model, self._to_model(pixels), name if self._head_name is None else self._head_name
            )
        return self._head

    def read(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """Run a batch through the network once: features (n, d) and logits (n, C), float32, on the network's device.

        Raises:
            SubspectError: the head's own product is not the network's logits on this batch.
        """
        head = self.head
        firsts = [group[0] for group in head.groups]
        kept: dict[str, list[Tensor]] = {part.name: [] for part in firsts}

        def keep(part: Summand, module: nn.Module) -> Any:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                features = at_position(input_of(args, kwargs), is_convolution(module), part.position)
                kept[part.name].append(features.detach().clone())

            return hook

        with self.running():
            modules = [(part, self.model.get_submodule(part.name)) for part in firsts]
            handles = [one.register_forward_pre_hook(keep(part, one), with_kwargs=True) for part, one in modules]
            try:
                output = called(self.model, self._to_model(pixels))
            finally:
                for handle in handles:
                    handle.remove()
            for name, found in kept.items():
                if len(found) != 1:
                    raise SubspectError(
                        f"the head {name!r} ran {len(found)} times in one pass of the network, expected once"
                    )
            # networks that squeeze drop the first axis of a batch of one
            features = torch.cat([found[0].reshape(len(pixels), -1) for found in kept.values()], dim=1)
            if not head.exact:
                weight, bias = head.weight.to(features.device), head.bias.to(features.device)
                return features.float(), features.float() @ weight.T + bias
            logits = logits_of(output, head, len(pixels))
            check_head(features, head.weight, head.bias, logits, head.name)
        return features.float(), logits.float()

    @contextmanager
    def running(self, device: str | torch.device | None = None) -> Iterator[None]:
        """Run in evaluation mode without gradients, on a device; afterwards the model is as it was.

        Raises:
            SubspectError: the device is not there.
        """
        modes = {module: module.training for module in self.model.modules()}
        home = self.device
        try:
            if device is not None:
                self.model.to(_device(device))
            self.model.eval()
            with torch.no_grad(), _eager():
                yield
        finally:
            if device is not None:
                self.model.to(home)
            for module, mode in modes.items():
                module.training = mode

    def stay(self, device: str | torch.device | None) -> None:
        """Move to a device for good, in a process that does nothing else with it.

        Raises:
            SubspectError: the device is not there.
        """
        if device is not None:
            self.model.to(_device(device))

    def known_as(
        self, head: str, preprocessing: AnyPreprocessing | None, class_names: tuple[str, ...] | None = None
    ) -> Network:
        """Return the same network with the head of a name, found already if it was, a preprocessing, and names of classes."""
        other = copy.copy(self)
        other._head_name, other.preprocessing, other.class_names = head, preprocessing, class_names
        other._head = self._head if self._head is not None and self._head.name == head else None
        return other

    def fingerprint(self) -> str:
        """Return the SHA-256 of all parameters' and buffers' names, types, shapes and bytes, in 64 hex digits."""
        return weights_fingerprint(self.model)

    def _to_model(self, pixels: Pixels) -> Pixels:
        dtype = next((tensor.dtype for tensor in self.model.parameters() if tensor.is_floating_point()), None)
        return moved(pixels, self.device, dtype)


def _one_graph(model: nn.Module) -> bool:
    """Tell whether a network is one graph in which no layer runs by itself; in a symbolically traced one they do."""
    if isinstance(model, torch.jit.ScriptModule):
        return True
    return isinstance(model, torch.fx.GraphModule) and not any(
        one.op == "call_module" and next(model.get_submodule(str(one.target)).parameters(), None) is not None
        for one in model.graph.nodes
    )


def check_network(network: object) -> None:
    """Refuse what is no network, such as a model that isn't one yet.

    Raises:
        SubspectError: it is something else.
    """
    if not isinstance(network, Network):
        raise SubspectError(
            f"a network must be a subspect.Network, got {type(network).__name__}; subspect.Network(model) makes one"
        )


def weights_fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of all parameters' and buffers' names, types, shapes and bytes, in 64 hex digits."""
    parts: list[str | memoryview] = []
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), data.data]
    return fingerprint(*parts)


def _declared_names(model: nn.Module) -> Sequence[str] | None:
    names = getattr(model, "class_names", None)
    if names is not None:
        return names  # type: ignore[no-any-return]
    labels = getattr(getattr(model, "config", None), "id2label", None)
    if isinstance(labels, Mapping) and labels:
        values = [str(labels[key]) for key in sorted(labels, key=int)]
        if not all(value == f"LABEL_{index}" for index, value in enumerate(values)):  # the placeholder of transformers
            return values
    return None


def checked_names(names: object) -> tuple[str, ...] | None:
    """Return class names as they are kept; None where there are none.

    Raises:
        SubspectError: they are no list of strings, or one isn't text.
    """
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise SubspectError(f"class_names must be a list of strings, one for each class; got {names!r}")
    odd = next((index for index, name in enumerate(names) if not is_text(name)), None)
    if odd is not None:
        raise SubspectError(f"class name {odd} is not text: it contains half of a surrogate pair; rename it")
    return tuple(names)


def _device(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise SubspectError(f"device {str(device)!r} cannot be used: {reason}; try --device cpu") from error
    return chosen


def _eager() -> AbstractContextManager[object]:
    """Set torch.compile aside, whose graphs run no hooks; PyTorch can from 2.6 on."""
    stance = getattr(torch.compiler, "set_stance", None)
    compiled = (
        "torch._dynamo" in sys.modules
    )  # else nothing is compiled, and the stance would take a second to import it
    return stance("force_eager") if compiled and stance is not None else nullcontext()
