"""Hand the decomposed network on, as a file that runs without subspect.

- ``onnx``: by PyTorch's dynamo exporter, for any batch. Where classes are many and features few, the head gathers the features
  of each class, as columns, and multiplies; else it is a dense layer with zeros, which ONNX Runtime does faster.
- ``torch``: a ``torch.export`` program, for any batch; ``torch.export.load(path).module()`` runs it.
- ``safetensors``: the decomposition alone: supports, weights, biases, names.

A file takes its place only after it was read back and run on real images, one and seven at a time, and said what the decomposed
network says in PyTorch. Names and preprocessing travel along: what goes in are images prepared by it, (n, channels, height,
width) float32, called ``pixels``; what comes out is called ``logits``.
"""

from __future__ import annotations

import copy
import io
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from rich.table import Table
from torch import Tensor, nn

from subspect.decomposition import Decomposition
from subspect.errors import MissingExtra, SubspectError
from subspect.files import atomic, explain
from subspect.head import DecomposedHead
from subspect.images import open_images
from subspect.maps import observed
from subspect.network import Head, Network, logits_of, with_head
from subspect.observe import find_head, sample
from subspect.study import Study

Format = Literal["onnx", "torch", "safetensors"]
FORMATS: Mapping[Format, str] = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}  #: → suffix
OPSET = 20  #: of ONNX, unless given
BATCHES = (1, 7)  #: images at a time when a file is checked and timed
TOLERANCE = 1e-4  #: by which logits may differ from PyTorch's; where some are larger than 1, that share of the largest
_SECONDS = 0.5  # to time each batch for
_DENSER = 8  # a class with more than 1/8 of the features makes a gather as long as a dense product
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cost:
    """What a file is and takes.

    Attributes:
        bytes: its size.
        seconds: images at a time → median time of a run on the CPU, by what the file is for: ONNX Runtime or PyTorch.
    """

    bytes: int
    seconds: Mapping[int, float]


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: where it is.
        format: "onnx", "torch" or "safetensors".
        decomposed: its cost.
        dense: that of the dense network in the same format; None for safetensors.
        difference: the largest difference of a logit from PyTorch's; None for safetensors.
        head: "gather", "dense" or, in torch.export programs, the kernel of the head; None for safetensors.
        about: what travels along: names, preprocessing, where it comes from.
    """

    path: Path
    format: Format
    decomposed: Cost
    dense: Cost | None
    difference: float | None
    head: str | None
    about: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**asdict(self), "path": str(self.path), "about": dict(self.about)}

    def tables(self) -> list[Table]:
        """Return a table for the terminal: sizes and times before and after."""
        table = Table(title=str(self.path), title_justify="left", caption_justify="left")
        table.add_column("")
        for column in ("MB", *(f"{batch} image{'s' * (batch > 1)}, ms" for batch in self.decomposed.seconds)):
            table.add_column(column, justify="right")
        for name, cost in (("dense", self.dense), ("decomposed", self.decomposed)):
            if cost is not None:
                times = (f"{1000 * seconds:.1f}" for seconds in cost.seconds.values())
                table.add_row(name, f"{cost.bytes / 1e6:.2f}", *times)
        if self.difference is not None:
            runs = "ONNX Runtime" if self.format == "onnx" else "torch.export"
            opset = f", opset {self.about['opset']}" if self.format == "onnx" else ""
            table.caption = (
                f"{runs} on the CPU{opset}, {torch.get_num_threads()} threads; head: {self.head}; logits on real images differ "
                f"from PyTorch's by {self.difference:.1e} at most"
            )
        return [table]


def export(
    study: Study,
    decomposition: Decomposition,
    path: str | Path,
    network: Network | None = None,
    format: Format | None = None,
    *,
    images: object = None,
    opset: int = OPSET,
) -> Exported:
    """Write the decomposed network, or the decomposition alone, to a file.

    Args:
        study: of the network.
        decomposition: of this study.
        path: the file; it must not exist.
        network: that was observed; not needed for safetensors.
        format: told by the suffix of the path unless given.
        images: real images to check the file with (see `subspect.open_images`); those that were observed unless given.
        opset: of ONNX.

    Raises:
        SubspectError: a path that exists, a format that is none, another network, images that aren't there, a network that
            cannot be exported, or a file that says something else than PyTorch; nothing is written then.
    """
    path = Path(path)
    form = check_path(path, format)
    decomposition.check(study)
    about = about_of(study, decomposition)
    if form == "safetensors":
        decomposition.save(path, {"preprocessing": about["preprocessing"]})
        return Exported(path, form, Cost(path.stat().st_size, {}), None, None, None, about)
    if network is None:
        raise SubspectError(f"{form!r} takes the network itself, to put the decomposed head into; name it (--network)")
    pixels, head = prepared(study, network, images)
    small = decomposition.apply(network.model)
    return write(path, form, small, network.model, head, pixels, about, opset)


def check_path(path: Path, format: str | None) -> Format:
    """Return the format of a file to be written.

    Raises:
        SubspectError: it exists, its folder cannot be written to, or its format is none that we know.
    """
    known = {suffix: name for name, suffix in FORMATS.items()}
    named = cast(Format | None, format) if format is not None else known.get(path.suffix.lower())
    if named is None or named not in FORMATS:
        said = f"format {format!r}" if format is not None else f"a file called {path.name!r}"
        raise SubspectError(
            f"cannot export to {said}; formats are {', '.join(f'{name} ({suffix})' for name, suffix in FORMATS.items())}"
        )
    if path.exists():
        raise SubspectError(f"{path} exists; choose another name, or delete it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SubspectError(explain(error, path)) from error
    if named == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            try:
                __import__(package)
            except ImportError as error:
                raise MissingExtra(package, "export", "writing ONNX") from error
    return named


def about_of(study: Study, decomposition: Decomposition) -> dict[str, Any]:
    """Return what travels along with a network."""
    return {
        "class_names": list(study.identity.class_names),
        "preprocessing": dict(study.identity.preprocessing),
        "network": study.identity.network,
        "weights": study.identity.weights,
        "decomposition": decomposition.name,
    }


def prepared(study: Study, network: Network, images: object = None) -> tuple[Tensor, Head]:
    """Return seven real images as the network takes them, and its head.

    Raises:
        SubspectError: another network, or images that aren't there.
    """
    preprocessing = observed(study, network)
    if images is None:
        images = next((study[name].manifest.root for name in study.set_names if study[name].manifest.root), None)
        if images is None or not Path(images).exists():
            where = f"are no longer at {images}" if images is not None else "were in memory"
            raise SubspectError(f"the images that were observed {where}; name some to check the file with (--images)")
    if network.preprocessing is None:
        network = Network(network.model, preprocessing=preprocessing, class_names=network.class_names)
    source = open_images(images)
    head = network.head if network.head_known else find_head(network, source)
    if not head.exact:
        raise SubspectError(
            f"the head {head.name!r} is not the network's own output, so the network cannot be exported"
        )
    return sample(network, source, max(BATCHES)), head


def write(
    path: Path,
    format: Format,
    small: nn.Module,
    dense: nn.Module,
    head: Head,
    pixels: Tensor,
    about: Mapping[str, Any],
    opset: int = OPSET,
) -> Exported:
    """Write a network with a decomposed head, once what was written says the same as it.

    Args:
        path: the file.
        format: "onnx" or "torch".
        small: the network with the decomposed head, under the name that the head has.
        dense: the network as it was, for comparison.
        head: of both.
        pixels: (7, channels, height, width) real images, as the network takes them.
        about: what travels along.
        opset: of ONNX.

    Raises:
        SubspectError: it cannot be exported, or says something else.
    """
    pixels = pixels.cpu()
    layer = cast(DecomposedHead, small.get_submodule(head.name))
    kind = _kind(layer) if format == "onnx" else layer.kernel_for(max(BATCHES))
    known = {**about, **({"opset": opset} if format == "onnx" else {})}
    given = with_head(small, head.name, lambda _: _onnx_head(layer)) if format == "onnx" else small
    ours, theirs, given = (_Logits(copy.deepcopy(model), head) for model in (small, dense, given))
    data, run = _made(given, format, pixels, known, opset)
    dense_data, dense_run = _made(theirs, format, pixels, known, opset)
    difference = 0.0
    with torch.inference_mode():
        for batch in BATCHES:
            wanted = ours(pixels[:batch])
            apart = float((run(pixels[:batch]) - wanted).abs().max())
            if not apart <= TOLERANCE * max(1.0, float(wanted.abs().max())):
                raise SubspectError(
                    f"the exported network differs from the decomposed one by {apart:.2e} in a logit, on {batch} images; more "
                    f"than {TOLERANCE:g}; nothing was written. Does it hold something random, or that depends on the batch?"
                )
            difference = max(difference, apart)
        cost, dense_cost = (Cost(len(one), _times(go, pixels)) for one, go in ((data, run), (dense_data, dense_run)))
    with atomic(path) as file:
        file.write(data)
    return Exported(path, format, cost, dense_cost, difference, kind, known)


class _Logits(nn.Module):
    """A network that returns its logits (n, C) alone, on the CPU in float32."""

    def __init__(self, model: nn.Module, head: Head) -> None:
        super().__init__()
        self.model, self.head = model, head
        self.cpu().float().eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        return logits_of(self.model(pixels), self.head, pixels.shape[0])


class _Gather(nn.Module):
    """A decomposed head as ONNX Runtime does it fast: the features of each class as rows of n numbers, times its weights.

    Supports are filled up to the largest with feature 0 and weight 0.
    """

    places: Tensor
    weights: Tensor
    bias: Tensor

    def __init__(self, head: DecomposedHead) -> None:
        super().__init__()
        sizes = head.offsets.diff().long()
        column = torch.arange(len(head.indices)) - torch.repeat_interleave(head.offsets[:-1].long(), sizes)
        table, weights = (
            torch.zeros(len(sizes), int(sizes.max()), dtype=kind) for kind in (torch.int64, torch.float32)
        )
        table[head.rows.long(), column] = head.indices.long()
        weights[head.rows.long(), column] = head.weights.detach().float()
        self.register_buffer("places", table)
        self.register_buffer("weights", weights[:, None])  # (C, 1, k)
        self.register_buffer("bias", head.bias.detach().float())

    def forward(self, input: Tensor) -> Tensor:
        classes, k = self.places.shape
        rows = input.t().index_select(0, self.places.reshape(-1)).reshape(classes, k, -1)
        return (self.weights @ rows)[:, 0].t() + self.bias


def _kind(head: DecomposedHead) -> Literal["gather", "dense"]:
    largest = int(head.offsets.diff().max())
    fits = not head.convolution and 0 < largest * _DENSER <= head.in_features
    return "gather" if fits and head.kernel_for(64) != "dense" else "dense"


def _onnx_head(head: DecomposedHead) -> nn.Module:
    head = copy.deepcopy(head).cpu().float()
    if _kind(head) == "gather":
        return _Gather(head)
    made: nn.Module
    if head.convolution:
        made = nn.Conv2d(head.in_features, head.out_features, 1)
        made.weight.data = head.dense_weight().detach()[:, :, None, None]
    else:
        made = nn.Linear(head.in_features, head.out_features)
        made.weight.data = head.dense_weight().detach()
    made.bias.data = head.bias.detach().clone()  # type: ignore[union-attr]
    return made


def _made(model: nn.Module, format: Format, pixels: Tensor, about: Mapping[str, Any], opset: int) -> tuple[bytes, Run]:
    """Return the bytes of a file, and how what was read back from them runs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters, about themselves
            return _onnx(model, pixels, about, opset) if format == "onnx" else _program(model, pixels, about)
    except SubspectError:
        raise
    except Exception as error:  # exporters end in almost any error
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SubspectError(f"the network cannot be exported to {format}, nothing was written: {first}") from error


