"""Options that several commands share, declared once, and how their text is read."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, overload

import typer

from subspect.choosing.options import DRAWS, HOLD_OUT, METHODS, TARGETS, Target
from subspect.choosing.sizes import MEASURES, Auto, Budget, Measure, read_size
from subspect.ground.errors import SubspectError, near

if TYPE_CHECKING:
    from subspect.heads.decomposition import Decomposition
    from subspect.images.preprocessing import Preprocessing
    from subspect.images.sources import Images as OpenedImages
    from subspect.networks.network import Network
    from subspect.studies.study import Study


log = logging.getLogger("subspect")

Spec = Annotated[
    str,
    typer.Argument(
        help="python:path/file.py:callable or python:package.module:callable, which returns the network (its code runs); or "
        "by name timm:NAME, torchvision:NAME, hf:NAME, hf:FOLDER."
    ),
]
ImagesPath = Annotated[
    Path,
    typer.Argument(
        help="A folder of class folders, a flat folder, a CSV with path,label, a Parquet file, a .npy, .npz or .safetensors of "
        "arrays; or by name wds:shards-{000..127}.tar, parquet:FOLDER, hfds:NAME\\[SPLIT], hfds:FOLDER."
    ),
]
StudyPath = Annotated[
    str, typer.Argument(metavar="STUDY", help="Folder of the study, or its address, such as s3://bucket/study.")
]
Output = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="STUDY",
        help="Output: folder of the study, created if needed, or its address, such as s3://bucket/study.",
    ),
]
ClassMap = Annotated[
    str | None,
    typer.Option(
        help="JSON file that maps folder names to class indices; or 'sorted': the folders in sorted order (a data set's "
        "classes in its own) are classes 0, 1, …"
    ),
]
MaxFailed = Annotated[
    float, typer.Option(min=0, max=1, help="Share of images that may be unreadable before the run stops.")
]
Which = Annotated[str | None, typer.Option("--decomposition", help="Name of the decomposition; default: the newest.")]
PerClass = Annotated[bool, typer.Option("--per-class", help="Also print a row for each class.")]
On = Annotated[
    str | None, typer.Option(help="Image set to measure on; default: one that took no part in choosing the features.")
]
AmongGiven = Annotated[
    bool,
    typer.Option(
        "--among-given", help="Predict only among the classes that the images belong to, not among all classes."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Figure = Annotated[Path | None, typer.Option(help="Write the figure to this file (PNG, SVG or PDF).")]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images", help="Where the observed images are now, a path or a name, if they were moved or were in memory."
    ),
]
NoImages = Annotated[
    bool, typer.Option("--no-images", help="Leave all images, texts and links out of the report, for private data.")
]


@dataclass(frozen=True)
class Preparing:
    """How images are prepared, where the network doesn't say it itself."""

    resize: Annotated[str | None, typer.Option(help="Length of the short side in pixels, HEIGHTxWIDTH, or 'none'.")] = (
        None
    )
    crop: Annotated[str | None, typer.Option(help="Side of the centre crop in pixels, HEIGHTxWIDTH, or 'none'.")] = None
    mean: Annotated[
        str | None,
        typer.Option(help="Mean of each channel, of pixels scaled to 0–1, such as 0.485,0.456,0.406; or 'none'."),
    ] = None
    std: Annotated[
        str | None, typer.Option(help="Standard deviation of each channel, such as 0.229,0.224,0.225; or 'none'.")
    ] = None
    interpolation: Annotated[str | None, typer.Option(help="nearest, bilinear (default), bicubic or lanczos.")] = None

    def read(self) -> Preprocessing | None:
        """Return the preprocessing: all four are given, or none, which leaves it to what the network declares."""
        return _preprocessing(self.resize, self.crop, self.mean, self.std, self.interpolation)


_Weights = Annotated[
    Path | None,
    typer.Option(
        help="Weights: a safetensors file, or a checkpoint of tensors and numbers; instead of pretrained ones."
    ),
]
_IgnoreExtra = Annotated[
    list[str] | None,
    typer.Option(help="Tensor in the weights to ignore, or a module with all its tensors; repeatable."),
]


