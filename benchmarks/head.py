"""What the decomposed head costs to run, beside dense heads: time, bytes and multiplications.

For C classes, batches and k features of each class, d = 2,048: `DecomposedHead` against `nn.Linear` in float32 and in bfloat16,
the gather of arXiv 2112.07719's own code (``x[:, indices]``, multiply, sum), and ONNX Runtime's dense layer; medians of
alternating rounds, with one thread and with all. Then what share of a whole network's time its dense head takes, for ResNet-50
(random weights, 224 pixels) and EfficientNet-Lite0. On a GPU with --device cuda; the bars are those of one thread on a CPU.
Needs onnx, onnxruntime and efficientnet_lite_pytorch (the extra "benchmarks"). Ten minutes on two cores that do nothing else.

Example: python benchmarks/head.py --json head.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from _resnet50 import resnet50
from _rows import Row, publish, row
from subspect import DecomposedHead, Supports

D = 2048
CLASSES, BATCHES, KS = (10, 100, 1000, 21841), (1, 32, 256), (5, 20, 50)
BARS = {(1000, 1): 2.0, (1000, 32): 8.0, (1000, 256): 4.0, (21841, 1): 6.0, (21841, 32): 15.0, (21841, 256): 7.0}
BFLOAT16 = 2.5  # × faster than a dense head in bfloat16, at every batch from 32 on that has a bar
MOST = 3e8  # numbers that the gather may write; beyond, it is left out


@dataclass(frozen=True)
class Shape:
    """One head at one batch: times in seconds, None for what was left out."""

    threads: int
    classes: int
    batch: int
    k: int
    kernel: str
    linear: float
    bfloat16: float
    gather: float | None
    onnxruntime: float | None
    decomposed: float
    dense_bytes: int
    decomposed_bytes: int
    dense_multiplications: int
    decomposed_multiplications: int


def main() -> int:
    """Measure, print, and return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES, help="numbers of classes")
    parser.add_argument("--json", type=Path, help="write the rows and all times to this file")
    parser.add_argument("--seconds", type=float, default=0.3, help="at least so long for each head and shape")
    arguments = parser.parse_args()
    cpu, every = arguments.device == "cpu", torch.get_num_threads()
    shapes, rows = [], []
    for threads in sorted({1, every}) if cpu else [every]:
        torch.set_num_threads(threads)
        found = [
            measure(classes, batch, k, threads, arguments.device, arguments.seconds)
            for classes in arguments.classes
            for k in KS
            for batch in BATCHES
        ]
        show(found, f"{threads} thread{'s' * (threads > 1)}" if cpu else torch.cuda.get_device_name())
        shapes += found
        rows += judged(found, threads) if cpu else []
        rows += shares(threads, arguments.device)
    torch.set_num_threads(every)
    good = publish("The decomposed head", rows, arguments.json)
    if arguments.json is not None:
        whole = {"rows": json.loads(arguments.json.read_text()), "shapes": [asdict(one) for one in shapes]}
        arguments.json.write_text(json.dumps(whole, indent=1) + "\n")
    return 0 if good else 1


