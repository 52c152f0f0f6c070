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
import logging
import os
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from subspect.decomposition import Decomposition
from subspect.errors import MissingExtra, SubspectError, Unusable, some
from subspect.files import atomic, check_free
from subspect.head import MANY, DecomposedHead
from subspect.images import open_images
from subspect.maps import observed
from subspect.network import Head, Network, logits_of, with_head
from subspect.observe import find_head, sample
from subspect.reopen import Reopened
from subspect.study import Study
from subspect.tables import Table

Format = Literal["onnx", "torch", "safetensors"]
FORMATS: Mapping[Format, str] = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}  #: → suffix
SMALL: Mapping[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}  #: of these, those that hold a network
OPSET, OLDEST = 20, 18  #: of ONNX, unless given; the first that the exporter writes
BATCHES = (1, 7)  #: images at a time when a file is checked and timed
TOLERANCE = 1e-4  #: by which logits may differ from PyTorch's; where some are larger than 1, that share of the largest
_CHECKED = 64  # images that are looked for
_TURNS, _TURN = 5, 0.1  # of timing each batch; seconds
_DENSER = 8  # a class with more than 1/8 of the features makes a gather as long as a dense product
_SOURCE = ("stack_trace", "from_node", "source_fn_stack")  # of a program's nodes: lines and paths of the network's code
Run = Callable[[Tensor], Tensor]
log = logging.getLogger("subspect")


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
                times = (f"{1000 * seconds:.3g}" for seconds in cost.seconds.values())
                size = cost.bytes / 1e6
                table.add_row(name, f"{size:.2f}" if size >= 1 else f"{size:.2g}", *times)
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
        opset: of ONNX, 18 or later.

    Raises:
        SubspectError: a path that exists, an opset or a format that is none, another network, images that aren't there, a
            network that cannot be exported, or a file that says something else than PyTorch; nothing is written then.
    """
    path = Path(path)
    form = check_path(path, format)
    if form == "onnx":
        _check_opset(opset)
    decomposition.check(study)
    about = about_of(study, decomposition)
    if form == "safetensors":
        with atomic(path) as file:
            file.write(decomposition.to_bytes({"preprocessing": about["preprocessing"]}))
        return Exported(path, form, Cost(path.stat().st_size, {}), None, None, None, about)
    if network is None:
        raise SubspectError(f"{form!r} takes the network itself, to put the decomposed head into; name it (--network)")
    tell_unseen(decomposition)
    pixels, head = prepared(study, network, images)
    small = decomposition.apply(network.model)
    return write(path, form, small, network.model, head, pixels, about, opset)


def check_path(path: Path, format: str | None, formats: Mapping[Format, str] = FORMATS) -> Format:
    """Return the format of a file to be written.

    Raises:
        SubspectError: it exists, its folder cannot be written to, or its format is none that we know.
    """
    known = {suffix: name for name, suffix in FORMATS.items()}
    told = known.get(path.suffix.lower())
    named = cast(Format | None, format) if format is not None else told
    if named is None or named not in formats:
        said = f"format {format!r}" if format is not None else f"a file called {path.name!r}"
        raise SubspectError(
            f"cannot export to {said}; formats are {', '.join(f'{name} ({suffix})' for name, suffix in formats.items())}"
        )
    if told is not None and told != named:
        raise SubspectError(f"a file called {path.name!r} is no {named!r}; call it {path.stem}{FORMATS[named]}")
    check_free(path)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise SubspectError(f"cannot write {path}: {folder} is a file, not a folder; choose another place")
    if not os.access(folder, os.W_OK):
        raise SubspectError(f"cannot write to {folder}; choose a folder that you may write to")
    if named == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            try:
                __import__(package)
            except ImportError as error:
                raise MissingExtra(package, "export", "writing ONNX") from error
    return named


def _check_opset(opset: int) -> None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not isinstance(opset, int) or not OLDEST <= opset <= newest:
        raise SubspectError(f"an ONNX opset must be a whole number from {OLDEST} to {newest}; got {opset!r}")


def tell_unseen(decomposition: Decomposition, labels: Sequence[int] | None = None) -> None:
    """Warn of classes that keep all features, so that little gets smaller."""
    sizes, d = decomposition.supports.sizes, decomposition.supports.n_features
    unseen = [label for label in decomposition.unseen if sizes[label] == d and (labels is None or label in labels)]
    if unseen:
        log.warning(
            "%d class%s had no images when features were chosen, and keep%s all of them, so that files and networks get hardly "
            "smaller: %s",
            len(unseen),
            *(("es", "") if len(unseen) > 1 else ("", "s")),
            some(decomposition.class_names[label] for label in unseen),
        )


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
    """Return seven real images as the network takes them (again, where there are fewer), and its head.

    Raises:
        SubspectError: another network, or images that aren't there.
    """
    preprocessing = observed(study, network)
    if network.preprocessing is None:
        network = Network(network.model, preprocessing=preprocessing, class_names=network.class_names)
    source = open_images(images, outside=True) if images is not None else _observed_images(study)
    head = network.head if network.head_known else find_head(network, source)
    if not head.exact:
        raise SubspectError(
            f"the head {head.name!r} is not the network's own output, so the network cannot be exported"
        )
    pixels = sample(network, source, max(BATCHES))
    return pixels.repeat(-(-max(BATCHES) // len(pixels)), 1, 1, 1)[: max(BATCHES)], head


def _observed_images(study: Study) -> Reopened:
    """Return some of the images that were observed.

    Raises:
        SubspectError: they aren't there any more.
    """
    sets = [study[name] for name in study.set_names if study[name].manifest.root is not None]
    if not sets:
        raise SubspectError("the images that were observed were in memory; name some to check the file with (--images)")
    again = Reopened(sets[0], next(sets[0].chunks()).ids[:_CHECKED])
    reasons = []
    for id in (again.id(place) for place in range(len(again))):
        try:
            again.given(id)
            return again
        except Unusable as error:
            reasons.append(f"{id}: {error}")
    raise SubspectError(
        f"the images that were observed are no longer at {again.root} ({some(reasons, 1)}); name some to check the file with "
        "(--images)"
    )


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
    kind = _kind(layer) if format == "onnx" else layer.kernel_for(MANY)
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
        times = _times([run, dense_run], pixels)
    cost, dense_cost = (Cost(len(one), taken) for one, taken in zip((data, dense_data), times, strict=True))
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
        with _quiet():
            return _onnx(model, pixels, about, opset) if format == "onnx" else _program(model, pixels, about)
    except SubspectError:
        raise
    except Exception as error:  # exporters end in almost any error
        raise SubspectError(
            f"the network cannot be exported to {format}, nothing was written: {_reason(error)}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep exporters from writing pages about themselves and the network."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """Return the first line of the error that an exporter's error began with, and where in the network's code it arose.

    Raises:
        KeyboardInterrupt: that was it.
    """
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    if any(isinstance(one, KeyboardInterrupt) for one in chain):
        raise KeyboardInterrupt from error
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*ours, "<")) and Path(frame.filename).exists()
    ]
    return f"{first} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else first


def _program(model: nn.Module, pixels: Tensor, about: Mapping[str, Any]) -> tuple[bytes, Run]:
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(model, (pixels[:2],), dynamic_shapes=(batch,))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for key in _SOURCE:
                node.meta.pop(key, None)
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
            f"PyTorch's exporter cannot write opset {opset} of this network; name another, such as {OPSET}"
        )
    for part in (*proto.graph.node, *proto.graph.value_info, *(node for one in proto.functions for node in one.node)):
        del part.metadata_props[:]  # lines and paths of the code
    entry = proto.metadata_props.add()
    entry.key, entry.value = "subspect", json.dumps(about, ensure_ascii=False)
    data = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return data, lambda x: torch.from_numpy(session.run(None, {"pixels": x.numpy()})[0])


def _times(runs: Sequence[Run], pixels: Tensor) -> list[dict[int, float]]:
    """Return the median time of each run, by batch; in turns of some runs each, so that a slow moment meets all."""
    found: list[dict[int, float]] = [{} for _ in runs]
    for batch in BATCHES:
        times: list[list[float]] = [[] for _ in runs]
        for run, taken in list(zip(runs, times, strict=True)) * _TURNS:
            run(pixels[:batch])  # threads of the one before may still be awake
            end = time.perf_counter() + _TURN
            while not taken or time.perf_counter() < end:
                start = time.perf_counter()
                run(pixels[:batch])
                taken.append(time.perf_counter() - start)
        for own, taken in zip(found, times, strict=True):
            own[batch] = statistics.median(taken)
    return found
