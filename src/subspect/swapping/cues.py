"""What does each class rest on? Cues are swapped one after the other, and the network is asked again.

For every cue: by how much each feature moves, through which features each class loses its margin (`swapping.margins`), and what
becomes of accuracy and of each class's recall. One pass of the network over the images as they are, and one for each cue; what
is measured of a cue is kept in the study at once, so that the same call resumes where it was stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from subspect.ground.engines import here
from subspect.ground.errors import SubspectError, some
from subspect.ground.progress import progress
from subspect.images.batches import lost_workers
from subspect.images.opening import ImageSource
from subspect.networks.network import Network
from subspect.studies.decompositions import DecompositionLike, opened
from subspect.studies.same_network import same_network
from subspect.studies.study import Study, StudyLike
from subspect.swapping.built_in import CUES
from subspect.swapping.cue import Cue
from subspect.swapping.measure import Measure
from subspect.swapping.naming import cues_named
from subspect.swapping.options import SAMPLE
from subspect.swapping.partners import paired
from subspect.swapping.result import Cues
from subspect.swapping.stored import keep, kept_cues
from subspect.swapping.through import Reader


@lost_workers()
def cues(
    study: StudyLike,
    decomposition: DecompositionLike,
    *,
    network: Network,
    cues: Sequence[Cue | str] | None = None,
    sample: int = SAMPLE,
    on: str | None = None,
    images: ImageSource | None = None,
    seed: int = 0,
    replace: bool = False,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device | None = None,
    show_progress: bool = True,
) -> Cues:
    """Measure what the classes rest on: their border, a corner, colour, texture, and more.

    It is kept in the study, beside the decomposition. The same call resumes where it was stopped; one with other cues, on the
    same images, adds them to those that are there.

    Args:
        study: whose images are opened again.
        decomposition: of this study.
        network: that was observed.
        cues: names, or cues of one's own (see `subspect.Cue`), which are measured anew each time; all that are built in unless
            given.
        sample: at most so many images, spread over the classes.
        on: the image set; unless given the one that the features were chosen on, since a shortcut lies in images like
            those that the network learned from.
        images: where the images are, if they were in memory or have been moved since.
        seed: of the sample, of what is swapped with what, and of what is scrambled.
        replace: whether cues that the study keeps of other images, or of another seed, make way.
        batch_size: images in a batch of the network.
        workers: processes that read images; 0 reads them in this one.
        device: where the network runs; where it lies unless given.
        show_progress: whether to draw a progress bar.

    Raises:
        SubspectError: a cue there is not, another network, images that can't be opened again, are no pictures, or are all of
            one class, or the study keeps cues of other images.

    Example:
        >>> rests = subspect.cues("study", "pursuit-k5", network=network, sample=20, show_progress=False)
        >>> "border" in rests.names
        True
    """
    asked = cues_named(cues)
    if sample < 2:
        raise SubspectError(f"sample must be 2 images or more, got {sample}")
    study, decomposition = opened(study, decomposition)
    network = same_network(study, network)
    pairs = paired(study, on or decomposition.chosen_on[0], network.preprocessing, sample, seed, images, workers)
    there = kept_cues(study, decomposition)
    if there is not None and there.sample != pairs.fingerprint:
        _check_replaced(study, there, replace)
        there = None
    missing = [cue for cue in asked if there is None or cue.name not in there.names or cue not in CUES]
    total = len(pairs.ids) * (1 + len(missing))
    with network.running(here(device)), progress("cues", total, "images", show=show_progress) as advance:
        reader = Reader(network, pairs, batch_size, device)
        measure = Measure(study, decomposition, reader, advance)
        why = _COLOURS.format(pairs.channels) if pairs.channels != 3 else "" if pairs.coloured else _GREY
        left_out = {cue.name: why for cue in asked if cue.colours and why}
        found = there or measure.nothing()
        found = dataclasses.replace(found, left_out={**found.left_out, **left_out})
        for cue in missing:
            if cue.name not in left_out:
                found = found.with_cue(measure.swapped(cue))
                keep(study, found)
    return found.only([cue.name for cue in asked if cue.name not in left_out])


def _check_replaced(study: Study, there: Cues, replace: bool) -> None:
    """Refuse to put cues in the place of those of other images, unless that is wanted."""
    if not replace:
        raise SubspectError(
            f"{study.path} keeps cues of {there.decomposition} of another sample ({there.note}): "
            f"{some(there.names, 20)}; to add to them give the same sample, image set and seed (--sample, --on, --seed), to "
            "put new ones in their place replace=True (--replace)"
        )


_COLOURS = "it takes three channels, and the network's images have {}"
_GREY = "the images have no colour"
