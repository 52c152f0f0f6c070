"""The network of a study again: is it the one that was observed, and how does it prepare images?"""

from __future__ import annotations

from subspect.ground.errors import SubspectError
from subspect.images.preprocessing import GIVEN_AS_TENSORS, AnyPreprocessing, from_description
from subspect.networks.network import Network
from subspect.studies.study import Study


def observed(study: Study, network: Network) -> AnyPreprocessing | None:
    """Check that a network is the one of a study, and return how it prepares images; None where they were given ready.

    Raises:
        SubspectError: other weights, another preprocessing, or one that can't be rebuilt from the study.
    """
    if not isinstance(network, Network):
        raise SubspectError(
            f"a network must be a subspect.Network, got {type(network).__name__}; subspect.Network(model) makes one"
        )
    given = network.fingerprint()
    if given != study.identity.weights:
        raise SubspectError(
            f"this is another network: {study.path} is of {study.identity.network!r} with weights "
            f"{study.identity.weights[:12]}…, the one given has {given[:12]}…; pass the one that was observed, with its weights"
        )
    stored, declared = dict(study.identity.preprocessing), network.preprocessing
    if stored == GIVEN_AS_TENSORS:
        return None
    if declared is not None and dict(declared.describe()) != stored:
        raise SubspectError(f"the preprocessing given ({declared}) is not that of the study: {stored}")
    return declared or from_description(stored)