@dataclass(frozen=True)
class Loading:
    """How a network that was named is loaded."""

    weights: _Weights = None
    ignore_extra: _IgnoreExtra = None
    head: Annotated[
        str | None, typer.Option("--head", help="Module name of the head, if it cannot be found automatically.")
    ] = None
    class_names: Annotated[Path | None, typer.Option(help="Text file with the class names, one per line.")] = None

    def load(self, spec: str, preparing: Preparing) -> Network:
        """Load the network, or raise what is wrong with the options."""
        from subspect.ground.memory import keep_freed
        from subspect.networks.naming import load_network

        keep_freed()
        return load_network(
            spec,
            self.weights,
            ignore_extra=self.ignore_extra or (),
            preprocessing=preparing.read(),
            class_names=lines_of(self.class_names),
            head=self.head,
        )


@dataclass(frozen=True)
class Observed:
    """The network of a study again."""

    network: Annotated[
        str, typer.Option("--network", help="The network that was observed, named as for run. Its code runs.")
    ]
    weights: _Weights = None
    ignore_extra: _IgnoreExtra = None

    def load(self) -> Network:
        """Load the network, or raise what is wrong with the options."""
        from subspect.ground.memory import keep_freed
        from subspect.networks.naming import load_network

        keep_freed()
        return load_network(self.network, self.weights, ignore_extra=self.ignore_extra or ())


@dataclass(frozen=True)
class ObservedIfNamed:
    """The network of a study again, if it is named."""

    network: Annotated[
        str | None, typer.Option("--network", help="The network that was observed, named as for run. Its code runs.")
    ] = None
    weights: _Weights = None
    ignore_extra: _IgnoreExtra = None

    def load(self) -> Network | None:
        """Load the network, if it was named, or raise what is wrong with the options."""
        return None if self.network is None else Observed(self.network, self.weights, self.ignore_extra).load()


NOT_NAMED = ObservedIfNamed()


def open_for(observed: Observed | ObservedIfNamed, study: str) -> Study:
    """Open a study; one that has no network is refused where one is named, before that one's code runs."""
    from subspect.studies.same_network import refuse_features_alone
    from subspect.studies.study import Study

    opened = Study.open(study)
    if observed.network is not None:
        refuse_features_alone(opened)
    return opened


Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: cuda if available, else cpu.")]
Workers = Annotated[int, typer.Option(min=0, help="Number of processes that read images; 0: this process reads them.")]


