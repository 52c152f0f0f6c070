"""The main job, end to end: observe, decompose, evaluate, report.

Whatever can be checked without running the network over the images (paths, class folders, the head, k) is checked
before the first image set is run. Every step keeps what it made, so the same call resumes where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from subspect.choosing.decompose import check_choice, decompose
from subspect.choosing.options import HOLD_OUT, METHODS, TARGETS, Target
from subspect.choosing.sizes import Auto, Budget
from subspect.ground.addresses import place
from subspect.ground.errors import SubspectError, as_called
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.heads.decomposition import Decomposition
from subspect.images.labels import match_classes
from subspect.images.opening import ImageSource, open_images
from subspect.images.sources import Images
from subspect.measuring.fidelity import Fidelity, evaluate
from subspect.networks.network import Network, check_network
from subspect.report import check_report, write_report
from subspect.report.terminal import summary
from subspect.studies.first_images import find_head
from subspect.studies.observe import observe
from subspect.studies.parts import split
from subspect.studies.study import Study


@dataclass(frozen=True, eq=False)
class Job(Result):
    """What the main job made.

    Example:
        >>> job = subspect.run(network, "images/train", "fresh", test="images/test", k=5, show_progress=False)
        >>> job.decomposition.name
        'pursuit-k5'
        >>> job.report.name
        'report.html'
    """

    study: Study
    decomposition: Decomposition
    fidelity: Fidelity
    report: Path

    def tables(self) -> list[Table]:
        """Return a table for the terminal: a row for each class, with its features and what they cost."""
        return [summary(self.decomposition, self.fidelity)]

    def _shown(self) -> tuple[str, str]:
        """Return the decomposition's cards of a few classes and the table as HTML, and the CSS."""
        return self.decomposition._cards_before(self._tables_html(), self.fidelity)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        about = {"study": self.study.address, "report": as_called(str(self.report))}
        return {**about, "decomposition": self.decomposition.to_json(), "fidelity": self.fidelity.to_json()}

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each feature of each class."""
        return self.decomposition._records()


def run(
    network: Network,
    images: ImageSource,
    study: str | Path,
    *,
    test: ImageSource | None = None,
    promise: ImageSource | None = None,
    k: Budget = 5,
    method: str = METHODS[0],
    target: Target = TARGETS[0],
    refit: bool | None = None,
    pool: int | None = None,
    stable: bool = False,
    ternary: bool = False,
    draws: int | None = None,
    hold_out: float = HOLD_OUT,
    class_map: Mapping[str, int] | str | Path | None = None,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device | None = None,
    max_failed: float = 0.01,
    among_given: bool = False,
    show_images: bool = True,
    show_progress: bool = True,
) -> Job:
    """Find the few features that decide each class, measure what keeping only those costs, and write the report.

    Args:
        network: the classifier.
        images: the image set "train", on which the features are chosen (see `subspect.open_images`).
        study: the study's folder, made if need be, or its address, such as "s3://bucket/study".
        test: the image set "test", on which the cost is measured; without it, a share of ``images`` is held out for that.
        promise: with k = `subspect.Auto`, further images, that the network has not been trained on: the image set "promise",
            on which the loss is promised.
        k: features for each class, `subspect.Mean` or `subspect.Auto`; with method "frequency" also a share of the mass.
        method: "pursuit", "contribution" or "frequency".
        target: what the decomposed head is to come close to, the "dense" network or the "labels".
        refit: whether to re-learn the weights; with "pursuit" only, unless given.
        pool: how many features there are for all classes together to choose from.
        stable: whether to favour features that are chosen again on other images.
        ternary: whether weights are to be readable (see `subspect.decompose`).
        draws: halves of the images on which the choice is repeated, to tell how far it can be trusted; unless given 20, or 0
            with fewer than 3 images a class.
        hold_out: without ``test``, the share of ``images`` that is held out to measure on; 0 chooses on all of them.
        class_map: folder name → class index, or a JSON file with it; "sorted" insists on their order, sorted or
            the data set's own.
        batch_size: images in a batch of the network.
        workers: processes that read images; 0 reads them in this one.
        device: where the network runs; where it lies already unless given.
        max_failed: the share of images that may be unusable before the run ends in an error.
        among_given: whether the cost is that of a choice among the classes alone that there are images of (see
            `subspect.evaluate`).
        show_images: whether the report shows images; leave them out for private data.
        show_progress: whether to draw progress bars.

    Raises:
        SubspectError: anything that doesn't fit; what was stored so far stays.

    Example:
        >>> job = subspect.run(network, "images/train", "fresh", test="images/test", k=5, show_progress=False)
        >>> job.fidelity.overall.images
        60
    """
    check_network(network)
    split(hold_out)  # refuses what is no share
    k = Auto() if k == "auto" else k
    if promise is not None:
        if not isinstance(k, Auto):
            raise SubspectError("images to promise something on go with k = 'auto' (subspect.Auto)")
        k = replace(k, promise="promise")
    given = {"train": images, "test": test, "promise": promise}
    sets = {name: open_images(source, name) for name, source in given.items() if source is not None}
    _check_sets(network, sets, class_map)
    if among_given and not sets.get("test", sets["train"]).labelled:
        raise SubspectError(
            "among_given (--among-given) needs images with labels, which tell the classes that are given; give class folders, "
            "or leave it out"
        )
    check_choice([k], method, network.head.n_features, target, pool, stable, draws, ternary=ternary, refit=refit)
    check_report(place(study) / "report.html", network.head.n_classes)
    for name, source in sets.items():
        opened = observe(
            network,
            source,
            study,
            name,
            batch_size=batch_size,
            workers=workers,
            device=device,
            class_map=class_map,
            max_failed=max_failed,
            show_progress=show_progress,
        )
    decomposition = decompose(
        opened,
        k,
        method=method,
        target=target,
        refit=refit,
        pool=pool,
        stable=stable,
        ternary=ternary,
        draws=draws,
        hold_out=hold_out,
        show_progress=show_progress,
    )
    fidelity = evaluate(opened, decomposition, among_given=among_given)
    report = write_report(
        opened,
        decomposition,
        fidelity=fidelity,
        show_images=show_images,
        images=sets["train"],
        network=network,
        show_progress=show_progress,
    )
    return Job(opened, decomposition, fidelity, report)


def _check_sets(network: Network, sets: Mapping[str, Images], class_map: Mapping[str, int] | str | Path | None) -> None:
    """Find the head, match every set's labels to its classes, and see that the sets differ.

    Raises:
        SubspectError: a set that the network or its classes don't fit, or two sets of the same images.
    """
    names, prints = network.class_names, set()
    for source in sets.values():
        match = match_classes(source, find_head(network, source).n_classes, names, class_map)
        names = match.names
        prints.add(source.fingerprint(match))
    if len(prints) < len(sets):
        raise SubspectError(
            "two of the image sets given are the same; to choose features on, to measure the cost on and to promise "
            "something on, images must differ: give others, or leave out those to measure on, and a share is held out"
        )
