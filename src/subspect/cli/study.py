"""What fills a study, and what it holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from subspect.choosing.options import METHODS, TARGETS
from subspect.choosing.sizes import MEASURES, Auto
from subspect.cli.app import command
from subspect.cli.options import (
    AsJson,
    BatchSize,
    Classes,
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
    NetworkOption,
    NoImages,
    On,
    Output,
    Outside,
    Pool,
    Resize,
    Std,
    StudyPath,
    TargetName,
    Tolerance,
    Weights,
    Which,
    WithRefit,
    Workers,
    device_of,
    images_of,
    loaded_from,
    network_of,
    only_with,
    size_of,
)
from subspect.cli.printing import show_result


@command("A study")
def observe(
    network: NetworkName,
    images: ImagesPath,
    output: Output,
    name: Annotated[str, typer.Option(help="What the image set is called in the study.")] = "train",
    weights: Weights = None,
    ignore_extra: IgnoreExtra = None,
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
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            help="A layer to keep besides the features, averaged over space; may be repeated; or all: every convolution and "
            "linear layer but the head.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the network once over an image set and store its features in a study.

    Example: subspect observe python:model.py:make images/test -o study --name test --weights model.safetensors
    """
    from subspect.report.terminal import overview
    from subspect.studies.decompositions import decomposition_names
    from subspect.studies.observe import observe as run_once

    study = run_once(
        network_of(network, weights, ignore_extra, head, class_names, (resize, crop, mean, std, interpolation)),
        images_of(images, outside, name),
        output,
        name,
        batch_size=batch_size,
        workers=workers,
        device=device_of(device),
        class_map=class_map,
        max_failed=max_failed,
        layers=tuple(layer or ()),
    )
    show_result(study.to_json(), as_json, overview(study, decomposition_names(study)))


