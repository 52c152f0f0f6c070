"""The command line: one thin function for each command.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 something given cannot be used (the message
says what to do), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from rich.console import Console
from rich.text import Text

import subspect
from subspect.asking.compare import Comparison
from subspect.asking.compare import compare as compare_classes
from subspect.asking.depth import FIDELITY, Depth
from subspect.asking.depth import depth as set_against_depth
from subspect.asking.diff import diff as compare_studies
from subspect.asking.essentiality import REPEATS, Essentiality
from subspect.asking.essentiality import essentiality as measure_essentiality
from subspect.asking.explain import explain as why
from subspect.asking.explain import open_picture
from subspect.asking.geometry import POINTS, Geometry
from subspect.asking.geometry import geometry as measure_geometry
from subspect.asking.selectivity import SHARE
from subspect.asking.selectivity import selectivity as measure_selectivity
from subspect.choosing.boundary import TARGETS, Target
from subspect.choosing.decompose import METHODS, decompose_by_file, decompose_each
from subspect.choosing.sizes import MEASURES, Auto, Mean, Measure, Size
from subspect.demo import NETWORK, digits_family, run_demo
from subspect.giving.edit import edit as edit_features
from subspect.giving.export import check_path
from subspect.giving.export import export as export_to
from subspect.giving.formats import FORMATS, OPSET, SMALL, Format
from subspect.giving.retrain import Both, retrain_both
from subspect.giving.specialise import Specialised
from subspect.giving.specialise import specialise as make_smaller
from subspect.giving.tradeoff import Tradeoff
from subspect.giving.tradeoff import tradeoff as weigh_up
from subspect.giving.training import Optimiser, Settings
from subspect.ground.drawing import check_figure, save_figure
from subspect.ground.errors import SubspectError
from subspect.ground.files import make_folder, read_text
from subspect.ground.tables import Table
from subspect.ground.text import legible, to_json
from subspect.heads.decomposition import Decomposition
from subspect.images.opening import open_images
from subspect.images.preprocessing import as_preprocessing
from subspect.images.sources import Images
from subspect.job import Job
from subspect.job import run as main_job
from subspect.measuring.fidelity import evaluate as cost_of
from subspect.networks.naming import load_network
from subspect.networks.network import Network
from subspect.report import check_report, write_report
from subspect.report.curve_file import write_curve
from subspect.report.terminal import curve_table, features, overview, summary
from subspect.studies.decompositions import decomposition_names, load_decomposition
from subspect.studies.observe import observe as run_once
from subspect.studies.study import Study
from subspect.studies.verify import verify as verify_study

app = typer.Typer(
    name="subspect",
    help="Which few features decide each class of a trained image classifier?",
    epilog="Exit codes: 0 done; 1 something given cannot be used; 2 wrong usage; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out, err = (Console(stderr=stderr, emoji=False, markup=False, highlight=False) for stderr in (False, True))

NetworkName = Annotated[
    str, typer.Argument(help="python:package.module:callable or python:path/file.py:callable. Its code is run.")
]
ImagesPath = Annotated[Path, typer.Argument(help="A folder of class folders, a flat folder, or a CSV with path,label.")]
StudyPath = Annotated[Path, typer.Argument(help="The study's folder.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="The study's folder; made if need be.")]
Weights = Annotated[Path | None, typer.Option(help="Safetensors, or a checkpoint with tensors alone.")]
HeadName = Annotated[str | None, typer.Option("--head", help="The head's module name, where it can't be found.")]
Names = Annotated[Path | None, typer.Option(help="A text file with the network's class names, one a line.")]
ClassMap = Annotated[str | None, typer.Option(help="JSON file, folder name → class index; 'sorted' for sorted order.")]
Resize = Annotated[str | None, typer.Option(help="Pixels of the short side, HEIGHTxWIDTH, or 'none'.")]
Crop = Annotated[str | None, typer.Option(help="Pixels of the centre square, HEIGHTxWIDTH, or 'none'.")]
Means = Annotated[str | None, typer.Option(help="Of each channel on pixels scaled to 0…1, such as 0.485,0.456,0.406.")]
Std = Annotated[str | None, typer.Option(help="Likewise.")]
Interpolation = Annotated[str | None, typer.Option(help="nearest, bilinear (unless given), bicubic or lanczos.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; cuda unless given, where there is one.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in a batch of the network.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read images; 0 reads them in this one.")]
MaxFailed = Annotated[float, typer.Option(min=0, max=1, help="Share of images that may be unusable.")]
Ks = Annotated[
    list[str],
    typer.Option(
        "-k",
        help="Features for each class: 5; mean:5 or mean:5:LEAST:MOST for a mean; auto for the fewest that keep the "
        "tolerance; with frequency also a share of the mass, as 0.5.",
    ),
]
Method = Annotated[str, typer.Option(help=f"How features are chosen: {', '.join(METHODS)}.")]
TargetName = Annotated[Target, typer.Option(help="What the decomposed head is to come close to.")]
WithRefit = Annotated[
    bool | None, typer.Option("--refit/--no-refit", help="Re-learn the weights; with pursuit only, unless given.")
]
Pool = Annotated[int | None, typer.Option(min=1, help="Features there are for all classes together; with pursuit.")]
Tolerance = Annotated[float, typer.Option(help="With -k auto: the share of fidelity or accuracy that may be lost.")]
MeasureName = Annotated[Measure, typer.Option(help="With -k auto: what the tolerance is of.")]
Most = Annotated[int, typer.Option(min=1, help="With -k auto: no class gets more features.")]
Which = Annotated[str | None, typer.Option("--decomposition", help="Its name; the newest unless given.")]
Classes = Annotated[bool, typer.Option("--classes", help="Also a row for each class.")]
On = Annotated[str | None, typer.Option(help="The image set; one that took no part in the choice unless given.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
NetworkOption = Annotated[
    str | None, typer.Option("--network", help="The network that was observed, as for run. Its code is run.")
]
Observed = Annotated[str, typer.Option("--network", help="The network that was observed, as for run. Its code is run.")]
ToCheck = Annotated[
    Path | None, typer.Option("--images", help="Real images to check with; those that were observed unless given.")
]
Outside = Annotated[
    bool, typer.Option("--outside", help="Follow links and CSV paths that lead out of the folder of the images given.")
]
NoImages = Annotated[bool, typer.Option("--no-images", help="Leave images out of the report, for private data.")]


log = logging.getLogger("subspect")


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command whose errors become one line on stderr and an exit code."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (SubspectError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise  # whoever read our output has seen enough
            if isinstance(error, OSError):
                _let_go_of_stdout()
            err.print(Text.assemble(("error: ", "bold red"), legible(_said(error))), soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            goes_on = (
                ", and the same command goes on from there" if function.__name__ in ("run", "observe", "demo") else ""
            )
            err.print(f"interrupted; what was stored stays{goes_on}")
            raise typer.Exit(130) from error

    return app.command(no_args_is_help=function.__name__ != "demo")(guarded)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(subspect.__version__)
        raise typer.Exit


@app.callback()
def _setup(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors on stderr.")] = False,
) -> None:
    handler = _ToStderr()
    handler.setFormatter(_Formatter())
    logger = logging.getLogger("subspect")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.WARNING if quiet else logging.INFO)


class _ToStderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what stderr is at the moment, so that a progress bar can make way for a message."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        return prefix + legible(record.getMessage())


@_command
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
    if len(k) > 1:
        raise SubspectError(
            f"run takes one k, got {', '.join(k)}; for more: subspect decompose {output} -k {' -k '.join(k)}"
        )
    if "auto" not in k:
        _only_with(context, "-k auto", "tolerance", "measure", "most", "promise")
    loaded = _network(network, weights, head, class_names, (resize, crop, mean, std, interpolation))
    made = main_job(
        loaded,
        _images(images, outside, "train"),
        output,
        test=_images(test, outside, "test"),
        promise=_images(promise, outside, "promise"),
        k=_size(k[0], Auto(tolerance, measure, None, most)),
        method=method,
        target=target,
        refit=refit,
        pool=pool,
        class_map=class_map,
        batch_size=batch_size,
        workers=workers,
        device=_device(device),
        max_failed=max_failed,
        show_images=not no_images,
    )
    _show_job(made, as_json)


@_command
def observe(
    network: NetworkName,
    images: ImagesPath,
    output: Output,
    name: Annotated[str, typer.Option(help="What the image set is called in the study.")] = "train",
    weights: Weights = None,
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
    study = run_once(
        _network(network, weights, head, class_names, (resize, crop, mean, std, interpolation)),
        _images(images, outside, name),
        output,
        name,
        batch_size=batch_size,
        workers=workers,
        device=_device(device),
        class_map=class_map,
        max_failed=max_failed,
        layers=tuple(layer or ()),
    )
    _show(study.to_json(), as_json, overview(study, decomposition_names(study)))


@_command
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
    if "auto" not in k:
        _only_with(context, "-k auto", "tolerance", "measure", "most", "promise")
    opened, auto = Study.open(study), Auto(tolerance, measure, promise, most)
    if supports is not None:
        _only_with(
            context, "a method, not with --supports", "k", "method", "pool", "tolerance", "measure", "most", "promise"
        )
        made = [decompose_by_file(opened, supports, on=on, name=name, target=target, refit=bool(refit))]
    else:
        _only_with(context, "--supports", "name")
        sizes = [_size(one, auto) for one in k]
        made = decompose_each(opened, sizes, method, on=on, target=target, refit=refit, pool=pool)
    measured = [cost_of(opened, decomposition) for decomposition in made]
    tables = [summary(*pair) for pair in zip(made, measured, strict=True)]
    rows = [
        {"decomposition": decomposition.to_json(), "fidelity": fidelity.to_json()}
        for decomposition, fidelity in zip(made, measured, strict=True)
    ]
    _show(rows, as_json, *tables)


@_command
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
    opened = Study.open(study)
    fidelity = cost_of(opened, _loaded(opened, decomposition), on)
    _show(fidelity.to_json(), as_json, fidelity.table(), *([fidelity.class_table()] if classes else []))


@_command
def report(
    context: typer.Context,
    study: StudyPath,
    decomposition: Which = None,
    on: On = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The HTML file; STUDY/report.html.")] = None,
    images: Annotated[Path | None, typer.Option(help="Where the images that features were chosen on are now.")] = None,
    network: NetworkOption = None,
    weights: Weights = None,
    no_images: NoImages = False,
    as_json: AsJson = False,
) -> None:
    """Write the report of a decomposition: one HTML file, with more than 60 classes also a folder of pages beside it.

    With --network it shows where in an image each feature is active.

    Examples: subspect report study --network python:model.py:make --weights model.safetensors
    | subspect report study --no-images -o shared.html
    """
    if network is None:
        _only_with(context, "--network", "weights")
    if no_images:
        _only_with(context, "images, not with --no-images", "network", "weights", "images")
    opened = Study.open(study)
    loaded = _loaded(opened, decomposition)
    check_report(output or opened.path / "report.html", opened.identity.n_classes)
    model = load_network(network, weights) if network is not None else None
    cost = cost_of(opened, loaded, on)
    path = write_report(opened, loaded, cost, output, images=not no_images, source=images, network=model)
    _show({"report": str(path)}, as_json, f"report: {path}")


@_command
def show(
    study: StudyPath,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="A class name or index; may be repeated.")
    ] = None,
    decomposition: Which = None,
    figure: Annotated[Path | None, typer.Option(help="Write the curve of cost against k to this SVG file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a study holds and what its features cost, or the features of some classes.

    Examples: subspect show study --figure curve.svg | subspect show study --class cat --class dog
    """
    opened = Study.open(study)
    known = decomposition_names(opened)
    loaded = _loaded(opened, decomposition) if known or decomposition or classes or figure else None
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
        _show(value, as_json, overview(opened, known), *curve)
        return
    labels = [loaded.label(name) for name in classes]
    value = {"decomposition": loaded.name, "classes": [loaded.class_json(label) for label in labels]}
    _show(value, as_json, *(features(loaded, label) for label in labels))


