"""What fills a study, and what it holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from subspect.cli.app import command
from subspect.cli.options import (
    NOT_NAMED,
    AmongGiven,
    AsJson,
    Choosing,
    ClassMap,
    Figure,
    Images,
    ImagesPath,
    Loading,
    MaxFailed,
    NoImages,
    ObservedIfNamed,
    On,
    Opening,
    Output,
    PerClass,
    Preparing,
    Running,
    Spec,
    StudyPath,
    Which,
    lines_of,
    loaded_from,
    only_with,
    open_for,
)
from subspect.cli.printing import draw, log, show_values
from subspect.cli.printing import show as show_made
from subspect.ground.errors import SubspectError, as_called
from subspect.studies.options import Keep


@command("A study", engine=True)
def observe(
    network: Spec,
    images: ImagesPath,
    output: Output,
    loading: Loading,
    preparing: Preparing,
    opening: Opening,
    running: Running,
    name: Annotated[str, typer.Option(help="Name of the image set in the study.")] = "train",
    class_map: ClassMap = None,
    max_failed: MaxFailed = 0.01,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            help="Layer to store besides the features, averaged over space; repeatable; all: every convolution and linear "
            "layer but the head.",
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="N/OF",
            help="Fill one part of the set, such as 3/16, when several processes share the study; the last one to end "
            "completes the set.",
        ),
    ] = None,
    keep: Annotated[
        Keep,
        typer.Option(
            help="What to store: the features of all images; or, where these take too much disk, statistics of all images and "
            "the features of a sample."
        ),
    ] = "features",
    as_json: AsJson = False,
) -> None:
    """Run the network once over an image set and store its features in a study.

    Example: subspect observe python:model.py:make images/test -o study --name test --weights model.safetensors
    """
    from subspect.studies.observe import observe as run_once

    made = run_once(
        loading.load(network, preparing),
        opening.open(images, name),
        output,
        name,
        class_map=class_map,
        max_failed=max_failed,
        layers=tuple(layer or ()),
        part=part,
        keep=keep,
        **running.arguments(),
    )
    show_made(made, as_json)


@command("A study")
def features(
    features: Annotated[
        Path,
        typer.Argument(
            help="Features: .npy, .npz, .safetensors, .parquet or .arrow; all but .npy also with label, id, text and link."
        ),
    ],
    head: Annotated[
        Path,
        typer.Option(
            "--head", help="The linear head: weight and bias in .npz or .safetensors, or a .skops classifier."
        ),
    ],
    output: Output,
    name: Annotated[str, typer.Option(help="Name of the set in the study.")] = "train",
    labels: Annotated[
        Path | None, typer.Option(help="Labels: .npy, or text with a class index or class name per line.")
    ] = None,
    class_names: Annotated[Path | None, typer.Option(help="Text file with the class names, one per line.")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Texts to show for the rows: one per line, or a JSON list in .json.")
    ] = None,
    links: Annotated[
        Path | None, typer.Option(help="Links to show for the rows: one https:// address per line.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a study from stored features and the linear head that reads them, without a network or images.

    The features may be of text, audio or tables; every command works on them that needs no images. No pickle is opened.

    Example: subspect features features.npy --head head.npz -o texts --labels labels.txt --class-names topics.txt
    """
    from subspect.studies.feature_files import as_indices, read_features, read_head, read_labels, read_lines
    from subspect.studies.features import from_features
    from subspect.studies.name_features import compare_names

    found, linear, names = read_features(features), read_head(head), lines_of(class_names)
    for what, path, held in (
        ("labels", labels, found.labels),
        ("texts", texts, found.texts),
        ("links", links, found.links),
    ):
        if path is not None and held is not None:
            raise SubspectError(f"{features} holds {what} itself, and --{what} gives others; give one of them")
    for column, what in found.taken.items():
        log.info("%s: the column %r is taken as %s; if it is a feature, rename it", features, column, what)
    compare_names(found.feature_names, linear.feature_names, f"the head {head}")
    given = found.labels if labels is None else read_labels(labels)
    made = from_features(
        found.features,
        linear.weight,
        linear.bias,
        output,
        name,
        labels=as_indices(given, linear, names),
        class_names=names if names is not None else linear.classes,
        ids=found.ids,
        feature_names=found.feature_names or linear.feature_names or None,
        texts=found.texts if texts is None else read_lines(texts, "texts"),
        links=found.links if links is None else read_lines(links, "links"),
    )
    show_made(made, as_json)


