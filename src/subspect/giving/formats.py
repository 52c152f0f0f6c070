"""The files themselves: ONNX by PyTorch's dynamo exporter and ``torch.export`` programs."""

from __future__ import annotations

import copy
import io
import json
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from subspect.giving.options import OPSET, Format
from subspect.ground.errors import SubspectError
from subspect.heads.head import DecomposedHead, convolved

_DENSER = 8  # a class with more than 1/8 of the features makes a gather as long as a dense product
_SOURCE = ("stack_trace", "from_node", "source_fn_stack")  # of a program's nodes: lines and paths of the network's code
Run = Callable[[Tensor], Tensor]


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


class _Convolution(nn.Linear):
    """A 1×1 convolution in as many dimensions as its input has."""

    def forward(self, input: Tensor) -> Tensor:
        return convolved(input, self.weight, self.bias)


def kind_of(head: DecomposedHead) -> Literal["gather", "dense"]:
    """Return how an ONNX file computes a decomposed head: by gathering features, or by a dense product."""
    largest = int(head.offsets.diff().max())
    fits = not head.convolution and 0 < largest * _DENSER <= head.in_features
    return "gather" if fits and head.kernel_for(64) != "dense" else "dense"


def onnx_head(head: DecomposedHead) -> nn.Module:
    """Return a decomposed head in the form that an ONNX file holds."""
    head = copy.deepcopy(head).cpu().float()
    if kind_of(head) == "gather":
        return _Gather(head)
    made = (_Convolution if head.convolution else nn.Linear)(head.in_features, head.out_features)
    made.weight.data = head.dense_weight().detach()
    made.bias.data = head.bias.detach().clone()
    return made


def made_as(
    model: nn.Module, format: Format, pixels: Tensor, about: Mapping[str, Any], opset: int
) -> tuple[bytes, Run]:
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


def onnx_run(model: nn.Module, pixels: Tensor) -> Run:
    """Return how a network runs in ONNX Runtime.

    Args:
        model: the network.
        pixels: (n, …) images, two or more.

    Raises:
        SubspectError: it can't be exported.
    """
    return made_as(copy.deepcopy(model).eval(), "onnx", pixels, {}, OPSET)[1]


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
