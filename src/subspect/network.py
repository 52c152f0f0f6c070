"""A trained classifier seen as backbone + head: ``logits = features @ W.T + b``.

The head is found, not guessed by name: a small batch runs through the network while every ``nn.Linear`` and 1×1
``nn.Conv2d`` is watched, and the one whose output is the logits is the head. A layer that works at every position of a
map or a token sequence counts by its mean over the positions: the mean of a linear layer is the linear layer of the
mean, as long as nothing non-linear lies between.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from subspect.errors import SubspectError, near, some
from subspect.files import fingerprint
from subspect.preprocessing import AnyPreprocessing, as_preprocessing
from subspect.text import is_text

log = logging.getLogger("subspect")


@dataclass(frozen=True)
class Head:
    """The final linear layer of a network.

    Attributes:
        name: the module's name within the network.
        weight: (C, d) float32 on the CPU.
        bias: (C,) float32 on the CPU; zeros where the layer has none.
        output: which of the tensors that the network returns holds the logits.
        exact: whether the network's logits are this layer's output; else the layer was named by the user, and its own
            output stands for the logits.
    """

    name: str
    weight: Tensor
    bias: Tensor
    output: int = 0
    exact: bool = True

    @property
    def n_classes(self) -> int:
        """Number of classes C."""
        return self.weight.shape[0]

    @property
    def n_features(self) -> int:
        """Number of features d."""
        return self.weight.shape[1]


class Network:
    """A trained image classifier, its preprocessing and its class names.

    Args:
        model: any ``nn.Module`` that returns class logits: a tensor, or an output object, tuple or dict that holds them.
            It is run where it lies, in evaluation mode without gradients, and left as it was.
        preprocessing: a `Preprocessing`, a dict with its fields, or a callable from a Pillow image to a tensor; taken
            from ``model.preprocessing`` where the model declares it.
        class_names: a name for each class; taken from ``model.class_names`` or a Hugging Face ``config.id2label`` where
            the model has them.
        head: the head's module name, where it can't be found by watching.
        name: what the network is called in studies and reports.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        preprocessing: object = None,
        class_names: Sequence[str] | None = None,
        head: str | None = None,
        name: str | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise SubspectError(f"a network must be a torch.nn.Module, got {type(model).__name__}")
        declared = preprocessing if preprocessing is not None else getattr(model, "preprocessing", None)
        self.model = model
        self.preprocessing: AnyPreprocessing | None = as_preprocessing(declared)
        self.class_names = _names(class_names if class_names is not None else _declared_names(model))
        self.name = name or type(model).__name__
        self._head_name = head
        self._head: Head | None = None

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
        """Whether the head was found."""
        return self._head is not None

    def find_head(self, pixels: Tensor, name: str | None = None) -> Head:
        """Find the head with a small batch, and check that it gives the network's own logits.

        Args:
            pixels: (n, channels, height, width) with n ≥ 2, as the network expects it.
            name: the head's module name, where it is known and the user gave none.

        A head that the user named is taken even where the network does something after it (a softmax, an average of
        two heads): the layer's own output then stands for the logits, with a warning.

        Raises:
            SubspectError: no linear layer gives the logits, or the one named has another number of outputs, and the
                candidates are listed; the network has one class; or the head holds NaN or infinity.
        """
        if len(pixels) < 2:
            raise SubspectError(f"finding the head needs a batch of at least 2 images, got {len(pixels)}")
        with self.running():
            self._head = _find_head(
                self.model, self._to_model(pixels), name if self._head_name is None else self._head_name
            )
        return self._head

    def read(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Run a batch through the network once: features (n, d) and logits (n, C), float32, on the network's device.

        Raises:
            SubspectError: the head's own product is not the network's logits on this batch.
        """
        head = self.head
        kept: list[Tensor] = []
        module = self.model.get_submodule(head.name)

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append(_pooled(_input(args, kwargs), _conv(module)).detach().clone())

        with self.running():
            handle = module.register_forward_pre_hook(keep, with_kwargs=True)
            try:
                output = self.model(self._to_model(pixels))
            finally:
                handle.remove()
            if len(kept) != 1:
                raise SubspectError(
                    f"the head {head.name!r} ran {len(kept)} times in one pass of the network, expected once"
                )
            features = kept[0].reshape(len(pixels), -1)  # networks that squeeze drop the first axis of a batch of one
            if not head.exact:
                return features.float(), _affine_of(features.float(), module)
            logits = logits_of(output, head, len(pixels))
            _check(features, module, logits, head.name)
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

    def fingerprint(self) -> str:
        """Return the SHA-256 of all parameters' and buffers' names, types, shapes and bytes, in 64 hex digits."""
        return weights_fingerprint(self.model)

    def _to_model(self, pixels: Tensor) -> Tensor:
        dtype = next((tensor.dtype for tensor in self.model.parameters() if tensor.is_floating_point()), pixels.dtype)
        return pixels.to(self.device, dtype)


def weights_fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of all parameters' and buffers' names, types, shapes and bytes, in 64 hex digits."""
    parts: list[str | memoryview] = []
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), data.data]
    return fingerprint(*parts)