@_command
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
    made = verify_study(study, write=write)
    _show(made.to_json(), as_json, *made.tables())
    if not made.sound:
        raise typer.Exit(1)


@_command
def explain(
    study: StudyPath,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    network: Observed,
    weights: Weights = None,
    decomposition: Which = None,
    against: Annotated[str | None, typer.Option(help="Class to explain against; the runner-up unless given.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A folder for a picture (PNG) of each.")] = None,
    as_json: AsJson = False,
) -> None:
    """Explain what the decomposed network says of single images: which features speak for its class, and which against.

    Example: subspect explain study cat.jpg --network python:model.py:make --weights model.safetensors -o explained
    """
    opened = Study.open(study)
    loaded = _loaded(opened, decomposition)
    if against is not None:
        loaded.label(against)  # before the network is loaded
    if output is not None:
        make_folder(output)
    pictures = [open_picture(image) for image in images]  # each is one, before the network runs on any
    model = load_network(network, weights)
    made = [why(opened, loaded, model, picture, against=against, name=name) for picture, name in pictures]
    drawn = [f"{one.name} → {one.save(output)}" for one in made] if output is not None else []
    _show(
        [one.to_json() for one in made],
        as_json,
        *(one.table() for one in made),
        *drawn,
    )


@_command
def selectivity(
    study: StudyPath,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layers", help="A layer's name, or features; may be repeated; all unless given."),
    ] = None,
    on: Annotated[str, typer.Option(help="The image set.")] = "train",
    k: Annotated[int, typer.Option("-k", min=1, help="Units that are influential for each class.")] = 5,
    share: Annotated[float, typer.Option(help="Of an image's mass, for Ψ; between 0 and 1.")] = SHARE,
    classes: Classes = False,
    as_json: AsJson = False,
) -> None:
    """Measure how class-specific the features and layers are: Ψ, class selectivity, what classes share.

    Ψ: share of the units that an image doesn't need for a share of its mass (arXiv 2112.07719). μ of a unit: (largest class
    mean − mean of the others) / their sum (Leavitt & Morcos 2020). Mutual information, overlap: of the k units that are
    most often among the k largest.

    Layers are kept when they are observed: subspect observe … --layers all.

    Example: subspect selectivity study -k 5
    """
    made = measure_selectivity(Study.open(study), layers=layer, on=on, k=k, share=share)
    _show(made.to_json(), as_json, made.table(), *(made.class_tables() if classes else []))