def _program(model: nn.Module, pixels: Tensor, about: Mapping[str, Any]) -> tuple[bytes, Run]:
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(model, (pixels[:2],), dynamic_shapes=(batch,))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"subspect.json": json.dumps(about, ensure_ascii=False)})
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    return buffer.getvalue(), lambda x: cast(Tensor, loaded(x))


def _onnx(model: nn.Module, pixels: Tensor, about: Mapping[str, Any], opset: int) -> tuple[bytes, Run]:
    import onnxruntime

    program = torch.onnx.export(
        model,
        (pixels[:2],),
        dynamo=True,
        dynamic_shapes=({0: "batch"},),
        input_names=["pixels"],
        output_names=["logits"],
        opset_version=opset,
        verbose=False,
    )
    if program is None:
        raise SubspectError("this PyTorch has no dynamo exporter; take 2.6 or later")
    proto = program.model_proto
    written = next(one.version for one in proto.opset_import if not one.domain)
    if written != opset:
        raise SubspectError(
            f"PyTorch's exporter doesn't know opset {opset} (it would write {written}); name another (--opset)"
        )
    entry = proto.metadata_props.add()
    entry.key, entry.value = "subspect", json.dumps(about, ensure_ascii=False)
    data = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return data, lambda x: torch.from_numpy(session.run(None, {"pixels": x.numpy()})[0])


def _times(run: Run, pixels: Tensor) -> dict[int, float]:
    found = {}
    for batch in BATCHES:
        times: list[float] = []
        end = time.perf_counter() + _SECONDS
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            run(pixels[:batch])
            times.append(time.perf_counter() - start)
        found[batch] = statistics.median(times)
    return found
