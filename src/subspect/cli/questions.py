"""Questions of a study and its decompositions."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from subspect.asking.options import FIDELITY, POINTS, REPEATS, SHARE
from subspect.cli.app import command
from subspect.cli.options import (
    NOT_NAMED,
    AsJson,
    Figure,
    Images,
    Loading,
    Observed,
    ObservedIfNamed,
    On,
    Opening,
    PerClass,
    Preparing,
    Running,
    StudyPath,
    Which,
    loaded_from,
    only_with,
    open_for,
)
from subspect.cli.printing import draw, show, show_values
from subspect.ground.errors import SubspectError
from subspect.swapping.options import SAMPLE


@command("Questions")
def explain(
    study: StudyPath,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    observed: Observed,
    decomposition: Which = None,
    against: Annotated[str | None, typer.Option(help="Class to explain against; default: the runner-up.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Output: folder for a figure (PNG) of each image.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain the prediction for single images: which features speak for the predicted class, and which against it.

    Example: subspect explain study cat.jpg --network python:model.py:make --weights model.safetensors -o explained
    """
    from subspect.asking.explain import explain as why
    from subspect.asking.one_image import open_picture
    from subspect.ground.files import make_folder

    opened = open_for(observed, study)
    loaded = loaded_from(opened, decomposition)
    if against is not None:
        loaded.label(against)  # before the network is loaded
    if output is not None:
        make_folder(output)
    pictures = [open_picture(image) for image in images]  # each is one, before the network runs on any
    network = observed.load()
    made = [
        why(opened, loaded, network=network, image=picture, against=against, name=name) for picture, name in pictures
    ]
    drawn = [f"{one.name} → {one.save(output)}" for one in made] if output is not None else []
    tables = [table for one in made for table in one.tables()]
    show_values([one.to_json() for one in made], as_json, *tables, *drawn)


@command("Questions", engine=True)
def cues(
    study: StudyPath,
    observed: Observed,
    running: Running,
    decomposition: Which = None,
    cue: Annotated[
        list[str] | None,
        typer.Option(
            "--cue",
            help="Name of a cue, or python:path/file.py:callable that returns one (its code runs); repeatable; default: all.",
        ),
    ] = None,
    sample: Annotated[int, typer.Option(min=2, help="Number of images, spread over the classes.")] = SAMPLE,
    on: Annotated[
        str | None, typer.Option(help="Image set; default: the one that the features were chosen on.")
    ] = None,
    images: Images = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace cues that were stored before, measured on other images.")
    ] = False,
    label: Annotated[
        str | None,
        typer.Option("--class", help="Also print one class, feature by feature; the figure then shows that class."),
    ] = None,
    figure: Figure = None,
    as_json: AsJson = False,
) -> None:
    """Measure what each class rests on: border, corners, colour, brightness, texture, the arrangement of parts, and more.

    Each of these cues is swapped with that of an image of another class, and the network runs again: by how much does each
    class's margin (its logit less the strongest other) shrink, and through which features? What is measured is kept in the
    study; run the same command again to resume.

    Example: subspect cues study --network python:model.py:make --weights model.safetensors --sample 20 --figure cues.png
    """
    from subspect.ground.drawing import check_figure
    from subspect.swapping.cues import cues as measure_cues
    from subspect.swapping.naming import cues_named

    check_figure(figure)
    opened = open_for(observed, study)
    loaded = loaded_from(opened, decomposition)
    index = None if label is None else loaded.label(label)
    asked = cues_named(cue)
    made = measure_cues(
        opened,
        loaded,
        network=observed.load(),
        cues=asked,
        sample=sample,
        on=on,
        images=images,
        seed=seed,
        replace=replace,
        **running.arguments(),
    )
    draw(made.plot if index is None else partial(made.plot_class, index), figure)
    show(made, as_json, *([] if index is None else made.class_tables(index)))


