"""What is handed back changed: edited, retrained, smaller, in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from subspect.choosing.options import Target
from subspect.cli.app import command
from subspect.cli.options import (
    NOT_NAMED,
    RUNNING,
    AsJson,
    ClassMap,
    Device,
    Figure,
    Images,
    ImagesPath,
    Observed,
    ObservedIfNamed,
    On,
    Opening,
    Running,
    StudyPath,
    Which,
    Workers,
    device_of,
    entry_of,
    lines_of,
    loaded_from,
    only_with,
    open_for,
)
from subspect.cli.printing import draw, show
from subspect.giving.options import (
    COPIES,
    FORMATS,
    LEARNED,
    OPSET,
    SMALL,
    WEIGHED,
    FeatureFormat,
    Format,
    Optimiser,
    Teacher,
)
from subspect.ground.errors import SubspectError


@command("Handing on")
def edit(
    context: typer.Context,
    study: StudyPath,
    drop: Annotated[
        list[str] | None,
        typer.Option(help="CLASS:FEATURE, a feature to drop from a class, each by name or index; repeatable."),
    ] = None,
    refit_on: Annotated[
        str | None,
        typer.Option(help="Image set to re-learn the remaining weights on; without it they stay as they are."),
    ] = None,
    target: Annotated[
        Target | None,
        typer.Option(help="What the re-learned weights approximate; default: the labels, if there are any."),
    ] = None,
    without_cue: Annotated[
        list[str] | None,
        typer.Option(
            help="Cue that the weights must not lean on, named as for subspect cues: they are re-learned on the images and on "
            "copies that have this cue from another image; needs --network; repeatable."
        ),
    ] = None,
    observed: ObservedIfNamed = NOT_NAMED,
    reselect: Annotated[
        bool, typer.Option("--reselect", help="With --without-cue: also choose the features anew, as many as before.")
    ] = False,
    copies: Annotated[int, typer.Option(min=1, help="With --without-cue: number of copies of each image.")] = COPIES,
    sample: Annotated[int, typer.Option(min=2, help="With --without-cue: copy at most this many images.")] = LEARNED,
    images: Images = None,
    seed: Annotated[int, typer.Option(min=0, help="With --without-cue: random seed.")] = 0,
    running: Running = RUNNING,
    decomposition: Which = None,
    on: On = None,
    as_json: AsJson = False,
) -> None:
    """Drop features that shouldn't matter, or re-learn the weights without a cue, and show what that changes.

    The edited decomposition is stored beside the other, as NAME-edited.

    Examples: subspect edit study --drop cat:12 --drop cat:40 --refit-on train | subspect edit study --without-cue border
    --network python:model.py:make --weights model.safetensors
    """
    from subspect.giving.edit import edit as edit_features
    from subspect.giving.without_cue import WithoutCue
    from subspect.swapping.naming import cues_named

    opened = open_for(observed, study)
    loaded = loaded_from(opened, decomposition)
    pairs = [entry_of(text) for text in drop or ()]
    without = None
    if without_cue:
        cues, network = cues_named(without_cue), observed.load()
        if network is None:
            raise SubspectError("--without-cue runs the network on copies of the images: name it, --network")
        without = WithoutCue(
            cues=cues,
            network=network,
            images=images,
            copies=copies,
            sample=sample,
            reselect=reselect,
            seed=seed,
            **running.arguments(),
        )
    else:
        only_with(context, "--without-cue", "network", "reselect", "copies", "sample", "images", "seed")
    made = edit_features(opened, loaded, drop=pairs, refit_on=refit_on, target=target, on=on, without_cue=without)
    show(made, as_json)


@command("Handing on")
def retrain(
    study: StudyPath,
    images: ImagesPath,
    observed: Observed,
    opening: Opening,
    output: Annotated[Path, typer.Option("-o", "--output", help="Output: folder for state, log and weights.")],
    decomposition: Which = None,
    test: Annotated[Path | None, typer.Option(help="Images to measure the accuracy on, before and after.")] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Also train the dense network for as many epochs, to compare.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 3,
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step.")] = 128,
    optimiser: Annotated[Optimiser, typer.Option(help="SGD with Nesterov momentum, or AdamW.")] = "sgd",
    rate: Annotated[
        float | None, typer.Option(help="Highest learning rate; default: 0.01 for sgd, 0.0001 for adamw.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option("--layers", help="Module to train; repeatable; default: all.")
    ] = None,
    shift: Annotated[int, typer.Option(min=0, help="Shift images at random by up to this many pixels.")] = 0,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror images at random.")] = False,
    without_cue: Annotated[
        list[str] | None,
        typer.Option(
            help="Cue that the network must not lean on, named as for subspect cues; swapped between images; repeatable."
        ),
    ] = None,
    class_map: ClassMap = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    device: Device = None,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Train the network with the decomposed head in place; run the same command again to resume, losing at most a minute.

    Example: subspect retrain study images/train --network python:model.py:make --weights model.safetensors
    --test images/test --control -o retrained
    """
    from subspect.giving.retrain import retrain as train_further
    from subspect.giving.settings import Settings

    opened = open_for(observed, study)
    loaded = loaded_from(opened, decomposition)
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        optimiser=optimiser,
        rate=rate,
        layers=tuple(layer or ()),
        shift=shift,
        flip=flip,
        without_cues=tuple(without_cue or ()),
        seed=seed,
    )
    made = train_further(
        opened,
        loaded,
        network=observed.load(),
        images=opening.open(images),
        folder=output,
        settings=settings,
        test=opening.open(test),
        control=control,
        class_map=class_map,
        workers=workers,
        device=device_of(device),
    )
    show(made, as_json)


