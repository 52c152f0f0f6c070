"""The end of an image set: once no shard is missing, its manifest says so, and what was found is told."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from subspect.ground.errors import SubspectError
from subspect.networks.network import Network
from subspect.studies.doubts import warn_lacking, warn_near_chance
from subspect.studies.first_images import reasons
from subspect.studies.image_set import ImageSet
from subspect.studies.pieces import Piece
from subspect.studies.shards import shard_name
from subspect.studies.study import Study
from subspect.studies.summed import Sums

log = logging.getLogger("subspect")


def is_last(study: Study, image_set: ImageSet, piece: Piece, max_failed: float) -> bool:
    """Tell whether no shard is missing any more, and no other process has closed the set meanwhile.

    Raises:
        SubspectError: too many images could not be used.
    """
    done, manifest = image_set.done, study.manifest(image_set.name)
    if manifest.complete:
        return False
    if missing := manifest.n_shards - len(done):
        log.info(
            "%s of %r is stored; %d of %d shards are missing, which fall to other parts: the last of them closes the set, or "
            "the same command without --part",
            piece,
            image_set.name,
            missing,
            manifest.n_shards,
        )
        return False
    check_failed([failure for index in done for failure in image_set.shard(index)[1]], image_set, max_failed)
    return True


def finish(
    image_set: ImageSet,
    network: Network | None,
    names: Sequence[str],
    others: Sequence[ImageSet],
    sums: Sums | None = None,
) -> None:
    """Write the manifest that says that the set is complete, and say what was found.

    Args:
        image_set: whose shards are all there.
        network: that made it; None where an accuracy that is too low was pointed out already.
        names: of its classes.
        others: the study's other image sets, complete.
        sums: the statistics of all images, where these alone are kept.
    """
    if sums is not None:
        said = sums.confusion.counts
        image_set.manifest = replace(image_set.manifest, statistics=sums.checksum, right=int(said.trace()))
    right, predicted = complete(image_set)
    if sums is not None:
        right, predicted = image_set.manifest.right, said.sum(axis=0)
    name, manifest = image_set.name, image_set.manifest
    if manifest.failed:
        failed, of = manifest.failed, f"{manifest.images:,}"
        log.warning("%d of %s images could not be used: %s", len(failed), of, reasons(failed))
    if manifest.labelled:
        seen = manifest.seen
        share, among = 100 * right / max(seen, 1), f"{image_set.shape.n_classes:,}"
        log.info(
            "%s: accuracy of the network %.2f %% among all %s classes (%s images)", name, share, among, f"{seen:,}"
        )
        if network is not None:
            warn_near_chance(right, predicted, network, manifest, names, f"of {name!r}")
        warn_lacking(image_set, others, names)


def complete(image_set: ImageSet) -> tuple[int, npt.NDArray[np.int64]]:
    """Write the manifest that marks a set as complete, once all its shards are stored.

    Returns:
        How many predictions match the label, and (C,) how many there are of each class.

    Raises:
        SubspectError: a shard is damaged, or of another cut.
    """
    rows = right = 0
    predicted = np.zeros(image_set.shape.n_classes, np.int64)
    failed: list[tuple[str, str]] = []
    for index in range(image_set.manifest.n_shards):
        chunk, unusable = image_set.shard(index)
        first, end = image_set.manifest.ends(index)
        there = len(chunk.ids) + len(unusable)
        if there > end - first or (there < end - first and not image_set.manifest.sampled):
            path = image_set.folder / shard_name(index)
            raise SubspectError(
                f"{path} holds {there:,} images of {end - first:,}: it was made with another batch "
                "size; delete it and run the same command again"
            )
        rows, right = rows + len(chunk.ids), right + int((chunk.labels == chunk.predictions).sum())
        predicted += np.bincount(chunk.predictions, minlength=len(predicted))
        failed += unusable
    image_set.save(replace(image_set.manifest, complete=True, rows=rows, failed=tuple(failed)))
    return right, predicted


def check_failed(failed: list[tuple[str, str]], image_set: ImageSet, most: float) -> None:
    """Check that no more images than a share could not be used: ids and reasons of those that couldn't.

    Raises:
        SubspectError: more couldn't.
    """
    images = image_set.manifest.images
    if len(failed) > most * images:
        raise SubspectError(
            f"{len(failed)} of {images:,} images could not be used, more than the allowed share of "
            f"{most:g}: {reasons(failed)}; fix or remove them, or allow more with --max-failed"
        )