def logits_of(output: Any, head: Head, images: int) -> Tensor:
    """Return the logits (n, C) among what a network returns for n images."""
    return _logits(output)[head.output].reshape(images, -1)


def with_head(model: nn.Module, name: str, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Return a copy of a network whose head is replaced by ``make(head)``, under all the names that it goes by."""
    swapped = copy.deepcopy(model)
    old = swapped.get_submodule(name)
    new = make(old)
    for path, module in list(swapped.named_modules(remove_duplicate=False)):
        if module is old:
            if not path:
                return new  # the network is its head
            parent, _, child = path.rpartition(".")
            setattr(swapped.get_submodule(parent), child, new)
    return swapped


# Finding the head -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Seen:
    """One call of one linear layer: its input and output, each as mean over positions."""

    name: str
    module: nn.Module
    features: Tensor
    output: Tensor


def _find_head(model: nn.Module, pixels: Tensor, name: str | None) -> Head:
    watched = {path: module for path, module in model.named_modules(remove_duplicate=False) if _is_linear(module)}
    if name is not None and name not in watched:
        raise SubspectError(
            f"head {name!r} is not an nn.Linear or 1×1 nn.Conv2d of this network{near(name, list(watched))}; its linear "
            f"layers: {some(watched, 8) or 'none'}"
        )
    seen, outputs = _watch(model, pixels, watched)
    tensors = {
        place: tensor
        for place, tensor in enumerate(outputs)
        if tensor.ndim == 2 and len(tensor) == len(pixels) and tensor.shape[1] > 1 and tensor.is_floating_point()
    }
    if not tensors:
        alone = next((tensor for tensor in outputs if tensor.shape in ((len(pixels),), (len(pixels), 1))), None)
        if alone is not None and alone.is_floating_point():
            raise SubspectError(
                f"the network has one class (its output is {tuple(alone.shape)}), and one class decides nothing: subspect "
                "needs two or more; a network that says yes or no by one logit needs a head with a logit for each"
            )
        raise SubspectError(
            "the network returns no class logits: expected a tensor (images, classes), of two classes or more, in its "
            f"output; got {some([tuple(tensor.shape) for tensor in outputs]) or 'no tensor'}"
        )
    if not any(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        for one in reversed(seen):
            if any(one.output.shape == tensor.shape for tensor in tensors.values()):
                _check_finite(one)
        raise SubspectError(
            "the network's logits are NaN or infinite on the first images tried; check its weights and preprocessing"
        )
    matches = [(i, one) for i, logits in tensors.items() for one in reversed(seen) if _same(one.output, logits)]
    if name is not None:
        matches = [(i, one) for i, one in matches if one.module is watched[name]]
    exact = bool(matches)
    others = {one.name for _, one in matches if one.output.shape != matches[0][1].output.shape}
    if others:
        log.warning(
            "the network returns the outputs of several linear layers; %r is taken for the head: pass head='module.name' "
            "(--head) for %s",
            matches[0][1].name,
            some(sorted(others)),
        )
    if exact:
        which, call = matches[0]
    elif name is not None:
        which, call = 0, _named(name, watched[name], seen, list(tensors.values()))
    else:
        raise SubspectError(_not_found(seen, next(iter(tensors.values()))))
    _check_finite(call)
    calls = sum(one.module is call.module for one in seen)
    if calls > 1:
        raise SubspectError(
            f"the head {call.name!r} runs {calls} times in one pass, so its input is not one set of features; pass a "
            "network that runs it once"
        )
    if exact:
        _check(call.features, call.module, tensors[which], call.name)
    weight, bias = _affine(call.module)
    return Head(call.name, weight.detach().float().cpu().clone(), bias.detach().float().cpu().clone(), which, exact)


def _check_finite(call: _Seen) -> None:
    """Refuse a head whose numbers are none.

    Raises:
        SubspectError: a weight or the bias is NaN or infinite.
    """
    numbers = torch.cat([part.detach().float().flatten() for part in _affine(call.module)])
    bad = int((~numbers.isfinite()).sum())
    if bad:
        raise SubspectError(
            f"the head {call.name!r} holds NaN or infinity: {bad:,} of its {len(numbers):,} weights and biases; load the "
            "weights of a training that went well (--weights)"
        )


def _named(name: str, module: nn.Module, seen: list[_Seen], tensors: list[Tensor]) -> _Seen:
    """Return the layer that the user named as head, though the network's logits are not its output."""
    call = next((one for one in seen if one.module is module), None)
    if call is None:
        raise SubspectError(f"head {name!r} did not run when the network did; {_candidates(seen, tensors[0])}")
    logits = next((tensor for tensor in tensors if tensor.shape == call.output.shape), None)
    if logits is None:
        raise SubspectError(
            f"head {name!r} gives {tuple(call.output.shape)} but the network's logits are {tuple(tensors[0].shape)}; "
            + _candidates(seen, tensors[0])
        )
    log.warning(
        "the network's output is not that of the head %r%s; what the layer itself gives stands for the logits, and all "
        "figures are about it",
        name,
        _reason([call], logits),
    )
    return call


def _watch(model: nn.Module, pixels: Tensor, watched: dict[str, nn.Module]) -> tuple[list[_Seen], list[Tensor]]:
    """Run the network and keep what goes in and out of every linear layer; hooks are removed on any exit."""
    names = {module: name for name, module in reversed(watched.items())}  # of several names, the first
    inputs: dict[nn.Module, Tensor] = {}
    seen: list[_Seen] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs[module] = _pooled(_input(args, kwargs), _conv(module)).detach().clone()

    def after(module: nn.Module, _: tuple[Any, ...], output: object) -> None:
        if isinstance(output, Tensor):
            seen.append(_Seen(names[module], module, inputs[module], _pooled(output, _conv(module)).detach().clone()))

    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in names]
    handles += [module.register_forward_hook(after) for module in names]
    try:
        tensors = [tensor.detach() for tensor in _logits(model(pixels))]
    except Exception as error:
        raise SubspectError(
            f"the network failed on a batch {tuple(pixels.shape)}: {type(error).__name__}: {error}; check that the "
            "preprocessing gives the size and the channels that it expects"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return seen, tensors


def _not_found(seen: list[_Seen], logits: Tensor) -> str:
    alike = [one for one in seen if one.output.shape == logits.shape]
    return (
        f"head not found: the logits {tuple(logits.shape)} are not the output of any nn.Linear or 1×1 nn.Conv2d (by its "
        f"mean over positions){_reason(alike, logits)}; pass head='module.name' (--head) to take a layer's own output "
        f"for the logits; {_candidates(seen, logits)}"
    )


def _candidates(seen: list[_Seen], logits: Tensor) -> str:
    alike = [one.name for one in seen if one.output.shape == logits.shape]
    if alike:
        return f"candidates: {some(alike, 8)}"
    others = some([f"{one.name} with {one.output.shape[-1]}" for one in seen], 8)
    return f"candidates: none with {logits.shape[1]} outputs (linear layers that ran: {others or 'none'})"


def _reason(alike: list[_Seen], logits: Tensor) -> str:
    """Say what the network does between a layer of the right shape and its logits, if that is easily seen."""
    for one in alike:
        after = {
            "a softmax": one.output.softmax(1),
            "a log-softmax": one.output.log_softmax(1),
            "a sigmoid": one.output.sigmoid(),
            "a ReLU": one.output.relu(),
        }
        for function, result in after.items():
            if _same(result, logits):
                return f": the network applies {function} after {one.name!r}"
    for first, second in combinations(alike, 2):
        if _same((first.output + second.output) / 2, logits):
            return f": the network averages two heads, {first.name!r} and {second.name!r}"
    return ""


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d)
        and (module.kernel_size, module.stride, module.groups) == ((1, 1), (1, 1), 1)
        and module.padding in ((0, 0), "valid", "same")
    )