_IN_TRAINING = ("folder", "epochs", "batch_size", "optimiser", "rate", "shift", "flip", "class_map")
_WITHIN_BUDGET = ("train", *_IN_TRAINING, "sample", "seed", "teacher", "workers")


@command("Handing on")
def specialise(
    context: typer.Context,
    study: StudyPath,
    observed: Observed,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Class to keep, by name or index; repeatable; default: all."),
    ] = None,
    listed: Annotated[
        Path | None, typer.Option("--class-list", help="Text file with the classes to keep, one per line.")
    ] = None,
    decomposition: Which = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Output: file for the small network, .onnx or .pt2.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Share of the network's multiplications that it may take, such as 0.5.")
    ] = None,
    times_as_fast: Annotated[
        float | None, typer.Option(help="How many times as fast it is to be on this machine, such as 2.")
    ] = None,
    train: Annotated[
        Path | None,
        typer.Option(help="With a budget: images of these classes to train on; labels aren't needed; needs --folder."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="With --train, output: folder for state, log and weights of the training.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="With --train: passes over the images.")] = 3,
    batch_size: Annotated[int, typer.Option(min=2, help="With --train: images per step.")] = 128,
    optimiser: Annotated[Optimiser, typer.Option(help="With --train: SGD with Nesterov momentum, or AdamW.")] = "sgd",
    rate: Annotated[
        float | None,
        typer.Option(help="With --train: highest learning rate; default: 0.01 for sgd, 0.0001 for adamw."),
    ] = None,
    shift: Annotated[int, typer.Option(min=0, help="With --train: shift images by up to this many pixels.")] = 0,
    flip: Annotated[bool, typer.Option("--flip", help="With --train: mirror images at random.")] = False,
    sample: Annotated[
        int, typer.Option(min=2, help="With a budget: images by which channels are weighed, spread over the classes.")
    ] = WEIGHED,
    seed: Annotated[int, typer.Option(min=0, help="With a budget: random seed.")] = 0,
    teacher: Annotated[
        Teacher, typer.Option(help="With a budget: learn what the dense network says, or the decomposed one.")
    ] = "dense",
    class_map: ClassMap = None,
    images: Images = None,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Make a smaller network for some classes, or for all.

    Without a budget only channels go that nothing uses any more, and its logits are checked to be those of the decomposed
    network, on real images. Within a budget channels of all layers, whole residual branches and pixels go, as little worth to
    these classes as can be; batch norm and head are fitted anew; and with --train the small network learns to say what the
    dense one says of these classes, or the decomposed one, by the same features. Run the same command again to resume.

    Examples: subspect specialise study --network python:model.py:make --weights model.safetensors --class cat --class dog
    -o pets.onnx | subspect specialise study --network python:model.py:make --weights model.safetensors
    --budget 0.5 --train images/train --batch-size 32 --folder small -o small.onnx
    """
    from subspect.giving.export import check_path
    from subspect.giving.specialise import specialise as make_smaller

    if budget is None and times_as_fast is None:
        only_with(context, "--budget or --times-as-fast", *_WITHIN_BUDGET)
    if train is None:
        only_with(context, "--train", *_IN_TRAINING)
    if output is not None:
        check_path(output, None, SMALL)
    opened = open_for(observed, study)
    loaded = loaded_from(opened, decomposition)
    named = _named(classes, listed)
    for one in named or ():
        loaded.label(one)  # before the network is loaded
    settings: dict[str, object] = {"epochs": epochs, "batch_size": batch_size, "optimiser": optimiser, "rate": rate}
    made = make_smaller(
        opened,
        loaded,
        network=observed.load(),
        classes=named,
        path=output,
        images=images,
        budget=budget,
        times_as_fast=times_as_fast,
        train=train,
        folder=folder,
        settings={**settings, "shift": shift, "flip": flip, "seed": seed} if train is not None else None,
        sample=sample,
        seed=seed,
        teacher=teacher,
        class_map=class_map,
        workers=workers,
    )
    written = f"{made.file.format}: {made.file.path}" if made.file else "not written: give -o small.onnx, or small.pt2"
    show(made, as_json, written)


@command("Handing on")
def export(
    context: typer.Context,
    study: StudyPath,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Output: the file, or the folder, which must not exist yet.")
    ],
    format: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(FORMATS)}; default: by the file's suffix; hf is a Hugging Face folder."),
    ] = None,
    observed: ObservedIfNamed = NOT_NAMED,
    decomposition: Which = None,
    images: Images = None,
    opset: Annotated[int, typer.Option(help="ONNX opset, 18 or later.")] = OPSET,
    push_to: Annotated[
        str | None,
        typer.Option(
            help="With --format hf: USER/NAME of a new private repository on Hugging Face to send the folder to."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the decomposed network as ONNX, a torch.export program or a Hugging Face folder, or the decomposition alone.

    Every file of a network is read back and checked on real images; class names and preprocessing are stored in it. A Hugging
    Face folder comes with a model card; nothing is sent anywhere unless you say so (--push-to).

    Example: subspect export study --network python:model.py:make --weights model.safetensors -o model.onnx
    """
    from subspect.giving.export import check_path, check_push
    from subspect.giving.export import export as export_to

    if observed.network is None:
        only_with(context, "--network", "weights", "ignore_extra", "images")
    check_push(check_path(output, format), push_to)
    opened = open_for(observed, study)
    loaded = loaded_from(opened, decomposition)
    made = export_to(
        opened,
        loaded,
        path=output,
        network=observed.load(),
        format=cast("Format | None", format),
        images=images,
        opset=opset,
        push_to=push_to,
    )
    show(made, as_json, f"{made.format}: {made.path}")


@command("Handing on")
def export_features(
    context: typer.Context,
    study: StudyPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="Output: the folder, which must not exist yet.")],
    format: Annotated[FeatureFormat, typer.Option(help="Tool to write files for.")] = "tensorboard",
    on: Annotated[str, typer.Option(help="Image set whose features to write.")] = "train",
    images: Annotated[
        Path | None, typer.Option("--images", help="With fiftyone: folder of the observed images, if they were moved.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the stored features, with ids, labels and predictions, for TensorBoard's projector or FiftyOne.

    Neither has to be installed. For FiftyOne, the images stay where they are.

    Examples: subspect export-features study -o projector | subspect export-features study --format fiftyone -o fiftyone
    """
    from subspect.giving.export_features import export_features as export_to

    if format != "fiftyone":
        only_with(context, "--format fiftyone", "images")
    show(export_to(study, path=output, format=format, on=on, images=images), as_json)


def _named(classes: list[str] | None, listed: Path | None) -> list[str] | None:
    """Return the classes that are named, one by one and in a file, if any are."""
    return [*(classes or ()), *(lines_of(listed) or ())] if classes or listed is not None else None


@command("Handing on")
def tradeoff(
    context: typer.Context,
    study: StudyPath,
    observed: Observed,
    pools: Annotated[
        list[int] | None,
        typer.Option("--pool", min=1, help="Size of the pool that all classes share; repeatable."),
    ] = None,
    budgets: Annotated[
        list[float] | None,
        typer.Option("--budget", help="Share of the multiplications that the network is narrowed to; repeatable."),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="With --budget: class to keep, by name or index; repeatable; default: all."),
    ] = None,
    listed: Annotated[
        Path | None, typer.Option("--class-list", help="With --budget: text file with the classes, one per line.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Features per class.")] = 10,
    refit: Annotated[bool, typer.Option("--refit/--no-refit", help="Re-learn the weights.")] = True,
    sample: Annotated[
        int, typer.Option(min=2, help="With --budget: images by which channels are weighed, spread over the classes.")
    ] = WEIGHED,
    seed: Annotated[int, typer.Option(min=0, help="With --budget: random seed.")] = 0,
    images: Images = None,
    workers: Workers = 0,
    figure: Figure = None,
    as_json: AsJson = False,
) -> None:
    """Measure accuracy against what the network costs, for several pools of features or several budgets.

    With --pool against multiplications, for all classes together; with --budget against time, for the classes that are named.
    The study isn't changed; once you have settled on a size, run `subspect decompose --pool` or `subspect specialise --budget`.

    Examples: subspect tradeoff study --network python:model.py:make --weights model.safetensors --pool 64 --pool 128
    --pool 256 | subspect tradeoff study --network python:model.py:make --weights model.safetensors -k 5 --budget 0.8
    --budget 0.5 --budget 0.3
    """
    from subspect.giving.tradeoff import tradeoff as weigh_up
    from subspect.ground.drawing import check_figure

    check_figure(figure)
    if budgets is None:
        only_with(context, "--budget", "classes", "listed", "sample", "seed", "workers")
    opened = open_for(observed, study)
    made = weigh_up(
        opened,
        network=observed.load(),
        pools=pools,
        budgets=budgets,
        classes=_named(classes, listed),
        k=k,
        images=images,
        refit=refit,
        sample=sample,
        seed=seed,
        workers=workers,
    )
    draw(made.plot, figure)
    show(made, as_json)