@dataclass(frozen=True)
class Opening:
    """Which images are taken, of all those that are named."""

    outside: Annotated[
        bool, typer.Option("--outside", help="Follow links, and paths in tables, that lead outside the image folder.")
    ] = False
    image_column: Annotated[
        str | None, typer.Option(help="Column, extension or array that holds the images, if several could.")
    ] = None
    label_column: Annotated[
        str | None,
        typer.Option(help="Column, extension or array that holds the labels, if several could; none: no labels."),
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Take a random sample of this many images.")] = None
    limit_per_class: Annotated[
        int | None, typer.Option(min=1, help="Take a random sample of at most this many images of each class.")
    ] = None
    limit_seed: Annotated[int, typer.Option(help="Random seed of the sample.")] = 0

    @overload
    def open(self, path: Path, name: str = ...) -> OpenedImages: ...

    @overload
    def open(self, path: Path | None, name: str = ...) -> OpenedImages | None: ...

    def open(self, path: Path | None, name: str = "images") -> OpenedImages | None:
        """Open the images of a path or a name, if one was given."""
        from subspect.images.opening import open_images

        return None if path is None else open_images(path, name, **vars(self))


@dataclass(frozen=True)
class Running:
    """Where a network runs, and how images reach it."""

    device: Device = None
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 64
    workers: Workers = 0

    def arguments(self) -> dict[str, Any]:
        """Return them as arguments by keyword."""
        return {"device": device_of(self.device), "batch_size": self.batch_size, "workers": self.workers}


RUNNING = Running()


@dataclass(frozen=True)
class Choosing:
    """Which features, how many, with which weights."""

    k: Annotated[
        list[str] | None,
        typer.Option(
            "-k",
            help="Features per class (default 5); mean:5 or mean:5:LEAST:MOST for an average; auto for the fewest within the "
            "tolerance; with --method frequency also a share of the mass, such as 0.5. Repeatable in decompose.",
        ),
    ] = None
    method: Annotated[str, typer.Option(help=f"How features are chosen: {', '.join(METHODS)}.")] = METHODS[0]
    target: Annotated[
        Target,
        typer.Option(help="What the decomposed head approximates: the dense network's probabilities, or the labels."),
    ] = TARGETS[0]
    refit: Annotated[
        bool | None,
        typer.Option(
            "--refit/--no-refit", help="Re-learn the weights of the chosen features; default: with pursuit only."
        ),
    ] = None
    pool: Annotated[
        int | None,
        typer.Option(min=1, help="With pursuit: choose all classes' features from one shared pool of this size."),
    ] = None
    stable: Annotated[
        bool,
        typer.Option(
            "--stable",
            help="With pursuit: among features that explain nearly as much, prefer those that other images would give, too.",
        ),
    ] = False
    ternary: Annotated[
        bool,
        typer.Option(
            "--ternary",
            help="With pursuit: readable weights, -1, 0 or +1, times a scale per class, divided by a scale per feature.",
        ),
    ] = False
    draws: Annotated[
        int | None,
        typer.Option(
            help="With pursuit: repeat the choice on this many random halves of the images, to see how stable it is: an even "
            f"number from 4 to 1,000, or 0 for none. Default: {DRAWS}; none with fewer than 3 images a class."
        ),
    ] = None
    tolerance: Annotated[float, typer.Option(help="With -k auto: the largest acceptable loss, as a share.")] = (
        Auto.tolerance
    )
    measure: Annotated[Measure, typer.Option(help="With -k auto: whether the loss is of fidelity or of accuracy.")] = (
        MEASURES[0]
    )
    most: Annotated[int, typer.Option(min=1, help="With -k auto: the most features a class may get.")] = Auto.most
    hold_out: Annotated[
        float,
        typer.Option(
            help="Share of the images held out to measure the cost on, if there is no other image set; 0: none."
        ),
    ] = HOLD_OUT

    def sizes(self, promise: str | None = None) -> list[Budget]:
        """Return the numbers of features that were asked for."""
        return [size_of(one, Auto(self.tolerance, self.measure, promise, self.most)) for one in self.k or ["5"]]

    def arguments(self) -> dict[str, Any]:
        """Return all but the numbers of features as arguments by keyword."""
        names = ("method", "target", "refit", "pool", "stable", "ternary", "draws", "hold_out")
        return {name: getattr(self, name) for name in names}


def _preprocessing(
    resize: str | None, crop: str | None, mean: str | None, std: str | None, interpolation: str | None
) -> Preprocessing | None:
    """Read the preprocessing options: all four, or none, which leaves it to what the network declares."""
    from subspect.images.preprocessing import Preprocessing, as_preprocessing

    given: dict[str, Any] = {}
    for name, text in (("resize", resize), ("crop", crop)):
        if text is not None:
            given[name] = _pixels(name, text)
    for name, text in (("mean", mean), ("std", std)):
        if text is not None:
            given[name] = _numbers(name, text)
    if interpolation is not None:
        given["interpolation"] = interpolation
    read = as_preprocessing(given) if given else None
    assert read is None or isinstance(read, Preprocessing)  # a mapping makes nothing else
    return read


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


def size_of(text: str, auto: Auto) -> Budget:
    """Read a number of features: 5, 0.5, mean:5, mean:5:LEAST:MOST or auto."""
    try:
        read = read_size(text)
        return auto if read == "auto" else read
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            "-k must be a whole number, auto, mean:5, mean:5:LEAST:MOST, or a share of the mass between 0 and 1; got "
            f"{text[:100]!r}{near(text, ['auto', 'mean:5'])}"
        ) from error


def lines_of(path: Path | None) -> list[str] | None:
    """Read the lines of a text file, if one was given; blank ones are left out."""
    from subspect.ground.files import read_text

    if path is None:
        return None
    return [line.strip() for line in read_text(path, "class names from").splitlines() if line.strip()]


def entry_of(text: str) -> tuple[str, str]:
    """Read CLASS:FEATURE; a feature whose name has a colon goes by its index."""
    name, colon, feature = text.rpartition(":")
    if not colon or not feature:
        raise SubspectError(f"--drop takes CLASS:FEATURE, each by name or index; got {text[:100]!r}")
    return name, feature


def loaded_from(study: Study, name: str | None) -> Decomposition:
    """Load a decomposition, and say which where the newest of several was taken."""
    from subspect.studies.decompositions import load_decomposition

    loaded = load_decomposition(study, name)
    if name is None and len(study.decomposition_names) > 1:
        log.info("using %s, the newest decomposition in %s (--decomposition names another)", loaded.name, study.path)
    return loaded


def device_of(name: str | None) -> str:
    """Return the device that was named, or cuda where there is one."""
    import torch

    return name or ("cuda" if torch.cuda.is_available() else "cpu")
