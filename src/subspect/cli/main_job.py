"""The main job, and the same on an embedded example."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subspect.choosing.options import METHODS, TARGETS
from subspect.choosing.sizes import MEASURES, Auto
from subspect.cli.app import command
from subspect.cli.options import (
    AsJson,
    BatchSize,
    ClassMap,
    Crop,
    Device,
    HeadName,
    IgnoreExtra,
    ImagesPath,
    Interpolation,
    Ks,
    MaxFailed,
    Means,
    MeasureName,
    Method,
    Most,
    Names,
    NetworkName,
    NoImages,
    Output,
    Outside,
    Pool,
    Resize,
    Std,
    TargetName,
    Tolerance,
    Weights,
    WithRefit,
    Workers,
    device_of,
    images_of,
    network_of,
    only_with,
    size_of,
)
from subspect.cli.printing import show_job
from subspect.ground.errors import SubspectError


@command("The main job")
def run(
    context: typer.Context,
    network: NetworkName,
    images: ImagesPath,
    output: Output,
    test: Annotated[Path | None, typer.Option(help="Images to measure the cost on; else 20 % are set apart.")] = None,
    promise: Annotated[
        Path | None, typer.Option(help="With -k auto: images that the network never saw, to promise the loss on.")
    ] = None,
    weights: Weights = None,
    ignore_extra: IgnoreExtra = None,
    k: Ks = ["5"],  # noqa: B006 (typer wants the list itself)
    method: Method = METHODS[0],
    target: TargetName = TARGETS[0],
    refit: WithRefit = None,
    pool: Pool = None,
    tolerance: Tolerance = Auto.tolerance,
    measure: MeasureName = MEASURES[0],
    most: Most = Auto.most,
    head: HeadName = None,
    class_names: Names = None,
    class_map: ClassMap = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: Means = None,
    std: Std = None,
    interpolation: Interpolation = None,
    device: Device = None,
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    max_failed: MaxFailed = 0.01,
    outside: Outside = False,
    no_images: NoImages = False,
    as_json: AsJson = False,
) -> None:
    """The main job: observe, decompose, evaluate, report.

    The same command goes on where it was stopped.

    Example: subspect run python:model.py:make images/train --test images/test -o study -k 5 --weights model.safetensors
    --resize 256 --crop 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    """
    from subspect.job import run as main_job

    if len(k) > 1:
        raise SubspectError(
            f"run takes one k, got {', '.join(k)}; for more: subspect decompose {output} -k {' -k '.join(k)}"
        )
    if "auto" not in k:
        only_with(context, "-k auto", "tolerance", "measure", "most", "promise")
    loaded = network_of(network, weights, ignore_extra, head, class_names, (resize, crop, mean, std, interpolation))
    made = main_job(
        loaded,
        images_of(images, outside, "train"),
        output,
        test=images_of(test, outside, "test"),
        promise=images_of(promise, outside, "promise"),
        k=size_of(k[0], Auto(tolerance, measure, None, most)),
        method=method,
        target=target,
        refit=refit,
        pool=pool,
        class_map=class_map,
        batch_size=batch_size,
        workers=workers,
        device=device_of(device),
        max_failed=max_failed,
        show_images=not no_images,
    )
    show_job(made, as_json)


@command("The main job")
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Where all of it goes.")] = Path("subspect-demo"),
    k: Annotated[int, typer.Option("-k", min=1, help="Features for each class.")] = 5,
    as_json: AsJson = False,
) -> None:
    """The main job on an embedded example: handwritten digits, a small network trained on the spot, no downloads.

    Example: subspect demo -o subspect-demo
    """
    from subspect.demo import NETWORK, run_demo

    made = run_demo(output, k=k)
    command = f"subspect run {NETWORK} {output}/images/train --test {output}/images/test -o {output}/study"
    show_job(made, as_json, f"the same by hand: {command} --weights {output}/weights.safetensors")
