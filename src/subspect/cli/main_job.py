"""The main job, and the same on an embedded example."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subspect.cli.app import command
from subspect.cli.options import (
    AmongGiven,
    AsJson,
    Choosing,
    ClassMap,
    ImagesPath,
    Loading,
    MaxFailed,
    NoImages,
    Opening,
    Output,
    Preparing,
    Running,
    Spec,
    only_with,
)
from subspect.cli.printing import show, show_job
from subspect.ground.errors import SubspectError


@command("The main job", engine=True)
def run(
    context: typer.Context,
    network: Spec,
    images: ImagesPath,
    output: Output,
    loading: Loading,
    preparing: Preparing,
    opening: Opening,
    choosing: Choosing,
    running: Running,
    test: Annotated[
        Path | None, typer.Option(help="Images to measure the cost on; default: a share of the images is held out.")
    ] = None,
    promise: Annotated[
        Path | None,
        typer.Option(
            help="With -k auto: images that the network has never seen, from which a bound on the loss is promised."
        ),
    ] = None,
    class_map: ClassMap = None,
    max_failed: MaxFailed = 0.01,
    no_images: NoImages = False,
    among_given: AmongGiven = False,
    as_json: AsJson = False,
) -> None:
    """The main job: run the network over the images, find the features that decide each class, write the report.

    Does what observe, decompose, evaluate and report do one by one.

    Run the same command again to resume after an interruption.

    Example: subspect run python:model.py:make images/train --test images/test -o study -k 5 --weights model.safetensors
    --resize 256 --crop 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
    """
    from subspect.job import run as main_job

    wanted = choosing.k or ["5"]
    if len(wanted) > 1:
        raise SubspectError(
            f"run takes one k, got {', '.join(wanted)}; for more: subspect decompose {output} -k {' -k '.join(wanted)}"
        )
    if "auto" not in wanted:
        only_with(context, "-k auto", "tolerance", "measure", "most", "promise")
    [k] = choosing.sizes()
    made = main_job(
        loading.load(network, preparing),
        opening.open(images, "train"),
        output,
        test=opening.open(test, "test"),
        promise=opening.open(promise, "promise"),
        k=k,
        class_map=class_map,
        max_failed=max_failed,
        show_images=not no_images,
        among_given=among_given,
        **choosing.arguments(),
        **running.arguments(),
    )
    show_job(made, as_json)


@command("The main job")
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Output: a folder for everything.")] = Path(
        "subspect-demo"
    ),
    k: Annotated[int, typer.Option("-k", min=1, help="Features per class.")] = 5,
    as_json: AsJson = False,
) -> None:
    """The main job on a built-in example: a small network trained on handwritten digits; nothing is downloaded.

    Example: subspect demo -o subspect-demo
    """
    from subspect.demo import NETWORK, run_demo

    made = run_demo(output, k=k)
    command = f"subspect run {NETWORK} {output}/images/train --test {output}/images/test -o {output}/study"
    show_job(made, as_json, f"the same by hand: {command} --weights {output}/weights.safetensors")


@command("The main job")
def doctor(as_json: AsJson = False) -> None:
    """Show what is installed: versions, devices, and which extra is missing for what.

    Example: subspect doctor
    """
    from subspect.networks.doctor import doctor as look

    show(look(), as_json)