@command("Questions")
def check(
    study: StudyPath,
    observed: ObservedIfNamed = NOT_NAMED,
    decomposition: Which = None,
    on: On = None,
    images: Images = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Code of a check to leave out; repeatable.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 if anything is found; skipped checks count as passed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List what somebody should look at: classes that rest on a shortcut, doubtful features, suspect labels, and more.

    Each finding has a code, which stays the same, and says what to do. To judge what classes rest on, run `subspect cues`
    first; the preprocessing is checked only with --network.

    Example: subspect check study --ignore F202 --ignore F203
    """
    from subspect.checking.check import check as check_study

    opened = open_for(observed, study)
    loaded = loaded_from(opened, decomposition)
    made = check_study(opened, loaded, network=observed.load(), images=images, on=on, ignore=ignore or ())
    show(made, as_json)
    if strict and made.found:
        raise typer.Exit(1)


@command("Questions")
def compare(
    study: StudyPath,
    first: Annotated[str, typer.Argument(help="Class name or index.")],
    second: Annotated[str, typer.Argument(help="Another class.")],
    decomposition: Which = None,
    on: On = None,
    figure: Figure = None,
    as_json: AsJson = False,
) -> None:
    """Compare two classes: features that they share, features that tell them apart, images confused between them.

    Example: subspect compare study cat dog
    """
    from subspect.asking.compare import compare as compare_classes
    from subspect.ground.drawing import check_figure
    from subspect.studies.study import Study

    check_figure(figure)
    opened = Study.open(study)
    loaded = loaded_from(opened, decomposition)
    made = compare_classes(opened, loaded, first=first, second=second, on=on)
    draw(made.plot, figure)
    show(made, as_json)


@command("Questions")
def diff(
    first: StudyPath,
    second: Annotated[str, typer.Argument(metavar="STUDY", help="Another study, on the same images.")],
    decomposition: Which = None,
    other: Annotated[
        str | None, typer.Option("--other", help="Name of the second study's decomposition; default: the newest.")
    ] = None,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Compare two studies: another network, or the same one after retraining, on the same images.

    Example: subspect diff study retrained
    """
    from subspect.asking.diff import diff as compare_studies
    from subspect.studies.study import Study

    studies = Study.open(first), Study.open(second)
    one, two = loaded_from(studies[0], decomposition), loaded_from(studies[1], other)
    show(compare_studies(studies[0], one, other=two, on=on), as_json)


@command("Questions")
def selectivity(
    study: StudyPath,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layers", help="Name of a layer, or features; repeatable; default: all."),
    ] = None,
    on: Annotated[str, typer.Option(help="Image set to measure on.")] = "train",
    k: Annotated[int, typer.Option("-k", min=1, help="Influential units per class.")] = 5,
    share: Annotated[float, typer.Option(help="Share of an image's total activation, for Ψ; between 0 and 1.")] = SHARE,
    per_class: PerClass = False,
    figure: Figure = None,
    as_json: AsJson = False,
) -> None:
    """Measure how class-specific the features and layers are: Ψ, class selectivity, what classes share.

    Ψ: share of the units that an image doesn't need to reach a share of its total activation (arXiv 2112.07719). μ of a unit:
    (largest class mean − mean of the others) / their sum (Leavitt & Morcos 2020). Mutual information and overlap compare
    the classes' k units that are most often among an image's k largest.

    Layers other than the features must have been stored: subspect observe … --layers all.

    Example: subspect selectivity study -k 5
    """
    from subspect.asking.selectivity import selectivity as measure_selectivity
    from subspect.ground.drawing import check_figure
    from subspect.studies.study import Study

    check_figure(figure)
    made = measure_selectivity(Study.open(study), layers=layer, on=on, k=k, share=share)
    draw(made.plot, figure)
    show(made, as_json, *(made.class_tables() if per_class else []))


@command("Questions")
def essentiality(
    study: StudyPath,
    decomposition: Which = None,
    on: On = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="How often noise, random sets and random orders are drawn.")
    ] = REPEATS,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    figure: Figure = None,
    as_json: AsJson = False,
) -> None:
    """Replace the influential features of each class by noise, their mean or zero, then all others, then random ones.

    Shows how the dense network's accuracy on each class changes when features of a decomposition are replaced (arXiv
    2112.07719, section 4). The paper's features are those of: subspect decompose study --method frequency -k 5.

    Example: subspect essentiality study --decomposition frequency-k5
    """
    from subspect.asking.essentiality import essentiality as measure_essentiality
    from subspect.ground.drawing import check_figure
    from subspect.studies.study import Study

    check_figure(figure)
    opened = Study.open(study)
    made = measure_essentiality(opened, loaded_from(opened, decomposition), on=on, repeats=repeats, seed=seed)
    draw(made.plot, figure)
    show(made, as_json)


