"""Fill a study: run the network once over an image set and keep its features.

Images are cut into batches, and batches into shards, at places that depend only on their number, so that a run that was killed
resumes at the first missing shard and ends with the same bytes. Before a long run starts, up to 64 images spread over the set
are tried: the head is found and checked, labels are matched, time and disk are estimated, and what makes one doubt the rest
is pointed out (`subspect.studies.doubts`).
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from subspect.ground.addresses import place
from subspect.ground.engines import here, on_gpu, soon
from subspect.ground.errors import SubspectError, advice, near, some
from subspect.ground.files import is_file
from subspect.images.batches import Batch, batches, lost_workers
from subspect.images.labels import match_classes
from subspect.images.opening import ImageSource, open_images
from subspect.images.preprocessing import GIVEN_AS_TENSORS, from_description
from subspect.images.sources import ClassMatch, Images
from subspect.networks.calls import failed_on
from subspect.networks.finding import Head
from subspect.networks.layers import layer_names, watching
from subspect.networks.network import Network, check_network
from subspect.studies.closing import check_failed, finish, is_last
from subspect.studies.doubts import check_alone, check_repeatable, warn_lower, warn_near_chance
from subspect.studies.filling import fill, positions_in
from subspect.studies.first_images import find_head, sample, spread
from subspect.studies.image_set import ImageSet
from subspect.studies.manifests import Identity, SetManifest
from subspect.studies.names import check_set_name
from subspect.studies.options import KEEPS, SAMPLE, Keep
from subspect.studies.pieces import Piece, deciding, observing, piece_of
from subspect.studies.running import Runner
from subspect.studies.shards import shard_bytes, shard_rows
from subspect.studies.study import Study, check_disk
from subspect.studies.summed import bytes_of_sums
from subspect.studies.summing import summed_rows, totals_of

log = logging.getLogger("subspect")


@lost_workers()
def observe(
    network: Network,
    images: ImageSource,
    study: str | Path,
    name: str = "train",
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device | None = None,
    class_map: Mapping[str, int] | str | Path | None = None,
    max_failed: float = 0.01,
    layers: str | Sequence[str] = (),
    part: str | tuple[int, int] | None = None,
    keep: Keep = "features",
    sample: int = SAMPLE,
    show_progress: bool = True,
) -> Study:
    """Run a network once over images and store features, labels, predictions and ids in a study.

    Repeating the same call resumes where it stopped, and does nothing if the set is complete. The model is left unchanged.

    Args:
        network: the classifier; its preprocessing must be known, unless the images are tensors that are ready for it.
        images: a path or a name, such as ``hfds:cifar10[test]``, arrays, ``(images, labels)``, a Dataset or a DataLoader;
            with columns to name, or a limit, what `subspect.open_images` returns, which see.
        study: the study's folder, created if needed, or its address, such as "s3://bucket/study".
        name: the image set's name in the study.
        batch_size: images per batch.
        workers: processes that read images; with 0, this process reads them.
        device: where the network runs, such as "cuda"; by default where it is.
        class_map: a mapping from folder name to class index, or a JSON file with one; "sorted" forces their order,
            sorted or the data set's own.
        max_failed: the share of images that may be unusable before the run stops with an error.
        layers: names of layers to watch besides the features, averaged over space; "all" for every convolution and linear
            layer (see `subspect.networks.layers`).
        part: which of how many parts of the set to fill, "3/16" or (3, 16), where several processes fill it at once (see
            `subspect.studies.pieces`); the one after which nothing is missing closes the set.
        keep: the "features" of all images; or "statistics" of all, and the features of a sample, where even features are too
            much to keep (see docs/scale.md).
        sample: with "statistics", of about how many images features are kept.
        show_progress: whether to draw a progress bar.

    Returns:
        The study, which now contains the image set, or a part of it.

    Raises:
        SubspectError: something doesn't fit: no head, no preprocessing, labels that don't match the classes, NaN features, too
            many unusable images, another network's study, a full disk; what was stored so far is kept.

    Example:
        >>> study = subspect.observe(network, "images/train", "fresh", show_progress=False)
        >>> study = subspect.observe(network, "images/test", "fresh", "test", show_progress=False)
        >>> study.set_names
        ['train', 'test']
    """
    if batch_size < 1 or workers < 0 or not 0 <= max_failed <= 1:
        raise SubspectError(
            f"expected batch_size ≥ 1, workers ≥ 0 and max_failed from 0 to 1; got {batch_size}, {workers}, {max_failed}"
        )
    check_network(network)
    check_set_name(name)
    piece = None if part is None else piece_of(part)
    sampled = _sampled(keep, sample, piece)
    layers = (layers,) if isinstance(layers, str) else layers
    folder, source = place(study), open_images(images, name)
    network = _as_before(network, source, folder)
    with network.running(here(device)), ExitStack() as held:
        head = find_head(network, source)
        widths = _widths(network, source, layers)
        match = _match(network, source, head.n_classes, folder, name, class_map)
        identity = _identity(network, source, match)
        manifest = _manifest(source, match, identity, batch_size, widths, sampled)
        opened = Study.create(folder, identity, network.head.weight, network.head.bias)
        held.enter_context(observing(folder, name, piece))
        with nullcontext() if piece is None else deciding(folder, name):
            image_set = opened.begin(name, manifest, piece)
        if image_set.manifest.complete:
            log.info("%s: all %s images of %r are already stored", folder, f"{image_set.manifest.seen:,}", name)
            if source.kind == "dataset":
                log.warning(
                    "the Dataset %r is identified only by its length and its name; if its images or labels have changed, "
                    "choose another study or another name: subspect.DatasetImages(dataset, name)",
                    name,
                )
            return opened
        with advice(
            f"{image_set.folder} stays, unfinished: once that is put right, the same command goes on from there"
        ):
            others = [opened.image_set(other) for other in opened.set_names if other != name]
            own = range(manifest.n_shards) if piece is None else piece.shards(manifest.n_shards)
            soon(len(set(own).difference(image_set.done)), gpu=on_gpu(device))
            told = _try(network, source, match, image_set, own, others)
            totals = None
            if sampled:
                dense = (tensor.double().numpy() for tensor in opened.head())
                totals = totals_of(network, source, match, image_set, (next(dense), next(dense)), workers)
            if done := set((totals or image_set).done).intersection(own):
                log.info("resuming: %d of %d shards are already stored", len(done), len(own))
            fill(
                network,
                source,
                match,
                image_set,
                own,
                workers=workers,
                device=device,
                check=lambda failed: check_failed(failed, image_set, max_failed),
                show=show_progress,
                totals=totals,
            )
            if totals is not None:
                totals.close(source, network.preprocessing, show=show_progress)
            with nullcontext() if piece is None else deciding(folder, name, -1):
                if piece is None or is_last(opened, image_set, piece, max_failed):
                    finish(
                        image_set,
                        None if told else network,
                        match.names,
                        others,
                        None if totals is None else totals.sums,
                    )
    return opened


def _sampled(keep: Keep, sample: int, piece: Piece | None) -> int:
    """Return of about how many images features are kept, 0 for all.

    Raises:
        SubspectError: it is unknown what to keep, or statistics are to be kept by one process of several.
    """
    if keep not in KEEPS:
        raise SubspectError(f"keep (--keep) must be one of {', '.join(KEEPS)}; got {keep!r}{near(str(keep), KEEPS)}")
    if keep == "features":
        return 0
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 1:
        raise SubspectError(
            f"sample must be a whole number of at least 1, of images whose features are kept; got {sample!r}"
        )
    if piece is not None:
        raise SubspectError(
            "statistics (--keep statistics) add up over all images in one order, which parts (--part) can't keep to: leave "
            "--part out, and take --engine ray to have several processes at it; or keep features (--keep features)"
        )
    return sample


def _as_before(network: Network, source: Images, folder: Path) -> Network:
    """Return the network with the preprocessing of the study that is there already, where none was given."""
    if network.preprocessing is not None or source.ready or not is_file(folder / "study.json"):
        return network
    again = copy.copy(network)
    try:
        again.preprocessing = from_description(Study.open(folder).identity.preprocessing)
    except SubspectError:  # a transform of the user's, or images that were given ready: to be given again
        return network
    return again


def _match(
    network: Network,
    source: Images,
    n_classes: int,
    folder: Path,
    name: str,
    class_map: Mapping[str, int] | str | Path | None,
) -> ClassMatch:
    """Match labels to classes: by the network's names, or else by those that the study's other image sets brought."""
    if network.class_names is not None or not is_file(folder / "study.json"):
        return match_classes(source, n_classes, network.class_names, class_map)
    study = Study.open(folder)
    if not set(study.set_folders()) - {name}:  # this set brings them, however often it is begun
        return match_classes(source, n_classes, None, class_map)
    names = study.identity.class_names
    return replace(match_classes(source, n_classes, names, class_map), names=names)


def _widths(network: Network, source: Images, layers: Sequence[str]) -> dict[str, int]:
    """Return how many channels each layer has."""
    if not layers:
        return {}
    names = layer_names(network.model, layers, network.head.layers)
    with network.running(), watching(network.model, names) as said:
        network.read(sample(network, source))
    idle = [name for name in names if name not in said]
    named = [name for name in idle if name in layers]
    if named:
        raise SubspectError(f"these layers were not used when the network ran: {some(named)}; name others")
    if idle:
        log.warning("layers that were not used when the network ran are left out: %s", some(idle))
    return {name: said[name].shape[1] for name in names if name in said}


def _identity(network: Network, source: Images, match: ClassMatch) -> Identity:
    own = GIVEN_AS_TENSORS if source.ready or network.preprocessing is None else network.preprocessing.describe()
    head = network.head
    return Identity(network.name, network.fingerprint(), head.name, head.n_classes, head.n_features, match.names, own)


def _manifest(
    source: Images, match: ClassMatch, identity: Identity, batch_size: int, layers: Mapping[str, int], sampled: int
) -> SetManifest:
    width = identity.n_features + sum(layers.values())
    return SetManifest(
        network_fingerprint=identity.fingerprint,
        preprocessing=identity.preprocessing,
        kind=source.kind,
        root=source.place,
        image_column=source.image_column,
        images=len(source),
        fingerprint=source.fingerprint(match),
        labelled=source.labelled,
        matching=match.how,
        batch_size=batch_size,
        shard_size=summed_rows(len(source), width, batch_size) if sampled else shard_rows(width, batch_size),
        layers=layers,
        table=source.table,
        sample=source.sample,
        sampled=sampled,
    )


def _try(
    network: Network,
    source: Images,
    match: ClassMatch,
    image_set: ImageSet,
    own: range,
    others: Sequence[ImageSet],
) -> bool:
    """Run the spread images through everything: say what the run will cost, and whether it looks right.

    Returns:
        Whether an accuracy that is too low was pointed out.

    Raises:
        SubspectError: the network isn't deterministic, features depend on the batch or are NaN, or the disk is too small.
    """
    manifest, positions = image_set.manifest, spread(source)
    left = positions_in(manifest, set(own) - set(image_set.done))
    start = time.perf_counter()
    batch = next(batches(source, network.preprocessing, match, [positions]))
    run = Runner(network, manifest)
    try:
        chunk, failed = run(batch)
    except SubspectError:
        raise
    except Exception as error:  # of the network's own, as on inputs of another shape than its head was found with
        assert batch.pixels is not None  # it was given some
        raise failed_on(network.model, batch.pixels, error) from error
    seconds = (time.perf_counter() - start) / len(positions) * left
    _tell_failed(failed, batch)
    again, _ = run(batch)
    both = sorted(set(chunk.ids) & set(again.ids))
    check_repeatable(network, *(one.features[np.isin(one.ids, both)] for one in (chunk, again)))
    check_alone(chunk.features, run.among_others(batch))
    needed = _disk(manifest, network.head, left)
    log.info("%s → head %r: %d classes, %d features", network.name, network.head.name, *network.head.weight.shape)
    _tell_one_logit(network.head, match.names)
    log.info("preprocessing: %s", "none: " + GIVEN_AS_TENSORS["given"] if source.ready else network.preprocessing)
    if source.kind == "array file" and source.ready and network.preprocessing is not None:
        log.warning(
            "the images in the file are floating-point numbers, so they are taken as ready for the network, and the "
            "preprocessing (%s) is not applied; store uint8 for pictures that are to be preprocessed",
            network.preprocessing,
        )
    _tell_labels(manifest, match.n_classes)
    log.info("%s images left: about %s in one process, %.1f MB", f"{left:,}", _duration(seconds), needed / 1e6)
    check_disk(image_set.folder, needed)
    right = int((chunk.labels == chunk.predictions).sum())
    predicted = np.bincount(chunk.predictions, minlength=network.head.n_classes)
    return source.labelled and (
        warn_lower(image_set.name, right, len(chunk.labels), others)
        or warn_near_chance(right, predicted, network, manifest, match.names, "tried first")
    )


def _disk(manifest: SetManifest, head: Head, left: int) -> int:
    """Return the bytes that so many images will take, about."""
    width = head.n_features + sum(manifest.layers.values())
    if not manifest.sampled:
        return shard_bytes(width, left)
    share = min(1.0, manifest.sampled / manifest.images)
    sums = bytes_of_sums(head.n_classes, head.n_features, manifest.images)
    return shard_bytes(width, int(share * left)) + 2 * sums  # those of before lie there until the next are whole


def _tell_failed(failed: Sequence[tuple[str, str]], batch: Batch) -> None:
    """Say which of the images that the network was given it made nothing of.

    Raises:
        SubspectError: half of them or more.
    """
    ids = {id for id, _ in batch.failed}
    bad = [id for id, _ in failed if id not in ids]
    if not bad:
        return
    told = (
        f"features of {len(bad)} of the {len(batch.ids)} images tried first are NaN or infinite, first {some(bad, 3)}"
    )
    if 2 * len(bad) >= len(batch.ids):
        raise SubspectError(f"{told}; check the network's weights and precision, and those images")
    log.warning("%s; such images are left out and listed, up to the share that may fail (--max-failed)", told)


def _tell_one_logit(head: Head, names: Sequence[str]) -> None:
    """Say how one logit is read: nothing else could show that it is a regression's number."""
    if head.one_logit:
        log.warning(
            "the network has one logit, read as two classes: %r where it is negative, %r where it is positive; for a "
            "regression every figure based on this is meaningless",
            *names,
        )


def _tell_labels(manifest: SetManifest, n_classes: int) -> None:
    """Say how labels were matched, or what is assumed where there are none: nothing else could show that it is wrong."""
    if manifest.labelled:
        log.info("labels: %s", manifest.matching)
    else:
        log.warning(
            "labels: none; the largest of the network's %d outputs is taken as each image's class, as in a "
            "single-label classifier; for multi-label or regression outputs this, and every figure based on it, is meaningless",
            n_classes,
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