@_command
def essentiality(
    study: StudyPath,
    decomposition: Which = None,
    on: On = None,
    repeats: Annotated[int, typer.Option(min=1, help="Draws of noise, random sets and random orders.")] = REPEATS,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    figure: Annotated[
        Path | None, typer.Option(help="Draw deletion and insertion curves into this file (PNG, SVG, PDF).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replace the influential features of each class by noise, their mean or zero, then all others, then random ones.

    Class accuracy of the dense network, with those of a decomposition replaced (arXiv 2112.07719, section 4); the paper's are
    those of: subspect decompose study --method frequency -k 5.

    Example: subspect essentiality study --decomposition frequency-k5
    """
    check_figure(figure)
    opened = Study.open(study)
    made = measure_essentiality(opened, _loaded(opened, decomposition), on, repeats=repeats, seed=seed)
    _show_measured(made, as_json, figure)


@_command
def geometry(
    study: StudyPath,
    decomposition: Which = None,
    on: Annotated[str | None, typer.Option(help="The image set; test if there is one, else train.")] = None,
    points: Annotated[int, typer.Option(min=50, help="Images whose intrinsic dimension is taken.")] = POINTS,
    figure: Annotated[
        Path | None, typer.Option(help="Draw fidelity against directions into this file (PNG, SVG, PDF).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure in how many dimensions features and decision lie.

    Decision dimension: the fewest directions that the features can be projected on with 99 % of the decisions kept. Of the
    features: participation ratio, principal components, TwoNN (Facco et al. 2017), maximum likelihood (Levina & Bickel 2005).

    Example: subspect geometry study --figure dimensions.png
    """
    check_figure(figure)
    opened = Study.open(study)
    loaded = _loaded(opened, decomposition) if decomposition or decomposition_names(opened) else None
    made = measure_geometry(opened, loaded, on=on, points=points)
    _show_measured(made, as_json, figure)


@_command
def retrain(
    study: StudyPath,
    images: ImagesPath,
    network: Observed,
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for state, log and weights.")],
    weights: Weights = None,
    decomposition: Which = None,
    test: Annotated[Path | None, typer.Option(help="Images to measure the accuracy on, before and after.")] = None,
    control: Annotated[bool, typer.Option("--control", help="Also train the dense network just as long.")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 3,
    batch_size: Annotated[int, typer.Option(min=2, help="Images in a step.")] = 128,
    optimiser: Annotated[Optimiser, typer.Option(help="SGD with Nesterov momentum, or AdamW.")] = "sgd",
    rate: Annotated[
        float | None, typer.Option(help="Learning rate at the start; 0.01 for sgd, 0.0001 for adamw.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option("--layers", help="A module that learns; may be repeated; all unless given.")
    ] = None,
    shift: Annotated[int, typer.Option(min=0, help="Pixels by which images are moved at random.")] = 0,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror images at random.")] = False,
    class_map: ClassMap = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the images.")] = 0,
    device: Device = None,
    workers: Workers = 0,
    outside: Outside = False,
    as_json: AsJson = False,
) -> None:
    """Train the network with the decomposed head in place; the same command goes on where it was stopped, less a minute.

    Example: subspect retrain study images/train --network python:model.py:make --weights model.safetensors
    --test images/test --control -o retrained
    """
    opened = Study.open(study)
    loaded = _loaded(opened, decomposition)
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        optimiser=optimiser,
        rate=rate,
        layers=tuple(layer or ()),
        shift=shift,
        flip=flip,
        seed=seed,
    )
    model = load_network(network, weights, class_names=opened.identity.class_names)
    made = retrain_both(
        opened,
        loaded,
        model,
        _images(images, outside),
        output,
        settings,
        test=_images(test, outside),
        control=control,
        class_map=class_map,
        workers=workers,
        device=_device(device),
    )
    _show_measured(made, as_json)


@_command
def export(
    context: typer.Context,
    study: StudyPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file; it must not exist.")],
    format: Annotated[
        str | None, typer.Option(help=f"{', '.join(FORMATS)}; told by the file's suffix unless given.")
    ] = None,
    network: NetworkOption = None,
    weights: Weights = None,
    decomposition: Which = None,
    images: ToCheck = None,
    opset: Annotated[int, typer.Option(help="Of ONNX, 18 or later.")] = OPSET,
    as_json: AsJson = False,
) -> None:
    """Write the decomposed network as ONNX or a torch.export program, or the decomposition alone as safetensors.

    A network's file is read back and checked on real images first. Names and preprocessing travel along.

    Example: subspect export study --network python:model.py:make --weights model.safetensors -o model.onnx
    """
    if network is None:
        _only_with(context, "--network", "weights", "images")
    check_path(output, format)
    opened = Study.open(study)
    loaded = _loaded(opened, decomposition)
    model = load_network(network, weights) if network is not None else None
    made = export_to(opened, loaded, output, model, cast("Format | None", format), images=images, opset=opset)
    _show(made.to_json(), as_json, *made.tables(), f"{made.format}: {made.path}")


@_command
def specialise(
    study: StudyPath,
    network: Observed,
    weights: Weights = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="A class to keep, by name or index; may be repeated; all unless given."),
    ] = None,
    listed: Annotated[
        Path | None, typer.Option("--classes", help="A text file with the classes to keep, one a line.")
    ] = None,
    decomposition: Which = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the small network to this file, .onnx or .pt2.")
    ] = None,
    images: ToCheck = None,
    as_json: AsJson = False,
) -> None:
    """Make a smaller network for some classes, without the channels that nothing uses any more.

    Its logits are checked to be those of the decomposed network, on real images.

    Example: subspect specialise study --network python:model.py:make --weights model.safetensors --class cat --class dog
    -o pets.onnx
    """
    if output is not None:
        check_path(output, None, SMALL)
    opened = Study.open(study)
    loaded = _loaded(opened, decomposition)
    named = [*(classes or ()), *(_lines(listed) or ())] if classes or listed is not None else None
    for one in named or ():
        loaded.label(one)  # before the network is loaded
    made = make_smaller(opened, loaded, load_network(network, weights), named, output, images=images)
    _show_measured(made, as_json)


@_command
def tradeoff(
    study: StudyPath,
    network: Observed,
    pools: Annotated[
        list[int], typer.Option("--pool", min=1, help="Features for all classes together; may be repeated.")
    ],
    weights: Weights = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Features for each class.")] = 10,
    refit: Annotated[bool, typer.Option("--refit/--no-refit", help="Re-learn the weights.")] = True,
    images: ToCheck = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw accuracy against multiplications into this file (PNG, SVG, PDF).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set accuracy against the multiplications of the whole network, for several sizes of a shared pool of features.

    The study stays as it is; `subspect decompose --pool` makes the one that you settle on.

    Example: subspect tradeoff study --network python:model.py:make --weights model.safetensors --pool 64 --pool 128 --pool 256
    """
    check_figure(figure)
    made = weigh_up(Study.open(study), load_network(network, weights), pools, k, images=images, refit=refit)
    _show_measured(made, as_json, figure)


@_command
def depth(
    context: typer.Context,
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for a study of each network.")],
    networks: Annotated[
        list[str] | None, typer.Argument(help="NETWORK or NETWORK=WEIGHTS, as for run; two depths or more.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Images on which features are chosen.")] = None,
    test: Annotated[Path | None, typer.Option(help="Images to measure on; else 20 % are set apart.")] = None,
    digits: Annotated[
        bool,
        typer.Option("--digits", help="Train a family on the handwritten digits instead: six depths, three seeds."),
    ] = False,
    fidelity: Annotated[
        float, typer.Option(help="At which the number of features is read; between 0 and 1.")
    ] = FIDELITY,
    figure: Annotated[
        Path | None, typer.Option(help="Draw measures against depth into this file (PNG, SVG, PDF).")
    ] = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: Means = None,
    std: Std = None,
    interpolation: Interpolation = None,
    device: Device = None,
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    outside: Outside = False,
    as_json: AsJson = False,
) -> None:
    """Set what a class needs, and the dimensions of features and decision, against depth, over a family of networks.

    The same command goes on where it was stopped.

    Examples: subspect depth --digits -o digits --figure depth.png | subspect depth python:nets.py:small=small.safetensors
    python:nets.py:large=large.safetensors --images images/train --test images/test -o family
    """
    check_figure(figure)
    if digits:
        _only_with(context, "networks, not with --digits", "images", "test")
        if networks:
            raise SubspectError("--digits trains a family of its own; leave out the networks, or --digits")
        family, images, test = digits_family(output), output / "images" / "train", output / "images" / "test"
    else:
        if images is None:
            raise SubspectError(
                "name the images on which features are chosen: --images (or --digits for a family of ours)"
            )
        given = (resize, crop, mean, std, interpolation)
        family = {}
        for text in networks or ():
            spec, _, weights = text.partition("=")
            name = Path(weights).stem or spec.rpartition(":")[2]
            if name in family:
                raise SubspectError(
                    f"two networks are called {name!r}; weights are called as their file, else as the callable"
                )
            family[name] = _network(spec, Path(weights) if weights else None, None, None, given)
    made = set_against_depth(
        family,
        _images(images, outside, "train"),
        output,
        test=_images(test, outside, "test"),
        fidelity=fidelity,
        batch_size=batch_size,
        workers=workers,
        device=_device(device),
    )
    _show_measured(made, as_json, figure)


@_command
def compare(
    study: StudyPath,
    first: Annotated[str, typer.Argument(help="A class name or index.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    decomposition: Which = None,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Compare two classes: features that they share, features that tell them apart, images confused between them.

    Example: subspect compare study cat dog
    """
    opened = Study.open(study)
    loaded = _loaded(opened, decomposition)
    made = compare_classes(opened, loaded, first, second, on)
    _show_measured(made, as_json)


@_command
def diff(
    first: StudyPath,
    second: Annotated[Path, typer.Argument(help="Another study, of the same images.")],
    decomposition: Which = None,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Compare two studies: another network, or the same one after retraining, on the same images.

    Example: subspect diff study retrained
    """
    studies = Study.open(first), Study.open(second)
    loaded = _loaded(studies[0], decomposition), _loaded(studies[1], decomposition)
    made = compare_studies(*studies, loaded, on)
    _show(made.to_json(), as_json, made.table())


@_command
def edit(
    study: StudyPath,
    drop: Annotated[
        list[str] | None,
        typer.Option(help="CLASS:FEATURE, a feature that the class is to do without; may be repeated."),
    ] = None,
    refit_on: Annotated[str | None, typer.Option(help="The image set to re-learn the other weights on.")] = None,
    target: Annotated[
        Target | None, typer.Option(help="What to re-learn towards; the labels unless given, where there are any.")
    ] = None,
    decomposition: Which = None,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Drop features that shouldn't matter, re-learn the rest if asked, and show what that changes.

    The edited decomposition is stored beside the other, as NAME-edited.

    Example: subspect edit study --drop cat:12 --drop cat:40 --refit-on unmarked
    """
    opened = Study.open(study)
    loaded = _loaded(opened, decomposition)
    pairs = [_entry(text) for text in drop or ()]
    made = edit_features(opened, loaded, pairs, refit_on=refit_on, target=target, on=on)
    _show(made.to_json(), as_json, made.table())


@_command
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Where all of it goes.")] = Path("subspect-demo"),
    k: Annotated[int, typer.Option("-k", min=1, help="Features for each class.")] = 5,
    as_json: AsJson = False,
) -> None:
    """The main job on an embedded example: handwritten digits, a small network trained on the spot, no downloads.

    Example: subspect demo -o subspect-demo
    """
    made = run_demo(output, k=k)
    command = f"subspect run {NETWORK} {output}/images/train --test {output}/images/test -o {output}/study"
    _show_job(made, as_json, f"the same by hand: {command} --weights {output}/weights.safetensors")


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal or a log that knows only ASCII
    app()


def _network(
    spec: str, weights: Path | None, head: str | None, names: Path | None, given: tuple[str | None, ...]
) -> Network:
    return load_network(spec, weights, preprocessing=_preprocessing(*given), class_names=_lines(names), head=head)


def _images(path: Path | None, outside: bool, name: str = "images") -> Images | None:
    return None if path is None else open_images(path, name, outside=outside)


def _preprocessing(
    resize: str | None, crop: str | None, mean: str | None, std: str | None, interpolation: str | None
) -> object:
    """Read the preprocessing options: all four, or none, which leaves it to what the network declares."""
    given: dict[str, Any] = {}
    for name, text in (("resize", resize), ("crop", crop)):
        if text is not None:
            given[name] = _pixels(name, text)
    for name, text in (("mean", mean), ("std", std)):
        if text is not None:
            given[name] = _numbers(name, text)
    if interpolation is not None:
        given["interpolation"] = interpolation
    return as_preprocessing(given) if given else None


def _pixels(name: str, text: str) -> int | tuple[int, ...] | None:
    try:
        numbers = tuple(int(part) for part in text.lower().split("x")) if text.lower() != "none" else ()
    except ValueError as error:
        raise SubspectError(f"--{name} must be a number of pixels, HEIGHTxWIDTH or 'none'; got {text!r}") from error
    return None if not numbers else numbers[0] if len(numbers) == 1 else numbers


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise SubspectError(f"--{name} must be numbers with commas, such as 0.485,0.456,0.406; got {text!r}") from error


def _only_with(context: typer.Context, what: str, *options: str) -> None:
    """Refuse options that were given on the command line and would have no effect."""
    sources = {name: context.get_parameter_source(name) for name in options}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        shown = ", ".join("-k" if name == "k" else f"--{name}" for name in given)
        raise SubspectError(f"{shown} {'goes' if len(given) == 1 else 'go'} with {what}")


def _size(text: str, auto: Auto) -> Size:
    """Read a number of features: 5, 0.5, mean:5, mean:5:LEAST:MOST or auto."""
    word, *numbers = text.split(":")
    try:
        if word == "auto" and not numbers:
            return auto
        if word == "mean" and len(numbers) in (1, 3):
            return Mean(float(numbers[0]), *(int(number) for number in numbers[1:]))
        return int(text) if text.isdecimal() else float(text)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            "-k must be a whole number, auto, mean:5, mean:5:LEAST:MOST, or a share of the mass between 0 and 1; got "
            f"{text[:100]!r}"
        ) from error


def _lines(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    return [line.strip() for line in read_text(path, "class names from").splitlines() if line.strip()]


def _entry(text: str) -> tuple[str, int]:
    """Read CLASS:FEATURE."""
    name, colon, feature = text.rpartition(":")
    if not colon or not feature.isdecimal() or len(feature) > 9:
        raise SubspectError(
            f"--drop takes CLASS:FEATURE, a class name or index and a feature's number; got {text[:100]!r}"
        )
    return name, int(feature)


def _loaded(study: Study, name: str | None) -> Decomposition:
    """Load a decomposition, and say which where the newest of several was taken."""
    loaded = load_decomposition(study, name)
    if name is None and len(decomposition_names(study)) > 1:
        log.info("%s: %s, the newest decomposition (--decomposition names another)", study.path, loaded.name)
    return loaded


def _device(name: str | None) -> str:
    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def _show_job(made: Job, as_json: bool, *lines: str) -> None:
    value = {
        "report": str(made.report),
        "fidelity": made.fidelity.to_json(),
        "decomposition": made.decomposition.to_json(),
    }
    tables = summary(made.decomposition, made.fidelity), made.fidelity.table()
    _show(value, as_json, *tables, f"report: {made.report}", *lines)


def _let_go_of_stdout() -> None:
    """Keep what could not be written from being tried again, with a traceback, when Python ends."""
    with suppress(OSError, ValueError):
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, sys.stdout.fileno())
        os.close(handle)


def _said(error: Exception) -> str:
    """Return what an error says; of the system's errors, such as a full disk behind stdout, what and where."""
    if isinstance(error, OSError) and not isinstance(error, SubspectError):
        return f"{error.filename or 'input or output'}: {error.strerror or error}"
    return str(error)


def _show_measured(
    made: Both | Comparison | Depth | Essentiality | Geometry | Specialised | Tradeoff,
    as_json: bool,
    figure: Path | None = None,
) -> None:
    """Print what was measured, and draw its figure if asked."""
    if figure is not None and not isinstance(made, Both | Comparison | Specialised):
        save_figure(made.plot(), figure)
        log.info("figure: %s", figure)
    file = [f"{made.file.format}: {made.file.path}"] if isinstance(made, Specialised) and made.file else []
    _show(made.to_json(), as_json, *made.tables(), *file)


def _show(value: Any, as_json: bool, *shown: Table | str) -> None:
    """Print the JSON, or the tables and lines."""
    if as_json:
        sys.stdout.write(to_json(value) + "\n")
    else:
        for one in shown:
            out.print(legible(one) if isinstance(one, str) else one, soft_wrap=isinstance(one, str))
    sys.stdout.flush()  # here, where a full disk behind it still has an error message
