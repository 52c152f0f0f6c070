"""Options that several commands share, declared once, and how their text is read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subspect.choosing.options import METHODS, Target
from subspect.choosing.sizes import Auto, Mean, Measure, Size
from subspect.ground.errors import SubspectError

if TYPE_CHECKING:
    from subspect.heads.decomposition import Decomposition
    from subspect.images.sources import Images
    from subspect.networks.network import Network
    from subspect.studies.study import Study


log = logging.getLogger("subspect")

NetworkName = Annotated[
    str, typer.Argument(help="python:package.module:callable or python:path/file.py:callable. Its code is run.")
]
ImagesPath = Annotated[Path, typer.Argument(help="A folder of class folders, a flat folder, or a CSV with path,label.")]
StudyPath = Annotated[Path, typer.Argument(help="The study's folder.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="The study's folder; made if need be.")]
Weights = Annotated[Path | None, typer.Option(help="Safetensors, or a checkpoint with tensors alone.")]
IgnoreExtra = Annotated[
    list[str] | None,
    typer.Option(help="Tensors of the weights to leave out, by the name of one or of a module; may be repeated."),
]
HeadName = Annotated[str | None, typer.Option("--head", help="The head's module name, where it can't be found.")]
Names = Annotated[Path | None, typer.Option(help="A text file with the network's class names, one a line.")]
ClassMap = Annotated[str | None, typer.Option(help="JSON file, folder name → class index; 'sorted' for sorted order.")]
Resize = Annotated[str | None, typer.Option(help="Pixels of the short side, HEIGHTxWIDTH, or 'none'.")]
Crop = Annotated[str | None, typer.Option(help="Pixels of the centre square, HEIGHTxWIDTH, or 'none'.")]
Means = Annotated[
    str | None, typer.Option(help="Of each channel on pixels scaled to 0…1, such as 0.485,0.456,0.406, or 'none'.")
]
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


def network_of(
    spec: str,
    weights: Path | None,
    ignore_extra: list[str] | None,
    head: str | None,
    names: Path | None,
    given: tuple[str | None, ...],
) -> Network:
    """Load the network that the options name, or raise what is wrong with them."""
    from subspect.networks.naming import load_network

    return load_network(
        spec,
        weights,
        ignore_extra=ignore_extra or (),
        preprocessing=_preprocessing(*given),
        class_names=lines_of(names),
        head=head,
    )


def images_of(path: Path | None, outside: bool, name: str = "images") -> Images | None:
    """Open the images of a path, if one was given."""
    from subspect.images.opening import open_images

    return None if path is None else open_images(path, name, outside=outside)


def _preprocessing(
    resize: str | None, crop: str | None, mean: str | None, std: str | None, interpolation: str | None
) -> object:
    """Read the preprocessing options: all four, or none, which leaves it to what the network declares."""
    from subspect.images.preprocessing import as_preprocessing

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


def _numbers(name: str, text: str) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.split(",")) if text.lower() != "none" else None
    except ValueError as error:
        raise SubspectError(
            f"--{name} must be numbers with commas, such as 0.485,0.456,0.406, or 'none'; got {text!r}"
        ) from error


def only_with(context: typer.Context, what: str, *options: str) -> None:
    """Refuse options that were given on the command line and would have no effect."""
    sources = {name: context.get_parameter_source(name) for name in options}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        shown = ", ".join("-k" if name == "k" else f"--{name.replace('_', '-')}" for name in given)
        raise SubspectError(f"{shown} {'goes' if len(given) == 1 else 'go'} with {what}")


def size_of(text: str, auto: Auto) -> Size:
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


def lines_of(path: Path | None) -> list[str] | None:
    """Read the lines of a text file, if one was given; blank ones are left out."""
    from subspect.ground.files import read_text

    if path is None:
        return None
    return [line.strip() for line in read_text(path, "class names from").splitlines() if line.strip()]


def entry_of(text: str) -> tuple[str, int]:
    """Read CLASS:FEATURE."""
    name, colon, feature = text.rpartition(":")
    if not colon or not feature.isdecimal() or len(feature) > 9:
        raise SubspectError(
            f"--drop takes CLASS:FEATURE, a class name or index and a feature's number; got {text[:100]!r}"
        )
    return name, int(feature)


def loaded_from(study: Study, name: str | None) -> Decomposition:
    """Load a decomposition, and say which where the newest of several was taken."""
    from subspect.studies.decompositions import decomposition_names, load_decomposition

    loaded = load_decomposition(study, name)
    if name is None and len(decomposition_names(study)) > 1:
        log.info("%s: %s, the newest decomposition (--decomposition names another)", study.path, loaded.name)
    return loaded


def device_of(name: str | None) -> str:
    """Return the device that was named, or cuda where there is one."""
    import torch

    return name or ("cuda" if torch.cuda.is_available() else "cpu")
