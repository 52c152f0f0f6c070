"""Which filters of each layer decide the classes? To first order for all of them, and in earnest for some.

A filter is a channel of a convolution, or a hidden unit, as `subspect.networks.gates` finds them. Its effect on an image is
what the margin of the image's class (by the decomposed head) would change by with the filter at its mean: to first order
``Σ (μ − a) · ∂margin/∂a`` over all places, for all filters of all layers by one pass with gradients. How far that is right is
measured: for some filters of every class and layer the network is run without them. Each image has gates of its own, so that
one pass closes another filter for each class.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch

from subspect.ground.engines import here
from subspect.ground.errors import SubspectError, some
from subspect.ground.progress import progress
from subspect.heads.decomposition import Decomposition
from subspect.images.batches import lost_workers
from subspect.images.opening import ImageSource
from subspect.networks.network import Network
from subspect.studies.decompositions import DecompositionLike, made_by, opened
from subspect.studies.same_network import not_as_observed, same_network
from subspect.studies.study import Study, StudyLike
from subspect.tracing.closing import closed
from subspect.tracing.margins import Margins
from subspect.tracing.options import ABLATE, ABLATE_SAMPLE, BATCH, REPEATS, SAMPLE, SHARE
from subspect.tracing.passes import Indices, Tracer
from subspect.tracing.result import Filters, LayerFilters
from subspect.tracing.sampled import Sampled, sampled
from subspect.tracing.stored import keep, kept_filters
from subspect.tracing.sums import Grouped, Levels

log = logging.getLogger("subspect")

FEATURES = 5  #: of each class whose filters are looked for: those that contribute most
_CLOSE = 0.01  # of a feature: on another device it differs by rounding


@lost_workers()
def filters(
    study: StudyLike,
    decomposition: DecompositionLike,
    *,
    network: Network,
    classes: Sequence[int | str] | None = None,
    share: float = SHARE,
    sample: int = SAMPLE,
    ablate: int = ABLATE,
    ablate_sample: int = ABLATE_SAMPLE,
    repeats: int = REPEATS,
    on: str | None = None,
    images: ImageSource | None = None,
    seed: int = 0,
    replace: bool = False,
    batch_size: int = BATCH,
    workers: int = 0,
    device: str | torch.device | None = None,
    show_progress: bool = True,
) -> Filters:
    """Find out which filters of each layer decide the classes, and how far that can be told without taking them away.

    It is kept in the study, beside the decomposition, in two stages: effects to first order, then what becomes of images
    without some filters. The same call returns what is kept, or resumes after the first stage.

    Args:
        study: whose images are opened again.
        decomposition: of this study.
        network: that was observed.
        classes: names or indices of those that are asked about, which alone are looked at; all that have images unless given.
        share: of a class's effect in a layer, which the filters named are to hold.
        sample: at most so many images, spread over the classes.
        ablate: how many filters of each class and layer are taken away in earnest: so many of the largest effect, and as many
            of the others at random; 0 for none.
        ablate_sample: on how many images that is done.
        repeats: how often each class's filters are compared with as many at random; 0 for not at all.
        on: the image set; unless given the one that the features were chosen on.
        images: where the images are, if they were in memory or have been moved since.
        seed: of the sample and of all that is drawn.
        replace: whether filters that the study keeps of other images, or of another seed, make way.
        batch_size: images in a batch of the network.
        workers: processes that read images; 0 reads them in this one.
        device: where the network runs; where it lies unless given.
        show_progress: whether to draw progress bars.

    Raises:
        SubspectError: a class there is not, or without images, another network, or one without filters, images that can't be
            opened again, a number out of its range, or the study keeps filters of other images.

    Example:
        >>> found = subspect.filters("study", "pursuit-k5", network=network, sample=20, show_progress=False)
        >>> [(layer.name, layer.channels) for layer in found.layers]
        [('conv', 256)]
        >>> found.of("cat", "conv")[0].channel in (12, 40)
        True
    """
    _check(share, sample, ablate, ablate_sample, repeats)
    study, decomposition = opened(study, decomposition)
    wanted = sorted({decomposition.label(one) for one in classes or ()})
    if classes is not None and not wanted:
        raise SubspectError("no class was named; leave classes out for all, or name some")
    if sample < len(wanted):
        raise SubspectError(f"sample must be an image for each class or more, got {sample} for {len(wanted)} classes")
    network = same_network(study, network)
    there = kept_filters(study, decomposition)

    def drawn(labels: Sequence[int]) -> Sampled:
        name = on or decomposition.chosen_on[0]
        about = sample, seed, images, workers, labels, decomposition.class_names
        return sampled(study, name, network.preprocessing, *about)

    chosen = drawn(())  # what is kept of all classes answers for some
    if there is None or there.sample != chosen.fingerprint or not set(wanted) <= set(there.labels):
        chosen = drawn(wanted) if wanted else chosen
    if there is not None and there.sample != chosen.fingerprint:
        _check_replaced(study, there, replace)
        there = None
    with network.running(here(device)):
        tracer = Tracer(network, chosen, Margins.of(decomposition), batch_size, device)
        if there is None:
            there = _scored(study, decomposition, tracer, show_progress)
            if gone := [decomposition.class_names[label] for label in wanted if label not in there.labels]:
                raise SubspectError(
                    f"no image of {some(gone)} can be opened again; say where they are (images, --images), or leave these out"
                )
            keep(study, there)
        made = closed(there, tracer, share, (ablate, ablate_sample, repeats), show_progress)
        if made is not there:
            keep(study, made)
    return made.only(wanted) if wanted else made


def _check(share: float, sample: int, ablate: int, ablate_sample: int, repeats: int) -> None:
    """Refuse numbers out of their range, before anything else."""
    if not 0 < share < 1:
        raise SubspectError(f"share must be between 0 and 1, got {share:g}")
    for name, value, least in (
        ("sample", sample, 1),
        ("ablate", ablate, 0),
        ("ablate_sample", ablate_sample, 1),
        ("repeats", repeats, 0),
    ):
        if value < least:
            raise SubspectError(f"{name} must be {least} or more, got {value}")


def _check_replaced(study: Study, there: Filters, replaced: bool) -> None:
    """Refuse to put filters in the place of those of other images, unless that is wanted."""
    if not replaced:
        raise SubspectError(
            f"{study.path} keeps filters of {there.decomposition} of another sample ({there.note}); to use them give the same "
            "sample, classes, image set and seed (--sample, --class, --on, --seed), to put new ones in their place "
            "replace=True (--replace)"
        )


def _scored(study: Study, decomposition: Decomposition, tracer: Tracer, show: bool) -> Filters:
    """Return the effects of all filters to first order."""
    sample = tracer.sample
    with progress("filters", 2 * len(sample.ids), "images", show=show) as advance:
        levels, at = _levels(tracer, advance)
        labels = np.unique(sample.labels[at])
        of_class = {label: _contributing(decomposition, label) for label in labels.tolist()}
        features = sorted({feature for own in of_class.values() for feature in own})
        margin, by_feature = _effects(tracer, levels, of_class, features, at, advance)
    gates, means = tracer.look(), levels.means()
    layers = [layer for layer in gates.layers if layer.name in means]
    names = [layer.name for layer in layers]
    sums = (margin.means("absolute", names), margin.means("signed", names), by_feature.means("absolute", names))
    kept = tuple(
        LayerFilters(
            layer.name,
            layer.places,
            layer.activated,
            effect[labels],
            signed[labels],
            of_features,
            means[layer.name],
            levels.peaks[layer.name].values,
            levels.peaks[layer.name].at,
        )
        for layer, effect, signed, of_features in zip(layers, *sums, strict=True)
    )
    nothing = np.zeros(len(labels), np.int64)
    return Filters(
        decomposition.name,
        decomposition.class_names,
        tuple(labels.tolist()),
        tuple(features),
        of_class,
        kept,
        SHARE,
        margin.n[labels],
        nothing,
        nothing.copy(),
        tuple(sample.ids),
        tuple(sample.labels.tolist()),
        sample.name,
        _note(sample, len(at), len(labels)),
        sample.fingerprint,
        made_by(decomposition),
        {"ablate": 0, "ablate_sample": 0, "repeats": 0, "seed": sample.seed},
        study.feature_names,
    )


def _levels(tracer: Tracer, advance: Callable[[int], None]) -> tuple[Levels, Indices]:
    """Go through the images once; return how active channels are, and which images could be read."""
    sample, found, at, x = tracer.sample, Levels(), [], []
    for block in tracer.levels(advance):
        found.update(block.levels, block.at)
        at.append(block.at)
        x.append(block.features)
    read = np.concatenate(at)
    same = np.isclose(np.concatenate(x), sample.features[read], _CLOSE, _CLOSE).all(axis=1)
    ids = [sample.ids[place] for place in read[~same].tolist()]
    for text, do in not_as_observed(sample.images, sample.name, ids, len(read)):
        log.warning("filters: %s; %s", text, do)
    return found, read


def _effects(
    tracer: Tracer,
    levels: Levels,
    of_class: dict[int, tuple[int, ...]],
    features: Sequence[int],
    at: Indices,
    advance: Callable[[int], None],
) -> tuple[Grouped, Grouped]:
    """Go through the images with gradients; return the effects on margins by class, and on features."""
    sample, n_classes = tracer.sample, tracer.margins.weight.shape[0]
    supports = np.full((n_classes, max(1, *map(len, of_class.values()))), -1, np.int64)
    for label, own in of_class.items():
        supports[label, : len(own)] = own
    margin, by_feature = Grouped(np.zeros(n_classes, np.int64)), Grouped(np.zeros(len(features), np.int64))
    place = np.full(int(supports.max()) + 2, -1, np.int64)  # the last stands for no feature
    place[list(features)] = np.arange(len(features))
    read = []
    for block in tracer.effects(levels.means(), supports, advance):
        labels = sample.labels[block.at]
        margin.update(block.margin, labels)
        for rank, effects in enumerate(block.features):
            by_feature.update(effects, place[supports[labels, rank]])
        read.append(block.at)
    sample.check_same(at, np.concatenate(read) if read else at[:0])
    return margin, by_feature


def _contributing(decomposition: Decomposition, label: int) -> tuple[int, ...]:
    """Return the features of a class that contribute most."""
    rows = sorted(decomposition.rows(label), key=lambda row: -abs(row.contribution))
    return tuple(row.feature for row in rows[:FEATURES])


def _note(sample: Sampled, read: int, classes: int) -> str:
    note = f"{read:,} of {sample.total:,} images of {sample.called}" + f", seed {sample.seed}" * bool(sample.seed)
    if classes < sample.classes:
        note += f" ({classes:,} of the {sample.classes:,} classes that have images)"
    if read < len(sample.ids):
        note += f"; {len(sample.ids) - read:,} more couldn't be opened again"
    if not sample.labelled:
        note += "; no labels: the dense network's own predictions stand in"
    return note