@command("A study", engine=True)
def decompose(
    context: typer.Context,
    study: StudyPath,
    choosing: Choosing,
    supports: Annotated[Path | None, typer.Option(help="JSON file of class → features, instead of a method.")] = None,
    name: Annotated[
        str | None, typer.Option(help="With --supports: name of the decomposition; default: that of the file.")
    ] = None,
    promise_on: Annotated[
        str | None,
        typer.Option(
            help="With -k auto: image set that the network has never seen, from which a bound on the loss is promised."
        ),
    ] = None,
    on: Annotated[str | None, typer.Option(help="Image set to choose the features on; default: train.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the few features that decide each class, for one or more k in one pass.

    Examples: subspect decompose study -k 5 -k 10 -k 20 | subspect decompose study -k auto --tolerance 0.05 --promise-on unseen
    | subspect decompose study --method frequency -k 0.5
    """
    from subspect.choosing.decompose import decompose_by_file, decompose_each
    from subspect.measuring.fidelity import evaluate as cost_of
    from subspect.report.terminal import summary
    from subspect.studies.study import Study

    auto_only = ("tolerance", "measure", "most", "promise_on")
    if "auto" not in (choosing.k or ()):
        only_with(context, "-k auto", *auto_only)
    opened = Study.open(study)
    if supports is not None:
        only_with(
            context, "a method, not with --supports", "k", "method", "pool", "stable", "ternary", "draws", *auto_only
        )
        one = decompose_by_file(
            opened,
            supports,
            on=on,
            name=name,
            target=choosing.target,
            refit=bool(choosing.refit),
            hold_out=choosing.hold_out,
        )
        made = [one]
    else:
        only_with(context, "--supports", "name")
        made = decompose_each(opened, choosing.sizes(promise_on), on=on, **choosing.arguments())
    pairs = [(decomposition, cost_of(opened, decomposition)) for decomposition in made]
    rows = [{"decomposition": one.to_json(), "fidelity": cost.to_json()} for one, cost in pairs]
    show_values(rows, as_json, *(summary(*pair) for pair in pairs))


@command("A study", engine=True)
def evaluate(
    study: StudyPath,
    decomposition: Which = None,
    on: On = None,
    per_class: PerClass = False,
    among_given: AmongGiven = False,
    figure: Figure = None,
    as_json: AsJson = False,
) -> None:
    """Measure what a decomposition costs: accuracy, fidelity, divergence, with 95 % intervals.

    Examples: subspect evaluate study --on test --per-class | subspect evaluate study --on test --among-given
    """
    from subspect.ground.drawing import check_figure
    from subspect.measuring.fidelity import evaluate as cost_of
    from subspect.studies.study import Study

    check_figure(figure)
    opened = Study.open(study)
    fidelity = cost_of(opened, loaded_from(opened, decomposition), on=on, among_given=among_given)
    draw(fidelity.plot, figure)
    show_made(fidelity, as_json, *(fidelity.class_tables() if per_class else []))


@command("A study")
def report(
    context: typer.Context,
    study: StudyPath,
    decomposition: Which = None,
    on: On = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Output: HTML file; default: STUDY/report.html.")
    ] = None,
    images: Images = None,
    observed: ObservedIfNamed = NOT_NAMED,
    no_images: NoImages = False,
    among_given: AmongGiven = False,
    as_json: AsJson = False,
) -> None:
    """Write the report of a decomposition: one HTML file; with more than 60 classes also a folder of pages beside it.

    With --network it shows where in an image each feature is active.

    Examples: subspect report study --network python:model.py:make --weights model.safetensors
    | subspect report study --no-images -o shared.html
    """
    from subspect.measuring.fidelity import evaluate as cost_of
    from subspect.report import check_report, write_report

    if observed.network is None:
        only_with(context, "--network", "weights", "ignore_extra")
    if no_images:
        only_with(context, "images, not with --no-images", "network", "weights", "images")
    opened = open_for(observed, study)
    loaded = loaded_from(opened, decomposition)
    check_report(output or opened.path / "report.html", opened.identity.n_classes)
    model, cost = observed.load(), cost_of(opened, loaded, on=on, among_given=among_given)
    path = write_report(
        opened, loaded, fidelity=cost, path=output, show_images=not no_images, images=images, network=model
    )
    name = as_called(str(path))
    show_values({"report": name}, as_json, f"report: {name}")


@command("A study")
def show(
    study: StudyPath,
    classes: Annotated[list[str] | None, typer.Option("--class", help="Class name or index; repeatable.")] = None,
    decomposition: Which = None,
    figure: Figure = None,
    as_json: AsJson = False,
) -> None:
    """Show what a study holds and what its features cost, or the features of some classes.

    Examples: subspect show study --figure curve.svg | subspect show study --class cat --class dog
    """
    from subspect.ground.tables import Table
    from subspect.heads.feature_names import names_json
    from subspect.heads.shown import curve_table, features
    from subspect.report.curve_file import write_curve
    from subspect.studies.study import Study
    from subspect.swapping.moved import class_told, cues_json, cues_told, losses_json
    from subspect.swapping.stored import kept_cues

    opened = Study.open(study)
    known = opened.decomposition_names
    loaded = loaded_from(opened, decomposition) if known or decomposition or classes or figure else None
    if figure is not None and loaded is not None:
        write_curve(loaded, figure)
        log.info("figure: %s", figure)
    if not classes or loaded is None:
        points = loaded.curve if loaded is not None else ()
        curve = [curve_table(loaded)] if loaded is not None and loaded.curve else []
        cues = kept_cues(opened, loaded) if loaded is not None else None
        told = [cues_told(opened, loaded, cues)] if loaded is not None else []
        value = {**opened.to_json(), "curve": [asdict(point) for point in points], "cues": cues_json(cues)}
        show_values(value, as_json, *opened.tables(), *curve, *told)
        return
    labels, cues = [loaded.label(name) for name in classes], kept_cues(opened, loaded)
    named = names_json(loaded.names_of(*labels))
    value = {
        "decomposition": loaded.name,
        "classes": [loaded.class_json(label) for label in labels],
        "lost_through": [losses_json(cues, loaded, label) for label in labels],
        "feature_names": named,
    }
    shown: list[Table | str] = []
    for label in labels:
        shown += [features(loaded, label, legend=label == labels[-1]), *class_told(cues, loaded, label)]
    show_values(value, as_json, *shown)


@command("A study")
def name(
    study: StudyPath,
    feature: Annotated[str | None, typer.Argument(help="A feature: its index, or its present name.")] = None,
    given: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Its new name.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="JSON file: feature, by its index or name → new name, or null to remove it; or a list of all features' names."
        ),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the feature's name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give features names, which are then shown wherever the features are; or list the names there are.

    Examples: subspect name study 12 whiskers | subspect name study --file names.json | subspect name study
    """
    from subspect.studies.name_features import changes, kept_names, name_features, read_names
    from subspect.studies.study import Study

    opened = Study.open(study)
    if (feature is not None) + (file is not None) > 1 or (feature is not None) != ((given is None) == remove):
        raise SubspectError(
            "name features by one of: FEATURE NAME; FEATURE --remove, which removes its name; --file FILE; or give none "
            "of these, to list the names that there are"
        )
    before = kept_names(opened)
    if file is None and feature is None:
        show_made(before, as_json)
        return
    made = name_features(opened, read_names(file)) if file is not None else opened.name_feature(feature or "", given)
    log.info("%s", changes(before.names, made.names))
    show_values(made.to_json(), as_json)


@command("A study")
def verify(
    study: StudyPath,
    write: Annotated[
        bool, typer.Option("--write", help="Add checksums to a study of an earlier version, if nothing is wrong.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every file of a study against its checksum, and the files against each other.

    The exit code is 1 if anything is damaged or missing, or doesn't belong to the study.

    Example: subspect verify study
    """
    from subspect.checking.verify import verify as verify_study

    made = verify_study(study, write=write)
    show_made(made, as_json)
    if not made.sound:
        raise typer.Exit(1)