def _conv(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d)


def _input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    tensor: Tensor = next(iter((*args, *kwargs.values())))
    return tensor


def _affine(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight (C, d) and bias (C,) of a linear layer or a 1×1 convolution."""
    weight: Tensor = module.weight.flatten(1)  # type: ignore[operator]
    bias = module.bias if module.bias is not None else weight.new_zeros(weight.shape[0])
    return weight, bias  # type: ignore[return-value]


def _affine_of(features: Tensor, module: nn.Module) -> Tensor:
    weight, bias = _affine(module)
    return features @ weight.float().T + bias.float()


def _pooled(tensor: Tensor, channels_first: bool) -> Tensor:
    """Mean over all positions: (n, c, …) → (n, c) where channels come first, (n, …, c) → (n, c) where they come last."""
    if tensor.ndim <= 2:
        return tensor
    return tensor.flatten(2).mean(2) if channels_first else tensor.flatten(1, -2).mean(1)


def _logits(output: object) -> list[Tensor]:
    """List the tensors of a network's output that may hold logits, the likeliest first, each flattened to (n, …)."""
    return [
        tensor.flatten(1) if tensor.ndim > 2 and tensor.shape[2:].numel() == 1 else tensor for tensor in _all(output)
    ]


def _all(output: object, depth: int = 4) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif depth:  # an object may lead back to itself
        for part in _parts(output):
            yield from _all(part, depth - 1)


def _parts(output: object) -> list[object]:
    if isinstance(output, Mapping):
        return [value for _, value in sorted(output.items(), key=lambda item: item[0] != "logits")]
    parts = output if isinstance(output, tuple | list) else getattr(output, "__dict__", {}).values()
    return [getattr(output, "logits", None), *parts]


def _same(output: Tensor, logits: Tensor) -> bool:
    if output.shape != logits.shape:
        return False
    scale = logits.float().abs().max()
    return bool((output.float() - logits.float()).abs().max() <= _tolerance(output, logits) * scale + 1e-6)


def _check(features: Tensor, module: nn.Module, logits: Tensor, name: str) -> None:
    """Check ``features @ W.T + b`` against the network's logits, within the rounding of the lowest precision used."""
    weight, bias = _affine(module)
    error = (_affine_of(features.float(), module) - logits.float()).abs()
    size = features.float().abs() @ weight.float().abs().T + bias.float().abs()
    room = _tolerance(features, weight, logits) * size + 1e-6
    if bool((error > room).any()):
        worst = float(error.max())
        raise SubspectError(
            f"the head {name!r} does not give the network's own logits: features @ W.T + b is off by up to {worst:.3g}; "
            "the network must do something non-linear after it, or pick another layer with head='module.name'"
        )


def _tolerance(*tensors: Tensor) -> float:
    lowest = max(torch.finfo(tensor.dtype).eps for tensor in tensors)
    if tensors[0].is_cuda:
        lowest = max(lowest, 2.0**-10)  # TF32, which cuDNN's convolutions use unless told otherwise
    return max(1e-5, 8 * lowest)


# What a model declares ------------------------------------------------------------------------------------------------


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


def _names(names: object) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise SubspectError(f"class_names must be a list of strings, one for each class; got {names!r}")
    odd = next((index for index, name in enumerate(names) if not is_text(name)), None)
    if odd is not None:
        raise SubspectError(f"class name {odd} is no text: it holds half of a surrogate pair; rename it")
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
