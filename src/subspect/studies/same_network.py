"""The network of a study again: the same weights, the head that the study recorded, and images as it received them.

Every question that needs the network besides the stored features comes here: of a network with two heads, the one that was
observed is used, even if a batch would lead to the other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from subspect.ground.errors import SubspectError, Unusable, some
from subspect.ground.text import counted
from subspect.images.inputs import Pixels, concatenated, mirrored
from subspect.images.opening import ImageSource, open_images
from subspect.images.preprocessing import GIVEN_AS_TENSORS, from_description
from subspect.networks.finding import Head
from subspect.networks.network import Network, check_network
from subspect.studies.first_images import sample
from subspect.studies.reopen import Reopened
from subspect.studies.study import Study

log = logging.getLogger("subspect")

_LOOKED_FOR = 64  # images of the study that are tried
_NEARLY_ALL = 0.9  # of the images: then it isn't one or another of them that is at fault
_GIVE = "give the images that were: --images FOLDER"
_CAUSES = (
    "usual causes are another precision, device or version of a library, and a network or a transform that is not "
    "deterministic: run it as it was run then, or observe again, into another study"
)
_PICTURES = "give some: in Python images=x, with x as it was observed; on the command line --images FOLDER"
_TENSORS = "give some as they were observed, from Python: images=x; the command line reads only pictures"


def refuse_features_alone(study: Study, what: str = "there is no network to run") -> None:
    """Refuse what needs a network, or images, of a study that has neither.

    Raises:
        SubspectError: the study was made from features alone.
    """
    if study.identity.features_alone:
        raise SubspectError(
            f"the study {study.path} was made from features alone, without a network and without images: "
            f"{what}; what needs only the features works: decompose, evaluate, compare, diff, edit, "
            f"selectivity, essentiality, geometry, show, and "
            "report without images"
        )


def same_network(study: Study, network: Network) -> Network:
    """Check that a network is the study's, and return it with the study's head, preprocessing and class names.

    Images are prepared as they were when they were observed, whatever the network declares; the preprocessing is None if they
    were given ready.

    Raises:
        SubspectError: the weights differ, the preprocessing was a transform of the user's and isn't the one given, or the study
            was made from features alone.
    """
    refuse_features_alone(study)
    check_network(network)
    given, identity = network.fingerprint(), study.identity
    if given != identity.fingerprint:
        raise SubspectError(
            f"this is a different network: {study.path} is of {identity.network!r} with weights "
            f"{identity.fingerprint[:12]}…, this one has {given[:12]}…; pass the network that was observed, with its weights"
        )
    stored, declared = dict(identity.preprocessing), network.preprocessing
    if stored == GIVEN_AS_TENSORS:
        return network.known_as(identity.head_name, None, identity.class_names)
    if declared is not None and dict(declared.describe()) == stored:
        return network.known_as(identity.head_name, declared, identity.class_names)
    again = from_description(stored)
    if declared is not None:
        log.info("preprocessing: %s, as in the study; the network declares another: %s", again, declared)
    return network.known_as(identity.head_name, again, identity.class_names)


def head_of(network: Network, pixels: Pixels) -> Head:
    """Return the head of the study's network, found with a batch (n, …) if it isn't known yet; one image is enough."""
    if not network.head_known:
        network.find_head(pixels if len(pixels) > 1 else concatenated([pixels, mirrored(pixels)]))
    return network.head


def real_images(study: Study, network: Network, count: int, images: ImageSource | None = None) -> Pixels:
    """Return real images as the study's network takes them, (count, …); if there are fewer, mirror images follow.

    Args:
        study: whose images are opened again.
        network: of the study (see `same_network`).
        count: how many are wanted.
        images: where to take images from instead (see `subspect.open_images`).

    Raises:
        SubspectError: the images are no longer there, or were in memory, or those given are of another kind.
    """
    if images is None:
        return sample(network, _observed_images(study), count)
    source = open_images(images, outside=True)
    if network.preprocessing is None and not source.ready:
        raise SubspectError(
            f"the study's images were given as tensors, ready for the network; these are pictures "
            f"({source.kind}), and how to turn them into such tensors isn't known; {_TENSORS}"
        )
    return sample(network, source, count)


def _observed_images(study: Study) -> Reopened:
    """Return some of the images that were observed.

    Raises:
        SubspectError: they aren't there any more.
    """
    sets = [study.image_set(name) for name in study.set_names if study.image_set(name).manifest.root is not None]
    if not sets:
        ready = dict(study.identity.preprocessing) == GIVEN_AS_TENSORS
        raise SubspectError(
            "the observed images were in memory and are no longer available; to check with real images, "
            + (_TENSORS if ready else _PICTURES)
        )
    again = Reopened(sets[0], next(sets[0].chunks()).ids[:_LOOKED_FOR])
    reasons = []
    for id in (again.id(place) for place in range(len(again))):
        try:
            again.given(id)
            return again
        except Unusable as error:
            reasons.append(f"{id}: {error}")
    raise SubspectError(
        f"the observed images are no longer at {again.place} ({some(reasons, 1)}); to check with real images, "
        f"say where they are now: images='FOLDER' in Python, --images FOLDER on the command line"
    )


def not_as_observed(again: Reopened, name: str, other: Iterable[str], tried: int) -> list[tuple[str, str]]:
    """Say whether images are other ones or the network gives other features than when an image set was observed.

    What tells is whether files have the same bytes; where that isn't known, whether nearly all images are concerned.

    Args:
        again: the images, as they were opened again.
        name: of the image set.
        other: ids of those whose features are not the stored ones.
        tried: how many images were looked at.

    Returns:
        What is so, and what to do, for each of the two; nothing where all is as it was.
    """
    other = sorted(set(other))
    same = [id for id in other if id in again.same]
    unknown = [id for id in other if id not in again.same and id not in again.changed]
    told, many = [], len(other) >= _NEARLY_ALL * tried and tried > 1
    if not many or again.changed:  # some are others, so these may be as well
        images, unknown = sorted({*unknown, *again.changed}), []
        those = counted(len(images), "image is not the one that was", "images are not those that were")
        told += [(f"{those} observed as {name!r}: {some(images, 3)}", _GIVE)] * bool(images)
    then = f"than when {name!r} was observed"
    if same:
        text = f"the network gives {len(same)} of {tried} images other features {then}, though their files are the same"
        told.append((f"{text}: {some(same, 3)}", _CAUSES))
    if unknown:
        text = (
            f"{len(unknown)} of {tried} images {'has' if len(unknown) == 1 else 'have'} other features {then}: either these "
            "are other images, or the network "
        )
        told.append((f"{text}gives other features now: {some(unknown, 3)}", f"{_GIVE}; else {_CAUSES}"))
    return told