def measure(classes: int, batch: int, k: int, threads: int, device: str, seconds: float) -> Shape:
    """Time one shape."""
    generator = torch.Generator().manual_seed(0)
    supports = Supports([torch.randperm(D, generator=generator)[:k].tolist() for _ in range(classes)], D)
    weights, bias = torch.randn(classes * k, generator=generator), torch.randn(classes, generator=generator)
    head = DecomposedHead(supports, weights, bias).to(device).eval().requires_grad_(False)
    linear = nn.Linear(D, classes, device=device).requires_grad_(False)
    half = nn.Linear(D, classes, device=device, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(batch, D, generator=generator).to(device)
    x_half, places, table = x.bfloat16(), head.indices.view(classes, k).long(), head.weights.view(classes, k)
    runs: dict[str, Callable[[], object]] = {
        "linear": lambda: linear(x),
        "bfloat16": lambda: half(x_half),
        "decomposed": lambda: head(x),
    }
    if batch * classes * k <= MOST:
        runs["gather"] = lambda: (x[:, places] * table).sum(-1) + head.bias
    if device == "cpu":
        runs["onnxruntime"] = in_onnxruntime(linear, x, threads)
    with torch.inference_mode():
        for said in (head(x), (x[:, places] * table).sum(-1) + head.bias if "gather" in runs else head(x)):
            torch.testing.assert_close(
                said, nn.functional.linear(x, head.dense_weight(), head.bias), rtol=1e-3, atol=1e-3
            )
        times = medians(runs, device, seconds)
        kernel = head.kernel_for(batch)
    held = (head.weights, head.indices, head.offsets, head.bias)
    return Shape(
        threads=threads,
        classes=classes,
        batch=batch,
        k=k,
        kernel=kernel,
        **{name: times.get(name) for name in ("linear", "bfloat16", "gather", "onnxruntime", "decomposed")},  # type: ignore[arg-type]
        dense_bytes=sum(part.nbytes for part in (linear.weight, linear.bias)),
        decomposed_bytes=sum(part.nbytes for part in held),
        dense_multiplications=classes * D,
        decomposed_multiplications=classes * (D if kernel == "dense" else k),
    )


def in_onnxruntime(linear: nn.Linear, x: Tensor, threads: int) -> Callable[[], object]:
    """Return a run of a dense layer in ONNX Runtime."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    numbers = TensorProto.FLOAT
    weight = numpy_helper.from_array(linear.weight.numpy().T.copy(), "w")
    bias = numpy_helper.from_array(linear.bias.numpy(), "b")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", numbers, ["n", D])],
        [helper.make_tensor_value_info("y", numbers, ["n", linear.out_features])],
        [weight, bias],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {"x": x.numpy()}
    np.testing.assert_allclose(session.run(None, given)[0], linear(x).numpy(), rtol=1e-2, atol=1e-2)
    return lambda: session.run(None, given)


def medians(runs: dict[str, Callable[[], object]], device: str, seconds: float) -> dict[str, float]:
    """Return the median time of each run, in rounds that alternate, so that a slow moment of the machine meets all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
        run()
    end = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, run in runs.items():
            round_end = time.perf_counter() + seconds / 10
            while True:
                start = time.perf_counter()
                run()
                if device != "cpu":
                    torch.cuda.synchronize()
                times[name].append(time.perf_counter() - start)
                if time.perf_counter() > round_end:
                    break
    return {name: statistics.median(values) for name, values in times.items()}


def show(shapes: Sequence[Shape], title: str) -> None:
    """Print a table: times, and how many times faster than each other head the decomposed one is."""
    table = Table(title=f"d = {D:,}, {title}; × : times as fast as", title_justify="left")
    for column in ("C", "k", "batch", "kernel", "linear, µs", "decomposed, µs", "× linear", "× bfloat16", "× gather"):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for column in ("× ORT dense", "kB", "dense kB", "multiplications", "dense"):
        table.add_column(column, justify="right")
    for one in shapes:
        others = (one.linear, one.bfloat16, one.gather, one.onnxruntime)
        times = (f"{other / one.decomposed:.2f}" if other is not None else "–" for other in others)
        sizes = (f"{size / 1000:,.0f}" for size in (one.decomposed_bytes, one.dense_bytes))
        counts = (f"{count:,}" for count in (one.decomposed_multiplications, one.dense_multiplications))
        about = (f"{one.classes:,}", str(one.k), str(one.batch), one.kernel)
        micro = (f"{1e6 * value:,.1f}" for value in (one.linear, one.decomposed))
        table.add_row(*about, *micro, *times, *sizes, *counts)
    Console(width=170).print(table)


def judged(shapes: Sequence[Shape], threads: int) -> list[Row]:
    """Hold what was measured to its bars."""
    rows: list[Row] = []
    for one in shapes:
        what = f"{threads} thread{'s' * (threads > 1)}, C = {one.classes:,}, batch {one.batch}, k = {one.k}"
        bar = BARS.get((one.classes, one.batch))
        if threads == 1 and bar is not None and one.k != 20:
            rows += row(f"{what}: times as fast as float32", one.linear / one.decomposed, "×", f">= {bar}")
            if one.batch >= 32:
                rows += row(f"{what}: as bfloat16", one.bfloat16 / one.decomposed, "×", f">= {BFLOAT16}")
    slower = [one.decomposed - max(1.05 * one.linear, one.linear + 5e-6) for one in shapes]
    rows += row(
        f"{threads} threads: shapes slower than 1.05 × float32 and 5 µs more", sum(s > 0 for s in slower), "", "<= 0"
    )
    return rows


def shares(threads: int, device: str) -> list[Row]:
    """What the head is of a whole network's time, a single image and a batch of 32."""
    from efficientnet_lite_pytorch import EfficientNet

    rows: list[Row] = []
    lite: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    for name, network, d in (("ResNet-50", resnet50(), 2048), ("EfficientNet-Lite0", lite, 1280)):
        network = network.to(device).eval().requires_grad_(False)
        linear = nn.Linear(d, 1000, device=device).requires_grad_(False)
        for batch in (1, 32):
            pixels, x = torch.randn(batch, 3, 224, 224, device=device), torch.randn(batch, d, device=device)
            with torch.inference_mode():
                times = medians(
                    {
                        "network": lambda network=network, pixels=pixels: network(pixels),  # type: ignore[misc]
                        "head": lambda linear=linear, x=x: linear(x),  # type: ignore[misc]
                    },
                    device,
                    2.0,
                )
            what = f"{threads} thread{'s' * (threads > 1)}, {name}, batch {batch}: the dense head of 1,000 classes"
            rows += row(f"{what}, of {1000 * times['network']:.1f} ms", 100 * times["head"] / times["network"], "%")
    return rows


if __name__ == "__main__":
    sys.exit(main())