@command("Questions")
def geometry(
    study: StudyPath,
    decomposition: Which = None,
    on: Annotated[
        str | None, typer.Option(help="Image set to measure on; default: test if there is one, else train.")
    ] = None,
    points: Annotated[
        int, typer.Option(min=50, help="Number of images to estimate intrinsic dimensions from.")
    ] = POINTS,
    figure: Figure = None,
    as_json: AsJson = False,
) -> None:
    """Measure the dimensions of the features and of the decision.

    Decision dimension: the fewest directions that the features can be projected on with 99 % of the decisions kept. Dimensions
    of the features: participation ratio, principal components, TwoNN (Facco et al. 2017), maximum likelihood (Levina & Bickel
    2005).

    Example: subspect geometry study --figure dimensions.png
    """
    from subspect.asking.geometry import geometry as measure_geometry
    from subspect.ground.drawing import check_figure
    from subspect.studies.study import Study

    check_figure(figure)
    opened = Study.open(study)
    loaded = loaded_from(opened, decomposition) if decomposition or opened.decomposition_names else None
    made = measure_geometry(opened, loaded, on=on, points=points)
    draw(made.plot, figure)
    show(made, as_json)


@command("Questions")
def depth(
    context: typer.Context,
    preparing: Preparing,
    opening: Opening,
    running: Running,
    output: Annotated[Path, typer.Option("-o", "--output", help="Output: folder for a study of each network.")],
    networks: Annotated[
        list[str] | None, typer.Argument(help="NETWORK or NETWORK=WEIGHTS, named as for run; of at least two depths.")
    ] = None,
    train: Annotated[Path | None, typer.Option(help="Images to choose the features on.")] = None,
    test: Annotated[
        Path | None, typer.Option(help="Images to measure on; default: a share of the images is held out.")
    ] = None,
    digits: Annotated[
        bool,
        typer.Option("--digits", help="Train a family on handwritten digits instead: six depths, three seeds."),
    ] = False,
    fidelity: Annotated[
        float, typer.Option(help="Fidelity that the number of features a class needs is for; between 0 and 1.")
    ] = FIDELITY,
    figure: Figure = None,
    as_json: AsJson = False,
) -> None:
    """Measure how depth changes the number of features a class needs, and the dimensions of features and decision, in a family.

    Run the same command again to resume after an interruption.

    Examples: subspect depth --digits -o digits --figure depth.png | subspect depth python:nets.py:small=small.safetensors
    python:nets.py:large=large.safetensors --train images/train --test images/test -o family
    """
    from subspect.asking.depth import depth as set_against_depth
    from subspect.demo import digits_family
    from subspect.ground.drawing import check_figure
    from subspect.ground.threads import one_thread

    check_figure(figure)
    if digits:
        only_with(context, "networks, not with --digits", "train", "test")
        if networks:
            raise SubspectError("--digits trains a family of its own; leave out the networks, or --digits")
        family, train, test = digits_family(output), output / "images" / "train", output / "images" / "test"
    else:
        if train is None:
            raise SubspectError(
                "name the images on which features are chosen: --train (or --digits for a family of ours)"
            )
        family = {}
        for text in networks or ():
            spec, _, weights = text.partition("=")
            name = Path(weights).stem or spec.rpartition(":")[2]
            if name in family:
                raise SubspectError(
                    f"two networks are called {name!r}; give one of them another file of weights, or callable, by "
                    "which networks are called"
                )
            family[name] = Loading(Path(weights) if weights else None).load(spec, preparing)
    with one_thread() if digits else nullcontext():
        made = set_against_depth(
            family,
            opening.open(train, "train"),
            output,
            test=opening.open(test, "test"),
            fidelity=fidelity,
            **running.arguments(),
        )
    draw(made.plot, figure)
    show(made, as_json)