@command("A study")
def decompose(
    context: typer.Context,
    study: StudyPath,
    k: Ks = ["5"],  # noqa: B006 (typer wants the list itself)
    method: Method = METHODS[0],
    supports: Annotated[Path | None, typer.Option(help="An index file (class → features) instead of a method.")] = None,
    name: Annotated[
        str | None, typer.Option(help="With --supports: what to call it; as the file unless given.")
    ] = None,
    target: TargetName = TARGETS[0],
    refit: WithRefit = None,
    pool: Pool = None,
    tolerance: Tolerance = Auto.tolerance,
    measure: MeasureName = MEASURES[0],
    most: Most = Auto.most,
    promise: Annotated[
        str | None,
        typer.Option(help="With -k auto: the image set, that the network never saw, to promise the loss on."),
    ] = None,
    on: Annotated[str | None, typer.Option(help="The image set to choose on; 'train' unless given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the few features that decide each class, for one or more k in one pass.

    Examples: subspect decompose study -k 5 -k 10 -k 20 | subspect decompose study -k auto --tolerance 0.05 --promise unseen
    | subspect decompose study --method frequency -k 0.5
    """
    from subspect.choosing.decompose import decompose_by_file, decompose_each
    from subspect.measuring.fidelity import evaluate as cost_of
    from subspect.report.terminal import summary
    from subspect.studies.study import Study

    if "auto" not in k:
        only_with(context, "-k auto", "tolerance", "measure", "most", "promise")
    opened, auto = Study.open(study), Auto(tolerance, measure, promise, most)
    if supports is not None:
        only_with(
            context, "a method, not with --supports", "k", "method", "pool", "tolerance", "measure", "most", "promise"
        )
        made = [decompose_by_file(opened, supports, on=on, name=name, target=target, refit=bool(refit))]
    else:
        only_with(context, "--supports", "name")
        sizes = [size_of(one, auto) for one in k]
        made = decompose_each(opened, sizes, method, on=on, target=target, refit=refit, pool=pool)
    measured = [cost_of(opened, decomposition) for decomposition in made]
    tables = [summary(*pair) for pair in zip(made, measured, strict=True)]
    rows = [
        {"decomposition": decomposition.to_json(), "fidelity": fidelity.to_json()}
        for decomposition, fidelity in zip(made, measured, strict=True)
    ]
    show_result(rows, as_json, *tables)


@command("A study")
def evaluate(
    study: StudyPath,
    decomposition: Which = None,
    on: On = None,
    classes: Classes = False,
    as_json: AsJson = False,
) -> None:
    """Measure what a decomposition costs: accuracy, fidelity, divergence, with 95 % intervals.

    Example: subspect evaluate study --on test --classes
    """
    from subspect.measuring.fidelity import evaluate as cost_of
    from subspect.studies.study import Study

    opened = Study.open(study)
    fidelity = cost_of(opened, loaded_from(opened, decomposition), on)
    show_result(fidelity.to_json(), as_json, fidelity.table(), *([fidelity.class_table()] if classes else []))


@command("A study")
def report(
    context: typer.Context,
    study: StudyPath,
    decomposition: Which = None,
    on: On = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The HTML file; STUDY/report.html.")] = None,
    images: Annotated[Path | None, typer.Option(help="Where the images that features were chosen on are now.")] = None,
    network: NetworkOption = None,
    weights: Weights = None,
    ignore_extra: IgnoreExtra = None,
    no_images: NoImages = False,
    as_json: AsJson = False,
) -> None:
    """Write the report of a decomposition: one HTML file, with more than 60 classes also a folder of pages beside it.

    With --network it shows where in an image each feature is active.

    Examples: subspect report study --network python:model.py:make --weights model.safetensors
    | subspect report study --no-images -o shared.html
    """
    from subspect.measuring.fidelity import evaluate as cost_of
    from subspect.networks.naming import load_network
    from subspect.report import check_report, write_report
    from subspect.studies.study import Study

    if network is None:
        only_with(context, "--network", "weights", "ignore_extra")
    if no_images:
        only_with(context, "images, not with --no-images", "network", "weights", "images")
    opened = Study.open(study)
    loaded = loaded_from(opened, decomposition)
    check_report(output or opened.path / "report.html", opened.identity.n_classes)
    model = load_network(network, weights, ignore_extra=ignore_extra or ()) if network is not None else None
    cost = cost_of(opened, loaded, on)
    path = write_report(opened, loaded, cost, output, images=not no_images, source=images, network=model)
    show_result({"report": str(path)}, as_json, f"report: {path}")


@command("A study")
def show(
    study: StudyPath,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="A class name or index; may be repeated.")
    ] = None,
    decomposition: Which = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the curve of cost against k into this file (PNG, SVG, PDF).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a study holds and what its features cost, or the features of some classes.

    Examples: subspect show study --figure curve.svg | subspect show study --class cat --class dog
    """
    from subspect.report.curve_file import write_curve
    from subspect.report.terminal import curve_table, features, overview
    from subspect.studies.decompositions import decomposition_names
    from subspect.studies.study import Study

    opened = Study.open(study)
    known = decomposition_names(opened)
    loaded = loaded_from(opened, decomposition) if known or decomposition or classes or figure else None
    if figure is not None and loaded is not None:
        write_curve(loaded, figure)
    if not classes or loaded is None:
        points = loaded.curve if loaded is not None else ()
        curve = [curve_table(loaded)] if loaded is not None and loaded.curve else []
        value = {
            **opened.to_json(),
            "decompositions": known,
            "curve": [asdict(point) for point in points],
        }
        show_result(value, as_json, overview(opened, known), *curve)
        return
    labels = [loaded.label(name) for name in classes]
    value = {"decomposition": loaded.name, "classes": [loaded.class_json(label) for label in labels]}
    show_result(value, as_json, *(features(loaded, label) for label in labels))


@command("A study")
def verify(
    study: StudyPath,
    write: Annotated[
        bool, typer.Option("--write", help="Give a study of an earlier version its checksums, if all else is right.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every file of a study against its checksum, and what they say against each other.

    Ends with exit code 1 where something is damaged, missing or not the study's own.

    Example: subspect verify study
    """
    from subspect.studies.verify import verify as verify_study

    made = verify_study(study, write=write)
    show_result(made.to_json(), as_json, *made.tables())
    if not made.sound:
        raise typer.Exit(1)
