"""Which filters of each layer decide the classes: a question that takes many options."""

from __future__ import annotations

from typing import Annotated

import typer

from subspect.cli.app import command
from subspect.cli.options import (
    AsJson,
    Device,
    Figure,
    Images,
    Observed,
    Running,
    StudyPath,
    Which,
    Workers,
    loaded_from,
    open_for,
)
from subspect.cli.printing import draw, show
from subspect.tracing.options import ABLATE, ABLATE_SAMPLE, BATCH, REPEATS, SAMPLE, SHARE


@command("Questions", engine=True)
def filters(
    study: StudyPath,
    observed: Observed,
    device: Device = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch; gradients take memory.")] = BATCH,
    workers: Workers = 0,
    decomposition: Which = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help="Look at this class alone, and print its filters; repeatable; default: all classes."
        ),
    ] = None,
    share: Annotated[float, typer.Option(help="Share of a class's effect in a layer that its filters hold.")] = SHARE,
    sample: Annotated[int, typer.Option(min=1, help="Number of images, spread over the classes.")] = SAMPLE,
    ablate: Annotated[
        int,
        typer.Option(
            min=0,
            help="Filters of each class and layer to take away in earnest: the first so many, and as many others.",
        ),
    ] = ABLATE,
    ablate_sample: Annotated[int, typer.Option(min=1, help="Number of images to do that on.")] = ABLATE_SAMPLE,
    repeats: Annotated[
        int, typer.Option(min=0, help="How often random filters are drawn to compare with; 0: not at all.")
    ] = REPEATS,
    on: Annotated[
        str | None, typer.Option(help="Image set; default: the one that the features were chosen on.")
    ] = None,
    images: Images = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace filters that were stored before, measured on other images.")
    ] = False,
    figure: Figure = None,
    as_json: AsJson = False,
) -> None:
    """Find out which filters of each layer decide each class: channels of convolutions, and hidden units.

    Effect of a filter: what a class's margin (its decomposed logit less the strongest other) changes by, to first order, with
    the filter at its mean. Some filters are also taken away in earnest, to see how far that holds, which takes longer than the
    rest; --ablate 0 --repeats 0 leaves it out. What is found is kept in the study; run the same command again to resume.

    Example: subspect filters study --network python:model.py:make --weights model.safetensors --sample 20 --class cat
    """
    from subspect.ground.drawing import check_figure
    from subspect.tracing.filters import filters as find_filters

    check_figure(figure)
    opened = open_for(observed, study)
    loaded = loaded_from(opened, decomposition)
    classes = [loaded.label(one) for one in label or ()]
    made = find_filters(
        opened,
        loaded,
        network=observed.load(),
        classes=classes or None,
        share=share,
        sample=sample,
        ablate=ablate,
        ablate_sample=ablate_sample,
        repeats=repeats,
        on=on,
        images=images,
        seed=seed,
        replace=replace,
        **Running(device, batch_size, workers).arguments(),
    )
    draw(made.plot, figure)
    show(made, as_json, *(table for one in classes for table in made.class_tables(one)))
