"""What makes one doubt what is observed: a network that isn't deterministic, an accuracy too low, classes without images.

All but the last are asked of the images that are tried first, before hours are spent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from subspect.ground.errors import SubspectError, shortened, some
from subspect.images.preprocessing import GIVEN_AS_TENSORS
from subspect.networks.network import Network
from subspect.studies.image_set import ImageSet
from subspect.studies.manifests import SetManifest

log = logging.getLogger("subspect")

_ALIKE = 0.9  # the share of predictions from which one class has nearly all
_NOISE, _ULPS = (
    1e-3,
    8,
)  # of the features' size; and units in the last place: kernels of a GPU may add up in another order
_OTHERS = 0.25  # of the features' mean deviation; quantisation whose scale is the batch's moves them by some hundredths
_LOWER, _AT_LEAST = 0.2, 0.1  # of accuracy, below another image set's: as measured, and beyond chance
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
_SHARDS = 64  # of another image set that are asked for its accuracy
_FEW = 500  # weights, of which the largest need not lie near the end of the range that they are drawn from
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def check_repeatable(network: Network, features: npt.NDArray[np.float32], again: npt.NDArray[np.float32]) -> None:
    """Refuse a network that gives the same images (n, d) other features when it is run again.

    Raises:
        SubspectError: it does.
    """
    if not features.size:
        return
    kind = next((one.dtype for one in network.model.parameters() if one.is_floating_point()), torch.float32)
    spread = float(features.std()) or float(np.abs(features).max())
    apart = np.abs(again - features)
    other = (apart > max(_NOISE, _ULPS * torch.finfo(kind).eps) * (spread + np.abs(features))).any(axis=1)
    if other.any():
        raise SubspectError(
            f"the network is not deterministic: run twice on the same {len(features)} images, it gave {int(other.sum())} of "
            f"them other features, which differ by up to {apart.max() / (spread or 1):.2g} times their standard deviation; "
            "evaluation mode (model.eval()) is set already, so usual causes are dropout in forward (F.dropout is on unless "
            "it is given training=self.training), random augmentation inside the network, and statistics of batches that "
            "forward changes; wrap the network so that its forward gives the same for the same images"
        )


def check_alone(features: npt.NDArray[np.float32], again: npt.NDArray[np.float32]) -> None:
    """Refuse a network whose features of an image depend on the other images of its batch.

    Args:
        features: (n, d), of the images that are tried.
        again: (m, d), of the first m, each among others than before.

    Raises:
        SubspectError: they differ by a quarter of the mean deviation of a feature, on average.
    """
    spread = float(np.abs(features - features.mean(axis=0)).mean()) if len(features) else 0.0
    apart = float(np.abs(again - features[: len(again)]).mean()) if len(again) else 0.0
    if apart > _OTHERS * spread > 0:
        raise SubspectError(
            "the network's features of an image depend on the other images of its batch: among others they differ by "
            f"{apart / spread:.2g} times the mean deviation of a feature; evaluation mode (model.eval()) is set already, so "
            "usual causes are batch normalisation that forward keeps in training mode (F.batch_norm(training=True), "
            "self.train() in forward, track_running_stats=False) and normalising over the batch; wrap the network so that "
            "each image's features are its own"
        )


def warn_lower(name: str, right: int, images: int, others: Sequence[ImageSet]) -> bool:
    """Warn if images are much more often misclassified than those of another image set; say whether.

    The upper end of Wilson's 95 % interval must lie below what is asked for: his interval holds what a score test lets pass.
    """
    known = {one.name: _accuracy(one) for one in others if one.labelled}
    if not known or not images:
        return False
    best = max(known, key=lambda one: known[one])
    share, least = right / images, known[best] - _AT_LEAST
    if known[best] - share < _LOWER or least - share <= _Z * sqrt(least * (1 - least) / images):
        return False
    log.warning(
        "only %d of %d images of %r tried first are classified correctly (%.0f %%), but %.0f %% of %r: these images look "
        "differently prepared (scale, mean, std, order of the channels), have labels in another order, are of another kind, or "
        "the network knows those of %r by heart; unless that is so, prepare them as those were, and observe them under another "
        "name",
        right,
        images,
        name,
        100 * share,
        100 * known[best],
        best,
        best,
    )
    return True


def _accuracy(image_set: ImageSet) -> float:
    """Return the share of images that are classified correctly, of up to so many shards spread over an image set."""
    shards = image_set.manifest.n_shards
    asked = np.linspace(0, shards - 1, min(_SHARDS, shards)).round().astype(int)
    chunks = [image_set.shard(index)[0] for index in asked.tolist()]
    images = sum(len(chunk.ids) for chunk in chunks)
    return sum(int((chunk.labels == chunk.predictions).sum()) for chunk in chunks) / max(images, 1)


def warn_lacking(
    image_set: ImageSet, others: Sequence[ImageSet], names: Sequence[str], examples: str = "images"
) -> None:
    """Warn where an image set has no images of classes that another one has: that of which it lacks most."""
    if not image_set.labelled or len(own := classes_of(image_set)) == len(names):
        return
    theirs = {one.name: classes_of(one) for one in others if one.labelled}
    absent = {name: np.setdiff1d(classes, own) for name, classes in theirs.items()}
    most = max(absent, key=lambda name: len(absent[name]), default=None)
    if most is not None and len(absent[most]):
        said = lacking(absent[most], len(theirs[most]), most, names, examples)
        log.warning("%r has %s; accuracies are over the others", image_set.name, said)


def classes_of(image_set: ImageSet) -> npt.NDArray[np.int64]:
    """Return the classes that an image set with labels has images of, in order."""
    return np.unique(np.concatenate([np.unique(chunk.labels) for chunk in image_set.chunks()]))


def lacking(absent: npt.NDArray[np.int64], of: int, other: str, names: Sequence[str], examples: str = "images") -> str:
    """Say of which classes that another image set has there are no images."""
    listed = some((shortened(names[label], 40) for label in absent.tolist()), 3)
    return f"no {examples} of {len(absent):,} of the {of:,} classes that {other!r} has: {listed}"


def warn_near_chance(
    right: int,
    predicted: npt.NDArray[np.int64],
    network: Network,
    manifest: SetManifest,
    names: Sequence[str],
    which: str,
) -> bool:
    """Warn if the accuracy could come from guessing; say whether. ``predicted`` is how many predictions each class gets."""
    images, most = int(predicted.sum()), int(predicted.argmax())
    near = near_chance(right, images, network.head.n_classes)
    if near:
        log.warning(
            "accuracy near chance: only %d of %s images %s are classified correctly, with %d classes%s. Usual causes: %s",
            right,
            f"{images:,}",
            which,
            network.head.n_classes,
            f"; {predicted[most]:,} are taken for {names[most]!r}" if predicted[most] >= _ALIKE * images else "",
            "; ".join(_causes(network, manifest)),
        )
    return near


def _causes(network: Network, manifest: SetManifest) -> list[str]:
    """List what an accuracy near chance usually comes of, the likeliest first."""
    causes = [
        "the labels count the classes in a different order than the network does"
        if manifest.root is None
        else "the class folders are in a different order than the network's classes (see --class-map)",
        "the inputs, which were given ready for the network, are not prepared as they were in training (scale, mean, std)"
        if dict(manifest.preprocessing) == GIVEN_AS_TENSORS
        else "the preprocessing (size, mean, std, RGB or BGR) isn't the one used in training",
    ]
    if not network.weights_given:
        return ["no weights were given (--weights), so they may be random", *causes]
    if _fresh(network):
        return ["the weights look as they are before any training: load those that were trained", *causes]
    return [*causes, "the weights are random, or of another training"]


def _fresh(network: Network) -> bool:
    """Tell whether weights look untouched: shifts of all norms are zero; without norms, the head is within PyTorch's range.

    Of so many weights drawn evenly from ±1/√d the largest lies within 1 % of that end; trained ones hardly ever.
    """
    shifts = [one.bias for one in network.model.modules() if isinstance(one, _NORMS) and one.bias is not None]
    if shifts:
        return not any(bool(shift.any()) for shift in shifts)
    weight = network.head.weight
    return weight.numel() >= _FEW and 0.99 <= float(weight.abs().max()) * sqrt(weight.shape[1]) <= 1


def near_chance(right: int, images: int, n_classes: int) -> bool:
    """Tell whether an accuracy could come from guessing: within three standard deviations of 1 in C, or lower."""
    chance = 1 / n_classes
    limit = chance + 3 * sqrt(chance * (1 - chance) / max(images, 1))
    return bool(images) and right / images <= limit < 1  # of very few images all may be right by chance
